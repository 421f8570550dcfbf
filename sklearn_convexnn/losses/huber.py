"""The Huber loss."""

import numpy as np

from sklearn_convexnn.losses.base import Loss, Scaled, location_of
from sklearn_convexnn.losses.squared_error import SquaredError


class Huber(SquaredError):
    """Huber loss: ``r^2 / 2`` where ``|r| <= epsilon``, linear beyond, ``r = f - y``.

    Parameters
    ----------
    epsilon : float
        Residual, in units of ``y``, from which on the loss is linear.
    """

    name = "huber"

    def __init__(self, epsilon):
        self.epsilon = epsilon

    def terms(self, f, y, xp=np):
        r = xp.abs(f - y)
        inner = xp.clip(r, None, self.epsilon)
        return inner * (r - 0.5 * inner)

    def slopes(self, f, y, xp=np):
        return xp.clip(f - y, -self.epsilon, self.epsilon)

    def bends(self, f, y, xp=np):
        return xp.astype(xp.abs(f - y) <= self.epsilon, f.dtype)

    def dual_bounds(self, y, s):
        return -self.epsilon * s, self.epsilon * s

    def scaled(self, y, s, free):
        size, shift = location_of(y, s, free)
        loss = Huber(self.epsilon / size)
        return Scaled(loss, (y - shift) / size, size, size**2, shift)

    merged = Loss.merged
    best_offset = Loss.best_offset

    def expression(self, cp, f, y, s):
        # Larger ones, which no residual reaches, make the cones ill conditioned.
        epsilon = min(self.epsilon, 4.0 / np.sqrt(np.min(s)))
        # cp.huber is r^2 inside, twice the loss.
        return 0.5 * cp.sum(cp.multiply(s, cp.huber(f - y, epsilon)))
