"""Pricing within given activation patterns, for several outputs.

In the cell of a pattern the outputs of a unit are linear in its weights; the
steepest unit maximises a convex function over a cone, which is NP-hard in general.
"""

import numpy as np

from sklearn_convexnn._utils.breakdown import least_squares
from sklearn_convexnn._utils.deadlines import check
from sklearn_convexnn.families.two_layer.neurons import activation
from sklearn_convexnn.families.two_layer.pricing import (
    Candidates,
    merge_candidates,
)
from sklearn_convexnn.patterns.arrangements import with_ones

# Distances from the hyperplanes, per length of the row and of the unit: rows
# nearer than this are on it, and units further on the wrong side are moved back.
_ON, _ASTRAY = 1e-9, 1e-10
# Weight by which least squares takes the slope of the offset to zero.  Its square
# is the error that is made, and its rounding the error of the hyperplanes.
_WEIGHT = 1e4
# Slopes below this part of the steepest one in any direction are none.
_FLAT = 1e-6
# A climb ends when the slope rises by no more than this, relatively, or after so many
# steps.
_RISE, _STEPS = 1e-10, 50
# Cells whose bound is below this part of the slope wanted are left out.
_WORTH = 0.98
_NO_ROWS = np.zeros(0, dtype=int)


def search_cells(
    X,
    N,
    arrangement,
    *,
    starts=None,
    free_bias,
    negative_slope=0.0,
    floor=0.0,
    n_starts=2,
):
    r"""Local maximisers of the slope within the cells of an arrangement.

    ``max ||N^T E_i (X w + b)||_2`` over unit vectors ``w`` for each pattern
    ``D_i``, where ``S_i (X w + b) >= 0`` with ``S_i = 2 D_i - 1``, and ``E_i``
    has ones on the pattern and `negative_slope` off it.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    N : ndarray of shape (n_samples, n_outputs)
        Its columns sum to zero if `free_bias`.
    arrangement : Arrangement
        Of ``[X 1]`` if `free_bias`.
    starts : ndarray of shape (n_units, n_columns), default=None
        Units to begin with in the cells that they lie in, of any length but
        zero; the bias is the last column if `free_bias`.
    free_bias : bool
        Whether the maximum is over ``b`` as well; otherwise ``b = 0``.
    negative_slope : float, default=0.0
    floor : float, default=0.0
        The slope wanted.  Cells that cannot come near it are left out.
    n_starts : int, default=2
        Climbs in each cell, apart from `starts`.

    Returns
    -------
    candidates : Candidates
        In their cells up to rounding, steepest first.  Distinct ones, at most
        400.

    Notes
    -----
    A step fixes the outputs ``g``.  The best unit for them is the projection of
    ``X^T E_i N g`` on the cone, by non-negative least squares, and the slope never
    falls [1]_.  A step on the face that was found follows, towards its first
    singular vector: the slope rises all the way, in place of many steps.

    References
    ----------
    .. [1] Sahiner, A., Ergen, T., Pauly, J. and Pilanci, M. (2021).
       "Vector-output ReLU Neural Network Problems are Copositive Programs:
       Convex Analysis of Two Layer Networks and Polynomial-time Algorithms".
       ICLR.
    """
    cells = _Cells(X, N, arrangement, free_bias, negative_slope)
    inside = [[]] * len(cells.gates)
    if starts is not None:
        inside = cells.units_inside(starts)
    points = [np.zeros((0, cells.rows.shape[1]))]
    for i in np.flatnonzero(cells.norm_bounds() > _WORTH * floor):
        check()
        found = cells.climb(i, inside[i], n_starts)
        points.append(found.reshape(-1, cells.rows.shape[1]))
    directions, biases = cells.units(np.concatenate(points))
    f = activation(directions @ X.T + biases[:, None], negative_slope) @ N
    slopes = np.linalg.norm(f, axis=1)
    outputs = f / np.where(slopes > 0, slopes, 1.0)[:, None]
    found = Candidates(directions, biases, outputs, slopes).select(slopes > 0)
    return merge_candidates([found], X)


def cell_slope_bound(X, N, arrangement, *, free_bias, negative_slope=0.0):
    r"""Proven upper bound of the slopes within the cells of an arrangement.

    Parameters
    ----------
    X, N, arrangement, free_bias, negative_slope
        As of `search_cells`.

    Returns
    -------
    bound : float
        Tight for one output.

    Notes
    -----
    In a cell the slope is at most the norm of ``X^T E_i N``, and at most
    ``sqrt(sum_k kappa_k^2)`` where ``kappa_k`` is the largest slope of the
    single output ``N q_k``, for any orthonormal basis ``q``: here that of the
    singular vectors.  Dual points of these problems, added up with the outputs
    as weights, bound the slope as well, which is never worse.
    """
    cells = _Cells(X, N, arrangement, free_bias, negative_slope)
    bounds, best = cells.norm_bounds(), 0.0
    for i in np.argsort(-bounds, kind="stable"):
        # No cell that is left is above what the best one has.
        if bounds[i] <= best:
            break
        tight = bounds[i]
        if not cells.linear[i]:
            tight = min(tight, _Cell(cells, i).bound())
        best = max(best, tight)
    return float(best)


class _Cells:
    """Cones of the patterns, and the slopes there, which are linear.

    Points are weights, followed by the bias in units of `reach` if it is free;
    the data are centred then.  The length of a point is that of its weights.
    """

    def __init__(self, X, N, arrangement, free_bias, negative_slope):
        self.free_bias, d = free_bias, X.shape[1]
        self.d, self.centre = d, X.mean(axis=0) if free_bias else np.zeros(d)
        self.reach = np.linalg.norm(X - self.centre, axis=1).max(initial=0.0) or 1.0
        self.rows = with_ones((X - self.centre) / self.reach, free_bias)
        sizes = np.linalg.norm(self.rows, axis=1)
        self.normals = self.rows / np.where(sizes > 0, sizes, 1.0)[:, None]
        self.patterns = arrangement.patterns
        check(2.0 * self.patterns.size * N.shape[1] * self.rows.shape[1])
        self.signs = np.where(self.patterns, 1.0, -1.0)
        masks = np.where(self.patterns, 1.0, negative_slope)
        # Shape (n_patterns, n_outputs, n_columns).
        self.slopes = self.reach * np.stack(
            [(masks * nu) @ self.rows for nu in N.T], axis=1
        )
        self.gates = self.points(arrangement.gates)
        # All on or all off: the bias is of no effect there.
        count = self.patterns.sum(axis=1)
        self.linear = free_bias & ((count == 0) | (count == len(X)))
        self.slopes[self.linear, :, d:] = 0.0

    def points(self, units):
        """Points of length one, of weights and biases."""
        points = units[:, : self.d]
        if self.free_bias:
            shift = (units[:, self.d] + points @ self.centre) / self.reach
            points = np.column_stack([points, shift])
        size = np.linalg.norm(points[:, : self.d], axis=1)
        return points / np.where(size > 0, size, 1.0)[:, None]

    def units(self, points):
        """Directions and biases."""
        directions, biases = points[:, : self.d], np.zeros(len(points))
        if self.free_bias:
            biases = points[:, self.d] * self.reach - directions @ self.centre
        return directions, biases

    def norm_bounds(self):
        """Bound of each cell that takes a matrix norm."""
        d, slopes = self.d, self.slopes[:, :, : self.d]
        sides = [slopes]
        if self.free_bias:
            # At fixed outputs the offset has to run out of slope: samples of the
            # side that holds it take it, here all of that side alike.
            offset, sides = self.slopes[:, :, d:], []
            for members in (self.patterns, ~self.patterns):
                count = np.maximum(members.sum(axis=1, keepdims=True), 1)
                mean = members @ self.rows[:, :d] / count
                sides.append(slopes - offset * mean[:, None])
        norms = [np.linalg.norm(side, ord=2, axis=(1, 2)) for side in sides]
        return np.max(norms, axis=0)

    def units_inside(self, units):
        """Of each cell, the points of the units that lie in it."""
        check(4.0 * len(units) * self.patterns.size)
        points = self.points(units)
        margins = points @ self.normals.T
        astray = (margins > _ON) @ (1 - self.patterns.T.astype(int))
        astray += (margins < -_ON) @ self.patterns.T.astype(int)
        return [points[inside] for inside in astray.T == 0]

    def climb(self, i, inside, n_starts):
        """Points of cell `i` after the ascent."""
        slopes = self.slopes[i]
        left, singular, right = np.linalg.svd(slopes, full_matrices=False)
        if singular[0] <= 0:
            return np.zeros(0)
        if self.linear[i]:
            # No sample is further from the centre than one.
            bias = 2.0 if self.patterns[i, 0] else -2.0
            return np.append(right[0, : self.d], bias)[None]
        first = slopes @ self.gates[i]
        left = left * np.where(first @ left < 0, -1.0, 1.0)
        wanted = [first, *np.stack([left.T, -left.T], axis=1).reshape(-1, len(left))]
        known = []
        for g in wanted:
            size = np.linalg.norm(g)
            if size > 0 and not any(g @ k > (1 - 1e-9) * size for k in known):
                known.append(g / size)
        known = known[:n_starts] + [slopes @ point for point in inside]
        cell = _Cell(self, i)
        found = [cell.climb(g) for g in known]
        return np.array([point for point in found if point is not None])


class _Cell:
    """The search in one cone."""

    def __init__(self, cells, i):
        self.d, self.free_bias = cells.d, cells.free_bias
        self.rows, self.slopes = cells.rows, cells.slopes[i]
        self.active, self.gate = cells.patterns[i], cells.gates[i]
        self.normals = cells.normals * cells.signs[i][:, None]
        self.gate_margins = self.normals @ self.gate

    def climb(self, g):
        """Point of length one that the outputs `g` lead to, if any."""
        point, value, work = None, 0.0, _NO_ROWS
        for _ in range(_STEPS):
            check()
            trial, work, _ = self.project(g @ self.slopes, work)
            if trial is None:
                break
            trial = self.settle(trial)
            trials = [trial, self.settle(self.slide(trial, work))]
            trial = max(trials, key=self.slope)
            previous, found = value, self.slope(trial)
            if found > value:
                point, value, g = trial, found, self.slopes @ trial
            if found <= (1 + _RISE) * previous:
                break
        return point

    def slope(self, point):
        return np.linalg.norm(self.slopes @ point)

    def project(self, gradient, work):
        """The best point for a gradient, the rows that hold it, and its multiple.

        Only the rows `work`, and those that turn out to be in the way, take part.
        The gradient with the multiples of these rows added has, over the points
        of the cone, nowhere less slope; its weighted length is a bound.  There is
        no point if that falls to nothing.
        """
        unit = np.linalg.norm(gradient)
        if unit == 0:
            return None, work, gradient
        weight = np.ones(len(gradient))
        weight[self.d :] = _WEIGHT
        gradient = gradient / unit
        length = np.inf
        while True:
            check()
            rows = self.normals[work] * weight
            rho = np.zeros(0)
            if len(work):
                rho, _ = least_squares(
                    rows.T, -gradient * weight, maxiter=100 + 10 * len(work)
                )
            slope = gradient * weight + rho @ rows
            holding = work[rho > 0]
            previous, length = length, np.linalg.norm(slope)
            if length <= _FLAT:
                return None, holding, unit * slope
            point = slope * weight
            if self.free_bias and len(holding):
                # As least squares has it, without the error from the weight.
                point = self.lift(self.along(gradient, holding), holding)
            margins = self.normals @ point
            # What is left there is rounding.
            margins[work] = 0.0
            against = np.flatnonzero(margins < -0.1 * _ASTRAY * np.abs(point).max())
            if len(against) == 0:
                return point, holding, unit * slope
            worst = np.argsort(margins[against], kind="stable")[: len(gradient)]
            # Rows may leave as long as that cannot go on for ever.
            kept = holding if length < (1 - _RISE) * previous else work
            work = np.concatenate([kept, against[worst]])

    def along(self, slopes, face):
        """Slopes of the weights on a face, where the bias follows them."""
        rows, weights = self.rows[face, : self.d], slopes[..., : self.d]
        if self.free_bias:
            weights = weights - slopes[..., self.d :] * rows[0]
            rows = rows[1:] - rows[0]
        basis = np.linalg.qr(rows.T)[0]
        return weights - weights @ basis @ basis.T

    def lift(self, weights, face):
        """The point of a face that has these weights."""
        if not self.free_bias:
            return weights
        return np.append(weights, -self.rows[face[0], : self.d] @ weights)

    def bound(self):
        """Bound of the slope from those of single outputs."""
        basis = np.linalg.svd(self.slopes, full_matrices=False)[0]
        gradients = np.concatenate([basis.T, -basis.T]) @ self.slopes
        duals = np.array([self.project(h, _NO_ROWS)[2] for h in gradients])
        duals = duals.reshape(2, -1, duals.shape[1])
        # Outputs of any signs: the larger one of the products takes part.
        products = np.einsum("skp,tlp->sktl", duals, duals).max(axis=(0, 2))
        largest = np.linalg.eigvalsh(np.maximum(products, 0.0))[-1]
        # The weight lets the bias, which is one at most, be a little expensive.
        return np.sqrt(largest) * (1.0 + _WEIGHT**-2)

    def settle(self, point):
        """The point in the cone, of length one and with the best bias."""
        d = self.d
        point = point / np.linalg.norm(point[:d])
        margins = self.normals @ point
        astray = margins < -_ASTRAY
        if astray.any():
            # Where it enters the cone on the way to the gate.
            gate = np.maximum(self.gate_margins[astray], 0.0)
            share = np.max(margins[astray] / (margins[astray] - gate))
            point = (1.0 - share) * point + share * self.gate
            point /= np.linalg.norm(point[:d])
        if not self.free_bias:
            return point
        # The slope is convex along the bias: the best one is at an end.
        kinks = -self.rows[:, :d] @ point[:d]
        ends = [kinks[self.active].max(), kinks[~self.active].min()]
        if ends[0] >= ends[1]:
            return point
        return max([np.append(point[:d], end) for end in ends], key=self.slope)

    def slide(self, point, work):
        """The best point of the face, or where the way there leaves the cone."""
        margins = self.normals @ point
        face = work[np.abs(margins[work]) <= _ON]
        if self.free_bias:
            # First the sample that the bias hangs on.
            pivot = np.argmin(np.abs(margins))
            face = np.append(pivot, face[face != pivot])
        target = np.linalg.svd(self.along(self.slopes, face), full_matrices=False)[2][0]
        target = self.lift(np.copysign(1.0, target @ point[: self.d]) * target, face)
        # On the great circle between them the slope rises all the way.
        ahead = self.normals @ target
        ahead[face] = 0.0
        out = ahead < -0.1 * _ASTRAY
        margins = np.maximum(margins[out], 0.0)
        share = np.min(margins / (margins - ahead[out]), initial=1.0)
        return (1.0 - share) * point + share * target
