"""Two-layer ReLU networks: the main door."""

from functools import partial
from numbers import Integral, Real

import numpy as np
from sklearn.base import BaseEstimator, clone

from sklearn_convexnn._base import COMMON_CONSTRAINTS, Neighbour, ReLUNetworkMixin
from sklearn_convexnn._classification import ClassificationMixin
from sklearn_convexnn._fitting import fit_network
from sklearn_convexnn._memory import check_neurons, check_patterns
from sklearn_convexnn._network_input import check_batch_norm
from sklearn_convexnn._null_slope import null_slope
from sklearn_convexnn._regression import RegressionMixin
from sklearn_convexnn._sklearn import Interval, StrOptions
from sklearn_convexnn._utils.devices import in_numpy
from sklearn_convexnn.families.two_layer.family import TwoLayer
from sklearn_convexnn.losses import (
    CLASSIFICATION_LOSSES,
    LOSS_CONSTRAINTS,
    NEVER,
    REGRESSION_LOSSES,
)
from sklearn_convexnn.model.whitening import squared_deviations
from sklearn_convexnn.solvers import SOLVERS
from sklearn_convexnn.training.routes import train

_CONSTRAINTS = {
    **COMMON_CONSTRAINTS,
    "negative_slope": [Interval(Real, -1, 1, closed="left")],
    "batch_norm": ["boolean"],
    "arrangements": [StrOptions({"adaptive", "sampled", "exact"})],
    "solver": [StrOptions(set(SOLVERS))],
    "max_neurons": [Interval(Integral, 1, None, closed="left"), None],
}


class TwoLayerMixin(ReLUNetworkMixin):
    """Training of two-layer networks, also from neurons that are known."""

    _kind = "two-layer"
    _train, _slope = staticmethod(fit_network), staticmethod(null_slope)

    def _settings(self, loss, **others):
        check_batch_norm(self.batch_norm, self.fit_intercept)
        family = partial(TwoLayer, negative_slope=self.negative_slope)
        how = {"family": family, "method": train, **others}
        return super()._settings(loss, **how)

    def _warn_of_scales(self, X, sample_weight):
        # Behind batch normalisation all columns count the same.
        return not self.batch_norm and super()._warn_of_scales(X, sample_weight)

    def _decayed(self, X, sample_weight):
        if not self.batch_norm:
            return super()._decayed(X, sample_weight)
        hidden, output = (in_numpy(part).astype(np.float64) for part in self.coefs_)
        data = self._data(X).astype(np.float64, copy=False)
        return squared_deviations(data, sample_weight, hidden) + np.sum(output**2)

    def _check_memory(self, shape, n_outputs):
        if self.arrangements == "sampled":
            check_patterns(shape, self.n_arrangements, self.fit_intercept)
        elif self.arrangements == "adaptive":
            check_neurons(shape, n_outputs, self.n_arrangements)

    def _n_rounds(self, n_outputs):
        # Programs over given patterns are of one output.
        of_program = n_outputs == 1 and self.arrangements in ("sampled", "exact")
        return 0 if of_program else None

    def _unfitted(self):
        """An estimator of one `alpha` with these parameters."""
        return clone(self)

    def _start(self, n_features, n_outputs, neighbours):
        """Weights of earlier fits, and dual points."""
        if not neighbours and self.warm_start and hasattr(self, "coefs_"):
            neighbours = [Neighbour(self, None)]
        neighbours = [
            near
            for near in neighbours
            if near.model.coefs_[0].shape[0] == n_features
            and _weights_of(near.model)[1].shape[1] == n_outputs
        ]
        if not neighbours:
            return None
        # The mixture of networks, as that of dual points, is hardly worse than they.
        shares, duals = [1.0], ()
        if len(neighbours) == 2:
            above, below = (near.model.alpha_ for near in neighbours)
            share = (self.alpha_ - below) / (above - below)
            shares = [share, 1.0 - share]
            duals = self._between(*(near.dual for near in neighbours))
        models = [near.model for near in neighbours]
        hidden, output, biases, offsets = zip(*(_weights_of(model) for model in models))
        output = [share * part for share, part in zip(shares, output)]
        coefs = [np.concatenate(hidden, axis=1), np.concatenate(output)]
        return coefs, [np.concatenate(biases), offsets[0]], duals

    def _between(self, above, below):
        """The dual points to start with, of those of two neighbours."""
        if above is None or below is None:
            return ()
        if above.proven != below.proven:
            # A proof may succeed here, or not: it has to be attempted.
            return ()
        return (above.towards(below, self.alpha_),)


def _weights_of(model):
    """Weights and biases of a model, without outputs of classes that have no weight."""
    hidden, output, biases, offset = (
        in_numpy(part).astype(np.float64)
        for part in (*model.coefs_, *model.intercepts_)
    )
    trained = offset > NEVER
    return hidden, output[:, trained], biases, offset[trained]


class ConvexReLURegressor(RegressionMixin, TwoLayerMixin, BaseEstimator):
    r"""Two-layer ReLU network for regression, trained by convex optimisation.

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
    batch_norm : bool, default=False
        Whether each neuron has a batch normalisation in front of its activation, with
        a scale and a shift of its own.  The weight decay is then that of the scales
        in place of the hidden weights, whose length does not matter; a scale is the
        standard deviation of the pre-activation over the training samples, and the
        term :math:`\|w_j\|_2^2` of the objective becomes
        :math:`\mathrm{Var}(x^T w_j)`.  It does not depend on the units of the columns
        of `X`, nor on which of their combinations they are.  Nothing else changes: the
        network is one of plain weights and biases.  See the notes.
    arrangements : {'adaptive', 'sampled', 'exact'}, default='adaptive'
        Which activation patterns enter the program.  'adaptive' is column
        generation: it searches for the neurons that the network lacks, adds
        them, and stops when no neuron that it can find would gain more than
        `tol` allows.  For one output all patterns are taken if the data have at
        most 100.
        'sampled' draws `n_arrangements` random patterns, and the network is
        optimal among those whose neurons have these; there can be much better
        ones.  'exact' takes all patterns of the data, for data of low rank, and
        the network is optimal among all.
    n_arrangements : int, default=100
        Number of neurons to place at the start for 'adaptive'; the network can
        get more or fewer.  More get further, but each step takes longer, which
        matters with a short `max_time`.  For 'sampled', number of distinct
        patterns; if the data have no more than that, all are taken, as with
        'exact'.
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
    tol : float, default=1e-2
        Stop when ``dual_gap_ <= tol * objective_``, or when the gap is 1e-12 of
        the objective of the network without neurons.  Programs over given
        patterns are solved to 1e-4 or less in any case.
    max_iter : int, default=200
        Limit of solver iterations for 'sampled' and 'exact', otherwise of
        rounds.
    max_neurons : int, default=None
        Limit of the neurons, None for no limit; not for 'sampled' and 'exact'.
        When the optimum needs more, the fit stops with a good network within the
        limit; its gap is what the limit may cost.  See also
        :func:`smallest_network`.
    max_time : float, default=None
        Limit of the time for the fit, in seconds, kept to about a tenth and half a
        second.  What is not searched to the end is not claimed.
    warm_start : bool, default=False
        Whether to start from the neurons of the previous fit, in place of
        those that are placed, or to add their patterns to those that are
        sampled ('sampled').  On the same data, and without a limit of
        neurons, the objective then does not get worse, but for a small part of
        `tol` with several outputs.
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
    coefs_ : list of 2 ndarrays
        Weights of shape (n_features, n_neurons) and (n_neurons, n_outputs), as
        in scikit-learn's MLP, with the dtype of `X`.
    intercepts_ : list of 2 ndarrays
        Biases of shape (n_neurons,) and (n_outputs,), in double precision.
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
    certificate_ : {'global', 'estimated', 'restricted'}
        'global': the bound is proven for networks of every width.
        'estimated': it is meant for networks of every width, but rests on a
        search for the steepest missing neuron, not on a proof; do not trust it
        beyond a hundredth of the objective.  'restricted': it holds for
        networks on the sampled patterns only, and says nothing of the others.
        See the notes.
    n_neurons_ : int
        Number of hidden neurons; at most the number of samples times that of
        outputs, unless there was no time to leave out the others.
    n_arrangements_ : int
        Number of patterns used, the most that were in the program at once.
    n_iter_ : int
        Number of rounds or solver iterations.
    history_ : dict of ndarray
        One entry per round or solver iteration, and for better networks within
        rounds: 'time' in seconds, 'objective',
        'dual_bound', 'kappa' (steepest slope found, divided by `alpha`; nan where
        unknown), 'blocks' (of the program: of patterns, or of units that it selects;
        those in use for gated networks) and 'neurons'.
    n_layers_ : int
        3, counting the input, as in scikit-learn's MLP.
    n_outputs_ : int
    out_activation_ : str
        'exp' if `loss` is 'poisson', otherwise 'identity'.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        If `X` has feature names that are all strings.

    See Also
    --------
    ConvexReLUClassifier : The same for classification.
    ConvexReLURegressorCV : With `alpha` by cross-validation.
    GatedReLURegressor : Networks whose gates do not learn.
    ParallelReLURegressor : Deeper networks.
    certify : Bound the gap of any two-layer network.
    smallest_network : Fewer neurons within the tolerance.
    sklearn.neural_network.MLPRegressor : Local training of the same objective.

    Notes
    -----
    With 'adaptive' and 'exact' and one output, data of special structure are solved
    directly: one feature or samples on a line, and, without biases, samples on a
    line through the origin or orthogonal samples.  With one feature the network is
    a linear spline with its knots at data points.

    The certificate is 'global' if all patterns are in the program, if the
    structure of the data gives the solution, or if a branch and bound search
    has proven that no missing neuron is steep enough to matter.  The last is
    attempted after 'adaptive', for at most 60 distinct samples or data of rank
    at most 5, for not much longer than the fit itself.  It need not succeed, and
    the certificate is then 'estimated'; ``certify(..., kind='global')`` searches
    for longer.
    An estimated bound allows for neurons that the search has not seen, by the
    missing mass of its climbs and the tail of their slopes.  Far longer searches
    contradict it now and then, on common tables by less than 1e-2 of the objective,
    or 3e-2 where a limit of time had cut searches short.  Where nothing but products
    of a few out of many columns matter, the search may miss what has them, and the
    bound is then of no use.

    Several outputs share the hidden layer, and the program has a norm of
    matrices for each pattern that is hard to compute [4]_; single neurons with
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
    .. [4] Sahiner, A., Ergen, T., Pauly, J. and Pilanci, M. (2021).
       "Vector-output ReLU Neural Network Problems are Copositive Programs:
       Convex Analysis of Two Layer Networks and Polynomial-time Algorithms".
       ICLR.

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
        negative_slope=0.0,
        batch_norm=False,
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
        self.negative_slope = negative_slope
        self.batch_norm = batch_norm
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


class ConvexReLUClassifier(ClassificationMixin, TwoLayerMixin, BaseEstimator):
    r"""Two-layer ReLU network for classification, trained by convex optimisation.

    Minimises, over networks of any width,

    .. math::
        \sum_i s_i\, \ell\big(f(x_i), y_i\big)
        + \frac{\alpha}{2} \sum_j \big(\|w_j\|_2^2 + a_j^2\big),
        \qquad f(x) = \sum_j a_j\, (x^T w_j + b_j)_+ + b_0 ,

    with labels ``y_i`` in {-1, +1} and free biases.  With
    ``loss='log_loss'`` and two classes it is the objective of
    :class:`~sklearn.neural_network.MLPClassifier` with the same `alpha`
    (``solver='lbfgs'``).  `dual_gap_` bounds what is left to gain, for the networks
    that `certificate_` names.

    Parameters
    ----------
    alpha : float or 'scale', default='scale'
        Weight decay, positive, as of :class:`ConvexReLURegressor`.  'scale' does not
        depend on the units of `X` and `sample_weight`, nor on `class_weight`.
    loss : {'log_loss', 'squared_hinge', 'hinge'}, default='log_loss'
        ``log(1 + exp(-y f))``, ``max(0, 1 - y f)^2`` or ``max(0, 1 - y f)``.
    class_weight : dict, 'balanced' or None, default=None
        Weights of the classes, multiplied with those of the samples.
        'balanced' makes all classes weigh the same.
    negative_slope : float, default=0.0
        Slope of the activation left of zero, in [-1, 1): 0 is ReLU, 0.01 a
        leaky ReLU, -1 the absolute value.
    batch_norm : bool, default=False
        Whether each neuron has a batch normalisation in front of its activation, of
        whose scale the weight decay is; see :class:`ConvexReLURegressor`.
    arrangements : {'adaptive', 'sampled', 'exact'}, default='adaptive'
        Which activation patterns enter the program: those that a search finds
        missing, `n_arrangements` random ones, or all, for data of low rank.
    n_arrangements : int, default=100
        Number of neurons to place at the start for 'adaptive', and of patterns for
        'sampled'.
    fit_intercept : bool, default=True
        Whether to use free (unpenalised) biases in both layers.
    solver : str, default='auto'
        One of 'auto', 'interior_point', 'direction_generation',
        'augmented_lagrangian', 'penalised' and 'cvxpy'.  Solver of programs over
        given patterns of one output; see :class:`ConvexReLURegressor`.
    tol : float, default=1e-2
        Stop when ``dual_gap_ <= tol * objective_``, or when the gap is 1e-12 of
        the objective of the network without neurons.
    max_iter : int, default=200
        Limit of solver iterations for 'sampled' and 'exact', otherwise of
        rounds.
    max_neurons : int, default=None
        Limit of the neurons, None for no limit; not for 'sampled' and 'exact'.
    max_time : float, default=None
        Limit of the time for the fit, in seconds.
    warm_start : bool, default=False
        Whether to start from the neurons of the previous fit.
    random_state : int, RandomState instance or None, default=None
        Determines the neurons placed at the start and the searches for more,
        or the sampled patterns.
    verbose : int, default=0
        1 prints a line for each round, or two for each program over given
        patterns, 2 also the iterations of the latter.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Also those of which every sample has weight zero; their probability is zero,
        and their output below all others.
    n_outputs_ : int
        1 for two classes, otherwise the number of classes.
    out_activation_ : str
        'logistic' for the log loss of two classes, 'softmax' for that of more,
        otherwise 'identity'.
    alpha_, objective_, loss_, dual_bound_, dual_gap_ : float
        As of :class:`ConvexReLURegressor`.
    certificate_ : {'global', 'estimated', 'restricted'}
        What the bound holds for; see :class:`ConvexReLURegressor`.
    coefs_, intercepts_ : list of 2 ndarrays
        As in scikit-learn's MLP.
    n_neurons_, n_arrangements_, n_iter_, n_layers_ : int
    history_ : dict of ndarray
        One entry per round or solver iteration, and for better networks within
        rounds.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        If `X` has feature names that are all strings.

    See Also
    --------
    ConvexReLURegressor : The same for regression, and more on the parameters.
    ConvexReLUClassifierCV : With `alpha` by cross-validation.
    GatedReLUClassifier : Networks whose gates do not learn.
    ParallelReLUClassifier : Deeper networks.
    certify : Bound the gap of any two-layer network.
    sklearn.neural_network.MLPClassifier : Local training of the same objective.

    Notes
    -----
    Three and more classes have an output each: with the log loss the softmax of
    the outputs is the probability, and the losses of the hinge kind are those of
    each class against the rest, added up.  They share the hidden layer, as several
    outputs of :class:`ConvexReLURegressor`, whose notes on certificates and data of
    special structure hold here too.

    Scale the columns of `X` (:class:`~sklearn.preprocessing.StandardScaler`):
    the weight decay depends on their scale.

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
        negative_slope=0.0,
        batch_norm=False,
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
        self.negative_slope = negative_slope
        self.batch_norm = batch_norm
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
