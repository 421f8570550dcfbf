"""Shapes and costs of parallel sub-networks."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

# Sizes of units, relative to the largest of their layer, that are as good as zero.
_NOTHING = 1e-10


@dataclass(frozen=True)
class Architecture:
    r"""Sub-networks of the same shape, each of which ends in one unit.

    A unit of depth ``L`` (weight layers, with that of the outputs) is
    ``( ... ((X W_1)_+ W_2)_+ ... w_{L-1} )_+``.  The weight decay of a unit and
    of its output weights ``w_L`` is, once layers are rescaled, `alpha` times
    ``cost * ||w_L||``.

    Attributes
    ----------
    depth : int
        At least three.
    width : int
        Units of each inner layer, with the path norm of each unit of the next
        layer.
    norm : {'frobenius', 'path'}
        The cost of a unit: the product of the Frobenius norms of its layers, or
        the root of the sum of the squared products of weights along its paths.

    References
    ----------
    .. [1] Ergen, T. and Pilanci, M. (2021). "Global Optimality Beyond Two
       Layers: Training Deep ReLU Networks via Convex Programs". ICML.
    .. [2] Ergen, T. and Pilanci, M. (2021). "Path Regularization: A Convexity
       and Sparsity Inducing Regularization for Parallel ReLU Networks". arXiv
       2110.09548.
    """

    depth: int
    width: int
    norm: str

    @property
    def is_tree(self):
        """Whether each inner unit feeds one unit only."""
        return self.norm == "path" or self.depth == 3

    @property
    def has_leaf_norms(self):
        """Whether each leaf has a norm of its own, so that equal ones merge."""
        return self.norm == "frobenius"

    @cached_property
    def widths(self):
        """Units of each hidden layer of a sub-network; the last one is 1."""
        inner = range(self.depth - 2, 0, -1)
        power = [self.width ** (level if self.is_tree else 1) for level in inner]
        return (*power, 1)

    @cached_property
    def connections(self):
        """Whether weights are used, for each hidden layer; None where all are."""
        used = [None]
        for before, after in zip(self.widths, self.widths[1:]):
            mask = None
            if before == after * self.width and after > 1:
                mask = np.repeat(np.eye(after, dtype=bool), self.width, axis=0)
            used.append(mask)
        if not self.is_tree:
            used = [None] * len(self.widths)
        return used

    def cost(self, weights):
        """Costs of units, shape (n_units,).

        Parameters
        ----------
        weights : list of ndarray of shape (n_units, n_inputs, n_outputs)
            Of each hidden layer.
        """
        return np.sqrt(self.cost_squared(weights)[0])

    def cost_squared(self, weights):
        """Squared costs of units, and their derivatives by the weights.

        Returns
        -------
        squared : ndarray of shape (n_units,)
        gradients : list of ndarray
            Of the shapes of `weights`.
        """
        if self.norm == "frobenius":
            squares = [np.sum(W**2, axis=(1, 2)) for W in weights]
            others = _products_of_others(squares)
            gradients = [2.0 * o[:, None, None] * W for o, W in zip(others, weights)]
            return others[0] * squares[0], gradients
        # The forward pass of the squares, without activations.
        reach = [np.ones((len(weights[0]), 1, weights[0].shape[1]))]
        for W in weights:
            reach.append(reach[-1] @ W**2)
        back = np.ones_like(reach[-1])
        gradients = []
        for W, before in zip(weights[::-1], reach[-2::-1]):
            gradients.append(2.0 * W * before.transpose(0, 2, 1) * back)
            back = back @ (W**2).transpose(0, 2, 1)
        return reach[-1][:, 0, 0], gradients[::-1]

    def normalised(self, weights, biases):
        """Units of cost one, with layers of norm one (units, for the path norm).

        Three layers are balanced: their cost is the least for what they compute.

        Parameters
        ----------
        weights : list of ndarray of shape (n_units, n_inputs, n_outputs)
        biases : list of ndarray of shape (n_units, n_outputs)

        Returns
        -------
        weights, biases : list of ndarray
            Where the cost is zero, all zero.
        cost : ndarray of shape (n_units,)
            By which the units were divided.
        """
        weights, biases = list(weights), list(biases)
        if self.norm == "path":
            for level in range(len(weights)):
                norms = np.linalg.norm(weights[level], axis=1)
                if level + 1 < len(weights):
                    _fold(weights, biases, level, norms)
                    norms = np.linalg.norm(weights[level], axis=1)
                scale = _inverse(norms)
                weights[level] = weights[level] * scale[:, None, :]
                biases[level] = biases[level] * scale
                if level + 1 < len(weights):
                    weights[level + 1] = weights[level + 1] * norms[:, :, None]
            return weights, biases, norms[:, 0]
        if self.depth == 3:
            norms = np.linalg.norm(weights[0], axis=1)
            _fold(weights, biases, 0, norms * np.abs(weights[1][:, :, 0]))
            norms = np.linalg.norm(weights[0], axis=1)
            magnitude = np.sqrt(norms * np.abs(weights[1][:, :, 0]))
            scale = magnitude * _inverse(norms)
            weights[0] = weights[0] * scale[:, None, :]
            biases[0] = biases[0] * scale
            weights[1] = np.sign(weights[1]) * magnitude[:, :, None]
        total = np.ones(len(weights[0]))
        for level, W in enumerate(weights):
            norms = np.sqrt(np.sum(W**2, axis=(1, 2)))
            total = total * norms
            weights[level] = W * _inverse(norms)[:, None, None]
            biases[level] = biases[level] * _inverse(total)[:, None]
        return weights, biases, total


def _fold(weights, biases, level, sizes):
    """Make units that are all but constant part of the biases after them.

    Otherwise these would be divided by their sizes.
    """
    gone = sizes <= _NOTHING * np.max(sizes, axis=1, keepdims=True)
    if not np.any(gone):
        return
    constant = np.where(gone, np.maximum(biases[level], 0.0), 0.0)
    after = np.einsum("kj,kjo->ko", constant, weights[level + 1])
    biases[level + 1] = biases[level + 1] + after
    biases[level] = np.where(gone, 0.0, biases[level])
    weights[level] = np.where(gone[:, None], 0.0, weights[level])
    weights[level + 1] = np.where(gone[:, :, None], 0.0, weights[level + 1])


def _inverse(values):
    return np.divide(1.0, values, out=np.zeros_like(values), where=values > 0)


def _products_of_others(factors):
    """For each factor the product of the others, also if some are zero."""
    before = [np.ones_like(factors[0])]
    after = [before[0]]
    for first, last in zip(factors[:-1], factors[:0:-1]):
        before.append(before[-1] * first)
        after.append(after[-1] * last)
    return [left * right for left, right in zip(before, after[::-1])]
