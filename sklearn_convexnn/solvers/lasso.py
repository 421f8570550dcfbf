"""Coefficients of given neurons of one output: the lasso."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotrs

from sklearn_convexnn._utils.breakdown import furthest, off_centre, unless_broken
from sklearn_convexnn._utils.deadlines import fits

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
    max_iter=100,
):
    r"""Minimise ``L(Z v + b) + alpha * sum(|v|)``.

    A primal-dual predictor-corrector method over the positive and negative parts of
    the coefficients.  As in the solver of the cells the loss enters by its dual over
    a box, so that every loss goes the same way.  An iteration costs the Gram matrix
    of `Z`.

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
    max_iter : int, default=100

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
    m = Z.shape[1]
    work = 2.0 * Z.size * m + m**3 / 3.0
    for _ in range(max_iter if iterate else 0):
        objective, bound = iterate.objective(), iterate.dual_bound()
        if objective < best[0]:
            best = objective, iterate.values(), iterate.offset
        if bound > dual[0]:
            dual = bound, iterate.nu
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


class _Iterate:
    """A strictly positive point, and the Newton steps that move it."""

    def __init__(self, Z, y, s, loss, alpha, free, signs):
        self.Z, self.y, self.s, self.loss = Z, y, s, loss
        self.alpha, self.free, self.signs = alpha, free, signs
        zeros = np.zeros(len(y))
        self.offset = loss.best_offset(zeros, y, s) if free else 0.0
        f = zeros + self.offset
        self.lower, self.upper = loss.dual_bounds(y, s)
        self.low, self.up = np.isfinite(self.lower), np.isfinite(self.upper)
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
        margin = np.minimum(mu, 0.25 * (self.upper - self.lower))
        self.nu = np.clip(nu, self.lower + margin, self.upper - margin)
        below, above = self._margins()
        self.a = np.where(self.low, mu / below, 0.0)
        self.b = np.where(self.up, mu / above, 0.0)
        if not loss.smooth:
            # Without curvature the multipliers alone make up for the residual.
            error = loss.dual_slope(self.nu, y, s) - f - Z @ self.values()
            self.a += np.where(self.low, np.maximum(-error, 0.0), 0.0)
            self.b += np.where(self.up, np.maximum(error, 0.0), 0.0)

    def _margins(self):
        """Distances of ``nu`` to its box, one where there is none."""
        return (
            np.where(self.low, self.nu - self.lower, 1.0),
            np.where(self.up, self.upper - self.nu, 1.0),
        )

    def values(self):
        return np.sum(self.signs * self.c, axis=0)

    def objective(self):
        f = self.Z @ self.values() + self.offset
        return self.loss.value(f, self.y, self.s) + self.alpha * float(np.sum(self.c))

    def dual_bound(self):
        nu = self.loss.project_dual(self.nu, self.y, self.s, centred=self.free)
        scale = min(1.0, furthest(self.alpha, np.max(self.signs * (nu @ self.Z))))
        return self.loss.dual_value(scale * nu, self.y, self.s)

    def step(self):
        """One predictor-corrector step; False if it could not be computed."""
        Z, c, rho, a, b = self.Z, self.c, self.rho, self.a, self.b
        below, above = self._margins()
        stiffness = self.loss.dual_curvature(self.nu, self.y, self.s)
        give = 1.0 / (stiffness + a / below + b / above)
        link = self.loss.dual_slope(self.nu, self.y, self.s) + a - b
        link -= Z @ self.values() + self.offset
        dual_error = self.alpha - self.signs * (Z.T @ self.nu) - rho
        freedom = c / rho
        total = np.sum(freedom, axis=0)
        matrix = (Z.T * give) @ Z
        matrix.flat[:: len(total) + 1] += 1.0 / total
        factor, info = dpotrf(matrix, lower=1, overwrite_a=1)
        if info:
            return False

        def solve(h, q):
            dv = dpotrs(factor, h / total + Z.T @ (q * give), lower=1)[0]
            return dv, (q - Z @ dv) * give

        if self.free:
            response = solve(np.zeros(len(total)), np.ones(len(give)))

        def direction(slack, low, up):
            q = link + np.where(self.low, low / below, 0.0)
            q -= np.where(self.up, up / above, 0.0)
            push = slack / c - dual_error
            h = np.sum(self.signs * freedom * push, axis=0)
            dv, dnu = solve(h, q)
            offset = 0.0
            if self.free:
                # The free constant is the multiplier of sum(nu) = 0.
                offset = (np.sum(self.nu) + np.sum(dnu)) / np.sum(response[1])
                dv, dnu = dv - offset * response[0], dnu - offset * response[1]
            # The change of the slopes is what has moved the coefficients.
            dc = freedom * (push + self.signs * ((dv - h) / total))
            return (
                dc,
                (slack - rho * dc) / c,
                dnu,
                np.where(self.low, (low - a * dnu) / below, 0.0),
                np.where(self.up, (up + b * dnu) / above, 0.0),
                offset,
            )

        def reach(step):
            dc, drho, dnu, da, db, _ = step
            low, up = self.low, self.up
            worst = min(
                np.min(dc / c),
                np.min(drho / rho),
                np.min((dnu / below)[low], initial=0.0),
                np.min((-dnu / above)[up], initial=0.0),
                np.min(da[low] / a[low], initial=0.0),
                np.min(db[up] / b[up], initial=0.0),
            )
            return -1.0 / worst if worst < 0 else np.inf

        def mean(size, step):
            dc, drho, dnu, da, db, _ = (size * part for part in step)
            products = np.sum((c + dc) * (rho + drho))
            products += np.sum(((below + dnu) * (a + da))[self.low])
            products += np.sum(((above - dnu) * (b + db))[self.up])
            return products / (c.size + np.sum(self.low) + np.sum(self.up))

        products = -c * rho, -a * below, -b * above
        predictor = direction(*products)
        mu = mean(0.0, predictor)
        target = (max(mean(min(1.0, reach(predictor)), predictor), 0.0) / mu) ** 3 * mu
        dc, drho, dnu, da, db, _ = predictor
        step = direction(
            products[0] + target - dc * drho,
            products[1] + target - dnu * da,
            products[2] + target + dnu * db,
        )
        size = min(1.0, 0.99 * reach(step))
        if not (size > 1e-10 and all(np.all(np.isfinite(part)) for part in step)):
            return False
        names = ("c", "rho", "nu", "a", "b", "offset")
        for name, part in zip(names, step):
            setattr(self, name, getattr(self, name) + size * part)
        return True
