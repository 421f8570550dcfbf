"""The training problem of several outputs: objective and dual bounds of networks."""

from dataclasses import dataclass, replace

import numpy as np

from sklearn_convexnn.problem import best_scaled_value
from sklearn_convexnn.recovery import activation


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
class VectorProblem:
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
    separate : bool
        Whether each neuron feeds one output only.  Otherwise the outputs share
        the hidden layer.
    """

    X: np.ndarray
    Y: np.ndarray
    sample_weight: np.ndarray
    loss: object
    alpha: float
    fit_intercept: bool
    negative_slope: float
    separate: bool

    @property
    def n_outputs(self):
        return self.Y.shape[1]

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
            linear = np.all(self.X @ directions.T + biases > 0, axis=0)
        return VectorNeurons(
            directions=directions,
            biases=np.where(linear, 0.0, biases),
            outputs=outputs,
            linear=linear,
            offset=np.zeros(self.n_outputs),
        )

    def features(self, neurons):
        """Outputs of the units of the neurons, shape (n_samples, n_neurons)."""
        z = self.X @ neurons.directions.T + neurons.biases
        return np.where(neurons.linear, z, activation(z, self.negative_slope))

    def outputs(self, neurons):
        """Outputs of a network, shape (n_samples, n_outputs)."""
        return self.features(neurons) @ neurons.outputs + neurons.offset

    def objective(self, neurons):
        """Objective of a network."""
        sizes = np.abs(neurons.outputs) if self.separate else neurons.sizes
        return self.value(self.outputs(neurons)) + self.alpha * float(np.sum(sizes))

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

        The norm of the slopes over the outputs, or the largest of them if
        neurons are `separate`.
        """
        per_output = self.features(neurons).T @ N
        order = np.inf if self.separate else 2
        return np.linalg.norm(per_output, ord=order, axis=1)

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
        reach = self.alpha / kappa if kappa > 0 else np.inf
        return best_scaled_value(self.loss, N, self.Y, self.sample_weight, reach)
