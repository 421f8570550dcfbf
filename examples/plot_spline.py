"""
One feature: the best network is a linear spline
================================================

With a single feature, a two-layer ReLU network is a piecewise linear function, and
weight decay is a penalty on the total change of its slope.  The best network of any
width is then a linear spline with its knots at data points, which
:class:`~sklearn_convexnn.ConvexReLURegressor` computes directly.  There is nothing to
search, so the certificate is always ``'global'``, and a hundred thousand points take
seconds.
"""

# %%
# From many knots to few
# ----------------------
#
# The curve gets more wiggly to the right.  A neuron with weight :math:`w` and bias
# :math:`b` bends the function at :math:`x = -b / w`; these are the knots.  (A neuron
# that is active on all data is a linear term, with no knot among them.)

from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np

from sklearn_convexnn import ConvexReLURegressor


def curve(x):
    return np.sin(8 * x**2) * (0.3 + x)


def make_data(n_samples, random_state):
    rng = np.random.default_rng(random_state)
    x = np.sort(rng.uniform(0, 1.6, n_samples))
    return x[:, None], curve(x) + 0.3 * rng.standard_normal(n_samples)


def knots(model):
    """Where the neurons of a network on one feature begin or end."""
    at = np.unique(np.round(-model.intercepts_[0] / model.coefs_[0][0], 12))
    return at[(at > 0) & (at < 1.6)]


X, y = make_data(300, random_state=0)
alphas = [1.0, 0.03, 0.0003]
models = [ConvexReLURegressor(alpha=alpha, tol=1e-6).fit(X, y) for alpha in alphas]
for model in models:
    distance = np.abs(knots(model)[:, None] - X[:, 0]).min(axis=1)
    print(
        f"alpha {model.alpha:<7} {len(knots(model)):3d} knots, at most "
        f"{distance.max():.0e} from a data point; gap {model.dual_gap_:.0e} of "
        f"{model.objective_:.1f} ({model.certificate_})"
    )

# %%
# A large `alpha` straightens the curve and leaves few knots, a small one follows
# the noise.  The knots need not be chosen or even counted beforehand: the penalty
# puts more of them where the curve bends most.

grid = np.linspace(X.min(), X.max(), 1000)[:, None]
fig, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained", sharey=True)
for ax, model in zip(axes, models):
    at = knots(model)
    ax.plot(X, y, ".", color="0.75", ms=4, label="data")
    ax.plot(grid, curve(grid), color="k", lw=1, ls="--", label="noiseless curve")
    ax.plot(grid, model.predict(grid), color="C0", lw=2, label="network")
    ax.plot(at, model.predict(at[:, None]), "o", color="C3", ms=4, label="knots")
    ax.set(xlabel="x", title=f"alpha = {model.alpha:g}: {len(at)} knots")
axes[0].set_ylabel("y")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)

# %%
# Choosing alpha
# --------------
#
# A fit takes less than a tenth of a second, so a whole range of `alpha` is cheap.
# Held-out data choose among them.

X_test, y_test = make_data(2000, random_state=1)
path = [
    ConvexReLURegressor(alpha=alpha, tol=1e-6).fit(X, y)
    for alpha in np.geomspace(1e-4, 1, 21)
]
alphas = [model.alpha for model in path]
scores = [model.score(X_test, y_test) for model in path]
best = path[int(np.argmax(scores))]
print(
    f"best on held-out data: alpha = {best.alpha:.3g} with {len(knots(best))} knots, "
    f"R2 = {max(scores):.3f}"
)

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
left.loglog(alphas, [len(knots(model)) for model in path], "o-", color="C3")
left.set(xlabel="alpha", ylabel="knots", title="Size of the network")
right.semilogx(alphas, [model.score(X, y) for model in path], "o-", label="training")
right.semilogx(alphas, scores, "o-", label="held-out")
right.set(xlabel="alpha", ylabel="R2", title="Fit and prediction")
for ax in (left, right):
    ax.axvline(best.alpha, color="k", ls=":")
right.legend()

# %%
# A hundred thousand points
# -------------------------
#
# The objective sums over the samples, so with more data the same `alpha` means less
# regularisation.  The samples are now so dense that the knots can sit almost
# anywhere, and they gather where the curve bends; between them it is straight.

X, y = make_data(100_000, random_state=0)
start = perf_counter()
model = ConvexReLURegressor(alpha=10.0, tol=1e-6).fit(X, y)
print(f"time         {perf_counter() - start:.2f} s")
print(f"objective    {model.objective_:.3f}")
print(f"gap          {model.dual_gap_:.1e}, {model.dual_gap_ / model.objective_:.1e}")
print(f"certificate  {model.certificate_}")
print(f"knots        {len(knots(model))}")
print(f"R2           {model.score(X_test, y_test):.4f} on held-out data")
noise = y_test - curve(X_test[:, 0])
print(f"R2           {1 - np.var(noise) / np.var(y_test):.4f} of the noiseless curve")

fig, ax = plt.subplots(figsize=(9, 3.4), layout="constrained")
ax.hexbin(X[:, 0], y, gridsize=90, cmap="Greys", bins="log")
ax.plot(grid, model.predict(grid), color="C0", lw=2, label="network")
at = knots(model)
ax.plot(at, model.predict(at[:, None]), "o", color="C3", ms=4, label="knots")
ax.set(xlabel="x", ylabel="y", title=f"100,000 points, {len(at)} knots")
ax.legend(loc="lower left")
plt.show()
