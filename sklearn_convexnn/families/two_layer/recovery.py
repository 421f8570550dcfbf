"""From the blocks of a program, and from trained neurons, to small networks."""

from dataclasses import replace

import numpy as np
from scipy.linalg import svd

from sklearn_convexnn._utils.breakdown import BREAKDOWNS
from sklearn_convexnn._utils.deadlines import OutOfTime, check, svd_work
from sklearn_convexnn.model.neurons import Neurons

# Output weights that are rounding, relative to the largest.
_DUST = 1e-12


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
    return Neurons.of_one_output(
        weights[keep] / norms[keep, None],
        biases[keep] / norms[keep],
        signs[keep] * norms[keep],
        linear[keep],
        offset,
    )


def simplify(problem, neurons, *, merge=True):
    """A small network that is at least as good as the given one.

    Drops neurons that are almost zero, merges the ones that share a direction,
    and prunes to linearly independent outputs.  Each step is taken only if the
    objective does not rise.

    Parameters
    ----------
    problem : Problem or DeepProblem
    neurons : Neurons or Subnetworks
    merge : bool, default=True
        Whether neurons can share a direction; sub-networks have none.

    Returns
    -------
    neurons : Neurons or Subnetworks
        At most ``n_samples * n_outputs`` of them.
    """
    slack = 1e-12 * abs(problem.objective(neurons))
    try:
        for candidate in _simpler(problem, neurons, slack, merge):
            neurons = candidate
    except (OutOfTime, *BREAKDOWNS):
        pass
    empty = problem.null()
    if problem.objective(empty) <= problem.objective(neurons) + slack:
        return empty
    return neurons


def _simpler(problem, neurons, slack, merge):
    """One after the other, networks that are at least as good as the one before."""
    best, sizes = problem.objective(neurons), neurons.sizes
    # The coarsest threshold first; most often a coarse one already wins.
    for threshold in (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 0.0):
        check(2.0 * problem.X.size * len(neurons))
        candidate = neurons.select(sizes > threshold * sizes.max(initial=0.0))
        if merge:
            candidate = merge_parallel(candidate)
        # Outputs of parallel units can cancel.
        candidate = candidate.select(candidate.sizes > 0)
        if problem.objective(candidate) <= best + slack:
            neurons = candidate
            yield neurons
            break
    neurons = prune(problem, neurons)
    yield neurons
    # What rounding leaves in outputs that need no neuron.
    outputs = neurons.outputs
    dust = np.abs(outputs) <= _DUST * np.abs(outputs).max(initial=0.0)
    candidate = replace(neurons, outputs=np.where(dust, 0.0, outputs))
    if problem.objective(candidate) <= best + slack:
        yield candidate


def prune(problem, neurons):
    """Prune to neurons whose outputs, over all samples, are linearly independent.

    Parameters
    ----------
    problem : Problem
    neurons : Neurons
        Of positive sizes.

    Returns
    -------
    neurons : Neurons
        At most ``n_samples * n_outputs`` of them.
    """
    Z, sizes = problem.features(neurons), neurons.sizes
    units = neurons.outputs / sizes[:, None]
    norms = np.linalg.norm(Z, axis=0)
    alive = norms > 0
    neurons, sizes, units = neurons.select(alive), sizes[alive], units[alive]
    Z, norms = Z[:, alive], norms[alive]
    if len(neurons) == 0:
        return neurons
    m = len(neurons)
    check(2.0 * Z.size * m + 10.0 * m**3)
    # The Gram matrix of the outer products, without forming them.
    gram = ((Z / norms).T @ (Z / norms)) * (units @ units.T)
    if np.linalg.eigvalsh(gram)[0] > 1e-12:
        return neurons
    outputs = np.einsum("nk,kc->nck", Z, units).reshape(-1, len(sizes))
    kept = independent_magnitudes(sizes, outputs)
    return replace(neurons, outputs=kept[:, None] * units).select(kept > 0)


def merge_parallel(neurons, tol=1e-6):
    """Replace neurons of one direction by their sum.

    Neurons with the same unit add up, whatever their outputs, and the norm of the
    sum is no larger than the sum of the norms.

    Parameters
    ----------
    neurons : Neurons
    tol : float
        Directions count as equal when their cosine exceeds ``1 - tol``.

    Returns
    -------
    neurons : Neurons
    """
    scale = max(1.0, np.abs(neurons.biases[~neurons.linear]).max(initial=0.0))
    points = np.column_stack([neurons.directions, neurons.biases / scale])
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    sizes = neurons.sizes
    free = np.ones(len(neurons), dtype=bool)
    kept, outputs, directions, biases = [], [], [], []
    for i in np.argsort(-sizes, kind="stable"):
        if not free[i]:
            continue
        check()
        same = free & (neurons.linear == neurons.linear[i])
        same[same] = points[same] @ points[i] > 1.0 - tol
        free &= ~same
        kept.append(i)
        outputs.append(neurons.outputs[same].sum(axis=0))
        weights = sizes[same] if np.any(sizes[same] > 0) else np.ones(same.sum())
        direction = weights @ neurons.directions[same]
        length = np.linalg.norm(direction)
        directions.append(direction / length)
        biases.append(weights @ neurons.biases[same] / length)
    if len(kept) == len(neurons):
        return neurons
    return replace(
        neurons.select(np.array(kept)),
        directions=np.array(directions),
        biases=np.array(biases),
        outputs=np.array(outputs),
    )


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


def layers_of_neurons(neurons, X):
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
    coefs : list of ndarray, (n_features, n_neurons) and (n_neurons, n_outputs)
    intercepts : list of ndarray, (n_neurons,) and (n_outputs,)
    """
    biases = neurons.biases.copy()
    offset = neurons.offset.copy()
    for j in np.flatnonzero(neurons.linear):
        z = X @ neurons.directions[j]
        biases[j] = np.ptp(z) - np.min(z)
        offset -= (biases[j] - neurons.biases[j]) * neurons.outputs[j]
    root = np.sqrt(neurons.sizes)
    coefs = [neurons.directions.T * root, neurons.outputs / root[:, None]]
    return coefs, [biases * root, offset]


def neurons_of_layers(problem, coefs, intercepts):
    """The inverse of `layers_of_neurons`, without the offset.

    Parameters
    ----------
    problem : Problem
    coefs, intercepts : list of ndarray

    Returns
    -------
    neurons : Neurons
        Those whose hidden weights are not zero.
    """
    norms = np.linalg.norm(coefs[0], axis=0)
    used = norms > 0
    norms = norms[used]
    return problem.unused(
        coefs[0].T[used] / norms[:, None],
        problem.fit_intercept * intercepts[0][used] / norms,
        coefs[1][used] * norms[:, None],
    )
