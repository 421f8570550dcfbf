"""Neurons, and the space of their directions."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import eye_array

from sklearn_convexnn._sklearn import get_namespace
from sklearn_convexnn._utils.breakdown import row_space
from sklearn_convexnn._utils.deadlines import fits, row_space_work
from sklearn_convexnn.model.coordinates import Coordinates
from sklearn_convexnn.model.network import Network

# Part of the time that may go into a reduction of the features, also if it is sure to
# make them fewer.
_REDUCING, _REDUCING_MUCH = 0.1, 0.5


@dataclass(frozen=True)
class Neurons:
    """Hidden neurons ``act(X direction + bias)``, with directions of length one.

    Attributes
    ----------
    directions : ndarray of shape (n_neurons, n_features)
    biases : ndarray of shape (n_neurons,)
    linear : ndarray of bool, shape (n_neurons,)
        Neurons that stand for a linear term: they count as active everywhere.
    """

    directions: np.ndarray
    biases: np.ndarray
    linear: np.ndarray

    def __len__(self):
        return len(self.biases)

    def select(self, keep):
        """The neurons at index or mask `keep`."""
        return Neurons(self.directions[keep], self.biases[keep], self.linear[keep])

    def joined(self, other):
        """These neurons and those of `other`."""
        return Neurons(
            np.concatenate([self.directions, other.directions]),
            np.concatenate([self.biases, other.biases]),
            np.concatenate([self.linear, other.linear]),
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
    if not fits(row_space_work(X.shape), share):
        return eye_array(X.shape[1], format="csr")
    return row_space(X)


@dataclass(frozen=True)
class RowSpace(Coordinates):
    """Neurons in the coordinates of a basis of the row space of the data.

    Attributes
    ----------
    family : TwoLayer
        Of the data in these coordinates.
    basis : {ndarray, sparse array} of shape (n_features, rank)
        Orthonormal columns.
    """

    basis: object

    @classmethod
    def of(cls, family):
        """That of a family, as far as there is time to find it."""
        basis = row_space_in_time(family.X)
        X = np.ascontiguousarray(family.X @ basis)
        return cls(replace(family, X=X), basis)

    def into(self, network):
        """A network of the neurons that have a direction in the row space.

        Their outputs are not scaled.
        """
        directions = network.units.directions @ self.basis
        norm = np.linalg.norm(directions, axis=1)
        keep = norm > 0
        units = Neurons(
            directions[keep] / norm[keep, None],
            network.units.biases[keep] / norm[keep],
            network.units.linear[keep],
        )
        return Network(units, network.outputs[keep], network.offset)

    def back(self, network):
        """The inverse of `into`."""
        units = network.units
        directions = units.directions @ self.basis.T
        return replace(network, units=replace(units, directions=directions))


def activation(z, negative_slope=0.0):
    """``z`` where positive, ``negative_slope * z`` elsewhere.

    Parameters
    ----------
    z : array
        Of any library.
    negative_slope : float, default=0.0

    Returns
    -------
    outputs : ndarray of the shape of `z`
    """
    if negative_slope == 0 and isinstance(z, np.ndarray):
        return np.maximum(z, 0.0)
    xp, _ = get_namespace(z)
    if negative_slope == 0:
        return xp.clip(z, min=0.0)
    return xp.where(z > 0, z, negative_slope * z)
