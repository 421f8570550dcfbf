"""Column generation for several outputs that share a hidden layer."""

from dataclasses import replace
from time import perf_counter

import numpy as np
from scipy.linalg import svd

from sklearn_convexnn._sklearn import FitTask
from sklearn_convexnn._utils.deadlines import check, until
from sklearn_convexnn._utils.threads import blas_threads_for
from sklearn_convexnn.families.two_layer.pricing import NEAR
from sklearn_convexnn.families.two_layer.vector_cells import search_cells
from sklearn_convexnn.families.two_layer.vector_placing import (
    improve_neurons,
    improve_outputs,
    place_neurons,
)
from sklearn_convexnn.families.two_layer.vector_pricing import (
    COPIES,
    along_biases,
    merge_candidates,
    search_units,
    search_widely,
)
from sklearn_convexnn.model.neurons import in_basis, row_space_in_time
from sklearn_convexnn.solvers.group_lasso import solve_output_weights
from sklearn_convexnn.training.generation import Generation

# Neurons that go on to the next round, for each number in the targets.
_SPARE = 3
# Operations of an iteration up to which the group lasso is solved by a second-order
# method; beyond that by descent.
_MOST_WORK = 4e8
# Selections between two moves, as long as they close this part of the gap.
_SELECTIONS, _PAYS = 2, 0.05
# Part of the objective that a descent must gain for another one to follow.
_DESCENT_PAYS = 1e-3
# Outputs (samples times outputs times random directions) of one search.
_MOST_OUTPUTS = 2_000_000
# Distance of outputs at which the softmax vanishes in floating point, with room for
# the outputs of neurons.
_NEVER = 2000.0
# Part of the median size below which units are let go after a descent.
_VAGUE = 0.05


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
    arrangement=None,
):
    r"""Train a network of several outputs, of any width, to a small duality gap.

    Neurons are placed by a short descent.  Then, round by round: the group
    lasso over all units at hand selects a few and gives a dual point; descent
    moves them; the dual point is priced, which gives a lower bound for every
    network and the units to add.

    Parameters
    ----------
    problem : VectorProblem
    rng : RandomState
    n_neurons : int, default=100
        Number of neurons to place.
    known : VectorNeurons or None
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
    arrangement : Arrangement or None
        Patterns to which the neurons, and the bound, are restricted.  They are
        then searched for in these cells only, and neither placed nor moved.

    Returns
    -------
    result : GlobalResult
        Its `neurons` are `VectorNeurons`, and `nu` has a column per output.

    References
    ----------
    .. [1] Sahiner, A., Ergen, T., Pauly, J. and Pilanci, M. (2021).
       "Vector-output ReLU Neural Network Problems are Copositive Programs:
       Convex Analysis of Two Layer Networks and Polynomial-time Algorithms".
       ICLR. Theorem 1 (the program and its dual) and Section 4 (Frank-Wolfe).
    """
    seen = problem.sample_weight @ problem.Y > 0
    if problem.fit_intercept and problem.loss.rows_sum_to_zero and not seen.all():
        result = generate_neurons(
            replace(problem, Y=problem.Y[:, seen]),
            rng,
            n_neurons=n_neurons,
            known=None if known is None else _of_outputs(known, seen),
            duals=[replace(point, nu=point.nu[:, seen]) for point in duals],
            tol=tol,
            max_iter=max_iter,
            max_neurons=max_neurons,
            deadline=deadline,
            callback=callback,
            task=None if task is None else task.through(lambda n: _for_all(n, seen)),
            arrangement=arrangement,
        )
        nu = np.zeros(problem.Y.shape)
        nu[:, seen] = result.nu
        return replace(result, neurons=_for_all(result.neurons, seen), nu=nu)
    basis = row_space_in_time(problem.X)
    reduced = replace(problem, X=np.ascontiguousarray(problem.X @ basis))
    if known is not None:
        known = in_basis(known, basis)

    def in_features(neurons):
        return replace(neurons, directions=neurons.directions @ basis.T)

    task = FitTask() if task is None else task.through(in_features)
    run = VectorRun(reduced, rng, tol, max_neurons, deadline)
    if arrangement is not None:
        gates = arrangement.gates
        d = problem.X.shape[1]
        gates = np.column_stack([gates[:, :d] @ basis, gates[:, d:]])
        run = _RunOnCells(reduced, rng, tol, max_neurons, deadline)
        run.arrangement = replace(arrangement, gates=gates)
    # Two threads bring little here, and cost much when the cores are busy.
    with blas_threads_for(0):
        result = run.solve(n_neurons, known, duals, max_iter, callback, task)
    return replace(result, neurons=in_features(result.neurons))


def _of_outputs(neurons, some):
    """The neurons with some of their outputs."""
    return replace(
        neurons, outputs=neurons.outputs[:, some], offset=neurons.offset[some]
    )


def _for_all(neurons, seen):
    """The neurons with outputs for classes without samples, of no probability."""
    outputs = np.zeros((len(neurons), len(seen)))
    outputs[:, seen] = neurons.outputs
    offset = np.full(len(seen), np.min(neurons.offset) - _NEVER)
    offset[seen] = neurons.offset
    return replace(neurons, outputs=outputs, offset=offset)


class VectorRun(Generation):
    """Rounds of the group lasso, descent and pricing."""

    selections = _SELECTIONS
    started = False
    most_cuts = 100

    def place(self, n_neurons):
        p = self.problem
        placed = place_neurons(p, n_neurons, self.rng)
        before, value = np.inf, p.objective(placed)
        # With many weights descent is cheaper than anything else for long.
        while before - value > _DESCENT_PAYS * value and perf_counter() < self.deadline:
            placed = self.improve(placed)
            before, value = value, p.objective(placed)
        return placed

    def improve(self, neurons):
        with until(self.before_pricing()):
            return improve_neurons(self.problem, neurons)

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
        first = not self.duals
        if first and self.problem.loss.smooth:
            # Known neurons are close to where they belong.
            selected = self.improve(selected)
            self.keep(selected)
            N = self.problem.dual_point(self.problem.outputs(selected))
        self.pool = selected
        if not (self.closed and self.confirm()):
            # What starts from the neurons of a network like it often ends here.
            self.price(self.problem.project(N), thorough=first)
        paid = before - self.objective >= _PAYS * (before - self.bound)
        again = paid or not self.started
        self.selections = self.selections - 1 if again else 0
        self.started = True
        return len(selected), limited

    def solves_exactly(self, n_units):
        """Whether the group lasso over so many units is for a second-order method."""
        p = self.problem
        work = len(p.X) * (n_units * p.n_outputs) ** 2
        # Without curvature the residual is not a dual point, and descent gets stuck.
        return work <= _MOST_WORK or not p.loss.smooth

    def select(self, max_iter=300):
        """Neurons of the pool that the group lasso needs, and its dual point.

        If it is solved by descent, in at most `max_iter` steps.
        """
        p, pool = self.problem, self.pool.joined(self.cuts)
        check(len(p.X) * len(pool) * (2.0 * p.X.shape[1] + COPIES))
        Z = p.features(pool)
        size = np.linalg.norm(Z, axis=0)
        alive = size > 1e-12 * size.max(initial=0.0)
        pool, Z = pool.select(alive), Z[:, alive]
        if self.solves_exactly(len(pool)):
            solution = solve_output_weights(
                Z.astype(np.float64, copy=False),
                p.Y,
                p.sample_weight,
                p.loss,
                p.alpha,
                free_offset=p.fit_intercept,
                tol=min(1e-6, 0.01 * self.tol),
            )
            outputs, offset, N = solution.values, solution.offset, solution.N
            if self.has_failed(solution):
                F = p.outputs(self.best)
                return self.best, p.dual_point(F) if p.loss.smooth else N
            vague = 0.0
        else:
            outputs, offset = improve_outputs(p, pool, Z, max_iter, self.deadline)
            N = p.dual_point(Z @ outputs.astype(Z.dtype, copy=False) + offset)
            vague = _VAGUE
        selected = replace(pool, outputs=outputs, offset=offset)
        sizes = selected.sizes
        if p.apart:
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

    def unused(self, found):
        outputs = np.zeros((len(found), self.problem.n_outputs))
        return self.problem.unused(found.directions, found.biases, outputs)

    def slopes(self, neurons, N):
        return self.problem.slopes(neurons, N)

    def linear_slope(self, N):
        p = self.problem
        slopes = sum(p.X[rows].T @ N[rows] for rows in p.row_chunks(1))
        units, size, _ = svd(slopes, full_matrices=False, check_finite=False)
        units = units.T[size > p.alpha]
        far = np.full(len(units), np.linalg.norm(p.X) + 1.0)
        outputs = np.zeros((len(units), p.n_outputs))
        return size.max(initial=0.0), p.unused(units, far, outputs)

    def search(self, N, thorough):
        return self.search_on(self.problem.X, N, N, thorough)

    def search_on(self, X, residual, N, thorough, **options):
        """Search with samples `X` and their `residual`, for the dual point `N`."""
        p = self.problem
        options = {
            "free_bias": p.fit_intercept,
            "negative_slope": p.negative_slope,
            "apart": p.apart,
            "floor": p.alpha,
            "polish": 60 if thorough else 20,
            **options,
        }
        size = self.search_size(thorough, min(_MOST_OUTPUTS // residual.size, 600))
        far = search_widely(X, residual, size, self.rng, **options)
        directions = self.steepest(self.pool, N, size).directions
        near = [directions, self.steepest(self.archive, N, size).directions]
        if thorough:
            near += [self.shaken(directions, 0.1), self.shaken(directions, 0.4)]
        near = np.concatenate(near)
        near = near[np.linalg.norm(near, axis=1) > 0]
        near = search_units(X, residual, near, widths=NEAR, rescale=True, **options)
        found = merge_candidates([far, near], X, p.apart)
        if p.apart:
            # A direction of large scale costs little, and is steep in many places.
            others = along_biases(
                X, residual, found.directions, p.negative_slope, p.alpha
            )
            found = merge_candidates([found, others], X, True)
        return found


class _RunOnCells(VectorRun):
    """Column generation whose neurons have given patterns."""

    arrangement = None
    selections = np.inf

    def place(self, n_neurons):
        return self.best

    def improve(self, neurons):
        return neurons

    def search(self, N, thorough):
        p, starts = self.problem, self.pool.directions
        if p.fit_intercept:
            starts = np.column_stack([starts, self.pool.biases])
        return search_cells(
            p.X,
            N,
            self.arrangement,
            starts=starts,
            free_bias=p.fit_intercept,
            negative_slope=p.negative_slope,
            floor=p.alpha,
            n_starts=8 if thorough else 2,
        )
