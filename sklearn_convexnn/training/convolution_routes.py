"""The route from data to a convolutional network, with its certificate."""

from contextlib import suppress
from dataclasses import replace

import numpy as np
from sklearn.utils import check_random_state

from sklearn_convexnn._utils.breakdown import unless_broken
from sklearn_convexnn._utils.deadlines import OutOfTime
from sklearn_convexnn.families.convolution.cells import all_cells, random_cells
from sklearn_convexnn.families.simplify import simplify
from sklearn_convexnn.model.results import DualPoint
from sklearn_convexnn.training.column_generation import generate_neurons
from sklearn_convexnn.training.trained import Trained, null_training, round_printer


def train_convolution(problem, known, settings, task=None, duals=()):
    """Train a two-layer convolutional network.

    Parameters
    ----------
    problem, known, settings, task, duals
        As of `Settings.method`.

    Returns
    -------
    trained : Trained
        Without filters if a computation breaks down before there is anything better.
    """
    args = problem, known, settings, task, duals
    trained = unless_broken(None, _train, *args)
    return null_training(problem, settings) if trained is None else trained


def _train(problem, known, settings, task, duals):
    if settings.arrangements != "adaptive":
        cells = _cells(problem.family, known, settings)
        settings.tell(f"{len(problem.X)} distinct samples, {len(cells)} cells")
        problem = replace(problem, family=replace(problem.family, cells=cells))
    result = generate_neurons(
        problem,
        check_random_state(settings.seed),
        settings.limits,
        n_neurons=min(settings.n_arrangements, max(2 * problem.Y.size, 100)),
        known=known,
        duals=duals,
        callback=round_printer(settings),
        task=task,
    )
    neurons = result.neurons
    if not problem.family.stays:
        neurons = unless_broken(neurons, simplify, problem, neurons)
    if settings.arrangements == "adaptive":
        bound, certificate, dual = _estimated(result)
        told = {}
    else:
        told = {"n_patterns": len(problem.family.cells)}
        bound, certificate, dual = _on_cells(problem, result, settings.tol)
    return Trained.of(
        result,
        neurons=neurons,
        **told,
        dual_bound=bound,
        certificate=certificate,
        dual=dual,
    )


def _cells(family, known, settings):
    """The cells that filters are searched for in."""
    if settings.arrangements == "exact":
        return all_cells(family)
    units = None if known is None else known.units
    return random_cells(family, settings.n_arrangements, settings.seed, units)


def _estimated(result):
    """The bound, its kind, and its dual point, of what has been searched for."""
    dual = DualPoint(result.nu, result.kappa)
    return result.dual_bound, "estimated", dual


def _on_cells(problem, result, tol):
    """As `_estimated`, where there is a bound of the slopes in each cell."""
    p, of_all = problem, not problem.family.stays
    slope, proven, estimate = np.inf, -np.inf, result.dual_bound
    with suppress(OutOfTime):
        slope = p.family.proven_slope(result.nu)
        proven = p.bound(result.nu, slope)
    if proven >= (1.0 - 0.1 * tol) * estimate:
        kind = "global" if of_all else "restricted"
        return proven, kind, DualPoint(result.nu, slope, of_all)
    # Outputs and windows that share a filter are harder to bound than to search.
    dual = DualPoint(result.nu, result.kappa)
    return estimate, "estimated" if of_all else "restricted", dual
