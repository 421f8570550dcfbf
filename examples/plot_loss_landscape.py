"""
The loss landscape of parallel three-layer networks
===================================================

Figure 2 of Ergen and Pilanci [1]_ shows slices of the training loss of three-layer
networks that are sums of `K` sub-networks: the more sub-networks, the more benign the
landscape looks.  This example draws such slices for small planted data.  It also
measures what a single picture cannot show: how much of the slices is not convex, and
where twenty local trainings end for each `K`.

.. [1] Ergen, T. and Pilanci, M. (2021). "Global Optimality Beyond Two Layers:
   Training Deep ReLU Networks via Convex Programs". ICML.
.. [2] Li, H., Xu, Z., Taylor, G., Studer, C. and Goldstein, T. (2018). "Visualizing
   the Loss Landscape of Neural Nets". NeurIPS.
"""

# %%
# The problem
# -----------
#
# Each sub-network has `width` neurons in its first layer and one in its second.  The
# objective is half the squared error, summed over the samples, plus `alpha` / 2 times
# the squares of the weights of the second and third layer; the first layer of each
# sub-network has at most the Frobenius norm one.  There are no biases.  The targets
# come from five random sub-networks, plus noise.

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import minimum_filter
from three_layer_sgd import balance, forward, init_subnetworks, objective, train_lbfgs

from sklearn_convexnn import ParallelReLURegressor

n_samples, n_features, width, alpha = 20, 5, 3, 0.5
counts = (1, 2, 5, 15)
rng = np.random.default_rng(0)
X = rng.standard_normal((n_samples, n_features))
y = forward(init_subnetworks(n_features, width, 5, 1, rng), X)[:, 0]
y = y / y.std() + 0.1 * rng.standard_normal(n_samples)

# %%
# Twenty local trainings for each `K`, by L-BFGS from random starts.

problem = {"loss": "squared_error", "alpha": alpha}
ends, best = {}, {}
for K in counts:
    networks = [
        train_lbfgs(
            X, y, n_subnetworks=K, width=width, seed=seed, max_iter=2000, **problem
        )[0]
        for seed in range(20)
    ]
    ends[K] = np.array([objective(network, X, y, **problem) for network in networks])
    best[K] = networks[np.argmin(ends[K])]
nothing = 0.5 * y @ y  # the objective of the network whose weights are all zero

# %%
# The planes
# ----------
#
# A plane through a network with constrained weights would leave the constraint set.  So
# we draw the objective without constraint that L-BFGS descends.  It has a third of
# `alpha` times the cubes of the three norms of each sub-network as its penalty, every
# point is feasible, and the optimal value is the same.  Its best rescaling of a network
# has three equal norms.
#
# The two directions of a plane are Gaussian.  As in the filter normalisation of Li et
# al. [2]_, each of their parts, a layer of a sub-network, gets the norm of the weights
# that it changes.  A distance of one is thus a change as large as the weights, for all
# `K` alike, and sub-networks that training has set to zero do not move.


def part_norms(params):
    """Norms of the layers of the sub-networks, in shapes that multiply the layers."""
    return [
        np.sqrt(np.sum(part**2, axis=tuple(range(1, part.ndim)), keepdims=True))
        for part in params
    ]


def equal_norms(params):
    """The rescaling of a network that has the smallest cubic penalty."""
    W1, w2, w3 = balance(params)
    size = np.linalg.norm(w2, axis=1) ** 2
    root = np.cbrt(size)
    shrink = np.where(size > 0, size, 1) ** (1 / 3 - 1 / 2)
    return W1 * root[:, None, None], w2 * shrink[:, None], w3 * shrink[:, None]


def random_direction(params, rng):
    """A Gaussian direction, with the norms of the weights part by part."""
    parts = [rng.standard_normal(part.shape) for part in params]
    return [
        part * (wanted / norm)
        for part, wanted, norm in zip(parts, part_norms(params), part_norms(parts))
    ]


def slice_objective(params, steps, seed):
    """The objective with the cubic penalty on a random plane through `params`."""
    centre = equal_norms(params)
    rng = np.random.default_rng(seed)
    across, up = random_direction(centre, rng), random_direction(centre, rng)
    values = np.empty((len(steps), len(steps)))
    for i, b in enumerate(steps):
        for j, a in enumerate(steps):
            point = [c + a * u + b * v for c, u, v in zip(centre, across, up)]
            penalty = sum(np.sum(norms**3) for norms in part_norms(point))
            residuals = forward(point, X)[:, 0] - y
            values[i, j] = 0.5 * residuals @ residuals + alpha / 3 * penalty
    return values


def nonconvex_share(values):
    """Share of the inner points with a negative second difference, of four."""
    inner = values[1:-1, 1:-1]
    pairs = (
        values[2:, 1:-1] + values[:-2, 1:-1],
        values[1:-1, 2:] + values[1:-1, :-2],
        values[2:, 2:] + values[:-2, :-2],
        values[2:, :-2] + values[:-2, 2:],
    )
    return np.mean(np.min(pairs, axis=0) < 2 * inner - 1e-9)


def n_minima(values):
    """Number of inner points that are no higher than their eight neighbours."""
    return np.sum((values == minimum_filter(values, size=3))[1:-1, 1:-1])


# %%
# One plane per `K` is drawn, that of the first seed.  On twenty planes we measure the
# share of the points at which the objective is not convex, and look for local minima.
#
# Part of what happens for large `K` needs no training at all.  The changes of many
# sub-networks are independent, so they average out in the sum.  To see this part alone,
# we split the best single sub-network into fifteen equal ones.  Outputs and objective
# stay the same, only the space around the network is larger.


def split(params, copies):
    """The same network and objective as `copies` equal sub-networks."""
    W1, w2, w3 = (np.repeat(part, copies, axis=0) for part in balance(params))
    return W1, w2 / np.sqrt(copies), w3 / np.sqrt(copies)


steps, coarse = np.linspace(-1, 1, 61), np.linspace(-1, 1, 31)
pictures = {K: slice_objective(best[K], steps, seed=0) for K in counts}
centres = {f"{K}": best[K] for K in counts} | {"1, split": split(best[1], counts[-1])}
shares, several = {}, {}
for name, network in centres.items():
    planes = [slice_objective(network, coarse, seed) for seed in range(20)]
    shares[name] = np.array([nonconvex_share(values) for values in planes])
    several[name] = sum(n_minima(values) > 1 for values in planes)

# %%
# The optimum of all widths
# -------------------------
#
# The same problem, without a limit on the number of sub-networks, has a convex program.
# Its objective and its dual bound are lines in the figure.

model = ParallelReLURegressor(
    alpha,
    subnetwork_width=width,
    fit_intercept=False,
    tol=1e-3,
    random_state=0,
).fit(X, y)
print(f"convex program: objective {model.objective_:.4f}, ", end="")
print(f"dual bound {model.dual_bound_:.4f} ({model.certificate_}), ", end="")
print(f"{model.n_neurons_} sub-networks")

print(f"objective of the zero network: {nothing:.4f}")
print("\n   K     best   median    worst   of twenty trainings")
for K, values in ends.items():
    print(f"{K:4} {values.min():8.4f} {np.median(values):8.4f} {values.max():8.4f}")
print("\n       K  not convex   planes with several minima, of twenty")
for name, share in shares.items():
    print(f"{name:>8} {share.mean():11.0%} {several[name]:8}")

# %%
# The figure
# ----------
#
# All panels of the upper row have the same levels and colours, on a logarithmic scale,
# and the same range of relative changes.  The white line is the objective of the zero
# network, the cross the best network found.

figure = plt.figure(figsize=(10, 6.4), layout="constrained")
upper, lower = figure.subfigures(2, 1, height_ratios=[1, 1.2])
slices = upper.subplots(1, len(counts), sharey=True)
left, right = lower.subplots(1, 2)
lowest = min(values.min() for values in ends.values())
levels = np.geomspace(0.98 * lowest, 100 * lowest, 25)
for ax, K in zip(slices, counts):
    filled = ax.contourf(
        steps, steps, pictures[K], levels, norm="log", extend="max", cmap="viridis"
    )
    ax.contour(steps, steps, pictures[K], levels[::2], colors="k", linewidths=0.3)
    ax.contour(steps, steps, pictures[K], [nothing], colors="w", linewidths=1.2)
    ax.plot(0, 0, "x", color="C3", mew=2)
    ax.set(title=f"K = {K}", aspect="equal", xlabel="first direction")
    ax.set(xticks=[-1, 0, 1], yticks=[-1, 0, 1])
slices[0].set(ylabel="second direction")
bar = upper.colorbar(filled, ax=slices, label="objective", shrink=0.8, pad=0.01)
ticks = [2, 5, 10, 20, 50, 100]
bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
bar.ax.minorticks_off()

# The zero network is so much worse that it would flatten everything else.
top = lowest + 2.5 * (np.median(ends[1]) - lowest)
spread = np.random.default_rng(0).uniform(-0.25, 0.25, 20)
for i, K in enumerate(counts):
    inside = ends[K] < top
    left.plot(i + spread[inside], ends[K][inside], "o", color="C1", ms=4, alpha=0.7)
    if not inside.all():
        left.plot(i - 0.2, top, "^", color="C1")
        left.text(i - 0.1, top, f"{np.sum(~inside)} far above", va="center")
left.axhline(model.objective_, color="C0", label="convex program")
left.axhline(model.dual_bound_, color="k", ls="--", label="its dual bound")
left.legend(loc="upper right", bbox_to_anchor=(1, 0.9))
left.set(ylabel="objective", title="Where twenty trainings end")
left.set_xticks(range(len(counts)), [f"K = {K}" for K in counts])

for i, share in enumerate(shares.values()):
    color = "C0" if i < len(counts) else "gray"
    right.plot(i + spread, share, "o", color=color, ms=4, alpha=0.5)
    right.plot([i - 0.35, i + 0.35], [share.mean()] * 2, color=color, lw=2)
right.set(
    ylim=(0, None),
    ylabel="share of the points",
    title="Not convex, on each of twenty planes",
)
labels = [f"K = {K}" for K in counts] + [f"K = 1,\nsplit in {counts[-1]}"]
right.set_xticks(range(len(shares)), labels)

# %%
# What it shows, and what not
# ---------------------------
#
# The lower left panel carries the message.  A single sub-network cannot fit these data
# as well as several can: its best training ends 18 % above the convex program, and
# three of twenty starts end at the zero network or close to it.  With fifteen
# sub-networks all starts end within 0.2 % of 1.4713, the objective of the convex
# program, although nothing has changed but the number of sub-networks.  That this value
# is the optimum, no number of trainings can tell; it takes a bound.  The dual bound
# agrees with it to four digits.  As it is 'estimated', it rests on a search for a
# missing sub-network, not on a proof.  The network of the convex program has twenty
# sub-networks.
#
# The slices do look more benign with more sub-networks: the levels are rounder, the
# slopes less steep, and on average 8 % of the points are not convex for `K` = 15 and
# 27 % for `K` = 1.  But a plane says little about a space of many dimensions.  Random
# planes through the best network hardly ever meet a second minimum, one plane of twenty
# even for `K` = 1, where the trainings do end at different values.  And the split
# network warns against reading too much into the look.  Its slices are the most benign
# of all, only because the changes average out, and its objective is as bad as that of
# the single sub-network.
#
# Single planes differ much from each other, and with other data neighbouring values of
# `K` can change places in the share that is not convex.  All is about the training
# objective; nothing here says that more sub-networks predict better.

plt.show()
