"""Training on many samples with the data on the device of another library."""

import os
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose

from sklearn_convexnn import ConvexReLUClassifier
from sklearn_convexnn.families.two_layer.climbing import Hill
from sklearn_convexnn.families.two_layer.placing import network_of, random_weights
from sklearn_convexnn.families.two_layer.pricing import SlopeSearch, search_units
from sklearn_convexnn.model.settings import Limits
from sklearn_convexnn.solvers.descent import Descent, Objective
from sklearn_convexnn.solvers.mini_batches import descend_in_batches
from sklearn_convexnn.training import at_scale
from sklearn_convexnn.training.at_scale import generate_at_scale
from tests.test_at_scale import of_type, planted

pytestmark = pytest.mark.skipif(
    os.environ.get("SCIPY_ARRAY_API") != "1", reason="needs SCIPY_ARRAY_API=1"
)
KINDS = {"negative_slope": 0.0}, {"negative_slope": 0.2}, {"bias": False}


@pytest.fixture(params=["torch", "array_api_strict"])
def elsewhere(request):
    """Puts arrays of NumPy into a library, on a device, that they do not mix with."""
    xp = pytest.importorskip(request.param)
    device = xp.Device("device1") if request.param == "array_api_strict" else "cpu"
    with sklearn.config_context(array_api_dispatch=True):
        yield partial(xp.asarray, device=device)


@pytest.fixture
def short_searches(monkeypatch):
    """Fewer climbers, which are enough for few samples."""
    monkeypatch.setattr(at_scale, "_SEARCH", 1e8)


def pair(elsewhere, dtype=np.float64, **options):
    """The same problem with its data in NumPy, and in another library."""
    here = of_type(planted(150, **options), dtype)
    return here, on_device_of(elsewhere(here.X), here)


def on_device_of(like, problem):
    return replace(problem, family=problem.family.on_device_of(like))


def slopes_of(kind):
    return {"slope" if key == "negative_slope" else key: kind[key] for key in kind}


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_derivatives(elsewhere, kind):
    here, there = pair(elsewhere, **slopes_of(kind))
    weights = random_weights(here, 6, np.random.RandomState(0))
    weights = replace(weights, linear=np.arange(6) == 2)
    ours, theirs = Objective(here, weights), Objective(there, weights)
    value, gradient = ours.value_and_gradient(ours.start())
    found, slopes = theirs.value_and_gradient(theirs.start())
    assert_allclose(found, value)
    assert_allclose(slopes, gradient, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_descents(elsewhere, dtype, kind):
    here, there = pair(elsewhere, dtype, **slopes_of(kind))
    weights = random_weights(here, 6, np.random.RandomState(0))
    start = here.objective(network_of(weights))
    rtol = 1e-6 if dtype == np.float64 else 1e-3
    for train in (
        lambda p: Descent(p, weights).run(5),
        lambda p: descend_in_batches(p, weights, np.random.RandomState(0), 20),
    ):
        ours, theirs = train(here), train(there)
        assert isinstance(theirs.hidden, np.ndarray)
        assert_allclose(theirs.hidden, ours.hidden, rtol=rtol, atol=rtol)
        assert here.objective(network_of(theirs)) < start


@pytest.mark.parametrize("kind", KINDS)
def test_features_and_slopes(elsewhere, kind):
    here, there = pair(elsewhere, **slopes_of(kind))
    network = network_of(random_weights(here, 6, np.random.RandomState(0)))
    # What would be taken from the copy in NumPy is not a number.
    there = replace(there, family=replace(there.family, X=np.full_like(here.X, np.nan)))
    assert_allclose(there.outputs(network), here.outputs(network))
    N = here.dual_point(here.outputs(network))
    assert_allclose(
        there.family.slopes(network.units, N), here.family.slopes(network.units, N)
    )


@pytest.mark.parametrize("n_outputs", [1, 3])
@pytest.mark.parametrize("negative_slope", [0.0, 0.2])
@pytest.mark.parametrize("n_features", [4, 40])
def test_climbing(elsewhere, n_outputs, negative_slope, n_features):
    rng = np.random.RandomState(0)
    X, N = rng.standard_normal((50, n_features)), rng.standard_normal((50, n_outputs))
    N -= N.mean(axis=0)
    U = rng.standard_normal((7, n_features))
    U /= np.linalg.norm(U, axis=1)[:, None]
    like = elsewhere(X[:1])
    options = {"free_bias": True, "negative_slope": negative_slope}
    at = SlopeSearch(X, N, **options).anchor(U)
    assert np.array_equal(SlopeSearch(X, N, **options, like=like).anchor(U), at)
    found = []
    for where in (None, like):
        hill = Hill(X, N, negative_slope, where)
        found.append(hill.evaluate(U, hill.kinks(np.full(7, 0.3), at)))
    for ours, theirs in zip(*found):
        assert_allclose(theirs, ours)
    ours, theirs = (
        search_units(X, N, U, **options, like=where) for where in (None, like)
    )
    assert_allclose(theirs.slopes.max(), ours.slopes.max(), rtol=1e-4)


def test_the_whole_way(elsewhere, short_searches):
    p = planted(300, d=4, c=2, alpha=5.0)
    limits = Limits(tol=1e-2, max_iter=20)
    ours, theirs = (
        generate_at_scale(problem, np.random.RandomState(0), limits, n_neurons=20)
        for problem in (p, on_device_of(elsewhere(p.X[:1]), p))
    )
    assert ours.status == theirs.status == "optimal"
    assert_allclose(theirs.objective, p.objective(theirs.neurons), rtol=1e-6)
    assert theirs.dual_bound <= ours.objective * (1 + 3e-3)
    assert ours.dual_bound <= theirs.objective * (1 + 3e-3)


def test_devices_without_double_precision_are_left_alone():
    xp = pytest.importorskip("array_api_strict")
    family = planted(30).family
    for name, taken in (("no_float64", False), ("device1", True)):
        like = xp.zeros((1, 5), dtype=xp.float32, device=xp.Device(name))
        with sklearn.config_context(array_api_dispatch=True):
            other = family.on_device_of(like)
        assert (other.placed is not None) == taken


def test_estimators_take_it(elsewhere, short_searches, monkeypatch):
    monkeypatch.setattr(at_scale, "_MANY", 100)
    monkeypatch.setattr(at_scale, "_FEWEST_SAMPLES", 100)
    places = []
    generate = at_scale.generate_at_scale

    def told(problem, *args, **options):
        places.append(problem.family.data)
        return generate(problem, *args, **options)

    monkeypatch.setattr(at_scale, "generate_at_scale", told)
    rng = np.random.RandomState(0)
    X = rng.standard_normal((250, 3))
    y = (np.abs(X[:, 0]) > X[:, 1]).astype(int)
    model = ConvexReLUClassifier(alpha=3.0, random_state=0)
    other, labels = elsewhere(X), elsewhere(y)
    model.fit(other, labels)
    for array in (places[0], model.coefs_[0]):
        assert type(array) is type(other) and array.device == other.device
    with sklearn.config_context(array_api_dispatch=False):
        ours = ConvexReLUClassifier(alpha=3.0, random_state=0).fit(X, y)
    assert_allclose(model.objective_, ours.objective_, rtol=1e-2)
    assert_allclose(model.score(other, labels), ours.score(X, y), atol=0.02)
