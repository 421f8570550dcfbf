"""Proofs that no neuron is missing, for small data."""

from dataclasses import dataclass

import numpy as np

from sklearn_convexnn.families.two_layer.branch_and_bound import maximise_slope
from sklearn_convexnn.families.two_layer.signed_slope import prefers_cones

# Sizes up to which a proof is attempted, and the nodes it may take.
_PROOF_SAMPLES, _PROOF_RANK = 60, 5
# Work for it, a few seconds: cones, each of which takes a look at all samples, and
# semidefinite bounds, whose time grows as the power 2.7 of the samples.
_CONES, _SEMIDEFINITE = 2e7, 1.5e5
_BRIEF_CONES, _BRIEF_SEMIDEFINITE = 5e6, 3e4
# Rank up to which a proof is attempted for several outputs and free biases, and the
# work for cones then.
_RANK_FREE, _SHARED, _SHARED_BRIEF = 4, 1e7, 1e6


@dataclass(frozen=True)
class Proof:
    """Outcome of a proof.

    Attributes
    ----------
    dual_bound : float
        No network of any width has a smaller objective.
    kappa : float
        Proven upper bound of the slopes, from which `dual_bound` follows.
    closed : bool
        Whether `dual_bound` is as close to the objective as asked for.
    neurons : Neurons or None
        A neuron, of magnitude zero, that the search has missed.
    """

    dual_bound: float
    kappa: float
    closed: bool
    neurons: object


def node_limit(problem, brief=False):
    """Nodes that branch and bound may take, for work of a few seconds.

    Parameters
    ----------
    problem : Problem
    brief : bool, default=False
        For work that hardly takes longer than a fit, half a second.

    Returns
    -------
    limit : int
        0 if the data are too large for it.
    """
    X, n = problem.X, len(problem.X)
    if problem.n_outputs > 1:
        most = _RANK_FREE if problem.fit_intercept else _PROOF_RANK
        if rank_up_to(X, most) > most:
            return 0
        return int(_SHARED_BRIEF / (n + 50) if brief else _SHARED / max(n, 200))
    rank = rank_up_to(X, _PROOF_RANK)
    if rank <= _PROOF_RANK and prefers_cones(n, rank):
        return int(_BRIEF_CONES / (n + 50) if brief else _CONES / max(n, 200))
    work = _BRIEF_SEMIDEFINITE if brief else _SEMIDEFINITE
    return max(2, int(work / n**2.7)) if n <= _PROOF_SAMPLES else 0


def rank_up_to(X, most):
    """The rank of the data, or some rank above `most`, which some samples may tell.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    most : int

    Returns
    -------
    rank : int
    """
    some = int(np.linalg.matrix_rank(X[: 10 * (most + 1)]))
    return some if some > most else int(np.linalg.matrix_rank(X))


def prove(problem, result, tol, deadline, nodes=None):
    """Bound the steepest slope for good, where the data are small enough.

    Parameters
    ----------
    problem : Problem
    result : GlobalResult
        What `generate_neurons` has found.
    tol : float
        Gap to be proven, relative to the objective of `result`.
    deadline : float
        Value of ``time.perf_counter()`` at which to stop.
    nodes : int or None
        Limit of nodes; by default that of `node_limit`.

    Returns
    -------
    proof : Proof or None
        None if the data are too large for an attempt.
    """
    nodes = node_limit(problem) if nodes is None else nodes
    if not nodes:
        return None
    rtol = min(1e-4, 0.1 * tol)
    allowed = largest_slope_allowed(problem, result, tol)
    found = maximise_slope(
        problem.X,
        result.nu,
        **problem.family.geometry,
        target=max(allowed, (1.0 + rtol) * result.found),
        rtol=rtol,
        deadline=deadline,
        max_nodes=nodes,
    )
    kappa = max(found.upper, result.found)
    bound = problem.bound(result.nu, kappa)
    wanted = (1.0 - tol) * result.objective
    missed = None
    if problem.bound(result.nu, found.lower) < wanted:
        unit = found.direction[None], np.array([found.bias])
        missed = problem.unused(problem.family.neurons(*unit))
    return Proof(dual_bound=bound, kappa=kappa, closed=bound >= wanted, neurons=missed)


def largest_slope_allowed(problem, result, tol):
    """The largest slope with which the bound of a result is good enough.

    Parameters
    ----------
    problem : Problem
    result : GlobalResult
    tol : float
        Gap to be proven, relative to the objective of `result`.

    Returns
    -------
    slope : float
        At least that of the steepest neuron found.
    """
    wanted = (1.0 - tol) * result.objective
    slope, high = result.found, 10.0 * result.found + problem.alpha
    for _ in range(40):
        middle = 0.5 * (slope + high)
        if problem.bound(result.nu, middle) >= wanted:
            slope = middle
        else:
            high = middle
    return slope
