"""Gated programs: the solver of this package and its peers, to the same optimum.

Every method gets the same group lasso ``1/2 ||sum_i D_i X v_i - y||^2 + alpha sum_i
||v_i||``: standardised inputs with a column of ones, the patterns of ``P`` Gaussian
gates, and ``alpha`` a fraction of the smallest for which all blocks are zero.  One
function of this file computes the objective of every answer from its blocks.

``python benchmarks/gated_program.py --quick`` takes some seconds, ``--out FILE`` writes
a Markdown page.  ``--adelie``, ``--pyscnn`` and ``--skglm PYTHON`` add these peers, and
celer with skglm, in interpreters of their own.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
from common import machine, middle
from global_optimum import planted
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from sklearn_convexnn.losses import Separable, make_loss
from sklearn_convexnn.patterns.arrangements import Arrangement
from sklearn_convexnn.solvers.gated import GatedObjective, solve_gated

WORKER = Path(__file__).with_name("gated_peers.py")
LARGEST = 50_000_000  # entries of the expanded matrix
# Name in the table: (dtype, tolerance).
OURS = {
    "ours": ("float64", 1e-6),
    "ours, loose": ("float64", 1e-2),
    "ours, loose, float32": ("float32", 1e-2),
}


def load(name):
    """Standardised inputs with a column of ones, and targets."""
    if name == "planted":
        data = planted(5000, 50)
        return data.X, data.y
    if name == "diabetes":
        X, y = load_diabetes(return_X_y=True)
        y = (y - y.mean()) / y.std()
    else:
        X, y = load_breast_cancer(return_X_y=True)
        y = 2.0 * y - 1.0
    return np.column_stack([StandardScaler().fit_transform(X), np.ones(len(X))]), y


def make_problem(name, n_gates, fraction):
    """The program, as a dict of arrays that the peers read."""
    X, y = load(name)
    gates = np.random.default_rng(0).standard_normal((n_gates, X.shape[1]))
    slopes = X.T @ ((X @ gates.T > 0) * y[:, None])
    alpha = fraction * np.linalg.norm(slopes, axis=0).max()
    return {"X": X, "y": y, "alpha": alpha, "gates": gates}


def objective(problem, blocks):
    """Objective of blocks, one row for each gate."""
    X, gates = problem["X"], problem["gates"]
    outputs = np.sum((X @ blocks.T) * (X @ gates.T > 0), axis=1)
    norms = np.linalg.norm(blocks, axis=1)
    loss = 0.5 * float(np.sum((outputs - problem["y"]) ** 2))
    return loss + problem["alpha"] * float(norms.sum())


def run_here(problem, dtype, tol, runs):
    """Median of the seconds, objective and gap of our solver."""
    X, y, gates = (problem[key] for key in ("X", "y", "gates"))
    arrangement = Arrangement(gates @ X.T > 0, gates, False)
    loss, seconds = Separable(make_loss("squared_error")), []
    wanted = GatedObjective.of(
        y[:, None], np.ones(len(y)), loss, problem["alpha"], False
    )
    for _ in range(1 + runs):
        start = perf_counter()
        network = solve_gated(
            X.astype(dtype), wanted, arrangement, tol=tol, max_iter=100_000
        )
        seconds.append(perf_counter() - start)
    gap = (network.objective - network.dual_bound) / network.objective
    return middle(seconds[1:]), network.objective, gap


def run_peer(interpreter, name, problem, runs, max_time):
    """The same of a peer, which has no gap to tell."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "problem.npz"
        np.savez(path, **problem)
        try:
            subprocess.run(
                [interpreter, str(WORKER), name, str(path), str(runs)],
                check=True,
                timeout=max_time * (1 + runs),
                capture_output=True,
            )
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
            return np.nan, np.nan, np.nan
        with np.load(path) as answer:
            seconds, blocks = answer["seconds"], answer["blocks"]
    return middle(seconds), objective(problem, blocks), np.nan


def compare(problem, args, peers):
    """Seconds, objective and gap of every method."""
    results = {
        name: run_here(problem, dtype, tol, args.runs)
        for name, (dtype, tol) in OURS.items()
    }
    size = problem["X"].size * len(problem["gates"])
    for name, interpreter in peers.items():
        if name in ("skglm", "celer") and size > LARGEST:
            continue
        results[name] = run_peer(interpreter, name, problem, args.runs, args.max_time)
    return results


def lines(label, results):
    """Rows of the Markdown table for one program."""
    best = min(value for _, value, _ in results.values() if np.isfinite(value))
    for name, (seconds, value, gap) in results.items():
        cells = [f"{seconds:.3g}", f"{value:.8g}", f"{value / best - 1:.0e}"]
        cells.append(f"{gap:.0e}")
        if not np.isfinite(seconds):
            cells = ["failed or stopped", "", "", ""]
        cells = ["" if cell == "nan" else cell for cell in cells]
        yield "| " + " | ".join([*label, name, *cells]) + " |"


HEADER = (
    "| problem | P | alpha | solver | time [s] | objective | above best | gap |\n"
    "| --- | --: | --: | --- | --: | --: | --: | --: |"
)


def preamble(args, peers):
    """What the table shows and where it was made."""
    found = [
        f"{name} "
        + subprocess.run(
            [interpreter, str(WORKER), name], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name, interpreter in peers.items()
    ]
    return f"""# The gated program: proximal point method and peers

The group lasso of gated networks with one output and squared error, the same for
every solver.  Inputs are standardised, with a column of ones; targets are
standardised, or -1 and 1.  Diabetes has 442 rows and 11 columns, breast cancer 569
and 31, the planted network 5000 and 51.  `P` patterns of Gaussian gates; alpha is a
fraction of the smallest at which every block is zero.

- time: median of {args.runs} after a warm-up, wall-clock, one thread each, in the same
  process for each method; stopped after {args.max_time:g} s a run.  Other
  work on the machine changes single runs by up to a factor of two.
- objective: computed from the blocks by one function, and relative to the best.
- gap: duality gap divided by the objective; the peers do not return one.
- "ours" stops at a gap of 1e-6 of the objective, "loose" at 1e-2, which is how close
  the answer is proven to be; it is much closer.
- adelie and pyscnn run with their default tolerances.  skglm and celer are group lasso
  solvers and get the expanded matrix, with a tolerance of 1e-6 each; where it
  would have more than {LARGEST:.0e} entries they are left out.

{machine(("numpy", "scipy", "scikit-learn"), found)}
Made by `benchmarks/gated_program.py`.
"""


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the small problems only")
    parser.add_argument("--runs", type=int, default=3, help="timed runs (3)")
    parser.add_argument("--max-time", type=float, default=60.0, metavar="SECONDS")
    for name in ("adelie", "pyscnn", "skglm"):
        parser.add_argument(f"--{name}", metavar="PYTHON", help="its interpreter")
    parser.add_argument("--out", type=Path, metavar="FILE", help="Markdown page")
    args = parser.parse_args()

    peers = {"adelie": args.adelie, "pyscnn": args.pyscnn}
    peers |= {"skglm": args.skglm, "celer": args.skglm}
    peers = {name: path for name, path in peers.items() if path}
    programs = [
        (name, 100, fraction)
        for name in ("diabetes", "breast cancer")
        for fraction in (0.01, 0.001)
    ]
    if not args.quick:
        programs += [("planted", 100, 0.01), ("planted", 500, 0.01)]
    table = [HEADER]
    print(HEADER, flush=True)
    with threadpool_limits(limits=1):
        for name, n_gates, fraction in programs:
            problem = make_problem(name, n_gates, fraction)
            label = name, str(n_gates), f"{fraction:g}"
            for line in lines(label, compare(problem, args, peers)):
                table.append(line)
                print(line, flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(preamble(args, peers) + "\n" + "\n".join(table) + "\n")


if __name__ == "__main__":
    main()
