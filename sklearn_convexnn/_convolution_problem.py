"""The training problem of a convolutional network, and the scale of its `alpha`."""

from contextlib import suppress
from dataclasses import replace

import numpy as np
from sklearn.utils import check_random_state

from sklearn_convexnn._null_slope import end_of_look
from sklearn_convexnn._preparing import canonical, rounding_of_slopes
from sklearn_convexnn._utils.breakdown import unless_broken
from sklearn_convexnn._utils.deadlines import OutOfTime, until
from sklearn_convexnn._utils.threads import blas_threads_for
from sklearn_convexnn.families.convolution.family import Convolution
from sklearn_convexnn.model.problem import Problem
from sklearn_convexnn.model.units import units_of
from sklearn_convexnn.model.whitening import Whitening

# Entries of the patches that are computed at once, and random directions with which the
# scale of the weight decay is searched for.
_CHUNK, _DIRECTIONS = 4_000_000, 60


def build_convolution(X, Y, sample_weight, settings, dtype=np.float64, *, layout):
    """The training problem of filters, of patches that are centred if it can be.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    Y : ndarray of shape (n_samples, n_outputs)
    sample_weight : ndarray of shape (n_samples,)
        Positive.
    settings : Settings
        Or anything else with its `loss`, `alpha`, `fit_intercept` and `batch_norm`.
    dtype : dtype, default=float64
    layout : Layout

    Returns
    -------
    problem : Problem
        In units in which data, targets and weights are of order one.
    units : Units
        Whose `centre` is that of patches.
    """
    free_bias = settings.fit_intercept
    none = np.zeros(layout.patch_size)
    units, Y, sample_weight, loss = units_of(
        X, Y, sample_weight, settings.loss, free_bias, none
    )
    X = (X / units.data).astype(dtype)
    centre, whitening = none, None
    if settings.batch_norm:
        whitening = _whitening(X, sample_weight, layout)
        # Whitened patches have no units.
        units = replace(units, data=1.0).after(whitening.scaled(units.data))
        centre = whitening.centre
    elif free_bias:
        centre = _mean_patch(X, layout)
        units = replace(units, centre=units.data * centre)
    family = Convolution(
        X, free_bias, layout=layout, centre=centre, whitening=whitening
    )
    alpha = units.weight_decay(settings.alpha)
    return Problem(family, Y, sample_weight, loss, alpha), units


def _chunks(n_samples, layout):
    """Slices of samples, of which the patches are few."""
    size = max(1, _CHUNK // (layout.n_patches * layout.patch_size))
    return [slice(i, i + size) for i in range(0, n_samples, size)]


def _rows_of_patches(X, layout):
    """Patches of the samples, in order of these, as the rows of a matrix."""
    patches = layout.patches(X).astype(np.float64, copy=False)
    return patches.transpose(1, 0, 2, 3).reshape(-1, layout.patch_size)


def _whitening(X, sample_weight, layout):
    """That of all patches, with the weights of their samples."""
    weight = np.repeat(sample_weight, layout.n_patches)
    return Whitening.of(_rows_of_patches(X, layout), weight)


def _mean_patch(X, layout):
    total = 0.0
    for rows in _chunks(len(X), layout):
        total = total + np.sum(_rows_of_patches(X[rows], layout), axis=0)
    return total / (len(X) * layout.n_patches)


def convolution_slope(X, Y, sample_weight, settings, *, layout):
    """As `null_slope`, of filters.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    Y : ndarray of shape (n_samples, n_outputs)
    sample_weight : ndarray of shape (n_samples,)
    settings : Settings
    layout : Layout

    Returns
    -------
    slope : float
        Positive, also if no filter is of use.
    """
    X, Y, sample_weight = canonical(X, Y, sample_weight)
    settings = replace(settings, alpha=1.0)
    p, units = build_convolution(X, Y, sample_weight, settings, layout=layout)
    N, rng = p.null_dual(), check_random_state(settings.seed)
    found = p.family.linear(N, 0.0)[0]
    with blas_threads_for(0), suppress(OutOfTime), until(end_of_look(settings)):
        found = max(found, unless_broken(0.0, _steepest, p, N, rng))
    # A patch has a part of the sizes of a sample, and is in so many windows.
    rounding = rounding_of_slopes(p.X, N) * layout.n_windows
    return units.slope * found if found > rounding else units.slope


def _steepest(problem, N, rng):
    """The largest slope that a short search finds."""
    found = problem.family.search(N, _DIRECTIONS, rng, partial=True)
    return float(found.slopes.max(initial=0.0))


def squared_deviations_of_patches(X, sample_weight, hidden, layout):
    """As `squared_deviations`, of filters, over all patches of the samples.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    sample_weight : ndarray of shape (n_samples,)
    hidden : ndarray of shape (patch_size, n_filters)
        Weights.
    layout : Layout

    Returns
    -------
    total : float
    """
    share = sample_weight / (np.sum(sample_weight) * layout.n_patches)
    mean = 0.0
    for rows in _chunks(len(X), layout):
        weight = np.repeat(share[rows], layout.n_patches)
        mean = mean + weight @ _rows_of_patches(X[rows], layout)
    total = 0.0
    for rows in _chunks(len(X), layout):
        weight = np.repeat(share[rows], layout.n_patches)
        Z = (_rows_of_patches(X[rows], layout) - mean) @ hidden
        total += float(np.sum(weight @ Z**2))
    return total
