"""Column generation for many samples: in batches, in chunks, in single precision."""

from contextlib import suppress
from dataclasses import replace
from time import perf_counter

import numpy as np
from sklearn.utils import check_random_state

from sklearn_convexnn._sklearn import FitTask
from sklearn_convexnn._utils.breakdown import unless_broken
from sklearn_convexnn._utils.deadlines import (
    COPIES,
    OutOfTime,
    check,
    fits,
    seconds,
    until,
)
from sklearn_convexnn.families.two_layer.placing import (
    improve_neurons,
)
from sklearn_convexnn.families.two_layer.pricing import merge_candidates
from sklearn_convexnn.families.two_layer.sampled_pricing import (
    finish_on_all,
    sample_residuals,
)
from sklearn_convexnn.model.results import DualPoint
from sklearn_convexnn.training.column_generation import Run
from sklearn_convexnn.training.trained import Trained, null_training, round_printer

# Samples, and numbers in the targets of several outputs, from which this is the faster
# way.
_MANY, _MANY_TARGETS, _FEWEST_SAMPLES = 4000, 10_000, 1000
LARGE = 2_000_000
"""Entries of the data from which it is, and from which they are not sorted."""
# Share of the time that is left for each improvement.
_IMPROVING = 0.4
# Steps of L-BFGS before an improvement, where it is only to tell which units are of
# use, and in it.
_FIRST_STEPS, _STEPS = 30, 100
# Samples, and random directions, with which pricing searches from round to round.
_SAMPLES, _STARTS = 3000, 60
# Entries of the data, with an overhead for each sample, in a thorough search; how
# often it draws others; candidates that are finished, on all samples.
_WORK, _OVERHEAD, _DRAWS, _FINISHED = 1e6, 20, 2, 24
# Part of the slope wanted from which a candidate is kept.
_WORTH = 0.8
# Neurons of the networks for whose evaluation time is kept.
_TYPICAL = 100
# Share of the time that is kept for a thorough search.
_LAST = 0.15
# Unknowns of the group lasso up to which a second-order method is faster; for a loss
# without curvature, on which descent gets stuck, the operations it may take.
_FEW_UNKNOWNS, _MOST_WORK = 500, 2e10
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
    dtype = precision_at_scale(limits.tol)
    family = replace(problem.family, X=problem.X.astype(dtype, copy=False))
    problem = replace(problem, family=family)
    task = FitTask() if task is None else task
    run = _RunInChunks(problem, rng, limits)
    return run.solve(n_neurons, known, duals, callback, task)


class _RunInChunks(Run):
    def __init__(self, problem, rng, limits):
        super().__init__(problem, rng, limits)
        self.end = limits.deadline
        if np.isfinite(self.end):
            n, d = problem.X.shape
            # The network has to be evaluated after the last descent and in the end.
            self.end -= seconds(3.0 * n * _TYPICAL * (2.0 * d + _OVERHEAD))
            self.deadline = self.end
            self.deadline = self._until(1.0 - _LAST)

    def _until(self, share):
        """The time at which a share of what is left is over."""
        now = perf_counter()
        return now + share * (self.deadline - now)

    def improve(self, neurons):
        return improve_neurons(
            self.problem, neurons, max_iter=_STEPS, deadline=self._until(_IMPROVING)
        )

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
        unknowns = n_units * p.n_outputs
        if p.loss.smooth:
            return unknowns <= _FEW_UNKNOWNS
        return len(p.X) * unknowns**2 <= _MOST_WORK

    def conclude(self):
        # Whatever ended the rounds, the bound is to be one that was looked at, as far
        # as the time that was kept for it goes.
        point, p = self.duals[0], self.problem
        with suppress(OutOfTime), until(self.end):
            if point.by_norms:
                # Any search is worth more.
                self.price(p.dual_point(p.outputs(self.best)))
            elif not point.confirmed:
                self.price(point.nu, thorough=True)
        self.refute()

    def search_size(self, thorough, most):
        if not self.duals:
            # Whether there is anything to train, and a first few neurons.
            return _STARTS // 3
        return 2 * _STARTS if thorough else _STARTS

    def search(self, N, thorough):
        p, most = self.problem, _FINISHED if thorough else _FINISHED // 3
        # A longer search at a point that has been searched can only correct it.
        options = {"polish": most, "partial": thorough}
        rows = int(_WORK // (p.X.shape[1] + _OVERHEAD)) if thorough else 0
        rows = max(rows, _SAMPLES)
        if rows >= len(p.X):
            check(COPIES * p.X.size)
            sample = p.X.astype(np.float64, copy=False), N
            return self._search_on(sample, N, thorough, **options)
        # Steep units may be active on few samples, all of them left out by chance.
        found = []
        for _ in range(_DRAWS if thorough else 1):
            if found and not fits():
                break
            sample = sample_residuals(p, N, rows, self.rng)
            # To finish on some samples would be in vain.
            options["polish"] = 0
            found.append(self._search_on(sample, N, thorough, **options))
        found = finish_on_all(p, N, merge_candidates(found, p.X, p.family.apart), most)
        return found.select(found.slopes > _WORTH * p.alpha)

    def _search_on(self, sample, N, thorough, **options):
        p = self.problem
        return p.family.search(
            N,
            self.search_size(thorough, None),
            self.rng,
            known=self.pool.units,
            seen=self.archive.units,
            thorough=thorough,
            floor=p.alpha,
            sample=sample,
            **options,
        )


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
    result = unless_broken(
        None,
        generate_at_scale,
        problem,
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
