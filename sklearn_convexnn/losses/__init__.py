"""Losses: one class per file, which has all that any method needs of it."""

from numbers import Real

from sklearn_convexnn._sklearn import Interval, StrOptions, check_parameters
from sklearn_convexnn.losses.base import Loss, Scaled, power_of_two
from sklearn_convexnn.losses.hinge import Hinge
from sklearn_convexnn.losses.huber import Huber
from sklearn_convexnn.losses.log_loss import LogLoss
from sklearn_convexnn.losses.one_sided import OneSided
from sklearn_convexnn.losses.pinball import Pinball
from sklearn_convexnn.losses.poisson import Poisson
from sklearn_convexnn.losses.separable import Separable
from sklearn_convexnn.losses.softened import Softened
from sklearn_convexnn.losses.softmax import Softmax
from sklearn_convexnn.losses.squared_error import SquaredError
from sklearn_convexnn.losses.squared_hinge import SquaredHinge

__all__ = [
    "CLASSIFICATION_LOSSES",
    "LOSS_CONSTRAINTS",
    "LOSS_OF",
    "NEVER",
    "REGRESSION_LOSSES",
    "SMOOTH_LOSSES",
    "Hinge",
    "Huber",
    "LogLoss",
    "Loss",
    "OneSided",
    "Pinball",
    "Poisson",
    "Scaled",
    "Separable",
    "Softened",
    "Softmax",
    "SquaredError",
    "SquaredHinge",
    "make_loss",
    "power_of_two",
]

NEVER = -1e30
"""Output of classes without weight: of probability zero, and below all others."""

_REGRESSION = (SquaredError, Huber, Pinball, Poisson)
_CLASSIFICATION = (LogLoss, SquaredHinge, Hinge)

REGRESSION_LOSSES = tuple(loss.name for loss in _REGRESSION)
CLASSIFICATION_LOSSES = tuple(loss.name for loss in _CLASSIFICATION)
SMOOTH_LOSSES = tuple(
    loss.name for loss in _REGRESSION + _CLASSIFICATION if loss.smooth
)

LOSS_CONSTRAINTS = {
    "epsilon": [Interval(Real, 0, None, closed="neither")],
    "quantile": [Interval(Real, 0, 1, closed="neither")],
}
"""Of the parameters of losses, as scikit-learn writes them."""
LOSS_OF = {"epsilon": "huber", "quantile": "quantile"}
"""The loss that each of these parameters belongs to."""
_CONSTRAINTS = {
    "name": [StrOptions({*REGRESSION_LOSSES, *CLASSIFICATION_LOSSES})],
    **LOSS_CONSTRAINTS,
}


def make_loss(name, epsilon=1.35, quantile=0.5):
    """Loss object of the given name.

    Parameters
    ----------
    name : {'squared_error', 'huber', 'quantile', 'poisson', 'log_loss', \
            'squared_hinge', 'hinge'}
        Name of the loss.
    epsilon : float, default=1.35
        Threshold of the Huber loss; the other losses ignore it.
    quantile : float, default=0.5
        Quantile of the pinball loss; the other losses ignore it.

    Returns
    -------
    loss : Loss
    """
    params = {"name": name, "epsilon": epsilon, "quantile": quantile}
    check_parameters(_CONSTRAINTS, params, "make_loss")
    if name == "huber":
        return Huber(epsilon)
    if name == "quantile":
        return Pinball(quantile)
    return next(cls for cls in _REGRESSION + _CLASSIFICATION if cls.name == name)()
