"""The masked linear operator of blocks whose parts share constraints."""

import numpy as np

from sklearn_convexnn._utils.deadlines import check
from sklearn_convexnn.programs.base import CHUNK, Operator, add_gram


class CoupledOperator(Operator):
    r"""``f = sum_b F_b theta_b`` and the cones ``A_b theta_b >= 0`` of sub-networks.

    With the vectors ``v_p`` of the leaves and the free biases ``e_q`` of the
    units of a block, the input of each unit is ``sum_p mask * X v_p + sum_q mask
    * e_q`` with masks in {-1, 0, +1}; it has the signs of the pattern of the unit,
    and that of the last unit, where it is active, is the output.

    There is one block for each sign of the output.  What a block does not have (leaves
    that are not there, biases of linear units) are coordinates of no effect;
    constraints that it does not have repeat others.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    unit : float
        What biases are multiples of; 0.0 if there are none.
    blocks : Blocks
    outputs : ndarray of shape (n_blocks,)
        Signs of the outputs, -1 or +1.
    n_norms : int
        Norms of each block: 1, or that of each leaf.
    """

    def __init__(self, X, unit, blocks, outputs, n_norms):
        self.M, self.unit = X, unit
        self.n_samples, self.n_features = X.shape
        self.n_norms, self.linear = n_norms, unit > 0
        self.outputs = np.asarray(outputs, dtype=np.float64)
        self.n_cones = self.n_patterns = len(blocks)
        self.n_blocks = self.n_distinct = self.n_cones + self.linear
        self.n_leaves = blocks.vectors.shape[1]
        self.n_biases = sum(b.shape[1] for b in blocks.biases) * self.linear
        self.p = self.n_leaves * self.n_features + self.n_biases
        # Leaves of the block without a cone that take part: with a norm of the whole
        # block, it costs less if all do.
        self.n_straight = 1 if n_norms > 1 else self.n_leaves

        rows, first = np.unique(X, axis=0, return_index=True)
        if not self.linear:
            first = first[np.any(rows != 0, axis=1)]
        self.cone_index = np.sort(first)
        self.cone_rows = X[self.cone_index]
        self._products = np.einsum(
            "ni,nj->nij", self.cone_rows, self.cone_rows
        ).reshape(len(self.cone_rows), -1)
        self._set_masks(blocks)
        self.n_constraints = self.n_units * len(self.cone_index)

    def _set_masks(self, blocks):
        """Masks of outputs, ``(n_cones, n_sources, n_samples)``, and of the cones."""
        self.n_units = n_units = sum(part.shape[1] for part in blocks.linear)
        n_sources = self.n_leaves + self.n_biases
        n, size = self.n_samples, n_units * n_sources
        n_rows = len(self.cone_index)
        self.masks = np.empty((self.n_cones, n_sources, n))
        own = np.empty((self.n_cones, n_units, n_rows), dtype=bool)
        self.cone_masks = np.empty((self.n_cones, n_units, n_sources, n_rows))
        self._cone_masks_by_sample = np.empty(
            (self.n_cones, n_rows, n_sources, n_units)
        )
        step = max(1, CHUNK // max(1, n * size))
        for start in range(0, self.n_cones, step):
            some = slice(start, min(start + step, self.n_cones))
            check()
            part = blocks.select(some)
            self.masks[some], own[some], masks = self._masks_of(part, n_sources)
            self.masks[some] *= self.outputs[some, None, None]
            self.cone_masks[some] = masks
            self._cone_masks_by_sample[some] = masks.transpose(0, 3, 2, 1)
        self.own = own.reshape(self.n_cones, n_units * n_rows)

    def _masks_of(self, blocks, n_sources):
        """Masks of the outputs of blocks, cones that are theirs, and masks of cones."""
        present = blocks.present
        inputs, cones = None, []
        start = self.n_leaves
        for level, patterns in enumerate(blocks.patterns):
            n_blocks, n_units, n = patterns.shape
            reach = np.zeros((n_blocks, n_units, n_sources, n), dtype=np.int8)
            units = np.arange(n_units)
            if inputs is None:
                reach[:, units, units] = present[0][:, :, None]
            else:
                grouped = n_blocks, n_units, inputs.shape[1] // n_units, n_sources, n
                reach += inputs.reshape(grouped).sum(axis=2, dtype=np.int8)
            if self.linear:
                has = present[level] & ~blocks.linear[level]
                reach[:, units, start + units] = has[:, :, None]
                start += n_units
            signs = np.where(patterns, 1, -1).astype(np.int8)
            has = present[level] & ~blocks.linear[level]
            cone = (signs * has[:, :, None])[:, :, None] * reach
            cones.append(cone[..., self.cone_index])
            active = reach * patterns[:, :, None]
            if level < len(blocks.signs):
                inputs = active * blocks.signs[level].astype(np.int8)[:, :, None, None]
        masks = np.concatenate(cones, axis=1)
        own = masks.any(axis=2)
        # A constraint of another unit at the same sample in place of none.
        source = np.argmax(own, axis=1)
        other = np.take_along_axis(masks, source[:, None, None], axis=1)
        return active[:, 0], own, np.where(own[:, :, None], masks, other)

    def split(self, theta):
        """Vectors of the leaves, ``(n_blocks, n_leaves, n_features)``, and biases."""
        size = self.n_leaves * self.n_features
        vectors = theta[:, :size].reshape(len(theta), self.n_leaves, self.n_features)
        return vectors, theta[:, size:]

    def _sources(self, theta, X):
        """What the masks are for, shape (n_blocks, n_sources, n_samples)."""
        vectors, biases = self.split(theta)
        z = vectors @ X.T
        if not self.linear:
            return z
        constant = np.broadcast_to(
            self.unit * biases[:, :, None], (*biases.shape, len(X))
        )
        return np.concatenate([z, constant], axis=1)

    def _from_sources(self, values, X):
        """Transpose of `_sources`."""
        vectors = values[:, : self.n_leaves] @ X
        parts = [vectors.reshape(len(values), self.n_leaves * self.n_features)]
        if self.linear:
            parts.append(self.unit * values[:, self.n_leaves :].sum(axis=2))
        return np.concatenate(parts, axis=1)

    def forward_distinct(self, theta, masks=None):
        """Outputs, shape (n_samples,), of the blocks; each has a sign of its own."""
        sources = self._sources(theta[: self.n_cones], self.M)
        f = np.einsum("bsn,bsn->n", self.masks, sources)
        if self.linear:
            vectors, _ = self.split(theta[-1:])
            f += self.M @ vectors[0, : self.n_straight].sum(axis=0)
        return f

    def adjoint_distinct(self, nu, masks=None):
        """Transpose of `forward_distinct`."""
        slopes = self._from_sources(self.masks * nu, self.M)
        if not self.linear:
            return slopes
        last = np.zeros((1, self.p))
        vectors, _ = self.split(last)
        vectors[0, : self.n_straight] = nu @ self.M
        return np.concatenate([slopes, last])

    def bias_signs(self, unit):
        """Signs of the bias of a unit in its own constraints, zero in other ones."""
        masks = self.cone_masks[:, unit, self.n_leaves + unit]
        first = unit * len(self.cone_index)
        return masks * self.own[:, first : first + len(self.cone_index)]

    def cone(self, theta):
        """Slacks ``A_b theta_b``, shape (n_cones, n_constraints)."""
        sources = self._sources(theta[: self.n_cones], self.cone_rows)
        slack = np.einsum("bqsn,bsn->bqn", self.cone_masks, sources)
        return slack.reshape(self.n_cones, self.n_constraints)

    pattern_cone = cone

    def cone_adjoint(self, rho):
        """Transpose of `cone`; zero for the block without a cone."""
        out = np.zeros((self.n_blocks, self.p))
        out[: self.n_cones] = self.pattern_cone_adjoint(rho)
        return out

    def pattern_cone_adjoint(self, rho):
        """`cone_adjoint` of the blocks with a cone."""
        rho = rho.reshape(self.n_cones, self.n_units, len(self.cone_index))
        values = np.einsum("bqsn,bqn->bsn", self.cone_masks, rho)
        return self._from_sources(values, self.cone_rows)

    def cone_gram(self, weights):
        """``A_b^T diag(weights_b) A_b``, shape (n_blocks, p, p)."""
        gram = np.zeros((self.n_blocks, self.p, self.p))
        n, size = len(self.cone_index), self.n_leaves * self.n_features
        weights = weights.reshape(self.n_cones, self.n_units, n)
        weights = weights.transpose(0, 2, 1)
        n_sources = self.masks.shape[1]
        P, d = self.n_leaves, self.n_features
        step = max(1, CHUNK // max(1, n * n_sources**2))
        for start in range(0, self.n_cones, step):
            some = slice(start, min(start + step, self.n_cones))
            rows = self._cone_masks_by_sample[some]
            # Products of sources at each sample: (blocks, samples, sources, sources).
            products = (rows * weights[some, :, None]) @ rows.transpose(0, 1, 3, 2)
            leaves = products[:, :, :P, :P].reshape(len(rows), n, P * P)
            vectors = leaves.transpose(0, 2, 1) @ self._products
            vectors = vectors.reshape(len(rows), P, P, d, d).transpose(0, 1, 3, 2, 4)
            gram[some, :size, :size] = vectors.reshape(len(rows), size, size)
            if self.linear:
                mixed = products[:, :, :P, P:].reshape(len(rows), n, -1)
                mixed = mixed.transpose(0, 2, 1) @ self.cone_rows
                mixed = mixed.reshape(len(rows), P, -1, d).transpose(0, 1, 3, 2)
                mixed = self.unit * mixed.reshape(len(rows), size, -1)
                gram[some, :size, size:] = mixed
                gram[some, size:, :size] = mixed.transpose(0, 2, 1)
                biases = self.unit**2 * products[:, :, P:, P:].sum(axis=1)
                gram[some, size:, size:] = biases
        return gram

    def _columns(self, some):
        """Features ``F_b^T`` of some blocks, shape (n_some, p, n_samples)."""
        masks = self.masks[some]
        vectors = masks[:, : self.n_leaves, None] * self.M.T
        size = self.n_leaves * self.n_features
        parts = [vectors.reshape(len(masks), size, self.n_samples)]
        if self.linear:
            parts.append(self.unit * masks[:, self.n_leaves :])
        return np.concatenate(parts, axis=1)

    def _chunks(self):
        """Features of all blocks, a few at a time."""
        step = max(1, CHUNK // (self.p * self.n_samples))
        for start in range(0, self.n_cones, step):
            some = slice(start, min(start + step, self.n_cones))
            yield some, self._columns(some)
        if self.linear:
            last = np.zeros((1, self.p, self.n_samples))
            size = self.n_straight * self.n_features
            last[0, :size] = np.tile(self.M.T, (self.n_straight, 1))
            yield slice(self.n_cones, self.n_blocks), last

    def feature_gram(self, roots, masks=None):
        """``sum_b F_b roots_b^T roots_b F_b^T``.

        Parameters
        ----------
        roots : ndarray of shape (n_blocks, p, p)

        Returns
        -------
        gram : ndarray of shape (n_samples, n_samples), Fortran order
            The lower triangle; the upper one is zero.
        """
        gram = np.zeros((self.n_samples, self.n_samples), order="F")
        for some, columns in self._chunks():
            part = np.concatenate([*(roots[some] @ columns)])
            gram = add_gram(gram, part.T)
        return gram

    def normal_matrix(self, weights, masks=None):
        """``F^T diag(weights) F`` of all blocks.

        Parameters
        ----------
        weights : ndarray of shape (n_samples,)
            Non-negative.

        Returns
        -------
        normal : ndarray of shape (n_blocks * p, n_blocks * p), Fortran order
            The lower triangle; the upper one is zero.
        """
        columns = np.concatenate([part for _, part in self._chunks()])
        columns = columns.reshape(-1, self.n_samples) * np.sqrt(weights)
        gram = np.zeros((len(columns),) * 2, order="F")
        return add_gram(gram, columns)
