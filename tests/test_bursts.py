"""Descent in bursts, from random neurons to wider and wider networks."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_convexnn import ConvexReLUClassifier, ConvexReLURegressor
from sklearn_convexnn.families.two_layer import bursts
from sklearn_convexnn.families.two_layer.bursts import (
    descend_in_bursts,
    split_neurons,
)
from sklearn_convexnn.families.two_layer.family import TwoLayer
from sklearn_convexnn.families.two_layer.placing import (
    network_of,
    place_neurons,
    random_weights,
    weights_of,
)
from sklearn_convexnn.losses import Separable, make_loss
from tests.problems import two_layer_problem


def planted(n=300, d=6, c=1, bias=True, alpha=3.0):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d))
    Y = np.maximum(X @ rng.standard_normal((d, 4)), 0.0) @ rng.standard_normal((4, c))
    Y += 0.1 * rng.standard_normal(Y.shape)
    loss = Separable(make_loss("squared_error"))
    return two_layer_problem(X, Y, np.ones(n), loss, alpha, bias)


def networks(problem, most=4, pays=-1.0, seed=0, reported=None):
    """Those after bursts; all of them are appended to a list."""
    rng, reported = np.random.RandomState(seed), [] if reported is None else reported

    def report(network):
        reported.append(network)
        return problem.objective(network)

    bursts = descend_in_bursts(problem, 10, rng, pays, report)
    return [reported[-1] for _ in islice(bursts, most)]


@pytest.fixture
def short(monkeypatch):
    """Bursts of some milliseconds, and splits after the first ones."""
    monkeypatch.setattr(bursts, "_FIRST", 5e8)
    monkeypatch.setattr(bursts, "_BRIEF", 5e8)
    monkeypatch.setattr(bursts, "_SPLITS", (1e9, 4e9))


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize(("c", "bias"), [(1, True), (2, False)])
def test_bursts_get_below_one_descent(c, bias, few, short, monkeypatch):
    p = planted(c=c, bias=bias)
    monkeypatch.setattr(bursts, "_FEW", p.X.size if few else 0)
    reported = []
    found = networks(p, most=6, reported=reported)
    assert len(found) < len(reported)
    values = [p.objective(network) for network in found]
    one = p.objective(place_neurons(p, 10, np.random.RandomState(0)))
    assert min(values) < 1.001 * one
    assert min(map(p.objective, reported)) < p.objective(p.null())
    assert all(network.units.biases.any() == bias for network in found)


def test_bursts_end_when_they_do_not_pay(short):
    p = planted()
    # There are full batches until they are slow, and then one in parts.
    assert len(networks(p, pays=1.0)) == 3
    assert len(networks(p, most=6)) == 6


def test_bursts_end_where_weights_are_no_numbers(short):
    p, rng = planted(), np.random.RandomState(0)
    assert list(descend_in_bursts(p, 10, rng, 1e-3, lambda network: np.nan)) == []


def test_the_last_burst_takes_the_time_that_is_left(short, monkeypatch):
    p, works = planted(), []

    def burst(problem, weights, descent, rng, work, *args):
        works.append(work)
        return weights, descent

    clock = iter(range(1000))
    monkeypatch.setattr(bursts, "_burst", burst)
    # Each burst takes a second, and there are five seconds for all of them.
    monkeypatch.setattr(bursts, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(bursts, "left", lambda: 5.0 - len(works))
    networks(p, most=3)
    assert works[1] == works[0]
    assert works[2] == 3 * works[1]
    works.clear()
    monkeypatch.setattr(bursts, "left", lambda: 1e-3)
    assert len(networks(p, most=4)) == 1


def batches_before(problem, monkeypatch, n_bursts):
    """Whether bursts so far have been in batches."""
    counts = []

    def counted(*args):
        counts.append(1)
        return batches(*args)

    batches = TwoLayer.descend_in_batches
    monkeypatch.setattr(TwoLayer, "descend_in_batches", counted)
    networks(problem, most=n_bursts)
    return len(counts)


def test_full_batches_come_first_where_features_are_many(short, monkeypatch):
    monkeypatch.setattr(bursts, "_CHEAP", np.inf)
    assert batches_before(planted(n=300, d=6), monkeypatch, 1) == 1
    wide = planted(n=300, d=60)
    assert batches_before(wide, monkeypatch, 1) == 0
    assert batches_before(wide, monkeypatch, 10) > 0


def test_full_batches_come_first_where_they_are_cheap(short, monkeypatch):
    p = planted(n=300, d=6)
    monkeypatch.setattr(bursts, "_CHEAP", 0)
    assert batches_before(p, monkeypatch, 1) == 0
    assert batches_before(p, monkeypatch, 6) > 0


def test_same_seed_same_bursts(short):
    p = planted()
    first, again = networks(p), networks(p)
    assert len(first) == len(again)
    for one, other in zip(first, again):
        assert_array_equal(one.outputs, other.outputs)
        assert_array_equal(one.units.directions, other.units.directions)


def test_networks_become_wider(short, monkeypatch):
    p = planted()
    monkeypatch.setattr(bursts, "_FEW", 0)
    counts = []
    monkeypatch.setattr(
        bursts,
        "split_neurons",
        lambda weights, *args: (
            counts.append(len(weights.output)) or split_neurons(weights, *args)
        ),
    )
    networks(p, most=6)
    assert counts == [10, 30]


@pytest.mark.parametrize("n_parts", [2, 5])
def test_parts_of_neurons(n_parts):
    p = planted(c=2)
    rng = np.random.RandomState(0)
    start = weights_of(place_neurons(p, 20, rng))
    m = len(start.output)
    linear = np.arange(m) == 1
    start = replace(start, linear=linear)
    parts = split_neurons(start, n_parts, rng)
    assert len(parts.output) == n_parts * m
    assert_array_equal(parts.offset, start.offset)
    assert_array_equal(parts.linear, np.tile(linear, n_parts))
    # Output weights of the parts have the squares of the neuron, and the same ways.
    whole = np.sum(np.reshape(parts.output, (n_parts, m, 2)) ** 2, axis=0)
    assert_allclose(whole, start.output**2)
    # Hidden ones do on average, and half of them is noise.
    many = split_neurons(start, 2000, rng)
    squares = np.reshape(many.hidden**2, (6, 2000, m)).sum(axis=(0, 1))
    assert_allclose(squares, np.sum(start.hidden**2, axis=0), rtol=0.1)
    mean = np.reshape(many.hidden, (6, 2000, m)).mean(axis=1) * np.sqrt(2 * 2000)
    assert_allclose(mean, start.hidden, atol=0.1 * np.abs(start.hidden).max())


def test_too_many_outputs_are_not_split(short, monkeypatch):
    p = planted()
    monkeypatch.setattr(bursts, "_MOST_OUTPUTS", 300 * 30)
    monkeypatch.setattr(bursts, "_FEW", 0)
    assert 10 < max(map(len, networks(p, most=6))) <= 30


def test_wide_random_networks_are_no_larger():
    p = planted()
    sizes = [
        np.std(p.outputs(network_of(random_weights(p, m, np.random.RandomState(0)))))
        for m in (30, 3000)
    ]
    assert 1 / 3 < sizes[1] / sizes[0] < 3
    assert 0.1 < sizes[1] / np.std(p.y) < 1.0


@pytest.mark.slow
def test_history_has_networks_within_bursts():
    p = planted()
    model = ConvexReLURegressor(alpha=3.0, random_state=0).fit(p.X, p.y)
    history = model.history_
    assert len(history["time"]) > model.n_iter_
    assert np.all(np.diff(history["objective"]) <= 0)
    assert np.all(np.diff(history["time"]) >= 0)
    assert len(history["time"]) == len(history["neurons"]) == len(history["blocks"])


@pytest.mark.parametrize("loss", ["log_loss", "hinge"])
def test_few_samples_have_a_first_bound_soon(loss):
    """Before the network is worth much, and once."""
    X = np.random.default_rng(0).standard_normal((200, 20))
    y = np.abs(X[:, 0]) + X[:, 1] > 1.0
    model = ConvexReLUClassifier(loss=loss, random_state=0).fit(X, y)
    bounds, objectives = (model.history_[key] for key in ("dual_bound", "objective"))
    first = np.flatnonzero(np.isfinite(bounds))[0]
    assert 0 < bounds[first] < model.objective_
    assert objectives[first] > 1.003 * model.objective_
    assert first < len(bounds) // 2
