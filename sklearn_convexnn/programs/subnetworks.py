"""The convex program of parallel sub-networks over given blocks."""

import numpy as np

from sklearn_convexnn.programs.base import Program
from sklearn_convexnn.programs.subnetwork_operator import CoupledOperator


class SubnetworkProgram(Program):
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
    problem : Problem
        Of one output.
    blocks : Blocks
    outputs : ndarray of shape (n_blocks,), default=None
        Signs of the outputs.  If None, each block is there with both.

    Attributes
    ----------
    blocks : Blocks
        Repeated if `outputs` are not given.

    References
    ----------
    .. [1] Ergen, T. and Pilanci, M. (2021). "Global Optimality Beyond Two
       Layers: Training Deep ReLU Networks via Convex Programs". ICML. Theorem 1.
    .. [2] Ergen, T. and Pilanci, M. (2021). "Path Regularization: A Convexity
       and Sparsity Inducing Regularization for Parallel ReLU Networks". arXiv
       2110.09548.
    """

    def __init__(self, problem, blocks, *, outputs=None):
        super().__init__(problem)
        self.complete = blocks.complete
        if outputs is None:
            outputs = np.repeat([1.0, -1.0], len(blocks))
            blocks = blocks.joined(blocks)
        self.blocks = blocks
        n_leaves = blocks.vectors.shape[1]
        n_norms = n_leaves if problem.family.architecture.has_leaf_norms else 1
        self.operator = op = CoupledOperator(
            problem.X @ self._basis, self._unit, blocks, outputs, n_norms
        )
        size = op.n_features * n_leaves
        self.n_penalised = size // n_norms
        self.starts = np.zeros((op.n_blocks, op.p))
        vectors = (blocks.vectors @ self._basis) * blocks.present[0][:, :, None]
        self.starts[: op.n_cones, :size] = vectors.reshape(op.n_cones, size)
        if self.fit_intercept:
            biases = np.concatenate(blocks.biases, axis=1) / self._unit
            self.starts[: op.n_cones, size:] = biases

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

    def matrices(self, b):
        """``F_b`` of the last unit of a block, and ``A_b`` of all below each other.

        Unit by unit from the patterns and signs, for rows of data that differ.
        """
        op, blocks = self.operator, self.blocks
        if b >= op.n_cones:
            F = np.zeros((op.n_samples, op.p))
            F[:, : op.n_straight * op.n_features] = np.tile(op.M, op.n_straight)
            return F, np.zeros((0, op.p))
        X, n = op.M, op.n_samples
        bias = op.n_leaves * op.n_features
        cones, inputs = [], []
        levels = zip(blocks.patterns, blocks.present)
        for level, (patterns, present) in enumerate(levels):
            outputs = []
            for unit, pattern in enumerate(patterns[b]):
                G = np.zeros((n, op.p))
                if present[b, unit]:
                    if level == 0:
                        G[:, unit * op.n_features : (unit + 1) * op.n_features] = X
                    else:
                        fan_in = len(inputs) // len(patterns[b])
                        G += sum(inputs[unit * fan_in : (unit + 1) * fan_in])
                linear = blocks.linear[level][b, unit]
                if op.linear:
                    G[:, bias] = op.unit * (present[b, unit] and not linear)
                    bias += 1
                sides = np.where(pattern, 1.0, -1.0)[:, None]
                cones.append((sides * G)[op.cone_index] * (not linear))
                sign = blocks.signs[level][b, unit] if level < len(blocks.signs) else 1
                outputs.append(sign * pattern[:, None] * G)
            inputs = outputs
        return op.outputs[b] * inputs[0], np.concatenate(cones)
