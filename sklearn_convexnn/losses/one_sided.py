"""Losses whose outputs may be moved to one side at no cost."""

import numpy as np

from sklearn_convexnn.losses.base import Loss


class OneSided(Loss):
    """A regression loss that is constant on one side of its minimiser.

    The largest convex function below `loss` that never falls (or never rises)
    with the output: the least that can be reached if outputs may be moved to
    that side at no cost.

    Parameters
    ----------
    loss : Loss
        With a `minimiser`.
    sides : ndarray of shape (n_samples,)
        Sign of the dual variable that remains possible, 0 for both.
    """

    def __init__(self, loss, sides):
        self.name, self.smooth = loss.name, loss.smooth
        self.loss = loss
        self.sides = sides

    def _clipped(self, f, y):
        best = self.loss.minimiser(y)
        f = np.where(self.sides < 0, np.maximum(f, best), f)
        return np.where(self.sides > 0, np.minimum(f, best), f)

    def terms(self, f, y, xp=np):
        return self.loss.terms(self._clipped(f, y), y)

    def slopes(self, f, y, xp=np):
        return self.loss.slopes(self._clipped(f, y), y)

    def bends(self, f, y, xp=np):
        return self.loss.bends(f, y) * (self._clipped(f, y) == f)

    def dual_bounds(self, y, s):
        lower, upper = self.loss.dual_bounds(y, s)
        return (
            np.where(self.sides > 0, 0.0, lower),
            np.where(self.sides < 0, 0.0, upper),
        )

    def dual_terms(self, nu, y, s):
        return self.loss.dual_terms(nu, y, s)

    def dual_slope(self, nu, y, s, xp=np):
        return self.loss.dual_slope(nu, y, s, xp)

    def dual_curvature(self, nu, y, s, xp=np):
        return self.loss.dual_curvature(nu, y, s, xp)
