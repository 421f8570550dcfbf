"""Numbers that get out of hand: what is caught, so that no fit is lost."""

import numpy as np
from scipy.linalg import LinAlgError, qr, svd
from scipy.optimize import brentq, lsq_linear, nnls

BREAKDOWNS = (ArithmeticError, LinAlgError)
"""Of a factorisation, a division or an overflow; caught where there is a way on."""
# Slope along a column, relative to the sizes of it and of what is fitted, that is
# rounding.
_OPTIMAL = 1e-9


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
        The identity, which spans it as well, if no other can be computed or columns
        of very different sizes would be lost in the rounding of the largest.
    """

    def triangle(matrix):
        return qr(matrix, mode="r", check_finite=False)[0][: min(matrix.shape)]

    def rank_of(singular):
        return int(np.sum(singular > 1e-12 * max(singular[0], 1e-300)))

    try:
        # The decomposition of a triangle of the same row space takes less time.
        if len(X) >= X.shape[1]:
            Q, R = None, triangle(X).T
        else:
            Q, R = qr(X.T, mode="economic", check_finite=False)
        U, singular, _ = svd(R, full_matrices=False, check_finite=False)
        rank = rank_of(singular)
        if rank == X.shape[1]:
            return U
        sizes = np.linalg.norm(X, axis=0)
        scaled = X / np.where(sizes > 0, sizes, 1.0)
        scaled = scaled if Q is None else scaled.T
        whole = svd(triangle(scaled), compute_uv=False, check_finite=False)
        if rank_of(whole) == rank:
            return U[:, :rank] if Q is None else Q @ U[:, :rank]
    except LinAlgError:
        pass
    return np.eye(X.shape[1])


def off_centre(Z):
    """Means of the columns that hardly vary around them, zero for the others.

    A free constant makes up for them, and without them such columns, as of neurons
    with a large bias that are active everywhere, are of the size of the others.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, n_columns)

    Returns
    -------
    means : ndarray of shape (n_columns,)
    """
    means = Z.mean(axis=0)
    return np.where(np.abs(means) > 10.0 * Z.std(axis=0), means, 0.0)


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


def least_squares(A, b, **options):
    """SciPy's `nnls`, whose failures are those of other factorisations.

    Where many columns are equally good, `nnls` of SciPy up to 1.17 may return what is
    not optimal, with a distance that is not its own.  Such results are replaced.

    Parameters
    ----------
    A : ndarray of shape (n_rows, n_columns)
    b : ndarray of shape (n_rows,)
    **options
        Of `nnls`.

    Returns
    -------
    x : ndarray of shape (n_columns,)
        Non-negative.
    distance : float
        Of ``A x`` and `b`.
    """
    check_finite(A, b)
    try:
        x, _ = nnls(A, b, **options)
    except RuntimeError as error:
        raise LinAlgError(str(error)) from error
    rest = b - A @ x
    slopes, sizes = A.T @ rest, np.linalg.norm(A, axis=0) * np.linalg.norm(b)
    if np.any(np.where(x > 0, np.abs(slopes), slopes) > _OPTIMAL * sizes):
        other = lsq_linear(A, b, (0.0, np.inf), method="bvls", tol=1e-14).x
        other = np.maximum(other, 0.0)
        others = b - A @ other
        if np.linalg.norm(others) < np.linalg.norm(rest):
            x, rest = other, others
    return x, float(np.linalg.norm(rest))


def root(function, low, high, **options):
    """SciPy's `brentq`, whose failures are those of other computations.

    Parameters
    ----------
    function : callable
    low, high : float
    **options
        Of `brentq`.

    Returns
    -------
    root : float
    """
    try:
        return brentq(function, low, high, **options)
    except (RuntimeError, ValueError) as error:
        raise FloatingPointError(str(error)) from error
