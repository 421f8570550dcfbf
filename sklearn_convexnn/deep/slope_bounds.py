"""Proven bounds of the slopes of sub-networks."""

import numpy as np

from sklearn_convexnn.slope_bounds import norm_bound, triangle_bound


def slope_bound(problem, N):
    r"""Upper bound of the slope of every sub-network at a dual point.

    The output of a unit of cost one changes no more from sample to sample than the
    samples do, so the bounds of neurons by norms hold for units of any depth.
    Without biases there is a closer one: what is positive in the dual variable
    meets a convex function of the input of the last unit, which is a mixture of
    neurons up to signs.  So no slope is above that of a neuron at the positive
    part of the dual variable, or at the negative one, and these are bounded by
    the triangle relaxation.  With the path norm, units can be larger by the root
    of the number of their leaves.

    Parameters
    ----------
    problem : DeepProblem
    N : ndarray of shape (n_samples, n_outputs)
        With free biases of sum zero in each column.

    Returns
    -------
    bound : float

    References
    ----------
    .. [1] Ergen, T. and Pilanci, M. (2021). "Global Optimality Beyond Two
       Layers: Training Deep ReLU Networks via Convex Programs". ICML. Section 3
       (the dual problem).
    """
    bounds = np.array([_bound_of_one(problem, nu) for nu in N.T])
    total = bounds.max() if problem.separate else np.linalg.norm(bounds)
    if problem.architecture.norm == "path":
        total *= np.sqrt(problem.architecture.widths[0])
    return float(total)


def _bound_of_one(problem, nu):
    bound = norm_bound(problem.X, nu, free_bias=problem.fit_intercept)
    if problem.fit_intercept:
        return bound
    parts = np.maximum(nu, 0.0), np.maximum(-nu, 0.0)
    closer = max(triangle_bound(problem.X, part) for part in parts if np.any(part))
    return min(bound, closer)
