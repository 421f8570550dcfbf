"""Starting neurons: a short descent on the non-convex objective."""

import numpy as np
from scipy.optimize import minimize


def place_neurons(
    X,
    y,
    sample_weight,
    loss,
    alpha,
    n_neurons,
    rng,
    *,
    fit_intercept,
    negative_slope=0.0,
    max_iter=200,
):
    """Move random neurons by L-BFGS on the weight-decay objective.

    Where they end is a local minimum at best, but the cells they end in are
    far better than random ones.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    y, sample_weight : ndarray of shape (n_samples,)
    loss : Loss
    alpha : float
    n_neurons : int
    rng : RandomState
    fit_intercept : bool
        Whether there are free biases.
    negative_slope : float, default=0.0
    max_iter : int, default=200

    Returns
    -------
    directions : ndarray of shape (n_kept, n_features)
        Unit rows; neurons that the weight decay has removed are left out.
    biases : ndarray of shape (n_kept,)
        In units of the unit directions.
    signs : ndarray of shape (n_kept,)
        Of the output weights.
    """
    n, d = X.shape
    s, a = sample_weight, negative_slope
    size = np.sqrt(np.mean(np.sum(X**2, axis=1)))
    offset = loss.best_offset(np.zeros(n), y, s) if fit_intercept else 0.0
    spread = np.sqrt(loss.value(np.full(n, offset), y, s) / np.sum(s))
    # Wide starts, of outputs well above those needed: descent thins them out.
    root = np.sqrt(max(spread, 1e-300) * np.sqrt(d) / size)
    W = root * rng.standard_normal((d, n_neurons)) / np.sqrt(d)
    v = root * rng.standard_normal(n_neurons)
    bias = np.zeros(n_neurons)
    if fit_intercept:
        bias = -np.einsum("kd,dk->k", X[rng.randint(n, size=n_neurons)], W)
    # One unit for all parameters, whatever the size of the data.
    unit = root / np.sqrt(d)

    def split(x):
        x = x * unit
        W = x[: d * n_neurons].reshape(d, n_neurons)
        rest = x[d * n_neurons :]
        return W, rest[:n_neurons], rest[n_neurons : 2 * n_neurons] * size, rest[-1]

    def value_and_gradient(x):
        W, v, bias, offset = split(x)
        z = X @ W
        if fit_intercept:
            z += bias
        h = np.maximum(z, 0.0)
        if a != 0:
            h = (1.0 - a) * h + a * z
        f = h @ v
        if fit_intercept:
            f = f + offset
        g = loss.gradient(f, y, s)
        dz = np.multiply(z > 0, np.outer(g, v))
        if a != 0:
            dz = (1.0 - a) * dz + a * np.outer(g, v)
        penalty = 0.5 * alpha * (np.vdot(W, W) + v @ v)
        parts = [(X.T @ dz + alpha * W).ravel(), h.T @ g + alpha * v]
        if fit_intercept:
            parts += [size * np.sum(dz, axis=0), [np.sum(g)]]
        return loss.value(f, y, s) + penalty, unit * np.concatenate(parts)

    start = [W.ravel(), v]
    if fit_intercept:
        start += [bias / size, [offset]]
    found = minimize(
        value_and_gradient,
        np.concatenate(start) / unit,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": max_iter, "maxfun": 2 * max_iter},
    )
    W, v, bias, _ = split(found.x)
    if not fit_intercept:
        bias = np.zeros(n_neurons)
    norm = np.linalg.norm(W, axis=0)
    magnitude = norm * np.abs(v)
    keep = magnitude > 1e-6 * magnitude.max(initial=0.0)
    return (W[:, keep] / norm[keep]).T, bias[keep] / norm[keep], np.sign(v[keep])
