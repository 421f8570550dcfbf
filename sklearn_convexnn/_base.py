"""The one route of fit: data, program, solver, recovery, certificate."""

import warnings
from contextlib import contextmanager
from time import perf_counter

import numpy as np
from scipy.linalg import block_diag
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted, validate_data

from sklearn_convexnn._callbacks import CallbackSupportMixin, fit_task
from sklearn_convexnn._fitting import fit_only, fit_part
from sklearn_convexnn.recovery import activation
from sklearn_convexnn.training import CUTS, HISTORY
from sklearn_convexnn.vector.losses import Separable, Softmax

# Products of four inputs, and sums of these, stay finite within it.
_RANGE = 1e60
_WEAKEST_FIRST = ("restricted", "estimated", "global")


@contextmanager
def restored_on_failure(estimator):
    """Give `estimator` its former attributes back if the body does not finish."""
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
        largest = float(np.max(np.abs(values), initial=0.0))
        if largest != 0.0 and not 1.0 / _RANGE <= largest <= _RANGE:
            raise ValueError(
                f"The largest absolute value of {name} is {largest:.3g}, which is not "
                f"within {1.0 / _RANGE:g} and {_RANGE:g}; change its units."
            )


class ConvexReLUMixin(CallbackSupportMixin):
    """Fitting and raw prediction, shared by the estimators."""

    def _fit_networks(self, X, Y, sample_weight, loss, given):
        """Train one network, or one per column of `Y`, and store them as one.

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
        """
        start = perf_counter()
        deadline = np.inf if self.max_time is None else start + self.max_time
        dtype = X.dtype
        dense = np.asarray(X.toarray() if hasattr(X, "toarray") else X, np.float64)
        Y = np.asarray(Y, dtype=np.float64)
        sample_weight = np.asarray(sample_weight, dtype=np.float64)
        _check_range(X=dense, y=Y, sample_weight=sample_weight, alpha=self.alpha)
        n_outputs = Y.shape[1]
        gated = self.formulation == "gated_relu"
        if gated:
            self._check_gated(loss)
        joint = self._check_joint(n_outputs, loss)
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        if joint and not isinstance(loss, Softmax):
            loss = Separable(loss)
        params = {**self.get_params(deep=False), "loss": loss}
        targets = [Y] if joint else list(Y.T)
        known = self._known_neurons(dense.shape[1], n_outputs, joint)
        names = [
            f"{type(self).__name__}"
            + (f" {k + 1}/{len(targets)}" if len(targets) > 1 else "")
            for k in range(len(targets))
        ]
        whole, tasks = self._begin_tasks(len(targets), given)
        fitted = Parallel(n_jobs=self.n_jobs)(
            delayed(run)(
                dense, y, sample_weight, earlier, seed, deadline, name, params, task
            )
            for y, earlier, name, (run, task) in zip(targets, known, names, tasks)
        )

        sizes = [len(part.output) for part in fitted]
        self.coefs_ = [
            np.concatenate([part.hidden for part in fitted], axis=1).astype(dtype),
            block_diag(*(part.output for part in fitted)).astype(dtype),
        ]
        self.intercepts_ = [
            np.concatenate([part.hidden_bias for part in fitted]).astype(dtype),
            np.concatenate([part.output_bias for part in fitted]).astype(dtype),
        ]
        if gated:
            self.gates_ = np.concatenate([part.gates for part in fitted], axis=1)
            self.gates_ = self.gates_.astype(dtype)
        elif hasattr(self, "gates_"):
            del self.gates_
        self.n_layers_ = 3
        self.n_outputs_ = n_outputs
        self.n_neurons_ = sum(sizes)
        trained = [part.trained for part in fitted]
        self.n_arrangements_ = max(part.n_patterns for part in trained)
        self.n_iter_ = max(part.n_iter for part in trained)
        kinds = {part.certificate for part in trained}
        self.certificate_ = next(kind for kind in _WEAKEST_FIRST if kind in kinds)
        lengths = [len(part.history["time"]) for part in trained]
        self.history_ = {
            key: np.concatenate([part.history[key] for part in trained])
            for key in HISTORY
        }
        self.history_["output"] = np.repeat(np.arange(len(trained)), lengths)

        raw = self._raw_predict(dense)
        penalty = (
            0.5
            * self.alpha
            * sum(float(np.sum(coef.astype(np.float64) ** 2)) for coef in self.coefs_)
        )
        if joint:
            value = loss.value(raw, Y, sample_weight)
        else:
            value = sum(loss.value(f, y, sample_weight) for f, y in zip(raw.T, Y.T))
        self.objective_ = float(value + penalty)
        self.loss_ = self.objective_ / float(np.sum(sample_weight))
        self.dual_bound_ = float(sum(part.dual_bound for part in trained))
        self.dual_gap_ = self.objective_ - self.dual_bound_
        whole.end({})
        self._warn_if_short(fitted, dtype)

    def _check_joint(self, n_outputs, loss):
        """Whether the outputs are trained as one network; errors if they cannot."""
        softmax = isinstance(loss, Softmax)
        if n_outputs == 1 or not (softmax or self.hidden_layer == "shared"):
            return False
        reason = "outputs that share a hidden layer"
        remedy = "or hidden_layer='separate'"
        if self.hidden_layer == "separate":
            reason, remedy = "the softmax of separate outputs", "or another loss"
        if self.arrangements in CUTS:
            raise ValueError(
                f"arrangements={self.arrangements!r} is not there for {reason}: use "
                f"arrangements='adaptive', {remedy}."
            )
        return True

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
        if isinstance(loss, Softmax) and self.hidden_layer == "separate":
            raise ValueError(
                "formulation='gated_relu' with the log loss of several classes needs "
                "hidden_layer='shared'."
            )
        for name, wanted in (("negative_slope", 0), ("minimal", False)):
            if getattr(self, name) != wanted:
                raise ValueError(
                    f"formulation='gated_relu' needs {name}={wanted}, got "
                    f"{getattr(self, name)!r}."
                )

    def _begin_tasks(self, n_networks, given):
        """The task of the fit, and for each network what runs it, and its task."""
        by_rounds = self.arrangements not in ("sampled", "exact")
        rounds = self.max_iter if by_rounds else 0
        if n_networks == 1:
            whole = fit_task(self, given, rounds).begin()
            return whole, [(fit_only, whole)]
        whole = fit_task(self, given, n_networks, sequential=False).begin()
        return whole, [
            (fit_part, whole.subtask("output", k, rounds)) for k in range(n_networks)
        ]

    def _known_neurons(self, n_features, n_outputs, joint):
        """Neurons of an earlier fit for each network, if they are to be used."""
        coefs = getattr(self, "coefs_", None)
        if (
            not self.warm_start
            or coefs is None
            or coefs[0].shape[0] != n_features
            or coefs[1].shape[1] != n_outputs
            or hasattr(self, "gates_")
        ):
            return [None] * (1 if joint else n_outputs)
        gates, outputs = coefs[0].T.astype(np.float64), coefs[1].astype(np.float64)
        if self.fit_intercept:
            gates = np.column_stack([gates, self.intercepts_[0]])
        if joint:
            return [(gates, np.zeros_like(outputs))]
        return [
            (gates[column != 0], np.sign(column[column != 0])) for column in outputs.T
        ]

    def _warn_if_short(self, fitted, dtype):
        rounding = 10 * np.finfo(dtype).eps * max(1.0, self.n_features_in_)
        allowed = (self.tol + rounding) * abs(self.objective_)
        # Where the solver stops, and as much again for rounding.
        allowed += 2e-12 * sum(part.null_objective for part in fitted)
        if self.dual_gap_ <= allowed:
            return
        trained = [part.trained for part in fitted]
        reasons = "; ".join(sorted({part.message for part in trained}))
        statuses = {part.status for part in trained}
        advice = "Increase max_iter or max_time, or loosen tol."
        if "stalled" in statuses:
            advice = (
                "Scale the data, merge samples that are equal up to rounding, or "
                "loosen tol."
            )
        elif "max_neurons" in statuses:
            advice = "Increase max_neurons, or loosen tol."
        elif "callback" in statuses:
            advice = "Let it go on, or loosen tol."
        elif "loose" in statuses:
            advice = "Use pricing='exact', or loosen tol."
        elif "open" in statuses:
            advice = "Use arrangements='adaptive' for an estimate, or loosen tol."
        elif "unproven" in statuses:
            advice = "Use pricing='search' for an estimate, or loosen tol."
        relative = self.dual_gap_ / max(abs(self.objective_), np.finfo(float).tiny)
        warnings.warn(
            f"{type(self).__name__} stopped with a duality gap of "
            f"{self.dual_gap_:.3g} ({relative:.2g} of the objective), above "
            f"tol={self.tol:g}: {reasons}. {advice}",
            ConvergenceWarning,
        )

    def _raw_predict(self, X):
        """Outputs of the network, shape (n_samples, n_outputs)."""
        hidden = safe_sparse_dot(X, self.coefs_[0], dense_output=True)
        if hasattr(self, "gates_"):
            d = X.shape[1]
            open_ = safe_sparse_dot(X, self.gates_[:d], dense_output=True)
            hidden = hidden * (open_ + np.sum(self.gates_[d:], axis=0) > 0)
        else:
            hidden = activation(hidden + self.intercepts_[0], self.negative_slope)
        return hidden @ self.coefs_[1] + self.intercepts_[1]

    def _validated_raw_predict(self, X):
        check_is_fitted(self)
        X = validate_data(
            self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=False
        )
        return self._raw_predict(X)
