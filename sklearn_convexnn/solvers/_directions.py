"""The best network made of given directions inside the cells of a program."""

from time import perf_counter

import numpy as np

from sklearn_convexnn._utils.breakdown import check_finite
from sklearn_convexnn.solvers._cone_projections import ConeProjections
from sklearn_convexnn.solvers._contest import Contest
from sklearn_convexnn.solvers.lasso import solve_lasso

# Directions that are taken in at once.
_MOST = 400
# Cells whose steepest slope is this close to the weight decay may be needed.
_CLOSE = 1e-3


class Directions(Contest):
    """Points inside the cones, and both bounds of the program that come from them.

    The points of all cells compete for magnitudes: that is a lasso of a few
    hundred columns, whatever the number of samples.  Points of a cell that
    share its output are added up, which costs no more and never leaves the
    cone.  The dual variable of the lasso is priced by projections on the
    cones, which give a dual point, and the next points.

    Parameters
    ----------
    program : Program
        Of single units and without open sides.
    tol, deadline, callback
        As of `Contest`.

    Attributes
    ----------
    theta : ndarray of shape (n_blocks, p)
        The best blocks so far, inside their cones.
    """

    def __init__(self, program, tol, deadline, callback):
        op = program.operator
        if op.has_open_sides or not op.single_units:
            missing = "cells without open sides"
            if not op.single_units:
                missing = "blocks of single units"
            raise ValueError(
                f"this solver needs {missing}; use solver='interior_point'."
            )
        super().__init__(program, tol, deadline, callback)
        self.cones = ConeProjections(program)
        signs = np.concatenate([op.outputs, -op.outputs]) if op.paired else op.outputs
        self.signs = np.append(signs, np.ones(op.n_blocks - op.n_cones))
        self.points, self.blocks = np.zeros((0, op.p)), np.zeros(0, dtype=int)

    def add(self, blocks, points):
        """Take in `points` of the cones `blocks`."""
        check_finite(points)
        norms = self.program.norms(points)
        keep = norms > 1e-12 * norms.max(initial=0.0)
        blocks, points = blocks[keep], points[keep] / norms[keep, None]
        if len(blocks) > _MOST:
            slopes = self.nu @ self._outputs(blocks, points)
            best = np.argsort(-slopes, kind="stable")[:_MOST]
            blocks, points = blocks[best], points[best]
        self.blocks = np.append(self.blocks, blocks)
        self.points = np.concatenate([self.points, points])

    def add_starts(self):
        """Take in the known points inside the cones, and the linear block."""
        op = self.operator
        points = self.program.starts.astype(np.float64)
        points[op.n_cones :] = op.adjoint(self.nu)[op.n_cones :]
        self.add(np.arange(op.n_blocks), points)

    def add_nearest(self, theta):
        """Take in the points of the cones next to the blocks `theta`."""
        norms = self.program.norms(theta)
        blocks = np.flatnonzero(norms > 1e-6 * norms.max(initial=0.0))
        points = theta[blocks].astype(np.float64)
        for k, b in enumerate(blocks):
            if perf_counter() > self.deadline:
                blocks, points = blocks[:k], points[:k]
                break
            if b < self.operator.n_cones:
                inside = self.cones.nearest(b, points[k])
                points[k] = 0.0 if inside is None else inside
        self.add(blocks, points)

    def _outputs(self, blocks, points):
        """Signed outputs of points, shape (n_samples, n_points)."""
        op = self.operator
        Z = op.M @ points.T
        cone = blocks < op.n_cones
        Z[:, cone] *= op.masks[blocks[cone] % max(op.n_patterns, 1)].T
        return Z * self.signs[blocks]

    def begin(self):
        """The best network of the known points, and its price."""
        self.add_starts()
        self.round()

    def enter(self, theta, rho=None):
        """The best network after the points next to the blocks `theta` have come in."""
        self.add_nearest(theta)
        self.round()

    def round(self):
        """Find the best network and price it."""
        self.combine()
        self.price(self.nu)

    def combine(self):
        """Find the best network of the points; they become its blocks."""
        program, op = self.program, self.operator
        found = solve_lasso(
            self._outputs(self.blocks, self.points),
            program.y,
            program.sample_weight,
            program.loss,
            program.alpha,
            free_offset=program.fit_intercept,
            non_negative=True,
            tol=0.1 * self.tol,
        )
        theta = np.zeros_like(self.theta)
        np.add.at(theta, self.blocks, found.values[:, None] * self.points)
        objective = program.objective(theta, found.offset)
        if objective <= self.objective:
            self.objective, self.theta, self.offset = objective, theta, found.offset
        self.nu = found.nu
        # The sums, and the largest parts of those that have several: without these
        # the dual variable of a loss that is not smooth would go back and forth.
        used = np.argsort(-found.values, kind="stable")[: np.sum(found.values > 0)]
        several = np.bincount(self.blocks[used], minlength=op.n_blocks) > 1
        parts = used[several[self.blocks[used]]][:_MOST]
        blocks, points = self.blocks[parts], self.points[parts]
        sums = np.flatnonzero(program.norms(theta) > 0)
        self.blocks, self.points = sums[:0], theta[:0]
        self.add(sums, theta[sums])
        self.add(blocks, points)

    def price(self, nu):
        """Bound the program by the dual variable `nu`, and take in new points.

        Cells that cannot be steep enough to matter, by the multipliers that
        they had the last time, are left out.
        """
        program, op = self.program, self.operator
        nu = program.loss.project_dual(
            nu, program.y, program.sample_weight, centred=program.fit_intercept
        )
        slopes = op.adjoint(nu)
        points = slopes.copy()
        check_finite(points)
        outer = program.norms(program.dual_slopes(nu, self.rho))
        wanted = outer > (1.0 - _CLOSE) * program.alpha
        wanted[self.blocks] = True
        points[~wanted] = 0.0
        for b in np.flatnonzero(wanted[: op.n_cones]):
            points[b] = 0.0
            if perf_counter() > self.deadline:
                continue
            found = self.cones.steepest(b, slopes[b])
            if found is not None:
                points[b], rows, multipliers = found
                self.rho[b] = 0.0
                self.rho[b, rows] = multipliers
        self.bound_by(nu, self.rho.copy())
        steep = program.norms(points) >= (1.0 - _CLOSE) * program.alpha
        self.add(np.flatnonzero(steep), points[steep])
