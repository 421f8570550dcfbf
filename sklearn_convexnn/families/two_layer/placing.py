"""Descent on the non-convex objective, from random neurons or from given ones."""

import numpy as np

from sklearn_convexnn._utils.deadlines import check
from sklearn_convexnn.families.two_layer.neurons import Neurons
from sklearn_convexnn.families.two_layer.starts import column_spread
from sklearn_convexnn.model.network import Network
from sklearn_convexnn.solvers.descent import descend, minimize_in_time
from sklearn_convexnn.solvers.weights import Weights

# Neurons with less than this part of the largest size are left out.
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
    network : Network
        Of those that the weight decay has not removed.
    """
    start = random_weights(problem, n_neurons, rng)
    return network_of(descend(problem, start, max_iter=max_iter, **options))


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
    size = np.linalg.norm(p.X) / np.sqrt(n)
    spread = p.loss.spread(np.zeros((n, c)) + offset, p.Y, p.sample_weight)
    root = 0.5 * np.sqrt(max(spread, 1e-300) * np.sqrt(d) / size)
    W = root * rng.standard_normal((d, n_neurons)) / np.sqrt(d)
    V = root * rng.standard_normal((n_neurons, c)) / np.sqrt(c)
    if p.family.apart:
        W, V = shaped_starts(W, V, column_spread(p.X, p.fit_intercept, True))
    bias = np.zeros(n_neurons)
    if p.fit_intercept:
        bias = -np.einsum("kd,dk->k", p.X[rng.randint(n, size=n_neurons)], W)
    linear = np.zeros(n_neurons, dtype=bool)
    return Weights(W, V, bias, linear, offset)


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


def improve_neurons(problem, network, max_iter=200, **options):
    """Move the neurons of a network by L-BFGS on the weight-decay objective.

    Parameters
    ----------
    problem : Problem
    network : Network
        Of positive sizes.
    max_iter : int, default=200
    **options
        Further ones of `descend`, as `deadline`.

    Returns
    -------
    network : Network
    """
    start = weights_of(network)
    return network_of(descend(problem, start, max_iter=max_iter, **options))


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
    straight = neurons.biases[:, None] * network.outputs
    offset = network.offset + np.sum(straight[neurons.linear], axis=0)
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


def improve_outputs(problem, network, Z, max_iter=300, deadline=np.inf):
    """Output weights of given units, by L-BFGS on the weight-decay objective.

    In terms of magnitudes and output weights, with directions fixed, the problem
    is the group lasso and has no local minima but the global one; units that are
    not in use have to start from more than nothing.

    Parameters
    ----------
    problem : Problem
    network : Network
        Outputs of zero mark new units.
    Z : ndarray of shape (n_samples, n_neurons)
        Their features.
    max_iter : int, default=300
    deadline : float, default=inf
        Value of ``time.perf_counter()`` at which to stop.

    Returns
    -------
    outputs : ndarray of shape (n_neurons, n_outputs)
    offset : ndarray of shape (n_outputs,)
    """
    p = problem
    m, c = network.outputs.shape
    start = network.outputs.copy()
    used = network.sizes > 0
    if not used.all():
        N = p.dual_point(Z @ start.astype(Z.dtype, copy=False) + network.offset)
        slopes = (Z.T @ N.astype(Z.dtype, copy=False)).astype(np.float64, copy=False)
        slopes /= np.maximum(np.linalg.norm(slopes, axis=1), 1e-300)[:, None]
        typical = np.median(network.sizes[used]) if used.any() else 1.0
        start[~used] = 0.1 * typical * slopes[~used]
    return _descend_outputs(p, start, network.offset, Z, max_iter, deadline)


def _descend_outputs(problem, start, offset, Z, max_iter, deadline):
    p = problem
    m, c = start.shape
    root = np.sqrt(np.linalg.norm(start, axis=1))[:, None]
    V = np.divide(start, root, out=np.zeros_like(start), where=root > 0)
    # As in `descend`, in units of inverse roots of second derivatives.
    weight = p.curvature(Z @ start.astype(Z.dtype, copy=False) + offset)
    squares = np.einsum("n,nm,nm->m", weight, Z, Z)
    unit = 1.0 / np.sqrt(root**2 * squares[:, None] + p.alpha)
    level = 1.0 / np.sqrt(max(np.sum(weight), p.alpha))

    def split(x):
        root, V, offset = np.split(x, [unit.size, unit.size + m * c])
        return unit * root[:, None], unit * V.reshape(m, c), level * offset

    work = 2.0 * Z.size * c / (2 if Z.dtype == np.float32 else 1)

    def value_and_gradient(x):
        check(work)
        root, V, offset = split(x)
        # In the precision of the features, so that these are not copied.
        G = (root * V).astype(Z.dtype, copy=False)
        F = (Z @ G).astype(np.float64, copy=False) + offset
        N = p.gradient(F)
        slopes = (Z.T @ N.astype(Z.dtype, copy=False)).astype(np.float64, copy=False)
        along = np.sum(slopes * V, axis=1, keepdims=True)
        parts = [
            unit * (along + p.alpha * root),
            unit * (root * slopes + p.alpha * V),
            level * np.sum(N, axis=0) * p.fit_intercept,
        ]
        penalty = 0.5 * p.alpha * (np.vdot(root, root) + np.vdot(V, V))
        return p.value(F) + penalty, np.concatenate([part.ravel() for part in parts])

    parts = root / unit, V / unit, offset / level
    found = minimize_in_time(
        value_and_gradient,
        np.concatenate([part.ravel() for part in parts]),
        deadline,
        {"maxiter": max_iter, "maxfun": 2 * max_iter, "maxcor": 30},
    )
    root, V, offset = split(found)
    return root * V, offset
