"""Directions to start a search from, and how the data spread."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import eye_array

from sklearn_convexnn._utils.deadlines import COPIES, check, svd_work

# Elements of an array that is squared at once.
_CHUNK = 4_000_000
# Samples through which the hyperplane of a start is put, at most.
_HELD = 10
# Spread of a constant column, relative to the largest and to the precision.
_FLAT = 10.0
# Features up to which their principal axes are looked for.
_MANY_FEATURES = 500

FAR = (
    (2.0, 0.3, 30),
    (1.0, 0.5, 30),
    (0.5, 0.7, 30),
    (0.25, 0.85, 30),
    (0.1, 0.93, 30),
    (0.04, 0.97, 25),
    (0.01, 0.98, 20),
)
HALFWAY = (
    (0.3, 0.6, 25),
    (0.3, 0.75, 30),
    (0.15, 0.85, 30),
    (0.08, 0.92, 30),
    (0.04, 0.95, 30),
    (0.01, 0.98, 25),
)
NEAR = ((0.05, 0.95, 40), (0.005, 0.97, 20))
"""For starts that are far from a maximiser, at some distance or near: widths of the
smoothed kinks, one after the other, relative to the spread of the outputs; the part of
the slope wanted that has to be reached there, and steps.  Of the climbs that ended
above that slope, one or two in a hundred had been below these parts (measured on five
problems).  Wide kinks lead up the broad hills; the steepest unit may be on one that
they hide, to which ten times as many climbs lead that begin halfway.  Units hang on
another sample at each width: with new ones after some thirty steps, in place of a
hundred, climbs found half as many more steep hills again, in the time of a sixth
more."""


class Plan(NamedTuple):
    """How climbers go uphill.

    Attributes
    ----------
    widths : tuple
        `FAR`, `HALFWAY` or `NEAR`.
    rescale : bool
        Whether to climb as if the data had the same spread in all directions.  On some
        data this finds what is missed otherwise, on some it is the other way round.
    curved : bool
        Whether to begin without the linear part of the dual point.  The slope of a
        linear neuron is a hill so broad that it may take in all climbs, although what
        hangs on products of a few features is steeper (seen on signs, whose product is
        the target: of 1000 climbs none found it, and 200 of those without).
    """

    widths: tuple = FAR
    rescale: bool = False
    curved: bool = False


WIDE = (Plan(HALFWAY), Plan(FAR), Plan(HALFWAY, curved=True))
"""How random directions climb."""


@dataclass(frozen=True)
class Starts:
    """Where climbers begin, and how they go on.

    Attributes
    ----------
    directions : ndarray of shape (n_starts, n_features)
        Of any length but zero.
    plans : sequence of Plan
    plan : ndarray of int, shape (n_starts,), or None
        Which of them is that of each start; by default the first one.
    counted : ndarray of bool, shape (n_starts,), or None
        Whether a start tells of what a search has not seen, as those do that do not
        depend on what is known; by default all are.
    """

    directions: np.ndarray
    plans: Sequence[Plan]
    plan: np.ndarray = None
    counted: np.ndarray = None

    def __post_init__(self):
        n = len(self.directions)
        if self.plan is None:
            object.__setattr__(self, "plan", np.zeros(n, dtype=int))
        if self.counted is None:
            object.__setattr__(self, "counted", np.ones(n, dtype=bool))

    def __len__(self):
        return len(self.directions)

    def in_turn(self):
        """The same in an order in which all plans take turns.

        So a search that is cut short has some of each.
        """
        turn = np.empty(len(self))
        for i in range(len(self.plans)):
            own = np.flatnonzero(self.plan == i)
            turn[own] = np.arange(len(own)) / max(len(own), 1)
        order = np.argsort(turn, kind="stable")
        parts = (self.directions, self.plan, self.counted)
        directions, plan, counted = (part[order] for part in parts)
        return Starts(directions, self.plans, plan, counted)

    @classmethod
    def joined(cls, several):
        """All starts, with all plans."""
        firsts = np.cumsum([0] + [len(some.plans) for some in several[:-1]])
        return cls(
            np.concatenate([some.directions for some in several]),
            [plan for some in several for plan in some.plans],
            np.concatenate([some.plan + i for some, i in zip(several, firsts)]),
            np.concatenate([some.counted for some in several]),
        )


def wide_starts(X, N, size, rng, *, free_bias, apart=False, plans=WIDE):
    """Samples and random directions of two kinds.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    N : ndarray of shape (n_samples, n_outputs)
    size : int
        Random directions of each kind, half as many of the plain one.
    rng : RandomState
    free_bias, apart : bool
    plans : tuple of Plan
        For equal parts of the starts, with and without `rescale`.

    Returns
    -------
    starts : Starts
    """
    check(COPIES * X.size)
    sums = np.concatenate([N.T, np.maximum(N, 0.0).T, np.minimum(N, 0.0).T]) @ X
    plain, shaped = random_directions(X, size, rng, free_bias, apart)
    # Units that set samples with a large residual apart are often the steepest.
    worst = np.argsort(-np.linalg.norm(N, axis=1), kind="stable")[: max(size // 2, 1)]
    plain = np.concatenate([plain, sums, X[worst], -X[worst]])
    count = len(plans)
    plans = [each._replace(rescale=part) for part in (False, True) for each in plans]
    starts, plan = [], []
    for directions, first in (plain, 0), (shaped, count):
        starts.append(directions[np.any(directions != 0, axis=1)])
        # Those that hang on samples are every second one.
        plan.append(first + np.arange(len(starts[-1])) // 2 % count)
    return Starts(np.concatenate(starts), plans, np.concatenate(plan))


def random_directions(X, size, rng, free_bias, apart=False):
    """Starting directions of two kinds.

    Plain ones are equally likely in all directions, others as the data spread, every
    second of which hangs on samples.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    size : int
    rng : RandomState
    free_bias, apart : bool

    Returns
    -------
    plain : ndarray of shape (size // 2, n_features)
        At least one.
    shaped : ndarray of shape (size, n_features)
    """
    axes = principal_axes(X, centred=free_bias)
    spread = column_spread(X @ axes, free_bias, apart)
    plain = rng.standard_normal((max(1, size // 2), X.shape[1]))
    shaped = rng.standard_normal((size, X.shape[1]))
    if apart:
        # Between the two kinds, since features of small scale cost the most.
        spread = spread ** rng.uniform(size=(size, 1))
    shaped = shaped / spread @ axes.T
    # Steep neurons often hang on some of the samples.
    shaped[::2] = _through_samples(X, shaped[::2], rng, free_bias)
    return plain, shaped


def _through_samples(X, directions, rng, free_bias):
    """Turn directions so that the output of some random samples is the same.

    It is zero without a free bias.
    """
    size, d = directions.shape
    most = min(d, len(X)) - 1
    if most < 1 or size == 0:
        return directions
    chosen = X[rng.randint(len(X), size=(size, min(most, _HELD) + 1))]
    rows = chosen[:, 1:] - (chosen[:, :1] if free_bias else 0.0)
    # A different number of them for each direction.
    count = 1 + rng.randint(rows.shape[1], size=size)
    rows[np.arange(rows.shape[1]) >= count[:, None]] = 0.0
    check(20.0 * rows.size * rows.shape[1])
    Q, R = np.linalg.qr(rows.transpose(0, 2, 1))
    pivots = np.abs(np.einsum("kii->ki", R))
    Q = Q * (pivots > 1e-9 * np.max(pivots, initial=1e-300))[:, None, :]
    along = np.einsum("kdi,kd->ki", Q, directions)
    return directions - np.einsum("kdi,ki->kd", Q, along)


def principal_axes(X, centred=False):
    """Orthonormal directions along which the data spread independently.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    centred : bool, default=False
        Whether the spread is about the mean, rather than about the origin.

    Returns
    -------
    axes : {ndarray, sparse array} of shape (n_features, n_features)
        Those of the features if they are so many that others would take longer to
        find than they save.
    """
    if X.shape[1] > _MANY_FEATURES:
        return eye_array(X.shape[1], format="csr")
    d = X.shape[1]
    check(2.0 * X.size * d + svd_work((d, d)))
    X = X - X.mean(axis=0) if centred else X
    unit = max(np.max(np.abs(X), initial=0.0), np.finfo(float).tiny)
    return np.linalg.eigh((X / unit).T @ (X / unit))[1]


def column_spread(X, centred=False, apart=False):
    """Root mean square of each column, but at least a small part of the largest.

    A column that is constant has the largest: what moves along it is wasted.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    centred : bool, default=False
    apart : bool, default=False
        Whether scales that are far apart matter.

    Returns
    -------
    spread : ndarray of shape (n_features,)
    """
    centre = X.mean(axis=0) if centred else X.dtype.type(0.0)
    step = max(1, _CHUNK // X.shape[1])
    parts = [
        np.sum(np.square(X[i : i + step] - centre), axis=0)
        for i in range(0, len(X), step)
    ]
    spread = np.sqrt(sum(parts) / len(X))
    largest = max(spread.max(initial=0.0), np.finfo(X.dtype).tiny)
    spread[spread <= _FLAT * np.finfo(X.dtype).eps * largest] = largest
    return np.maximum(spread, (1e-7 if apart else 1e-3) * largest)
