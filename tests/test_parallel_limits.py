"""Fits of sub-networks that end early: out of time, broken down, too large."""

import warnings
from functools import partial
from time import perf_counter

import numpy as np
import pytest
import scipy.linalg
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from sklearn_convexnn import (
    ConvexReLURegressor,
    GatedReLURegressor,
    ParallelReLURegressor,
    _memory,
    certify,
    convex_relu_path,
)
from sklearn_convexnn._utils import deadlines as _deadlines
from sklearn_convexnn._utils.deadlines import OutOfTime, until
from sklearn_convexnn.families.subnetworks import architecture, slope_bounds
from sklearn_convexnn.families.subnetworks.architecture import Architecture
from sklearn_convexnn.families.subnetworks.contest import SubnetworkContest
from sklearn_convexnn.families.subnetworks.placing import (
    place_subnetworks,
    random_subnetworks,
)
from sklearn_convexnn.families.subnetworks.slope_bounds import slope_bound
from sklearn_convexnn.losses import Separable, make_loss
from sklearn_convexnn.model.results import DualPoint
from sklearn_convexnn.model.settings import Limits
from sklearn_convexnn.patterns.blocks import blocks_of
from sklearn_convexnn.programs.subnetworks import SubnetworkProgram
from sklearn_convexnn.solvers import solve_penalised
from sklearn_convexnn.training import subnetwork_generation as column_generation
from sklearn_convexnn.training.dual_points import CLAIM
from sklearn_convexnn.training.subnetwork_generation import SubnetworkRun
from tests.problems import subnetwork_problem

LAPACK = {
    "adaptive": ("svd", "eigh", "eigvalsh"),
    "sampled": ("svd", "inv", "cholesky", "solve", "eigvalsh"),
    "penalised": ("svd", "eigvalsh", "norm", "lstsq"),
    "exact": ("svd", "solve"),
}
RARE = ("norm", "inv", "lstsq")

ROUTES = {
    "adaptive": {},
    "path": {"depth": 4, "subnetwork_norm": "path"},
    "sampled": {"arrangements": "sampled", "n_arrangements": 5},
    "penalised": {
        "arrangements": "sampled",
        "n_arrangements": 5,
        "solver": "penalised",
    },
    "exact": {"arrangements": "exact"},
}


@pytest.fixture(scope="module")
def small():
    """Data, and the least objectives of three layers without and with biases."""
    rng = np.random.RandomState(1)
    X, y = rng.standard_normal((4, 2)), rng.standard_normal(4)
    best = []
    for bias in (False, True):
        some = X[:, :1] if bias else X
        options = {"alpha": 0.1, "fit_intercept": bias}
        model = ParallelReLURegressor(arrangements="exact", **options).fit(some, y)
        best.append((some, y, model.objective_, np.var(y) if bias else np.mean(y**2)))
    return best


def problem_of(X, y, bias=True, depth=3, norm="frobenius", alpha=0.1):
    loss = Separable(make_loss("squared_error"))
    shape = Architecture(depth, 2, norm)
    weight = np.ones(len(X))
    return subnetwork_problem(X, y[:, None], weight, loss, alpha, bias, shape)


def check_honest(model, best, null):
    """A network no worse than none, and a bound that is not above the optimum."""
    assert model.objective_ <= null * (1 + 1e-12)
    assert all(np.all(np.isfinite(W)) for W in (*model.coefs_, *model.intercepts_))
    assert model.proven_bound_ <= model.objective_ * (1 + 1e-12)
    assert model.dual_bound_ >= 0
    if best is not None:
        assert model.objective_ >= best * (1 - 1e-5)
        assert model.proven_bound_ <= best * (1 + 1e-5)
        if model.certificate_ != "restricted":
            # Estimates are trusted to a hundredth or two.
            assert model.dual_bound_ <= best * 1.02


def stop_after(monkeypatch, count):
    """Let the time be up when it has been looked at so often."""
    _deadlines._speed()
    looks = iter(range(count))

    def clock():
        return perf_counter() if next(looks, None) is not None else np.inf

    monkeypatch.setattr(_deadlines, "perf_counter", clock)


@pytest.mark.parametrize("count", [0, 1, 3, 10, 40, 150])
@pytest.mark.parametrize("route", ROUTES)
def test_time_can_be_up_anywhere(route, count, small, monkeypatch):
    stop_after(monkeypatch, count)
    bias = count % 2 == 0
    X, y, best, null = small[bias]
    options = {"max_time": 1e6, "max_iter": 1, "tol": 0.3, **ROUTES[route]}
    model = ParallelReLURegressor(
        alpha=0.1, fit_intercept=bias, random_state=0, **options
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "Only .* distinct blocks", UserWarning)
        model.fit(X, y)
    # More layers can do better.
    check_honest(model, best if model.depth == 3 else None, 0.5 * len(y) * null)


def test_no_time_at_all_leaves_a_proven_bound(monkeypatch):
    rng = np.random.RandomState(0)
    X, y = rng.standard_normal((30, 3)), rng.standard_normal(30)
    stop_after(monkeypatch, 0)
    model = ParallelReLURegressor(alpha=5.0, max_time=1e6)
    with pytest.warns(ConvergenceWarning, match="time limit"):
        model.fit(X, y)
    assert model.n_neurons_ == 0
    assert model.dual_bound_ == model.proven_bound_ > 0


@pytest.mark.parametrize(
    "step",
    [
        lambda p: random_subnetworks(p.family, 5, np.random.RandomState(0)),
        lambda p: p.family.search(p.Y, 5, np.random.RandomState(0)),
    ],
)
def test_steps_end_at_the_deadline(step):
    rng = np.random.RandomState(0)
    problem = problem_of(rng.standard_normal((9, 2)), rng.standard_normal(9))
    step(problem)
    with until(-np.inf), pytest.raises(OutOfTime):
        step(problem)


def test_descent_keeps_what_it_has(monkeypatch):
    rng = np.random.RandomState(0)
    problem = problem_of(rng.standard_normal((20, 2)), rng.standard_normal(20))
    before = np.inf
    for count in (2, 10, 40):
        stop_after(monkeypatch, count)
        with until(perf_counter() + 1e6):
            units = place_subnetworks(problem, 10, np.random.RandomState(0))
        monkeypatch.undo()
        assert problem.objective(units) < before
        before = problem.objective(units)


def test_what_a_cut_search_has_found_corrects_the_bound(monkeypatch):
    rng = np.random.RandomState(0)
    X, y = rng.standard_normal((20, 2)), rng.standard_normal(20)
    problem = problem_of(X, y)
    run = SubnetworkRun(problem, np.random.RandomState(0), Limits(1e-2))
    nu = problem.dual_point(problem.outputs(problem.null()))
    run.price(nu)
    known, run.duals[0].kappa = run.duals[0].kappa, problem.alpha
    with pytest.raises(OutOfTime), until(perf_counter() + 1e6):
        # During the climb.
        stop_after(monkeypatch, 30)
        run.price(nu, CLAIM)
    assert problem.alpha < run.duals[0].kappa <= 1.5 * known
    assert not run.duals[0].confirmed


def test_no_gap_is_closed_by_a_search_that_was_cut():
    rng = np.random.RandomState(0)
    problem = problem_of(rng.standard_normal((20, 2)), rng.standard_normal(20))
    run = SubnetworkRun(problem, np.random.RandomState(0), Limits(1e-2))
    nu = problem.dual_point(problem.outputs(problem.null()))
    run.price(nu)
    run.objective = run.duals[0].bound
    assert run.closed
    run.end = -np.inf
    run.conclude()
    assert not run.closed
    assert run.bound == problem.bound(nu, slope_bound(problem.family, nu))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("norm", ["frobenius", "path"])
def test_slope_bounds_without_time_or_factorisation(bias, norm, monkeypatch):
    rng = np.random.RandomState(0)
    problem = problem_of(rng.standard_normal((20, 3)), np.zeros(20), bias, norm=norm)
    N = problem.project(rng.standard_normal((20, 1)))
    whole = slope_bound(problem.family, N)
    with until(-np.inf):
        rough = slope_bound(problem.family, N)
    assert whole < rough
    monkeypatch.setattr(np.linalg, "svd", broken)
    monkeypatch.setattr(slope_bounds, "norm_bound", broken)
    assert whole <= slope_bound(problem.family, N) <= rough

    def late(*args, **options):
        raise OutOfTime

    monkeypatch.setattr(slope_bounds, "triangle_bound", late)
    assert whole <= slope_bound(problem.family, N) <= rough
    assert slope_bound(problem.family, 0.0 * N) == 0.0


def broken(*args, **options):
    raise np.linalg.LinAlgError("SVD did not converge")


def break_at(monkeypatch, name, count, once):
    """Let a function of LAPACK fail at a call, or from it on."""
    calls = iter(range(10**9))

    def faulty(function):
        def run(*args, **options):
            order = args[1] if len(args) > 1 else options.get("ord")
            if name != "norm" or (
                order == 2 and not isinstance(options.get("axis"), int)
            ):
                call = next(calls)
                if call == count or (call > count and not once):
                    broken()
            return function(*args, **options)

        return run

    for module in (np.linalg, scipy.linalg, column_generation):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, faulty(getattr(module, name)))


@pytest.mark.parametrize(
    "route, name",
    [
        *[(route, name) for route, names in LAPACK.items() for name in names],
        *[pytest.param("adaptive", name, marks=pytest.mark.slow) for name in RARE],
    ],
)
def test_breakdowns_leave_a_network_and_an_honest_gap(route, name, small, monkeypatch):
    bias = route == "sampled"
    X, y, best, null = small[bias]
    options = {"max_iter": 1, "tol": 0.3, **ROUTES[route]}
    for count, once in ((0, False), (2, True)):
        model = ParallelReLURegressor(
            alpha=0.1, fit_intercept=bias, random_state=0, **options
        )
        with warnings.catch_warnings(), monkeypatch.context() as patch:
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.filterwarnings("ignore", "Only .* distinct blocks", UserWarning)
            break_at(patch, name, count, once)
            model.fit(X, y)
        check_honest(model, best, 0.5 * len(y) * null)


def test_a_breakdown_of_blocks_is_said(small, monkeypatch):
    X, y, _, _ = small[0]
    monkeypatch.setattr(
        "sklearn_convexnn.families.subnetworks.given.SubnetworkProgram", broken
    )
    model = ParallelReLURegressor(alpha=0.1, **ROUTES["sampled"])
    with pytest.warns(ConvergenceWarning, match="broke down"):
        model.fit(X, y)
    assert model.n_neurons_ == 0
    assert model.dual_bound_ == model.proven_bound_


def test_steps_that_are_never_short_enough_end(small, monkeypatch):
    X, y, _, _ = small[0]
    problem = problem_of(X, y, bias=False)
    units = random_subnetworks(problem.family, 5, np.random.RandomState(0))
    blocks = blocks_of(X, units.weights, units.biases, free_bias=False)
    program = SubnetworkProgram(problem, blocks)
    monkeypatch.setattr(
        type(program.loss), "gradient", lambda *args: np.full(4, np.inf)
    )
    with np.errstate(all="ignore"):
        contest = partial(SubnetworkContest, problem)
        result = solve_penalised(program, contest=contest)
    assert result.status == "breakdown"


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "route",
    [
        "adaptive",
        pytest.param("path", marks=pytest.mark.slow),
        "sampled",
        "penalised",
    ],
)
def test_columns_of_very_different_sizes(route, bias):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3))
    X[:, 0] *= 1e15
    X[:, 1] *= 1e-15
    y = rng.normal(size=40)
    options = {"max_iter": 1, "tol": 0.3, **ROUTES[route]}
    options["n_arrangements"] = 5
    model = ParallelReLURegressor(fit_intercept=bias, random_state=0, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, y)
    null = np.sum((y - bias * y.mean()) ** 2) / 2
    check_honest(model, None, null)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("route", ["adaptive", "sampled", "penalised", "exact"])
@pytest.mark.parametrize(
    "case", ["constant column", "one sample", "one feature", "constant y", "equal rows"]
)
def test_data_of_little_content(route, bias, case):
    rng = np.random.RandomState(0)
    X, y = rng.standard_normal((4, 2)), rng.standard_normal(4)
    if case == "constant column":
        X[:, 1] = 3.7
    elif case == "one sample":
        X, y = X[:1], y[:1]
    elif case == "one feature":
        X = X[:, :1]
    elif case == "constant y":
        y = np.ones(4)
    else:
        X = np.repeat(X[:1], 4, axis=0)
    options = {"max_iter": 1, "tol": 0.3, "alpha": 0.1, **ROUTES[route]}
    if route == "exact":
        X, y = X[:3], y[:3]
    model = ParallelReLURegressor(fit_intercept=bias, random_state=0, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "Only .* distinct blocks", UserWarning)
        model.fit(X, y)
    check_honest(model, None, np.sum((y - bias * y.mean()) ** 2) / 2)


@pytest.mark.parametrize("alpha", [1e-12, 1e12])
@pytest.mark.parametrize("route", ["adaptive", "sampled", "penalised", "exact"])
def test_extreme_weight_decay(route, alpha, small):
    X, y, _, null = small[1]
    if route == "exact":
        X, y, _, null = small[0]
    bias = route != "exact"
    options = {"max_iter": 1, "tol": 0.3, "alpha": alpha, **ROUTES[route]}
    model = ParallelReLURegressor(random_state=0, fit_intercept=bias, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, y)
    check_honest(model, None, 0.5 * len(y) * null)


def test_products_of_others():
    factors = [np.array([2.0, 0.0]), np.array([3.0, 5.0]), np.array([0.0, 7.0])]
    found = architecture._products_of_others(factors)
    np.testing.assert_array_equal(found, [[0.0, 35.0], [0.0, 0.0], [6.0, 0.0]])


@pytest.mark.parametrize(
    "options, words",
    [
        ({"subnetwork_width": 10**6}, ["subnetwork_width", "depth"]),
        ({"depth": 4, "subnetwork_width": 10**5}, ["subnetwork_width", "depth"]),
        ({"depth": 10**6}, ["depth"]),
        ({"depth": 10**30, "subnetwork_norm": "path"}, ["depth"]),
        ({"depth": 20, "subnetwork_norm": "path"}, ["depth", "subnetwork_width"]),
        ({"arrangements": "sampled", "n_arrangements": 10**9}, ["n_arrangements"]),
    ],
)
def test_too_large_for_the_memory(options, words, monkeypatch):
    check_memory(ParallelReLURegressor(**options), words, monkeypatch)


@pytest.mark.parametrize(
    "model", [ConvexReLURegressor(arrangements="sampled"), GatedReLURegressor()]
)
def test_too_many_patterns_for_the_memory(model, monkeypatch):
    model = clone(model).set_params(n_arrangements=10**9)
    check_memory(model, ["n_arrangements"], monkeypatch)


def check_memory(model, words, monkeypatch):
    monkeypatch.setattr(_memory, "memory_limit", lambda: 16.0 * 2**30)
    rng = np.random.RandomState(0)
    X, y = rng.standard_normal((40, 8)), rng.standard_normal(40)
    with pytest.raises(ValueError, match=r"GiB of memory.*use a smaller") as error:
        model.fit(X, y)
    assert all(word in str(error.value) for word in words)


def test_memory_of_other_entry_points(monkeypatch):
    rng = np.random.RandomState(0)
    X, y = rng.standard_normal((40, 8)), rng.standard_normal(40)
    model = ConvexReLURegressor(alpha=20.0, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="n_arrangements=1000000000 needs"):
        certify(model, X, y, alpha=20.0, kind="restricted", n_arrangements=10**9)
    with pytest.raises(ValueError, match="alphas=1000000000000 needs"):
        convex_relu_path(model, X, y, alphas=10**12)
    # Many samples, for which the neurons to start with are not limited by these.
    X = rng.standard_normal((5000, 3))
    with pytest.raises(ValueError, match="n_arrangements=1000000000, the neurons"):
        ConvexReLURegressor(n_arrangements=10**9).fit(X, X[:, 0])


def test_no_more_patterns_than_there_are_need_memory():
    rng = np.random.RandomState(0)
    X, y = rng.standard_normal((6, 1)), rng.standard_normal(6)
    options = {"arrangements": "sampled", "n_arrangements": 10**9}
    model = ConvexReLURegressor(alpha=0.1, **options).fit(X, y)
    assert model.certificate_ == "global"


def test_memory_limit_is_that_of_the_machine(monkeypatch):
    assert _memory.memory_limit() > 2**28
    monkeypatch.setattr(_memory.os, "sysconf", None)
    with pytest.raises(TypeError):
        _memory.memory_limit()
    monkeypatch.delattr(_memory.os, "sysconf")
    assert _memory.memory_limit() == 16.0 * 2**30


def test_dual_points_of_an_earlier_fit_stay(small):
    X, y, _, _ = small[1]
    problem = problem_of(X, y)
    run = SubnetworkRun(problem, np.random.RandomState(0), Limits(1e-2, max_iter=1))
    nu = problem.dual_point(problem.outputs(problem.null()))
    known = DualPoint(nu, slope_bound(problem.family, nu), proven=True)
    result = run.solve(5, None, [known], None, column_generation.FitTask())
    assert result.dual_bound >= problem.bound(nu, known.kappa)
