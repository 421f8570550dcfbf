"""Numbers that get out of hand: what is caught, so that no fit is lost."""

import numpy as np
from scipy.linalg import LinAlgError, svd

BREAKDOWNS = (ArithmeticError, LinAlgError)
"""Of a factorisation, a division or an overflow; caught where there is a way on."""


def check_finite(*arrays):
    """Raise FloatingPointError if an array has entries that are not finite."""
    if not all(np.all(np.isfinite(array)) for array in arrays):
        raise FloatingPointError("a step has given numbers that are not finite")


def unless_broken(otherwise, function, *args, **options):
    """The value of a function, or `otherwise` if it breaks down.

    Parameters
    ----------
    otherwise : object
    function : callable
        Numbers that are not finite raise no warnings in it.
    *args, **options
        Its arguments.

    Returns
    -------
    value : object
    """
    try:
        with np.errstate(all="ignore"):
            return function(*args, **options)
    except BREAKDOWNS:
        return otherwise


def row_space(X):
    """Orthonormal basis of the row space of `X`, as columns.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)

    Returns
    -------
    basis : ndarray of shape (n_features, rank)
        The identity, which is always a basis, if no other can be computed.
    """
    try:
        _, singular, Vt = svd(X, full_matrices=False, check_finite=False)
    except LinAlgError:
        return np.eye(X.shape[1])
    rank = int(np.sum(singular > 1e-12 * max(singular[0], 1e-300)))
    return Vt[:rank].T


def furthest(alpha, kappa):
    """How far a dual point may be stretched whose steepest slope is `kappa`.

    Parameters
    ----------
    alpha, kappa : float

    Returns
    -------
    factor : float
        Zero, where every dual point is valid, if `kappa` is not a number.
    """
    if np.isnan(kappa):
        return 0.0
    return alpha / kappa if kappa > 0 else np.inf
