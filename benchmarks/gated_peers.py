"""Solve a gated program with a peer, in the interpreter that has it installed.

``gated_program.py`` calls this file as ``PYTHON gated_peers.py PEER FILE RUNS``.  FILE
is an ``.npz`` archive with the problem (X, y, alpha) and one gate vector per pattern;
the blocks, one row per pattern, and the seconds of every run but the first, a warm-up,
are written over it.  Without FILE the version of the peer is printed.  Nothing here
imports the package under test.
"""

import sys
from importlib.metadata import version
from time import perf_counter

import numpy as np


def expanded(X, gates):
    """The matrix ``[D_1 X ... D_P X]``."""
    masks = X @ gates.T > 0
    return np.asfortranarray((masks[:, :, None] * X[:, None, :]).reshape(len(X), -1))


def solve_adelie(X, y, alpha, gates):
    """Group lasso by block coordinate descent."""
    import adelie as ad

    n, d = X.shape
    masks = np.asfortranarray(X @ gates.T > 0)
    state = ad.grpnet(
        X=ad.matrix.convex_relu(np.asfortranarray(X), masks, gated=True),
        glm=ad.glm.gaussian(y=y),
        groups=np.arange(len(gates)) * d,
        penalty=np.ones(len(gates)),
        lmda_path=np.array([alpha / n]),  # its loss is a mean
        intercept=False,
        early_exit=False,
        progress_bar=False,
    )
    return state.betas.toarray()[-1].reshape(len(gates), d)


def solve_pyscnn(X, y, alpha, gates):
    """R-FISTA with its default settings."""
    from scnn.metrics import Metrics
    from scnn.models import ConvexGatedReLU
    from scnn.optimize import optimize_model
    from scnn.regularizers import NeuronGL1
    from scnn.solvers import RFISTA

    model = ConvexGatedReLU(np.ascontiguousarray(gates.T))
    network, *_ = optimize_model(
        model,
        RFISTA(model),
        Metrics(),
        X,
        y[:, None],
        regularizer=NeuronGL1(alpha / len(y)),  # its loss is half a mean
        unitize_data=False,
        return_convex=True,
    )
    blocks = np.asarray(network.parameters[0], dtype=float).reshape(len(gates), -1)
    # It has the gates in another order.
    distances = np.linalg.norm(gates[:, :, None] - np.asarray(network.G), axis=1)
    return blocks[np.argmin(distances, axis=1)]


def solve_skglm(X, y, alpha, gates):
    """Group lasso of the expanded matrix, by working sets."""
    from skglm.datafits import QuadraticGroup
    from skglm.penalties import WeightedGroupL2
    from skglm.solvers import GroupBCD
    from skglm.utils.data import grp_converter

    A = expanded(X, gates)
    indices, pointers = grp_converter(X.shape[1], A.shape[1])
    datafit = QuadraticGroup(pointers, indices)
    penalty = WeightedGroupL2(alpha / len(y), np.ones(len(gates)), pointers, indices)
    solver = GroupBCD(
        max_iter=1000, tol=1e-6, fit_intercept=False, ws_strategy="fixpoint"
    )
    coef = solver.solve(A, y, datafit, penalty)[0]
    return coef.reshape(len(gates), -1)


def solve_celer(X, y, alpha, gates):
    """Group lasso of the expanded matrix, with its duality gap as the criterion."""
    from celer import GroupLasso

    model = GroupLasso(
        groups=X.shape[1], alpha=alpha / len(y), fit_intercept=False, tol=1e-6
    )
    return model.fit(expanded(X, gates), y).coef_.reshape(len(gates), -1)


PEERS = {  # name: (distribution, function)
    "adelie": ("adelie", solve_adelie),
    "pyscnn": ("pyscnn", solve_pyscnn),
    "skglm": ("skglm", solve_skglm),
    "celer": ("celer", solve_celer),
}


def main():
    distribution, solve = PEERS[sys.argv[1]]
    if len(sys.argv) < 3:
        print(version(distribution))
        return
    with np.load(sys.argv[2]) as file:
        problem = dict(file)
    seconds = []
    for _ in range(1 + int(sys.argv[3])):
        start = perf_counter()
        blocks = solve(**problem)
        seconds.append(perf_counter() - start)
    np.savez(sys.argv[2], blocks=blocks, seconds=seconds[1:] or seconds)


if __name__ == "__main__":
    main()
