"""Neurons of one output, their features, and the space of their directions."""

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
    """Hidden neurons of one output, with their directions kept apart from sizes.

    Neuron ``j`` adds ``magnitude_j sign_j act(X direction_j + bias_j)`` to the
    output and ``alpha magnitude_j`` to the objective; ``direction_j`` has norm
    one.

    Attributes
    ----------
    directions : ndarray of shape (n_neurons, n_features)
    biases, magnitudes, signs : ndarray of shape (n_neurons,)
    linear : ndarray of bool, shape (n_neurons,)
        Neurons that stand for a linear term: they count as active everywhere.
    offset : float
        Output bias.
    """

    directions: np.ndarray
    biases: np.ndarray
    magnitudes: np.ndarray
    signs: np.ndarray
    linear: np.ndarray
    offset: float

    def __len__(self):
        return len(self.magnitudes)

    @property
    def sizes(self):
        """The magnitudes, by the name that neurons of several outputs have."""
        return self.magnitudes

    def select(self, keep):
        """The neurons at index or mask `keep`."""
        return replace(
            self,
            directions=self.directions[keep],
            biases=self.biases[keep],
            magnitudes=self.magnitudes[keep],
            signs=self.signs[keep],
            linear=self.linear[keep],
        )

    def joined(self, other):
        """These neurons and those of `other`, with the offset of these."""
        return replace(
            self,
            **{
                name: np.concatenate([getattr(self, name), getattr(other, name)])
                for name in ("directions", "biases", "magnitudes", "signs", "linear")
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
    neurons : Neurons or VectorNeurons
        Their sizes are not kept.
    basis : ndarray of shape (n_features, rank)
        Orthonormal columns.

    Returns
    -------
    neurons : of the same type
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


def features(neurons, X, negative_slope=0.0):
    """Signed outputs of the neurons at magnitude one.

    Parameters
    ----------
    neurons : Neurons
    X : ndarray of shape (n_samples, n_features)
    negative_slope : float, default=0.0

    Returns
    -------
    Z : ndarray of shape (n_samples, n_neurons)
    """
    z = X @ neurons.directions.T + neurons.biases
    z = np.where(neurons.linear, z, activation(z, negative_slope))
    return z * neurons.signs
