import numpy as np
import pytest
from numpy.testing import assert_allclose

from sklearn_convexnn._utils.breakdown import least_squares
from sklearn_convexnn.families.two_layer.branch_and_bound import maximise_slope
from sklearn_convexnn.families.two_layer.cell_search import (
    cell_slope_bound,
    search_cells,
)
from sklearn_convexnn.families.two_layer.neurons import activation
from sklearn_convexnn.patterns.arrangements import (
    enumerate_arrangement,
    sample_arrangement,
    with_ones,
)
from sklearn_convexnn.training.bounds import cone_slopes

SLOPES = (0.0, 0.1, -1.0)


def random_problem(seed, n, d, c, *, free_bias):
    rng = np.random.default_rng(seed)
    X, N = rng.standard_normal((n, d)), rng.standard_normal((n, c))
    if free_bias:
        X, N = X + 3.0, N - N.mean(axis=0)
    return X, N


def each(arrangement, i):
    """One cell of an arrangement."""
    return type(arrangement)(arrangement.patterns[[i]], arrangement.gates[[i]], False)


def assert_valid(found, X, N, arrangement, *, free_bias, negative_slope=0.0):
    """The candidates lie in cells, attain their slopes and are sorted."""
    Z = found.directions @ X.T + found.biases[:, None]
    # Centred data are rounded by what they are shifted by.
    sides = np.sign(np.where(np.abs(Z) > 1e-9 * np.abs(X).max(), Z, 0.0))
    signs = np.where(arrangement.patterns, 1.0, -1.0)
    assert np.all(np.any(np.all(sides[:, None] * signs >= 0, axis=2), axis=1))
    assert_allclose(np.linalg.norm(found.directions, axis=1), 1.0)
    assert_allclose(np.linalg.norm(found.outputs, axis=1), 1.0)
    if not free_bias:
        assert not found.biases.any()
    f = activation(Z, negative_slope) @ N
    assert_allclose(np.sum(f * found.outputs, axis=1), found.slopes, rtol=1e-9)
    assert np.all(np.diff(found.slopes) <= 0)
    assert np.all(found.slopes > 0)


def arc_slope(X, N, pattern, gate, negative_slope):
    """Largest slope in a cell of the plane: on the arc, or at one of its ends."""
    A = N.T @ (np.where(pattern, 1.0, negative_slope)[:, None] * X)
    S = np.where(pattern, 1.0, -1.0)[:, None] * X
    rays = np.concatenate([X @ [[0, 1], [-1, 0]], X @ [[0, -1], [1, 0]]])
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    _, V = np.linalg.eigh(A.T @ A)
    points = np.concatenate([rays, V.T, -V.T, [gate / np.linalg.norm(gate)]])
    points = points[np.all(points @ S.T >= -1e-12, axis=1)]
    return np.linalg.norm(points @ A.T, axis=1).max()


def ascended_slope(X, N, pattern, gate, negative_slope, free_bias, rng):
    """Best of 200 points of a cell, and of an ascent from a few of them."""
    d, rows = X.shape[1], with_ones(X, free_bias)
    A = N.T @ (np.where(pattern, 1.0, negative_slope)[:, None] * rows)
    C = np.where(pattern, 1.0, -1.0)[:, None] * rows
    gate = gate / np.linalg.norm(gate[:d])
    ways = rng.standard_normal((200, rows.shape[1]))
    ratio = np.where(ways @ C.T < 0, -(C @ gate) / (ways @ C.T), 1e3)
    reach = rng.uniform(size=200) * ratio.min(axis=1)
    points = gate + reach[:, None] * ways
    points /= np.linalg.norm(points[:, :d], axis=1)[:, None]
    slopes = np.linalg.norm(points @ A.T, axis=1)
    best = slopes.max()
    for u in points[np.argsort(-slopes)[:10]]:
        for _ in range(8):
            # A step of any length from u is to be projected; long ones are best.
            target = u + 10.0 * A.T @ (A @ u) / np.sum(A**2)
            rho, _ = least_squares(C.T, -target)
            u = target + C.T @ rho
            u = np.where(np.linalg.norm(u[:d]) > 0, u / np.linalg.norm(u[:d]), gate)
            best = max(best, np.linalg.norm(A @ u))
    return best


@pytest.mark.parametrize("negative_slope", SLOPES)
def test_is_exact_in_the_plane(negative_slope):
    for seed in range(4):
        X, N = random_problem(seed, 9, 2, 3, free_bias=False)
        options = {"free_bias": False, "negative_slope": negative_slope}
        arrangement = enumerate_arrangement(X)
        exact = [
            arc_slope(X, N, p, g, negative_slope)
            for p, g in zip(arrangement.patterns, arrangement.gates)
        ]
        found = search_cells(X, N, arrangement, **options)
        assert_valid(found, X, N, arrangement, **options)
        assert_allclose(found.slopes[0], np.max(exact), rtol=1e-8)
        for i, slope in enumerate(exact):
            cell = each(arrangement, i)
            assert cell_slope_bound(X, N, cell, **options) >= slope * (1 - 1e-9)


@pytest.mark.parametrize("negative_slope", SLOPES)
@pytest.mark.parametrize("d", [1, 2])
def test_is_exact_over_all_cells_with_a_free_bias(d, negative_slope):
    options = {"free_bias": True, "negative_slope": negative_slope}
    for seed in range(3):
        X, N = random_problem(seed, 8, d, 3, free_bias=True)
        arrangement = enumerate_arrangement(X, free_bias=True)
        maximum = maximise_slope(X, N, **options)
        found = search_cells(X, N, arrangement, **options)
        assert_valid(found, X, N, arrangement, **options)
        assert_allclose(found.slopes[0], maximum.lower, rtol=1e-8)
        bound = cell_slope_bound(X, N, arrangement, **options)
        assert bound >= maximum.lower * (1 - 1e-9)


@pytest.mark.parametrize("negative_slope", SLOPES)
@pytest.mark.parametrize("free_bias", [False, True])
def test_candidates_are_feasible_and_bounded(free_bias, negative_slope):
    options = {"free_bias": free_bias, "negative_slope": negative_slope}
    for seed, (n, d, c) in enumerate(
        [(8, 1, 2), (20, 3, 2), (40, 8, 4), (15, 20, 3), (20, 3, 1)]
    ):
        X, N = random_problem(seed, n, d, c, free_bias=free_bias)
        arrangement = sample_arrangement(X, 12, free_bias=free_bias, random_state=0)
        found = search_cells(X, N, arrangement, **options)
        bound = cell_slope_bound(X, N, arrangement, **options)
        assert_valid(found, X, N, arrangement, **options)
        assert found.slopes[0] <= bound * (1 + 1e-9)
        if c == 1:
            exact = cone_slopes(X, N[:, 0], arrangement, **options).max()
            assert_allclose([found.slopes[0], bound], exact, rtol=1e-6)


@pytest.mark.parametrize("negative_slope", SLOPES)
@pytest.mark.parametrize("free_bias", [False, True])
def test_no_random_point_of_a_cell_is_steeper(free_bias, negative_slope):
    options = {"free_bias": free_bias, "negative_slope": negative_slope}
    rng = np.random.default_rng(0)
    X, N = random_problem(1, 25, 4, 3, free_bias=free_bias)
    arrangement = sample_arrangement(X, 12, free_bias=free_bias, random_state=1)
    for i in range(len(arrangement)):
        pattern, gate = arrangement.patterns[i], arrangement.gates[i]
        if free_bias and pattern.all() | ~pattern.any():
            continue
        found = search_cells(X, N, each(arrangement, i), n_starts=4, **options)
        known = ascended_slope(X, N, pattern, gate, negative_slope, free_bias, rng)
        assert found.slopes.max(initial=0.0) >= known * (1 - 1e-7)


@pytest.mark.parametrize("negative_slope", SLOPES)
@pytest.mark.parametrize("free_bias", [False, True])
def test_one_output_is_solved(free_bias, negative_slope):
    options = {"free_bias": free_bias, "negative_slope": negative_slope}
    for seed in range(3):
        X, N = random_problem(seed, 20, 3, 1, free_bias=free_bias)
        arrangement = sample_arrangement(X, 15, free_bias=free_bias, random_state=0)
        exact = cone_slopes(X, N[:, 0], arrangement, **options).max()
        found = search_cells(X, N, arrangement, **options)
        assert_allclose(found.slopes[0], exact, rtol=1e-6)
        assert_allclose(cell_slope_bound(X, N, arrangement, **options), exact, 1e-6)


@pytest.mark.parametrize("free_bias", [False, True])
@pytest.mark.parametrize("data", ["rank", "duplicates", "zeros", "scale", "constant"])
def test_degenerate_data(data, free_bias):
    X, N = random_problem(0, 16, 4, 3, free_bias=free_bias)
    if data == "rank":
        X[:, 2:] = X[:, :2] @ [[1.0, 2.0], [0.5, -1.0]]
    elif data == "duplicates":
        X[8:] = X[:8]
    elif data == "zeros":
        X[:5] = 0.0
    elif data == "scale":
        X, N = 1e6 * X, 1e-9 * N
    else:
        X[:] = X[0]
    arrangement = sample_arrangement(X, 20, free_bias=free_bias, random_state=0)
    found = search_cells(X, N, arrangement, free_bias=free_bias)
    bound = cell_slope_bound(X, N, arrangement, free_bias=free_bias)
    if data == "constant" and free_bias:
        # What is left of the slope of a constant is rounding.
        assert bound <= 1e-12
        return
    assert_valid(found, X, N, arrangement, free_bias=free_bias)
    assert 0 < found.slopes[0] <= bound * (1 + 1e-9)


@pytest.mark.parametrize("negative_slope", SLOPES)
def test_units_that_are_active_everywhere_are_linear(negative_slope):
    options = {"free_bias": True, "negative_slope": negative_slope}
    X, N = random_problem(0, 10, 3, 2, free_bias=True)
    arrangement = enumerate_arrangement(X, free_bias=True)
    steepest = np.linalg.norm(X.T @ N, ord=2)
    for on in (True, False):
        i = np.flatnonzero(np.all(arrangement.patterns == on, axis=1))[0]
        cell = each(arrangement, i)
        found = search_cells(X, N, cell, **options)
        size = steepest if on else abs(negative_slope) * steepest
        assert_allclose(found.slopes, [size] if size else [], rtol=1e-9)
        assert_allclose(cell_slope_bound(X, N, cell, **options), size, rtol=1e-9)
        Z = found.directions @ X.T + found.biases[:, None]
        assert np.all((Z > 0) == on)


@pytest.mark.parametrize("free_bias", [False, True])
def test_no_slope(free_bias):
    X, N = random_problem(0, 10, 3, 2, free_bias=free_bias)
    arrangement = sample_arrangement(X, 9, free_bias=free_bias, random_state=0)
    found = search_cells(X, 0.0 * N, arrangement, free_bias=free_bias)
    assert found.directions.shape == (0, 3)
    assert found.outputs.shape == (0, 2)
    assert cell_slope_bound(X, 0.0 * N, arrangement, free_bias=free_bias) == 0.0


def test_floor_leaves_out_what_is_below():
    X, N = random_problem(0, 30, 5, 3, free_bias=True)
    arrangement = sample_arrangement(X, 30, free_bias=True, random_state=0)
    everything = search_cells(X, N, arrangement, free_bias=True)
    floor = everything.slopes[3]
    found = search_cells(X, N, arrangement, floor=floor, free_bias=True)
    assert len(found) < len(everything)
    assert_allclose(found.slopes[:4], everything.slopes[:4])


@pytest.mark.parametrize("free_bias", [False, True])
def test_starts_are_climbed_from(free_bias):
    X, N = random_problem(3, 30, 5, 4, free_bias=free_bias)
    arrangement = sample_arrangement(X, 30, free_bias=free_bias, random_state=0)
    best = search_cells(X, N, arrangement, free_bias=free_bias, n_starts=8)
    starts = 7.0 * best.directions
    if free_bias:
        starts = np.column_stack([starts, 7.0 * best.biases])
    found = search_cells(
        X, N, arrangement, starts=starts, n_starts=0, free_bias=free_bias
    )
    assert found.slopes[0] >= best.slopes[0] * (1 - 1e-9)
