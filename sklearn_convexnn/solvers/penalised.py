"""The penalised form of restricted programs, for proximal gradient methods."""

from contextlib import suppress
from time import perf_counter

import numpy as np

from sklearn_convexnn._utils.breakdown import BREAKDOWNS
from sklearn_convexnn._utils.threads import blas_threads_for
from sklearn_convexnn.solvers._array_program import ArrayProgram
from sklearn_convexnn.solvers._directions import Directions

# Accelerated steps between two looks at the gap.
_STEPS = 20
# Weight of the penalty relative to the largest multiplier seen: above one, it is exact.
_EXACT = 2.0
# Violations up to which the penalty is quadratic, relative to the largest slack: the
# first, the last and the factor between them.
_SMOOTH, _SMOOTHEST, _LESS = 0.1, 1e-5, 0.7


def solve_penalised(
    program, *, tol=1e-6, max_iter=200, deadline=np.inf, callback=None, like=None
):
    r"""Solve a restricted program with a penalty in place of its cones.

    The papers' way to large programs:

    .. math::
        \min_\theta\; L(f) + \alpha \sum_b \|\theta_b\|
        + \rho \sum_b 1^T (-S_b M \theta_b)_+

    by an accelerated proximal gradient method with restarts and backtracking.
    The corner of the penalty is smoothed, less and less.  With :math:`\rho`
    above the largest multiplier it is exact; with less, its blocks are
    outside their cones, and its value is below that of any network.

    So the value is never reported.  After every 20 steps, which count as one
    iteration, the blocks are moved into their cones, where they stand for a
    network, and compete for magnitudes with the steepest directions of the
    cones, as in `solve_direction_generation`; the objective and the bound are
    those of that, and :math:`\rho` is twice the largest multiplier found.

    Parameters
    ----------
    program : Program
        With a smooth loss and without open sides.
    tol : float, default=1e-6
        Stop when the duality gap is at most `tol` times the objective.
    max_iter : int, default=200
    deadline : float, default=inf
        Value of ``time.perf_counter()`` at which to stop.
    callback : callable or None
        Called with the iteration, objective and dual bound.
    like : array, default=None
        The steps use its array namespace, its device and its type of numbers;
        those of the program's data if None.

    Returns
    -------
    result : SolverResult
        Of NumPy arrays in any case.

    Raises
    ------
    ValueError
        If the loss is not smooth.

    References
    ----------
    .. [1] Ergen, T. and Pilanci, M. (2021). "Global Optimality Beyond Two
       Layers: Training Deep ReLU Networks via Convex Programs". ICML.
    .. [2] O'Donoghue, B. and Candes, E. (2015). "Adaptive Restart for
       Accelerated Gradient Schemes". Foundations of Computational Mathematics
       15.
    """
    if not program.loss.smooth:
        raise ValueError(
            "solver='penalised' follows gradients and needs a smooth loss, but "
            f"loss={program.loss.name!r}; use solver='augmented_lagrangian' or "
            "'interior_point'."
        )
    with blas_threads_for(program.operator.p):
        directions = Directions(program, tol, deadline, callback)
        n_iter, smooth = 0, _SMOOTH
        with suppress(*BREAKDOWNS), np.errstate(all="ignore"):
            like = program.operator.M if like is None else like
            descent = _Descent(program, like)
            directions.add_starts()
            while True:
                status = directions.round()
                if status is None and n_iter >= max_iter:
                    status = "max_iter"
                if status is not None:
                    return directions.result(status, n_iter)
                slack = np.max(program.operator.cone(directions.theta), initial=0.0)
                if n_iter == 0:
                    descent.theta = descent.arrays.array(directions.theta.T)
                weight = _EXACT * np.max(directions.rho, initial=0.0)
                descent.run(_STEPS, float(weight), float(smooth * slack), deadline)
                directions.add_nearest(descent.arrays.blocks(descent.theta))
                n_iter, smooth = n_iter + 1, max(_LESS * smooth, _SMOOTHEST)
        return directions.broken(n_iter)


class _Descent:
    """Iterate of the accelerated proximal gradient method."""

    def __init__(self, program, like):
        self.arrays = arrays = ArrayProgram(program, like)
        self.theta = arrays.zeros(arrays.shape)
        self.step = 1.0 / (arrays.curvature * float(np.linalg.norm(arrays.gram, 2)))

    def run(self, n_steps, weight, smooth, deadline):
        """Take steps for a `weight` of the penalty that is quadratic up to `smooth`."""
        arrays = self.arrays
        penalty = weight, max(smooth, arrays.tiny**0.5)
        point, inertia = self.theta, 1.0
        for _ in range(n_steps):
            if perf_counter() > deadline:
                return
            value, gradient = self._smooth_part(point, *penalty)
            new = self._descend(point, value, gradient, penalty)
            if float(arrays.xp.sum((point - new) * (new - self.theta))) > 0:
                # The inertia points uphill.
                inertia = 1.0
            following = 0.5 + (0.25 + inertia**2) ** 0.5
            factor = (inertia - 1.0) / following
            point, inertia = new + factor * (new - self.theta), following
            self.theta = new

    def _descend(self, point, value, gradient, penalty):
        """Proximal step from `point`, shorter until the model is above the value."""
        arrays, xp = self.arrays, self.arrays.xp
        self.step *= 1.2
        while True:
            threshold = self.step * float(arrays.program.alpha)
            new = arrays.shrink(point - self.step * gradient, threshold)
            change = new - point
            length = float(xp.sum(change**2))
            model = value + float(xp.sum(gradient * change)) + 0.5 * length / self.step
            reached, _ = self._smooth_part(new, *penalty, with_gradient=False)
            if reached <= model + 10.0 * arrays.eps * abs(value):
                return new
            self.step *= 0.5

    def _smooth_part(self, theta, weight, smooth, with_gradient=True):
        """Loss plus penalty, and their gradient."""
        arrays, xp = self.arrays, self.arrays.xp
        value, gradient = 0.0, arrays.zeros(arrays.shape)
        for rows in arrays.chunks:
            M, masks, signs = (
                part[rows, :] for part in (arrays.M, arrays.masks, arrays.signs)
            )
            z = M @ theta
            f, y, s = xp.vecdot(masks, z), arrays.y[rows], arrays.s[rows]
            outside = xp.clip(-signs * z, min=0.0)
            inner = xp.clip(outside, max=smooth)
            excess = xp.sum(inner * (outside - 0.5 * inner))
            value += float(xp.sum(s * arrays.loss.terms(f, y, xp)))
            value += weight / smooth * float(excess)
            if with_gradient:
                slopes = s * arrays.loss.slopes(f, y, xp)
                push = masks * slopes[:, None] - (weight / smooth) * signs * inner
                gradient = gradient + M.T @ push
        return value, gradient
