"""From blocks to sub-networks, and from sub-networks to the weights of an MLP."""

import numpy as np

from sklearn_convexnn.deep.problem import pre_activation


def subnetworks_of_blocks(problem, program, theta, offset):
    """The sub-networks that a solution of a program stands for.

    Parameters
    ----------
    problem : DeepProblem
    program : DeepProgram
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
            needed = np.where(linear, np.max(-z, axis=0), 0.0)
            b += needed - np.where(linear, b, 0.0)
            if level + 1 < len(weights):
                signs = blocks.signs[level]
                taken = (signs * needed).reshape(*biases[level + 1].shape, -1)
                shifts[level + 1] = shifts[level + 1] - taken.sum(axis=2)
        inputs = np.maximum(z + b, 0.0)
    # Here `needed` is that of the last units.
    units = problem.from_weights(weights, biases, outputs)
    if problem.fit_intercept:
        costs = problem.architecture.cost(weights) > 0
        offset -= outputs[costs, 0] @ needed[costs, 0]
        if np.any(straight):
            line = _straight(problem, straight)
            units = units.joined(line[0])
            offset -= line[1]
    return type(units)(units.weights, units.biases, units.outputs, offset)


def _straight(problem, direction):
    """A sub-network that is linear on the samples, and the constant it adds."""
    shift = np.max(-problem.X @ direction, initial=0.0)
    unit = problem.embedded(direction[None], np.array([shift]), np.ones((1, 1)))
    constant = np.mean(
        problem.features(unit) @ unit.outputs - (problem.X @ direction)[:, None]
    )
    return unit, constant
