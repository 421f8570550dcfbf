"""Column generation: from a few placed neurons to the best network of any width."""

from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from scipy.linalg import svd

from sklearn_convexnn._callbacks import FitTask
from sklearn_convexnn._threads import blas_threads_for
from sklearn_convexnn.cells import solve_on_cells
from sklearn_convexnn.placing import improve_neurons, place_neurons
from sklearn_convexnn.pricing import (
    NEAR,
    column_spread,
    merge_candidates,
    search_neurons,
    search_widely,
)
from sklearn_convexnn.recovery import features
from sklearn_convexnn.rounds import MESSAGES, Record
from sklearn_convexnn.solvers.magnitudes import solve_magnitudes

# Operations of a factorisation up to which the solver of the cells moves neurons.
_MOST_WORK = 2e10
# Selections by the lasso before the first move and between two later ones, as
# long as they pay: as long as they close this part of the gap.
_FIRST_SELECTIONS, _SELECTIONS, _PAYS = 8, 1, 0.005
# Dual points that are kept, since later neurons may prove the best one wrong.
_DUAL_POINTS = 5
# Outputs (samples times neurons) of the neurons that the search remembers.
_ARCHIVE = 4_000_000
# Rounds without a smaller gap after which nothing more is to be expected.
_PATIENCE = 25


def generate_neurons(
    problem,
    rng,
    *,
    n_neurons=100,
    known=None,
    tol=1e-4,
    max_iter=200,
    max_neurons=None,
    deadline=np.inf,
    callback=None,
    task=None,
):
    r"""Train a network of any width to a small duality gap.

    Neurons are placed by a short descent.  Then, round by round: the lasso
    over all neurons at hand selects a few; the convex program on their cells
    moves them (see `solve_on_cells`); its dual point is priced, which gives a
    lower bound for every network and the neurons to add.

    Parameters
    ----------
    problem : Problem
    rng : RandomState
    n_neurons : int, default=100
        Number of neurons to place.
    known : tuple (directions, biases, signs) or None
        Neurons to start from in addition.
    tol : float, default=1e-4
        Stop when the gap is at most `tol` times the objective.
    max_iter : int, default=200
        Limit of rounds.
    max_neurons : int or None
        Limit of neurons in the network.
    deadline : float
        Value of ``time.perf_counter()`` at which to stop.
    callback : callable or None
        Called after each round with a dict of what `history` gets.
    task : FitTask or None
        Whose subtasks the rounds are.

    Returns
    -------
    result : GlobalResult

    References
    ----------
    .. [1] Pilanci, M. and Ergen, T. (2020). "Neural Networks are Convex
       Regularizers". ICML. Theorem 1 (the program) and its dual.
    .. [2] Ergen, T. and Pilanci, M. (2021). "Convex Geometry and Duality of
       Over-parameterized Neural Networks". JMLR 22. Section 6 (cutting planes).
    """
    _, singular, Vt = svd(problem.X, full_matrices=False, check_finite=False)
    rank = int(np.sum(singular > 1e-12 * max(singular[0], 1e-300)))
    basis = Vt[:rank].T
    reduced = replace(problem, X=np.ascontiguousarray(problem.X @ basis))
    if known is not None:
        directions, biases, signs = known
        directions = directions @ basis
        norm = np.linalg.norm(directions, axis=1)
        keep = norm > 0
        known = directions[keep] / norm[keep, None], biases[keep], signs[keep]
        known = known[0], known[1] / norm[keep], known[2]

    def in_features(neurons):
        return replace(neurons, directions=neurons.directions @ basis.T)

    task = FitTask() if task is None else task.through(in_features)
    run = _Run(reduced, rng, tol, max_neurons, deadline)
    # Two threads bring little here, and cost much when the cores are busy.
    with blas_threads_for(0):
        result = run.solve(n_neurons, known, max_iter, callback, task)
    return replace(result, neurons=in_features(result.neurons))


@dataclass
class _DualPoint:
    """A dual point, the steepest slope known there, and the bound it gives."""

    nu: np.ndarray
    kappa: float
    bound: float
    confirmed: bool = False


class _Run:
    def __init__(self, problem, rng, tol, max_neurons, deadline):
        self.problem, self.rng = problem, rng
        self.tol, self.deadline = tol, deadline
        self.max_neurons = np.inf if max_neurons is None else max_neurons
        self.best = problem.null()
        self.objective = self.null_objective = problem.objective(self.best)
        self.sides = None
        self.scale = column_spread(problem.X, problem.fit_intercept)
        self.selections, self.started = _FIRST_SELECTIONS, False
        self.pool = self.archive = self.best
        self.duals = []

    @property
    def bound(self):
        """The best lower bound, as far as the search goes."""
        return self.duals[0].bound

    @property
    def closed(self):
        gap = self.objective - self.bound
        return gap <= max(self.tol * self.objective, 1e-12 * self.null_objective)

    def solve(self, n_neurons, known, max_iter, callback, task):
        record = Record(callback)
        self._price(
            self.problem.dual_point(np.full(len(self.problem.y), self.best.offset))
        )
        status = "optimal" if self.closed else None
        if status is None:
            self._place(n_neurons, known)
        n_iter, waited, last_gap, cells = 0, 0, np.inf, 0
        while True:
            if status is None and n_iter < max_iter:
                round_task = task.subtask("round").begin()
                cells, limited = self._round()
                closed = self.closed and self._confirm()
                if closed:
                    # Selected neurons have not been moved; it costs little.
                    self._keep(improve_neurons(self.problem, self.best))
                stop = round_task.end(self.best)
                n_iter += 1
                gap = self.objective - self.bound
                waited = 0 if gap < 0.99 * last_gap else waited + 1
                last_gap = min(gap, last_gap)
                if closed:
                    status = "optimal"
                elif limited:
                    status = "max_neurons"
                elif perf_counter() > self.deadline:
                    status = "max_time"
                elif stop:
                    status = "callback"
                elif waited > _PATIENCE:
                    status = "stalled"
            elif status is None:
                status = "max_iter"
            record.add(self, n_iter, cells)
            if status is not None:
                break
        best = self.duals[0]
        return record.result(
            self, best.nu, best.kappa, MESSAGES[status], status, n_iter
        )

    def _confirm(self):
        """Whether the gap stays closed after a longer search at the dual point."""
        while self.closed:
            point = self.duals[0]
            if point.confirmed:
                return True
            self._price(point.nu, thorough=True)
        return False

    def _place(self, n_neurons, known):
        placed = place_neurons(self.problem, n_neurons, self.rng)
        self._keep(placed)
        self._add(placed.directions, placed.biases, placed.signs)
        if known is not None:
            self._add(*known)

    def _add(self, directions, biases, signs):
        """Put neurons into the pool."""
        new = self.problem.unused(directions, biases, signs)
        self.pool = self.pool.joined(new)

    def _round(self):
        """Select, or select and move; then price.

        Returns
        -------
        n_cells : int
        limited : bool
            Whether the limit of neurons was hit.
        """
        p = self.problem
        before = self.objective
        selected, dual = self._select()
        if self.closed and self._confirm():
            return len(selected), False
        paid = before - self.objective >= _PAYS * (before - self.bound)
        large = self._work(selected) > _MOST_WORK
        if not large and self.selections > 0 and (paid or not self.started):
            self.selections, self.started = self.selections - 1, True
            # Neurons that the lasso drops may be needed again; the archive of
            # the search remembers them.
            self.pool = selected
            self._price(p.project(dual))
            return len(selected), False
        limited = len(selected) > self.max_neurons
        if limited:
            selected = self._within_limit(selected)
        moved, dual, cells = self._move(selected, dual)
        better = self._keep(moved)
        self.pool = moved
        if not better:
            self.pool = moved.joined(selected)
        # The solver's dual variable is far more exact than the residual.
        self._price(p.project(dual), thorough=not large)
        self.selections, self.started = _SELECTIONS, False
        return cells, limited

    def _work(self, neurons):
        """Operations of a factorisation by the solver of their cells."""
        X = self.problem.X
        n, unknowns = len(X), len(neurons) * (X.shape[1] + self.problem.fit_intercept)
        return min(n, unknowns) ** 2 * max(n, unknowns)

    def _move(self, selected, dual):
        """The neurons where they are best, their dual point, number of cells."""
        p = self.problem
        if self._work(selected) > _MOST_WORK:
            # With so many samples kinks are hardly felt, and descent does well.
            moved = improve_neurons(p, selected)
            return moved, p.dual_point(p.outputs(moved)), len(selected)
        return solve_on_cells(
            p,
            selected,
            self._open_sides(selected),
            p.project(dual),
            tol=self._inner_tol(),
            deadline=self.deadline,
        )

    def _within_limit(self, neurons):
        """As many neurons as are allowed, moved to where they are best."""
        p = self.problem
        while len(neurons) > self.max_neurons:
            # Little by little: those that stay take over from those that go.
            count = max(self.max_neurons, int(0.8 * len(neurons)))
            order = np.argsort(-neurons.magnitudes, kind="stable")
            neurons = neurons.select(np.sort(order[:count]))
            neurons = improve_neurons(p, neurons)
        self._keep(neurons)
        return neurons

    def _inner_tol(self):
        gap = (self.objective - self.bound) / max(self.objective, 1e-300)
        return max(0.1 * self.tol, min(1e-4, 0.1 * gap))

    def _select(self):
        """Neurons of the pool that the lasso needs, with its magnitudes."""
        p, pool = self.problem, self.pool
        Z = features(pool, p.X, p.negative_slope)
        size = np.linalg.norm(Z, axis=0)
        alive = size > 1e-12 * size.max(initial=0.0)
        pool, Z = pool.select(alive), Z[:, alive]
        solution = solve_magnitudes(
            Z, p.y, p.sample_weight, p.loss, p.alpha, free_offset=p.fit_intercept
        )
        needed = solution.values > 1e-6 * np.sum(solution.values)
        selected = replace(
            pool, magnitudes=solution.values, offset=solution.offset
        ).select(needed)
        self._keep(selected)
        return selected, solution.nu

    def _keep(self, neurons):
        value = self.problem.objective(neurons)
        better = value < self.objective and len(neurons) <= self.max_neurons
        if better:
            self.best, self.objective = neurons, value
        return better

    def _open_sides(self, neurons):
        """Sign that the dual variable of each sample will keep, 0 if unknown."""
        p = self.problem
        if p.loss.minimiser is None:
            sides = p.y
        else:
            sides = np.sign(p.dual_point(p.outputs(neurons)))
            before, self.sides = self.sides, sides
            if before is not None:
                sides = np.where(sides == before, sides, 0.0)
        return sides

    def _price(self, nu, thorough=False):
        """Search at a dual point; its bound, and the neurons to add."""
        p = self.problem
        found = self._search(nu, thorough)
        self.archive = self.archive.joined(self._as_neurons(found))
        most = int(np.clip(_ARCHIVE // len(p.y), 200, 4000))
        self.archive = self.archive.select(slice(-most, None))
        for point in self.duals:
            slopes = self._slopes(self._as_neurons(found), point.nu)
            point.kappa = max(point.kappa, slopes.max(initial=0.0))
            point.bound = p.bound(point.nu, point.kappa)
        # Candidates well below alpha are not even reported.
        kappa = max(
            p.alpha,
            found.slopes.max(initial=0.0),
            self._slopes(self.archive, nu).max(initial=0.0),
        )
        if p.fit_intercept:
            kappa = max(kappa, float(np.linalg.norm(nu @ p.X)))
        self.last_kappa = kappa
        if not any(point.nu is nu for point in self.duals):
            self.duals.append(_DualPoint(nu, kappa, p.bound(nu, kappa)))
        if thorough:
            for point in self.duals:
                point.confirmed |= point.nu is nu
        self.duals.sort(key=lambda point: -point.bound)
        del self.duals[_DUAL_POINTS:]
        new = found.select(found.slopes > p.alpha * (1.0 + 1e-9))
        new = new.select(slice(0, 200))
        self._add(new.directions, new.biases, new.signs)
        if p.fit_intercept:
            slope = nu @ p.X
            norm = np.linalg.norm(slope)
            if norm > p.alpha:
                size = np.abs(p.X).sum() + 1.0
                self._add(slope[None] / norm, np.array([size]), np.ones(1))

    def _slopes(self, neurons, nu):
        Z = features(neurons, self.problem.X, self.problem.negative_slope)
        return nu @ Z

    def _as_neurons(self, found):
        return replace(
            self.archive,
            directions=found.directions,
            biases=found.biases,
            magnitudes=np.zeros(len(found)),
            signs=found.signs,
            linear=np.zeros(len(found), dtype=bool),
        )

    def _search(self, nu, thorough):
        """Local maximisers from random neurons, and from those at hand."""
        p, rng = self.problem, self.rng
        X, d = p.X, p.X.shape[1]
        # There are more hills to find where the network needs more neurons.
        size = np.clip(3 * len(self.best), 75, np.clip(1_000_000 // len(X), 75, 600))
        if thorough:
            # The smaller the gap that is claimed, the longer the search.
            size = size * np.clip(2.0 ** (-np.log10(self.tol) - 1.0), 2, 32)
        options = {
            "free_bias": p.fit_intercept,
            "negative_slope": p.negative_slope,
            "floor": p.alpha,
            "polish": 30 if thorough else 10,
        }
        far = search_widely(X, nu, int(size), rng, **options)
        pool = self.pool
        length = np.linalg.norm(pool.directions * self.scale, axis=1) / np.sqrt(d)
        steep = np.argsort(-self._slopes(self.archive, nu), kind="stable")[: int(size)]
        # With little slope left in the linear part, a neuron and its mirror
        # image are almost equally steep.
        parts = [pool.directions, -pool.directions]
        for shake in (0.1, 0.4) if thorough else (0.1,):
            moved = rng.standard_normal(pool.directions.shape)
            moved *= length[:, None] / self.scale
            parts.append(pool.directions + shake * moved)
        signs = [pool.signs] * len(parts)
        parts.append(self.archive.directions[steep])
        signs.append(self.archive.signs[steep])
        starts, signs = np.concatenate(parts), np.concatenate(signs)
        keep = np.linalg.norm(starts, axis=1) > 0
        near = search_neurons(
            X, nu, starts[keep], signs[keep], widths=NEAR, rescale=True, **options
        )
        return merge_candidates([far, near], X)
