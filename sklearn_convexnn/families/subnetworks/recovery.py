"""From blocks to sub-networks, and from sub-networks to the weights of an MLP."""

from dataclasses import replace

import numpy as np
from scipy.linalg import block_diag

from sklearn_convexnn.families.subnetworks.problem import pre_activation

_ROUNDING = 1e-15


def subnetworks_of_blocks(problem, program, theta, offset):
    """The sub-networks that a solution of a program stands for.

    Parameters
    ----------
    problem : DeepProblem
    program : SubnetworkProgram
    theta : ndarray of shape (n_blocks, p)
    offset : float

    Returns
    -------
    subnetworks : Subnetworks
        Proposition 1 of [1]_ with weights that are balanced.

    References
    ----------
    .. [1] Ergen, T. and Pilanci, M. (2021). "Global Optimality Beyond Two
       Layers: Training Deep ReLU Networks via Convex Programs". ICML.
    """
    blocks = program.blocks
    vectors, shifts, straight = program.expand(theta)
    present = blocks.present
    weights, biases = problem.no_weights(len(blocks))
    outputs = program.operator.outputs[:, None].copy()
    offset = np.full(1, float(offset))
    needed = np.zeros((len(blocks), 1))
    weights[0][:] = (vectors * present[0][:, :, None]).transpose(0, 2, 1)
    inputs = problem.X
    for level, (W, b) in enumerate(zip(weights, biases)):
        if level > 0:
            signs = blocks.signs[level - 1] * present[level - 1]
            above = W.shape[2]
            index = np.arange(signs.shape[1])
            W[:, index, index // (len(index) // above)] = signs
        b += shifts[level] * present[level]
        z = pre_activation(inputs, W)
        if problem.fit_intercept:
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
    units = problem.from_weights(weights, biases, outputs)
    if problem.fit_intercept:
        costs = problem.architecture.cost(weights) > 0
        offset -= outputs[costs, 0] @ needed[costs, 0]
        if np.any(straight):
            shift = np.max(-problem.X @ straight, initial=0.0)
            line = straight[None], np.array([shift]), np.ones((1, 1))
            units = units.joined(problem.embedded(*line))
            offset -= shift
    return replace(units, offset=offset)


def layers_of_subnetworks(units, X=None):
    """Weights of the network in the shapes of scikit-learn's MLP.

    Parameters
    ----------
    units : Subnetworks
    X : ndarray or None
        Not used: they have no linear terms.

    Returns
    -------
    coefs : list of ndarray
        The first has the layers of all sub-networks side by side, the others have
        them as blocks on the diagonal.  Inner layers have norm one, and those of
        the last two the same norm in each sub-network.
    intercepts : list of ndarray
    """
    root = np.sqrt(units.sizes)
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
    coefs.append(units.outputs / root[:, None])
    return coefs, [*(b.reshape(-1) for b in biases), units.offset]


def subnetworks_of_layers(problem, coefs, intercepts):
    """The inverse of `layers_of_subnetworks`.

    Parameters
    ----------
    problem : DeepProblem
    coefs, intercepts : list of ndarray

    Returns
    -------
    units : Subnetworks
    """
    n_units = len(coefs[-1])
    weights, biases = problem.no_weights(n_units)
    weights[0][:] = coefs[0].reshape(len(coefs[0]), n_units, -1).transpose(1, 0, 2)
    for W, coef in zip(weights[1:], coefs[1:-1]):
        blocks = coef.reshape(n_units, W.shape[1], n_units, W.shape[2])
        W[:] = blocks[np.arange(n_units), :, np.arange(n_units)]
    for b, shift in zip(biases, intercepts):
        b[:] = shift.reshape(b.shape)
    return problem.from_weights(weights, biases, coefs[-1], intercepts[-1])
