"""The training problem of validated data: distinct samples, in units of order one."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import issparse

from sklearn_convexnn._utils.devices import in_numpy, on_device, placed, selected
from sklearn_convexnn._utils.sorting import distinct_rows
from sklearn_convexnn.model.problem import Problem
from sklearn_convexnn.model.scales import scales_ratio
from sklearn_convexnn.model.units import units_of
from sklearn_convexnn.model.whitening import Whitening
from sklearn_convexnn.patterns.arrangements import without_rounding

# Spread of a column, relative to its size, that is rounding.
_FLAT = 1e-13
# Slopes that are rounding, in units of the precision and of the sizes of their terms,
# and entries of the data whose sizes are taken at once.
_CANCELLED, _CHUNK = 64.0, 1_000_000


def canonical(X, Y, sample_weight):
    """Distinct samples of positive weight, sorted.

    Repeated samples become one with the sum of their weights, so the program,
    and with it every digit of the answer, depends neither on the order of the
    samples nor on whether a weight is written as a number or as repetitions.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    Y : ndarray of shape (n_samples, n_outputs)
    sample_weight : ndarray of shape (n_samples,)

    Returns
    -------
    X, Y, sample_weight : ndarray
    """
    return grouped(X, Y, sample_weight)[:3]


def grouped(X, Y, sample_weight):
    """As `canonical`, and which of the distinct samples those of positive weight are.

    Parameters
    ----------
    X, Y, sample_weight
        As of `canonical`.

    Returns
    -------
    X, Y, sample_weight : ndarray
    group : ndarray of int, shape (n_positive_weights,)
    """
    used = sample_weight > 0
    if not used.all():
        X, Y, sample_weight = X[used], Y[used], sample_weight[used]
    first, group = distinct_rows([*X.T, *Y.T])
    weight = np.bincount(group, weights=sample_weight)
    X, Y = np.ascontiguousarray(X[first]), Y[first]
    X += 0  # no negative zeros
    return X, Y + 0.0, weight, group


def merged(X, Y, sample_weight, loss):
    """Sorted samples, those of equal features as one where the loss lets them be.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Sorted.
    Y : ndarray of shape (n_samples, n_outputs)
    sample_weight : ndarray of shape (n_samples,)
    loss : Separable or Softmax

    Returns
    -------
    X, Y, sample_weight : ndarray
    constant : float
        The part of the loss that is left out.
    """
    new = np.append(True, np.any(X[1:] != X[:-1], axis=1))
    if not new.all():
        found = loss.merged(Y, sample_weight, np.cumsum(new) - 1)
        if found is not None:
            return np.ascontiguousarray(X[new]), *found
    return X, Y, sample_weight, 0.0


def whitened(X, sample_weight):
    """Data behind batch normalisation.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Sorted.
    sample_weight : ndarray of shape (n_samples,)

    Returns
    -------
    X : ndarray of shape (n_samples, n_directions)
    whitening : Whitening
    """
    whitening = Whitening.of(X, sample_weight)
    return whitening.transform(X), whitening


def _canonical_sparse(X, Y, sample_weight):
    """As `canonical`, for sparse samples of positive weight.

    Samples are told apart by random projections, which are equal to the last bit if
    the samples are, and sorted by them.
    """
    directions = np.random.RandomState(0).standard_normal((X.shape[1], 2))
    table = np.column_stack([X.sorted_indices() @ directions, Y])
    _, first, inverse = np.unique(table, axis=0, return_index=True, return_inverse=True)
    weight = np.bincount(inverse.ravel(), weights=sample_weight)
    return X[first], Y[first], weight


def build_problem(X, Y, sample_weight, settings, dtype=np.float64):
    """The training problem of one network, of data that are centred if it can be.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    Y : ndarray of shape (n_samples, n_outputs)
    sample_weight : ndarray of shape (n_samples,)
        Positive.
    settings : Settings
    dtype : dtype, default=float64
        Of the data of the problem.

    Returns
    -------
    problem : Problem
        In units in which data, targets and weights are of order one.
    units : Units
    """
    free_bias, whitening = settings.fit_intercept, None
    if settings.batch_norm:
        X, whitening = whitened(X, sample_weight)
    # Free biases absorb a shift of the data; without it, less is lost to rounding.
    centre = X.mean(axis=0) if free_bias else np.zeros(X.shape[1])
    centred = np.empty(X.shape, dtype)
    np.subtract(X, centre, out=centred, casting="same_kind")
    if free_bias:
        centred[:, flat_columns(X)] = 0.0
    units, Y, sample_weight, loss = units_of(
        centred, Y, sample_weight, settings.loss, free_bias, centre
    )
    centred /= centred.dtype.type(units.data)
    ratio = scales_ratio(centred)
    family = settings.family(without_rounding(centred), free_bias, scales_ratio=ratio)
    alpha = units.weight_decay(settings.alpha)
    problem = Problem(family, Y, sample_weight, loss, alpha)
    return problem, units if whitening is None else units.after(whitening)


def flat_columns(X):
    """Columns that are constant up to rounding.

    What a centre leaves of them is rounding of the mean, and neurons along them would
    be noise.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)

    Returns
    -------
    flat : ndarray of bool, shape (n_features,)
    """
    low, high = X.min(axis=0), X.max(axis=0)
    return high - low <= _FLAT * np.maximum(high, -low)


@dataclass(frozen=True)
class GatedProblem:
    """Data of a gated network on given patterns, in the units of the training.

    Attributes
    ----------
    X : {array, sparse array} of shape (n_samples, n_features)
    Y : ndarray of shape (n_samples, n_outputs)
    sample_weight : ndarray of shape (n_samples,)
    loss : Separable or Softmax
    units : Units
    known : KnownNeurons or None
    """

    X: object
    Y: np.ndarray
    sample_weight: np.ndarray
    loss: object
    units: object
    known: object


def gated_problem(X, Y, sample_weight, settings, known=None):
    """The problem of a gated network, on the device of the data.

    Parameters
    ----------
    X : {array, sparse array} of shape (n_samples, n_features)
    Y : ndarray of shape (n_samples, n_outputs)
    sample_weight : ndarray of shape (n_samples,)
    settings : Settings
    known : KnownNeurons or None

    Returns
    -------
    problem : GatedProblem
    """
    used = sample_weight > 0
    if on_device(X):
        X, Y, sample_weight = selected(X, used), Y[used], sample_weight[used]
    elif issparse(X):
        X, Y, sample_weight = _canonical_sparse(
            X.tocsr()[used], Y[used], sample_weight[used]
        )
    else:
        X, Y, sample_weight = canonical(X, Y, sample_weight)
    none = np.zeros(X.shape[1])
    units, Y, sample_weight, loss = units_of(
        X, Y, sample_weight, settings.loss, settings.fit_intercept, none
    )
    X = X / units.data
    if known is not None:
        known = known.scaled(units)
    return GatedProblem(X, Y, sample_weight, loss, units, known)


def rounding_of_slopes(X, N):
    """Slopes of units up to which they are nothing but rounding.

    A slope is the length of a sum over samples, and that of a column that does not vary
    is zero where the dual variables sum to zero.  What is left of terms that cancel is
    small against the sum of their sizes.

    Parameters
    ----------
    X : {array, sparse array} of shape (n_samples, n_features)
        Of any library.
    N : ndarray of shape (n_samples, n_outputs)
        Dual variables.

    Returns
    -------
    rounding : float
    """
    n, step, sizes = X.shape[0], max(1, _CHUNK // X.shape[1]), 0.0
    for i in range(0, n, step):
        rows = slice(i, min(i + step, n))
        part = in_numpy(abs(X[rows, :]).T @ placed(abs(N[rows]), X, X.dtype))
        precision = float(np.finfo(part.dtype).eps)
        sizes = sizes + part.astype(np.float64)
    return _CANCELLED * precision * float(np.linalg.norm(sizes))
