"""Search for sub-networks that are steep at a dual point."""

import numpy as np

from sklearn_convexnn._utils.deadlines import OutOfTime, check
from sklearn_convexnn.families.base import Candidates
from sklearn_convexnn.families.subnetworks.placing import random_subnetworks
from sklearn_convexnn.families.subnetworks.units import (
    backward,
    forward,
    pre_activation,
)
from sklearn_convexnn.families.two_layer.pricing import first_of_each

# Widths of smoothed kinks, relative to the spread of the inputs of a unit: those of
# the stages of a search from anywhere, and from where units are steep already.
FAR = (0.5, 0.1, 0.02, 0.0)
SLOW = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.0)
NEAR = (0.05, 0.0)
# Part of the climbers that goes on to the next stage, and outputs of inner units of
# those that do in any case.
_GO_ON, _FEW = 0.6, 200_000
# Step below which a climber rests.
_RESTS = 1e-5
# Samples on which kinks are tried, at most.
_HANGERS = 30
# What is divided by, in single precision.
_TINY = np.float32(1e-30)
# Outputs (samples times inner units) that are in memory at once.
_CHUNK = 1_000_000


def ascend(family, N, starts, *, widths, max_iter, most=200, partial=False):
    """Move sub-networks uphill on the slope at a dual point.

    Many at once, each with a step of its own that grows with success and shrinks
    with failure.  Kinks are smoothed at first, as slopes have many small peaks.

    Parameters
    ----------
    family : ParallelSubnetworks
    N : ndarray of shape (n_samples, n_outputs)
        The dual point.
    starts : Subnetworks
    widths : sequence of float
        Of the smoothed kinks in each stage, the last one zero.
    max_iter : int
        Steps of all stages.
    most : int, default=200
        Candidates to return.
    partial : bool, default=False
        Whether those that are not yet at the top are of use when there is no time
        for the rest of the way.

    Returns
    -------
    candidates : Candidates
    """
    if len(starts) == 0:
        return Candidates(starts, np.zeros(0))
    size = max(1, _CHUNK // (len(family.X) * sum(family.architecture.widths)))
    parts = [
        _Climbers(family, N, starts.select(slice(i, i + size)))
        for i in range(0, len(starts), size)
    ]
    try:
        _climb_all(family, parts, widths, max_iter)
    except OutOfTime:
        if not partial:
            raise
    weights, biases = zip(*(part.found() for part in parts))
    units = family.units(
        [np.concatenate(W) for W in zip(*weights)],
        [np.concatenate(b) for b in zip(*biases)],
    )
    return ranked(family, N, units, most)


def _climb_all(family, parts, widths, max_iter):
    """All stages of an ascent; the best of all parts go on from one to the next."""
    for stage, width in enumerate(widths):
        for part in parts:
            if width == 0 and family.fit_intercept:
                part.hang()
            part.climb(width, max(1, max_iter // len(widths)))
        if stage + 1 < len(widths):
            values = np.concatenate([part.value for part in parts])
            few = max(50, _FEW // (len(family.X) * sum(family.architecture.widths)))
            count = max(int(_GO_ON * len(values)), few)
            if count < len(values):
                least = np.partition(values, -count)[-count]
                for part in parts:
                    part.keep(part.value >= least)


def ranked(family, N, units, most):
    """Distinct candidates of sub-networks, steepest first.

    Parameters
    ----------
    family : ParallelSubnetworks
    N : ndarray of shape (n_samples, n_outputs)
    units : Subnetworks
    most : int

    Returns
    -------
    candidates : Candidates
    """
    slopes = np.linalg.norm(family.slopes_by_output(units, N), axis=1)
    order = np.argsort(-slopes, kind="stable")
    order = order[slopes[order] > 0]
    units, slopes = units.select(order), slopes[order]
    # The same outputs on the samples are the same unit.
    probe = np.random.RandomState(0).standard_normal((len(family.X), 8))
    points = family.features(units).T @ probe
    points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-300)
    keep = first_of_each(points, np.zeros(len(points)), 1e-4)[0][:most]
    return Candidates(units.select(keep), slopes[keep])


class _Climbers:
    """Sub-networks of cost one on their way up.

    In single precision, for data and a dual point of size one: what is found is
    measured afterwards.
    """

    def __init__(self, family, N, units):
        check(2.0 * family.work(len(units)))
        self.family = family
        size = np.linalg.norm(family.X) / np.sqrt(family.X.size)
        self.unit = max(size, 1e-300)
        self.X = (family.X / self.unit).astype(np.float32)
        self.N = (N / max(np.max(np.abs(N)), 1e-300)).astype(np.float32)
        self.weights = [W.astype(np.float32) for W in units.weights]
        self.biases = [(b / self.unit).astype(np.float32) for b in units.biases]
        self.step = np.full(len(units), 0.3, dtype=np.float32)
        self.value = np.zeros(len(units), dtype=np.float32)
        self.free = np.float32(family.fit_intercept)

    @property
    def work(self):
        """Operations of a forward pass, half of those in double precision."""
        return 0.5 * self.family.work(len(self.value))

    def found(self):
        """Weights and biases in the units of the data."""
        weights = [W.astype(np.float64) for W in self.weights]
        return weights, [self.unit * b.astype(np.float64) for b in self.biases]

    def keep(self, some):
        self.weights = [W[some] for W in self.weights]
        self.biases = [b[some] for b in self.biases]
        self.step, self.value = self.step[some], self.value[some]

    def hang(self):
        """Put the kinks of units on the samples where their slopes are largest.

        The slope is piecewise linear in each bias, and mostly largest where the
        input of its unit is zero at a sample.
        """
        X, biases = self.X, self.biases
        n = len(X)
        some = np.arange(n)
        if n > _HANGERS:
            some = np.linspace(0, n - 1, _HANGERS).astype(int)
        self.value, _ = self._evaluate(self.weights, biases, 0.0)
        for level in range(len(biases)):
            layers = forward(X, self.weights[:level], biases[:level])
            z = pre_activation(layers[-1] if layers else X, self.weights[level])
            for unit in range(biases[level].shape[1]):
                for i in some:
                    check(self.work)
                    trial = [b.copy() for b in biases]
                    trial[level][:, unit] = -z[i, unit]
                    outputs = forward(X, self.weights, trial)[-1][:, 0]
                    value = self._norms(outputs.T @ self.N)[1]
                    better = value > self.value
                    biases[level][better] = trial[level][better]
                    self.value[better] = value[better]

    def climb(self, width, n_steps):
        """Take steps with kinks of some width."""
        live = np.arange(len(self.value))
        self.step[:] = np.maximum(self.step, 0.01)
        self.value, gradient = self._evaluate(self.weights, self.biases, width)
        for _ in range(n_steps):
            check(3.0 * self.work)
            live = live[self.step[live] > _RESTS]
            if len(live) == 0:
                return
            weights = [W[live] for W in self.weights]
            biases = [b[live] for b in self.biases]
            ahead = self._moved(weights, biases, [g[live] for g in gradient], live)
            value, slope = self._evaluate(*ahead, width)
            better = value > self.value[live]
            index = live[better]
            self.value[index] = value[better]
            for own, new in zip(self.weights + self.biases, ahead[0] + ahead[1]):
                own[index] = new[better]
            for own, new in zip(gradient, slope):
                own[index] = new[better]
            factor = np.where(better, 1.5, 0.4)
            self.step[live] = np.minimum(self.step[live] * factor, 1.0)

    def _moved(self, weights, biases, gradient, live):
        """Units after a step along their gradients, of cost one again."""
        n_layers = len(weights)
        length = np.sqrt(
            sum(np.sum(g**2, axis=tuple(range(1, g.ndim))) for g in gradient)
        )
        size = self.step[live] / np.maximum(length, _TINY)
        moved = [
            W + size[:, None, None] * g for W, g in zip(weights, gradient[:n_layers])
        ]
        shifted = [b + size[:, None] * g for b, g in zip(biases, gradient[n_layers:])]
        return self.family.architecture.normalised(moved, shifted)[:2]

    def _norms(self, slopes):
        """Slopes by output, those that count, and their norms."""
        return slopes, np.linalg.norm(slopes, axis=1)

    def _evaluate(self, weights, biases, width):
        """Slopes of units of cost one, and gradients at a fixed cost.

        Their biases are clipped, in the list that is given.
        """
        p = self.family
        layers, masks = [], []
        for level, W in enumerate(weights):
            z = pre_activation(layers[-1] if layers else self.X, W)
            if p.fit_intercept:
                # Beyond the samples biases add constants, whose slope is rounding.
                low, high = -np.max(z, axis=0).T, -np.min(z, axis=0).T
                biases[level] = np.clip(biases[level], low, high)
            z += biases[level].T
            layer, mask = np.maximum(z, 0.0), z > 0
            if width > 0:
                # As far as they are from zero, and no more than they spread.
                size = np.float32(width) * np.sqrt(np.mean(z**2, axis=0)) + _TINY
                mask = z / size
                mask += np.float32(0.5)
                np.clip(mask, 0.0, 1.0, out=mask)
                layer = mask * (z + np.float32(0.5) * size * (np.float32(1.0) - mask))
            layers.append(layer)
            masks.append(mask)
        slopes, value = self._norms(layers[-1][:, 0].T @ self.N)
        outputs = slopes / np.maximum(value, _TINY)[:, None]
        to_weights, to_biases = backward(
            self.X, weights, layers, self.N @ outputs.T, masks
        )
        _, by_cost = p.architecture.cost_squared(weights)
        gradient = []
        for slope, cost, used in zip(to_weights, by_cost, p.architecture.connections):
            slope = slope - 0.5 * value[:, None, None] * cost
            gradient.append(slope if used is None else slope * used)
        gradient += [self.free * slope for slope in to_biases]
        return value, gradient


def search_widely(family, N, size, rng, widths, max_iter, partial=False):
    """Candidates from random sub-networks.

    Parameters
    ----------
    family : ParallelSubnetworks
    N : ndarray of shape (n_samples, n_outputs)
    size : int
    rng : RandomState
    widths : sequence of float
    max_iter : int
    partial : bool, default=False
        As of `ascend`.

    Returns
    -------
    candidates : Candidates
    """
    starts = random_subnetworks(family, size, rng)
    return ascend(family, N, starts, widths=widths, max_iter=max_iter, partial=partial)
