"""Where the patches of a convolution lie, and which of them are pooled together."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Layout:
    """Patches of images or series of one shape, in windows of as many positions each.

    Attributes
    ----------
    shape : tuple of int
        Of the positions of an input, without channels.
    channels : int
    kernel, strides : tuple of int
        Of the filters, and of the steps between them.
    before, after : tuple of int
        Positions of zeros that are added on either side.
    window : tuple of int
        Positions that are pooled together, next to each other; what is left over at
        the end is not used.
    largest : bool
        Whether of a window the largest output counts, or the mean.
    """

    shape: tuple
    channels: int
    kernel: tuple
    strides: tuple
    before: tuple
    after: tuple
    window: tuple
    largest: bool

    @property
    def n_features(self):
        return int(np.prod(self.shape)) * self.channels

    @property
    def positions(self):
        """Numbers of positions of a filter along the axes."""
        return tuple(
            (size + low + high - kernel) // stride + 1
            for size, low, high, kernel, stride in zip(
                self.shape, self.before, self.after, self.kernel, self.strides
            )
        )

    @property
    def windows(self):
        """Numbers of windows along the axes."""
        return tuple(n // size for n, size in zip(self.positions, self.window))

    @property
    def n_windows(self):
        return int(np.prod(self.windows))

    @property
    def window_size(self):
        return int(np.prod(self.window))

    @property
    def patch_size(self):
        return int(np.prod(self.kernel)) * self.channels

    @property
    def n_patches(self):
        """Patches of an input that are used."""
        return self.n_windows * self.window_size

    @cached_property
    def index(self):
        """Features of each patch, shape (n_windows, window_size, patch_size).

        Those beyond the border are `n_features`.
        """
        ndim = len(self.shape)
        numbers = np.arange(self.n_features).reshape(*self.shape, self.channels)
        margins = [*zip(self.before, self.after), (0, 0)]
        numbers = np.pad(numbers, margins, constant_values=self.n_features)
        axes = tuple(range(ndim))
        patches = np.lib.stride_tricks.sliding_window_view(numbers, self.kernel, axes)
        patches = patches[tuple(slice(None, None, stride) for stride in self.strides)]
        used = tuple(slice(n * size) for n, size in zip(self.windows, self.window))
        # The channels come before the axes of the kernel.
        patches = np.moveaxis(patches[used], ndim, -1)
        pairs = [n for pair in zip(self.windows, self.window) for n in pair]
        patches = patches.reshape(*pairs, -1)
        order = [*range(0, 2 * ndim, 2), *range(1, 2 * ndim, 2), 2 * ndim]
        shape = self.n_windows, self.window_size, self.patch_size
        return np.ascontiguousarray(patches.transpose(order).reshape(shape))

    def patches(self, X):
        """Those of the samples in each window.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)

        Returns
        -------
        patches : ndarray of shape (n_windows, n_samples, window_size, patch_size)
        """
        index = self.index
        if any(self.before) or any(self.after):
            X = np.concatenate([X, np.zeros((len(X), 1), X.dtype)], axis=1)
        return np.stack([np.take(X, part, axis=1) for part in index])
