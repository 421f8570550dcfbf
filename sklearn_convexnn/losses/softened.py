"""Losses whose kinks are rounded off."""

import numpy as np

from sklearn_convexnn.losses.base import Loss


class Softened(Loss):
    r"""The Moreau envelope of a loss that is linear on both sides of a kink.

    Its dual is ``G(nu) - width / 2 * sum(nu^2 / s)`` over the same box.  It lies below
    the loss, by at most what is subtracted there: a dual point of it is one of the
    loss, of a bound at least as good.

    Parameters
    ----------
    loss : Loss
        With the dual ``y @ nu`` over a box, as the hinge and the pinball loss have it.
    width : float
        Positive, in units of the outputs.
    """

    def __init__(self, loss, width):
        self.name, self.largest_bend = loss.name, 1.0 / width
        self.loss, self.width = loss, width

    def _pull(self, f, y):
        """The dual variable of each sample, for a weight of one, and its box."""
        lower, upper = self.loss.dual_bounds(y, np.ones(np.shape(y)))
        return np.clip((y - f) / self.width, lower, upper), lower, upper

    def terms(self, f, y, xp=np):
        nu, _, _ = self._pull(f, y)
        return (y - f - 0.5 * self.width * nu) * nu

    def slopes(self, f, y, xp=np):
        return -self._pull(f, y)[0]

    def bends(self, f, y, xp=np):
        nu, lower, upper = self._pull(f, y)
        return ((lower < nu) & (nu < upper)) / self.width

    def dual_bounds(self, y, s):
        return self.loss.dual_bounds(y, s)

    def dual_terms(self, nu, y, s):
        return self.loss.dual_terms(nu, y, s) - self.missing(nu, s)

    def dual_slope(self, nu, y, s, xp=np):
        return self.loss.dual_slope(nu, y, s, xp) - self.width * nu / s

    def dual_curvature(self, nu, y, s, xp=np):
        return self.loss.dual_curvature(nu, y, s, xp) + self.width / s

    def missing(self, nu, s):
        """What is subtracted from the dual terms of the loss."""
        return 0.5 * self.width * nu**2 / s

    def minimiser(self, y):
        return self.loss.minimiser(y)
