"""Cells of convolutional filters: enumeration, search in them, and the estimators."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_convexnn import ConvexCNNClassifier, ConvexCNNRegressor
from sklearn_convexnn._utils.deadlines import OutOfTime
from sklearn_convexnn.families.convolution.cells import Cells, all_cells, random_cells
from sklearn_convexnn.families.convolution.family import Convolution
from sklearn_convexnn.families.convolution.layout import Layout

HEADS = {
    "mean of all": {"pooling": "average", "pool_size": "global"},
    "max of all": {"pooling": "max", "pool_size": "global"},
    "means": {"pooling": "average"},
    "maxima": {"pooling": "max"},
    "all positions": {"pooling": None},
}


def series(n=6, length=4, seed=0, n_outputs=1):
    rng = np.random.default_rng(seed)
    Y = rng.standard_normal((n, n_outputs))
    return rng.standard_normal((n, length)), Y[:, 0] if n_outputs == 1 else Y


def filters(window, largest, bias, n=6, length=4, seed=0):
    X, _ = series(n, length, seed)
    layout = Layout((length,), 1, (2,), (1,), (0,), (0,), (window,), largest)
    return Convolution(X, bias, layout=layout, centre=np.array([0.1, -0.2]) * bias)


def in_cells(family, cells):
    return replace(family, cells=cells)


KINDS = [
    (window, largest, bias)
    for window, largest in ((3, False), (3, True), (1, False), (2, True))
    for bias in (False, True)
]


def draws(family, size):
    """Random filters, with any biases, and their features."""
    rng = np.random.default_rng(1)
    U = rng.standard_normal((size, 2))
    U /= np.linalg.norm(U, axis=1)[:, None]
    b = rng.normal(0.0, 1.5, size) * family.fit_intercept
    z = family.patches(slice(None)) @ U.T + b
    pooled = np.maximum(z, 0.0)
    pooled = pooled.max(axis=2) if family.layout.largest else pooled.mean(axis=2)
    return U, b, z, pooled


@pytest.mark.parametrize("window, largest, bias", KINDS)
def test_every_filter_is_in_one_cell_where_it_is_linear(window, largest, bias):
    family = filters(window, largest, bias)
    cells = all_cells(family)
    assert cells.complete
    U, b, z, pooled = draws(family, 5000)
    counts = z > 0
    if largest:
        winners = np.argmax(z, axis=2)[:, :, None] == np.arange(window)[:, None]
        counts &= winners
    known = {one.tobytes() for one in np.packbits(cells.counts, axis=-1)}
    N = np.random.default_rng(2).standard_normal((6, 2))
    slopes = np.einsum("qim,ic->mqc", pooled, N).reshape(len(U), -1)
    seen = set()
    for k in range(len(U)):
        mine = counts[..., k]
        everywhere = bias and not largest and mine.all()
        if not mine.any() or everywhere:
            continue
        # One cell has it, whose map gives its slopes, and whose cone contains it.
        assert np.packbits(mine, axis=-1).tobytes() in known
        at = int(np.flatnonzero(np.all(cells.counts == mine, axis=(1, 2, 3)))[0])
        u = np.append(U[k], b[k]) if bias else U[k]
        assert_allclose(u @ cells.slopes(at, N), slopes[k], atol=1e-12)
        assert (cells.cone(at) @ u).min() >= -1e-12
        seen.add(at)
    # So many see most of the cells.
    assert len(seen) >= 0.55 * len(cells)


@pytest.mark.parametrize("n_outputs", [1, 2])
@pytest.mark.parametrize("window, largest, bias", KINDS)
def test_no_filter_is_steeper_than_is_proven(window, largest, bias, n_outputs):
    family = filters(window, largest, bias)
    family = in_cells(family, all_cells(family))
    N = np.random.default_rng(3).standard_normal((6, n_outputs))
    N -= N.mean(axis=0) * bias
    pooled = draws(family, 100_000)[-1]
    drawn = np.linalg.norm(np.einsum("qim,ic->mqc", pooled, N), axis=(1, 2)).max()
    found = family.search(N, 1, None)
    assert_allclose(found.slopes, family.slopes(found.units, N))
    proven, linear = family.proven_slope(N), family.linear(N, np.inf)[0] * bias
    steepest = max(found.slopes[0], linear)
    assert drawn <= steepest * (1 + 1e-9)
    assert drawn >= 0.98 * steepest
    assert steepest <= proven * (1 + 1e-9)
    if n_outputs * family.n_windows == 1:
        assert_allclose(steepest, proven, rtol=1e-6)


@pytest.mark.parametrize("largest", [False, True])
def test_random_cells(largest):
    family = filters(3, largest, True)
    cells, every = random_cells(family, 15, 0), all_cells(family)
    assert not cells.complete
    assert 5 <= len(cells) <= 15
    known = {one.tobytes() for one in np.packbits(every.counts, axis=-1)}
    some = [one.tobytes() for one in np.packbits(cells.counts, axis=-1)]
    assert known.issuperset(some)
    assert len(set(some)) == len(some)
    # Filters that are known bring their cells.
    others = random_cells(family, 15, 1)
    units = in_cells(family, cells).search(np.ones((6, 1)), 1, None).units
    units = units.select(slice(0, 1))
    units.directions[:] = units.directions + 1e-3
    more = random_cells(family, 15, 1, units)
    assert len(others) <= len(more) <= len(others) + 1


CASES = [(head, bias, 1) for head in HEADS for bias in (False, True)]
CASES += [("mean of all", False, 2), ("maxima", True, 2)]


@pytest.mark.parametrize("head, bias, n_outputs", CASES)
def test_all_cells_give_what_the_search_finds(head, bias, n_outputs):
    X, y = series(seed=1, n_outputs=n_outputs)
    params = {"kernel_size": 2, "fit_intercept": bias, "tol": 1e-6, "random_state": 0}
    model = ConvexCNNRegressor(0.1, arrangements="exact", **HEADS[head], **params)
    model.fit(X, y)
    assert model.dual_gap_ <= 1e-6 * model.objective_
    one = n_outputs * np.prod(model.map_shape_) == 1
    assert model.certificate_ == "global" or not one
    assert model.n_arrangements_ > 10
    params["tol"] = 1e-4
    other = ConvexCNNRegressor(0.1, **HEADS[head], **params).fit(X, y)
    assert other.certificate_ == "estimated"
    assert_allclose(other.objective_, model.objective_, rtol=1e-4)
    assert other.objective_ >= model.dual_bound_ * (1 - 1e-9)
    assert other.dual_bound_ <= model.objective_ * (1 + 1e-9)


@pytest.mark.parametrize("head", HEADS)
def test_sampled_cells(head):
    X, y = series(12, 6, seed=1)
    params = {"kernel_size": 2, "random_state": 0, **HEADS[head]}
    few = ConvexCNNRegressor(0.1, arrangements="sampled", n_arrangements=15, **params)
    few.fit(X, y)
    assert few.certificate_ == "restricted"
    assert 5 <= few.n_arrangements_ <= 15
    assert few.dual_gap_ <= 1e-2 * few.objective_
    many = ConvexCNNRegressor(0.1, arrangements="sampled", n_arrangements=300, **params)
    many.fit(X, y)
    best = ConvexCNNRegressor(0.1, **params).fit(X, y)
    assert best.dual_bound_ <= many.objective_ <= few.objective_ * (1 + 1e-2)
    assert many.objective_ <= 1.1 * best.objective_
    # The cells of the network are still there when others are drawn.
    few.set_params(warm_start=True, random_state=5)
    before = few.objective_
    assert few.fit(X, y).objective_ <= before * (1 + 1e-2)


def test_filters_stay_in_sampled_cells():
    X, y = series(12, 6, seed=1)
    params = {"kernel_size": 2, "fit_intercept": False, "random_state": 0}
    model = ConvexCNNRegressor(
        0.1, arrangements="sampled", n_arrangements=10, **HEADS["mean of all"], **params
    ).fit(X, y)
    layout = Layout((6,), 1, (2,), (1,), (0,), (0,), (5,), False)
    family = Convolution(X, False, layout=layout, centre=np.zeros(2))
    seed = np.random.RandomState(0).randint(np.iinfo(np.int32).max)
    # Patterns do not depend on units of the data.
    cells = random_cells(family, 10, seed)
    rows = layout.patches(X)
    for u in (model.coefs_[0] / np.linalg.norm(model.coefs_[0], axis=0)).T:
        inside = [(cells.cone(k) @ u).min() for k in range(len(cells))]
        assert max(inside) >= -1e-7 * np.abs(rows).max()


def test_losses_and_classes():
    X, y = series(8, 4, seed=2)
    params = {"kernel_size": 2, "arrangements": "exact", "random_state": 0}
    for loss in ("huber", "quantile"):
        model = ConvexCNNRegressor(0.2, loss=loss, **HEADS["max of all"], **params)
        assert model.fit(X, y).certificate_ == "global"
        assert model.dual_gap_ <= 1e-2 * model.objective_
    labels = np.digitize(y, [-0.5, 0.5])
    model = ConvexCNNClassifier(0.2, **HEADS["mean of all"], **params).fit(X, labels)
    assert model.dual_gap_ <= 1e-2 * model.objective_


def test_too_many_cells():
    X, y = series(60, 12)
    with pytest.raises(ValueError, match=r"would enumerate \d+ activation patterns"):
        ConvexCNNRegressor(arrangements="exact").fit(X, y)


def test_cells_do_not_depend_on_the_seed():
    X, y = series(seed=3)
    params = {"kernel_size": 2, "arrangements": "exact", "tol": 1e-5}
    models = [
        ConvexCNNRegressor(0.1, random_state=seed, **params).fit(X, y)
        for seed in (0, 1)
    ]
    assert_allclose(models[0].objective_, models[1].objective_, rtol=1e-5)
    assert_array_equal(models[0].n_arrangements_, models[1].n_arrangements_)


def test_a_limit_of_time_leaves_a_network(monkeypatch):
    X, y = series(8, 4, seed=2)
    params = {"kernel_size": 2, "random_state": 0, **HEADS["mean of all"]}
    model = ConvexCNNRegressor(0.1, arrangements="sampled", **params)
    whole = model.fit(X, y).objective_

    def late(self, N):
        raise OutOfTime

    monkeypatch.setattr(Cells, "proven_slope", late)
    assert model.fit(X, y).objective_ == whole
    assert model.certificate_ == "restricted"
