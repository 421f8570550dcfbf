"""The smoothed slopes that pricing climbs on, and their derivatives."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sklearn_convexnn.families.two_layer import climbing
from sklearn_convexnn.families.two_layer.climbing import Hill
from sklearn_convexnn.families.two_layer.pricing import merge_candidates, search_units
from sklearn_convexnn.families.two_layer.starts import (
    FAR,
    HALFWAY,
    NEAR,
    WIDE,
    Plan,
    Starts,
    wide_starts,
)
from tests.problems import product_of_signs


def smoothed(z, width, slope):
    """The activation with a kink of a given width."""
    share = np.clip(z / width + 0.5, 0.0, 1.0)
    smooth = share * z + 0.5 * width * share * (1.0 - share)
    return (1.0 - slope) * smooth + slope * z


@pytest.mark.parametrize("few", [0, 1000])
@pytest.mark.parametrize("slope", [0.0, 0.2, -0.5])
@pytest.mark.parametrize("n_outputs, hooked", [(1, False), (1, True), (3, True)])
def test_values_and_gradients(few, slope, n_outputs, hooked, monkeypatch):
    monkeypatch.setattr(climbing, "_FEW", few)
    rng = np.random.default_rng(0)
    X, N = rng.standard_normal((30, 4)), rng.standard_normal((30, n_outputs))
    N -= N.mean(axis=0) * hooked
    U, widths = rng.standard_normal((6, 4)), rng.uniform(0.1, 1.0, 6)
    at = rng.integers(30, size=6) if hooked else None
    hill = Hill(X, N, slope)

    def norms(U):
        z = U @ X.T
        if hooked:
            z -= np.einsum("kd,kd->k", X[at], U)[:, None]
        return np.linalg.norm(smoothed(z, widths[:, None], slope) @ N, axis=1)

    value, gradient = hill.evaluate(U, hill.kinks(widths, at))
    assert_allclose(value, norms(U), rtol=1e-10)
    step = 1e-6 * np.eye(4)
    changes = [(norms(U + e) - norms(U - e)) / 2e-6 for e in step]
    assert_allclose(gradient, np.transpose(changes), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scaled", [False, True])
def test_climbs_end_on_summits(scaled):
    rng = np.random.default_rng(0)
    X, N = rng.standard_normal((80, 6)), rng.standard_normal((80, 2))
    U = rng.standard_normal((20, 6))
    U /= np.linalg.norm(U, axis=1)[:, None]
    hill = Hill(X, N, 0.0)
    kinks = hill.kinks(np.full(20, 2.0))
    if scaled:
        hill.spread = np.geomspace(0.5, 2.0, 6)
    before = hill.evaluate(U, kinks)[0]
    U, value, hope, step = hill.climb(U, np.full(20, 0.5), 200, kinks)
    assert_allclose(np.linalg.norm(U, axis=1), 1.0)
    assert np.all(value >= before)
    found, gradient = hill.evaluate(U, kinks)
    assert_allclose(found, value)
    assert_allclose(np.einsum("kd,kd->k", gradient, U), hope)
    along = gradient - hope[:, None] * U
    assert np.all(np.linalg.norm(along, axis=1) < 1e-2 * value)
    assert np.all(step <= 4.0)


@pytest.mark.parametrize("apart", [False, True])
def test_climbs_of_several_plans_are_those_of_each(apart):
    """Climbers are independent of others in their batch."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 4)) * [1.0, 2.0, 3.0, 50.0]
    N = rng.standard_normal((60, 2))
    N -= N.mean(axis=0)
    plans = [Plan(FAR), Plan(HALFWAY, rescale=True), Plan(NEAR)]
    directions = rng.standard_normal((40, 4))
    plan = np.arange(40) % 3
    counted = np.arange(40) % 5 > 0
    options = {"free_bias": True, "apart": apart, "polish": 0}

    def of(own, *how):
        starts = Starts(directions[own], *how, counted=counted[own])
        return search_units(X, N, starts, **options)

    together = of(slice(None), plans, plan)
    parts = [of(plan == i, [plans[i]]) for i in range(3)]
    alone = merge_candidates(parts, X, apart)
    assert together.n_starts == alone.n_starts == np.sum(counted)
    assert_allclose(together.slopes, alone.slopes, rtol=1e-5)
    assert_allclose(np.sum(together.hits), np.sum(alone.hits))


def test_joined_starts_keep_their_plans():
    plans = [Plan(FAR), Plan(NEAR)]
    parts = [
        Starts(np.full((3, 2), 1.0), plans, np.array([0, 1, 0])),
        Starts(np.full((2, 2), 2.0), [Plan(HALFWAY)], counted=np.zeros(2, dtype=bool)),
    ]
    joined = Starts.joined(parts).in_turn()
    assert len(joined) == 5
    for directions, plan, counted in zip(
        joined.directions, joined.plan, joined.counted
    ):
        others = [Plan(HALFWAY)] if directions[0] == 2.0 else plans
        assert joined.plans[plan] in others
        assert counted == (directions[0] == 1.0)
    # All plans take turns.
    assert len(set(joined.plan[:3])) == 3


@pytest.mark.parametrize("plans, finds", [(WIDE, True), (WIDE[:2], False)])
def test_hills_behind_that_of_linear_neurons(plans, finds):
    X, y = product_of_signs(1000, 20)
    N, rng = (y - y.mean())[:, None], np.random.RandomState(1)
    starts = wide_starts(X, N, 100, rng, free_bias=True, plans=plans)
    found = search_units(X, N, starts, free_bias=True)
    z = 0.5 * X[:, :4].sum(axis=1)
    steep = max(abs(np.maximum(z + b, 0.0) @ N[:, 0]) for b in (-1.0, 0.0, 1.0))
    assert (found.slopes[0] > 0.99 * steep) == finds
