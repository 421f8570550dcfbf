"""
Decision boundaries and the neurons behind them
===============================================

A two-layer ReLU network is linear between the kinks of its neurons, so its decision
boundary is made of straight pieces that bend at these lines.  This example draws both
for :class:`~sklearn_convexnn.ConvexReLUClassifier` on two moons with wrong labels,
beside an :class:`~sklearn.neural_network.MLPClassifier` trained on the same
objective.
"""

# %%
# Two moons, some of them mislabelled
# -----------------------------------
#
# One label in ten is flipped.  The test labels are right, so the test accuracy shows
# how much of the noise a network has learnt.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_moons
from sklearn.neural_network import MLPClassifier

from sklearn_convexnn import ConvexReLUClassifier, certify

X, y = make_moons(300, noise=0.2, random_state=0)
flipped = np.random.RandomState(0).rand(len(y)) < 0.1
y = np.where(flipped, 1 - y, y)
X_test, y_test = make_moons(5000, noise=0.2, random_state=1)

# %%
# Both models minimise the summed log loss plus `alpha` / 2 times the sum of the
# squared weights.  The MLP has a hundred neurons; the convex estimator finds out by
# itself how many it needs.

alphas = [3.0, 0.3, 0.01]
convex = [ConvexReLUClassifier(alpha=alpha, random_state=0) for alpha in alphas]
mlps = [
    MLPClassifier(
        hidden_layer_sizes=100,
        alpha=alpha,
        solver="lbfgs",
        max_iter=5000,
        random_state=0,
    )
    for alpha in alphas
]
excess = []
for alpha, ours, mlp in zip(alphas, convex, mlps):
    ours.fit(X, y)
    mlp.fit(X, y)
    objective = certify(mlp, X, y, alpha=alpha, kind="global").objective
    print(
        f"alpha {alpha:<5} convex: objective {ours.objective_:7.3f}, "
        f"test accuracy {ours.score(X_test, y_test):.3f}   "
        f"MLP: {objective:7.3f}, {mlp.score(X_test, y_test):.3f}"
    )
    excess.append(objective / ours.dual_bound_ - 1)
    print(
        f"            dual bound {ours.dual_bound_:.3f} ({ours.certificate_}): the MLP "
        f"is at most {excess[-1]:.1%} from the optimum"
    )

# %%
# In two dimensions the certificate is ``'global'``: the bound is proven for networks
# of every width.  It tells the two regimes apart.  With much weight decay the MLP is
# practically optimal; with little, descent ends far above the optimum.
#
# The figure has one column per `alpha`.  Each thin line is the kink
# :math:`x^T w + b = 0` of one neuron, darker the more the slope changes there.


def draw(ax, model, title):
    """Data, decision regions and boundary, and the kinks of the neurons."""
    low, high = X.min(axis=0) - 0.3, X.max(axis=0) + 0.3
    x1, x2 = np.meshgrid(*np.linspace(low, high, 300).T)
    points = np.column_stack([x1.ravel(), x2.ravel()])
    p = model.predict_proba(points)[:, 1].reshape(x1.shape)
    ax.contourf(x1, x2, p, levels=np.linspace(-0.01, 1.01, 11), cmap="RdBu", alpha=0.5)
    # A neuron bends the function by the size of its two weights.
    size = np.linalg.norm(model.coefs_[0], axis=0) * np.abs(model.coefs_[1][:, 0])
    kept = size > 1e-3 * size.max()
    for w, b, change in zip(
        model.coefs_[0].T[kept], model.intercepts_[0][kept], size[kept]
    ):
        foot = -b * w / (w @ w)
        along = np.array([-w[1], w[0]])
        strength = 0.15 + 0.6 * change / size.max()
        ax.axline(foot, foot + along, color="k", lw=0.6, alpha=strength)
    ax.contour(x1, x2, p, levels=[0.5], colors="C2", linewidths=2.5)
    ax.scatter(
        *X.T, c=y, cmap="RdBu", vmin=-0.3, vmax=1.3, edgecolors="k", lw=0.4, s=18
    )
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xticks=[], yticks=[])
    ax.set_title(title, fontsize=10)


fig, axes = plt.subplots(2, 3, figsize=(11, 6.6), layout="constrained")
for column, ours, mlp, above in zip(axes.T, convex, mlps, excess):
    gap = ours.dual_gap_ / ours.objective_
    draw(
        column[0],
        ours,
        f"alpha = {ours.alpha:g}: {ours.n_neurons_} neurons\n"
        f"gap {gap:.2%} of the objective ({ours.certificate_})",
    )
    draw(column[1], mlp, f"100 neurons, at most {above:.1%} from the optimum")
axes[0, 0].set_ylabel("ConvexReLUClassifier")
axes[1, 0].set_ylabel("MLPClassifier")

# %%
# With much weight decay a few kinks are enough, where the MLP spreads its neurons over
# many almost parallel ones.  With ``alpha=0.01`` the convex estimator fits the flipped
# labels and carves out islands for them.  That is what the objective asks for, and the
# MLP does the same as far as it gets.  A better optimum of an objective that is wrong
# for the data does not predict better: of the three values of `alpha`, the one in the
# middle is right here, for both models.

plt.show()
