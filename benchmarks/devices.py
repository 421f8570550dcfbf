"""Fashion-MNIST on the device of another array library, next to the CPU.

All 60,000 training images, 784 pixels, ten classes.  All methods minimise the softmax
log loss plus `alpha` / 2 times the sum of the squares of all weights, and get the same
time:

* `ConvexReLUClassifier` on arrays of NumPy;
* the same on tensors of torch, on the device of ``--device``;
* there, too, a plain loop of Adam with a rate that falls along a cosine until the time
  is over: 400 neurons, batches of 256.

The objectives are computed from the weights, in double precision.

    python benchmarks/devices.py --data FOLDER --device cuda

``--data`` is the folder of the four files in which Fashion-MNIST is distributed,
``train-images-idx3-ubyte.gz`` and so on; OpenML has the same as data_id 40996.  Torch
is not among the extras of the package.  ``--quick`` takes the digits of scikit-learn
and a few seconds.
"""

import argparse
import gzip
import os
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

os.environ["SCIPY_ARRAY_API"] = "1"  # before SciPy is imported

import numpy as np
import sklearn
from common import machine
from scipy.special import logsumexp
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

from sklearn_convexnn import ConvexReLUClassifier

_WIDTH, _BATCH, _RATE = 400, 256, 3e-3


def images(folder):
    """Training images and labels, test images and labels, the mean image taken off."""
    if folder is None:
        X, y = load_digits(return_X_y=True)
        X, X_test, y, y_test = train_test_split(X / 16.0, y, random_state=0)
    else:
        X, y = read(folder, "train")
        X_test, y_test = read(folder, "t10k")
    mean = X.mean(axis=0)
    return (X - mean).astype(np.float32), y, (X_test - mean).astype(np.float32), y_test


def read(folder, part):
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        X = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 784) / 255.0
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        return X, np.frombuffer(file.read(), np.uint8, offset=8).astype(int)


def outputs(X, coefs, intercepts):
    hidden = np.maximum(X @ coefs[0] + intercepts[0], 0.0)
    return hidden @ coefs[1] + intercepts[1]


def report(data, alpha, coefs, intercepts):
    """Objective of the weights in double precision, and test accuracy."""
    X, y, X_test, y_test = data
    F = outputs(X.astype(float), coefs, intercepts)
    loss = np.sum(logsumexp(F, axis=1) - F[np.arange(len(y)), y])
    decay = 0.5 * alpha * sum(np.sum(np.square(coef)) for coef in coefs)
    guess = np.argmax(outputs(X_test, coefs, intercepts), axis=1)
    return {
        "objective": float(loss + decay),
        "accuracy": float(np.mean(guess == y_test)),
        "neurons": coefs[0].shape[1],
    }


def train_ours(data, alpha, limit, device):
    """Our fit: of NumPy if the device is None."""
    X, y = data[:2]
    model = ConvexReLUClassifier(
        alpha=alpha, n_arrangements=_WIDTH, tol=0.01, max_time=limit, random_state=0
    )
    if device is None:
        start = perf_counter()
        model.fit(X, y)
    else:
        import torch

        X, y = torch.asarray(X, device=device), torch.asarray(y, device=device)
        with sklearn.config_context(array_api_dispatch=True):
            start = perf_counter()
            model.fit(X, y)
    seconds = perf_counter() - start
    coefs, intercepts = (
        [np.asarray(part if device is None else part.cpu(), float) for part in parts]
        for parts in (model.coefs_, model.intercepts_)
    )
    found = report(data, alpha, coefs, intercepts)
    return {**found, "bound": model.dual_bound_, "seconds": seconds}


def train_adam(data, alpha, limit, device):
    """A plain loop of torch, which ends in time."""
    import torch

    torch.manual_seed(0)
    X, y = (torch.asarray(part, device=device) for part in data[:2])
    n, d = X.shape
    start = perf_counter()
    net = torch.nn.Sequential(
        torch.nn.Linear(d, _WIDTH),
        torch.nn.ReLU(),
        torch.nn.Linear(_WIDTH, int(data[1].max()) + 1),
    ).to(device)
    adam = torch.optim.Adam(net.parameters(), lr=_RATE)
    passed = 0.0
    while passed < 1.0:
        for rows in torch.randperm(n, device=device).split(_BATCH):
            passed = (perf_counter() - start) / limit
            if passed >= 1.0:
                break
            adam.param_groups[0]["lr"] = _RATE * 0.5 * (1.0 + np.cos(np.pi * passed))
            adam.zero_grad()
            loss = torch.nn.functional.cross_entropy(net(X[rows]), y[rows])
            decay = net[0].weight.square().sum() + net[2].weight.square().sum()
            (loss + 0.5 * alpha / n * decay).backward()
            adam.step()
    parts = [part.detach().cpu().numpy().astype(float) for part in net.parameters()]
    seconds = perf_counter() - start
    coefs, intercepts = [parts[0].T, parts[2].T], [parts[1], parts[3]]
    return {**report(data, alpha, coefs, intercepts), "seconds": seconds}


HEADER = """\
| method | asked | seconds | neurons | objective | dual bound | gap | test accuracy |
| :-- | --: | --: | --: | --: | --: | --: | --: |"""


def row(method, limit, found):
    bound, gap = found.get("bound"), ""
    if bound is not None:
        gap = f"{100 * (1 - bound / found['objective']):.1f} %"
    cells = [
        method,
        f"{limit:g}",
        f"{found['seconds']:.1f}",
        str(found["neurons"]),
        f"{found['objective']:.1f}",
        "" if bound is None else f"{bound:.1f}",
        gap,
        f"{100 * found['accuracy']:.2f} %",
    ]
    return f"| {' | '.join(cells)} |"


def about(args):
    return f"""# On the device of another library

All 60,000 training images of Fashion-MNIST, ten classes, softmax log loss,
`alpha={args.alpha:g}`, {_WIDTH} neurons to place; 10,000 images to test.  "NumPy" is
`ConvexReLUClassifier` on NumPy's arrays, on {args.threads} thread(s) of the processor;
"torch, {args.device}" the same on tensors of that device, with scikit-learn's array API
dispatch; "Adam" a plain loop of torch there, with a rate that falls along a cosine
until the time is over.  Bounds are estimated.  Made by `benchmarks/devices.py`.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="Fashion-MNIST")
    parser.add_argument("--device", default="cpu", help="of torch: cuda, mps, cpu")
    parser.add_argument("--alpha", type=float, default=15.0)
    parser.add_argument("--limits", type=float, nargs="+", default=[10.0, 30.0, 90.0])
    parser.add_argument("--threads", type=int, default=1, help="of the processor")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="these methods")
    parser.add_argument("--output", type=Path, help="Markdown page to write")
    args = parser.parse_args()
    if args.data is None and not args.quick:
        parser.error("--data FOLDER is needed, or --quick")
    if args.quick:
        args.data, args.alpha, args.limits = None, 1.0, [2.0]
    methods = {"NumPy": (train_ours, None)}
    if find_spec("torch") is None:
        print("torch is not installed: NumPy only", file=sys.stderr)
    else:
        methods[f"torch, {args.device}"] = train_ours, args.device
        methods[f"Adam, {args.device}"] = train_adam, args.device
    data, lines = images(args.data), []
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(HEADER, flush=True)
    with threadpool_limits(limits=args.threads):
        for name, (train, device) in methods.items():
            if args.only and name.split(",")[0] not in args.only:
                continue
            train(tuple(part[:500] for part in data), args.alpha, 2.0, device)  # warm
            for limit in args.limits:
                lines.append(row(name, limit, train(data, args.alpha, limit, device)))
                print(lines[-1], flush=True)
    if args.output is not None:
        text = [about(args), HEADER, *lines, "", machine(["numpy", "scikit-learn"])]
        args.output.write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
