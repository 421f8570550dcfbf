"""Batch normalisation: weight decay of scales, trained on whitened data."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from sklearn.datasets import load_diabetes
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning

from sklearn_convexnn import (
    Certificate,
    ConvexReLUClassifier,
    ConvexReLURegressor,
    ConvexReLURegressorCV,
    alpha_max,
    certify,
    convex_relu_path,
    smallest_network,
)
from sklearn_convexnn.model.whitening import Whitening, squared_deviations


def tiny(seed=0, n=7, d=2, n_outputs=1):
    """Data of few patterns, of columns that are correlated and far from zero."""
    rng = np.random.RandomState(seed)
    X = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + [3.0] * d
    Y = rng.standard_normal((n, n_outputs))
    return X, Y[:, 0] if n_outputs == 1 else Y


def fitted(X, y, alpha=0.2, **params):
    params = {"arrangements": "exact", "random_state": 0, "tol": 1e-6, **params}
    return ConvexReLURegressor(alpha, batch_norm=True, **params).fit(X, y)


def normalised(X, y, W, scales, shifts, v, b, alpha, s=1.0):
    """Objective of a network with layers of batch normalisation, step by step."""
    s = np.broadcast_to(s, len(X)).astype(float)
    Z = X @ W
    mean = s @ Z / s.sum()
    deviation = np.sqrt(s @ (Z - mean) ** 2 / s.sum())
    hidden = np.maximum((Z - mean) / deviation * scales + shifts, 0.0)
    residual = hidden @ v + b - y
    return 0.5 * s @ residual**2 + 0.5 * alpha * (scales @ scales + v @ v)


def trained_by_descent(X, y, alpha, width, seed):
    """The best objective that L-BFGS finds, with variances as the weight decay."""
    rng, d, X = np.random.RandomState(seed), X.shape[1], X - X.mean(axis=0)
    covariance = np.cov(X.T, bias=True)
    sizes = np.cumsum([d * width, width, width])

    def objective(parameters):
        W, b, v, b0 = np.split(parameters, sizes)
        W = W.reshape(d, width)
        Z = np.maximum(X @ W + b, 0.0)
        residual = Z @ v + b0 - y
        pull = np.outer(residual, v) * (Z > 0)
        value = 0.5 * residual @ residual
        value += 0.5 * alpha * (np.sum(W * (covariance @ W)) + v @ v)
        gradients = X.T @ pull + alpha * covariance @ W, pull.sum(axis=0)
        gradients += Z.T @ residual + alpha * v, residual.sum(keepdims=True)
        return value, np.concatenate([part.ravel() for part in gradients])

    start = rng.standard_normal(sizes[-1] + 1)
    return minimize(objective, start, jac=True, options={"maxiter": 2000}).fun


@pytest.mark.parametrize("seed", range(3))
def test_objective_is_that_of_layers_of_batch_normalisation(seed):
    X, y = tiny(seed)
    model = fitted(X, y)
    W, v = model.coefs_
    scales = (X @ W).std(axis=0)
    shifts = X.mean(axis=0) @ W + model.intercepts_[0]
    parts = W, scales, shifts, v[:, 0], model.intercepts_[1][0]
    assert_allclose(normalised(X, y, *parts, 0.2), model.objective_, rtol=1e-10)
    # The length of the weights before the normalisation does not matter.
    parts = 7.0 * W, *parts[1:]
    assert_allclose(normalised(X, y, *parts, 0.2), model.objective_, rtol=1e-10)
    assert model.certificate_ == "global"
    assert model.dual_gap_ <= 1e-6 * model.objective_


@pytest.mark.parametrize("seed", range(3))
def test_no_network_with_batch_normalisation_is_better(seed):
    X, y = tiny(seed)
    model = fitted(X, y)
    values = [trained_by_descent(X, y, 0.2, 50, trial) for trial in range(5)]
    assert min(values) >= model.dual_bound_
    # And some come close, so that it is their minimum.
    assert min(values) <= 1.001 * model.objective_


def test_is_the_network_of_whitened_data():
    X, y = tiny(3, n=9)
    model = fitted(X, y)
    whitened = (X - X.mean(axis=0)) @ Whitening.of(X, np.ones(len(X))).forward
    assert_allclose(np.cov(whitened.T, bias=True), np.eye(2), atol=1e-12)
    plain = ConvexReLURegressor(0.2, arrangements="exact", tol=1e-6, random_state=0)
    assert_allclose(plain.fit(whitened, y).objective_, model.objective_, rtol=1e-6)
    # The variance that PCA scales to one is that of a sample.
    pca = PCA(whiten=True).fit_transform(X)
    alpha = 0.2 * np.sqrt((len(X) - 1) / len(X))
    same = plain.set_params(alpha=alpha).fit(pca, y)
    assert_allclose(same.objective_, model.objective_, rtol=1e-6)


def test_coordinates_of_the_data_do_not_matter():
    X, y = tiny(1, n=30, d=3)
    mixing = np.random.RandomState(5).standard_normal((3, 3))
    params = {"arrangements": "adaptive", "tol": 1e-3}
    model = fitted(X, y, **params)
    mixed = fitted(X @ mixing - 40.0, y, **params)
    far_apart = fitted(X * [1e-6, 1.0, 1e6], y, **params)
    for other in (mixed, far_apart):
        assert_allclose(other.objective_, model.objective_, rtol=2e-3)
    assert_allclose(mixed.predict(X @ mixing - 40.0), model.predict(X), atol=0.2)


def test_directions_without_variance_are_left_out():
    X, y = tiny(2)
    model = fitted(X, y)
    redundant = np.column_stack([X, X[:, :1] - X[:, 1:], np.full(len(X), 5.0)])
    same = fitted(redundant, y)
    assert_allclose(same.objective_, model.objective_, rtol=1e-6)
    assert_allclose(same.predict(redundant), model.predict(X), atol=1e-4)
    assert_allclose(same.coefs_[0][3], 0.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_is_no_direction(dtype):
    rng = np.random.RandomState(0)
    X = rng.standard_normal((50, 3)) + 100.0
    X = np.column_stack([X, X @ [0.3, 0.5, 0.2]]).astype(dtype)
    assert Whitening.of(X, np.ones(50)).forward.shape == (4, 3)


def test_more_features_than_samples():
    rng = np.random.RandomState(0)
    X, y = rng.standard_normal((8, 20)), rng.standard_normal(8)
    model = fitted(X, y, arrangements="adaptive", tol=1e-3)
    # All whitened data of so many features are the same: corners of a simplex.
    others = rng.standard_normal((8, 30)) ** 3
    same = fitted(others, y, arrangements="adaptive", tol=1e-3)
    assert_allclose(same.objective_, model.objective_, rtol=2e-3)


def test_constant_data_give_a_constant():
    model = fitted(np.full((6, 2), 3.0), np.arange(6.0))
    assert model.n_neurons_ == 0
    assert_allclose(model.predict([[3.0, 3.0]]), 2.5)


def test_weights_are_repetitions():
    X, y = tiny(4, n=8)
    weight = np.array([1, 2, 0, 3, 1, 1, 2, 1])
    params = {"alpha": 0.2, "arrangements": "exact", "tol": 1e-6, "random_state": 0}
    model = ConvexReLURegressor(batch_norm=True, **params)
    weighted = model.fit(X, y, weight)
    W, v = weighted.coefs_
    Z = X @ W
    mean = weight @ Z / weight.sum()
    scales = np.sqrt(weight @ (Z - mean) ** 2 / weight.sum())
    shifts = mean + weighted.intercepts_[0]
    parts = W, scales, shifts, v[:, 0], weighted.intercepts_[1][0]
    value = normalised(X, y, *parts, 0.2, weight)
    assert_allclose(value, weighted.objective_, rtol=1e-10)
    again = ConvexReLURegressor(batch_norm=True, **params)
    again.fit(np.repeat(X, weight, axis=0), np.repeat(y, weight))
    assert_allclose(again.objective_, weighted.objective_, rtol=1e-9)
    assert_allclose(again.predict(X), weighted.predict(X), atol=1e-6)


def test_several_outputs_and_classes():
    X, Y = tiny(0, n=20, n_outputs=2)
    model = ConvexReLURegressor(0.3, batch_norm=True, random_state=0).fit(X, Y)
    squares = squared_deviations(X, np.ones(20), model.coefs_[0])
    assert_allclose(squares, (X @ model.coefs_[0]).var(axis=0).sum(), rtol=1e-10)
    value = 0.5 * np.sum((model.predict(X) - Y) ** 2)
    value += 0.15 * (squares + np.sum(model.coefs_[1] ** 2))
    assert_allclose(value, model.objective_, rtol=1e-10)
    assert model.dual_gap_ <= 1e-2 * model.objective_
    labels = np.arange(20) % 3
    classifier = ConvexReLUClassifier(0.1, batch_norm=True, random_state=0)
    classifier.fit(X * [1e4, 1e-4], labels)
    assert classifier.dual_gap_ <= 1e-2 * classifier.objective_


def test_objective_on_diabetes():
    # Trained as such, networks of width 100 end between 117.47 and 118.29.
    X, y = load_diabetes(return_X_y=True)
    y = (y - y.mean()) / y.std()
    model = ConvexReLURegressor(20, batch_norm=True, random_state=0).fit(X, y)
    assert 117.32 < model.objective_ < 117.34
    assert model.objective_ - model.dual_bound_ < 2e-3 * model.objective_


def test_the_default_weight_decay():
    X, y = tiny(1, n=30, d=3)
    first = ConvexReLURegressor(batch_norm=True, random_state=0).fit(X, y)
    scaled = ConvexReLURegressor(batch_norm=True, random_state=0)
    scaled.fit(X * [1e3, 1.0, 1e-2], y)
    assert_allclose(first.alpha_, scaled.alpha_, rtol=1e-2)
    found = alpha_max(ConvexReLURegressor(batch_norm=True, random_state=0), X, y)
    assert_allclose(first.alpha_, 0.02 * found.value, rtol=1e-2)
    above = ConvexReLURegressor(1.001 * found.upper, batch_norm=True, random_state=0)
    with pytest.warns(UserWarning, match="is a constant"):
        assert above.fit(X, y).n_neurons_ == 0
    below = ConvexReLURegressor(0.9 * found.value, batch_norm=True, random_state=0)
    assert below.fit(X, y).n_neurons_ > 0


@pytest.mark.parametrize("params", [{}, {"arrangements": "sampled"}])
def test_warm_start(params):
    X, y = tiny(2, n=40, d=3)
    model = ConvexReLURegressor(
        0.5, batch_norm=True, warm_start=True, random_state=0, **params
    )
    cold = model.fit(X, y).objective_
    assert model.fit(X, y).objective_ <= (1 + 1e-6) * cold


def test_path_and_cross_validation():
    X, y = tiny(2, n=30, d=3)
    estimator = ConvexReLURegressor(batch_norm=True, random_state=0)
    alphas, models, gaps = convex_relu_path(estimator, X, y, alphas=4, eps=0.1)
    for alpha, model, gap in zip(alphas, models, gaps):
        assert gap <= 1e-2 * model.objective_
        single = ConvexReLURegressor(alpha, batch_norm=True, random_state=0)
        objective = model.objective_ + 1e-9
        assert single.fit(X, y).dual_bound_ <= objective <= 1.011 * single.objective_
    # Of columns whose scales are far apart there is no warning.
    cv = ConvexReLURegressorCV(alphas=3, eps=0.1, cv=2, batch_norm=True, random_state=0)
    cv.fit(X * [1e5, 1.0, 1e-5], y)
    assert cv.dual_gap_ <= 1e-2 * cv.objective_


def test_smallest_network():
    X, y = tiny(5, n=60, d=3)
    model = ConvexReLURegressor(0.5, batch_norm=True, random_state=0).fit(X, y)
    smaller = smallest_network(model, X, y)
    assert smaller.n_neurons_ <= model.n_neurons_
    assert smaller.dual_gap_ <= 1e-2 * smaller.objective_


def test_certificate(tmp_path):
    X, y = tiny(1, n=12)
    X *= 10.0
    model = fitted(X, y)
    certificate = certify(model, X, y, alpha=0.2, tol=1e-4, random_state=0)
    assert certificate.batch_norm
    assert_allclose(certificate.objective, model.objective_, rtol=1e-10)
    assert_allclose(certificate.dual_bound, model.objective_, rtol=2e-4)
    certificate.save(tmp_path / "bound.json")
    loaded = Certificate.load(tmp_path / "bound.json")
    assert loaded.batch_norm
    assert loaded.verify(X, y, n_starts=30, random_state=0).holds
    # Without the normalisation the same dual point is no bound.
    other = replace(loaded, batch_norm=False)
    found = other.verify(X, y, n_starts=30, random_state=0)
    assert not found.holds
    # A dual point that is too large: the neuron that says so is in the units of X.
    large = replace(loaded, dual=1.2 * loaded.dual, dual_bound=1.1 * loaded.dual_bound)
    found = large.verify(X, y, n_starts=30, random_state=0)
    assert not found.holds
    direction, bias = found.unit
    assert_allclose(np.std(X @ direction), 1.0)
    slope = np.maximum(X @ direction + bias, 0.0) @ large.dual
    assert_allclose(abs(slope) / 0.2, found.kappa, rtol=1e-9)


def test_certificate_of_a_network_from_elsewhere():
    X, y = tiny(1, n=12)
    network = [np.ones((2, 1)), np.ones((1, 1))], [np.zeros(1), np.zeros(1)]
    certificate = certify(network, X, y, alpha=0.2, batch_norm=True, tol=1e-3)
    hidden = X @ np.ones(2)
    value = 0.5 * np.sum((np.maximum(hidden, 0) - y) ** 2) + 0.1 * (1 + np.var(hidden))
    assert_allclose(certificate.objective, value)
    assert_allclose(certificate.dual_bound, fitted(X, y).objective_, rtol=2e-3)


def test_needs_biases():
    X, y = tiny()
    estimator = ConvexReLURegressor(0.1, batch_norm=True, fit_intercept=False)
    with pytest.raises(ValueError, match=r"batch_norm=True .* fit_intercept=True"):
        estimator.fit(X, y)
    with pytest.raises(ValueError, match=r"batch_norm=True .* fit_intercept=True"):
        alpha_max(estimator, X, y)
    network = [np.ones((2, 1)), np.ones((1, 1))], [np.zeros(1), np.zeros(1)]
    with pytest.raises(ValueError, match=r"batch_norm=True .* fit_intercept=True"):
        certify(network, X, y, alpha=0.1, batch_norm=True, fit_intercept=False)


def test_a_fit_cut_short_has_a_network_and_a_warning():
    X, y = load_diabetes(return_X_y=True)
    model = ConvexReLURegressor(1e3, batch_norm=True, max_time=0.3, random_state=0)
    with pytest.warns(ConvergenceWarning):
        model.fit(X, y)
    assert np.isfinite(model.objective_)
    assert model.dual_bound_ <= model.objective_
