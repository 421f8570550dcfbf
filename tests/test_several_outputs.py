"""Column generation for several outputs, and the solver of its master program."""

import itertools
from dataclasses import astuple, replace

import cvxpy as cp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from sklearn_convexnn._sklearn import FitTask
from sklearn_convexnn.families.simplify import prune, simplify
from sklearn_convexnn.families.two_layer.placing import (
    improve_neurons,
    place_neurons,
)
from sklearn_convexnn.families.two_layer.pricing import search_widely
from sklearn_convexnn.families.two_layer.recovery import layers_of_neurons
from sklearn_convexnn.losses import Separable, Softmax, make_loss
from sklearn_convexnn.model.network import Network
from sklearn_convexnn.model.settings import Limits
from sklearn_convexnn.model.windows import dense, grouped
from sklearn_convexnn.patterns.arrangements import (
    enumerate_arrangement,
    sample_arrangement,
)
from sklearn_convexnn.solvers.descent import Descent
from sklearn_convexnn.solvers.group_lasso import solve_output_weights
from sklearn_convexnn.solvers.group_lasso_descent import improve_outputs
from sklearn_convexnn.solvers.weights import Weights
from sklearn_convexnn.training.column_generation import Run, generate_neurons
from sklearn_convexnn.training.lifted import lifted_bound
from sklearn_convexnn.training.proving import prove
from sklearn_convexnn.training.smallest_by_descent import smallest_by_descent
from tests.problems import LOSSES, as_targets, two_layer_problem
from tests.test_formulations import separate_program

NAMES = ("softmax", *LOSSES)


def make_problem(
    name,
    bias=False,
    *,
    n=30,
    d=3,
    c=3,
    alpha=0.3,
    slope=0.0,
    seed=0,
    weighted=True,
):
    """A smooth function of the inputs with noise, for each output."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    X = X - bias * X.mean(axis=0)
    F = np.sin(2 * X @ rng.standard_normal((d, c))) + 0.3 * rng.standard_normal((n, c))
    s = rng.uniform(0.5, 2.0, n) if weighted else np.ones(n)
    if name == "softmax":
        F[:c] = np.eye(c)
        Y, loss = np.eye(c)[np.argmax(F, axis=1)], Softmax()
    else:
        Y, loss = as_targets(name, F), Separable(make_loss(name, 0.5, 0.3))
    return two_layer_problem(X, Y, s, loss, alpha, bias, slope)


def network_objective(problem, neurons):
    """Loss and weight decay of the weights of an MLP, written down once more."""
    (hidden, output), (hidden_bias, output_bias) = layers_of_neurons(neurons, problem.X)
    z = problem.X @ hidden + hidden_bias
    z = np.where(z > 0, z, problem.family.negative_slope * z)
    decay = np.sum(hidden**2) + np.sum(output**2)
    F = z @ output + output_bias
    value = problem.loss.value(F, problem.Y, problem.sample_weight)
    return value + 0.5 * problem.alpha * decay


def loss_expression(name, F, Y, s):
    weight = np.repeat(s[:, None], Y.shape[1], axis=1)
    margin = None if name == "softmax" else cp.multiply(Y, F)
    if name == "softmax":
        own = cp.sum(cp.multiply(Y, F), axis=1)
        return cp.sum(cp.multiply(s, cp.log_sum_exp(F, axis=1) - own))
    if name == "quantile":
        terms = 0.3 * cp.pos(Y - F) + 0.7 * cp.pos(F - Y)
    elif name == "poisson":
        constant = np.where(Y > 0, Y * np.log(np.maximum(Y, 1e-300)) - Y, 0.0)
        terms = cp.exp(F) - margin + constant
    else:
        terms = {
            "squared_error": lambda: 0.5 * cp.square(F - Y),
            "huber": lambda: 0.5 * cp.huber(F - Y, 0.5),
            "log_loss": lambda: cp.logistic(-margin),
            "squared_hinge": lambda: cp.square(cp.pos(1 - margin)),
            "hinge": lambda: cp.pos(1 - margin),
        }[name]()
    return cp.sum(cp.multiply(weight, terms))


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("name", NAMES)
# Fewer features than samples, and more, with one and with several of each unit.
@pytest.mark.parametrize("n_units, n_windows", [(12, 1), (40, 1), (5, 3), (14, 4)])
def test_group_lasso_against_a_conic_solver(name, free, n_units, n_windows):
    p = make_problem(name, n=30)
    rng = np.random.default_rng(1)
    width = n_units * n_windows
    Z = np.maximum(p.X @ rng.standard_normal((3, width)) + 0.3, 0.0)
    found = solve_output_weights(
        Z, p.Y, p.sample_weight, p.loss, 0.7, free_offset=free, n_windows=n_windows
    )
    G, b = cp.Variable((width, 3)), cp.Variable((1, 3))
    F = Z @ G + (np.ones((30, 1)) @ b if free else 0.0)
    groups = [cp.vec(G[k::n_units], order="F") for k in range(n_units)]
    norms = cp.sum([cp.norm(group) for group in groups])
    value = loss_expression(name, F, p.Y, p.sample_weight) + 0.7 * norms
    problem = cp.Problem(cp.Minimize(value))
    # With its own tolerance of 1e-8 the solver fails on some squares of kinks.
    gaps = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-07)
    expected = problem.solve(solver="CLARABEL", **gaps)
    assert_allclose(found.objective, expected, rtol=1e-6)
    assert found.dual_bound <= expected * (1 + 2e-7)
    assert found.objective - found.dual_bound <= 1e-7 * found.objective
    outputs = Z @ dense(found.values, n_windows) + found.offset
    sizes = np.linalg.norm(found.values, axis=1)
    value = p.loss.value(outputs, p.Y, p.sample_weight) + 0.7 * np.sum(sizes)
    assert_allclose(value, found.objective, rtol=1e-6)
    norms = np.linalg.norm(grouped(Z.T @ found.N, n_windows), axis=1)
    assert np.max(norms) <= 0.7 * (1 + 1e-9)
    assert not free or np.max(np.abs(found.N.sum(axis=0))) < 1e-6


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("name", ["softmax", "squared_error", "poisson"])
def test_descent_with_fixed_directions_reaches_the_group_lasso(name, free):
    p = make_problem(name, free, n=40, alpha=1.0)
    placed = place_neurons(p, 10, np.random.RandomState(0))
    new = p.unused(p.family.neurons(np.eye(3), np.zeros(3)))
    neurons = replace(placed.joined(new), offset=placed.offset)
    Z = p.family.features(neurons.units)
    expected = solve_output_weights(
        Z, p.Y, p.sample_weight, p.loss, 1.0, free_offset=free
    )
    outputs, offset = improve_outputs(p, neurons, Z, max_iter=2000)
    moved = p.objective(replace(neurons, outputs=outputs, offset=offset))
    assert expected.objective * (1 - 1e-7) <= moved
    assert moved <= expected.objective * (1 + 1e-4)


@pytest.mark.parametrize("free", [False, True])
def test_gradient_of_the_descent(free):
    """The direction of descent from a point where nothing is special."""
    p = make_problem("softmax", free)
    rng = np.random.default_rng(0)
    W, V, bias = (rng.standard_normal(shape) for shape in ((3, 5), (5, 3), 5))
    linear = np.arange(5) == 2

    def value(W, V, bias, linear, offset):
        z = p.X @ W + np.where(linear, 0.0, bias) * free
        F = np.where(linear, z, np.maximum(z, 0.0)) @ V + offset
        return p.value(F) + 0.15 * (np.sum(W**2) + np.sum(V**2))

    start = Weights(W, V, bias * free, linear, np.zeros(3))
    values = [value(*astuple(start))]
    for steps in (1, 5, 50):
        values.append(value(*astuple(Descent(p, start).run(steps))))
    assert np.all(np.diff(values) < 0)
    end = Descent(p, start).run(2000)

    def near(part):
        return part + 1e-4 * rng.standard_normal(part.shape)

    for _ in range(20):
        moved = replace(end, hidden=near(end.hidden), output=near(end.output))
        if free:
            moved = replace(moved, bias=near(end.bias), offset=near(end.offset))
        assert value(*astuple(moved)) > value(*astuple(end)) - 1e-6


# Seeds do not matter: with two features the lifted relaxation is exact.
@pytest.mark.parametrize(
    "name, seed",
    [
        ("softmax", 0),
        ("squared_error", 0),
        ("huber", 0),
        ("squared_hinge", 0),
        *[
            pytest.param(*case, marks=pytest.mark.slow)
            for case in itertools.product(("softmax", "squared_error"), (1, 2))
        ],
    ],
)
def test_reaches_the_optimum_over_all_patterns(name, seed):
    p = make_problem(name, n=7, d=2, alpha=0.2, seed=seed)
    lifted = lifted_bound(
        p.X, p.Y, p.sample_weight, p.loss, 0.2, enumerate_arrangement(p.X)
    )
    found = generate_neurons(p, np.random.RandomState(0), Limits(tol=2e-7))
    assert found.status == "optimal"
    assert_allclose(found.objective, lifted.value, rtol=1e-6)
    # Neither a larger nor a smaller penalty has this optimum.
    for factor in (0.5, 2.0):
        other = replace(p, alpha=factor * p.alpha)
        wrong = generate_neurons(other, np.random.RandomState(0), Limits(tol=1e-4))
        assert abs(wrong.objective - lifted.value) > 0.05 * lifted.value
    neurons = simplify(p, found.neurons)
    assert_allclose(network_objective(p, neurons), p.objective(neurons), rtol=1e-10)
    assert p.objective(neurons) <= found.objective * (1 + 1e-9)
    assert len(neurons) <= p.Y.size
    proof = prove(p, found, 1e-6, np.inf)
    assert proof.closed and proof.dual_bound <= lifted.value * (1 + 1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "softmax",
        "squared_error",
        pytest.param("squared_hinge", marks=pytest.mark.slow),
    ],
)
def test_between_programs_of_neurons_that_feed_one_output(name):
    p = make_problem(name, n=7, d=2, alpha=0.2)
    patterns = enumerate_arrangement(p.X).patterns
    found = generate_neurons(p, np.random.RandomState(0), Limits(tol=1e-6))
    args = name, p.X, p.Y, p.sample_weight
    assert found.objective < separate_program(*args, 0.2, patterns)
    # The norm of three numbers is at least their sum divided by the root of three.
    assert found.objective > separate_program(*args, 0.2 / np.sqrt(3), patterns)


QUICK = [("softmax", True, 0.0), ("squared_error", False, 0.1)]
OTHERS = [
    *itertools.product(NAMES, (False, True), (0.0,)),
    *itertools.product(("softmax", "huber"), (False, True), (0.1, -1.0)),
]


@pytest.mark.parametrize(
    "name, bias, slope",
    QUICK
    + [
        pytest.param(*case, marks=pytest.mark.slow)
        for case in OTHERS
        if case not in QUICK
    ],
)
def test_bounds_of_any_run_hold_for_every_network(name, bias, slope):
    p = make_problem(name, bias, slope=slope, n=25)
    runs = [
        generate_neurons(p, np.random.RandomState(seed), Limits(tol=tol, max_iter=30))
        for seed, tol in ((0, 1e-2), (1, 1e-3))
    ]
    best = min(run.objective for run in runs)
    for run in runs:
        # The search is not a proof.
        assert run.dual_bound <= best * (1 + 1e-4)
        assert_allclose(p.objective(run.neurons), run.objective, rtol=1e-9)
        neurons = simplify(p, run.neurons)
        assert_allclose(network_objective(p, neurons), p.objective(neurons), rtol=1e-9)
    if name not in ("hinge", "quantile"):
        assert runs[0].status == "optimal"
    assert runs[0].objective <= 1.02 * best


@pytest.mark.slow
def test_the_best_network_is_reached_by_no_local_training():
    p = make_problem("softmax", True, n=60, d=4, alpha=0.5)
    found = generate_neurons(p, np.random.RandomState(0), Limits(tol=1e-3))
    assert found.status == "optimal"
    for seed in range(5):
        placed = place_neurons(p, 50, np.random.RandomState(seed), max_iter=2000)
        assert p.objective(placed) >= found.dual_bound
        assert p.objective(placed) >= found.objective * (1 - 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", ["softmax", "squared_error"])
def test_largest_alpha_with_neurons(name, bias):
    p = make_problem(name, bias)
    N = p.dual_point(p.outputs(p.null()))
    found = search_widely(p.X, N, 200, np.random.RandomState(0), free_bias=bias)
    largest = found.slopes[0]
    if bias:
        largest = max(largest, np.linalg.norm(p.X.T @ N, 2))
    for factor, count in ((1.001, 0), (0.99, 1)):
        some = replace(p, alpha=factor * largest)
        run = generate_neurons(some, np.random.RandomState(0), Limits(tol=1e-8))
        assert min(len(simplify(some, run.neurons)), 1) == count


def test_restricted_to_patterns():
    p = make_problem("softmax", n=7, d=2, alpha=0.2)
    arrangement = sample_arrangement(p.X, 5, random_state=0)
    expected = lifted_bound(p.X, p.Y, p.sample_weight, p.loss, 0.2, arrangement).value
    found = generate_neurons(
        p, np.random.RandomState(0), Limits(tol=1e-6), arrangement=arrangement
    )
    assert_allclose(found.objective, expected, rtol=5e-6)
    patterns = p.X @ found.neurons.units.directions.T > 1e-9
    closed = p.X @ found.neurons.units.directions.T >= -1e-9
    for active, maybe in zip(patterns.T, closed.T):
        fits = ~np.any(active & ~arrangement.patterns, axis=1)
        assert np.any(fits & ~np.any(~maybe & arrangement.patterns, axis=1))


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1, 4])
def test_limit_of_neurons(limit):
    p = make_problem("softmax", True, n=60, d=4, alpha=0.2)
    found = generate_neurons(
        p, np.random.RandomState(0), Limits(tol=1e-3, max_neurons=limit)
    )
    assert found.status == "max_neurons" and len(found.neurons) <= limit
    placed = place_neurons(p, limit, np.random.RandomState(0), max_iter=2000)
    assert found.objective <= 1.05 * p.objective(placed)


@pytest.mark.slow
def test_known_neurons_are_a_start():
    p = make_problem("squared_error", True, n=40)
    found = generate_neurons(p, np.random.RandomState(0), Limits(tol=1e-3))
    known = p.unused(found.neurons.units)
    again = generate_neurons(p, np.random.RandomState(1), Limits(tol=1e-3), known=known)
    assert again.n_iter <= found.n_iter
    assert again.objective <= found.objective * (1 + 1e-3)


def test_neurons_that_cancel_are_dropped():
    p = make_problem("squared_error", n=20, alpha=1e-3)
    directions = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    outputs = np.array([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0], [0.5, 0.0, 0.2]])
    neurons = Network(p.family.neurons(directions, np.zeros(3)), outputs, np.zeros(3))
    # Targets that the last neuron fits.
    p = replace(p, Y=p.outputs(neurons))
    neurons = simplify(p, neurons)
    assert len(neurons) == 1
    assert_allclose(neurons.outputs, outputs[2:], atol=1e-12)
    assert_allclose(network_objective(p, neurons), p.objective(neurons), rtol=1e-10)


def test_prune_to_independent_outputs():
    p = make_problem("squared_error", n=4, d=2, c=2)
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((30, 2))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    units = p.family.neurons(directions, np.zeros(30))
    neurons = Network(units, rng.standard_normal((30, 2)), np.zeros(2))
    pruned = prune(p, neurons)
    assert len(pruned) <= 8
    assert_allclose(p.outputs(pruned), p.outputs(neurons), atol=1e-9)
    assert np.sum(pruned.sizes) <= np.sum(neurons.sizes) * (1 + 1e-9)


@pytest.mark.slow
def test_smaller_networks():
    p = make_problem("softmax", True, n=60, d=4, alpha=0.2)
    found = generate_neurons(p, np.random.RandomState(0), Limits(tol=1e-3))
    neurons = simplify(p, found.neurons)
    small = smallest_by_descent(p, neurons, 1.02 * found.objective)
    assert p.objective(small) <= 1.02 * found.objective
    assert len(small) < 0.7 * len(neurons)
    same = smallest_by_descent(p, neurons, p.objective(neurons))
    assert len(same) <= len(neurons)
    assert len(smallest_by_descent(p, neurons, 1e9)) == 0


@pytest.mark.slow
def test_exact_steps_of_one_output_end_where_others_do():
    p = make_problem("squared_error", True, c=1, n=40)
    one = generate_neurons(p, np.random.RandomState(0), Limits(tol=1e-4))
    run = Run(p, np.random.RandomState(0), Limits(1e-4))
    several = run.solve(100, None, (), None, FitTask())
    assert_allclose(one.objective, several.objective, rtol=2e-4)
    assert several.dual_bound <= one.objective * (1 + 1e-6)


@pytest.mark.parametrize("name", ["softmax", "squared_error"])
def test_improving_never_makes_it_worse(name):
    p = make_problem(name, True)
    placed = place_neurons(p, 10, np.random.RandomState(0), max_iter=20)
    assert_allclose(np.linalg.norm(placed.units.directions, axis=1), 1.0)
    assert p.objective(improve_neurons(p, placed)) < p.objective(placed)


@pytest.mark.parametrize("name", NAMES)
def test_losses_of_several_outputs(name):
    p = make_problem(name, n=12)
    loss, Y, s = p.loss, p.Y, p.sample_weight
    rng = np.random.default_rng(0)
    F = rng.standard_normal(Y.shape)
    if loss.smooth:
        step = 1e-6 * rng.standard_normal(Y.shape)
        change = loss.value(F + step, Y, s) - loss.value(F - step, Y, s)
        assert_allclose(change, 2 * np.sum(loss.gradient(F, Y, s) * step), rtol=1e-4)
        N = -loss.gradient(F, Y, s)
        dual = np.sum(loss.dual_terms(N, Y, s))
        assert_allclose(dual - np.sum(N * F), loss.value(F, Y, s), rtol=1e-8)
    b = loss.best_offset(F, Y, s)
    best = loss.value(F + b, Y, s)
    for k in range(Y.shape[1]):
        for size in (-1e-3, 1e-3):
            assert loss.value(F + b + size * np.eye(3)[k], Y, s) >= best - 1e-10
    assert name != "softmax" or abs(b.sum()) < 1e-12
    centred = loss.project_dual(-loss.gradient(F + b, Y, s), Y, s, centred=True)
    assert np.max(np.abs(centred.sum(axis=0))) < 1e-9
    lower, upper = loss.dual_bounds(Y, s)
    assert np.all(centred >= lower - 1e-12) and np.all(centred <= upper + 1e-12)


def test_offset_of_a_class_without_samples():
    loss, s = Softmax(), np.ones(4)
    Y = np.eye(3)[[0, 1, 0, 1]]
    b = loss.best_offset(np.zeros((4, 3)), Y, s)
    assert_allclose(loss.value(np.zeros((4, 3)) + b, Y, s), 4 * np.log(2))
    N = loss.project_dual(-loss.gradient(np.zeros((4, 3)) + b, Y, s), Y, s, True)
    assert np.all(N[:, 2] == 0)


def test_binary_softmax_is_another_program_than_the_log_loss():
    """Its outputs share the logit, so that it is penalised less."""
    p = make_problem("softmax", True, c=2, n=40, alpha=0.3)
    y = p.Y[:, 1] - p.Y[:, 0]
    one = two_layer_problem(
        p.X,
        y[:, None],
        p.sample_weight,
        Separable(make_loss("log_loss")),
        0.3 / np.sqrt(2),
        True,
        0.0,
    )
    rng = np.random.RandomState(0)
    two, single = (generate_neurons(q, rng, Limits(tol=1e-4)) for q in (p, one))
    assert_allclose(two.objective, single.objective, rtol=2e-4)
