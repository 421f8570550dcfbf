"""L-BFGS that can be interrupted, and goes on from where it has come."""

import numpy as np
from scipy.linalg import solve_triangular

from sklearn_convexnn._utils.deadlines import OutOfTime, check, until

# Parts of the first slope: by how much a step has to gain, and what may be left of it.
_GAIN, _LEFT = 1e-4, 0.9
# Evaluations of a line search, at most.
_TRIALS = 20
# Curvature along a step below which the pair says nothing, relative to its size.
_FLAT = 1e-10


class LBFGS:
    """Minimise a function by quasi-Newton steps, one at a time.

    SciPy's minimiser forgets the curvature that it has seen when it returns, and has
    bounds to look after at every step, which takes longer than a small network does.

    Parameters
    ----------
    value_and_gradient : callable
        Of a point.  May raise `OutOfTime`, which leaves the last point as it is.
    start : ndarray of shape (n_unknowns,)
    memory : int, default=20
        Number of steps that are remembered.

    Attributes
    ----------
    x : ndarray of shape (n_unknowns,)
        The best point so far.
    value : float
        Infinite before the first step.

    References
    ----------
    .. [1] Byrd, R. H., Nocedal, J. and Schnabel, R. B. (1994). "Representations of
       quasi-Newton matrices and their use in limited memory methods". Mathematical
       Programming 63. Theorem 2.2 (the inverse in compact form).
    .. [2] Lewis, A. S. and Overton, M. L. (2013). "Nonsmooth optimization via
       quasi-Newton methods". Mathematical Programming 141. Algorithm 2.6 (the line
       search, which needs no smooth function).
    """

    def __init__(self, value_and_gradient, start, memory=20):
        self.function, self.memory = value_and_gradient, memory
        self.x = np.array(start, dtype=np.float64)
        self.value, self.gradient = np.inf, None
        # Steps and changes of the gradient as rows, the oldest first from `first` on,
        # and products of the former with the latter, and of these with each other.
        self.steps = np.zeros((memory, len(self.x)))
        self.changes = np.zeros((memory, len(self.x)))
        self.order = np.arange(0)
        self.mixed = np.zeros((memory, memory))
        self.squares = np.zeros((memory, memory))

    def run(self, max_iter, rtol=0.0, deadline=np.inf, callback=None):
        """Go on until a step gains little, or time or the number of steps is up.

        Parameters
        ----------
        max_iter : int
        rtol : float, default=0.0
            Gain of a step, relative to the value, at or below which to stop.
        deadline : float, default=inf
            Value of ``time.perf_counter()`` at which to stop.
        callback : callable or None
            Called with this object after each step.

        Returns
        -------
        x : ndarray of shape (n_unknowns,)
        """
        try:
            with until(deadline):
                for _ in range(max_iter):
                    check()
                    if self.gradient is None:
                        self.value, self.gradient = self.function(self.x)
                    before = self.value
                    if not self.step():
                        break
                    if callback is not None:
                        callback(self)
                    if before - self.value <= rtol * abs(before):
                        break
        except OutOfTime:
            pass
        return self.x

    def step(self):
        """Move to a better point; whether there was one along the direction."""
        direction = self._direction()
        slope = self.gradient @ direction
        if not slope < 0:
            # Rounding; the gradient leads down if there is a way.
            self.order = self.order[:0]
            direction = self._direction()
            slope = self.gradient @ direction
            if not slope < 0:
                return False
        size, low, high = 1.0, 0.0, np.inf
        best = None
        for _ in range(_TRIALS):
            x = self.x + size * direction
            value, gradient = self.function(x)
            if not value <= self.value + _GAIN * size * slope:
                high = size
            else:
                best = x, value, gradient
                if gradient @ direction >= _LEFT * slope:
                    break
                low = size
            size = 0.5 * (low + high) if high < np.inf else 2.0 * low
        if best is None:
            return False
        x, value, gradient = best
        self._remember(x - self.x, gradient - self.gradient)
        self.x, self.value, self.gradient = best
        return True

    def _direction(self):
        """The negative gradient times the inverse of the second derivatives."""
        g = self.gradient
        if len(self.order) == 0:
            # A step as long as one unknown's unit is safe.
            return -g / max(np.linalg.norm(g), 1e-300)
        k = self.order
        S, Y = self.steps, self.changes
        along, changed = (S @ g)[k], (Y @ g)[k]
        R = np.triu(self.mixed[np.ix_(k, k)])
        curved = np.diag(R)
        scale = curved[-1] / self.squares[k[-1], k[-1]]
        inner = solve_triangular(R, along, check_finite=False)
        outer = curved * inner + scale * (self.squares[np.ix_(k, k)] @ inner - changed)
        outer = solve_triangular(R, outer, trans="T", check_finite=False)
        to_steps, to_changes = np.zeros(self.memory), np.zeros(self.memory)
        to_steps[k], to_changes[k] = outer, scale * inner
        return to_changes @ Y - to_steps @ S - scale * g

    def _remember(self, step, change):
        square, curved = change @ change, step @ change
        # Where squares of differences vanish in rounding they say nothing either.
        least = max(_FLAT * np.sqrt(square * (step @ step)), np.finfo(float).tiny)
        if not (curved > least and square > np.finfo(float).tiny):
            return
        if len(self.order) < self.memory:
            at = len(self.order)
        else:
            at, self.order = self.order[0], self.order[1:]
        self.order = np.append(self.order, at)
        self.steps[at], self.changes[at] = step, change
        k = self.order
        self.mixed[k, at] = (self.steps @ change)[k]
        self.mixed[at, k] = (self.changes @ step)[k]
        self.squares[k, at] = self.squares[at, k] = (self.changes @ change)[k]
