"""Convolutional networks: convex training against plain training, and accuracies.

The first table compares objectives: `ConvexCNN*`, L-BFGS and Adam train networks with
as many filters, for the same time.  One function of this file computes all objectives
from the weights.  The second table, with ``--data FOLDER``, has test accuracies.

With ``--quick`` it takes less than a minute, with ``--out FOLDER`` a page is written.
"""

import argparse
import warnings
from contextlib import suppress
from itertools import chain
from pathlib import Path
from time import process_time

import numpy as np
from common import machine, read_table
from numpy.lib.stride_tricks import sliding_window_view
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import RidgeClassifierCV
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from sklearn_convexnn import ConvexCNNClassifier, ConvexCNNRegressor

# Products of filters with patches that are computed at once: they stay in the cache.
CHUNK = 400_000
# Of Adam: samples of a batch, learning rate, and looks at the whole objective.
BATCH, RATE, LOOKS = 32, 3e-3, 20
COLUMNS = """\
data | pooling | alpha | objective | bound | gap | seconds | filters | best L-BFGS | \
starts | best Adam | ours / best - 1"""
SCORES = "data | method | test accuracy | in validation | chosen | seconds"
TEXT = """\
# Convolutional networks

Filters, ReLU, pooling and a dense layer (`ConvexCNNClassifier`, `ConvexCNNRegressor`).
Seconds are of the processor, numerical libraries use one thread.

{machine}
Made by `benchmarks/convolution.py`.

## Objectives

The sum of the losses plus `alpha` / 2 times the sum of the squares of filters and dense
weights; biases are free.  Images of 8x8, filters of 3x3.  Digits: softmax loss of ten
classes.  3 or 8: half of the squared errors of targets -1 and 1.  Pooling: its kind and
the size of the windows; 6x6 is the whole map.

Ours has `max_time` {limit:g} and the default `tol`; bound and relative gap are
estimated.  The others get the seconds that our fit took, and as many filters as it
ended with.  L-BFGS has all samples and 20 corrections, from random starts one after the
other; the last one may be cut short.  Adam has batches of {batch} and the learning rate
{rate:g}, which goes down to zero in the second half of the time.  Both have products in
single precision.  One function computes all objectives in double precision.

{objectives}

## Accuracies

{accuracies}
"""
SPLITS = """\
One stratified split of each table, with a quarter of the 1797 digits for the test, and
half of the 600 series of synthetic-control (60 numbers, six classes): 0.01 is 4.5 and 3
samples.  Three folds of the training part choose `alpha` of the networks and `C` of the
SVC; "in validation" is their mean accuracy.  Seconds: of the search, with at most
{limit:g} for each of our fits.

Filters of 3x3 and windows of 2x2 on the digits, of 9 and 13 on series; other parameters
have their defaults (`max_iter` of the MLP 1000).  Random kernels, as in ROCKET but 3x3
on the digits: largest outputs and shares of positive ones, and `RidgeClassifierCV`.

{rows}"""


class Network:
    """A convolutional network on images, its objective and the gradient, in NumPy.

    Weights are one vector: filters, then dense weights, biases as their last rows.
    """

    def __init__(self, X, Y, pooling, size, alpha, width, dtype):
        views = sliding_window_view(X.reshape(-1, 8, 8), (3, 3), axis=(1, 2))
        n, k = len(X), 6 // size
        parts = views.reshape(n, k, size, k, size, 9).transpose(0, 2, 4, 1, 3, 5)
        # Samples, places in a window, windows, numbers of a patch and one.
        self.patches = np.ones((n, size**2, k**2, 10), dtype)
        self.patches[..., :9] = parts.reshape(n, size**2, k**2, 9)
        self.Y, self.largest, self.alpha, self.dtype = Y, pooling == "max", alpha, dtype
        self.shapes = (10, width), (k**2 * width + 1, Y.shape[1])

    def split(self, x):
        first = 10 * self.shapes[0][1]
        return x[:first].reshape(self.shapes[0]), x[first:].reshape(self.shapes[1])

    def start(self, rng):
        """Uniform weights and biases, of the sizes that PyTorch begins with."""
        parts = [rng.uniform(-1, 1, s) / np.sqrt(s[0] - 1) for s in self.shapes]
        return np.concatenate([part.ravel() for part in parts])

    def loss(self, x, rows, slopes=True):
        """Loss of some samples, and its gradient."""
        U, V = (part.astype(self.dtype) for part in self.split(x))
        patches, Y = self.patches[rows], self.Y[rows]
        flat = patches.reshape(-1, 10)
        z = (flat @ U).reshape(*patches.shape[:3], -1)
        if self.largest:
            top = z.max(axis=1)
            maps = np.maximum(top, 0)
        else:
            active = z > 0
            z *= active
            maps = z.mean(axis=1)
        H = maps.reshape(len(Y), -1)
        F = (H @ V[:-1]).astype(float) + self.split(x)[1][-1]
        if Y.shape[1] == 1:
            value, N = 0.5 * np.sum((F - Y) ** 2), F - Y
        else:
            value, N = np.sum(logsumexp(F, axis=1)) - np.sum(F * Y), softmax(F, 1) - Y
        if not slopes:
            return value, 0.0
        short = N.astype(self.dtype)
        back = (short @ V[:-1].T).reshape(maps.shape)
        if self.largest:
            # Equal patches share the derivative.
            active = z == top[:, None]
            back *= top > 0
            back /= active.sum(axis=1, dtype=self.dtype)
        else:
            back /= z.shape[1]
        np.multiply(active, back[:, None], out=z)
        to_U = flat.T @ z.reshape(len(flat), -1)
        parts = to_U.ravel(), (H.T @ short).ravel(), N.sum(axis=0)
        return value, np.concatenate(parts, dtype=float)

    def decay(self, x):
        """Half of `alpha` times the squares, and the gradient; biases are free."""
        slope = self.alpha * x
        for part in self.split(slope):
            part[-1] = 0.0
        return 0.5 * float(slope @ slope) / self.alpha, slope

    def objective(self, x, slopes=False):
        """The objective, and its gradient if `slopes` are wanted."""
        value, gradient = self.decay(x)
        step = CHUNK // (self.shapes[0][1] * self.patches[0, ..., 0].size + 1) + 1
        for i in range(0, len(self.Y), step):
            more, slope = self.loss(x, slice(i, i + step), slopes)
            value, gradient = value + more, gradient + slope
        return (value, gradient) if slopes else value


def lbfgs(network, seconds, rng):
    """The best weights of L-BFGS from random starts, and how many there were."""
    begin, best, starts = process_time(), [np.inf, None], 0

    def value_and_gradient(x):
        value, gradient = network.objective(x, slopes=True)
        if value < best[0]:
            best[:] = value, x.copy()
        if process_time() - begin > seconds:
            raise TimeoutError
        return value, gradient

    options = {"maxcor": 20, "maxiter": 10**6, "maxfun": 10**6, "ftol": 1e-8, "gtol": 0}
    how = {"jac": True, "method": "L-BFGS-B", "options": options}
    with suppress(TimeoutError):
        while True:
            starts += 1
            minimize(value_and_gradient, network.start(rng), **how)
    return best[1], starts


def adam(network, seconds, rng):
    """The best weights of Adam."""
    begin, share, look, t, n = process_time(), 0.0, 0.0, 0, len(network.Y)
    x, best, mean, square = network.start(rng), [np.inf, None], 0.0, 0.0
    while share < 1:
        for rows in np.array_split(rng.permutation(n), -(-n // BATCH)):
            share = min((process_time() - begin) / seconds, 1.0)
            slope = network.loss(x, rows)[1] * (n / len(rows)) + network.decay(x)[1]
            t += 1
            mean += 0.1 * (slope - mean)
            square += 0.001 * (slope * slope - square)
            root = np.sqrt(square / (1 - 0.999**t)) + 1e-8
            x -= RATE * min(1.0, 2.0 * (1.0 - share)) / (1 - 0.9**t) * mean / root
            if share == 1:
                break
        if share >= look:
            look = min(share + 1 / LOOKS, 1.0)
            best = min(best, [network.objective(x), x.copy()], key=lambda pair: pair[0])
    return best[1]


def digits(n):
    X, y = load_digits(return_X_y=True)
    X, _, y, _ = train_test_split(X / 16, y, train_size=n, random_state=0, stratify=y)
    return f"digits, {n}", X, np.eye(10)[y]


def three_or_eight(n):
    X, y = load_digits(return_X_y=True)
    rows = np.flatnonzero((y == 3) | (y == 8))
    rows = np.random.RandomState(0).permutation(rows)[:n]
    return f"3 or 8, {n}", X[rows] / 16, np.where(y[rows] == 3, -1.0, 1.0)[:, None]


def problems(quick):
    """Names, inputs and targets, pooling with the size of its windows, and `alpha`."""
    cases = ("average", 2, 1), ("max", 2, 1), (None, 1, 1), ("average", 6, 0.3)
    for case in cases[:1] if quick else cases:
        yield *digits(100 if quick else 600), *case
    cases = ("max", 6, 1), ("max", 6, 0.3), ("average", 6, 0.03)
    for case in cases[:1] if quick else cases:
        yield *three_or_eight(100 if quick else 200), *case


def convex(X, Y, pooling, size, alpha, limit):
    """Our fit, its weights as those of `Network`, and its seconds."""
    kind = ConvexCNNRegressor if Y.shape[1] == 1 else ConvexCNNClassifier
    options = {"input_shape": (8, 8), "pooling": pooling, "pool_size": size}
    model = kind(alpha=alpha, max_time=limit, random_state=0, **options)
    begin = process_time()
    model.fit(X, Y[:, 0] if Y.shape[1] == 1 else np.argmax(Y, axis=1))
    seconds, layers = process_time() - begin, zip(model.coefs_, model.intercepts_)
    weights = np.concatenate([np.vstack(layer).ravel() for layer in layers])
    return model, weights, seconds


def objective_rows(limit, quick):
    for name, *problem in problems(quick):
        model, weights, seconds = convex(*problem, limit)
        exact = Network(*problem, model.n_neurons_, np.float64)
        short = Network(*problem, model.n_neurons_, np.float32)
        value = exact.objective(weights)
        if abs(value - model.objective_) > 1e-6 * value:
            raise RuntimeError("the estimator has another objective")
        x, starts = lbfgs(short, seconds, np.random.default_rng(0))
        others = x, adam(short, seconds, np.random.default_rng(0))
        peers = [exact.objective(x) for x in others]
        _, _, pooling, size, alpha = problem
        numbers = [f"{v:.5g}" for v in (value, model.dual_bound_, *peers)]
        yield (
            *(name, f"{pooling}, {size}x{size}" if pooling else "none", f"{alpha:g}"),
            *(*numbers[:2], f"{model.dual_gap_ / value:.1e}", f"{seconds:.1f}"),
            *(str(model.n_neurons_), numbers[2], str(starts), numbers[3]),
            f"{100 * (value / min(peers) - 1):+.2f} %",
        )


def outputs_of_random_kernels(X, shape):
    """The largest output of each kernel, and the share of positive ones."""
    rng, ndim, features = np.random.default_rng(0), len(shape), []
    for _ in range(1000):
        size = rng.choice([7, 9, 11]) if ndim == 1 else 3
        step = int(2 ** rng.uniform(0, np.log2((min(shape) - 1) / (size - 1))))
        w = rng.standard_normal(size**ndim)
        margin, axes = rng.integers(2) * (size - 1) * step // 2, range(1, ndim + 1)
        padded = np.pad(X.reshape(-1, *shape), [(0, 0), *[(margin, margin)] * ndim])
        reach = ((size - 1) * step + 1,) * ndim
        views = sliding_window_view(padded, reach, axis=tuple(axes))
        views = views[(..., *(slice(None, None, step),) * ndim)]
        z = views.reshape(len(X), -1, w.size) @ (w - w.mean()) + rng.uniform(-1, 1)
        features += [z.max(axis=1), np.mean(z > 0, axis=1)]
    return np.stack(features, axis=1)


def methods(shape, limit):
    """Triples (name, estimator, grid)."""
    k, window = (9, 13) if len(shape) == 1 else (3, 2)
    for pooling in ("max", "average"):
        ours = ConvexCNNClassifier(input_shape=shape, kernel_size=k, pool_size=window)
        ours.set_params(pooling=pooling, max_time=limit, random_state=0)
        yield f"ConvexCNN, {pooling}", ours, {"alpha": [0.01, 0.03, 0.1, 0.3]}
    yield "SVC", SVC(), {"C": [1.0, 10.0, 100.0]}
    yield (
        "MLP",
        MLPClassifier(max_iter=1000, random_state=0),
        {"alpha": [1e-4, 0.01, 1]},
    )
    kernels = FunctionTransformer(outputs_of_random_kernels, kw_args={"shape": shape})
    ridge = RidgeClassifierCV(np.logspace(-3, 3, 7))
    yield "1000 random kernels", make_pipeline(kernels, StandardScaler(), ridge), {}


def accuracy_rows(folder, limit):
    X, y = load_digits(return_X_y=True)
    tables = {"digits": (X / 16, y, (8, 8), 0.25)}
    series = read_table(folder, "synthetic-control")
    if series is not None:
        tables["synthetic-control"] = *series, (60,), 0.5
    for name, (X, y, shape, share) in tables.items():
        how = {"test_size": share, "stratify": y, "random_state": 0}
        X, X_test, y, y_test = train_test_split(X, y, **how)
        for method, model, grid in methods(shape, limit):
            begin = process_time()
            search = GridSearchCV(model, grid, cv=3).fit(X, y)
            seconds = process_time() - begin
            scores = search.score(X_test, y_test), search.best_score_
            chosen = ", ".join(f"{k} {v:g}" for k, v in search.best_params_.items())
            yield name, method, *(f"{s:.3f}" for s in scores), chosen, f"{seconds:.0f}"


def shown(columns, rows):
    """Print the rows as they come, and return the table."""
    columns, lines = columns.split(" | "), []
    for cells in chain([columns, ["---"] * len(columns)], rows):
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two small problems")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="for accuracies")
    parser.add_argument("--limit", type=float, help="seconds of a fit (120; quick: 4)")
    parser.add_argument("--fold-limit", type=float, default=20.0, help="in a search")
    parser.add_argument("--out", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    args.limit = args.limit or (4.0 if args.quick else 120.0)
    warnings.simplefilter("ignore", ConvergenceWarning)
    accuracies = "Not part of this run; they need `--data`."
    with threadpool_limits(1):
        # What only the first call pays.
        convex(*three_or_eight(20)[1:], "max", 2, 1.0, 10.0)
        objectives = shown(COLUMNS, objective_rows(args.limit, args.quick))
        if args.data is not None and not args.quick:
            rows = shown(SCORES, accuracy_rows(args.data, args.fold_limit))
            accuracies = SPLITS.format(rows=rows, limit=args.fold_limit)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        how = {"machine": machine(["numpy", "scipy", "scikit-learn"])}
        how |= {"limit": args.limit, "batch": BATCH, "rate": RATE}
        text = TEXT.format(objectives=objectives, accuracies=accuracies, **how)
        (args.out / "convolution.md").write_text(text)


if __name__ == "__main__":
    main()
