"""Bounds of the slope of several outputs over cones."""

from dataclasses import dataclass

import numpy as np

from sklearn_convexnn.families.two_layer.cones import Cones
from sklearn_convexnn.families.two_layer.directions import Directions

# Cones up to this rank, a free bias being one more coordinate; the number of
# cones grows exponentially with it.
_MAX_CONE_RANK = 6


@dataclass(frozen=True)
class NormSlope(Directions):
    """The slope ``||N^T act(X u + b)||`` as branch and bound needs it.

    Attributes
    ----------
    rows : ndarray of shape (n_samples, n_coordinates)
        ``X``, and a column of ones if the bias is free.
    weights : ndarray of shape (n_samples, n_outputs)
        ``N``, whose columns sum to zero if the bias is free.
    free_bias : bool
    negative_slope : float
    """

    rows: np.ndarray
    weights: np.ndarray
    free_bias: bool
    negative_slope: float

    # By how much it may be wrong.
    slack = 0.0

    @property
    def rank(self):
        return self.rows.shape[1] - self.free_bias

    @property
    def even(self):
        return self.negative_slope == -1

    def nodes(self):
        """Cones, or None if the data are of too high a rank."""
        if self.rank + self.free_bias <= _MAX_CONE_RANK:
            return Cones(self, len(self.rows))
        return None

    def _activations(self, T):
        return np.maximum(T, self.negative_slope * T)

    def values(self, W):
        """Slopes of directions, shape (..., n_coordinates), of any length."""
        F = self._activations(W @ self.rows.T) @ self.weights
        return np.linalg.norm(F, axis=-1) / np.linalg.norm(W[..., : self.rank], axis=-1)

    def gradients(self, W):
        """Gradients along ``u``, with the nearest sample kept on the hyperplane."""
        T = W @ self.rows.T
        F = self._activations(T) @ self.weights
        F /= np.maximum(np.linalg.norm(F, axis=1, keepdims=True), 1e-300)
        pull = np.where(T > 0, 1.0, self.negative_slope) * (F @ self.weights.T)
        gradients = pull @ self.rows
        if self.free_bias:
            nearest = self.rows[np.abs(T).argmin(axis=1), :-1]
            gradients = gradients[:, :-1] - gradients[:, -1:] * nearest
        return gradients

    def pivots(self):
        """Points ``p`` such that some best bias is ``-p^T u``.

        Along the bias the slope is convex between two samples and constant beyond
        the data: some best one puts a sample on the hyperplane.
        """
        return self.rows[:, :-1] if self.free_bias else np.zeros((1, self.rank))

    def best_biases(self, U):
        """Directions ``w`` with the best bias for each row of `U`."""
        if not self.free_bias:
            return U
        T = U @ self.rows[:, :-1].T
        order = np.argsort(T, axis=1)
        T = np.take_along_axis(T, order, axis=1)[..., None]
        weights = self.weights[order]
        # Sums over the samples that are not beyond each one.
        total, moment = np.cumsum(weights, axis=1), np.cumsum(weights * T, axis=1)
        below = moment - T * total
        above = moment[:, -1:] - T * total[:, -1:] - below
        F = above + self.negative_slope * below
        best = np.argmax((F**2).sum(axis=2), axis=1)
        return np.column_stack([U, -T[np.arange(len(U)), best]])

    def polish(self, W):
        """Raise the slopes by small gradient steps."""
        U = W[:, : self.rank]
        return self.ascend(U / np.linalg.norm(U, axis=1, keepdims=True), step=0.1)

    def best_in_plane(self, pivot):
        """Direction ``u`` of the largest slope on a pivot, of rank two."""
        rows = self.rows[:, :2] - pivot
        nonzero = np.any(rows != 0, axis=1)
        rows, weights = rows[nonzero], self.weights[nonzero]
        if not len(rows):
            return np.array([1.0, 0.0])
        normal = np.arctan2(rows[:, 1], rows[:, 0])
        enter, leave = (
            np.mod(normal + turn, 2 * np.pi) for turn in (-np.pi / 2, np.pi / 2)
        )
        products = weights[:, :, None] * rows[:, None, :]
        jumps = (1.0 - self.negative_slope) * products
        kinks = np.concatenate([enter, leave])
        order = np.argsort(kinks)
        kinks, jumps = kinks[order], np.concatenate([jumps, -jumps])[order]
        # Positive at the angle zero are the rows that leave before they enter.
        active = np.where(leave < enter, 1.0, self.negative_slope)
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
        return np.array([np.cos(angle), np.sin(angle)])

    def cone_bounds(self, V, gram):
        """Bounds of the slope over the cones with unit generators ``V[k]``.

        No angle between generators may exceed that of an orthant, 90 degrees.

        Write ``f(u) = N^T act(X u)``.  On a cone, ``||f||^2 = f^T f`` does not
        decrease if samples with ``f^T n_i >= 0`` are replaced by the interpolation
        of their activation between the generators, and the others by a line below
        it.  It matters little that the sign of some ``f^T n_i`` is not known: these
        products are small themselves.
        """
        N, a = self.weights, self.negative_slope
        lengths = np.linalg.norm(N, axis=1)
        T = V @ self.rows.T
        activations = self._activations(T)
        F = activations @ N
        cosines = gram.sum(axis=2) / np.sqrt(gram.sum(axis=(1, 2)))[:, None]
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
        crude = total * (np.linalg.norm(F, axis=2).max(axis=1) + drift)

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
        square = _linear_bounds(V[..., : self.rank], gram, cosines, linear)
        # ||f||^2 <= ||f|| ||linear|| + rest.
        sharp = 0.5 * (np.sqrt(square) + np.sqrt(square + 4.0 * rest))
        return np.minimum(crude, sharp)


def _linear_bounds(V, gram, cosines, F):
    r"""Bounds of ``||F^T l||^2`` over ``l >= 0`` with ``||V^T l|| = 1``.

    They are the largest eigenvalue of a symmetric ``S`` such that ``V S V^T``
    is nowhere below ``F F^T``: the smaller one of those of a multiple of
    ``centre centre^T`` and of the square of the linear map from `V` to `F`.
    """
    centre = V.sum(axis=1)
    centre /= np.linalg.norm(centre, axis=1, keepdims=True)
    squares = F @ F.transpose(0, 2, 1)
    corners = cosines[:, :, None] * cosines[:, None, :]
    level = (squares / corners).max(axis=(1, 2))
    Vt = V.transpose(0, 2, 1)
    image = Vt @ np.linalg.inv(gram + 1e-14 * np.eye(V.shape[1])) @ F
    S = image @ image.transpose(0, 2, 1)
    # The ridge makes the map inexact; the centre makes up for it.
    missing = squares - V @ S @ Vt
    repair = np.maximum(missing / corners, 0.0).max(axis=(1, 2))
    S += repair[:, None, None] * centre[:, :, None] * centre[:, None, :]
    return np.minimum(level, np.linalg.eigvalsh(S)[:, -1])
