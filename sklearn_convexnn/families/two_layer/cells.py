"""The exact step of column generation: neurons move within unions of cells."""

from dataclasses import replace

import numpy as np

from sklearn_convexnn.families.two_layer.recovery import neurons_from_blocks
from sklearn_convexnn.losses import OneSided, Separable
from sklearn_convexnn.patterns.arrangements import Arrangement
from sklearn_convexnn.programs.two_layer import TwoLayerProgram
from sklearn_convexnn.solvers.interior_point import solve_interior_point


def solve_on_cells(problem, network, sides, nu, *, tol, deadline=np.inf, max_iter=80):
    r"""Move neurons within their cells, and along kinks, to the optimum there.

    Where the loss does not fall when a neuron's output rises
    (``sign * nu_i < 0``), the activation, being convex, may stand in the
    program as it is: the neuron is free to cross or to rest on that sample's
    hyperplane.  Only the other samples fix a side.  The blocks are therefore
    unions of cells, one for each neuron, and neurons in the same union are
    added up first.

    Parameters
    ----------
    problem : Problem
    network : Network
    sides : ndarray of shape (n_samples,)
        Sign that the dual variable of each sample is to keep; 0 fixes the
        side of every neuron there.
    nu : ndarray of shape (n_samples,)
        Dual point to start from.
    tol, deadline, max_iter
        Of the interior point method.

    Returns
    -------
    network : Network
    nu : ndarray of shape (n_samples,)
    n_blocks : int
    """
    p = problem
    neurons = network.units
    if len(network) == 0:
        return network, nu, 0
    z = p.X @ neurons.directions.T + neurons.biases
    if p.fit_intercept:
        linear = neurons.linear | np.all(z > 0, axis=0)
    else:
        linear = np.zeros(len(neurons), dtype=bool)
    sizes, signs = np.abs(network.coefficients), np.sign(network.coefficients)
    weights, offsets = neurons.directions * sizes[:, None], neurons.biases * sizes
    straight = signs[linear] @ weights[linear]
    constant = network.offset[0] + signs[linear] @ offsets[linear]

    bent = ~linear
    weights, offsets, signs = weights[bent], offsets[bent], signs[bent]
    open_sides = signs[:, None] * sides < 0
    key = np.column_stack([(z[:, bent].T > 0) & ~open_sides, signs > 0])
    _, index, group = np.unique(
        np.packbits(key, axis=1), axis=0, return_index=True, return_inverse=True
    )
    group, signs, open_sides = group.ravel(), signs[index], open_sides[index]
    total = np.zeros((len(index), p.X.shape[1] + 1))
    np.add.at(total, group, np.column_stack([weights, offsets]))
    weights, offsets = total[:, :-1], total[:, -1]
    patterns = weights @ p.X.T + offsets[:, None] > 0
    gates = np.column_stack([weights, offsets]) if p.fit_intercept else weights

    if p.single_loss.minimiser(p.y) is not None:
        p = replace(p, loss=Separable(OneSided(p.single_loss, sides)))
    arrangement = Arrangement(patterns, gates, False)
    program = TwoLayerProgram(p, arrangement, outputs=signs, open_sides=open_sides)
    objective = problem.objective(network)
    program.start_near(weights, offsets, straight, constant, nu, objective)
    result = solve_interior_point(
        program, tol=tol, max_iter=max_iter, deadline=deadline
    )
    moved = neurons_from_blocks(program, result.theta, result.offset)
    return moved, result.nu, len(index)
