"""Data whose structure gives the optimal network without activation patterns.

One-dimensional data with free biases (a linear spline), data of rank one
without bias (one or two scalar problems), and orthogonal samples without bias
(two neurons).  The objective is that of the rest of the package,

    sum_i s_i l(f_i, y_i) + alpha * sum_j |c_j|,

for ``f = offset + sum_j c_j act(X w_j + b_j)`` with ``||w_j|| = 1``.
"""

from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from sklearn_convexnn._utils.breakdown import furthest, root
from sklearn_convexnn._utils.deadlines import check
from sklearn_convexnn.families.two_layer.neurons import Neurons
from sklearn_convexnn.families.two_layer.splines import Spline, fit_spline
from sklearn_convexnn.model.network import Network
from sklearn_convexnn.model.results import gap_closed

_FIRST_KNOTS = 200
"""Data points that the first round may use as knots."""
_FINEST = 1e-6
"""Accuracy of a fit to the chosen knots, at best, relative to the tolerance."""

_ROUNDING = 1e-12
"""Relative size of what counts as zero in the detection of structure."""


@dataclass(frozen=True)
class ClosedForm:
    """Network of a problem with special structure, with its certificate.

    Attributes
    ----------
    neurons : Network
    nu : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Feasible point of the dual problem, whose value is `dual_bound`.
    objective : float
        Objective of the network of `neurons`.
    dual_bound : float
        No network of any width has a smaller objective.
    n_iter : int
        Number of rounds; 0 if the solution is a formula or a scalar root.
    status : {'optimal', 'max_iter', 'max_time', 'stalled'}
    """

    neurons: Network
    nu: np.ndarray
    objective: float
    dual_bound: float
    n_iter: int
    status: str


def spline_slopes(x, nu, negative_slope=0.0):
    r"""Largest slope of the dual function of one-dimensional data.

    ``max |nu^T act(w x + b)|`` over ``w = +-1`` and all ``b``, for ``nu`` that
    sums to zero.  It is attained with the knot ``-b / w`` at a data point, as
    the slope is piecewise linear in ``b`` and constant beyond the data.

    Parameters
    ----------
    x, nu : ndarray of shape (n_samples,)
    negative_slope : float, default=0.0

    Returns
    -------
    kappa : float
    direction : {-1.0, 1.0}
    bias : float
        The neuron ``act(direction x + bias)`` attains `kappa`.
    """
    knots, group = np.unique(x, return_inverse=True)
    slopes = _slopes(knots, np.bincount(group, nu), negative_slope)
    row, best = np.unravel_index(np.argmax(slopes), slopes.shape)
    direction = (1.0, -1.0)[row]
    return float(slopes[row, best]), direction, float(-direction * knots[best])


def _slopes(knots, nu, negative_slope):
    """Slopes of the neurons at each knot that open to the right and left."""
    beyond = np.cumsum(nu[::-1])[-2::-1]
    hinges = np.append(np.cumsum((np.diff(knots) * beyond)[::-1])[::-1], 0.0)
    bent = (1.0 - negative_slope) * hinges
    return np.abs([negative_slope * hinges[0] + bent, hinges[0] - bent])


def solve_spline(problem, *, tol=1e-6, max_iter=100, deadline=np.inf):
    r"""Optimal network of one feature with free biases.

    Some optimal network has all its knots at data points.  The spline is
    optimised over a subset of them; cumulative sums of the dual variable then
    give the slopes of all other knots exactly, and the peaks above `alpha`
    join the subset until the duality gap over all networks is closed.  A
    round takes a few passes over the data.

    Parameters
    ----------
    problem : Problem
        Of one feature, in any order and with any repeated values, and one output.
    tol : float, default=1e-6
        Relative duality gap to reach.
    max_iter : int, default=100
        Limit of the number of rounds.
    deadline : float, default=inf
        Value of ``time.perf_counter()`` at which to stop.

    Returns
    -------
    solution : ClosedForm

    References
    ----------
    .. [1] Savarese, P., Evron, I., Soudry, D. and Srebro, N. (2019). "How do
       infinite width bounded norm networks look in function space?". COLT.
    .. [2] Ergen, T. and Pilanci, M. (2021). "Convex Geometry and Duality of
       Over-parameterized Neural Networks". JMLR 22.
    """
    p, order = problem, np.argsort(problem.X[:, 0], kind="stable")
    sorted_data = p.X[order, 0], p.y[order], p.sample_weight[order]
    search = _KnotSearch(_of_one_feature(p, *sorted_data))
    n_iter, status = search.solve(tol, max_iter, deadline)
    nu = np.empty_like(search.nu)
    nu[order] = search.nu
    return ClosedForm(
        neurons=search.best.neurons(search.negative_slope),
        nu=nu,
        objective=search.objective,
        dual_bound=search.bound,
        n_iter=n_iter,
        status=status,
    )


def _of_one_feature(problem, x, y, sample_weight):
    """The problem on other samples, of one feature."""
    family = replace(problem.family, X=x[:, None])
    return replace(problem, family=family, Y=y[:, None], sample_weight=sample_weight)


class _KnotSearch:
    """The problem of sorted data, the best spline and the best dual point so far."""

    def __init__(self, problem):
        self.problem, self.loss = problem, problem.single_loss
        x, y, s, loss = problem.X[:, 0], problem.y, problem.sample_weight, self.loss
        self.x, self.y, self.s = x, y, s
        self.alpha, self.negative_slope = problem.alpha, problem.family.negative_slope
        self.knots, self.first = np.unique(x, return_index=True)
        self.bound, self.nu = 0.0, np.zeros_like(y)
        offset = loss.best_offset(np.zeros(len(x)), y, s)
        self.null = Spline(self.knots[:1], offset, 0.0, np.zeros(1))
        self.best, self.objective = self.null, self._objective(self.null)
        # The second part is the rounding of targets that are all the same.
        zero = loss.value(np.zeros(len(x)), y, s)
        self.scale = max(self.objective, 1e-12 * zero)
        self._price(_balanced_dual(np.ones(len(x)), offset, 0.0, y, s, loss))

    def solve(self, tol, max_iter, deadline):
        """Alternate between fitting the chosen knots and pricing all of them.

        Returns the number of rounds and a status.
        """
        chosen = np.linspace(0, len(self.knots) - 1, _FIRST_KNOTS).astype(int)
        # Of knots that are close, which cost digits, pricing finds the needed.
        places = self.knots[chosen] - self.knots[0]
        places = np.round(1e6 * places / max(places[-1], np.finfo(float).tiny))
        chosen = np.union1d(chosen[np.append(np.diff(places) > 0, True)], 0)
        accuracy, n_iter, status, refined = 1e-2, 0, "optimal", True
        while not self._closed(self.objective, tol):
            if n_iter == max_iter:
                status = "max_iter"
            elif perf_counter() > deadline:
                status = "max_time"
            elif not refined or len(self.knots) == 1:
                status = "stalled"
            if status != "optimal":
                break
            n_iter += 1
            spline, bends = self._fit(chosen, accuracy, deadline)
            objective = self._objective(spline)
            if objective < self.objective:
                self.best, self.objective = spline, objective
            peaks = np.setdiff1d(self._peaks(1.0 + 0.01 * accuracy), chosen)
            # Where alpha is tiny, a small part of the objective is a large one of the
            # slopes.
            finest = _FINEST * tol
            refined = len(peaks) > 0 or accuracy > finest
            used, chosen = chosen[bends], np.union1d(chosen, peaks)
            accuracy = max(0.1 * accuracy, finest)
        if n_iter:
            self._tidy(used, tol, deadline)
        return n_iter, "optimal" if self._closed(self.objective, tol) else status

    def _tidy(self, used, tol, deadline):
        """Give up the knots that the solution does not need."""
        if self._replace(self.null, tol):
            return
        accuracy = 0.01 * tol
        ends = [0, len(self.knots) - 1]
        for _ in range(3):
            chosen = np.union1d(used, ends)
            spline, bends = self._fit(chosen, accuracy, deadline)
            if not self._replace(spline, tol) or np.all(bends[1:-1]):
                return
            used = chosen[bends]
            f = spline(self.x)
            if np.all(self.loss.curvature(f, self.y, self.s) > 0):
                continue
            # Where the loss leaves a choice of knots, slightly unequal prices
            # do not, and so lead to few of them.
            chosen = np.union1d(used, ends)
            prices = np.random.default_rng(0).uniform(1.0, 1.0 + 1e-6, len(chosen))
            used = chosen[self._fit(chosen, accuracy, deadline, prices)[1]]

    def _replace(self, spline, tol):
        """Take a spline that is better, or good enough; whether it was."""
        objective = self._objective(spline)
        if objective > self.objective and not self._closed(objective, tol):
            return False
        self.best, self.objective = spline, objective
        return True

    def _closed(self, objective, tol):
        return gap_closed(objective, self.bound, tol, self.scale)

    def _objective(self, spline):
        value = self.loss.value(spline(self.x), self.y, self.s)
        return value + self.alpha * spline.magnitude(self.negative_slope)

    def _fit(self, chosen, accuracy, deadline, prices=1.0):
        """Optimal spline on the chosen knots; its dual point is priced."""
        knots, problem = self.knots[chosen], self.problem
        compressed = self.loss.name == "squared_error" and len(self.x) > 4 * len(knots)
        if compressed:
            few = _compress(knots, self.x, self.y, self.s)
            problem = _of_one_feature(problem, *few)
        fit = fit_spline(problem, knots, tol=accuracy, deadline=deadline, prices=prices)
        if compressed:
            f = fit.spline(self.x)
            self._price(-self.loss.gradient(f, self.y, self.s))
        else:
            self._price(fit.nu)
        return fit.spline, fit.bends

    def _price(self, nu):
        """Slopes of all knots at `nu`, which is kept if its bound is better."""
        nu = self.loss.project_dual(nu, self.y, self.s, centred=True)
        grouped = np.add.reduceat(nu, self.first)
        slopes = _slopes(self.knots, grouped, self.negative_slope).max(axis=0)
        self.slopes = slopes / self.alpha
        nu = nu / max(1.0, self.slopes.max())
        bound = self.loss.dual_value(nu, self.y, self.s)
        if bound > self.bound:
            self.bound, self.nu = bound, nu

    def _peaks(self, level):
        """Knots whose slope is above `level` and not below that of a neighbour."""
        padded = np.pad(self.slopes, 1)
        high = (self.slopes >= padded[:-2]) & (self.slopes >= padded[2:])
        return np.flatnonzero(high & (self.slopes > level))


def _compress(knots, x, y, s):
    """Two samples per cell with the same squared error of every linear function.

    Up to a constant: they are on the regression line of the cell, have its
    weight, mean and variance, and lie inside the cell.
    """
    size = len(knots) - 1
    cell = np.clip(np.searchsorted(knots, x, side="right") - 1, 0, size - 1)
    weight = np.bincount(cell, s, size)
    full = weight > 0
    weight = np.where(full, weight, 1.0)
    left = np.bincount(cell, s * (x - knots[cell]), size) / weight
    right = np.diff(knots) - left
    mean_x = knots[:-1] + left
    mean_y = np.bincount(cell, s * y, size) / weight
    centred = x - mean_x[cell]
    spread = np.bincount(cell, s * centred**2, size)
    slope = np.bincount(cell, s * centred * (y - mean_y[cell]), size)
    slope /= np.where(spread > 0, spread, 1.0)
    # The variance is at most left * right, so no node leaves the cell.
    skew = np.sqrt(np.clip(left / right, 1e-12, 1e12))
    steps = np.sqrt(spread / weight) * np.array([-skew, 1.0 / skew])
    weights = weight / (1.0 + np.array([skew**2, skew**-2]))
    nodes = mean_x + steps, mean_y + slope * steps, weights
    return [part[:, full].ravel() for part in nodes]


def _balanced_dual(p, v, level, y, s, loss):
    """Minus a subgradient of the loss at ``v p`` whose product with `p` is `level`.

    Between the gradients just below and above ``v``, which differ at a kink.
    """
    if loss.smooth:
        return -loss.gradient(v * p, y, s)
    reach = np.max(np.abs(y), initial=0.0) / np.max(p, initial=1e-300)
    step = 1e-12 * max(reach, abs(v))
    below, above = (-loss.gradient((v + e) * p, y, s) for e in (-step, step))
    high, low = p @ below, p @ above
    share = np.clip((level - low) / (high - low), 0.0, 1.0) if high > low else 0.5
    return loss.project_dual(share * below + (1.0 - share) * above, y, s)


def _solve_scalar(p, y, s, loss, alpha):
    """Minimiser ``v`` of ``L(v p) + alpha |v|`` and its dual variable."""
    zeros = np.zeros(len(p))
    nu = _balanced_dual(p, 0.0, 0.0, y, s, loss)
    slope = p @ nu
    if abs(slope) <= alpha:
        return 0.0, nu
    sign = np.sign(slope)

    def excess(size):
        return -sign * (p @ loss.gradient(sign * size * p, y, s)) - alpha

    # Beyond, the penalty alone is above the objective at zero.
    reach = 2.0 * loss.value(zeros, y, s) / alpha
    v = sign * root(excess, 0.0, reach, xtol=1e-300, rtol=1e-15, maxiter=1000)
    return v, _balanced_dual(p, v, sign * alpha, y, s, loss)


def solve_rank_one(problem, c, direction, tol=1e-6):
    r"""Optimal ReLU network without biases for :math:`X = c\,a^T`.

    The only neurons are :math:`\pm a`.  They are active on disjoint sets of
    samples, so each has a scalar problem of its own.

    Parameters
    ----------
    problem : Problem
        Of one output, without biases and of a ReLU.
    c : ndarray of shape (n_samples,)
    direction : ndarray of shape (n_features,)
        The unit vector :math:`a`.
    tol : float, default=1e-6
        Relative duality gap up to which the status is 'optimal'.

    Returns
    -------
    solution : ClosedForm

    References
    ----------
    .. [1] Ergen, T. and Pilanci, M. (2021). "Convex Geometry and Duality of
       Over-parameterized Neural Networks". JMLR 22.
    """
    p, loss = problem, problem.single_loss
    nu = -loss.gradient(np.zeros(len(p.y)), p.y, p.sample_weight)
    f = np.zeros(len(p.y))
    v, kappa = np.zeros(2), 0.0
    for k, sign in enumerate((1.0, -1.0)):
        on = sign * c > 0
        z, some = np.abs(c[on]), (p.y[on], p.sample_weight[on])
        v[k], nu[on] = _solve_scalar(z, *some, loss, p.alpha)
        f[on] = v[k] * z
        kappa = max(kappa, abs(z @ nu[on]))
    directions = np.array([direction, -direction])
    return _without_bias(p, directions, v, f, nu, kappa, tol)


def solve_orthogonal(problem, tol=1e-6):
    r"""Optimal ReLU network without biases for orthogonal samples.

    Every non-negative vector of outputs is that of one neuron, whose norm is
    :math:`\|f / r\|` with the lengths :math:`r` of the samples.  Outputs of
    either sign have a neuron of their own, for the samples that want that
    sign.  There, :math:`\nu = \tau f / r^2` for one unknown number
    :math:`\tau`, which is found from :math:`\|r \nu\| = \alpha`.

    Parameters
    ----------
    problem : Problem
        Of one output, without biases and of a ReLU.  ``X @ X.T`` is diagonal; rows
        may be zero.
    tol : float, default=1e-6
        Relative duality gap up to which the status is 'optimal'.

    Returns
    -------
    solution : ClosedForm

    References
    ----------
    .. [1] Ergen, T. and Pilanci, M. (2021). "Convex Geometry and Duality of
       Over-parameterized Neural Networks". JMLR 22.  Whitened data.
    """
    p, X, loss = problem, problem.X, problem.single_loss
    lengths = np.linalg.norm(X, axis=1)
    nu = -loss.gradient(np.zeros(len(p.y)), p.y, p.sample_weight)
    f = np.zeros(len(p.y))
    v, kappa = np.zeros(2), 0.0
    directions = np.zeros((2, X.shape[1]))
    for k, sign in enumerate((1.0, -1.0)):
        on = (sign * nu > 0) & (lengths > 0)
        r, top = lengths[on], nu[on]
        if np.linalg.norm(r * top) > p.alpha:
            some = p.y[on], p.sample_weight[on]
            nu[on], f[on] = _solve_cone(r, top, *some, loss, p.alpha)
            w = X[on].T @ (f[on] / r**2)
            v[k] = sign * np.linalg.norm(w)
            directions[k] = sign * w / np.linalg.norm(w)
        kappa = max(kappa, np.linalg.norm(r * nu[on]))
    return _without_bias(p, directions, v, f, nu, kappa, tol)


def _solve_cone(r, top, y, s, loss, alpha):
    """Dual variable and outputs of the samples of one sign.

    `top` is the dual variable at outputs zero, whose signs the outputs take.
    """

    def dual(tau):
        # The root of dual_slope(nu) = f = nu r^2 / tau, between zero and top.
        low, high = np.zeros_like(top), np.ones_like(top)
        with np.errstate(divide="ignore"):
            for _ in range(60):
                middle = 0.5 * (low + high)
                nu = middle * top
                rises = (loss.dual_slope(nu, y, s) - nu * r**2 / tau) * top > 0
                low, high = np.where(rises, middle, low), np.where(rises, high, middle)
        return high * top

    def excess(log_tau):
        return np.linalg.norm(r * dual(np.exp(log_tau))) - alpha

    # The objective at zero bounds |f / r| = alpha / tau times alpha.
    start = np.log(0.5 * alpha**2 / loss.value(np.zeros(len(y)), y, s))
    end = start + 1.0
    while excess(end) < 0:
        end = 2.0 * end - start
    tau = np.exp(root(excess, start, end, xtol=1e-15, rtol=1e-15))
    nu = dual(tau)
    return nu, nu * r**2 / tau


def _without_bias(problem, directions, v, f, nu, kappa, tol):
    """Result for neurons with outputs `f` and signed magnitudes `v`."""
    y, s, loss = problem.y, problem.sample_weight, problem.single_loss
    nu = nu * min(1.0, furthest(problem.alpha, kappa))
    used = v != 0
    zeros = np.zeros(np.sum(used))
    neurons = Neurons(directions[used], zeros, zeros.astype(bool))
    network = Network.of_one_output(neurons, v[used], 0.0)
    objective = loss.value(f, y, s) + problem.alpha * float(np.sum(np.abs(v)))
    bound = loss.dual_value(nu, y, s)
    closed = gap_closed(objective, bound, tol, loss.value(0.0 * f, y, s))
    status = "optimal" if closed else "stalled"
    return ClosedForm(network, nu, objective, bound, 0, status)


def closed_form(problem, *, tol=1e-6, max_iter=100, deadline=np.inf):
    """Optimal network of data with special structure, if they have any.

    With free biases the structure is one feature, or samples on a line.
    Without, for a ReLU, it is samples on a line through the origin, or
    orthogonal samples.

    Parameters
    ----------
    problem : Problem
        Of two-layer networks with one output.
    tol : float, default=1e-6
        Relative duality gap to reach.
    max_iter : int, default=100
    deadline : float, default=inf
        Value of ``time.perf_counter()`` at which to stop.

    Returns
    -------
    solution : ClosedForm or None
        None if no special structure was found.
    """
    X = problem.X
    if problem.fit_intercept:
        return _on_a_line(problem, tol, max_iter, deadline)
    if problem.family.negative_slope != 0:
        return None
    line = _line(X)
    if line is not None:
        return solve_rank_one(problem, *line, tol)
    return solve_orthogonal(problem, tol) if _orthogonal(X) else None


def _on_a_line(problem, tol, max_iter, deadline):
    """The optimal network with free biases if the samples are on a line, or None."""
    X = problem.X
    centre = X.mean(axis=0) if X.shape[1] > 1 else 0.0
    line = _line(X - centre)
    if line is None:
        return None
    x, direction = line
    solution = solve_spline(
        _of_one_feature(problem, x, problem.y, problem.sample_weight),
        tol=tol,
        max_iter=max_iter,
        deadline=deadline,
    )
    neurons = solution.neurons.units
    directions = neurons.directions * direction
    biases = neurons.biases - np.sum(directions * centre, axis=1)
    neurons = Neurons(directions, biases, neurons.linear)
    return replace(solution, neurons=replace(solution.neurons, units=neurons))


def _line(X):
    """``c`` and a unit vector ``a`` with ``X = c a^T`` up to rounding, or None."""
    if X.shape[1] == 1:
        return X[:, 0], np.ones(1)
    lengths = np.linalg.norm(X, axis=1)
    longest = np.argmax(lengths)
    if lengths[longest] == 0:
        return np.zeros(len(X)), np.eye(1, X.shape[1])[0]
    direction = X[longest] / lengths[longest]
    c = X @ direction
    direction = c @ X
    direction /= np.linalg.norm(direction)
    c = X @ direction
    # Column by column: one that is small by its units is not rounding.
    error = np.linalg.norm(X - np.outer(c, direction), axis=0)
    if np.any(error > _ROUNDING * np.linalg.norm(X, axis=0)):
        return None
    return c, direction


def _orthogonal(X):
    """Whether the rows of `X` are orthogonal up to rounding."""
    if len(X) > X.shape[1] + np.sum(~X.any(axis=1)):
        return False
    check(2.0 * len(X) * X.size)
    lengths = np.linalg.norm(X, axis=1)
    gram = X @ X.T
    np.fill_diagonal(gram, 0.0)
    return bool(np.all(np.abs(gram) <= _ROUNDING * np.outer(lengths, lengths)))
