"""Functions validate their parameters as estimators do, before any work."""

import numpy as np
import pytest

from sklearn_convexnn import (
    ConvexReLUClassifier,
    ConvexReLURegressor,
    GatedReLURegressor,
    alpha_max,
    certify,
    convex_relu_path,
    cutting_planes,
    smallest_network,
)
from sklearn_convexnn.losses import make_loss
from sklearn_convexnn.patterns.arrangements import (
    can_enumerate,
    count_patterns,
    enumerate_arrangement,
    network_arrangement,
    sample_arrangement,
)
from sklearn_convexnn.patterns.counts import count_blocks
from sklearn_convexnn.training.lifted import lifted_bound
from tests.problems import tiny_data

X, y, _ = tiny_data("squared_error", n=8, d=2)


@pytest.mark.parametrize(
    "function, args, bad",
    [
        (convex_relu_path, (ConvexReLURegressor(), X, y), {"alphas": 0}),
        (convex_relu_path, (ConvexReLURegressor(), X, y), {"alphas": "x"}),
        (
            convex_relu_path,
            (ConvexReLURegressor(), X, y),
            {"eps": 2.0, "alphas": [1.0]},
        ),
        (count_patterns, (X,), {"free_bias": "no"}),
        (can_enumerate, (X,), {"free_bias": 2}),
        (enumerate_arrangement, (X,), {"free_bias": "no"}),
        (enumerate_arrangement, (X,), {"max_patterns": "few"}),
        (network_arrangement, (X, X), {"free_bias": "no"}),
        (sample_arrangement, (X,), {"n_arrangements": 0}),
        (sample_arrangement, (X,), {"n_arrangements": 2.5}),
        (sample_arrangement, (X, 5), {"random_state": "a"}),
        (sample_arrangement, (X, 5), {"free_bias": "no"}),
        (count_blocks, (5, 2), {"fit_intercept": "no"}),
        (make_loss, (), {"name": "gamma"}),
        (make_loss, ("huber",), {"epsilon": -1.0}),
        (make_loss, ("quantile",), {"quantile": 1.0}),
        (lifted_bound, (X, y[:, None], y, None), {"alpha": 0.0, "arrangement": None}),
    ],
)
def test_the_message_names_the_parameter(function, args, bad):
    name = next(iter(bad))
    with pytest.raises(ValueError, match=f"'{name}' parameter of {function.__name__}"):
        function(*args, **bad)


@pytest.mark.parametrize("function", [alpha_max, convex_relu_path, cutting_planes])
@pytest.mark.parametrize(
    "bad",
    [
        {"arrangements": "foo"},
        {"alpha": "foo"},
        {"random_state": "a"},
        {"warm_start": "yes"},
        {"max_neurons": 0},
    ],
    ids=str,
)
def test_parameters_of_the_estimator(function, bad):
    """Also of those that the function replaces by others."""
    for kind in (ConvexReLURegressor, ConvexReLUClassifier):
        with pytest.raises(ValueError, match=f"'{next(iter(bad))}' parameter of Conv"):
            function(kind(**bad), X, y)
    if "max_neurons" not in bad and function is not cutting_planes:
        with pytest.raises(ValueError, match=f"'{next(iter(bad))}' parameter of Gated"):
            function(GatedReLURegressor(**bad), X, y)


@pytest.mark.parametrize("bad", [{"alpha": "foo"}, {"tol": -1.0}], ids=str)
def test_parameters_of_a_fitted_estimator(bad):
    model = ConvexReLURegressor(1.0, random_state=0).fit(X, y).set_params(**bad)
    with pytest.raises(ValueError, match=f"'{next(iter(bad))}' parameter of Conv"):
        smallest_network(model, X, y)


def test_what_a_network_says_of_itself_is_checked():
    model = ConvexReLURegressor(1.0, random_state=0).fit(X, y)
    for bad in ({"loss": "gamma"}, {"fit_intercept": "no"}, {"negative_slope": 1.0}):
        before = model.get_params()
        with pytest.raises(
            ValueError, match=f"'{next(iter(bad))}' parameter of certify"
        ):
            certify(model.set_params(**bad), X, y, alpha=1.0)
        model.set_params(**before)
    # What is given counts.
    found = certify(model.set_params(loss="gamma"), X, y, alpha=1.0, loss="huber")
    assert np.isfinite(found.dual_bound)
