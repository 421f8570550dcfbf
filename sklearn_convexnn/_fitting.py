"""From the data of one network to its weights."""

from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from scipy.sparse import issparse

from sklearn_convexnn._utils.breakdown import unless_broken
from sklearn_convexnn._utils.deadlines import OutOfTime, until
from sklearn_convexnn._utils.devices import on_device, selected
from sklearn_convexnn._utils.sorting import distinct_rows
from sklearn_convexnn._utils.threads import blas_threads_for
from sklearn_convexnn.families.subnetworks.architecture import Architecture
from sklearn_convexnn.families.subnetworks.problem import DeepProblem
from sklearn_convexnn.families.subnetworks.recovery import (
    layers_of_subnetworks,
    subnetworks_of_layers,
)
from sklearn_convexnn.families.two_layer.recovery import network_weights
from sklearn_convexnn.families.two_layer.vector_recovery import (
    network_weights as vector_network_weights,
)
from sklearn_convexnn.losses import Separable
from sklearn_convexnn.model.problem import Problem
from sklearn_convexnn.model.results import MESSAGES
from sklearn_convexnn.model.scales import scales_ratio
from sklearn_convexnn.model.units import units_of
from sklearn_convexnn.model.vector_problem import VectorProblem
from sklearn_convexnn.patterns.arrangements import without_rounding
from sklearn_convexnn.patterns.gates import gated_arrangement
from sklearn_convexnn.solvers.gated import null_network, solve_gated
from sklearn_convexnn.training.at_scale import goes_at_scale, precision_at_scale
from sklearn_convexnn.training.descents import train_by_descent
from sklearn_convexnn.training.routes import train
from sklearn_convexnn.training.smallest import allowed_objective, smallest_network
from sklearn_convexnn.training.subnetwork_routes import train_subnetworks
from sklearn_convexnn.training.trained import Trained, null_training
from sklearn_convexnn.training.vector_routes import train_at_scale, train_outputs
from sklearn_convexnn.training.vector_smallest import (
    smallest_network as vector_smallest_network,
)

# Steps of the solver of gated networks that count as one iteration.
_GATED_STEPS = 50
# Part of the time that is kept for simplifying the network, and, where it is asked
# for, for the search of a small one.
_TIDYING, _SHRINKING = 0.03, 0.15
# Spread of a column, relative to its size, that is rounding.
_FLAT = 1e-13


@dataclass(frozen=True)
class Fitted:
    """A network as an MLP has it, and what is known of it.

    It may be the network of all outputs, or of one of them; shapes are those of
    an MLP, with as many outputs as it is for.  Gated networks have a column of
    `gates` for each neuron.
    """

    coefs: list
    intercepts: list
    null_objective: float
    trained: Trained
    gates: np.ndarray | None = None


def canonical(X, y, sample_weight):
    """Distinct samples of positive weight, sorted.

    Repeated samples become one with the sum of their weights, so the program,
    and with it every digit of the answer, depends neither on the order of the
    samples nor on whether a weight is written as a number or as repetitions.
    """
    used = sample_weight > 0
    if not used.all():
        X, y, sample_weight = X[used], y[used], sample_weight[used]
    first, group = distinct_rows([*X.T, *y.reshape(len(y), -1).T])
    weight = np.bincount(group, weights=sample_weight)
    X, y = np.ascontiguousarray(X[first]), y[first]
    X += 0  # no negative zeros
    return X, y + 0.0, weight


def _merged(X, y, sample_weight, loss):
    """Sorted samples, those of equal features as one where the loss lets them be.

    Returns
    -------
    X, y, sample_weight : ndarray
    constant : float
        The part of the loss that is left out.
    """
    new = np.append(True, np.any(X[1:] != X[:-1], axis=1))
    if not new.all():
        found = loss.merged(y, sample_weight, np.cumsum(new) - 1)
        if found is not None:
            return np.ascontiguousarray(X[new]), *found
    return X, y, sample_weight, 0.0


def _canonical_sparse(X, y, sample_weight):
    """As `canonical`, for sparse samples of positive weight.

    Samples are told apart by random projections, which are equal to the last bit if
    the samples are, and sorted by them.
    """
    directions = np.random.RandomState(0).standard_normal((X.shape[1], 2))
    table = np.column_stack([X.sorted_indices() @ directions, y])
    _, first, inverse = np.unique(table, axis=0, return_index=True, return_inverse=True)
    weight = np.bincount(inverse.ravel(), weights=sample_weight)
    return X[first], y[first], weight


def fit_network(X, y, sample_weight, start, seed, deadline, name, settings, task):
    """Train the network of one output, or that of several which share it.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        For gated networks also sparse, or an array of another library.
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
    sample_weight : ndarray of shape (n_samples,)
    start : tuple, KnownNeurons or None
        ``(gates, outputs, duals)``: neurons of earlier fits, as rows, with their
        output weights, and dual points.  Of deeper networks ``(coefs, intercepts,
        duals)``.  Or gated neurons.
    seed : int
    deadline : float
    name : str
        What the lines of `verbose` call this network.
    settings : Settings
    task : FitTask
        Has begun; its subtasks are the rounds.

    Returns
    -------
    fitted : Fitted
    """
    if settings.formulation == "gated_relu":
        return _fit_gated(X, y, sample_weight, start, seed, deadline, name, settings)
    deep = settings.depth > 2
    X, y, sample_weight = canonical(X, y, sample_weight)
    X, y, sample_weight, constant = _merged(X, y, sample_weight, settings.loss)
    n_outputs = y.size // len(y)
    at_scale = not deep and goes_at_scale(X, n_outputs, settings.arrangements)
    if not at_scale:
        X = X.astype(np.float64, copy=False)
    if (deep or at_scale) and y.ndim == 1:
        # One method there, for any number of outputs.
        y, loss = y[:, None], Separable(settings.loss)
        settings = replace(settings, loss=loss)
        if start is not None:
            *known, duals = start
            duals = [replace(point, nu=point.nu.reshape(-1, 1)) for point in duals]
            if at_scale:
                gates, outputs = known
                known = gates, outputs[:, None]
            start = *known, duals
    dtype = precision_at_scale(0.9 * settings.tol) if at_scale else X.dtype
    problem, units = build_problem(X, y, sample_weight, settings, dtype)
    null = units.value * problem.objective(problem.null())
    if constant > 0 and null > 0:
        # The tolerance is a part of the whole objective.
        tol = settings.tol * (1.0 + constant / null)
        settings = replace(settings, tol=tol)
    units = replace(units, constant=constant)
    settings = replace(settings, units=units)
    run, to_weights = train, network_weights
    if y.ndim == 2:
        run, to_weights = train_outputs, vector_network_weights
    if at_scale:
        run = train_at_scale
    if deep:
        run = train_subnetworks

    def weights(neurons):
        if deep:
            coefs, intercepts = layers_of_subnetworks(neurons)
        else:
            hidden, hidden_bias, output, output_bias = to_weights(neurons, problem.X)
            if y.ndim == 1:
                output, output_bias = output[:, None], np.array([output_bias])
            coefs, intercepts = [hidden, output], [hidden_bias, output_bias]
        return units.weights(coefs, intercepts, settings.dtype)

    task = task.through(weights)
    known, duals = None, ()
    if start is not None and deep:
        coefs, intercepts, duals = start
        known = subnetworks_of_layers(problem, *units.layers(coefs, intercepts))
    elif start is not None:
        *known, duals = start
        *lines, outputs = _unit_gates(*known, units, problem.fit_intercept)
        known = problem.unused(*lines, np.sign(outputs) if y.ndim == 1 else outputs)
        if y.ndim == 1:
            known = replace(known, magnitudes=np.abs(outputs))
    duals = units.dual_points(duals)
    with blas_threads_for(len(X)), until(deadline):
        now = perf_counter()
        end = deadline - _TIDYING * (deadline - now) if deadline < np.inf else np.inf
        if settings.minimal and not deep:
            end -= _SHRINKING * (end - now) if end < np.inf else 0.0
        try:
            if settings.descent:
                trained = train_by_descent(problem, known, seed, end, name, settings)
            else:
                trained = run(problem, known, seed, end, name, settings, task, duals)
        except OutOfTime:
            trained = null_training(problem, settings, "max_time")
        if settings.minimal:
            trained = _minimal(problem, trained, deadline, name, settings)
    coefs, intercepts = weights(trained.neurons)
    return Fitted(
        coefs,
        intercepts,
        null_objective=null + constant,
        trained=units.in_user_units(trained),
    )


def build_problem(X, y, sample_weight, settings, dtype=np.float64):
    """The training problem of one network, of data that are centred if it can be.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
    sample_weight : ndarray of shape (n_samples,)
        Positive.
    settings : Settings
    dtype : dtype, default=float64
        Of the data of the problem.

    Returns
    -------
    problem : Problem, VectorProblem or DeepProblem
        In units in which data, targets and weights are of order one.
    units : Units
    """
    free_bias = settings.fit_intercept
    # Free biases absorb a shift of the data; without it, less is lost to rounding.
    centre = X.mean(axis=0) if free_bias else np.zeros(X.shape[1])
    centred = np.empty(X.shape, dtype)
    np.subtract(X, centre, out=centred, casting="same_kind")
    if free_bias:
        # What this leaves of constant columns is rounding of the mean, and neurons
        # along them would be noise.
        low, high = X.min(axis=0), X.max(axis=0)
        flat = high - low <= _FLAT * np.maximum(high, -low)
        if flat.any():
            centred[:, flat] = 0.0
    units, y, sample_weight, loss = units_of(
        centred, y, sample_weight, settings.loss, free_bias, centre
    )
    centred /= centred.dtype.type(units.data)
    kind, options = Problem, {}
    if settings.depth > 2:
        kind = DeepProblem
        options["architecture"] = Architecture(
            settings.depth, settings.subnetwork_width, settings.subnetwork_norm
        )
    elif y.ndim == 2:
        kind = VectorProblem
    problem = kind(
        without_rounding(centred),
        y,
        sample_weight,
        loss,
        units.weight_decay(settings.alpha),
        free_bias,
        settings.negative_slope,
        scales_ratio=scales_ratio(centred),
        **options,
    )
    return problem, units


@dataclass(frozen=True)
class GatedProblem:
    """Data of a gated network on given patterns, in the units of the training.

    Attributes
    ----------
    X : {array, sparse array} of shape (n_samples, n_features)
    Y : ndarray of shape (n_samples, n_outputs)
    sample_weight : ndarray of shape (n_samples,)
    loss : Separable or Softmax
    units : Units
    known : KnownNeurons or None
    """

    X: object
    Y: np.ndarray
    sample_weight: np.ndarray
    loss: object
    units: object
    known: object


def gated_problem(X, y, sample_weight, settings, known=None):
    """The problem of a gated network, on the device of the data.

    Parameters
    ----------
    X : {array, sparse array} of shape (n_samples, n_features)
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
    sample_weight : ndarray of shape (n_samples,)
    settings : Settings
    known : KnownNeurons or None

    Returns
    -------
    problem : GatedProblem
    """
    used = sample_weight > 0
    if on_device(X):
        X, y, sample_weight = selected(X, used), y[used], sample_weight[used]
    elif issparse(X):
        X, y, sample_weight = _canonical_sparse(
            X.tocsr()[used], y[used], sample_weight[used]
        )
    else:
        X, y, sample_weight = canonical(X, y, sample_weight)
    loss, none = settings.loss, np.zeros(X.shape[1])
    if y.ndim == 1:
        y, loss = y[:, None], Separable(loss)
    units, Y, sample_weight, loss = units_of(
        X, y, sample_weight, loss, settings.fit_intercept, none
    )
    X = X / units.data
    if known is not None:
        known = known.scaled(units)
    return GatedProblem(X, Y, sample_weight, loss, units, known)


def _fit_gated(X, y, sample_weight, known, seed, deadline, name, settings):
    """Train a gated network on given patterns, on the device of the data."""
    p = gated_problem(X, y, sample_weight, settings, known)
    X, Y, sample_weight, loss = p.X, p.Y, p.sample_weight, p.loss
    units, free_bias = p.units, settings.fit_intercept
    null = null_network(X.shape[1], Y, sample_weight, loss, free_bias)
    network, n_patterns, complete = replace(null, status="breakdown"), 0, False
    try:
        with blas_threads_for(X.shape[0]):
            with until(deadline):
                arrangement, start = unless_broken(
                    (None, None),
                    gated_arrangement,
                    *(X, sample_weight, settings, seed, p.known),
                )
            if arrangement is not None:
                n_patterns, complete = len(arrangement.gates), arrangement.complete
                network = solve_gated(
                    X,
                    Y,
                    sample_weight,
                    loss,
                    units.weight_decay(settings.alpha),
                    arrangement,
                    fit_intercept=free_bias,
                    # A little room for the rounding of the weights.
                    tol=0.9 * settings.tol,
                    max_iter=_GATED_STEPS * settings.max_iter,
                    deadline=deadline,
                    start=start,
                )
    except OutOfTime:
        network = null
    history = network.history
    unknown = np.full(len(history["time"]), np.nan)
    if settings.verbose:
        print(
            f"[{name}] {n_patterns} patterns, {len(network.hidden.T)} "
            f"gated neurons after {network.n_iter} iterations, objective "
            f"{units.value * network.objective:.8g}, dual bound "
            f"{units.value * network.dual_bound:.8g}"
        )
    coefs, intercepts = units.weights(
        [network.hidden, network.output],
        [np.zeros(network.hidden.shape[1]), network.offset],
        settings.dtype,
    )
    gates = network.gates.copy()
    gates[X.shape[1] :] *= units.data
    trained = Trained(
        neurons=None,
        dual_bound=network.dual_bound,
        certificate="global" if complete else "restricted",
        status=network.status,
        message=MESSAGES[network.status],
        n_iter=int(np.ceil(network.n_iter / _GATED_STEPS)),
        n_patterns=n_patterns,
        history={
            "time": history["time"],
            "objective": history["objective"],
            "dual_bound": history["dual_bound"],
            "kappa": unknown,
            "cells": history["active"],
            "neurons": unknown,
        },
    )
    return Fitted(
        coefs,
        intercepts,
        gates=gates,
        null_objective=units.value * null.objective,
        trained=units.in_user_units(trained),
    )


def _unit_gates(gates, outputs, units, free_bias):
    """Directions of length one, biases and outputs of units, in units of a problem."""
    directions = gates[:, : len(units.centre)]
    norms = np.linalg.norm(directions, axis=1)
    used = norms > 0
    norms = norms[used]
    directions = directions[used] / norms[:, None]
    biases = np.zeros(len(directions))
    if free_bias:
        biases = (gates[used, -1] / norms + directions @ units.centre) / units.data
    outputs = (outputs[used].T * norms).T
    return directions, biases, outputs * (units.data / units.output)


def _minimal(problem, trained, deadline, name, settings):
    """The same with the smallest network that `tol` allows."""
    objective = problem.objective(trained.neurons)
    search = smallest_network
    if isinstance(problem, VectorProblem):
        search = vector_smallest_network
    neurons = unless_broken(
        trained.neurons,
        search,
        problem,
        trained.neurons,
        allowed_objective(objective, trained.dual_bound, settings.tol),
        # A bound for sampled cells does not hold outside of them, and neurons on
        # the border of two would not stay in theirs.
        only_subsets=trained.certificate == "restricted",
        deadline=deadline,
    )
    if settings.verbose:
        print(
            f"[{name}] smallest network found: {len(neurons)} of "
            f"{len(trained.neurons)} neurons, objective "
            f"{settings.units.objective(problem.objective(neurons)):.8g} after "
            f"{settings.units.objective(objective):.8g}"
        )
    return replace(trained, neurons=neurons)
