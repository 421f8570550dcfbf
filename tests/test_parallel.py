"""Estimators of three and more layers."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris, make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale

from sklearn_convexnn import (
    ConvexReLURegressor,
    ParallelReLUClassifier,
    ParallelReLURegressor,
    alpha_max,
    certify,
    convex_relu_path,
    cutting_planes,
    smallest_network,
)
from sklearn_convexnn.patterns.arrangements import count_patterns
from sklearn_convexnn.patterns.counts import count_blocks


def small(n=6, d=2, seed=0, outputs=None):
    rng = np.random.RandomState(seed)
    X = rng.standard_normal((n, d))
    return X, rng.standard_normal(n if outputs is None else (n, outputs))


def inner_norms(model):
    """Frobenius norms of the inner layers but the last of each sub-network."""
    K = model.n_neurons_
    first = model.coefs_[0].reshape(len(model.coefs_[0]), K, -1)
    norms = [np.linalg.norm(first, axis=(0, 2))]
    for W in model.coefs_[1:-2]:
        blocks = W.reshape(K, len(W) // K, K, -1)
        norms.append(np.linalg.norm(blocks[np.arange(K), :, np.arange(K)], axis=(1, 2)))
    return np.array(norms)


def objective(model, X, y):
    f = model.predict(X)
    squares = sum(np.sum(W**2) for W in model.coefs_[-2:])
    return 0.5 * np.sum((f - y) ** 2) + 0.5 * model.alpha * squares


@pytest.mark.parametrize("bias", [False, True])
def test_all_blocks_give_the_optimum_with_a_proof(bias):
    X, y = small(n=4 if bias else 5, d=1 if bias else 2)
    model = ParallelReLURegressor(
        alpha=0.1, fit_intercept=bias, arrangements="exact", tol=1e-7
    ).fit(X, y)
    assert model.certificate_ == "global"
    assert model.dual_gap_ <= 1e-6 * model.objective_
    assert model.proven_bound_ == model.dual_bound_
    np.testing.assert_allclose(model.objective_, objective(model, X, y), rtol=1e-12)
    np.testing.assert_allclose(inner_norms(model), 1.0, rtol=1e-12)
    assert np.all(inner_norms(model) <= 1.0)
    assert model.n_neurons_ <= len(X)


@pytest.mark.parametrize("norm", ["frobenius", "path"])
@pytest.mark.parametrize("bias", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_column_generation_finds_it(norm, bias):
    X, y = small(n=4, d=1 if bias else 2, seed=1)
    common = {"alpha": 0.1, "subnetwork_norm": norm, "fit_intercept": bias}
    exact = ParallelReLURegressor(arrangements="exact", tol=1e-6, **common).fit(X, y)
    model = ParallelReLURegressor(tol=1e-4, random_state=0, **common).fit(X, y)
    assert model.certificate_ == "estimated"
    np.testing.assert_allclose(model.objective_, exact.objective_, rtol=2e-4)
    assert model.objective_ >= exact.dual_bound_ * (1 - 1e-12)
    assert model.proven_bound_ <= exact.objective_
    assert model.dual_bound_ <= exact.objective_ * (1 + 1e-9)


@pytest.mark.slow
def test_one_unit_without_biases_is_the_two_layer_network():
    X, y = small(n=6)
    common = {"alpha": 0.1, "fit_intercept": False, "tol": 1e-7}
    two = ConvexReLURegressor(arrangements="exact", **common).fit(X, y)
    for norm in ("frobenius", "path"):
        three = ParallelReLURegressor(
            subnetwork_width=1,
            subnetwork_norm=norm,
            arrangements="exact",
            **common,
        ).fit(X, y)
        np.testing.assert_allclose(three.objective_, two.objective_, rtol=1e-6)
    wider = ParallelReLURegressor(arrangements="exact", **common).fit(X, y)
    assert wider.objective_ < two.objective_ * (1 - 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "less, more",
    [
        (ConvexReLURegressor(), ParallelReLURegressor()),
        (ParallelReLURegressor(), ParallelReLURegressor(depth=4)),
    ],
)
def test_more_depth_is_no_worse(less, more):
    # Networks of fewer layers are among those of more, at the same cost.
    X, y = small(n=9, d=2, seed=3)
    common = {"alpha": 0.3, "tol": 1e-3, "random_state": 0}
    before = clone(less).set_params(**common).fit(X, y)
    after = clone(more).set_params(**common).fit(X, y)
    # As far as bounds that are estimated go.
    assert after.objective_ <= before.objective_ * (1 + 3e-3)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["penalised", "cvxpy"])
def test_solvers_agree(solver):
    X, y = small(n=4)
    common = {"alpha": 0.1, "fit_intercept": False, "arrangements": "exact"}
    reference = ParallelReLURegressor(tol=1e-6, **common).fit(X, y)
    model = ParallelReLURegressor(solver=solver, max_iter=1000, **common).fit(X, y)
    np.testing.assert_allclose(model.objective_, reference.objective_, rtol=2e-4)
    assert model.dual_bound_ <= reference.objective_
    np.testing.assert_allclose(model.objective_, objective(model, X, y), rtol=1e-12)


def test_a_penalty_needs_a_smooth_loss():
    X, y = small()
    model = ParallelReLUClassifier(
        loss="hinge", arrangements="sampled", solver="penalised"
    )
    with pytest.raises(ValueError, match="smooth loss"):
        model.fit(X, y > 0)


@pytest.mark.slow
def test_sampled_blocks_bound_networks_of_these_only():
    X, y = small(n=8, d=3)
    common = {"alpha": 0.2, "fit_intercept": False, "random_state": 0}
    model = ParallelReLURegressor(
        arrangements="sampled", n_arrangements=10, **common
    ).fit(X, y)
    assert model.certificate_ == "restricted"
    assert model.n_arrangements_ == 10
    assert model.dual_gap_ <= 1e-4 * model.objective_
    best = ParallelReLURegressor(tol=1e-2, **common).fit(X, y)
    assert best.objective_ < model.dual_bound_
    assert model.proven_bound_ <= best.objective_


def test_an_mlp_with_these_weights_predicts_the_same():
    X, y = small(n=6, d=3)
    model = ParallelReLURegressor(alpha=0.3, depth=4, tol=0.3, random_state=0)
    model.fit(X, y)
    sizes = tuple(W.shape[1] for W in model.coefs_[:-1])
    mlp = MLPRegressor(hidden_layer_sizes=sizes, max_iter=1, solver="lbfgs")
    with pytest.warns(ConvergenceWarning):
        mlp.fit(X, y)
    assert [W.shape for W in mlp.coefs_] == [W.shape for W in model.coefs_]
    assert mlp.n_layers_ == model.n_layers_
    mlp.coefs_, mlp.intercepts_ = model.coefs_, model.intercepts_
    np.testing.assert_allclose(mlp.predict(X), model.predict(X), atol=1e-10)


@pytest.mark.parametrize(
    "depth, norm",
    [
        (3, "frobenius"),
        (3, "path"),
        (4, "frobenius"),
        pytest.param(4, "path", marks=pytest.mark.slow),
        pytest.param(5, "frobenius", marks=pytest.mark.slow),
        pytest.param(5, "path", marks=pytest.mark.slow),
    ],
)
def test_norms_of_inner_layers(depth, norm):
    X, y = small(n=6)
    model = ParallelReLURegressor(
        alpha=0.5, depth=depth, subnetwork_norm=norm, tol=0.3, random_state=0
    ).fit(X, y)
    assert len(model.coefs_) == len(model.intercepts_) == depth
    if norm == "frobenius":
        np.testing.assert_allclose(inner_norms(model), 1.0, rtol=1e-12)
    else:
        for W in model.coefs_[:-2]:
            norms = np.linalg.norm(W, axis=0)
            np.testing.assert_allclose(norms[norms > 0], 1.0, rtol=1e-12)
    # Both of the last layers have the same norm in each sub-network.
    last = np.linalg.norm(model.coefs_[-2], axis=0)
    np.testing.assert_allclose(last, np.abs(model.coefs_[-1][:, 0]), rtol=1e-9)
    np.testing.assert_allclose(model.objective_, objective(model, X, y), rtol=1e-12)


@pytest.mark.slow
def test_several_outputs():
    X, Y = small(n=6, d=2, outputs=2)
    common = {"alpha": 0.5, "tol": 3e-2, "random_state": 0}
    shared = ParallelReLURegressor(**common).fit(X, Y)
    # The norm over the outputs is at most the sum of absolute values, and not below
    # any of these.
    single = [ParallelReLURegressor(**common).fit(X, y) for y in Y.T]
    assert shared.dual_bound_ <= sum(model.objective_ for model in single)
    assert shared.objective_ >= sum(model.dual_bound_ for model in single) / 2


@pytest.mark.parametrize(
    "loss, n_classes",
    [
        ("log_loss", 2),
        ("log_loss", 3),
        ("squared_hinge", 2),
        ("hinge", 2),
        pytest.param("squared_hinge", 3, marks=pytest.mark.slow),
        pytest.param("hinge", 3, marks=pytest.mark.slow),
    ],
)
def test_classification(loss, n_classes):
    X, y = load_iris(return_X_y=True)
    some = (y < n_classes) & (np.arange(len(y)) % 6 == 0)
    X, y = scale(X[some]), y[some]
    model = ParallelReLUClassifier(alpha=0.5, loss=loss, tol=0.05, random_state=0).fit(
        X, y
    )
    assert model.score(X, y) > 0.95
    assert model.dual_gap_ <= 0.05 * model.objective_
    assert hasattr(model, "predict_proba") == (loss == "log_loss")


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["huber", "quantile", "poisson"])
def test_losses_of_regression(loss):
    X, y = small(n=7, d=2)
    y = np.abs(y)
    model = ParallelReLURegressor(alpha=0.3, loss=loss, random_state=0)
    model.fit(X, y)
    two = ConvexReLURegressor(alpha=0.3, loss=loss, random_state=0).fit(X, y)
    assert model.dual_gap_ <= model.tol * model.objective_
    assert model.dual_bound_ <= two.objective_


@pytest.mark.slow
def test_same_answer_for_every_seed():
    X, y = small(n=12, d=2)
    models = [
        ParallelReLURegressor(alpha=0.3, tol=1e-3, random_state=seed).fit(X, y)
        for seed in range(2)
    ]
    values = [model.objective_ for model in models]
    np.testing.assert_allclose(values, min(values), rtol=3e-3)


@pytest.mark.slow
def test_weight_decay_beyond_which_nothing_is_left():
    X, y = small(n=3)
    common = {"fit_intercept": False, "arrangements": "exact"}
    low, high = 0.1, 10.0
    for _ in range(8):
        middle = np.sqrt(low * high)
        model = ParallelReLURegressor(alpha=middle, tol=1e-8, **common).fit(X, y)
        low, high = (middle, high) if model.n_neurons_ else (low, middle)
    null = 0.5 * np.sum(y**2)
    found = ParallelReLURegressor(fit_intercept=False, random_state=0)
    assert found.set_params(alpha=1.01 * high).fit(X, y).objective_ == null
    assert found.set_params(alpha=0.97 * low, tol=1e-5).fit(X, y).objective_ < null


def test_a_constant_network_is_not_called_one_from_the_slope_of_neurons_on():
    """Where no neuron is of use, a sub-network can be."""
    X, y = np.linspace(-1.5, 1.5, 8)[:, None], np.array([1.0, -1.0] * 4)
    neurons = alpha_max(ConvexReLURegressor(), X, y).upper
    model = ParallelReLURegressor(subnetwork_norm="path", random_state=0, tol=1e-3)
    assert model.set_params(alpha=1.01 * neurons).fit(X, y).n_neurons_ > 0
    with pytest.warns(UserWarning, match="as the best one of two layers is from"):
        model.set_params(alpha=10 * neurons).fit(X, y)


@pytest.mark.slow
def test_warm_start_does_not_get_worse():
    X, y = small(n=10)
    model = ParallelReLURegressor(
        alpha=0.3, warm_start=True, tol=0.2, random_state=0
    ).fit(X, y)
    first = model.objective_
    model.set_params(max_iter=1, tol=1e-6)
    with pytest.warns(ConvergenceWarning, match="limit of iterations"):
        assert model.fit(X, y).objective_ <= first
    # Of another shape, nothing can be taken over.
    model.set_params(subnetwork_width=3, max_iter=200, tol=0.1).fit(X, y)
    assert model.coefs_[0].shape[1] == 3 * model.n_neurons_


@pytest.mark.slow
def test_warm_start_leaves_biases_behind():
    X, y = small(n=7)
    model = ParallelReLURegressor(
        alpha=0.3, warm_start=True, tol=0.2, random_state=0
    ).fit(X, y)
    model.set_params(fit_intercept=False).fit(X, y)
    assert all(np.all(b == 0) for b in model.intercepts_)
    cold = clone(model).fit(X, y)
    assert model.objective_ == cold.objective_
    # The other way they can be taken over.
    model.set_params(fit_intercept=True).fit(X, y)
    assert model.objective_ <= cold.objective_


def test_pipeline_grid_search_and_pickle():
    X, y = make_regression(40, 3, noise=5.0, random_state=0)
    y = scale(y)
    model = make_pipeline(
        StandardScaler(), ParallelReLURegressor(alpha=3.0, tol=0.1, random_state=0)
    )
    grid = {"parallelreluregressor__subnetwork_width": [1, 2]}
    search = GridSearchCV(model, grid, cv=2).fit(X, y)
    again = pickle.loads(pickle.dumps(search))
    np.testing.assert_array_equal(again.predict(X), search.predict(X))


@pytest.mark.slow
def test_limits():
    X, y = small(n=8)
    common = {"alpha": 0.1, "tol": 1e-5, "random_state": 0}
    with pytest.warns(ConvergenceWarning, match="max_neurons"):
        model = ParallelReLURegressor(max_neurons=3, **common).fit(X, y)
    assert model.n_neurons_ <= 3
    with pytest.warns(ConvergenceWarning, match="max_neurons"):
        one = ParallelReLURegressor(max_neurons=1, **common).fit(X, y)
    assert one.n_neurons_ <= 1
    assert one.objective_ >= model.objective_
    with pytest.warns(ConvergenceWarning, match="limit of iterations"):
        ParallelReLURegressor(max_iter=1, **common).fit(X, y)
    with pytest.warns(ConvergenceWarning, match="time limit"):
        ParallelReLURegressor(max_time=1e-3, **common).fit(X, y)


@pytest.mark.slow
def test_float32_and_weights():
    X, y = small(n=7, d=2)
    model = ParallelReLURegressor(alpha=0.3, tol=0.1, random_state=0)
    model.fit(X.astype(np.float32), y)
    assert all(W.dtype == np.float32 for W in model.coefs_)
    weight = np.arange(7) % 3
    weighted = clone(model).fit(X, y, sample_weight=weight)
    repeated = clone(model).fit(np.repeat(X, weight, axis=0), np.repeat(y, weight))
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), atol=1e-9)


def test_a_constant_and_a_single_sample():
    model = ParallelReLURegressor()
    X, _ = small()
    assert model.fit(X, np.ones(6)).n_neurons_ == 0
    np.testing.assert_allclose(model.predict(X), 1.0)
    assert model.fit(X[:1], [2.0]).objective_ == 0.0
    model.set_params(fit_intercept=False)
    assert model.fit(np.zeros((3, 2)), [1.0, 2.0, 3.0]).n_neurons_ == 0


@pytest.mark.parametrize(
    "params, message",
    [
        ({"solver": "direction_generation"}, "The 'solver' parameter"),
        ({"depth": 4, "arrangements": "sampled"}, "subnetwork_norm='path'"),
        ({"depth": 2}, "The 'depth' parameter"),
        ({"subnetwork_width": 0}, "The 'subnetwork_width' parameter"),
        ({"arrangements": "exact"}, "arrangements='exact' would enumerate"),
    ],
)
def test_what_is_not_there_is_said(params, message):
    X, y = small(n=40, d=4)
    model = ParallelReLURegressor(**params)
    with pytest.raises(ValueError, match=message):
        model.fit(X, y)


def test_given_blocks_of_shared_outputs_are_not_there():
    X, Y = small(outputs=2)
    with pytest.raises(ValueError, match="use arrangements='adaptive'"):
        ParallelReLURegressor(arrangements="sampled").fit(X, Y)


def test_functions_of_two_layers_say_so():
    X, y = small()
    model = ParallelReLURegressor(tol=0.1, random_state=0).fit(X, y)
    for function in (alpha_max, convex_relu_path, cutting_planes, smallest_network):
        with pytest.raises(TypeError, match=f"{function.__name__} needs"):
            function(model, X, y)
    with pytest.raises(ValueError, match="one hidden layer"):
        certify(model, X, y, alpha=1.0)


def test_counts_of_blocks():
    count = count_blocks(6, 2, subnetwork_width=2, fit_intercept=False)
    assert (count.patterns, count.choices) == ((12, 52), (1, 276))
    assert count.blocks == 14352
    assert count.variables == 2 * count.blocks * 4
    assert count.constraints == 2 * count.blocks * 6 * 3
    assert all(p <= e for p, e in zip(count.patterns, count.estimates))
    X, _ = small(n=9, d=3)
    for bias in (False, True):
        two = count_blocks(9, 3, depth=2, fit_intercept=bias)
        assert two.blocks == count_patterns(X, free_bias=bias)
    # Polynomial in the number of samples.
    sizes = [count_blocks(n, 2, subnetwork_width=2).patterns[1] for n in (100, 200)]
    assert sizes[1] / sizes[0] < 2**7
    assert count_blocks(1, 1).blocks > 0
    deep = count_blocks(50, 3, depth=4, subnetwork_norm="path")
    assert len(deep.patterns) == 3 and deep.blocks > 10**20
    for bad in ({"n_samples": 0}, {"rank": 1.5}, {"depth": 1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            count_blocks(**{"n_samples": 5, "rank": 2, **bad})
    with pytest.raises(ValueError, match="subnetwork_norm"):
        count_blocks(5, 2, subnetwork_norm="nuclear")


@pytest.mark.slow
@pytest.mark.parametrize("width", [2, 4])
def test_diabetes_is_below_local_training(width):
    from sklearn_convexnn.families.subnetworks.architecture import Architecture
    from sklearn_convexnn.families.subnetworks.placing import place_subnetworks
    from sklearn_convexnn.losses import Separable, make_loss
    from tests.problems import subnetwork_problem

    X, y = load_diabetes(return_X_y=True)
    X, y = scale(X), scale(y)
    model = ParallelReLURegressor(
        alpha=5.15, subnetwork_width=width, tol=0.05, random_state=0
    ).fit(X, y)
    problem = subnetwork_problem(
        X,
        y[:, None],
        np.ones(len(y)),
        Separable(make_loss("squared_error")),
        5.15,
        True,
        Architecture(3, width, "frobenius"),
    )
    local = [
        problem.objective(
            place_subnetworks(problem, 40, np.random.RandomState(seed), max_iter=1000)
        )
        for seed in range(5)
    ]
    assert model.objective_ < min(local)
    assert model.dual_bound_ < min(local)
