"""scikit-learn's own checks, for every combination of loss and bias."""

import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import (
    check_sample_weight_equivalence_on_dense_data,
    check_sample_weight_equivalence_on_sparse_data,
    estimator_checks_generator,
)

from sklearn_convexnn import (
    ConvexCNNClassifier,
    ConvexCNNRegressor,
    ConvexReLUClassifier,
    ConvexReLUClassifierCV,
    ConvexReLURegressor,
    ConvexReLURegressorCV,
    GatedReLUClassifier,
    GatedReLURegressor,
    ParallelReLUClassifier,
    ParallelReLURegressor,
)

SAMPLED = {"arrangements": "sampled", "n_arrangements": 15}
CHEAP = {"alpha": 1.0, **SAMPLED}
# A gap that a round or two reach, on any data.
ROUGH = {"n_arrangements": 15, "tol": 0.3, "max_iter": 2}
ADAPTIVE = {"alpha": 1.0, **ROUGH}

INSTANCES = [
    ConvexReLURegressor(**CHEAP),
    ConvexReLURegressor(fit_intercept=False, **CHEAP),
    ConvexReLUClassifier(**CHEAP),
    ConvexReLUClassifier(fit_intercept=False, **CHEAP),
    ConvexReLURegressor(loss="huber", **ADAPTIVE),
    ConvexReLUClassifierCV(alphas=[3.0], cv=2, **SAMPLED),
    GatedReLURegressor(**CHEAP),
    ParallelReLURegressor(
        1.0, n_arrangements=2, subnetwork_width=1, tol=0.9, max_iter=1
    ),
]
# As a user gets them, and others that together take long.
OTHERS = [
    ConvexReLURegressor(),
    ConvexReLUClassifier(),
    GatedReLURegressor(),
    GatedReLUClassifier(),
    ParallelReLURegressor(**ADAPTIVE),
    ParallelReLUClassifier(**ADAPTIVE),
    ConvexCNNRegressor(**ROUGH),
    ConvexCNNClassifier(**ROUGH),
    ConvexReLURegressorCV(alphas=3, cv=2, **ROUGH),
    # The score does not know of class weights: with extreme ones, values relative to
    # `alpha_max` lead to networks that see the classes of no weight.
    ConvexReLUClassifierCV(alphas=[3.0, 1.0, 0.3], cv=2, **ROUGH),
]
# These differ from them in the loss, the units or the search, not in how they take
# what is not data.
VARIANTS = [
    ConvexReLURegressor(warm_start=True, **CHEAP),
    ConvexReLUClassifier(class_weight="balanced", **CHEAP),
    ConvexReLURegressor(negative_slope=0.1, **CHEAP),
    ConvexReLURegressor(negative_slope=-1.0, **CHEAP),
    ConvexReLURegressor(batch_norm=True, **CHEAP),
    ConvexCNNRegressor(batch_norm=True, pooling="average", **ADAPTIVE),
    ConvexCNNClassifier(pool_size="global", **ADAPTIVE),
    ConvexReLUClassifier(negative_slope=0.1, **CHEAP),
    ConvexReLUClassifier(negative_slope=-1.0, **CHEAP),
    ConvexReLUClassifier(loss="hinge", fit_intercept=False, **ADAPTIVE),
    # Not of the Poisson loss: some checks have negative targets.
    ConvexReLURegressor(loss="quantile", **CHEAP),
    ConvexReLUClassifier(**ADAPTIVE),
    ConvexReLUClassifier(loss="squared_hinge", **ADAPTIVE),
    GatedReLUClassifier(**CHEAP),
    GatedReLURegressor(fit_intercept=False, **CHEAP),
    GatedReLURegressor(warm_start=True, loss="huber", **CHEAP),
    ParallelReLURegressor(depth=4, subnetwork_norm="path", **ADAPTIVE),
    ParallelReLUClassifier(loss="hinge", fit_intercept=False, **ADAPTIVE),
    ConvexReLURegressorCV(alphas=[3.0], cv=2, **SAMPLED),
]
VARIANTS += [
    estimator(loss=loss, fit_intercept=bias, **CHEAP)
    for estimator, loss in (
        (ConvexReLURegressor, "huber"),
        (ConvexReLUClassifier, "squared_hinge"),
        (ConvexReLUClassifier, "hinge"),
    )
    for bias in (True, False)
]


# Some checks use data far from the origin, which few hyperplanes through the
# origin divide: without a bias, sampling rightly says so.
pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:Only .* distinct activation patterns:UserWarning"
    ),
    # Some checks fit noise with almost no weight decay.
    pytest.mark.filterwarnings("ignore:.* stopped with a duality gap"),
]


# Many fits each, which one estimator makes quickly.
HEAVY = {
    "check_dtype_object",
    "check_estimator_sparse_array",
    "check_estimator_sparse_matrix",
    "check_regressor_data_not_an_array",
    "check_regressor_multioutput",
    "check_regressors_int",
    # All estimators have these in a test of their own below.
    "check_sample_weight_equivalence_on_dense_data",
    "check_sample_weight_equivalence_on_sparse_data",
}
QUICKEST = INSTANCES[1]
# Those that go on from round to round take longest, and most of all sub-networks.
OF_SUBNETWORKS = INSTANCES[-1]
IN_ROUNDS = INSTANCES[4], OF_SUBNETWORKS
HEAVY_FOR_THESE = {
    "check_estimators_dtypes",
    "check_estimators_nan_inf",
    "check_fit_idempotent",
    "check_non_transformer_estimators_n_iter",
    "check_positive_only_tag_during_fit",
    "check_regressors_train",
    "check_supervised_y_2d",
}
# Of these, of which another one differs in the biases or in the search, the checks of
# arrays are left: with SCIPY_ARRAY_API=1 the slow ones do not run.
LIKE_ANOTHER = INSTANCES[0], INSTANCES[3], INSTANCES[5]
# Checks whose result depends on how data are fitted.
OF_FITS = {
    "check_class_weight_classifiers",
    "check_classifiers_classes",
    "check_classifiers_one_label",
    "check_classifiers_regression_target",
    "check_classifiers_train",
    "check_dict_unchanged",
    "check_estimators_dtypes",
    "check_estimators_pickle",
    "check_f_contiguous_array_estimator",
    "check_fit2d_1feature",
    "check_fit2d_1sample",
    "check_fit_idempotent",
    "check_methods_sample_order_invariance",
    "check_methods_subset_invariance",
    "check_non_transformer_estimators_n_iter",
    "check_regressors_int",
    "check_regressors_train",
    "check_sample_weights_shape",
    "check_supervised_y_2d",
}


def is_slow(estimator, check):
    name = name_of(check)
    if any(estimator is other for other in LIKE_ANOTHER):
        return "array_api" not in name
    in_rounds = any(estimator is one for one in IN_ROUNDS)
    if in_rounds and name.split(",")[0] in HEAVY_FOR_THESE:
        return True
    return name in HEAVY and estimator is not QUICKEST


def is_left_out(estimator, name):
    """Whether a check takes long and is of what a quicker estimator shows too."""
    like_others = any(estimator is one for one in (*VARIANTS, *LIKE_ANOTHER))
    if like_others and name.split(",")[0] not in OF_FITS:
        return "array_api" not in name or estimator not in LIKE_ANOTHER
    if estimator is OTHERS[0] and name.startswith("check_regressors_train,"):
        return True
    if estimator is not QUICKEST and name == "check_estimator_sparse_matrix":
        # As the one of sparse arrays.
        return True
    if estimator is OF_SUBNETWORKS:
        return False
    of_subnetworks = isinstance(
        estimator, (ParallelReLURegressor, ParallelReLUClassifier)
    )
    return of_subnetworks and name.split(",")[0] in HEAVY | {"check_regressors_train"}


def with_checks(estimators):
    """As `parametrize_with_checks`, which gives a generator in some versions."""
    cases = [
        pytest.param(
            *case, marks=pytest.mark.slow if is_slow(estimator, case[1]) else ()
        )
        for estimator in estimators
        for case in estimator_checks_generator(estimator)
        if not is_left_out(estimator, name_of(case[1]))
    ]
    return pytest.mark.parametrize("estimator, check", cases, ids=name_of)


def name_of(case):
    check = getattr(case, "func", case)
    options = "".join(f",{k}={v}" for k, v in getattr(case, "keywords", {}).items())
    return getattr(check, "__name__", "".join(str(check).split())) + options


@with_checks(INSTANCES)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@with_checks(OTHERS + VARIANTS)
def test_scikit_learn_checks_of_others(estimator, check):
    check(estimator)


SLOWEST = [*OTHERS, *VARIANTS, *LIKE_ANOTHER]


@pytest.mark.parametrize(
    "estimator",
    [
        pytest.param(one, marks=pytest.mark.slow if one in SLOWEST else ())
        for one in INSTANCES + OTHERS + VARIANTS
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "check",
    [
        check_sample_weight_equivalence_on_dense_data,
        pytest.param(
            check_sample_weight_equivalence_on_sparse_data, marks=pytest.mark.slow
        ),
    ],
)
def test_weights_are_repetitions(estimator, check):
    check(type(estimator).__name__, clone(estimator))
