"""How steep neurons are at the network without any: the scale of the weight decay."""

from contextlib import suppress
from dataclasses import replace
from time import perf_counter

import numpy as np
from sklearn.utils import check_random_state

from sklearn_convexnn._preparing import (
    build_problem,
    canonical,
    flat_columns,
    gated_problem,
    rounding_of_slopes,
    whitened,
)
from sklearn_convexnn._utils.breakdown import unless_broken
from sklearn_convexnn._utils.deadlines import OutOfTime, until
from sklearn_convexnn._utils.devices import in_numpy, placed
from sklearn_convexnn._utils.threads import blas_threads_for
from sklearn_convexnn.families.two_layer.neurons import activation
from sklearn_convexnn.families.two_layer.pricing import (
    SlopeSearch,
    no_candidates,
    search_widely,
)
from sklearn_convexnn.losses.base import power_of_two
from sklearn_convexnn.patterns.gates import gated_arrangement
from sklearn_convexnn.solvers.gated import GatedObjective

# Entries of the data in the search, its fewest samples, and its random directions of
# each kind.
_ENTRIES, _FEWEST, _DIRECTIONS = 60_000, 300, 60
# Part of the time left that the search may take.
_SHARE = 0.2
# Candidates that are looked at on all samples.
_FINISHED = 20


def null_slope(X, Y, sample_weight, settings):
    """Slope of the steepest neuron that a short search finds at the best constant.

    It does not depend on the units of data, targets and weights, but for its own
    unit, which is that of the weight decay.

    Parameters
    ----------
    X : {array, sparse array} of shape (n_samples, n_features)
    Y : ndarray of shape (n_samples, n_outputs)
    sample_weight : ndarray of shape (n_samples,)
    settings : Settings
        Of a family of neurons.  If the fit has to end soon, the search is shorter.

    Returns
    -------
    slope : float
        Positive, also if no neuron is of use.
    """
    loss, rng = settings.loss, check_random_state(settings.seed)
    end = end_of_look(settings)
    X, Y, sample_weight = canonical(X, Y, sample_weight)
    if settings.batch_norm:
        X = whitened(X, sample_weight)[0]
    N = _null_dual(Y, sample_weight, loss, settings.fit_intercept)
    some, most = slice(None), max(_ENTRIES // X.shape[1], _FEWEST)
    if most < len(X):
        some = np.sort(rng.permutation(len(X))[:most])
    p, units = build_problem(
        X[some].astype(np.float64, copy=False),
        Y[some],
        sample_weight[some],
        replace(settings, alpha=1.0, batch_norm=False),
    )
    residual = p.project(N[some] / units.dual)
    # Two threads bring little for products of this size.
    with blas_threads_for(0):
        found = _steepest(p, residual, rng, end)
        slopes, rounding = _on_all_samples(found, p, X, N, units)
    return _positive(slopes, rounding, units)


def end_of_look(settings):
    """When a search for the scale of the weight decay has to end.

    Parameters
    ----------
    settings : Settings

    Returns
    -------
    end : float
        Value of ``time.perf_counter()``.
    """
    now, deadline = perf_counter(), settings.deadline
    return now + _SHARE * (deadline - now) if deadline < np.inf else np.inf


def _positive(slopes, rounding, units):
    """The largest slope, or its unit if that is zero up to rounding."""
    steepest = float(np.max(slopes, initial=0.0))
    return steepest if steepest > rounding else units.slope


def _steepest(p, N, rng, end):
    """The steepest neurons that a short search finds."""
    options = p.family.geometry
    found = no_candidates(p.X, N.shape[1])
    with suppress(OutOfTime), until(end):
        found = unless_broken(
            found,
            search_widely,
            *(p.X, N, _DIRECTIONS, rng),
            polish=_FINISHED,
            **options,
        )
    if len(found) == 0:
        found = unless_broken(found, _along_sums, p.X, N, **options)
    return found.select(slice(0, _FINISHED))


def _on_all_samples(found, p, X, N, units):
    """Slopes on other samples than those of the search, and what of them is rounding.

    Those of the neurons found, and with biases of the linear ones.
    """
    rounding, slopes = 0.0, np.zeros((len(found), p.n_outputs))
    linear = np.zeros((X.shape[1], p.n_outputs))
    step = max(1, _ENTRIES // X.shape[1])
    flat = flat_columns(X) if p.fit_intercept else []
    for i in range(0, len(X), step):
        rows = X[i : i + step] - units.centre
        rows[:, flat] = 0.0
        z = rows @ found.directions.T + units.data * found.biases
        slopes += activation(z, p.family.negative_slope).T @ N[i : i + step]
        linear += rows.T @ N[i : i + step]
        rounding += rounding_of_slopes(rows, N[i : i + step])
    steepest = np.linalg.norm(slopes, axis=1)
    if p.fit_intercept:
        # A neuron that is active on all samples.
        steepest = np.append(steepest, _largest(linear))
    return steepest, rounding


def _along_sums(X, N, **options):
    """Candidates along sums of the samples: what takes no search."""
    sums = np.concatenate([N.T, np.maximum(N, 0.0).T, np.minimum(N, 0.0).T]) @ X
    sums = sums[np.any(sums != 0, axis=1)].astype(np.float64)
    slopes = SlopeSearch(X, N, **options)
    at = np.zeros(len(sums), dtype=int)
    if len(sums) and options["free_bias"]:
        at = slopes.anchor(sums)
    return slopes.evaluate(sums, at)


def _null_dual(Y, sample_weight, loss, free):
    """Dual variables of the best constant."""
    weight = power_of_two(np.mean(sample_weight))
    s = sample_weight / weight
    scaled = loss.scaled(Y, s, free)
    # The weight decay has no part in it.
    objective = GatedObjective(scaled.y, s, scaled.loss, 1.0, free)
    N = objective.dual_point(np.zeros(Y.shape))
    return N * (weight * scaled.value / scaled.output)


def _largest(matrix):
    """Largest singular value, or a bound of it."""
    return unless_broken(np.linalg.norm(matrix), np.linalg.norm, matrix, 2)


def null_gate_slope(X, Y, sample_weight, settings):
    """The same over the patterns of gated networks.

    Parameters
    ----------
    X, Y, sample_weight, settings
        As of `null_slope`.

    Returns
    -------
    slope : float
    """
    p = gated_problem(X, Y, sample_weight, settings)
    N = _null_dual(p.Y, p.sample_weight, p.loss, settings.fit_intercept)
    end = end_of_look(settings)

    def slope(active):
        active = placed(N * active[:, None], p.X, p.X.dtype)
        return p.units.slope * _largest(in_numpy(p.X.T @ active).astype(float))

    arrangement = None, None
    args = p.X, p.sample_weight, settings, None
    with blas_threads_for(0):
        rounding = p.units.slope * rounding_of_slopes(p.X, N)
        with suppress(OutOfTime), until(end):
            arrangement = unless_broken(arrangement, gated_arrangement, *args)
        if arrangement[0] is None:
            # A gate along a sum of the samples.
            along = p.X @ (p.X.T @ placed(N[:, :1], p.X, p.X.dtype))
            return _positive(slope(in_numpy(along)[:, 0] > 0), rounding, p.units)
        steepest = 0.0
        for pattern in in_numpy(arrangement[0].patterns):
            if steepest > 0 and perf_counter() > end:
                break
            steepest = max(steepest, slope(pattern))
    return _positive(steepest, rounding, p.units)
