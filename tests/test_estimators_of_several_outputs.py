"""Estimators of several outputs and classes with one network."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import scale
from sklearn.utils.class_weight import compute_sample_weight

from sklearn_convexnn import (
    ConvexReLUClassifier,
    ConvexReLURegressor,
    smallest_network,
)


@pytest.fixture(scope="module")
def wine():
    X, y = load_wine(return_X_y=True)
    return scale(X), y


@pytest.fixture(scope="module")
def targets():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 3))
    Y = np.sin(2 * X @ rng.standard_normal((3, 3)))
    return X, Y + 0.2 * rng.standard_normal(Y.shape)


def objective_of(model, X, value):
    """Loss and weight decay of the weights, written down once more."""
    hidden = np.maximum(X @ model.coefs_[0] + model.intercepts_[0], 0.0)
    decay = sum(np.sum(coef**2) for coef in model.coefs_)
    raw = hidden @ model.coefs_[1] + model.intercepts_[1]
    return value(raw) + 0.5 * model.alpha * decay


@pytest.mark.parametrize("bias", [True, False])
def test_softmax_objective_is_that_of_the_weights(wine, bias):
    X, y = wine
    weight = np.linspace(0.5, 2.0, len(y))
    model = ConvexReLUClassifier(2.0, fit_intercept=bias, random_state=0)
    model.fit(X, y, sample_weight=weight)

    def value(raw):
        own = raw[np.arange(len(y)), y]
        return np.sum(weight * (np.log(np.sum(np.exp(raw), axis=1)) - own))

    assert_allclose(model.objective_, objective_of(model, X, value), rtol=1e-10)
    assert model.coefs_[1].shape == (model.n_neurons_, 3)
    assert model.out_activation_ == "softmax" and model.n_outputs_ == 3
    assert 0 <= model.dual_gap_ <= 1e-2 * model.objective_
    assert model.certificate_ == "estimated"
    assert np.any(model.intercepts_[0]) == bias
    proba = model.predict_proba(X)
    assert_allclose(proba.sum(axis=1), 1.0)
    assert_allclose(np.log(proba), model.predict_log_proba(X))
    assert_array_equal(model.predict(X), np.argmax(proba, axis=1))
    assert_allclose(model.loss_, model.objective_ / weight.sum())
    if bias:
        # A free offset makes the probabilities agree with the class frequencies.
        mean = np.average(proba, axis=0, weights=weight)
        truth = np.bincount(y, weights=weight) / weight.sum()
        assert_allclose(mean, truth, atol=2e-3)


def test_weights_in_an_mlp_classifier(wine):
    X, y = wine
    model = ConvexReLUClassifier(5.0, random_state=0).fit(X, y)
    mlp = MLPClassifier((model.n_neurons_,), alpha=5.0, solver="lbfgs", max_iter=1)
    with pytest.warns(ConvergenceWarning):
        mlp.fit(X, y)
    mlp.coefs_, mlp.intercepts_ = model.coefs_, model.intercepts_
    assert mlp.out_activation_ == model.out_activation_
    assert_allclose(mlp.predict_proba(X), model.predict_proba(X), rtol=1e-10)


@pytest.mark.slow
def test_better_than_any_mlp_of_the_same_objective(wine):
    X, y = wine
    model = ConvexReLUClassifier(3.0, tol=1e-3, random_state=0).fit(X, y)
    for seed in range(3):
        mlp = MLPClassifier(
            (50,),
            alpha=3.0,
            solver="lbfgs",
            max_iter=2000,
            max_fun=100_000,
            tol=1e-9,
            random_state=seed,
        ).fit(X, y)
        assert mlp.loss_ * len(y) >= model.dual_bound_
        assert mlp.loss_ * len(y) >= model.objective_ * (1 - 1e-3)


def test_mlp_regressor_averages_over_outputs(targets):
    X, Y = targets
    model = ConvexReLURegressor(1.5, tol=1e-3, random_state=0).fit(X, Y)
    mlp = MLPRegressor(
        hidden_layer_sizes=(50,),
        alpha=0.5,
        solver="lbfgs",
        max_iter=3000,
        max_fun=100_000,
        tol=1e-9,
        random_state=0,
    ).fit(X, Y)
    # Its objective is ours divided by the number of samples and of outputs.
    assert mlp.loss_ * Y.size >= model.dual_bound_
    # With another factor of alpha it would be below, or far above.
    assert mlp.loss_ * Y.size <= 1.2 * model.objective_


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["squared_error", "huber", "quantile", "poisson"])
def test_losses_of_several_outputs(targets, loss):
    X, Y = targets
    Y = np.exp(Y) if loss == "poisson" else Y
    model = ConvexReLURegressor(3.0, loss=loss, epsilon=0.5, tol=0.03, random_state=0)
    assert model.fit(X, Y).dual_gap_ <= 0.03 * model.objective_
    assert model.predict(X).shape == Y.shape
    # Sharing costs less, and not less than what one neuron for all would.
    apart = [clone(model).fit(X, y) for y in Y.T]
    assert model.dual_bound_ <= sum(part.objective_ for part in apart)
    model.set_params(alpha=3.0 / np.sqrt(3))
    cheap = [clone(model).fit(X, y) for y in Y.T]
    shared = clone(model).set_params(alpha=3.0).fit(X, Y)
    assert sum(part.dual_bound_ for part in cheap) <= shared.objective_


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["squared_hinge", "hinge"])
def test_classes_against_the_rest(loss):
    X, y = load_iris(return_X_y=True)
    X = scale(X)
    model = ConvexReLUClassifier(2.0, loss=loss, tol=0.02, random_state=0).fit(X, y)
    signs = np.where(y[:, None] == np.arange(3), 1.0, -1.0)

    def value(raw):
        slack = np.maximum(0.0, 1.0 - signs * raw)
        return np.sum(slack**2 if loss == "squared_hinge" else slack)

    assert_allclose(model.objective_, objective_of(model, X, value), rtol=1e-10)
    assert model.dual_gap_ <= 0.02 * model.objective_
    assert model.out_activation_ == "identity"
    assert not hasattr(model, "predict_proba")
    assert model.score(X, y) > 0.95


@pytest.mark.slow
def test_low_rank_data_have_a_proof():
    X, y = load_iris(return_X_y=True)
    X = scale(X[:, :2])
    model = ConvexReLUClassifier(1.0, tol=1e-3, random_state=0).fit(X, y)
    assert model.certificate_ == "global"
    exact = clone(model).set_params(arrangements="exact").fit(X, y)
    assert exact.certificate_ == "global"
    assert exact.dual_bound_ <= model.objective_ and model.dual_bound_ <= (
        exact.objective_
    )
    other = clone(model).set_params(random_state=1).fit(X, y)
    assert_allclose(other.objective_, model.objective_, rtol=1e-3)
    with pytest.raises(ValueError, match="rank at most 5, or 4 with free biases"):
        exact.fit(scale(load_wine().data), load_wine().target)
    # What was there before is still there.
    assert exact.n_features_in_ == 2


def test_orthogonal_samples_are_solved_by_structure():
    y = np.arange(12) % 3
    model = ConvexReLUClassifier(fit_intercept=False, loss="squared_hinge")
    assert model.fit(np.eye(12), y).dual_gap_ <= 1e-2 * model.objective_
    Y = np.eye(3)[y]
    net = ConvexReLURegressor(0.5, fit_intercept=False).fit(np.eye(12), Y)
    assert net.certificate_ == "global" and net.n_iter_ == 0
    assert_allclose(net.predict(np.eye(12)), (1 - 0.5 / 2) * Y, atol=1e-12)
    assert net.dual_gap_ <= 1e-9


@pytest.mark.slow
@pytest.mark.parametrize(
    "labels",
    [
        ["setosa", "versicolor", "virginica"],
        [True, "b", 3.5],
        [-3, 7, 100],
    ],
)
def test_labels_of_any_type(labels):
    X, y = load_iris(return_X_y=True)
    names = np.array(labels, dtype=object if True in labels else None)
    if names.dtype == object:
        names = names.astype(str)
    reference = ConvexReLUClassifier(10.0, random_state=0).fit(X, y)
    model = clone(reference).fit(X, names[y])
    order = np.argsort(np.argsort(names))
    assert_array_equal(model.classes_, np.sort(names))
    assert_array_equal(model.predict(X), names[reference.predict(X)])
    assert_allclose(
        model.predict_proba(X)[:, order], reference.predict_proba(X), atol=5e-3
    )


@pytest.mark.slow
def test_classes_of_one_or_two_rows():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 3))
    y = np.r_[np.zeros(20), np.ones(17), [2, 2], [3]]
    model = ConvexReLUClassifier(0.5, random_state=0).fit(X, y)
    assert model.dual_gap_ <= 1e-2 * model.objective_
    assert_array_equal(model.classes_, [0, 1, 2, 3])
    assert model.predict_proba(X).shape == (40, 4)
    each = ConvexReLUClassifier(0.01, random_state=0).fit(X[:5], np.arange(5))
    assert each.score(X[:5], np.arange(5)) == 1.0


@pytest.mark.slow
def test_weights_of_classes_are_weights_of_samples(wine):
    X, y = wine
    model = ConvexReLUClassifier(2.0, class_weight="balanced", random_state=0)
    model.fit(X, y)
    weight = compute_sample_weight("balanced", y)
    same = clone(model).set_params(class_weight=None).fit(X, y, sample_weight=weight)
    assert_allclose(model.objective_, same.objective_, rtol=1e-10)
    # A class that does not count is never predicted, but it is known.
    without = clone(model).set_params(class_weight={0: 1, 1: 1, 2: 0}).fit(X, y)
    assert len(without.classes_) == 3 and 2 not in without.predict(X)
    assert_allclose(without.predict_proba(X)[:, 2], 0.0, atol=1e-12)


def test_weights_are_repetitions(targets):
    X, Y = targets
    times = np.arange(len(X)) % 3
    model = ConvexReLURegressor(3.0, random_state=0)
    weighted = clone(model).fit(X, Y, sample_weight=times)
    repeated = model.fit(np.repeat(X, times, axis=0), np.repeat(Y, times, axis=0))
    assert_allclose(weighted.coefs_[0], repeated.coefs_[0], atol=1e-10)
    assert_allclose(weighted.objective_, repeated.objective_)


@pytest.mark.slow
def test_pickles_and_repeats(wine):
    X, y = wine
    model = ConvexReLUClassifier(2.0, random_state=0).fit(X, y)
    again = clone(model).fit(X, y)
    assert_array_equal(model.coefs_[0], again.coefs_[0])
    copy = pickle.loads(pickle.dumps(model))
    assert_array_equal(copy.predict_proba(X), model.predict_proba(X))


@pytest.mark.slow
def test_warm_start(wine):
    X, y = wine
    model = ConvexReLUClassifier(1.0, tol=1e-3, random_state=0, warm_start=True)
    first = model.fit(X, y).objective_
    assert model.fit(X, y).objective_ <= first * (1 + 1e-3)
    assert model.n_iter_ <= 5


@pytest.mark.slow
def test_limits_keep_the_best_network(wine):
    X, y = wine
    for limit in ({"max_iter": 1}, {"max_neurons": 2}, {"max_time": 1e-3}):
        model = ConvexReLUClassifier(0.01, tol=1e-7, random_state=0, **limit)
        with pytest.warns(ConvergenceWarning, match=next(iter(limit))):
            model.fit(X, y)
        assert model.objective_ < len(y) * np.log(3)
        assert model.dual_bound_ <= model.objective_


@pytest.mark.slow
def test_smallest_networks_of_several_outputs(wine):
    X, y = wine
    model = ConvexReLUClassifier(0.5, tol=1e-2, random_state=0).fit(X, y)
    small = smallest_network(model, X, y)
    assert small.n_neurons_ < model.n_neurons_
    assert small.dual_gap_ <= 1e-2 * small.objective_


@pytest.mark.slow
def test_sampled_patterns_of_several_outputs(wine):
    X, y = wine
    best = ConvexReLUClassifier(2.0, random_state=0).fit(X, y)
    model = ConvexReLUClassifier(
        2.0, arrangements="sampled", n_arrangements=20, random_state=0
    ).fit(X, y)
    assert model.certificate_ == "restricted" and model.n_arrangements_ == 20
    assert model.objective_ >= best.dual_bound_
    assert model.dual_gap_ <= 1e-2 * model.objective_
