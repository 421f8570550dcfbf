"""Convolutional networks: layouts, search, descent, programs and the estimators."""

import os
import pickle
from functools import partial

import cvxpy as cp
import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import check_grad
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_convexnn import ConvexCNNClassifier, ConvexCNNRegressor
from sklearn_convexnn._layouts import layout_of
from sklearn_convexnn._utils.deadlines import until
from sklearn_convexnn.families.convolution import descent, family
from sklearn_convexnn.families.convolution.climbing import PooledSlopes
from sklearn_convexnn.families.convolution.family import Convolution
from sklearn_convexnn.families.convolution.layout import Layout
from sklearn_convexnn.families.two_layer.placing import network_of
from sklearn_convexnn.losses import Separable, Softmax
from sklearn_convexnn.model.problem import Problem
from sklearn_convexnn.patterns.arrangements import enumerate_arrangement
from tests.problems import loss_of

HEADS = {
    "mean of all": {"pooling": "average", "pool_size": "global"},
    "max of all": {"pooling": "max", "pool_size": "global"},
    "means": {"pooling": "average"},
    "maxima": {"pooling": "max"},
    "all positions": {"pooling": None},
}


def series(n=20, length=8, seed=0, n_outputs=1):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, length))
    Y = np.maximum(X[:, 1:] - X[:, :-1], 0.0).mean(axis=1)[:, None]
    Y = Y + 0.3 * rng.standard_normal((n, n_outputs))
    return X, Y[:, 0] if n_outputs == 1 else Y


def patches_by_hand(image, kernel, strides, windows, window):
    """Patches of one padded image, window by window."""
    rows = []
    for q in np.ndindex(*windows):
        for place in np.ndindex(*window):
            at = np.add(np.multiply(q, window), place) * strides
            some = tuple(slice(a, a + k) for a, k in zip(at, kernel))
            rows.append(image[some].ravel())
    return np.reshape(rows, (np.prod(windows), np.prod(window), -1))


@pytest.mark.parametrize(
    "shape, channels, kernel, strides, before, after, window",
    [
        ((7,), 1, (3,), (1,), (0,), (0,), (2,)),
        ((7,), 2, (2,), (2,), (1,), (1,), (1,)),
        ((5, 6), 1, (3, 2), (1, 2), (1, 0), (1, 1), (2, 1)),
        ((4, 5), 3, (2, 3), (2, 1), (0, 1), (0, 1), (1, 5)),
        ((3, 4, 3), 2, (2, 2, 2), (1, 1, 1), (0, 0, 0), (0, 0, 1), (1, 2, 2)),
    ],
)
def test_patches(shape, channels, kernel, strides, before, after, window):
    layout = Layout(shape, channels, kernel, strides, before, after, window, False)
    images = np.random.default_rng(0).standard_normal((3, *shape, channels))
    found = layout.patches(images.reshape(3, -1))
    margins = [*zip(before, after), (0, 0)]
    for i, image in enumerate(images):
        image = np.pad(image, margins)
        wanted = patches_by_hand(image, kernel, strides, layout.windows, window)
        assert_array_equal(found[:, i], wanted)


def problem_of(largest=False, window=2, n_outputs=2, loss=None, bias=True, n=12):
    X, Y = series(n, n_outputs=n_outputs)
    Y = Y.reshape(n, -1)
    layout = Layout((8,), 1, (3,), (1,), (0,), (0,), (window,), largest)
    centre = np.array([0.1, 0.0, -0.2]) * bias
    filters = Convolution(X, bias, layout=layout, centre=centre)
    weight = np.random.default_rng(1).uniform(0.5, 2.0, n)
    loss = Separable(loss_of("squared_error")) if loss is None else loss
    return Problem(filters, Y, weight, loss, 0.3)


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("window, n_outputs", [(2, 2), (6, 1), (1, 3)])
def test_slopes_and_their_derivatives(largest, window, n_outputs):
    largest = largest and window > 1
    p = problem_of(largest, window, n_outputs)
    rng, layout = np.random.default_rng(0), p.family.layout
    patches = p.family.patches(slice(None)).reshape(-1, 3)
    N = rng.standard_normal(p.Y.shape)
    N -= N.mean(axis=0)
    search = PooledSlopes(patches, N, layout=layout, free_bias=True, negative_slope=0.0)
    U, at = rng.standard_normal((5, 3)), rng.integers(len(patches), size=5)
    candidates = search.evaluate(U, at)
    slopes = p.family.slopes_by_output(candidates.units, N)
    assert_allclose(candidates.slopes, np.linalg.norm(slopes, axis=1), rtol=1e-10)
    # Sharp kinks have these slopes, and wide ones derivatives everywhere.
    hill = search.hill()
    units, where = candidates.directions, hill.kinks(np.full(5, 1e-9), at)
    assert_allclose(hill.evaluate(units, where)[0], candidates.slopes, rtol=1e-6)
    widths = rng.uniform(0.1, 1.0, 5)
    value, gradient = hill.evaluate(U, hill.kinks(widths, at))
    for change in 1e-6 * np.eye(3):
        high = hill.evaluate(U + change, hill.kinks(widths, at))[0]
        low = hill.evaluate(U - change, hill.kinks(widths, at))[0]
        wanted = gradient @ change * 1e6
        assert_allclose((high - low) / 2e-6, wanted, rtol=1e-4, atol=1e-5)
    # No other patch is a better place to begin, for all are compared if they are few.
    best = search.evaluate(U, search.anchor(U)).slopes
    for row in range(len(patches)):
        others = search.evaluate(U, np.full(5, row)).slopes
        assert np.all(others <= best * (1.0 + 1e-10))


def test_a_network_is_evaluated_also_when_the_time_is_up():
    p = problem_of()
    network = p.unused(p.family.random(5, np.random.RandomState(0)))
    wanted = p.objective(network)
    with until(0.0):
        assert p.objective(network) == wanted
        # And so is one without filters, which is left where all else has failed.
        assert np.isfinite(p.objective(p.null()))
        assert np.isfinite(p.family.upper_slope(p.null_dual()))


@pytest.mark.parametrize("largest", [False, True])
def test_a_search_on_some_samples_tells_slopes_on_all(largest, monkeypatch):
    p = problem_of(largest, n=60)
    N = p.null_dual()
    everywhere = p.family.search(N, 20, np.random.RandomState(0))
    monkeypatch.setattr(family, "_MOST_PATCHES", 100)
    monkeypatch.setattr(family, "_FEWEST", 30)
    found = p.family.search(N, 20, np.random.RandomState(0))
    assert_allclose(found.slopes, p.family.slopes(found.units, N), rtol=1e-10)
    assert np.all(np.diff(found.slopes) <= 0)
    # It has seen a half of them, and says nothing of what it has not seen.
    assert found.slopes[0] >= 0.8 * everywhere.slopes[0]
    assert found.n_starts == 0


@pytest.mark.parametrize("loss", ["squared_error", "softmax"])
@pytest.mark.parametrize("largest, window", [(False, 2), (True, 3), (False, 1)])
def test_derivatives_of_descent(largest, window, loss, monkeypatch):
    softmax = Softmax() if loss == "softmax" else None
    p = problem_of(largest, window, 3, softmax)
    if softmax:
        p = Problem(p.family, np.eye(3)[np.arange(12) % 3], p.sample_weight, softmax, 1)
    monkeypatch.setattr(descent, "_CHUNK", 100)
    start = descent.random_filters(p, 4, np.random.RandomState(0))
    objective = descent.ConvolutionDescent(p, start)._objective
    x = objective.start()
    value, gradient = objective.value_and_gradient(x)
    error = check_grad(
        lambda x: objective.value_and_gradient(x)[0],
        lambda x: objective.value_and_gradient(x)[1],
        x,
    )
    assert error <= 1e-4 * np.linalg.norm(gradient)
    moved = descent.ConvolutionDescent(p, start).run(200)
    assert p.objective(network_of(moved)) < value
    # The network has the balance of weights that is best for the same outputs.
    x = descent.ConvolutionDescent(p, moved)._objective
    value = x.value_and_gradient(x.start())[0]
    assert p.objective(network_of(moved)) <= value * (1.0 + 1e-10)


def patches_of(X, kernel):
    """Patches of series, shape (n_samples, n_positions, kernel)."""
    return np.lib.stride_tricks.sliding_window_view(X, kernel, axis=1)


def solved(blocks, linear, y, alpha):
    """The convex program over blocks of maps from filters and biases to outputs.

    Each has the map, and rows whose products are not to be negative.
    """
    outputs, penalty, constraints = cp.Variable() + np.zeros(len(y)), 0.0, []
    if linear is not None:
        straight = cp.Variable(linear.shape[1])
        outputs, penalty = outputs + linear @ straight, cp.norm(straight)
    for to_outputs, cone in blocks:
        for sign in (1.0, -1.0):
            block = cp.Variable(cone.shape[1])
            outputs = outputs + sign * (to_outputs @ block)
            penalty = penalty + cp.norm(block[:-1])
            constraints.append(cone @ block >= 0)
    value = 0.5 * cp.sum_squares(outputs - y) + alpha * penalty
    return cp.Problem(cp.Minimize(value), constraints).solve(cp.CLARABEL)


def has_value_of_all_cells(model, X, y, optimum):
    exact = clone(model).set_params(arrangements="exact", tol=1e-7).fit(X, y)
    assert exact.certificate_ == "global"
    assert_allclose([exact.objective_, exact.dual_bound_], optimum, rtol=1e-6)


@pytest.mark.parametrize("seed", range(2))
def test_mean_of_all_is_the_program_over_all_patterns(seed):
    X, y = series(6, 4, seed)
    M = patches_of(X, 2)
    rows = np.column_stack([M.reshape(-1, 2), np.ones(18)])
    arrangement = enumerate_arrangement(M.reshape(-1, 2), free_bias=True)
    blocks = []
    for pattern in arrangement.patterns:
        if pattern.any() and not pattern.all():
            active = (pattern[:, None] * rows).reshape(6, 3, 3).mean(axis=1)
            blocks.append((active, np.where(pattern, 1.0, -1.0)[:, None] * rows))
    optimum = solved(blocks, M.mean(axis=1), y, 0.05)
    params = {"kernel_size": 2, "tol": 1e-4, "random_state": 0, **HEADS["mean of all"]}
    model = ConvexCNNRegressor(0.05, **params).fit(X, y)
    assert_allclose(model.objective_, optimum, rtol=1e-4)
    assert model.dual_bound_ <= optimum * (1 + 1e-6)
    has_value_of_all_cells(model, X, y, optimum)
    # A pool of sums in place of means would have another value.
    assert optimum < 0.98 * solved([], 0.0 * M.mean(axis=1), y, 0.05)


@pytest.mark.parametrize("seed", range(2))
def test_max_of_all_is_the_program_over_winners(seed):
    X, y = series(6, 4, seed)
    M, rng = patches_of(X, 2), np.random.default_rng(0)
    draws = np.column_stack(
        [rng.standard_normal((30_000, 2)), rng.normal(0, 2, 30_000)]
    )
    z = M @ draws[:, :2].T
    winners = np.where(z.max(axis=1) + draws[:, 2] > 0, z.argmax(axis=1), -1)
    blocks = []
    for winner in np.unique(winners.T, axis=0):
        to_outputs, cone = np.zeros((6, 3)), []
        for i, k in enumerate(winner):
            here = np.column_stack([M[i], np.ones(3)])
            if k < 0:
                cone.append(-here)
                continue
            to_outputs[i] = here[k]
            cone += [here[k] - here, here[k : k + 1]]
        if to_outputs.any():
            blocks.append((to_outputs, np.concatenate(cone)))
    optimum = solved(blocks, None, y, 0.05)
    params = {"kernel_size": 2, "tol": 1e-4, "random_state": 0, **HEADS["max of all"]}
    model = ConvexCNNRegressor(0.05, **params).fit(X, y)
    assert_allclose(model.objective_, optimum, rtol=1e-3)
    assert model.dual_bound_ <= optimum * (1 + 1e-6)
    has_value_of_all_cells(model, X, y, optimum)


def objective_of(model, X, y, layout, s=1.0):
    """That of the weights of a regressor, patch by patch."""
    (hidden, output), (bias, offset) = model.coefs_, model.intercepts_
    z = layout.patches(X) @ hidden + bias
    Z = np.maximum(z, 0.0)
    Z = Z.max(axis=2) if layout.largest else Z.mean(axis=2)
    F = Z.transpose(1, 0, 2).reshape(len(X), -1) @ output + offset
    squares = np.sum(hidden**2) + np.sum(output**2)
    residual = F - y.reshape(len(X), -1)
    return 0.5 * np.sum(s * residual.T**2) + 0.5 * model.alpha_ * squares


def slow(*cases):
    """Cases that other ones differ from only a little."""
    return [pytest.param(*case, marks=pytest.mark.slow) for case in cases]


@pytest.mark.parametrize(
    "head, n_outputs",
    [("mean of all", 1), ("maxima", 1)]
    + slow(
        ("all positions", 2),
        ("max of all", 1),
        ("means", 1),
        ("all positions", 1),
        ("mean of all", 2),
        ("max of all", 2),
        ("means", 2),
        ("maxima", 2),
    ),
)
def test_heads(head, n_outputs):
    X, y = series(n_outputs=n_outputs)
    model = ConvexCNNRegressor(0.1, random_state=0, **HEADS[head]).fit(X, y)
    layout = layout_of(model, 8)
    assert_allclose(objective_of(model, X, y, layout), model.objective_, rtol=1e-10)
    assert model.dual_gap_ <= 1e-2 * model.objective_
    assert model.filters_.shape == (model.n_neurons_, 3, 1)
    assert model.coefs_[1].shape == (layout.n_windows * model.n_neurons_, n_outputs)
    maps = model.transform(X)
    F = maps @ model.coefs_[1] + model.intercepts_[1]
    assert_allclose(F.reshape(y.shape), model.predict(X), atol=1e-10)
    # No other seed, and no network that is started from it, is below the bound.
    other = ConvexCNNRegressor(0.1, random_state=1, tol=5e-3, **HEADS[head]).fit(X, y)
    assert other.objective_ >= model.dual_bound_ * (1 - 1e-6)
    assert model.objective_ >= other.dual_bound_ * (1 - 1e-6)


@pytest.mark.parametrize("loss", ["quantile", *slow(("huber",), ("poisson",))])
def test_losses(loss):
    X, y = series()
    y = np.abs(y) if loss == "poisson" else y
    model = ConvexCNNRegressor(0.1, loss=loss, random_state=0).fit(X, y)
    assert model.dual_gap_ <= 1e-2 * model.objective_


@pytest.mark.parametrize(
    "loss, n_classes",
    [("log_loss", 3), ("hinge", 2)]
    + slow(("log_loss", 2), ("squared_hinge", 2), ("squared_hinge", 3), ("hinge", 3)),
)
def test_classes(loss, n_classes):
    X, y = series()
    labels = np.digitize(y, np.quantile(y, [0.5] if n_classes == 2 else [0.3, 0.7]))
    model = ConvexCNNClassifier(0.1, loss=loss, random_state=0).fit(X, labels)
    assert model.dual_gap_ <= 1e-2 * model.objective_
    assert model.score(X, labels) > 0.6


def test_without_biases():
    X, y = series()
    model = ConvexCNNRegressor(0.1, fit_intercept=False, random_state=0).fit(X, y)
    assert not np.any(model.intercepts_[0]) and not np.any(model.intercepts_[1])
    assert_allclose(
        objective_of(model, X, y, layout_of(model, 8)), model.objective_, rtol=1e-10
    )
    assert model.dual_gap_ <= 1e-2 * model.objective_


def test_batch_norm():
    X, y = series(30, 10)
    s = np.random.default_rng(0).uniform(0.5, 2.0, 30)
    params = {"batch_norm": True, "random_state": 0, **HEADS["means"]}
    model = ConvexCNNRegressor(0.2, **params).fit(X, y, s)
    layout = layout_of(model, 10)
    patches = layout.patches(X).transpose(1, 0, 2, 3).reshape(-1, 3)
    weight = np.repeat(s, layout.n_patches)
    weight /= weight.sum()
    z = patches @ model.coefs_[0]
    squares = np.sum(weight @ (z - weight @ z) ** 2) + np.sum(model.coefs_[1] ** 2)
    value = 0.5 * s @ (model.predict(X) - y) ** 2 + 0.1 * squares
    assert_allclose(value, model.objective_, rtol=1e-10)
    assert model.dual_gap_ <= 1e-2 * model.objective_
    # Whitened patches do not depend on units.
    scaled = ConvexCNNRegressor(0.2, **params).fit(1e3 * X - 5.0, y, s)
    assert_allclose(scaled.objective_, model.objective_, rtol=1e-2)


@pytest.mark.slow
def test_units_do_not_matter():
    X, y = series(30, 10)
    model = ConvexCNNRegressor(random_state=0).fit(X, y)
    other = ConvexCNNRegressor(random_state=0).fit(1e9 * X, 1e-6 * y)
    assert_allclose(other.alpha_, model.alpha_ * 1e3, rtol=1e-6)
    assert_allclose(other.objective_, 1e-12 * model.objective_, rtol=2e-2)
    above = ConvexCNNRegressor(100 * model.alpha_, random_state=0)
    with pytest.warns(UserWarning, match="is a constant"):
        assert above.fit(X, y).n_neurons_ == 0


@pytest.mark.slow
def test_images_and_channels():
    rng = np.random.default_rng(0)
    images = rng.standard_normal((10, 5, 6, 2))
    y = np.maximum(images[:, 1:, 1:, 0] - images[:, :-1, :-1, 1], 0).mean(axis=(1, 2))
    params = {"kernel_size": 2, "random_state": 0, "tol": 0.1}
    model = ConvexCNNRegressor(0.3, **params).fit(images, y)
    assert model.input_shape_ == (5, 6) and model.map_shape_ == (2, 2)
    assert model.filters_.shape[1:] == (2, 2, 2)
    flat = ConvexCNNRegressor(0.3, input_shape=(5, 6), **params)
    flat.fit(images.reshape(10, -1), y)
    assert_array_equal(flat.predict(images), model.predict(images.reshape(10, -1)))
    # A fitted model does not look at parameters that have changed since.
    before = model.predict(images)
    model.set_params(kernel_size=3, pooling="average", input_shape=(6, 5))
    assert_array_equal(model.predict(images), before)
    assert_array_equal(pickle.loads(pickle.dumps(model)).predict(images), before)


@pytest.mark.slow
def test_in_pipelines():
    X, y = series(40, 12)
    model = ConvexCNNRegressor(0.1, max_iter=2, tol=0.5, random_state=0)
    pipeline = make_pipeline(StandardScaler(), model, Ridge())
    assert cross_val_score(pipeline, X, y, cv=2).shape == (2,)
    names = pipeline.fit(X, y)[1].get_feature_names_out()
    assert len(names) == pipeline[:-1].transform(X).shape[1]
    search = GridSearchCV(
        model, {"kernel_size": [2, 3], "pooling": ["max", None]}, cv=2
    )
    assert search.fit(X, y).best_params_["kernel_size"] in (2, 3)


def test_warm_start():
    X, y = series()
    model = ConvexCNNRegressor(0.3, tol=0.05, warm_start=True, random_state=0).fit(X, y)
    first = model.objective_
    assert model.fit(X, y).objective_ <= first * (1 + 1e-6)
    model.set_params(kernel_size=4).fit(X, y)
    assert model.filters_.shape[1:] == (4, 1)


@pytest.mark.slow
def test_digits():
    X, y = load_digits(n_class=3, return_X_y=True)
    images = X.reshape(-1, 8, 8, 1) / 16
    model = ConvexCNNClassifier(1.0, tol=3e-2, random_state=0)
    model.fit(images[:150], y[:150])
    assert model.dual_gap_ <= 3e-2 * model.objective_
    assert model.score(images[150:], y[150:]) > 0.97


@pytest.mark.slow
def test_float32():
    X, y = series()
    model = ConvexCNNRegressor(0.1, random_state=0).fit(X.astype(np.float32), y)
    assert {part.dtype for part in model.coefs_} == {np.dtype(np.float32)}
    double = ConvexCNNRegressor(0.1, random_state=0).fit(X, y)
    assert_allclose(model.objective_, double.objective_, rtol=1e-2)


@pytest.mark.skipif(
    os.environ.get("SCIPY_ARRAY_API") != "1", reason="needs SCIPY_ARRAY_API=1"
)
@pytest.mark.parametrize("namespace", ["torch", "array_api_strict"])
def test_arrays_of_other_libraries(namespace):
    xp = pytest.importorskip(namespace)
    X, y = series(30)
    labels = (y > np.median(y)).astype(int)
    params = {"alpha": 1.0, "tol": 0.1, "random_state": 0}
    own = ConvexCNNRegressor(**params).fit(X, y)
    with sklearn.config_context(array_api_dispatch=True):
        model = ConvexCNNRegressor(**params).fit(xp.asarray(X), xp.asarray(y))
        assert isinstance(model.filters_, type(xp.asarray(X)))
        assert isinstance(model.transform(xp.asarray(X)), type(xp.asarray(X)))
        found = np.asarray(model.predict(xp.asarray(X)))
        classifier = ConvexCNNClassifier(**params)
        classifier.fit(xp.asarray(X), xp.asarray(labels))
        assert classifier.predict_proba(xp.asarray(X)).shape == (30, 2)
    assert_allclose(found, own.predict(X), atol=1e-12)


regressor = partial(ConvexCNNRegressor, random_state=0)


@pytest.mark.parametrize(
    "params, shape, message",
    [
        ({"input_shape": (3, 3)}, (9, 10), "9 positions.*10 features"),
        ({"input_shape": 5, "kernel_size": 6}, (9, 5), r"kernel_size=6 .*\(5,\)"),
        ({"input_shape": 5, "pool_size": 4}, (9, 5), r"pool_size=4 .*\(3,\)"),
        ({"kernel_size": (2, 2)}, (9, 10), "kernel_size.*2 numbers.*1 axis"),
        ({"strides": 0.5}, (9, 10), "strides"),
        ({"kernel_size": ()}, (9, 10), "kernel_size"),
        ({"input_shape": (2, 5)}, (9, 5, 2), r"\(5, 2\).*\(2, 5\)"),
        ({"padding": "full"}, (9, 10), "padding"),
    ],
)
def test_bad_shapes(params, shape, message):
    X, y = np.random.default_rng(0).standard_normal(shape), np.arange(9.0)
    with pytest.raises(ValueError, match=message):
        regressor(**params).fit(X, y)


def test_a_wrong_shape_to_predict():
    X, y = series(15, 12)
    model = regressor(0.5).fit(X.reshape(15, 6, 2), y)
    assert model.input_shape_ == (6,)
    with pytest.raises(ValueError, match=r"\(5, 2\).*\(6,\)"):
        model.predict(np.zeros((3, 5, 2)))
    assert clone(model).get_params() == model.get_params()


def test_classes_without_weight():
    X, y = series(30)
    labels = np.arange(30) % 3
    weight = np.where(labels == 1, 0.0, 1.0)
    model = ConvexCNNClassifier(0.3, tol=0.1, random_state=0).fit(X, labels, weight)
    assert_array_equal(np.unique(model.predict(X)), [0, 2])
    assert_allclose(model.predict_proba(X)[:, 1], 0.0, atol=1e-12)
    one = ConvexCNNClassifier(0.3).fit(X, labels, labels == 1)
    assert np.all(one.predict(X) == 1)
