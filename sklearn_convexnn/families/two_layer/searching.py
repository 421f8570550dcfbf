"""The search of training: from random neurons and from those that are known."""

from typing import NamedTuple

import numpy as np

from sklearn_convexnn.families.two_layer.pricing import (
    along_biases,
    merge_candidates,
    search_units,
)
from sklearn_convexnn.families.two_layer.starts import (
    HALFWAY,
    NEAR,
    WIDE,
    Plan,
    Starts,
    column_spread,
    wide_starts,
)


class Ground(NamedTuple):
    """Data and dual variables that units are searched with.

    Attributes
    ----------
    X : ndarray of shape (n_rows, n_features)
    N : ndarray
        Dual variables of the samples, which `kind` knows how to take.
    weights : ndarray of shape (n_rows, n_outputs)
        Those of the rows.
    kind : callable or None
        As of `search_units`.
    """

    X: np.ndarray
    N: np.ndarray
    weights: np.ndarray
    kind: object = None


# Candidates that are finished, and in a longer search.
_POLISHED, _MORE_POLISHED = 20, 60


# Many parameters: starts of each kind, and samples, each by its name.
def search_far_and_near(
    family,
    N,
    size,
    rng,
    *,
    known=None,
    seen=None,
    thorough=False,
    floor=0.0,
    mirrored=False,
    ground=None,
    plans=WIDE,
    **options,
):
    """Candidates from random directions and from neurons that are known.

    Parameters
    ----------
    family : TwoLayer
    N : ndarray of shape (n_samples, n_outputs)
        Its columns sum to zero if biases are free.
    size : int
        Random directions of each kind, and known neurons, to start from.
    rng : RandomState
    known, seen : Neurons or None
        Those that a network has, and others that once were steep.
    thorough : bool, default=False
        Whether to start from moved neurons as well, and to finish more.
    floor : float, default=0.0
        The slope wanted.
    mirrored : bool, default=False
        Whether to start from mirror images of known neurons as well.
    ground : Ground or None
        Samples and dual variables to climb with; by default all.
    plans : tuple of Plan
        As of `wide_starts`.
    **options : dict
        Further ones of `search_units`.

    Returns
    -------
    candidates : Candidates
        Steepest first.
    """
    ground = family.ground(N) if ground is None else ground
    X, residual = ground.X, ground.N
    options = {
        **family.geometry,
        "apart": family.apart,
        "floor": floor,
        "polish": _MORE_POLISHED if thorough else _POLISHED,
        "like": family.placed,
        "kind": ground.kind,
        **options,
    }
    starts = [
        wide_starts(
            X,
            ground.weights,
            size,
            rng,
            free_bias=family.fit_intercept,
            apart=family.apart,
            plans=plans,
        )
    ]
    near = []
    if known is not None:
        directions = family.steepest(known, N, size).directions
        near = [directions, family.steepest(seen, N, size).directions]
        if thorough:
            near += [_shaken(family, X, directions, part, rng) for part in (0.1, 0.4)]
            starts.append(_not_counted(_between(directions, size, rng), HALFWAY))
    if mirrored and known is not None:
        # With little slope left in the linear part, a neuron and its mirror image are
        # almost equally steep.
        near += [-known.directions, _shaken(family, X, known.directions, 0.1, rng)]
    if near:
        starts.append(_not_counted(np.concatenate(near), NEAR, rescale=True))
    found = search_units(X, residual, Starts.joined(starts), **options)
    if family.apart:
        # A direction of large scale costs little, and is steep in many places.
        others = along_biases(
            X, residual, found.directions, family.negative_slope, floor
        )
        found = merge_candidates([found, others], X, True)
    return found


def _not_counted(directions, *plan, **options):
    """Starts that are not independent."""
    directions = directions[np.any(directions != 0, axis=1)]
    counted = np.zeros(len(directions), dtype=bool)
    return Starts(directions, [Plan(*plan, **options)], counted=counted)


def _between(directions, size, rng):
    """Sums and differences of random pairs of directions."""
    if len(directions) < 2:
        return directions[:0]
    pairs = directions[rng.randint(len(directions), size=(2, size))]
    return pairs[0] + rng.choice([-1.0, 1.0], size=(size, 1)) * pairs[1]


def _shaken(family, X, directions, shake, rng):
    """Directions moved by `shake` of their length, as the data spread."""
    scale = column_spread(X, family.fit_intercept, family.apart)
    length = np.linalg.norm(directions * scale, axis=1) / np.sqrt(len(scale))
    moved = rng.standard_normal(directions.shape) * (length[:, None] / scale)
    return directions + shake * moved
