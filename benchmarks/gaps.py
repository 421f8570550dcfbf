"""How close the bound comes to the network, given minutes.

The problems of `benchmarks/anytime.py` with up to 5000 samples and 200 features, one
fit of each with a `tol` of 1e-3 and one thread.

    python benchmarks/gaps.py --data FOLDER --out doc/benchmarks

``--quick`` takes a small problem and a few seconds.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
from anytime import at, problems, train_ours
from common import machine
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

SAMPLES, FEATURES, CLOSE = 5000, 200, 0.01
TIMES = (3.0, 10.0, 30.0, 100.0)


def row(name, X, run):
    close = 1 + np.flatnonzero(np.append(np.inf, run["gap"]) > CLOSE)[-1]
    gaps = [
        f"{100 * gap:.2g} %" if gap < np.inf else "" for gap in at(run, TIMES, "gap")
    ]
    cells = [
        name,
        *map(str, X.shape),
        f"{run['value'][-1]:.6g}",
        *(gap if t < run["time"][-1] else "" for t, gap in zip(TIMES, gaps)),
        f"{run['time'][-1]:.0f}",
        f"{100 * run['gap'][-1]:.2g} %",
        f"{run['time'][close - 1]:.2g}" if close <= len(run["gap"]) else "",
    ]
    return f"| {' | '.join(cells)} |"


def header():
    columns = ["problem", "samples", "features", "objective"]
    columns += [f"gap after {t:g} s" for t in TIMES]
    columns += ["seconds", "gap in the end", "within 1 % from [s]"]
    return f"| {' | '.join(columns)} |\n|{' --- |' * 4}{' --: |' * (len(columns) - 4)}"


def page(args, lines):
    table = "\n".join([header(), *lines])
    return f"""# How close the bound comes

Fits with a `tol` of 1e-3 and at most {args.limit:g} s.  The gap is that of the network
and the bound at the time, relative to the objective.  Within a fit a bound allows for
what its last long search had not seen; in the end another one follows at the dual point
that is to be told, and what it corrects can be more.  Then the gap rises.

A fit ends early when `tol` is met, or when most of the gap that is left is what a long
search may not have seen: no round can close that.

{table}

{machine(["numpy", "scipy", "scikit-learn"])}
Made by `benchmarks/gaps.py`.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small problem")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="UCI tables")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="these problems")
    parser.add_argument("--limit", type=float, help="seconds of a run (300; quick: 3)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write")
    args = parser.parse_args()
    args.limit = args.limit or (3.0 if args.quick else 300.0)
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(header(), flush=True)
    lines = []
    with threadpool_limits(limits=1):
        for name, (X, *rest) in problems(args):
            if args.only and name not in args.only:
                continue
            if len(X) <= SAMPLES and X.shape[1] <= FEATURES:
                lines.append(row(name, X, train_ours(X, *rest, 0, args.limit)))
                print(lines[-1], flush=True)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        Path(args.out, "gaps.md").write_text(page(args, lines))


if __name__ == "__main__":
    main()
