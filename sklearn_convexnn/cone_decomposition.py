"""From gated networks to ReLU networks with the same outputs on the training data."""

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data

from sklearn_convexnn._sklearn import StrOptions, check_parameters
from sklearn_convexnn._utils.devices import float_dtypes, in_numpy
from sklearn_convexnn._utils.types import Data
from sklearn_convexnn.patterns.arrangements import with_ones

_CONSTRAINTS = {"method": [StrOptions({"minimal", "explicit"})]}
# Growth of the penalty that is worth a warning.
_EXPLODED = 10.0
# Products of unit rows with gates that are as good as zero, relatively.
_BORDER = 1e-9
# Cone programs for one neuron, each in the units of the solution before, and the
# tolerances of their solver.
_SOLVES = 4
_TOLERANCES = {"tol_feas": 1e-11, "tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10}


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


def cone_decomposition(
    estimator: BaseEstimator,
    X: Data,
    *,
    method: Literal["minimal", "explicit"] = "minimal",
) -> ConeDecomposition:
    """ReLU network with the outputs of a gated network on its training data.

    A gated neuron with the pattern ``D`` of its gate and the weights ``w`` is written
    as the difference of two vectors ``p - q = w`` in the cone of the pattern, so
    that ``D X w = (X p)_+ - (X q)_+``.  With free biases both get the same bias.

    Parameters
    ----------
    estimator : GatedReLURegressor or GatedReLUClassifier
        Fitted.
    X : {array, sparse array} of shape (n_samples, n_features)
        The data that it was fitted on.
    method : {'minimal', 'explicit'}, default='minimal'
        'minimal' minimises ``||p|| + ||q||`` for each neuron, a second-order cone
        program; what the solver leaves of the constraints is repaired, so that the
        outputs are the same to rounding.  'explicit' adds the shortest multiple of
        the gate to both that puts them into the cone, at hardly any cost.

    Returns
    -------
    network : ConeDecomposition

    Raises
    ------
    ValueError
        If the estimator is not that of a gated network, `method` is unknown, or `X`
        is not as in the fit.

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
    >>> from sklearn_convexnn import GatedReLURegressor, cone_decomposition
    >>> X, y = make_regression(8, 2, random_state=0)
    >>> gated = GatedReLURegressor(n_arrangements=5, random_state=0)
    >>> gated = gated.fit(X, y / y.std())
    >>> network = cone_decomposition(gated, X)
    >>> network.penalty >= network.gated_penalty
    True
    """
    check_parameters(_CONSTRAINTS, {"method": method}, "cone_decomposition")
    check_is_fitted(estimator)
    if not hasattr(estimator, "gates_"):
        raise ValueError(
            "cone_decomposition needs a fitted GatedReLURegressor or "
            f"GatedReLUClassifier, got {type(estimator).__name__}."
        )
    X = validate_data(
        estimator, X, accept_sparse="csr", dtype=float_dtypes(X), reset=False
    )
    X = X.toarray() if issparse(X) else in_numpy(X)
    gates = in_numpy(estimator.gates_)
    d, free_bias = X.shape[1], len(gates) > X.shape[1]
    # As in prediction, to the last bit.
    patterns = X @ gates[:d] + gates[d:].sum(axis=0) > 0
    X, gates, hidden, output, offset = (
        in_numpy(part).astype(np.float64)
        for part in (X, gates, *estimator.coefs_, estimator.intercepts_[1])
    )
    # Without a large mean, which biases absorb, and with entries of about one, less
    # is lost to rounding.  Weights are those of the data in these units until the end.
    centre = X.mean(axis=0) if free_bias else np.zeros(d)
    size = np.sqrt(np.mean((X - centre) ** 2)) or 1.0
    rows = with_ones((X - centre) / size, free_bias)
    # Samples of zeros are in every cone, and nothing comes out for them.
    used = np.any(rows != 0, axis=1)
    gates, gated = (
        _shifted(part.T, centre, size)
        for part in (gates, np.pad(hidden, [(0, len(gates) - d), (0, 0)]))
    )
    neurons = zip(gates, patterns[used].T, gated, output)
    units, weights, offset = _decomposed(rows[used], neurons, offset, d, method)
    units = _shifted(units, -centre / size, 1.0 / size)
    coefs, biases = _balanced(units, weights, d)
    before, after = (
        0.5 * estimator.alpha_ * float(sum(np.sum(coef**2) for coef in layers))
        for layers in ([hidden, output], coefs)
    )
    if after > _EXPLODED * before:
        warnings.warn(
            f"The penalty grows from {before:.3g} to {after:.3g}: some patterns have "
            "thin cones. Use the network as a start only, or train with "
            "ConvexReLURegressor or ConvexReLUClassifier."
        )
    return ConeDecomposition(coefs, [biases, offset], before, after)


def _decomposed(rows, neurons, offset, d, method):
    """Weights of ReLU neurons and of their outputs, as rows, and the output biases.

    Gated `neurons` are gate, pattern, weights and weights of the outputs.
    """
    units, weights, offset = [], [], offset.copy()
    for gate, active, w, v in neurons:
        if not active.any():
            continue
        if active.all() and rows.shape[1] > d:
            # Linear on the data, so that a bias does.
            bias = max(0.0, float(-np.min(rows @ w)))
            w[d] += bias
            units.append(w)
            weights.append(v)
            offset -= bias * v
            continue
        q = _lift(rows, active, gate, w, d, method)
        units += [q + w, q]
        weights += [v, -v]
    units = np.reshape(units, (len(units), rows.shape[1]))
    return units, np.reshape(weights, (len(units), len(offset))), offset


def _lift(rows, active, gate, w, d, method):
    """A vector ``q`` in the cone of a pattern that ``q + w`` is in, too."""
    cone = np.where(active, 1.0, -1.0)[:, None] * rows
    cone /= np.linalg.norm(cone, axis=1)[:, None]
    lacking = np.maximum(-cone @ w, 0.0)
    gate = _inside(cone, lacking, gate)
    q = _along_gate(cone, lacking, gate)
    if method == "minimal" and np.any(q):
        q = _shortest(cone, lacking, w, q, gate, d)
    return q


def _shifted(units, centre, size):
    """Rows of weights, and biases if any, for the data ``(X - centre) / size``."""
    d = len(centre)
    moved = units.copy()
    moved[:, :d] *= size
    moved[:, d:] += (units[:, :d] @ centre)[:, None]
    return moved


def _inside(cone, lacking, gate):
    """The gate, or a vector farther inside if samples are on the border of its cone."""
    short = lacking > 0
    reach = cone[short] @ gate
    if np.min(reach, initial=np.inf) > _BORDER * np.linalg.norm(gate):
        return gate
    # Unknowns are a vector and its least product with those rows, which is maximised.
    found = linprog(
        np.append(np.zeros(len(gate)), -1.0),
        A_ub=np.column_stack([-cone, short]),
        b_ub=np.zeros(len(cone)),
        bounds=[(-1.0, 1.0)] * len(gate) + [(0.0, None)],
    )
    if found.x is None or found.x[-1] <= _BORDER:
        raise ValueError(
            "The cone of a gate is flat, as the gate goes through samples on opposite "
            "sides: no ReLU neurons have its outputs. Fit with gates drawn for X."
        )
    return found.x[:-1]


def _along_gate(cone, lacking, gate):
    """Least multiple of the gate with ``cone @ q >= lacking``."""
    reach = np.maximum(cone @ gate, 1e-100)
    return np.max(lacking / reach) * gate


def _length(q, w, d):
    """What is to be minimised: biases, behind the weights, have no part in it."""
    return np.linalg.norm(q[:d]) + np.linalg.norm((q + w)[:d])


def _shortest(cone, lacking, w, lift, gate, d):
    """The ``q`` with ``cone @ q >= lacking`` that minimises ``||q + w|| + ||q||``."""
    best = lift
    for _ in range(_SOLVES):
        # In units in which a solution is about one, which a first one tells.
        length = _length(best, w, d)
        q = _solved(cone, lacking / length, w / length, d)
        if q is None:
            break
        q *= length
        # Solvers keep constraints up to a tolerance only.
        q = q + _along_gate(cone, np.maximum(lacking - cone @ q, 0.0), gate)
        if not _length(q, w, d) < _length(best, w, d):
            break
        best = q
        if _length(best, w, d) > 0.5 * length:
            break
    return best


def _solved(cone, lacking, w, d):
    """The same by a conic solver, up to its tolerance, or None."""
    import cvxpy as cp  # slow to import

    q = cp.Variable(len(w))
    problem = cp.Problem(
        cp.Minimize(cp.norm(q[:d]) + cp.norm(q[:d] + w[:d])), [cone @ q >= lacking]
    )
    with warnings.catch_warnings():
        # What comes out is checked, and repaired.
        warnings.simplefilter("ignore")
        try:
            problem.solve(solver="CLARABEL", **_TOLERANCES)
        except cp.SolverError:
            return None
    return q.value


def _balanced(units, weights, d):
    """Weights of both layers with the least sum of squares, and the hidden biases."""
    sizes, masses = (np.linalg.norm(part, axis=1) for part in (units[:, :d], weights))
    products = sizes * masses
    used = products > 1e-15 * products.max(initial=0.0)
    ratio = np.sqrt(masses[used] / sizes[used])[:, None]
    units, weights = units[used] * ratio, weights[used] / ratio
    return [units[:, :d].T, weights], units[:, d:].sum(axis=1)
