"""The search for the smallest network within a given objective."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_diabetes
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_convexnn import (
    ConvexReLUClassifier,
    ConvexReLUClassifierCV,
    ConvexReLURegressor,
    ConvexReLURegressorCV,
    GatedReLURegressor,
    certify,
    smallest_network,
)
from sklearn_convexnn.families.simplify import simplify
from sklearn_convexnn.families.two_layer.recovery import (
    merge_parallel,
    neurons_from_blocks,
)
from sklearn_convexnn.losses import CLASSIFICATION_LOSSES
from sklearn_convexnn.patterns.arrangements import sample_arrangement
from sklearn_convexnn.solvers import solve_interior_point
from sklearn_convexnn.solvers.lasso import solve_lasso
from sklearn_convexnn.training.smallest import (
    allowed_objective,
    smallest_by_lasso,
)
from tests.problems import (
    FEW_LOSSES,
    LOSSES,
    make_program,
    network_objective,
    network_of_one,
    problem_of,
    tiny_data,
)

EXACT = 1 + 1e-8


def solved(X, y, s, alpha=0.15, loss="squared_error", bias=False, slope=0.0):
    """The problem, and all neurons of the optima, from their relative interior."""
    program = make_program(loss, X, y, s, alpha, bias=bias, slope=slope)
    result = solve_interior_point(program, tol=1e-11)
    neurons = neurons_from_blocks(program, result.theta, result.offset)
    neurons = neurons.select(neurons.sizes > 1e-5 * neurons.sizes.max())
    return problem_of(program, X), merge_parallel(neurons), result.objective


def with_best_coefficients(problem, neurons):
    solution = solve_lasso(
        problem.family.features(neurons.units),
        problem.y,
        problem.sample_weight,
        problem.single_loss,
        problem.alpha,
        free_offset=problem.fit_intercept,
        tol=1e-11,
    )
    return neurons.with_coefficients(solution.values, solution.offset)


def smallest_subset(problem, neurons, limit):
    """Size of the smallest set of the given neurons with this objective."""
    if problem.objective(problem.null()) <= limit:
        return 0
    for size in range(1, len(neurons) + 1):
        for chosen in combinations(range(len(neurons)), size):
            subset = with_best_coefficients(problem, neurons.select(list(chosen)))
            if problem.objective(subset) <= limit:
                return size
    raise AssertionError("not even all of them reach the limit")


def grid_data(seed, n=8):
    """Samples on a grid: many neurons rest on several hyperplanes at once."""
    rng = np.random.default_rng(seed)
    X = rng.integers(-2, 3, (n, 2)).astype(float)
    return X, np.sin(2 * X[:, 0]) + 0.5 * rng.standard_normal(n), np.ones(n)


# Against all subsets


@pytest.mark.parametrize("data", [tiny_data, grid_data], ids=["random", "grid"])
@pytest.mark.parametrize("seed", [1, 6, 8, 9])
def test_smallest_subset_of_the_optimal_neurons(data, seed):
    X, y, s = data("squared_error", seed=seed) if data is tiny_data else data(seed)
    problem, pool, best = solved(X, y, s, alpha=0.1)
    limit = best * EXACT
    wanted = smallest_subset(problem, pool, limit)
    for start in (with_best_coefficients(problem, pool), simplify(problem, pool)):
        small = smallest_by_lasso(problem, start, limit)
        assert len(small) == wanted
        assert problem.objective(small) <= limit


@pytest.mark.parametrize("rise", [0.003, 0.03, 0.1])
@pytest.mark.parametrize("loss", LOSSES)
def test_no_subset_is_smaller_within_an_allowance(loss, rise):
    problem, pool, best = solved(*tiny_data(loss, weighted=True), loss=loss)
    limit = best * (1 + rise)
    small = smallest_by_lasso(problem, pool, limit)
    assert len(small) <= smallest_subset(problem, pool, limit)
    assert problem.objective(small) <= limit


# Networks with neurons that are not needed


def test_eight_neurons_become_four():
    """Parts of a neuron that are not parallel: only a merge can join them."""
    problem, pool, best = solved(*tiny_data("squared_error"))
    base = simplify(problem, pool)
    assert len(base) == 4
    half = replace(base, outputs=0.5 * base.outputs)
    halves = []
    for sign in (1.0, -1.0):
        # Turned by a little, within the cells wherever no kink is on a sample.
        units = base.units
        turned = units.directions + sign * 1e-4 * units.directions[:, ::-1] * [1, -1]
        turned /= np.linalg.norm(turned, axis=1, keepdims=True)
        halves.append(replace(half, units=replace(units, directions=turned)))
    for network in (half.joined(half), halves[0].joined(halves[1])):
        assert len(network) == 8
        limit = max(problem.objective(network), best * EXACT)
        small = smallest_by_lasso(problem, network, limit)
        assert len(small) == 4
        assert best * (1 - 1e-9) <= problem.objective(small) <= limit


def scattered(rng, gates, count, spread=1e-3):
    """`count` neurons near each gate, of directions of their own."""
    vectors = gates + spread * rng.standard_normal((count, *gates.shape))
    vectors = vectors.reshape(-1, gates.shape[1])
    norms = np.linalg.norm(vectors[:, :3], axis=1)
    biased = gates.shape[1] > 3
    signs = np.where(np.arange(len(gates)) % 2, 1.0, -1.0)
    return network_of_one(
        vectors[:, :3] / norms[:, None],
        vectors[:, 3] / norms if biased else np.zeros(len(norms)),
        0.1 * np.tile(signs, count),
        np.zeros(len(norms), dtype=bool),
        0.0,
    )


@pytest.mark.parametrize("bias", [False, True])
def test_parts_in_one_cell_are_merged(bias):
    X, y, s = tiny_data("squared_error", n=20, d=3)
    gates = sample_arrangement(X, 6, free_bias=bias, random_state=0).gates
    network = scattered(np.random.default_rng(0), gates, 3)
    program = make_program("squared_error", X, y, s, 0.3, bias=bias)
    problem = problem_of(program, X)
    limit = problem.objective(network)
    small = smallest_by_lasso(problem, network, limit)
    assert len(small) <= len(gates)
    assert problem.objective(small) <= limit
    # Leaving out alone keeps the directions.
    subset = smallest_by_lasso(problem, network, limit, only_subsets=True)
    assert problem.objective(subset) <= limit
    closest = subset.units.directions @ network.units.directions.T
    assert_allclose(closest.max(axis=1), 1.0, rtol=1e-14)


def test_the_null_network_if_it_is_allowed():
    problem, pool, _ = solved(*tiny_data("squared_error"), bias=True)
    value = problem.objective(problem.null())
    assert len(smallest_by_lasso(problem, pool, value)) == 0
    assert len(smallest_by_lasso(problem, pool, value * (1 - 1e-6))) > 0
    assert len(smallest_by_lasso(problem, problem.null(), np.inf)) == 0


def test_the_given_network_if_there_is_no_smaller_one():
    problem, pool, best = solved(*tiny_data("squared_error"))
    start = simplify(problem, pool)
    assert smallest_by_lasso(problem, start, best * EXACT) is start
    # Nothing is tried after the deadline.
    assert smallest_by_lasso(problem, start, 2 * best, deadline=0.0) is start


# The allowance


def test_allowed_objective():
    limit = allowed_objective(1.0, 0.995, 0.02)
    assert_allclose((limit - 0.995) / limit, 0.02, rtol=2e-3)
    assert limit - 0.995 < 0.02 * limit
    # Short of tol, and with a bound of zero.
    for bound in (0.9, 0.0, -1.0):
        assert_allclose(allowed_objective(1.0, bound, 0.02), 1.0, rtol=2e-9)
    assert allowed_objective(1.0, 0.5, 2.0) == np.inf


@pytest.mark.parametrize(
    "loss, bias",
    [
        pytest.param(
            loss,
            bias,
            marks=pytest.mark.slow if bias == (loss == "squared_error") else (),
        )
        for loss in FEW_LOSSES
        for bias in (False, True)
    ],
)
@pytest.mark.parametrize(
    "arrangements, tol",
    [
        ("sampled", 1e-3),
        pytest.param("sampled", 5e-2, marks=pytest.mark.slow),
        ("adaptive", 5e-2),
    ],
)
def test_estimators(loss, bias, tol, arrangements):
    X, y, s = tiny_data(loss, n=30, d=3, weighted=True)
    cls = ConvexReLURegressor
    params = {"epsilon": 0.5} if loss == "huber" else {}
    if loss in CLASSIFICATION_LOSSES:
        cls = ConvexReLUClassifier
    plain = cls(
        alpha=0.5,
        loss=loss,
        fit_intercept=bias,
        tol=tol,
        arrangements=arrangements,
        n_arrangements=30,
        random_state=0,
        **params,
    ).fit(X, y, sample_weight=s)
    small = smallest_network(plain, X, y, sample_weight=s)
    assert small.n_neurons_ <= plain.n_neurons_
    if tol == 5e-2:
        assert small.n_neurons_ < plain.n_neurons_
    assert small.dual_bound_ == plain.dual_bound_
    assert -1e-9 <= small.dual_gap_ <= tol * small.objective_
    W, a = small.coefs_
    b, c = small.intercepts_
    value = network_objective(loss, X, y, s, 0.5, W, b, a[:, 0], c)
    assert_allclose(small.objective_, value, rtol=1e-12)
    if not bias:
        assert not b.any() and not c.any()


@pytest.mark.parametrize("slope", [0.2, -1.0])
def test_other_slopes(slope):
    X, y, _ = tiny_data("squared_error", n=30, d=3)
    plain = ConvexReLURegressor(
        alpha=0.5, negative_slope=slope, tol=0.02, random_state=0
    ).fit(X, y)
    small = smallest_network(plain, X, y)
    assert small.n_neurons_ < plain.n_neurons_
    assert small.dual_gap_ <= 0.02 * small.objective_


def test_several_outputs_and_single_precision():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 3)).astype(np.float32)
    Y = np.column_stack([np.sin(2 * X[:, 0]), np.abs(X[:, 1]), np.ones(40)])
    plain = ConvexReLURegressor(alpha=0.3, tol=0.02, random_state=0).fit(X, Y)
    small = smallest_network(plain, X, Y)
    assert small.coefs_[0].dtype == np.float32
    assert small.dual_gap_ <= 0.02 * small.objective_
    counts = [np.sum(model.coefs_[1] != 0, axis=0) for model in (small, plain)]
    assert np.all(counts[0] <= counts[1]) and counts[0].sum() < counts[1].sum()
    assert counts[0][2] == 0


def test_a_linear_target_needs_one_neuron():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20, 2))
    y = X @ [1.0, -2.0] + 0.1 * rng.standard_normal(20)
    plain = ConvexReLURegressor(alpha=1.0, tol=0.1, arrangements="exact").fit(X, y)
    small = smallest_network(plain, X, y)
    assert small.n_neurons_ == 1 < plain.n_neurons_
    assert small.dual_gap_ <= 0.1 * small.objective_


@pytest.mark.slow
def test_no_rise_if_the_fit_is_short_of_tol():
    X, y, _ = tiny_data("squared_error", n=60, d=4)
    plain = ConvexReLURegressor(alpha=0.2, tol=1e-8, max_iter=1, random_state=0)
    with pytest.warns(ConvergenceWarning):
        plain.fit(X, y)
    small = smallest_network(plain, X, y)
    assert small.n_neurons_ <= plain.n_neurons_
    assert small.objective_ <= plain.objective_ * (1 + 2e-9)


def labelled(n_classes, n=40):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, 2))
    f = np.abs(X[:, 0]) + X[:, 1] + 0.3 * rng.standard_normal(n)
    cuts = np.quantile(f, np.linspace(0, 1, n_classes + 1)[1:-1])
    return X, np.array(["low", "mid", "top"])[np.digitize(f, cuts)]


@pytest.mark.parametrize("n_classes", [2, 3])
def test_classes(n_classes):
    X, y = labelled(n_classes)
    model = ConvexReLUClassifier(
        alpha=0.3, tol=0.05, class_weight="balanced", random_state=0
    ).fit(X, y)
    small = smallest_network(model, X, y)
    assert type(small) is ConvexReLUClassifier
    assert small.n_neurons_ < model.n_neurons_
    assert small.dual_gap_ <= 0.05 * small.objective_
    assert_array_equal(small.classes_, model.classes_)
    apart = small.predict_proba(X) - model.predict_proba(X)
    assert np.mean(np.abs(apart)) < 0.1
    assert certify(small, X, y, alpha=0.3).objective == pytest.approx(small.objective_)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_class_of_weight_zero(n_classes):
    X, y = labelled(n_classes)
    s = np.where(y == "low", 0.0, 1.0)
    model = ConvexReLUClassifier(alpha=0.3, tol=0.05, random_state=0)
    model.fit(X, y, sample_weight=s)
    small = smallest_network(model, X, y, sample_weight=s)
    assert small.n_neurons_ <= model.n_neurons_
    assert small.dual_gap_ <= 0.05 * small.objective_ or n_classes == 2
    assert_array_equal(small.classes_, model.classes_)
    assert np.all(small.predict_proba(1e6 * X)[:, 0] == 0.0)
    assert np.all(small.predict(X) != "low")


def test_what_is_known_of_the_optimum_stays():
    X, y, _ = tiny_data("squared_error", n=30, d=3)
    model = ConvexReLURegressor(alpha=0.5, tol=0.1, warm_start=True, random_state=0)
    model.fit(X, y)
    before = dict(vars(model))
    small = smallest_network(model, X, y)
    for name in ("dual_bound_", "certificate_", "n_iter_", "n_arrangements_"):
        assert getattr(small, name) == getattr(model, name)
    for name, values in model.history_.items():
        assert_array_equal(small.history_[name], values)
    assert small.dual_gap_ == small.objective_ - small.dual_bound_
    assert small.get_params() == model.get_params()
    assert all(getattr(model, name) is value for name, value in before.items())
    # As often as one likes.
    again = smallest_network(small, X, y)
    assert again.n_neurons_ <= small.n_neurons_


@pytest.mark.slow
def test_a_looser_tolerance_after_the_fit():
    X, y, _ = tiny_data("squared_error", n=30, d=3)
    model = ConvexReLURegressor(alpha=0.5, tol=1e-3, random_state=0).fit(X, y)
    counts = [
        smallest_network(model.set_params(tol=tol), X, y).n_neurons_
        for tol in (1e-3, 0.3)
    ]
    assert counts[1] < counts[0]


@pytest.mark.slow
def test_weight_decay_by_cross_validation():
    X, y, _ = tiny_data("squared_error", n=30, d=3)
    model = ConvexReLURegressorCV(alphas=[0.5, 0.3], cv=2, tol=0.1, random_state=0)
    small = smallest_network(model.fit(X, y), X, y)
    assert type(small) is ConvexReLURegressor
    assert small.alpha == small.alpha_ == model.alpha_
    assert small.n_neurons_ < model.n_neurons_
    assert small.dual_bound_ == model.dual_bound_
    X, y = labelled(3)
    model = ConvexReLUClassifierCV(alphas=[0.5], cv=2, tol=0.1, random_state=0)
    small = smallest_network(model.fit(X, y), X, y)
    assert type(small) is ConvexReLUClassifier
    assert small.n_neurons_ < model.n_neurons_


def test_a_scale_of_the_weight_decay_is_a_number_then():
    X, y, _ = tiny_data("squared_error", n=30, d=3)
    model = ConvexReLURegressor(tol=0.1, random_state=0).fit(X, y)
    assert smallest_network(model, X, y).alpha == model.alpha_


@pytest.mark.slow
def test_many_samples():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((4200, 3))
    y = np.abs(X[:, 0]) + X[:, 1] + 0.1 * rng.standard_normal(4200)
    model = ConvexReLURegressor(alpha=50.0, tol=0.1, random_state=0).fit(X, y)
    small = smallest_network(model, X, y)
    assert small.n_neurons_ <= model.n_neurons_
    assert small.dual_gap_ <= 0.1 * small.objective_


@pytest.mark.parametrize("part", ["X", "y", "sample_weight"])
@pytest.mark.parametrize("kind", [ConvexReLURegressor, ConvexReLUClassifier])
def test_other_data_are_refused(kind, part):
    X, y, s = tiny_data("squared_error", n=30, d=3, weighted=True)
    if kind is ConvexReLUClassifier:
        y = y > 0
    data = {"X": X, "y": y, "sample_weight": s}
    model = kind(alpha=0.3, random_state=0).fit(**data)
    others = {"X": 0.9 * X, "y": np.roll(y, 1), "sample_weight": 1.1 * s}
    with pytest.raises(ValueError, match="was fitted on"):
        smallest_network(model, **{**data, part: others[part]})


def test_data_of_other_shapes_are_refused():
    X, y, _ = tiny_data("squared_error", n=30, d=3)
    model = ConvexReLURegressor(alpha=0.3, random_state=0).fit(X, y)
    for part, target in ((X[:, :2], y), (X, np.column_stack([y, y]))):
        with pytest.raises(ValueError, match="was fitted on"):
            smallest_network(model, part, target)


def test_other_estimators_are_refused():
    X, y, _ = tiny_data("squared_error", n=30, d=3)
    gated = GatedReLURegressor(random_state=0).fit(X, y)
    pipeline = make_pipeline(ConvexReLURegressor(random_state=0)).fit(X, y)
    for model in (gated, pipeline, ConvexReLURegressor):
        with pytest.raises(TypeError, match="smallest_network needs an instance"):
            smallest_network(model, X, y)
    with pytest.raises(NotFittedError):
        smallest_network(ConvexReLURegressor(), X, y)


def test_verbose(capsys):
    X, y, _ = tiny_data("squared_error", n=30, d=3)
    model = ConvexReLURegressor(alpha=0.5, random_state=0).fit(X, y)
    small = smallest_network(model.set_params(verbose=1), X, y)
    printed = capsys.readouterr().out
    counts = f"{small.n_neurons_} of {model.n_neurons_} neurons"
    assert f"smallest network found: {counts}" in printed


def test_far_fewer_neurons_on_diabetes():
    X, y = load_diabetes(return_X_y=True)
    X, y = StandardScaler().fit_transform(X), (y - y.mean()) / y.std()
    X = np.column_stack([X, np.ones(len(X))])
    plain = ConvexReLURegressor(alpha=20, fit_intercept=False, random_state=0)
    small = smallest_network(plain.fit(X, y), X, y)
    assert small.n_neurons_ <= plain.n_neurons_ // 3
    assert small.dual_gap_ <= 1e-2 * small.objective_
