"""Lower bounds of the objective, from a network that is given."""

import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sklearn_convexnn._utils.breakdown import least_squares
from sklearn_convexnn._utils.deadlines import OutOfTime, after, left, seconds, until
from sklearn_convexnn.families.two_layer.branch_and_bound import maximise_slope
from sklearn_convexnn.families.two_layer.cell_search import (
    cell_slope_bound,
    search_cells,
)
from sklearn_convexnn.families.two_layer.slope_bounds import (
    norm_bound,
    semidefinite_bound,
    triangle_bound,
)
from sklearn_convexnn.families.unseen import allow_for_hills
from sklearn_convexnn.model.problem import Problem
from sklearn_convexnn.model.settings import Limits
from sklearn_convexnn.patterns.arrangements import (
    can_enumerate,
    enumerate_arrangement,
    has_few_patterns,
    network_arrangement,
    sample_arrangement,
    union,
    with_ones,
)
from sklearn_convexnn.programs.two_layer import TwoLayerProgram
from sklearn_convexnn.solvers import null_result, solve_interior_point
from sklearn_convexnn.training import proving as proofs
from sklearn_convexnn.training.at_scale import generate_at_scale, goes_at_scale
from sklearn_convexnn.training.column_generation import generate_neurons
from sklearn_convexnn.training.routes import form_of_structure, generate_and_prove

# Up to so many patterns, and patterns times samples, the program over all of
# them takes a few seconds at most.
_FEW_PATTERNS, _FEW_BITS = 2000, 200_000
# With so few there is nothing to search for, or to sample from.
_TRIVIAL = 2
# Relaxations take a few seconds up to so many samples, and samples times rank.
_TRIANGLE, _SEMIDEFINITE = 500, 1600
_RELAXATION_TIME = 10.0
# Width of kinks that are as good as sharp.
_NARROW = 1e-8
# Limit of the rounds of column generation.
_ROUNDS = 200
# How many times as long as before a claim is the last search.
_AGAIN = 3
# Parts of the time for training for the optimum, and of what is left for a search at
# the dual point of the network.
_TRAINING, _SEARCHING = 0.6, 0.4


@dataclass(frozen=True)
class GivenNetwork:
    """A network of any origin, and the problem that it is judged by.

    Attributes
    ----------
    problem : Problem
    coefs, intercepts : list of two ndarrays
        As scikit-learn's MLP has them.
    """

    problem: Problem
    coefs: list
    intercepts: list

    def outputs(self):
        """Outputs of the network, shape (n_samples, n_outputs)."""
        hidden = self.problem.family.hidden(self.coefs[0], self.intercepts[0])
        return hidden @ self.coefs[1] + self.intercepts[1]

    def objective(self):
        """Sum of the weighted losses and of the penalty of the weights."""
        squares = sum(np.sum(coef**2) for coef in self.coefs)
        return self.problem.value(self.outputs()) + 0.5 * self.problem.alpha * squares

    def gates(self):
        """Weights of the hidden neurons as rows, and the biases if they are free."""
        if not self.problem.fit_intercept:
            return self.coefs[0].T
        return np.column_stack([self.coefs[0].T, self.intercepts[0]])

    def neurons(self):
        """The hidden neurons as `Neurons` without size.

        Returns
        -------
        neurons : Neurons
            Those without weights are left out: they are constant.
        """
        size = np.linalg.norm(self.coefs[0], axis=0)
        used = size > 0
        neurons = self.problem.family.neurons(
            self.coefs[0].T[used] / size[used, None],
            self.intercepts[0][used] / size[used],
        )
        return self.problem.unused(neurons)


@dataclass(frozen=True)
class LowerBound:
    """A lower bound; see `Certificate` for the attributes.

    The value of the dual function at `dual`, shape (n_samples, n_outputs), is `value`.
    """

    value: float
    kind: str
    dual: np.ndarray
    kappa: float = np.nan
    n_patterns: int = 0

    @classmethod
    def at(cls, problem, N, kappa, kind):
        """The bound of a dual point at which no slope exceeds `kappa`."""
        value, dual = problem.best_multiple(N, kappa)
        return cls(value, kind, dual)


def cone_slopes(X, nu, arrangement, *, free_bias=False, negative_slope=0.0):
    r"""Largest slope of the dual function in each cell.

    ``max nu^T act(X u)`` and ``max -nu^T act(X u)`` over the unit vectors
    ``u`` of a cell: the norm of the projection of :math:`\pm X^T E_i \nu` on
    its cone, a non-negative least squares problem per cell and sign.  With
    `free_bias` the offset of ``u`` is free and ``nu`` has to sum to zero.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    nu : ndarray of shape (n_samples,)
    arrangement : Arrangement
    free_bias : bool, default=False
    negative_slope : float, default=0.0

    Returns
    -------
    slopes : ndarray of shape (n_patterns, 2)
        Upper bounds that are tight to rounding.
    """
    rows = with_ones(X, free_bias)
    d = X.shape[1]
    masks = np.where(arrangement.patterns, 1.0, negative_slope)
    signs = np.where(arrangement.patterns, 1.0, -1.0)
    gradients = (masks * nu) @ rows
    slopes = np.empty((len(masks), 2))
    # The offset is an equality; a large weight makes least squares honour it.
    weight = np.ones(rows.shape[1])
    if free_bias:
        weight[-1] = 1e4 * max(1.0, np.abs(X).max(initial=0.0))
    for i, (sign, gradient) in enumerate(zip(signs, gradients)):
        constraints = (rows * sign[:, None]).T
        mixed = sign.min() < sign.max()
        for j, g in enumerate((gradient, -gradient)):
            rho = np.zeros(len(X))
            if d and (mixed or not free_bias):
                rho, _ = least_squares(constraints * weight[:, None], -g * weight)
            slope = g + constraints @ rho
            if free_bias and mixed:
                against = sign * slope[-1] < 0
                slope = slope + constraints @ (
                    against * np.abs(slope[-1]) / max(against.sum(), 1)
                )
            slopes[i, j] = np.linalg.norm(slope[:d])
    return slopes


def lower_bound(network, kind, *, tol, deadline, n_arrangements, rng):
    """Bound the objective of all networks, as `certify` promises.

    Parameters
    ----------
    network : GivenNetwork
    kind : {'auto', 'global', 'estimated', 'restricted'}
    tol : float
    deadline : float
        Value of ``time.perf_counter()`` at which to stop.
    n_arrangements : int
    rng : RandomState

    Returns
    -------
    bound : LowerBound
    """
    p = network.problem
    if not np.any(p.X):
        # No neuron is of any use.
        return replace(LowerBound.at(p, _null_dual(p), 0.0, "global"), kappa=0.0)
    arrangement = _arrangement(network, kind, n_arrangements, rng)
    if arrangement is not None:
        if p.n_outputs == 1 or not arrangement.complete:
            return _bound_on_patterns(network, arrangement, tol, deadline, rng)
        # There is no program of several outputs over all patterns.
        kind = "global"
    now = perf_counter()
    optimum, known = _bound_of_optimum(
        network, kind, tol, now + _TRAINING * (deadline - now), rng
    )
    corrected = optimum.kind == "estimated"
    with until(deadline):
        slope, N = _best_candidate(
            network, lambda N: _searched_slope(network, N, known, rng, corrected, tol)
        )
    if optimum.kind == "global":
        # An open proof is of use as well, since there is a better bound.
        allowed = (1.0 + 0.1 * tol) * slope
        slope, _ = _proven_slope(p, N, slope, allowed, 0.1 * tol, deadline)
    bounds = [LowerBound.at(p, N, slope, optimum.kind), optimum]
    best = _confirmed(p, bounds, rng, deadline) if corrected else _better(*bounds)
    return replace(best, kappa=slope / p.alpha)


def _confirmed(problem, bounds, rng, deadline):
    """The best bound that a long search agrees with.

    The better one of two estimates is more often too high than either.
    """
    p = problem
    size = _AGAIN * p.family.starts_of_claim(p.n_outputs)
    bounds = sorted(bounds, key=lambda bound: bound.value)
    with suppress(OutOfTime), until(deadline):
        while True:
            # At the multiple that a bound is told for no slope is to exceed alpha.
            N = bounds[-1].dual
            found = p.family.search_widely(N, size, rng, floor=p.alpha, partial=True)
            slope = found.slopes.max(initial=0.0)
            if slope <= p.alpha:
                break
            allowed = allow_for_hills(slope, slope, p.alpha, found.missing)
            bounds[-1] = LowerBound.at(p, N, allowed, "estimated")
            if bounds[-1].value >= bounds[0].value:
                break
            bounds.reverse()
    return bounds[-1]


def _better(*bounds):
    return max(bounds, key=lambda bound: bound.value)


def _arrangement(network, kind, n_arrangements, rng):
    """Patterns to check; None if the bound is not to rest on patterns."""
    p = network.problem
    X, free_bias = p.X, p.fit_intercept
    several = p.n_outputs > 1 and kind != "restricted"
    if several or not p.family.has_cells:
        return None
    most = _TRIVIAL
    if kind in ("auto", "global"):
        most = max(most, min(_FEW_PATTERNS, _FEW_BITS // len(X)))
    if has_few_patterns(X, most, free_bias=free_bias):
        arrangement = enumerate_arrangement(X, free_bias=free_bias)
        if arrangement.complete:
            return arrangement
    if kind != "restricted":
        return None
    return union(
        network_arrangement(X, network.gates(), free_bias=free_bias),
        sample_arrangement(X, n_arrangements, free_bias=free_bias, random_state=rng),
    )


def _bound_on_patterns(network, arrangement, tol, deadline, rng):
    """Bound of the networks with neurons of these patterns."""
    p = network.problem
    kind = "global" if arrangement.complete else "restricted"
    slope, N = _best_candidate(
        network, lambda N: _slope_on_patterns(network, N, arrangement, tol)
    )
    # The network's own dual point may be far from the best one.
    if p.n_outputs == 1:
        program = TwoLayerProgram(p, arrangement)
        if program.can_improve:
            result = solve_interior_point(program, deadline=deadline)
            dual = program.feasible(result.nu, result.rho)[:, None]
            optimum = LowerBound(result.dual_bound, kind, dual)
        else:
            result = null_result(program)
            optimum = LowerBound.at(p, _null_dual(p), 0.0, kind)
    else:
        result = generate_neurons(
            p,
            rng,
            Limits(0.9 * tol, _ROUNDS, deadline=deadline),
            arrangement=arrangement,
            known=network.neurons(),
        )
        proven = _cell_bound(p, result.nu, arrangement)
        allowed = proofs.largest_slope_allowed(p, result, tol)
        kappa = proven if proven <= allowed else result.kappa
        optimum = LowerBound.at(p, result.nu, kappa, kind)
    _warn_if_short(result, tol)
    best = _better(LowerBound.at(p, N, slope, kind), optimum)
    return replace(best, kappa=slope / p.alpha, n_patterns=len(arrangement))


def _slope_on_patterns(network, N, arrangement, tol):
    """Largest slope within the cells; what is found there, if no close bound is."""
    p = network.problem
    bound = _cell_bound(p, N, arrangement)
    if p.n_outputs == 1:
        return bound
    found = search_cells(
        p.X, N, arrangement, starts=network.gates(), **p.family.geometry
    ).slopes.max(initial=0.0)
    return bound if bound <= (1.0 + 0.1 * tol) * found else found


def _cell_bound(problem, N, arrangement):
    """Proven bound of the slopes in the cells, which is tight for one output."""
    geometry = problem.family.geometry
    if problem.n_outputs == 1:
        return cone_slopes(problem.X, N[:, 0], arrangement, **geometry).max()
    return cell_slope_bound(problem.X, N, arrangement, **geometry)


def _bound_of_optimum(network, kind, tol, deadline, rng):
    """Bound at the dual point of the optimum, and the neurons that are now known."""
    p = network.problem
    known = network.neurons()
    if kind != "estimated":
        form = form_of_structure(p, tol=tol, deadline=deadline)
        if form is not None:
            _warn_if_short(form, tol)
            dual = form.nu.reshape(p.Y.shape)
            return LowerBound(form.dual_bound, "global", dual), known
    every_pattern = kind == "auto" and can_enumerate(p.X, free_bias=p.fit_intercept)
    # Worse than no neurons, they are no place to start from.
    start = known if network.objective() < p.objective(p.null()) else None
    try:
        with until(deadline):
            result, proof = _optimum(p, kind, every_pattern, start, tol, deadline, rng)
    except OutOfTime:
        N = _null_dual(p)
        return LowerBound.at(p, N, p.family.upper_slope(N), "estimated"), known
    _warn_if_short(result, tol)
    known = known.joined(result.neurons)
    if proof is not None and proof.closed:
        return LowerBound.at(p, result.nu, proof.kappa, "global"), known
    if proof is not None and proof.neurons is not None:
        known = known.joined(proof.neurons)
    N = result.nu
    # The search may have missed what the networks at hand have.
    found = max(result.found, p.family.slopes(known.units, N).max(initial=0.0))
    if kind == "global" or every_pattern:
        upper = None if proof is None else proof.kappa
        allowed = proofs.largest_slope_allowed(p, result, tol)
        slope, closed = _proven_slope(
            p, N, found, allowed, 0.1 * tol, deadline, upper=upper
        )
        if closed or kind == "global":
            return LowerBound.at(p, N, slope, "global"), known
    return LowerBound.at(p, N, max(found, result.kappa), "estimated"), known


def _optimum(problem, kind, every_pattern, known, tol, deadline, rng):
    """The optimum, starting from a network, and an attempt at a proof."""
    limits = Limits(tol, _ROUNDS, deadline=deadline)
    estimated = replace(limits, tol=0.9 * tol)
    shape = problem.X.shape
    large = goes_at_scale(shape, problem.n_outputs, "adaptive")
    if kind != "global" and large and problem.family.has_cells:
        return generate_at_scale(problem, rng, estimated, known=known), None
    if kind == "estimated":
        return generate_neurons(problem, rng, estimated, known=known), None
    estimate = kind == "auto" and not every_pattern
    return generate_and_prove(problem, rng, limits, known=known, estimate=estimate)


def _warn_if_short(result, tol):
    gap = result.objective - result.dual_bound
    cure = "Increase max_time or tol, or scale the data."
    if result.status not in ("max_time", "unconfirmed"):
        cure = "Increase tol, or scale the data."
    if result.status != "optimal" and gap > tol * result.objective:
        warnings.warn(
            "certify knows the optimum to a relative gap of "
            f"{gap / result.objective:.2g} only, above tol={tol:g} (status "
            f"{result.status!r}). The bound is valid, but lower than it could be. "
            f"{cure}",
            ConvergenceWarning,
        )


def _best_candidate(network, slope_of):
    """The slope and the dual point of the best bound from the network itself."""
    best = (-np.inf, 0.0, np.zeros(network.problem.Y.shape))
    for N in _dual_candidates(network):
        slope = slope_of(N)
        value = network.problem.bound(N, slope)
        best = max(best, (value, slope, N), key=lambda candidate: candidate[0])
    return best[1:]


def _dual_candidates(network):
    """Dual points of the network.

    Without a gradient (hinge, pinball) any point of the domain gives a valid
    bound; those of smoothed losses are tried.
    """
    p, F = network.problem, network.outputs()
    yield p.dual_point(F)
    if p.loss.smooth:
        return
    lower, upper = p.loss.dual_bounds(p.Y, p.sample_weight)
    for width in (1e-2, 0.1, 0.5):
        yield p.project(np.clip(_smoothed_dual(p, F, width), lower, upper))


def _smoothed_dual(p, F, width):
    """Dual point of a loss with kinks of some width, which may be off its domain."""
    s, Y = p.sample_weight, p.Y
    F = F + p.best_offset(F)
    lower, upper = p.loss.dual_bounds(Y, s)
    # In units of the targets, half the distance between two labels.
    unit = 0.5 * np.ptp(Y, axis=0)
    unit[unit == 0] = 1.0
    kink = p.loss.dual_slope(-p.gradient(F), Y, s)
    return 0.5 * (lower + upper) + s[:, None] * (kink - F) / (width * unit)


def _null_dual(p):
    """The dual point whose value is the loss of the best constant."""
    F = np.zeros(p.Y.shape)
    if p.loss.smooth:
        return p.dual_point(F)
    # The projection moves nothing but samples that are met, if kinks are narrow.
    return p.project(_smoothed_dual(p, F, _NARROW))


def _searched_slope(network, N, known, rng, corrected, tol):
    """Slope of the steepest neuron found, and of the known ones.

    Or, if `corrected`, what the search says of neurons that it has not seen.
    """
    p = network.problem
    size = int(np.clip(1_000_000 // p.Y.size, 20, 300))
    if corrected:
        size = max(size, p.family.starts_of_claim(p.n_outputs))
    wanted = size
    if left() < np.inf:
        pace = seconds(p.family.search_work(p.n_outputs))
        size = int(np.clip(_SEARCHING * left() / pace, 1, size))
    starts = network.coefs[0].T
    starts = starts[np.any(starts != 0, axis=1)]
    try:
        with until(after(_SEARCHING)):
            found = p.family.search_widely(N, size, rng, partial=True)
        slopes = [p.family.slopes(known.units, N), found.slopes]
    except OutOfTime:
        return p.family.upper_slope(N)
    with suppress(OutOfTime):
        near = p.family.search_near(N, starts, partial=True)
        slopes.append(near.slopes)
    if p.fit_intercept:
        # A neuron that is active everywhere.
        slopes.append(np.atleast_1d(p.family.linear(N, np.inf)[0]))
    slope = float(np.concatenate(slopes).max(initial=0.0))
    if not corrected:
        return slope
    few = found.n_starts if left() < np.inf and found.n_starts < wanted else np.inf
    allowed = found.allow_for_unseen(slope, tol)
    return allow_for_hills(allowed, slope, p.alpha, found.missing, few)


def _proven_slope(problem, N, lower, allowed, rtol, deadline, upper=None):
    """Upper bound of the slope, and whether it is close to the largest one.

    Parameters
    ----------
    problem : Problem
    N : ndarray of shape (n_samples, n_outputs)
    lower : float
        A slope that is known.
    allowed : float
        A bound up to this is close enough.
    rtol : float
        So is one that is as close to the steepest neuron.
    deadline : float
    upper : float or None
        What branch and bound has found, if it has been tried.

    Returns
    -------
    slope : float
    closed : bool
    """
    p = problem
    options = {
        **p.family.geometry,
        "target": max(allowed, (1.0 + rtol) * lower),
        "rtol": rtol,
        "deadline": deadline,
    }
    if p.n_outputs == 1:
        slope, closed = _proven_slope_of_one(p, N[:, 0], options, upper)
        return max(slope, lower), closed
    closed = False
    if upper is None:
        # Without nodes it still has a bound from norms.
        nodes = proofs.node_limit(p)
        found = maximise_slope(p.X, N, max_nodes=nodes, **options)
        upper, closed = found.upper, found.status == "optimal"
    left = deadline - perf_counter()
    if not closed and left > 0 and can_enumerate(p.X, free_bias=p.fit_intercept):
        arrangement = enumerate_arrangement(p.X, free_bias=p.fit_intercept)
        if arrangement.complete:
            upper = min(upper, _cell_bound(p, N, arrangement))
    closed = closed or upper <= allowed
    if not closed:
        # The squares of the slopes add up over any orthonormal basis of the
        # outputs; along the singular vectors few of them are large.
        options = {**options, "target": 0.0}
        along = N @ np.linalg.svd(N, full_matrices=False)[2].T
        slopes = [_proven_slope_of_one(p, nu, options)[0] for nu in along.T]
        upper = min(upper, float(np.linalg.norm(slopes)))
    return max(upper, lower), closed or upper <= allowed


def _proven_slope_of_one(problem, nu, options, upper=None):
    """As `_proven_slope`, of a single output, with the options as a dict."""
    geometry = problem.family.geometry
    X, deadline, closed = problem.X, options["deadline"], False
    if upper is None:
        upper = norm_bound(X, nu, **geometry)
        nodes = proofs.node_limit(replace(problem, Y=problem.Y[:, :1]))
        if nodes:
            found = maximise_slope(X, nu, max_nodes=nodes, **options)
            upper, closed = found.upper, found.status == "optimal"
    left = deadline - perf_counter()
    if not closed and left > 0 and can_enumerate(X, free_bias=options["free_bias"]):
        arrangement = enumerate_arrangement(X, free_bias=options["free_bias"])
        if arrangement.complete:
            upper = min(upper, cone_slopes(X, nu, arrangement, **geometry).max())
            closed = True
    if not closed and left > _RELAXATION_TIME:
        if len(X) <= _TRIANGLE:
            upper = min(upper, triangle_bound(X, nu, **geometry))
        if len(X) * np.linalg.matrix_rank(X) <= _SEMIDEFINITE:
            with suppress(OutOfTime), until(deadline):
                upper = min(upper, semidefinite_bound(X, nu, **geometry))
    return upper, closed
