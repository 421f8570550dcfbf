"""Sub-networks, their features and the derivatives of these."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Subnetworks:
    """Sub-networks of cost one.

    Attributes
    ----------
    weights : tuple of ndarray of shape (n_units, n_inputs, n_outputs)
        Of each hidden layer.
    biases : tuple of ndarray of shape (n_units, n_outputs)
    """

    weights: tuple
    biases: tuple

    def __len__(self):
        return len(self.biases[0])

    def select(self, keep):
        """The sub-networks at index or mask `keep`."""
        return Subnetworks(
            tuple(W[keep] for W in self.weights), tuple(b[keep] for b in self.biases)
        )

    def joined(self, other):
        """These sub-networks and those of `other`."""
        return Subnetworks(
            _concatenated(self.weights, other.weights),
            _concatenated(self.biases, other.biases),
        )


def _concatenated(first, second):
    return tuple(np.concatenate(pair) for pair in zip(first, second))


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
