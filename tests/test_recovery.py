from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sklearn_convexnn.families.two_layer.recovery import (
    merge_parallel,
    network_weights,
    neurons_from_blocks,
    prune,
    simplify,
)
from sklearn_convexnn.model.neurons import Neurons, features
from sklearn_convexnn.patterns.arrangements import sample_arrangement
from sklearn_convexnn.solvers import solve_interior_point
from tests.problems import (
    LOSSES,
    make_program,
    network_objective,
    problem_of,
    tiny_data,
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
    weights = network_weights(neurons, X)
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
    Z = features(small, X)
    assert np.linalg.matrix_rank(Z, tol=1e-10) == len(small)


def test_merging_parallel_neurons_changes_nothing():
    program, _, X, neurons = solved()
    small = simplify(problem_of(program, X), neurons)
    halves = replace(
        Neurons(*(np.concatenate([part, part]) for part in parts(small)), 0.0),
        offset=small.offset,
    )
    halves = replace(halves, magnitudes=halves.magnitudes / 2)
    merged = merge_parallel(halves)
    assert len(merged) == len(small)
    assert_allclose(np.sort(merged.magnitudes), np.sort(small.magnitudes), rtol=1e-12)
    f, g = (features(x, X) @ x.magnitudes + x.offset for x in (small, merged))
    assert_allclose(f, g, atol=1e-12)


def parts(neurons):
    return (
        neurons.directions,
        neurons.biases,
        neurons.magnitudes,
        neurons.signs,
        neurons.linear,
    )


def test_neurons_of_opposite_sign_are_not_merged():
    program, _, X, neurons = solved()
    one = neurons.select([0])
    both = Neurons(*(np.concatenate([part, part]) for part in parts(one)), 0.0)
    both.signs[1] *= -1
    assert len(merge_parallel(both)) == 2


def test_pruning_keeps_outputs_and_does_not_raise_the_penalty():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((7, 3))
    directions = rng.standard_normal((30, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    neurons = Neurons(
        directions,
        rng.standard_normal(30),
        rng.uniform(0.1, 1.0, 30),
        rng.choice([-1.0, 1.0], 30),
        np.zeros(30, dtype=bool),
        0.5,
    )
    Z = features(neurons, X)
    pruned = prune(neurons, Z)
    assert len(pruned) <= np.linalg.matrix_rank(Z) <= 7
    assert_allclose(
        features(pruned, X) @ pruned.magnitudes, Z @ neurons.magnitudes, atol=1e-10
    )
    assert pruned.magnitudes.sum() <= neurons.magnitudes.sum() + 1e-12
    assert pruned.magnitudes.min() > 0


def test_pruning_drops_neurons_that_are_off():
    X = np.ones((4, 1))
    neurons = Neurons(
        np.array([[1.0], [-1.0]]), np.zeros(2), np.ones(2), np.ones(2),
        np.zeros(2, dtype=bool), 0.0,
    )  # fmt: skip
    assert len(prune(neurons, features(neurons, X))) == 1


def test_linear_term_stays_linear_a_range_beyond_the_data():
    """The neuron of the linear block is active on the data, and around them."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (30, 2))
    direction = np.array([[0.6, -0.8]])
    for sign in (1.0, -1.0):
        neurons = Neurons(
            direction, np.zeros(1), np.array([2.0]), np.array([sign]), np.ones(1, bool),
            3.0,
        )  # fmt: skip
        W, b, a, c = network_weights(neurons, X)
        z = X @ direction[0]
        assert_allclose((X @ W + b).min(), np.ptp(z) * 2**0.5)
        for factor in (1.0, 1.9):
            f = np.maximum(factor * X @ W + b, 0) @ a + c
            assert_allclose(f, 2.0 * sign * factor * z + 3.0)


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
    W, b, a, c = network_weights(empty, X)
    assert W.shape == (3, 0) and b.shape == a.shape == (0,)
    assert len(simplify(problem_of(program, X), empty)) == 0
