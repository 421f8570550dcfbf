"""The estimators: parameters, documentation, prediction."""

from functools import update_wrapper
from itertools import pairwise
from numbers import Integral, Real
from types import MethodType
from typing import Self

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    MultiOutputMixin,
    RegressorMixin,
)
from sklearn.utils import assert_all_finite, column_or_1d, compute_class_weight
from sklearn.utils.extmath import softmax
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from sklearn_convexnn._base import ConvexReLUMixin
from sklearn_convexnn._fitting import Fitted
from sklearn_convexnn._null_slope import FRACTION
from sklearn_convexnn._sklearn import (
    Interval,
    StrOptions,
    check_sample_weight,
    device,
    expit_of,
    fit_context,
    fit_task,
    get_namespace,
    max_precision_float_dtype,
)
from sklearn_convexnn._utils.devices import (
    float_dtypes,
    in_numpy,
    on_device,
    placed,
    selected,
    without_duplicates,
)
from sklearn_convexnn.losses import (
    CLASSIFICATION_LOSSES,
    NEVER,
    REGRESSION_LOSSES,
    Softmax,
    make_loss,
)
from sklearn_convexnn.model.results import MESSAGES
from sklearn_convexnn.solvers import SOLVERS
from sklearn_convexnn.training.trained import CUTS, HISTORY, Trained

_COMMON_CONSTRAINTS = {
    "alpha": [StrOptions({"scale"}), Interval(Real, 0, None, closed="neither")],
    "negative_slope": [Interval(Real, -1, 1, closed="left")],
    "arrangements": [StrOptions({"adaptive", "sampled", "exact", *CUTS})],
    "n_arrangements": [Interval(Integral, 1, None, closed="left")],
    "pricing": [
        StrOptions({"exact", "search", "nonnegative", "triangle", "semidefinite"})
    ],
    "depth": [Interval(Integral, 2, None, closed="left")],
    "subnetwork_width": [Interval(Integral, 1, None, closed="left")],
    "subnetwork_norm": [StrOptions({"frobenius", "path"})],
    "formulation": [StrOptions({"relu", "gated_relu"})],
    "fit_intercept": ["boolean"],
    "solver": [StrOptions(set(SOLVERS))],
    "tol": [Interval(Real, 0, None, closed="neither")],
    "max_iter": [Interval(Integral, 1, None, closed="left")],
    "max_neurons": [Interval(Integral, 1, None, closed="left"), None],
    "minimal": ["boolean"],
    "max_time": [Interval(Real, 0, None, closed="neither"), None],
    "warm_start": ["boolean"],
    "random_state": ["random_state"],
    "verbose": ["verbose"],
}


class ConvexReLURegressor(
    MultiOutputMixin, ConvexReLUMixin, RegressorMixin, BaseEstimator
):
    r"""ReLU network for regression, trained by convex optimisation.

    Minimises, over networks of any width,

    .. math::
        \sum_i s_i\, \ell\big(f(x_i), y_i\big)
        + \frac{\alpha}{2} \sum_j \big(\|w_j\|_2^2 + a_j^2\big),
        \qquad f(x) = \sum_j a_j\, (x^T w_j + b_j)_+ + b_0 ,

    where the biases are free.  It is the objective of
    :class:`~sklearn.neural_network.MLPRegressor` with the same `alpha` (one
    output, ``solver='lbfgs'``; of `c` outputs its `alpha` is ours divided by `c`).
    The problem is solved as an equivalent convex program, so there is no learning
    rate, and the network does not depend on a lucky start.  `dual_gap_` bounds
    what is left to gain, for the networks that `certificate_` names.

    Parameters
    ----------
    alpha : float or 'scale', default='scale'
        Weight decay, positive: the factor of half the sum of squares of all
        weights.  The losses are summed, not averaged.  'scale' is a fiftieth of
        the smallest value at which the best network is a constant, as far as a
        short search finds it (see :func:`alpha_max`), so that it does not depend on
        the units of `X`, `y` and `sample_weight`.  For a better value,
        cross-validate.
    loss : str, default='squared_error'
        One of 'squared_error', 'huber', 'quantile' and 'poisson'.
        'squared_error' is half the squared error ``(f - y)^2 / 2``.  'huber'
        continues it linearly beyond residuals of size `epsilon`.  'quantile'
        is the pinball loss ``q (y - f)_+ + (1 - q) (f - y)_+`` with ``q`` the
        `quantile`.  'poisson' is half the Poisson deviance of the prediction
        ``exp(f)``, that is ``exp(f) - y f`` and a constant, for `y` that are
        not negative.
    epsilon : float, default=1.35
        Threshold of the Huber loss, in the units of `y`.
    quantile : float, default=0.5
        The quantile that ``loss='quantile'`` predicts, in (0, 1); 0.5 is the
        median.
    negative_slope : float, default=0.0
        Slope of the activation left of zero, in [-1, 1): 0 is ReLU, 0.01 a
        leaky ReLU, -1 the absolute value.
    depth : int, default=2
        Number of weight layers: 2 for one hidden layer.  Networks with more are
        sums of parallel sub-networks, each with its own units in every hidden
        layer and one in the last; see the notes.
    subnetwork_width : int, default=2
        Units in each inner layer of a sub-network, for `depth` of at least 3; with
        the path norm, inputs of each unit.
    subnetwork_norm : {'frobenius', 'path'}, default='frobenius'
        What is at most one for the inner layers of a sub-network, for `depth` of
        at least 3: the Frobenius norm of the weight matrix of each layer, or the
        norm of the weights of each unit, which is the path norm.
    formulation : {'relu', 'gated_relu'}, default='relu'
        'gated_relu' trains a network whose neurons are switched on by gates that
        do not learn, ``f(x) = sum_j v_j 1[x^T h_j + c_j > 0] x^T w_j + b_0``: of
        the patterns that `arrangements` ('sampled' or 'exact') gives.  It is the
        same program without the constraints of the cells, with the nuclear norm
        for several outputs [6]_.  It needs a smooth loss.  With `fit_intercept`
        gates have offsets and outputs have biases, hidden neurons have none.
        Sparse data stay sparse.  Each 50 steps of its solver count as one
        iteration.
    arrangements : str, default='adaptive'
        Which activation patterns enter the program: 'adaptive', 'sampled',
        'exact', 'cutting_planes' or 'cutting_cells'.  'adaptive' is column
        generation: it searches for the neurons that the network lacks, adds
        them, and stops when no neuron that it can find would gain more than
        `tol` allows.  For one output all patterns are taken if the data have at
        most 100.
        'sampled' draws `n_arrangements` random patterns, and the network is
        optimal among those whose neurons have these; there can be much better
        ones.  'exact' takes all patterns of the data, for data of low rank, and
        the network is optimal among all.  'cutting_planes' and 'cutting_cells'
        start from nothing and add, round by round, the steepest neurons, one of
        each sign: 'cutting_planes' these alone, 'cutting_cells' all neurons of
        their patterns, which takes fewer rounds.  They always do so, for the
        study of the method and of `pricing`, on small data; 'adaptive' is
        faster on larger ones.
    n_arrangements : int, default=100
        Number of neurons to place at the start for 'adaptive'; the network can
        get more or fewer.  For 'sampled', number of distinct patterns; if the
        data have no more than that, all are taken, as with 'exact'.
    pricing : str, default='exact'
        How 'cutting_planes' and 'cutting_cells' find the steepest neuron and
        bound its slope; not used otherwise.  One of 'exact', 'search',
        'triangle', 'semidefinite' and 'nonnegative'.  'exact' is branch and
        bound, with a limit of work of some seconds per round; for data of low
        rank or few samples.  'search' is local search, as in 'adaptive', and
        the bound an estimate.  'triangle' and 'semidefinite' search in the
        same way and take the bound from a relaxation, which is proven but can
        leave a gap that does not close.  'nonnegative' looks only at neurons
        that are active on all samples, a convex problem, and the network is
        optimal among networks of these.
    fit_intercept : bool, default=True
        Whether to use free (unpenalised) biases in both layers.  Without, for
        a penalised bias, append a column of ones to the data.
    solver : str, default='auto'
        One of 'auto', 'interior_point', 'direction_generation',
        'augmented_lagrangian', 'penalised' and 'cvxpy'.
        Solver of the program over given patterns, that is with 'sampled' and
        'exact', of one output; the others always use the solvers of this package.
        'interior_point' is a method made for these programs, exact and cubic in
        the smaller of the number of samples and of unknowns.
        'direction_generation' often needs only a few rounds where that is much.
        'augmented_lagrangian' and 'penalised' (not for a loss with kinks) are
        first-order methods, with memory linear in samples and patterns.
        'cvxpy' (with Clarabel) is a slow and independent reference.  'auto' is
        'interior_point' for small programs, otherwise 'direction_generation',
        and 'interior_point' after all where that is slow.
        With `depth` of at least 3 there are 'interior_point', which is 'auto',
        'penalised' and 'cvxpy'.  The networks of 'penalised' can be of other
        patterns than those sampled, and better; their gap is then zero.
    tol : float, default=1e-2
        Stop when ``dual_gap_ <= tol * objective_``, or when the gap is 1e-12 of
        the objective of the network without neurons.  Programs over given
        patterns are solved to 1e-4 or less in any case.
    max_iter : int, default=200
        Limit of solver iterations for 'sampled' and 'exact', otherwise of
        rounds.
    max_neurons : int, default=None
        Limit of the neurons, None for no limit; not for
        'sampled' and 'exact'.  When the optimum needs more, the fit stops with
        a good network within the limit; its gap is what the limit may cost.
    minimal : bool, default=False
        Whether to search, after training, for the smallest network that `tol`
        allows: its objective may rise until ``dual_gap_`` is
        ``tol * objective_``, so a loose `tol` trades accuracy for size.  If
        the gap is larger already, the objective does not rise.  To find the
        smallest of all is NP-hard; this is the smallest found [4]_.
    max_time : float, default=None
        Limit of the time for the fit, in seconds, kept to about a tenth and half a
        second.  What is not searched to the end is not claimed.
    warm_start : bool, default=False
        Whether to start from the neurons of the previous fit, in place of
        those that are placed, or to add their patterns to those that are
        sampled ('sampled').  On the same data, and without a limit of
        neurons, the objective then does not get worse, but for a small part of
        `tol` if outputs share a hidden layer.  Gated networks start from the
        previous neurons, whose gates are used besides those that are sampled.
    random_state : int, RandomState instance or None, default=None
        Determines the neurons placed at the start and the searches for more,
        or the sampled patterns.
    verbose : int, default=0
        1 prints a line for each round, or two for each program over given
        patterns, 2 also the iterations of the latter.

    Attributes
    ----------
    alpha_ : float
        The number that `alpha` stands for.
    coefs_ : list of `depth` ndarrays
        Weights of shape (n_features, n_neurons) and (n_neurons, n_outputs), as
        in scikit-learn's MLP, with the dtype of `X`.  Of deeper networks, the
        inner layers of the sub-networks side by side: those after the first are
        block diagonal.
    intercepts_ : list of `depth` ndarrays
        Biases of shape (n_neurons,) and (n_outputs,), as many as `coefs_`, in
        double precision.
    gates_ : ndarray of shape (n_features, n_neurons) or (n_features + 1, n_neurons)
        Gate vectors, with `fit_intercept` their offsets in the last row; only for
        the formulation 'gated_relu'.
    objective_ : float
        Objective of this network on the training data, computed from `coefs_`
        and `intercepts_`.
    loss_ : float
        `objective_` divided by the sum of the weights of the samples.
    dual_bound_ : float
        Lower bound of the objective of every network in the scope of
        `certificate_`, and with the reservation stated there.
    dual_gap_ : float
        ``objective_ - dual_bound_``, in the units of the objective.
    proven_bound_ : float
        Lower bound that is proven for every network, often far below
        `dual_bound_`; only for `depth` of at least 3.
    certificate_ : {'global', 'estimated', 'restricted'}
        'global': the bound is proven for networks of every width.
        'estimated': it is meant for networks of every width, but rests on a
        search for the steepest missing neuron, not on a proof; do not trust it
        beyond a thousandth of the objective, or a hundredth or two with a `depth`
        of 3 and more.  'restricted': it holds for
        networks on the sampled patterns only, or with `pricing` 'nonnegative'
        of neurons that are active on all samples, and says nothing of the
        others.  See the notes.
    n_neurons_ : int
        Number of hidden neurons, for `depth` of at least 3 that of sub-networks; at
        most the number of samples times that of outputs, unless there was no time to
        leave out the others.  See `minimal`.
    n_arrangements_ : int
        Number of patterns used, the most that were in the program at once.  For
        'cutting_planes' that of neurons.
    n_iter_ : int
        Number of rounds or solver iterations.
    history_ : dict of ndarray
        One entry per round or solver iteration: 'time' in seconds, 'objective',
        'dual_bound', 'kappa' (steepest slope found, or its bound with
        `pricing`, divided by `alpha`; nan where unknown), 'cells' (patterns
        in the program, or cuts) and 'neurons'.
    n_layers_ : int
        ``depth + 1``, counting the input, as in scikit-learn's MLP.
    n_outputs_ : int
    out_activation_ : str
        'exp' if `loss` is 'poisson', otherwise 'identity'.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        If `X` has feature names that are all strings.

    See Also
    --------
    ConvexReLUClassifier : The same for classification.
    certify : Bound the gap of any two-layer network.
    sklearn.neural_network.MLPRegressor : Local training of the same objective.

    Notes
    -----
    With 'adaptive' and 'exact', one output and a `depth` of 2, data of special
    structure are solved directly: one feature or samples on a line, and, without
    biases, samples on a line through the origin or orthogonal samples.  With one
    feature the network is a linear spline with its knots at data points.

    The certificate is 'global' if all patterns are in the program, if the
    structure of the data gives the solution, or if a branch and bound search
    has proven that no missing neuron is steep enough to matter.  The last is
    attempted after 'adaptive', for at most 60 distinct samples or data of rank
    at most 5, for not much longer than the fit itself.  It need not succeed, and
    the certificate is then 'estimated'; ``certify(..., kind='global')`` searches
    for longer.
    With cutting planes it is 'global' for every `pricing` that proves its
    bound, however large the gap, 'estimated' for 'search', and 'restricted'
    for 'nonnegative' unless a relaxation shows that no other neuron matters.
    Runs with different seeds have been seen to contradict estimated bounds by
    a few 1e-4 of the objective, and by up to 1e-2 without biases on samples far
    from the origin.

    With a `depth` ``L`` of at least 3 the network is
    ``f(x) = sum_k w_kL (... ((x^T W_k1 + b_k1)_+ W_k2 + b_k2)_+ ...)_+ + b_0``, of
    any number of sub-networks, and minimises the losses plus `alpha` / 2 times the
    sum of squares of the weights of the last two layers, with norms of the others
    of at most one [7]_.  Weight decay of all layers has no such program.  Networks
    of fewer layers are among these, at the same cost.  Three layers, and with
    ``subnetwork_norm='path'`` more of them, have a convex program over blocks of
    patterns: 'exact' takes all of it, for a few samples of low rank
    (:func:`~sklearn_convexnn.patterns.counts.count_blocks` bounds their number),
    'sampled' the blocks of `n_arrangements` random sub-networks.  With more than
    three layers each unit of a sub-network under the path norm feeds one other,
    for which the program is exact; networks that share inner units are no better
    at the same `subnetwork_width`.  With the Frobenius norm and more than three
    layers only 'adaptive' is there.  It is column generation over whole
    sub-networks; the search for those that are missing is harder than for neurons,
    so that the estimated bound can be off by a hundredth of the objective or two,
    and by more where a fit stops early.
    The certificate is then 'global' only where `proven_bound_` is close enough.
    There is no depth with `formulation` 'gated_relu', cutting planes,
    `negative_slope`, `minimal`, paths and cross-validation estimators.

    Several outputs share the hidden layer, and the program has a norm of
    matrices for each pattern that is hard to compute [5]_; single neurons with
    a group lasso over their output weights take its place.  Then a proof is
    attempted for data of rank at most 5, or 4 with free biases, 'exact' is
    'adaptive' with a longer proof for such data, and with 'sampled' the bound
    rests on a search within the cells.  For a network of its own for each output
    use :class:`~sklearn.multioutput.MultiOutputRegressor`.

    Scale the columns of `X` (:class:`~sklearn.preprocessing.StandardScaler`):
    the weight decay depends on their scale.

    References
    ----------
    .. [1] Pilanci, M. and Ergen, T. (2020). "Neural Networks are Convex
       Regularizers: Exact Polynomial-time Convex Optimization Formulations
       for Two-layer Networks". ICML.
    .. [2] Ergen, T. and Pilanci, M. (2021). "Convex Geometry and Duality of
       Over-parameterized Neural Networks". JMLR 22.
    .. [3] Bach, F. (2017). "Breaking the Curse of Dimensionality with Convex
       Neural Networks". JMLR 18.
    .. [4] Mishkin, A. and Pilanci, M. (2023). "Optimal Sets and Solution Paths
       of ReLU Networks". ICML.
    .. [5] Sahiner, A., Ergen, T., Pauly, J. and Pilanci, M. (2021).
       "Vector-output ReLU Neural Network Problems are Copositive Programs:
       Convex Analysis of Two Layer Networks and Polynomial-time Algorithms".
       ICLR.
    .. [6] Mishkin, A., Sahiner, A. and Pilanci, M. (2022). "Fast Convex
       Optimization for Two-Layer ReLU Networks: Equivalent Model Classes and
       Cone Decompositions". ICML.
    .. [7] Ergen, T. and Pilanci, M. (2021). "Global Optimality Beyond Two
       Layers: Training Deep ReLU Networks via Convex Programs". ICML.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_convexnn import ConvexReLURegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> y = (y - y.mean()) / y.std()
    >>> model = make_pipeline(
    ...     StandardScaler(), ConvexReLURegressor(alpha=20, random_state=0)
    ... ).fit(X, y)
    >>> model[-1].certificate_
    'estimated'
    >>> bool(model[-1].dual_gap_ <= 1e-2 * model[-1].objective_)
    True
    """

    _parameter_constraints = {
        **_COMMON_CONSTRAINTS,
        "loss": [StrOptions(set(REGRESSION_LOSSES))],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "quantile": [Interval(Real, 0, 1, closed="neither")],
    }

    def __init__(
        self,
        alpha="scale",
        *,
        loss="squared_error",
        epsilon=1.35,
        quantile=0.5,
        negative_slope=0.0,
        depth=2,
        subnetwork_width=2,
        subnetwork_norm="frobenius",
        formulation="relu",
        arrangements="adaptive",
        n_arrangements=100,
        pricing="exact",
        fit_intercept=True,
        solver="auto",
        tol=1e-2,
        max_iter=200,
        max_neurons=None,
        minimal=False,
        max_time=None,
        warm_start=False,
        random_state=None,
        verbose=0,
    ):
        self.alpha = alpha
        self.loss = loss
        self.epsilon = epsilon
        self.quantile = quantile
        self.negative_slope = negative_slope
        self.depth = depth
        self.subnetwork_width = subnetwork_width
        self.subnetwork_norm = subnetwork_norm
        self.formulation = formulation
        self.arrangements = arrangements
        self.n_arrangements = n_arrangements
        self.pricing = pricing
        self.fit_intercept = fit_intercept
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.max_neurons = max_neurons
        self.minimal = minimal
        self.max_time = max_time
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        tags.target_tags.positive_only = self.loss == "poisson"
        return tags

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None) -> Self:
        """Train the network.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Sparse data are made dense, but for ``formulation='gated_relu'``.
            With scikit-learn's array API dispatch, an array of another library:
            gated networks are trained on its device, others on a copy in NumPy,
            and the weights are put where `X` is.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative; a weight of two counts as the sample twice.

        Returns
        -------
        self : object
            If the fit fails or is interrupted, the estimator keeps the state
            that it had before.
        """
        return self._fit(X, y, sample_weight)

    def _validated(self, X, y, sample_weight):
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse="csr",
            dtype=float_dtypes(X),
            multi_output=True,
            y_numeric=True,
        )
        y = in_numpy(y)
        # What is missing in objects is NaN only after the validation.
        assert_all_finite(y, input_name="y")
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return without_duplicates(X), y, _checked_weights(sample_weight, X)

    def _encoded(self, X, y, sample_weight):
        X, y, sample_weight = self._validated(X, y, sample_weight)
        loss = make_loss(self.loss, self.epsilon, self.quantile)
        Y = y.reshape(len(y), -1)
        loss.check_targets(Y, sample_weight)
        self.out_activation_ = "exp" if self.loss == "poisson" else "identity"
        return X, Y, sample_weight, loss, (X, y, sample_weight)

    def predict(self, X):
        """Predict targets.

        With ``loss='poisson'`` this is the exponential of the network's output.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """
        raw = self._validated_raw_predict(X, "predict")
        if self.out_activation_ == "exp":
            xp, _ = get_namespace(raw)
            raw = xp.exp(raw)
        return raw[:, 0] if self.n_outputs_ == 1 else raw


def _checked_weights(sample_weight, X):
    """Weights of the samples, as an array of NumPy."""
    xp, _ = get_namespace(X)
    weights = check_sample_weight(
        sample_weight,
        X,
        dtype=max_precision_float_dtype(xp, device(X)),
        ensure_non_negative=True,
    )
    return in_numpy(weights).astype(np.float64, copy=False)


# By how much the log loss has outputs of classes without weight below all others: there
# the softmax vanishes to rounding.
_BELOW = 40.0


class _NeedsLogLoss:
    """A method of classifiers with probabilities, whose absence gives the reason.

    ``available_if`` of scikit-learn hides it behind a message of its own.
    """

    def __init__(self, method):
        self.method = method
        update_wrapper(self, method)

    def __get__(self, estimator, owner=None):
        if estimator is None:
            return self.method
        # A change of parameters does not change a network.
        fitted = getattr(estimator, "out_activation_", None)
        if fitted == "identity" or (fitted is None and estimator.loss != "log_loss"):
            given = f"got loss={estimator.loss!r}"
            if fitted is not None:
                given = "and this one was fitted with another loss"
            raise AttributeError(
                f"This {owner.__name__!r} has no attribute {self.__name__!r}: "
                f"{self.__name__} needs loss='log_loss', {given}."
            )
        return MethodType(self.method, estimator)


class ConvexReLUClassifier(ConvexReLUMixin, ClassifierMixin, BaseEstimator):
    r"""ReLU network for classification, trained by convex optimisation.

    Minimises, over networks of any width,

    .. math::
        \sum_i s_i\, \ell\big(f(x_i), y_i\big)
        + \frac{\alpha}{2} \sum_j \big(\|w_j\|_2^2 + a_j^2\big),
        \qquad f(x) = \sum_j a_j\, (x^T w_j + b_j)_+ + b_0 ,

    with labels ``y_i`` in {-1, +1} and free biases.  With
    ``loss='log_loss'`` and two classes it is the objective of
    :class:`~sklearn.neural_network.MLPClassifier` with the same `alpha`
    (``solver='lbfgs'``).  The problem is solved as an equivalent convex
    program, so there is no learning rate, and the network does not depend on a
    lucky start.  `dual_gap_` bounds what is left to gain, for the networks that
    `certificate_` names.

    Parameters
    ----------
    alpha : float or 'scale', default='scale'
        Weight decay, positive: the factor of half the sum of squares of all
        weights.  The losses are summed, not averaged.  'scale' is a fiftieth of
        the smallest value at which the best network is a constant, as far as a
        short search finds it (see :func:`alpha_max`), so that it does not depend on
        the units of `X` and `sample_weight`, nor on `class_weight`.  For a better
        value, cross-validate.
    loss : {'log_loss', 'squared_hinge', 'hinge'}, default='log_loss'
        ``log(1 + exp(-y f))``, ``max(0, 1 - y f)^2`` or ``max(0, 1 - y f)``.
    class_weight : dict, 'balanced' or None, default=None
        Weights of the classes, multiplied with those of the samples.
        'balanced' makes all classes weigh the same.
    negative_slope : float, default=0.0
        Slope of the activation left of zero, in [-1, 1): 0 is ReLU, 0.01 a
        leaky ReLU, -1 the absolute value.
    depth : int, default=2
        Number of weight layers: 2 for one hidden layer.  Networks with more are
        sums of parallel sub-networks, each with its own units in every hidden
        layer and one in the last; see the notes.
    subnetwork_width : int, default=2
        Units in each inner layer of a sub-network, for `depth` of at least 3; with
        the path norm, inputs of each unit.
    subnetwork_norm : {'frobenius', 'path'}, default='frobenius'
        What is at most one for the inner layers of a sub-network, for `depth` of
        at least 3: the Frobenius norm of the weight matrix of each layer, or the
        norm of the weights of each unit, which is the path norm.
    formulation : {'relu', 'gated_relu'}, default='relu'
        'gated_relu' trains a network whose neurons are switched on by gates that
        do not learn, ``f(x) = sum_j v_j 1[x^T h_j + c_j > 0] x^T w_j + b_0``: of
        the patterns that `arrangements` ('sampled' or 'exact') gives.  It is the
        same program without the constraints of the cells, with the nuclear norm
        for several outputs [6]_.  It needs a smooth loss.  With `fit_intercept`
        gates have offsets and outputs have biases, hidden neurons have none.
        Sparse data stay sparse.  Each 50 steps of its solver count as one
        iteration.
    arrangements : str, default='adaptive'
        Which activation patterns enter the program: 'adaptive', 'sampled',
        'exact', 'cutting_planes' or 'cutting_cells'.  'adaptive' is column
        generation: it searches for the neurons that the network lacks, adds
        them, and stops when no neuron that it can find would gain more than
        `tol` allows.  For one output all patterns are taken if the data have at
        most 100.
        'sampled' draws `n_arrangements` random patterns, and the network is
        optimal among those whose neurons have these; there can be much better
        ones.  'exact' takes all patterns of the data, for data of low rank, and
        the network is optimal among all.  'cutting_planes' and 'cutting_cells'
        start from nothing and add, round by round, the steepest neurons, one of
        each sign: 'cutting_planes' these alone, 'cutting_cells' all neurons of
        their patterns, which takes fewer rounds.  They always do so, for the
        study of the method and of `pricing`, on small data; 'adaptive' is
        faster on larger ones.
    n_arrangements : int, default=100
        Number of neurons to place at the start for 'adaptive'; the network can
        get more or fewer.  For 'sampled', number of distinct patterns; if the
        data have no more than that, all are taken, as with 'exact'.
    pricing : str, default='exact'
        How 'cutting_planes' and 'cutting_cells' find the steepest neuron and
        bound its slope; not used otherwise.  One of 'exact', 'search',
        'triangle', 'semidefinite' and 'nonnegative'.  'exact' is branch and
        bound, with a limit of work of some seconds per round; for data of low
        rank or few samples.  'search' is local search, as in 'adaptive', and
        the bound an estimate.  'triangle' and 'semidefinite' search in the
        same way and take the bound from a relaxation, which is proven but can
        leave a gap that does not close.  'nonnegative' looks only at neurons
        that are active on all samples, a convex problem, and the network is
        optimal among networks of these.
    fit_intercept : bool, default=True
        Whether to use free (unpenalised) biases in both layers.  Without, for
        a penalised bias, append a column of ones to the data.
    solver : str, default='auto'
        One of 'auto', 'interior_point', 'direction_generation',
        'augmented_lagrangian', 'penalised' and 'cvxpy'.
        Solver of the program over given patterns, that is with 'sampled' and
        'exact', of one output; the others always use the solvers of this package.
        'interior_point' is a method made for these programs, exact and cubic in
        the smaller of the number of samples and of unknowns.
        'direction_generation' often needs only a few rounds where that is much.
        'augmented_lagrangian' and 'penalised' (not for a loss with kinks) are
        first-order methods, with memory linear in samples and patterns.
        'cvxpy' (with Clarabel) is a slow and independent reference.  'auto' is
        'interior_point' for small programs, otherwise 'direction_generation',
        and 'interior_point' after all where that is slow.
        With `depth` of at least 3 there are 'interior_point', which is 'auto',
        'penalised' and 'cvxpy'.  The networks of 'penalised' can be of other
        patterns than those sampled, and better; their gap is then zero.
    tol : float, default=1e-2
        Stop when ``dual_gap_ <= tol * objective_``, or when the gap is 1e-12 of
        the objective of the network without neurons.  Programs over given
        patterns are solved to 1e-4 or less in any case.
    max_iter : int, default=200
        Limit of solver iterations for 'sampled' and 'exact', otherwise of
        rounds.
    max_neurons : int, default=None
        Limit of the neurons, None for no limit; not for
        'sampled' and 'exact'.  When the optimum needs more, the fit stops with
        a good network within the limit; its gap is what the limit may cost.
    minimal : bool, default=False
        Whether to search, after training, for the smallest network that `tol`
        allows: its objective may rise until ``dual_gap_`` is
        ``tol * objective_``, so a loose `tol` trades accuracy for size.  If
        the gap is larger already, the objective does not rise.  To find the
        smallest of all is NP-hard; this is the smallest found [4]_.
    max_time : float, default=None
        Limit of the time for the fit, in seconds, kept to about a tenth and half a
        second.  What is not searched to the end is not claimed.
    warm_start : bool, default=False
        Whether to start from the neurons of the previous fit, in place of
        those that are placed, or to add their patterns to those that are
        sampled ('sampled').  On the same data, and without a limit of
        neurons, the objective then does not get worse, but for a small part of
        `tol` if outputs share a hidden layer.  Gated networks start from the
        previous neurons, whose gates are used besides those that are sampled.
    random_state : int, RandomState instance or None, default=None
        Determines the neurons placed at the start and the searches for more,
        or the sampled patterns.
    verbose : int, default=0
        1 prints a line for each round, or two for each program over given
        patterns, 2 also the iterations of the latter.

    Attributes
    ----------
    alpha_ : float
        The number that `alpha` stands for.
    classes_ : ndarray of shape (n_classes,)
        Also those of which every sample has weight zero; their probability is zero,
        and their output below all others.
    coefs_ : list of `depth` ndarrays
        Weights of shape (n_features, n_neurons) and (n_neurons, n_outputs), as
        in scikit-learn's MLP, with the dtype of `X`.  Of deeper networks, the
        inner layers of the sub-networks side by side: those after the first are
        block diagonal.
    intercepts_ : list of `depth` ndarrays
        Biases of shape (n_neurons,) and (n_outputs,), as many as `coefs_`, in
        double precision.
    gates_ : ndarray of shape (n_features, n_neurons) or (n_features + 1, n_neurons)
        Gate vectors, with `fit_intercept` their offsets in the last row; only for
        the formulation 'gated_relu'.
    objective_ : float
        Objective of this network on the training data, computed from `coefs_`
        and `intercepts_`.
    loss_ : float
        `objective_` divided by the sum of the weights of the samples.
    dual_bound_ : float
        Lower bound of the objective of every network in the scope of
        `certificate_`, and with the reservation stated there.
    dual_gap_ : float
        ``objective_ - dual_bound_``, in the units of the objective.
    proven_bound_ : float
        Lower bound that is proven for every network, often far below
        `dual_bound_`; only for `depth` of at least 3.
    certificate_ : {'global', 'estimated', 'restricted'}
        'global': the bound is proven for networks of every width.
        'estimated': it is meant for networks of every width, but rests on a
        search for the steepest missing neuron, not on a proof; do not trust it
        beyond a thousandth of the objective, or a hundredth or two with a `depth`
        of 3 and more.  'restricted': it holds for
        networks on the sampled patterns only, or with `pricing` 'nonnegative'
        of neurons that are active on all samples, and says nothing of the
        others.  See the notes.
    n_neurons_ : int
        Number of hidden neurons, for `depth` of at least 3 that of sub-networks; at
        most the number of samples times that of outputs, unless there was no time to
        leave out the others.  See `minimal`.
    n_arrangements_ : int
        Number of patterns used, the most that were in the program at once.  For
        'cutting_planes' that of neurons.
    n_iter_ : int
        Number of rounds or solver iterations.
    history_ : dict of ndarray
        One entry per round or solver iteration: 'time' in seconds, 'objective',
        'dual_bound', 'kappa' (steepest slope found, or its bound with
        `pricing`, divided by `alpha`; nan where unknown), 'cells' (patterns
        in the program, or cuts) and 'neurons'.
    n_layers_ : int
        ``depth + 1``, counting the input, as in scikit-learn's MLP.
    n_outputs_ : int
        1 for two classes, otherwise the number of classes.
    out_activation_ : str
        'logistic' for the log loss of two classes, 'softmax' for that of more,
        otherwise 'identity'.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        If `X` has feature names that are all strings.

    See Also
    --------
    ConvexReLURegressor : The same for regression.
    certify : Bound the gap of any two-layer network.
    sklearn.neural_network.MLPClassifier : Local training of the same objective.

    Notes
    -----
    With 'adaptive' and 'exact', one output and a `depth` of 2, data of special
    structure are solved directly: one feature or samples on a line, and, without
    biases, samples on a line through the origin or orthogonal samples.  With one
    feature the network is a linear spline with its knots at data points.

    The certificate is 'global' if all patterns are in the program, if the
    structure of the data gives the solution, or if a branch and bound search
    has proven that no missing neuron is steep enough to matter.  The last is
    attempted after 'adaptive', for at most 60 distinct samples or data of rank
    at most 5, for not much longer than the fit itself.  It need not succeed, and
    the certificate is then 'estimated'; ``certify(..., kind='global')`` searches
    for longer.
    With cutting planes it is 'global' for every `pricing` that proves its
    bound, however large the gap, 'estimated' for 'search', and 'restricted'
    for 'nonnegative' unless a relaxation shows that no other neuron matters.
    Runs with different seeds have been seen to contradict estimated bounds by
    a few 1e-4 of the objective, and by up to 1e-2 without biases on samples far
    from the origin.

    With a `depth` ``L`` of at least 3 the network is
    ``f(x) = sum_k w_kL (... ((x^T W_k1 + b_k1)_+ W_k2 + b_k2)_+ ...)_+ + b_0``, of
    any number of sub-networks, and minimises the losses plus `alpha` / 2 times the
    sum of squares of the weights of the last two layers, with norms of the others
    of at most one [7]_.  Weight decay of all layers has no such program.  Networks
    of fewer layers are among these, at the same cost.  Three layers, and with
    ``subnetwork_norm='path'`` more of them, have a convex program over blocks of
    patterns: 'exact' takes all of it, for a few samples of low rank
    (:func:`~sklearn_convexnn.patterns.counts.count_blocks` bounds their number),
    'sampled' the blocks of `n_arrangements` random sub-networks.  With more than
    three layers each unit of a sub-network under the path norm feeds one other,
    for which the program is exact; networks that share inner units are no better
    at the same `subnetwork_width`.  With the Frobenius norm and more than three
    layers only 'adaptive' is there.  It is column generation over whole
    sub-networks; the search for those that are missing is harder than for neurons,
    so that the estimated bound can be off by a hundredth of the objective or two,
    and by more where a fit stops early.
    The certificate is then 'global' only where `proven_bound_` is close enough.
    There is no depth with `formulation` 'gated_relu', cutting planes,
    `negative_slope`, `minimal`, paths and cross-validation estimators.

    Three and more classes have an output each: with the log loss the softmax of
    the outputs is the probability, and the losses of the hinge kind are those of
    each class against the rest, added up.  They share a hidden layer by default,
    and the program has a norm of matrices for each pattern that is hard to
    compute [5]_; single neurons with a group lasso over their output weights take
    its place.  Then a proof is attempted for data of rank at most 5, or 4 with
    free biases, 'exact' is 'adaptive' with a longer proof for such data, and with
    'sampled' the bound rests on a search within the cells.

    Scale the columns of `X` (:class:`~sklearn.preprocessing.StandardScaler`):
    the weight decay depends on their scale.

    References
    ----------
    .. [1] Pilanci, M. and Ergen, T. (2020). "Neural Networks are Convex
       Regularizers: Exact Polynomial-time Convex Optimization Formulations
       for Two-layer Networks". ICML.
    .. [2] Ergen, T. and Pilanci, M. (2021). "Convex Geometry and Duality of
       Over-parameterized Neural Networks". JMLR 22.
    .. [3] Bach, F. (2017). "Breaking the Curse of Dimensionality with Convex
       Neural Networks". JMLR 18.
    .. [4] Mishkin, A. and Pilanci, M. (2023). "Optimal Sets and Solution Paths
       of ReLU Networks". ICML.
    .. [5] Sahiner, A., Ergen, T., Pauly, J. and Pilanci, M. (2021).
       "Vector-output ReLU Neural Network Problems are Copositive Programs:
       Convex Analysis of Two Layer Networks and Polynomial-time Algorithms".
       ICLR.
    .. [6] Mishkin, A., Sahiner, A. and Pilanci, M. (2022). "Fast Convex
       Optimization for Two-Layer ReLU Networks: Equivalent Model Classes and
       Cone Decompositions". ICML.
    .. [7] Ergen, T. and Pilanci, M. (2021). "Global Optimality Beyond Two
       Layers: Training Deep ReLU Networks via Convex Programs". ICML.

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from sklearn_convexnn import ConvexReLUClassifier
    >>> X, y = make_moons(40, noise=0.1, random_state=0)
    >>> model = ConvexReLUClassifier(alpha=0.1, arrangements="exact").fit(X, y)
    >>> model.certificate_
    'global'
    >>> model.score(X, y)
    1.0
    """

    _parameter_constraints = {
        **_COMMON_CONSTRAINTS,
        "loss": [StrOptions(set(CLASSIFICATION_LOSSES))],
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
        alpha="scale",
        *,
        loss="log_loss",
        class_weight=None,
        negative_slope=0.0,
        depth=2,
        subnetwork_width=2,
        subnetwork_norm="frobenius",
        formulation="relu",
        arrangements="adaptive",
        n_arrangements=100,
        pricing="exact",
        fit_intercept=True,
        solver="auto",
        tol=1e-2,
        max_iter=200,
        max_neurons=None,
        minimal=False,
        max_time=None,
        warm_start=False,
        random_state=None,
        verbose=0,
    ):
        self.alpha = alpha
        self.loss = loss
        self.class_weight = class_weight
        self.negative_slope = negative_slope
        self.depth = depth
        self.subnetwork_width = subnetwork_width
        self.subnetwork_norm = subnetwork_norm
        self.formulation = formulation
        self.arrangements = arrangements
        self.n_arrangements = n_arrangements
        self.pricing = pricing
        self.fit_intercept = fit_intercept
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.max_neurons = max_neurons
        self.minimal = minimal
        self.max_time = max_time
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        return tags

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None) -> Self:
        """Train the network.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Sparse data are made dense, but for ``formulation='gated_relu'``.
            With scikit-learn's array API dispatch, an array of another library:
            gated networks are trained on its device, others on a copy in NumPy,
            and the weights are put where `X` is.
        y : array-like of shape (n_samples,)
            Labels of any type, of two classes or more.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative; a weight of two counts as the sample twice.

        Returns
        -------
        self : object
            If the fit fails or is interrupted, the estimator keeps the state
            that it had before.
        """
        return self._fit(X, y, sample_weight)

    def _validated(self, X, y, sample_weight):
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=float_dtypes(X))
        check_classification_targets(y)
        return without_duplicates(X), in_numpy(y), _checked_weights(sample_weight, X)

    def _encoded(self, X, y, sample_weight):
        X, y, sample_weight = self._validated(X, y, sample_weight)
        self.classes_, codes = np.unique(y, return_inverse=True)
        n_classes = len(self.classes_)
        if n_classes < 2:
            raise ValueError(
                "Classifier can't train when only one class is present: "
                f"{type(self).__name__} needs at least 2 classes in y, got {n_classes}."
            )
        used = sample_weight > 0
        X, y, codes, sample_weight = (
            selected(part, used) for part in (X, y, codes, sample_weight)
        )
        given = X, y, sample_weight
        seen = np.bincount(codes, minlength=n_classes) > 0
        factors = np.zeros(n_classes)
        factors[seen] = compute_class_weight(
            self.class_weight,
            classes=self.classes_[seen],
            y=y,
            sample_weight=sample_weight,
        )
        if not (np.all(factors >= 0) and np.any(factors > 0)):
            raise ValueError(
                "class_weight must be non-negative, and positive for at least one "
                f"class, got {dict(zip(self.classes_[seen], factors[seen]))}."
            )
        sample_weight = sample_weight * factors[codes]
        positive = np.arange(n_classes) if n_classes > 2 else np.array([1])
        Y = np.where(codes[:, None] == positive, 1.0, -1.0)
        loss, self.out_activation_ = make_loss(self.loss), "identity"
        if self.loss == "log_loss":
            self.out_activation_ = "logistic"
            if n_classes > 2:
                loss, self.out_activation_ = Softmax(), "softmax"
                Y = np.maximum(Y, 0.0)
        if on_device(X) and np.issubdtype(self.classes_.dtype, np.number):
            self.classes_ = placed(self.classes_, X)
        return X, Y, sample_weight, loss, given

    def _fit_network(self, X, Y, sample_weight, loss, given, *args, **options):
        """As of the base; classes without weight have outputs that are never largest.

        For the others the network is as if there were no more classes.
        """
        # Classes without weight have targets of one value for all that counts.
        counted = Y[sample_weight > 0]
        known = np.any(counted > 0, axis=0)
        if Y.shape[1] == 1 and not (known[0] and np.any(counted <= 0)):
            return self._fit_constant(X, known, given)
        if Y.shape[1] == 1 or known.all():
            return super()._fit_network(
                X, Y, sample_weight, loss, given, *args, **options
            )
        if np.sum(known) == 1:
            return self._fit_constant(X, known, given)
        fitted = super()._fit_network(
            X, Y[:, known], sample_weight, loss, given, *args, **options
        )
        self._insert_outputs(known)
        return fitted

    def _fit_constant(self, X, known, given):
        """The network of data of a single class that has any weight."""
        whole = fit_task(self, given, 0).begin()
        widths = [X.shape[1], *[0] * (self.depth - 1), len(known)]
        gated = self.formulation == "gated_relu"
        offset = np.where(known, 0.0 if len(known) > 1 else -NEVER, NEVER)
        row = dict.fromkeys(HISTORY, np.zeros(1))
        fitted = Fitted(
            coefs=[np.zeros(shape) for shape in pairwise(widths)],
            intercepts=[*map(np.zeros, widths[1:-1]), offset],
            null_objective=0.0,
            trained=Trained(
                neurons=None,
                dual_bound=0.0,
                certificate="global",
                status="optimal",
                message=MESSAGES["optimal"],
                n_iter=0,
                n_patterns=0,
                history=row,
                proven_bound=0.0,
            ),
            gates=np.zeros((X.shape[1] + self.fit_intercept, 0)) if gated else None,
        )
        self.alpha_ = FRACTION if self.alpha == "scale" else float(self.alpha)
        self.negative_slope_ = float(self.negative_slope)
        self._store(X, fitted)
        self.objective_ = self.loss_ = self.dual_gap_ = 0.0
        whole.end({})
        return fitted

    def _insert_outputs(self, known):
        """Give classes without weight an output each, after training without them."""
        self.n_outputs_ = len(known)
        xp, _ = get_namespace(self.coefs_[-1])
        values = np.zeros((self.n_neurons_, len(known)))
        values[:, known] = in_numpy(self.coefs_[-1])
        offset = np.full(len(known), NEVER)
        offset[known] = in_numpy(self.intercepts_[-1])
        like = self.coefs_[-1], self.intercepts_[-1]
        self.coefs_[-1] = placed(values, like[0], like[0].dtype)
        self.intercepts_[-1] = placed(offset, like[1], like[1].dtype)

    def decision_function(self, X):
        """Outputs of the network.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        decision : ndarray of shape (n_samples,) or (n_samples, n_classes)
            For two classes, positive where the second is predicted.
        """
        return self._usable(self._decision(X, "decision_function"))

    def _usable(self, decision):
        """Outputs in which classes without weight are not far below the others.

        As numbers of that size spoil what is learnt from decisions.
        """
        never = np.abs(in_numpy(self.intercepts_[-1])) >= -NEVER
        if not never.any():
            return decision
        xp, _ = get_namespace(decision)
        below = 1.0 if self.out_activation_ == "identity" else _BELOW
        if decision.ndim == 1:
            return below * xp.sign(decision)
        others = placed(np.flatnonzero(~never), decision)
        lowest = xp.min(xp.take(decision, others, axis=1), axis=1, keepdims=True)
        return xp.where(placed(never[None], decision), lowest - below, decision)

    def _decision(self, X, method):
        raw = self._validated_raw_predict(X, method)
        return raw[:, 0] if self.n_outputs_ == 1 else raw

    def predict(self, X):
        """Predict labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,)
        """
        decision = self._decision(X, "predict")
        xp, _ = get_namespace(decision)
        if decision.ndim == 1:
            codes = xp.astype(decision > 0, xp.int64)
        else:
            codes = xp.argmax(decision, axis=1)
        if isinstance(self.classes_, np.ndarray):
            return self.classes_[in_numpy(codes)]
        return xp.take(self.classes_, codes, axis=0)

    @_NeedsLogLoss
    def predict_proba(self, X):
        """Probabilities of the classes; with ``loss='log_loss'`` only.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`.
        """
        decision = self._decision(X, "predict_proba")
        xp, _ = get_namespace(decision)
        if decision.ndim == 1:
            proba = expit_of(decision)
            return xp.stack([1.0 - proba, proba], axis=1)
        return softmax(decision)

    @_NeedsLogLoss
    def predict_log_proba(self, X):
        """Logarithms of the probabilities; with ``loss='log_loss'`` only.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        log_proba : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`.
        """
        decision = self._decision(X, "predict_log_proba")
        xp, _ = get_namespace(decision)
        if decision.ndim == 1:
            zero = xp.zeros_like(decision)
            pair = -xp.logaddexp(zero, decision), -xp.logaddexp(zero, -decision)
            return xp.stack(pair, axis=1)
        shifted = decision - xp.max(decision, axis=1, keepdims=True)
        return shifted - xp.log(xp.sum(xp.exp(shifted), axis=1, keepdims=True))
