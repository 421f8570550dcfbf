from time import perf_counter

import cvxpy as cp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from sklearn_convexnn.families.two_layer.branch_and_bound import (
    _cone_bounds,
    maximise_slope,
)
from sklearn_convexnn.families.two_layer.slope_bounds import (
    norm_bound,
    planar_slope,
    semidefinite_bound,
    split_slope,
    triangle_bound,
)
from sklearn_convexnn.model.neurons import activation
from sklearn_convexnn.patterns.arrangements import enumerate_arrangement
from sklearn_convexnn.training.bounds import cone_slopes

# `cone_slopes` honours a free offset by a large weight, and is high by this.
EXACT = 1e-7


def random_problem(seed, *, binary=False):
    rng = np.random.default_rng(seed)
    n, d, bias = rng.integers(1, 11), rng.integers(1, 4), bool(rng.integers(2))
    slope = float(rng.choice([0.0, 0.3, -0.5, -1.0, 0.9]))
    X = rng.integers(0, 2, (n, d)) * 1.0 if binary else rng.standard_normal((n, d))
    nu = rng.standard_normal(n)
    if bias:
        nu -= nu.mean()
    return X, nu, {"free_bias": bias, "negative_slope": slope}


def exact_slope(X, nu, **geometry):
    arrangement = enumerate_arrangement(X, free_bias=geometry["free_bias"])
    return cone_slopes(X, nu, arrangement, **geometry).max()


def residual_problem(n, r, seed=0, bias=False):
    """Multipliers on which many different neurons are nearly as good."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, r))
    nu = np.sin(2 * X[:, 0]) + X[:, -1] ** 2
    nu -= nu.mean()
    for _ in range(300):
        found = maximise_slope(X, nu, free_bias=bias, max_nodes=0)
        feature = activation(X @ found.direction + found.bias)
        if bias:
            feature -= feature.mean()
        nu -= 0.05 * feature * (feature @ nu) / (feature @ feature)
    return X, nu


def assert_brackets(maximum, X, nu, exact, rtol, free_bias, negative_slope=0.0):
    assert maximum.upper >= exact * (1 - EXACT) - 1e-12
    assert maximum.lower <= exact * (1 + EXACT) + 1e-12
    assert maximum.lower <= maximum.upper
    if maximum.status == "optimal":
        assert maximum.upper <= maximum.lower * (1 + rtol) + 1e-10
    u, b = maximum.direction, maximum.bias
    slope = maximum.sign * nu @ activation(X @ u + b, negative_slope)
    assert_allclose(slope, maximum.lower, rtol=1e-12, atol=1e-14)
    assert np.linalg.norm(u) <= 1 + 1e-12
    assert free_bias or b == 0


@pytest.mark.parametrize("binary", [False, True])
def test_maximum_against_enumeration(binary):
    for seed in range(100):
        X, nu, geometry = random_problem(seed, binary=binary)
        maximum = maximise_slope(X, nu, **geometry)
        assert maximum.status == "optimal"
        exact = exact_slope(X, nu, **geometry)
        assert_brackets(maximum, X, nu, exact, 1e-4, **geometry)


@pytest.mark.parametrize("free_bias", [False, True])
def test_signs_against_enumeration(free_bias, monkeypatch):
    monkeypatch.setattr(
        "sklearn_convexnn.families.two_layer.branch_and_bound._MAX_CONE_RANK", 0
    )
    if free_bias:
        X, nu = residual_problem(16, 3, seed=3, bias=True)
    else:
        # Integers, for ties.
        rng = np.random.default_rng(2)
        X, nu = rng.integers(-2, 3, (16, 4)) * 1.0, rng.choice([-1.0, 1.0], 16)
    n_nodes = 0
    for slope in (0.0, 0.3, -1.0):
        geometry = {"free_bias": free_bias, "negative_slope": slope}
        exact = exact_slope(X, nu, **geometry)
        maximum = maximise_slope(X, nu, rtol=1e-6, **geometry)
        assert maximum.status == "optimal"
        assert_brackets(maximum, X, nu, exact, 1e-6, **geometry)
        n_nodes += maximum.n_nodes
    # Some of them have to branch.
    assert n_nodes > 12


@pytest.mark.parametrize("free_bias", [False, True])
def test_both_strategies_agree_where_maxima_are_nearly_tied(free_bias, monkeypatch):
    X, nu = residual_problem(16, 4, bias=free_bias)
    cones = maximise_slope(X, nu, free_bias=free_bias, rtol=1e-4)
    monkeypatch.setattr(
        "sklearn_convexnn.families.two_layer.branch_and_bound._MAX_CONE_RANK", 0
    )
    signs = maximise_slope(X, nu, free_bias=free_bias, rtol=1e-4)
    assert cones.status == signs.status == "optimal"
    assert cones.n_nodes > 100 and signs.n_nodes >= 2
    assert cones.lower <= signs.upper <= cones.lower * (1 + 2.1e-4)
    assert signs.lower <= cones.upper


def test_orthogonal_rows_have_a_closed_form():
    nu = np.random.default_rng(0).standard_normal(12)
    exact = max(np.linalg.norm(nu[nu > 0]), np.linalg.norm(nu[nu < 0]))
    maximum = maximise_slope(np.eye(12), nu, free_bias=False)
    assert maximum.status == "optimal"
    assert_brackets(maximum, np.eye(12), nu, exact, 1e-4, False)


def test_bounds_are_proven_and_ordered():
    for seed in range(40):
        X, nu, geometry = random_problem(seed)
        exact = exact_slope(X, nu, **geometry)
        triangle = triangle_bound(X, nu, **geometry)
        semidefinite = semidefinite_bound(X, nu, **geometry)
        norms = norm_bound(X, nu, **geometry)
        for bound in (triangle, semidefinite, norms):
            assert bound >= exact * (1 - EXACT)
        # The policy of the triangle relaxation is one of the linear ones.
        assert semidefinite <= triangle * (1 + 1e-4) + 1e-7
        if not geometry["free_bias"] and geometry["negative_slope"] == 0:
            lengths = np.linalg.norm(X, axis=1)
            rows = max(np.maximum(nu, 0) @ lengths, np.maximum(-nu, 0) @ lengths)
            assert triangle <= rows * (1 + 1e-9)


def usual_semidefinite_relaxation(X, nu):
    n, d = X.shape
    M = cp.Variable((1 + d + n, 1 + d + n), PSD=True)
    u, z = M[0, 1 : 1 + d], M[0, 1 + d :]
    U, Y, Z = M[1 : 1 + d, 1 : 1 + d], M[1 : 1 + d, 1 + d :], M[1 + d :, 1 + d :]
    constraints = [M[0, 0] == 1, cp.trace(U) <= 1, z >= 0, z >= X @ u]
    constraints.append(cp.diag(Z) == cp.diag(X @ Y))
    problem = cp.Problem(cp.Maximize(nu @ z), constraints)
    return problem.solve(solver=cp.CLARABEL)


@pytest.mark.slow
def test_linear_policies_tighten_the_usual_semidefinite_relaxation():
    ratios = []
    for seed in range(3):
        X, nu = residual_problem(14, 5, seed)
        usual = max(usual_semidefinite_relaxation(X, s * nu) for s in (1, -1))
        found = maximise_slope(X, nu, free_bias=False).lower
        ratios.append((semidefinite_bound(X, nu) / found, usual / found))
    ratios = np.array(ratios)
    assert np.all(ratios[:, 0] <= ratios[:, 1] + 1e-5)
    assert ratios[:, 0].max() < 1.01 < ratios[:, 1].max()


@pytest.mark.parametrize("slope", [0.0, 0.4, -1.0])
@pytest.mark.parametrize("d, free_bias", [(1, False), (2, False), (1, True), (2, True)])
def test_planar_slope_against_enumeration(d, free_bias, slope):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        X, nu = rng.standard_normal((20, d)), rng.standard_normal(20)
        if free_bias:
            nu -= nu.mean()
        geometry = {"free_bias": free_bias, "negative_slope": slope}
        exact = exact_slope(X, nu, **geometry)
        assert_allclose(planar_slope(X, nu, **geometry), exact, rtol=EXACT)


DEGENERATE = {
    "duplicate rows": [[1, 2, 0], [1, 2, 0], [0, 1, 1], [3, 0, 1], [0, 1, 1]],
    "zero rows": [[0, 0, 0], [1, 0, 2], [0, 0, 0], [0, 1, 1], [2, 1, 0]],
    "antiparallel": [[1, 2, 3], [-1, -2, -3], [-2, -4, -6], [0, 1, 0], [1, 0, 1]],
    "rank one": [[1, 2, 3], [-1, -2, -3], [3, 6, 9], [2, 4, 6], [0.5, 1, 1.5]],
    "rank two": [[1, 0, 1], [0, 1, 1], [1, 1, 2], [1, -1, 0], [2, 1, 3]],
    "all equal": [[1, 2, 3]] * 5,
    "all zero": [[0, 0, 0]] * 5,
    "one sample": [[1.0, 2.0, 2.0]],
    "large": [[1e8, 0, 1], [0, 1e8, 2], [3, 1, 1e8], [1e8, 1e8, 0], [5, 5e8, 1]],
}


@pytest.mark.parametrize("free_bias", [False, True])
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_data(name, free_bias):
    X = np.array(DEGENERATE[name], dtype=float)
    for nu in (
        [1, -2, 0.5, 0, 0.5],
        [1, 1, 2, 3, 1],
        [0, 0, 0, 0, 0],
        [-1, 0, 0, 0, 1],
    ):
        nu = np.array(nu[: len(X)], dtype=float)
        if free_bias:
            nu -= nu.mean()
        exact = exact_slope(X, nu, free_bias=free_bias, negative_slope=0.0)
        maximum = maximise_slope(X, nu, free_bias=free_bias)
        assert maximum.status == "optimal"
        assert_brackets(maximum, X, nu, exact, 1e-4, free_bias)
        for bound in (norm_bound, triangle_bound, semidefinite_bound):
            assert bound(X, nu, free_bias=free_bias) >= exact * (1 - EXACT) - 1e-12


def test_parallel_rows_are_merged():
    X = np.array([[1.0, 2.0], [3.0, 6.0], [-0.1, -0.2], [1.0, 0.0], [-1.0, 0.0]])
    parts = split_slope(X, np.array([1.0, 1.0, -30.0, 1.0, -1.0]), 1)
    # The first line has 1 + 3 - 3 times its length; the second one cancels.
    assert parts.convex.shape == (2, 2) and len(parts.concave) == 0
    assert_allclose(np.linalg.norm(parts.convex[1]), 0.5 * np.sqrt(5))


def test_binary_table():
    X = np.array(list(np.ndindex(2, 2, 2, 2)), dtype=float)
    X = np.vstack([X, X[:8]])
    nu = np.random.default_rng(0).standard_normal(len(X))
    nu -= nu.mean()
    maximum = maximise_slope(X, nu, free_bias=True)
    assert maximum.status == "optimal"
    exact = exact_slope(X, nu, free_bias=True, negative_slope=0.0)
    assert_brackets(maximum, X, nu, exact, 1e-4, True)


@pytest.mark.parametrize("shape", [(100, 6), (40, 20), (300, 40)])
@pytest.mark.parametrize("free_bias", [False, True])
def test_time_limit(shape, free_bias):
    rng = np.random.default_rng(0)
    X, nu = rng.standard_normal(shape), rng.standard_normal(shape[0])
    nu -= nu.mean()
    start = perf_counter()
    maximum = maximise_slope(X, nu, free_bias=free_bias, deadline=start + 0.3)
    assert perf_counter() - start < 2.0
    assert maximum.status in ("time_limit", "too_large")
    assert 0 < maximum.lower < maximum.upper
    assert maximum.upper <= norm_bound(X, nu, free_bias=free_bias)


@pytest.mark.parametrize("free_bias", [False, True])
def test_node_limit_gives_a_valid_bound(free_bias):
    rng = np.random.default_rng(0)
    X, nu = rng.standard_normal((14, 3)), rng.standard_normal(14)
    nu -= nu.mean()
    exact = exact_slope(X, nu, free_bias=free_bias, negative_slope=0.0)
    uppers = []
    for max_nodes in (0, 20, 200, 2000):
        maximum = maximise_slope(
            X, nu, free_bias=free_bias, rtol=1e-9, max_nodes=max_nodes
        )
        assert_brackets(maximum, X, nu, exact, 1e-9, free_bias)
        uppers.append(maximum.upper)
    assert uppers[0] > 1.1 * exact
    assert uppers == sorted(uppers, reverse=True)


@pytest.mark.parametrize("max_rank", [6, 0])
def test_upper_bound_needs_no_local_search(max_rank, monkeypatch):
    module = "sklearn_convexnn.families.two_layer.branch_and_bound."
    monkeypatch.setattr(module + "_MAX_CONE_RANK", max_rank)
    for name in ("climb", "polish"):
        monkeypatch.setattr(module + f"_Search.{name}", lambda *args: None)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        X, nu = rng.standard_normal((9, 3)), rng.standard_normal(9)
        geometry = {"free_bias": False, "negative_slope": 0.0}
        exact = exact_slope(X, nu, **geometry)
        # What is cut off must not be forgotten: the maximum is among it.
        maximum = maximise_slope(X, nu, lower=0.9 * exact, rtol=0.2, **geometry)
        assert exact * (1 - EXACT) <= maximum.upper <= 1.2001 * exact


@pytest.mark.parametrize("free_bias", [False, True])
@pytest.mark.parametrize("width", [1.0, 0.1, 1e-3, 1e-7])
def test_bounds_of_cones_against_sampling(width, free_bias):
    rng = np.random.default_rng(0)
    for r in (3, 5):
        X, nu = rng.standard_normal((12, r)), rng.standard_normal(12)
        nu -= nu.mean()
        parts = split_slope(X, nu, 1, free_bias=free_bias)
        U = rng.standard_normal((50, 1, r))
        U = np.abs(U + width * rng.standard_normal((50, r, r)))
        U /= np.linalg.norm(U, axis=-1, keepdims=True)
        V = parts.lift(U, parts.pivots()[0])
        heights = np.abs(V @ parts.convex.T).sum(-1)
        bounds = _cone_bounds(parts, V, U @ U.transpose(0, 2, 1), heights)
        weights = rng.exponential(size=(200, 1, r)) ** 2
        inside = (weights[:, None] @ V)[:, :, 0]
        assert np.all(parts.values(inside).max(axis=0) <= bounds * (1 + 1e-9) + 1e-9)
        if width <= 1e-3:
            middle = parts.values(V.sum(axis=1))
            positive = middle > 0.1 * middle.max()
            assert np.all(bounds[positive] <= middle[positive] + 50 * width)


def test_target_and_known_lower_bound_save_work():
    rng = np.random.default_rng(0)
    X, nu = rng.standard_normal((100, 4)), rng.standard_normal(100)
    full = maximise_slope(X, nu, free_bias=False)
    for options in ({"target": 1.2 * full.upper}, {"lower": 1.2 * full.upper}):
        early = maximise_slope(X, nu, free_bias=False, **options)
        assert early.status == "optimal"
        assert early.n_nodes < full.n_nodes
        assert full.lower <= early.upper <= 1.21 * full.upper


@pytest.mark.slow
@pytest.mark.parametrize(
    "n, r, free_bias", [(200, 5, False), (200, 4, True), (60, 6, False), (40, 10, True)]
)
def test_larger_problems_are_closed(n, r, free_bias):
    rng = np.random.default_rng(0)
    X, nu = rng.standard_normal((n, r)), rng.standard_normal(n)
    nu -= nu.mean()
    maximum = maximise_slope(
        X, nu, free_bias=free_bias, rtol=1e-3, deadline=perf_counter() + 60
    )
    assert maximum.status == "optimal"
    assert maximum.upper <= maximum.lower * (1 + 1e-3) * (1 + 1e-9)
