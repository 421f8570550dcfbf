"""The routes from data to a two-layer network, with its certificate."""

from contextlib import suppress
from dataclasses import replace
from time import perf_counter

import numpy as np
from sklearn.utils import check_random_state

from sklearn_convexnn._utils.breakdown import unless_broken
from sklearn_convexnn._utils.deadlines import OutOfTime
from sklearn_convexnn.families.simplify import simplify
from sklearn_convexnn.families.two_layer.closed_forms import closed_form
from sklearn_convexnn.families.two_layer.given import TwoLayerPatterns
from sklearn_convexnn.families.two_layer.soft_thresholded_svd import (
    soft_thresholded_svd,
)
from sklearn_convexnn.model.results import MESSAGES, DualPoint
from sklearn_convexnn.patterns.arrangements import has_few_patterns
from sklearn_convexnn.training import proving
from sklearn_convexnn.training.column_generation import generate_neurons
from sklearn_convexnn.training.given_patterns import train_on_patterns
from sklearn_convexnn.training.proving import Proof, prove
from sklearn_convexnn.training.trained import (
    Trained,
    null_training,
    round_printer,
    trained_at_once,
)

# Up to so many patterns the program over all of them is the simplest way.
_FEW_PATTERNS = 100
# How much longer a proof may take if it is asked for.
_LONGER = 40
# Attempts: each but the last may find a neuron that the search has missed.
_PROOFS = 3


def train(problem, known, settings, task=None, duals=()):
    """Train a two-layer network.

    Parameters
    ----------
    problem, known, settings, task, duals
        As of `Settings.method`.

    Returns
    -------
    trained : Trained
        Without neurons if a computation breaks down before there is anything better.

    Raises
    ------
    ValueError
        If all patterns, or a proof for several outputs, are asked for, and the data
        have too many.
    """
    args = problem, known, settings, task, duals
    trained = unless_broken(None, _train, *args)
    return null_training(problem, settings) if trained is None else trained


def _train(problem, known, settings, task, duals):
    wanted = settings.arrangements
    nodes = _nodes(problem, settings)
    if wanted != "sampled":
        # Other methods need no structure.
        trained = None
        with suppress(OutOfTime):
            trained = unless_broken(None, _train_by_structure, problem, settings)
        if trained is not None:
            return trained
    args = problem, known, settings
    if problem.n_outputs > 1:
        if wanted == "sampled":
            return _train_on_cells(*args, task)
        return _train_adaptively(*args, task, duals, nodes)
    if wanted == "adaptive":
        # Dual points come from an earlier fit to more patterns than a few.
        limit, free = _FEW_PATTERNS, problem.fit_intercept
        if duals or not unless_broken(
            False, has_few_patterns, problem.X, limit, free_bias=free
        ):
            return _train_adaptively(*args, task, duals, nodes)
    return train_on_patterns(TwoLayerPatterns(problem), known, settings)


def _nodes(problem, settings):
    """The limit of nodes of a proof.

    Raises
    ------
    ValueError
        If a proof is asked for and the data are of too high a rank.
    """
    if settings.arrangements != "exact" or problem.n_outputs == 1:
        # A proof that takes longer than the fit is for those who ask for it.
        return proving.node_limit(problem, brief=True) if settings.prove else 0
    nodes = _LONGER * proving.node_limit(problem)
    if not nodes:
        raise ValueError(
            "arrangements='exact' for outputs of one network needs data of rank "
            "at most 5, or 4 with free biases; use arrangements='adaptive'."
        )
    return nodes


def _train_by_structure(problem, settings):
    """The network of data of special structure, None if they have none."""
    start, neurons = perf_counter(), problem.null()
    bound, known = problem.objective(neurons), {}
    if bound > 0 and np.any(problem.X):
        form = form_of_structure(
            problem,
            tol=0.9 * settings.tol,
            max_iter=settings.max_iter,
            deadline=settings.deadline,
        )
        if form is None:
            return None
        neurons, bound = form.neurons, form.dual_bound
        known = {"status": form.status, "n_iter": form.n_iter}
    objective = settings.units.objective(problem.objective(neurons))
    settings.tell(
        f"solved by structure: {len(neurons)} neurons, objective {objective:.8g}, "
        f"dual bound {settings.units.objective(bound):.8g}"
    )
    return trained_at_once(
        problem,
        neurons,
        bound,
        seconds=perf_counter() - start,
        certificate="global",
        n_patterns=len(neurons),
        **known,
    )


def form_of_structure(problem, **limits):
    """The solution of data of special structure, None if they have none.

    Parameters
    ----------
    problem : Problem
    **limits : dict
        As of `closed_form`; with several outputs it takes no rounds.

    Returns
    -------
    form : ClosedForm or None
    """
    if problem.n_outputs > 1:
        return soft_thresholded_svd(problem)
    return closed_form(problem, **limits)


def _train_adaptively(problem, known, settings, task, duals, nodes):
    """Column generation, and an attempt at a proof of its bound."""
    exact = settings.arrangements == "exact"
    result, proof = generate_and_prove(
        problem,
        check_random_state(settings.seed),
        # The proof is for all of it.
        replace(settings.limits, tol=settings.tol),
        known=known,
        duals=duals,
        callback=round_printer(settings),
        # The optimum never needs more than one for each number in the targets.
        n_neurons=min(settings.n_arrangements, max(2 * problem.Y.size, 100)),
        task=task,
        nodes=nodes,
        estimate=not exact,
    )
    bound, kappa = result.dual_bound, None
    certificate, ended = "estimated", {}
    if proof is not None and (proof.closed or exact):
        certificate, bound, kappa = "global", proof.dual_bound, proof.kappa
        if not proof.closed and result.status == "optimal":
            message = "branch and bound reached its limit of work"
            ended = {"status": "open", "message": message}
    elif exact and result.status == "optimal":
        # There was no time for the proof that was asked for.
        ended = {"status": "unconfirmed", "message": MESSAGES["unconfirmed"]}
    elif result.status == "optimal" and bound < (1.0 - settings.tol) * result.objective:
        # The proof is open, and the search may have missed neurons.
        ended = {"status": "unseen", "message": MESSAGES["unseen"]}
    kappa = result.kappa if kappa is None else kappa
    return Trained.of(
        result,
        neurons=unless_broken(result.neurons, simplify, problem, result.neurons),
        dual_bound=bound,
        certificate=certificate,
        dual=DualPoint(result.nu, kappa, certificate == "global"),
        **ended,
    )


# Many parameters: limits and starts of both parts, each by its name.
def generate_and_prove(
    problem,
    rng,
    limits,
    *,
    known,
    duals=(),
    callback=None,
    nodes=None,
    estimate=True,
    **options,
):
    """Train by column generation, and go on with what the proof finds missing.

    Parameters
    ----------
    problem : Problem
    rng : RandomState
    limits : Limits
        With the gap to prove; that of the network is to be a little smaller.
    known : Neurons or None
        Neurons to start from, in place of placed ones.
    duals : sequence of DualPoint
        Dual points that are known.  No proof is attempted at these.
    callback : callable or None
        Called after each round with its number and a dict of what
        `GlobalResult.history` gets.
    nodes : int or None
        Limit of nodes of the proof; by default that of `node_limit`.
    estimate : bool, default=True
        Whether an open proof is given up for a bound that allows for neurons which
        the search has not seen.
    **options
        Further ones of `generate_neurons`.

    Returns
    -------
    result : GlobalResult
        With the rounds of all attempts.
    proof : Proof or None
        None if there was no attempt, or it was given up.
    """
    start = perf_counter()
    nodes = proving.node_limit(problem) if nodes is None else nodes
    offset, rounds, histories = 0.0, 0, []

    def report(n_iter, entry):
        if callback is not None:
            callback(rounds + n_iter, {**entry, "time": offset + entry["time"]})

    def train(known, duals, to_be_proven):
        nonlocal offset, rounds
        left = max(limits.max_iter - rounds, 1)
        result = generate_neurons(
            problem,
            rng,
            replace(limits, tol=0.9 * limits.tol, max_iter=left),
            known=known,
            duals=duals,
            callback=report,
            to_be_proven=to_be_proven,
            **options,
        )
        times = result.history["time"] + offset
        histories.append({**result.history, "time": times})
        offset, rounds = perf_counter() - start, rounds + result.n_iter
        return result

    for _ in range(_PROOFS):
        result, proof = train(known, duals, nodes > 0), None
        if result.status == "optimal":
            given = [point for point in duals if point.nu is result.nu]
            if not given:
                with suppress(OutOfTime):
                    args = problem, result, limits.tol, limits.deadline, nodes
                    proof = unless_broken(None, prove, *args)
            elif given[0].proven:
                proof = Proof(result.dual_bound, result.kappa, True, None)
        if proof is None or proof.closed or proof.neurons is None:
            break
        if rounds >= limits.max_iter or perf_counter() > limits.deadline:
            break
        # The proof found a neuron that the search had missed.
        known = result.neurons.joined(proof.neurons)
        duals = ()
    is_open = proof is not None and not proof.closed
    if estimate and is_open and perf_counter() < limits.deadline:
        # The rounds have not allowed for what the search has not seen.
        result, proof = train(result.neurons, (), False), None
    history = {
        key: np.concatenate([history[key] for history in histories])
        for key in result.history
    }
    return replace(result, n_iter=rounds, history=history), proof


def _train_on_cells(problem, known, settings, task):
    """Column generation within sampled cells, for several outputs."""
    arrangement = TwoLayerPatterns(problem).sampled(settings, known)
    result = generate_neurons(
        problem,
        check_random_state(settings.seed),
        replace(settings.limits, max_neurons=None),
        arrangement=arrangement,
        known=known,
        callback=round_printer(settings),
        task=task,
    )
    return Trained.of(
        result,
        neurons=unless_broken(result.neurons, simplify, problem, result.neurons),
        dual_bound=result.dual_bound,
        certificate="restricted",
        n_patterns=len(arrangement),
        dual=DualPoint(result.nu, result.kappa),
    )
