"""Two-layer convolutional networks as a family of units."""

from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
from scipy.linalg import svd

from sklearn_convexnn._utils.devices import in_numpy
from sklearn_convexnn.families.convolution.climbing import PooledSlopes
from sklearn_convexnn.families.convolution.descent import (
    ConvolutionDescent,
    descend_filters_in_batches,
    random_filters,
)
from sklearn_convexnn.families.convolution.layout import Layout
from sklearn_convexnn.families.convolution.pooling import Pooling
from sklearn_convexnn.families.two_layer.climbing import row_norms
from sklearn_convexnn.families.two_layer.family import TwoLayer
from sklearn_convexnn.families.two_layer.neurons import Neurons
from sklearn_convexnn.families.two_layer.pricing import no_candidates, search_units
from sklearn_convexnn.families.two_layer.sampled_pricing import (
    draw_by_residual,
    over_all,
)
from sklearn_convexnn.families.two_layer.searching import Ground
from sklearn_convexnn.model.coordinates import Coordinates
from sklearn_convexnn.model.network import Network
from sklearn_convexnn.model.windows import sums

# Entries of all patches (64 MB) up to which they stay in memory, and of products of
# filters with patches that are computed at once.
_KEPT, _CHUNK = 8_000_000, 1_000_000
# Patches with which filters are searched for, at most, and samples at least; filters
# whose slopes over all samples are computed then, and the part of the slope wanted from
# which they are kept.
_MOST_PATCHES, _FEWEST, _MOST_EVALUATED, _WORTH = 30_000, 200, 100, 0.8


@dataclass(frozen=True)
class Convolution(TwoLayer):
    """Filters, whose features are pooled outputs ``(x_ik^T u + b)_+`` of patches.

    Filters are neurons on patches, and their cost is the length of ``u``.

    Attributes
    ----------
    layout : Layout
    centre : ndarray of shape (patch_size,)
        What is taken off the patches.
    whitening : Whitening or None
        Of the patches, if filters have a batch normalisation.
    cells : Cells or None
        Those in which filters are searched for, if not by climbs.
    """

    layout: Layout = field(kw_only=True)
    centre: np.ndarray = field(kw_only=True)
    whitening: object = field(default=None, kw_only=True)
    cells: object = field(default=None, kw_only=True)

    has_cells = False

    @property
    def n_windows(self):
        return self.layout.n_windows

    @property
    def unit_size(self):
        """Numbers in a filter, in the coordinates of the patches."""
        if self.whitening is None:
            return self.layout.patch_size
        return self.whitening.forward.shape[1]

    @cached_property
    def typical_length(self):
        total = sum(
            float(np.sum(np.square(self.patches(rows)), dtype=np.float64))
            for rows in self.row_chunks(1)
        )
        return np.sqrt(total / self.n_rows)

    @property
    def n_rows(self):
        """Patches of all samples."""
        return len(self.X) * self.layout.n_patches

    @property
    def places(self):
        return self.layout.n_patches

    def reduced(self):
        return Coordinates(self)

    def patches(self, rows, dtype=None):
        """Patches of some samples.

        Parameters
        ----------
        rows : slice or ndarray of int
        dtype : dtype or None
            By default that of the data.

        Returns
        -------
        patches : ndarray of shape (n_windows, n_samples, window_size, unit_size)
        """
        own = self.X.dtype
        if dtype in (None, own) and self.n_rows * self.unit_size <= _KEPT:
            return self._all_patches[:, rows]
        return self._patches(self.X[rows].astype(dtype or own, copy=False))

    @cached_property
    def _all_patches(self):
        return self._patches(self.X)

    def _patches(self, X):
        patches = self.layout.patches(X)
        patches -= self.centre.astype(X.dtype, copy=False)
        if self.whitening is not None:
            patches = patches @ self.whitening.forward.astype(X.dtype, copy=False)
        return patches

    def row_chunks(self, width):
        size = max(width, self.unit_size, 1) * self.layout.n_patches
        size, n = max(1, _CHUNK // size), len(self.X)
        return [slice(i, min(i + size, n)) for i in range(0, n, size)]

    def none(self):
        return self.neurons(np.zeros((0, self.unit_size)), np.zeros(0))

    def neurons(self, directions, biases):
        linear = np.zeros(len(biases), dtype=bool)
        if self.fit_intercept and not self.layout.largest:
            linear[:] = True
            for rows in self.row_chunks(len(biases)):
                z = self.patches(rows, np.float64) @ directions.T + biases
                linear &= np.all(z > 0, axis=(0, 1, 2))
        return Neurons(directions, np.where(linear, 0.0, biases), linear)

    def features(self, units, rows=slice(None), dtype=None):
        dtype = self.X.dtype if dtype is None else dtype
        n = len(range(*rows.indices(len(self.X))))
        Z = np.empty((n, self.n_windows, len(units)), dtype)
        pooling = Pooling(self.layout.largest, units.linear)
        first = rows.start or 0
        directions, biases = units.directions.T.astype(dtype), units.biases
        for some in self.row_chunks(len(units)):
            step = slice(some.start, min(some.stop, n))
            if step.start >= n:
                break
            patches = self.patches(slice(first + step.start, first + step.stop), dtype)
            z = patches @ directions
            z += biases.astype(dtype)
            Z[step] = pooling.forward(z)[0].transpose(1, 0, 2)
        return Z.reshape(n, self.n_windows * len(units))

    def features_in_place(self, units, rows=slice(None), dtype=None):
        return self.features(units, rows, dtype)

    def random(self, size, rng):
        directions = rng.standard_normal((size, self.unit_size))
        directions /= row_norms(directions)[:, None]
        biases = np.zeros(size)
        if self.fit_intercept:
            patches = self.some_patches(size, rng)
            biases = -np.einsum("kd,kd->k", patches, directions)
        return self.neurons(directions, biases)

    def some_patches(self, size, rng):
        """Random patches, shape (size, unit_size)."""
        rows = rng.randint(len(self.X), size=size)
        patches = self.patches(rows, np.float64)
        window, place = (rng.randint(k, size=size) for k in patches.shape[::2])
        return patches[window, np.arange(size), place]

    def ground(self, N):
        patches = self.patches(slice(None))
        return self._ground(patches, N)

    def _ground(self, patches, N):
        weights = np.broadcast_to(N[None, :, None], (*patches.shape[:3], N.shape[1]))
        return Ground(
            np.ascontiguousarray(patches.reshape(-1, self.unit_size)),
            N,
            weights.reshape(-1, N.shape[1]),
            partial(PooledSlopes, layout=self.layout),
        )

    @property
    def stays(self):
        return self.cells is not None and not self.cells.complete

    def proven_slope(self, N):
        """No slope of a filter in the cells is larger, nor of one that is linear."""
        linear = self.linear(N, np.inf)[0] if self.fit_intercept else 0.0
        return float(max(linear, self.cells.proven_slope(N)))

    def search(self, N, size, rng, *, polish=None, **how):
        if self.cells is not None:
            return self.cells.search(self, N, how.get("floor", 0.0))
        if self.n_rows <= _MOST_PATCHES:
            how = how if polish is None else {"polish": polish, **how}
            return super().search(N, size, rng, **how)
        count = max(_MOST_PATCHES // self.layout.n_patches, _FEWEST)
        rows, shares = draw_by_residual(N, count, rng)
        some = N[rows] * shares[:, None]
        if self.fit_intercept:
            some -= some.mean(axis=0)
        ground = self._ground(self.patches(rows), some)
        how["floor"] = _WORTH * how.get("floor", 0.0)
        found = super().search(N, size, rng, polish=0, ground=ground, **how)
        found = found.select(slice(0, _MOST_EVALUATED)).uncounted()
        return over_all(self, found, N)

    def hidden(self, coefs, biases):
        Z = np.empty((len(self.X), self.n_windows, len(biases)))
        pooling = Pooling(self.layout.largest)
        for rows in self.row_chunks(len(biases)):
            z = self.patches(rows, np.float64) @ coefs + biases
            Z[rows] = pooling.forward(z)[0].transpose(1, 0, 2)
        return Z.reshape(len(Z), -1)

    def search_widely(self, N, size, rng, **options):
        return self.search(N, size, rng, **options)

    def search_near(self, N, directions, **options):
        if self.n_rows > _MOST_PATCHES:
            # Where searches see some samples, known filters are among their starts.
            return no_candidates(directions, self.n_windows * N.shape[1])
        ground = self.ground(N)
        return search_units(
            ground.X, N, directions, kind=ground.kind, **self.geometry, **options
        )

    def most_starts(self, n_outputs):
        return super().most_starts(n_outputs * self.layout.n_patches)

    def starts_of_claim(self, n_outputs):
        # All cells are searched each time.
        return 0 if self.cells is not None else super().starts_of_claim(n_outputs)

    def search_work(self, n_outputs):
        if self.cells is not None:
            return 0.0
        return super().search_work(n_outputs) * self.layout.n_patches

    def linear(self, N, floor):
        if self.layout.largest:
            # The largest of several patches is not linear, however large the bias.
            return 0.0, self.none()
        slopes = 0.0
        for rows in self.row_chunks(1):
            means = self.patches(rows, np.float64).mean(axis=2)
            slopes = slopes + np.matmul(means.transpose(0, 2, 1), N[rows])
        slopes = slopes.transpose(1, 0, 2).reshape(self.unit_size, -1)
        units, sizes, _ = svd(slopes, full_matrices=False, check_finite=False)
        units = units.T[sizes > floor]
        far = np.full(len(units), self.reach + 1.0)
        return sizes.max(initial=0.0), self.neurons(units, far)

    @cached_property
    def reach(self):
        """Length of the longest patch."""
        longest = [
            np.max(np.linalg.norm(self.patches(rows, np.float64), axis=3), initial=0.0)
            for rows in self.row_chunks(1)
        ]
        return float(max(longest))

    def random_weights(self, problem, n_units, rng):
        return random_filters(problem, n_units, rng)

    def descent(self, problem, weights):
        return ConvolutionDescent(problem, weights)

    def descend_in_batches(self, problem, weights, rng, n_steps):
        return descend_filters_in_batches(problem, weights, rng, n_steps)

    def upper_slope(self, N):
        # As of neurons, with the longest patch of each window.
        total = 0.0
        for rows in self.row_chunks(1):
            lengths = np.linalg.norm(self.patches(rows, np.float64), axis=3)
            lengths = lengths.max(axis=2) if self.layout.largest else lengths.mean(2)
            total += float(np.linalg.norm(lengths, axis=0) @ row_norms(N[rows]))
        return (1.0 + 1e-4) * total

    def layers(self, network):
        units, offset = network.units, network.offset.copy()
        biases = units.biases.copy()
        if np.any(units.linear):
            # A linear term becomes a filter that stays active on the patches, and as
            # far beyond them as they reach.
            low, high = self._range(units.directions[units.linear])
            biases[units.linear] = high - 2.0 * low
        added = (biases - units.biases)[:, None]
        offset -= np.sum(added * sums(network.outputs, len(offset)), axis=0)
        root = np.sqrt(network.sizes)
        output = in_numpy(self.dense(network.outputs / root[:, None]))
        return [units.directions.T * root, output], [biases * root, offset]

    def _range(self, directions):
        """Smallest and largest products of directions with patches."""
        parts = [
            self.patches(rows, np.float64) @ directions.T
            for rows in self.row_chunks(len(directions))
        ]
        low = np.min([part.min(axis=(0, 1, 2)) for part in parts], axis=0)
        high = np.max([part.max(axis=(0, 1, 2)) for part in parts], axis=0)
        return low, high

    def network_of_layers(self, coefs, intercepts):
        norms = np.linalg.norm(coefs[0], axis=0)
        used = norms > 0
        norms = norms[used]
        biases = self.fit_intercept * intercepts[0][used] / norms
        units = self.neurons(coefs[0].T[used] / norms[:, None], biases)
        outputs = self.grouped(coefs[1])[used] * norms[:, None]
        straight = (biases - units.biases)[:, None]
        straight = straight * sums(outputs, len(intercepts[1]))
        return Network(units, outputs, intercepts[1] + np.sum(straight, axis=0))
