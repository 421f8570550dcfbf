import numpy as np
import pytest
from numpy.testing import assert_allclose

from sklearn_convexnn.programs.masked_operator import MaskedOperator


def explicit(operator, patterns):
    """The expanded matrices ``F`` and ``A`` that the operator never forms."""
    M, r = operator.M, operator.n_penalised
    masks = np.where(patterns, 1.0, operator.negative_slope)
    rows = operator.cone_rows
    # The pattern on a cone row is that of any sample with the same data.
    index = [np.flatnonzero((row == M).all(axis=1))[0] for row in rows]
    F, A = [], []
    for sign in (1, -1):
        for mask, pattern in zip(masks, patterns):
            F.append(sign * mask[:, None] * M)
            A.append(np.where(pattern[index], 1.0, -1.0)[:, None] * rows)
    if operator.linear:
        last = M.copy()
        last[:, r:] = 0
        F.append(last)
    return np.concatenate(F, axis=1), A


@pytest.fixture(params=[(False, 0.0), (True, 0.0), (True, -0.3)])
def problem(request):
    linear, slope = request.param
    rng = np.random.default_rng(0)
    M = rng.standard_normal((9, 4))
    M[5] = M[2]  # a repeated row constrains once
    M[7] = 0.0  # a zero row does not constrain
    patterns = (rng.standard_normal((6, 4)) @ M.T) > 0
    n_penalised = 3 if linear else 4
    operator = MaskedOperator(
        M, patterns, n_penalised, negative_slope=slope, linear=linear
    )
    return operator, *explicit(operator, patterns), rng


def random_theta(operator, rng):
    theta = rng.standard_normal((operator.n_blocks, operator.p))
    if operator.linear:
        theta[-1, operator.n_penalised :] = 0
    return theta


def test_shapes(problem):
    operator, *_ = problem
    assert operator.n_constraints == 7
    assert operator.n_cones == 12
    assert operator.n_blocks == 12 + operator.linear


def test_forward_and_adjoint(problem):
    operator, F, _, rng = problem
    theta, nu = random_theta(operator, rng), rng.standard_normal(9)
    assert_allclose(operator.forward(theta), F @ theta.ravel(), atol=1e-13)
    assert_allclose(operator.adjoint(nu).ravel(), F.T @ nu, atol=1e-13)


def test_cone_and_its_adjoint(problem):
    operator, _, A, rng = problem
    theta = random_theta(operator, rng)
    rho = rng.standard_normal((operator.n_cones, operator.n_constraints))
    slack, back = operator.cone(theta), operator.cone_adjoint(rho)
    for b, matrix in enumerate(A):
        assert_allclose(slack[b], matrix @ theta[b], atol=1e-13)
        assert_allclose(back[b], matrix.T @ rho[b], atol=1e-13)
    assert np.all(back[operator.n_cones :] == 0)


def test_cone_gram(problem):
    operator, _, A, rng = problem
    weights = rng.uniform(size=(operator.n_cones, operator.n_constraints))
    gram = operator.cone_gram(weights)
    for b, matrix in enumerate(A):
        assert_allclose(gram[b], matrix.T @ (weights[b][:, None] * matrix), atol=1e-13)
    assert np.all(gram[operator.n_cones :] == 0)


def test_feature_gram(problem, monkeypatch):
    operator, F, _, rng = problem
    B, p = operator.n_blocks, operator.p
    roots = rng.standard_normal((B, p, p))
    if operator.linear:
        roots[-1, :, operator.n_penalised :] = 0
    wide = np.zeros((B * p, B * p))
    for b in range(B):
        wide[b * p : (b + 1) * p, b * p : (b + 1) * p] = roots[b].T @ roots[b]
    expected = np.tril(F @ wide @ F.T)
    assert_allclose(
        np.tril(operator.feature_gram(roots, operator.masks)), expected, atol=1e-12
    )
    # In chunks of one pattern, and of three.
    for chunk in (1, 3 * 4 * 9):
        monkeypatch.setattr("sklearn_convexnn.programs.masked_operator.CHUNK", chunk)
        assert_allclose(
            np.tril(operator.feature_gram(roots, operator.masks)), expected, atol=1e-12
        )


def test_normal_matrix(problem, monkeypatch):
    operator, F, _, rng = problem
    weights = rng.uniform(size=9)
    p = operator.p
    distinct = np.r_[: operator.n_patterns * p, operator.n_cones * p : F.shape[1]]
    F = F[:, distinct]
    expected = np.tril(F.T @ (weights[:, None] * F))
    for chunk in (10**6, 1):
        monkeypatch.setattr("sklearn_convexnn.programs.masked_operator.CHUNK", chunk)
        assert_allclose(
            np.tril(operator.normal_matrix(weights, operator.masks)),
            expected,
            atol=1e-12,
        )
