"""The pinball loss."""

import numpy as np

from sklearn_convexnn.losses.base import Loss, Scaled, location_of


class Pinball(Loss):
    """Pinball loss ``q (y - f)_+ + (1 - q) (f - y)_+``, least at the quantile ``q``.

    Parameters
    ----------
    quantile : float
        The number ``q``, in (0, 1).
    """

    name = "quantile"
    smooth = False

    def __init__(self, quantile):
        self.quantile = quantile

    def terms(self, f, y, xp=np):
        r = y - f
        return xp.where(r > 0, self.quantile * r, (self.quantile - 1.0) * r)

    def slopes(self, f, y, xp=np):
        # Zero at the kink: a sample that is met pulls in neither direction.
        over = xp.astype(f > y, f.dtype)
        under = xp.astype(f < y, f.dtype)
        return (1.0 - self.quantile) * over - self.quantile * under

    def bends(self, f, y, xp=np):
        return xp.zeros_like(f)

    def dual_bounds(self, y, s):
        return (self.quantile - 1.0) * s, self.quantile * s

    def dual_terms(self, nu, y, s):
        return y * nu

    def dual_slope(self, nu, y, s, xp=np):
        return xp.zeros_like(nu) + y

    def dual_curvature(self, nu, y, s, xp=np):
        return xp.zeros_like(nu)

    def minimiser(self, y):
        return y

    def scaled(self, y, s, free):
        size, shift = location_of(y, s, free)
        return Scaled(self, (y - shift) / size, size, size, shift)

    def spread(self, f, y, s):
        return np.average(np.abs(f - y), weights=s)

    def best_offset(self, f, y, s):
        """A quantile of the residuals, the middle of them if there are several."""
        order = np.argsort(y - f, kind="stable")
        r, below = (y - f)[order], np.cumsum(s[order])
        wanted = self.quantile * below[-1]
        margin = 1e-12 * below[-1]
        low = np.searchsorted(below, wanted - margin)
        high = np.searchsorted(below, wanted + margin)
        return float(0.5 * (r[low] + r[min(high, len(r) - 1)]))

    def expression(self, cp, f, y, s):
        over, under = cp.pos(f - y), cp.pos(y - f)
        terms = (1 - self.quantile) * over + self.quantile * under
        return cp.sum(cp.multiply(s, terms))
