"""From the blocks of a program to neurons, and from neurons to layers and back."""

import numpy as np

from sklearn_convexnn._utils.deadlines import check
from sklearn_convexnn.families.two_layer.neurons import Neurons
from sklearn_convexnn.model.network import Network


def neurons_from_blocks(program, theta, offset):
    """Neurons of the blocks that are not exactly zero.

    Parameters
    ----------
    program : TwoLayerProgram
    theta : ndarray of shape (n_blocks, p)
    offset : float

    Returns
    -------
    network : Network

    References
    ----------
    .. [1] Pilanci, M. and Ergen, T. (2020). "Neural Networks are Convex
       Regularizers". ICML. Theorem 1, the map from blocks to weights.
    """
    weights, biases, signs, linear = program.expand(theta)
    if program.fit_intercept:
        # Biases are free, and those of blocks that are active on all samples can grow
        # while others make up for them.
        active = program.active_everywhere(theta)
        weights[linear] += signs[active] @ weights[active]
        offset = offset + signs[active] @ biases[active]
        weights[active] = 0.0
    norms = np.linalg.norm(weights, axis=1)
    keep = norms > 1e-12 * norms.max(initial=0.0)
    units = Neurons(
        weights[keep] / norms[keep, None], biases[keep] / norms[keep], linear[keep]
    )
    return Network.of_one_output(units, signs[keep] * norms[keep], offset)


def merge_parallel(network, tol=1e-6):
    """Replace neurons of one direction by their sum.

    Neurons with the same unit add up, whatever their outputs, and the norm of the
    sum is no larger than the sum of the norms.

    Parameters
    ----------
    network : Network
    tol : float
        Directions count as equal when their cosine exceeds ``1 - tol``.

    Returns
    -------
    network : Network
    """
    neurons, sizes = network.units, network.sizes
    scale = max(1.0, np.abs(neurons.biases[~neurons.linear]).max(initial=0.0))
    points = np.column_stack([neurons.directions, neurons.biases / scale])
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    free = np.ones(len(neurons), dtype=bool)
    kept, outputs, directions, biases = [], [], [], []
    for i in np.argsort(-sizes, kind="stable"):
        if not free[i]:
            continue
        check()
        same = free & (neurons.linear == neurons.linear[i])
        same[same] = points[same] @ points[i] > 1.0 - tol
        free &= ~same
        kept.append(i)
        outputs.append(network.outputs[same].sum(axis=0))
        weights = sizes[same] if np.any(sizes[same] > 0) else np.ones(same.sum())
        direction = weights @ neurons.directions[same]
        length = np.linalg.norm(direction)
        directions.append(direction / length)
        biases.append(weights @ neurons.biases[same] / length)
    if len(kept) == len(neurons):
        return network
    linear = neurons.linear[np.array(kept)]
    merged = Neurons(np.array(directions), np.array(biases), linear)
    return Network(merged, np.array(outputs), network.offset)


def layers_of_neurons(network, X):
    """Weights of the network in the shapes of scikit-learn's MLP.

    A linear term becomes a neuron that stays active on the training data and
    as far beyond them, along its direction, as they reach.

    Parameters
    ----------
    network : Network
    X : ndarray of shape (n_samples, n_features)
        Training data.

    Returns
    -------
    coefs : list of ndarray, (n_features, n_neurons) and (n_neurons, n_outputs)
    intercepts : list of ndarray, (n_neurons,) and (n_outputs,)
    """
    neurons, offset = network.units, network.offset.copy()
    biases = neurons.biases.copy()
    for j in np.flatnonzero(neurons.linear):
        z = X @ neurons.directions[j]
        biases[j] = np.ptp(z) - np.min(z)
        offset -= (biases[j] - neurons.biases[j]) * network.outputs[j]
    root = np.sqrt(network.sizes)
    coefs = [neurons.directions.T * root, network.outputs / root[:, None]]
    return coefs, [biases * root, offset]


def neurons_of_layers(family, coefs, intercepts):
    """The inverse of `layers_of_neurons`.

    Parameters
    ----------
    family : TwoLayer
    coefs, intercepts : list of ndarray

    Returns
    -------
    network : Network
        Of neurons whose hidden weights are not zero.  Those that are active on all
        samples are linear, and what their biases add is in the offset.
    """
    norms = np.linalg.norm(coefs[0], axis=0)
    used = norms > 0
    norms = norms[used]
    biases = family.fit_intercept * intercepts[0][used] / norms
    neurons = family.neurons(coefs[0].T[used] / norms[:, None], biases)
    outputs = coefs[1][used] * norms[:, None]
    straight = (biases - neurons.biases)[:, None] * outputs
    return Network(neurons, outputs, intercepts[1] + np.sum(straight, axis=0))
