"""The training problem of several outputs: objective and dual bounds of networks."""

from dataclasses import dataclass, field, replace

import numpy as np

from sklearn_convexnn._utils.breakdown import furthest
from sklearn_convexnn._utils.deadlines import check
from sklearn_convexnn.model.neurons import activation
from sklearn_convexnn.model.problem import Problem, best_scaled_value
from sklearn_convexnn.model.scales import GoesByScales

# Entries of the features of neurons that are in memory at once (32 MB).
_CHUNK = 4_000_000


@dataclass(frozen=True)
class VectorNeurons:
    """Hidden neurons of several outputs, with directions of length one.

    Neuron ``j`` adds ``act(X direction_j + bias_j) outputs_j^T`` to the outputs.

    Attributes
    ----------
    directions : ndarray of shape (n_neurons, n_features)
    biases : ndarray of shape (n_neurons,)
    outputs : ndarray of shape (n_neurons, n_outputs)
        What its unit adds to each output.
    linear : ndarray of bool, shape (n_neurons,)
        Neurons that stand for a linear term: they count as active everywhere.
    offset : ndarray of shape (n_outputs,)
        Output biases.
    """

    directions: np.ndarray
    biases: np.ndarray
    outputs: np.ndarray
    linear: np.ndarray
    offset: np.ndarray

    def __len__(self):
        return len(self.biases)

    @property
    def sizes(self):
        """Norms of `outputs`, shape (n_neurons,)."""
        return np.linalg.norm(self.outputs, axis=1)

    def select(self, keep):
        """The neurons at index or mask `keep`."""
        return replace(
            self,
            directions=self.directions[keep],
            biases=self.biases[keep],
            outputs=self.outputs[keep],
            linear=self.linear[keep],
        )

    def joined(self, other):
        """These neurons and those of `other`, with the offset of these."""
        return replace(
            self,
            **{
                name: np.concatenate([getattr(self, name), getattr(other, name)])
                for name in ("directions", "biases", "outputs", "linear")
            },
        )


@dataclass(frozen=True)
class VectorProblem(GoesByScales):
    """Data and objective of a network of several outputs.

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

    def scalar(self):
        """The `Problem` of the only output."""
        return Problem(
            self.X,
            self.Y[:, 0],
            self.sample_weight,
            self.loss.loss,
            self.alpha,
            self.fit_intercept,
            self.negative_slope,
            scales_ratio=self.scales_ratio,
        )

    def null(self):
        """The network without neurons."""
        offset = np.zeros(self.n_outputs)
        if self.fit_intercept:
            offset = self.loss.best_offset(
                np.zeros(self.Y.shape), self.Y, self.sample_weight
            )
        return VectorNeurons(
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
        neurons : VectorNeurons
            With an offset of zero.
        """
        linear = np.zeros(len(biases), dtype=bool)
        if self.fit_intercept:
            linear[:] = True
            for rows in self.row_chunks(len(biases)):
                linear &= np.all(self.X[rows] @ directions.T + biases > 0, axis=0)
        return VectorNeurons(
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
        units : VectorNeurons or candidates
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
