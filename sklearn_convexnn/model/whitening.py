"""Whitened data: batch normalisation of neurons as a change of the data."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import qr, svd

# Entries of the arrays that are computed at once.
_CHUNK = 4_000_000
# Deviation of a column, relative to its size, that is rounding; and in units of the
# precision of the data.
_FLAT, _ROUNDED = 1e-13, 4.0


@dataclass(frozen=True)
class Whitening:
    r"""The linear map to data of mean zero and variance one in every direction.

    A neuron behind batch normalisation, of scale ``g`` and a free shift, has the
    pre-activation ``g (x - m)^T w / std(X w)``.  It is a plain neuron whose direction
    has the length ``|g|`` on whitened data, so weight decay of the scales is that of
    directions there.

    Attributes
    ----------
    centre : ndarray of shape (n_features,)
        The mean of the data.
    forward : ndarray of shape (n_features, n_directions)
        Whitened data are ``(X - centre) @ forward``.
    back : ndarray of shape (n_directions, n_features)
        Its inverse on the span of the data: ``back @ forward`` is the identity.

    References
    ----------
    .. [1] Ergen, T., Sahiner, A., Ozturkler, B., Pauly, J., Mardani, M. and Pilanci, M.
       (2022). "Demystifying Batch Normalization in ReLU Networks: Equivalent Convex
       Optimization Models and Implicit Regularization". ICLR. Section 2 (whitening).
    """

    centre: np.ndarray
    forward: np.ndarray
    back: np.ndarray

    @classmethod
    def of(cls, X, sample_weight):
        """The whitening of data, by their weighted mean and covariance.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Directions in which they vary by no more than the rounding of their dtype
            are left out.
        sample_weight : ndarray of shape (n_samples,)
            Non-negative, not all of them zero.

        Returns
        -------
        whitening : Whitening
        """
        rounding = np.finfo(X.dtype).eps
        share = sample_weight / np.sum(sample_weight)
        sizes = np.max(np.abs(X), axis=0).astype(np.float64)
        scale = np.where(sizes > 0, sizes, 1.0)
        # The correlation does not depend on units, in which some columns may be small.
        scaled = X / scale
        mean = share @ scaled
        scaled -= mean
        deviation = np.sqrt(share @ scaled**2)
        varies = deviation > max(_FLAT, _ROUNDED * rounding)
        scaled[:, ~varies] = 0.0
        inverse = np.where(varies, 1.0 / np.where(varies, deviation, 1.0), 0.0)
        scaled *= inverse
        scaled *= np.sqrt(share)[:, None]
        if len(scaled) > scaled.shape[1]:
            scaled = qr(scaled, mode="r", overwrite_a=True, check_finite=False)[0]
            scaled = scaled[: scaled.shape[1]]
        _, singular, axes = svd(scaled, full_matrices=False, check_finite=False)
        # What rounding adds to the singular values: of data, and of the computation.
        noise = rounding * np.linalg.norm(inverse)
        noise += np.finfo(float).eps * max(X.shape) * singular.max(initial=0.0)
        rank = max(int(np.sum(singular > noise)), 1)
        singular, axes = singular[:rank], axes[:rank]
        known = np.where(singular > noise, singular, np.inf)
        return cls(
            centre=mean * scale,
            forward=(inverse / scale)[:, None] * (axes.T / known),
            back=singular[:, None] * axes * (deviation * scale),
        )

    def scaled(self, factor):
        """The whitening of data so many times as large."""
        return Whitening(
            self.centre * factor, self.forward / factor, self.back * factor
        )

    def transform(self, X):
        """Whitened data; equal samples that follow each other stay equal.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)

        Returns
        -------
        whitened : ndarray of shape (n_samples, n_directions)
        """
        new = np.append(True, np.any(X[1:] != X[:-1], axis=1))
        return ((X[new] - self.centre) @ self.forward)[np.cumsum(new) - 1]


def squared_deviations(X, sample_weight, hidden):
    """The sum of the variances of the pre-activations of neurons.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    sample_weight : ndarray of shape (n_samples,)
    hidden : ndarray of shape (n_features, n_neurons)
        Weights.

    Returns
    -------
    total : float
    """
    share = sample_weight / np.sum(sample_weight)
    centre, total = share @ X, 0.0
    step = max(1, _CHUNK // max(hidden.shape))
    means = np.zeros(hidden.shape[1])
    for i in range(0, len(X), step):
        Z = (X[i : i + step] - centre) @ hidden
        total += float(np.sum(share[i : i + step] @ Z**2))
        means += share[i : i + step] @ Z
    return total - float(means @ means)
