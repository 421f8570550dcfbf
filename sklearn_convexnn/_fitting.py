"""From the data of one network to its weights."""

from dataclasses import dataclass, replace

import numpy as np

from sklearn_convexnn._threads import blas_threads_for
from sklearn_convexnn.arrangements import without_rounding
from sklearn_convexnn.minimal_network import allowed_objective, smallest_network
from sklearn_convexnn.problem import Problem
from sklearn_convexnn.recovery import network_weights
from sklearn_convexnn.rounds import MESSAGES
from sklearn_convexnn.training import Trained, given_arrangement, train
from sklearn_convexnn.vector.gated import solve_gated
from sklearn_convexnn.vector.losses import Separable
from sklearn_convexnn.vector.minimal_network import (
    smallest_network as vector_smallest_network,
)
from sklearn_convexnn.vector.problem import VectorProblem
from sklearn_convexnn.vector.recovery import network_weights as vector_network_weights
from sklearn_convexnn.vector.training import train_outputs

# Steps of the solver of gated networks that count as one iteration.
_GATED_STEPS = 50


@dataclass(frozen=True)
class Fitted:
    """A network as an MLP has it, and what is known of it.

    It may be the network of all outputs, or of one of them; shapes are those of
    an MLP, with as many outputs as it is for.  Gated networks have a column of
    `gates` for each neuron.
    """

    hidden: np.ndarray
    hidden_bias: np.ndarray
    output: np.ndarray
    output_bias: np.ndarray
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
    table = np.column_stack([X[used], y[used]]) + 0.0  # no negative zeros
    table, inverse = np.unique(table, axis=0, return_inverse=True)
    weight = np.bincount(inverse.ravel(), weights=sample_weight[used])
    X, Y = np.hsplit(np.ascontiguousarray(table), [X.shape[1]])
    return np.ascontiguousarray(X), Y.reshape(len(Y), *y.shape[1:]), weight


def fit_network(X, y, sample_weight, known, seed, deadline, name, params, task):
    """Train the network of one output, or that of several which share it.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
    sample_weight : ndarray of shape (n_samples,)
    known : tuple (gates, outputs) or None
        Neurons of an earlier fit, as rows, with their output weights.
    seed : int
    deadline : float
    name : str
        What the lines of `verbose` call this network.
    params : dict
        Parameters of the estimator, and the loss object.
    task : FitTask
        Has begun; its subtasks are the rounds.

    Returns
    -------
    fitted : Fitted
    """
    X, y, sample_weight = canonical(X, y, sample_weight)
    if params["formulation"] == "gated_relu":
        return _fit_gated(X, y, sample_weight, seed, deadline, name, params)
    free_bias = params["fit_intercept"]
    # Free biases absorb a shift of the data; without it, less is lost to rounding.
    centre = X.mean(axis=0) if free_bias else np.zeros(X.shape[1])
    if known is not None:
        known = _unit_gates(*known, centre, free_bias)
    kind, run, to_weights = Problem, train, network_weights
    options = {}
    if y.ndim == 2:
        kind, run, to_weights = VectorProblem, train_outputs, vector_network_weights
        options["separate"] = params["hidden_layer"] == "separate"
    problem = kind(
        without_rounding(X - centre),
        y,
        sample_weight,
        params["loss"],
        params["alpha"],
        free_bias,
        params["negative_slope"],
        **options,
    )

    def weights(neurons):
        hidden, hidden_bias, output, output_bias = to_weights(neurons, problem.X)
        if y.ndim == 1:
            output, output_bias = output[:, None], np.array([output_bias])
        return hidden, hidden_bias - centre @ hidden, output, output_bias

    task = task.through(weights)
    known = None if known is None else problem.unused(*known)
    with blas_threads_for(len(X)):
        trained = run(problem, known, seed, deadline, name, params, task)
        if params["minimal"]:
            trained = _minimal(problem, trained, deadline, name, params)
    return Fitted(
        *weights(trained.neurons),
        null_objective=problem.objective(problem.null()),
        trained=trained,
    )


def _fit_gated(X, y, sample_weight, seed, deadline, name, params):
    """Train a gated network on given patterns."""
    Y, loss, free_bias = y, params["loss"], params["fit_intercept"]
    if y.ndim == 1:
        Y, loss = y[:, None], Separable(loss)
    # As for ReLU networks, gates are drawn for centred data.
    centre = X.mean(axis=0) if free_bias else np.zeros(X.shape[1])
    arrangement = given_arrangement(
        without_rounding(X - centre), params, free_bias, seed
    )
    if free_bias:
        gates = arrangement.gates.copy()
        gates[:, -1] -= gates[:, :-1] @ centre
        arrangement = replace(arrangement, gates=gates)
    with blas_threads_for(len(X)):
        network = solve_gated(
            X,
            Y,
            sample_weight,
            loss,
            params["alpha"],
            arrangement,
            fit_intercept=free_bias,
            # A little room for the rounding of the weights.
            tol=0.9 * params["tol"],
            max_iter=_GATED_STEPS * params["max_iter"],
            deadline=deadline,
        )
    history = network.history
    unknown = np.full(len(history["time"]), np.nan)
    if params["verbose"]:
        print(
            f"[{name}] {len(arrangement)} patterns, {len(network.hidden.T)} gated "
            f"neurons after {network.n_iter} iterations, objective "
            f"{network.objective:.8g}, dual bound {network.dual_bound:.8g}"
        )
    zeros = np.zeros(Y.shape)
    null = zeros + (loss.best_offset(zeros, Y, sample_weight) if free_bias else 0.0)
    return Fitted(
        hidden=network.hidden,
        hidden_bias=np.zeros(network.hidden.shape[1]),
        output=network.output,
        output_bias=network.offset,
        gates=network.gates,
        null_objective=loss.value(null, Y, sample_weight),
        trained=Trained(
            neurons=None,
            dual_bound=network.dual_bound,
            certificate="global" if arrangement.complete else "restricted",
            status=network.status,
            message=MESSAGES[network.status],
            n_iter=int(np.ceil(network.n_iter / _GATED_STEPS)),
            n_patterns=len(arrangement),
            history={
                "time": history["time"],
                "objective": history["objective"],
                "dual_bound": history["dual_bound"],
                "kappa": unknown,
                "cells": history["active"],
                "neurons": unknown,
            },
        ),
    )


def _unit_gates(gates, outputs, centre, free_bias):
    """Directions of length one, biases and output weights, in centred data."""
    directions = gates[:, : len(centre)]
    norms = np.linalg.norm(directions, axis=1)
    used = norms > 0
    directions = directions[used] / norms[used, None]
    biases = np.zeros(len(directions))
    if free_bias:
        biases = gates[used, -1] / norms[used] + directions @ centre
    return directions, biases, outputs[used]


def fit_only(*args):
    """`fit_network` of the only network, whose task is the fit."""
    *args, task = args
    return fit_network(*args, task.through(_network_attributes))


def fit_part(*args):
    """`fit_network` of one output among several, a task of its own."""
    *args, task = args
    # It does not make an estimator that could predict.
    fitted = fit_network(*args, task.begin().through(lambda weights: None))
    task.end()
    return fitted


def _network_attributes(weights):
    """Attributes of an estimator with this network."""
    hidden, hidden_bias, output, output_bias = weights
    return {
        "coefs_": [hidden, output],
        "intercepts_": [hidden_bias, output_bias],
        "n_outputs_": output.shape[1],
    }


def _minimal(problem, trained, deadline, name, params):
    """The same with the smallest network that `tol` allows."""
    objective = problem.objective(trained.neurons)
    search = smallest_network
    if isinstance(problem, VectorProblem):
        search = vector_smallest_network
    neurons = search(
        problem,
        trained.neurons,
        allowed_objective(objective, trained.dual_bound, params["tol"]),
        # A bound for sampled cells does not hold outside of them, and neurons on
        # the border of two would not stay in theirs.
        only_subsets=trained.certificate == "restricted",
        deadline=deadline,
    )
    if params["verbose"]:
        print(
            f"[{name}] smallest network found: {len(neurons)} of "
            f"{len(trained.neurons)} neurons, objective "
            f"{problem.objective(neurons):.8g} after {objective:.8g}"
        )
    return replace(trained, neurons=neurons)
