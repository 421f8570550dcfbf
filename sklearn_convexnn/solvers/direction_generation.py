"""Restricted programs by generation of directions inside their cells."""

import numpy as np

from sklearn_convexnn._utils.threads import blas_threads_for
from sklearn_convexnn.solvers._directions import Directions

# Rounds without any progress after which rounding is what limits it.
_PATIENCE = 10


def solve_direction_generation(
    program, *, tol=1e-6, max_iter=200, deadline=np.inf, callback=None
):
    r"""Solve a restricted program by a fully corrective Frank-Wolfe method.

    A round finds the best network of some directions in each cell, a lasso,
    and then the direction of each cell along which the network is improved
    most, a projection on its cone.  The projections also give the duality
    gap.  Nothing is cubic but in the number of directions in use.

    With many samples the cells are so narrow that the blocks of the solution
    lie on edges of their cones, and a few rounds find these.  Wide cells,
    of few samples or with little weight decay, take many rounds: there
    `solve_interior_point` is the better choice.

    Parameters
    ----------
    program : Program
        Of single units and without open sides.
    tol, max_iter, deadline, callback
        As of `solve_interior_point`.

    Returns
    -------
    result : SolverResult
        Its blocks are exactly zero where a cell is not needed.

    References
    ----------
    .. [1] von Hohenbalken, B. (1977). "Simplicial decomposition in nonlinear
       programming algorithms". Mathematical Programming 13.
    .. [2] Jaggi, M. (2013). "Revisiting Frank-Wolfe: Projection-Free Sparse
       Convex Optimization". ICML.
    """
    progress = 1.0 - 1e-3, _PATIENCE
    return generate_directions(program, tol, max_iter, deadline, callback, progress)


def generate_directions(program, tol, max_iter, deadline, callback, progress):
    """`solve_direction_generation` as long as it makes progress.

    Parameters
    ----------
    program, tol, max_iter, deadline, callback
        As of `solve_direction_generation`.
    progress : tuple (float, int)
        See `Contest.run`.

    Returns
    -------
    result : SolverResult
    """
    with blas_threads_for(program.operator.p):
        directions = Directions(program, tol, deadline, callback)
        return directions.run(lambda: directions.round, max_iter, progress)
