"""The squared hinge loss."""

import numpy as np

from sklearn_convexnn.losses.base import Loss


class SquaredHinge(Loss):
    """Squared hinge loss ``max(0, 1 - y f)^2`` (no half) with ``y`` in {-1, +1}."""

    name = "squared_hinge"
    largest_bend = 2.0

    def terms(self, f, y, xp=np):
        return xp.clip(1.0 - y * f, 0.0, None) ** 2

    def slopes(self, f, y, xp=np):
        return -2.0 * y * xp.clip(1.0 - y * f, 0.0, None)

    def bends(self, f, y, xp=np):
        return 2.0 * xp.astype(y * f < 1.0, f.dtype)

    def dual_bounds(self, y, s):
        return np.where(y > 0, 0.0, -np.inf), np.where(y > 0, np.inf, 0.0)

    def dual_terms(self, nu, y, s):
        return y * nu - 0.25 * nu**2 / s

    def dual_slope(self, nu, y, s, xp=np):
        return y - 0.5 * nu / s

    def dual_curvature(self, nu, y, s, xp=np):
        return 0.5 / s

    def expression(self, cp, f, y, s):
        return cp.sum(cp.multiply(s, cp.square(cp.pos(1 - cp.multiply(y, f)))))
