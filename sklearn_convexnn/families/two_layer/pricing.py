"""Pricing: search for the neurons that violate the dual constraint.

At a dual point ``nu`` a neuron with unit direction ``u`` and bias ``b``
improves the network if ``|nu^T act(X u + b)| > alpha``.  The search finds
local maximisers; what it does not find is not proven to be absent.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import qr
from scipy.sparse import eye_array

from sklearn_convexnn._utils.deadlines import check, svd_work
from sklearn_convexnn.families.two_layer.climbing import Hill, row_norms

# Elements of the array of all outputs that one batch of directions may have.
_BATCH = 4_000_000
# Outputs of all starts up to which these are candidates as they are.
_AS_GIVEN = 300_000

FAR = ((0.5, 0.65), (0.1, 0.9), (0.02, 0.95), (0.004, 0.97))
NEAR = ((0.01, 0.95), (0.001, 0.97))
"""For starts that are far from or near to a maximiser: widths of the smoothed
kinks, one after the other, relative to the spread of the outputs; and the part of
the slope wanted that has to be reached there.  Of the climbs that ended above that
slope, none had been below these parts (measured on two tables)."""
# Elements of an array that is sorted, or squared, at once.
_SORTED, _CHUNK = 1_000_000, 4_000_000
# Samples through which the hyperplane of a start is put, at most.
_HELD = 10
# Features up to which their principal axes are looked for.
_MANY_FEATURES = 1000
# Below this part of the slope wanted a candidate is not worth finishing.
_WORTH_POLISH = 0.98


@dataclass(frozen=True)
class Candidates:
    """Neurons with their slopes, steepest first.

    Attributes
    ----------
    directions : ndarray of shape (n_candidates, n_features)
        Unit rows.
    biases, signs, slopes : ndarray of shape (n_candidates,)
        The slope is ``sign * nu^T act(X direction + bias)``.
    """

    directions: np.ndarray
    biases: np.ndarray
    signs: np.ndarray
    slopes: np.ndarray

    def __len__(self):
        return len(self.slopes)

    def select(self, keep):
        """The candidates at index or mask `keep`."""
        return Candidates(
            self.directions[keep],
            self.biases[keep],
            self.signs[keep],
            self.slopes[keep],
        )


def search_neurons(
    X,
    nu,
    starts,
    signs,
    *,
    free_bias,
    negative_slope=0.0,
    floor=0.0,
    widths=FAR,
    rescale=False,
    apart=False,
    max_iter=80,
    polish=60,
):
    r"""Local maximisers of the slope from many starting directions at once.

    A projected supergradient step with a step size of its own for each
    direction, which shrinks on failure.  Where ``sign * nu_i < 0`` the slope
    has a concave kink, on which ascent would get stuck; these kinks are
    smoothed, over a width that shrinks.  With `free_bias` a neuron hangs on
    the sample at which its output begins; the best such sample is found exactly
    by one sort per direction.  The steepest are finished by convex-concave
    steps.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    nu : ndarray of shape (n_samples,)
        Sums to zero if `free_bias`.
    starts : ndarray of shape (n_starts, n_features)
        Directions of any length but zero.
    signs : ndarray of shape (n_starts,)
        The output sign with which to start.
    free_bias : bool
    negative_slope : float, default=0.0
    floor : float, default=0.0
        The slope wanted.  Climbs that fall behind are given up, and not among
        the candidates.
    widths : tuple
        `FAR` or `NEAR`.
    rescale : bool, default=False
        Whether to climb as if the data had the same spread in all directions.
        On some data this finds what is missed otherwise, on some it is the
        other way round.
    apart : bool, default=False
        Whether the scales of the features are so far apart that each direction needs
        a metric of its own.
    max_iter : int, default=80
    polish : int, default=60
        Number of candidates to finish, at most.

    Returns
    -------
    candidates : Candidates
        Distinct ones, steepest first.

    References
    ----------
    .. [1] Bach, F. (2017). "Breaking the Curse of Dimensionality with Convex
       Neural Networks". JMLR 18. Section 2.5 (the incremental step).
    """
    none = np.zeros(0)
    if len(starts) == 0 or not np.any(nu):
        return Candidates(np.zeros((0, X.shape[1])), none, none, none)
    size = max(1, _BATCH // len(X))
    search = _Search(X, nu, free_bias, negative_slope, apart=apart)
    # Single precision is enough to find the way, and twice as fast; its range is
    # small, so units are taken out.
    unit_X = max(np.max(np.abs(X)), np.finfo(float).tiny)
    unit_nu = max(np.max(np.abs(nu)), np.finfo(float).tiny)
    axes = principal_axes(X, centred=free_bias)
    rough = _Search(
        (X @ axes / unit_X).astype(np.float32),
        (nu / unit_nu).astype(np.float32),
        free_bias,
        negative_slope,
        rescale,
        apart,
    )
    low = floor / unit_X / unit_nu
    given, starts = starts, starts @ axes
    parts = [
        rough.ascend(starts[i : i + size], signs[i : i + size], low, widths, max_iter)
        for i in range(0, len(starts), size)
    ]
    U, at, ended = (np.concatenate(part) for part in zip(*parts))
    found = search.evaluate(U @ axes.T, at, ended)
    if len(X) * len(given) <= _AS_GIVEN:
        # Hills as narrow as rounding, on the hyperplanes of samples that are much
        # longer than others, are lost in single precision.
        before = search.evaluate(given, search.best_anchors(given, signs), signs)
        steeper = before.slopes > (1.0 + 1e-9) * found.slopes.max(initial=floor)
        found = merge_candidates([found, before.select(steeper)], X, apart)
    found = merge_candidates([found], X, apart)
    if polish:
        worth = int(np.sum(found.slopes > _WORTH_POLISH * floor))
        some = min(polish, worth)
        finished = search.polish(found.select(slice(0, some)))
        found = merge_candidates([finished, found.select(slice(some, None))], X, apart)
    return found


def search_widely(X, nu, size, rng, *, starts=None, free_bias, apart=False, **options):
    """`search_neurons` of both signs from random directions, of two kinds.

    Where the data spread much more in some directions than in others, as with
    samples far from the origin, few random directions have kinks among the
    samples, unless all principal components count alike.  Elsewhere such
    directions are not enough.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    nu : ndarray of shape (n_samples,)
    size : int
        Random directions of each kind, half as many of the plain one.
    rng : RandomState
    starts : ndarray of shape (n_starts, n_features) or None
        Further directions, used both ways.
    free_bias, apart : bool
    **options : dict
        As of `search_neurons`.

    Returns
    -------
    candidates : Candidates
    """
    plain, shaped = random_directions(X, size, rng, free_bias, apart)
    rows = [nu @ X, np.maximum(nu, 0.0) @ X, np.minimum(nu, 0.0) @ X]
    plain, shaped = [plain, rows], [shaped]
    found = []
    for parts, rescale in ((plain, False), (shaped, True)):
        parts = np.concatenate(parts if starts is None else [*parts, starts])
        parts = parts[np.any(parts != 0, axis=1)]
        found.append(
            search_neurons(
                X,
                nu,
                np.concatenate([parts, parts]),
                np.repeat([1.0, -1.0], len(parts)),
                free_bias=free_bias,
                rescale=rescale,
                apart=apart,
                **options,
            )
        )
    return merge_candidates(found, X, apart)


def random_directions(X, size, rng, free_bias, apart=False):
    """Starting directions of two kinds, as `search_widely` explains.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    size : int
    rng : RandomState
    free_bias, apart : bool

    Returns
    -------
    plain : ndarray of shape (size // 2, n_features)
        At least one.
    shaped : ndarray of shape (size, n_features)
    """
    axes = principal_axes(X, centred=free_bias)
    spread = column_spread(X @ axes, free_bias, apart)
    plain = rng.standard_normal((max(1, size // 2), X.shape[1]))
    shaped = rng.standard_normal((size, X.shape[1]))
    if apart:
        # Between the two kinds, since features of small scale cost the most.
        spread = spread ** rng.uniform(size=(size, 1))
    shaped = shaped / spread @ axes.T
    # Steep neurons often hang on some of the samples.
    shaped[::2] = _through_samples(X, shaped[::2], rng, free_bias)
    return plain, shaped


def _through_samples(X, directions, rng, free_bias):
    """Turn directions so that the output of some random samples is the same.

    It is zero without a free bias.
    """
    size, d = directions.shape
    most = min(d, len(X)) - 1
    if most < 1 or size == 0:
        return directions
    chosen = X[rng.randint(len(X), size=(size, min(most, _HELD) + 1))]
    rows = chosen[:, 1:] - (chosen[:, :1] if free_bias else 0.0)
    # A different number of them for each direction.
    count = 1 + rng.randint(rows.shape[1], size=size)
    rows[np.arange(rows.shape[1]) >= count[:, None]] = 0.0
    check(20.0 * rows.size * rows.shape[1])
    Q, R = np.linalg.qr(rows.transpose(0, 2, 1))
    pivots = np.abs(np.einsum("kii->ki", R))
    Q = Q * (pivots > 1e-9 * np.max(pivots, initial=1e-300))[:, None, :]
    along = np.einsum("kdi,kd->ki", Q, directions)
    return directions - np.einsum("kdi,ki->kd", Q, along)


def along_biases(X, nu, directions, negative_slope, floor, most=50, each=20):
    """Neurons of given directions at all biases where they are steepest nearby.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    nu : ndarray of shape (n_samples,)
        Sums to zero.
    directions : ndarray of shape (n_directions, n_features)
        Unit rows.
    negative_slope : float
    floor : float
        The slope wanted.
    most, each : int
        Directions to look at, and biases of each and sign.

    Returns
    -------
    candidates : Candidates
    """
    directions = directions[:most]
    z = X @ directions.T
    order = np.argsort(-z, axis=0, kind="stable")
    z = np.take_along_axis(z, order, axis=0)
    weight = nu[order]
    # The part to the right of each sample; sums of all do not depend on the bias.
    values = np.cumsum(weight * z, axis=0)
    total = values[-1:]
    values = values - np.cumsum(weight, axis=0) * z
    values = (1.0 - negative_slope) * values + negative_slope * total
    parts = []
    for sign in (1.0, -1.0):
        slopes = sign * values
        lowest = np.full((1, slopes.shape[1]), -np.inf)
        before = np.concatenate([lowest, slopes[:-1]])
        after = np.concatenate([slopes[1:], lowest])
        peaks = np.where((slopes >= before) & (slopes > after), slopes, -np.inf)
        best = np.argsort(-peaks, axis=0, kind="stable")[:each]
        row, column = best.ravel(), np.tile(np.arange(len(directions)), len(best))
        keep = peaks[row, column] > floor
        row, column = row[keep], column[keep]
        parts.append((directions[column], -z[row, column], slopes[row, column], sign))
    return Candidates(
        np.concatenate([part[0] for part in parts]),
        np.concatenate([part[1] for part in parts]),
        np.concatenate([np.full(len(part[1]), part[3]) for part in parts]),
        np.concatenate([part[2] for part in parts]),
    )


def principal_axes(X, centred=False):
    """Orthonormal directions along which the data spread independently.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    centred : bool, default=False
        Whether the spread is about the mean, rather than about the origin.

    Returns
    -------
    axes : {ndarray, sparse array} of shape (n_features, n_features)
        Those of the features if they are so many that others would take longer to
        find than they save.
    """
    if X.shape[1] > _MANY_FEATURES:
        return eye_array(X.shape[1], format="csr")
    d = X.shape[1]
    check(2.0 * X.size * d + svd_work((d, d)))
    X = X - X.mean(axis=0) if centred else X
    unit = max(np.max(np.abs(X), initial=0.0), np.finfo(float).tiny)
    return np.linalg.eigh((X / unit).T @ (X / unit))[1]


def column_spread(X, centred=False, apart=False):
    """Root mean square of each column, but at least a small part of the largest.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    centred : bool, default=False
    apart : bool, default=False
        Whether scales that are far apart matter.

    Returns
    -------
    spread : ndarray of shape (n_features,)
    """
    centre = X.mean(axis=0) if centred else X.dtype.type(0.0)
    step = max(1, _CHUNK // X.shape[1])
    parts = [
        np.sum(np.square(X[i : i + step] - centre), axis=0)
        for i in range(0, len(X), step)
    ]
    spread = np.sqrt(sum(parts) / len(X))
    largest = max(spread.max(initial=0.0), np.finfo(X.dtype).tiny)
    return np.maximum(spread, (1e-7 if apart else 1e-3) * largest)


def merge_candidates(parts, X, apart=False):
    """Distinct candidates of several searches, steepest first.

    Parameters
    ----------
    parts : list of Candidates
    X : ndarray of shape (n_samples, n_features)
    apart : bool, default=False
        Whether the outputs have to be parallel too.

    Returns
    -------
    candidates : Candidates
        At most 400.
    """
    found = Candidates(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("directions", "biases", "signs", "slopes")
        )
    )
    found = found.select(np.argsort(-found.slopes, kind="stable"))
    return _distinct(found, 1e-3, X, apart)


def _distinct(candidates, tol, X, apart, most=400):
    """Drop candidates that are parallel to a steeper one of the same sign."""
    candidates = candidates.select(slice(0, 4 * most))
    keep = first_of_each(
        unit_points(candidates, X),
        candidates.signs,
        tol,
        unit_points(candidates, X, column_spread(X, apart=True)) if apart else None,
    )
    return candidates.select(keep[:most])


def unit_points(candidates, X, spread=None):
    """Unit rows that are parallel if hyperplanes of candidates are the same.

    With the root mean square of each column as `spread` they are so only if the
    outputs are almost parallel too.

    Parameters
    ----------
    candidates : Candidates
    X : ndarray of shape (n_samples, n_features)
    spread : ndarray of shape (n_features,) or None

    Returns
    -------
    points : ndarray of shape (n_candidates, n_features + 1)
    """
    directions, scale = candidates.directions, 1.0
    if spread is None:
        scale = np.sqrt(np.mean(np.sum(X**2, axis=1))) + 1e-300
    else:
        directions = directions * spread
    points = np.column_stack([directions, candidates.biases / scale])
    points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-300)
    return points


def first_of_each(points, kinds, tol, outputs=None):
    """Indices of unit rows that no earlier one of their kind is parallel to.

    If there are unit rows that stand for `outputs`, these have to be parallel too.

    Parameters
    ----------
    points : ndarray of shape (n_points, n_columns)
    kinds : ndarray of shape (n_points,)
    tol : float
        By how much the cosine of parallel rows may be less than one.
    outputs : ndarray of shape (n_points, n_other_columns) or None

    Returns
    -------
    indices : ndarray of int
    """
    close = (points @ points.T > 1.0 - tol) & (kinds[:, None] == kinds)
    if outputs is not None:
        close &= outputs @ outputs.T > 1.0 - tol
    keep = []
    free = np.ones(len(points), dtype=bool)
    for i in range(len(points)):
        if free[i]:
            keep.append(i)
            free &= ~close[i]
    return np.array(keep, dtype=int)


class _Search:
    def __init__(self, X, nu, free_bias, negative_slope, rescale=False, apart=False):
        self.X, self.nu = X, nu
        self.free_bias, self.negative_slope = free_bias, negative_slope
        self.rescale, self.apart = rescale, apart

    def slopes(self, z):
        """``nu^T act(z)`` for each column."""
        a = self.negative_slope
        positive = self.nu @ np.maximum(z, 0.0)
        return positive if a == 0 else (1.0 - a) * positive + a * (self.nu @ z)

    def anchor(self, z, nu):
        """Sample of each column at which the output best begins."""
        order = np.argsort(-z, axis=0, kind="stable")
        sorted_z = np.take_along_axis(z, order, axis=0)
        weight = nu[order]
        # The part to the right of each sample; the rest is constant in the bias.
        values = np.cumsum(weight * sorted_z, axis=0)
        values -= np.cumsum(weight, axis=0) * sorted_z
        return order[np.argmax(values, axis=0), np.arange(z.shape[1])]

    def best_anchors(self, U, signs):
        """Samples that neurons of given directions best hang on, if these count."""
        at = np.zeros(len(U), dtype=int)
        if self.free_bias:
            for sign in (1.0, -1.0):
                some = signs == sign
                at[some] = self.anchor(self.X @ U[some].T, sign * self.nu)
        return at

    def evaluate(self, U, at, signs):
        """Candidates of unit directions and the samples that they hang on."""
        U = U.astype(np.float64)
        U /= np.linalg.norm(U, axis=1, keepdims=True)
        biases = np.zeros(len(U))
        if self.free_bias:
            biases = -np.einsum("kd,kd->k", self.X[at], U)
        slopes = np.zeros(len(U))
        for i in range(0, len(U), 500):
            check(2.0 * self.X.size * min(500, len(U) - i))
            some = slice(i, i + 500)
            slopes[some] = signs[some] * self.slopes(self.X @ U[some].T + biases[some])
        return Candidates(U, biases, signs.astype(np.float64), slopes)

    def ascend(self, starts, signs, floor, widths, max_iter):
        """Directions, samples they hang on, and signs, after the ascent."""
        parts = []
        for sign in (1.0, -1.0):
            of_sign = signs == sign
            if of_sign.any():
                found = self._ascend(starts[of_sign], sign, floor, widths, max_iter)
                parts.append((*found, np.full(len(found[1]), sign)))
        return tuple(np.concatenate(part) for part in zip(*parts))

    def _ascend(self, starts, sign, floor, widths, max_iter):
        dtype = self.X.dtype
        # Convex rows first: only at the others do kinks hold a neuron back.
        order = np.argsort(-sign * self.nu, kind="stable")
        hill = Hill(self.X[order], sign * self.nu[order], self.negative_slope)
        U = (starts / np.linalg.norm(starts, axis=1)[:, None]).astype(dtype)
        spread = column_spread(self.X, self.free_bias, self.apart)
        if self.apart:
            hill.spread = spread
        elif not self.rescale:
            spread[:] = np.sqrt(np.mean(spread**2))
        hill.metric = (np.min(spread) / spread) ** 2
        step = np.full(len(U), 0.5, dtype=dtype)
        at = None
        for width, part in widths:
            if self.free_bias:
                some = max(1, _SORTED // len(hill.X))
                parts = []
                for i in range(0, len(U), some):
                    check()
                    parts.append(self.anchor(hill.X @ U[i : i + some].T, hill.nu))
                at = np.concatenate(parts)
            hill.smooth(width * row_norms(U * spread), at)
            step = np.maximum(step, dtype.type(0.05))
            value, hope, step = hill.climb(U, step, max(1, max_iter // len(widths)))
            keep = np.flatnonzero(hope > part * floor)
            keep = keep[np.argsort(-value[keep], kind="stable")]
            # Most starts climb the same few hills; one climber each is enough.
            kinds = np.zeros(len(U)) if at is None else at
            outputs = None
            if self.apart:
                outputs = U[keep] * spread
                outputs /= row_norms(outputs)[:, None]
            keep = keep[first_of_each(U[keep], kinds[keep], 1e-3, outputs)]
            U, step = U[keep], step[keep]
            at = None if at is None else at[keep]
            if len(U) == 0:
                break
        return U, np.zeros(len(U), dtype=int) if at is None else order[at]

    def polish(self, candidates, rounds=3):
        """Convex-concave steps, batched; slopes never fall."""
        X = self.X
        U, b, signs = candidates.directions.T, candidates.biases, candidates.signs
        value = candidates.slopes
        if len(value) == 0:
            return candidates
        at = np.zeros(len(value), dtype=int)
        if self.free_bias:
            # The sample the neuron hangs on.
            at = np.argmin(np.abs(X @ U + b), axis=0)
        outward = signs * self.nu[:, None]
        for _ in range(rounds):
            trial = concave_step(X, outward, U, at, self.negative_slope, self.free_bias)
            z = X @ trial
            if self.free_bias:
                z -= z[at, np.arange(len(at))]
            found = signs * self.slopes(z)
            better = found > value
            U = np.where(better, trial, U)
            value = np.where(better, found, value)
            if not better.any():
                break
        if self.free_bias:
            b = -np.einsum("kd,dk->k", X[at], U)
        return Candidates(U.T, b, signs, value)


def concave_step(X, outward, U, at, negative_slope, free_bias, max_iter=100):
    """One convex-concave step of many neurons.

    Where ``outward > 0`` the activation is replaced by its line at the current
    point.  What remains is concave; its dual is a least squares problem over a
    box, solved by accelerated gradient steps.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    outward : ndarray of shape (n_samples, n_neurons)
        Weights of the outputs of each neuron in its slope.
    U : ndarray of shape (n_features, n_neurons)
        Unit columns.
    at : ndarray of int, shape (n_neurons,)
        Samples that the neurons hang on if `free_bias`.
    negative_slope : float
    free_bias : bool
    max_iter : int, default=100

    Returns
    -------
    trial : ndarray of shape (n_features, n_neurons)
        Unit columns; those of `U` where there is no direction to go.
    """
    a = negative_slope

    def pull(weights, X=X):
        g = X.T @ weights
        if free_bias:
            g -= X[at].T * np.sum(weights, axis=0)
        return g

    def outputs(U, X=X):
        z = X @ U
        if free_bias:
            z -= z[at, np.arange(len(at))]
        return z

    z = outputs(U)
    convex = outward > 0
    fixed = np.where(z > 0, 1.0, a) * outward
    low = np.where(convex, fixed, outward)
    high = np.where(convex, fixed, a * outward)
    low, high = np.minimum(low, high), np.maximum(low, high)
    weights = np.clip(fixed, low, high)
    weights = _in_box(X, weights, low, high, pull, outputs, free_bias, max_iter)
    trial = pull(weights)
    norm = np.linalg.norm(trial, axis=0)
    trial = np.where(norm > 0, trial / np.maximum(norm, 1e-300), U)
    # Samples whose weight is inside of its bounds are those on the hyperplane,
    # which gradient steps only come near.
    margin = 1e-3 * (high - low)
    resting = (weights > low + margin) & (weights < high - margin)
    pushing = np.where(resting, 0.0, np.where(outputs(trial) > 0, 1.0, a) * outward)
    exact = pull(pushing)
    for k in np.flatnonzero(resting.any(axis=0)):
        check()
        rows = X[resting[:, k]] - (X[at[k]] if free_bias else 0.0)
        Q, R, _ = qr(rows.T, mode="economic", pivoting=True, check_finite=False)
        pivots = np.abs(np.diag(R))
        Q = Q[:, pivots > 1e-9 * pivots.max(initial=0.0)]
        exact[:, k] -= Q @ (Q.T @ exact[:, k])
    norm = np.linalg.norm(exact, axis=0)
    exact = np.where(norm > 0, exact / np.maximum(norm, 1e-300), trial)

    def slopes(U):
        z = outputs(U)
        return np.sum(outward * np.where(z > 0, z, a * z), axis=0)

    return np.where(slopes(exact) > slopes(trial), exact, trial)


def _in_box(X, weights, low, high, pull, outputs, free_bias, max_iter):
    """The least squares over the box, by accelerated gradient steps.

    In single precision, twice as fast, as in the climbs.
    """
    largest = max(np.max(np.abs(X)), np.finfo(float).tiny)
    X = (X / largest).astype(np.float32)
    unit = max(np.max(np.abs(low)), np.max(np.abs(high)), np.finfo(float).tiny)
    low, high = (low / unit).astype(X.dtype), (high / unit).astype(X.dtype)
    check(float(X.size) * min(X.shape))
    squares = (X.T @ X if len(X) > X.shape[1] else X @ X.T).astype(float)
    bound = np.max(np.linalg.eigvalsh(squares)) * (4.0 if free_bias else 1.0)
    rate = X.dtype.type(1.0 / max(bound, np.finfo(X.dtype).tiny))
    weights = ahead = (weights / unit).astype(X.dtype)
    momentum = 1.0
    for _ in range(max_iter):
        check(2.0 * X.size * low.shape[1])
        stepped = outputs(pull(ahead, X), X)
        stepped *= -rate
        stepped += ahead
        np.clip(stepped, low, high, out=stepped)
        following = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * momentum**2))
        ahead = stepped - weights
        ahead *= X.dtype.type((momentum - 1.0) / following)
        ahead += stepped
        weights, momentum = stepped, following
    return weights.astype(np.float64) * unit
