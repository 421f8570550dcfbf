"""The routes from data to the network of one output, with its certificate."""

import warnings
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from sklearn.utils import check_random_state

from sklearn_convexnn._utils.breakdown import unless_broken
from sklearn_convexnn._utils.deadlines import OutOfTime
from sklearn_convexnn.families.two_layer.closed_forms import closed_form
from sklearn_convexnn.families.two_layer.recovery import neurons_from_blocks, simplify
from sklearn_convexnn.families.two_layer.slope_bounds import norm_bound, triangle_bound
from sklearn_convexnn.model.neurons import Neurons
from sklearn_convexnn.model.results import MESSAGES, DualPoint, null_result
from sklearn_convexnn.patterns.arrangements import (
    enumerate_arrangement,
    has_few_patterns,
    network_arrangement,
    sample_arrangement,
    union,
)
from sklearn_convexnn.programs.two_layer import TwoLayerProgram
from sklearn_convexnn.solvers import FIRST_ORDER, SOLVERS
from sklearn_convexnn.training.cutting_planes import cutting_planes
from sklearn_convexnn.training.proving import generate_and_prove, node_limit, prove

HISTORY = ("time", "objective", "dual_bound", "kappa", "cells", "neurons")
"""Columns of the history; not a number where a route does not know one."""

CUTS = {"cutting_planes": "neurons", "cutting_cells": "cells"}
"""Values of `arrangements` that select cutting planes, and what a cut is."""

# Up to so many patterns the program over all of them is the simplest way.
_FEW_PATTERNS = 100


@dataclass(frozen=True)
class Trained:
    """The network of one output and what is known of it.

    Attributes
    ----------
    neurons : Neurons
    dual_bound : float
    certificate : {'global', 'estimated', 'restricted'}
    status, message : str
    n_iter : int
    n_patterns : int
        Activation patterns that took part.
    history : dict of ndarray
        See `HISTORY`.
    dual : DualPoint or None
        That of the bound, if the method has one to go on from.
    proven_bound : float or None
        A proven bound for all networks, if there is one besides `dual_bound`.
    """

    neurons: Neurons
    dual_bound: float
    certificate: str
    status: str
    message: str
    n_iter: int
    n_patterns: int
    history: dict
    dual: DualPoint | None = None
    proven_bound: float | None = None


def train(problem, known, seed, deadline, name, settings, task=None, duals=()):
    """Train the network of one output.

    Parameters
    ----------
    problem : Problem
    known : Neurons or None
        Neurons of an earlier fit.
    seed : int
    deadline : float
    name : str
        What the lines of `verbose` call this output.
    settings : Settings
    task : FitTask or None
        Whose subtasks the rounds of column generation or cutting planes are.
    duals : sequence of DualPoint
        Dual points that are known.

    Returns
    -------
    trained : Trained
        Without neurons if a computation breaks down before there is anything better.
    """
    args = problem, known, seed, deadline, name, settings, task, duals
    trained = unless_broken(None, _train, *args)
    return null_training(problem, settings) if trained is None else trained


def null_training(problem, settings, status="breakdown"):
    """What is known without a search, or any computation that could break down.

    Parameters
    ----------
    problem : Problem, VectorProblem or DeepProblem
    settings : Settings
    status : {'breakdown', 'max_time'}, default='breakdown'

    Returns
    -------
    trained : Trained
    """
    neurons = problem.null()
    objective = problem.objective(neurons)
    bound = problem.bound(np.zeros(problem.outputs(neurons).shape), 0.0)
    row = 0.0, objective, bound, np.nan, 0, 0
    sampled = settings.arrangements == "sampled"
    return Trained(
        neurons=neurons,
        dual_bound=bound,
        certificate="restricted" if sampled else "estimated",
        status=status,
        message=MESSAGES[status],
        n_iter=0,
        n_patterns=0,
        history={key: np.array([value]) for key, value in zip(HISTORY, row)},
        proven_bound=bound,
    )


def _train(problem, known, seed, deadline, name, settings, task, duals):
    wanted = settings.arrangements
    if wanted in CUTS:
        return _train_by_cuts(problem, known, seed, deadline, name, settings, task)
    if wanted != "sampled":
        # Other methods need no structure.
        trained = None
        with suppress(OutOfTime):
            trained = unless_broken(
                None, _train_by_structure, problem, deadline, name, settings
            )
        if trained is not None:
            return trained
    free_bias = problem.fit_intercept
    few = wanted == "adaptive" and unless_broken(
        False, has_few_patterns, problem.X, _FEW_PATTERNS, free_bias=free_bias
    )
    # Dual points come from an earlier fit to more patterns than a few.
    if wanted == "adaptive" and (duals or not few):
        return _train_adaptively(
            problem, known, seed, deadline, name, settings, task, duals
        )
    return _train_on_patterns(problem, known, seed, deadline, name, settings)


def _train_by_structure(problem, deadline, name, settings):
    start = perf_counter()
    form = closed_form(
        problem.X,
        problem.y,
        problem.sample_weight,
        problem.loss,
        problem.alpha,
        fit_intercept=problem.fit_intercept,
        negative_slope=problem.negative_slope,
        tol=0.9 * settings.tol,
        max_iter=settings.max_iter,
        deadline=deadline,
    )
    if form is None:
        return None
    if settings.verbose:
        print(
            f"[{name}] solved by structure: {len(form.neurons)} neurons, objective "
            f"{settings.units.objective(form.objective):.8g}, dual bound "
            f"{settings.units.objective(form.dual_bound):.8g}"
        )
    row = (
        perf_counter() - start,
        form.objective,
        form.dual_bound,
        np.nan,
        np.nan,
        len(form.neurons),
    )
    return Trained(
        neurons=form.neurons,
        dual_bound=form.dual_bound,
        certificate="global",
        status=form.status,
        message=MESSAGES[form.status],
        n_iter=form.n_iter,
        n_patterns=len(form.neurons),
        history={key: np.array([value]) for key, value in zip(HISTORY, row)},
    )


def _train_adaptively(problem, known, seed, deadline, name, settings, task, duals):
    # A proof that takes longer than the fit is for those who ask for it.
    nodes = node_limit(problem.X, brief=True) if settings.prove else 0
    result, proof = generate_and_prove(
        problem,
        check_random_state(seed),
        known=known,
        duals=duals,
        tol=settings.tol,
        max_iter=settings.max_iter,
        deadline=deadline,
        callback=round_printer(name, settings),
        # The optimum never needs more than one for each sample.
        n_neurons=min(settings.n_arrangements, max(2 * len(problem.y), 100)),
        max_neurons=settings.max_neurons,
        task=task,
        prove=lambda *args: prove(*args, nodes=nodes),
    )
    proven = proof is not None and proof.closed
    kappa = proof.kappa if proven else result.kappa
    return Trained(
        neurons=unless_broken(result.neurons, simplify, problem, result.neurons),
        dual_bound=proof.dual_bound if proven else result.dual_bound,
        certificate="global" if proven else "estimated",
        status=result.status,
        message=result.message,
        n_iter=result.n_iter,
        n_patterns=int(np.max(result.history["cells"])),
        history={key: result.history[key] for key in HISTORY},
        dual=DualPoint(result.nu, kappa, proven),
    )


def _train_by_cuts(problem, known, seed, deadline, name, settings, task):
    pricing = settings.pricing
    result = cutting_planes(
        problem,
        check_random_state(seed),
        cuts=CUTS[settings.arrangements],
        pricing=pricing,
        known=known,
        # A little room for the rounding of the weights.
        tol=0.9 * settings.tol,
        max_iter=settings.max_iter,
        max_neurons=settings.max_neurons,
        deadline=deadline,
        callback=round_printer(name, settings),
        task=task,
    )
    kinds = {"search": "estimated", "nonnegative": "restricted"}
    certificate, bound = kinds.get(pricing, "global"), result.dual_bound
    if certificate == "restricted":
        # On some data, such as orthonormal samples, no other neuron is steeper.
        geometry = {
            "free_bias": problem.fit_intercept,
            "negative_slope": problem.negative_slope,
        }
        with suppress(OutOfTime):
            outer = min(
                slope(problem.X, result.nu, **geometry)
                for slope in (norm_bound, triangle_bound)
            )
            proven = problem.bound(result.nu, max(outer, result.kappa))
            if proven >= (1.0 - settings.tol) * result.objective:
                certificate, bound = "global", proven
    return Trained(
        neurons=result.neurons,
        dual_bound=bound,
        certificate=certificate,
        status=result.status,
        message=result.message,
        n_iter=result.n_iter,
        n_patterns=int(np.max(result.history["cells"])),
        history={key: result.history[key] for key in HISTORY},
    )


def round_printer(name, settings):
    """Callback that prints a line for each round, if `verbose`.

    Parameters
    ----------
    name : str
    settings : Settings

    Returns
    -------
    report : callable
    """
    what = "cuts" if settings.arrangements in CUTS else "cells"

    def report(n_iter, entry):
        if settings.verbose:
            objective = settings.units.objective(entry["objective"])
            bound = settings.units.objective(entry["dual_bound"])
            gap = (objective - bound) / max(objective, np.finfo(float).tiny)
            print(
                f"[{name}] round {n_iter:3d}  {entry['time']:7.2f} s  "
                f"objective {objective:.8g}  dual bound {bound:.8g}  gap {gap:.1e}  "
                f"kappa/alpha {entry['kappa']:.5f}  {entry['cells']} {what}  "
                f"{entry['neurons']} neurons"
            )

    return report


def _train_on_patterns(problem, known, seed, deadline, name, settings):
    arrangement = given_arrangement(
        problem.X, settings, problem.fit_intercept, seed, known
    )
    verbose = settings.verbose
    if verbose:
        scope = "all" if arrangement.complete else "sampled"
        print(
            f"[{name}] {len(problem.y)} distinct samples, {len(arrangement)} "
            f"patterns ({scope})"
        )
    program = TwoLayerProgram(problem, arrangement)

    def report(iteration, objective, bound):
        if verbose > 1:
            print(
                f"[{name}] iteration {iteration:3d}  objective "
                f"{settings.units.objective(objective):.8g}  dual bound "
                f"{settings.units.objective(bound):.8g}"
            )

    options = {}
    if settings.solver in FIRST_ORDER:
        # They go where the data are, in their precision.
        options["like"] = settings.like
    if not program.can_improve:
        result = null_result(program)
    else:
        result = SOLVERS[settings.solver](
            program,
            # A little room for the rounding of the recovered network.  A loose
            # solution costs little less and has many more neurons.
            tol=0.9 * min(settings.tol, 1e-4),
            max_iter=settings.max_iter,
            deadline=deadline,
            callback=report,
            **options,
        )
    neurons = neurons_from_blocks(program, result.theta, result.offset)
    neurons = unless_broken(neurons, simplify, problem, neurons)
    null = problem.null()
    if not problem.objective(neurons) <= problem.objective(null):
        # Also if it is not a number.
        neurons = null
    if verbose:
        print(
            f"[{name}] {len(neurons)} neurons after {result.n_iter} iterations, "
            f"dual bound {settings.units.objective(result.dual_bound):.8g}: "
            f"{result.message}"
        )
    length = len(result.history["time"])
    history = {
        "kappa": np.full(length, np.nan),
        "cells": np.full(length, len(arrangement)),
        **result.history,
    }
    return Trained(
        neurons=neurons,
        dual_bound=result.dual_bound,
        certificate="global" if program.complete else "restricted",
        status=result.status,
        message=result.message,
        n_iter=result.n_iter,
        n_patterns=len(arrangement),
        history={key: history[key] for key in HISTORY},
    )


def given_arrangement(X, settings, free_bias, seed, known=None):
    """Patterns for a program over given ones, as the parameters say.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    settings : Settings
    free_bias : bool
    seed : int
    known : Neurons or None
        Neurons of an earlier fit.

    Returns
    -------
    arrangement : Arrangement
    """
    if settings.arrangements != "sampled":
        return enumerate_arrangement(X, free_bias=free_bias)
    return sampled_arrangement(X, settings.n_arrangements, free_bias, seed, known)


def sampled_arrangement(X, n_arrangements, free_bias, seed, known):
    """Random patterns, and those of an earlier fit; a warning if they are few.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    n_arrangements : int
    free_bias : bool
    seed : int
    known : Neurons, VectorNeurons or None
        Neurons of an earlier fit.

    Returns
    -------
    arrangement : Arrangement
    """
    arrangement = sample_arrangement(
        X, n_arrangements, free_bias=free_bias, random_state=seed
    )
    if arrangement.complete:
        return arrangement
    if len(arrangement) < n_arrangements:
        warnings.warn(
            f"Only {len(arrangement)} distinct activation patterns were found, fewer "
            f"than n_arrangements={n_arrangements}: the others are hard to hit at "
            "random. Centre and scale the data, or use arrangements='exact' if they "
            "are of low rank.",
            UserWarning,
        )
    if known is not None:
        # Linear ones have a block without a pattern.
        known = known.select(~known.linear)
        gates = known.directions
        if free_bias:
            gates = np.column_stack([gates, known.biases])
        earlier = network_arrangement(X, gates, free_bias=free_bias)
        arrangement = union(earlier, arrangement)
    return arrangement
