"""Outputs of filters, pooled over windows, and their derivatives."""

import numpy as np


class Pooling:
    """What becomes of the products of filters with patches, and the way back.

    Products have the shape (n_windows, n_samples, window_size, n_filters).

    Parameters
    ----------
    largest : bool
        Whether of a window the largest output counts, or the mean.
    linear : ndarray of bool, shape (n_filters,), or None
        Filters that count as active everywhere.
    """

    def __init__(self, largest, linear=None):
        self.largest = largest
        self.linear = linear if linear is not None and np.any(linear) else None

    def forward(self, z):
        """Features of products, shape (n_windows, n_samples, n_filters).

        The products are overwritten, and needed for the way back.

        Returns
        -------
        Z : ndarray
        state : tuple
            For `backward`.
        """
        if self.largest:
            top = np.max(z, axis=2)
            return np.maximum(top, 0.0), (z, top)
        active = z > 0
        if self.linear is not None:
            active |= self.linear
        z *= active
        return mean_of(z), (z, active)

    def backward(self, slopes, state):
        """Derivatives by the products, of those by the features.

        Parameters
        ----------
        slopes : ndarray of shape (n_windows, n_samples, n_filters)
        state : tuple
            Of `forward`; not of use afterwards.

        Returns
        -------
        pulls : ndarray of the shape of the products
        """
        z, kept = state
        if not self.largest:
            np.multiply(kept, (slopes / z.shape[2])[:, :, None], out=z)
            return z
        # Equal patches, as those of a blank background, share the derivative.
        first = z == kept[:, :, None]
        slopes = slopes * (kept > 0) / np.sum(first, axis=2, dtype=z.dtype)
        np.multiply(first, slopes[:, :, None], out=z)
        return z


def mean_of(z):
    """The mean of each window.

    Parameters
    ----------
    z : ndarray of shape (n_windows, n_samples, window_size, n_filters)

    Returns
    -------
    means : ndarray of shape (n_windows, n_samples, n_filters)
    """
    return z[:, :, 0] if z.shape[2] == 1 else z.mean(axis=2)
