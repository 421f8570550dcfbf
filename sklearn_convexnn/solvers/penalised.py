"""The penalised form of restricted programs, by accelerated gradient steps."""

from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from sklearn_convexnn._utils.threads import blas_threads_for
from sklearn_convexnn.solvers._array_program import ArrayProgram, NumpyProgram
from sklearn_convexnn.solvers._directions import Directions

# Part of the time left that the steps between two looks at the gap may take.
_DESCENT = 0.7
# Weight of the penalty relative to the largest multiplier seen: above one, it is exact.
_EXACT = 2.0
# Step that only numbers which are not finite lead to.
_SHORTEST = 1e-290
# The gap has to fall by a factor in so many iterations, or no more is to be expected.
_PROGRESS = 0.9, 50
# Steps of the power method, of which the order of magnitude is wanted.
_POWER = 10


def solve_penalised(
    program,
    *,
    tol=1e-6,
    max_iter=200,
    deadline=np.inf,
    callback=None,
    like=None,
    contest=Directions,
    penalty=None,
):
    r"""Solve a restricted program with a penalty in place of its cones.

    The papers' way to large programs:

    .. math::
        \min_\theta\; L\Big(\sum_b F_b \theta_b\Big)
        + \alpha \sum_b \sum_j \|\theta_{bj}\|
        + \rho \sum_b 1^T (-A_b \theta_b)_+

    by an accelerated proximal gradient method with restarts and backtracking.
    With :math:`\rho` above the largest multiplier it is exact; with less, its blocks
    are outside of their cones, and its value is below that of any network.

    So the value is never reported.  After some steps, which count as one iteration,
    the blocks enter a contest, which makes a network of them and of those before:
    the objective and the bound are those of the contest.  With single units the blocks
    are moved into their cones and compete for magnitudes with the steepest directions
    of the cones, as in `solve_direction_generation`.

    Parameters
    ----------
    program : Program
        With a smooth loss and without open sides.
    tol, max_iter, deadline, callback
        As of `solve_interior_point`.
    like : array, default=None
        With single units, the steps use its array namespace, its device and its type
        of numbers; those of the program's data if None.
    contest : callable, default=Directions
        Makes the `Contest` of a program, given `tol`, `deadline` and `callback`.
    penalty : float, default=None
        The weight :math:`\rho`.  If None, it is twice the largest multiplier seen.

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
       Equation 16.
    .. [2] O'Donoghue, B. and Candes, E. (2015). "Adaptive Restart for
       Accelerated Gradient Schemes". Foundations of Computational Mathematics
       15.
    """
    check_smooth(program.loss, program.operator.single_units)
    with blas_threads_for(program.operator.p):
        best = contest(program, tol, deadline, callback)

        def steps():
            descent = _Descent(program, like, best, penalty)

            def step():
                now = perf_counter()
                # Some time is for the network that comes of them.
                descent.run(best.steps, now + _DESCENT * (deadline - now))
                best.enter(descent.blocks(), descent.update_multipliers())
                descent.outweigh(best.rho)

            return step

        return best.run(steps, max_iter, _PROGRESS)


def check_smooth(loss, single_units):
    """Raise ValueError for a loss with kinks.

    Parameters
    ----------
    loss : Loss or Separable
    single_units : bool
        Whether the blocks are of single units, for which there are other solvers.
    """
    if not loss.smooth:
        others = "'interior_point'"
        if single_units:
            others = f"'augmented_lagrangian' or {others}"
        raise ValueError(
            "solver='penalised' follows gradients and needs a smooth loss, but "
            f"loss={loss.name!r}; use solver={others}."
        )


@dataclass(frozen=True)
class Penalty:
    """What being outside of the cones costs, and its slopes.

    The corner is smoothed around known multipliers: the slopes are those within ``[0,
    weight]`` at which ``-rho z - (rho - centre)^2 / (2 stiffness)`` is largest, at
    slacks ``z``.  As the centres converge to the multipliers of the solution, the
    corner need not become sharper, which would slow the steps down.

    Attributes
    ----------
    weight, stiffness : float
    centre : array of shape (n_cones, n_constraints), or as the slacks are
    """

    weight: float
    stiffness: float
    centre: object

    def at(self, slack, centre, xp):
        """Slopes at some slacks, and what these cost, up to a constant."""
        wanted = centre - self.stiffness * slack
        rho = xp.clip(wanted, min=0.0, max=self.weight)
        cost = xp.sum(xp.vecdot(rho, wanted)) - 0.5 * xp.sum(xp.vecdot(rho, rho))
        return rho, float(cost) / self.stiffness


class _Descent:
    """Iterate of the accelerated proximal gradient method."""

    def __init__(self, program, like, best, weight=None):
        op = program.operator
        if op.single_units:
            self.arrays = ArrayProgram(program, op.M if like is None else like)
        else:
            self.arrays = NumpyProgram(program)
        self.theta = self.point = self.arrays.of_blocks(best.theta, best.offset)
        self.inertia = 1.0

        f = np.full(op.n_samples, program.null_offset())
        bend = np.max(program.loss.curvature(f, program.y, program.sample_weight))
        loss_part = bend * _largest(lambda t: op.adjoint(op.forward(t)), op, None)
        cone_part = _largest(lambda t: op.cone_adjoint(op.cone(t) * op.own), op, 1)
        # The smoothed corners bend as much as the loss does.
        self.step = float(0.5 / max(loss_part, 1e-300))
        self.fixed = weight is not None
        if not self.fixed:
            weight = _EXACT * np.max(np.abs(best.nu), initial=0.0)
        centre = self.arrays.zeros(self.arrays.multipliers_shape)
        stiffness = float(loss_part / max(cone_part, 1e-300))
        self.penalty = Penalty(float(weight), stiffness, centre)

    def blocks(self):
        """Blocks of the program."""
        return self.arrays.blocks(self.theta)

    def update_multipliers(self):
        """Centre the penalty at its slopes, and return them."""
        centre = self.arrays.multipliers(self.theta, self.penalty)
        self.penalty = replace(self.penalty, centre=centre)
        self.outweigh(centre, self.arrays.xp)
        return centre

    def outweigh(self, rho, xp=np):
        """Let the penalty be above the multipliers `rho`."""
        if not self.fixed and 0 not in rho.shape:
            weight = max(self.penalty.weight, _EXACT * float(xp.max(rho)))
            self.penalty = replace(self.penalty, weight=weight)

    def run(self, n_steps, deadline):
        """Take steps, with the inertia of those before.

        Raises
        ------
        FloatingPointError
            If no step is short enough.
        """
        for _ in range(n_steps):
            if perf_counter() > deadline:
                return
            new = self._descend(self.point)
            uphill = self.arrays.xp.sum((self.point - new) * (new - self.theta))
            if float(uphill) > 0:
                # The inertia points uphill.
                self.inertia = 1.0
            following = 0.5 + (0.25 + self.inertia**2) ** 0.5
            factor = (self.inertia - 1.0) / following
            self.point = new + factor * (new - self.theta)
            self.theta, self.inertia = new, following

    def _descend(self, point):
        """Proximal step from `point`, shorter until the model is above the value."""
        arrays, xp = self.arrays, self.arrays.xp
        value, gradient = arrays.penalised(point, self.penalty)
        rounding = 10.0 * arrays.eps * abs(value)
        alpha = float(arrays.program.alpha)
        self.step *= 1.2
        while self.step > _SHORTEST:
            new = arrays.shrink(point - self.step * gradient, self.step * alpha)
            change = new - point
            model = value + float(xp.sum(gradient * change))
            model += 0.5 * float(xp.sum(change**2)) / self.step
            reached, _ = arrays.penalised(new, self.penalty, with_gradient=False)
            if reached <= model + rounding:
                return new
            self.step *= 0.5
        raise FloatingPointError("no step is short enough")


def _largest(product, op, axis):
    """Largest eigenvalue of a product, of that of each block by `axis`, about."""
    theta = np.random.RandomState(0).standard_normal((op.n_blocks, op.p))
    sizes = np.zeros(1)
    for _ in range(_POWER):
        sizes = np.sqrt(np.sum(theta**2, axis=axis, keepdims=True))
        theta = product(theta / np.maximum(sizes, 1e-300))
    return float(np.max(np.sqrt(np.sum(theta**2, axis=axis)), initial=0.0))
