"""L-BFGS that can be interrupted."""

import numpy as np
import pytest
from scipy.optimize import minimize, rosen, rosen_der

from sklearn_convexnn._utils.deadlines import OutOfTime
from sklearn_convexnn.solvers.lbfgs import LBFGS


def rosenbrock(x):
    return rosen(x), rosen_der(x)


def quadratic(n, seed=0):
    """A function with known second derivatives, and where it is least."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, n))
    A, x = A @ A.T + np.eye(n), rng.standard_normal(n)
    return (lambda z: (0.5 * (z - x) @ A @ (z - x), A @ (z - x))), A, x


def test_direction_is_that_of_the_recursion():
    """Against the two loops of the textbook, also when old pairs have gone."""
    function, _, _ = quadratic(8)
    lbfgs = LBFGS(function, np.ones(8), memory=3)
    pairs, last = [], None
    for _ in range(7):
        lbfgs.run(1)
        if last is not None:
            pairs.append((lbfgs.x - last[0], lbfgs.gradient - last[1]))
        last = lbfgs.x.copy(), lbfgs.gradient.copy()
        q, weights = lbfgs.gradient.copy(), []
        if not pairs:
            continue
        # The first step is the one before `last`.
        kept = pairs[-3:]
        if len(pairs) < 3:
            continue
        for s, y in reversed(kept):
            weights.append(s @ q / (s @ y))
            q -= weights[-1] * y
        s, y = kept[-1]
        q *= s @ y / (y @ y)
        for (s, y), weight in zip(kept, reversed(weights)):
            q += (weight - y @ q / (s @ y)) * s
        assert lbfgs._direction() == pytest.approx(-q, rel=1e-8)


@pytest.mark.parametrize("memory", [1, 5, 20])
def test_smooth_functions(memory):
    function, _, x = quadratic(12)
    assert LBFGS(function, np.zeros(12), memory).run(500) == pytest.approx(x, abs=1e-6)
    found = LBFGS(rosenbrock, np.full(6, -1.0), memory).run(500)
    theirs = minimize(rosenbrock, np.full(6, -1.0), jac=True, method="L-BFGS-B")
    assert rosen(found) <= theirs.fun + 1e-8


def test_kinks():
    def absolute(x):
        weights = np.arange(1.0, 6.0)
        return weights @ np.abs(x), weights * np.sign(x)

    lbfgs = LBFGS(absolute, np.linspace(-1.0, 2.0, 5))
    lbfgs.run(200)
    assert lbfgs.value < 1e-3


def test_goes_on_as_if_never_interrupted():
    whole, parts = (LBFGS(rosenbrock, np.full(6, -1.0)) for _ in range(2))
    whole.run(40)
    for steps in (1, 9, 30):
        parts.run(steps)
    assert np.array_equal(whole.x, parts.x)

    calls = []

    def hurried(x):
        calls.append(x)
        if len(calls) in (1, 20):
            raise OutOfTime
        return rosenbrock(x)

    third = LBFGS(hurried, np.full(6, -1.0))
    assert np.array_equal(third.run(40), np.full(6, -1.0))
    third.run(40)
    third.run(40)
    assert third.value <= whole.value


def test_memory_is_not_read_before_it_is_written(monkeypatch):
    """What was in the memory before must not be seen."""
    empty = np.empty
    monkeypatch.setattr(
        np, "empty", lambda *a, **k: np.full_like(empty(*a, **k), np.nan)
    )
    lbfgs = LBFGS(rosenbrock, np.full(6, -1.0))
    lbfgs.run(200)
    assert lbfgs.value < 1e-8


@pytest.mark.parametrize("size", [1e-160, 1e-200, 1e-300])
def test_tiny_values(size):
    """Squares of differences of gradients are zero, or almost."""
    lbfgs = LBFGS(lambda x: (0.5 * size * (x @ x), size * x), np.arange(4.0))
    with np.errstate(divide="raise", invalid="raise", over="raise"):
        lbfgs.run(50)
    assert lbfgs.value <= 0.5 * size * 14.0


def test_ends():
    function, _, x = quadratic(5)
    ends = LBFGS(function, x)
    assert np.array_equal(ends.run(10), x)
    steps = []
    slow = LBFGS(function, np.zeros(5))
    slow.run(100, rtol=0.5, callback=lambda lbfgs: steps.append(lbfgs.value))
    assert 1 <= len(steps) < 10
    assert np.all(np.diff(steps) < 0)

    def broken(x):
        return (np.nan, np.full(5, np.nan)) if np.any(x) else function(x)

    assert np.array_equal(LBFGS(broken, np.zeros(5)).run(10), np.zeros(5))
