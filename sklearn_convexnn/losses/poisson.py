"""The Poisson loss."""

import numpy as np
from scipy.special import entr, xlogy

from sklearn_convexnn.losses.base import Loss, Scaled, means, power_of_two


class Poisson(Loss):
    """Half the Poisson deviance of the mean ``exp(f)``, with ``y >= 0``.

    ``exp(f) - y f + y log(y) - y``; without the part that does not depend on
    ``f``, it is scikit-learn's ``HalfPoissonLoss``.
    """

    name = "poisson"

    def _farthest(self, f, xp):
        """Output from which on the exponential is continued linearly.

        A descent may come beyond, where numbers would overflow, but no optimum.
        """
        return 80.0 if f.dtype == xp.float32 else 300.0

    def _mean(self, f, xp):
        return xp.exp(xp.clip(f, None, self._farthest(f, xp)))

    def terms(self, f, y, xp=np):
        mean, farthest = self._mean(f, xp), self._farthest(f, xp)
        beyond = mean * xp.clip(f - farthest, 0.0, None)
        log = xp.log(xp.where(y > 0, y, xp.ones_like(y)))
        terms = mean + beyond - y - y * (f - log)
        # Close to the minimum only this form does not lose digits.
        distance = f - log
        close = (xp.abs(distance) < 0.1) & (y > 0)
        distance = xp.where(close, distance, xp.zeros_like(distance))
        return xp.where(close, y * (xp.expm1(distance) - distance), terms)

    def slopes(self, f, y, xp=np):
        return self._mean(f, xp) - y

    def bends(self, f, y, xp=np):
        inside = xp.astype(f <= self._farthest(f, xp), f.dtype)
        return self._mean(f, xp) * inside

    def dual_bounds(self, y, s):
        return np.full(len(y), -np.inf), s * y

    def dual_terms(self, nu, y, s):
        mean = np.maximum(y - nu / s, 0.0)
        return s * (entr(mean) - entr(y)) - nu

    def dual_slope(self, nu, y, s, xp=np):
        return xp.log(y - nu / s)

    def dual_curvature(self, nu, y, s, xp=np):
        return 1.0 / (s * y - nu)

    def minimiser(self, y):
        with np.errstate(divide="ignore"):
            return np.log(y)

    def merged(self, y, s, group):
        mean, weight = means(y, s, group)
        constant = np.sum(s * (xlogy(y, y) - xlogy(y, mean[group])))
        return mean, weight, float(constant)

    def scaled(self, y, s, free):
        # The deviance is proportional to targets and means, but only a free constant
        # can make the means larger at no cost.
        size = power_of_two(np.mean(np.average(y, axis=0, weights=s))) if free else 1.0
        return Scaled(self, y / size, 1.0, size, np.full(y.shape[1:], np.log(size)))

    def check_targets(self, Y, s):
        if np.min(Y) < 0:
            raise ValueError(
                "loss='poisson' needs y to be non-negative, but y has "
                f"{np.min(Y):.3g}; use another loss."
            )
        if not np.all(s @ Y > 0):
            raise ValueError(
                "loss='poisson' needs y to be positive for some sample with a "
                "positive weight, in each output: the best prediction would be "
                "zero, which the exponential does not reach. Leave the output out."
            )

    def spread(self, f, y, s):
        pull = np.sum(np.abs(self.gradient(f, y, s)))
        return self.value(f, y, s) / pull if pull > 0 else 0.0

    def best_offset(self, f, y, s):
        top = np.max(f)
        ratio = np.average(y, weights=s) / np.average(np.exp(f - top), weights=s)
        return float(np.log(ratio) - top)

    def expression(self, cp, f, y, s):
        constant = float(np.sum(s * (xlogy(y, y) - y)))
        return cp.sum(cp.multiply(s, cp.exp(f) - cp.multiply(y, f))) + constant
