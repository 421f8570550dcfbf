"""Structured primal-dual interior point method for restricted programs."""

import numpy as np

from sklearn_convexnn._utils.breakdown import check_finite, unless_broken
from sklearn_convexnn._utils.deadlines import fits
from sklearn_convexnn._utils.threads import blas_threads_for
from sklearn_convexnn.solvers._analytic_centres import analytic_centres
from sklearn_convexnn.solvers._contest import Contest
from sklearn_convexnn.solvers._newton_system import NewtonSystem
from sklearn_convexnn.solvers._second_order_cones import (
    ConeScaling,
    largest_step,
    minkowski,
)

# Iterations without progress after which rounding is what limits it.
_PATIENCE = 20
# A warm start has products of this size at the second-order cones, relative to
# the others.  Measured: with one many starts get stuck at the border of a cone;
# from thirty to three hundred none does.
_WIDE = 100.0


def solve_interior_point(
    program, *, tol=1e-6, max_iter=200, deadline=np.inf, callback=None
):
    r"""Solve a restricted program by a predictor-corrector method.

    Primal: blocks :math:`\theta_b` with slacks :math:`w_b = S_b M \theta_b \ge
    0` and :math:`\|v_b\| \le t_b`.  Dual: multipliers :math:`\rho_b \ge 0` and
    :math:`\|z_b\| \le \alpha`, and the dual variable :math:`\nu` of the loss
    in its box.  Newton's system has one small matrix per block and the loss
    on top.  It is solved either for :math:`\nu` (size ``n_samples``) or for
    the differences of the two blocks of each pattern (size ``n_patterns *
    p``), whichever is smaller, so the cost of an iteration is linear in the
    number of blocks once there are many.

    The loss enters through its dual, which is a quadratic, an entropy or a
    linear function over a box: hinge needs no smoothing, and its dual
    variable comes with the solution.

    Parameters
    ----------
    program : Program
    tol : float, default=1e-6
        Stop when the duality gap is at most `tol` times the objective.
    max_iter : int, default=200
    deadline : float, default=inf
        Value of ``time.perf_counter()`` at which to stop.
    callback : callable or None
        Called with the iteration, objective and dual bound.

    Returns
    -------
    result : SolverResult
        The point with the best objective and the best dual bound seen.

    References
    ----------
    .. [1] Vandenberghe, L. (2010). "The CVXOPT linear and quadratic cone
       program solvers".
    .. [2] Mehrotra, S. (1992). "On the Implementation of a Primal-Dual
       Interior Point Method". SIAM Journal on Optimization 2(4).
    """
    op = program.operator
    with blas_threads_for(min(op.n_samples, op.n_distinct * op.p)):
        best = Contest(program, tol, deadline, callback)
        state = unless_broken(None, _State, program)
        return best.broken(0) if state is None else _solve(state, best, max_iter)


def newton_work(operator):
    """Operations of a step, roughly, but for those of the cones.

    Parameters
    ----------
    operator : Operator

    Returns
    -------
    operations : float
    """
    n, unknowns = operator.n_samples, operator.n_distinct * operator.p
    return float(min(n, unknowns)) ** 2 * max(n, unknowns)


def _solve(state, best, max_iter):
    program, op = state.program, state.operator
    work = newton_work(op) + 2.0 * op.n_cones * op.n_constraints * op.p**2
    last_gap, last_mu, waited, n_iter = np.inf, np.inf, 0, 0
    while True:
        with np.errstate(all="ignore"):
            objective = program.objective(state.theta, state.offset)
            best.bound_by(state.nu, state.rho)
        feasible = state.feasible
        if n_iter == 0 or objective < best.objective or not feasible:
            best.objective = objective
            best.theta, best.offset = state.theta, state.offset
        status = best.record()
        if status == "optimal" and not feasible:
            status = None
        gap, mu = best.objective - best.dual_bound, state.mu
        waited += 1
        if gap < 0.9 * last_gap or mu < 0.9 * last_mu:
            last_gap, last_mu, waited = gap, mu, 0
        if status is None and not fits(work):
            status = "max_time"
        elif status is None and waited > _PATIENCE:
            status = "stalled"
        elif status is None and n_iter >= max_iter:
            status = "max_iter"
        if status is None:
            moved = unless_broken(None, state.step)
            if moved:
                n_iter += 1
                continue
            status = "breakdown" if moved is None else "stalled"
        return best.result(status, n_iter)


class _State:
    """The iterate, and the Newton steps that move it."""

    def __init__(self, program):
        self.program = program
        self.operator = op = program.operator
        self.normal_matrix = None
        # Norms are taken over rows of this length, of one block or part of one.
        self.r = program.n_penalised
        self.n_penalised = self.r * op.n_norms
        self.loss, self.y, self.s = program.loss, program.y, program.sample_weight
        self.lower, self.upper = self.loss.dual_bounds(self.y, self.s)
        self.has_lower, self.has_upper = (
            np.isfinite(self.lower),
            np.isfinite(self.upper),
        )
        self.scale = program.null_objective()
        self.open = op.open[:2]
        self.tau = np.full(op.n_blocks * op.n_norms, float(program.alpha))
        if program.warm_start is None:
            self._start_central()
        else:
            self._start_near(**program.warm_start)
        self.f = self._outputs()

    def _start_near(self, theta, offset, nu, mu):
        """Products around `mu` at a point that is almost a solution."""
        program, op = self.program, self.operator
        self.theta, self.offset = theta, offset
        self._start_dual(nu, mu)
        outward = op.outputs[:, None] * self.nu[op.cone_index]
        slack = op.cone(theta)
        lengths = np.linalg.norm(op.cone_rows, axis=1)
        size = max(np.mean(np.abs(self.nu)), program.alpha / np.sum(lengths))
        root = np.sqrt(0.25 * slack**2 + mu / size) + 0.5 * np.abs(slack)
        self.w = np.where(slack > 0, root, mu / size / root)
        self.rho = mu / self.w
        # Both parts of an open entry, and multipliers that add up.
        z = slack[self.open]
        total = -(1.0 - op.negative_slope) * outward[self.open]
        total = np.maximum(total, 1e-3 * size)
        half, shift = 0.5 * total * np.abs(z) - mu, mu * np.abs(z)
        root = np.sqrt(half**2 + total * shift)
        small = np.where(half > 0, shift / (np.abs(half) + root), (root - half) / total)
        small = np.maximum(small, mu / total)
        self.w[self.open] = small + np.maximum(z, 0.0)
        self.m = small + np.maximum(-z, 0.0)
        self.rho[self.open] = mu / self.w[self.open]
        self.sigma = mu / self.m
        v = self.rows(theta)
        ratio = _WIDE * mu / program.alpha
        self.t = 0.5 * ratio + np.sqrt(0.25 * ratio**2 + np.sum(v**2, axis=1))
        self.z = -program.alpha * v / self.t[:, None]

    def _start_central(self):
        op, program = self.operator, self.program
        self.offset = program.null_offset()
        f = np.full(op.n_samples, self.offset)
        # Analytic centres of the cones with a common scaling of slacks,
        # multipliers and second-order cones are on the central path for nu = 0.
        k = op.n_constraints
        centres = analytic_centres(op, program.starts, self.n_penalised)
        size = 0.3 * self.scale / (program.alpha * op.n_blocks * np.sqrt(k + 1))
        mu = program.alpha * size / np.sqrt(k + 1)
        self.theta = size * centres
        self.t = np.full(len(self.tau), size * np.sqrt(k + 1))
        slack = op.cone(self.theta)
        self.w = np.maximum(slack, 1e-12 * slack.max(initial=0.0))
        self._open_sides(slack)
        self.rho = mu / self.w
        self.sigma = mu / self.m
        self.z = -self.rows(op.cone_adjoint(self.rho))
        norm = np.linalg.norm(self.z, axis=1)
        self.z *= (np.minimum(norm, 0.999 * program.alpha) / np.maximum(norm, 1e-300))[
            :, None
        ]
        nu = self.loss.project_dual(
            -self.loss.gradient(f, self.y, self.s), self.y, self.s
        )
        # A tenth of it; measured: both more and less cost iterations.
        self._start_dual(0.1 * nu, mu, 0.1 * f)

    def _open_sides(self, slack):
        """Split open entries into two positive parts of a product as elsewhere."""
        at = self.open
        z = slack[at]
        size = np.sqrt(np.mean(self.w**2)) if len(z) else 1.0
        root = np.sqrt(0.25 * z**2 + size**2)
        self.w[at] = np.where(z > 0, root + 0.5 * z, size**2 / (root - 0.5 * z))
        self.m = np.where(z > 0, size**2 / (root + 0.5 * z), root - 0.5 * z)

    def _outputs(self):
        """Outputs of the blocks, with the two parts at the open entries."""
        op = self.operator
        f = op.forward(self.theta) + self.offset
        if len(self.m):
            block, constraint, _ = op.open
            parts = self.w[self.open] - op.negative_slope * self.m
            z = (self.theta[: op.n_cones] @ op.cone_rows.T)[block, constraint]
            f += op.scatter((parts - z) * op.outputs[block])
        return f

    def _start_dual(self, nu, mu, f=None):
        """`nu` inside its box, and multipliers to match."""
        margin = np.minimum(mu, 0.25 * (self.upper - self.lower))
        self.nu = nu = np.clip(nu, self.lower + margin, self.upper - margin)
        low, up = self.has_lower, self.has_upper
        below = np.where(low, nu - self.lower, 1.0)
        above = np.where(up, self.upper - nu, 1.0)
        a = b = 0.0
        if f is not None:
            error = 0.1 * self.loss.dual_slope(nu, self.y, self.s) - f
            a = np.where(low, np.maximum(-error, 0.0), 0.0)
            b = np.where(up, np.maximum(error, 0.0), 0.0)
            # Very unequal weights must not put the point off the central path.
            excess = np.sum(a * below + b * above) / self.scale
            a, b = a / max(1.0, excess), b / max(1.0, excess)
        self.a = a + np.where(low, mu / below, 0.0)
        self.b = b + np.where(up, mu / above, 0.0)

    def rows(self, theta):
        """The parts of blocks that norms are taken of, as rows."""
        return theta[:, : self.n_penalised].reshape(-1, self.r)

    def by_block(self, rows):
        """Rows as parts of blocks again."""
        return rows.reshape(self.operator.n_blocks, self.n_penalised)

    @property
    def feasible(self):
        error = self.operator.cone(self.theta) - self.w
        error[self.open] += self.m
        error = np.abs(error)
        return bool(np.max(error, initial=0.0) <= 1e-9 * np.max(self.w, initial=1e-300))

    @property
    def mu(self):
        """Mean of the complementarity products, zero at the solution."""
        return self._products()[0]

    def _products(self, step=None, size=0.0):
        """Mean and minimum of the complementarity products, after a step."""
        low, up = self.has_lower, self.has_upper
        names = ["w", "rho", "m", "sigma", "a", "b", "nu", "t", "theta", "z"]
        if step is None:
            w, rho, m, sigma, a, b, nu, t, theta, z = (
                getattr(self, name) for name in names
            )
        else:
            w, rho, m, sigma, a, b, nu, t, theta, z = (
                getattr(self, name) + size * step[name] for name in names
            )
        v = self.rows(theta)
        products = [
            (w * rho).ravel(),
            m * sigma,
            (nu - self.lower)[low] * a[low],
            (self.upper - nu)[up] * b[up],
        ]
        cones = t * self.tau + np.einsum("bi,bi->b", v, z)
        count = sum(part.size for part in products) + len(t)
        mean = (sum(part.sum() for part in products) + cones.sum()) / count
        # The smaller eigenvalue of a pair of second-order cone points.
        inner = minkowski(t, v, t, v) * minkowski(self.tau, z, self.tau, z)
        products.append(np.sign(inner) * np.sqrt(np.abs(inner)))
        return mean, min(part.min(initial=np.inf) for part in products)

    def step(self):
        """One predictor-corrector step; False if rounding does not allow it."""
        mu = self.mu
        scaling = ConeScaling(self.t, self.rows(self.theta), self.tau, self.z)
        system = NewtonSystem(self, scaling)
        if not system.factored:
            return False
        predictor = self._direction(system, scaling, 0.0)
        reach = min(1.0, self.max_step(predictor))
        after = max(self._products(predictor, reach)[0], 0.0)
        target = min(1.0, after / mu) ** 3 * mu
        corrector = self._direction(system, scaling, target, predictor)
        size, step = self._weighted(predictor, corrector, reach)
        if not size > 1e-3:
            # Blocked by a pair that is far from the others: go back to the middle.
            centring = self._direction(system, scaling, mu)
            size, step = max(
                (size, step), self._guarded(centring), key=lambda found: found[0]
            )
        if not size > 1e-12:
            return False
        check_finite(*step.values())
        for name, part in step.items():
            setattr(self, name, getattr(self, name) + size * part)
        self.f = self._outputs()
        return True

    def _direction(self, system, scaling, target, predictor=None):
        """Newton step to products of `target`, corrected for the predictor's."""
        lead, rest = scaling.lam
        slack = target - self.w * self.rho
        other = target - self.m * self.sigma
        low = target - self.a * (self.nu - self.lower)
        up = target - self.b * (self.upper - self.nu)
        head, tail = np.full_like(lead, target), np.zeros_like(rest)
        if predictor is not None:
            slack -= predictor["w"] * predictor["rho"]
            other -= predictor["m"] * predictor["sigma"]
            low -= predictor["nu"] * predictor["a"]
            up += predictor["nu"] * predictor["b"]
            s_head, s_tail = scaling.apply_inverse(
                predictor["t"], self.rows(predictor["theta"])
            )
            z_head, z_tail = scaling.apply(np.zeros_like(lead), predictor["z"])
            head -= s_head * z_head + np.einsum("bi,bi->b", s_tail, z_tail)
            tail -= s_head[:, None] * z_tail + z_head[:, None] * s_tail
        head, tail = scaling.divide_by_lambda(head, tail)
        # The predictor only sizes things up; rounding does not matter to it.
        refined = predictor is not None or target > 0
        return system.solve(
            slack, other, head - lead, tail - rest, low, up, refined=refined
        )

    def _weighted(self, predictor, corrector, reach):
        """Step between predictor and corrector that gets furthest, and its size.

        The corrector is made for a full step.  When the predictor gets only a
        short way, a part of it often gets further than all of it.
        """
        ratios = list(zip(self._ratios(predictor), self._ratios(corrector)))
        best = -1.0, 1.0
        for weight in np.linspace(1.0, reach**2, 4):
            step = {
                name: predictor[name] + weight * (corrector[name] - predictor[name])
                for name in ("t", "theta", "z")
            }
            worst = min(
                np.min(first + weight * (second - first), initial=0.0)
                for first, second in ratios
            )
            size = min(-1.0 / worst if worst < 0 else np.inf, self._cone_step(step))
            if size > 1.05 * best[0]:
                best = size, weight
            if size > 0.6:
                break
        weight = best[1]
        return self._guarded(
            {
                name: predictor[name] + weight * (corrector[name] - predictor[name])
                for name in corrector
            }
        )

    def _guarded(self, step):
        """A size for `step` that does not end too close to the boundary, and it."""
        size = min(1.0, 0.99 * self.max_step(step))
        before = self._products()[1]
        for _ in range(20):
            mean, smallest = self._products(step, size)
            if smallest > min(1e-4 * mean, 0.5 * before):
                break
            size *= 0.8
        return size, step

    def max_step(self, step):
        """Largest step that stays inside all cones and boxes."""
        worst = min(np.min(ratio, initial=0.0) for ratio in self._ratios(step))
        return min(-1.0 / worst if worst < 0 else np.inf, self._cone_step(step))

    def _ratios(self, step):
        """Relative changes of everything that has to stay positive."""
        low, up = self.has_lower, self.has_upper
        return [
            step["w"] / self.w,
            step["rho"] / self.rho,
            step["m"] / self.m,
            step["sigma"] / self.sigma,
            step["nu"][low] / (self.nu - self.lower)[low],
            -step["nu"][up] / (self.upper - self.nu)[up],
            step["a"][low] / self.a[low],
            step["b"][up] / self.b[up],
        ]

    def _cone_step(self, step):
        v, d_v = self.rows(self.theta), self.rows(step["theta"])
        return min(
            largest_step(self.t, v, step["t"], d_v),
            largest_step(self.tau, self.z, np.zeros_like(self.tau), step["z"]),
        )
