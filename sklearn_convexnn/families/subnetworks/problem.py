"""The training problem of parallel sub-networks."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from sklearn_convexnn.families.subnetworks.architecture import Architecture
from sklearn_convexnn.model.problem import Problem

# Operations of a product of matrices in the time of one on single numbers, and in that
# of a layer of few numbers.
_ELEMENTWISE, _OF_LAYER = 20, 1e6


@dataclass(frozen=True)
class Subnetworks:
    """Sub-networks of cost one, and what their units add to the outputs.

    Attributes
    ----------
    weights : tuple of ndarray of shape (n_units, n_inputs, n_outputs)
        Of each hidden layer.
    biases : tuple of ndarray of shape (n_units, n_outputs)
    outputs : ndarray of shape (n_units, n_outputs)
        What the last unit of each adds to the outputs of the network.
    offset : ndarray of shape (n_outputs,)
        Output biases.
    """

    weights: tuple
    biases: tuple
    outputs: np.ndarray
    offset: np.ndarray

    def __len__(self):
        return len(self.outputs)

    @property
    def sizes(self):
        """Norms of `outputs`, shape (n_units,)."""
        return np.linalg.norm(self.outputs, axis=1)

    def select(self, keep):
        """The sub-networks at index or mask `keep`."""
        return replace(
            self,
            weights=tuple(W[keep] for W in self.weights),
            biases=tuple(b[keep] for b in self.biases),
            outputs=self.outputs[keep],
        )

    def joined(self, other):
        """These sub-networks and those of `other`, with the offset of these."""
        return replace(
            self,
            weights=_concatenated(self.weights, other.weights),
            biases=_concatenated(self.biases, other.biases),
            outputs=np.concatenate([self.outputs, other.outputs]),
        )


def _concatenated(first, second):
    return tuple(np.concatenate(pair) for pair in zip(first, second))


@dataclass(frozen=True)
class DeepProblem(Problem):
    """Data and objective of parallel sub-networks.

    Attributes
    ----------
    architecture : Architecture
    """

    architecture: Architecture

    def null(self):
        """The network without sub-networks."""
        weights, biases = self.no_weights(0)
        outputs = np.zeros((0, self.n_outputs))
        return Subnetworks(
            tuple(weights), tuple(biases), outputs, super().null().offset
        )

    def no_weights(self, n_units):
        """Weights and biases of zero for sub-networks."""
        sizes = (self.X.shape[1], *self.architecture.widths)
        weights = [np.zeros((n_units, *pair)) for pair in pairwise(sizes)]
        return weights, [np.zeros((n_units, size)) for size in sizes[1:]]

    def from_weights(self, weights, biases, outputs, offset=None):
        """Sub-networks of any weights, brought to cost one; none of cost zero.

        Parameters
        ----------
        weights : sequence of ndarray of shape (n_units, n_inputs, n_outputs)
        biases : sequence of ndarray of shape (n_units, n_outputs)
        outputs : ndarray of shape (n_units, n_outputs)
        offset : ndarray of shape (n_outputs,), default=None
            Zero if None.

        Returns
        -------
        subnetworks : Subnetworks
        """
        weights, biases, cost = self.architecture.normalised(weights, biases)
        if offset is None:
            offset = np.zeros(self.n_outputs)
        made = Subnetworks(
            tuple(weights), tuple(biases), outputs * cost[:, None], offset
        )
        return made.select(cost > 0)

    def embedded(self, directions, biases, outputs):
        """Two-layer neurons as sub-networks that cost the least.

        Parameters
        ----------
        directions : ndarray of shape (n_neurons, n_features)
        biases : ndarray of shape (n_neurons,)
        outputs : ndarray of shape (n_neurons, n_outputs)

        Returns
        -------
        subnetworks : Subnetworks
        """
        weights, shifts = self.no_weights(len(biases))
        # With the path norm the sum of equal leaves costs less than one of them.
        working = slice(None) if self.architecture.norm == "path" else slice(1)
        weights[0][:, :, working] = directions[:, :, None]
        shifts[0][:, working] = biases[:, None]
        for W, used in zip(weights[1:], self.architecture.connections[1:]):
            W[:, working, working] = 1.0 if used is None else used[working, working]
        return self.from_weights(weights, shifts, outputs)

    def features(self, units, rows=slice(None)):
        """Outputs of the last units, shape (n_samples, n_units)."""
        if len(units) == 0:
            return np.zeros((len(self.X[rows]), 0))
        return forward(self.X[rows], units.weights, units.biases)[-1][:, 0]

    def row_chunks(self, width):
        """Slices of samples, of which arrays of all inner units are small."""
        return super().row_chunks(width * max(self.architecture.widths))

    def work(self, n_units):
        """Operations of a forward pass of so many sub-networks, for deadlines."""
        sizes = (self.X.shape[1], *self.architecture.widths)
        products = [inputs * outputs for inputs, outputs in pairwise(sizes)]
        # What is not a product of matrices goes as fast as memory allows.
        by_sample = 2 * products[0] + _ELEMENTWISE * (
            sum(products[1:]) + sum(sizes[1:])
        )
        return float(len(self.X)) * n_units * by_sample + _OF_LAYER * len(products)

    def slopes_by_output(self, units, N):
        """Slopes of units for each output, shape (n_units, n_outputs)."""
        slopes = np.zeros((len(units), self.n_outputs))
        for rows in self.row_chunks(len(units)):
            slopes += self.features(units, rows).T @ N[rows]
        return slopes


def forward(X, weights, biases):
    """Activations of all layers of sub-networks.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    weights : sequence of ndarray of shape (n_units, n_inputs, n_outputs)
    biases : sequence of ndarray of shape (n_units, n_outputs)

    Returns
    -------
    layers : list of ndarray of shape (n_samples, n_outputs, n_units)
        With the units last, which are many.
    """
    layers = []
    for W, b in zip(weights, biases):
        z = pre_activation(layers[-1] if layers else X, W) + b.T
        layers.append(np.maximum(z, 0.0, out=z))
    return layers


def pre_activation(inputs, W):
    """Products of inputs with the weights of a layer, without biases.

    Parameters
    ----------
    inputs : ndarray of shape (n_samples, n_features) or (n_samples, n_inputs, n_units)
        The same for all units, or of each.
    W : ndarray of shape (n_units, n_inputs, n_outputs)

    Returns
    -------
    z : ndarray of shape (n_samples, n_outputs, n_units)
    """
    n_units, n_inputs, n_outputs = W.shape
    if inputs.ndim == 2:
        flat = W.transpose(1, 2, 0).reshape(n_inputs, n_outputs * n_units)
        return (inputs @ flat).reshape(len(inputs), n_outputs, n_units)
    # The sums are over few inputs, and all the rest is side by side in memory.
    z = inputs[:, :1] * W[:, 0].T
    for j in range(1, n_inputs):
        z += inputs[:, j : j + 1] * W[:, j].T
    return z


def backward(X, weights, layers, gradient, masks=None):
    """Derivatives by weights and biases.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    weights : sequence of ndarray of shape (n_units, n_inputs, n_outputs)
    layers : list of ndarray of shape (n_samples, n_outputs, n_units)
        Of `forward`.
    gradient : ndarray of shape (n_samples, n_units)
        Derivatives by the outputs of the last units.
    masks : list of ndarray, default=None
        Derivatives of the activations; one where they are positive, if None.

    Returns
    -------
    to_weights, to_biases : list of ndarray
    """
    delta = gradient[:, None]
    to_weights, to_biases = [], []
    for level in range(len(weights) - 1, -1, -1):
        delta = delta * (layers[level] > 0 if masks is None else masks[level])
        to_biases.append(np.sum(delta, axis=0).T)
        n_units, n_inputs, n_outputs = weights[level].shape
        if level == 0:
            flat = X.T @ delta.reshape(len(X), n_outputs * n_units)
            flat = flat.reshape(n_inputs, n_outputs, n_units)
            to_weights.append(flat.transpose(2, 0, 1))
            break
        before, W = layers[level - 1], weights[level]
        slopes = np.empty(W.shape, dtype=delta.dtype)
        for j in range(n_inputs):
            slopes[:, j] = np.einsum("nk,nok->ko", before[:, j], delta)
        to_weights.append(slopes)
        above, delta = delta, delta[:, :1] * W[:, :, 0].T
        for o in range(1, n_outputs):
            delta += above[:, o : o + 1] * W[:, :, o].T
    return to_weights[::-1], to_biases[::-1]
