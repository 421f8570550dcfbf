"""The convex program of parallel sub-networks over given blocks."""

import numpy as np

from sklearn_convexnn._utils.breakdown import row_space
from sklearn_convexnn.programs.subnetwork_operator import CoupledOperator


class DeepProgram:
    r"""Restricted convex program of parallel sub-networks with one output.

    For blocks of patterns :math:`D_{1j}` of the inner units, their signs
    :math:`s_j` and the pattern :math:`D_2` of the last one, with three layers
    and without biases

    .. math::
        \min_{v}\; L\Big(\sum_b o_b D_{2b} \sum_j s_{bj} D_{1bj} X v_{bj}\Big)
        + \alpha \sum_b \sum_j \|v_{bj}\|_2
        \quad\text{s.t.}\quad S_{1bj} X v_{bj} \ge 0,\;
        S_{2b} \sum_j s_{bj} D_{1bj} X v_{bj} \ge 0 ,

    where :math:`o_b` is the sign of the output.  With the path norm the penalty is
    that of the whole block, :math:`(\sum_j \|v_{bj}\|_2^2)^{1/2}`, and there
    can be more levels.  With `fit_intercept` each unit has a free bias, and there
    are a linear term and a free constant besides.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    y, sample_weight : ndarray of shape (n_samples,)
        The weights are positive.
    loss : Loss
    alpha : float
    blocks : Blocks
    norm : {'frobenius', 'path'}
    fit_intercept : bool
    outputs : ndarray of shape (n_blocks,), default=None
        Signs of the outputs.  If None, each block is there with both.

    Attributes
    ----------
    operator : CoupledOperator
        Vectors are in coordinates of the row space of `X`; see `expand`.
    blocks : Blocks
        Repeated if `outputs` are not given.
    starts : ndarray of shape (n_blocks, p)
        A point inside the cone of each block.

    References
    ----------
    .. [1] Ergen, T. and Pilanci, M. (2021). "Global Optimality Beyond Two
       Layers: Training Deep ReLU Networks via Convex Programs". ICML. Theorem 1.
    .. [2] Ergen, T. and Pilanci, M. (2021). "Path Regularization: A Convexity
       and Sparsity Inducing Regularization for Parallel ReLU Networks". arXiv
       2110.09548.
    """

    warm_start = None

    def __init__(
        self,
        X,
        y,
        sample_weight,
        loss,
        alpha,
        blocks,
        *,
        norm,
        fit_intercept,
        outputs=None,
    ):
        self.y, self.sample_weight = y, sample_weight
        self.loss, self.alpha = loss, alpha
        self.fit_intercept, self.norm = fit_intercept, norm
        self.complete = blocks.complete
        if outputs is None:
            outputs = np.repeat([1.0, -1.0], len(blocks))
            blocks = blocks.joined(blocks)
        self.blocks = blocks

        basis = row_space(X)
        rank = basis.shape[1]
        # The identity when it is one, so that no rounding enters.
        self._basis = np.eye(rank) if rank == X.shape[1] else basis
        self._unit = 0.0
        if fit_intercept:
            # Biases in units of the data, so that both parts are of a size.
            self._unit = max(np.sqrt(np.mean(np.sum(X**2, axis=1))), 1e-300)
        n_leaves = blocks.vectors.shape[1]
        self.operator = op = CoupledOperator(
            X @ self._basis,
            self._unit,
            blocks,
            outputs,
            n_leaves if norm == "frobenius" else 1,
        )
        self.n_penalised = rank if norm == "frobenius" else rank * n_leaves
        starts = np.zeros((op.n_blocks, op.p))
        size = n_leaves * rank
        vectors = (blocks.vectors @ self._basis) * blocks.present[0][:, :, None]
        starts[: op.n_cones, :size] = vectors.reshape(op.n_cones, size)
        if fit_intercept:
            biases = np.concatenate(blocks.biases, axis=1) / self._unit
            starts[: op.n_cones, size:] = biases
        self.starts = starts

    def norms(self, theta):
        """Norms that are penalised, those of a block after each other."""
        size = self.operator.n_norms * self.n_penalised
        return np.linalg.norm(theta[:, :size].reshape(-1, self.n_penalised), axis=1)

    def objective(self, theta, offset):
        """Objective of the program at blocks `theta` and constant `offset`."""
        f = self.operator.forward(theta) + offset
        loss = self.loss.value(f, self.y, self.sample_weight)
        return loss + self.alpha * float(np.sum(self.norms(theta)))

    def null_offset(self):
        """The constant of the network without sub-networks."""
        if not self.fit_intercept:
            return 0.0
        zeros = np.zeros(len(self.y))
        return self.loss.best_offset(zeros, self.y, self.sample_weight)

    def null_objective(self):
        """Objective of the network without sub-networks."""
        f = np.full(len(self.y), self.null_offset())
        return self.loss.value(f, self.y, self.sample_weight)

    @property
    def can_improve(self):
        """Whether any sub-network could improve on the network without."""
        has_units = self.operator.n_blocks > 0 and self.operator.n_features > 0
        return has_units and self.null_objective() > 0

    def dual_bound(self, nu, rho):
        r"""Lower bound of the program's value from any dual point.

        As of `TwoLayerProgram`: :math:`G(t\nu)` for the largest `t` at which
        :math:`F_b^T\nu + A_b^T\rho_b` has norms of at most `alpha`.

        Parameters
        ----------
        nu : ndarray of shape (n_samples,)
        rho : ndarray of shape (n_cones, n_constraints)
            Non-negative multipliers of the cones.

        Returns
        -------
        bound : float
        """
        op = self.operator
        nu = self.loss.project_dual(
            nu, self.y, self.sample_weight, centred=self.fit_intercept
        )
        slopes = op.adjoint(nu) + op.cone_adjoint(rho)
        if self.fit_intercept:
            slopes = self._without_slopes_of_biases(slopes)
        kappa = float(np.max(self.norms(slopes), initial=0.0))
        scale = min(1.0, self.alpha / kappa) if kappa > 0 else 1.0
        return self.loss.dual_value(scale * nu, self.y, self.sample_weight)

    def _without_slopes_of_biases(self, slopes):
        """Raise multipliers until no block has a slope along its free biases.

        From the last unit down: the constraints of a unit concern its own bias
        and those of the units before it.
        """
        op = self.operator
        n_units, n = op.cone_masks.shape[1], len(op.cone_index)
        for unit in range(n_units - 1, -1, -1):
            error = slopes[: op.n_cones, op.p - n_units + unit] / self._unit
            signs = op.cone_masks[:, unit, op.n_leaves + unit] * op.own[:, unit]
            against = -np.sign(error)[:, None] * signs > 0
            count = np.maximum(against.sum(axis=1), 1)
            fix = np.zeros((op.n_cones, n_units, n))
            fix[:, unit] = against * (np.abs(error) / count)[:, None]
            slopes = slopes + op.cone_adjoint(fix)
        return slopes

    def expand(self, theta):
        """Blocks as vectors and biases of the units, with the linear term apart.

        Parameters
        ----------
        theta : ndarray of shape (n_blocks, p)

        Returns
        -------
        vectors : ndarray of shape (n_cones, n_leaves, n_features)
        biases : list of ndarray of shape (n_cones, n_units)
            For each level.
        straight : ndarray of shape (n_features,)
            The linear term.
        """
        op = self.operator
        vectors, biases = op.split(theta)
        vectors = vectors @ self._basis.T
        counts = [b.shape[1] for b in self.blocks.biases]
        if self.fit_intercept:
            biases = self._unit * biases[: op.n_cones]
            straight = vectors[-1, : op.n_straight].sum(axis=0)
        else:
            biases = np.zeros((op.n_cones, sum(counts)))
            straight = np.zeros(vectors.shape[2])
        parts = np.split(biases, np.cumsum(counts)[:-1], axis=1)
        return vectors[: op.n_cones], parts, straight
