from time import perf_counter

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sklearn_convexnn.families.two_layer.branch_and_bound import maximise_slope
from sklearn_convexnn.families.two_layer.vector_branch_and_bound import (
    _cone_bounds,
    _reduce,
    _Search,
    maximise_vector_slope,
)
from sklearn_convexnn.model.neurons import activation

SLOPES = (0.0, 0.1, -1.0)


def random_problem(seed, r, *, bias, n_max=10):
    rng = np.random.default_rng(seed)
    n, c = rng.integers(r + 1, n_max + 1), rng.integers(2, 6)
    X, N = rng.standard_normal((n, r)), rng.standard_normal((n, c))
    if bias:
        N -= N.mean(axis=0)
    return X, N


def slopes_at(X, N, U, negative_slope, *, pivot=None):
    """Slopes of the rows of `U`, with the sample `pivot` on the hyperplane."""
    Z = U @ (X if pivot is None else X - X[pivot]).T
    return np.linalg.norm(activation(Z, negative_slope) @ N, axis=1)


def pivots_of(X, bias):
    return range(len(X)) if bias else [None]


def sampled_slope(X, N, *, free_bias, negative_slope=0.0, n_starts=300, seed=0):
    """Best of many directions, improved by power iterations on their cells."""
    rng = np.random.default_rng(seed)
    U = rng.standard_normal((n_starts, X.shape[1]))
    best = 0.0
    for pivot in pivots_of(X, free_bias):
        Z = X if pivot is None else X - X[pivot]
        W = U / np.linalg.norm(U, axis=1, keepdims=True)
        for _ in range(30):
            best = max(best, slopes_at(X, N, W, negative_slope, pivot=pivot).max())
            T = W @ Z.T
            pull = np.where(T > 0, 1.0, negative_slope) * (
                activation(T, negative_slope) @ N @ N.T
            )
            W = W + pull @ Z / np.linalg.norm(N) ** 2
            W /= np.linalg.norm(W, axis=1, keepdims=True)
    return best


def enumerated_slope(X, N, *, free_bias, negative_slope=0.0):
    """Slope of data in the plane, from the norm of the matrix of each cell."""
    best = 0.0
    for pivot in pivots_of(X, free_bias):
        Z = X if pivot is None else X - X[pivot]
        Z, M = Z[np.any(Z != 0, axis=1)], N[np.any(Z != 0, axis=1)]
        normals = np.arctan2(Z[:, 1], Z[:, 0])
        kinks = np.sort(np.mod(np.r_[normals, normals + np.pi] + np.pi / 2, 2 * np.pi))
        for left, right in zip(kinks, np.r_[kinks[1:], kinks[:1] + 2 * np.pi]):
            middle = 0.5 * (left + right)
            signs = Z @ [np.cos(middle), np.sin(middle)] > 0
            cell = M.T @ (np.where(signs, 1.0, negative_slope)[:, None] * Z)
            ends = [[np.cos(left), np.sin(left)], [np.cos(right), np.sin(right)]]
            best = max(best, np.linalg.norm(ends @ cell.T, axis=1).max())
            _, singular, Vt = np.linalg.svd(cell)
            for v in (Vt[0], -Vt[0]):
                if np.mod(np.arctan2(v[1], v[0]) - left, 2 * np.pi) < right - left:
                    best = max(best, singular[0])
    return best


def assert_valid(maximum, X, N, known, negative_slope=0.0):
    """The bracket contains a slope `known` to be attained, and its neuron is true."""
    assert maximum.lower <= maximum.upper
    assert maximum.upper >= known * (1 - 1e-12)
    f = N.T @ activation(X @ maximum.direction + maximum.bias, negative_slope)
    assert_allclose(np.linalg.norm(f), maximum.lower, rtol=1e-12, atol=1e-13)
    if maximum.lower > 0:
        assert_allclose(np.linalg.norm(maximum.direction), 1.0)
        assert_allclose(maximum.outputs, f / np.linalg.norm(f))
    else:
        assert not np.any(maximum.direction) and not np.any(maximum.outputs)


@pytest.mark.parametrize("negative_slope", SLOPES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("r", [1, 2, 3, 4])
def test_brackets_the_best_of_many_neurons(r, bias, negative_slope):
    geometry = {"free_bias": bias, "negative_slope": negative_slope}
    for seed in range(1 if r == 4 and bias else 3):
        X, N = random_problem(seed, r, bias=bias, n_max=7)
        maximum = maximise_vector_slope(X, N, rtol=1e-3, **geometry)
        known = sampled_slope(X, N, **geometry)
        assert maximum.status == "optimal"
        assert maximum.upper <= maximum.lower * (1 + 1e-3) * (1 + 1e-9)
        assert maximum.lower >= known * (1 - 1e-3)
        assert_valid(maximum, X, N, known, negative_slope)


@pytest.mark.parametrize("negative_slope", SLOPES)
@pytest.mark.parametrize("bias", [False, True])
def test_is_exact_in_the_plane(bias, negative_slope):
    geometry = {"free_bias": bias, "negative_slope": negative_slope}
    for seed in range(8):
        X, N = random_problem(seed, 2, bias=bias)
        exact = enumerated_slope(X, N, **geometry)
        maximum = maximise_vector_slope(X, N, **geometry)
        assert_allclose([maximum.lower, maximum.upper], exact, rtol=1e-10)
        assert_valid(maximum, X, N, exact, negative_slope)


@pytest.mark.parametrize("negative_slope", SLOPES)
@pytest.mark.parametrize("bias", [False, True])
def test_cones_agree_with_cells_in_the_plane(bias, negative_slope):
    geometry = {"free_bias": bias, "negative_slope": negative_slope}
    for seed in range(4):
        X, N = random_problem(seed, 2, bias=bias)
        exact = enumerated_slope(X, N, **geometry)
        search = _Search(_reduce(X, N, *geometry.values()), np.inf, np.inf)
        search.over_cones(lambda found=search: found.value * (1 + 1e-6))
        assert exact * (1 - 1e-12) <= search.upper <= exact * (1 + 2e-6)


@pytest.mark.parametrize("negative_slope", [*SLOPES, 0.9])
@pytest.mark.parametrize("r, n_problems", [(2, 60), (3, 20), (4, 5)])
def test_cone_bounds_hold(r, n_problems, negative_slope):
    """For wide and narrow cones, and few samples, with which they are tight."""
    rng = np.random.default_rng(r)
    for seed in range(n_problems):
        X, N = random_problem(seed, r, bias=False, n_max=r + 2)
        if seed % 2:
            # Nearly collinear, with which the signs of products matter most.
            N = N[:, :1] * N[0] + 0.1 * N
        parts = _reduce(X, N, False, negative_slope)
        centres = rng.standard_normal((300, 1, r))
        widths = 2.0 * 10.0 ** -(6.0 * rng.uniform(size=(300, 1, 1)) ** 4)
        V = centres / np.linalg.norm(centres, axis=2, keepdims=True)
        V = V + widths * rng.standard_normal((300, r, r))
        V /= np.linalg.norm(V, axis=2, keepdims=True)
        V = V[np.all(V @ V.transpose(0, 2, 1) > 0, axis=(1, 2))]
        orthants = np.linalg.qr(rng.standard_normal((200, r, r)))[0]
        orthants += 0.1 * orthants.sum(axis=1, keepdims=True)
        orthants /= np.linalg.norm(orthants, axis=2, keepdims=True)
        V = np.concatenate([V, orthants])
        bounds, heights = _cone_bounds(parts, V, np.zeros(len(V), dtype=int))
        inside = rng.dirichlet(np.full(r, 0.5), (len(V), 60)) @ V
        inside = np.concatenate([V, inside], axis=1)
        inside /= np.linalg.norm(inside, axis=2, keepdims=True)
        features = parts.activations(inside @ parts.rows.T)
        values = np.linalg.norm(features @ parts.weights, axis=2)
        assert_allclose(heights, values[:, :r], rtol=1e-12)
        assert np.all(bounds * (1 + 1e-11) + parts.slack >= values.max(axis=1))


def test_cone_bounds_close_quadratically():
    rng = np.random.default_rng(0)
    X, N = rng.standard_normal((30, 3)), rng.standard_normal((30, 4))
    parts = _reduce(X, N, False, 0.0)
    centres = rng.standard_normal((500, 1, 3))
    centres /= np.linalg.norm(centres, axis=2, keepdims=True)
    directions = rng.standard_normal((500, 3, 3))
    gaps = []
    for width in (1e-2, 1e-3):
        V = centres + width * directions
        V /= np.linalg.norm(V, axis=2, keepdims=True)
        bounds, heights = _cone_bounds(parts, V, np.zeros(len(V), dtype=int))
        gaps.append(np.mean(bounds - heights.max(axis=1)))
    assert gaps[1] <= 0.02 * gaps[0]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("r", [2, 3])
def test_one_output_is_the_scalar_problem(r, bias):
    rng = np.random.default_rng(r)
    X, nu = rng.standard_normal((12, r)), rng.standard_normal(12)
    if bias:
        nu -= nu.mean()
    g = np.array([0.6, 0.0, -0.8])
    scalar = maximise_slope(X, nu, free_bias=bias, rtol=1e-6)
    for N in (nu[:, None], np.outer(nu, g)):
        maximum = maximise_vector_slope(X, N, free_bias=bias, rtol=1e-6)
        assert_allclose(maximum.upper, scalar.upper, rtol=2e-6)
        assert_valid(maximum, X, N, scalar.lower)
    assert_allclose(np.abs(maximum.outputs), np.abs(g), atol=1e-12)
    # Next to it is a problem of several outputs, which takes other ways.
    N[0, 1] += 1e-8
    N[1, 1] -= 1e-8
    maximum = maximise_vector_slope(X, N, free_bias=bias, rtol=1e-6)
    assert_allclose(maximum.upper, scalar.upper, rtol=2e-6)
    assert_allclose(maximum.lower, scalar.lower, rtol=2e-6)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("r", [2, 3])
def test_lies_between_slopes_of_single_outputs(r, bias):
    for seed in range(3):
        X, N = random_problem(seed, r, bias=bias)
        maximum = maximise_vector_slope(X, N, free_bias=bias)
        single = [maximise_slope(X, column, free_bias=bias) for column in N.T]
        assert maximum.upper >= max(found.lower for found in single) * (1 - 1e-12)
        total = np.linalg.norm([found.upper for found in single])
        assert maximum.lower <= total * (1 + 1e-12)


@pytest.mark.parametrize("negative_slope", SLOPES)
@pytest.mark.parametrize("bias", [False, True])
def test_degenerate_data(bias, negative_slope):
    geometry = {"free_bias": bias, "negative_slope": negative_slope}
    rng = np.random.default_rng(0)
    for d in (1, 2, 3):
        X, N = rng.standard_normal((8, d)), rng.standard_normal((8, 3))
        # Equal, antiparallel, parallel, nearly equal and zero samples.
        X[1], X[2], X[3], X[4], X[5] = X[0], -X[0], 2 * X[0], X[0] + 1e-12, 0.0
        N -= N.mean(axis=0)
        known = sampled_slope(X, N, n_starts=100, **geometry)
        maximum = maximise_vector_slope(X, N, rtol=1e-3, **geometry)
        assert maximum.upper <= maximum.lower * (1 + 1.1e-3)
        assert_valid(maximum, X, N, known, negative_slope)
        # The same data in a subspace of more features, and of more outputs.
        wide, tall = rng.standard_normal((d, 9)), rng.standard_normal((3, 6))
        wide, tall = np.linalg.qr(wide.T)[0].T, np.linalg.qr(tall.T)[0].T
        embedded = maximise_vector_slope(X @ wide, N @ tall, rtol=1e-3, **geometry)
        assert_allclose(embedded.upper, maximum.upper, rtol=1.1e-3)
        assert_valid(embedded, X @ wide, N @ tall, known, negative_slope)
        if bias:
            moved = maximise_vector_slope(X + 5.0, N, rtol=1e-3, **geometry)
            assert_allclose(moved.upper, maximum.upper, rtol=1.1e-3)
            assert_valid(moved, X + 5.0, N, known, negative_slope)


@pytest.mark.parametrize("bias", [False, True])
def test_nothing_to_gain(bias):
    X, N = np.ones((1, 3)), np.array([[3.0, 4.0]])
    zero = maximise_vector_slope(X, 0.0 * N, free_bias=bias)
    assert zero.upper == zero.lower == 0 and zero.status == "optimal"
    assert_valid(zero, X, 0.0 * N, 0.0)
    empty = maximise_vector_slope(0.0 * X, N * (not bias), free_bias=bias)
    assert empty.upper == empty.lower == 0 and empty.status == "optimal"
    if not bias:
        one = maximise_vector_slope(X, N, free_bias=False)
        assert_allclose([one.lower, one.upper], 5.0 * 3**0.5)


@pytest.mark.parametrize("bias", [False, True])
def test_bound_is_valid_whenever_the_search_ends(bias):
    rng = np.random.default_rng(0)
    X, N = rng.standard_normal((25, 3)), rng.standard_normal((25, 3))
    N -= N.mean(axis=0)
    full = maximise_vector_slope(X, N, free_bias=bias, rtol=1e-4)
    uppers = []
    for max_nodes in (0, 50, 2000 if bias else 60):
        part = maximise_vector_slope(
            X, N, free_bias=bias, rtol=1e-9, max_nodes=max_nodes
        )
        assert part.status == "node_limit"
        assert_valid(part, X, N, full.lower)
        uppers.append(part.upper)
    assert uppers[2] < uppers[1] <= uppers[0]
    late = maximise_vector_slope(X, N, free_bias=bias, deadline=perf_counter() - 1)
    assert late.status == "time_limit"
    assert_valid(late, X, N, full.lower)
    assert full.n_nodes > 0
    # Slopes below the known ones, or the target, are not separated.
    for stop in ({"lower": 1.2 * full.upper}, {"target": 1.2 * full.upper}):
        early = maximise_vector_slope(X, N, free_bias=bias, rtol=1e-4, **stop)
        assert early.status == "optimal" and early.n_nodes < full.n_nodes
        assert full.lower <= early.upper <= 1.2 * full.upper * (1 + 2e-4)
        assert_valid(early, X, N, full.lower)


@pytest.mark.parametrize("bias", [False, True])
def test_too_large_a_rank_has_a_bound_from_norms(bias):
    rng = np.random.default_rng(0)
    X, N = rng.standard_normal((12, 8)), rng.standard_normal((12, 3))
    N -= N.mean(axis=0)
    maximum = maximise_vector_slope(X, N, free_bias=bias)
    assert maximum.status == "too_large" and maximum.lower > 0
    known = sampled_slope(X, N, free_bias=bias)
    assert_valid(maximum, X, N, known)
    assert maximum.upper <= np.linalg.norm(X, 2) * np.linalg.norm(N, 2) * (1 + 1e-9)
    # Any slope is below a target above that.
    easy = maximise_vector_slope(X, N, free_bias=bias, target=2 * maximum.upper)
    assert easy.status == "optimal"


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scales(scale):
    X, N = random_problem(0, 3, bias=True)
    maximum = maximise_vector_slope(X, N, free_bias=True, rtol=1e-3)
    scaled = maximise_vector_slope(scale * X, scale * N, free_bias=True, rtol=1e-3)
    assert_allclose(scaled.upper, scale**2 * maximum.upper, rtol=1e-3)
    assert scaled.status == "optimal"


def test_what_is_left_out_is_added_to_the_bound():
    rng = np.random.default_rng(0)
    thin = np.array([1.0, 1.0, 5e-13])
    X, N = rng.standard_normal((4, 3)), rng.standard_normal((4, 3))
    # In the order that samples get.
    X = X[np.argsort(X[:, 0])]
    for x, n in ((X * thin, N), (X, N * thin)):
        parts = _reduce(x, n, False, 0.0)
        assert parts.basis.shape[1] + parts.outputs.shape[1] == 5
        residual = x - parts.rows @ parts.basis.T
        cut = np.linalg.norm(residual, axis=1) @ np.linalg.norm(n, axis=1)
        residual = n - parts.weights @ parts.outputs.T
        cut += np.linalg.norm(residual, axis=1) @ np.linalg.norm(x, axis=1)
        assert 0.99 * cut < parts.slack < 1e-10


@pytest.mark.parametrize("bias, n_nodes", [(False, 400), (True, 8000)])
def test_few_cones_are_enough(bias, n_nodes):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 3))
    N = np.maximum(X @ rng.standard_normal((3, 3)), 0.0)
    N -= N.mean(axis=0) + X @ np.linalg.lstsq(X, N - N.mean(axis=0))[0]
    N -= N.mean(axis=0)
    maximum = maximise_vector_slope(X, N, free_bias=bias, rtol=1e-3)
    assert maximum.status == "optimal"
    assert maximum.n_nodes <= n_nodes
