"""The training problem: objective and dual bounds of networks."""

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import minimize_scalar

from sklearn_convexnn._utils.breakdown import furthest
from sklearn_convexnn._utils.deadlines import check
from sklearn_convexnn.model.neurons import Neurons, activation
from sklearn_convexnn.model.scales import GoesByScales

# Entries of the features of neurons that are in memory at once (32 MB).
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Problem(GoesByScales):
    """Data and objective of a network.

    Attributes
    ----------
    X : ndarray of shape (n_samples, n_features)
    Y : ndarray of shape (n_samples, n_outputs)
    sample_weight : ndarray of shape (n_samples,)
        Positive.
    loss : Separable or Softmax
    alpha : float
    fit_intercept : bool
    negative_slope : float
    scales_ratio : float
        The largest scale of a feature over the smallest one.
    """

    X: np.ndarray
    Y: np.ndarray
    sample_weight: np.ndarray
    loss: object
    alpha: float
    fit_intercept: bool
    negative_slope: float
    scales_ratio: float = field(default=1.0, kw_only=True)

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
        """The network without neurons."""
        offset = np.zeros(self.n_outputs)
        if self.fit_intercept:
            offset = self.loss.best_offset(
                np.zeros(self.Y.shape), self.Y, self.sample_weight
            )
        return Neurons(
            np.zeros((0, self.X.shape[1])),
            np.zeros(0),
            np.zeros((0, self.n_outputs)),
            np.zeros(0, dtype=bool),
            offset,
        )

    def unused(self, directions, biases, outputs):
        """Neurons with an offset of zero, those without a kink as linear.

        Parameters
        ----------
        directions : ndarray of shape (n_neurons, n_features)
            Unit rows.
        biases : ndarray of shape (n_neurons,)
        outputs : ndarray of shape (n_neurons, n_outputs)

        Returns
        -------
        neurons : Neurons
            With an offset of zero.
        """
        linear = np.zeros(len(biases), dtype=bool)
        if self.fit_intercept:
            linear[:] = True
            for rows in self.row_chunks(len(biases)):
                linear &= np.all(self.X[rows] @ directions.T + biases > 0, axis=0)
        return Neurons(
            directions=directions,
            biases=np.where(linear, 0.0, biases),
            outputs=outputs,
            linear=linear,
            offset=np.zeros(self.n_outputs),
        )

    def row_chunks(self, width):
        """Slices of samples, of which arrays of `width` columns are small."""
        size = max(1, _CHUNK // max(width, self.X.shape[1], 1))
        return [slice(i, i + size) for i in range(0, len(self.X), size)]

    def features(self, neurons, rows=slice(None)):
        """Outputs of the units of the neurons, shape (n_samples, n_neurons).

        They have the precision of ``X``.
        """
        X = self.X[rows]
        z = X @ neurons.directions.T.astype(X.dtype, copy=False)
        z += neurons.biases.astype(X.dtype, copy=False)
        return np.where(neurons.linear, z, activation(z, self.negative_slope))

    def outputs(self, neurons):
        """Outputs of a network, shape (n_samples, n_outputs)."""
        parts = [
            self.features(neurons, rows) @ neurons.outputs
            for rows in self.row_chunks(len(neurons))
        ]
        return np.concatenate(parts) + neurons.offset

    def objective(self, neurons):
        """Objective of a network."""
        penalty = self.alpha * float(np.sum(neurons.sizes))
        return self.value(self.outputs(neurons)) + penalty

    def value(self, F):
        """Loss at outputs `F`."""
        return self.loss.value(F, self.Y, self.sample_weight)

    def gradient(self, F):
        """Derivative of `value`, of the shape of `F`."""
        return self.loss.gradient(F, self.Y, self.sample_weight)

    def curvature(self, F):
        """Second derivatives of the loss, averaged over the outputs of a sample."""
        return self.loss.curvature(F, self.Y, self.sample_weight).mean(axis=1)

    def slopes(self, neurons, N):
        """How steeply the dual function rises along units, shape (n_neurons,).

        The norm of the slopes over the outputs.
        """
        return np.linalg.norm(self.slopes_by_output(neurons, N), axis=1)

    def slopes_by_output(self, units, N):
        """Slopes of units for each output, shape (n_units, n_outputs).

        Parameters
        ----------
        units : Neurons or candidates
            With `directions` and `biases`; candidates have a kink.
        N : ndarray of shape (n_samples, n_outputs)

        Returns
        -------
        slopes : ndarray of shape (n_units, n_outputs)
            In double precision, whatever that of ``X``: they decide on bounds.
        """
        slopes = np.zeros((len(units), self.n_outputs))
        for rows in self.row_chunks(len(units)):
            check()
            z = self.X[rows].astype(np.float64, copy=False) @ units.directions.T
            z += units.biases
            active = activation(z, self.negative_slope)
            if hasattr(units, "linear"):
                active = np.where(units.linear, z, active)
            slopes += active.T @ N[rows]
        return slopes

    def dual_point(self, F):
        """Dual variable at outputs `F`, in its domain."""
        if self.fit_intercept:
            F = F + self.loss.best_offset(F, self.Y, self.sample_weight)
        return self.project(-self.gradient(F))

    def project(self, N):
        """The closest point of the dual domain, as far as it is easily found."""
        return self.loss.project_dual(
            N, self.Y, self.sample_weight, centred=self.fit_intercept
        )

    def bound(self, N, kappa):
        """Lower bound from a dual point at which no slope exceeds `kappa`."""
        return best_scaled_value(
            self.loss, N, self.Y, self.sample_weight, furthest(self.alpha, kappa)
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
