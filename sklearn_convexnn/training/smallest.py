"""The smallest network that can be found within a given objective."""

from dataclasses import dataclass, replace

import numpy as np

from sklearn_convexnn._utils.breakdown import unless_broken
from sklearn_convexnn._utils.deadlines import OutOfTime, check, svd_work, until
from sklearn_convexnn.families.two_layer.cells import solve_on_cells
from sklearn_convexnn.families.two_layer.neurons import Neurons
from sklearn_convexnn.solvers.lasso import solve_lasso
from sklearn_convexnn.training.smallest_by_descent import smallest_by_descent
from sklearn_convexnn.training.trained import null_training

# What is left of tol for the rounding of the weights to single precision.
_SAFETY = 0.999
# Part of its objective by which a network may differ from what it was in the fit.
_AGREES = 1e-3
# Relative rise that a fit may have whose gap is larger than tol in any case.
_ROUNDING = 1e-9
# Changes of a network that are tried one by one, cheapest first, before none is
# thought to be left; of the first few the best is taken, not the first that fits.
_TRIES, _COMPARED = 12, 3
# Neurons closest in direction with which a neuron may be merged.
_NEIGHBOURS = 4
# Changes that are tried with a move within the cells, and such moves in all.
_MOVED_TRIES, _MOVES = 2, 12
# Their relative accuracy, and a limit of their iterations.
_MOVE_TOL, _MOVE_ITER = 1e-6, 60


def allowed_objective(objective, dual_bound, tol):
    """Largest objective that a smaller network may have.

    Parameters
    ----------
    objective, dual_bound : float
        Of the trained network.
    tol : float

    Returns
    -------
    limit : float
        The objective whose gap is `tol` times itself, or, if the gap is larger
        already, `objective` up to rounding.
    """
    limit = np.inf
    if _SAFETY * tol < 1:
        limit = dual_bound / (1.0 - _SAFETY * tol)
    return limit if objective <= limit else objective * (1.0 + _ROUNDING)


def smallest_by_lasso(problem, neurons, limit, *, only_subsets=False, deadline=np.inf):
    r"""Search for the smallest network whose objective is at most `limit`.

    Backward elimination: a neuron is left out, or two of one sign are replaced
    by their sum, and the coefficients of the rest are optimised again by the
    lasso.  Where that is not enough, the neurons are
    moved within their cells as well.  To find the smallest network of all is
    NP-hard; this is the smallest that was found.

    Parameters
    ----------
    problem : Problem
    neurons : Neurons
        Of an objective that is at most `limit`.
    limit : float
    only_subsets : bool, default=False
        Whether neurons may only be left out, neither merged nor moved.
    deadline : float
        Value of ``time.perf_counter()`` at which to stop.

    Returns
    -------
    neurons : Neurons
        The given ones if no smaller network was found.

    References
    ----------
    .. [1] Mishkin, A. and Pilanci, M. (2023). "Optimal Sets and Solution Paths
       of ReLU Networks". ICML. Section 4: pruning on the set of optima, and
       beyond it with a correction of the rest.
    """
    empty = problem.null()
    if problem.objective(empty) <= limit:
        return empty
    search = _Search(problem, limit, only_subsets, deadline)
    with until(deadline):
        best = unless_broken(neurons, search.eliminate, neurons)
        try:
            for _ in range(0 if only_subsets else _MOVES):
                check()
                smaller = unless_broken(best, search.smaller, best)
                if len(smaller) >= len(best):
                    break
                best = smaller
        except OutOfTime:
            pass
    return best if len(best) < len(neurons) else neurons


@dataclass(frozen=True)
class _Change:
    """Neurons to leave out, and what takes their place.

    Attributes
    ----------
    rise : float
        Estimated rise of the objective.
    out : tuple of int
    vector : ndarray of shape (n_features + 1,) or None
        Sum of the weights and biases of the neurons that are left out, to be
        put in place of the first.
    """

    rise: float
    out: tuple
    vector: np.ndarray | None = None


class _Search:
    def __init__(self, problem, limit, only_subsets, deadline):
        self.problem, self.limit = problem, limit
        self.only_subsets, self.deadline = only_subsets, deadline

    def fits(self, neurons):
        return self.problem.objective(neurons) <= self.limit

    def smaller(self, neurons):
        """Fewer neurons after a move within the cells, if it makes that possible."""
        smaller = self.eliminate(self.move(neurons))
        if len(smaller) >= len(neurons):
            smaller = self.eliminate_and_move(smaller)
        return smaller

    def eliminate(self, neurons):
        """Change by change, for as long as the limit allows."""
        try:
            while len(neurons):
                changes = self._changes(neurons)
                smaller = self._several(neurons, changes)
                if smaller is None:
                    smaller = self._single(neurons, changes)
                if smaller is None:
                    break
                neurons = smaller
        except OutOfTime:
            pass
        return neurons

    def _several(self, neurons, changes):
        """Many cheap changes at once, if their estimates leave a good margin."""
        slack = 0.5 * (self.limit - self.problem.objective(neurons))
        chosen, used, total = [], set(), 0.0
        for change in changes:
            total += max(change.rise, 0.0)
            if total > slack:
                break
            if used.isdisjoint(change.out):
                used.update(change.out)
                chosen.append(change)
        count = len(chosen)
        while count > 1:
            smaller = self._refit(_changed(neurons, chosen[:count]))
            if self.fits(smaller):
                return smaller
            count //= 2
        return None

    def _single(self, neurons, changes):
        """The best of the first changes, or else the first one that fits."""
        best, best_key = None, None
        for k, change in enumerate(changes[:_TRIES]):
            if k >= _COMPARED and best is not None:
                break
            smaller = self._refit(_changed(neurons, [change]))
            key = len(smaller), self.problem.objective(smaller)
            if key[1] <= self.limit and (best is None or key < best_key):
                best, best_key = smaller, key
        return best

    def eliminate_and_move(self, neurons):
        """A change that fits only after the others have moved."""
        for change in self._changes(neurons)[:_MOVED_TRIES]:
            check()
            smaller = self.move(self._refit(_changed(neurons, [change])))
            if self.fits(smaller) and len(smaller) < len(neurons):
                return smaller
        return neurons

    def move(self, neurons):
        """The neurons at their best places in their cells, if that is better."""
        p = self.problem
        units = neurons.units
        z = p.X @ units.directions.T + units.biases
        if not np.any(np.any(z <= 0, axis=0) & ~units.linear):
            return neurons
        # More exact than what follows from the outputs, and alone of use for
        # losses with kinks.
        nu = p.project(self._best(neurons).nu[:, None])[:, 0]
        sides = p.y if p.single_loss.minimiser(p.y) is None else np.sign(nu)
        moved, _, _ = solve_on_cells(
            p,
            neurons,
            sides,
            nu,
            tol=_MOVE_TOL,
            deadline=self.deadline,
            max_iter=_MOVE_ITER,
        )
        moved = self._refit(moved.select(moved.sizes > 0))
        better = p.objective(moved) < p.objective(neurons)
        return moved if better and len(moved) <= len(neurons) else neurons

    def _refit(self, neurons):
        """The neurons with the best coefficients, without those that are not needed."""
        p = self.problem
        check(2.0 * p.X.size * len(neurons))
        Z = p.family.features(neurons.units)
        neurons = neurons.select(np.any(Z != 0, axis=0))
        if len(neurons) == 0:
            return p.null()
        solution = self._best(neurons)
        sizes = np.abs(solution.values)
        neurons = neurons.with_coefficients(solution.values, solution.offset)
        return neurons.select(sizes > 1e-6 * np.sum(sizes))

    def _best(self, neurons):
        p = self.problem
        return solve_lasso(
            p.family.features(neurons.units),
            p.y,
            p.sample_weight,
            p.single_loss,
            p.alpha,
            free_offset=p.fit_intercept,
            tol=0.1 * _ROUNDING,
        )

    def _changes(self, neurons):
        """All changes, the cheapest first."""
        p, m = self.problem, len(neurons)
        check(2.0 * p.X.size * m + svd_work((m, m)))
        Z = p.family.features(neurons.units)
        f = Z @ neurons.coefficients + neurons.offset
        changes = self._removals(neurons, Z, f)
        if not self.only_subsets:
            changes += self._merges(neurons, Z, f)
        return sorted(changes, key=lambda change: change.rise)

    def _removals(self, neurons, Z, f):
        """Every neuron, with the rise after the others have taken its part."""
        p, c = self.problem, neurons.coefficients
        loss = p.single_loss
        if not p.loss.smooth:
            # Without curvature: the rise if the others stay as they are.
            before = loss.value(f, p.y, p.sample_weight)
            rises = [
                loss.value(f - size * z, p.y, p.sample_weight)
                - p.alpha * abs(size)
                - before
                for z, size in zip(Z.T, c)
            ]
        else:
            curvature = loss.curvature(f, p.y, p.sample_weight)
            if p.fit_intercept and np.sum(curvature) > 0:
                Z = Z - (curvature @ Z) / np.sum(curvature)
            hessian = (Z.T * curvature) @ Z
            hessian.flat[:: len(c) + 1] += 1e-12 * np.trace(hessian) + 1e-300
            rises = 0.5 * c**2 / np.diag(np.linalg.pinv(hessian, hermitian=True))
        return [_Change(float(rise), (j,)) for j, rise in enumerate(rises)]

    def _merges(self, neurons, Z, f):
        """Sums of neighbours of one sign, with the rise at their coefficients."""
        p, c = self.problem, neurons.coefficients
        loss, sizes = p.single_loss, np.abs(c)
        vectors = np.column_stack([neurons.units.directions, neurons.units.biases])
        vectors = vectors * sizes[:, None]
        changes = []
        for i, j in _neighbours(neurons):
            check()
            vector = vectors[i] + vectors[j]
            if not np.linalg.norm(vector[:-1]) > 0:
                continue
            merged = _with_vector(neurons.select([i]), vector)
            z = p.family.features(merged.units) @ merged.coefficients
            change = z - c[i] * Z[:, i] - c[j] * Z[:, j]
            rise = loss.value(f + change, p.y, p.sample_weight)
            rise -= loss.value(f, p.y, p.sample_weight)
            rise += p.alpha * float(merged.sizes[0] - sizes[i] - sizes[j])
            changes.append(_Change(float(rise), (i, j), vector))
        return changes


def _neighbours(neurons):
    """Pairs of neurons of one kind that are close in direction."""
    units = neurons.units
    scale = max(1.0, np.abs(units.biases[~units.linear]).max(initial=0.0))
    points = np.column_stack([units.directions, units.biases / scale])
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    cosines = points @ points.T
    signs = np.sign(neurons.coefficients)
    same = signs[:, None] == signs
    same &= units.linear[:, None] == units.linear
    np.fill_diagonal(same, False)
    cosines = np.where(same, cosines, -np.inf)
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :_NEIGHBOURS]
    pairs = {
        (min(i, j), max(i, j))
        for i, row in enumerate(nearest.tolist())
        for j in row
        if same[i, j]
    }
    return sorted(pairs)


def _with_vector(neuron, vector):
    """A single neuron with other weights and bias."""
    norm = np.linalg.norm(vector[:-1])
    unit = Neurons(vector[None, :-1] / norm, vector[-1:] / norm, neuron.units.linear)
    return replace(neuron, units=unit, outputs=norm * np.sign(neuron.outputs))


def _changed(neurons, changes):
    """The neurons after disjoint changes, at the sizes they have."""
    keep = np.ones(len(neurons), dtype=bool)
    units = neurons.units
    directions, biases = units.directions.copy(), units.biases.copy()
    outputs = neurons.outputs.copy()
    for change in changes:
        keep[list(change.out)] = False
        if change.vector is not None:
            i = change.out[0]
            merged = _with_vector(neurons.select([i]), change.vector)
            directions[i] = merged.units.directions[0]
            biases[i] = merged.units.biases[0]
            outputs[i], keep[i] = merged.outputs[0], True
    units = Neurons(directions, biases, units.linear)
    return replace(neurons, units=units, outputs=outputs).select(keep)


def shrink(problem, known, settings, task, duals, *, model):
    """Search for the smallest network that `tol` allows, from a known one.

    Parameters
    ----------
    problem, known, settings, task, duals
        As of `Settings.method`; known neurons are the network, but for its offset.
    model : estimator
        The network and what is known of it.

    Returns
    -------
    trained : Trained
        Without a history.

    Raises
    ------
    ValueError
        If the objective is not that of the model: the data are others.
    """
    neurons = problem.null()
    if known is not None:
        neurons = problem.with_best_offset(known)
    objective, units = problem.objective(neurons), settings.units
    if abs(units.objective(objective) - model.objective_) > _AGREES * model.objective_:
        raise ValueError(
            "smallest_network needs the X, y and sample_weight that the estimator was "
            f"fitted on: its objective was {model.objective_:.6g}, and on these data "
            f"it is {units.objective(objective):.6g}."
        )
    search = smallest_by_lasso
    if problem.n_outputs > 1:
        search = smallest_by_descent
    bound = units.of_objective(model.dual_bound_)
    found = unless_broken(
        neurons,
        search,
        problem,
        neurons,
        allowed_objective(objective, bound, settings.tol),
        # A bound for sampled cells does not hold outside of them, and neurons on
        # the border of two would not stay in theirs.
        only_subsets=model.certificate_ == "restricted",
        deadline=settings.deadline,
    )
    settings.tell(
        f"smallest network found: {len(found)} of {len(neurons)} neurons, objective "
        f"{units.objective(problem.objective(found)):.8g} after {model.objective_:.8g}"
    )
    return replace(null_training(problem, settings), neurons=found)
