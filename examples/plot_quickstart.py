"""
Quick start: a ReLU network with a certificate
==============================================

:class:`~sklearn_convexnn.ConvexReLURegressor` minimises the objective of
scikit-learn's :class:`~sklearn.neural_network.MLPRegressor`, but solves a convex
program instead of descending from random weights.  This example compares the two
(and ridge regression) on the diabetes data, and shows what the certificate says,
and what it does not say.
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
# A fitted network knows a lower bound of its objective.  Their difference, the
# duality gap, is proof of convergence: no network *in the scope of the certificate*
# is better by more than `dual_gap_`.  The scope of ``certificate_ = 'restricted'``
# are the networks whose neurons have one of the `n_arrangements` activation patterns
# that were sampled.  :func:`~sklearn_convexnn.certify` computes the same objective
# for any two-layer network, here for five runs of ``MLPRegressor``.

X = StandardScaler().fit_transform(X)
model = ConvexReLURegressor(alpha=alpha, random_state=0).fit(X, y)
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
# All five runs are *below* our objective and its bound, by some five per cent.  That
# is no contradiction: in ten dimensions 442 samples have about :math:`10^{20}`
# activation patterns, of which the program saw 100, while descent is free to move
# to others.  The bound holds for the sampled patterns only.  What the convex program
# gives here is a network that is known to be the best on its patterns, the same in
# every run with these patterns, and with few neurons.  More patterns, or repeated
# fits with ``warm_start=True``, bring the objective down.


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
left.set_title(f"100 sampled patterns: '{model.certificate_}'")
history = model.history_
gap = (history["objective"] - history["dual_bound"]) / history["objective"]
right.semilogy(gap, ".-")
right.axhline(model.tol, color="k", ls=":", label="tol")
right.set(xlabel="iteration", ylabel="gap / objective", title="Convergence")
right.legend()

# %%
# All patterns: a global certificate
# ----------------------------------
#
# With a single feature, the body mass index, there are only a few hundred patterns,
# and ``arrangements='exact'`` puts all of them into the program.  The certificate is
# now ``'global'``: the bound holds for every network of every width, and no training
# run can end below it.  The smaller `alpha` lets the network bend.

x = X[:, [2]]
alpha = 0.1
model = ConvexReLURegressor(alpha=alpha, arrangements="exact", tol=1e-5).fit(x, y)
print(f"certificate  {model.certificate_}, {model.n_arrangements_} patterns")
print(f"objective    {model.objective_:.3f}")
print(f"dual bound   {model.dual_bound_:.3f}")
print(f"neurons      {model.n_neurons_}")

runs = [mlp(alpha, seed).fit(x, y) for seed in range(5)]
certificates = [certify(run, x, y, alpha=alpha, kind="global") for run in runs]
objectives = [certificate.objective for certificate in certificates]
print("MLPRegressor", *(f"{value:.3f}" for value in objectives))
print("runs below the bound:", sum(v < model.dual_bound_ for v in objectives))

# %%
# The runs now end above the bound, each in a stationary point of its own, and by
# less than one per cent: they are good, and the bound is what tells us so.
# :func:`~sklearn_convexnn.certify` also bounds each run by itself, without another
# fit.  That bound is valid but much looser, since it is made from the residuals of
# the run and not from those of the optimum:

best = min(certificates, key=lambda certificate: certificate.objective)
print(f"best run: {best.objective:.3f}, bound of its own: {best.dual_bound:.3f}")

# %%
# The best network for the objective bends where the runs are smooth.  A smaller
# objective is no smaller test error; `alpha` remains to be chosen by
# cross-validation, as in the next example.

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
compare(left, objectives, model)
left.set_title(f"All {model.n_arrangements_} patterns: '{model.certificate_}'")
grid = np.linspace(x.min(), x.max(), 500)[:, None]
right.plot(x, y, ".", color="0.8")
for run in runs:
    (line,) = right.plot(grid, run.predict(grid), color="C1", lw=1)
line.set_label("MLPRegressor, 5 seeds")
right.plot(grid, model.predict(grid), color="C0", lw=2, label="convex")
right.set(xlabel="body mass index", ylabel="disease progression", title="Networks")
right.legend()
plt.show()
