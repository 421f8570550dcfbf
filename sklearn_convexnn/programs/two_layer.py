"""The convex program of two-layer networks over given activation patterns."""

import numpy as np

from sklearn_convexnn._utils.breakdown import furthest, row_space
from sklearn_convexnn._utils.deadlines import check, svd_work
from sklearn_convexnn.programs.masked_operator import MaskedOperator


class TwoLayerProgram:
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
    X : ndarray of shape (n_samples, n_features)
    y : ndarray of shape (n_samples,)
    sample_weight : ndarray of shape (n_samples,)
        Positive.
    loss : Loss
    alpha : float
        Weight decay; the factor of the sum of norms.
    arrangement : Arrangement
        Patterns of the data, formed with ``free_bias=fit_intercept``.
    fit_intercept : bool
    negative_slope : float, default=0.0
        Slope of the activation left of zero, in [-1, 1).
    outputs, open_sides : ndarray or None
        As of `MaskedOperator`.

    Attributes
    ----------
    operator : MaskedOperator
        Blocks live in coordinates of the row space of `X`, in which norms are
        the same; see `expand`.
    starts : ndarray of shape (n_blocks, p)
        A point strictly inside the cone of each block.

    References
    ----------
    .. [1] Pilanci, M. and Ergen, T. (2020). "Neural Networks are Convex
       Regularizers: Exact Polynomial-time Convex Optimization Formulations
       for Two-layer Networks". ICML. Theorem 1 and Section 3.
    """

    def __init__(
        self,
        X,
        y,
        sample_weight,
        loss,
        alpha,
        arrangement,
        *,
        fit_intercept,
        negative_slope=0.0,
        outputs=None,
        open_sides=None,
    ):
        self.warm_start = None
        self.y = y
        self.sample_weight = sample_weight
        self.loss = loss
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.complete = arrangement.complete

        check(svd_work(X.shape))
        basis = row_space(X)
        rank = basis.shape[1]
        # The identity when it is one, so that no rounding enters.
        self._basis = np.eye(rank) if rank == X.shape[1] else basis
        reduced = X @ self._basis
        self.n_penalised = rank

        patterns, gates = arrangement.patterns, arrangement.gates
        if outputs is None:
            keep = _useful(patterns, fit_intercept, negative_slope)
        else:
            keep = np.ones(len(patterns), dtype=bool)
        patterns, gates = patterns[keep], gates[keep]
        if outputs is not None:
            outputs = outputs[keep]
        if open_sides is not None:
            open_sides = open_sides[keep]
        starts = gates[:, : X.shape[1]] @ self._basis
        if fit_intercept:
            # Offsets in units of the data, so that both parts are of a size.
            self._unit = max(np.sqrt(np.mean(np.sum(X**2, axis=1))), 1e-300)
            reduced = np.column_stack([reduced, np.full(len(X), self._unit)])
            starts = np.column_stack([starts, gates[:, -1] / self._unit])
        self.operator = MaskedOperator(
            reduced,
            patterns,
            rank,
            outputs=outputs,
            open_sides=open_sides,
            negative_slope=negative_slope,
            linear=fit_intercept,
        )
        if outputs is None:
            starts = np.concatenate([starts, starts])
        if fit_intercept:
            starts = np.concatenate([starts, np.zeros((1, starts.shape[1]))])
        self.starts = starts

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

    def norms(self, theta):
        """Norms of the penalised parts of the blocks, shape (n_blocks,)."""
        return np.linalg.norm(theta[:, : self.n_penalised], axis=1)

    def objective(self, theta, offset):
        """Objective of the program at blocks `theta` and constant `offset`."""
        f = self.operator.activate(theta) + offset
        loss = self.loss.value(f, self.y, self.sample_weight)
        return loss + self.alpha * float(np.sum(self.norms(theta)))

    def null_offset(self):
        """The constant ``b0`` of the network without neurons."""
        if not self.fit_intercept:
            return 0.0
        zeros = np.zeros(len(self.y))
        return self.loss.best_offset(zeros, self.y, self.sample_weight)

    def null_objective(self):
        """Objective of the network without neurons."""
        f = np.full(len(self.y), self.null_offset())
        return self.loss.value(f, self.y, self.sample_weight)

    @property
    def can_improve(self):
        """Whether any neuron could improve on the network without."""
        has_neurons = self.operator.n_blocks > 0 and self.n_penalised > 0
        return has_neurons and self.null_objective() > 0

    def dual_bound(self, nu, rho):
        r"""Lower bound of the program's value from any dual point.

        By weak duality, :math:`G(t\nu)` bounds the value from below whenever
        :math:`\|\pm X^T D_i \nu + X^T S_i \rho_i\| \le \alpha / t` for some
        :math:`\rho \ge 0`, and the free parts see no slope.  Points that
        violate this are first projected, then scaled.

        Parameters
        ----------
        nu : ndarray of shape (n_samples,)
        rho : ndarray of shape (n_cones, n_constraints)
            Non-negative multipliers of the cones.

        Returns
        -------
        bound : float
        """
        nu = self.loss.project_dual(
            nu, self.y, self.sample_weight, centred=self.fit_intercept
        )
        kappa = float(np.max(self.norms(self.dual_slopes(nu, rho)), initial=0.0))
        scale = min(1.0, furthest(self.alpha, kappa))
        return self.loss.dual_value(scale * nu, self.y, self.sample_weight)

    def dual_slopes(self, nu, rho):
        """Slopes of the blocks, whose norms are at most `alpha` if dual feasible.

        Parameters
        ----------
        nu : ndarray of shape (n_samples,)
            Of sum zero with `fit_intercept`.
        rho : ndarray of shape (n_cones, n_constraints)

        Returns
        -------
        slopes : ndarray of shape (n_blocks, p)
        """
        op = self.operator
        if len(op.open[0]):
            # Between the slopes of the two sides.
            block, constraint, sample = op.open
            reach = (op.negative_slope - 1.0) * op.outputs[block] * nu[sample]
            rho = rho.copy()
            rho[block, constraint] = np.clip(
                rho[block, constraint], 0.0, np.maximum(reach, 0.0)
            )
        slopes = op.adjoint(nu) + op.cone_adjoint(rho)
        return self._centre_offsets(slopes) if self.fit_intercept else slopes

    def _centre_offsets(self, slopes):
        """Raise multipliers until no block has a slope along its free offset."""
        operator = self.operator
        n_cones = operator.n_cones
        error = slopes[:n_cones, -1] / self._unit
        # Spread the missing amount over the rows whose sign reduces it.
        signs = np.tile(operator.signs, (1 + operator.paired, 1))
        signs[operator.open[:2]] = 0.0
        against = -np.sign(error)[:, None] * signs > 0
        count = np.maximum(against.sum(axis=1), 1)
        fix = against * (np.abs(error) / count)[:, None]
        return slopes + operator.cone_adjoint(fix)

    def active_everywhere(self, theta):
        """Blocks that are a linear term and a constant on the data, as a mask."""
        op = self.operator
        z = theta[: op.n_cones] @ op.M.T
        active = np.zeros(len(theta), dtype=bool)
        active[: op.n_cones] = np.all(z > 0, axis=1)
        return active

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
