"""Fits in which a factorisation fails: the best network so far, and honest words."""

import sys
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
from numpy.linalg import LinAlgError
from sklearn.exceptions import ConvergenceWarning

from sklearn_convexnn import ConvexReLUClassifier, ConvexReLURegressor
from sklearn_convexnn.vector import large, mini_batches

NUMPY = (
    "cholesky",
    "det",
    "eigh",
    "eigvalsh",
    "inv",
    "lstsq",
    "matrix_rank",
    "pinv",
    "qr",
    "solve",
    "svd",
)
SCIPY = ("svd", "qr", "cho_factor", "cho_solve", "nnls", "brentq")
LAPACK = ("dpotrf", "dpotrs", "dgbtrf", "dgbtrs")
FAULTS = [*(f"numpy {name}" for name in NUMPY), *SCIPY, *LAPACK]


@contextmanager
def failing(faults, first):
    """Let the functions fail from the call number `first` on; counts their calls."""
    count = []

    def broken(function, error, is_lapack):
        def call(*args, **options):
            count.append(name)
            if len(count) < first:
                return function(*args, **options)
            if is_lapack:
                *values, _ = function(*args, **options)
                return *(np.full_like(value, np.nan) for value in values), 1
            raise error("failing on purpose")

        return call

    with pytest.MonkeyPatch.context() as patch:
        for fault in faults:
            name = fault.split()[-1]
            if fault.startswith("numpy"):
                function = broken(getattr(np.linalg, name), LinAlgError, False)
                patch.setattr(np.linalg, name, function)
                continue
            error = RuntimeError if name in ("nnls", "brentq") else LinAlgError
            for key, module in list(sys.modules.items()):
                if key.startswith("sklearn_convexnn.") and name in vars(module):
                    real = getattr(module, name)
                    patch.setattr(module, name, broken(real, error, name in LAPACK))
        yield count


def data(n, d, kind="regression"):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d))
    f = np.maximum(X[:, 0], 0) - np.abs(X[:, -1])
    if kind == "outputs":
        return X, np.column_stack([f, f**2, X[:, 0]])
    if kind == "classes":
        return X, np.digitize(f, np.quantile(f, [0.3, 0.6]))
    if kind == "labels":
        return X, f > np.median(f)
    return X, f + 0.1 * rng.standard_normal(n)


def route(*args, classifier=False, alpha=0.3, **params):
    model = ConvexReLUClassifier if classifier else ConvexReLURegressor
    return model(alpha=alpha, random_state=0, max_iter=20, **params), args


ROUTES = {
    "adaptive": route(40, 3),
    "adaptive hinge": route(40, 3, "labels", classifier=True, loss="hinge"),
    "adaptive without biases": route(30, 3, fit_intercept=False),
    "outputs": route(40, 3, "outputs"),
    "separate": route(30, 3, "outputs", hidden_layer="separate"),
    "softmax": route(40, 3, "classes", classifier=True),
    "at scale": route(120, 3),
    "at scale softmax": route(120, 3, "classes", classifier=True),
    "exact": route(15, 2, arrangements="exact"),
    "exact outputs": route(15, 2, "outputs", arrangements="exact"),
    "sampled outputs": route(30, 3, "outputs", arrangements="sampled"),
    "line": route(30, 1),
    "line without biases": route(30, 1, fit_intercept=False),
    "minimal": route(30, 2, minimal=True),
    "minimal outputs": route(30, 2, "outputs", minimal=True),
    **{
        f"sampled {solver}": route(30, 3, arrangements="sampled", solver=solver)
        for solver in (
            "interior_point",
            "direction_generation",
            "augmented_lagrangian",
            "penalised",
        )
    },
    **{
        f"{cuts} {pricing}": route(25, 2, arrangements=cuts, pricing=pricing)
        for cuts in ("cutting_planes", "cutting_cells")
        for pricing in ("exact", "search", "nonnegative")
    },
    **{
        f"gated {kind}": route(
            30,
            3,
            kind,
            classifier=kind == "classes",
            formulation="gated_relu",
            arrangements="sampled",
        )
        for kind in ("regression", "outputs", "classes")
    },
}


def check_fit(name, faults, first, monkeypatch):
    """What every fit promises, whatever breaks down in it; calls of the functions."""
    model, args = ROUTES[name]
    X, y = data(*args)
    if name.startswith("at scale"):
        for module in (large, mini_batches):
            monkeypatch.setattr(module, "BATCH", 16)
        monkeypatch.setattr(large, "_MANY", 100)
    with (
        failing(faults, first) as count,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        model.fit(X, y)
    assert all(np.all(np.isfinite(part)) for part in model.coefs_ + model.intercepts_)
    assert np.isfinite([model.objective_, model.dual_bound_]).all()
    assert model.dual_bound_ <= model.objective_ * (1 + 1e-9)
    assert {issue.category for issue in caught} <= {ConvergenceWarning, UserWarning}
    if model.dual_gap_ > 1.001 * model.tol * model.objective_:
        texts = [str(issue.message) for issue in caught]
        assert any("duality gap" in text for text in texts)
        assert not any("within the tolerance" in text for text in texts)
    return len(count)


@pytest.mark.parametrize("first", [1, 3, 10, 40])
@pytest.mark.parametrize("name", ROUTES)
def test_everything_fails(name, first, monkeypatch):
    check_fit(name, FAULTS, first, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ROUTES)
def test_one_function_fails(name, fault, monkeypatch):
    for first in (1, 3, 10):
        if check_fit(name, [fault], first, monkeypatch) < first:
            break
