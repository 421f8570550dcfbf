"""Neurons of any number of outputs, and the space of their directions."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import eye_array

from sklearn_convexnn._utils.breakdown import row_space
from sklearn_convexnn._utils.deadlines import fits, svd_work

# Part of the time that may go into a reduction of the features, also if it is sure to
# make them fewer.
_REDUCING, _REDUCING_MUCH = 0.1, 0.4


@dataclass(frozen=True)
class Neurons:
    """Hidden neurons with directions of length one, and an output bias.

    Neuron ``j`` adds ``act(X direction_j + bias_j) outputs_j^T`` to the outputs and
    ``alpha ||outputs_j||`` to the objective.

    Attributes
    ----------
    directions : ndarray of shape (n_neurons, n_features)
    biases : ndarray of shape (n_neurons,)
    outputs : ndarray of shape (n_neurons, n_outputs)
        What its unit adds to each output.
    linear : ndarray of bool, shape (n_neurons,)
        Neurons that stand for a linear term: they count as active everywhere.
    offset : ndarray of shape (n_outputs,)
        Output biases.
    """

    directions: np.ndarray
    biases: np.ndarray
    outputs: np.ndarray
    linear: np.ndarray
    offset: np.ndarray

    @classmethod
    def of_one_output(cls, directions, biases, coefficients, linear, offset):
        """Neurons of one output, with a coefficient for each.

        Parameters
        ----------
        directions, biases, linear : ndarray
        coefficients : ndarray of shape (n_neurons,)
        offset : float

        Returns
        -------
        neurons : Neurons
        """
        outputs = np.reshape(coefficients, (-1, 1))
        return cls(directions, biases, outputs, linear, np.array([float(offset)]))

    def __len__(self):
        return len(self.biases)

    @property
    def sizes(self):
        """Norms of `outputs`, shape (n_neurons,)."""
        return np.linalg.norm(self.outputs, axis=1)

    @property
    def coefficients(self):
        """Those of the only output, shape (n_neurons,)."""
        return self.outputs[:, 0]

    def with_coefficients(self, coefficients, offset):
        """These neurons with others, of one output."""
        return replace(
            self, outputs=coefficients[:, None], offset=np.array([float(offset)])
        )

    def select(self, keep):
        """The neurons at index or mask `keep`."""
        return replace(
            self,
            directions=self.directions[keep],
            biases=self.biases[keep],
            outputs=self.outputs[keep],
            linear=self.linear[keep],
        )

    def joined(self, other):
        """These neurons and those of `other`, with the offset of these."""
        return replace(
            self,
            **{
                name: np.concatenate([getattr(self, name), getattr(other, name)])
                for name in ("directions", "biases", "outputs", "linear")
            },
        )


def row_space_in_time(X):
    """Orthonormal basis of the row space of the data.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)

    Returns
    -------
    basis : {ndarray, sparse array} of shape (n_features, rank)
        That of all features if time is too short to find a smaller one.
    """
    share = _REDUCING if len(X) >= X.shape[1] else _REDUCING_MUCH
    if not fits(svd_work(X.shape), share):
        return eye_array(X.shape[1], format="csr")
    return row_space(X)


def in_basis(neurons, basis):
    """Units in the coordinates of a basis of the row space of the data.

    Parameters
    ----------
    neurons : Neurons
        Their sizes are not kept.
    basis : ndarray of shape (n_features, rank)
        Orthonormal columns.

    Returns
    -------
    neurons : Neurons
        Those with a direction in the row space.
    """
    directions = neurons.directions @ basis
    norm = np.linalg.norm(directions, axis=1)
    keep = norm > 0
    return replace(
        neurons.select(keep),
        directions=directions[keep] / norm[keep, None],
        biases=neurons.biases[keep] / norm[keep],
    )


def activation(z, negative_slope=0.0):
    """``z`` where positive, ``negative_slope * z`` elsewhere.

    Parameters
    ----------
    z : ndarray
    negative_slope : float, default=0.0

    Returns
    -------
    outputs : ndarray of the shape of `z`
    """
    if negative_slope == 0:
        return np.maximum(z, 0.0)
    return np.where(z > 0, z, negative_slope * z)
