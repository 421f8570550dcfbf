"""Proximal point method of gated networks, its steps by a semismooth Newton method.

A step of size ``sigma`` from the blocks ``V'`` and constants ``b'`` minimises

    L(F) + alpha sum_i ||V_i||_* + ||V - V'||^2 / (2 sigma) + ||b - b'||^2 / (2 sigma_b)

with ``F = sum_i D_i X V_i + 1 b^T``.  Its solution is ``V = shrink(V' - sigma G(F))``,
where ``G`` is the gradient in the blocks, so that only the outputs ``F`` are unknown,

    F = sum_i D_i X shrink(V' - sigma G(F))_i + 1 (b' - sigma_b 1^T grad L(F))^T .

The equations are piecewise smooth.  Newton's method needs the derivative of the
shrinkage, which is zero for blocks that are shrunk to zero, and with a factor
``S S^T`` of the second derivative of the loss a positive definite system

    (I + S^T K S) x = r,    K = sigma sum_i D_i X J_i X^T D_i + sigma_b 1 1^T .

For one output ``sum_i (1 - r_i) D_i X X^T D_i`` is the product, entry by entry, of
``X X^T`` and a Gram matrix of the masks: that makes the matrix of the system for the
price of one of the number of patterns, whatever the number of features.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from sklearn_convexnn.solvers.gated_shrinkage import (
    MatrixSlope,
    VectorSlope,
    shrink,
    squares,
)

# Bytes of the matrix of the system, above which only products with it are formed.
_LARGEST_MATRIX = 2**28
_MOST_NEWTON, _MOST_PRODUCTS = 25, 500

# Part of its right-hand side to which a system is solved.
_INEXACT = 0.03


@dataclass(frozen=True)
class Point:
    """Blocks, constants and the outputs that follow from them."""

    V: object
    b: object
    F: object


@dataclass(frozen=True)
class _State:
    """Outputs and all that the equations of a step say of them."""

    F: object
    V: object  # shrunk blocks
    b: object
    Z: object  # blocks before the shrinkage
    norms: object
    merit: float
    scale: float  # of the terms of the merit


class ProximalPoint:
    """Steps of the proximal point method.

    Parameters
    ----------
    loss : GatedLoss
    alpha : float
    unit : float
        Step in the constants in units of that in the blocks, 0 if they are not free.
    budget : Budget
        What may be spent.
    xp : namespace
    """

    def __init__(self, loss, alpha, unit, budget, xp):
        self.loss, self.alpha, self.unit = loss, alpha, unit
        self.budget, self.xp = budget, xp
        self.factor, self.kernel = None, None

    @staticmethod
    def matrix_work(operator, n_outputs):
        """Floating point operations to form and factor the matrix, inf if too large."""
        n, bits = operator.n_samples, 4 if "32" in str(operator.dtype) else 8
        if n_outputs > 1 or bits * n * n > _LARGEST_MATRIX:
            return np.inf
        return 2.0 * n * n * operator.m + n**3 / 3.0

    def step(self, operator, point, F, sigma, accuracy):
        """One step.

        Parameters
        ----------
        operator : GatedOperator
        point : Point
            Where to step from.
        F : array of shape (n_samples, n_outputs)
            Where the Newton method starts.
        sigma : float
        accuracy : float
            Of the objective, that is enough.

        Returns
        -------
        point : Point
        F : array of shape (n_samples, n_outputs)
            Outputs that the Newton method ends with: at them the gradient of the
            loss is a better dual point than at those of `point`.
        solved : bool
            Whether the equations are solved as far as is useful.
        """
        xp, op, loss = self.xp, operator, self.loss
        self.operator = operator
        state = self._state(F, point, sigma)
        for _ in range(_MOST_NEWTON):
            outputs = op.forward(state.V) + state.b
            residual = state.F - outputs
            root = loss.root(state.F)
            r = -root.transposed(residual)
            moved = float(squares(state.V - point.V, xp)) / sigma
            if self.unit:
                moved += float(xp.sum((state.b - point.b) ** 2)) / (sigma * self.unit)
            # Twice, as nothing is seen in `r` where the loss is linear.
            bent = loss.gradient(state.F) - loss.gradient(outputs)
            error = max(float(xp.sum(r * r)), float(xp.sum(residual * bent)))
            solved = error <= max(0.1 * moved, accuracy)
            if solved or self.budget.spent():
                break
            x, product = self._solve(state, root, r, sigma)
            # Errors of the solution would grow in the equations themselves.
            change = root.solution(x, -residual - product)
            new = self._search(state, change, -float(xp.sum(r * x)), point, sigma)
            if new is None:
                break
            state = new
        else:
            outputs = op.forward(state.V) + state.b
        return Point(state.V, state.b, outputs), state.F, solved

    def _state(self, F, point, sigma):
        xp, loss = self.xp, self.loss
        gradient = loss.gradient(F)
        Z = point.V - sigma * self.operator.adjoint(gradient)
        V, norms = shrink(Z, sigma * self.alpha, xp)
        b, size = point.b, float(squares(V, xp)) / (2.0 * sigma)
        if self.unit:
            b = b - sigma * self.unit * xp.sum(gradient, axis=0)
            size += float(xp.sum(b * b)) / (2.0 * sigma * self.unit)
        value, product = loss.value(F), float(xp.sum(F * gradient))
        merit = product - value + size
        return _State(F, V, b, Z, norms, merit, abs(product) + abs(value) + size)

    def _search(self, state, change, slope, point, sigma):
        """A point along `change` that lowers the merit, or None."""
        rounding = 10.0 * float(self.xp.finfo(self.operator.dtype).eps)
        size = 1.0
        for _ in range(30):
            new = self._state(state.F + size * change, point, sigma)
            fall = 1e-4 * size * slope + rounding * max(state.scale, 1e-300)
            if new.merit <= state.merit + fall:
                return new
            size *= 0.5
        return None

    def _solve(self, state, root, r, sigma):
        """Solution ``x`` of the Newton system with the right-hand side `r`, and K S x.

        By conjugate gradients, preconditioned by a factor of the matrix where that
        costs less than their products; one factor serves several systems.
        """
        xp, op = self.xp, self.operator
        which = xp.nonzero(state.norms > 0)[0]
        active, Z = op, state.Z
        if which.shape[0] < op.m:
            active, Z = op.restricted(which), xp.take(Z, which, axis=2)
        kind = VectorSlope if min(Z.shape[:2]) == 1 else MatrixSlope
        slope = kind(Z, sigma * self.alpha, xp) if active.m else None

        def K(N):
            F = self.unit * sigma * xp.sum(N, axis=0) + xp.zeros_like(N)
            if active.m:
                F = F + sigma * active.forward(slope(active.adjoint(N)))
            return F

        fresh, most = False, _MOST_PRODUCTS
        work = self.matrix_work(active, r.shape[1])
        if np.isfinite(work):
            # Products that take as long as a new factor.
            n = op.n_samples
            per_product = 4.0 * n * op.n_features * active.m + 2.0 * n * n
            most = max(4, min(50, int(work / per_product)))
            if self.factor is None:
                self._factorise(active, slope, root, sigma)
                fresh = True
        while True:
            x, Kx, n_products = self._conjugate_gradients(K, root, r, most)
            enough = n_products < most or self.budget.spent()
            if enough or fresh or not np.isfinite(work):
                return x, Kx
            self._factorise(active, slope, root, sigma)
            fresh, most = True, _MOST_PRODUCTS

    def _factorise(self, active, slope, root, sigma):
        """Factor of the matrix, None if rounding has left it indefinite."""
        xp, op = self.xp, self.operator
        if self.kernel is None:
            self.kernel = op.kernel()
        masks = active.masks_as_floats()
        along = masks * (op.X @ slope.z[0, ...])
        matrix = (masks * (1.0 - slope.r)) @ masks.T
        matrix *= self.kernel
        matrix += (along * slope.r) @ along.T
        matrix += self.unit
        scale = xp.astype(root.scale, op.dtype)
        matrix *= sigma * scale
        matrix *= scale.T
        matrix += xp.eye(op.n_samples, dtype=op.dtype, device=op.device)
        self.factor = _Factor.of(matrix, xp)

    def _conjugate_gradients(self, K, root, r, most):
        """Solution to a part of the right-hand side, ``K S x``, and products."""
        xp = self.xp
        x, Kx, p = xp.zeros_like(r), xp.zeros_like(r), xp.zeros_like(r)
        n_products, first, before = 0, None, 1.0
        while n_products < most:
            z = r if self.factor is None else self.factor.solve(r)
            # With a factor, this is the square of the error in the norm of the system.
            fall = float(xp.sum(r * z))
            first = fall if first is None else first
            if not fall > _INEXACT**2 * first:
                break
            p = z + (fall / before) * p
            Kp = K(root.times(p))
            product = p + root.transposed(Kp)
            length = fall / float(xp.sum(p * product))
            x, Kx, r = x + length * p, Kx + length * Kp, r - length * product
            n_products, before = n_products + 1, fall
            if self.budget.spent(1):
                break
        return x, Kx, n_products


class _Factor:
    """Cholesky factor of a positive definite matrix."""

    def __init__(self, factor, xp):
        self.factor, self.xp = factor, xp

    @classmethod
    def of(cls, matrix, xp):
        """The factor, or None if the matrix is not positive definite."""
        if isinstance(matrix, np.ndarray):
            try:
                return cls(
                    cho_factor(matrix, True, overwrite_a=True, check_finite=False), xp
                )
            except LinAlgError:
                return None
        return cls(xp.linalg.inv(matrix), xp)

    def solve(self, r):
        """Solution for the right-hand side `r`."""
        if isinstance(r, np.ndarray):
            solution = cho_solve(self.factor, r, check_finite=False)
            return solution.astype(r.dtype, copy=False)
        rounded = self.xp.astype(r, self.factor.dtype)
        return self.xp.astype(self.factor @ rounded, r.dtype)
