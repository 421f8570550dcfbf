"""The one route of fit: data, program, solver, recovery, certificate."""

import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted, validate_data

from sklearn_convexnn._threads import blas_threads_for
from sklearn_convexnn.arrangements import (
    enumerate_arrangement,
    network_arrangement,
    sample_arrangement,
    union,
    without_rounding,
)
from sklearn_convexnn.programs.two_layer import TwoLayerProgram
from sklearn_convexnn.recovery import (
    activation,
    network_weights,
    neurons_from_blocks,
    simplify,
)
from sklearn_convexnn.solvers import SOLVERS, SolverResult, null_result


@dataclass(frozen=True)
class _FittedOutput:
    """The network of one output and what is known of it."""

    hidden: np.ndarray
    hidden_bias: np.ndarray
    output: np.ndarray
    output_bias: float
    null_objective: float
    complete: bool
    n_patterns: int
    result: SolverResult


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


def _fit_output(X, y, sample_weight, gates, seed, deadline, name, params):
    """Train the network of one output.

    Parameters
    ----------
    X, y, sample_weight : ndarrays of float64
    gates : ndarray of shape (n_gates, n_columns) or None
        Neurons of an earlier fit whose patterns are added.
    seed : int
    deadline : float
    name : str
        What the lines of `verbose` call this output.
    params : dict
        Parameters of the estimator, and the loss object.

    Returns
    -------
    fitted : _FittedOutput
    """
    X, y, sample_weight = _canonical(X, y, sample_weight)
    with blas_threads_for(len(X)):
        return _fit_canonical(X, y, sample_weight, gates, seed, deadline, name, params)


def _fit_canonical(X, y, sample_weight, gates, seed, deadline, name, params):
    free_bias, verbose = params["fit_intercept"], params["verbose"]
    # Free biases absorb a shift of the data; without it, less is lost to rounding.
    centre = X.mean(axis=0) if free_bias else np.zeros(X.shape[1])
    X = without_rounding(X - centre)
    if gates is not None and free_bias:
        gates = np.column_stack([gates[:, :-1], gates[:, -1] + gates[:, :-1] @ centre])
    arrangement = _choose_arrangement(X, gates, seed, params)
    if verbose:
        scope = "all" if arrangement.complete else "sampled"
        print(
            f"[{name}] {len(X)} distinct samples, {len(arrangement)} patterns ({scope})"
        )
    program = TwoLayerProgram(
        X,
        y,
        sample_weight,
        params["loss"],
        params["alpha"],
        arrangement,
        fit_intercept=free_bias,
        negative_slope=params["negative_slope"],
    )

    def report(iteration, objective, bound):
        if verbose > 1:
            print(
                f"[{name}] iteration {iteration:3d}  objective {objective:.8g}  "
                f"dual bound {bound:.8g}"
            )

    if not program.can_improve:
        result = null_result(program)
    else:
        result = SOLVERS[params["solver"]](
            program,
            # A little room for the rounding of the recovered network.
            tol=0.9 * params["tol"],
            max_iter=params["max_iter"],
            deadline=deadline,
            callback=report,
        )
    neurons = neurons_from_blocks(program, result.theta, result.offset)
    neurons = simplify(program, X, neurons)
    hidden, hidden_bias, output, output_bias = network_weights(neurons, X)
    if verbose:
        print(
            f"[{name}] {len(neurons)} neurons after {result.n_iter} iterations, "
            f"dual bound {result.dual_bound:.8g}: {result.message}"
        )
    return _FittedOutput(
        hidden=hidden,
        hidden_bias=hidden_bias - centre @ hidden,
        output=output,
        output_bias=output_bias,
        null_objective=program.null_objective(),
        complete=program.complete,
        n_patterns=len(arrangement),
        result=result,
    )


def _choose_arrangement(X, gates, seed, params):
    """Patterns for the program, as the parameters say."""
    free_bias, wanted = params["fit_intercept"], params["n_arrangements"]
    if params["arrangements"] == "exact":
        return enumerate_arrangement(X, free_bias=free_bias)
    arrangement = sample_arrangement(X, wanted, free_bias=free_bias, random_state=seed)
    if arrangement.complete:
        return arrangement
    if len(arrangement) < wanted:
        warnings.warn(
            f"Only {len(arrangement)} distinct activation patterns were found, fewer "
            f"than n_arrangements={wanted}: the others are hard to hit at random. "
            "Centre and scale the data, or use arrangements='exact' if they are of "
            "low rank.",
            UserWarning,
        )
    if gates is not None:
        known = network_arrangement(X, gates, free_bias=free_bias)
        arrangement = union(known, arrangement)
    return arrangement


@contextmanager
def restored_on_failure(estimator):
    """Give `estimator` its former attributes back if the body does not finish."""
    before = vars(estimator).copy()
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise


class ConvexReLUMixin:
    """Fitting and raw prediction, shared by the estimators."""

    def _fit_networks(self, X, Y, sample_weight, loss):
        """Train one network per column of `Y` and store them as one network.

        Parameters
        ----------
        X : {ndarray, sparse matrix} of shape (n_samples, n_features)
            Of dtype float64 or float32, which the weights will have.
        Y : ndarray of shape (n_samples, n_outputs)
        sample_weight : ndarray of shape (n_samples,)
            Non-negative, with at least one positive entry.
        loss : Loss
        """
        start = perf_counter()
        deadline = np.inf if self.max_time is None else start + self.max_time
        dtype = X.dtype
        dense = np.asarray(X.toarray() if hasattr(X, "toarray") else X, np.float64)
        Y = np.asarray(Y, dtype=np.float64)
        sample_weight = np.asarray(sample_weight, dtype=np.float64)
        n_outputs = Y.shape[1]
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        params = {**self.get_params(deep=False), "loss": loss}
        known = self._known_gates(dense.shape[1], n_outputs)
        names = [
            f"{type(self).__name__}"
            + (f" {k + 1}/{n_outputs}" if n_outputs > 1 else "")
            for k in range(n_outputs)
        ]
        fitted = Parallel(n_jobs=self.n_jobs)(
            delayed(_fit_output)(
                dense, y, sample_weight, gates, seed, deadline, name, params
            )
            for y, gates, name in zip(Y.T, known, names)
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
        self.n_arrangements_ = max(part.n_patterns for part in fitted)
        self.n_iter_ = max(part.result.n_iter for part in fitted)
        self.certificate_ = (
            "global" if all(part.complete for part in fitted) else "restricted"
        )
        lengths = [len(part.result.history["time"]) for part in fitted]
        self.history_ = {
            key: np.concatenate([part.result.history[key] for part in fitted])
            for key in fitted[0].result.history
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
        self.dual_bound_ = float(sum(part.result.dual_bound for part in fitted))
        self.dual_gap_ = self.objective_ - self.dual_bound_
        self._warn_if_short(fitted, dtype)

    def _known_gates(self, n_features, n_outputs):
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
        return [gates[column != 0] for column in coefs[1].T]

    def _warn_if_short(self, fitted, dtype):
        rounding = 10 * np.finfo(dtype).eps * max(1.0, self.n_features_in_)
        allowed = (self.tol + rounding) * abs(self.objective_)
        # Where the solver stops, and as much again for rounding.
        allowed += 2e-12 * sum(part.null_objective for part in fitted)
        if self.dual_gap_ <= allowed:
            return
        results = [part.result for part in fitted]
        reasons = "; ".join(sorted({result.message for result in results}))
        advice = "Increase max_iter or max_time, or loosen tol."
        if any(result.status == "stalled" for result in results):
            advice = (
                "Scale the data, merge samples that are equal up to rounding, or "
                "loosen tol."
            )
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
