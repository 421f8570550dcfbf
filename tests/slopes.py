"""Dual points of one output, and their largest slopes."""

import numpy as np

from sklearn_convexnn.families.two_layer.branch_and_bound import maximise_slope
from sklearn_convexnn.families.two_layer.neurons import activation
from sklearn_convexnn.patterns.arrangements import enumerate_arrangement
from sklearn_convexnn.training.bounds import cone_slopes

# `cone_slopes` honours a free offset by a large weight, and is high by this.
EXACT = 1e-7

DEGENERATE = {
    "duplicate rows": [[1, 2, 0], [1, 2, 0], [0, 1, 1], [3, 0, 1], [0, 1, 1]],
    "zero rows": [[0, 0, 0], [1, 0, 2], [0, 0, 0], [0, 1, 1], [2, 1, 0]],
    "antiparallel": [[1, 2, 3], [-1, -2, -3], [-2, -4, -6], [0, 1, 0], [1, 0, 1]],
    "rank one": [[1, 2, 3], [-1, -2, -3], [3, 6, 9], [2, 4, 6], [0.5, 1, 1.5]],
    "rank two": [[1, 0, 1], [0, 1, 1], [1, 1, 2], [1, -1, 0], [2, 1, 3]],
    "all equal": [[1, 2, 3]] * 5,
    "all zero": [[0, 0, 0]] * 5,
    "one sample": [[1.0, 2.0, 2.0]],
    "large": [[1e8, 0, 1], [0, 1e8, 2], [3, 1, 1e8], [1e8, 1e8, 0], [5, 5e8, 1]],
}


def random_column(seed, *, binary=False):
    rng = np.random.default_rng(seed)
    n, d, bias = rng.integers(1, 11), rng.integers(1, 4), bool(rng.integers(2))
    slope = float(rng.choice([0.0, 0.3, -0.5, -1.0, 0.9]))
    X = rng.integers(0, 2, (n, d)) * 1.0 if binary else rng.standard_normal((n, d))
    nu = rng.standard_normal(n)
    if bias:
        nu -= nu.mean()
    return X, nu, {"free_bias": bias, "negative_slope": slope}


def exact_slope(X, nu, **geometry):
    arrangement = enumerate_arrangement(X, free_bias=geometry["free_bias"])
    return cone_slopes(X, nu, arrangement, **geometry).max()


def residual_problem(n, r, seed=0, bias=False):
    """Multipliers on which many different neurons are nearly as good."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, r))
    nu = np.sin(2 * X[:, 0]) + X[:, -1] ** 2
    nu -= nu.mean()
    for _ in range(300):
        found = maximise_slope(X, nu, free_bias=bias, max_nodes=0)
        feature = activation(X @ found.direction + found.bias)
        if bias:
            feature -= feature.mean()
        nu -= 0.05 * feature * (feature @ nu) / (feature @ feature)
    return X, nu
