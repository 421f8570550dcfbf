"""The search of training: from random sub-networks and from those that are known."""

from dataclasses import replace

import numpy as np

from sklearn_convexnn._utils.breakdown import unless_broken
from sklearn_convexnn._utils.deadlines import OutOfTime, check
from sklearn_convexnn.families.subnetworks.pricing import (
    FAR,
    NEAR,
    SLOW,
    ascend,
    ranked,
    search_widely,
)
from sklearn_convexnn.families.two_layer.pricing import (
    search_widely as search_neurons_widely,
)

# Steps of a search, and of a thorough one.
_STEPS, _MORE_STEPS = 80, 300
# Operations of inner units in a search, and sub-networks that it starts from at least.
_WORK, _FEWEST = 150_000_000, 50
# Steep sub-networks that are known to climb from, and candidates, at most.
_NEAR, _MOST = 150, 400
# Candidates among neurons that are finished, and in a thorough search.
_POLISHED, _MORE_POLISHED = 5, 20


# Many parameters: starts of each kind, each by its name.
def search_far_and_near(
    family, N, size, rng, *, known=None, seen=None, thorough=False, floor=0.0
):
    """Candidates from random sub-networks, known ones and two-layer neurons.

    Parameters
    ----------
    family : ParallelSubnetworks
    N : ndarray of shape (n_samples, n_outputs)
    size : int
        Random sub-networks to start from; of large ones fewer are.
    rng : RandomState
    known, seen : Subnetworks or None
        Those that a network has, and others that once were steep.
    thorough : bool, default=False
        Whether to climb for longer, and from moved sub-networks as well.
    floor : float, default=0.0
        Of no use here.

    Returns
    -------
    candidates : Candidates
        Steepest first.

    Raises
    ------
    OutOfTime
        With the largest slope found as `steepest`.
    """
    steps, schedules = (_MORE_STEPS, (FAR, SLOW)) if thorough else (_STEPS, (FAR,))
    work = len(family.X) * sum(family.architecture.widths) * steps
    size = int(np.clip(_WORK // work, _FEWEST, size))
    parts, options = [], {"max_iter": steps, "partial": thorough}
    try:
        for widths in schedules:
            parts.append(search_widely(family, N, size, rng, widths, **options))
            check()
        near, complete = family.none(), True
        if known is not None:
            near = family.steepest(known, N, size)
            near = near.joined(family.steepest(seen, N, size))
            neurons = unless_broken(None, _neurons, family, N, size, rng, thorough)
            complete = neurons is not None
            near = near.joined(neurons) if complete else near
            near = _distinct_and_moved(family, N, near, size, rng, thorough)
        if len(near):
            parts.append(ascend(family, N, near, widths=NEAR, **options))
        units = parts[0].units
        for other in parts[1:]:
            units = units.joined(other.units)
        check(family.work(len(units)))
    except OutOfTime as late:
        late.steepest = max(
            (part.slopes.max(initial=0.0) for part in parts), default=0.0
        )
        raise
    return replace(ranked(family, N, units, _MOST), complete=complete)


def _neurons(family, N, size, rng, thorough):
    """Two-layer neurons that are steep, as sub-networks."""
    found = search_neurons_widely(
        family.X,
        N,
        size,
        rng,
        free_bias=family.fit_intercept,
        negative_slope=0.0,
        floor=0.0,
        polish=_MORE_POLISHED if thorough else _POLISHED,
    ).select(slice(0, size))
    return family.units(*family.embedded(found.directions, found.biases))


def _distinct_and_moved(family, N, near, size, rng, thorough):
    """Those of the steepest that differ, and what is around them."""
    check(family.work(len(near)))
    near = ranked(family, N, near, min(size, _NEAR)).units
    if thorough:
        for shake in (0.1, 0.4):
            near = near.joined(_shaken(family, near, shake, rng))
    return near


def _shaken(family, units, shake, rng):
    """Sub-networks with weights and biases moved by `shake` of their size."""
    weights = []
    for W, used in zip(units.weights, family.architecture.connections):
        size = np.sqrt(np.mean(W**2, axis=(1, 2), keepdims=True))
        noise = shake * size * rng.standard_normal(W.shape)
        weights.append(W + (noise if used is None else noise * used))
    biases = list(units.biases)
    if family.fit_intercept:
        biases = [b * (1.0 + shake * rng.standard_normal(b.shape)) for b in biases]
    return family.units(weights, biases)
