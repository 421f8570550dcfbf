"""Small problems, and an independent trainer of the non-convex objective."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from sklearn_convexnn.families.subnetworks.family import ParallelSubnetworks
from sklearn_convexnn.families.two_layer.family import TwoLayer
from sklearn_convexnn.families.two_layer.neurons import Neurons, activation
from sklearn_convexnn.losses import (
    CLASSIFICATION_LOSSES,
    REGRESSION_LOSSES,
    Separable,
    make_loss,
)
from sklearn_convexnn.model.network import Network
from sklearn_convexnn.model.problem import Problem
from sklearn_convexnn.patterns.arrangements import enumerate_arrangement
from sklearn_convexnn.programs.two_layer import TwoLayerProgram

LOSSES = REGRESSION_LOSSES + CLASSIFICATION_LOSSES
# For tests that take long, and of which the other losses see other parts.
FEW_LOSSES = ("squared_error", "huber", *CLASSIFICATION_LOSSES)
EPSILON = 0.5
QUANTILE = 0.3


def loss_of(name):
    """The loss of this name, with parameters that are not the defaults."""
    return make_loss(name, EPSILON, QUANTILE)


def as_targets(loss, y, threshold=0.0):
    """Real numbers made into targets that the loss takes."""
    if loss in CLASSIFICATION_LOSSES:
        return np.where(y > threshold, 1.0, -1.0)
    if loss == "poisson":
        return np.maximum(np.exp(y) - 0.5, 0.0)
    return y


def tiny_data(loss, n=8, d=2, seed=0, weighted=False):
    """Random data without structure, so that nothing is optimal by accident."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    y = np.sin(2 * X[:, 0]) + 0.5 * rng.standard_normal(n)
    y = as_targets(loss, y, np.median(y))
    s = rng.uniform(0.5, 2.0, n) if weighted else np.ones(n)
    return X, y, s


def product_of_signs(n, d, of=4):
    """Random signs, and the product of the first few columns as targets.

    No sum of functions of one column is of use, nor of fewer columns than these.
    """
    X = np.random.default_rng(0).choice([-1.0, 1.0], size=(n, d))
    return X, X[:, :of].prod(axis=1)


def make_program(loss, X, y, s, alpha, *, bias=False, slope=0.0, arrangement=None):
    """Program over all patterns, or over those of `arrangement`."""
    if arrangement is None:
        arrangement = enumerate_arrangement(X, free_bias=bias)
    problem = problem_of_one(X, y, s, loss_of(loss), alpha, bias, slope)
    return TwoLayerProgram(problem, arrangement)


def network_objective(loss, X, y, s, alpha, W, b, a, c, slope=0.0):
    """The weight-decay objective, written down once more from its definition."""
    f = activation(X @ W + b, slope) @ a + c
    penalty = 0.5 * alpha * (np.sum(W**2) + np.sum(a**2))
    return loss_of(loss).value(f, y, s) + penalty


def train_network(
    loss, X, y, s, alpha, *, bias=False, slope=0.0, width=50, n_starts=20, seed=0
):
    """Best objective of local trainings from random starts."""
    rng = np.random.default_rng(seed)
    n, d = X.shape
    term = loss_of(loss)
    free = 1.0 if bias else 0.0

    def split(v):
        W = v[: d * width].reshape(d, width)
        b = v[d * width : (d + 1) * width]
        return W, b, v[(d + 1) * width : (d + 2) * width], v[-1]

    def value_and_gradient(v, temperature):
        W, b, a, c = split(v)
        z = X @ W + free * b
        if temperature:
            positive = temperature * np.logaddexp(0.0, z / temperature)
            active = expit(z / temperature)
        else:
            positive, active = np.maximum(z, 0.0), z > 0
        h = slope * z + (1.0 - slope) * positive
        f = h @ a + free * c
        value, g = term.value(f, y, s), term.gradient(f, y, s)
        if temperature and loss == "hinge":
            margin = (1.0 - y * f) / temperature
            value = temperature * np.sum(s * np.logaddexp(0.0, margin))
            g = -s * y * expit(margin)
        elif temperature and loss == "quantile":
            distance = (f - y) / temperature
            soft = np.logaddexp(0.0, distance) - QUANTILE * distance
            value = temperature * np.sum(s * soft)
            g = s * (expit(distance) - QUANTILE)
        dz = (slope + (1.0 - slope) * active) * np.outer(g, a)
        gradient = np.concatenate(
            [
                (X.T @ dz + alpha * W).ravel(),
                free * dz.sum(axis=0),
                h.T @ g + alpha * a,
                [free * g.sum()],
            ]
        )
        penalty = 0.5 * alpha * (np.sum(W**2) + np.sum(a**2))
        return value + penalty, gradient

    best = np.inf
    for _ in range(n_starts):
        start = rng.standard_normal((d + 2) * width + 1)
        # Neurons end on kinks; a softened network gets there smoothly.
        for temperature in (0.1, 0.01, 0.001, 0.0):
            found = minimize(
                value_and_gradient,
                start,
                args=(temperature,),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": 300, "ftol": 1e-14, "gtol": 1e-9},
            )
            start = found.x
        best = min(best, found.fun)
    return best


def problem_of(program, X):
    """The training problem that `program`, on the data `X`, is restricted from."""
    return problem_of_one(
        X,
        program.y,
        program.sample_weight,
        program.loss,
        program.alpha,
        program.fit_intercept,
        program.operator.negative_slope,
    )


def problem_of_one(X, y, s, loss, alpha, bias=False, slope=0.0, **options):
    """The training problem of one output."""
    Y, loss = y[:, None], Separable(loss)
    return two_layer_problem(X, Y, s, loss, alpha, bias, slope, **options)


def two_layer_problem(X, Y, s, loss, alpha, bias, slope=0.0, **options):
    """The training problem of two-layer networks."""
    return Problem(TwoLayer(X, bias, slope, **options), Y, s, loss, alpha)


def subnetwork_problem(X, Y, s, loss, alpha, bias, architecture):
    """The training problem of parallel sub-networks."""
    return Problem(ParallelSubnetworks(X, bias, architecture), Y, s, loss, alpha)


def network_of_one(directions, biases, coefficients, linear, offset):
    """A two-layer network of one output, without a problem."""
    units = Neurons(directions, biases, linear)
    return Network.of_one_output(units, coefficients, offset)


def unit_outputs(network, X, slope=0.0):
    """Outputs of the units of a network, shape (n_samples, n_neurons)."""
    units = network.units
    z = X @ units.directions.T + units.biases
    return np.where(units.linear, z, activation(z, slope))


def outputs_of(neurons, X, slope=0.0):
    """Outputs of a network of one output, shape (n_samples,)."""
    return (unit_outputs(neurons, X, slope) @ neurons.outputs + neurons.offset)[:, 0]
