import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.neural_network import MLPClassifier, MLPRegressor

from sklearn_convexnn import (
    ConvexReLUClassifier,
    ConvexReLURegressor,
    certify,
)
from sklearn_convexnn.arrangements import enumerate_arrangement, with_ones
from sklearn_convexnn.certificates import cone_slopes
from sklearn_convexnn.losses import CLASSIFICATION_LOSSES, REGRESSION_LOSSES
from sklearn_convexnn.recovery import activation
from sklearn_convexnn.slope_bounds import norm_bound
from sklearn_convexnn.solvers import solve_interior_point
from tests.problems import EPSILON, LOSSES, make_program, network_objective, tiny_data

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
    for seed in range(3):
        coefs, intercepts = random_network(2, seed=seed, bias=bias)
        certificate = certify(
            (coefs, intercepts), X, y, alpha=ALPHA, loss=loss, epsilon=EPSILON,
            sample_weight=s, fit_intercept=bias, kind=kind,
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
        model = ConvexReLURegressor(ALPHA, loss=loss, epsilon=EPSILON)
    model.set_params(fit_intercept=bias, arrangements="exact", tol=1e-9)
    model.fit(X, y, sample_weight=s)
    certificate = certify(model, X, y, alpha=ALPHA, epsilon=EPSILON, sample_weight=s)
    assert_allclose(certificate.objective, model.objective_, rtol=1e-12)
    assert certificate.kind == "global"
    assert certificate.dual_gap <= 2e-5 * certificate.objective
    assert certificate.dual_bound <= model.objective_ + 1e-9


def test_settings_of_the_network_are_read():
    X, y, _ = tiny_data("huber", n=20)
    model = ConvexReLURegressor(0.5, loss="huber", epsilon=0.3).fit(X, y)
    assert_allclose(certify(model, X, y, alpha=0.5).objective, model.objective_)
    labels = np.where(y > 0, "yes", "no")
    model = ConvexReLUClassifier(0.5, class_weight={"yes": 5.0, "no": 0.5})
    model.fit(X, labels)
    assert_allclose(certify(model, X, labels, alpha=0.5).objective, model.objective_)


def test_kinds_on_data_of_high_rank():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((60, 8)), rng.standard_normal(60)
    mlp = MLPRegressor(
        hidden_layer_sizes=20, alpha=5.0, solver="lbfgs", random_state=0, max_iter=2000
    )
    mlp.fit(X, y)
    auto = certify(mlp, X, y, alpha=5.0, random_state=0)
    assert auto.kind == "restricted"
    # The network's own patterns are among those checked.
    assert auto.n_patterns > 100
    proven = certify(mlp, X, y, alpha=5.0, kind="global")
    assert proven.kind == "global" and proven.n_patterns == 0
    assert proven.dual_bound <= auto.dual_bound
    # It is a bound for our network too, though not for its kind alone.
    ours = ConvexReLURegressor(5.0, random_state=0).fit(X, y)
    assert proven.dual_bound <= ours.objective_
    assert proven.dual_gap > 0 and proven.kappa >= 1


def test_objective_is_that_of_scikit_learn_mlp():
    X, y, s = tiny_data("squared_error", n=30, weighted=True)
    for model, target in (
        (MLPRegressor, y),
        (MLPRegressor, np.column_stack([y, y**2])),
        (MLPClassifier, y > 0),
    ):
        mlp = model(
            hidden_layer_sizes=8,
            solver="lbfgs",
            alpha=0.5,
            max_iter=2000,
            random_state=0,
        )
        mlp.fit(X, target, sample_weight=s)
        n_outputs = mlp.n_outputs_
        certificate = certify(mlp, X, target, alpha=0.5 * n_outputs, sample_weight=s)
        # loss_ is the last value seen by the optimiser: a mean over outputs too.
        expected = mlp.loss_ * s.sum() * n_outputs
        assert_allclose(certificate.objective, expected, rtol=1e-3)


def test_several_outputs_bound_a_shared_hidden_layer():
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((9, 2)), rng.standard_normal((9, 2))
    model = ConvexReLURegressor(0.3, arrangements="exact", tol=1e-8).fit(X, Y)
    certificate = certify(model, X, Y, alpha=0.3)
    assert certificate.kind == "global"
    assert_allclose(certificate.objective, model.objective_)
    # Separate hidden layers are one way to share one.
    assert certificate.dual_bound <= model.dual_bound_ + 1e-9
    mlp = MLPRegressor(
        hidden_layer_sizes=50, solver="lbfgs", alpha=0.15, max_iter=5000, random_state=0
    )
    shared = certify(mlp.fit(X, Y), X, Y, alpha=0.3)
    assert certificate.dual_bound <= shared.objective


def test_one_vs_rest_classifier():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((12, 2)), np.repeat(["a", "b", "c"], 4)
    model = ConvexReLUClassifier(0.3, arrangements="exact", tol=1e-8).fit(X, y)
    certificate = certify(model, X, y, alpha=0.3)
    assert_allclose(certificate.objective, model.objective_)
    assert certificate.dual_bound <= model.dual_bound_ + 1e-9


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
        ({"alpha": 0.0}, "alpha must be a positive number"),
        ({"alpha": "large"}, "alpha must be a positive number"),
        ({"kind": "local"}, "kind must be"),
        ({"epsilon": -1.0}, "epsilon must be a positive number"),
        ({"n_arrangements": 0}, "n_arrangements must be a positive integer"),
        (
            {
                "network": (
                    [np.full((2, 3), np.nan), np.ones((3, 1))],
                    [np.ones(3), [0]],
                )
            },
            "weights of the network must be finite",
        ),
        ({"loss": "poisson"}, "no bound for loss='poisson'"),
        ({"X": np.ones((8, 3))}, "X has 3 features"),
        ({"y": np.ones((8, 2))}, "y has 2 outputs"),
        ({"y": np.ones(7)}, "inconsistent numbers of samples"),
        ({"loss": "hinge", "y": np.arange(8)}, "needs two classes"),
        ({"fit_intercept": False}, "non-zero intercepts"),
        ({"negative_slope": 2.0}, "negative_slope must be in"),
        ({"sample_weight": np.zeros(8)}, "at least one non-zero"),
        ({"sample_weight": -np.ones(8)}, "[Nn]egative"),
        ({"X": np.full((8, 2), np.nan)}, "NaN"),
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
    softmax = MLPClassifier(
        hidden_layer_sizes=5, solver="lbfgs", alpha=1, max_iter=500, random_state=0
    )
    labels = np.arange(30) % 3
    for model, target, message in (
        (tanh, y, "activation='tanh'"),
        (deep, y, "one hidden layer"),
        (softmax, labels, "softmax"),
    ):
        with pytest.raises(ValueError, match=message):
            certify(model.fit(X, target), X, target, alpha=1.0)


def test_regression_losses_are_the_known_ones():
    assert set(REGRESSION_LOSSES) | set(CLASSIFICATION_LOSSES) == set(LOSSES)
