"""The logistic loss."""

import numpy as np
from scipy.special import entr

from sklearn_convexnn._sklearn import expit_of
from sklearn_convexnn.losses.base import Loss


class LogLoss(Loss):
    """Logistic loss ``log(1 + exp(-y f))`` with ``y`` in {-1, +1}."""

    name = "log_loss"
    largest_bend = 0.25

    def terms(self, f, y, xp=np):
        return xp.logaddexp(xp.zeros_like(f), -y * f)

    def slopes(self, f, y, xp=np):
        return -y * expit_of(-y * f, xp=xp)

    def bends(self, f, y, xp=np):
        return expit_of(f, xp=xp) * expit_of(-f, xp=xp)

    def dual_bounds(self, y, s):
        return np.where(y > 0, 0.0, -s), np.where(y > 0, s, 0.0)

    def dual_terms(self, nu, y, s):
        t = np.clip(y * nu / s, 0.0, 1.0)
        return s * (entr(t) + entr(1.0 - t))

    def dual_slope(self, nu, y, s, xp=np):
        t = y * nu / s
        return y * (xp.log1p(-t) - xp.log(t))

    def dual_curvature(self, nu, y, s, xp=np):
        t = y * nu / s
        return 1.0 / (s * t * (1.0 - t))

    def expression(self, cp, f, y, s):
        return cp.sum(cp.multiply(s, cp.logistic(cp.multiply(-y, f))))
