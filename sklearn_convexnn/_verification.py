"""A check of dual bounds that shares nothing with what has found them.

Two things make a dual point ``N`` a lower bound: its value ``G(N)``, a formula for each
loss, and that no unit has a slope ``||N^T act(X u + b)||`` above ``alpha``.  Here the
formulas are written down once more, and the steepest unit is searched for in the
plainest way.  Nothing is imported from the rest of the package.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.special import entr
from sklearn.utils import check_random_state

TOLERANCES = {"global": 1e-6, "estimated": 3e-3}
"""By how much a bound may fall short of a claim, relative to it: rounding for what is
proven, and what an estimate promises."""
# Of sums that should be zero, and of the ends of the domain.
_ROUNDING = 1e-9
# Lengths of the steps of a climb over the unit sphere, and patches that are compared in
# each of them as the one at which a filter begins to be active.
_STEPS, _ANCHORS = np.geomspace(1.0, 1e-4, 100), 10


@dataclass(frozen=True, eq=False)
class Verification:
    """Outcome of a search for a contradiction to a claimed dual bound.

    Attributes
    ----------
    holds : bool
        Whether `dual_bound` is at least ``(1 - tolerance) * claimed_bound``.
    claimed_bound : float
        That of the certificate.
    dual_bound : float
        The bound that follows from `kappa`: the largest value of the dual function at
        a multiple of the dual point where that slope is at most ``alpha``.
    kappa : float
        Slope of the steepest unit found at the dual point, divided by ``alpha``; at
        most one if the claim is true.  Infinite if a free bias has a slope.
    tolerance : float
        1e-6 for bounds that are said to be proven, and 3e-3 for estimates.
    n_starts : int
        Number of directions from which the search has started.
    unit : tuple (direction, bias) or None
        If the claim does not hold because of it, a unit ``act(X @ direction + bias)``
        steeper than ``alpha``.  The direction is of length one (with `batch_norm` a
        pre-activation of variance one), or zero if it is the constant.
    """

    holds: bool
    claimed_bound: float
    dual_bound: float
    kappa: float
    tolerance: float
    n_starts: int
    unit: tuple | None = field(repr=False)


def verify(claim, X, y, n_starts, random_state):
    """Check a claim; see `Certificate.verify`.

    Parameters
    ----------
    claim : Certificate
        Or anything else with the same attributes.
    X : ndarray of shape (n_samples, n_features)
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
    n_starts : int
    random_state : int, RandomState instance or None

    Returns
    -------
    verification : Verification
    """
    N = claim.dual.reshape(len(claim.dual), -1)
    s = np.ones(len(N)) if claim.sample_weight is None else claim.sample_weight
    # Without weight, a sample may have any label, and no dual variable.
    used = s > 0
    dropped, N, s = N[~used], N[used], s[used]
    Y = _encoded(claim, y[used], N.shape[1])
    rng, X = check_random_state(random_state), X[used]
    weight, search = s, _steepest
    if claim.convolution is not None:
        X, search = _patches(claim.convolution, X), _steepest_filter
        weight = np.repeat(s, X.shape[1] * X.shape[2])
    if claim.batch_norm:
        white, origin, axes = _whitened(X.reshape(-1, X.shape[-1]), weight)
        X = white.reshape(*X.shape[:-1], -1)
    slope, (u, b) = search(claim, X, N, n_starts, rng)
    unit = (axes @ u, float(b - origin @ axes @ u)) if claim.batch_norm else (u, b)
    # Without a multiple in the domain, that of zero is left.
    scale, bound, off = 0.0, 0.0, np.any(dropped) or not np.isfinite(slope)
    if _is_softmax(claim, N.shape[1]):
        off = off or np.any(np.abs(N.sum(axis=1)) > _ROUNDING * s)
    if not off:
        scale, bound = _best_multiple(claim, N, Y, s, slope)
    tolerance = TOLERANCES[claim.kind]
    # What the last digits of the targets are worth, if the claim is not more than that.
    rounding = 1e-14 * scale * np.sum(np.abs(N * Y)) + 1e-30 * np.sum(s @ Y**2)
    least = claim.dual_bound - tolerance * abs(claim.dual_bound) - rounding
    holds = bool(bound >= least)
    return Verification(
        holds=holds,
        claimed_bound=claim.dual_bound,
        dual_bound=float(bound),
        kappa=float(slope / claim.alpha),
        tolerance=tolerance,
        n_starts=n_starts,
        unit=None if holds or slope <= claim.alpha else unit,
    )


def _whitened(X, s):
    """Data of variance one in all directions in which they vary, and how they come.

    Whitened data are ``(X - origin) @ axes``.
    """
    origin = s @ X / np.sum(s)
    spread = np.sqrt(s @ (X - origin) ** 2 / np.sum(s))
    varies = spread > 1e-13 * np.abs(X).max(axis=0)
    unit = np.where(varies, 1.0 / np.where(varies, spread, 1.0), 0.0)
    weighted = np.sqrt(s / np.sum(s))[:, None] * (X - origin) * unit
    _, singular, axes = np.linalg.svd(weighted, full_matrices=False)
    # What rounding of the data is worth.
    noise = 1e-15 * np.linalg.norm(np.abs(X).max(axis=0) * unit)
    keep = singular > max(noise, 1e-15 * max(X.shape) * singular[0])
    axes = unit[:, None] * (axes[keep].T / singular[keep])
    return (X - origin) @ axes, origin, axes


def _encoded(claim, y, n_outputs):
    """Targets as the formulas have them, shape (n_samples, n_outputs)."""
    if claim.classes is None:
        Y = np.asarray(y, dtype=float).reshape(len(y), -1)
        if claim.loss == "poisson" and np.any(Y < 0):
            raise ValueError("loss='poisson' needs y to be non-negative.")
    else:
        y = np.asarray(y).reshape(len(y), -1)
        # One by one: joined with strings, numbers would become strings.
        if y.shape[1] != 1 or not np.any(y == claim.classes, axis=1).all():
            raise ValueError(
                "y has labels that the certificate does not know; it knows "
                f"{claim.classes}. Give the y that certify was given."
            )
        positive = claim.classes[1:] if n_outputs == 1 else claim.classes
        Y = np.where(y == positive, 1.0, 0.0 if _is_softmax(claim, n_outputs) else -1.0)
    if Y.shape[1] != n_outputs:
        raise ValueError(
            f"y has {Y.shape[1]} outputs, but the dual point of the certificate has "
            f"{n_outputs}. Give the y that certify was given."
        )
    return Y


def _is_softmax(claim, n_outputs):
    """Whether the log loss is that of the softmax of all outputs."""
    return claim.loss == "log_loss" and n_outputs > 1 and not claim.one_vs_rest


def _dual_value(claim, N, Y, s):
    """The dual function ``G(N) = sum_i s_i phi(N_i / s_i)``.

    The function ``phi(p) = min_f l(f, y) + p f`` of a loss ``l`` is finite in a box,
    for the softmax in the part of it where rows sum to zero.
    """
    p, infinite = N / s[:, None], np.full(N.shape, np.inf)
    lower, upper = -infinite, infinite
    if claim.loss in ("squared_error", "huber"):
        phi = Y * p - 0.5 * p**2
        if claim.loss == "huber":
            lower, upper = 0 * Y - claim.epsilon, 0 * Y + claim.epsilon
    elif claim.loss == "quantile":
        phi = Y * p
        lower, upper = 0 * Y - 1.0 + claim.quantile, 0 * Y + claim.quantile
    elif claim.loss == "poisson":
        phi, upper = entr(np.maximum(Y - p, 0.0)) - entr(Y) - p, Y
    elif claim.loss == "squared_hinge":
        phi = Y * p - 0.25 * p**2
        lower, upper = np.where(Y > 0, 0.0, -infinite), np.where(Y > 0, infinite, 0.0)
    elif _is_softmax(claim, N.shape[1]):
        phi, upper = entr(np.maximum(Y - p, 0.0)), Y
    elif claim.loss in ("hinge", "log_loss"):
        lower, upper = np.minimum(Y, 0.0), np.maximum(Y, 0.0)
        share = np.clip(Y * p, 0.0, 1.0)
        phi = share if claim.loss == "hinge" else entr(share) + entr(1.0 - share)
    else:
        raise ValueError(f"There is no formula for loss={claim.loss!r}.")
    below = p < lower - _ROUNDING * np.abs(lower)
    above = p > upper + _ROUNDING * np.abs(upper)
    return -np.inf if np.any(below | above) else float(np.sum(s[:, None] * phi))


def _best_multiple(claim, N, Y, s, slope):
    """The best of the bounds ``G(t N)`` with ``t slope <= alpha``, as (t, bound)."""
    regression = claim.loss in ("squared_error", "huber", "quantile")
    if regression and claim.fit_intercept:
        # The columns of N sum to zero, and fewer digits are lost.
        Y = Y - Y.mean(axis=0)

    def value(t):
        return _dual_value(claim, t * N, Y, s)

    reach = claim.alpha / slope if slope > 0 else 1.0
    low, high = 0.0, reach
    for _ in range(200):
        # The function is concave: one of the outer thirds has no maximum.
        left, right = low + (high - low) / 3.0, high - (high - low) / 3.0
        if value(left) < value(right):
            low = left
        else:
            high = right
    scales = 0.0, low, min(1.0, reach), reach
    return max(((t, value(t)) for t in scales), key=lambda pair: pair[1])


def _steepest(claim, X, N, n_starts, rng):
    """The steepest unit that is found: its slope, and (direction, bias)."""
    constant = np.zeros(X.shape[1]), 1.0
    free = claim.fit_intercept
    if free and np.any(np.abs(N.sum(axis=0)) > _ROUNDING * np.abs(N).sum()):
        return np.inf, constant
    # Free biases make up for the centre, without which less is lost to rounding.
    centre = X.mean(axis=0) if free else np.zeros(X.shape[1])
    X = X - centre
    found = [(0.0, *constant)]
    # Dual variables without the part that pulls all climbs towards linear units.
    curved = N - X @ np.linalg.lstsq(X, N)[0]
    if free:
        # A unit that is active everywhere is linear.
        U, singular, _ = np.linalg.svd(X.T @ N, full_matrices=False)
        found.append((singular[0], U[:, 0], -np.min(X @ U[:, 0])))
    for k in range(n_starts):
        # In turn through the data, at a sample, and from one sample to another.
        i, j = rng.randint(len(X), size=2)
        u = (X.T @ rng.standard_normal(len(X)), X[i], X[i] - X[j])[k % 3]
        u = rng.choice([-1.0, 1.0]) * u
        if np.any(u):
            if k % 2:
                u = _climb(claim, X, curved, u)[1]
            found.append(_climb(claim, X, N, u))
    slope, u, b = max(found, key=lambda unit: unit[0])
    return slope, (u, float(b - centre @ u))


def _climb(claim, X, N, u):
    """The steepest unit on a way uphill from `u`, as (slope, direction, bias)."""
    best = (0.0, u, 0.0)
    for step in _STEPS:
        u = u / np.linalg.norm(u)
        # The unit is zero at its anchor, and stays so when it turns.
        anchor = _best_anchor(claim, X, N, u) if claim.fit_intercept else 0.0 * u
        z = X @ u - anchor @ u
        active = np.where(z > 0, 1.0, claim.negative_slope)
        slopes = N.T @ (active * z)
        slope = np.linalg.norm(slopes)
        if slope > best[0]:
            best = slope, u, -anchor @ u
        pull = active * (N @ slopes)
        uphill = X.T @ pull - np.sum(pull) * anchor
        size = np.linalg.norm(uphill)
        if size == 0:
            break
        u = u + step * uphill / size
    return best


def _best_anchor(claim, X, N, u):
    """The sample at which a unit of this direction is steepest if it is zero there.

    The slope is a convex function of the bias between two samples.
    """
    z = X @ u
    order = np.argsort(z)
    z, N = z[order, None], N[order]
    # Over all samples from each on.
    sums = np.cumsum(N[::-1], axis=0)[::-1]
    moments = np.cumsum((N * z)[::-1], axis=0)[::-1]
    leak = claim.negative_slope
    slopes = (1.0 - leak) * (moments - z * sums) + leak * moments[0]
    return X[order[np.argmax(np.linalg.norm(slopes, axis=1))]]


def _patches(convolution, X):
    """Patches of inputs, shape (n_samples, n_windows, window_size, patch_size)."""
    shape, kernel = convolution["input_shape"], convolution["kernel_size"]
    window, steps = convolution["pool_size"], convolution["strides"]
    images = X.reshape(len(X), *shape, convolution["n_channels"])
    images = np.pad(images, [(0, 0), *convolution["padding"], (0, 0)])
    reach = [length - size for length, size in zip(images.shape[1:], kernel)]
    counts = [
        last // step // size + (last // step % size == size - 1)
        for last, step, size in zip(reach, steps, window)
    ]
    rows = []
    for q in np.ndindex(*counts):
        for place in np.ndindex(*window):
            at = (np.array(q) * window + place) * steps
            cut = [slice(first, first + size) for first, size in zip(at, kernel)]
            rows.append(images[(slice(None), *cut)].reshape(len(X), -1))
    patches = np.stack(rows, axis=1)
    return patches.reshape(len(X), int(np.prod(counts)), int(np.prod(window)), -1)


def _pooled(claim, z):
    """Pooled outputs of pre-activations, and their derivatives by these."""
    if claim.convolution["pooling"] == "max":
        first = np.argmax(z, axis=2)[:, :, None] == np.arange(z.shape[2])
        weights = first * (z > 0)
    else:
        weights = (z > 0) / z.shape[2]
    return np.sum(weights * z, axis=2), weights


def _steepest_filter(claim, P, N, n_starts, rng):
    """As `_steepest`, of filters on patches, whose outputs are pooled."""
    constant = np.zeros(P.shape[-1]), 1.0
    rows, free = P.reshape(-1, P.shape[-1]), claim.fit_intercept
    if free and np.any(np.abs(N.sum(axis=0)) > _ROUNDING * np.abs(N).sum()):
        return np.inf, constant
    centre = rows.mean(axis=0) if free else 0.0 * rows[0]
    P, rows = P - centre, rows - centre
    found = [(0.0, *constant)]
    if free and claim.convolution["pooling"] != "max":
        # Filters that are active on all patches are linear.
        sums = np.einsum("iqwh,ic->hqc", P, N) / P.shape[2]
        U, singular, _ = np.linalg.svd(sums.reshape(len(sums), -1))
        found.append((singular[0], U[:, 0], -np.min(rows @ U[:, 0])))
    for k in range(n_starts):
        i, j = rng.randint(len(rows), size=2)
        u = (rng.standard_normal(P.shape[-1]), rows[i], rows[i] - rows[j])[k % 3]
        u = rng.choice([-1.0, 1.0]) * u
        if np.any(u):
            found.append(_climb_by_filter(claim, P, N, u, rng))
    slope, u, b = max(found, key=lambda unit: unit[0])
    return slope, (u, float(b - centre @ u))


def _climb_by_filter(claim, P, N, u, rng):
    """As `_climb`, of a filter."""
    best, rows = (0.0, u, 0.0), P.reshape(-1, P.shape[-1])

    def slopes(u, anchor):
        Z, weights = _pooled(claim, P @ u - anchor @ u)
        return Z.T @ N, weights

    anchor = rows[rng.randint(len(rows))]
    for step in _STEPS:
        u = u / np.linalg.norm(u)
        anchors = [anchor]
        if claim.fit_intercept:
            # Some of the patches: the slope is computed afresh for each of them.
            anchors += [*rows[rng.randint(len(rows), size=_ANCHORS)]]
        else:
            anchors = [0.0 * u]
        anchor = max(anchors, key=lambda a: np.linalg.norm(slopes(u, a)[0]))
        S, weights = slopes(u, anchor)
        slope = np.linalg.norm(S)
        if slope > best[0]:
            best = slope, u, -anchor @ u
        pull = (N @ S.T)[:, :, None] * weights
        uphill = np.einsum("iqw,iqwh->h", pull, P) - np.sum(pull) * anchor
        size = np.linalg.norm(uphill)
        if size == 0:
            break
        u = u + step * uphill / size
    return best
