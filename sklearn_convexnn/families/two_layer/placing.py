"""Descent on the non-convex objective, from random neurons or from given ones."""

import numpy as np

from sklearn_convexnn.families.two_layer.neurons import Neurons
from sklearn_convexnn.families.two_layer.starts import column_spread
from sklearn_convexnn.model.network import Network
from sklearn_convexnn.model.windows import sums
from sklearn_convexnn.solvers.weights import Weights, random_size

# Neurons with less than this part of the largest size are left out.
_GONE = 1e-6
# Part of the objective without neurons that the weights of random ones may cost.
_COST = 0.3


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
        Further ones of `Descent.run`.

    Returns
    -------
    network : Network
        Of those that the weight decay has not removed.
    """
    start = problem.family.random_weights(problem, n_neurons, rng)
    return network_of(problem.family.descent(problem, start).run(max_iter, **options))


def random_weights(problem, n_neurons, rng):
    """Hidden and output weights to start a descent from.

    Parameters
    ----------
    problem : Problem
    n_neurons : int
    rng : RandomState

    Returns
    -------
    weights : Weights
    """
    p = problem
    n, d = p.X.shape
    c = p.n_outputs
    offset = p.null().offset
    root = random_size(p, n_neurons)
    W = root * rng.standard_normal((d, n_neurons)) / np.sqrt(d)
    V = rng.standard_normal((n_neurons, c))
    V *= root / np.maximum(np.linalg.norm(V, axis=1), 1e-300)[:, None]
    if p.family.apart:
        # A network that costs more than it can gain is no start.
        most = _COST * p.value(np.zeros((n, c)) + offset) / p.alpha
        spread = column_spread(p.X, p.fit_intercept, True)
        W, V = shaped_starts(W, V, spread, most / max(n_neurons, 1))
    bias = np.zeros(n_neurons)
    if p.fit_intercept:
        at = rng.randint(n, size=n_neurons)
        bias = -0.5 * np.einsum("kd,dk->k", p.X[at] + p.X.mean(axis=0), W)
    linear = np.zeros(n_neurons, dtype=bool)
    return Weights(W, V, bias, linear, offset)


def shaped_starts(W, V, spread, most):
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
    most : float
        Largest size of a neuron, the product of the norms of its weights.

    Returns
    -------
    W, V : ndarrays
        Hidden and output weights of a neuron are of equal norms.
    """
    part = np.arange(len(V)) / max(len(V) - 1, 1)
    W = W * (spread.max() / spread[:, None]) ** part
    norms, sizes = np.linalg.norm(W, axis=0), np.linalg.norm(V, axis=1)
    root = np.sqrt(np.minimum(norms * sizes, most))
    W = W * (root / np.maximum(norms, 1e-300))
    return W, V * (root / np.maximum(sizes, 1e-300))[:, None]


def improve_neurons(problem, network, max_iter=200, **options):
    """Move the neurons of a network by L-BFGS on the weight-decay objective.

    Parameters
    ----------
    problem : Problem
    network : Network
        Of positive sizes.
    max_iter : int, default=200
    **options
        Further ones of `Descent.run`, as `deadline`.

    Returns
    -------
    network : Network
    """
    start = weights_of(network)
    return network_of(problem.family.descent(problem, start).run(max_iter, **options))


def weights_of(network):
    """Hidden and output weights of a network.

    Parameters
    ----------
    network : Network
        Of positive sizes.

    Returns
    -------
    weights : Weights
    """
    root, neurons = np.sqrt(network.sizes), network.units
    W, V = neurons.directions.T * root, network.outputs / root[:, None]
    straight = neurons.biases[neurons.linear] @ sums(
        network.outputs[neurons.linear], len(network.offset)
    )
    offset = network.offset + straight
    return Weights(W, V, root * neurons.biases, neurons.linear, offset)


def network_of(weights):
    """The network of hidden and output weights, without what weight decay removed.

    Parameters
    ----------
    weights : Weights

    Returns
    -------
    network : Network
    """
    norm = np.linalg.norm(weights.hidden, axis=0)
    sizes = norm * np.linalg.norm(weights.output, axis=1)
    keep = sizes > _GONE * sizes.max(initial=0.0)
    norm, linear = norm[keep], weights.linear[keep]
    neurons = Neurons(
        directions=(weights.hidden[:, keep] / norm).T,
        biases=np.where(linear, 0.0, weights.bias[keep]) / norm,
        linear=linear,
    )
    return Network(neurons, norm[:, None] * weights.output[keep], weights.offset)
