"""Nesterov-Todd scaling of the second-order cones of an interior point method."""

import numpy as np


class ConeScaling:
    r"""Scaling of the pairs ``(t, v)`` and ``(tau, z)`` of interior points.

    Both lie in the cone :math:`\{(t, v): \|v\| \le t\}`, one pair per row.
    With the scaling :math:`W`, :math:`\lambda = W (\tau, z) = W^{-1} (t, v)`.
    ``tau`` is constant (the weight decay), so ``t`` can be eliminated from
    the Newton system; what remains is the matrix `reduced`.

    Parameters
    ----------
    t, tau : ndarray of shape (n_blocks,)
    v, z : ndarray of shape (n_blocks, r)

    References
    ----------
    .. [1] Vandenberghe, L. (2010). "The CVXOPT linear and quadratic cone
       program solvers". Section 4 (scaling) and 5 (elimination).
    """

    def __init__(self, t, v, tau, z):
        primal, dual = (
            np.sqrt(minkowski(t, v, t, v)),
            np.sqrt(minkowski(tau, z, tau, z)),
        )
        t, v = t / primal, v / primal[:, None]
        tau, z = tau / dual, z / dual[:, None]
        gamma = np.sqrt(0.5 * (1.0 + t * tau + _dot(v, z)))
        self._head = (t + tau) / (2.0 * gamma)
        self._tail = (v - z) / (2.0 * gamma)[:, None]
        self._factor = np.sqrt(primal / dual)
        self._tail_square = _dot(self._tail, self._tail)
        self.lam = self.apply(tau * dual, z * dual[:, None])

    def apply(self, head, tail):
        """``W (head, tail)``."""
        dot = _dot(self._tail, tail)
        return (
            self._factor * (self._head * head + dot),
            self._factor[:, None]
            * (tail + self._tail * (head + dot / (1.0 + self._head))[:, None]),
        )

    def apply_inverse(self, head, tail):
        """``W^{-1} (head, tail)``."""
        dot = -_dot(self._tail, tail)
        return (
            (self._head * head + dot) / self._factor,
            (tail - self._tail * (head + dot / (1.0 + self._head))[:, None])
            / self._factor[:, None],
        )

    def divide_by_lambda(self, head, tail):
        """Solution ``x`` of ``lambda o x = (head, tail)`` in the Jordan algebra."""
        lead, rest = self.lam
        x = (lead * head - _dot(rest, tail)) / minkowski(lead, rest, lead, rest)
        return x, (tail - rest * x[:, None]) / lead[:, None]

    def add_reduced(self, matrices, some=slice(None)):
        """Add the curvature of the cones, with ``t`` eliminated, to `matrices`.

        Parameters
        ----------
        matrices : ndarray of shape (n_matrices, r, r)
            Changed in place.
        some : slice
            The cones that they are for.
        """
        inverse_square = 1.0 / self._factor[some] ** 2
        weight = 2.0 * inverse_square / (1.0 + 2.0 * self._tail_square[some])
        tail = self._tail[some]
        matrices -= (weight[:, None] * tail)[:, :, None] * tail[:, None, :]
        index = np.arange(matrices.shape[1])
        matrices[:, index, index] += inverse_square[:, None]

    def inverse_reduced(self):
        """The inverse of the curvature with ``t`` eliminated.

        Returns
        -------
        scale : ndarray of shape (n_blocks,)
        tail : ndarray of shape (n_blocks, r)
            It is ``scale * (I + tail tail^T)`` of each block.
        """
        return self._factor**2, np.sqrt(2.0) * self._tail

    def eliminate(self, head, tail):
        """Eliminate ``dt`` from ``W dz + W^{-1} ds = (head, tail)`` with ``dtau = 0``.

        Returns
        -------
        shift : ndarray of shape (n_blocks, r)
            ``dz = shift - reduced dv``.
        step_t : callable
            Maps ``dv`` to ``dt``.
        step_z : callable
            Maps ``dv`` to ``dz``.
        """
        head, tail = self.apply_inverse(head, tail)
        inverse_square = 1.0 / self._factor**2
        cosh = 1.0 + 2.0 * self._tail_square
        shift = tail + self._tail * (2.0 * self._head / cosh * head)[:, None]

        def step_t(dv):
            dot = _dot(self._tail, dv)
            return (head / inverse_square + 2.0 * self._head * dot) / cosh

        def step_z(dv):
            dot = _dot(self._tail, dv)
            reduced = dv - self._tail * (2.0 / cosh * dot)[:, None]
            return shift - reduced * inverse_square[:, None]

        return shift, step_t, step_z


def _dot(a, b):
    return np.einsum("bi,bi->b", a, b)


def minkowski(head, tail, other_head, other_tail):
    """``head * other_head - <tail, other_tail>`` for each row."""
    if head is other_head:
        # The difference of squares loses digits near the boundary.
        norm = np.sqrt(_dot(tail, tail))
        return (head - norm) * (head + norm)
    return head * other_head - _dot(tail, other_tail)


def largest_step(head, tail, d_head, d_tail):
    """Largest ``a`` with every ``(head, tail) + a (d_head, d_tail)`` in its cone."""
    quadratic = minkowski(d_head, d_tail, d_head, d_tail)
    linear = minkowski(head, tail, d_head, d_tail)
    constant = minkowski(head, tail, head, tail)
    root = np.sqrt(np.maximum(linear**2 - quadratic * constant, 0.0))
    leaves = (quadratic < 0) | ((linear < 0) & (linear**2 >= quadratic * constant))
    denominator = root - linear
    step = np.full(len(head), np.inf)
    np.divide(constant, denominator, out=step, where=leaves & (denominator > 0))
    return float(np.min(step, initial=np.inf))
