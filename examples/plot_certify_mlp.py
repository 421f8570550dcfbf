"""
How far is an MLP from the best one?
====================================

A training curve that has become flat says that the optimiser is stuck, not that the
network is good.  :func:`~sklearn_convexnn.certify` takes a two-layer ReLU network from
anywhere and bounds how far it can be from the best one, and a fit of
:class:`~sklearn_convexnn.ConvexReLUClassifier` to the same data gives a sharper bound.
This example does both for :class:`~sklearn.neural_network.MLPClassifier` on two
features of the breast cancer data.
"""

# %%
# Certify a trained MLP
# ---------------------

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
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
narrow = certify(mlp, X, y, alpha=alpha, kind="restricted", random_state=0)
wide = certify(mlp, X, y, alpha=alpha, kind="global")
for result in narrow, wide:
    print(
        f"{result.kind:10}  objective {result.objective:.2f}, "
        f"bound {result.dual_bound:.2f}, gap {result.dual_gap:.2f}"
    )

# %%
# Both calls compute the same objective, but the bounds have different scopes.
#
# * The ``'restricted'`` bound is for networks whose neurons have the activation
#   patterns of the MLP, or one of a hundred sampled ones.  The MLP is close to the
#   best of these; networks with other patterns may be better than the bound.
# * The ``'global'`` bound is for all networks.  With few patterns (one feature, or up
#   to about a hundred samples in two dimensions) it takes all of them into account.
#   Here there are too many, and what remains is a simple estimate that is true but
#   far off.
#
# Fit ours for a sharp bound
# --------------------------
#
# A fitted convex estimator has a bound, too.  If ``certificate_`` is ``'global'``, as
# here in two dimensions, this bound holds for every network on these data with this
# `alpha`, whoever trained it.

model = ConvexReLUClassifier(alpha=alpha, tol=1e-3, random_state=0).fit(X, y)
mlp_gap = wide.objective - model.dual_bound_
print(f"certificate                 {model.certificate_}")
print(f"dual bound                  {model.dual_bound_:.3f}")
print(
    f"ours: objective {model.objective_:.3f}, {model.n_neurons_} neurons, "
    f"test accuracy {model.score(X_test, y_test):.3f}"
)
print(
    f"MLP:  objective {wide.objective:.3f}, 16 neurons, "
    f"test accuracy {mlp.score(X_test, y_test):.3f}"
)
print(f"the MLP is at most {mlp_gap:.2f} ({mlp_gap / wide.objective:.1%}) too high")

# %%
# Our objective is below the restricted bound of the MLP.  That is no contradiction:
# some of its neurons have patterns that were neither sampled nor those of the MLP.
#
# Does a wider network help?
# --------------------------
#
# One bound serves all widths, so a table of MLPs can be judged at once.  Ten seeds for
# each width:

widths = [2, 4, 8, 16, 32, 64, 128]
gaps, scores = np.empty((2, len(widths), 10))
for i, width in enumerate(widths):
    for seed in range(10):
        mlp = train_mlp(width, seed)
        objective = certify(mlp, X, y, alpha=alpha, kind="global").objective
        gaps[i, seed] = (objective - model.dual_bound_) / model.dual_bound_
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
ours = 100 * model.dual_gap_ / model.dual_bound_
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
