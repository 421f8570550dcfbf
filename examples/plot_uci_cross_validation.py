"""
Cross-validation on small classification tables
===============================================

:class:`~sklearn_convexnn.ConvexReLUClassifier` next to
:class:`~sklearn.neural_network.MLPClassifier`, a support vector machine and logistic
regression, on the tables of Ergen and Pilanci [1]_ and some others of the UCI
repository.  Every model is a pipeline with a scaler, and its parameters are chosen
by an inner cross-validation, so the test folds take no part in the choice.

Without arguments the tables come from OpenML, or two of them from scikit-learn if
there is no network.  On the command line ``--data FOLDER`` reads them from a folder
with an ``index.csv``, whose columns `name` and `file` lead to tables that have the
class in their last column.  ``--help`` lists the other options.

.. [1] Ergen, T. and Pilanci, M. (2021). "Global Optimality Beyond Two Layers:
   Training Deep ReLU Networks via Convex Programs". ICML. Table 1.
"""

import argparse
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import fetch_openml, load_breast_cancer, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_validate
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from sklearn_convexnn import ConvexReLUClassifier

# %%
# Tables
# ------
#
# OpenML has several versions of some tables.  A version is taken by its number and
# checked by the number of its inputs and the sizes of its classes, so a wrong one
# cannot slip in.  Those without a number are read from a folder only.

OPENML = {  # name: (data_id, number of inputs, sizes of the classes in ascending order)
    "acute-inflammation": (1556, 6, [59, 61]),
    "acute-nephritis": (1455, 6, [50, 70]),
    "balloons": None,
    "breast-tissue": (1465, 9, [14, 15, 16, 18, 21, 22]),
    "fertility": (1473, 9, [12, 88]),
    "pittsburg-bridges-SPAN": None,
    "parkinsons": (1488, 22, [48, 147]),
    "planning": (1490, 12, [52, 130]),
    "ionosphere": (59, 34, [126, 225]),
    "breast-cancer-wisc-diag": (1510, 30, [212, 357]),
    "pima": (37, 8, [268, 500]),
    "wine": (187, 13, [48, 59, 71]),
    "zoo": (62, 16, [4, 5, 8, 10, 13, 20, 41]),
}
BUNDLED = {"wine": load_wine, "breast-cancer-wisc-diag": load_breast_cancer}


def tables_of_folder(folder, names):
    """Tables of `folder` as a dict of pairs ``(X, y)``."""
    files = pd.read_csv(folder / "index.csv", index_col="name")["file"]
    tables = {}
    for name in names:
        frame = pd.read_csv(folder / files[name])
        tables[name] = frame.iloc[:, :-1].to_numpy(float), frame.iloc[:, -1].to_numpy()
    return tables


def tables_of_openml(names):
    """The same from OpenML; raises OSError without a network."""
    tables = {}
    for name in names:
        if OPENML.get(name) is None:
            print(f"{name}: no known source on OpenML, left out")
            continue
        data_id, n_features, class_sizes = OPENML[name]
        X, y = fetch_openml(data_id=data_id, return_X_y=True, as_frame=True)
        # The names of the animals are inputs on OpenML; they identify the rows.
        X = X.drop(columns="animal", errors="ignore")
        if X.shape[1] != n_features or sorted(y.value_counts()) != class_sizes:
            print(f"{name}: data_id {data_id} is another table, left out")
            continue
        nominal = X.select_dtypes(exclude="number").astype("category")
        X[nominal.columns] = nominal.apply(lambda column: column.cat.codes)
        tables[name] = X.to_numpy(float), y.to_numpy()
    return tables


def load_tables(folder, names):
    """Tables from `folder`, OpenML or scikit-learn, whichever there is."""
    if folder is not None:
        return tables_of_folder(folder, names)
    try:
        return tables_of_openml(names)
    except OSError as error:
        print(f"OpenML cannot be reached ({error}); tables of scikit-learn instead")
        return {name: load(return_X_y=True) for name, load in BUNDLED.items()}


# %%
# Models
# ------
#
# `alpha` has the same meaning and the same grid for both networks.  The convex one
# places 50 neurons at the start and then adds those that it lacks and drops those
# that it does not need; the other has 100 neurons throughout.


def searches(inner, seed):
    """Grid searches over pipelines, by name."""
    alphas = np.logspace(-2, 1, 4)
    models = {
        "convex ReLU": (
            ConvexReLUClassifier(n_arrangements=50, random_state=seed),
            {"alpha": alphas},
        ),
        "MLP": (
            MLPClassifier(solver="lbfgs", max_iter=1000, random_state=seed),
            {"alpha": alphas},
        ),
        "SVC": (SVC(), {"C": np.logspace(-1, 3, 5), "gamma": np.logspace(-3, 0, 4)}),
        "logistic": (LogisticRegression(max_iter=1000), {"C": np.logspace(-2, 3, 6)}),
    }
    return {
        name: GridSearchCV(
            Pipeline([("scale", StandardScaler()), ("model", model)]),
            {f"model__{parameter}": values for parameter, values in grid.items()},
            cv=inner,
        )
        for name, (model, grid) in models.items()
    }


def cross_validated(X, y, n_folds, seed, n_jobs):
    """Test accuracies and times of a search on each outer fold, by model."""
    rarest = np.unique(y, return_counts=True)[1].min()
    # Stratified folds, inner ones too, need a sample of every class in each.
    n_outer = max(2, min(n_folds, rarest))
    n_inner = max(2, min(3, rarest - -(-rarest // n_outer)))
    outer = StratifiedKFold(n_outer, shuffle=True, random_state=seed)
    inner = StratifiedKFold(n_inner, shuffle=True, random_state=seed)
    return {
        name: cross_validate(search, X, y, cv=outer, n_jobs=n_jobs)
        for name, search in searches(inner, seed).items()
    }


# %%
# Results
# -------

parser = argparse.ArgumentParser(description="Cross-validate on small tables.")
parser.add_argument("--data", type=Path, help="folder of tables with an index.csv")
parser.add_argument("--tables", nargs="+", default=list(OPENML), metavar="NAME")
parser.add_argument("--folds", type=int, default=5, help="outer folds (5)")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--jobs", type=int, default=-1, help="outer folds at a time (all)")
# Not parse_args: documentation tools run this file with arguments of their own.
args, _ = parser.parse_known_args()

# Some of the MLP's many fits end at its limit of iterations, and a warning for each
# would bury the table.  All other warnings stay visible.
warnings.filterwarnings(
    "ignore", category=ConvergenceWarning, module=r"sklearn\.neural_network"
)

accuracy, times = {}, {}
header = f"{'table':24} {'n':>4} {'d':>3} {'classes':>7} {'largest':>7}"
for name, (X, y) in load_tables(args.data, args.tables).items():
    scores = cross_validated(X, y, args.folds, args.seed, args.jobs)
    accuracy[name] = {model: score["test_score"] for model, score in scores.items()}
    times[name] = {model: score["fit_time"].mean() for model, score in scores.items()}
    if header:
        print(header, *(f"{model:>15}" for model in scores))
        header = None
    sizes = np.unique(y, return_counts=True)[1]
    largest = sizes.max() / len(y)
    print(
        f"{name:24} {len(y):4} {X.shape[1]:3} {len(sizes):7} {largest:7.3f}",
        *(f"{test.mean():8.3f}+-{test.std():5.3f}" for test in accuracy[name].values()),
        flush=True,
    )

mean = pd.DataFrame(accuracy).map(np.mean).T
spread = pd.DataFrame(accuracy).map(np.std).T
print("\nmean accuracy over the tables")
print(mean.mean().to_string(float_format="{:.3f}".format))
print("\nmean rank (1 is best)")
print(mean.rank(axis=1, ascending=False).mean().to_string(float_format="{:.2f}".format))
print("\nseconds for one search, that is for all fits of an outer fold")
print(pd.DataFrame(times).T.to_string(float_format="{:.2f}".format))

# %%
# The bars are standard deviations over the folds.  With a hundred rows or so they are
# wider than most differences between the models: read the figure as "none of these
# models is out of place on such tables", not as a ranking.

fig, ax = plt.subplots(figsize=(7, 0.9 + 0.45 * len(mean)), layout="constrained")
position = np.arange(len(mean))
offsets = np.linspace(-0.24, 0.24, mean.shape[1])
for model, marker, offset in zip(mean.columns, "osD^", offsets):
    ax.errorbar(
        mean[model],
        position + offset,
        xerr=spread[model],
        fmt=marker,
        ms=5,
        lw=1,
        label=model,
    )
ax.set(yticks=position, yticklabels=mean.index, xlabel="test accuracy")
ax.set_xlim(right=1.02)
ax.set_ylim(len(mean) - 0.5, -0.5)
ax.grid(axis="x", alpha=0.3)
for edge in position[1:] - 0.5:
    ax.axhline(edge, color="0.9", lw=0.8)
fig.legend(loc="outside upper center", ncols=mean.shape[1], frameon=False)
plt.show()
