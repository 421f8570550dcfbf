"""The routes from data to parallel sub-networks, with their certificates."""

import warnings
from functools import partial
from time import perf_counter

import numpy as np
from sklearn.utils import check_random_state

from sklearn_convexnn._utils.breakdown import BREAKDOWNS
from sklearn_convexnn._utils.deadlines import OutOfTime, check, fits
from sklearn_convexnn.families.subnetworks.contest import SubnetworkContest
from sklearn_convexnn.families.subnetworks.placing import random_subnetworks
from sklearn_convexnn.families.subnetworks.recovery import subnetworks_of_blocks
from sklearn_convexnn.families.subnetworks.slope_bounds import slope_bound
from sklearn_convexnn.families.two_layer.vector_recovery import simplify
from sklearn_convexnn.model.results import MESSAGES, DualPoint, SolverError, null_result
from sklearn_convexnn.patterns.block_enumeration import enumerate_blocks
from sklearn_convexnn.patterns.blocks import blocks_of, distinct
from sklearn_convexnn.programs.subnetworks import SubnetworkProgram
from sklearn_convexnn.solvers import SOLVERS
from sklearn_convexnn.training.routes import HISTORY, Trained, round_printer
from sklearn_convexnn.training.subnetwork_generation import generate_subnetworks

SOLVERS_OF_BLOCKS = ("auto", "interior_point", "penalised", "cvxpy")
"""Solvers of programs over blocks, by the names that the estimators use."""

# Share of the time that is kept for the network that a solution stands for.
_RECOVERY = 0.1
# Outputs of inner units whose patterns are found at once.
_CHUNK = 1_000_000
# Operations for each entry of the masks of a program until there is a first solution.
_FIRST = 1e3
# Draws of random sub-networks for each block that is asked for.
_DRAWS = 20


def train_subnetworks(
    problem, known, seed, deadline, name, settings, task=None, duals=()
):
    """Train one network of parallel sub-networks.

    Parameters
    ----------
    problem : DeepProblem
    known : Subnetworks or None
        Sub-networks of an earlier fit.
    seed : int
    deadline : float
        Value of ``time.perf_counter()`` at which to stop.
    name : str
        What the lines of `verbose` call the network.
    settings : Settings
    task : FitTask or None
        Whose subtasks the rounds are.
    duals : sequence of DualPoint
        Dual points that are known.

    Returns
    -------
    trained : Trained

    Raises
    ------
    ValueError
        If all blocks are asked for, and they are too many.
    """
    empty = problem.null()
    objective = problem.objective(empty)
    if not (objective > 0 and np.any(problem.X)):
        return _trained_to_nothing(empty, objective)
    if settings.arrangements != "adaptive":
        return _train_on_blocks(problem, known, seed, deadline, name, settings)
    result = generate_subnetworks(
        problem,
        check_random_state(seed),
        # The optimum never needs more than one for each number in the targets.
        n_units=min(settings.n_arrangements, max(2 * problem.Y.size, 100)),
        known=known,
        duals=duals,
        # A little room for the rounding of the weights.
        tol=0.9 * settings.tol,
        max_iter=settings.max_iter,
        max_units=settings.max_neurons,
        deadline=deadline,
        callback=round_printer(name, settings),
        task=task,
    )
    units = simplify(problem, result.neurons, merge=False)
    kappa = slope_bound(problem, result.nu)
    proven = problem.bound(result.nu, kappa)
    objective = problem.objective(units)
    closed = proven >= (1.0 - settings.tol) * objective
    # Simplified, the network can be below the bound by rounding.
    estimate = min(max(result.dual_bound, proven), objective)
    return Trained(
        neurons=units,
        dual_bound=proven if closed else estimate,
        certificate="global" if closed else "estimated",
        status=result.status,
        message=result.message,
        n_iter=result.n_iter,
        n_patterns=int(np.max(result.history["cells"])),
        history={key: result.history[key] for key in HISTORY},
        dual=DualPoint(result.nu, kappa if closed else result.kappa, closed),
        proven_bound=proven,
    )


def _trained_to_nothing(empty, objective):
    row = (0.0, objective, objective, np.nan, np.nan, 0)
    return Trained(
        neurons=empty,
        dual_bound=objective,
        certificate="global",
        status="optimal",
        message=MESSAGES["optimal"],
        n_iter=0,
        n_patterns=0,
        history={key: np.array([value]) for key, value in zip(HISTORY, row)},
        proven_bound=objective,
    )


def _all_blocks(problem):
    blocks = enumerate_blocks(
        problem.X, problem.architecture, free_bias=problem.fit_intercept
    )
    if blocks is None:
        raise ValueError(
            "arrangements='exact' needs all blocks of patterns of the sub-networks, "
            f"which are too many for {len(problem.X)} distinct samples and "
            f"subnetwork_width={problem.architecture.width} at "
            f"depth={problem.architecture.depth}; use arrangements='adaptive' or "
            "'sampled'. sklearn_convexnn.patterns.counts.count_blocks bounds "
            "their number."
        )
    return blocks


def _blocks_of_many(problem, units):
    """Blocks of sub-networks, some at a time."""
    step = max(1, _CHUNK // (len(problem.X) * sum(problem.architecture.widths)))
    blocks = None
    for i in range(0, len(units), step):
        check()
        some = units.select(slice(i, i + step))
        found = blocks_of(
            problem.X, some.weights, some.biases, free_bias=problem.fit_intercept
        )
        blocks = found if blocks is None else blocks.joined(found)
    return blocks


def _sampled_blocks(problem, n_blocks, seed, known):
    """Blocks of random sub-networks, and of those of an earlier fit."""
    rng = check_random_state(seed)
    free, merge = problem.fit_intercept, problem.architecture.norm == "frobenius"
    blocks = None
    for _ in range(_DRAWS):
        if blocks is not None and not fits():
            break
        units = random_subnetworks(problem, n_blocks, rng)
        found = _blocks_of_many(problem, units)
        found = found if blocks is None else blocks.joined(found)
        blocks = distinct(found, merge=merge, free_bias=free)
        if len(blocks) >= n_blocks:
            break
    if len(blocks) < n_blocks and fits():
        warnings.warn(
            f"Only {len(blocks)} distinct blocks of activation patterns were found, "
            f"fewer than n_arrangements={n_blocks}: the data may have no more. Use "
            "arrangements='exact' if they are few and of low rank.",
            UserWarning,
        )
    blocks = blocks.select(slice(0, n_blocks))
    if known is not None and len(known):
        earlier = blocks_of(problem.X, known.weights, known.biases, free_bias=free)
        blocks = distinct(earlier.joined(blocks), merge=merge, free_bias=free)
    return blocks


def _train_on_blocks(problem, known, seed, deadline, name, settings):
    """The program over all blocks, or over those of random sub-networks."""
    start = perf_counter()
    try:
        return _solve_on_blocks(problem, known, seed, deadline, name, settings)
    except OutOfTime:
        status = "max_time"
    except BREAKDOWNS:
        status = "breakdown"
    # No network but the one without sub-networks, and what is proven of all.
    units = problem.null()
    N = problem.dual_point(problem.outputs(units))
    objective = problem.objective(units)
    proven = problem.bound(N, slope_bound(problem, N))
    row = (perf_counter() - start, objective, proven, np.nan, 0, 0)
    return Trained(
        neurons=units,
        dual_bound=proven,
        certificate="global",
        status=status,
        message=MESSAGES[status],
        n_iter=0,
        n_patterns=0,
        history={key: np.array([value]) for key, value in zip(HISTORY, row)},
        proven_bound=proven,
    )


def _solve_on_blocks(problem, known, seed, deadline, name, settings):
    if settings.arrangements == "sampled":
        blocks = _sampled_blocks(problem, settings.n_arrangements, seed, known)
    else:
        blocks = _all_blocks(problem)
    verbose = settings.verbose
    if verbose:
        scope = "all" if blocks.complete else "sampled"
        print(
            f"[{name}] {len(problem.X)} distinct samples, {len(blocks)} blocks "
            f"({scope})"
        )
    program = SubnetworkProgram(problem, blocks)

    def report(iteration, objective, bound):
        if verbose > 1:
            print(
                f"[{name}] iteration {iteration:3d}  objective "
                f"{settings.units.objective(objective):.8g}  dual bound "
                f"{settings.units.objective(bound):.8g}"
            )

    solver = settings.solver
    now = perf_counter()
    options = {
        # As of two layers: a loose solution has many more sub-networks.
        "tol": 0.9 * min(settings.tol, 1e-4),
        "max_iter": settings.max_iter,
        "deadline": now + (1.0 - _RECOVERY) * (deadline - now),
        "callback": report,
    }
    if not program.can_improve:
        result = null_result(program)
        units = problem.null()
    elif solver == "penalised":
        contest = partial(SubnetworkContest, problem)
        result = SOLVERS[solver](program, contest=contest, **options)
        units = result.units
    else:
        check(_FIRST * program.operator.cone_masks.size)
        solver = "interior_point" if solver == "auto" else solver
        try:
            result = SOLVERS[solver](program, **options)
        except SolverError:
            if perf_counter() < deadline:
                raise
            raise OutOfTime from None
        units = subnetworks_of_blocks(problem, program, result.theta, result.offset)
    units = simplify(problem, units, merge=False)
    if verbose:
        print(
            f"[{name}] {len(units)} sub-networks after {result.n_iter} iterations, "
            f"dual bound {settings.units.objective(result.dual_bound):.8g}: "
            f"{result.message}"
        )
    N = problem.project(result.nu[:, None])
    proven = problem.bound(N, slope_bound(problem, N))
    bound = result.dual_bound
    if blocks.complete:
        proven = max(proven, bound)
    else:
        # With a penalty the sub-networks can be of other blocks, and better.
        bound = min(max(bound, proven), problem.objective(units))
    length = len(result.history["time"])
    history = {
        "kappa": np.full(length, np.nan),
        "cells": np.full(length, len(blocks)),
        **result.history,
    }
    return Trained(
        neurons=units,
        dual_bound=bound,
        certificate="global" if blocks.complete else "restricted",
        status=result.status,
        message=result.message,
        n_iter=result.n_iter,
        n_patterns=len(blocks),
        history={key: history[key] for key in HISTORY},
        proven_bound=proven,
    )
