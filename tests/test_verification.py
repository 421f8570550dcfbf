"""Dual points of certificates, the search against them, and files."""

import ast
import json
import pickle
import re
from dataclasses import fields, replace
from functools import cache
from inspect import getsource
from traceback import format_exception
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.neural_network import MLPClassifier

from sklearn_convexnn import (
    Certificate,
    ConvexReLUClassifier,
    ConvexReLURegressor,
    _verification,
    certify,
)
from sklearn_convexnn.losses import CLASSIFICATION_LOSSES, Separable, Softmax
from tests.problems import (
    EPSILON,
    LOSSES,
    QUANTILE,
    loss_of,
    product_of_signs,
    tiny_data,
)
from tests.slopes import exact_slope
from tests.test_certificates import (
    noisy_data,
    random_network,
    targets_of_three,
    wide_network,
)

ALPHA = 0.15
PARAMS = {"epsilon": EPSILON, "quantile": QUANTILE}
QUICK = {"n_starts": 12, "random_state": 0}


def act(z, slope=0.0):
    return np.where(z > 0, z, slope * z)


def columns(certificate):
    return certificate.dual.reshape(len(certificate.dual), -1)


def value_at(certificate, X, y, **changed):
    """The dual function of the package at the dual point, without its other parts."""
    claim, N = replace(certificate, **changed), columns(certificate)
    s = np.ones(len(N)) if claim.sample_weight is None else claim.sample_weight
    loss, Y = Separable(loss_of(claim.loss)), np.reshape(y, (len(y), -1))
    if claim.classes is not None:
        Y = np.where(np.equal(Y, claim.classes[-N.shape[1] :]), 1.0, -1.0)
        if claim.loss == "log_loss" and N.shape[1] > 1:
            loss, Y = Softmax(), np.maximum(Y, 0.0)
    used = s > 0
    N, Y, s = N[used], Y[used], s[used]
    lower, upper = loss.dual_bounds(Y, s)
    room = 1e-12 * s[:, None]
    assert np.all(np.clip(N, lower - room, upper + room) == N)
    return np.sum(loss.dual_terms(N, Y, s))


def check_claim(certificate, X, y, **options):
    """That the value is the bound, and that verification confirms it."""
    assert_allclose(value_at(certificate, X, y), certificate.dual_bound, rtol=1e-9)
    N = columns(certificate)
    if certificate.fit_intercept:
        assert np.abs(N.sum(axis=0)).max() <= 1e-13 * np.abs(N).sum()
    if certificate.sample_weight is not None:
        assert not N[certificate.sample_weight == 0].any()
    found = certificate.verify(X, y, **{**QUICK, **options})
    assert found.holds and found.unit is None
    assert found.claimed_bound == certificate.dual_bound
    assert found.kappa <= 1 + 1e-7
    assert found.dual_bound >= certificate.dual_bound * (1 - 1e-7)
    return found


def repeated_data(loss, n=8, d=2):
    """With repeated samples and some of weight zero, of any order."""
    X, y, s = tiny_data(loss, n=n, d=d, weighted=True)
    X, y = np.concatenate([X, X[:3], X[:2]]), np.concatenate([y, y[:3], 0 * y[:2] + 1])
    s = np.concatenate([s, [0.3, 0.0, 2.0], [0.0, 0.7]])
    order = np.random.default_rng(1).permutation(len(X))
    return X[order], y[order], s[order]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_dual_point_of_weighted_and_repeated_samples(loss, bias):
    X, y, s = repeated_data(loss)
    certificate = certify(
        random_network(2, bias=bias), X, y, alpha=ALPHA, loss=loss, sample_weight=s,
        fit_intercept=bias, random_state=0, **PARAMS,
    )  # fmt: skip
    assert certificate.dual.shape == (len(X),)
    assert certificate.kind == "global"
    found = check_claim(certificate, X, y)
    # All patterns say the same as the search.
    used = s > 0
    geometry = {"free_bias": bias, "negative_slope": 0.0}
    kappa = exact_slope(X[used], certificate.dual[used], **geometry)
    assert_allclose(found.kappa * ALPHA, kappa, rtol=1e-4)
    assert kappa <= ALPHA * (1 + 1e-6)
    # Equal samples have dual variables that are proportional to their weights.
    per_weight = certificate.dual[used] / s[used]
    table = np.column_stack([X, y])[used]
    for row in np.unique(table, axis=0):
        same = np.all(table == row, axis=1)
        assert_allclose(per_weight[same], per_weight[same][0], rtol=1e-12)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "loss",
    [
        loss if loss in ("squared_error", "log_loss", "hinge")
        else pytest.param(loss, marks=pytest.mark.slow)
        for loss in LOSSES
    ],
)  # fmt: skip
def test_dual_point_of_several_outputs(loss, bias):
    X, y = targets_of_three(loss, n=12)
    s = np.ones(12)
    s[:4], s[5] = 2.5, 0.0
    certificate = certify(
        wide_network(2, 3, bias=bias), X, y, alpha=1.0, loss=loss, sample_weight=s,
        fit_intercept=bias, random_state=0, **PARAMS,
    )  # fmt: skip
    assert certificate.dual.shape == (12, 3)
    assert certificate.one_vs_rest == (loss in ("squared_hinge", "hinge"))
    found = check_claim(certificate, X, y, n_starts=30)
    assert found.kappa > 0.95


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("slope", [0.3, -1.0])
def test_dual_point_of_other_activations(slope, bias):
    X, y, _ = tiny_data("squared_error")
    certificate = certify(
        random_network(2, bias=bias), X, y, alpha=ALPHA, fit_intercept=bias,
        negative_slope=slope, random_state=0,
    )  # fmt: skip
    found = check_claim(certificate, X, y)
    geometry = {"free_bias": bias, "negative_slope": slope}
    exact = exact_slope(X, certificate.dual, **geometry)
    assert_allclose(found.kappa * ALPHA, exact, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "n, d, bias, kind, options",
    [
        (300, 1, True, "global", {}),  # a spline
        (30, 1, False, "global", {}),  # few patterns, from all of which it follows
        (25, 4, True, "global", {}),  # branch and bound
        (60, 5, True, "estimated", {"kind": "estimated"}),
        (60, 5, False, "estimated", {"kind": "estimated"}),
        (30, 12, True, "global", {"kind": "global", "max_time": 1.0}),  # relaxations
    ],
)
@pytest.mark.filterwarnings("ignore:certify knows the optimum")
def test_dual_point_of_every_route(n, d, bias, kind, options):
    X, y = noisy_data(n, d)
    network = random_network(d, bias=bias)
    options = {"alpha": 2.0, "fit_intercept": bias, "random_state": 0, **options}
    certificate = certify(network, X, y, **options)
    assert certificate.kind == kind
    check_claim(certificate, X, y, n_starts=30)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_dual_point_where_no_neuron_is_of_use(loss, bias):
    _, y, s = tiny_data(loss, n=9, weighted=True)
    X = np.full((9, 2), 7.1) if bias else np.zeros((9, 2))
    certificate = certify(
        random_network(2, bias=bias), X, y, alpha=ALPHA, loss=loss, sample_weight=s,
        fit_intercept=bias, **PARAMS,
    )  # fmt: skip
    assert certificate.kind == "global" and certificate.kappa < 1e-12
    check_claim(certificate, X, y)
    # The best constant, from a grid; zero without a bias.
    constants = np.linspace(-4, 4, 8001) if bias else [0.0]
    best = min(loss_of(loss).value(np.full(9, f), y, s) for f in constants)
    assert_allclose(certificate.dual_bound, best, rtol=1e-4)


def test_dual_points_of_orthogonal_samples_and_lines():
    y = np.arange(8.0) - 3
    network = random_network(8, bias=False)
    X = np.diag(np.arange(1.0, 9.0))
    options = {"alpha": 0.05, "fit_intercept": False}
    check_claim(certify(network, X, y, **options), X, y)
    X = np.outer(y + 0.3, [1.0, 2.0])
    for bias in False, True:
        network = random_network(2, bias=bias)
        certificate = certify(network, X, y, alpha=0.05, fit_intercept=bias)
        check_claim(certificate, X, y)
    X, Y = np.eye(8), np.eye(4)[np.arange(8) % 4]
    network = wide_network(8, 4, bias=False)
    certificate = certify(network, X, Y, alpha=0.5, fit_intercept=False)
    found = check_claim(certificate, X, Y)
    assert_allclose(found.kappa, 1.0, rtol=1e-4)


@pytest.mark.parametrize(
    "x_scale, y_scale, y_shift",
    [(1e6, 1.0, 0.0), (1e-6, 1e8, 0.0), (1.0, 1.0, 1e8), (1e9, 1e-9, 0.0)],
)
def test_dual_point_is_in_the_units_of_the_user(x_scale, y_scale, y_shift):
    X, y = noisy_data(15, 2)
    X, y = x_scale * X, y_scale * (y + y_shift)
    model = ConvexReLURegressor(random_state=0).fit(X, y)
    certificate = certify(model, X, y, alpha=model.alpha_, random_state=0)
    found = certificate.verify(X, y, **QUICK)
    assert found.holds and 0.98 < found.kappa <= 1 + 1e-7


@pytest.mark.parametrize("value", [0.1, np.pi, 1e8 + 0.3])
def test_bounds_that_are_rounding(value):
    X, _, s = tiny_data("squared_error", n=30, weighted=True)
    certificate = certify(
        random_network(2), X, np.full(30, value), alpha=1.0, sample_weight=s
    )
    assert certificate.dual_bound < 1e-12
    assert certificate.verify(X, np.full(30, value), **QUICK).holds


def test_class_weights_labels_and_classes_without_weight():
    X, y = targets_of_three("log_loss", n=18)
    model = ConvexReLUClassifier(class_weight={"a": 0.0, "b": 2.0, "c": 1.0}, alpha=0.5)
    model.fit(X, y)
    certificate = certify(model, X, y, alpha=0.5, random_state=0)
    assert_array_equal(certificate.sample_weight, 2.0 * (y == "b") + (y == "c"))
    assert_array_equal(certificate.classes, ["a", "b", "c"])
    assert not certificate.dual[:, 0].any() and certificate.dual[:, 1].any()
    check_claim(certificate, X, y)
    # Samples without weight may have any label.
    check_claim(certificate, X, np.where(y == "a", "d", y))
    binary = np.where(y == "a", "no", "yes").astype(object)
    certificate = certify(
        random_network(2), X, binary, alpha=0.5, loss="log_loss", random_state=0
    )
    assert certificate.classes.tolist() == ["no", "yes"]
    check_claim(certificate, csr_array(X), binary)


def test_one_vs_rest_log_loss():
    X, y = targets_of_three("log_loss", n=12)
    model = MLPClassifier(5, alpha=1.0, solver="lbfgs", max_iter=2000, random_state=0)
    model.fit(X, y)
    model.out_activation_ = "logistic"
    certificate = certify(model, X, y, alpha=1.0, random_state=0)
    assert certificate.one_vs_rest
    assert certificate.verify(X, y, **QUICK).holds
    wrong = replace(certificate, one_vs_rest=False)
    assert not wrong.verify(X, y, **QUICK).holds


# Planted errors.


@pytest.fixture(scope="module")
def honest():
    X, y = noisy_data(40, 3)
    network = random_network(3)
    return certify(network, X, y, alpha=1.0, kind="estimated", random_state=0), X, y


@pytest.mark.parametrize("loss", LOSSES)
def test_wrong_claims_are_refuted(loss):
    X, y, s = repeated_data(loss)
    certificate = certify(
        random_network(2), X, y, alpha=ALPHA, loss=loss, sample_weight=s,
        random_state=0, **PARAMS,
    )  # fmt: skip
    bound = certificate.dual_bound
    too_much = replace(certificate, dual_bound=1.001 * bound)
    assert not too_much.verify(X, y, **QUICK).holds
    # A dual point that is too long has a larger value, and units that are too steep.
    scale = 1.0 + 0.9 * (min(room_to_grow(certificate, y), 1.2) - 1.0)
    longer = replace(certificate, dual=scale * certificate.dual)
    if loss not in ("quantile", "hinge"):
        claim = replace(longer, dual_bound=value_at(longer, X, y))
        found = claim.verify(X, y, **QUICK)
        assert claim.dual_bound > 1.001 * bound and not found.holds
        assert_allclose(found.kappa, scale, rtol=1e-4)
        assert_allclose(found.dual_bound, bound, rtol=1e-3)
    # But the claim as it was follows from any multiple.
    assert longer.verify(X, y, **QUICK).holds
    # The same dual point with a smaller weight decay.
    assert not replace(certificate, alpha=0.9 * ALPHA).verify(X, y, **QUICK).holds


def test_what_hides_behind_linear_neurons():
    """No fit stops at, and no search believes in, a network that is almost linear."""
    X, y = product_of_signs(600, 12)
    alpha = 60.0
    best = ConvexReLURegressor(alpha, random_state=0).fit(X[:, :4], y)
    model = ConvexReLURegressor(alpha, tol=0.05, random_state=0).fit(X, y)
    assert model.dual_bound_ <= best.objective_
    assert model.objective_ < 1.05 * best.objective_
    linear = ConvexReLURegressor(alpha, random_state=0, fit_intercept=False)
    linear.set_params(negative_slope=1.0 - 1e-6).fit(X, y - y.mean())
    residual = y - y.mean() - linear.predict(X)
    options = {"alpha": alpha, "tol": 0.2, "kind": "estimated", "random_state": 0}
    honest = certify(model, X, y, **options)
    residual -= residual.mean()
    bound = residual @ y - 0.5 * residual @ residual
    assert bound > 1.01 * best.objective_
    wrong = replace(
        honest,
        dual=residual,
        dual_bound=bound,
        dual_gap=honest.objective - bound,
        kind="estimated",
    )
    assert honest.verify(X, y, n_starts=60, random_state=0).holds
    assert not wrong.verify(X, y, n_starts=60, random_state=0).holds


def room_to_grow(certificate, y):
    """By what factor the dual point can be stretched within the domain."""
    if certificate.classes is not None:
        y = np.where(y == certificate.classes[1], 1.0, -1.0)
    used = certificate.dual != 0
    nu, s = certificate.dual[used], certificate.sample_weight[used]
    lower, upper = loss_of(certificate.loss).dual_bounds(y[used], s)
    return np.min(np.where(nu > 0, upper, lower) / nu)


def test_the_unit_that_contradicts(honest):
    certificate, X, y = honest
    assert certificate.verify(X, y, **QUICK).holds
    longer = 1.2 * certificate.dual
    claim = replace(certificate, dual=longer)
    claim = replace(claim, dual_bound=value_at(claim, X, y))
    found = claim.verify(X, y, **QUICK)
    assert not found.holds and found.kappa > 1.19
    direction, bias = found.unit
    assert_allclose(np.linalg.norm(direction), 1.0)
    slope = abs(longer @ act(X @ direction + bias))
    assert_allclose(slope, found.kappa * claim.alpha, rtol=1e-9)
    # The bound that follows is that of the point with slopes of alpha.
    assert_allclose(
        found.dual_bound,
        value_at(replace(claim, dual=longer / found.kappa), X, y),
        rtol=1e-7,
    )


@pytest.mark.parametrize(
    "loss, change",
    [
        ("squared_error", "sum"),
        ("huber", "domain"),
        ("quantile", "domain"),
        ("poisson", "domain"),
        ("log_loss", "domain"),
        ("hinge", "domain"),
        ("squared_hinge", "sign"),
    ],
)
def test_points_outside_of_the_domain_are_refuted(loss, change):
    X, y, _ = tiny_data(loss)
    certificate = certify(
        random_network(2), X, y, alpha=ALPHA, loss=loss, random_state=0, **PARAMS
    )
    dual = certificate.dual.copy()
    if change == "sum":
        dual[0] += 1e-3
    elif change == "sign":
        dual = -dual
    else:
        # A step along which the sum stays, which only the domain forbids.
        dual += 50.0 * np.where(np.arange(8) == np.argmax(dual), 7.0, -1.0)
    found = replace(certificate, dual=dual).verify(X, y, **QUICK)
    assert not found.holds
    if change == "sum":
        assert found.kappa == np.inf and found.dual_bound == 0.0
        direction, bias = found.unit
        assert not direction.any() and bias == 1.0
    if change == "sign":
        assert found.dual_bound == 0.0


def test_rows_of_a_softmax_that_do_not_sum_to_zero_are_refuted():
    X, y = targets_of_three("log_loss", n=12)
    certificate = certify(wide_network(2, 3), X, y, alpha=1.0, loss="log_loss")
    dual = certificate.dual.copy()
    dual[:2, 0] += [1e-6, -1e-6]
    found = replace(certificate, dual=dual).verify(X, y, **QUICK)
    assert not found.holds and found.dual_bound == 0.0


def test_a_restricted_bound_that_is_said_to_be_global():
    X, y = noisy_data(90, 6)
    certificate = certify(
        random_network(6), X, y, alpha=2.0, kind="restricted", n_arrangements=10,
        random_state=0,
    )  # fmt: skip
    assert certificate.kind == "restricted"
    assert_allclose(value_at(certificate, X, y), certificate.dual_bound, rtol=1e-9)
    with pytest.raises(ValueError, match="kind='restricted' is a bound for some"):
        certificate.verify(X, y)
    for kind in "estimated", "global":
        found = replace(certificate, kind=kind).verify(X, y, **QUICK)
        assert not found.holds and found.kappa > 1.1 and found.unit is not None


def test_other_data_are_refuted(honest):
    certificate, X, y = honest
    assert not certificate.verify(X, y[::-1], **QUICK).holds
    assert not certificate.verify(3.0 * X, y, **QUICK).holds
    dual = np.zeros(len(X))
    assert not replace(certificate, dual=dual).verify(X, y, **QUICK).holds


def test_the_tolerance_is_that_of_the_kind(honest):
    certificate, X, y = honest
    found = certificate.verify(X, y, **QUICK)
    room = found.dual_bound / certificate.dual_bound
    assert (found.tolerance, found.n_starts) == (3e-3, 12)
    for kind, tolerance in ("estimated", 3e-3), ("global", 1e-6):
        for share, holds in (0.5, True), (1.5, False):
            claimed = certificate.dual_bound * room * (1 + share * tolerance)
            claim = replace(certificate, kind=kind, dual_bound=claimed)
            assert claim.verify(X, y, **QUICK).holds == holds


def test_more_starts_find_more_and_seeds_repeat(honest):
    certificate, X, y = honest
    few, many, again = (
        certificate.verify(X, y, n_starts=count, random_state=3).kappa
        for count in (1, 40, 40)
    )
    assert few <= many == again


# The search is another one.


def test_nothing_is_imported_from_the_package():
    for node in ast.walk(ast.parse(getsource(_verification))):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [node.module]
            assert node.level == 0
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        assert not [name for name in names if name.startswith("sklearn_convexnn")]


# Files.


CASES = {
    "regression": lambda: certify(
        random_network(2), *tiny_data("huber")[:2], alpha=ALPHA, loss="huber"
    ),
    "weights": lambda: certify(
        random_network(2), *tiny_data("quantile")[:2], alpha=ALPHA, loss="quantile",
        sample_weight=tiny_data("quantile", weighted=True)[2],
    ),
    "restricted": lambda: certify(
        random_network(4), *noisy_data(30, 4), alpha=1.0, kind="restricted",
        n_arrangements=5, random_state=0,
    ),
    "estimated": lambda: certify(
        random_network(3), *noisy_data(30, 3), alpha=1.0, kind="estimated",
        random_state=0,
    ),
    "labels": lambda: certify(
        wide_network(2, 3), *targets_of_three("hinge", n=12), alpha=1.0, loss="hinge",
        random_state=0,
    ),
    "counts": lambda: certify(
        random_network(2), *tiny_data("poisson")[:2], alpha=ALPHA, loss="poisson"
    ),
    "outputs": lambda: certify(
        wide_network(2, 3), *targets_of_three("squared_error", n=12), alpha=1.0,
        random_state=0,
    ),
    "softmax": lambda: certify(
        wide_network(2, 3), *targets_of_three("log_loss", n=12), alpha=1.0,
        loss="log_loss", sample_weight=np.arange(12) % 5, random_state=0,
    ),
    "numbers": lambda: certify(
        random_network(2), noisy_data(12, 2)[0], np.arange(12) % 2 + 3, alpha=1.0,
        loss="squared_hinge",
    ),
    "booleans": lambda: certify(
        random_network(2), noisy_data(12, 2)[0], np.arange(12) % 2 == 0, alpha=1.0,
        loss="log_loss",
    ),
}  # fmt: skip


@cache
def certificate_of(case):
    return CASES[case]()


def fields_of(case):
    """What is in the file of a certificate."""
    told = {"format": "sklearn_convexnn.Certificate", "version": 1}
    return told | {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in vars(certificate_of(case)).items()
    }


def write(path, told):
    """A file with any fields."""
    text = json.dumps(told)
    if path.suffix == ".json":
        path.write_text(text)
    else:
        np.savez(path, told=np.array(text))


def assert_same(one, other):
    assert one == other and repr(one) == repr(other)
    for name in "dual", "sample_weight", "classes":
        first, second = getattr(one, name), getattr(other, name)
        assert (first is None) == (second is None)
        if first is not None:
            assert_array_equal(first, second, strict=True)


@pytest.mark.parametrize("suffix", [".json", ".npz", ".NPZ"])
@pytest.mark.parametrize("case", CASES)
def test_files_keep_everything(case, suffix, tmp_path):
    certificate = certificate_of(case)
    path = tmp_path / f"certificate{suffix}"
    certificate.save(path)
    assert [*tmp_path.iterdir()] == [path]
    assert_same(Certificate.load(str(path)), certificate)


def test_a_loaded_certificate_is_verified(honest, tmp_path):
    certificate, X, y = honest
    certificate.save(tmp_path / "c.json")
    loaded = Certificate.load(tmp_path / "c.json")
    found, before = (one.verify(X, y, **QUICK) for one in (loaded, certificate))
    assert found.holds and found.kappa == before.kappa
    # Anyone can read the text.
    told = json.loads((tmp_path / "c.json").read_text())
    assert told["dual_bound"] == certificate.dual_bound
    assert_array_equal(told["dual"], certificate.dual)
    assert_same(pickle.loads(pickle.dumps(certificate)), certificate)


def test_certificates_are_compared_and_shown_without_arrays(honest):
    certificate, _, _ = honest
    assert certificate == replace(certificate)
    assert certificate != replace(certificate, dual_bound=0.0)
    assert "dual_bound" in repr(certificate) and "array" not in repr(certificate)
    assert hash(certificate) == hash(replace(certificate))


@pytest.mark.parametrize("name", ["certificate", "certificate.pkl", "c.json.gz"])
def test_unknown_suffixes(name, honest, tmp_path):
    for function in honest[0].save, Certificate.load:
        with pytest.raises(ValueError, match=r"must end in '.json' or '.npz'"):
            function(tmp_path / name)


@pytest.mark.parametrize("name", ["c.json", "c.npz"])
def test_a_file_that_does_not_exist(name, tmp_path):
    with pytest.raises(FileNotFoundError):
        Certificate.load(tmp_path / name)


@pytest.mark.parametrize("suffix", [".json", ".npz"])
@pytest.mark.parametrize(
    "content",
    [b"", b"[1, 2", b"[1, 2]", b"3", b"\xff", b"[" * 100_000, "half", "overwritten"],
)
def test_damaged_files(content, suffix, honest, tmp_path):
    path = tmp_path / f"c{suffix}"
    if isinstance(content, str):
        honest[0].save(path)
        saved = path.read_bytes()
        rest = len(saved) // 2
        content = saved[:-rest] + (rest * b"\x00" if content == "overwritten" else b"")
    path.write_bytes(content)
    check_refused(path, f"it is damaged, or no {suffix} file")


@pytest.mark.parametrize(
    "arrays",
    [
        {"X": np.ones(3)},
        {"told": np.array({"alpha": 1.0}, dtype=object)},
        {"told": np.array("[1, 2]")},
    ],
)
def test_arrays_of_something_else(arrays, tmp_path):
    np.savez(tmp_path / "c.npz", **arrays)
    check_refused(tmp_path / "c.npz", "it is damaged, or no .npz file")


def check_refused(path, reason):
    with pytest.raises(ValueError) as found:
        Certificate.load(path)
    assert type(found.value) is ValueError
    start = f"{path} is not a certificate that Certificate.save has written: "
    assert str(found.value).startswith(start)
    told = str(found.value).removeprefix(start)
    assert re.search(reason, told), told
    # NumPy advises to load with pickle.
    assert "pickle" not in "".join(format_exception(found.value))


NAN, INF = float("nan"), float("inf")
MISFITS = [
    ("regression", "format", ["another", None, 1]),
    ("regression", "version", [2, None, "1"]),
    ("regression", "objective", [NAN, INF, "1.0", None, True, [1.0]]),
    ("regression", "dual_bound", [NAN, -INF, "1.0", None, True]),
    ("regression", "dual_gap", [NAN, INF, "1.0", None, True, 0.0]),
    ("regression", "kind", ["local", None, ["global"], 1]),
    ("regression", "kappa", [NAN, INF, "1.0", None, True, -1.0]),
    ("regression", "n_patterns", [NAN, -1, 0.5, "1", None, True]),
    ("regression", "alpha", [NAN, INF, "1.0", None, True, 0.0, -1.0, 10**400]),
    ("regression", "loss", ["gamma", None, ["huber"], "hinge", "squared_error"]),
    ("regression", "epsilon", [NAN, INF, "1.0", None, True, 0.0]),
    ("weights", "epsilon", [1.0]),
    ("regression", "quantile", [NAN, "0.5", True, 0.5]),
    ("weights", "quantile", [None, 0.0, 1.0]),
    ("regression", "fit_intercept", ["no", None, 1]),
    ("regression", "negative_slope", [NAN, "0", None, False, 1.0, -2.0]),
    ("regression", "n_features", [0, -1, 2.0, "2", None, True]),
    ("regression", "one_vs_rest", ["no", None, 0, True]),
    ("numbers", "one_vs_rest", [True]),
    ("labels", "one_vs_rest", [False]),
    ("regression", "dual", [None, 1.0, "a", {}, [], [[]], [[[1.0]]]]),
    (
        "regression",
        "dual",
        [[[1.0], [1.0, 2.0]], ["1.0"], [None], [True], [NAN], [INF]],
    ),
    ("weights", "sample_weight", [1.0, [], [1.0] * 7, [[1.0]] * 8, ["1.0"] * 8]),
    (
        "weights",
        "sample_weight",
        [[0.0] * 8, *([w, *[1.0] * 7] for w in (-1, NAN, INF))],
    ),
    ("regression", "classes", [[0, 1], []]),
    (
        "numbers",
        "classes",
        [None, 3, "no", [3], [3, 4, 5], [3, 3], [3, None], [3, NAN]],
    ),
    ("labels", "classes", [None, ["a", "b"], ["a", "b", "b"], [["a", "b", "c"]]]),
]


@pytest.mark.parametrize("suffix", [".json", ".npz"])
@pytest.mark.parametrize("case, name, values", MISFITS)
def test_fields_that_do_not_fit(case, name, values, suffix, tmp_path):
    for value in values:
        write(tmp_path / f"c{suffix}", {**fields_of(case), name: value})
        check_refused(tmp_path / f"c{suffix}", rf"\b{name}\b")


@pytest.mark.parametrize("case, name, values", MISFITS[2:])
def test_fields_that_do_not_fit_are_not_verified(case, name, values):
    claim, data = certificate_of(case), (np.ones((8, 2)), np.ones(8))
    for value in values:
        if (name, value) == ("dual_gap", 0.0):
            # A claim may be changed, and its gap is not what is checked.
            continue
        with pytest.raises(ValueError, match=rf"\b{name}\b"):
            replace(claim, **{name: value}).verify(*data, n_starts=1)


@pytest.mark.parametrize("name", ["objective", "dual_bound"])
def test_gaps_that_are_not_the_difference(name, honest, tmp_path):
    write(tmp_path / "c.json", {**fields_of("regression"), name: 0.0})
    check_refused(tmp_path / "c.json", "dual_gap must be objective - dual_bound")
    # Nothing is saved that cannot be loaded.
    for path in tmp_path / "new.json", tmp_path / "new.npz":
        with pytest.raises(ValueError, match="dual_gap must be objective - dual_bou"):
            replace(honest[0], **{name: 0.0}).save(path)
        assert not path.exists()


@pytest.mark.parametrize(
    "name", ["format", "version", *(field.name for field in fields(Certificate))]
)
def test_fields_that_are_missing(name, tmp_path):
    told = fields_of("weights")
    del told[name]
    write(tmp_path / "c.json", told)
    check_refused(tmp_path / "c.json", rf"\b{name}\b")


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_fields_that_are_unknown(suffix, tmp_path):
    write(tmp_path / f"c{suffix}", {**fields_of("weights"), "author": "me"})
    check_refused(tmp_path / f"c{suffix}", "fields are unknown: author")


def test_arrays_of_numbers_that_are_not_real(tmp_path):
    told = fields_of("regression")
    dual = 1j * np.array(told.pop("dual"))
    np.savez(tmp_path / "c.npz", told=np.array(json.dumps(told)), dual=dual)
    check_refused(tmp_path / "c.npz", "dual must be an array of")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"n_starts": 0}, "'n_starts' parameter of verify must be an int"),
        ({"n_starts": 2.5}, "'n_starts' parameter of verify must be an int"),
        ({"random_state": "a"}, "'random_state' parameter of verify"),
        ({"X": np.ones((39, 3))}, "X has 39 samples, but the certificate is about 40"),
        ({"y": np.ones(1)}, "y has 1 sample, but the certificate is about 40"),
        ({"X": np.ones((40, 2))}, "X has 2 features, but the certificate is about 3"),
        ({"X": np.ones(40)}, "Expected 2D array"),
        ({"X": np.full((40, 3), np.nan)}, "NaN"),
        ({"y": np.ones((40, 2))}, "y has 2 outputs, but the dual point .* has 1"),
        ({"y": None}, "y must be an array with the targets of all samples, got None"),
        ({"y": 3.0}, "y must be an array .*, got float"),
        ({"y": csr_array(np.ones((40, 1)))}, "y must be an array .*, got csr_array"),
        ({"y": np.full(40, np.nan)}, "loss='squared_error' needs y .*: Input y .* NaN"),
        ({"y": [np.inf] * 40}, "loss='squared_error' needs y .*: Input y .* infinity"),
        ({"y": [None] * 40}, "loss='squared_error' needs y .*: Input y contains NaN"),
        ({"y": ["a"] * 40}, "loss='squared_error' needs y .*: could not convert str"),
        ({"y": np.full(40, 1j)}, "loss='squared_error' needs y .*: Complex data"),
        ({"y": np.ones((40, 1, 1))}, "loss='squared_error' needs y .*: Found array"),
    ],
)
def test_bad_input_names_the_parameter(change, message, honest):
    certificate, X, y = honest
    arguments = {"X": X, "y": y, **change}
    with pytest.raises(ValueError, match=message):
        certificate.verify(arguments.pop("X"), arguments.pop("y"), **arguments)


@pytest.mark.parametrize("loss", CLASSIFICATION_LOSSES)
def test_labels_that_are_not_known(loss):
    X, y, _ = tiny_data(loss)
    certificate = certify(random_network(2), X, y, alpha=1.0, loss=loss)
    missing = [None, *y[1:]], np.append(y[1:], np.nan), np.append(y[1:], np.inf)
    for labels in np.arange(8), np.full(8, "yes"), np.column_stack([y, y]), *missing:
        with pytest.raises(ValueError, match="y has labels that the certificate does"):
            certificate.verify(X, labels)


def test_numbers_as_strings_are_other_labels():
    X, y = noisy_data(60, 2)[0], np.arange(60) % 30
    coefs, intercepts = wide_network(2, 30)
    network = SimpleNamespace(
        coefs_=coefs, intercepts_=intercepts, classes_=np.arange(30), loss="log_loss"
    )
    options = {"alpha": 100.0, "kind": "restricted"}
    claim = replace(certify(network, X, y, **options), kind="estimated")
    with pytest.raises(ValueError, match="y has labels that the certificate does not"):
        claim.verify(X, y.astype(str))
    with pytest.raises(ValueError, match="y has labels that the network does not know"):
        certify(network, X, y.astype(str), **options)


def test_samples_without_weight_may_have_any_target():
    X, y, s = repeated_data("squared_error")
    certificate = certify(random_network(2), X, y, alpha=ALPHA, sample_weight=s)
    before = certificate.verify(X, y, **QUICK)
    y[s == 0] = np.nan
    assert certificate.verify(X, y, **QUICK).dual_bound == before.dual_bound
    assert certify(random_network(2), X, y, alpha=ALPHA, sample_weight=s) == certificate
    y[s > 0] = np.nan
    with pytest.raises(ValueError, match="Input y contains NaN"):
        certificate.verify(X, y)


def test_negative_counts():
    X, y, _ = tiny_data("poisson")
    certificate = certify(random_network(2), X, y, alpha=1.0, loss="poisson")
    with pytest.raises(ValueError, match="needs y to be non-negative"):
        certificate.verify(X, -y - 1.0)
