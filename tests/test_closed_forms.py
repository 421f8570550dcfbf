"""Special structure against the exact program over all patterns."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sklearn_convexnn import ConvexReLUClassifier, ConvexReLURegressor
from sklearn_convexnn.families.two_layer.closed_forms import (
    closed_form,
    solve_orthogonal,
    solve_rank_one,
    solve_spline,
    spline_slopes,
)
from sklearn_convexnn.families.two_layer.splines import Spline
from sklearn_convexnn.losses import CLASSIFICATION_LOSSES, REGRESSION_LOSSES, make_loss
from sklearn_convexnn.patterns.arrangements import enumerate_arrangement
from sklearn_convexnn.solvers import solve_interior_point
from sklearn_convexnn.training.bounds import cone_slopes
from tests.problems import (
    LOSSES,
    as_targets,
    loss_of,
    make_program,
    network_objective,
    outputs_of,
    problem_of_one,
    tiny_data,
    train_network,
)

ALPHA = 0.15
TOL = 1e-9


def objective(solution, loss, X, y, s, alpha, slope=0.0):
    """Objective of the recovered network from its definition."""
    neurons = solution.neurons
    assert_allclose(np.linalg.norm(neurons.units.directions, axis=1), 1.0, rtol=1e-12)
    f = outputs_of(neurons, X, slope)
    penalty = alpha * np.sum(neurons.sizes)
    return loss_of(loss).value(f, y, s) + penalty


def check_certificate(solution, loss, X, y, s, alpha, *, bias, slope=0.0, tol=1e-8):
    """The network has the objective it is said to have, and nu proves it."""
    value = objective(solution, loss, X, y, s, alpha, slope)
    scale = loss_of(loss).value(np.zeros(len(y)), y, s)
    assert solution.status == "optimal"
    assert_allclose(solution.objective, value, rtol=1e-9, atol=1e-11 * scale)
    assert solution.dual_bound <= value * (1 + 1e-12) + 1e-12 * scale
    assert value - solution.dual_bound <= tol * value + 1e-11 * scale
    nu = solution.nu
    bound = loss_of(loss).dual_value(nu, y, s)
    assert_allclose(solution.dual_bound, bound, rtol=1e-12, atol=1e-13 * scale)
    if bias:
        assert abs(np.sum(nu)) <= 1e-12 * np.sum(np.abs(nu))
    if len(X) <= 20:
        cells = enumerate_arrangement(X, free_bias=bias)
        slopes = cone_slopes(X, nu, cells, free_bias=bias, negative_slope=slope)
        assert slopes.max(initial=0.0) <= alpha * (1 + 1e-8)


def exact(loss, X, y, s, alpha, *, bias, slope=0.0):
    program = make_program(loss, X, y, s, alpha, bias=bias, slope=slope)
    return solve_interior_point(program, tol=1e-10).objective


def spline(loss, x, y, s, alpha, *, slope=0.0, tol=TOL, **options):
    problem = problem_of_one(x[:, None], y, s, loss_of(loss), alpha, True, slope)
    return solve_spline(problem, tol=tol, **options)


def line_data(loss, n=12, seed=0):
    """One feature with repeated values, and weights."""
    X, y, s = tiny_data(loss, n=n, d=1, seed=seed, weighted=True)
    X[3:5] = X[2]
    return X, y, s


@pytest.mark.parametrize("alpha", [1e-3, 0.05, 0.5])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("loss", LOSSES)
def test_spline_is_the_exact_program(loss, seed, alpha):
    X, y, s = line_data(loss, seed=seed)
    solution = spline(loss, X[:, 0], y, s, alpha)
    check_certificate(solution, loss, X, y, s, alpha, bias=True)
    # Where alpha is tiny, the other solver reaches six digits.
    assert_allclose(
        solution.objective, exact(loss, X, y, s, alpha, bias=True), rtol=1e-6
    )


@pytest.mark.parametrize("slope", [0.3, -0.4, -1.0])
@pytest.mark.parametrize("loss", LOSSES)
def test_spline_with_two_slopes(loss, slope):
    X, y, s = line_data(loss, n=9)
    for alpha in (0.02, 0.2):
        # A steep line makes the linear term worth its price.
        steep = loss in ("squared_error", "huber", "quantile")
        target = y + 3 * X[:, 0] if steep else y
        solution = spline(loss, X[:, 0], target, s, alpha, slope=slope)
        check_certificate(solution, loss, X, target, s, alpha, bias=True, slope=slope)
        value = exact(loss, X, target, s, alpha, bias=True, slope=slope)
        assert_allclose(solution.objective, value, rtol=1e-7)


@pytest.mark.parametrize("loss", LOSSES)
def test_no_training_beats_the_spline(loss):
    X, y, s = line_data(loss)
    solution = spline(loss, X[:, 0], y, s, ALPHA)
    best = train_network(loss, X, y, s, ALPHA, bias=True, n_starts=2, width=20)
    assert solution.dual_bound <= best
    assert_allclose(best, solution.objective, rtol=2e-2)


@pytest.mark.parametrize("loss", LOSSES)
def test_knots_are_data_points_and_few(loss):
    X, y, s = line_data(loss, n=60)
    solution = spline(loss, X[:, 0], y, s, 0.5)
    neurons = solution.neurons.units
    bent = ~neurons.linear
    knots = -neurons.biases[bent] / neurons.directions[bent, 0]
    distance = np.abs(knots[:, None] - X[:, 0]).min(axis=1)
    assert np.max(distance, initial=0.0) <= 1e-13
    assert 0 < len(neurons) <= 25


@pytest.mark.parametrize("tilt", [0.0, 20.0])
def test_interpolation_limit(tilt):
    """Least sum of magnitudes of an interpolant, in both of its branches."""
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(-1, 1, 10))
    y = 0.1 * rng.standard_normal(10) + tilt * x
    slopes = np.diff(y) / np.diff(x)
    variation = np.sum(np.abs(np.diff(slopes)))
    least = max(variation, 0.5 * (variation + abs(slopes[0] + slopes[-1])))
    assert (least > variation) == (tilt > 0)
    alpha = 1e-7
    solution = spline("squared_error", x, y, np.ones(10), alpha)
    assert_allclose(np.sum(solution.neurons.sizes), least, rtol=1e-3)
    assert_allclose(solution.objective, alpha * least, rtol=1e-3)


@pytest.mark.parametrize("slope", [0.0, 0.3, -0.5, -1.0])
@pytest.mark.parametrize("tilt", [0.0, 0.7, -9.0])
def test_neurons_of_a_spline(tilt, slope):
    rng = np.random.default_rng(0)
    knots = np.sort(rng.standard_normal(6))
    changes = np.append(0.0, np.append(rng.standard_normal(4), 0.0))
    function = Spline(knots, 0.3, tilt, changes)
    neurons = function.neurons(slope)
    x = rng.uniform(knots[0], knots[-1], 50)
    f = outputs_of(neurons, x[:, None], slope)
    assert_allclose(f, function(x), atol=1e-13)
    assert_allclose(np.sum(neurons.sizes), function.magnitude(slope))
    assert len(neurons) <= 5


@pytest.mark.parametrize("slope", [0.0, 0.3, -1.0])
def test_spline_slopes(slope):
    rng = np.random.default_rng(0)
    x = np.append(rng.standard_normal(7), [0.0, 0.0])
    nu = rng.standard_normal(9)
    nu -= nu.mean()
    kappa, direction, bias = spline_slopes(x, nu, slope)
    z = direction * x + bias
    assert_allclose(abs(nu @ np.where(z > 0, z, slope * z)), kappa)
    cells = enumerate_arrangement(x[:, None], free_bias=True)
    slopes = cone_slopes(x[:, None], nu, cells, free_bias=True, negative_slope=slope)
    assert_allclose(kappa, slopes.max(), rtol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_alpha_max(loss):
    X, y, s = line_data(loss)
    term = loss_of(loss)
    offset = term.best_offset(np.zeros(len(y)), y, s)
    null = term.value(np.full(len(y), offset), y, s)
    if term.smooth:
        nu = -term.gradient(np.full(len(y), offset), y, s)
        alpha_max = spline_slopes(X[:, 0], nu)[0]
    else:
        alpha_max = np.sum(s) * np.ptp(X)
    above = spline(loss, X[:, 0], y, s, 1.0001 * alpha_max)
    assert len(above.neurons) == 0
    assert above.status == "optimal"
    assert_allclose(above.objective, null)
    if term.smooth:
        below = spline(loss, X[:, 0], y, s, 0.99 * alpha_max)
        assert len(below.neurons) > 0
        assert below.objective < null


@pytest.mark.parametrize("loss", LOSSES)
def test_repetition_is_weight(loss):
    X, y, s = line_data(loss)
    x = X[:, 0]
    twice = spline(loss, np.tile(x, 2), np.tile(y, 2), np.tile(s, 2), ALPHA)
    double = spline(loss, x, y, 2 * s, ALPHA)
    assert_allclose(twice.objective, double.objective, rtol=1e-8)


@pytest.mark.parametrize("loss", LOSSES)
def test_unequal_spacing(loss):
    rng = np.random.default_rng(0)
    x = np.cumsum(10.0 ** rng.uniform(-6, 3, 60))
    y = as_targets(loss, np.sin(np.log(x)) + 0.1 * rng.standard_normal(60))
    s = rng.uniform(0.5, 2.0, 60)
    for alpha in (0.1, 10.0):
        solution = spline(loss, x, y, s, alpha)
        check_certificate(solution, loss, x[:, None], y, s, alpha, bias=True)


@pytest.mark.parametrize("loss", LOSSES)
def test_many_samples(loss):
    rng = np.random.default_rng(0)
    n = 20_000 if loss in REGRESSION_LOSSES else 5_000
    x = rng.uniform(-3, 3, n)
    y = as_targets(loss, np.sin(2 * x) + 0.3 * rng.standard_normal(n))
    s = np.ones(n)
    solution = spline(loss, x, y, s, 1e-3 * n, tol=1e-7)
    check_certificate(solution, loss, x[:, None], y, s, 1e-3 * n, bias=True, tol=1e-7)
    assert len(solution.neurons) < 100


def test_limits_stop_the_spline():
    X, y, s = tiny_data("squared_error", n=500, d=1)
    stopped = spline("squared_error", X[:, 0], y, s, ALPHA, max_iter=1)
    assert stopped.status == "max_iter"
    assert stopped.dual_bound < stopped.objective
    late = spline("squared_error", X[:, 0], y, s, ALPHA, deadline=0.0)
    assert late.status == "max_time"


@pytest.mark.parametrize("alpha", [0.05, 1.0, 1e3])
@pytest.mark.parametrize("loss", LOSSES)
def test_rank_one(loss, alpha):
    rng = np.random.default_rng(0)
    _, y, s = tiny_data(loss, n=9, weighted=True)
    if loss in ("quantile", "poisson"):
        # At outputs of zero the first has a kink here, the second falls throughout.
        y[:3] = 0.0
    c = rng.standard_normal(9)
    c[4] = 0.0
    a = np.array([3.0, 0.0, 4.0]) / 5.0
    X = np.outer(c, a)
    solution = solve_rank_one(problem_of_one(X, y, s, loss_of(loss), alpha), c, a)
    check_certificate(solution, loss, X, y, s, alpha, bias=False)
    assert_allclose(
        solution.objective, exact(loss, X, y, s, alpha, bias=False), rtol=1e-7
    )
    if alpha == 1e3:
        assert len(solution.neurons) == 0


def test_rank_one_squared_error_is_soft_thresholding():
    c, y = np.array([2.0, 1.0, -1.0]), np.array([1.0, 3.0, -2.0])
    loss = make_loss("squared_error")
    problem = problem_of_one(c[:, None], y, np.ones(3), loss, 0.5)
    solution = solve_rank_one(problem, c, np.ones(1))
    assert_allclose(solution.neurons.coefficients, [4.5 / 5.0, -1.5])


@pytest.mark.parametrize("unequal", [False, True])
@pytest.mark.parametrize("alpha", [0.05, 0.5, 1e3])
@pytest.mark.parametrize("loss", LOSSES)
def test_orthogonal_samples(loss, alpha, unequal):
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.standard_normal((7, 7)))[0][:5]
    lengths = rng.uniform(0.5, 2.0, 5) if unequal else np.full(5, 1.5)
    X = lengths[:, None] * Q
    _, y, s = tiny_data(loss, n=5, weighted=True)
    if loss in ("quantile", "poisson"):
        y[:2] = 0.0
    solution = solve_orthogonal(problem_of_one(X, y, s, loss_of(loss), alpha))
    check_certificate(solution, loss, X, y, s, alpha, bias=False)
    assert_allclose(
        solution.objective, exact(loss, X, y, s, alpha, bias=False), rtol=1e-7
    )
    assert len(solution.neurons) <= 2
    if alpha == 1e3:
        assert len(solution.neurons) == 0


def test_whitened_squared_error():
    y, alpha = np.array([3.0, 4.0, -1.0]), 0.5
    loss = make_loss("squared_error")
    solution = solve_orthogonal(problem_of_one(np.eye(3), y, np.ones(3), loss, alpha))
    assert_allclose(solution.neurons.sizes, [4.5, 0.5])
    assert_allclose(solution.neurons.units.directions, [[0.6, 0.8, 0], [0, 0, 1]])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_detection_on_a_line(loss, bias):
    rng = np.random.default_rng(0)
    _, y, s = tiny_data(loss, n=8)
    X = np.outer(rng.standard_normal(8), [1.0, 0.0, -2.0])
    X = X + 5.0 if bias else X
    problem = problem_of_one(X, y, s, loss_of(loss), ALPHA, bias)
    solution = closed_form(problem, tol=TOL)
    check_certificate(solution, loss, X, y, s, ALPHA, bias=bias)
    value = exact(loss, X, y, s, ALPHA, bias=bias)
    assert_allclose(solution.objective, value, rtol=1e-7)


def test_objective_has_no_half_of_alpha():
    """The recovered network as weights, under plain weight decay."""
    X, y, s = line_data("squared_error")
    loss = make_loss("squared_error")
    neurons = closed_form(problem_of_one(X, y, s, loss, ALPHA, True)).neurons
    assert not neurons.units.linear.any()
    root = np.sqrt(neurons.sizes)
    value = network_objective(
        "squared_error",
        X,
        y,
        s,
        ALPHA,
        neurons.units.directions.T * root,
        neurons.units.biases * root,
        neurons.coefficients / root,
        neurons.offset[0],
    )
    assert_allclose(value, exact("squared_error", X, y, s, ALPHA, bias=True), rtol=1e-5)


def test_detection_fails_on_general_data():
    X, y, s = tiny_data("squared_error", n=8, d=3)
    args = y, s, make_loss("squared_error"), ALPHA
    for bias in (False, True):
        assert closed_form(problem_of_one(X, *args, bias)) is None
    assert closed_form(problem_of_one(np.eye(8), *args, True)) is None
    assert closed_form(problem_of_one(X[:, :1], *args, False, 0.1)) is None
    found = closed_form(problem_of_one(np.eye(8), *args, False))
    assert len(found.neurons) == 2


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "X", [np.ones((1, 1)), np.ones((4, 1)), np.zeros((4, 2)), np.ones((4, 3))]
)
def test_degenerate_data(X, loss, bias):
    n = len(X)
    s = np.arange(1.0, n + 1)
    for y in (np.ones(n), np.where(np.arange(n) % 2, 1.0, -1.0)):
        y = y + 2.0 if loss == "poisson" else y
        problem = problem_of_one(X, y, s, loss_of(loss), ALPHA, bias)
        solution = closed_form(problem, tol=TOL)
        check_certificate(solution, loss, X, y, s, ALPHA, bias=bias)
        if bias:
            assert len(solution.neurons) == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_constant_target(loss):
    x = np.linspace(0.0, 1.0, 30)
    solution = spline(loss, x, np.ones(30), np.ones(30), ALPHA)
    assert len(solution.neurons) == 0
    assert_allclose(solution.objective, 0.0, atol=1e-12)


@pytest.mark.parametrize("slope", [0.0, 0.1, -1.0])
@pytest.mark.parametrize("loss", LOSSES)
def test_fitted_network_of_a_feature_with_a_trend(loss, slope):
    """The linear term survives the way into the weights of the estimator."""
    rng = np.random.default_rng(0)
    for n in (3, 40, 300):
        x = np.round(5.0 + 3.0 * rng.standard_normal(n), 1)
        y = 2.0 * x + np.sin(3.0 * x)
        cls, target = ConvexReLURegressor, y
        if loss == "poisson":
            target = np.exp(0.2 * y)
        if loss in CLASSIFICATION_LOSSES:
            cls, target = ConvexReLUClassifier, (y > np.median(y)).astype(int)
        for X in (x[:, None], np.column_stack([x, 1.0 - 2.0 * x])):
            model = cls(0.1, loss=loss, negative_slope=slope, tol=1e-3).fit(X, target)
            assert model.certificate_ == "global"
            assert abs(model.dual_gap_) <= 1e-3 * model.objective_


@pytest.mark.parametrize("seed, n, alpha", [(2, 300, 1e-4), (1, 1000, 1e-3)])
def test_tiny_alpha(seed, n, alpha):
    """Slopes have to be as close as their part of the objective asks for."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 1))
    y = np.abs(x[:, 0]) + rng.standard_normal(n)
    loss = make_loss("squared_error")
    form = solve_spline(problem_of_one(x, y, np.ones(n), loss, alpha, True), tol=0.01)
    assert form.status == "optimal"
    assert form.objective - form.dual_bound <= 0.01 * form.objective
