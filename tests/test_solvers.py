import subprocess
import sys
import tracemalloc
from time import perf_counter

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.datasets import load_diabetes
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler

from sklearn_convexnn.losses import CLASSIFICATION_LOSSES, make_loss
from sklearn_convexnn.model.results import SolverError
from sklearn_convexnn.patterns.arrangements import sample_arrangement
from sklearn_convexnn.programs.two_layer import TwoLayerProgram
from sklearn_convexnn.solvers import cvxpy_reference, solve_cvxpy, solve_interior_point
from sklearn_convexnn.solvers._second_order_cones import ConeScaling, largest_step
from tests.problems import (
    EPSILON,
    LOSSES,
    loss_of,
    make_program,
    problem_of_one,
    tiny_data,
)


def sampled_program(loss, bias, *, weighted=True, n=40, d=4, alpha=0.7, slope=0.0):
    X, y, s = tiny_data(loss, n=n, d=d, weighted=weighted)
    arrangement = sample_arrangement(X, 12, free_bias=bias, random_state=0)
    return make_program(
        loss, X, y, s, alpha, bias=bias, slope=slope, arrangement=arrangement
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_interior_point_and_reference_agree(loss, bias, weighted):
    program = sampled_program(loss, bias, weighted=weighted)
    ours = solve_interior_point(program, tol=1e-8)
    reference = solve_cvxpy(program, tol=1e-8)
    assert ours.status == "optimal"
    for result in (ours, reference):
        assert result.dual_bound <= result.objective + 1e-9
        assert_allclose(result.dual_bound, result.objective, rtol=2e-7)
        value = program.objective(result.theta, result.offset)
        assert_allclose(value, result.objective, rtol=1e-12)
        bound = program.dual_bound(result.nu, result.rho)
        assert_allclose(bound, result.dual_bound, rtol=1e-12)
    assert_allclose(ours.objective, reference.objective, rtol=2e-7)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("slope", [0.2, -1.0])
def test_agreement_for_other_slopes(slope, bias):
    program = sampled_program("huber", bias, slope=slope)
    ours = solve_interior_point(program, tol=1e-8)
    reference = solve_cvxpy(program, tol=1e-8)
    assert_allclose(ours.objective, reference.objective, rtol=1e-7)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_optimality_conditions(loss, bias):
    """Feasibility, complementarity and stationarity of the solution."""
    program = sampled_program(loss, bias)
    result = solve_interior_point(program, tol=1e-8)
    op = program.operator
    slack = op.cone(result.theta)
    assert slack.min() >= -1e-12
    slopes = op.adjoint(result.nu) + op.cone_adjoint(result.rho)
    norms = program.norms(slopes)
    assert norms.max() <= program.alpha * (1 + 1e-5)
    # The slope of an active block is parallel to it and of length alpha.
    sizes = program.norms(result.theta)
    active = sizes > 1e-3 * sizes.max()
    assert active.any()
    r = program.n_penalised
    directions = result.theta[active, :r] / sizes[active, None]
    assert_allclose(slopes[active, :r] / program.alpha, directions, atol=2e-3)
    if bias:
        assert abs(result.nu.sum()) < 1e-6


@pytest.mark.parametrize("bias", [False, True])
def test_both_forms_of_the_newton_system_agree(bias, monkeypatch):
    """With fewer unknowns than samples the system of the blocks is solved."""
    X, y, s = tiny_data("log_loss", n=80, d=2, weighted=True)
    arrangement = sample_arrangement(X, 5, free_bias=bias, random_state=0)
    program = make_program("log_loss", X, y, s, 3.0, bias=bias, arrangement=arrangement)
    op = program.operator
    assert op.n_distinct * op.p < op.n_samples
    calls = []
    for name in ("normal_matrix", "feature_gram"):
        method = getattr(op, name)
        monkeypatch.setattr(
            op, name, lambda *x, m=method, n=name: (calls.append(n), m(*x))[1]
        )
    blocks = solve_interior_point(program, tol=1e-9)
    assert set(calls) == {"normal_matrix"}
    calls.clear()
    monkeypatch.setattr(op, "n_distinct", _Larger(op.n_distinct))
    samples = solve_interior_point(program, tol=1e-9)
    assert set(calls) == {"feature_gram"}
    assert blocks.status == samples.status == "optimal"
    assert_allclose(blocks.objective, samples.objective, rtol=1e-8)


class _Larger(int):
    """An integer whose products are large, to get past a test of the size."""

    def __mul__(self, other):
        return 10**6 * other


@pytest.mark.parametrize("factor", [1e-6, 1e6])
@pytest.mark.parametrize("bias", [False, True])
def test_units_of_the_data_do_not_matter(bias, factor):
    X, y, s = tiny_data("squared_error", n=30, d=3)
    arrangement = sample_arrangement(X, 10, free_bias=bias, random_state=0)
    program = make_program(
        "squared_error", X, y, s, 0.5, bias=bias, arrangement=arrangement
    )
    value = solve_interior_point(program, tol=1e-9).objective
    # f and alpha scale with y, the objective with its square.
    program = make_program(
        "squared_error",
        X,
        factor * y,
        s,
        0.5 * factor,
        bias=bias,
        arrangement=arrangement,
    )
    result = solve_interior_point(program, tol=1e-9)
    assert_allclose(result.objective / factor**2, value, rtol=1e-8)
    # Weights scale against X, so alpha scales with it.
    moved = sample_arrangement(factor * X, 10, free_bias=bias, random_state=0)
    program = make_program(
        "squared_error", factor * X, y, s, 0.5 * factor, bias=bias, arrangement=moved
    )
    result = solve_interior_point(program, tol=1e-9)
    assert_allclose(result.objective, value, rtol=1e-8)


@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 10.0, 1e4])
@pytest.mark.parametrize("loss", LOSSES)
def test_extreme_weight_decay(loss, alpha):
    program = sampled_program(loss, True, alpha=alpha)
    result = solve_interior_point(program, tol=1e-5)
    gap = result.objective - result.dual_bound
    null = program.loss.value(
        np.full(40, program.null_offset()), program.y, program.sample_weight
    )
    assert gap <= 1e-5 * result.objective + 1e-9 * null
    assert result.objective <= null * (1 + 1e-5)


@pytest.mark.slow
def test_agreement_on_real_data():
    """Fifty patterns of diabetes, with a column of ones, against Clarabel."""
    X, y = load_diabetes(return_X_y=True)
    X = np.column_stack([StandardScaler().fit_transform(X), np.ones(len(X))])
    y = (y - y.mean()) / y.std()
    arrangement = sample_arrangement(X, 50, random_state=0)
    program = make_program(
        "squared_error", X, y, np.ones(len(y)), 5.0, arrangement=arrangement
    )
    ours = solve_interior_point(program, tol=1e-8)
    reference = solve_cvxpy(program, tol=1e-8)
    assert_allclose(ours.objective, reference.objective, rtol=1e-7)


def test_history_and_callback():
    program = sampled_program("squared_error", True)
    seen = []
    result = solve_interior_point(
        program, tol=1e-6, callback=lambda *record: seen.append(record)
    )
    assert [record[0] for record in seen] == list(range(result.n_iter + 1))
    history = result.history
    assert {len(values) for values in history.values()} == {result.n_iter + 1}
    assert np.all(np.diff(history["time"]) >= 0)
    assert np.all(np.diff(history["dual_bound"]) >= 0)
    assert np.all(history["dual_bound"] <= result.objective + 1e-9)
    assert_allclose(history["objective"].min(), result.objective)


def test_limits_give_an_honest_gap():
    program = sampled_program("squared_error", True)
    best = solve_interior_point(program, tol=1e-9).objective
    for limit in ({"max_iter": 3}, {"deadline": perf_counter()}):
        result = solve_interior_point(program, tol=1e-9, **limit)
        assert result.status == next(iter(limit)).replace("deadline", "max_time")
        assert result.dual_bound <= best <= result.objective
        assert result.objective - result.dual_bound > 1e-3 * best


def test_unattainable_tolerance_ends_by_itself():
    program = sampled_program("squared_error", True)
    result = solve_interior_point(program, tol=1e-18, max_iter=500)
    # What rounding ends depends on the processor.
    assert result.status in ("stalled", "breakdown", "optimal")
    assert result.n_iter < 100
    assert_allclose(result.dual_bound, result.objective, rtol=1e-7)


def test_scs_agrees_to_its_accuracy(monkeypatch):
    program = sampled_program("squared_error", True)
    value = solve_interior_point(program, tol=1e-9).objective
    result = solve_cvxpy(program, tol=1e-6, conic_solver="SCS")
    assert_allclose(result.objective, value, rtol=1e-5)
    assert result.dual_bound <= value * (1 + 1e-9)
    # Its own measure of the gap is another.
    rough = {"eps_abs": 1e-3, "eps_rel": 1e-3, "max_iters": 100_000}
    monkeypatch.setitem(cvxpy_reference.CONIC_SOLVERS, "SCS", lambda tol: rough)
    with pytest.warns(ConvergenceWarning, match="SCS reports optimal"):
        result = solve_cvxpy(program, tol=1e-6, conic_solver="SCS")
    assert result.dual_bound <= value * (1 + 1e-9)
    assert value <= result.objective * (1 + 1e-9)


def test_failed_conic_solver_is_named_with_its_status(monkeypatch):
    import cvxpy as cp

    program = sampled_program("squared_error", True)

    def fail(self, **options):
        raise cp.error.SolverError("numerical error")

    monkeypatch.setattr(cp.Problem, "solve", fail)
    with pytest.raises(SolverError, match="CLARABEL failed: numerical error"):
        solve_cvxpy(program)
    monkeypatch.setattr(cp.Problem, "solve", lambda self, **options: None)
    monkeypatch.setattr(cp.Problem, "status", "infeasible")
    with pytest.raises(SolverError, match="CLARABEL ended with status 'infeasible'"):
        solve_cvxpy(program)


def test_conic_solver_at_its_limit_keeps_what_it_has():
    program = sampled_program("squared_error", True)
    best = solve_interior_point(program, tol=1e-9).objective
    try:
        result = solve_cvxpy(program, tol=1e-9, max_iter=4)
    except SolverError as error:
        assert "CLARABEL" in str(error)
    else:
        assert result.status == "max_iter"
        assert result.dual_bound <= best * (1 + 1e-9)


@pytest.mark.slow
def test_cvxpy_and_matplotlib_are_not_imported():
    """Neither with the package nor by what it does unless asked to."""
    code = """
import sys
import numpy as np
from sklearn_convexnn import *

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in ("cvxpy", "matplotlib"):
            raise AssertionError(name)

assert not {"cvxpy", "matplotlib", "clarabel"} & set(sys.modules)
sys.meta_path.insert(0, Refuse())
rng = np.random.default_rng(0)
for n in (5, 20, 60):
    X = rng.standard_normal((n, 6))
    y = X[:, 0] + np.abs(X[:, 1])
    # Enough to need a proof of data of this rank.
    options = {"n_arrangements": 10, "tol": 0.1, "random_state": 0}
    ConvexReLURegressor(20.0, **options).fit(X, y)
    if n < 60:
        for k in (2, 3):
            model = ConvexReLUClassifier(0.5 + n / 20, **options)
            model.fit(X, np.arange(n) % k)
    if n == 20:
        assert "clarabel" in sys.modules
        certify(model, X, np.arange(n) % k, alpha=model.alpha)
        alpha_max(ConvexReLURegressor(), X[:8], y[:8])
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    subprocess.run(command, check=True)


def test_no_array_of_samples_times_patterns_times_features(monkeypatch):
    """The expanded matrix is never formed, not even one sign of it."""
    monkeypatch.setattr("sklearn_convexnn.programs.masked_operator.CHUNK", 100_000)
    n, d, P = 200, 40, 300
    X, y, s = tiny_data("squared_error", n=n, d=d)
    arrangement = sample_arrangement(X, P, random_state=0)
    program = make_program("squared_error", X, y, s, 20.0, arrangement=arrangement)
    tracemalloc.start()
    try:
        result = solve_interior_point(program, max_iter=2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result.n_iter == 2
    # A few matrices of (blocks, p, p) and arrays of (blocks, n) are needed.
    blocks = 2 * P * 8
    assert peak < 6 * blocks * d * d + 20 * blocks * n + 8 * n * n
    assert peak < 0.8 * blocks * n * d * 2


class TestConeScaling:
    """The algebra of the second-order cones against its defining equations."""

    @pytest.fixture
    def points(self):
        rng = np.random.default_rng(0)
        v, z = rng.standard_normal((2, 6, 3))
        t = np.linalg.norm(v, axis=1) * rng.uniform(1.01, 2.0, 6)
        tau = np.linalg.norm(z, axis=1) * rng.uniform(1.01, 2.0, 6)
        return t, v, tau, z

    def test_scaled_points_agree(self, points):
        t, v, tau, z = points
        scaling = ConeScaling(*points)
        for one, two in zip(scaling.apply(tau, z), scaling.apply_inverse(t, v)):
            assert_allclose(one, two)
        for back, start in zip(scaling.apply_inverse(*scaling.apply(t, v)), (t, v)):
            assert_allclose(back, start)

    def test_division(self, points):
        scaling = ConeScaling(*points)
        head, tail = scaling.divide_by_lambda(points[0], points[3])
        lead, rest = scaling.lam
        assert_allclose(lead * head + np.sum(rest * tail, axis=1), points[0])
        product = lead[:, None] * tail + head[:, None] * rest
        assert_allclose(product, points[3])

    def test_elimination(self, points):
        scaling = ConeScaling(*points)
        rng = np.random.default_rng(1)
        head, tail, dv = rng.standard_normal(6), *rng.standard_normal((2, 6, 3))
        shift, step_t, step_z = scaling.eliminate(head, tail)
        dz, dt = step_z(dv), step_t(dv)
        z_part, s_part = scaling.apply(np.zeros(6), dz), scaling.apply_inverse(dt, dv)
        assert_allclose(z_part[0] + s_part[0], head)
        assert_allclose(z_part[1] + s_part[1], tail)
        reduced = np.zeros((6, 3, 3))
        scaling.add_reduced(reduced)
        assert_allclose(shift - np.einsum("bij,bj->bi", reduced, dv), dz)

    def test_largest_step(self, points):
        t, v, _, _ = points
        rng = np.random.default_rng(2)
        for _ in range(20):
            dt, dv = rng.standard_normal(6), rng.standard_normal((6, 3))
            size = largest_step(t, v, dt, dv)
            for factor, inside in ((1 - 1e-7, True), (1 + 1e-7, False)):
                a = factor * min(size, 1e6)
                margins = t + a * dt - np.linalg.norm(v + a * dv, axis=1)
                assert (margins.min() >= 0) == (inside or size > 1e6)


def test_hinge_dual_comes_from_the_solver():
    """The gradient is not the dual variable of hinge, even at the optimum."""
    program = sampled_program("hinge", False)
    result = solve_interior_point(program, tol=1e-8)
    f = program.operator.forward(result.theta)
    naive = -program.loss.gradient(f, program.y, program.sample_weight)
    assert program.dual_bound(naive, result.rho) < 0.99 * result.objective
    assert_allclose(result.dual_bound, result.objective, rtol=1e-7)
    # Its box: 0 <= y nu <= s.
    t = program.y * result.nu / program.sample_weight
    assert t.min() > -1e-12 and t.max() < 1 + 1e-12


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_reference_in_any_units(loss, bias):
    X, y, s = tiny_data(loss, n=20, d=3, weighted=True)
    for power in (-7, -3, 3, 7):
        for of_targets in (False, True):
            if of_targets and (loss == "poisson" or loss in CLASSIFICATION_LOSSES):
                continue
            unit = 10.0**power
            rows, targets, other = X * (1.0 if of_targets else unit), y, loss_of(loss)
            alpha = 1.0 if of_targets and loss == "quantile" else unit
            if of_targets:
                targets = y * unit
                if loss == "huber":
                    other = make_loss(loss, epsilon=EPSILON * unit)
            arrangement = sample_arrangement(rows, 8, free_bias=bias, random_state=0)
            problem = problem_of_one(rows, targets, s, other, alpha, bias)
            program = TwoLayerProgram(problem, arrangement)
            ours = solve_interior_point(program, tol=1e-7)
            reference = solve_cvxpy(program, tol=1e-6)
            assert_allclose(reference.objective, ours.objective, rtol=1e-5)
            gap = reference.objective - reference.dual_bound
            assert abs(gap) <= 1e-5 * reference.objective


@pytest.mark.parametrize("power", [-6, 6])
def test_reference_of_targets_in_other_units_than_alpha(power):
    """The solution is nearly constant, or nearly interpolates."""
    X, y, s = tiny_data("squared_error", n=20, d=3, weighted=True)
    arrangement = sample_arrangement(X, 8, free_bias=True, random_state=0)
    program = make_program(
        "squared_error", X, y * 10.0**power, s, 0.7, bias=True, arrangement=arrangement
    )
    ours, reference = solve_interior_point(program, tol=1e-7), solve_cvxpy(program)
    assert_allclose(reference.objective, ours.objective, rtol=1e-5)


def test_inaccurate_conic_solution_is_not_silent(monkeypatch):
    program = sampled_program("squared_error", True)

    def loose(tol):
        return {"tol_gap_rel": 0.1, "tol_gap_abs": 0.1, "tol_feas": 0.1}

    monkeypatch.setitem(cvxpy_reference.CONIC_SOLVERS, "CLARABEL", loose)
    with pytest.warns(ConvergenceWarning, match="CLARABEL reports optimal"):
        result = solve_cvxpy(program)
    assert result.status == "stalled"
