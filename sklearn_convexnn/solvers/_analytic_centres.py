"""Where the interior point method starts: the middle of every cone."""

import numpy as np

from sklearn_convexnn._utils.deadlines import fits


def analytic_centres(operator, starts, r, max_iter=60):
    """Minimisers of ``|v|^2 / 2 - sum(log(S M theta))`` in each cone.

    Newton's method from interior points, on all patterns at once; both output
    signs share a cone.
    """
    n_patterns, n_cones = operator.n_patterns, operator.n_cones
    centres = np.zeros_like(starts)
    if n_patterns == 0 or operator.n_constraints == 0:
        return centres

    closed = np.ones((n_patterns, operator.n_constraints), dtype=bool)
    closed[operator.open[:2]] = False

    def slacks(theta):
        # Open entries do not constrain: a constant keeps them out of the way.
        return np.where(closed, operator.pattern_cone(theta), 1.0)

    theta = starts[:n_patterns]
    norm = np.linalg.norm(theta[:, :r], axis=1, keepdims=True)
    theta = theta * np.sqrt(operator.n_constraints) / np.maximum(norm, 1e-300)
    w = slacks(theta)
    floor = 1e-12 * np.max(np.abs(w), axis=1, keepdims=True)
    w = np.maximum(w, floor)
    half = np.zeros((n_cones, operator.n_constraints))
    # Most of it is spent on the matrices of Newton's method.
    work = 8.0 * n_patterns * operator.n_constraints * operator.p**2
    for _ in range(max_iter):
        if not fits(work):
            break
        half[:n_patterns] = closed / w**2
        hessian = operator.cone_gram(half)[:n_patterns]
        index = np.arange(r)
        hessian[:, index, index] += 1.0
        block, absent = np.nonzero(np.einsum("bii->bi", hessian) == 0)
        hessian[block, absent, absent] = 1.0
        gradient = -operator.pattern_cone_adjoint(closed / w)
        gradient[:, :r] += theta[:, :r]
        try:
            step = -np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        except np.linalg.LinAlgError:
            break  # cells as thin as rounding: the points have to do
        decrement = np.sqrt(np.maximum(-np.einsum("bi,bi->b", gradient, step), 0.0))
        # The damped step of self-concordant functions stays inside; far from
        # the centre, halfway to the boundary is often much further.
        reach = -1.0 / np.minimum(np.min(closed * slacks(step) / w, axis=1), -1e-300)
        damped = np.maximum(1.0 / (1.0 + decrement), 0.5 * reach)
        size = np.where(decrement > 0.25, np.minimum(damped, 1.0), 1.0)
        theta = theta + size[:, None] * step
        w = np.maximum(slacks(theta), floor)
        if np.max(decrement) < 0.5:
            break
    centres[:n_patterns] = theta
    if operator.paired:
        centres[n_patterns:n_cones] = theta
    return centres
