"""Column generation: from a few placed neurons to the best network of any width."""

from dataclasses import replace

import numpy as np

from sklearn_convexnn._sklearn import FitTask
from sklearn_convexnn._utils.deadlines import until
from sklearn_convexnn._utils.threads import blas_threads_for
from sklearn_convexnn.families.two_layer.cells import solve_on_cells
from sklearn_convexnn.families.two_layer.placing import improve_neurons, place_neurons
from sklearn_convexnn.families.two_layer.pricing import (
    NEAR,
    along_biases,
    merge_candidates,
    search_neurons,
    search_widely,
)
from sklearn_convexnn.model.neurons import features, in_basis, row_space_in_time
from sklearn_convexnn.solvers.magnitudes import solve_magnitudes
from sklearn_convexnn.training.generation import Generation

# Operations of a factorisation up to which the solver of the cells moves neurons.
_MOST_WORK = 2e10
# Selections by the lasso before the first move and between two later ones, as
# long as they pay: as long as they close this part of the gap.
_FIRST_SELECTIONS, _SELECTIONS, _PAYS = 8, 1, 0.005
# Part of the objective that a descent must gain for another one to follow.
_DESCENT_PAYS = 0.02


def generate_neurons(
    problem,
    rng,
    *,
    n_neurons=100,
    known=None,
    duals=(),
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
    known : Neurons or None
        Neurons to start from, in place of placed ones.
    duals : sequence of DualPoint
        Dual points that are known, of which the steepest slopes are.
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
    basis = row_space_in_time(problem.X)
    reduced = replace(problem, X=np.ascontiguousarray(problem.X @ basis))
    if known is not None:
        known = in_basis(known, basis)

    def in_features(neurons):
        return replace(neurons, directions=neurons.directions @ basis.T)

    task = FitTask() if task is None else task.through(in_features)
    run = _Run(reduced, rng, tol, max_neurons, deadline)
    # Two threads bring little here, and cost much when the cores are busy.
    with blas_threads_for(0):
        result = run.solve(n_neurons, known, duals, max_iter, callback, task)
    return replace(result, neurons=in_features(result.neurons))


class _Run(Generation):
    sides, pool_bound = None, -np.inf
    selections, started = _FIRST_SELECTIONS, False

    def place(self, n_neurons):
        placed = place_neurons(self.problem, n_neurons, self.rng)
        if self.problem.apart:
            # It takes more steps there, which are cheaper than rounds.
            before, value = np.inf, self.problem.objective(placed)
            while before - value > _DESCENT_PAYS * value:
                placed = self.improve(placed)
                before, value = value, self.problem.objective(placed)
        return placed

    def improve(self, neurons):
        with until(self.before_pricing()):
            return improve_neurons(self.problem, neurons)

    def round(self):
        p = self.problem
        before = self.objective
        selected, dual = self._select()
        if self.closed and self.confirm():
            return len(selected), False
        if not self.duals:
            # Known neurons are close to where they belong.
            selected = self.improve(selected)
            self.keep(selected)
            dual = p.dual_point(p.outputs(selected)) if p.loss.smooth else dual
        paid = before - self.objective >= _PAYS * (before - self.bound)
        large = self._work(selected) > _MOST_WORK
        # Where only the dual point is missing, to move neurons does not help.
        settled = p.apart and self.objective <= (1 + 0.1 * self.tol) * self.pool_bound
        selects = self.selections > 0 and (paid or not self.started)
        if not large and (selects or settled):
            self.selections, self.started = self.selections - 1, True
            # Neurons that the lasso drops may be needed again; the archive of
            # the search remembers them.
            self.pool = selected
            # What starts from the neurons of a network like it often ends here.
            self.price(p.project(dual), thorough=not self.duals)
            return len(selected), False
        limited = len(selected) > self.max_neurons
        if limited:
            selected = self.within_limit(selected)
        moved, dual, cells = self._move(selected, dual)
        better = self.keep(moved)
        self.pool = moved
        if not better:
            self.pool = moved.joined(selected)
        # The solver's dual variable is far more exact than the residual.
        self.price(p.project(dual), thorough=not large)
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
            moved = self.improve(selected)
            return moved, p.dual_point(p.outputs(moved)), len(selected)
        return solve_on_cells(
            p,
            selected,
            self._open_sides(selected, dual),
            p.project(dual),
            tol=self._inner_tol(),
            deadline=self.before_pricing(),
        )

    def _inner_tol(self):
        gap = (self.objective - self.bound) / max(self.objective, 1e-300)
        return max(0.1 * self.tol, min(1e-4, 0.1 * gap))

    def _select(self):
        """Neurons of the pool that the lasso needs, with its magnitudes."""
        p, pool = self.problem, self.pool.joined(self.cuts)
        if p.apart:
            rows = np.column_stack([pool.directions, pool.biases, pool.signs])
            rows = np.column_stack([rows, pool.linear])
            pool = pool.select(np.sort(np.unique(rows, axis=0, return_index=True)[1]))
        Z = features(pool, p.X, p.negative_slope)
        size = np.linalg.norm(Z, axis=0)
        alive = size > 1e-12 * size.max(initial=0.0)
        pool, Z = pool.select(alive), Z[:, alive]
        solution = solve_magnitudes(
            Z, p.y, p.sample_weight, p.loss, p.alpha, free_offset=p.fit_intercept
        )
        self.pool_bound = solution.dual_bound
        needed = solution.values > 1e-6 * np.sum(solution.values)
        if p.apart:
            # With features of a large scale small magnitudes can be large outputs.
            outputs = solution.values * size[alive]
            needed |= outputs > 1e-6 * np.sum(outputs)
        selected = replace(
            pool, magnitudes=solution.values, offset=solution.offset
        ).select(needed)
        self.keep(selected)
        if self.has_failed(solution):
            f = p.outputs(self.best)
            return self.best, p.dual_point(f) if p.loss.smooth else solution.nu
        return selected, solution.nu

    def _open_sides(self, neurons, dual):
        """Sign that the dual variable of each sample will keep, 0 if unknown."""
        p = self.problem
        if p.loss.minimiser(p.y) is None:
            sides = p.y
        else:
            nu = p.dual_point(p.outputs(neurons)) if p.loss.smooth else p.project(dual)
            sides = np.sign(nu)
            before, self.sides = self.sides, sides
            if before is not None:
                sides = np.where(sides == before, sides, 0.0)
        return sides

    def unused(self, found):
        return self.problem.unused(found.directions, found.biases, found.signs)

    def slopes(self, neurons, nu):
        p = self.problem
        return nu @ features(neurons, p.X, p.negative_slope)

    def linear_slope(self, nu):
        p = self.problem
        slope = nu @ p.X
        norm = float(np.linalg.norm(slope))
        if norm <= p.alpha:
            return norm, None
        far = np.array([np.abs(p.X).sum() + 1.0])
        return norm, p.unused(slope[None] / norm, far, np.ones(1))

    def search(self, nu, thorough):
        p = self.problem
        size = self.search_size(thorough, min(1_000_000 // len(p.X), 600))
        options = {
            "free_bias": p.fit_intercept,
            "negative_slope": p.negative_slope,
            "apart": p.apart,
            "floor": p.alpha,
            "polish": 30 if thorough else 10,
        }
        far = search_widely(p.X, nu, size, self.rng, **options)
        pool = self.pool.directions
        # With little slope left in the linear part, a neuron and its mirror
        # image are almost equally steep.
        parts = [pool, -pool, self.shaken(pool, 0.1)]
        if thorough:
            parts.append(self.shaken(pool, 0.4))
        signs = [self.pool.signs] * len(parts)
        steep = self.steepest(self.archive, nu, size)
        starts = np.concatenate([*parts, steep.directions])
        signs = np.concatenate([*signs, steep.signs])
        keep = np.linalg.norm(starts, axis=1) > 0
        near = search_neurons(
            p.X, nu, starts[keep], signs[keep], widths=NEAR, rescale=True, **options
        )
        found = merge_candidates([far, near], p.X, p.apart)
        if p.apart:
            # A direction of large scale costs little, and is steep in many places.
            others = along_biases(p.X, nu, found.directions, p.negative_slope, p.alpha)
            found = merge_candidates([found, others], p.X, True)
        return found
