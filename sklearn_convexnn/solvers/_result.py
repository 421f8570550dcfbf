"""What every solver returns."""

from dataclasses import dataclass, field

import numpy as np


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
    status : {'optimal', 'max_iter', 'max_time', 'stalled'}
        Why the solver stopped; 'optimal' means that the gap is within the
        tolerance.
    message : str
        The same for a person.
    n_iter : int
    history : dict of ndarray
        One entry per iteration: 'time' in seconds, 'objective', 'dual_bound',
        'neurons' (blocks that are not negligible).
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


def gap_closed(objective, dual_bound, tol, scale):
    """Whether the gap is within `tol` of the objective.

    `scale` is the objective of the network without neurons: near zero, where
    a relative gap loses its meaning, a fraction of 1e-12 of it is enough.
    """
    return objective - dual_bound <= max(tol * abs(objective), 1e-12 * scale)
