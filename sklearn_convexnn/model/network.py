"""A network: units of any kind, what they add to the outputs, and output biases."""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Network:
    """Units of cost one, with their output weights and the output biases.

    Unit ``j`` adds ``z_j outputs_j^T`` to the outputs, where ``z_j`` is its feature, or
    a sum over several, and ``alpha ||outputs_j||`` to the objective.

    Attributes
    ----------
    units : object
        Of the family of the problem; with a length, `select` and `joined`.
    outputs : ndarray of shape (n_units, n_windows * n_outputs)
        Of the features of a unit one after the other, for all outputs each.
    offset : ndarray of shape (n_outputs,)
        Output biases.
    """

    units: object
    outputs: np.ndarray
    offset: np.ndarray

    @classmethod
    def of_one_output(cls, units, coefficients, offset):
        """A network of one output, with a coefficient for each unit.

        Parameters
        ----------
        units : object
        coefficients : ndarray of shape (n_units,)
        offset : float

        Returns
        -------
        network : Network
        """
        outputs = np.reshape(coefficients, (-1, 1))
        return cls(units, outputs, np.array([float(offset)]))

    def __len__(self):
        return len(self.outputs)

    @property
    def sizes(self):
        """Norms of `outputs`, shape (n_units,)."""
        return np.linalg.norm(self.outputs, axis=1)

    @property
    def coefficients(self):
        """Those of the only output, shape (n_units,)."""
        return self.outputs[:, 0]

    def with_coefficients(self, coefficients, offset):
        """The same units with other coefficients, of one output."""
        return self.of_one_output(self.units, coefficients, offset)

    def select(self, keep):
        """The network of the units at index or mask `keep`."""
        return replace(self, units=self.units.select(keep), outputs=self.outputs[keep])

    def joined(self, other):
        """The network with the units of `other` too, and the offset of this one."""
        return replace(
            self,
            units=self.units.joined(other.units),
            outputs=np.concatenate([self.outputs, other.outputs]),
        )
