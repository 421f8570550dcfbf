"""Bounds of the slope of one output, of one sign, over cones and over signs."""

import numpy as np

from sklearn_convexnn._utils.deadlines import fits
from sklearn_convexnn.families.two_layer.cones import Cones
from sklearn_convexnn.families.two_layer.slope_bounds import (
    SlopeParts,
    distance_to_zonotope,
    policy_bound,
    split_slope,
)

# Cones up to this rank; the number of cones grows exponentially with it.
_MAX_CONE_RANK = 6
# Signs up to this number of rows; the semidefinite programs grow as its square.
_MAX_SIGN_ROWS = 80


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


class SignedSlope(SlopeParts):
    """The slope ``nu^T act(X u + b)`` as branch and bound needs it."""

    # Without its linear part, which is one of the convex rows.
    even = True

    @classmethod
    def of(cls, X, nu, **geometry):
        return cls(**vars(split_slope(X, nu, 1, **geometry)))

    @property
    def rows(self):
        return self.convex

    def nodes(self):
        """Cones or signs, whichever is fitting, or None if the data are too large."""
        n_rows = len(self.convex) + len(self.concave)
        if prefers_cones(n_rows, self.rank):
            return Cones(self, n_rows)
        return Signs(self) if n_rows <= _MAX_SIGN_ROWS else None

    def polish(self, W):
        """Raise the slopes by convex-concave steps, each a least squares problem.

        With the signs of the convex rows fixed the slope is concave, and never
        above the true one.
        """
        return np.array([self._polish(w) for w in W])

    def _polish(self, w, max_iter=20):
        value = self.values(w)
        for _ in range(max_iter):
            if not fits():
                break
            pivots = self.pivots()
            nearest = np.argmin(np.abs(pivots @ w[: self.rank] + w[-1]))
            convex, concave = self.on_pivot(pivots[nearest])
            u = distance_to_zonotope(np.sign(self.convex @ w) @ convex, concave)
            if not np.any(u):
                break
            moved = self.best_biases(u[None] / np.linalg.norm(u))[0]
            new = self.values(moved)
            if new <= value * (1 + 1e-10):
                break
            w, value = moved, new
        return w

    def cone_bounds(self, V, gram, n_steps=4):
        """Bounds of the slope over the cones with unit generators ``V[k]``.

        No angle between generators may exceed that of an orthant, 90 degrees.
        The concave part is linearised with multipliers in [-1, 1] that take a few
        projected gradient steps; any of them give a bound.  The linear function
        ``c`` of the coefficients that is then to be maximised is at most the norm
        of any vector whose products with the generators are not below ``c``.  One
        such vector interpolates ``c``, another is a multiple of the centre, and
        the best point of the segment between them is taken.
        """
        r = self.rank
        heights = np.abs(V @ self.convex.T).sum(-1)
        inverse = np.linalg.inv(gram + 1e-14 * np.eye(r))
        length = np.sqrt(gram.sum(axis=(1, 2)))
        cosines = gram.sum(axis=2) / length[:, None]
        products = V @ self.concave.T
        decided = (products.min(axis=1) >= 0) | (products.max(axis=1) <= 0)
        middle = products.sum(axis=1)
        spread = np.maximum(np.abs(products).max(axis=1), 1e-300)
        multipliers = np.where(decided, np.sign(middle), middle / (r * spread))
        curvature = ((inverse @ products) * products).sum(axis=1)
        # Zero if all rows are decided, which leaves nothing to improve.
        curvature = (curvature * ~decided).sum(axis=1, keepdims=True)
        step = np.divide(
            2.0, curvature, out=np.zeros_like(curvature), where=curvature > 0
        )
        best = np.full(len(V), np.inf)
        for _ in range(n_steps):
            c = heights - (products @ multipliers[..., None])[..., 0]
            coefficients = (inverse @ c[..., None])[..., 0]
            # The ridge makes the interpolation inexact; the centre makes up for it.
            image = (gram @ coefficients[..., None])[..., 0]
            repair = np.maximum((c - image) / cosines, 0.0).max(axis=1)
            level = np.maximum(c / cosines, 0.0).max(axis=1)
            along = (coefficients * cosines).sum(axis=1)
            square = (coefficients * image).sum(axis=1)
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


class Signs:
    """Nodes of the search that fix signs of convex rows, zero where not fixed.

    Parameters
    ----------
    slope : SignedSlope
    """

    size = 1

    def __init__(self, slope):
        self.slope = slope

    def roots(self):
        root = np.zeros((1, len(self.slope.convex)))
        # The slope is even, so the sign of one row can be chosen.
        root[0, 0] = 1.0
        return root

    def examine(self, nodes, threshold):
        """Bound, the row where to split, -1 if there is none, and directions."""
        (signs,), slope = nodes, self.slope
        free = np.flatnonzero(signs == 0)
        columns = np.vstack([signs @ slope.convex, slope.convex[free]])
        bound, diagonal, correlation = policy_bound(slope, columns)
        # Rows that matter, and of which the relaxation does not know the sign.
        doubt = diagonal[1:] * (1.0 - np.abs(correlation[1:]))
        row = free[np.argmax(doubt)] if len(free) else -1
        signs = signs.copy()
        signs[free] = np.where(correlation[1:] >= 0, 1.0, -1.0)
        hopes = self._rounded(signs) if bound > threshold else slope.convex[:0]
        return np.array([bound]), np.array([row]), hopes

    def _rounded(self, signs):
        """Local search from the signs that the relaxation suggests."""
        slope, r = self.slope, self.slope.rank
        # A large weight makes the gradient along a free bias vanish.
        weight = np.ones(slope.convex.shape[1])
        weight[r:] = 1e3 * slope.radius
        u = distance_to_zonotope(
            signs @ (slope.convex * weight), slope.concave * weight
        )
        u = u[:r] if np.any(u[:r]) else np.ones(r)
        return slope.polish(slope.best_biases(u[None] / np.linalg.norm(u)))

    def split(self, nodes, rows):
        """Both signs of the row."""
        children = np.repeat(nodes, 2, axis=0)
        children[np.arange(len(children)), np.repeat(rows, 2)] = np.tile(
            [1.0, -1.0], len(nodes)
        )
        return children
