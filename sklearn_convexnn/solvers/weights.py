"""Hidden and output weights of two-layer networks, as descent moves them."""

from dataclasses import dataclass

import numpy as np

from sklearn_convexnn._sklearn import get_namespace
from sklearn_convexnn._utils.devices import in_numpy, on_device, placed


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

    def placed(self, X):
        """The weights in the namespace and on the device, and of the type, of `X`."""
        kind = in_numpy(X[:0, :]).dtype
        parts = (self.hidden, self.output, self.bias, self.offset)
        hidden, output, bias, offset = (placed(part.astype(kind), X) for part in parts)
        return Weights(hidden, output, bias, self.linear, offset)

    def in_numpy(self):
        """The weights as arrays of NumPy, in double precision."""
        parts = (self.hidden, self.output, self.bias, self.offset)
        hidden, output, bias, offset = (
            in_numpy(part).astype(np.float64) for part in parts
        )
        return Weights(hidden, output, bias, self.linear, offset)

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
            slope |= placed(self.linear, z)
        if self.negative_slope != 0:
            xp, _ = get_namespace(z)
            one = xp.ones_like(z)
            slope = xp.where(slope, one, self.negative_slope * one)
        elif on_device(z):
            # Other libraries do not multiply numbers by truth values.
            slope = get_namespace(z)[0].astype(slope, z.dtype)
        z *= slope
        return slope
