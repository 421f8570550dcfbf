"""The squared error."""

import numpy as np

from sklearn_convexnn.losses.base import Loss, Scaled, location_of, means


class SquaredError(Loss):
    """Half squared error ``(f - y)^2 / 2``."""

    name = "squared_error"
    largest_bend = 1.0

    def terms(self, f, y, xp=np):
        return 0.5 * (f - y) ** 2

    def slopes(self, f, y, xp=np):
        return f - y

    def bends(self, f, y, xp=np):
        return xp.ones_like(f)

    def dual_bounds(self, y, s):
        return np.full(len(y), -np.inf), np.full(len(y), np.inf)

    def dual_terms(self, nu, y, s):
        return y * nu - 0.5 * nu**2 / s

    def dual_slope(self, nu, y, s, xp=np):
        return y - nu / s

    def dual_curvature(self, nu, y, s, xp=np):
        return 1.0 / s

    def minimiser(self, y):
        return y

    def merged(self, y, s, group):
        mean, weight = means(y, s, group)
        return mean, weight, self.value(mean[group], y, s)

    def scaled(self, y, s, free):
        size, shift = location_of(y, s, free)
        return Scaled(self, (y - shift) / size, size, size**2, shift)

    def best_offset(self, f, y, s):
        return float(np.average(y - f, weights=s))

    def expression(self, cp, f, y, s):
        return 0.5 * cp.sum(cp.multiply(s, cp.square(f - y)))
