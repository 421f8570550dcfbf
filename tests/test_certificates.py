import os
from dataclasses import replace
from time import perf_counter

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from sklearn import config_context
from sklearn.datasets import load_diabetes, load_iris, make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import scale

from sklearn_convexnn import (
    ConvexReLUClassifier,
    ConvexReLURegressor,
    GatedReLURegressor,
    certify,
)
from sklearn_convexnn.families.two_layer.branch_and_bound import maximise_slope
from sklearn_convexnn.families.two_layer.family import TwoLayer
from sklearn_convexnn.families.two_layer.neurons import activation
from sklearn_convexnn.families.two_layer.slope_bounds import norm_bound
from sklearn_convexnn.losses import (
    CLASSIFICATION_LOSSES,
    REGRESSION_LOSSES,
    Separable,
    SquaredError,
)
from sklearn_convexnn.model.problem import Problem
from sklearn_convexnn.patterns.arrangements import enumerate_arrangement, with_ones
from sklearn_convexnn.solvers import solve_interior_point
from sklearn_convexnn.training import bounds as network_bounds
from sklearn_convexnn.training.bounds import LowerBound, cone_slopes
from tests.problems import (
    EPSILON,
    LOSSES,
    QUANTILE,
    make_program,
    network_objective,
    tiny_data,
)

ALPHA = 0.15


def random_network(d, width=5, seed=0, bias=True):
    rng = np.random.default_rng(seed)
    scale = 1.0 if bias else 0.0
    return (
        [0.5 * rng.standard_normal((d, width)), 0.5 * rng.standard_normal((width, 1))],
        [scale * rng.standard_normal(width), scale * rng.standard_normal(1)],
    )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("slope", [0.0, 0.3, -1.0])
def test_slopes_of_all_cells_against_direct_search(slope, bias):
    rng = np.random.default_rng(0)
    X, nu = rng.standard_normal((8, 2)), rng.standard_normal(8)
    if bias:
        nu -= nu.mean()
    arrangement = enumerate_arrangement(X, free_bias=bias)
    exact = cone_slopes(X, nu, arrangement, free_bias=bias, negative_slope=slope)
    angles = np.linspace(0, 2 * np.pi, 40_001)
    units = np.stack([np.cos(angles), np.sin(angles)])
    z = X @ units
    if not bias:
        values = nu @ activation(z, slope)
    else:
        # Only the offsets at which a sample is on the hyperplane matter.
        values = [nu @ activation(z - z[i], slope) for i in range(8)]
    assert_allclose(exact[:, 0].max(), np.max(values), rtol=1e-4)
    assert_allclose(exact[:, 1].max(), -np.min(values), rtol=1e-4)
    bound = norm_bound(X, nu, free_bias=bias, negative_slope=slope)
    assert bound >= exact.max()


def test_slope_bound_is_proven_on_random_problems():
    rng = np.random.default_rng(0)
    for _ in range(100):
        n, d = rng.integers(2, 8), rng.integers(1, 4)
        bias, slope = bool(rng.integers(2)), rng.choice([0.0, 0.2, -0.7])
        X, nu = rng.standard_normal((n, d)) + 1.0, rng.standard_normal(n)
        nu -= nu.mean() if bias else 0.0
        u = rng.standard_normal((d + bias, 500))
        u /= np.linalg.norm(u[:d], axis=0)
        found = np.abs(nu @ activation(with_ones(X, bias) @ u, slope)).max()
        bound = norm_bound(X, nu, free_bias=bias, negative_slope=slope)
        assert found <= bound * (1 + 1e-12)


@pytest.mark.parametrize("kind", ["auto", "global", "restricted"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_bound_of_a_random_network_is_below_the_optimum(loss, bias, kind):
    X, y, s = tiny_data(loss, weighted=True)
    best = solve_interior_point(
        make_program(loss, X, y, s, ALPHA, bias=bias), tol=1e-9
    ).objective
    for seed in range(2):
        coefs, intercepts = random_network(2, seed=seed, bias=bias)
        certificate = certify(
            (coefs, intercepts), X, y, alpha=ALPHA, loss=loss, epsilon=EPSILON,
            quantile=QUANTILE, sample_weight=s, fit_intercept=bias, kind=kind,
        )  # fmt: skip
        value = network_objective(
            loss, X, y, s, ALPHA, coefs[0], intercepts[0], coefs[1][:, 0], intercepts[1]
        )
        assert_allclose(certificate.objective, value, rtol=1e-12)
        # There are few patterns, so 'restricted' has them all, and is global.
        assert certificate.kind == "global"
        assert certificate.dual_bound <= best + 1e-9
        assert certificate.dual_bound >= best * (1 - 2e-5)
        assert certificate.dual_gap == certificate.objective - certificate.dual_bound


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_optimal_network_is_certified(loss, bias):
    X, y, s = tiny_data(loss, weighted=True)
    if loss in CLASSIFICATION_LOSSES:
        model = ConvexReLUClassifier(ALPHA, loss=loss)
    else:
        model = ConvexReLURegressor(
            ALPHA, loss=loss, epsilon=EPSILON, quantile=QUANTILE
        )
    model.set_params(fit_intercept=bias, arrangements="exact", tol=1e-9)
    model.fit(X, y, sample_weight=s)
    certificate = certify(model, X, y, alpha=ALPHA, epsilon=EPSILON, sample_weight=s)
    assert_allclose(certificate.objective, model.objective_, rtol=1e-12)
    assert certificate.kind == "global"
    assert certificate.dual_gap <= 2e-5 * certificate.objective
    assert certificate.dual_bound <= model.objective_ + 1e-9


def test_settings_of_the_network_are_read():
    X, y, _ = tiny_data("huber", n=20)
    for params in (
        {"loss": "huber", "epsilon": 0.3},
        {"loss": "quantile", "quantile": 0.2},
    ):
        model = ConvexReLURegressor(0.5, **params).fit(X, y)
        assert_allclose(certify(model, X, y, alpha=0.5).objective, model.objective_)
    labels = np.where(y > 0, "yes", "no")
    model = ConvexReLUClassifier(0.5, class_weight={"yes": 5.0, "no": 0.5})
    model.fit(X, labels)
    assert_allclose(certify(model, X, labels, alpha=0.5).objective, model.objective_)
    # The epsilon of an MLP is that of Adam.
    mlp = MLPRegressor(hidden_layer_sizes=3, solver="lbfgs", random_state=0).fit(X, y)
    certificate = certify(mlp, X, y, alpha=0.5, loss="huber", random_state=0)
    assert certificate.epsilon == 1.35


def without_enumeration(monkeypatch):
    """Small data as if they had too many patterns to visit them all."""
    monkeypatch.setattr(network_bounds, "_FEW_PATTERNS", 0)
    monkeypatch.setattr(network_bounds, "can_enumerate", lambda X, free_bias: False)


QUICK = {
    "squared_error": [(10, 3, False)],
    "poisson": [(10, 3, False)],
    "hinge": [(10, 3, False)],
}


@pytest.mark.parametrize(
    "loss, n, d, bias",
    [
        *[
            pytest.param(
                loss,
                *case,
                marks=() if case in QUICK.get(loss, []) else pytest.mark.slow,
            )
            for loss in LOSSES
            for case in ((10, 3, False), (10, 3, True), (9, 6, True))
        ],
    ],
)
def test_trained_bounds_against_all_patterns(loss, bias, n, d, monkeypatch):
    # Branch and bound goes over cones in three dimensions, over signs in six.
    X, y, s = tiny_data(loss, n=n, d=d, weighted=True)
    best = solve_interior_point(
        make_program(loss, X, y, s, ALPHA, bias=bias), tol=1e-9
    ).objective
    without_enumeration(monkeypatch)
    # The search may miss a little, which is why its bound is an estimate.
    for kind, missed in ("global", 1e-9), ("estimated", 1e-4):
        certificate = certify(
            random_network(d, bias=bias), X, y, alpha=ALPHA, loss=loss,
            epsilon=EPSILON, quantile=QUANTILE, sample_weight=s, fit_intercept=bias,
            kind=kind, random_state=0,
        )  # fmt: skip
        assert certificate.kind == kind and certificate.n_patterns == 0
        assert 0.99 * best <= certificate.dual_bound <= best * (1 + missed)


@pytest.mark.parametrize("bias", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_bound_of_leaky_activations_against_all_patterns(bias, monkeypatch):
    X, y, s = tiny_data("squared_error", n=10, d=3)
    for slope in (0.3, -1.0):
        program = make_program("squared_error", X, y, s, ALPHA, bias=bias, slope=slope)
        best = solve_interior_point(program, tol=1e-9).objective
        with monkeypatch.context() as patch:
            without_enumeration(patch)
            bound = certify(
                random_network(3, bias=bias), X, y, alpha=ALPHA, fit_intercept=bias,
                negative_slope=slope, kind="global", random_state=0,
            ).dual_bound  # fmt: skip
        assert 0.99 * best <= bound <= best * (1 + 1e-9)


@pytest.mark.slow
def test_tolerance_and_a_tight_bound_without_enumeration(monkeypatch):
    X, y, s = tiny_data("squared_error", n=12, d=3)
    program = make_program("squared_error", X, y, s, ALPHA, bias=True)
    best = solve_interior_point(program, tol=1e-9).objective
    without_enumeration(monkeypatch)
    for kind in "global", "estimated":
        certificate = certify(
            random_network(3), X, y, alpha=ALPHA, kind=kind, tol=1e-6, random_state=0
        )
        assert best * (1 - 2e-6) <= certificate.dual_bound <= best * (1 + 1e-9)


@pytest.mark.parametrize("bias", [False, True])
def test_all_patterns_where_branch_and_bound_does_not_close(bias, monkeypatch):
    X, y, s = tiny_data("log_loss", n=10, d=3)
    best = solve_interior_point(
        make_program("log_loss", X, y, s, ALPHA, bias=bias), tol=1e-9
    ).objective
    monkeypatch.setattr(network_bounds, "_FEW_PATTERNS", 0)
    monkeypatch.setattr("sklearn_convexnn.training.proving.node_limit", lambda X: 0)
    certificate = certify(
        random_network(3, bias=bias), X, y, alpha=ALPHA, loss="log_loss",
        fit_intercept=bias, random_state=0,
    )  # fmt: skip
    assert certificate.kind == "global"
    assert 0.98 * best <= certificate.dual_bound <= best * (1 + 1e-9)


def noisy_data(n, d, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    return X, np.abs(X[:, 0]) - 1.0 + 0.5 * rng.standard_normal(n)


@pytest.mark.slow
@pytest.mark.parametrize(
    "n, d, bias, kind, all_patterns",
    [
        (12, 2, True, "global", True),  # few patterns
        (1500, 1, True, "global", False),  # a spline
        (25, 4, True, "global", False),  # branch and bound over cones
        (100, 3, False, "global", False),
        (20, 7, True, "global", False),  # branch and bound over signs
        pytest.param(80, 7, True, "estimated", False, marks=pytest.mark.slow),
    ],
)
def test_auto_is_global_where_that_is_affordable(n, d, bias, kind, all_patterns):
    X, y = noisy_data(n, d)
    network = random_network(d, bias=bias)
    certificate = certify(network, X, y, alpha=2.0, fit_intercept=bias, random_state=0)
    assert certificate.kind == kind
    assert (certificate.n_patterns > 0) == all_patterns
    model = ConvexReLURegressor(2.0, fit_intercept=bias, tol=1e-3, random_state=0)
    objective = model.fit(X, y).objective_
    assert 0.985 * objective <= certificate.dual_bound <= objective * (1 + 1e-6)


@pytest.mark.slow
def test_kinds_on_data_of_high_rank():
    X, y = noisy_data(90, 8)
    mlp = MLPRegressor(
        hidden_layer_sizes=20, alpha=5.0, solver="lbfgs", random_state=0, max_iter=2000
    )
    mlp.fit(X, y)
    model = ConvexReLURegressor(5.0, random_state=0).fit(X, y)
    found = {
        kind: certify(mlp, X, y, alpha=5.0, kind=kind, random_state=0)
        for kind in ("estimated", "restricted", "global")
    }
    for kind, certificate in found.items():
        assert certificate.kind == kind
        assert certificate.objective == found["global"].objective
        assert certificate.dual_bound <= certificate.objective
    assert found["estimated"].dual_bound <= model.objective_
    assert found["estimated"].dual_bound >= 0.99 * model.dual_bound_
    # The network's own patterns are among those checked.
    assert found["restricted"].n_patterns > 100
    # What is proven is less, but more than norms say.
    assert found["global"].dual_bound <= found["estimated"].dual_bound
    assert found["global"].kappa >= found["estimated"].kappa >= 1
    assert found["global"].dual_bound > 0.5 * model.objective_


@pytest.mark.slow
def test_certificate_of_an_estimator_agrees_with_its_own():
    X, y = noisy_data(90, 8)
    for alpha, bias in ((5.0, True), (2.0, False)):
        model = ConvexReLURegressor(alpha, fit_intercept=bias, random_state=0)
        model.fit(X, y)
        certificate = certify(model, X, y, alpha=alpha, random_state=1)
        assert certificate.kind == model.certificate_ == "estimated"
        assert_allclose(certificate.objective, model.objective_)
        assert certificate.dual_bound <= model.objective_
        assert_allclose(certificate.dual_bound, model.dual_bound_, rtol=0.01)


@pytest.mark.slow
def test_distance_of_an_mlp_from_the_optimum():
    X, y = load_diabetes(return_X_y=True)
    X, y = scale(X[:100]), scale(y[:100])
    mlp = MLPRegressor(
        hidden_layer_sizes=20,
        alpha=2.0,
        solver="lbfgs",
        max_iter=10_000,
        random_state=0,
    )
    certificate = certify(mlp.fit(X, y), X, y, alpha=2.0, random_state=0)
    model = ConvexReLURegressor(2.0, tol=1e-3, random_state=0).fit(X, y)
    assert certificate.dual_bound < certificate.objective
    assert 0.98 * model.objective_ < certificate.dual_bound <= model.objective_
    distance = certificate.objective - model.objective_
    assert distance <= certificate.dual_gap <= distance + 0.02 * model.objective_
    # A bad network does not make a bad bound.
    bad = certify(random_network(10), X, y, alpha=2.0, random_state=0)
    assert bad.dual_bound > 0.98 * model.objective_


@pytest.mark.slow
def test_neurons_that_the_search_misses_but_the_network_has(monkeypatch):
    X, y = noisy_data(70, 8)
    model = ConvexReLURegressor(2.0, tol=1e-4, random_state=0).fit(X, y)

    def blind(*args, generate=network_bounds.generate_neurons, **kwargs):
        return replace(generate(*args, **kwargs), kappa=0.5)

    monkeypatch.setattr(network_bounds, "generate_neurons", blind)
    certificate = certify(model, X, y, alpha=2.0, kind="estimated", random_state=0)
    assert certificate.dual_bound <= model.objective_


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("auto", marks=pytest.mark.slow),
        pytest.param("estimated", marks=pytest.mark.slow),
        "restricted",
    ],
)
def test_the_random_state_decides(kind):
    X, y = noisy_data(70, 6)
    first, second = (
        certify(random_network(6), X, y, alpha=5.0, kind=kind, random_state=3)
        for _ in range(2)
    )
    assert first == second
    # Neither the order of the samples matters, nor how a weight is written.
    order = np.random.default_rng(0).permutation(70)
    weight = np.ones(70)
    weight[:40] = 2.0
    weighted = certify(
        random_network(6), X, y, alpha=5.0, kind=kind, random_state=3,
        sample_weight=weight,
    )  # fmt: skip
    X, y = np.concatenate([X[order], X[:40]]), np.concatenate([y[order], y[:40]])
    repeated = certify(random_network(6), X, y, alpha=5.0, kind=kind, random_state=3)
    assert_allclose(repeated.objective, weighted.objective, rtol=1e-12)
    assert_allclose(repeated.dual_bound, weighted.dual_bound, rtol=1e-12)


@pytest.mark.parametrize("kind", ["auto", "global"])
def test_max_time(kind):
    X, y = noisy_data(300, 10)
    start = perf_counter()
    with pytest.warns(ConvergenceWarning, match="Increase max_time or tol"):
        certificate = certify(
            random_network(10), X, y, alpha=0.1, kind=kind, max_time=0.5, tol=1e-6,
            random_state=0,
        )  # fmt: skip
    assert perf_counter() - start < 10
    assert 0 <= certificate.dual_bound < certificate.objective


def test_objective_is_that_of_scikit_learn_mlp():
    X, y, s = tiny_data("squared_error", n=30, weighted=True)
    for model, target, params in (
        (MLPRegressor, y, {}),
        (MLPRegressor, np.column_stack([y, y**2]), {}),
        (MLPRegressor, np.exp(y), {"loss": "poisson"}),
        (MLPClassifier, y > 0, {}),
    ):
        mlp = model(
            **params,
            hidden_layer_sizes=8,
            solver="lbfgs",
            alpha=0.5,
            max_iter=2000,
            random_state=0,
        )
        mlp.fit(X, target, sample_weight=s)
        n_outputs = mlp.n_outputs_
        certificate = certify(
            mlp, X, target, alpha=0.5 * n_outputs, sample_weight=s,
            kind="restricted", n_arrangements=5,
        )  # fmt: skip
        # loss_ is the last value seen by the optimiser: a mean over outputs too.
        expected = mlp.loss_ * s.sum() * n_outputs
        assert_allclose(certificate.objective, expected, rtol=1e-3)


def targets_of_three(loss, n=16):
    """Data of three outputs or classes."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, 2))
    Y = np.column_stack([np.abs(X[:, 0]), X[:, 0] * X[:, 1], X[:, 1]])
    Y += 0.3 * rng.standard_normal(Y.shape)
    if loss in CLASSIFICATION_LOSSES:
        return X, np.array(["a", "b", "c"])[np.argmax(Y, axis=1)]
    return X, np.exp(Y) if loss == "poisson" else Y


def wide_network(d, c, seed=0, bias=True):
    rng = np.random.default_rng(seed)
    (hidden, _), (hidden_bias, _) = random_network(d, seed=seed, bias=bias)
    return (
        [hidden, 0.5 * rng.standard_normal((hidden.shape[1], c))],
        [hidden_bias, bias * rng.standard_normal(c)],
    )


def estimator(loss, alpha, **params):
    kind = ConvexReLURegressor if loss in REGRESSION_LOSSES else ConvexReLUClassifier
    return kind(alpha, loss=loss, random_state=0, **params)


@pytest.mark.parametrize(
    "loss, bias",
    [
        ("log_loss", False),
        *[pytest.param(loss, True, marks=pytest.mark.slow) for loss in LOSSES],
        pytest.param("squared_error", False, marks=pytest.mark.slow),
    ],
)
def test_bounds_of_a_random_network_of_three_outputs(loss, bias):
    X, y = targets_of_three(loss, n=12)
    model = estimator(loss, 1.0, fit_intercept=bias, tol=1e-4).fit(X, y)
    for kind in "auto", "estimated":
        certificate = certify(
            wide_network(2, 3, bias=bias), X, y, alpha=1.0, loss=loss,
            fit_intercept=bias, kind=kind, random_state=1,
        )  # fmt: skip
        assert certificate.kind == {"auto": "global"}.get(kind, kind)
        assert certificate.dual_bound <= model.objective_ * (1 + 1e-9)
        assert certificate.dual_bound >= 0.99 * model.dual_bound_
        assert certificate.objective > 1.2 * model.objective_
    own = certify(model, X, y, alpha=1.0, random_state=1)
    assert_allclose(own.objective, model.objective_, rtol=1e-12)
    assert own.kind == "global" and 0 <= own.dual_gap <= 0.0101 * own.objective
    if model.loss not in ("hinge", "quantile"):
        assert 1 - 1e-6 <= own.kappa < 1.1


@pytest.mark.parametrize(
    "columns, kinds",
    [
        pytest.param([2, 3], ("global", "restricted"), marks=pytest.mark.slow),
        ([0, 1, 2, 3], ["estimated"]),
    ],
)
def test_mlp_of_three_classes(columns, kinds):
    X, y = load_iris(return_X_y=True)
    X, y = scale(X[:, columns]), np.array(["setosa", "versicolor", "virginica"])[y]
    mlp = MLPClassifier(
        hidden_layer_sizes=20, alpha=1.0, solver="lbfgs", max_iter=5000, random_state=0
    ).fit(X, y)
    model = ConvexReLUClassifier(1.0, tol=1e-4, random_state=0).fit(X, y)
    distance = mlp.loss_ * len(y) - model.objective_
    for kind in kinds:
        certificate = certify(mlp, X, y, alpha=1.0, kind=kind, random_state=0)
        assert certificate.kind == kind
        assert (certificate.n_patterns > 0) == (kind == "restricted")
        assert_allclose(certificate.objective, mlp.loss_ * len(y), rtol=1e-9)
        # The patterns of the MLP are about as good as any.
        assert certificate.dual_bound <= model.objective_
        assert certificate.dual_bound >= 0.99 * model.dual_bound_
        assert certificate.dual_gap <= distance + 0.01 * model.objective_


@pytest.mark.slow
def test_mlp_of_two_targets():
    X, y = load_diabetes(return_X_y=True)
    X, y = scale(X[:60, 2:9]), scale(y[:60])
    Y = np.column_stack([y, np.abs(X[:, 0])])
    mlp = MLPRegressor(
        hidden_layer_sizes=20, alpha=2.0, solver="lbfgs", max_iter=2000, random_state=0
    )
    certificate = certify(mlp.fit(X, Y), X, Y, alpha=4.0, random_state=0)
    assert certificate.kind == "estimated"
    assert_allclose(certificate.objective, mlp.loss_ * 2 * len(X), rtol=1e-9)
    model = ConvexReLURegressor(4.0, tol=1e-3, random_state=0).fit(X, Y)
    assert 0.985 * model.objective_ < certificate.dual_bound <= model.objective_


@pytest.mark.parametrize(
    "kind", ["global", pytest.param("restricted", marks=pytest.mark.slow)]
)
def test_no_network_of_three_outputs_is_below_the_bound(kind):
    """Descent on the objective as it is written down here."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((12, 2)), np.repeat([0, 1, 2], 4)
    width = 8
    shapes = (2, width), (width, 3), (width,), (3,)
    ends = np.cumsum([np.prod(shape) for shape in shapes])[:-1]

    def network(theta):
        parts = np.split(theta, ends)
        parts = [part.reshape(shape) for part, shape in zip(parts, shapes)]
        return parts[:2], parts[2:]

    def objective(theta):
        (W, V), (b, b0) = network(theta)
        F = activation(X @ W + b) @ V + b0
        top = F.max(axis=1)
        loss = top + np.log(np.exp(F - top[:, None]).sum(axis=1)) - F[np.arange(12), y]
        return loss.sum() + 0.25 * np.sum(W**2) + 0.25 * np.sum(V**2)

    start = rng.standard_normal(ends[-1] + 3)
    best = minimize(objective, start, method="L-BFGS-B", options={"maxiter": 150})
    options = {"alpha": 0.5, "loss": "log_loss", "kind": kind, "random_state": 0}
    certificate = certify(network(best.x), X, y, tol=1e-3, **options)
    assert_allclose(certificate.objective, best.fun)
    assert 0 <= certificate.dual_gap < 0.02 * best.fun


@pytest.mark.slow
def test_kinds_with_several_outputs(monkeypatch):
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((10, 3)), rng.standard_normal((10, 2))
    network = wide_network(3, 2)
    options = {"alpha": 0.3, "random_state": 0}
    best = certify(network, X, Y, tol=1e-3, **options)
    assert best.kind == "global"
    for kind in "global", "estimated":
        certificate = certify(network, X, Y, kind=kind, **options)
        assert certificate.kind == kind
        assert_allclose(certificate.kappa, best.kappa, rtol=2e-3)
        assert_allclose(certificate.dual_bound, best.dual_bound, rtol=1.5e-2)
    # Where branch and bound is out of reach, all patterns are visited ...
    monkeypatch.setattr("sklearn_convexnn.training.proving.node_limit", lambda p: 0)
    proven = certify(network, X, Y, kind="global", **options)
    assert proven.kind == "global"
    assert 0.7 * best.dual_bound < proven.dual_bound <= certificate.dual_bound
    # An estimate allows for climbs that end short of the top.
    assert proven.kappa >= certificate.kappa * (1 - 4e-4)
    # ... or the outputs are bounded one by one.
    without_enumeration(monkeypatch)
    single = certify(network, X, Y, kind="global", **options)
    assert single.kind == "global"
    assert 0.4 * best.dual_bound < single.dual_bound <= proven.dual_bound
    assert best.kappa < single.kappa < np.sqrt(2) * best.kappa
    assert certify(network, X, Y, **options).kind == "estimated"


@pytest.mark.slow
def test_restricted_to_all_patterns_is_global():
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((8, 2)), rng.standard_normal((8, 2))
    certificate = certify(
        wide_network(2, 2), X, Y, alpha=0.3, kind="restricted", random_state=0
    )
    model = ConvexReLURegressor(0.3, tol=1e-4, random_state=0).fit(X, Y)
    assert certificate.kind == model.certificate_ == "global"
    assert 0.99 * model.dual_bound_ <= certificate.dual_bound <= model.objective_


def test_orthogonal_samples_and_data_that_say_nothing():
    X, y = np.eye(8), np.arange(8) % 4
    network = wide_network(8, 4, bias=False)
    Y = np.eye(4)[y]
    certificate = certify(network, X, Y, alpha=0.5, fit_intercept=False)
    assert certificate.kind == "global"
    # Each class has two samples: soft thresholding at 0.5 of singular values.
    assert_allclose(certificate.dual_bound, 4 * 0.5 * (np.sqrt(2) - 0.25), rtol=1e-6)
    for kind in "auto", "estimated", "restricted":
        certificate = certify(
            wide_network(8, 4), 0 * X, y, alpha=0.5, loss="log_loss", kind=kind
        )
        assert certificate.kind == "global" and certificate.kappa == 0
        assert_allclose(certificate.dual_bound, 8 * np.log(4))


def test_weights_are_repetitions_with_several_classes():
    X, y = targets_of_three("log_loss")
    options = {"alpha": 1.0, "loss": "log_loss", "random_state": 3}
    network = wide_network(2, 3)
    weight = np.ones(len(X))
    weight[:8], weight[8:10] = 2.0, 0.0
    weighted = certify(network, X, y, sample_weight=weight, **options)
    order = np.random.default_rng(0).permutation(len(X) - 10)
    index = np.concatenate([10 + order, np.arange(8), np.arange(8)])
    repeated = certify(network, X[index], y[index], **options)
    assert_allclose(repeated.objective, weighted.objective, rtol=1e-12)
    assert_allclose(repeated.dual_bound, weighted.dual_bound, rtol=1e-12)


def test_log_loss_of_two_outputs_is_a_softmax():
    X, y, _ = tiny_data("log_loss", n=12)
    coefs, intercepts = wide_network(2, 2)
    certificate = certify((coefs, intercepts), X, y, alpha=0.5, loss="log_loss")
    # What both outputs have in common changes the penalty alone.
    single = [coefs[0], coefs[1] @ [[-1.0], [1.0]]]
    binary = certify(
        (single, [intercepts[0], intercepts[1] @ [[-1.0], [1.0]]]),
        X, y, alpha=0.5, loss="log_loss",
    )  # fmt: skip
    saved = 0.25 * (np.sum(coefs[1] ** 2) - np.sum(single[1] ** 2))
    assert_allclose(certificate.objective, binary.objective + saved)
    # Two opposite weights cost half of a single one of twice the size, squared:
    # it is the binary problem with the root of two in place of two.
    reference = certify(
        random_network(2), X, y, alpha=0.5 / np.sqrt(2), loss="log_loss"
    )
    assert_allclose(certificate.dual_bound, reference.dual_bound, rtol=1.5e-2)


def test_max_time_with_several_outputs():
    X, y = noisy_data(300, 10)
    Y = np.column_stack([y, np.roll(X[:, 1], 1)])
    start = perf_counter()
    with pytest.warns(ConvergenceWarning, match="Increase max_time or tol"):
        certificate = certify(
            wide_network(10, 2), X, Y, alpha=0.1, kind="global", max_time=0.5,
            tol=1e-6, random_state=0,
        )  # fmt: skip
    assert perf_counter() - start < 10
    assert 0 <= certificate.dual_bound < certificate.objective


def test_sparse_data_zero_weights_and_string_labels():
    from scipy.sparse import csr_array

    X, y, s = tiny_data("log_loss", n=20)
    s[:5] = 0.0
    labels = np.where(y > 0, "yes", "no")
    network = random_network(2)
    certificate = certify(
        network, csr_array(X), labels, alpha=1.0, loss="log_loss", sample_weight=s
    )
    plain = certify(network, X[5:], y[5:], alpha=1.0, loss="log_loss")
    assert_allclose(certificate.objective, plain.objective)
    assert_allclose(certificate.dual_bound, plain.dual_bound)


@pytest.mark.parametrize("dispatch", [False, True])
def test_tensors(dispatch):
    torch = pytest.importorskip("torch")
    if dispatch and os.environ.get("SCIPY_ARRAY_API") != "1":
        pytest.skip("needs SCIPY_ARRAY_API=1")
    X, y, s = tiny_data("squared_error", weighted=True)
    network = random_network(2)
    given = [[torch.asarray(np.array(part)) for part in parts] for parts in network]
    plain = certify(network, X, y, alpha=1.0, sample_weight=s)
    X, y, s = (torch.asarray(values) for values in (X, y, s))
    with config_context(array_api_dispatch=dispatch):
        found = certify(given, X, y, alpha=1.0, sample_weight=s)
        assert_allclose(found.objective, plain.objective)
        assert_allclose(found.dual_bound, plain.dual_bound)
        found = certify(network, X, y, alpha=1.0, sample_weight=s)
        assert_allclose(found.dual_bound, plain.dual_bound)


X_OK, Y_OK, _ = tiny_data("squared_error")
NETWORK = random_network(2)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"network": 3}, "network must be a fitted estimator"),
        ({"network": ([np.ones((2, 3))], [np.ones(3)])}, "one hidden layer"),
        (
            {"network": ([np.ones((2, 3)), np.ones((4, 1))], NETWORK[1])},
            "do not fit together",
        ),
        ({"alpha": 0.0}, "'alpha' parameter of certify must be a float"),
        ({"alpha": np.inf}, "'alpha' parameter of certify must be a float"),
        ({"alpha": "large"}, "'alpha' parameter of certify must be a float"),
        ({"kind": "local"}, "'kind' parameter of certify must be a str among"),
        ({"tol": 0.0}, "'tol' parameter of certify must be a float"),
        ({"tol": 2}, "'tol' parameter of certify must be a float"),
        ({"max_time": -1.0}, "'max_time' parameter of certify must be a float"),
        ({"epsilon": -1.0}, "'epsilon' parameter of certify must be a float"),
        ({"n_arrangements": 0}, "'n_arrangements' parameter of certify must be an int"),
        ({"fit_intercept": "no"}, "'fit_intercept' parameter .* 'bool'"),
        ({"fit_intercept": 2}, "'fit_intercept' parameter .* 'bool'"),
        ({"negative_slope": "a"}, "'negative_slope' parameter of certify must be"),
        ({"random_state": "a"}, "'random_state' parameter of certify must be"),
        (
            {"network": ([np.ones((2, 3))], [np.ones(3)])},
            r"has 1 weight matrix\.",
        ),
        (
            {
                "network": (
                    [np.full((2, 3), np.nan), np.ones((3, 1))],
                    [np.ones(3), [0]],
                )
            },
            "weights of the network must be finite",
        ),
        ({"loss": "gamma"}, "'loss' parameter of certify must be a str among"),
        ({"loss": "poisson", "y": -np.ones(8)}, "needs y to be non-negative"),
        ({"loss": "poisson", "y": np.zeros(8)}, "needs y to be positive"),
        ({"quantile": 1.0}, "'quantile' parameter of certify must be a float"),
        ({"X": np.ones((8, 3))}, "X has 3 features"),
        ({"y": np.ones((8, 2))}, r"y has 2 outputs, but the network has 1 output\."),
        ({"y": np.ones(7)}, "inconsistent numbers of samples"),
        ({"loss": "hinge", "y": np.arange(8)}, "needs two classes"),
        (
            {"network": wide_network(2, 3), "loss": "log_loss", "y": np.arange(8) % 2},
            "y has 2 classes, but the network has 3 outputs",
        ),
        ({"fit_intercept": False}, "non-zero intercepts"),
        ({"negative_slope": 2.0}, "'negative_slope' parameter of certify must be"),
        ({"sample_weight": np.zeros(8)}, "at least one non-zero"),
        ({"sample_weight": -np.ones(8)}, "[Nn]egative"),
        ({"X": np.full((8, 2), np.nan)}, "Input X contains NaN"),
        ({"y": None}, "y must be an array with the targets of all samples, got None"),
        ({"y": np.full(8, np.inf)}, "loss='squared_error' needs y .*: Input y .* inf"),
        ({"y": ["a"] * 8}, "loss='squared_error' needs y .*: could not convert str"),
    ],
)
def test_bad_input_names_the_parameter(change, message):
    arguments = {"network": NETWORK, "X": X_OK, "y": Y_OK, "alpha": 1.0, **change}
    network = arguments.pop("network")
    with pytest.raises(ValueError, match=message):
        certify(network, **arguments)


def test_networks_it_has_no_bound_for():
    X, y, _ = tiny_data("squared_error", n=30)
    tanh = MLPRegressor(
        hidden_layer_sizes=5, activation="tanh", solver="lbfgs", alpha=1, max_iter=5000
    )
    deep = MLPRegressor(
        hidden_layer_sizes=(5, 5),
        solver="lbfgs",
        alpha=1,
        max_iter=5000,
        random_state=0,
    )
    for model, target, message in (
        (tanh, y, "activation='tanh'"),
        (deep, y, "one hidden layer"),
    ):
        with pytest.raises(ValueError, match=message):
            certify(model.fit(X, target), X, target, alpha=1.0)


def test_gated_networks_are_refused():
    X, y, _ = tiny_data("squared_error")
    model = GatedReLURegressor(random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="certify needs a ReLU network"):
        certify(model, X, y, alpha=1.0)


def test_regression_losses_are_the_known_ones():
    assert set(REGRESSION_LOSSES) | set(CLASSIFICATION_LOSSES) == set(LOSSES)


def test_the_higher_of_two_estimates_is_looked_at_again():
    X, y = make_regression(60, 3, noise=5.0, random_state=0)
    X, Y = scale(X), scale(y)[:, None]
    family = TwoLayer(X, True)
    p = Problem(family, Y, np.ones(60), Separable(SquaredError()), 2.0)
    nu, rng = p.null_dual(), np.random.RandomState(0)
    kappa = maximise_slope(p.X, nu, **family.geometry).upper
    low = LowerBound.at(p, 0.9 * nu, 1.01 * kappa, "estimated")
    for missed in (0.5, 0.9):
        high = LowerBound.at(p, nu, missed * kappa, "estimated")
        assert high.value > low.value
        best = network_bounds._confirmed(p, [high, low], rng, np.inf)
        assert low.value <= best.value <= p.bound(nu, kappa) * (1.0 + 1e-6)
    true = LowerBound.at(p, nu, 1.001 * kappa, "estimated")
    assert network_bounds._confirmed(p, [low, true], rng, np.inf) is true
    # Without time it is taken as it is.
    assert network_bounds._confirmed(p, [high, low], rng, perf_counter()) is high


def test_names_of_features():
    pd = pytest.importorskip("pandas")
    X, y = noisy_data(20, 3)
    X = pd.DataFrame(X, columns=list("abc"))
    model = ConvexReLURegressor(1.0, random_state=0).fit(X, y)
    certificate = certify(model, X, y, alpha=1.0)
    assert_allclose(certificate.objective, model.objective_, rtol=1e-6)
    with pytest.raises(ValueError, match="feature names should match"):
        certify(model, X[["c", "b", "a"]], y, alpha=1.0)
