"""Units of data, targets and weights do not matter, nor does where they are centred."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression

from sklearn_convexnn import (
    ConvexReLUClassifier,
    ConvexReLURegressor,
    GatedReLURegressor,
    ParallelReLURegressor,
    alpha_max,
    certify,
    cutting_planes,
    smallest_network,
)
from sklearn_convexnn._preparing import canonical
from sklearn_convexnn.model.settings import FRACTION

SAMPLED = {"arrangements": "sampled", "n_arrangements": 10}
ROUTES = [
    ConvexReLURegressor(),
    ConvexReLURegressor(fit_intercept=False),
    ConvexReLURegressor(loss="huber"),
    ConvexReLURegressor(loss="quantile", tol=0.1),
    ConvexReLURegressor(**SAMPLED),
    ConvexReLURegressor(negative_slope=0.1, tol=0.05),
    GatedReLURegressor(n_arrangements=10),
    ParallelReLURegressor(**SAMPLED),
    "smallest",
    "cuts",
]


def _data(n=20, d=2, outputs=()):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d))
    y = (np.abs(X[:, 0]) + 0.1 * rng.standard_normal((*outputs, n))).T
    return X, y if not outputs else y + np.arange(outputs[0])


def _fitted(X, y, weight=None, **params):
    return _trained(ConvexReLURegressor(), X, y, weight, **params)


def _trained(route, X, y, weight=None, **params):
    """The estimator fitted, or a network of a function that has the name."""
    model = ConvexReLURegressor() if isinstance(route, str) else clone(route)
    model.set_params(random_state=0, **params)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*stopped with a duality gap")
        if route == "cuts":
            model.set_params(max_iter=5)
            return cutting_planes(model, X, y, cuts="cells", sample_weight=weight)
        model.fit(X, y, weight)
        if route == "smallest":
            return smallest_network(model, X, y, sample_weight=weight)
        return model


LARGE_AND_SMALL = [
    (sizes, dtype)
    for sizes in [(1e18, 1, 1), (1e-19, 1e19, 1), (1, 1e-19, 1e-12), (3e7, 3e7, 1e19)]
    for dtype in (np.float64, np.float32)
]


@pytest.mark.parametrize("route", ROUTES, ids=str)
@pytest.mark.parametrize(
    "sizes, dtype",
    [
        pytest.param(*case, marks=pytest.mark.slow if k != 5 else ())
        for k, case in enumerate(LARGE_AND_SMALL)
    ],
)
def test_units_do_not_matter(route, sizes, dtype):
    X, y = _data()
    X, y = X.astype(dtype), y.astype(dtype)
    data, target, weight = sizes
    plain = _trained(route, X, y)
    scaled = {"epsilon": 1.35 * target} if plain.loss == "huber" else {}
    s = np.full(len(y), weight)
    model = _trained(route, X * dtype(data), y * dtype(target), s, **scaled)
    unit = weight * target ** (1 if plain.loss == "quantile" else 2)
    # Rounding may lead to another network that is as good as was asked for.
    rtol = max(1e-2, 0.3 * plain.tol)
    assert_allclose(model.objective_ / unit, plain.objective_, rtol=rtol)
    assert_allclose(model.alpha_ / (unit / target * data), plain.alpha_, rtol=1e-3)
    assert_allclose(
        model.predict(X * dtype(data)) / target, plain.predict(X), atol=0.15
    )
    assert np.all(model.dual_bound_ <= model.objective_)


@pytest.mark.parametrize("outputs", [(), (2,)])
def test_powers_of_two_change_no_digit(outputs):
    X, y = _data(outputs=outputs)
    plain = _fitted(X, y, tol=0.05)
    model = _fitted(X * 2.0**40, y * 2.0**-30, np.full(len(y), 2.0**10), tol=0.05)
    assert_array_equal(model.predict(X * 2.0**40) * 2.0**30, plain.predict(X))
    assert model.objective_ == plain.objective_ * 2.0**-50
    assert_allclose(model.dual_bound_, plain.dual_bound_ * 2.0**-50, rtol=1e-12)


def test_poisson_in_other_units():
    X, y = _data()
    y = np.round(np.exp(y))
    plain = _fitted(X, y, loss="poisson")
    model = _fitted(X * 1e9, y * 1e15, loss="poisson")
    assert_allclose(model.objective_, 1e15 * plain.objective_, rtol=1e-2)
    assert_allclose(model.predict(X * 1e9), 1e15 * plain.predict(X), rtol=0.1)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_classification_in_other_units(n_classes):
    X, y = _data(30)
    labels = np.digitize(y, np.quantile(y, np.linspace(0, 1, n_classes + 1)[1:-1]))
    plain = ConvexReLUClassifier(random_state=0).fit(X, labels)
    model = ConvexReLUClassifier(random_state=0).fit(
        (X * 1e19).astype(np.float32), labels, np.full(30, 1e-15)
    )
    assert_allclose(model.objective_, 1e-15 * plain.objective_, rtol=2e-2)
    assert_allclose(
        model.predict_proba((X * 1e19).astype(np.float32)),
        plain.predict_proba(X),
        atol=0.1,
    )


@pytest.mark.parametrize("kind", ["global", "estimated"])
def test_certificates_in_other_units(kind):
    X, y = _data()
    model = _fitted(X, y)
    plain = certify(model, X, y, alpha=model.alpha_, kind=kind, random_state=0)
    model = _fitted(X * 1e15, y * 1e12)
    scaled = certify(
        model, X * 1e15, y * 1e12, alpha=model.alpha_, kind=kind, random_state=0
    )
    assert scaled.kind == plain.kind
    assert_allclose(scaled.objective, model.objective_, rtol=1e-9)
    assert_allclose(scaled.dual_bound, 1e24 * plain.dual_bound, rtol=2e-2)
    found = alpha_max(ConvexReLURegressor(random_state=0), X, y)
    large = alpha_max(ConvexReLURegressor(random_state=0), X * 1e15, y * 1e12)
    assert_allclose(large.value, 1e27 * found.value, rtol=1e-3)


def test_warm_start_in_other_units():
    X, y = _data()
    model = ConvexReLURegressor(random_state=0, warm_start=True).fit(X * 1e10, y * 1e8)
    before = model.objective_
    model.fit(X * 1e10, y * 1e8)
    assert model.objective_ <= before * (1 + 1e-9)


def test_offsets_of_single_precision_are_not_lost():
    """Rounded to single precision, a bias of 1e9 would be off by 32."""
    X, y = _data(40)
    X = X.astype(np.float32)
    plain = _fitted(X, y)
    model = _fitted(X, y + 1e9)
    assert_allclose(model.objective_, plain.objective_, rtol=2e-2)
    assert model.dual_gap_ <= model.tol * model.objective_
    assert_allclose(model.predict(X) - 1e9, plain.predict(X), atol=0.1)
    far = (X.astype(np.float64) + 1e5).astype(np.float32)
    model = _fitted(far, y)
    assert model.dual_gap_ <= model.tol * model.objective_


def test_default_alpha():
    X, y = _data(30)
    model = _fitted(X, y)
    found = alpha_max(ConvexReLURegressor(random_state=0), X, y)
    assert_allclose(model.alpha_, FRACTION * found.value, rtol=1e-3)
    assert_allclose(_fitted(X, 1e3 * y + 5).alpha_, 1e3 * model.alpha_, rtol=1e-3)
    # Weights that sum to one, as those of boosting.
    assert_allclose(
        _fitted(X, y, np.full(30, 1 / 30)).alpha_, model.alpha_ / 30, rtol=1e-3
    )
    assert _fitted(X, y, alpha=2).alpha_ == 2.0
    assert _fitted(X, np.ones(30)).n_neurons_ == 0


@pytest.mark.parametrize(
    "route",
    [
        ConvexReLURegressor(),
        GatedReLURegressor(n_arrangements=10),
        ConvexReLURegressor(**SAMPLED),
    ],
    ids=str,
)
def test_a_constant_network_is_told_of(route):
    X, y = _data()
    model = clone(route).set_params(random_state=0)
    found = alpha_max(model, X, y)
    model.set_params(alpha=2 * found.value)
    with pytest.warns(UserWarning, match="is a constant.*or alpha='scale'") as caught:
        model.fit(X, y)
    assert len(caught) == 1
    assert f"{2 * found.value:g}" in str(caught[0].message)
    # A constant is the best there is for every alpha.
    model.fit(X, np.ones(len(y)))


@pytest.mark.parametrize(
    "loss, bias",
    [
        ("log_loss", True),
        *[
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("log_loss", False),
                ("squared_hinge", True),
                ("squared_hinge", False),
                ("hinge", True),
                ("hinge", False),
            ]
        ],
    ],
)
def test_classes_without_weight_stay(loss, bias):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 2))
    y = np.digitize(X[:, 0], [-0.5, 0.5])
    names = np.array(["low", "mid", "top"])[y]
    options = {"loss": loss, "fit_intercept": bias, "tol": 0.1, "random_state": 0}
    for gone in range(3):
        model = ConvexReLUClassifier(**options)
        model.fit(X, names, np.where(y == gone, 0.0, 1.0))
        assert_array_equal(model.classes_, ["low", "mid", "top"])
        decision = model.decision_function(1e6 * X)
        assert np.all(np.argmin(decision, axis=1) == gone)
        # Not so far below the others that they spoil what is learnt from them.
        others = np.delete(decision, gone, axis=1).min(axis=1)
        assert np.all(others - decision[:, gone] <= 41.0)
        if loss == "log_loss":
            assert_array_equal(model.predict_proba(1e6 * X)[:, gone], 0.0)
        found = certify(model, X[y != gone], names[y != gone], alpha=model.alpha_)
        assert_allclose(found.objective, model.objective_, rtol=1e-6)
    for labels in (y, np.minimum(y, 1)):
        model = ConvexReLUClassifier(**options)
        model.fit(X, labels, np.where(labels == 0, 1.0, 0.0))
        assert_array_equal(model.classes_, np.unique(labels))
        assert np.all(model.predict(1e6 * X) == 0)
        assert np.max(np.abs(model.decision_function(X))) <= 40.0
        assert model.certificate_ == "global"
        assert model.dual_gap_ == model.objective_ == 0.0


def test_votes_of_classifiers_that_lack_a_class():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 2))
    y = np.digitize(X[:, 0], [-0.5, 0.5])
    models = [(name, ConvexReLUClassifier(random_state=0)) for name in "ab"]
    vote = VotingClassifier(models, voting="soft")
    vote.fit(X, y, sample_weight=np.where(y == 0, 0.0, 1.0))
    assert vote.score(X[y > 0], y[y > 0]) == 1.0


def test_stacking_on_decisions_that_lack_a_class():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((90, 2))
    y = np.digitize(X[:, 0], [-0.5, 0.5])
    base = ConvexReLUClassifier(loss="squared_hinge", random_state=0)
    stack = StackingClassifier([("net", base)], LogisticRegression(), cv=2)
    stack.fit(X, y, sample_weight=np.where(y == 0, 0.0, 1.0))
    assert stack.score(X[y > 0], y[y > 0]) > 0.9


def test_state_after_the_fit_does_not_come_from_parameters():
    X, y = _data()
    model = _fitted(X, np.abs(y), negative_slope=0.1, tol=0.05)
    before = model.predict(X)
    model.set_params(negative_slope=-1.0, loss="poisson")
    assert_array_equal(model.predict(X), before)
    labels = (y > 1).astype(int)
    model = ConvexReLUClassifier(random_state=0).fit(X, labels)
    before = model.predict_proba(X)
    model.set_params(loss="hinge", negative_slope=0.5)
    assert_array_equal(model.predict_proba(X), before)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_distinct_samples(dtype):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 3)).astype(dtype)
    X[:10] *= 0.0  # signed zeros
    Y, s = rng.integers(2, size=(50, 1)).astype(float), rng.random(50)
    again = rng.permutation(np.repeat(np.arange(50), 4))
    parts = canonical(X[again], Y[again], s[again])
    assert parts[0].dtype == dtype
    for part, other in zip(parts, canonical(X, Y, 4 * s)):
        assert_allclose(part, other, rtol=1e-12)
        assert not np.any(np.signbit(part[part == 0]))


def test_repetitions_of_few_rows_are_few_rows():
    X, y = _data(30)
    weighted = _fitted(X, y, np.full(30, 200.0))
    repeated = _fitted(np.repeat(X, 200, axis=0), np.repeat(y, 200))
    assert repeated.certificate_ == weighted.certificate_
    assert_allclose(repeated.objective_, weighted.objective_, rtol=1e-9)
    assert repeated.n_neurons_ == weighted.n_neurons_


@pytest.mark.parametrize(
    "estimator, n_outputs",
    [
        (ConvexReLURegressor(), 1),
        pytest.param(ConvexReLURegressor(), 2, marks=pytest.mark.slow),
        (ConvexReLURegressor(loss="poisson"), 1),
        pytest.param(ParallelReLURegressor(), 2, marks=pytest.mark.slow),
    ],
)
def test_samples_of_equal_features_and_other_targets(estimator, n_outputs):
    """They are few samples, and the objective is that of all."""
    rng = np.random.default_rng(0)
    X, group = rng.standard_normal((8, 2)), np.repeat(np.arange(8), 5)
    Y = np.abs(X @ rng.standard_normal((2, n_outputs)))[group]
    Y = Y + 0.3 * rng.uniform(size=Y.shape)
    means = np.array([Y[group == i].mean(axis=0) for i in range(8)])
    options = {"alpha": 0.5, "tol": 1e-3, "random_state": 0}
    all_, few = (clone(estimator).set_params(**options) for _ in range(2))
    all_.fit(X[group], Y if n_outputs > 1 else Y[:, 0])
    few.fit(X, means if n_outputs > 1 else means[:, 0], np.full(8, 5.0))
    assert all_.certificate_ == few.certificate_
    constant = all_.objective_ - few.objective_
    assert constant > 0
    # What is left is the tolerance, which is a part of the whole objective.
    slack = 1e-3 * all_.objective_
    assert abs(all_.dual_bound_ - few.dual_bound_ - constant) <= slack
    history = all_.history_
    assert_allclose(history["objective"][-1], all_.objective_, rtol=2e-3)
    if n_outputs == 1:
        again = certify(all_, X[group], Y[:, 0], alpha=0.5)
        assert_allclose(again.objective, all_.objective_)
        assert again.dual_bound <= all_.objective_ * (1.0 + 1e-9)
        assert all_.dual_bound_ <= again.objective * (1.0 + 1e-9)
