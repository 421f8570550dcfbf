"""The steps of the alternating direction method of multipliers."""

from time import perf_counter

import numpy as np

from sklearn_convexnn.solvers._array_program import ArrayProgram

_RELAXATION = 1.6
# Newton steps for the dual variables of the samples, which start from the last ones,
# and their accuracy relative to the mean.
_NEWTON_STEPS, _NEWTON_TOL = 8, 1e-4
# Penalty of the copies of the outputs, per block and curvature of the loss, and of the
# copies of the blocks, relative to it and to the mean square of the data.
_PENALTY, _COPY = 0.05, 0.2
# Ratio of the residuals from which on the penalty is changed, its largest change, and
# how often: the method converges once it stays what it is.
_UNEQUAL, _CHANGE, _CHANGES = 2.0, 3.0, 20


class Splitting:
    r"""Iterate of a splitting into copies, in the form of Douglas and Rachford.

    The copies are :math:`z_b = M \theta_b`, which have the signs and the loss,
    and :math:`w_b`, the penalised part of :math:`\theta_b`, which has the norm.

    Parameters
    ----------
    program : Program
        Of single units and without open sides.
    like : array
        The namespace, the device and the floating dtype to use.
    """

    def __init__(self, program, like):
        self.arrays = arrays = ArrayProgram(program, like)
        p, n_blocks = arrays.shape
        self.rho = float(_PENALTY * n_blocks * arrays.curvature)
        self._factor()
        # A little inside of the box, where the slopes are finite.
        loss, y, s = program.loss, program.y, program.sample_weight
        lower, upper = loss.dual_bounds(y, s)
        lower, upper = lower + 10.0 * arrays.eps * s, upper - 10.0 * arrays.eps * s
        f = np.full(len(y), program.null_offset())
        nu = np.clip(-loss.gradient(f, y, s), lower, upper)
        self.lower, self.upper = arrays.array(lower), arrays.array(upper)
        self.nu = arrays.array(nu)
        self.accuracy = _NEWTON_TOL * np.mean(np.abs(nu))
        # Each copy is a proximal point of the points.
        self.z = arrays.zeros((len(y), n_blocks))
        self.z_point = arrays.zeros((len(y), n_blocks))
        self.w_point = arrays.zeros((p, n_blocks))
        self.theta = arrays.zeros((p, n_blocks))
        self.ratio, self.changes = 1.0, 0

    def _factor(self):
        """The inverse that all blocks share."""
        arrays = self.arrays
        size = len(arrays.gram)
        copy = _COPY * self.rho * np.trace(arrays.gram) / size
        weights = np.where(np.arange(size) < arrays.r, copy, 0.0)
        matrix = self.rho * arrays.gram + np.diag(weights)
        self.inverse = arrays.array(np.linalg.inv(matrix))
        self.weights = arrays.array(weights[:, None])
        self.threshold = float(arrays.program.alpha / copy)

    def run(self, n_steps, deadline):
        """Take steps, and balance the two residuals afterwards."""
        for k in range(n_steps):
            if perf_counter() > deadline:
                return
            self._step(measure=k == n_steps - 1)
        balanced = 1.0 / _UNEQUAL < self.ratio < _UNEQUAL
        if balanced or self.changes == _CHANGES:
            return
        self.changes += 1
        # The multipliers, which are not scaled by the penalty, stay what they are.
        change = float(np.clip(self.ratio, 1.0 / _CHANGE, _CHANGE))
        w = self._shrunk()
        self.w_point = w + (self.w_point - w) / change
        for rows in self.arrays.chunks:
            z = self.z[rows, :]
            self.z_point[rows, :] = z + (self.z_point[rows, :] - z) / change
        self.rho *= change
        self._factor()

    def blocks(self):
        """The blocks, many of them zero: ndarray of shape (n_blocks, p)."""
        r, concat = self.arrays.r, self.arrays.xp.concat
        return self.arrays.blocks(concat([self._shrunk()[:r, :], self.theta[r:, :]]))

    def _shrunk(self):
        return self.arrays.shrink(self.w_point, self.threshold)

    def _step(self, measure):
        arrays, w = self.arrays, self._shrunk()
        right = self.weights * (2.0 * w - self.w_point)
        sums = np.zeros(4)
        for rows in arrays.chunks:
            M, last = arrays.M[rows, :], self.z[rows, :]
            error = M @ self.theta - last
            point = self.z_point[rows, :] + _RELAXATION * error
            z = self._samples(rows, point)
            if measure:
                parts = error, point - z, z - last, z
                sums += [float(arrays.xp.sum(part**2)) for part in parts]
            self.z_point[rows, :], self.z[rows, :] = point, z
            right = right + self.rho * (M.T @ (2.0 * z - point))
        # Of the copies and of the multipliers, each relative to their size.
        top, bottom = sums[0] * sums[1], sums[2] * sums[3]
        if measure:
            self.ratio = np.sqrt(top / bottom) if top > 0 and bottom > 0 else 1.0
        self.theta = self.inverse @ right
        self.w_point = self.w_point + _RELAXATION * (self.theta - w)

    def _samples(self, rows, point):
        """Copies of the outputs of some samples, and their dual variables.

        The copies move along their masks by ``nu / rho`` and stay on their sides.
        So the outputs are an increasing function of ``nu``, piecewise linear,
        and meet the falling slope of the dual loss in one place.
        """
        arrays, xp, rho = self.arrays, self.arrays.xp, self.rho
        masks, signs = arrays.masks[rows, :], arrays.signs[rows, :]
        y, s, nu = arrays.y[rows], arrays.s[rows], self.nu[rows]
        lower, upper = self.lower[rows], self.upper[rows]
        low, high = xp.full_like(nu, -np.inf), xp.full_like(nu, np.inf)
        zeros = xp.zeros_like(point)
        for _ in range(_NEWTON_STEPS):
            z = point + masks * (nu / rho)[:, None]
            inside = signs * z >= 0
            z, open_ = xp.where(inside, z, zeros), xp.where(inside, masks, zeros)
            slope = arrays.loss.dual_slope(nu, y, s, xp)
            curvature = arrays.loss.dual_curvature(nu, y, s, xp)
            excess = slope - xp.vecdot(masks, z)
            curvature = curvature + xp.vecdot(open_, open_) / rho + arrays.tiny
            low, high = xp.where(excess > 0, nu, low), xp.where(excess < 0, nu, high)
            new = xp.clip(nu + excess / curvature, lower, upper)
            bisect = ((new < low) | (new > high)) & xp.isfinite(high - low)
            middle = 0.5 * (xp.where(bisect, low, new) + xp.where(bisect, high, new))
            new = xp.where(bisect, middle, new)
            moved = float(xp.max(xp.abs(new - nu)))
            nu = new
            if moved <= self.accuracy:
                break
        self.nu[rows] = nu
        return z
