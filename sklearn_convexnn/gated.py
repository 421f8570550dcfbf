"""Gated ReLU networks: neurons that gates switch on, which do not learn."""

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator

from sklearn_convexnn._base import COMMON_CONSTRAINTS, ReLUNetworkMixin
from sklearn_convexnn._classification import ClassificationMixin
from sklearn_convexnn._fitting import fit_gated
from sklearn_convexnn._memory import check_patterns
from sklearn_convexnn._null_slope import null_gate_slope
from sklearn_convexnn._regression import RegressionMixin
from sklearn_convexnn._sklearn import StrOptions
from sklearn_convexnn._utils.devices import highest_precision, in_numpy, placed
from sklearn_convexnn.losses import (
    CLASSIFICATION_LOSSES,
    LOSS_CONSTRAINTS,
    REGRESSION_LOSSES,
    SMOOTH_LOSSES,
)
from sklearn_convexnn.patterns.gates import KnownNeurons

_SMOOTH = set(SMOOTH_LOSSES)
_CONSTRAINTS = {
    **COMMON_CONSTRAINTS,
    "arrangements": [StrOptions({"sampled", "exact"})],
}


class GatedMixin(ReLUNetworkMixin):
    """Training and prediction of gated networks, on the data as they are."""

    _kind = "gated"
    _train, _slope = staticmethod(fit_gated), staticmethod(null_gate_slope)

    def _check_memory(self, shape, n_outputs):
        if self.arrangements == "sampled":
            check_patterns(shape, self.n_arrangements, self.fit_intercept)

    def _data(self, X):
        return X

    def _n_rounds(self, n_outputs):
        return 0

    def _start(self, n_features, n_outputs, neighbours):
        """Neurons of an earlier fit with their gates, if they are to be used."""
        shape = (n_features + self.fit_intercept, n_outputs)
        if not self.warm_start or not hasattr(self, "gates_"):
            return None
        if (self.gates_.shape[0], self.coefs_[1].shape[1]) != shape:
            return None
        gates, hidden, output = (
            in_numpy(part).astype(np.float64) for part in (self.gates_, *self.coefs_)
        )
        return KnownNeurons(gates.T, hidden.T, output)

    def _store(self, X, fitted):
        super()._store(X, fitted)
        gates = fitted.gates
        if gates is None:
            gates = np.zeros((X.shape[1] + self.fit_intercept, 0))
        self.gates_ = placed(gates, X, highest_precision(X))

    def _outputs_of_rows(self, X, coefs, xp, dtype):
        X = X.astype(dtype) if issparse(X) else xp.astype(X, dtype, copy=False)
        gates, d = xp.astype(self.gates_, dtype), X.shape[1]
        is_open = X @ gates[:d, :] + xp.sum(gates[d:, :], axis=0) > 0
        hidden = X @ coefs[0]
        hidden = hidden * xp.astype(is_open, hidden.dtype)
        return hidden @ coefs[1] + self.intercepts_[1]


class GatedReLURegressor(RegressionMixin, GatedMixin, BaseEstimator):
    r"""Gated ReLU network for regression, trained by convex optimisation.

    Minimises, over the weights of neurons that given gates switch on,

    .. math::
        \sum_i s_i\, \ell\big(f(x_i), y_i\big)
        + \frac{\alpha}{2} \sum_j \big(\|w_j\|_2^2 + a_j^2\big),
        \qquad f(x) = \sum_j a_j\, 1[x^T h_j + c_j > 0]\, x^T w_j + b_0 .

    It is the program of :class:`ConvexReLURegressor` without the constraints of the
    cells, a group lasso, with the nuclear norm for several outputs [1]_.  Gates have
    offsets and outputs have biases with `fit_intercept`; hidden neurons have none.

    Parameters
    ----------
    alpha : float or 'scale', default='scale'
        Weight decay, positive: the factor of half the sum of squares of all
        weights.  'scale' is a fiftieth of the smallest value at which the best
        network is a constant; see :func:`alpha_max`.
    loss : {'squared_error', 'huber', 'poisson'}, default='squared_error'
        As of :class:`ConvexReLURegressor`; only smooth ones.
    epsilon : float, default=1.35
        Threshold of the Huber loss, in the units of `y`.
    arrangements : {'sampled', 'exact'}, default='sampled'
        Which activation patterns there are gates for: `n_arrangements` random ones,
        or all of the data, if these are of low rank.
    n_arrangements : int, default=100
        Number of patterns for 'sampled'; if the data have no more than that, all
        are taken.
    fit_intercept : bool, default=True
        Whether gates have offsets and outputs have biases.
    tol : float, default=1e-2
        Stop when ``dual_gap_ <= tol * objective_``.
    max_iter : int, default=200
        Limit of iterations; each is 50 steps of the solver.
    max_time : float, default=None
        Limit of the time for the fit, in seconds.
    warm_start : bool, default=False
        Whether to start from the neurons of the previous fit, whose gates are used
        besides those that are sampled.
    random_state : int, RandomState instance or None, default=None
        Determines the sampled patterns.
    verbose : int, default=0
        1 prints a line for each fit.

    Attributes
    ----------
    alpha_ : float
        The number that `alpha` stands for.
    gates_ : ndarray of shape (n_features, n_neurons) or (n_features + 1, n_neurons)
        Gate vectors, with `fit_intercept` their offsets in the last row.
    coefs_ : list of 2 ndarrays
        Weights of shape (n_features, n_neurons) and (n_neurons, n_outputs).
    intercepts_ : list of 2 ndarrays
        Biases of shape (n_neurons,), which are zero, and (n_outputs,).
    objective_, loss_, dual_bound_, dual_gap_ : float
        As of :class:`ConvexReLURegressor`.
    certificate_ : {'global', 'restricted'}
        'global': the patterns are all that the data have.  'restricted': the bound
        holds for networks with these gates only.
    n_neurons_, n_arrangements_, n_iter_, n_layers_, n_outputs_ : int
    history_ : dict of ndarray
        One entry per iteration; see :class:`ConvexReLURegressor`.
    out_activation_ : str
        'exp' if `loss` is 'poisson', otherwise 'identity'.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        If `X` has feature names that are all strings.

    See Also
    --------
    ConvexReLURegressor : Networks whose gates are their weights.
    cone_decomposition : A ReLU network with the outputs of a gated one.

    Notes
    -----
    Sparse data stay sparse, and arrays of other libraries on their device.

    References
    ----------
    .. [1] Mishkin, A., Sahiner, A. and Pilanci, M. (2022). "Fast Convex
       Optimization for Two-Layer ReLU Networks: Equivalent Model Classes and
       Cone Decompositions". ICML.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn_convexnn import GatedReLURegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> X, y = X / X.std(axis=0), (y - y.mean()) / y.std()
    >>> model = GatedReLURegressor(alpha=20, random_state=0).fit(X, y)
    >>> bool(model.dual_gap_ <= 1e-2 * model.objective_)
    True
    """

    _parameter_constraints = {
        **_CONSTRAINTS,
        "loss": [StrOptions(_SMOOTH.intersection(REGRESSION_LOSSES))],
        "epsilon": LOSS_CONSTRAINTS["epsilon"],
    }

    def __init__(
        self,
        alpha="scale",
        *,
        loss="squared_error",
        epsilon=1.35,
        arrangements="sampled",
        n_arrangements=100,
        fit_intercept=True,
        tol=1e-2,
        max_iter=200,
        max_time=None,
        warm_start=False,
        random_state=None,
        verbose=0,
    ):
        self.alpha = alpha
        self.loss = loss
        self.epsilon = epsilon
        self.arrangements = arrangements
        self.n_arrangements = n_arrangements
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose


class GatedReLUClassifier(ClassificationMixin, GatedMixin, BaseEstimator):
    r"""Gated ReLU network for classification, trained by convex optimisation.

    A :class:`GatedReLURegressor` with the losses of :class:`ConvexReLUClassifier`.

    Parameters
    ----------
    alpha : float or 'scale', default='scale'
        Weight decay, positive.
    loss : {'log_loss', 'squared_hinge'}, default='log_loss'
        As of :class:`ConvexReLUClassifier`; only smooth ones.
    class_weight : dict, 'balanced' or None, default=None
        Weights of the classes, multiplied with those of the samples.
    arrangements : {'sampled', 'exact'}, default='sampled'
        Which activation patterns there are gates for.
    n_arrangements : int, default=100
        Number of patterns for 'sampled'.
    fit_intercept : bool, default=True
        Whether gates have offsets and outputs have biases.
    tol : float, default=1e-2
        Stop when ``dual_gap_ <= tol * objective_``.
    max_iter : int, default=200
        Limit of iterations; each is 50 steps of the solver.
    max_time : float, default=None
        Limit of the time for the fit, in seconds.
    warm_start : bool, default=False
        Whether to start from the neurons of the previous fit, whose gates are used
        besides those that are sampled.
    random_state : int, RandomState instance or None, default=None
        Determines the sampled patterns.
    verbose : int, default=0
        1 prints a line for each fit.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    n_outputs_ : int
        1 for two classes, otherwise the number of classes.
    out_activation_ : str
        'logistic' for the log loss of two classes, 'softmax' for that of more,
        otherwise 'identity'.
    gates_, coefs_, intercepts_, objective_, dual_bound_, certificate_
        And all other attributes of :class:`GatedReLURegressor`.

    See Also
    --------
    GatedReLURegressor : The same for regression, and more on the parameters.
    ConvexReLUClassifier : Networks whose gates are their weights.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_convexnn import GatedReLUClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = GatedReLUClassifier(alpha=0.1, random_state=0).fit(X, y)
    >>> bool(model.score(X, y) > 0.95)
    True
    """

    _parameter_constraints = {
        **_CONSTRAINTS,
        "loss": [StrOptions(_SMOOTH.intersection(CLASSIFICATION_LOSSES))],
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
        alpha="scale",
        *,
        loss="log_loss",
        class_weight=None,
        arrangements="sampled",
        n_arrangements=100,
        fit_intercept=True,
        tol=1e-2,
        max_iter=200,
        max_time=None,
        warm_start=False,
        random_state=None,
        verbose=0,
    ):
        self.alpha = alpha
        self.loss = loss
        self.class_weight = class_weight
        self.arrangements = arrangements
        self.n_arrangements = n_arrangements
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose
