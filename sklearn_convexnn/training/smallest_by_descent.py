"""A smaller network of several outputs within a given objective."""

from dataclasses import replace

import numpy as np

from sklearn_convexnn._utils.deadlines import OutOfTime, check, until
from sklearn_convexnn.families.two_layer.placing import improve_neurons
from sklearn_convexnn.families.two_layer.recovery import merge_parallel
from sklearn_convexnn.solvers.group_lasso_descent import improve_outputs

# Neurons whose directions have a cosine above one minus these are merged.
_PARALLEL = (1e-6, 1e-4, 1e-3, 1e-2, 3e-2, 0.1)
# Descent after neurons have been left out.
_OUTPUT_STEPS, _STEPS = 100, 100


def smallest_by_descent(
    problem, neurons, limit, *, only_subsets=False, deadline=np.inf
):
    """Search for a smaller network whose objective is at most `limit`.

    Backward elimination: neurons of similar directions are merged and the
    smallest are left out, half of them at first and fewer where that is too many;
    the output weights of the rest, and if that is not enough all their weights,
    are optimised again by descent.

    Parameters
    ----------
    problem : Problem
    neurons : Neurons
        Of an objective that is at most `limit`.
    limit : float
    only_subsets : bool, default=False
        Whether neurons may only be left out, neither merged nor moved.
    deadline : float
        Value of ``time.perf_counter()`` at which to stop.

    Returns
    -------
    neurons : Neurons
        The given ones if no smaller network was found.

    References
    ----------
    .. [1] Mishkin, A. and Pilanci, M. (2023). "Optimal Sets and Solution Paths
       of ReLU Networks". ICML. Section 4 (pruning).
    """
    empty = problem.null()
    if problem.objective(empty) <= limit:
        return empty

    def fitted(candidate):
        """The candidate within the limit after a descent, or None."""
        check(2.0 * problem.X.size * len(candidate))
        Z = problem.family.features(candidate.units)
        outputs, offset = improve_outputs(problem, candidate, Z, _OUTPUT_STEPS)
        candidate = replace(candidate, outputs=outputs, offset=offset)
        candidate = candidate.select(candidate.sizes > 0)
        check(2.0 * problem.X.size * len(candidate))
        if problem.objective(candidate) > limit and not only_subsets:
            candidate = improve_neurons(problem, candidate, _STEPS)
        return candidate if problem.objective(candidate) <= limit else None

    best = neurons
    try:
        with until(deadline):
            for tol in () if only_subsets else _PARALLEL:
                merged = merge_parallel(best, tol)
                if len(merged) < len(best):
                    best = fitted(merged) or best
            count = len(best) // 2
            while count:
                check()
                order = np.argsort(-best.sizes, kind="stable")
                smaller = fitted(best.select(np.sort(order[: len(best) - count])))
                if smaller is None:
                    count //= 2
                else:
                    best = smaller
                    count = min(count, len(best) // 2)
    except OutOfTime:
        pass
    return best
