"""Losses of several outputs, with the dual quantities that certificates need.

As in `sklearn_convexnn.losses`, with arrays of shape ``(n_samples, n_outputs)``
for outputs ``F``, targets ``Y`` and dual variables ``N = -grad L(F)``:

    L(F) = max_N  G(N) - <N, F>,        G(N) = sum_ik of terms of N_ik,

over a box, and for the softmax loss also over ``N`` whose rows sum to zero.
"""

from dataclasses import replace

import numpy as np
from scipy.special import entr, log_softmax, softmax

from sklearn_convexnn.losses import Scaled


class Separable:
    """The same loss for each output, added up.

    Parameters
    ----------
    loss : sklearn_convexnn.losses.Loss
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


class Softmax:
    """Log loss of the softmax of the outputs.

    ``Y`` has a one for the class of each sample and zeros elsewhere.  The dual
    variable is ``N = s (Y - P)`` with probabilities ``P``, so its rows sum to
    zero, and ``G(N) = sum_ik -s_i P_ik log P_ik``.
    """

    name = "log_loss"
    smooth = True
    rows_sum_to_zero = True

    def value(self, F, Y, s):
        """Sum of the weighted losses, a float."""
        return float(-np.sum(s * np.sum(Y * log_softmax(F, axis=1), axis=1)))

    def gradient(self, F, Y, s):
        """Derivative of `value`, of the shape of `F`."""
        return s[:, None] * (softmax(F, axis=1) - Y)

    def curvature(self, F, Y, s):
        """Second derivatives for each output by itself."""
        P = softmax(F, axis=1)
        return s[:, None] * P * (1.0 - P)

    def scaled(self, Y, s, free):
        """The loss in units in which targets are of order one, as `Loss.scaled`."""
        return Scaled(self, Y, 1.0, 1.0, np.zeros(Y.shape[1]))

    def spread(self, F, Y, s):
        """By how much outputs typically have to move from `F`, in their units."""
        return np.sqrt(self.value(F, Y, s) / np.sum(s))

    def dual_bounds(self, Y, s):
        """Box ``(lower, upper)`` outside of which ``G`` is minus infinity.

        The lower bounds follow from the upper ones, as rows sum to zero.
        """
        return np.full(Y.shape, -np.inf), s[:, None] * Y

    def dual_terms(self, N, Y, s):
        """Terms of ``G`` inside its domain."""
        s = s[:, None]
        return s * entr(np.maximum(Y - N / s, 0.0))

    def dual_slope(self, N, Y, s):
        """Derivative of ``G``, up to a constant in each row."""
        return np.log(Y - N / s[:, None])

    def dual_curvature(self, N, Y, s):
        """Minus the second derivatives of ``G``."""
        return 1.0 / (s[:, None] * Y - N)

    def project_dual(self, N, Y, s, centred=False):
        """Nearby point of the dual domain, columns summing to zero if `centred`."""
        with np.errstate(divide="ignore"):
            logits = np.log(np.maximum(Y - N / s[:, None], 1e-300))
        if centred:
            logits = logits + self.best_offset(logits, Y, s)
        return -self.gradient(logits, Y, s)

    def best_offset(self, F, Y, s):
        """Constants ``b`` that minimise ``L(F + b)``, of the classes seen of sum zero.

        A class without samples gets a constant at which its probability
        vanishes in floating point.
        """
        total = s @ Y
        seen = total > 0
        b = np.zeros(Y.shape[1])
        b[seen] = self._balanced(F[:, seen], total[seen], s)
        b -= b[seen].mean()
        if not seen.all():
            reach = np.max(F[:, ~seen], axis=0)
            lowest = np.min(np.max(F[:, seen] + b[seen], axis=1))
            b[~seen] = lowest - reach - 800.0
        return b

    @staticmethod
    def _balanced(F, total, s):
        """Constants with which the probabilities of each class sum to `total`."""

        def excess(b):
            P = softmax(F + b, axis=1)
            return P, s @ P - total

        def value(b):
            shifted = F + b
            top = shifted.max(axis=1)
            return s @ (top + np.log(np.exp(shifted - top[:, None]).sum(1))) - total @ b

        b = np.log(total / np.sum(s))
        b -= np.log(s @ softmax(F, axis=1) / np.sum(s) + 1e-300)
        last = np.inf
        for _ in range(100):
            P, error = excess(b)
            largest = np.max(np.abs(error)) / np.sum(s)
            # Of many samples, rounding of the sums leaves more.
            if largest <= 1e-15 or (last <= 1e-12 and largest > 0.5 * last):
                break
            last = largest
            hessian = np.diag(s @ P) - (P * s[:, None]).T @ P
            # Constants are determined up to a common one.
            hessian += np.trace(hessian) / len(b) ** 2 + 1e-300
            step = np.linalg.lstsq(hessian, -error, rcond=None)[0]
            before, slope, size = value(b), error @ step, 1.0
            if np.max(np.abs(error)) <= 1e-7 * np.sum(s):
                # Newton's step is exact to the last digit, which values do not show.
                return b + step
            while value(b + size * step) > before + 1e-4 * size * slope:
                size *= 0.5
                if size < 1e-10:
                    return b
            b = b + size * step
        return b
