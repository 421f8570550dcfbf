"""Limits of BLAS threads, which belong to the process."""

import os
from threading import Barrier, Event, Thread, get_ident

import numpy as np
import pytest
from joblib import parallel_config
from threadpoolctl import OpenBLASController, ThreadpoolController, threadpool_limits

from sklearn_convexnn import ConvexReLURegressor, ConvexReLURegressorCV, two_layer
from sklearn_convexnn._utils.threads import blas_threads_for


def counts(user_api="blas"):
    pools = ThreadpoolController().select(user_api=user_api)
    return [pool["num_threads"] for pool in pools.info()]


@pytest.fixture(autouse=True)
def two_threads():
    with threadpool_limits(limits=2, user_api="blas"):
        # That of the whole tests makes this thread the one to set limits.
        if hasattr(OpenBLASController, "clear_controlling_thread"):
            OpenBLASController.clear_controlling_thread(force=True)
        before = counts()
        yield before
        assert counts() == before


def in_threads(*targets):
    threads = [Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_limit_and_nesting(two_threads):
    with blas_threads_for(10):
        assert set(counts()) == {1}
        with blas_threads_for(10), blas_threads_for(5000):
            assert set(counts()) == {1}
        assert set(counts()) == {1}
    assert counts() == two_threads
    with blas_threads_for(5000):
        assert counts() == two_threads


def test_exits_in_any_order(two_threads):
    contexts = [blas_threads_for(10) for _ in range(3)]
    for context in contexts:
        context.__enter__()
    # The first that came is the first to go.
    for context in contexts:
        assert set(counts()) == {1}
        context.__exit__(None, None, None)
    assert counts() == two_threads


@pytest.mark.parametrize("failing", [False, True])
def test_overlap_of_two_threads(two_threads, failing):
    both_in, first_out = Barrier(2), Barrier(2)
    seen = []

    def first():
        try:
            with blas_threads_for(10):
                both_in.wait()
                if failing:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            pass
        first_out.wait()

    def second():
        with blas_threads_for(10):
            both_in.wait()
            first_out.wait()
            seen.extend(counts())

    in_threads(first, second)
    assert set(seen) == {1}
    assert counts() == two_threads


def test_other_pools_are_left_alone():
    before = counts("openmp")
    with blas_threads_for(10):
        assert counts("openmp") == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("held", [False, True])
def test_forked_process_has_the_limits_of_its_thread(two_threads, held):
    inside, forked = Barrier(2), Barrier(2)

    def other():
        with blas_threads_for(10):
            inside.wait()
            forked.wait()

    def fork():
        inside.wait()
        with blas_threads_for(10 if held else 5000):
            child = os.fork()
            if child == 0:
                right = set(counts()) == {1} if held else counts() == two_threads
                os._exit(0 if right else 1)
            forked.wait()
            status.append(os.waitpid(child, 0)[1])

    status = []
    in_threads(other, fork)
    assert status == [0]


def data():
    X = np.random.default_rng(0).standard_normal((10, 2))
    return X, np.abs(X[:, 0])


def test_fits_in_two_threads(two_threads, monkeypatch):
    X, y = data()
    both_in, first_done, train = Barrier(2), Event(), two_layer.train

    def met(*args):
        both_in.wait()
        if get_ident() == idents["second"]:
            first_done.wait()
        return train(*args)

    def first():
        fit()
        first_done.set()

    def second():
        idents["second"] = get_ident()
        fit()

    def fit():
        ConvexReLURegressor(arrangements="sampled", random_state=0).fit(X, y)

    idents = {}
    monkeypatch.setattr(two_layer, "train", met)
    in_threads(first, second)
    assert counts() == two_threads


def test_cross_validation_in_threads():
    X, y = data()
    with parallel_config("threading"):
        ConvexReLURegressorCV(alphas=[0.5, 1.0], cv=2, n_jobs=2, random_state=0).fit(
            X, y
        )
