"""The linear map of gated networks, ``V -> sum_i D_i X V_i``, and its transpose."""

import numpy as np
from scipy.sparse import issparse

from sklearn_convexnn._utils.deadlines import check
from sklearn_convexnn.solvers.gated_shrinkage import squares

# Elements of the temporary arrays of the products: what a cache of a processor holds,
# and what keeps a device busy.
_CHUNK_HERE, _CHUNK_DEVICE = 2**19, 2**26
# Bytes of masks that are kept as floating point numbers.
_FLOAT_MASKS = 2**27


class GatedOperator:
    """Products with the masked data ``[D_1 X ... D_m X]``, which are never formed.

    Blocks are arrays of shape ``(n_outputs, n_features, m)`` in the dtype of the data,
    outputs and dual variables of shape ``(n_samples, n_outputs)`` in the widest dtype
    of the device.

    Parameters
    ----------
    X : array or sparse array of shape (n_samples, n_features)
    masks : array of bool, shape (n_samples, m)
    xp : namespace
        Of `masks`, and of `X` unless it is sparse.
    device : device
        Where they are.
    wide : dtype
    """

    def __init__(self, X, masks, xp, device, wide):
        self.X, self.masks = X, masks
        self.xp, self.device, self.wide = xp, device, wide
        # Sparse arrays belong to NumPy, whose dtypes are also types.
        self.dtype = getattr(X.dtype, "type", X.dtype) if issparse(X) else X.dtype
        self.n_samples, self.n_features = X.shape
        self.m = masks.shape[1]
        self.X_size = X.nnz if issparse(X) else self.n_samples * self.n_features
        chunk = _CHUNK_HERE if xp.__name__.endswith("numpy") else _CHUNK_DEVICE
        step = max(16, chunk // max(self.m, 1))
        self.rows = [
            slice(i, min(i + step, self.n_samples))
            for i in range(0, self.n_samples, step)
        ]
        whole = len(self.rows) == 1
        self.parts = [X] if whole else [X[rows, :] for rows in self.rows]
        self._floats = None

    def _masks(self):
        """Masks of the chunks of rows, as floating point numbers."""
        bits = 4 if "32" in str(self.dtype) else 8
        if self._floats is None and self.m * self.n_samples * bits <= _FLOAT_MASKS:
            self._floats = self.xp.astype(self.masks, self.dtype)
        for rows in self.rows:
            if self._floats is None:
                yield self.xp.astype(self.masks[rows, :], self.dtype)
            else:
                yield self._floats[rows, :]

    def restricted(self, which):
        """The operator of the patterns at the indices `which`, on the device."""
        masks = self.xp.take(self.masks, which, axis=1)
        return GatedOperator(self.X, masks, self.xp, self.device, self.wide)

    def zeros(self, n_outputs):
        """Blocks of zeros."""
        shape = (n_outputs, self.n_features, self.m)
        return self.xp.zeros(shape, dtype=self.dtype, device=self.device)

    def forward(self, V):
        """Outputs of the blocks `V`."""
        xp = self.xp
        F = xp.empty((self.n_samples, V.shape[0]), dtype=self.wide, device=self.device)
        for rows, X, masks in zip(self.rows, self.parts, self._masks()):
            check()
            for k in range(V.shape[0]):
                F[rows, k] = xp.astype(xp.vecdot(X @ V[k, ...], masks), self.wide)
        return F

    def adjoint(self, N):
        """``X^T D_i N`` of every pattern."""
        if self.dtype != self.wide:
            # Those of absurd outputs, which a search may try, have no room.
            largest = float(self.xp.finfo(self.dtype).max) ** 0.5
            N = self.xp.clip(N, -largest, largest)
        N = self.xp.astype(N, self.dtype)
        V = self.zeros(N.shape[1])
        for rows, X, masks in zip(self.rows, self.parts, self._masks()):
            check()
            for k in range(N.shape[1]):
                V[k, ...] += X.T @ (masks * N[rows, k][:, None])
        return V

    def slopes(self, N):
        """Largest singular values of ``X^T D_i N``, computed in the widest dtype."""
        xp = self.xp
        if self.dtype == self.wide:
            return largest_singular_values(self.adjoint(N), xp)
        X = self.X.astype(self.wide) if issparse(self.X) else None
        X = xp.astype(self.X, self.wide) if X is None else X
        exact = GatedOperator(X, self.masks, xp, self.device, self.wide)
        return largest_singular_values(exact.adjoint(N), xp)

    def norm(self, weights):
        """Largest singular value of the weighted map, nearly, from below."""
        xp = self.xp
        start = np.random.RandomState(0).standard_normal((1, self.n_features, self.m))
        V = xp.asarray(start, dtype=self.dtype, device=self.device)
        size = 0.0
        for _ in range(6):
            length = float(squares(V, xp)) ** 0.5
            if length == 0.0:
                break
            V = self.adjoint(weights * self.forward(V / length))
            size = float(squares(V, xp)) ** 0.25
        return size

    def kernel(self):
        """``X X^T``, of all samples."""
        K = self.X @ self.X.T
        return K.toarray() if issparse(K) else K

    def masks_as_floats(self):
        """All masks as floating point numbers."""
        return self.xp.concat(list(self._masks()), axis=0)


def largest_singular_values(V, xp):
    """Of each block of shape (n_outputs, n_features), along the last axis.

    Parameters
    ----------
    V : array of shape (n_outputs, n_features, m)
    xp : namespace

    Returns
    -------
    values : array of shape (m,)
    """
    if min(V.shape[:2]) == 1:
        return xp.sqrt(xp.sum(V * V, axis=(0, 1)))
    blocks = xp.permute_dims(V, (2, 0, 1))
    turned = xp.permute_dims(V, (2, 1, 0))
    gram = blocks @ turned if V.shape[0] < V.shape[1] else turned @ blocks
    return xp.sqrt(xp.clip(xp.linalg.eigvalsh(gram)[:, -1], min=0.0))
