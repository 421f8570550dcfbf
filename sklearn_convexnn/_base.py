"""The one route of fit: data, program, solver, recovery, certificate."""

import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted, validate_data

from sklearn_convexnn._callbacks import CallbackSupportMixin, fit_task
from sklearn_convexnn._threads import blas_threads_for
from sklearn_convexnn.arrangements import without_rounding
from sklearn_convexnn.minimal_network import allowed_objective, smallest_network
from sklearn_convexnn.problem import Problem
from sklearn_convexnn.recovery import activation, network_weights
from sklearn_convexnn.training import HISTORY, Trained, train

# Products of four inputs, and sums of these, stay finite within it.
_RANGE = 1e60
_WEAKEST_FIRST = ("restricted", "estimated", "global")


@dataclass(frozen=True)
class _FittedOutput:
    """The network of one output as an MLP has it, and what is known of it."""

    hidden: np.ndarray
    hidden_bias: np.ndarray
    output: np.ndarray
    output_bias: float
    null_objective: float
    trained: Trained


def _canonical(X, y, sample_weight):
    """Distinct samples of positive weight, sorted.

    Repeated samples become one with the sum of their weights, so the program,
    and with it every digit of the answer, depends neither on the order of the
    samples nor on whether a weight is written as a number or as repetitions.
    """
    used = sample_weight > 0
    table = np.column_stack([X[used], y[used]]) + 0.0  # no negative zeros
    table, inverse = np.unique(table, axis=0, return_inverse=True)
    weight = np.bincount(inverse.ravel(), weights=sample_weight[used])
    return np.ascontiguousarray(table[:, :-1]), table[:, -1], weight


def _fit_output(X, y, sample_weight, known, seed, deadline, name, params, task):
    """Train the network of one output.

    Parameters
    ----------
    X, y, sample_weight : ndarrays of float64
    known : tuple (gates, signs) or None
        Neurons of an earlier fit, with their output signs.
    seed : int
    deadline : float
    name : str
        What the lines of `verbose` call this output.
    params : dict
        Parameters of the estimator, and the loss object.
    task : FitTask
        Has begun; its subtasks are the rounds.

    Returns
    -------
    fitted : _FittedOutput
    """
    X, y, sample_weight = _canonical(X, y, sample_weight)
    free_bias = params["fit_intercept"]
    # Free biases absorb a shift of the data; without it, less is lost to rounding.
    centre = X.mean(axis=0) if free_bias else np.zeros(X.shape[1])
    problem = Problem(
        without_rounding(X - centre),
        y,
        sample_weight,
        params["loss"],
        params["alpha"],
        free_bias,
        params["negative_slope"],
    )
    gates, signs = (None, None) if known is None else known
    if gates is not None and free_bias:
        gates = np.column_stack([gates[:, :-1], gates[:, -1] + gates[:, :-1] @ centre])

    def weights(neurons):
        hidden, hidden_bias, output, output_bias = network_weights(neurons, problem.X)
        return hidden, hidden_bias - centre @ hidden, output, output_bias

    task = task.through(weights)
    with blas_threads_for(len(X)):
        trained = train(problem, gates, signs, seed, deadline, name, params, task)
        if params["minimal"]:
            trained = _minimal(problem, trained, deadline, name, params)
    hidden, hidden_bias, output, output_bias = weights(trained.neurons)
    return _FittedOutput(
        hidden=hidden,
        hidden_bias=hidden_bias,
        output=output,
        output_bias=output_bias,
        null_objective=problem.objective(problem.null()),
        trained=trained,
    )


def _fit_only_output(*args):
    """`_fit_output` of the only output, whose task is the fit."""
    *args, task = args
    return _fit_output(*args, task.through(_single_network))


def _fit_one_of_outputs(*args):
    """`_fit_output` of one output among several, a task of its own."""
    *args, task = args
    # It does not make an estimator that could predict.
    fitted = _fit_output(*args, task.begin().through(lambda weights: None))
    task.end()
    return fitted


def _single_network(weights):
    """Attributes of an estimator with this network for its only output."""
    hidden, hidden_bias, output, output_bias = weights
    return {
        "coefs_": [hidden, output[:, None]],
        "intercepts_": [hidden_bias, np.array([output_bias])],
        "n_outputs_": 1,
    }


def _minimal(problem, trained, deadline, name, params):
    """The same with the smallest network that `tol` allows."""
    objective = problem.objective(trained.neurons)
    neurons = smallest_network(
        problem,
        trained.neurons,
        allowed_objective(objective, trained.dual_bound, params["tol"]),
        # A bound for sampled cells does not hold outside of them, and neurons on
        # the border of two would not stay in theirs.
        only_subsets=trained.certificate == "restricted",
        deadline=deadline,
    )
    if params["verbose"]:
        print(
            f"[{name}] smallest network found: {len(neurons)} of "
            f"{len(trained.neurons)} neurons, objective "
            f"{problem.objective(neurons):.8g} after {objective:.8g}"
        )
    return replace(trained, neurons=neurons)


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
        """Train one network per column of `Y` and store them as one network.

        Parameters
        ----------
        X : {ndarray, sparse matrix} of shape (n_samples, n_features)
            Of dtype float64 or float32, which the weights will have.
        Y : ndarray of shape (n_samples, n_outputs)
        sample_weight : ndarray of shape (n_samples,)
            Non-negative, with at least one positive entry.
        loss : Loss
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
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        params = {**self.get_params(deep=False), "loss": loss}
        known = self._known_neurons(dense.shape[1], n_outputs)
        names = [
            f"{type(self).__name__}"
            + (f" {k + 1}/{n_outputs}" if n_outputs > 1 else "")
            for k in range(n_outputs)
        ]
        whole, tasks = self._begin_tasks(n_outputs, given)
        fitted = Parallel(n_jobs=self.n_jobs)(
            delayed(run)(
                dense, y, sample_weight, earlier, seed, deadline, name, params, task
            )
            for y, earlier, name, (run, task) in zip(Y.T, known, names, tasks)
        )

        sizes = [len(part.output) for part in fitted]
        ends = np.cumsum(sizes)
        output = np.zeros((sum(sizes), n_outputs))
        for k, part in enumerate(fitted):
            output[ends[k] - sizes[k] : ends[k], k] = part.output
        self.coefs_ = [
            np.concatenate([part.hidden for part in fitted], axis=1).astype(dtype),
            output.astype(dtype),
        ]
        self.intercepts_ = [
            np.concatenate([part.hidden_bias for part in fitted]).astype(dtype),
            np.array([part.output_bias for part in fitted]).astype(dtype),
        ]
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
        self.history_["output"] = np.repeat(np.arange(n_outputs), lengths)

        raw = self._raw_predict(dense)
        penalty = (
            0.5
            * self.alpha
            * sum(float(np.sum(coef.astype(np.float64) ** 2)) for coef in self.coefs_)
        )
        losses = [loss.value(f, y, sample_weight) for f, y in zip(raw.T, Y.T)]
        self.objective_ = float(sum(losses) + penalty)
        self.loss_ = self.objective_ / float(np.sum(sample_weight))
        self.dual_bound_ = float(sum(part.dual_bound for part in trained))
        self.dual_gap_ = self.objective_ - self.dual_bound_
        whole.end({})
        self._warn_if_short(fitted, dtype)

    def _begin_tasks(self, n_outputs, given):
        """The task of the fit, and for each output what runs it, and its task."""
        by_rounds = self.arrangements not in ("sampled", "exact")
        rounds = self.max_iter if by_rounds else 0
        if n_outputs == 1:
            whole = fit_task(self, given, rounds).begin()
            return whole, [(_fit_only_output, whole)]
        whole = fit_task(self, given, n_outputs, sequential=False).begin()
        return whole, [
            (_fit_one_of_outputs, whole.subtask("output", k, rounds))
            for k in range(n_outputs)
        ]

    def _known_neurons(self, n_features, n_outputs):
        """Neurons of an earlier fit for each output, if they are to be used."""
        coefs = getattr(self, "coefs_", None)
        if (
            not self.warm_start
            or coefs is None
            or coefs[0].shape[0] != n_features
            or coefs[1].shape[1] != n_outputs
        ):
            return [None] * n_outputs
        gates = coefs[0].T.astype(np.float64)
        if self.fit_intercept:
            gates = np.column_stack([gates, self.intercepts_[0]])
        return [
            (gates[column != 0], np.sign(column[column != 0]).astype(np.float64))
            for column in coefs[1].T
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
        hidden = activation(hidden + self.intercepts_[0], self.negative_slope)
        return hidden @ self.coefs_[1] + self.intercepts_[1]

    def _validated_raw_predict(self, X):
        check_is_fitted(self)
        X = validate_data(
            self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=False
        )
        return self._raw_predict(X)
