"""The linear system of an iteration of the interior point method."""

import numpy as np
from scipy.linalg import cho_solve
from scipy.linalg.lapack import dpotrf

# Unknowns per sample up to which the system of the blocks is cheaper than that of the
# samples, if only its factorisation has to be repeated.
_REACH = 1.4


class NewtonSystem:
    """The linear system of one iteration, factored once and solved twice."""

    def __init__(self, state, scaling):
        self.state, self.scaling = state, scaling
        op, r = state.operator, state.r
        self._share_open_sides()
        blocks = op.cone_gram(self.weights)
        for k in range(op.n_norms):
            part = slice(k * r, (k + 1) * r)
            scaling.add_reduced(blocks[:, part, part], slice(k, None, op.n_norms))
        # The coordinates that a block does not have.
        block, free = np.nonzero(np.einsum("bii->bi", blocks) == 0)
        blocks[block, free, free] = 1.0
        self.stiffness, self.link = self._loss_terms()
        self.free = state.program.fit_intercept
        self.dual_slopes = op.adjoint(state.nu) + op.cone_adjoint(state.rho)
        self.dual_slopes[:, : state.n_penalised] += state.by_block(state.z)
        self.slack_error = op.cone(state.theta) - state.w
        # Squared errors have a constant part of the loss, which is formed once.
        self.constant = not (np.any(state.has_lower | state.has_upper) or len(state.m))
        reach = _REACH if self.constant else 1.0
        self.primal_form = op.n_distinct * op.p < reach * op.n_samples
        try:
            self.factored = self._factor(blocks)
        except np.linalg.LinAlgError:
            self.factored = False

    def _share_open_sides(self):
        """Weights of the cones, and masks, as the two parts give way.

        Of a change of an open entry ``z = w - m`` each part takes a share in
        proportion to its compliance (part over multiplier).
        """
        state, op = self.state, self.state.operator
        at, slope = state.open, op.negative_slope
        self.weights, self.masks = state.rho / state.w, op.masks
        self.relief = np.zeros(op.n_samples)
        if not len(state.m):
            return
        w, m = state.w[at] / state.rho[at], state.m / state.sigma
        self.parts = w, m
        self.share = (w + slope * m) / (w + m)
        self.weights[at] = 1.0 / (w + m)
        self.masks = op.masks.copy()
        self.masks[op.open[0], op.open[2]] = self.share
        self.relief = op.scatter((1.0 - slope) ** 2 * w * m / (w + m))
        outward = op.outputs[op.open[0]] * state.nu[op.open[2]]
        self.side_error = -(1.0 - slope) * outward - state.rho[at] - state.sigma

    def _loss_terms(self):
        """``df = link - stiffness * dnu`` (before the barrier of the box)."""
        state = self.state
        stiffness = state.loss.dual_curvature(state.nu, state.y, state.s)
        link = state.loss.dual_slope(state.nu, state.y, state.s) - state.f
        low, up = state.has_lower, state.has_upper
        self.gap_low = np.where(low, state.nu - state.lower, 1.0)
        self.gap_up = np.where(up, state.upper - state.nu, 1.0)
        stiffness = stiffness + state.a / self.gap_low + state.b / self.gap_up
        stiffness = stiffness + self.relief
        return stiffness, link + state.a - state.b

    def _factor(self, blocks):
        op = self.state.operator
        self.blocks = blocks
        self.roots = np.linalg.inv(_cholesky(blocks))
        if self.primal_form:
            matrix = self._normal_matrix()
            p = op.p
            self.joint = self._joint_blocks()
            for b, joint in enumerate(self.joint):
                matrix[b * p : (b + 1) * p, b * p : (b + 1) * p] += joint
        else:
            matrix = op.feature_gram(self.roots, self.masks)
            index = np.arange(op.n_samples)
            matrix[index, index] += self.stiffness
        self.factor, info = dpotrf(matrix, lower=True, overwrite_a=True)
        if info:
            return False
        if self.free:
            ones = np.ones(op.n_samples)
            self.response = self._solve_linear(np.zeros((op.n_blocks, op.p)), ones)
        return True

    def _normal_matrix(self):
        """The part of the loss, which for squared errors is always the same."""
        state = self.state
        weights = 1.0 / self.stiffness
        known = state.normal_matrix
        if known is None or not np.array_equal(known[0], weights):
            matrix = state.operator.normal_matrix(weights, self.masks)
            if not self.constant:
                return matrix
            state.normal_matrix = known = weights, matrix
        return known[1].copy(order="F")

    def _joint_blocks(self):
        """Matrices of the differences of the two blocks of each pattern.

        Only the difference enters the loss.  Given it, both blocks follow, and its
        compliance is the sum of theirs.
        """
        op = self.state.operator
        if not op.paired:
            return self.blocks
        n_patterns, n_cones = op.n_patterns, op.n_cones
        inverses = np.matmul(self.roots.transpose(0, 2, 1), self.roots)
        root = np.linalg.inv(
            _cholesky(inverses[:n_patterns] + inverses[n_patterns:n_cones])
        )
        joint = np.matmul(root.transpose(0, 2, 1), root)
        return np.concatenate([joint, self.blocks[n_cones:]])

    def _apply_inverse(self, theta):
        half = np.einsum("bij,bj->bi", self.roots, theta)
        return np.einsum("bji,bj->bi", self.roots, half)

    def _solve_linear(self, h, q):
        """Solve ``A dtheta - F^T dnu = h``, ``F dtheta + H dnu = q``."""
        op = self.state.operator
        theta = self._apply_inverse(h)
        if not self.primal_form:
            rhs = q - op.forward(theta, self.masks)
            nu = cho_solve((self.factor, True), rhs, check_finite=False)
            return theta + self._apply_inverse(op.adjoint(nu, self.masks)), nu
        before = op.distinct(theta)
        # The same as of `h`, without its rounding, if no block has a partner.
        rhs = np.einsum("bij,bj->bi", self.joint, before) if op.paired else h.copy()
        rhs += op.adjoint_distinct(q / self.stiffness, self.masks)
        moved = cho_solve((self.factor, True), rhs.ravel(), check_finite=False)
        moved = moved.reshape(rhs.shape)
        nu = (q - op.forward_distinct(moved, self.masks)) / self.stiffness
        if not op.paired:
            return moved, nu
        # Not by way of `nu`, which a small stiffness leaves with few digits.
        push = np.einsum("bij,bj->bi", self.joint, moved - before)
        return theta + self._apply_inverse(op.paired_with(push)), nu

    def _solve_refined(self, h, q):
        op = self.state.operator
        theta, nu = self._solve_linear(h, q)
        h = h - np.einsum("bij,bj->bi", self.blocks, theta)
        h = h + op.adjoint(nu, self.masks)
        q = q - op.forward(theta, self.masks) - self.stiffness * nu
        d_theta, d_nu = self._solve_linear(h, q)
        return theta + d_theta, nu + d_nu

    def solve(self, slack, other, head, tail, low, up, *, refined):
        """Newton step for the given complementarity targets."""
        state, op = self.state, self.state.operator
        shift, step_t, step_z = self.scaling.eliminate(head, tail)
        reduced = (slack - state.rho * self.slack_error) / state.w
        at, slope = state.open, op.negative_slope
        if len(state.m):
            w, m = self.parts
            moved = slack[at] / state.rho[at]
            moved_m = other / state.sigma - m * self.side_error
            error = moved - moved_m - (self.slack_error[at] + state.m)
            reduced[at] = error / (w + m)
            constant = moved - slope * moved_m - self.share * error
            outputs = op.outputs[op.open[0]]
        h = self.dual_slopes + op.cone_adjoint(reduced)
        h[:, : state.n_penalised] += state.by_block(shift)
        q = self.link + np.where(state.has_lower, low / self.gap_low, 0.0)
        q -= np.where(state.has_upper, up / self.gap_up, 0.0)
        if len(state.m):
            q -= op.scatter(outputs * constant)
        theta, nu = (self._solve_refined if refined else self._solve_linear)(h, q)
        offset = 0.0
        if self.free:
            # The free constant is the multiplier of sum(nu) = 0.
            response_theta, response_nu = self.response
            offset = (np.sum(state.nu) + np.sum(nu)) / np.sum(response_nu)
            theta = theta - offset * response_theta
            nu = nu - offset * response_nu
        z = op.cone(theta)
        w = z + self.slack_error
        rho = (slack - state.rho * w) / state.w
        m = sigma = np.zeros(0)
        if len(state.m):
            outward = outputs * nu[op.open[2]]
            slope_change = self.share * outward + (error - z[at]) / sum(self.parts)
            rho[at] = slope_change - outward
            sigma = slope * outward - slope_change + self.side_error
            w[at] = (slack[at] - state.w[at] * rho[at]) / state.rho[at]
            m = (other - state.m * sigma) / state.sigma
        return {
            "theta": theta,
            "offset": offset,
            "w": w,
            "rho": rho,
            "m": m,
            "sigma": sigma,
            "t": step_t(state.rows(theta)),
            "z": step_z(state.rows(theta)),
            "nu": nu,
            "a": np.where(state.has_lower, (low - state.a * nu) / self.gap_low, 0.0),
            "b": np.where(state.has_upper, (up + state.b * nu) / self.gap_up, 0.0),
        }


def _cholesky(blocks):
    """Batched Cholesky factors, with a rounding-sized shift where one fails."""
    shift = 0.0
    while True:
        try:
            return np.linalg.cholesky(blocks)
        except np.linalg.LinAlgError:
            shift = max(10 * shift, 1e-15)
            if shift > 1e-8:
                raise
            index = np.arange(blocks.shape[1])
            blocks[:, index, index] *= 1.0 + shift
