"""Sums of parallel sub-networks: ReLU networks of three and more layers."""

from dataclasses import replace
from functools import partial
from numbers import Integral

import numpy as np
from sklearn.base import BaseEstimator

from sklearn_convexnn._base import COMMON_CONSTRAINTS, ReLUNetworkMixin
from sklearn_convexnn._classification import ClassificationMixin
from sklearn_convexnn._fitting import fit_network
from sklearn_convexnn._memory import check_subnetworks
from sklearn_convexnn._null_slope import null_slope
from sklearn_convexnn._regression import RegressionMixin
from sklearn_convexnn._sklearn import Interval, StrOptions
from sklearn_convexnn._utils.devices import in_numpy
from sklearn_convexnn.families.subnetworks.architecture import Architecture
from sklearn_convexnn.families.subnetworks.family import ParallelSubnetworks
from sklearn_convexnn.families.two_layer.family import TwoLayer
from sklearn_convexnn.losses import (
    CLASSIFICATION_LOSSES,
    LOSS_CONSTRAINTS,
    REGRESSION_LOSSES,
)
from sklearn_convexnn.solvers import SOLVERS, SOLVERS_OF_BLOCKS
from sklearn_convexnn.training.subnetwork_routes import train_subnetworks

_CONSTRAINTS = {
    **COMMON_CONSTRAINTS,
    "depth": [Interval(Integral, 3, None, closed="left")],
    "subnetwork_width": [Interval(Integral, 1, None, closed="left")],
    "subnetwork_norm": [StrOptions({"frobenius", "path"})],
    "arrangements": [StrOptions({"adaptive", "sampled", "exact"})],
    "solver": [StrOptions(set(SOLVERS_OF_BLOCKS))],
    "max_neurons": [Interval(Integral, 1, None, closed="left"), None],
}


class ParallelMixin(ReLUNetworkMixin):
    """Training of parallel sub-networks, also from those that are known."""

    _kind, _train = "parallel", staticmethod(fit_network)

    _constant_from = "as the best one of two layers is from about alpha={:.3g} on"

    @staticmethod
    def _slope(X, Y, sample_weight, settings):
        # That of neurons, which are among the sub-networks: others can be steeper.
        settings = replace(settings, family=TwoLayer)
        return null_slope(X, Y, sample_weight, settings)

    @property
    def _n_hidden_layers(self):
        return self.depth - 1

    @property
    def _architecture(self):
        return Architecture(self.depth, self.subnetwork_width, self.subnetwork_norm)

    def _settings(self, loss, **others):
        family = partial(ParallelSubnetworks, architecture=self._architecture)
        how = {"family": family, "method": train_subnetworks, **others}
        return super()._settings(loss, **how)

    def _check_supported(self, loss, n_outputs):
        if self.arrangements == "adaptive":
            return
        if n_outputs > 1:
            raise ValueError(
                f"arrangements={self.arrangements!r} is not there for several outputs "
                "of parallel sub-networks: use arrangements='adaptive'."
            )
        if self.depth > 3 and self.subnetwork_norm != "path":
            raise ValueError(
                f"arrangements={self.arrangements!r} with depth={self.depth} needs "
                "subnetwork_norm='path': no convex program is known for "
                f"{self.subnetwork_norm!r}; use arrangements='adaptive'."
            )
        check = SOLVERS[self.solver].check
        if check is not None:
            check(loss, single_units=False)

    def _check_memory(self, shape, n_outputs):
        check_subnetworks(self, shape, n_outputs)

    def _n_rounds(self, n_outputs):
        return 0 if self.arrangements in ("sampled", "exact") else None

    def _start(self, n_features, n_outputs, neighbours):
        """Layers of an earlier fit, if they are to be used."""
        if not self.warm_start or not hasattr(self, "coefs_"):
            return None
        n_units = self.coefs_[-1].shape[0]
        widths = self._architecture.widths
        shapes = [n_features, *(width * n_units for width in widths)]
        if [W.shape[0] for W in self.coefs_] != shapes or n_units == 0:
            return None
        if self.coefs_[-1].shape[1] != n_outputs:
            return None
        coefs, intercepts = (
            [in_numpy(part).astype(np.float64) for part in parts]
            for parts in (self.coefs_, self.intercepts_)
        )
        if not self.fit_intercept and any(np.any(b) for b in intercepts):
            # Without their biases the sub-networks would be others.
            return None
        return coefs, intercepts, ()

    def _store(self, X, fitted):
        super()._store(X, fitted)
        self.proven_bound_ = float(fitted.trained.proven_bound)


class ParallelReLURegressor(RegressionMixin, ParallelMixin, BaseEstimator):
    r"""Sum of parallel ReLU sub-networks for regression, by convex optimisation.

    Each sub-network has units of its own in every hidden layer and one in the last,

    .. math::
        f(x) = \sum_k w_{kL} \big(\cdots \big((x^T W_{k1} + b_{k1})_+ W_{k2} + b_{k2}
        \big)_+ \cdots\big)_+ + b_0 .

    The objective is the sum of the losses and `alpha` / 2 times the sum of squares of
    the weights of the last two layers, with norms of the others of at most one
    [1]_, over any number of sub-networks.  Weight decay of all layers has no such
    program.  Networks of fewer layers are among these, at the same cost.

    Parameters
    ----------
    alpha : float or 'scale', default='scale'
        Weight decay, positive.  'scale' is a fiftieth of the smallest value at which
        the best two-layer network is a constant; see :func:`alpha_max`.
    loss : {'squared_error', 'huber', 'quantile', 'poisson'}, default='squared_error'
        As of :class:`ConvexReLURegressor`.
    epsilon : float, default=1.35
        Threshold of the Huber loss, in the units of `y`.
    quantile : float, default=0.5
        The quantile that ``loss='quantile'`` predicts.
    depth : int, default=3
        Number of weight layers, at least 3.
    subnetwork_width : int, default=2
        Units in each inner layer of a sub-network; with the path norm, inputs of
        each unit.
    subnetwork_norm : {'frobenius', 'path'}, default='frobenius'
        What is at most one for the inner layers of a sub-network: the Frobenius norm
        of the weight matrix of each layer, or the norm of the weights of each unit,
        which is the path norm [2]_.
    arrangements : {'adaptive', 'sampled', 'exact'}, default='adaptive'
        'adaptive' is column generation over whole sub-networks.  'sampled' is the
        convex program over the blocks of patterns of `n_arrangements` random
        sub-networks, 'exact' that over all, for a few samples of low rank
        (:func:`~sklearn_convexnn.patterns.counts.count_blocks` bounds their number).
        The programs are there for one output and three layers, and with
        ``subnetwork_norm='path'`` for more.
    n_arrangements : int, default=100
        Number of sub-networks to place, or of blocks to sample.
    fit_intercept : bool, default=True
        Whether to use free (unpenalised) biases in all layers.
    solver : {'auto', 'interior_point', 'penalised', 'cvxpy'}, default='auto'
        Solver of programs over given blocks; 'auto' is 'interior_point'.  The
        networks of 'penalised' can be of other patterns than those sampled, and
        better; their gap is then zero.
    tol : float, default=1e-2
        Stop when ``dual_gap_ <= tol * objective_``.
    max_iter : int, default=200
        Limit of rounds, or of solver iterations for 'sampled' and 'exact'.
    max_neurons : int, default=None
        Limit of the sub-networks, None for no limit; not for 'sampled' and 'exact'.
    max_time : float, default=None
        Limit of the time for the fit, in seconds.
    warm_start : bool, default=False
        Whether to start from the sub-networks of the previous fit.
    random_state : int, RandomState instance or None, default=None
        Determines the sub-networks placed at the start and the searches for more, or
        the sampled blocks.
    verbose : int, default=0
        1 prints a line for each round, or two for each program over given blocks, 2
        also the iterations of the latter.

    Attributes
    ----------
    alpha_ : float
        The number that `alpha` stands for.
    coefs_ : list of `depth` ndarrays
        Weights as in scikit-learn's MLP: the layers of the sub-networks side by side,
        those after the first block diagonal.
    intercepts_ : list of `depth` ndarrays
        Biases, in double precision.
    objective_, loss_, dual_bound_, dual_gap_ : float
        As of :class:`ConvexReLURegressor`.
    proven_bound_ : float
        Lower bound that is proven for every network, often far below `dual_bound_`.
    certificate_ : {'global', 'estimated', 'restricted'}
        'global' if all blocks are in the program, or where `proven_bound_` is close
        enough.  'estimated': do not trust the bound beyond a hundredth of the
        objective or two, and less where a fit stops early: the search for
        sub-networks that are missing is harder than for neurons.  'restricted': it
        holds for the sampled blocks only.
    n_neurons_ : int
        Number of sub-networks.
    n_arrangements_, n_iter_, n_layers_, n_outputs_ : int
    history_ : dict of ndarray
        One entry per round or iteration; see :class:`ConvexReLURegressor`.
    out_activation_ : str
        'exp' if `loss` is 'poisson', otherwise 'identity'.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        If `X` has feature names that are all strings.

    See Also
    --------
    ConvexReLURegressor : Two layers, with closer bounds.

    Notes
    -----
    With more than three layers each unit of a sub-network under the path norm feeds
    one other, for which the program is exact; networks that share inner units are no
    better at the same `subnetwork_width`.

    References
    ----------
    .. [1] Ergen, T. and Pilanci, M. (2021). "Global Optimality Beyond Two
       Layers: Training Deep ReLU Networks via Convex Programs". ICML.
    .. [2] Ergen, T. and Pilanci, M. (2021). "Path Regularization: A Convexity
       and Sparsity Inducing Regularization for Parallel ReLU Networks". arXiv
       2110.09548.

    Examples
    --------
    >>> from sklearn.datasets import make_friedman1
    >>> from sklearn_convexnn import ParallelReLURegressor
    >>> X, y = make_friedman1(30, random_state=0)
    >>> model = ParallelReLURegressor(alpha=5, tol=0.1, random_state=0).fit(X, y)
    >>> len(model.coefs_)
    3
    """

    _parameter_constraints = {
        **_CONSTRAINTS,
        **LOSS_CONSTRAINTS,
        "loss": [StrOptions(set(REGRESSION_LOSSES))],
    }

    def __init__(
        self,
        alpha="scale",
        *,
        loss="squared_error",
        epsilon=1.35,
        quantile=0.5,
        depth=3,
        subnetwork_width=2,
        subnetwork_norm="frobenius",
        arrangements="adaptive",
        n_arrangements=100,
        fit_intercept=True,
        solver="auto",
        tol=1e-2,
        max_iter=200,
        max_neurons=None,
        max_time=None,
        warm_start=False,
        random_state=None,
        verbose=0,
    ):
        self.alpha = alpha
        self.loss = loss
        self.epsilon = epsilon
        self.quantile = quantile
        self.depth = depth
        self.subnetwork_width = subnetwork_width
        self.subnetwork_norm = subnetwork_norm
        self.arrangements = arrangements
        self.n_arrangements = n_arrangements
        self.fit_intercept = fit_intercept
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.max_neurons = max_neurons
        self.max_time = max_time
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose


class ParallelReLUClassifier(ClassificationMixin, ParallelMixin, BaseEstimator):
    r"""Sum of parallel ReLU sub-networks for classification, by convex optimisation.

    A :class:`ParallelReLURegressor` with the losses of :class:`ConvexReLUClassifier`.

    Parameters
    ----------
    alpha : float or 'scale', default='scale'
        Weight decay, positive.
    loss : {'log_loss', 'squared_hinge', 'hinge'}, default='log_loss'
        As of :class:`ConvexReLUClassifier`.
    class_weight : dict, 'balanced' or None, default=None
        Weights of the classes, multiplied with those of the samples.
    depth : int, default=3
        Number of weight layers, at least 3.
    subnetwork_width : int, default=2
        Units in each inner layer of a sub-network; with the path norm, inputs of
        each unit.
    subnetwork_norm : {'frobenius', 'path'}, default='frobenius'
        What is at most one for the inner layers of a sub-network.
    arrangements : {'adaptive', 'sampled', 'exact'}, default='adaptive'
        Which blocks of patterns there are.
    n_arrangements : int, default=100
        Number of sub-networks to place, or of blocks to sample.
    fit_intercept : bool, default=True
        Whether to use free (unpenalised) biases in all layers.
    solver : {'auto', 'interior_point', 'penalised', 'cvxpy'}, default='auto'
        Solver of programs over given blocks.
    tol : float, default=1e-2
        Stop when ``dual_gap_ <= tol * objective_``.
    max_iter : int, default=200
        Limit of rounds, or of solver iterations for 'sampled' and 'exact'.
    max_neurons : int, default=None
        Limit of the sub-networks, None for no limit; not for 'sampled' and 'exact'.
    max_time : float, default=None
        Limit of the time for the fit, in seconds.
    warm_start : bool, default=False
        Whether to start from the sub-networks of the previous fit.
    random_state : int, RandomState instance or None, default=None
        Determines the sub-networks placed at the start and the searches for more, or
        the sampled blocks.
    verbose : int, default=0
        1 prints a line for each round, or two for each program over given blocks, 2
        also the iterations of the latter.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    n_outputs_ : int
        1 for two classes, otherwise the number of classes.
    out_activation_ : str
        'logistic' for the log loss of two classes, 'softmax' for that of more,
        otherwise 'identity'.
    coefs_, intercepts_, objective_, dual_bound_, proven_bound_, certificate_
        And all other attributes of :class:`ParallelReLURegressor`.

    See Also
    --------
    ParallelReLURegressor : The same for regression, and more on the parameters.
    ConvexReLUClassifier : Two layers, with closer bounds.

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from sklearn_convexnn import ParallelReLUClassifier
    >>> X, y = make_moons(30, noise=0.1, random_state=0)
    >>> model = ParallelReLUClassifier(alpha=0.3, tol=0.1, random_state=0).fit(X, y)
    >>> bool(model.score(X, y) > 0.9)
    True
    """

    _parameter_constraints = {
        **_CONSTRAINTS,
        "loss": [StrOptions(set(CLASSIFICATION_LOSSES))],
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
        alpha="scale",
        *,
        loss="log_loss",
        class_weight=None,
        depth=3,
        subnetwork_width=2,
        subnetwork_norm="frobenius",
        arrangements="adaptive",
        n_arrangements=100,
        fit_intercept=True,
        solver="auto",
        tol=1e-2,
        max_iter=200,
        max_neurons=None,
        max_time=None,
        warm_start=False,
        random_state=None,
        verbose=0,
    ):
        self.alpha = alpha
        self.loss = loss
        self.class_weight = class_weight
        self.depth = depth
        self.subnetwork_width = subnetwork_width
        self.subnetwork_norm = subnetwork_norm
        self.arrangements = arrangements
        self.n_arrangements = n_arrangements
        self.fit_intercept = fit_intercept
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.max_neurons = max_neurons
        self.max_time = max_time
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose
