"""Callbacks of scikit-learn: what they are told of a fit, and that they can stop it."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.callback import ScoringMonitor
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from sklearn_convexnn import (
    ConvexReLUClassifier,
    ConvexReLURegressor,
    ConvexReLURegressorCV,
)
from tests.problems import tiny_data


class Recorder:
    """Writes down the hooks that are called, in the process that fits."""

    def __init__(self, stop_after=None, fail_at=None):
        self.events, self.stop_after, self.fail_at = [], stop_after, fail_at
        self.networks, self.subtasks = [], {}

    def _note(self, hook, context):
        self.subtasks[context.task_name] = context.max_subtasks
        self.events.append((hook, context.task_name, context.task_id))
        if self.fail_at == (hook, context.task_name):
            raise RuntimeError("a callback that fails")

    def setup(self, estimator, context):
        self._note("setup", context)

    def teardown(self, estimator, context):
        self._note("teardown", context)

    def on_fit_task_begin(self, estimator, context):
        self._note("begin", context)

    def on_fit_task_end(
        self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator
    ):
        self._note("end", context)
        self.networks.append((X, y, metadata, fitted_estimator))
        rounds = sum(event[:2] == ("end", "round") for event in self.events)
        return context.task_name == "round" and rounds == self.stop_after


def wide_data():
    """Too many samples and features for a proof, which would take its time."""
    X, y, _ = tiny_data("squared_error", n=70, d=6)
    return X, y


def quick_model(cls=ConvexReLURegressor, **params):
    params = {"alpha": 6.0, "tol": 0.05, **params}
    return cls(n_arrangements=3, random_state=0, **params)


def in_fit(*events):
    start = ("setup", "fit", 0), ("begin", "fit", 0)
    return [*start, *events, ("end", "fit", 0), ("teardown", "fit", 0)]


def rounds(count):
    return [(hook, "round", k) for k in range(count) for hook in ("begin", "end")]


@pytest.mark.slow
def test_every_round_is_a_task():
    X, y = wide_data()
    recorder = Recorder()
    model = quick_model(alpha=1.0, tol=1e-3).set_callbacks(recorder).fit(X, y)
    assert model.n_iter_ > 2
    assert recorder.events == in_fit(*rounds(model.n_iter_))
    without = quick_model(alpha=1.0, tol=1e-3).fit(X, y)
    assert_array_equal(model.coefs_[0], without.coefs_[0])


@pytest.mark.parametrize("arrangements", ["sampled", "exact", "adaptive"])
def test_other_routes_are_one_task(arrangements):
    X, y, _ = tiny_data("squared_error", n=12)
    recorder = Recorder()
    model = ConvexReLURegressor(
        arrangements=arrangements, n_arrangements=10, tol=1e-3, random_state=0
    )
    model.set_callbacks(recorder).fit(X[:, :1] if arrangements == "adaptive" else X, y)
    assert recorder.events == in_fit()


def test_what_callbacks_are_given():
    X, y = wide_data()
    weight = np.linspace(1, 2, len(y))
    labels = np.where(y > 0, "yes", "no")
    for cls, target in ((ConvexReLURegressor, y), (ConvexReLUClassifier, labels)):
        recorder = Recorder()
        model = quick_model(cls).set_callbacks(recorder)
        model.fit(X, target, sample_weight=weight)
        assert len(recorder.networks) == model.n_iter_ + 1 > 1
        for X_, y_, metadata, _ in recorder.networks:
            assert_array_equal(X_, X)
            assert_array_equal(y_, target)
            assert_array_equal(metadata["sample_weight"], weight)
        # The network after the last round is the result, before it is simplified.
        last, whole = (network[3] for network in recorder.networks[-2:])
        raw = model._raw_predict(X)
        assert_allclose(last._raw_predict(X), raw, atol=1e-3 * np.abs(raw).max())
        assert whole.score(X, target) == model.score(X, target)
    model.fit(X, labels)
    assert recorder.networks[-1][2] is None


def test_a_callback_stops_the_fit():
    X, y = wide_data()
    recorder = Recorder(stop_after=2)
    model = quick_model(alpha=0.3, tol=1e-5).set_callbacks(recorder)
    with pytest.warns(ConvergenceWarning, match="a callback asked to stop. Let it go"):
        model.fit(X, y)
    assert recorder.events == in_fit(*rounds(2))
    with pytest.warns(ConvergenceWarning, match="limit of iterations"):
        limited = quick_model(alpha=0.3, tol=1e-5, max_iter=2).fit(X, y)
    assert_array_equal(model.coefs_[0], limited.coefs_[0])
    best = model.history_["objective"].min()
    assert model.objective_ <= best * (1 + 1e-9)


@pytest.mark.slow
def test_callbacks_are_closed_if_the_fit_fails():
    X, y = wide_data()
    model = quick_model().fit(X, y)
    for fail_at in (("begin", "round"), ("end", "fit")):
        recorder = Recorder(fail_at=fail_at)
        model.set_callbacks(recorder)
        before = vars(model).copy()
        with pytest.raises(RuntimeError, match="a callback that fails"):
            model.fit(X, 2 * y)
        assert recorder.events[-1] == ("teardown", "fit", 0)
        assert before == vars(model)


def test_clone_pickle_and_wrong_callbacks():
    X, y = wide_data()
    recorder = Recorder()
    model = quick_model().set_callbacks(recorder)
    clone(model).fit(X, y)
    assert recorder.events[-1] == ("teardown", "fit", 0)
    again = pickle.loads(pickle.dumps(model.fit(X, y)))
    assert_array_equal(again.predict(X), model.predict(X))
    assert not any(name.startswith("_callback") for name in vars(model))
    with pytest.raises(TypeError, match="must be instances"):
        model.set_callbacks(print)


@pytest.mark.slow
def test_scores_of_the_rounds():
    X, y = wide_data()
    monitor = ScoringMonitor(scoring="r2")
    model = quick_model()
    model.set_callbacks(monitor).fit(X, y)
    scores = {row["task_name"]: row["r2"] for row in monitor.get_logs().data}
    assert set(scores) == {"fit", "round"}
    assert_allclose(scores["round"], model.score(X, y), rtol=1e-4)


@pytest.mark.parametrize("several", [False, True])
def test_progress_bar(several, capsys):
    pytest.importorskip("rich")
    from sklearn.callback import ProgressBar

    X, y = wide_data()
    y = np.column_stack([y, X[:, 0]]) if several else y
    model = quick_model()
    model.set_callbacks(ProgressBar()).fit(X, y)
    shown = capsys.readouterr().out
    assert "ConvexReLURegressor - fit" in shown and "100%" in shown
    model.set_params(arrangements="sampled")
    search = GridSearchCV(clone(model).set_callbacks(), {"alpha": [2.0, 4.0]}, cv=2)
    search.set_callbacks(ProgressBar()).fit(X, y)
    assert "ConvexReLURegressor - fit" in capsys.readouterr().out


def test_tasks_of_a_cross_validation():
    X, y = wide_data()
    recorder = Recorder()
    model = ConvexReLURegressorCV(alphas=[4.0, 3.0, 2.0], cv=2, random_state=0)
    model.set_callbacks(recorder).fit(X, y)
    fold = [(hook, "alpha", k) for k in range(3) for hook in ("begin", "end")]
    folds = [
        event
        for k in range(2)
        for event in (("begin", "fold", k), *fold, ("end", "fold", k))
    ]
    refit = [("begin", "refit", 2), ("end", "refit", 2)]
    assert recorder.events == in_fit(*folds, *refit)
    assert recorder.subtasks == {"fit": 3, "fold": 3, "alpha": 0, "refit": 0}
    whole = recorder.networks[-1][3]
    assert_array_equal(whole.predict(X), model.predict(X))


def test_nobody_knows_the_number_of_rounds():
    X, y = wide_data()
    recorder = Recorder()
    quick_model().set_callbacks(recorder).fit(X, y)
    assert recorder.subtasks == {"fit": None, "round": 0}
    recorder = Recorder()
    quick_model(arrangements="sampled").set_callbacks(recorder).fit(X, y)
    assert recorder.subtasks == {"fit": 0}
