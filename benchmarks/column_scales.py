"""Training on columns of very different scales, next to the same columns standardised.

The problems are not the same, since the weight decay acts on the weights of the
columns that are given; their cost should be.  For each table the first line is for the
data as they are and the second for the standardised ones: seconds of the processor,
objective, relative duality gap, neurons and rounds.

    python benchmarks/column_scales.py --data FOLDER

``--quick`` takes the small tables only.
"""

import argparse
import os
import warnings

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from time import process_time

import numpy as np
from common import how_to_get_data, machine, read_table
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

from sklearn_convexnn import (
    ConvexReLUClassifier,
    ConvexReLURegressor,
    ParallelReLURegressor,
)

_LIMIT = 40.0  # seconds that a training may take
_REGRESSION = {
    "boston-housing": 531,
    "concrete": 4353,
    "energy-heating": 1472,
    "wine-quality-red": 40691,
    "power-plant": 42363,
}
_CLASSIFICATION = {
    "parkinsons": 1488,
    "ecoli": 39,
    "pima": 37,
    "spambase": 44,
    "magic": 1120,
}


def two_columns(n):
    """A column around forty and an incidental one of tens of thousands."""
    rng = np.random.default_rng(0)
    X = np.c_[rng.normal(40, 10, n), rng.lognormal(10, 1, n)]
    return X, abs(X[:, 0] - 40)


def powers(n, kind):
    """Seven columns scaled by 10^-3 to 10^3, outputs of neurons of all of them."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, 7))
    f = np.maximum(X @ rng.standard_normal((7, 5)), 0.0) @ rng.choice([-1, 1], 5)
    y = (f - f.mean()) / f.std() + 0.1 * rng.standard_normal(n)
    if kind == "two classes":
        y = (y > 0).astype(int)
    elif kind == "three classes":
        y = np.digitize(y, np.quantile(y, [1 / 3, 2 / 3]))
    elif kind == "two outputs":
        y = np.c_[y, y * X[:, 0]]
    return X * 10.0 ** np.arange(-3, 4), y


def problems(quick, folder):
    """Names, data and estimators."""
    regressor = ConvexReLURegressor(alpha=1.0, random_state=0, max_time=_LIMIT)
    classifier = ConvexReLUClassifier(alpha=1.0, random_state=0, max_time=_LIMIT)
    for n in (200,) if quick else (200, 400, 1000):
        yield f"two columns, {n}", *two_columns(n), regressor
    for n in (200,) if quick else (200, 1000):
        yield f"powers of ten, {n}", *powers(n, ""), regressor
        two = powers(n, "two classes")
        yield f"log loss, {n}", *two, classifier
        hinge = ConvexReLUClassifier(
            alpha=1.0, loss="hinge", random_state=0, max_time=_LIMIT
        )
        yield f"hinge, {n}", *two, hinge
        yield f"softmax, {n}", *powers(n, "three classes"), classifier
        yield f"two outputs, {n}", *powers(n, "two outputs"), regressor
    leaky = ConvexReLURegressor(
        alpha=1.0, negative_slope=0.1, random_state=0, max_time=_LIMIT
    )
    yield "leaky, 200", *powers(200, ""), leaky
    free = ConvexReLURegressor(
        alpha=1.0, fit_intercept=False, random_state=0, max_time=_LIMIT
    )
    yield "no intercept, 200", *powers(200, ""), free
    deep = ParallelReLURegressor(alpha=1.0, random_state=0, max_time=_LIMIT)
    yield "three layers, 200", *powers(200, ""), deep
    X, y = load_diabetes(return_X_y=True, scaled=False)
    yield "diabetes", X, (y - y.mean()) / y.std(), regressor
    yield "breast cancer", *load_breast_cancer(return_X_y=True), classifier
    yield "wine", *load_wine(return_X_y=True), classifier
    if folder is None:
        print(how_to_get_data([*_REGRESSION.items(), *_CLASSIFICATION.items()]))
        return
    names = [(name, regressor) for name in _REGRESSION]
    names += [(name, classifier) for name in _CLASSIFICATION]
    for name, estimator in names:
        table = read_table(folder, name)
        if table is None or (quick and len(table[1]) > 700):
            continue
        X, y = table
        if estimator is regressor:
            y = (y - y.mean()) / y.std()
        yield name, X, y, estimator


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", help="folder with UCI tables")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", help="a part of the names of tables")
    args = parser.parse_args()
    print("| table | columns | seconds | objective | gap | neurons | rounds | ends |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, X, y, estimator in problems(args.quick, args.data):
        if args.only not in name:
            continue
        X = X[:, np.ptp(X, axis=0) > 0]
        ready = (X - X.mean(axis=0)) / X.std(axis=0)
        for columns, data in (("given", X), ("standardised", ready)):
            start = process_time()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fitted = estimator.fit(data, y)
            seconds = process_time() - start
            gap = fitted.dual_gap_ / max(fitted.objective_, 1e-300)
            print(
                f"| {name} | {columns} | {seconds:.1f} | {fitted.objective_:.5g} | "
                f"{gap:.1e} | {fitted.n_neurons_} | {fitted.n_iter_} | "
                f"{fitted.certificate_} |",
                flush=True,
            )
    print()
    print(machine(["scikit-learn", "numpy", "scipy"]))


if __name__ == "__main__":
    main()
