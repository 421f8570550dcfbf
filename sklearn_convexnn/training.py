"""The routes from data to the network of one output, with its certificate."""

import warnings
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from sklearn.utils import check_random_state

from sklearn_convexnn.arrangements import (
    count_patterns,
    enumerate_arrangement,
    network_arrangement,
    sample_arrangement,
    union,
)
from sklearn_convexnn.branch_and_bound import maximise_slope, prefers_cones
from sklearn_convexnn.closed_forms import closed_form
from sklearn_convexnn.column_generation import generate_neurons
from sklearn_convexnn.programs.two_layer import TwoLayerProgram
from sklearn_convexnn.recovery import Neurons, neurons_from_blocks, simplify
from sklearn_convexnn.solvers import MESSAGES, SOLVERS, null_result

HISTORY = ("time", "objective", "dual_bound", "kappa", "cells", "neurons")
"""Columns of the history; not a number where a route does not know one."""

# Up to so many patterns the program over all of them is the simplest way.
_FEW_PATTERNS = 100
# Sizes up to which a proof is attempted, and the nodes it may take.
_PROOF_SAMPLES, _PROOF_RANK = 60, 5
# Work for it, a few seconds at most: cones, and semidefinite bounds, whose
# time grows as the power 2.7 of the samples.
_CONES, _SEMIDEFINITE = 100_000, 1.5e5
# Attempts: each but the last may find a neuron that the search has missed.
_PROOFS = 3


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
    """

    neurons: Neurons
    dual_bound: float
    certificate: str
    status: str
    message: str
    n_iter: int
    n_patterns: int
    history: dict


def train(problem, gates, signs, seed, deadline, name, params):
    """Train the network of one output.

    Parameters
    ----------
    problem : Problem
    gates : ndarray of shape (n_gates, n_columns) or None
        Neurons of an earlier fit.
    signs : ndarray of shape (n_gates,) or None
        Signs of their output weights.
    seed : int
    deadline : float
    name : str
        What the lines of `verbose` call this output.
    params : dict
        Parameters of the estimator.

    Returns
    -------
    trained : Trained
    """
    wanted = params["arrangements"]
    if wanted != "sampled":
        trained = _train_by_structure(problem, deadline, name, params)
        if trained is not None:
            return trained
    if wanted == "adaptive":
        free_bias = problem.fit_intercept
        few = count_patterns(problem.X, free_bias=free_bias) <= _FEW_PATTERNS
        if not few:
            return _train_adaptively(
                problem, gates, signs, seed, deadline, name, params
            )
    return _train_on_patterns(problem, gates, seed, deadline, name, params)


def _train_by_structure(problem, deadline, name, params):
    start = perf_counter()
    form = closed_form(
        problem.X,
        problem.y,
        problem.sample_weight,
        problem.loss,
        problem.alpha,
        fit_intercept=problem.fit_intercept,
        negative_slope=problem.negative_slope,
        tol=0.9 * params["tol"],
        max_iter=params["max_iter"],
        deadline=deadline,
    )
    if form is None:
        return None
    if params["verbose"]:
        print(
            f"[{name}] solved by structure: {len(form.neurons)} neurons, objective "
            f"{form.objective:.8g}, dual bound {form.dual_bound:.8g}"
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


def _train_adaptively(problem, gates, signs, seed, deadline, name, params):
    rng = check_random_state(seed)
    known = None
    if gates is not None:
        d = problem.X.shape[1]
        biases = gates[:, d] if problem.fit_intercept else np.zeros(len(gates))
        known = gates[:, :d], biases, signs
    offset, rounds = 0.0, 0
    histories = []
    tol = 0.9 * params["tol"]

    def report(n_iter, entry):
        if params["verbose"]:
            gap = entry["objective"] - entry["dual_bound"]
            print(
                f"[{name}] round {rounds + n_iter:3d}  "
                f"{offset + entry['time']:7.2f} s  "
                f"objective {entry['objective']:.8g}  dual bound "
                f"{entry['dual_bound']:.8g}  gap {gap / entry['objective']:.1e}  "
                f"kappa/alpha {entry['kappa']:.5f}  {entry['cells']} cells  "
                f"{entry['neurons']} neurons"
            )

    start = perf_counter()
    for _ in range(_PROOFS):
        result = generate_neurons(
            problem,
            rng,
            n_neurons=params["n_arrangements"],
            known=known,
            tol=tol,
            max_iter=max(params["max_iter"] - rounds, 1),
            max_neurons=params["max_neurons"],
            deadline=deadline,
            callback=report,
        )
        history = dict(result.history)
        history["time"] = history["time"] + offset
        histories.append(history)
        offset, rounds = perf_counter() - start, rounds + result.n_iter
        proof = None
        if result.status == "optimal":
            proof = _prove(problem, result, params["tol"], deadline)
        if proof is None or proof.closed or proof.neuron is None:
            break
        if rounds >= params["max_iter"] or perf_counter() > deadline:
            break
        # The proof found a neuron that the search had missed.
        neurons = result.neurons
        known = (
            np.concatenate([neurons.directions, [proof.neuron[0]]]),
            np.append(neurons.biases, proof.neuron[1]),
            np.append(neurons.signs, proof.neuron[2]),
        )
    proven = proof is not None and proof.closed
    n_patterns = int(max(np.max(history["cells"]) for history in histories))
    return Trained(
        neurons=simplify(problem, result.neurons),
        dual_bound=proof.dual_bound if proven else result.dual_bound,
        certificate="global" if proven else "estimated",
        status=result.status,
        message=result.message,
        n_iter=rounds,
        n_patterns=n_patterns,
        history={
            key: np.concatenate([history[key] for history in histories])
            for key in HISTORY
        },
    )


@dataclass(frozen=True)
class _Proof:
    """Outcome of a proof: the bound, and a missed neuron if there is one."""

    dual_bound: float
    closed: bool
    neuron: tuple | None


def _prove(problem, result, tol, deadline):
    """Bound the steepest slope for good, where the data are small enough."""
    n = len(problem.y)
    rank = int(np.linalg.matrix_rank(problem.X))
    if rank <= _PROOF_RANK and prefers_cones(n, rank):
        nodes = _CONES
    elif n <= _PROOF_SAMPLES:
        nodes = max(2, int(_SEMIDEFINITE / n**2.7))
    else:
        return None
    wanted = (1.0 - tol) * result.objective
    # The largest slope with which the bound is still good enough.
    target, high = result.kappa, 10.0 * result.kappa + problem.alpha
    for _ in range(40):
        middle = 0.5 * (target + high)
        if problem.bound(result.nu, middle) >= wanted:
            target = middle
        else:
            high = middle
    found = maximise_slope(
        problem.X,
        result.nu,
        free_bias=problem.fit_intercept,
        negative_slope=problem.negative_slope,
        lower=result.kappa,
        target=target,
        rtol=min(1e-4, 0.1 * tol),
        deadline=deadline,
        max_nodes=nodes,
    )
    bound = problem.bound(result.nu, max(found.upper, result.kappa))
    missed = problem.bound(result.nu, found.lower) < wanted
    return _Proof(
        dual_bound=bound,
        closed=bound >= wanted,
        neuron=(found.direction, found.bias, found.sign) if missed else None,
    )


def _train_on_patterns(problem, gates, seed, deadline, name, params):
    arrangement = _choose_arrangement(problem, gates, seed, params)
    verbose = params["verbose"]
    if verbose:
        scope = "all" if arrangement.complete else "sampled"
        print(
            f"[{name}] {len(problem.y)} distinct samples, {len(arrangement)} "
            f"patterns ({scope})"
        )
    program = TwoLayerProgram(
        problem.X,
        problem.y,
        problem.sample_weight,
        problem.loss,
        problem.alpha,
        arrangement,
        fit_intercept=problem.fit_intercept,
        negative_slope=problem.negative_slope,
    )

    def report(iteration, objective, bound):
        if verbose > 1:
            print(
                f"[{name}] iteration {iteration:3d}  objective {objective:.8g}  "
                f"dual bound {bound:.8g}"
            )

    if not program.can_improve:
        result = null_result(program)
    else:
        result = SOLVERS[params["solver"]](
            program,
            # A little room for the rounding of the recovered network.  A loose
            # solution costs little less and has many more neurons.
            tol=0.9 * min(params["tol"], 1e-4),
            max_iter=params["max_iter"],
            deadline=deadline,
            callback=report,
        )
    neurons = neurons_from_blocks(program, result.theta, result.offset)
    neurons = simplify(problem, neurons)
    if verbose:
        print(
            f"[{name}] {len(neurons)} neurons after {result.n_iter} iterations, "
            f"dual bound {result.dual_bound:.8g}: {result.message}"
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


def _choose_arrangement(problem, gates, seed, params):
    """Patterns for the program, as the parameters say."""
    X, free_bias = problem.X, problem.fit_intercept
    wanted = params["n_arrangements"]
    if params["arrangements"] != "sampled":
        return enumerate_arrangement(X, free_bias=free_bias)
    arrangement = sample_arrangement(X, wanted, free_bias=free_bias, random_state=seed)
    if arrangement.complete:
        return arrangement
    if len(arrangement) < wanted:
        warnings.warn(
            f"Only {len(arrangement)} distinct activation patterns were found, fewer "
            f"than n_arrangements={wanted}: the others are hard to hit at random. "
            "Centre and scale the data, or use arrangements='exact' if they are of "
            "low rank.",
            UserWarning,
        )
    if gates is not None:
        known = network_arrangement(X, gates, free_bias=free_bias)
        arrangement = union(known, arrangement)
    return arrangement
