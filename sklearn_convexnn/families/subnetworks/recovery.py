"""From blocks to sub-networks, and from sub-networks to the weights of an MLP."""

from dataclasses import replace

import numpy as np
from scipy.linalg import block_diag

from sklearn_convexnn.families.subnetworks.units import pre_activation

_ROUNDING = 1e-15


def subnetworks_of_blocks(family, program, theta, offset):
    """The sub-networks that a solution of a program stands for.

    Parameters
    ----------
    family : ParallelSubnetworks
    program : SubnetworkProgram
    theta : ndarray of shape (n_blocks, p)
    offset : float

    Returns
    -------
    network : Network
        Proposition 1 of [1]_ with weights that are balanced.

    References
    ----------
    .. [1] Ergen, T. and Pilanci, M. (2021). "Global Optimality Beyond Two
       Layers: Training Deep ReLU Networks via Convex Programs". ICML.
    """
    blocks = program.blocks
    vectors, shifts, straight = program.expand(theta)
    present = blocks.present
    weights, biases = family.no_weights(len(blocks))
    outputs = program.operator.outputs[:, None].copy()
    offset = np.full(1, float(offset))
    needed = np.zeros((len(blocks), 1))
    weights[0][:] = (vectors * present[0][:, :, None]).transpose(0, 2, 1)
    inputs = family.X
    for level, (W, b) in enumerate(zip(weights, biases)):
        if level > 0:
            signs = blocks.signs[level - 1] * present[level - 1]
            above = W.shape[2]
            index = np.arange(signs.shape[1])
            W[:, index, index // (len(index) // above)] = signs
        b += shifts[level] * present[level]
        z = pre_activation(inputs, W)
        if family.fit_intercept:
            # Linear units need a bias with which they are active everywhere; what
            # comes after them takes it away.
            linear = blocks.linear[level] & present[level]
            needed = np.where(linear, np.max(-z, axis=0).T, 0.0)
            b += needed - np.where(linear, b, 0.0)
            if level + 1 < len(weights):
                signs = blocks.signs[level]
                n_units = biases[level + 1].shape[1]
                fan_in = signs.shape[1] // n_units
                taken = (signs * needed).reshape(len(signs), n_units, fan_in)
                shifts[level + 1] = shifts[level + 1] - taken.sum(axis=2)
        inputs = np.maximum(z + b.T, 0.0)
    # Here `needed` is that of the last units.
    network = family.network(weights, biases, outputs, offset)
    if family.fit_intercept:
        costs = family.architecture.cost(weights) > 0
        offset -= outputs[costs, 0] @ needed[costs, 0]
        if np.any(straight):
            shift = np.max(-family.X @ straight, initial=0.0)
            line = family.embedded(straight[None], np.array([shift]))
            network = network.joined(family.network(*line, np.ones((1, 1)), offset))
            offset -= shift
    return replace(network, offset=offset)


def layers_of_subnetworks(network):
    """Weights of the network in the shapes of scikit-learn's MLP.

    Parameters
    ----------
    network : Network

    Returns
    -------
    coefs : list of ndarray
        The first has the layers of all sub-networks side by side, the others have
        them as blocks on the diagonal.  Inner layers have norm one, and those of
        the last two the same norm in each sub-network.
    intercepts : list of ndarray
    """
    root, units = np.sqrt(network.sizes), network.units
    layers = [*units.weights[:-1], units.weights[-1] * root[:, None, None]]
    biases = [*units.biases[:-1], units.biases[-1] * root[:, None]]
    # At most one, also after rounding.
    for level in range(len(layers) - 1):
        layers[level] = layers[level] * (1.0 - _ROUNDING)
        layers[-1] = layers[-1] / (1.0 - _ROUNDING)
    coefs = [layers[0].transpose(1, 0, 2).reshape(layers[0].shape[1], -1)]
    for layer in layers[1:]:
        shape = len(units) * layer.shape[1], len(units) * layer.shape[2]
        coefs.append(block_diag(*layer).reshape(shape))
    coefs.append(network.outputs / root[:, None])
    return coefs, [*(b.reshape(-1) for b in biases), network.offset]


def subnetworks_of_layers(family, coefs, intercepts):
    """The inverse of `layers_of_subnetworks`.

    Parameters
    ----------
    family : ParallelSubnetworks
    coefs, intercepts : list of ndarray

    Returns
    -------
    network : Network
    """
    weights, biases = family.no_weights(len(coefs[-1]))
    n_units, n_inputs, width = weights[0].shape
    weights[0][:] = coefs[0].reshape(n_inputs, n_units, width).transpose(1, 0, 2)
    for W, coef in zip(weights[1:], coefs[1:-1]):
        blocks = coef.reshape(n_units, W.shape[1], n_units, W.shape[2])
        W[:] = blocks[np.arange(n_units), :, np.arange(n_units)]
    for b, shift in zip(biases, intercepts):
        b[:] = shift.reshape(b.shape)
    return family.network(weights, biases, coefs[-1], intercepts[-1])
