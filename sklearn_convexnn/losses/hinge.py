"""The hinge loss."""

import numpy as np

from sklearn_convexnn.losses.base import Loss


class Hinge(Loss):
    """Hinge loss ``max(0, 1 - y f)`` with ``y`` in {-1, +1}."""

    name = "hinge"
    smooth = False

    def terms(self, f, y, xp=np):
        return xp.clip(1.0 - y * f, 0.0, None)

    def slopes(self, f, y, xp=np):
        return -y * xp.astype(y * f < 1.0, f.dtype)

    def bends(self, f, y, xp=np):
        return xp.zeros_like(f)

    def dual_bounds(self, y, s):
        return np.where(y > 0, 0.0, -s), np.where(y > 0, s, 0.0)

    def dual_terms(self, nu, y, s):
        return y * nu

    def dual_slope(self, nu, y, s, xp=np):
        return xp.zeros_like(nu) + y

    def dual_curvature(self, nu, y, s, xp=np):
        return xp.zeros_like(nu)

    def expression(self, cp, f, y, s):
        return cp.sum(cp.multiply(s, cp.pos(1 - cp.multiply(y, f))))
