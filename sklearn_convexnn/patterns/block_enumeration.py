"""All blocks of sub-networks, of small data."""

from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement
from math import comb

import numpy as np
from scipy.optimize import linprog

from sklearn_convexnn._utils.deadlines import check
from sklearn_convexnn.patterns.arrangements import enumerate_arrangement
from sklearn_convexnn.patterns.blocks import Blocks, distinct, simplified

# Distance from its hyperplanes, relative to the size of the rows and the point, that
# the middle of a cell has at least.
_THIN = 1e-9


@dataclass(frozen=True)
class _Part:
    """A unit with all that feeds it: its input is ``inputs @ x`` on ``cone @ x >= 0``.

    Patterns and signs are those of the levels below; `pattern` is its own.
    """

    patterns: tuple
    signs: tuple
    pattern: np.ndarray
    inputs: np.ndarray
    cone: np.ndarray
    inside: np.ndarray
    leaves: np.ndarray
    biases: tuple


def enumerate_blocks(
    X: np.ndarray, architecture, *, free_bias: bool, most: int = 20_000
) -> Blocks | None:
    """All blocks that a program over sub-networks needs.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    architecture : Architecture
        In which each inner unit feeds one other.
    free_bias : bool
    most : int, default=20000
        Blocks from which on the enumeration is given up.

    Returns
    -------
    blocks : Blocks or None
        With `complete`; None if there are too many.

    References
    ----------
    .. [1] Ergen, T. and Pilanci, M. (2021). "Global Optimality Beyond Two
       Layers: Training Deep ReLU Networks via Convex Programs". ICML.
       Section 3.2.
    """
    merge = architecture.has_leaf_norms
    parts = _leaf_parts(X, free_bias)
    for level in range(architecture.depth - 2):
        last = level == architecture.depth - 3
        signed = [(s, part) for part in parts for s in _signs(part, free_bias, level)]
        groups, count = _groups(signed, architecture.width, merge)
        if count > most:
            return None
        parts = []
        for group in groups:
            check()
            one_sign = len(group) > 1 and len({sign for sign, _ in group}) == 1
            if merge and not free_bias and one_sign:
                # Never active, or as good as its leaves.
                continue
            parts += _units(group, len(X), free_bias, fill=architecture.width)
            if len(parts) > most:
                return None
        if last and merge:
            parts += [
                unit
                for sign, part in signed
                if sign > 0
                for unit in _units([(1, part)], len(X), free_bias, architecture.width)
                if unit.pattern[part.pattern].all()
            ]
    blocks = _as_blocks(parts)
    blocks = simplified(blocks, free_bias=free_bias)
    blocks = distinct(blocks, merge=merge, free_bias=free_bias)
    return Blocks(**{**vars(blocks), "complete": True})


def _leaf_parts(X, free_bias):
    arrangement = enumerate_arrangement(X, free_bias=free_bias)
    n, d = X.shape
    rows = np.column_stack([X, np.ones(n)]) if free_bias else X
    parts = []
    for pattern, gate in zip(arrangement.patterns, arrangement.gates):
        if not pattern.any():
            continue
        inputs, cone = rows, np.where(pattern, 1.0, -1.0)[:, None] * rows
        biases = (np.full(1, d if free_bias else -1),)
        if free_bias and pattern.all():
            # Linear, with a bias that is part of the next one.
            inputs, cone, gate = X, np.zeros((0, d)), gate[:-1]
            biases = (np.full(1, -1),)
        leaves = np.arange(d)[None]
        parts.append(_Part((), (), pattern, inputs, cone, gate, leaves, biases))
    return parts


def _signs(part, free_bias, level):
    linear = free_bias and level == 0 and part.pattern.all()
    return (1,) if linear else (1, -1)


def _groups(signed, width, merge):
    """Choices of signed parts that feed a unit, and how many there are."""
    if merge:
        size = min(width, len(signed))
        return combinations(signed, size), comb(len(signed), size)
    choose = combinations_with_replacement(signed, width)
    return choose, comb(len(signed) + width - 1, width)


def _units(group, n, free_bias, fill):
    """The units that a group of signed parts can feed, one for each pattern."""
    dims = [len(part.inside) for _, part in group]
    starts = np.concatenate([[0], np.cumsum(dims)])
    size = starts[-1] + 1
    inputs, cone = np.zeros((n, size)), []
    for (sign, part), start in zip(group, starts):
        some = slice(start, start + len(part.inside))
        inputs[:, some] = sign * part.pattern[:, None] * part.inputs
        wide = np.zeros((len(part.cone), size))
        wide[:, some] = part.cone
        cone.append(wide)
    if free_bias:
        inputs[:, -1] = 1.0
    cone = np.concatenate(cone)
    inside = np.append(np.concatenate([part.inside for _, part in group]), 0.0)
    below, signs, leaves, biases = _joined(group, starts, fill)
    own = np.full(1, size - 1 if free_bias else -1)
    return [
        _Part(
            below,
            signs,
            pattern,
            inputs,
            np.concatenate([cone, np.where(pattern, 1.0, -1.0)[:, None] * inputs]),
            point,
            leaves,
            (*biases, own),
        )
        for pattern, point in _cells_within(inputs, cone, inside)
        if pattern.any()
    ]


def _joined(group, starts, fill):
    """Patterns, signs and indices of the parts of a group, filled up with none."""
    _, first = group[0]
    missing = fill - len(group)
    n_levels = len(first.patterns) + 1
    patterns, signs, biases = [], [], []
    for level in range(n_levels):
        rows = [(*p.patterns, p.pattern[None])[level] for _, p in group]
        rows += [np.zeros_like(rows[0])] * missing
        patterns.append(np.concatenate(rows))
        own = [(*p.signs, np.array([s]))[level] for s, p in group]
        own += [np.zeros_like(own[0])] * missing
        signs.append(np.concatenate(own))
        places = [
            np.where(p.biases[level] >= 0, p.biases[level] + start, -1)
            for (_, p), start in zip(group, starts)
        ]
        places += [np.full_like(places[0], -1)] * missing
        biases.append(np.concatenate(places))
    leaves = [p.leaves + start for (_, p), start in zip(group, starts)]
    leaves += [np.full_like(leaves[0], -1)] * missing
    return tuple(patterns), tuple(signs), np.concatenate(leaves), tuple(biases)


def _cells_within(rows, cone, inside):
    """Cells of the hyperplanes of `rows` inside of a cone, with a point of each.

    Row by row, the cells are cut in two where they have points on both sides.
    """
    length = np.linalg.norm(rows, axis=1)
    used = np.flatnonzero(length > 1e-12 * max(length.max(initial=0.0), 1e-300))
    cone = _unit_rows(cone)
    cells = [([], inside)]
    for count, i in enumerate(used):
        row = rows[i] / length[i]
        known = rows[used[:count]] / length[used[:count], None]
        cut = []
        for signs, point in cells:
            check()
            fixed = np.concatenate([cone, np.array(signs)[:, None] * known])
            margin = _THIN * max(np.linalg.norm(point), 1e-300)
            side = row @ point
            for sign in (1.0, -1.0):
                if sign * side > margin:
                    cut.append(([*signs, sign], point))
                    continue
                other = _middle(np.vstack([fixed, sign * row]))
                if other is not None:
                    cut.append(([*signs, sign], other))
        cells = cut
    for signs, point in cells:
        pattern = np.zeros(len(rows), dtype=bool)
        pattern[used] = np.array(signs) > 0
        yield pattern, point


def _unit_rows(rows):
    length = np.linalg.norm(rows, axis=1)
    return rows[length > 0] / length[length > 0, None]


def _middle(rows):
    """A point well inside of ``rows @ x >= 0``, or None if the cone is flat."""
    n, size = rows.shape
    found = linprog(
        np.append(np.zeros(size), -1.0),
        A_ub=np.column_stack([-rows, np.ones(n)]),
        b_ub=np.zeros(n),
        bounds=[(-1.0, 1.0)] * size + [(None, 1.0)],
        method="highs",
    )
    if found.x is None or found.x[-1] <= _THIN:
        return None
    return found.x[:-1]


def _as_blocks(parts):
    """Arrays of the last units and all that feeds them."""
    levels = range(len(parts[0].patterns))
    last = np.array([part.pattern[None] for part in parts])
    patterns = [np.array([part.patterns[level] for part in parts]) for level in levels]
    signs = tuple(np.array([part.signs[level] for part in parts]) for level in levels)

    def values(part, places):
        return np.where(places >= 0, part.inside[places], 0.0)

    vectors = np.array([values(part, part.leaves) for part in parts])
    biases = tuple(
        np.array([values(part, part.biases[level]) for part in parts])
        for level in range(len(patterns) + 1)
    )
    linear = tuple(np.zeros(b.shape, dtype=bool) for b in biases)
    return Blocks((*patterns, last), signs, linear, vectors, biases)
