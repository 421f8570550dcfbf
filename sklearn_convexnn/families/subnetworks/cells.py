"""The program over the blocks that the sub-networks of a network lie in."""

import numpy as np

from sklearn_convexnn.families.subnetworks.recovery import subnetworks_of_blocks
from sklearn_convexnn.patterns.blocks import blocks_of, distinct
from sklearn_convexnn.programs.subnetworks import SubnetworkProgram
from sklearn_convexnn.solvers.interior_point import solve_interior_point

# Operations of an iteration of the solver up to which the program is solved.
_MOST_WORK = 3e8
_BESIDE = 1e-6


def solve_on_blocks(problem, network, *, tol, deadline=np.inf):
    """The best network on the patterns of a given one.

    Descent stops at kinks, on which units of an optimum lie; the constraints of
    the program meet them exactly.

    Parameters
    ----------
    problem : Problem
    network : Network
    tol : float
        Relative gap of the program.
    deadline : float, default=inf
        Value of ``time.perf_counter()`` at which to stop.

    Returns
    -------
    network : Network or None
        None if there is no such program, or it is too large.
    """
    p, arch = problem, problem.family.architecture
    if p.n_outputs > 1 or not arch.is_tree or len(network) == 0:
        return None
    free = p.fit_intercept
    n, d = p.X.shape
    size = arch.widths[0] * d
    if 2 * len(network) * size * max(n, size) ** 2 > _MOST_WORK:
        return None
    # Units that are on kinks have no pattern; a little beside them they have one.
    rng = np.random.RandomState(0)
    beside = [
        [part * (1.0 + _BESIDE * rng.standard_normal(part.shape)) for part in parts]
        for parts in (network.units.weights, network.units.biases)
    ]
    blocks = blocks_of(p.X, *beside, free_bias=free)
    blocks = distinct(blocks, merge=arch.has_leaf_norms, free_bias=free)
    if len(blocks) == 0:
        return None
    program = SubnetworkProgram(p, blocks)
    result = solve_interior_point(program, tol=tol, deadline=deadline)
    found = subnetworks_of_blocks(p.family, program, result.theta, result.offset)
    return found.select(found.sizes > 1e-6 * found.sizes.max(initial=0.0))
