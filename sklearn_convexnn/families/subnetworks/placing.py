"""Random sub-networks, and descent on the non-convex objective."""

import numpy as np

from sklearn_convexnn._utils.deadlines import check
from sklearn_convexnn.families.subnetworks.units import (
    backward,
    forward,
    pre_activation,
)
from sklearn_convexnn.model.network import Network
from sklearn_convexnn.solvers.lbfgs import LBFGS

# Sub-networks with less than this part of the largest size are left out.
_GONE = 1e-6
# Relative gain of a step of descent below which it ends.
_RTOL = 2.2e-9


def random_subnetworks(family, n_units, rng):
    """Random sub-networks of cost one.

    Parameters
    ----------
    family : ParallelSubnetworks
    n_units : int
    rng : RandomState

    Returns
    -------
    subnetworks : Subnetworks
        With free biases, each unit has its kink between two samples.
    """
    p = family
    check(2.0 * p.work(n_units))
    weights, biases = p.no_weights(n_units)
    inputs, k, n = p.X, np.arange(n_units)[:, None], len(p.X)
    for W, b, used in zip(weights, biases, p.architecture.connections):
        W[:] = rng.standard_normal(W.shape)
        if used is not None:
            W *= used
        z = pre_activation(inputs, W)
        if p.fit_intercept:
            first, part = rng.randint(n, size=b.shape), rng.uniform(size=b.shape)
            second = (first + 1 + rng.randint(max(n - 1, 1), size=b.shape)) % n
            unit = np.arange(b.shape[1])
            b[:] = -(part * z[first, unit, k] + (1.0 - part) * z[second, unit, k])
        inputs = np.maximum(z + b.T, 0.0)
    return p.units(weights, biases)


def place_subnetworks(problem, n_units, rng, max_iter=200, deadline=np.inf):
    """Move random sub-networks by L-BFGS on the weight-decay objective.

    Parameters
    ----------
    problem : Problem
    n_units : int
    rng : RandomState
    max_iter : int, default=200
    deadline : float, default=inf
        Value of ``time.perf_counter()`` at which to stop.

    Returns
    -------
    network : Network
        Of those that the weight decay has not removed.
    """
    p = problem
    units = random_subnetworks(p.family, n_units, rng)
    offset = p.null().offset
    spread = p.loss.spread(np.zeros(p.Y.shape) + offset, p.Y, p.sample_weight)
    Z = p.family.features(units)
    active = np.any(Z != 0, axis=0)
    units, Z = units.select(active), Z[:, active]
    if len(units) == 0:
        return p.null()
    size = np.sqrt(np.mean(Z**2))
    outputs = rng.standard_normal((len(units), p.n_outputs))
    outputs *= 0.5 * spread / (size * np.sqrt(outputs.size))
    start = Network(units, outputs, offset)
    return improve_subnetworks(p, start, max_iter, deadline)


def improve_subnetworks(problem, network, max_iter=200, deadline=np.inf):
    """Move the sub-networks of a network by L-BFGS on the weight-decay objective.

    The objective is ``L + alpha / 2 (sum of squared costs and of squared output
    weights)``, which is smooth in the weights of each layer, and the least over
    all scalings of the layers is that of the weight decay.

    Parameters
    ----------
    problem : Problem
    network : Network
        Of positive sizes.
    max_iter : int, default=200
    deadline : float, default=inf
        Value of ``time.perf_counter()`` at which to stop.

    Returns
    -------
    network : Network
    """
    if len(network) == 0:
        return network
    p, arch, units = problem, problem.family.architecture, network.units
    n_layers = len(units.weights)
    # Layers and outputs of equal norms.
    share = network.sizes ** (0.5 / n_layers)
    V = network.outputs / np.sqrt(network.sizes)[:, None]
    weights = [W * share[:, None, None] for W in units.weights]
    grown = [share ** (level + 1) for level in range(n_layers)]
    biases = [b * g[:, None] for b, g in zip(units.biases, grown)]
    masks = [
        np.ones(W.shape[1:]) if used is None else used.astype(np.float64)
        for W, used in zip(weights, arch.connections)
    ]
    free = float(p.fit_intercept)

    arrays = [*weights, *biases, V, network.offset]
    shapes = [part.shape for part in arrays]
    ends = np.cumsum([part.size for part in arrays])[:-1]
    entry = np.linalg.norm(p.X) / np.sqrt(p.X.size)
    scales = [_rms(W) for W in weights]
    scales += [entry * np.prod(scales[: level + 1]) for level in range(n_layers)]
    scales += [_rms(V), scales[-1] * max(np.linalg.norm(V) / np.sqrt(len(V)), 1e-300)]
    scale = np.repeat(np.maximum(scales, 1e-300), [part.size for part in arrays])

    def split(x):
        parts = np.split(scale * x, ends)
        parts = [part.reshape(shape) for part, shape in zip(parts, shapes)]
        return parts[:n_layers], parts[n_layers:-2], *parts[-2:]

    # Forward and backward.
    work = 3.0 * p.family.work(len(units))

    def value_and_gradient(x):
        check(work)
        weights, biases, V, offset = split(x)
        layers = forward(p.X, weights, biases)
        Z = layers[-1][:, 0]
        F = Z @ V + offset
        slopes = p.gradient(F)
        to_weights, to_biases = backward(p.X, weights, layers, slopes @ V.T)
        squared, by_cost = arch.cost_squared(weights)
        penalty = 0.5 * p.alpha * (np.sum(squared) + np.sum(V**2))
        parts = [
            (slope + 0.5 * p.alpha * cost) * mask
            for slope, cost, mask in zip(to_weights, by_cost, masks)
        ]
        parts += [free * slope for slope in to_biases]
        parts += [Z.T @ slopes + p.alpha * V, free * np.sum(slopes, axis=0)]
        gradient = np.concatenate([part.ravel() for part in parts])
        return p.value(F) + penalty, scale * gradient

    start = np.concatenate([part.ravel() for part in arrays])
    found = LBFGS(value_and_gradient, start / scale).run(max_iter, _RTOL, deadline)
    weights, biases, V, offset = split(found)
    moved = p.family.network(weights, biases, V, offset)
    return moved.select(moved.sizes > _GONE * moved.sizes.max(initial=0.0))


def _rms(values):
    return np.sqrt(np.mean(values**2))
