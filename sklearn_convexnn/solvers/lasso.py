"""Coefficients of given neurons of one output: the lasso."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotrs

from sklearn_convexnn._utils.breakdown import furthest, off_centre, unless_broken
from sklearn_convexnn._utils.deadlines import fits
from sklearn_convexnn.solvers._boxed_dual import BoxedDual, DualStep, moved_inside

_MOST_STEPS = 100
_SIGNS = np.array([[1.0], [-1.0]])


@dataclass(frozen=True)
class Coefficients:
    """Solution of `solve_lasso`.

    Attributes
    ----------
    values : ndarray of shape (n_neurons,)
        Exactly zero where a neuron is not needed.
    offset : float
    nu : ndarray of shape (n_samples,)
        Dual variable of the outputs.
    objective, dual_bound : float
        Both of the problem over the given neurons.
    """

    values: np.ndarray
    offset: float
    nu: np.ndarray
    objective: float
    dual_bound: float


def solve_lasso(
    Z,
    y,
    sample_weight,
    loss,
    alpha,
    *,
    free_offset,
    non_negative=False,
    tol=1e-8,
):
    r"""Minimise ``L(Z v + b) + alpha * sum(|v|)``.

    A primal-dual predictor-corrector method over the positive and negative parts of
    the coefficients.  As in the solver of the cells the loss enters by its dual over
    a box, so that every loss goes the same way.  An iteration costs the Gram matrix
    of the rows or the columns of `Z`, whichever are fewer.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, n_neurons)
        Outputs of the units.
    y, sample_weight : ndarray of shape (n_samples,)
    loss : Loss
    alpha : float
    free_offset : bool
        Whether there is a free constant ``b``.
    non_negative : bool, default=False
        Whether coefficients have to be non-negative.
    tol : float, default=1e-8
        Duality gap to reach, relative to the objective.

    Returns
    -------
    solution : Coefficients
        The best point and the best bound seen, until the time is up.

    References
    ----------
    .. [1] Mehrotra, S. (1992). "On the Implementation of a Primal-Dual
       Interior Point Method". SIAM Journal on Optimization 2(4).
    """
    means = off_centre(Z) if free_offset else np.zeros(Z.shape[1])
    Z = Z - means
    signs = _SIGNS[:1] if non_negative else _SIGNS
    args = Z, y, sample_weight, loss, alpha, free_offset, signs
    best, dual = _without_neurons(*args)
    if Z.shape[1] == 0:
        return Coefficients(best[1], best[2], dual[1], best[0], dual[0])
    iterate = unless_broken(None, _Iterate, *args)
    least = min(Z.shape)
    work = Z.size * least + least**3 / 3.0
    for _ in range(_MOST_STEPS if iterate else 0):
        objective, bound = iterate.objective(), iterate.dual_bound()
        if objective < best[0]:
            best = objective, iterate.values(), iterate.offset
        if bound > dual[0]:
            dual = bound, iterate.dual.value
        if best[0] - dual[0] <= tol * abs(best[0]) or not fits(work):
            break
        if not unless_broken(False, iterate.step):
            break
    objective, values, offset = best
    # What the path to the boundary leaves behind; rounding decides below this.
    sizes = np.abs(values)
    values = np.where(sizes > 1e-7 * sizes.max(initial=0.0), values, 0.0)
    offset = float(offset - means @ values)
    return Coefficients(values, offset, dual[1], objective, dual[0])


def _without_neurons(Z, y, s, loss, alpha, free_offset, signs):
    """Objective, coefficients and offset of no neurons; bound and dual point."""
    zeros = np.zeros(len(y))
    offset = loss.best_offset(zeros, y, s) if free_offset else 0.0
    f = zeros + offset
    nu = loss.project_dual(-loss.gradient(f, y, s), y, s, centred=free_offset)
    nu = nu * min(1.0, furthest(alpha, np.max(signs * (nu @ Z), initial=0.0)))
    bound = loss.dual_value(nu, y, s)
    return (loss.value(f, y, s), np.zeros(Z.shape[1]), offset), (bound, nu)


class _Step(NamedTuple):
    """Changes of an iterate."""

    c: np.ndarray
    rho: np.ndarray
    offset: float
    dual: DualStep


class _Iterate:
    """A strictly positive point, and the Newton steps that move it."""

    def __init__(self, Z, y, s, loss, alpha, free, signs):
        self.Z, self.y, self.s, self.loss = Z, y, s, loss
        self.alpha, self.free, self.signs = alpha, free, signs
        zeros = np.zeros(len(y))
        self.offset = loss.best_offset(zeros, y, s) if free else 0.0
        f = zeros + self.offset
        nu = loss.project_dual(-loss.gradient(f, y, s), y, s)
        slopes = nu @ Z
        scale = 0.9 * alpha / max(np.max(signs * slopes), alpha)
        nu, slopes, m = scale * nu, scale * slopes, Z.shape[1]
        # The penalty may take part of the objective, but outputs far beyond those
        # that are needed, as with a tiny alpha, would be a poor start.
        value = loss.value(f, y, s)
        size = np.sqrt(np.mean(Z**2)) if Z.size else 0.0
        enough = 10.0 * loss.spread(f, y, s) / max(size, 1e-300)
        # Positive parts, negative ones if there are any, and their multipliers.
        size = min(0.3 * value / alpha, enough) / (len(signs) * m)
        self.c = np.full((len(signs), m), size)
        self.rho = np.maximum(alpha - signs * slopes, 0.1 * alpha)
        mu = float(np.mean(self.c * self.rho))
        bounds = loss.dual_bounds(y, s)
        self.dual = BoxedDual(bounds, moved_inside(nu, bounds, mu), mu)
        if not loss.smooth:
            # Without curvature the multipliers alone make up for the residual.
            error = loss.dual_slope(self.dual.value, y, s) - f - Z @ self.values()
            self.dual.add_multipliers(error)

    def values(self):
        return np.sum(self.signs * self.c, axis=0)

    def objective(self):
        f = self.Z @ self.values() + self.offset
        return self.loss.value(f, self.y, self.s) + self.alpha * float(np.sum(self.c))

    def dual_bound(self):
        nu = self.loss.project_dual(self.dual.value, self.y, self.s, centred=self.free)
        scale = min(1.0, furthest(self.alpha, np.max(self.signs * (nu @ self.Z))))
        return self.loss.dual_value(scale * nu, self.y, self.s)

    def step(self):
        """One predictor-corrector step; False if it could not be computed."""
        system, dual = _NewtonSystem(self), self.dual
        if not system.factored:
            return False
        slack = -self.c * self.rho
        low, up = -dual.a * dual.below, -dual.b * dual.above
        predictor = system.direction(slack, low, up)
        mu = self._mean_after(0.0, predictor)
        after = self._mean_after(min(1.0, self._reach(predictor)), predictor)
        target = (max(after, 0.0) / mu) ** 3 * mu
        dc, drho, _, (dnu, da, db) = predictor
        step = system.direction(
            slack + target - dc * drho,
            low + target - dnu * da,
            up + target + dnu * db,
        )
        size = min(1.0, 0.99 * self._reach(step))
        parts = step.c, step.rho, step.offset, *step.dual
        if not (size > 1e-10 and all(np.all(np.isfinite(part)) for part in parts)):
            return False
        self.c = self.c + size * step.c
        self.rho = self.rho + size * step.rho
        self.offset = self.offset + size * step.offset
        dual.move(size, step.dual)
        return True

    def _reach(self, step):
        """The size of the step that leads to the border."""
        worst = min(np.min(step.c / self.c), np.min(step.rho / self.rho))
        return min(-1.0 / worst if worst < 0 else np.inf, self.dual.reach(step.dual))

    def _mean_after(self, size, step):
        """Mean of the complementarity products after a step of that size."""
        total = np.sum((self.c + size * step.c) * (self.rho + size * step.rho))
        low, up = self.dual.products_after(size, step.dual)
        return (total + low + up) / (self.c.size + self.dual.n_sides)


class _NewtonSystem:
    """The linear system of a step, reduced to the coefficients and factored once."""

    def __init__(self, iterate):
        it = self.iterate = iterate
        dual, nu = it.dual, it.dual.value
        self.compliance = dual.compliance(it.loss.dual_curvature(nu, it.y, it.s))
        self.link = it.loss.dual_slope(nu, it.y, it.s) + dual.a - dual.b
        self.link -= it.Z @ it.values() + it.offset
        self.dual_error = it.alpha - it.signs * (it.Z.T @ nu) - it.rho
        self.freedom = it.c / it.rho
        self.total = np.sum(self.freedom, axis=0)
        # Whichever of the two is smaller is eliminated last.
        self.by_samples = len(nu) < len(self.total)
        kept, left = self.compliance, self.total
        root = it.Z.T
        if self.by_samples:
            kept, left, root = left, kept, it.Z
        # The product of an array and its own transpose takes half the time.
        root = root * np.sqrt(kept)
        matrix = root @ root.T
        matrix.flat[:: len(left) + 1] += 1.0 / left
        self.factor, info = dpotrf(matrix.T, lower=1, overwrite_a=1)
        self.factored = not info
        if self.factored and it.free:
            zeros, ones = np.zeros(len(self.total)), np.ones(len(nu))
            self.response = self._solve(zeros, ones)

    def _solve(self, h, q):
        """Changes of coefficients and dual variable, of these right sides."""
        Z, give = self.iterate.Z, self.compliance
        if self.by_samples:
            dnu = dpotrs(self.factor, q - Z @ h, lower=1)[0]
            return h + self.total * (Z.T @ dnu), dnu
        dv = dpotrs(self.factor, h / self.total + Z.T @ (q * give), lower=1)[0]
        return dv, (q - Z @ dv) * give

    def direction(self, slack, low, up):
        """The step that changes the products by these, to first order."""
        it = self.iterate
        push = slack / it.c - self.dual_error
        h = np.sum(it.signs * self.freedom * push, axis=0)
        dv, dnu = self._solve(h, it.dual.pull(self.link, low, up))
        offset = 0.0
        if it.free:
            # The free constant is the multiplier of sum(nu) = 0.
            unit_v, unit_nu = self.response
            offset = (np.sum(it.dual.value) + np.sum(dnu)) / np.sum(unit_nu)
            dv, dnu = dv - offset * unit_v, dnu - offset * unit_nu
        # The change of the slopes is what has moved the coefficients.
        dc = self.freedom * (push + it.signs * ((dv - h) / self.total))
        drho = (slack - it.rho * dc) / it.c
        return _Step(dc, drho, offset, it.dual.step(dnu, low, up))
