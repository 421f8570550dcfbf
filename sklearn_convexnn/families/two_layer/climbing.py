"""Many climbers on the smoothed slopes of a dual point, in products of matrices."""

import numpy as np

from sklearn_convexnn._utils.deadlines import check

# Elements of the array of all outputs in one step: it should stay in the cache.
_CHUNK = 120_000


class Hill:
    """Smoothed slopes of one sign, and the ascent on them.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    nu : ndarray of shape (n_samples,)
        Decreasing: the positive ones first.
    negative_slope : float
    """

    def __init__(self, X, nu, negative_slope):
        self.X, self.nu, self.negative_slope = X, nu, negative_slope
        self.n_convex = c = int(np.sum(nu > 0))
        self.linear = nu @ X
        self.metric, self.spread = np.ones(X.shape[1], dtype=X.dtype), None
        # One formula for all samples, in two products of matrices: the derivative
        # of the activation is clip(z / width + 1 / 2, 0, 1), and convex kinks have
        # next to no width.
        scale = np.ones((len(X), 1), dtype=X.dtype)
        scale[:c] = 1e4
        middle = np.full_like(scale, 0.5)
        self.inward = np.hstack([scale * X, scale, middle]).T
        concave = np.where(np.arange(len(X)) < c, 0.0, nu).astype(X.dtype)
        self.outward = np.column_stack([nu[:, None] * X, nu, concave])

    def smooth(self, widths, at):
        """Set the widths of the concave kinks, and the samples to hang on."""
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
        a, d, c = self.negative_slope, self.X.shape[1], self.n_convex
        widths = self.widths[live]
        shift = np.zeros(len(U), dtype=U.dtype)
        if self.at is not None:
            anchors = self.X[self.at[live]]
            shift = -np.einsum("kd,kd->k", anchors, U)
        scaled = np.column_stack([U, shift]) / widths[:, None]
        ones = np.ones(len(U), dtype=U.dtype)
        share = np.column_stack([scaled, ones]) @ self.inward
        np.clip(share, 0.0, 1.0, out=share)
        sums = share @ self.outward
        # What the smoothed activation has beyond derivative times output.
        beyond = sums[:, d + 1]
        beyond -= np.square(share[:, c:]) @ self.nu[c:]
        gradient, total = sums[:, :d], sums[:, d]
        if a != 0:
            gradient = (1.0 - a) * gradient + a * self.linear
            total = (1.0 - a) * total
        if self.at is not None:
            gradient = gradient - anchors * total[:, None]
        value = np.einsum("kd,kd->k", gradient, U)
        return value + (1.0 - a) * 0.5 * widths * beyond, gradient

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
