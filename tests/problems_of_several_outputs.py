"""Small problems of several outputs, and gated programs for a conic solver."""

import cvxpy as cp
import numpy as np
from numpy.testing import assert_allclose

from sklearn_convexnn.losses import Separable, Softmax, make_loss
from sklearn_convexnn.solvers.gated_network import gated_outputs


def data(name, n=7, d=2, c=3, seed=0, weighted=False):
    """Random data without structure, and the loss."""
    rng = np.random.default_rng(seed)
    X, Y = rng.standard_normal((n, d)), rng.standard_normal((n, c))
    s = rng.uniform(0.5, 2.0, n) if weighted else np.ones(n)
    if name == "softmax":
        return X, np.eye(c)[rng.integers(c, size=n)], s, Softmax()
    if name in ("squared_hinge", "hinge"):
        Y = np.where(Y > 0, 1.0, -1.0)
    return X, Y, s, Separable(make_loss(name, 0.5))


def loss_expression(name, F, Y, s):
    weight = np.repeat(s[:, None], Y.shape[1], axis=1)
    if name == "squared_error":
        return 0.5 * cp.sum(cp.multiply(weight, cp.square(F - Y)))
    if name == "huber":
        return 0.5 * cp.sum(cp.multiply(weight, cp.huber(F - Y, 0.5)))
    if name == "squared_hinge":
        return cp.sum(cp.multiply(weight, cp.square(cp.pos(1 - cp.multiply(Y, F)))))
    own = cp.sum(cp.multiply(Y, F), axis=1)
    return cp.sum(cp.multiply(s, cp.log_sum_exp(F, axis=1) - own))


def gated_program(name, X, Y, s, alpha, patterns, *, bias=False, norm=cp.normNuc):
    blocks = [cp.Variable((X.shape[1], Y.shape[1])) for _ in patterns]
    F = sum((p[:, None] * X) @ V for p, V in zip(patterns, blocks))
    if bias:
        F = F + np.ones((len(X), 1)) @ cp.Variable((1, Y.shape[1]))
    penalty = alpha * sum(norm(V) for V in blocks)
    problem = cp.Problem(cp.Minimize(loss_expression(name, F, Y, s) + penalty))
    return problem.solve(solver="CLARABEL")


def gated_objective(network, X, Y, s, loss, alpha):
    """The gated network's objective, written down from its definition."""
    F = np.tile(network.offset, (len(X), 1))
    for h, w, v in zip(network.gates.T, network.hidden.T, network.output):
        for i, x in enumerate(X):
            if x @ h[: len(x)] + (h[len(x)] if len(h) > len(x) else 0.0) > 0:
                F[i] += (x @ w) * v
    assert_allclose(F, gated_outputs(network, X), atol=1e-10)
    decay = np.sum(network.hidden**2) + np.sum(network.output**2)
    return loss.value(F, Y, s) + 0.5 * alpha * decay
