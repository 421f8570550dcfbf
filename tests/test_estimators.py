import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris, make_moons
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import mean_pinball_loss
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import shuffle

from sklearn_convexnn import ConvexReLUClassifier, ConvexReLURegressor, certify
from sklearn_convexnn.families.two_layer.family import TwoLayer
from sklearn_convexnn.families.two_layer.neurons import activation
from sklearn_convexnn.losses import CLASSIFICATION_LOSSES
from tests.problems import EPSILON, FEW_LOSSES, QUANTILE, network_objective, tiny_data


def make_model(loss, **params):
    cls = ConvexReLURegressor
    if loss in CLASSIFICATION_LOSSES:
        cls = ConvexReLUClassifier
    return cls(loss=loss, **params)


@pytest.fixture(scope="module")
def diabetes():
    X, y = load_diabetes(return_X_y=True)
    return StandardScaler().fit_transform(X), (y - y.mean()) / y.std()


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return StandardScaler().fit_transform(X), load_iris().target_names[y]


# What a fit reports


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "loss, slope",
    [
        *[(loss, 0.0) for loss in FEW_LOSSES],
        *[
            pytest.param(
                loss, -0.3, marks=() if loss == "squared_error" else pytest.mark.slow
            )
            for loss in FEW_LOSSES
        ],
    ],
)
@pytest.mark.parametrize("arrangements", ["sampled", "adaptive"])
def test_objective_is_that_of_the_weights(loss, bias, slope, arrangements):
    X, y, s = tiny_data(loss, n=40, d=3, weighted=True)
    model = make_model(
        loss,
        alpha=2.0,
        fit_intercept=bias,
        negative_slope=slope,
        arrangements=arrangements,
        n_arrangements=50,
        random_state=0,
    )
    if loss == "huber":
        model.set_params(epsilon=EPSILON)
    model.fit(X, y, sample_weight=s)
    W, a = model.coefs_
    b, c = model.intercepts_
    value = network_objective(loss, X, y, s, 2.0, W, b, a[:, 0], c, slope)
    assert_allclose(model.objective_, value, rtol=1e-12)
    assert_allclose(model.loss_, value / s.sum())
    assert model.dual_gap_ == model.objective_ - model.dual_bound_
    assert -1e-9 <= model.dual_gap_ <= model.tol * model.objective_
    kinds = {"sampled": ("restricted",), "adaptive": ("global", "estimated")}
    assert model.certificate_ in kinds[arrangements]
    assert model.n_neurons_ == W.shape[1] <= len(X)
    if arrangements == "sampled":
        assert model.n_arrangements_ == 50
    assert model.n_layers_ == 3 and model.n_outputs_ == 1
    if not bias:
        assert not b.any() and not c.any()


@pytest.mark.slow
def test_exact_is_global_and_never_worse():
    X, y, _ = tiny_data("squared_error", n=30)
    exact = ConvexReLURegressor(0.3, arrangements="exact", tol=1e-7).fit(X, y)
    assert exact.certificate_ == "global"
    for seed in range(3):
        model = ConvexReLURegressor(0.3, random_state=seed, arrangements="sampled")
        sampled = model.fit(X, y)
        assert sampled.certificate_ == "restricted"
        assert exact.dual_bound_ <= sampled.objective_
        model.set_params(arrangements="adaptive", tol=1e-3)
        adaptive = model.fit(X, y)
        assert adaptive.certificate_ == "global"
        assert exact.dual_bound_ <= adaptive.objective_ <= 1.001 * exact.objective_
        assert adaptive.dual_bound_ <= exact.objective_
    # Sampling that may draw as many patterns as there are takes them all.
    everything = ConvexReLURegressor(
        0.3, arrangements="sampled", n_arrangements=2000, tol=1e-7
    ).fit(X, y)
    assert everything.certificate_ == "global"
    assert_allclose(everything.objective_, exact.objective_, rtol=1e-6)


def test_no_mlp_is_below_the_global_bound():
    X, y, _ = tiny_data("squared_error", n=30)
    bound = ConvexReLURegressor(0.5, arrangements="exact").fit(X, y).dual_bound_
    for seed in range(4):
        mlp = MLPRegressor(
            hidden_layer_sizes=20,
            solver="lbfgs",
            alpha=0.5,
            max_iter=10_000,
            random_state=seed,
        )
        objective = certify(mlp.fit(X, y), X, y, alpha=0.5, kind="restricted").objective
        assert bound <= objective


@pytest.mark.slow
def test_answer_does_not_depend_on_row_order_or_repetition():
    X, y, s = tiny_data("squared_error", n=50, d=3)
    X, y = np.round(X, 1), np.round(y, 1)
    model = ConvexReLURegressor(1.0, random_state=0)
    reference = clone(model).fit(X, y)
    for data in (shuffle(X, y, random_state=1), (X, y)):
        other = clone(model).fit(*data)
        for one, two in zip(reference.coefs_, other.coefs_):
            assert_array_equal(one, two)
    twice = clone(model).fit(np.tile(X, (2, 1)), np.tile(y, 2))
    weighted = clone(model).fit(X, y, sample_weight=2 * s)
    assert_array_equal(twice.coefs_[0], weighted.coefs_[0])
    extra = clone(model).fit(
        np.concatenate([X, 9 + X]), np.tile(y, 2), np.repeat([1.0, 0.0], 50)
    )
    assert_array_equal(extra.coefs_[0], reference.coefs_[0])


@pytest.mark.slow
def test_history():
    # Too many samples and features for a proof, which would take its time.
    X, y, _ = tiny_data("squared_error", n=70, d=6)
    model = ConvexReLURegressor(1.0, random_state=0)
    for target in (y, np.stack([y, -y, y**2], 1)):
        model.fit(X, target)
        assert set(model.history_) == {
            "time", "objective", "dual_bound", "kappa", "blocks", "neurons"
        }  # fmt: skip
        assert len({len(values) for values in model.history_.values()}) == 1
        assert model.history_["dual_bound"][-1] <= model.dual_bound_ * 1.01
    sampled = clone(model).set_params(arrangements="sampled").fit(X, y)
    assert_allclose(sampled.history_["dual_bound"][-1], sampled.dual_bound_)


# Interchange with scikit-learn's MLP


@pytest.mark.parametrize("n_outputs", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_weights_in_an_mlp_regressor(diabetes, n_outputs):
    X, y = (part[:150] for part in diabetes)
    Y = y if n_outputs == 1 else np.stack([y, y**2, X[:, 0] * y], axis=1)
    model = ConvexReLURegressor(
        5.0, n_arrangements=10, random_state=0, arrangements="sampled"
    ).fit(X, Y)
    mlp = MLPRegressor(
        hidden_layer_sizes=model.n_neurons_, max_iter=1, solver="lbfgs", alpha=1e6
    )
    with pytest.warns(ConvergenceWarning):
        mlp.fit(X, Y)
    assert [c.shape for c in mlp.coefs_] == [c.shape for c in model.coefs_]
    assert [b.shape for b in mlp.intercepts_] == [b.shape for b in model.intercepts_]
    mlp.coefs_, mlp.intercepts_ = model.coefs_, model.intercepts_
    assert mlp.n_layers_ == model.n_layers_ and mlp.n_outputs_ == model.n_outputs_
    assert mlp.out_activation_ == model.out_activation_
    assert_allclose(mlp.predict(X), model.predict(X), rtol=0, atol=1e-10)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_weights_in_an_mlp_classifier(iris, n_classes):
    X, y = iris
    if n_classes == 2:
        X, y = X[y != "setosa"], y[y != "setosa"]
    model = ConvexReLUClassifier(
        0.5, n_arrangements=30, random_state=0, arrangements="sampled"
    ).fit(X, y)
    mlp = MLPClassifier(
        hidden_layer_sizes=model.n_neurons_, max_iter=1, solver="lbfgs", alpha=1e6
    )
    with pytest.warns(ConvergenceWarning):
        mlp.fit(X, y)
    assert [c.shape for c in mlp.coefs_] == [c.shape for c in model.coefs_]
    mlp.coefs_, mlp.intercepts_ = model.coefs_, model.intercepts_
    assert_array_equal(mlp.classes_, model.classes_)
    assert_array_equal(mlp.predict(X), model.predict(X))
    if n_classes == 2:
        assert mlp.out_activation_ == model.out_activation_ == "logistic"
        assert_allclose(
            mlp.predict_proba(X), model.predict_proba(X), rtol=0, atol=1e-10
        )


# The ways people use an estimator


def test_pipeline_grid_search_and_pickle(diabetes):
    X, y = diabetes
    pipeline = make_pipeline(
        StandardScaler(),
        ConvexReLURegressor(n_arrangements=15, random_state=0, arrangements="sampled"),
    )
    search = GridSearchCV(pipeline, {"convexreluregressor__alpha": [5, 50]}, cv=3)
    search.fit(X, y)
    again = pickle.loads(pickle.dumps(search))
    assert_array_equal(again.predict(X), search.predict(X))
    assert search.best_score_ > 0.3
    scores = cross_val_score(search.best_estimator_, X, y, cv=3)
    assert scores.mean() > 0.3


def test_pandas_sparse_and_float32(diabetes):
    pd = pytest.importorskip("pandas")
    X, y = diabetes
    X = np.where(np.abs(X) > 0.5, X, 0.0)
    model = ConvexReLURegressor(
        20.0, n_arrangements=20, random_state=0, arrangements="sampled"
    )
    dense = clone(model).fit(X, y)
    names = [f"feature {i}" for i in range(10)]
    frame = clone(model).fit(pd.DataFrame(X, columns=names), pd.Series(y))
    assert_array_equal(frame.feature_names_in_, names)
    assert_array_equal(frame.coefs_[0], dense.coefs_[0])
    with pytest.warns(UserWarning, match="feature names"):
        frame.predict(X)
    sparse = clone(model).fit(csr_array(X), y)
    assert_array_equal(sparse.coefs_[0], dense.coefs_[0])
    assert_allclose(sparse.predict(csr_array(X)), dense.predict(X), atol=1e-12)
    single = clone(model).fit(X.astype(np.float32), y.astype(np.float32))
    assert {part.dtype for part in single.coefs_} == {np.dtype(np.float32)}
    # Biases can be large numbers of which all digits count.
    assert {part.dtype for part in single.intercepts_} == {np.dtype(np.float64)}
    assert_allclose(single.objective_, dense.objective_, rtol=1e-4)


@pytest.mark.slow
def test_poisson_predicts_means(diabetes):
    X, y = diabetes
    y = np.floor(np.exp(y))
    Y = np.stack([y, 100 * y], axis=1)
    model = ConvexReLURegressor(1000.0, loss="poisson", random_state=0).fit(X, Y)
    mlp = MLPRegressor(
        hidden_layer_sizes=model.n_neurons_, loss="poisson", max_iter=1, alpha=1e6,
        solver="lbfgs",
    )  # fmt: skip
    with pytest.warns(ConvergenceWarning):
        mlp.fit(X, Y)
    mlp.coefs_, mlp.intercepts_ = model.coefs_, model.intercepts_
    assert model.out_activation_ == mlp.out_activation_ == "exp"
    assert_allclose(model.predict(X), mlp.predict(X), rtol=1e-10)
    # A free offset makes the sums agree.
    assert_allclose(model.predict(X).sum(axis=0), Y.sum(axis=0), rtol=1e-3)
    found = certify(model, X, Y, alpha=1000.0, kind="restricted", tol=1.0)
    assert_allclose(found.objective, model.objective_)


@pytest.mark.parametrize(
    "y, sample_weight, message",
    [
        ([1, 2, -1, 3], None, "y to be non-negative, but y has -1"),
        ([0, 0, 0, 0], None, "y to be positive"),
        ([1, 0, 0, 0], [0, 1, 1, 1], "y to be positive"),
        ([[1, 0], [1, 0], [1, 0], [1, 0]], None, "in each output"),
    ],
)
def test_targets_of_the_poisson_loss(y, sample_weight, message, monkeypatch):
    monkeypatch.setattr(ConvexReLURegressor, "_fit_network", None)
    with pytest.raises(ValueError, match=message):
        ConvexReLURegressor(loss="poisson").fit(np.eye(4), y, sample_weight)


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.8])
def test_quantile_is_the_part_below_the_prediction(quantile):
    X, y, s = tiny_data("quantile", n=80, d=3, weighted=True)
    model = ConvexReLURegressor(
        2.0, loss="quantile", quantile=quantile, random_state=0
    ).fit(X, y, sample_weight=s)
    W, a = model.coefs_
    value = np.sum(s) * mean_pinball_loss(
        y, model.predict(X), sample_weight=s, alpha=quantile
    )
    assert_allclose(model.objective_, value + np.sum(W**2) + np.sum(a**2), rtol=1e-12)
    share = [np.sum(s * (y < model.predict(X) + e)) / s.sum() for e in (-1e-2, 1e-2)]
    assert share[0] <= quantile + 1e-9 and quantile - 1e-9 <= share[1]
    assert share[1] - share[0] < 0.3


@pytest.mark.parametrize("loss", ["poisson", "quantile"])
@pytest.mark.parametrize("arrangements", ["exact", "adaptive"])
def test_weight_is_repetition(loss, arrangements):
    X, y, _ = tiny_data(loss, n=20)
    repetitions = np.arange(20) % 3
    model = ConvexReLURegressor(
        0.5, loss=loss, quantile=QUANTILE, arrangements=arrangements, random_state=0
    )
    weighted = clone(model).fit(X, y, sample_weight=repetitions)
    repeated = model.fit(np.repeat(X, repetitions, axis=0), np.repeat(y, repetitions))
    assert_array_equal(weighted.coefs_[0], repeated.coefs_[0])
    assert weighted.dual_bound_ == repeated.dual_bound_


def test_sample_weight_in_score():
    X, y, s = tiny_data("squared_error", n=40, d=3, weighted=True)
    model = ConvexReLURegressor(0.5, random_state=0).fit(X, y, s)
    assert model.score(X, y, s) != model.score(X, y)


def test_class_weight():
    X, y = make_moons(60, noise=0.3, random_state=0)
    X, y = X[:45], y[:45]
    model = ConvexReLUClassifier(0.3, random_state=0)
    balanced = clone(model).set_params(class_weight="balanced").fit(X, y)
    counts = np.bincount(y)
    weights = (len(y) / (2 * counts))[y]
    by_hand = clone(model).fit(X, y, sample_weight=weights)
    assert_allclose(balanced.objective_, by_hand.objective_, rtol=1e-9)
    given = clone(model).set_params(class_weight={0: 5.0, 1: 1.0}).fit(X, y)
    assert_allclose(
        given.objective_,
        clone(model).fit(X, y, np.where(y == 0, 5.0, 1.0)).objective_,
        rtol=1e-9,
    )


def test_probabilities(iris):
    X, y = iris
    model = ConvexReLUClassifier(
        1.0, n_arrangements=20, random_state=0, arrangements="sampled"
    ).fit(X, y)
    proba = model.predict_proba(X)
    assert proba.shape == (150, 3) and model.decision_function(X).shape == (150, 3)
    assert_allclose(proba.sum(axis=1), 1.0)
    assert_allclose(model.predict_log_proba(X), np.log(proba))
    assert_array_equal(model.predict(X), model.classes_[proba.argmax(axis=1)])
    assert model.score(X, y) > 0.95
    binary = clone(model).fit(X, y == "setosa")
    assert binary.decision_function(X).shape == (150,)
    assert binary.predict_proba(X).shape == (150, 2)


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
def test_no_probabilities_without_log_loss(loss, iris):
    X, y = iris
    model = ConvexReLUClassifier(
        1.0, loss=loss, n_arrangements=20, random_state=0, arrangements="sampled"
    )
    assert model.fit(X, y).score(X, y) > 0.95
    assert model.out_activation_ == "identity"
    for name in ("predict_proba", "predict_log_proba"):
        assert not hasattr(model, name) and callable(getattr(type(model), name))
        with pytest.raises(AttributeError, match=f"{name} needs loss='log_loss'"):
            getattr(model, name)(X)


def test_warm_start_keeps_what_was_found(diabetes):
    X, y = diabetes
    model = ConvexReLURegressor(
        20.0, n_arrangements=30, warm_start=True, tol=1e-6, arrangements="sampled"
    )
    objectives = []
    for seed in range(4):
        model.set_params(random_state=seed).fit(X, y)
        objectives.append(model.objective_)
    assert np.all(np.diff(objectives) <= 1e-6 * objectives[0])
    assert objectives[-1] < objectives[0] * 0.999
    # Other data shapes start afresh.
    model.fit(X[:, :3], y)
    assert model.n_features_in_ == 3


def test_warm_start_of_a_network_on_kinks_does_not_lose_it():
    X, y, _ = tiny_data("squared_error", n=30, d=2)
    model = ConvexReLURegressor(
        0.3, arrangements="exact", warm_start=True, fit_intercept=False, tol=1e-8
    ).fit(X, y)
    best = model.objective_
    model.set_params(arrangements="sampled", n_arrangements=1, random_state=0).fit(X, y)
    assert_allclose(model.objective_, best, rtol=1e-6)


def test_cvxpy_solver_agrees(diabetes):
    X, y = diabetes
    model = ConvexReLURegressor(
        20.0, n_arrangements=5, random_state=0, tol=1e-6, arrangements="sampled"
    )
    ours = clone(model).fit(X, y)
    reference = clone(model).set_params(solver="cvxpy").fit(X, y)
    assert_allclose(reference.objective_, ours.objective_, rtol=2e-6)
    assert abs(reference.dual_gap_) <= 1e-6 * reference.objective_


def test_verbose_adaptive(capsys):
    X, y, _ = tiny_data("squared_error", n=20, d=3)
    model = ConvexReLURegressor(0.5, random_state=0, verbose=1).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    # Networks within a round have an entry, too.
    assert len(lines) == model.n_iter_ <= len(model.history_["time"])
    assert "round   1" in lines[0] and "kappa/alpha" in lines[0]


def test_verbose(capsys):
    X, y, _ = tiny_data("squared_error", n=20, d=3)
    model = ConvexReLURegressor(0.5, random_state=0, arrangements="sampled")
    model.fit(X, y)
    assert capsys.readouterr().out == ""
    model.set_params(verbose=1).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "100 patterns (sampled)" in lines[0]
    model.set_params(verbose=2).fit(X, y)
    assert "[ConvexReLURegressor] iteration   0" in capsys.readouterr().out


# Degenerate data


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("arrangements", ["adaptive", "sampled", "exact"])
def test_degenerate_regression_data(bias, arrangements):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((12, 2))
    cases = [
        (X[:1], [3.0]),
        (X[:, :1], rng.standard_normal(12)),
        (X, np.full(12, 2.5)),
        (X, np.zeros(12)),
        (np.zeros((12, 2)), rng.standard_normal(12)),
        (np.ones((12, 2)), rng.standard_normal(12)),
        (np.column_stack([X, np.ones(12), np.zeros(12)])[:6], rng.standard_normal(6)),
        (np.repeat(X[:4], 3, axis=0), rng.standard_normal(12)),
        (1e-8 * X, rng.standard_normal(12)),
        (1e4 * X, rng.standard_normal(12)),
        (X, 1e-8 * rng.standard_normal(12)),
    ]
    if arrangements != "adaptive":
        # Weight decay of 1e-9 in units of the data: beyond the search.
        cases.append((X, 1e8 * rng.standard_normal(12)))
    if bias:
        cases.append((X + 1e6, rng.standard_normal(12)))
    for data, target in cases:
        model = ConvexReLURegressor(
            0.1, fit_intercept=bias, arrangements=arrangements, random_state=0
        )
        model.fit(data, target)
        assert np.all(np.isfinite(model.predict(data)))
        tol = model.tol if arrangements == "adaptive" else 1e-4
        assert model.dual_gap_ <= tol * model.objective_ + 1e-9 * np.var(target)
        assert model.dual_bound_ <= model.objective_ * (1 + 1e-9)


def test_large_weight_decay_gives_the_constant_network():
    X, y, _ = tiny_data("squared_error", n=30, d=3)
    model = ConvexReLURegressor(1e5, random_state=0)
    with pytest.warns(UserWarning, match="alpha=100000 is a constant, .* about"):
        model.fit(X, y)
    assert model.n_neurons_ == 0
    assert_allclose(model.predict(X), y.mean())
    assert [c.shape for c in model.coefs_] == [(3, 0), (0, 1)]


# Bad input, and failures


@pytest.mark.parametrize(
    "params",
    [
        {"alpha": 0.0},
        {"alpha": -1.0},
        {"alpha": "1"},
        {"loss": "gamma"},
        {"epsilon": 0},
        {"quantile": 0.0},
        {"quantile": 1.0},
        {"negative_slope": 1.0},
        {"negative_slope": -1.5},
        {"arrangements": "all"},
        {"n_arrangements": 0},
        {"solver": "scs"},
        {"tol": 0},
        {"max_iter": 0},
        {"max_time": 0},
        {"max_neurons": 0},
        {"fit_intercept": "yes"},
    ],
    ids=str,
)
def test_wrong_parameters(params):
    X, y, _ = tiny_data("squared_error")
    with pytest.raises(ValueError, match=f"The '{next(iter(params))}' parameter"):
        ConvexReLURegressor(**params).fit(X, y)


@pytest.mark.parametrize("cls", [ConvexReLURegressor, ConvexReLUClassifier])
@pytest.mark.parametrize(
    "change, message",
    [
        ({"X": np.full((8, 2), np.nan)}, "contains NaN"),
        ({"X": np.full((8, 2), np.inf)}, "contains infinity"),
        ({"X": np.empty((0, 2)), "y": np.empty(0)}, "0 sample"),
        ({"y": np.zeros(5)}, "inconsistent numbers of samples"),
        ({"y": np.full(8, np.nan)}, "NaN"),
        ({"sample_weight": np.zeros(8)}, "at least one non-zero"),
        ({"sample_weight": -np.ones(8)}, "[Nn]egative"),
        ({"sample_weight": np.ones(5)}, "sample_weight"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bad_data(cls, change, message):
    X, y, _ = tiny_data("squared_error")
    data = {"X": X, "y": np.round(y), **change}
    with pytest.raises(ValueError, match=message):
        cls().fit(**data)


def test_one_class_only():
    X, _, _ = tiny_data("squared_error")
    with pytest.raises(ValueError, match="only one class is present"):
        ConvexReLUClassifier().fit(X, np.ones(8))


def test_prediction_with_another_number_of_features():
    X, y, _ = tiny_data("squared_error")
    model = ConvexReLURegressor().fit(X, y)
    with pytest.raises(ValueError, match="X has 1 features"):
        model.predict(X[:, :1])
    with pytest.raises(NotFittedError):
        ConvexReLURegressor().predict(X)


def test_exact_on_data_of_high_rank():
    X = np.random.default_rng(0).standard_normal((80, 9))
    with pytest.raises(ValueError, match="rank 10") as error:
        ConvexReLURegressor(arrangements="exact").fit(X, X[:, 0])
    assert "more than the limit of 20000" in str(error.value)
    assert "arrangements='sampled'" in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "limit",
    [
        {"arrangements": "sampled", "max_iter": 2},
        {"arrangements": "sampled", "max_time": 1e-9},
        {"max_iter": 1},
        {"max_time": 1e-9},
        {"max_neurons": 3},
    ],
    ids=str,
)
def test_short_of_tol_warns_and_keeps_the_best(limit):
    X, y, _ = tiny_data("squared_error", n=80, d=6)
    params = {"arrangements": "adaptive", "tol": 1e-7, **limit}
    model = ConvexReLURegressor(1.0, random_state=0, **params)
    name = list(limit)[-1]
    with pytest.warns(ConvergenceWarning, match="duality gap of") as record:
        model.fit(X, y)
    assert name in str(record[0].message)
    assert model.dual_bound_ <= model.objective_
    assert model.dual_gap_ > 1e-7 * model.objective_
    assert np.all(np.isfinite(model.predict(X)))
    if name == "max_neurons":
        assert model.n_neurons_ <= 3


@pytest.mark.parametrize("bias", [False, True])
def test_nearly_equal_samples_end_with_an_honest_warning(bias):
    """Cells as thin as rounding: no crash, and valid bounds all the same."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((5, 3))
    y = rng.standard_normal(10)
    near = np.concatenate([X, X + 1e-7 * rng.standard_normal(X.shape)])
    model = ConvexReLURegressor(0.1, arrangements="exact", fit_intercept=bias)
    with pytest.warns(ConvergenceWarning, match="merge samples that are equal"):
        model.fit(near, y)
    equal = clone(model).fit(np.concatenate([X, X]), y)
    assert model.dual_bound_ <= equal.objective_ * (1 + 1e-6)
    assert model.objective_ >= equal.dual_bound_ * (1 - 1e-6)


@pytest.mark.parametrize("arrangements", ["exact", "adaptive"])
@pytest.mark.parametrize("outlier", [1e3, 1e5, 1e6])
def test_outlier_does_not_hide_patterns(outlier, arrangements):
    """An outlier must not make other samples look equal: the bound would be wrong."""
    z = np.linspace(-2, 2, 8)
    X, y = np.append(z, outlier)[:, None], np.append(np.sin(3 * z), 0.0)
    model = ConvexReLURegressor(0.1, arrangements=arrangements, tol=1e-3).fit(X, y)
    assert model.certificate_ == "global"
    assert_allclose(model.objective_, 1.215, rtol=2e-3)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.slow
def test_no_claim_to_be_global_where_rounding_decides():
    t = np.linspace(0, 1, 20)
    rounded = np.column_stack([t, 0.3 * t + 0.1, -7 * t]).astype(np.float32)
    model = ConvexReLURegressor(0.1, arrangements="exact").fit(rounded, np.sin(9 * t))
    assert model.certificate_ == "restricted"
    assert model.dual_bound_ <= model.objective_


def test_rows_of_very_different_size_and_of_rounding_size():
    X, y = np.array([[1.0], [-1e-9]]), np.array([0.0, 1.0])
    model = ConvexReLURegressor(1e-10, fit_intercept=False).fit(X, y)
    assert model.certificate_ == "global"
    assert model.dual_bound_ <= 0.095 + 1e-6
    grid = np.array([[i, j] for i in range(5) for j in range(5)]) * 0.1 + 0.3
    X = StandardScaler().fit_transform(grid)
    assert 0 < np.abs(X[12]).max() < 1e-14  # zero, if it were not for rounding
    model = ConvexReLURegressor(0.1, fit_intercept=False).fit(X, np.sin(np.arange(25)))
    assert model.certificate_ == "global"
    assert_allclose(model.objective_, 5.146326, rtol=1e-4)
    assert model.dual_bound_ <= 5.146327


def test_negative_class_weight():
    X, y, _ = tiny_data("log_loss")
    with pytest.raises(ValueError, match="class_weight must be non-negative"):
        ConvexReLUClassifier(class_weight={-1.0: -1.0, 1.0: 1.0}).fit(X, y)


def test_too_few_patterns_are_reported():
    rng = np.random.default_rng(0)
    X = np.repeat(rng.standard_normal((3, 3)), 10, axis=0)
    X += 1e-8 * rng.standard_normal(X.shape)
    model = ConvexReLURegressor(
        n_arrangements=50, random_state=0, fit_intercept=False, arrangements="sampled"
    )
    with pytest.warns(UserWarning, match="distinct activation patterns"):
        model.fit(X, X[:, 0])
    assert model.n_arrangements_ < 50


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, ValueError])
def test_failed_fit_leaves_the_estimator_as_it_was(error, monkeypatch):
    X, y, _ = tiny_data("squared_error", n=20, d=3)
    model = ConvexReLURegressor(0.5, random_state=0).fit(X, y)
    before, prediction = dict(vars(model)), model.predict(X)

    def fail(*args, **kwargs):
        raise error("stopped")

    monkeypatch.setattr(TwoLayer, "layers", fail)
    with pytest.raises(error):
        model.fit(X[:, :2], -y)
    assert vars(model) == before
    assert_array_equal(model.predict(X), prediction)


def test_failing_conic_solver_leaves_the_estimator_as_it_was(monkeypatch):
    import cvxpy as cp

    X, y, _ = tiny_data("squared_error", n=20, d=3)
    model = ConvexReLURegressor(0.5, random_state=0, arrangements="sampled").fit(X, y)
    prediction = model.predict(X)

    def fail(self, **options):
        raise cp.error.SolverError("factorisation failed")

    monkeypatch.setattr(cp.Problem, "solve", fail)
    with pytest.raises(RuntimeError, match="CLARABEL failed: factorisation failed"):
        model.set_params(solver="cvxpy").fit(X[:, :2], -y)
    assert model.n_features_in_ == 3
    assert_array_equal(model.predict(X), prediction)


def test_activation():
    z = np.array([-2.0, 0.0, 3.0])
    assert_array_equal(activation(z), [0.0, 0.0, 3.0])
    assert_array_equal(activation(z, 0.5), [-1.0, 0.0, 3.0])
    assert_array_equal(activation(z, -1.0), [2.0, 0.0, 3.0])


@pytest.mark.parametrize("name", ["X", "y", "sample_weight", "alpha"])
@pytest.mark.parametrize("size", [1e-100, 1e-21, 1e21, 1e160])
def test_numbers_out_of_range(name, size):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 3)), rng.standard_normal(20)
    inputs = {"X": X, "y": y, "sample_weight": np.ones(20)}
    model = ConvexReLURegressor()
    if name != "alpha":
        inputs[name] = inputs[name] * size
    if name == "alpha":
        model.alpha = size**4 if 1e-50 < size < 1e50 else size
    with pytest.raises(ValueError, match=f"{name}.* is .*change its units"):
        model.fit(**inputs)


def test_class_weights_that_leave_no_class():
    X, y = np.arange(6.0)[:, None], [0, 0, 0, 1, 1, 1]
    with pytest.raises(ValueError, match=r"class_weight must be .* one class"):
        ConvexReLUClassifier(class_weight={0: 0.0, 1: 0.0}).fit(X, y)
