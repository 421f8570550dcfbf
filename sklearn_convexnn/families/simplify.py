"""Small networks that are as good as given ones."""

from dataclasses import replace

import numpy as np
from scipy.linalg import svd

from sklearn_convexnn._utils.breakdown import BREAKDOWNS
from sklearn_convexnn._utils.deadlines import OutOfTime, check, svd_work

# Output weights that are rounding, relative to the largest.
_DUST = 1e-12


def simplify(problem, network):
    """A small network that is at least as good as the given one.

    Drops units that are almost zero, merges the ones that are the same, and prunes
    to linearly independent outputs.  Each step is taken only if the objective does
    not rise.

    Parameters
    ----------
    problem : Problem
    network : Network

    Returns
    -------
    network : Network
        Of at most ``n_samples * n_outputs`` units.
    """
    slack = 1e-12 * abs(problem.objective(network))
    try:
        for candidate in _simpler(problem, network, slack):
            network = candidate
    except (OutOfTime, *BREAKDOWNS):
        pass
    empty = problem.null()
    if problem.objective(empty) <= problem.objective(network) + slack:
        return empty
    return network


def _simpler(problem, network, slack):
    """One after the other, networks that are at least as good as the one before."""
    best, sizes = problem.objective(network), network.sizes
    # The coarsest threshold first; most often a coarse one already wins.
    for threshold in (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 0.0):
        check(2.0 * problem.X.size * len(network))
        candidate = network.select(sizes > threshold * sizes.max(initial=0.0))
        candidate = problem.family.merged(candidate)
        # Outputs of the same units can cancel.
        candidate = candidate.select(candidate.sizes > 0)
        if problem.objective(candidate) <= best + slack:
            network = candidate
            yield network
            break
    network = prune(problem, network)
    yield network
    # What rounding leaves in outputs that need no unit.
    outputs = network.outputs
    dust = np.abs(outputs) <= _DUST * np.abs(outputs).max(initial=0.0)
    candidate = replace(network, outputs=np.where(dust, 0.0, outputs))
    candidate = candidate.select(candidate.sizes > 0)
    if problem.objective(candidate) <= best + slack:
        yield candidate


def prune(problem, network):
    """Prune to units whose outputs, over all samples, are linearly independent.

    Parameters
    ----------
    problem : Problem
    network : Network
        Of positive sizes.

    Returns
    -------
    network : Network
        Of at most ``n_samples * n_outputs`` units.
    """
    family, sizes = problem.family, network.sizes
    Z = family.features(network.units)
    ways = network.outputs / sizes[:, None]
    norms = family.lengths(Z)
    alive = norms > 0
    network, sizes, ways = network.select(alive), sizes[alive], ways[alive]
    Z, norms = Z[:, family.columns(alive)], norms[alive]
    m = len(network)
    if m == 0:
        return network
    check(2.0 * Z.size * m + 10.0 * m**3)
    if family.n_windows == 1:
        # The Gram matrix of the outer products, without forming them.
        gram = ((Z / norms).T @ (Z / norms)) * (ways @ ways.T)
        if np.linalg.eigvalsh(gram)[0] > 1e-12:
            return network
    Z, ways = (parts.reshape(len(parts), family.n_windows, -1) for parts in (Z, ways))
    outputs = np.einsum("nqk,kqc->nck", Z, ways, optimize=True).reshape(-1, m)
    if family.n_windows > 1:
        gram = (outputs / norms).T @ (outputs / norms)
        if np.linalg.eigvalsh(gram)[0] > 1e-12:
            return network
    kept = independent_magnitudes(sizes, outputs)
    ways = ways.reshape(m, -1)
    return replace(network, outputs=kept[:, None] * ways).select(kept > 0)


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
