"""Objective against time: how fast, and how close, each method gets to the optimum.

Every method trains a two-layer ReLU network on the same problems, to minimise

    1/2 ||f(X) - y||^2 + alpha/2 (sum of squares of all weights).

``X`` is standardised, with a column of ones in place of biases; ``y`` is standardised,
or -1 and 1.  One function of this file computes the objective of every network from its
weights, so nothing rests on what a solver says of itself.  The unit of time is one
L-BFGS training of a network of width 100 on the same problem in the same run.

``python benchmarks/global_optimum.py --quick`` takes half a minute.  With ``--out
FOLDER`` a table and a figure are written, and rewritten after each problem, so that an
interrupted run leaves what it has.  ``--adelie PYTHON`` and ``--pyscnn PYTHON`` add
these peers, which need interpreters of their own.  ``--data FOLDER`` adds UCI tables.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
from common import how_to_get_data, machine, middle, read_table
from scipy.optimize import minimize
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from threadpoolctl import threadpool_limits

from sklearn_convexnn import ConvexReLURegressor
from sklearn_convexnn.model.results import SolverError
from sklearn_convexnn.patterns.arrangements import sample_arrangement

WORKER = Path(__file__).with_name("peers_worker.py")
OURS, LBFGS, ADAM = "adaptive (ours)", "L-BFGS", "Adam"
WIDTH, STEPS = 100, 2000
ADAM_RATE, MLP_BATCH = 0.05, 200
CLOSE, TOL = 0.01, 1e-3
START = 15.0  # seconds for the interpreter of a peer to start
LARGEST_CONIC = 10_000_000  # entries of the matrix that cvxpy would write out

UCI = {  # file in the folder: (task, data_id for sklearn.datasets.fetch_openml)
    "airfoil": ("regression", 44957),
    "concrete": ("regression", 44959),
    "wine-quality-red": ("regression", 44972),
    "pima": ("classification", 37),
    "ionosphere": ("classification", 59),
    "parkinsons": ("classification", 1488),
}


@dataclass(frozen=True)
class Data:
    """One training problem."""

    name: str
    X: np.ndarray
    y: np.ndarray
    alpha: float


@dataclass
class Run:
    """One training: what came out, and how it went there.

    `times` and `values` are the objective on the way (of the best network so far),
    `gaps` the relative duality gaps, where the method tells.
    """

    seconds: float = np.nan
    objective: float = np.nan
    neurons: float = np.nan
    gap: float = np.nan
    certificate: str = ""
    free_biases: bool = False
    note: str = ""
    times: np.ndarray = field(default_factory=lambda: np.empty(0))
    values: np.ndarray = field(default_factory=lambda: np.empty(0))
    gaps: np.ndarray = field(default_factory=lambda: np.empty(0))


def objective(data, coefs, intercepts):
    """The objective of a network, from the weights alone; biases are not penalised."""
    hidden = np.maximum(data.X @ coefs[0] + intercepts[0], 0.0)
    residual = (hidden @ coefs[1] + intercepts[1]).ravel() - data.y
    squares = sum(float(np.sum(np.square(coef))) for coef in coefs)
    return 0.5 * float(residual @ residual) + 0.5 * data.alpha * squares


def describe(data, coefs, intercepts, seconds, **known):
    """Run of a network; neurons without weight are not counted."""
    size = np.linalg.norm(coefs[0], axis=0) * np.linalg.norm(coefs[1], axis=1)
    return Run(
        seconds=seconds,
        objective=objective(data, coefs, intercepts),
        neurons=int(np.sum(size > 1e-4 * size.max(initial=0.0))),
        **known,
    )


# --- Problems ---------------------------------------------------------------


def standardised(name, X, y, alpha, classes=False):
    """The problem, without constant columns but with one of ones."""
    X = np.asarray(X, dtype=float)
    X = StandardScaler().fit_transform(X[:, np.ptp(X, axis=0) > 0])
    if classes:
        y = np.where(y == np.unique(y)[0], -1.0, 1.0)
    else:
        y = (y - np.mean(y)) / np.std(y)
    return Data(name, np.column_stack([X, np.ones(len(X))]), y, alpha)


def largest_alpha(X, y, n_gates=2000, n_steps=5, seed=0):
    """Smallest weight decay of which the best network is zero, nearly.

    The largest slope ``|y^T (X u)_+|`` over unit vectors ``u``, from random gates that
    take a few steps uphill.
    """
    gates = np.random.default_rng(seed).standard_normal((X.shape[1], n_gates))
    slope = 0.0
    for sign in (1.0, -1.0):
        U = gates
        for _ in range(n_steps):
            U = X.T @ ((X @ U > 0) * (sign * y)[:, None])
            U /= np.maximum(np.linalg.norm(U, axis=0), 1e-300)
        slope = max(slope, float(np.max(sign * y @ np.maximum(X @ U, 0.0))))
    return slope


def planted(n, d, n_neurons=20, noise=0.1, seed=0):
    """Noisy outputs of a random network; alpha is a hundredth of the largest."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    W, a = rng.standard_normal((d, n_neurons)), rng.standard_normal(n_neurons)
    y = np.maximum(X @ W / np.sqrt(d), 0.0) @ a + noise * rng.standard_normal(n)
    data = standardised("", X, y, 1.0)
    alpha = 0.01 * largest_alpha(data.X, data.y)
    return Data(f"planted {n}x{d}, alpha={alpha:.3g}", data.X, data.y, alpha)


def problems(args):
    """The problems that the arguments ask for, one after the other."""
    diabetes, cancer = (
        load(return_X_y=True) for load in (load_diabetes, load_breast_cancer)
    )
    if args.quick:
        yield standardised("diabetes, alpha=20", *diabetes, 20.0)
        yield planted(200, 10)
        return
    for alpha in (20.0, 5.0, 2.0):
        yield standardised(f"diabetes, alpha={alpha:g}", *diabetes, alpha)
    for alpha in (20.0, 5.0, 2.0):
        yield standardised(f"breast cancer, alpha={alpha:g}", *cancer, alpha, True)
    yield planted(200, 10)
    if args.data is None:
        tables = [(name, data_id) for name, (_, data_id) in UCI.items()]
        print(how_to_get_data(tables), file=sys.stderr)
    else:
        for name, (task, _) in UCI.items():
            table = read_table(args.data, name)
            if table is not None:
                yield standardised(
                    f"{name}, alpha=5", *table, 5.0, task == "classification"
                )
    if args.large:
        yield planted(5000, 50)


# --- Methods: functions of (data, seed, max_time) that return a Run ---------


def train_convex(data, seed, max_time, fit_intercept=False, **params):
    """An estimator of the package."""
    model = ConvexReLURegressor(
        alpha=data.alpha,
        fit_intercept=fit_intercept,
        max_time=max_time,
        random_state=seed,
        **params,
    )
    start = perf_counter()
    model.fit(data.X, data.y)
    run = describe(
        data,
        model.coefs_,
        model.intercepts_,
        perf_counter() - start,
        certificate=model.certificate_,
        free_biases=fit_intercept,
    )
    run.gap = (run.objective - model.dual_bound_) / run.objective
    if run.gap > 1.01 * model.tol:
        run.note = "stopped"
    if params.get("arrangements") != "sampled":
        history = model.history_
        run.times, run.values = history["time"], history["objective"]
        run.gaps = (run.values - history["dual_bound"]) / run.values
    return run


def train_conic(data, seed, max_time, n_arrangements):
    """The same with cvxpy, unless it would not fit."""
    n, d = data.X.shape
    if 2 * n * d * n_arrangements > LARGEST_CONIC:
        return Run(note="too large")
    try:
        return train_convex(
            data,
            seed,
            max_time,
            arrangements="sampled",
            n_arrangements=n_arrangements,
            solver="cvxpy",
            tol=TOL,
        )
    except SolverError as error:
        print(error, file=sys.stderr)
        return Run(note="failed")


class LocalTraining:
    """Objective and gradient of a network of fixed width, with a record of its use."""

    def __init__(self, data, seed, max_time):
        self.data = data
        d = data.X.shape[1]
        rng = np.random.default_rng(seed)
        W = rng.standard_normal((d, WIDTH)) / np.sqrt(d)
        self.start = np.concatenate([W.ravel(), rng.standard_normal(WIDTH)])
        self.best, self.value = self.start, np.inf
        self.times, self.values = [], []
        self.begun = perf_counter()
        self.deadline = self.begun + max_time

    def split(self, x):
        return x[:-WIDTH].reshape(-1, WIDTH), x[-WIDTH:]

    def __call__(self, x):
        X, alpha = self.data.X, self.data.alpha
        W, a = self.split(x)
        hidden = X @ W
        active = hidden > 0
        hidden *= active
        residual = hidden @ a - self.data.y
        slope_W = X.T @ (active * np.outer(residual, a))
        gradient = np.concatenate([slope_W.ravel(), hidden.T @ residual]) + alpha * x
        value = 0.5 * float(residual @ residual) + 0.5 * alpha * float(x @ x)
        if value < self.value:
            self.best, self.value = x.copy(), value
        self.times.append(perf_counter() - self.begun)
        self.values.append(self.value)
        return value, gradient

    @property
    def late(self):
        return perf_counter() > self.deadline

    def finish(self):
        seconds = perf_counter() - self.begun
        W, a = self.split(self.best)
        return describe(
            self.data,
            [W, a[:, None]],
            [np.zeros(WIDTH), np.zeros(1)],
            seconds,
            times=np.array(self.times),
            values=np.array(self.values),
            note="stopped" if self.late else "",
        )


def train_lbfgs(data, seed, max_time):
    """L-BFGS of SciPy on all weights, until it finds no better point."""
    training = LocalTraining(data, seed, max_time)

    def check(x):
        if training.late:
            raise StopIteration

    minimize(
        training,
        training.start,
        jac=True,
        method="L-BFGS-B",
        callback=check,
        options={"maxiter": STEPS, "maxfun": 2 * STEPS, "ftol": 0.0, "gtol": 1e-9},
    )
    return training.finish()


def train_adam(data, seed, max_time):
    """Adam on all samples at once, with a constant rate; the best step counts."""
    training = LocalTraining(data, seed, max_time)
    x = training.start.copy()
    mean, square = np.zeros_like(x), np.zeros_like(x)
    for step in range(1, STEPS + 1):
        gradient = training(x)[1]
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        scale = np.sqrt(square / (1 - 0.999**step)) + 1e-8
        x = x - ADAM_RATE * mean / (1 - 0.9**step) / scale
        if training.late:
            break
    return training.finish()


def train_mlp(data, seed, max_time, solver):
    """scikit-learn's MLP, whose biases are free.

    Adam divides the penalty by the size of the batch in place of the sample.
    """
    n = len(data.y)
    batch = min(MLP_BATCH, n) if solver == "adam" else n
    model = MLPRegressor(
        hidden_layer_sizes=(WIDTH,),
        alpha=data.alpha * batch / n,
        solver=solver,
        batch_size=batch if solver == "adam" else "auto",
        max_iter=STEPS,
        max_fun=2 * STEPS,
        tol=1e-7,
        n_iter_no_change=50,
        random_state=seed,
    )
    start = perf_counter()
    model.fit(data.X, data.y)
    seconds = perf_counter() - start
    return describe(data, model.coefs_, model.intercepts_, seconds, free_biases=True)


def train_peer(data, seed, max_time, peer, interpreter, n_arrangements):
    """A package with an interpreter of its own, on the patterns of `train_convex`."""
    arrangement = sample_arrangement(
        data.X,
        n_arrangements,
        random_state=check_random_state(seed).randint(np.iinfo(np.int32).max),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "problem.npz")
        np.savez(path, X=data.X, y=data.y, alpha=data.alpha, gates=arrangement.gates)
        try:
            call_worker(interpreter, peer, str(path), timeout=max_time + START)
        except subprocess.TimeoutExpired:
            return Run(seconds=max_time, note="stopped, no network")
        except subprocess.CalledProcessError as error:
            print(error.stderr[-500:], file=sys.stderr)
            return Run(note="failed")
        with np.load(path) as answer:
            if "hidden" not in answer:
                return Run(seconds=float(answer["seconds"]), note="no solution")
            return describe(
                data,
                [answer["hidden"].T, answer["output"][:, None]],
                [np.zeros(len(answer["output"])), np.zeros(1)],
                float(answer["seconds"]),
            )


def call_worker(interpreter, *arguments, timeout=None):
    """What the worker prints; one thread, as in this process."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return subprocess.run(
        [interpreter, str(WORKER), *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **dict.fromkeys(names, "1")},
    ).stdout.strip()


def available_peers(args):
    """Versions of the peers whose interpreters were given and have them."""
    found = {}
    for peer in ("adelie", "pyscnn"):
        interpreter = getattr(args, peer)
        if interpreter is None:
            print(f"{peer} skipped: no --{peer} PYTHON", file=sys.stderr)
            continue
        try:
            found[peer] = call_worker(interpreter, peer)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{peer} skipped: {error}", file=sys.stderr)
    return found


def methods(args, peers):
    """Name in the table: (function, number of runs)."""
    sizes, conic = ((50,), 20) if args.quick else ((100, 500), 50)
    chosen = {
        LBFGS: (train_lbfgs, args.seeds),
        ADAM: (train_adam, args.seeds),
        OURS: (partial(train_convex, tol=TOL), args.runs),
    }
    for size in sizes:
        sampled = partial(
            train_convex, arrangements="sampled", n_arrangements=size, tol=TOL
        )
        chosen[f"sampled (ours), {size} patterns"] = sampled, 1
    solve = partial(train_conic, n_arrangements=conic)
    chosen[f"cvxpy + Clarabel, {conic} patterns"] = solve, 1
    for solver in ("lbfgs", "adam"):
        mlp = partial(train_mlp, solver=solver)
        chosen[f"MLPRegressor, {solver}, free biases"] = mlp, args.seeds
    free = partial(train_convex, fit_intercept=True, tol=TOL)
    chosen["adaptive (ours), free biases"] = free, args.runs
    for peer, counts in (("adelie", sizes), ("pyscnn", (conic,))):
        for count in counts if peer in peers else ():
            train = partial(
                train_peer,
                peer=peer,
                interpreter=getattr(args, peer),
                n_arrangements=count,
            )
            chosen[f"{peer}, {count} patterns"] = train, 1
    return chosen


# --- Report -----------------------------------------------------------------


def best_known(results, free_biases=False):
    """Smallest objective among the networks with, or without, free biases."""
    found = [
        run.objective
        for runs in results.values()
        for run in runs
        if run.objective < np.inf and run.free_biases == free_biases
    ]
    return min(found, default=np.nan)


def time_until(times, reached):
    """First time from which on all of `reached` is true; NaN if there is none."""
    missed = np.flatnonzero(~reached)
    first = missed[-1] + 1 if len(missed) else 0
    return float(times[first]) if first < len(times) else np.nan


def time_until_close(run, target):
    """When a run came close to the best known objective; at its end if untold."""
    if len(run.times):
        return time_until(run.times, run.values <= target)
    return run.seconds if run.objective <= target else np.nan


HEADER = (
    "| problem | method | objective | excess | time [s] | units | to 1 % [s] "
    "| to gap 1e-3 [s] | gap | neurons | certificate | note |\n"
    "| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: | --- | --- |"
)


def rows(name, results):
    """Lines of the Markdown table for one problem."""
    unit = middle(run.seconds for run in results[LBFGS]) if LBFGS in results else np.nan
    for method, runs in results.items():
        best = min(runs, key=lambda run: np.nan_to_num(run.objective, nan=np.inf))
        seconds = middle(run.seconds for run in runs)
        optimum = best_known(results, best.free_biases)
        close = (1.0 + CLOSE) * optimum
        cells = [
            name,
            method + (f", {len(runs)} runs" if len(runs) > 1 else ""),
            f"{best.objective:.6g}",
            f"{100 * (best.objective / optimum - 1):+.3g} %",
            f"{seconds:.3g}",
            f"{seconds / unit:.3g}",
            f"{middle(time_until_close(run, close) for run in runs):.3g}",
            f"{middle(time_until(run.times, run.gaps <= TOL) for run in runs):.3g}"
            if len(best.gaps)
            else "",
            f"{best.gap:.0e}",
            f"{best.neurons:.0f}",
            best.certificate,
            best.note,
        ]
        yield "| " + " | ".join("" if "nan" in c else c for c in cells) + " |"


def preamble(args, peers):
    """What the table shows and where it was made."""
    packages = ("numpy", "scipy", "scikit-learn", "cvxpy", "clarabel")
    others = [
        f"{peer} {found} (interpreter of its own)" for peer, found in peers.items()
    ]
    return f"""# The global optimum: objective against time

Two-layer ReLU networks on the same problems, all to minimise the same objective: half
the sum of squared errors plus `alpha` / 2 times the sum of squares of all weights.
Inputs are standardised, with a column of ones in place of biases; targets are
standardised, or -1 and 1.  For the planted networks, `alpha` is a hundredth of the
value from which on the best network is zero.

- objective: recomputed from the weights by one function.  Of several runs, the best.
- excess: above the smallest objective of this table on the same problem, separately
  with and without free biases.
- time: wall-clock seconds of one run, the median of several.
- units: the same divided by the time of one L-BFGS training on the same problem.
- to 1 %: until the objective is, and stays, within 1 % of the smallest of this table,
  the median over the runs; empty if that run does not get there.  Methods that tell
  nothing on the way are taken at their end.
- to gap 1e-3: until the gap of our method is, and stays, below a thousandth.
- gap: duality gap divided by the objective.
- certificate: "global" is proven for networks of every width, "estimated" rests on a
  search for the steepest neuron, "restricted" holds for the sampled patterns only.
- L-BFGS and Adam train a network of width {WIDTH} in NumPy, from {args.seeds} random
  starts; L-BFGS takes up to {STEPS} iterations, Adam {STEPS} with all samples and a
  rate of {ADAM_RATE:g}.
- MLPRegressor has width {WIDTH}, up to {STEPS} iterations and biases that are not
  penalised, in addition to the column of ones.  Its optimum is below that of the
  others, so it is compared with our method with free biases only.  With Adam it has
  batches of {MLP_BATCH} samples, and its `alpha` is scaled accordingly.
- adelie and pyscnn solve the program of the same sampled patterns as our estimators
  with `arrangements="sampled"` and as cvxpy, with the settings they come with.  Their
  time excludes the start of the interpreter.
- note: "stopped" after {args.max_time:g} s, with what there was at that point.

All methods use one thread, ours included.

![Excess against time](global_optimum.png)

Excess over the smallest objective against time, one panel per problem, and one line
per random start.  What is below {FLOOR:.0e}, the smallest objective itself for
instance, is drawn there.  The dashed line is the relative duality gap of our method,
which bounds its excess over the true optimum: for good with a "global" certificate, as
far as the search goes with an "estimated" one, so it can rise when the search goes on.

{machine(packages, others)}
Made by `benchmarks/global_optimum.py`.
"""


FLOOR = 1e-5
STYLES = {OURS: "C3", LBFGS: "C0", ADAM: "C1"}
MARKERS = "sDv^P*Xo<>"


def draw_panel(ax, name, results):
    """Excess over the best known objective against time, and our gap."""
    others = [method for method in results if method not in STYLES]
    markers = dict(zip(others, MARKERS))
    for method, runs in results.items():
        for i, run in enumerate(runs):
            label = method if i == 0 else None
            optimum = best_known(results, run.free_biases)
            excess = np.maximum(run.values / optimum - 1, FLOOR)
            if method == OURS:
                ax.plot(run.times, excess, "o-", color="C3", ms=4, label=label)
                gap = np.maximum(run.gaps, FLOOR)
                label = "its duality gap" if i == 0 else None
                ax.plot(run.times, gap, "x--", color="C3", ms=4, label=label)
            elif method in STYLES:
                ax.plot(run.times, excess, color=STYLES[method], lw=0.8, label=label)
            elif run.objective < np.inf:
                point = max(run.objective / optimum - 1, FLOOR)
                color = f"C{(4 + others.index(method)) % 10}"
                style = {"marker": markers[method], "ls": "", "color": color}
                ax.plot(run.seconds, point, ms=5, label=label, **style)
    ax.axhline(CLOSE, color="0.6", lw=0.6, ls=":")
    ax.set(xscale="log", yscale="log", ylim=(0.6 * FLOOR, 10.0), title=name)
    ax.set_xlim(left=1e-3)


def draw(path, table):
    """The figure, one panel per problem."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    n_columns = min(3, len(table))
    n_rows = -(-len(table) // n_columns)
    figure, axes = plt.subplots(
        n_rows, n_columns, figsize=(4.2 * n_columns, 3.1 * n_rows + 1.2), squeeze=False
    )
    for ax in axes.flat[len(table) :]:
        ax.set_axis_off()
    found = {}
    for ax, (name, results) in zip(axes.flat, table.items()):
        draw_panel(ax, name, results)
        handles, labels = ax.get_legend_handles_labels()
        found |= dict(zip(labels, handles))
    for ax in axes[:, 0]:
        ax.set_ylabel("excess over the best known")
    for ax in axes[-1]:
        ax.set_xlabel("seconds")
    figure.legend(
        found.values(),
        found.keys(),
        loc="upper center",
        ncols=n_columns + 1,
        fontsize=8,
    )
    height = figure.get_size_inches()[1]
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.9 / height))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def write(folder, head, table):
    """Table and figure of the problems so far."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [line for name, results in table.items() for line in rows(name, results)]
    text = head + "\n" + "\n".join([HEADER, *lines]) + "\n"
    Path(folder, "global_optimum.md").write_text(text)
    draw(Path(folder, "global_optimum.png"), table)


def warm_up():
    """What only the first call pays: imports, and threads of the BLAS."""
    data = planted(60, 8)
    for solver in ("interior_point", "cvxpy"):
        train_convex(data, 0, None, tol=0.1, arrangements="sampled", solver=solver)
    train_convex(data, 0, 5.0, tol=0.1)


def measure(data, chosen, max_time, results):
    """All runs on one problem, into `results` as they come."""
    for method, (train, n_runs) in chosen.items():
        for seed in range(n_runs):
            run = train(data, seed, max_time)
            results.setdefault(method, []).append(run)
        print(
            f"{data.name}: {method}, {run.seconds:.3g} s, objective "
            f"{run.objective:.6g} {run.note}",
            file=sys.stderr,
        )


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two small problems")
    parser.add_argument("--large", action="store_true", help="planted 5000x50 as well")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="UCI tables")
    parser.add_argument("--only", default="", metavar="TEXT", help="in problem's name")
    parser.add_argument("--seeds", type=int, help="runs of local methods (5; quick: 2)")
    parser.add_argument("--runs", type=int, default=1, help="runs of our method (1)")
    parser.add_argument("--max-time", type=float, metavar="SECONDS", help="of one run")
    parser.add_argument("--adelie", metavar="PYTHON", help="interpreter with adelie")
    parser.add_argument("--pyscnn", metavar="PYTHON", help="interpreter with pyscnn")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="table and figure")
    args = parser.parse_args()
    args.seeds = args.seeds or (2 if args.quick else 5)
    args.max_time = args.max_time or (10.0 if args.quick else 120.0)
    return args


def main():
    args = arguments()
    # Of all methods; the table shows what they reach.
    warnings.simplefilter("ignore")
    peers = available_peers(args)
    chosen, head, table = methods(args, peers), preamble(args, peers), {}
    print(HEADER, flush=True)
    with threadpool_limits(limits=1):
        warm_up()
        for data in problems(args):
            if args.only not in data.name:
                continue
            results = {}
            try:
                measure(data, chosen, args.max_time, results)
            finally:
                if results:
                    table[data.name] = results
                    print(*rows(data.name, results), sep="\n", flush=True)
                    if args.out:
                        write(args.out, head, table)


if __name__ == "__main__":
    main()
