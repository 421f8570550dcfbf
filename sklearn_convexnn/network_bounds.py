"""Lower bounds of the objective, from a network that is given."""

import warnings
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from scipy.optimize import nnls
from sklearn.exceptions import ConvergenceWarning

from sklearn_convexnn.arrangements import (
    can_enumerate,
    count_patterns,
    enumerate_arrangement,
    network_arrangement,
    sample_arrangement,
    union,
    with_ones,
)
from sklearn_convexnn.branch_and_bound import maximise_slope
from sklearn_convexnn.closed_forms import closed_form
from sklearn_convexnn.column_generation import generate_neurons
from sklearn_convexnn.pricing import search_widely
from sklearn_convexnn.problem import Problem, best_scaled_value
from sklearn_convexnn.programs.two_layer import TwoLayerProgram
from sklearn_convexnn.proofs import generate_and_prove, node_limit
from sklearn_convexnn.recovery import activation, features
from sklearn_convexnn.slope_bounds import (
    norm_bound,
    semidefinite_bound,
    triangle_bound,
)
from sklearn_convexnn.solvers import null_result, solve_interior_point

# Up to so many patterns, and patterns times samples, the program over all of
# them takes a few seconds at most.
_FEW_PATTERNS, _FEW_BITS = 2000, 200_000
# With so few there is nothing to search for, or to sample from.
_TRIVIAL = 2
# Relaxations take a few seconds up to so many samples, and samples times rank.
_TRIANGLE, _SEMIDEFINITE = 500, 1600
_RELAXATION_TIME = 10.0
# Limit of the rounds of column generation.
_ROUNDS = 200


@dataclass(frozen=True)
class GivenNetwork:
    """A two-layer network of any origin, and the data that it is judged by.

    Attributes
    ----------
    X : ndarray of shape (n_samples, n_features)
    Y : ndarray of shape (n_samples, n_outputs)
    sample_weight : ndarray of shape (n_samples,)
    loss : Loss
    alpha : float
    fit_intercept : bool
    negative_slope : float
    coefs, intercepts : list of two ndarrays
        As scikit-learn's MLP has them.
    """

    X: np.ndarray
    Y: np.ndarray
    sample_weight: np.ndarray
    loss: object
    alpha: float
    fit_intercept: bool
    negative_slope: float
    coefs: list
    intercepts: list

    @property
    def geometry(self):
        """What decides on the slopes of neurons, apart from the data."""
        return {"free_bias": self.fit_intercept, "negative_slope": self.negative_slope}

    def hidden(self):
        """Outputs of the hidden neurons, shape (n_samples, n_neurons)."""
        return activation(
            self.X @ self.coefs[0] + self.intercepts[0], self.negative_slope
        )

    def outputs(self):
        """Outputs of the network, shape (n_samples, n_outputs)."""
        return self.hidden() @ self.coefs[1] + self.intercepts[1]

    def objective(self):
        """Sum of the weighted losses and of the penalty of the weights."""
        penalty = 0.5 * self.alpha * sum(np.sum(coef**2) for coef in self.coefs)
        return penalty + sum(
            self.loss.value(f, y, self.sample_weight)
            for f, y in zip(self.outputs().T, self.Y.T)
        )

    def problem(self):
        """The training problem, of which there has to be a single output."""
        return Problem(
            self.X,
            self.Y[:, 0],
            self.sample_weight,
            self.loss,
            self.alpha,
            self.fit_intercept,
            self.negative_slope,
        )

    def units(self):
        """Outputs of the hidden neurons scaled to size one."""
        size = np.linalg.norm(self.coefs[0], axis=0)
        # What is left is constant, and of no slope.
        return self.hidden()[:, size > 0] / size[size > 0]


@dataclass(frozen=True)
class LowerBound:
    """A lower bound; see `Certificate` for the attributes."""

    value: float
    kind: str
    kappa: float = np.nan
    n_patterns: int = 0


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
                rho, _ = nnls(constraints * weight[:, None], -g * weight)
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
    arrangement = _arrangement(network, kind, n_arrangements, rng)
    if arrangement is not None:
        return _bound_on_patterns(network, arrangement, tol, deadline)

    units, optimum = network.units(), None
    if network.Y.shape[1] == 1:
        optimum, units = _bound_of_optimum(network, units, kind, tol, deadline, rng)
    value, slopes, nus = _best_candidate(
        network, lambda nu: _searched_slope(network, nu, units, rng)
    )
    if optimum is not None:
        proven = optimum.kind == "global"
    else:
        proven = kind == "global" or (kind == "auto" and _provable(network))
    if proven:
        found = [
            _proven_slope(network, nu, slope, 0.1 * tol, deadline)
            for nu, slope in zip(nus, slopes)
        ]
        closed = all(closed for _, closed in found)
        # An open proof is of use if there is a better bound, or no other choice.
        if closed or kind == "global" or optimum is not None:
            slopes = [slope for slope, _ in found]
            value = _scaled_value(network, nus, slopes)
        else:
            proven = False
    if optimum is not None:
        value = max(value, optimum.value)
    kappa = np.linalg.norm(slopes) / network.alpha
    return LowerBound(value, "global" if proven else "estimated", kappa)


def _arrangement(network, kind, n_arrangements, rng):
    """Patterns to check; None if the bound is not to rest on patterns."""
    X, free_bias = network.X, network.fit_intercept
    most = _TRIVIAL
    if kind in ("auto", "global"):
        most = max(most, min(_FEW_PATTERNS, _FEW_BITS // len(X)))
    if count_patterns(X, free_bias=free_bias) <= most:
        arrangement = enumerate_arrangement(X, free_bias=free_bias)
        if arrangement.complete:
            return arrangement
    if kind != "restricted":
        return None
    gates = network.coefs[0].T
    if free_bias:
        gates = np.column_stack([gates, network.intercepts[0]])
    return union(
        network_arrangement(X, gates, free_bias=free_bias),
        sample_arrangement(X, n_arrangements, free_bias=free_bias, random_state=rng),
    )


def _bound_on_patterns(network, arrangement, tol, deadline):
    """Bound of the networks with neurons of these patterns."""
    value, slopes, _ = _best_candidate(
        network,
        lambda nu: cone_slopes(network.X, nu, arrangement, **network.geometry).max(
            initial=0.0
        ),
    )
    if network.Y.shape[1] == 1:
        # The network's own dual point may be far from the best one.
        program = TwoLayerProgram(
            network.X,
            network.Y[:, 0],
            network.sample_weight,
            network.loss,
            network.alpha,
            arrangement,
            fit_intercept=network.fit_intercept,
            negative_slope=network.negative_slope,
        )
        if program.can_improve:
            result = solve_interior_point(program, deadline=deadline)
            _warn_if_short(result, tol)
        else:
            result = null_result(program)
        value = max(value, result.dual_bound)
    return LowerBound(
        value,
        "global" if arrangement.complete else "restricted",
        np.linalg.norm(slopes) / network.alpha,
        len(arrangement),
    )


def _bound_of_optimum(network, units, kind, tol, deadline, rng):
    """Bound at the dual point of the optimum, and the units that are now known."""
    problem = network.problem()
    if kind != "estimated":
        form = closed_form(
            problem.X,
            problem.y,
            problem.sample_weight,
            problem.loss,
            problem.alpha,
            fit_intercept=problem.fit_intercept,
            negative_slope=problem.negative_slope,
            tol=tol,
            deadline=deadline,
        )
        if form is not None:
            _warn_if_short(form, tol)
            return LowerBound(form.dual_bound, "global"), units
    active = network.coefs[1][:, 0] != 0
    known = (
        network.coefs[0].T[active],
        network.intercepts[0][active],
        np.sign(network.coefs[1][active, 0]),
    )
    options = {"known": known, "max_iter": _ROUNDS, "deadline": deadline}
    if kind == "estimated":
        proof, result = None, generate_neurons(problem, rng, tol=0.9 * tol, **options)
    else:
        result, proof = generate_and_prove(problem, rng, tol=tol, **options)
    _warn_if_short(result, tol)
    # The search may have missed what the networks at hand have.
    trained = features(result.neurons, problem.X, problem.negative_slope)
    units = np.column_stack([units, trained])
    if proof is not None and proof.closed:
        return LowerBound(proof.dual_bound, "global"), units
    kappa = max(result.kappa, np.abs(result.nu @ units).max(initial=0.0))
    every_pattern = kind == "auto" and can_enumerate(
        problem.X, free_bias=problem.fit_intercept
    )
    if kind == "global" or every_pattern:
        upper = None if proof is None else proof.kappa
        slope, closed = _proven_slope(
            network, result.nu, kappa, 0.1 * tol, deadline, upper
        )
        if closed or kind == "global":
            return LowerBound(problem.bound(result.nu, slope), "global"), units
    return LowerBound(problem.bound(result.nu, kappa), "estimated"), units


def _warn_if_short(result, tol):
    gap = result.objective - result.dual_bound
    if result.status != "optimal" and gap > tol * result.objective:
        warnings.warn(
            "certify knows the optimum to a relative gap of "
            f"{gap / result.objective:.2g} only, above tol={tol:g} (status "
            f"{result.status!r}). The bound is valid, but lower than it could be. "
            "Increase max_time or tol, or scale the data.",
            ConvergenceWarning,
        )


def _best_candidate(network, slope_of):
    """The best bound from the network itself, its slopes and its dual point."""
    best = (-np.inf, [], [])
    for nus in _dual_candidates(network):
        slopes = [slope_of(nu) for nu in nus]
        value = _scaled_value(network, nus, slopes)
        best = max(best, (value, slopes, nus), key=lambda candidate: candidate[0])
    return best


def _scaled_value(network, nus, slopes):
    """Best bound from multiples of a dual point with these slopes."""
    total = np.linalg.norm(slopes)
    reach = network.alpha / total if total > 0 else np.inf
    return best_scaled_value(network.loss, nus, network.Y, network.sample_weight, reach)


def _dual_candidates(network):
    """Dual points of the network, one list of ``nu`` per candidate.

    Without a gradient (hinge) any point of the domain gives a valid bound;
    those of smoothed losses are tried.
    """
    loss, weight, centred = network.loss, network.sample_weight, network.fit_intercept
    F, Y = network.outputs(), network.Y
    if centred:
        F = F + [loss.best_offset(f, t, weight) for f, t in zip(F.T, Y.T)]
    widths = (0.0,) if loss.smooth else (0.0, 1e-2, 0.1, 0.5)
    for width in widths:
        nus = []
        for f, t in zip(F.T, Y.T):
            if width == 0:
                nu = -loss.gradient(f, t, weight)
            else:
                nu = weight * t * np.clip(0.5 + (1.0 - t * f) / width, 0.0, 1.0)
            nus.append(loss.project_dual(nu, t, weight, centred=centred))
        yield nus


def _searched_slope(network, nu, units, rng):
    """Slope of the steepest neuron found, and of the known ones."""
    X = network.X
    size = int(np.clip(2_000_000 // (2 * len(X)), 20, 300))
    found = search_widely(
        X, nu, size, rng, starts=network.coefs[0].T, **network.geometry
    )
    slopes = np.append(np.abs(nu @ units), found.slopes)
    if network.fit_intercept:
        # A neuron that is active everywhere.
        slopes = np.append(slopes, np.linalg.norm(nu @ X))
    return float(slopes.max(initial=0.0))


def _provable(network):
    """Whether the largest slope can be expected to be found with a proof."""
    free_bias = network.fit_intercept
    return node_limit(network.X) > 0 or can_enumerate(network.X, free_bias=free_bias)


def _proven_slope(network, nu, lower, rtol, deadline, upper=None):
    """Upper bound of the slope, and whether it is close to the largest one.

    `upper` is what branch and bound has found, if it has been tried.
    """
    X, geometry, closed = network.X, network.geometry, False
    if upper is None:
        upper, nodes = norm_bound(X, nu, **geometry), node_limit(X)
        if nodes:
            found = maximise_slope(
                X,
                nu,
                lower=lower,
                rtol=rtol,
                deadline=deadline,
                max_nodes=nodes,
                **geometry,
            )
            upper, closed = found.upper, found.status == "optimal"
    left = deadline - perf_counter()
    if not closed and left > 0 and can_enumerate(X, free_bias=network.fit_intercept):
        arrangement = enumerate_arrangement(X, free_bias=network.fit_intercept)
        if arrangement.complete:
            upper = min(upper, cone_slopes(X, nu, arrangement, **geometry).max())
            closed = True
    if not closed and left > _RELAXATION_TIME:
        if len(X) <= _TRIANGLE:
            upper = min(upper, triangle_bound(X, nu, **geometry))
        if len(X) * np.linalg.matrix_rank(X) <= _SEMIDEFINITE:
            upper = min(upper, semidefinite_bound(X, nu, **geometry))
    return max(upper, lower), closed
