"""Three and more classes: one shared hidden layer, against scikit-learn's MLP.

Both train a two-layer ReLU network on the same problem, to minimise

    sum of the softmax log losses + alpha/2 (sum of squares of all weights).

One function of this file computes the objective of every network from its weights, so
nothing rests on what a solver says of itself.  The unit of time is one training of
``MLPClassifier(solver="lbfgs")`` with its default limit of 200 iterations on the same
problem in the same run.  A second part chooses `alpha` by cross-validation.

``python benchmarks/multiclass.py --quick`` takes half a minute.  With ``--out FOLDER``
a page and a figure are written, and rewritten after each problem, so that an
interrupted run leaves what it has.  ``--data FOLDER`` adds UCI tables.
"""

import argparse
import sys
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
from common import how_to_get_data, machine, middle, read_table
from scipy.special import logsumexp
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedKFold,
    StratifiedShuffleSplit,
    train_test_split,
)
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from sklearn_convexnn import ConvexReLUClassifier

OURS, UNIT, LONG = "ConvexReLUClassifier", "MLP, lbfgs, 200", "MLP, lbfgs, 2000"
ADAM, ADAM_BATCH, ADAM_STEPS = "MLP, adam", 200, 2000
ENOUGH = 6.0  # seconds of ours on one problem, after which it is not run again
GRID = (0.1, 1.0, 10.0, 30.0)

BUNDLED = {"iris": load_iris, "wine": load_wine, "digits": load_digits}
UCI = {  # file in the folder: data_id for sklearn.datasets.fetch_openml, if it is there
    "breast-tissue": 1465,
    "zoo": 62,
    "ecoli": 39,
    "synthetic-control": None,
    "cardiotocography-3clases": None,
}


@dataclass
class Run:
    """One training: what came out, and how it went there.

    The table has the time of the processor, as all methods use one thread and other
    work on the machine would blur a comparison of wall clocks.
    """

    seconds: float
    wall: float
    objective: float
    neurons: int
    gap: float = np.nan
    certificate: str = ""
    stopped: bool = False
    history: dict | None = None


@dataclass
class Problem:
    """A table with an `alpha`, and what the methods made of it."""

    name: str
    X: np.ndarray
    y: np.ndarray
    alpha: float
    runs: dict
    scores: dict  # test accuracies of the folds
    stopped: dict  # folds of which the training was stopped


def objective(model, X, y, alpha):
    """The objective of a network, from the weights alone; biases are not penalised."""
    hidden = np.maximum(X @ model.coefs_[0] + model.intercepts_[0], 0.0)
    outputs = hidden @ model.coefs_[1] + model.intercepts_[1]
    own = outputs[np.arange(len(y)), np.searchsorted(model.classes_, y)]
    squares = sum(float(np.sum(np.square(coef))) for coef in model.coefs_)
    return float(np.sum(logsumexp(outputs, axis=1) - own)) + 0.5 * alpha * squares


def n_neurons(model):
    """Neurons whose weights are not zero, nearly."""
    hidden, output = model.coefs_
    size = np.linalg.norm(hidden, axis=0) * np.linalg.norm(output, axis=1)
    return int(np.sum(size > 1e-4 * size.max(initial=0.0)))


# --- Methods ----------------------------------------------------------------


def convex(alpha, n_samples, seed, max_time):
    return ConvexReLUClassifier(alpha=alpha, max_time=max_time, random_state=seed)


def local(alpha, n_samples, seed, max_time, solver, max_iter, tol=1e-4):
    """scikit-learn's MLP of width 100.

    Adam adds the full weight decay to the mean loss of every batch, so its `alpha` is
    made smaller, for the same problem.
    """
    batch = min(ADAM_BATCH, n_samples)
    share = batch / n_samples if solver == "adam" else 1.0
    return MLPClassifier(
        alpha=alpha * share,
        solver=solver,
        max_iter=max_iter,
        tol=tol,
        random_state=seed,
    )


METHODS = {
    OURS: convex,
    UNIT: partial(local, solver="lbfgs", max_iter=200),
    # With the default of 1e-4 it can end long before a local optimum.
    LONG: partial(local, solver="lbfgs", max_iter=2000, tol=1e-7),
    ADAM: partial(local, solver="adam", max_iter=ADAM_STEPS),
}


def is_stopped(model):
    gap = getattr(model, "dual_gap_", 0.0)
    return bool(gap > 0 and gap > 1.01 * model.tol * model.objective_)


def train(make, X, y, alpha, seed, max_time):
    model = make(alpha, len(y), seed, max_time)
    start, wall = process_time(), perf_counter()
    model.fit(X, y)
    run = Run(
        seconds=process_time() - start,
        wall=perf_counter() - wall,
        objective=objective(model, X, y, alpha),
        neurons=n_neurons(model),
        stopped=is_stopped(model),
    )
    if hasattr(model, "dual_bound_"):
        run.gap = (run.objective - model.dual_bound_) / run.objective
        run.certificate, run.history = model.certificate_, model.history_
    return run


def train_all(problem, args):
    """All seeds on the whole table, the methods in turn."""
    X = StandardScaler().fit_transform(problem.X)
    for seed in range(args.seeds):
        for method, make in METHODS.items():
            runs = problem.runs.setdefault(method, [])
            if method == OURS and sum(run.seconds for run in runs) > ENOUGH:
                continue
            runs.append(train(make, X, problem.y, problem.alpha, seed, args.max_time))


def cross_validate_all(problem, args):
    """Test accuracies; each fold has a seed of its own."""
    folds = StratifiedKFold(args.folds, shuffle=True, random_state=0)
    for seed, (fit, test) in enumerate(folds.split(problem.X, problem.y)):
        scaler = StandardScaler().fit(problem.X[fit])
        for method, make in METHODS.items():
            model = make(problem.alpha, len(fit), seed, args.fold_time)
            model.fit(scaler.transform(problem.X[fit]), problem.y[fit])
            score = model.score(scaler.transform(problem.X[test]), problem.y[test])
            problem.scores.setdefault(method, []).append(score)
            problem.stopped.setdefault(method, []).append(is_stopped(model))


# --- Choice of alpha --------------------------------------------------------


@dataclass
class Search:
    """Grid searches of one method on the outer splits of a table."""

    name: str
    method: str
    scores: list
    alphas: list
    seconds: list


def search_all(name, X, y, outer, inner, grid, args):
    """A grid search for each method and outer split."""
    searches = {
        method: Search(name, method, [], [], [])
        for method in METHODS
        if method != ADAM  # its alpha depends on the number of samples
    }
    for seed, (fit, test) in enumerate(outer.split(X, y)):
        for method, found in searches.items():
            model = METHODS[method](1.0, len(fit), seed, args.fold_time)
            grid_search = GridSearchCV(
                Pipeline([("scale", StandardScaler()), ("model", model)]),
                {"model__alpha": grid},
                cv=StratifiedKFold(inner, shuffle=True, random_state=seed),
            )
            start = process_time()
            grid_search.fit(X[fit], y[fit])
            found.seconds.append(process_time() - start)
            found.scores.append(grid_search.score(X[test], y[test]))
            found.alphas.append(grid_search.best_params_["model__alpha"])
    return list(searches.values())


def searches(args):
    """Grid searches on wine, nested, and on one split of digits."""
    outer = StratifiedKFold(args.folds, shuffle=True, random_state=0)
    grid = GRID[1:3] if args.quick else GRID
    yield from search_all(
        "wine", *load_wine(return_X_y=True), outer, args.folds, grid, args
    )
    if not args.quick:
        outer = StratifiedShuffleSplit(1, test_size=0.3, random_state=0)
        yield from search_all(
            "digits", *load_digits(return_X_y=True), outer, 3, grid, args
        )


# --- Problems ---------------------------------------------------------------


def tables(args):
    """Names, inputs and classes, without constant inputs."""
    found = {name: load(return_X_y=True) for name, load in BUNDLED.items()}
    if args.quick:
        X, y = found["digits"]
        found["digits"] = train_test_split(
            X, y, train_size=300, stratify=y, random_state=0
        )[::2]
    elif args.data is None:
        known = [(name, data_id) for name, data_id in UCI.items() if data_id]
        print(how_to_get_data(known), file=sys.stderr)
        rest = ", ".join(name for name, data_id in UCI.items() if not data_id)
        print(f"From the UCI repository itself: {rest}.", file=sys.stderr)
    else:
        found |= {name: read_table(args.data, name) for name in UCI}
    for name, table in found.items():
        if table is not None and (not args.only or name in args.only):
            X, y = table
            yield name, X[:, np.ptp(X, axis=0) > 0], y


# --- Report -----------------------------------------------------------------

HEADER = (
    "| table | alpha | method | objective | best | excess | time [s] | units | gap "
    "| neurons | accuracy | note |\n"
    "| --- | --: | --- | --: | --: | --: | --: | --: | --: | --: | --: | --- |"
)
SEARCH_HEADER = (
    "| table | method | accuracy | chosen alpha | time of a search [s] |\n"
    "| --- | --- | --: | --- | --: |"
)


def accuracy(scores):
    spread = f" ± {np.std(scores):.3f}" if len(scores) > 1 else ""
    return f"{np.mean(scores):.3f}{spread}"


def rows(problem):
    """Lines of the Markdown table for one problem."""
    lowest = min(run.objective for runs in problem.runs.values() for run in runs)
    unit = middle(run.seconds for run in problem.runs[UNIT])
    n, d = problem.X.shape
    for method, runs in problem.runs.items():
        value = middle(run.objective for run in runs)
        seconds = middle(run.seconds for run in runs)
        gap = max(run.gap for run in runs)
        notes = [runs[0].certificate] if method == OURS else []
        if any(run.stopped for run in runs):
            notes.append("stopped")
        if sum(problem.stopped[method]):
            notes.append(
                f"{sum(problem.stopped[method])} of {len(problem.scores[method])} "
                "folds stopped"
            )
        cells = [
            f"{problem.name}, {n} x {d}, {len(np.unique(problem.y))} classes",
            f"{problem.alpha:g}",
            method + (f", {len(runs)} runs" if len(runs) > 1 else ""),
            f"{value:.6g}",
            f"{min(run.objective for run in runs):.6g}",
            f"{100 * (value / lowest - 1):+.2g} %",
            f"{seconds:.2g}",
            f"{seconds / unit:.2g}",
            f"{gap:.0e}" if np.isfinite(gap) else "",
            f"{middle(run.neurons for run in runs):.0f}",
            accuracy(problem.scores[method]),
            ", ".join(notes),
        ]
        yield "| " + " | ".join(cells) + " |"


def search_rows(found):
    for search in found:
        chosen = sorted(set(search.alphas))
        cells = [
            search.name,
            search.method,
            accuracy(search.scores),
            ", ".join(f"{alpha:g} ({search.alphas.count(alpha)})" for alpha in chosen),
            f"{middle(search.seconds):.2g}",
        ]
        yield "| " + " | ".join(cells) + " |"


def page(args, problems, found):
    """The page, with what there is so far."""
    lines = [line for problem in problems for line in rows(problem)]
    return f"""# Several classes: one shared hidden layer

Two-layer ReLU networks for three and more classes, all to minimise the same objective:
the sum of the softmax log losses plus `alpha` / 2 times the sum of squares of all
weights, with free biases.  Inputs are standardised, inputs that are constant left out.
Iris, wine and digits come with scikit-learn, the other tables from the UCI repository
(`sklearn.datasets.fetch_openml` has some of them).

- objective: recomputed from the weights by one function, the median of the runs.
- best: the smallest of the runs.
- excess: of the median above the smallest objective of this table on the same problem.
- time: seconds of the processor for one training, the median.
- units: the same divided by the time of one MLP training by L-BFGS with 200 iterations.
- gap: duality gap divided by the objective, the largest of the runs.  Our fits end at
  1e-2, the default `tol`.
- neurons: the median; those without weight are not counted.
- accuracy: on the test folds of a {args.folds}-fold cross-validation, mean and standard
  deviation.  Fold k is trained from seed k, ours for at most {args.fold_time:g} s.
- MLP: `MLPClassifier` of width 100, from {args.seeds} seeds.  With up to 200 iterations
  of L-BFGS, its default, or 2000 and `tol=1e-7` in place of 1e-4.  Or with Adam for up
  to {ADAM_STEPS} epochs in batches of {ADAM_BATCH}, with `alpha` scaled accordingly and
  the default `tol` and learning rate.
- ours: the default settings.  With as many seeds, but no more after {ENOUGH:g} s.
- note: the certificate; "stopped" after {args.max_time:g} s, with what there was then.

All methods use one thread.

![Objective against time on the digits](multiclass.png)

Digits: how far the objective is above our last dual bound, ours from round to round and
the MLPs at their end, in seconds of the wall clock.  The dashed line is the gap as it
is known at that time.  It can rise, when the search finds that an estimated bound was
too high.

{machine(("numpy", "scipy", "scikit-learn"))}
Made by `benchmarks/multiclass.py`.

""" + "\n".join(
        [
            HEADER,
            *lines,
            "\n## With alpha chosen by cross-validation\n",
            f"Grid search over `alpha` in {', '.join(f'{a:g}' for a in GRID)}.  Wine: "
            f"{args.folds} outer and {args.folds} inner folds.\nDigits: one split with "
            f"30 % test data, and 3 inner folds.  Each of our fits gets at most\n"
            f"{args.fold_time:g} s.  In parentheses, how often it was chosen.\n"
            "On the one split of the digits, 0.01 is five of the 540 test samples.\n",
            SEARCH_HEADER,
            *search_rows(found),
            "",
        ]
    )


def draw(path, problems):
    """Distance to the dual bound against time, one panel per alpha."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(problems), figsize=(4.8 * len(problems), 3.9), squeeze=False
    )
    for ax, problem in zip(axes.flat, problems):
        histories = [run.history for run in problem.runs[OURS]]
        # Not the highest on the way: an estimated bound can be withdrawn later.
        bound = max(history["dual_bound"][-1] for history in histories)
        for i, history in enumerate(histories):
            time, values = history["time"], history["objective"]
            labels = (OURS, "its duality gap") if i == 0 else (None, None)
            ax.plot(time, values / bound - 1, "o-", color="C3", label=labels[0])
            gap = values / history["dual_bound"] - 1
            ax.plot(time, gap, "x--", color="C3", ms=5, label=labels[1])
        for marker, color, method in zip("sD^", "021", (UNIT, LONG, ADAM)):
            runs = problem.runs[method]
            ax.plot(
                [run.wall for run in runs],
                [run.objective / bound - 1 for run in runs],
                marker,
                color=f"C{color}",
                ms=5,
                label=method,
            )
        ax.set(xscale="log", yscale="log", xlabel="seconds")
        ax.set_title(f"{problem.name}, alpha={problem.alpha:g}")
    axes[0, 0].set_ylabel("objective / last bound - 1")
    axes[0, -1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def write(args, problems, found):
    """Page and figure of what there is so far."""
    if args.out is None:
        return
    args.out.mkdir(parents=True, exist_ok=True)
    Path(args.out, "multiclass.md").write_text(page(args, problems, found))
    digits = [problem for problem in problems if problem.name == "digits"]
    if digits:
        draw(Path(args.out, "multiclass.png"), digits)


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="three small problems")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="UCI tables")
    parser.add_argument("--only", nargs="+", metavar="TABLE", help="names of tables")
    parser.add_argument("--alphas", nargs="+", type=float, help="(10 1; quick: 10)")
    parser.add_argument("--seeds", type=int, help="runs of each method (5; quick: 2)")
    parser.add_argument("--folds", type=int, help="(5; quick: 2)")
    parser.add_argument(
        "--max-time", type=float, metavar="SECONDS", help="of a fit of ours (40)"
    )
    parser.add_argument(
        "--fold-time", type=float, metavar="SECONDS", help="the same for folds (6)"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="page and figure")
    args = parser.parse_args()
    args.alphas = args.alphas or ([10.0] if args.quick else [10.0, 1.0])
    args.seeds = args.seeds or (2 if args.quick else 5)
    args.folds = args.folds or (2 if args.quick else 5)
    args.max_time = args.max_time or (3.0 if args.quick else 40.0)
    args.fold_time = args.fold_time or (1.0 if args.quick else 6.0)
    return args


def main():
    args = arguments()
    # Limits of time and iterations; the table shows what is reached within them.
    warnings.simplefilter("ignore")
    problems, found = [], []
    with threadpool_limits(limits=1):
        # What only the first call pays.
        convex(10.0, 150, 0, 2.0).fit(*load_wine(return_X_y=True))
        print(SEARCH_HEADER, flush=True)
        for search in searches(args):
            found.append(search)
            print(*search_rows([search]), flush=True)
        print(HEADER, flush=True)
        for name, X, y in tables(args):
            for alpha in args.alphas:
                problem = Problem(name, X, y, alpha, {}, {}, {})
                train_all(problem, args)
                cross_validate_all(problem, args)
                problems.append(problem)
                print(*rows(problem), sep="\n", flush=True)
                write(args, problems, found)


if __name__ == "__main__":
    main()
