"""Column generation over whole sub-networks."""

from dataclasses import replace

import numpy as np

from sklearn_convexnn._sklearn import FitTask
from sklearn_convexnn._utils.breakdown import unless_broken
from sklearn_convexnn._utils.deadlines import OutOfTime
from sklearn_convexnn._utils.threads import blas_threads_for
from sklearn_convexnn.families.subnetworks.cells import solve_on_blocks
from sklearn_convexnn.training.column_generation import Run
from sklearn_convexnn.training.dual_points import SHORT
from sklearn_convexnn.training.generation import Generation

# Random sub-networks in a thorough search.
_MOST_STARTS = 1000
# Relative gap from which on the program over the patterns at hand is solved.
_CLOSE = 0.1


def generate_subnetworks(
    problem,
    rng,
    limits,
    *,
    n_units=100,
    known=None,
    duals=(),
    callback=None,
    task=None,
):
    r"""Train parallel sub-networks, of any number, to a small duality gap.

    As `generate_neurons` of several outputs, with whole sub-networks in place of
    neurons: they are placed by descent, the group lasso over the outputs of their
    last units selects some, descent moves these, and the dual point is priced.

    Parameters
    ----------
    problem : Problem
    rng : RandomState
    limits : Limits
    n_units : int, default=100
        Number of sub-networks to place.
    known, duals, callback, task
        As of `generate_neurons`.

    Returns
    -------
    result : GlobalResult
        Its `neurons` are `Subnetworks`, and `nu` has a column per output.
    """
    run = SubnetworkRun(problem, rng, limits)
    with blas_threads_for(0):
        return run.solve(n_units, known, duals, callback, task or FitTask())


class SubnetworkRun(Run):
    """Rounds of the group lasso, descent and pricing, with sub-networks."""

    # Few sub-networks have more poor local minima than few neurons.
    n_narrow = 20
    # Whether a search has not come to its end.
    cut = False
    # There is one descent, and then the first bound.
    looked = True
    counts_starts = False

    # There is one descent, which goes on with what breaks down.
    bursts = Generation.bursts

    def place(self, n_neurons):
        try:
            return unless_broken(
                self.problem.null(),
                self.problem.family.place,
                self.problem,
                int(n_neurons),
                self.rng,
                deadline=self.deadline,
            )
        except OutOfTime:
            return self.problem.null()

    def improve(self, neurons):
        moved = unless_broken(
            neurons,
            self.problem.family.descend,
            self.problem,
            neurons,
            deadline=self.deadline,
        )
        if self.objective - self.bound > _CLOSE * self.objective:
            return moved
        tol = min(1e-4, 0.1 * self.tol)
        solved = unless_broken(
            None, solve_on_blocks, self.problem, moved, tol=tol, deadline=self.deadline
        )
        if solved is None:
            return moved
        return min(moved, solved, key=self.problem.objective)

    def select(self, max_iter=300):
        p, selected, N = self.problem, self.best.select(slice(0, 0)), None
        if len(self.pool):
            selected, N = unless_broken((selected, N), super().select, max_iter)
        if N is None or (len(selected) == 0 and len(self.best)):
            # There is nothing to choose from, or the choice is lost in rounding.
            selected, N = self.best, p.dual_point(p.outputs(self.best))
        return selected, N

    def price(self, nu, effort=SHORT):
        self.cut = False
        known = any(point.nu is nu for point in self.duals)
        super().price(nu, effort)
        if self.cut and (effort > SHORT or not known):
            self._bound_without_search(nu)

    def _bound_without_search(self, nu):
        """Give a dual point the bound that does not depend on what a search finds."""
        for point in self.duals:
            if point.nu is nu:
                point.kappa = max(point.kappa, self.slope_limit(nu))
                point.unseen, point.confirmed = None, True
                self.rate(point)
        self.sort_duals()

    def search_size(self, effort, n_outputs):
        size = super().search_size(effort, n_outputs)
        if effort > SHORT:
            # The smaller the gap that is claimed, the longer the search.
            size = max(size, int(_MOST_STARTS * np.clip(1e-2 / self.tol, 0.05, 1.0)))
        return size

    def search(self, N, effort):
        try:
            found = Generation.search(self, N, effort)
        except OutOfTime as late:
            self._correct(N, late)
            raise
        self.cut |= not found.complete
        return found

    def _correct(self, N, late):
        """Correct the bound of a dual point by what a search found until it was cut."""
        for point in self.duals:
            if point.nu is N:
                point.kappa = max(point.kappa, getattr(late, "steepest", 0.0))
                self.rate(point)
        self.sort_duals()

    def conclude(self):
        super().conclude()
        # Where the time is too short for a search, this may be more than was found.
        nu = self.problem.dual_point(self.problem.outputs(self.best))
        self.duals.append(replace(self.duals[0], nu=nu, kappa=0.0))
        self._bound_without_search(nu)
        while self.closed and not self.duals[0].confirmed:
            # No gap is closed that has not been searched to the end.
            self._bound_without_search(self.duals[0].nu)
