"""Output weights of given neurons: the group lasso over several outputs."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotrs

from sklearn_convexnn._utils.breakdown import (
    check_finite,
    furthest,
    off_centre,
    unless_broken,
)
from sklearn_convexnn._utils.deadlines import fits
from sklearn_convexnn.solvers._second_order_cones import ConeScaling, largest_step


@dataclass(frozen=True)
class OutputWeights:
    """Solution of `solve_output_weights`.

    Attributes
    ----------
    values : ndarray of shape (n_neurons, n_outputs)
        Exactly zero where a neuron is not needed.
    offset : ndarray of shape (n_outputs,)
    N : ndarray of shape (n_samples, n_outputs)
        Dual variable of the outputs.
    objective, dual_bound : float
        Both of the problem over the given neurons.
    """

    values: np.ndarray
    offset: np.ndarray
    N: np.ndarray
    objective: float
    dual_bound: float


def solve_output_weights(
    Z, Y, sample_weight, loss, alpha, *, free_offset, tol=1e-8, max_iter=60
):
    r"""Minimise ``L(Z G + 1 b^T) + alpha * sum_k ||g_k||`` over the rows of ``G``.

    A primal-dual predictor-corrector method with Nesterov-Todd scaling of the
    norms.  The loss enters by its dual over a box, so that every loss goes the
    same way; for the softmax loss the rows of the dual variable sum to zero.
    An iteration costs a factorisation of order ``n_neurons * n_outputs``.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, n_neurons)
        Outputs of the units.
    Y : ndarray of shape (n_samples, n_outputs)
    sample_weight : ndarray of shape (n_samples,)
    loss : Separable or Softmax
    alpha : float
    free_offset : bool
        Whether there are free constants ``b``.
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
    best, dual = _without_units(Z, Y, sample_weight, loss, alpha, free_offset)
    if Z.shape[1] == 0:
        return OutputWeights(best[1], best[2], dual[1], best[0], dual[0])
    args = Z, Y, sample_weight, loss, alpha, free_offset
    iterate = unless_broken(None, _Iterate, *args)
    m, c = Z.shape[1], Y.shape[1]
    blocks = c * (c + 1) / 2 if loss.rows_sum_to_zero else c
    work = 2.0 * Z.size * m * blocks + (m * c) ** 3 / 3.0
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
    offset = offset - means @ values
    return OutputWeights(values, offset, dual[1], objective, dual[0])


def _without_units(Z, Y, s, loss, alpha, free_offset):
    """Objective, weights and offset of no units; bound and dual point there."""
    zeros = np.zeros(Y.shape)
    offset = np.zeros(Y.shape[1])
    if free_offset:
        offset = loss.best_offset(zeros, Y, s)
    F = zeros + offset
    N = loss.project_dual(-loss.gradient(F, Y, s), Y, s, centred=free_offset)
    slopes = Z.T @ N
    norms = np.linalg.norm(slopes, axis=1)
    N = N * min(1.0, furthest(alpha, norms.max(initial=0.0)))
    weights = np.zeros((Z.shape[1], Y.shape[1]))
    bound = float(np.sum(loss.dual_terms(N, Y, s)))
    return (loss.value(F, Y, s), weights, offset), (bound, N)


class _Iterate:
    """A strictly interior point, and the Newton steps that move it."""

    def __init__(self, Z, Y, s, loss, alpha, free):
        self.Z, self.Y, self.s, self.loss = Z, Y, s, loss
        self.alpha, self.free = alpha, free
        m, c = Z.shape[1], Y.shape[1]
        zeros = np.zeros(Y.shape)
        self.offset = loss.best_offset(zeros, Y, s) if free else np.zeros(c)
        F = zeros + self.offset
        self.lower, self.upper = loss.dual_bounds(Y, s)
        self.low, self.up = np.isfinite(self.lower), np.isfinite(self.upper)
        N = loss.project_dual(-loss.gradient(F, Y, s), Y, s, centred=free)
        slopes = Z.T @ N
        steepest = np.sqrt(np.max(np.sum(slopes**2, axis=1), initial=0.0))
        N = N * (0.9 * alpha / max(steepest, alpha))
        # The penalty may take part of the objective, but outputs far beyond those
        # that are needed, as with a tiny alpha, would be a poor start.
        value = loss.value(F, Y, s)
        size = np.sqrt(np.mean(Z**2)) if Z.size else 0.0
        enough = 10.0 * loss.spread(F, Y, s) / max(size, 1e-300)
        self.t = np.full(m, min(0.3 * value / alpha, enough) / m)
        self.v = np.zeros((m, c))
        self.tau = np.full(m, alpha)
        mu = float(np.mean(self.t)) * alpha
        margin = np.minimum(mu, 0.25 * (self.upper - self.lower))
        if not loss.rows_sum_to_zero:
            N = np.clip(N, self.lower + margin, self.upper - margin)
        self.N = N
        self.z = -(Z.T @ N)
        norms = np.sqrt(np.sum(self.z**2, axis=1))
        self.z *= np.minimum(1.0, 0.95 * alpha / np.maximum(norms, 1e-300))[:, None]
        below, above = self._margins()
        self.a = np.where(self.low, mu / below, 0.0)
        self.b = np.where(self.up, mu / above, 0.0)
        if not loss.smooth:
            # Without curvature the multipliers alone make up for the residual.
            error = loss.dual_slope(self.N, Y, s) - F
            self.a += np.where(self.low, np.maximum(-error, 0.0), 0.0)
            self.b += np.where(self.up, np.maximum(error, 0.0), 0.0)

    def _margins(self):
        """Distances of ``N`` to its box, one where there is none."""
        return (
            np.where(self.low, self.N - self.lower, 1.0),
            np.where(self.up, self.upper - self.N, 1.0),
        )

    def weights(self):
        return self.v.copy()

    def objective(self):
        F = self.Z @ self.weights() + self.offset
        sizes = np.sqrt(np.sum(self.v**2, axis=1))
        return self.loss.value(F, self.Y, self.s) + self.alpha * float(np.sum(sizes))

    def dual_bound(self):
        """Lower bound, and the dual point it comes from."""
        N = self.loss.project_dual(self.N, self.Y, self.s, centred=self.free)
        slopes = self.Z.T @ N
        steepest = np.sqrt(np.max(np.sum(slopes**2, axis=1), initial=0.0))
        N = N * min(1.0, furthest(self.alpha, steepest))
        terms = self.loss.dual_terms(N, self.Y, self.s)
        return float(np.sum(terms)), N

    def step(self):
        """One predictor-corrector step; False if it could not be computed."""
        Z, a, b = self.Z, self.a, self.b
        m, c = Z.shape[1], self.Y.shape[1]
        below, above = self._margins()
        scaling = ConeScaling(self.t, self.v, self.tau, self.z)
        stiffness = self.loss.dual_curvature(self.N, self.Y, self.s)
        give = 1.0 / (stiffness + a / below + b / above)
        share = None
        if self.loss.rows_sum_to_zero:
            share = give / np.sum(give, axis=1, keepdims=True)
        rows = -np.sum(self.N, axis=1, keepdims=True)

        def yielding(Q):
            """Change of the dual variable when its equation is off by `Q`."""
            Q = give * Q
            if share is not None:
                Q = Q - share * np.sum(Q, axis=1, keepdims=True)
            return Q

        link = self.loss.dual_slope(self.N, self.Y, self.s) + a - b
        link -= Z @ self.weights() + self.offset
        dual_error = -(Z.T @ self.N) - self.z
        factor = self._factor(give, share, scaling)
        if factor is None:
            return False

        def solve(h, Q, drift):
            right = h + Z.T @ (yielding(Q) + drift)
            dv = dpotrs(factor, right.T.ravel(), lower=0)[0].reshape(c, m).T
            return dv, yielding(Q - Z @ dv) + drift

        drift = 0.0 if share is None else share * rows
        if self.free:
            units = [
                solve(np.zeros((m, c)), np.eye(c)[k] * np.ones((len(Z), 1)), 0.0)
                for k in range(c)
            ]
            response = np.column_stack([dN.sum(axis=0) for _, dN in units])

        def direction(head, tail, low, up):
            shift, step_t, step_z = scaling.eliminate(head, tail)
            Q = link + np.where(self.low, low / below, 0.0)
            Q -= np.where(self.up, up / above, 0.0)
            dv, dN = solve(shift - dual_error, Q, drift)
            offset = np.zeros(c)
            if self.free:
                # Free constants are the multipliers of the sums of columns.
                sums = np.sum(self.N, axis=0) + np.sum(dN, axis=0)
                check_finite(response, sums)
                offset = np.linalg.lstsq(response, sums, rcond=1e-12)[0]
                for k, (unit_v, unit_N) in enumerate(units):
                    dv, dN = dv - offset[k] * unit_v, dN - offset[k] * unit_N
            return (
                step_t(dv),
                dv,
                step_z(dv),
                dN,
                np.where(self.low, (low - a * dN) / below, 0.0),
                np.where(self.up, (up + b * dN) / above, 0.0),
                offset,
            )

        still = np.zeros(len(self.t))

        def reach(step):
            dt, dv, dz, dN, da, db, _ = step
            low, up = self.low, self.up
            worst = min(
                np.min((dN / below)[low], initial=0.0),
                np.min((-dN / above)[up], initial=0.0),
                np.min(da[low] / a[low], initial=0.0),
                np.min(db[up] / b[up], initial=0.0),
            )
            return min(
                -1.0 / worst if worst < 0 else np.inf,
                largest_step(self.t, self.v, dt, dv),
                largest_step(self.tau, self.z, still, dz),
            )

        count = len(self.t) + np.sum(self.low) + np.sum(self.up)

        def mean(size, step):
            dt, dv, dz, dN, da, db, _ = (size * part for part in step)
            total = (self.t + dt) @ self.tau + np.sum((self.v + dv) * (self.z + dz))
            total += np.sum(((below + dN) * (a + da))[self.low])
            total += np.sum(((above - dN) * (b + db))[self.up])
            return total / count

        lead, rest = scaling.lam
        products = (-lead, -rest, -a * below, -b * above)
        predictor = direction(*products)
        mu = mean(0.0, predictor)
        target = (max(mean(min(1.0, reach(predictor)), predictor), 0.0) / mu) ** 3 * mu
        dt, dv, dz, dN, da, db, _ = predictor
        # Second order of lambda o lambda = target e, in the scaled variables.
        s_head, s_tail = scaling.apply_inverse(dt, dv)
        z_head, z_tail = scaling.apply(still, dz)
        cross_head = s_head * z_head + np.sum(s_tail * z_tail, axis=1)
        cross_tail = s_head[:, None] * z_tail + z_head[:, None] * s_tail
        head, tail = scaling.divide_by_lambda(target - cross_head, -cross_tail)
        step = direction(
            head - lead,
            tail - rest,
            products[2] + target - dN * da,
            products[3] + target + dN * db,
        )
        size = min(1.0, 0.99 * reach(step))
        if not (size > 1e-10 and all(np.all(np.isfinite(part)) for part in step)):
            return False
        names = ("t", "v", "z", "N", "a", "b", "offset")
        for name, part in zip(names, step):
            setattr(self, name, getattr(self, name) + size * part)
        return True

    def _factor(self, give, share, scaling):
        """Cholesky factor of the Newton matrix, output by output."""
        Z = self.Z
        m, c = Z.shape[1], self.Y.shape[1]
        matrix = np.zeros((c, m, c, m))
        equal = share is None and np.all(give == give[:, :1])
        for j in range(c):
            if j == 0 or not equal:
                block = (Z.T * give[:, j]) @ Z
            matrix[j, :, j] = block
            for k in range(j + 1) if share is not None else ():
                # Only the lower triangle is read.
                matrix[j, :, k] -= (Z.T * (give[:, j] * share[:, k])) @ Z
        curvature = np.zeros((m, c, c))
        scaling.add_reduced(curvature)
        index = np.arange(m)
        for j in range(c):
            for k in range(j + 1):
                matrix[j, index, k, index] += curvature[:, j, k]
        # The transpose has the order of memory that LAPACK wants.
        matrix = matrix.reshape(c * m, c * m).T
        factor, info = dpotrf(matrix, lower=0, overwrite_a=1, clean=0)
        return None if info else factor
