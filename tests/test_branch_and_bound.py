from time import perf_counter

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sklearn_convexnn.families.two_layer.branch_and_bound import (
    _reduce,
    _Search,
    maximise_slope,
)
from sklearn_convexnn.families.two_layer.neurons import activation
from sklearn_convexnn.families.two_layer.signed_slope import SignedSlope
from sklearn_convexnn.families.two_layer.slope_bounds import (
    norm_bound,
    semidefinite_bound,
    triangle_bound,
)
from tests.slopes import (
    DEGENERATE,
    EXACT,
    exact_slope,
    random_column,
    residual_problem,
)

MODULE = "sklearn_convexnn.families.two_layer."
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
    f = N.reshape(len(X), -1).T @ activation(
        X @ maximum.direction + maximum.bias, negative_slope
    )
    assert_allclose(np.linalg.norm(f), maximum.lower, rtol=1e-12, atol=1e-13)
    if maximum.lower > 0:
        assert_allclose(np.linalg.norm(maximum.direction), 1.0)
        assert_allclose(maximum.outputs, f / np.linalg.norm(f))
    else:
        assert not np.any(maximum.direction) and not np.any(maximum.outputs)


def assert_brackets(maximum, X, nu, exact, rtol, free_bias, negative_slope=0.0):
    """The same where the largest slope of one output is known."""
    assert_valid(maximum, X, nu, exact * (1 - EXACT) - 1e-12, negative_slope)
    assert maximum.lower <= exact * (1 + EXACT) + 1e-12
    if maximum.status == "optimal":
        assert maximum.upper <= maximum.lower * (1 + rtol) + 1e-10
    assert free_bias or maximum.bias == 0


@pytest.mark.slow
@pytest.mark.parametrize("binary", [False, True])
def test_maximum_against_enumeration(binary):
    for seed in range(100):
        X, nu, geometry = random_column(seed, binary=binary)
        maximum = maximise_slope(X, nu, **geometry)
        assert maximum.status == "optimal"
        exact = exact_slope(X, nu, **geometry)
        assert_brackets(maximum, X, nu, exact, 1e-4, **geometry)


@pytest.mark.parametrize("negative_slope", SLOPES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("r", [1, 2, 3, 4])
def test_brackets_the_best_of_many_neurons(r, bias, negative_slope):
    geometry = {"free_bias": bias, "negative_slope": negative_slope}
    for seed in range(1 if r == 4 and bias else 3):
        X, N = random_problem(seed, r, bias=bias, n_max=7)
        maximum = maximise_slope(X, N, rtol=1e-3, **geometry)
        known = sampled_slope(X, N, **geometry)
        assert maximum.status == "optimal"
        assert maximum.upper <= maximum.lower * (1 + 1e-3) * (1 + 1e-9)
        assert maximum.lower >= known * (1 - 1e-3)
        assert_valid(maximum, X, N, known, negative_slope)


@pytest.mark.parametrize("slope", [0.0, 0.4, -1.0])
@pytest.mark.parametrize("d, free_bias", [(1, False), (2, False), (1, True), (2, True)])
def test_plane_against_enumeration(d, free_bias, slope):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        X, nu = rng.standard_normal((20, d)), rng.standard_normal(20)
        if free_bias:
            nu -= nu.mean()
        geometry = {"free_bias": free_bias, "negative_slope": slope}
        exact = exact_slope(X, nu, **geometry)
        maximum = maximise_slope(X, nu, **geometry)
        assert_allclose([maximum.lower, maximum.upper], exact, rtol=EXACT)


@pytest.mark.parametrize("negative_slope", SLOPES)
@pytest.mark.parametrize("bias", [False, True])
def test_is_exact_in_the_plane(bias, negative_slope):
    geometry = {"free_bias": bias, "negative_slope": negative_slope}
    for seed in range(8):
        X, N = random_problem(seed, 2, bias=bias)
        exact = enumerated_slope(X, N, **geometry)
        maximum = maximise_slope(X, N, **geometry)
        assert_allclose([maximum.lower, maximum.upper], exact, rtol=1e-10)
        assert_valid(maximum, X, N, exact, negative_slope)


@pytest.mark.parametrize("n_outputs", [1, 2])
@pytest.mark.parametrize("negative_slope", SLOPES)
@pytest.mark.parametrize("bias", [False, True])
def test_cones_agree_with_cells_in_the_plane(bias, negative_slope, n_outputs):
    geometry = {"free_bias": bias, "negative_slope": negative_slope}
    for seed in range(4):
        X, N = random_problem(seed, 2, bias=bias)
        N = N[:, :n_outputs]
        exact = enumerated_slope(X, N, **geometry)
        reduced = _reduce(X, N, bias)
        search = _Search(reduced.ceiling(**geometry), 0.0, 1e-6, np.inf)
        uppers = [search.branch(s, s.nodes()) for s in reduced.slopes(**geometry)]
        upper = max(uppers) * (1 + 1e-11) + reduced.slack
        assert exact * (1 - 1e-12) <= upper <= exact * (1 + 2e-6)


@pytest.mark.parametrize(
    "free_bias", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_signs_against_enumeration(free_bias, monkeypatch):
    monkeypatch.setattr(MODULE + "signed_slope._MAX_CONE_RANK", 0)
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
    monkeypatch.setattr(MODULE + "signed_slope._MAX_CONE_RANK", 0)
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


@pytest.mark.parametrize("negative_slope", SLOPES)
@pytest.mark.parametrize("bias", [False, True])
def test_degenerate_data_of_several_outputs(bias, negative_slope):
    geometry = {"free_bias": bias, "negative_slope": negative_slope}
    rng = np.random.default_rng(0)
    for d in (1, 2, 3):
        X, N = rng.standard_normal((8, d)), rng.standard_normal((8, 3))
        # Equal, antiparallel, parallel, nearly equal and zero samples.
        X[1], X[2], X[3], X[4], X[5] = X[0], -X[0], 2 * X[0], X[0] + 1e-12, 0.0
        N -= N.mean(axis=0)
        known = sampled_slope(X, N, n_starts=100, **geometry)
        maximum = maximise_slope(X, N, rtol=1e-3, **geometry)
        assert maximum.upper <= maximum.lower * (1 + 1.1e-3)
        assert_valid(maximum, X, N, known, negative_slope)
        # The same data in a subspace of more features, and of more outputs.
        wide, tall = rng.standard_normal((d, 9)), rng.standard_normal((3, 6))
        wide, tall = np.linalg.qr(wide.T)[0].T, np.linalg.qr(tall.T)[0].T
        embedded = maximise_slope(X @ wide, N @ tall, rtol=1e-3, **geometry)
        assert_allclose(embedded.upper, maximum.upper, rtol=1.1e-3)
        assert_valid(embedded, X @ wide, N @ tall, known, negative_slope)
        if bias:
            moved = maximise_slope(X + 5.0, N, rtol=1e-3, **geometry)
            assert_allclose(moved.upper, maximum.upper, rtol=1.1e-3)
            assert_valid(moved, X + 5.0, N, known, negative_slope)


@pytest.mark.parametrize("bias", [False, True])
def test_nothing_to_gain(bias):
    X, N = np.ones((1, 3)), np.array([[3.0, 4.0]])
    zero = maximise_slope(X, 0.0 * N, free_bias=bias)
    assert zero.upper == zero.lower == 0 and zero.status == "optimal"
    assert_valid(zero, X, 0.0 * N, 0.0)
    empty = maximise_slope(0.0 * X, N * (not bias), free_bias=bias)
    assert empty.upper == empty.lower == 0 and empty.status == "optimal"
    if not bias:
        one = maximise_slope(X, N, free_bias=False)
        assert_allclose([one.lower, one.upper], 5.0 * 3**0.5)


def test_binary_table():
    X = np.array(list(np.ndindex(2, 2, 2, 2)), dtype=float)
    X = np.vstack([X, X[:8]])
    nu = np.random.default_rng(0).standard_normal(len(X))
    nu -= nu.mean()
    maximum = maximise_slope(X, nu, free_bias=True)
    assert maximum.status == "optimal"
    exact = exact_slope(X, nu, free_bias=True, negative_slope=0.0)
    assert_brackets(maximum, X, nu, exact, 1e-4, True)


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
        maximum = maximise_slope(X, N, free_bias=bias, rtol=1e-6)
        assert_allclose(maximum.upper, scalar.upper, rtol=2e-6)
        assert_valid(maximum, X, N, scalar.lower)
    assert_allclose(np.abs(maximum.outputs), np.abs(g), atol=1e-12)
    # Next to it is a problem of several outputs, which takes other ways.
    N[0, 1] += 1e-8
    N[1, 1] -= 1e-8
    maximum = maximise_slope(X, N, free_bias=bias, rtol=1e-6)
    assert_allclose(maximum.upper, scalar.upper, rtol=2e-6)
    assert_allclose(maximum.lower, scalar.lower, rtol=2e-6)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("r", [2, 3])
def test_lies_between_slopes_of_single_outputs(r, bias):
    for seed in range(3):
        X, N = random_problem(seed, r, bias=bias)
        maximum = maximise_slope(X, N, free_bias=bias)
        single = [maximise_slope(X, column, free_bias=bias) for column in N.T]
        assert maximum.upper >= max(found.lower for found in single) * (1 - 1e-12)
        total = np.linalg.norm([found.upper for found in single])
        assert maximum.lower <= total * (1 + 1e-12)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scales(scale):
    X, N = random_problem(0, 3, bias=True)
    maximum = maximise_slope(X, N, free_bias=True, rtol=1e-3)
    scaled = maximise_slope(scale * X, scale * N, free_bias=True, rtol=1e-3)
    assert_allclose(scaled.upper, scale**2 * maximum.upper, rtol=1e-3)
    assert scaled.status == "optimal"


def test_what_is_left_out_is_added_to_the_bound():
    rng = np.random.default_rng(0)
    thin = np.array([1.0, 1.0, 5e-13])
    X, N = rng.standard_normal((4, 3)), rng.standard_normal((4, 3))
    # In the order that samples get.
    X = X[np.argsort(X[:, 0])]
    for x, n in ((X * thin, N), (X, N * thin)):
        parts = _reduce(x, n, False)
        assert parts.basis.shape[1] + parts.outputs.shape[1] == 5
        residual = x - parts.rows @ parts.basis.T
        cut = np.linalg.norm(residual, axis=1) @ np.linalg.norm(n, axis=1)
        residual = n - parts.weights @ parts.outputs.T
        cut += np.linalg.norm(residual, axis=1) @ np.linalg.norm(x, axis=1)
        assert 0.99 * cut < parts.slack < 1e-10


@pytest.mark.parametrize("free_bias", [False, True])
@pytest.mark.parametrize("width", [1.0, 0.1, 1e-3, 1e-7])
def test_bounds_of_cones_against_sampling(width, free_bias):
    rng = np.random.default_rng(0)
    for r in (3, 5):
        X, nu = rng.standard_normal((12, r)), rng.standard_normal(12)
        nu -= nu.mean()
        parts = SignedSlope.of(X, nu, free_bias=free_bias)
        U = rng.standard_normal((50, 1, r))
        U = np.abs(U + width * rng.standard_normal((50, r, r)))
        U /= np.linalg.norm(U, axis=-1, keepdims=True)
        V = parts.lift(U, parts.pivots()[0])
        bounds = parts.cone_bounds(V, U @ U.transpose(0, 2, 1))
        weights = rng.exponential(size=(200, 1, r)) ** 2
        inside = (weights[:, None] @ V)[:, :, 0]
        assert np.all(parts.values(inside).max(axis=0) <= bounds * (1 + 1e-9) + 1e-9)
        if width <= 1e-3:
            middle = parts.values(V.sum(axis=1))
            positive = middle > 0.1 * middle.max()
            assert np.all(bounds[positive] <= middle[positive] + 50 * width)


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
        reduced = _reduce(X, N, False)
        (slope,) = reduced.slopes(free_bias=False, negative_slope=negative_slope)
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
        bounds = slope.cone_bounds(V, V @ V.transpose(0, 2, 1))
        inside = rng.dirichlet(np.full(r, 0.5), (len(V), 60)) @ V
        inside = np.concatenate([V, inside], axis=1)
        inside /= np.linalg.norm(inside, axis=2, keepdims=True)
        highest = slope.values(inside).max(axis=1)
        assert np.all(bounds * (1 + 1e-11) + reduced.slack >= highest)


def test_cone_bounds_close_quadratically():
    rng = np.random.default_rng(0)
    X, N = rng.standard_normal((30, 3)), rng.standard_normal((30, 4))
    (slope,) = _reduce(X, N, False).slopes(free_bias=False, negative_slope=0.0)
    centres = rng.standard_normal((500, 1, 3))
    centres /= np.linalg.norm(centres, axis=2, keepdims=True)
    directions = rng.standard_normal((500, 3, 3))
    gaps = []
    for width in (1e-2, 1e-3):
        V = centres + width * directions
        V /= np.linalg.norm(V, axis=2, keepdims=True)
        bounds = slope.cone_bounds(V, V @ V.transpose(0, 2, 1))
        gaps.append(np.mean(bounds - slope.values(V).max(axis=1)))
    assert gaps[1] <= 0.02 * gaps[0]


@pytest.mark.parametrize("max_rank", [6, 0])
def test_upper_bound_needs_no_local_search(max_rank, monkeypatch):
    monkeypatch.setattr(MODULE + "signed_slope._MAX_CONE_RANK", max_rank)
    monkeypatch.setattr(_Search, "climb", lambda *args: None)
    monkeypatch.setattr(SignedSlope, "polish", lambda self, W: W)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        X, nu = rng.standard_normal((9, 3)), rng.standard_normal(9)
        geometry = {"free_bias": False, "negative_slope": 0.0}
        exact = exact_slope(X, nu, **geometry)
        # What is cut off must not be forgotten: the maximum is among it.
        maximum = maximise_slope(X, nu, target=1.08 * exact, rtol=0.2, **geometry)
        assert exact * (1 - EXACT) <= maximum.upper <= 1.2001 * exact


def test_target_saves_work():
    rng = np.random.default_rng(0)
    X, nu = rng.standard_normal((100, 4)), rng.standard_normal(100)
    full = maximise_slope(X, nu, free_bias=False)
    early = maximise_slope(X, nu, free_bias=False, target=1.2 * full.upper)
    assert early.status == "optimal"
    assert early.n_nodes < full.n_nodes
    assert full.lower <= early.upper <= 1.21 * full.upper


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


@pytest.mark.parametrize("bias", [False, True])
def test_bound_is_valid_whenever_the_search_ends(bias):
    rng = np.random.default_rng(0)
    X, N = rng.standard_normal((25, 3)), rng.standard_normal((25, 3))
    N -= N.mean(axis=0)
    full = maximise_slope(X, N, free_bias=bias, rtol=1e-4)
    uppers = []
    for max_nodes in (0, 50, 2000 if bias else 60):
        part = maximise_slope(X, N, free_bias=bias, rtol=1e-9, max_nodes=max_nodes)
        assert part.status == "node_limit"
        assert_valid(part, X, N, full.lower)
        uppers.append(part.upper)
    assert uppers[2] < uppers[1] <= uppers[0]
    late = maximise_slope(X, N, free_bias=bias, deadline=perf_counter() - 1)
    assert late.status == "time_limit"
    assert_valid(late, X, N, full.lower)
    assert full.n_nodes > 0
    # Slopes below the target are not separated.
    early = maximise_slope(X, N, free_bias=bias, rtol=1e-4, target=1.2 * full.upper)
    assert early.status == "optimal" and early.n_nodes < full.n_nodes
    assert full.lower <= early.upper <= 1.2 * full.upper * (1 + 2e-4)
    assert_valid(early, X, N, full.lower)


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
    assert maximum.upper <= norm_bound(X, nu, free_bias=free_bias) * (1 + 1e-9)


@pytest.mark.parametrize("bias", [False, True])
def test_too_large_a_rank_has_a_bound_from_norms(bias):
    rng = np.random.default_rng(0)
    X, N = rng.standard_normal((12, 8)), rng.standard_normal((12, 3))
    N -= N.mean(axis=0)
    maximum = maximise_slope(X, N, free_bias=bias)
    assert maximum.status == "too_large" and maximum.lower > 0
    known = sampled_slope(X, N, free_bias=bias)
    assert_valid(maximum, X, N, known)
    assert maximum.upper <= np.linalg.norm(X, 2) * np.linalg.norm(N, 2) * (1 + 1e-9)
    # Any slope is below a target above that.
    easy = maximise_slope(X, N, free_bias=bias, target=2 * maximum.upper)
    assert easy.status == "optimal"


@pytest.mark.parametrize("bias, n_nodes", [(False, 400), (True, 8000)])
def test_few_cones_are_enough(bias, n_nodes):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 3))
    N = np.maximum(X @ rng.standard_normal((3, 3)), 0.0)
    N -= N.mean(axis=0) + X @ np.linalg.lstsq(X, N - N.mean(axis=0))[0]
    N -= N.mean(axis=0)
    maximum = maximise_slope(X, N, free_bias=bias, rtol=1e-3)
    assert maximum.status == "optimal"
    assert maximum.n_nodes <= n_nodes


def test_ties_of_edges_cost_few_cones():
    rng = np.random.default_rng(0)
    X, nu = rng.standard_normal((60, 5)), rng.standard_normal(60)
    maximum = maximise_slope(X, nu, free_bias=False, rtol=1e-2)
    assert maximum.status == "optimal"
    # It would be 6470 if the first of the longest edges were always split.
    assert maximum.n_nodes <= 5500


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
