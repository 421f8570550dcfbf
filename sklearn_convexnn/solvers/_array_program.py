"""The arrays of a restricted program in any namespace, for first-order methods."""

import numpy as np
from sklearn.utils import gen_batches

from sklearn_convexnn._sklearn import (
    convert_to_numpy,
    device,
    get_namespace,
    is_numpy_namespace,
)

# Elements of the temporary arrays for a chunk of samples: those of a processor stay
# in its cache, and an accelerator gets enough to do.
_CHUNK, _LARGE_CHUNK = 30_000, 30_000_000


class ArrayProgram:
    """What a first-order method needs of a program.

    Blocks are the columns of an array of shape (p, n_blocks).  The linear block
    carries the free constant in the coordinate of the offset, so that it is a
    block as the others, without signs.

    Parameters
    ----------
    program : Program
        Of single units and without open sides.
    like : array
        The namespace, the device and the floating dtype to use.

    Attributes
    ----------
    M : array of shape (n_samples, p)
    masks, signs : array of shape (n_samples, n_blocks)
    y, s : array of shape (n_samples,)
    gram : ndarray of shape (p, p)
        The product of the transpose of `M` and `M`.
    curvature : float
        Of the loss of a sample, its order of magnitude.
    chunks : list of slice
        Samples that are worked on together.
    """

    def __init__(self, program, like):
        op = program.operator
        self.xp, _ = get_namespace(like)
        self.device, self.dtype = device(like), like.dtype
        self.tiny = float(self.xp.finfo(self.dtype).smallest_normal)
        self.eps = float(self.xp.finfo(self.dtype).eps)
        self.program, self.loss, self.r = program, program.loss, program.n_penalised
        self.shape = op.p, op.n_blocks
        self.M = self.array(op.M)
        signs = np.where(op.masks == 1.0, 1.0, -1.0).T
        masks = op.masks.T * op.outputs
        if op.paired:
            signs, masks = np.tile(signs, 2), np.concatenate([masks, -masks], axis=1)
        if op.linear:
            last = np.ones((op.n_samples, 1))
            signs = np.concatenate([signs, 0.0 * last], axis=1)
            masks = np.concatenate([masks, last], axis=1)
        self.signs, self.masks = self.array(signs), self.array(masks)
        y, s = program.y, program.sample_weight
        self.y, self.s = self.array(y), self.array(s)
        self.gram = np.asarray(op.M.T @ op.M, dtype=np.float64)
        f = np.full(op.n_samples, program.null_offset())
        spread = max(program.loss.spread(f, y, s), 1e-300)
        mean = float(program.null_objective() / np.sum(s))
        self.curvature = 2.0 * mean / float(spread) ** 2
        size = _CHUNK if is_numpy_namespace(self.xp) else _LARGE_CHUNK
        self.chunks = list(gen_batches(op.n_samples, max(1, size // op.n_blocks)))

    @property
    def multipliers_shape(self):
        """Shape of the multipliers: those of rows that repeat others are there too."""
        return self.masks.shape

    def array(self, values):
        """`values` in the namespace, on the device, of the dtype."""
        return self.xp.asarray(values, dtype=self.dtype, device=self.device)

    def zeros(self, shape):
        """Zeros in the same place."""
        return self.xp.zeros(shape, dtype=self.dtype, device=self.device)

    def shrink(self, theta, threshold):
        """Proximal operator of `threshold` times the norms of the blocks."""
        xp = self.xp
        penalised = theta[: self.r, :]
        norms = xp.linalg.vector_norm(penalised, axis=0)
        factor = xp.clip(norms - threshold, min=0.0) / xp.clip(norms, min=self.tiny)
        return xp.concat([factor * penalised, theta[self.r :, :]])

    def penalised(self, theta, penalty, with_gradient=True):
        """Loss plus the `Penalty` of the cones, and their gradient."""
        xp, value, gradient = self.xp, 0.0, self.zeros(self.shape)
        for rows in self.chunks:
            M, masks, signs = (
                part[rows, :] for part in (self.M, self.masks, self.signs)
            )
            z = M @ theta
            f, y, s = xp.vecdot(masks, z), self.y[rows], self.s[rows]
            rho, excess = penalty.at(signs * z, penalty.centre[rows, :], xp)
            value += float(xp.sum(s * self.loss.terms(f, y, xp))) + excess
            if with_gradient:
                slopes = s * self.loss.slopes(f, y, xp)
                gradient = gradient + M.T @ (masks * slopes[:, None] - signs * rho)
        return value, gradient

    def multipliers(self, theta, penalty):
        """Slopes of the penalty."""
        parts = []
        for rows in self.chunks:
            slack = self.signs[rows, :] * (self.M[rows, :] @ theta)
            parts.append(penalty.at(slack, penalty.centre[rows, :], self.xp)[0])
        return self.xp.concat(parts)

    def of_blocks(self, theta, offset):
        """The array that stands for blocks of the program and its constant."""
        columns = theta.T.copy()
        if self.program.operator.linear:
            columns[-1, -1] = offset / self.program.operator.M[0, -1]
        return self.array(columns)

    def blocks(self, theta):
        """Blocks as the program has them: ndarray of shape (n_blocks, p)."""
        theta = np.array(convert_to_numpy(theta, self.xp).T, dtype=np.float64)
        theta[self.program.operator.n_cones :, self.r :] = 0.0
        return theta


class NumpyProgram:
    """As `ArrayProgram`, by the operator of any program, in double precision.

    The blocks are as the program has them.  The constant is always the best.

    Parameters
    ----------
    program : Program
    """

    xp, eps = np, float(np.finfo(np.float64).eps)

    def __init__(self, program):
        self.program, self.operator = program, program.operator
        self.multipliers_shape = self.operator.n_cones, self.operator.n_constraints

    def zeros(self, shape):
        """Zeros in the same place."""
        return np.zeros(shape)

    def shrink(self, theta, threshold):
        """Proximal operator of `threshold` times the norms of the blocks."""
        norms = self.program.norms(theta)
        factor = np.maximum(norms - threshold, 0.0) / np.maximum(norms, 1e-300)
        size = self.operator.n_norms * self.program.n_penalised
        new = theta.copy()
        rows = theta[:, :size].reshape(len(norms), -1) * factor[:, None]
        new[:, :size] = rows.reshape(len(theta), size)
        return new

    def _slack(self, theta):
        # Constraints that are there only to repeat others are none.
        return self.operator.cone(theta) * self.operator.own

    def penalised(self, theta, penalty, with_gradient=True):
        """Loss plus the `Penalty` of the cones, and their gradient."""
        p, op = self.program, self.operator
        f = op.forward(theta)
        f = f + p.best_offset(f)
        rho, excess = penalty.at(self._slack(theta), penalty.centre, np)
        value = p.loss.value(f, p.y, p.sample_weight) + excess
        if not with_gradient:
            return value, None
        slopes = p.loss.gradient(f, p.y, p.sample_weight)
        return value, op.adjoint(slopes) - op.cone_adjoint(rho)

    def multipliers(self, theta, penalty):
        """Slopes of the penalty."""
        return penalty.at(self._slack(theta), penalty.centre, np)[0]

    def of_blocks(self, theta, offset):
        """The blocks themselves."""
        return theta.copy()

    def blocks(self, theta):
        """The blocks themselves."""
        return theta
