"""The same numbers in any format give the same network."""

import os
from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from numpy.testing import assert_allclose
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPRegressor

from sklearn_convexnn import (
    ConvexReLURegressor,
    GatedReLUClassifier,
    GatedReLURegressor,
    alpha_max,
)
from sklearn_convexnn._utils.devices import in_numpy
from sklearn_convexnn.model.settings import Settings
from sklearn_convexnn.patterns.gates import gated_arrangement

SPARSE = [
    f"{kind}_{end}" for kind in ("csr", "csc", "coo") for end in ("array", "matrix")
]
FORMATS = ["fortran", "strided", "list", "pandas", "float32", *SPARSE]
FORMATS += ["csr_duplicates", "zero_rows", "repeated", "array_api_strict"]

MODELS = {
    "gated": GatedReLURegressor(n_arrangements=8),
    "gated without biases": GatedReLURegressor(n_arrangements=8, fit_intercept=False),
    "gated exact": GatedReLURegressor(arrangements="exact"),
    "gated of all patterns": GatedReLURegressor(n_arrangements=200),
    "relu": ConvexReLURegressor(arrangements="sampled", n_arrangements=8),
}


def table(n=40, d=10):
    X, y = load_diabetes(return_X_y=True)
    # Single precision has these numbers.
    X, y = np.float32(X[:n, :d] * 20).astype(float), (y[:n] - 150) / 77
    X[np.abs(X) < 0.3] = 0.0
    # A column far from the origin, and one that does not vary.
    X[:, 0] += 4.0
    X[:, 2:3] = -7.0
    weight = np.where(np.arange(n) < 10, 3.0, 1.0)
    weight[-4:] = 0.0
    return X, y, weight


def in_format(name, X, y, weight):
    if name in SPARSE:
        return getattr(scipy.sparse, name)(X), y, weight
    if name == "csr_duplicates":
        part = scipy.sparse.csr_array(X)
        halves = np.repeat(0.5 * part.data, 2), np.repeat(part.indices, 2)
        return scipy.sparse.csr_array((*halves, 2 * part.indptr), X.shape), y, weight
    if name == "zero_rows":
        far = np.full((3, X.shape[1]), 1e6)
        return (
            np.concatenate([far, X]),
            np.append([9.0, 9.0, 9.0], y),
            np.append(np.zeros(3), weight),
        )
    if name == "repeated":
        times = weight.astype(int)
        return np.repeat(X, times, axis=0), np.repeat(y, times), None
    wide = np.zeros((len(X), 2 * X.shape[1]))
    wide[:, ::2] = X
    others = {
        "fortran": lambda: np.asfortranarray(X),
        "strided": lambda: wide[:, ::2],
        "list": X.tolist,
        "pandas": lambda: pd.DataFrame(X),
        "float32": lambda: X.astype(np.float32),
    }
    return others[name](), y, weight


def model_of(case, **options):
    params = {"alpha": 2.0, "tol": 1e-6, "random_state": 0, **options}
    return clone(MODELS[case]).set_params(**params)


def data_of(case):
    # All patterns only of few samples with few features.
    return table(14, 2) if "exact" in case or "all" in case else table()


@lru_cache
def reference(case):
    X, y, weight = data_of(case)
    return model_of(case).fit(X, y, weight)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("case", MODELS)
def test_one_network_of_every_format(case, name):
    X, y, weight = data_of(case)
    expected, model = reference(case), model_of(case)
    rtol = 1e-4 if name == "float32" else 2e-6
    if name == "float32":
        model.set_params(tol=1e-4)
    if name == "array_api_strict":
        if os.environ.get("SCIPY_ARRAY_API") != "1":
            pytest.skip("needs SCIPY_ARRAY_API=1")
        xp = pytest.importorskip(name)
        with config_context(array_api_dispatch=True):
            model.fit(*(xp.asarray(part) for part in (X, y, weight)))
    else:
        model.fit(*in_format(name, X, y, weight))
    assert_allclose(model.objective_, expected.objective_, rtol=rtol)
    assert model.certificate_ == expected.certificate_
    assert model.n_arrangements_ == expected.n_arrangements_
    # With all patterns more than one network is as good.
    if "gated" in case and not (name == "float32" and len(X) == 14):
        chosen, wanted = in_numpy(model.gates_).T, expected.gates_.T
        # Some formats lead to neurons of no weight in others.
        distances = np.linalg.norm(chosen[:, None] - wanted, axis=2)
        size = np.linalg.norm(wanted, axis=1)
        assert np.all(np.min(distances / size, axis=0) < 1e-5)
    coefs = [in_numpy(part) for part in model.coefs_]
    assert_allclose(
        sum(np.sum(part.astype(float) ** 2) for part in coefs),
        sum(np.sum(part**2) for part in expected.coefs_),
        rtol=1e-2 if name == "float32" else 1e-3,
    )


@pytest.mark.parametrize("name", ["fortran", "csr_array", "float32", "repeated"])
def test_one_gated_classifier_of_every_format(name):
    X, y, weight = table()
    labels = np.digitize(y, [-0.5, 0.5])
    model = GatedReLUClassifier(2.0, n_arrangements=8, random_state=0, tol=1e-4)
    expected = model.fit(X, labels, weight).objective_
    model.fit(*in_format(name, X, labels, weight))
    assert_allclose(model.objective_, expected, rtol=2e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_largest_slope_is_that_of_the_gates_of_the_fit(bias):
    X, y, weight = table()
    model = model_of("gated", fit_intercept=bias)
    found = alpha_max(model, X, y, sample_weight=weight)
    assert found.kind == "restricted" and found.value == found.upper
    sparse = alpha_max(model, scipy.sparse.csr_array(X), y, sample_weight=weight)
    assert_allclose(sparse.value, found.value)
    for factor in (1.001, 0.99):
        model.set_params(alpha=factor * found.value).fit(X, y, weight)
        assert (model.n_neurons_ == 0) == (factor > 1)


def test_units_of_the_columns_of_gates():
    """Gates follow location and scale of the columns, to rounding."""
    X, y, weight = table()
    scale, shift = 2.0 ** np.arange(-5, 5), 4.0 * np.arange(10)
    settings = Settings.of(model_of("gated"), loss=None)
    found = [
        gated_arrangement(part, weight, settings, None)[0]
        for part in (X, scipy.sparse.csr_array(X), X * scale + shift)
    ]
    for other in found[1:]:
        np.testing.assert_array_equal(other.patterns, found[0].patterns)


DAYS = np.array("2020-01-01", dtype="M8[D]") + np.arange(12)
NUMBERS = np.random.default_rng(0).standard_normal((12, 2))
TARGETS = NUMBERS[:, 0] + 0.5


def frame(column):
    return pd.DataFrame({"a": column, "b": NUMBERS[:, 0]})


# What scikit-learn's own estimators make of these is not always an error.
UNUSUAL = {
    "masked": np.ma.masked_array(NUMBERS, mask=NUMBERS > 1.0),
    "times": np.column_stack([DAYS, DAYS]),
    "durations": np.column_stack([DAYS - DAYS[0], DAYS - DAYS[0]]),
    "objects of times": np.array([[day, 1.0] for day in DAYS], dtype=object),
    "objects of dates": np.array([[day.item(), 1.0] for day in DAYS], dtype=object),
    "frame of times": frame(DAYS),
    "frame of stamps": frame(pd.Series(list(pd.to_datetime(DAYS)), dtype=object)),
    "frame of only times": pd.DataFrame({"a": DAYS}),
    "nullable": frame(pd.array([1, 2, 3] * 4, dtype="Int64")),
    "nullable with NA": frame(pd.array([1, 2, None] * 4, dtype="Int64")),
    "floats with NA": frame(pd.array([1.0, 2.0, None] * 4, dtype="Float64")),
    "truths with NA": frame(pd.array([True, False, None] * 4, dtype="boolean")),
    "categories": frame(pd.Categorical(["a", "b", "c"] * 4)),
    "complex": NUMBERS + 1j,
    "sparse complex": scipy.sparse.csr_array(NUMBERS + 1j),
    "strings of numbers": NUMBERS.astype(str),
    "strings": np.array([["a", "1"]] * 12),
    "objects": NUMBERS.astype(object),
    "objects with None": np.array([[None, 1.0]] + [[1.0, 2.0]] * 11, dtype=object),
    "truths": NUMBERS > 0,
    "records": np.zeros(12, dtype=[("a", float), ("b", float)]),
}
UNUSUAL_TARGETS = {
    "masked": np.ma.masked_array(TARGETS, mask=TARGETS > 1.0),
    "times": DAYS,
    "stamps": np.array(list(pd.to_datetime(DAYS)), dtype=object),
    "strings of numbers": TARGETS.astype(str),
    "strings": np.array(["a", "b", "c"] * 4),
    "complex": TARGETS + 1j,
    "nullable": pd.Series(pd.array(TARGETS, dtype="Float64")),
    "nullable with NA": pd.Series(pd.array([1.0, None] * 6, dtype="Float64")),
    "objects": TARGETS.astype(object),
    "objects with None": np.array([None] + [1.0] * 11, dtype=object),
    "truths": TARGETS > 0,
}


def outcome(estimator, X, y):
    """What the data are taken for, by a fit on them, or the error."""
    try:
        estimator.fit(X, y)
    except Exception as error:
        # Of any kind: it is compared with that of another estimator.
        return type(error).__name__, "NaN" in str(error)
    return estimator.n_features_in_, list(getattr(estimator, "feature_names_in_", []))


def quick():
    return ConvexReLURegressor(1e9, arrangements="sampled", n_arrangements=3)


IGNORED = pytest.mark.filterwarnings(
    "ignore:.*(stopped with a|Maximum number|lbfgs failed|no longer|is a constant)"
)


@IGNORED
@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_features_are_those_of_scikit_learn(name):
    X = UNUSUAL[name]
    mlp = MLPRegressor(max_iter=1, solver="lbfgs")
    assert outcome(quick(), X, TARGETS) == outcome(mlp, X, TARGETS)


@IGNORED
@pytest.mark.parametrize("name", UNUSUAL_TARGETS)
def test_unusual_targets_are_those_of_scikit_learn(name):
    y = UNUSUAL_TARGETS[name]
    assert outcome(quick(), NUMBERS, y) == outcome(Ridge(), NUMBERS, y)


def test_masks_are_not_looked_at():
    """As in scikit-learn, whose estimators take the data below them."""
    plain, masked = quick(), quick()
    for model in (plain, masked):
        model.set_params(alpha=0.1, random_state=0)
    plain.fit(NUMBERS, TARGETS)
    masked.fit(UNUSUAL["masked"], UNUSUAL_TARGETS["masked"])
    assert masked.objective_ == plain.objective_
