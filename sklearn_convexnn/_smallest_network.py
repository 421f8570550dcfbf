"""The smallest network that the tolerance of a fitted estimator allows."""

from functools import partial

from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from sklearn_convexnn._alpha_max import check_two_layers
from sklearn_convexnn._base import Neighbour
from sklearn_convexnn._utils.types import Data
from sklearn_convexnn.training.smallest import shrink
from sklearn_convexnn.two_layer import TwoLayerMixin

# What does not change with the size of a network.
_KEPT = ("dual_bound_", "certificate_", "history_", "n_iter_", "n_arrangements_")


def smallest_network(
    estimator: TwoLayerMixin,
    X: Data,
    y: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
) -> TwoLayerMixin:
    """Search for a network with fewer neurons that is within `tol` of the optimum.

    Neurons are left out or merged, and the others adjusted, as long as the gap stays
    within ``tol * objective_``, so a loose `tol` trades accuracy for size.  If the
    gap is larger already, the objective does not rise.  To find the smallest network
    of all is NP-hard; this is the smallest found [1]_.

    Parameters
    ----------
    estimator : ConvexReLURegressor or ConvexReLUClassifier
        Fitted; also with `alpha` by cross-validation.  Its `tol`, `max_time` and
        `verbose` are used.
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
        The data that it was fitted on.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
    sample_weight : array-like of shape (n_samples,), default=None

    Returns
    -------
    smaller : ConvexReLURegressor or ConvexReLUClassifier
        Fitted, with `alpha` as a number and the `dual_bound_` of `estimator`.

    Raises
    ------
    TypeError
        If `estimator` is of another kind, as a pipeline.
    ValueError
        If the data are not those of the fit, or a parameter of `estimator` is no
        longer valid.

    See Also
    --------
    ConvexReLURegressor : Its `max_neurons` limits the neurons from the start.

    References
    ----------
    .. [1] Mishkin, A. and Pilanci, M. (2023). "Optimal Sets and Solution Paths
       of ReLU Networks". ICML. Section 4 (pruning).

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn_convexnn import ConvexReLURegressor, smallest_network
    >>> X, y = load_diabetes(return_X_y=True)
    >>> X, y = X / X.std(axis=0), (y - y.mean()) / y.std()
    >>> model = ConvexReLURegressor(alpha=20, random_state=0).fit(X, y)
    >>> smaller = smallest_network(model, X, y)
    >>> smaller.n_neurons_ < model.n_neurons_
    True
    >>> bool(smaller.dual_gap_ <= 1e-2 * smaller.objective_)
    True
    """
    check_two_layers(estimator, "smallest_network")
    # Also of `alpha`, which the copy that is trained has from the fit.
    estimator._validate_params()
    check_is_fitted(estimator)
    smaller = estimator._unfitted().set_params(alpha=estimator.alpha_)
    smaller._fit_between(
        X,
        y,
        sample_weight,
        [Neighbour(estimator, None)],
        method=partial(shrink, model=estimator),
    )
    for name in _KEPT:
        setattr(smaller, name, getattr(estimator, name))
    smaller.dual_gap_ = smaller.objective_ - smaller.dual_bound_
    return smaller
