"""The routes from data to parallel sub-networks, with their certificates."""

import numpy as np
from sklearn.utils import check_random_state

from sklearn_convexnn.families.simplify import simplify
from sklearn_convexnn.families.subnetworks.given import SubnetworkBlocks
from sklearn_convexnn.model.results import DualPoint
from sklearn_convexnn.training.given_patterns import train_on_patterns
from sklearn_convexnn.training.subnetwork_generation import generate_subnetworks
from sklearn_convexnn.training.trained import (
    Trained,
    round_printer,
    trained_at_once,
)


def train_subnetworks(problem, known, settings, task=None, duals=()):
    """Train one network of parallel sub-networks.

    Parameters
    ----------
    problem, known, settings, task, duals
        As of `Settings.method`.

    Returns
    -------
    trained : Trained

    Raises
    ------
    ValueError
        If all blocks are asked for, and they are too many.
    """
    empty = problem.null()
    objective = problem.objective(empty)
    if not (objective > 0 and np.any(problem.X)):
        known = {"certificate": "global", "proven_bound": objective}
        return trained_at_once(problem, empty, objective, **known)
    if settings.arrangements != "adaptive":
        blocks = SubnetworkBlocks(problem)
        return train_on_patterns(blocks, known, settings)
    result = generate_subnetworks(
        problem,
        check_random_state(settings.seed),
        settings.limits,
        # The optimum never needs more than one for each number in the targets.
        n_units=min(settings.n_arrangements, max(2 * problem.Y.size, 100)),
        known=known,
        duals=duals,
        callback=round_printer(settings),
        task=task,
    )
    units = simplify(problem, result.neurons)
    kappa = problem.family.upper_slope(result.nu)
    proven = problem.bound(result.nu, kappa)
    objective = problem.objective(units)
    closed = proven >= (1.0 - settings.tol) * objective
    # Simplified, the network can be below the bound by rounding.
    estimate = min(max(result.dual_bound, proven), objective)
    return Trained.of(
        result,
        neurons=units,
        dual_bound=proven if closed else estimate,
        certificate="global" if closed else "estimated",
        dual=DualPoint(result.nu, kappa if closed else result.kappa, closed),
        proven_bound=proven,
    )
