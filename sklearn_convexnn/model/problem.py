"""The training problem of one output: objective and dual bounds of networks."""

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import minimize_scalar

from sklearn_convexnn._utils.breakdown import furthest
from sklearn_convexnn.model.neurons import Neurons, features
from sklearn_convexnn.model.scales import GoesByScales


@dataclass(frozen=True)
class Problem(GoesByScales):
    """Data and objective of the network of one output.

    Attributes
    ----------
    X : ndarray of shape (n_samples, n_features)
    y, sample_weight : ndarray of shape (n_samples,)
    loss : Loss
    alpha : float
    fit_intercept : bool
    negative_slope : float
    scales_ratio : float
        The largest scale of a feature over the smallest one.
    """

    X: np.ndarray
    y: np.ndarray
    sample_weight: np.ndarray
    loss: object
    alpha: float
    fit_intercept: bool
    negative_slope: float
    scales_ratio: float = field(default=1.0, kw_only=True)

    def null(self):
        """The network without neurons."""
        zeros, offset = np.zeros(len(self.y)), 0.0
        if self.fit_intercept:
            offset = self.loss.best_offset(zeros, self.y, self.sample_weight)
        none = np.zeros(0)
        return Neurons(
            np.zeros((0, self.X.shape[1])), none, none, none, none.astype(bool), offset
        )

    def unused(self, directions, biases, signs):
        """Neurons of magnitude zero, those without a kink in the data as linear.

        Parameters
        ----------
        directions : ndarray of shape (n_neurons, n_features)
            Unit rows.
        biases, signs : ndarray of shape (n_neurons,)

        Returns
        -------
        neurons : Neurons
        """
        linear = np.zeros(len(signs), dtype=bool)
        if self.fit_intercept:
            linear = np.all(self.X @ directions.T + biases > 0, axis=0)
        return Neurons(
            directions=directions,
            biases=np.where(linear, 0.0, biases),
            magnitudes=np.zeros(len(signs)),
            signs=signs,
            linear=linear,
            offset=0.0,
        )

    def outputs(self, neurons):
        """Outputs of a network, shape (n_samples,)."""
        Z = features(neurons, self.X, self.negative_slope)
        return Z @ neurons.magnitudes + neurons.offset

    def objective(self, neurons, f=None):
        """Objective of a network."""
        f = self.outputs(neurons) if f is None else f
        value = self.loss.value(f, self.y, self.sample_weight)
        return value + self.alpha * float(np.sum(neurons.magnitudes))

    def dual_point(self, f):
        """Dual variable at outputs `f`, in its domain."""
        if self.fit_intercept:
            f = f + self.loss.best_offset(f, self.y, self.sample_weight)
        return self.project(-self.loss.gradient(f, self.y, self.sample_weight))

    def project(self, nu):
        """The closest point of the dual domain, as far as it is easily found."""
        return self.loss.project_dual(
            nu, self.y, self.sample_weight, centred=self.fit_intercept
        )

    def bound(self, nu, kappa):
        """Lower bound from a dual point at which no slope exceeds `kappa`."""
        return best_scaled_value(
            self.loss, nu, self.y, self.sample_weight, furthest(self.alpha, kappa)
        )


def best_scaled_value(loss, nu, y, weight, reach):
    """Maximum of the concave ``G(t nu)`` over ``0 <= t <= reach``.

    Parameters
    ----------
    loss : Loss, Separable or Softmax
    nu, y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
    weight : ndarray of shape (n_samples,)
    reach : float

    Returns
    -------
    value : float
        Minus infinity if it cannot be computed.
    """
    lower, upper = loss.dual_bounds(y, weight)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        limits = np.where(nu > 0, upper / nu, np.where(nu < 0, lower / nu, np.inf))
    reach = min(reach, limits.min(initial=np.inf))

    def value(scale):
        with np.errstate(over="ignore", invalid="ignore"):
            return float(np.sum(loss.dual_terms(scale * nu, y, weight)))

    if not np.isfinite(reach):
        # A slope of zero: the dual point can grow until the value falls.
        reach = 1.0
    found = minimize_scalar(
        lambda scale: -value(scale), bounds=(0.0, reach), method="bounded"
    )
    values = value(0.0), value(min(1.0, reach)), value(reach), -found.fun
    return max(filter(np.isfinite, values), default=-np.inf)
