"""What every method tells: results, their history, and the words for it."""

from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

MESSAGES = {
    "optimal": "the duality gap is within the tolerance",
    "max_iter": "the limit of iterations was reached",
    "max_time": "the time limit was reached",
    "unconfirmed": "the time limit was reached before a longer search could confirm it",
    "max_neurons": "the limit of neurons was reached",
    "callback": "a callback asked to stop",
    "scales": "the scales of the columns of X are far apart and progress is slow",
    "unseen": "steeper neurons than the search has found cannot be ruled out",
    "stalled": "rounding prevents further progress",
    "breakdown": "a factorisation broke down, or numbers became too large",
}
"""What a status means, for a person."""
HISTORY = ("time", "objective", "dual_bound", "kappa", "blocks", "neurons")
"""Columns of the history; not a number where a route does not know one."""


@dataclass(frozen=True)
class DualPoint:
    """A dual point, and how steep neurons can be there.

    Attributes
    ----------
    nu : ndarray of shape (n_samples,) or (n_samples, n_outputs)
    kappa : float
        No slope is above it, if the search has missed none.
    proven : bool
        Whether that is proven.
    """

    nu: np.ndarray
    kappa: float
    proven: bool = False

    def towards(self, other, alpha):
        """The mixture with `other` that comes closest to slopes of `alpha`.

        The steepest slope is a convex function of the dual point, so that of a
        mixture is at most the mixture of the steepest slopes.

        Parameters
        ----------
        other : DualPoint
        alpha : float

        Returns
        -------
        mixture : DualPoint
        """
        if self.kappa == other.kappa:
            return self
        part = np.clip((alpha - self.kappa) / (other.kappa - self.kappa), 0.0, 1.0)
        return DualPoint(
            (1.0 - part) * self.nu + part * other.nu,
            (1.0 - part) * self.kappa + part * other.kappa,
            self.proven and other.proven,
        )


@dataclass(frozen=True)
class GlobalResult:
    """Outcome of `generate_neurons`.

    Attributes
    ----------
    neurons : Network
        The best network seen.
    nu : ndarray of shape (n_samples,)
        Dual point of the best bound.
    objective, dual_bound : float
        The bound rests on a search for the steepest neuron.
    kappa : float
        Slope of that neuron, or what the search says of neurons it has not seen if
        that is more.
    found : float
        Slope of the steepest neuron found.
    status, message : str
    n_iter : int
        Rounds.
    history : dict of ndarray
        One entry per round, and for better networks within rounds: 'time',
        'objective', 'dual_bound', 'kappa' (of the round, divided by alpha), 'blocks'
        and 'neurons'.
    """

    neurons: object
    nu: np.ndarray
    objective: float
    dual_bound: float
    kappa: float
    found: float
    status: str
    message: str
    n_iter: int
    history: dict = field(repr=False)


class Record:
    """History of the rounds of a run, from which the result is made.

    A run has the attributes ``problem``, ``best`` (its network), ``objective``,
    ``bound`` and ``last_kappa``.

    Parameters
    ----------
    callback : callable or None
        Called with the number of the round and a dict of what the history gets.
    """

    def __init__(self, callback):
        self.callback = callback
        self.start = perf_counter()
        self.entries = []

    def note(self, run, blocks=None):
        """Add an entry for the state that `run` is in."""
        n_neurons = len(run.best)
        values = (
            perf_counter() - self.start,
            run.objective,
            run.bound,
            run.last_kappa / run.problem.alpha,
            n_neurons if blocks is None else blocks,
            n_neurons,
        )
        self.entries.append(dict(zip(HISTORY, values)))

    def add(self, run, n_iter, blocks):
        """Add an entry for the state after a round."""
        self.note(run, blocks)
        if self.callback is not None:
            self.callback(n_iter, self.entries[-1])

    def result(self, run, nu, slopes, message, status, n_iter):
        """The `GlobalResult` of a finished run.

        Of the `slopes` one was found, and the other allows for what was not.
        """
        found, kappa = slopes
        return GlobalResult(
            neurons=run.best,
            nu=nu,
            objective=run.objective,
            dual_bound=run.problem.bound(nu, kappa),
            kappa=kappa,
            found=found,
            status=status,
            message=message,
            n_iter=n_iter,
            history={
                key: np.array([entry[key] for entry in self.entries]) for key in HISTORY
            },
        )


class SolverError(RuntimeError):
    """A solver ended without a usable point."""


@dataclass(frozen=True)
class SolverResult:
    """Solution of a restricted program.

    Attributes
    ----------
    theta : ndarray of shape (n_blocks, p)
        Blocks, inside their cones up to rounding.
    offset : float
        Free constant of the outputs, 0.0 if the program has none.
    nu : ndarray of shape (n_samples,)
        Dual variable of the outputs.
    rho : ndarray of shape (n_cones, n_constraints)
        Multipliers of the cones.
    objective, dual_bound : float
        Value of the program at `theta`, and the best lower bound found.
    status : {'optimal', 'max_iter', 'max_time', 'stalled', 'breakdown'}
        Why the solver stopped; 'optimal' means that the gap is within the
        tolerance.
    message : str
        The same for a person.
    n_iter : int
    history : dict of ndarray
        One entry per iteration: 'time' in seconds, 'objective', 'dual_bound',
        'neurons' (blocks that are not negligible).
    units : Subnetworks or None
        The network that the objective is of, if it is not that of the blocks, which
        may then be outside of their cones.
    """

    theta: np.ndarray
    offset: float
    nu: np.ndarray
    rho: np.ndarray
    objective: float
    dual_bound: float
    status: str
    message: str
    n_iter: int
    history: dict = field(repr=False)
    units: object = None


def gap_closed(objective, dual_bound, tol, scale):
    """Whether the gap is within `tol` of the objective.

    `scale` is the objective of the network without neurons: near zero, where
    a relative gap loses its meaning, a fraction of 1e-12 of it is enough.

    Parameters
    ----------
    objective, dual_bound, tol, scale : float

    Returns
    -------
    closed : bool
    """
    return objective - dual_bound <= max(tol * abs(objective), 1e-12 * scale)
