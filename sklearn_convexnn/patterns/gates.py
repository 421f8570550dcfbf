"""Gates and patterns of gated networks, of data of any kind, and of an earlier fit."""

import warnings
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import issparse
from sklearn.utils import check_random_state

from sklearn_convexnn._sklearn import device, get_namespace, max_precision_float_dtype
from sklearn_convexnn._utils.deadlines import check
from sklearn_convexnn._utils.devices import in_numpy, on_device, placed
from sklearn_convexnn.patterns.arrangements import (
    Arrangement,
    enumerate_arrangement,
    has_few_patterns,
    without_rounding,
)

# Times that gates are drawn, and elements of the temporary arrays.
_DRAWS, _CHUNK = 50, 2**22
# Elements of the data up to which it is checked whether they have few patterns.
_FEW = 2**20
# Spread of a column, relative to its size, that is rounding.
_FLAT = 1e-13


@dataclass(frozen=True)
class KnownNeurons:
    """Gated neurons of an earlier fit.

    Attributes
    ----------
    gates : ndarray of shape (n_neurons, n_columns)
    hidden : ndarray of shape (n_neurons, n_features)
    output : ndarray of shape (n_neurons, n_outputs)
    """

    gates: np.ndarray
    hidden: np.ndarray
    output: np.ndarray

    def scaled(self, units):
        """The same in other units."""
        gates = self.gates.copy()
        gates[:, self.hidden.shape[1] :] /= units.data
        return KnownNeurons(
            gates, self.hidden / units.weight, self.output / units.weight
        )


def gated_arrangement(
    X, sample_weight: np.ndarray, settings, known: KnownNeurons | None
) -> tuple[Arrangement, np.ndarray | None]:
    """Gates as the parameters say, and those of an earlier fit with their blocks.

    Parameters
    ----------
    X : {array, sparse array} of shape (n_samples, n_features)
    sample_weight : ndarray of shape (n_samples,)
        Positive.
    settings : Settings
    known : KnownNeurons or None

    Returns
    -------
    arrangement : Arrangement
        Of the data as they are; patterns are in the namespace of `X`.
    start : ndarray of shape (n_patterns, n_features, n_outputs) or None
        Blocks of the known neurons.
    """
    free_bias = settings.fit_intercept
    wanted = settings.n_arrangements if settings.arrangements == "sampled" else None
    arrangement = None
    if wanted is None or X.shape[0] * X.shape[1] <= _FEW:
        arrangement = _all(X, free_bias, wanted)
    if arrangement is None:
        arrangement = _sampled(X, sample_weight, free_bias, wanted, settings.seed)
    if known is None:
        return arrangement, None
    return _joined(X, arrangement, known)


def _joined(X, arrangement, known):
    """The arrangement with known neurons before it, and the blocks of these."""
    xp, _ = get_namespace(X if on_device(X) else None)
    masks = xp.concat([_masks(X, known.gates), arrangement.patterns.T], axis=1)
    keep, place = _distinct(masks)
    gates = np.concatenate([known.gates, arrangement.gates])[keep]
    start = np.zeros((len(keep), X.shape[1], known.output.shape[1]))
    blocks = known.hidden[:, :, None] * known.output[:, None, :]
    np.add.at(start, place[: len(blocks)], blocks)
    masks = xp.take(masks, placed(keep, X), axis=1)
    return Arrangement(masks.T, gates, arrangement.complete), start


def _masks(X, gates):
    """Patterns of gates of which a last column may hold offsets, as columns."""
    xp, _ = get_namespace(X if on_device(X) else None)
    d = X.shape[1]
    directions = placed(np.ascontiguousarray(gates[:, :d].T), X, X.dtype)
    offsets = placed(gates[:, d:].sum(axis=1), X, X.dtype)
    n, step = X.shape[0], max(1, _CHUNK // max(len(gates), 1))
    parts = []
    for i in range(0, n, step):
        check(2.0 * min(step, n - i) * gates.size)
        parts.append(X[i : min(i + step, n), :] @ directions + offsets > 0)
    return xp.concat(parts, axis=0)


def _distinct(masks):
    """First columns of each kind, in order, and which of these each column equals."""
    xp, _ = get_namespace(masks)
    n, m = masks.shape
    # Sums of random whole numbers, which rounding leaves as they are.
    numbers = np.random.RandomState(0).randint(2**20, size=(2, n)).astype(float)
    keys, step = np.zeros((2, m)), max(1, _CHUNK // max(m, 1))
    for i in range(0, n, step):
        check(8.0 * min(step, n - i) * m)
        part = masks[i : min(i + step, n), :]
        weights = placed(numbers[:, i : i + step], masks)
        keys += in_numpy(weights @ xp.astype(part, weights.dtype))
    _, first, inverse = np.unique(keys, axis=1, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(first), dtype=np.int64)
    rank[order] = np.arange(len(first))
    return first[order], rank[inverse.ravel()]


def _all(X, free_bias, most):
    """All patterns, or None if they are more than `most`.

    Found on the distinct rows in their order, so that the gates do not depend on how
    the data are stored.
    """
    dense = X.toarray() if issparse(X) else in_numpy(X)
    dense = np.asarray(dense, dtype=np.float64) + 0.0  # no negative zeros
    rows, place = np.unique(dense, axis=0, return_inverse=True)
    if most is not None and free_bias and 2 * len(rows) > max(most, 2):
        # Each has a hyperplane of its own.
        return None
    centre = rows.mean(axis=0) if free_bias else np.zeros(X.shape[1])
    rows = without_rounding(rows - centre)
    if most is not None and not has_few_patterns(rows, most, free_bias=free_bias):
        return None
    limit = None if most is None else np.inf
    arrangement = enumerate_arrangement(rows, free_bias=free_bias, max_patterns=limit)
    patterns, gates = arrangement.patterns[:, place.ravel()], arrangement.gates
    if free_bias:
        gates = gates.copy()
        gates[:, -1] -= gates[:, :-1] @ centre
    return replace(arrangement, patterns=placed(patterns, X), gates=gates)


def _sampled(X, sample_weight, free_bias, wanted, seed):
    """Random gates, standard normal in units of the data as they are weighted."""
    rng, d = check_random_state(seed), X.shape[1]
    centre, scale = _moments(X, sample_weight)
    if not free_bias:
        centre, scale = np.zeros(d), np.sqrt(scale**2 + centre**2)
    # Columns that do not vary have no part in the patterns.
    scale[scale <= _FLAT * np.abs(centre)] = np.inf
    gates, masks = np.zeros((0, d + free_bias)), None
    xp, _ = get_namespace(X if on_device(X) else None)
    for _ in range(_DRAWS):
        drawn = rng.standard_normal((wanted, d + free_bias))
        new = drawn[:, :d] / scale
        if free_bias:
            new = np.column_stack([new, drawn[:, -1] - new @ centre])
        found = _masks(X, new)
        masks = found if masks is None else xp.concat([masks, found], axis=1)
        gates = np.concatenate([gates, new])
        keep = _distinct(masks)[0][:wanted]
        gates, masks = gates[keep], xp.take(masks, placed(keep, X), axis=1)
        if len(keep) == wanted:
            break
    else:
        warnings.warn(
            f"Only {len(gates)} distinct activation patterns were found, fewer than "
            f"n_arrangements={wanted}."
        )
    return Arrangement(masks.T, gates, False)


def _moments(X, sample_weight):
    """Weighted means and standard deviations of the columns, in double precision."""
    share = sample_weight / np.sum(sample_weight)
    if issparse(X):
        return _sparse_moments(X.tocsc(), share)
    xp, _ = get_namespace(X)
    wide = max_precision_float_dtype(xp, device(X))
    share = placed(share, X, wide)
    n, step = X.shape[0], max(1, _CHUNK // X.shape[1])
    chunks = [slice(i, min(i + step, n)) for i in range(0, n, step)]

    def average(function):
        parts = (share[i] @ function(xp.astype(X[i, :], wide)) for i in chunks)
        return sum(in_numpy(part).astype(np.float64) for part in parts)

    mean = average(lambda part: part)
    there = placed(mean, X, wide)
    return mean, np.sqrt(average(lambda part: (part - there) ** 2))


def _sparse_moments(X, share):
    X.sum_duplicates()
    data, share = X.data.astype(np.float64), share[X.indices]
    columns = np.repeat(np.arange(X.shape[1]), np.diff(X.indptr))

    def average(values):
        return np.bincount(columns, weights=share * values, minlength=X.shape[1])

    mean = average(data)
    # That of the entries, and of the zeros besides them.
    square = average((data - mean[columns]) ** 2)
    square += mean**2 * np.maximum(1.0 - average(1.0), 0.0)
    return mean, np.sqrt(square)
