"""Descent on the non-convex objective, from random neurons or from given ones."""

import numpy as np

from sklearn_convexnn.families.two_layer.pricing import column_spread
from sklearn_convexnn.model.neurons import Neurons
from sklearn_convexnn.solvers.descent import descend

# Neurons with less than this part of the largest magnitude are left out.
_GONE = 1e-6


def place_neurons(problem, n_neurons, rng, max_iter=200, **options):
    """Move random neurons by L-BFGS on the weight-decay objective.

    Where they end is a local minimum at best, but the cells they end in are
    far better than random ones.

    Parameters
    ----------
    problem : Problem
    n_neurons : int
    rng : RandomState
    max_iter : int, default=200
    **options
        Further ones of `descend`.

    Returns
    -------
    neurons : Neurons
        Those that the weight decay has not removed.
    """
    X, y, s = problem.X, problem.y, problem.sample_weight
    n, d = X.shape
    offset = problem.null().offset
    size = np.sqrt(np.mean(np.sum(X**2, axis=1)))
    spread = problem.loss.spread(np.full(n, offset), y, s)
    # Wide starts, of outputs well above those needed: descent thins them out.
    root = np.sqrt(max(spread, 1e-300) * np.sqrt(d) / size)
    W = root * rng.standard_normal((d, n_neurons)) / np.sqrt(d)
    v = root * rng.standard_normal(n_neurons)
    if problem.apart:
        spread = column_spread(X, problem.fit_intercept, True)
        W, v = shaped_starts(W, v[:, None], spread)
        v = v[:, 0]
    bias = np.zeros(n_neurons)
    if problem.fit_intercept:
        bias = -np.einsum("kd,dk->k", X[rng.randint(n, size=n_neurons)], W)
    linear = np.zeros(n_neurons, dtype=bool)
    return _descend(problem, W, v, bias, linear, offset, max_iter, options)


def shaped_starts(W, V, spread):
    """Random weights that go by the spread of the features, more or less.

    Where some features spread far more than others, random neurons follow these; if
    all contribute alike, those of small scale cost the most.

    Parameters
    ----------
    W : ndarray of shape (n_features, n_neurons)
        Hidden weights.
    V : ndarray of shape (n_neurons, n_outputs)
        Output weights.
    spread : ndarray of shape (n_features,)

    Returns
    -------
    W, V : ndarrays
        Hidden and output weights of a neuron are of equal norms.
    """
    part = np.arange(len(V)) / max(len(V) - 1, 1)
    W = W * (spread.max() / spread[:, None]) ** part
    norms, sizes = np.linalg.norm(W, axis=0), np.linalg.norm(V, axis=1)
    root = np.sqrt(sizes / np.maximum(norms, 1e-300))
    return W * root, V / np.maximum(root, 1e-300)[:, None]


def improve_neurons(problem, neurons, max_iter=200, **options):
    """Move the neurons of a network by L-BFGS on the weight-decay objective.

    Parameters
    ----------
    problem : Problem
    neurons : Neurons
    max_iter : int, default=200
    **options
        Further ones of `descend`.

    Returns
    -------
    neurons : Neurons
    """
    root = np.sqrt(neurons.magnitudes)
    straight = neurons.signs * neurons.magnitudes * neurons.biases
    W, v = neurons.directions.T * root, root * neurons.signs
    return _descend(
        problem,
        W,
        v,
        root * neurons.biases,
        neurons.linear,
        neurons.offset + np.sum(straight[neurons.linear]),
        max_iter,
        options,
    )


def _descend(problem, W, v, bias, linear, offset, max_iter, options):
    """The network after a descent from hidden and output weights and biases."""
    p = problem
    W, V, bias, offset = descend(
        p.X,
        _Loss(p),
        W,
        v[:, None],
        bias,
        np.array([offset]),
        alpha=p.alpha,
        linear=linear,
        free_bias=p.fit_intercept,
        negative_slope=p.negative_slope,
        apart=p.apart,
        max_iter=max_iter,
        **options,
    )
    v = V[:, 0]
    norm = np.linalg.norm(W, axis=0)
    magnitude = norm * np.abs(v)
    keep = magnitude > _GONE * magnitude.max(initial=0.0)
    return Neurons(
        directions=(W[:, keep] / norm[keep]).T,
        biases=np.where(linear, 0.0, bias)[keep] / norm[keep],
        magnitudes=magnitude[keep],
        signs=np.sign(v[keep]),
        linear=linear[keep],
        offset=float(offset[0]),
    )


class _Loss:
    """Loss of one output, for outputs of shape (n_samples, 1)."""

    def __init__(self, problem):
        self.loss, self.rest = problem.loss, (problem.y, problem.sample_weight)

    def value(self, F):
        return self.loss.value(F[:, 0], *self.rest)

    def gradient(self, F):
        return self.loss.gradient(F[:, 0], *self.rest)[:, None]
