"""The same loss for each of several outputs.

As in `sklearn_convexnn.losses.base`, with arrays of shape ``(n_samples, n_outputs)``
for outputs ``F``, targets ``Y`` and dual variables ``N = -grad L(F)``:

    L(F) = max_N  G(N) - <N, F>,        G(N) = sum_ik of terms of N_ik,

over a box, and for the softmax loss also over ``N`` whose rows sum to zero.
"""

from dataclasses import replace

import numpy as np


class Separable:
    """The same loss for each output, added up.

    Parameters
    ----------
    loss : Loss
    """

    rows_sum_to_zero = False

    def __init__(self, loss):
        self.loss = loss
        self.name = loss.name
        self.smooth = loss.smooth

    def _flat(self, function, first, Y, s):
        weight = np.repeat(s, Y.shape[1])
        return function(np.asarray(first).ravel(), Y.ravel(), weight)

    def value(self, F, Y, s):
        """Sum of the weighted losses, a float."""
        return self._flat(self.loss.value, F, Y, s)

    def gradient(self, F, Y, s):
        """Derivative of `value` (a subgradient at kinks), of the shape of `F`."""
        return self._flat(self.loss.gradient, F, Y, s).reshape(Y.shape)

    def curvature(self, F, Y, s):
        """Second derivatives for each output by itself."""
        return self._flat(self.loss.curvature, F, Y, s).reshape(Y.shape)

    def merged(self, Y, s, group):
        """Samples of equal features as one, as `Loss.merged`."""
        parts = [self.loss.merged(y, s, group) for y in Y.T]
        if parts[0] is None:
            return None
        means, weights, constants = zip(*parts)
        return np.column_stack(means), weights[0], sum(constants)

    def scaled(self, Y, s, free):
        """The loss in units in which targets are of order one, as `Loss.scaled`."""
        scaled = self.loss.scaled(Y, s, free)
        return replace(scaled, loss=Separable(scaled.loss))

    def spread(self, F, Y, s):
        """By how much outputs typically have to move from `F`, in their units."""
        return self._flat(self.loss.spread, F, Y, s)

    def dual_bounds(self, Y, s):
        """Box ``(lower, upper)`` outside of which ``G`` is minus infinity."""
        bounds = self.loss.dual_bounds(Y.ravel(), np.repeat(s, Y.shape[1]))
        return tuple(bound.reshape(Y.shape) for bound in bounds)

    def dual_terms(self, N, Y, s):
        """Terms of ``G`` inside its domain."""
        return self._flat(self.loss.dual_terms, N, Y, s).reshape(Y.shape)

    def dual_slope(self, N, Y, s):
        """Derivative of ``G``."""
        return self._flat(self.loss.dual_slope, N, Y, s).reshape(Y.shape)

    def dual_curvature(self, N, Y, s):
        """Minus the second derivatives of ``G``."""
        return self._flat(self.loss.dual_curvature, N, Y, s).reshape(Y.shape)

    def expression(self, cp, F, Y, s):
        """The loss of CVXPY variables `F`, as `Loss.expression`."""
        f = cp.vec(F, order="C")
        return self.loss.expression(cp, f, Y.ravel(), np.repeat(s, Y.shape[1]))

    def project_dual(self, N, Y, s, centred=False):
        """Nearby point of the dual domain, columns summing to zero if `centred`."""
        return np.column_stack(
            [
                self.loss.project_dual(nu, y, s, centred=centred)
                for nu, y in zip(N.T, Y.T)
            ]
        )

    def best_offset(self, F, Y, s):
        """Constants ``b`` that minimise ``L(F + b)``, shape (n_outputs,)."""
        return np.array([self.loss.best_offset(f, y, s) for f, y in zip(F.T, Y.T)])
