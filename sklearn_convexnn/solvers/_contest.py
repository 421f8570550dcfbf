"""The best network and the best bound of a solver so far, and the record of them."""

from contextlib import suppress
from dataclasses import replace
from time import perf_counter

import numpy as np

from sklearn_convexnn._utils.breakdown import BREAKDOWNS
from sklearn_convexnn.model.results import MESSAGES, SolverResult, gap_closed


class Contest:
    """What a solver has to show: its best network, its best bound and their history.

    A kind of contest says how networks and bounds come of the blocks that an iteration
    has: ``begin()`` is for those known before the first one, ``enter(theta, rho)`` for
    blocks, which may be outside of their cones, and multipliers that go with them.

    Parameters
    ----------
    program : Program
    tol : float
        Duality gap, relative to the objective, that is asked for.
    deadline : float
    callback : callable or None
        Called with the iteration, objective and dual bound.

    Attributes
    ----------
    steps : int
        Accelerated steps that cost about as much as a look at the gap.
    theta : ndarray of shape (n_blocks, p)
    offset : float
    units : Subnetworks or None
        The network that `objective` is of, where it is not that of the blocks.
    objective, dual_bound : float
    nu : ndarray of shape (n_samples,)
        Dual variable at the network.
    rho : ndarray of shape (n_cones, n_constraints)
        The multipliers that were found last.
    dual : tuple of ndarray
        Dual variable and multipliers of the bound.
    """

    steps, units = 20, None

    def __init__(self, program, tol, deadline, callback):
        self.program, self.operator = program, program.operator
        self.tol, self.deadline, self.callback = tol, deadline, callback
        self.start = perf_counter()
        op, y, s = program.operator, program.y, program.sample_weight
        self.theta, self.offset = np.zeros((op.n_blocks, op.p)), program.null_offset()
        self.objective = self.scale = program.null_objective()
        f = np.full(op.n_samples, self.offset)
        self.nu = -program.loss.gradient(f, y, s)
        self.rho = np.zeros((op.n_cones, op.n_constraints))
        # The bound of zeros needs no pricing.
        self.dual = np.zeros(op.n_samples), self.rho
        self.dual_bound = program.loss.dual_value(self.dual[0], y, s)
        self.history = {"time": [], "objective": [], "dual_bound": [], "neurons": []}

    @property
    def n_units(self):
        """Units of the network: blocks that are not negligible."""
        norms = self.program.norms(self.theta)
        return int(np.sum(norms > 1e-6 * norms.max(initial=0.0)))

    def bound_by(self, nu, rho):
        """Take in the bound of a dual point."""
        bound = self.program.dual_bound(nu, rho)
        if bound > self.dual_bound:
            self.dual_bound, self.dual = bound, (nu, rho)

    def record(self):
        """Enter the state into the history; whether, and how, the solver is done."""
        self.history["time"].append(perf_counter() - self.start)
        self.history["objective"].append(self.objective)
        self.history["dual_bound"].append(self.dual_bound)
        self.history["neurons"].append(self.n_units)
        if self.callback is not None:
            n_iter = len(self.history["time"]) - 1
            self.callback(n_iter, self.objective, self.dual_bound)
        if gap_closed(self.objective, self.dual_bound, self.tol, self.scale):
            return "optimal"
        return "max_time" if perf_counter() > self.deadline else None

    def run(self, steps, max_iter, progress):
        """Begin, and take steps until the solver is done.

        Parameters
        ----------
        steps : callable
            Makes the step, a callable, once the contest has begun.
        max_iter : int
        progress : tuple (float, int)
            Factor by which the gap has to fall in a number of steps.  Otherwise the
            status is 'stalled'.

        Returns
        -------
        result : SolverResult
        """
        n_iter, gaps, (factor, patience) = 0, [], progress
        with suppress(*BREAKDOWNS), np.errstate(all="ignore"):
            self.begin()
            step = steps()
            while True:
                status = self.record()
                gaps.append(self.objective - self.dual_bound)
                if status is None and n_iter >= max_iter:
                    status = "max_iter"
                if status is None and n_iter >= patience:
                    slow = gaps[-1] > factor * gaps[-1 - patience]
                    status = "stalled" if slow else None
                if status is not None:
                    return self.result(status, n_iter)
                step()
                n_iter += 1
        return self.broken(n_iter)

    def broken(self, n_iter):
        """The result when a step breaks down in between."""
        return self.result(self.record() or "breakdown", n_iter)

    def result(self, status, n_iter):
        """The `SolverResult` of the best network and the best bound."""
        return SolverResult(
            theta=self.theta,
            offset=self.offset,
            nu=self.dual[0],
            rho=self.dual[1],
            objective=self.objective,
            dual_bound=self.dual_bound,
            status=status,
            message=MESSAGES[status],
            n_iter=n_iter,
            history={key: np.asarray(value) for key, value in self.history.items()},
            units=self.units,
        )


def null_result(program):
    """Solution of a program that no unit can improve: no units.

    Parameters
    ----------
    program : Program
        With ``can_improve`` false.

    Returns
    -------
    result : SolverResult
    """
    best = Contest(program, 0.0, np.inf, None)
    best.dual_bound, best.dual = best.objective, (best.nu, best.rho)
    best.record()
    return replace(
        best.result("optimal", 0), message="no neuron can improve on the constant"
    )
