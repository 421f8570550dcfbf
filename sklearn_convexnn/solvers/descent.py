"""L-BFGS on the non-convex objective of a network."""

import numpy as np

from sklearn_convexnn._sklearn import get_namespace
from sklearn_convexnn._utils.deadlines import check
from sklearn_convexnn._utils.devices import in_numpy, placed, product_into
from sklearn_convexnn.solvers.lbfgs import LBFGS
from sklearn_convexnn.solvers.weights import Activation, Weights

# Entries of a temporary array (32 MB).
_CHUNK = 4_000_000
# By how much the unit of the offset is larger than that of other biases: many neurons
# move outputs together.  Descent is faster for 3 to 10 (measured on eight problems).
_OFFSET = 5.0
# Weights are reported again if their gain, as a part of the objective, times so high a
# power of the number of steps is large enough: after 2 steps that gain half, 5 steps
# that gain 1.3 % or 10 that gain 0.1 %.
_POWER, _WORTH = 4, 8.0


class Objective:
    """The weight-decay objective, of all weights as one vector and in own units.

    Parameters
    ----------
    problem : Problem
    weights : Weights
        Which of the neurons are linear, and of what sizes weights are.
    """

    def __init__(self, problem, weights):
        p, X = problem, problem.X
        self.problem, self.weights = problem, weights
        (d, m), c = weights.hidden.shape, weights.output.shape[1]
        self.shapes = (d, m), (m, c)
        self.ends = np.cumsum([d * m, m * c, m])
        self.activation = Activation(weights.linear, p.family.negative_slope)
        self.bent = (~weights.linear).astype(np.float64) * p.fit_intercept
        rows = max(1, _CHUNK // max(m, d))
        n = len(X)
        self.chunks = [slice(i, min(i + rows, n)) for i in range(0, n, rows)]
        # A product with the data, in single precision twice as fast.
        self.work = 2.0 * X.size * m / (2 if X.dtype == np.float32 else 1)
        if p.family.apart:
            self.units = own_units(X, weights.hidden, weights.output, p.alpha)
        else:
            entry = p.family.typical_length / np.sqrt(p.family.unit_size)
            units = np.array(weights.units(entry))
            units[-1] *= _OFFSET
            self.units = np.repeat(
                np.maximum(units, 1e-300),
                [*np.diff(self.ends, prepend=0), len(weights.offset)],
            )

    def start(self):
        """The vector of the given weights."""
        w = self.weights
        parts = [w.hidden.ravel(), w.output.ravel(), w.bias, w.offset]
        return np.concatenate(parts) / self.units

    def split(self, x):
        """Hidden and output weights, biases and the offset of a vector."""
        x, (to_V, to_bias, to_offset) = self.units * x, self.ends
        W, V = x[:to_V].reshape(self.shapes[0]), x[to_V:to_bias].reshape(self.shapes[1])
        return W, V, x[to_bias:to_offset], x[to_offset:]

    def weights_of(self, x):
        """The weights of a vector."""
        W, V, bias, offset = self.split(x)
        return Weights(W, V, bias, self.weights.linear, offset)

    def value_and_gradient(self, x):
        """The objective at a vector, and its derivatives."""
        p, X = self.problem, self.problem.family.data
        check(self.work)
        W, V, bias, offset = self.split(x)
        # What is as large as the outputs of all neurons stays where the data are.
        short_V = self._short(V)
        z = X @ self._short(W)
        slopes = self._activate(z, bias)
        check(self.work)
        F = _in_double(z @ short_V) + offset
        N = p.gradient(F)
        short_N = self._short(N)
        V_gradient = _in_double(z.T @ short_N)
        for some, slope in zip(self.chunks, slopes):
            # From here on it holds derivatives by the products.
            product_into(short_N[some, :], short_V.T, z[some, :])
            z[some, :] *= slope
        xp, _ = get_namespace(z)
        sums = xp.sum(z, axis=0, dtype=xp.float64)
        gradient = np.concatenate(
            [
                (_in_double(X.T @ z) + p.alpha * W).ravel(),
                (V_gradient + p.alpha * V).ravel(),
                self.bent * _in_double(sums),
                np.sum(N, axis=0) * p.fit_intercept,
            ]
        )
        penalty = 0.5 * p.alpha * (np.vdot(W, W) + np.vdot(V, V))
        return p.value(F) + penalty, self.units * gradient

    def _short(self, values):
        """Values of NumPy as those of the data, in precision, library and device."""
        X = self.problem.X
        return placed(values.astype(X.dtype, copy=False), self.problem.family.data)

    def _activate(self, z, bias):
        """Turn products with the data into units, in place; slopes by chunks."""
        slopes = []
        bias = self._short(bias * self.bent)
        for some in self.chunks:
            part = z[some, :]
            if self.problem.fit_intercept:
                part += bias
            slopes.append(self.activation.apply(part))
        return slopes


class Descent:
    """Minimise ``L(F) + alpha / 2 (||W||^2 + ||V||^2)`` from given weights.

    Parameters
    ----------
    problem : Problem
        Units and derivatives are computed in the precision of its ``X``.
    weights : Weights
        Hidden ones ``W`` and output ones ``V``.  Biases and the offset stay as they
        are if the problem has no free ones.
    """

    # What is minimised, in one vector.
    objective = Objective

    def __init__(self, problem, weights):
        self._objective = self.objective(problem, weights)
        self._lbfgs = LBFGS(self._objective.value_and_gradient, self._objective.start())

    def run(self, max_iter=200, *, rtol=2.2e-9, deadline=np.inf, report=None):
        """Go on from where the last run has come.

        Parameters
        ----------
        max_iter : int, default=200
        rtol : float, default=2.2e-9
            Relative gain of a step below which to stop.
        deadline : float, default=inf
            Value of ``time.perf_counter()`` at which to stop.
        report : callable or None
            Called with weights on the way, as they get better.

        Returns
        -------
        weights : Weights
        """
        callback = None if report is None else _Reporter(self._objective, report)
        found = self._lbfgs.run(max_iter, rtol, deadline, callback)
        return self._objective.weights_of(found)


class _Reporter:
    """Callback that reports weights now and then."""

    def __init__(self, objective, report):
        self.objective, self.report = objective, report
        self.steps, self.value = 0, np.inf

    def __call__(self, lbfgs):
        self.steps += 1
        value = lbfgs.value
        gain = 1.0 - value / self.value if self.value < np.inf else 1.0
        if gain * self.steps**_POWER >= _WORTH:
            self.report(self.objective.weights_of(lbfgs.x))
            self.steps, self.value = 0, value


def _in_double(values):
    """Values of any library as those of NumPy, in double precision."""
    return in_numpy(values).astype(np.float64, copy=False)


def own_units(X, W, V, alpha):
    """Units of the weights where the scales of the features are far apart.

    Each hidden weight changes the outputs of its neuron as much as the others, and
    neurons are taken to be of the same outputs, with hidden and output weights of
    equal norms.  Where the features are of one scale, neurons have the same
    units.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    W : ndarray of shape (n_features, n_neurons)
    V : ndarray of shape (n_neurons, n_outputs)
    alpha : float

    Returns
    -------
    units : ndarray of shape (d * m + m * c + m + c,)
    """
    spread = np.sqrt(np.einsum("nd,nd->d", X, X, dtype=np.float64) / len(X))
    spread = np.maximum(spread, 1e-7 * spread.max(initial=1e-300))
    hidden = np.linalg.norm(W, axis=0)
    change = np.maximum(np.linalg.norm(W * spread[:, None], axis=0), 1e-300)
    # Of the penalty for each unit of output.
    cost = np.maximum(hidden / change, 1e-300)
    sizes = np.linalg.norm(V, axis=1)
    level = max(np.sqrt(np.mean((change * sizes) ** 2)), 1e-300)
    to_output, per_output = np.sqrt(level / cost), np.sqrt(level * cost)
    root = np.sqrt(len(W))
    # The weight decay resists as a spread would: a weight of a feature of tiny scale
    # has no effect before it costs much.
    resists = np.sqrt(alpha / len(X)) / per_output
    spread = np.hypot(spread[:, None], resists)
    return np.concatenate(
        [
            (to_output / spread).ravel() / root,
            np.repeat(per_output, V.shape[1]),
            to_output / root,
            np.full(V.shape[1], level / root),
        ]
    )
