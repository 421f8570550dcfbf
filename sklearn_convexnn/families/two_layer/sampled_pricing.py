"""Pricing on many samples: search on some of them, then finish on all."""

from dataclasses import replace

import numpy as np

from sklearn_convexnn._utils.deadlines import OutOfTime, after, until
from sklearn_convexnn.families.two_layer.climbing import row_norms
from sklearn_convexnn.families.two_layer.pricing import (
    Candidates,
    SlopeSearch,
    merge_candidates,
)
from sklearn_convexnn.families.two_layer.starts import Plan

FINISH = ((0.3, 0.8, 15), (0.05, 0.93, 30), (0.005, 0.97, 15))
"""Widths of the kinks, parts of the slope wanted and steps, as of `FAR`, for what comes
from a search on some samples."""
# Part of the time that they may take; then slopes are evaluated.
_ASCENT = 0.6


def sample_residuals(problem, N, size, rng):
    """Some samples, drawn in proportion to their residuals, to search with.

    Parameters
    ----------
    problem : Problem
    N : ndarray of shape (n_samples, n_outputs)
        Dual point.
    size : int
        About how many.
    rng : RandomState

    Returns
    -------
    X : ndarray of shape (n_drawn, n_features)
        In double precision.
    residual : ndarray of shape (n_drawn, n_outputs)
        Weighted to stand for all; its columns sum to zero if biases are free.
    """
    rows, shares = draw_by_residual(N, size, rng)
    residual = N[rows] * shares[:, None]
    if problem.fit_intercept:
        residual -= residual.mean(axis=0)
    return problem.X[rows].astype(np.float64), residual


def draw_by_residual(N, size, rng):
    """Samples drawn in proportion to their residuals.

    Parameters
    ----------
    N : ndarray of shape (n_samples, n_outputs)
    size : int
        About how many.
    rng : RandomState

    Returns
    -------
    rows : ndarray of int, shape (n_drawn,)
    shares : ndarray of shape (n_drawn,)
        What each stands for.
    """
    norms = row_norms(N)
    chance = 0.5 * (norms / np.sum(norms) + 1.0 / len(norms))
    order = rng.permutation(len(norms))
    # Systematic sampling: a sample comes twice only if it is expected to.
    steps = (np.arange(size) + rng.uniform()) / size
    drawn = np.searchsorted(np.cumsum(chance[order]), steps * (1.0 - 1e-12))
    rows, count = np.unique(order[drawn], return_counts=True)
    return rows, count / chance[rows] / size


def finish_on_all(problem, N, candidates, known, most, partial=False):
    """Candidates of a search on some samples, with their slopes over all.

    Parameters
    ----------
    problem : Problem
    N : ndarray of shape (n_samples, n_outputs)
    candidates : Candidates
    known : Neurons
        To start from as well.
    most : int
        How many candidates, and as many known neurons, climb on, on all samples.
    partial : bool, default=False
        Whether they may stay where they are if there is no time for it.

    Returns
    -------
    candidates : Candidates
        Steepest first.
    """
    hills = over_all(problem.family, candidates, N)
    best, known = hills.select(slice(0, most)), known.select(slice(0, most))
    U = np.concatenate([best.directions, known.directions])
    biases = np.concatenate([best.biases, known.biases])
    if len(U) == 0:
        return hills
    hits = np.concatenate([best.hits, np.zeros(len(known))])
    # On some of the samples hills are steeper than on all: only climbs that go on there
    # tell of what has not been seen.
    n_starts = int(np.sum(hits))
    try:
        with until(after(_ASCENT) if partial else np.inf):
            U, biases, hits = _ascended(problem, N, U, hits)
    except OutOfTime:
        if not partial:
            raise
        n_starts, hits = 0, 0.0 * hits
    outputs = np.zeros((len(U), N.shape[1]))
    climbed = Candidates(U, biases, outputs, biases, hits, n_starts)
    climbed = over_all(problem.family, climbed, N)
    # Each climb counts once, where it has ended.
    parts = [climbed, hills.uncounted()]
    return merge_candidates(parts, problem.X, problem.family.apart)


def _ascended(problem, N, starts, hits):
    """Directions, biases and hits after an ascent on all samples."""
    scale = np.linalg.norm(problem.X) * np.max(np.abs(N))
    search = SlopeSearch(
        problem.X,
        (N / scale).astype(problem.X.dtype),
        **problem.family.geometry,
        apart=problem.family.apart,
        like=problem.family.placed,
    )
    floor = problem.alpha / scale
    U, at, hits = search.ascend(starts, floor, [Plan(FINISH, rescale=True)], hits=hits)
    U = U.astype(np.float64)
    U /= np.linalg.norm(U, axis=1, keepdims=True)
    biases = np.zeros(len(U))
    if problem.fit_intercept:
        biases = -np.einsum("kd,kd->k", problem.X[at], U)
    return U, biases, hits


def over_all(family, candidates, N):
    """The candidates with their slopes over all samples, steepest first.

    Parameters
    ----------
    family : UnitFamily
    candidates : Candidates
    N : ndarray of shape (n_samples, n_outputs)

    Returns
    -------
    candidates : Candidates
    """
    slopes = family.slopes_by_output(candidates.units, N)
    size = row_norms(slopes)
    outputs = slopes / np.maximum(size, 1e-300)[:, None]
    found = replace(candidates, outputs=outputs, slopes=size)
    return found.select(np.argsort(-size, kind="stable"))
