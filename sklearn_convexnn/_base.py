"""The one route of fit: data, program, solver, recovery, certificate."""

import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace
from numbers import Integral, Real
from time import perf_counter

import numpy as np
from scipy.sparse import issparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from sklearn_convexnn._advice import advice
from sklearn_convexnn._sklearn import (
    CallbackSupportMixin,
    Interval,
    StrOptions,
    check_same_namespace,
    check_sample_weight,
    device,
    fit_context,
    fit_task,
    get_namespace,
    max_precision_float_dtype,
)
from sklearn_convexnn._utils.devices import (
    float_dtypes,
    highest_precision,
    in_numpy,
    largest_size,
    on_device,
    placed,
)
from sklearn_convexnn.losses import Separable, Softmax
from sklearn_convexnn.model.results import HISTORY
from sklearn_convexnn.model.scales import warn_of_scales
from sklearn_convexnn.model.settings import FRACTION, Settings
from sklearn_convexnn.training.trained import no_neurons

# Sizes of data, targets and weights within which units do not matter: scales of
# weights and predictions are numbers in single precision too.
_RANGE = 1e20
# Entries of the arrays that a prediction makes at once.
_CHUNK = 4_000_000

COMMON_CONSTRAINTS = {
    "alpha": [Interval(Real, 0, None, closed="neither"), StrOptions({"scale"})],
    "n_arrangements": [Interval(Integral, 1, None, closed="left")],
    "fit_intercept": ["boolean"],
    "tol": [Interval(Real, 0, None, closed="neither")],
    "max_iter": [Interval(Integral, 1, None, closed="left")],
    "max_time": [Interval(Real, 0, None, closed="neither"), None],
    "warm_start": ["boolean"],
    "random_state": ["random_state"],
    "verbose": ["verbose"],
}
"""Of the parameters that all estimators have, but those that depend on the losses."""


@contextmanager
def restored_on_failure(estimator):
    """Give `estimator` its former attributes back if the body does not finish.

    Parameters
    ----------
    estimator : estimator
    """
    before = vars(estimator).copy()
    try:
        yield
    except BaseException:
        # What is private belongs to scikit-learn, which has callbacks to close.
        for name in [name for name in vars(estimator) if name.endswith("_")]:
            delattr(estimator, name)
        vars(estimator).update(before)
        raise


def _check_range(**inputs):
    """Raise ValueError for numbers whose products would not be numbers any more."""
    for name, values in inputs.items():
        largest = largest_size(values)
        if largest != 0.0 and not 1.0 / _RANGE <= largest <= _RANGE:
            raise ValueError(
                f"The largest absolute value of {name} is {largest:.3g}, which is not "
                f"within {1.0 / _RANGE:g} and {_RANGE:g}; change its units."
            )


def checked_weights(sample_weight, X):
    """Weights of the samples, as an array of NumPy.

    Parameters
    ----------
    sample_weight : array-like of shape (n_samples,) or None
    X : {array, sparse matrix} of shape (n_samples, n_features)

    Returns
    -------
    weights : ndarray of shape (n_samples,)
    """
    xp, _ = get_namespace(X)
    weights = check_sample_weight(
        sample_weight,
        X,
        dtype=max_precision_float_dtype(xp, device(X)),
        ensure_non_negative=True,
    )
    return in_numpy(weights).astype(np.float64, copy=False)


def of_outputs(loss):
    """The loss of a network with any number of outputs.

    Parameters
    ----------
    loss : Loss or Softmax

    Returns
    -------
    loss : Separable or Softmax
    """
    return loss if isinstance(loss, Softmax) else Separable(loss)


def _attributes(layers):
    """Attributes of an estimator with a network, for callbacks."""
    coefs, intercepts = layers
    return {
        "coefs_": coefs,
        "intercepts_": intercepts,
        "n_outputs_": coefs[-1].shape[1],
    }


def _dense(X):
    """Data of any kind as an array of NumPy."""
    return X.toarray() if issparse(X) else in_numpy(X)


@dataclass(frozen=True)
class Neighbour:
    """A model of the same data with another `alpha`.

    Attributes
    ----------
    model : estimator
        Fitted.
    dual : DualPoint or None
        None if none is known.
    """

    model: object
    dual: object


class ReLUNetworkMixin(CallbackSupportMixin):
    """Fitting and raw prediction, shared by the estimators.

    Mixins of an architecture say in what its estimators differ.
    """

    # The architecture, what trains a network of it, and what measures the slopes of
    # its units where there is none.
    _kind = _train = _slope = None
    # What the slope says of the weight decay.
    _constant_from = "as for every alpha from about {:.3g} on"
    _n_hidden_layers = 1

    def _warn_of_scales(self, X, sample_weight):
        """Warn of columns of scales that are far apart; whether they are."""
        return warn_of_scales(X, sample_weight)

    def _check_supported(self, loss, n_outputs):
        """Raise ValueError for what the architecture does not have."""

    def _unit_size(self, n_features):
        """Weights of a unit of the first layer."""
        return n_features

    def _check_memory(self, shape, n_outputs):
        """Raise ValueError if the arrays of a fit would not fit into the memory."""

    def _data(self, X):
        """The data as training wants them."""
        return _dense(X)

    def _start(self, n_features, n_outputs, neighbours):
        """What the network starts from, if anything."""
        raise NotImplementedError

    def _settings(self, loss, **others):
        """The parameters, checked and completed."""
        return Settings.of(self, loss=loss, **others)

    def _fit(self, X, y, sample_weight, **how):
        with restored_on_failure(self):
            begin = perf_counter()
            encoded = self._encoded(X, y, sample_weight)
            apart = self._warn_of_scales(encoded[0], encoded[2])
            fitted = self._fit_network(*encoded, begin=begin, **how)
            self._warn_if_short(fitted, apart)
            self._warn_if_constant(*encoded[:4], fitted)
        return self

    @fit_context(prefer_skip_nested_validation=True)
    def _fit_by(self, X, y, sample_weight, **how):
        """As `fit`, by another method."""
        return self._fit(X, y, sample_weight, **how)

    @fit_context(prefer_skip_nested_validation=True)
    def _fit_between(self, X, y, sample_weight, neighbours=(), **how):
        """As `fit`, from models of the same data; no warning, but what was trained."""
        begin = perf_counter()
        encoded = self._encoded(X, y, sample_weight)
        return self._fit_network(*encoded, neighbours, begin=begin, **how)

    def _rows(self, X, reset=True):
        """Data with a row for each sample, as given to `fit` or to a fitted one."""
        return X

    def _validated(self, X, y, sample_weight):
        """The data as arrays, with a weight for each sample."""
        raise NotImplementedError

    def _encoded(self, X, y, sample_weight):
        """Validate the data, and put them in the form that networks are trained on.

        Parameters
        ----------
        X, y, sample_weight
            As `fit` gets them.

        Returns
        -------
        encoded : tuple
            The first arguments of `_fit_network`.
        """
        raise NotImplementedError

    def _fit_network(
        self,
        X,
        Y,
        sample_weight,
        loss,
        given,
        neighbours=(),
        *,
        begin,
        label=None,
        **how,
    ):
        """Train the network, and store it.

        Parameters
        ----------
        X : {ndarray, sparse matrix} of shape (n_samples, n_features)
            Of dtype float64 or float32, which the weights will have.
        Y : ndarray of shape (n_samples, n_outputs)
        sample_weight : ndarray of shape (n_samples,)
            Non-negative, with at least one positive entry.
        loss : Loss or Softmax
        given : tuple (X, y, sample_weight)
            For callbacks: the data as `fit` got them.
        neighbours : sequence of Neighbour
            At most one of larger and one of smaller `alpha`, to start between.
        begin : float
            Value of ``time.perf_counter()`` at the beginning of the fit.
        label : str or None
            What the lines of `verbose` call the fit, in place of the class.
        **how
            `Settings` in place of those that the parameters say.

        Returns
        -------
        fitted : Fitted
        """
        deadline = np.inf if self.max_time is None else begin + self.max_time
        data = self._data(X)
        Y = np.asarray(Y, dtype=np.float64)
        sample_weight = np.asarray(sample_weight, dtype=np.float64)
        _check_range(X=data, y=Y, sample_weight=sample_weight)
        self._check_supported(loss, Y.shape[1])
        self._check_memory(X.shape, Y.shape[1])
        seed, loss = self._seed(), of_outputs(loss)
        settings = self._settings(
            loss,
            like=None if issparse(X) else X[:1, :],
            dtype=in_numpy(X[:1, :]).dtype if on_device(X) else X.dtype,
            seed=seed,
            deadline=deadline,
            name=label or type(self).__name__,
            **how,
        )
        # Callbacks may predict before the end.
        self.negative_slope_ = settings.negative_slope
        alpha = self.alpha
        if alpha == "scale":
            # Class weights change the losses, and not what they are weighed against.
            plain = np.where(sample_weight > 0, given[2], 0.0)
            alpha = FRACTION * self._slope(data, Y, plain, settings)
        self.alpha_ = float(alpha)
        settings = replace(settings, alpha=self.alpha_)
        start = self._start(X.shape[1], Y.shape[1], neighbours)
        task = fit_task(self, given, self._n_rounds(Y.shape[1])).begin()
        fitted = self._train(
            data,
            Y,
            sample_weight,
            start,
            settings,
            task.through(_attributes),
        )
        self._store(X, fitted)
        self._store_objective(X, Y, sample_weight, loss)
        task.end({})
        return fitted

    def _seed(self):
        """A number for all that is random in a fit."""
        return check_random_state(self.random_state).randint(np.iinfo(np.int32).max)

    def _store(self, X, fitted):
        """The network, and what is known of it, as fitted attributes."""
        self.coefs_ = [placed(part, X, X.dtype) for part in fitted.coefs]
        # To round biases of data or targets far from zero would change the network.
        self.intercepts_ = [
            placed(part, X, highest_precision(X)) for part in fitted.intercepts
        ]
        self.n_layers_ = len(self.coefs_) + 1
        self.n_neurons_, self.n_outputs_ = self.coefs_[-1].shape
        trained = fitted.trained
        self.n_arrangements_ = trained.n_patterns
        self.n_iter_ = trained.n_iter
        self.certificate_ = trained.certificate
        self.history_ = {key: trained.history[key] for key in HISTORY}
        self.dual_bound_ = float(trained.dual_bound)

    def _store_objective(self, X, Y, sample_weight, loss):
        """The objective of the network as it is stored, and what follows from it."""
        value = loss.value(in_numpy(self._raw_predict(X)), Y, sample_weight)
        self._store_values(
            value, self._decayed(X, sample_weight), float(np.sum(sample_weight))
        )

    def _store_values(self, value, squares, total_weight):
        """The objective from its loss and the sum of squares that decay."""
        self._squares = squares
        self.objective_ = float(value + 0.5 * self.alpha_ * squares)
        self.loss_ = self.objective_ / total_weight
        self.dual_gap_ = self.objective_ - self.dual_bound_

    def _decayed(self, X, sample_weight):
        """The sum of squares that the weight decay is half of."""
        # The layers before have norms of one.
        return sum(
            float(np.sum(in_numpy(weights).astype(np.float64) ** 2))
            for weights in self.coefs_[-2:]
        )

    def _n_rounds(self, n_outputs):
        """Rounds of the fit, None if it is not known, for progress bars."""
        return None

    def _fit_constant(self, X, offset, given):
        """The network that needs no training, of an objective of zero."""
        task = fit_task(self, given, 0).begin()
        widths = [
            self._unit_size(X.shape[1]),
            *[0] * self._n_hidden_layers,
            len(offset),
        ]
        fitted = no_neurons(widths, offset)
        self.alpha_ = FRACTION if self.alpha == "scale" else float(self.alpha)
        self.negative_slope_ = float(getattr(self, "negative_slope", 0.0))
        self._store(X, fitted)
        self._store_values(0.0, 0.0, 1.0)
        task.end({})
        return fitted

    def _stopped_short(self, fitted):
        rounding = 10 * np.finfo(in_numpy(self.coefs_[0]).dtype).eps
        rounding *= max(1.0, self.n_features_in_)
        allowed = (self.tol + rounding) * abs(self.objective_)
        # Where the solver stops, and as much again for rounding.
        allowed += 2e-12 * fitted.null_objective
        # A gap that a short search alone has closed may be larger.
        return fitted.trained.status == "unconfirmed" or self.dual_gap_ > allowed

    def _warn_if_short(self, fitted, columns_apart):
        if not self._stopped_short(fitted):
            return
        trained = fitted.trained
        reason = "the gap was closed until the weights were rounded"
        if trained.status != "optimal":
            reason = trained.message
        relative = self.dual_gap_ / max(abs(self.objective_), np.finfo(float).tiny)
        small = "" if relative > self.tol else "not "
        warnings.warn(
            f"{type(self).__name__} stopped with a duality gap of "
            f"{self.dual_gap_:.3g} ({relative:.2g} of the objective), {small}above "
            f"tol={self.tol:g}: {reason}. {advice({trained.status}, columns_apart)}",
            ConvergenceWarning,
        )

    def _warn_if_constant(self, X, Y, sample_weight, loss, fitted):
        """Warn if the weight decay that was asked for leaves no neurons."""
        if self.n_neurons_ or self.alpha == "scale" or fitted.null_objective <= 0:
            return
        if fitted.trained.status != "optimal":
            # It may be for want of time.
            return
        settings = self._settings(of_outputs(loss), seed=self._seed())
        Y = np.asarray(Y, dtype=np.float64)
        slope = self._slope(self._data(X), Y, sample_weight, settings)
        if slope <= self.alpha:
            constant_from = self._constant_from.format(slope)
            warnings.warn(
                f"The best network for alpha={self.alpha:g} is a constant, "
                f"{constant_from}. Use a smaller one, or alpha='scale'.",
                UserWarning,
            )

    @property
    def _weights(self):
        return self.coefs_[0]

    def _raw_predict(self, X):
        """Outputs of the network, shape (n_samples, n_outputs).

        In double precision, also with weights of single precision: features or
        outputs may be large numbers of little spread.
        """
        xp, _ = get_namespace(self.coefs_[0])
        exact = highest_precision(self.coefs_[0])
        coefs = [xp.astype(W, exact) for W in self.coefs_]
        width = max(X.shape[1], *(W.shape[1] for W in coefs))
        n, step = X.shape[0], max(1, _CHUNK // width)
        parts = [
            self._outputs_of_rows(X[i : min(i + step, n), :], coefs, xp, exact)
            for i in range(0, n, step)
        ]
        return xp.concat(parts, axis=0)

    def _outputs_of_rows(self, X, coefs, xp, dtype):
        X = X.astype(dtype) if issparse(X) else xp.astype(X, dtype, copy=False)
        for W, b in zip(coefs[:-2], self.intercepts_):
            X = xp.clip(X @ W + b, min=0.0)
        hidden = X @ coefs[-2] + self.intercepts_[-2]
        hidden = xp.where(hidden > 0, hidden, self.negative_slope_ * hidden)
        return hidden @ coefs[-1] + self.intercepts_[-1]

    def _validated_raw_predict(self, X, method):
        check_is_fitted(self)
        X = validate_data(
            self,
            self._rows(X, reset=False),
            accept_sparse="csr",
            dtype=float_dtypes(X),
            reset=False,
        )
        check_same_namespace(X, self, attribute="_weights", method=method)
        return self._raw_predict(X)
