"""The restricted program as it stands in the papers, for a conic solver."""

import warnings
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from scipy.sparse import block_diag, csr_array, hstack
from scipy.special import xlogy

from sklearn_convexnn.programs.deep import DeepProgram
from sklearn_convexnn.solvers._result import SolverError, SolverResult, gap_closed

CONIC_SOLVERS = {
    "CLARABEL": lambda tol: {
        "tol_gap_rel": tol,
        "tol_gap_abs": tol,
        "tol_feas": min(tol, 1e-8),
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
    program : TwoLayerProgram or DeepProgram
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

    start = perf_counter()
    s, y = program.sample_weight, program.y
    describe = _deep if isinstance(program, DeepProgram) else _two_layer
    form = describe(cp, program)
    f = cp.Variable(len(y))
    offset = cp.Variable() if program.fit_intercept else 0.0
    link = f == form.outputs + offset
    objective = _loss_expression(cp, program.loss, f, y, s)
    objective += program.alpha * form.penalty
    problem = cp.Problem(cp.Minimize(objective), [link, *form.cones])

    options = CONIC_SOLVERS[conic_solver](tol)
    if conic_solver == "CLARABEL":
        options["max_iter"] = max_iter
    limit = deadline - perf_counter()
    if np.isfinite(limit):
        key = "time_limit" if conic_solver == "CLARABEL" else "time_limit_secs"
        options[key] = max(limit, 1e-3)
    _solve(cp, problem, conic_solver, options)
    limited = (cp.USER_LIMIT, cp.settings.USER_LIMIT)
    if problem.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE, *limited) or (
        f.value is None
    ):
        raise SolverError(
            f"the conic solver {conic_solver} ended with status '{problem.status}'; "
            "use solver='interior_point', or raise max_iter or tol."
        )

    solution, rho = form.solution()
    constant = float(offset.value) if program.fit_intercept else 0.0
    nu = np.asarray(link.dual_value, dtype=np.float64)
    value = program.objective(solution, constant)
    bound = program.dual_bound(nu, rho)
    n_iter = int(problem.solver_stats.num_iters or 0)
    if gap_closed(value, bound, tol, program.null_objective()):
        status, message = "optimal", "the duality gap is within the tolerance"
    elif problem.status == cp.OPTIMAL:
        status, message = "stalled", f"{conic_solver} reports {problem.status}"
    else:
        timed_out = perf_counter() > deadline
        status = "max_time" if timed_out else "max_iter"
        message = f"{conic_solver} reports {problem.status}"
    if callback is not None:
        callback(n_iter, value, bound)
    norm = program.norms(solution)
    record = {
        "time": perf_counter() - start,
        "objective": value,
        "dual_bound": bound,
        "neurons": int(np.sum(norm > 1e-6 * norm.max(initial=0.0))),
    }
    return SolverResult(
        theta=solution,
        offset=constant,
        nu=nu,
        rho=rho,
        objective=value,
        dual_bound=bound,
        status=status,
        message=message,
        n_iter=n_iter,
        history={key: np.array([entry]) for key, entry in record.items()},
    )


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


def _two_layer(cp, program):
    op, r = program.operator, program.n_penalised
    n_patterns = op.n_patterns
    outputs, penalty, cones = 0, 0, []
    if n_patterns:
        theta = cp.Variable((op.n_cones, op.p))
        difference = theta[:n_patterns] - theta[n_patterns:]
        outputs = cp.sum(cp.multiply(op.masks, difference @ op.M.T), axis=0)
        signs = np.concatenate([op.signs, op.signs])
        if op.n_constraints:
            cones = [cp.multiply(signs, theta @ op.cone_rows.T) >= 0]
        penalty = cp.sum(cp.norm(theta[:, :r], axis=1))
    if op.linear:
        last = cp.Variable(r)
        outputs = outputs + op.M[:, :r] @ last
        penalty = penalty + cp.norm(last)

    def solution():
        blocks = np.zeros((op.n_blocks, op.p))
        rho = np.zeros((op.n_cones, op.n_constraints))
        if n_patterns:
            blocks[: op.n_cones] = theta.value
            if op.n_constraints:
                rho = np.maximum(cones[0].dual_value, 0.0)
        if op.linear:
            blocks[-1, :r] = last.value
        return blocks, rho

    return _Form(outputs, penalty, cones, solution)


def _deep(cp, program):
    op = program.operator
    size = op.n_norms * program.n_penalised
    pairs = [_block_matrices(op, program.blocks, b) for b in range(op.n_cones)]
    features = [sign * F for sign, (F, _) in zip(op.outputs, pairs)]
    if op.linear:
        straight = np.zeros((op.n_samples, op.p))
        straight[:, : op.n_straight * op.n_features] = np.tile(op.M, op.n_straight)
        features.append(csr_array(straight))
    A = block_diag([csr_array((0, 0)), *(A for _, A in pairs)], format="csr")
    # Constraints of units that are not there, or at which none is active.
    needed = np.diff(A.indptr) > 0
    theta = cp.Variable((op.n_blocks, op.p))
    cones = []
    if needed.any():
        cones = [A[needed] @ cp.vec(theta[: op.n_cones], order="C") >= 0]
    rows = cp.reshape(theta[:, :size], (-1, program.n_penalised), order="C")

    def solution():
        rho = np.zeros(len(needed))
        if needed.any():
            rho[needed] = np.maximum(cones[0].dual_value, 0.0)
        return theta.value, rho.reshape(op.n_cones, op.n_constraints)

    outputs = hstack(features, format="csr") @ cp.vec(theta, order="C")
    return _Form(outputs, cp.sum(cp.norm(rows, axis=1)), cones, solution)


def _block_matrices(op, blocks, b):
    """``D G`` of the last unit of a block, and ``S G`` of all units below each other.

    Unit by unit from the patterns and signs, for rows of data that differ.
    """
    X, n = op.M, op.n_samples
    bias = op.n_leaves * op.n_features
    cones, inputs = [], []
    for level, (patterns, present) in enumerate(zip(blocks.patterns, blocks.present)):
        outputs = []
        for unit, pattern in enumerate(patterns[b]):
            G = np.zeros((n, op.p))
            if present[b, unit]:
                if level == 0:
                    G[:, unit * op.n_features : (unit + 1) * op.n_features] = X
                else:
                    fan_in = len(inputs) // len(patterns[b])
                    G += sum(inputs[unit * fan_in : (unit + 1) * fan_in])
            linear = blocks.linear[level][b, unit]
            if op.linear:
                G[:, bias] = op.unit * (present[b, unit] and not linear)
                bias += 1
            sides = np.where(pattern, 1.0, -1.0)[:, None]
            cones.append((sides * G)[op.cone_index] * (not linear))
            sign = blocks.signs[level][b, unit] if level < len(blocks.signs) else 1
            outputs.append(sign * pattern[:, None] * G)
        inputs = outputs
    return csr_array(inputs[0]), csr_array(np.concatenate(cones))


def _loss_expression(cp, loss, f, y, s):
    if loss.name == "squared_error":
        return 0.5 * cp.sum(cp.multiply(s, cp.square(f - y)))
    if loss.name == "huber":
        # cp.huber is r^2 inside, twice the loss.
        return 0.5 * cp.sum(cp.multiply(s, cp.huber(f - y, loss.epsilon)))
    if loss.name == "quantile":
        over, under = cp.pos(f - y), cp.pos(y - f)
        terms = (1 - loss.quantile) * over + loss.quantile * under
        return cp.sum(cp.multiply(s, terms))
    if loss.name == "poisson":
        constant = float(np.sum(s * (xlogy(y, y) - y)))
        return cp.sum(cp.multiply(s, cp.exp(f) - cp.multiply(y, f))) + constant
    if loss.name == "log_loss":
        return cp.sum(cp.multiply(s, cp.logistic(cp.multiply(-y, f))))
    margin = cp.pos(1 - cp.multiply(y, f))
    if loss.name == "squared_hinge":
        return cp.sum(cp.multiply(s, cp.square(margin)))
    if loss.name == "hinge":
        return cp.sum(cp.multiply(s, margin))
    raise ValueError(f"solver='cvxpy' has no formulation of loss={loss.name!r}.")
