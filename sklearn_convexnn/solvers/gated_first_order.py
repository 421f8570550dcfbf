"""Accelerated proximal gradient steps for gated networks."""

from math import sqrt

import numpy as np

from sklearn_convexnn.solvers.gated_newton import Point
from sklearn_convexnn.solvers.gated_shrinkage import shrink, squares, widened


class Accelerated:
    """Steps with momentum, backtracking and restarts.

    With free constants the blocks add outputs of weighted mean zero, which is the
    same program and makes the constants independent of the blocks.

    Parameters
    ----------
    loss : GatedLoss
    alpha : float
    step : float
        Length to start with.
    unit : float
        Step in the constants in units of that in the blocks, 0 if they are not free.
    xp : namespace
    """

    def __init__(self, loss, alpha, step, unit, xp):
        self.loss, self.alpha, self.step, self.unit = loss, alpha, step, unit
        self.xp, self.pace = xp, 1.0
        self.share = loss.s / xp.sum(loss.s)

    def centred(self, point):
        """The point in the terms of this method, to start from anew."""
        self.pace = 1.0
        b = self.xp.sum(self.share * point.F, axis=0) if self.unit else point.b
        return Point(point.V, b, point.F)

    def advance(self, operator, now, before):
        """The next point with the nuclear norms of its blocks.

        Parameters
        ----------
        operator : GatedOperator
        now, before : Point
            The last two points.

        Returns
        -------
        point : Point or None
            None if no step is short enough.
        norms : array of shape (m,)
        """
        xp = self.xp
        pace = 0.5 * (1.0 + sqrt(1.0 + 4.0 * self.pace**2))
        momentum = (self.pace - 1.0) / pace
        V, b, F = (
            getattr(now, name) + momentum * (getattr(now, name) - getattr(before, name))
            for name in ("V", "b", "F")
        )
        value, gradient = self.loss.value(F), self.loss.gradient(F)
        total = xp.sum(gradient, axis=0)
        if self.unit:
            # The transpose of taking the means off the outputs of the blocks.
            slope = operator.adjoint(gradient - self.share * total)
        else:
            slope = operator.adjoint(gradient)
        for _ in range(100):
            V_new, norms = shrink(V - self.step * slope, self.step * self.alpha, xp)
            b_new = b - self.step * self.unit * total
            F_new = operator.forward(V_new)
            if self.unit:
                F_new = F_new - xp.sum(self.share * F_new, axis=0) + b_new
            length = float(squares(V_new - V, xp))
            if self.unit:
                length += float(xp.sum((b_new - b) ** 2)) / self.unit
            rise = self._rise(F, F_new, value, gradient)
            ratio = 2.0 * rise * self.step / length if length > 0 else 0.0
            if ratio <= 1.0 + 1e-9:
                break
            self.step *= 0.9 / min(ratio, 1e3) if np.isfinite(ratio) else 0.1
        else:
            return None, None
        turning = float(xp.sum(widened(V - V_new, xp) * (V_new - now.V)))
        if self.unit:
            turning += float(xp.sum((b - b_new) * (b_new - now.b))) / self.unit
        self.pace = 1.0 if turning > 0 else pace
        # A step that has become too short for the surroundings may grow again.
        self.step *= 1.02
        return Point(V_new, b_new, F_new), norms

    def _rise(self, F, F_new, value, gradient):
        """By how much the loss rises above its tangent between two outputs."""
        xp = self.xp
        change = F_new - F
        with np.errstate(over="ignore", invalid="ignore"):
            reached = self.loss.value(F_new)
            rise = reached - value - float(xp.sum(gradient * change))
            if rise < 1e-10 * (abs(value) + abs(reached)):
                # Too small to be seen in the values.
                bent = self.loss.gradient(F_new) - gradient
                rise = 0.5 * float(xp.sum(bent * change))
        return rise if np.isfinite(rise) else np.inf
