"""Proof that no unit is missing in a network of several outputs."""

import numpy as np

from sklearn_convexnn.families.two_layer.vector_branch_and_bound import (
    maximise_vector_slope,
)
from sklearn_convexnn.training.proving import Proof, largest_slope_allowed, rank_up_to

# Ranks up to which a proof is attempted, without and with a free bias, and the
# work that it may take: a second or two, or a part of one.
_RANK, _RANK_FREE, _CONES, _BRIEF_CONES = 5, 4, 1e7, 1e6


def node_limit(problem, brief=False):
    """Cones that branch and bound may take, for work of a second or two.

    Parameters
    ----------
    problem : VectorProblem
    brief : bool, default=False
        For work that hardly takes longer than a fit.

    Returns
    -------
    limit : int
        0 if the data are of too high a rank for it.
    """
    most = _RANK_FREE if problem.fit_intercept else _RANK
    if rank_up_to(problem.X, most) > most:
        return 0
    n = len(problem.X)
    return int(_BRIEF_CONES / (n + 50) if brief else _CONES / max(n, 200))


def prove(problem, result, tol, deadline, nodes=None):
    """Bound the steepest slope for good, where the data are of low rank.

    Parameters
    ----------
    problem : VectorProblem
    result : GlobalResult
        What `generate_neurons` has found.
    tol : float
        Gap to be proven, relative to the objective of `result`.
    deadline : float
        Value of ``time.perf_counter()`` at which to stop.
    nodes : float or None
        Limit of nodes; by default that of `node_limit`.

    Returns
    -------
    proof : Proof or None
        None if the data are too large for an attempt.
    """
    nodes = node_limit(problem) if nodes is None else nodes
    if not nodes:
        return None
    target = largest_slope_allowed(problem, result, tol)
    options = {
        "free_bias": problem.fit_intercept,
        "negative_slope": problem.negative_slope,
        "lower": result.kappa,
        "target": target,
        "rtol": min(1e-4, 0.1 * tol),
        "deadline": deadline,
        "max_nodes": nodes,
    }
    steepest = maximise_vector_slope(problem.X, result.nu, **options)
    kappa = max(steepest.upper, result.kappa)
    bound = problem.bound(result.nu, kappa)
    wanted = (1.0 - tol) * result.objective
    missed = None
    if problem.bound(result.nu, steepest.lower) < wanted:
        missed = problem.unused(
            steepest.direction[None],
            np.array([steepest.bias]),
            np.zeros((1, problem.n_outputs)),
        )
    return Proof(dual_bound=bound, kappa=kappa, closed=bound >= wanted, neurons=missed)
