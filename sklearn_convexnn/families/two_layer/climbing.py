"""Many climbers on the smoothed slopes of a dual point, in products of matrices."""

from dataclasses import dataclass, fields

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
# Part of the climbers that have ended, up to which they are carried along: to sort them
# out takes longer than to let them wait.
_WAITING = 0.1


@dataclass
class Kinks:
    """How the slopes of climbers are smoothed, one entry for each of them.

    Attributes
    ----------
    widths : ndarray of shape (n_climbers,)
    anchors : ndarray of shape (n_climbers, n_features) or None
        Samples that they hang on.
    """

    widths: np.ndarray
    anchors: np.ndarray | None

    def select(self, some):
        anchors = None if self.anchors is None else self.anchors[some]
        return Kinks(self.widths[some], anchors)


@dataclass
class _Climbers:
    """Those that still climb: where they are, what they see there, where they go.

    The gradient, its part along the sphere, the steepest way, how steep that is, and
    the conjugate direction.
    """

    numbers: np.ndarray
    kinks: Kinks
    metric: np.ndarray
    most: np.ndarray
    step: np.ndarray
    U: np.ndarray
    value: np.ndarray
    gradient: np.ndarray
    tangent: np.ndarray
    way: np.ndarray
    steep: np.ndarray
    ahead: np.ndarray

    def select(self, some):
        parts = (getattr(self, field.name) for field in fields(self))
        return _Climbers(
            *(p.select(some) if p is self.kinks else p[some] for p in parts)
        )


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
        # Of each climber, or one row for all; or how the data spread, for metrics that
        # depend on the direction.
        self.metric, self.spread = np.ones((1, d), dtype=X.dtype), None

    def kinks(self, widths, at=None):
        """Smoothed kinks of these widths, of climbers that hang on the samples `at`."""
        return Kinks(widths, None if at is None else self.X[at])

    def evaluate(self, U, kinks):
        """Values and gradients at the rows of `U`."""
        rows = max(32, self.chunk // len(self.X))
        if len(U) <= rows:
            check()
            return self._evaluate(U, kinks)
        parts = []
        for i in range(0, len(U), rows):
            check()
            some = slice(i, i + rows)
            parts.append(self._evaluate(U[some], kinks.select(some)))
        return tuple(np.concatenate(part) for part in zip(*parts))

    def _evaluate(self, U, kinks):
        d = U.shape[1]
        # Directions and biases, and what the outputs begin at, in widths of the kinks.
        rows = np.empty((len(U), d + 2), dtype=U.dtype)
        rows[:, :d], rows[:, d + 1] = U, 0.5
        rows[:, d] = 0.0
        if kinks.anchors is not None:
            rows[:, d] -= np.einsum("kd,kd->k", kinks.anchors, U)
        rows[:, : d + 1] /= kinks.widths[:, None]
        share = placed(rows, self.like) @ self.inward
        value, pull = self._pulls(rows[:, :-1], kinks.widths, share)
        gradient = pull[:, :-1]
        if kinks.anchors is not None:
            gradient = gradient - kinks.anchors * pull[:, -1:]
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
        """Norms of the slopes, and their derivatives by directions and biases.

        Rows, of directions and biases, and outputs are in widths of the kinks.
        """
        if self.outward is None:
            return self._pulls_at_once(widths, share)
        a = self.negative_slope
        share = clipped(share, 0.0, 1.0, out=share)
        pulls = in_numpy(share @ self.outward)
        pulls = pulls.reshape(len(rows), *self.straight.shape)
        share *= share
        # What the smoothed activation has beyond derivative times output.
        beyond = pulls[:, :, -1] - in_numpy(share @ self.N)
        if a != 0:
            pulls = (1.0 - a) * pulls + a * self.straight
        slopes = np.einsum("kcd,kd->kc", pulls, rows) + 0.5 * (1.0 - a) * beyond
        value, outputs = self._ways(slopes * widths[:, None])
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

    def climb(self, U, step, max_iter, kinks):
        """Ascend from unit rows along conjugate directions.

        Parameters
        ----------
        U : ndarray of shape (n_climbers, n_features)
        step : ndarray of shape (n_climbers,)
            Step sizes.
        max_iter : int or ndarray of shape (n_climbers,)
        kinks : Kinks

        Returns
        -------
        U : ndarray of shape (n_climbers, n_features)
        value, hope, step : ndarrays of shape (n_climbers,)
            Value, value as narrower kinks may have it, and step size.

        References
        ----------
        .. [1] Polak, E. and Ribière, G. (1969). "Note sur la convergence de méthodes
           de directions conjuguées". Revue française d'informatique et de recherche
           opérationnelle 3.
        """
        most = np.broadcast_to(max_iter, len(U))
        metric = np.broadcast_to(self.metric, U.shape)
        value, gradient = self.evaluate(U, kinks)
        tangent, way, steep = self._up(U, gradient, metric)
        parts = kinks, metric, most, step, U, value, gradient, tangent, way, steep, way
        some = _Climbers(np.arange(len(U)), *parts)
        U, value, step = U.copy(), value.copy(), step.copy()
        # Without what the smoothing takes off, which may come back.
        hope = np.empty_like(value)
        for done in range(np.max(most, initial=0) + 1):
            ended = some.most <= done
            climbing = (some.step > _SHORT) & ~ended
            waiting = len(climbing) - np.count_nonzero(climbing)
            if np.any(ended) or waiting > _WAITING * len(climbing):
                off = some.select(~climbing)
                at = off.numbers
                U[at], value[at], step[at] = off.U, off.value, off.step
                hope[at] = np.einsum("kd,kd->k", off.gradient, off.U)
                some = some.select(climbing)
                climbing = climbing[climbing]
            if len(climbing) == 0:
                break
            self._step(some, climbing)
        return U, value, hope, step

    def _step(self, some, climbing):
        """One step of those that are `climbing`, and the direction of the next one."""
        trial = self._moved(some.U, some.ahead, some.step)
        found, slope = self.evaluate(trial, some.kinks)
        better = (found > some.value) & climbing
        mine = better[:, None]
        some.U = np.where(mine, trial, some.U)
        some.value = np.where(better, found, some.value)
        some.gradient = np.where(mine, slope, some.gradient)
        before, steep_before = some.tangent, some.steep
        up = self._up(some.U, some.gradient, some.metric)
        some.tangent, some.way, some.steep = up
        gain = some.steep - np.einsum("kd,kd->k", before, some.way)
        part = gain / np.maximum(steep_before, _TINY)
        part = np.where(better, np.clip(part, 0.0, 2.0), part.dtype.type(0.0))
        onward = some.way + part[:, None] * _along(some.U, some.ahead)
        down = np.einsum("kd,kd->k", onward, some.gradient) <= 0
        some.ahead = np.where(down[:, None], some.way, onward)
        pace = np.where(better, some.step.dtype.type(1.5), some.step.dtype.type(0.4))
        some.step = np.minimum(some.step * pace, 4.0)

    def _up(self, U, gradient, metric):
        """Gradients along the sphere, the steepest ways, and how steep these are."""
        tangent = _along(U, gradient)
        way = metric * tangent if self.spread is None else tangent / self.stretch(U)
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
