"""Convex-concave steps, which finish neurons that are almost the steepest."""

import numpy as np
from scipy.linalg import qr

from sklearn_convexnn._utils.deadlines import check


def concave_step(X, outward, U, at, negative_slope, free_bias, max_iter=100):
    """One convex-concave step of many neurons.

    Where ``outward > 0`` the activation is replaced by its line at the current
    point.  What remains is concave; its dual is a least squares problem over a
    box, solved by accelerated gradient steps.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    outward : ndarray of shape (n_samples, n_neurons)
        Weights of the outputs of each neuron in its slope.
    U : ndarray of shape (n_features, n_neurons)
        Unit columns.
    at : ndarray of int, shape (n_neurons,)
        Samples that the neurons hang on if `free_bias`.
    negative_slope : float
    free_bias : bool
    max_iter : int, default=100
        Steps.

    Returns
    -------
    trial : ndarray of shape (n_features, n_neurons)
        Unit columns; those of `U` where there is no direction to go.
    """
    a = negative_slope

    def pull(weights, X=X):
        g = X.T @ weights
        if free_bias:
            g -= X[at].T * np.sum(weights, axis=0)
        return g

    def outputs(U, X=X):
        z = X @ U
        if free_bias:
            z -= z[at, np.arange(len(at))]
        return z

    z = outputs(U)
    convex = outward > 0
    fixed = np.where(z > 0, 1.0, a) * outward
    low = np.where(convex, fixed, outward)
    high = np.where(convex, fixed, a * outward)
    low, high = np.minimum(low, high), np.maximum(low, high)
    weights = np.clip(fixed, low, high)
    weights = _in_box(X, weights, low, high, pull, outputs, free_bias, max_iter)
    trial = pull(weights)
    norm = np.linalg.norm(trial, axis=0)
    trial = np.where(norm > 0, trial / np.maximum(norm, 1e-300), U)
    # Samples whose weight is inside of its bounds are those on the hyperplane,
    # which gradient steps only come near.
    margin = 1e-3 * (high - low)
    resting = (weights > low + margin) & (weights < high - margin)
    pushing = np.where(resting, 0.0, np.where(outputs(trial) > 0, 1.0, a) * outward)
    exact = pull(pushing)
    for k in np.flatnonzero(resting.any(axis=0)):
        check()
        rows = X[resting[:, k]] - (X[at[k]] if free_bias else 0.0)
        Q, R, _ = qr(rows.T, mode="economic", pivoting=True, check_finite=False)
        pivots = np.abs(np.diag(R))
        Q = Q[:, pivots > 1e-9 * pivots.max(initial=0.0)]
        exact[:, k] -= Q @ (Q.T @ exact[:, k])
    norm = np.linalg.norm(exact, axis=0)
    exact = np.where(norm > 0, exact / np.maximum(norm, 1e-300), trial)

    def slopes(U):
        z = outputs(U)
        return np.sum(outward * np.where(z > 0, z, a * z), axis=0)

    return np.where(slopes(exact) > slopes(trial), exact, trial)


def _in_box(X, weights, low, high, pull, outputs, free_bias, max_iter):
    """The least squares over the box, by accelerated gradient steps.

    In single precision, twice as fast, as in the climbs.
    """
    largest = max(np.max(np.abs(X)), np.finfo(float).tiny)
    X = (X / largest).astype(np.float32)
    unit = max(np.max(np.abs(low)), np.max(np.abs(high)), np.finfo(float).tiny)
    low, high = (low / unit).astype(X.dtype), (high / unit).astype(X.dtype)
    check(float(X.size) * min(X.shape))
    squares = (X.T @ X if len(X) > X.shape[1] else X @ X.T).astype(float)
    bound = np.max(np.linalg.eigvalsh(squares)) * (4.0 if free_bias else 1.0)
    rate = X.dtype.type(1.0 / max(bound, np.finfo(X.dtype).tiny))
    weights = ahead = (weights / unit).astype(X.dtype)
    momentum = 1.0
    for _ in range(max_iter):
        check(2.0 * X.size * low.shape[1])
        stepped = outputs(pull(ahead, X), X)
        stepped *= -rate
        stepped += ahead
        np.clip(stepped, low, high, out=stepped)
        following = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * momentum**2))
        ahead = stepped - weights
        ahead *= X.dtype.type((momentum - 1.0) / following)
        ahead += stepped
        weights, momentum = stepped, following
    return weights.astype(np.float64) * unit
