"""Gated ReLU networks, trained to the global optimum.

With fixed gates the masks ``D_i`` of the data are fixed, and the network

    f(x) = offset + sum_k 1[x^T h_k > 0] (x^T w_k) v_k

with the penalty ``alpha / 2 * sum_k (||w_k||^2 + ||v_k||^2)`` is the convex program

    min  L( sum_i D_i X V_i + 1 b^T ) + alpha * sum_i ||V_i||_*

in matrices ``V_i`` with singular value decompositions ``sum_k s_k a_k b_k^T``: the
nuclear norm, with one output the Euclidean one, is the cheapest way to write ``V_i``
as a sum of ``w_k v_k^T``.
"""

from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from sklearn_convexnn._sklearn import device, get_namespace, max_precision_float_dtype
from sklearn_convexnn._utils.breakdown import BREAKDOWNS, unless_broken
from sklearn_convexnn._utils.deadlines import OutOfTime, fits, until
from sklearn_convexnn._utils.devices import in_numpy
from sklearn_convexnn.model.problem import Objective
from sklearn_convexnn.model.results import gap_closed
from sklearn_convexnn.solvers.gated_first_order import Accelerated
from sklearn_convexnn.solvers.gated_losses import GatedLoss
from sklearn_convexnn.solvers.gated_network import GatedNetwork, gated_outputs
from sklearn_convexnn.solvers.gated_newton import Point, ProximalPoint
from sklearn_convexnn.solvers.gated_operator import GatedOperator
from sklearn_convexnn.solvers.gated_shrinkage import shrink

_FIRST_CHECK, _CHECK_EVERY = 10, 50
"""Accelerated steps before the first visit of all patterns, and between others."""

# What the Newton method takes to finish, as a guess: factors of the matrix and products
# with them, or products without.
_FACTORS, _WITH_FACTORS, _WITHOUT = 3, 300, 2000
_GROWTH = 10.0
"""Factor by which the steps of the proximal point method grow."""

# Steps of the proximal point method that are not solved before another is tried.
_MOST_FAILURES = 3

# Visits of all patterns after which the gap should have become smaller.
_PATIENCE = 40

# Breakdowns, one after the other, after which nothing more is to be expected.
_BREAKDOWNS = 3


class Budget:
    """Steps and time that may be spent.

    Parameters
    ----------
    max_iter : int
    deadline : float
        Value of ``time.perf_counter()``.
    """

    def __init__(self, max_iter, deadline):
        self.n_iter, self.max_iter, self.deadline = 0, max_iter, deadline

    def spent(self, n_steps=0):
        """Whether nothing is left, after `n_steps` more."""
        self.n_iter += n_steps
        return self.n_iter >= self.max_iter or self.late()

    def late(self):
        """Whether the time is over."""
        return perf_counter() > self.deadline


def solve_gated(
    X,
    objective,
    arrangement,
    *,
    tol=1e-4,
    max_iter=5000,
    deadline=np.inf,
    callback=None,
    start=None,
):
    """Optimal gated network of given patterns.

    Accelerated proximal gradient steps with backtracking and restarts, and then, if
    they would take longer, a proximal point method with semismooth Newton steps.
    Both work on the blocks that are not zero or that the dual point asks for.  From
    time to time the dual constraints ``sigma_max(X^T D_i N) <= alpha`` of all
    patterns are computed: for a lower bound, and to choose the blocks to work on.

    Parameters
    ----------
    X : {array, sparse array} of shape (n_samples, n_features)
        Its namespace and device are where, and its dtype is in what precision the
        products are computed.  Dual values are always those of the widest dtype.
    objective : GatedObjective
        Of a smooth loss; its gradient need not be Lipschitz continuous.
    arrangement : Arrangement
        Gates of shape (n_patterns, n_features), or (n_patterns, n_features + 1)
        with offsets.
    tol : float, default=1e-4
        Duality gap to reach, relative to the objective.
    max_iter : int, default=5000
        Limit of accelerated steps and iterations of conjugate gradients, together.
    deadline : float, default=inf
        Value of ``time.perf_counter()`` at which to stop.
    callback : callable or None
        Called with the iterations, objective and dual bound at each visit of all
        patterns.
    start : ndarray of shape (n_patterns, n_features, n_outputs) or None
        Blocks to start from.

    Returns
    -------
    network : GatedNetwork

    References
    ----------
    .. [1] Sahiner, A., Ergen, T., Pauly, J. and Pilanci, M. (2021). "Vector-output
       ReLU Neural Network Problems are Copositive Programs: Convex Analysis of
       Two Layer Networks and Polynomial-time Algorithms". ICLR.
    .. [2] Mishkin, A., Sahiner, A. and Pilanci, M. (2022). "Fast Convex
       Optimization for Two-Layer ReLU Networks: Equivalent Model Classes and Cone
       Decompositions". ICML.
    .. [3] O'Donoghue, B. and Candes, E. (2015). "Adaptive Restart for Accelerated
       Gradient Schemes". Foundations of Computational Mathematics 15.
    .. [4] Zhang, Y., Zhang, N., Sun, D. and Toh, K.-C. (2020). "An efficient Hessian
       based algorithm for solving large-scale sparse group Lasso problems".
       Mathematical Programming 179.
    """
    if not objective.loss.smooth:
        raise ValueError(
            f"loss={objective.loss.name!r} has no gradient at its kinks, which gated "
            "networks need; choose a smooth loss."
        )
    budget = Budget(max_iter, deadline)
    try:
        with np.errstate(all="ignore"), until(deadline):
            solver = _Solver(X, objective, arrangement, budget, start)
    except OutOfTime:
        return null_network(X.shape[1], objective)
    # Nothing is kept that is not finite.
    with np.errstate(all="ignore"):
        return solver.solve(tol, callback)


@dataclass(frozen=True)
class GatedObjective(Objective):
    """Objective of a gated network, whose constants are found in NumPy."""

    Y: np.ndarray
    sample_weight: np.ndarray
    loss: object
    alpha: float
    fit_intercept: bool

    @classmethod
    def of(cls, Y, sample_weight, loss, alpha, fit_intercept):
        """The objective of arrays of any library, in double precision."""
        Y, s = (
            np.asarray(in_numpy(part), dtype=np.float64) for part in (Y, sample_weight)
        )
        # Numbers of NumPy do not multiply arrays of other libraries.
        return cls(Y, s, loss, float(alpha), fit_intercept)


def null_network(n_features, objective):
    """The network without neurons, for want of time, and a bound that always holds.

    Parameters
    ----------
    n_features : int
    objective : GatedObjective

    Returns
    -------
    network : GatedNetwork
    """
    zeros = np.zeros(objective.Y.shape)
    offset = objective.best_offset(zeros)
    value, bound = objective.value(zeros + offset), objective.bound(zeros, 0.0)
    row = 0, 0.0, value, bound, 0
    names = "n_iter", "time", "objective", "dual_bound", "active"
    return GatedNetwork(
        gates=np.zeros((n_features + objective.fit_intercept, 0)),
        hidden=np.zeros((n_features, 0)),
        output=np.zeros((0, len(offset))),
        offset=offset,
        objective=value,
        dual_bound=bound,
        status="max_time",
        n_iter=0,
        history={name: np.array([value]) for name, value in zip(names, row)},
    )


class _Solver:
    """The program with its iterates."""

    def __init__(self, X, problem, arrangement, budget, start):
        self.xp, _ = get_namespace(X)
        xp, self.device = self.xp, device(X)
        self.wide = wide = max_precision_float_dtype(xp, self.device)
        self.gates = in_numpy(arrangement.gates)
        # By rows, as the products go through them.
        masks = xp.asarray(arrangement.patterns, device=self.device).T
        if isinstance(masks, np.ndarray):
            masks = np.ascontiguousarray(masks)
        self.all = GatedOperator(X, masks, xp, self.device, wide)
        self.problem, self.alpha = problem, problem.alpha
        Y, s = problem.Y, problem.sample_weight
        self.loss = GatedLoss(problem.loss, self._wide(Y), self._wide(s), xp)
        self.budget = budget
        # Without units; the bound of zeros needs no slopes.
        zeros = np.zeros(Y.shape)
        self.null_offset = problem.best_offset(zeros)
        self.objective = self.null_value = problem.value(zeros + self.null_offset)
        self.bound = problem.bound(zeros, 0.0)
        self.which = np.zeros(0, dtype=np.int64)
        self.operator = self._restricted()
        V = self.operator.zeros(Y.shape[1])
        if start is not None:
            self.which = np.flatnonzero(np.any(start, axis=(1, 2)))
            self.operator = self._restricted()
            V = np.ascontiguousarray(start[self.which].transpose(2, 1, 0))
            V = xp.asarray(V, dtype=self.all.dtype, device=self.device)
        known = unless_broken(None, shrink, V, 0.0, xp)
        if known is None:
            self.which = self.which[:0]
            self.operator = self._restricted()
            V = self.operator.zeros(Y.shape[1])
            known = shrink(V, 0.0, xp)
        self.norms = known[1]
        self.now = self.before = Point(
            V, self._wide(np.zeros(Y.shape[1])), self.operator.forward(V)
        )
        self.dual = self.now.F
        self.best = self.which, self.now, self.norms
        size = self.all.norm(self.loss.s) ** 2
        steepest = self.loss.steepest(self.now.F)
        # Steps in the constants are as long as those in the blocks.
        unit = size / float(np.sum(s)) if problem.fit_intercept else 0.0
        self.longest = 1.0 / max(size * steepest, np.finfo(np.float32).tiny)
        self.accelerated = Accelerated(self.loss, self.alpha, self.longest, unit, xp)
        # The Newton method is not tried before, and with how long a step.
        self.proximal, self.waiting, self.sigma = None, 0, None

    def _wide(self, values):
        return self.xp.asarray(values, dtype=self.wide, device=self.device)

    def _restricted(self):
        return self.all.restricted(self.xp.asarray(self.which, device=self.device))

    def solve(self, tol, callback):
        start, checked, late = perf_counter(), False, False
        keys = ("n_iter", "time", "objective", "dual_bound", "active")
        history = {key: [] for key in keys}
        broken = 0
        while True:
            slopes = unless_broken(None, self._check)
            broken += slopes is None
            if not checked:
                # The last check, and the network from the blocks, take as long.
                checked = True
                self.budget.deadline -= 2.0 * (perf_counter() - start)
            n_iter = self.budget.n_iter
            values = n_iter, perf_counter() - start, self.objective, self.bound
            for key, value in zip(keys, (*values, len(self.which))):
                history[key].append(value)
            if callback is not None:
                callback(n_iter, self.objective, self.bound)
            scale = history["objective"][0]
            if gap_closed(self.objective, self.bound, tol, scale):
                status = "optimal"
            elif late or self.budget.spent():
                late |= self.budget.late()
                status = "max_time" if late else "max_iter"
            elif broken >= _BREAKDOWNS:
                status = "breakdown"
            elif self._stands_still(history):
                status = "stalled"
            else:
                try:
                    with until(self.budget.deadline):
                        if slopes is not None:
                            self._choose(slopes)
                        self._proceed(tol, history)
                    broken = 0 if slopes is not None else broken
                except OutOfTime:
                    late = True
                except BREAKDOWNS:
                    broken += 1
                    self._begin_again()
                continue
            break
        history = {key: np.asarray(values) for key, values in history.items()}
        network = self._recover(history)
        closed = gap_closed(network.objective, self.bound, tol, scale)
        # Rounding may change gates that almost touch a sample.
        failed = "stalled" if status == "optimal" else status
        return replace(network, status="optimal" if closed else failed)

    @staticmethod
    def _stands_still(history):
        """Whether rounding seems to leave no further progress."""
        objective, bound = history["objective"], history["dual_bound"]
        if len(bound) <= _PATIENCE:
            return False
        before = objective[-1 - _PATIENCE] - bound[-1 - _PATIENCE]
        return objective[-1] - bound[-1] > 0.99 * before

    def _proceed(self, tol, history):
        """Some steps of the method that promises to be faster."""
        if self.proximal is None and self._newton_pays(tol, history):
            self._begin_newton()
        if self.proximal is not None:
            self._step_newton(tol)
            return
        for _ in range(_CHECK_EVERY if self.budget.n_iter else _FIRST_CHECK):
            point, norms = self.accelerated.advance(
                self.operator, self.now, self.before
            )
            if point is None:
                break
            self.before, self.now, self.norms = self.now, point, norms
            if self.budget.spent(1):
                break
        self.dual = self.now.F

    def _newton_pays(self, tol, history):
        """Whether the accelerated steps, at their pace, would take longer to finish."""
        n_iter = np.asarray(history["n_iter"])
        if len(n_iter) < 3 or n_iter[-1] < self.waiting:
            return False
        gaps = np.subtract(history["objective"], history["dual_bound"])
        middle = np.searchsorted(n_iter, n_iter[-1] / 2, side="right") - 1
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = np.log(gaps[middle] / gaps[-1]) / (n_iter[-1] - n_iter[middle])
            left = np.log(gaps[-1] / (tol * abs(self.objective))) / rate
        n_outputs = self.now.F.shape[1]
        step = 4.0 * self.all.X_size * max(len(self.which), 1) * n_outputs
        factor = ProximalPoint.matrix_work(self.operator, n_outputs)
        return fits(2.0 * factor) and not 0 <= left <= min(
            _WITHOUT, _WITH_FACTORS + _FACTORS * factor / step
        )

    def _begin_newton(self):
        self.proximal = ProximalPoint(
            self.loss, self.alpha, self.accelerated.unit, self.budget, self.xp
        )
        sizes = self.norms[self.norms > 0]
        size = float(self.xp.mean(sizes)) if sizes.shape[0] else 0.0
        self.sigma = max(size / self.alpha, 10.0 * self.longest)
        self.failures = 0

    def _begin_again(self):
        """Accelerated steps from the best blocks."""
        self.which, point, self.norms = self.best
        self.operator = self._restricted()
        self.proximal, self.waiting = None, 2 * self.budget.n_iter
        self.now = self.before = self.accelerated.centred(point)
        self.dual = self.now.F

    def _step_newton(self, tol):
        accuracy = 0.01 * tol * abs(self.objective)
        point, self.dual, solved = self.proximal.step(
            self.operator, self.now, self.dual, self.sigma, accuracy
        )
        self.norms = shrink(point.V, 0.0, self.xp)[1]
        self.before = self.now = point
        # Further, rounding in the products would be larger than what is sought.
        largest = 1e-3 * self.longest / float(self.xp.finfo(self.all.dtype).eps)
        if solved:
            self.sigma = min(_GROWTH * self.sigma, largest)
            return
        self.failures, self.sigma = self.failures + 1, 0.1 * self.sigma
        if self.failures == _MOST_FAILURES:
            # As with losses that are linear in places; the slower method gets on.
            self.proximal, self.waiting = None, 2 * self.budget.n_iter
            self.now = self.before = self.accelerated.centred(self.now)
            self.dual = self.now.F

    def _check(self):
        """Objective and dual bound at the current point; slopes of all patterns."""
        now, dual = in_numpy(self.now.F), in_numpy(self.dual)
        if self.problem.fit_intercept:
            shift = self.problem.best_offset(now)
            now = now + shift
            shift = self._wide(shift)
            self.now, self.before = (
                Point(point.V, point.b + shift, point.F + shift)
                for point in (self.now, self.before)
            )
        objective = self.problem.value(now)
        objective += self.alpha * float(self.xp.sum(self.norms))
        if objective < self.objective:
            self.objective = objective
            self.best = self.which, self.now, self.norms
        N = self.problem.dual_point(dual)
        slopes = in_numpy(self.all.slopes(self._wide(N)))
        bound = self.problem.bound(N, slopes.max(initial=0.0))
        self.bound = max(self.bound, bound)
        return slopes

    def _choose(self, slopes):
        """Work on the blocks that are not zero and the steepest of the others."""
        used = self.which[in_numpy(self.norms) > 0]
        slopes[used] = np.inf
        order = np.argsort(-slopes, kind="stable")
        wanted = int(np.sum(slopes > 0.95 * self.alpha))
        which = np.sort(order[: min(wanted, max(200, 3 * len(used)))])
        if np.array_equal(which, self.which):
            return
        xp = self.xp
        # Blocks that come in are copies of a block of zeros behind the others.
        place = np.full(self.all.m, len(self.which))
        place[self.which] = np.arange(len(self.which))
        place = xp.asarray(place[which], device=self.device)
        self.which, self.operator = which, None
        self.operator = self._restricted()

        def moved(V):
            zero = xp.zeros((*V.shape[:-1], 1), dtype=V.dtype, device=self.device)
            return xp.take(xp.concat([V, zero], axis=-1), place, axis=-1)

        self.norms = moved(self.norms)
        self.now, self.before = (
            Point(moved(point.V), point.b, point.F) for point in (self.now, self.before)
        )

    def _recover(self, history):
        """The network of the best blocks, without a status."""
        which, point, _ = self.best
        V = in_numpy(point.V).astype(np.float64).transpose(2, 1, 0)
        U, singular, Vt = _factors(V)
        block, k = np.nonzero(singular > 1e-12 * singular.max(initial=0.0))
        root = np.sqrt(singular[block, k])[:, None]
        network = GatedNetwork(
            gates=self.gates[which[block]].T,
            hidden=(U[block, :, k] * root).T,
            output=Vt[block, k] * root,
            offset=np.zeros(V.shape[2]),
            objective=np.inf,
            dual_bound=self.bound,
            status="",
            n_iter=self.budget.n_iter,
            history=history,
        )
        F = in_numpy(gated_outputs(network, self.all.X))
        network = replace(network, offset=self.problem.best_offset(F))
        decay = np.sum(network.hidden**2) + np.sum(network.output**2)
        value = self.problem.value(F + network.offset)
        network = replace(network, objective=value + 0.5 * self.alpha * float(decay))
        if network.objective <= self.null_value:
            return network
        # Also if it is not a number.
        none = np.zeros(0, dtype=int)
        return replace(
            network,
            gates=network.gates[:, none],
            hidden=network.hidden[:, none],
            output=network.output[none],
            offset=self.null_offset,
            objective=self.null_value,
        )


def _factors(V):
    """Singular value decompositions of blocks, or other factors of theirs."""
    try:
        return np.linalg.svd(V, full_matrices=False)
    except np.linalg.LinAlgError:
        # One unit for each output makes the same network, at a higher price.
        sizes = np.linalg.norm(V, axis=1)
        eye = np.broadcast_to(np.eye(V.shape[2]), (len(V), V.shape[2], V.shape[2]))
        return V / np.maximum(sizes, 1e-300)[:, None, :], sizes, eye
