"""Output weights of given units: the group lasso over features and outputs."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotrs

from sklearn_convexnn._utils.breakdown import (
    check_finite,
    furthest,
    off_centre,
    unless_broken,
)
from sklearn_convexnn._utils.deadlines import fits
from sklearn_convexnn.model.windows import dense, grouped
from sklearn_convexnn.solvers._boxed_dual import BoxedDual, DualStep, moved_inside
from sklearn_convexnn.solvers._second_order_cones import ConeScaling, largest_step


@dataclass(frozen=True)
class OutputWeights:
    """Solution of `solve_output_weights`.

    Attributes
    ----------
    values : ndarray of shape (n_units, n_windows * n_outputs)
        Exactly zero where a unit is not needed.
    offset : ndarray of shape (n_outputs,)
    N : ndarray of shape (n_samples, n_outputs)
        Dual variable of the outputs.
    objective, dual_bound : float
        Both of the problem over the given units.
    """

    values: np.ndarray
    offset: np.ndarray
    N: np.ndarray
    objective: float
    dual_bound: float


# Many parameters: the problem in its parts, and how far to go.
def solve_output_weights(
    Z,
    Y,
    sample_weight,
    loss,
    alpha,
    *,
    free_offset,
    n_windows=1,
    tol=1e-8,
    max_iter=60,
):
    r"""Minimise ``L(Z G + 1 b^T) + alpha * sum_k ||g_k||``.

    The groups are the rows of ``G``, or with several features for each unit so many
    rows, one for each of them.  A primal-dual predictor-corrector method with
    Nesterov-Todd scaling of the norms.  The loss enters by its dual over a box, so
    that every loss goes the same way; for the softmax loss the rows of the dual
    variable sum to zero.  An iteration costs a factorisation of order
    ``n_windows * n_units * n_outputs``, or ``n_samples * n_outputs`` if that is less;
    see `work_of_a_step`.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, n_windows * n_units)
        Features of the units, those of a window after each other.
    Y : ndarray of shape (n_samples, n_outputs)
    sample_weight : ndarray of shape (n_samples,)
    loss : Separable or Softmax
    alpha : float
    free_offset : bool
        Whether there are free constants ``b``.
    n_windows : int, default=1
        Features of a unit.
    tol : float, default=1e-8
        Duality gap to reach, relative to the objective.
    max_iter : int, default=60

    Returns
    -------
    solution : OutputWeights
        The best point and the best bound seen, until the time is up.

    References
    ----------
    .. [1] Vandenberghe, L. (2010). "The CVXOPT linear and quadratic cone
       program solvers".
    """
    means = off_centre(Z) if free_offset else np.zeros(Z.shape[1])
    Z = Z - means
    args = Z, Y, sample_weight, loss, alpha, free_offset, n_windows
    best, dual = _without_units(*args)
    if Z.shape[1] == 0:
        return OutputWeights(best[1], best[2], dual[1], best[0], dual[0])
    iterate = unless_broken(None, _Iterate, *args)
    m, c = Z.shape[1], Y.shape[1]
    work = work_of_a_step(len(Z), m // n_windows, n_windows, c)
    for _ in range(max_iter if iterate else 0):
        objective = iterate.objective()
        bound, N = iterate.dual_bound()
        if objective < best[0]:
            best = objective, iterate.weights(), iterate.offset
        if bound > dual[0]:
            dual = bound, N
        if best[0] - dual[0] <= tol * abs(best[0]) or not fits(work):
            break
        if not unless_broken(False, iterate.step):
            break
    objective, values, offset = best
    # What the path to the boundary leaves behind; rounding decides below this.
    sizes = np.linalg.norm(values, axis=1)[:, None]
    values = np.where(sizes > 1e-7 * sizes.max(initial=0.0), values, 0.0)
    offset = offset - means @ dense(values, n_windows)
    return OutputWeights(values, offset, dual[1], objective, dual[0])


def work_of_a_step(n_samples, n_units, n_windows, n_outputs):
    """Floating-point operations of an iteration of `solve_output_weights`, about.

    Parameters
    ----------
    n_samples, n_units, n_windows, n_outputs : int

    Returns
    -------
    operations : float
    """
    n, m, c = n_samples, float(n_units * n_windows), n_outputs
    if _goes_over_samples(n, n_units, n_windows):
        return 2.0 * n**2 * (m + c**2 * n_units) + (n * c) ** 3 / 3.0
    return 2.0 * n * (m * c) ** 2 + (m * c) ** 3 / 3.0


def _goes_over_samples(n_samples, n_units, n_windows):
    """Whether there are fewer samples than features."""
    return n_samples < n_units * n_windows


def _without_units(Z, Y, s, loss, alpha, free_offset, n_windows):
    """Objective, weights and offset of no units; bound and dual point there."""
    zeros = np.zeros(Y.shape)
    offset = np.zeros(Y.shape[1])
    if free_offset:
        offset = loss.best_offset(zeros, Y, s)
    F = zeros + offset
    N = loss.project_dual(-loss.gradient(F, Y, s), Y, s, centred=free_offset)
    slopes = grouped(Z.T @ N, n_windows)
    norms = np.linalg.norm(slopes, axis=1)
    N = N * min(1.0, furthest(alpha, norms.max(initial=0.0)))
    weights = np.zeros(slopes.shape)
    bound = float(np.sum(loss.dual_terms(N, Y, s)))
    return (loss.value(F, Y, s), weights, offset), (bound, N)


class _Step(NamedTuple):
    """Changes of an iterate."""

    t: np.ndarray
    v: np.ndarray
    z: np.ndarray
    offset: np.ndarray
    dual: DualStep


class _Iterate:
    """A strictly interior point, and the Newton steps that move it."""

    def __init__(self, Z, Y, s, loss, alpha, free, n_windows):
        self.Z, self.Y, self.s, self.loss = Z, Y, s, loss
        self.alpha, self.free, self.n_windows = alpha, free, n_windows
        m, c = Z.shape[1] // n_windows, Y.shape[1]
        zeros = np.zeros(Y.shape)
        self.offset = loss.best_offset(zeros, Y, s) if free else np.zeros(c)
        F = zeros + self.offset
        N = loss.project_dual(-loss.gradient(F, Y, s), Y, s, centred=free)
        slopes = self.slopes(N)
        steepest = np.sqrt(np.max(np.sum(slopes**2, axis=1), initial=0.0))
        N = N * (0.9 * alpha / max(steepest, alpha))
        # The penalty may take part of the objective, but outputs far beyond those
        # that are needed, as with a tiny alpha, would be a poor start.
        value = loss.value(F, Y, s)
        size = np.sqrt(np.mean(Z**2)) if Z.size else 0.0
        enough = 10.0 * loss.spread(F, Y, s) / max(size, 1e-300)
        self.t = np.full(m, min(0.3 * value / alpha, enough) / m)
        self.v = np.zeros((m, n_windows * c))
        self.tau = np.full(m, alpha)
        mu = float(np.mean(self.t)) * alpha
        bounds = loss.dual_bounds(Y, s)
        if not loss.rows_sum_to_zero:
            N = moved_inside(N, bounds, mu)
        self.z = -self.slopes(N)
        norms = np.sqrt(np.sum(self.z**2, axis=1))
        self.z *= np.minimum(1.0, 0.95 * alpha / np.maximum(norms, 1e-300))[:, None]
        self.dual = BoxedDual(bounds, N, mu)
        if not loss.smooth:
            # Without curvature the multipliers alone make up for the residual.
            self.dual.add_multipliers(loss.dual_slope(N, Y, s) - F)

    def weights(self):
        return self.v.copy()

    def slopes(self, N):
        """Those of the units at a dual variable, of the shape of `weights`."""
        return grouped(self.Z.T @ N, self.n_windows)

    def outputs(self):
        """Those of the units."""
        return self.Z @ dense(self.v, self.n_windows) + self.offset

    def objective(self):
        F = self.outputs()
        sizes = np.sqrt(np.sum(self.v**2, axis=1))
        return self.loss.value(F, self.Y, self.s) + self.alpha * float(np.sum(sizes))

    def dual_bound(self):
        """Lower bound, and the dual point it comes from."""
        N = self.loss.project_dual(self.dual.value, self.Y, self.s, centred=self.free)
        slopes = self.slopes(N)
        steepest = np.sqrt(np.max(np.sum(slopes**2, axis=1), initial=0.0))
        N = N * min(1.0, furthest(self.alpha, steepest))
        terms = self.loss.dual_terms(N, self.Y, self.s)
        return float(np.sum(terms)), N

    def step(self):
        """One predictor-corrector step; False if it could not be computed."""
        scaling = ConeScaling(self.t, self.v, self.tau, self.z)
        few = _goes_over_samples(len(self.Z), len(self.t), self.n_windows)
        system = (_SystemOfSamples if few else _NewtonSystem)(self, scaling)
        dual = self.dual
        if not system.factored:
            return False
        lead, rest = scaling.lam
        low, up = -dual.a * dual.below, -dual.b * dual.above
        predictor = system.direction(-lead, -rest, low, up)
        mu = self._mean_after(0.0, predictor)
        after = self._mean_after(min(1.0, self._reach(predictor)), predictor)
        target = (max(after, 0.0) / mu) ** 3 * mu
        # Second order of lambda o lambda = target e, in the scaled variables.
        s_head, s_tail = scaling.apply_inverse(predictor.t, predictor.v)
        z_head, z_tail = scaling.apply(np.zeros(len(self.t)), predictor.z)
        cross_head = s_head * z_head + np.sum(s_tail * z_tail, axis=1)
        cross_tail = s_head[:, None] * z_tail + z_head[:, None] * s_tail
        head, tail = scaling.divide_by_lambda(target - cross_head, -cross_tail)
        dN, da, db = predictor.dual
        step = system.direction(
            head - lead,
            tail - rest,
            low + target - dN * da,
            up + target + dN * db,
        )
        size = min(1.0, 0.99 * self._reach(step))
        parts = step.t, step.v, step.z, step.offset, *step.dual
        if not (size > 1e-10 and all(np.all(np.isfinite(part)) for part in parts)):
            return False
        for name in ("t", "v", "z", "offset"):
            setattr(self, name, getattr(self, name) + size * getattr(step, name))
        dual.move(size, step.dual)
        return True

    def _reach(self, step):
        """The size of the step that leads to the border."""
        return min(
            self.dual.reach(step.dual),
            largest_step(self.t, self.v, step.t, step.v),
            largest_step(self.tau, self.z, np.zeros(len(self.t)), step.z),
        )

    def _mean_after(self, size, step):
        """Mean of the complementarity products after a step of that size."""
        dt, dv, dz = size * step.t, size * step.v, size * step.z
        total = (self.t + dt) @ self.tau + np.sum((self.v + dv) * (self.z + dz))
        low, up = self.dual.products_after(size, step.dual)
        return (total + low + up) / (len(self.t) + self.dual.n_sides)


class _NewtonSystem:
    """The linear system of a step, reduced to the weights and factored once.

    Of the curvature ``H`` of the cones and the compliance ``D`` of the loss it is
    ``(H + Z^T D Z) dv = h + Z^T (D Q + drift)``, and ``dN = D (Q - Z dv) + drift``.
    """

    def __init__(self, iterate, scaling):
        self.iterate, self.scaling = iterate, scaling
        it, dual, N = iterate, iterate.dual, iterate.dual.value
        give = dual.compliance(it.loss.dual_curvature(N, it.Y, it.s))
        self.compliance, self.share, self.drift = give, None, 0.0
        if it.loss.rows_sum_to_zero:
            self.share = give / np.sum(give, axis=1, keepdims=True)
            self.drift = self.share * -np.sum(N, axis=1, keepdims=True)
        self.link = it.loss.dual_slope(N, it.Y, it.s) + dual.a - dual.b
        self.link -= it.outputs()
        self.dual_error = -it.slopes(N) - it.z
        self.factor = self._factor()
        self.factored = self.factor is not None
        if self.factored and it.free:
            c, ones = N.shape[1], np.ones((len(N), 1))
            self.units = [
                self._solve(np.zeros(it.v.shape), np.eye(c)[k] * ones, 0.0)
                for k in range(c)
            ]
            self.response = np.column_stack([dN.sum(axis=0) for _, dN in self.units])

    def _factor(self):
        """Cholesky factor of the Newton matrix, output by output."""
        Z, give, share = self.iterate.Z, self.compliance, self.share
        m, c = Z.shape[1], give.shape[1]
        matrix = np.zeros((c, m, c, m))
        equal = share is None and np.all(give == give[:, :1])
        for j in range(c):
            if j == 0 or not equal:
                block = (Z.T * give[:, j]) @ Z
            matrix[j, :, j] = block
            for k in range(j + 1) if share is not None else ():
                # Only the lower triangle is read.
                matrix[j, :, k] -= (Z.T * (give[:, j] * share[:, k])) @ Z
        n_units, width = self.iterate.v.shape
        curvature = np.zeros((n_units, width, width))
        self.scaling.add_reduced(curvature)
        index = np.arange(n_units)
        # Places of the entries of a group: outputs, and columns of its windows.
        places = [(k % c, k // c * n_units + index) for k in range(width)]
        for j in range(width):
            for k in range(width):
                matrix[*places[j], *places[k]] += curvature[:, j, k]
        # The transpose has the order of memory that LAPACK wants.
        matrix = matrix.reshape(c * m, c * m).T
        factor, info = dpotrf(matrix, lower=0, overwrite_a=1, clean=0)
        return None if info else factor

    def _yielding(self, Q):
        """Change of the dual variable when its equation is off by `Q`."""
        Q = self.compliance * Q
        if self.share is not None:
            Q = Q - self.share * np.sum(Q, axis=1, keepdims=True)
        return Q

    def _solve(self, h, Q, drift):
        """Changes of weights and dual variable, of these right sides."""
        Z, n_windows = self.iterate.Z, self.iterate.n_windows
        right = dense(h, n_windows) + Z.T @ (self._yielding(Q) + drift)
        m, c = right.shape
        dv = dpotrs(self.factor, right.T.ravel(), lower=0)[0].reshape(c, m).T
        return grouped(dv, n_windows), self._yielding(Q - Z @ dv) + drift

    def direction(self, head, tail, low, up):
        """The step that changes the products by these, to first order."""
        it = self.iterate
        shift, step_t, step_z = self.scaling.eliminate(head, tail)
        Q = it.dual.pull(self.link, low, up)
        dv, dN = self._solve(shift - self.dual_error, Q, self.drift)
        offset = np.zeros(Q.shape[1])
        if it.free:
            # Free constants are the multipliers of the sums of columns.
            sums = np.sum(it.dual.value, axis=0) + np.sum(dN, axis=0)
            check_finite(self.response, sums)
            offset = np.linalg.lstsq(self.response, sums, rcond=1e-12)[0]
            for k, (unit_v, unit_N) in enumerate(self.units):
                dv, dN = dv - offset[k] * unit_v, dN - offset[k] * unit_N
        return _Step(step_t(dv), dv, step_z(dv), offset, it.dual.step(dN, low, up))


class _SystemOfSamples(_NewtonSystem):
    """As `_NewtonSystem`, reduced to the dual variable of few samples.

    With ``D = L L^T`` and ``K = Z H^{-1} Z^T`` it is
    ``dN = drift + L (I + L^T K L)^{-1} L^T (Q - Z H^{-1} h - K drift)``.
    """

    def _factor(self):
        it, give = self.iterate, self.compliance
        n, c = give.shape
        self.root = np.sqrt(give)
        self.toward = self.root / np.linalg.norm(self.root, axis=1)[:, None]
        self.scale, self.tail = self.scaling.inverse_reduced()
        # The inverse curvature is diagonal, but for one direction of each group.
        Z = it.Z.reshape(n, it.n_windows, -1)
        tail = self.tail.reshape(len(self.tail), it.n_windows, c)
        along = np.einsum("iqu,uqj->iuj", Z, tail) * np.sqrt(self.scale)[:, None]
        along = self._transposed(along.transpose(1, 0, 2)).reshape(len(self.tail), -1)
        matrix = along.T @ along
        # Entry (sample, output) of `links`: what it takes from each of the outputs.
        links = self._transposed(np.eye(c)[:, None, :] * np.ones((n, 1)))
        links = links.reshape(c, -1)
        scaled = it.Z * np.tile(np.sqrt(self.scale), it.n_windows)
        plain = scaled @ scaled.T
        matrix += (links.T @ links) * np.repeat(np.repeat(plain, c, axis=0), c, axis=1)
        matrix[np.diag_indices(n * c)] += 1.0
        factor, info = dpotrf(matrix.T, lower=0, overwrite_a=1, clean=0)
        return None if info else factor

    def _transposed(self, Q):
        """``L^T Q``, of arrays whose last axes are samples and outputs."""
        Q = self.root * Q
        if self.share is not None:
            Q = Q - self.toward * np.sum(self.toward * Q, axis=-1, keepdims=True)
        return Q

    def _through(self, Q):
        """``L Q``."""
        if self.share is not None:
            Q = Q - self.toward * np.sum(self.toward * Q, axis=-1, keepdims=True)
        return self.root * Q

    def _flat(self, h):
        """``H^{-1} h``."""
        along = np.sum(self.tail * h, axis=1, keepdims=True)
        return self.scale[:, None] * (h + self.tail * along)

    def _solve(self, h, Q, drift):
        it = self.iterate
        n_windows = it.n_windows
        Q = Q - it.Z @ dense(self._flat(h), n_windows)
        if self.share is not None:
            moved = it.Z.T @ (drift + np.zeros(Q.shape))
            Q = Q - it.Z @ dense(self._flat(grouped(moved, n_windows)), n_windows)
        right = self._transposed(Q)
        solved = dpotrs(self.factor, right.ravel(), lower=0)[0].reshape(Q.shape)
        dN = drift + self._through(solved)
        return self._flat(h + grouped(it.Z.T @ dN, n_windows)), dN
