"""Stochastic descent on the non-convex objective, for many samples."""

from time import perf_counter

import numpy as np

from sklearn_convexnn._sklearn import get_namespace
from sklearn_convexnn._utils.deadlines import fits, left
from sklearn_convexnn._utils.devices import in_numpy, placed
from sklearn_convexnn.solvers.weights import Activation, random_size

# Samples in a batch, at most and at least, and as a part of all.
_BATCH, _LEAST, _PART = 256, 32, 0.25

# Step at the start, relative to the norm of the weights of a random neuron, and the
# number of features from which it is smaller: steps add up.
_RATE, _MANY_FEATURES = 0.02, 50
# Forgetting of Adam's means of the derivatives and of their squares.
_FIRST, _SECOND = 0.9, 0.99
# Batches after which the time that a batch takes is known well enough.
_TRIAL = 20


def descend_in_batches(problem, weights, rng, n_steps):
    """Lower the weight-decay objective by Adam with a rate that falls to zero.

    The rate is relative to the sizes of random weights, biases and the offset, so it
    needs no tuning to the data.

    Parameters
    ----------
    problem : Problem
        Works in the precision of its ``X``.
    weights : Weights
        Biases and the offset stay as they are if the problem has no free ones.
    rng : RandomState
    n_steps : int
        Batches, if there is time; otherwise the rate falls faster.

    Returns
    -------
    weights : Weights

    References
    ----------
    .. [1] Kingma, D. and Ba, J. (2015). "Adam: A Method for Stochastic
       Optimization". ICLR.
    .. [2] Loshchilov, I. and Hutter, F. (2017). "SGDR: Stochastic Gradient
       Descent with Warm Restarts". ICLR. (the cosine schedule)
    """
    return descend(Adam(problem, weights), len(problem.X), rng, n_steps)


def descend(adam, n_samples, rng, n_steps):
    """Move the weights of an `Adam`, as `descend_in_batches`.

    Parameters
    ----------
    adam : Adam
    n_samples : int
    rng : RandomState
    n_steps : int

    Returns
    -------
    weights : Weights
    """
    batches = _batches(n_samples, rng)
    many = max(adam.weights.hidden.shape[0] / _MANY_FEATURES, 1.0)
    schedule = _Schedule(n_steps, _RATE * many**-0.25)
    while not schedule.over:
        adam.step(next(batches), schedule.next_rate())
        schedule.end_in_time()
    return adam.weights.in_numpy().astype(np.float64)


def batch_size(n_samples):
    """Samples in a batch, of so many.

    Parameters
    ----------
    n_samples : int

    Returns
    -------
    size : int
        Zero if they are too few for batches.
    """
    size = min(int(_PART * n_samples), _BATCH)
    return size if size >= _LEAST else 0


def _batches(n_samples, rng):
    """Indices of batches without end, in rounds that see a sample at most once."""
    size = batch_size(n_samples)
    while True:
        order = rng.permutation(n_samples)
        for i in range(0, n_samples - size + 1, size):
            yield order[i : i + size]


class _Schedule:
    """Rates of the steps, along a cosine to zero at the last or when time is up."""

    def __init__(self, n_steps, rate):
        self.step, self.n_steps, self.start = 0, n_steps, perf_counter()
        self.rate = rate

    @property
    def over(self):
        """Whether all steps are done."""
        return self.step >= self.n_steps

    def next_rate(self):
        """Rate of a further step."""
        if self.step == _TRIAL:
            times_more = max(left(), 0.0) / (perf_counter() - self.start)
            self.n_steps = int(min(self.n_steps, (1.0 + times_more) * self.step))
        progress = self.step / self.n_steps
        self.step += 1
        return self.rate * 0.5 * (1.0 + np.cos(np.pi * progress))

    def end_in_time(self):
        """Let the step before have been the last one if the time is up."""
        if not fits():
            self.n_steps = self.step


class Adam:
    """Weights that move in place, with means of the derivatives and their squares.

    Parameters
    ----------
    problem : Problem
    weights : Weights
        Where they are at first.
    """

    def __init__(self, problem, weights):
        p, self.problem, self.X = problem, problem, problem.family.data
        self.xp, _ = get_namespace(self.X)
        weights = weights.astype(p.X.dtype)
        entry = p.family.typical_length / np.sqrt(p.family.unit_size)
        self.units = _units(problem, len(weights.output), entry)
        self.weights = w = weights.placed(self.X)
        self.activation = Activation(w.linear, p.family.negative_slope)
        self.bent = placed((~w.linear).astype(p.X.dtype), self.X)
        self.decay = float(p.alpha / len(p.X))
        self.parts = [w.hidden, w.output]
        if p.fit_intercept:
            self.parts += [w.bias, w.offset]
        self.first = [self.xp.zeros_like(part) for part in self.parts]
        self.second = [self.xp.zeros_like(part) for part in self.parts]
        self.n_steps = 0
        # Derivatives of the mean loss are of about this size, whatever its units.
        typical = np.sqrt(np.mean(p.gradient(p.outputs(p.null())) ** 2))
        typical = typical * entry * self.units[0]
        self.tiny = float(1e-8 * max(typical, 1e-30))

    def step(self, batch, rate):
        """Move all weights, for the samples of these indices."""
        self.n_steps += 1
        # The means start from zero.
        rate *= np.sqrt(1.0 - _SECOND**self.n_steps) / (1.0 - _FIRST**self.n_steps)
        for part, slope, mean, square, unit in zip(
            self.parts, self._derivatives(batch), self.first, self.second, self.units
        ):
            mean *= _FIRST
            mean += (1.0 - _FIRST) * slope
            square *= _SECOND
            square += (1.0 - _SECOND) * slope**2
            part -= float(rate * unit) * mean / (self.xp.sqrt(square) + self.tiny)

    def _derivatives(self, batch):
        """Derivatives of the mean objective of a batch by all weights."""
        p, w, xp = self.problem, self.weights, self.xp
        x = xp.take(self.X, placed(batch, self.X), axis=0)
        z = x @ w.hidden
        z += w.bias
        slope = self.activation.apply(z)
        # Losses are of NumPy; a batch has few outputs.
        F = in_numpy(z @ w.output + w.offset)
        N = p.loss.gradient(F, p.Y[batch], p.sample_weight[batch]) / len(batch)
        N = placed(N.astype(p.X.dtype), self.X)
        back = N @ w.output.T
        back *= slope
        return (
            x.T @ back + self.decay * w.hidden,
            z.T @ N + self.decay * w.output,
            self.bent * xp.sum(back, axis=0),
            xp.sum(N, axis=0),
        )


def _units(problem, n_neurons, entry):
    """Sizes of the weights, biases and the offset, for data of entries so large.

    A weight of a neuron can become as large as all together are: those of many
    features have most to gain from a few.
    """
    size = random_size(problem, n_neurons)
    offset = size**2 * entry * np.sqrt(n_neurons)
    return size, size / np.sqrt(problem.n_outputs), size * entry, offset
