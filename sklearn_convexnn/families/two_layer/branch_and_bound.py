"""The largest slope that a new neuron can have, with a proof.

Best-first branch and bound over cones of directions if the data are of low
rank, and for one output over signs of samples if they are few.
"""

from contextlib import suppress
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from time import perf_counter

import numpy as np

from sklearn_convexnn._utils.deadlines import OutOfTime, fits, left, until
from sklearn_convexnn.families.two_layer.neurons import activation
from sklearn_convexnn.families.two_layer.norm_slope import NormSlope
from sklearn_convexnn.families.two_layer.signed_slope import SignedSlope
from sklearn_convexnn.families.two_layer.slope_bounds import (
    ROUNDING,
    norm_bound,
    planar_maximiser,
)

# Singular values of the data, and of N, below this count as zero, relatively.
# What that changes is added to the bounds.
_RANK_TOL = 1e-12


@dataclass(frozen=True)
class SlopeMaximum:
    """Largest slope ``||N^T act(X u + b)||`` over ``||u|| <= 1``, bracketed.

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
        Number of nodes that were bounded.
    status : {'optimal', 'time_limit', 'node_limit', 'too_large', 'resolution'}
        'optimal': `upper` is as close as asked for.  'too_large': rank and
        number of samples are beyond branch and bound, and `upper` is a bound
        from norms.  'resolution': rounding, or an inaccurate solver, is in
        the way.
    """

    lower: float
    upper: float
    direction: np.ndarray
    bias: float
    outputs: np.ndarray
    n_nodes: int
    status: str


def maximise_slope(
    X,
    N,
    *,
    free_bias,
    negative_slope=0.0,
    target=0.0,
    rtol=1e-4,
    deadline=np.inf,
    max_nodes=np.inf,
):
    r"""Bracket ``kappa(N) = max ||N^T act(X u + b)||_2`` over ``||u|| <= 1``.

    The problem is NP-hard in general [3]_.  It is solved directly for data of
    rank at most two and by conical branch and bound [1]_ up to rank six, or
    five for several outputs and a free bias.  One output, which is an `N` of rank
    one, also has branch and bound over the signs of samples with semidefinite
    bounds [4]_ up to 80 distinct samples.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    N : ndarray of shape (n_samples,) or (n_samples, n_outputs)
    free_bias : bool
        Whether the maximum is over ``b`` as well; the columns of ``N`` then
        have to sum to zero, up to rounding.  Otherwise ``b = 0``.
    negative_slope : float, default=0.0
        Of the activation, in [-1, 1).
    target : float, default=0.0
        The search ends when no slope is above it.
    rtol : float, default=1e-4
        Or when the upper bound is within this of the lower one, relatively.
    deadline : float, default=inf
        Time of `time.perf_counter` at which to stop.
    max_nodes : int, default=inf
        For each sign of one output.  With 0 it hardly takes longer than the bound
        from norms.

    Returns
    -------
    maximum : SlopeMaximum

    Notes
    -----
    Bounds over cones interpolate what is convex of the slope between the
    generators and linearise what is concave.  Both errors are of second order in
    the width of the cone.  A free bias is eliminated: some best one puts a sample
    on the hyperplane, and there is one problem without bias for each.

    References
    ----------
    .. [1] Horst, R. and Tuy, H. (1996). "Global Optimization". Springer.
       Conical algorithms.
    .. [2] Pilanci, M. and Ergen, T. (2020). "Neural Networks are Convex
       Regularizers". ICML.
    .. [3] Sahiner, A., Ergen, T., Pauly, J. and Pilanci, M. (2021).
       "Vector-output ReLU Neural Network Problems are Copositive Programs".
       ICLR.
    .. [4] Raghunathan, A., Steinhardt, J. and Liang, P. (2018). "Semidefinite
       Relaxations for Certifying Robustness to Adversarial Examples". NeurIPS.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_convexnn.families.two_layer.branch_and_bound import maximise_slope
    >>> X, nu = np.eye(3), np.array([2.0, -1.0, 1.0])
    >>> maximum = maximise_slope(X, nu, free_bias=False)
    >>> bool(maximum.lower <= 5**0.5 <= maximum.upper)
    True
    """
    N = N.reshape(len(N), -1)
    geometry = {"free_bias": free_bias, "negative_slope": negative_slope}
    reduced = _reduce(X, N, free_bias)
    ceiling = reduced.ceiling(**geometry)
    search = _Search(ceiling, target, rtol, max_nodes)
    with until(deadline):
        upper = search.run(reduced.slopes(**geometry)) + reduced.slack
    upper = float(min(upper, ceiling))
    slope, u, b, g = 0.0, np.zeros(X.shape[1]), 0.0, np.zeros(N.shape[1])
    # An even slope does not tell a direction from its opposite.
    for w in () if search.w is None else (search.w, -search.w):
        direction, bias = reduced.neuron(*search.slope.neuron(w))
        f = N.T @ activation(X @ direction + bias, negative_slope)
        size = float(np.linalg.norm(f))
        if size > slope:
            slope, u, b, g = size, direction, bias, f / size
    goal = max(slope * (1 + rtol), target)
    closed = upper <= goal * (1 + 1e-9) + 1e-10 * ceiling
    status = "optimal" if closed else search.stop or "resolution"
    return SlopeMaximum(slope, max(upper, slope), u, b, g, search.n_nodes, status)


@dataclass(frozen=True)
class _Reduced:
    """The problem in coordinates of the row space, and of that of ``N``.

    ``u = basis @ w`` and ``N = weights @ outputs.T``, up to errors that change
    no slope by more than `slack`, which includes those of rounding.
    """

    rows: np.ndarray
    weights: np.ndarray
    basis: np.ndarray
    outputs: np.ndarray
    centre: np.ndarray
    slack: float

    def slopes(self, free_bias, negative_slope):
        """What is to be maximised: a slope, or both signs of that of one output."""
        geometry = {"free_bias": free_bias, "negative_slope": negative_slope}
        rows, weights = self.rows, self.weights
        if not rows.size or not weights.size:
            return []
        if weights.shape[1] == 1:
            nu = weights[:, 0]
            return [SignedSlope.of(rows, sign * nu, **geometry) for sign in (1, -1)]
        if free_bias:
            rows = np.column_stack([rows, np.ones(len(rows))])
        return [NormSlope(rows, weights, **geometry)]

    def ceiling(self, **geometry):
        """Upper bound of the slopes from norms alone."""
        rows, weights = self.rows, self.weights
        # The squares of the slopes of the outputs add up.
        bound = np.linalg.norm([norm_bound(rows, nu, **geometry) for nu in weights.T])
        if bound > 0 and weights.shape[1] > 1:
            spectral = np.linalg.norm(rows, 2) * np.linalg.norm(weights, 2)
            rowwise = np.linalg.norm(weights, axis=1) @ np.linalg.norm(rows, axis=1)
            bound = min(bound, spectral, rowwise)
        return float((1 + ROUNDING) * bound + self.slack)

    def neuron(self, u, b):
        """The same neuron in coordinates of the features."""
        u = self.basis @ u
        return u, b - float(self.centre @ u)


def _reduce(X, N, free_bias):
    centre = np.zeros(X.shape[1])
    if free_bias:
        centre, N = X.mean(axis=0), N - N.mean(axis=0)
        X = X - centre
    # Equal samples are one with the sum of their weights.
    X, group = np.unique(X + 0.0, axis=0, return_inverse=True)
    merged = np.zeros((len(X), N.shape[1]))
    np.add.at(merged, group.ravel(), N)
    basis, outputs = _row_space(X), _row_space(merged)
    rows, weights = X @ basis, merged @ outputs
    lengths = np.linalg.norm(weights, axis=1)
    slack = lengths @ np.linalg.norm(X - rows @ basis.T, axis=1)
    slack += np.linalg.norm(merged - weights @ outputs.T) * np.linalg.norm(X)
    # Rounding of sums over the samples, whose distances are at most 2 radii.
    n_terms = len(X) + rows.shape[1] + weights.shape[1] + 8
    radius = np.linalg.norm(rows, axis=1).max(initial=0.0)
    slack += 8.0 * n_terms * np.finfo(float).eps * lengths.sum() * radius
    return _Reduced(rows, weights, basis, outputs, centre, float(slack))


def _row_space(matrix):
    """Orthonormal basis, of shape (n_columns, rank), in order of importance."""
    _, singular, Vt = np.linalg.svd(matrix, full_matrices=False)
    return Vt[singular > _RANK_TOL * singular.max(initial=0.0)].T


class _Search:
    """The steepest neuron found so far, and the search for steeper ones."""

    def __init__(self, ceiling, target, rtol, max_nodes):
        self.ceiling, self.target = ceiling, target
        self.rtol, self.max_nodes = rtol, max_nodes
        self.value, self.slope, self.w = 0.0, None, None
        self.n_nodes, self.stop = 0, None

    @property
    def threshold(self):
        """Slopes up to this one need not be told apart."""
        return max(self.value * (1 + self.rtol), self.target)

    def offer(self, slope, W):
        """Keep the best of some directions if it is better than all before."""
        values = slope.values(W)
        best = np.argmax(values)
        if values[best] > self.value:
            self.value, self.slope, self.w = float(values[best]), slope, W[best]

    def run(self, slopes):
        """Upper bound of all slopes."""
        for slope in slopes:
            self.climb(slope)
        # What was found for one sign need not be beaten by the other.
        slopes = sorted(slopes, key=lambda slope: slope is not self.slope)
        bounds = []
        for position, slope in enumerate(slopes):
            share = left() / (len(slopes) - position)
            with until(perf_counter() + share):
                bounds.append(self.close(slope))
        return max(bounds, default=0.0)

    def climb(self, slope, n_polished=3):
        """Lower bound by local searches, of a single step if no node is allowed."""
        if slope.rank <= 2 or not len(slope.rows):
            return
        W = slope.ascend(slope.starts(), n_steps=30 if self.max_nodes else 1)
        if self.max_nodes:
            W = slope.polish(W[np.argsort(-slope.values(W))[:n_polished]])
        self.offer(slope, W)

    def close(self, slope):
        """Upper bound of one slope, as close to the best as is asked for."""
        upper = self.ceiling
        if not slope.rank or not len(slope.rows):
            upper = 0.0
        elif slope.rank <= 2:
            with suppress(OutOfTime):
                w = planar_maximiser(slope)
                self.offer(slope, w[None])
                upper = float(slope.values(w))
            if upper == self.ceiling:
                self.stop = self.stop or "time_limit"
        elif self.ceiling > self.threshold:
            nodes = slope.nodes()
            if nodes is None:
                self.stop = self.stop or "too_large"
            else:
                upper = self.branch(slope, nodes)
        return min(self.ceiling, (1 + ROUNDING) * upper + slope.slack)

    def branch(self, slope, nodes):
        """Upper bound by branch and bound over nodes of one kind.

        These are `Cones` or `Signs`: arrays of nodes, of which `examine` says how
        steep the slope can be there, where to split them, if at all, and which
        directions are worth a try.
        """
        queue, roots = _Queue(nodes.size), nodes.roots()
        queue.push(roots, np.full(len(roots), self.ceiling))
        # What is cut off is not above the threshold, but counts.
        closed, n_nodes = 0.0, 0
        while queue.top > self.threshold:
            if n_nodes >= self.max_nodes or not fits():
                reason = "time_limit" if not fits() else "node_limit"
                self.stop = self.stop or reason
                break
            block, bounds = queue.pop()
            n_nodes += len(block)
            new, where, hopes = nodes.examine(block, self.threshold)
            bounds = np.minimum(bounds, new)
            values = slope.values(hopes)
            if values.max(initial=0.0) > self.value:
                best = np.argmax(values)
                self.offer(slope, slope.polish(hopes[best : best + 1]))
            keep = (bounds > self.threshold) & (where >= 0)
            closed = max(closed, bounds[~keep].max(initial=0.0))
            children = nodes.split(block[keep], where[keep])
            queue.push(children, np.repeat(bounds[keep], 2))
        self.n_nodes += n_nodes
        return max(closed, queue.top)


class _Queue:
    """Open nodes in blocks; the block with the largest bound comes first."""

    def __init__(self, size):
        self.size, self.heap, self.ticket = size, [], count()

    @property
    def top(self):
        """The largest bound, zero if no node is left."""
        return -self.heap[0][0] if self.heap else 0.0

    def push(self, nodes, bounds):
        order = np.argsort(-bounds)
        for start in range(0, len(order), self.size):
            block = order[start : start + self.size]
            entry = (-bounds[block[0]], next(self.ticket))
            heappush(self.heap, (*entry, nodes[block], bounds[block]))

    def pop(self):
        """About the nodes of the largest bounds, at most `size` of them."""
        blocks, n_nodes = [], 0
        while self.heap and n_nodes < self.size:
            blocks.append(heappop(self.heap)[2:])
            n_nodes += len(blocks[-1][0])
        nodes, bounds = (np.concatenate(part) for part in zip(*blocks))
        if n_nodes > self.size:
            self.push(nodes, bounds)
            nodes, bounds = heappop(self.heap)[2:]
        return nodes, bounds
