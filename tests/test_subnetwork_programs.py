"""Convex programs of parallel sub-networks: references, recovery, invariances."""

from dataclasses import replace
from functools import lru_cache, partial
from itertools import permutations
from math import comb

import cvxpy as cp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from sklearn_convexnn.families.subnetworks.architecture import Architecture
from sklearn_convexnn.families.subnetworks.contest import SubnetworkContest
from sklearn_convexnn.families.subnetworks.placing import place_subnetworks
from sklearn_convexnn.families.subnetworks.recovery import subnetworks_of_blocks
from sklearn_convexnn.losses import Separable
from sklearn_convexnn.patterns.arrangements import enumerate_arrangement
from sklearn_convexnn.patterns.block_enumeration import enumerate_blocks
from sklearn_convexnn.patterns.blocks import _keys, blocks_of, distinct, simplified
from sklearn_convexnn.programs.subnetworks import SubnetworkProgram
from sklearn_convexnn.programs.two_layer import TwoLayerProgram
from sklearn_convexnn.solvers import (
    SOLVERS,
    SOLVERS_OF_BLOCKS,
    solve_cvxpy,
    solve_interior_point,
    solve_penalised,
)
from sklearn_convexnn.solvers.cvxpy_reference import _form
from tests.problems import (
    LOSSES,
    as_targets,
    loss_of,
    subnetwork_problem,
    two_layer_problem,
)


@lru_cache
def inputs(n, d, seed):
    return np.random.RandomState(seed).standard_normal((n, d))


@lru_cache
def all_blocks(n, d, width, bias, norm, seed=2, depth=3):
    arch = Architecture(depth, width, norm)
    return enumerate_blocks(inputs(n, d, seed), arch, free_bias=bias)


def targets(loss, n, seed):
    y = np.random.RandomState(100 + seed).standard_normal(n)
    return as_targets(loss, y, np.median(y))


class Case:
    """A program with all its blocks, and the training problem."""

    def __init__(
        self,
        n=4,
        d=2,
        width=2,
        *,
        bias=False,
        norm="frobenius",
        seed=2,
        depth=3,
        loss="squared_error",
        alpha=0.1,
        X=None,
        y=None,
        s=None,
        blocks=None,
    ):
        X = inputs(n, d, seed) if X is None else X
        y = targets(loss, len(X), seed) if y is None else y
        s = np.ones(len(X)) if s is None else s
        if blocks is None:
            blocks = all_blocks(n, d, width, bias, norm, seed, depth)
        self.blocks, arch = blocks, Architecture(depth, width, norm)
        loss = Separable(loss_of(loss))
        self.problem = subnetwork_problem(X, y[:, None], s, loss, alpha, bias, arch)
        self.program = SubnetworkProgram(self.problem, blocks)

    def two_layer(self):
        """The problem of two-layer networks on the same data."""
        p = self.problem
        data = p.X, p.Y, p.sample_weight, p.loss, p.alpha, p.fit_intercept
        return two_layer_problem(*data)

    def solve(self, tol=1e-8):
        result = solve_interior_point(self.program, tol=tol)
        assert_allclose(result.dual_bound, result.objective, rtol=10 * tol)
        return result

    def value(self):
        return self.solve().objective

    def penalised(self, **options):
        contest = partial(SubnetworkContest, self.problem)
        return solve_penalised(self.program, contest=contest, **options)

    def recovered(self, result):
        return subnetworks_of_blocks(
            self.problem.family, self.program, result.theta, result.offset
        )

    def best_training(self, n_seeds, max_iter, n_units=40):
        return min(
            self.problem.objective(
                place_subnetworks(
                    self.problem, n_units, np.random.RandomState(k), max_iter
                )
            )
            for k in range(n_seeds)
        )


def random_weights(family, n_units, rng):
    """Weights of any size and sign, with biases if these are free."""
    weights, biases = family.no_weights(n_units)
    for W, b, used in zip(weights, biases, family.architecture.connections):
        W[:] = rng.standard_normal(W.shape) * (1.0 if used is None else used)
        b[:] = family.fit_intercept * rng.standard_normal(b.shape)
    return weights, biases


# Blocks


@pytest.mark.parametrize(
    "n, d, bias, norm, depth",
    [
        (5, 2, False, "frobenius", 3),
        (4, 2, False, "path", 3),
        (4, 1, True, "frobenius", 3),
        (3, 1, True, "path", 3),
        pytest.param(2, 2, False, "path", 4, marks=pytest.mark.slow),
    ],
)
def test_every_subnetwork_lies_in_a_block(n, d, bias, norm, depth):
    """With the same output, some vectors of the block being zero."""
    case = Case(n, d, bias=bias, norm=norm, depth=depth)
    weights, biases = random_weights(case.problem.family, 40, np.random.RandomState(1))
    drawn = blocks_of(case.problem.X, weights, biases, free_bias=bias)
    drawn = distinct(drawn, merge=norm == "frobenius", free_bias=bias)
    assert len(drawn) > 5
    own = Case(n, d, bias=bias, norm=norm, depth=depth, blocks=drawn).program
    there = np.concatenate(own.blocks.present, axis=1)
    # Each is inside of its own block.
    assert np.all(own.operator.cone(own.starts) >= -1e-9)
    op = case.program.operator
    for theta, masks, present in zip(own.starts, own.operator.masks, there):
        vectors, shifts = own.operator.split(theta[None])
        shifts = shifts * present if bias else shifts
        source = own.operator._sources(theta[None], op.M)[0]
        output, found = np.sum(masks * source, axis=0), False
        for order in map(list, permutations(range(op.n_leaves))):
            parts = [vectors[:, order]]
            if bias:
                parts += [shifts[:, order], shifts[:, op.n_leaves :]]
            moved = np.concatenate([part.reshape(1, -1) for part in parts], axis=1)
            moved = np.repeat(moved, op.n_blocks, axis=0)
            inside = np.all(op.cone(moved) >= -1e-9, axis=1)
            outputs = np.sum(op.masks * op._sources(moved[: op.n_cones], op.M), axis=1)
            same = np.all(np.abs(outputs - output) < 1e-9, axis=1)
            found |= np.any(inside & same)
        assert found


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("norm", ["frobenius", "path"])
def test_blocks_differ_and_have_inner_points(bias, norm):
    program = Case(3 if bias else 4, 1 if bias else 2, bias=bias, norm=norm).program
    assert len(set(_keys(program.blocks))) == len(program.blocks) // 2 > 0
    assert np.all(program.operator.cone(program.starts) > 0)


@pytest.mark.slow
def test_sampled_blocks_of_wide_subnetworks():
    """Leaves on the same pattern become one, and stay inside of their block."""
    X = inputs(6, 2, 2)
    wide = Architecture(3, 3, "frobenius")
    family = replace(Case(6).problem.family, architecture=wide)
    draws = random_weights(family, 1000, np.random.RandomState(1))
    blocks = distinct(
        blocks_of(X, *draws, free_bias=False), merge=True, free_bias=False
    )
    assert len(set(_keys(blocks))) == len(blocks)
    case = Case(X=X, width=3, blocks=blocks)
    assert np.all(case.program.operator.cone(case.program.starts) >= -1e-9)
    ours = case.solve()
    network = case.recovered(ours)
    assert_allclose(case.problem.objective(network), ours.objective, rtol=1e-9)


@pytest.mark.slow
def test_units_that_only_add_are_their_leaves():
    """Also if there are samples on which none of them is active."""
    X = inputs(6, 2, 2)
    weights, biases = Case(6).problem.family.no_weights(200)
    rng = np.random.RandomState(1)
    weights[0][:], weights[1][:] = rng.standard_normal((200, 2, 2)), 1.0
    blocks = blocks_of(X, weights, biases, free_bias=False)
    blocks = distinct(blocks, merge=True, free_bias=False)
    gates = enumerate_arrangement(X, free_bias=False).patterns
    assert len(blocks) <= len(gates)
    assert np.all(blocks.signs[0] == [1, 0])


def test_counts():
    """Section 3.2 of the paper, in general position."""
    n, d, width = 5, 2, 2
    first = len(enumerate_arrangement(inputs(n, d, 2), free_bias=False).patterns)
    assert first == 2 * sum(comb(n - 1, k) for k in range(d)) == 10
    second = 2 * sum(comb(n - 1, k) for k in range(width * d))
    assert len(all_blocks(n, d, width, False, "frobenius")) <= (
        comb(2 * first, width) * second
    )


# Values


@pytest.mark.parametrize("loss", ["squared_error", "log_loss"])
@pytest.mark.parametrize("seed", [0, 1, pytest.param(2, marks=pytest.mark.slow)])
def test_program_reference_and_network_agree(seed, loss):
    case = Case(5, seed=seed, loss=loss)
    ours = case.solve(1e-9)
    reference = solve_cvxpy(case.program, tol=1e-8)
    assert_allclose(ours.objective, reference.objective, rtol=1e-6)
    assert_allclose(reference.dual_bound, reference.objective, rtol=1e-6)
    network = case.recovered(ours)
    assert_allclose(case.problem.objective(network), ours.objective, rtol=1e-9)
    for W in network.units.weights:
        assert_allclose(np.linalg.norm(W, axis=(1, 2)), 1.0, rtol=1e-12)
    assert ours.dual_bound <= case.best_training(1, 80) + 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_trainings_reach_the_program(seed):
    case = Case(6, seed=seed)
    best, value = case.best_training(20, 3000), case.value()
    assert value <= best * (1 + 1e-8)
    assert_allclose(best, value, rtol=0.02)


@pytest.mark.parametrize("norm", ["frobenius", "path"])
@pytest.mark.parametrize("bias", [False, True])
def test_one_inner_unit_is_two_layers(bias, norm):
    """Without biases; with them the second one makes more of the same unit."""
    case = Case(6, 1 if bias else 2, 1, bias=bias, norm=norm)
    arrangement = enumerate_arrangement(case.problem.X, free_bias=bias)
    two_layer = TwoLayerProgram(case.two_layer(), arrangement)
    value, expected = case.value(), solve_interior_point(two_layer, tol=1e-8).objective
    if bias:
        assert value <= expected * (1 + 1e-7)
    else:
        assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("norm", ["frobenius", "path"])
def test_width_helps(norm):
    wide, narrow = Case(norm=norm).value(), Case(width=1, norm=norm).value()
    assert wide < 0.999 * narrow


@pytest.mark.slow
def test_path_norm_needs_repeated_leaves():
    """Two halves of a leaf cost the root of one half of it."""
    blocks = all_blocks(4, 2, 2, False, "path", seed=7)
    first, second = blocks.patterns[0].transpose(1, 0, 2)
    signs = blocks.signs[0]
    same = np.all(first == second, axis=1) & (signs[:, 0] == signs[:, 1])
    assert same.any()
    case = Case(norm="path", seed=7)
    without = Case(norm="path", seed=7, blocks=blocks.select(~same))
    ours = case.solve()
    assert ours.objective < 0.95 * without.value()
    reference = solve_cvxpy(case.program, tol=1e-8)
    assert_allclose(ours.objective, reference.objective, rtol=1e-6)
    network = case.recovered(ours)
    assert_allclose(case.problem.objective(network), ours.objective, rtol=1e-9)


@pytest.mark.parametrize(
    "n, d, norm",
    [
        (4, 1, "frobenius"),
        (3, 1, "path"),
        (3, 2, "frobenius"),
        pytest.param(5, 1, "frobenius", marks=pytest.mark.slow),
        pytest.param(5, 1, "path", marks=pytest.mark.slow),
        pytest.param(4, 2, "frobenius", marks=pytest.mark.slow),
    ],
)
def test_free_biases(n, d, norm):
    case = Case(n, d, bias=True, norm=norm)
    ours = case.solve(1e-9)
    reference = solve_cvxpy(case.program, tol=1e-8)
    assert_allclose(ours.objective, reference.objective, rtol=1e-6)
    network = case.recovered(ours)
    assert_allclose(case.problem.objective(network), ours.objective, rtol=1e-8)
    assert ours.dual_bound <= case.best_training(1, 80)


@pytest.mark.slow
def test_penalised_bias_costs_more():
    """A column of ones has its weights in the norms, and feeds the first layer only."""
    free, X = Case(4, 1, bias=True), inputs(4, 1, 2)
    ones = np.column_stack([X, np.ones(4)])
    blocks = enumerate_blocks(ones, free.problem.family.architecture, free_bias=False)
    assert free.value() < Case(X=ones, y=free.program.y, blocks=blocks).value()


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.slow
def test_four_layers(n):
    case = Case(n, 2, norm="path", depth=4)
    ours = case.solve(1e-9)
    network = case.recovered(ours)
    assert_allclose(case.problem.objective(network), ours.objective, rtol=1e-9)
    assert ours.dual_bound <= case.best_training(2, 100 if n == 2 else 20)
    if n == 2:
        reference = solve_cvxpy(case.program, tol=1e-8)
        assert_allclose(ours.objective, reference.objective, rtol=1e-6)


def test_two_layer_blocks_are_there():
    """Networks of mixed depths: shorter sub-networks add nothing to three layers."""
    case = Case()
    gates = enumerate_arrangement(case.problem.X, free_bias=False).gates
    neurons = case.problem.family.embedded(gates, np.zeros(len(gates)))
    short = blocks_of(case.problem.X, *neurons, free_bias=False)
    short = distinct(short, merge=True, free_bias=False)
    assert set(_keys(short)) <= set(_keys(case.blocks))
    both = Case(blocks=case.blocks.joined(short))
    assert_allclose(both.value(), case.value(), rtol=1e-7)


@pytest.mark.parametrize("bias", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_invariances(bias):
    n, d = 3, 1 if bias else 2
    case = Case(n, d, bias=bias)
    value, X, y = case.value(), case.problem.X, case.program.y
    arch = case.problem.family.architecture

    def value_of(X, y, s=None):
        blocks = enumerate_blocks(X, arch, free_bias=bias)
        return Case(X=X, y=y, s=s, bias=bias, blocks=blocks).value()

    twice = value_of(np.tile(X, (2, 1)), np.tile(y, 2), np.full(2 * n, 0.5))
    assert_allclose(twice, value, rtol=1e-6)
    order = np.random.RandomState(0).permutation(n)
    assert_allclose(value_of(X[order], y[order]), value, rtol=1e-6)
    if d == 2:
        turn = np.array([[np.cos(1.0), np.sin(1.0)], [-np.sin(1.0), np.cos(1.0)]])
        assert_allclose(value_of(X @ turn, y), value, rtol=1e-6)
    # A feature in two halves leaves the row space as it is.
    wide = np.column_stack([X, X[:, 0]])
    wide[:, [0, -1]] /= np.sqrt(2.0)
    assert_allclose(value_of(wide, y), value, rtol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
def test_null_network(bias):
    """Up to the steepest slope over all units, and not beyond, no unit is of use."""
    args = {"n": 4, "d": 1 if bias else 2, "bias": bias}
    program = Case(**args).program
    f = np.full(4, program.null_offset())
    nu = -program.loss.gradient(f, program.y, program.sample_weight)
    form = _form(cp, program)
    unit_cost = [form.penalty <= 1.0, *form.cones]
    slope = cp.Problem(cp.Maximize(nu @ form.outputs), unit_cost).solve("CLARABEL")
    null = program.null_objective()
    assert_allclose(Case(**args, alpha=1.001 * slope).value(), null, rtol=1e-7)
    assert Case(**args, alpha=0.99 * slope).solve(1e-10).objective < null * (1 - 1e-6)


@pytest.mark.parametrize(
    "loss, bias",
    [
        *[(loss, False) for loss in LOSSES],
        *[(loss, True) for loss in ("quantile", "log_loss")],
        *[
            pytest.param(loss, True, marks=pytest.mark.slow)
            for loss in LOSSES
            if loss not in ("quantile", "log_loss")
        ],
    ],
)
def test_losses(loss, bias):
    case = Case(4, 1 if bias else 2, bias=bias, loss=loss)
    ours, reference = case.solve(), solve_cvxpy(case.program, tol=1e-8)
    assert ours.objective < 0.95 * case.program.null_objective()
    assert_allclose(ours.objective, reference.objective, rtol=1e-5)
    network = case.recovered(ours)
    assert_allclose(case.problem.objective(network), ours.objective, rtol=1e-8)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_factor_would_show(factor):
    case, wrong = Case(), Case(alpha=factor * 0.1)
    result = wrong.solve()
    value = case.problem.objective(case.recovered(result))
    assert abs(value - result.objective) > 1e-3
    assert value > case.value() + 1e-3


# The operator


@pytest.mark.parametrize(
    "n, d, bias, norm, depth",
    [
        (4, 2, False, "frobenius", 3),
        (4, 2, False, "path", 3),
        (4, 1, True, "frobenius", 3),
        (3, 1, True, "path", 3),
        pytest.param(2, 2, False, "path", 4, marks=pytest.mark.slow),
    ],
)
def test_operator_against_matrices(n, d, bias, norm, depth):
    blocks = all_blocks(n, d, 2, bias, norm, depth=depth)
    rng = np.random.RandomState(0)
    blocks = blocks.select(rng.permutation(len(blocks))[:30])
    program = Case(n, d, bias=bias, norm=norm, depth=depth, blocks=blocks).program
    op = program.operator
    features, cones = zip(*(program.matrices(b) for b in range(op.n_blocks)))
    F, A, own = np.stack(features), np.stack(cones[: op.n_cones]), op.own
    assert_allclose(np.any(A != 0, axis=2), own)

    theta, nu = rng.standard_normal((op.n_blocks, op.p)), rng.standard_normal(n)
    assert_allclose(op.forward(theta), np.einsum("bip,bp->i", F, theta), atol=1e-10)
    assert_allclose(op.adjoint(nu), np.einsum("bip,i->bp", F, nu), atol=1e-10)
    rho = rng.standard_normal((op.n_cones, op.n_constraints)) * own
    slack = np.einsum("bkp,bp->bk", A, theta[: op.n_cones])
    assert_allclose(op.cone(theta) * own, slack, atol=1e-10)
    pushed = op.cone_adjoint(rho)
    assert_allclose(pushed[: op.n_cones], np.einsum("bkp,bk->bp", A, rho), atol=1e-10)
    gram = op.cone_gram(rho**2)[: op.n_cones]
    expected = np.einsum("bkp,bk,bkq->bpq", A, rho**2, A)
    assert_allclose(gram, expected, atol=1e-10)
    roots = rng.standard_normal((op.n_blocks, op.p, op.p))
    parts = F @ roots.transpose(0, 2, 1)
    gram = np.einsum("bip,bjp->ij", parts, parts)
    assert_allclose(op.feature_gram(roots), np.tril(gram), rtol=1e-10, atol=1e-8)
    weights = rng.uniform(0.5, 2.0, n)
    flat = F.transpose(0, 2, 1).reshape(-1, n)
    normal = np.tril(flat * weights @ flat.T)
    assert_allclose(op.normal_matrix(weights), normal, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("bias", [False, True])
def test_adjoints(bias):
    """Also with the constraints that stand in for others."""
    op, rng = Case(4, 1, bias=bias).program.operator, np.random.RandomState(0)
    theta, nu = rng.standard_normal((op.n_blocks, op.p)), rng.standard_normal(4)
    assert_allclose(op.forward(theta) @ nu, np.sum(theta * op.adjoint(nu)))
    rho = rng.standard_normal((op.n_cones, op.n_constraints))
    assert_allclose(np.sum(op.cone(theta) * rho), np.sum(theta * op.cone_adjoint(rho)))
    gram, weights = op.cone_gram(rho**2), op.cone(theta) * rho
    moved = np.einsum("bpq,bq->bp", gram, theta)
    assert_allclose(np.sum(moved * theta), np.sum(weights**2))


# The penalised form


@pytest.mark.parametrize(
    "case",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"loss": "log_loss"},
        pytest.param({"norm": "path"}, marks=pytest.mark.slow),
        {"n": 3, "d": 1, "bias": True},
        {"n": 3, "d": 1, "bias": True, "norm": "path", "loss": "huber"},
    ],
)
def test_penalised_form_agrees(case):
    case = Case(**case)
    calls = []
    found = case.penalised(tol=1e-5, callback=lambda *args: calls.append(args))
    assert found.status == "optimal"
    value = case.value()
    assert_allclose(found.objective, value, rtol=1e-5)
    assert found.dual_bound <= value * (1 + 1e-9)
    assert_allclose(case.problem.objective(found.units), found.objective, rtol=1e-12)
    bound = case.program.dual_bound(found.nu, found.rho)
    assert_allclose(bound, found.dual_bound, rtol=1e-12)
    history = found.history
    assert len(calls) == len(history["time"]) == found.n_iter + 1
    assert np.all(np.diff(history["objective"]) <= 0)
    assert np.all(np.diff(history["dual_bound"]) >= 0)
    assert history["neurons"][-1] == len(found.units)


@pytest.mark.slow
def test_a_small_penalty_is_below_and_its_network_above():
    """Values of the penalised form are those of no network until it is exact."""
    case = Case()
    value, op = case.value(), case.program.operator
    below = []
    for penalty in (0.05, 0.2, 3.0):
        found = case.penalised(penalty=penalty, max_iter=20)
        outside = np.maximum(-op.cone(found.theta), 0.0)[op.own]
        penalised = case.program.objective(found.theta, found.offset)
        penalised += penalty * np.sum(outside)
        rebuilt = case.problem.objective(case.recovered(found))
        assert found.dual_bound <= penalised * (1 + 1e-9)
        if penalty == 3.0:
            assert_allclose([penalised, rebuilt, found.objective], value, rtol=1e-3)
        else:
            below.append(penalised)
            assert found.objective > value * (1 + 1e-6)
            assert rebuilt > 1.05 * value and found.status != "optimal"
    assert below[0] < below[1] < 0.95 * value


def test_penalised_form_stops():
    case = Case()
    found = case.penalised(tol=0.0, max_iter=2)
    assert found.status == "max_iter" and found.n_iter == 2
    found = case.penalised(deadline=0.0)
    assert found.status == "max_time" and len(found.units) == 0
    null = Case(alpha=1e3).penalised()
    assert null.status == "optimal" and null.n_iter == 0
    hinge = Case(loss="hinge")
    with pytest.raises(ValueError, match="needs a smooth loss"):
        hinge.penalised()


@pytest.mark.parametrize("name", sorted({*SOLVERS} - {*SOLVERS_OF_BLOCKS}))
def test_solvers_of_single_units_refuse_others(name):
    assert name not in SOLVERS_OF_BLOCKS
    with pytest.raises(ValueError, match="needs blocks of single units"):
        SOLVERS[name].solve(Case().program)


def test_a_program_without_blocks():
    """Of which only the linear term is left."""
    some = Case(4, 1, bias=True).blocks.select(slice(0))
    case = Case(4, 1, bias=True, blocks=some)
    reference = solve_cvxpy(case.program, tol=1e-8)
    assert_allclose(reference.dual_bound, reference.objective, rtol=1e-6)
    assert reference.objective < case.program.null_objective()
    found = case.penalised(tol=1e-8)
    assert_allclose(found.objective, reference.objective, rtol=1e-6)


def test_constraints_of_no_need_are_none():
    """Leaves that are never active, and units that only add."""
    X = np.abs(inputs(4, 2, 0))
    weights = [np.ones((1, 2, 2)), np.ones((1, 2, 1))]
    weights[0][0, :, 1] = -1.0
    blocks = blocks_of(
        X, weights, [np.zeros((1, 2)), np.zeros((1, 1))], free_bias=False
    )
    assert blocks.signs[0].tolist() == [[1, 0]]
    assert blocks.linear[1].all() and not blocks.linear[0].any()
    again = simplified(blocks, free_bias=False)
    assert list(_keys(again)) == list(_keys(blocks))


@pytest.mark.parametrize("bias", [False, True])
def test_reference_in_other_units(bias):
    case = Case(4, 1 if bias else 2, 1, bias=bias)
    value = solve_cvxpy(case.program, tol=1e-6).objective
    for power in (-7, 7):
        unit = 10.0**power
        for rows, targets, scale in ((unit, 1.0, 1.0), (1.0, unit, unit**2)):
            p = case.problem
            problem = replace(
                p,
                family=replace(p.family, X=p.X * rows),
                Y=p.Y * targets,
                alpha=p.alpha * rows * targets,
            )
            program = SubnetworkProgram(problem, case.blocks)
            found = solve_cvxpy(program, tol=1e-6)
            assert_allclose(found.objective, value * scale, rtol=1e-5)
