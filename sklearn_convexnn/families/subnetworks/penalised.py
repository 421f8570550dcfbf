"""The penalised form of the program of parallel sub-networks."""

from dataclasses import dataclass, field, replace
from time import perf_counter

import numpy as np

from sklearn_convexnn._utils.breakdown import BREAKDOWNS, unless_broken
from sklearn_convexnn._utils.deadlines import check, fits, svd_work
from sklearn_convexnn._utils.threads import blas_threads_for
from sklearn_convexnn.families.subnetworks.problem import Subnetworks
from sklearn_convexnn.families.subnetworks.recovery import subnetworks_of_blocks
from sklearn_convexnn.model.results import MESSAGES, gap_closed
from sklearn_convexnn.solvers.group_lasso import solve_output_weights

# Accelerated steps between two looks at the gap.
_STEPS = 100
# Part of the time left that these may take.
_DESCENT = 0.7
# Weight of the penalty relative to the largest multiplier seen: above one, it is exact.
_EXACT = 2.0
# Sub-networks of a network that compete for output weights, and the least size,
# relative to the largest, of one that does.
_MOST, _GONE = 100, 1e-6
# Step that only numbers which are not finite lead to.
_SHORTEST = 1e-290
# Iterations without progress after which no more is to be expected.
_PATIENCE = 50
_MESSAGES = {**MESSAGES, "stalled": "the duality gap does not get any smaller"}


@dataclass(frozen=True)
class PenalisedResult:
    """What `solve_deep_penalised` returns.

    Attributes
    ----------
    units : Subnetworks
        The best network seen.
    objective : float
        Its objective.  It may be below the value of the program if that lacks the
        blocks of these sub-networks.
    nu : ndarray of shape (n_samples,)
        Dual variable of the outputs.
    rho : ndarray of shape (n_cones, n_constraints)
        Multipliers of the cones.
    dual_bound : float
        The lower bound of the program's value that these two give.
    theta : ndarray of shape (n_blocks, p)
        The last iterate, whose blocks may be outside of their cones.
    offset : float
        The constant that goes with it.
    status : {'optimal', 'max_iter', 'max_time', 'stalled', 'breakdown'}
    message : str
    n_iter : int
    history : dict of ndarray
        One entry per iteration: 'time' in seconds, 'objective', 'dual_bound',
        'neurons' (sub-networks of the best network).
    """

    units: Subnetworks
    objective: float
    nu: np.ndarray
    rho: np.ndarray
    dual_bound: float
    theta: np.ndarray
    offset: float
    status: str
    message: str
    n_iter: int
    history: dict = field(repr=False)


def solve_deep_penalised(
    program,
    problem,
    *,
    tol=1e-6,
    max_iter=200,
    deadline=np.inf,
    callback=None,
    penalty=None,
):
    r"""Train parallel sub-networks with a penalty in place of the cones.

    The paper's way to large programs:

    .. math::
        \min_\theta\; L\Big(\sum_b F_b \theta_b\Big)
        + \alpha \sum_b \sum_j \|\theta_{bj}\|
        + \rho \sum_b 1^T (-A_b \theta_b)_+

    by an accelerated proximal gradient method with restarts and backtracking.
    With :math:`\rho` above the largest multiplier it is exact; with less, blocks
    are outside of their cones, and its value is below that of any network.

    So the value is never reported.  After every 100 steps, which count as one
    iteration, the vectors of the blocks become weights of real sub-networks, which
    compete for output weights with those of the best network so far; the objective
    is that of the winners.  The slopes of the penalty are multipliers of the cones,
    with which weak duality gives a bound of the program's value.

    Parameters
    ----------
    program : SubnetworkProgram
        With a smooth loss.
    problem : DeepProblem
        Of one output, from which the program is restricted.
    tol : float, default=1e-6
        Stop when the duality gap is at most `tol` times the objective.
    max_iter : int, default=200
    deadline : float, default=inf
        Value of ``time.perf_counter()`` at which to stop.
    callback : callable or None
        Called with the iteration, objective and dual bound.
    penalty : float, default=None
        The weight :math:`\rho`.  If None, it is twice the largest multiplier seen.

    Returns
    -------
    result : PenalisedResult

    Raises
    ------
    ValueError
        If the loss is not smooth.

    References
    ----------
    .. [1] Ergen, T. and Pilanci, M. (2021). "Global Optimality Beyond Two
       Layers: Training Deep ReLU Networks via Convex Programs". ICML.
       Equation 16.
    .. [2] O'Donoghue, B. and Candes, E. (2015). "Adaptive Restart for
       Accelerated Gradient Schemes". Foundations of Computational Mathematics
       15.
    """
    if not program.loss.smooth:
        raise ValueError(
            "solver='penalised' follows gradients and needs a smooth loss, but "
            f"loss={program.loss.name!r}; use solver='interior_point'."
        )
    with blas_threads_for(program.operator.p):
        return _solve(program, problem, tol, max_iter, deadline, callback, penalty)


def _solve(program, problem, tol, max_iter, deadline, callback, penalty):
    start = perf_counter()
    descent = _Descent(program, penalty)
    units = problem.null()
    objective, scale = problem.objective(units), program.null_objective()
    nu, rho = descent.nu(), descent.centre
    bound = unless_broken(None, program.dual_bound, nu, rho)
    if bound is None:
        # That of zeros always holds.
        nu, rho = np.zeros_like(nu), np.zeros_like(rho)
        bound = program.dual_bound(nu, rho)
    dual = bound, nu, rho
    history = {"time": [], "objective": [], "dual_bound": [], "neurons": []}
    last_gap, waited, n_iter = np.inf, 0, 0
    while True:
        record = perf_counter() - start, objective, dual[0], len(units)
        for entries, entry in zip(history.values(), record):
            entries.append(entry)
        if callback is not None:
            callback(n_iter, objective, dual[0])
        waited += 1
        if objective - dual[0] < 0.9 * last_gap:
            last_gap, waited = objective - dual[0], 0
        if gap_closed(objective, dual[0], tol, scale):
            status = "optimal"
        elif perf_counter() > deadline:
            status = "max_time"
        elif n_iter >= max_iter:
            status = "max_iter"
        elif waited > _PATIENCE:
            status = "stalled"
        else:
            try:
                now = perf_counter()
                # Some time is for the network that comes of them.
                descent.run(_STEPS, now + _DESCENT * (deadline - now))
                n_iter += 1
            except BREAKDOWNS:
                status = "breakdown"
                break
            rho = descent.update_multipliers()
            rebuilt = subnetworks_of_blocks(
                problem, program, descent.theta, descent.offset()
            )
            refitted = unless_broken(units, _refitted, problem, units, rebuilt)
            for found in (rebuilt, refitted):
                value = problem.objective(found)
                if value < objective:
                    objective, units = value, found
            # Next to the optimum its network has the better outputs.
            outputs = problem.outputs(units)
            for nu in (descent.nu(), -problem.gradient(outputs)[:, 0]):
                bound = program.dual_bound(nu, rho)
                if bound > dual[0]:
                    dual = bound, nu, rho
            continue
        break
    return PenalisedResult(
        units=units,
        objective=objective,
        nu=dual[1],
        rho=dual[2],
        dual_bound=dual[0],
        theta=descent.theta,
        offset=descent.offset(),
        status=status,
        message=_MESSAGES[status],
        n_iter=n_iter,
        history={key: np.asarray(entries) for key, entries in history.items()},
    )


def _refitted(problem, units, rebuilt):
    """The best network of the sub-networks of two."""
    pool = _largest(units).joined(_largest(rebuilt))
    if len(pool) == 0:
        return units
    found = solve_output_weights(
        problem.features(pool),
        problem.Y,
        problem.sample_weight,
        problem.loss,
        problem.alpha,
        free_offset=problem.fit_intercept,
        separate=False,
    )
    return _largest(replace(pool, outputs=found.values, offset=found.offset))


def _largest(units):
    sizes = units.sizes
    order = np.argsort(-sizes, kind="stable")[:_MOST]
    return units.select(order[sizes[order] > _GONE * sizes.max(initial=0.0)])


class _Descent:
    """Iterate of the accelerated proximal gradient method.

    The corner of the penalty is smoothed around known multipliers: its slopes are
    those within ``[0, weight]`` at which ``-rho z - (rho - centre)^2 / (2 stiffness)``
    is largest.  As the centres converge to the multipliers of the solution, the
    corner need not become sharper, which would slow the steps down.
    """

    def __init__(self, program, penalty):
        self.program = program
        op = program.operator
        self.theta = self.point = np.zeros((op.n_blocks, op.p))
        self.inertia = 1.0
        self.centre = np.zeros((op.n_cones, op.n_constraints))
        # Constraints that are there only to repeat others are none.
        self.own = op.own
        self.fixed = penalty is not None
        largest = np.max(np.abs(self.nu()), initial=0.0)
        self.weight = float(penalty) if self.fixed else _EXACT * largest

        f = np.full(op.n_samples, program.null_offset())
        curvature = program.loss.curvature(f, program.y, program.sample_weight)
        check(2.0 * op.n_samples**2 * op.n_blocks * op.p)
        gram = op.feature_gram(np.broadcast_to(np.eye(op.p), (op.n_blocks, op.p, op.p)))
        # Sums of squares bound what takes a factorisation.
        largest = np.trace(gram)
        if fits(svd_work(gram.shape)):
            found = unless_broken([largest], np.linalg.eigvalsh, gram, UPLO="L")
            largest = found[-1]
        loss_part = np.max(curvature) * largest
        cones = op.cone_gram(self.own.astype(np.float64))[: op.n_cones]
        norms = np.sqrt(np.sum(cones**2, axis=(1, 2)))
        norms = unless_broken(norms, np.linalg.norm, cones, 2, axis=(1, 2))
        cone_part = np.max(norms, initial=0.0)
        # The smoothed corners bend as much as the loss does.
        self.stiffness = loss_part / max(cone_part, 1e-300)
        self.step = 0.5 / max(loss_part, 1e-300)

    def offset(self, theta=None):
        """The best constant of the outputs."""
        return self._outputs(self.theta if theta is None else theta)[1]

    def nu(self):
        """Minus the derivative of the loss by the outputs."""
        f, offset = self._outputs(self.theta)
        p = self.program
        return -p.loss.gradient(f + offset, p.y, p.sample_weight)

    def _outputs(self, theta):
        p = self.program
        f = p.operator.forward(theta)
        return f, p.loss.best_offset(
            f, p.y, p.sample_weight
        ) if p.fit_intercept else 0.0

    def _multipliers(self, slack):
        rho = np.clip(self.centre - self.stiffness * slack, 0.0, self.weight)
        return rho * self.own

    def update_multipliers(self):
        """Centre the penalty at its slopes, and return them."""
        self.centre = self._multipliers(self.program.operator.cone(self.theta))
        if not self.fixed:
            self.weight = max(self.weight, _EXACT * np.max(self.centre, initial=0.0))
        return self.centre

    def run(self, n_steps, deadline):
        """Take steps, with the inertia of those before.

        Raises
        ------
        FloatingPointError
            If no step is short enough.
        """
        for _ in range(n_steps):
            if perf_counter() > deadline:
                return
            new = self._descend(self.point)
            if np.sum((self.point - new) * (new - self.theta)) > 0:
                # The inertia points uphill.
                self.inertia = 1.0
            following = 0.5 + (0.25 + self.inertia**2) ** 0.5
            factor = (self.inertia - 1.0) / following
            self.point = new + factor * (new - self.theta)
            self.theta, self.inertia = new, following

    def _descend(self, point):
        """Proximal step from `point`, shorter until the model is above the value."""
        value, gradient = self._smooth_part(point)
        rounding = 10.0 * np.finfo(np.float64).eps * abs(value)
        self.step *= 1.2
        while self.step > _SHORTEST:
            new = self._shrunk(point - self.step * gradient)
            change = new - point
            model = value + np.sum(gradient * change)
            model += 0.5 * np.sum(change**2) / self.step
            if self._smooth_part(new, with_gradient=False)[0] <= model + rounding:
                return new
            self.step *= 0.5
        raise FloatingPointError("no step is short enough")

    def _shrunk(self, theta):
        """Proximal operator of a step of the penalised norms."""
        p = self.program
        norms = p.norms(theta)
        factor = np.maximum(norms - self.step * p.alpha, 0.0) / np.maximum(
            norms, 1e-300
        )
        size = p.operator.n_norms * p.n_penalised
        new = theta.copy()
        rows = theta[:, :size].reshape(len(norms), -1) * factor[:, None]
        new[:, :size] = rows.reshape(len(theta), size)
        return new

    def _smooth_part(self, theta, with_gradient=True):
        """Loss plus smoothed penalty, and their gradient."""
        p, op = self.program, self.program.operator
        f, offset = self._outputs(theta)
        slack = op.cone(theta)
        rho = self._multipliers(slack)
        excess = -rho * slack - 0.5 / self.stiffness * (rho - self.centre) ** 2
        value = p.loss.value(f + offset, p.y, p.sample_weight) + float(np.sum(excess))
        if not with_gradient:
            return value, None
        slopes = p.loss.gradient(f + offset, p.y, p.sample_weight)
        return value, op.adjoint(slopes) - op.cone_adjoint(rho)
