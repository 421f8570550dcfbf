"""What the benchmarks share: tables from a folder, medians, the machine."""

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np


def how_to_get_data(tables):
    """Message for a run without ``--data``; `tables` are pairs (name, OpenML's id)."""
    return f"""\
UCI tables skipped: no --data FOLDER.  It has one CSV (or .csv.gz) file per table, with
a header and the target last, at any depth.  To make one with scikit-learn:

    from sklearn.datasets import fetch_openml
    for name, data_id in {tables}:
        X, y = fetch_openml(data_id=data_id, return_X_y=True, as_frame=True)
        X.assign(target=y).to_csv(f"FOLDER/{{name}}.csv", index=False)
"""


def read_table(folder, name):
    """Inputs and target of a table, or None if the folder does not have it."""
    import pandas as pd

    for path in sorted(Path(folder).rglob(f"{name}.csv*")):
        table = pd.read_csv(path)
        return table.iloc[:, :-1].to_numpy(float), table.iloc[:, -1].to_numpy()
    print(f"{name}: no {name}.csv in {folder}, skipped", file=sys.stderr)
    return None


def middle(values):
    """Median, with those that are missing as the largest."""
    value = median(np.nan_to_num(list(values), nan=np.inf))
    return value if np.isfinite(value) else np.nan


def machine(packages, others=()):
    """Versions and hardware, for the foot of a report."""
    versions = [f"{name} {version(name)}" for name in packages]
    return (
        f"Python {platform.python_version()}, {', '.join([*versions, *others])};\n"
        f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}."
    )
