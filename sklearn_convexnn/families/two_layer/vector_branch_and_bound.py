"""The largest slope that a new neuron with several outputs can have, with a proof.

Exact for data of rank at most two, and by branch and bound over cones of
directions if the rank is low.
"""

from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count, product
from time import perf_counter

import numpy as np

from sklearn_convexnn.families.two_layer.branch_and_bound import maximise_slope
from sklearn_convexnn.families.two_layer.slope_bounds import ROUNDING, norm_bound
from sklearn_convexnn.model.neurons import activation

# Cones up to this rank, a free bias being one more coordinate; the number of
# cones grows exponentially with it.
_MAX_CONE_RANK = 6
# Singular values of the data, and of N, below this count as zero, relatively.
# What that changes is added to the bounds.
_RANK_TOL = 1e-12
# Numbers in the largest array that the cones of one round need.
_ROUND_SIZE = 100_000
# Cones are not split below this angle.
_RESOLUTION = 1e-7


@dataclass(frozen=True)
class VectorSlopeMaximum:
    """Largest ``||N^T act(X u + b)||_2`` over ``||u|| = 1``, bracketed.

    Attributes
    ----------
    lower : float
        Slope of the neuron that was found.
    upper : float
        Proven upper bound of all slopes.
    direction : ndarray of shape (n_features,)
        ``u``, of length one (zero if no slope is positive).
    bias : float
        ``b``, zero without `free_bias`.
    outputs : ndarray of shape (n_outputs,)
        ``N^T act(X u + b)``, normalised to length one (zero if no slope is
        positive): the output weights of the neuron with this slope.
    n_nodes : int
        Number of cones that were bounded.
    status : {'optimal', 'time_limit', 'node_limit', 'too_large', 'resolution'}
        'optimal': `upper` is as close as asked for.  'too_large': the rank is
        beyond branch and bound, and `upper` is a bound from norms.
        'resolution': rounding is in the way.
    """

    lower: float
    upper: float
    direction: np.ndarray
    bias: float
    outputs: np.ndarray
    n_nodes: int
    status: str


def maximise_vector_slope(
    X,
    N,
    *,
    free_bias,
    negative_slope=0.0,
    lower=0.0,
    target=None,
    rtol=1e-4,
    deadline=np.inf,
    max_nodes=np.inf,
):
    r"""Bracket ``kappa(N) = max ||N^T act(X u + b)||_2`` over ``||u|| = 1``.

    The problem is NP-hard in general [2]_.  It is solved directly for data of
    rank at most two, and by conical branch and bound [1]_ up to rank six, or
    five with `free_bias`.  An `N` of rank one is left to `maximise_slope`,
    which goes further.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    N : ndarray of shape (n_samples, n_outputs)
    free_bias : bool
        Whether the maximum is over ``b`` as well; the columns of ``N`` then
        have to sum to zero, up to rounding.  Otherwise ``b = 0``.
    negative_slope : float, default=0.0
        Of the activation, in [-1, 1).
    lower : float, default=0.0
        A slope that is known to be attained.  Smaller ones are not looked for.
    target : float, default=None
        The search ends when no slope is above it.
    rtol : float, default=1e-4
        Or when the upper bound is within this of the lower one, relatively.
    deadline : float, default=inf
        Time of `time.perf_counter` at which to stop.
    max_nodes : int, default=inf

    Returns
    -------
    maximum : VectorSlopeMaximum

    Notes
    -----
    Write ``f(u) = N^T act(X u)``.  On a cone, ``||f||^2 = f^T f`` does not
    decrease if samples with ``f^T n_i >= 0`` are replaced by the interpolation
    of their activation between the generators, and the others by a line below
    it.  Both errors are of second order in the width of the cone, and what
    remains is the norm of a linear function.  It matters little that the sign
    of some ``f^T n_i`` is not known: these products are small themselves.

    A free bias is eliminated.  Along it the slope is convex between two
    samples and constant beyond the data, so that the best one puts a sample on
    the hyperplane, and there is one problem without bias for each.

    References
    ----------
    .. [1] Horst, R. and Tuy, H. (1996). "Global Optimization". Springer.
       Conical algorithms.
    .. [2] Sahiner, A., Ergen, T., Pauly, J. and Pilanci, M. (2021).
       "Vector-output ReLU Neural Network Problems are Copositive Programs".
       ICLR.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_convexnn.families.two_layer.vector_branch_and_bound import (
    ...     maximise_vector_slope,
    ... )
    >>> X, N = np.eye(3), np.array([[2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> maximum = maximise_vector_slope(X, N, free_bias=False)
    >>> bool(maximum.lower <= 2.0 <= maximum.upper)
    True
    """
    parts = _reduce(X, N, free_bias, negative_slope)
    budget = {"deadline": deadline, "max_nodes": max_nodes}
    u, b, upper = None, 0.0, parts.ceiling
    if parts.outputs.shape[1] == 1:
        geometry = {"free_bias": free_bias, "negative_slope": negative_slope}
        stop = {"lower": lower, "target": target, "rtol": rtol}
        found = maximise_slope(X, N @ parts.outputs[:, 0], **geometry, **stop, **budget)
        n_nodes, status = found.n_nodes, found.status
        upper = min(upper, (1 + ROUNDING) * found.upper + parts.slack)
        u, b = found.direction, found.bias
    else:
        search = _Search(parts, **budget)
        status = search.run(lower, target, rtol)
        n_nodes, upper = search.n_nodes, search.upper
        if search.u is not None:
            u, b = parts.neuron(search.u, search.pivot)
    slope, g = 0.0, np.zeros(N.shape[1])
    if u is not None:
        f = N.T @ activation(X @ u + b, negative_slope)
        slope = float(np.linalg.norm(f))
    if slope > 0:
        g = f / slope
    else:
        u, b = np.zeros(X.shape[1]), 0.0
    upper = max(upper, slope)
    goal = max(max(lower, slope) * (1 + rtol), -np.inf if target is None else target)
    if upper <= goal * (1 + 1e-9) + 1e-10 * parts.ceiling:
        status = "optimal"
    return VectorSlopeMaximum(slope, upper, u, b, g, n_nodes, status)


@dataclass(frozen=True)
class _Parts:
    """The problem in coordinates of the row space, and of that of ``N``.

    ``u = basis @ w`` and ``N = weights @ outputs.T``, up to errors that change
    no slope by more than `slack`, which includes those of rounding.
    """

    rows: np.ndarray
    weights: np.ndarray
    basis: np.ndarray
    outputs: np.ndarray
    centre: np.ndarray
    free_bias: bool
    negative_slope: float
    slack: float
    ceiling: float

    @property
    def rank(self):
        return self.rows.shape[1]

    @property
    def pivots(self):
        """Points ``p`` such that some best bias is ``-p^T w``."""
        return self.rows if self.free_bias else np.zeros((1, self.rank))

    def activations(self, T):
        return np.maximum(T, 0.0) + self.negative_slope * np.minimum(T, 0.0)

    def evaluate(self, W, pivots):
        """Values ``f``, of shape (n, n_outputs), and gradients of their norms."""
        P = self.pivots[pivots]
        T = W @ self.rows.T - (W * P).sum(axis=1, keepdims=True)
        F = self.activations(T) @ self.weights
        norms = np.linalg.norm(F, axis=1, keepdims=True)
        slopes = np.where(T > 0, 1.0, self.negative_slope)
        pull = slopes * (F / np.maximum(norms, 1e-300) @ self.weights.T)
        return F, pull @ self.rows - pull.sum(axis=1, keepdims=True) * P

    def best_pivots(self, W):
        """Index of the pivot that gives the best bias, for each row of `W`."""
        if not self.free_bias:
            return np.zeros(len(W), dtype=int)
        T = W @ self.rows.T
        order = np.argsort(T, axis=1)
        T = np.take_along_axis(T, order, axis=1)[..., None]
        weights = self.weights[order]
        # Sums over the samples that are not beyond each one.
        total, moment = np.cumsum(weights, axis=1), np.cumsum(weights * T, axis=1)
        below = moment - T * total
        above = moment[:, -1:] - T * total[:, -1:] - below
        F = above + self.negative_slope * below
        best = np.argmax((F**2).sum(axis=2), axis=1)
        return order[np.arange(len(W)), best]

    def neuron(self, w, pivot):
        """Unit direction and bias, in coordinates of the features."""
        w = w / np.linalg.norm(w)
        u = self.basis @ w
        if not self.free_bias:
            return u, 0.0
        return u, float(-self.pivots[pivot] @ w - self.centre @ u)


def _reduce(X, N, free_bias, negative_slope):
    centre = np.zeros(X.shape[1])
    if free_bias:
        centre, N = X.mean(axis=0), N - N.mean(axis=0)
        X = X - centre
    # Equal samples are one with the sum of their weights.
    X, group = np.unique(X + 0.0, axis=0, return_inverse=True)
    merged = np.zeros((len(X), N.shape[1]))
    np.add.at(merged, group.ravel(), N)
    N = merged
    basis, outputs = _row_space(X), _row_space(N)
    rows, weights = X @ basis, N @ outputs
    spectral = np.linalg.norm(rows, 2) if rows.size else 0.0
    lengths = np.linalg.norm(weights, axis=1)
    slack = lengths @ np.linalg.norm(X - rows @ basis.T, axis=1)
    slack += np.linalg.norm(N - weights @ outputs.T) * np.linalg.norm(X)
    # Rounding of sums over the samples, whose distances are at most 2 radii.
    n_terms = len(X) + rows.shape[1] + weights.shape[1] + 8
    radius = np.linalg.norm(rows, axis=1).max(initial=0.0)
    slack += 8.0 * n_terms * np.finfo(float).eps * lengths.sum() * radius

    geometry = {"free_bias": free_bias, "negative_slope": negative_slope}
    each = [norm_bound(rows, column, **geometry) for column in weights.T]
    ceiling = min(
        np.linalg.norm(each),
        spectral * (np.linalg.norm(weights, 2) if weights.size else 0.0),
        lengths @ np.linalg.norm(rows, axis=1),
    )
    return _Parts(
        rows,
        weights,
        basis,
        outputs,
        centre,
        free_bias,
        negative_slope,
        float(slack),
        float((1 + ROUNDING) * ceiling + slack),
    )


def _row_space(matrix):
    """Orthonormal basis, of shape (n_columns, rank), in order of importance."""
    _, singular, Vt = np.linalg.svd(matrix, full_matrices=False)
    return Vt[singular > _RANK_TOL * singular.max(initial=0.0)].T


class _Search:
    """Local searches, and branch and bound over cones."""

    def __init__(self, parts, deadline, max_nodes):
        self.parts = parts
        self.deadline, self.max_nodes = deadline, max_nodes
        self.value, self.u, self.pivot = 0.0, None, 0
        self.upper, self.n_nodes = parts.ceiling, 0

    def stopped(self):
        if perf_counter() > self.deadline:
            return "time_limit"
        return "node_limit" if self.n_nodes >= self.max_nodes else None

    def offer(self, W, pivots, values):
        """Keep the best of some unit directions if it is better than before."""
        best = np.argmax(values)
        if values[best] > self.value:
            self.value = float(values[best])
            self.u, self.pivot = W[best], int(pivots[best])
            return True
        return False

    def run(self, lower, target, rtol):
        parts = self.parts
        target = -np.inf if target is None else target

        def threshold():
            return max(max(lower, self.value) * (1 + rtol), target)

        status = "optimal"
        if parts.rank == 0 or not parts.weights.size:
            self.upper = parts.slack
        elif parts.rank == 2:
            status = self.over_arcs()
        else:
            self.climb()
            if parts.rank == 1:
                # There are two directions, and both were tried.
                self.upper = (1 + ROUNDING) * self.value + parts.slack
            elif parts.ceiling <= threshold():
                pass
            elif parts.rank + parts.free_bias <= _MAX_CONE_RANK:
                status = self.over_cones(threshold)
            else:
                status = "too_large"
        return status

    def climb(self, n_starts=64):
        """Lower bound by local searches from rows and fixed random directions."""
        parts, r = self.parts, self.parts.rank
        rng = np.random.default_rng(0)
        order = np.argsort(-np.linalg.norm(parts.rows, axis=1))
        rows = parts.rows[order[: n_starts // 4]]
        rows = rows[np.any(rows != 0, axis=1)]
        W = np.concatenate([rows, -rows, rng.standard_normal((n_starts // 2, r))])
        self.ascend(W / np.linalg.norm(W, axis=1, keepdims=True))

    def ascend(self, W, step=1.0, n_steps=50):
        """Gradient steps on the sphere, each start with a step of its own."""
        parts = self.parts
        pivots = parts.best_pivots(W)
        F, slopes = parts.evaluate(W, pivots)
        values = np.linalg.norm(F, axis=1)
        steps = np.full(len(W), step)
        for _ in range(n_steps):
            slopes /= np.maximum(np.linalg.norm(slopes, axis=1, keepdims=True), 1e-300)
            moved = W + steps[:, None] * slopes
            moved /= np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-300)
            best = parts.best_pivots(moved)
            F, new_slopes = parts.evaluate(moved, best)
            new = np.linalg.norm(F, axis=1)
            better = new > values
            W = np.where(better[:, None], moved, W)
            slopes = np.where(better[:, None], new_slopes, slopes)
            pivots, values = np.where(better, best, pivots), np.maximum(new, values)
            steps = np.where(better, 1.5 * steps, 0.4 * steps)
            if steps.max() < 1e-8 or perf_counter() > self.deadline:
                break
        self.offer(W, pivots, values)

    def over_arcs(self):
        """All cells of signs of data in the plane."""
        parts, upper = self.parts, 0.0
        for index, pivot in enumerate(parts.pivots):
            if perf_counter() > self.deadline:
                return "time_limit"
            angle, value = _best_angle(
                parts.rows - pivot, parts.weights, parts.negative_slope
            )
            w = np.array([[np.cos(angle), np.sin(angle)]])
            self.offer(w, [index], [value])
            upper = max(upper, value)
        self.upper = min(parts.ceiling, (1 + ROUNDING) * upper + parts.slack)
        return "optimal"

    def over_cones(self, threshold):
        parts, r = self.parts, self.parts.rank
        signs = np.array(list(product([1.0, -1.0], repeat=r)))
        orthants = signs[:, :, None] * np.eye(r)
        n_pivots = len(parts.pivots)
        if parts.negative_slope == -1:
            # The slope is even.
            orthants = orthants[: len(orthants) // 2]
        V = np.tile(orthants, (n_pivots, 1, 1))
        pivots = np.repeat(np.arange(n_pivots), len(orthants))
        nodes = (V, pivots, np.full(len(V), parts.ceiling))
        heap, ticket = [(-parts.ceiling, 0, nodes)], count(1)
        size = min(max(16, _ROUND_SIZE // (r * len(parts.rows))), 1024)
        status, closed = "optimal", 0.0
        while heap and -heap[0][0] > threshold():
            stop = self.stopped()
            if stop:
                status = stop
                break
            blocks, n_nodes = [], 0
            while heap and n_nodes < size:
                blocks.append(heappop(heap)[2])
                n_nodes += len(blocks[-1][0])
            V, pivots, bounds = (np.concatenate(part) for part in zip(*blocks))
            order = np.argsort(-bounds)
            V, pivots, bounds = V[order], pivots[order], bounds[order]
            if len(V) > size:
                rest = (V[size:], pivots[size:], bounds[size:])
                heappush(heap, (-rest[2][0], next(ticket), rest))
                V, pivots, bounds = V[:size], pivots[:size], bounds[:size]
            self.n_nodes += len(V)
            new, heights = _cone_bounds(parts, V, pivots)
            bounds = np.minimum(bounds, (1 + ROUNDING) * new + parts.slack)
            # One corner of each cone.
            best = heights.argmax(axis=1)
            index = np.arange(len(V))
            W, heights = V[index, best], heights[index, best]
            if self.offer(W, pivots, heights):
                self.ascend(self.u[None], step=0.1)
            i, j, small = _longest_edges(V)
            open_ = bounds > threshold()
            keep = open_ & ~small
            closed = max(closed, bounds[~keep].max(initial=0.0))
            if np.any(open_ & small):
                status = "resolution"
            if keep.any():
                children = _bisect(V[keep], i[keep], j[keep])
                bounds = np.repeat(bounds[keep], 2)
                nodes = (children, np.repeat(pivots[keep], 2), bounds)
                heappush(heap, (-bounds.max(), next(ticket), nodes))
        upper = max(closed, -heap[0][0] if heap else 0.0)
        self.upper = min(parts.ceiling, upper)
        return status


def _best_angle(rows, weights, negative_slope):
    """Maximiser on the unit circle, and its value."""
    nonzero = np.any(rows != 0, axis=1)
    rows, weights = rows[nonzero], weights[nonzero]
    if not len(rows):
        return 0.0, 0.0
    normal = np.arctan2(rows[:, 1], rows[:, 0])
    enter, leave = (
        np.mod(normal + turn, 2 * np.pi) for turn in (-np.pi / 2, np.pi / 2)
    )
    products = weights[:, :, None] * rows[:, None, :]
    jumps = (1.0 - negative_slope) * products
    kinks = np.concatenate([enter, leave])
    order = np.argsort(kinks)
    kinks = kinks[order]
    jumps = np.concatenate([jumps, -jumps])[order]
    # Positive at the angle zero are the rows that leave before they enter.
    active = np.where(leave < enter, 1.0, negative_slope)
    matrices = np.einsum("i,ijk->jk", active, products) + np.cumsum(jumps, axis=0)
    # ||M u||^2 = mean + difference cos(2 angle) + mixed sin(2 angle).
    squares = (matrices**2).sum(axis=1)
    mean, difference = squares.mean(axis=1), 0.5 * (squares[:, 0] - squares[:, 1])
    mixed = (matrices[:, :, 0] * matrices[:, :, 1]).sum(axis=1)
    turn = np.mod(0.5 * np.arctan2(mixed, difference) - kinks, np.pi)
    inside = turn <= np.append(kinks[1:], kinks[0] + 2 * np.pi) - kinks
    at_kink = difference * np.cos(2 * kinks) + mixed * np.sin(2 * kinks)
    squares = mean + np.where(inside, np.hypot(difference, mixed), at_kink)
    best = np.argmax(squares)
    angle = kinks[best] + (turn[best] if inside[best] else 0.0)
    return angle, float(np.sqrt(max(squares[best], 0.0)))


def _cone_bounds(parts, V, pivots):
    """Bounds over the cones with unit generators ``V[k]``, and corner values.

    No angle between generators may exceed that of an orthant, 90 degrees.
    """
    N, a = parts.weights, parts.negative_slope
    lengths = np.linalg.norm(N, axis=1)
    T = V @ parts.rows.T - V @ parts.pivots[pivots][..., None]
    activations = parts.activations(T)
    F = activations @ N
    heights = np.linalg.norm(F, axis=2)
    centre = V.sum(axis=1)
    centre /= np.linalg.norm(centre, axis=1, keepdims=True)
    cosines = (V @ centre[..., None])[..., 0]
    # The coefficients of a unit vector of the cone have at most this sum.
    total = 1.0 / cosines.min(axis=1)

    # By how much interpolation exceeds the activations, for coefficients that
    # sum to one, and how far that moves f.
    p, q = np.maximum(T.max(axis=1), 0.0), np.maximum(-T.min(axis=1), 0.0)
    undecided = (p > 0) & (q > 0)
    spread = np.where(undecided, p + q, 1.0)
    excess = (1.0 - a) * p * q / spread
    along = np.maximum(excess @ np.maximum(N, 0.0), excess @ np.maximum(-N, 0.0))
    drift = np.minimum(np.linalg.norm(along, axis=1), excess @ lengths)
    crude = total * (heights.max(axis=1) + drift)

    products = F @ N.T
    blur = drift[:, None] * lengths
    low, high = products.min(axis=1) - blur, products.max(axis=1) + blur
    below = undecided & (low + high < 0)
    slopes = a + (1.0 - a) * np.clip(0.5 + T.sum(axis=1) / spread, 0.0, 1.0)
    lacking = np.maximum((1.0 - slopes) * p, (slopes - a) * q)
    # Samples that are replaced from the wrong side.
    wrong = np.where(
        below, np.maximum(high, 0.0) * lacking, np.maximum(-low, 0.0) * excess
    )
    rest = total**2 * wrong.sum(axis=1)
    linear = np.where(below[:, None], slopes[:, None] * T, activations) @ N
    square = _linear_bounds(V, linear, centre, cosines)
    # ||f||^2 <= ||f|| ||linear|| + rest.
    sharp = 0.5 * (np.sqrt(square) + np.sqrt(square + 4.0 * rest))
    return np.minimum(crude, sharp), heights


def _linear_bounds(V, F, centre, cosines):
    r"""Bounds of ``||F^T l||^2`` over ``l >= 0`` with ``||V^T l|| = 1``.

    They are the largest eigenvalue of a symmetric ``S`` such that ``V S V^T``
    is nowhere below ``F F^T``: the smaller one of those of a multiple of
    ``centre centre^T`` and of the square of the linear map from `V` to `F`.
    """
    r = V.shape[1]
    Vt = V.transpose(0, 2, 1)
    squares = F @ F.transpose(0, 2, 1)
    corners = cosines[:, :, None] * cosines[:, None, :]
    level = (squares / corners).max(axis=(1, 2))
    image = Vt @ np.linalg.inv(V @ Vt + 1e-14 * np.eye(r)) @ F
    S = image @ image.transpose(0, 2, 1)
    # The ridge makes the map inexact; the centre makes up for it.
    missing = squares - V @ S @ Vt
    repair = np.maximum(missing / corners, 0.0).max(axis=(1, 2))
    S += repair[:, None, None] * centre[:, :, None] * centre[:, None, :]
    return np.minimum(level, np.linalg.eigvalsh(S)[:, -1])


def _longest_edges(V):
    """End points of the longest edge of each cone, and whether it is tiny."""
    r = V.shape[1]
    gram = V @ V.transpose(0, 2, 1)
    squares = np.einsum("nkk->nk", gram)
    distances = squares[:, :, None] + squares[:, None, :] - 2.0 * gram
    distances = distances.reshape(len(gram), -1)
    edge = distances.argmax(axis=1)
    return edge // r, edge % r, distances.max(axis=1) < _RESOLUTION**2


def _bisect(V, i, j):
    """Both halves of each cone, split in the middle of the edge ``(i, j)``."""
    index = np.arange(len(V))
    middle = V[index, i] + V[index, j]
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    V = np.repeat(V, 2, axis=0)
    V[2 * index, i] = middle
    V[2 * index + 1, j] = middle
    return V
