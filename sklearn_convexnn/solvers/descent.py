"""L-BFGS on the non-convex objective of a network."""

import numpy as np
from scipy.optimize import minimize

from sklearn_convexnn._utils.deadlines import OutOfTime, check, until

# Entries of a temporary array (32 MB).
_CHUNK = 4_000_000


def descend(
    X,
    loss,
    W,
    V,
    bias,
    offset,
    *,
    alpha,
    linear,
    free_bias,
    negative_slope=0.0,
    used=None,
    apart=False,
    max_iter=200,
    rtol=2.2e-9,
    deadline=np.inf,
):
    r"""Minimise ``loss(F) + alpha / 2 (||W||^2 + ||V||^2)`` from given weights.

    Hidden and output weights are in one unit, biases and the offset in that unit
    times the size of what they are added to: with larger units for the biases
    descent ends at worse minima.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Of the precision in which units and derivatives are computed.
    loss : object with methods
        ``value(F)`` and ``gradient(F)`` at outputs `F` of shape
        (n_samples, n_outputs).
    W : ndarray of shape (n_features, n_neurons)
        Hidden weights.
    V : ndarray of shape (n_neurons, n_outputs)
        Output weights.
    bias : ndarray of shape (n_neurons,)
    offset : ndarray of shape (n_outputs,)
    alpha : float
    linear : ndarray of bool, shape (n_neurons,)
        Neurons that count as active everywhere, and have no bias.
    free_bias : bool
        Otherwise `bias` and `offset` stay as they are.
    negative_slope : float, default=0.0
    used : ndarray of bool, shape (n_neurons, n_outputs), default=None
        The output weights that may change; by default all.
    apart : bool, default=False
        Whether the scales of the features are so far apart that each weight needs a
        unit of its own.
    max_iter : int, default=200
    rtol : float, default=2.2e-9
        Relative gain of a step below which to stop.
    deadline : float, default=inf
        Value of ``time.perf_counter()`` at which to stop.

    Returns
    -------
    W, V, bias, offset : ndarrays
    """
    (d, m), c = W.shape, V.shape[1]
    bent = (~linear).astype(np.float64) * free_bias
    some_linear = np.any(linear)
    used = np.ones((m, c)) if used is None else used.astype(np.float64)

    rows = max(1, _CHUNK // max(m, d))
    chunks = [slice(i, i + rows) for i in range(0, len(X), rows)]
    dtype = X.dtype

    def hidden(z, bias):
        """Turn products with the data into the units, in place; their slopes."""
        if free_bias:
            z += (bias * bent).astype(dtype, copy=False)
        slope = z > 0
        if some_linear:
            slope |= linear
        if negative_slope != 0:
            slope = np.where(slope, dtype.type(1.0), dtype.type(negative_slope))
        z *= slope
        return slope

    unit = np.sqrt(np.mean(W**2)) if W.size else 1.0
    entry = np.linalg.norm(X) / np.sqrt(X.size)
    size = np.sqrt(np.mean(np.sum(V**2, axis=1))) if V.size else 1.0
    units = np.repeat(
        np.maximum([unit, unit, unit * entry, unit * entry * size], 1e-300),
        [d * m, m * c, m, c],
    )
    if apart:
        units = own_units(X, W, V, alpha)
    to_V, to_bias, to_offset = np.cumsum([d * m, m * c, m])

    def split(x):
        x = units * x
        W, V = x[:to_V].reshape(d, m), x[to_V:to_bias].reshape(m, c)
        return W, V, x[to_bias:to_offset], x[to_offset:]

    # A product with the data, in single precision twice as fast.
    work = 2.0 * X.size * m / (2 if dtype == np.float32 else 1)

    def value_and_gradient(x):
        check(work)
        W, V, bias, offset = split(x)
        short_W, short_V = W.astype(dtype, copy=False), V.astype(dtype, copy=False)
        z = X @ short_W
        slopes = [hidden(z[some], bias) for some in chunks]
        check(work)
        F = (z @ short_V).astype(np.float64, copy=False) + offset
        N = loss.gradient(F)
        short_N = N.astype(dtype, copy=False)
        V_gradient = (z.T @ short_N).astype(np.float64, copy=False)
        for some, slope in zip(chunks, slopes):
            # From here on it holds derivatives by the products.
            np.matmul(short_N[some], short_V.T, out=z[some])
            z[some] *= slope
        gradient = np.concatenate(
            [
                (X.T @ z + alpha * W).ravel(),
                ((V_gradient + alpha * V) * used).ravel(),
                bent * np.sum(z, axis=0, dtype=np.float64),
                np.sum(N, axis=0) * free_bias,
            ]
        )
        penalty = 0.5 * alpha * (np.vdot(W, W) + np.vdot(V, V))
        return loss.value(F) + penalty, units * gradient

    start = np.concatenate([W.ravel(), V.ravel(), bias, offset])
    found = minimize_in_time(
        value_and_gradient,
        start / units,
        deadline,
        {"maxiter": max_iter, "maxfun": 2 * max_iter, "ftol": rtol},
    )
    return split(found)


def own_units(X, W, V, alpha):
    """Units of the weights where the scales of the features are far apart.

    Each hidden weight changes the outputs of its neuron as much as the others, and
    neurons are taken to be of the same outputs, with hidden and output weights of
    equal norms.  Where the features are of one scale, neurons have the same
    units.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    W : ndarray of shape (n_features, n_neurons)
    V : ndarray of shape (n_neurons, n_outputs)
    alpha : float

    Returns
    -------
    units : ndarray of shape (d * m + m * c + m + c,)
    """
    spread = np.sqrt(np.einsum("nd,nd->d", X, X, dtype=np.float64) / len(X))
    spread = np.maximum(spread, 1e-7 * spread.max(initial=1e-300))
    hidden = np.linalg.norm(W, axis=0)
    change = np.maximum(np.linalg.norm(W * spread[:, None], axis=0), 1e-300)
    # Of the penalty for each unit of output.
    cost = np.maximum(hidden / change, 1e-300)
    sizes = np.linalg.norm(V, axis=1)
    level = max(np.sqrt(np.mean((change * sizes) ** 2)), 1e-300)
    to_output, per_output = np.sqrt(level / cost), np.sqrt(level * cost)
    root = np.sqrt(len(W))
    # The weight decay resists as a spread would: a weight of a feature of tiny scale
    # has no effect before it costs much.
    resists = np.sqrt(alpha / len(X)) / per_output
    spread = np.hypot(spread[:, None], resists)
    return np.concatenate(
        [
            (to_output / spread).ravel() / root,
            np.repeat(per_output, V.shape[1]),
            to_output / root,
            np.full(V.shape[1], level / root),
        ]
    )


def minimize_in_time(value_and_gradient, start, deadline, options):
    """The best point that L-BFGS has seen when it ends or the time is up.

    Parameters
    ----------
    value_and_gradient : callable
        May raise `OutOfTime`.
    start : ndarray of shape (n_unknowns,)
    deadline : float
        Value of ``time.perf_counter()`` at which to stop.
    options : dict
        Of SciPy's minimiser.

    Returns
    -------
    point : ndarray of shape (n_unknowns,)
    """
    best = np.inf, start

    def remembered(x):
        nonlocal best
        check()
        value, gradient = value_and_gradient(x)
        if value < best[0]:
            best = value, x.copy()
        return value, gradient

    try:
        with until(deadline):
            found = minimize(
                remembered, start, jac=True, method="L-BFGS-B", options=options
            )
    except OutOfTime:
        return best[1]
    return found.x
