"""From gated networks to ReLU networks with the same outputs on the training data."""

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.sparse import issparse
from sklearn.utils.validation import check_is_fitted

from sklearn_convexnn._devices import in_numpy
from sklearn_convexnn.arrangements import with_ones

# Growth of the penalty that is worth a warning.
_EXPLODED = 10.0


@dataclass(frozen=True)
class ConeDecomposition:
    """A ReLU network made of a gated one.

    Attributes
    ----------
    coefs_ : list of two ndarrays
        Weights of shape (n_features, n_neurons) and (n_neurons, n_outputs), as in
        scikit-learn's MLP.
    intercepts_ : list of two ndarrays
        Biases of shape (n_neurons,) and (n_outputs,).
    gated_penalty : float
        ``alpha / 2`` times the sum of squares of the weights of the gated network.
    penalty : float
        The same of this one.
    """

    coefs_: list
    intercepts_: list
    gated_penalty: float
    penalty: float


def cone_decomposition(estimator, X, *, method="minimal"):
    """ReLU network with the outputs of a gated network on its training data.

    A gated neuron with the pattern ``D`` of its gate and the weights ``w`` is written
    as the difference of two vectors ``p - q = w`` in the cone of the pattern, so
    that ``D X w = (X p)_+ - (X q)_+``.  With free biases both get the same bias.

    Parameters
    ----------
    estimator : ConvexReLURegressor or ConvexReLUClassifier
        Fitted with ``formulation="gated_relu"``.
    X : {array, sparse array} of shape (n_samples, n_features)
        The data that it was fitted on.
    method : {'minimal', 'explicit'}, default='minimal'
        'minimal' minimises ``||p|| + ||q||`` for each neuron, a second-order cone
        program.  'explicit' adds the shortest multiple of the gate to both that puts
        them into the cone, at hardly any cost.

    Returns
    -------
    network : ConeDecomposition

    Raises
    ------
    ValueError
        If the estimator is not that of a gated network, or `method` is unknown.

    Warns
    -----
    UserWarning
        If the penalty becomes more than ten times as large.

    Notes
    -----
    Only the outputs on `X` are the same; those on other data differ, since ReLU
    neurons are switched by their own weights.  In thin cones the vectors are long,
    and the penalty can be much larger than that of the best ReLU network.  The
    network is of use with little weight decay, or as a start.

    References
    ----------
    .. [1] Mishkin, A., Sahiner, A. and Pilanci, M. (2022). "Fast Convex
       Optimization for Two-Layer ReLU Networks: Equivalent Model Classes and Cone
       Decompositions". ICML.

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> from sklearn_convexnn import ConvexReLURegressor, cone_decomposition
    >>> X, y = make_regression(8, 2, random_state=0)
    >>> gated = ConvexReLURegressor(
    ...     formulation="gated_relu", arrangements="sampled", n_arrangements=5,
    ...     random_state=0,
    ... ).fit(X, y / y.std())
    >>> network = cone_decomposition(gated, X)
    >>> network.penalty >= network.gated_penalty
    True
    """
    check_is_fitted(estimator)
    if not hasattr(estimator, "gates_"):
        raise ValueError(
            "cone_decomposition needs an estimator fitted with "
            "formulation='gated_relu'."
        )
    if method not in ("minimal", "explicit"):
        raise ValueError(f"method={method!r} is not 'minimal' or 'explicit'.")
    X = X.toarray() if issparse(X) else in_numpy(X)
    gates, hidden, output, offset = (
        in_numpy(part).astype(np.float64)
        for part in (estimator.gates_, *estimator.coefs_, estimator.intercepts_[1])
    )
    rows = with_ones(X.astype(np.float64), len(gates) > X.shape[1])
    # Samples of zeros are in every cone, and nothing comes out for them.
    rows = rows[np.any(rows != 0, axis=1)]
    units, weights, offset = [], [], offset.copy()
    for gate, w, v in zip(gates.T, hidden.T, output):
        active = rows @ gate > 0
        if not active.any():
            continue
        if active.all() and len(gate) > len(w):
            # Linear on the data, so that a bias does.
            bias = max(0.0, float(-np.min(X @ w)))
            units.append(np.append(w, bias))
            weights.append(v)
            offset -= bias * v
            continue
        cone = np.where(active, 1.0, -1.0)[:, None] * rows
        lacking = np.maximum(-cone[:, : len(w)] @ w, 0.0)
        q = lift = _along_gate(cone, lacking, gate)
        if method == "minimal" and np.any(lift):
            q = _shortest(cone, lacking, w, lift)
        p = q.copy()
        p[: len(w)] += w
        units += [p, q]
        weights += [v, -v]
    shape = len(units), len(gates)
    coefs, biases = _balanced(
        np.reshape(units, shape), np.reshape(weights, (len(units), len(offset))), X
    )
    factor = 0.5 * float(estimator.alpha)
    before = factor * float(np.sum(hidden**2) + np.sum(output**2))
    after = factor * float(sum(np.sum(coef**2) for coef in coefs))
    if after > _EXPLODED * before:
        warnings.warn(
            f"The penalty grows from {before:.3g} to {after:.3g}: some patterns have "
            "thin cones. Use the network as a start only, or train with "
            "formulation='relu'."
        )
    return ConeDecomposition(coefs, [biases, offset], before, after)


def _along_gate(cone, lacking, gate):
    """Least multiple of the gate with ``cone @ q >= lacking``."""
    reach = cone @ gate
    short = lacking > 0
    return np.max(lacking[short] / reach[short], initial=0.0) * gate


def _shortest(cone, lacking, w, lift):
    """The ``q`` with ``cone @ q >= lacking`` that minimises ``||q + w|| + ||q||``.

    Biases, behind the weights, have no part in the norms.
    """
    import cvxpy as cp  # slow to import

    d, scale = len(w), np.linalg.norm(lift)
    q = cp.Variable(len(lift))
    # In units in which a solution is about one.
    norms = cp.norm(q[:d]) + cp.norm(q[:d] + w / scale)
    problem = cp.Problem(cp.Minimize(norms), [cone @ q >= lacking / scale])
    try:
        problem.solve(solver="CLARABEL")
    except cp.SolverError:
        return lift
    if q.value is None or problem.status not in ("optimal", "optimal_inaccurate"):
        return lift
    return scale * q.value


def _balanced(units, weights, X):
    """Weights of both layers with the least sum of squares, and the hidden biases."""
    d = X.shape[1]
    sizes, masses = (np.linalg.norm(part, axis=1) for part in (units[:, :d], weights))
    used = (sizes > 1e-12 * sizes.max(initial=0.0)) & (masses > 0)
    ratio = np.sqrt(masses[used] / sizes[used])[:, None]
    units, weights = units[used] * ratio, weights[used] / ratio
    return [units[:, :d].T, weights], units[:, d:].sum(axis=1)
