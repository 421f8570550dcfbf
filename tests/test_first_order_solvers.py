"""Solvers of restricted programs other than the interior point method."""

import os
import tracemalloc
from time import perf_counter

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_convexnn import ConvexReLUClassifier, ConvexReLURegressor
from sklearn_convexnn._utils.breakdown import least_squares
from sklearn_convexnn.losses import make_loss
from sklearn_convexnn.patterns.arrangements import sample_arrangement
from sklearn_convexnn.programs.two_layer import TwoLayerProgram
from sklearn_convexnn.solvers import (
    SOLVERS,
    _splitting,
    automatic,
    penalised,
    solve_augmented_lagrangian,
    solve_automatic,
    solve_cvxpy,
    solve_direction_generation,
    solve_interior_point,
    solve_penalised,
)
from sklearn_convexnn.solvers._cone_projections import ConeProjections
from sklearn_convexnn.solvers._contest import Contest
from tests.problems import LOSSES, loss_of, make_program, problem_of_one, tiny_data
from tests.test_solvers import sampled_program

FIRST_ORDER = {
    name: SOLVERS[name].solve
    for name in ("direction_generation", "augmented_lagrangian", "penalised")
}
SMOOTH = [name for name in LOSSES if loss_of(name).smooth]


# Solvers and the losses that they take.
PAIRS = [
    (name, loss)
    for name in FIRST_ORDER
    for loss in (SMOOTH if name == "penalised" else LOSSES)
]


@pytest.fixture(scope="module")
def reference():
    """Optimum of a sampled program by the interior point method, and the program."""
    known = {}

    def solve(loss, bias):
        if (loss, bias) not in known:
            program = sampled_program(loss, bias)
            known[loss, bias] = solve_interior_point(program, tol=1e-9).objective
        return sampled_program(loss, bias), known[loss, bias]

    return solve


def check(program, result, optimum, tol):
    """What holds for every result of every solver."""
    assert result.status == "optimal"
    assert optimum * (1 - 1e-8) <= result.objective <= optimum + tol * abs(optimum)
    assert result.dual_bound <= optimum * (1 + 1e-8)
    assert result.objective - result.dual_bound <= tol * abs(result.objective)
    slack = program.operator.cone(result.theta)
    assert slack.min(initial=0.0) >= -1e-9 * slack.max(initial=0.0)
    value = program.objective(result.theta, result.offset)
    assert_allclose(value, result.objective, rtol=1e-10)
    bound = program.dual_bound(result.nu, result.rho)
    assert_allclose(bound, result.dual_bound, rtol=1e-10)
    assert np.all(result.rho >= 0)
    history = result.history
    assert {len(values) for values in history.values()} == {result.n_iter + 1}
    assert np.all(np.diff(history["objective"]) <= 0)
    assert np.all(np.diff(history["dual_bound"]) >= 0)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("name", "loss"), PAIRS)
def test_agreement_with_interior_point(name, loss, bias, reference):
    program, optimum = reference(loss, bias)
    check(program, FIRST_ORDER[name](program, tol=1e-5), optimum, 1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_agreement_with_cvxpy(loss):
    program = sampled_program(loss, True)
    optimum = solve_cvxpy(program, tol=1e-9).objective
    result = solve_direction_generation(program, tol=1e-7)
    assert_allclose(result.objective, optimum, rtol=1e-6)
    assert result.dual_bound <= optimum * (1 + 1e-7)


@pytest.mark.parametrize("slope", [0.2, -1.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", FIRST_ORDER)
def test_other_slopes(name, bias, slope):
    program = sampled_program("log_loss", bias, slope=slope)
    optimum = solve_interior_point(program, tol=1e-9).objective
    check(program, FIRST_ORDER[name](program, tol=1e-5), optimum, 1e-5)


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_rows_that_repeat_and_rows_of_zeros(name):
    X, y, s = tiny_data("squared_error", n=30, d=3, weighted=True)
    X[10:14], X[20] = X[:4], 0.0
    arrangement = sample_arrangement(X, 8, random_state=0)
    program = make_program("squared_error", X, y, s, 0.5, arrangement=arrangement)
    assert program.operator.n_constraints == 25
    optimum = solve_interior_point(program, tol=1e-9).objective
    check(program, FIRST_ORDER[name](program, tol=1e-6), optimum, 1e-6)


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_one_block_for_each_pattern(name):
    """As column generation asks for, some of negative sign."""
    X, y, s = tiny_data("huber", n=40, d=4)
    arrangement = sample_arrangement(X, 15, free_bias=True, random_state=0)
    signs = np.where(np.arange(len(arrangement)) % 3, 1.0, -1.0)
    problem = problem_of_one(X, y, s, loss_of("huber"), 0.3, True)
    program = TwoLayerProgram(problem, arrangement, outputs=signs)
    optimum = solve_interior_point(program, tol=1e-9).objective
    check(program, FIRST_ORDER[name](program, tol=1e-5), optimum, 1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_newton_system_of_one_block_for_each_pattern(bias):
    """Both sizes of the system of the interior point method."""
    values = []
    for copies in (1, 12):
        X, y, s = tiny_data("log_loss", n=40, d=3)
        arrangement = sample_arrangement(X, 8, free_bias=bias, random_state=0)
        share = arrangement.patterns.mean(axis=1)
        keep = np.repeat(np.flatnonzero((share > 0) & (share < 1))[:6], copies)
        arrangement = type(arrangement)(
            arrangement.patterns[keep], arrangement.gates[keep], False
        )
        problem = problem_of_one(X, y, s, loss_of("log_loss"), 0.5, bias)
        outputs = np.where(keep % 2, 1.0, -1.0)
        program = TwoLayerProgram(problem, arrangement, outputs=outputs)
        smaller = program.operator.n_distinct * program.operator.p < len(y)
        assert smaller == (copies == 1)
        values.append(solve_interior_point(program, tol=1e-9).objective)
    assert_allclose(*values, rtol=1e-8)


def test_open_sides_are_refused(monkeypatch):
    X, y, s = tiny_data("squared_error", n=20, d=3)
    program = TwoLayerProgram(
        problem_of_one(X, y, s, loss_of("squared_error"), 0.5),
        sample_arrangement(X, 4, random_state=0),
        outputs=-np.ones(4),
        open_sides=np.arange(20) % 5 == np.zeros((4, 1)),
    )
    for solve in FIRST_ORDER.values():
        with pytest.raises(ValueError, match="solver='interior_point'"):
            solve(program)
    monkeypatch.setattr(automatic, "_SMALL", 0.0)
    monkeypatch.setattr(automatic, "solve_interior_point", lambda *a, **k: "taken")
    assert solve_automatic(program) == "taken"


@pytest.mark.parametrize("loss", ["hinge", "quantile"])
def test_penalised_needs_a_smooth_loss(loss):
    with pytest.raises(ValueError, match=r"needs a smooth loss.*augmented_lagrangian"):
        solve_penalised(sampled_program(loss, False))


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_limits_give_an_honest_gap(name, reference):
    program, best = reference("squared_error", True)
    for limit in ({"max_iter": 1}, {"deadline": perf_counter()}):
        result = FIRST_ORDER[name](program, tol=1e-9, **limit)
        assert result.status == next(iter(limit)).replace("deadline", "max_time")
        assert result.dual_bound <= best <= result.objective
        assert result.objective - result.dual_bound > 1e-4 * best


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_same_result_every_run(name):
    first, second = (
        FIRST_ORDER[name](sampled_program("huber", True), max_iter=3) for _ in range(2)
    )
    assert_array_equal(first.theta, second.theta)
    assert first.dual_bound == second.dual_bound


def test_unattainable_tolerance_ends_by_itself(reference):
    program, optimum = reference("squared_error", False)
    result = solve_direction_generation(program, tol=1e-18, max_iter=500)
    assert result.status in ("stalled", "optimal")
    assert_allclose(result.objective, optimum, rtol=1e-6)


def test_units_do_not_matter():
    X, y, s = tiny_data("squared_error", n=30, d=3)
    arrangement = sample_arrangement(X, 10, free_bias=True, random_state=0)
    options = {"bias": True, "arrangement": arrangement}
    program = make_program("squared_error", X, y, s, 0.5, **options)
    optimum = solve_interior_point(program, tol=1e-9).objective
    for factor in (1e-6, 1e6):
        program = make_program(
            "squared_error", X, factor * y, s, 0.5 * factor, **options
        )
        for solve in FIRST_ORDER.values():
            result = solve(program, tol=1e-5)
            assert_allclose(result.objective / factor**2, optimum, rtol=1e-5)


class TestSteps:
    """The first-order steps alone, without the directions that finish the work."""

    @pytest.mark.parametrize("loss", LOSSES)
    def test_splitting(self, loss, reference):
        program, optimum = reference(loss, True)
        splitting = _splitting.Splitting(program, program.operator.M)
        for _ in range(30):
            splitting.run(50, np.inf)
        theta = splitting.blocks()
        offset = float(splitting.theta[-1, -1]) * program._unit
        assert_allclose(program.objective(theta, offset), optimum, rtol=2e-3)
        slack = program.operator.cone(theta)
        assert slack.min() >= -1e-2 * slack.max()

    def test_penalty(self, reference):
        """Exact above the largest multiplier, below the optimum with less."""
        program, optimum = reference("squared_error", False)
        largest = solve_interior_point(program, tol=1e-6).rho.max()
        values = []
        for weight in (2.0 * largest, 0.01 * largest):
            start = Contest(program, 1e-6, np.inf, None)
            descent = penalised._Descent(program, None, start, weight)
            for _ in range(20):
                descent.run(100, np.inf)
                descent.update_multipliers()
            values.append(program.objective(descent.blocks(), 0.0))
        assert_allclose(values[0], optimum, rtol=5e-3)
        assert values[1] < 0.995 * optimum


@pytest.mark.parametrize("bias", [False, True])
def test_cone_projections(bias):
    program = sampled_program("squared_error", bias)
    op, cones = program.operator, ConeProjections(program)
    rng = np.random.default_rng(0)
    for b in range(0, op.n_cones, 5):
        rows = op.cone_rows * op.signs[b % op.n_patterns][:, None]
        point = rng.standard_normal(op.p)
        nearest = cones.nearest(b, point)
        multipliers, _ = least_squares(rows.T, -point)
        assert np.min(rows @ nearest) >= -1e-9
        assert_allclose(nearest, point + rows.T @ multipliers, atol=1e-9)


@pytest.mark.parametrize("bias", [False, True])
def test_steepest_directions(bias):
    """Their multipliers are a dual point of the same value."""
    program = sampled_program("squared_error", bias)
    op, cones = program.operator, ConeProjections(program)
    nu = np.random.default_rng(0).standard_normal(op.n_samples)
    nu -= nu.mean()
    slopes = op.adjoint(nu)
    for b in range(op.n_cones):
        for _ in range(4):  # the offset settles
            point, rows, multipliers = cones.steepest(b, slopes[b])
        rho = np.zeros((op.n_cones, op.n_constraints))
        rho[b, rows] = multipliers
        outer = program.norms(program.dual_slopes(nu, rho))[b]
        size = program.norms(point[None])[0]
        steep = size > 1e-9 * np.linalg.norm(slopes[b])
        inner = slopes[b] @ point / size if steep else 0.0
        slack = op.cone(np.tile(point, (op.n_blocks, 1)))[b]
        assert slack.min() >= -1e-8 * np.abs(slopes[b]).max()
        assert inner <= outer * (1 + 1e-8)
        assert_allclose(inner, outer, rtol=1e-5, atol=1e-8)


def test_automatic_chooses_by_size(monkeypatch):
    program = sampled_program("squared_error", True)
    optimum = solve_interior_point(program, tol=1e-9)
    assert_array_equal(solve_automatic(program, tol=1e-9).theta, optimum.theta)
    # As if it were large: directions, whose blocks are exactly zero or not.
    monkeypatch.setattr(automatic, "_SMALL", 0.0)
    large = solve_automatic(program, tol=1e-6)
    assert np.any(np.all(large.theta == 0, axis=1))
    assert_allclose(large.objective, optimum.objective, rtol=1e-6)
    # Too slow by far, so the interior point method takes over.
    monkeypatch.setattr(automatic, "_PROGRESS", (1e-9, 1))
    slow = solve_automatic(program, tol=1e-9)
    assert_array_equal(slow.theta, optimum.theta)
    assert slow.n_iter == optimum.n_iter + 1
    assert len(slow.history["time"]) == slow.n_iter + 2
    assert np.all(np.diff(slow.history["time"]) >= 0)
    # What there was before is not lost.
    short = solve_automatic(program, tol=1e-9, max_iter=1)
    first = solve_direction_generation(program, tol=1e-9, max_iter=1)
    assert short.objective == first.objective
    assert short.dual_bound >= first.dual_bound
    # Unless that is out of reach.
    monkeypatch.setattr(automatic, "_LARGE", 0.0)
    huge = solve_automatic(program, tol=1e-6)
    assert_array_equal(huge.theta, large.theta)


@pytest.mark.parametrize("solver", sorted(set(SOLVERS) - {"cvxpy"}))
@pytest.mark.parametrize("cls", [ConvexReLURegressor, ConvexReLUClassifier])
def test_estimators(cls, solver):
    X, y, s = tiny_data("squared_error", n=50, d=4, weighted=True)
    y = y if cls is ConvexReLURegressor else y > 0
    params = {"alpha": 0.5, "arrangements": "sampled", "n_arrangements": 20}
    model, other = (
        cls(solver=name, random_state=0, **params).fit(X, y, sample_weight=s)
        for name in (solver, "interior_point")
    )
    assert_allclose(model.objective_, other.objective_, rtol=1e-4)
    assert -1e-9 <= model.dual_gap_ <= 1e-4 * model.objective_
    assert f"'{solver}'" in cls.__doc__


def test_memory_is_linear_in_samples_and_blocks():
    n, d, P = 300, 40, 60
    X, y, s = tiny_data("squared_error", n=n, d=d)
    arrangement = sample_arrangement(X, P, random_state=0)
    program = make_program("squared_error", X, y, s, 20.0, arrangement=arrangement)
    for solve in FIRST_ORDER.values():
        tracemalloc.start()
        try:
            solve(program, max_iter=1)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        # The expanded matrix would have 40 times n_blocks * n numbers.
        assert peak < 15 * 8 * n * 2 * P


def test_numbers_of_single_precision(reference):
    program, optimum = reference("squared_error", True)
    like = np.zeros(0, dtype=np.float32)
    for solve in (solve_augmented_lagrangian, solve_penalised):
        result = solve(program, tol=1e-5, like=like)
        check(program, result, optimum, 1e-5)
        assert result.theta.dtype == np.float64
    splitting = _splitting.Splitting(program, like)
    splitting.run(3, np.inf)
    assert {splitting.z.dtype, splitting.theta.dtype, splitting.nu.dtype} == {
        like.dtype
    }


@pytest.mark.skipif(
    os.environ.get("SCIPY_ARRAY_API") != "1", reason="needs SCIPY_ARRAY_API=1"
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("namespace", ["torch", "array_api_strict"])
@pytest.mark.parametrize("loss", LOSSES)
def test_other_arrays(namespace, dtype, loss):
    xp = pytest.importorskip(namespace)
    program = sampled_program(loss, True)
    like = xp.zeros(1, dtype=getattr(xp, dtype))
    numpy_like = np.zeros(1, dtype=dtype)
    for name in ("augmented_lagrangian", "penalised"):
        if (name, loss) not in PAIRS:
            continue
        solve = FIRST_ORDER[name]
        ours = solve(program, tol=1e-9, max_iter=2, like=numpy_like)
        with sklearn.config_context(array_api_dispatch=True):
            other = solve(program, tol=1e-9, max_iter=2, like=like)
        assert_allclose(other.objective, ours.objective, rtol=1e-3)
        assert type(other.theta) is type(other.nu) is np.ndarray


def test_no_neurons_at_large_weight_decay():
    X, y, s = tiny_data("squared_error", n=30, d=3)
    arrangement = sample_arrangement(X, 10, random_state=0)
    program = make_program("squared_error", X, y, s, 1e4, arrangement=arrangement)
    for solve in FIRST_ORDER.values():
        result = solve(program)
        assert result.status == "optimal"
        assert not np.any(result.theta)


def test_a_sample_of_many_patterns():
    """More patterns than are taken in at once."""
    X, y, s = tiny_data("squared_error", n=60, d=6)
    arrangement = sample_arrangement(X, 450, random_state=0)
    problem = problem_of_one(X, y, s, make_loss("squared_error"), 1.0)
    program = TwoLayerProgram(problem, arrangement)
    result = solve_direction_generation(program, tol=1e-4)
    optimum = solve_interior_point(program, tol=1e-6).objective
    check(program, result, optimum, 1e-4)
