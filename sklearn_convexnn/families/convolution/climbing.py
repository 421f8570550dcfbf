"""The search for steep filters: climbers on pooled outputs."""

import numpy as np

from sklearn_convexnn._utils.deadlines import check
from sklearn_convexnn.families.convolution.pooling import Pooling, mean_of
from sklearn_convexnn.families.two_layer.climbing import Hill
from sklearn_convexnn.families.two_layer.pricing import SlopeSearch

# Products of filters with patches that are computed at once.
_CHUNK = 400_000
# Patches at which the output of a filter may begin that are compared: all if they are
# few, and so many of more.
_FEW, _PICKS = 200, 24


class PooledSlopes(SlopeSearch):
    """Slopes of filters ``||sum_i z_i(u) N_i^T||``, of features that are pooled.

    Parameters
    ----------
    X : ndarray of shape (n_windows * n_samples * window_size, patch_size)
        Patches, those of a window and sample after each other.
    N : ndarray of shape (n_samples, n_outputs)
    layout : Layout
    **options : dict
        As of `SlopeSearch`.
    """

    def __init__(self, X, N, *, layout, **options):
        super().__init__(X, N, **options)
        self.layout = layout
        self.shape = layout.n_windows, len(N), layout.window_size
        self.n_columns = layout.n_windows * N.shape[1]

    def hill(self):
        return PooledHill(self)

    def bent(self, Z, N):
        # The largest of several patches has no linear part.
        return N

    def slopes(self, z):
        # The products are not needed any more.
        Z, _ = Pooling(self.layout.largest).forward(z.reshape(*self.shape, -1))
        slopes = np.matmul(Z.transpose(0, 2, 1), self.N)
        return slopes.transpose(1, 0, 2).reshape(Z.shape[2], -1)

    def anchor(self, U):
        best = np.empty(len(U), dtype=int)
        rows = max(1, _CHUNK // len(self.X))
        for i in range(0, len(U), rows):
            check()
            best[i : i + rows] = self._anchor(U[i : i + rows])
        return best

    def _anchor(self, U):
        """Of some patches that for which a filter is steepest if it begins there."""
        z = self.X @ U.T
        at = np.arange(len(z))
        if len(z) > _FEW:
            at = np.linspace(0, len(z) - 1, _PICKS).astype(int)
        starts, best = z[at], np.full(len(U), -1.0)
        chosen = np.zeros(len(U), dtype=int)
        for begin, row in zip(starts, at):
            size = np.linalg.norm(self.slopes(z - begin), axis=1)
            better = size > best
            best[better], chosen[better] = size[better], row
        return chosen

    def polish(self, candidates, rounds=4):
        if self.layout.largest:
            # With the winners fixed there is no bound of the slopes from below.
            return candidates
        return super().polish(candidates, rounds)

    def outward(self, outputs):
        """Weights of the outputs of all patches in the slopes of units."""
        q, _, w = self.shape
        m = len(outputs)
        ways = outputs.reshape(m, q, -1).transpose(1, 2, 0)
        weights = np.matmul(self.N, ways) / w
        return np.repeat(weights[:, :, None], w, axis=2).reshape(-1, m)


class PooledHill(Hill):
    """As `Hill`, of filters.

    Parameters
    ----------
    search : PooledSlopes
    """

    def __init__(self, search):
        self.X, self.search = search.X, search
        self.chunk, self.negative_slope = _CHUNK, 0.0
        self.metric = np.ones((1, self.X.shape[1]), dtype=self.X.dtype)
        self.spread = None

    def _evaluate(self, U, kinks):
        search, layout, widths = self.search, self.search.layout, kinks.widths
        begins = 0.0
        if kinks.anchors is not None:
            begins = np.einsum("kd,kd->k", kinks.anchors, U)
        z = (self.X @ U.T).reshape(*search.shape, -1)
        z -= begins
        z /= widths
        z += 0.5
        top = np.max(z, axis=2) if layout.largest else z
        share = np.clip(top, 0.0, 1.0)
        # As a unit has it: half of the square, and beyond the kink what is left.
        smooth = np.maximum(top - 1.0, 0.0) + 0.5 * share**2
        Z = smooth if layout.largest else mean_of(smooth)
        slopes = np.matmul(Z.transpose(0, 2, 1), search.N).transpose(1, 0, 2)
        slopes = slopes * widths[:, None, None]
        value = np.sqrt(np.einsum("kqc,kqc->k", slopes, slopes))
        tiny = np.finfo(slopes.dtype).tiny
        ways = (slopes / np.maximum(value, tiny)[:, None, None]).transpose(1, 2, 0)
        pulls = np.matmul(search.N, ways)
        if layout.largest:
            first = z == top[:, :, None]
            pulls *= share / np.sum(first, axis=2, dtype=z.dtype)
            np.multiply(first, pulls[:, :, None], out=z)
        else:
            np.multiply(share, (pulls / search.shape[2])[:, :, None], out=z)
        z = z.reshape(len(self.X), -1)
        gradient = z.T @ self.X
        if kinks.anchors is not None:
            gradient -= kinks.anchors * np.sum(z, axis=0)[:, None]
        return value, gradient
