"""The masked linear operator that all convex programs share."""

import numpy as np
from scipy.linalg.blas import dgemm, dsyrk

# Elements of the temporary arrays that the chunked products may use (32 MB).
_CHUNK = 4_000_000


class MaskedOperator:
    """``f = sum_b diag(c_b) M theta_b`` and its cones ``S_b M theta_b >= 0``.

    One block per pattern and output sign: first all patterns with sign +1,
    then all with sign -1, so that both halves share masks and cones.  An
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
    negative_slope : float, default=0.0
        Slope of the activation left of zero: the masks are 1 on the pattern
        and `negative_slope` off it.
    linear : bool, default=False
        Whether there is a block without mask and cone.

    Attributes
    ----------
    n_blocks, n_cones : int
        Number of blocks, and of blocks with a cone (the first ones).
    n_constraints : int
        Number of inequalities of each cone.  Rows of ``M`` that repeat an
        earlier one or are zero add none.
    """

    def __init__(self, M, patterns, n_penalised, *, negative_slope=0.0, linear=False):
        self.M = M
        self.n_samples, self.p = M.shape
        self.n_penalised = n_penalised
        self.negative_slope = negative_slope
        self.linear = linear
        self.masks = np.where(patterns, 1.0, negative_slope)
        rows, first = np.unique(M, axis=0, return_index=True)
        first = np.sort(first[np.any(rows != 0, axis=1)])
        self.cone_rows = M[first]
        self.signs = np.where(patterns[:, first], 1.0, -1.0)
        self.n_constraints = len(first)
        self.n_patterns = len(patterns)
        self.n_cones = 2 * self.n_patterns
        self.n_blocks = self.n_cones + linear

    def _signed_sum(self, values):
        return values[: self.n_patterns] - values[self.n_patterns : self.n_cones]

    def forward(self, theta):
        """Outputs, shape (n_samples,), of blocks `theta`, shape (n_blocks, p)."""
        f = np.einsum("bi,bi->i", self.masks, self._signed_sum(theta) @ self.M.T)
        if self.linear:
            f += self.M[:, : self.n_penalised] @ theta[-1, : self.n_penalised]
        return f

    def adjoint(self, nu):
        """Transpose of `forward`: shape (n_samples,) to (n_blocks, p)."""
        half = (self.masks * nu) @ self.M
        blocks = [half, -half]
        if self.linear:
            last = np.zeros((1, self.p))
            last[0, : self.n_penalised] = nu @ self.M[:, : self.n_penalised]
            blocks.append(last)
        return np.concatenate(blocks)

    def cone(self, theta):
        """Slacks ``S_b M theta_b``, shape (n_cones, n_constraints)."""
        slack = theta[: self.n_cones] @ self.cone_rows.T
        slack[: self.n_patterns] *= self.signs
        slack[self.n_patterns :] *= self.signs
        return slack

    def cone_adjoint(self, rho):
        """Transpose of `cone`; zero for the block without a cone."""
        signed = np.concatenate(
            [rho[: self.n_patterns] * self.signs, rho[self.n_patterns :] * self.signs]
        )
        out = np.zeros((self.n_blocks, self.p))
        out[: self.n_cones] = signed @ self.cone_rows
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

    def _chunks(self, size):
        step = max(1, _CHUNK // max(1, size))
        return range(0, self.n_patterns, step), step

    def feature_gram(self, roots):
        """``sum_b diag(c_b) M roots_b^T roots_b M^T diag(c_b)``.

        Parameters
        ----------
        roots : ndarray of shape (n_blocks, p, p)

        Returns
        -------
        gram : ndarray of shape (n_samples, n_samples), Fortran order
            The lower triangle; the upper one is zero.
        """
        # The square of the sign is one, so a pattern's two blocks add up: one
        # triangular factor of both roots halves the work that follows.
        n_patterns = self.n_patterns
        paired = np.linalg.qr(
            np.concatenate([roots[:n_patterns], roots[n_patterns : self.n_cones]], 1),
            mode="r",
        )
        gram = np.zeros((self.n_samples, self.n_samples), order="F")
        step = max(1, _CHUNK // (self.p * self.n_samples))
        for start in range(0, len(paired), step):
            chunk = paired[start : start + step]
            part = dgemm(1.0, self.M, chunk.reshape(-1, self.p), trans_b=True)
            masked = part.T.reshape(*chunk.shape[:2], -1)
            masked *= self.masks[start : start + step, None, :]
            gram = _add_gram(gram, part)
        if self.linear:
            r = self.n_penalised
            gram = _add_gram(gram, dgemm(1.0, self.M[:, :r], roots[-1][:, :r].T))
        return gram

    def normal_matrix(self, weights):
        """``F^T diag(weights) F`` for the expanded matrix ``F`` of `forward`.

        Needs ``(n_blocks p)^2`` numbers: for programs with fewer unknowns
        than samples.

        Parameters
        ----------
        weights : ndarray of shape (n_samples,)
            Non-negative.

        Returns
        -------
        normal : ndarray of shape (n_blocks * p, n_blocks * p), Fortran order
            The lower triangle; the upper one is zero.
        """
        # Both signs of a pattern have the same columns up to the sign: the
        # products are formed once for the patterns and the linear block.
        half, r = self.n_patterns * self.p, self.n_penalised
        size = half + self.linear * self.p
        gram = np.zeros((size, size), order="F")
        root = np.sqrt(weights)
        step = max(1, _CHUNK // max(1, size))
        for start in range(0, self.n_samples, step):
            rows = slice(start, start + step)
            scaled = (self.M[rows] * root[rows, None]).T
            part = np.zeros((size // self.p, self.p, scaled.shape[1]))
            np.multiply(self.masks[:, None, rows], scaled, out=part[: self.n_patterns])
            if self.linear:
                part[-1, :r] = scaled[:r]
            gram = _add_gram(gram, part.reshape(size, -1))
        within = gram[:half, :half]
        normal = np.zeros((size + half, size + half), order="F")
        normal[:half, :half] = within
        normal[half : 2 * half, half : 2 * half] = within
        normal[half : 2 * half, :half] = -within - np.tril(within, -1).T
        normal[2 * half :, :half] = gram[half:, :half]
        normal[2 * half :, half : 2 * half] = -gram[half:, :half]
        normal[2 * half :, 2 * half :] = gram[half:, half:]
        return normal


def _add_gram(gram, part):
    """Add ``part @ part.T`` to the lower triangle of `gram`, in place."""
    # NumPy and SciPy come with a BLAS each.  The factorisation that follows is
    # SciPy's; two thread pools at work in turn cost more than they bring.
    if part.flags.f_contiguous:
        return dsyrk(1.0, part, 1.0, gram, lower=1, overwrite_c=1)
    return dsyrk(1.0, part.T, 1.0, gram, trans=1, lower=1, overwrite_c=1)
