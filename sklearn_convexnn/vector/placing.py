"""Descent on the non-convex objective of several outputs."""

import numpy as np
from scipy.optimize import minimize

from sklearn_convexnn.descent import descend
from sklearn_convexnn.vector.problem import VectorNeurons

# Neurons with less than this part of the largest size are left out.
_GONE = 1e-6


def place_neurons(problem, n_neurons, rng, max_iter=200):
    """Move random neurons by L-BFGS on the weight-decay objective.

    Parameters
    ----------
    problem : VectorProblem
    n_neurons : int
    rng : RandomState
    max_iter : int, default=200

    Returns
    -------
    neurons : VectorNeurons
        Those that the weight decay has not removed.
    """
    p = problem
    n, d = p.X.shape
    c = p.n_outputs
    offset = p.null().offset
    size = np.sqrt(np.mean(np.sum(p.X**2, axis=1)))
    spread = p.loss.spread(np.zeros((n, c)) + offset, p.Y, p.sample_weight)
    root = 0.5 * np.sqrt(max(spread, 1e-300) * np.sqrt(d) / size)
    W = root * rng.standard_normal((d, n_neurons)) / np.sqrt(d)
    V = root * rng.standard_normal((n_neurons, c))
    if p.separate:
        V *= np.arange(c) == np.arange(n_neurons)[:, None] % c
    else:
        V /= np.sqrt(c)
    bias = np.zeros(n_neurons)
    if p.fit_intercept:
        bias = -np.einsum("kd,dk->k", p.X[rng.randint(n, size=n_neurons)], W)
    linear = np.zeros(n_neurons, dtype=bool)
    return _descend(p, W, V, bias, linear, offset, max_iter)


def improve_neurons(problem, neurons, max_iter=200):
    """Move the neurons of a network by L-BFGS on the weight-decay objective.

    Parameters
    ----------
    problem : VectorProblem
    neurons : VectorNeurons
        Of positive sizes.
    max_iter : int, default=200

    Returns
    -------
    neurons : VectorNeurons
    """
    root = np.sqrt(neurons.sizes)
    W, V = neurons.directions.T * root, neurons.outputs / root[:, None]
    straight = neurons.biases[:, None] * neurons.outputs
    return _descend(
        problem,
        W,
        V,
        root * neurons.biases,
        neurons.linear,
        neurons.offset + np.sum(straight[neurons.linear], axis=0),
        max_iter,
    )


def _descend(problem, W, V, bias, linear, offset, max_iter):
    """The network after a descent from hidden and output weights and biases."""
    p = problem
    W, V, bias, offset = descend(
        p.X,
        p,
        W,
        V,
        bias,
        offset,
        alpha=p.alpha,
        linear=linear,
        free_bias=p.fit_intercept,
        negative_slope=p.negative_slope,
        used=V != 0 if p.separate else None,
        max_iter=max_iter,
    )
    norm = np.linalg.norm(W, axis=0)
    sizes = norm * np.linalg.norm(V, axis=1)
    keep = sizes > _GONE * sizes.max(initial=0.0)
    return VectorNeurons(
        directions=(W[:, keep] / norm[keep]).T,
        biases=np.where(linear, 0.0, bias)[keep] / norm[keep],
        outputs=norm[keep, None] * V[keep],
        linear=linear[keep],
        offset=offset,
    )


def improve_outputs(problem, neurons, Z, max_iter=300):
    """Output weights of given units, by L-BFGS on the weight-decay objective.

    In terms of magnitudes and output weights, with directions fixed, the problem
    is the group lasso and has no local minima but the global one; units that are
    not in use have to start from more than nothing.

    Parameters
    ----------
    problem : VectorProblem
    neurons : VectorNeurons
        Outputs of zero mark new units.
    Z : ndarray of shape (n_samples, n_neurons)
        Their features.
    max_iter : int, default=300

    Returns
    -------
    outputs : ndarray of shape (n_neurons, n_outputs)
    offset : ndarray of shape (n_outputs,)
    """
    p = problem
    m, c = neurons.outputs.shape
    start = neurons.outputs.copy()
    used = neurons.sizes > 0
    if not used.all():
        slopes = Z.T @ p.dual_point(Z @ start + neurons.offset)
        if p.separate:
            slopes *= np.abs(slopes) == np.abs(slopes).max(axis=1, keepdims=True)
        slopes /= np.maximum(np.linalg.norm(slopes, axis=1), 1e-300)[:, None]
        typical = np.median(neurons.sizes[used]) if used.any() else 1.0
        start[~used] = 0.1 * typical * slopes[~used]
    return _descend_outputs(p, start, neurons.offset, Z, max_iter)


def _descend_outputs(problem, start, offset, Z, max_iter):
    p = problem
    m, c = start.shape
    root = np.sqrt(np.abs(start) if p.separate else np.linalg.norm(start, axis=1))
    root = root.reshape(m, -1)
    V = np.divide(start, root, out=np.zeros_like(start), where=root > 0)
    # As in `descend`, in units of inverse roots of second derivatives.
    weight = p.curvature(Z @ start + offset)
    unit = 1.0 / np.sqrt(root**2 * (weight @ Z**2)[:, None] + p.alpha)
    level = 1.0 / np.sqrt(max(np.sum(weight), p.alpha))

    def split(x):
        root, V, offset = np.split(x, [unit.size, unit.size + m * c])
        return unit * root.reshape(m, -1), unit * V.reshape(m, c), level * offset

    def value_and_gradient(x):
        root, V, offset = split(x)
        F = Z @ (root * V) + offset
        N = p.gradient(F)
        slopes = Z.T @ N
        along = slopes * V
        if not p.separate:
            along = np.sum(along, axis=1, keepdims=True)
        parts = [
            unit * (along + p.alpha * root),
            unit * (root * slopes + p.alpha * V),
            level * np.sum(N, axis=0) * p.fit_intercept,
        ]
        penalty = 0.5 * p.alpha * (np.vdot(root, root) + np.vdot(V, V))
        return p.value(F) + penalty, np.concatenate([part.ravel() for part in parts])

    parts = root / unit, V / unit, offset / level
    found = minimize(
        value_and_gradient,
        np.concatenate([part.ravel() for part in parts]),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": max_iter, "maxfun": 2 * max_iter, "maxcor": 30},
    )
    root, V, offset = split(found.x)
    return root * V, offset
