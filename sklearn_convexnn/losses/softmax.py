"""The log loss of several classes."""

import numpy as np
from scipy.special import entr

from sklearn_convexnn._utils.breakdown import check_finite
from sklearn_convexnn.losses.base import Scaled


class Softmax:
    """Log loss of the softmax of the outputs.

    ``Y`` has a one for the class of each sample and zeros elsewhere.  The dual
    variable is ``N = s (Y - P)`` with probabilities ``P``, so its rows sum to
    zero, and ``G(N) = sum_ik -s_i P_ik log P_ik``.
    """

    name = "log_loss"
    smooth = True
    rows_sum_to_zero = True

    vanishing = 2000.0
    """Distance of outputs at which probabilities are zero, with room for neurons."""
    largest_bend = 0.5
    """Bound of the eigenvalues of the second derivatives of a sample."""

    def terms(self, F, Y, xp=np):
        """Losses of the samples, by class."""
        shifted = F - xp.max(F, axis=1, keepdims=True)
        return Y * (xp.log(xp.sum(xp.exp(shifted), axis=1, keepdims=True)) - shifted)

    def slopes(self, F, Y, xp=np):
        """Their derivatives."""
        return self.probabilities(F, xp) - Y

    @staticmethod
    def probabilities(F, xp=np):
        """Those of the classes, of the shape of `F`."""
        E = xp.exp(F - xp.max(F, axis=1, keepdims=True))
        return E / xp.sum(E, axis=1, keepdims=True)

    def value(self, F, Y, s):
        """Sum of the weighted losses, a float."""
        return float(np.sum(s[:, None] * self.terms(F, Y)))

    def gradient(self, F, Y, s):
        """Derivative of `value`, of the shape of `F`."""
        return s[:, None] * self.slopes(F, Y)

    def curvature(self, F, Y, s):
        """Second derivatives for each output by itself."""
        P = self.probabilities(F)
        return s[:, None] * P * (1.0 - P)

    def merged(self, Y, s, group):
        """None: targets are to be classes."""

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

    def expression(self, cp, F, Y, s):
        """The loss of CVXPY variables `F`, as `Loss.expression`."""
        own = cp.sum(cp.multiply(Y, F), axis=1)
        return cp.sum(cp.multiply(s, cp.log_sum_exp(F, axis=1) - own))

    def project_dual(self, N, Y, s, centred=False):
        """Nearby point of the dual domain, columns summing to zero if `centred`."""
        check_finite(N)
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
            b[~seen] = lowest - reach - self.vanishing
        return b

    @staticmethod
    def _balanced(F, total, s):
        """Constants with which the probabilities of each class sum to `total`."""

        def excess(b):
            P = Softmax.probabilities(F + b)
            return P, s @ P - total

        def value(b):
            shifted = F + b
            top = shifted.max(axis=1)
            return s @ (top + np.log(np.exp(shifted - top[:, None]).sum(1))) - total @ b

        b = np.log(total / np.sum(s))
        b -= np.log(s @ Softmax.probabilities(F) / np.sum(s) + 1e-300)
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
            check_finite(hessian, error)
            try:
                step = np.linalg.lstsq(hessian, -error, rcond=None)[0]
            except np.linalg.LinAlgError:
                # Slower, and needs no factorisation.
                step = np.log(np.maximum(total / (s @ P), 1e-300))
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
