"""A trained gated network and its outputs."""

from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import issparse

from sklearn_convexnn._sklearn import device, get_namespace, max_precision_float_dtype


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
    status : {'optimal', 'max_iter', 'max_time', 'stalled', 'breakdown'}
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
    X : {array, sparse array} of shape (n_samples, n_features)

    Returns
    -------
    F : array of shape (n_samples, n_outputs)
        In the namespace of `X`, of its widest dtype.
    """
    xp, _ = get_namespace(X)
    where = device(X)
    wide = max_precision_float_dtype(xp, where)
    gates, hidden, output, offset = (
        xp.asarray(part, dtype=wide, device=where)
        for part in (network.gates, network.hidden, network.output, network.offset)
    )
    X = X.astype(np.float64) if issparse(X) else xp.astype(X, wide)
    d = X.shape[1]
    open_ = X @ gates[:d, :] + xp.sum(gates[d:, :], axis=0) > 0
    return (xp.astype(open_, wide) * (X @ hidden)) @ output + offset
