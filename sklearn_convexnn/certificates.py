"""How far a network can be from the best one: dual bounds and gaps.

For a network with outputs ``f`` and objective ``F`` put ``nu = -grad L(f)``
and ``kappa(nu) = max |nu^T act(X u)|`` over unit vectors ``u``.  Then
``G(t nu) <= F* <= F`` for the best objective ``F*`` of any width and every
``t`` in the domain with ``t kappa <= alpha``.  The same holds for every other
``nu`` in the domain, and the best one comes from training.
"""

from dataclasses import dataclass
from numbers import Integral, Real
from time import perf_counter

import numpy as np
from sklearn.utils import (
    check_array,
    check_consistent_length,
    check_random_state,
    compute_class_weight,
)
from sklearn.utils.validation import _check_sample_weight

from sklearn_convexnn._base import _canonical
from sklearn_convexnn._threads import blas_threads_for
from sklearn_convexnn.arrangements import without_rounding
from sklearn_convexnn.losses import make_loss
from sklearn_convexnn.network_bounds import GivenNetwork, lower_bound
from sklearn_convexnn.network_input import read_network, read_targets


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
    kind : {'global', 'estimated', 'restricted'}
        'global': the bound is proven for every network of every width.
        'estimated': it holds for every network of every width, if the search
        for the steepest neuron has not missed it.
        'restricted': it holds for the networks whose neurons have the sampled
        activation patterns or those of the network itself, and says nothing
        about the others.
    kappa : float
        Largest slope that adding a neuron can have at the network, divided by
        ``alpha``: one at an optimum, more where a neuron is missing.  A
        proven upper bound of it if `kind` is 'global', that of the steepest
        neuron found if it is 'estimated'.
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
    tol=1e-2,
    max_time=None,
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

    For a network of one output `certify` trains for the optimum of this
    objective, to a relative gap of `tol`.  So it does not matter how good the
    network is: ``dual_gap`` is its distance from the best network of any
    width, and too large by at most `tol` times the optimum.  This holds for
    the kinds 'global' and 'estimated' of a certificate by default, and not
    for a proof that is insisted on where the data are too large for it.

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
    kind : {'auto', 'global', 'estimated', 'restricted'}, default='auto'
        'global' asks for a proven bound over all networks.  It is within
        `tol` of the optimum for data of special structure (see Notes), of few
        activation patterns, or for which branch and bound closes, and may be
        far from it otherwise.
        'estimated' asks for a bound over all networks that rests on a search
        for the steepest neuron, without a proof.
        'restricted' bounds over the networks on sampled patterns and those of
        `network`; if these are all patterns, the result is 'global'.
        'auto' is 'global' if that can be within `tol`, otherwise 'estimated'.
    tol : float, default=1e-2
        Relative gap to which the optimum is known when training for it ends.
    max_time : float, default=None
        Seconds after which training for the optimum ends, with the bound
        that it has.  By default there is no limit.
    n_arrangements : int, default=100
        Number of patterns to sample for 'restricted'.
    random_state : int, RandomState instance or None, default=None
        For the search for neurons and the sampling of patterns.

    Returns
    -------
    certificate : Certificate

    Raises
    ------
    ValueError
        If `network` is not a two-layer network with a supported activation
        and loss, or does not fit the data.

    Warns
    -----
    ConvergenceWarning
        If training for the optimum stops short of `tol`.  The bound is valid
        nevertheless.

    Notes
    -----
    With one output there are two dual points, that of the network itself and
    that of the optimum, and the better bound is kept.  The optimum comes from
    the convex program over all patterns if there are at most 2000, and
    200 000 patterns times samples; from the structure of the data, for one
    feature or others of rank one, and for orthogonal samples; and otherwise
    from column generation that starts at the neurons of the network.  Branch
    and bound over the missing neuron is attempted for at most 60 distinct
    samples or data of rank at most 5.  Where it does not close, all patterns
    are visited, if there are at most 20 000, and 10 million patterns times
    samples; beyond that, 'global' takes the best of some relaxations.

    With several outputs the competitors share a hidden layer under plain
    weight decay, and the slope of the outputs together is bounded by the root
    of the sum of squares of theirs, at the dual point of the network.  This
    bound is weak unless the network is close to an optimum.

    References
    ----------
    .. [1] Pilanci, M. and Ergen, T. (2020). "Neural Networks are Convex
       Regularizers". ICML. Section 3 and Appendix (dual program).
    .. [2] Ergen, T. and Pilanci, M. (2021). "Convex Geometry and Duality of
       Over-parameterized Neural Networks". JMLR 22. Section 6 (cutting planes).

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
    deadline = perf_counter()
    coefs, intercepts, loss, fit_intercept, negative_slope = read_network(
        network, loss, fit_intercept, negative_slope
    )
    epsilon = getattr(network, "epsilon", 1.35) if epsilon is None else epsilon
    max_time = np.inf if max_time is None else max_time
    for name, value, most in (
        ("alpha", alpha, np.finfo(float).max),
        ("epsilon", epsilon, np.finfo(float).max),
        ("tol", tol, 1.0),
        ("max_time", max_time, np.inf),
    ):
        if not (isinstance(value, Real) and 0 < value <= most):
            limit = " of at most 1" if most == 1 else ""
            raise ValueError(f"{name} must be a positive number{limit}, got {value!r}.")
    deadline += max_time
    if not (isinstance(n_arrangements, Integral) and n_arrangements >= 1):
        raise ValueError(
            f"n_arrangements must be a positive integer, got {n_arrangements!r}."
        )
    if kind not in ("auto", "global", "estimated", "restricted"):
        raise ValueError(
            f"kind must be 'auto', 'global', 'estimated' or 'restricted', got {kind!r}."
        )
    X = check_array(X, accept_sparse="csr", dtype=np.float64)
    if hasattr(X, "toarray"):
        X = X.toarray()
    check_consistent_length(X, y)
    weight = _check_sample_weight(
        sample_weight, X, dtype=np.float64, ensure_non_negative=True
    )
    Y = read_targets(network, loss, y, n_outputs=coefs[1].shape[1])
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

    if Y.shape[1] == 1:
        X, y, weight = _canonical(X, Y[:, 0], weight)
        Y = y[:, None]
    else:
        used = weight > 0
        X, Y, weight = X[used], Y[used], weight[used]
    if fit_intercept:
        # Free biases absorb the shift; without it, less is lost to rounding.
        centre = X.mean(axis=0)
        X, intercepts[0] = X - centre, intercepts[0] + centre @ coefs[0]
    given = GivenNetwork(
        without_rounding(X),
        Y,
        weight,
        make_loss(loss, epsilon),
        float(alpha),
        fit_intercept,
        negative_slope,
        coefs,
        intercepts,
    )
    with blas_threads_for(len(X)):
        objective = given.objective()
        bound = lower_bound(
            given,
            kind,
            tol=tol,
            deadline=deadline,
            n_arrangements=n_arrangements,
            rng=check_random_state(random_state),
        )
    return Certificate(
        objective=float(objective),
        dual_bound=float(bound.value),
        dual_gap=float(objective - bound.value),
        kind=bound.kind,
        kappa=float(bound.kappa),
        n_patterns=bound.n_patterns,
    )
