"""What a search allows for that it has not seen."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sklearn_convexnn.families.two_layer.family import TwoLayer
from sklearn_convexnn.families.two_layer.neurons import activation
from sklearn_convexnn.families.two_layer.pricing import (
    Candidates,
    first_of_each,
    merge_candidates,
    search_units,
    search_widely,
)
from sklearn_convexnn.families.unseen import (
    UNTOLD,
    Unseen,
    allow_for_hills,
    allow_for_unseen,
    missing_mass,
)
from sklearn_convexnn.losses import Separable, SquaredError
from sklearn_convexnn.model.problem import Problem
from sklearn_convexnn.model.settings import Limits
from sklearn_convexnn.training.column_generation import Run
from sklearn_convexnn.training.dual_points import BRIEF, CLAIM


def test_what_was_found_again_and_again_is_all():
    slopes, hits = np.linspace(1.0, 0.1, 30), np.full(30, 20)
    assert allow_for_unseen(1.0, slopes, hits, 600) == 1.0
    # Singles among the low ones say nothing of the steep.
    hits[-3:] = 1
    assert allow_for_unseen(1.0, slopes, hits, 600) == 1.0
    # One among the steep does.
    hits[1] = 1
    assert allow_for_unseen(1.0, slopes, hits, 600) > 1.0


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_for_an_estimate(count):
    slopes = np.linspace(1.0, 0.9, count)
    assert allow_for_unseen(1.2, slopes, np.ones(count), 10) >= 1.2


def test_equal_maxima_have_no_tail():
    assert allow_for_unseen(1.0, np.ones(50), np.ones(50), 1000) == 1.0


@pytest.mark.parametrize("tail", ["exponential", "uniform"])
def test_ten_times_as_many_climbs(tail):
    rng = np.random.RandomState(0)
    draw = {"exponential": rng.exponential, "uniform": rng.uniform}[tail]
    estimates = []
    for _ in range(50):
        slopes = 1.0 + 0.01 * draw(size=2000)
        found = slopes.max()
        estimates.append(allow_for_unseen(found, slopes, np.ones(2000), 2000))
        assert estimates[-1] >= found
    truth = np.array([np.max(1.0 + 0.01 * draw(size=20_000)) for _ in range(50)])
    assert np.mean(np.array(estimates) > truth) >= 0.9
    # Half way to an exponential tail, where the tail has an end.
    assert np.median(estimates) < 1.0 + 1.5 * (np.median(truth) - 1.0)


def test_far_above_the_others_it_changes_little():
    slopes = 1.0 + 0.01 * np.random.RandomState(0).uniform(size=500)
    allowed = allow_for_unseen(2.0, slopes, np.ones(500), 500)
    assert 2.0 <= allowed < 2.001


def test_tail_does_not_end_before_what_is_known():
    """Known neurons are often steeper than all that random starts find."""
    slopes = 1.0 + 0.01 * np.random.RandomState(0).uniform(size=500)
    for found in 1.01, 1.0105:
        assert allow_for_unseen(found, slopes, np.ones(500), 500) > found + 3e-4


def test_climbs_end_short_of_tops():
    """Where all has been found, hills may be a little higher than climbs say."""
    parts = np.eye(3), np.zeros(3), np.ones((3, 1)), np.array([1.0, 0.5, 0.4])
    found = Candidates(*parts, hits=np.full(3, 20), n_starts=60)
    assert found.allow_for_unseen(2.0, 0.0) == 2.0
    assert 1e-5 < found.allow_for_unseen(2.0, 1e-3) / 2.0 - 1.0 < 1e-4
    # No more for a large tolerance, which says little of a search.
    assert found.allow_for_unseen(2.0, 1e-1) == found.allow_for_unseen(2.0, 1.0)
    assert found.allow_for_unseen(2.0, 1.0) < 2.001


def test_few_climbs_do_not_allow_for_everything():
    slopes = np.random.RandomState(0).uniform(0.1, 1.0, size=60)
    assert allow_for_unseen(1.0, slopes, np.ones(60), 60) > 1.5
    parts = np.eye(60), np.zeros(60), np.ones((60, 1)), slopes
    found = Candidates(*parts, hits=np.ones(60), n_starts=60)
    assert_allclose(found.allow_for_unseen(1.0, 0.0), UNTOLD)


def test_units_do_not_matter():
    rng = np.random.RandomState(0)
    slopes, hits = 1.0 + 0.01 * rng.exponential(size=300), rng.randint(1, 4, size=300)
    one = allow_for_unseen(1.1, slopes, hits, 1000)
    assert_allclose(allow_for_unseen(1.1e9, 1e9 * slopes, hits, 1000), 1e9 * one)


def test_groups_of_parallel_rows():
    points = np.array([[1.0, 0], [0, 1.0], [1.0, 0], [1.0, 0], [0, 1.0]])
    kinds = np.array([0, 0, 0, 1, 0])
    keep, group = first_of_each(points, kinds, 1e-3)
    assert keep.tolist() == [0, 1, 3]
    assert group.tolist() == [0, 1, 0, 2, 1]


def search_problem():
    rng = np.random.RandomState(0)
    X, N = rng.standard_normal((60, 3)), rng.standard_normal((60, 1))
    return X, N - N.mean(axis=0)


def test_each_climb_is_counted_once():
    X, N = search_problem()
    starts = np.random.RandomState(1).standard_normal((200, 3))
    found = search_units(X, N, starts, free_bias=True)
    assert found.n_starts == 200
    # Without a slope that is wanted none is given up.
    assert np.sum(found.hits) == 200
    assert found.hits.max() > 5
    other = search_units(X, N, starts[:50], free_bias=True)
    both = merge_candidates([found, other, other.uncounted()], X)
    assert both.n_starts == 250 and np.sum(both.hits) == 250
    assert found.select(slice(0, 3)).n_starts == 200


def test_rare_maxima_are_allowed_for():
    """A short search allows for what a long one finds."""
    X, N = search_problem()
    X = np.column_stack([X, np.random.RandomState(2).standard_normal((60, 12))])
    geometry = {"free_bias": True, "negative_slope": 0.0}
    long = search_widely(X, N, 1500, np.random.RandomState(0), **geometry)
    z = activation(X @ long.directions[0] + long.biases[0], 0.0)
    assert_allclose(np.abs(z @ N[:, 0]), long.slopes[0])
    higher = 0
    for seed in range(1, 11):
        short = search_widely(X, N, 30, np.random.RandomState(seed), **geometry)
        allowed = short.allow_for_unseen(short.slopes[0], 0.0)
        higher += allowed >= long.slopes[0]
        assert allowed < 1.5 * long.slopes[0]
    assert higher >= 9


def test_few_climbs_allow_for_as_much_again():
    assert allow_for_hills(1.01, 1.1, 1.0) == pytest.approx(1.2)
    assert allow_for_hills(1.4, 1.1, 1.0) == 1.4
    assert allow_for_hills(1.01, 1.1, 1.0, n_starts=50) == pytest.approx(1.43)
    assert allow_for_hills(1.01, 1.1, 1.0, n_starts=0) == pytest.approx(1.65)
    assert allow_for_hills(1.01, 1.0, 1.0, n_starts=1500) == pytest.approx(1.01)
    assert allow_for_hills(1.01, 3.0, 1.0, n_starts=50) == pytest.approx(5.0)
    few_hills = missing_mass(np.array([10.0, 5.0, 0.0, 1.0, 1.0]))
    assert few_hills == pytest.approx(2 / 17)
    args = 1.01, 1.0, 1.0
    assert allow_for_hills(*args, few_hills, 50) == pytest.approx(1.0 + 0.3 * few_hills)
    assert missing_mass(np.zeros(3)) == 1.0


def test_missing_hills_are_as_much_steeper_again():
    # In full for a search that was cut short, in part for one that was not.
    assert allow_for_hills(1.01, 1.1, 1.0, 0.03) == pytest.approx(1.13)
    assert allow_for_hills(1.01, 1.1, 1.0, 0.3) == pytest.approx(1.2)
    assert allow_for_hills(1.01, 1.1, 1.0, 0.03, 6000) == pytest.approx(1.2)
    assert allow_for_hills(1.01, 1.1, 1.0, 0.0) == 1.1
    assert allow_for_hills(1.01, 1.0, 1.0, 0.9) == 1.01
    # What is found later counts as what was found then.
    unseen = Unseen(1.0, 1.01, 0.03, np.inf)
    assert unseen.allow(1.1) == pytest.approx(1.13)
    assert unseen.allow(1.001) == pytest.approx(1.01101)
    assert Unseen(1.0, 1.01, 0.0).allow(np.inf) == np.inf


def closed_run(monkeypatch, missing, **options):
    """A run whose gap is closed, if few hills are missing, and its searches."""
    X, _ = search_problem()
    y = np.maximum(X @ np.array([1.0, -1.0, 0.5]), 0.0)[:, None]
    family = TwoLayer(X, True)
    p = Problem(family, y, np.ones(60), Separable(SquaredError()), 1.0)
    run = Run(p, np.random.RandomState(0), Limits(0.05, 10, **options))
    run.pool = run.best = p.with_best_offset(family.place(p, 30, run.rng))
    run.objective = p.objective(run.best)
    nu, efforts = run.dual_of_best(), []
    search = Run.search

    def told(self, N, effort, **how):
        efforts.append(effort)
        found = search(self, N, effort, **how)
        hits = np.where(np.arange(len(found)) < missing * len(found), 1.0, 50.0)
        return replace(found, hits=hits, slopes=np.maximum(found.slopes, 1.0001))

    monkeypatch.setattr(Run, "search", told)
    run.price(nu)
    efforts.clear()
    return run, efforts


@pytest.mark.parametrize(
    "missing, brief, searches",
    [(0.0, False, [BRIEF]), (1.0, False, [BRIEF, CLAIM]), (1.0, True, [BRIEF])],
)
def test_missing_hills_need_a_longer_search(monkeypatch, missing, brief, searches):
    run, efforts = closed_run(monkeypatch, missing, brief=brief)
    assert run.closed and run.confirm()
    assert efforts == searches
