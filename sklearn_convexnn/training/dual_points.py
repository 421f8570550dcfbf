"""Dual points of column generation: the searches there, and the bounds they give."""

from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from sklearn_convexnn._utils.breakdown import check_finite
from sklearn_convexnn._utils.deadlines import (
    OutOfTime,
    check,
    fits,
    left,
    seconds,
    until,
)
from sklearn_convexnn.families.unseen import Unseen

GLANCE, SHORT, THOROUGH, BRIEF, CLAIM = range(5)
"""Efforts of a search: for a first bound, in a round, at a dual point that is to be the
best for long, and before a bound is believed, at first and if a longer search is worth
its time."""

PART = 0.2
"""Part of a long search that a brief one is."""

# Dual points that are kept, since later neurons may prove the best one wrong.
_DUAL_POINTS = 5
# Part of a gap that rounds may still close; the rest allows for neurons that a search
# has not seen.
_LEFT = 0.15
# The part for a longer search in the end.
_UNSEEN = 0.5
# Part of the objective without neurons by which a bound may be above a network.
_AGREES = 1e-6
# Part of the time that is kept for a long search, and of the time left that one takes.
_LAST, _SEARCHING = 0.15, 0.5
# Random directions of the first search, and of others at least; how much longer a
# direction takes with the other starts of a long one.
_PER_NEURON = 3
_FIRST_SEARCH, _FEWEST, _THOROUGH_PACE = 25, 75, 2.0
# Part of the climbs that end at hills of their own from which on many are missing.
_MANY = 0.1
# Searches that come before a long one which would probably open the gap.
_POSTPONED = 2
# Outputs (samples times neurons) of the neurons that the search remembers.
_ARCHIVE = 4_000_000


@dataclass
class _DualPoint:
    """A dual point, the steepest slope known there, and the bound it gives.

    What the longest search there, from so many starts, has not seen, and whether that
    are many hills.  Whether a long one has confirmed the slope; one by norms needs
    none.  Whether a longer one has.
    """

    nu: np.ndarray
    kappa: float
    bound: float
    confirmed: bool = False
    settled: bool = False
    by_norms: bool = False
    unseen: Unseen | None = None
    n_starts: int = 0
    misses_many: bool = False

    @property
    def corrected(self):
        """The slope that no neuron is expected to have."""
        return self.kappa if self.unseen is None else self.unseen.allow(self.kappa)

    @property
    def caution(self):
        """How many times the slope that is known is allowed for."""
        return 1.0 if self.unseen is None else self.corrected / self.kappa


class Pricing:
    """Dual points of the networks so far, with the neurons that are steep there.

    Parameters
    ----------
    problem : Problem
    rng : RandomState
    limits : Limits

    Attributes
    ----------
    best : Network
    objective : float
        Its objective.
    pool, archive, cuts : Network
        Neurons to select from, those that once were steep, and those that rule out
        dual points.
    duals : list
        Dual points, that of the best bound first.
    """

    # Whether searches tell how many starts they have made, and see some samples only.
    counts_starts = sees_some = False
    # Whether neurons were known.
    warm = False
    # Whether a proof that needs no estimate is to follow.
    to_be_proven = False
    # Neurons that are kept to rule out dual points.
    most_cuts = 500
    # Random directions of a search for which there is little time.
    fewest = _FEWEST

    def __init__(self, problem, rng, limits):
        self.problem, self.rng = problem, rng
        self.tol, self.brief = limits.tol, limits.brief
        self.keep_time(limits.deadline)
        self.best = problem.null()
        self.objective = self.null_objective = problem.objective(self.best)
        self.pool = self.archive = self.cuts = self.best
        self.duals = []
        self.last_kappa = np.nan
        # By how much the last long search has corrected a slope, as a factor.
        self.caution = 1.0
        # Searches so far, and how many there had been when the gap was closed first.
        self.n_searches, self.closed_since = 0, None
        # Seconds of a search for each random direction.
        self.pace = seconds(problem.family.search_work(problem.n_outputs))

    def keep_time(self, end):
        """Keep a part of the time until `end` for a long search."""
        self.end = self.deadline = end
        if end < np.inf:
            self.deadline -= _LAST * (end - perf_counter())

    @property
    def bound(self):
        """The best lower bound, as far as the search goes."""
        return self.duals[0].bound if self.duals else -np.inf

    @property
    def gap(self):
        return self.objective - self.bound

    @property
    def closed(self):
        return self.closes(self.bound)

    def closes(self, bound):
        """Whether a lower bound is as close to the best network as is asked for."""
        gap = self.objective - bound
        return gap <= max(self.tol * self.objective, 1e-12 * self.null_objective)

    def seen(self, point):
        """The bound of a dual point that allows for no more than has been seen."""
        return self.problem.bound(point.nu, point.kappa)

    @property
    def claims(self):
        """The efforts of a search before a bound is believed, and of a longer one."""
        return (THOROUGH, THOROUGH) if self.to_be_proven else (BRIEF, CLAIM)

    def search(self, N, effort, **options):
        """Units that are steep at a dual point, as candidates."""
        p = self.problem
        return p.family.search(
            N,
            self.search_size(effort, p.n_outputs),
            self.rng,
            # A shorter search has started from those that are known.
            known=None if effort == CLAIM else self.pool.units,
            seen=self.archive.units,
            thorough=effort > SHORT,
            floor=p.alpha,
            **options,
        )

    def know(self, points):
        """Take dual points of which the steepest slopes are known."""
        for point in points:
            bound = self.problem.bound(point.nu, point.kappa)
            self.duals.append(_DualPoint(point.nu, point.kappa, bound, True))
        self.sort_duals()

    def sort_duals(self):
        """That of the best bound first."""
        self.duals.sort(key=lambda point: -point.bound)

    def price(self, nu, effort=SHORT):
        """Search at a dual point, for its bound and for neurons to add."""
        p = self.problem
        check_finite(nu)
        start, size = perf_counter(), self.search_size(effort, p.n_outputs)
        claimed = effort in self.claims and not self.is_first()
        found = self.search(nu, effort)
        self.n_searches += 1
        if effort != GLANCE:
            self.pace = (perf_counter() - start) / size / self._relative_pace(effort)
        here = next((point for point in self.duals if point.nu is nu), None)
        allowed_before = np.inf if here is None else here.corrected
        neurons = p.unused(found.units)
        self._remember(neurons)
        # Candidates well below alpha are not even reported.
        slopes = np.append(found.slopes, p.family.slopes(self.archive.units, nu))
        kappa = float(slopes.max(initial=p.alpha))
        if p.fit_intercept:
            slope, units = p.family.linear(nu, p.alpha)
            kappa = float(np.maximum(kappa, slope))
            self.pool = self.pool.joined(p.unused(units))
        self.last_kappa = kappa
        if here is None:
            here = _DualPoint(nu, kappa, -np.inf)
            self.duals.append(here)
        # A shorter search says no more, unless it proves the longer one wrong.
        if found.n_starts >= here.n_starts or kappa > allowed_before:
            self._allow(here, kappa, found)
        if claimed and fits():
            here.confirmed = True
            self.caution = here.caution
        self.rate_all()
        del self.duals[_DUAL_POINTS:]
        new = neurons.select(found.slopes > p.alpha * (1.0 + 1e-9))
        new = new.select(slice(0, 200))
        self.pool = self.pool.joined(new)
        if p.family.apart or not p.loss.smooth:
            # Many dual points fit a network, or almost, and those that are known to
            # be bad come back unless neurons of no use rule them out.
            self.cuts = self.cuts.joined(new).select(slice(-self.most_cuts, None))

    def _allow(self, point, kappa, found):
        """Note what a search at a dual point has not seen beyond `kappa`."""
        alpha = self.problem.alpha
        tail = found.allow_for_unseen(kappa, self.tol) / kappa
        missing = found.missing if self.counts_starts else 0.0
        # Where nothing is steep a longer search is of no use.
        point.misses_many = missing > _MANY and kappa > alpha and not self.sees_some
        short = self.is_short(found.n_starts, point.misses_many)
        few = found.n_starts if short else np.inf
        missing = 1.0 if self.sees_some else missing
        point.unseen = Unseen(alpha, tail, missing, few)
        point.n_starts = found.n_starts

    def _remember(self, neurons):
        """Keep what was steep somewhere, and what it says of known dual points."""
        self.archive = self.archive.joined(neurons)
        most = int(np.clip(_ARCHIVE // len(self.problem.X), 200, 4000))
        self.archive = self.archive.select(slice(-most, None))
        for point in self.duals:
            slopes = self.problem.family.slopes(neurons.units, point.nu)
            # Of NumPy: what is not a number is to be seen in the bound.
            point.kappa = float(np.maximum(point.kappa, slopes.max(initial=0.0)))

    def is_first(self):
        """Whether a search is the first one, and not of a network just trained."""
        return not self.duals and (self.warm or len(self.best) == 0)

    def is_short(self, n_starts, misses_many):
        """Whether a search has been cut short.

        It has fewer starts than one before a claim, a long one if many hills are
        missing.
        """
        if not self.counts_starts or self.deadline == np.inf:
            return False
        return n_starts < self.starts_of(CLAIM if misses_many else BRIEF)

    def starts_of(self, effort):
        """How many random starts a search has at least that no limit cuts short."""
        return self.full_size(effort, self.problem.n_outputs)

    @staticmethod
    def _relative_pace(effort):
        """How much longer a direction takes than in a round."""
        return _THOROUGH_PACE if effort in (THOROUGH, BRIEF) else 1.0

    def search_size(self, effort, n_outputs):
        """How many random directions to search from, in the time that is left."""
        size = self.full_size(effort, n_outputs)
        if self.deadline < np.inf and self.pace > 0:
            # A few that come to an end are worth more than many that do not.
            end = self.end if effort >= BRIEF else self.deadline
            rest = min(end - perf_counter(), left())
            pace = self.pace * self._relative_pace(effort)
            size = np.clip(_SEARCHING * rest / pace, min(self.fewest, size), size)
        return int(size)

    def full_size(self, effort, n_outputs):
        """How many random directions to search from.

        There are more hills to find where the network needs more neurons.
        """
        if self.is_first() or effort == GLANCE:
            # Whether there is anything to train, and a first few neurons.
            return _FIRST_SEARCH
        family = self.problem.family
        most = max(family.most_starts(n_outputs), _FEWEST)
        size = np.clip(_PER_NEURON * len(self.best), _FEWEST, most)
        if effort > SHORT:
            # The smaller the gap that is claimed, the longer the search.
            size = size * np.clip(2.0 ** (-np.log10(self.tol) - 1.0), 2, 32)
        if effort >= BRIEF:
            size = max(size, family.starts_of_claim(n_outputs))
        if effort == BRIEF:
            size = max(PART * size, _FEWEST)
        return int(size)

    def dual_of_best(self):
        """The dual point of the best network."""
        return self.problem.dual_point(self.problem.outputs(self.best))

    def price_by_norms(self, nu):
        """A dual point whose bound takes no search."""
        self.last_kappa = kappa = self.slope_limit(nu)
        bound = self.problem.bound(nu, kappa)
        self.duals.append(_DualPoint(nu, kappa, bound, confirmed=True, by_norms=True))

    def slope_limit(self, N):
        """Proven bound of the slopes at a dual point that takes no search."""
        return self.problem.family.upper_slope(N)

    def trivial(self):
        """The dual point that needs no search, in place of none."""
        nu = np.zeros(np.shape(self.problem.outputs(self.best)))
        point = _DualPoint(nu, 0.0, self.problem.bound(nu, 0.0), True)
        self.duals = [point]
        return point

    def rate(self, point, final=False):
        """Find the bound that a dual point gives.

        Without a long search it is corrected as the last one was, or in the end by
        what its own search tells.
        """
        kappa = point.kappa
        if not self.to_be_proven:
            if final or point.confirmed:
                kappa = point.corrected
            elif not point.by_norms:
                kappa = kappa * self.caution
        point.bound = self.problem.bound(point.nu, kappa)

    def rate_all(self, final=False):
        """Find the bounds of all dual points, and sort these by them."""
        for point in self.duals:
            self.rate(point, final)
        self.sort_duals()

    def refute(self):
        """Give up dual points whose bounds are above a network that is known.

        The search has missed what is steep there.
        """
        least = (1.0 + _AGREES) * self.objective + 1e-12 * self.null_objective
        for point in self.duals:
            if point.bound > least:
                point.kappa = np.inf
                self.rate(point)
        self.sort_duals()

    def confirm(self, at_once=False):
        """Whether the gap stays closed after a long search at the dual point.

        Where a short search tells that it will not, some more searches come first,
        unless it is wanted at once: rounds that close more of the gap cost less.
        """
        while self.closed:
            point = self.duals[0]
            if point.confirmed:
                return True
            if self.closed_since is None:
                self.closed_since = self.n_searches
            waits = self.n_searches - self.closed_since < _POSTPONED
            corrected = self.problem.bound(point.nu, point.corrected)
            if waits and not at_once and not self.closes(corrected):
                return False
            check()
            self.search_long(point)
            self.closed_since = None
        return False

    def search_long(self, point, most=_LEFT):
        """Search before a bound is believed, and longer where that may raise it.

        What is easy to refute takes a brief search only: a longer one follows if what
        has been seen closes the gap, or leaves at most a part of it, and if many hills
        are missing where the gap is closed.
        """
        brief, longer = self.claims
        if not point.confirmed:
            self.price(point.nu, brief)
        if self._is_worth_longer(point, most) or self._may_be_wrong(point):
            self.price(point.nu, longer)
            point.settled = True

    def _is_worth_longer(self, point, most):
        """Whether a search that is not brief may raise the bound of a dual point."""
        if self.closed or self._is_final(point):
            return False
        left = self.objective - self.seen(point)
        return self.closes(self.seen(point)) or left <= most * self.gap

    def _may_be_wrong(self, point):
        """Whether a dual point that closes the gap needs a search that is not brief."""
        final = self.to_be_proven or self._is_final(point)
        return self.closed and point.misses_many and not final

    def _is_final(self, point):
        """Whether a longer search tells no more of a dual point than the last one."""
        # What climbs end short of the tops does not depend on their number.
        exhausted = not point.misses_many and point.caution <= 1.0 + 0.1 * self.tol
        told = self.brief or exhausted
        return point.confirmed and (point.settled or told)

    def settled(self):
        """Whether most of the gap is what a long search may not have seen."""
        while self.duals and self.caution > 1.0:
            point = max(self.duals, key=self.seen)
            if self.closed or self.objective - self.seen(point) > _LEFT * self.gap:
                break
            if self._is_final(point):
                # Better networks have less to allow for.
                return self.gap - self._stays(point) <= _LEFT * self.gap
            self.search_long(point)
        return False

    def _stays(self, point):
        """What of a gap stays where no neuron that is known is steeper than `alpha`."""
        p = self.problem
        allowed = p.alpha if point.unseen is None else point.unseen.allow(p.alpha)
        return p.bound(point.nu, p.alpha) - p.bound(point.nu, allowed)

    def conclude(self):
        """Look again at the dual points whose bounds are to be told.

        Whatever ended the rounds, as far as there is time.
        """
        with suppress(OutOfTime), until(self.end):
            if not self.duals or self.duals[0].by_norms:
                # Any search is worth more.
                self.price(self.dual_of_best())
            while True:
                self.rate_all(final=True)
                best = self.duals[0]
                if best.confirmed and not self._is_worth_longer(best, _UNSEEN):
                    break
                self.search_long(best, _UNSEEN)
        if not self.duals:
            self.price_by_norms(self.dual_of_best())
        # The last search may have been cut short.
        self.rate_all(final=True)
        self.refute()
