"""The solvers of the package against conic solvers on the same restricted programs.

Every solver gets the same :class:`TwoLayerProgram`: squared error, standardised
inputs with a column of ones, no free biases, the same sampled patterns.  The solvers
take turns within one process, the interior point method after one warm-up; times are
medians of seconds of the processor, and those of CVXPY include its compilation.
Objectives are those of the networks that the solutions stand for, so they are
comparable between points that are inside their cones and others that are so up to a
tolerance only.

Run ``python benchmarks/restricted_program.py --quick`` for a minute's impression, with
``--large`` for 5000 samples, which conic solvers cannot do in this time, and with
``--out FILE`` for a Markdown table.  ``--adelie PYTHON`` adds adelie, which needs
an interpreter of its own because it pins ``numpy<2``.
"""

import argparse
import ctypes
import os
import platform
import subprocess
import sys
import tempfile
import warnings
from collections import defaultdict
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import numpy as np
from global_optimum import planted
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.preprocessing import StandardScaler

from sklearn_convexnn.families.two_layer.family import TwoLayer
from sklearn_convexnn.losses import Separable, make_loss
from sklearn_convexnn.model.problem import Problem
from sklearn_convexnn.model.results import SolverError
from sklearn_convexnn.patterns.arrangements import sample_arrangement
from sklearn_convexnn.programs.two_layer import TwoLayerProgram
from sklearn_convexnn.solvers import (
    solve_augmented_lagrangian,
    solve_automatic,
    solve_cvxpy,
    solve_direction_generation,
    solve_interior_point,
    solve_penalised,
)

OURS = "interior point"
PLANTED = "planted 5000x50"
CONIC = ("Clarabel", "SCS")
# The estimators ask for 1e-4, from "automatic" unless told otherwise.
SOLVERS = {  # name in the table: (function, tolerance)
    OURS: (solve_interior_point, 1e-8),
    "interior point, loose": (solve_interior_point, 1e-4),
    "direction generation": (solve_direction_generation, 1e-4),
    "augmented Lagrangian": (solve_augmented_lagrangian, 1e-4),
    "penalised": (solve_penalised, 1e-4),
    "automatic": (solve_automatic, 1e-4),
    "Clarabel": (partial(solve_cvxpy, conic_solver="CLARABEL"), 1e-8),
    "SCS": (partial(solve_cvxpy, conic_solver="SCS"), 1e-5),
}

ADELIE_SCRIPT = """
import sys
from time import process_time
import adelie as ad
import numpy as np

data = np.load(sys.argv[1])
X, y, alpha = np.asfortranarray(data["X"]), data["y"], float(data["alpha"])
masks = np.asfortranarray(data["patterns"].T)
n, d = X.shape
start = process_time()
cones = [(2.0 * mask - 1.0)[:, None] * X for mask in masks.T] * 2
n_groups = len(cones)
state = ad.grpnet(
    X=ad.matrix.convex_relu(X, masks),
    glm=ad.glm.gaussian(y=y),
    constraints=[
        ad.constraint.linear(
            np.ascontiguousarray(cone), lower=np.zeros(n), upper=np.full(n, np.inf)
        )
        for cone in cones
    ],
    groups=np.arange(n_groups) * d,
    penalty=np.ones(n_groups),
    lmda_path=np.array([alpha / n]),
    intercept=False,
    early_exit=False,
    progress_bar=False,
)
seconds = process_time() - start
betas = state.betas.toarray().reshape(-1, n_groups, d)
np.savez(sys.argv[1], theta=betas, seconds=seconds)
"""


def make_program(problem, n_arrangements, alpha):
    """The restricted program of a data set, the same in every run.

    For planted data `alpha` is relative to the one from which on the best network,
    of any patterns, is zero.
    """
    if problem == PLANTED:
        data = planted(5000, 50)
        X, y, alpha = data.X, data.y, alpha / 0.01 * data.alpha
    else:
        load = {"diabetes": load_diabetes, "breast cancer": load_breast_cancer}
        X, y = load[problem](return_X_y=True)
        X = np.column_stack([StandardScaler().fit_transform(X), np.ones(len(X))])
        y = (y - y.mean()) / y.std() if problem == "diabetes" else 2.0 * y - 1.0
    loss = Separable(make_loss("squared_error"))
    return TwoLayerProgram(
        Problem(TwoLayer(X, False), y[:, None], np.ones(len(y)), loss, alpha),
        sample_arrangement(X, n_arrangements, random_state=0),
    )


def describe(program, theta):
    """Objective of the network with one neuron per block, and how far it is outside.

    The second number is the largest violation of a cone, relative to the largest
    slack: a neuron outside its cone has another activation pattern.
    """
    operator = program.operator
    hidden = np.maximum(operator.M @ theta.T, 0.0)
    signs = np.repeat([1.0, -1.0], operator.n_patterns)
    loss = program.loss.value(hidden @ signs, program.y, program.sample_weight)
    slacks = operator.cone(theta)
    return {
        "objective": loss + program.alpha * float(np.sum(program.norms(theta))),
        "outside": max(0.0, -slacks.min()) / np.abs(slacks).max(),
    }


class PeakMemory:
    """Growth of the resident memory at its peak, in MB; NaN if not on Linux."""

    def __enter__(self):
        try:
            # What earlier runs have freed must not serve this one unseen, and the
            # peak is otherwise that of the whole life of the process.
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
            self._before = self._peak()
        except OSError:
            self._before = np.nan
        return self

    def __exit__(self, *error):
        self.growth = self._peak() - self._before if self._before > 0 else np.nan

    @staticmethod
    def _peak():
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
        return np.nan


def run_here(name, program, max_time):
    """One timed run in this process."""
    solve, tol = SOLVERS[name]
    with PeakMemory() as memory:
        start, deadline = process_time(), perf_counter() + max_time
        try:
            result = solve(program, tol=tol, max_iter=500, deadline=deadline)
        except SolverError:
            result = None
        seconds = process_time() - start
    record = {"seconds": seconds, "memory": memory.growth}
    if result is None:
        late = perf_counter() >= deadline
        return record | {"note": "stopped" if late else "failed"}
    gap = (result.objective - result.dual_bound) / result.objective
    note = "stopped" if result.status == "max_time" else ""
    return record | {"gap": gap, "note": note, **describe(program, result.theta)}


def run_adelie(interpreter, program, max_time):
    """One timed run of adelie in its own interpreter."""
    operator = program.operator
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "program.npz")
        np.savez(
            path,
            X=operator.M,
            y=program.y,
            alpha=program.alpha,
            patterns=operator.signs > 0,
        )
        try:
            subprocess.run(
                [interpreter, "-c", ADELIE_SCRIPT, path],
                check=True,
                timeout=max_time,
                capture_output=True,
            )
        except subprocess.TimeoutExpired:
            return {"note": "stopped"}
        except subprocess.CalledProcessError as error:
            print(error.stderr.decode()[-500:], file=sys.stderr)
            return {"note": "failed"}
        with np.load(path) as answer:
            seconds, theta = float(answer["seconds"]), answer["theta"]
    if len(theta) == 0:
        return {"seconds": seconds, "note": "no solution"}
    return {"seconds": seconds, "note": "", **describe(program, theta[0])}


def compare(program, args, large):
    """Runs of every solver, in turns, as lists of records by solver."""
    names = [name for name in SOLVERS if not (large and name in CONIC)]
    runs = {name: partial(run_here, name) for name in names}
    if args.adelie:
        runs["adelie"] = partial(run_adelie, args.adelie)
    if not large:
        solve_interior_point(program, max_iter=3)  # warm-up
    records = defaultdict(list)
    for turn in range(1 if large else max(args.runs, args.repeat)):
        for name, run in runs.items():
            others = name in CONIC or name == "adelie"
            if turn < (args.repeat if others else args.runs):
                records[name].append(run(program, args.max_time))
    return records


def rows(problem, n_arrangements, alpha, records):
    """Lines of the Markdown table for one program."""

    def middle(name, key):
        values = [record[key] for record in records[name] if key in record]
        return median(values) if values else np.nan

    proven = [name for name in records if middle(name, "gap") >= 0]
    nearest = min(proven, key=lambda name: middle(name, "gap"))
    optimum = middle(nearest, "objective")
    for name in records:
        seconds, objective = middle(name, "seconds"), middle(name, "objective")
        cells = [
            problem,
            f"{n_arrangements}",
            f"{alpha:g}",
            name,
            f"{SOLVERS[name][1]:.0e}" if name in SOLVERS else "default",
            f"{seconds:.3g}",
            f"{seconds / middle(OURS, 'seconds'):.3g}",
            f"{objective:.6f}",
            f"{objective / optimum - 1:+.0e}",
            f"{middle(name, 'outside'):.0e}",
            f"{middle(name, 'gap'):.0e}",
            f"{middle(name, 'memory'):.0f}",
            records[name][0]["note"],
        ]
        yield "| " + " | ".join("" if "nan" in c else c for c in cells) + " |"


HEADER = (
    "| problem | P | alpha | solver | tolerance | time [s] | ratio | objective "
    "| above optimum | outside | gap | memory [MB] | note |\n"
    "| --- | --: | --: | --- | --: | --: | --: | --: | --: | --: | --: | --: | --- |"
)


def preamble(args):
    """What the table shows and where it was made."""
    packages = ("numpy", "scipy", "cvxpy", "clarabel", "scs")
    versions = [f"{name} {version(name)}" for name in packages]
    adelie = ""
    if args.adelie:
        adelie = """
- adelie: block coordinate descent over the same groups and cones.  It has no duality
  gap, and its default tolerance is looser than the others: compare its times together
  with "above optimum" and "outside", and with our solvers at 1e-4."""
        command = "from importlib.metadata import version as v; print(v('adelie'))"
        found = subprocess.run(
            [args.adelie, "-c", command], capture_output=True, text=True, check=True
        )
        versions.append(f"adelie {found.stdout.strip()} (interpreter of its own)")
    return f"""# The restricted program: our solvers and conic solvers

The same convex programs for every solver: squared error, standardised inputs with a
column of ones, no free biases, `P` sampled activation patterns, one block for each sign
of the output.  Diabetes has 442 rows and 11 columns (targets standardised), breast
cancer 569 and 31 (targets -1 and 1), and the planted network 5000 and 51; there `alpha`
is relative to the weight decay from which on the best network is zero.

- time: seconds of the processor, medians of {args.runs} runs of our solvers after a
  warm-up and of {args.repeat} of the others, in turns; one run each for the planted
  network.  Clarabel and SCS are called through CVXPY, whose compilation is included.
  All use one thread.
- ratio: time divided by that of the interior point method in the first line.
- objective: of the network that the solution stands for.  "Above optimum" is relative
  to the solution with the smallest gap.  It can be negative if neurons are outside
  their cones, since they then have other patterns than the `P`.
- outside: largest violation of a cone, relative to the largest slack.
- gap: duality gap divided by the objective, with the dual point made feasible.
- memory: growth of the resident memory at its peak.
- note: "stopped" after {args.max_time:g} s on the clock, with what it had then.{adelie}

Python {platform.python_version()}, {", ".join(versions)};
{os.cpu_count()} cores, {platform.machine()}, {platform.system()}.
Made by `benchmarks/restricted_program.py`.
"""


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="diabetes, P=20, 50, alpha=5"
    )
    parser.add_argument("--large", action="store_true", help="also 5000 samples")
    parser.add_argument("--max-time", type=float, default=120.0, metavar="SECONDS")
    parser.add_argument("--runs", type=int, default=5, help="runs of our method (5)")
    parser.add_argument("--repeat", type=int, default=1, help="runs of the others (1)")
    parser.add_argument("--adelie", metavar="PYTHON", help="interpreter with adelie")
    parser.add_argument("--out", type=Path, metavar="FILE", help="Markdown table")
    args = parser.parse_args()

    # CVXPY warns that a solution is inaccurate; the table shows how much.
    warnings.filterwarnings("ignore", message="Solution may be inaccurate")
    problems = ("diabetes",) if args.quick else ("diabetes", "breast cancer")
    sizes = (20, 50) if args.quick else (20, 50, 100)
    cases = list(product(problems, sizes, (5.0,) if args.quick else (20.0, 5.0)))
    if args.large:
        cases += [(PLANTED, 50, 0.01), (PLANTED, 50, 0.001), (PLANTED, 100, 0.01)]
    table = [HEADER]
    print(HEADER, flush=True)
    for problem, n_arrangements, alpha in cases:
        program = make_program(problem, n_arrangements, alpha)
        records = compare(program, args, problem == PLANTED)
        for row in rows(problem, n_arrangements, alpha, records):
            table.append(row)
            print(row, flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(preamble(args) + "\n" + "\n".join(table) + "\n")


if __name__ == "__main__":
    main()
