"""The training problem: objective and dual bounds of networks."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize_scalar

from sklearn_convexnn._utils.breakdown import furthest
from sklearn_convexnn._utils.devices import in_numpy, in_precision, placed
from sklearn_convexnn.model.network import Network


class Objective:
    """Loss and dual function of outputs.

    Attributes
    ----------
    Y : ndarray of shape (n_samples, n_outputs)
    sample_weight : ndarray of shape (n_samples,)
        Positive.
    loss : Separable or Softmax
    alpha : float
    fit_intercept : bool
        Whether the output biases are free.
    """

    def best_offset(self, F):
        """The best output biases besides outputs `F`, zero if they are not free."""
        if not self.fit_intercept:
            return np.zeros(F.shape[1])
        return self.loss.best_offset(F, self.Y, self.sample_weight)

    def value(self, F):
        """Loss at outputs `F`."""
        return self.loss.value(F, self.Y, self.sample_weight)

    def gradient(self, F):
        """Derivative of `value`, of the shape of `F`."""
        return self.loss.gradient(F, self.Y, self.sample_weight)

    def curvature(self, F):
        """Second derivatives of the loss, averaged over the outputs of a sample."""
        return self.loss.curvature(F, self.Y, self.sample_weight).mean(axis=1)

    def dual_point(self, F):
        """Dual variable at outputs `F`, in its domain."""
        return self.project(-self.gradient(F + self.best_offset(F)))

    def project(self, N):
        """The closest point of the dual domain, as far as it is easily found."""
        return self.loss.project_dual(
            N, self.Y, self.sample_weight, centred=self.fit_intercept
        )

    def bound(self, N, kappa):
        """Lower bound from a dual point at which no slope exceeds `kappa`."""
        return self.best_multiple(N, kappa)[0]

    def best_multiple(self, N, kappa):
        """The bound of a dual point as of `bound`, and the multiple that has it."""
        reach = furthest(self.alpha, kappa)
        value, scale = best_scale(self.loss, N, self.Y, self.sample_weight, reach)
        return value, scale * N


@dataclass(frozen=True)
class Problem(Objective):
    """Data and objective of a network of units of one family.

    Attributes
    ----------
    family : UnitFamily
        The data, and what the units make of them.
    Y, sample_weight, loss, alpha
        As of `Objective`.
    """

    family: object
    Y: np.ndarray
    sample_weight: np.ndarray
    loss: object
    alpha: float

    @property
    def X(self):
        """The data, shape (n_samples, n_features)."""
        return self.family.X

    @property
    def fit_intercept(self):
        """Whether biases are free."""
        return self.family.fit_intercept

    @property
    def n_outputs(self):
        return self.Y.shape[1]

    @property
    def y(self):
        """The target of the only output, shape (n_samples,)."""
        return self.Y[:, 0]

    @property
    def single_loss(self):
        """The loss of the only output, for one-dimensional arrays."""
        return self.loss.loss

    def null(self):
        """The network without units."""
        offset = self.best_offset(np.zeros(self.Y.shape))
        return replace(self.unused(self.family.none()), offset=offset)

    def null_dual(self):
        """The dual point of the network without units."""
        return self.dual_point(self.outputs(self.null()))

    def unused(self, units):
        """The network of units that add nothing, with an offset of zero."""
        width = self.family.n_windows * self.n_outputs
        return Network(units, np.zeros((len(units), width)), np.zeros(self.n_outputs))

    def outputs(self, network):
        """Outputs of a network, shape (n_samples, n_outputs)."""
        parts, matrix = [], self.family.dense(network.outputs)
        for rows in self.family.row_chunks(len(network)):
            Z = self.family.features_in_place(network.units, rows)
            Z = in_precision(Z, np.float64)
            parts.append(in_numpy(Z @ placed(matrix, Z)))
        return np.concatenate(parts) + network.offset

    def with_best_offset(self, network):
        """The same network with the best output biases, if they are free."""
        if not self.fit_intercept:
            return network
        F = self.outputs(replace(network, offset=0.0 * network.offset))
        return replace(network, offset=self.best_offset(F))

    def objective(self, network):
        """Objective of a network."""
        return self.value(self.outputs(network)) + self.penalty(network)

    def penalty(self, network):
        """The part of the objective that is the weight decay."""
        return self.alpha * float(np.sum(network.sizes))


def best_scale(loss, nu, y, weight, reach):
    """Maximum of the concave ``G(t nu)`` over ``0 <= t <= reach``, and its place.

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
    scale : float
        The number ``t``.
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
    scales = 0.0, min(1.0, reach), reach, float(found.x)
    found = [(value(scale), scale) for scale in scales]
    finite = [pair for pair in found if np.isfinite(pair[0])]
    return max(finite, default=(-np.inf, 0.0))
