"""A lower bound for networks of several outputs from semidefinite programs.

Networks ``f(x) = offset + sum_j (x^T w_j)_+ v_j`` with the penalty
``alpha / 2 * sum_j (||w_j||^2 + ||v_j||^2)`` are a convex program over completely
positive matrices.  Its relaxation to positive semidefinite matrices is solved here,
for small problems, and a bound is computed from its dual solution.
"""

import warnings
from dataclasses import dataclass
from numbers import Real

import numpy as np
from scipy.optimize import minimize_scalar

from sklearn_convexnn._sklearn import Interval, check_parameters
from sklearn_convexnn._utils.breakdown import least_squares
from sklearn_convexnn.families.two_layer.family import TwoLayer
from sklearn_convexnn.model.problem import Problem
from sklearn_convexnn.model.results import SolverError

_CONSTRAINTS = {
    "alpha": [Interval(Real, 0, None, closed="neither")],
    "fit_intercept": ["boolean"],
}


@dataclass(frozen=True)
class LiftedBound:
    """A lower bound and the dual point that proves it.

    Attributes
    ----------
    value : float
        The largest dual objective of a multiple of `N` with the property below.
    N : ndarray of shape (n_samples, n_outputs)
        ``||N^T D_i X u|| <= alpha`` for all ``u`` in the unit ball with the pattern
        ``D_i``, of all patterns given.
    """

    value: float
    N: np.ndarray


def lifted_bound(X, Y, sample_weight, loss, alpha, arrangement, *, fit_intercept=False):
    r"""Lower bound for all networks with the given patterns.

    The relaxation is

    .. math::
        \min\ L\Big(\sum_i D_i X V_i + 1 b^T\Big)
        + \frac{\alpha}{2} \sum_i (\mathrm{tr} P_i + \mathrm{tr} Q_i)
        \quad \text{with} \quad
        \begin{pmatrix} P_i & V_i \\ V_i^T & Q_i \end{pmatrix} \succeq 0, \quad
        S_i X P_i X^T S_i \ge 0,

    with the signs ``S_i = 2 D_i - 1``.  Of the inequalities those that follow from
    the others are left out.  The value of the solver is not trusted:  for any
    non-negative ``R_i``, the largest slope of the dual function within pattern ``i``
    is at most the root of the largest eigenvalue of
    ``X^T D_i N N^T D_i X + X^T S_i R_i S_i X``, and the bound is the dual objective
    at a multiple of ``N`` for which none of these is above `alpha`.

    If `arrangement` holds all patterns of the rows of `X` without bias
    (``arrangement.complete``), this bounds every network of any width whose neurons
    have no bias, and with `fit_intercept` a free output bias.  Otherwise it bounds
    networks whose neurons have the given patterns.  Neurons with a penalised bias
    are those of ``[X 1]``: append the column to `X` and enumerate its patterns.
    Hidden biases without a penalty are not covered.

    If the rows of `X` span two dimensions or fewer the relaxation is exact, and the
    bound is the optimum over these networks up to the accuracy of the solver.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    Y : ndarray of shape (n_samples, n_outputs)
    sample_weight : ndarray of shape (n_samples,)
        Positive.
    loss : Separable or Softmax
    alpha : float
    arrangement : Arrangement
        Patterns of `X`, with gates of shape (n_patterns, n_features).
    fit_intercept : bool, default=False
        Whether the output biases are free.

    Returns
    -------
    bound : LiftedBound

    Raises
    ------
    ValueError
        If the patterns are those of hidden units with free biases.
    SolverError
        If the conic solver fails.

    References
    ----------
    .. [1] Sahiner, A., Ergen, T., Pauly, J. and Pilanci, M. (2021). "Vector-output
       ReLU Neural Network Problems are Copositive Programs: Convex Analysis of
       Two Layer Networks and Polynomial-time Algorithms". ICLR.
    """
    params = {"alpha": alpha, "fit_intercept": fit_intercept}
    check_parameters(_CONSTRAINTS, params, "lifted_bound")
    if arrangement.gates.shape[1] != X.shape[1]:
        raise ValueError(
            "arrangement has the patterns of hidden units with free biases, which "
            "the lifted bound does not cover; append a column of ones to X."
        )
    basis = _row_space(X)
    rows = X @ basis
    cells = [_facets(rows, pattern) for pattern in arrangement.patterns]
    N, multipliers = _solve(
        rows, Y, sample_weight, loss, alpha, arrangement, cells, fit_intercept
    )
    family = TwoLayer(X, fit_intercept)
    problem = Problem(family, Y, sample_weight, loss, alpha)
    N = problem.project(N)
    kappa = max(
        _slope_bound(rows[pattern].T @ N[pattern], multiplier)
        for pattern, multiplier in zip(arrangement.patterns, multipliers)
    )
    # Zero is in the domain of the dual objective, and so are smaller multiples.
    return LiftedBound(problem.bound(N, kappa), N * (alpha / max(alpha, kappa)))


def _row_space(X):
    """Orthonormal basis of the row space, as columns."""
    _, singular, Vt = np.linalg.svd(X, full_matrices=False)
    eps = np.finfo(float).eps * max(X.shape)
    return Vt[: max(int(np.sum(singular > eps * singular[:1])), 1)].T


def _facets(rows, pattern):
    """Unit normals ``F`` of the facets of the cell ``{u : F u >= 0}`` of a pattern.

    A normal that is a combination of the others with non-negative weights is
    implied by them, and so are its products with the others.  A wrong decision
    only makes the relaxation weaker.
    """
    signed = np.where(pattern[:, None], rows, -rows)
    norms = np.linalg.norm(signed, axis=1)
    normals = signed[norms > 0] / norms[norms > 0, None]
    kept = np.ones(len(normals), dtype=bool)
    for k in range(len(normals)):
        kept[k] = False
        if not kept.any() or least_squares(normals[kept].T, normals[k])[1] > 1e-9:
            kept[k] = True
    return normals[kept]


def _products(facets):
    """Symmetric matrices ``A_kl`` with ``p^T A_kl p = (F p)_k (F p)_l``."""
    k, other = np.triu_indices(len(facets))
    outer = facets[k][:, :, None] * facets[other][:, None, :]
    return 0.5 * (outer + np.swapaxes(outer, 1, 2))


def _solve(rows, Y, s, loss, alpha, arrangement, cells, fit_intercept):
    """Dual variables of the relaxation: of the outputs, and ``X^T S R S X``."""
    import cvxpy as cp

    n, c = Y.shape
    r = rows.shape[1]
    # As the solver of one output, in units of data, targets and objective.
    null = np.zeros(Y.shape)
    if fit_intercept:
        null = null + loss.best_offset(null, Y, s)
    size = np.sqrt(np.mean(np.sum(rows**2, axis=1))) or 1.0
    objective = loss.value(null, Y, s) or float(np.sum(s))
    scaled = loss.scaled(Y, s, fit_intercept)
    unit, s = scaled.output, s * (scaled.value / objective)
    rows, alpha = rows / size, alpha * unit / (size * objective)
    F = cp.Variable((n, c))
    outputs = np.zeros((n, c))
    traces, positive, constraints = 0.0, [], []
    for pattern, facets in zip(arrangement.patterns, cells):
        lifted = cp.Variable((r + c, r + c), PSD=True)
        outputs = outputs + (pattern[:, None] * rows) @ lifted[:r, r:]
        traces = traces + cp.trace(lifted)
        flat = _products(facets).reshape(-1, r * r)
        positive.append(flat @ cp.vec(lifted[:r, :r], order="C") >= 0)
    if fit_intercept:
        offset = cp.Variable((1, c))
        outputs = outputs + np.ones((n, 1)) @ offset
    link = outputs == F
    constraints = [link, *positive]
    fit = scaled.loss.expression(cp, F, scaled.y, s)
    problem = cp.Problem(cp.Minimize(fit + 0.5 * alpha * traces), constraints)
    try:
        with warnings.catch_warnings():
            # The bound holds for inaccurate solutions as well.
            warnings.filterwarnings("ignore", message="Solution may be inaccurate")
            problem.solve(solver="CLARABEL")
    except cp.error.SolverError as error:
        raise SolverError(f"the conic solver CLARABEL failed: {error}") from error
    if F.value is None:
        raise SolverError(f"CLARABEL ended with status '{problem.status}'.")
    slope = objective / unit
    multipliers = [
        slope
        * size
        * np.tensordot(np.maximum(constraint.dual_value, 0.0), _products(facets), 1)
        for constraint, facets in zip(positive, cells)
    ]
    # The Schur complement of the dual constraint of the lifted matrix turns the
    # multipliers of the solver into those of the slopes.
    alpha *= slope * size
    N = -slope * np.asarray(link.dual_value)
    return N, [2.0 * alpha * A for A in multipliers]


def _slope_bound(cross, multiplier):
    """Upper bound of ``||N^T D X u||`` over the unit vectors of a cell.

    Parameters
    ----------
    cross : ndarray of shape (rank, n_outputs)
        ``X^T D N``.
    multiplier : ndarray of shape (rank, rank)
        Combination of products of facets with non-negative weights.
    """
    moment = cross @ cross.T

    def largest(size):
        return np.linalg.eigvalsh(moment + size * multiplier)[-1]

    # Convex in the size, so that a short search finds the best multiple.
    found = minimize_scalar(largest, bounds=(0.0, 2.0), method="bounded")
    return np.sqrt(max(min(largest(0.0), largest(1.0), found.fun), 0.0))
