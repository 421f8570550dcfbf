"""What every solver returns."""

from dataclasses import dataclass, field

import numpy as np

MESSAGES = {
    "optimal": "the duality gap is within the tolerance",
    "max_iter": "the limit of iterations was reached",
    "max_time": "the time limit was reached",
    "stalled": "rounding errors prevent further progress",
    "breakdown": "a factorisation broke down, or numbers became too large",
}
"""What a status means, for a person."""


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


def null_result(program):
    """Solution of a program that no neuron can improve: no neurons.

    Parameters
    ----------
    program : TwoLayerProgram
        With ``can_improve`` false.

    Returns
    -------
    result : SolverResult
    """
    op, value = program.operator, program.null_objective()
    offset = program.null_offset()
    gradient = program.loss.gradient(
        np.full(op.n_samples, offset), program.y, program.sample_weight
    )
    return SolverResult(
        theta=np.zeros((op.n_blocks, op.p)),
        offset=offset,
        nu=-gradient,
        rho=np.zeros((op.n_cones, op.n_constraints)),
        objective=value,
        dual_bound=value,
        status="optimal",
        message="no neuron can improve on the constant",
        n_iter=0,
        history={
            "time": np.zeros(1),
            "objective": np.array([value]),
            "dual_bound": np.array([value]),
            "neurons": np.zeros(1, dtype=int),
        },
    )
