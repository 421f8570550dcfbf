"""How steep neurons are at the network without any: the scale of the weight decay."""

import numpy as np
from sklearn.utils import check_random_state

from sklearn_convexnn._devices import in_numpy, placed
from sklearn_convexnn._fitting import build_problem, gated_problem, merged
from sklearn_convexnn.vector.losses import Separable
from sklearn_convexnn.vector.pricing import search_widely

FRACTION = 0.01
"""The default weight decay, in units of the one from which on there are no neurons."""

# Entries of the data in the search, and its random directions of each kind.
_ENTRIES, _DIRECTIONS = 200_000, 60
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
    parts = [of_network(X, y, sample_weight, params, seed) for y in targets]
    steepest = max(slope for slope, _ in parts)
    return steepest if steepest > 0 else max(unit for _, unit in parts)


def _of_neurons(X, y, sample_weight, params, seed):
    """The slope for one network, and its unit."""
    loss = params["loss"]
    if y.ndim == 1:
        y, loss = y[:, None], Separable(loss)
    params = {**params, "loss": loss}
    p, units = build_problem(*merged(X, y, sample_weight), params)
    if not np.any(p.X):
        return 0.0, units.slope
    N = p.dual_point(p.outputs(p.null()))
    rng = check_random_state(seed)
    some = slice(None)
    most = max(_ENTRIES // p.X.shape[1], 100)
    if most < len(p.X):
        some = np.sort(rng.permutation(len(p.X))[:most])
    found = search_widely(
        p.X[some].astype(np.float64, copy=False),
        N[some],
        _DIRECTIONS,
        rng,
        separate=p.separate or y.shape[1] == 1,
        free_bias=p.fit_intercept,
        negative_slope=p.negative_slope,
        polish=_FINISHED,
    )
    # On other samples than those of the search they are less steep.
    slopes = p.slopes(found.select(slice(0, _FINISHED)), N)
    steepest = slopes.max(initial=0.0)
    if p.fit_intercept:
        # A neuron that is active on all samples.
        linear = sum(p.X[rows].T @ N[rows] for rows in p.row_chunks(1))
        shared = not p.separate and y.shape[1] > 1
        size = np.linalg.norm(linear, 2) if shared else np.linalg.norm(linear, axis=0)
        steepest = max(steepest, float(np.max(size)))
    return units.slope * float(steepest), units.slope


def _of_gates(X, y, sample_weight, params, seed):
    """The same over the patterns of gated networks."""
    p = gated_problem(X, y, sample_weight, params, seed, None)
    F = np.zeros(p.Y.shape)
    if params["fit_intercept"]:
        F = F + p.loss.best_offset(F, p.Y, p.sample_weight)
    N = p.loss.project_dual(
        -p.loss.gradient(F, p.Y, p.sample_weight),
        p.Y,
        p.sample_weight,
        centred=params["fit_intercept"],
    )
    steepest = 0.0
    for pattern in p.arrangement.patterns:
        active = placed(N * in_numpy(pattern)[:, None], p.X, p.X.dtype)
        steepest = max(steepest, np.linalg.norm(in_numpy(p.X.T @ active), 2))
    return p.units.slope * float(steepest), p.units.slope
