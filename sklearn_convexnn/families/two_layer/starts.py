"""Directions to start a search from, and how the data spread."""

import numpy as np
from scipy.sparse import eye_array

from sklearn_convexnn._utils.deadlines import check, svd_work

# Elements of an array that is squared at once.
_CHUNK = 4_000_000
# Samples through which the hyperplane of a start is put, at most.
_HELD = 10
# Spread of a constant column, relative to the largest and to the precision.
_FLAT = 10.0
# Features up to which their principal axes are looked for.
_MANY_FEATURES = 500


def random_directions(X, size, rng, free_bias, apart=False):
    """Starting directions of two kinds, as `search_widely` explains.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    size : int
    rng : RandomState
    free_bias, apart : bool

    Returns
    -------
    plain : ndarray of shape (size // 2, n_features)
        At least one.
    shaped : ndarray of shape (size, n_features)
    """
    axes = principal_axes(X, centred=free_bias)
    spread = column_spread(X @ axes, free_bias, apart)
    plain = rng.standard_normal((max(1, size // 2), X.shape[1]))
    shaped = rng.standard_normal((size, X.shape[1]))
    if apart:
        # Between the two kinds, since features of small scale cost the most.
        spread = spread ** rng.uniform(size=(size, 1))
    shaped = shaped / spread @ axes.T
    # Steep neurons often hang on some of the samples.
    shaped[::2] = _through_samples(X, shaped[::2], rng, free_bias)
    return plain, shaped


def _through_samples(X, directions, rng, free_bias):
    """Turn directions so that the output of some random samples is the same.

    It is zero without a free bias.
    """
    size, d = directions.shape
    most = min(d, len(X)) - 1
    if most < 1 or size == 0:
        return directions
    chosen = X[rng.randint(len(X), size=(size, min(most, _HELD) + 1))]
    rows = chosen[:, 1:] - (chosen[:, :1] if free_bias else 0.0)
    # A different number of them for each direction.
    count = 1 + rng.randint(rows.shape[1], size=size)
    rows[np.arange(rows.shape[1]) >= count[:, None]] = 0.0
    check(20.0 * rows.size * rows.shape[1])
    Q, R = np.linalg.qr(rows.transpose(0, 2, 1))
    pivots = np.abs(np.einsum("kii->ki", R))
    Q = Q * (pivots > 1e-9 * np.max(pivots, initial=1e-300))[:, None, :]
    along = np.einsum("kdi,kd->ki", Q, directions)
    return directions - np.einsum("kdi,ki->kd", Q, along)


def principal_axes(X, centred=False):
    """Orthonormal directions along which the data spread independently.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    centred : bool, default=False
        Whether the spread is about the mean, rather than about the origin.

    Returns
    -------
    axes : {ndarray, sparse array} of shape (n_features, n_features)
        Those of the features if they are so many that others would take longer to
        find than they save.
    """
    if X.shape[1] > _MANY_FEATURES:
        return eye_array(X.shape[1], format="csr")
    d = X.shape[1]
    check(2.0 * X.size * d + svd_work((d, d)))
    X = X - X.mean(axis=0) if centred else X
    unit = max(np.max(np.abs(X), initial=0.0), np.finfo(float).tiny)
    return np.linalg.eigh((X / unit).T @ (X / unit))[1]


def column_spread(X, centred=False, apart=False):
    """Root mean square of each column, but at least a small part of the largest.

    A column that is constant has the largest: what moves along it is wasted.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    centred : bool, default=False
    apart : bool, default=False
        Whether scales that are far apart matter.

    Returns
    -------
    spread : ndarray of shape (n_features,)
    """
    centre = X.mean(axis=0) if centred else X.dtype.type(0.0)
    step = max(1, _CHUNK // X.shape[1])
    parts = [
        np.sum(np.square(X[i : i + step] - centre), axis=0)
        for i in range(0, len(X), step)
    ]
    spread = np.sqrt(sum(parts) / len(X))
    largest = max(spread.max(initial=0.0), np.finfo(X.dtype).tiny)
    spread[spread <= _FLAT * np.finfo(X.dtype).eps * largest] = largest
    return np.maximum(spread, (1e-7 if apart else 1e-3) * largest)
