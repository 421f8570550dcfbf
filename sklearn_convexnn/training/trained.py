"""What every route from data to a network comes to."""

from dataclasses import dataclass

import numpy as np

from sklearn_convexnn.model.results import MESSAGES, DualPoint

HISTORY = ("time", "objective", "dual_bound", "kappa", "cells", "neurons")
"""Columns of the history; not a number where a route does not know one."""


@dataclass(frozen=True)
class Trained:
    """A trained network and what is known of it.

    Attributes
    ----------
    neurons : Neurons, VectorNeurons or Subnetworks
    dual_bound : float
    certificate : {'global', 'estimated', 'restricted'}
    status, message : str
    n_iter : int
    n_patterns : int
        Activation patterns that took part.
    history : dict of ndarray
        See `HISTORY`.
    dual : DualPoint or None
        That of the bound, if the method has one to go on from.
    proven_bound : float or None
        A proven bound for all networks, if there is one besides `dual_bound`.
    """

    neurons: object
    dual_bound: float
    certificate: str
    status: str
    message: str
    n_iter: int
    n_patterns: int
    history: dict
    dual: DualPoint | None = None
    proven_bound: float | None = None

    @classmethod
    def of(cls, result, **known):
        """What a result tells, and what else is known.

        Parameters
        ----------
        result : GlobalResult
        **known : dict
            At least `neurons`, `dual_bound` and `certificate`.

        Returns
        -------
        trained : Trained
        """
        return cls(
            status=result.status,
            message=result.message,
            n_iter=result.n_iter,
            n_patterns=int(np.max(result.history["cells"])),
            history={key: result.history[key] for key in HISTORY},
            **known,
        )


def trained_at_once(problem, neurons, bound, *, seconds=0.0, status="optimal", **known):
    """A network that took no rounds.

    Parameters
    ----------
    problem : Problem, VectorProblem or DeepProblem
    neurons : Neurons, VectorNeurons or Subnetworks
    bound : float
    seconds : float, default=0.0
        That it took.
    status : str, default='optimal'
    **known : dict
        At least `certificate`; `n_patterns` are zero otherwise.

    Returns
    -------
    trained : Trained
    """
    objective = problem.objective(neurons)
    row = seconds, objective, bound, np.nan, np.nan, len(neurons)
    return Trained(
        neurons=neurons,
        dual_bound=bound,
        status=status,
        message=MESSAGES[status],
        history={key: np.array([value]) for key, value in zip(HISTORY, row)},
        **{"n_iter": 0, "n_patterns": 0, **known},
    )


def null_training(problem, settings, status="breakdown"):
    """What is known without a search, or any computation that could break down.

    Parameters
    ----------
    problem : Problem, VectorProblem or DeepProblem
    settings : Settings
    status : {'breakdown', 'max_time'}, default='breakdown'

    Returns
    -------
    trained : Trained
    """
    neurons = problem.null()
    bound = problem.bound(np.zeros(problem.outputs(neurons).shape), 0.0)
    sampled = settings.arrangements == "sampled"
    return trained_at_once(
        problem,
        neurons,
        bound,
        status=status,
        certificate="restricted" if sampled else "estimated",
        proven_bound=bound,
    )
