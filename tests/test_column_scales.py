"""Data whose columns have very different scales."""

import warnings

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

from sklearn_convexnn import (
    ConvexReLUClassifier,
    ConvexReLURegressor,
    ConvexReLURegressorCV,
    convex_relu_path,
)
from sklearn_convexnn.families.two_layer.placing import (
    network_of,
    place_neurons,
    place_neurons as place_units,
    random_weights,
)
from sklearn_convexnn.families.two_layer.pricing import along_biases, merge_candidates
from sklearn_convexnn.families.two_layer.recovery import neurons_from_blocks
from sklearn_convexnn.families.two_layer.starts import column_spread
from sklearn_convexnn.losses import Separable, SquaredError
from sklearn_convexnn.model import scales
from sklearn_convexnn.model.scales import scales_ratio
from sklearn_convexnn.patterns.arrangements import Arrangement
from sklearn_convexnn.programs.two_layer import TwoLayerProgram
from sklearn_convexnn.training import generation
from tests.problems import outputs_of, problem_of_one, two_layer_problem

WARNING = "StandardScaler"


def raw_data(n=20):
    """A column around forty, and one of tens of thousands without influence."""
    rng = np.random.default_rng(0)
    X = np.c_[rng.normal(40, 10, n), rng.lognormal(10, 1, n)]
    return X, np.abs(X[:, 0] - 40)


def raw_problem(n, scales_ratio=1e4):
    X, y = raw_data(n)
    options = {"scales_ratio": scales_ratio}
    X = X - X.mean(axis=0)
    return problem_of_one(X, y, np.ones(n), SquaredError(), 1.0, True, **options)


def messages(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [w for w in caught if WARNING in str(w.message)]


@pytest.mark.parametrize(
    "fit",
    [
        lambda X, y: ConvexReLURegressor(alpha=1.0, random_state=0).fit(X, y),
        lambda X, y: ConvexReLURegressor(alpha=1.0, random_state=0).fit(
            csr_matrix(X), y
        ),
        lambda X, y: ConvexReLURegressorCV(alphas=2, cv=2, random_state=0).fit(X, y),
        lambda X, y: convex_relu_path(
            ConvexReLURegressor(alpha=1.0, random_state=0), X, y, alphas=2
        ),
    ],
    ids=["fit", "sparse", "cv", "path"],
)
def test_one_warning_at_the_start(fit):
    X, y = raw_data(8)
    (warned,) = messages(lambda: fit(X, y))
    assert warned.category is UserWarning


def test_no_warning_where_scales_are_alike():
    X, y = raw_data(8)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    X = np.c_[X, np.full(8, 1e9)]  # a constant column has no scale
    assert not messages(
        lambda: ConvexReLURegressor(alpha=1.0, random_state=0).fit(X, y)
    )


@pytest.mark.parametrize("kind", [np.asarray, csr_matrix])
def test_rare_indicators_are_not_of_small_scale(kind):
    rng = np.random.default_rng(0)
    X = np.zeros((2000, 3))
    X[0, 0] = 1.0
    X[:, 1] = 30.0 * rng.standard_normal(2000) * (rng.uniform(size=2000) < 0.5)
    X[:300, 2] = np.linspace(-2.0, -1.0, 300)
    expected = np.sqrt(np.mean(X[X[:, 1] != 0, 1] ** 2))
    assert scales_ratio(kind(X)) == pytest.approx(expected)


def test_pixels_that_are_rarely_seen_are_not_of_small_scale():
    X, _ = load_digits(return_X_y=True)
    spread = X.std(axis=0)
    assert spread.max() > 100 * spread[spread > 0].min()
    assert scales_ratio(X) < 10


@pytest.mark.parametrize("kind", [np.asarray, csr_matrix])
def test_standardised_indicators_are_not_of_large_scale(kind):
    X = np.zeros((2000, 3))
    X[:2, 0] = 1.0
    X[:, 1:] = np.random.default_rng(0).standard_normal((2000, 2))
    assert scales_ratio(kind(X)) < 3
    X /= X.std(axis=0)
    assert scales_ratio(kind(X)) < 3


def test_samples_tell_nothing_of_what_is_rare(monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((4000, 3))
    X[:, 2] *= 1e-4 * (rng.uniform(size=4000) < 0.005)
    assert scales_ratio(X) > 1e3
    monkeypatch.setattr(scales, "_ENTRIES", 3000)
    assert scales_ratio(X) < 2


@pytest.mark.parametrize("scale", [0.0, 1e-6])
def test_random_networks_cost_no_more_than_they_can_gain(scale):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((100, 5)) * np.r_[np.ones(4), scale]
    y = X[:, 0] + rng.standard_normal(100)
    loss = SquaredError()
    p = problem_of_one(X, y, np.ones(100), loss, 1.0, True, scales_ratio=1e6)
    start = network_of(random_weights(p, 30, np.random.RandomState(0)))
    assert p.penalty(start) < 0.3 * p.objective(p.null())
    assert p.objective(start) < 3.0 * p.objective(p.null())


def test_constant_columns_have_no_small_spread():
    X = np.random.default_rng(0).standard_normal((20, 4)) * [1.0, 3.0, 0.0, 1e-9]
    spread = column_spread(X, apart=True)
    assert spread[2] == spread[1] > spread[0] > spread[3] > 0


def test_samples_without_weight_do_not_count():
    X, y = raw_data(8)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    X[0, 0] = 1e9
    weight = np.r_[0.0, np.ones(7)]
    model = ConvexReLURegressor(alpha=1.0, random_state=0)
    assert not messages(lambda: model.fit(X, y, sample_weight=weight))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The scales")
def test_fits_that_stop_short_name_the_cure():
    X, y = raw_data(20)
    model = ConvexReLURegressor(alpha=1.0, random_state=0, max_iter=1, tol=1e-8)
    with pytest.warns(ConvergenceWarning, match=WARNING):
        model.fit(X, y)


@pytest.mark.filterwarnings("ignore:The scales")
def test_slow_fits_end_early(monkeypatch):
    X, y = raw_data(40)
    model = ConvexReLURegressor(alpha=1.0, random_state=0, tol=1e-8)
    monkeypatch.setattr(generation, "_FALLS", 0.0)
    monkeypatch.setattr(generation, "_RISES", 0.0)
    monkeypatch.setattr(generation, "_CLOSE", 0.0)
    monkeypatch.setattr(generation, "_WINDOW", 1)
    with pytest.warns(ConvergenceWarning, match="progress is slow.*StandardScaler"):
        model.fit(X, y)
    assert model.n_iter_ < 10


@pytest.mark.parametrize(
    ("objective", "bound", "slow"),
    [(9.0, 1.0, True), (9.0, 5.0, False), (4.9, 0.5, False), (9.0, 2.1, False)],
)
def test_slow_is_neither_gap_nor_objective_falling_nor_bound_rising(
    objective, bound, slow
):
    objectives, bounds = [10.0, 9.5, 9.5, 9.5], [1.0, 1.0, 1.0, 1.0]
    assert not generation._slow(objectives, bounds)
    assert generation._slow([*objectives, objective], [*bounds, bound]) == slow
    # Close enough to go on.
    assert not generation._slow([*objectives, 9.0], [8.0, 8.0, 8.0, 8.0, 8.8])


@pytest.mark.filterwarnings("ignore:The scales")
@pytest.mark.parametrize(
    ("estimator", "several"),
    [
        (ConvexReLURegressor(), False),
        (ConvexReLURegressor(negative_slope=0.1), False),
        (ConvexReLURegressor(fit_intercept=False), False),
        pytest.param(ConvexReLURegressor(), True, marks=pytest.mark.slow),
        (ConvexReLUClassifier(), False),
        (ConvexReLUClassifier(loss="hinge"), False),
    ],
)
def test_same_optimum_as_over_all_patterns(estimator, several):
    X, y = raw_data(15)
    if several:
        y = np.c_[y, X[:, 0] + 3 * np.sin(np.arange(15))]
    if isinstance(estimator, ConvexReLUClassifier):
        y = y + 3 * np.sin(np.arange(15)) > 7
    objectives = [
        estimator.set_params(alpha=1.0, arrangements=kind, random_state=0)
        .fit(X, y)
        .objective_
        for kind in ("exact", "adaptive")
    ]
    assert objectives[1] == pytest.approx(objectives[0], rel=1e-2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The scales")
def test_gap_is_closed_on_raw_data():
    X, y = raw_data(200)
    model = ConvexReLURegressor(alpha=1.0, random_state=0).fit(X, y)
    assert model.dual_gap_ <= 1e-2 * model.objective_
    assert model.n_iter_ < 20


def test_descent_from_random_neurons_sees_small_columns():
    plain, scaled = (
        place_neurons(raw_problem(100, ratio), 50, np.random.RandomState(0))
        for ratio in (1.0, 1e4)
    )
    p = raw_problem(100)
    assert p.objective(scaled) < 20.0 < 0.02 * p.objective(plain)


def test_descent_of_several_outputs_sees_small_columns():
    X, y = raw_data(100)
    values = []
    for ratio in (1.0, 1e4):
        p = two_layer_problem(
            X - X.mean(axis=0),
            np.c_[y, 2 * X[:, 0]],
            np.ones(100),
            Separable(SquaredError()),
            1.0,
            True,
            scales_ratio=ratio,
        )
        values.append(p.objective(place_units(p, 50, np.random.RandomState(0))))
    assert values[1] < 0.1 * values[0]


def test_blocks_active_on_all_samples_are_a_linear_term():
    # Biases of the two blocks make up for each other, whatever their size.
    X = np.array([[0.0], [1.0], [2.0]])
    y = np.array([0.0, 1.0, 3.0])
    patterns = np.array([[False, False, True], [False, True, True]])
    arrangement = Arrangement(patterns, np.array([[1.0, -1.5], [1.0, -0.5]]), False)
    problem = problem_of_one(X, y, np.ones(3), SquaredError(), 0.1, True)
    program = TwoLayerProgram(
        problem,
        arrangement,
        outputs=np.array([1.0, -1.0]),
        open_sides=~patterns,
    )
    unit = program._unit
    theta = np.array([[1e-14, 1e6 / unit], [1e-3, 1e6 / unit], [1.0, 0.0]])
    neurons = neurons_from_blocks(program, theta, 0.5)
    outputs = outputs_of(neurons, X)
    exact = program.operator.activate(theta) + 0.5
    np.testing.assert_allclose(outputs, exact, atol=1e-8)
    assert neurons.units.linear.all()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_slopes_of_one_direction_at_all_biases(sign):
    p = raw_problem(30)
    N = sign * p.dual_point(np.zeros((30, 1)))
    nu, u = N[:, 0], np.array([[0.6, 0.8]])
    found = along_biases(p.X, N, u, 0.1, 0.0)
    z = p.X @ u.T + found.biases
    slopes = found.outputs[:, 0] * (nu @ np.where(z > 0, z, 0.1 * z))
    np.testing.assert_allclose(found.slopes, slopes)
    # No bias is steeper than the best of these.
    biases = np.linspace(-1.0, 1.0, 501) * np.abs(p.X @ u[0]).max()
    z = p.X @ u.T + biases
    every = np.abs(nu @ np.where(z > 0, z, 0.1 * z))
    assert every.max() <= found.slopes.max() * (1 + 1e-12)


def test_slopes_of_several_outputs_at_all_biases():
    p = raw_problem(30)
    N = p.dual_point(np.zeros((30, 1)))
    N = np.c_[N, N[::-1]]
    u = np.array([[0.6, 0.8]])
    found = along_biases(p.X, N, u, 0.1, 0.0)
    z = p.X @ u.T + found.biases
    slopes = np.where(z > 0, z, 0.1 * z).T @ N
    np.testing.assert_allclose(np.sum(slopes * found.outputs, axis=1), found.slopes)
    np.testing.assert_allclose(np.linalg.norm(slopes, axis=1), found.slopes)


def test_candidates_of_unlike_outputs_stay_apart():
    p = raw_problem(30)
    N = p.dual_point(np.zeros((30, 1)))
    directions = np.array([[1.0, 0.0], [1.0, 1e-3]])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    found = along_biases(p.X, N, directions, 0.0, 0.0)
    assert len(merge_candidates([found], p.X)) < len(found)
    assert len(merge_candidates([found], p.X, True)) == len(found)
