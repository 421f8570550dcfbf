"""The one route of fit: data, program, solver, recovery, certificate."""

import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from scipy.sparse import issparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from sklearn_convexnn._advice import advice
from sklearn_convexnn._fitting import fit_network
from sklearn_convexnn._memory import check_memory
from sklearn_convexnn._null_slope import FRACTION, null_slope
from sklearn_convexnn._sklearn import (
    CallbackSupportMixin,
    check_same_namespace,
    fit_context,
    fit_task,
    get_namespace,
)
from sklearn_convexnn._utils.devices import (
    float_dtypes,
    highest_precision,
    in_numpy,
    largest_size,
    on_device,
    placed,
)
from sklearn_convexnn.families.subnetworks.architecture import Architecture
from sklearn_convexnn.losses import Separable, Softmax
from sklearn_convexnn.model.scales import warn_of_scales
from sklearn_convexnn.model.settings import Settings
from sklearn_convexnn.patterns.gates import KnownNeurons
from sklearn_convexnn.solvers import SOLVERS_OF_BLOCKS
from sklearn_convexnn.training.trained import CUTS, HISTORY

# Sizes of data, targets and weights within which units do not matter: scales of
# weights and predictions are numbers in single precision too.
_RANGE = 1e20
# Entries of the arrays that a prediction makes at once.
_CHUNK = 4_000_000


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


class ConvexReLUMixin(CallbackSupportMixin):
    """Fitting and raw prediction, shared by the estimators."""

    def _fit(self, X, y, sample_weight):
        with restored_on_failure(self):
            begin = perf_counter()
            encoded = self._encoded(X, y, sample_weight)
            apart = warn_of_scales(encoded[0], encoded[2])
            fitted = self._fit_network(*encoded, begin=begin)
            self._warn_if_short(fitted, apart)
            self._warn_if_constant(*encoded[:4], fitted)
        return self

    @fit_context(prefer_skip_nested_validation=True)
    def _fit_between(self, X, y, sample_weight, neighbours=(), **how):
        """As `fit`, from models of the same data; no warning, but what was trained."""
        begin = perf_counter()
        encoded = self._encoded(X, y, sample_weight)
        return self._fit_network(*encoded, neighbours, begin=begin, **how)

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
        prove=True,
        descent=False,
        label=None,
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
        prove : bool, default=True
            Whether to attempt proofs after 'adaptive'.
        begin : float
            Value of ``time.perf_counter()`` at the beginning of the fit.
        descent : bool, default=False
            Whether descent is all that is wanted; see `train_by_descent`.
        label : str or None
            What the lines of `verbose` call the fit, in place of the class.

        Returns
        -------
        fitted : Fitted
        """
        deadline = np.inf if self.max_time is None else begin + self.max_time
        gated = self.formulation == "gated_relu"
        # The solver of gated networks takes the data as they are.
        data = X
        if not gated:
            data = _dense(X)
        Y = np.asarray(Y, dtype=np.float64)
        sample_weight = np.asarray(sample_weight, dtype=np.float64)
        _check_range(X=data, y=Y, sample_weight=sample_weight)
        n_outputs = Y.shape[1]
        if self.depth > 2:
            self._check_deep(loss, n_outputs)
        elif gated:
            self._check_gated(loss)
        elif n_outputs > 1 and self.arrangements in CUTS:
            raise ValueError(
                f"arrangements={self.arrangements!r} is not there for several outputs: "
                "use arrangements='adaptive'."
            )
        check_memory(self, X, n_outputs)
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        target, loss_of_all = self._target(Y, loss)
        settings = Settings.of(
            self,
            loss=loss_of_all,
            prove=prove,
            descent=descent,
            like=None if issparse(X) else X[:1, :],
            dtype=in_numpy(X[:1, :]).dtype if on_device(X) else X.dtype,
        )
        # Callbacks may predict before the end.
        self.negative_slope_ = float(self.negative_slope)
        self.alpha_ = self.alpha
        if self.alpha == "scale":
            # Class weights change the losses, and not what they are weighed against.
            plain = np.where(sample_weight > 0, given[2], 0.0)
            slope = null_slope(data, target, plain, settings, seed, deadline)
            self.alpha_ = FRACTION * slope
        self.alpha_ = float(self.alpha_)
        settings = replace(settings, alpha=self.alpha_)
        start = self._start(X.shape[1], n_outputs, neighbours)
        # Programs over given patterns are of one output, or of gated networks.
        of_program = target.ndim == 1 or gated
        rounds = 0 if of_program and self.arrangements in ("sampled", "exact") else None
        task = fit_task(self, given, rounds).begin()
        fitted = fit_network(
            data,
            target,
            sample_weight,
            start,
            seed,
            deadline,
            label or type(self).__name__,
            settings,
            task.through(_attributes),
        )
        self._store(X, fitted)
        raw = in_numpy(self._raw_predict(X)).reshape(target.shape)
        value = loss_of_all.value(raw, target, sample_weight)
        # The layers before have norms of one.
        squares = [
            np.sum(in_numpy(weights).astype(np.float64) ** 2)
            for weights in self.coefs_[-2:]
        ]
        self.objective_ = float(value + 0.5 * self.alpha_ * sum(squares))
        self.loss_ = self.objective_ / float(np.sum(sample_weight))
        self.dual_gap_ = self.objective_ - self.dual_bound_
        task.end({})
        return fitted

    def _store(self, X, fitted):
        """The network, and what is known of it, as fitted attributes."""
        self.coefs_ = [placed(part, X, X.dtype) for part in fitted.coefs]
        # To round biases of data or targets far from zero would change the network.
        self.intercepts_ = [
            placed(part, X, highest_precision(X)) for part in fitted.intercepts
        ]
        if fitted.gates is not None:
            self.gates_ = placed(fitted.gates, X, highest_precision(X))
        elif hasattr(self, "gates_"):
            del self.gates_
        self.n_layers_ = len(self.coefs_) + 1
        self.n_neurons_, self.n_outputs_ = self.coefs_[-1].shape
        trained = fitted.trained
        self.n_arrangements_ = trained.n_patterns
        self.n_iter_ = trained.n_iter
        self.certificate_ = trained.certificate
        self.history_ = {key: trained.history[key] for key in HISTORY}
        self.dual_bound_ = float(trained.dual_bound)
        if self.depth > 2:
            self.proven_bound_ = float(trained.proven_bound)
        elif hasattr(self, "proven_bound_"):
            del self.proven_bound_

    @staticmethod
    def _target(Y, loss):
        """The target of the network, one-dimensional of one output, and its loss."""
        if Y.shape[1] == 1:
            return Y[:, 0], loss
        return Y, loss if isinstance(loss, Softmax) else Separable(loss)

    def _check_gated(self, loss):
        """Raise ValueError for what gated networks do not have."""
        if self.arrangements not in ("sampled", "exact"):
            raise ValueError(
                "formulation='gated_relu' needs gates that are given, but "
                f"arrangements={self.arrangements!r}: use arrangements='sampled' or "
                "'exact'."
            )
        if not loss.smooth:
            raise ValueError(
                "formulation='gated_relu' needs a smooth loss, but "
                f"loss={loss.name!r}; 'hinge' and 'quantile' are not."
            )
        for name, wanted in (("negative_slope", 0), ("minimal", False)):
            if getattr(self, name) != wanted:
                raise ValueError(
                    f"formulation='gated_relu' needs {name}={wanted}, got "
                    f"{getattr(self, name)!r}."
                )

    def _check_deep(self, loss, n_outputs):
        """Raise ValueError for what deeper networks do not have."""
        for name, allowed in (
            ("formulation", ("relu",)),
            ("negative_slope", (0,)),
            ("minimal", (False,)),
            ("arrangements", ("adaptive", "sampled", "exact")),
            ("solver", SOLVERS_OF_BLOCKS),
        ):
            if getattr(self, name) not in allowed:
                choices = " or ".join(repr(value) for value in allowed)
                raise ValueError(
                    f"depth={self.depth} needs {name}={choices}, got "
                    f"{getattr(self, name)!r}."
                )
        if self.arrangements == "adaptive":
            return
        if n_outputs > 1:
            raise ValueError(
                f"arrangements={self.arrangements!r} is not there for several outputs "
                f"with depth={self.depth}: use arrangements='adaptive'."
            )
        if self.depth > 3 and self.subnetwork_norm != "path":
            raise ValueError(
                f"arrangements={self.arrangements!r} with depth={self.depth} needs "
                "subnetwork_norm='path': no convex program is known for "
                f"{self.subnetwork_norm!r}; use arrangements='adaptive'."
            )
        if self.solver == "penalised" and not loss.smooth:
            raise ValueError(
                "solver='penalised' follows gradients and needs a smooth loss, but "
                f"loss={loss.name!r}; use solver='interior_point'."
            )

    def _start(self, n_features, n_outputs, neighbours):
        """What the network starts from, if anything: neurons and dual points."""
        if self.formulation == "gated_relu":
            return self._known_gated(n_features, n_outputs)
        if self.depth > 2:
            return self._known_subnetworks(n_features, n_outputs)
        if not neighbours and self.warm_start and hasattr(self, "coefs_"):
            neighbours = [Neighbour(self, None)]
        neighbours = [
            near
            for near in neighbours
            if len(near.model.coefs_) == 2
            and near.model.coefs_[0].shape[0] == n_features
            and near.model.coefs_[1].shape[1] == n_outputs
            and not hasattr(near.model, "gates_")
        ]
        if not neighbours:
            return None
        # The mixture of networks, as that of dual points, is hardly worse than they.
        shares = [1.0]
        if len(neighbours) == 2:
            above, below = (near.model.alpha_ for near in neighbours)
            share = (self.alpha_ - below) / (above - below)
            shares = [share, 1.0 - share]
        gates = np.concatenate([near.model._gate_rows() for near in neighbours])
        outputs = np.concatenate(
            [
                share * in_numpy(near.model.coefs_[1]).astype(np.float64)
                for share, near in zip(shares, neighbours)
            ]
        )
        duals = ()
        if len(neighbours) == 2:
            duals = self._between(*(near.dual for near in neighbours))
        if n_outputs == 1:
            outputs = outputs[:, 0]
            gates, outputs = gates[outputs != 0], outputs[outputs != 0]
        return gates, outputs, duals

    def _known_gated(self, n_features, n_outputs):
        """Gated neurons of an earlier fit, if they are to be used."""
        shape = (n_features + self.fit_intercept, n_outputs)
        if not self.warm_start or not hasattr(self, "gates_"):
            return None
        if (self.gates_.shape[0], self.coefs_[1].shape[1]) != shape:
            return None
        gates, hidden, output = (
            in_numpy(part).astype(np.float64) for part in (self.gates_, *self.coefs_)
        )
        return KnownNeurons(gates.T, hidden.T, output)

    def _known_subnetworks(self, n_features, n_outputs):
        """Layers of an earlier fit, if they are to be used."""
        if not self.warm_start or not hasattr(self, "coefs_"):
            return None
        architecture = Architecture(
            self.depth, self.subnetwork_width, self.subnetwork_norm
        )
        n_units = self.coefs_[-1].shape[0]
        shapes = [n_features, *(width * n_units for width in architecture.widths)]
        if [W.shape[0] for W in self.coefs_] != shapes or n_units == 0:
            return None
        if self.coefs_[-1].shape[1] != n_outputs or hasattr(self, "gates_"):
            return None
        coefs, intercepts = (
            [in_numpy(part).astype(np.float64) for part in parts]
            for parts in (self.coefs_, self.intercepts_)
        )
        if not self.fit_intercept and any(np.any(b) for b in intercepts):
            # Without their biases the sub-networks would be others.
            return None
        return coefs, intercepts, ()

    def _gate_rows(self):
        """Hidden weights of the neurons as rows, with the biases if these are free."""
        gates = in_numpy(self.coefs_[0]).T.astype(np.float64)
        if self.fit_intercept:
            gates = np.column_stack([gates, in_numpy(self.intercepts_[0])])
        return gates

    def _between(self, above, below):
        """The dual points to start with, of those of two neighbours."""
        if above is None or below is None:
            return ()
        if above.proven != below.proven:
            # A proof may succeed here, or not: it has to be attempted.
            return ()
        return (above.towards(below, self.alpha_),)

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
        target, loss = self._target(np.asarray(Y, dtype=np.float64), loss)
        slope = null_slope(
            X if self.formulation == "gated_relu" else _dense(X),
            target,
            sample_weight,
            Settings.of(self, loss=loss),
            check_random_state(self.random_state).randint(np.iinfo(np.int32).max),
        )
        if slope <= self.alpha:
            warnings.warn(
                f"The best network for alpha={self.alpha:g} is a constant, as for "
                f"every alpha from about {slope:.3g} on. Use a smaller one, or "
                "alpha='scale'.",
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
        gates = xp.astype(self.gates_, exact) if hasattr(self, "gates_") else None
        width = max(X.shape[1], *(W.shape[1] for W in coefs))
        n, step = X.shape[0], max(1, _CHUNK // width)
        parts = [
            self._outputs_of_rows(X[i : min(i + step, n), :], coefs, gates, xp, exact)
            for i in range(0, n, step)
        ]
        return xp.concat(parts, axis=0)

    def _outputs_of_rows(self, X, coefs, gates, xp, dtype):
        X = X.astype(dtype) if issparse(X) else xp.astype(X, dtype, copy=False)
        rows = X
        for W, b in zip(coefs[:-2], self.intercepts_):
            X = xp.clip(X @ W + b, min=0.0)
        hidden = X @ coefs[-2]
        if gates is not None:
            d = rows.shape[1]
            open_ = rows @ gates[:d, :] + xp.sum(gates[d:, :], axis=0) > 0
            hidden = hidden * xp.astype(open_, hidden.dtype)
        else:
            hidden = hidden + self.intercepts_[-2]
            slope = self.negative_slope_ * hidden
            hidden = xp.where(hidden > 0, hidden, slope)
        return hidden @ coefs[-1] + self.intercepts_[-1]

    def _validated_raw_predict(self, X, method):
        check_is_fitted(self)
        X = validate_data(
            self, X, accept_sparse="csr", dtype=float_dtypes(X), reset=False
        )
        check_same_namespace(X, self, attribute="_weights", method=method)
        return self._raw_predict(X)
