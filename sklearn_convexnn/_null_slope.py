"""How steep neurons are at the network without any: the scale of the weight decay."""

import numpy as np
from sklearn.utils import check_random_state

from sklearn_convexnn._breakdown import unless_broken
from sklearn_convexnn._devices import in_numpy, placed
from sklearn_convexnn._fitting import build_problem, canonical, gated_problem
from sklearn_convexnn._threads import blas_threads_for
from sklearn_convexnn.gated_arrangement import gated_arrangement
from sklearn_convexnn.losses import power_of_two
from sklearn_convexnn.recovery import activation
from sklearn_convexnn.vector.losses import Separable
from sklearn_convexnn.vector.pricing import no_candidates, search_widely

FRACTION = 0.02
"""The default weight decay, in units of the one from which on there are no neurons."""

# Entries of the data in the search, its fewest samples, and its random directions of
# each kind.
_ENTRIES, _FEWEST, _DIRECTIONS = 200_000, 300, 60
# Candidates that are looked at on all samples.
_FINISHED = 20


def null_slope(X, targets, sample_weight, params, seed):
    """Slope of the steepest neuron that a short search finds at the best constant.

    It does not depend on the units of data, targets and weights, but for its own
    unit, which is that of the weight decay.  For deeper networks it is that of
    neurons, which are among their sub-networks.

    Parameters
    ----------
    X : {array, sparse array} of shape (n_samples, n_features)
    targets : list of ndarray
        Of each network.
    sample_weight : ndarray of shape (n_samples,)
    params : dict
        Parameters of the estimator, and the loss object.
    seed : int

    Returns
    -------
    slope : float
        Positive, also if no neuron is of use.
    """
    of_network = _of_neurons
    if params["formulation"] == "gated_relu":
        of_network = _of_gates
    params = {**params, "alpha": 1.0, "depth": 2}
    # Two threads bring little for products of this size.
    with blas_threads_for(0):
        parts = [of_network(X, y, sample_weight, params, seed) for y in targets]
    steepest = max(slope for slope, _ in parts)
    return steepest if steepest > 0 else max(unit for _, unit in parts)


def _of_neurons(X, y, sample_weight, params, seed):
    """The slope for one network, and its unit."""
    loss, rng = params["loss"], check_random_state(seed)
    if y.ndim == 1:
        y, loss = y[:, None], Separable(loss)
    X, Y, sample_weight = canonical(X, y, sample_weight)
    N = _null_dual(Y, sample_weight, loss, params["fit_intercept"])
    some, most = slice(None), max(_ENTRIES // X.shape[1], _FEWEST)
    if most < len(X):
        some = np.sort(rng.permutation(len(X))[:most])
    p, units = build_problem(
        X[some].astype(np.float64, copy=False),
        Y[some],
        sample_weight[some],
        {**params, "loss": loss},
    )
    separate = p.separate or p.n_outputs == 1
    found = unless_broken(
        no_candidates(p.X, N),
        search_widely,
        *(p.X, p.project(N[some] / units.dual), _DIRECTIONS, rng),
        separate=separate,
        free_bias=p.fit_intercept,
        negative_slope=p.negative_slope,
        polish=_FINISHED,
    ).select(slice(0, _FINISHED))
    # On other samples than those of the search they are less steep.
    slopes = np.zeros((len(found), p.n_outputs))
    linear = np.zeros((X.shape[1], p.n_outputs))
    step = max(1, _ENTRIES // X.shape[1])
    for i in range(0, len(X), step):
        rows = X[i : i + step] - units.centre
        z = rows @ found.directions.T + units.data * found.biases
        slopes += activation(z, p.negative_slope).T @ N[i : i + step]
        linear += rows.T @ N[i : i + step]
    steepest = np.linalg.norm(slopes, np.inf if separate else 2, axis=1)
    if p.fit_intercept:
        # A neuron that is active on all samples.
        size = np.linalg.norm(linear, 2, axis=0) if separate else [_largest(linear)]
        steepest = np.append(steepest, size)
    return float(np.max(steepest, initial=0.0)), units.slope


def _null_dual(Y, sample_weight, loss, free):
    """Dual variables of the best constant."""
    weight = power_of_two(np.mean(sample_weight))
    s = sample_weight / weight
    scaled = loss.scaled(Y, s, free)
    loss, Y = scaled.loss, scaled.y
    F = np.zeros(Y.shape)
    if free:
        F = F + loss.best_offset(F, Y, s)
    N = loss.project_dual(-loss.gradient(F, Y, s), Y, s, centred=free)
    return N * (weight * scaled.value / scaled.output)


def _largest(matrix):
    """Largest singular value, or a bound of it."""
    return unless_broken(np.linalg.norm(matrix), np.linalg.norm, matrix, 2)


def _of_gates(X, y, sample_weight, params, seed):
    """The same over the patterns of gated networks."""
    p = gated_problem(X, y, sample_weight, params)
    arrangement, _ = unless_broken(
        (None, None), gated_arrangement, p.X, p.sample_weight, params, seed, None
    )
    if arrangement is None:
        return 0.0, p.units.slope
    N = _null_dual(p.Y, p.sample_weight, p.loss, params["fit_intercept"])
    steepest = 0.0
    for pattern in in_numpy(arrangement.patterns):
        active = placed(N * pattern[:, None], p.X, p.X.dtype)
        steepest = max(steepest, _largest(in_numpy(p.X.T @ active).astype(float)))
    return p.units.slope * float(steepest), p.units.slope
