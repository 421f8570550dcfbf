"""ReLU networks made of gated ones."""

import warnings

import cvxpy as cp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.sparse import csr_array

from sklearn_convexnn import (
    ConvexReLURegressor,
    GatedReLUClassifier,
    GatedReLURegressor,
    cone_decomposition,
)

pytestmark = pytest.mark.filterwarnings("ignore:The penalty grows")


def relu_outputs(network, X):
    hidden = np.maximum(X @ network.coefs_[0] + network.intercepts_[0], 0.0)
    return hidden @ network.coefs_[1] + network.intercepts_[1]


def fitted(bias=False, n_outputs=1, n=25, **params):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, 3))
    Y = np.abs(X[:, :n_outputs]) + X[:, 2:]
    params = {"alpha": 0.3, "n_arrangements": 8, "fit_intercept": bias} | params
    model = GatedReLURegressor(random_state=0, **params).fit(X, Y.squeeze())
    return X, model


@pytest.mark.parametrize("method", ["minimal", "explicit"])
@pytest.mark.parametrize("n_outputs", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_outputs_on_the_training_data_are_the_same(bias, n_outputs, method):
    X, model = fitted(bias, n_outputs)
    network = cone_decomposition(model, csr_array(X), method=method)
    expected = model.predict(X).reshape(len(X), -1)
    scale = np.abs(network.coefs_[0]).max() * np.abs(network.coefs_[1]).max()
    assert_allclose(relu_outputs(network, X), expected, atol=1e-7 * max(scale, 1.0))
    decay = sum(np.sum(coef**2) for coef in network.coefs_)
    assert_allclose(network.penalty, 0.15 * decay)
    decay = sum(np.sum(coef**2) for coef in model.coefs_)
    assert_allclose(network.gated_penalty, 0.15 * decay)
    assert network.penalty >= network.gated_penalty * (1 - 1e-9)
    new = np.random.default_rng(1).standard_normal((20, 3))
    assert np.abs(relu_outputs(network, new) - model.predict(new).reshape(20, -1)).max()


def data_of_kind(kind):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((100, 3))
    Y = np.abs(X[:, :2]) + X[:, 2:]
    if kind == "sparse":
        X = csr_array(np.where(X > 0.3, X, 0.0))
    elif kind == "one feature":
        X = X[:, :1]
    elif kind == "integers":
        X = np.round(X)
    elif kind == "several outputs":
        return X, Y
    elif kind == "mixed":
        X = X * [1.0, 1e-3, 1e3] + [0.0, 1.0, 0.0]
    else:
        scale, shift = kind
        X = scale * X + shift
    return X, Y[:, 0]


KINDS = [(1e-6, 0.0), (1e-3, 0.0), (1e3, 0.0), (1.0, 100.0)]
KINDS += ["sparse", "one feature", "integers", "several outputs", "mixed"]


@pytest.mark.filterwarnings("ignore:Only .* distinct activation patterns")
@pytest.mark.filterwarnings("ignore:GatedReLURegressor stopped")
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_data_of_any_scale_and_kind(bias, kind):
    X, Y = data_of_kind(kind)
    alpha = 0.1 * (kind[0] if isinstance(kind, tuple) else 1.0)
    model = GatedReLURegressor(alpha=alpha, n_arrangements=12, fit_intercept=bias)
    model.set_params(max_iter=1000, random_state=0).fit(X, Y)
    expected = model.predict(X).reshape(X.shape[0], -1)
    penalties = {}
    for method in ("minimal", "explicit"):
        network = cone_decomposition(model, X, method=method)
        error = np.abs(relu_outputs(network, X) - expected).max()
        assert error <= 1e-10 * np.abs(expected).max()
        penalties[method] = network.penalty
    assert penalties["minimal"] <= (1 + 1e-9) * penalties["explicit"]


def test_the_explicit_answer_where_the_solver_fails(monkeypatch):
    X, model = fitted()
    explicit = cone_decomposition(model, X, method="explicit")

    def fail(*args, **kwargs):
        raise cp.SolverError

    monkeypatch.setattr(cp.Problem, "solve", fail)
    network = cone_decomposition(model, X)
    assert network.penalty == explicit.penalty
    assert_allclose(network.coefs_[0], explicit.coefs_[0])


def test_an_answer_that_is_not_in_the_cone_is_repaired(monkeypatch):
    X, model = fitted()
    solve = cp.Problem.solve

    def inaccurate(problem, **kwargs):
        solve(problem, **kwargs)
        (q,) = problem.variables()
        q.value = 0.99 * q.value
        warnings.warn("Solution may be inaccurate.")

    monkeypatch.setattr(cp.Problem, "solve", inaccurate)
    network = cone_decomposition(model, X)
    outputs = relu_outputs(network, X)
    assert_allclose(outputs[:, 0], model.predict(X), atol=1e-12)


@pytest.mark.parametrize("bias", [False, True])
def test_gates_through_samples(bias):
    X, model = fitted(bias)
    # The first sample goes onto the border of the first pattern.
    gate = model.gates_[:3, 0]
    X[0] -= (X[0] @ gate + model.gates_[3:, 0].sum()) / (gate @ gate) * gate
    for method in ("minimal", "explicit"):
        network = cone_decomposition(model, X, method=method)
        outputs = relu_outputs(network, X)
        assert_allclose(outputs[:, 0], model.predict(X), atol=1e-9)


def test_gates_through_opposite_samples():
    X, model = fitted()
    model.gates_[:, 0] = [1.0, 0.0, 0.0]
    X[0], X[1] = [0.0, 1.0, 2.0], [0.0, -1.0, -2.0]
    with pytest.raises(ValueError, match="on opposite sides"):
        cone_decomposition(model, X)


@pytest.mark.parametrize("bias", [False, True])
def test_minimal_is_minimal(bias):
    X, model = fitted(bias)
    rows = np.column_stack([X, np.ones(len(X))]) if bias else X
    total = 0.0
    for gate, w, v in zip(model.gates_.T, model.coefs_[0].T, model.coefs_[1]):
        cone = np.where(rows @ gate > 0, 1.0, -1.0)[:, None] * rows
        p, q = cp.Variable(len(gate)), cp.Variable(len(gate))
        difference = p[:3] - q[:3] == w
        constraints = [difference, cone @ p >= 0, cone @ q >= 0]
        if bias:
            constraints.append(p[3] == q[3])
        problem = cp.Problem(cp.Minimize(cp.norm(p[:3]) + cp.norm(q[:3])), constraints)
        total += problem.solve(solver="CLARABEL") * np.linalg.norm(v)
    minimal = cone_decomposition(model, X)
    explicit = cone_decomposition(model, X, method="explicit")
    # Half the sum of squares of balanced weights is the sum of products of norms.
    assert_allclose(minimal.penalty, 0.3 * total, rtol=1e-5)
    assert explicit.penalty >= minimal.penalty


def test_classifier():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 3))
    y = np.digitize(X[:, 0] * X[:, 1], [-0.3, 0.3])
    model = GatedReLUClassifier(n_arrangements=10, random_state=0).fit(X, y)
    network = cone_decomposition(model, X)
    outputs = relu_outputs(network, X)
    assert_allclose(outputs, model.decision_function(X), atol=1e-5)


def test_a_growing_penalty_is_told():
    X, model = fitted(n=200, n_arrangements=20)
    with pytest.warns(UserWarning, match="penalty grows from .* to"):
        network = cone_decomposition(model, X)
    assert network.penalty > 10 * network.gated_penalty


def test_neurons_in_their_cones_stay():
    X = np.abs(np.random.default_rng(0).standard_normal((20, 2)))
    model = GatedReLURegressor(1.0, arrangements="exact", fit_intercept=False)
    model.fit(X, X @ [1.0, 0.5])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network = cone_decomposition(model, X)
    assert_allclose(network.penalty, network.gated_penalty, rtol=0.5)


def test_what_is_refused():
    X, model = fitted()
    with pytest.raises(ValueError, match=r"'method' parameter of .* Got 'best'"):
        cone_decomposition(model, X, method="best")
    with pytest.raises(ValueError, match="contains NaN"):
        cone_decomposition(model, np.full_like(X, np.nan))
    with pytest.raises(ValueError, match="2 features"):
        cone_decomposition(model, X[:, :2])
    relu = ConvexReLURegressor(arrangements="sampled", n_arrangements=3)
    with pytest.raises(ValueError, match="needs a fitted GatedReLURegressor"):
        cone_decomposition(relu.fit(X, X[:, 0]), X)
