"""Reading of two-layer networks that come from elsewhere, and of their data."""

from dataclasses import dataclass, replace
from numbers import Real

import numpy as np
from scipy.sparse import issparse
from sklearn.utils import (
    check_array,
    check_consistent_length,
    column_or_1d,
    compute_class_weight,
)

from sklearn_convexnn._sklearn import check_sample_weight
from sklearn_convexnn._utils.devices import in_numpy
from sklearn_convexnn.losses import (
    LOSS_OF,
    NEVER,
    REGRESSION_LOSSES,
    Separable,
    Softmax,
    make_loss,
)

# Of networks that do not say.
_DEFAULTS = {
    "loss": "squared_error",
    "epsilon": 1.35,
    "quantile": 0.5,
    "fit_intercept": True,
    "negative_slope": 0.0,
    "batch_norm": False,
}


@dataclass(frozen=True)
class PlainNetwork:
    """A two-layer network of any origin.

    Attributes
    ----------
    coefs : list of two ndarrays, (n_features, n_neurons) and (n_neurons, n_outputs)
    intercepts : list of two ndarrays, (n_neurons,) and (n_outputs,)
    loss : str
    fit_intercept : bool
        Whether it may have biases.
    negative_slope : float
        Of its activation.
    batch_norm : bool
        Whether the weight decay is that of networks with batch normalisation.
    layout : Layout or None, default=None
        Of the filters that the columns of the first weights are, if they are.
    """

    coefs: list
    intercepts: list
    loss: str
    fit_intercept: bool
    negative_slope: float
    batch_norm: bool
    layout: object = None

    @property
    def n_features(self):
        """Of its inputs."""
        return len(self.coefs[0]) if self.layout is None else self.layout.n_features

    def select(self, used):
        """The network with the outputs of a mask only."""
        (hidden, output), (biases, offset) = self.coefs, self.intercepts
        coefs, intercepts = [hidden, output[:, used]], [biases, offset[used]]
        return replace(self, coefs=coefs, intercepts=intercepts)


def counted(number, noun):
    """A number of things in words, as '1 output' and '2 classes'.

    Parameters
    ----------
    number : int
    noun : str
        Of one of them.

    Returns
    -------
    words : str
    """
    several = {"class": "classes", "weight matrix": "weight matrices"}
    plural = several.get(noun, f"{noun}s")
    return f"{number} {noun if number == 1 else plural}"


def told_by(network, **given):
    """Parameters, in place of None what an estimator says of itself, or a default.

    Thresholds of a loss are those of an estimator that has been trained with it: the
    `epsilon` of others, as of `MLPRegressor`, is another thing.

    Parameters
    ----------
    network : estimator or tuple (coefs, intercepts)
    **given : dict
        Any of loss, epsilon, quantile, fit_intercept, negative_slope and batch_norm.

    Returns
    -------
    params : dict
    """
    params = {}
    own = getattr(network, "loss", None)
    for name, value in given.items():
        if value is None and LOSS_OF.get(name, own) == own:
            value = getattr(network, name, None)
        params[name] = _DEFAULTS[name] if value is None else value
    return params


def read_network(network, loss, fit_intercept, negative_slope, batch_norm, layout=None):
    """Weights of a network, with its loss, bias and activation.

    Parameters
    ----------
    network : estimator or tuple (coefs, intercepts)
    loss : str
    fit_intercept : bool
    negative_slope : float
    batch_norm : bool
    layout : Layout or None, default=None
        Of filters.

    Returns
    -------
    network : PlainNetwork

    Raises
    ------
    ValueError
        If it is not a two-layer network with a supported activation, or batch
        normalisation is to have no shift.
    """
    check_batch_norm(batch_norm, fit_intercept)
    coefs, intercepts = _checked(*_layers_of(network), layout)
    if layout is not None and negative_slope != 0:
        raise ValueError(
            "filters are followed by a ReLU: negative_slope must be 0, got "
            f"{negative_slope}."
        )
    biases = np.concatenate(intercepts)
    # Of classes without weight the network has no others.
    if not fit_intercept and np.any((biases != 0) & (biases > NEVER)):
        raise ValueError(
            "fit_intercept=False compares with networks without biases, but the "
            "network has non-zero intercepts; use fit_intercept=True."
        )
    return PlainNetwork(
        coefs,
        intercepts,
        loss,
        bool(fit_intercept),
        float(negative_slope),
        bool(batch_norm),
        layout,
    )


def check_batch_norm(batch_norm, fit_intercept):
    """Raise ValueError if batch normalisation is to have no shift.

    Parameters
    ----------
    batch_norm, fit_intercept : bool
    """
    if batch_norm and not fit_intercept:
        raise ValueError(
            "batch_norm=True centres the pre-activations, and their shift takes the "
            "place of biases: it needs fit_intercept=True, got False."
        )


def _layers_of(network):
    """Weights and biases of an estimator or a tuple, as they are."""
    if hasattr(network, "gates_"):
        raise ValueError("certify needs a ReLU network, but network has gates.")
    if hasattr(network, "coefs_"):
        used = getattr(network, "activation", "relu")
        if used != "relu":
            raise ValueError(
                f"certify needs a ReLU network, but network has activation={used!r}."
            )
        return network.coefs_, network.intercepts_
    if not (isinstance(network, (tuple, list)) and len(network) == 2):
        raise ValueError(
            "network must be a fitted estimator with coefs_ and intercepts_, or "
            f"a tuple (coefs, intercepts), got {type(network).__name__}. Of a "
            "pipeline, take the last step, and transform X."
        )
    return network


def _checked(coefs, intercepts, layout):
    """Weights and biases of two layers as arrays of numbers that fit together."""
    n_windows = 1 if layout is None else layout.n_windows
    if len(coefs) != 2 or len(intercepts) != 2:
        raise ValueError(
            "certify needs a network with one hidden layer (two weight matrices), "
            f"but network has {counted(len(coefs), 'weight matrix')}."
        )
    coefs, intercepts = (
        [np.asarray(in_numpy(part), dtype=np.float64) for part in parts]
        for parts in (coefs, intercepts)
    )
    intercepts = [np.ravel(bias) for bias in intercepts]
    if coefs[1].ndim == 1:
        coefs[1] = coefs[1][:, None]
    if (
        coefs[0].ndim != 2
        or coefs[1].shape[0] != n_windows * coefs[0].shape[1]
        or (layout is not None and len(coefs[0]) != layout.patch_size)
        or len(intercepts[0]) != coefs[0].shape[1]
        or len(intercepts[1]) != coefs[1].shape[1]
    ):
        raise ValueError(
            "the shapes of the network's weights do not fit together: coefs "
            f"{[c.shape for c in coefs]}, intercepts {[b.shape for b in intercepts]}."
            f"{_of_filters(layout)}"
        )
    if not all(np.all(np.isfinite(part)) for part in coefs + intercepts):
        raise ValueError("the weights of the network must be finite.")
    return coefs, intercepts


def _of_filters(layout):
    """What is expected of weights, in words."""
    if layout is None:
        return ""
    return (
        f" Filters of the size {layout.kernel} on {counted(layout.channels, 'channel')}"
        f" have {layout.patch_size} weights each, and the dense layer has those of "
        f"all filters for each of the {counted(layout.n_windows, 'position')} of the "
        f"pooled map of shape {layout.windows}."
    )


def read_samples(X, y, sample_weight):
    """Samples of positive weight, as arrays of NumPy.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
    sample_weight : float, array-like of shape (n_samples,) or None

    Returns
    -------
    X : ndarray of shape (n_samples, n_features)
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
    weight : ndarray of shape (n_samples,)
    used : ndarray of bool, shape (n_given_samples,)
        Which of the samples these are.
    """
    X, y = read_arrays(X, y)
    check_consistent_length(X, y)
    if sample_weight is not None and not isinstance(sample_weight, Real):
        sample_weight = in_numpy(sample_weight)
    weight = check_sample_weight(
        sample_weight, X, dtype=np.float64, ensure_non_negative=True
    )
    # As in a fit, labels without weight need not be known.
    used = weight > 0
    return X[used], y[used], weight[used], used


def read_arrays(X, y):
    """Data and targets as arrays of NumPy, of any library or sparse.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)

    Returns
    -------
    X : ndarray of shape (n_samples, n_features)
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)

    Raises
    ------
    ValueError
        If `X` is not a matrix of finite numbers, or `y` is no array.
    """
    targets = in_numpy(y)
    if targets.ndim == 0:
        raise ValueError(
            "y must be an array with the targets of all samples, got "
            f"{type(y).__name__}."
        )
    X = X if issparse(X) else in_numpy(X)
    X = check_array(X, accept_sparse="csr", dtype=np.float64, input_name="X")
    if hasattr(X, "toarray"):
        X = X.toarray()
    return X, targets


def read_numbers(y, loss):
    """Targets of a regression loss.

    Parameters
    ----------
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
    loss : str

    Returns
    -------
    Y : ndarray of shape (n_samples, n_outputs)

    Raises
    ------
    ValueError
        If they are not finite numbers.
    """
    try:
        Y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"loss={loss!r} needs y to be an array of finite numbers: {error}"
        ) from error
    return Y.reshape(len(Y), -1)


def class_weighted(network, y, weight):
    """Weights of samples, with the class weights of an estimator that has any.

    Parameters
    ----------
    network : estimator or tuple
    y : ndarray of shape (n_samples,) or (n_samples, 1)
    weight : ndarray of shape (n_samples,)

    Returns
    -------
    weight : ndarray of shape (n_samples,)
    """
    class_weight = getattr(network, "class_weight", None)
    if class_weight is None:
        return weight
    labels = np.asarray(y).ravel()
    per_class = compute_class_weight(
        class_weight, classes=network.classes_, y=labels, sample_weight=weight
    )
    return weight * per_class[np.searchsorted(network.classes_, labels)]


def read_targets(network, loss, y, weight, n_outputs, **params):
    """Targets as the loss wants them, and the loss.

    Parameters
    ----------
    network : estimator or tuple
        Says which classes there are, if it is an estimator.
    loss : str
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
    weight : ndarray of shape (n_samples,)
        Sample weights.
    n_outputs : int
    **params : dict
        Of the loss.

    Returns
    -------
    Y : ndarray of shape (n_samples, n_outputs)
        For classification -1 and +1, or 0 and 1 for the softmax loss.
    loss : Separable or Softmax
    classes : ndarray of shape (n_classes,) or None
        Of a classification loss.

    Raises
    ------
    ValueError
        If the targets do not fit the network.
    """
    softmax, classes = False, None
    if loss in REGRESSION_LOSSES:
        Y = read_numbers(y, loss)
    else:
        y = column_or_1d(y)
        classes = in_numpy(getattr(network, "classes_", np.unique(y)))
        # One by one: joined with strings, numbers would become strings.
        if not np.any(y[:, None] == classes, axis=1).all():
            raise ValueError(
                f"y has labels that the network does not know; it knows {classes}."
            )
        if n_outputs == 1 and len(classes) != 2:
            raise ValueError(
                f"loss={loss!r} with one output needs two classes, got {len(classes)}."
            )
        positive = classes[1:] if n_outputs == 1 else classes
        Y = np.where(y[:, None] == positive, 1.0, -1.0)
        # An estimator may have an output of its own for each class.
        used = getattr(network, "out_activation_", "softmax")
        softmax = loss == "log_loss" and n_outputs > 1 and used == "softmax"
    if Y.shape[1] != n_outputs:
        what = "output" if loss in REGRESSION_LOSSES else "class"
        raise ValueError(
            f"y has {counted(Y.shape[1], what)}, but the network has "
            f"{counted(n_outputs, 'output')}."
        )
    if softmax:
        return np.maximum(Y, 0.0), Softmax(), classes
    loss = make_loss(loss, **params)
    loss.check_targets(Y, weight)
    return Y, Separable(loss), classes
