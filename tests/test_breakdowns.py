"""Fits in which a factorisation fails: the best network so far, and honest words."""

import importlib.util
import sys
import warnings
from collections import Counter
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.linalg import LinAlgError
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning

from sklearn_convexnn import (
    ConvexReLUClassifier,
    ConvexReLURegressor,
    GatedReLUClassifier,
    GatedReLURegressor,
    cutting_planes,
    smallest_network,
)
from sklearn_convexnn._utils.breakdown import least_squares, row_space
from sklearn_convexnn.families.two_layer.cells import solve_on_cells
from sklearn_convexnn.families.two_layer.closed_forms import closed_form
from sklearn_convexnn.families.two_layer.pricing import search_widely
from sklearn_convexnn.losses import Separable, make_loss
from sklearn_convexnn.solvers import mini_batches
from sklearn_convexnn.solvers.gated_losses import GatedLoss
from sklearn_convexnn.solvers.group_lasso import solve_output_weights
from sklearn_convexnn.solvers.lasso import solve_lasso
from sklearn_convexnn.training import at_scale as large
from tests.problems import problem_of_one

NUMPY = (
    "cholesky",
    "det",
    "eigh",
    "eigvalsh",
    "inv",
    "lstsq",
    "matrix_rank",
    "pinv",
    "qr",
    "solve",
    "svd",
)
SCIPY = ("svd", "qr", "cho_factor", "cho_solve", "nnls", "brentq")
LAPACK = ("dpotrf", "dpotrs", "dgbtrf", "dgbtrs")
FAULTS = [*(f"numpy {name}" for name in NUMPY), *SCIPY, *LAPACK]


@contextmanager
def failing(faults, first):
    """Let the functions fail from the call number `first` on; yields those called."""
    calls = []

    def broken(fault, function, error):
        def call(*args, **options):
            calls.append(fault)
            if len(calls) < first:
                return function(*args, **options)
            if fault in LAPACK:
                *values, _ = function(*args, **options)
                return *(np.full_like(value, np.nan) for value in values), 1
            raise error("failing on purpose")

        return call

    with pytest.MonkeyPatch.context() as patch:
        for fault in faults:
            name = fault.split()[-1]
            if fault.startswith("numpy"):
                function = broken(fault, getattr(np.linalg, name), LinAlgError)
                patch.setattr(np.linalg, name, function)
                continue
            error = RuntimeError if name in ("nnls", "brentq") else LinAlgError
            for key, module in list(sys.modules.items()):
                if key.startswith("sklearn_convexnn.") and name in vars(module):
                    real = getattr(module, name)
                    patch.setattr(module, name, broken(fault, real, error))
        yield calls


def data(n, d, kind="regression"):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d))
    f = np.maximum(X[:, 0], 0) - np.abs(X[:, -1])
    if kind == "outputs":
        return X, np.column_stack([f, f**2, X[:, 0]])
    if kind == "classes":
        return X, np.digitize(f, np.quantile(f, [0.3, 0.6]))
    if kind == "labels":
        return X, f > np.median(f)
    return X, f + 0.1 * rng.standard_normal(n)


def route(*args, model=ConvexReLURegressor, how=None, alpha=0.3, **params):
    return model(alpha=alpha, random_state=0, **params), args, how or model.fit


def shrunk(model, X, y):
    return smallest_network(model.fit(X, y), X, y)


ROUTES = {
    "adaptive": route(40, 3),
    "adaptive hinge": route(40, 3, "labels", model=ConvexReLUClassifier, loss="hinge"),
    "adaptive without biases": route(30, 3, fit_intercept=False),
    "outputs": route(40, 3, "outputs"),
    "softmax": route(40, 3, "classes", model=ConvexReLUClassifier),
    "at scale": route(120, 3),
    "at scale softmax": route(120, 3, "classes", model=ConvexReLUClassifier),
    "exact": route(15, 2, arrangements="exact"),
    "exact outputs": route(15, 2, "outputs", arrangements="exact"),
    "sampled outputs": route(12, 2, "outputs", arrangements="sampled"),
    "line": route(30, 1),
    "line without biases": route(30, 1, fit_intercept=False),
    "smallest": route(30, 2, how=shrunk),
    "smallest of outputs": route(30, 2, "outputs", how=shrunk),
    **{
        f"sampled {solver}": route(30, 3, arrangements="sampled", solver=solver)
        for solver in (
            "interior_point",
            "direction_generation",
            "augmented_lagrangian",
            "penalised",
        )
    },
    **{
        f"{cuts} {pricing}": route(
            25, 2, how=partial(cutting_planes, cuts=cuts, pricing=pricing)
        )
        for cuts in ("neurons", "cells")
        for pricing in ("exact", "search", "nonnegative")
    },
    **{
        f"gated {kind}": route(
            30,
            3,
            kind,
            model=GatedReLUClassifier if kind == "classes" else GatedReLURegressor,
        )
        for kind in ("regression", "outputs", "classes")
    },
}


def check_fit(name, faults, first, monkeypatch, max_iter=20):
    """What every fit promises, whatever breaks down in it; the functions called."""
    model, args, how = ROUTES[name]
    model.set_params(max_iter=max_iter)
    X, y = data(*args)
    if name.startswith("at scale"):
        monkeypatch.setattr(mini_batches, "_LEAST", 16)
        monkeypatch.setattr(large, "_FEWEST_SAMPLES", 100)
        monkeypatch.setattr(large, "_MANY", 100)
    with (
        failing(faults, first) as calls,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        model = how(model, X, y)
    assert all(np.all(np.isfinite(part)) for part in model.coefs_ + model.intercepts_)
    assert np.isfinite([model.objective_, model.dual_bound_]).all()
    assert model.dual_bound_ <= model.objective_ * (1 + 1e-9)
    assert {issue.category for issue in caught} <= {ConvergenceWarning, UserWarning}
    if model.dual_gap_ > 1.001 * model.tol * model.objective_:
        texts = [str(issue.message) for issue in caught]
        assert any("duality gap" in text for text in texts)
        assert not any("within the tolerance" in text for text in texts)
    return calls


@pytest.mark.parametrize("first", [1, 3, 10, 40])
@pytest.mark.parametrize("name", ROUTES)
def test_everything_fails(name, first, monkeypatch):
    check_fit(name, FAULTS, first, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROUTES)
def test_one_function_fails(name, monkeypatch):
    calls = Counter(check_fit(name, FAULTS, np.inf, monkeypatch, 2))
    for fault, count in calls.items():
        for first in (1, 10):
            if first <= count:
                check_fit(name, [fault], first, monkeypatch, 2)


def test_no_neurons_and_neurons_that_are_zero():
    """Of nothing to choose from, the constant is the best network."""
    y, s = np.array([1.0, 2.0, 4.0]), np.ones(3)
    loss = make_loss("squared_error")
    for m in (0, 2):
        Z = np.zeros((3, m))
        one = solve_lasso(Z, y, s, loss, 0.1, free_offset=True)
        several = solve_output_weights(
            Z,
            y[:, None],
            s,
            Separable(loss),
            0.1,
            free_offset=True,
        )
        assert one.values.shape == (m,) and several.values.shape == (m, 1)
        for solution in (one, several):
            assert solution.objective == pytest.approx(7 / 3, rel=1e-6)
            assert solution.dual_bound == pytest.approx(7 / 3, rel=1e-6)
    problem = problem_of_one(np.eye(3), y, s, loss, 0.1, True)
    nu = np.array([1.0, 0.0, -1.0])
    moved, dual, count = solve_on_cells(problem, problem.null(), nu, nu, tol=1e-6)
    assert len(moved) == count == 0 and dual is nu


def test_columns_that_hardly_vary():
    """Neurons with a huge bias are as good as those without it."""
    rng = np.random.default_rng(0)
    Z, y = np.maximum(rng.standard_normal((30, 12)), 0), rng.standard_normal(30)
    args = y, np.ones(30), make_loss("squared_error"), 1e-3
    near = solve_lasso(Z, *args, free_offset=True)
    Z[:, :3] += 1e7
    far = solve_lasso(Z, *args, free_offset=True)
    assert far.objective == pytest.approx(near.objective, rel=1e-6)
    assert far.dual_bound == pytest.approx(near.objective, rel=1e-6)


@pytest.mark.parametrize("shape, rank", [((40, 5), 5), ((40, 5), 2), ((5, 40), 3)])
def test_row_space(shape, rank):
    rng = np.random.default_rng(0)
    n, d = shape
    X = rng.standard_normal((n, rank)) @ rng.standard_normal((rank, d))
    basis = row_space(X)
    assert basis.shape == (d, rank)
    assert_allclose(basis.T @ basis, np.eye(rank), atol=1e-12)
    assert_allclose(X @ basis @ basis.T, X, atol=1e-12)


def test_columns_of_very_different_sizes():
    """What is small by its units is not taken for rounding."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 3)) * [1e15, 1.0, 1e-15]
    assert row_space(X).shape == (3, 3)
    assert row_space(X[:, [0, 0]]).shape == (2, 1)
    y = rng.standard_normal(40)
    args = X, y, np.ones(40), make_loss("squared_error"), 1.0
    assert closed_form(problem_of_one(*args)) is None
    for train in (ConvexReLURegressor.fit, cutting_planes):
        model = ConvexReLURegressor(
            alpha=1.0, random_state=0, max_iter=2, fit_intercept=False
        )
        with pytest.warns(ConvergenceWarning, match="duality gap"):
            model = train(model, X, y)
        assert 0 <= model.dual_bound_ <= model.objective_


@pytest.mark.slow
def test_one_sample_far_away():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 4))
    y = np.digitize(np.maximum(X[:, 0], 0) - abs(X[:, 1]), [-1, 0])
    X[7, 0] = 1e9
    model = ConvexReLUClassifier(alpha=1, random_state=0, max_iter=1)
    with pytest.warns(ConvergenceWarning, match="duality gap"):
        model.fit(X, y)
    short = model.dual_bound_, model.objective_
    assert 0 <= short[0] <= short[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.set_params(max_iter=3).fit(X, y)
    assert short[0] <= model.objective_ <= short[1] * (1 + 1e-3)


@pytest.mark.slow
def test_one_sample_far_away_at_scale(monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((150, 4))
    f = np.maximum(X[:, 0], 0) - abs(X[:, 1]) + 0.1 * rng.standard_normal(150)
    X[7, 0] = 999999.0
    monkeypatch.setattr(mini_batches, "_LEAST", 16)
    monkeypatch.setattr(large, "_FEWEST_SAMPLES", 100)
    monkeypatch.setattr(large, "_MANY", 100)
    model = ConvexReLUClassifier(alpha=2, random_state=0, max_iter=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, f > 0)
    assert 0 <= model.dual_bound_ <= model.objective_


def test_breakdowns_are_told():
    """The cause and the cure are those of a breakdown."""
    X, y = data(40, 3)
    model = ConvexReLURegressor(alpha=0.3, random_state=0)
    with failing(FAULTS, 1), pytest.warns(ConvergenceWarning) as caught:
        model.fit(X, y)
    text = str(caught[0].message)
    assert "broke down" in text and "Scale the columns of X, look for outliers" in text


def test_slopes_that_are_not_numbers():
    """Nothing is known of a dual point then, and its bound is that of zeros."""
    y, s = np.array([1.0, -1.0]), np.ones(2)
    problem = problem_of_one(np.eye(2), y, s, make_loss("squared_error"), 0.1)
    bad = np.array([[np.nan], [1.0]])
    assert problem.bound(y[:, None], np.nan) == 0.0
    assert problem.bound(bad, 1.0) == -np.inf
    with pytest.raises(FloatingPointError):
        problem.project(bad)


def test_hills_on_the_hyperplane_of_a_long_sample():
    """Half a degree away from it nothing is left of them."""
    X = np.array([[2.0, 1.0], [0.0, -102.41736], [-2.0, 0.0], [2.0, 0.0]])
    nu = np.array([-1.5267e-2, -9.78652e-5, -5.65668e-3, 2.2361e-2])
    rng = np.random.RandomState(0)
    found = search_widely(X, nu[:, None], 50, rng, free_bias=False)
    assert found.slopes[0] == pytest.approx(1.5267e-2)


@pytest.mark.parametrize("seed", range(4))
def test_gated_huber_without_warnings(seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((66, 2))
    y = 10.0 * np.maximum(X[:, 0], 0) + rng.standard_normal(66)
    model = GatedReLURegressor(10.0 ** (seed - 2), loss="huber", random_state=0)
    model.fit(X, y)
    assert model.dual_gap_ <= 1.001 * model.tol * model.objective_


def test_root_where_nothing_bends():
    loss = GatedLoss(
        Separable(make_loss("huber", 0.1)), np.zeros((3, 1)), np.ones(3), np
    )
    root = loss.root(np.full((3, 1), 5.0))
    rough = np.arange(3.0)[:, None]
    assert_array_equal(root.solution(np.ones((3, 1)), rough), rough)


@pytest.mark.slow
def test_fuzz():
    """Bounds, objectives and words of random tiny problems; see the benchmark."""
    path = Path(__file__).parents[1] / "benchmarks" / "fuzz.py"
    spec = importlib.util.spec_from_file_location("fuzz", path)
    fuzz = importlib.util.module_from_spec(spec)
    sys.modules["fuzz"] = fuzz
    spec.loader.exec_module(fuzz)
    assert fuzz.run(range(150, 300)) == {}


def test_least_squares_where_columns_are_equally_good():
    rng = np.random.default_rng(0)
    for _ in range(300):
        Q = np.linalg.qr(rng.standard_normal((7, 5)))[0]
        A = Q * rng.choice([-1.0, 1.0], 5)
        b = -Q @ (rng.standard_normal(5) * rng.integers(2, size=5))
        x, distance = least_squares(A, b)
        # Columns are orthogonal.
        assert_allclose(x, np.maximum(A.T @ b, 0.0), atol=1e-12)
        assert distance == pytest.approx(np.linalg.norm(A @ x - b), abs=1e-12)
