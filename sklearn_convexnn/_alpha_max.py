"""The weight decay from which on no neuron is worth its weights."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import svd
from scipy.optimize import linprog
from sklearn.base import clone
from sklearn.utils import check_random_state

from sklearn_convexnn._base import ReLUNetworkMixin, of_outputs
from sklearn_convexnn._preparing import build_problem, canonical, rounding_of_slopes
from sklearn_convexnn._utils.threads import blas_threads_for
from sklearn_convexnn._utils.types import Data
from sklearn_convexnn.families.two_layer.branch_and_bound import maximise_slope
from sklearn_convexnn.families.two_layer.family import TwoLayer
from sklearn_convexnn.families.two_layer.neurons import activation
from sklearn_convexnn.families.two_layer.pricing import search_widely
from sklearn_convexnn.families.two_layer.slope_bounds import (
    both_signs,
    planar_maximisers,
    triangle_bound,
)
from sklearn_convexnn.patterns.gates import gated_arrangement
from sklearn_convexnn.training.proving import node_limit

# Random directions of each kind that the search starts from.
_DIRECTIONS = 300
# How close the bounds have to be, relatively, to be called the same.
_RTOL = 1e-4
# Samples up to which the triangle relaxation, one problem for each, is worth its time.
_TRIANGLES = 200
# Rounds of cutting planes for losses with kinks, and the cuts that each adds.
_ROUNDS, _CUTS = 50, 20


@dataclass(frozen=True)
class AlphaMax:
    """The smallest `alpha` at which the network without neurons is optimal.

    Attributes
    ----------
    value : float
        Slope of the steepest neuron found: for a smaller `alpha` there are better
        networks.
    upper : float
        Proven: from this `alpha` on, the network without neurons is optimal.
    kind : {'global', 'estimated', 'restricted'}
        'global': `value` and `upper` agree to 1e-4, relatively.
        'estimated': between the two the search may have missed a neuron.
        'restricted': both are of gated networks on the sampled patterns.
    """

    value: float
    upper: float
    kind: str


def alpha_max(
    estimator: ReLUNetworkMixin,
    X: Data,
    y: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
) -> AlphaMax:
    r"""Smallest weight decay at which the network without neurons is optimal.

    It is the slope of the steepest neuron at the best constant,

    .. math::
        \alpha_{\max} = \max_{\|u\|_2 \le 1,\, b}
        \Big\| \sum_i \nu_i\, \mathrm{act}(x_i^T u + b) \Big\|_2 ,
        \qquad \nu_i = -\nabla \ell_i(f_0) .

    The problem is as hard as the training problem in general [1]_, and the
    answer therefore comes as two numbers.

    Parameters
    ----------
    estimator : ConvexReLURegressor, ConvexReLUClassifier or gated estimator
        Gives loss, activation, biases, and the seed of the search.  Its `alpha`
        is not used.
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
    sample_weight : array-like of shape (n_samples,), default=None

    Returns
    -------
    found : AlphaMax

    Raises
    ------
    TypeError
        If `estimator` is of another kind, as a pipeline.
    ValueError
        If a parameter of `estimator` is not valid.

    Notes
    -----
    The upper bound is proven by branch and bound for data of rank up to 5 (of
    several outputs with free biases 4) or up to 60 samples, which need not
    succeed within its limit of work, and otherwise from norms and, for up to 200
    samples, the triangle relaxation.  Of data of rank one or two and one output
    it is exact.

    Where the loss has a kink at the constant, ``nu`` is any of the subgradients
    of sum zero, and the steepest slope is minimised over these by cutting planes.

    For gated networks the maximum is over the patterns that the estimator would
    train on, and exact.  'sampled' patterns are not regarded
    otherwise: the value is that of all patterns, and an upper bound.

    References
    ----------
    .. [1] Pilanci, M. and Ergen, T. (2020). "Neural Networks are Convex
       Regularizers: Exact Polynomial-time Convex Optimization Formulations
       for Two-layer Networks". ICML.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_convexnn import ConvexReLURegressor, alpha_max
    >>> X, y = np.array([[0.0], [1.0], [2.0]]), np.array([1.0, 0.0, 1.0])
    >>> found = alpha_max(ConvexReLURegressor(), X, y)
    >>> round(found.value, 6), found.kind
    (0.333333, 'global')
    """
    check_base(estimator, "alpha_max")
    return largest_slope(estimator, X, y, sample_weight)[0]


def check_base(estimator, name):
    """Raise TypeError for estimators that do not train two layers for one `alpha`.

    Parameters
    ----------
    estimator : object
    name : str
        Of the function that needs one.
    """
    suits = _is_a(estimator, "two-layer") or _is_a(estimator, "gated")
    if not (suits and _has_alpha(estimator)):
        kinds = "ConvexReLU... or GatedReLU... estimators with an alpha"
        raise _unsuitable(estimator, name, kinds)


def _is_a(estimator, kind):
    """Whether it is an estimator of an architecture."""
    return isinstance(estimator, ReLUNetworkMixin) and estimator._kind == kind


def _has_alpha(estimator):
    """Whether it does not choose `alpha` itself."""
    return hasattr(estimator, "alpha")


def check_two_layers(estimator, name, one_alpha=False):
    """Raise TypeError for estimators that do not train two-layer ReLU networks.

    Parameters
    ----------
    estimator : object
    name : str
        Of the function that needs one.
    one_alpha : bool, default=False
        Whether it has to have an `alpha`, and not to choose it.
    """
    if not _is_a(estimator, "two-layer"):
        raise _unsuitable(estimator, name, "ConvexReLU... estimators")
    if one_alpha and not _has_alpha(estimator):
        raise _unsuitable(estimator, name, "ConvexReLU... estimators with an alpha")


def _unsuitable(estimator, name, kinds):
    given = estimator.__name__ if isinstance(estimator, type) else estimator
    return TypeError(
        f"{name} needs an instance of the {kinds}, got {given}. Of a pipeline, take "
        "the last step, and transform X."
    )


def largest_slope(estimator, X, y, sample_weight, prove=True):
    """What `alpha_max` returns, and its unit; `upper` is infinite if not to be proven.

    Parameters
    ----------
    estimator, X, y, sample_weight
        As of `alpha_max`.
    prove : bool, default=True

    Returns
    -------
    found : AlphaMax
    unit : float
        Of slopes of these data: a weight decay of this order is one that they can
        tell from zero.
    """
    model = clone(estimator)
    model._validate_params()
    X, Y, sample_weight, loss, _ = model._encoded(X, y, sample_weight)
    X = np.asarray(X.toarray() if hasattr(X, "toarray") else X, np.float64)
    # The value does not depend on `alpha`.
    settings = model._settings(of_outputs(loss), alpha=1.0, seed=model._seed())
    gated = _is_a(model, "gated")
    X, Y, sample_weight = canonical(X, np.asarray(Y, np.float64), sample_weight)
    # What gates need of the problem does not depend on its units.
    settings = replace(settings, family=settings.family or TwoLayer)
    problem, units = build_problem(X, Y, sample_weight, settings)
    complete = True
    with blas_threads_for(len(X)):
        if gated:
            data = X / units.data, sample_weight
            value, complete = _of_gates(*data, problem, settings)
            upper = value
        else:
            value, upper = _of_neurons(problem, settings.seed, prove)
    kind = "global" if upper <= (1.0 + _RTOL) * value else "estimated"
    kind = kind if complete else "restricted"
    return AlphaMax(units.slope * value, units.slope * upper, kind), units.slope


def _of_neurons(problem, seed, prove):
    """Found and proven value."""
    if not np.any(problem.X):
        # All slopes are zero, and there is nothing to search.
        return 0.0, 0.0
    rng, upper = check_random_state(seed), np.inf
    nu, high = _subgradients(problem)
    if np.array_equal(nu, high):
        value = _search(problem, nu, rng)[0]
        if prove:
            value, upper = _prove(problem, nu, value)
    else:
        nu, value = _least_steep(problem, nu, high, rng)
        if prove:
            upper = _prove(problem, nu, value)[1]
    return _above_rounding(problem.X, nu, value, upper)


def _above_rounding(X, N, value, upper):
    """Both values, zero where they are rounding."""
    rounding = rounding_of_slopes(X, N)
    return tuple(0.0 if one <= rounding else one for one in (value, upper))


def _search(problem, N, rng):
    """The largest slope found, and rows whose products with ``N`` are slopes.

    Of data of rank one or two and one output it is the largest of all.
    """
    p = problem
    options = p.family.geometry
    directions, biases = _planar_neurons(p, N, options)
    if not len(directions):
        found = search_widely(p.X, N, _DIRECTIONS, rng, polish=60, **options)
        found = found.select(slice(0, _CUTS))
        directions, biases = found.directions, found.biases
    Z = activation(p.X @ directions.T + biases, p.family.negative_slope)
    if p.fit_intercept:
        # A hyperplane far away: the neuron is linear on the samples.
        linear = p.X.T @ N
        directions = svd(linear, full_matrices=False)[0]
        norms = np.linalg.norm(directions, axis=0)
        Z = np.column_stack([Z, p.X @ (directions / np.maximum(norms, 1e-300))])
    slopes = Z.T @ N
    size = np.linalg.norm(slopes, axis=1)
    weights = slopes / np.maximum(size, 1e-300)[:, None]
    rows = np.einsum("nk,kc->knc", Z, weights).reshape(len(size), -1)
    return float(size.max(initial=0.0)), rows


def _planar_neurons(problem, N, options):
    """Steepest neurons, by the samples on their hyperplanes; none above rank two."""
    p, neurons = problem, []
    if p.n_outputs > 1:
        return np.zeros((0, p.X.shape[1])), np.zeros(0)
    geometry = {key: options[key] for key in ("free_bias", "negative_slope")}
    for parts in both_signs(p.X, N[:, 0], **geometry):
        if parts.rank > 2:
            return np.zeros((0, p.X.shape[1])), np.zeros(0)
        if parts.rank and len(parts.convex):
            # Parts do not tell a direction from its opposite.
            found = planar_maximisers(parts)
            neurons += [parts.neuron(w) for w in (*found, *-found)]
    directions = np.reshape([u for u, _ in neurons], (len(neurons), p.X.shape[1]))
    return directions, np.array([b for _, b in neurons])


def _subgradients(problem):
    """Least and largest dual variables at the best constant."""
    p = problem
    if p.loss.smooth:
        nu = p.null_dual()
        return nu, nu
    f = p.outputs(p.null())
    shift = 1e-9 * max(np.max(np.abs(f)), p.loss.spread(f, p.Y, p.sample_weight))
    return tuple(
        -p.loss.gradient(f + side * shift, p.Y, p.sample_weight) for side in (1, -1)
    )


def _least_steep(problem, low, high, rng):
    """The dual point between two of the smallest slope, and a lower bound of that.

    Cutting planes: the steepest neurons found are the rows of a linear program.
    """
    p, size = problem, low.size
    best, best_slope, bound = p.null_dual(), np.inf, 0.0
    rows, sums = np.zeros((0, size)), np.zeros((0, size + 1))
    if p.fit_intercept:
        n_outputs = size // len(low)
        sums = np.tile(np.eye(n_outputs), len(low))
        sums = np.column_stack([sums, np.zeros(n_outputs)])
    for _ in range(_ROUNDS):
        # Unknowns are ``nu`` and the slope, which is minimised.
        program = linprog(
            np.append(np.zeros(size), 1.0),
            A_ub=np.column_stack([rows, -np.ones(len(rows))]),
            b_ub=np.zeros(len(rows)),
            A_eq=sums,
            b_eq=np.zeros(len(sums)),
            bounds=[*zip(low.ravel(), high.ravel()), (0.0, None)],
        )
        if program.x is None:
            break
        bound, nu = max(bound, program.fun), program.x[:-1].reshape(low.shape)
        slope, found = _search(p, nu, rng)
        if slope < best_slope:
            best, best_slope = nu, slope
        if best_slope <= (1.0 + _RTOL) * bound:
            break
        rows = np.concatenate([rows, found])
    return best, min(bound, best_slope)


def _prove(problem, N, slope):
    """The largest slope known, and a proven upper bound of all."""
    p = problem
    geometry = p.family.geometry
    rtol = 0.5 * _RTOL
    found = maximise_slope(
        p.X,
        N,
        **geometry,
        target=(1.0 + rtol) * slope,
        rtol=rtol,
        max_nodes=node_limit(p),
    )
    slope = max(slope, found.lower)
    upper = max(slope, found.upper)
    wide = upper > (1.0 + _RTOL) * slope
    if wide and len(p.X) <= _TRIANGLES and p.n_outputs == 1:
        upper = min(upper, triangle_bound(p.X, N[:, 0], **geometry))
    return slope, max(slope, upper)


def _of_gates(X, sample_weight, problem, settings):
    """The value for gates, a maximum of norms, and whether these are all."""
    arrangement, _ = gated_arrangement(X, sample_weight, settings, None)
    N = problem.null_dual()
    slope = max(
        float(np.linalg.norm(X.T @ (N * active[:, None]), 2))
        for active in arrangement.patterns
    )
    return _above_rounding(X, N, slope, slope)[0], arrangement.complete
