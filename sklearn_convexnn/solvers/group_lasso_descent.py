"""The group lasso over given units, by descent."""

import numpy as np

from sklearn_convexnn._utils.deadlines import check
from sklearn_convexnn.solvers.lbfgs import LBFGS

# Relative gain of a step below which to stop.
_RTOL = 2.2e-9


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
    Z : ndarray of shape (n_samples, n_windows * n_units)
        Their features.
    max_iter : int, default=300
    deadline : float, default=inf
        Value of ``time.perf_counter()`` at which to stop.

    Returns
    -------
    outputs : ndarray of shape (n_units, n_windows * n_outputs)
    offset : ndarray of shape (n_outputs,)
    """
    p = problem
    start = network.outputs.copy()
    used = network.sizes > 0
    if not used.all():
        N = p.dual_point(_outputs(p, Z, start) + network.offset)
        slopes = _slopes(p, Z, N)
        slopes /= np.maximum(np.linalg.norm(slopes, axis=1), 1e-300)[:, None]
        typical = np.median(network.sizes[used]) if used.any() else 1.0
        start[~used] = 0.1 * typical * slopes[~used]
    return _descend_outputs(p, start, network.offset, Z, max_iter, deadline)


def _outputs(problem, Z, weights):
    """Outputs of units with these output weights, in the precision of features."""
    # So that these are not copied.
    matrix = problem.family.dense(weights).astype(Z.dtype, copy=False)
    return (Z @ matrix).astype(np.float64, copy=False)


def _slopes(problem, Z, N):
    """Derivatives of the loss by output weights, of its derivatives by outputs."""
    slopes = Z.T @ N.astype(Z.dtype, copy=False)
    return problem.family.grouped(slopes).astype(np.float64, copy=False)


def _descend_outputs(problem, start, offset, Z, max_iter, deadline):
    p = problem
    m, c = start.shape
    root = np.sqrt(np.linalg.norm(start, axis=1))[:, None]
    V = np.divide(start, root, out=np.zeros_like(start), where=root > 0)
    # As in `Descent`, in units of inverse roots of second derivatives.
    weight = p.curvature(_outputs(p, Z, start) + offset)
    squares = np.einsum("n,nm,nm->m", weight, Z, Z)
    squares = squares.reshape(p.family.n_windows, m).mean(axis=0)
    unit = 1.0 / np.sqrt(root**2 * squares[:, None] + p.alpha)
    level = 1.0 / np.sqrt(max(np.sum(weight), p.alpha))

    def split(x):
        root, V, offset = np.split(x, [unit.size, unit.size + m * c])
        return unit * root[:, None], unit * V.reshape(m, c), level * offset

    work = 2.0 * Z.size * p.n_outputs / (2 if Z.dtype == np.float32 else 1)

    def value_and_gradient(x):
        check(work)
        root, V, offset = split(x)
        F = _outputs(p, Z, root * V) + offset
        N = p.gradient(F)
        slopes = _slopes(p, Z, N)
        along = np.sum(slopes * V, axis=1, keepdims=True)
        parts = [
            unit * (along + p.alpha * root),
            unit * (root * slopes + p.alpha * V),
            level * np.sum(N, axis=0) * p.fit_intercept,
        ]
        penalty = 0.5 * p.alpha * (np.vdot(root, root) + np.vdot(V, V))
        return p.value(F) + penalty, np.concatenate([part.ravel() for part in parts])

    parts = root / unit, V / unit, offset / level
    start = np.concatenate([part.ravel() for part in parts])
    found = LBFGS(value_and_gradient, start, memory=30).run(max_iter, _RTOL, deadline)
    root, V, offset = split(found)
    return root * V, offset
