"""Dual variable of a loss inside its box, for interior point methods."""

from typing import NamedTuple

import numpy as np


def moved_inside(value, bounds, mu):
    """The closest point inside the box, at a distance of `mu` if there is room."""
    lower, upper = bounds
    margin = np.minimum(mu, 0.25 * (upper - lower))
    return np.clip(value, lower + margin, upper - margin)


class DualStep(NamedTuple):
    """Changes of a `BoxedDual`: of the dual variable and of both multipliers."""

    value: np.ndarray
    a: np.ndarray
    b: np.ndarray


class BoxedDual:
    """A dual variable strictly inside its box, and the multipliers of the sides.

    Parameters
    ----------
    bounds : tuple of two ndarrays
        Lower and upper ones, infinite where there is none.
    value : ndarray
        The dual variable.
    mu : float
        Products of multipliers and distances.

    Attributes
    ----------
    value : ndarray
    a, b : ndarray
        Multipliers of the lower and the upper bounds, zero where there is none.
    low, up : ndarray of bool
        Where there are bounds.
    below, above : ndarray
        Distances to them, one where there is none.
    """

    def __init__(self, bounds, value, mu):
        self.lower, self.upper = bounds
        self.low, self.up = np.isfinite(self.lower), np.isfinite(self.upper)
        self._place(value)
        self.a = np.where(self.low, mu / self.below, 0.0)
        self.b = np.where(self.up, mu / self.above, 0.0)

    def _place(self, value):
        self.value = value
        self.below = np.where(self.low, value - self.lower, 1.0)
        self.above = np.where(self.up, self.upper - value, 1.0)

    def add_multipliers(self, error):
        """Let the multipliers alone make up for an error of the outputs."""
        self.a += np.where(self.low, np.maximum(-error, 0.0), 0.0)
        self.b += np.where(self.up, np.maximum(error, 0.0), 0.0)

    def compliance(self, stiffness):
        """How far the dual variable gives way, with the stiffness of the loss."""
        return 1.0 / (stiffness + self.a / self.below + self.b / self.above)

    def pull(self, link, low, up):
        """What moves the dual variable, with changes of the products `low`, `up`."""
        pull = link + np.where(self.low, low / self.below, 0.0)
        pull -= np.where(self.up, up / self.above, 0.0)
        return pull

    def step(self, change, low, up):
        """The step of that change and those of the products."""
        return DualStep(
            change,
            np.where(self.low, (low - self.a * change) / self.below, 0.0),
            np.where(self.up, (up + self.b * change) / self.above, 0.0),
        )

    def reach(self, step):
        """The size of the step that leads to a side or to a multiplier of zero."""
        low, up = self.low, self.up
        worst = min(
            np.min((step.value / self.below)[low], initial=0.0),
            np.min((-step.value / self.above)[up], initial=0.0),
            np.min(step.a[low] / self.a[low], initial=0.0),
            np.min(step.b[up] / self.b[up], initial=0.0),
        )
        return -1.0 / worst if worst < 0 else np.inf

    def products_after(self, size, step):
        """Sums of the products of both sides after a step of that size."""
        change, da, db = (size * part for part in step)
        return (
            np.sum(((self.below + change) * (self.a + da))[self.low]),
            np.sum(((self.above - change) * (self.b + db))[self.up]),
        )

    def move(self, size, step):
        """Go that part of a step; arrays that were given away stay as they are."""
        self.a, self.b = self.a + size * step.a, self.b + size * step.b
        self._place(self.value + size * step.value)

    @property
    def n_sides(self):
        """How many bounds there are."""
        return np.sum(self.low) + np.sum(self.up)
