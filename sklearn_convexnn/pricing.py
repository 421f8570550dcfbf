"""Pricing: search for the neurons that violate the dual constraint.

At a dual point ``nu`` a neuron with unit direction ``u`` and bias ``b``
improves the network if ``|nu^T act(X u + b)| > alpha``.  The search finds
local maximisers; what it does not find is not proven to be absent.
"""

from dataclasses import dataclass

import numpy as np

# Elements of the array of all outputs that one batch of directions may have.
_BATCH = 4_000_000

FAR, NEAR = (0.5, 0.1, 0.02, 0.004), (0.01, 0.001)
"""Widths of the smoothed kinks, one after the other, for starts that are far
from or near to a maximiser; in units of the entries of the data."""


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
        Starts that are still below 0.7 times this slope after the first width
        are given up, and not among the candidates.
    widths : tuple of float
        `FAR` or `NEAR`.
    max_iter : int, default=80
    polish : int, default=60
        Number of candidates to finish.

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
    if len(starts) == 0:
        return Candidates(np.zeros((0, X.shape[1])), none, none, none)
    size = max(1, _BATCH // len(X))
    search = _Search(X, nu, free_bias, negative_slope)
    # Single precision is enough to find the way, and twice as fast; its range is
    # small, so units are taken out.
    unit_X = max(np.max(np.abs(X)), np.finfo(float).tiny)
    unit_nu = max(np.max(np.abs(nu)), np.finfo(float).tiny)
    rough = _Search(
        (X / unit_X).astype(np.float32),
        (nu / unit_nu).astype(np.float32),
        free_bias,
        negative_slope,
    )
    floor = floor / unit_X / unit_nu
    parts = [
        rough.ascend(starts[i : i + size], signs[i : i + size], floor, widths, max_iter)
        for i in range(0, len(starts), size)
    ]
    found = search.evaluate(*(np.concatenate(part) for part in zip(*parts)))
    found = merge_candidates([found], X)
    if polish:
        finished = search.polish(found.select(slice(0, polish)))
        found = merge_candidates([finished, found.select(slice(polish, None))], X)
    return found


def merge_candidates(parts, X):
    """Distinct candidates of several searches, steepest first.

    Parameters
    ----------
    parts : list of Candidates
    X : ndarray of shape (n_samples, n_features)

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
    return _distinct(found, 1e-3, X)


def _distinct(candidates, tol, X, most=400):
    """Drop candidates that are parallel to a steeper one of the same sign."""
    candidates = candidates.select(slice(0, 4 * most))
    scale = np.sqrt(np.mean(np.sum(X**2, axis=1))) + 1e-300
    points = np.column_stack([candidates.directions, candidates.biases / scale])
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    keep = _first_of_each(points, candidates.signs, tol)[:most]
    return candidates.select(keep)


def _first_of_each(points, kinds, tol):
    """Indices of unit rows that no earlier one of their kind is parallel to."""
    close = (points @ points.T > 1.0 - tol) & (kinds[:, None] == kinds)
    keep = []
    free = np.ones(len(points), dtype=bool)
    for i in range(len(points)):
        if free[i]:
            keep.append(i)
            free &= ~close[i]
    return np.array(keep, dtype=int)


class _Search:
    def __init__(self, X, nu, free_bias, negative_slope):
        self.X, self.nu = X, nu
        self.free_bias, self.negative_slope = free_bias, negative_slope

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

    def evaluate(self, U, at, signs):
        """Candidates of unit directions and the samples that they hang on."""
        U = U.astype(np.float64)
        U /= np.linalg.norm(U, axis=1, keepdims=True)
        biases = np.zeros(len(U))
        if self.free_bias:
            biases = -np.einsum("kd,kd->k", self.X[at], U)
        slopes = np.zeros(len(U))
        for i in range(0, len(U), 500):
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
        a, dtype = self.negative_slope, self.X.dtype
        # Convex rows first: only at the others do kinks hold a neuron back.
        order = np.argsort(-sign * self.nu, kind="stable")
        X, nu = self.X[order], sign * self.nu[order]
        n_convex = int(np.sum(nu > 0))
        linear = nu @ X
        U = (starts.T / np.linalg.norm(starts, axis=1)).astype(dtype)
        k = U.shape[1]
        at = np.zeros(k, dtype=int)
        if self.free_bias:
            at = self.anchor(X @ U, nu)
        base = np.sqrt(np.mean(X**2))
        step = np.full(k, 0.5, dtype=dtype)
        tiny = np.finfo(dtype).tiny
        each = max(1, max_iter // len(widths))

        def outputs(U, at):
            z = X @ U
            return z - z[at, np.arange(len(at))] if self.free_bias else z

        def smooth(z, width):
            """Slope, and derivative of the activation, which replaces `z`."""
            upper, lower = z[:n_convex], z[n_convex:]
            value = nu[:n_convex] @ np.maximum(upper, 0.0)
            np.greater(upper, 0.0, out=upper, casting="unsafe")
            half = dtype.type(0.5 * width)
            share = np.clip(lower * dtype.type(1.0 / width) + dtype.type(0.5), 0.0, 1.0)
            value = value + nu[n_convex:] @ (share * (lower + half - half * share))
            z[n_convex:] = share
            return value, z

        for phase, width in enumerate(widths):
            width *= base
            if self.free_bias and phase:
                at = self.anchor(X @ U, nu)
            value, share = smooth(outputs(U, at), width)
            step = np.maximum(step, dtype.type(0.05))
            live = np.arange(k)
            for _ in range(each):
                live = live[step[live] > 1e-3]
                if len(live) == 0:
                    break
                weight = share[:, live] * nu[:, None]
                gradient = X.T @ weight
                total = np.sum(weight, axis=0) if self.free_bias else None
                if a != 0:
                    gradient = (1.0 - a) * gradient + a * linear[:, None]
                    if self.free_bias:
                        total = (1.0 - a) * total
                if self.free_bias:
                    gradient -= X[at[live]].T * total
                norm = np.maximum(np.linalg.norm(gradient, axis=0), tiny)
                trial = U[:, live] + step[live] * gradient / norm
                trial /= np.maximum(np.linalg.norm(trial, axis=0), tiny)
                found, trial_share = smooth(outputs(trial, at[live]), width)
                if a != 0:
                    found = (1.0 - a) * found + a * (linear @ trial)
                better = found > value[live]
                index = live[better]
                U[:, index] = trial[:, better]
                share[:, index] = trial_share[:, better]
                value[index] = found[better]
                step[live] = np.minimum(step[live] * np.where(better, 1.5, 0.4), 4.0)
            keep = np.flatnonzero(value > 0.7 * floor)
            keep = keep[np.argsort(-value[keep], kind="stable")]
            # Most starts climb the same few hills; one climber each is enough.
            keep = keep[_first_of_each(U[:, keep].T, at[keep], 1e-3)]
            U, at, step = U[:, keep], at[keep], step[keep]
            k = len(at)
            if k == 0:
                break
        return U.T, order[at]

    def polish(self, candidates, rounds=3, max_iter=100):
        """Convex-concave steps, batched; slopes never fall.

        Where ``sign * nu_i > 0`` the activation is replaced by its line at
        the current point.  What remains is concave; its dual is a least
        squares problem over a box, solved by accelerated gradient steps.
        """
        X, a = self.X, self.negative_slope
        U, b, signs = candidates.directions.T, candidates.biases, candidates.signs
        value = candidates.slopes
        if len(value) == 0:
            return candidates
        outward = signs * self.nu[:, None]
        at = np.zeros(len(value), dtype=int)
        if self.free_bias:
            # The sample the neuron hangs on.
            at = np.argmin(np.abs(X @ U + b), axis=0)
        lipschitz = np.linalg.norm(X, 2) ** 2 * (4.0 if self.free_bias else 1.0)

        def pull(weights):
            g = X.T @ weights
            if self.free_bias:
                g -= X[at].T * np.sum(weights, axis=0)
            return g

        def outputs(U):
            z = X @ U
            return z - z[at, np.arange(len(at))] if self.free_bias else z

        for _ in range(rounds):
            z = outputs(U)
            convex = outward > 0
            fixed = np.where(z > 0, 1.0, a) * outward
            low = np.where(convex, fixed, outward)
            high = np.where(convex, fixed, a * outward)
            low, high = np.minimum(low, high), np.maximum(low, high)
            weights = np.clip(np.where(z > 0, 1.0, a) * outward, low, high)
            ahead, momentum = weights, 1.0
            for _ in range(max_iter):
                stepped = np.clip(ahead - outputs(pull(ahead)) / lipschitz, low, high)
                following = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * momentum**2))
                ahead = stepped + (momentum - 1.0) / following * (stepped - weights)
                weights, momentum = stepped, following
            trial = pull(weights)
            norm = np.linalg.norm(trial, axis=0)
            trial = np.where(norm > 0, trial / np.maximum(norm, 1e-300), U)
            found = signs * self.slopes(outputs(trial))
            better = found > value
            U = np.where(better, trial, U)
            value = np.where(better, found, value)
            if not better.any():
                break
        if self.free_bias:
            b = -np.einsum("kd,dk->k", X[at], U)
        return Candidates(U.T, b, signs, value)
