"""Time and memory against the numbers of samples, features and patterns.

Two trainings on noisy outputs of a planted network:

* the network of any width (``arrangements="adaptive"``), next to scikit-learn's
  ``MLPRegressor`` and, where torch is installed, a plain loop of Adam.  All minimise
  the same objective, and the objective of each is computed from its weights;
* the gated network of given patterns, next to adelie and pyscnn on the same patterns.
  They are called in environments of their own: ``--adelie PYTHON --pyscnn PYTHON``.

Every training runs in a process of its own, whose peak memory the system tells.  That
of a process which only makes the data is taken off.

    python benchmarks/scale.py --output doc/benchmarks/scale.md

``--quick`` takes small sizes only, in less than a minute.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path
from time import process_time

import numpy as np
from common import machine
from sklearn.exceptions import ConvergenceWarning

_TOL = 0.02
_LIMIT = 60.0  # seconds that a training of ours may take


def planted(n, d, seed=0):
    """Standardised data, and outputs of twenty random neurons with noise."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    W, a = rng.standard_normal((d, 20)), rng.standard_normal(20)
    y = np.maximum(X @ W / np.sqrt(d), 0.0) @ a
    y += 0.1 * np.std(y) * rng.standard_normal(n)
    return X, (y - y.mean()) / y.std()


def gates_of(d, n_patterns):
    return np.random.default_rng(1).standard_normal((n_patterns, d))


def objective(X, y, alpha, coefs, intercepts):
    hidden = np.maximum(X @ coefs[0] + intercepts[0], 0.0)
    residual = (hidden @ coefs[1] + intercepts[1]).ravel() - y
    decay = sum(np.sum(np.square(weights)) for weights in coefs)
    return float(0.5 * residual @ residual + 0.5 * alpha * decay)


# Trainings, each in its own process: they return a dict.


def train_nothing(X, y, alpha, n_patterns):
    return {}


def train_adaptive(X, y, alpha, n_patterns):
    from sklearn_convexnn import ConvexReLURegressor

    model = ConvexReLURegressor(
        alpha=alpha, tol=_TOL, max_time=_LIMIT, random_state=0
    ).fit(X, y)
    return {
        "objective": objective(X, y, alpha, model.coefs_, model.intercepts_),
        "gap": model.dual_gap_ / model.objective_,
        "neurons": model.n_neurons_,
    }


def train_mlp(X, y, alpha, n_patterns):
    from sklearn.neural_network import MLPRegressor

    batch = min(200, len(X))
    model = MLPRegressor(
        hidden_layer_sizes=(100,),
        alpha=alpha * batch / len(X),
        batch_size=batch,
        random_state=0,
    ).fit(X, y)
    value = objective(X, y, alpha, model.coefs_, model.intercepts_)
    return {"objective": value, "neurons": 100}


def train_torch(X, y, alpha, n_patterns):
    import torch

    torch.manual_seed(0)
    X_, y_ = (torch.as_tensor(part, dtype=torch.float32) for part in (X, y))
    net = torch.nn.Sequential(
        torch.nn.Linear(X.shape[1], 100), torch.nn.ReLU(), torch.nn.Linear(100, 1)
    )
    epochs, batch = 100, 256
    adam = torch.optim.Adam(net.parameters(), lr=3e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(adam, epochs)
    for _ in range(epochs):
        for rows in torch.randperm(len(X)).split(batch):
            adam.zero_grad()
            loss = 0.5 * torch.mean((net(X_[rows])[:, 0] - y_[rows]) ** 2)
            decay = net[0].weight.square().sum() + net[2].weight.square().sum()
            (loss + 0.5 * alpha / len(X) * decay).backward()
            adam.step()
        rate.step()
    weights = [part.detach().numpy().astype(float) for part in net.parameters()]
    coefs, intercepts = [weights[0].T, weights[2].T], [weights[1], weights[3]]
    value = objective(X, y, alpha, coefs, intercepts)
    return {"objective": value, "neurons": 100}


def gated_value(X, y, alpha, gates, blocks):
    residual = np.sum((X @ gates.T > 0) * (X @ blocks.T), axis=1) - y
    norms = np.linalg.norm(blocks, axis=1)
    return float(0.5 * residual @ residual + alpha * np.sum(norms))


def train_gated(X, y, alpha, n_patterns):
    from sklearn_convexnn import GatedReLURegressor

    model = GatedReLURegressor(
        alpha=alpha,
        n_arrangements=n_patterns,
        fit_intercept=False,
        tol=1e-4,
        max_iter=1000,
        max_time=_LIMIT,
        random_state=0,
    ).fit(X, y)
    return {
        "objective": model.objective_,
        "gap": model.dual_gap_ / model.objective_,
        "neurons": model.n_neurons_,
    }


TRAININGS = {
    "nothing": train_nothing,
    "adaptive (ours)": train_adaptive,
    "MLPRegressor, adam": train_mlp,
    "torch, adam": train_torch,
    "gated (ours)": train_gated,
}


def worker(name, n, d, alpha, n_patterns):
    X, y = planted(n, d)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        start = process_time()
        result = TRAININGS[name](X, y, alpha, n_patterns)
    print(json.dumps({**result, "seconds": process_time() - start}))


def run(command):
    """Standard output of a process and its peak memory in MB; None if it failed."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    return (None if status else output), usage.ru_maxrss / 1024.0


def measure(name, n, d, alpha, n_patterns=0):
    """A row of the table, without the memory that the data take."""
    command = [sys.executable, __file__, "--worker", name, n, d, alpha, n_patterns]
    output, memory = run([str(part) for part in command])
    if output is None:
        return None
    return {"method": name, "memory": memory, **json.loads(output.splitlines()[-1])}


def measure_peer(python, peer, n, d, alpha, n_patterns):
    """The same of a peer on the patterns that our estimator draws."""
    from sklearn_convexnn.patterns.arrangements import sample_arrangement

    X, y = planted(n, d)
    seed = np.random.RandomState(0).randint(np.iinfo(np.int32).max)
    gates = sample_arrangement(X, n_patterns, free_bias=False, random_state=seed).gates
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "problem.npz"
        np.savez(file, X=X, y=y, alpha=alpha, gates=gates)
        path = Path(__file__).with_name("gated_peers.py")
        output, memory = run([python, str(path), peer, str(file), "0"])
        if output is None:
            return None
        with np.load(file) as found:
            blocks, seconds = found["blocks"], float(np.median(found["seconds"]))
    return {
        "method": peer,
        "memory": memory,
        "seconds": seconds,
        "objective": gated_value(X, y, alpha, gates, blocks),
        "neurons": int(np.sum(np.any(blocks != 0, axis=1))),
    }


def table(rows, size):
    """Lines of Markdown; the first method of each size is the unit."""
    yield f"| {size} | method | objective | gap | seconds | MB | neurons |"
    yield "| --: | :-- | --: | --: | --: | --: | --: |"
    for key, row in rows:
        gap = f"{row['gap']:.0e}" if "gap" in row else ""
        yield (
            f"| {key} | {row['method']} | {row['objective']:.6g} | {gap} | "
            f"{row['seconds']:.3g} | {row['memory']:.0f} | {row['neurons']} |"
        )


def sweep(sizes, methods, peers=()):
    """Rows of a table, for `sizes` of pairs (label, (n, d, alpha, n_patterns))."""
    rows = []
    for label, size in sizes:
        base = measure("nothing", *size)["memory"]
        found = [measure(method, *size) for method in methods]
        found += [measure_peer(python, peer, *size) for peer, python in peers]
        for row in found:
            if row is not None:
                # Peers read the data from a file instead of making them.
                row["memory"] = max(row["memory"] - base, 0.0)
                rows.append((label, row))
                print(label, row, file=sys.stderr, flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--adelie", help="Python that has adelie")
    parser.add_argument("--pyscnn", help="Python that has pyscnn")
    parser.add_argument("--output", type=Path, help="Markdown page to write")
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        name, n, d, alpha, n_patterns = args.worker
        worker(name, int(n), int(d), float(alpha), int(n_patterns))
        return
    peers = [("adelie", args.adelie), ("pyscnn", args.pyscnn)]
    peers = [(peer, python) for peer, python in peers if python]
    n_sizes, d_sizes, patterns = (
        ((1000,), (10,), (10, 30))
        if args.quick
        else (
            (1000, 3000, 10_000, 30_000, 100_000),
            (10, 30, 100, 300, 1000, 3000),
            (10, 30, 100, 300, 1000),
        )
    )
    methods = ["adaptive (ours)", "MLPRegressor, adam"]
    # Not imported here: a process begins with the peak memory of the one it is from.
    if find_spec("torch") is None:
        print("torch is not installed: no plain trainer", file=sys.stderr)
    else:
        methods.append("torch, adam")
    fixed = 1000 if args.quick else 5000
    parts = [
        (
            "Samples: 20 features, `alpha` a hundredth of the samples",
            "samples",
            sweep([(n, (n, 20, 0.01 * n, 0)) for n in n_sizes], methods),
        ),
        (
            f"Features: {fixed} samples, `alpha` a hundredth of the samples",
            "features",
            sweep([(d, (fixed, d, 0.01 * fixed, 0)) for d in d_sizes], methods),
        ),
        (
            "Samples, gated: 50 features, 100 patterns",
            "samples",
            sweep(
                [(n, (n, 50, 0.003 * n, 100)) for n in n_sizes],
                ["gated (ours)"],
                peers,
            ),
        ),
        (
            f"Patterns, gated: {fixed} samples, 50 features",
            "patterns",
            sweep(
                [(P, (fixed, 50, 0.003 * fixed, P)) for P in patterns],
                ["gated (ours)"],
                peers,
            ),
        ),
    ]
    lines = []
    for title, size, rows in parts:
        lines += [f"## {title}", "", *table(rows, size), ""]
    lines += [machine(["numpy", "scipy", "scikit-learn"])]
    print("\n".join(lines))
    if args.output is not None:
        args.output.write_text("\n".join(["# Scale", "", _ABOUT, "", *lines]) + "\n")


_ABOUT = """\
Time and peak memory against the numbers of samples, features and patterns, made by
`benchmarks/scale.py`.  The memory of a process that only makes the data is taken off.
"Adaptive" stops at a gap of 2 %, estimated; "gated" at a gap of 1e-4.  The others stop
as they do by default; torch trains for 100 epochs.  Seconds are those of the processor,
on one thread (of the clock for adelie and pyscnn); our fits may take 60 of the
clock."""


if __name__ == "__main__":
    main()
