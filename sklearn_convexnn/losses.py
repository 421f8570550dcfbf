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
from scipy.optimize import brentq
from scipy.special import entr, expit, xlogy

NEVER = -1e30
"""Output of classes without weight: of probability zero, and below all others."""

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
    """
    return float(2.0 ** np.round(np.log2(size))) if size > 0 else 1.0


def _location(y, s, free):
    """Unit and shift of targets, powers of two and multiples of them."""
    shift = np.zeros(y.shape[1:])
    if free:
        shift = np.average(y, axis=0, weights=s)
    size = np.sqrt(np.mean(np.average((y - shift) ** 2, axis=0, weights=s)))
    if size <= _FLAT * np.max(np.abs(y)):
        # Constant targets.
        size = np.max(np.abs(y))
    size = power_of_two(size)
    return size, size * np.round(shift / size)


class Loss:
    """Base of the losses; see the module docstring for the notation.

    Subclasses implement `value`, `gradient`, `curvature`, `dual_bounds`,
    `dual_terms`, `dual_slope` and `dual_curvature`.

    Attributes
    ----------
    name : str
        The name that the estimators use.
    smooth : bool
        Whether the gradient is single-valued, so that ``nu`` follows from
        ``f``.  Otherwise ``nu`` has to come from a solver.
    """

    name = None
    smooth = True

    def value(self, f, y, s):
        """Sum of the weighted losses, a float."""
        raise NotImplementedError

    def gradient(self, f, y, s):
        """Derivative of `value` with respect to ``f`` (a subgradient at kinks)."""
        raise NotImplementedError

    def curvature(self, f, y, s):
        """Second derivative of `value` (the right limit at kinks)."""
        raise NotImplementedError

    def dual_bounds(self, y, s):
        """Box ``(lower, upper)`` outside of which ``G(nu)`` is minus infinity."""
        raise NotImplementedError

    def dual_terms(self, nu, y, s):
        """Terms ``s_i phi(nu_i / s_i, y_i)`` of ``G`` inside its domain."""
        raise NotImplementedError

    def dual_slope(self, nu, y, s):
        """Derivative of ``G`` with respect to ``nu``."""
        raise NotImplementedError

    def dual_curvature(self, nu, y, s):
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
        return float(np.sum(self.dual_terms(nu, y, s)))

    def conjugate(self, g, y, s):
        """The convex conjugate ``L*(g) = sup_f g @ f - L(f)``."""
        return -self.dual_value(-g, y, s)

    def project_dual(self, nu, y, s, centred=False):
        """Nearby point of the dual domain, with ``sum(nu) = 0`` if `centred`.

        Clipping a shifted ``nu`` keeps it in the box; the shift that makes
        the sum vanish is found as the root of a monotone function.
        """
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
        return float(brentq(slope, low, high, xtol=1e-14 * reach, rtol=1e-14))


class SquaredError(Loss):
    """Half squared error ``(f - y)^2 / 2``."""

    name = "squared_error"

    def value(self, f, y, s):
        return float(0.5 * np.sum(s * (f - y) ** 2))

    def gradient(self, f, y, s):
        return s * (f - y)

    def curvature(self, f, y, s):
        return np.asarray(s, dtype=np.float64).copy()

    def dual_bounds(self, y, s):
        return np.full(len(y), -np.inf), np.full(len(y), np.inf)

    def dual_terms(self, nu, y, s):
        return y * nu - 0.5 * nu**2 / s

    def dual_slope(self, nu, y, s):
        return y - nu / s

    def dual_curvature(self, nu, y, s):
        return 1.0 / s

    def minimiser(self, y):
        return y

    def scaled(self, y, s, free):
        size, shift = _location(y, s, free)
        return Scaled(self, (y - shift) / size, size, size**2, shift)

    def best_offset(self, f, y, s):
        return float(np.average(y - f, weights=s))


class Huber(SquaredError):
    """Huber loss: ``r^2 / 2`` where ``|r| <= epsilon``, linear beyond, ``r = f - y``.

    Parameters
    ----------
    epsilon : float
        Residual, in units of ``y``, from which on the loss is linear.
    """

    name = "huber"

    def __init__(self, epsilon):
        self.epsilon = epsilon

    def value(self, f, y, s):
        r = np.abs(f - y)
        inner = np.minimum(r, self.epsilon)
        return float(np.sum(s * inner * (r - 0.5 * inner)))

    def gradient(self, f, y, s):
        return s * np.clip(f - y, -self.epsilon, self.epsilon)

    def curvature(self, f, y, s):
        return s * (np.abs(f - y) <= self.epsilon)

    def dual_bounds(self, y, s):
        return -self.epsilon * s, self.epsilon * s

    def scaled(self, y, s, free):
        size, shift = _location(y, s, free)
        loss = Huber(self.epsilon / size)
        return Scaled(loss, (y - shift) / size, size, size**2, shift)

    best_offset = Loss.best_offset


class Pinball(Loss):
    """Pinball loss ``q (y - f)_+ + (1 - q) (f - y)_+``, least at the quantile ``q``.

    Parameters
    ----------
    quantile : float
        The number ``q``, in (0, 1).
    """

    name = "quantile"
    smooth = False

    def __init__(self, quantile):
        self.quantile = quantile

    def value(self, f, y, s):
        r = y - f
        return float(np.sum(s * np.maximum(self.quantile * r, (self.quantile - 1) * r)))

    def gradient(self, f, y, s):
        # Zero at the kink: a sample that is met pulls in neither direction.
        return s * np.where(f > y, 1.0 - self.quantile, -self.quantile * (f < y))

    def curvature(self, f, y, s):
        return np.zeros(len(y))

    def dual_bounds(self, y, s):
        return (self.quantile - 1.0) * s, self.quantile * s

    def dual_terms(self, nu, y, s):
        return y * nu

    def dual_slope(self, nu, y, s):
        return np.asarray(y, dtype=np.float64).copy()

    def dual_curvature(self, nu, y, s):
        return np.zeros(len(y))

    def minimiser(self, y):
        return y

    def scaled(self, y, s, free):
        size, shift = _location(y, s, free)
        return Scaled(self, (y - shift) / size, size, size, shift)

    def spread(self, f, y, s):
        return np.average(np.abs(f - y), weights=s)

    def best_offset(self, f, y, s):
        """A quantile of the residuals, the middle of them if there are several."""
        order = np.argsort(y - f, kind="stable")
        r, below = (y - f)[order], np.cumsum(s[order])
        wanted = self.quantile * below[-1]
        margin = 1e-12 * below[-1]
        low = np.searchsorted(below, wanted - margin)
        high = np.searchsorted(below, wanted + margin)
        return float(0.5 * (r[low] + r[min(high, len(r) - 1)]))


class Poisson(Loss):
    """Half the Poisson deviance of the mean ``exp(f)``, with ``y >= 0``.

    ``exp(f) - y f + y log(y) - y``; without the part that does not depend on
    ``f``, it is scikit-learn's ``HalfPoissonLoss``.
    """

    name = "poisson"

    # Outputs beyond which the exponential is continued linearly.  A descent may
    # come here, where numbers would overflow, but no optimum is as far.
    _FARTHEST = 300.0

    def _mean(self, f):
        return np.exp(np.minimum(f, self._FARTHEST))

    def value(self, f, y, s):
        mean = self._mean(f)
        beyond = mean * np.maximum(f - self._FARTHEST, 0.0)
        terms = mean + beyond - y - (y * f - xlogy(y, y))
        # Close to the minimum only this form does not lose digits.
        distance = f - self.minimiser(y)
        close = np.abs(distance) < 0.1
        distance = np.where(close, distance, 0.0)
        terms = np.where(close, y * (np.expm1(distance) - distance), terms)
        return float(np.sum(s * terms))

    def gradient(self, f, y, s):
        return s * (self._mean(f) - y)

    def curvature(self, f, y, s):
        return s * self._mean(f) * (f <= self._FARTHEST)

    def dual_bounds(self, y, s):
        return np.full(len(y), -np.inf), s * y

    def dual_terms(self, nu, y, s):
        mean = np.maximum(y - nu / s, 0.0)
        return s * (entr(mean) - entr(y)) - nu

    def dual_slope(self, nu, y, s):
        return np.log(y - nu / s)

    def dual_curvature(self, nu, y, s):
        return 1.0 / (s * y - nu)

    def minimiser(self, y):
        with np.errstate(divide="ignore"):
            return np.log(y)

    def scaled(self, y, s, free):
        # The deviance is proportional to targets and means, but only a free constant
        # can make the means larger at no cost.
        size = power_of_two(np.mean(np.average(y, axis=0, weights=s))) if free else 1.0
        return Scaled(self, y / size, 1.0, size, np.full(y.shape[1:], np.log(size)))

    def check_targets(self, Y, s):
        if np.min(Y) < 0:
            raise ValueError(
                "loss='poisson' needs y to be non-negative, but y has "
                f"{np.min(Y):.3g}; use another loss."
            )
        if not np.all(s @ Y > 0):
            raise ValueError(
                "loss='poisson' needs y to be positive for some sample with a "
                "positive weight, in each output: the best prediction would be "
                "zero, which the exponential does not reach. Leave the output out."
            )

    def spread(self, f, y, s):
        pull = np.sum(np.abs(self.gradient(f, y, s)))
        return self.value(f, y, s) / pull if pull > 0 else 0.0

    def best_offset(self, f, y, s):
        top = np.max(f)
        ratio = np.average(y, weights=s) / np.average(np.exp(f - top), weights=s)
        return float(np.log(ratio) - top)


class LogLoss(Loss):
    """Logistic loss ``log(1 + exp(-y f))`` with ``y`` in {-1, +1}."""

    name = "log_loss"

    def value(self, f, y, s):
        return float(np.sum(s * np.logaddexp(0.0, -y * f)))

    def gradient(self, f, y, s):
        return -s * y * expit(-y * f)

    def curvature(self, f, y, s):
        return s * expit(f) * expit(-f)

    def dual_bounds(self, y, s):
        return np.where(y > 0, 0.0, -s), np.where(y > 0, s, 0.0)

    def dual_terms(self, nu, y, s):
        t = np.clip(y * nu / s, 0.0, 1.0)
        return s * (entr(t) + entr(1.0 - t))

    def dual_slope(self, nu, y, s):
        t = y * nu / s
        return y * (np.log1p(-t) - np.log(t))

    def dual_curvature(self, nu, y, s):
        t = y * nu / s
        return 1.0 / (s * t * (1.0 - t))


class SquaredHinge(Loss):
    """Squared hinge loss ``max(0, 1 - y f)^2`` (no half) with ``y`` in {-1, +1}."""

    name = "squared_hinge"

    def value(self, f, y, s):
        return float(np.sum(s * np.maximum(0.0, 1.0 - y * f) ** 2))

    def gradient(self, f, y, s):
        return -2.0 * s * y * np.maximum(0.0, 1.0 - y * f)

    def curvature(self, f, y, s):
        return 2.0 * s * (y * f < 1.0)

    def dual_bounds(self, y, s):
        return np.where(y > 0, 0.0, -np.inf), np.where(y > 0, np.inf, 0.0)

    def dual_terms(self, nu, y, s):
        return y * nu - 0.25 * nu**2 / s

    def dual_slope(self, nu, y, s):
        return y - 0.5 * nu / s

    def dual_curvature(self, nu, y, s):
        return 0.5 / s


class Hinge(Loss):
    """Hinge loss ``max(0, 1 - y f)`` with ``y`` in {-1, +1}."""

    name = "hinge"
    smooth = False

    def value(self, f, y, s):
        return float(np.sum(s * np.maximum(0.0, 1.0 - y * f)))

    def gradient(self, f, y, s):
        return -s * y * (y * f < 1.0)

    def curvature(self, f, y, s):
        return np.zeros(len(y))

    def dual_bounds(self, y, s):
        return np.where(y > 0, 0.0, -s), np.where(y > 0, s, 0.0)

    def dual_terms(self, nu, y, s):
        return y * nu

    def dual_slope(self, nu, y, s):
        return np.asarray(y, dtype=np.float64).copy()

    def dual_curvature(self, nu, y, s):
        return np.zeros(len(y))


class OneSided(Loss):
    """A regression loss that is constant on one side of its minimiser.

    The largest convex function below `loss` that never falls (or never rises)
    with the output: the least that can be reached if outputs may be moved to
    that side at no cost.

    Parameters
    ----------
    loss : Loss
        With a `minimiser`.
    sides : ndarray of shape (n_samples,)
        Sign of the dual variable that remains possible, 0 for both.
    """

    def __init__(self, loss, sides):
        self.name, self.smooth = loss.name, loss.smooth
        self.loss = loss
        self.sides = sides

    def _clipped(self, f, y):
        best = self.loss.minimiser(y)
        f = np.where(self.sides < 0, np.maximum(f, best), f)
        return np.where(self.sides > 0, np.minimum(f, best), f)

    def value(self, f, y, s):
        return self.loss.value(self._clipped(f, y), y, s)

    def gradient(self, f, y, s):
        return self.loss.gradient(self._clipped(f, y), y, s)

    def curvature(self, f, y, s):
        return self.loss.curvature(f, y, s) * (self._clipped(f, y) == f)

    def dual_bounds(self, y, s):
        lower, upper = self.loss.dual_bounds(y, s)
        return (
            np.where(self.sides > 0, 0.0, lower),
            np.where(self.sides < 0, 0.0, upper),
        )

    def dual_terms(self, nu, y, s):
        return self.loss.dual_terms(nu, y, s)

    def dual_slope(self, nu, y, s):
        return self.loss.dual_slope(nu, y, s)

    def dual_curvature(self, nu, y, s):
        return self.loss.dual_curvature(nu, y, s)


REGRESSION_LOSSES = ("squared_error", "huber", "quantile", "poisson")
CLASSIFICATION_LOSSES = ("log_loss", "squared_hinge", "hinge")


def make_loss(name, epsilon=1.35, quantile=0.5):
    """Loss object of the given name.

    Parameters
    ----------
    name : {'squared_error', 'huber', 'quantile', 'poisson', 'log_loss', \
            'squared_hinge', 'hinge'}
        Name of the loss.
    epsilon : float, default=1.35
        Threshold of the Huber loss; the other losses ignore it.
    quantile : float, default=0.5
        Quantile of the pinball loss; the other losses ignore it.

    Returns
    -------
    loss : Loss
    """
    if name == "huber":
        return Huber(epsilon)
    if name == "quantile":
        return Pinball(quantile)
    for cls in (SquaredError, Poisson, LogLoss, SquaredHinge, Hinge):
        if cls.name == name:
            return cls()
    raise ValueError(
        f"loss={name!r} is unknown; choose one of "
        f"{REGRESSION_LOSSES + CLASSIFICATION_LOSSES}."
    )
