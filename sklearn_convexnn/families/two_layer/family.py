"""Two-layer networks as a family of units."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import svd

from sklearn_convexnn._sklearn import get_namespace
from sklearn_convexnn._utils.devices import in_numpy, in_precision, placed
from sklearn_convexnn.families.base import UnitFamily
from sklearn_convexnn.families.two_layer.bursts import descend_in_bursts
from sklearn_convexnn.families.two_layer.climbing import row_norms
from sklearn_convexnn.families.two_layer.neurons import (
    Neurons,
    RowSpace,
    activation,
)
from sklearn_convexnn.families.two_layer.placing import (
    improve_neurons,
    place_neurons,
    random_weights,
)
from sklearn_convexnn.families.two_layer.pricing import search_units, search_widely
from sklearn_convexnn.families.two_layer.recovery import (
    layers_of_neurons,
    merge_parallel,
    neurons_of_layers,
)
from sklearn_convexnn.families.two_layer.searching import Ground, search_far_and_near
from sklearn_convexnn.families.two_layer.starts import random_directions
from sklearn_convexnn.solvers.descent import Descent
from sklearn_convexnn.solvers.mini_batches import descend_in_batches

# Outputs (samples times outputs times random directions) of one search, and random
# directions of each kind, at most.
_MOST_OUTPUTS, _MOST_STARTS = 2_000_000, 600
# Random directions of each kind before a bound is believed, fewest and most, and
# operations for them.
_FEWEST_STARTS, _CLAIM_STARTS, _CLAIM_WORK = 75, 4000, 3.2e11
# Operations of a search for a random direction and a sample: for each feature and
# output, and what sorting and steps are worth in features.
_OPERATIONS, _OUTPUT, _OVERHEAD = 1000.0, 5, 100


@dataclass(frozen=True)
class TwoLayer(UnitFamily):
    """Neurons ``act(x^T u + b)``, whose cost is the length of ``u``.

    Attributes
    ----------
    negative_slope : float
        Slope of the activation left of zero.
    """

    negative_slope: float = 0.0

    has_cells = True
    # Outputs of a unit for a sample, before they are pooled.
    places = 1

    @property
    def geometry(self):
        """What decides on the slopes of neurons, apart from the data."""
        return {"free_bias": self.fit_intercept, "negative_slope": self.negative_slope}

    def reduced(self):
        return RowSpace.of(self)

    def none(self):
        return self.neurons(np.zeros((0, self.X.shape[1])), np.zeros(0))

    def neurons(self, directions, biases):
        """Neurons of directions and biases, those without a kink as linear.

        Parameters
        ----------
        directions : ndarray of shape (n_neurons, n_features)
            Unit rows.
        biases : ndarray of shape (n_neurons,)

        Returns
        -------
        neurons : Neurons
        """
        linear = np.zeros(len(biases), dtype=bool)
        if self.fit_intercept:
            linear[:] = True
            for rows in self.row_chunks(len(biases)):
                linear &= np.all(self.X[rows] @ directions.T + biases > 0, axis=0)
        return Neurons(directions, np.where(linear, 0.0, biases), linear)

    def features(self, units, rows=slice(None), dtype=None):
        return in_numpy(self.features_in_place(units, rows, dtype))

    def features_in_place(self, units, rows=slice(None), dtype=None):
        X, xp = self.data[rows, :], get_namespace(self.data)[0]
        X = X if dtype is None else in_precision(X, dtype)
        z = X @ placed(units.directions.T, X, X.dtype)
        z += placed(units.biases, X, X.dtype)
        linear = placed(units.linear, X)
        return xp.where(linear, z, activation(z, self.negative_slope))

    def random(self, size, rng):
        directions = random_directions(self.X, size, rng, self.fit_intercept)[1]
        directions = directions / row_norms(directions)[:, None]
        biases = np.zeros(size)
        if self.fit_intercept:
            at = rng.randint(len(self.X), size=size)
            biases = -np.einsum("kd,kd->k", self.X[at], directions)
        return self.neurons(directions, biases)

    def ground(self, N):
        """What units are searched with at a dual point."""
        return Ground(self.X, N, N)

    def hidden(self, coefs, biases):
        """Features of neurons with any weights, shape (n_samples, n_neurons).

        Parameters
        ----------
        coefs : ndarray of shape (n_features, n_neurons)
        biases : ndarray of shape (n_neurons,)

        Returns
        -------
        Z : ndarray
        """
        return activation(self.X @ coefs + biases, self.negative_slope)

    def search_widely(self, N, size, rng, **options):
        """Candidates from random directions only, of which independence is told.

        Parameters
        ----------
        N : ndarray of shape (n_samples, n_outputs)
        size : int
        rng : RandomState
        **options : dict
            As of `search_units`.

        Returns
        -------
        candidates : Candidates
        """
        return search_widely(self.X, N, size, rng, **self.geometry, **options)

    def search_near(self, N, directions, **options):
        """Candidates from given directions, as `search_units` has them."""
        return search_units(self.X, N, directions, **self.geometry, **options)

    def search(self, N, size, rng, **how):
        return search_far_and_near(self, N, size, rng, **how)

    def most_starts(self, n_outputs):
        return min(_MOST_OUTPUTS // (len(self.X) * n_outputs), _MOST_STARTS)

    def starts_of_claim(self, n_outputs):
        size = _CLAIM_WORK / self.search_work(n_outputs)
        return int(np.clip(size, _FEWEST_STARTS, _CLAIM_STARTS))

    def search_work(self, n_outputs):
        n, d = self.X.shape
        return _OPERATIONS * n * (d + _OUTPUT * n_outputs + _OVERHEAD)

    def linear(self, N, floor):
        slopes = sum(self.X[rows].T @ N[rows] for rows in self.row_chunks(1))
        units, sizes, _ = svd(slopes, full_matrices=False, check_finite=False)
        units = units.T[sizes > floor]
        far = np.full(len(units), np.linalg.norm(self.X) + 1.0)
        return sizes.max(initial=0.0), self.neurons(units, far)

    @property
    def unit_size(self):
        """Weights of a neuron."""
        return self.X.shape[1]

    @property
    def typical_length(self):
        """Root mean square of the lengths of what neurons are multiplied with."""
        return np.linalg.norm(self.X) / np.sqrt(len(self.X))

    def random_weights(self, problem, n_units, rng):
        """Weights to start a descent from."""
        return random_weights(problem, n_units, rng)

    def descent(self, problem, weights):
        """A descent from given weights, over all samples."""
        return Descent(problem, weights)

    def descend_in_batches(self, problem, weights, rng, n_steps):
        """The weights after steps over some samples each."""
        return descend_in_batches(problem, weights, rng, n_steps)

    def place(self, problem, n_units, rng, **limits):
        return place_neurons(problem, n_units, rng, **limits)

    def bursts(self, problem, n_units, rng, pays, report):
        return descend_in_bursts(problem, n_units, rng, pays, report)

    def descend(self, problem, network, **limits):
        return improve_neurons(problem, network, **limits)

    def upper_slope(self, N):
        # Activations are not steeper than one, and where biases are free, so that they
        # are not zero at the origin, the sums of `N` are zero.
        lengths = row_norms(self.X).astype(np.float64)
        # Lengths may be of single precision.
        return (1.0 + 1e-4) * float(lengths @ row_norms(N))

    def merged(self, network):
        return merge_parallel(network)

    def layers(self, network):
        return layers_of_neurons(network, self.X)

    def network_of_layers(self, coefs, intercepts):
        return neurons_of_layers(self, coefs, intercepts)
