"""The one route of fit: data, program, solver, recovery, certificate."""

import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from scipy.linalg import block_diag
from scipy.sparse import issparse
from sklearn.base import _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._array_api import check_same_namespace, get_namespace
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted, validate_data

from sklearn_convexnn._callbacks import CallbackSupportMixin, fit_task
from sklearn_convexnn._devices import (
    float_dtypes,
    in_numpy,
    largest_size,
    on_device,
    placed,
)
from sklearn_convexnn._fitting import fit_only, fit_part
from sklearn_convexnn.deep.architecture import Architecture
from sklearn_convexnn.deep.recovery import layers_of_output
from sklearn_convexnn.deep.training import SOLVERS_OF_BLOCKS
from sklearn_convexnn.gated_arrangement import KnownNeurons
from sklearn_convexnn.solvers import MESSAGES
from sklearn_convexnn.training import CUTS, HISTORY
from sklearn_convexnn.vector.large import goes_at_scale
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
        largest = largest_size(values)
        if largest != 0.0 and not 1.0 / _RANGE <= largest <= _RANGE:
            raise ValueError(
                f"The largest absolute value of {name} is {largest:.3g}, which is not "
                f"within {1.0 / _RANGE:g} and {_RANGE:g}; change its units."
            )


@dataclass(frozen=True)
class Neighbour:
    """A model of the same data with another `alpha`.

    Attributes
    ----------
    model : estimator
        Fitted.
    duals : list of DualPoint or None
        Of its networks; None for those of which none is known.
    """

    model: object
    duals: list


class ConvexReLUMixin(CallbackSupportMixin):
    """Fitting and raw prediction, shared by the estimators."""

    def _fit(self, X, y, sample_weight):
        with restored_on_failure(self):
            fitted = self._fit_networks(*self._encoded(X, y, sample_weight))
            self._warn_if_short(fitted)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def _fit_between(self, X, y, sample_weight, neighbours=(), prove=True):
        """As `fit`, from models of the same data; no warning, but what was trained."""
        encoded = self._encoded(X, y, sample_weight)
        return self._fit_networks(*encoded, neighbours, prove)

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
            The first arguments of `_fit_networks`.
        """
        raise NotImplementedError

    def _fit_networks(
        self, X, Y, sample_weight, loss, given, neighbours=(), prove=True
    ):
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
        neighbours : sequence of Neighbour
            At most one of larger and one of smaller `alpha`, to start between.
        prove : bool, default=True
            Whether to attempt proofs after 'adaptive'.

        Returns
        -------
        fitted : list of Fitted
        """
        deadline = np.inf if self.max_time is None else perf_counter() + self.max_time
        gated = self.formulation == "gated_relu"
        # The solver of gated networks takes the data as they are.
        data = X
        if not gated:
            data = X.toarray() if issparse(X) else in_numpy(X)
            if self.depth > 2 or not goes_at_scale(data, self.arrangements):
                data = np.asarray(data, dtype=np.float64)
        Y = np.asarray(Y, dtype=np.float64)
        sample_weight = np.asarray(sample_weight, dtype=np.float64)
        _check_range(X=data, y=Y, sample_weight=sample_weight, alpha=self.alpha)
        n_outputs = Y.shape[1]
        if self.depth > 2:
            self._check_deep(loss, n_outputs)
        elif gated:
            self._check_gated(loss)
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        targets, loss = self._targets(Y, loss)
        joint = targets[0].ndim == 2
        params = {**self.get_params(deep=False), "loss": loss, "prove": prove}
        params["like"] = None if issparse(X) else X[:1, :]
        starts = self._starts(X.shape[1], n_outputs, joint, neighbours)
        names = [
            f"{type(self).__name__}"
            + (f" {k + 1}/{len(targets)}" if len(targets) > 1 else "")
            for k in range(len(targets))
        ]
        whole, tasks = self._begin_tasks(len(targets), given)
        fitted = Parallel(n_jobs=self.n_jobs)(
            delayed(run)(
                data, y, sample_weight, start, seed, deadline, name, params, task
            )
            for y, start, name, (run, task) in zip(targets, starts, names, tasks)
        )

        first, *others = zip(*(part.coefs for part in fitted))
        self.coefs_ = [np.concatenate(first, axis=1)]
        self.coefs_ += [block_diag(*parts) for parts in others]
        self.intercepts_ = [
            np.concatenate(parts)
            for parts in zip(*(part.intercepts for part in fitted))
        ]
        for weights in (self.coefs_, self.intercepts_):
            weights[:] = [placed(part, X, X.dtype) for part in weights]
        if gated:
            gates = np.concatenate([part.gates for part in fitted], axis=1)
            self.gates_ = placed(gates, X, X.dtype)
        elif hasattr(self, "gates_"):
            del self.gates_
        self.n_layers_ = len(self.coefs_) + 1
        self.n_outputs_ = n_outputs
        self.n_neurons_ = self.coefs_[-1].shape[0]
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

        raw = in_numpy(self._raw_predict(X if on_device(X) else data))
        # The layers before have norms of one.
        squares = [
            np.sum(in_numpy(weights).astype(np.float64) ** 2)
            for weights in self.coefs_[-2:]
        ]
        penalty = 0.5 * self.alpha * float(sum(squares))
        if joint:
            value = loss.value(raw, Y, sample_weight)
        else:
            value = sum(loss.value(f, y, sample_weight) for f, y in zip(raw.T, Y.T))
        self.objective_ = float(value + penalty)
        self.loss_ = self.objective_ / float(np.sum(sample_weight))
        self.dual_bound_ = float(sum(part.dual_bound for part in trained))
        self.dual_gap_ = self.objective_ - self.dual_bound_
        if self.depth > 2:
            self.proven_bound_ = float(sum(part.proven_bound for part in trained))
        elif hasattr(self, "proven_bound_"):
            del self.proven_bound_
        whole.end({})
        return fitted

    def _targets(self, Y, loss):
        """The targets of each network, two-dimensional of a joint one, and its loss."""
        if not self._check_joint(Y.shape[1], loss):
            return list(Y.T), loss
        return [Y], loss if isinstance(loss, Softmax) else Separable(loss)

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
        if n_outputs > 1 and (
            isinstance(loss, Softmax) or self.hidden_layer != "separate"
        ):
            raise ValueError(
                f"arrangements={self.arrangements!r} is not there for several outputs "
                "of shared sub-networks: use arrangements='adaptive', or "
                "hidden_layer='separate' and a loss other than the softmax."
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

    def _starts(self, n_features, n_outputs, joint, neighbours):
        """What each network starts from, if anything: neurons and dual points."""
        if self.formulation == "gated_relu":
            return self._known_gated(n_features, n_outputs, joint)
        if self.depth > 2:
            return self._known_subnetworks(n_features, n_outputs, joint)
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
        n_networks = 1 if joint else n_outputs
        if not neighbours:
            return [None] * n_networks
        # The mixture of networks, as that of dual points, is hardly worse than they.
        shares = [1.0]
        if len(neighbours) == 2:
            above, below = (near.model.alpha for near in neighbours)
            share = (self.alpha - below) / (above - below)
            shares = [share, 1.0 - share]
        gates = np.concatenate([near.model._gate_rows() for near in neighbours])
        outputs = np.concatenate(
            [
                share * in_numpy(near.model.coefs_[1]).astype(np.float64)
                for share, near in zip(shares, neighbours)
            ]
        )
        duals = [()] * n_networks
        if len(neighbours) == 2:
            ends = zip(*(near.duals for near in neighbours))
            duals = [self._between(*pair) for pair in ends]
        if joint:
            return [(gates, outputs, duals[0])]
        return [
            (gates[column != 0], column[column != 0], points)
            for column, points in zip(outputs.T, duals)
        ]

    def _known_gated(self, n_features, n_outputs, joint):
        """Gated neurons of an earlier fit for each network, if they are to be used."""
        n_networks = 1 if joint else n_outputs
        shape = (n_features + self.fit_intercept, n_outputs)
        if not self.warm_start or not hasattr(self, "gates_"):
            return [None] * n_networks
        if (self.gates_.shape[0], self.coefs_[1].shape[1]) != shape:
            return [None] * n_networks
        gates, hidden, output = (
            in_numpy(part).astype(np.float64) for part in (self.gates_, *self.coefs_)
        )
        if joint:
            return [KnownNeurons(gates.T, hidden.T, output)]
        return [
            KnownNeurons(gates.T[used], hidden.T[used], column[used, None])
            for column, used in zip(output.T, output.T != 0)
        ]

    def _known_subnetworks(self, n_features, n_outputs, joint):
        """Layers of an earlier fit for each network, if they are to be used."""
        n_networks = 1 if joint else n_outputs
        if not self.warm_start or not hasattr(self, "coefs_"):
            return [None] * n_networks
        architecture = Architecture(
            self.depth, self.subnetwork_width, self.subnetwork_norm
        )
        n_units = self.coefs_[-1].shape[0]
        shapes = [n_features, *(width * n_units for width in architecture.widths)]
        if [W.shape[0] for W in self.coefs_] != shapes or n_units == 0:
            return [None] * n_networks
        if self.coefs_[-1].shape[1] != n_outputs or hasattr(self, "gates_"):
            return [None] * n_networks
        coefs, intercepts = (
            [in_numpy(part).astype(np.float64) for part in parts]
            for parts in (self.coefs_, self.intercepts_)
        )
        if not self.fit_intercept and any(np.any(b) for b in intercepts):
            # Without their biases the sub-networks would be others.
            return [None] * n_networks
        if joint:
            return [(coefs, intercepts, ())]
        return [(*layers_of_output(coefs, intercepts, k), ()) for k in range(n_outputs)]

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
        return (above.towards(below, self.alpha),)

    def _stopped_short(self, fitted):
        rounding = 10 * np.finfo(in_numpy(self.coefs_[0]).dtype).eps
        rounding *= max(1.0, self.n_features_in_)
        allowed = (self.tol + rounding) * abs(self.objective_)
        # Where the solver stops, and as much again for rounding.
        allowed += 2e-12 * sum(part.null_objective for part in fitted)
        return self.dual_gap_ > allowed

    def _warn_if_short(self, fitted):
        if not self._stopped_short(fitted):
            return
        trained = [part.trained for part in fitted]
        # A gap that is closed for the solver, and not for the weights.
        stalled = {"optimal": "stalled"}
        statuses = {stalled.get(part.status, part.status) for part in trained}
        reasons = {
            MESSAGES["stalled"] if part.status == "optimal" else part.message
            for part in trained
        }
        reasons = "; ".join(sorted(reasons))
        advice = "Increase max_iter or max_time, or loosen tol."
        if "breakdown" in statuses:
            advice = "Scale the columns of X, look for outliers, or loosen tol."
        elif "stalled" in statuses:
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

    @property
    def _weights(self):
        return self.coefs_[0]

    def _raw_predict(self, X):
        """Outputs of the network, shape (n_samples, n_outputs)."""
        xp, _ = get_namespace(self.coefs_[0])
        for W, b in zip(self.coefs_[:-2], self.intercepts_):
            X = xp.clip(X @ W + b, min=0.0)
        hidden = X @ self.coefs_[-2]
        if hasattr(self, "gates_"):
            d = X.shape[1]
            open_ = X @ self.gates_[:d, :] + xp.sum(self.gates_[d:, :], axis=0) > 0
            hidden = hidden * xp.astype(open_, hidden.dtype)
        else:
            hidden = hidden + self.intercepts_[-2]
            slope = self.negative_slope * hidden
            hidden = xp.where(hidden > 0, hidden, slope)
        return hidden @ self.coefs_[-1] + self.intercepts_[-1]

    def _validated_raw_predict(self, X, method):
        check_is_fitted(self)
        X = validate_data(
            self, X, accept_sparse="csr", dtype=float_dtypes(X), reset=False
        )
        check_same_namespace(X, self, attribute="_weights", method=method)
        return self._raw_predict(X)
