"""Scales of the columns of the data."""

import warnings

import numpy as np
from scipy.sparse import issparse
from sklearn.utils.sparsefuncs import mean_variance_axis, min_max_axis

from sklearn_convexnn._utils.devices import in_numpy, on_device

FAR_APART = 1e3
"""Largest scale of a column over the smallest one from which on users are warned."""
GO_BY = 30.0
"""The same from which on searches go by the scales."""
# Entries of dense data that are looked at.
_ENTRIES = 1_000_000
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

    The scale is the standard deviation; of a column of two values it is half of
    their distance, however rare one of them is.

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
        low, high = min_max_axis(X, axis=0)
        spread = np.sqrt(mean_variance_axis(X, axis=0)[1])
        column, values = X.indices, X.data
        other = (values != low[column]) & (values != high[column])
        other = np.bincount(column[other], minlength=X.shape[1])
        # Entries that are not stored are a third value.
        stored = np.bincount(column, minlength=X.shape[1])
        other += (low < 0) & (high > 0) & (stored < X.shape[0])
    else:
        # Some samples say as much of many.
        X = X[:: max(1, X.size // _ENTRIES)]
        low, high = X.min(axis=0), X.max(axis=0)
        with np.errstate(over="ignore", invalid="ignore"):
            spread = X.std(axis=0, dtype=np.float64)
        other = np.any((low < X) & (high > X), axis=0)
    low, high = low.astype(np.float64), high.astype(np.float64)
    half = 0.5 * high - 0.5 * low
    used = half > _FLAT * np.maximum(np.abs(low), np.abs(high))
    scales = np.where(other, spread, half)[used]
    if len(scales) < 2 or not np.all(np.isfinite(scales)):
        return 1.0
    return float(np.max(scales) / max(np.min(scales), np.finfo(float).tiny))


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
