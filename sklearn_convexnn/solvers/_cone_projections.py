"""Projections on the cones of a program, one cone at a time, with a memory."""

import numpy as np

from sklearn_convexnn._utils.breakdown import BREAKDOWNS, least_squares

# Rows of a cone that are looked at first, for each coordinate.  A projection has
# at most one active row for each, and the others are checked afterwards.
_ROWS = 3
_PASSES = 100
# Violations of a cone that are rounding, relative to lengths of row and point.
_ROUNDING = 1e-10
# Weight of the slope along a free offset; it is fitted in several projections.
_WEIGHT = 100.0


class ConeProjections:
    r"""Projections on the cones :math:`\{\theta: S_b M \theta \ge 0\}`.

    Each is a non-negative least squares problem for the multipliers of a few
    rows, those that were active or nearly so the last time and those that the
    solution violates.  So a projection near an earlier one costs a fraction
    of the first.

    Parameters
    ----------
    program : Program
        Of single units and without open sides.

    References
    ----------
    .. [1] Lawson, C. L. and Hanson, R. J. (1974). "Solving Least Squares
       Problems". Chapter 23.
    """

    def __init__(self, program):
        self.operator = op = program.operator
        self.r = program.n_penalised
        rows = op.cone_rows.astype(np.float64)
        self.rows, self.lengths = rows, np.linalg.norm(rows, axis=1)
        self.count = min(_ROWS * op.p, op.n_constraints)
        starts = program.starts[: op.n_cones]
        self.near = [self._nearest_rows(rows @ start) for start in starts]
        self.centres = np.zeros((op.n_cones, op.p - self.r))

    def _nearest_rows(self, slack):
        distance = np.abs(slack) / self.lengths
        if self.count == len(distance):
            return np.arange(self.count)
        return np.argpartition(distance, self.count)[: self.count]

    def nearest(self, b, point):
        """The point of cone `b` next to `point`, or None if rounding is in the way."""
        found = self._project(b, point, np.ones(len(point)))
        return None if found is None else found[0]

    def steepest(self, b, slope):
        """The steepest direction of cone `b` along `slope`.

        Parameters
        ----------
        b : int
        slope : ndarray of shape (p,)

        Returns
        -------
        point : ndarray of shape (p,)
            Its penalised part is the projection of `slope`: it has the length
            of the steepest slope.
        rows : ndarray of int
        multipliers : ndarray
            Of the active rows.  With a free offset the slope along it vanishes
            only in the limit of calls with similar slopes.
        """
        weights = np.ones(len(slope))
        weights[self.r :] = _WEIGHT
        # A proximal term on the offset, around the one that was found last.
        slope = slope.copy()
        slope[self.r :] += self.centres[b] / _WEIGHT**2
        found = self._project(b, slope, weights)
        if found is not None:
            self.centres[b] = found[0][self.r :]
        return found

    def _project(self, b, target, weights):
        signs = self.operator.signs[b % self.operator.n_patterns]
        target = weights * target
        limit = -_ROUNDING * np.linalg.norm(target) * np.max(weights) * self.lengths
        rows = self.near[b]
        for _ in range(_PASSES):
            matrix = self.rows[rows] * weights * signs[rows, None]
            try:
                multipliers, _ = least_squares(matrix.T, -target)
            except BREAKDOWNS:
                return None
            point = weights * (target + multipliers @ matrix)
            slack = signs * (self.rows @ point)
            active = multipliers > 0
            rows, multipliers = rows[active], multipliers[active]
            if np.all(slack >= limit):
                self.near[b] = np.union1d(rows, self._nearest_rows(slack))
                return point, rows, multipliers
            outside = np.flatnonzero(slack < limit)
            order = np.argsort(slack[outside] / self.lengths[outside])
            rows = np.union1d(rows, outside[order[: self.count]])
        return None
