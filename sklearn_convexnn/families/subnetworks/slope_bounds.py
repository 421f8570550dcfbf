"""Proven bounds of the slopes of sub-networks."""

import numpy as np

from sklearn_convexnn._utils.breakdown import unless_broken
from sklearn_convexnn._utils.deadlines import OutOfTime, fits, svd_work
from sklearn_convexnn.families.two_layer.slope_bounds import (
    ROUNDING,
    norm_bound,
    triangle_bound,
)

# Operations of the triangle relaxation for each entry of the data, as measured.
_TRIANGLE = 1e4


def slope_bound(family, N):
    r"""Upper bound of the slope of every sub-network at a dual point.

    The output of a unit of cost one changes no more from sample to sample than the
    samples do, so the bounds of neurons by norms hold for units of any depth.
    Without biases there is a closer one: what is positive in the dual variable
    meets a convex function of the input of the last unit, which is a mixture of
    neurons up to signs.  So no slope is above that of a neuron at the positive
    part of the dual variable, or at the negative one, and these are bounded by
    the triangle relaxation.  With the path norm, units can be larger by the root
    of the number of their leaves.

    What there is no time for, or breaks down, is left out: the bound by the lengths
    of the samples is always there.

    Parameters
    ----------
    family : ParallelSubnetworks
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
    bounds = np.array([_bound_of_one(family, nu) for nu in N.T])
    total = np.linalg.norm(bounds)
    if family.architecture.norm == "path":
        total *= np.sqrt(family.architecture.widths[0])
    return float(total)


def _bound_of_one(family, nu):
    # In double precision, as rounding must not take anything off a bound.
    X, free = family.X.astype(np.float64, copy=False), family.fit_intercept
    if free:
        X = X - X.mean(axis=0)
    bound = (1.0 + ROUNDING) * float(np.abs(nu) @ np.linalg.norm(X, axis=1))
    if fits(svd_work(X.shape)):
        closer = _as_time_permits(norm_bound, X, nu, free_bias=free)
        bound = float(np.fmin(bound, closer))
    if free or not fits(_TRIANGLE * X.size):
        return bound
    parts = [part for part in (np.maximum(nu, 0.0), np.maximum(-nu, 0.0)) if part.any()]
    closer = [_as_time_permits(triangle_bound, X, part) for part in parts]
    return float(np.fmin(bound, max(closer, default=0.0)))


def _as_time_permits(bound, *args, **options):
    """A bound, infinite if there is no time for it or it breaks down."""
    try:
        return unless_broken(np.inf, bound, *args, **options)
    except OutOfTime:
        return np.inf
