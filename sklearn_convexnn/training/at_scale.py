"""Column generation for many samples: in batches, in chunks, in single precision."""

from contextlib import suppress
from dataclasses import replace

import numpy as np
from sklearn.utils import check_random_state

from sklearn_convexnn._sklearn import FitTask
from sklearn_convexnn._utils.breakdown import unless_broken
from sklearn_convexnn._utils.deadlines import (
    COPIES,
    OutOfTime,
    after,
    at_speed_of,
    check,
    seconds,
    until,
)
from sklearn_convexnn._utils.devices import product_on
from sklearn_convexnn.families.two_layer.placing import improve_neurons
from sklearn_convexnn.families.two_layer.sampled_pricing import (
    FINISH,
    finish_on_all,
    sample_residuals,
)
from sklearn_convexnn.families.two_layer.searching import Ground
from sklearn_convexnn.families.two_layer.starts import FAR, HALFWAY, Plan
from sklearn_convexnn.model.results import DualPoint
from sklearn_convexnn.training.column_generation import Run
from sklearn_convexnn.training.dual_points import BRIEF, CLAIM, GLANCE, PART, SHORT
from sklearn_convexnn.training.trained import Trained, null_training, round_printer

# Samples, and numbers in the targets of several outputs, from which this is the faster
# way.
_MANY, _MANY_TARGETS, _FEWEST_SAMPLES = 4000, 10_000, 1000
LARGE = 2_000_000
"""Entries of the data from which it is, and from which they are not sorted."""
# Share of the time that is left for each improvement.
_IMPROVING = 0.4
# The same for the descent that places neurons.
_PLACING = 0.65
# Steps of L-BFGS before an improvement, where it is only to tell which units are of
# use, and in it.
_FIRST_STEPS, _STEPS = 30, 100
# Samples on which pricing begins, and the part of the time left that it may take there;
# and where these are all samples.
_SAMPLES, _SAMPLED, _SEARCHED = 3000, 0.5, 0.8
# Floating-point operations of a search, and how much longer a long one is; of a
# step of a climber for a sample, besides those of its features.
_SEARCH, _LONGER, _OVERHEAD = 2e10, 10, 20
# Random directions where there is little time.
_FEWEST_STARTS = 10
# Random directions, fewest and most, and candidates that climb on, on all samples.
_STARTS, _MORE_STARTS, _FINISHED, _MORE_FINISHED = 60, 2000, 8, 400
# How climbs go uphill on some of the samples.
_ON_SOME = (Plan(HALFWAY[:3]), Plan(FAR[:4]), Plan(HALFWAY[:3], curved=True))
# Part of the slope wanted from which a candidate is kept.
_WORTH = 0.8
# Neurons of the networks for whose evaluation time is kept.
_TYPICAL = 100
# Unknowns of the group lasso, or operations of a step, up to which a second-order
# method is faster; for a loss without curvature, on which descent gets stuck, the
# operations that a step may take.
_FEW_UNKNOWNS, _LITTLE_WORK, _MOST_WORK = 500, 4e9, 2e10
# Rows of matrices whose product tells how fast a device is.
_PRODUCT = 2048
# Single precision is enough down to this gap, relative to the objective.
_SINGLE = 1e-4


def goes_at_scale(shape, n_outputs, arrangements):
    """Whether the data are so many that `generate_at_scale` is the faster way.

    Parameters
    ----------
    shape : tuple of int
        That of the data.
    n_outputs : int
    arrangements : str
        Of the settings.

    Returns
    -------
    large : bool
    """
    n, d = shape
    if arrangements != "adaptive" or d < 2 or n < _FEWEST_SAMPLES:
        return False
    return n > _MANY or n * d > LARGE or n * n_outputs > _MANY_TARGETS


def precision_at_scale(tol):
    """The precision that is enough for a tolerance.

    Parameters
    ----------
    tol : float

    Returns
    -------
    dtype : type
    """
    return np.float32 if tol >= _SINGLE else np.float64


def generate_at_scale(
    problem,
    rng,
    limits,
    *,
    n_neurons=100,
    known=None,
    duals=(),
    callback=None,
    task=None,
):
    r"""Train a network of any width on many samples, to a small duality gap.

    The steps of `sklearn_convexnn.training.column_generation.generate_neurons`,
    each in a form whose time and memory grow linearly with the samples: neurons
    are placed by stochastic descent and moved by L-BFGS, the group lasso over the
    units at hand is solved by descent, which has no local minima there, and
    pricing searches on some of the samples and evaluates on all.

    Parameters
    ----------
    problem : Problem
        Its ``X`` may be of single or double precision.
    rng : RandomState
    limits : Limits
    n_neurons, known, duals, callback, task
        As of `generate_neurons`.

    Returns
    -------
    result : GlobalResult
    """
    # Otherwise it is over before anything can be trained.
    check(0.3 * COPIES * problem.X.size)
    family = problem.family.astype(precision_at_scale(limits.tol))
    problem = replace(problem, family=family)
    task = FitTask() if task is None else task
    run = _RunInChunks(problem, rng, limits)
    return run.solve(n_neurons, known, duals, callback, task)


class _RunInChunks(Run):
    # Of so many samples a network is far from its best for long.
    placing_share = _PLACING
    fewest = _FEWEST_STARTS

    def __init__(self, problem, rng, limits):
        super().__init__(problem, rng, limits)
        self.pace *= min(1.0, _SAMPLES / len(problem.X))
        self.sees_some = len(problem.X) > _SAMPLES
        if np.isfinite(self.end):
            n, d = problem.X.shape
            # The network has to be evaluated after the last descent and in the end.
            work = 3.0 * n * _TYPICAL * (2.0 * d + _OVERHEAD)
            self.keep_time(self.end - seconds(work))

    def improve(self, neurons):
        end = self.before_pricing(_IMPROVING)
        return improve_neurons(self.problem, neurons, max_iter=_STEPS, deadline=end)

    def round(self):
        if self.started:
            self.pool, _ = self.select(_FIRST_STEPS)
        limited = len(self.pool) > self.max_neurons
        if limited:
            self.pool = self.within_limit(self.pool)
        if self.started:
            self.pool = self.improve(self.pool)
            self.keep(self.pool)
        self.started = True
        selected, N = self.select(_STEPS)
        self.pool = selected
        if not (self.closed and self.confirm()):
            self.price(self.problem.project(N))
        return len(selected), limited

    def solves_exactly(self, n_units):
        p = self.problem
        unknowns = p.family.n_windows * n_units * p.n_outputs
        work = len(p.X) * unknowns**2
        if p.loss.smooth:
            return unknowns <= _FEW_UNKNOWNS or work <= _LITTLE_WORK
        return work <= _MOST_WORK

    def full_size(self, effort, n_outputs):
        if self.is_first() or effort == GLANCE:
            # Whether there is anything to train, and a first few neurons.
            return _STARTS // 3
        return self._affordable(effort, _SAMPLES, FAR, _STARTS, _MORE_STARTS)

    def _affordable(self, effort, n_samples, widths, least, most):
        """Climbers that half of a search pays for, on so many samples."""
        n, d = self.problem.X.shape
        steps = sum(stage[-1] for stage in widths)
        each = 4.0 * min(n_samples, n) * (d + _OVERHEAD) * steps
        longer = {BRIEF: PART * _LONGER, CLAIM: _LONGER}.get(effort, 1.0)
        work = 0.5 * _SEARCH * longer
        return int(np.clip(work / each, least, most))

    def _most_finished(self, effort):
        """Climbers that half of a search pays for on all samples."""
        n = len(self.problem.X)
        return self._affordable(effort, n, FINISH, _FINISHED, _MORE_FINISHED)

    def starts_of(self, effort):
        size = super().starts_of(effort)
        return min(size, self._most_finished(effort)) if self.sees_some else size

    def search(self, N, effort):
        p, thorough = self.problem, effort > SHORT
        n, size = len(p.X), self.search_size(effort, p.n_outputs)
        known = p.family.steepest(self.pool.units, N, size)
        seen = p.family.steepest(self.archive.units, N, size)
        # A longer search at a point that has been searched can only correct it, and
        # with little time a few candidates are worth more than none.
        partial = thorough or self.deadline < np.inf
        options = {"thorough": thorough, "partial": partial}
        if n <= _SAMPLES:
            check(COPIES * p.X.size)
            options["ground"] = Ground(p.X.astype(np.float64, copy=False), N, N)
            options.update(known=known, seen=seen, floor=p.alpha)
            with until(after(_SEARCHED) if partial else np.inf):
                return p.family.search(N, size, self.rng, **options)
        # While kinks are wide, some samples stand for all; steep units may then be
        # active on few of them.
        X, residual = sample_residuals(p, N, _SAMPLES, self.rng)
        options["ground"] = Ground(X, residual, residual)
        options["plans"], floor = _ON_SOME, _WORTH * p.alpha
        with until(after(_SAMPLED) if partial else np.inf):
            found = p.family.search(N, size, self.rng, floor=floor, polish=0, **options)
        most = self._most_finished(effort)
        found = finish_on_all(p, N, found, known.joined(seen), most, partial)
        return found.select(found.slopes > _WORTH * p.alpha)


def train_at_scale(problem, known, settings, task=None, duals=()):
    """Train a two-layer network on many samples.

    Parameters
    ----------
    problem, known, settings, task, duals
        As of `Settings.method`.

    Returns
    -------
    trained : Trained
    """
    family = problem.family.on_device_of(settings.like)
    with at_speed_of(product_on(family.placed, _PRODUCT), _PRODUCT):
        result = unless_broken(
            None,
            generate_at_scale,
            replace(problem, family=family),
            check_random_state(settings.seed),
            settings.limits,
            n_neurons=settings.n_arrangements,
            known=known,
            duals=duals,
            callback=round_printer(settings),
            task=task,
        )
    if result is None:
        return null_training(problem, settings)
    neurons = result.neurons
    with suppress(OutOfTime):
        neurons = problem.family.merged(neurons)
    return Trained.of(
        result,
        neurons=neurons,
        dual_bound=result.dual_bound,
        certificate="estimated",
        dual=DualPoint(result.nu, result.kappa),
    )
