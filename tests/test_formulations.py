"""Convex formulations of networks of several outputs against each other."""

import cvxpy as cp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from scipy.special import expit

from sklearn_convexnn.families.two_layer.soft_thresholded_svd import (
    soft_thresholded_svd,
)
from sklearn_convexnn.losses import Separable, Softmax, make_loss
from sklearn_convexnn.patterns.arrangements import Arrangement, enumerate_arrangement
from sklearn_convexnn.solvers.gated import GatedObjective, solve_gated
from sklearn_convexnn.training.lifted import lifted_bound
from tests.problems import two_layer_problem
from tests.problems_of_several_outputs import (
    data,
    gated_objective,
    gated_program,
    loss_expression,
)

ALPHA = 0.2


def train_network(X, Y, s, loss, alpha, *, bias=False, width=20, n_starts=4):
    """Best weight-decay objective of local trainings from random starts."""
    rng = np.random.default_rng(0)
    d, c = X.shape[1], Y.shape[1]
    m = (d + c) * width

    def value_and_gradient(v, temperature):
        W, V = v[: d * width].reshape(d, width), v[d * width : m].reshape(width, c)
        z = X @ W
        h, active = np.maximum(z, 0.0), z > 0
        if temperature:
            # Neurons end on kinks; a softened network gets there smoothly.
            h = temperature * np.logaddexp(0.0, z / temperature)
            active = expit(z / temperature)
        F = h @ V + bias * v[m:]
        g = loss.gradient(F, Y, s)
        gradient = [
            (X.T @ (active * (g @ V.T)) + alpha * W).ravel(),
            (h.T @ g + alpha * V).ravel(),
            bias * g.sum(axis=0),
        ]
        decay = 0.5 * alpha * np.sum(v[:m] ** 2)
        return loss.value(F, Y, s) + decay, np.concatenate(gradient)

    best = np.inf
    for _ in range(n_starts):
        v = rng.standard_normal(m + c)
        for temperature in (0.1, 0.01, 0.001, 0.0001, 0.0):
            found = minimize(
                value_and_gradient,
                v,
                args=(temperature,),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": 300, "ftol": 1e-15, "gtol": 1e-10},
            )
            v = found.x
        best = min(best, found.fun)
    return best


def separate_program(name, X, Y, s, alpha, patterns):
    """Every neuron feeds one output: a group lasso with cones for each of them."""
    F, penalty, cones = 0.0, 0.0, []
    for p in patterns:
        for sign in (1.0, -1.0):
            V = cp.Variable((X.shape[1], Y.shape[1]))
            F = F + sign * (p[:, None] * X) @ V
            cones.append(np.where(p[:, None], X, -X) @ V >= 0)
            penalty = penalty + cp.sum(cp.norm(V, axis=0))
    problem = cp.Problem(
        cp.Minimize(loss_expression(name, F, Y, s) + alpha * penalty), cones
    )
    return problem.solve(solver="CLARABEL")


# Seeds for which local trainings find the optimum.
@pytest.mark.parametrize("name, seed", [("squared_error", 2), ("softmax", 1)])
def test_order_of_the_programs_over_all_patterns(name, seed):
    X, Y, s, loss = data(name, seed=seed)
    arrangement = enumerate_arrangement(X)
    patterns = arrangement.patterns
    frobenius = gated_program(
        name, X, Y, s, ALPHA, patterns, norm=lambda V: cp.norm(V, "fro")
    )
    nuclear = gated_program(name, X, Y, s, ALPHA, patterns)
    objective = GatedObjective.of(Y, s, loss, ALPHA, False)
    gated = solve_gated(X, objective, arrangement, tol=1e-7)
    bound = lifted_bound(X, Y, s, loss, ALPHA, arrangement).value
    trained = train_network(X, Y, s, loss, ALPHA)
    separate = separate_program(name, X, Y, s, ALPHA, patterns)
    assert frobenius <= nuclear * (1 + 1e-7) < bound < separate
    assert frobenius < 0.999 * nuclear
    # With two features the relaxation is exact.
    assert bound <= trained <= bound * (1 + 1e-5)
    assert_allclose(gated.objective, nuclear, rtol=1e-6)
    assert gated.status == "optimal"
    recovered = gated_objective(gated, X, Y, s, loss, ALPHA)
    assert_allclose(gated.objective, recovered, rtol=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_lifted_bound_is_below_every_network(seed):
    name = ("squared_error", "softmax", "hinge", "huber", "squared_hinge")[seed % 5]
    d, bias = 2 + seed // 5, bool(seed % 2)
    X, Y, s, loss = data(name, n=6, d=d, c=2, seed=seed, weighted=True)
    arrangement = enumerate_arrangement(X)
    bound = lifted_bound(X, Y, s, loss, ALPHA, arrangement, fit_intercept=bias)
    trained = train_network(
        X, Y, s, loss, ALPHA, bias=bias, width=10, n_starts=1 + (name != "hinge")
    )
    assert 0.85 * trained <= bound.value <= trained
    directions = np.random.default_rng(0).standard_normal((d, 2000))
    directions /= np.linalg.norm(directions, axis=0)
    slopes = np.linalg.norm(bound.N.T @ np.maximum(X @ directions, 0.0), axis=0)
    assert slopes.max() <= ALPHA
    if bias:
        assert_allclose(bound.N.sum(axis=0), 0.0, atol=1e-12)


def test_lifted_bound_of_few_patterns_is_that_of_a_sub_network():
    X, Y, s, loss = data("squared_error")
    complete = enumerate_arrangement(X)
    few = Arrangement(complete.patterns[::3], complete.gates[::3], False)
    bounds = [
        lifted_bound(X, Y, s, loss, ALPHA, arrangement).value
        for arrangement in (complete, few)
    ]
    assert bounds[0] < bounds[1]
    with pytest.raises(ValueError, match="column of ones"):
        lifted_bound(X, Y, s, loss, ALPHA, enumerate_arrangement(X, free_bias=True))


def orthogonal_data(n=4, d=5, length=1.7):
    rng = np.random.default_rng(0)
    X = length * np.linalg.qr(rng.standard_normal((d, n)))[0].T
    return X, np.arange(n) % 2, rng


@pytest.mark.parametrize("kind", ["one-hot", "rays"])
@pytest.mark.parametrize("weight", [1.0, 2.5])
def test_orthogonal_samples(kind, weight):
    X, group, rng = orthogonal_data()
    rays = np.eye(2)
    if kind == "rays":
        rays = np.linalg.qr(rng.standard_normal((3, 3)))[0][:2]
    Y = rays[group] * (rng.uniform(0.5, 2.0, len(X))[:, None] if kind == "rays" else 1)
    s, loss = np.full(len(X), weight), Separable(make_loss("squared_error"))
    found = soft_thresholded_svd(two_layer_problem(X, Y, s, loss, ALPHA, False, 0.0))
    neurons = found.neurons
    F = np.maximum(X @ neurons.units.directions.T, 0.0) @ neurons.outputs
    own = 0.5 * weight * np.sum((F - Y) ** 2) + ALPHA * np.sum(neurons.sizes)
    assert_allclose(np.linalg.norm(neurons.units.directions, axis=1), 1.0)
    assert_allclose(found.objective, own)
    assert_allclose(found.dual_bound, own, rtol=1e-9)
    trained = train_network(X, Y, s, loss, ALPHA, width=8, n_starts=2)
    assert found.dual_bound <= trained <= own * (1 + 1e-6)
    if kind == "one-hot":
        # Each class by itself, with its size in place of a singular value.
        keep = 1.0 - ALPHA / (1.7 * weight * np.sqrt(2.0))
        assert_allclose(F, keep * Y, atol=1e-12)


def test_orthogonal_samples_against_the_lifted_bound():
    X, group, _ = orthogonal_data(n=3, d=3)
    Y, s = np.eye(2)[group], np.ones(3)
    loss = Separable(make_loss("squared_error"))
    found = soft_thresholded_svd(two_layer_problem(X, Y, s, loss, 0.5, False, 0.0))
    bound = lifted_bound(X, Y, s, loss, 0.5, enumerate_arrangement(X))
    assert_allclose(found.objective, bound.value, rtol=1e-6)


def test_only_what_is_proven_has_a_closed_form():
    X, group, rng = orthogonal_data()
    Y, s = np.eye(2)[group], np.ones(4)
    loss = Separable(make_loss("squared_error"))

    def solve(X=X, Y=Y, s=s, loss=loss, alpha=ALPHA, bias=False, slope=0.0):
        return soft_thresholded_svd(
            two_layer_problem(X, Y, s, loss, alpha, bias, slope)
        )

    assert solve() is not None
    assert solve(Y=-Y) is not None
    assert solve(bias=True) is None
    assert solve(slope=0.1) is None
    assert solve(s=np.array([1.0, 1.0, 1.0, 2.0])) is None
    assert solve(loss=Softmax()) is None
    assert solve(loss=Separable(make_loss("huber"))) is None
    assert solve(X=X * np.array([[1.0], [1.0], [1.0], [1.1]])) is None
    assert solve(X=rng.standard_normal((4, 5))) is None
    assert solve(X=np.zeros((4, 5))) is None
    assert solve(X=X[:, :3]) is None
    # Rows on one line that point to both sides, and rows on lines that are oblique.
    for signs in ([1.0, 1.0, -1.0, 1.0], [1.0, 1.0, -1.0, -1.0]):
        assert solve(Y=Y * np.array(signs)[:, None]) is None
    assert solve(Y=np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])) is None
    # Oblique rows do not matter when what is mixed is below the threshold.
    oblique = np.array([[2.0, 0.1], [2.0, -0.1], [2.0, 0.0], [2.0, 0.0]])
    assert solve(Y=oblique, alpha=0.5) is not None
    assert solve(Y=oblique, alpha=0.1) is None
    assert len(solve(alpha=1e3).neurons) == 0
    assert solve(Y=np.zeros((4, 2))).objective == 0.0


@pytest.mark.parametrize("name", ["squared_error", "huber", "quantile", "softmax"])
def test_lifted_bound_in_other_units(name):
    X, Y, s, loss = data(name, n=6, d=2, c=2)
    if name == "softmax":
        Y[:2] = np.eye(2)
    arrangement = enumerate_arrangement(X)
    bound = lifted_bound(X, Y, s, loss, 0.3, arrangement).value
    for size, unit, weight in ((1e5, 1.0, 1.0), (1e-5, 1e5, 1e4), (1.0, 1e-5, 1e-4)):
        targets, other, power = Y, loss, 0
        if name != "softmax":
            targets, power = Y * unit, 1 if name == "quantile" else 2
        if name == "huber":
            other = Separable(make_loss(name, loss.loss.epsilon * unit))
        scale = weight * (unit**power if power else 1.0)
        alpha = 0.3 * scale * size / (unit if power else 1.0)
        found = lifted_bound(X * size, targets, s * weight, other, alpha, arrangement)
        assert_allclose(found.value, bound * scale, rtol=1e-5)
