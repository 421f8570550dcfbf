"""
Filters for handwritten digits
==============================

:class:`~sklearn_convexnn.ConvexCNNClassifier` on scikit-learn's handwritten digits.
Small filters slide over the images, the largest output in each window goes on, and a
dense layer follows.  The fit gives the filters, how many it needs, and a bound of what
is left to gain.  :class:`~sklearn.neural_network.MLPClassifier` and
:class:`~sklearn.svm.SVC` stand beside it.
"""

# %%
# Train
# -----
#
# The images have 8 by 8 pixels between 0 and 16.  All pixels are divided by 16: a
# filter slides over them, so they need a common scale.  600 images are for training and
# the others for the test, which takes no part in any choice.
#
# Filters of 3 by 3 pixels fit in 6 by 6 places.  Windows of 2 by 2 outputs leave a map
# of 3 by 3.  `n_arrangements` is the number of filters to begin with, and `tol` the
# gap, relative to the objective, at which the fit may stop.

import warnings
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from sklearn_convexnn import ConvexCNNClassifier

X, y = load_digits(return_X_y=True)
X, X_test, y, y_test = train_test_split(
    X / 16, y, train_size=600, stratify=y, random_state=0
)

cnn = ConvexCNNClassifier(
    alpha=1,
    input_shape=(8, 8),
    kernel_size=3,
    pooling="max",
    pool_size=2,
    n_arrangements=50,
    tol=0.1,
    max_time=50,
    random_state=0,
)
start = perf_counter()
with warnings.catch_warnings():
    # On a slow machine the time can end first.  The gap is printed.
    warnings.simplefilter("ignore", ConvergenceWarning)
    cnn.fit(X, y)
seconds = {"convex CNN": perf_counter() - start}
print(f"{len(X)} images to train, {len(X_test)} to test")
print(f"objective        {cnn.objective_:.2f}")
print(f"dual bound       {cnn.dual_bound_:.2f}  ({cnn.certificate_})")
print(f"gap / objective  {cnn.dual_gap_ / cnn.objective_:.3f}")
print(f"filters          {cnn.n_neurons_}, map of {cnn.map_shape_}")

# %%
# The bound holds for convolutional networks of this shape with any number of filters.
# It is estimated: it rests on a search for a filter that would lower the objective
# further, and allows for some that the search may have missed.  The longer the search,
# the less it has to allow for.
#
# The filters
# -----------
#
# Ink in the red places switches a filter on, ink in the blue ones switches it off.
# Here are the 30 largest by the norm of their output weights, over all windows and
# digits.  Many are edges and strokes of some slope.  A few are almost copies of others:
# next to the gap that is left it hardly matters whether a filter is one or two.


def draw_filter(ax, j):
    """Filter `j` as a picture, white where its weight is zero."""
    weights = cnn.filters_[j, :, :, 0]
    darkest = np.abs(weights).max()
    ax.imshow(weights, cmap="RdBu_r", vmin=-darkest, vmax=darkest)


output = cnn.coefs_[1].reshape(-1, cnn.n_neurons_, len(cnn.classes_))
largest = np.argsort(-np.linalg.norm(output, axis=(0, 2)))

fig, axes = plt.subplots(3, 10, figsize=(9, 2.9), layout="constrained")
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
for ax, j in zip(axes.flat, largest):
    draw_filter(ax, j)

# %%
# What they make of an image
# --------------------------
#
# ``transform`` gives the pooled maps: a feature for each window and filter, with the
# filters of a window next to each other.  In the figure are the eight largest filters,
# and below each of them its maps of two digits: the darker, the larger the output.

shown = [np.flatnonzero(y_test == digit)[0] for digit in (3, 7)]
maps = cnn.transform(X_test[shown]).reshape(len(shown), *cnn.map_shape_, -1)

fig, axes = plt.subplots(3, 9, figsize=(9, 3.1), layout="constrained")
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
axes[0, 0].set_axis_off()
for row, image in enumerate(X_test[shown], start=1):
    axes[row, 0].imshow(image.reshape(8, 8), cmap="Greys")
for column, j in enumerate(largest[:8], start=1):
    draw_filter(axes[0, column], j)
    for row, one in enumerate(maps[..., j], start=1):
        axes[row, column].imshow(one, cmap="Greys", vmin=0, vmax=maps[..., j].max())

# %%
# Next to others
# --------------
#
# All models get the same pixels, and settings that one would begin with.  In one of
# them the maps are the features: the filters stay as they are, and a logistic
# regression takes the place of the dense layer.

models = {
    "filters, then logistic": make_pipeline(
        FrozenEstimator(cnn), StandardScaler(), LogisticRegression(max_iter=1000)
    ),
    "logistic": LogisticRegression(max_iter=1000),
    "MLP": MLPClassifier(max_iter=1000, random_state=0),
    "SVC": SVC(C=10),
}
accuracy = {"convex CNN": cnn.score(X_test, y_test)}
for name, model in models.items():
    start = perf_counter()
    model.fit(X, y)
    seconds[name] = perf_counter() - start
    accuracy[name] = model.score(X_test, y_test)
wrong = {name: round((1 - one) * len(X_test)) for name, one in accuracy.items()}

print(f"{'model':24s} {'test accuracy':>13s} {'wrong':>6s} {'seconds':>8s}")
for name, one in accuracy.items():
    print(f"{name:24s} {one:13.3f} {wrong[name]:6d} {seconds[name]:8.1f}")

# %%
# The network misreads fewer images than the MLP and the logistic regression, and the
# SVC misreads fewest, and trains in a moment.  In a count near 30, five or six are
# chance.  What the network gives for its time are a few filters that can be looked at,
# and the gap.

fig, ax = plt.subplots(figsize=(7, 2.6), layout="constrained")
colors = ["C0" if "CNN" in name or "filters" in name else "0.7" for name in wrong]
ax.bar_label(ax.barh(list(wrong), wrong.values(), color=colors), padding=3)
ax.invert_yaxis()
ax.set(xlabel=f"wrong of {len(X_test)} test images")
ax.spines[["top", "right"]].set_visible(False)
plt.show()
