"""The convex program against networks: full enumeration on tiny data."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sklearn_convexnn.families.simplify import simplify
from sklearn_convexnn.families.two_layer.recovery import (
    layers_of_neurons,
    neurons_from_blocks,
)
from sklearn_convexnn.patterns.arrangements import Arrangement, enumerate_arrangement
from sklearn_convexnn.solvers import solve_cvxpy, solve_interior_point
from tests.problems import (
    LOSSES,
    loss_of,
    make_program,
    network_objective,
    problem_of,
    tiny_data,
    train_network,
)

ALPHA = 0.15


def solved(program, X, tol=1e-9):
    """Result of the program, and the weights of the simplified network."""
    result = solve_interior_point(program, tol=tol)
    neurons = neurons_from_blocks(program, result.theta, result.offset)
    layers = layers_of_neurons(simplify(problem_of(program, X), neurons), X)
    (W, a), (b, c) = layers
    return result, (W, b, a[:, 0], c[0])


def ones_column(X):
    return np.column_stack([X, np.ones(len(X))])


# No bias, a penalised bias (a column of ones), and free biases.
FORMS = {"none": (False, False), "penalised": (True, False), "free": (False, True)}


@pytest.mark.parametrize("n, d", [(8, 1), (8, 2), (10, 3)])
@pytest.mark.parametrize(
    "weighted", [pytest.param(False, marks=pytest.mark.slow), True]
)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("loss", LOSSES)
def test_program_equals_network_equals_dual_bound(loss, form, weighted, n, d):
    """Zero duality gap, and the recovered network attains it."""
    column, bias = FORMS[form]
    X, y, s = tiny_data(loss, n=n, d=d, weighted=weighted, seed=3)
    X = ones_column(X) if column else X
    program = make_program(loss, X, y, s, ALPHA, bias=bias)
    result, weights = solved(program, X)
    assert program.complete
    value = network_objective(loss, X, y, s, ALPHA, *weights)
    assert_allclose(value, result.objective, rtol=1e-7)
    assert_allclose(value, result.dual_bound, rtol=1e-7)
    assert len(weights[2]) <= len(X)


@pytest.mark.parametrize("n, d", [(7, 2), pytest.param(10, 3, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "form",
    [
        pytest.param("none", marks=pytest.mark.slow),
        pytest.param("penalised", marks=pytest.mark.slow),
        "free",
    ],
)
@pytest.mark.parametrize("loss", LOSSES)
def test_no_training_beats_the_program_and_the_best_ones_reach_it(loss, form, n, d):
    column, bias = FORMS[form]
    X, y, s = tiny_data(loss, n=n, d=d, weighted=True, seed=3)
    X = ones_column(X) if column else X
    program = make_program(loss, X, y, s, ALPHA, bias=bias)
    value = solve_interior_point(program, tol=1e-9).objective
    quick = form == "free" and d == 2
    n_starts = 5 if quick or loss in ("quantile", "poisson") else 20
    best = train_network(loss, X, y, s, ALPHA, bias=bias, n_starts=n_starts)
    assert value <= best * (1 + 1e-9)
    # A wrong factor in the penalty moves the value by several times this.
    # Kinks at the targets make local training much worse.
    kinks = loss == "quantile" and d == 3
    assert_allclose(best, value, rtol=15e-2 if kinks else 2e-2)
    for factor in (0.5, 2.0):
        wrong = make_program(loss, X, y, s, factor * ALPHA, bias=bias)
        other = solve_interior_point(wrong, tol=1e-9).objective
        assert abs(other - best) > 5e-2 * best


@pytest.mark.parametrize("slope", [0.1, -0.4, -1.0])
@pytest.mark.parametrize("bias", [False, True])
def test_two_slope_activations(bias, slope):
    X, y, s = tiny_data("squared_error", n=7, seed=1)
    program = make_program("squared_error", X, y, s, ALPHA, bias=bias, slope=slope)
    result, weights = solved(program, X)
    value = network_objective("squared_error", X, y, s, ALPHA, *weights, slope=slope)
    assert_allclose(value, result.dual_bound, rtol=1e-7)
    best = train_network(
        "squared_error", X, y, s, ALPHA, bias=bias, slope=slope, n_starts=3
    )
    assert result.objective <= best * (1 + 1e-9)
    assert_allclose(best, result.objective, rtol=5e-3)


def test_absolute_value_needs_half_of_the_patterns():
    X, y, s = tiny_data("squared_error")
    program = make_program("squared_error", X, y, s, ALPHA, slope=-1.0)
    assert program.operator.n_patterns == len(enumerate_arrangement(X)) // 2


@pytest.mark.parametrize("loss", LOSSES)
def test_three_dimensional_data(loss):
    X, y, s = tiny_data(loss, n=9, d=3, weighted=True)
    program = make_program(loss, X, y, s, ALPHA)
    result, weights = solved(program, X)
    value = network_objective(loss, X, y, s, ALPHA, *weights)
    assert_allclose(value, result.dual_bound, rtol=1e-7)
    best = train_network(loss, X, y, s, ALPHA, n_starts=2)
    assert result.objective <= best * (1 + 1e-9)


@pytest.mark.parametrize("loss", ["squared_error", "hinge"])
def test_all_on_pattern_as_a_linear_term(loss):
    """The block without a cone stands for the all-on pattern of both signs."""
    X, y, s = tiny_data(loss, n=6)
    program = make_program(loss, X, y, s, ALPHA, bias=True)
    value = solve_interior_point(program, tol=1e-9).objective

    # The same program as theory has it: every pattern of [X 1] with its cone.
    import cvxpy as cp

    patterns = enumerate_arrangement(X, free_bias=True).patterns
    M = ones_column(X)
    v = cp.Variable((2 * len(patterns), 3))
    b0 = cp.Variable()
    signs = np.repeat([1.0, -1.0], len(patterns))
    masks = np.tile(patterns, (2, 1))
    f = b0 + cp.sum(cp.multiply(masks * signs[:, None], v @ M.T), axis=0)
    cones = cp.multiply(np.where(masks, 1.0, -1.0), v @ M.T) >= 0
    if loss == "hinge":
        term = cp.sum(cp.pos(1 - cp.multiply(y, f)))
    else:
        term = 0.5 * cp.sum_squares(f - y)
    penalty = ALPHA * cp.sum(cp.norm(v[:, :2], axis=1))
    problem = cp.Problem(cp.Minimize(term + penalty), [cones])
    assert_allclose(value, problem.solve(solver="CLARABEL"), rtol=1e-6)


def test_permutation_rotation_and_repetition():
    X, y, s = tiny_data("squared_error", d=3)
    reference = make_program("squared_error", X, y, s, ALPHA)
    value = solve_interior_point(reference, tol=1e-10).objective
    rng = np.random.default_rng(0)
    order = rng.permutation(len(y))
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    for data in ((X[order], y[order]), (X @ rotation, y)):
        program = make_program("squared_error", *data, s, ALPHA)
        result = solve_interior_point(program, tol=1e-10)
        assert_allclose(result.objective, value, rtol=1e-8)
    # Twice the data = weight two = half the weight decay, twice the value.
    twice = make_program(
        "squared_error", np.tile(X, (2, 1)), np.tile(y, 2), np.tile(s, 2), ALPHA
    )
    weighted = make_program("squared_error", X, y, 2 * s, ALPHA)
    halved = make_program("squared_error", X, y, s, ALPHA / 2)
    values = [
        solve_interior_point(p, tol=1e-10).objective for p in (twice, weighted, halved)
    ]
    assert_allclose(values[0], values[1], rtol=1e-8)
    assert_allclose(values[0], 2 * values[2], rtol=1e-8)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_largest_useful_weight_decay(loss, bias):
    """Above ``kappa(-grad L(f_0))`` the network without neurons is optimal."""
    from sklearn_convexnn.training.bounds import cone_slopes

    X, y, s = tiny_data(loss, weighted=True, seed=5)
    arrangement = enumerate_arrangement(X, free_bias=bias)
    term = loss_of(loss)
    unique = term.smooth or not bias
    if not unique:
        # The dual variable is not unique: take the one the solver ends with.
        program = make_program(loss, X, y, s, 1e4, bias=True, arrangement=arrangement)
        nu = solve_interior_point(program, tol=1e-9).nu
    else:
        offset = term.best_offset(np.zeros(8), y, s) if bias else 0.0
        nu = -term.gradient(np.full(8, offset), y, s)
        nu = term.project_dual(nu, y, s, centred=bias)
    largest = cone_slopes(X, nu, arrangement, free_bias=bias).max()
    program = make_program(loss, X, y, s, 1.001 * largest, bias=bias)
    _, weights = solved(program, X)
    assert len(weights[2]) == 0
    if unique:
        program = make_program(loss, X, y, s, 0.99 * largest, bias=bias)
        _, weights = solved(program, X)
        assert len(weights[2]) > 0


def test_rank_one_data_have_a_closed_form():
    """Two features with disjoint supports, soft-thresholded."""
    rng = np.random.default_rng(0)
    c, a, y = rng.standard_normal(9), rng.standard_normal(3), rng.standard_normal(9)
    X = np.outer(c, a)
    program = make_program("squared_error", X, y, np.ones(9), ALPHA)
    result = solve_interior_point(program, tol=1e-10)
    f = np.zeros(9)
    value = 0.0
    for feature in (np.maximum(c, 0), np.maximum(-c, 0)):
        feature = feature * np.linalg.norm(a)
        slope = feature @ y
        size = np.sign(slope) * max(abs(slope) - ALPHA, 0) / (feature @ feature)
        f += size * feature
        value += ALPHA * abs(size)
    value += 0.5 * np.sum((f - y) ** 2)
    assert_allclose(result.objective, value, rtol=1e-8)


def test_whitened_data_have_a_closed_form():
    rng = np.random.default_rng(0)
    X = np.linalg.qr(rng.standard_normal((6, 6)))[0][:4]
    y = rng.standard_normal(4)
    program = make_program("squared_error", X, y, np.ones(4), ALPHA)
    result = solve_interior_point(program, tol=1e-10)
    f, gauge = 0.0, 0.0
    for part in (np.maximum(y, 0), -np.maximum(-y, 0)):
        norm = np.linalg.norm(part)
        shrunk = max(1 - ALPHA / norm, 0) * part
        f = f + shrunk
        gauge += np.linalg.norm(shrunk)
    value = 0.5 * np.sum((f - y) ** 2) + ALPHA * gauge
    assert_allclose(result.objective, value, rtol=1e-8)


def test_one_dimensional_data_with_free_biases_are_a_lasso():
    """A spline with knots at the data, by an independent lasso."""
    import cvxpy as cp

    rng = np.random.default_rng(0)
    x, y = np.sort(rng.standard_normal(9)), rng.standard_normal(9)
    program = make_program("squared_error", x[:, None], y, np.ones(9), ALPHA, bias=True)
    result = solve_interior_point(program, tol=1e-10)
    steps = x[:, None] - x
    A = np.concatenate([np.maximum(steps, 0), np.maximum(-steps, 0)], axis=1)
    z, b0 = cp.Variable(18), cp.Variable()
    value = cp.Problem(
        cp.Minimize(0.5 * cp.sum_squares(A @ z + b0 - y) + ALPHA * cp.norm1(z))
    ).solve(solver="CLARABEL")
    assert_allclose(result.objective, value, rtol=1e-6)


def test_few_patterns_leave_a_large_gap_to_the_full_optimum():
    """The restricted gap is closed, the full one is not."""
    X, y, s = tiny_data("squared_error", n=10, d=3, seed=2)
    full = enumerate_arrangement(X)
    few = Arrangement(full.patterns[40:43], full.gates[40:43], False)
    program = make_program("squared_error", X, y, s, ALPHA, arrangement=few)
    result = solve_interior_point(program, tol=1e-9)
    assert not program.complete
    assert result.objective - result.dual_bound <= 1e-8 * result.objective
    everything = make_program("squared_error", X, y, s, ALPHA)
    best = solve_interior_point(everything, tol=1e-9).objective
    assert result.objective > 1.2 * best


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bias", [False, True])
def test_any_dual_point_gives_a_lower_bound(loss, bias):
    X, y, s = tiny_data(loss, weighted=True)
    program = make_program(loss, X, y, s, ALPHA, bias=bias)
    value = solve_interior_point(program, tol=1e-9).objective
    rng = np.random.default_rng(0)
    shape = program.operator.n_cones, program.operator.n_constraints
    for scale in (0.1, 1.0, 10.0):
        nu = scale * rng.standard_normal(len(y))
        rho = scale * rng.exponential(size=shape)
        for multipliers in (rho, np.zeros(shape)):
            assert program.dual_bound(nu, multipliers) <= value + 1e-9
        if bias:
            # The multipliers are raised until no offset has a slope.
            centred = program.loss.project_dual(nu, y, s, centred=True)
            op = program.operator
            slopes = op.adjoint(centred) + op.cone_adjoint(rho)
            assert np.abs(slopes[: op.n_cones, -1]).max() > 0.1 * scale
            fixed = program._without_slopes_of_biases(slopes)
            assert_allclose(fixed[:, -1], 0.0, atol=1e-12 * max(1, scale))


def test_expand_is_an_isometry():
    X, y, s = tiny_data("squared_error", d=2)
    X = X @ np.random.default_rng(0).standard_normal((2, 5))  # rank 2 of 5
    program = make_program("squared_error", X, y, s, ALPHA)
    theta = np.random.default_rng(1).standard_normal(program.starts.shape)
    assert program.operator.p == 2
    weights, offsets, signs, linear = program.expand(theta)
    assert_allclose(np.linalg.norm(weights, axis=1), program.norms(theta))
    assert_allclose(X @ weights.T, program.operator.M @ theta.T, atol=1e-12)
    assert set(signs) == {1.0, -1.0} and not linear.any() and not offsets.any()


def test_zero_rows_count_in_the_loss_alone():
    X, y, s = tiny_data("squared_error")
    more = np.concatenate([X, np.zeros((1, 2))])
    value = solve_cvxpy(make_program("squared_error", X, y, s, ALPHA)).objective
    program = make_program("squared_error", more, np.append(y, 2.0), np.ones(9), ALPHA)
    assert_allclose(
        solve_interior_point(program, tol=1e-9).objective, value + 2.0, rtol=1e-6
    )
