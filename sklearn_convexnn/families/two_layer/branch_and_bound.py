"""The largest slope that a new neuron can have, with a proof.

Branch and bound over cones of directions if the data are of low rank, and over
signs of samples if they are few.
"""

from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count, product
from time import perf_counter

import numpy as np

from sklearn_convexnn.families.two_layer.slope_bounds import (
    ROUNDING,
    distance_to_zonotope,
    norm_bound,
    planar_maximiser,
    policy_bound,
    slope_at,
    split_slope,
)

# Cones up to this rank; the number of cones grows exponentially with it.
_MAX_CONE_RANK = 6
# Signs up to this number of rows; the semidefinite programs grow as its square.
_MAX_SIGN_ROWS = 80
# Numbers in the largest array that the cones of one round need.
_ROUND_SIZE = 2_000_000
# Cones are not split below this angle.
_RESOLUTION = 1e-7


@dataclass(frozen=True)
class SlopeMaximum:
    """Largest slope ``|nu^T act(X u + b)|`` over ``||u|| <= 1``, bracketed.

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
    sign : {1, -1}
        Of ``nu^T act(X u + b)``.
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
    sign: int
    n_nodes: int
    status: str


def prefers_cones(n_rows, rank):
    """Whether cones close the bound sooner than signs, as measured.

    Parameters
    ----------
    n_rows, rank : int

    Returns
    -------
    cones : bool
    """
    return rank <= 4 or (rank <= _MAX_CONE_RANK and n_rows > 30)


def maximise_slope(
    X,
    nu,
    *,
    free_bias,
    negative_slope=0.0,
    lower=0.0,
    target=None,
    rtol=1e-4,
    deadline=np.inf,
    max_nodes=np.inf,
):
    r"""Bracket ``kappa(nu) = max |nu^T act(X u + b)|`` over ``||u|| <= 1``.

    The problem is NP-hard in general.  It is solved directly for data of rank
    at most two, by conical branch and bound [1]_ up to rank six, and by
    branch and bound over the signs of samples with semidefinite bounds up to
    80 distinct samples.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    nu : ndarray of shape (n_samples,)
    free_bias : bool
        Whether the maximum is over ``b`` as well; ``nu`` then has to sum to
        zero, up to rounding.  Otherwise ``b = 0``.
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
    maximum : SlopeMaximum

    Notes
    -----
    A cone with generators ``v_k`` is bounded by interpolating the convex part
    of the slope between them and by linearising the concave part.  Both errors
    are of second order in the width of the cone.  A free bias is eliminated:
    the best one puts a sample of the concave part on the hyperplane, and there
    is one problem without bias for each.

    References
    ----------
    .. [1] Horst, R. and Tuy, H. (1996). "Global Optimization". Springer.
       Conical algorithms.
    .. [2] Pilanci, M. and Ergen, T. (2020). "Neural Networks are Convex
       Regularizers". ICML.
    .. [3] Raghunathan, A., Steinhardt, J. and Liang, P. (2018). "Semidefinite
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
    geometry = {"free_bias": free_bias, "negative_slope": negative_slope}
    ceiling = norm_bound(X, nu, **geometry)
    problems = [
        _Search(split_slope(X, sign * nu, 1, **geometry), ceiling) for sign in (1, -1)
    ]
    budget = _Budget(deadline, max_nodes)
    for search in problems:
        search.climb(budget)
    floor = max(lower, *(search.value for search in problems))
    order = sorted(problems, key=lambda search: -search.value)
    for position, search in enumerate(order):
        # A slope found for one sign need not be beaten by the other.
        share = budget.share(len(order) - position)
        search.run(max(floor, search.value), target, rtol, share)
        floor = max(floor, search.value)
    upper = max(0.0, *(float(search.upper) for search in problems))

    best = (0.0, np.zeros(X.shape[1]), 0.0, 1)
    for sign, search in zip((1, -1), problems):
        for w in () if search.w is None else (search.w, -search.w):
            u, b = search.parts.neuron(w)
            slope = slope_at(X, sign * nu, u, b, negative_slope=negative_slope)
            best = max(best, (slope, u, b, sign), key=lambda found: found[0])
    stops = [search.status for search in problems if search.status != "optimal"]
    goal = max(max(lower, best[0]) * (1 + rtol), -np.inf if target is None else target)
    status = stops[0] if stops else "resolution"
    if upper <= goal * (1 + 1e-9) + 1e-10 * ceiling:
        status = "optimal"
    return SlopeMaximum(
        best[0],
        max(upper, best[0]),
        *best[1:],
        n_nodes=sum(search.n_nodes for search in problems),
        status=status,
    )


@dataclass
class _Budget:
    deadline: float
    max_nodes: float

    def share(self, n_parts):
        """An equal part of what is left of the time, and all of the nodes."""
        now = perf_counter()
        return _Budget(now + (self.deadline - now) / n_parts, self.max_nodes)

    def stopped(self, n_nodes):
        if perf_counter() > self.deadline:
            return "time_limit"
        return "node_limit" if n_nodes >= self.max_nodes else None


class _Search:
    """Branch and bound for one sign of the slope."""

    def __init__(self, parts, ceiling):
        self.parts = parts
        self.value, self.w = 0.0, None
        self.upper, self.ceiling = ceiling, ceiling
        self.n_nodes, self.status = 0, "optimal"

    def offer(self, W):
        """Keep the best of some directions if it is better than all before."""
        values = self.parts.values(W)
        best = np.argmax(values)
        if values[best] > self.value:
            self.value, self.w = float(values[best]), W[best]
            return True
        return False

    def climb(self, budget, n_starts=32, n_polished=3):
        """Lower bound by local searches from rows and fixed random directions."""
        parts, r = self.parts, self.parts.rank
        if r == 0 or not len(parts.convex):
            return
        if r <= 2:
            self.offer(planar_maximiser(parts)[None])
            return
        rng = np.random.default_rng(0)
        order = np.argsort(-np.linalg.norm(parts.convex[:, :r], axis=1))
        rows = parts.convex[order[: n_starts // 2], :r]
        rows = rows[np.any(rows != 0, axis=1)]
        U = np.concatenate([rows, rng.standard_normal((n_starts - len(rows), r))])
        W = parts.best_biases(U / np.linalg.norm(U, axis=1, keepdims=True))
        step = np.ones(len(W))
        values = parts.values(W)
        for _ in range(50):
            slopes = parts.gradients(W)
            slopes /= np.maximum(np.linalg.norm(slopes, axis=1, keepdims=True), 1e-300)
            U = W[:, :r] + step[:, None] * slopes
            U /= np.linalg.norm(U, axis=1, keepdims=True)
            moved = parts.best_biases(U)
            new = parts.values(moved)
            better = new > values
            W = np.where(better[:, None], moved, W)
            values = np.where(better, new, values)
            step = np.where(better, 1.5 * step, 0.4 * step)
            if budget.stopped(0) or step.max() < 1e-4:
                break
        self.offer(W)
        for i in np.argsort(-values)[:n_polished]:
            self.polish(W[i], budget)

    def polish(self, w, budget, max_iter=20):
        """Raise the slope by convex-concave steps, each a least squares problem.

        With the signs of the convex rows fixed the slope is concave, and never
        above the true one.
        """
        parts = self.parts
        if parts.rank == 0 or budget.stopped(0):
            return
        value = float(parts.values(w))
        for _ in range(max_iter):
            self.offer(w[None])
            pivot = np.zeros(parts.rank)
            if parts.free_bias and len(parts.concave):
                pivots = parts.pivots()
                pivot = pivots[np.argmin(np.abs(pivots @ w[:-1] + w[-1]))]
            convex, concave = parts.on_pivot(pivot)
            signs = np.sign(parts.convex @ w)
            u = distance_to_zonotope(signs @ convex, concave)
            length = np.linalg.norm(u)
            if length == 0 or budget.stopped(0):
                return
            w = parts.best_biases(u[None] / length)[0]
            new = float(parts.values(w))
            if new <= value * (1 + 1e-10):
                break
            value = new
        self.offer(w[None])

    def run(self, floor, target, rtol, budget):
        """Lower `upper` until it is near `floor` or the own value, or `target`."""
        parts = self.parts
        target = -np.inf if target is None else target
        n_rows = len(parts.convex) + len(parts.concave)

        def threshold():
            return max(max(floor, self.value) * (1 + rtol), target)

        if parts.rank == 0 or not len(parts.convex):
            self.upper = 0.0
        elif parts.rank <= 2:
            self.upper = self.value
        elif self.ceiling <= threshold():
            return
        elif prefers_cones(n_rows, parts.rank):
            self.upper = self._over_cones(threshold, budget)
        elif n_rows <= _MAX_SIGN_ROWS:
            self.upper = self._over_signs(threshold, budget)
        else:
            self.status = "too_large"
        self.upper = min(self.ceiling, (1 + ROUNDING) * self.upper + parts.slack)

    def _over_cones(self, threshold, budget):
        parts, r = self.parts, self.parts.rank
        signs = np.array(list(product([1.0, -1.0], repeat=r - 1)))
        # The slope is even, so half of the orthants are enough.
        orthants = np.einsum("ij,jk->ijk", np.insert(signs, 0, 1.0, axis=1), np.eye(r))
        size = max(16, _ROUND_SIZE // (r * (len(parts.convex) + len(parts.concave))))
        size = min(size, 1024)
        heap, ticket = [], count()
        pivots = parts.pivots()
        per_block = max(1, size // len(orthants))
        for start in range(0, len(pivots), per_block):
            block = pivots[start : start + per_block, None, None]
            V = parts.lift(
                np.broadcast_to(orthants, (len(block), *orthants.shape)), block
            ).reshape(-1, r, parts.convex.shape[1])
            # The values at their generators are not known yet.
            nodes = (V, np.full(V.shape[:2], np.nan), np.full(len(V), self.ceiling))
            heappush(heap, (-self.ceiling, next(ticket), nodes))

        closed = 0.0
        while heap and -heap[0][0] > threshold():
            self.status = budget.stopped(self.n_nodes) or "optimal"
            if self.status != "optimal":
                break
            blocks, n_nodes = [], 0
            while heap and n_nodes < size:
                blocks.append(heappop(heap)[2])
                n_nodes += len(blocks[-1][0])
            V, heights, bounds = (np.concatenate(part) for part in zip(*blocks))
            order = np.argsort(-bounds)
            V, heights, bounds = V[order], heights[order], bounds[order]
            if len(V) > size:
                rest = (V[size:], heights[size:], bounds[size:])
                heappush(heap, (-rest[2][0], next(ticket), rest))
                V, heights, bounds = V[:size], heights[:size], bounds[:size]
            self.n_nodes += len(V)
            new = np.isnan(heights[:, 0])
            heights[new] = np.abs(V[new] @ parts.convex.T).sum(-1)
            gram = V[..., :r] @ V[..., :r].transpose(0, 2, 1)
            bounds = np.minimum(bounds, _cone_bounds(parts, V, gram, heights))
            centres = V.sum(axis=1)
            values = parts.values(centres)
            if values.max() > self.value:
                self.polish(centres[np.argmax(values)], budget)
            i, j, small = _longest_edges(gram)
            keep = (bounds > threshold()) & ~small
            closed = max(closed, bounds[~keep].max(initial=0.0))
            if not keep.any():
                continue
            nodes = _bisect(parts, V[keep], heights[keep], i[keep], j[keep])
            self.offer(nodes[0].reshape(-1, parts.convex.shape[1]))
            bounds = np.repeat(bounds[keep], 2)
            heappush(heap, (-bounds.max(), next(ticket), (*nodes, bounds)))
        return max(closed, -heap[0][0] if heap else 0.0)

    def _over_signs(self, threshold, budget):
        parts = self.parts
        # The slope is even, so the sign of one row can be chosen.
        root = np.zeros(len(parts.convex))
        root[0] = 1.0
        heap, ticket = [(-self.ceiling, 0, root)], count(1)
        closed = 0.0
        while heap and -heap[0][0] > threshold():
            self.status = budget.stopped(self.n_nodes) or "optimal"
            if self.status != "optimal":
                break
            parent, _, signs = heappop(heap)
            self.n_nodes += 1
            free = np.flatnonzero(signs == 0)
            columns = np.vstack([signs @ parts.convex, parts.convex[free]])
            bound, diagonal, correlation = policy_bound(
                parts, columns, time_limit=budget.deadline - perf_counter()
            )
            bound = min(bound, -parent)
            if bound > threshold():
                self._round(signs, free, correlation[1:], budget)
            if bound <= threshold() or not len(free):
                closed = max(closed, bound)
                continue
            # Rows that matter, and of which the relaxation does not know the sign.
            doubt = diagonal[1:] * (1.0 - np.abs(correlation[1:]))
            for sign in (1.0, -1.0):
                child = signs.copy()
                child[free[np.argmax(doubt)]] = sign
                heappush(heap, (-bound, next(ticket), child))
        return max(closed, -heap[0][0] if heap else 0.0)

    def _round(self, signs, free, correlation, budget):
        """Local search from the signs that the relaxation suggests."""
        parts = self.parts
        signs = signs.copy()
        signs[free] = np.where(correlation >= 0, 1.0, -1.0)
        # A large weight makes the gradient along a free bias vanish.
        weight = np.ones(parts.convex.shape[1])
        weight[parts.rank :] = 1e3 * parts.radius
        u = distance_to_zonotope(
            signs @ (parts.convex * weight), parts.concave * weight
        )[: parts.rank]
        if np.any(u != 0):
            w = parts.best_biases(u[None] / np.linalg.norm(u))[0]
            self.polish(w, budget)


def _cone_bounds(parts, V, gram, heights, n_steps=4):
    """Bounds of the slope over the cones with unit generators ``V[k]``.

    No angle between generators may exceed that of an orthant, 90 degrees.
    The concave part is linearised with multipliers in [-1, 1] that take a few
    projected gradient steps; any of them give a bound.  The linear function
    ``c`` of the coefficients that is then to be maximised is at most the norm
    of any vector whose products with the generators are not below ``c``.  One
    such vector interpolates ``c``, another is a multiple of the centre, and
    the best point of the segment between them is taken.
    """
    r = parts.rank
    inverse = np.linalg.inv(gram + 1e-14 * np.eye(r))
    length = np.sqrt(gram.sum(axis=(1, 2)))
    cosines = gram.sum(axis=2) / length[:, None]
    products = V @ parts.concave.T
    decided = (products.min(axis=1) >= 0) | (products.max(axis=1) <= 0)
    middle = products.sum(axis=1)
    spread = np.maximum(np.abs(products).max(axis=1), 1e-300)
    multipliers = np.where(decided, np.sign(middle), middle / (r * spread))
    curvature = ((inverse @ products) * products).sum(axis=1)
    # Zero if all rows are decided, which leaves nothing to improve.
    curvature = (curvature * ~decided).sum(axis=1, keepdims=True)
    step = np.divide(2.0, curvature, out=np.zeros_like(curvature), where=curvature > 0)
    best = np.full(len(V), np.inf)
    for _ in range(n_steps):
        c = heights - (products @ multipliers[..., None])[..., 0]
        coefficients = (inverse @ c[..., None])[..., 0]
        # The ridge makes the interpolation inexact; the centre makes up for it.
        missing = c - (gram @ coefficients[..., None])[..., 0]
        repair = np.maximum(missing / cosines, 0.0).max(axis=1)
        level = np.maximum(c / cosines, 0.0).max(axis=1)
        along = (coefficients * cosines).sum(axis=1)
        square = (coefficients * (gram @ coefficients[..., None])[..., 0]).sum(axis=1)
        square = square + 2.0 * repair * along + repair**2
        along = along + repair
        distance = np.maximum(level**2 - 2.0 * level * along + square, 1e-300)
        t = np.clip(level * (level - along) / distance, 0.0, 1.0)
        norm = (
            ((1.0 - t) * level) ** 2 + 2.0 * t * (1.0 - t) * level * along
        ) + t**2 * square
        best = np.minimum(best, np.sqrt(np.maximum(norm, 0.0)))
        ascent = (np.maximum(coefficients, 0.0)[:, None] @ products)[:, 0]
        multipliers = np.where(
            decided, multipliers, np.clip(multipliers + step * ascent, -1.0, 1.0)
        )
    return best


def _longest_edges(gram):
    """End points of the longest edge of each cone, and whether it is tiny."""
    r = gram.shape[1]
    squares = np.einsum("nkk->nk", gram)
    distances = squares[:, :, None] + squares[:, None, :] - 2.0 * gram
    distances = distances.reshape(len(gram), -1)
    edge = distances.argmax(axis=1)
    return edge // r, edge % r, distances.max(axis=1) < _RESOLUTION**2


def _bisect(parts, V, heights, i, j):
    """Both halves of each cone, split in the middle of the edge ``(i, j)``."""
    index = np.arange(len(V))
    middle = V[index, i] + V[index, j]
    middle /= np.linalg.norm(middle[:, : parts.rank], axis=1, keepdims=True)
    height = np.abs(middle @ parts.convex.T).sum(axis=1)
    V, heights = np.repeat(V, 2, axis=0), np.repeat(heights, 2, axis=0)
    for offset, corner in enumerate((i, j)):
        V[2 * index + offset, corner] = middle
        heights[2 * index + offset, corner] = height
    return V, heights
