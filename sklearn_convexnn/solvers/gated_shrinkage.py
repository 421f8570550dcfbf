"""Proximal map of the nuclear norms of blocks, and its derivative.

Blocks have the shape ``(n_outputs, n_features, m)``.  With one output, or one feature,
the nuclear norm is the Euclidean one.
"""

from sklearn_convexnn._sklearn import device, max_precision_float_dtype


def widened(V, xp):
    """The blocks in the widest dtype, in which squares of single precision fit.

    Parameters
    ----------
    V : array
    xp : namespace

    Returns
    -------
    V : array
    """
    return xp.astype(V, max_precision_float_dtype(xp, device(V)))


def squares(V, xp, axis=None):
    """Sum of squares in the widest dtype.

    Parameters
    ----------
    V : array
    xp : namespace
    axis : int, tuple of int or None
        Of the sum; None for all.

    Returns
    -------
    squares : array
    """
    V = widened(V, xp)
    return xp.sum(V * V, axis=axis)


def shrink(V, threshold, xp):
    """Blocks with singular values lowered by `threshold`, to at least zero.

    Parameters
    ----------
    V : array of shape (n_outputs, n_features, m)
    threshold : float
    xp : namespace

    Returns
    -------
    V : array of shape (n_outputs, n_features, m)
        With exact zeros.
    norms : array of shape (m,)
        Nuclear norms of the new blocks.
    """
    if min(V.shape[:2]) == 1:
        norms = xp.sqrt(squares(V, xp, (0, 1)))
        left = xp.clip(norms - threshold, min=0.0)
        return V * xp.astype(left / _positive(norms, xp), V.dtype), left
    if V.shape[2] == 0:
        return V, xp.sum(V, axis=(0, 1))
    blocks, turned = _stacked(widened(V, xp), xp)
    # The smaller of the two products.
    low = V.shape[0] < V.shape[1]
    eigenvalues, vectors = xp.linalg.eigh(turned @ blocks if low else blocks @ turned)
    singular = xp.sqrt(xp.clip(eigenvalues, min=0.0))
    left = xp.clip(singular - threshold, min=0.0)
    # A value above the threshold, whose square is not lost in the rounding of the
    # largest, keeps its digits.
    scaled = vectors * (left / _positive(singular, xp))[:, None, :]
    projections = scaled @ xp.permute_dims(vectors, (0, 2, 1))
    blocks = blocks @ projections if low else projections @ blocks
    blocks = xp.astype(xp.permute_dims(blocks, (2, 1, 0)), V.dtype)
    return blocks, xp.sum(left, axis=1)


def _stacked(V, xp):
    """Blocks as matrices of shape (m, n_features, n_outputs), and their transposes."""
    return xp.permute_dims(V, (2, 1, 0)), xp.permute_dims(V, (2, 0, 1))


def _positive(values, xp):
    return xp.clip(values, min=float(xp.finfo(values.dtype).smallest_normal))


class VectorSlope:
    """Derivative of `shrink` with one output: ``H_i -> (1 - r) H_i + r z z^T H_i``.

    Parameters
    ----------
    V : array of shape (n_outputs, n_features, m)
        Where it is taken; all norms are above the threshold.
    threshold : float
    xp : namespace

    Attributes
    ----------
    z : array of shape (n_outputs, n_features, m)
        Directions of the blocks.
    r : array of shape (m,)
        Threshold divided by the norms.
    """

    def __init__(self, V, threshold, xp):
        norms = xp.sqrt(squares(V, xp, (0, 1)))
        self.xp, self.r = xp, xp.astype(threshold / norms, V.dtype)
        self.z = xp.astype(widened(V, xp) / norms, V.dtype)

    def __call__(self, H):
        along = self.r * self.xp.sum(self.z * H, axis=(0, 1))
        return (1.0 - self.r) * H + along * self.z


class MatrixSlope:
    """Derivative of `shrink` where blocks are matrices.

    With singular vectors ``U``, ``W`` and ``f`` what is left of the singular values
    ``s``, the symmetric and the skew part of ``U^T H W`` are multiplied, entry by
    entry, with ``(f_k - f_l) / (s_k - s_l)`` and ``(f_k + f_l) / (s_k + s_l)``; rows
    of ``H`` beyond the span of ``U`` with ``f / s``.

    Parameters
    ----------
    V : array of shape (n_outputs, n_features, m)
    threshold : float
    xp : namespace
    """

    def __init__(self, V, threshold, xp):
        self.xp, self.turn = xp, V.shape[0] > V.shape[1]
        U, s, Wt = xp.linalg.svd(_stacked(V, xp)[self.turn], full_matrices=False)
        f = xp.clip(s - threshold, min=0.0)
        s, above = _positive(s, xp), xp.astype(s > threshold, s.dtype)
        differences = s[:, :, None] - s[:, None, :]
        close = xp.abs(differences) <= 1e-7 * s[:, :1, None]
        both = 0.5 * (above[:, :, None] + above[:, None, :])
        safe = xp.where(close, xp.ones_like(differences), differences)
        symmetric = xp.where(close, both, (f[:, :, None] - f[:, None, :]) / safe)
        skew = (f[:, :, None] + f[:, None, :]) / (s[:, :, None] + s[:, None, :])
        self.U, self.Wt = U, Wt
        self.Ut, self.W = (xp.permute_dims(A, (0, 2, 1)) for A in (U, Wt))
        self.plus, self.minus = 0.5 * (symmetric + skew), 0.5 * (symmetric - skew)
        self.beyond = (f / s)[:, None, :]

    def __call__(self, H):
        xp = self.xp
        HW = _stacked(H, xp)[self.turn] @ self.W
        core = self.Ut @ HW
        inner = self.plus * core + self.minus * xp.permute_dims(core, (0, 2, 1))
        inner = inner - core * self.beyond
        H = (self.U @ inner + HW * self.beyond) @ self.Wt
        return xp.permute_dims(H, (1, 2, 0) if self.turn else (2, 1, 0))
