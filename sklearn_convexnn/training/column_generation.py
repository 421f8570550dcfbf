"""Column generation: from a few placed neurons to the best network of any width."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from sklearn_convexnn._sklearn import FitTask
from sklearn_convexnn._utils.deadlines import COPIES, after, check, until
from sklearn_convexnn._utils.threads import blas_threads_for
from sklearn_convexnn.families.two_layer.cell_search import search_cells
from sklearn_convexnn.families.two_layer.cells import solve_on_cells
from sklearn_convexnn.losses import Separable, Softened, Softmax
from sklearn_convexnn.solvers.group_lasso import solve_output_weights, work_of_a_step
from sklearn_convexnn.solvers.group_lasso_descent import improve_outputs
from sklearn_convexnn.solvers.lasso import solve_lasso
from sklearn_convexnn.training.dual_points import SHORT, THOROUGH
from sklearn_convexnn.training.generation import Generation

# Neurons that go on to the next round, for each number in the targets.
_SPARE = 3
# Operations of an iteration up to which the group lasso is solved by a second-order
# method; beyond that by descent.
_MOST_WORK = 4e8
# Selections between two moves, as long as they close this part of the gap.
_SELECTIONS, _PAYS = 2, 0.05
# The same of one output, first and later, and the part.
_FIRST_SINGLE, _SINGLE, _SINGLE_PAYS = 8, 1, 0.005
# Operations of a factorisation up to which the solver of the cells moves neurons.
_MOST_CELL_WORK = 2e10
# Least relative gain of a burst of descent for another one to follow.
_LEAST_PAY = 1e-3
# Parts of the objective that a rounded kink may hide: of the network without neurons,
# when neurons are placed; of the network placed, when the rounds begin; of the best
# one, from which on the loss is as it is.
_ROUNDED, _HIDDEN, _SHARP = 0.3, 0.1, 0.015
# Widths of the kinks when neurons are placed, relative to the first one; by how much it
# shrinks; and the part of the gap that is not hidden, or the rounds without a better
# bound, at which it does.
_PLACING_WIDTHS, _SHRINKS, _LEFT, _FRUITLESS = (1.0, 0.3, 0.1), 0.3, 0.1, 8
# Part of the time left that a search may take before what it has found is evaluated.
_SEARCHED = 0.8
# Part of the median size below which units are let go after a descent.
_VAGUE = 0.05


# Many parameters: starts, and what is told, each by its name.
def generate_neurons(
    problem,
    rng,
    limits,
    *,
    n_neurons=100,
    known=None,
    duals=(),
    callback=None,
    task=None,
    arrangement=None,
    to_be_proven=False,
):
    r"""Train a network of any width to a small duality gap.

    Neurons are placed by a short descent.  Then, round by round: the (group)
    lasso over all units at hand selects a few and gives a dual point; descent, or
    for one output the convex program on their cells (see `solve_on_cells`), moves
    them; the dual point is priced, which gives a lower bound for every network and
    the units to add.

    Parameters
    ----------
    problem : Problem
    rng : RandomState
    limits : Limits
    n_neurons : int, default=100
        Number of neurons to place.
    known : Neurons or None
        Neurons to start from, in place of placed ones.
    duals : sequence of DualPoint
        Dual points that are known, of which the steepest slopes are.
    callback : callable or None
        Called after each round with a dict of what `history` gets.
    task : FitTask or None
        Whose subtasks the rounds are.
    arrangement : Arrangement or None
        Patterns to which the neurons, and the bound, are restricted.  They are
        then searched for in these cells only, and neither placed nor moved.
    to_be_proven : bool, default=False
        Whether a proof follows, so that rounds do not allow for neurons that the
        search has not seen.

    Returns
    -------
    result : GlobalResult

    References
    ----------
    .. [1] Pilanci, M. and Ergen, T. (2020). "Neural Networks are Convex
       Regularizers". ICML. Theorem 1 (the program) and its dual.
    .. [2] Ergen, T. and Pilanci, M. (2021). "Convex Geometry and Duality of
       Over-parameterized Neural Networks". JMLR 22. Section 6 (cutting planes).
    .. [3] Sahiner, A., Ergen, T., Pauly, J. and Pilanci, M. (2021).
       "Vector-output ReLU Neural Network Problems are Copositive Programs:
       Convex Analysis of Two Layer Networks and Polynomial-time Algorithms".
       ICLR. Theorem 1 (the program and its dual) and Section 4 (Frank-Wolfe).
    """
    seen = problem.sample_weight @ problem.Y > 0
    if problem.fit_intercept and problem.loss.rows_sum_to_zero and not seen.all():
        result = generate_neurons(
            replace(problem, Y=problem.Y[:, seen]),
            rng,
            limits,
            n_neurons=n_neurons,
            known=None if known is None else _of_outputs(known, seen),
            duals=[replace(point, nu=point.nu[:, seen]) for point in duals],
            callback=callback,
            task=None if task is None else task.through(lambda n: _for_all(n, seen)),
            arrangement=arrangement,
            to_be_proven=to_be_proven,
        )
        nu = np.zeros(problem.Y.shape)
        nu[:, seen] = result.nu
        return replace(result, neurons=_for_all(result.neurons, seen), nu=nu)
    view = problem.family.reduced()
    reduced = replace(problem, family=view.family)
    if known is not None:
        known = view.into(known)
    task = FitTask() if task is None else task.through(view.back)
    smooth, with_kinks = Run, SoftenedRun
    if problem.family.stays:
        smooth = with_kinks = _RunOfFixed
    elif problem.n_outputs * problem.family.n_windows == 1:
        smooth, with_kinks = SingleRun, SoftenedSingleRun
    run = (smooth if problem.loss.smooth else with_kinks)(reduced, rng, limits)
    if arrangement is not None:
        gates = arrangement.gates
        d = problem.X.shape[1]
        gates = np.column_stack([gates[:, :d] @ view.basis, gates[:, d:]])
        run = _RunOnCells(reduced, rng, limits)
        run.arrangement = replace(arrangement, gates=gates)
    run.to_be_proven = to_be_proven
    # Two threads bring little here, and cost much when the cores are busy.
    with blas_threads_for(0):
        result = run.solve(n_neurons, known, duals, callback, task)
    return replace(result, neurons=view.back(result.neurons))


def _of_outputs(neurons, some):
    """The neurons with some of their outputs."""
    return replace(
        neurons, outputs=neurons.outputs[:, some], offset=neurons.offset[some]
    )


def _for_all(neurons, seen):
    """The neurons with outputs for classes without samples, of no probability."""
    outputs = np.zeros((len(neurons), len(seen)))
    outputs[:, seen] = neurons.outputs
    offset = np.full(len(seen), np.min(neurons.offset) - Softmax.vanishing)
    offset[seen] = neurons.offset
    return replace(neurons, outputs=outputs, offset=offset)


class Run(Generation):
    """Rounds of the group lasso, descent and pricing."""

    selections = _SELECTIONS
    started = False
    counts_starts = True
    most_cuts = 100
    # Gain of a burst of descent for another one to follow, as a part of the tolerance.
    burst_pays = 0.25

    @property
    def lasso_loss(self):
        """The loss of which the (group) lasso is solved."""
        return self.problem.loss

    def place(self, n_neurons):
        return self.problem.family.place(self.problem, n_neurons, self.rng)

    def bursts(self, n_neurons):
        pays = max(self.burst_pays * self.tol, _LEAST_PAY)
        return self.problem.family.bursts(
            self.problem, n_neurons, self.rng, pays, self.note
        )

    def search(self, N, effort, **options):
        if self.deadline == np.inf:
            return super().search(N, effort, **options)
        # With little time a few candidates are worth more than none.
        with until(after(_SEARCHED)):
            return super().search(N, effort, partial=True, **options)

    def improve(self, neurons):
        with until(self.before_pricing()):
            return self.problem.family.descend(self.problem, neurons)

    def round(self):
        before = self.objective
        if self.selections <= 0:
            used = self.pool.sizes > 0
            moved = self.improve(self.pool.select(used))
            if not self.keep(moved):
                moved = moved.joined(self.pool.select(used))
            self.pool = moved.joined(self.pool.select(~used))
            self.selections, self.started = _SELECTIONS, False
        selected, N = self.select()
        limited = len(selected) > self.max_neurons
        if limited:
            selected = self.within_limit(selected)
        first = self.warm and not self.duals
        if first and self.problem.loss.smooth:
            # Known neurons are close to where they belong.
            selected = self.improve(selected)
            self.keep(selected)
            N = self.problem.dual_point(self.problem.outputs(selected))
        self.pool = selected
        if not (self.closed and self.confirm()):
            # What starts from the neurons of a network like it often ends here.
            self.price(self.problem.project(N), THOROUGH if first else SHORT)
        paid = before - self.objective >= _PAYS * (before - self.bound)
        again = paid or not self.started
        self.selections = self.selections - 1 if again else 0
        self.started = True
        return len(selected), limited

    def solves_exactly(self, n_units):
        """Whether the group lasso over so many units is for a second-order method."""
        p = self.problem
        size = len(p.X), n_units, p.family.n_windows, p.n_outputs
        work = 0.5 * work_of_a_step(*size)
        # Without curvature the residual is not a dual point, and descent gets stuck.
        return work <= _MOST_WORK or not p.loss.smooth

    def select(self, max_iter=300):
        """Neurons of the pool that the group lasso needs, and its dual point.

        If it is solved by descent, in at most `max_iter` steps.
        """
        p, pool = self.problem, self.pool.joined(self.cuts)
        check(len(p.X) * len(pool) * (2.0 * p.X.shape[1] + COPIES))
        Z = p.family.features(pool.units)
        size = p.family.lengths(Z)
        alive = size > 1e-12 * size.max(initial=0.0)
        pool, Z = pool.select(alive), Z[:, p.family.columns(alive)]
        if self.solves_exactly(len(pool)):
            solution = solve_output_weights(
                Z.astype(np.float64, copy=False),
                p.Y,
                p.sample_weight,
                self.lasso_loss,
                p.alpha,
                free_offset=p.fit_intercept,
                n_windows=p.family.n_windows,
                tol=min(1e-6, 0.01 * self.tol),
            )
            outputs, offset, N = solution.values, solution.offset, solution.N
            if self.has_failed(solution):
                return self.best, self._best_dual(N)
            vague = 0.0
        else:
            outputs, offset = improve_outputs(p, pool, Z, max_iter, self.deadline)
            matrix = p.family.dense(outputs).astype(Z.dtype, copy=False)
            N = p.dual_point(Z @ matrix + offset)
            vague = _VAGUE
        selected = replace(pool, outputs=outputs, offset=offset)
        sizes = selected.sizes
        if p.family.apart:
            # With features of a large scale small sizes can be large outputs.
            sizes = sizes * size[alive]
        # Descent lets go of units slowly.
        typical = np.median(sizes[sizes > 0]) if np.any(sizes) else 0.0
        selected = selected.select(sizes > max(1e-6 * np.sum(sizes), vague * typical))
        self.keep(selected)
        # An optimum needs no more than one for each number in the targets; where many
        # are equally good, the solution is spread over all of them.
        most = _SPARE * p.Y.size
        if len(selected) > most:
            order = np.argsort(-selected.sizes, kind="stable")
            selected = selected.select(np.sort(order[:most]))
        return selected, N

    def _best_dual(self, N):
        """The dual point of the best network, or else `N`."""
        p = self.problem
        return p.dual_point(p.outputs(self.best)) if p.loss.smooth else N


class SingleRun(Run):
    """Rounds of one output, whose neurons have a convex program on their cells.

    It meets kinks exactly, on which descent gets stuck.
    """

    sides, pool_bound = None, -np.inf
    selections, most_cuts, burst_pays = _FIRST_SINGLE, 500, 5.0

    def round(self):
        p = self.problem
        before, first = self.objective, self.warm and not self.duals
        selected, N = self.select()
        if self.closed and self.confirm():
            return len(selected), False
        if first:
            # Known neurons are close to where they belong.
            selected = self.improve(selected)
            self.keep(selected)
            N = p.dual_point(p.outputs(selected)) if p.loss.smooth else N
        paid = before - self.objective >= _SINGLE_PAYS * (before - self.bound)
        large = self._work(selected) > _MOST_CELL_WORK
        # Where only the dual point is missing, to move neurons does not help.
        apart, enough = p.family.apart, 1 + 0.1 * self.tol
        settled = apart and self.objective <= enough * self.pool_bound
        selects = self.selections > 0 and (paid or not self.started)
        # A network without a bound is worth less than the best one.
        if not self.duals or (not large and (selects or settled)):
            self.selections, self.started = self.selections - 1, True
            # Neurons that the lasso drops may be needed again; the archive of
            # the search remembers them.
            self.pool = selected
            # What starts from the neurons of a network like it often ends here.
            self.price(p.project(N), THOROUGH if first else SHORT)
            return len(selected), False
        limited = len(selected) > self.max_neurons
        if limited:
            selected = self.within_limit(selected)
        moved, N, blocks = self._move(selected, N)
        better = self.keep(moved)
        self.pool = moved
        if not better:
            self.pool = moved.joined(selected)
        # The solver's dual variable is far more exact than the residual.
        self.price(p.project(N), SHORT)
        self.selections, self.started = _SINGLE, False
        return blocks, limited

    def _work(self, neurons):
        """Operations of a factorisation by the solver of their cells."""
        if not self.problem.family.has_cells:
            return np.inf
        X = self.problem.X
        n, unknowns = len(X), len(neurons) * (X.shape[1] + self.problem.fit_intercept)
        return min(n, unknowns) ** 2 * max(n, unknowns)

    def _move(self, selected, N):
        """The neurons where they are best, their dual point, number of blocks."""
        p = self.problem
        if self._work(selected) > _MOST_CELL_WORK:
            # With so many samples kinks are hardly felt, and descent does well.
            moved = self.improve(selected)
            if p.loss.smooth:
                N = p.dual_point(p.outputs(moved))
            return moved, N, len(selected)
        gap = (self.objective - self.bound) / max(self.objective, 1e-300)
        moved, nu, n_blocks = solve_on_cells(
            p,
            selected,
            self._open_sides(selected, N),
            p.project(N)[:, 0],
            tol=max(0.1 * self.tol, min(1e-4, 0.1 * gap)),
            deadline=self.before_pricing(),
        )
        return moved, nu[:, None], n_blocks

    def _open_sides(self, neurons, N):
        """Sign that the dual variable of each sample will keep, 0 if unknown."""
        p = self.problem
        if p.single_loss.minimiser(p.y) is None:
            return p.y
        N = p.dual_point(p.outputs(neurons)) if p.loss.smooth else p.project(N)
        before, self.sides = self.sides, np.sign(N[:, 0])
        if before is None:
            return self.sides
        return np.where(self.sides == before, self.sides, 0.0)

    def select(self):
        """Neurons of the pool that the lasso needs, and its dual point."""
        p, loss, pool = self.problem, self.lasso_loss.loss, self.pool
        if p.family.apart or not loss.smooth:
            pool = pool.joined(self.cuts)
        if p.family.apart:
            units = pool.units
            rows = np.column_stack([units.directions, units.biases, units.linear])
            pool = pool.select(np.sort(np.unique(rows, axis=0, return_index=True)[1]))
        Z = p.family.features(pool.units)
        size = np.linalg.norm(Z, axis=0)
        alive = size > 1e-12 * size.max(initial=0.0)
        pool, Z = pool.select(alive), Z[:, alive]
        solution = solve_lasso(
            Z, p.y, p.sample_weight, loss, p.alpha, free_offset=p.fit_intercept
        )
        self.pool_bound = solution.dual_bound
        sizes = np.abs(solution.values)
        needed = sizes > 1e-6 * np.sum(sizes)
        # Many that are tiny by themselves can be of use together.
        order = np.argsort(sizes, kind="stable")
        needed[order] |= np.cumsum(sizes[order]) > 1e-5 * np.sum(sizes)
        if p.family.apart:
            # With features of a large scale small coefficients can be large outputs.
            outputs = sizes * size[alive]
            needed |= outputs > 1e-6 * np.sum(outputs)
        selected = pool.with_coefficients(solution.values, solution.offset)
        selected = selected.select(needed)
        self.keep(selected)
        N = solution.nu[:, None]
        if self.has_failed(solution):
            return self.best, self._best_dual(N)
        return selected, N

    def search(self, N, effort):
        return super().search(N, effort, mirrored=True)


class _SoftenedRounds:
    """Rounds of a loss with kinks, which are rounded off at first.

    Descent gets stuck on kinks, and the dual point of the lasso jumps from corner to
    corner, most of them of poor bounds.  Where kinks are rounded there is one dual
    point.  Bounds and objectives are those of the loss as it is.  When the rounding
    hides most of the gap between them, the kinks get narrower.
    """

    width, fruitless = 0.0, 0
    # Descent is slow where kinks are narrow.
    burst_pays = 2.0

    @contextmanager
    def _softened(self, width):
        """The problem with kinks of that width, while this lasts."""
        exact = self.problem
        if width > 0:
            loss = Softened(exact.loss.loss, width)
            self.problem = replace(exact, loss=Separable(loss))
        try:
            yield self.problem
        finally:
            self.problem = exact

    @property
    def lasso_loss(self):
        with self._softened(self.width) as soft:
            return soft.loss

    def _start(self, n_neurons, known):
        if known is None or not len(known):
            # Known neurons are close to where they belong.
            self.width = self._first_width()
        return super()._start(n_neurons, known)

    def _first_width(self):
        hidden = self._hidden(1.0, self.problem.null_dual())
        return _ROUNDED * self.null_objective / hidden if hidden > 0 else 0.0

    def place(self, n_neurons):
        placed, first = None, self._first_width()
        for part in _PLACING_WIDTHS:
            with self._softened(part * first):
                if placed is None:
                    placed = super().place(n_neurons)
                else:
                    placed = self.improve(placed)
        return placed

    def bursts(self, n_neurons):
        width = _PLACING_WIDTHS[-1] * self._first_width()
        with self._softened(width):
            placing = super().bursts(n_neurons)
        yield from placing
        while len(self.best) and self._hides(width) > _SHARP * self.objective:
            width *= _SHRINKS
            with self._softened(width):
                moved = self.improve(self.best)
            self.note(moved)

    def _hides(self, width):
        """By how much kinks of that width round off the loss of the best network."""
        F = self.problem.outputs(self.best)
        with self._softened(width) as soft:
            rounded = soft.value(F)
        return self.problem.value(F) - rounded

    def _hidden(self, width, N):
        """By how much a bound of the softened problem is below that of the other."""
        return float(np.sum(0.5 * width * N.T**2 / self.problem.sample_weight))

    def round(self):
        if not self.width:
            return super().round()
        if self.started:
            used = self.pool.sizes > 0
            with self._softened(self.width):
                moved = self.improve(self.pool.select(used))
            self.keep(moved)
            self.pool = moved.joined(self.pool.select(~used))
        elif len(self.best):
            most = _HIDDEN * self.objective
            self.width *= min(1.0, most / max(self._hides(self.width), most))
        selected, N = self.select()
        if self.closed and self.confirm():
            return len(selected), False
        before = self.bound
        self.pool, self.started = selected, True
        self.price(self.problem.project(N), SHORT if self.duals else THOROUGH)
        self.fruitless = 0 if self.bound > before else self.fruitless + 1
        self._narrow(selected)
        return len(selected), False

    def _narrow(self, network):
        """Make the kinks narrower if there is no more to be gained by this width."""
        spent = self.fruitless >= _FRUITLESS
        while self.width:
            with self._softened(self.width) as soft:
                left = soft.objective(network) - self.bound
                if not spent and left > _LEFT * (self.objective - self.bound):
                    return
            self.width *= _SHRINKS
            self.fruitless, spent = 0, False
            if self._hidden(self.width, self.duals[0].nu) < _SHARP * self.objective:
                # The program on the cells meets kinks exactly.
                self.width, self.selections = 0.0, 0


class SoftenedRun(_SoftenedRounds, Run):
    """Rounds of several outputs, of a loss with kinks."""


class SoftenedSingleRun(_SoftenedRounds, SingleRun):
    """Rounds of one output, of a loss with kinks."""


class _RunOfFixed(Run):
    """Column generation whose units stay where the search has found them."""

    selections = np.inf
    counts_starts = keeps_known = False

    def bursts(self, n_neurons):
        return iter(())

    def improve(self, neurons):
        return neurons


class _RunOnCells(_RunOfFixed):
    """Column generation whose neurons have given patterns."""

    arrangement = None

    def search(self, N, effort):
        p, units = self.problem, self.pool.units
        starts = units.directions
        if p.fit_intercept:
            starts = np.column_stack([starts, units.biases])
        return search_cells(
            p.X,
            N,
            self.arrangement,
            starts=starts,
            **p.family.geometry,
            floor=p.alpha,
            n_starts=8 if effort > SHORT else 2,
        )
