"""The routes from data to the network of several outputs, with its certificate."""

from contextlib import suppress
from dataclasses import replace

import numpy as np
from sklearn.utils import check_random_state

from sklearn_convexnn._utils.breakdown import unless_broken
from sklearn_convexnn._utils.deadlines import OutOfTime
from sklearn_convexnn.families.two_layer.given import sampled_arrangement
from sklearn_convexnn.families.two_layer.vector_closed_forms import soft_thresholded_svd
from sklearn_convexnn.families.two_layer.vector_recovery import merge_parallel, simplify
from sklearn_convexnn.model.results import MESSAGES, DualPoint
from sklearn_convexnn.training.at_scale import generate_at_scale
from sklearn_convexnn.training.proving import generate_and_prove
from sklearn_convexnn.training.trained import (
    Trained,
    null_training,
    round_printer,
    trained_at_once,
)
from sklearn_convexnn.training.vector_column_generation import generate_neurons
from sklearn_convexnn.training.vector_proving import node_limit, prove

# How much longer a proof may take if it is asked for.
_LONGER = 40


def train_outputs(problem, known, seed, deadline, name, settings, task=None, duals=()):
    """Train one network for all outputs.

    Parameters
    ----------
    problem : VectorProblem
    known : VectorNeurons or None
        Neurons of an earlier fit.
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
        If a proof is asked for and the data are of too high a rank.
    """
    args = problem, known, seed, deadline, name, settings, task, duals
    trained = unless_broken(None, _train, *args)
    return null_training(problem, settings) if trained is None else trained


def _train(problem, known, seed, deadline, name, settings, task, duals):
    sampled = settings.arrangements == "sampled"
    exact = settings.arrangements == "exact"
    nodes = 0 if sampled else node_limit(problem, brief=not exact)
    if exact:
        nodes *= _LONGER
        if not nodes:
            raise ValueError(
                "arrangements='exact' for outputs of one network needs data of rank "
                "at most 5, or 4 with free biases; use arrangements='adaptive'."
            )
    elif not settings.prove:
        nodes = 0
    if not sampled:
        # Other methods need no structure.
        trained = None
        with suppress(OutOfTime):
            trained = unless_broken(None, _train_by_structure, problem, name, settings)
        if trained is not None:
            return trained
    rng = check_random_state(seed)
    # The optimum never needs more than one for each number in the targets.
    n_neurons = min(settings.n_arrangements, max(2 * problem.Y.size, 100))
    options = {
        "known": known,
        "duals": duals,
        "tol": settings.tol,
        "max_iter": settings.max_iter,
        "deadline": deadline,
        "callback": round_printer(name, settings),
        "task": task,
    }
    if sampled:
        arrangement = sampled_arrangement(
            problem.X, settings.n_arrangements, problem.fit_intercept, seed, known
        )
        options["tol"] *= 0.9
        result = generate_neurons(problem, rng, arrangement=arrangement, **options)
        proof, certificate = None, "restricted"
        n_patterns = len(arrangement)
    else:
        result, proof = generate_and_prove(
            problem,
            rng,
            generate=generate_neurons,
            prove=lambda *args: prove(*args, nodes=nodes),
            n_neurons=n_neurons,
            max_neurons=settings.max_neurons,
            **options,
        )
        certificate = "estimated"
        n_patterns = int(np.max(result.history["cells"]))
    bound, status, message = result.dual_bound, result.status, result.message
    dual = DualPoint(result.nu, result.kappa)
    if proof is not None and (proof.closed or settings.arrangements == "exact"):
        certificate, bound = "global", proof.dual_bound
        dual = DualPoint(result.nu, proof.kappa, proven=True)
        if not proof.closed and status == "optimal":
            status, message = "open", "branch and bound reached its limit of work"
    elif settings.arrangements == "exact" and status == "optimal":
        # There was no time for the proof that was asked for.
        status, message = "unconfirmed", MESSAGES["unconfirmed"]
    return Trained.of(
        result,
        neurons=unless_broken(result.neurons, simplify, problem, result.neurons),
        dual_bound=bound,
        certificate=certificate,
        status=status,
        message=message,
        n_patterns=n_patterns,
        dual=dual,
    )


def train_at_scale(problem, known, seed, deadline, name, settings, task=None, duals=()):
    """As `train_outputs`, for many samples.

    Parameters
    ----------
    problem, known, seed, deadline, name, settings, task, duals
        As of `train_outputs`.

    Returns
    -------
    trained : Trained
    """
    result = unless_broken(
        None,
        generate_at_scale,
        problem,
        check_random_state(seed),
        n_neurons=settings.n_arrangements,
        known=known,
        duals=duals,
        # A little room for the rounding of the weights.
        tol=0.9 * settings.tol,
        max_iter=settings.max_iter,
        max_neurons=settings.max_neurons,
        deadline=deadline,
        callback=round_printer(name, settings),
        task=task,
    )
    if result is None:
        return null_training(problem, settings)
    neurons = result.neurons
    with suppress(OutOfTime):
        neurons = merge_parallel(neurons)
    return Trained.of(
        result,
        neurons=neurons,
        dual_bound=result.dual_bound,
        certificate="estimated",
        dual=DualPoint(result.nu, result.kappa),
    )


def _train_by_structure(problem, name, settings):
    """The network of orthogonal samples, and of data that no network improves on."""
    neurons = problem.null()
    objective = bound = problem.objective(neurons)
    if objective > 0 and np.any(problem.X):
        form = soft_thresholded_svd(
            problem.X,
            problem.Y,
            problem.sample_weight,
            problem.loss,
            problem.alpha,
            problem.fit_intercept,
            problem.negative_slope,
        )
        if form is None:
            return None
        zeros = np.zeros(len(form.directions))
        neurons = replace(
            problem.unused(form.directions, zeros, form.outputs),
            offset=neurons.offset,
        )
        objective, bound = form.objective, form.dual_bound
    if settings.verbose:
        print(
            f"[{name}] solved by structure: {len(neurons)} neurons, objective "
            f"{settings.units.objective(objective):.8g}, dual bound "
            f"{settings.units.objective(bound):.8g}"
        )
    return trained_at_once(
        problem, neurons, bound, certificate="global", n_patterns=len(neurons)
    )
