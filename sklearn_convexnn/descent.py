"""L-BFGS on the non-convex objective of a network."""

from time import perf_counter

import numpy as np
from scipy.optimize import minimize

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
    ends = np.cumsum([d * m, m * c, m])

    def split(x):
        W, V, bias, offset = np.split(units * x, ends)
        return W.reshape(d, m), V.reshape(m, c), bias, offset

    def value_and_gradient(x):
        W, V, bias, offset = split(x)
        short_W, short_V = W.astype(dtype, copy=False), V.astype(dtype, copy=False)
        z = X @ short_W
        slopes = [hidden(z[some], bias) for some in chunks]
        F = (z @ short_V).astype(np.float64, copy=False) + offset
        N = loss.gradient(F)
        short_N = N.astype(dtype, copy=False)
        to_V = (z.T @ short_N).astype(np.float64, copy=False)
        for some, slope in zip(chunks, slopes):
            # From here on it holds derivatives by the products.
            np.matmul(short_N[some], short_V.T, out=z[some])
            z[some] *= slope
        gradient = np.concatenate(
            [
                (X.T @ z + alpha * W).ravel(),
                ((to_V + alpha * V) * used).ravel(),
                bent * np.sum(z, axis=0, dtype=np.float64),
                np.sum(N, axis=0) * free_bias,
            ]
        )
        penalty = 0.5 * alpha * (np.vdot(W, W) + np.vdot(V, V))
        return loss.value(F) + penalty, units * gradient

    start = np.concatenate([W.ravel(), V.ravel(), bias, offset])
    found = minimize(
        value_and_gradient,
        start / units,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": max_iter, "maxfun": 2 * max_iter, "ftol": rtol},
        callback=stop_at(deadline),
    )
    return split(found.x)


def stop_at(deadline):
    """Callback of SciPy's minimisers that stops them in time.

    Parameters
    ----------
    deadline : float
        Value of ``time.perf_counter()``.

    Returns
    -------
    callback : callable
    """

    def callback(intermediate_result):
        if perf_counter() > deadline:
            raise StopIteration

    return callback
