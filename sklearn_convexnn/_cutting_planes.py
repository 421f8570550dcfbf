"""Training by cutting planes, for the study of the method."""

from functools import partial
from typing import Literal

from numpy.typing import ArrayLike
from sklearn.base import clone

from sklearn_convexnn._alpha_max import check_two_layers
from sklearn_convexnn._sklearn import StrOptions, check_parameters
from sklearn_convexnn._utils.types import Data
from sklearn_convexnn.training.cutting_planes import train_by_cuts
from sklearn_convexnn.two_layer import TwoLayerMixin

_CONSTRAINTS = {
    "cuts": [StrOptions({"neurons", "cells"})],
    "pricing": [
        StrOptions({"exact", "search", "triangle", "semidefinite", "nonnegative"})
    ],
}


def cutting_planes(
    estimator: TwoLayerMixin,
    X: Data,
    y: ArrayLike,
    *,
    cuts: Literal["neurons", "cells"] = "neurons",
    pricing: str = "exact",
    sample_weight: ArrayLike | None = None,
) -> TwoLayerMixin:
    """Train a network of one output by cutting planes, with what bounds its slopes.

    Starting from nothing, each round adds the steepest neurons, one of each sign, and
    solves the problem over those that are there [1]_.  It is a method to study on
    small data; ``fit`` with the default `arrangements` is faster.

    Parameters
    ----------
    estimator : ConvexReLURegressor or ConvexReLUClassifier
        Its parameters but `arrangements`, `n_arrangements` and `solver` are used.
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
    y : array-like of shape (n_samples,)
    cuts : {'neurons', 'cells'}, default='neurons'
        What each round adds: the neurons alone, or all neurons of their patterns,
        which takes fewer rounds.
    pricing : str, default='exact'
        How the steepest neuron is found and its slope bounded: 'exact', 'search',
        'triangle', 'semidefinite' or 'nonnegative'.  'exact' is branch and
        bound, with a limit of work of some seconds per round; for data of low
        rank or few samples.  'search' is local search, and the bound an estimate.
        'triangle' and 'semidefinite' search in the same way and take the bound
        from a relaxation, which is proven but can leave a gap that does not
        close.  'nonnegative' looks only at neurons that are active on all
        samples, a convex problem, and the network is optimal among networks of
        these.
    sample_weight : array-like of shape (n_samples,), default=None

    Returns
    -------
    model : ConvexReLURegressor or ConvexReLUClassifier
        A fitted copy of `estimator`.  Its `history_` has an entry for each round:
        'kappa' is the bound of the steepest slope divided by `alpha`, 'blocks' the
        number of cuts.  `certificate_` is 'global' for every `pricing` that proves
        its bound, however large the gap, 'estimated' for 'search', and 'restricted'
        for 'nonnegative', unless a relaxation shows that no other neuron matters.

    Raises
    ------
    TypeError
        If `estimator` is of another kind, as a pipeline, or chooses its `alpha`.
    ValueError
        If a parameter is not as described, also one of `estimator`, or there are
        several outputs.

    Warns
    -----
    ConvergenceWarning
        If the gap is larger than `tol` allows.

    References
    ----------
    .. [1] Ergen, T. and Pilanci, M. (2021). "Convex Geometry and Duality of
       Over-parameterized Neural Networks". JMLR 22. Section 6.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_convexnn import ConvexReLURegressor, cutting_planes
    >>> X = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 2.0], [2.0, 1.0]])
    >>> y = np.array([0.0, 1.0, -1.0, 1.0])
    >>> model = cutting_planes(ConvexReLURegressor(0.1, random_state=0), X, y)
    >>> model.certificate_
    'global'
    """
    check_two_layers(estimator, "cutting_planes", one_alpha=True)
    check_parameters(_CONSTRAINTS, {"cuts": cuts, "pricing": pricing}, "cutting_planes")
    # Also of `arrangements`, which the copy that is trained does not have.
    estimator._validate_params()
    method = partial(train_by_cuts, cuts=cuts, pricing=pricing)
    model = clone(estimator).set_params(arrangements="adaptive")
    model._fit_by(X, y, sample_weight, method=method, arrangements="cutting_planes")
    return model.set_params(arrangements=estimator.arrangements)
