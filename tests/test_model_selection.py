"""The largest useful weight decay, regularisation paths and cross-validation."""

import pickle
import warnings

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.metrics import get_scorer, mean_squared_error
from sklearn.model_selection import GroupKFold, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_convexnn import (
    ConvexReLUClassifier,
    ConvexReLUClassifierCV,
    ConvexReLURegressor,
    ConvexReLURegressorCV,
    GatedReLUClassifier,
    GatedReLURegressor,
    ParallelReLURegressor,
    alpha_max,
    convex_relu_path,
    path as _path,
)
from sklearn_convexnn._advice import advice
from sklearn_convexnn.families.two_layer.family import TwoLayer
from sklearn_convexnn.path import scoring_path
from sklearn_convexnn.training import (
    routes as training,
)
from sklearn_convexnn.training.descents import train_by_descent
from tests.problems import as_targets, tiny_data


def scaled(load, n=None):
    X, y = load(return_X_y=True)
    X, y = X[:n], y[:n]
    X = StandardScaler().fit_transform(X)
    return X, (y - y.mean()) / y.std() if load is load_diabetes else y


def three_classes(X):
    return np.digitize(X[:, 0] + 0.5 * X[:, -1] ** 2, [-0.2, 0.8])


REGRESSORS = [
    {},
    pytest.param({"fit_intercept": False}, marks=pytest.mark.slow),
    {"loss": "huber", "epsilon": 0.5, "negative_slope": 0.2},
    {"loss": "poisson"},
    {"loss": "quantile", "quantile": 0.3},
]
CLASSIFIERS = [
    {},
    {"loss": "squared_hinge"},
    {"loss": "hinge"},
    pytest.param({"loss": "hinge", "fit_intercept": False}, marks=pytest.mark.slow),
]


def assert_is_largest(estimator, X, y, sample_weight=None):
    found = alpha_max(estimator, X, y, sample_weight=sample_weight)
    objectives = {}
    for part in (3.0, 1.001, 0.999):
        # On a kink the first neurons come only after some ten rounds.
        model = clone(estimator).set_params(
            alpha=part * found.value, tol=1e-8, max_iter=40, random_state=0
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.filterwarnings("ignore", "The best network .* is a constant")
            model.fit(X, y, sample_weight=sample_weight)
        objectives[part] = model.objective_
        if part > 1:
            assert model.n_neurons_ == 0
    assert_allclose(objectives[1.001], objectives[3.0], rtol=1e-9)
    assert objectives[0.999] < (1.0 - 1e-8) * objectives[3.0]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("params", REGRESSORS, ids=str)
def test_alpha_max_of_regressors(params):
    X, y, s = tiny_data("squared_error", n=20, d=3, weighted=True)
    y = as_targets(params.get("loss"), y)
    found = assert_is_largest(ConvexReLURegressor(**params), X, y, s)
    assert found.kind == "global"
    assert found.upper <= (1.0 + 1e-4) * found.value


@pytest.mark.slow
@pytest.mark.parametrize("params", CLASSIFIERS, ids=str)
def test_alpha_max_of_classifiers(params):
    X, y, s = tiny_data("log_loss", n=20, d=3, weighted=True)
    # Of unbalanced labels the best constant of the hinge loss is on its kink.
    y = np.where(np.arange(20) < 7, y, 1.0)
    assert_is_largest(ConvexReLUClassifier(**params), X, y, s)


@pytest.mark.slow
@pytest.mark.parametrize(
    "estimator",
    [
        ConvexReLUClassifier(),
        ConvexReLUClassifier(loss="squared_hinge"),
        ConvexReLUClassifier(class_weight="balanced"),
        GatedReLUClassifier(arrangements="exact"),
    ],
    ids=str,
)
def test_alpha_max_of_several_outputs(estimator):
    X, _, s = tiny_data("log_loss", n=20, d=3, weighted=True)
    assert_is_largest(estimator, X, three_classes(X), s)


def test_alpha_max_of_sampled_gates():
    X, y, _ = tiny_data("squared_error", n=30, d=3)
    estimator = GatedReLURegressor(random_state=0)
    found = assert_is_largest(estimator, X, y)
    assert found.kind == "restricted"


@pytest.mark.parametrize("n_features", [1, 2])
def test_alpha_max_is_exact_for_low_rank(n_features):
    X, y, _ = tiny_data("squared_error", n=40, d=n_features)
    found = assert_is_largest(ConvexReLURegressor(), X, y)
    assert_allclose(found.upper, found.value, rtol=1e-9)


@pytest.mark.parametrize("loss", ["hinge", "quantile"])
@pytest.mark.parametrize("bias", [True, False])
def test_alpha_max_is_exact_for_low_rank_and_kinks(bias, loss):
    """The dual point is one of many, over which the slope is minimised."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        n, options = (
            80 if seed == 3 else 16,
            {"fit_intercept": bias, "random_state": seed},
        )
        X = rng.standard_normal((n, 1 + (seed > 2)))
        y = X[:, 0] + 0.3 * rng.standard_normal(n)
        if seed % 2:
            X = X @ rng.standard_normal((X.shape[1], 4))
        s = rng.integers(1, 4, n) if seed % 3 else None
        if loss == "hinge":
            estimator, y = ConvexReLUClassifier(loss=loss, **options), y > 0.3
        else:
            # Many samples are at the kink of the best constant.
            y = rng.integers(0, 3, n)
            estimator = ConvexReLURegressor(loss=loss, **options)
        found = alpha_max(estimator, X, y, sample_weight=s)
        assert found.kind == "global"
        assert found.value <= found.upper <= found.value * (1 + 1e-4)


def test_alpha_max_is_bounded_where_it_cannot_be_proven():
    X, y = scaled(load_diabetes)
    found = alpha_max(ConvexReLURegressor(random_state=0), X, y)
    assert found.kind == "estimated"
    assert found.value < found.upper < 3 * found.value
    classes = np.digitize(y, [-0.5, 0.5])
    found = alpha_max(ConvexReLUClassifier(random_state=0), X, classes)
    assert found.kind == "estimated"
    assert found.value < found.upper < 3 * found.value


def test_alpha_max_counts_a_weight_of_two_as_two_samples():
    X, y, _ = tiny_data("squared_error", n=20, d=3)
    s = np.where(np.arange(20) < 7, 2.0, 1.0)
    estimator = ConvexReLURegressor(random_state=0)
    weighted = alpha_max(estimator, X, y, sample_weight=s)
    repeated = alpha_max(estimator, np.r_[X, X[:7]], np.r_[y, y[:7]])
    assert_allclose(weighted.value, repeated.value, rtol=1e-12)


PATHS = {
    "scalar": (ConvexReLURegressor(), load_diabetes, 6),
    "without biases": (ConvexReLURegressor(fit_intercept=False), load_diabetes, 8),
    "log loss": (ConvexReLUClassifier(), load_breast_cancer, 6),
    "softmax": (ConvexReLUClassifier(), load_wine, 6),
    "squared hinge": (ConvexReLUClassifier(loss="squared_hinge"), load_wine, 6),
    "hinge": (ConvexReLUClassifier(loss="hinge"), load_breast_cancer, 6),
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.slow)
        for case in (
            "scalar",
            "softmax",
            "without biases",
            "log loss",
            "squared hinge",
            "hinge",
        )
    ],
)
def test_path_is_as_good_as_single_fits(case):
    estimator, load, n_alphas = PATHS[case]
    X, y = scaled(load, 150 if load is not load_wine else None)
    estimator = clone(estimator).set_params(random_state=0)
    alphas, models, gaps = convex_relu_path(estimator, X, y, alphas=n_alphas, eps=0.1)
    assert_allclose(alphas[-1], 0.1 * alphas[0])
    assert np.all(np.diff(alphas) < 0)
    assert_array_equal(gaps, [model.dual_gap_ for model in models])
    assert_array_equal(alphas, [model.alpha for model in models])
    for alpha, model in list(zip(alphas, models))[1::4]:
        single = clone(estimator).set_params(alpha=alpha).fit(X, y)
        assert_allclose(model.objective_, single.objective_, rtol=1e-2)
        # Bounds rest on searches, which are not exact.
        assert model.dual_bound_ <= (1.0 + 1e-3) * single.objective_
        assert single.dual_bound_ <= (1.0 + 1e-3) * model.objective_
        assert model.dual_gap_ <= 1e-2 * model.objective_
        assert model.certificate_ == single.certificate_


@pytest.mark.slow
@pytest.mark.parametrize(
    "estimator",
    [ConvexReLURegressor(arrangements="sampled"), GatedReLURegressor()],
    ids=str,
)
def test_path_on_sampled_patterns_has_the_same_for_all(estimator):
    X, y = scaled(load_diabetes, 150)
    estimator = clone(estimator).set_params(n_arrangements=20, tol=1e-4)
    estimator.set_params(random_state=np.random.RandomState(0))
    alphas, models, _ = convex_relu_path(estimator, X, y, alphas=3, eps=0.1)
    for alpha, model in list(zip(alphas, models))[1:]:
        single = clone(model).set_params(alpha=alpha).fit(X, y)
        assert_allclose(model.objective_, single.objective_, rtol=1e-3)
        assert model.random_state == models[0].random_state
        assert model.n_arrangements_ == 20


@pytest.mark.slow
def test_path_of_small_data_is_proven():
    X, y, _ = tiny_data("squared_error", n=18, d=2)
    estimator = ConvexReLURegressor(random_state=0)
    alphas, models, _ = convex_relu_path(estimator, X, y, alphas=9, eps=0.05)
    for alpha, model in zip(alphas, models):
        assert model.certificate_ == "global"
        exact = clone(estimator).set_params(alpha=alpha, arrangements="exact")
        exact.fit(X, y)
        assert model.dual_bound_ <= (1.0 + 1e-12) * exact.objective_
        assert exact.dual_bound_ <= (1.0 + 1e-12) * model.objective_


@pytest.mark.slow
def test_path_searches_little(monkeypatch):
    X, y = scaled(load_diabetes)
    counts = {"bursts": 0, "search": 0}

    def counting(name):
        method = getattr(TwoLayer, name)

        def counted(*args, **kwargs):
            counts[name] += 1
            return method(*args, **kwargs)

        return counted

    for name in counts:
        monkeypatch.setattr(TwoLayer, name, counting(name))
    _, models, _ = convex_relu_path(
        ConvexReLURegressor(random_state=0), X, y, alphas=20, eps=0.1
    )
    assert all(model.dual_gap_ <= 1e-2 * model.objective_ for model in models)
    assert counts["bursts"] == 1
    assert counts["search"] < 20


@pytest.mark.slow
def test_alphas_of_a_path():
    X, y = scaled(load_diabetes, 100)
    estimator = ConvexReLURegressor(random_state=0)
    alphas, models, _ = convex_relu_path(estimator, X, y, alphas=[9.0, 20, 20, 1e4])
    assert_array_equal(alphas, [1e4, 20, 9])
    assert models[0].n_neurons_ == 0
    assert models[0].objective_ > models[1].objective_ > models[2].objective_
    alphas, models, _ = convex_relu_path(estimator, X, y, alphas=1)
    assert_allclose(alphas, [alpha_max(estimator, X, y).value])


@pytest.mark.parametrize(
    "alphas",
    [[], [1.0, -1.0], [0.0], [1.0, np.nan], 0, True, "x", None, [[1.0, 2.0]], {1.0: 2}],
)
def test_errors_for_bad_alphas(alphas):
    X, y = np.eye(4), np.arange(4.0)
    with pytest.raises(ValueError, match="alphas"):
        convex_relu_path(ConvexReLURegressor(), X, y, alphas=alphas)
    with pytest.raises(ValueError, match="alphas"):
        ConvexReLURegressorCV(alphas=alphas, cv=2).fit(X, y)


@pytest.mark.parametrize("eps", [0.0, 1.0, np.nan, None, "a"])
def test_errors_for_bad_eps(eps):
    X, y = np.eye(4), np.arange(4.0)
    with pytest.raises((ValueError, TypeError), match="eps"):
        convex_relu_path(ConvexReLURegressor(), X, y, eps=eps)
    with pytest.raises(ValueError, match="eps"):
        ConvexReLURegressorCV(eps=eps, cv=2).fit(X, y)


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(StandardScaler(), ConvexReLURegressor()),
        ConvexReLURegressorCV(),
        ConvexReLUClassifierCV(),
        ConvexReLURegressor,
        ParallelReLURegressor(),
    ],
    ids=["pipeline", "regressor", "classifier", "class", "parallel"],
)
def test_other_estimators_are_refused(estimator):
    X, y = np.eye(4), np.arange(4.0)
    accepted = "needs an instance of the ConvexReLU... or GatedReLU... estimators"
    with pytest.raises(TypeError, match="alpha_max " + accepted):
        alpha_max(estimator, X, y)
    with pytest.raises(TypeError, match="convex_relu_path " + accepted):
        convex_relu_path(estimator, X, y)


def test_no_folds():
    with pytest.raises(ValueError, match="cv has to give at least one fold"):
        ConvexReLURegressorCV(alphas=[1.0], cv=[]).fit(np.eye(4), np.arange(4.0))


@pytest.mark.parametrize("columns", [[3.0], [3.0, 0.1]], ids=str)
@pytest.mark.parametrize("loss", ["squared_error", "quantile"])
def test_constant_columns(loss, columns):
    X, y = np.tile(columns, (40, 1)), np.random.RandomState(0).randn(40)
    estimator = ConvexReLURegressor(loss=loss, random_state=0)
    # Warnings are errors here.
    found = alpha_max(estimator, X, y)
    assert (found.value, found.upper, found.kind) == (0.0, 0.0, "global")
    _, models, _ = convex_relu_path(estimator, X, y, alphas=3)
    assert [model.n_neurons_ for model in models] == [0, 0, 0]
    classifier = ConvexReLUClassifier(random_state=0)
    _, models, _ = convex_relu_path(classifier, X, np.arange(40) % 3, alphas=2)
    assert [model.n_neurons_ for model in models] == [0, 0]
    # Beside another column they say nothing.
    x = np.random.RandomState(1).randn(40, 1)
    beside = alpha_max(estimator, np.hstack([X, x]), y)
    assert_allclose(beside.value, alpha_max(estimator, x, y).value, rtol=1e-4)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("columns", [[1.0, 1.0], [0.1, 3e4]], ids=str)
@pytest.mark.parametrize("kind", [ConvexReLURegressor, GatedReLURegressor])
def test_slopes_that_are_rounding(kind, columns, dtype):
    """Sums that cancel do not count, and the weight decay is none that rounding is."""
    X, y = np.tile(columns, (30, 1)).astype(dtype), np.random.RandomState(0).randn(30)
    for bias in (True, False):
        # Without biases it is the targets that sum to zero.
        estimator = kind(fit_intercept=bias, random_state=0)
        targets = y if bias else y - np.mean(y)
        # Warnings are errors here.
        model = clone(estimator).fit(X, targets)
        assert model.alpha_ >= 1e-4 and model.n_neurons_ == 0
        found = alpha_max(estimator, X, targets)
        assert (found.value, found.upper, found.kind) == (0.0, 0.0, "global")
        alphas, models, _ = convex_relu_path(estimator, X, targets, alphas=3)
        assert alphas[-1] >= 1e-4
        assert [model.n_neurons_ for model in models] == [0, 0, 0]


def test_slopes_of_little_spread_are_not_rounding():
    """A column far from zero has the slopes of one that is not."""
    X, y = np.random.RandomState(0).randn(2, 200, 1)
    estimator = ConvexReLURegressor(random_state=0)
    found = clone(estimator).fit(X + 1e8, y[:, 0]).alpha_
    assert_allclose(found, clone(estimator).fit(X, y[:, 0]).alpha_, rtol=1e-4)


def test_constant_targets():
    X = tiny_data("squared_error", n=20, d=2)[0]
    estimator = ConvexReLURegressor(random_state=0)
    found = alpha_max(estimator, X, np.ones(20))
    assert (found.value, found.upper) == (0.0, 0.0)
    _, models, gaps = convex_relu_path(estimator, X, np.ones(20), alphas=3)
    assert_allclose(gaps, 0.0, atol=1e-12)
    assert models[-1].n_neurons_ == 0


def test_the_only_class_that_has_weight():
    X = tiny_data("squared_error", n=20, d=2)[0]
    y = np.arange(20) % 2
    model = ConvexReLUClassifierCV(alphas=[3.0, 1.0, 0.3], cv=2, random_state=0)
    model.fit(X, y, sample_weight=y)
    assert_allclose(model.scores_path_, 0.0, atol=1e-12)
    assert np.all(model.predict(X) == 1)


@pytest.mark.slow
def test_warm_start_from_neurons_of_no_use():
    X, y = scaled(load_diabetes, 120)
    model = ConvexReLURegressor(alpha=20.0, warm_start=True, random_state=0).fit(X, y)
    assert model.n_neurons_ > 0
    with pytest.warns(UserWarning, match="is a constant"):
        model.set_params(alpha=1e4).fit(X, y)
    assert model.n_neurons_ == 0
    model.set_params(alpha=20.0).fit(X, y)
    assert model.dual_gap_ <= 1e-2 * model.objective_


@pytest.mark.slow
def test_regressor_cv_follows_the_paths_of_the_folds():
    X, y = scaled(load_diabetes, 150)
    folds = KFold(2, shuffle=True, random_state=0)
    s = np.random.default_rng(0).uniform(0.5, 2.0, 150)
    model = ConvexReLURegressorCV(alphas=4, eps=0.1, cv=folds, random_state=0)
    model.fit(X, y, sample_weight=s)
    base = ConvexReLURegressor(random_state=0)
    largest = alpha_max(base, X, y, sample_weight=s).value
    assert_allclose(model.alphas_, np.geomspace(largest, 0.1 * largest, 4))
    assert model.mse_path_.shape == (4, 2)
    for k, (train, test) in enumerate(folds.split(X)):
        _, models, _ = convex_relu_path(
            base, X[train], y[train], alphas=model.alphas_, sample_weight=s[train]
        )
        expected = [
            mean_squared_error(y[test], m.predict(X[test]), sample_weight=s[test])
            for m in models
        ]
        assert_allclose(model.mse_path_[:, k], expected, rtol=0.02)
    assert_allclose(model.scores_path_, -model.mse_path_)
    best = np.argmin(model.mse_path_.mean(axis=1))
    assert model.alpha_ == model.alphas_[best]
    single = base.set_params(alpha=model.alpha_).fit(X, y, sample_weight=s)
    for name in vars(single):
        if name.endswith("_") and name != "history_":
            assert hasattr(model, name)
    assert_allclose(model.predict(X), single.predict(X))
    assert model.objective_ == single.objective_
    assert model.certificate_ == single.certificate_


def test_classifier_cv_of_labels_that_are_strings():
    X, codes = scaled(load_wine)
    y = np.array(["red", "rosé", "white"])[codes]
    model = make_pipeline(
        StandardScaler(),
        ConvexReLUClassifierCV(
            alphas=[50, 5, 20], cv=3, class_weight="balanced", random_state=0
        ),
    ).fit(X, y)
    chosen = model[-1]
    assert_array_equal(chosen.classes_, ["red", "rosé", "white"])
    assert_array_equal(chosen.alphas_, [50, 20, 5])
    assert chosen.alpha_ == 5
    assert chosen.scores_path_.shape == (3, 3)
    assert np.all(chosen.scores_path_ < 0)
    assert not hasattr(chosen, "mse_path_")
    assert model.score(X, y) > 0.95
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize("params", [{"loss": "squared_hinge"}, {"scoring": "f1"}])
def test_scores_of_the_classifier(params):
    X, y = scaled(load_breast_cancer, 100)
    model = ConvexReLUClassifierCV(alphas=[30, 10], cv=2, random_state=0, **params)
    model.fit(X, y)
    assert np.all((model.scores_path_ > 0.5) & (model.scores_path_ <= 1))


@pytest.mark.slow
def test_scores_by_another_scorer():
    X, y = scaled(load_diabetes, 100)
    model = ConvexReLURegressorCV(alphas=[30.0], cv=2, scoring="r2", random_state=0)
    model.fit(X, y)
    base = ConvexReLURegressor(alpha=30.0, tol=1e-3, random_state=0)
    base.fit(X[50:], y[50:])
    expected = get_scorer("r2")(base, X[:50], y[:50])
    # Networks of folds are from descent.
    assert_allclose(model.scores_path_[0, 0], expected, atol=1e-2)
    assert not hasattr(model, "mse_path_")
    model.set_params(scoring=None).fit(X, y)
    assert model.mse_path_.shape == (1, 2)


def test_scores_that_are_not_numbers_come_last():
    X, y = scaled(load_diabetes, 70)

    def unknown(model, X, y):
        return np.nan if model.alpha > 10 else -model.alpha

    params = {"cv": 2, "random_state": 0, "scoring": unknown}
    model = ConvexReLURegressorCV(alphas=[40.0, 20.0, 9.0, 8.0], **params)
    with pytest.warns(UserWarning, match="not a number for 2 of the 4 values"):
        model.fit(X, y)
    assert model.alpha_ == 8.0
    assert np.all(np.isnan(model.scores_path_[:2]))
    with pytest.raises(ValueError, match=r"does not suit.*\nIn 2 folds the scorer"):
        model.set_params(alphas=[40.0, 20.0]).fit(X, y)


def a_fold_of_one_class():
    X, y = scaled(load_breast_cancer, 120)
    ones, half = np.flatnonzero(y == 1), np.arange(60)
    return X, y, [(ones, half), (half, half + 60)]


@pytest.mark.slow
def test_folds_that_fail_are_left_out():
    X, y, folds = a_fold_of_one_class()
    model = ConvexReLUClassifierCV(alphas=[30.0, 10.0, 3.0], cv=folds, random_state=0)
    only = clone(model).set_params(cv=folds[1:]).fit(X, y)
    with pytest.warns(FitFailedWarning) as caught:
        model.fit(X, y)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "1 of the 2 folds of ConvexReLUClassifierCV failed" in message
    assert "In a fold the fit failed with ValueError" in message
    assert "one class" in message
    assert np.all(np.isnan(model.scores_path_[:, 0]))
    assert_array_equal(model.scores_path_[:, 1], only.scores_path_[:, 0])
    assert model.alpha_ == only.alpha_
    with pytest.raises(ValueError, match=r"no fold has a score\.\n.*one class"):
        model.set_params(cv=folds[:1]).fit(X, y)
    # What was there before is kept.
    assert model.alpha_ == only.alpha_


def test_folds_without_weight_are_left_out():
    X, y = scaled(load_diabetes, 120)
    groups = np.repeat([0, 1, 2], 40)
    s = np.where(groups == 1, 0.0, 1.0)
    folds = [(groups == k, groups == i) for k, i in ((0, 1), (1, 2), (2, 0))]
    folds = [tuple(np.flatnonzero(part) for part in fold) for fold in folds]
    model = ConvexReLURegressorCV(alphas=[20.0, 5.0], cv=folds, random_state=0)
    with pytest.warns(FitFailedWarning, match="2 of the 3 folds") as caught:
        model.fit(X, y, sample_weight=s)
    assert "the samples left out have no weight" in str(caught[0].message)
    assert "the fit failed with ValueError" in str(caught[0].message)
    assert_array_equal(np.isnan(model.mse_path_), [[True, True, False]] * 2)


def test_scores_that_fail():
    X, y = scaled(load_diabetes, 70)

    def fails(model, X, y):
        if model.alpha == 9.0 and y[0] == first:
            raise RuntimeError("no such score")
        return model.alpha

    first = y[0]
    params = {"cv": 2, "random_state": 0, "scoring": fails}
    model = ConvexReLURegressorCV(alphas=[9.0, 8.0], **params)
    with pytest.warns(UserWarning, match="RuntimeError: no such score") as caught:
        model.fit(X, y)
    assert "not a number for 1 of the 2 values" in str(caught[0].message)
    assert model.alpha_ == 8.0
    with pytest.warns(FitFailedWarning, match="scoring failed with RuntimeError"):
        model.set_params(alphas=[9.0]).fit(X, y)
    assert model.alpha_ == 9.0


def test_an_interrupt_is_no_failure():
    X, y = scaled(load_diabetes, 70)

    def interrupted(model, X, y):
        raise KeyboardInterrupt

    model = ConvexReLURegressorCV(alphas=[20.0], cv=2, random_state=0).fit(X, y)
    before = dict(vars(model), scoring=interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.set_params(scoring=interrupted).fit(X, y)
    assert vars(model) == before


def test_folds_prove_and_search_nothing(monkeypatch):
    X, y, _ = tiny_data("squared_error", n=24, d=4)
    calls, train = [], training.generate_and_prove

    def counted(*args, **kwargs):
        calls.append(args)
        return train(*args, **kwargs)

    monkeypatch.setattr(training, "generate_and_prove", counted)
    model = ConvexReLURegressorCV(random_state=0).fit(X, y)
    assert model.alphas_.shape == (20,)
    # That of all data.
    assert len(calls) == 1


@pytest.mark.parametrize(
    "estimator, load, n",
    [
        (ConvexReLURegressor(), load_diabetes, 150),
        (ConvexReLURegressor(fit_intercept=False), load_diabetes, 150),
        pytest.param(
            ConvexReLUClassifier(loss="hinge"),
            load_breast_cancer,
            100,
            marks=pytest.mark.slow,
        ),
        pytest.param(ConvexReLUClassifier(), load_wine, None, marks=pytest.mark.slow),
        (ConvexReLUClassifier(class_weight={0: 0, 1: 1, 2: 1}), load_wine, None),
        pytest.param(
            ConvexReLUClassifier(loss="squared_hinge"),
            load_wine,
            None,
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda part: getattr(part, "__name__", str(part)),
)
def test_networks_for_scores_are_almost_optimal(estimator, load, n):
    X, y = scaled(load, n)
    estimator = clone(estimator).set_params(random_state=0)
    alphas = alpha_max(estimator, X, y).value * np.geomspace(1.1, 0.03, 8)
    models, short = scoring_path(estimator, X, y, None, alphas)
    assert short.n_fits == 0
    assert models[0].n_neurons_ == 0
    assert [model.alpha for model in models] == list(alphas)
    for k in (2, 5):
        single = clone(estimator).set_params(alpha=alphas[k]).fit(X, y)
        assert models[k].objective_ <= 1.02 * single.objective_
        assert models[k].objective_ >= (1.0 - 1e-3) * single.dual_bound_
        agreement = models[k].predict(X) - single.predict(X)
        assert np.mean(np.abs(agreement)) < 0.05


def test_networks_for_scores_keep_to_the_parameters():
    X, y = scaled(load_diabetes, 70)
    for params in ({"max_neurons": 2}, {"arrangements": "sampled"}):
        estimator = ConvexReLURegressor(**params, n_arrangements=5, random_state=0)
        models, short = scoring_path(estimator, X, y, None, np.array([20.0, 5.0]))
        assert short.n_fits == 2
        assert all(np.isfinite(model.dual_bound_) for model in models)
    # On a line descent gets stuck.
    estimator = ConvexReLURegressor(random_state=0)
    models, _ = scoring_path(estimator, X[:, [2, 2]], y, None, np.array([20.0, 1.0]))
    assert [model.certificate_ for model in models] == ["global", "global"]


def test_a_network_worse_than_a_mixture_is_replaced():
    X, y = scaled(load_diabetes, 80)
    alphas = np.array([20.0, 10.0, 5.0])
    path = _path._Path(ConvexReLURegressor(random_state=0), X, y, None, alphas, None)
    for k in (2, 1, 0):
        path.fit(k, path.sides(k), method=train_by_descent)
    good = path.models[1].objective_
    assert not path.is_bettered(1)
    # As of one that has got stuck.
    path.done[1].model.objective_ *= 1.5
    assert path.is_bettered(1)
    path.fit(1, path.sides(1), method=train_by_descent)
    assert path.models[1].objective_ <= 1.01 * good


@pytest.mark.slow
@pytest.mark.parametrize("params", [{}, {"max_neurons": 5}], ids=str)
def test_verbose_lines_say_fold_and_alpha(params, capsys):
    X, y = scaled(load_diabetes, 70)
    model = ConvexReLURegressorCV(
        alphas=[20.0, 12.5], cv=2, verbose=1, random_state=0, **params
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    names = {line.split("]")[0] for line in lines}
    assert names == {
        *(
            f"[ConvexReLURegressorCV, fold {fold}/2, alpha {alpha}"
            for fold in (1, 2)
            for alpha in ("1/2 = 20", "2/2 = 12.5")
        ),
        f"[ConvexReLURegressorCV, all data, alpha = {model.alpha_:g}",
    }


def test_folds_may_lack_classes():
    X, y = scaled(load_wine)
    order = np.argsort(y, kind="stable")
    train, test = order[:130], order[130:]
    model = ConvexReLUClassifierCV(alphas=[10.0], cv=[(train, test)], random_state=0)
    model.fit(X, y)
    assert np.isfinite(model.scores_path_[0, 0])
    assert len(model.classes_) == 3


@pytest.mark.slow
def test_several_outputs_and_sparse_data():
    from scipy.sparse import csr_array

    X, y = scaled(load_diabetes, 150)
    Y = np.column_stack([y, X[:, 0] ** 2])
    model = ConvexReLURegressorCV(alphas=2, eps=0.2, cv=2, random_state=0).fit(X, Y)
    assert model.predict(X).shape == (150, 2)
    sparse = clone(model).fit(csr_array(X), Y)
    assert_allclose(sparse.mse_path_, model.mse_path_)


@pytest.mark.slow
def test_one_warning_for_all_fits():
    X, y = scaled(load_diabetes, 150)
    params = {"max_iter": 1, "tol": 1e-9, "random_state": 0}
    model = ConvexReLURegressorCV(alphas=[10.0, 5.0], cv=2, max_neurons=99, **params)
    with pytest.warns(ConvergenceWarning) as caught:
        model.fit(X, y)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "5 of the 5 fits of ConvexReLURegressorCV stopped" in message
    assert message.endswith("Increase max_iter, or loosen tol.")
    assert model.dual_gap_ > 1e-9 * model.objective_
    # Of networks from descent no gap is known.
    with pytest.warns(ConvergenceWarning, match="The fit of ConvexReLURegressorCV"):
        model.set_params(max_neurons=None).fit(X, y)
    with pytest.warns(ConvergenceWarning, match="2 of the 2 fits of convex_relu_path"):
        convex_relu_path(ConvexReLURegressor(**params), X, y, alphas=[10.0, 5.0])


@pytest.mark.slow
def test_warnings_name_the_limit_that_was_hit():
    X, y = scaled(load_diabetes, 70)
    estimator = ConvexReLURegressor(tol=1e-9, random_state=0)
    for params, advised in (
        ({"max_time": 1e-9}, "Increase max_time, or loosen tol."),
        ({"max_iter": 1}, "Increase max_iter, or loosen tol."),
        ({"max_neurons": 1}, "Increase max_neurons, or loosen tol."),
    ):
        limited = clone(estimator).set_params(alpha=5.0, **params)
        with pytest.warns(ConvergenceWarning) as caught:
            limited.fit(X, y)
        assert str(caught[0].message).endswith(advised)
        with pytest.warns(ConvergenceWarning) as caught:
            convex_relu_path(limited, X, y, alphas=[10.0, 5.0])
        assert str(caught[0].message).endswith(advised)
    both = "Increase max_iter, or increase max_time, or loosen tol."
    assert advice({"max_time", "max_iter", "optimal"}) == both
    assert "double precision" in advice({"optimal"})
    assert "StandardScaler" in advice({"max_iter"}, columns_apart=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "backend", ["threading", pytest.param("loky", marks=pytest.mark.slow)]
)
def test_jobs_do_not_change_the_result(backend):
    X, y = scaled(load_diabetes, 150)
    model = ConvexReLURegressorCV(alphas=4, eps=0.1, cv=3, random_state=0).fit(X, y)
    with joblib.parallel_config(backend):
        other = clone(model).set_params(n_jobs=2).fit(X, y)
    assert_allclose(other.mse_path_, model.mse_path_, rtol=1e-6)
    assert_allclose(other.coefs_[0], model.coefs_[0], rtol=1e-6, atol=1e-9)


@pytest.mark.slow
@config_context(enable_metadata_routing=True)
def test_metadata_routing():
    X, y = scaled(load_diabetes, 120)
    groups, s = np.repeat([0, 1, 2], 40), np.linspace(0.5, 2.0, 120)
    model = ConvexReLURegressorCV(alphas=[20.0], cv=GroupKFold(3), random_state=0)
    model.fit(X, y, sample_weight=s, groups=groups)
    folds = list(GroupKFold(3).split(X, y, groups))
    given = clone(model).set_params(cv=folds).fit(X, y, sample_weight=s)
    assert_allclose(model.mse_path_, given.mse_path_)
    with pytest.raises(ValueError, match="groups"):
        model.fit(X, y)
    scorer = get_scorer("neg_mean_squared_error").set_score_request(sample_weight=True)
    scored = clone(model).set_params(scoring=scorer)
    scored.fit(X, y, sample_weight=s, groups=groups)
    assert_allclose(scored.scores_path_, -model.mse_path_)
    plain = scorer.set_score_request(sample_weight=False)
    plain = clone(model).set_params(scoring=plain)
    plain.fit(X, y, sample_weight=s, groups=groups)
    assert not np.allclose(plain.scores_path_, scored.scores_path_)


def test_metadata_without_routing():
    with pytest.raises(ValueError, match="enable_metadata_routing"):
        ConvexReLURegressorCV(alphas=[1.0]).fit(np.eye(6), np.arange(6.0), groups=[0])


def test_failed_fit_keeps_the_former_state():
    X, y = scaled(load_diabetes, 120)
    model = ConvexReLURegressorCV(alphas=[20.0], cv=2, random_state=0).fit(X, y)
    before = dict(vars(model))
    with pytest.raises(ValueError, match="n_splits"):
        model.set_params(cv=1000).fit(X, y)
    assert set(vars(model)) == set(before)
    assert model.alpha_ == 20.0


@pytest.mark.parametrize(
    "kind, base",
    [
        (ConvexReLURegressorCV, ConvexReLURegressor),
        (ConvexReLUClassifierCV, ConvexReLUClassifier),
    ],
)
def test_parameters_are_those_of_the_base_estimator(kind, base):
    own = {"alphas": 20, "eps": 1e-2, "cv": None, "scoring": None, "n_jobs": None}
    expected = {**base().get_params(), **own}
    for name in ("alpha", "warm_start"):
        del expected[name]
    assert kind().get_params() == expected
