r"""Upper bounds of the slope that a new neuron can have.

``kappa(nu) = max |nu^T act(X u + b)|`` over ``||u|| <= 1`` decides whether a
network is globally optimal [1]_, and every proven upper bound of it bounds how
far the network is from the best one.  All bounds here hold for any accuracy of
the solver that finds them: they are evaluated at a feasible dual point.

Because ``act(t) = (1 + s) / 2 t + (1 - s) / 2 |t|`` for the negative slope
``s``, either sign of the problem is

.. math::
    \max_w \; \sum_j |a_j^T w| - \sum_k |b_k^T w|,

the linear term being one of the ``a_j``: the objective may be replaced by its
maximum over ``w`` and ``-w``.  This is the largest distance of a point of the
zonotope of the ``a_j`` to the zonotope of the ``b_k``.

References
----------
.. [1] Pilanci, M. and Ergen, T. (2020). "Neural Networks are Convex
   Regularizers". ICML.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import lsq_linear
from scipy.sparse import csc_matrix, csr_array, eye_array, hstack, kron, vstack

from sklearn_convexnn._utils.deadlines import check, left, svd_work
from sklearn_convexnn.families.two_layer.directions import Directions

# Rows whose directions agree to so many digits are merged; what that changes is
# added to the bounds.
_DIGITS = 10
# Relative size of the singular values of X that count as rank.
_RANK_TOL = 1e-12
# Operations of a semidefinite program, for a column and a sample to this power.
_POLICY_WORK, _POLICY_POWER = 1e4, 2.7
# Bounds are raised by this, relatively, to stay proven in floating point.
ROUNDING = 1e-11


@dataclass(frozen=True)
class SlopeParts(Directions):
    """One sign of the slope as a difference of sums of absolute values.

    The last coordinate of ``w`` is the bias if it is free; the others are
    coordinates of the row space of the (then centred) data.

    Attributes
    ----------
    convex, concave : ndarray of shape (n_rows, n_coordinates)
        The slope is ``sum |convex w| - sum |concave w|``.
    basis : ndarray of shape (n_features, rank)
        Orthonormal; ``u = basis @ w[:rank]``.
    centre : ndarray of shape (n_features,)
    slack : float
        By how much the slope of the data can exceed that of the parts.
    radius : float
        Only biases up to this size matter for a direction of length one.
    """

    convex: np.ndarray
    concave: np.ndarray
    basis: np.ndarray
    centre: np.ndarray
    slack: float
    radius: float

    @property
    def rank(self):
        return self.basis.shape[1]

    @property
    def free_bias(self):
        return self.convex.shape[1] > self.rank

    def values(self, W):
        """Slopes of directions, shape (..., n_coordinates), of any length."""
        slopes = np.abs(W @ self.convex.T).sum(-1) - np.abs(W @ self.concave.T).sum(-1)
        return slopes / np.linalg.norm(W[..., : self.rank], axis=-1)

    def gradients(self, W):
        """Gradients along ``u``, with the nearest pivot kept on the hyperplane."""
        products = W @ self.concave.T
        slopes = np.sign(W @ self.convex.T) @ self.convex
        slopes -= np.sign(products) @ self.concave
        if not self.free_bias:
            return slopes
        if not len(self.concave):
            return slopes[:, :-1]
        nearest = np.abs(products / self.concave[:, -1]).argmin(axis=1)
        return slopes[:, :-1] - slopes[:, -1:] * self.pivots()[nearest]

    def pivots(self):
        """Points ``p`` such that some best bias is ``-p^T u``.

        Along the bias the slope is piecewise linear and bounded, and so it is
        largest at a concave kink: on the hyperplane of a concave row.
        """
        if not self.free_bias or not len(self.concave):
            return np.zeros((1, self.rank))
        return self.concave[:, :-1] / self.concave[:, -1:]

    def on_pivot(self, pivot):
        """Rows ``(convex, concave)`` when the bias is ``-pivot^T u``."""
        if not self.free_bias:
            return self.convex, self.concave
        return tuple(
            rows[:, :-1] - rows[:, -1:] * pivot for rows in (self.convex, self.concave)
        )

    def best_biases(self, U):
        """Directions ``w`` with the best bias for each row of `U`."""
        if not self.free_bias or not len(self.concave):
            return self.lift(U, np.zeros_like(U))
        rows = np.concatenate([self.convex, -self.concave])
        weights = rows[:, -1]
        rows, weights = rows[weights != 0], weights[weights != 0]
        kinks = -U @ (rows[:, :-1] / weights[:, None]).T
        order = np.argsort(kinks, axis=1)
        sorted_kinks = np.take_along_axis(kinks, order, axis=1)
        weights = weights[order]
        # sum_j c_j |t - t_j| at the kinks, for sum_j c_j = 0, up to a constant.
        left = np.cumsum(weights, axis=1)
        moment = np.cumsum(weights * sorted_kinks, axis=1)
        value = (2 * left - left[:, -1:]) * sorted_kinks - 2 * moment
        best = np.argmax(value, axis=1)
        return np.column_stack([U, sorted_kinks[np.arange(len(U)), best]])

    def best_in_plane(self, pivot):
        """Direction ``u`` of the largest slope on a pivot, of rank two."""
        convex, concave = self.on_pivot(pivot)
        return _best_angle(np.concatenate([convex, concave]), len(convex))

    def neuron(self, w):
        """Unit direction and bias, in coordinates of the features."""
        u, b = super().neuron(w)
        u = self.basis @ u
        return u, b - float(self.centre @ u)


def split_slope(X, nu, sign, *, free_bias=False, negative_slope=0.0):
    """Bring ``sign * nu^T act(X u + b)`` into the form of `SlopeParts`.

    Rows on a common line are merged, and those that cancel disappear.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    nu : ndarray of shape (n_samples,)
    sign : {1, -1}
    free_bias : bool, default=False
        ``nu`` has to sum to zero.
    negative_slope : float, default=0.0
        In [-1, 1).

    Returns
    -------
    parts : SlopeParts
    """
    n, d = X.shape
    centre = np.zeros(d)
    if free_bias:
        nu = nu - nu.mean()
        centre = X.mean(axis=0)
        X = X - centre
    _, singular, Vt = np.linalg.svd(X, full_matrices=False)
    basis = Vt[singular > _RANK_TOL * singular.max(initial=0.0)].T
    rows = X @ basis
    slack = np.abs(nu) @ np.linalg.norm(X - rows @ basis.T, axis=1)

    linear = 0.5 * (1 + negative_slope) * sign * (nu @ rows)
    lengths = np.ones(n) if free_bias else np.linalg.norm(rows, axis=1)
    used = (lengths > 0) & (nu != 0)
    lengths, units = lengths[used], rows[used] / lengths[used, None]
    weights = 0.5 * (1 - negative_slope) * sign * nu[used] * lengths
    radius = float(np.linalg.norm(units, axis=1).max(initial=0.0))
    digits = units / max(radius, np.finfo(float).tiny)
    if not free_bias and len(units):
        leading = np.argmax(np.abs(digits) > 0.5 / np.sqrt(basis.shape[1]), axis=1)
        flip = np.sign(digits[np.arange(len(digits)), leading])[:, None]
        digits, units = flip * digits, flip * units
    # Adding zero turns the minus zeros, which np.unique tells apart, into zeros.
    _, first, group = np.unique(
        np.round(digits, _DIGITS) + 0.0, axis=0, return_index=True, return_inverse=True
    )
    group = group.ravel()
    slack += np.abs(weights) @ np.linalg.norm(units - units[first][group], axis=1)
    total = np.bincount(group, weights, len(first))
    size = np.bincount(group, np.abs(weights), len(first))
    cancelled = np.abs(total) <= 1e-14 * size
    slack += np.abs(total[cancelled]).sum() * (2.0 * radius if free_bias else 1.0)
    total, lines = total[~cancelled], units[first][~cancelled]
    if free_bias:
        lines = np.column_stack([lines, np.ones(len(lines))])
        linear = np.append(linear, 0.0)
    convex = np.vstack([linear, lines[total > 0] * total[total > 0, None]])
    if np.linalg.norm(linear) <= 1e-14 * (size.sum() * radius):
        slack += np.linalg.norm(linear)
        convex = convex[1:]
    concave = -lines[total < 0] * total[total < 0, None]
    return SlopeParts(convex, concave, basis, centre, float(slack), radius)


def norm_bound(X, nu, *, free_bias=False, negative_slope=0.0):
    r"""Upper bound of the slope from norms alone.

    The smaller of :math:`\sigma_{\max}(X) \|\nu\|_2` and
    :math:`\sum_i |\nu_i| \|x_i\|_2`, with only the larger of the positive
    and the negative part of ``nu`` for a ReLU without bias.  With `free_bias`
    (and ``sum(nu) = 0``) the columns of `X` are centred first: activations are
    non-expansive, so they do not add variance.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    nu : ndarray of shape (n_samples,)
    free_bias : bool, default=False
    negative_slope : float, default=0.0

    Returns
    -------
    bound : float
    """
    if free_bias:
        X = X - X.mean(axis=0)
    signed = not free_bias and negative_slope == 0
    parts = [np.maximum(nu, 0.0), np.maximum(-nu, 0.0)] if signed else [nu]
    check(svd_work(X.shape))
    spectral = np.linalg.norm(X, 2) if X.size else 0.0
    lengths = np.linalg.norm(X, axis=1)
    return (1 + ROUNDING) * max(
        min(float(spectral * np.linalg.norm(part)), float(np.abs(part) @ lengths))
        for part in parts
    )


def triangle_bound(X, nu, *, free_bias=False, negative_slope=0.0):
    r"""Upper bound of the slope from the triangle relaxation of the ReLU.

    ``|t|`` of the convex rows is replaced by its bound over the ball; the
    concave rows are exact.  The dual is a least squares problem in a box, with
    any point of the box a proven bound.  With `free_bias` it is solved for
    each pivot (see `SlopeParts.pivots`).  It is never larger than the row-wise
    part of `norm_bound`, for a ReLU without bias.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    nu : ndarray of shape (n_samples,)
    free_bias : bool, default=False
    negative_slope : float, default=0.0

    Returns
    -------
    bound : float

    References
    ----------
    .. [1] Ehlers, R. (2017). "Formal Verification of Piece-Wise Linear
       Feed-Forward Neural Networks". ATVA.
    .. [2] Wong, E. and Kolter, J. Z. (2018). "Provable Defenses against
       Adversarial Examples via the Convex Outer Adversarial Polytope". ICML.
    """
    bounds = []
    for parts in both_signs(X, nu, free_bias, negative_slope):
        for pivot in parts.pivots():
            check()
            convex, concave = parts.on_pivot(pivot)
            bound = np.linalg.norm(convex[1:], axis=1).sum()
            if len(convex):
                bound += np.linalg.norm(distance_to_zonotope(convex[0], concave))
            bounds.append(bound + parts.slack)
    return (1 + ROUNDING) * float(max(bounds))


def both_signs(X, nu, free_bias, negative_slope):
    for sign in (1, -1):
        yield split_slope(
            X, nu, sign, free_bias=free_bias, negative_slope=negative_slope
        )


def distance_to_zonotope(point, generators):
    """Vector ``point - s @ generators`` of least norm over ``-1 <= s <= 1``.

    Parameters
    ----------
    point : ndarray of shape (r,)
    generators : ndarray of shape (m, r)

    Returns
    -------
    difference : ndarray of shape (r,)
        Its norm is an upper bound of the distance for any solver accuracy.
    """
    if not len(generators):
        return point
    found = lsq_linear(generators.T, point, (-1.0, 1.0), method="bvls", tol=1e-12)
    return point - np.clip(found.x, -1.0, 1.0) @ generators


def semidefinite_bound(X, nu, *, free_bias=False, negative_slope=0.0):
    r"""Upper bound of the slope from a semidefinite program.

    The slope is at most :math:`\max_\sigma \|A^T\sigma - B^T s(\sigma)\|` over
    sign vectors, for any :math:`s(\sigma)` in the unit box.  Linear policies
    :math:`s = K\sigma` with rows of absolute sum at most one and a diagonal
    :math:`D \succeq R^T R`, :math:`R = A^T - B^T K`, bound it by
    :math:`\sqrt{\mathrm{tr} D}`.  With a policy that is constant this is the
    relaxation of [1]_; linear ones are much tighter.  For small problems only:
    it has (number of samples)^2 / 4 unknowns.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    nu : ndarray of shape (n_samples,)
    free_bias : bool, default=False
    negative_slope : float, default=0.0

    Returns
    -------
    bound : float

    References
    ----------
    .. [1] Raghunathan, A., Steinhardt, J. and Liang, P. (2018). "Semidefinite
       Relaxations for Certifying Robustness to Adversarial Examples". NeurIPS.
    """
    # A solver that is interrupted has no bound that is worth its time.
    check(_POLICY_WORK * X.shape[1] * len(X) ** _POLICY_POWER)
    bounds = [
        policy_bound(parts, parts.convex)[0] + parts.slack
        for parts in both_signs(X, nu, free_bias, negative_slope)
    ]
    return (1 + ROUNDING) * max(bounds)


def policy_bound(parts, columns):
    r"""Bound of ``max ||columns^T sigma - B^T s||`` over signs ``sigma``.

    Parameters
    ----------
    parts : SlopeParts
        Gives the concave rows ``B``.
    columns : ndarray of shape (k, n_coordinates)
        The sign of the first may be fixed to one.

    Returns
    -------
    bound : float
        Proven: evaluated at the feasible ``(D, K)`` next to what the solver
        returns.  It is weaker if the time is up before the solver ends.
    diagonal : ndarray of shape (k,)
        Diagonal ``D``, by which the columns matter.
    correlation : ndarray of shape (k,)
        Of each sign with the first, in the relaxation.
    """
    concave, r = parts.concave, parts.rank
    k = len(columns)
    if k == 0:
        return 0.0, np.empty(0), np.empty(0)
    scale = np.linalg.norm(columns[:, :r], axis=1).max()
    C, B = columns / scale, concave / scale
    solution = _solved_policy(C, B, r, parts.free_bias)
    if solution is None:
        return np.inf, np.ones(k), np.zeros(k)
    diagonal, policy, moments, variances = solution
    policy /= np.maximum(np.abs(policy).sum(axis=1, keepdims=True), 1.0)
    # However inaccurate the solution is, the bound from it is proven.
    residual = C.T - B.T @ policy
    diagonal = np.maximum(diagonal, (residual[:r] ** 2).sum(axis=0))
    diagonal = np.maximum(diagonal, 1e-12 * diagonal.max())
    reach = np.linalg.norm(residual[:r] / np.sqrt(diagonal), 2)
    bound = reach * np.sqrt(diagonal.sum())
    if parts.free_bias:
        bound += parts.radius * np.abs(residual[r]).sum()
    lengths = np.sqrt(np.maximum(variances[0] * variances, 1e-300))
    return float(scale * bound), diagonal, moments / lengths


def _solved_policy(C, B, r, free_bias):
    """The semidefinite program in the standard form of Clarabel.

    That is ``A x + slack = b`` with slacks in cones.  The unknowns are the diagonal
    and the positive and negative parts of the policy.  To write it down takes less
    time than CVXPY needs for it, and to import that as well.

    Returns
    -------
    diagonal : ndarray of shape (k,)
    policy : ndarray of shape (m, k)
    moments, variances : ndarrays of shape (k,)
        Dual variables: of each sign with the first, and with itself.
    None
        In place of these, if the solver fails.
    """
    import clarabel  # needed for proofs only

    k, m, root = len(C), len(B), np.sqrt(2.0)
    # ``B^T K``, coordinate by coordinate.
    moved = kron(csr_array(B.T), eye_array(k), format="csr")
    # The upper triangle of ``[[D, R^T], [R, I]]``, off the diagonal times root two.
    order = np.arange(k + r)
    starts = order * (order + 1) // 2
    ends, shape = starts + order, (starts[-1] + k + r, r * k)
    where = (starts[k:, None] + order[:k]).ravel(), np.arange(r * k)
    corner = csr_array((np.full(r * k, root), where), shape)
    where, shape = (ends[:k], order[:k]), (shape[0], k)
    part = corner @ moved[: r * k]
    rows = [hstack([csr_array((-np.ones(k), where), shape), part, -part])]
    rights = [corner @ C[:, :r].T.ravel()]
    rights[0][ends[k:]] = 1.0
    cones = [clarabel.PSDTriangleConeT(k + r)]
    if m:
        sums = kron(eye_array(m), np.ones((1, k)))
        rows.append(hstack([csr_array((m, k)), sums, sums]))
        rows.append(hstack([csr_array((2 * m * k, k)), -eye_array(2 * m * k)]))
        rights += [np.ones(m), np.zeros(2 * m * k)]
        cones.append(clarabel.NonnegativeConeT(m + 2 * m * k))
    if free_bias:
        # The policy has to transport the bias from the convex to the concave rows.
        rows.append(hstack([csr_array((k, k)), moved[r * k :], -moved[r * k :]]))
        rights.append(C[:, r])
        cones.append(clarabel.ZeroConeT(k))
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    if np.isfinite(left()):
        settings.time_limit = max(left(), 1e-3)
    size = k + 2 * m * k
    found = clarabel.DefaultSolver(
        csc_matrix((size, size)),
        np.append(np.ones(k), np.zeros(2 * m * k)),
        csc_matrix(vstack(rows)),
        np.concatenate(rights),
        cones,
        settings,
    ).solve()
    x, z = np.array(found.x), np.array(found.z)
    if not (np.all(np.isfinite(x)) and np.all(np.isfinite(z))):
        return None
    up, down = x[k:].reshape(2, m, k)
    variances, moments = z[ends[:k]], z[starts[:k]] / root
    moments[0] = variances[0]
    return x[:k], up - down, moments, variances


def planar_maximiser(parts):
    """Direction ``w`` of the largest slope, for parts of rank one or two.

    Parameters
    ----------
    parts : SlopeParts or NormSlope

    Returns
    -------
    w : ndarray of shape (n_coordinates,)
    """
    return max(planar_maximisers(parts), key=parts.values)


def planar_maximisers(parts):
    """Directions ``w`` of the largest slope for each pivot, of rank one or two.

    Parameters
    ----------
    parts : SlopeParts or NormSlope

    Returns
    -------
    W : ndarray of shape (n_pivots, n_coordinates)
    """
    if parts.rank == 1:
        return parts.best_biases(np.array([[1.0], [-1.0]]))
    candidates = []
    for pivot in parts.pivots():
        check()
        candidates.append(parts.lift(parts.best_in_plane(pivot), pivot))
    return np.array(candidates)


def _best_angle(rows, n_convex):
    """Maximiser on the unit circle; the first rows are the convex ones."""
    signs = np.where(np.arange(len(rows)) < n_convex, 1.0, -1.0)
    nonzero = np.any(rows != 0, axis=1)
    rows, signs = rows[nonzero], signs[nonzero]
    # Turned so that each row is positive just after its kink in [0, pi).
    normal = np.mod(np.arctan2(rows[:, 1], rows[:, 0]), np.pi)
    kinks = np.mod(normal + 0.5 * np.pi, np.pi)
    order = np.argsort(kinks)
    kinks, rows, signs = kinks[order], rows[order], signs[order]
    after = kinks + 1.0
    towards = rows[:, 0] * np.cos(after) + rows[:, 1] * np.sin(after)
    rows = rows * (signs * np.sign(towards))[:, None]
    gradients = 2.0 * np.cumsum(rows, axis=0) - rows.sum(axis=0)
    ends = np.column_stack([np.cos(kinks), np.sin(kinks)])
    values = (gradients * ends).sum(axis=1)
    angles = np.mod(np.arctan2(gradients[:, 1], gradients[:, 0]), 2 * np.pi)
    # The last arc goes on past pi, where the slope repeats itself.
    angles += np.where(angles < kinks, 2 * np.pi, 0.0)
    inside = angles <= np.append(kinks[1:], kinks[:1] + np.pi)
    angles = np.where(inside, angles, kinks)
    values = np.where(inside, np.linalg.norm(gradients, axis=1), values)
    best = angles[np.argmax(values)]
    return np.array([np.cos(best), np.sin(best)])
