"""Gates and patterns of gated networks, of data of any kind, and of an earlier fit."""

import warnings
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import issparse
from sklearn.utils import check_random_state
from sklearn.utils._array_api import get_namespace

from sklearn_convexnn._devices import in_numpy, on_device, placed
from sklearn_convexnn.arrangements import Arrangement, without_rounding
from sklearn_convexnn.training import given_arrangement

# Times that gates are drawn, and elements of the temporary arrays.
_DRAWS, _CHUNK = 50, 2**22


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


def gated_arrangement(X, sample_weight, params, seed, known):
    """Gates as the parameters say, and those of an earlier fit with their blocks.

    Parameters
    ----------
    X : {array, sparse array} of shape (n_samples, n_features)
    sample_weight : ndarray of shape (n_samples,)
        Positive.
    params : dict
        Parameters of the estimator.
    seed : int
    known : KnownNeurons or None

    Returns
    -------
    arrangement : Arrangement
        Of the data as they are; patterns are in the namespace of `X`.
    start : ndarray of shape (n_patterns, n_features, n_outputs) or None
        Blocks of the known neurons.
    """
    free_bias = params["fit_intercept"]
    everywhere = issparse(X) or on_device(X)
    if everywhere and params["arrangements"] == "sampled":
        arrangement = _sampled(X, sample_weight, params, seed)
    else:
        # Data of which all patterns can be enumerated are small.
        dense = X.toarray() if issparse(X) else in_numpy(X)
        dense = np.asarray(dense, dtype=np.float64)
        # As for ReLU networks, gates are drawn for centred data.
        centre = dense.mean(axis=0) if free_bias else np.zeros(X.shape[1])
        arrangement = given_arrangement(
            without_rounding(dense - centre), params, free_bias, seed
        )
        patterns, gates = arrangement.patterns, arrangement.gates
        if free_bias:
            gates = gates.copy()
            gates[:, -1] -= gates[:, :-1] @ centre
        arrangement = replace(arrangement, patterns=placed(patterns, X), gates=gates)
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
    parts = [
        X[i : min(i + step, n), :] @ directions + offsets > 0 for i in range(0, n, step)
    ]
    return xp.concat(parts, axis=0)


def _distinct(masks):
    """First columns of each kind, in order, and which of these each column equals."""
    xp, _ = get_namespace(masks)
    n, m = masks.shape
    # Sums of random whole numbers, which rounding leaves as they are.
    numbers = np.random.RandomState(0).randint(2**20, size=(2, n)).astype(float)
    keys, step = np.zeros((2, m)), max(1, _CHUNK // max(m, 1))
    for i in range(0, n, step):
        part = masks[i : min(i + step, n), :]
        weights = placed(numbers[:, i : i + step], masks)
        keys += in_numpy(weights @ xp.astype(part, weights.dtype))
    _, first, inverse = np.unique(keys, axis=1, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(first), dtype=np.int64)
    rank[order] = np.arange(len(first))
    return first[order], rank[inverse.ravel()]


def _sampled(X, sample_weight, params, seed):
    """Random gates as in `sample_arrangement`, without a dense copy of the data."""
    wanted, free_bias = params["n_arrangements"], params["fit_intercept"]
    rng, d = check_random_state(seed), X.shape[1]
    centre, scale = _moments(X, sample_weight)
    if not free_bias:
        centre, scale = np.zeros(d), np.sqrt(scale**2 + centre**2)
    scale[scale == 0] = 1.0
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
    """Weighted means and standard deviations of the columns."""
    share = sample_weight / np.sum(sample_weight)
    if issparse(X):
        mean, square = X.T @ share, X.multiply(X).T @ share
    else:
        share = placed(share, X, X.dtype)
        mean, square = in_numpy(share @ X), in_numpy(share @ (X * X))
    mean, square = (np.asarray(part, dtype=np.float64) for part in (mean, square))
    return mean, np.sqrt(np.maximum(square - mean**2, 0.0))
