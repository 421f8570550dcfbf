"""Descent on the non-convex objective, from random neurons or from given ones."""

import numpy as np
from scipy.optimize import minimize

from sklearn_convexnn.recovery import Neurons

# Neurons with less than this part of the largest magnitude are left out.
_GONE = 1e-6


def place_neurons(problem, n_neurons, rng, max_iter=200):
    """Move random neurons by L-BFGS on the weight-decay objective.

    Where they end is a local minimum at best, but the cells they end in are
    far better than random ones.

    Parameters
    ----------
    problem : Problem
    n_neurons : int
    rng : RandomState
    max_iter : int, default=200

    Returns
    -------
    neurons : Neurons
        Those that the weight decay has not removed.
    """
    X, y, s = problem.X, problem.y, problem.sample_weight
    n, d = X.shape
    offset = problem.null().offset
    size = np.sqrt(np.mean(np.sum(X**2, axis=1)))
    value = problem.loss.value(np.full(n, offset), y, s)
    spread = np.sqrt(value / np.sum(s))
    # Wide starts, of outputs well above those needed: descent thins them out.
    root = np.sqrt(max(spread, 1e-300) * np.sqrt(d) / size)
    W = root * rng.standard_normal((d, n_neurons)) / np.sqrt(d)
    v = root * rng.standard_normal(n_neurons)
    bias = np.zeros(n_neurons)
    if problem.fit_intercept:
        bias = -np.einsum("kd,dk->k", X[rng.randint(n, size=n_neurons)], W)
    linear = np.zeros(n_neurons, dtype=bool)
    unit = root / np.sqrt(d)
    return _descend(problem, W, v, bias, linear, offset, unit, max_iter)


def improve_neurons(problem, neurons, max_iter=200):
    """Move the neurons of a network by L-BFGS on the weight-decay objective.

    Parameters
    ----------
    problem : Problem
    neurons : Neurons
    max_iter : int, default=200

    Returns
    -------
    neurons : Neurons
    """
    root = np.sqrt(neurons.magnitudes)
    straight = neurons.signs * neurons.magnitudes * neurons.biases
    W, v = neurons.directions.T * root, root * neurons.signs
    unit = np.sqrt(np.mean(W**2)) if W.size else 1.0
    return _descend(
        problem,
        W,
        v,
        root * neurons.biases,
        neurons.linear,
        neurons.offset + np.sum(straight[neurons.linear]),
        max(unit, 1e-300),
        max_iter,
    )


def _descend(problem, W, v, bias, linear, offset, unit, max_iter):
    """L-BFGS from hidden weights `W`, output weights `v` and biases.

    `unit` is the size of a weight; all parameters are in units of theirs.
    """
    X, y, s = problem.X, problem.y, problem.sample_weight
    loss, alpha, a = problem.loss, problem.alpha, problem.negative_slope
    d, m = W.shape
    free = problem.fit_intercept
    size = np.sqrt(np.mean(np.sum(X**2, axis=1)))

    def split(x):
        x = x * unit
        rest = x[d * m :]
        return x[: d * m].reshape(d, m), rest[:m], rest[m : 2 * m] * size, rest[-1]

    def value_and_gradient(x):
        W, v, bias, offset = split(x)
        z = X @ W
        if free:
            z += bias * ~linear
        active = (z > 0) | linear
        h = np.multiply(active, z)
        if a != 0:
            h = np.where(active, h, a * z)
        f = h @ v
        if free:
            f = f + offset
        g = loss.gradient(f, y, s)
        dz = np.multiply(active, np.outer(g, v))
        if a != 0:
            dz = (1.0 - a) * dz + a * np.outer(g, v)
        penalty = 0.5 * alpha * (np.vdot(W, W) + v @ v)
        parts = [(X.T @ dz + alpha * W).ravel(), h.T @ g + alpha * v]
        if free:
            parts += [size * np.sum(dz, axis=0) * ~linear, [np.sum(g)]]
        return loss.value(f, y, s) + penalty, unit * np.concatenate(parts)

    start = [W.ravel(), v] + ([bias / size, [offset]] if free else [])
    found = minimize(
        value_and_gradient,
        np.concatenate(start) / unit,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": max_iter, "maxfun": 2 * max_iter},
    )
    W, v, bias, offset = split(found.x)
    if not free:
        bias, offset = np.zeros(m), 0.0
    norm = np.linalg.norm(W, axis=0)
    magnitude = norm * np.abs(v)
    keep = magnitude > _GONE * magnitude.max(initial=0.0)
    return Neurons(
        directions=(W[:, keep] / norm[keep]).T,
        biases=np.where(linear, 0.0, bias)[keep] / norm[keep],
        magnitudes=magnitude[keep],
        signs=np.sign(v[keep]),
        linear=linear[keep],
        offset=float(offset),
    )
