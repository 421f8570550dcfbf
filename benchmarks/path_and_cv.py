"""Regularisation paths and cross-validation: what they cost.

The first table compares a path of 50 values of `alpha` with single fits at a third of
them, the second `ConvexReLURegressorCV` and `ConvexReLUClassifierCV` with
scikit-learn's `GridSearchCV` of the plain estimators, on the same values and folds.

``python benchmarks/path_and_cv.py --quick`` takes half a minute.  With ``--out FOLDER``
a page is written.
"""

import argparse
import warnings
from pathlib import Path
from time import process_time

import numpy as np
from common import machine
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from sklearn_convexnn import (
    ConvexReLUClassifier,
    ConvexReLUClassifierCV,
    ConvexReLURegressor,
    ConvexReLURegressorCV,
    convex_relu_path,
)

DATA = {
    "diabetes": load_diabetes,
    "breast cancer": load_breast_cancer,
    "wine": load_wine,
    "iris": load_iris,
}
PATH_HEADER = """\
| data | path | single fits | hardest | path / hardest | worst excess | largest gap |
| --- | --: | --: | --: | --: | --: | --: |"""
CV_HEADER = """\
| data | method | values | seconds | alpha | score |
| --- | --- | --: | --: | --: | --: |"""
TEXT = """\
# Paths and cross-validation

`convex_relu_path` and the `...CV` estimators on data of scikit-learn, standardised,
with the default `tol` of 1e-2 and values of `alpha` between `alpha_max` and a hundredth
of it.  Numerical libraries use one thread.

{machine}
Made by `benchmarks/path_and_cv.py`.

## Paths

- path: seconds of the processor for a path of {n_alphas} values.
- single fits: the same for as many fits of the plain estimator, from a third of them.
- hardest: the longest of these.
- worst excess: how far the objective of the path is above that of the single fit, the
  largest of these values, relatively.
- largest gap: of the networks of the path, relative to the objective.

{path_rows}

Iris is of rank four, and a proof by branch and bound is attempted for each network.
It often fails for a small `alpha`, and where it has failed on both sides of a value,
the path does not attempt it again.

## Cross-validation

Five folds, the same for both methods.  Seconds are of the processor, in one job, with
the refit on all data.  Score: minus the mean squared error, and the log-likelihood; the
mean over the folds for the `alpha` chosen.

{cv_rows}
"""


def data(name):
    X, y = DATA[name](return_X_y=True)
    X = StandardScaler().fit_transform(X)
    if name == "diabetes":
        return X, (y - y.mean()) / y.std(), ConvexReLURegressor(random_state=0)
    return X, y, ConvexReLUClassifier(random_state=0)


def path_row(name, n_alphas):
    """A row of the first table."""
    X, y, estimator = data(name)
    start = process_time()
    alphas, models, gaps = convex_relu_path(estimator, X, y, alphas=n_alphas)
    path = process_time() - start
    seconds, excess = [], []
    for k in range(n_alphas - 1, -1, -3):
        single = clone(estimator).set_params(alpha=alphas[k])
        start = process_time()
        single.fit(X, y)
        seconds.append(process_time() - start)
        excess.append(models[k].objective_ / single.objective_ - 1.0)
    relative = gaps / [model.objective_ for model in models]
    singles = np.mean(seconds) * n_alphas
    return (
        f"| {name} | {path:.1f} | {singles:.1f} | {max(seconds):.2f} | "
        f"{path / max(seconds):.1f} | {max(excess):.1e} | {relative.max():.1e} |"
    )


def cv_rows(name, counts):
    """Rows of the second table; both methods for the first number of values."""
    X, y, estimator = data(name)
    if isinstance(estimator, ConvexReLURegressor):
        kind, folds, scoring = ConvexReLURegressorCV, KFold(5), "neg_mean_squared_error"
    else:
        kind, folds, scoring = (
            ConvexReLUClassifierCV,
            StratifiedKFold(5),
            "neg_log_loss",
        )
    for count in counts:
        ours = kind(alphas=count, cv=folds, random_state=0)
        start = process_time()
        ours.fit(X, y)
        seconds = process_time() - start
        best = ours.scores_path_.mean(axis=1).max()
        yield (
            f"| {name} | {kind.__name__} | {count} | {seconds:.1f} | "
            f"{ours.alpha_:.3g} | {best:.4f} |"
        )
    alphas = np.geomspace(ours.alphas_[0], ours.alphas_[-1], counts[0])
    search = GridSearchCV(estimator, {"alpha": alphas}, cv=folds, scoring=scoring)
    start = process_time()
    search.fit(X, y)
    seconds = process_time() - start
    yield (
        f"| {name} | GridSearchCV | {counts[0]} | {seconds:.1f} | "
        f"{search.best_params_['alpha']:.3g} | {search.best_score_:.4f} |"
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one table, few values")
    parser.add_argument("--only", nargs="+", choices=DATA, metavar="DATA")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write a page")
    args = parser.parse_args()
    names = args.only or (["breast cancer"] if args.quick else list(DATA))
    n_alphas, counts = (15, [5]) if args.quick else (50, [10, 50])
    warnings.simplefilter("ignore")
    with threadpool_limits(limits=1):
        print(PATH_HEADER, flush=True)
        paths, searches = [PATH_HEADER], [CV_HEADER]
        for name in names:
            paths.append(path_row(name, n_alphas))
            print(paths[-1], flush=True)
        print(CV_HEADER, flush=True)
        for name in names[:2]:
            for row in cv_rows(name, counts):
                searches.append(row)
                print(row, flush=True)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        page = TEXT.format(
            n_alphas=n_alphas,
            machine=machine(["numpy", "scipy", "scikit-learn"]),
            path_rows="\n".join(paths),
            cv_rows="\n".join(searches),
        )
        Path(args.out, "path_and_cv.md").write_text(page)


if __name__ == "__main__":
    main()
