"""Activation patterns and signs of sub-networks: the blocks of their program."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sklearn_convexnn._utils.deadlines import check


@dataclass(frozen=True)
class Blocks:
    """Patterns and signs of sub-networks in which each unit feeds one other.

    Level by level, from the units that see the data to the last one; the units
    that feed the same one are next to each other.

    Attributes
    ----------
    patterns : tuple of ndarray of bool, shape (n_blocks, n_units, n_samples)
    signs : tuple of ndarray of int, shape (n_blocks, n_units)
        Of the weight from each unit to the next level, without the last level;
        0 for units that are not there.
    linear : tuple of ndarray of bool, shape (n_blocks, n_units)
        Units that are active everywhere without a constraint to be so.
    vectors : ndarray of shape (n_blocks, n_leaves, n_features)
    biases : tuple of ndarray of shape (n_blocks, n_units)
        With `vectors`, a sub-network inside of each block: weights multiplied
        along each path, up to their signs.
    complete : bool
        Whether no other block could improve on these.
    """

    patterns: tuple
    signs: tuple
    linear: tuple
    vectors: np.ndarray
    biases: tuple
    complete: bool = False

    def __len__(self):
        return len(self.vectors)

    def select(self, keep):
        """The blocks at index or mask `keep`."""
        return replace(
            self,
            vectors=self.vectors[keep],
            **{
                name: tuple(part[keep] for part in getattr(self, name))
                for name in ("patterns", "signs", "linear", "biases")
            },
        )

    @property
    def present(self):
        """For each level the units that have an effect, from the last level down."""
        masks = [np.ones(self.linear[-1].shape, dtype=bool)]
        for signs in self.signs[::-1]:
            above = np.repeat(masks[0], signs.shape[1] // masks[0].shape[1], axis=1)
            masks.insert(0, above & (signs != 0))
        return masks

    def joined(self, other):
        """These blocks and those of `other`."""
        return replace(
            self,
            vectors=np.concatenate([self.vectors, other.vectors]),
            complete=self.complete and other.complete,
            **{
                name: tuple(
                    np.concatenate(pair)
                    for pair in zip(getattr(self, name), getattr(other, name))
                )
                for name in ("patterns", "signs", "linear", "biases")
            },
        )


def blocks_of(
    X: np.ndarray,
    weights: Sequence[np.ndarray],
    biases: Sequence[np.ndarray],
    *,
    free_bias: bool,
) -> Blocks:
    """The blocks that sub-networks lie in.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    weights : sequence of ndarray of shape (n_blocks, n_inputs, n_outputs)
        Each unit feeds one other.
    biases : sequence of ndarray of shape (n_blocks, n_outputs)
    free_bias : bool

    Returns
    -------
    blocks : Blocks
        One for each sub-network, in its order.
    """
    signs: list[np.ndarray] = []
    products = [np.ones((len(weights[0]), 1))]
    for W in weights[:0:-1]:
        # Each unit has one weight to the next level.
        onward = np.sum(W, axis=2)
        signs.insert(0, np.sign(onward).astype(int))
        repeats = onward.shape[1] // products[0].shape[1]
        products.insert(0, np.abs(onward) * np.repeat(products[0], repeats, axis=1))
    vectors = weights[0].transpose(0, 2, 1) * products[0][:, :, None]
    scaled = [b * product for b, product in zip(biases, products)]
    z = np.einsum("nd,kpd->kpn", X, vectors) + scaled[0][:, :, None]
    patterns = [z > 0]
    for sign, b in zip(signs, scaled[1:]):
        z = sign[:, :, None] * np.maximum(z, 0.0)
        z = z.reshape(len(z), b.shape[1], -1, z.shape[2]).sum(axis=2) + b[:, :, None]
        patterns.append(z > 0)
    return simplified(
        Blocks(
            tuple(patterns),
            tuple(signs),
            tuple(np.zeros(b.shape, dtype=bool) for b in scaled),
            vectors,
            tuple(scaled),
        ),
        free_bias=free_bias,
    )


def simplified(blocks: Blocks, *, free_bias: bool) -> Blocks:
    """The blocks without units of no effect and constraints of no need.

    Units that are never active are not there.  With free biases, units that are
    always active are linear: their biases become part of the next one.  Without,
    units of the upper levels are that add what is never negative.

    Parameters
    ----------
    blocks : Blocks
    free_bias : bool

    Returns
    -------
    blocks : Blocks
    """
    signs = [part.copy() for part in blocks.signs]
    biases = [part.copy() for part in blocks.biases]
    vectors, linear = blocks.vectors.copy(), []
    for level, patterns in enumerate(blocks.patterns):
        if free_bias:
            straight = patterns.all(axis=2)
        elif level == 0:
            straight = np.zeros(patterns.shape[:2], dtype=bool)
        else:
            # Also where none of what they add is active.
            inputs = signs[level - 1].reshape(*patterns.shape[:2], -1)
            straight = np.all(inputs >= 0, axis=2)
        linear.append(straight)
        if level == len(signs):
            break
        signs[level][~patterns.any(axis=2)] = 0
        if free_bias:
            moved = np.where(straight, signs[level] * biases[level], 0.0)
            above = biases[level + 1]
            above += moved.reshape(*above.shape, -1).sum(axis=2)
        if free_bias and level == 0:
            # Nor does a linear unit of the data need a sign.
            vectors *= np.where(straight, signs[0], 1)[:, :, None]
            signs[0] = np.where(straight, np.abs(signs[0]), signs[0])
    return replace(
        blocks,
        signs=tuple(signs),
        linear=tuple(linear),
        vectors=vectors,
        biases=tuple(np.where(part, 0.0, b) for part, b in zip(linear, biases)),
    )


def distinct(blocks: Blocks, *, merge: bool, free_bias: bool) -> Blocks:
    """Blocks that differ, of those that can be of use.

    Parameters
    ----------
    blocks : Blocks
        As `simplified` gives them.
    merge : bool
        Whether the cost of a unit is the sum of the norms of its leaves.  Then
        equal leaves are as good as one of them, and units that only add are as
        good as their leaves by themselves.
    free_bias : bool
        Whether there is a linear term besides, so that no block has to be linear.

    Returns
    -------
    blocks : Blocks
    """
    if merge:
        blocks = _split_sums(_without_copies(blocks))
    present = blocks.present[0]
    useful = present.any(axis=1) & blocks.patterns[-1].any(axis=(1, 2))
    if free_bias:
        bent = np.zeros(len(blocks), dtype=bool)
        for mask, linear in zip(blocks.present, blocks.linear):
            bent |= np.any(mask & ~linear, axis=1)
        useful &= bent
    blocks = blocks.select(useful)
    seen: dict = {}
    for b, key in enumerate(_keys(blocks)):
        seen.setdefault(key, b)
    return blocks.select(np.array(sorted(seen.values()), dtype=int))


def _keys(blocks):
    """For each block what it has in common with those that are equal to it."""
    packed = [np.packbits(part, axis=2) for part in blocks.patterns]
    for b in range(len(blocks)):
        check()
        below = None
        for level, patterns in enumerate(packed):
            nodes = [
                (not linear) * row.tobytes()
                for linear, row in zip(blocks.linear[level][b], patterns[b])
            ]
            if below is not None:
                step = len(below) // len(nodes)
                nodes = [
                    (node, tuple(sorted(below[k * step : (k + 1) * step])))
                    for k, node in enumerate(nodes)
                ]
            if level == len(blocks.signs):
                yield nodes[0]
                break
            below = [
                (int(sign), node if sign else None)
                for sign, node in zip(blocks.signs[level][b], nodes)
            ]
            below = [(sign, repr(node)) for sign, node in below]


def _without_copies(blocks):
    """Leaves that repeat an earlier one of their unit become part of it."""
    signs, vectors = blocks.signs[0].copy(), blocks.vectors.copy()
    biases = blocks.biases[0].copy()
    leaves = np.packbits(blocks.patterns[0], axis=2)
    for j in range(1, signs.shape[1]):
        for i in range(j):
            same = np.all(leaves[:, i] == leaves[:, j], axis=1)
            same &= (signs[:, i] == signs[:, j]) & (signs[:, i] != 0)
            signs[same, j] = 0
            vectors[same, i] += vectors[same, j]
            biases[same, i] += biases[same, j]
    return replace(
        blocks,
        signs=(signs, *blocks.signs[1:]),
        vectors=vectors,
        biases=(biases, *blocks.biases[1:]),
    )


def _split_sums(blocks):
    """A block for each leaf of the units that only add, of three layers."""
    linear = blocks.linear[-1][:, 0]
    parts = [blocks.select(~linear)]
    sums = blocks.select(linear)
    for j in range(sums.vectors.shape[1]):
        part = sums.select(sums.signs[0][:, j] != 0)
        signs = np.zeros_like(part.signs[0])
        signs[:, 0] = 1
        order = np.roll(np.arange(signs.shape[1]), -j)
        parts.append(
            replace(
                part,
                patterns=(part.patterns[0][:, order], part.patterns[1]),
                signs=(signs,),
                linear=(part.linear[0][:, order], part.linear[1]),
                vectors=part.vectors[:, order],
                biases=(part.biases[0][:, order], np.zeros_like(part.biases[1])),
            )
        )
    joined = parts[0]
    for part in parts[1:]:
        joined = joined.joined(part)
    return joined
