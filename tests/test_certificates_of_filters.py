"""Certificates of convolutional networks: estimators, arrays, modules of torch."""

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_convexnn import (
    Certificate,
    ConvexCNNClassifier,
    ConvexCNNRegressor,
    certify,
)
from sklearn_convexnn._verification import _patches
from sklearn_convexnn.families.convolution.layout import Layout
from sklearn_convexnn.families.two_layer import family

SHAPE = 4, 5, 2
HEADS = {
    "maxima": {"pooling": "max", "padding": "same"},
    "means": {"pooling": "average", "kernel_size": (3, 2), "pool_size": (1, 2)},
    "mean of all": {"pooling": "average", "pool_size": "global"},
    "all positions": {"pooling": None, "strides": (2, 1)},
}


@pytest.fixture(autouse=True)
def short_claims(monkeypatch):
    """So few samples would be searched with thousands of starts."""
    monkeypatch.setattr(family, "_CLAIM_STARTS", 10)


def images(n=15, n_outputs=2, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, *SHAPE))
    steps = np.maximum(X[:, 1:, :, 0] - X[:, :-1, :, 1], 0.0)
    Y = np.column_stack([steps.mean(axis=(1, 2)), steps[:, 0, 0]])
    return X, (Y + 0.1 * rng.standard_normal(Y.shape))[:, :n_outputs]


def network(head, n_filters=3, seed=1, n_outputs=2):
    """Random weights, as an estimator has them after a fit, and its parameters."""
    X, Y = images(n_outputs=n_outputs)
    params = {"kernel_size": 2, **HEADS[head]}
    model = ConvexCNNRegressor(alpha=1.0, max_iter=1, n_arrangements=5, **params)
    with pytest.warns(UserWarning):
        model.set_params(tol=1e-9, random_state=0).fit(X, Y)
    rng = np.random.default_rng(seed)
    size, rows = np.prod(model.filters_.shape[1:]), np.prod(model.map_shape_)
    coefs = [
        rng.standard_normal((size, n_filters)),
        rng.standard_normal((rows * n_filters, n_outputs)),
    ]
    biases = [rng.standard_normal(n_filters), rng.standard_normal(n_outputs)]
    model.coefs_, model.intercepts_ = coefs, biases
    return model, X, Y


def how(model):
    names = "kernel_size", "strides", "padding", "pooling", "pool_size"
    return {name: getattr(model, name) for name in names}


@pytest.mark.parametrize("head", HEADS)
def test_objective_is_that_of_predictions(head):
    model, X, Y = network(head)
    weight = np.random.default_rng(2).uniform(0.5, 2.0, len(X))
    F = model.predict(X)
    squares = sum(np.sum(coef**2) for coef in model.coefs_)
    wanted = 0.5 * np.sum(weight[:, None] * (F - Y) ** 2) + 0.5 * 1.3 * squares
    params = {"alpha": 1.3, "sample_weight": weight, "tol": 0.5, "random_state": 0}
    found = certify(model, X, Y, **params)
    assert_allclose(found.objective, wanted, rtol=1e-10)
    assert found.kind == "estimated"
    # Flat inputs, and arrays in both shapes, say the same.
    flat, convolution = X.reshape(len(X), -1), {**how(model), "input_shape": SHAPE[:2]}
    assert certify(model, flat, Y, **params) == found
    layers = model.coefs_, model.intercepts_
    assert certify(layers, flat, Y, convolution=convolution, **params) == found
    shape = len(model.coefs_[0].T), *model.filters_.shape[1:]
    filters = model.coefs_[0].T.reshape(shape)
    layers = (filters, model.coefs_[1]), model.intercepts_
    del convolution["kernel_size"], convolution["input_shape"]
    assert certify(layers, X, Y, convolution=convolution, **params) == found


@pytest.mark.parametrize(
    "head, batch_norm",
    [
        ("means", False),
        *(
            pytest.param(head, norm, marks=pytest.mark.slow)
            for head in HEADS
            for norm in (False, True)
        ),
    ],
)
def test_a_claim_and_a_search_against_it(head, batch_norm, tmp_path):
    X, Y = images(n_outputs=1)
    params = {"kernel_size": 2, "batch_norm": batch_norm, **HEADS[head]}
    # Each alpha leaves the network some filters.
    model = ConvexCNNRegressor("scale", tol=0.03, random_state=0, **params)
    model.fit(X, Y[:, 0])
    found = certify(model, X, Y[:, 0], alpha=model.alpha_, tol=0.03, random_state=0)
    assert_allclose(found.objective, model.objective_, rtol=1e-8)
    assert found.dual_gap <= 0.035 * found.objective
    assert found.batch_norm is batch_norm
    outcome = found.verify(X, Y[:, 0], n_starts=15, random_state=0)
    assert outcome.holds
    flat = found.verify(X.reshape(len(X), -1), Y[:, 0], n_starts=15, random_state=0)
    assert flat.dual_bound == outcome.dual_bound
    # The search finds the filters of which the bound is made.
    assert outcome.dual_bound <= 1.02 * found.dual_bound
    too_much = replace(found, dual_bound=1.04 * found.dual_bound)
    refuted = too_much.verify(X, Y[:, 0], n_starts=15, random_state=0)
    assert not refuted.holds
    for suffix in ("json", "npz"):
        found.save(tmp_path / f"claim.{suffix}")
        assert Certificate.load(tmp_path / f"claim.{suffix}") == found


def test_a_unit_that_refutes_a_claim_is_that_steep():
    X, Y = images(n_outputs=1)
    params = {"kernel_size": 2, "pool_size": (3, 2), "random_state": 0}
    model = ConvexCNNRegressor("scale", tol=0.1, **params).fit(X, Y[:, 0])
    found = certify(model, X, Y[:, 0], alpha=model.alpha_, tol=0.1, random_state=0)
    wrong = replace(found, dual=2.0 * found.dual, dual_bound=1.5 * found.dual_bound)
    direction, bias = wrong.verify(X, Y[:, 0], n_starts=10, random_state=0).unit
    assert_allclose(np.linalg.norm(direction), 1.0)
    # The filter by itself, by the estimator.
    model.coefs_ = [direction[:, None], np.zeros((np.prod(model.map_shape_), 1))]
    model.intercepts_[0] = np.array([bias])
    slope = np.linalg.norm(model.transform(X).T @ wrong.dual)
    outcome = wrong.verify(X, Y[:, 0], n_starts=10, random_state=0)
    assert_allclose(slope, outcome.kappa * found.alpha, rtol=1e-8)
    assert slope > found.alpha


def test_classes_and_softmax():
    X, Y = images(20)
    labels = np.array(["a", "b", "c"])[np.digitize(Y[:, 0], [0.4, 0.6])]
    model = ConvexCNNClassifier(
        "scale", kernel_size=2, tol=0.05, class_weight="balanced", random_state=0
    ).fit(X, labels)
    found = certify(model, X, labels, alpha=model.alpha_, tol=0.05, random_state=0)
    assert_allclose(found.objective, model.objective_, rtol=1e-8)
    assert found.verify(X, labels, n_starts=10, random_state=0).holds


@pytest.mark.parametrize("head", HEADS)
def test_patches_of_the_search(head):
    model, X, _ = network(head)
    layout = Layout(**model._layout_of_fit)
    plain = certify(model, X, np.zeros((len(X), 2)), alpha=1e6).convolution
    wanted = layout.patches(X.reshape(len(X), -1)).transpose(1, 0, 2, 3)
    assert_array_equal(_patches(plain, X.reshape(len(X), -1)), wanted)


def test_patches_that_are_left_over():
    # Seven positions along the first axis, in windows of two, and steps of two.
    plain = {
        "input_shape": [15, 3],
        "n_channels": 1,
        "kernel_size": [3, 2],
        "strides": [2, 1],
        "padding": [[0, 0], [1, 0]],
        "pooling": "max",
        "pool_size": [2, 2],
        "channels_first": False,
    }
    X = np.random.default_rng(0).standard_normal((2, 45))
    layout = Layout((15, 3), 1, (3, 2), (2, 1), (0, 1), (0, 0), (2, 2), True)
    assert layout.windows == (3, 1)
    wanted = layout.patches(X).transpose(1, 0, 2, 3)
    assert_array_equal(_patches(plain, X), wanted)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"convolution": {"stride": 2}}, "unknown entries: 'stride'.*strides"),
        ({"convolution": {"kernel_size": 3}}, "weights do not fit.*18 weights each"),
        (
            {"convolution": {"kernel_size": 2, "pooling": None}},
            "weights do not fit.*12 positions",
        ),
        ({"kind": "global"}, "kind='global' is for networks without convolution"),
        ({"kind": "restricted"}, "kind='restricted' is for networks without"),
        ({"negative_slope": 0.1}, "negative_slope must be 0"),
        ({"convolution": {"kernel_size": 2, "input_shape": (7,)}}, "input_shape is"),
    ],
)
def test_errors(change, message):
    model, X, Y = network("maxima")
    layers = model.coefs_, model.intercepts_
    params = {"alpha": 1.0, "convolution": {"kernel_size": 2, "padding": "same"}}
    with pytest.raises(ValueError, match=message):
        certify(layers, X, Y, **{**params, **change})


def test_errors_of_layouts_that_are_told_twice():
    model, X, Y = network("maxima")
    with pytest.raises(ValueError, match="network says its layout itself"):
        certify(model, X, Y, alpha=1.0, convolution={})
    with pytest.raises(ValueError, match=r"a tuple \(coefs, intercepts\), got object"):
        certify(object(), X, Y, alpha=1.0, convolution={})
    filters = np.zeros((3, 2, 2, 2)), np.zeros((12, 2))
    with pytest.raises(ValueError, match="kernel_size=3, but the filters"):
        convolution = {"kernel_size": 3}
        certify((filters, model.intercepts_), X, Y, alpha=1.0, convolution=convolution)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"n_channels": 3}, "60 features, but n_features is 40"),
        ({"pool_size": [2, 9]}, "larger than what it is for"),
        ({"strides": [1]}, "a number for each axis"),
        ({"strides": [1, 0]}, "a number for each axis"),
        ({"padding": [[0, 1], 1]}, "a number for each axis"),
        ({"pooling": "sum"}, "a number for each axis"),
        ({"dilation": [1, 1]}, "must have the entries"),
    ],
)
def test_errors_of_files(change, message, tmp_path):
    model, X, Y = network("maxima")
    path = tmp_path / "claim.json"
    certify(model, X, Y, alpha=1e6).save(path)
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "convolution": told["convolution"] | change}))
    with pytest.raises(ValueError, match=message):
        Certificate.load(path)


def in_torch(torch, model, pool):
    """A module with the weights of an estimator."""
    m, *kernel, n_channels = model.filters_.shape
    m = len(model.coefs_[0].T)
    padding = "same" if model.padding == "same" else 0
    strides = model.strides
    conv = torch.nn.Conv2d(n_channels, m, kernel, stride=strides, padding=padding)
    rows, n_outputs = model.coefs_[1].shape
    linear = torch.nn.Linear(rows, n_outputs)
    filters = np.moveaxis(model.coefs_[0].T.reshape(m, *kernel, n_channels), -1, 1)
    dense = model.coefs_[1].reshape(-1, m, n_outputs).transpose(2, 1, 0)
    for layer, weights, biases in (
        (conv, filters, model.intercepts_[0]),
        (linear, dense.reshape(n_outputs, -1), model.intercepts_[1]),
    ):
        layer.weight.data = torch.tensor(weights.copy(), dtype=torch.float64)
        layer.bias.data = torch.tensor(biases, dtype=torch.float64)
    layers = [conv, torch.nn.ReLU(), *pool, torch.nn.Flatten(), linear]
    return torch.nn.Sequential(*layers)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("head", HEADS)
def test_arrays_in_modules(head):
    torch = pytest.importorskip("torch")
    model, X, Y = network(head)
    pool = {
        "maxima": [torch.nn.MaxPool2d(2)],
        "means": [torch.nn.AvgPool2d((1, 2))],
        "mean of all": [torch.nn.AdaptiveAvgPool2d(1)],
        "all positions": [],
    }[head]
    module, images = in_torch(torch, model, pool), torch.tensor(np.moveaxis(X, -1, 1))
    with torch.no_grad():
        outputs = np.asarray(module(images))
    assert_allclose(outputs, model.predict(X), rtol=1e-10)
    params = {"alpha": 1.0, "tol": 0.5, "random_state": 0}
    wanted, found = certify(model, X, Y, **params), certify(module, images, Y, **params)
    assert_allclose(found.objective, wanted.objective, rtol=1e-10)
    assert_allclose(found.dual_bound, wanted.dual_bound, rtol=1e-10)
    assert found.convolution == {**wanted.convolution, "channels_first": True}
    assert found.verify(images, Y, n_starts=5, random_state=0).holds
    with pytest.raises(ValueError, match="the axes that the module takes"):
        certify(module, X.reshape(len(X), -1), Y, **params)
    with pytest.raises(ValueError, match="channels, but the network has 2"):
        certify(module, X, Y, **params)


def test_arrays_in_dense_modules():
    torch = pytest.importorskip("torch")
    X, Y = images()
    X = X.reshape(len(X), -1)
    torch.manual_seed(0)
    first, second = torch.nn.Linear(40, 4), torch.nn.Linear(4, 2, bias=False)
    module = torch.nn.Sequential(first, torch.nn.ReLU(), second)
    coefs = [np.asarray(one.weight.detach().double()).T for one in (first, second)]
    biases = [np.asarray(first.bias.detach().double()), np.zeros(2)]
    params = {"alpha": 20.0, "tol": 0.1, "random_state": 0}
    wanted = certify((coefs, biases), X, Y, **params)
    assert certify(module, X, Y, **params) == wanted


def test_errors_of_arrays_in_modules():
    torch = pytest.importorskip("torch")
    nn = torch.nn
    X, Y = torch.zeros(4, 2, 6), np.arange(4.0)
    conv, tail = nn.Conv1d(2, 3, 2), [nn.Flatten(), nn.Linear(6, 1)]
    for layers, message in (
        ([conv, nn.Tanh(), *tail], "Tanh.*batch"),
        ([conv, nn.ReLU(), nn.MaxPool2d(2), *tail], "MaxPool2d"),
        ([conv, nn.ReLU(), nn.MaxPool1d(2, 1), *tail], "next to each other"),
        ([conv, nn.ReLU(), nn.MaxPool1d(2, padding=1), *tail], "padding=0"),
        ([nn.Conv1d(2, 3, 2, dilation=2), nn.ReLU(), *tail], "dilation"),
        ([nn.Conv1d(2, 4, 2, groups=2), nn.ReLU(), *tail], "groups=1"),
        ([conv, nn.ReLU(), nn.AdaptiveAvgPool1d(2), *tail], "output_size=1"),
        ([conv, nn.ReLU(), nn.Flatten(0), nn.Linear(6, 1)], "start_dim=1"),
        ([conv, nn.ReLU(), nn.Flatten(), nn.Linear(7, 1)], "7 inputs"),
        ([conv, nn.ReLU(), nn.MaxPool1d(9), *tail], "too small"),
    ):
        with pytest.raises(ValueError, match=message):
            certify(nn.Sequential(*layers), X, Y, alpha=1.0)
