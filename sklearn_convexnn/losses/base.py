"""Loss functions with the dual quantities that certificates are made of.

A loss is a sum over samples, ``L(f) = sum_i s_i l(f_i, y_i)`` with weights
``s_i > 0``.  Its dual variable is ``nu = -grad L(f)``, and

    L(f) = max_nu  G(nu) - f @ nu,        G(nu) = sum_i s_i phi(nu_i / s_i, y_i)

over a box ``lower <= nu <= upper``.  Every method takes arrays of shape
``(n_samples,)``: the outputs ``f`` (or the dual variable ``nu``), the targets
``y`` (-1 and +1 for the classification losses) and the weights ``s``.
"""

from dataclasses import dataclass

import numpy as np

from sklearn_convexnn._utils.breakdown import check_finite, root

# Spread of targets, relative to their size, that is rounding.
_FLAT = 1e-14


@dataclass(frozen=True)
class Scaled:
    """A loss in units in which targets are of order one.

    ``L(output * f + shift; targets) = value * loss(f; y)``.

    Attributes
    ----------
    loss : Loss, Separable or Softmax
    y : ndarray
        Targets in these units.
    output, value : float
        Units of the outputs and of the loss.
    shift : float or ndarray of shape (n_outputs,)
    """

    loss: object
    y: np.ndarray
    output: float
    value: float
    shift: object


def power_of_two(size):
    """The power of two that is closest to `size` on a logarithmic scale.

    To divide by it loses no digits.  One if `size` is zero.

    Parameters
    ----------
    size : float

    Returns
    -------
    power : float
    """
    return float(2.0 ** np.round(np.log2(size))) if size > 0 else 1.0


def location_of(y, s, free):
    """Size of targets, and the shift, in whole sizes, that brings them near zero.

    Parameters
    ----------
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
    s : ndarray of shape (n_samples,)
    free : bool
        Whether a shift is allowed; otherwise it is zero.

    Returns
    -------
    size : float
        A power of two.
    shift : ndarray of shape () or (n_outputs,)
        Multiples of `size`.
    """
    shift = np.zeros(y.shape[1:])
    if free:
        shift = np.average(y, axis=0, weights=s)
    size = np.sqrt(np.mean(np.average((y - shift) ** 2, axis=0, weights=s)))
    if size <= _FLAT * np.max(np.abs(y)):
        # Constant targets.
        size = np.max(np.abs(y))
    size = power_of_two(size)
    return size, size * np.round(shift / size)


def means(y, s, group):
    """Weighted means of groups, and their weights.

    Parameters
    ----------
    y, s : ndarray of shape (n_samples,)
    group : ndarray of int, shape (n_samples,)
        Numbers of the groups, from zero.

    Returns
    -------
    means, weights : ndarray of shape (n_groups,)
    """
    weight = np.bincount(group, weights=s)
    return np.bincount(group, weights=s * y) / weight, weight


class Loss:
    """Base of the losses; see the module docstring for the notation.

    Subclasses implement `terms`, `slopes`, `bends`, `dual_bounds`, `dual_terms`,
    `dual_slope`, `dual_curvature` and `expression`.  Where there is a parameter `xp`
    it is the namespace of the arrays.

    Attributes
    ----------
    name : str
        The name that the estimators use.
    largest_bend : float or None
        Bound of `bends`, if there is one.
    smooth : bool
        Whether the gradient is single-valued, so that ``nu`` follows from
        ``f``.  Otherwise ``nu`` has to come from a solver, and ``G(nu)`` is ``y @ nu``.
    """

    name: str | None = None
    smooth = True
    largest_bend: float | None = None

    def terms(self, f, y, xp=np):
        """Losses ``l(f, y)`` of the samples."""
        raise NotImplementedError

    def slopes(self, f, y, xp=np):
        """Their derivatives with respect to ``f`` (subgradients at kinks)."""
        raise NotImplementedError

    def bends(self, f, y, xp=np):
        """Their second derivatives (the right limits at kinks)."""
        raise NotImplementedError

    def expression(self, cp, f, y, s):
        """The loss of CVXPY variables `f`, of at most one at a solution.

        `cp` is CVXPY.
        """
        raise ValueError(f"solver='cvxpy' has no formulation of loss={self.name!r}.")

    def value(self, f, y, s):
        """Sum of the weighted losses, a float."""
        return float(np.sum(s * self.terms(f, y)))

    def gradient(self, f, y, s):
        """Derivative of `value` with respect to ``f`` (a subgradient at kinks)."""
        return s * self.slopes(f, y)

    def curvature(self, f, y, s):
        """Second derivative of `value` (the right limit at kinks)."""
        return s * self.bends(f, y)

    def dual_bounds(self, y, s):
        """Box ``(lower, upper)`` outside of which ``G(nu)`` is minus infinity."""
        raise NotImplementedError

    def dual_terms(self, nu, y, s):
        """Terms ``s_i phi(nu_i / s_i, y_i)`` of ``G`` inside its domain."""
        raise NotImplementedError

    def dual_slope(self, nu, y, s, xp=np):
        """Derivative of ``G`` with respect to ``nu``."""
        raise NotImplementedError

    def dual_curvature(self, nu, y, s, xp=np):
        """Minus the second derivative of ``G``, non-negative."""
        raise NotImplementedError

    def minimiser(self, y):
        """Outputs at which the terms are least, where ``nu`` changes its sign.

        None if ``nu`` keeps the sign of the label.
        """
        return None

    def check_targets(self, Y, s):
        """Raise ValueError for targets for which the loss has no minimum.

        `Y` has the shape (n_samples, n_outputs).
        """

    def merged(self, y, s, group):
        """Samples of equal features as one, if the loss is a function of their mean.

        Parameters
        ----------
        y, s : ndarray of shape (n_samples,)
        group : ndarray of int, shape (n_samples,)
            Which samples have the same features; all numbers from zero on.

        Returns
        -------
        y, s : ndarray of shape (n_groups,)
        constant : float
            By how much the loss is larger than that of these, whatever the outputs.
        None
            In place of these, if there are no such samples.
        """
        return None

    def scaled(self, y, s, free):
        """The loss in units in which targets are of order one.

        Parameters
        ----------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        s : ndarray of shape (n_samples,)
        free : bool
            Whether a constant can be added to the outputs at no cost.

        Returns
        -------
        scaled : Scaled
        """
        return Scaled(self, y, 1.0, 1.0, np.zeros(y.shape[1:]))

    def spread(self, f, y, s):
        """By how much outputs typically have to move from `f`, in their units."""
        return np.sqrt(self.value(f, y, s) / np.sum(s))

    def dual_value(self, nu, y, s):
        """The dual objective ``G(nu) = -L*(-nu)``, minus infinity off the domain."""
        lower, upper = self.dual_bounds(y, s)
        if np.any(nu < lower) or np.any(nu > upper):
            return -np.inf
        value = float(np.sum(self.dual_terms(nu, y, s)))
        return value if np.isfinite(value) else -np.inf

    def conjugate(self, g, y, s):
        """The convex conjugate ``L*(g) = sup_f g @ f - L(f)``."""
        return -self.dual_value(-g, y, s)

    def project_dual(self, nu, y, s, centred=False):
        """Nearby point of the dual domain, with ``sum(nu) = 0`` if `centred`.

        Clipping a shifted ``nu`` keeps it in the box; the shift that makes
        the sum vanish is found as the root of a monotone function.
        """
        check_finite(nu)
        lower, upper = self.dual_bounds(y, s)
        if not centred:
            return np.clip(nu, lower, upper)

        if np.sum(lower) >= 0 or np.sum(upper) <= 0:
            # Only nu = 0 sums to zero, as with the labels of a single class.
            return np.zeros_like(nu)
        # The sum of ``clip(nu + shift * s)`` is piecewise linear in the shift.
        from_, to = (lower - nu) / s, (upper - nu) / s
        kinks = np.concatenate([from_, to])
        kinks = np.sort(kinks[np.isfinite(kinks)])
        first, last = 0, len(kinks)
        while first < last:
            middle = (first + last) // 2
            if np.sum(np.clip(nu + kinks[middle] * s, lower, upper)) < 0:
                first = middle + 1
            else:
                last = middle
        left = kinks[first - 1] if first > 0 else -np.inf
        right = kinks[first] if first < len(kinks) else np.inf
        inside = (from_ <= left) & (to >= right)
        if not inside.any():
            return np.where(to <= left, upper, lower)
        fixed = np.sum(np.where(to <= left, upper, lower)[~inside])
        shift = -(fixed + np.sum(nu[inside])) / np.sum(s[inside])
        return np.clip(nu + shift * s, lower, upper)

    def best_offset(self, f, y, s):
        """Constant ``b`` that minimises ``L(f + b)``, a float.

        When the minimum is not attained (labels of a single class), a finite
        ``b`` whose loss is negligibly above the infimum is returned.
        """

        check_finite(f)

        def slope(b):
            return np.sum(self.gradient(f + b, y, s))

        reach = 1.0 + np.max(np.abs(y)) + np.max(np.abs(f))
        low = high = 0.0
        while slope(low) > 0 and low > -1e3 * reach:
            low = 2 * low - reach
        while slope(high) < 0 and high < 1e3 * reach:
            high = 2 * high + reach
        if slope(low) >= 0:
            return float(low)
        if slope(high) <= 0:
            return float(high)
        # The slope of a piecewise linear loss jumps over zero: the bracket
        # then shrinks on to the kink, which is the minimiser.
        return float(root(slope, low, high, xtol=1e-14 * reach, rtol=1e-14))
