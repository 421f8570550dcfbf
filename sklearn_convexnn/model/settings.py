"""What a fit is told: the parameters of the estimator, checked and completed."""

from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True)
class Settings:
    """Parameters of an estimator, and what else the training of a network needs.

    Attributes
    ----------
    alpha : float
        Weight decay, in the user's units.
    loss : Loss, Separable or Softmax
    formulation, arrangements, pricing, solver : str
    depth : int
    subnetwork_width : int
    subnetwork_norm : str
    n_arrangements : int
    fit_intercept : bool
    negative_slope : float
    tol : float
    max_iter : int
    max_neurons : int or None
    minimal : bool
    verbose : int
    prove : bool, default=True
        Whether to attempt proofs after 'adaptive'.
    descent : bool, default=False
        Whether descent is all that is wanted.
    like : array or None, default=None
        A row of the data, whose kind the arrays of first-order solvers have.
    dtype : dtype, default=float64
        Of the weights.
    units : Units or None, default=None
        Those of the training, for what is printed.
    """

    alpha: float
    loss: object
    formulation: str
    arrangements: str
    pricing: str
    solver: str
    depth: int
    subnetwork_width: int
    subnetwork_norm: str
    n_arrangements: int
    fit_intercept: bool
    negative_slope: float
    tol: float
    max_iter: int
    max_neurons: int | None
    minimal: bool
    verbose: int
    prove: bool = True
    descent: bool = False
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
