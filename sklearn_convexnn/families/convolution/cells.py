"""Cells of filters, in which their pooled outputs are linear, and the search there."""

from dataclasses import dataclass

import numpy as np

from sklearn_convexnn._utils.breakdown import least_squares
from sklearn_convexnn._utils.deadlines import check
from sklearn_convexnn.families.base import Candidates
from sklearn_convexnn.families.two_layer.neurons import Neurons
from sklearn_convexnn.patterns.arrangements import (
    enumerate_arrangement,
    sample_arrangement,
)

# With several numbers in a slope: output weights from which a cell is searched, steps
# there, and the relative gain of one that ends it.
_STARTS, _STEPS, _GAIN = 3, 100, 1e-12
_SIGNS = 1.0, -1.0
# Weight of the equation that a free bias adds to least squares.
_WEIGHT = 1e4
# Products of a gradient with a cone that are rounding, relative to its length.
_ROUNDING = 1e-10
# Candidates of a search, and digits to which they are told apart.
_MOST, _DIGITS = 400, 10


@dataclass(frozen=True)
class Cells:
    """Sets of filters for which the same patches count in every window.

    With the mean of a window those that are active count, with the maximum the one that
    is the largest, if it is active.

    Attributes
    ----------
    rows : ndarray of shape (n_windows, n_samples, window_size, patch_size)
        Patches; with a column of ones if biases are free.
    counts : ndarray of bool, shape (n_cells, n_windows, n_samples, window_size)
    largest : bool
        Whether of a window the maximum counts.
    free_bias : bool
    complete : bool
        Whether these are all cells.
    """

    rows: np.ndarray
    counts: np.ndarray
    largest: bool
    free_bias: bool
    complete: bool

    def __len__(self):
        return len(self.counts)

    def cone(self, k):
        """Rows whose products with the filters of a cell are not negative."""
        counts, rows = self.counts[k], self.rows
        if not self.largest:
            signs = np.where(counts, 1.0, -1.0)[..., None]
            return (signs * rows).reshape(-1, rows.shape[3])
        off = ~np.any(counts, axis=2)
        winners = np.sum(counts[..., None] * rows, axis=2)
        below = winners[:, :, None] - rows
        parts = rows[off], winners[~off], below[~counts & ~off[:, :, None]]
        parts = [part.reshape(-1, rows.shape[3]) for part in parts]
        return np.concatenate([-parts[0], *parts[1:]])

    def slopes(self, k, N):
        """Slopes by the filters of a cell, shape (n_columns, n_windows * n_outputs)."""
        share = 1.0 if self.largest else 1.0 / self.rows.shape[2]
        counted = np.sum(self.counts[k][..., None] * self.rows, axis=2)
        parts = share * np.matmul(counted.transpose(0, 2, 1), N)
        return parts.transpose(1, 0, 2).reshape(parts.shape[1], -1)

    def steepest(self, k, N):
        """The steepest filter that is found in a cell, and a bound of all of them.

        Returns
        -------
        filter : ndarray of shape (n_columns,)
            Its direction is of length one; zeros if there is none.
        upper : float
            No slope in the cell is larger.
        """
        G, cone = self.slopes(k, N), self.cone(k)
        if G.shape[1] == 1:
            direction, upper = self._steepest_of_both(G[:, 0], cone)
            return self._with_bias(direction, cone, G), upper
        along = np.linalg.svd(G, full_matrices=False)[2]
        starts = [sign * v for v in along[:_STARTS] for sign in _SIGNS]
        best = max(
            (self._climbed(v, G, cone) for v in starts),
            key=lambda u: np.linalg.norm(u @ G),
        )
        # Squares of the slopes add up over any orthonormal output weights.
        tops = [self._steepest_of_both(G @ v, cone)[1] for v in along]
        return best, float(np.linalg.norm(tops))

    def search(self, family, N, floor):
        """The steepest filters of all cells, as candidates.

        Parameters
        ----------
        family : Convolution
        N : ndarray of shape (n_samples, n_outputs)
        floor : float
            The slope wanted.

        Returns
        -------
        candidates : Candidates
        """
        filters = []
        for k in range(len(self)):
            check()
            filters.append(self.steepest(k, N)[0])
        filters = np.reshape(filters, (len(filters), self.rows.shape[3]))
        directions, biases = filters, np.zeros(len(filters))
        if self.free_bias:
            directions, biases = filters[:, :-1], filters[:, -1]
        units = Neurons(directions, biases, np.zeros(len(filters), dtype=bool))
        slopes = family.slopes(units, N)
        # Cells that meet often have the same steepest filter.
        keep = np.unique(np.round(filters, _DIGITS), axis=0, return_index=True)[1]
        keep = keep[slopes[keep] > floor]
        keep = keep[np.argsort(-slopes[keep], kind="stable")][:_MOST]
        return Candidates(units.select(keep), slopes[keep])

    def proven_slope(self, N):
        """No slope of a filter in the cells is larger.

        Parameters
        ----------
        N : ndarray of shape (n_samples, n_outputs)

        Returns
        -------
        slope : float
        """
        slope = 0.0
        for k in range(len(self)):
            check()
            slope = max(slope, self.steepest(k, N)[1])
        return slope

    def _steepest_of_both(self, g, cone):
        """The steeper one of both signs, as `_steepest_along` has it."""
        tops = [_steepest_along(sign * g, cone, self.free_bias) for sign in _SIGNS]
        return max(tops, key=lambda top: top[1])

    def _climbed(self, v, G, cone):
        """The filter at which output weights and filters have taken turns from `v`."""
        value, best = 0.0, np.zeros(len(G))
        for _ in range(_STEPS):
            u = self._with_bias(
                _steepest_along(G @ v, cone, self.free_bias)[0], cone, G
            )
            slopes = u @ G
            size = np.linalg.norm(slopes)
            if size <= value * (1.0 + _GAIN):
                break
            value, best, v = size, u, slopes / size
        return best

    def _with_bias(self, direction, cone, G):
        """The filter of a direction that is in the cell, with its best bias."""
        if not self.free_bias:
            return direction
        products, ones = cone[:, :-1] @ direction, cone[:, -1]
        low = np.max(-products[ones > 0] / ones[ones > 0], initial=-np.inf)
        high = np.min(-products[ones < 0] / ones[ones < 0], initial=np.inf)
        # The slope is convex in between; where it goes on for ever it does not change.
        ends = [end for end in (low, high) if np.isfinite(end)] or [0.0]
        filters = [np.append(direction, end) for end in ends]
        return max(filters, key=lambda u: np.linalg.norm(u @ G))


def _steepest_along(g, cone, free_bias):
    """The direction of a cone with the largest product, and a bound of the product.

    The projection on the cone, by least squares over its dual.
    """
    if free_bias:
        ones = cone[:, -1]
        if np.all(ones >= 0) or np.all(ones <= 0):
            # The bias may be so far off that only differences of patches matter.
            cone, free_bias = cone[ones == 0, :-1], False
            g = g[:-1]
    weight = np.ones(len(g))
    if free_bias:
        weight[-1] = _WEIGHT * max(1.0, np.abs(cone).max())
    rho = np.zeros(len(cone))
    if len(cone):
        rho, _ = least_squares((cone * weight).T, -g * weight)
    rest = g + rho @ cone
    if free_bias:
        # The equation is to hold to the last digit, or there is no bound.
        against = cone[:, -1] * rest[-1] < 0
        more = against * np.abs(rest[-1]) / max(np.sum(against), 1)
        rest = (rest + more @ cone)[:-1]
    upper = float(np.linalg.norm(rest))
    if upper <= _ROUNDING * np.linalg.norm(g):
        # No filter of the cell has a product, and the direction would be noise.
        return 0.0 * rest, upper
    return rest / upper, upper


def cells_of_filters(family, gates, complete):
    """The distinct cells that filters are in.

    Parameters
    ----------
    family : Convolution
    gates : ndarray of shape (n_gates, n_columns)
        Filters, with biases as the last column if they are free.
    complete : bool
        Whether there are filters of all cells.

    Returns
    -------
    cells : Cells
        Without those in which filters have no output.
    """
    rows, largest = _rows(family), family.layout.largest
    counts = []
    for gate in gates:
        z = rows @ gate
        counted = z > 0
        if largest:
            first = np.argmax(z, axis=2)[:, :, None] == np.arange(z.shape[2])
            counted &= first
        counts.append(counted)
    counts = np.reshape(counts, (len(gates), -1))
    counts = counts[np.any(counts, axis=1)]
    if family.fit_intercept and not largest:
        # Filters that are active everywhere are linear ones.
        counts = counts[~np.all(counts, axis=1)]
    first = np.unique(np.packbits(counts, axis=1), axis=0, return_index=True)[1]
    counts = counts[np.sort(first)].reshape(-1, *rows.shape[:3])
    return Cells(rows, counts, largest, family.fit_intercept, complete)


def _rows(family):
    rows = family.patches(slice(None), np.float64)
    if family.fit_intercept:
        rows = np.concatenate([rows, np.ones((*rows.shape[:3], 1))], axis=3)
    return rows


def all_cells(family):
    """All cells of filters.

    Parameters
    ----------
    family : Convolution

    Returns
    -------
    cells : Cells

    Raises
    ------
    ValueError
        If they are too many.
    """
    rows = _rows(family)
    planes = [rows.reshape(-1, rows.shape[3])]
    if family.layout.largest:
        # Which of two patches has the larger output.
        i, j = np.triu_indices(rows.shape[2], 1)
        planes.append((rows[:, :, i] - rows[:, :, j]).reshape(-1, rows.shape[3]))
    arrangement = enumerate_arrangement(np.concatenate(planes))
    return cells_of_filters(family, arrangement.gates, arrangement.complete)


def random_cells(family, n_cells, seed, known=None):
    """Cells of random filters, and of known ones.

    Parameters
    ----------
    family : Convolution
    n_cells : int
        Distinct patterns of activation, of which different maxima may be one cell.
    seed : int
    known : Neurons or None

    Returns
    -------
    cells : Cells
    """
    patches = family.patches(slice(None), np.float64).reshape(-1, family.unit_size)
    free = family.fit_intercept
    arrangement = sample_arrangement(
        patches, n_cells, free_bias=free, random_state=seed
    )
    gates = arrangement.gates
    if known is not None:
        units = known.select(~known.linear)
        earlier = units.directions
        if free:
            earlier = np.column_stack([earlier, units.biases])
        gates = np.concatenate([earlier, gates])
    complete = arrangement.complete and not family.layout.largest
    return cells_of_filters(family, gates, complete)
