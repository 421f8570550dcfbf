"""Networks for many values of the weight decay, one from the other."""

import warnings
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral, Real

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from sklearn_convexnn._advice import advice
from sklearn_convexnn._alpha_max import check_base, largest_slope
from sklearn_convexnn._base import Neighbour, ReLUNetworkMixin
from sklearn_convexnn._memory import require_memory
from sklearn_convexnn._sklearn import FitTask, Interval, check_parameters
from sklearn_convexnn._utils.types import Data
from sklearn_convexnn.training.descents import suits_descent, train_by_descent

# The smallest alpha, by default, as a part of the largest.
EPS = 1e-2
GRID_CONSTRAINTS = {
    "alphas": [Interval(Integral, 1, None, closed="left"), "array-like"],
    "eps": [Interval(Real, 0, 1, closed="neither")],
}
# Part of its objective by which a network from descent may be above a mixture.
_WORSE = 1e-3
# About how many times smaller `alpha` is at each step of the networks that are trained
# before those between them: a network costs a search, and between two of them, close
# enough, there is none.
_STEP = 3.0


@dataclass(frozen=True)
class Short:
    """How many of some fits have stopped short of their tolerance, and by how much.

    Attributes
    ----------
    n_fits, n_short : int
    largest : float
        Largest gap of those that have, relative to the objective.
    statuses : frozenset of str
        How the networks of those have ended.
    """

    n_fits: int = 0
    n_short: int = 0
    largest: float = 0.0
    statuses: frozenset = frozenset()

    def warn(self, name: str, tol: float) -> None:
        """Warn if there are any.

        Parameters
        ----------
        name : str
            The estimator or function that made the fits.
        tol : float
        """
        if not self.n_short:
            return
        which = f"{self.n_short} of the {self.n_fits} fits of {name} stopped"
        largest = f"the largest {self.largest:.2g}"
        if self.n_fits == 1:
            which, largest = f"The fit of {name} stopped", f"{self.largest:.2g}"
        warnings.warn(
            f"{which} with a duality gap above tol={tol:g}, {largest} of the "
            f"objective. {advice(self.statuses)}",
            ConvergenceWarning,
        )


def joined(parts: list[Short]) -> Short:
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
        frozenset().union(*(part.statuses for part in parts)),
    )


def convex_relu_path(
    estimator: ReLUNetworkMixin,
    X: Data,
    y: ArrayLike,
    *,
    alphas: int | ArrayLike = 100,
    eps: float = EPS,
    sample_weight: ArrayLike | None = None,
) -> tuple[np.ndarray, list[ReLUNetworkMixin], np.ndarray]:
    """Networks for a sequence of weight decays, each started from its neighbours.

    Parameters
    ----------
    estimator : ConvexReLURegressor, ConvexReLUClassifier or gated estimator
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
        If `estimator` is of another kind, as a pipeline.
    ValueError
        If `alphas` or `eps` is not as described, or a parameter of `estimator` not
        valid.

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
    The networks for some values, each about a third of the one before, are trained
    from the largest value to the smallest.  The others come between two that are
    there: they start from the neurons of both.  The steepest slope is a convex
    function of the dual point, so a mixture of the dual points of the two bounds the
    slopes of all neurons, and often closes the gap without a search.  What is proven
    for the two is then proven for the mixture.  Estimated bounds rest on shorter
    searches than those of a single fit, and allow for more that these have not seen.

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
    params = {"alphas": alphas, "eps": eps}
    check_parameters(GRID_CONSTRAINTS, params, "convex_relu_path")
    # Also of those that the copies that are fitted do not have.
    estimator._validate_params()
    alphas = grid(estimator, X, y, sample_weight, alphas, eps)
    valid_X, _, weight = clone(estimator)._validated(X, y, sample_weight)
    estimator._warn_of_scales(valid_X, weight)
    models, short = fit_path(estimator, X, y, sample_weight, alphas)
    short.warn("convex_relu_path", estimator.tol)
    return alphas, models, np.array([model.dual_gap_ for model in models])


def grid(
    estimator: ReLUNetworkMixin,
    X: Data,
    y: ArrayLike,
    sample_weight: ArrayLike | None,
    alphas: int | ArrayLike,
    eps: float,
) -> np.ndarray:
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
    if not isinstance(alphas, Integral) or isinstance(alphas, bool):
        return _distinct(alphas)
    require_memory(24.0 * alphas, f"alphas={alphas}", "use fewer")
    found, unit = largest_slope(estimator, X, y, sample_weight, prove=False)
    # It is zero if no network is better than a constant.
    largest = found.value if found.value > 0 else unit
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


def fit_path(
    estimator: ReLUNetworkMixin,
    X: Data,
    y: ArrayLike,
    sample_weight: ArrayLike | None,
    alphas: np.ndarray,
    label: str | None = None,
) -> tuple[list[ReLUNetworkMixin], Short]:
    """Models for decreasing values of `alpha`.

    Parameters
    ----------
    estimator : ConvexReLURegressor or ConvexReLUClassifier
    X, y, sample_weight
        As of `fit`.
    alphas : ndarray of shape (n_alphas,)
    label : str or None
        What the lines of `verbose` call the path; by default the estimator.

    Returns
    -------
    models : list of estimators
    short : Short
    """
    path = _Path(estimator, X, y, sample_weight, alphas, label, brief=True)
    for k in _order(alphas):
        path.fit(k, path.sides(k))
    return path.models, joined(list(path.shorts))


def scoring_path(
    estimator: ReLUNetworkMixin,
    X: Data,
    y: ArrayLike,
    sample_weight: ArrayLike | None,
    alphas: np.ndarray,
    label: str | None = None,
    task: FitTask | None = None,
) -> tuple[list[ReLUNetworkMixin], Short]:
    """As `fit_path`, for scores: without proofs, and where it will do, bounds.

    Parameters
    ----------
    estimator, X, y, sample_weight, alphas, label
        As of `fit_path`.
    task : FitTask or None
        Has begun; each fit is a subtask.

    Returns
    -------
    models : list of estimators
    short : Short
        Descents, which know no gap, do not count.
    """
    task = FitTask() if task is None else task
    path = _Path(estimator, X, y, sample_weight, alphas, label, prove=False, brief=True)
    if not suits_descent(estimator, X):
        for k in _order(alphas):
            with task.within("alpha"):
                path.fit(k, path.sides(k))
        return path.models, joined(list(path.shorts))
    # Weight decay that grows removes neurons, and never needs others.
    for k in reversed(range(len(alphas))):
        with task.within("alpha"):
            path.fit(k, path.sides(k), method=train_by_descent)
    for k in range(1, len(alphas) - 1):
        if path.is_bettered(k):
            path.fit(k, path.sides(k), method=train_by_descent)
    return path.models, Short()


class _Path:
    """Models of the same data for decreasing values of `alpha`, as they are fitted.

    Parameters
    ----------
    estimator, X, y, sample_weight, alphas, label
        As of `fit_path`.
    **how
        As `_fit_network` has it.
    """

    def __init__(self, estimator, X, y, sample_weight, alphas, label, **how):
        seed = estimator.random_state
        if not isinstance(seed, Integral):
            seed = check_random_state(seed).randint(np.iinfo(np.int32).max)
        self.base = clone(estimator).set_params(warm_start=False, random_state=seed)
        self.data, self.alphas, self.how = (X, y, sample_weight), alphas, how
        self.label = type(estimator).__name__ if label is None else label
        self.done, self.shorts = {}, []

    @property
    def models(self):
        """Fitted, in the order of `alphas`."""
        return [self.done[k].model for k in range(len(self.alphas))]

    def sides(self, k):
        """The closest models that there are for larger and for smaller `alpha`."""
        if self.base.arrangements == "sampled":
            return []
        above = max((i for i in self.done if i < k), default=None)
        below = min((i for i in self.done if i > k), default=None)
        return [self.done[i] for i in (above, below) if i is not None]

    def fit(self, k, near, **how):
        """Train the model for ``alphas[k]`` from others."""
        alpha = float(self.alphas[k])
        model = clone(self.base).set_params(alpha=alpha)
        label = f"{self.label}, alpha {k + 1}/{len(self.alphas)} = {alpha:.4g}"
        fitted = model._fit_between(*self.data, near, **self.how, **how, label=label)
        self.done[k] = Neighbour(model, fitted.trained.dual)
        self.shorts.append(shortness(model, fitted))

    def is_bettered(self, k):
        """Whether a mixture of the networks next to it is better than a network.

        Losses are convex, and so is the penalty of networks of any width.
        """
        low, model, high = (self.done[i].model for i in (k + 1, k, k - 1))
        share = (self.alphas[k] - self.alphas[k + 1]) / (
            self.alphas[k - 1] - self.alphas[k + 1]
        )
        mixed = 0.0
        for part, side, alpha in (
            (1.0 - share, low, self.alphas[k + 1]),
            (share, high, self.alphas[k - 1]),
        ):
            moved = side.objective_ + (self.alphas[k] - alpha) * 0.5 * side._squares
            mixed += part * moved
        return mixed < (1.0 - _WORSE) * model.objective_


def shortness(model, fitted):
    """Whether one fit has stopped short.

    Parameters
    ----------
    model : estimator
    fitted : Fitted
        What its fit has returned.

    Returns
    -------
    short : Short
    """
    if not model._stopped_short(fitted):
        return Short(1)
    gap = model.dual_gap_ / max(abs(model.objective_), np.finfo(np.float64).tiny)
    return Short(1, 1, gap, frozenset([fitted.trained.status]))


def _order(alphas):
    """Indices in the order of fitting: some from the largest on, then those between."""
    logs = np.log(alphas)
    steps = int(np.ceil((logs[0] - logs[-1]) / np.log(_STEP)))
    targets = np.linspace(logs[0], logs[-1], min(steps, len(alphas) - 1) + 1)
    nodes = np.unique([np.argmin(np.abs(logs - target)) for target in targets])
    order = [int(k) for k in nodes]
    pairs = list(pairwise(order))
    for first, last in pairs:
        if last - first > 1:
            middle = (first + last) // 2
            order.append(middle)
            pairs += [(first, middle), (middle, last)]
    return order
