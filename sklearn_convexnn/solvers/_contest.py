"""The best network and the best bound of a solver so far, and the record of them."""

from time import perf_counter

import numpy as np

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
        self.objective = program.null_objective()
        f = np.full(op.n_samples, self.offset)
        self.nu = -program.loss.gradient(f, y, s)
        self.rho = np.zeros((op.n_cones, op.n_constraints))
        # The bound of zeros needs no pricing.
        self.dual = np.zeros(op.n_samples), self.rho
        self.dual_bound = program.loss.dual_value(self.dual[0], y, s)
        self.history = {"time": [], "objective": [], "dual_bound": [], "neurons": []}

    @property
    def n_units(self):
        """Units of the network: blocks that are not zero."""
        return int(np.sum(self.program.norms(self.theta) > 0))

    def bound_by(self, nu, rho):
        """Take in the bound of a dual point."""
        bound = self.program.dual_bound(nu, rho)
        if bound > self.dual_bound:
            self.dual_bound, self.dual = bound, (nu, rho.copy())

    def record(self):
        """Enter the state into the history; whether, and how, the solver is done."""
        self.history["time"].append(perf_counter() - self.start)
        self.history["objective"].append(self.objective)
        self.history["dual_bound"].append(self.dual_bound)
        self.history["neurons"].append(self.n_units)
        if self.callback is not None:
            n_iter = len(self.history["time"]) - 1
            self.callback(n_iter, self.objective, self.dual_bound)
        scale = self.program.null_objective()
        if gap_closed(self.objective, self.dual_bound, self.tol, scale):
            return "optimal"
        return "max_time" if perf_counter() > self.deadline else None

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
