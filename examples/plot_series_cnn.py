"""
Filters for series
==================

:class:`~sklearn_convexnn.ConvexCNNClassifier` on control charts: series of a process
that runs as it should, or that swings, drifts or jumps.  Filters slide over a series,
and the dense layer sees the mean of what they put out, or the largest values.  Random
filters as of ROCKET [1]_, and :class:`~sklearn.svm.SVC`, stand beside it.

.. [1] Dempster, A., Petitjean, F. and Webb, G. I. (2020). "ROCKET: Exceptionally Fast
   and Accurate Time Series Classification Using Random Convolutional Kernels". Data
   Mining and Knowledge Discovery 34.
.. [2] Alcock, R. J. and Manolopoulos, Y. (1999). "Time-Series Similarity Queries
   Employing a Feature-Based Approach". 7th Hellenic Conference on Informatics.
"""

# %%
# Control charts
# --------------
#
# The well-known table of synthetic control charts was made from equations [2]_, so it
# takes no download: a level of 30 with noise, plus a wave, a trend that rises or falls,
# or a shift up or down.  Here are 300 charts to train, as in the usual split of the
# table, and 3000 to test.

import warnings
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from sklearn_convexnn import ConvexCNNClassifier

LENGTH = 60
KINDS = ["normal", "cyclic", "rising", "falling", "up", "down"]


def charts(per_kind, rng):
    """Charts of all kinds, and their kinds."""

    def uniform(low, high):
        return rng.uniform(low, high, (per_kind, 1))

    def trend():
        return uniform(0.2, 0.5) * t

    def shift():
        return uniform(7.5, 20) * (t >= uniform(LENGTH / 3, 2 * LENGTH / 3))

    t = np.arange(1, LENGTH + 1)
    wave = uniform(10, 15) * np.sin(2 * np.pi * t / uniform(10, 15))
    signals = [0.0 * t, wave, trend(), -trend(), shift(), -shift()]
    noise = rng.uniform(-3, 3, (len(KINDS), per_kind, LENGTH))
    X = [30 + 2 * noisy + signal for noisy, signal in zip(noise, signals)]
    return np.concatenate(X), np.repeat(KINDS, per_kind)


rng = np.random.default_rng(0)
X, y = charts(50, rng)
X_test, y_test = charts(500, rng)

fig, axes = plt.subplots(
    2, 3, figsize=(9, 4), sharex=True, sharey=True, layout="constrained"
)
for ax, kind in zip(axes.flat, KINDS):
    ax.plot(X[y == kind][:3].T, lw=1)
    ax.set_title(kind)
fig.supxlabel("time")

# %%
# One mean and one standard deviation, over all numbers of the training table, bring the
# charts to a common scale.  A scaler for each column would not do: a filter slides over
# the columns, and the same step has to look the same wherever it is.

mean, deviation = X.mean(), X.std()
X, X_test = (X - mean) / deviation, (X_test - mean) / deviation

# %%
# Two kinds of pooling
# --------------------
#
# A filter of length 9 fits in 52 places.  The first network takes the mean of its
# outputs over all places, and cannot tell where in a chart something is.  The second
# one takes the largest output in each quarter.

poolings = {
    "mean of all": {"pooling": "average", "pool_size": "global"},
    "largest of quarters": {"pooling": "max", "pool_size": 13},
}
networks, seconds, accuracy = {}, {}, {}
for name, pooling in poolings.items():
    cnn = ConvexCNNClassifier(
        alpha=1,
        kernel_size=9,
        **pooling,
        n_arrangements=20,
        tol=0.1,
        max_time=25,
        random_state=0,
    )
    start = perf_counter()
    with warnings.catch_warnings():
        # On a slow machine the time can end first.  The gap is printed.
        warnings.simplefilter("ignore", ConvergenceWarning)
        networks[name] = cnn.fit(X, y)
    seconds[name] = perf_counter() - start
    accuracy[name] = cnn.score(X_test, y_test)
    print(
        f"{name:20s} {cnn.n_neurons_:3d} filters, objective {cnn.objective_:6.2f}, "
        f"dual bound {cnn.dual_bound_:6.2f} ({cnn.certificate_}), "
        f"gap / objective {cnn.dual_gap_ / cnn.objective_:.3f}"
    )

# %%
# The bound holds for networks of this shape with any number of filters.  It is
# estimated: it rests on a search for a filter that would lower the objective further,
# and allows for some that the search may have missed.
#
# The filters
# -----------
#
# The fit leaves several copies of a filter, almost the same and of different sizes.
# The figures have the largest filters that are not like larger ones, as curves: where a
# chart looks like the curve, the filter is switched on.  Below are the output weights,
# for each quarter if there are quarters: red for the kinds that the filter speaks for,
# blue for those that it speaks against.
#
# Filters that do not cross zero measure the level, high or low.  Those that do look for
# a step or a part of a wave.  Where quarters are told apart, a low level in the third
# one speaks for a shift down, and in the last one for a falling trend.


def draw_filters(cnn, most=5):
    """Filters as curves, and what they speak for, the largest first."""
    output = cnn.coefs_[1].reshape(-1, cnn.n_neurons_, len(cnn.classes_))
    output = output[:, :, np.searchsorted(cnn.classes_, KINDS)]
    curves = cnn.filters_[:, :, 0]
    curves = curves / np.linalg.norm(curves, axis=1, keepdims=True)
    shown = []
    for j in np.argsort(-np.linalg.norm(output, axis=(0, 2))):
        if np.max(curves[shown] @ curves[j], initial=0) < 0.9 and len(shown) < most:
            shown.append(j)
    strongest = np.abs(output[:, shown]).max()
    fig, axes = plt.subplots(
        2,
        len(shown),
        figsize=(9, 2.8 + 0.2 * len(output)),
        height_ratios=[3, 0.6 * len(output)],
        sharey="row",
        layout="constrained",
    )
    for (curve, votes), j in zip(axes.T, shown):
        curve.plot(curves[j], "o-", ms=3)
        curve.axhline(0, color="k", lw=0.6)
        curve.set(xticks=[], ylim=(-0.65, 0.65))
        votes.imshow(
            output[:, j], cmap="RdBu_r", vmin=-strongest, vmax=strongest, aspect="auto"
        )
        votes.set_xticks(range(len(KINDS)), KINDS, rotation=90)
        votes.tick_params(length=0)
    axes[0, 0].set_ylabel("filter")
    axes[1, 0].set_yticks(range(len(output)), range(1, 1 + len(output)))
    axes[1, 0].set_ylabel("quarter")
    if len(output) == 1:
        axes[1, 0].set(yticks=[], ylabel="")
    return fig


for name, cnn in networks.items():
    draw_filters(cnn).suptitle(name)

# %%
# Random filters
# --------------
#
# ROCKET draws filters at random: their lengths, weights, biases and the steps between
# their entries.  Each gives two features of a series, its largest output and the part
# of its outputs that are positive.  A ridge classifier chooses among them.


class RandomFilters(TransformerMixin, BaseEstimator):
    """Largest output, and part of positive outputs, of random filters."""

    def __init__(self, n_filters=500, random_state=0):
        self.n_filters = n_filters
        self.random_state = random_state

    def fit(self, X, y=None):
        rng, self.filters_ = np.random.default_rng(self.random_state), []
        for length in rng.choice([7, 9, 11], self.n_filters):
            weights = rng.standard_normal(length)
            longest = np.log2((X.shape[1] - 1) / (length - 1))
            step = int(2 ** rng.uniform(0, longest))
            border = rng.choice([0, step * (length - 1) // 2])
            bias = rng.uniform(-1, 1)
            self.filters_.append((weights - weights.mean(), step, border, bias))
        return self

    def transform(self, X):
        features = []
        for weights, step, border, bias in self.filters_:
            padded = np.pad(X, ((0, 0), (border, border)))
            span = step * (len(weights) - 1) + 1
            patches = sliding_window_view(padded, span, axis=1)[..., ::step]
            outputs = patches @ weights + bias
            features += [outputs.max(axis=1), (outputs > 0).mean(axis=1)]
        return np.column_stack(features)


models = {
    "random filters, ridge": make_pipeline(
        RandomFilters(), StandardScaler(), RidgeClassifierCV(np.logspace(-3, 3, 10))
    ),
    "SVC": SVC(C=10),
}
for name, model in models.items():
    start = perf_counter()
    model.fit(X, y)
    seconds[name] = perf_counter() - start
    accuracy[name] = model.score(X_test, y_test)
wrong = {name: round((1 - one) * len(X_test)) for name, one in accuracy.items()}

print(f"{'model':22s} {'test accuracy':>13s} {'wrong':>6s} {'seconds':>8s}")
for name, one in accuracy.items():
    print(f"{name:22s} {one:13.4f} {wrong[name]:6d} {seconds[name]:8.1f}")

# %%
# The largest outputs of quarters do better here than the mean, which does about as well
# as the SVC.  Random filters with a ridge are as good as the better network, and far
# faster; they are 500, and it has some dozens.  In a count near 15, four are chance.

fig, ax = plt.subplots(figsize=(7, 2.3), layout="constrained")
colors = ["C0" if name in networks else "0.7" for name in wrong]
ax.bar_label(ax.barh(list(wrong), wrong.values(), color=colors), padding=3)
ax.invert_yaxis()
ax.set(xlabel=f"wrong of {len(X_test)} test charts")
ax.spines[["top", "right"]].set_visible(False)
plt.show()
