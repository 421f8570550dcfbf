"""The program on the windows of a series, as in autoregressive models."""

import cvxpy as cp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from sklearn_convexnn import ConvexReLURegressor
from sklearn_convexnn.patterns.arrangements import enumerate_arrangement
from tests.problems import network_objective, train_network

ALPHA = 0.1


def windows_and_targets(n_lags, n_windows=12):
    """Windows of a noisy logistic map, as a read-only view whose rows overlap."""
    rng = np.random.default_rng(0)
    series = np.empty(n_windows + n_lags)
    series[0] = 0.3
    for t in range(1, len(series)):
        series[t] = 3.8 * series[t - 1] * (1.0 - series[t - 1])
    series += 0.02 * rng.standard_normal(len(series))
    series = (series - series.mean()) / series.std()
    windows = np.lib.stride_tricks.sliding_window_view(series[:-1], n_lags)
    return windows, series[n_lags:]


def program_value(X, y, alpha):
    """Optimum of the program over all patterns, written out."""
    patterns = enumerate_arrangement(X).patterns
    n_features = X.shape[1]
    prediction, norms, constraints = 0.0, 0.0, []
    for pattern in patterns:
        masked = pattern[:, None] * X
        inside = np.where(pattern, 1.0, -1.0)[:, None] * X
        positive, negative = cp.Variable(n_features), cp.Variable(n_features)
        prediction += masked @ (positive - negative)
        norms += cp.norm(positive) + cp.norm(negative)
        constraints += [inside @ positive >= 0.0, inside @ negative >= 0.0]
    objective = 0.5 * cp.sum_squares(prediction - y) + alpha * norms
    problem = cp.Problem(cp.Minimize(objective), constraints)
    tolerance = {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}
    return problem.solve(cp.CLARABEL, **tolerance)


@pytest.mark.parametrize("n_lags", [2, 3])
def test_network_on_windows_has_the_value_of_the_program(n_lags):
    X, y = windows_and_targets(n_lags)
    net = ConvexReLURegressor(
        alpha=ALPHA, arrangements="exact", fit_intercept=False, tol=1e-8
    ).fit(X, y)
    assert net.certificate_ == "global"
    value = program_value(X, y, ALPHA)
    assert_allclose(net.objective_, value, rtol=1e-6)
    assert_allclose(net.dual_bound_, value, rtol=1e-6)
    weights = net.coefs_[0], net.intercepts_[0], net.coefs_[1][:, 0], 0.0
    again = network_objective("squared_error", X, y, np.ones(len(y)), ALPHA, *weights)
    assert_allclose(again, net.objective_, rtol=1e-10)
    # With a misfit or a decay near zero, a wrong factor of it would pass.
    misfit = 0.5 * np.sum((y - net.predict(X)) ** 2)
    assert 0.1 < misfit / net.objective_ < 0.9


@pytest.mark.parametrize("n_lags", [2, 3])
def test_no_descent_on_windows_gets_below_the_network(n_lags):
    X, y = windows_and_targets(n_lags)
    net = ConvexReLURegressor(
        alpha=ALPHA, arrangements="exact", fit_intercept=False, tol=1e-8
    ).fit(X, y)
    best = train_network(
        "squared_error", X, y, np.ones(len(y)), ALPHA, width=20, n_starts=5
    )
    assert net.objective_ <= best * (1 + 1e-8)
    # Descent that ends far above would say nothing.
    assert best < 1.05 * net.objective_
