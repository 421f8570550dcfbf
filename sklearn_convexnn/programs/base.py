"""What solvers see of a convex program, whatever its units are."""

import numpy as np
from scipy.linalg.blas import dsyrk

from sklearn_convexnn._utils.breakdown import furthest, row_space
from sklearn_convexnn._utils.deadlines import check, row_space_work

CHUNK = 4_000_000
"""Elements of the temporary arrays that the chunked products may use (32 MB)."""


class Operator:
    """The linear maps of a program: ``f = sum_b F_b theta_b``, ``A_b theta_b >= 0``.

    A kind of operator has ``forward_distinct``, ``adjoint_distinct``, ``cone``,
    ``pattern_cone``, ``pattern_cone_adjoint``, ``cone_adjoint``, ``cone_gram``,
    ``feature_gram``, ``normal_matrix``, ``bias_signs`` and ``matrices``.

    Attributes
    ----------
    M : ndarray of shape (n_samples, n_columns)
        The data in the coordinates of the blocks.
    p : int
        Length of a block.
    n_blocks, n_cones : int
        Number of blocks, and of blocks with a cone (the first ones).
    n_patterns, n_distinct : int
        Number of cones that differ, and of blocks that differ by more than the sign
        of their output.
    n_norms : int
        Number of norms of each block.
    n_units : int
        Units of a block, of which each has as many constraints, and a bias among the
        last coordinates if there are biases.
    n_constraints : int
        Number of inequalities of each cone.
    outputs : ndarray of shape (n_patterns,)
        Signs of the outputs of the blocks, of the first of each pattern if paired.
    paired : bool
        Whether each pattern has two blocks, of both signs.
    single_units : bool
        Whether a block is one unit, ``F_b`` a mask times ``M`` and ``A_b`` signs times
        rows of ``M``.
    open : tuple of ndarray
        Block, constraint and sample of the entries at which a block may take both
        sides.
    linear : bool
        Whether there is a last block without a cone.
    own : ndarray of bool, shape (n_cones, n_constraints), or True
        Constraints that do not repeat others.
    """

    paired, single_units, linear, own = False, False, False, True
    n_norms = n_units = 1
    negative_slope = 0.0
    open = tuple(np.zeros(0, dtype=int) for _ in range(3))

    @property
    def has_open_sides(self):
        return len(self.open[0]) > 0

    def distinct(self, theta):
        """Differences of the two blocks of each pattern, and what has one block."""
        if not self.paired:
            return theta
        pairs, last = theta[: self.n_cones], theta[self.n_cones :]
        difference = pairs[: self.n_patterns] - pairs[self.n_patterns :]
        return np.concatenate([difference, last])

    def paired_with(self, distinct):
        """Transpose of `distinct`: the second block of a pattern gets the negative."""
        if not self.paired:
            return distinct
        half, last = distinct[: self.n_patterns], distinct[self.n_patterns :]
        return np.concatenate([half, -half, last])

    def forward(self, theta, masks=None):
        """Outputs, shape (n_samples,), of blocks `theta`, shape (n_blocks, p)."""
        return self.forward_distinct(self.distinct(theta), masks)

    def activate(self, theta):
        """`forward` with the activation itself at the open entries."""
        return self.forward(theta)

    def adjoint(self, nu, masks=None):
        """Transpose of `forward`: shape (n_samples,) to (n_blocks, p)."""
        return self.paired_with(self.adjoint_distinct(nu, masks))


class Program:
    r"""Restricted convex program of a network with one output.

    .. math::
        \min_{\theta, b_0}\; L\Big(\sum_b F_b \theta_b + b_0\Big)
        + \alpha \sum_b \sum_j \|\theta_{bj}\|_2
        \quad\text{s.t.}\quad A_b \theta_b \ge 0 ,

    with norms of the penalised parts of a block.  A kind of program sets ``operator``,
    ``starts``, ``n_penalised`` and ``complete``.

    Parameters
    ----------
    problem : Problem
        What the program is restricted from.

    Attributes
    ----------
    operator : Operator
        In coordinates of the row space of `X`, in which norms are the same.
    n_penalised : int
        Coordinates of each norm; a block begins with those of its norms.
    starts : ndarray of shape (n_blocks, p)
        A point inside the cone of each block.
    complete : bool
        Whether there are blocks for all units.
    warm_start : dict or None
        Where the interior point method starts.
    """

    warm_start = None

    def __init__(self, problem):
        self.y, self.sample_weight = problem.y, problem.sample_weight
        self.loss, self.alpha = problem.single_loss, problem.alpha
        self.fit_intercept = problem.fit_intercept
        X = problem.X
        check(row_space_work(X.shape))
        basis = row_space(X)
        # The identity when it is one, so that no rounding enters.
        self._basis = np.eye(X.shape[1]) if basis.shape[1] == X.shape[1] else basis
        self._unit = 0.0
        if self.fit_intercept:
            # Biases in units of the data, so that both parts are of a size.
            self._unit = max(np.sqrt(np.mean(np.sum(X**2, axis=1))), 1e-300)

    def norms(self, theta):
        """Norms that are penalised, those of a block after each other."""
        count, length = self.operator.n_norms, self.n_penalised
        parts = theta[:, : count * length].reshape(count * len(theta), length)
        return np.linalg.norm(parts, axis=1)

    def objective(self, theta, offset):
        """Objective of the program at blocks `theta` and constant `offset`."""
        f = self.operator.activate(theta) + offset
        loss = self.loss.value(f, self.y, self.sample_weight)
        return loss + self.alpha * float(np.sum(self.norms(theta)))

    def best_offset(self, f):
        """The best constant ``b_0`` besides the outputs `f` of the blocks."""
        if not self.fit_intercept:
            return 0.0
        return self.loss.best_offset(f, self.y, self.sample_weight)

    def null_offset(self):
        """The constant ``b_0`` of the network without units."""
        return self.best_offset(np.zeros(len(self.y)))

    def null_objective(self):
        """Objective of the network without units."""
        f = np.full(len(self.y), self.null_offset())
        return self.loss.value(f, self.y, self.sample_weight)

    @property
    def can_improve(self):
        """Whether any unit could improve on the network without."""
        has_units = self.operator.n_blocks > 0 and self.n_penalised > 0
        return has_units and self.null_objective() > 0

    def dual_bound(self, nu, rho):
        r"""Lower bound of the program's value from any dual point.

        By weak duality, :math:`G(t\nu)` bounds the value from below whenever the norms
        of :math:`F_b^T \nu + A_b^T \rho_b` are at most :math:`\alpha / t` for some
        :math:`\rho \ge 0`, and the free parts see no slope.  Points that violate this
        are first projected, then scaled.

        Parameters
        ----------
        nu : ndarray of shape (n_samples,)
        rho : ndarray of shape (n_cones, n_constraints)
            Non-negative multipliers of the cones.

        Returns
        -------
        bound : float
        """
        feasible = self.feasible(nu, rho)
        return self.loss.dual_value(feasible, self.y, self.sample_weight)

    def feasible(self, nu, rho):
        """The dual point, projected and scaled, whose value is the bound.

        Parameters
        ----------
        nu, rho
            As of `dual_bound`.

        Returns
        -------
        nu : ndarray of shape (n_samples,)
        """
        nu = self.loss.project_dual(
            nu, self.y, self.sample_weight, centred=self.fit_intercept
        )
        kappa = float(np.max(self.norms(self.dual_slopes(nu, rho)), initial=0.0))
        return min(1.0, furthest(self.alpha, kappa)) * nu

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
        if op.has_open_sides:
            # Between the slopes of the two sides.
            block, constraint, sample = op.open
            reach = (op.negative_slope - 1.0) * op.outputs[block] * nu[sample]
            rho = rho.copy()
            rho[block, constraint] = np.clip(
                rho[block, constraint], 0.0, np.maximum(reach, 0.0)
            )
        slopes = op.adjoint(nu) + op.cone_adjoint(rho)
        return self._without_slopes_of_biases(slopes) if self.fit_intercept else slopes

    def _without_slopes_of_biases(self, slopes):
        """Raise multipliers until no block has a slope along its free biases.

        From the last unit down: the constraints of a unit concern its own bias
        and those of the units before it.
        """
        op = self.operator
        for unit in range(op.n_units - 1, -1, -1):
            error = slopes[: op.n_cones, op.p - op.n_units + unit] / self._unit
            # Spread the missing amount over the rows whose sign reduces it.
            signs = op.bias_signs(unit)
            against = -np.sign(error)[:, None] * signs > 0
            count = np.maximum(against.sum(axis=1), 1)
            fix = np.zeros((op.n_cones, op.n_units, signs.shape[1]))
            fix[:, unit] = against * (np.abs(error) / count)[:, None]
            slopes = slopes + op.cone_adjoint(fix.reshape(op.n_cones, op.n_constraints))
        return slopes


def add_gram(gram, part):
    """Add ``part @ part.T`` to the lower triangle of `gram`, in place.

    Parameters
    ----------
    gram : ndarray of shape (n, n)
        In the order of Fortran.
    part : ndarray of shape (n, k)

    Returns
    -------
    gram : ndarray of shape (n, n)
    """
    # NumPy and SciPy come with a BLAS each.  The factorisation that follows is
    # SciPy's; two thread pools at work in turn cost more than they bring.
    if part.flags.f_contiguous:
        return dsyrk(1.0, part, 1.0, gram, lower=1, overwrite_c=1)
    return dsyrk(1.0, part.T, 1.0, gram, trans=1, lower=1, overwrite_c=1)
