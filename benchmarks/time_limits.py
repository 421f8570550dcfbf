"""How well ``max_time`` is kept, over sizes, losses and ways to train.

Every fit runs in a process of its own, on data made here, and prints what was asked,
what it took, how long the processor was busy, the overrun beyond the 10 % and half a
second that are allowed, the gap and why it stopped.  ``--where`` also prints the stack
of a fit that is late.

    python benchmarks/time_limits.py
    python benchmarks/time_limits.py --quick
    python benchmarks/time_limits.py --only smallest --limits 1 --where
"""

import argparse
import faulthandler
import multiprocessing
import warnings
from functools import partial
from time import perf_counter, process_time

import numpy as np
from scipy.sparse import csr_array

from sklearn_convexnn import (
    ConvexReLUClassifier,
    ConvexReLURegressor,
    GatedReLURegressor,
    cutting_planes,
    smallest_network,
)

_ALLOWED, _GRACE = 1.1, 0.5
# Limit of the fits that are not measured.
_FIRST = 10.0


def planted(n, d, n_outputs=1):
    """Inputs, and outputs of twenty random neurons with noise."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d))
    W, A = rng.standard_normal((d, 20)), rng.standard_normal((20, n_outputs))
    Y = np.maximum(X @ W / np.sqrt(d), 0.0) @ A
    Y = (Y - Y.mean(axis=0)) / Y.std(axis=0)
    Y += 0.1 * rng.standard_normal(Y.shape)
    return X, Y[:, 0] if n_outputs == 1 else Y


def regression(n, d, n_outputs=1, kind=ConvexReLURegressor, how=None, **params):
    def make():
        X, y = planted(n, d, n_outputs)
        params.setdefault("alpha", 0.01 * n)
        return kind(random_state=0, **params), X, y, how or kind.fit

    return make


def classification(n, d, n_classes=2, **params):
    def make():
        X, Y = planted(n, d, max(n_classes, 2))
        labels = np.argmax(Y[:, :n_classes], axis=1)
        params.setdefault("alpha", 0.005 * n)
        model = ConvexReLUClassifier(random_state=0, **params)
        return model, X, labels, ConvexReLUClassifier.fit

    return make


def sparse(n, d, **params):
    def make():
        model, X, y, how = regression(n, d, **params)()
        return model, csr_array(np.where(X > 1.0, X, 0.0)), y, how

    return make


def smallest(*shape, **params):
    """The search in a fitted estimator: only that has the limit."""
    make = regression(*shape, **params)

    def fitted():
        model, X, y, fit = make()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit(model.set_params(max_time=_FIRST), X, y)
        return model, X, y, smallest_network

    return fitted


_GATED = {"kind": GatedReLURegressor}
_CELLS = partial(cutting_planes, cuts="cells")
# The first ones are for `--quick`.
QUICK = {
    "2000 x 20": regression(2000, 20),
    "500 x 50 smallest, 3 outputs": smallest(500, 50, 3),
    "exact 60 x 2, alpha 50": regression(60, 2, arrangements="exact", alpha=50.0),
    "1000 x 10 sampled": regression(1000, 10, arrangements="sampled"),
    "2000 x 20 gated": regression(2000, 20, **_GATED),
    "20000 x 30": regression(20_000, 30),
}
FULL = {
    "20000 x 1000": regression(20_000, 1000),
    "2000 x 5000": regression(2000, 5000),
    "200000 x 20": regression(200_000, 20),
    "60000 x 784": regression(60_000, 784),
    "60000 x 784, 10 classes": classification(60_000, 784, 10),
    "20000 x 1000, 5 outputs": regression(20_000, 1000, 5),
    "1000 x 1500": regression(1000, 1500),
    "3900 x 100": regression(3900, 100),
    "500 x 20 tol 1e-6": regression(500, 20, tol=1e-6),
    "1 feature, 100000": regression(100_000, 1, alpha=1.0, tol=1e-6),
    "3000 x 30, 4 outputs": regression(3000, 30, 4),
    "2000 x 800, 3 outputs": regression(2000, 800, 3),
    "3000 x 50 binary": classification(3000, 50),
    "3000 x 50 softmax": classification(3000, 50, 6),
    "3000 x 20 hinge": classification(3000, 20, loss="hinge"),
    "2000 x 20 quantile": regression(2000, 20, loss="quantile"),
    "1500 x 10 quantile, 3 outputs": regression(1500, 10, 3, loss="quantile"),
    "20000 x 20 hinge": classification(20_000, 20, loss="hinge"),
    "exact 40 x 3": regression(40, 3, arrangements="exact"),
    "exact 60 x 2, 2 outputs": regression(60, 2, 2, arrangements="exact", alpha=0.6),
    "20000 x 50 sampled": regression(20_000, 50, arrangements="sampled"),
    "1500 x 20 sampled, 3 outputs": regression(1500, 20, 3, arrangements="sampled"),
    "2000 x 20 sampled, interior point": regression(
        2000, 20, arrangements="sampled", solver="interior_point"
    ),
    "5000 x 20 sampled, augmented Lagrangian": regression(
        5000, 20, arrangements="sampled", solver="augmented_lagrangian"
    ),
    "5000 x 20 sampled, penalised": regression(
        5000, 20, arrangements="sampled", solver="penalised"
    ),
    "20000 x 300 gated": regression(20_000, 300, **_GATED),
    "20000 x 1000 gated, sparse": sparse(20_000, 1000, **_GATED),
    "60 x 2 gated exact": regression(60, 2, **_GATED, arrangements="exact"),
    "1000 x 10 cutting planes": regression(1000, 10, how=cutting_planes),
    "300 x 5 cutting cells": regression(300, 5, how=_CELLS),
    "1000 x 20 smallest": smallest(1000, 20),
    "20000 x 30 smallest": smallest(20_000, 30),
    "2000 x 20 at most 10": regression(2000, 20, max_neurons=10),
    "3000 x 20 at most 10, 3 outputs": regression(3000, 20, 3, max_neurons=10),
    "40 x 3 proof": regression(40, 3, alpha=0.5, tol=1e-4),
}


def fit(make, limit, where, answer):
    """Fit within a limit, in a process that `run` started, and tell how it went."""
    model, X, y, how = make()
    model.set_params(max_time=limit)
    if where:
        faulthandler.dump_traceback_later(_ALLOWED * limit + _GRACE)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        start, begin = perf_counter(), process_time()
        model = how(model, X, y)
        taken, busy = perf_counter() - start, process_time() - begin
    faulthandler.cancel_dump_traceback_later()
    relative = model.dual_gap_ / max(model.objective_, 1e-300)
    told = "; ".join(str(one.message).split(".")[0] for one in caught)
    answer.put((taken, busy, model.objective_, relative, model.certificate_, told))


def run(make, limit, where):
    """What `fit` tells, or None if it is far too late."""
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    process = context.Process(target=fit, args=(make, limit, where, answer))
    process.start()
    process.join(60.0 + _FIRST + 5.0 * limit)
    late = process.is_alive()
    if late:
        process.kill()
    process.join()
    return None if late or process.exitcode else answer.get()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few and small fits")
    parser.add_argument("--limits", type=float, nargs="+", help="seconds to ask for")
    parser.add_argument("--only", default="", help="part of the names to run")
    parser.add_argument("--where", action="store_true", help="stacks of late fits")
    options = parser.parse_args()
    cases = QUICK if options.quick else {**QUICK, **FULL}
    limits = options.limits or ([1.0] if options.quick else [1.0, 3.0, 10.0])
    names = "fit", "asked", "taken", "busy", "overrun", "objective", "gap"
    print("|", " | ".join([*names, "certificate", "told"]), "|")
    print("| --- " * 9 + "|")
    for name, make in cases.items():
        for limit in limits if options.only in name else ():
            result = run(make, limit, options.where)
            if result is None:
                print(
                    f"| {name} | {limit:g} | - | - | failed or far too late | | | | |"
                )
                continue
            taken, busy, objective, gap, certificate, told = result
            over = max(taken - _ALLOWED * limit - _GRACE, 0.0)
            print(
                f"| {name} | {limit:g} | {taken:.2f} | {busy:.2f} | {over:.2f} | "
                f"{objective:.6g} | {gap:.1e} | {certificate} | {told[:60]} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
