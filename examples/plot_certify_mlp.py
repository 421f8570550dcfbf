"""
How far is an MLP from the best one?
====================================

A training curve that has become flat says that the optimiser is stuck, not that the
network is good.  :func:`~sklearn_convexnn.certify` takes a two-layer ReLU network from
anywhere and says how far it is from the best one of any width.  This example does it
for :class:`~sklearn.neural_network.MLPClassifier` on two features of the breast cancer
data.
"""

# %%
# Certify a trained MLP
# ---------------------

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from sklearn_convexnn import ConvexReLUClassifier, certify

data = load_breast_cancer(as_frame=True)
X = data.data[["mean texture", "mean smoothness"]].to_numpy()
X, X_test, y, y_test = train_test_split(
    X, data.target, train_size=0.6, stratify=data.target, random_state=0
)
scaler = StandardScaler().fit(X)
X, X_test = scaler.transform(X), scaler.transform(X_test)
alpha = 0.5


def train_mlp(width, seed):
    return MLPClassifier(
        hidden_layer_sizes=width,
        alpha=alpha,
        solver="lbfgs",
        max_iter=10_000,
        random_state=seed,
    ).fit(X, y)


mlp = train_mlp(width=16, seed=0)
wide = certify(mlp, X, y, alpha=alpha, tol=1e-3, random_state=0)
narrow = certify(mlp, X, y, alpha=alpha, kind="restricted", random_state=0)
for result in wide, narrow:
    print(
        f"{result.kind:10}  objective {result.objective:.2f}, "
        f"bound {result.dual_bound:.2f}, gap {result.dual_gap:.2f}"
    )

# %%
# Both calls compute the same objective, but the bounds have different scopes.
#
# * The first bound is ``'global'``: it holds for all networks, and that is proven.
#   ``certify`` has looked for the best network itself, to a relative gap of `tol`.  So
#   the MLP can be improved by this much, or by a little less.
# * The ``'restricted'`` bound is for networks whose neurons have the activation
#   patterns of the MLP, or one of a hundred sampled ones.  It says nothing about
#   networks with other patterns, which may be better than the bound.
#
# The proof is possible here because there are only two features.  With more features
# and samples it becomes too expensive.  The first call would then return an
# ``'estimated'`` bound, which holds unless a long search has missed a neuron.
#
# Fit ours
# --------
#
# A convex estimator finds a network that is as good as the bound promises.

model = ConvexReLUClassifier(alpha=alpha, tol=1e-3, random_state=0).fit(X, y)
print(
    f"ours: objective {model.objective_:.3f}, {model.n_neurons_} neurons, "
    f"test accuracy {model.score(X_test, y_test):.3f}"
)
print(
    f"MLP:  objective {wide.objective:.3f}, 16 neurons, "
    f"test accuracy {mlp.score(X_test, y_test):.3f}"
)
print(f"bound           {wide.dual_bound:.3f}")

# %%
# Our objective is below the restricted bound of the MLP.  That is no contradiction:
# some of its neurons have patterns that were neither sampled nor those of the MLP.
#
# Does a wider network help?
# --------------------------
#
# One bound serves all networks on the same data with the same `alpha`, so a table of
# MLPs can be judged at once.  Ten seeds for each width:


def objective(mlp):
    penalty = 0.5 * alpha * sum(np.sum(weights**2) for weights in mlp.coefs_)
    return log_loss(y, mlp.predict_proba(X), normalize=False) + penalty


widths = [2, 4, 8, 16, 32, 64, 128]
gaps, scores = np.empty((2, len(widths), 10))
for i, width in enumerate(widths):
    for seed in range(10):
        mlp = train_mlp(width, seed)
        gaps[i, seed] = objective(mlp) / wide.dual_bound - 1.0
        scores[i, seed] = mlp.score(X_test, y_test)
    print(
        f"width {width:3d}  gap {gaps[i].min():6.2%} to {gaps[i].max():6.2%}  "
        f"test accuracy {scores[i].mean():.3f}"
    )

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
for ax, values in (left, 100 * gaps), (right, scores):
    ax.plot(widths, values, ".", color="C1", alpha=0.5)
    ax.plot(widths, np.median(values, axis=1), "o-", color="C1", label="MLP, median")
    ax.set_xscale("log", base=2)
    ax.set_xticks(widths, widths)
    ax.set_xlabel("neurons of the MLP")
ours = 100 * (model.objective_ / wide.dual_bound - 1.0)
left.axhline(ours, color="C0", lw=2, label=f"ours, {model.n_neurons_} neurons")
left.set(yscale="log", ylabel="gap in % of the bound", title="Training objective")
right.axhline(model.score(X_test, y_test), color="C0", lw=2, label="ours")
right.set(ylabel="test accuracy", title="Held-out data")
left.legend()
right.legend()

# %%
# Width helps the training: the wide MLPs get within a fraction of a per cent.  The
# bound compares with networks of every width, so some of the gap of the narrow ones
# is their width.  But the seeds of one width differ by a factor of two and more, and
# this part is luck with the random start.  The MLPs that are reliably close have
# more neurons than ours.
#
# The right panel puts this into proportion.  The differences in test accuracy are
# within what the seeds do, and a smaller objective does not buy a better
# prediction here.  A gap tells you when it is time to stop working on the
# optimiser, and to look at `alpha`, the features and the data instead.

plt.show()
