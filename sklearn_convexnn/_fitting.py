"""From the data of one network to its weights."""

from dataclasses import replace
from time import perf_counter

import numpy as np

from sklearn_convexnn._preparing import build_problem, canonical, gated_problem, merged
from sklearn_convexnn._utils.breakdown import unless_broken
from sklearn_convexnn._utils.deadlines import OutOfTime, until
from sklearn_convexnn._utils.threads import blas_threads_for
from sklearn_convexnn.model.results import MESSAGES
from sklearn_convexnn.patterns.gates import gated_arrangement
from sklearn_convexnn.solvers.gated import GatedObjective, null_network, solve_gated
from sklearn_convexnn.training.at_scale import (
    goes_at_scale,
    precision_at_scale,
    train_at_scale,
)
from sklearn_convexnn.training.routes import train
from sklearn_convexnn.training.trained import Fitted, Trained, null_training

# Steps of the solver of gated networks that count as one iteration.
_GATED_STEPS = 50
# Part of the time that is kept for simplifying the network.
_TIDYING = 0.03


def fit_network(X, Y, sample_weight, start, settings, task):
    """Train a network of neurons or of parallel sub-networks.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    Y : ndarray of shape (n_samples, n_outputs)
    sample_weight : ndarray of shape (n_samples,)
    start : tuple or None
        ``(coefs, intercepts, duals)`` of earlier fits: weights, and dual points.
    settings : Settings
    task : FitTask
        Has begun; its subtasks are the rounds.

    Returns
    -------
    fitted : Fitted
    """
    X, Y, sample_weight = canonical(X, Y, sample_weight)
    X, Y, sample_weight, constant = merged(X, Y, sample_weight, settings.loss)
    run, dtype = settings.method, np.float64
    if run is train and goes_at_scale(X.shape, Y.shape[1], settings.arrangements):
        run, dtype = train_at_scale, precision_at_scale(0.9 * settings.tol)
    build = build_problem if settings.build is None else settings.build
    problem, units = build(X, Y, sample_weight, settings, dtype)
    null = units.value * problem.objective(problem.null())
    if constant > 0 and null > 0:
        # The tolerance is a part of the whole objective.
        tol = settings.tol * (1.0 + constant / null)
        settings = replace(settings, tol=tol)
    units = replace(units, constant=constant)
    deadline, now = settings.deadline, perf_counter()
    end = deadline - _TIDYING * (deadline - now) if deadline < np.inf else np.inf
    settings = replace(settings, units=units, deadline=end)

    def weights(neurons):
        return units.weights(*problem.family.layers(neurons), settings.dtype)

    task = task.through(weights)
    known, duals = None, ()
    if start is not None:
        coefs, intercepts, duals = start
        layers = units.layers(coefs, intercepts)
        known = problem.family.network_of_layers(*layers)
        duals = units.dual_points(duals)
    with blas_threads_for(len(X)), until(deadline):
        try:
            trained = run(problem, known, settings, task, duals)
        except OutOfTime:
            trained = null_training(problem, settings, "max_time")
    coefs, intercepts = weights(trained.neurons)
    return Fitted(
        coefs,
        intercepts,
        null_objective=null + constant,
        trained=units.in_user_units(trained),
    )


def fit_gated(X, Y, sample_weight, known, settings, task):
    """Train a gated network on given patterns, on the device of the data.

    Parameters
    ----------
    X : {array, sparse array} of shape (n_samples, n_features)
        Of any library.
    Y, sample_weight, settings, task
        As of `fit_network`.
    known : KnownNeurons or None
        Those of an earlier fit.

    Returns
    -------
    fitted : Fitted
    """
    p = gated_problem(X, Y, sample_weight, settings, known)
    units, alpha = p.units, p.units.weight_decay(settings.alpha)
    objective = GatedObjective.of(
        p.Y, p.sample_weight, p.loss, alpha, settings.fit_intercept
    )
    null = null_network(p.X.shape[1], objective)
    network, arrangement = _solve(p, objective, null, settings)
    trained = _of_gated(network, arrangement)
    settings.tell(
        f"{trained.n_patterns} patterns, {len(network.hidden.T)} gated neurons after "
        f"{network.n_iter} iterations, objective "
        f"{units.value * network.objective:.8g}, dual bound "
        f"{units.value * network.dual_bound:.8g}"
    )
    coefs, intercepts = units.weights(
        [network.hidden, network.output],
        [np.zeros(network.hidden.shape[1]), network.offset],
        settings.dtype,
    )
    gates = network.gates.copy()
    gates[p.X.shape[1] :] *= units.data
    return Fitted(
        coefs,
        intercepts,
        gates=gates,
        null_objective=units.value * null.objective,
        trained=units.in_user_units(trained),
    )


def _solve(problem, objective, null, settings):
    """The optimal network and its patterns; `null` and None where there are none."""
    p, arrangement = problem, None
    try:
        with blas_threads_for(p.X.shape[0]):
            with until(settings.deadline):
                arrangement, start = unless_broken(
                    (None, None),
                    gated_arrangement,
                    *(p.X, p.sample_weight, settings, p.known),
                )
            if arrangement is None:
                return replace(null, status="breakdown"), None
            network = solve_gated(
                p.X,
                objective,
                arrangement,
                # A little room for the rounding of the weights.
                tol=0.9 * settings.tol,
                max_iter=_GATED_STEPS * settings.max_iter,
                deadline=settings.deadline,
                start=start,
            )
    except OutOfTime:
        return null, arrangement
    return network, arrangement


def _of_gated(network, arrangement):
    """What is known of a gated network on these patterns."""
    history = network.history
    unknown = np.full(len(history["time"]), np.nan)
    complete = arrangement is not None and arrangement.complete
    return Trained(
        neurons=None,
        dual_bound=network.dual_bound,
        certificate="global" if complete else "restricted",
        status=network.status,
        message=MESSAGES[network.status],
        n_iter=int(np.ceil(network.n_iter / _GATED_STEPS)),
        n_patterns=0 if arrangement is None else len(arrangement.gates),
        history={
            "time": history["time"],
            "objective": history["objective"],
            "dual_bound": history["dual_bound"],
            "kappa": unknown,
            "blocks": history["active"],
            "neurons": unknown,
        },
    )
