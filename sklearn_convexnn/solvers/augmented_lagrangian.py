"""The alternating direction method of multipliers for restricted programs."""

from contextlib import suppress

import numpy as np

from sklearn_convexnn._utils.breakdown import BREAKDOWNS
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
    tol : float, default=1e-6
        Stop when the duality gap is at most `tol` times the objective.
    max_iter : int, default=200
    deadline : float, default=inf
        Value of ``time.perf_counter()`` at which to stop.
    callback : callable or None
        Called with the iteration, objective and dual bound.
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
        n_iter = 0
        with suppress(*BREAKDOWNS), np.errstate(all="ignore"):
            like = program.operator.M if like is None else like
            splitting = Splitting(program, like)
            directions.begin()
            while True:
                status = directions.record()
                if status is None and n_iter >= max_iter:
                    status = "max_iter"
                if status is not None:
                    return directions.result(status, n_iter)
                splitting.run(directions.steps, deadline)
                directions.enter(splitting.blocks())
                n_iter += 1
        return directions.broken(n_iter)
