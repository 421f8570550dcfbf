"""Our objective at every moment, next to that of plain L-BFGS of three widths.

All train a two-layer ReLU network with free biases to minimise the sum of the losses
plus `alpha` / 2 times the sum of the squares of all weights, on one thread:

* planted networks: normal data, outputs of twenty random neurons with noise, `alpha` a
  hundredth of the samples;
* UCI tables with ``--data FOLDER``, standardised, with targets that are standardised,
  or -1 and 1, and squared loss; the digits of scikit-learn with softmax.

L-BFGS is SciPy's with 20 corrections, from uniform weights of size ``1 / sqrt(d)``,
with products in single precision.  What a method has at a time is the best network
until then; of several seeds, the median at that time.

    python benchmarks/anytime.py --data FOLDER --out doc/benchmarks

``--quick`` takes two small problems and a few seconds.
"""

import argparse
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from unittest.mock import patch

import numpy as np
from common import how_to_get_data, machine, read_table
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from sklearn_convexnn import ConvexReLUClassifier, ConvexReLURegressor
from sklearn_convexnn.model.results import Record
from sklearn_convexnn.training import generation

WIDTHS = (100, 300, 1000)
PLANTED = (
    (1000, 20),
    (2000, 50),
    (3000, 20),
    (3900, 100),
    (5000, 100),
    (5000, 1000),
    (20_000, 50),
)
TABLES = {  # file in the folder: (kind, alpha, data_id of fetch_openml, if it is there)
    "concrete": ("numbers", 5.0, 44959),
    "airfoil": ("numbers", 5.0, 44957),
    "wine-quality-red": ("numbers", 10.0, 44972),
    "pima": ("classes", 5.0, 37),
    "musk-1": ("classes", 5.0, None),
    "ionosphere": ("classes", 5.0, 59),
    "spambase": ("classes", 10.0, 44),
    "kin8nm": ("numbers", 20.0, 44980),
    "power-plant": ("numbers", 20.0, None),
    "waveform": ("order", 20.0, 60),
    "magic": ("classes", 50.0, 1120),
}
FIRST, CLOSE = 0.3, 0.01


def planted(n, d):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d))
    W, a = rng.standard_normal((d, 20)) / np.sqrt(d), rng.choice([-1, 1], 20)
    f = np.maximum(X @ W, 0.0) @ a
    y = (f - f.mean()) / f.std() + 0.1 * rng.standard_normal(n)
    return X, y, 0.01 * n


def table(folder, name):
    """Inputs, targets and `alpha`; None if the folder does not have it."""
    kind, alpha, _ = TABLES[name]
    found = read_table(folder, name)
    if found is None:
        return None
    X, y = found
    _, codes = np.unique(y, return_inverse=True)
    if kind == "classes":
        y = np.where(codes == 0, -1.0, 1.0)
    else:
        y = codes.astype(float) if kind == "order" else y.astype(float)
        y = (y - y.mean()) / y.std()
    return standardised(X), y, alpha


def standardised(X):
    spread = X.std(axis=0)
    return (X - X.mean(axis=0)) / np.where(spread > 0, spread, 1.0)


def problems(args):
    """Pairs (name, data), one after the other."""
    small = ((300, 10),) if args.quick else PLANTED
    for shape in small:
        yield "x".join(map(str, shape)), planted(*shape)
    if args.data is None:
        known = [(name, key) for name, (_, _, key) in TABLES.items() if key]
        rest = ", ".join(name for name, (_, _, key) in TABLES.items() if not key)
        print(how_to_get_data(known), f"From UCI: {rest}.", sep="\n", file=sys.stderr)
    elif not args.quick:
        for name in TABLES:
            data = table(args.data, name)
            if data is not None:
                yield name, data
    X, y = load_digits(return_X_y=True)
    some = slice(300 if args.quick else None)
    yield "digits", (standardised(X[some]), np.eye(10)[y[some]], 5.0)


class Loss:
    """Half of squared errors, or the log loss of the softmax of several outputs."""

    def __init__(self, y):
        self.Y = y.reshape(len(y), -1)

    def value(self, F):
        if self.Y.shape[1] == 1:
            return 0.5 * np.sum((F - self.Y) ** 2)
        return np.sum(logsumexp(F, axis=1)) - np.sum(F * self.Y)

    def gradient(self, F):
        return F - self.Y if self.Y.shape[1] == 1 else softmax(F, axis=1) - self.Y


def objective(X, y, alpha, coefs, intercepts):
    """The objective of a network, in double precision."""
    hidden = np.maximum(X @ coefs[0] + intercepts[0], 0.0)
    decay = sum(np.sum(np.square(coef)) for coef in coefs)
    return Loss(y).value(hidden @ coefs[1] + intercepts[1]) + 0.5 * alpha * decay


class Stopped(Exception):
    """The time is up."""


def train_lbfgs(width, X, y, alpha, seed, limit):
    """Times and objectives of plain L-BFGS, as it goes."""
    rng, loss = np.random.default_rng(seed), Loss(y)
    (_, d), c, m = X.shape, loss.Y.shape[1], width
    size = 1.0 / np.sqrt(d)
    start = [
        rng.uniform(-size, size, d * m),
        np.zeros(m),
        rng.uniform(-size, size, m * c),
        np.zeros(c),
    ]
    ends = np.cumsum([len(part) for part in start])[:-1]
    short, times, values, begin = X.astype(np.float32), [], [], perf_counter()

    def value_and_gradient(x):
        if perf_counter() - begin > limit:
            raise Stopped
        W, b, V, offset = np.split(x, ends)
        W, V = W.reshape(d, m), V.reshape(m, c)
        short_V = V.astype(np.float32)
        z = short @ W.astype(np.float32)
        z += b.astype(np.float32)
        active = z > 0
        z *= active
        F = (z @ short_V).astype(float) + offset
        N = loss.gradient(F)
        short_N = N.astype(np.float32)
        value = loss.value(F) + 0.5 * alpha * (np.sum(W**2) + np.sum(V**2))
        to_V = (z.T @ short_N).astype(float) + alpha * V
        np.matmul(short_N, short_V.T, out=z)
        z *= active
        to_W = (short.T @ z).astype(float) + alpha * W
        to_b = z.sum(axis=0, dtype=float)
        times.append(perf_counter() - begin)
        values.append(value)
        parts = [to_W.ravel(), to_b, to_V.ravel(), N.sum(axis=0)]
        return value, np.concatenate(parts)

    options = {"maxcor": 20, "maxiter": 10**6, "maxfun": 10**6, "ftol": 0, "gtol": 0}
    with suppress(Stopped):
        minimize(
            value_and_gradient,
            np.concatenate(start),
            jac=True,
            method="L-BFGS-B",
            options=options,
        )
    return {"time": np.array(times), "value": np.minimum.accumulate(values)}


def record_from(starts, callback):
    """The record of a fit, whose start is noted."""
    record = Record(callback)
    starts.append(record.start)
    return record


def train_ours(X, y, alpha, seed, limit):
    """Times, objectives and gaps of our fit, as it goes."""
    several = y.ndim > 1
    kind = ConvexReLUClassifier if several else ConvexReLURegressor
    model = kind(alpha=alpha, tol=1e-3, max_time=limit, random_state=seed)
    y = np.argmax(y, axis=1) if several else y
    starts = []
    with patch.object(generation, "Record", lambda *args: record_from(starts, *args)):
        begin = perf_counter()
        model.fit(X, y)
        seconds = perf_counter() - begin
    history = model.history_
    # What comes before the rounds is part of it.
    late = starts[0] - begin
    coefs, intercepts = model.coefs_, model.intercepts_
    final = objective(X, y, alpha, coefs, intercepts)
    values = np.append(history["objective"], final)
    gaps = (history["objective"] - history["dual_bound"]) / history["objective"]
    return {
        "time": np.append(history["time"] + late, seconds),
        "value": np.minimum.accumulate(values),
        "gap": np.append(gaps, model.dual_gap_ / final),
    }


def at(run, times, key="value"):
    """What a run had at these times, infinity before the first."""
    index = np.searchsorted(run["time"], times, side="right") - 1
    return np.where(index >= 0, run[key][np.maximum(index, 0)], np.inf)


def until(times, values, level):
    """The first of the times at which values are at most a level."""
    reached = np.flatnonzero(values <= level)
    return times[reached[0]] if len(reached) else np.nan


def measure(data, args):
    """Objectives over time by method, medians of the seeds, and our gap."""
    times = np.geomspace(FIRST, args.limit, args.points)
    methods = {f"L-BFGS, {m}": (lambda *a, m=m: train_lbfgs(m, *a)) for m in WIDTHS}
    methods = {"ours": train_ours, **methods}
    curves, gap, least = {}, None, np.inf
    for name, train in methods.items():
        runs = [train(*data, seed, args.limit) for seed in range(args.seeds)]
        curves[name] = np.median([at(run, times) for run in runs], axis=0)
        least = min(least, *(run["value"].min() for run in runs))
        if name == "ours":
            gap = np.median([at(run, times, "gap") for run in runs], axis=0)
    return times, curves, gap, least


COLUMNS = (
    "problem",
    "samples",
    "features",
    "best known",
    "ours at 0.3 / 1 / 3 / 10 s and in the end",
    "best L-BFGS, the same",
    "behind at most",
    "at",
    "to 1 %: ours",
    "best L-BFGS",
    "gap in the end",
)
HEADER = f"| {' | '.join(COLUMNS)} |\n|{' :-- |' * len(COLUMNS)}"


def row(name, X, found):
    times, curves, gap, least = found
    peers = np.min([curves[key] for key in curves if key != "ours"], axis=0)
    behind = curves["ours"] / peers - 1.0
    worst = int(np.argmax(behind))
    looks = [t for t in (0.3, 1.0, 3.0, 10.0) if t < times[-1]] + [times[-1]]
    index = [int(np.argmin(np.abs(times - t))) for t in looks]
    level = (1.0 + CLOSE) * least

    def shown(curve):
        return " / ".join(f"{curve[i]:.5g}" for i in index)

    cells = [
        name,
        *map(str, X.shape),
        f"{least:.6g}",
        shown(curves["ours"]),
        shown(peers),
        f"{100 * behind[worst]:.2f} %",
        f"{times[worst]:.2g} s",
        f"{until(times, curves['ours'], level):.2g}",
        f"{until(times, peers, level):.2g}",
        f"{100 * gap[-1]:.2g} %",
    ]
    return "| " + " | ".join("" if cell == "nan" else cell for cell in cells) + " |"


def draw(path, results):
    """Excess over the best known objective against time, a panel per problem."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(4, len(results))
    rows = -(-len(results) // columns)
    size = (3.6 * columns, 2.7 * rows + 0.6)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for ax in axes.flat[len(results) :]:
        ax.set_axis_off()
    for ax, (name, (times, curves, gap, least)) in zip(axes.flat, results.items()):
        for i, (method, curve) in enumerate(curves.items()):
            style = {"color": "C3", "lw": 2} if i == 0 else {"color": f"C{i - 1}"}
            excess = np.maximum(curve / least - 1.0, 1e-4)
            ax.plot(times, excess, label=method, **style)
        ax.plot(times, gap, "--", color="C3", lw=1, label="our gap")
        ax.set(xscale="log", yscale="log", ylim=(1e-4, 3.0), title=name)
    figure.supxlabel("seconds")
    figure.supylabel("excess over the best known")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=5, fontsize=9)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.35 / size[1]))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def about(args):
    return f"""# Ahead at every moment

Objectives of two-layer networks while they are trained: ours, and those of plain L-BFGS
of width {", ".join(map(str, WIDTHS))} in single precision, on the same problems and on
one thread.  Medians of {args.seeds} seeds, {args.limit:g} s each.  "Behind at most" is
how far our objective is above the best of the three at the worst of the times, from
{FIRST} s on: negative if it is below all of them always.  "To 1 %" has the seconds
until the objective is within a hundredth of the best that any of them finds.  The gap
is that of our fit, estimated, which stops at 0.1 %.

![Excess over the best known objective against time](anytime.png)

{{rows}}

{machine(["numpy", "scipy", "scikit-learn"])}
Made by `benchmarks/anytime.py`.
"""


def write(folder, args, lines, results):
    folder.mkdir(parents=True, exist_ok=True)
    text = about(args).replace("{rows}", "\n".join([HEADER, *lines]))
    Path(folder, "anytime.md").write_text(text)
    draw(Path(folder, "anytime.png"), results)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two small problems")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="UCI tables")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="these problems")
    parser.add_argument("--seeds", type=int, help="runs of each method (3; quick: 1)")
    parser.add_argument("--limit", type=float, help="seconds of a run (30; quick: 2)")
    parser.add_argument("--points", type=int, default=25, help="times to look at")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="table and figure")
    args = parser.parse_args()
    args.seeds = args.seeds or (1 if args.quick else 3)
    args.limit = args.limit or (2.0 if args.quick else 30.0)
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(HEADER, flush=True)
    lines, results = [], {}
    with threadpool_limits(limits=1):
        train_ours(*planted(100, 3), 0, 1.0)  # imports, and what is made only once
        for name, data in problems(args):
            if args.only and name not in args.only:
                continue
            results[name] = measure(data, args)
            lines.append(row(name, data[0], results[name]))
            print(lines[-1], flush=True)
            if args.out:
                write(args.out, args, lines, results)


if __name__ == "__main__":
    main()
