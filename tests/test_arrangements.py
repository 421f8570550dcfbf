import numpy as np
import pytest
from numpy.testing import assert_array_equal

from sklearn_convexnn.patterns.arrangements import (
    can_enumerate,
    count_patterns,
    enumerate_arrangement,
    network_arrangement,
    sample_arrangement,
    union,
    with_ones,
)


def as_set(patterns):
    return {row.tobytes() for row in patterns}


def check_consistent(X, arrangement, free_bias=False):
    """Every gate lies inside the cell of its pattern."""
    margins = with_ones(X, free_bias) @ arrangement.gates.T
    nonzero = np.any(with_ones(X, free_bias) != 0, axis=1)
    assert_array_equal((margins > 0).T[:, nonzero], arrangement.patterns[:, nonzero])
    assert np.all(np.abs(margins[nonzero]) > 0)
    assert len(as_set(arrangement.patterns)) == len(arrangement)


@pytest.mark.parametrize(
    "n, d, count", [(6, 1, 2), (8, 2, 16), (9, 3, 74), (8, 4, 128), (10, 8, 1004)]
)
def test_counts_in_general_position(n, d, count):
    X = np.random.default_rng(n).standard_normal((n, d))
    arrangement = enumerate_arrangement(X)
    assert len(arrangement) == count == count_patterns(X)
    assert arrangement.complete
    check_consistent(X, arrangement)


@pytest.mark.parametrize("n, d, bias", [(12, 2, True), (10, 3, False), (9, 3, True)])
def test_no_random_gate_finds_another_pattern(n, d, bias):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d))
    known = as_set(enumerate_arrangement(X, free_bias=bias).patterns)
    gates = rng.standard_normal((d + bias, 20_000))
    found = as_set((with_ones(X, bias) @ gates > 0).T)
    assert found <= known
    assert len(found) > 0.8 * len(known)


@pytest.mark.parametrize(
    "dimension, free_bias, count", [(3, True, 104), (4, False, 104), (4, True, 1882)]
)
def test_hypercubes_have_the_known_numbers_of_threshold_functions(
    dimension, free_bias, count
):
    # Degenerate data: the number of linear threshold functions of boolean
    # variables is known (Muroga 1971); central ones have a variable less.
    grid = np.stack(np.meshgrid(*[[-1.0, 1.0]] * dimension), -1).reshape(-1, dimension)
    arrangement = enumerate_arrangement(grid, free_bias=free_bias)
    assert len(arrangement) == count
    assert count_patterns(grid, free_bias=free_bias) >= count
    check_consistent(grid, arrangement, free_bias)


def test_low_rank():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((7, 2)) @ rng.standard_normal((2, 4))
    arrangement = enumerate_arrangement(X)
    assert len(arrangement) == 14
    check_consistent(X, arrangement)


def test_parallel_antiparallel_duplicate_and_zero_rows_add_nothing():
    X = np.random.default_rng(0).standard_normal((6, 2))
    more = np.concatenate([X, X[:2], 3 * X[1:3], -0.5 * X[2:4], np.zeros((1, 2))])
    arrangement = enumerate_arrangement(more)
    assert len(arrangement) == len(enumerate_arrangement(X)) == 12
    assert count_patterns(more) == 12
    check_consistent(more, arrangement)
    assert not arrangement.patterns[:, -1].any()


def test_one_dimensional_data_with_bias():
    x = np.random.default_rng(0).standard_normal((9, 1))
    arrangement = enumerate_arrangement(x, free_bias=True)
    order = np.argsort(x[:, 0])
    steps = {(np.arange(9) >= k).tobytes() for k in range(10)}
    steps |= {(np.arange(9) < k).tobytes() for k in range(10)}
    assert as_set(arrangement.patterns[:, order]) == steps
    assert len(arrangement) == 18


def test_all_zero_data():
    arrangement = enumerate_arrangement(np.zeros((3, 2)))
    assert arrangement.complete and len(arrangement) == 1


def test_enumeration_order_depends_on_rows_alone():
    X = np.random.default_rng(0).standard_normal((8, 3))
    first, again = enumerate_arrangement(X), enumerate_arrangement(X.copy())
    assert_array_equal(first.patterns, again.patterns)
    shuffled = np.random.default_rng(1).permutation(8)
    other = enumerate_arrangement(X[shuffled])
    assert as_set(other.patterns) == as_set(first.patterns[:, shuffled])


def test_enumeration_refuses_with_the_numbers():
    X = np.random.default_rng(0).standard_normal((60, 6))
    count = count_patterns(X)
    with pytest.raises(ValueError, match="rank 6") as error:
        enumerate_arrangement(X)
    for part in (str(count), "20000", "arrangements='sampled'"):
        assert part in str(error.value)
    # With many samples the patterns get long, so fewer are allowed.
    x = np.random.default_rng(0).standard_normal((3000, 1))
    assert count_patterns(x, free_bias=True) == 6000
    assert not can_enumerate(x, free_bias=True)
    with pytest.raises(ValueError, match="limit of 3333 for 3000 samples"):
        enumerate_arrangement(x, free_bias=True)
    assert can_enumerate(x[:1000], free_bias=True)
    with pytest.raises(ValueError, match="limit of 10 "):
        enumerate_arrangement(X[:8, :2], max_patterns=10)


@pytest.mark.parametrize("bias", [False, True])
def test_sampling(bias):
    X = np.random.default_rng(0).standard_normal((50, 5))
    arrangement = sample_arrangement(X, 30, free_bias=bias, random_state=0)
    assert len(arrangement) == 30 and not arrangement.complete
    check_consistent(X, arrangement, bias)
    again = sample_arrangement(X, 30, free_bias=bias, random_state=0)
    assert_array_equal(again.patterns, arrangement.patterns)
    other = sample_arrangement(X, 30, free_bias=bias, random_state=1)
    assert as_set(other.patterns) != as_set(arrangement.patterns)
    # More patterns are drawn after the first ones, which stay as they are.
    more = sample_arrangement(X, 60, free_bias=bias, random_state=0)
    assert_array_equal(more.patterns[:20], arrangement.patterns[:20])


@pytest.mark.parametrize("bias", [False, True])
def test_sampling_does_not_depend_on_row_order_or_column_scale(bias):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 4))
    reference = sample_arrangement(X, 20, free_bias=bias, random_state=0)
    order = rng.permutation(50)
    shuffled = sample_arrangement(X[order], 20, free_bias=bias, random_state=0)
    assert_array_equal(shuffled.patterns, reference.patterns[:, order])
    moved = X * [1e-3, 1.0, 10.0, 1e4] + (7.0 if bias else 0.0)
    scaled = sample_arrangement(moved, 20, free_bias=bias, random_state=0)
    assert_array_equal(scaled.patterns, reference.patterns)


def test_sampling_takes_all_patterns_when_there_are_few():
    X = np.random.default_rng(0).standard_normal((20, 2))
    arrangement = sample_arrangement(X, 100, random_state=0)
    assert arrangement.complete and len(arrangement) == 40


def test_sampling_says_when_it_finds_fewer():
    # Thin cells: two clusters of nearly equal rows leave few to be hit.
    rng = np.random.default_rng(0)
    X = np.repeat(rng.standard_normal((3, 3)), 10, axis=0)
    X += 1e-9 * rng.standard_normal(X.shape)
    arrangement = sample_arrangement(X, 50, random_state=0)
    assert 8 <= len(arrangement) < 50 and not arrangement.complete


def test_network_arrangement_has_a_cell_that_contains_each_neuron():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20, 3))
    inside = rng.standard_normal((4, 3))
    # Orthogonal to two rows each: on the border of four cells.
    on_border = np.array([np.cross(X[i], X[i + 1]) for i in range(4)])
    gates = np.concatenate([inside, on_border, np.zeros((1, 3))])
    arrangement = network_arrangement(X, gates)
    check_consistent(X, arrangement)
    assert len(arrangement) == 8
    signs = np.where(arrangement.patterns, 1.0, -1.0)
    for gate, sign in zip(gates[:8], signs):
        assert np.all(sign * (X @ gate) >= -1e-12)


def test_union():
    X = np.random.default_rng(0).standard_normal((30, 4))
    first = sample_arrangement(X, 10, random_state=0)
    second = sample_arrangement(X, 10, random_state=1)
    both = union(first, second, first)
    assert_array_equal(both.patterns[:10], first.patterns)
    assert as_set(both.patterns) == as_set(first.patterns) | as_set(second.patterns)
    check_consistent(X, both)
