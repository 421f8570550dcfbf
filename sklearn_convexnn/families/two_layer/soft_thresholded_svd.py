"""Orthogonal samples of one length: the optimal network of several outputs."""

import numpy as np
from scipy.sparse.csgraph import connected_components

from sklearn_convexnn._utils.deadlines import check
from sklearn_convexnn.families.two_layer.closed_forms import ClosedForm
from sklearn_convexnn.model.network import Network

_ROUNDING = 1e-10
"""Relative size of what counts as zero, and of the gap of a proven optimum."""


def soft_thresholded_svd(problem):
    r"""Optimal network if the samples are orthogonal and of one length.

    If ``X X^T = l^2 I``, the units ``max(X u, 0)`` with ``||u|| <= 1`` are all
    vectors ``z >= 0`` with ``||z|| <= l``.  A network then costs at least
    ``alpha / l`` times the nuclear norm of its outputs, so that soft thresholding
    the singular values of `Y` gives a lower bound for the squared error with equal
    weights ``s``.  It is attained if the left singular vectors of the values above
    ``alpha / (l s)`` can be chosen non-negative.  Orthogonal vectors that are
    non-negative have disjoint supports, so they are there if and only if the
    projection on their span is block diagonal with positive blocks of rank one.
    One-hot targets are the best known case; more generally it holds if the rows
    of `Y` are positive multiples of mutually orthogonal vectors.

    The network is returned only if it is proven optimal: by the dual point
    ``N = s (Y - F)``, for which no unit has a slope above
    ``sigma_max(X) sigma_max(N)``.

    Parameters
    ----------
    problem : Problem

    Returns
    -------
    solution : ClosedForm or None
        None if the data, the loss or the model is another one, or if the
        thresholded outputs are not those of a network that costs as little.

    References
    ----------
    .. [1] Sahiner, A., Ergen, T., Pauly, J. and Pilanci, M. (2021). "Vector-output
       ReLU Neural Network Problems are Copositive Programs: Convex Analysis of
       Two Layer Networks and Polynomial-time Algorithms". ICLR.
    """
    p, X, Y = problem, problem.X, problem.Y
    length = _common_length(X)
    weight = p.sample_weight[0]
    if (
        length is None
        or p.loss.name != "squared_error"
        or p.fit_intercept
        or p.family.negative_slope != 0
        or np.ptp(p.sample_weight) > _ROUNDING * weight
    ):
        return None
    U, singular, _ = np.linalg.svd(Y, full_matrices=False)
    threshold = p.alpha / (length * weight)
    above = singular > threshold
    Z = _non_negative_basis(U[:, above])
    # If each column of Z is a left singular vector, its row of Z^T Y shrinks.
    # Otherwise the gap between objective and bound will show.
    rows = Z.T @ Y
    sizes = np.linalg.norm(rows, axis=1)
    kept = 1.0 - threshold / np.maximum(sizes, threshold)
    outputs = rows * kept[:, None] / length
    directions = Z.T @ X / length
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    neurons = p.family.neurons(directions, np.zeros(len(directions)))
    network = Network(neurons, outputs, np.zeros(p.n_outputs))
    objective = p.objective(network)
    N = -p.gradient(p.outputs(network))
    kappa = np.linalg.norm(X, 2) * np.linalg.norm(N, 2)
    bound, N = p.best_multiple(N, kappa)
    if objective - bound > _ROUNDING * objective:
        return None
    return ClosedForm(network, N, objective, bound, 0, "optimal")


def _common_length(X):
    """The length of the rows if they are orthogonal and equally long, else None."""
    if len(X) > X.shape[1]:
        return None
    check(2.0 * len(X) * X.size)
    gram = X @ X.T
    square = np.trace(gram) / len(X)
    if square == 0:
        return None
    error = np.abs(gram - square * np.eye(len(X))).max()
    return np.sqrt(square) if error <= _ROUNDING * square else None


def _non_negative_basis(U):
    """The basis without negative entries of the span of orthonormal `U`.

    If there is none, the orthonormal columns returned span another space.
    """
    projection = U @ U.T
    linked = np.abs(projection) > _ROUNDING
    size = np.sqrt(np.diag(projection))
    _, block = connected_components(linked, directed=False)
    blocks = np.unique(block[np.diag(linked)])
    basis = size[:, None] * (block[:, None] == blocks)
    # The vector of a block of rank one is the root of its diagonal.
    return basis / np.linalg.norm(basis, axis=0)
