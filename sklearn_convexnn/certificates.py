"""How far a network can be from the best one: dual bounds and gaps.

For a network with outputs ``f`` and objective ``F`` put ``nu = -grad L(f)``
and ``kappa(nu) = max |nu^T act(X u)|`` over unit vectors ``u``.  Then
``G(t nu) <= F* <= F`` for the best objective ``F*`` of any width and every
``t`` in the domain with ``t kappa <= alpha``.
"""

from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
from scipy.optimize import nnls
from sklearn.utils import (
    check_array,
    check_consistent_length,
    column_or_1d,
    compute_class_weight,
)
from sklearn.utils.validation import _check_sample_weight

from sklearn_convexnn.arrangements import (
    can_enumerate,
    enumerate_arrangement,
    network_arrangement,
    sample_arrangement,
    union,
    with_ones,
    without_rounding,
)
from sklearn_convexnn.losses import (
    CLASSIFICATION_LOSSES,
    REGRESSION_LOSSES,
    make_loss,
)
from sklearn_convexnn.problem import best_scaled_value
from sklearn_convexnn.programs.two_layer import TwoLayerProgram
from sklearn_convexnn.recovery import activation
from sklearn_convexnn.slope_bounds import norm_bound
from sklearn_convexnn.solvers import null_result, solve_interior_point


@dataclass(frozen=True)
class Certificate:
    """Objective of a network with a lower bound of the best one.

    Attributes
    ----------
    objective : float
        Objective of the network: sum of the weighted losses plus
        ``alpha / 2`` times the sum of the squared weights.
    dual_bound : float
        No network in the scope of `kind` has a smaller objective.
    dual_gap : float
        ``objective - dual_bound``, in the units of the objective.
    kind : {'global', 'restricted'}
        'global': the bound holds for every network of every width.
        'restricted': it holds for the networks whose neurons have the sampled
        activation patterns or those of the network itself, and says nothing
        about the others.
    kappa : float
        Largest slope that adding a neuron can have at the network (or a proven
        upper bound of it), divided by ``alpha``: one at an optimum, more where
        a neuron is missing.
    n_patterns : int
        Number of activation patterns that were checked; 0 if the bound needs
        none.
    """

    objective: float
    dual_bound: float
    dual_gap: float
    kind: str
    kappa: float
    n_patterns: int


def cone_slopes(X, nu, arrangement, *, free_bias=False, negative_slope=0.0):
    r"""Largest slope of the dual function in each cell.

    ``max nu^T act(X u)`` and ``max -nu^T act(X u)`` over the unit vectors
    ``u`` of a cell: the norm of the projection of :math:`\pm X^T E_i \nu` on
    its cone, a non-negative least squares problem per cell and sign.  With
    `free_bias` the offset of ``u`` is free and ``nu`` has to sum to zero.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    nu : ndarray of shape (n_samples,)
    arrangement : Arrangement
    free_bias : bool, default=False
    negative_slope : float, default=0.0

    Returns
    -------
    slopes : ndarray of shape (n_patterns, 2)
        Upper bounds that are tight to rounding.
    """
    rows = with_ones(X, free_bias)
    d = X.shape[1]
    masks = np.where(arrangement.patterns, 1.0, negative_slope)
    signs = np.where(arrangement.patterns, 1.0, -1.0)
    gradients = (masks * nu) @ rows
    slopes = np.empty((len(masks), 2))
    # The offset is an equality; a large weight makes least squares honour it.
    weight = np.ones(rows.shape[1])
    if free_bias:
        weight[-1] = 1e4 * max(1.0, np.abs(X).max(initial=0.0))
    for i, (sign, gradient) in enumerate(zip(signs, gradients)):
        constraints = (rows * sign[:, None]).T
        mixed = sign.min() < sign.max()
        for j, g in enumerate((gradient, -gradient)):
            rho = np.zeros(len(X))
            if d and (mixed or not free_bias):
                rho, _ = nnls(constraints * weight[:, None], -g * weight)
            slope = g + constraints @ rho
            if free_bias and mixed:
                against = sign * slope[-1] < 0
                slope = slope + constraints @ (
                    against * np.abs(slope[-1]) / max(against.sum(), 1)
                )
            slopes[i, j] = np.linalg.norm(slope[:d])
    return slopes


def certify(
    network,
    X,
    y,
    *,
    alpha,
    loss=None,
    epsilon=None,
    sample_weight=None,
    fit_intercept=None,
    negative_slope=None,
    kind="auto",
    n_arrangements=100,
    random_state=None,
):
    r"""Bound how far any two-layer network is from the best one.

    The network may come from anywhere: an :class:`MLPRegressor
    <sklearn.neural_network.MLPRegressor>`, an estimator of this package, or
    plain arrays.  Its objective is

    .. math::
        \sum_i s_i\, \ell(f(x_i), y_i)
        + \tfrac{\alpha}{2} \sum (\text{all weights})^2,

    with free biases, or none.  This is what scikit-learn's MLP minimises with
    the same `alpha` if it has one output and a full-batch solver; with ``c``
    outputs and squared error its `alpha` is ours divided by ``c``.

    Parameters
    ----------
    network : estimator or tuple (coefs, intercepts)
        Fitted estimator with ``coefs_`` and ``intercepts_``, or the two lists:
        ``coefs[0]`` of shape (n_features, n_neurons), ``coefs[1]`` of shape
        (n_neurons, n_outputs), ``intercepts[0]`` of shape (n_neurons,) and
        ``intercepts[1]`` of shape (n_outputs,).
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Targets; for classification losses labels of two classes (of more, with
        an estimator that is one-vs-rest).
    alpha : float
        Weight decay, positive.
    loss : {'squared_error', 'huber', 'log_loss', 'squared_hinge', 'hinge'} or None
        By default the loss of `network`, or 'squared_error' for arrays.
    epsilon : float, default=None
        Threshold of the Huber loss; by default that of `network`, or 1.35.
    sample_weight : array-like of shape (n_samples,), default=None
        Multiplied with the class weights of `network`, if it has any.
    fit_intercept : bool, default=None
        Whether the networks compared with have free biases.  By default that
        of `network`, or True if it has no such parameter.
    negative_slope : float, default=None
        Slope of the activation left of zero; by default that of `network`, or
        0.0 (ReLU).
    kind : {'auto', 'global', 'restricted'}, default='auto'
        'global' asks for a bound over all networks: from all activation
        patterns if they can be enumerated (at most 20000 of them, and 10
        million patterns times samples), otherwise from a proven but weak
        estimate.  'restricted' bounds over the networks on sampled patterns
        and those of `network`.  'auto' is exact if it can be, otherwise
        'restricted'.
    n_arrangements : int, default=100
        Number of patterns to sample for 'restricted'.
    random_state : int, RandomState instance or None, default=None

    Returns
    -------
    certificate : Certificate

    Raises
    ------
    ValueError
        If `network` is not a two-layer network with a supported activation
        and loss, or does not fit the data.

    Notes
    -----
    The bound comes from the dual point of the network itself or, for one
    output, from the convex program over the patterns, whichever is better.

    With several outputs the competitors share a hidden layer under plain
    weight decay, and the slope of the outputs together is bounded by the root
    of the sum of squares of theirs.  This bound is weak unless the network is
    close to an optimum.

    References
    ----------
    .. [1] Pilanci, M. and Ergen, T. (2020). "Neural Networks are Convex
       Regularizers". ICML. Section 3 and Appendix (dual program).

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> from sklearn.neural_network import MLPRegressor
    >>> from sklearn_convexnn import certify
    >>> X, y = make_regression(30, 2, noise=20, random_state=0)
    >>> y = y / y.std()
    >>> mlp = MLPRegressor(alpha=2.0, solver="lbfgs", random_state=0).fit(X, y)
    >>> certificate = certify(mlp, X, y, alpha=2.0)
    >>> certificate.kind
    'global'
    >>> bool(certificate.dual_bound <= certificate.objective)
    True
    """
    coefs, intercepts, loss, fit_intercept, negative_slope = _read_network(
        network, loss, fit_intercept, negative_slope
    )
    if not (isinstance(alpha, Real) and 0 < alpha < np.inf):
        raise ValueError(f"alpha must be a positive number, got {alpha!r}.")
    epsilon = getattr(network, "epsilon", 1.35) if epsilon is None else epsilon
    if not (isinstance(epsilon, Real) and 0 < epsilon < np.inf):
        raise ValueError(f"epsilon must be a positive number, got {epsilon!r}.")
    if not (isinstance(n_arrangements, Integral) and n_arrangements >= 1):
        raise ValueError(
            f"n_arrangements must be a positive integer, got {n_arrangements!r}."
        )
    if kind not in ("auto", "global", "restricted"):
        raise ValueError(
            f"kind must be 'auto', 'global' or 'restricted', got {kind!r}."
        )
    X = check_array(X, accept_sparse="csr", dtype=np.float64)
    if hasattr(X, "toarray"):
        X = X.toarray()
    check_consistent_length(X, y)
    weight = _check_sample_weight(
        sample_weight, X, dtype=np.float64, ensure_non_negative=True
    )
    Y = _targets(network, loss, y, n_outputs=coefs[1].shape[1])
    if X.shape[1] != coefs[0].shape[0]:
        raise ValueError(
            f"X has {X.shape[1]} features, but the network has {coefs[0].shape[0]}."
        )
    class_weight = getattr(network, "class_weight", None)
    if class_weight is not None:
        labels = np.asarray(y).ravel()
        per_class = compute_class_weight(
            class_weight, classes=network.classes_, y=labels, sample_weight=weight
        )
        weight = weight * per_class[np.searchsorted(network.classes_, labels)]
    loss = make_loss(loss, epsilon)

    used = weight > 0
    X, Y, weight = X[used], Y[used], weight[used]
    if fit_intercept:
        # Free biases absorb the shift; without it, less is lost to rounding.
        centre = X.mean(axis=0)
        X, intercepts[0] = X - centre, intercepts[0] + centre @ coefs[0]
    X = without_rounding(X)
    hidden = activation(X @ coefs[0] + intercepts[0], negative_slope)
    F = hidden @ coefs[1] + intercepts[1]
    penalty = 0.5 * alpha * sum(float(np.sum(coef**2)) for coef in coefs)
    objective = penalty + sum(loss.value(f, t, weight) for f, t in zip(F.T, Y.T))

    geometry = {"free_bias": fit_intercept, "negative_slope": negative_slope}
    arrangement, kind = _arrangement(
        X, coefs[0], intercepts[0], kind, n_arrangements, fit_intercept, random_state
    )
    bound, kappa = -np.inf, np.inf
    for nus in _dual_candidates(loss, F, Y, weight, fit_intercept):
        if arrangement is None:
            slopes = [norm_bound(X, nu, **geometry) for nu in nus]
        else:
            slopes = [
                cone_slopes(X, nu, arrangement, **geometry).max(initial=0.0)
                for nu in nus
            ]
        total = float(np.linalg.norm(slopes))
        reach = alpha / total if total > 0 else np.inf
        value = best_scaled_value(loss, nus, Y, weight, reach)
        if value > bound:
            bound, kappa = value, total / alpha
    if arrangement is not None and Y.shape[1] == 1:
        # The network's own dual point may be far from the best one.
        program = TwoLayerProgram(
            X,
            Y[:, 0],
            weight,
            loss,
            alpha,
            arrangement,
            fit_intercept=fit_intercept,
            negative_slope=negative_slope,
        )
        solve = solve_interior_point if program.can_improve else null_result
        bound = max(bound, solve(program).dual_bound)
    return Certificate(
        objective=float(objective),
        dual_bound=float(bound),
        dual_gap=float(objective - bound),
        kind=kind,
        kappa=float(kappa),
        n_patterns=0 if arrangement is None else len(arrangement),
    )


def _read_network(network, loss, fit_intercept, negative_slope):
    """Weights of `network`, and what it says of loss, bias and activation."""
    if hasattr(network, "coefs_"):
        coefs, intercepts = network.coefs_, network.intercepts_
        used = getattr(network, "activation", "relu")
        if used != "relu":
            raise ValueError(
                f"certify needs a ReLU network, but network has activation={used!r}."
            )
        if loss is None:
            loss = getattr(network, "loss", "squared_error")
        if fit_intercept is None:
            fit_intercept = getattr(network, "fit_intercept", True)
        if negative_slope is None:
            negative_slope = getattr(network, "negative_slope", 0.0)
        if loss == "log_loss" and getattr(network, "out_activation_", "") == "softmax":
            raise ValueError(
                "certify has no bound for the softmax loss of a multiclass network; "
                "certify one binary network per class instead."
            )
    else:
        if not (isinstance(network, (tuple, list)) and len(network) == 2):
            raise ValueError(
                "network must be a fitted estimator with coefs_ and intercepts_, or "
                f"a tuple (coefs, intercepts), got {type(network).__name__}. Of a "
                "pipeline, take the last step, and transform X."
            )
        coefs, intercepts = network
    loss = "squared_error" if loss is None else loss
    if loss not in REGRESSION_LOSSES + CLASSIFICATION_LOSSES:
        raise ValueError(
            f"certify has no bound for loss={loss!r}; it has for "
            f"{REGRESSION_LOSSES + CLASSIFICATION_LOSSES}."
        )
    if len(coefs) != 2 or len(intercepts) != 2:
        raise ValueError(
            "certify needs a network with one hidden layer (two weight matrices), "
            f"but network has {len(coefs)} weight matrices."
        )
    coefs = [np.asarray(coef, dtype=np.float64) for coef in coefs]
    intercepts = [np.asarray(bias, dtype=np.float64).ravel() for bias in intercepts]
    if coefs[1].ndim == 1:
        coefs[1] = coefs[1][:, None]
    if (
        coefs[0].ndim != 2
        or coefs[1].shape[0] != coefs[0].shape[1]
        or len(intercepts[0]) != coefs[0].shape[1]
        or len(intercepts[1]) != coefs[1].shape[1]
    ):
        raise ValueError(
            "the shapes of the network's weights do not fit together: coefs "
            f"{[c.shape for c in coefs]}, intercepts {[b.shape for b in intercepts]}."
        )
    if not all(np.all(np.isfinite(part)) for part in coefs + intercepts):
        raise ValueError("the weights of the network must be finite.")
    fit_intercept = True if fit_intercept is None else bool(fit_intercept)
    negative_slope = 0.0 if negative_slope is None else float(negative_slope)
    if not -1 <= negative_slope < 1:
        raise ValueError(f"negative_slope must be in [-1, 1), got {negative_slope!r}.")
    if not fit_intercept and any(np.any(bias != 0) for bias in intercepts):
        raise ValueError(
            "fit_intercept=False compares with networks without biases, but the "
            "network has non-zero intercepts; use fit_intercept=True."
        )
    return coefs, intercepts, loss, fit_intercept, negative_slope


def _targets(network, loss, y, n_outputs):
    """Targets of shape (n_samples, n_outputs), -1 and +1 for classification."""
    if loss in REGRESSION_LOSSES:
        Y = check_array(y, ensure_2d=False, dtype=np.float64)
        Y = Y.reshape(len(Y), -1)
    else:
        y = column_or_1d(y)
        classes = getattr(network, "classes_", np.unique(y))
        if not np.isin(y, classes).all():
            raise ValueError(
                f"y has labels that the network does not know; it knows {classes}."
            )
        if n_outputs == 1 and len(classes) != 2:
            raise ValueError(
                f"loss={loss!r} with one output needs two classes, got {len(classes)}."
            )
        positive = classes[1:] if n_outputs == 1 else classes
        Y = np.where(y[:, None] == positive, 1.0, -1.0)
    if Y.shape[1] != n_outputs:
        raise ValueError(
            f"y has {Y.shape[1]} outputs, but the network has {n_outputs}."
        )
    return Y


def _arrangement(X, W, b, kind, n_arrangements, free_bias, random_state):
    """Patterns to check (None: use a bound that needs none) and the kind."""
    if kind != "restricted":
        if can_enumerate(X, free_bias=free_bias):
            arrangement = enumerate_arrangement(X, free_bias=free_bias)
            if arrangement.complete:
                return arrangement, "global"
        if kind == "global":
            return None, "global"
    gates = np.column_stack([W.T, b]) if free_bias else W.T
    arrangement = union(
        network_arrangement(X, gates, free_bias=free_bias),
        sample_arrangement(
            X, n_arrangements, free_bias=free_bias, random_state=random_state
        ),
    )
    return arrangement, "global" if arrangement.complete else "restricted"


def _dual_candidates(loss, F, Y, weight, centred):
    """Dual points of the network, one list of ``nu`` per candidate.

    Without a gradient (hinge) any point of the domain gives a valid bound;
    those of smoothed losses are tried.
    """
    if centred:
        F = F + [loss.best_offset(f, t, weight) for f, t in zip(F.T, Y.T)]
    widths = (0.0,) if loss.smooth else (0.0, 1e-2, 0.1, 0.5)
    for width in widths:
        nus = []
        for f, t in zip(F.T, Y.T):
            if width == 0:
                nu = -loss.gradient(f, t, weight)
            else:
                nu = weight * t * np.clip(0.5 + (1.0 - t * f) / width, 0.0, 1.0)
            nus.append(loss.project_dual(nu, t, weight, centred=centred))
        yield nus
