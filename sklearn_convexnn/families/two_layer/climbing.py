"""Many climbers on the smoothed slopes of a dual point, in products of matrices."""

import numpy as np

from sklearn_convexnn._utils.deadlines import check

# Elements of the array of all outputs in one step: it should stay in the cache.
_CHUNK = 120_000


class Hill:
    """Norms of the slopes over the outputs, with smoothed kinks, and the ascent.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    N : ndarray of shape (n_samples, n_outputs)
    negative_slope : float
    """

    def __init__(self, X, N, negative_slope):
        self.X, self.N, self.negative_slope = X, N, negative_slope
        self.metric, self.spread = np.ones(X.shape[1], dtype=X.dtype), None

    def smooth(self, widths, at):
        """Set the widths of the kinks, and the samples to hang on."""
        self.widths, self.at = widths, at

    def evaluate(self, U, live):
        """Values and gradients at the rows of `U`, for the climbers `live`."""
        rows = max(32, _CHUNK // len(self.X))
        parts = []
        for i in range(0, len(U), rows):
            check()
            parts.append(self._evaluate(U[i : i + rows], live[i : i + rows]))
        return tuple(np.concatenate(part) for part in zip(*parts))

    def _evaluate(self, U, live):
        a, widths = self.negative_slope, self.widths[live]
        z = self.X @ U.T
        if self.at is not None:
            anchors = self.X[self.at[live]]
            z -= np.einsum("kd,kd->k", anchors, U)
        share = z / widths
        share += z.dtype.type(0.5)
        np.clip(share, 0.0, 1.0, out=share)
        # The smoothed activation.
        smooth = share * z
        smooth += 0.5 * widths * (share - share * share)
        if a != 0:
            smooth = (1.0 - a) * smooth + a * z
            share = (1.0 - a) * share + z.dtype.type(a)
        slopes = smooth.T @ self.N
        value = row_norms(slopes)
        outputs = slopes / np.maximum(value, np.finfo(U.dtype).tiny)[:, None]
        share *= self.N @ outputs.T
        gradient = share.T @ self.X
        if self.at is not None:
            gradient -= anchors * np.sum(share, axis=0)[:, None]
        return value, gradient

    def stretch(self, U):
        """Metric of each unit row of `U`: half as weights, half as outputs change.

        Where the data spread a thousand times more along one axis than along another,
        a small turn towards the first one changes the pattern of a neuron along the
        second, though not its weights.
        """
        outputs = np.square(self.spread / row_norms(U * self.spread)[:, None])
        return U.dtype.type(0.5) * (U.dtype.type(1.0) + outputs)

    def climb(self, U, step, max_iter):
        """Ascend from the unit rows of `U`, in place.

        Returns
        -------
        value, hope, step : ndarrays of shape (n_climbers,)
            Value, value as narrower kinks may have it, and step size.
        """
        tiny = U.dtype.type(1e-20)  # far from overflow of what is divided by it
        live = np.arange(len(U))
        value, gradient = self.evaluate(U, live)
        for _ in range(max_iter):
            live = live[step[live] > 1e-3]
            if len(live) == 0:
                break
            here = value[live, None] * U[live]
            if self.spread is None:
                ahead = self.metric * (gradient[live] - here) + here
                size = row_norms(ahead)
            else:
                stretch = self.stretch(U[live])
                ahead = (gradient[live] - here) / stretch + here
                size = row_norms(ahead * np.sqrt(stretch))
            ahead *= (step[live] / np.maximum(size, tiny))[:, None]
            ahead += U[live]
            ahead /= np.maximum(row_norms(ahead), tiny)[:, None]
            found, slope = self.evaluate(ahead, live)
            better = found > value[live]
            index = live[better]
            U[index], value[index] = ahead[better], found[better]
            gradient[index] = slope[better]
            step[live] = np.minimum(step[live] * np.where(better, 1.5, 0.4), 4.0)
        # Without what the smoothing takes off, which may come back.
        return value, np.einsum("kd,kd->k", gradient, U), step


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
