import cvxpy as cp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from sklearn_convexnn.families.two_layer.branch_and_bound import maximise_slope
from sklearn_convexnn.families.two_layer.slope_bounds import (
    norm_bound,
    semidefinite_bound,
    split_slope,
    triangle_bound,
)
from tests.slopes import (
    EXACT,
    exact_slope,
    random_column,
    residual_problem,
)


def test_bounds_are_proven_and_ordered():
    for seed in range(40):
        X, nu, geometry = random_column(seed)
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


def test_parallel_rows_are_merged():
    X = np.array([[1.0, 2.0], [3.0, 6.0], [-0.1, -0.2], [1.0, 0.0], [-1.0, 0.0]])
    parts = split_slope(X, np.array([1.0, 1.0, -30.0, 1.0, -1.0]), 1)
    # The first line has 1 + 3 - 3 times its length; the second one cancels.
    assert parts.convex.shape == (2, 2) and len(parts.concave) == 0
    assert_allclose(np.linalg.norm(parts.convex[1]), 0.5 * np.sqrt(5))
