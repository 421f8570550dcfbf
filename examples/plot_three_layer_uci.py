"""
Three-layer networks on small tables: SGD and the convex program
================================================================

Table 1 of Ergen and Pilanci [1]_ compares two trainings of the same three-layer
networks on six small tables of the UCI repository: stochastic gradient descent and a
convex program.  This example repeats the comparison.  L-BFGS is a third training: it
uses all samples in every step and is not convex either, but it often gets lower than
SGD.

Without arguments four of the tables come from OpenML.  The table of balloons is the
list of all 16 cases of a rule, so it is made here.  Without a network the iris flowers
of scikit-learn take the place of the tables from OpenML.  On the command line ``--data
FOLDER`` reads the tables from a folder with an ``index.csv``, whose columns `name` and
`file` lead to tables that have the target in their last column, and ``--tables`` names
those to take.

.. [1] Ergen, T. and Pilanci, M. (2021). "Global Optimality Beyond Two Layers:
   Training Deep ReLU Networks via Convex Programs". ICML.
.. [2] Fernandez-Delgado, M., Cernadas, E., Barro, S. and Amorim, D. (2014). "Do we
   Need Hundreds of Classifiers to Solve Real World Classification Problems?". JMLR 15.
"""

import argparse
import warnings
from itertools import product
from pathlib import Path
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import fetch_openml, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from three_layer_sgd import forward, objective, train_lbfgs, train_sgd_grid

from sklearn_convexnn import ParallelReLURegressor

# %%
# Tables
# ------
#
# The six of the paper have the form that they have in the collection of
# Fernandez-Delgado et al. [2]_: nominal inputs are integers, and all are standardised.
# Its table `pittsburg-bridges-SPAN` has a known defect.  It holds the first 92 of 108
# bridges and gives those without a span to the class of short ones.  The paper used
# this collection, so the table is here as it is; ``--tables
# pittsburg-bridges-SPAN-corrected`` takes one with the right rows, if the folder has
# it.
#
# A table from OpenML is checked by the number of its inputs and the sizes of its
# classes, so a wrong version cannot slip in.

PAPER = {  # training objective of SGD and convex, test error of SGD and convex
    "acute-inflammation": (0.0029, 0.0013, 0.0224, 0.0217),
    "acute-nephritis": (0.0039, 0.0021, 0.0198, 0.0192),
    "balloons": (0.7901, 0.6695, 0.2693, 0.1496),
    "breast-tissue": (0.5219, 0.3979, 1.4082, 1.0377),
    "fertility": (0.1250, 0.1224, 0.3551, 0.5050),
    "pittsburg-bridges-SPAN": (0.1723, 0.1668, 1.4373, 1.3112),
}
OPENML = {  # data_id, number of inputs, sizes of the classes in ascending order
    "acute-inflammation": (1556, 6, [59, 61]),
    "acute-nephritis": (1455, 6, [50, 70]),
    "breast-tissue": (1465, 9, [14, 15, 16, 18, 21, 22]),
    "fertility": (1473, 9, [12, 88]),
}


def tables_of_folder(folder, names):
    """Tables of `folder` as a dict of pairs ``(X, y)``."""
    files = pd.read_csv(folder / "index.csv", index_col="name")["file"]
    tables = {}
    for name in names:
        frame = pd.read_csv(folder / files[name])
        tables[name] = frame.iloc[:, :-1].to_numpy(float), frame.iloc[:, -1].to_numpy()
    return tables


def balloons():
    """All 16 balloons; inflated are small yellow ones and those adults stretch."""
    X = np.array(list(product([0.0, 1.0], repeat=4)))
    yellow, small, stretch, adult = X.T.astype(bool)
    return X, ((yellow & small) | (stretch & adult)).astype(int)


def tables_of_openml():
    """Tables from OpenML; raises OSError without a network."""
    tables = {}
    for name, (data_id, n_features, class_sizes) in OPENML.items():
        X, y = fetch_openml(data_id=data_id, return_X_y=True, as_frame=True)
        if X.shape[1] != n_features or sorted(y.value_counts()) != class_sizes:
            print(f"{name}: data_id {data_id} is another table, left out")
            continue
        nominal = X.select_dtypes(exclude="number").astype("category")
        X[nominal.columns] = nominal.apply(lambda column: column.cat.codes)
        tables[name] = X.to_numpy(float), y.astype("category").cat.codes.to_numpy()
    return tables


def load_tables(folder, names):
    """Tables from `folder`, OpenML or scikit-learn, whichever there is."""
    if folder is not None:
        return tables_of_folder(folder, names)
    tables = {"balloons": balloons()}
    try:
        return tables | tables_of_openml()
    except OSError as error:
        print(
            f"OpenML cannot be reached ({error}); the flowers of scikit-learn instead"
        )
        return tables | {"iris": load_iris(return_X_y=True)}


parser = argparse.ArgumentParser(description="SGD and the convex program on tables.")
parser.add_argument("--data", type=Path, help="folder of tables with an index.csv")
parser.add_argument("--tables", nargs="+", default=list(PAPER), metavar="NAME")
parser.add_argument("--seeds", type=int, default=5, help="of SGD and of L-BFGS (5)")
parser.add_argument("--epochs", type=int, default=2000, help="of SGD (2000)")
parser.add_argument("--max-time", type=float, default=45.0, help="of a convex fit (45)")
# Not parse_args: documentation tools run this file with arguments of their own.
args, _ = parser.parse_known_args()
tables = load_tables(args.data, args.tables)

# %%
# What the paper leaves open
# --------------------------
#
# The paper does not print all constants.  We take these:
#
# * The loss is half the squared error, as in regression.  Two classes are the targets
#   -1 and 1, more classes the targets 0, 1, 2 and so on.  One fifth of each table,
#   stratified, is for testing; the inputs are standardised by the training rows.
# * A sub-network has three neurons in its first layer.  There are no biases.
# * `alpha` is 0.1 for the two tables of acute inflammations, which a network can fit
#   almost exactly, and 1 for the others.  Divided by the number of training samples
#   the objectives are then of the paper's order of magnitude.
# * SGD and L-BFGS train 50 sub-networks.  SGD takes mini-batches of 16, momentum 0.9, a
#   cosine schedule, and the best of six learning rates.
#
# So the paper's numbers and ours can be compared in direction, not digit by digit.

width, n_subnetworks, tol = 3, 50, 1e-3
rates = np.array([0.003, 0.01, 0.03, 0.1, 0.3, 1.0])  # for the averaged objective


def split(X, y):
    """Training and test part, with numbers as targets and standardised inputs."""
    y = np.unique(y, return_inverse=True)[1].astype(float)
    targets = 2 * y - 1 if y.max() == 1 else y
    X, X_test, targets, targets_test = train_test_split(
        X, targets, test_size=0.2, stratify=y, random_state=0
    )
    scaler = StandardScaler().fit(X)
    return scaler.transform(X), targets, scaler.transform(X_test), targets_test


def convex(X, y, alpha):
    """The convex program."""
    model = ParallelReLURegressor(
        alpha,
        subnetwork_width=width,
        fit_intercept=False,
        tol=tol,
        max_time=args.max_time,
        random_state=0,
    )
    with warnings.catch_warnings():
        # The gap that is left is printed.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(X, y)


results = {}
for name, (X, y) in tables.items():
    alpha = 0.1 if name.startswith("acute") else 1.0
    X, y, X_test, y_test = split(X, y)
    problem = {"loss": "squared_error", "alpha": alpha}
    network = {"n_subnetworks": n_subnetworks, "width": width}
    seeds = range(args.seeds)
    clock = [perf_counter()]

    rate, runs, _ = train_sgd_grid(
        X,
        y,
        learning_rates=rates / len(y),
        seeds=seeds,
        n_epochs=args.epochs,
        batch_size=16,
        schedule="cosine",
        **problem,
        **network,
    )
    clock.append(perf_counter())
    ends = [train_lbfgs(X, y, seed=seed, **problem, **network)[0] for seed in seeds]
    clock.append(perf_counter())
    model = convex(X, y, alpha)
    clock.append(perf_counter())

    trained = {"SGD": [params for params, _ in runs], "L-BFGS": ends}
    results[name] = {
        "n": len(y),
        "alpha": alpha,
        "rate": rate * len(y),
        "train": {
            method: np.array(
                [objective(params, X, y, **problem) for params in networks]
            )
            for method, networks in trained.items()
        },
        "test": {
            method: np.array(
                [
                    np.mean((forward(params, X_test)[:, 0] - y_test) ** 2)
                    for params in networks
                ]
            )
            for method, networks in trained.items()
        },
        "model": model,
        "model_test": np.mean((model.predict(X_test) - y_test) ** 2),
        "times": np.diff(clock),
    }

# %%
# Training objective
# ------------------
#
# The lowest of the seeds of SGD and of L-BFGS, at the same constants as the convex
# program.  The gap, in percent of the objective, is what the dual bound leaves to gain
# for networks of any number of sub-networks.  Where the certificate is 'estimated', the
# bound rests on a search and not on a proof.

print("training objective, the sum of losses and weight decay")
print(f"{'':24}{'n':>4}{'alpha':>6}", end="")
print(f"{'SGD':>10}{'L-BFGS':>10}{'convex':>10}{'bound':>10}{'gap, %':>8}")
for name, result in results.items():
    model = result["model"]
    print(
        f"{name:24}{result['n']:4}{result['alpha']:6g}"
        + "".join(f"{values.min():10.5f}" for values in result["train"].values())
        + f"{model.objective_:10.5f}{model.dual_bound_:10.5f}"
        + f"{100 * model.dual_gap_ / model.objective_:8.3f}  {model.certificate_}"
    )

# %%
# Of the 50 sub-networks the convex program needs sometimes fewer and sometimes more.
# The time of SGD is that of all its learning rates and seeds.

print(f"{'':24}{'sub-networks':>13}{'rate':>7}   seconds of SGD, L-BFGS, convex")
for name, result in results.items():
    print(
        f"{name:24}{result['model'].n_neurons_:13}{result['rate']:7g}   "
        + "".join(f"{seconds:7.1f}" for seconds in result["times"])
    )

# %%
# Beside the paper's numbers
# --------------------------
#
# The training objective divided by the number of training samples, and the mean squared
# error of the test samples.  The test error of SGD and L-BFGS is that of the seed with
# the lowest training objective.


def beside(part, name, ours):
    """A line with our numbers and those of the paper, if it has the table."""
    sgd, program = PAPER.get(name, (np.nan,) * 4)[part : part + 2]
    theirs = "" if np.isnan(sgd) else f"{sgd:12.4f}{program:9.4f}"
    print(f"{name:24}" + "".join(f"{value:9.4f}" for value in ours) + theirs)


methods = f"{'SGD':>9}{'L-BFGS':>9}{'convex':>9}"
print(f"{'training':24}{methods}{'SGD, paper':>12}{'convex':>9}")
for name, result in results.items():
    ours = [values.min() for values in result["train"].values()]
    beside(0, name, np.array([*ours, result["model"].objective_]) / result["n"])

print(f"\n{'test':24}{methods}{'SGD, paper':>12}{'convex':>9}")
for name, result in results.items():
    ours = [
        result["test"][method][np.argmin(values)]
        for method, values in result["train"].items()
    ]
    beside(2, name, [*ours, result["model_test"]])

# %%
# Every seed
# ----------
#
# Left, the training objective relative to that of the convex program, which is the line
# at zero.  The black marks are the dual bounds: no network should be to the left of
# them.  The axis is linear within 0.1 % and logarithmic outside, and ends at 100 %;
# triangles are seeds beyond it.  Right, the test error.

COLORS = {"SGD": "C1", "L-BFGS": "C2"}
figure, (left, right) = plt.subplots(
    1,
    2,
    figsize=(10, 1.2 + 0.55 * len(results)),
    sharey=True,
    layout="constrained",
    width_ratios=[3, 2],
)
for row, result in enumerate(results.values()):
    best = result["model"].objective_
    for method, shift in (("SGD", -0.14), ("L-BFGS", 0.14)):
        excess = 100 * (result["train"][method] / best - 1)
        for beyond, marker in ((False, "o"), (True, ">")):
            shown = np.minimum(excess[(excess > 100) == beyond], 100)
            left.plot(
                shown,
                np.full(len(shown), row + shift),
                marker,
                color=COLORS[method],
                alpha=0.7,
                clip_on=False,
            )
        errors = result["test"][method]
        right.plot(
            errors,
            np.full(len(errors), row + shift),
            "o",
            color=COLORS[method],
            alpha=0.7,
            label=method if row == 0 else None,
        )
    bound = 100 * (result["model"].dual_bound_ / best - 1)
    left.plot(
        bound, row, "k|", ms=18, mew=1.5, label="dual bound" if row == 0 else None
    )
    right.plot(
        result["model_test"],
        row,
        "D",
        color="C0",
        ms=5,
        label="convex program" if row == 0 else None,
    )
left.axvline(0, color="C0", lw=1.5)
left.set_xscale("symlog", linthresh=0.1)
lowest = min(
    100 * (result["model"].dual_bound_ / result["model"].objective_ - 1)
    for result in results.values()
)
left.set_xlim(min(-0.2, 1.5 * lowest), 100)
ticks = [-0.1, 0, 0.1, 1, 10, 100]
left.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
left.set(
    xlabel="training objective above that of the convex program, %",
    yticks=range(len(results)),
    yticklabels=results,
)
left.set_ylim(len(results) - 0.5, -0.5)
right.set(xscale="log", xlabel="mean squared error of the test samples")
right.tick_params(axis="x", which="minor", labelbottom=False)
for axis in (left, right):
    axis.grid(axis="x", alpha=0.3)
    for edge in range(1, len(results)):
        axis.axhline(edge - 0.5, color="0.9", lw=0.8)
figure.legend(loc="outside upper center", ncols=4, frameon=False)

# %%
# On the six tables of the paper the convex program had the lowest training objective
# each time, as in the paper.  The best seed of SGD was above it by 0.4 %, 0.1 % and
# 0.03 % on the first three tables, and by 7 %, 4 % and 3 % on the others.  L-BFGS came
# within 0.2 % of it on the first three, and was 5 %, 5 % and 3 % above on the others.
# The lower objective says little about the test error: on breast tissue L-BFGS has the
# lowest one, and with some twenty test samples such differences can be chance.
#
# A bound that is 'estimated' is itself only good to some thousandths on such data: fits
# with other limits of time or seeds have found networks up to 0.2 % below it.  So the
# gaps say that nothing much better was missed, not that a thousandth is certain.  The
# larger tables may end at the limit of time, so their last digits depend on the
# machine.

plt.show()
