"""
Several outputs that share their neurons
========================================

With several targets, :class:`~sklearn_convexnn.ConvexReLURegressor` trains one network
whose hidden neurons feed all outputs.  Within
:class:`~sklearn.multioutput.MultiOutputRegressor` it trains a network for each.  Both
are trained to the optimum, under penalties of their own.  This example shows what
sharing buys when the targets have something in common.
"""

# %%
# Sensors
# -------
#
# Five sensors react to the same two hidden quantities, each in its own mixture: the
# first saturates, of the second only the size matters.  What is given are six
# measurements.  The quantities are linear combinations of them, but it is not known
# which.

from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
from sklearn.multioutput import MultiOutputRegressor

from sklearn_convexnn import ConvexReLURegressor

rng = np.random.default_rng(0)
n_features, n_sensors = 6, 5
directions = np.linalg.qr(rng.standard_normal((n_features, 2)))[0]
angles = np.linspace(0.15, 0.85, n_sensors) * np.pi


def readings(X):
    """What the sensors would show without noise."""
    first, second = (X @ directions).T
    parts = np.tanh(2.0 * first), np.abs(second) - np.sqrt(2.0 / np.pi)
    return np.outer(parts[0], np.cos(angles)) + np.outer(parts[1], np.sin(angles))


X = rng.standard_normal((100, n_features))
X_test = rng.standard_normal((5000, n_features))
Y = readings(X) + 0.5 * rng.standard_normal((len(X), n_sensors))
Y_test = readings(X_test)

# %%
# Shared or separate
# ------------------
#
# In a network for all outputs a neuron with the output weights :math:`v_1, \dots, v_c`
# costs :math:`\frac{\alpha}{2} (\|w\|^2 + \sum_k v_k^2)`, the usual weight decay.  With
# networks of their own, each output pays for a neuron like it in full.  So the shared
# network has the smaller objective at the same `alpha`, but that says nothing about its
# predictions, and the best `alpha` need not be the same.

alphas = [1.5, 2.5, 4.0, 6.0, 10.0]
models = {"shared": [], "separate": []}


def networks(model):
    return getattr(model, "estimators_", [model])


def total(name, model):
    return sum(getattr(network, name) for network in networks(model))


for layer, fitted in models.items():
    for alpha in alphas:
        start = perf_counter()
        model = ConvexReLURegressor(alpha=alpha, random_state=0)
        if layer == "separate":
            model = MultiOutputRegressor(model)
        fitted.append(model.fit(X, Y))
        print(
            f"{layer:8}  alpha {alpha:4g}  {perf_counter() - start:4.1f} s  objective "
            f"{total('objective_', model):6.2f}  gap "
            f"{total('dual_gap_', model) / total('objective_', model):.0e}  "
            f"{total('n_neurons_', model):3d} neurons  test R2 "
            f"{model.score(X_test, Y_test):.3f}",
            flush=True,
        )

# %%
# The gaps are below one per cent, so what differs on new data is due to the penalties
# and not to the luck of an optimiser.  Sharing predicts better at every `alpha`, and
# much better at large ones.  It does not mean fewer neurons in all.

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
best = {}
for layer, fitted in models.items():
    scores = [model.score(X_test, Y_test) for model in fitted]
    best[layer] = np.argmax(scores)
    left.plot(alphas, scores, "o-", label=layer)
    right.plot(
        alphas, [total("n_neurons_", model) for model in fitted], "o-", label=layer
    )
left.set(ylabel="test R2", title="Prediction")
right.set(ylabel="neurons in all", title="Size")
for ax in left, right:
    ax.set(xscale="log", xlabel="alpha")
    ax.set_xticks(alphas, [f"{alpha:g}" for alpha in alphas])
    ax.minorticks_off()
    ax.legend()

# %%
# Where the neurons point
# -----------------------
#
# The direction of each neuron's hidden weights, projected on the plane of the two
# hidden quantities.  A neuron on the circle looks at this plane only, one inside also
# at the other four dimensions, on which no sensor depends.  The area of a point is the
# size of the neuron, the product of the norms of its weights; the colours on the right
# are the five sensors.  Each network has the `alpha` that is best on the test data.

fig, axes = plt.subplots(1, 2, figsize=(9, 5.1), layout="constrained")
turn = np.linspace(0, 2 * np.pi, 200)
for ax, (layer, choice) in zip(axes, best.items()):
    parts = [network.coefs_ for network in networks(models[layer][choice])]
    hidden = np.concatenate([part[0] for part in parts], axis=1)
    output = np.concatenate([part[1] for part in parts])
    lengths = np.linalg.norm(hidden, axis=0)
    sizes = lengths * np.linalg.norm(output, axis=1)
    projected = directions.T @ (hidden / lengths)
    inside = np.average(np.sum(projected**2, axis=0), weights=sizes)
    color = [
        "C0" if layer == "shared" else f"C{k + 1}"
        for k, part in enumerate(parts)
        for _ in part[1]
    ]
    ax.plot(np.cos(turn), np.sin(turn), color="0.7", lw=1)
    ax.axhline(0, color="0.85", lw=1, zorder=0)
    ax.axvline(0, color="0.85", lw=1, zorder=0)
    ax.scatter(*projected, s=250 * sizes / sizes.max(), color=color, alpha=0.6, lw=0)
    ax.set(aspect="equal", xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), xticks=[], yticks=[])
    ax.set_xlabel("first hidden quantity")
    ax.set_title(f"{layer}, alpha={alphas[choice]:g}: {inside:.0%} in the plane")
    ax.spines[:].set_visible(False)
axes[0].set_ylabel("second hidden quantity")

# %%
# The shared neurons sit where the quantities are: at the right and left end for the one
# that saturates, at the top and bottom for the two sides of the absolute value.  All
# sensors together have placed them.  On the right every sensor has placed its own, with
# a fifth of the evidence, and they scatter.
#
# Sharing is an assumption.  If the targets have nothing in common, say a direction of
# its own for each sensor, networks of their own predict better, and they train in
# parallel (`n_jobs` of `MultiOutputRegressor`).

plt.show()
