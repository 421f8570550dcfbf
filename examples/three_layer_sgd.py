"""
Local training of parallel three-layer networks
===============================================

Plain NumPy descent for the problem that the convex programs of three layers solve, for
the examples that compare the two.  A network is a sum of `K` sub-networks, each with
two hidden layers, `width` neurons in the first one and one in the second:

.. math::

    \\min\\ L\\Big(\\sum_k ((X W_{1k})_+ w_{2k})_+ w_{3k}^T\\Big)
    + \\frac{\\alpha}{2} \\sum_k \\big(\\|w_{2k}\\|^2 + \\|w_{3k}\\|^2\\big)
    \\quad \\text{s.t. } \\|W_{1k}\\|_F \\le 1 .

The loss is a *sum* over samples, not an average.  Parameters are a tuple ``(W1, w2,
w3)`` of arrays of shapes ``(K, d, width)``, ``(K, width)`` and ``(K, c)``, for `d`
features and `c` outputs.
"""

from math import cos, pi
from time import perf_counter

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logsumexp

__all__ = [
    "balance",
    "forward",
    "init_subnetworks",
    "objective",
    "train_lbfgs",
    "train_sgd",
    "train_sgd_grid",
]


def init_subnetworks(d, m1, K, c, rng):
    """
    Draw a scaled Gaussian start in the constraint set.

    The variances keep the size of the signal from layer to layer, and the size of the
    output does not depend on `K`.  The first entry of every `w2` is made positive: a
    sub-network whose `w2` has no positive entry has the output zero on all data, and
    descent could never leave it.

    Parameters
    ----------
    d : int
        Number of features.
    m1 : int
        Neurons in the first layer of a sub-network.
    K : int
        Number of sub-networks.
    c : int
        Number of outputs.
    rng : numpy.random.Generator
        Source of the random numbers.

    Returns
    -------
    params : tuple of ndarray
        The arrays `W1` of shape (K, d, m1), `w2` of shape (K, m1) and `w3` of shape
        (K, c).
    """
    W1 = rng.standard_normal((K, d, m1)) / np.sqrt(d * m1)
    w2 = rng.standard_normal((K, m1)) / np.sqrt(m1)
    w3 = rng.standard_normal((K, c)) / np.sqrt(K)
    w2[:, 0] = np.abs(w2[:, 0])
    _project(W1)
    return W1, w2, w3


def forward(params, X):
    """
    Compute the outputs of the network.

    Parameters
    ----------
    params : tuple of ndarray
        The arrays `W1`, `w2` and `w3`.
    X : ndarray of shape (n_samples, d)
        Data.

    Returns
    -------
    outputs : ndarray of shape (n_samples, c)
        Outputs, with one column for a single output too.
    """
    return _units(params, X)[1] @ params[2]


def objective(params, X, Y, alpha, loss):
    """
    Compute the training objective, the summed loss plus weight decay.

    The constraint on `W1` is not checked.  Every network can be brought into the
    constraint set by :func:`balance`.

    Parameters
    ----------
    params : tuple of ndarray
        The arrays `W1`, `w2` and `w3`.
    X : ndarray of shape (n_samples, d)
        Data.
    Y : ndarray of shape (n_samples,) or (n_samples, c)
        Targets, as in :func:`train_sgd`.
    alpha : float
        Weight decay of the second and the third layer.
    loss : {'squared_error', 'log_loss', 'softmax'}
        Loss, as in :func:`train_sgd`.

    Returns
    -------
    value : float
        The objective, infinite where it overflows.
    """
    _, w2, w3 = params
    with np.errstate(over="ignore", invalid="ignore"):
        value = _loss(forward(params, X), _columns(Y), loss)[0]
        value += 0.5 * alpha * (np.sum(w2**2) + np.sum(w3**2))
    return float(value) if np.isfinite(value) else np.inf


def balance(params):
    """
    Rescale every sub-network to its cheapest form in the constraint set.

    The outputs stay the same, as the layers are positively homogeneous.  Of all
    rescalings with ``||W1_k||_F <= 1``, the one with ``||W1_k||_F = 1`` and ``||w2_k||
    = ||w3_k||`` has the least weight decay, `alpha` times the product of the three
    norms.  Sub-networks with a layer of zeros become zero.

    Parameters
    ----------
    params : tuple of ndarray
        The arrays `W1`, `w2` and `w3`.

    Returns
    -------
    params : tuple of ndarray
        The rescaled arrays.
    """
    norms = _norms(params)
    root = np.sqrt(np.prod(norms, axis=0))
    return _with_norms(params, norms, [root > 0, root, root])


def train_sgd(
    X,
    Y,
    *,
    loss,
    alpha,
    n_subnetworks,
    width,
    learning_rate=1e-3,
    n_epochs=200,
    batch_size=32,
    momentum=0.9,
    schedule="constant",
    seed=0,
    record=None,
):
    """
    Train by projected mini-batch gradient descent with momentum.

    The loss is a sum over samples, so the gradient of a mini-batch is multiplied by
    ``n_samples / batch_size``, which makes it an unbiased estimate of the gradient of
    the sum, and the whole weight decay is in every step.  A learning rate for an
    averaged loss is therefore to be divided by ``n_samples``.  After each step every
    `W1_k` is projected on the Frobenius ball.  Training ends early if the objective is
    no longer finite.

    Parameters
    ----------
    X : ndarray of shape (n_samples, d)
        Training data.  Training is in its precision if that is single precision.
    Y : ndarray of shape (n_samples,) or (n_samples, c)
        Targets: numbers for the squared error, -1 and 1 for the log loss of two
        classes, and one column per class with zeros and ones for the softmax.
    loss : {'squared_error', 'log_loss', 'softmax'}
        Half the squared error, or the log loss of two or of several classes.
    alpha : float
        Weight decay of the second and the third layer.
    n_subnetworks : int
        Number of sub-networks.
    width : int
        Neurons in the first layer of each.
    learning_rate : float, default=1e-3
        Step size for the gradient of the summed objective.
    n_epochs : int, default=200
        Passes over the data.
    batch_size : int, default=32
        Samples per step, at most all of them.
    momentum : float, default=0.9
        Factor of the previous step.
    schedule : {'constant', 'cosine'}, default='constant'
        With 'cosine' the learning rate falls to zero, as half a cosine over the
        epochs.
    seed : int, default=0
        Seed of the start and of the order of the samples.
    record : callable, default=None
        Called with the parameters after each epoch, for a test error for example.

    Returns
    -------
    params : tuple of ndarray
        The best parameters seen, by the objective on all data after each epoch, the
        start included.
    history : dict of list
        For the start and after every epoch: 'time', the seconds spent on steps and not
        on measuring, 'objective', that of the epoch and not the best one so far, and
        'record', what `record` returned, if given.  The last epoch of a run that has
        diverged has no record.
    """
    if schedule not in {"constant", "cosine"}:
        raise ValueError(f"unknown schedule {schedule!r}")
    # Scalars of NumPy would turn single precision into double.
    alpha, learning_rate = float(alpha), float(learning_rate)
    X, Y = _data(X, Y)
    n, d = X.shape
    batch_size = min(batch_size, n)
    rng = np.random.default_rng(seed)
    params = [
        np.ascontiguousarray(part, dtype=X.dtype)
        for part in init_subnetworks(d, width, n_subnetworks, Y.shape[1], rng)
    ]
    steps = [np.zeros_like(part) for part in params]
    history = {"time": [], "objective": []}
    if record is not None:
        history["record"] = []
    best, best_value, seconds = None, np.inf, 0.0

    for epoch in range(n_epochs + 1):
        if epoch > 0:
            rate = learning_rate
            if schedule == "cosine":
                rate *= 0.5 * (1 + cos(pi * (epoch - 1) / n_epochs))
            start = perf_counter()
            with np.errstate(over="ignore", invalid="ignore"):
                _epoch(
                    params, steps, X, Y, loss, alpha, rate, momentum, batch_size, rng
                )
            seconds += perf_counter() - start
        value = objective(params, X, Y, alpha, loss)
        history["time"].append(seconds)
        history["objective"].append(value)
        if best is None or value < best_value:
            best, best_value = tuple(part.copy() for part in params), value
        if not np.isfinite(value):
            break
        if record is not None:
            history["record"].append(record(tuple(params)))
    return best, history


def train_sgd_grid(X, Y, *, learning_rates, seeds, **options):
    """
    Train by :func:`train_sgd` with every learning rate and every seed.

    Parameters
    ----------
    X : ndarray of shape (n_samples, d)
        Training data.
    Y : ndarray of shape (n_samples,) or (n_samples, c)
        Targets.
    learning_rates : iterable of float
        Learning rates to choose from.
    seeds : iterable of int
        Seeds, the same for every rate.
    **options : dict
        The other arguments of :func:`train_sgd`.

    Returns
    -------
    learning_rate : float
        The rate of the single run with the lowest training objective.
    runs : list of tuple
        The parameters and the history of all seeds with this rate.
    objectives : ndarray of shape (n_rates, n_seeds)
        The best objective of every run, infinite where it has diverged at once.
    """
    rates, seeds = list(learning_rates), list(seeds)
    objectives = np.full((len(rates), len(seeds)), np.inf)
    chosen, kept = rates[0], []
    for i, rate in enumerate(rates):
        runs = [
            train_sgd(X, Y, learning_rate=rate, seed=seed, **options) for seed in seeds
        ]
        objectives[i] = [min(history["objective"]) for _, history in runs]
        # Runs of the other rates are not kept: those of large networks need memory.
        if not kept or objectives[i].min() < objectives[:i].min():
            chosen, kept = rate, runs
    return chosen, kept, objectives


def train_lbfgs(X, Y, *, loss, alpha, n_subnetworks, width, seed=0, max_iter=5000):
    """
    Train by L-BFGS on an equivalent problem without constraint.

    The constraint and the weight decay are replaced by the penalty ``alpha / 3 *
    sum_k(||W1_k||_F**3 + ||w2_k||**3 + ||w3_k||**3)``.  By the inequality of the means
    it is at least `alpha` times the sum of the products of the three norms, which is
    the weight decay of the balanced network, with equality if the three norms are
    equal.  So both problems have the same optimal value.  The rectifier has kinks, so
    L-BFGS can stop at a point that is not stationary.

    Parameters
    ----------
    X : ndarray of shape (n_samples, d)
        Training data.
    Y : ndarray of shape (n_samples,) or (n_samples, c)
        Targets, as in :func:`train_sgd`.
    loss : {'squared_error', 'log_loss', 'softmax'}
        Loss, as in :func:`train_sgd`.
    alpha : float
        Weight decay of the second and the third layer.
    n_subnetworks : int
        Number of sub-networks.
    width : int
        Neurons in the first layer of each.
    seed : int, default=0
        Seed of the start, which is that of :func:`train_sgd`.
    max_iter : int, default=5000
        Largest number of iterations.

    Returns
    -------
    params : tuple of ndarray
        Balanced parameters in the constraint set, see :func:`balance`.  Their objective
        is at most the last value of the descent.
    history : dict of list
        'time' in seconds and 'objective', the value of the descent, which is that of
        the problem without constraint, for the start and after every iteration.
    """
    X, Y = _data(np.asarray(X, dtype=float), Y)
    rng = np.random.default_rng(seed)
    params = init_subnetworks(X.shape[1], width, n_subnetworks, Y.shape[1], rng)
    shapes = [part.shape for part in params]
    ends = np.cumsum([part.size for part in params])[:-1]

    def unpack(flat):
        parts = np.split(flat, ends)
        return tuple(part.reshape(shape) for part, shape in zip(parts, shapes))

    def value_and_gradient(flat):
        params = unpack(flat)
        value, gradients = _loss_gradient(params, X, Y, loss)
        for part, gradient, norms in zip(params, gradients, _norms(params)):
            value += alpha / 3 * np.sum(norms**3)
            gradient += alpha * _per_subnetwork(norms, part) * part
        return value, np.concatenate([gradient.ravel() for gradient in gradients])

    flat = np.concatenate([part.ravel() for part in params])
    start = perf_counter()
    history = {"time": [0.0], "objective": [float(value_and_gradient(flat)[0])]}

    def follow(intermediate_result):
        history["time"].append(perf_counter() - start)
        history["objective"].append(float(intermediate_result.fun))

    result = minimize(
        value_and_gradient,
        flat,
        jac=True,
        method="L-BFGS-B",
        callback=follow,
        options={
            "maxiter": max_iter,
            "maxfun": 2 * max_iter,
            "maxcor": 20,
            # The defaults stop on the long flat stretches that these problems have.
            "ftol": 1e-13,
            "gtol": 1e-9,
        },
    )
    return balance(unpack(result.x)), history


def _epoch(params, steps, X, Y, loss, alpha, rate, momentum, batch_size, rng):
    """One pass over the data, which changes `params` and `steps` in place."""
    order = rng.permutation(len(X))
    for first in range(0, len(X), batch_size):
        batch = order[first : first + batch_size]
        _, gradients = _loss_gradient(params, X[batch], Y[batch], loss)
        # The last batch can be smaller, so its own size makes the estimate unbiased.
        scale = len(X) / len(batch)
        for part, step, gradient, decay in zip(
            params, steps, gradients, (0.0, alpha, alpha)
        ):
            step *= momentum
            step -= rate * (scale * gradient + decay * part)
            part += step
        _project(params[0])


def _units(params, X):
    """First layer, of shape (n, K, m1), and second layer, of shape (n, K)."""
    W1, w2, _ = params
    hidden = np.maximum(np.tensordot(X, W1, axes=(1, 1)), 0)
    return hidden, np.maximum(np.einsum("nkm,km->nk", hidden, w2), 0)


def _loss_gradient(params, X, Y, loss):
    """Summed loss and its gradients in the three parts of the parameters."""
    _, w2, w3 = params
    hidden, units = _units(params, X)
    value, slopes = _loss(units @ w3, Y, loss)
    back = (slopes @ w3.T) * (units > 0)
    gradient_3 = units.T @ slopes
    gradient_2 = np.einsum("nk,nkm->km", back, hidden)
    back = back[:, :, None] * w2 * (hidden > 0)
    gradient_1 = np.tensordot(X, back, axes=(0, 0)).transpose(1, 0, 2)
    return value, [gradient_1, gradient_2, gradient_3]


def _loss(outputs, Y, loss):
    """Summed loss and its derivative in the outputs."""
    if loss == "squared_error":
        residuals = outputs - Y
        return 0.5 * np.sum(residuals**2), residuals
    if loss == "log_loss":
        margins = Y * outputs
        return np.sum(np.logaddexp(0, -margins)), -Y * expit(-margins)
    if loss == "softmax":
        logs = outputs - logsumexp(outputs, axis=1, keepdims=True)
        return -np.sum(Y * logs), np.exp(logs) - Y
    raise ValueError(f"unknown loss {loss!r}")


def _data(X, Y):
    """Data in one precision, targets with columns."""
    X = np.asarray(X)
    if X.dtype != np.float32:
        X = X.astype(float)
    return X, _columns(Y).astype(X.dtype)


def _columns(Y):
    Y = np.asarray(Y)
    return Y[:, None] if Y.ndim == 1 else Y


def _norms(params):
    """Norms of the parts, one per layer and sub-network."""
    return [
        np.sqrt(np.sum(part**2, axis=tuple(range(1, part.ndim)))) for part in params
    ]


def _per_subnetwork(values, part):
    """`values`, one per sub-network, in a shape that multiplies `part`."""
    return np.reshape(values, (-1,) + (1,) * (part.ndim - 1))


def _with_norms(params, norms, wanted):
    """Parameters with the norms `wanted`; parts of norm zero stay zero."""
    return tuple(
        part * _per_subnetwork(new / np.where(old > 0, old, 1), part)
        for part, old, new in zip(params, norms, wanted)
    )


def _project(W1):
    """Project every `W1_k` on the Frobenius ball, in place."""
    norms = np.sqrt(np.einsum("kdm,kdm->k", W1, W1))
    W1 /= np.maximum(norms, 1)[:, None, None]
