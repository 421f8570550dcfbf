"""The solver for a program by its size."""

from dataclasses import replace

import numpy as np

from sklearn_convexnn.solvers.direction_generation import generate_directions
from sklearn_convexnn.solvers.interior_point import newton_work, solve_interior_point

# Operations of a Newton step up to which the interior point method is taken at once
# (some seconds altogether), and from which on it would take hours.
_SMALL, _LARGE = 1e9, 3e11
# Generation of directions has to shrink the gap this much in so many rounds.
_PROGRESS = 0.1, 5


def solve_automatic(program, *, tol=1e-6, max_iter=200, deadline=np.inf, callback=None):
    """Solve a restricted program by the method that suits its size.

    The interior point method for a small one.  Otherwise directions are
    generated, in which large programs often need a few rounds only; when
    these are slow, the interior point method takes over, unless it is out of
    reach.

    Parameters
    ----------
    program : Program
    tol, max_iter, deadline, callback
        As of `solve_interior_point`.

    Returns
    -------
    result : SolverResult
    """
    op = program.operator
    work = newton_work(op)
    options = {"deadline": deadline, "callback": callback}
    if work <= _SMALL or op.has_open_sides or not op.single_units:
        return solve_interior_point(program, tol=tol, max_iter=max_iter, **options)
    progress = _PROGRESS if work <= _LARGE else (1.0, max_iter)
    first = generate_directions(program, tol, max_iter, progress=progress, **options)
    if first.status not in ("stalled", "breakdown"):
        return first
    second = solve_interior_point(program, tol=tol, max_iter=max_iter, **options)
    return _joined(first, second)


def _joined(first, second):
    """The best point and the best bound of two results, one after the other."""
    primal = min(first, second, key=lambda result: result.objective)
    dual = max(first, second, key=lambda result: result.dual_bound)
    history = {
        key: np.concatenate([first.history[key], second.history[key]])
        for key in first.history
    }
    history["time"][len(first.history["time"]) :] += first.history["time"][-1]
    history["dual_bound"] = np.maximum.accumulate(history["dual_bound"])
    return replace(
        second,
        theta=primal.theta,
        offset=primal.offset,
        objective=primal.objective,
        nu=dual.nu,
        rho=dual.rho,
        dual_bound=dual.dual_bound,
        n_iter=first.n_iter + second.n_iter,
        history=history,
    )
