"""Descent on the non-convex objective of parallel sub-networks."""

import numpy as np
from scipy.optimize import minimize

from sklearn_convexnn.deep.problem import backward, forward
from sklearn_convexnn.descent import stop_at

# Sub-networks with less than this part of the largest size are left out.
_GONE = 1e-6


def place_subnetworks(problem, n_units, rng, max_iter=200, deadline=np.inf):
    """Move random sub-networks by L-BFGS on the weight-decay objective.

    Parameters
    ----------
    problem : DeepProblem
    n_units : int
    rng : RandomState
    max_iter : int, default=200
    deadline : float, default=inf
        Value of ``time.perf_counter()`` at which to stop.

    Returns
    -------
    subnetworks : Subnetworks
        Those that the weight decay has not removed.
    """
    p = problem
    offset = p.null().offset
    units = random_units(p, n_units, rng)
    Z = p.features(units)
    spread = p.loss.spread(np.zeros(p.Y.shape) + offset, p.Y, p.sample_weight)
    size = np.sqrt(np.mean(Z**2, axis=0))
    outputs = rng.standard_normal((len(units), p.n_outputs))
    outputs *= (
        0.5 * spread / (max(np.median(size), 1e-300) * np.sqrt(max(outputs.size, 1)))
    )
    if p.separate:
        outputs *= np.arange(p.n_outputs) == np.arange(len(units))[:, None] % (
            p.n_outputs
        )
    start = Subnetworks_with(units, outputs, offset)
    return improve_subnetworks(p, start, max_iter, deadline)


def Subnetworks_with(units, outputs, offset):
    raise NotImplementedError


def random_units(problem, n_units, rng):
    """Random sub-networks of cost one, whose outputs are zero.

    Parameters
    ----------
    problem : DeepProblem
    n_units : int
    rng : RandomState

    Returns
    -------
    subnetworks : Subnetworks
        Some may be missing: those that are zero on all samples.
    """
    p = problem
    weights, biases = p.no_weights(n_units)
    inputs = p.X
    for level, (W, b) in enumerate(zip(weights, biases)):
        W[:] = rng.standard_normal(W.shape)
        used = p.architecture.connections[level]
        if used is not None:
            W *= used
        if p.fit_intercept:
            # Kinks where there are samples.
            z = forward(inputs, weights[: level + 1], biases[: level + 1])
            del z
            b[:] = _offsets(p.X, weights[: level + 1], biases[: level + 1], rng)
    return p.from_weights(weights, biases, np.zeros((n_units, p.n_outputs)))
