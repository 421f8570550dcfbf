r"""Linear splines with a penalty on slope changes, on given knots.

A network with free biases on one feature is a linear spline.  If its slope
changes by :math:`u_k` at the knots, the least sum of magnitudes that neurons
with activation slopes ``(a, 1)`` need for it is

.. math::
    \max\Big(\frac{\|u\|_1}{1 - a},\; \frac{\|u\|_1 + |T|}{2}\Big),
    \qquad T = \text{first slope} + \text{last slope}.

A knot costs the same for a neuron that opens to the right as for one that
opens to the left, and this choice moves ``T`` for free as far as
:math:`|T| \le \rho \|u\|_1` with :math:`\rho = (1 + a) / (1 - a)`; the rest
takes a linear term.
"""

from copy import copy
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from scipy.linalg.lapack import dgbtrf, dgbtrs

from sklearn_convexnn._utils.breakdown import unless_broken
from sklearn_convexnn.families.two_layer.neurons import Neurons
from sklearn_convexnn.model.network import Network

_MAX_ITER = 200


@dataclass(frozen=True)
class Spline:
    """A continuous function that is linear between its knots.

    Attributes
    ----------
    knots : ndarray of shape (n_knots,)
        Strictly increasing.
    value, slope : float
        At the first knot, and left of all knots.
    changes : ndarray of shape (n_knots,)
        By how much the slope grows at each knot.
    """

    knots: np.ndarray
    value: float
    slope: float
    changes: np.ndarray

    def values(self):
        """Values at the knots.

        Returns
        -------
        values : ndarray of shape (n_knots,)
        """
        slopes = self.slope + np.cumsum(self.changes[:-1])
        return self.value + np.append(0.0, np.cumsum(np.diff(self.knots) * slopes))

    def __call__(self, x):
        values = self.values()
        k = np.searchsorted(self.knots, x, side="right") - 1
        # Index -1, left of all knots, finds the slope there at the end.
        slopes = np.append(self.slope + np.cumsum(self.changes), self.slope)
        k0 = np.maximum(k, 0)
        return values[k0] + slopes[k] * (x - self.knots[k0])

    def magnitude(self, negative_slope=0.0):
        """Least sum of magnitudes of neurons that form the spline.

        Parameters
        ----------
        negative_slope : float, default=0.0

        Returns
        -------
        magnitude : float
        """
        total = np.sum(np.abs(self.changes))
        tilt = abs(2.0 * self.slope + np.sum(self.changes))
        return float(max(total / (1.0 - negative_slope), 0.5 * (total + tilt)))

    def neurons(self, negative_slope=0.0):
        """A network of least `magnitude` with the same outputs.

        At most one knot has two neurons, and at most one term is linear.

        Parameters
        ----------
        negative_slope : float, default=0.0

        Returns
        -------
        network : Network
        """
        bend = np.flatnonzero(self.changes)
        knots, changes = self.knots[bend], self.changes[bend]
        sizes = np.abs(changes)
        total = np.sum(sizes)
        ratio = (1.0 + negative_slope) / (1.0 - negative_slope)
        tilt = 2.0 * self.slope + np.sum(changes)
        free = np.clip(tilt, -ratio * total, ratio * total)
        # Neurons whose tilt is positive, from the left, until it adds up.
        share = 0.5 * (total + free / ratio) if ratio > 0 else total
        before = np.append(0.0, np.cumsum(sizes))[:-1]
        up = np.clip(share - before, 0.0, sizes)
        parts = np.concatenate([up, sizes - up]) / (1.0 - negative_slope)
        signs = np.tile(np.sign(changes), 2)
        opens = signs * np.repeat([1.0, -1.0], len(bend))
        keep = parts > 1e-15 * total
        linear = 0.5 * (tilt - free)
        directions = np.append(opens[keep], 1.0)
        biases = np.append(-(opens * np.tile(knots, 2))[keep], -self.knots[0])
        coefficients = np.append((signs * parts)[keep], linear)
        straight = np.arange(len(biases)) == len(biases) - 1
        neurons = Neurons(directions[:, None], biases, straight)
        network = Network.of_one_output(neurons, coefficients, 0.0)
        network = network.select(slice(None) if linear else slice(-1))
        neurons = network.units
        z = neurons.directions[:, 0] * self.knots[0] + neurons.biases
        z = np.where(neurons.linear | (z > 0), z, negative_slope * z)
        return replace(network, offset=self.value - z @ network.outputs)


@dataclass(frozen=True)
class SplineFit:
    """A spline on given knots with its dual variables.

    Attributes
    ----------
    spline : Spline
    nu : ndarray of shape (n_samples,)
        Dual variable of the outputs.
    bends : ndarray of bool, shape (n_knots,)
        Knots that a solution without rounding would use.
    """

    spline: Spline
    nu: np.ndarray
    bends: np.ndarray


def fit_spline(problem, knots, *, tol, deadline=np.inf, prices=1.0):
    r"""Minimise the loss plus ``alpha`` times the `magnitude` over splines.

    A primal-dual predictor-corrector method over the values ``g`` at the
    knots.  The penalty enters through its dual, :math:`|z_k| \le
    \frac{\alpha}{1-a} - \rho q` and :math:`|p| \le q \le \frac{\alpha}{2}`
    with :math:`z` paired with the slope changes and :math:`p` with ``T``;
    the loss enters through its dual over a box.  Newton's system in ``g`` and
    ``z`` is kept indefinite and banded: it stays accurate for close knots and
    multipliers of any size, where the reduced ones lose all digits.

    Parameters
    ----------
    problem : Problem
        Of one feature and one output.
    knots : ndarray of shape (n_knots,)
        At least two, strictly increasing; the first and last bound the feature.
    tol : float
        Relative complementarity to stop at.
    deadline : float, default=inf
        Value of ``time.perf_counter()`` at which to stop.
    prices : float or ndarray of shape (n_knots,), default=1.0
        Factors, close to one, of what a slope change costs at each knot.

    Returns
    -------
    fit : SplineFit

    References
    ----------
    .. [1] Kim, S.-J., Koh, K., Boyd, S. and Gorinevsky, D. (2009). "l1 trend
       filtering". SIAM Review 51(2).
    .. [2] Mehrotra, S. (1992). "On the Implementation of a Primal-Dual
       Interior Point Method". SIAM Journal on Optimization 2(4).
    """
    width = knots[-1] - knots[0]
    prices = np.broadcast_to(prices, knots.shape)[1:-1]
    state = _State(problem, knots, prices)
    with np.errstate(all="ignore"):
        for _ in range(_MAX_ITER):
            if state.converged(tol) or perf_counter() > deadline:
                break
            if not unless_broken(False, state.step):
                break
    value, slope, changes = state.shape()
    spline = Spline(knots, value, slope / width, changes / width)
    return SplineFit(spline, state.nu, state.bends())


class _State:
    """The iterate in coordinates where the knots span the unit interval."""

    def __init__(self, problem, knots, prices):
        y, s, loss = problem.y, problem.sample_weight, problem.single_loss
        negative_slope, width = problem.family.negative_slope, knots[-1] - knots[0]
        t, x = (knots - knots[0]) / width, (problem.X[:, 0] - knots[0]) / width
        alpha = problem.alpha / width
        self.t, self.y, self.s, self.loss = t, y, s, loss
        self.h = np.diff(t)
        self.n_bends = len(t) - 2
        self.ratio = (1.0 + negative_slope) / (1.0 - negative_slope)
        self.cell = np.clip(np.searchsorted(t, x, side="right") - 1, 0, len(t) - 2)
        self.part = (x - t[self.cell]) / self.h[self.cell]

        offset = loss.best_offset(np.zeros(len(y)), y, s)
        self.g = np.full(len(t), offset)
        self.f = np.full(len(y), offset)
        self.scale = loss.value(self.f, y, s)
        self.alpha, self.prices = alpha, prices
        # The dual variables z, p, q, and the slacks of their inequalities.
        self.v = np.zeros(self.n_bends + 2)
        self.v[-1] = 0.25 * alpha
        bound = alpha / (1.0 - negative_slope) * prices - self.ratio * self.v[-1]
        self.w = np.concatenate([bound, bound, np.full(3, 0.25 * alpha)])
        mu = 1.0 * self.scale / (len(self.w) + len(y))
        self.c = mu / self.w
        self._start_loss(mu)

    def _start_loss(self, mu):
        """A tenth of the gradient inside the box, and its multipliers."""
        self.lower, self.upper = self.loss.dual_bounds(self.y, self.s)
        self.has_lower = np.isfinite(self.lower)
        self.has_upper = np.isfinite(self.upper)
        nu = -0.1 * self.loss.gradient(self.f, self.y, self.s)
        margin = 0.05 * np.minimum(self.s, self.upper - self.lower)
        self.nu = np.clip(nu, self.lower + margin, self.upper - margin)
        self.low = np.where(self.has_lower, self.nu - self.lower, 1.0)
        self.up = np.where(self.has_upper, self.upper - self.nu, 1.0)
        error = 0.1 * (self.loss.dual_slope(self.nu, self.y, self.s) - self.f)
        self.a = np.where(self.has_lower, np.maximum(-error, 0) + mu / self.low, 0.0)
        self.b = np.where(self.has_upper, np.maximum(error, 0) + mu / self.up, 0.0)

    # Linear maps: outputs of the values at the knots, bends, and slacks.

    def outputs(self, g):
        return g[self.cell] + self.part * np.diff(g)[self.cell]

    def outputs_adjoint(self, nu):
        share = self.part * nu
        size = len(self.t)
        right = np.bincount(self.cell + 1, share, size)
        return np.bincount(self.cell, nu - share, size) + right

    def bend(self, g):
        """Slope changes, first plus last slope, and a zero, paired with `v`."""
        slopes = np.diff(g) / self.h
        return np.concatenate([np.diff(slopes), [slopes[0] + slopes[-1], 0.0]])

    def bend_adjoint(self, v):
        pull = -np.diff(np.concatenate([[0.0], v[:-2], [0.0]]))
        pull[0] += v[-2]
        pull[-1] += v[-2]
        pull /= self.h
        return -np.diff(np.concatenate([[0.0], pull, [0.0]]))

    def slack(self, v):
        """Change of the slacks with the dual variables."""
        z, p, q = v[:-2], v[-2], v[-1]
        rest = [q - p, q + p, -q]
        return np.concatenate([-z - self.ratio * q, z - self.ratio * q, rest])

    def slack_adjoint(self, c):
        """Minus the adjoint of `slack`."""
        first, second = c[: self.n_bends], c[self.n_bends : -3]
        q = self.ratio * (np.sum(first) + np.sum(second)) - c[-3] - c[-2] + c[-1]
        return np.concatenate([first - second, [c[-3] - c[-2], q]])

    # Convergence and the result.

    def _products(self):
        low, up = self.has_lower, self.has_upper
        return self.c * self.w, (self.a * self.low)[low], (self.b * self.up)[up]

    def _total(self):
        return sum(float(np.sum(part)) for part in self._products())

    def converged(self, tol):
        """Whether products and infeasibilities are small to the objective."""
        value, slope, changes = self.shape()
        sizes = np.abs(changes)[1:-1]
        tilt = abs(2 * slope + np.sum(changes))
        # The price of a change falls by the ratio with q, up to alpha / 2.
        knots = 0.5 * (1.0 + self.ratio) * self.prices @ sizes
        excess = 0.5 * max(tilt - self.ratio * np.sum(sizes), 0.0)
        loss = self.loss.value(self.f, self.y, self.s)
        objective = loss + self.alpha * (knots + excess)
        dual = float(np.sum(self.loss.dual_terms(self.nu, self.y, self.s)))
        limit = max(tol * objective, 1e-13 * self.scale)
        return self._total() <= limit and abs(objective - dual) <= limit

    def shape(self):
        """Value and slope at the first knot, and the slope changes."""
        sizes = self.c[: self.n_bends] - self.c[self.n_bends : -3]
        changes = np.concatenate([[0.0], sizes, [0.0]])
        bent = np.cumsum(self.h * np.cumsum(changes)[:-1])
        # Differences of values lose digits at close knots; the multipliers
        # do not, and only the line below them is left to find.
        line = self.g - np.append(0.0, bent)
        centred = self.t - np.mean(self.t)
        slope = centred @ line / (centred @ centred)
        value = np.mean(line) - slope * np.mean(self.t)
        return float(value), float(slope), changes

    def bends(self):
        first, second = self.c[: self.n_bends], self.c[self.n_bends : -3]
        size, room = (
            np.maximum(first, second),
            np.where(first > second, self.w[: self.n_bends], self.w[self.n_bends : -3]),
        )
        used = size * self.alpha > room * np.max(size, initial=0.0)
        return np.concatenate([[False], used, [False]])

    # One predictor-corrector step.

    def step(self):
        """Move to a better point; False if rounding does not allow it."""
        system = _Newton(self)
        if not system.factored:
            return False
        count = sum(part.size for part in self._products())
        mu = self._total() / count
        predictor = self._direction(system, 0.0)
        reach = self._reach(self._ratios(predictor))
        after = self._move(predictor, reach)._total() / count
        target = min(1.0, after / mu) ** 3 * mu
        corrector = self._direction(system, target, predictor)
        size, moved = self._guarded(self._blend(predictor, corrector, reach))
        if not size > 1e-3:
            # Blocked by a pair that is far from the others: to the middle.
            centring = self._guarded(self._direction(system, mu))
            size, moved = max((size, moved), centring, key=lambda found: found[0])
        if not size > 1e-8 or not np.all(np.isfinite(moved.g)):
            return False
        vars(self).update(vars(moved))
        self.f = self.outputs(self.g)
        return True

    def _direction(self, system, target, predictor=None):
        slack = target - self.c * self.w
        low = target - self.a * self.low
        up = target - self.b * self.up
        if predictor is not None:
            slack -= predictor["c"] * predictor["w"]
            low -= predictor["a"] * predictor["low"]
            up -= predictor["b"] * predictor["up"]
        return system.solve(slack, low, up)

    def _ratios(self, step):
        """Relative changes of everything that has to stay positive."""
        low, up = self.has_lower, self.has_upper
        return np.concatenate(
            [
                step["c"] / self.c,
                step["w"] / self.w,
                (step["a"] / self.a)[low],
                (step["low"] / self.low)[low],
                (step["b"] / self.b)[up],
                (step["up"] / self.up)[up],
            ]
        )

    @staticmethod
    def _reach(ratios):
        worst = np.min(ratios)
        return min(1.0, -1.0 / worst) if worst < 0 else 1.0

    def _blend(self, predictor, corrector, reach):
        """The step between the two that gets furthest.

        The correction is made for a full step; where the predictor gets only
        a short way, a part of it gets further.
        """
        first = self._ratios(predictor)
        change = self._ratios(corrector) - first
        weights = np.linspace(1.0, reach**2, 4)
        best = max(weights, key=lambda weight: self._reach(first + weight * change))
        return {
            name: part + best * (corrector[name] - part)
            for name, part in predictor.items()
        }

    def _guarded(self, step):
        """A size for `step` that keeps all products close to their mean."""
        size = 0.99 * self._reach(self._ratios(step))
        before = min(np.min(part, initial=np.inf) for part in self._products())
        for _ in range(20):
            moved = self._move(step, size)
            products = np.concatenate(moved._products())
            if np.min(products) > min(1e-4 * np.mean(products), 0.5 * before):
                break
            size *= 0.8
        return size, moved

    def _move(self, step, size):
        moved = copy(self)
        for name, part in step.items():
            setattr(moved, name, getattr(self, name) + size * part)
        return moved


class _Newton:
    """Newton's system of one iterate, factored once."""

    def __init__(self, state):
        self.state = state
        nu, y, s = state.nu, state.y, state.s
        self.stiffness = (
            state.loss.dual_curvature(nu, y, s)
            + state.a / state.low
            + state.b / state.up
        )
        self.link = state.loss.dual_slope(nu, y, s) - state.f + state.a - state.b
        self.theta = state.c / state.w
        n_bends = state.n_bends
        first, second = self.theta[:n_bends], self.theta[n_bends:-3]
        self.diagonal = first + second
        # Eliminating z against q, and p against q, by hand avoids differences
        # of large multipliers.
        self.lean = state.ratio * (first - second) / self.diagonal
        below, above, last = self.theta[-3:]
        self.pitch = (below - above) / (below + above)
        self.corner = np.array(
            [
                below + above,
                4 * state.ratio**2 * np.sum(first * second / self.diagonal)
                + 4 * below * above / (below + above)
                + last,
            ]
        )
        self._factor()

    def _factor(self):
        state = self.state
        size, part, h = len(state.t), state.part, state.h
        weight = 1.0 / self.stiffness
        left, right = (1 - part) * weight, part * weight
        diagonal = np.bincount(state.cell, (1 - part) * left, size)
        diagonal += np.bincount(state.cell + 1, part * right, size)
        off = np.bincount(state.cell, part * left, size - 1)
        self.weights, self.links = diagonal, off
        # Unknowns in turn: value at a knot, multiplier of its bend.  Bands
        # are stored by column, below three rows for the pivoting.
        bands = np.zeros((10, 2 * size))
        bands[6, 0::2] = diagonal
        bands[8, 0:-2:2] = bands[4, 2::2] = off
        bands[6, 1::2] = -1.0
        self.unit = np.minimum(h[:-1], h[1:])
        rows = slice(3, 2 * size - 2, 2)
        bands[6, rows] = -self.diagonal * self.unit**2
        before, after = self.unit / h[:-1], self.unit / h[1:]
        bands[9, 0:-4:2] = bands[3, rows] = before
        bands[7, 2:-2:2] = bands[5, rows] = -before - after
        bands[5, 4::2] = bands[7, rows] = after
        self.lu, self.pivots, info = dgbtrf(bands, 3, 3, overwrite_ab=True)
        self.factored = info == 0
        if not self.factored:
            return
        tilt = np.zeros((2, state.n_bends + 2))
        tilt[:, -2] = 1.0, self.pitch
        tilt[1, :-2] = -self.lean
        self.border = np.array([state.bend_adjoint(row) for row in tilt])
        solved = [self._core(row, np.zeros(state.n_bends)) for row in self.border]
        self.response = np.array([np.concatenate(pair) for pair in solved])
        schur = -np.diag(self.corner) - self.response[:, :size] @ self.border.T
        self.schur = schur
        self.factored = bool(np.isfinite(schur).all() and np.linalg.det(schur) != 0)

    def _core(self, g, z):
        """Solve ``W g + D^T z = .``, ``D g - diag z = .``.

        Refined once, for knots that are closer than the root of rounding.
        """
        first = self._banded(g, z)
        top, bottom = self._apply(*first)
        second = self._banded(g - top, z - bottom)
        return first[0] + second[0], first[1] + second[1]

    def _apply(self, g, z):
        top = self.weights * g
        top[:-1] += self.links * g[1:]
        top[1:] += self.links * g[:-1]
        top += self.state.bend_adjoint(np.append(z, [0.0, 0.0]))
        return top, self.state.bend(g)[:-2] - self.diagonal * z

    def _banded(self, g, z):
        rhs = np.zeros(2 * len(g))
        rhs[0::2] = g
        rhs[3:-2:2] = z * self.unit
        found, _ = dgbtrs(self.lu, 3, 3, rhs, self.pivots)
        return found[0::2], found[3:-2:2] * self.unit

    def solve(self, slack, low, up):
        """Newton step to the given changes of the complementarity products."""
        state = self.state
        size = len(state.t)
        free = slack / state.w
        q = self.link + np.where(state.has_lower, low / state.low, 0.0)
        q -= np.where(state.has_upper, up / state.up, 0.0)
        top = state.outputs_adjoint(state.nu + q / self.stiffness)
        top -= state.bend_adjoint(state.v)
        rest = state.slack_adjoint(state.c + free) - state.bend(state.g)
        z_rhs, p_rhs, q_rhs = rest[:-2], rest[-2], rest[-1]
        q_rhs = q_rhs - self.lean @ z_rhs + self.pitch * p_rhs
        g, z = self._core(top, z_rhs)
        edge = np.array([p_rhs, q_rhs]) - self.border @ g
        edge = np.linalg.solve(self.schur, edge)
        g = g - edge @ self.response[:, :size]
        z = z - edge @ self.response[:, size:]
        v = np.concatenate(
            [z - self.lean * edge[1], [edge[0] + self.pitch * edge[1], edge[1]]]
        )
        w = state.slack(v)
        nu = (q - state.outputs(g)) / self.stiffness
        return {
            "g": g,
            "v": v,
            "w": w,
            "c": free - self.theta * w,
            "nu": nu,
            "low": np.where(state.has_lower, nu, 0.0),
            "up": np.where(state.has_upper, -nu, 0.0),
            "a": np.where(state.has_lower, (low - state.a * nu) / state.low, 0.0),
            "b": np.where(state.has_upper, (up + state.b * nu) / state.up, 0.0),
        }
