"""Cutting planes: the dual program, one violated constraint after the other."""

from contextlib import suppress
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from sklearn.utils import check_random_state

from sklearn_convexnn._sklearn import FitTask
from sklearn_convexnn._utils.breakdown import check_finite, least_squares, unless_broken
from sklearn_convexnn._utils.deadlines import OutOfTime, fits, until
from sklearn_convexnn.families.simplify import simplify
from sklearn_convexnn.families.two_layer.branch_and_bound import maximise_slope
from sklearn_convexnn.families.two_layer.pricing import (
    Candidates,
    merge_candidates,
    search_units,
    search_widely,
)
from sklearn_convexnn.families.two_layer.recovery import neurons_from_blocks
from sklearn_convexnn.families.two_layer.slope_bounds import (
    norm_bound,
    semidefinite_bound,
    triangle_bound,
)
from sklearn_convexnn.families.unseen import allow_for_hills
from sklearn_convexnn.model.results import MESSAGES, Record
from sklearn_convexnn.patterns.arrangements import Arrangement, with_ones
from sklearn_convexnn.programs.two_layer import TwoLayerProgram
from sklearn_convexnn.solvers import solve_interior_point
from sklearn_convexnn.solvers.lasso import solve_lasso
from sklearn_convexnn.training.proving import node_limit
from sklearn_convexnn.training.trained import (
    Trained,
    null_training,
    round_printer,
)

_MESSAGES = {
    **MESSAGES,
    "loose": "the relaxation of the pricing problem leaves this gap, and no neuron "
    "was found that could still matter",
    "unproven": "branch and bound could not close the bound of the steepest slope "
    "within its limit of work, and no neuron was found that could still matter",
}
_RELAXATIONS = {"triangle": triangle_bound, "semidefinite": semidefinite_bound}
# Random starts of the local search for each output sign, and how many times as
# many before a bound that rests on it is believed.
_STARTS, _EFFORT = 100, 4
# Share of the limit of work that a proof gets while the network is far from the
# optimum.
_ROUGH = 0.05
# Neurons on a kink are moved by this, relatively, to fall into a cell; so often
# are cells drawn that are not yet known.
_NUDGE, _DRAWS = 1e-9, 16


def train_by_cuts(problem, known, settings, task, duals, *, cuts, pricing):
    """Train the network of one output by cutting planes.

    Parameters
    ----------
    problem, known, settings, task, duals
        As of `Settings.method`.
    cuts, pricing : str
        As of `cutting_planes`.

    Returns
    -------
    trained : Trained

    Raises
    ------
    ValueError
        If there are several outputs.
    """
    if problem.n_outputs > 1:
        raise ValueError(
            f"cutting_planes is for one output, got {problem.n_outputs}; fit the "
            "estimator itself."
        )
    result = unless_broken(
        None,
        cutting_planes,
        problem,
        check_random_state(settings.seed),
        settings.limits,
        cuts=cuts,
        pricing=pricing,
        known=known,
        callback=round_printer(settings, "cuts"),
        task=task,
    )
    if result is None:
        return null_training(problem, settings)
    certificate, bound = _certificate(problem, result, pricing, settings.tol)
    return Trained.of(
        result, neurons=result.neurons, dual_bound=bound, certificate=certificate
    )


def _certificate(problem, result, pricing, tol):
    """What the bound holds for, and the bound."""
    kinds = {"search": "estimated", "nonnegative": "restricted"}
    certificate = kinds.get(pricing, "global")
    if certificate == "restricted":
        # On some data, such as orthonormal samples, no other neuron is steeper.
        geometry = problem.family.geometry
        with suppress(OutOfTime):
            outer = min(
                unless_broken(np.inf, slope, problem.X, result.nu[:, 0], **geometry)
                for slope in (norm_bound, triangle_bound)
            )
            proven = problem.bound(result.nu, max(outer, result.kappa))
            if proven >= (1.0 - tol) * result.objective:
                return "global", proven
    return certificate, result.dual_bound


def cutting_planes(
    problem,
    rng,
    limits,
    *,
    cuts="neurons",
    pricing="exact",
    known=None,
    callback=None,
    task=None,
):
    r"""Train a network of any width by cutting planes on the dual program.

    The dual :math:`\max G(\nu)` subject to :math:`|\nu^T act(X u + b)| \le
    \alpha` has a constraint for each neuron.  It is solved with those of the
    neurons found so far; the dual of that is the training problem restricted
    to these neurons.  The neurons that violate the constraint most, one for
    each output sign, are then added [1]_.

    Parameters
    ----------
    problem : Problem
    rng : RandomState
        For the local search, and the choice among the cells around a kink.
    limits : Limits
    cuts : {'neurons', 'cells'}, default='neurons'
        'neurons': each neuron is a constraint of its own, and the restricted
        problem a lasso.  'cells': all neurons of its activation cell enter,
        as a block of the convex program [2]_, which takes fewer rounds.
    pricing : {'exact', 'search', 'nonnegative', 'triangle', 'semidefinite'}
        How the steepest neuron is found and bounded.  'exact': by local
        search and `maximise_slope`, roughly while the gap cannot close; where
        its work is limited the bound is what it has proven.  'search': by
        local search, and the bound rests on it.
        'triangle', 'semidefinite': the bound is that of the relaxation (or
        that from norms if smaller), the neurons come from local search.
        'nonnegative': among the neurons that are active on all samples, a
        convex problem; the bound holds for networks of these only.
    known, callback, task
        As of `generate_neurons`; without known neurons it starts from none.

    Returns
    -------
    result : GlobalResult
        With the best network and the best bound seen.  In its history 'kappa'
        is the slope that the bound of the round rests on, divided by alpha,
        and 'blocks' the number of neurons or cells in the restricted problem.

    References
    ----------
    .. [1] Ergen, T. and Pilanci, M. (2021). "Convex Geometry and Duality of
       Over-parameterized Neural Networks". JMLR 22. Section 6.
    .. [2] Pilanci, M. and Ergen, T. (2020). "Neural Networks are Convex
       Regularizers". ICML. Theorem 1.
    """
    if cuts == "neurons":
        restricted = _NeuronCuts(problem)
    else:
        restricted = _CellCuts(problem, rng, pricing == "nonnegative")
    run = _Run(problem, rng, restricted, pricing, limits)
    return run.solve(known, callback, FitTask() if task is None else task)


def steepest_nonnegative(X, nu, *, free_bias):
    r"""Steepest neurons among those that are active on all samples.

    ``max sign * nu^T X u`` over ``||u|| <= 1`` and ``X u >= 0`` is the norm of
    the projection of ``sign * X^T nu`` on a cone, a non-negative least squares
    problem.  It is the largest slope of all neurons if all outputs that a
    neuron can have are among these, as for orthonormal samples.  With
    `free_bias` all samples can be activated, and only the linear neuron
    remains.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    nu : ndarray of shape (n_samples,)
        Sums to zero if `free_bias`.
    free_bias : bool

    Returns
    -------
    candidates : Candidates
        Those of positive slope, at most one of each sign.

    References
    ----------
    .. [1] Ergen, T. and Pilanci, M. (2021). "Convex Geometry and Duality of
       Over-parameterized Neural Networks". JMLR 22. Section 6.
    """
    if free_bias:
        return _linear_neuron(X, nu)
    found = []
    for sign in (1.0, -1.0):
        gradient = sign * (nu @ X)
        rho, _ = least_squares(X.T, -gradient)
        direction = gradient + rho @ X
        norm = np.linalg.norm(direction)
        # Below this the projection is zero up to rounding.
        if norm > 1e-12 * np.linalg.norm(gradient):
            found.append((direction / norm, 0.0, sign, norm))
    found.sort(key=lambda one: -one[3])
    return _as_candidates(found, X.shape[1])


def _as_candidates(found, d):
    """Candidates from tuples ``(direction, bias, sign, slope)``."""
    directions, biases, signs, slopes = zip(*found) if found else ([],) * 4
    return Candidates(
        np.reshape(directions, (len(found), d)),
        np.array(biases),
        np.reshape(signs, (len(found), 1)),
        np.array(slopes),
    )


def _linear_neuron(X, nu):
    """The steepest neuron that is active on all samples, with a free bias."""
    slope = nu @ X
    norm = np.linalg.norm(slope)
    if norm == 0:
        return _as_candidates([], len(slope))
    return _as_candidates(
        [(slope / norm, np.abs(X).sum() + 1.0, 1.0, norm)], len(slope)
    )


def point_inside(rows):
    """A point far inside the cone ``rows @ u >= 0``.

    The shortest ``u`` with distance one to all hyperplanes, by non-negative
    least squares as Lawson and Hanson do it.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, p)
        Zero rows are no constraints.

    Returns
    -------
    point : ndarray of shape (p,) or None
        None if the cone has no inside, up to rounding.
    """
    norms = np.linalg.norm(rows, axis=1)
    rows = rows[norms > 0] / norms[norms > 0, None]
    system = np.vstack([rows.T, np.ones(len(rows))])
    target = np.append(np.zeros(rows.shape[1]), 1.0)
    rho, distance = least_squares(system, target)
    if distance < 1e-9:
        return None
    residual = system @ rho - target
    return -residual[:-1] / residual[-1]


class _NeuronCuts:
    """Constraints of single neurons; the restricted problem is a lasso."""

    def __init__(self, problem):
        self.problem = problem
        self.pool = problem.null()

    def __len__(self):
        return len(self.pool)

    def add(self, found, nu):
        """Add neurons that are steeper than all at hand; whether there were any."""
        p = self.problem
        steepest = np.max(p.family.slopes(self.pool.units, nu), initial=p.alpha)
        found = found.select(found.slopes > steepest * (1.0 + 1e-9))
        new = _neurons(p, found)
        self.pool = self.pool.joined(new)
        return len(found) > 0

    def solve(self, tol, deadline):
        """Network and dual point of the restricted problem, to rounding."""
        return fit_coefficients(self.problem, self.pool)


def _neurons(problem, found):
    """Candidates as neurons without coefficients."""
    return problem.unused(problem.family.neurons(found.directions, found.biases))


class _CellCuts:
    """Constraints of whole cells; the restricted problem has a block for each."""

    def __init__(self, problem, rng, all_active):
        self.problem, self.rng, self.all_active = problem, rng, all_active
        rows = with_ones(problem.X, problem.fit_intercept)
        # Offsets in units of the data, so that no cell looks thin.
        size = np.sqrt(np.mean(np.sum(problem.X**2, axis=1)))
        self.unit = np.ones(rows.shape[1])
        self.unit[problem.X.shape[1] :] = max(size, np.finfo(float).tiny)
        self.rows = rows * self.unit
        self.gates = np.zeros((0, rows.shape[1]))
        self.patterns = np.zeros((0, len(problem.y)), dtype=bool)

    def __len__(self):
        return len(self.gates)

    def add(self, found, nu):
        """Add the cells of neurons; whether any of them was new."""
        before = len(self)
        for direction, bias in zip(found.directions, found.biases):
            for pattern in self._patterns_at(direction, bias):
                if self._add(pattern):
                    break
        return len(self) > before

    def _patterns_at(self, direction, bias):
        """Patterns of the cells that the neuron is in or on the border of."""
        X = self.problem.X
        if self.all_active:
            return np.ones((1, len(X)), dtype=bool)
        size = np.max(np.linalg.norm(X, axis=1)) + abs(bias)
        moved = self.rng.standard_normal((_DRAWS, X.shape[1]))
        z = X @ (direction + _NUDGE * moved).T + bias
        if self.problem.fit_intercept:
            z = z + _NUDGE * size * self.rng.standard_normal(_DRAWS)
        return z.T > 0

    def _add(self, pattern):
        if np.any(np.all(self.patterns == pattern, axis=1)):
            return False
        gate = point_inside(np.where(pattern, 1.0, -1.0)[:, None] * self.rows)
        if gate is None:
            return False
        self.gates = np.concatenate([self.gates, [gate * self.unit]])
        self.patterns = np.concatenate([self.patterns, pattern[None]])
        return True

    def solve(self, tol, deadline):
        """Network and dual point of the restricted problem."""
        p = self.problem
        arrangement = Arrangement(self.patterns, self.gates, False)
        program = TwoLayerProgram(p, arrangement)
        if not program.can_improve:
            return p.null(), p.null_dual()
        result = solve_interior_point(program, tol=tol, deadline=deadline)
        neurons = neurons_from_blocks(program, result.theta, result.offset)
        return neurons, p.project(result.nu[:, None])


def fit_coefficients(problem, neurons):
    """Network of given neurons with the best coefficients, and its dual point.

    Parameters
    ----------
    problem : Problem
    neurons : Neurons

    Returns
    -------
    neurons : Neurons
        Those with a coefficient that is not zero.
    N : ndarray of shape (n_samples, 1)
    """
    p = problem
    if len(neurons) == 0:
        return p.null(), p.null_dual()
    solution = solve_lasso(
        p.family.features(neurons.units),
        p.y,
        p.sample_weight,
        p.single_loss,
        p.alpha,
        free_offset=p.fit_intercept,
    )
    fitted = neurons.with_coefficients(solution.values, solution.offset)
    return fitted.select(solution.values != 0), p.project(solution.nu[:, None])


@dataclass(frozen=True)
class _Price:
    """What pricing has found at a dual point.

    `found` has the violating neurons that are to be added, `lower` is the
    largest slope seen, or alpha, and the bound rests on `upper`.  `final` says
    whether the bound of the same point cannot get closer by more work.
    """

    found: Candidates
    lower: float
    upper: float
    final: bool


class _Run:
    def __init__(self, problem, rng, cuts, pricing, limits):
        self.problem, self.rng, self.cuts, self.pricing = problem, rng, cuts, pricing
        self.tol, self.deadline = limits.tol, limits.deadline
        self.max_iter, most = limits.max_iter, limits.max_neurons
        self.max_neurons = np.inf if most is None else most
        self.geometry = problem.family.geometry
        self.best = problem.null()
        self.objective = self.null_objective = problem.objective(self.best)
        # The bound of zeros needs no search.
        self.nu, self.kappa = np.zeros(problem.Y.shape), 0.0
        self.bound = problem.bound(self.nu, self.kappa)
        self.last_kappa, self.size = np.nan, 0

    @property
    def slack(self):
        """The gap that may be left."""
        return max(self.tol * self.objective, 1e-12 * self.null_objective)

    @property
    def closed(self):
        return self.objective - self.bound <= self.slack

    def solve(self, known, callback, task):
        record, n_iter = Record(callback), 0
        try:
            with until(self.deadline):
                status = unless_broken("breakdown", self._begin, known)
        except OutOfTime:
            status = "max_time"
        while True:
            if status is None:
                round_task = task.subtask("round").begin()
                try:
                    with until(self.deadline):
                        status = unless_broken("breakdown", self._round)
                except OutOfTime:
                    status = "max_time"
                n_iter += 1
                if round_task.end(self.best) and status is None:
                    status = "callback"
                if status is None and n_iter == self.max_iter:
                    status = "max_iter"
            if status not in (None, "optimal") and self.pricing == "search":
                try:
                    with until(self.deadline):
                        unless_broken(None, self._price, self.nu, _EFFORT)
                except OutOfTime:
                    alpha = self.problem.alpha
                    self.kappa = allow_for_hills(
                        self.kappa, self.kappa, alpha, n_starts=0
                    )
                    self.bound = self.problem.bound(self.nu, self.kappa)
            record.add(self, n_iter, self.size)
            if status is not None:
                break
        slopes = self.kappa, self.kappa
        return record.result(self, self.nu, slopes, _MESSAGES[status], status, n_iter)

    def _begin(self, known):
        """Price the network without neurons, for the first cuts; status if optimal."""
        p = self.problem
        price, nu = self._price_surely(p.null_dual())
        if self.closed:
            return "optimal"
        if known is not None:
            self._start_from(known, nu)
        self.cuts.add(price.found, nu)
        return None

    def _start_from(self, known, nu):
        """Add neurons, and keep the best network of these alone."""
        p = self.problem
        # Linear ones are known by their outputs alone.
        known = known.select(~known.units.linear)
        neurons = known.units
        z = p.X @ neurons.directions.T + neurons.biases
        steep = np.full(len(known), np.inf)
        signs = np.where(known.outputs < 0, -1.0, 1.0)
        found = Candidates(neurons.directions, neurons.biases, signs, steep)
        if self.pricing == "nonnegative":
            # The bound is for neurons that are active on all samples.
            size = np.abs(z).max(initial=0.0)
            found = found.select(np.all(z >= -1e-9 * size, axis=0))
        self.cuts.add(found, nu)
        neurons, _ = fit_coefficients(p, _neurons(p, found))
        self._keep(neurons)

    def _round(self):
        """Solve the restricted problem and price.  The status if it is the last."""
        p, self.size = self.problem, len(self.cuts)
        # A loose solution costs little less and has many more neurons.
        neurons, nu = self.cuts.solve(0.1 * min(self.tol, 1e-3), self.deadline)
        neurons = unless_broken(neurons, simplify, p, neurons)
        limited = len(neurons) > self.max_neurons
        if limited:
            order = np.argsort(-neurons.sizes, kind="stable")
            largest = neurons.select(np.sort(order[: self.max_neurons]))
            neurons, _ = fit_coefficients(p, largest)
        self._keep(neurons)
        price, nu = self._price_surely(nu)
        if self.closed:
            return "optimal"
        if limited:
            return "max_neurons"
        if perf_counter() > self.deadline:
            return "max_time"
        # What is left is up to the bound of the slope, not to the neurons.
        idle = self.objective - p.bound(nu, price.lower) <= 0.1 * self.slack
        if idle and price.final and self.pricing in _RELAXATIONS:
            return "loose"
        if idle and price.final and self.pricing == "exact":
            return "unproven"
        if idle and price.upper > price.lower and self.pricing == "search":
            return "unseen"
        return None if self.cuts.add(price.found, nu) else "stalled"

    def _keep(self, neurons):
        value = self.problem.objective(neurons)
        if value < self.objective and len(neurons) <= self.max_neurons:
            self.best, self.objective = neurons, value

    def _price_surely(self, nu):
        """Price, and again with a longer search at the point that closes the gap."""
        price = self._price(nu)
        if self.closed and self.pricing == "search":
            nu = self.nu
            price = self._price(nu, effort=_EFFORT)
        return price, nu

    def _price(self, nu, effort=1):
        """Price a dual point, and keep it if its bound is the best."""
        p = self.problem
        check_finite(nu)
        price = self._slopes(nu, effort)
        self.last_kappa = price.upper
        # A search that missed a neuron may find it later.
        steeper = p.family.slopes(_neurons(p, price.found).units, self.nu)
        self.kappa = float(np.maximum(self.kappa, steeper.max(initial=0.0)))
        if nu is self.nu:
            self.kappa = max(self.kappa, price.upper)
        self.bound = p.bound(self.nu, self.kappa)
        bound = p.bound(nu, price.upper)
        if bound > self.bound:
            self.nu, self.kappa, self.bound = nu, price.upper, bound
        return price

    def _slopes(self, N, effort):
        """Violating neurons, and the slope that the bound rests on."""
        p, nu = self.problem, N[:, 0]
        ceiling = norm_bound(p.X, nu, **self.geometry)
        if ceiling <= p.alpha:
            # No neuron can violate anything; so it is where all data are zero.
            return _Price(_as_candidates([], p.X.shape[1]), p.alpha, p.alpha, True)
        if self.pricing == "nonnegative":
            found = steepest_nonnegative(p.X, nu, free_bias=p.fit_intercept)
        else:
            found = self._search(N, effort)
        lower = max(p.alpha, found.slopes.max(initial=0.0))
        upper, final = lower, True
        if self.pricing == "exact":
            top = self._bracket(N, lower)
            if top.lower > lower:
                missed = _as_candidates(
                    [(top.direction, top.bias, top.outputs[0], top.lower)],
                    p.X.shape[1],
                )
                found = merge_candidates([missed, found], p.X)
            lower = max(lower, top.lower)
            upper, final = max(lower, top.upper), top.status != "optimal"
        elif self.pricing in _RELAXATIONS:
            relaxed = _RELAXATIONS[self.pricing](p.X, nu, **self.geometry)
            upper = max(lower, min(relaxed, ceiling))
        elif self.pricing == "search" and effort > 1:
            upper = min(found.allow_for_unseen(lower, self.tol), max(lower, ceiling))
        steepest = [
            np.flatnonzero(found.outputs[:, 0] * sign > 0)[:1] for sign in (1.0, -1.0)
        ]
        found = found.select(np.concatenate(steepest))
        if p.fit_intercept and self.pricing != "nonnegative":
            linear = _linear_neuron(p.X, nu)
            upper = max(upper, linear.slopes.max(initial=0.0))
            found = merge_candidates([found, linear], p.X)
        violating = found.slopes > p.alpha * (1.0 + 1e-9)
        return _Price(found.select(violating), lower, upper, final)

    def _bracket(self, N, lower):
        """Largest slope, as close as it matters, given that some slope is `lower`."""
        p, nu = self.problem, N[:, 0]
        gap = self.objective - p.bound(N, lower)
        nodes = node_limit(p)
        hopeful = gap <= self.slack
        if not hopeful:
            # No proof can close the gap at this point.
            nodes = int(_ROUGH * nodes)
        rtol = float(np.clip(0.1 * gap / self.objective, 0.1 * self.tol, 1e-2))
        top = maximise_slope(
            p.X,
            nu,
            **self.geometry,
            target=(1.0 + rtol) * lower,
            rtol=rtol,
            deadline=self.deadline,
            max_nodes=nodes,
        )
        if hopeful and nodes and top.status != "optimal" and fits():
            # Its first bounds over cones can be worse than the relaxation.
            relaxed = semidefinite_bound(p.X, nu, **self.geometry)
            top = replace(top, upper=min(top.upper, relaxed))
        return top

    def _search(self, N, effort):
        """Local maximisers of the slope, steepest first."""
        p, known = self.problem, self.best.units.directions
        options = {**self.geometry, "floor": p.alpha}
        far = search_widely(p.X, N, effort * _STARTS, self.rng, **options)
        near = search_units(p.X, N, np.concatenate([known, -known]), **options)
        return merge_candidates([far, near.uncounted()], p.X)
