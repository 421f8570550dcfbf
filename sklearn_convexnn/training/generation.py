"""The rounds of column generation, whatever the neurons are."""

from contextlib import suppress
from time import perf_counter

import numpy as np

from sklearn_convexnn._utils.breakdown import BREAKDOWNS, unless_broken
from sklearn_convexnn._utils.deadlines import OutOfTime, check, until
from sklearn_convexnn.model.results import MESSAGES, Record
from sklearn_convexnn.model.settings import FEW_SAMPLES
from sklearn_convexnn.training.dual_points import GLANCE, Pricing

# Rounds without a smaller gap after which nothing more is to be expected.
_PATIENCE = 25
# With scales far apart, training goes on while so many rounds bring the gap or the
# objective down to the first part, or raise the bound as by the second one, or the gap
# is a small part of the objective.
_WINDOW, _FALLS, _RISES, _CLOSE = 4, 0.5, 0.5, 0.03
# Rounds in a row that may break down; another one draws other starting points.
_BREAKDOWNS = 2
# Parts of the time left that the first pricing and each descent may take: a network
# is worth more with a bound.
_FIRST_PRICING, _DESCENT = 0.2, 0.5
# Entries of the data, for each output, up to which a look at a bound comes before a
# network is trained; and up to which it comes, for few samples, soon after.
_LOOK_FIRST, _LOOK = 5_000, 100_000


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


class Generation(Pricing):
    """State of column generation: pool of neurons, best network, best bounds.

    Subclasses say how neurons are placed, improved by descent, selected, moved
    and searched for.

    Parameters
    ----------
    problem : Problem
    rng : RandomState
    limits : Limits
    """

    # Whether a first bound has been looked for.
    looked = False
    # Whether known neurons are a network of those that the bound is for.
    keeps_known = True
    # Part of the time that the descent which places neurons may take.
    placing_share = _DESCENT
    # Networks to train from random neurons when their number is limited.
    n_narrow = 5

    def __init__(self, problem, rng, limits):
        super().__init__(problem, rng, limits)
        self.max_iter, most = limits.max_iter, limits.max_neurons
        self.max_neurons = np.inf if most is None else most
        # The descent that places neurons, as long as it goes on, and where it has come.
        self.placing, self.placing_ends, self.placed = None, np.inf, self.best
        self.broken = 0

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
        self.know(duals)
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
                return self.closed and self.confirm(at_once=True)
        except OutOfTime:
            if not self.duals:
                self.price_by_norms(nu)
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
        self.price(self.dual_of_best(), GLANCE)
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
                self.price_by_norms(self.dual_of_best())
        self.refute()
        if status == "optimal" and not self.closed:
            status = None
        return blocks, status

    def _priced_round(self):
        """A round, as `_whole_round` has it."""
        if len(self.pool) == 0:
            # Neither a search nor a descent has found anything.
            self.price(self.dual_of_best())
        blocks, limited = self.round()
        if self.closed and self.confirm():
            # Selected neurons have not been moved; it costs little.
            self.keep(self.improve(self.best))
            return blocks, "optimal"
        if limited:
            return blocks, "max_neurons"
        return blocks, "unseen" if self.settled() else None

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
