"""Cutting planes: both kinds of cuts, all ways of pricing, and what is claimed."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline

from sklearn_convexnn import (
    ConvexReLUClassifier,
    ConvexReLURegressor,
    ConvexReLURegressorCV,
    GatedReLURegressor,
    _fitting,
    cutting_planes,
)
from sklearn_convexnn.families.two_layer.slope_bounds import (
    semidefinite_bound,
    triangle_bound,
)
from sklearn_convexnn.model.settings import Limits
from sklearn_convexnn.patterns.arrangements import Arrangement, enumerate_arrangement
from sklearn_convexnn.solvers import solve_interior_point
from sklearn_convexnn.training import cutting_planes as engine
from sklearn_convexnn.training.bounds import cone_slopes
from sklearn_convexnn.training.cutting_planes import point_inside, steepest_nonnegative
from tests.problems import FEW_LOSSES, LOSSES, make_program, problem_of, tiny_data

BIAS_AND_SLOPE = [(False, 0.0), (True, 0.0), (True, 0.3), (False, -1.0)]
CUTS = ["neurons", "cells"]


def program_and_problem(loss="squared_error", bias=False, slope=0.0, n=9, d=3, seed=0):
    """The program over all patterns of weighted samples, and the problem."""
    X, y, s = tiny_data(loss, n=n, d=d, seed=seed, weighted=True)
    if bias:
        X = X - X.mean(axis=0)
    program = make_program(loss, X, y, s, 0.3, bias=bias, slope=slope)
    return program, problem_of(program, X)


def run(problem, cuts, tol, **params):
    rng, limits = np.random.RandomState(0), Limits(tol)
    return engine.cutting_planes(problem, rng, limits, cuts=cuts, **params)


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize(
    "loss, bias, slope",
    [
        pytest.param(loss, *case, marks=() if k % 5 == 0 else pytest.mark.slow)
        for k, (loss, case) in enumerate(itertools.product(FEW_LOSSES, BIAS_AND_SLOPE))
    ],
)
def test_reaches_the_optimum_over_all_patterns(loss, bias, slope, cuts):
    program, problem = program_and_problem(loss, bias, slope)
    best = solve_interior_point(program, tol=1e-9)
    result = run(problem, cuts, tol=1e-4)
    assert result.status == "optimal"
    assert result.objective <= best.objective * (1 + 1.1e-4)
    assert result.objective >= best.dual_bound * (1 - 1e-9)
    assert result.dual_bound <= best.objective * (1 + 1e-9)
    assert result.objective - result.dual_bound <= 1e-4 * result.objective
    assert_allclose(problem.objective(result.neurons), result.objective, rtol=1e-12)
    assert_allclose(problem.bound(result.nu, result.kappa), result.dual_bound)
    assert np.all(np.diff(result.history["objective"]) <= 0)
    # Bounds of early rounds hold as well.
    assert np.all(result.history["dual_bound"] <= best.objective * (1 + 1e-9))


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("n, d", [(8, 1), (10, 2)])
@pytest.mark.parametrize("bias", [False, True])
def test_lower_dimensions(n, d, bias, cuts):
    program, problem = program_and_problem(bias=bias, n=n, d=d)
    best = solve_interior_point(program, tol=1e-9)
    result = run(problem, cuts, tol=1e-5)
    assert result.status == "optimal"
    assert_allclose(result.objective, best.objective, rtol=2e-5)
    assert result.dual_bound <= best.objective * (1 + 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("bias", [False, True])
def test_every_dual_point_is_bounded_from_below_by_pricing(bias):
    """The slope that a bound rests on is that of all cells, to the accuracy asked."""
    _, problem = program_and_problem(bias=bias)
    result = run(problem, "neurons", tol=1e-3)
    arrangement = enumerate_arrangement(problem.X, free_bias=bias)
    exact = cone_slopes(problem.X, result.nu[:, 0], arrangement, free_bias=bias).max()
    assert exact * (1 - 1e-7) <= result.kappa <= max(exact, 0.3) * (1 + 1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("bias", [False, True])
def test_cells_need_fewer_rounds_than_neurons(bias):
    _, problem = program_and_problem(bias=bias)
    rounds = [run(problem, cuts, tol=1e-4).n_iter for cuts in CUTS]
    assert 2 * rounds[1] <= rounds[0] <= 30


@pytest.mark.parametrize("pricing", ["exact", "search"])
def test_linear_neurons_are_priced_on_their_own(pricing):
    _, problem = program_and_problem(bias=True)
    target = problem.X @ np.array([3.0, -1.0, 2.0])
    problem = replace(problem, Y=target[:, None])
    result = run(problem, "neurons", pricing=pricing, tol=1e-3)
    assert result.status == "optimal"
    # One that begins at the first sample is as steep.
    active = np.sum(problem.family.features(result.neurons.units) > 0, axis=0)
    assert np.any((active >= len(target) - 1) | result.neurons.units.linear)


def test_one_neuron_of_each_sign_in_a_round():
    _, problem = program_and_problem()
    history = run(problem, "neurons", tol=1e-4).history
    assert history["blocks"][0] == 2
    assert np.all(np.diff(history["blocks"]) <= 2)


@pytest.mark.parametrize("bias, slope", BIAS_AND_SLOPE)
def test_relaxations_enclose_the_largest_slope(bias, slope):
    rng = np.random.default_rng(0)
    for _ in range(3):
        X = np.abs(rng.standard_normal((9, 3)))
        nu = rng.standard_normal(9)
        nu = nu - nu.mean() if bias else nu
        geometry = {"free_bias": bias, "negative_slope": slope}
        exact = cone_slopes(
            X, nu, enumerate_arrangement(X, free_bias=bias), **geometry
        ).max()
        found = steepest_nonnegative(X, nu, free_bias=bias)
        z = X @ found.directions.T + found.biases
        assert np.all(z >= -1e-12)
        assert_allclose(np.linalg.norm(found.directions, axis=1), 1.0)
        assert_allclose(found.slopes, found.outputs[:, 0] * (nu @ z), atol=1e-9)
        assert 0 < found.slopes[0] <= exact * (1 + 1e-9)
        semidefinite = semidefinite_bound(X, nu, **geometry)
        assert exact * (1 - 1e-9) <= semidefinite
        assert semidefinite <= triangle_bound(X, nu, **geometry) * (1 + 1e-6)


def test_nonnegative_pricing_is_exact_on_orthonormal_samples():
    rng = np.random.default_rng(0)
    X = np.linalg.qr(rng.standard_normal((9, 6)))[0].T
    nu = rng.standard_normal(6)
    found = steepest_nonnegative(X, nu, free_bias=False)
    parts = [np.linalg.norm(part) for part in (nu[nu > 0], nu[nu < 0])]
    assert_allclose(found.slopes, sorted(parts)[::-1])


@pytest.mark.parametrize("cuts", CUTS)
def test_nonnegative_pricing_can_prove_the_optimum(cuts):
    rng = np.random.default_rng(0)
    X = np.linalg.qr(rng.standard_normal((9, 6)))[0].T
    y = rng.standard_normal(6)
    parts = [np.linalg.norm(part) for part in (y[y > 0], y[y < 0])]
    model = ConvexReLURegressor(0.3, fit_intercept=False, tol=1e-3)
    model = cutting_planes(model, X, y, cuts=cuts, pricing="nonnegative")
    # Two decoupled problems, each min (r - size)^2 / 2 + 0.3 r.
    assert_allclose(model.objective_, sum(0.3 * r - 0.045 for r in parts), rtol=1e-3)
    assert model.certificate_ == "global"
    assert model.n_iter_ == 1


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("bias", [False, True])
def test_nonnegative_pricing_is_optimal_among_its_neurons(bias, cuts):
    rng = np.random.default_rng(0)
    X = np.abs(rng.standard_normal((10, 3)))
    X = X - X.mean(axis=0) if bias else X
    y, on = rng.standard_normal(10), np.ones((1, 10), dtype=bool)
    gate = np.append(np.zeros(3), 1.0) if bias else X.sum(axis=0)
    program = make_program(
        "squared_error",
        X,
        y,
        np.ones(10),
        0.3,
        bias=bias,
        arrangement=Arrangement(on, gate[None], False),
    )
    best = solve_interior_point(program, tol=1e-9)
    result = run(problem_of(program, X), cuts, pricing="nonnegative", tol=1e-5)
    assert result.status == "optimal"
    assert_allclose(result.objective, best.objective, rtol=2e-5)
    assert_allclose(result.dual_bound, best.objective, rtol=2e-5)
    assert cuts == "neurons" or result.n_iter == 1


def test_point_inside():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((8, 3))
    inside = rng.standard_normal(3)
    rows *= np.sign(rows @ inside)[:, None]
    assert np.all(rows @ point_inside(rows) > 0)
    assert point_inside(np.vstack([rows, -rows[:1]])) is None
    assert np.all(point_inside(np.vstack([rows, np.zeros(3)])) @ rows.T > 0)


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize(
    "pricing, kind",
    [("exact", "global"), ("search", "estimated"), ("nonnegative", "restricted")],
)
def test_certificates(cuts, pricing, kind):
    X, y, _ = tiny_data("squared_error", n=12)
    model = ConvexReLURegressor(0.3, random_state=0)
    model = cutting_planes(model, X, y, cuts=cuts, pricing=pricing)
    assert model.certificate_ == kind
    assert model.dual_gap_ <= 1e-2 * model.objective_
    assert model.n_iter_ == len(model.history_["time"])
    assert model.n_arrangements_ == model.history_["blocks"].max()
    best = ConvexReLURegressor(0.3, arrangements="exact").fit(X, y)
    if kind != "restricted":
        assert_allclose(model.objective_, best.objective_, rtol=1e-2)
        assert model.dual_bound_ <= best.objective_
    else:
        assert model.dual_bound_ > best.objective_


@pytest.mark.slow
@pytest.mark.parametrize("pricing", ["triangle", "semidefinite"])
@pytest.mark.parametrize("cuts", CUTS)
def test_relaxation_that_leaves_a_gap_says_so(pricing, cuts):
    X, y, _ = tiny_data("squared_error", n=9, d=3)
    model = ConvexReLURegressor(0.3, random_state=0, tol=1e-4)
    with pytest.warns(
        ConvergenceWarning,
        match="duality gap of .* relaxation of the pricing .* Use pricing='exact'",
    ):
        model = cutting_planes(model, X, y, cuts=cuts, pricing=pricing)
    assert model.certificate_ == "global"
    best = ConvexReLURegressor(0.3, arrangements="exact").fit(X, y)
    # The network is good all the same, and the bound valid.
    assert_allclose(model.objective_, best.objective_, rtol=1e-3)
    assert 0 < model.dual_bound_ <= best.objective_


def test_relaxation_that_closes():
    X, y = np.eye(5), np.array([1.0, -2.0, 3.0, 0.5, -1.0])
    model = ConvexReLURegressor(0.3, fit_intercept=False)
    model = cutting_planes(model, X, y, pricing="triangle")
    assert model.certificate_ == "global"
    assert model.dual_gap_ <= 1e-2 * model.objective_


@pytest.mark.slow
def test_branch_and_bound_that_is_cut_short_says_so(monkeypatch):
    monkeypatch.setattr(engine, "node_limit", lambda X: 0)
    X, y, _ = tiny_data("squared_error", n=12, d=4)
    model = ConvexReLURegressor(0.3, random_state=0)
    with pytest.warns(ConvergenceWarning, match="branch and bound could not close"):
        model = cutting_planes(model, X, y)
    assert model.certificate_ == "global"
    assert 0 < model.dual_bound_ < model.objective_


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize(
    "limit, name",
    [({"max_iter": 2}, "iterations"), ({"max_time": 1e-9}, "time"), ({}, "neurons")],
)
def test_limits(limit, name, cuts):
    X, y, _ = tiny_data("squared_error", n=30, d=3)
    limit = limit or {"max_neurons": 3}
    model = ConvexReLURegressor(0.3, random_state=0, tol=1e-6, **limit)
    with pytest.warns(
        ConvergenceWarning, match=f"the (limit of )?{name} limit|the limit of {name}"
    ):
        model = cutting_planes(model, X, y, cuts=cuts)
    assert model.dual_bound_ < model.objective_
    if name == "neurons":
        assert model.n_neurons_ <= 3
    if name == "iterations":
        assert model.n_iter_ == 2


class StoppingTask:
    """Asks to stop after three rounds."""

    rounds = 0

    def subtask(self, name):
        return self

    def begin(self):
        return self

    def end(self, neurons):
        self.rounds += 1
        return self.rounds == 3


@pytest.mark.parametrize("cuts", CUTS)
def test_a_callback_can_stop(cuts):
    _, problem = program_and_problem(n=12)
    result = run(problem, cuts, tol=1e-8, task=StoppingTask())
    assert result.status == "callback"
    assert result.n_iter == 3


@pytest.mark.parametrize("missed", [1, 3])
def test_a_search_that_missed_a_neuron_is_corrected(missed, monkeypatch):
    """A bound that was too good falls when the neuron is found after all."""
    program, problem = program_and_problem()
    search, calls = engine.search_widely, []

    def blind_at_first(*args, **params):
        calls.append(args)
        found = search(*args, **params)
        return found.select(slice(0, 0)) if len(calls) == missed else found

    monkeypatch.setattr(engine, "search_widely", blind_at_first)
    result = run(problem, "cells", pricing="search", tol=1e-4)
    best = solve_interior_point(program, tol=1e-9).objective
    assert result.status == "optimal"
    assert_allclose(result.objective, best, rtol=2e-4)
    assert result.dual_bound <= best * (1 + 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("bias", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_known_neurons_are_kept(cuts, bias):
    _, problem = program_and_problem(bias=bias, n=15)
    first = run(problem, cuts, tol=1e-3)
    again = run(problem, cuts, tol=1e-3, known=first.neurons)
    assert again.n_iter < first.n_iter
    assert again.objective <= first.objective * (1 + 1e-9)
    # Few of these neurons are active on all samples; the others may not count.
    few = run(problem, cuts, pricing="nonnegative", tol=1e-3, known=first.neurons)
    assert few.dual_bound <= few.objective * (1 + 1e-9)
    assert few.objective > first.objective


def test_the_algorithm_that_was_asked_for_is_used():
    """No closed form for one feature, and no program over all patterns."""
    X, y, _ = tiny_data("squared_error", n=9, d=1)
    for cuts in CUTS:
        model = cutting_planes(ConvexReLURegressor(0.3), X, y, cuts=cuts)
        assert model.n_iter_ > 1
        assert np.all(np.isfinite(model.history_["kappa"]))


@pytest.mark.slow
def test_classes_and_outputs():
    X, y, _ = tiny_data("squared_error", n=12)
    estimator = ConvexReLUClassifier(
        0.1, loss="squared_hinge", random_state=0, class_weight="balanced"
    )
    model = cutting_planes(estimator, X, y > np.median(y), cuts="cells")
    assert model.certificate_ == "global"
    assert model.dual_gap_ <= 1e-2 * model.objective_


def test_several_outputs_are_refused():
    X, y, _ = tiny_data("squared_error", n=12)
    classes = np.digitize(y, np.quantile(y, [0.3, 0.7]))
    for estimator, target in (
        (ConvexReLUClassifier(), classes),
        (ConvexReLURegressor(), np.column_stack([y, -y])),
    ):
        with pytest.raises(ValueError, match="cutting_planes is for one output, got"):
            cutting_planes(estimator, X, target)
        assert not hasattr(estimator, "coefs_")


def test_verbose_prints_a_line_for_each_round(capsys):
    X, y, _ = tiny_data("squared_error", n=9)
    model = cutting_planes(ConvexReLURegressor(0.3, verbose=1), X, y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == model.n_iter_
    assert "round   1" in lines[0] and " cuts  " in lines[0]


@pytest.mark.parametrize("name", ["cuts", "pricing"])
def test_unknown_names(name):
    with pytest.raises(ValueError, match=f"{name}' parameter of .* Got 'cutting'"):
        cutting_planes(
            ConvexReLURegressor(), np.eye(3), np.arange(3.0), **{name: "cutting"}
        )


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(ConvexReLURegressor()),
        GatedReLURegressor(),
        ConvexReLURegressorCV(),
        ConvexReLURegressor,
        "neurons",
    ],
)
def test_other_estimators_are_refused(estimator):
    with pytest.raises(TypeError, match="cutting_planes needs an instance"):
        cutting_planes(estimator, np.eye(3), np.arange(3.0))


def test_the_estimator_stays_as_it_is():
    X, y, s = tiny_data("squared_error", n=12, weighted=True)
    estimator = ConvexReLURegressor(0.3, arrangements="exact", random_state=0)
    model = cutting_planes(estimator, X, y, sample_weight=s)
    assert not hasattr(estimator, "coefs_")
    assert model.get_params() == estimator.get_params()
    best = estimator.fit(X, y, sample_weight=s)
    assert_allclose(model.objective_, best.objective_, rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "n_features, pricing",
    [(1, "exact"), (2, "search"), pytest.param(2, "exact", marks=pytest.mark.slow)],
)
def test_many_samples_go_the_same_way(n_features, pricing, monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((4200, n_features))
    y = np.abs(X[:, 0]) + 0.1 * rng.standard_normal(4200)

    def refuse(*args, **params):
        raise AssertionError("as many samples")

    monkeypatch.setattr(_fitting, "train_at_scale", refuse)
    model = ConvexReLURegressor(10.0, random_state=0, max_iter=2, tol=1e-6)
    with pytest.warns(ConvergenceWarning, match="limit of iterations"):
        model = cutting_planes(model, X, y, pricing=pricing)
    assert model.n_iter_ == len(model.history_["time"]) == 2
    assert 0 < model.dual_bound_ < model.objective_ < 0.5 * len(y) * np.var(y)


@pytest.mark.parametrize("pricing", ["exact", "search", "nonnegative"])
@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("bias", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_degenerate_data(bias, cuts, pricing):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((12, 2))
    cases = [
        (X[:1], [3.0]),
        (X, np.full(12, 2.5)),
        (X, np.zeros(12)),
        (np.zeros((12, 2)), rng.standard_normal(12)),
        (np.ones((12, 2)), rng.standard_normal(12)),
        (np.column_stack([X, np.ones(12), np.zeros(12)])[:6], rng.standard_normal(6)),
        (np.repeat(X[:4], 3, axis=0), rng.standard_normal(12)),
        (1e-8 * X, rng.standard_normal(12)),
    ]
    for data, target in cases:
        model = ConvexReLURegressor(0.1, fit_intercept=bias, random_state=0)
        model = cutting_planes(model, data, target, cuts=cuts, pricing=pricing)
        assert model.dual_gap_ <= 1e-2 * model.objective_ + 1e-9 * np.var(target)
        assert model.dual_bound_ <= model.objective_ * (1 + 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("cuts", CUTS)
def test_bounds_are_never_above_the_optimum(cuts):
    """Random problems of all kinds and ways of pricing against all patterns."""
    rng = np.random.default_rng(0)
    pricings = ["exact", "triangle", "semidefinite"]
    for seed in range(40):
        loss, pricing = LOSSES[seed % len(LOSSES)], pricings[seed % 3]
        bias, slope = BIAS_AND_SLOPE[seed % 4]
        n, d = int(rng.integers(8, 14)), int(rng.integers(2, 4))
        program, problem = program_and_problem(loss, bias, slope, n, d, seed)
        best = solve_interior_point(program, tol=1e-8)
        result = run(problem, cuts, pricing=pricing, tol=1e-3)
        assert result.status in ("optimal", "loose")
        assert result.objective <= best.objective * (1 + 2e-3)
        assert result.dual_bound <= best.objective * (1 + 1e-7)
