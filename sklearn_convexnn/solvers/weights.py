"""Hidden and output weights of two-layer networks, as descent moves them."""

from dataclasses import dataclass, replace

import numpy as np

from sklearn_convexnn._sklearn import get_namespace
from sklearn_convexnn._utils.devices import in_numpy, on_device, placed


@dataclass(frozen=True)
class Weights:
    """Weights of a two-layer network, and its biases.

    While they move, all but `linear` may be arrays of another library.

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
        return self._each(lambda part: part.astype(dtype))

    def placed(self, X):
        """The same in the namespace and on the device of `X`."""
        return self._each(lambda part: placed(part, X))

    def in_numpy(self):
        """The same in NumPy."""
        return self._each(in_numpy)

    def _each(self, change):
        """The weights with all numbers changed by a function of arrays."""
        return replace(
            self,
            hidden=change(self.hidden),
            output=change(self.output),
            bias=change(self.bias),
            offset=change(self.offset),
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


def random_size(problem, n_neurons):
    """Norm of the hidden weights of a random neuron, and of its output weights.

    Outputs of all neurons together are about a third of what they are to be.

    Parameters
    ----------
    problem : Problem
    n_neurons : int

    Returns
    -------
    size : float
    """
    p, family = problem, problem.family
    F = np.zeros(p.Y.shape) + p.null().offset
    spread = max(p.loss.spread(F, p.Y, p.sample_weight), 1e-300)
    count = np.sqrt(family.unit_size / max(n_neurons, 1))
    return 0.6 * np.sqrt(spread * count / family.typical_length)


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
            one = xp.ones_like(z[:1, :])
            slope = xp.where(slope, one, self.negative_slope * one)
        elif on_device(z):
            # Other libraries do not multiply numbers by truth values.
            slope = get_namespace(z)[0].astype(slope, z.dtype)
        z *= slope
        return slope
