"""Networks for many values of the weight decay, one from the other."""

import warnings
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral, Real

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state, check_scalar

from sklearn_convexnn._alpha_max import check_base, largest_slope
from sklearn_convexnn._base import Neighbour
from sklearn_convexnn._memory import require_memory
from sklearn_convexnn._scales import warn_of_scales

# The smallest alpha, by default, as a part of the largest.
EPS = 1e-2


@dataclass(frozen=True)
class Short:
    """How many of some fits have stopped short of their tolerance, and by how much.

    Attributes
    ----------
    n_fits, n_short : int
    largest : float
        Largest gap of those that have, relative to the objective.
    """

    n_fits: int
    n_short: int
    largest: float

    def warn(self, name, tol):
        """Warn if there are any.

        Parameters
        ----------
        name : str
            The estimator or function that made the fits.
        tol : float
        """
        if self.n_short:
            warnings.warn(
                f"{self.n_short} of the {self.n_fits} fits of {name} stopped with a "
                f"duality gap above tol={tol:g}, the largest {self.largest:.2g} of the "
                "objective. Increase max_iter or max_time, or loosen tol.",
                ConvergenceWarning,
            )


def joined(parts):
    """The sum of several `Short`.

    Parameters
    ----------
    parts : list of Short

    Returns
    -------
    short : Short
    """
    return Short(
        sum(part.n_fits for part in parts),
        sum(part.n_short for part in parts),
        max(part.largest for part in parts),
    )


def convex_relu_path(estimator, X, y, *, alphas=100, eps=EPS, sample_weight=None):
    """Networks for a sequence of weight decays, each started from its neighbours.

    Parameters
    ----------
    estimator : ConvexReLURegressor or ConvexReLUClassifier
        All its parameters but `alpha` and `warm_start` are used.
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
    alphas : int or array-like of shape (n_alphas,), default=100
        Number of values between `alpha_max` and ``eps * alpha_max``, evenly spaced
        on a logarithmic scale, or the values themselves, positive.
    eps : float, default=1e-2
        Smallest of these values in units of the largest.
    sample_weight : array-like of shape (n_samples,), default=None

    Returns
    -------
    alphas : ndarray of shape (n_alphas,)
        Distinct and decreasing.
    models : list of estimators
        Fitted, one for each of `alphas`.  Their objectives are within `tol` of the
        best ones, as those of single fits.
    dual_gaps : ndarray of shape (n_alphas,)
        Their `dual_gap_`.

    Raises
    ------
    TypeError
        If `estimator` is of another kind, as a pipeline, or `eps` is not a number.
    ValueError
        If `alphas` or `eps` is not as described.

    Warns
    -----
    ConvergenceWarning
        If any of the fits stops short of `tol`; one for all of them.

    See Also
    --------
    alpha_max : The value from which on there are no neurons.
    ConvexReLURegressorCV, ConvexReLUClassifierCV : Choose `alpha`.

    Notes
    -----
    The networks for some values, each about half the one before, are trained from
    the largest value to the smallest.  The others come between two that are there:
    they start from the neurons of both.  The steepest slope is a convex function of
    the dual point, so a mixture of the dual points of the two bounds the slopes of
    all neurons, and often closes the gap without a search.  What is proven for the
    two is then proven for the mixture.

    The seed, and with ``arrangements='sampled'`` the patterns, are the same for all.
    Gated networks and those on sampled patterns are trained independently.

    References
    ----------
    .. [1] Mishkin, A. and Pilanci, M. (2023). "Optimal Sets and Solution Paths
       of ReLU Networks". ICML.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn_convexnn import ConvexReLURegressor, convex_relu_path
    >>> X, y = load_diabetes(return_X_y=True, scaled=False)
    >>> X, y = (X - X.mean(axis=0)) / X.std(axis=0), (y - y.mean()) / y.std()
    >>> alphas, models, gaps = convex_relu_path(
    ...     ConvexReLURegressor(random_state=0), X, y, alphas=5, eps=0.1
    ... )
    >>> bool(all(gap <= 1e-2 * model.objective_ for gap, model in zip(gaps, models)))
    True
    """
    check_base(estimator, "convex_relu_path")
    alphas = grid(estimator, X, y, sample_weight, alphas, eps)
    valid_X, _, weight = clone(estimator)._validated(X, y, sample_weight)
    warn_of_scales(valid_X, weight)
    models, short = fit_path(estimator, X, y, sample_weight, alphas)
    short.warn("convex_relu_path", estimator.tol)
    return alphas, models, np.array([model.dual_gap_ for model in models])


def grid(estimator, X, y, sample_weight, alphas, eps):
    """Decreasing values of `alpha`.

    Parameters
    ----------
    estimator : ConvexReLURegressor or ConvexReLUClassifier
    X, y, sample_weight
        As of `fit`.
    alphas : int or array-like
    eps : float

    Returns
    -------
    alphas : ndarray of shape (n_alphas,)
    """
    check_scalar(eps, "eps", Real)
    if not 0 < eps < 1:
        raise ValueError(f"eps must be between 0 and 1, got {eps!r}.")
    if not isinstance(alphas, Integral) or isinstance(alphas, bool):
        return _distinct(alphas)
    check_scalar(alphas, "alphas", Integral, min_val=1)
    require_memory(24.0 * alphas, f"alphas={alphas}", "use fewer")
    largest = largest_slope(estimator, X, y, sample_weight, prove=False).value
    # It is zero if no network is better than a constant.
    largest = max(largest, np.finfo(np.float64).resolution)
    return np.geomspace(largest, eps * largest, alphas)


def _distinct(alphas):
    """Given values of `alpha`, decreasing."""
    try:
        values = np.asarray(alphas, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.full(1, np.nan)
    positive = np.all(np.isfinite(values)) and np.all(values > 0)
    if values.ndim != 1 or values.size == 0 or not positive:
        raise ValueError(
            "alphas must be a number of values or a sequence of positive values, at "
            f"least one, got {alphas!r}."
        )
    return np.unique(values)[::-1]


def fit_path(estimator, X, y, sample_weight, alphas, prove=True):
    """Models for decreasing values of `alpha`.

    Parameters
    ----------
    estimator : ConvexReLURegressor or ConvexReLUClassifier
    X, y, sample_weight
        As of `fit`.
    alphas : ndarray of shape (n_alphas,)
    prove : bool, default=True
        Whether to attempt proofs that no neuron is missing.

    Returns
    -------
    models : list of estimators
    short : Short
    """
    seed = estimator.random_state
    if not isinstance(seed, Integral):
        seed = check_random_state(seed).randint(np.iinfo(np.int32).max)
    independent = (
        estimator.formulation == "gated_relu" or estimator.arrangements == "sampled"
    )
    done, shorts = {}, []
    for k in _order(alphas):
        sides = [
            max((i for i in done if i < k), default=None),
            min((i for i in done if i > k), default=None),
        ]
        near = [done[i] for i in sides if i is not None and not independent]
        model = clone(estimator).set_params(
            alpha=float(alphas[k]), warm_start=False, random_state=seed
        )
        fitted = model._fit_between(X, y, sample_weight, near, prove)
        done[k] = Neighbour(model, [part.trained.dual for part in fitted])
        shorts.append(shortness(model, fitted))
    return [done[k].model for k in range(len(alphas))], joined(shorts)


def shortness(model, fitted):
    """Whether one fit has stopped short.

    Parameters
    ----------
    model : estimator
    fitted : list of Fitted
        What its fit has returned.

    Returns
    -------
    short : Short
    """
    short = model._stopped_short(fitted)
    smallest = np.finfo(np.float64).tiny
    gap = model.dual_gap_ / max(abs(model.objective_), smallest) if short else 0.0
    return Short(1, int(short), gap)


def _order(alphas):
    """Indices in the order of fitting: some from the largest on, then those between."""
    logs = np.log(alphas)
    halvings = int(np.ceil((logs[0] - logs[-1]) / np.log(2.0)))
    targets = np.linspace(logs[0], logs[-1], min(halvings, len(alphas) - 1) + 1)
    nodes = np.unique([np.argmin(np.abs(logs - target)) for target in targets])
    order = [int(k) for k in nodes]
    pairs = list(pairwise(order))
    for first, last in pairs:
        if last - first > 1:
            middle = (first + last) // 2
            order.append(middle)
            pairs += [(first, middle), (middle, last)]
    return order
