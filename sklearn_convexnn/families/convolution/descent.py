"""Descent on the non-convex objective of a convolutional network."""

import numpy as np

from sklearn_convexnn._utils.deadlines import check
from sklearn_convexnn.families.convolution.pooling import Pooling
from sklearn_convexnn.model.windows import dense, grouped
from sklearn_convexnn.solvers.descent import Descent, Objective
from sklearn_convexnn.solvers.mini_batches import Adam, descend
from sklearn_convexnn.solvers.weights import Weights, random_size

# Products of filters with patches that are computed at once: they should stay in the
# cache.
_CHUNK = 400_000


def random_filters(problem, n_filters, rng):
    """Weights of random filters to start a descent from.

    Parameters
    ----------
    problem : Problem
        Of a family of filters.
    n_filters : int
    rng : RandomState

    Returns
    -------
    weights : Weights
    """
    p, family = problem, problem.family
    h, columns = family.unit_size, family.n_windows * p.n_outputs
    root = random_size(p, n_filters)
    W = root * rng.standard_normal((h, n_filters)) / np.sqrt(h)
    V = rng.standard_normal((n_filters, columns))
    V *= root / np.maximum(np.linalg.norm(V, axis=1), 1e-300)[:, None]
    bias = np.zeros(n_filters)
    if p.fit_intercept:
        # Half way between a patch and the mean, which is zero.
        patches = family.some_patches(n_filters, rng)
        bias = -0.5 * np.einsum("kd,dk->k", patches, W)
    linear = np.zeros(n_filters, dtype=bool)
    return Weights(W, V, bias, linear, p.null().offset)


def pass_over(problem, weights, rows):
    """Loss of some samples, and its derivatives by all weights.

    Parameters
    ----------
    problem : Problem
    weights : Weights
        In the precision of the data, but for the offset.
    rows : slice or ndarray of int
        Of the samples.

    Returns
    -------
    value : float
    hidden, output, bias, offset : ndarray
        Derivatives.
    """
    family, w = problem.family, weights
    patches = family.patches(rows)
    shape = patches.shape
    patches = patches.reshape(-1, shape[3])
    pooling = Pooling(family.layout.largest, w.linear)
    z = patches @ w.hidden
    z += w.bias
    Z, state = pooling.forward(z.reshape(*shape[:3], -1))
    c = problem.n_outputs
    V = dense(w.output, shape[0]).reshape(shape[0], -1, c)
    F = np.matmul(Z, V).sum(axis=0, dtype=np.float64) + w.offset
    Y, s = problem.Y[rows], problem.sample_weight[rows]
    N = problem.loss.gradient(F, Y, s)
    short = N.astype(Z.dtype)
    of_output = np.matmul(Z.transpose(0, 2, 1), short)
    pulls = pooling.backward(np.matmul(short, V.transpose(0, 2, 1)), state)
    pulls = pulls.reshape(len(patches), -1)
    return (
        problem.loss.value(F, Y, s),
        patches.T @ pulls,
        grouped(of_output.reshape(-1, c), shape[0]),
        np.sum(pulls, axis=0, dtype=np.float64),
        np.sum(N, axis=0),
    )


class _Objective(Objective):
    """The weight-decay objective of filters."""

    def __init__(self, problem, weights):
        super().__init__(problem, weights)
        family = problem.family
        m = max(weights.hidden.shape[1], family.unit_size)
        size, n = max(1, _CHUNK // (family.layout.n_patches * m)), len(family.X)
        self.chunks = [slice(i, min(i + size, n)) for i in range(0, n, size)]

    def value_and_gradient(self, x):
        p, family = self.problem, self.problem.family
        W, V, bias, offset = self.split(x)
        short = [part.astype(family.X.dtype) for part in (W, V, bias * self.bent)]
        weights = Weights(*short, self.weights.linear, offset)
        value, totals = 0.0, None
        for rows in self.chunks:
            check(2.0 * family.places * W.size * (rows.stop - rows.start))
            part, *slopes = pass_over(p, weights, rows)
            value += part
            slopes = [slope.astype(np.float64) for slope in slopes]
            totals = slopes if totals is None else [*map(np.add, totals, slopes)]
        hidden, output, bias, offset = totals
        gradient = [
            (hidden + p.alpha * W).ravel(),
            (output + p.alpha * V).ravel(),
            self.bent * bias,
            offset * p.fit_intercept,
        ]
        penalty = 0.5 * p.alpha * (np.vdot(W, W) + np.vdot(V, V))
        return value + penalty, self.units * np.concatenate(gradient)


class ConvolutionDescent(Descent):
    """As `Descent`, of filters."""

    objective = _Objective


class _Adam(Adam):
    """Filters that move in place."""

    def _derivatives(self, batch):
        p, w = self.problem, self.weights
        _, hidden, output, bias, offset = pass_over(p, w, batch)
        count = w.hidden.dtype.type(len(batch))
        return (
            hidden / count + self.decay * w.hidden,
            output / count + self.decay * w.output,
            self.bent * (bias / count).astype(w.bias.dtype),
            (offset / count).astype(w.offset.dtype),
        )


def descend_filters_in_batches(problem, weights, rng, n_steps):
    """As `descend_in_batches`, of filters.

    Parameters
    ----------
    problem, weights, rng, n_steps
        As there.

    Returns
    -------
    weights : Weights
    """
    return descend(_Adam(problem, weights), len(problem.X), rng, n_steps)
