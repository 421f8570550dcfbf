"""Many climbers on the smoothed slopes of a dual point, in products of matrices."""

import numpy as np

from sklearn_convexnn._utils.deadlines import check
from sklearn_convexnn._utils.devices import clipped, in_main_memory, in_numpy, placed

# Elements of the array of all outputs in one step: it should stay in the cache, or in
# the memory of a device.
_CHUNK, _LARGE_CHUNK = 120_000, 50_000_000
# Step size at which a climb ends, and what is far from overflow if divided by.
_SHORT, _TINY = 1e-3, np.float32(1e-20)
# Columns of derivatives of all outputs up to which these are formed one by one.
_FEW = 100


class Hill:
    """Norms of the slopes over the outputs, with smoothed kinks, and the ascent.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    N : ndarray of shape (n_samples, n_outputs)
    negative_slope : float
    like : array or None
        Of the library, and on the device, that takes the products whose number is
        that of samples times climbers; NumPy by default.
    """

    def __init__(self, X, N, negative_slope, like=None):
        self.X, self.negative_slope = X, negative_slope
        self.like = X if like is None else like
        (n, d), c = X.shape, N.shape[1]
        self.chunk = _CHUNK if in_main_memory(self.like) else _LARGE_CHUNK
        ones = np.ones((n, 1), dtype=X.dtype)
        rows = np.column_stack([X, ones])
        self.inward = placed(np.column_stack([rows, ones]).T, self.like)
        self.N = placed(N, self.like)
        self.outward, self.straight = None, N.T @ rows
        if c * (d + 1) <= _FEW:
            # Products of matrices cost less than passes over all outputs.
            outward = (N[:, :, None] * rows[:, None]).reshape(n, -1)
            self.outward = placed(outward, self.like)
        self.metrics, self.spread = np.ones((1, X.shape[1]), dtype=X.dtype), None

    def smooth(self, widths, at, metric=None):
        """Set the widths of the kinks, the samples to hang on, and which metric counts.

        All for each climber.
        """
        self.widths, self.at = widths, at
        self.metric = np.zeros(len(widths), dtype=int) if metric is None else metric

    def evaluate(self, U, live):
        """Values and gradients at the rows of `U`, for the climbers `live`."""
        rows = max(32, self.chunk // len(self.X))
        parts = []
        for i in range(0, len(U), rows):
            check()
            parts.append(self._evaluate(U[i : i + rows], live[i : i + rows]))
        return tuple(np.concatenate(part) for part in zip(*parts))

    def _evaluate(self, U, live):
        widths, ones = self.widths[live], np.ones(len(U), dtype=U.dtype)
        anchors, shift = None, np.zeros_like(ones)
        if self.at is not None:
            anchors = self.X[self.at[live]]
            shift = np.einsum("kd,kd->k", anchors, U)
        rows = np.column_stack([U, -shift])
        # Outputs of the units in widths of the kinks, which begin at zero.
        share = np.column_stack([rows / widths[:, None], ones / 2])
        share = placed(share, self.like) @ self.inward
        value, pull = self._pulls(rows, widths, share)
        gradient = pull[:, :-1]
        if anchors is not None:
            gradient = gradient - anchors * pull[:, -1:]
        return value, gradient

    def _pulls_at_once(self, widths, share):
        """As `_pulls`, by passes over the outputs, whose number is that of samples."""
        a = self.negative_slope
        straight = a * (share - 0.5) if a != 0 else None
        # The activation in widths of its kink: half of the square of its derivative,
        # and beyond the kink what is left of the output.
        smooth = clipped(share, 0.0, None, out=share)
        share = clipped(smooth, None, 1.0)
        smooth -= share
        smooth += share * share / 2
        if a != 0:
            smooth = (1.0 - a) * smooth + straight
            share = (1.0 - a) * share + a
        value, outputs = self._ways(widths[:, None] * in_numpy(smooth @ self.N))
        share *= placed(outputs, self.like) @ self.N.T
        return value, in_numpy(share @ self.inward[:-1, :].T)

    def _pulls(self, rows, widths, share):
        """Norms of the slopes, and their derivatives by directions and biases."""
        if self.outward is None:
            return self._pulls_at_once(widths, share)
        a, half = self.negative_slope, 0.5 * widths[:, None]
        share = clipped(share, 0.0, 1.0, out=share)
        pulls = in_numpy(share @ self.outward)
        pulls = pulls.reshape(len(rows), *self.straight.shape)
        share *= share
        # What the smoothed activation has beyond derivative times output.
        beyond = pulls[:, :, -1] - in_numpy(share @ self.N)
        if a != 0:
            pulls = (1.0 - a) * pulls + a * self.straight
        slopes = np.einsum("kcd,kd->kc", pulls, rows) + (1.0 - a) * half * beyond
        value, outputs = self._ways(slopes)
        return value, np.einsum("kcd,kc->kd", pulls, outputs)

    @staticmethod
    def _ways(slopes):
        """Norms of the rows, and their directions."""
        value = row_norms(slopes)
        return value, slopes / np.maximum(value, np.finfo(slopes.dtype).tiny)[:, None]

    def stretch(self, U):
        """Metric of each unit row of `U`: half as weights, half as outputs change.

        Where the data spread a thousand times more along one axis than along another,
        a small turn towards the first one changes the pattern of a neuron along the
        second, though not its weights.
        """
        outputs = np.square(self.spread / row_norms(U * self.spread)[:, None])
        return U.dtype.type(0.5) * (U.dtype.type(1.0) + outputs)

    def climb(self, U, step, max_iter):
        """Ascend from the unit rows of `U`, in place, along conjugate directions.

        Parameters
        ----------
        U : ndarray of shape (n_climbers, n_features)
        step : ndarray of shape (n_climbers,)
            Step sizes.
        max_iter : int or ndarray of shape (n_climbers,)

        Returns
        -------
        value, hope, step : ndarrays of shape (n_climbers,)
            Value, value as narrower kinks may have it, and step size.

        References
        ----------
        .. [1] Polak, E. and Ribière, G. (1969). "Note sur la convergence de méthodes
           de directions conjuguées". Revue française d'informatique et de recherche
           opérationnelle 3.
        """
        live, most = np.arange(len(U)), np.broadcast_to(max_iter, len(U))
        value, gradient = self.evaluate(U, live)
        tangent, way, steep = self._up(U, gradient, live)
        ahead = way.copy()
        for done in range(np.max(most, initial=0)):
            live = live[(step[live] > _SHORT) & (most[live] > done)]
            if len(live) == 0:
                break
            trial = self._moved(U[live], ahead[live], step[live])
            found, slope = self.evaluate(trial, live)
            better = found > value[live]
            moved, back = live[better], live[~better]
            U[moved], value[moved] = trial[better], found[better]
            gradient[moved] = slope[better]
            before, steep_before = tangent[moved], steep[moved]
            up = self._up(U[moved], gradient[moved], moved)
            tangent[moved], way[moved], steep[moved] = up
            gain = steep[moved] - np.einsum("kd,kd->k", before, way[moved])
            part = np.clip(gain / np.maximum(steep_before, _TINY), 0.0, 2.0)
            onward = way[moved] + part[:, None] * _along(U[moved], ahead[moved])
            down = np.einsum("kd,kd->k", onward, gradient[moved]) <= 0
            ahead[moved] = np.where(down[:, None], way[moved], onward)
            ahead[back] = way[back]
            step[live] = np.minimum(step[live] * np.where(better, 1.5, 0.4), 4.0)
        # Without what the smoothing takes off, which may come back.
        return value, np.einsum("kd,kd->k", gradient, U), step

    def _up(self, U, gradient, climbers):
        """Gradients along the sphere, the steepest ways, and how steep these are."""
        tangent = _along(U, gradient)
        if self.spread is None:
            one = len(self.metrics) == 1
            way = self.metrics[0 if one else self.metric[climbers]] * tangent
        else:
            way = tangent / self.stretch(U)
        return tangent, way, np.einsum("kd,kd->k", tangent, way)

    def _moved(self, U, ahead, step):
        """Unit rows after steps of these sizes."""
        size = row_norms(ahead)
        if self.spread is not None:
            size = row_norms(ahead * np.sqrt(self.stretch(U)))
        moved = U + ahead * (step / np.maximum(size, _TINY))[:, None]
        return moved / np.maximum(row_norms(moved), _TINY)[:, None]


def _along(U, ways):
    """What ways from the unit rows of `U` have along the sphere."""
    return ways - np.einsum("kd,kd->k", ways, U)[:, None] * U


def row_norms(rows):
    """Euclidean norms, shape (n_rows,).

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_features)

    Returns
    -------
    norms : ndarray of shape (n_rows,)
    """
    return np.sqrt(np.einsum("kd,kd->k", rows, rows))
