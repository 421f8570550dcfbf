"""Descent from random neurons in bursts, after each of which it can wait."""

from dataclasses import replace
from time import perf_counter

import numpy as np

from sklearn_convexnn._utils.deadlines import left
from sklearn_convexnn.families.two_layer.placing import network_of
from sklearn_convexnn.model.settings import FEW_SAMPLES
from sklearn_convexnn.solvers.mini_batches import batch_size
from sklearn_convexnn.solvers.weights import Weights

# Floating-point operations of the first burst: a third of a second on one core; and
# of few samples, for which a bound follows that is to be soon at hand.
_FIRST, _BRIEF = 1e10, 1.5e9
# Operations that passes over an output of a neuron are worth, besides products, and a
# step besides all that depends on the data.
_PASSES, _STEP = 120.0, 3e6
# Passes over the data that the first burst is worth at least: after it the network is
# evaluated.
_PART = 0.5
# How many times a burst there has to be time for after it, or it takes all that is
# left; and of all bursts, for another one to be worth its time.
_NEXT, _LEAST = 2.0, 0.1
# Passes over the data before a descent is told to have ended.
_ENOUGH = 60
# Entries of the data up to which there are many neurons at first, which have few bad
# minima: steps are cheap there.
_FEW = 20_000
# Full batches come first where the first burst is worth so many, or there are fewer
# samples for each feature than so many, of which a batch says little.
_CHEAP, _WIDE = 40, 20
# Gain of a burst of full batches below which batches follow, and its steps at least.
_SLOW, _FULL = 0.003, 100
# Part of a burst that goes into batches, steps at least, and steps of L-BFGS at most.
_IN_BATCHES, _FEWEST, _MOST = 0.4, 10, 1000
# Relative gain of a step of L-BFGS below which a burst ends.
_RTOL = 1e-5
# How many parts neurons are split into, and operations after which they are.
_PARTS, _SPLITS = 3, (4e10, 3e11)
# Part of the time so far that has to be left for it.
_REPAYS = 0.5
# Outputs of all neurons (160 MB) up to which they are.
_MOST_OUTPUTS = 4e7


def descend_in_bursts(problem, n_neurons, rng, pays, report):
    """Go on with a descent as long as it pays, a burst at a time.

    A burst is a descent in batches, with a rate that falls to zero, and then one by
    L-BFGS; each is longer than the one before.  Neurons are few at first, since these
    get down quickly, and many later, since these get far.

    Parameters
    ----------
    problem : Problem
        The descent is in single precision unless scales are apart.
    n_neurons : int
        At first.
    rng : RandomState
    pays : float
        Relative gain of a burst below which no other one follows.
    report : callable
        Called with the networks within and after bursts; returns their objectives.
        The last one need not be the best.

    Yields
    ------
    None
        After each burst.

    References
    ----------
    .. [1] Loshchilov, I. and Hutter, F. (2017). "SGDR: Stochastic Gradient Descent
       with Warm Restarts". ICLR.
    .. [2] Wu, L., Wang, D. and Liu, Q. (2019). "Splitting Steepest Descent for
       Growing Neural Architectures". NeurIPS.
    """
    family = problem.family
    if not family.apart:
        family = family.astype(np.float32)
    p = replace(problem, family=family)
    n, d = p.X.shape
    few = p.X.size <= _FEW
    weights = family.random_weights(p, _PARTS * n_neurons if few else n_neurons, rng)
    full = n < _WIDE * d or _CHEAP * _work_of_pass(p, weights) < _FIRST
    splits, spent, last, pace = list(_SPLITS)[few:], 0.0, np.inf, 0.0
    descent = None
    work = _BRIEF if n <= FEW_SAMPLES else _FIRST
    work = max(work, _PART * _work_of_pass(p, weights))
    while True:
        splitting = splits and spent >= splits[0] and _can_split(p, weights)
        # It takes a while until split neurons are better than those before.
        splitting = splitting and _REPAYS * pace * spent <= left()
        if splitting:
            weights, _ = split_neurons(weights, _PARTS, rng), splits.pop(0)
            descent = None
        one_pass = _work_of_pass(p, weights)
        work = max(work, spent, _FULL * one_pass if full and spent else 0.0)
        if pace * _LEAST * spent > left():
            return
        if pace * (1.0 + _NEXT) * work > left():
            # Another burst would be cut short.
            work = max(work, left() / pace)
        begin = perf_counter()
        weights, descent = _burst(
            p,
            weights,
            # In full batches it goes on.
            descent if full else None,
            rng,
            work,
            0.0 if full else _IN_BATCHES,
            lambda weights: report(network_of(weights)),
        )
        value = report(network_of(weights))
        if not np.isfinite(value):
            return
        pace = (perf_counter() - begin) / work
        yield
        spent, work = spent + work, max(work, _FIRST)
        gain, last = last - value, min(last, value)
        enough = spent >= _ENOUGH * one_pass and not full
        if gain < pays * value and enough and not splitting:
            # What neurons gain by splitting takes longer to show.
            return
        full = full and gain > _SLOW * value


def _can_split(problem, weights):
    return len(problem.X) * len(weights.output) * _PARTS <= _MOST_OUTPUTS


def _work_of_pass(problem, weights, n=None):
    """Operations of a step on so many samples, by default all."""
    n = len(problem.X) if n is None else n
    family = problem.family
    products = family.places * family.unit_size + family.n_windows * problem.n_outputs
    passes = 6.0 * products + _PASSES * family.places
    return _STEP + passes * len(weights.output) * n


def _burst(problem, weights, descent, rng, work, in_batches, report):
    """Weights after so many operations, a part of them in batches, and the descent."""
    p, n = problem, len(problem.X)
    batch = batch_size(n)
    steps = work / _work_of_pass(p, weights)
    if batch and in_batches and not p.family.apart:
        if (1.0 - in_batches) * steps < _FEWEST:
            in_batches = 1.0
        count = in_batches * work / _work_of_pass(p, weights, batch)
        count = int(max(count, _FEWEST))
        weights = p.family.descend_in_batches(p, weights, rng, count)
        steps *= 1.0 - in_batches
        if steps >= 1.0:
            report(weights)
    steps = int(min(steps, _MOST))
    if steps or not batch:
        steps = max(steps, _FEWEST)
        descent = p.family.descent(p, weights) if descent is None else descent
        weights = descent.run(steps, rtol=_RTOL, report=report)
    return weights, descent


def split_neurons(weights, n_parts, rng):
    """Weights of parts of neurons, which add up to them but for some noise.

    Parameters
    ----------
    weights : Weights
    n_parts : int
    rng : RandomState

    Returns
    -------
    weights : Weights
        The noise is as large as the neurons, which together with others like them
        find their place again, at a better one each.
    """
    w, root = weights, np.sqrt(2.0 * n_parts)
    d, m = w.hidden.shape
    length = np.linalg.norm(w.hidden, axis=0) / np.sqrt(d)

    def noisy(values):
        noise = rng.standard_normal((*values.shape[:-1], n_parts * m))
        return (np.tile(values, n_parts) + np.tile(length, n_parts) * noise) / root

    return Weights(
        hidden=noisy(w.hidden),
        output=np.tile(w.output, (n_parts, 1)) / np.sqrt(n_parts),
        # Those that are not free stay at zero.
        bias=np.where(np.tile(w.bias, n_parts) == 0, 0.0, noisy(w.bias)),
        linear=np.tile(w.linear, n_parts),
        offset=w.offset,
    )
