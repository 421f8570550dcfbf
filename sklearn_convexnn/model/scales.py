"""Scales of the columns of the data."""

import warnings

import numpy as np
from scipy.sparse import issparse

from sklearn_convexnn._utils.devices import in_numpy, on_device

FAR_APART = 1e3
"""Largest scale of a column over the smallest one from which on users are warned."""
GO_BY = 30.0
"""The same from which on searches go by the scales."""
# Entries of dense data that are looked at; of a column of more, those that are not the
# value in the middle tell its scale if they are so many.
_ENTRIES, _SEEN = 1_000_000, 30
# Spread of a column, relative to its size, that is rounding.
_FLAT = 1e-13


class GoesByScales:
    """What problems with `scales_ratio` and `fit_intercept` make of these."""

    @property
    def apart(self):
        """Whether the scales are so far apart that searches have to go by them."""
        # Without biases they miss units that are steep.
        return self.fit_intercept and self.scales_ratio > GO_BY

    @property
    def far_apart(self):
        """Whether they are so far apart that training may have to end early."""
        return self.scales_ratio > FAR_APART


def scales_ratio(X):
    """The largest scale of a column over the smallest one.

    The scale is the root mean square of the distances from the value in the middle: of
    all entries, or of those that are not that value, whichever gives the smaller ratio.
    So a column that is zero but for a few entries is alike to others if these entries
    are, or if the column has been standardised, however rare they are.

    Parameters
    ----------
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)

    Returns
    -------
    ratio : float
        One if there are fewer than two columns that are not constant.
    """
    if X.shape[0] == 0:
        return 1.0
    if issparse(X):
        columns = X.tocsc()
        parts = np.split(columns.data, columns.indptr[1:-1])
        pairs = np.array([_sparse_scales(part, X.shape[0]) for part in parts])
    else:
        # Some samples say as much of many, but not of rare entries.
        step = max(1, X.size // _ENTRIES)
        pairs = _scales(X[::step], 1 if step == 1 else _SEEN)
    pairs = pairs[pairs[:, 0] > 0]
    if len(pairs) < 2 or not np.all(np.isfinite(pairs)):
        return 1.0
    least = np.maximum(np.min(pairs, axis=0), np.finfo(float).tiny)
    return float(np.min(np.max(pairs, axis=0) / least))


def _scales(X, seen=1):
    """Scales of the columns of dense data, as rows: of all entries, and of some.

    Zero if they are constant, or but for fewer entries than `seen`.
    """
    X = X.astype(np.float64, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        distance = np.abs(X - np.median(X, axis=0))
        others = np.count_nonzero(distance, axis=0)
        total = np.sqrt(np.sum(distance**2, axis=0))
        scale = total / np.sqrt(np.maximum(others, 1))
    used = (others >= seen) & (scale > _FLAT * np.max(np.abs(X), axis=0))
    pairs = np.column_stack([total / np.sqrt(len(X)), scale])
    return np.where(used[:, None], pairs, 0.0)


def _sparse_scales(stored, n_samples):
    """The same of a column, of the entries that it stores."""
    zeros = n_samples - len(stored)
    if 2 * zeros <= n_samples:
        return _scales(np.append(stored, np.zeros(zeros))[:, None])[0]
    stored = stored[stored != 0].astype(np.float64)
    with np.errstate(over="ignore"):
        total = np.sqrt(np.sum(stored**2))
    return np.array([total / np.sqrt(n_samples), total / np.sqrt(max(len(stored), 1))])


def warn_of_scales(X, sample_weight=None):
    """Warn if the scales of the columns of `X` are far apart.

    Parameters
    ----------
    X : {array, CSR matrix} of shape (n_samples, n_features)
    sample_weight : ndarray of shape (n_samples,) or None
        Samples of weight zero do not count.

    Returns
    -------
    apart : bool
    """
    X = in_numpy(X) if on_device(X) else X
    if sample_weight is not None and not np.all(sample_weight > 0):
        X = X[sample_weight > 0]
    ratio = scales_ratio(X)
    if ratio <= FAR_APART:
        return False
    warnings.warn(
        "The scales (standard deviations) of the columns of X differ by a factor of "
        f"{ratio:.2g}. The weight decay hardly acts on the columns of large scale, and "
        "training is slow; scale the columns, for example with "
        "sklearn.preprocessing.StandardScaler.",
        UserWarning,
    )
    return True
