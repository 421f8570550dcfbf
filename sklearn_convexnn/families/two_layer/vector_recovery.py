"""From trained neurons of several outputs to the weights of a network."""

from dataclasses import replace

import numpy as np

from sklearn_convexnn._utils.breakdown import BREAKDOWNS
from sklearn_convexnn._utils.deadlines import OutOfTime, check
from sklearn_convexnn.families.two_layer.recovery import independent_magnitudes

# Output weights that are rounding, relative to the largest.
_DUST = 1e-12


def simplify(problem, neurons, *, merge=True):
    """A small network that is at least as good as the given one.

    Drops neurons that are almost zero, merges the ones that share a direction,
    and prunes to linearly independent outputs.  Each step is taken only if the
    objective does not rise.

    Parameters
    ----------
    problem : VectorProblem or DeepProblem
    neurons : VectorNeurons or Subnetworks
    merge : bool, default=True
        Whether neurons can share a direction; sub-networks have none.

    Returns
    -------
    neurons : VectorNeurons or Subnetworks
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
    problem : VectorProblem
    neurons : VectorNeurons
        Of positive sizes.

    Returns
    -------
    neurons : VectorNeurons
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
    neurons : VectorNeurons
    tol : float
        Directions count as equal when their cosine exceeds ``1 - tol``.

    Returns
    -------
    neurons : VectorNeurons
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


def network_weights(neurons, X):
    """Weights of the network in the shapes of scikit-learn's MLP.

    A linear term becomes a neuron that stays active on the training data and
    as far beyond them, along its direction, as they reach.

    Parameters
    ----------
    neurons : VectorNeurons
    X : ndarray of shape (n_samples, n_features)
        Training data.

    Returns
    -------
    hidden : ndarray of shape (n_features, n_neurons)
    hidden_bias : ndarray of shape (n_neurons,)
    output : ndarray of shape (n_neurons, n_outputs)
    output_bias : ndarray of shape (n_outputs,)
    """
    biases = neurons.biases.copy()
    offset = neurons.offset.copy()
    for j in np.flatnonzero(neurons.linear):
        z = X @ neurons.directions[j]
        biases[j] = np.ptp(z) - np.min(z)
        offset -= (biases[j] - neurons.biases[j]) * neurons.outputs[j]
    root = np.sqrt(neurons.sizes)
    return (
        neurons.directions.T * root,
        biases * root,
        neurons.outputs / root[:, None],
        offset,
    )
