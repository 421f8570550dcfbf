"""Pricing: search for the units that violate the dual constraint.

At a dual point ``N`` a unit with direction ``u`` and bias ``b`` improves the
network if ``||N^T act(X u + b)|| > alpha``.  The search finds local maximisers;
what it does not find is not proven to be absent.
"""

from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from scipy.sparse import issparse

from sklearn_convexnn._sklearn import get_namespace
from sklearn_convexnn._utils.deadlines import COPIES, OutOfTime, check, fits, left
from sklearn_convexnn._utils.devices import in_main_memory, in_numpy, placed
from sklearn_convexnn.families.two_layer.climbing import Hill, row_norms
from sklearn_convexnn.families.two_layer.convex_concave import concave_step
from sklearn_convexnn.families.two_layer.neurons import Neurons
from sklearn_convexnn.families.two_layer.starts import (
    NEAR,
    Plan,
    Starts,
    column_spread,
    principal_axes,
    wide_starts,
)
from sklearn_convexnn.families.unseen import (
    UNTOLD,
    allow_for_unseen,
    missing_mass,
    short_of_tops,
)

# Elements of the array of all outputs that one batch of directions may have.
_BATCH = 2_000_000
# Outputs that are sorted at once: they should stay in the cache, or in the memory of a
# device.
_SORTED, _LARGE_SORTED = 40_000, 20_000_000
# Outputs of all starts up to which these are candidates as they are.
_AS_GIVEN = 300_000
# Directions in a first batch if each one counts when time is short, and the fewest that
# tell anything; steps of a climb, about.
_IN_TIME, _TELLING, _STEPS = 64, 16, 100
# Climbers in a batch at most: all pairs of them are compared.
_MOST = 3000
# Parts of the time left that a batch may take for the next one to be larger, and that
# the first one may take.
_SHARE, _FIRST = 0.1, 0.3
# Attributes of candidates, one entry for each of them.
_ARRAYS = ("directions", "biases", "outputs", "slopes", "hits")
# Biases of one direction that are kept.
_PEAKS = 20
# Below this part of the slope wanted a candidate is not worth finishing.
_WORTH_POLISH = 0.98
# Squares of a spread that are zero up to rounding, and what is left of the dual
# variables without their linear part if that is nothing, both as parts of the largest.
_NO_SPREAD, _LITTLE = 1e-12, 1e-6


@dataclass(frozen=True)
class Candidates:
    """Units with their slopes, steepest first.

    Attributes
    ----------
    directions : ndarray of shape (n_candidates, n_features)
        Unit rows.
    biases, slopes : ndarray of shape (n_candidates,)
    outputs : ndarray of shape (n_candidates, n_outputs)
        Unit rows; the slope is ``act(X direction + bias)^T N outputs^T``.
    hits : ndarray of shape (n_candidates,)
        Climbs from random starts that ended there; by default none.
    n_starts : int
        Random starts, with those that ended nowhere.
    """

    directions: np.ndarray
    biases: np.ndarray
    outputs: np.ndarray
    slopes: np.ndarray
    hits: np.ndarray = None
    n_starts: int = 0

    def __post_init__(self):
        if self.hits is None:
            object.__setattr__(self, "hits", np.zeros(len(self.slopes)))

    def __len__(self):
        return len(self.slopes)

    @property
    def missing(self):
        """About the part of further climbs that would end at units not found so far."""
        return missing_mass(self.hits)

    def allow_for_unseen(self, found, tol):
        """The steepest slope that more of the same search would find.

        `found` is the steepest one that is known, `tol` the duality gap asked for.
        """
        slope = allow_for_unseen(found, self.slopes, self.hits, self.n_starts)
        return min(slope, UNTOLD * found) * (1.0 + short_of_tops(tol))

    @property
    def units(self):
        """The units as neurons that have a kink."""
        return Neurons(self.directions, self.biases, np.zeros(len(self), dtype=bool))

    def select(self, keep):
        """The candidates at index or mask `keep`."""
        parts = (getattr(self, name)[keep] for name in _ARRAYS)
        return Candidates(*parts, self.n_starts)

    def uncounted(self):
        """The candidates as those of starts that are not random."""
        return replace(self, hits=None, n_starts=0)


# Many parameters: each caller sets a few of the options, and leaves the others.
def search_units(
    X,
    N,
    starts,
    *,
    free_bias,
    negative_slope=0.0,
    floor=0.0,
    apart=False,
    polish=60,
    partial=False,
    like=None,
    kind=None,
):
    r"""Local maximisers of the slope from many starting directions at once.

    Steps along conjugate directions, with a step size of its own for each climber,
    which shrinks on failure.  Kinks, on some of which ascent would get stuck, are
    smoothed, over a width that shrinks; the output weights follow the direction of
    the slopes as the unit moves.  With `free_bias` a unit hangs on the sample at
    which its output begins; the best such sample is found exactly by one sort per
    direction.  Some climb first what is left of the dual point without its linear
    part.  The steepest are finished by convex-concave steps.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    N : ndarray of shape (n_samples, n_outputs)
        Its columns sum to zero if `free_bias`.
    starts : Starts or ndarray of shape (n_starts, n_features)
        Directions of any length but zero are far from a maximiser.
    free_bias : bool
    negative_slope : float, default=0.0
    floor : float, default=0.0
        The slope wanted.  Climbs that fall behind are given up.
    apart : bool, default=False
        Whether the scales of the features are so far apart that each direction needs
        a metric of its own.
    polish : int, default=60
        Number of candidates to finish, for each of the plans.
    partial : bool, default=False
        Whether what has been found is of use when there is no time for the rest.
        Nothing is not.
    like : array or None
        Of the library, and on the device, that takes the large products.
    kind : callable or None
        What makes a `SlopeSearch` of data, dual variables and options; by default that
        class.

    Returns
    -------
    candidates : Candidates
        Distinct ones, steepest first.

    Raises
    ------
    OutOfTime
        Before the end, or if `partial` before any climb has come to its end.

    References
    ----------
    .. [1] Bach, F. (2017). "Breaking the Curse of Dimensionality with Convex
       Neural Networks". JMLR 18. Section 2.5 (the incremental step).
    """
    options = {"free_bias": free_bias, "negative_slope": negative_slope}
    options["apart"] = apart
    work = 0.5 * COPIES * X.size
    kind = SlopeSearch if kind is None else kind
    search = kind(X, N, **options)
    if len(starts) == 0 or not np.any(N):
        return no_candidates(X, search.n_columns)
    check(work)
    # Single precision is enough to find the way, and twice as fast; its range is
    # small, so units are taken out.
    unit_X = max(np.max(np.abs(X)), np.finfo(float).tiny)
    unit_N = np.max(np.abs(N))
    axes = principal_axes(X, centred=free_bias)
    Z, M = X @ axes / unit_X, N / unit_N
    # Without axes, of very many features, its linear part takes long to find.
    bent = M if issparse(axes) else search.bent(Z, M)
    rough, curved = (
        kind(Z.astype(np.float32), M.astype(np.float32), like=like, **options)
        for M in (M, bent)
    )
    low = floor / unit_X / unit_N
    if not isinstance(starts, Starts):
        starts = Starts(starts, [Plan()])
    starts = starts.in_turn()
    given, n_plans = starts.directions, len(starts.plans)
    parts, finished = [], []
    try:
        for U, at, hits, n_starts in _climbed(
            rough, curved, starts, axes, low, partial
        ):
            climbed = search.evaluate(U @ axes.T, at)
            parts.append(replace(climbed, hits=hits, n_starts=n_starts))
        if len(X) * len(given) <= _AS_GIVEN * n_plans:
            # Hills as narrow as rounding, on the hyperplanes of samples that are much
            # longer than others, are lost in single precision.
            best = max([floor, *(part.slopes.max(initial=0.0) for part in parts)])
            at = search.anchor(given) if free_bias else np.zeros(len(given), dtype=int)
            before = search.evaluate(given, at)
            parts.append(before.select(before.slopes > (1.0 + 1e-9) * best))
        found = merge_candidates(parts, X, apart)
        worth = min(polish * n_plans, int(np.sum(found.slopes > _WORTH_POLISH * floor)))
        if worth:
            polished = search.polish(found.select(slice(0, worth)))
            finished = [replace(polished, n_starts=0)]
            parts = [found.select(slice(worth, None))]
    except OutOfTime:
        if not (partial and parts):
            raise
    return merge_candidates(finished + parts, X, apart)


def _climbed(search, curved, starts, axes, floor, partial):
    """What `ascend` gives, batch by batch, and the number of random starts."""
    most = min(max(1, _BATCH // len(search.X)), _MOST)
    size, done = most, 0
    if partial:
        size, work = min(most, _IN_TIME), 4.0 * _STEPS * search.X.size
        while size > _TELLING and not fits(size * work, _FIRST):
            size //= 2
    bends = np.array([plan.curved for plan in starts.plans])[starts.plan]
    while done < len(starts):
        begin, batch = perf_counter(), np.arange(done, min(done + size, len(starts)))
        for bent in (False, True):
            some = batch[bends[batch] == bent]
            if len(some) == 0:
                continue
            counted, plans, plan = starts.counted[some], starts.plans, starts.plan[some]
            U, hits = starts.directions[some] @ axes, counted.astype(float)
            if bent:
                U, _, hits = curved.ascend(U, 0.0, plans, plan, hits)
                plans, plan = [Plan(NEAR, rescale=True)], None
            yield *search.ascend(U, floor, plans, plan, hits), int(np.sum(counted))
        done += size
        if perf_counter() - begin < _SHARE * left():
            size = min(2 * size, most)


def search_widely(X, N, size, rng, *, free_bias, apart=False, **options):
    """`search_units` from `wide_starts`.

    Parameters
    ----------
    X, N, size, rng, free_bias, apart
        As of `wide_starts`.
    **options : dict
        Further ones of `search_units`.

    Returns
    -------
    candidates : Candidates
    """
    starts = wide_starts(X, N, size, rng, free_bias=free_bias, apart=apart)
    return search_units(X, N, starts, free_bias=free_bias, apart=apart, **options)


def merge_candidates(parts, X, apart=False):
    """Distinct candidates of several searches, steepest first.

    Parameters
    ----------
    parts : list of Candidates
    X : ndarray of shape (n_samples, n_features)
    apart : bool, default=False

    Returns
    -------
    candidates : Candidates
        At most 400.
    """
    found = _joined(parts).select(slice(0, 1600))
    keep, group = first_of_each(
        unit_points(found, X),
        np.zeros(len(found)),
        1e-3,
        unit_points(found, X, column_spread(X, apart=True)) if apart else None,
    )
    hits = np.bincount(group, found.hits, minlength=len(keep))
    return replace(found.select(keep), hits=hits).select(slice(0, 400))


def unit_points(candidates, X, spread=None):
    """Unit rows that are parallel if hyperplanes of candidates are the same.

    With the root mean square of each column as `spread` they are so only if the
    outputs are almost parallel too.

    Parameters
    ----------
    candidates : Candidates
    X : ndarray of shape (n_samples, n_features)
    spread : ndarray of shape (n_features,) or None

    Returns
    -------
    points : ndarray of shape (n_candidates, n_features + 1)
    """
    directions, scale = candidates.directions, 1.0
    if spread is None:
        scale = np.sqrt(np.mean(np.sum(X**2, axis=1))) + 1e-300
    else:
        directions = directions * spread
    points = np.column_stack([directions, candidates.biases / scale])
    points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-300)
    return points


def first_of_each(points, kinds, tol, outputs=None):
    """Unit rows that no earlier one of their kind is parallel to.

    If there are unit rows that stand for `outputs`, these have to be parallel too.

    Parameters
    ----------
    points : ndarray of shape (n_points, n_columns)
    kinds : ndarray of shape (n_points,)
    tol : float
        By how much the cosine of parallel rows may be less than one.
    outputs : ndarray of shape (n_points, n_other_columns) or None

    Returns
    -------
    indices : ndarray of int
        Of these rows.
    group : ndarray of shape (n_points,)
        Which of them each row is parallel to.
    """
    close = (points @ points.T > 1.0 - tol) & (kinds[:, None] == kinds)
    if outputs is not None:
        close &= outputs @ outputs.T > 1.0 - tol
    keep = []
    group = np.full(len(points), -1)
    for i in range(len(points)):
        if group[i] < 0:
            group[close[i] & (group < 0)] = len(keep)
            group[i] = len(keep)
            keep.append(i)
    return np.array(keep, dtype=int), group


def along_biases(X, N, directions, negative_slope, floor, most=50):
    """Units of given directions at all biases where they are steepest nearby.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    N : ndarray of shape (n_samples, n_outputs)
        Its columns sum to zero.
    directions : ndarray of shape (n_directions, n_features)
        Unit rows.
    negative_slope : float
    floor : float
        The slope wanted.
    most : int, default=50
        Directions to look at.

    Returns
    -------
    candidates : Candidates
    """
    found = [no_candidates(X, N.shape[1])]
    for u in directions[: max(1, min(most, _BATCH // N.size))]:
        z = X @ u
        order = np.argsort(-z, kind="stable")
        z, weight = z[order, None], N[order]
        parts = np.cumsum(weight * z, axis=0)
        slopes = parts - np.cumsum(weight, axis=0) * z
        slopes = (1.0 - negative_slope) * slopes + negative_slope * parts[-1]
        size = row_norms(slopes)
        before, after = np.append(-np.inf, size[:-1]), np.append(size[1:], -np.inf)
        peaks = np.flatnonzero((size >= before) & (size > after) & (size > floor))
        peaks = peaks[np.argsort(-size[peaks], kind="stable")[:_PEAKS]]
        outputs = slopes[peaks] / size[peaks, None]
        rows = np.repeat(u[None], len(peaks), axis=0)
        found.append(Candidates(rows, -z[peaks, 0], outputs, size[peaks]))
    return _joined(found)


def no_candidates(X, n_columns):
    zeros = np.zeros(0)
    return Candidates(np.zeros((0, X.shape[1])), zeros, np.zeros((0, n_columns)), zeros)


def _joined(parts):
    """All candidates, steepest first."""
    found = Candidates(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS),
        sum(part.n_starts for part in parts),
    )
    return found.select(np.argsort(-found.slopes, kind="stable"))


def _in_step(plans):
    """Stages of plans, which end together: those of all plans at a time, or None."""
    most = max(len(plan.widths) for plan in plans)
    return list(
        zip(*((None,) * (most - len(plan.widths)) + plan.widths for plan in plans))
    )


class SlopeSearch:
    """Slopes of units at a dual point, and the ways up.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    N : ndarray of shape (n_samples, n_outputs)
    free_bias : bool
    negative_slope : float
    apart : bool, default=False
    like : array or None, default=None
        As of `search_units`.
    """

    def __init__(self, X, N, *, free_bias, negative_slope, apart=False, like=None):
        self.X, self.N, self.apart = X, N, apart
        # Where products with all samples are taken.
        self.data = X if like is None else placed(X, like)
        self.free_bias, self.negative_slope = free_bias, negative_slope
        # Numbers in the output weights of a unit.
        self.n_columns = N.shape[1]

    def hill(self):
        """What is climbed."""
        return Hill(self.X, self.N, self.negative_slope, self.data)

    def bent(self, Z, N):
        """Dual variables less what is linear in data of orthogonal columns, if any."""
        Z = Z - Z.mean(axis=0) if self.free_bias else Z
        squares = np.einsum("nd,nd->d", Z, Z)
        some = squares > _NO_SPREAD * squares.max(initial=0.0)
        curved = N - Z[:, some] @ (Z[:, some].T @ N / squares[some, None])
        little = np.linalg.norm(curved) <= _LITTLE * np.linalg.norm(N)
        return N if little else curved

    def outward(self, outputs):
        """Weights of the outputs of samples in the slopes of units, as columns."""
        return self.N @ outputs.T

    def slopes(self, z):
        """``N^T act(z)`` for each column, as rows."""
        a = self.negative_slope
        slopes = np.maximum(z, 0.0).T @ self.N
        return slopes if a == 0 else (1.0 - a) * slopes + a * (z.T @ self.N)

    def anchor(self, U):
        """Sample of each direction at which its output best begins."""
        best = np.empty(len(U), dtype=int)
        a, X, xp = self.negative_slope, self.data, get_namespace(self.data)[0]
        columns = placed(np.ascontiguousarray(self.N.T), X)
        most = _SORTED if in_main_memory(X) else _LARGE_SORTED
        rows = max(1, most // len(self.X))
        for i in range(0, len(U), rows):
            check()
            z = placed(U[i : i + rows], X) @ X.T
            # It takes some times longer to be stable; ties begin on one hyperplane.
            order = xp.argsort(-z, axis=1, stable=False)
            z = xp.take_along_axis(z, order, axis=1)
            squares = xp.zeros_like(z)
            for k in range(columns.shape[0]):
                weight = xp.take(columns[k, :], xp.reshape(order, (-1,)), axis=0)
                weight = xp.reshape(weight, z.shape)
                # The part to the right of each sample; what is left is constant.
                whole = xp.cumulative_sum(weight * z, axis=1)
                parts = whole - xp.cumulative_sum(weight, axis=1) * z
                if a != 0:
                    parts = (1.0 - a) * parts + a * whole[:, -1:]
                parts *= parts
                squares += parts
            steepest = xp.argmax(squares, axis=1, keepdims=True)
            chosen = xp.take_along_axis(order, steepest, axis=1)
            best[i : i + rows] = in_numpy(chosen)[:, 0]
        return best

    def evaluate(self, U, at):
        """Candidates of directions and the samples that they hang on."""
        U = U.astype(np.float64)
        U /= np.linalg.norm(U, axis=1, keepdims=True)
        biases = np.zeros(len(U))
        if self.free_bias:
            biases = -np.einsum("kd,kd->k", self.X[at], U)
        slopes = np.zeros((len(U), self.n_columns))
        for i in range(0, len(U), 500):
            check(2.0 * self.X.size * min(500, len(U) - i))
            some = slice(i, i + 500)
            slopes[some] = self.slopes(self.X @ U[some].T + biases[some])
        sizes = np.linalg.norm(slopes, axis=1)
        return Candidates(U, biases, slopes / np.maximum(sizes, 1e-300)[:, None], sizes)

    def ascend(self, starts, floor, plans, plan=None, hits=None):
        """Directions, samples they hang on, and hits, after the ascent.

        Each start counts as one, or as many as `hits` says.  Those whose plan has few
        stages join when these begin.
        """
        X, dtype = self.X, self.X.dtype
        hits = np.ones(len(starts)) if hits is None else hits.copy()
        plan = np.zeros(len(starts), dtype=int) if plan is None else plan
        hill = self.hill()
        U = (starts / np.linalg.norm(starts, axis=1)[:, None]).astype(dtype)
        spread = column_spread(X, self.free_bias, self.apart)
        hill.spread = spread if self.apart else None
        flat = np.full_like(spread, np.sqrt(np.mean(spread**2)))
        as_data = [self.apart or each.rescale for each in plans]
        spreads = np.where(np.array(as_data)[:, None], spread, flat)
        metrics = (np.min(spreads, axis=1, keepdims=True) / spreads) ** 2
        step = np.full(len(U), 0.5, dtype=dtype)
        at = np.zeros(len(U), dtype=int)
        for stages in _in_step(plans):
            here = np.array([stage is not None for stage in stages])[plan]
            if not np.any(here):
                continue
            width, part, steps = np.array(
                [(0.0, 0.0, 0) if stage is None else stage for stage in stages]
            ).T[:, plan[here]]
            wait, here = np.flatnonzero(~here), np.flatnonzero(here)
            V, kind = U[here], plan[here]
            if self.free_bias:
                at[here] = self.anchor(V)
            width = width.astype(dtype) * row_norms(V * spreads[kind])
            kinks = hill.kinks(width, at[here] if self.free_bias else None)
            hill.metric = metrics[kind]
            begin = np.maximum(step[here], dtype.type(0.05))
            climbed = hill.climb(V, begin, steps.astype(int), kinks)
            U[here], value, hope, step[here] = climbed
            V = U[here]
            keep = np.flatnonzero(np.maximum(value, hope) > part * floor)
            keep = keep[np.argsort(-value[keep], kind="stable")]
            # Most starts climb the same few hills; one climber each is enough.
            kinds = at[here][keep] + len(X) * kind[keep]
            outputs = None
            if self.apart:
                outputs = V[keep] * spread
                outputs /= row_norms(outputs)[:, None]
            first, group = first_of_each(V[keep], kinds, 1e-3, outputs)
            hits_here = np.bincount(group, hits[here][keep], minlength=len(first))
            here = here[keep[first]]
            hits[here] = hits_here
            on = np.concatenate([here, wait])
            U, step, at, plan, hits = U[on], step[on], at[on], plan[on], hits[on]
        return U, at, hits

    def polish(self, candidates, rounds=4):
        """Convex-concave steps with the outputs fixed in each; slopes never fall."""
        U, value = candidates.directions.T.copy(), candidates.slopes.copy()
        outputs = candidates.outputs.copy()
        at = np.zeros(len(value), dtype=int)
        if self.free_bias:
            # The sample the unit hangs on.
            at = np.argmin(np.abs(self.X @ U + candidates.biases), axis=0)
        # Those that a step does not move it will not move again.
        live = np.arange(len(value))
        for _ in range(rounds):
            outward, hooks = self.outward(outputs[live]), at[live]
            trial = concave_step(
                self.X, outward, U[:, live], hooks, self.negative_slope, self.free_bias
            )
            z = self.X @ trial
            if self.free_bias:
                z -= z[hooks, np.arange(len(hooks))]
            slopes = self.slopes(z)
            found = np.linalg.norm(slopes, axis=1)
            better = found > value[live]
            live = live[better]
            if len(live) == 0:
                break
            U[:, live], value[live] = trial[:, better], found[better]
            outputs[live] = slopes[better] / found[better, None]
        biases = candidates.biases
        if self.free_bias:
            biases = -np.einsum("kd,dk->k", self.X[at], U)
        return replace(
            candidates, directions=U.T, biases=biases, outputs=outputs, slopes=value
        )
