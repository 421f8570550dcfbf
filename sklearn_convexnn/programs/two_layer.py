"""The convex program of two-layer networks over given activation patterns."""

import numpy as np

from sklearn_convexnn.programs.base import Program
from sklearn_convexnn.programs.masked_operator import MaskedOperator


class TwoLayerProgram(Program):
    r"""Restricted convex program of a two-layer network with one output.

    For patterns :math:`D_i`, with :math:`S_i = 2 D_i - I`,

    .. math::
        \min_{v, u}\; L\Big(\sum_i D_i X (v_i - u_i)\Big)
        + \alpha \sum_i (\|v_i\|_2 + \|u_i\|_2)
        \quad\text{s.t.}\quad S_i X v_i \ge 0,\; S_i X u_i \ge 0 .

    With `fit_intercept` the blocks get a free offset, ``v_i`` acts as
    ``X v_i + e_i``, and a free constant ``b0`` is added to the outputs.  The
    pattern on which all samples are active is then a linear term: one block
    without a cone, whose offset is part of ``b0``.

    Parameters
    ----------
    problem : Problem
    arrangement : Arrangement
        Patterns of the data, formed with ``free_bias=fit_intercept``.
    outputs : ndarray of shape (n_patterns,), default=None
        Signs of the outputs.  If None, each pattern has a block of either sign.
    open_sides : ndarray of bool, shape (n_patterns, n_samples), default=None
        As of `MaskedOperator`.

    References
    ----------
    .. [1] Pilanci, M. and Ergen, T. (2020). "Neural Networks are Convex
       Regularizers: Exact Polynomial-time Convex Optimization Formulations
       for Two-layer Networks". ICML. Theorem 1 and Section 3.
    """

    def __init__(self, problem, arrangement, *, outputs=None, open_sides=None):
        super().__init__(problem)
        self.complete = arrangement.complete
        X, slope = problem.X, problem.family.negative_slope
        patterns, gates = arrangement.patterns, arrangement.gates
        if outputs is None:
            keep = _useful(patterns, self.fit_intercept, slope)
            patterns, gates = patterns[keep], gates[keep]
        starts = gates[:, : X.shape[1]] @ self._basis
        M = X @ self._basis
        self.n_penalised = M.shape[1]
        if self.fit_intercept:
            M = np.column_stack([M, np.full(len(X), self._unit)])
            starts = np.column_stack([starts, gates[:, -1] / self._unit])
        self.operator = op = MaskedOperator(
            M,
            patterns,
            self.n_penalised,
            outputs=outputs,
            open_sides=open_sides,
            negative_slope=slope,
            linear=self.fit_intercept,
        )
        self.starts = np.zeros((op.n_blocks, op.p))
        self.starts[: op.n_cones] = np.tile(starts, (1 + op.paired, 1))

    def start_near(self, weights, offsets, straight, constant, nu, objective):
        """Have the interior point method start near a known network.

        Parameters
        ----------
        weights : ndarray of shape (n_cones, n_features)
        offsets : ndarray of shape (n_cones,)
        straight : ndarray of shape (n_features,)
            The linear block.
        constant : float
        nu : ndarray of shape (n_samples,)
        objective : float
        """
        op = self.operator
        theta = np.zeros((op.n_blocks, op.p))
        theta[: op.n_cones, : self.n_penalised] = weights @ self._basis
        if self.fit_intercept:
            theta[: op.n_cones, -1] = offsets / self._unit
            theta[-1, : self.n_penalised] = straight @ self._basis
        count = op.n_cones * op.n_constraints + len(op.open[0]) + op.n_blocks
        # A tenth of the objective: closer starts cost more iterations.
        mu = 0.1 * objective / count
        self.warm_start = {"theta": theta, "offset": constant, "nu": nu, "mu": mu}

    def active_everywhere(self, theta):
        """Blocks that are a linear term and a constant on the data, as a mask."""
        op = self.operator
        z = theta[: op.n_cones] @ op.M.T
        active = np.zeros(len(theta), dtype=bool)
        active[: op.n_cones] = np.all(z > 0, axis=1)
        return active

    def matrices(self, b):
        """``F_b`` and ``A_b`` of a block, as they stand in the paper."""
        op = self.operator
        if b >= op.n_cones:
            F = np.zeros(op.M.shape)
            F[:, : op.n_penalised] = op.M[:, : op.n_penalised]
            return F, np.zeros((0, op.p))
        half, pattern = divmod(b, max(op.n_patterns, 1))
        sign = op.outputs[pattern] * (1 - 2 * half)
        F = sign * op.masks[pattern][:, None] * op.M
        return F, op.signs[pattern][:, None] * op.cone_rows

    def expand(self, theta):
        """Blocks in coordinates of the features.

        Parameters
        ----------
        theta : ndarray of shape (n_blocks, p)

        Returns
        -------
        weights : ndarray of shape (n_blocks, n_features)
        offsets : ndarray of shape (n_blocks,)
            Zero without `fit_intercept`, and for the linear block.
        signs : ndarray of shape (n_blocks,)
            Output sign of each block, +1 or -1.
        linear : ndarray of bool, shape (n_blocks,)
            The block that is active on all samples.
        """
        weights = theta[:, : self.n_penalised] @ self._basis.T
        offsets = np.zeros(len(theta))
        if self.fit_intercept:
            offsets = self._unit * theta[:, -1]
        op = self.operator
        copies = [op.outputs, -op.outputs] if op.paired else [op.outputs]
        signs = np.concatenate([*copies, np.ones(len(theta) - op.n_cones)])
        linear = np.zeros(len(theta), dtype=bool)
        linear[self.operator.n_cones :] = True
        return weights, np.where(linear, 0.0, offsets), signs, linear


def _useful(patterns, fit_intercept, negative_slope):
    """Patterns that can contribute, as a mask."""
    on, off = patterns.all(axis=1), ~patterns.any(axis=1)
    keep = np.ones(len(patterns), dtype=bool)
    if fit_intercept:
        # The linear block stands for both (for the second because the
        # activation is at most as steep on its left side).
        keep &= ~on & ~off
    elif negative_slope == 0:
        keep &= ~off
    if negative_slope == -1:
        # |t| is even: a pattern and its complement give the same outputs.
        first = np.where(patterns[:, :1], patterns, ~patterns)
        _, index = np.unique(np.packbits(first, axis=1), axis=0, return_index=True)
        once = np.zeros(len(patterns), dtype=bool)
        once[index] = True
        keep &= once
    return keep
