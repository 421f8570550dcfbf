"""Stochastic descent on the non-convex objective, for many samples."""

from time import perf_counter

import numpy as np

from sklearn_convexnn._utils.deadlines import fits

BATCH = 256
"""Samples in a batch."""

# Forgetting of Adam's means of the derivatives and of their squares.
_FIRST, _SECOND = 0.9, 0.999
# Batches after which the time that a batch takes is known well enough.
_TRIAL = 20


def descend_in_batches(
    problem,
    W,
    V,
    bias,
    offset,
    linear,
    rng,
    *,
    epochs,
    rate=0.03,
    deadline=np.inf,
):
    r"""Lower the weight-decay objective by Adam with a rate that falls to zero.

    The rate is relative to the size of the weights, biases and the offset in the
    units of `descend`, so it needs no tuning to the data.

    Parameters
    ----------
    problem : Problem
        Works in the precision of its ``X``.
    W : ndarray of shape (n_features, n_neurons)
        Hidden weights.
    V : ndarray of shape (n_neurons, n_outputs)
        Output weights.
    bias : ndarray of shape (n_neurons,)
    offset : ndarray of shape (n_outputs,)
    linear : ndarray of bool, shape (n_neurons,)
        Neurons that count as active everywhere, and have no bias.
    rng : RandomState
    epochs : float
        Visits of all samples.
    rate : float, default=0.03
        Step at the start, relative to the root mean square of the weights.
    deadline : float, default=inf
        Value of ``time.perf_counter()`` at which to be done: the rate falls
        faster if time is short.

    Returns
    -------
    W, V, bias, offset : ndarrays

    References
    ----------
    .. [1] Kingma, D. and Ba, J. (2015). "Adam: A Method for Stochastic
       Optimization". ICLR.
    .. [2] Loshchilov, I. and Hutter, F. (2017). "SGDR: Stochastic Gradient
       Descent with Warm Restarts". ICLR. (the cosine schedule)
    """
    p, n = problem, len(problem.X)
    dtype = p.X.dtype
    weights = [np.array(part, dtype=dtype) for part in (W, V, bias, offset)]
    W, V, bias, offset = weights
    trainable = [True, True, p.fit_intercept, p.fit_intercept]
    bent = ~linear
    some_linear = np.any(linear)
    entry = np.linalg.norm(p.X) / np.sqrt(p.X.size)
    unit = np.sqrt(np.mean(W**2))
    size = np.sqrt(np.mean(np.sum(V**2, axis=1)))
    units = unit, unit, unit * entry, unit * entry * size
    first = [np.zeros_like(part) for part in weights]
    second = [np.zeros_like(part) for part in weights]
    # Derivatives of the mean loss are of about this size, whatever its units.
    typical = np.sqrt(np.mean(p.gradient(p.outputs(p.null())) ** 2)) * entry * unit
    tiny = dtype.type(1e-8 * max(typical, 1e-30))
    decay, leak = (dtype.type(x) for x in (p.alpha / n, p.family.negative_slope))

    def derivatives(batch):
        x = p.X[batch]
        z = x @ W
        z += bias
        slope = z > 0
        if some_linear:
            slope |= linear
        if leak != 0:
            slope = np.where(slope, dtype.type(1.0), leak)
        z *= slope
        F = (z @ V + offset).astype(np.float64)
        N = p.loss.gradient(F, p.Y[batch], p.sample_weight[batch]) / len(batch)
        N = N.astype(dtype)
        back = N @ V.T
        back *= slope
        return (
            x.T @ back + decay * W,
            z.T @ N + decay * V,
            bent * back.sum(axis=0),
            N.sum(axis=0),
        )

    n_steps = max(int(epochs * n / BATCH), 1)
    start, step = perf_counter(), 0
    while step < n_steps:
        order = rng.permutation(n)
        for i in range(0, n - BATCH + 1 if n > BATCH else 1, BATCH):
            if step == n_steps:
                break
            if step == _TRIAL:
                left = (deadline - perf_counter()) / (perf_counter() - start)
                n_steps = int(min(n_steps, step + max(left, 0.0) * step))
            progress = step / n_steps
            step += 1
            speed = rate * 0.5 * (1.0 + np.cos(np.pi * progress))
            speed *= np.sqrt(1.0 - _SECOND**step) / (1.0 - _FIRST**step)
            parts = derivatives(order[i : i + BATCH])
            for part, slope, mean, square, unit, free in zip(
                weights, parts, first, second, units, trainable
            ):
                if not free:
                    continue
                mean *= _FIRST
                mean += (1.0 - _FIRST) * slope
                square *= _SECOND
                square += (1.0 - _SECOND) * slope**2
                part -= dtype.type(speed * unit) * mean / (np.sqrt(square) + tiny)
            if perf_counter() > deadline or not fits():
                n_steps = step
    return tuple(part.astype(np.float64) for part in weights)
