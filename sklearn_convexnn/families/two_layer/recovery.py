"""From the blocks of a convex program to the weights of a network."""

from contextlib import suppress
from dataclasses import replace

import numpy as np
from scipy.linalg import svd

from sklearn_convexnn._utils.deadlines import OutOfTime, check, svd_work
from sklearn_convexnn.model.neurons import Neurons, features

_PARALLEL = 1e-6
"""Neurons whose directions have a cosine above one minus this are merged."""


def neurons_from_blocks(program, theta, offset):
    """Neurons of the blocks that are not exactly zero.

    Parameters
    ----------
    program : TwoLayerProgram
    theta : ndarray of shape (n_blocks, p)
    offset : float

    Returns
    -------
    neurons : Neurons

    References
    ----------
    .. [1] Pilanci, M. and Ergen, T. (2020). "Neural Networks are Convex
       Regularizers". ICML. Theorem 1, the map from blocks to weights.
    """
    weights, biases, signs, linear = program.expand(theta)
    if program.fit_intercept:
        # Biases are free, and those of blocks that are active on all samples can grow
        # while others make up for them.
        active = program.active_everywhere(theta)
        weights[linear] += signs[active] @ weights[active]
        offset = offset + signs[active] @ biases[active]
        weights[active] = 0.0
    norms = np.linalg.norm(weights, axis=1)
    keep = norms > 1e-12 * norms.max(initial=0.0)
    return Neurons(
        directions=weights[keep] / norms[keep, None],
        biases=biases[keep] / norms[keep],
        magnitudes=norms[keep],
        signs=signs[keep],
        linear=linear[keep],
        offset=float(offset),
    )


def simplify(problem, neurons):
    """A small network that is at least as good as the given one.

    Drops the neurons that an interior solution leaves at almost zero, merges
    the ones that share a direction, and prunes to linearly independent
    outputs.  Each step is taken only if the objective does not rise.

    Parameters
    ----------
    problem : Problem
    neurons : Neurons

    Returns
    -------
    neurons : Neurons
        At most ``n_samples`` of them.
    """
    best = problem.objective(neurons)
    slack = 1e-12 * abs(best)
    empty = problem.null()
    if problem.objective(empty) <= best + slack:
        return empty
    with suppress(OutOfTime):
        for candidate in _simpler(problem, neurons, slack):
            neurons = candidate
    if problem.objective(empty) <= problem.objective(neurons) + slack:
        return empty
    return neurons


def _simpler(problem, neurons, slack):
    """One after the other, networks that are at least as good as the one before."""
    best = problem.objective(neurons)
    order = np.sort(neurons.magnitudes)
    # The coarsest threshold first; most often a coarse one already wins.
    for threshold in (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8):
        check(2.0 * problem.X.size * len(neurons))
        candidate = neurons.select(
            neurons.magnitudes > threshold * order[-1:].max(initial=0.0)
        )
        candidate = merge_parallel(candidate)
        if problem.objective(candidate) <= best + slack:
            neurons = candidate
            yield neurons
            break
    check(4.0 * problem.X.size * len(neurons))
    candidate = merge_parallel(neurons)
    if problem.objective(candidate) <= best + slack:
        neurons = candidate
        yield neurons
    yield prune(neurons, features(neurons, problem.X, problem.negative_slope))


def merge_parallel(neurons, tol=_PARALLEL):
    """Replace neurons of one sign and direction by their sum.

    Neurons on the border of several cells appear in each of them.  Their sum
    has the same outputs on the data and no larger norm (theory: the triangle
    inequality in a common cone).

    Parameters
    ----------
    neurons : Neurons
    tol : float
        Directions count as equal when their cosine exceeds ``1 - tol``.

    Returns
    -------
    neurons : Neurons
    """
    # The bias is part of the direction, scaled to the size it can have.
    scale = max(1.0, np.abs(neurons.biases[~neurons.linear]).max(initial=0.0))
    points = np.column_stack([neurons.directions, neurons.biases / scale])
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    free = np.ones(len(neurons), dtype=bool)
    kept, vectors = [], []
    for i in np.argsort(-neurons.magnitudes, kind="stable"):
        if not free[i]:
            continue
        check()
        same = free & (neurons.signs == neurons.signs[i])
        same &= neurons.linear == neurons.linear[i]
        same[same] = points[same] @ points[i] > 1.0 - tol
        free &= ~same
        sizes = neurons.magnitudes[same]
        kept.append(i)
        vectors.append(
            np.append(sizes @ neurons.directions[same], sizes @ neurons.biases[same])
        )
    if len(kept) == len(neurons):
        return neurons
    vectors = np.array(vectors)
    norms = np.linalg.norm(vectors[:, :-1], axis=1)
    return replace(
        neurons.select(np.array(kept)),
        directions=vectors[:, :-1] / norms[:, None],
        biases=vectors[:, -1] / norms,
        magnitudes=norms,
    )


def prune(neurons, Z):
    """Prune to neurons with linearly independent outputs on the data.

    Parameters
    ----------
    neurons : Neurons
    Z : ndarray of shape (n_samples, n_neurons)
        Their `features`.

    Returns
    -------
    neurons : Neurons
        At most ``rank(Z)`` of them.
    """
    alive = np.linalg.norm(Z, axis=0) > 0
    neurons, Z = neurons.select(alive), Z[:, alive]
    if len(neurons) == 0:
        return neurons
    magnitudes = independent_magnitudes(neurons.magnitudes, Z)
    return replace(neurons, magnitudes=magnitudes).select(magnitudes > 0)


def independent_magnitudes(magnitudes, Z):
    r"""Magnitudes of the same sum, those above zero of independent columns.

    While :math:`Z \beta = 0` has a solution with :math:`\sum_j \beta_j \le 0`,
    moving the magnitudes along it leaves the outputs alone and does not raise
    the penalty, until one of them is zero.

    Parameters
    ----------
    magnitudes : ndarray of shape (n_neurons,)
        Positive.
    Z : ndarray of shape (n_rows, n_neurons)
        Without columns of zeros.

    Returns
    -------
    magnitudes : ndarray of shape (n_neurons,)
        At most ``rank(Z)`` of them positive, the others zero.

    References
    ----------
    .. [1] Mishkin, A. and Pilanci, M. (2023). "Optimal Sets and Solution Paths
       of ReLU Networks". ICML. Section 4 (optimal pruning).
    """
    norms = np.linalg.norm(Z, axis=0)
    wide = Z.shape[1] > Z.shape[0]
    # All of the right singular vectors are wanted if there are more than rows.
    check(svd_work((Z.shape[1], Z.shape[1]) if wide else Z.shape))
    _, singular, Vt = svd(Z / norms, full_matrices=wide, check_finite=False)
    rank = int(np.sum(singular > 1e-10 * singular[0]))
    null = (Vt[rank:] / norms).T
    magnitudes = magnitudes.copy()
    keep = np.ones(len(magnitudes), dtype=bool)
    while null.shape[1]:
        check()
        direction = null[:, 0]
        direction = direction * (-1.0 if direction.sum() > 0 else 1.0)
        falling = keep & (direction < -1e-14 * np.abs(direction).max())
        if not falling.any():
            null = null[:, 1:]
            continue
        ratios = np.where(falling, magnitudes, np.inf) / np.where(
            falling, -direction, 1.0
        )
        out = int(np.argmin(ratios))
        magnitudes = np.maximum(magnitudes + ratios[out] * direction, 0.0)
        magnitudes[out] = 0.0
        keep[out] = False
        # Eliminate the coordinate that left from the remaining null vectors.
        pivot = int(np.argmax(np.abs(null[out])))
        column = null[:, pivot]
        null = np.delete(null - np.outer(column, null[out] / column[out]), pivot, 1)
        null[out] = 0.0
    return magnitudes


def network_weights(neurons, X):
    """Weights of the network in the shapes of scikit-learn's MLP.

    A linear term becomes a neuron that stays active on the training data and
    as far beyond them, along its direction, as they reach.

    Parameters
    ----------
    neurons : Neurons
    X : ndarray of shape (n_samples, n_features)
        Training data.

    Returns
    -------
    hidden : ndarray of shape (n_features, n_neurons)
    hidden_bias : ndarray of shape (n_neurons,)
    output : ndarray of shape (n_neurons,)
    output_bias : float
    """
    biases = neurons.biases.copy()
    offset = neurons.offset
    for j in np.flatnonzero(neurons.linear):
        z = X @ neurons.directions[j]
        biases[j] = np.ptp(z) - np.min(z)
        shift = biases[j] - neurons.biases[j]
        offset -= neurons.signs[j] * neurons.magnitudes[j] * shift
    root = np.sqrt(neurons.magnitudes)
    return (
        neurons.directions.T * root,
        biases * root,
        neurons.signs * root,
        float(offset),
    )
