from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sklearn_convexnn.families.simplify import prune, simplify
from sklearn_convexnn.families.two_layer.recovery import (
    layers_of_neurons,
    merge_parallel,
    neurons_from_blocks,
)
from sklearn_convexnn.patterns.arrangements import sample_arrangement
from sklearn_convexnn.solvers import solve_interior_point
from tests.problems import (
    LOSSES,
    loss_of,
    make_program,
    network_objective,
    network_of_one,
    outputs_of,
    problem_of,
    problem_of_one,
    tiny_data,
    unit_outputs,
)

ALPHA = 0.3


def solved(loss="squared_error", bias=True, tol=1e-9, n=20, slope=0.0):
    X, y, s = tiny_data(loss, n=n, d=3, weighted=True)
    arrangement = sample_arrangement(X, 40, free_bias=bias, random_state=0)
    program = make_program(
        loss, X, y, s, ALPHA, bias=bias, slope=slope, arrangement=arrangement
    )
    result = solve_interior_point(program, tol=tol)
    neurons = neurons_from_blocks(program, result.theta, result.offset)
    return program, result, X, neurons


@pytest.mark.parametrize("slope", [0.0, 0.3, -1.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_network_has_the_value_of_the_program(loss, bias, slope):
    program, result, X, neurons = solved(loss, bias, slope=slope)
    value = problem_of(program, X).objective(neurons)
    assert_allclose(value, result.objective, rtol=1e-9)
    (W, a), (b, c) = layers_of_neurons(neurons, X)
    weights = W, b, a[:, 0], c[0]
    data = X, program.y, program.sample_weight
    explicit = network_objective(loss, *data, ALPHA, *weights, slope=slope)
    assert_allclose(explicit, result.objective, rtol=1e-9)
    # Both layers of a neuron have the same norm.
    assert_allclose(np.linalg.norm(weights[0], axis=0), np.abs(weights[2]))
    if not bias:
        assert not weights[1].any() and weights[3] == 0


@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-9])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_simplify_never_raises_the_objective(loss, bias, tol):
    program, _, X, neurons = solved(loss, bias, tol)
    small = simplify(problem_of(program, X), neurons)
    before = problem_of(program, X).objective(neurons)
    assert problem_of(program, X).objective(small) <= before * (1 + 1e-11)
    assert len(small) <= len(X)
    if tol == 1e-9:
        assert len(small) <= len(neurons)
    Z = unit_outputs(small, X)
    assert np.linalg.matrix_rank(Z, tol=1e-10) == len(small)


def test_merging_parallel_neurons_changes_nothing():
    program, _, X, neurons = solved()
    small = simplify(problem_of(program, X), neurons)
    halves = small.joined(small)
    halves = replace(halves, outputs=halves.outputs / 2)
    merged = merge_parallel(halves)
    assert len(merged) == len(small)
    assert_allclose(np.sort(merged.sizes), np.sort(small.sizes), rtol=1e-12)
    assert_allclose(outputs_of(small, X), outputs_of(merged, X), atol=1e-12)


def test_neurons_of_opposite_sign_cancel():
    program, _, X, neurons = solved()
    one = neurons.select([0])
    other = replace(one, outputs=-0.25 * one.outputs)
    merged = merge_parallel(one.joined(other))
    assert len(merged) == 1
    assert_allclose(merged.outputs, 0.75 * one.outputs)


def test_pruning_keeps_outputs_and_does_not_raise_the_penalty():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((7, 3))
    directions = rng.standard_normal((30, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    neurons = network_of_one(
        directions,
        rng.standard_normal(30),
        rng.uniform(0.1, 1.0, 30) * rng.choice([-1.0, 1.0], 30),
        np.zeros(30, dtype=bool),
        0.5,
    )
    pruned = prune(plain_problem(X), neurons)
    assert len(pruned) <= np.linalg.matrix_rank(unit_outputs(neurons, X)) <= 7
    assert_allclose(outputs_of(pruned, X), outputs_of(neurons, X), atol=1e-10)
    assert pruned.sizes.sum() <= neurons.sizes.sum() + 1e-12
    assert pruned.sizes.min() > 0


def plain_problem(X):
    loss = loss_of("squared_error")
    return problem_of_one(X, np.zeros(len(X)), np.ones(len(X)), loss, 1.0, True)


def test_pruning_drops_neurons_that_are_off():
    X = np.ones((4, 1))
    neurons = network_of_one(
        np.array([[1.0], [-1.0]]), np.zeros(2), np.ones(2), np.zeros(2, bool), 0.0
    )
    assert len(prune(plain_problem(X), neurons)) == 1


def test_linear_term_stays_linear_a_range_beyond_the_data():
    """The neuron of the linear block is active on the data, and around them."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (30, 2))
    direction = np.array([[0.6, -0.8]])
    for sign in (1.0, -1.0):
        neurons = network_of_one(
            direction, np.zeros(1), np.array([2.0 * sign]), np.ones(1, bool), 3.0
        )
        (W, a), (b, c) = layers_of_neurons(neurons, X)
        z = X @ direction[0]
        assert_allclose((X @ W + b).min(), np.ptp(z) * 2**0.5)
        for factor in (1.0, 1.9):
            f = np.maximum(factor * X @ W + b, 0) @ a + c
            assert_allclose(f[:, 0], 2.0 * sign * factor * z + 3.0)


def test_linear_data_cost_the_norm_of_their_slope():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (30, 2))
    program = make_program(
        "squared_error", X, X @ [1.0, -2.0] + 3.0, np.ones(30), 1e-3, bias=True
    )
    result = solve_interior_point(program, tol=1e-10)
    assert_allclose(result.objective, 1e-3 * 5**0.5, rtol=1e-2)


def test_network_without_neurons():
    program, _, X, neurons = solved()
    empty = neurons.select(slice(0, 0))
    (W, a), (b, c) = layers_of_neurons(empty, X)
    assert W.shape == (3, 0) and b.shape == (0,) and a.shape == (0, 1)
    assert len(simplify(problem_of(program, X), empty)) == 0


def test_units_without_outputs_are_dropped():
    """Their weights would be zero divided by zero."""
    X, y, s = tiny_data("squared_error", n=20, d=3)
    problem = problem_of_one(X, y, s, loss_of("squared_error"), 1e-3)
    units = problem.family.random(3, np.random.RandomState(0))
    Z = problem.family.features(units)
    # The second unit is small and not to be missed, the last one is rounding.
    outputs = np.zeros((3, 1))
    outputs[0] = 0.5 * (s * y @ Z[:, 0]) / (s * Z[:, 0] @ Z[:, 0])
    residual = s * (y - Z @ outputs[:, 0])
    sizes = np.abs(outputs[0]) * np.array([5e-9, 1e-13])
    outputs[1:, 0] = sizes * np.sign(Z[:, 1:].T @ residual)
    network = replace(problem.unused(units), outputs=outputs)
    small = simplify(problem, network)
    assert len(small) == 2
    coefs, intercepts = layers_of_neurons(small, X)
    assert all(np.all(np.isfinite(weights)) for weights in (*coefs, *intercepts))
