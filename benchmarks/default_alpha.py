"""The default weight decay: which fraction of the largest useful one, at what cost.

``alpha="scale"`` is a fraction of the smallest alpha at which the best network is a
constant.  On each table this script prints the score of five-fold cross-validation
(shuffled, R2 or accuracy) behind a ``StandardScaler``, and the seconds of processor
time of one fit, for several fractions, for the alpha that `ConvexReLURegressorCV` or
`ConvexReLUClassifierCV` chooses, and for scikit-learn's MLP with its defaults.

``python benchmarks/default_alpha.py --quick`` takes half a minute.  ``--data FOLDER``
adds UCI tables, ``--no-cv`` leaves out the estimators that cross-validate.
"""

import argparse
import sys
import warnings
from time import process_time

import numpy as np
from common import how_to_get_data, machine, read_table
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_iris,
    load_wine,
)
from sklearn.model_selection import KFold, StratifiedKFold, cross_validate
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from sklearn_convexnn import (
    ConvexReLUClassifier,
    ConvexReLUClassifierCV,
    ConvexReLURegressor,
    ConvexReLURegressorCV,
    _base,
)

FRACTIONS = (0.1, 0.05, 0.02, 0.01, 0.005)
BUNDLED = {
    "diabetes": load_diabetes,
    "iris": load_iris,
    "wine": load_wine,
    "breast cancer": load_breast_cancer,
    "digits": load_digits,
}
UCI = {  # file in the folder: data_id for sklearn.datasets.fetch_openml
    "concrete": 4353,
    "energy-heating": 1472,
    "boston-housing": 531,
    "pima": 37,
    "ionosphere": 59,
    "parkinsons": 1488,
    "ecoli": 39,
}


def tables(folder, only):
    for name, load in BUNDLED.items():
        if only is None or name in only:
            yield name, *load(return_X_y=True)
    if folder is None:
        print(how_to_get_data(list(UCI.items())), file=sys.stderr)
        return
    for name in UCI:
        table = None
        if only is None or name in only:
            table = read_table(folder, name)
        if table is not None:
            yield name, *table


def score_and_time(model, X, y, classes):
    """Mean score over the folds, and processor time of a fit."""
    folds = StratifiedKFold if classes else KFold
    splitter = folds(5, shuffle=True, random_state=0)
    start = process_time()
    result = cross_validate(
        make_pipeline(StandardScaler(), model), X, y, cv=splitter, error_score="raise"
    )
    # Scores take next to nothing.
    return np.mean(result["test_score"]), (process_time() - start) / 5


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder with UCI tables as CSV files")
    parser.add_argument("--quick", action="store_true", help="two tables only")
    parser.add_argument("--only", nargs="+", help="names of tables")
    parser.add_argument("--no-cv", action="store_true", help="no CV estimators")
    options = parser.parse_args()
    fractions = (_base.FRACTION,) if options.quick else FRACTIONS
    columns = [f"{fraction:g}" for fraction in fractions]
    if not (options.quick or options.no_cv):
        columns.append("CV")
    print("| table | " + " | ".join([*columns, "MLP"]) + " |")
    print("| --- " * (len(columns) + 2) + "|")
    warnings.simplefilter("ignore")
    only = ["diabetes", "iris"] if options.quick else options.only
    for name, X, y in tables(options.data, only):
        classes = len(np.unique(y)) < 30
        kinds = ConvexReLURegressor, ConvexReLURegressorCV, MLPRegressor
        if classes:
            kinds = ConvexReLUClassifier, ConvexReLUClassifierCV, MLPClassifier
        cells = []
        with threadpool_limits(1):
            for fraction in fractions:
                _base.FRACTION = fraction
                model = kinds[0](random_state=0)
                cells.append(score_and_time(model, X, y, classes))
            if "CV" in columns:
                cells.append(score_and_time(kinds[1](random_state=0), X, y, classes))
            cells.append(score_and_time(kinds[2](random_state=0), X, y, classes))
        text = " | ".join(f"{score:.3f}, {seconds:.2f} s" for score, seconds in cells)
        print(f"| {name}, {X.shape[0]} x {X.shape[1]} | {text} |", flush=True)
    print(machine(["numpy", "scipy", "scikit-learn"]))


if __name__ == "__main__":
    main()
