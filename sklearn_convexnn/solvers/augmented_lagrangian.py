"""The alternating direction method of multipliers for restricted programs."""

import numpy as np

from sklearn_convexnn._utils.threads import blas_threads_for
from sklearn_convexnn.solvers._directions import Directions
from sklearn_convexnn.solvers._splitting import Splitting


def solve_augmented_lagrangian(
    program, *, tol=1e-6, max_iter=200, deadline=np.inf, callback=None, like=None
):
    r"""Solve a restricted program by a splitting of the augmented Lagrangian.

    The copies :math:`z_b = M \theta_b` and :math:`w_b = \theta_b` take apart
    what couples samples and what couples coordinates: given the multipliers,
    each sample has a problem of one dual variable, in which its signs and its
    loss come together, each :math:`w_b` shrinks, and all :math:`\theta_b`
    share one Cholesky factor of order ``p``.  So a step costs two products of
    :math:`M` by all blocks, and memory is linear in samples and in blocks.

    Such steps get near a solution soon and close to it late.  After every 20,
    which count as one iteration, the blocks are moved into their cones and
    compete for magnitudes with the steepest directions of the cones, as in
    `solve_direction_generation`; the objective and the bound are those of
    that.

    Parameters
    ----------
    program : Program
        Of single units and without open sides.
    tol, max_iter, deadline, callback
        As of `solve_interior_point`.
    like : array, default=None
        The steps use its array namespace, its device and its type of numbers;
        those of the program's data if None.

    Returns
    -------
    result : SolverResult
        Of NumPy arrays in any case.

    References
    ----------
    .. [1] Boyd, S., Parikh, N., Chu, E., Peleato, B. and Eckstein, J. (2011).
       "Distributed Optimization and Statistical Learning via the Alternating
       Direction Method of Multipliers". Foundations and Trends in Machine
       Learning 3(1).
    .. [2] Mishkin, A., Sahiner, A. and Pilanci, M. (2022). "Fast Convex
       Optimization for Two-Layer ReLU Networks: Equivalent Model Classes and
       Cone Decompositions". ICML. Section 5, an augmented Lagrangian method.
    """
    with blas_threads_for(program.operator.p):
        directions = Directions(program, tol, deadline, callback)

        def steps():
            splitting = Splitting(program, program.operator.M if like is None else like)

            def step():
                splitting.run(directions.steps, deadline)
                directions.enter(splitting.blocks())

            return step

        return directions.run(steps, max_iter, (1.0, max_iter))
