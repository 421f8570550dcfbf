"""How many activation patterns the programs of sub-networks can have."""

from dataclasses import dataclass
from math import comb, e
from numbers import Integral
from typing import Literal

from sklearn_convexnn._sklearn import Interval, StrOptions, check_parameters

_COUNT = Interval(Integral, 1, None, closed="left")
_CONSTRAINTS = {
    "n_samples": [_COUNT],
    "rank": [_COUNT],
    "depth": [Interval(Integral, 2, None, closed="left")],
    "subnetwork_width": [_COUNT],
    "subnetwork_norm": [StrOptions({"frobenius", "path"})],
    "fit_intercept": ["boolean"],
}


@dataclass(frozen=True)
class BlockCount:
    """Upper bounds of the size of the program over all blocks.

    Attributes
    ----------
    patterns : tuple of int
        For each hidden layer, the patterns of a unit whose inputs have given
        patterns and signs.
    estimates : tuple of float
        The same by the simpler and larger expressions of the papers,
        ``2 k (e (n - 1) / k)^k`` for units that depend on ``k`` numbers.
    choices : tuple of int
        For each hidden layer, the choices of patterns and signs that its units can
        have as inputs.
    blocks : int
        Product of the patterns and the choices of the last hidden layer.
    variables, constraints : int
        Of the program, which has each block with both signs of its output.
    """

    patterns: tuple[int, ...]
    estimates: tuple[float, ...]
    choices: tuple[int, ...]
    blocks: int
    variables: int
    constraints: int


def count_blocks(
    n_samples: int,
    rank: int,
    *,
    depth: int = 3,
    subnetwork_width: int = 2,
    subnetwork_norm: Literal["frobenius", "path"] = "frobenius",
    fit_intercept: bool = True,
) -> BlockCount:
    r"""Bound the number of blocks of activation patterns of sub-networks.

    A unit that depends linearly on ``k`` numbers has at most

    .. math::
        2 \sum_{j=0}^{k-1} \binom{n - 1}{j} \le 2 k \Big(\frac{e (n - 1)}{k}\Big)^k

    patterns on ``n`` samples.  For the first layer, ``k`` is the rank ``r`` of the
    data, for the second one ``m_1 r``, and so on: for given rank, depth and width,
    the numbers are polynomials in ``n``.  With free biases each unit adds one.

    Parameters
    ----------
    n_samples : int
        Number of distinct samples.
    rank : int
        Rank of the data, those less their mean with free biases; at most the
        number of features.
    depth : int, default=3
        Weight layers, at least two.
    subnetwork_width : int, default=2
        Inputs of each unit but those of the first layer.
    subnetwork_norm : {'frobenius', 'path'}, default='frobenius'
        With 'path' the inputs of a unit can have equal patterns.
    fit_intercept : bool, default=True
        Whether the units have free biases.

    Returns
    -------
    count : BlockCount
        Exact integers, which can be very long.  The program leaves out blocks that
        are of no use or have no interior, so it often has far fewer.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    Notes
    -----
    For a depth of two there are no choices, and the numbers are those of
    `arrangements.count_patterns` for samples in general position.

    References
    ----------
    .. [1] Ergen, T. and Pilanci, M. (2021). "Global Optimality Beyond Two
       Layers: Training Deep ReLU Networks via Convex Programs". ICML. Equations
       (14) and (15), Corollary 1 and Remark 5.

    Examples
    --------
    >>> from sklearn_convexnn.patterns.counts import count_blocks
    >>> count = count_blocks(6, 2, subnetwork_width=2, fit_intercept=False)
    >>> count.patterns, count.choices, count.blocks
    ((12, 52), (1, 276), 14352)
    """
    params = {
        "n_samples": n_samples,
        "rank": rank,
        "depth": depth,
        "subnetwork_width": subnetwork_width,
        "subnetwork_norm": subnetwork_norm,
        "fit_intercept": fit_intercept,
    }
    check_parameters(_CONSTRAINTS, params, "count_blocks")
    n, m, free = n_samples, subnetwork_width, int(fit_intercept)
    size, units = rank + free, 1
    patterns, estimates, choices, blocks = [], [], [], 1
    for layer in range(depth - 1):
        chosen = 1
        if layer > 0:
            size, units = m * size + free, m * units + 1
            # Each with either sign.
            signed = 2 * blocks
            chosen = comb(signed, min(m, signed))
            if subnetwork_norm == "path":
                chosen = comb(signed + m - 1, m)
        choices.append(chosen)
        patterns.append(2 * sum(comb(n - 1, j) for j in range(min(size, n))))
        # The expression needs k <= n - 1; beyond that there are all patterns.
        k = min(size, n - 1)
        estimates.append(2.0 * k * (e * (n - 1) / k) ** k if k else 2.0)
        blocks = chosen * patterns[-1]
    return BlockCount(
        tuple(patterns),
        tuple(estimates),
        tuple(choices),
        blocks,
        variables=2 * blocks * size,
        constraints=2 * blocks * n * units,
    )
