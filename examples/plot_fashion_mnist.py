"""
Fashion-MNIST: sixty thousand images
====================================

:class:`~sklearn_convexnn.ConvexReLUClassifier` on all 60,000 training images of
Fashion-MNIST, ten classes, on a laptop.  On so many samples it places the neurons by
stochastic descent, lets the convex program over their units choose among them, searches
for the neurons that are missing, and moves them, until its time is over.  Then it tells
how far the network is from the best one of any width.

:class:`~sklearn.neural_network.MLPClassifier` with 100 neurons stands beside it, with
the weight decay that makes its objective the same.

Without arguments the images come from OpenML, or scikit-learn's small digits take their
place if there is no network.  On the command line ``--data FOLDER`` reads the four
files in which Fashion-MNIST is distributed, ``train-images-idx3-ubyte.gz`` and so on.
"""

import argparse
import gzip
import warnings
from pathlib import Path
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import fetch_openml, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from sklearn_convexnn import ConvexReLUClassifier

parser = argparse.ArgumentParser()
parser.add_argument("--data", type=Path, help="folder of the distributed files")
parser.add_argument("--alpha", type=float, default=15.0)
parser.add_argument("--width", type=int, default=400, help="neurons to place")
parser.add_argument("--max-time", type=float, default=480.0, help="of the longest fit")
parser.add_argument("--tol", type=float, default=0.01)
parser.add_argument("--save", type=Path, help="write the figure to this file")
args, _ = parser.parse_known_args()

# %%
# Images
# ------
#
# Pixels between 0 and 1, the mean image taken off, in single precision.


def read(name, offset):
    with gzip.open(args.data / name) as file:
        return np.frombuffer(file.read(), np.uint8, offset=offset)


def images():
    """Training images and labels, test images and labels."""
    if args.data is not None:
        return [
            part
            for kind in ("train", "t10k")
            for part in (
                read(f"{kind}-images-idx3-ubyte.gz", 16).reshape(-1, 784) / 255.0,
                read(f"{kind}-labels-idx1-ubyte.gz", 8),
            )
        ]
    try:
        X, y = fetch_openml(data_id=40996, return_X_y=True, as_frame=False)
    except OSError:
        print("No network: the small digits of scikit-learn instead")
        args.max_time, args.alpha = min(args.max_time, 20.0), 1.0
        X, y = load_digits(return_X_y=True)
        X, X_test, y, y_test = train_test_split(X / 16.0, y, random_state=0)
        return X, y, X_test, y_test
    X = X / 255.0
    return X[:60000], y[:60000].astype(int), X[60000:], y[60000:].astype(int)


X, y, X_test, y_test = images()
mean = X.mean(axis=0)
X, X_test = (X - mean).astype(np.float32), (X_test - mean).astype(np.float32)
print(f"{X.shape[0]} images of {X.shape[1]} pixels, {X_test.shape[0]} to test")

# %%
# Two trainings
# -------------
#
# A fit that is given little time places its neurons with fewer visits of the images.
# So the accuracy against time is that of several fits, each with its own `max_time`.


def objective(model, alpha):
    """Log loss plus weight decay, both summed, from the weights."""
    decay = 0.5 * alpha * sum(np.sum(weights**2) for weights in model.coefs_)
    return log_loss(y, model.predict_proba(X), normalize=False) + decay


def report(name, seconds, model, accuracy):
    print(
        f"{name:22s} {seconds:6.0f} s  {model.coefs_[0].shape[1]:4d} neurons  "
        f"objective {objective(model, args.alpha):9.1f}  "
        f"test accuracy {100 * accuracy:.2f} %"
    )


limits = args.max_time * np.array([1 / 16, 1 / 8, 1 / 4, 1])
ours = []
for limit in limits:
    model = ConvexReLUClassifier(
        alpha=args.alpha,
        n_arrangements=args.width,
        tol=args.tol,
        max_time=limit,
        random_state=0,
    )
    start = perf_counter()
    with warnings.catch_warnings():
        # The gap that is left is printed.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, y)
    seconds = perf_counter() - start
    ours.append((seconds, model.score(X_test, y_test)))
    report("ConvexReLUClassifier", seconds, model, ours[-1][1])
    print(
        f"{'':22s} dual bound {model.dual_bound_:.1f} ({model.certificate_}), gap "
        f"{100 * model.dual_gap_ / model.objective_:.1f} % of the objective"
    )

# %%
# The MLP gets the same time as the longest of them, epoch by epoch.

batch = min(200, len(X))
mlp = MLPClassifier(
    (100,), alpha=args.alpha * batch / len(X), batch_size=batch, random_state=0
)
times, scores, elapsed = [], [], 0.0
while elapsed < seconds:
    start = perf_counter()
    mlp.partial_fit(X, y, classes=model.classes_)
    elapsed += perf_counter() - start
    times.append(elapsed)
    scores.append(mlp.score(X_test, y_test))
report("MLPClassifier(100)", elapsed, mlp, scores[-1])
print(f"{'':22s} best test accuracy on the way {100 * max(scores):.2f} %")

# %%
# Accuracy against time
# ---------------------

figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
axis.plot(times, scores, color="0.6", label="MLPClassifier(100), each epoch")
axis.plot(*zip(*ours), "o", label="ConvexReLUClassifier, each with its own limit")
axis.set_xlabel("seconds")
axis.set_ylabel("test accuracy")
lowest = min(min(score for _, score in ours), np.median(scores))
axis.set_ylim(lowest - 0.02, None)
axis.legend(loc="lower right")
axis.set_title(f"{len(X)} images, alpha = {args.alpha:g}")
if args.save is not None:
    figure.savefig(args.save, dpi=150)
plt.show()
