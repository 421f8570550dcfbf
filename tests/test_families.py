"""What every family of units keeps to; a new family is another of the `CASES`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_convexnn.families import base
from sklearn_convexnn.families.base import Candidates
from sklearn_convexnn.families.convolution import family as convolution
from sklearn_convexnn.families.convolution.family import Convolution
from sklearn_convexnn.families.convolution.layout import Layout
from sklearn_convexnn.families.simplify import simplify
from sklearn_convexnn.families.subnetworks.architecture import Architecture
from sklearn_convexnn.families.subnetworks.family import ParallelSubnetworks
from sklearn_convexnn.families.two_layer.family import TwoLayer
from sklearn_convexnn.losses import Separable
from sklearn_convexnn.model.network import Network
from sklearn_convexnn.model.problem import Problem
from tests.problems import loss_of

ALPHA = 0.3
# Rounding, relative to the largest numbers of an array.
ROUNDING = 1e-11
N_SAMPLES, N_UNITS = 12, 6


@dataclass(frozen=True)
class Case:
    """A family, and what the tests have to know of its networks.

    Attributes
    ----------
    name : str
    make : callable
        The family of data `X`.
    negative_slope : float
        Of the activation of the last hidden layer; all others are ReLUs.
    inner_norms : callable or None
        Norms that are at most one, of an array of the norms of the columns of an
        inner layer, shape (n_units, n_neurons).
    layout : Layout or None
        Of filters.
    """

    name: str
    make: Callable
    negative_slope: float = 0.0
    inner_norms: Callable | None = None
    layout: Layout | None = None


INNER_NORMS = {
    "frobenius": lambda columns: np.linalg.norm(columns, axis=1),
    "path": lambda columns: columns,
}


def two_layer(slope, bias):
    make = partial(TwoLayer, fit_intercept=bias, negative_slope=slope)
    return Case(f"two layers, slope {slope}, bias {bias}", make, slope)


def parallel(depth, norm, bias):
    shape = Architecture(depth, 2, norm)
    make = partial(ParallelSubnetworks, fit_intercept=bias, architecture=shape)
    name = f"parallel, depth {depth}, {norm} norm, bias {bias}"
    return Case(name, make, inner_norms=INNER_NORMS[norm])


def filters(window, largest, bias, strides=1, margin=0):
    layout = Layout((3,), 1, (2,), (strides,), (0,), (margin,), (window,), largest)
    name = f"filters, {'max' if largest else 'mean'} of {window}, bias {bias}"
    make = partial(
        Convolution, fit_intercept=bias, layout=layout, centre=np.array([0.2, -0.1])
    )
    return Case(f"{name}, {layout.n_windows} windows", make, layout=layout)


CASES = [
    *(two_layer(slope, bias) for slope in (0.0, 0.3, -1.0) for bias in (False, True)),
    *(
        parallel(depth, norm, bias)
        for depth in (3, 4)
        for norm in INNER_NORMS
        for bias in (False, True)
    ),
    *(
        filters(window, largest, bias, *others)
        for window, largest, *others in (
            (1, False),
            (2, False),
            (2, True),
            (1, False, 1, 1),
            (2, True, 1, 2),
        )
        for bias in (False, True)
    ),
]


def seeded(seed=0):
    return np.random.RandomState(seed)


def spread_data():
    """Data without structure, whose features are not of one scale."""
    return seeded(1).standard_normal((N_SAMPLES, 3)) * [2.0, 1.0, 0.5] + [0.3, 0.0, 0.0]


def narrow_data():
    """Data close to a line through the origin, on which slopes get to their bounds."""
    along = np.linspace(-1.0, 1.0, N_SAMPLES)[:, None] * [0.6, -0.8, 0.0]
    return along + 1e-7 * seeded(2).standard_normal(along.shape)


def network_of(family, n_outputs=2, seed=0):
    rng = seeded(seed)
    units = family.random(N_UNITS, rng)
    outputs = rng.standard_normal((len(units), family.n_windows * n_outputs))
    return Network(units, outputs, rng.standard_normal(n_outputs))


def networks(family):
    """Networks of random units, of units that are active everywhere, and of none."""
    network = network_of(family)
    yield network
    yield network_of(family, n_outputs=1, seed=1)
    yield network.select(slice(0, 0))
    if family.fit_intercept:
        coefs, intercepts = family.layers(network)
        high = [1.0 + 10.0 * np.abs(family.X).sum() + b for b in intercepts[:-1]]
        yield family.network_of_layers(coefs, [*high, intercepts[-1]])


def problem_for(family, network):
    """A training problem to which a network of the family belongs."""
    Y = seeded(3).standard_normal((len(family.X), len(network.offset)))
    weight = np.ones(len(Y))
    return Problem(family, Y, weight, Separable(loss_of("squared_error")), ALPHA)


def outputs(family, network):
    return problem_for(family, network).outputs(network)


def pooled_by_hand(case, X, W, b):
    """Maps of filters, patch by patch, those of a window next to each other."""
    layout, centre = case.layout, case.make.keywords["centre"]
    X = np.column_stack([X, np.zeros((len(X), layout.after[0]))])
    maps = []
    for first in range(0, layout.n_patches, layout.window_size):
        outputs = []
        for place in range(first, first + layout.window_size):
            at = place * layout.strides[0]
            patch = X[:, at : at + layout.kernel[0]] - centre
            outputs.append(np.maximum(patch @ W + b, 0.0))
        maps.append(np.max(outputs, 0) if layout.largest else np.mean(outputs, 0))
    return np.hstack(maps)


def mlp(case, X, coefs, intercepts):
    """Outputs of an MLP, or of a layer of filters and a dense one."""
    if case.layout is not None:
        Z = pooled_by_hand(case, X, coefs[0], intercepts[0])
        return Z @ coefs[1] + intercepts[1]
    for W, b in zip(coefs[:-1], intercepts[:-1]):
        z = X @ W + b
        X = np.where(z > 0, z, 0.0)
    return np.where(z > 0, z, case.negative_slope * z) @ coefs[-1] + intercepts[-1]


def dual_points(family):
    """Dual points, some of them along the data, where units are the steepest."""
    rng, X = seeded(4), family.X.astype(np.float64)
    z = X @ np.linalg.svd(X, full_matrices=False)[2][0]
    columns = [z > 0, z, np.arange(len(z)) == 3, 0.0 * z]
    points = [np.array(column, dtype=float)[:, None] for column in columns]
    points += [z[:, None] * [1.0, -2.0, 2.0]]
    points += [family.features(family.random(2, rng), dtype=np.float64)]
    return [N - family.fit_intercept * N.mean(axis=0) for N in points]


def assert_same(actual, wanted, rounding=ROUNDING):
    assert_allclose(
        actual, wanted, rtol=0, atol=rounding * np.max(np.abs(wanted), initial=1e-300)
    )


def check_adjoint(case):
    """Slopes are those of the features, and their norms over the outputs."""
    family, rng = case.make(spread_data()), seeded()
    units = family.random(N_UNITS, rng)
    V = rng.standard_normal((len(units), 3 * family.n_windows))
    N = rng.standard_normal((N_SAMPLES, 3))
    F = family.features(units) @ family.dense(V)
    slopes = family.slopes_by_output(units, N)
    assert_array_equal(family.grouped(family.dense(V)), V)
    size = np.linalg.norm(F) * np.linalg.norm(N)
    assert abs(np.sum(F * N) - np.sum(V * slopes)) <= ROUNDING * size
    assert_same(family.slopes(units, N), np.sqrt(np.sum(slopes**2, axis=1)))


def check_rows(case):
    """Some rows after the other are all of them."""
    family = case.make(spread_data())
    network, every, N = (
        network_of(family),
        np.arange(N_SAMPLES),
        seeded().standard_normal((N_SAMPLES, 2)),
    )
    Z, slopes = family.features(network.units), family.slopes(network.units, N)
    F = outputs(family, network)
    for width in (0, 1, N_UNITS, 500_000, 10**9):
        chunks = [every[rows] for rows in family.row_chunks(width)]
        assert_array_equal(np.concatenate(chunks), every)
    for rows in (slice(3, 9), slice(10, 30), slice(5, 5)):
        assert_same(family.features(network.units, rows), Z[rows])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "_CHUNK", 30)
        patch.setattr(convolution, "_CHUNK", 30)
        assert len(family.row_chunks(N_UNITS)) > 1
        assert_same(family.slopes(network.units, N), slopes)
        assert_same(outputs(family, network), F)


def check_precision(case):
    """Features have the precision that is asked for; what decides on bounds, double."""
    for X in (spread_data(), narrow_data()):
        X = X.astype(np.float32)
        single, double = case.make(X), case.make(X.astype(np.float64))
        units = double.random(N_UNITS, seeded())
        for family, own in ((single, np.float32), (double, np.float64)):
            assert family.features(units).dtype == own
            for dtype in (np.float32, np.float64):
                assert family.features(units, dtype=dtype).dtype == dtype
        Z = double.features(units)
        assert_same(single.features(units, dtype=np.float64), Z)
        assert np.max(np.abs(single.features(units) - Z)) <= 1e-5 * np.max(np.abs(X))
        for N in dual_points(double):
            slopes = single.slopes(units, N)
            assert slopes.dtype == np.float64
            # Relative to those without cancellation.
            size = np.linalg.norm(Z) * np.linalg.norm(N)
            assert np.all(np.abs(slopes - double.slopes(units, N)) <= ROUNDING * size)
    # Where slopes get to their bound.
    N = dual_points(double)[0]
    found = double.search(N, N_UNITS, seeded(6)).units
    assert_below(double.slopes(found, N), single.upper_slope(N))


def check_cost(case):
    """Units cost one: sizes are the weight decay of the weights."""
    family = case.make(spread_data())
    N = seeded().standard_normal((N_SAMPLES, 2))
    N -= family.fit_intercept * N.mean(axis=0)
    found = family.search(N, 2, seeded()).units
    ones = np.ones((len(found), 2 * family.n_windows))
    found = Network(found, ones, np.zeros(2))
    for network in (*networks(family), found):
        problem = problem_for(family, network)
        coefs, _ = family.layers(network)
        decay = 0.5 * ALPHA * sum(np.sum(W**2) for W in coefs[-2:])
        assert_allclose(ALPHA * np.sum(network.sizes), decay, rtol=ROUNDING)
        loss = problem.value(problem.outputs(network))
        assert_allclose(problem.objective(network), loss + decay, rtol=ROUNDING)
        for W in coefs[:-2]:
            width = W.shape[1] // max(len(network), 1)
            columns = np.linalg.norm(W, axis=0).reshape(len(network), width)
            assert np.all(case.inner_norms(columns) <= 1.0)


def check_predictions(case):
    """The weights are those of an MLP with the outputs of the network."""
    family = case.make(spread_data())
    for network in networks(family):
        coefs, intercepts = family.layers(network)
        F = mlp(case, family.X, coefs, intercepts)
        assert_same(F, outputs(family, network))
        if not family.fit_intercept:
            assert not any(np.any(b) for b in intercepts[:-1])


def check_there_and_back(case):
    """Weights of a network give it back, however they are divided over the layers."""
    family = case.make(spread_data())
    for network in networks(family):
        F, (coefs, intercepts) = outputs(family, network), family.layers(network)
        share = seeded().uniform(0.5, 2.0, len(network))
        *inner, last, final = coefs
        *biases, bias, offset = intercepts
        outgoing = np.tile(share, family.n_windows)[:, None]
        uneven = [*inner, last * share, final / outgoing]
        for weights, shifts in (
            (coefs, intercepts),
            (uneven, [*biases, bias * share, offset]),
        ):
            again = family.network_of_layers(weights, shifts)
            assert_same(outputs(family, again), F)
            assert_allclose(np.sort(again.sizes), np.sort(network.sizes), rtol=ROUNDING)
            assert_same(mlp(case, family.X, *family.layers(again)), F)


def assert_below(slopes, upper):
    assert slopes.max(initial=0.0) <= upper * (1.0 + 1e-14)


def check_bounds(case):
    """No unit is above the bound, and a search is worth more than chance."""
    for X in (spread_data(), narrow_data()):
        family = case.make(X)
        for N in dual_points(family):
            # Searches may climb from these random units.
            chance = family.slopes(family.random(N_UNITS, seeded(5)), N)
            candidates = family.search(N, N_UNITS, seeded(5))
            found = family.slopes(candidates.units, N)
            size = np.linalg.norm(X) * np.linalg.norm(N)
            assert_allclose(candidates.slopes, found, rtol=0, atol=ROUNDING * size)
            assert np.all(np.diff(candidates.slopes) <= 0)
            assert_below(np.append(chance, found), family.upper_slope(N))
            if chance.any():
                assert found.max() >= chance.max() * (1.0 - ROUNDING)


def maps(family, units):
    """Features of units, shape (n_samples, n_windows, n_units)."""
    shape = N_SAMPLES, family.n_windows, len(units)
    return family.features(units).reshape(shape)


def check_units(case):
    """No units, some of them, and those of two kinds."""
    family = case.make(spread_data())
    none, units = family.none(), family.random(N_UNITS, seeded())
    other, Z = family.random(3, seeded(1)), maps(family, units)
    assert len(none) == 0
    assert family.features(none).shape == (N_SAMPLES, 0)
    assert family.slopes(none, np.ones((N_SAMPLES, 2))).shape == (0,)
    assert len(units) == Z.shape[2] > 2
    for keep in (slice(1, 3), np.array([2, 0]), Z[0, 0] > 0):
        some = units.select(keep)
        assert len(some) == Z[..., keep].shape[2]
        assert_same(maps(family, some), Z[..., keep])
    for first, second in ((units, other), (none, units), (units, none)):
        both = first.joined(second)
        assert len(both) == len(first) + len(second)
        parts = maps(family, first), maps(family, second)
        assert_same(maps(family, both), np.concatenate(parts, axis=2))


def check_merging(case):
    """Fewer units, the same outputs, and no larger an objective."""
    family = case.make(spread_data())
    for network in networks(family):
        again = network.select(slice(None, None, 2))
        for factor in (0.5, -0.5, -1.0):
            # Some units twice, whose outputs add up or cancel.
            double = network.joined(replace(again, outputs=factor * again.outputs))
            merged, problem = family.merged(double), problem_for(family, network)
            assert len(merged) <= len(double)
            assert_same(problem.outputs(merged), problem.outputs(double))
            assert np.sum(merged.sizes) <= np.sum(double.sizes) * (1 + ROUNDING)
            small, before = simplify(problem, double), problem.objective(double)
            assert problem.objective(small) <= before * (1.0 + ROUNDING)
            assert len(small) <= len(network)


CHECKS = [
    check_adjoint,
    check_rows,
    check_precision,
    check_cost,
    check_predictions,
    check_there_and_back,
    check_bounds,
    check_units,
    check_merging,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__[6:])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_contract(case, check):
    check(case)


LEAKY, PATHS = two_layer(0.3, True), parallel(3, "path", False)


def with_method(name, method, case=LEAKY):
    """A case whose family has a method of its own."""
    family = type("Faulty", (case.make.func,), {name: method})
    return replace(case, make=partial(family, **case.make.keywords))


def faulty(name, change, case=LEAKY):
    """A case whose family gives something else than what its method would."""
    own = getattr(case.make.func, name)

    def method(self, *args, **options):
        return change(own(self, *args, **options))

    return with_method(name, method, case)


def of_the_steepest_output(family, N):
    return max(TwoLayer.upper_slope(family, nu[:, None]) for nu in N.T)


def without_norms(family, units, N):
    return np.abs(family.slopes_by_output(units, N)).sum(axis=1)


def by_chance(family, N, size, rng):
    units = family.random(1, rng)
    return Candidates(units, family.slopes(units, N))


def uneven(layers):
    (hidden, final), (bias, offset) = layers
    return [2.0 * hidden, 0.5 * final], [2.0 * bias, offset]


def long_at_first(layers):
    return [2.0 * layers[0][0], *layers[0][1:]], layers[1]


def longer(units):
    return replace(units, directions=2.0 * units.directions, biases=2.0 * units.biases)


FAULTS = {
    "features": (faulty("features_in_place", lambda Z: 2.0 * Z), check_predictions),
    "copy": (faulty("features", lambda Z: 2.0 * Z), check_adjoint),
    "dtype": (faulty("features", lambda Z: Z.astype(np.float64)), check_precision),
    "rows": (faulty("row_chunks", lambda rows: rows[1:] or rows), check_rows),
    "adjoint": (faulty("slopes_by_output", lambda slopes: 0.5 * slopes), check_adjoint),
    "norms": (with_method("slopes", without_norms), check_adjoint),
    "single": (faulty("slopes", lambda slopes: slopes.astype("f")), check_precision),
    "length": (faulty("random", longer), check_cost),
    "inner norms": (faulty("layers", long_at_first, PATHS), check_cost),
    "balance": (faulty("layers", uneven), check_cost),
    "weights": (
        faulty("layers", lambda layers: ([2.0 * W for W in layers[0]], layers[1])),
        check_predictions,
    ),
    "way back": (
        faulty("network_of_layers", lambda net: replace(net, outputs=2 * net.outputs)),
        check_there_and_back,
    ),
    "bound": (faulty("upper_slope", lambda slope: 0.5 * slope), check_bounds),
    "one output": (with_method("upper_slope", of_the_steepest_output), check_bounds),
    "leaves": (
        faulty("upper_slope", lambda slope: slope / np.sqrt(2.0), PATHS),
        check_bounds,
    ),
    "search": (
        with_method("search", by_chance),
        check_bounds,
    ),
    "none": (
        with_method("none", lambda family: family.random(1, seeded())),
        check_units,
    ),
    "merged": (faulty("merged", lambda net: net.select(slice(1, None))), check_merging),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_contract_notices(fault):
    case, check = FAULTS[fault]
    with pytest.raises(AssertionError):
        check(case)
