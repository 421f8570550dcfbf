"""Training on many samples: batches, chunks, sampled pricing, single precision."""

from dataclasses import replace
from time import perf_counter

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import make_regression
from sklearn.exceptions import ConvergenceWarning

from sklearn_convexnn import ConvexReLUClassifier, ConvexReLURegressor, certify
from sklearn_convexnn._utils.deadlines import until
from sklearn_convexnn.families import base
from sklearn_convexnn.families.two_layer import starts as starts_module
from sklearn_convexnn.families.two_layer.placing import (
    improve_neurons,
    network_of,
    random_weights,
)
from sklearn_convexnn.families.two_layer.pricing import search_units
from sklearn_convexnn.families.two_layer.sampled_pricing import (
    finish_on_all,
    sample_residuals,
)
from sklearn_convexnn.families.two_layer.starts import FAR, Plan, Starts
from sklearn_convexnn.losses import Separable, Softmax, make_loss
from sklearn_convexnn.model.settings import Limits
from sklearn_convexnn.solvers import descent, mini_batches
from sklearn_convexnn.solvers.mini_batches import descend_in_batches
from sklearn_convexnn.training import at_scale, bounds as training_bounds
from sklearn_convexnn.training.at_scale import generate_at_scale, goes_at_scale
from sklearn_convexnn.training.column_generation import generate_neurons
from sklearn_convexnn.training.dual_points import CLAIM
from tests.problems import two_layer_problem


def planted(n, d=5, c=2, *, loss="squared_error", alpha=1.0, seed=0, **options):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    Y = np.maximum(X @ rng.standard_normal((d, 4)), 0.0) @ rng.standard_normal((4, c))
    Y += 0.1 * rng.standard_normal(Y.shape)
    s = rng.uniform(0.5, 2.0, n)
    if loss in ("hinge", "squared_hinge", "log_loss"):
        Y = np.where(Y > 0, 1.0, -1.0)
    if loss == "softmax":
        Y = np.eye(c)[np.argmax(Y, axis=1)]
    kind = Softmax() if loss == "softmax" else Separable(make_loss(loss))
    options = {"bias": True, **options}
    return two_layer_problem(X, Y, s, kind, alpha, **options)


def single(problem):
    return of_type(problem, np.float32)


def of_type(problem, dtype):
    family = replace(problem.family, X=problem.X.astype(dtype))
    return replace(problem, family=family)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("options", [{}, {"bias": False}])
def test_chunks_do_not_change_the_problem(monkeypatch, dtype, options):
    p = planted(200, **options)
    network = network_of(random_weights(p, 7, np.random.RandomState(0)))
    p = of_type(p, dtype)
    N = p.dual_point(p.outputs(network))
    expected = p.outputs(network), p.family.slopes(network.units, N)
    before = improve_neurons(p, network, 3)
    monkeypatch.setattr(base, "_CHUNK", 100)
    monkeypatch.setattr(descent, "_CHUNK", 100)
    rtol = 1e-10 if dtype == np.float64 else 1e-3
    assert_allclose(p.outputs(network), expected[0], rtol=rtol, atol=rtol)
    assert_allclose(p.family.slopes(network.units, N), expected[1], rtol=rtol)
    moved = improve_neurons(p, network, 3)
    assert_allclose(p.objective(moved), p.objective(before), rtol=rtol)


def test_slopes_are_of_double_precision():
    p = planted(500)
    network = network_of(random_weights(p, 7, np.random.RandomState(0)))
    N = p.dual_point(p.outputs(network))
    short = single(p)
    wide = of_type(short, np.float64)
    found, expected = (x.family.slopes(network.units, N) for x in (short, wide))
    assert_allclose(found, expected, rtol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize(
    "loss",
    [
        "squared_error",
        "softmax",
        pytest.param("hinge", marks=pytest.mark.slow),
        pytest.param("log_loss", marks=pytest.mark.slow),
    ],
)
def test_batches_come_close_to_descent_on_all(loss):
    p = planted(3000, loss=loss, alpha=20.0)
    rng = np.random.RandomState(0)
    start = random_weights(p, 20, rng)
    full = p.objective(improve_neurons(p, network_of(start), 100))
    for problem in (p, single(p)):
        network = network_of(descend_in_batches(problem, start, rng, 3000))
        assert p.objective(network) < 1.15 * full
        assert p.objective(network) < 0.5 * p.objective(p.null())


def test_batches_move_only_what_may_move():
    p = planted(600, bias=False)
    rng = np.random.RandomState(0)
    start = random_weights(p, 6, rng)
    moved = descend_in_batches(p, start, rng, 10)
    assert not np.allclose(moved.output, start.output)
    assert not moved.bias.any() and not moved.offset.any()


def test_batches_end_in_time():
    p = planted(5000)
    rng = np.random.RandomState(0)
    weights = random_weights(p, 50, rng)
    start = perf_counter()
    with until(start + 0.3):
        descend_in_batches(p, weights, rng, 10**8)
    assert perf_counter() - start < 5.0


def test_sampled_residuals_stand_for_all():
    p = planted(400)
    network = network_of(random_weights(p, 5, np.random.RandomState(0)))
    N = p.dual_point(p.outputs(network))
    rng = np.random.RandomState(0)
    direction = np.ones(p.X.shape[1])
    exact = np.maximum(p.X @ direction, 0.0) @ N
    estimates = []
    for _ in range(400):
        X, residual = sample_residuals(p, N, 100, rng)
        assert len(X) <= 100
        assert_allclose(residual.sum(axis=0), 0.0, atol=1e-8)
        estimates.append(np.maximum(X @ direction, 0.0) @ residual)
    error = np.std(estimates, axis=0) / 20.0
    # Centring the residuals has a small effect of its own.
    assert np.all(np.abs(np.mean(estimates, axis=0) - exact) < 5.0 * error)


def test_candidates_have_slopes_over_all_samples():
    p = single(planted(1000))
    N = p.dual_point(p.outputs(p.null()))
    rng = np.random.RandomState(0)
    X, residual = sample_residuals(p, N, 200, rng)
    found = search_units(X, residual, rng.standard_normal((30, 5)), free_bias=True)
    found = finish_on_all(p, N, found, found.units.select(slice(0, 5)), 10)
    Z = np.maximum(p.X.astype(float) @ found.directions.T + found.biases, 0.0)
    assert_allclose(found.slopes, np.sum((Z.T @ N) * found.outputs, axis=1), rtol=1e-9)
    best = search_units(
        p.X.astype(float), N, rng.standard_normal((300, 5)), free_bias=True
    )
    assert found.slopes[0] > 0.97 * best.slopes[0]
    assert found.slopes[0] <= best.slopes[0] * (1.0 + 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "options"),
    [
        ("squared_error", {}),
        ("squared_error", {"bias": False}),
        ("squared_error", {"slope": 0.2}),
        ("softmax", {}),
        ("hinge", {}),
        ("squared_error", {"c": 1}),
    ],
)
def test_agrees_with_column_generation(loss, options):
    p = planted(200, d=3, alpha=4.0, loss=loss, **options)
    exact = generate_neurons(p, np.random.RandomState(0), Limits(tol=1e-4))
    found = generate_at_scale(p, np.random.RandomState(0), Limits(tol=5e-3))
    assert found.status == "optimal"
    assert_allclose(p.objective(found.neurons), found.objective, rtol=1e-5)
    assert found.objective < exact.objective * (1.0 + 5.1e-3)
    assert found.objective > exact.dual_bound * (1.0 - 1e-6)
    # The bound is an estimate, of a gap of half a per cent.
    assert found.dual_bound < exact.objective * (1.0 + 1e-3)
    assert found.dual_bound > 0.99 * exact.objective


@pytest.fixture(scope="module")
def table():
    p = planted(4200, d=4, c=3, alpha=30.0)
    return p.X, p.Y, p.sample_weight


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_samples", [400, pytest.param(4200, marks=pytest.mark.slow)])
def test_regressor(table, dtype, n_samples, monkeypatch):
    X, Y, s = (part[:n_samples] for part in table)
    X = X.astype(dtype)
    if n_samples < 4200:
        monkeypatch.setattr(mini_batches, "_BATCH", 32)
        monkeypatch.setattr(at_scale, "_FEWEST_SAMPLES", 100)
        monkeypatch.setattr(at_scale, "_MANY", 100)
    assert goes_at_scale(X.shape, 1, "adaptive")
    assert not goes_at_scale(X.shape, 1, "sampled")
    model = ConvexReLURegressor(alpha=30.0, tol=0.02, random_state=0)
    model.fit(X, Y[:, 0], sample_weight=s)
    assert model.coefs_[0].dtype == dtype
    F = np.maximum(X.astype(float) @ model.coefs_[0] + model.intercepts_[0], 0.0)
    F = F @ model.coefs_[1] + model.intercepts_[1]
    decay = sum(np.sum(np.square(w, dtype=float)) for w in model.coefs_)
    objective = 0.5 * s @ (F[:, 0] - Y[:, 0]) ** 2 + 15.0 * decay
    assert_allclose(model.objective_, objective, rtol=1e-5)
    assert model.certificate_ == "estimated"
    assert 0 < model.dual_gap_ <= 0.02 * model.objective_


@pytest.mark.slow
def test_same_seed_same_network(table):
    X, Y, _ = table
    first, second = (
        ConvexReLURegressor(alpha=30.0, tol=0.02, random_state=0).fit(X, Y)
        for _ in range(2)
    )
    assert_array_equal(first.coefs_[0], second.coefs_[0])


@pytest.mark.slow
def test_classifier(table):
    X, Y, _ = table
    y = np.array(["a", "b", "c"])[np.argmax(Y, axis=1)]
    model = ConvexReLUClassifier(alpha=30.0, tol=0.02, random_state=0).fit(X, y)
    assert model.dual_gap_ <= 0.02 * model.objective_
    assert model.score(X, y) > 0.9
    before = model.objective_
    model.set_params(warm_start=True, n_arrangements=3).fit(X, y)
    assert model.objective_ < 1.02 * before


def test_a_fit_that_is_out_of_time_has_a_network_and_a_bound(table):
    X, Y, _ = table
    model = ConvexReLURegressor(alpha=1.0, tol=1e-3, max_time=2.0, random_state=0)
    start = perf_counter()
    with pytest.warns(ConvergenceWarning, match="the time limit was reached"):
        model.fit(X, Y)
    assert perf_counter() - start < 30.0
    assert model.n_neurons_ > 0
    assert 0 <= model.dual_bound_ < model.objective_
    rough = 0.5 * np.sum((Y - Y.mean(axis=0)) ** 2)
    assert model.objective_ < 0.2 * rough


@pytest.mark.slow
def test_max_neurons(table):
    X, Y, _ = table
    model = ConvexReLURegressor(alpha=3.0, max_neurons=2, random_state=0)
    with pytest.warns(ConvergenceWarning, match="max_neurons"):
        model.fit(X, Y)
    assert model.n_neurons_ <= 2
    assert model.objective_ < 0.5 * np.sum((Y - Y.mean(axis=0)) ** 2)


def test_search_among_many_features(monkeypatch):
    p = planted(300, c=3)
    N = p.dual_point(p.outputs(p.null()))
    directions = np.random.RandomState(0).standard_normal((100, 5))
    starts = Starts(directions, [Plan(FAR, rescale=True)])
    options = {"free_bias": True}
    expected = search_units(p.X, N, starts, **options)
    monkeypatch.setattr(starts_module, "_MANY_FEATURES", 2)
    found = search_units(p.X, N, starts, **options)
    assert_allclose(found.slopes[0], expected.slopes[0], rtol=1e-3)
    plain, shaped = starts_module.random_directions(
        p.X, 6, np.random.RandomState(0), True
    )
    assert plain.shape == (3, 5) and shaped.shape == (6, 5)


def test_a_search_of_few_starts_allows_for_more():
    p = planted(300)
    limits = Limits(tol=1e-2, deadline=perf_counter() + 1e3)
    run = at_scale._RunInChunks(p, np.random.RandomState(0), limits)
    run.price(p.null_dual())
    nu, run.pace = 0.9 * p.null_dual(), 1e9  # as if there were time for a few
    run.price(nu)
    point = next(one for one in run.duals if one.nu is nu)
    assert point.corrected >= 1.3 * point.kappa > 0


def test_a_shorter_search_says_no_more_of_the_unseen():
    p = planted(300)
    limits = Limits(tol=1e-2, deadline=perf_counter() + 1e3)
    run = at_scale._RunInChunks(p, np.random.RandomState(0), limits)
    run.price(p.null_dual())
    nu = 0.9 * p.null_dual()
    run.price(nu, CLAIM)
    point = next(one for one in run.duals if one.nu is nu)
    caution, n_starts = point.caution, point.n_starts
    assert not run.is_short(n_starts, False) and 1.0 < caution < 1.3
    run.pace = 1e9
    run.price(nu, CLAIM)
    assert run.is_short(run.fewest, False)
    assert (point.caution, point.n_starts) == (caution, n_starts)
    # Unless it proves the longer one wrong.
    point.kappa = 0.5 * point.kappa
    run.archive, run.pace = run.archive.select(slice(0, 0)), 1e9
    run.price(nu, CLAIM)
    assert point.n_starts != n_starts


def test_large_data_are_certified_at_scale(monkeypatch):
    X, y = make_regression(4200, 2, noise=1.0, random_state=0)
    y /= np.std(y)
    runs, generate = [], training_bounds.generate_at_scale

    def counted(problem, *args, **kwargs):
        runs.append(len(problem.X))
        return generate(problem, *args, **kwargs)

    monkeypatch.setattr(training_bounds, "generate_at_scale", counted)
    model = ConvexReLURegressor(alpha=50.0, tol=0.05, random_state=0).fit(X, y)
    found = certify(model, X, y, alpha=50.0, tol=0.05, random_state=1)
    assert runs == [4200]
    assert 0.9 * model.objective_ < found.dual_bound <= model.objective_
    assert_allclose(found.objective, model.objective_, rtol=1e-6)
