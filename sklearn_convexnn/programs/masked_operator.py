"""The linear operator of blocks of one unit each: masks of one matrix."""

import numpy as np
from scipy.linalg.blas import dgemm

from sklearn_convexnn._utils.sorting import distinct_rows
from sklearn_convexnn.programs.base import CHUNK, Operator, add_gram


class MaskedOperator(Operator):
    """``f = sum_b diag(c_b) M theta_b`` and its cones ``S_b M theta_b >= 0``.

    One block per pattern and output sign: first all patterns with sign +1,
    then all with sign -1, so that both halves share masks and cones.  With
    `outputs` each pattern has one block, of the sign given there.  An
    optional last block has the mask one, no cone, and a zero in every
    coordinate that is not penalised.  The expanded matrix
    ``[diag(c_1) M ... diag(c_B) M]`` is never formed.

    Parameters
    ----------
    M : ndarray of shape (n_samples, p)
        The data in the coordinates of the blocks.
    patterns : ndarray of bool, shape (n_patterns, n_samples)
    n_penalised : int
        The first `n_penalised` coordinates of a block enter its norm.
    outputs : ndarray of shape (n_patterns,) or None
        Output sign of each pattern's only block.
    open_sides : ndarray of bool, shape (n_patterns, n_samples) or None
        Entries at which a block may take both sides: the activation itself
        stands there instead of a mask and a cone.  Needs `outputs`.
    negative_slope : float, default=0.0
        Slope of the activation left of zero: the masks are 1 on the pattern
        and `negative_slope` off it.
    linear : bool, default=False
        Whether there is a block without mask and cone.

    Attributes
    ----------
    n_constraints : int
        Number of inequalities of each cone.  Rows of ``M`` that repeat an
        earlier one (unless there are open sides) or are zero add none.
    masks : ndarray of shape (n_patterns, n_samples)
        One at the open entries.
    """

    single_units = True

    def __init__(
        self,
        M,
        patterns,
        n_penalised,
        *,
        outputs=None,
        open_sides=None,
        negative_slope=0.0,
        linear=False,
    ):
        self.M = M
        self.n_samples, self.p = M.shape
        self.n_penalised = n_penalised
        self.negative_slope = negative_slope
        self.linear = linear
        self.n_patterns = len(patterns)
        self.paired = outputs is None
        self.outputs = np.ones(self.n_patterns) if self.paired else outputs
        if open_sides is None:
            first = np.sort(distinct_rows([*M.T, np.zeros(len(M))])[0])
            first = first[np.any(M[first] != 0, axis=1)]
            open_sides = np.zeros((self.n_patterns, self.n_samples), dtype=bool)
        else:
            first = np.flatnonzero(np.any(M != 0, axis=1))
            patterns = patterns | open_sides
        self.masks = np.where(patterns, 1.0, negative_slope)
        self.cone_index = first
        self.cone_rows = M[first]
        self.signs = np.where(patterns[:, first], 1.0, -1.0)
        self.n_constraints = len(first)
        self.n_cones = (1 + self.paired) * self.n_patterns
        self.n_blocks = self.n_cones + linear
        self.n_distinct = self.n_patterns + linear
        block, constraint = np.nonzero(open_sides[:, first])
        self.open = block, constraint, first[constraint]

    def forward_distinct(self, theta, masks=None):
        """Outputs of the `distinct` blocks, shape (n_distinct, p)."""
        masks = self.masks if masks is None else masks
        signed = theta[: self.n_patterns] * self.outputs[:, None]
        f = np.einsum("bi,bi->i", masks, signed @ self.M.T)
        if self.linear:
            f += self.M[:, : self.n_penalised] @ theta[-1, : self.n_penalised]
        return f

    def activate(self, theta):
        """`forward` with the activation itself at the open entries."""
        f = self.forward(theta)
        block, constraint, sample = self.open
        if len(block):
            z = (theta[: self.n_cones] @ self.cone_rows.T)[block, constraint]
            excess = (1.0 - self.negative_slope) * np.maximum(-z, 0.0)
            f += self.scatter(excess * self.outputs[block])
        return f

    def scatter(self, values):
        """Sum values of the open entries by sample, shape (n_samples,)."""
        return np.bincount(self.open[2], weights=values, minlength=self.n_samples)

    def adjoint_distinct(self, nu, masks=None):
        """Transpose of `forward_distinct`."""
        masks = self.masks if masks is None else masks
        half = ((masks * nu) @ self.M) * self.outputs[:, None]
        last = np.zeros((self.n_distinct - self.n_patterns, self.p))
        last[:, : self.n_penalised] = nu @ self.M[:, : self.n_penalised]
        return np.concatenate([half, last])

    def bias_signs(self, unit):
        """Signs of the constraints of the only unit, zero at open entries."""
        signs = np.tile(self.signs, (1 + self.paired, 1))
        signs[self.open[:2]] = 0.0
        return signs

    def _times_signs(self, values):
        """Entries of the cones times their signs, in place."""
        if self.n_patterns:
            copies = values.reshape(-1, *self.signs.shape)
            copies *= self.signs
        return values

    def pattern_cone(self, theta):
        """Slacks of one block for each pattern, shape (n_patterns, n_constraints)."""
        return (theta @ self.cone_rows.T) * self.signs

    def pattern_cone_adjoint(self, rho):
        """Transpose of `pattern_cone`."""
        return (rho * self.signs) @ self.cone_rows

    def cone(self, theta):
        """Slacks ``S_b M theta_b``, shape (n_cones, n_constraints)."""
        return self._times_signs(theta[: self.n_cones] @ self.cone_rows.T)

    def cone_adjoint(self, rho):
        """Transpose of `cone`; zero for the block without a cone."""
        out = np.zeros((self.n_blocks, self.p))
        out[: self.n_cones] = self._times_signs(np.array(rho)) @ self.cone_rows
        return out

    def cone_gram(self, weights):
        """``M^T diag(weights_b) M`` on the cone rows for each block.

        Parameters
        ----------
        weights : ndarray of shape (n_cones, n_constraints)

        Returns
        -------
        gram : ndarray of shape (n_blocks, p, p)
            Zero for the block without a cone.
        """
        gram = np.zeros((self.n_blocks, self.p, self.p))
        # All blocks at once from the products of column i with the later ones.
        for i in range(self.p):
            products = self.cone_rows[:, i, None] * self.cone_rows[:, i:]
            gram[: self.n_cones, i, i:] = weights @ products
            gram[:, i:, i] = gram[:, i, i:]
        return gram

    def feature_gram(self, roots, masks):
        """``sum_b diag(c_b) M roots_b^T roots_b M^T diag(c_b)``.

        Parameters
        ----------
        roots : ndarray of shape (n_blocks, p, p)
        masks : ndarray of shape (n_patterns, n_samples)

        Returns
        -------
        gram : ndarray of shape (n_samples, n_samples), Fortran order
            The lower triangle; the upper one is zero.
        """
        n_patterns = self.n_patterns
        factors = roots[:n_patterns]
        if self.paired:
            # The square of the sign is one, so a pattern's two blocks add up: one
            # triangular factor of both roots halves the work that follows.
            both = np.concatenate([factors, roots[n_patterns : self.n_cones]], 1)
            factors = np.linalg.qr(both, mode="r")
        gram = np.zeros((self.n_samples, self.n_samples), order="F")
        step = max(1, CHUNK // (self.p * self.n_samples))
        for start in range(0, len(factors), step):
            chunk = factors[start : start + step]
            part = dgemm(1.0, self.M, chunk.reshape(-1, self.p), trans_b=True)
            masked = part.T.reshape(*chunk.shape[:2], -1)
            masked *= masks[start : start + step, None, :]
            gram = add_gram(gram, part)
        if self.linear:
            r = self.n_penalised
            gram = add_gram(gram, dgemm(1.0, self.M[:, :r], roots[-1][:, :r].T))
        return gram

    def normal_matrix(self, weights, masks):
        """``F^T diag(weights) F`` for the expanded matrix ``F`` of `forward`.

        With one block for each pattern: those of the other sign have the same
        columns up to the sign.  Needs ``(n_distinct p)^2`` numbers, so it is for
        programs with fewer unknowns than samples.

        Parameters
        ----------
        weights : ndarray of shape (n_samples,)
            Non-negative.
        masks : ndarray of shape (n_patterns, n_samples)

        Returns
        -------
        normal : ndarray of shape (n_distinct * p, n_distinct * p), Fortran order
            The lower triangle; the upper one is zero.
        """
        r, size = self.n_penalised, self.n_distinct * self.p
        gram = np.zeros((size, size), order="F")
        root = np.sqrt(weights)
        signed = masks * self.outputs[:, None]
        step = max(1, CHUNK // max(1, size))
        for start in range(0, self.n_samples, step):
            rows = slice(start, start + step)
            scaled = (self.M[rows] * root[rows, None]).T
            part = np.zeros((self.n_distinct, self.p, scaled.shape[1]))
            np.multiply(signed[:, None, rows], scaled, out=part[: self.n_patterns])
            if self.linear:
                part[-1, :r] = scaled[:r]
            gram = add_gram(gram, part.reshape(size, -1))
        return gram
