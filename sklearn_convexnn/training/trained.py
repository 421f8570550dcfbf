"""What every route from data to a network comes to."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from sklearn_convexnn.model.results import HISTORY, MESSAGES, DualPoint


@dataclass(frozen=True)
class Trained:
    """A trained network and what is known of it.

    Attributes
    ----------
    neurons : Neurons or Subnetworks
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
        """What a result tells, and what else or better is known.

        Parameters
        ----------
        result : GlobalResult
        **known : dict
            At least `neurons`, `dual_bound` and `certificate`.

        Returns
        -------
        trained : Trained
        """
        told = {
            "status": result.status,
            "message": result.message,
            "n_iter": result.n_iter,
            "n_patterns": int(np.max(result.history["blocks"])),
            "history": {key: result.history[key] for key in HISTORY},
        }
        return cls(**{**told, **known})


@dataclass(frozen=True)
class Fitted:
    """A network as an MLP has it, and what is known of it.

    Gated networks have a column of `gates` for each neuron.
    """

    coefs: list
    intercepts: list
    null_objective: float
    trained: Trained
    gates: np.ndarray | None = None


def trained_at_once(problem, neurons, bound, *, seconds=0.0, status="optimal", **known):
    """A network that took no rounds.

    Parameters
    ----------
    problem : Problem
    neurons : Neurons or Subnetworks
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
        history={key: np.array([value]) for key, value in zip(HISTORY, row)},
        **{"message": MESSAGES.get(status), "n_iter": 0, "n_patterns": 0, **known},
    )


def null_training(problem, settings, status="breakdown"):
    """What is known without a search, or any computation that could break down.

    Parameters
    ----------
    problem : Problem
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


def round_printer(settings, what="blocks"):
    """Callback that prints a line for each round, if `verbose`.

    Parameters
    ----------
    settings : Settings
    what : str, default='blocks'
        The word for what the history calls so.

    Returns
    -------
    report : callable
    """

    def report(n_iter, entry):
        objective = settings.units.objective(entry["objective"])
        bound = settings.units.objective(entry["dual_bound"])
        gap = (objective - bound) / max(objective, np.finfo(float).tiny)
        settings.tell(
            f"round {n_iter:3d}  {entry['time']:7.2f} s  objective {objective:.8g}  "
            f"dual bound {bound:.8g}  gap {gap:.1e}  "
            f"kappa/alpha {entry['kappa']:.5f}  {entry['blocks']} {what}  "
            f"{entry['neurons']} neurons"
        )

    return report


def no_neurons(widths, offset):
    """The network of constant outputs, as if it had been trained.

    Parameters
    ----------
    widths : list of int
        Of all layers.
    offset : ndarray of shape (n_outputs,)

    Returns
    -------
    fitted : Fitted
        With an objective of zero.
    """
    return Fitted(
        coefs=[np.zeros(shape) for shape in pairwise(widths)],
        intercepts=[*map(np.zeros, widths[1:-1]), offset],
        null_objective=0.0,
        trained=Trained(
            neurons=None,
            dual_bound=0.0,
            certificate="global",
            status="optimal",
            message=MESSAGES["optimal"],
            n_iter=0,
            n_patterns=0,
            history=dict.fromkeys(HISTORY, np.zeros(1)),
            proven_bound=0.0,
        ),
    )
