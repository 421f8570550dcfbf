"""Two-layer convolutional networks."""

from sklearn.base import BaseEstimator

from sklearn_convexnn._classification import ClassificationMixin
from sklearn_convexnn._convolutional import CONSTRAINTS, ConvolutionMixin
from sklearn_convexnn._regression import RegressionMixin
from sklearn_convexnn._sklearn import StrOptions
from sklearn_convexnn.losses import (
    CLASSIFICATION_LOSSES,
    LOSS_CONSTRAINTS,
    REGRESSION_LOSSES,
)


class ConvexCNNRegressor(RegressionMixin, ConvolutionMixin, BaseEstimator):
    r"""Two-layer convolutional network for regression, by convex optimisation.

    Filters :math:`u_j` slide over images or series, their outputs are pooled, and a
    dense layer follows,

    .. math::
        f(x) = \sum_j \sum_q W_{jq}\,
        \mathrm{pool}_{k \in q} \big(x_k^T u_j + b_j\big)_+ + b_0 ,

    with the patches :math:`x_k` of the input and the windows :math:`q` of the map that
    are pooled.  The objective is that of ordinary training with weight decay, over any
    number of filters [1]_,

    .. math::
        \sum_i s_i\, \ell\big(f(x_i), y_i\big)
        + \frac{\alpha}{2} \sum_j \big(\|u_j\|_2^2 + \|W_j\|_F^2\big) ,

    with free biases.  `dual_gap_` bounds what is left to gain.

    Parameters
    ----------
    alpha : float or 'scale', default='scale'
        Weight decay, positive, as of :class:`ConvexReLURegressor`: the losses are
        summed, not averaged.
    loss : str, default='squared_error'
        One of 'squared_error', 'huber', 'quantile' and 'poisson'; see
        :class:`ConvexReLURegressor`.
    epsilon : float, default=1.35
        Threshold of the Huber loss, in the units of `y`.
    quantile : float, default=0.5
        The quantile that ``loss='quantile'`` predicts, in (0, 1).
    input_shape : int, tuple of int or None, default=None
        Positions of an input along its axes, without channels, as ``(28, 28)`` of an
        image.  The number of channels follows from the number of features; channels
        are the last axis, and entries are in the order of C, as ``image.ravel()`` has
        them.  None takes the axes of `X` between the first and the last one, or, of
        `X` with two axes, one series without channels.
    kernel_size : int or tuple of int, default=3
        Size of the filters along the axes, or along each of them.  Of one series whose
        length is not given, at most that.
    strides : int or tuple of int, default=1
        Steps between patches.
    padding : {'valid', 'same'}, default='valid'
        'same' adds zeros at the borders, so that with strides of one the map is as
        large as the input.
    pooling : {'max', 'average'} or None, default='max'
        What of the outputs in a window goes on: the largest one, or their mean.  None
        has no windows, and a weight for each position.
    pool_size : int, tuple of int or 'global', default=2
        Size of the windows, which lie next to each other; what is left over at the end
        of the map is not used.  'global' has one window.  Of one series whose length is
        not given, at most the size of the map.
    batch_norm : bool, default=False
        Whether each filter has a batch normalisation, over samples and positions, in
        front of its activation, of whose scale the weight decay is; see
        :class:`ConvexReLURegressor`.  The filters that come out are plain ones.
    arrangements : {'adaptive', 'exact', 'sampled'}, default='adaptive'
        Where filters are looked for.  A cell is a set of filters of which the same
        patches are active, or with ``pooling='max'`` the same ones are the largest.

        - 'adaptive': in all cells, by a search for filters that the network lacks.
        - 'exact': in all cells one by one, for tiny data.  With one window and one
          output the bound is proven.
        - 'sampled': in the cells of random filters.  The network is the best one of
          filters in these cells, and the bound is for such networks only.
    n_arrangements : int, default=100
        Number of filters to place at the start, or of random ones for 'sampled'.
    fit_intercept : bool, default=True
        Whether to use free (unpenalised) biases in both layers.
    tol : float, default=1e-2
        Stop when ``dual_gap_ <= tol * objective_``.
    max_iter : int, default=200
        Limit of rounds.
    max_neurons : int, default=None
        Limit of the filters, None for no limit.
    max_time : float, default=None
        Limit of the time for the fit, in seconds.
    warm_start : bool, default=False
        Whether to start from the filters of the previous fit.
    random_state : int, RandomState instance or None, default=None
        Determines the filters placed at the start and the searches for more.
    verbose : int, default=0
        1 prints a line for each round.

    Attributes
    ----------
    coefs_ : list of 2 ndarrays
        Filters as columns, of shape (patch_size, n_neurons), and dense weights of shape
        (n_positions * n_neurons, n_outputs), where the filters of a position of the
        pooled map are next to each other.
    intercepts_ : list of 2 ndarrays
        Biases of shape (n_neurons,) and (n_outputs,).
    filters_ : ndarray of shape (n_neurons, ..., n_channels)
        The filters, with the axes of the kernel in the middle.
    input_shape_, map_shape_ : tuple of int
        Positions of an input, and of the pooled map.
    n_neurons_ : int
        Number of filters.
    alpha_, objective_, loss_, dual_bound_, dual_gap_ : float
        As of :class:`ConvexReLURegressor`.
    certificate_ : {'global', 'estimated', 'restricted'}
        What the bound holds for; see :class:`ConvexReLURegressor`.
    n_arrangements_, n_iter_, n_layers_, n_outputs_ : int
    out_activation_ : str
        'exp' if `loss` is 'poisson', otherwise 'identity'.
    history_ : dict of ndarray
        One entry per round, and for better networks within rounds.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        If `X` has feature names that are all strings.

    See Also
    --------
    ConvexCNNClassifier : The same for classification.
    ConvexReLURegressor : Networks without convolution, and more on the parameters.

    Notes
    -----
    `X` may have an axis for each of the axes of the inputs, and one for channels; it is
    used with a row for each sample.  Patches are made for some samples at a time, and
    kept for all if they have at most 8 million entries.  With `batch_norm` those of all
    samples are in memory once, in double precision, when they are whitened.

    An image has many patches, so that the search for missing filters sees more numbers
    than that for neurons of a dense network of as many samples, and takes longer.

    References
    ----------
    .. [1] Ergen, T. and Pilanci, M. (2021). "Implicit Convex Regularizers of CNN
       Architectures: Convex Optimization of Two- and Three-Layer Networks in Polynomial
       Time". ICLR. Sections 2 (pooling) and 3.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_convexnn import ConvexCNNRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((60, 20))
    >>> y = np.maximum(X[:, 1:] - X[:, :-1], 0).mean(axis=1)
    >>> model = ConvexCNNRegressor(
    ...     alpha=0.01, kernel_size=2, pooling="average", pool_size="global"
    ... ).fit(X, y)
    >>> model.filters_.shape[1:]
    (2, 1)
    >>> bool(model.dual_gap_ <= 1e-2 * model.objective_)
    True
    """

    _parameter_constraints = {
        **CONSTRAINTS,
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
        input_shape=None,
        kernel_size=3,
        strides=1,
        padding="valid",
        pooling="max",
        pool_size=2,
        batch_norm=False,
        arrangements="adaptive",
        n_arrangements=100,
        fit_intercept=True,
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
        self.input_shape = input_shape
        self.kernel_size = kernel_size
        self.strides = strides
        self.padding = padding
        self.pooling = pooling
        self.pool_size = pool_size
        self.batch_norm = batch_norm
        self.arrangements = arrangements
        self.n_arrangements = n_arrangements
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter
        self.max_neurons = max_neurons
        self.max_time = max_time
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose


class ConvexCNNClassifier(ClassificationMixin, ConvolutionMixin, BaseEstimator):
    r"""Two-layer convolutional network for classification, by convex optimisation.

    Filters slide over images or series, their outputs are pooled, and a dense layer
    follows; see :class:`ConvexCNNRegressor` for the network and the objective.

    Parameters
    ----------
    alpha : float or 'scale', default='scale'
        Weight decay, positive, as of :class:`ConvexReLUClassifier`.
    loss : {'log_loss', 'squared_hinge', 'hinge'}, default='log_loss'
        As of :class:`ConvexReLUClassifier`; 'log_loss' of three and more classes is
        that of the softmax of the outputs.
    class_weight : dict, 'balanced' or None, default=None
        Weights of the classes, multiplied with those of the samples.
    input_shape : int, tuple of int or None, default=None
        Positions of an input along its axes, without channels.
    kernel_size : int or tuple of int, default=3
        Size of the filters along the axes.
    strides : int or tuple of int, default=1
        Steps between patches.
    padding : {'valid', 'same'}, default='valid'
        'same' adds zeros at the borders.
    pooling : {'max', 'average'} or None, default='max'
        What of the outputs in a window goes on.
    pool_size : int, tuple of int or 'global', default=2
        Size of the windows.
    batch_norm : bool, default=False
        Whether each filter has a batch normalisation.
    arrangements : {'adaptive', 'exact', 'sampled'}, default='adaptive'
        Where filters are looked for.
    n_arrangements : int, default=100
        Number of filters to place at the start, or of random ones for 'sampled'.
    fit_intercept : bool, default=True
        Whether to use free (unpenalised) biases in both layers.
    tol : float, default=1e-2
        Stop when ``dual_gap_ <= tol * objective_``.
    max_iter : int, default=200
        Limit of rounds.
    max_neurons : int, default=None
        Limit of the filters, None for no limit.
    max_time : float, default=None
        Limit of the time for the fit, in seconds.
    warm_start : bool, default=False
        Whether to start from the filters of the previous fit.
    random_state : int, RandomState instance or None, default=None
        Determines the filters placed at the start and the searches for more.
    verbose : int, default=0
        1 prints a line for each round.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Also those of which every sample has weight zero.
    coefs_, intercepts_ : list of 2 ndarrays
        As of :class:`ConvexCNNRegressor`.
    filters_ : ndarray of shape (n_neurons, ..., n_channels)
        The filters, with the axes of the kernel in the middle.
    input_shape_, map_shape_ : tuple of int
        Positions of an input, and of the pooled map.
    n_neurons_ : int
        Number of filters.
    n_outputs_ : int
        1 for two classes, otherwise the number of classes.
    out_activation_ : str
        'logistic' for the log loss of two classes, 'softmax' for that of more,
        otherwise 'identity'.
    alpha_, objective_, loss_, dual_bound_, dual_gap_ : float
        As of :class:`ConvexReLURegressor`.
    certificate_ : {'global', 'estimated', 'restricted'}
        What the bound holds for; see :class:`ConvexReLURegressor`.
    n_arrangements_, n_iter_, n_layers_ : int
    history_ : dict of ndarray
        One entry per round, and for better networks within rounds.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        If `X` has feature names that are all strings.

    See Also
    --------
    ConvexCNNRegressor : The same for regression, and more on the parameters.
    ConvexReLUClassifier : Networks without convolution.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_convexnn import ConvexCNNClassifier
    >>> X, y = load_digits(n_class=2, return_X_y=True)
    >>> model = ConvexCNNClassifier(
    ...     alpha=1, input_shape=(8, 8), tol=0.1, random_state=0
    ... )
    >>> model.fit(X[:60] / 16, y[:60]).filters_.shape[1:]
    (3, 3, 1)
    >>> bool(model.score(X[60:] / 16, y[60:]) > 0.98)
    True
    """

    _parameter_constraints = {
        **CONSTRAINTS,
        "loss": [StrOptions(set(CLASSIFICATION_LOSSES))],
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
        alpha="scale",
        *,
        loss="log_loss",
        class_weight=None,
        input_shape=None,
        kernel_size=3,
        strides=1,
        padding="valid",
        pooling="max",
        pool_size=2,
        batch_norm=False,
        arrangements="adaptive",
        n_arrangements=100,
        fit_intercept=True,
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
        self.input_shape = input_shape
        self.kernel_size = kernel_size
        self.strides = strides
        self.padding = padding
        self.pooling = pooling
        self.pool_size = pool_size
        self.batch_norm = batch_norm
        self.arrangements = arrangements
        self.n_arrangements = n_arrangements
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter
        self.max_neurons = max_neurons
        self.max_time = max_time
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose
