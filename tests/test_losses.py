import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import xlogy
from sklearn.metrics import mean_pinball_loss, mean_poisson_deviance

from sklearn_convexnn.losses import (
    CLASSIFICATION_LOSSES,
    REGRESSION_LOSSES,
    Separable,
    Softened,
    make_loss,
)
from tests.problems import EPSILON, LOSSES, QUANTILE, as_targets, loss_of, tiny_data


def sample(name, n=40, seed=0):
    rng = np.random.default_rng(seed)
    y = as_targets(name, rng.standard_normal(n))
    return 1.5 * rng.standard_normal(n), y, rng.uniform(0.5, 2.0, n)


FORMULAS = {
    "squared_error": lambda f, y: 0.5 * (f - y) ** 2,
    "huber": lambda f, y: np.where(
        np.abs(f - y) <= EPSILON,
        0.5 * (f - y) ** 2,
        EPSILON * np.abs(f - y) - 0.5 * EPSILON**2,
    ),
    "quantile": lambda f, y: np.where(
        y > f, QUANTILE * (y - f), (1 - QUANTILE) * (f - y)
    ),
    "poisson": lambda f, y: np.exp(f) - y * f + xlogy(y, y) - y,
    "log_loss": lambda f, y: np.log(1 + np.exp(-y * f)),
    "squared_hinge": lambda f, y: np.maximum(0, 1 - y * f) ** 2,
    "hinge": lambda f, y: np.maximum(0, 1 - y * f),
}


@pytest.mark.parametrize("name", LOSSES)
def test_value_is_the_weighted_sum_of_the_formula(name):
    f, y, s = sample(name)
    loss = loss_of(name)
    assert loss.name == name
    assert_allclose(loss.value(f, y, s), np.sum(s * FORMULAS[name](f, y)))


def test_losses_are_those_of_scikit_learn():
    f, y, s = sample("quantile")
    expected = np.sum(s) * mean_pinball_loss(y, f, sample_weight=s, alpha=QUANTILE)
    assert_allclose(loss_of("quantile").value(f, y, s), expected)
    f, y, s = sample("poisson")
    assert np.any(y == 0)
    expected = 0.5 * np.sum(s) * mean_poisson_deviance(y, np.exp(f), sample_weight=s)
    assert_allclose(loss_of("poisson").value(f, y, s), expected)


def test_poisson_close_to_and_far_from_the_targets():
    loss, one = make_loss("poisson"), np.ones(1)
    for y in (1e-8, 1.0, 1e8):
        for step in (1e-9, -1e-5, 0.09, 0.11):
            f = np.log([y]) + step
            step = f - np.log(y)
            series = y * (step**2 / 2 + step**3 / 6 + step**4 / 24 + step**5 / 120)
            assert_allclose(loss.value(f, y * one, one), series, rtol=1e-6)
    # Nothing overflows, and the loss stays convex, so that a descent comes back.
    f = np.array([-1e5, -900.0, 299.0, 301.0, 800.0, 1e5])
    for y in (0.0, 3.0):
        values = [loss.value(x * one, y * one, one) for x in f]
        slopes = loss.gradient(f, np.full(6, y), np.ones(6))
        assert np.all(np.isfinite(values)) and np.all(np.diff(slopes) >= 0)
        secants = np.diff(values) / np.diff(f)
        rounding = 1e-12 * np.abs(secants)
        assert np.all(secants >= slopes[:-1] - rounding)
        assert np.all(secants <= slopes[1:] + rounding)


@pytest.mark.parametrize("name", LOSSES)
def test_derivatives(name):
    f, y, s = sample(name)
    loss = loss_of(name)
    h = 1e-6
    steps = h * np.eye(len(f))
    slopes = [
        (loss.value(f + e, y, s) - loss.value(f - e, y, s)) / (2 * h) for e in steps
    ]
    assert_allclose(loss.gradient(f, y, s), slopes, atol=1e-7)
    bends = (loss.gradient(f + h, y, s) - loss.gradient(f - h, y, s)) / (2 * h)
    assert_allclose(loss.curvature(f, y, s), bends, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_fenchel_young(name):
    """``L(f) >= G(nu) - f @ nu`` on the domain, with equality at ``-grad L``."""
    f, y, s = sample(name)
    loss = loss_of(name)
    nu = -loss.gradient(f, y, s)
    assert_allclose(loss.dual_value(nu, y, s) - f @ nu, loss.value(f, y, s))
    assert_allclose(loss.conjugate(-nu, y, s), -loss.dual_value(nu, y, s))
    rng = np.random.default_rng(1)
    for _ in range(20):
        other = loss.project_dual(3 * rng.standard_normal(len(f)), y, s)
        assert loss.dual_value(other, y, s) - f @ other <= loss.value(f, y, s) + 1e-10
        # Zero is in the domain, so every point can be scaled towards it.
        assert np.isfinite(loss.dual_value(0.3 * other, y, s))


@pytest.mark.parametrize("name", LOSSES)
def test_dual_derivatives(name):
    f, y, s = sample(name)
    loss = loss_of(name)
    middle = np.where(np.isin(name, CLASSIFICATION_LOSSES), 0.4 * s * y, -0.1 * s)
    h = 1e-5
    terms = [loss.dual_terms(middle + e, y, s) for e in (-h, 0.0, h)]
    assert_allclose(
        loss.dual_slope(middle, y, s), (terms[2] - terms[0]) / (2 * h), atol=1e-6
    )
    bends = (2 * terms[1] - terms[0] - terms[2]) / h**2
    assert_allclose(loss.dual_curvature(middle, y, s), bends, atol=1e-4)


@pytest.mark.parametrize("width", [0.03, 0.7])
@pytest.mark.parametrize("name", [name for name in LOSSES if not loss_of(name).smooth])
def test_softened_loss_is_the_moreau_envelope(name, width):
    f, y, s = sample(name)
    loss = loss_of(name)
    soft = Softened(loss, width)
    step = 2e-4 * width
    near = f[:, None] + step * np.arange(-10_000, 10_001)
    envelope = FORMULAS[name](near, y[:, None]) + (near - f[:, None]) ** 2 / 2 / width
    assert_allclose(soft.terms(f, y), envelope.min(axis=1), atol=step)
    nu = -soft.gradient(f, y, s)
    assert_allclose(soft.dual_value(nu, y, s) - f @ nu, soft.value(f, y, s))
    # What a dual point of it bounds is the loss, at least as well.
    hidden = np.sum(0.5 * width * nu**2 / s)
    assert_allclose(loss.dual_value(nu, y, s) - soft.dual_value(nu, y, s), hidden)
    assert soft.value(f, y, s) <= loss.value(f, y, s)
    h = 1e-6
    slopes = (s * soft.terms(f + h, y) - s * soft.terms(f - h, y)) / (2 * h)
    assert_allclose(soft.gradient(f, y, s), slopes, atol=1e-6)
    bends = (soft.gradient(f + h, y, s) - soft.gradient(f - h, y, s)) / (2 * h)
    assert_allclose(soft.curvature(f, y, s), bends, atol=1e-6)
    assert np.max(soft.bends(f, y)) <= soft.largest_bend
    h, nu = 1e-5, 0.5 * nu
    terms = [soft.dual_terms(nu + e, y, s) for e in (-h, 0.0, h)]
    assert_allclose(soft.dual_slope(nu, y, s), (terms[2] - terms[0]) / 2 / h, atol=1e-6)
    bends = (2 * terms[1] - terms[0] - terms[2]) / h**2
    assert_allclose(soft.dual_curvature(nu, y, s), bends, atol=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_outside_of_the_dual_domain(name):
    _, y, s = sample(name)
    loss = loss_of(name)
    lower, upper = loss.dual_bounds(y, s)
    assert np.all(lower <= 0) and np.all(upper >= 0)
    for bound, sign in ((lower, -1), (upper, 1)):
        nu = np.zeros(len(y))
        i = np.argmax(np.isfinite(bound))
        if np.isfinite(bound[i]):
            nu[i] = bound[i] + sign * 1e-3
            assert loss.dual_value(nu, y, s) == -np.inf


@pytest.mark.parametrize("name", LOSSES)
def test_weights_are_repetitions(name):
    f, y, _ = sample(name)
    loss = loss_of(name)
    nu = -loss.gradient(f, y, np.ones(len(f)))
    two, one = np.full(len(f), 2.0), np.ones(2 * len(f))
    pairs = np.tile(f, 2), np.tile(y, 2)
    assert_allclose(loss.value(f, y, two), loss.value(*pairs, one))
    assert_allclose(
        loss.dual_value(2 * nu, y, two),
        loss.dual_value(np.tile(nu, 2), pairs[1], one),
    )


@pytest.mark.parametrize("name", LOSSES)
def test_best_offset(name):
    f, y, s = sample(name)
    loss = loss_of(name)
    best = loss.best_offset(f, y, s)
    values = [loss.value(f + best + shift, y, s) for shift in np.linspace(-1, 1, 201)]
    assert loss.value(f + best, y, s) <= min(values) + 1e-9


@pytest.mark.parametrize("name", REGRESSION_LOSSES)
def test_dual_variable_changes_its_sign_at_the_minimiser(name):
    _, y, s = sample(name)
    loss = loss_of(name)
    for shift in (-1e-3, 1e-3):
        nu = -loss.gradient(loss.minimiser(y)[y != 0] + shift, y[y != 0], s[y != 0])
        assert np.all(nu * shift < 0)


def test_targets_of_the_pinball_loss_that_are_met():
    """Zero is a subgradient there; the median between two samples is the middle."""
    loss, s = make_loss("quantile", quantile=0.5), np.ones(4)
    y = np.array([3.0, 0.0, 1.0, 2.0])
    assert not loss.gradient(y, y, s).any()
    assert loss.best_offset(np.zeros(4), y, s) == 1.5


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
def test_best_offset_of_one_class_is_finite(name):
    loss = make_loss(name)
    y = np.ones(5)
    best = loss.best_offset(np.zeros(5), y, y)
    assert np.isfinite(best)
    assert loss.value(np.full(5, best), y, y) < 1e-6


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("centred", [False, True])
def test_project_dual(name, centred):
    f, y, s = sample(name)
    loss = loss_of(name)
    nu = loss.project_dual(5 * f, y, s, centred=centred)
    assert np.isfinite(loss.dual_value(nu, y, s))
    if centred:
        assert abs(nu.sum()) < 1e-11
    inside = loss.project_dual(-loss.gradient(f, y, s), y, s)
    assert_allclose(inside, -loss.gradient(f, y, s))


def test_unknown_loss():
    with pytest.raises(ValueError, match="Got 'cauchy'"):
        make_loss("cauchy")


@pytest.mark.parametrize("name", LOSSES)
def test_centred_dual_points_sum_to_zero_in_any_units(name):
    rng, loss = np.random.default_rng(0), make_loss(name)
    for _ in range(30):
        y, s = rng.standard_normal(6), rng.uniform(0.3, 2.0, 6)
        y = np.floor(np.exp(y)) if name == "poisson" else y
        if name in CLASSIFICATION_LOSSES:
            y = np.where(y > 0, 1.0, -1.0)
        size = 10.0 ** rng.integers(-30, 3)
        nu = size * rng.standard_normal(6)
        # As at a solution whose sum vanishes already.
        for point in (nu, nu - np.sum(nu) / 6):
            found = loss.project_dual(point, y, s, centred=True)
            lower, upper = loss.dual_bounds(y, s)
            assert np.all((lower <= found) & (found <= upper))
            # Rounding is that of the larger one: a box can leave little of a point.
            largest = max(np.max(np.abs(point)), np.max(np.abs(found)))
            assert abs(np.sum(found)) <= 1e-13 * largest


@pytest.mark.parametrize("loss", LOSSES)
def test_samples_of_equal_features_as_one(loss):
    """Up to a constant the loss is that of the means, or no such form is claimed."""
    _, y, s = tiny_data(loss, n=12, d=2, weighted=True)
    term, group = loss_of(loss), np.arange(12) % 4
    found = term.merged(y, s, group)
    if loss not in ("squared_error", "poisson"):
        assert found is None
        return
    mean, weight, constant = found
    for f in np.random.default_rng(0).standard_normal((3, 4)):
        value = term.value(f, mean, weight) + constant
        assert_allclose(term.value(f[group], y, s), value)
    twice = Separable(term).merged(np.column_stack([y, y]), s, group)
    assert_allclose(twice[0][:, 1], mean)
    assert_allclose(twice[1], weight)
    assert_allclose(twice[2], 2.0 * constant)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_on_other_arrays(loss, dtype):
    """Formulas are written once, for arrays of any namespace and precision."""
    xp = pytest.importorskip("array_api_strict")
    _, y, s = tiny_data(loss, n=20, d=2, weighted=True)
    term = loss_of(loss)
    f = np.linspace(-2.0, 2.0, 20)
    lower, upper = term.dual_bounds(y, s)
    low, high = np.maximum(lower, -3.0), np.minimum(upper, 3.0)
    nu = low + (high - low) * np.linspace(0.1, 0.9, 20)
    f_, y_, s_, nu_ = (xp.asarray(part.astype(dtype)) for part in (f, y, s, nu))
    rtol = 1e-4 if dtype == "float32" else 1e-10
    for name in ("terms", "slopes", "bends"):
        formula = getattr(term, name)
        found = np.from_dlpack(formula(f_, y_, xp))
        assert found.dtype == dtype
        assert_allclose(found, formula(f, y), rtol=rtol, atol=0.1 * rtol)
    for name in ("dual_slope", "dual_curvature"):
        formula = getattr(term, name)
        found = np.from_dlpack(formula(nu_, y_, s_, xp))
        assert found.dtype == dtype
        assert_allclose(found, formula(nu, y, s), rtol=rtol, atol=0.1 * rtol)
