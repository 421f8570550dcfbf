"""The restricted program as it stands in the papers, for a conic solver."""

import warnings
from time import perf_counter

import numpy as np
from scipy.special import xlogy

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
    program : TwoLayerProgram
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
    op, s, y = program.operator, program.sample_weight, program.y
    n_patterns, r = op.n_patterns, program.n_penalised
    f = cp.Variable(op.n_samples)
    outputs, norms, cones = 0, [], []
    blocks = []
    if n_patterns:
        theta = cp.Variable((op.n_cones, op.p))
        difference = theta[:n_patterns] - theta[n_patterns:]
        outputs = cp.sum(cp.multiply(op.masks, difference @ op.M.T), axis=0)
        signs = np.concatenate([op.signs, op.signs])
        if op.n_constraints:
            cones = [cp.multiply(signs, theta @ op.cone_rows.T) >= 0]
        norms.append(cp.sum(cp.norm(theta[:, :r], axis=1)))
        blocks.append(theta)
    if op.linear:
        last = cp.Variable(r)
        outputs = outputs + op.M[:, :r] @ last
        norms.append(cp.norm(last))
    offset = cp.Variable() if program.fit_intercept else 0.0
    link = f == outputs + offset
    objective = _loss_expression(cp, program.loss, f, y, s) + program.alpha * sum(norms)
    problem = cp.Problem(cp.Minimize(objective), [link, *cones])

    options = CONIC_SOLVERS[conic_solver](tol)
    if conic_solver == "CLARABEL":
        options["max_iter"] = max_iter
    limit = deadline - perf_counter()
    if np.isfinite(limit):
        key = "time_limit" if conic_solver == "CLARABEL" else "time_limit_secs"
        options[key] = max(limit, 1e-3)
    try:
        with warnings.catch_warnings():
            # An inaccurate solution shows in the status and in the gap.
            warnings.filterwarnings("ignore", message="Solution may be inaccurate")
            problem.solve(solver=conic_solver, **options)
    except cp.error.SolverError as error:
        raise SolverError(f"the conic solver {conic_solver} failed: {error}") from error
    limited = (cp.USER_LIMIT, cp.settings.USER_LIMIT)
    if problem.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE, *limited) or (
        f.value is None
    ):
        raise SolverError(
            f"the conic solver {conic_solver} ended with status '{problem.status}'; "
            "use solver='interior_point', or raise max_iter or tol."
        )

    solution = np.zeros((op.n_blocks, op.p))
    rho = np.zeros((op.n_cones, op.n_constraints))
    if n_patterns:
        solution[: op.n_cones] = blocks[0].value
        if op.n_constraints:
            rho = np.maximum(cones[0].dual_value, 0.0)
    if op.linear:
        solution[-1, :r] = last.value
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
