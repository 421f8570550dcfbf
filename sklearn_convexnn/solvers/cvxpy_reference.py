"""The restricted program as it stands in the papers, for a conic solver.

Conic solvers have tolerances that are absolute in part, so that the program is posed
in units of the data, of the targets and of the loss without neurons.
"""

import warnings
from dataclasses import dataclass, replace
from time import perf_counter
from typing import NamedTuple

import numpy as np
from scipy.sparse import block_diag, csr_array, hstack
from sklearn.exceptions import ConvergenceWarning

from sklearn_convexnn.losses import Loss
from sklearn_convexnn.model.results import SolverError, SolverResult, gap_closed

# Solutions, each in the units of the objective of the one before.
_SOLVES = 4

CONIC_SOLVERS = {
    # More than is asked for, as its gap is not that of the repaired point.
    "CLARABEL": lambda tol: {
        "tol_gap_rel": 0.1 * tol,
        "tol_gap_abs": max(1e-3 * tol, 1e-12),
        "tol_feas": min(0.1 * tol, 1e-9),
    },
    "SCS": lambda tol: {"eps_rel": tol, "eps_abs": tol, "max_iters": 100_000},
}


def solve_cvxpy(
    program,
    *,
    tol=1e-6,
    max_iter=200,
    deadline=np.inf,
    callback=None,
    conic_solver="CLARABEL",
):
    """Solve a restricted program with CVXPY: slow, independent, trusted.

    Parameters
    ----------
    program : Program
    tol : float, default=1e-6
        Relative duality gap asked of the conic solver.
    max_iter : int, default=200
        Limit on the iterations of Clarabel; SCS has its own.
    deadline : float, default=inf
        Value of ``time.perf_counter()`` at which to stop.
    callback : callable or None
        Called once at the end, with the iterations, objective and dual bound.
    conic_solver : {'CLARABEL', 'SCS'}, default='CLARABEL'

    Returns
    -------
    result : SolverResult

    Raises
    ------
    SolverError
        If the conic solver fails; the message has its status.
    """
    import cvxpy as cp

    start, null = perf_counter(), program.null_objective()
    units, found, n_iter = _Units.of(program), None, 0
    for solves_left in range(_SOLVES, 0, -1):
        try:
            new, status, n_new = _solved(
                cp, program, units, conic_solver, tol, max_iter, deadline
            )
        except SolverError:
            if found is not None:
                break
            if solves_left == 1:
                raise
            # Where it gets stuck is a matter of units too.
            units = units.with_objective(4.0 * units.objective)
            continue
        n_iter += n_new
        # The best of both ends; a coarse solution may have a good bound.
        found = new if found is None else found.best(new)
        closed = gap_closed(found.objective, found.bound, tol, null)
        small = found.objective < 0.1 * units.objective
        if closed or status in _limited(cp) or n_iter >= max_iter:
            break
        if status == cp.OPTIMAL_INACCURATE:
            units = units.with_objective(4.0 * units.objective)
        elif small:
            # Beside the unit of objectives, so that the accuracy was too.
            units = units.with_objective(found.objective)
        else:
            break
    value, bound = found.objective, found.bound
    message = f"{conic_solver} reports {status}"
    if closed:
        status, message = "optimal", "the duality gap is within the tolerance"
    elif status in _limited(cp):
        status = "max_time" if perf_counter() > deadline else "max_iter"
    else:
        status = "stalled"
    # Its own measure of the gap is another, so that a little more is no failure.
    enough = max(10.0 * tol, 1e-5)
    if status == "stalled" and not gap_closed(value, bound, enough, null):
        warnings.warn(
            f"solver='cvxpy' stopped with a duality gap of {value - bound:.3g} "
            f"({(value - bound) / abs(value):.2g} of the objective), above "
            f"tol={tol:g}: {message}.",
            ConvergenceWarning,
        )
    if callback is not None:
        callback(n_iter, value, bound)
    return found.result(program, start, status, message, n_iter)


class _Found(NamedTuple):
    """A solution in the units of the program, with its value and its bound."""

    theta: np.ndarray
    offset: float
    nu: np.ndarray
    rho: np.ndarray
    objective: float
    bound: float

    def best(self, other):
        primal = self if self.objective <= other.objective else other
        dual = self if self.bound >= other.bound else other
        return _Found(*primal[:2], *dual[2:4], primal.objective, dual.bound)

    def result(self, program, start, status, message, n_iter):
        norm = program.norms(self.theta)
        record = {
            "time": perf_counter() - start,
            "objective": self.objective,
            "dual_bound": self.bound,
            "neurons": int(np.sum(norm > 1e-6 * norm.max(initial=0.0))),
        }
        return SolverResult(
            *self,
            status=status,
            message=message,
            n_iter=n_iter,
            history={key: np.array([entry]) for key, entry in record.items()},
        )


def _limited(cp):
    return cp.USER_LIMIT, cp.settings.USER_LIMIT


def _solved(cp, program, units, conic_solver, tol, max_iter, deadline):
    """What the conic solver makes of the program in these units.

    Returns
    -------
    found : _Found
    status : str
        That of CVXPY.
    n_iter : int
    """
    form = _form(cp, program, units.data)
    f = cp.Variable(len(program.y))
    offset = -units.shift / units.targets
    if program.fit_intercept:
        offset = cp.Variable()
    link = f == form.outputs + offset
    loss = units.loss.expression(cp, f, units.y, units.sample_weight)
    alpha = program.alpha * units.targets / (units.data * units.objective)
    problem = cp.Problem(cp.Minimize(loss + alpha * form.penalty), [link, *form.cones])

    options = CONIC_SOLVERS[conic_solver](tol)
    if conic_solver == "CLARABEL":
        options["max_iter"] = max_iter
    limit = deadline - perf_counter()
    if np.isfinite(limit):
        key = "time_limit" if conic_solver == "CLARABEL" else "time_limit_secs"
        options[key] = max(limit, 1e-3)
    _solve(cp, problem, conic_solver, options)
    status = problem.status
    if status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE, *_limited(cp)) or (
        f.value is None
    ):
        raise SolverError(
            f"the conic solver {conic_solver} ended with status '{status}'; "
            "use solver='interior_point', or raise max_iter or tol."
        )

    theta, rho = form.solution()
    theta = theta * (units.targets / units.data)
    constant = 0.0
    if program.fit_intercept:
        constant = units.shift + units.targets * float(offset.value)
    slope = units.objective / units.targets
    nu, rho = slope * np.asarray(link.dual_value, dtype=np.float64), slope * rho
    value, bound = program.objective(theta, constant), program.dual_bound(nu, rho)
    found = _Found(theta, constant, nu, rho, value, bound)
    return found, status, int(problem.solver_stats.num_iters or 0)


@dataclass(frozen=True)
class _Units:
    """Units in which all of a program is of order one.

    The loss of outputs ``shift + targets * f`` is `objective` times `loss` at ``f``
    with the targets `y` and the weights `sample_weight`.

    Attributes
    ----------
    data, targets, objective : float
    shift : float
    loss : Loss
    y, sample_weight : ndarrays of shape (n_samples,)
    """

    data: float
    targets: float
    objective: float
    shift: float
    loss: Loss
    y: np.ndarray
    sample_weight: np.ndarray

    @classmethod
    def of(cls, program):
        s = program.sample_weight
        data = np.sqrt(np.mean(np.sum(program.operator.M**2, axis=1)))
        objective = program.null_objective()
        objective = objective if objective > 0 else float(np.sum(s))
        # What is added to all outputs here need not be free.
        scaled = program.loss.scaled(program.y, s, True)
        return cls(
            data if data > 0 else 1.0,
            scaled.output,
            objective,
            scaled.shift,
            scaled.loss,
            scaled.y,
            s * (scaled.value / objective),
        )

    def with_objective(self, objective):
        """The same with another unit of objectives."""
        weights = self.sample_weight * (self.objective / objective)
        return replace(self, objective=objective, sample_weight=weights)


def _solve(cp, problem, conic_solver, options):
    attempts = [options]
    if conic_solver == "CLARABEL":
        # Long steps may get stuck at the border of an exponential cone.
        attempts += [{**options, "max_step_fraction": part} for part in (0.8, 0.6)]
    for attempt in attempts:
        try:
            with warnings.catch_warnings():
                # An inaccurate solution shows in the status and in the gap.
                warnings.filterwarnings("ignore", message="Solution may be inaccurate")
                problem.solve(solver=conic_solver, **attempt)
            return
        except cp.error.SolverError as failure:
            error = failure
    raise SolverError(f"the conic solver {conic_solver} failed: {error}") from error


@dataclass(frozen=True)
class _Form:
    """A program in the terms of CVXPY: linear outputs, penalty and cones.

    `solution` gives the blocks and the multipliers of the cones, once solved.
    """

    outputs: object
    penalty: object
    cones: list
    solution: object


def _form(cp, program, unit=1.0):
    op = program.operator
    size = op.n_norms * program.n_penalised
    pairs = [map(csr_array, program.matrices(b)) for b in range(op.n_blocks)]
    features, cones = zip(*pairs)
    F = hstack(features, format="csr") / unit
    A = block_diag(cones, format="csr") / unit
    # Constraints of units that are not there, or at which none is active.
    needed = np.diff(A.indptr) > 0
    theta = cp.Variable((op.n_blocks, op.p))
    flat = cp.vec(theta, order="C")
    cones = [A[needed] @ flat >= 0] if needed.any() else []
    rows = cp.reshape(theta[:, :size], (-1, program.n_penalised), order="C")

    def solution():
        rho = np.zeros(len(needed))
        if needed.any():
            rho[needed] = np.maximum(cones[0].dual_value, 0.0)
        return theta.value, rho.reshape(op.n_cones, op.n_constraints)

    return _Form(F @ flat, cp.sum(cp.norm(rows, axis=1)), cones, solution)
