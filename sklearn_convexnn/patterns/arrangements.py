"""Activation patterns: where they come from.

The rows of ``X`` (of ``[X 1]`` when the hidden units have a free bias) are
the normals of hyperplanes through the origin.  Each full-dimensional cell of
that arrangement is one activation pattern ``1[X u > 0]``, the same for every
``u`` inside the cell.
"""

from dataclasses import dataclass
from math import comb
from numbers import Integral, Real

import numpy as np
from scipy.linalg import qr
from sklearn.utils import check_random_state

from sklearn_convexnn._sklearn import Interval, check_parameters
from sklearn_convexnn._utils.breakdown import unless_broken
from sklearn_convexnn._utils.deadlines import check, svd_work
from sklearn_convexnn._utils.types import Seed

MAX_PATTERNS = 20_000
"""Largest number of patterns that an exact enumeration may predict."""

MAX_BITS = 10_000_000
"""Largest number of patterns times samples; a program takes about 300 times as
many bytes."""

# Distances between unit normals, and relative singular values: below the first
# they are rounding, above the last they are data.  In between, which the second
# divides, an enumeration does not claim to be complete.
_ROUNDING, _TOL, _DATA = 1e-11, 1e-9, 1e-7
# Samples that mostly tell whether all of them have more patterns than are wanted.
_SOME = 500
# Entries that are looked at in one go.
_CHUNK = 1_000_000
# Random gates may keep falling into the same few cells, so drawing stops
# after this many times the number of patterns asked for.
_OVERSAMPLING = 50
_CONSTRAINTS = {
    "free_bias": ["boolean"],
    "max_patterns": [Interval(Real, 0, None, closed="both"), None],
    "n_arrangements": [Interval(Integral, 1, None, closed="left")],
    "random_state": ["random_state"],
}


@dataclass(frozen=True)
class Arrangement:
    """Activation patterns of a data matrix.

    Attributes
    ----------
    patterns : ndarray of bool, shape (n_patterns, n_samples)
        Distinct patterns.
    gates : ndarray of shape (n_patterns, n_columns)
        A vector inside the cell of each pattern: ``patterns`` equals
        ``X @ gates.T > 0`` on the non-zero rows.  ``n_columns`` is
        ``n_features``, plus one for the offset if the hidden biases are free.
    complete : bool
        Whether every full-dimensional cell is present.
    """

    patterns: np.ndarray
    gates: np.ndarray
    complete: bool

    def __len__(self) -> int:
        return len(self.patterns)


def without_rounding(X: np.ndarray) -> np.ndarray:
    """`X` with zeros in place of entries that are zero up to rounding.

    A row of such entries would have a direction that is noise.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)

    Returns
    -------
    X : ndarray of shape (n_samples, n_features)
        Zero where an entry is below 1e-13 of the largest in its column.  The given
        array if there is none.
    """
    if X.size == 0:
        return X
    least = 1e-13 * np.maximum(np.max(X, axis=0), -np.min(X, axis=0))
    found, step = X, max(1, _CHUNK // X.shape[1])
    for i in range(0, len(X), step):
        rows = slice(i, i + step)
        small = (np.abs(X[rows]) <= least) & (X[rows] != 0)
        if small.any():
            found = X.copy() if found is X else found
            found[rows][small] = 0.0
    return found


def with_ones(X: np.ndarray, free_bias: bool) -> np.ndarray:
    """``[X 1]`` if `free_bias` else ``X``, the normals of the hyperplanes."""
    return np.column_stack([X, np.ones(len(X))]) if free_bias else X


@dataclass(frozen=True)
class _Hyperplanes:
    """Distinct hyperplanes of a data matrix in coordinates of its row space."""

    normals: np.ndarray  # (m, r) unit rows
    basis: np.ndarray  # (n_columns, r) orthonormal columns
    index: np.ndarray  # (n,) hyperplane of each row, -1 for a zero row
    flipped: np.ndarray  # (n,) bool, row antiparallel to the normal
    clear: bool  # no decision on rank or equality was close


def _distinct_lines(rows):
    """Group unit rows that span the same line.

    Returns the index of the group of each row, whether the row points against
    the first member of its group, the index of that first member, and whether
    all rows are clearly equal or clearly different.
    """
    # A fixed, irregular direction gives parallel rows the same key, so that
    # after sorting only neighbours in a short run need to be compared.
    direction = np.sqrt(np.arange(2.0, rows.shape[1] + 2.0))
    key = np.abs(rows @ (direction / np.linalg.norm(direction)))
    order = np.argsort(key, kind="stable")
    stops = np.searchsorted(key[order], key[order] + _DATA, side="right")
    group = np.full(len(rows), -1)
    flipped = np.zeros(len(rows), dtype=bool)
    first, clear = [], True
    for position, i in enumerate(order):
        if group[i] >= 0:
            continue
        check()
        run = order[position : stops[position]]
        run = run[group[run] < 0]
        cosine = rows[run] @ rows[i]
        # |cosine| is flat at one, so the distance is what tells lines apart.
        distance = np.linalg.norm(
            rows[run] - np.where(cosine < 0, -1.0, 1.0)[:, None] * rows[i], axis=1
        )
        clear &= not np.any((distance > _ROUNDING) & (distance < _DATA))
        same = distance <= _TOL
        group[run[same]] = len(first)
        flipped[run[same]] = cosine[same] < 0
        first.append(i)
    return group, flipped, np.array(first, dtype=int), clear


def _hyperplanes(rows):
    norms = np.linalg.norm(rows, axis=1)
    nonzero = norms > 0
    index = np.full(len(rows), -1)
    flipped = np.zeros(len(rows), dtype=bool)
    if not nonzero.any():
        return _Hyperplanes(
            np.empty((0, 0)), np.empty((rows.shape[1], 0)), index, flipped, True
        )
    units = rows[nonzero] / norms[nonzero, None]
    check(svd_work(units.shape))
    _, singular, Vt = np.linalg.svd(units, full_matrices=False)
    ratio = singular / singular[0]
    rank = int(np.sum(ratio > _TOL))
    basis = Vt[:rank].T
    reduced = units @ basis
    reduced /= np.linalg.norm(reduced, axis=1, keepdims=True)
    group, turned, first, clear = _distinct_lines(reduced)
    clear &= not np.any((ratio > _ROUNDING) & (ratio < _DATA))
    index[nonzero] = group
    flipped[nonzero] = turned
    return _Hyperplanes(reduced[first], basis, index, flipped, clear)


def _scaled_rows(X, free_bias):
    """Rows with the patterns of `X` and columns of one size, and the way back.

    Patterns do not change when columns are scaled or, with free biases,
    shifted; whether two rows are equal up to rounding can then be told.

    Returns
    -------
    rows : ndarray of shape (n_samples, n_columns)
    restore : callable
        Maps gates for `rows` to gates for the data.
    """
    centre = X.mean(axis=0) if free_bias else np.zeros(X.shape[1])
    scale = np.max(np.abs(X - centre), axis=0)
    scale[scale == 0] = 1.0

    def restore(gates):
        weights = gates[:, : X.shape[1]] / scale
        if not free_bias:
            return weights
        return np.column_stack([weights, gates[:, -1] - weights @ centre])

    return with_ones((X - centre) / scale, free_bias), restore


def _cell_count(n_hyperplanes, rank):
    """Number of cells of a central arrangement in general position."""
    if n_hyperplanes == 0:
        return 1
    return 2 * sum(comb(n_hyperplanes - 1, k) for k in range(rank))


def count_patterns(X: np.ndarray, *, free_bias: bool = False) -> int:
    """Number of patterns of the data, exact in general position.

    ``2 * sum_{k < r} C(m - 1, k)`` for ``m`` distinct hyperplanes of rank
    ``r``; an upper bound when some of them meet in a lower-dimensional space
    than chance would have it.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    free_bias : bool, default=False
        Count the patterns of ``[X 1]`` instead.

    Returns
    -------
    count : int
    """
    check_parameters(_CONSTRAINTS, {"free_bias": free_bias}, "count_patterns")
    planes = _hyperplanes(_scaled_rows(X, free_bias)[0])
    return _cell_count(*planes.normals.shape)


def _angular_cells(normals):
    """Interior points of the cells of distinct lines in the plane."""
    angles = np.sort(np.mod(np.arctan2(normals[:, 1], normals[:, 0]), np.pi))
    # The line with normal angle t bounds cells at t + pi/2 and t - pi/2.
    bounds = np.concatenate([angles, angles + np.pi]) + 0.5 * np.pi
    middle = 0.5 * (bounds + np.append(bounds[1:], bounds[0] + 2 * np.pi))
    return np.column_stack([np.cos(middle), np.sin(middle)])


def _cells(normals):
    """One interior point for each cell of a central arrangement.

    Hyperplanes are added one by one.  A new one splits exactly those cells
    that contain a cell of the arrangement that the earlier ones cut out of it,
    which is found one dimension lower.  No linear program is solved, and the
    time grows as the number of cells, not with how thin they are.

    Parameters
    ----------
    normals : ndarray of shape (m, r)
        Unit normals of distinct hyperplanes, of rank ``r``.

    Returns
    -------
    points : ndarray of shape (n_cells, r)
        Unit vectors, in no particular order.
    clear : bool
        Whether no decision on equality was close.
    """
    m, rank = normals.shape
    if rank == 1:
        return np.array([[1.0], [-1.0]]), True
    if rank == 2:
        return _angular_cells(normals), True
    # Start from independent hyperplanes, of which every sign vector is a cell.
    normals = normals[qr(normals.T, mode="r", pivoting=True)[-1]]
    signs = 2.0 * (np.arange(2**rank)[:, None] >> np.arange(rank) & 1) - 1.0
    points = np.linalg.solve(normals[:rank], signs.T).T
    clear = True
    for k in range(rank, m):
        check()
        earlier, normal = normals[:k], normals[k]
        facets, facets_clear = _cells_within(earlier, normal)
        clear &= facets_clear
        slopes = np.maximum(np.abs(earlier @ normal), np.finfo(float).tiny)
        reach = 0.5 * np.min(np.abs(facets @ earlier.T) / slopes, axis=1)
        step = np.minimum(reach, 1.0)[:, None] * normal
        bits = np.packbits(np.concatenate([points, facets]) @ earlier.T > 0, axis=1)
        _, cell, count = np.unique(
            bits, axis=0, return_inverse=True, return_counts=True
        )
        whole = count[cell[: len(points)]] == 1
        points = np.concatenate([points[whole], facets + step, facets - step])
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points, clear


def _cells_within(normals, normal):
    """Interior points, on the hyperplane of `normal`, of its cells under `normals`."""
    # Orthonormal basis of the hyperplane from a Householder reflection.
    mirror = normal.copy()
    mirror[0] += np.copysign(1.0, normal[0])
    mirror /= np.linalg.norm(mirror)
    basis = (np.eye(len(normal)) - 2.0 * np.outer(mirror, mirror))[:, 1:]
    planes = _hyperplanes(normals @ basis)
    points, clear = _cells(planes.normals)
    return points @ planes.basis.T @ basis.T, clear and planes.clear


def has_few_patterns(X: np.ndarray, most: int, *, free_bias: bool = False) -> bool:
    """Whether `count_patterns` is at most `most`; of more, some samples tell.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    most : int
    free_bias : bool, default=False

    Returns
    -------
    few : bool
    """
    some = X[:: max(1, len(X) // max(1, min(most, _SOME)))]
    if len(some) < len(X) and count_patterns(some, free_bias=free_bias) > most:
        return False
    return count_patterns(X, free_bias=free_bias) <= most


def can_enumerate(X: np.ndarray, *, free_bias: bool = False) -> bool:
    """Whether `enumerate_arrangement` accepts the data.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    free_bias : bool, default=False

    Returns
    -------
    possible : bool
    """
    check_parameters(_CONSTRAINTS, {"free_bias": free_bias}, "can_enumerate")
    return has_few_patterns(X, _limit(len(X)), free_bias=free_bias)


def _limit(n_samples):
    return min(MAX_PATTERNS, MAX_BITS // max(1, n_samples))


def enumerate_arrangement(
    X: np.ndarray, *, free_bias: bool = False, max_patterns: float | None = None
) -> Arrangement:
    """All activation patterns of the data.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    free_bias : bool, default=False
        Enumerate the patterns of ``[X 1]`` instead.
    max_patterns : int, default=None
        Refuse when `count_patterns` predicts more than this.  By default
        20000, and less with more than 500 samples: 10 million patterns times
        samples.

    Returns
    -------
    arrangement : Arrangement
        With ``complete=True``, unless some samples are so nearly equal, or the
        data so nearly of lower rank, that rounding decides on the patterns.
        The patterns are sorted, so that their order depends on the rows of `X`
        alone.

    Raises
    ------
    ValueError
        If too many patterns are predicted.

    References
    ----------
    .. [1] Pilanci, M. and Ergen, T. (2020). "Neural Networks are Convex
       Regularizers". ICML. Section 2.
    .. [2] Edelsbrunner, H., O'Rourke, J. and Seidel, R. (1986).
       "Constructing Arrangements of Lines and Hyperplanes with
       Applications". SIAM Journal on Computing 15(2).
    """
    params = {"free_bias": free_bias, "max_patterns": max_patterns}
    check_parameters(_CONSTRAINTS, params, "enumerate_arrangement")
    rows, restore = _scaled_rows(X, free_bias)
    planes = _hyperplanes(rows)
    m, rank = planes.normals.shape
    predicted = _cell_count(m, rank)
    limit = _limit(len(X)) if max_patterns is None else max_patterns
    if predicted > limit:
        raise ValueError(
            f"arrangements='exact' would enumerate {predicted} activation patterns "
            f"({m} distinct hyperplanes of rank {rank}), more than the limit of "
            f"{limit} for {len(X)} samples. Use arrangements='sampled', or fewer or "
            "lower-dimensional samples."
        )
    if m == 0:
        return Arrangement(
            np.zeros((1, len(rows)), bool), np.zeros((1, rows.shape[1])), True
        )
    points, clear = _cells(planes.normals)
    signs = points @ planes.normals.T > 0
    patterns = (signs[:, planes.index] ^ planes.flipped) & (planes.index >= 0)
    order = np.lexsort(patterns.T[::-1])
    gates = restore(points @ planes.basis.T)
    return Arrangement(patterns[order], gates[order], clear and planes.clear)


def sample_arrangement(
    X: np.ndarray,
    n_arrangements: int,
    *,
    free_bias: bool = False,
    random_state: Seed = None,
) -> Arrangement:
    """Activation patterns of random gate vectors.

    The gates are standard normal in units of the data: of the root mean
    square of each column, and with `free_bias` after centring.  They are drawn
    one after the other, so they depend on the seed and on the number of
    features alone.  Drawing goes on until `n_arrangements` distinct patterns
    are found, at most 50 times as many gates.  Data that
    have no more than `n_arrangements` patterns are enumerated instead.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    n_arrangements : int
        Number of distinct patterns wanted.
    free_bias : bool, default=False
        Sample the patterns of ``[X 1]`` instead.
    random_state : int, RandomState instance or None, default=None

    Returns
    -------
    arrangement : Arrangement
        In the order of drawing.  It may have fewer patterns than asked for:
        all of them (``complete=True``), or those that were found.

    References
    ----------
    .. [1] Pilanci, M. and Ergen, T. (2020). "Neural Networks are Convex
       Regularizers". ICML. Section 3 and Remark 3.3.
    """
    params = {
        "n_arrangements": n_arrangements,
        "free_bias": free_bias,
        "random_state": random_state,
    }
    check_parameters(_CONSTRAINTS, params, "sample_arrangement")
    # Uncounted, they are many.
    few = unless_broken(False, has_few_patterns, X, n_arrangements, free_bias=free_bias)
    if few:
        options = {"free_bias": free_bias, "max_patterns": np.inf}
        arrangement = unless_broken(None, enumerate_arrangement, X, **options)
        if arrangement is not None:
            return arrangement
    rng = check_random_state(random_state)
    n_features = X.shape[1]
    centre = X.mean(axis=0) if free_bias else np.zeros(n_features)
    scale = np.sqrt(np.mean((X - centre) ** 2, axis=0))
    scale[scale == 0] = 1.0
    rows = with_ones(X, free_bias)
    gates = np.empty((0, rows.shape[1]))
    patterns = np.empty((0, len(X)), dtype=bool)
    for _ in range(_OVERSAMPLING):
        check(2.0 * rows.size * n_arrangements)
        drawn = rng.standard_normal((n_arrangements, rows.shape[1]))
        new = drawn[:, :n_features] / scale
        if free_bias:
            new = np.column_stack([new, drawn[:, -1] - new @ centre])
        gates = np.concatenate([gates, new])
        patterns = np.concatenate([patterns, new @ rows.T > 0])
        _, keep = np.unique(np.packbits(patterns, axis=1), axis=0, return_index=True)
        keep = np.sort(keep)[:n_arrangements]
        gates, patterns = gates[keep], patterns[keep]
        if len(keep) == n_arrangements:
            break
    return Arrangement(patterns, gates, False)


def network_arrangement(
    X: np.ndarray, gates: np.ndarray, *, free_bias: bool = False
) -> Arrangement:
    """Patterns of given neurons.

    A neuron of a trained network often lies exactly on hyperplanes of the
    data.  It is then nudged into one of the cells that meet there, which is
    enough for a program on these patterns to contain the network.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    gates : ndarray of shape (n_neurons, n_columns)
        Weight vectors, followed by the bias if `free_bias`.
    free_bias : bool, default=False

    Returns
    -------
    arrangement : Arrangement
    """
    check_parameters(_CONSTRAINTS, {"free_bias": free_bias}, "network_arrangement")
    rows = with_ones(X, free_bias)
    norms = np.linalg.norm(rows, axis=1)
    # Fixed and generic: which of the adjacent cells is taken does not matter.
    nudge = np.cos(1.0 + np.arange(gates.shape[1]) ** 2)
    shift = rows @ nudge
    moved = []
    for gate in gates[np.any(gates != 0, axis=1)]:
        margin = rows @ gate
        on = np.abs(margin) <= 1e-7 * norms * np.linalg.norm(gate)
        ratio = np.abs(margin[~on]) / np.maximum(np.abs(shift[~on]), 1e-300)
        step = 0.5 * min(ratio.min(initial=np.inf), np.linalg.norm(gate))
        # The tiny margins of the rows it lies on must not win over the step.
        lead = np.abs(margin[on]).max(initial=0.0)
        step = max(step, 2.0 * lead / np.abs(shift[on]).min(initial=np.inf))
        moved.append(gate + step * nudge)
    gates = np.array(moved).reshape(-1, rows.shape[1])
    patterns = gates @ rows.T > 0
    _, keep = np.unique(np.packbits(patterns, axis=1), axis=0, return_index=True)
    keep = np.sort(keep)
    return Arrangement(patterns[keep], gates[keep], False)


def union(*arrangements: Arrangement) -> Arrangement:
    """The distinct patterns of several arrangements of the same data, in order."""
    patterns = np.concatenate([a.patterns for a in arrangements])
    gates = np.concatenate([a.gates for a in arrangements])
    _, keep = np.unique(np.packbits(patterns, axis=1), axis=0, return_index=True)
    keep = np.sort(keep)
    complete = any(a.complete for a in arrangements)
    return Arrangement(patterns[keep], gates[keep], complete)
