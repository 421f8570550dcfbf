"""Train a network with a peer, in the interpreter that has it installed.

``global_optimum.py`` calls this file as ``PYTHON peers_worker.py PEER FILE``.  FILE is
an ``.npz`` archive with the problem (X, y, alpha) and one gate vector per activation
pattern; the answer, hidden and output weights (if there are any) with the seconds of
the solver alone, is written over it.  Without FILE the version of the peer is printed.
Nothing here imports the package under test.
"""

import sys
from importlib.metadata import version
from time import perf_counter

import numpy as np


def balanced(hidden, output):
    """The same network with the smallest sum of squares: both layers alike."""
    size = np.linalg.norm(hidden, axis=1)
    magnitude = size * np.abs(output)
    used = magnitude > 0
    root = np.sqrt(magnitude[used])
    direction = hidden[used] / size[used, None]
    return direction * root[:, None], np.sign(output[used]) * root


def train_adelie(X, y, alpha, gates):
    """Group lasso over the blocks, with the cones as linear constraints."""
    import adelie as ad

    X = np.asfortranarray(X)
    masks = np.asfortranarray(X @ gates.T > 0)
    n, d = X.shape
    start = perf_counter()
    cones = [(2.0 * mask - 1.0)[:, None] * X for mask in masks.T] * 2
    state = ad.grpnet(
        X=ad.matrix.convex_relu(X, masks),
        glm=ad.glm.gaussian(y=y),
        constraints=[
            ad.constraint.linear(
                np.ascontiguousarray(cone), lower=np.zeros(n), upper=np.full(n, np.inf)
            )
            for cone in cones
        ],
        groups=np.arange(len(cones)) * d,
        penalty=np.ones(len(cones)),
        lmda_path=np.array([alpha / n]),  # its loss is a mean
        intercept=False,
        early_exit=False,
        progress_bar=False,
    )
    seconds = perf_counter() - start
    betas = state.betas.toarray()
    if len(betas) == 0:  # what it returns when it gives up
        return None, None, seconds
    signs = np.repeat([1.0, -1.0], len(gates))
    return betas[-1].reshape(len(cones), d), signs, seconds


def train_pyscnn(X, y, alpha, gates):
    """The augmented Lagrangian method with its default settings."""
    from scnn.metrics import Metrics
    from scnn.models import ConvexReLU
    from scnn.optimize import optimize_model
    from scnn.regularizers import NeuronGL1
    from scnn.solvers import AL

    n = len(y)
    model = ConvexReLU(np.ascontiguousarray(gates.T))
    start = perf_counter()
    # Its loss is half a mean, over columns that it scales to norm one.
    network, *_ = optimize_model(
        model,
        AL(model),
        Metrics(),
        X,
        y[:, None],
        regularizer=NeuronGL1(alpha / (n * np.sqrt(n))),
    )
    seconds = perf_counter() - start
    hidden, output = (np.asarray(part, dtype=float) for part in network.parameters)
    return hidden, output.ravel(), seconds


PEERS = {  # name: (distribution, function)
    "adelie": ("adelie", train_adelie),
    "pyscnn": ("pyscnn", train_pyscnn),
}


def main():
    distribution, train = PEERS[sys.argv[1]]
    if len(sys.argv) < 3:
        print(version(distribution))
        return
    with np.load(sys.argv[2]) as problem:
        hidden, output, seconds = train(**problem)
    network = {}
    if hidden is not None:
        network["hidden"], network["output"] = balanced(hidden, output)
    np.savez(sys.argv[2], seconds=seconds, **network)


if __name__ == "__main__":
    main()
