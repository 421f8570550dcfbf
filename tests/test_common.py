"""scikit-learn's own checks, for every combination of loss and bias."""

import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import (
    check_sample_weight_equivalence_on_dense_data,
    check_sample_weight_equivalence_on_sparse_data,
    parametrize_with_checks,
)

from sklearn_convexnn import ConvexReLUClassifier, ConvexReLURegressor
from sklearn_convexnn.losses import CLASSIFICATION_LOSSES, REGRESSION_LOSSES

CHEAP = {"arrangements": "sampled", "n_arrangements": 15}
# A gap that a round or two reach, on any data.
ADAPTIVE = {"n_arrangements": 15, "tol": 0.3, "max_iter": 2}

INSTANCES = [
    estimator(loss=loss, fit_intercept=bias, **CHEAP)
    for estimator, losses in (
        (ConvexReLURegressor, REGRESSION_LOSSES),
        (ConvexReLUClassifier, CLASSIFICATION_LOSSES),
    )
    for loss in losses
    for bias in (True, False)
]
INSTANCES += [
    estimator(negative_slope=slope, **CHEAP)
    for estimator in (ConvexReLURegressor, ConvexReLUClassifier)
    for slope in (0.1, -1.0)
]
INSTANCES += [
    ConvexReLURegressor(warm_start=True, **CHEAP),
    ConvexReLUClassifier(class_weight="balanced", **CHEAP),
    ConvexReLURegressor(loss="huber", **ADAPTIVE),
    ConvexReLURegressor(minimal=True, **CHEAP),
    ConvexReLUClassifier(**ADAPTIVE),
    ConvexReLUClassifier(loss="hinge", fit_intercept=False, **ADAPTIVE),
]
# As a user gets them.
DEFAULTS = [ConvexReLURegressor(), ConvexReLUClassifier()]


# Some checks use data far from the origin, which few hyperplanes through the
# origin divide: without a bias, sampling rightly says so.
pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:Only .* distinct activation patterns:UserWarning"
    ),
    # Some checks fit noise with almost no weight decay.
    pytest.mark.filterwarnings("ignore:.* stopped with a duality gap"),
]


@parametrize_with_checks(INSTANCES, xfail_strict=True)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(DEFAULTS, xfail_strict=True)
def test_scikit_learn_checks_with_defaults(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", INSTANCES + DEFAULTS, ids=str)
@pytest.mark.parametrize(
    "check",
    [
        check_sample_weight_equivalence_on_dense_data,
        check_sample_weight_equivalence_on_sparse_data,
    ],
)
def test_weights_are_repetitions(estimator, check):
    check(type(estimator).__name__, clone(estimator))
