"""Three-layer parallel sub-networks: convex training against local training.

The first table has random data of six samples, of which all blocks are known, the
second the diabetes data of scikit-learn, the third the solvers of the program over
blocks.

``python benchmarks/three_layer.py --quick`` takes a minute.  With ``--out FOLDER`` a
page is written.
"""

import argparse
import sys
import warnings
from pathlib import Path
from time import process_time

import numpy as np
from common import machine
from sklearn.datasets import load_diabetes
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import scale
from threadpoolctl import threadpool_limits

from sklearn_convexnn import ConvexReLURegressor, ParallelReLURegressor

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from three_layer_sgd import objective, train_lbfgs

TINY_HEADER = """\
| seed | blocks | program | bound / program - 1 | network / program - 1 | \
two layers | best of {n} | adaptive |
| --: | --: | --: | --: | --: | --: | --: | --: |"""
DIABETES_HEADER = """\
| alpha | width | objective | gap | seconds | sub-networks | \
best of {n} | its seconds | two layers |
| --: | --: | --: | --: | --: | --: | --: | --: | --: |"""
SOLVER_HEADER = """\
| samples | solver | blocks | objective | gap | seconds |
| --: | --- | --: | --: | --: | --: |"""
TEXT = """\
# Three layers

Parallel sub-networks with two hidden layers and without biases
(`ParallelReLURegressor(fit_intercept=False)`).  Local training is by L-BFGS on the
smooth form of the same problem, without constraints and with cubic regularisers, from
random starts, with 40 sub-networks.  Seconds are of the processor, numerical libraries
use one thread.

{machine}
Made by `benchmarks/three_layer.py`.

## All blocks

Random data of six samples and two features, two units for each sub-network, `alpha`
0.1.
`program` is the value of the program over all blocks (`arrangements="exact"`); the
network is the one recovered from it.  Two layers: the optimum of the two-layer program,
which is that of `subnetwork_width=1`.  Adaptive: the objective of column generation
with `tol=1e-3`, over `program`, less one.

{tiny_rows}

## Diabetes

442 samples, ten standardised features and a column of ones, standardised targets.  Gap:
estimated, relative to the objective.  With `tol` {tol:g} and `max_time` {limit:g}.

{diabetes_rows}

## Solvers

The program over 100 sampled blocks with both signs of their outputs, of the first
samples of the same data, `alpha` 5 and two units for each sub-network.  Gap: to the
bound of this program.  CVXPY uses Clarabel.  Networks that the penalised solver
rebuilds are not confined to the blocks, and can be better than all that are.

{solver_rows}
"""


def best_local(X, y, alpha, width, n_runs, max_iter=2000):
    """Best objective of some local trainings, and seconds for all of them."""
    start, values = process_time(), []
    for seed in range(n_runs):
        params, _ = train_lbfgs(
            X,
            y[:, None],
            loss="squared_error",
            alpha=alpha,
            n_subnetworks=40,
            width=width,
            seed=seed,
            max_iter=max_iter,
        )
        values.append(objective(params, X, y[:, None], alpha, "squared_error"))
    return min(values), process_time() - start


def timed(model, X, y):
    """The fitted model, and seconds for it."""
    start = process_time()
    model.fit(X, y)
    return model, process_time() - start


def tiny_rows(seeds, n_runs):
    for seed in seeds:
        rng = np.random.RandomState(seed)
        X, y = rng.standard_normal((6, 2)), rng.standard_normal(6)
        common = {"alpha": 0.1, "fit_intercept": False}
        model = ParallelReLURegressor(arrangements="exact", tol=1e-8, **common)
        model.fit(X, y)
        program = model.history_["objective"][-1]
        two = ConvexReLURegressor(arrangements="exact", tol=1e-8, **common).fit(X, y)
        one = ParallelReLURegressor(
            subnetwork_width=1, arrangements="exact", tol=1e-8, **common
        ).fit(X, y)
        if abs(one.objective_ - two.objective_) > 1e-6 * two.objective_:
            raise RuntimeError("one unit is not the two-layer network")
        adaptive = ParallelReLURegressor(tol=1e-3, random_state=0, **common)
        excess = adaptive.fit(X, y).objective_ / program - 1
        local, _ = best_local(X, y, 0.1, 2, n_runs, max_iter=20_000)
        if min(local, adaptive.objective_) < model.dual_bound_ * (1 - 1e-12):
            raise RuntimeError("a network is below the bound")
        yield (
            f"| {seed} | {model.n_arrangements_} | {program:.8f} | "
            f"{model.dual_bound_ / program - 1:.1e} | "
            f"{model.objective_ / program - 1:.1e} | {two.objective_:.6f} | "
            f"{local:.6f} | {excess:.1e} |"
        )


def diabetes():
    X, y = load_diabetes(return_X_y=True)
    return np.column_stack([scale(X), np.ones(len(X))]), scale(y)


def diabetes_rows(alphas, widths, n_runs, tol, limit):
    X, y = diabetes()
    for alpha in alphas:
        common = {"alpha": alpha, "fit_intercept": False, "random_state": 0}
        two = ConvexReLURegressor(**common).fit(X, y)
        for width in widths:
            model, seconds = timed(
                ParallelReLURegressor(
                    subnetwork_width=width, tol=tol, max_time=limit, **common
                ),
                X,
                y,
            )
            local, local_seconds = best_local(X, y, alpha, width, n_runs)
            yield (
                f"| {alpha:g} | {width} | {model.objective_:.3f} | "
                f"{model.dual_gap_ / model.objective_:.1e} | {seconds:.0f} | "
                f"{model.n_neurons_} | {local:.3f} | {local_seconds:.0f} | "
                f"{two.objective_:.3f} |"
            )


def solver_rows(sizes):
    X, y = diabetes()
    for n in sizes:
        for solver in ("interior_point", "penalised", "cvxpy"):
            model, seconds = timed(
                ParallelReLURegressor(
                    alpha=5.0,
                    fit_intercept=False,
                    arrangements="sampled",
                    solver=solver,
                    max_iter=100,
                    max_time=300,
                    random_state=0,
                ),
                X[:n],
                y[:n],
            )
            yield (
                f"| {n} | {solver} | {model.n_arrangements_} | "
                f"{model.objective_:.4f} | {model.dual_gap_ / model.objective_:.1e} | "
                f"{seconds:.1f} |"
            )


def shown(header, rows):
    """Print the rows as they come, and return the table."""
    print(header, flush=True)
    lines = [header]
    for row in rows:
        print(row, flush=True)
        lines.append(row)
    print()
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    seeds, n_tiny, n_runs = range(5), 20, 5
    alphas, widths, sizes, tol, limit = (20.0, 5.0), (2, 3, 4, 5), (100, 300), 1e-3, 90
    if args.quick:
        seeds, n_tiny, n_runs = range(1), 5, 1
        alphas, widths, sizes, tol, limit = (20.0,), (2,), (40,), 5e-2, 20
    warnings.simplefilter("ignore", ConvergenceWarning)
    with threadpool_limits(1):
        page = TEXT.format(
            machine=machine(["numpy", "scipy", "scikit-learn"]),
            tol=tol,
            limit=limit,
            tiny_rows=shown(TINY_HEADER.format(n=n_tiny), tiny_rows(seeds, n_tiny)),
            diabetes_rows=shown(
                DIABETES_HEADER.format(n=n_runs),
                diabetes_rows(alphas, widths, n_runs, tol, limit),
            ),
            solver_rows=shown(SOLVER_HEADER, solver_rows(sizes)),
        )
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "three_layer.md").write_text(page)


if __name__ == "__main__":
    main()
