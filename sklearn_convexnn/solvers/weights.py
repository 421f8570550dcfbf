"""Hidden and output weights of two-layer networks, as descent moves them."""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Weights:
    """Weights of a two-layer network, and its biases.

    Attributes
    ----------
    hidden : ndarray of shape (n_features, n_neurons)
    output : ndarray of shape (n_neurons, n_outputs)
    bias : ndarray of shape (n_neurons,)
        Of the neurons.
    linear : ndarray of bool, shape (n_neurons,)
        Neurons that count as active everywhere, and have no bias.
    offset : ndarray of shape (n_outputs,)
        Output biases.
    """

    hidden: np.ndarray
    output: np.ndarray
    bias: np.ndarray
    linear: np.ndarray
    offset: np.ndarray

    def astype(self, dtype):
        """A copy of that precision."""
        return replace(
            self,
            hidden=self.hidden.astype(dtype),
            output=self.output.astype(dtype),
            bias=self.bias.astype(dtype),
            offset=self.offset.astype(dtype),
        )

    def units(self, entry):
        """One unit each for hidden and output weights, biases and the offset.

        Those of the biases and of the offset are the unit of the weights times the
        size of what they are added to, for data with entries of the size `entry`:
        with larger ones descent ends at worse minima.
        """
        unit = np.sqrt(np.mean(self.hidden**2)) if self.hidden.size else 1.0
        sizes = np.sum(self.output**2, axis=1)
        size = np.sqrt(np.mean(sizes)) if self.output.size else 1.0
        return unit, unit, unit * entry, unit * entry * size


class Activation:
    """What makes units of products with the data.

    Parameters
    ----------
    linear : ndarray of bool, shape (n_neurons,)
        As of `Weights`.
    negative_slope : float
    """

    def __init__(self, linear, negative_slope):
        self.linear, self.some_linear = linear, np.any(linear)
        self.negative_slope = negative_slope

    def apply(self, z):
        """Turn products into the units, in place; their slopes."""
        slope = z > 0
        if self.some_linear:
            slope |= self.linear
        if self.negative_slope != 0:
            one, leak = z.dtype.type(1.0), z.dtype.type(self.negative_slope)
            slope = np.where(slope, one, leak)
        z *= slope
        return slope
