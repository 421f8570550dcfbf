"""Gated networks: the solver against a conic one, its limits, and the estimators."""

import os
import pickle
from time import perf_counter

import cvxpy as cp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.sparse import csr_array
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.preprocessing import scale
from sklearn.utils._array_api import get_namespace

from sklearn_convexnn import (
    ConvexReLUClassifier,
    ConvexReLURegressor,
    GatedReLUClassifier,
    GatedReLURegressor,
)
from sklearn_convexnn._utils.devices import in_numpy
from sklearn_convexnn.losses import Separable, make_loss
from sklearn_convexnn.patterns import gates as gated_arrangement
from sklearn_convexnn.patterns.arrangements import (
    Arrangement,
    enumerate_arrangement,
    sample_arrangement,
)
from sklearn_convexnn.solvers import gated_newton, gated_operator
from sklearn_convexnn.solvers.gated import GatedObjective, _Solver, solve_gated
from sklearn_convexnn.solvers.gated_losses import GatedLoss
from sklearn_convexnn.solvers.gated_network import gated_outputs
from sklearn_convexnn.solvers.gated_operator import GatedOperator
from sklearn_convexnn.solvers.gated_shrinkage import MatrixSlope, VectorSlope, shrink
from tests.problems_of_several_outputs import data, gated_objective, gated_program

ALPHA = 0.2
LOSSES = ("squared_error", "huber", "squared_hinge", "softmax")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_gated_network_against_a_conic_solver(name, bias):
    X, Y, s, loss = data(name, n=12, d=3, c=2, weighted=True)
    if name == "softmax":
        Y[:2] = np.eye(2)
    arrangement = sample_arrangement(X, 8, free_bias=bias, random_state=0)
    expected = gated_program(name, X, Y, s, ALPHA, arrangement.patterns, bias=bias)
    seen = []
    network = solve_gated(
        X,
        GatedObjective.of(Y, s, loss, ALPHA, bias),
        arrangement,
        tol=1e-6,
        callback=lambda *args: seen.append(args),
    )
    assert network.status == "optimal"
    assert_allclose(network.objective, expected, rtol=2e-6)
    assert network.dual_bound <= expected * (1 + 1e-7)
    gap = network.objective - network.dual_bound
    assert gap <= 1e-6 * network.objective * (1 + 1e-9)
    assert_allclose(
        network.objective, gated_objective(network, X, Y, s, loss, ALPHA), rtol=1e-12
    )
    assert bool(np.any(network.offset)) == bias
    assert len(network.gates) == 3 + bias
    assert [key[0] for key in seen] == list(network.history["n_iter"])
    assert_allclose(
        np.sum(network.hidden**2, axis=0), np.sum(network.output**2, axis=1)
    )


@pytest.mark.parametrize("bias", [False, True])
def test_one_output_is_the_gated_group_lasso(bias):
    X, Y, s, loss = data("squared_error", n=15, d=3, c=1)
    arrangement = sample_arrangement(X, 10, random_state=1)
    expected = gated_program(
        "squared_error", X, Y, s, ALPHA, arrangement.patterns, bias=bias, norm=cp.norm2
    )
    objective = GatedObjective.of(Y, s, loss, ALPHA, bias)
    network = solve_gated(X, objective, arrangement, tol=1e-7)
    assert_allclose(network.objective, expected, rtol=1e-6)
    gates = {tuple(gate) for gate in network.gates.T}
    assert len(gates) == network.hidden.shape[1]


def test_weights_are_repetitions():
    X, Y, _, loss = data("softmax", n=10, d=2, c=3)
    times = np.arange(10) % 3 + 1
    arrangement = sample_arrangement(X, 8, random_state=0)
    repeated = Arrangement(
        np.repeat(arrangement.patterns, times, axis=1), arrangement.gates, False
    )
    options = {"tol": 1e-8, "max_iter": 20_000}
    objective = GatedObjective.of(Y, times, loss, ALPHA, True)
    weighted = solve_gated(X, objective, arrangement, **options)
    X, Y = np.repeat(X, times, axis=0), np.repeat(Y, times, axis=0)
    objective = GatedObjective.of(Y, np.ones(len(X)), loss, ALPHA, True)
    copied = solve_gated(X, objective, repeated, **options)
    assert_allclose(weighted.objective, copied.objective, rtol=3e-8)
    assert_allclose(gated_outputs(weighted, X), gated_outputs(copied, X), atol=1e-3)


@pytest.mark.parametrize("name", ["squared_error", "softmax"])
@pytest.mark.parametrize("bias", [False, True])
def test_no_neurons_from_the_largest_slope_on(name, bias):
    X, Y, s, loss = data(name, n=12, d=4, c=3, weighted=True)
    arrangement = sample_arrangement(X, 20, random_state=0)
    zeros = np.zeros(Y.shape)
    offset = loss.best_offset(zeros, Y, s) if bias else np.zeros(3)
    N = -loss.gradient(zeros + offset, Y, s)
    largest = max(np.linalg.norm(X[p].T @ N[p], 2) for p in arrangement.patterns)
    networks = [
        solve_gated(
            X,
            GatedObjective.of(Y, s, loss, factor * largest, bias),
            arrangement,
            tol=1e-6,
        )
        for factor in (1.001, 0.99)
    ]
    assert networks[0].hidden.shape[1] == networks[0].n_iter == 0
    assert_allclose(networks[0].offset, offset, atol=1e-7)
    assert_allclose(networks[0].objective, loss.value(zeros + offset, Y, s))
    assert networks[1].hidden.shape[1] > 0
    assert networks[1].objective < networks[0].objective


def test_more_features_than_samples_and_zero_data():
    X, Y, s, loss = data("squared_error", n=5, d=9, c=2)
    X[:, 3] = 0.0
    arrangement = sample_arrangement(X, 12, random_state=0)
    expected = gated_program("squared_error", X, Y, s, ALPHA, arrangement.patterns)
    objective = GatedObjective.of(Y, s, loss, ALPHA, False)
    network = solve_gated(X, objective, arrangement, tol=1e-7)
    assert_allclose(network.objective, expected, rtol=1e-6)
    assert np.all(np.abs(network.hidden[3]) < 1e-12)
    zero = np.zeros_like(X)
    arrangement = sample_arrangement(zero, 3, random_state=0)
    network = solve_gated(zero, objective, arrangement)
    assert network.status == "optimal"
    assert_allclose(network.objective, 0.5 * np.sum(Y**2))


@pytest.mark.slow
def test_loss_without_lipschitz_gradient():
    X, _, s, _ = data("squared_error", n=40, d=3)
    rates = np.exp(2 * np.maximum(X[:, :2], 0.0))
    Y = np.random.default_rng(0).poisson(rates).astype(float)
    arrangement = sample_arrangement(X, 15, random_state=0)
    loss = Separable(make_loss("poisson"))
    for bias in (False, True):
        objective = GatedObjective.of(Y, s, loss, 3.0, bias)
        network = solve_gated(X, objective, arrangement)
        assert network.status == "optimal"
        gap = network.objective - network.dual_bound
        assert 0 <= gap <= 1e-4 * abs(network.objective)


def test_limits_leave_a_valid_network_and_bound():
    X, Y, s, loss = data("squared_error", n=30, d=3)
    arrangement = sample_arrangement(X, 20, random_state=0)
    problem = X, GatedObjective.of(Y, s, loss, ALPHA, True), arrangement
    best = solve_gated(*problem, tol=1e-6)
    limited = solve_gated(*problem, max_iter=3)
    late = solve_gated(*problem, deadline=perf_counter())
    assert (limited.status, limited.n_iter) == ("max_iter", 3)
    assert (late.status, late.n_iter) == ("max_time", 0)
    for network in (limited, late):
        assert network.dual_bound <= best.objective
        assert network.objective >= best.dual_bound
        expected = gated_objective(network, X, Y, s, loss, ALPHA)
        assert_allclose(network.objective, expected, rtol=1e-12)


def test_losses_with_kinks_are_refused():
    X, Y, s, loss = data("hinge")
    objective = GatedObjective.of(Y, s, loss, ALPHA, False)
    with pytest.raises(ValueError, match="loss='hinge'"):
        solve_gated(X, objective, enumerate_arrangement(X))


def alpha_of(X, Y, s, loss, arrangement, fraction, bias=False):
    """A fraction of the smallest alpha of which all blocks are zero."""
    offset = loss.best_offset(np.zeros(Y.shape), Y, s) if bias else 0.0
    N = -loss.gradient(np.zeros(Y.shape) + offset, Y, s)
    patterns = arrangement.patterns
    return fraction * max(np.linalg.norm(X[p].T @ N[p], 2) for p in patterns)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", ["log_loss", "poisson"])
def test_other_losses_against_a_conic_solver(name, bias):
    X, Y, s, _ = data("squared_error", n=14, d=3, c=2, weighted=True)
    Y = np.where(Y > 0, 1.0, -1.0) if name == "log_loss" else np.floor(np.exp(Y))
    loss = Separable(make_loss(name))
    arrangement = sample_arrangement(X, 6, free_bias=bias, random_state=0)
    blocks = [cp.Variable((3, 2)) for _ in arrangement.patterns]
    F = sum((p[:, None] * X) @ V for p, V in zip(arrangement.patterns, blocks))
    F = F + bias * np.ones((len(X), 1)) @ cp.Variable((1, 2))
    terms = cp.logistic(-cp.multiply(Y, F))
    constant = 0.0
    if name == "poisson":
        terms = cp.exp(F) - cp.multiply(Y, F)
        # What belongs to the deviance and does not depend on the outputs.
        zeros = np.zeros(Y.shape)
        constant = loss.value(zeros, Y, s) - np.sum(np.repeat(s, 2))
    penalty = ALPHA * sum(cp.normNuc(V) for V in blocks)
    weighted = cp.sum(cp.multiply(np.repeat(s[:, None], 2, axis=1), terms))
    expected = cp.Problem(cp.Minimize(weighted + penalty)).solve(solver="CLARABEL")
    objective = GatedObjective.of(Y, s, loss, ALPHA, bias)
    network = solve_gated(X, objective, arrangement, tol=1e-7)
    assert network.status == "optimal"
    assert_allclose(network.objective, expected + constant, rtol=1e-6)


@pytest.mark.parametrize("n_outputs", [1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "name", ["squared_error", "log_loss", "huber", "squared_hinge"]
)
def test_small_alpha_without_a_wall(name, bias, n_outputs):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((120, 6)) @ (np.eye(6) + 0.5)
    Y = np.tanh(X @ rng.standard_normal((6, n_outputs)))
    Y += 0.3 * rng.standard_normal(Y.shape)
    if name in ("log_loss", "squared_hinge"):
        Y = np.where(Y > 0, 1.0, -1.0)
    s, loss = rng.uniform(0.5, 2.0, 120), Separable(make_loss(name, 0.3))
    arrangement = sample_arrangement(X, 20, random_state=0)
    alpha = alpha_of(X, Y, s, loss, arrangement, 0.005, bias)
    objective = GatedObjective.of(Y, s, loss, alpha, bias)
    network = solve_gated(X, objective, arrangement, tol=1e-6, max_iter=8000)
    assert network.status == "optimal"


def test_newton_steps_take_over_and_agree_with_the_others(monkeypatch):
    X, Y, s, loss = data("squared_error", n=60, d=4, c=1, weighted=True)
    arrangement = sample_arrangement(X, 20, random_state=0)
    alpha = alpha_of(X, Y, s, loss, arrangement, 0.01)
    objective = GatedObjective.of(Y, s, loss, alpha, True)
    found = []
    for pays in (False, True):
        monkeypatch.setattr(
            _Solver, "_newton_pays", lambda self, tol, history, pays=pays: pays
        )
        found.append(solve_gated(X, objective, arrangement, tol=1e-8))
    assert found[0].status == found[1].status == "optimal"
    assert_allclose(found[0].objective, found[1].objective, rtol=1e-8)
    assert found[1].n_iter < found[0].n_iter


@pytest.mark.slow
def test_single_precision_is_honest():
    X, Y, s, loss = data("squared_error", n=60, d=4, c=1)
    arrangement = sample_arrangement(X, 20, random_state=0)
    alpha = alpha_of(X, Y, s, loss, arrangement, 0.01)
    objective = GatedObjective.of(Y, s, loss, alpha, False)
    exact = solve_gated(X, objective, arrangement, tol=1e-9)
    single = X.astype(np.float32)
    rough = solve_gated(single, objective, arrangement, tol=1e-4)
    assert rough.status == "optimal"
    assert rough.dual_bound <= exact.objective * (1 + 1e-6)
    assert rough.objective >= exact.dual_bound * (1 - 1e-6)
    # More than single precision has to give.
    failed = solve_gated(single, objective, arrangement, tol=1e-12)
    assert failed.status in ("stalled", "max_iter")
    assert failed.objective - failed.dual_bound > 1e-12 * failed.objective


def test_start_from_the_solution():
    X, Y, s, loss = data("squared_error", n=40, d=3, c=2)
    arrangement = sample_arrangement(X, 10, random_state=0)
    problem = X, GatedObjective.of(Y, s, loss, ALPHA, False), arrangement
    first = solve_gated(*problem, tol=1e-8)
    start = np.zeros((10, 3, 2))
    for gate, w, v in zip(first.gates.T, first.hidden.T, first.output):
        where = np.flatnonzero(np.all(arrangement.gates == gate, axis=1))[0]
        start[where] += np.outer(w, v)
    again = solve_gated(*problem, tol=1e-6, start=start)
    assert again.n_iter == 0
    assert_allclose(again.objective, first.objective, rtol=1e-6)


def operators(n_outputs):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 4)) * (rng.random((30, 4)) < 0.5)
    masks = rng.random((30, 5)) < 0.5
    V, N = rng.standard_normal((n_outputs, 4, 5)), rng.standard_normal((30, n_outputs))
    return X, masks, V, N


@pytest.mark.parametrize("n_outputs", [1, 3])
@pytest.mark.parametrize("sparse", [False, True])
def test_operator_is_the_expanded_matrix(sparse, n_outputs, monkeypatch):
    X, masks, V, N = operators(n_outputs)
    # Several chunks of rows, and masks that are not kept as numbers.
    monkeypatch.setattr(gated_operator, "_CHUNK_HERE", 5 * 16)
    monkeypatch.setattr(gated_operator, "_FLOAT_MASKS", 0)
    data_ = csr_array(X) if sparse else X
    xp, _ = get_namespace(X)
    operator = GatedOperator(data_, masks, xp, None, np.float64)
    expanded = masks[:, :, None] * X[:, None, :]
    assert_allclose(operator.forward(V), np.einsum("nmd,cdm->nc", expanded, V))
    assert_allclose(operator.adjoint(N), np.einsum("nmd,nc->cdm", expanded, N))
    assert_allclose(operator.kernel(), X @ X.T, atol=1e-12)
    part = operator.restricted(np.array([3, 1]))
    assert_allclose(part.adjoint(N), operator.adjoint(N)[:, :, [3, 1]])


@pytest.mark.parametrize("shape", [(1, 4), (3, 5), (5, 3), (3, 3), (4, 1)])
def test_derivative_of_the_shrinkage(shape):
    rng = np.random.default_rng(0)
    V, H = rng.standard_normal((2, *shape, 6))
    xp, _ = get_namespace(V)
    kind = MatrixSlope
    if min(shape) == 1:
        V, kind = 5.0 * V, VectorSlope
    step = 1e-6 * H
    ends = (shrink(V + sign * step, 1.0, xp)[0] for sign in (1, -1))
    assert_allclose(kind(V, 1.0, xp)(H), np.subtract(*ends) / 2e-6, atol=1e-7)


@pytest.mark.parametrize("name", LOSSES + ("log_loss", "poisson"))
def test_losses_of_the_solver_are_those_of_the_package(name):
    X, Y, s, loss = data(
        name if name in LOSSES else "squared_error", n=9, weighted=True
    )
    if name in ("log_loss", "poisson"):
        loss = Separable(make_loss(name))
        Y = np.where(Y > 0, 1.0, -1.0) if name == "log_loss" else np.floor(np.exp(Y))
    xp, _ = get_namespace(X)
    own = GatedLoss(loss, Y, s, xp)
    F, x = np.random.default_rng(1).standard_normal((2, *Y.shape))
    assert_allclose(own.value(F), loss.value(F, Y, s))
    assert_allclose(own.gradient(F), loss.gradient(F, Y, s))
    root = own.root(F)
    step = 1e-6
    bent = own.gradient(F + step * x) - own.gradient(F - step * x)
    product = root.times(root.transposed(x))
    assert_allclose(product, bent / (2 * step), atol=1e-6)
    other = np.random.default_rng(2).standard_normal(Y.shape)
    assert_allclose(np.sum(root.times(x) * other), np.sum(x * root.transposed(other)))


SEEDED = {"random_state": 0}


def regression(n=60, d=4, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) * (rng.random((n, d)) < 0.7)
    return X, np.abs(X[:, 0]) + X[:, 1] + 0.1 * rng.standard_normal(n)


@pytest.mark.parametrize("bias", [False, True])
def test_sparse_data_are_not_made_dense(bias, monkeypatch):
    X, y = regression()
    params = {"n_arrangements": 20, "fit_intercept": bias, "tol": 1e-6, **SEEDED}
    dense = GatedReLURegressor(**params).fit(X, y)

    def refuse(self, *args, **kwargs):
        raise AssertionError("made dense")

    sparse = csr_array(X)
    # Products of the samples with each other, for few of them, may be.
    monkeypatch.setattr(gated_newton, "_LARGEST_MATRIX", 0)
    # So may be data that perhaps have few patterns.
    monkeypatch.setattr(gated_arrangement, "_FEW", 0)
    monkeypatch.setattr(csr_array, "toarray", refuse)
    model = GatedReLURegressor(**params).fit(sparse, y)
    assert_allclose(model.objective_, dense.objective_, rtol=1e-5)
    assert_allclose(model.predict(sparse), dense.predict(X), atol=1e-2)
    assert_allclose(model.gates_, dense.gates_)
    assert_allclose(model.predict(X), model.predict(sparse))


@pytest.mark.parametrize("n_outputs", [1, 2])
@pytest.mark.parametrize("sparse", [False, True])
def test_warm_start_has_the_gates_and_the_blocks(sparse, n_outputs):
    X, y = regression()
    Y = np.column_stack([y, np.sin(y)])[:, :n_outputs].squeeze()
    X = csr_array(X) if sparse else X
    params = {**SEEDED, "n_arrangements": 15, "tol": 1e-3, "warm_start": True}
    model = GatedReLURegressor(**params).fit(X, Y)
    before, n_iter = model.objective_, model.n_iter_
    model.fit(X, Y)
    assert n_iter > 0 == model.n_iter_
    assert model.objective_ <= before * (1 + 1e-6)
    # Other gates join those that are known.
    model.set_params(random_state=1).fit(X, Y)
    assert model.objective_ <= before * (1 + 2e-3)
    # Of other data, nothing is known.
    model.fit(X[:, :3], Y)
    assert model.gates_.shape[0] == 4


ARRAYS = pytest.mark.skipif(
    os.environ.get("SCIPY_ARRAY_API") != "1", reason="needs SCIPY_ARRAY_API=1"
)


@ARRAYS
@pytest.mark.parametrize("namespace", ["torch", "array_api_strict"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arrays_stay_where_they_are(dtype, namespace):
    params = {**SEEDED, "n_arrangements": 10}
    models = GatedReLURegressor(**params), GatedReLUClassifier(**params)
    check_arrays(*models, dtype, namespace)


@ARRAYS
@pytest.mark.parametrize("namespace", ["torch", "array_api_strict"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("solver", ["auto", "augmented_lagrangian", "penalised"])
def test_arrays_of_other_networks_come_back(solver, dtype, namespace):
    params = {**SEEDED, "arrangements": "sampled", "n_arrangements": 10}
    model = ConvexReLURegressor(solver=solver, **params)
    check_arrays(model, ConvexReLUClassifier(**params), dtype, namespace)


def check_arrays(regressor, classifier, dtype, namespace):
    """Weights and predictions are of the library that the data are of."""
    xp = pytest.importorskip(namespace)
    X, y = regression()
    X, labels = X.astype(dtype), np.digitize(y, [0, 1])
    model, labelled = clone(regressor).fit(X, y), clone(classifier).fit(X, labels)
    with config_context(array_api_dispatch=True):
        array = xp.asarray(X)
        other = clone(regressor).fit(array, xp.asarray(y))
        classes = clone(classifier).fit(array, xp.asarray(labels))
        other = pickle.loads(pickle.dumps(other))
        prediction, proba = other.predict(array), classes.predict_proba(array)
        assert type(classes.predict(array)) is type(array)
        for weights in (*other.coefs_, *other.intercepts_, prediction, proba):
            assert type(weights) is type(array)
        assert {weights.dtype for weights in other.coefs_} == {array.dtype}
        # Biases and predictions are in double precision.
        for weights in (*other.intercepts_, prediction, proba):
            assert weights.dtype == xp.float64
        prediction, proba = in_numpy(prediction), in_numpy(proba)
    assert_allclose(prediction, model.predict(X), atol=1e-2)
    assert_allclose(proba, labelled.predict_proba(X), atol=1e-2)


@pytest.mark.filterwarnings("ignore:.*stopped with a duality gap")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "loss", ["squared_error", "huber", "poisson", "log_loss", "squared_hinge"]
)
def test_no_arithmetic_warnings(loss, dtype):
    """Far targets, of which the loss is linear at the start, as others."""
    for seed, (bias, size) in enumerate(
        [(True, 1.0), (False, 1.0), (False, 30.0), (True, 100.0), (False, 100.0)]
    ):
        rng = np.random.default_rng(seed)
        X = rng.standard_normal((66, 2)).astype(dtype)
        y = np.abs(X[:, 1]) + 2 * X[:, 0] + 0.3 * rng.standard_normal(66)
        options = {**SEEDED, "n_arrangements": 20, "max_iter": 5, "fit_intercept": bias}
        if loss in ("log_loss", "squared_hinge"):
            model = GatedReLUClassifier(loss=loss, **options).fit(X * size, y > 0)
        else:
            y = size * (y + size)
            y = 1 + np.floor(np.abs(y)) if loss == "poisson" else y
            model = GatedReLURegressor(loss=loss, **options).fit(X, y)
        assert np.isfinite(model.objective_) and np.isfinite(model.dual_bound_)


def test_rows_of_mixed_sizes_in_single_precision():
    X, y = regression(40, 3)
    size = np.where(np.arange(40) % 4, 1e-20, 1.0)
    X, y = X * size[:, None], y * size
    params = {**SEEDED, "n_arrangements": 10, "fit_intercept": False, "alpha": 0.1}
    double = GatedReLURegressor(**params).fit(X, y)
    single = GatedReLURegressor(**params).fit(X.astype(np.float32), y)
    assert_allclose(single.objective_, double.objective_, rtol=1e-2)


@pytest.mark.parametrize("shape", [(1, 4, 5), (3, 4, 5)])
@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_squares_of_single_precision_fit(shape, size):
    xp, _ = get_namespace(np.zeros(1))
    V = np.random.default_rng(0).standard_normal(shape) * size
    exact, norms = shrink(V, 0.3 * size, xp)
    single, rounded = shrink(V.astype(np.float32), 0.3 * size, xp)
    assert single.dtype == np.float32
    assert_allclose(single, exact, rtol=1e-4, atol=1e-6 * size)
    assert_allclose(rounded, norms, rtol=1e-5)


@pytest.fixture
def targets():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 3))
    Y = np.sin(2 * X @ rng.standard_normal((3, 3)))
    return X + 0.5, Y + 0.2 * rng.standard_normal(Y.shape)


@pytest.mark.parametrize("bias", [True, False])
def test_several_outputs(targets, bias):
    X, Y = targets
    params = {"fit_intercept": bias, "n_arrangements": 30, "random_state": 0}
    model = GatedReLURegressor(1.0, **params).fit(X, Y)
    assert model.gates_.shape == (3 + bias, model.n_neurons_)
    assert model.certificate_ == "restricted"
    assert model.dual_gap_ <= 1e-2 * model.objective_
    rows = np.column_stack([X, np.ones(40)])[:, : 3 + bias]
    hidden = (rows @ model.gates_ > 0) * (X @ model.coefs_[0])
    raw = hidden @ model.coefs_[1] + model.intercepts_[1]
    assert_allclose(model.predict(X), raw, atol=1e-12)
    decay = sum(np.sum(coef**2) for coef in model.coefs_)
    assert_allclose(model.objective_, 0.5 * np.sum((raw - Y) ** 2) + 0.5 * decay)
    assert not np.any(model.intercepts_[0])
    if not bias:
        # Without the cones of the patterns there is more to choose from.
        relu = ConvexReLURegressor(1.0, arrangements="sampled", **params).fit(X, Y)
        assert not hasattr(relu, "gates_")
        assert model.dual_bound_ <= relu.objective_
    one = clone(model).fit(X, Y[:, 0])
    assert one.predict(X).shape == (40,)


def test_all_patterns():
    X, _ = load_iris(return_X_y=True)
    X = scale(X[:40:2, :2] + 0.01 * np.arange(20)[:, None])
    model = GatedReLUClassifier(0.5, arrangements="exact", fit_intercept=False)
    model.fit(X, np.arange(20) % 3)
    assert model.certificate_ == "global"
    assert model.dual_gap_ <= 1e-2 * model.objective_
    assert_allclose(model.predict_proba(X).sum(axis=1), 1.0)


@pytest.mark.parametrize(
    "model, name",
    [
        (GatedReLURegressor(arrangements="adaptive"), "arrangements"),
        (GatedReLURegressor(loss="quantile"), "loss"),
        (GatedReLUClassifier(loss="hinge"), "loss"),
    ],
)
def test_what_gated_networks_do_not_have(model, name):
    X, y = regression()
    with pytest.raises(ValueError, match=f"The '{name}' parameter"):
        model.fit(X, y > 0)
