"""Parallel sub-networks as a family of units."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.linalg import svd

from sklearn_convexnn._utils.breakdown import BREAKDOWNS
from sklearn_convexnn._utils.deadlines import check
from sklearn_convexnn.families.base import UnitFamily
from sklearn_convexnn.families.subnetworks.architecture import Architecture
from sklearn_convexnn.families.subnetworks.placing import (
    improve_subnetworks,
    place_subnetworks,
    random_subnetworks,
)
from sklearn_convexnn.families.subnetworks.recovery import (
    layers_of_subnetworks,
    subnetworks_of_layers,
)
from sklearn_convexnn.families.subnetworks.searching import search_far_and_near
from sklearn_convexnn.families.subnetworks.slope_bounds import slope_bound
from sklearn_convexnn.families.subnetworks.units import Subnetworks, forward
from sklearn_convexnn.model.network import Network

# Operations of a product of matrices in the time of one on single numbers, and in that
# of a layer of few numbers.
_ELEMENTWISE, _OF_LAYER = 20, 1e6


@dataclass(frozen=True)
class ParallelSubnetworks(UnitFamily):
    """Sub-networks of one architecture, whose cost is that of their weights.

    Attributes
    ----------
    architecture : Architecture
    """

    architecture: Architecture

    def none(self):
        weights, biases = self.no_weights(0)
        return Subnetworks(tuple(weights), tuple(biases))

    def no_weights(self, n_units):
        """Weights and biases of zero for sub-networks."""
        sizes = (self.X.shape[1], *self.architecture.widths)
        weights = [np.zeros((n_units, *pair)) for pair in pairwise(sizes)]
        return weights, [np.zeros((n_units, size)) for size in sizes[1:]]

    def units(self, weights, biases):
        """Sub-networks of any weights, brought to cost one; none of cost zero.

        Parameters
        ----------
        weights : sequence of ndarray of shape (n_units, n_inputs, n_outputs)
        biases : sequence of ndarray of shape (n_units, n_outputs)

        Returns
        -------
        units : Subnetworks
        """
        weights, biases, cost = self.architecture.normalised(weights, biases)
        return Subnetworks(tuple(weights), tuple(biases)).select(cost > 0)

    def network(self, weights, biases, outputs, offset):
        """The network of sub-networks of any weights.

        Parameters
        ----------
        weights, biases : sequence of ndarray
            As of `units`.
        outputs : ndarray of shape (n_units, n_outputs)
        offset : ndarray of shape (n_outputs,)

        Returns
        -------
        network : Network
            Of sub-networks of cost one, none of cost zero.
        """
        weights, biases, cost = self.architecture.normalised(weights, biases)
        units = Subnetworks(tuple(weights), tuple(biases))
        return Network(units, outputs * cost[:, None], offset).select(cost > 0)

    def embedded(self, directions, biases):
        """Weights and biases of sub-networks that are neurons, and cost the least.

        Parameters
        ----------
        directions : ndarray of shape (n_neurons, n_features)
        biases : ndarray of shape (n_neurons,)

        Returns
        -------
        weights, biases : list of ndarray
            As of `units`.
        """
        weights, shifts = self.no_weights(len(biases))
        # With the path norm the sum of equal leaves costs less than one of them.
        working = slice(None) if self.architecture.norm == "path" else slice(1)
        weights[0][:, :, working] = directions[:, :, None]
        shifts[0][:, working] = biases[:, None]
        for W, used in zip(weights[1:], self.architecture.connections[1:]):
            W[:, working, working] = 1.0 if used is None else used[working, working]
        return weights, shifts

    def features(self, units, rows=slice(None), dtype=None):
        X = self.X[rows]
        X = X if dtype is None else X.astype(dtype, copy=False)
        if len(units) == 0:
            return np.zeros((len(X), 0), dtype=X.dtype)
        weights, biases = (
            [part.astype(X.dtype, copy=False) for part in parts]
            for parts in (units.weights, units.biases)
        )
        return forward(X, weights, biases)[-1][:, 0]

    def random(self, size, rng):
        return random_subnetworks(self, size, rng)

    def search(self, N, size, rng, **how):
        return search_far_and_near(self, N, size, rng, **how)

    def slopes(self, units, N):
        check(self.work(len(units)))
        return super().slopes(units, N)

    def slopes_by_output(self, units, N):
        # Also when the time is up: what a search has found is of use.
        slopes = np.zeros((len(units), N.shape[1]))
        for rows in self.row_chunks(len(units)):
            slopes += self.features(units, rows, np.float64).T @ N[rows]
        return slopes

    def linear(self, N, floor):
        slopes = self.X.T @ N
        try:
            directions, sizes, _ = svd(slopes, full_matrices=False)
        except BREAKDOWNS:
            # No slope is above the norm of all.
            directions, sizes = slopes[:, :0], np.linalg.norm(slopes)[None]
        if self.architecture.norm == "path":
            # The sum of equal leaves costs less than one of them.
            sizes = sizes * np.sqrt(self.architecture.widths[0])
        directions = directions.T[sizes[: directions.shape[1]] > floor]
        shift = np.max(-self.X @ directions.T, axis=0, initial=0.0)
        return sizes.max(initial=0.0), self.units(*self.embedded(directions, shift))

    def place(self, problem, n_units, rng, **limits):
        return place_subnetworks(problem, n_units, rng, **limits)

    def descend(self, problem, network, **limits):
        return improve_subnetworks(problem, network, **limits)

    def upper_slope(self, N):
        return slope_bound(self, N)

    def layers(self, network):
        return layers_of_subnetworks(network)

    def network_of_layers(self, coefs, intercepts):
        return subnetworks_of_layers(self, coefs, intercepts)

    def row_chunks(self, width):
        return super().row_chunks(width * max(self.architecture.widths))

    def work(self, n_units):
        """Operations of a forward pass of so many sub-networks, for deadlines."""
        sizes = (self.X.shape[1], *self.architecture.widths)
        products = [inputs * outputs for inputs, outputs in pairwise(sizes)]
        # What is not a product of matrices goes as fast as memory allows.
        by_sample = 2 * products[0] + _ELEMENTWISE * (
            sum(products[1:]) + sum(sizes[1:])
        )
        return float(len(self.X)) * n_units * by_sample + _OF_LAYER * len(products)
