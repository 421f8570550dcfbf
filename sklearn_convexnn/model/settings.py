"""What a fit is told: the parameters of the estimator, checked and completed."""

from dataclasses import dataclass, fields

import numpy as np

FRACTION = 0.02
"""The default weight decay, in units of the one from which on there are no neurons."""

FEW_SAMPLES = 500
"""Samples up to which a first bound comes before the network is worth much."""


@dataclass(frozen=True)
class Limits:
    """When training ends.

    Attributes
    ----------
    tol : float, default=1e-4
        When the gap is at most `tol` times the objective.
    max_iter : int, default=200
        After so many rounds.
    max_neurons : int or None, default=None
        When a network would need more units.
    deadline : float, default=inf
        At this value of ``time.perf_counter()``.
    brief : bool, default=False
        Whether searches stay short, as in a path, of whose bounds none is worth a long
        one; they allow for more that has not been seen.
    """

    tol: float = 1e-4
    max_iter: int = 200
    max_neurons: int | None = None
    deadline: float = np.inf
    brief: bool = False


@dataclass(frozen=True)
class Settings:
    """Parameters of an estimator, and what else the training of a network needs.

    Attributes
    ----------
    alpha : float
        Weight decay, in the user's units.
    loss : Loss, Separable or Softmax
    arrangements : str
    n_arrangements : int
    fit_intercept : bool
    tol : float
    max_iter : int
    verbose : int
    negative_slope : float, default=0.0
    batch_norm : bool, default=False
    solver : str, default='auto'
    max_neurons : int or None, default=None
    prove : bool, default=True
        Whether to attempt proofs after 'adaptive'.
    brief : bool, default=False
        As of `Limits`.
    seed : int, default=0
        Determines what is random.
    deadline : float, default=inf
        Value of ``time.perf_counter()`` at which to stop.
    name : str, default=''
        What the lines of `verbose` call the network.
    family : callable or None, default=None
        What makes the family of units of the data, `fit_intercept` and
        ``scales_ratio``; None for gated networks.
    build : callable or None, default=None
        What makes the problem of data, in place of `build_problem`.
    method : callable or None, default=None
        What trains.  Its arguments are the problem, a network to start from or None,
        settings, a `FitTask` or None whose subtasks the rounds are, and dual points
        that are known; it returns `Trained`.
    like : array or None, default=None
        A row of the data, whose kind the arrays of first-order solvers have.
    dtype : dtype, default=float64
        Of the weights.
    units : Units or None, default=None
        Those of the training, for what is printed.
    """

    alpha: float
    loss: object
    arrangements: str
    n_arrangements: int
    fit_intercept: bool
    tol: float
    max_iter: int
    verbose: int
    negative_slope: float = 0.0
    batch_norm: bool = False
    solver: str = "auto"
    max_neurons: int | None = None
    prove: bool = True
    brief: bool = False
    seed: int = 0
    deadline: float = np.inf
    name: str = ""
    family: object = None
    build: object = None
    method: object = None
    like: object = None
    dtype: type = np.float64
    units: object = None

    @classmethod
    def of(cls, estimator, **others):
        """Those of an estimator, with `others` in place of its parameters.

        Parameters
        ----------
        estimator : estimator
        **others : dict
            At least `loss`, as an object.

        Returns
        -------
        settings : Settings
        """
        names = {field.name for field in fields(cls)}
        params = estimator.get_params(deep=False)
        params = {name: params[name] for name in names & params.keys()}
        return cls(**{**params, **others})

    @property
    def limits(self):
        """The `Limits`, with a little room for the rounding of the weights."""
        return Limits(
            0.9 * self.tol,
            self.max_iter,
            self.max_neurons,
            self.deadline,
            brief=self.brief,
        )

    def tell(self, line, level=1):
        """Print a line on the network if `verbose` is at least `level`.

        Parameters
        ----------
        line : str
        level : int, default=1
        """
        if self.verbose >= level:
            print(f"[{self.name}] {line}")
