"""The rounds of column generation, whatever the neurons are."""

from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from sklearn_convexnn._utils.breakdown import BREAKDOWNS, check_finite, unless_broken
from sklearn_convexnn._utils.deadlines import (
    OutOfTime,
    check,
    fits,
    left,
    seconds,
    until,
)
from sklearn_convexnn.families.base import FEW_SAMPLES
from sklearn_convexnn.families.unseen import TELLING, UNTOLD
from sklearn_convexnn.model.results import MESSAGES, Record

GLANCE, SHORT, THOROUGH, CLAIM = range(4)
"""Efforts of a search: for a first bound, in a round, at a dual point that is to be the
best for long, and before a bound is believed."""
# Dual points that are kept, since later neurons may prove the best one wrong.
_DUAL_POINTS = 5
# Rounds without a smaller gap after which nothing more is to be expected.
_PATIENCE = 25
# With scales far apart, training goes on while so many rounds bring the gap or the
# objective down to the first part, or raise the bound as by the second one, or the gap
# is a small part of the objective.
_WINDOW, _FALLS, _RISES, _CLOSE = 4, 0.5, 0.5, 0.03
# Rounds in a row that may break down; another one draws other starting points.
_BREAKDOWNS = 2
# Part of a gap that rounds may still close; the rest allows for neurons that a search
# has not seen.
_LEFT = 0.15
# The part for a longer search in the end.
_UNSEEN = 0.5
# Part of the objective without neurons by which a bound may be above a network.
_AGREES = 1e-6
# Parts of the time left that the first pricing and each descent may take: a network
# is worth more with a bound.
_FIRST_PRICING, _DESCENT = 0.2, 0.5
# Entries of the data, for each output, up to which a look at a bound comes before a
# network is trained; and up to which it comes, for few samples, soon after.
_LOOK_FIRST, _LOOK = 5_000, 100_000
# Part of the time that is kept for a long search, and of the time left that one takes.
_LAST, _SEARCHING = 0.15, 0.5
# Part of a long search that comes first, and is enough if it has seen all, or where
# bounds are not worth more.
_BRIEF = 0.2
# Random directions of the first search, and of others at least; how much longer a
# direction takes with the other starts of a long one.
_PER_NEURON = 3
_FIRST_SEARCH, _FEWEST, _THOROUGH_PACE = 25, 75, 2.0
# Outputs (samples times neurons) of the neurons that the search remembers.
_ARCHIVE = 4_000_000


@dataclass
class _DualPoint:
    """A dual point, the steepest slope known there, and the bound it gives.

    How many times the slope the longest search there, from so many starts, allows for,
    with what it has not seen.  Whether a long one has confirmed the slope; one by norms
    needs none.  Whether no longer one is to come.
    """

    nu: np.ndarray
    kappa: float
    bound: float
    confirmed: bool = False
    settled: bool = False
    by_norms: bool = False
    caution: float = 1.0
    n_starts: int = 0

    @property
    def corrected(self):
        """The slope that no neuron is expected to have."""
        return self.kappa * self.caution


def _slow(objectives, bounds):
    """Whether neither gap nor objective fall as fast as they should, or bounds rise.

    Parameters
    ----------
    objectives, bounds : list of float
        Of the rounds so far.
    """
    if len(bounds) <= _WINDOW:
        return False
    high, low = objectives[-1 - _WINDOW], bounds[-1 - _WINDOW]
    objective, bound = objectives[-1], bounds[-1]
    if objective - bound < max(_CLOSE * objective, _FALLS * (high - low)):
        return False
    # Far from the objective a bound can rise by much, and the gap fall by little.
    return objective > _FALLS * high and low > _RISES * bound


class Generation:
    """State of column generation: pool of neurons, best network, best bounds.

    Subclasses say how neurons are placed, improved by descent, selected, moved
    and searched for.

    Parameters
    ----------
    problem : Problem
    rng : RandomState
    limits : Limits
    """

    def __init__(self, problem, rng, limits):
        self.problem, self.rng = problem, rng
        self.tol, self.brief = limits.tol, limits.brief
        self.keep_time(limits.deadline)
        self.max_iter, most = limits.max_iter, limits.max_neurons
        self.max_neurons = np.inf if most is None else most
        self.best = problem.null()
        self.objective = self.null_objective = problem.objective(self.best)
        self.pool = self.archive = self.cuts = self.best
        # The descent that places neurons, as long as it goes on, and where it has come.
        self.placing, self.placing_ends, self.placed = None, np.inf, self.best
        self.duals = []
        self.last_kappa = np.nan
        self.broken = 0
        # By how much the last long search has corrected a slope, as a factor.
        self.caution = 1.0
        # Part of a long search to make.
        self.part = 1.0
        # Seconds of a search for each random direction.
        self.pace = seconds(problem.family.search_work(problem.n_outputs))

    # Whether there is time for a few directions only.
    hurried = False
    # Whether searches tell how many starts they have made.
    counts_starts = False
    # Whether neurons were known, and a first bound has been looked for.
    warm = looked = False
    # Whether known neurons are a network of those that the bound is for.
    keeps_known = True
    # Whether a proof that needs no estimate is to follow.
    to_be_proven = False
    # Neurons that are kept to rule out dual points.
    most_cuts = 500
    # Part of the time that the descent which places neurons may take.
    placing_share = _DESCENT
    # Networks to train from random neurons when their number is limited.
    n_narrow = 5

    def keep_time(self, end):
        """Keep a part of the time until `end` for a long search."""
        self.end = self.deadline = end
        if end < np.inf:
            self.deadline -= _LAST * (end - perf_counter())

    def place(self, n_neurons):
        """Neurons from a short descent."""
        raise NotImplementedError

    def bursts(self, n_neurons):
        """A descent that goes on as long as it pays; yields when it can wait."""
        self.note(self.place(n_neurons))
        yield

    def improve(self, neurons):
        """The network after a descent."""
        raise NotImplementedError

    def round(self):
        """Select, or select and move; then price.

        Returns
        -------
        blocks : int
            Of the program of the round, for the history.
        limited : bool
            Whether the limit of neurons was hit.
        """
        raise NotImplementedError

    def search(self, N, effort, **options):
        """Units that are steep at a dual point, as candidates."""
        p = self.problem
        return p.family.search(
            N,
            self.search_size(effort, p.n_outputs),
            self.rng,
            known=self.pool.units,
            seen=self.archive.units,
            thorough=effort > SHORT,
            floor=p.alpha,
            **options,
        )

    @property
    def claim(self):
        """The effort of a search before a bound is believed."""
        return THOROUGH if self.to_be_proven else CLAIM

    @property
    def bound(self):
        """The best lower bound, as far as the search goes."""
        return self.duals[0].bound if self.duals else -np.inf

    @property
    def closed(self):
        return self.closes(self.bound)

    def closes(self, bound):
        """Whether a lower bound is as close to the best network as is asked for."""
        gap = self.objective - bound
        return gap <= max(self.tol * self.objective, 1e-12 * self.null_objective)

    @property
    def gap(self):
        return self.objective - self.bound

    def solve(self, n_neurons, known, duals, callback, task):
        """Place neurons, then go round by round until the gap is closed.

        Known neurons take the place of those that would be placed.

        Parameters
        ----------
        n_neurons : int
        known : neurons or None
            Of magnitude zero where no network has them.
        duals : sequence of DualPoint
            Dual points that are known, of which the steepest slopes are.
        callback : callable or None
        task : FitTask

        Returns
        -------
        result : GlobalResult
        """
        self.record = record = Record(callback)
        self.warm = known is not None and len(known) > 0
        for point in duals:
            bound = self.problem.bound(point.nu, point.kappa)
            self.duals.append(_DualPoint(point.nu, point.kappa, bound, True))
        self.duals.sort(key=lambda point: -point.bound)
        status = unless_broken(None, self._start, n_neurons, known)
        n_iter, waited, blocks, objectives, bounds = 0, 0, 0, [], []
        last_gap, last_objective = np.inf, np.inf
        while True:
            if status is None and n_iter < self.max_iter:
                round_task = task.subtask("round").begin()
                blocks, status = self._whole_round(blocks)
                stop = round_task.end(self.best)
                n_iter += 1
                gap = self.gap
                # Bounds that a longer search corrects hide the progress of networks.
                gained = last_objective - self.objective > 0.01 * gap
                gained |= gap < 0.99 * last_gap
                waited = 0 if gained else waited + 1
                if self.placing is None:
                    objectives.append(self.objective)
                    bounds.append(self.bound)
                last_gap, last_objective = min(gap, last_gap), self.objective
                if status is not None:
                    pass
                elif perf_counter() > self.deadline:
                    status = "max_time"
                elif stop:
                    status = "callback"
                elif self.problem.family.far_apart and _slow(objectives, bounds):
                    status = "scales"
                elif self.broken == _BREAKDOWNS:
                    status = "breakdown"
                elif waited > _PATIENCE:
                    status = "stalled"
            elif status is None:
                status = "max_iter"
            if status not in (None, "optimal"):
                try:
                    with np.errstate(all="ignore"):
                        self.conclude()
                except BREAKDOWNS:
                    # What was to be looked at again is not to be relied on.
                    self.duals = [point for point in self.duals if point.confirmed]
                if self.closed:
                    confirmed = self.duals[0].confirmed
                    status = "optimal" if confirmed else "unconfirmed"
            record.add(self, n_iter, blocks)
            if status is not None:
                break
        best = self.duals[0] if self.duals else self.trivial()
        slopes = best.kappa, best.corrected
        return record.result(self, best.nu, slopes, MESSAGES[status], status, n_iter)

    def _start(self, n_neurons, known):
        """The first neurons; the status if none are needed."""
        if self.warm:
            self.pool = self.best.joined(known)
            if self.keeps_known:
                with suppress(OutOfTime):
                    self.keep(self.problem.with_best_offset(self.pool))
            return None
        if self._work_of_a_look() <= _LOOK_FIRST and self._needs_no_neurons():
            return "optimal"
        if self.max_neurons < np.inf and self.deadline < np.inf:
            # There may be no time to go from many neurons to few.
            with until(self.before_pricing()):
                placed = self.place(int(self.max_neurons))
                # It may have been cut short.
                self.keep(self.problem.with_best_offset(placed))
        self.placing = self.bursts(n_neurons)
        self.placing_ends = self.before_pricing(self.placing_share)
        return None

    def _work_of_a_look(self):
        return self.problem.X.size * self.problem.n_outputs

    def _needs_no_neurons(self):
        """Whether the gap is closed before anything is trained."""
        nu = self.problem.null_dual()
        try:
            now = perf_counter()
            with until(now + _FIRST_PRICING * (self.deadline - now)):
                self.price(nu)
                return self.closed and self.confirm()
        except OutOfTime:
            if not self.duals:
                self._price_by_norms(nu)
        return False

    def _burst(self):
        """Go on with the descent that places neurons; whether that was of use."""
        if self.placing is None:
            return False
        with suppress(OutOfTime), until(self.placing_ends):
            for _ in self.placing:
                self.keep(self.problem.with_best_offset(self.best))
                return True
        self.keep(self.problem.with_best_offset(self.best))
        self.pool, self.placing = self.pool.joined(self.placed), None
        return False

    def _look_early(self):
        """Whether the gap is closed after the first burst, where a look is cheap."""
        large = self._work_of_a_look() > _LOOK or len(self.problem.X) > FEW_SAMPLES
        if self.looked or large:
            return False
        self.looked = True
        self.price(self._dual_of_best(), GLANCE)
        self.record.note(self)
        return self.closed

    def note(self, network):
        """Keep a network that a descent has come to, if it is the best one.

        Returns
        -------
        value : float
            Its objective.
        """
        # The offset has been moved as well: to find the best one takes longer.
        value = self.problem.objective(network)
        better = self.keep(network, value)
        if better:
            self.record.note(self)
        if better or len(network) > self.max_neurons:
            self.placed = network
        return value

    def before_pricing(self, share=_DESCENT):
        """The time at which to stop what leads to a dual point that is to be priced."""
        now = perf_counter()
        return now + share * (self.deadline - now)

    def _whole_round(self, blocks):
        """A round, and a longer search if it has closed the gap.

        Returns
        -------
        blocks : int
            Those of the round before if there was no time.
        status : str or None
            What ends the rounds.
        """
        status = None
        try:
            with np.errstate(all="ignore"), until(self.deadline):
                check()
                if self._burst():
                    if self._look_early() and self.confirm():
                        status = "optimal"
                    blocks = len(self.placed)
                else:
                    blocks, status = self._priced_round()
            self.broken = 0
        except BREAKDOWNS:
            self.broken += 1
            self.pool = self.best
        except OutOfTime:
            # What has not been searched to the end counts as not searched.
            status = "max_time"
            if not self.duals:
                self._price_by_norms(self._dual_of_best())
        self.refute()
        if status == "optimal" and not self.closed:
            status = None
        return blocks, status

    def _priced_round(self):
        """A round, as `_whole_round` has it."""
        if len(self.pool) == 0:
            # Neither a search nor a descent has found anything.
            self.price(self._dual_of_best())
        blocks, limited = self.round()
        if self.closed and self.confirm():
            # Selected neurons have not been moved; it costs little.
            self.keep(self.improve(self.best))
            return blocks, "optimal"
        if limited:
            return blocks, "max_neurons"
        return blocks, "unseen" if self._settled() else None

    def _dual_of_best(self):
        """The dual point of the best network."""
        return self.problem.dual_point(self.problem.outputs(self.best))

    def _price_by_norms(self, nu):
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

    def _settled(self):
        """Whether most of the gap is what a long search may not have seen."""
        while self.duals and self.caution > 1.0:
            point = max(self.duals, key=self.seen)
            if self.closed or self.objective - self.seen(point) > _LEFT * self.gap:
                break
            if point.settled:
                return True
            self.search_long(point)
        return False

    def conclude(self):
        """Look again at the dual points whose bounds are to be told.

        Whatever ended the rounds, as far as there is time.
        """
        with suppress(OutOfTime), until(self.end):
            if not self.duals or self.duals[0].by_norms:
                # Any search is worth more.
                self.price(self._dual_of_best())
            while True:
                self.rate_all(final=True)
                best = self.duals[0]
                if best.confirmed and not self._is_worth_longer(best, _UNSEEN):
                    break
                self.search_long(best, _UNSEEN)
        if not self.duals:
            self._price_by_norms(self._dual_of_best())
        # The last search may have been cut short.
        self.rate_all(final=True)
        self.refute()

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
        self.duals.sort(key=lambda point: -point.bound)

    def refute(self):
        """Give up dual points whose bounds are above a network that is known.

        The search has missed what is steep there.
        """
        least = (1.0 + _AGREES) * self.objective + 1e-12 * self.null_objective
        for point in self.duals:
            if point.bound > least:
                point.kappa = np.inf
                self.rate(point)
        self.duals.sort(key=lambda point: -point.bound)

    def confirm(self):
        """Whether the gap stays closed after a long search at the dual point."""
        while self.closed:
            point = self.duals[0]
            if point.confirmed:
                return True
            check()
            self.search_long(point)
        return False

    def search_long(self, point, most=_LEFT):
        """Search before a bound is believed, and longer where that may raise it.

        What is easy to refute takes a brief search only: a longer one follows if what
        has been seen closes the gap, or leaves at most a part of it.
        """
        if not point.confirmed:
            self.part = _BRIEF
            self.price(point.nu, self.claim)
            self.part = 1.0
        if self._is_worth_longer(point, most):
            self.price(point.nu, self.claim)
            point.settled = True

    def _is_worth_longer(self, point, most):
        """Whether a search that is not brief may raise the bound of a dual point."""
        if self.closed or point.settled:
            return False
        # What climbs end short of the tops does not depend on their number.
        if self.brief or point.caution <= 1.0 + 0.1 * self.tol:
            point.settled = True
            return False
        left = self.objective - self.seen(point)
        return self.closes(self.seen(point)) or left <= most * self.gap

    def seen(self, point):
        """The bound of a dual point that allows for no more than has been seen."""
        return self.problem.bound(point.nu, point.kappa)

    def keep(self, neurons, value=None):
        """Take a network for the best one if it is; whether it is.

        Parameters
        ----------
        neurons : Network
        value : float or None
            Its objective, if it is known.
        """
        value = self.problem.objective(neurons) if value is None else value
        # Not if it is not a number.
        better = value < self.objective and len(neurons) <= self.max_neurons
        if better:
            self.best, self.objective = neurons, value
        return better

    def has_failed(self, solution):
        """Whether a selection ended too early to be of use, and a network is better."""
        left = solution.objective - solution.dual_bound
        short = left > 1e-3 * abs(solution.objective)
        return short and solution.objective > self.objective

    def within_limit(self, neurons):
        """As many neurons as are allowed, moved to where they are best."""
        while len(neurons) > self.max_neurons:
            # Little by little: those that stay take over from those that go.
            count = max(self.max_neurons, int(0.8 * len(neurons)))
            order = np.argsort(-neurons.sizes, kind="stable")
            neurons = self.improve(neurons.select(np.sort(order[:count])))
        self.keep(neurons)
        # Of few neurons, those that are left can be a poor choice.
        for _ in range(self.n_narrow):
            check()
            self.keep(self.place(self.max_neurons))
        return neurons

    def price(self, nu, effort=SHORT):
        """Search at a dual point, for its bound and for neurons to add."""
        p = self.problem
        check_finite(nu)
        self.hurried = False
        start, size = perf_counter(), self.search_size(effort, p.n_outputs)
        claimed = effort == self.claim and not self._is_first()
        found = self.search(nu, effort)
        if effort == SHORT:
            self.pace = (perf_counter() - start) / size
        neurons = self.problem.unused(found.units)
        self.archive = self.archive.joined(neurons)
        most = int(np.clip(_ARCHIVE // len(p.X), 200, 4000))
        self.archive = self.archive.select(slice(-most, None))
        for point in self.duals:
            slopes = p.family.slopes(neurons.units, point.nu)
            # Of NumPy: what is not a number is to be seen in the bound.
            point.kappa = float(np.maximum(point.kappa, slopes.max(initial=0.0)))
        # Candidates well below alpha are not even reported.
        slopes = np.append(found.slopes, p.family.slopes(self.archive.units, nu))
        kappa = float(slopes.max(initial=p.alpha))
        straight = None
        if p.fit_intercept:
            slope, units = p.family.linear(nu, p.alpha)
            straight = p.unused(units)
            kappa = float(np.maximum(kappa, slope))
        self.last_kappa = kappa
        here = next((point for point in self.duals if point.nu is nu), None)
        if here is None:
            here = _DualPoint(nu, kappa, -np.inf)
            self.duals.append(here)
        if found.n_starts >= here.n_starts:
            allowed = found.allow_for_unseen(kappa, self.tol)
            timed = self.counts_starts and self.deadline < np.inf
            if timed and (self.hurried or found.n_starts < min(TELLING, size)):
                allowed = UNTOLD * kappa
            here.caution, here.n_starts = allowed / kappa, found.n_starts
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
        if straight is not None:
            self.pool = self.pool.joined(straight)

    def _is_first(self):
        """Whether a search is the first one, and not of a network just trained."""
        return not self.duals and (self.warm or len(self.best) == 0)

    def search_size(self, effort, n_outputs):
        """How many random directions to search from.

        There are more hills to find where the network needs more neurons.
        """
        if self._is_first() or effort == GLANCE:
            # Whether there is anything to train, and a first few neurons.
            return _FIRST_SEARCH
        family = self.problem.family
        most = max(family.most_starts(n_outputs), _FEWEST)
        size = np.clip(_PER_NEURON * len(self.best), _FEWEST, most)
        if effort > SHORT:
            # The smaller the gap that is claimed, the longer the search.
            size = size * np.clip(2.0 ** (-np.log10(self.tol) - 1.0), 2, 32)
        if effort == CLAIM:
            size = max(size, family.starts_of_claim(n_outputs))
            size = max(self.part * size, _FEWEST)
        return self.size_in_time(size, effort, _FEWEST)

    def size_in_time(self, size, effort, least):
        """As many directions as there is time for, between `least` and `size`."""
        if self.deadline < np.inf and self.pace > 0:
            # A few that come to an end are worth more than many that do not.
            end = self.end if effort == CLAIM else self.deadline
            rest = min(end - perf_counter(), left())
            pace = self.pace * (_THOROUGH_PACE if effort > SHORT else 1.0)
            wanted = size
            size = np.clip(_SEARCHING * rest / pace, min(least, wanted), wanted)
            self.hurried |= size < min(TELLING, wanted)
        return int(size)
