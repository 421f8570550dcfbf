"""The route over patterns that are given: one convex program, solved as a whole."""

from time import perf_counter

import numpy as np

from sklearn_convexnn._utils.breakdown import BREAKDOWNS, unless_broken
from sklearn_convexnn._utils.deadlines import OutOfTime, check
from sklearn_convexnn.model.results import HISTORY, SolverError
from sklearn_convexnn.solvers import SOLVERS, null_result
from sklearn_convexnn.training.trained import (
    Trained,
    null_training,
    trained_at_once,
)


def train_on_patterns(family, known, settings):
    """Train the network of a program over all patterns, or over random ones.

    Parameters
    ----------
    family : TwoLayerPatterns or SubnetworkBlocks
        What patterns are, what program they have and what network a solution is.
    known : Neurons, Subnetworks or None
        Units of an earlier fit.
    settings : Settings

    Returns
    -------
    trained : Trained
        The network without units, with what is proven of all, if there was no time or
        a computation has broken down.

    Raises
    ------
    ValueError
        If all patterns are asked for, and they are too many.
    """
    start, problem = perf_counter(), family.problem
    try:
        with np.errstate(all="ignore"):
            return _train(family, known, settings)
    except OutOfTime:
        status = "max_time"
    except BREAKDOWNS:
        status = "breakdown"
    proven = family.proven_bound(problem.null_dual())
    if proven is None:
        return null_training(problem, settings, status)
    return trained_at_once(
        problem,
        problem.null(),
        proven,
        seconds=perf_counter() - start,
        status=status,
        certificate="global",
        proven_bound=proven,
    )


def _train(family, known, settings):
    problem = family.problem
    if settings.arrangements == "sampled":
        patterns = family.sampled(settings, known)
    else:
        patterns = family.all()
    what, units = family.words
    scope = "all" if patterns.complete else "sampled"
    settings.tell(
        f"{len(problem.X)} distinct samples, {len(patterns)} {what} ({scope})"
    )
    program = family.program(patterns)
    if program.can_improve:
        result = _solve(family, program, settings)
        neurons = family.network(program, result)
        neurons = unless_broken(neurons, family.simplified, neurons)
    else:
        result, neurons = null_result(program), problem.null()
    if not problem.objective(neurons) <= problem.objective(problem.null()):
        # Also if it is not a number.
        neurons = problem.null()
    settings.tell(
        f"{len(neurons)} {units} after {result.n_iter} iterations, dual bound "
        f"{settings.units.objective(result.dual_bound):.8g}: {result.message}"
    )
    bound, proven = result.dual_bound, family.proven_bound(result.nu)
    if proven is not None and patterns.complete:
        proven = max(proven, bound)
    elif proven is not None:
        # With a penalty the units can be of other patterns, and better.
        bound = min(max(bound, proven), problem.objective(neurons))
    length = len(result.history["time"])
    history = {
        "kappa": np.full(length, np.nan),
        "blocks": np.full(length, len(patterns)),
        **result.history,
    }
    return Trained(
        neurons=neurons,
        dual_bound=bound,
        certificate="global" if patterns.complete else "restricted",
        status=result.status,
        message=result.message,
        n_iter=result.n_iter,
        n_patterns=len(patterns),
        history={key: history[key] for key in HISTORY},
        proven_bound=proven,
    )


def _solve(family, program, settings):
    """The solution of a program by the solver of the settings."""

    def report(iteration, objective, bound):
        settings.tell(
            f"iteration {iteration:3d}  objective "
            f"{settings.units.objective(objective):.8g}  dual bound "
            f"{settings.units.objective(bound):.8g}",
            level=2,
        )

    work = family.work(program)
    if work > 0:
        check(work)
    now, deadline = perf_counter(), settings.deadline
    try:
        return SOLVERS[settings.solver].solve(
            program,
            # A little room for the rounding of the recovered network.  A loose
            # solution costs little less and has many more units.
            tol=0.9 * min(settings.tol, 1e-4),
            max_iter=settings.max_iter,
            deadline=now + (1.0 - family.recovery) * (deadline - now),
            callback=report,
            **family.options(settings),
        )
    except SolverError:
        if perf_counter() < deadline:
            raise
        raise OutOfTime from None
