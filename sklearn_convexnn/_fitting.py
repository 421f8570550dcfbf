"""From the data of one network to its weights."""

from dataclasses import dataclass, replace
from itertools import pairwise
from time import perf_counter

import numpy as np
from scipy.sparse import issparse

from sklearn_convexnn._utils.breakdown import unless_broken
from sklearn_convexnn._utils.deadlines import OutOfTime, until
from sklearn_convexnn._utils.devices import on_device, selected
from sklearn_convexnn._utils.sorting import distinct_rows
from sklearn_convexnn._utils.threads import blas_threads_for
from sklearn_convexnn.families.subnetworks.family import ParallelSubnetworks
from sklearn_convexnn.families.two_layer.family import TwoLayer
from sklearn_convexnn.model.problem import Problem
from sklearn_convexnn.model.results import MESSAGES
from sklearn_convexnn.model.scales import scales_ratio
from sklearn_convexnn.model.units import units_of
from sklearn_convexnn.patterns.arrangements import without_rounding
from sklearn_convexnn.patterns.gates import gated_arrangement
from sklearn_convexnn.solvers.gated import GatedObjective, null_network, solve_gated
from sklearn_convexnn.training.at_scale import goes_at_scale, precision_at_scale
from sklearn_convexnn.training.routes import train, train_at_scale
from sklearn_convexnn.training.subnetwork_routes import train_subnetworks
from sklearn_convexnn.training.trained import HISTORY, Trained, null_training

# Steps of the solver of gated networks that count as one iteration.
_GATED_STEPS = 50
# Part of the time that is kept for simplifying the network.
_TIDYING = 0.03
# Spread of a column, relative to its size, that is rounding.
_FLAT = 1e-13


@dataclass(frozen=True)
class Fitted:
    """A network as an MLP has it, and what is known of it.

    Gated networks have a column of `gates` for each neuron.
    """

    coefs: list
    intercepts: list
    null_objective: float
    trained: Trained
    gates: np.ndarray | None = None


def canonical(X, Y, sample_weight):
    """Distinct samples of positive weight, sorted.

    Repeated samples become one with the sum of their weights, so the program,
    and with it every digit of the answer, depends neither on the order of the
    samples nor on whether a weight is written as a number or as repetitions.
    """
    used = sample_weight > 0
    if not used.all():
        X, Y, sample_weight = X[used], Y[used], sample_weight[used]
    first, group = distinct_rows([*X.T, *Y.T])
    weight = np.bincount(group, weights=sample_weight)
    X, Y = np.ascontiguousarray(X[first]), Y[first]
    X += 0  # no negative zeros
    return X, Y + 0.0, weight


def _merged(X, Y, sample_weight, loss):
    """Sorted samples, those of equal features as one where the loss lets them be.

    Returns
    -------
    X, Y, sample_weight : ndarray
    constant : float
        The part of the loss that is left out.
    """
    new = np.append(True, np.any(X[1:] != X[:-1], axis=1))
    if not new.all():
        found = loss.merged(Y, sample_weight, np.cumsum(new) - 1)
        if found is not None:
            return np.ascontiguousarray(X[new]), *found
    return X, Y, sample_weight, 0.0


def _canonical_sparse(X, Y, sample_weight):
    """As `canonical`, for sparse samples of positive weight.

    Samples are told apart by random projections, which are equal to the last bit if
    the samples are, and sorted by them.
    """
    directions = np.random.RandomState(0).standard_normal((X.shape[1], 2))
    table = np.column_stack([X.sorted_indices() @ directions, Y])
    _, first, inverse = np.unique(table, axis=0, return_index=True, return_inverse=True)
    weight = np.bincount(inverse.ravel(), weights=sample_weight)
    return X[first], Y[first], weight


def fit_network(X, Y, sample_weight, start, seed, deadline, name, settings, task):
    """Train a network of neurons or of parallel sub-networks.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    Y : ndarray of shape (n_samples, n_outputs)
    sample_weight : ndarray of shape (n_samples,)
    start : tuple or None
        ``(coefs, intercepts, duals)`` of earlier fits: weights, and dual points.
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
    X, Y, sample_weight = canonical(X, Y, sample_weight)
    X, Y, sample_weight, constant = _merged(X, Y, sample_weight, settings.loss)
    run, dtype = train, np.float64
    if settings.architecture is not None:
        run = train_subnetworks
    elif goes_at_scale(X.shape, Y.shape[1], settings.arrangements):
        run, dtype = train_at_scale, precision_at_scale(0.9 * settings.tol)
    problem, units = build_problem(X, Y, sample_weight, settings, dtype)
    null = units.value * problem.objective(problem.null())
    if constant > 0 and null > 0:
        # The tolerance is a part of the whole objective.
        tol = settings.tol * (1.0 + constant / null)
        settings = replace(settings, tol=tol)
    units = replace(units, constant=constant)
    settings = replace(settings, units=units)

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
        now = perf_counter()
        end = deadline - _TIDYING * (deadline - now) if deadline < np.inf else np.inf
        run = settings.method or run
        try:
            trained = run(problem, known, seed, end, name, settings, task, duals)
        except OutOfTime:
            trained = null_training(problem, settings, "max_time")
    coefs, intercepts = weights(trained.neurons)
    return Fitted(
        coefs,
        intercepts,
        null_objective=null + constant,
        trained=units.in_user_units(trained),
    )


def build_problem(X, Y, sample_weight, settings, dtype=np.float64):
    """The training problem of one network, of data that are centred if it can be.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    Y : ndarray of shape (n_samples, n_outputs)
    sample_weight : ndarray of shape (n_samples,)
        Positive.
    settings : Settings
    dtype : dtype, default=float64
        Of the data of the problem.

    Returns
    -------
    problem : Problem
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
    units, Y, sample_weight, loss = units_of(
        centred, Y, sample_weight, settings.loss, free_bias, centre
    )
    centred /= centred.dtype.type(units.data)
    kind, how = TwoLayer, settings.negative_slope
    if settings.architecture is not None:
        kind, how = ParallelSubnetworks, settings.architecture
    family = kind(
        without_rounding(centred), free_bias, how, scales_ratio=scales_ratio(centred)
    )
    alpha = units.weight_decay(settings.alpha)
    problem = Problem(family, Y, sample_weight, loss, alpha)
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


def gated_problem(X, Y, sample_weight, settings, known=None):
    """The problem of a gated network, on the device of the data.

    Parameters
    ----------
    X : {array, sparse array} of shape (n_samples, n_features)
    Y : ndarray of shape (n_samples, n_outputs)
    sample_weight : ndarray of shape (n_samples,)
    settings : Settings
    known : KnownNeurons or None

    Returns
    -------
    problem : GatedProblem
    """
    used = sample_weight > 0
    if on_device(X):
        X, Y, sample_weight = selected(X, used), Y[used], sample_weight[used]
    elif issparse(X):
        X, Y, sample_weight = _canonical_sparse(
            X.tocsr()[used], Y[used], sample_weight[used]
        )
    else:
        X, Y, sample_weight = canonical(X, Y, sample_weight)
    none = np.zeros(X.shape[1])
    units, Y, sample_weight, loss = units_of(
        X, Y, sample_weight, settings.loss, settings.fit_intercept, none
    )
    X = X / units.data
    if known is not None:
        known = known.scaled(units)
    return GatedProblem(X, Y, sample_weight, loss, units, known)


def fit_gated(X, Y, sample_weight, known, seed, deadline, name, settings, task):
    """Train a gated network on given patterns, on the device of the data.

    Parameters
    ----------
    X : {array, sparse array} of shape (n_samples, n_features)
        Of any library.
    Y, sample_weight, seed, deadline, name, settings, task
        As of `fit_network`.
    known : KnownNeurons or None
        Those of an earlier fit.

    Returns
    -------
    fitted : Fitted
    """
    p = gated_problem(X, Y, sample_weight, settings, known)
    X, Y, sample_weight, loss = p.X, p.Y, p.sample_weight, p.loss
    units, free_bias = p.units, settings.fit_intercept
    alpha = units.weight_decay(settings.alpha)
    objective = GatedObjective(Y, sample_weight, loss, alpha, free_bias)
    null = null_network(X.shape[1], objective)
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
                    alpha,
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


def no_neurons(widths, offset):
    """The network of constant outputs, as if it had been trained.

    Parameters
    ----------
    widths : list of int
        Of all layers.
    offset : ndarray of shape (n_outputs,)

    Returns
    -------
    fitted : Fitted
        With an objective of zero.
    """
    return Fitted(
        coefs=[np.zeros(shape) for shape in pairwise(widths)],
        intercepts=[*map(np.zeros, widths[1:-1]), offset],
        null_objective=0.0,
        trained=Trained(
            neurons=None,
            dual_bound=0.0,
            certificate="global",
            status="optimal",
            message=MESSAGES["optimal"],
            n_iter=0,
            n_patterns=0,
            history=dict.fromkeys(HISTORY, np.zeros(1)),
            proven_bound=0.0,
        ),
    )
