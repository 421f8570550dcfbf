"""
Quick start: a ReLU network with a certificate
==============================================

:class:`~sklearn_convexnn.ConvexReLURegressor` minimises the objective of
scikit-learn's :class:`~sklearn.neural_network.MLPRegressor`, but solves a convex
program instead of descending from random weights.  This example compares the two
(and ridge regression) on the diabetes data, and shows what the certificate says,
and how far it can be trusted.
"""

# %%
# Cross-validated accuracy
# ------------------------
#
# The estimator is used like any other.  `alpha` weighs the squared weights against
# the *sum* of the losses, and means the same in all three models.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_score
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_convexnn import ConvexReLURegressor, certify

X, y = load_diabetes(return_X_y=True)
y = (y - y.mean()) / y.std()
alpha = 10.0


def mlp(alpha, seed):
    return MLPRegressor(
        hidden_layer_sizes=100,
        alpha=alpha,
        solver="lbfgs",
        max_iter=5000,
        random_state=seed,
    )


models = {
    "ConvexReLURegressor": ConvexReLURegressor(alpha=alpha, random_state=0),
    "MLPRegressor": mlp(alpha, seed=0),
    "Ridge": Ridge(alpha=alpha),
}
folds = KFold(5, shuffle=True, random_state=0)
for name, model in models.items():
    scores = cross_val_score(make_pipeline(StandardScaler(), model), X, y, cv=folds)
    print(f"{name:20}  R2 = {scores.mean():.3f} +- {scores.std():.3f}")

# %%
# The folds differ by far more than the models do: these data are close to linear,
# and no model here is better than another.
#
# The objective and its bound
# ---------------------------
#
# A fitted network knows a lower bound of the objective.  Their difference, the
# duality gap, says by how much any other network can be better at most.  The scope
# of the bound is in `certificate_`.  By default the estimator searches for neurons
# that the network lacks and adds them, until none that it finds is worth it.  The
# bound is then for networks of every width, but it is only as good as that search:
# ``certificate_ = 'estimated'``.  Do not read more than three digits into such a
# bound.  The default `tol` of one per cent is enough for most uses; a smaller one
# takes more rounds of the search, and shows the picture better.
#
# :func:`~sklearn_convexnn.certify` computes the same objective for any two-layer
# network, here for five runs of ``MLPRegressor``.

X = StandardScaler().fit_transform(X)
model = ConvexReLURegressor(alpha=alpha, tol=1e-4, random_state=0).fit(X, y)
print(f"certificate  {model.certificate_}")
print(f"objective    {model.objective_:.3f}")
print(f"dual bound   {model.dual_bound_:.3f}")
print(f"gap          {model.dual_gap_:.1e}")
print(f"neurons      {model.n_neurons_}")

runs = [mlp(alpha, seed).fit(X, y) for seed in range(5)]
objectives = [
    certify(run, X, y, alpha=alpha, kind="restricted").objective for run in runs
]
print("MLPRegressor", *(f"{value:.3f}" for value in objectives))

# %%
# All five runs end above our objective, by a fraction of a per cent, and each of
# them elsewhere.  They are good, which is something that they cannot tell: it is the
# bound that says so.


def compare(ax, values, model):
    """Strip of the objectives `values`, with those of `model` as lines."""
    ax.plot(np.arange(len(values)), values, "o", color="C1", label="MLPRegressor")
    ax.axhline(model.objective_, color="C0", lw=3, label="convex, objective")
    ax.axhline(model.dual_bound_, color="k", ls="--", label="convex, dual bound")
    ax.set(
        xlabel="seed of MLPRegressor",
        ylabel="objective",
        xticks=np.arange(len(values)),
    )
    ax.margins(0.1, 0.2)
    ax.ticklabel_format(useOffset=False)
    ax.legend()


fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
compare(left, objectives, model)
left.set_title(f"Ten features: '{model.certificate_}'")
history = model.history_
gap = (history["objective"] - history["dual_bound"]) / history["objective"]
right.semilogy(np.arange(1, len(gap) + 1), gap, ".-")
right.axhline(model.tol, color="k", ls=":", label="tol")
right.set(xlabel="round", ylabel="gap / objective", title="Convergence")
right.legend()

# %%
# One feature: a global certificate
# ---------------------------------
#
# With a single feature, the body mass index, the best network is a linear spline
# with its knots at data points, and it is computed directly.  The certificate is now
# ``'global'``: the bound is proven for every network of every width, and no training
# run can end below it.  The smaller `alpha` lets the network bend.

x = X[:, [2]]
alpha = 0.1
model = ConvexReLURegressor(alpha=alpha, tol=1e-5).fit(x, y)
print(f"certificate  {model.certificate_}")
print(f"objective    {model.objective_:.3f}")
print(f"dual bound   {model.dual_bound_:.3f}")
print(f"neurons      {model.n_neurons_}")

runs = [mlp(alpha, seed).fit(x, y) for seed in range(5)]
certificates = [certify(run, x, y, alpha=alpha, kind="global") for run in runs]
objectives = [certificate.objective for certificate in certificates]
print("MLPRegressor", *(f"{value:.3f}" for value in objectives))
print("runs below the bound:", sum(v < model.dual_bound_ for v in objectives))

# %%
# The runs end above the bound again, each in a stationary point of its own, and by
# less than one per cent.  :func:`~sklearn_convexnn.certify` also bounds each run
# without a fit of ours.  With so few activation patterns it solves the convex program
# over all of them, so it arrives at the same bound:

best = min(certificates, key=lambda certificate: certificate.objective)
print(f"best run: {best.objective:.3f}, bound of its own: {best.dual_bound:.3f}")

# %%
# The best network for the objective bends where the runs are smooth.  A smaller
# objective is no smaller test error; `alpha` remains to be chosen by
# cross-validation, as in the next example.

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
compare(left, objectives, model)
left.set_title(f"One feature: '{model.certificate_}'")
grid = np.linspace(x.min(), x.max(), 500)[:, None]
right.plot(x, y, ".", color="0.8")
for run in runs:
    (line,) = right.plot(grid, run.predict(grid), color="C1", lw=1)
line.set_label("MLPRegressor, 5 seeds")
right.plot(grid, model.predict(grid), color="C0", lw=2, label="convex")
right.set(xlabel="body mass index", ylabel="disease progression", title="Networks")
right.legend()
plt.show()
