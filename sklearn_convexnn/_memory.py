"""Memory that parameters ask for, as an error before any work in place of one later."""

import os
from math import comb, exp, log

from sklearn_convexnn.training.at_scale import goes_at_scale

_GIB = 2.0**30
# The limit where the system does not say how much memory there is, in bytes.
_UNKNOWN = 16.0 * _GIB
# Copies of the weights in a descent that remembers ten steps, and of the outputs of all
# units in a forward and backward pass.
_OF_WEIGHTS, _OF_OUTPUTS = 25, 4
# Sub-networks that a search starts from, at least, in half the precision.
_SEARCHED = 50
# Bytes of a program over patterns for each sample of each, at least: the pattern, its
# signs, and slacks and multipliers of both blocks.
_OF_PATTERN = 40
# Numbers in a program over blocks for each entry of the masks: with both signs of the
# output, those of the cones in two orders.
_OF_MASKS = 4
# Logarithm of a number that is too large for any memory, and that can still be squared.
_HUGE = 300.0


def memory_limit():
    """Memory of the machine in bytes, or 16 GiB if it is not known."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return _UNKNOWN


def require_memory(needed, what, remedy):
    """Raise ValueError if more memory is needed than the machine has.

    Parameters
    ----------
    needed : float
        Bytes.
    what : str
        What needs it: parameters with their values.
    remedy : str
        What to do about it.
    """
    limit = memory_limit()
    if needed > limit:
        raise ValueError(
            f"{what} needs about {needed / _GIB:.3g} GiB of memory, and this machine "
            f"has {limit / _GIB:.3g} GiB: {remedy}."
        )


def check_neurons(shape, n_outputs, n_arrangements):
    """Raise ValueError if the neurons to start with would not fit into the memory.

    Only what surely is made counts, so that a fit can still need more.

    Parameters
    ----------
    shape : tuple of int
        That of the data.
    n_outputs, n_arrangements : int
    """
    if goes_at_scale(shape, n_outputs, "adaptive"):
        n, d = shape
        # In single precision there.
        needed = n_arrangements * (8.0 * _OF_WEIGHTS * (d + n_outputs) + 4.0 * n)
        require_memory(
            needed,
            f"n_arrangements={n_arrangements}, the neurons to start with,",
            "use a smaller n_arrangements",
        )


def check_filters(n_weights, n_arrangements):
    """Raise ValueError if the filters to start with would not fit into the memory.

    Parameters
    ----------
    n_weights : int
        Of each filter and of its outputs.
    n_arrangements : int
    """
    require_memory(
        8.0 * _OF_WEIGHTS * n_arrangements * n_weights,
        f"n_arrangements={n_arrangements}, the filters to start with,",
        "use a smaller n_arrangements",
    )


def check_patterns(shape, n_arrangements, free_bias):
    """Raise ValueError if so many sampled patterns would not fit into the memory.

    Parameters
    ----------
    shape : tuple of int
        That of the data.
    n_arrangements : int
        If the data have fewer, all are taken.
    free_bias : bool
    """
    n, d = shape
    rank = min(d + bool(free_bias), n)
    known = 0
    for j in range(rank):
        known += 2 * comb(n - 1, j)
        if known > n_arrangements:
            break
    needed = float(min(known, n_arrangements)) * (_OF_PATTERN * n + 16.0 * (d + 1))
    require_memory(
        needed, f"n_arrangements={n_arrangements}", "use a smaller n_arrangements"
    )


def check_subnetworks(estimator, shape, n_outputs):
    """Raise ValueError if the sub-networks of a fit would not fit into the memory.

    Parameters
    ----------
    estimator : ParallelReLURegressor or ParallelReLUClassifier
        Its parameters have been validated.
    shape : tuple of int
        That of the data.
    n_outputs : int
    """
    (n, d), depth, width = shape, estimator.depth, estimator.subnetwork_width
    tree = estimator.subnetwork_norm == "path" or depth == 3
    units, weights = _sizes(d, depth, width, tree)
    sampled = estimator.arrangements == "sampled"
    count = float(estimator.n_arrangements)
    if not sampled:
        count = min(count, max(2 * n * n_outputs, 100))
    needed = 8.0 * max(count, _SEARCHED) * _OF_WEIGHTS * (weights + units)
    needed += 8.0 * count * _OF_OUTPUTS * n * units
    if sampled:
        leaves = _power(width, depth - 2)
        sources = leaves + units * estimator.fit_intercept
        masks = 2.0 * count * n * sources * (1.0 + units)
        grams = 2.0 * count * (leaves * min(d, n) + sources - leaves) ** 2
        needed += 8.0 * (_OF_MASKS * masks + grams)
    require_memory(
        needed,
        f"depth={depth} with subnetwork_width={width}, "
        f"subnetwork_norm={estimator.subnetwork_norm!r} and "
        f"n_arrangements={estimator.n_arrangements}",
        "use a smaller subnetwork_width, depth or n_arrangements",
    )


def _sizes(n_features, depth, width, tree):
    """Units and weights of a sub-network, as floats that are not infinite."""
    inner = depth - 2
    if not tree:
        units = float(width) * inner + 1.0
        return units, width * (n_features + (inner - 1.0) * width + 1.0)
    # Layers of as many units as there are leaves, and fewer by `width` from one to the
    # next, with weights between all of them.
    leaves, ratio = _power(width, inner), float(width)
    if width == 1:
        return inner + 1.0, float(n_features + inner)
    units = leaves * ratio / (ratio - 1.0)
    return units, leaves * n_features + leaves**2 * ratio / (ratio**2 - 1.0)


def _power(base, exponent):
    return exp(min(exponent * log(base), _HUGE))
