"""Time limits: they hold in every loop, and what is claimed at the end is true."""

from dataclasses import replace
from functools import partial
from time import perf_counter

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from sklearn_convexnn import (
    ConvexReLURegressor,
    GatedReLURegressor,
    _null_slope,
    certify,
    convex_relu_path,
    cutting_planes,
    smallest_network,
)
from sklearn_convexnn._utils import deadlines as _deadlines
from sklearn_convexnn._utils.deadlines import OutOfTime, check, fits, until
from sklearn_convexnn._utils.sorting import distinct_rows
from sklearn_convexnn.families.two_layer import searching
from sklearn_convexnn.families.two_layer.neurons import row_space_in_time
from sklearn_convexnn.families.two_layer.pricing import search_units
from sklearn_convexnn.families.two_layer.slope_bounds import semidefinite_bound
from sklearn_convexnn.losses import Separable, Softmax, make_loss
from sklearn_convexnn.model.network import Network
from sklearn_convexnn.model.settings import Limits
from sklearn_convexnn.patterns import arrangements
from sklearn_convexnn.patterns.arrangements import (
    can_enumerate,
    count_patterns,
    has_few_patterns,
    without_rounding,
)
from sklearn_convexnn.solvers.lbfgs import LBFGS
from sklearn_convexnn.training import at_scale as large, column_generation
from sklearn_convexnn.training.dual_points import BRIEF, SHORT
from sklearn_convexnn.training.smallest_by_descent import smallest_by_descent
from tests.problems import loss_of, problem_of_one, tiny_data, two_layer_problem


class Clock:
    """The time, until it has been looked at so often; then long after."""

    def __init__(self, looks):
        self.left, self.late = looks, 0

    def __call__(self):
        self.left -= 1
        if self.left >= 0:
            return perf_counter()
        self.late += 1
        return perf_counter() + 1e6


class Ticks:
    """The time, of which a second goes by whenever it is looked at."""

    def __init__(self):
        self.looks = 0

    def __call__(self):
        self.looks += 1
        return perf_counter() + self.looks


def test_until_and_check(monkeypatch):
    """The earliest deadline counts, and long steps are refused before it."""
    monkeypatch.setattr(_deadlines, "_speed", lambda: 1e9)
    check(1e300)
    with until(perf_counter() + 100.0):
        check(1e10)
        assert fits(1e10) and not fits(1e10, share=1e-3) and not fits(1e12)
        with pytest.raises(OutOfTime):
            check(1e12)
        with until(perf_counter() + 1000.0), pytest.raises(OutOfTime):
            check(5e11)
        with until(perf_counter() - 1.0), pytest.raises(OutOfTime):
            check()
        check()
    assert fits(np.inf)


def test_other_devices_are_faster_by_what_a_product_takes(monkeypatch):
    monkeypatch.setattr(_deadlines, "_of_numpy", lambda: 1e9)
    with until(perf_counter() + 1.0):
        assert not fits(1e10)
        with _deadlines.at_speed_of(lambda: None, 10**5):
            assert fits(1e10)
        with _deadlines.at_speed_of(None, 10**5):
            assert not fits(1e10)
        with _deadlines.at_speed_of(lambda: None, 1):
            assert not fits(1e10)  # not slower


def data(n_outputs, n=20, d=2):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d))
    Y = np.sin(2 * X[:, :1]) + rng.standard_normal((n, n_outputs)) * 0.3
    return X, Y[:, 0] if n_outputs == 1 else Y


def fitted(model, X, y):
    return clone(model).fit(X, y)


def shrunk(model, X, y):
    model = fitted(model, X, y)
    small = smallest_network(model, X, y)
    assert small.n_neurons_ <= model.n_neurons_
    allowed = max(model.dual_gap_, model.tol * small.objective_)
    assert small.dual_gap_ <= allowed * (1 + 1e-6)
    return small


SAMPLED = {"arrangements": "sampled"}
WAYS = {
    "adaptive": (1, ConvexReLURegressor(), fitted),
    "no offset": (1, ConvexReLURegressor(fit_intercept=False), fitted),
    "quantile": (1, ConvexReLURegressor(loss="quantile"), fitted),
    "few neurons": (1, ConvexReLURegressor(max_neurons=3), fitted),
    "smallest": (1, ConvexReLURegressor(), shrunk),
    "sampled": (1, ConvexReLURegressor(**SAMPLED), fitted),
    "interior point": (
        1,
        ConvexReLURegressor(solver="interior_point", **SAMPLED),
        fitted,
    ),
    "cuts": (1, ConvexReLURegressor(), cutting_planes),
    "cells": (1, ConvexReLURegressor(), partial(cutting_planes, cuts="cells")),
    "gated": (1, GatedReLURegressor(), fitted),
    "outputs": (3, ConvexReLURegressor(), fitted),
    "sampled outputs": (2, ConvexReLURegressor(n_arrangements=20, **SAMPLED), fitted),
    "smallest of outputs": (2, ConvexReLURegressor(max_neurons=5), shrunk),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("way", WAYS)
def test_stops_anywhere(way, monkeypatch):
    """Wherever time runs out, the fit ends soon, with a network and a true bound."""
    n_outputs, model, train = WAYS[way]
    X, Y = data(n_outputs)
    model = clone(model).set_params(alpha=1.0, tol=0.05, random_state=0)
    monkeypatch.setattr(_deadlines, "_speed", lambda: 1e12)
    null = np.sum((Y - Y.mean(axis=0) * model.fit_intercept) ** 2) / 2
    if model.loss == "quantile":
        null = 0.5 * np.min([np.abs(Y - y).sum() for y in Y])
    # What is known not to be the least objective of all networks.
    reference = train(clone(model).set_params(max_iter=1), X, Y).objective_
    model.set_params(max_time=1000.0)
    for looks in (0, 3, 15, 100):
        clock = Clock(looks)
        monkeypatch.setattr(_deadlines, "perf_counter", clock)
        found = train(model, X, Y)
        assert found.objective_ <= null * (1 + 1e-9)
        assert found.dual_bound_ <= min(reference, found.objective_) * (1 + 1e-9)
        assert clock.late < 60
        assert found.predict(X).shape == Y.shape
        if clock.late and looks < 5:
            assert found.dual_gap_ > found.tol * found.objective_


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_bounds_hold_wherever_a_search_is_cut_short(fit_intercept, monkeypatch):
    X, y = data(1, n=300, d=8)
    model = ConvexReLURegressor(alpha=10.0, fit_intercept=fit_intercept, random_state=0)
    best = clone(model).fit(X, y).objective_
    half = clone(model).set_params(alpha=5.0).fit(X, y).objective_
    zero = [np.zeros((8, 1)), np.zeros((1, 1))], [np.zeros(1), np.zeros(1)]
    monkeypatch.setattr(_deadlines, "_speed", lambda: 1e12)
    bounds = []
    for seconds in np.geomspace(10.0, 1000.0, 15):
        monkeypatch.setattr(_deadlines, "perf_counter", Ticks())
        found = certify(
            zero, X, y, alpha=10.0, fit_intercept=fit_intercept, max_time=seconds,
            random_state=0,
        )  # fmt: skip
        assert found.dual_bound <= best
        bounds.append(found.dual_bound)
        monkeypatch.setattr(_deadlines, "perf_counter", Ticks())
        model.set_params(max_time=seconds)
        _, models, _ = convex_relu_path(model, X, y, alphas=[10.0, 5.0])
        assert models[0].dual_bound_ <= best
        assert models[1].dual_bound_ <= half
    assert max(bounds) > 2 * min(bounds)


def test_nothing_found_in_time_is_no_result():
    """A search that has not come to the end of a climb says nothing of the slopes."""
    rng = np.random.RandomState(0)
    X, N, starts = (rng.standard_normal(shape) for shape in ((40, 3), (40, 1), (9, 3)))
    options = {"free_bias": False, "partial": True}
    with until(perf_counter() - 1.0), pytest.raises(OutOfTime):
        search_units(X, N, starts, **options)
    assert len(search_units(X, N, starts, **options))
    assert not len(search_units(X, 0.0 * N, starts, **options))


@pytest.mark.parametrize("n_outputs", [1, 2])
@pytest.mark.parametrize("looks", [0, 1, 2, 5, 20])
def test_smallest_network_stops_anywhere(looks, n_outputs, monkeypatch):
    """With the network that it was given, or a smaller one."""
    X, Y = data(n_outputs)
    model = ConvexReLURegressor(alpha=0.5, tol=0.2, random_state=0).fit(X, Y)
    monkeypatch.setattr(_deadlines, "_speed", lambda: 1e12)
    clock = Clock(looks)
    monkeypatch.setattr(_deadlines, "perf_counter", clock)
    small = smallest_network(model.set_params(max_time=1000.0), X, Y)
    assert 0 < clock.late < 60
    assert 0 < small.n_neurons_ <= model.n_neurons_
    assert small.dual_gap_ <= 0.2 * small.objective_


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("looks", [0, 3, 30, 100])
def test_stops_anywhere_at_scale(looks, monkeypatch):
    X, y = data(1, n=4200, d=2)
    params = {"alpha": 50.0, "random_state": 0, "max_time": 1000.0}
    monkeypatch.setattr(_deadlines, "_speed", lambda: 1e12)
    clock = Clock(looks)
    monkeypatch.setattr(_deadlines, "perf_counter", clock)
    model = ConvexReLURegressor(**params).fit(X, y)
    null = 0.5 * len(y) * np.var(y)
    assert model.dual_bound_ <= model.objective_ <= null * (1 + 1e-6)
    assert model.dual_gap_ > 0.01 * model.objective_
    assert clock.late < 60


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_unfinished_search_claims_nothing(n_outputs, monkeypatch):
    """The bound is that of norms if no search comes to its end."""
    X, Y = data(n_outputs)

    def too_long(*args, **kwargs):
        raise OutOfTime

    monkeypatch.setattr(searching, "wide_starts", too_long)
    model = ConvexReLURegressor(alpha=1.0, random_state=0, max_time=100.0)
    with pytest.warns(ConvergenceWarning, match="the time limit was reached"):
        model.fit(X, Y)
    # Placed all the same.
    assert model.n_neurons_ > 0
    assert 0 < model.dual_bound_ < 0.5 * model.objective_


@pytest.mark.parametrize("loss", ["squared_error", "log_loss"])
@pytest.mark.parametrize("bias", [False, True])
def test_bound_by_norms(loss, bias):
    """No neuron is steeper than what norms alone allow."""
    rng = np.random.RandomState(0)
    X, y, s = tiny_data(loss, n=30, d=3, weighted=True)
    problem = problem_of_one(X + 3.0, y, s, loss_of(loss), 0.1, bias)
    run = column_generation.SingleRun(problem, rng, Limits(1e-2))
    for _ in range(5):
        N = problem.dual_point(rng.standard_normal((len(y), 1)))
        limit = run.slope_limit(N)
        directions = rng.standard_normal((500, 3))
        directions /= np.linalg.norm(directions, axis=1)[:, None]
        biases = -(problem.X @ directions.T)[rng.randint(30, size=500), range(500)]
        units = problem.family.neurons(directions, bias * biases)
        assert problem.family.slopes(units, N).max() <= limit


def test_descent_keeps_the_best(monkeypatch):
    """A descent that is interrupted returns the best point that it has seen."""

    seen = []

    def value_and_gradient(x):
        if len(seen) == 7:
            raise OutOfTime
        seen.append(np.sum((x - 1.0) ** 2 * [1.0, 10.0, 100.0]))
        return seen[-1], 2.0 * (x - 1.0) * [1.0, 10.0, 100.0]

    x = LBFGS(value_and_gradient, np.zeros(3)).run(50)
    assert np.sum((x - 1.0) ** 2 * [1.0, 10.0, 100.0]) == min(seen)
    with until(perf_counter() - 1.0):
        x = LBFGS(value_and_gradient, np.ones(3)).run(50)
    assert np.all(x == 1.0)


def test_reduction_is_left_out(monkeypatch):
    """A reduction of the features that takes too long is none."""
    X = np.random.default_rng(0).standard_normal((10, 4)) @ np.ones((4, 6))
    assert row_space_in_time(X).shape == (6, 1)
    monkeypatch.setattr(_deadlines, "_speed", lambda: 1.0)
    with until(perf_counter() + 100.0):
        basis = row_space_in_time(X)
    assert np.all(X @ basis == X)


def test_smallest_network_in_no_time():
    """The network that it was given, or the best so far."""
    X, Y = data(2)
    model = ConvexReLURegressor(alpha=0.5, random_state=0, tol=0.2).fit(X, Y)
    loss = Separable(make_loss("squared_error", 1.0))
    problem = two_layer_problem(X, Y, np.ones(len(X)), loss, 0.5, True)
    W, V = model.coefs_
    size = np.linalg.norm(W, axis=0)
    units = problem.family.neurons((W / size).T, model.intercepts_[0] / size)
    neurons = Network(units, V * size[:, None], model.intercepts_[1])
    limit = 1.2 * problem.objective(neurons)
    late = smallest_by_descent(problem, neurons, limit, deadline=perf_counter() - 1.0)
    assert len(late) == len(neurons)
    assert len(smallest_by_descent(problem, neurons, limit)) < len(neurons)


@pytest.mark.parametrize("seed", range(4))
def test_distinct_rows(seed):
    """As NumPy sorts them, with ties in any of the columns."""
    rng = np.random.default_rng(seed)
    table = rng.integers(-1, 2, size=(60, 5)).astype(float)
    table[:, 2] = 0.0
    if seed == 3:
        table = table[:1]
    rows, inverse = np.unique(table, axis=0, return_inverse=True)
    first, group = distinct_rows(table.T)
    assert np.array_equal(table[first], rows)
    assert np.array_equal(group, inverse.ravel())
    assert np.array_equal(first, np.unique(table, axis=0, return_index=True)[1])


def test_few_patterns_by_some_samples(monkeypatch):
    X = np.random.default_rng(0).standard_normal((500, 3))
    counted = []

    def count(X, free_bias=False):
        counted.append(len(X))
        return count_patterns(X, free_bias=free_bias)

    monkeypatch.setattr(arrangements, "count_patterns", count)
    assert not has_few_patterns(X, 20)
    assert counted == [20]
    assert has_few_patterns(X[:5], 100)
    assert has_few_patterns(np.repeat(X[:4], 100, axis=0), 20)
    counted.clear()
    # As many as there may be patterns are not needed.
    assert not can_enumerate(np.concatenate([X, -X, 2 * X + 1.0]))
    assert counted == [500]


def test_offsets_of_many_samples(monkeypatch):
    """Newton's method ends where rounding of the sums is all that is left."""
    rng = np.random.default_rng(0)
    n = 30_000
    Y = np.eye(4)[rng.integers(4, size=n)]
    calls = []

    def counted(F):
        calls.append(1)
        return softmax(F, axis=1)

    monkeypatch.setattr(Softmax, "probabilities", staticmethod(counted))
    F = rng.standard_normal((n, 4))
    offset = Softmax().best_offset(F, Y, np.ones(n))
    assert np.allclose(softmax(F + offset, axis=1).sum(axis=0), Y.sum(axis=0))
    assert len(calls) < 15


def test_without_rounding():
    X = np.array([[1.0, 1e-20, 0.0], [-2.0, 3.0, 1.0], [1e-14, 0.0, 2.0]])
    given = X.copy()
    assert without_rounding(X)[0, 1] == without_rounding(X)[2, 0] == 0.0
    assert np.array_equal(X, given)
    assert without_rounding(X[1:2]) is not None


@pytest.mark.slow
@pytest.mark.parametrize("n, d", [(20_000, 30), (2000, 1500), (3000, 50)])
def test_limits_in_seconds(n, d):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d))
    y = np.abs(X[:, 0]) + rng.standard_normal(n)
    model = ConvexReLURegressor(0.01 * n, tol=1e-4, random_state=0, max_time=2.0)
    start = perf_counter()
    with pytest.warns(ConvergenceWarning):
        model.fit(X, y)
    # Room for what else the machine does.
    assert perf_counter() - start < 5.0
    assert model.objective_ > model.dual_bound_


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_unconfirmed_gap_is_not_claimed(n_outputs, monkeypatch):
    """A gap that only short searches have closed is reported with a warning."""
    X, Y = data(n_outputs)
    kind = column_generation.Run if n_outputs > 1 else column_generation.SingleRun
    search = kind.search

    def short_only(self, nu, effort):
        if effort > SHORT:
            raise OutOfTime
        return search(self, nu, effort)

    monkeypatch.setattr(kind, "search", short_only)
    model = ConvexReLURegressor(alpha=1.0, tol=0.1, random_state=0, max_time=100.0)
    with pytest.warns(ConvergenceWarning, match="longer search could confirm"):
        model.fit(X, Y)
    # With what these may have missed it is larger.
    assert model.dual_gap_ <= 0.2 * model.objective_
    assert model.certificate_ == "estimated"


def test_last_search_at_scale(monkeypatch):
    """Time is kept for a search where no other has come to its end."""
    X, y = data(1, n=4200, d=2)
    price, calls = large._RunInChunks.price, []

    def late_at_first(self, nu, effort=SHORT):
        calls.append(effort)
        if len(calls) == 1:
            raise OutOfTime
        price(self, nu, effort)

    monkeypatch.setattr(large._RunInChunks, "price", late_at_first)
    model = ConvexReLURegressor(
        alpha=50.0, tol=1e-4, random_state=0, n_arrangements=5, max_time=1000.0
    )
    with pytest.warns(ConvergenceWarning, match="time limit"):
        model.fit(X, y)
    assert calls[:3] == [SHORT, SHORT, BRIEF]
    # By norms alone next to nothing is known.
    assert model.dual_bound_ > 0.3 * model.objective_


def test_busy_machine(monkeypatch):
    """Where the processor is shared, steps are taken to last longer."""
    monkeypatch.setattr(_deadlines, "_speed", lambda: 1e9)
    start = perf_counter()
    with until(start + 1000.0):
        assert fits(5e11)
        monkeypatch.setattr(_deadlines, "perf_counter", lambda: start + 10.0)
        busy = _deadlines.process_time()
        monkeypatch.setattr(_deadlines, "process_time", lambda: busy + 2.5)
        assert fits(2e11) and not fits(5e11)


@pytest.mark.parametrize("gated", [True, False])
def test_default_alpha_in_no_time(gated, monkeypatch):
    """A search for its scale that there is no time for leaves one that is rougher."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 4))
    Y = np.maximum(X @ rng.standard_normal((4, 3)), 0.0)
    kind, null_slope = (
        (GatedReLURegressor, _null_slope.null_gate_slope)
        if gated
        else (ConvexReLURegressor, _null_slope.null_slope)
    )
    loss = Separable(make_loss("squared_error"))
    settings = kind(alpha=1.0)._settings(loss)
    full = null_slope(X, Y, np.ones(200), settings)
    monkeypatch.setattr(_deadlines, "_speed", lambda: 1.0)
    settings = replace(settings, deadline=perf_counter() + 30.0)
    short = null_slope(X, Y, np.ones(200), settings)
    assert 0.3 * full < short <= (1.0 + 1e-6) * full
    # What comes too late is left out.
    settings = replace(settings, deadline=perf_counter() - 1.0)
    late = null_slope(X, Y, np.ones(200), settings)
    assert 0.0 < late <= short


def test_semidefinite_program_is_not_begun_in_vain(monkeypatch):
    X = np.random.default_rng(0).standard_normal((20, 2))
    monkeypatch.setattr(_deadlines, "_speed", lambda: 1e4)
    with until(perf_counter() + 1.0), pytest.raises(OutOfTime):
        semidefinite_bound(X, X[:, 0])
