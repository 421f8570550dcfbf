"""Gated ReLU networks of several outputs, trained to the global optimum.

With fixed gates the masks ``D_i`` of the data are fixed, and the network

    f(x) = offset + sum_k 1[x^T h_k > 0] (x^T w_k) v_k

with the penalty ``alpha / 2 * sum_k (||w_k||^2 + ||v_k||^2)`` is the convex program

    min  L( sum_i D_i X V_i + 1 b^T ) + alpha * sum_i ||V_i||_*

in matrices ``V_i`` with singular value decompositions ``sum_k s_k a_k b_k^T``: the
nuclear norm is the cheapest way to write ``V_i`` as a sum of ``w_k v_k^T``.
"""

from dataclasses import dataclass, field, replace
from time import perf_counter

import numpy as np

from sklearn_convexnn.arrangements import with_ones
from sklearn_convexnn.solvers._result import gap_closed
from sklearn_convexnn.vector.problem import VectorProblem

# Elements of the temporary arrays of the chunked products (32 MB).
_CHUNK = 4_000_000
_CHECK_EVERY = (10, 50)
"""Fewest and most iterations between two visits of all patterns."""


@dataclass(frozen=True)
class GatedNetwork:
    """A gated network with its certificate.

    Attributes
    ----------
    gates : ndarray of shape (n_features, n_neurons) or (n_features + 1, n_neurons)
        Gate vectors; a last row holds their offsets.
    hidden : ndarray of shape (n_features, n_neurons)
    output : ndarray of shape (n_neurons, n_outputs)
    offset : ndarray of shape (n_outputs,)
        Output biases, zero if they are not free.
    objective : float
        Loss plus ``alpha / 2`` times the sum of squares of `hidden` and `output`.
    dual_bound : float
        No gated network with the given patterns has a smaller objective.
    status : {'optimal', 'max_iter', 'max_time', 'stalled'}
    n_iter : int
    history : dict of ndarray
        One entry per visit of all patterns: 'n_iter', 'time' in seconds,
        'objective', 'dual_bound' and 'active', the number of patterns that the
        iterations work on.
    """

    gates: np.ndarray
    hidden: np.ndarray
    output: np.ndarray
    offset: np.ndarray
    objective: float
    dual_bound: float
    status: str
    n_iter: int
    history: dict = field(repr=False)


def gated_outputs(network, X):
    """Outputs of a gated network.

    Parameters
    ----------
    network : GatedNetwork
    X : ndarray of shape (n_samples, n_features)

    Returns
    -------
    F : ndarray of shape (n_samples, n_outputs)
    """
    free_bias = len(network.gates) > X.shape[1]
    active = with_ones(X, free_bias) @ network.gates > 0
    return (active * (X @ network.hidden)) @ network.output + network.offset


def solve_gated(
    X,
    Y,
    sample_weight,
    loss,
    alpha,
    arrangement,
    *,
    fit_intercept,
    tol=1e-4,
    max_iter=5000,
    deadline=np.inf,
    callback=None,
):
    """Optimal gated network of given patterns.

    Accelerated proximal gradient steps with backtracking and restarts, on the
    blocks that are not zero or that the dual point asks for.  From time to time
    the dual constraints ``sigma_max(X^T D_i N) <= alpha`` of all patterns are
    computed: for a lower bound, and to choose the blocks to work on.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    Y : ndarray of shape (n_samples, n_outputs)
    sample_weight : ndarray of shape (n_samples,)
        Positive.
    loss : Separable or Softmax
        Of a smooth loss; its gradient need not be Lipschitz continuous.
    alpha : float
    arrangement : Arrangement
        Gates of shape (n_patterns, n_features), or (n_patterns, n_features + 1)
        with offsets.
    fit_intercept : bool
        Whether the output biases are free.
    tol : float, default=1e-4
        Duality gap to reach, relative to the objective.
    max_iter : int, default=5000
    deadline : float, default=inf
        Value of ``time.perf_counter()`` at which to stop.
    callback : callable or None
        Called with the iterations, objective and dual bound at each visit of all
        patterns.

    Returns
    -------
    network : GatedNetwork

    References
    ----------
    .. [1] Sahiner, A., Ergen, T., Pauly, J. and Pilanci, M. (2021). "Vector-output
       ReLU Neural Network Problems are Copositive Programs: Convex Analysis of
       Two Layer Networks and Polynomial-time Algorithms". ICLR.
    .. [2] Mishkin, A., Sahiner, A. and Pilanci, M. (2022). "Fast Convex
       Optimization for Two-Layer ReLU Networks: Equivalent Model Classes and Cone
       Decompositions". ICML.
    .. [3] O'Donoghue, B. and Candes, E. (2015). "Adaptive Restart for Accelerated
       Gradient Schemes". Foundations of Computational Mathematics 15.
    """
    if not loss.smooth:
        raise ValueError(
            f"loss={loss.name!r} has no gradient at its kinks, which gated networks "
            "need; choose a smooth loss."
        )
    solver = _Solver(X, Y, sample_weight, loss, alpha, arrangement, fit_intercept)
    return solver.solve(tol, max_iter, deadline, callback)


def _gram(blocks):
    """Products ``B^T B`` or ``B B^T`` of each block, whichever are smaller."""
    wide = blocks.shape[1] < blocks.shape[2]
    turned = np.swapaxes(blocks, 1, 2)
    return (blocks @ turned if wide else turned @ blocks), wide


def _largest_singular_values(blocks):
    if min(blocks.shape[1:]) == 1:
        return np.linalg.norm(blocks, axis=(1, 2))
    top = np.linalg.eigvalsh(_gram(blocks)[0])[:, -1]
    return np.sqrt(np.maximum(top, 0.0))


def _shrink(blocks, threshold):
    """Singular values of each block lowered by `threshold`, to at least zero.

    Returns the blocks, with exact zeros, and their nuclear norms.
    """
    gram, wide = _gram(blocks)
    squares, vectors = np.linalg.eigh(gram)
    singular = np.sqrt(np.maximum(squares, 0.0))
    left = np.maximum(singular - threshold, 0.0)
    # A value above the threshold, whose square is not lost in the rounding of
    # the largest, keeps its digits.
    factors = left / np.maximum(singular, np.finfo(float).tiny)
    turned = np.swapaxes(vectors, 1, 2)
    projections = (vectors * factors[:, None, :]) @ turned
    return (projections @ blocks if wide else blocks @ projections), left.sum(axis=1)


class _Masked:
    """``V -> sum_i D_i X V_i`` and its transpose, in the row space of ``X``.

    The nuclear norm does not see the rotation, and parts of ``V_i`` outside of
    the row space would cost without adding to the outputs.
    """

    def __init__(self, X, patterns):
        _, singular, Vt = np.linalg.svd(X, full_matrices=False)
        eps = np.finfo(float).eps * max(X.shape)
        rank = max(int(np.sum(singular > eps * singular[:1])), 1)
        self.basis = Vt[:rank].T
        self.rows = X @ self.basis
        self.norm = singular[0]
        self.masks = np.ascontiguousarray(patterns.T, dtype=np.float64)

    def _chunks(self, which, n_outputs):
        size = max(1, _CHUNK // (len(self.rows) * n_outputs))
        return [which[i : i + size] for i in range(0, len(which), size)]

    def forward(self, V, which):
        """Outputs of blocks ``V`` of the patterns `which`."""
        F = np.zeros((len(self.rows), V.shape[2]))
        chunks = self._chunks(which, V.shape[2]), self._chunks(V, V.shape[2])
        for chunk, part in zip(*chunks):
            Z = self.rows @ part.transpose(1, 0, 2).reshape(V.shape[1], -1)
            Z = Z.reshape(len(Z), len(chunk), -1)
            F += (self.masks[:, None, chunk] @ Z)[:, 0]
        return F

    def slopes(self, N):
        """Largest singular values of ``X^T D_i N`` of all patterns."""
        everything = self._chunks(np.arange(self.masks.shape[1]), N.shape[1])
        tops = [
            _largest_singular_values(self.adjoint(N, chunk)) for chunk in everything
        ]
        return np.concatenate(tops)

    def adjoint(self, N, which):
        """``X^T D_i N`` of the patterns `which`, shape (n_which, rank, n_outputs)."""
        parts = [np.zeros((0, self.rows.shape[1], N.shape[1]))]
        for chunk in self._chunks(which, N.shape[1]):
            T = self.masks[:, chunk, None] * N[:, None, :]
            part = self.rows.T @ T.reshape(len(T), -1)
            parts.append(part.reshape(len(part), len(chunk), -1).transpose(1, 0, 2))
        return np.concatenate(parts)


@dataclass
class _Point:
    """Blocks of the working set, constants and the outputs that follow."""

    V: np.ndarray
    b: np.ndarray
    F: np.ndarray

    def beyond(self, before, momentum):
        pairs = (self.V, before.V), (self.b, before.b), (self.F, before.F)
        return _Point(*(new + momentum * (new - old) for new, old in pairs))


class _Solver:
    """The program with its iterates.

    With free constants the blocks add outputs of weighted mean zero, which is the
    same program and makes the constants independent of the blocks.
    """

    def __init__(self, X, Y, s, loss, alpha, arrangement, fit_intercept):
        self.problem = VectorProblem(X, Y, s, loss, alpha, fit_intercept, 0.0, False)
        self.Y, self.s, self.loss, self.alpha = Y, s, loss, alpha
        self.gates, self.fit_intercept = arrangement.gates, fit_intercept
        self.masked = _Masked(X, arrangement.patterns)
        self.n_patterns, self.n_outputs = len(arrangement), Y.shape[1]
        # Steps in the constants are as long as those in a block without mask.
        self.unit = self.masked.norm**2 / len(X) if fit_intercept else 0.0
        self.step = 1.0 / max(self.masked.norm**2 * s.max(), np.finfo(float).tiny)
        self.which = np.zeros(0, dtype=int)
        self.nuclear = np.zeros(0)
        V = np.zeros((0, self.masked.basis.shape[1], self.n_outputs))
        self.now = _Point(V, np.zeros(self.n_outputs), np.zeros(Y.shape))
        self.before, self.pace = self.now, 1.0
        self.objective, self.bound = np.inf, -np.inf

    def _forward(self, V, b):
        F = self.masked.forward(V, self.which)
        if self.fit_intercept:
            F -= np.average(F, axis=0, weights=self.s)
        return F + b

    def solve(self, tol, max_iter, deadline, callback):
        start, n_iter, next_check = perf_counter(), 0, 0
        keys = ("n_iter", "time", "objective", "dual_bound", "active")
        history = {key: [] for key in keys}
        while True:
            late = perf_counter() > deadline
            if n_iter in (next_check, max_iter) or late:
                self._check()
                values = n_iter, perf_counter() - start, self.objective, self.bound
                for key, value in zip(keys, (*values, len(self.which))):
                    history[key].append(value)
                if callback is not None:
                    callback(n_iter, self.objective, self.bound)
                scale = history["objective"][0]
                if gap_closed(self.objective, self.bound, tol, scale):
                    status = "optimal"
                    break
                if late or n_iter == max_iter:
                    status = "max_time" if late else "max_iter"
                    break
                share = self.n_patterns // max(len(self.which), 1)
                next_check = n_iter + int(np.clip(share, *_CHECK_EVERY))
            if not self._iterate():
                status = "stalled"
                break
            n_iter += 1
        history = {key: np.asarray(values) for key, values in history.items()}
        network = self._recover(n_iter, history)
        closed = gap_closed(network.objective, self.bound, tol, scale)
        # Rounding may change gates that almost touch a sample.
        failed = "stalled" if status == "optimal" else status
        return replace(network, status="optimal" if closed else failed)

    def _iterate(self):
        """One accelerated step; False if no step is short enough."""
        loss, Y, s = self.loss, self.Y, self.s
        pace = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * self.pace**2))
        point = self.now.beyond(self.before, (self.pace - 1.0) / pace)
        value, gradient = loss.value(point.F, Y, s), loss.gradient(point.F, Y, s)
        total = gradient.sum(axis=0)
        # The transpose of taking the means off the outputs of the blocks.
        centring = np.outer(s / np.sum(s), total) if self.fit_intercept else 0.0
        slope = self.masked.adjoint(gradient - centring, self.which)
        for _ in range(100):
            V, nuclear = _shrink(point.V - self.step * slope, self.step * self.alpha)
            b = point.b - self.step * self.unit * total
            new = _Point(V, b, self._forward(V, b))
            ratio = self._curvature(point, new, value, gradient) * self.step
            if ratio <= 1.0 + 1e-9:
                break
            self.step *= 0.9 / min(ratio, 1e3) if np.isfinite(ratio) else 0.1
        else:
            return False
        turning = np.sum((point.V - new.V) * (new.V - self.now.V))
        if self.unit:
            turning += (point.b - new.b) @ (new.b - self.now.b) / self.unit
        self.pace = 1.0 if turning > 0 else pace
        self.before, self.now, self.nuclear = self.now, new, nuclear
        # A step that has become too short for the surroundings may grow again.
        self.step *= 1.02
        return True

    def _curvature(self, point, new, value, gradient):
        """Curvature of the loss between two points, per squared distance."""
        length = np.sum((new.V - point.V) ** 2)
        if self.unit:
            length += np.sum((new.b - point.b) ** 2) / self.unit
        change = new.F - point.F
        with np.errstate(over="ignore", invalid="ignore"):
            reached = self.loss.value(new.F, self.Y, self.s)
            rise = reached - value - np.sum(gradient * change)
            if rise < 1e-10 * (abs(value) + abs(reached)):
                # Too small to be seen in the values.
                bent = self.loss.gradient(new.F, self.Y, self.s) - gradient
                rise = 0.5 * np.sum(bent * change)
        rise = rise if np.isfinite(rise) else np.inf
        return 2.0 * rise / length if length > 0 else 0.0

    def _check(self):
        """Objective, dual bound and working set at the current point."""
        loss, Y, s = self.loss, self.Y, self.s
        now, before = self.now, self.before
        if self.fit_intercept:
            shift = loss.best_offset(now.F, Y, s)
            self.now = now = _Point(now.V, now.b + shift, now.F + shift)
            self.before = _Point(before.V, before.b + shift, before.F + shift)
        objective = loss.value(now.F, Y, s) + self.alpha * np.sum(self.nuclear)
        if objective < self.objective:
            self.objective, self.best = objective, (self.which, now.V)
        N = self.problem.project(-loss.gradient(now.F, Y, s))
        slopes = self.masked.slopes(N)
        self.bound = max(self.bound, self.problem.bound(N, slopes.max(initial=0.0)))
        self._choose(slopes)

    def _choose(self, slopes):
        """Blocks that are not zero, and the steepest of those that should grow."""
        used = self.which[self.nuclear > 0]
        slopes[used] = np.inf
        order = np.argsort(-slopes, kind="stable")
        wanted = int(np.sum(slopes > 0.95 * self.alpha))
        which = np.sort(order[: min(wanted, max(100, 3 * len(used)))])
        nuclear = np.zeros(self.n_patterns)
        nuclear[self.which] = self.nuclear
        self.nuclear = nuclear[which]
        for name in ("now", "before"):
            point = getattr(self, name)
            V = np.zeros((self.n_patterns, *point.V.shape[1:]))
            V[self.which] = point.V
            setattr(self, name, _Point(V[which], point.b, point.F))
        self.which = which

    def _recover(self, n_iter, history):
        """The network of the best blocks, without a status."""
        which, V = self.best
        U, singular, Vt = np.linalg.svd(V, full_matrices=False)
        block, k = np.nonzero(singular > 1e-12 * singular.max(initial=0.0))
        root = np.sqrt(singular[block, k])[:, None]
        gates = self.gates[which[block]].T
        hidden = self.masked.basis @ (U[block, :, k] * root).T
        output, offset = Vt[block, k] * root, np.zeros(self.n_outputs)
        network = GatedNetwork(
            gates, hidden, output, offset, np.inf, self.bound, "", n_iter, history
        )
        F = gated_outputs(network, self.problem.X)
        if self.fit_intercept:
            network = replace(network, offset=self.loss.best_offset(F, self.Y, self.s))
        loss = self.loss.value(F + network.offset, self.Y, self.s)
        decay = np.sum(network.hidden**2) + np.sum(network.output**2)
        return replace(network, objective=loss + 0.5 * self.alpha * float(decay))
