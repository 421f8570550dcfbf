"""
Batch normalisation, and where it helps
=======================================

With ``batch_norm=True`` every neuron has a batch normalisation in front of its
activation, and the weight decay is that of its scale.  This is the plain problem on
whitened data, so it is solved as exactly, and what comes out are the weights of a plain
network.  Here its objective is compared with that of plain training of the same network
with its layer of batch normalisation, and its accuracy with that of a network without.
"""

# %%
# The objective
# -------------
#
# The same network is trained by L-BFGS from five random starts: directions, scales,
# shifts and output weights, over all samples at once, with gradients through the mean
# and the standard deviation.

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import minimize
from sklearn.datasets import load_diabetes, load_wine
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_convexnn import (
    ConvexReLUClassifierCV,
    ConvexReLURegressor,
    ConvexReLURegressorCV,
)

X, y = load_diabetes(return_X_y=True)
X, y = (X - X.mean(axis=0)) / X.std(axis=0), (y - y.mean()) / y.std()
WIDTH = 100


def train_with_layer(alpha, seed):
    """Objective of a network whose layer of batch normalisation is trained as such."""
    d, rng = X.shape[1], np.random.default_rng(seed)
    sizes = np.cumsum([d * WIDTH, WIDTH, WIDTH, WIDTH])

    def objective(parameters):
        W, scale, shift, a, offset = np.split(parameters, sizes)
        W = W.reshape(d, WIDTH)
        Z = X @ W
        deviation = Z.std(axis=0)
        normal = (Z - Z.mean(axis=0)) / deviation
        hidden = np.maximum(scale * normal + shift, 0.0)
        residual = hidden @ a + offset - y
        value = 0.5 * residual @ residual + 0.5 * alpha * (scale @ scale + a @ a)
        pull = np.outer(residual, a) * (hidden > 0)
        of_normal = pull * scale
        of_Z = of_normal - of_normal.mean(axis=0)
        of_Z = (of_Z - normal * np.mean(of_normal * normal, axis=0)) / deviation
        gradient = [
            (X.T @ of_Z).ravel(),
            np.sum(pull * normal, axis=0) + alpha * scale,
            np.sum(pull, axis=0),
            hidden.T @ residual + alpha * a,
            [np.sum(residual)],
        ]
        return value, np.concatenate(gradient)

    start = np.concatenate(
        [
            rng.standard_normal(d * WIDTH),
            np.full(WIDTH, 0.3),
            0.3 * rng.standard_normal(WIDTH),
            0.3 * rng.standard_normal(WIDTH),
            np.zeros(1),
        ]
    )
    options = {"maxiter": 2000, "maxfun": 4000}
    return minimize(objective, start, jac=True, method="L-BFGS-B", options=options).fun


alphas = [20.0, 5.0]
trained = {
    alpha: [train_with_layer(alpha, seed) for seed in range(5)] for alpha in alphas
}
models = [
    ConvexReLURegressor(alpha=alpha, batch_norm=True, random_state=0).fit(X, y)
    for alpha in alphas
]
for alpha, model in zip(alphas, models):
    print(
        f"alpha {alpha:g}: convex program {model.objective_:.2f}, not below "
        f"{model.dual_bound_:.2f} ({model.certificate_}); layers trained by L-BFGS "
        f"{min(trained[alpha]):.2f} to {max(trained[alpha]):.2f}"
    )

# %%
# With a large `alpha` the two are close.  With a small one L-BFGS ends in other minima,
# from each start in another, and the bound says that there is a better network.

fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for ax, alpha, model in zip(axes, alphas, models):
    low, high = model.dual_bound_, model.objective_
    ax.axhspan(low, high, color="C0", alpha=0.3, label="where the optimum is")
    ax.axhline(high, color="C0", lw=2, label="convex program")
    ax.plot(range(5), trained[alpha], "o", color="C3", label="L-BFGS, five starts")
    ax.set(title=f"alpha = {alpha:g}", xlabel="start", xticks=range(5))
axes[0].set_ylabel("objective")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)

# %%
# The network is one of plain weights.  The squared scale of a neuron is the variance of
# its pre-activation, and that is what its objective has.

model = models[0]
pre_activations = X @ model.coefs_[0]
penalty = np.sum(pre_activations.var(axis=0)) + np.sum(model.coefs_[1] ** 2)
value = 0.5 * np.sum((model.predict(X) - y) ** 2) + 0.5 * model.alpha_ * penalty
print(f"objective {model.objective_:.6f}, from the weights {value:.6f}")

# %%
# The accuracy
# ------------
#
# Whitened data do not tell directions that carry much from those that carry little.
# That helps where small differences between columns matter, and hurts where they are
# noise.  Both kinds have `alpha` by cross-validation within the folds; the columns are
# standardised for the plain network, and the other one does not need it.

tables = {
    "diabetes, R2": (load_diabetes, ConvexReLURegressorCV),
    "wine, accuracy": (load_wine, ConvexReLUClassifierCV),
}
grid = {"alphas": 8, "cv": 3, "random_state": 0}
scores = {}
for name, (load, estimator) in tables.items():
    data = load(return_X_y=True)
    scores[name] = [
        cross_val_score(
            make_pipeline(StandardScaler(), estimator(batch_norm=normalised, **grid)),
            *data,
            cv=3,
        )
        for normalised in (False, True)
    ]
    plain, normal = (f"{one.mean():.3f} +- {one.std():.3f}" for one in scores[name])
    print(f"{name:24s} plain {plain}, with batch normalisation {normal}")

# %%
# On tables of this size the differences are hardly larger than those between the folds.
# Try both, and let cross-validation choose.

fig, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
for k, label in enumerate(["plain", "batch normalisation"]):
    means = [scores[name][k].mean() for name in tables]
    spread = [scores[name][k].std() for name in tables]
    at = np.arange(len(tables)) + 0.2 * (2 * k - 1)
    ax.bar(at, means, 0.38, yerr=spread, color=f"C{k}", label=label, capsize=3)
ax.set_xticks(range(len(tables)), tables)
ax.set(ylim=(0.3, 1.02), ylabel="score, three folds")
ax.legend(loc="lower right")
plt.show()
