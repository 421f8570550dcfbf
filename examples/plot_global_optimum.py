"""
Fifty trainings of an MLP against the global optimum
====================================================

Training a ReLU network is a non-convex problem: every random initialisation ends in
another place, and none of them knows how good it is.  This example trains
:class:`~sklearn.neural_network.MLPRegressor` fifty times and
:class:`~sklearn_convexnn.ConvexReLURegressor` once on the same objective, and shows
the two numbers that the latter returns: an objective, and a lower bound below which
no network of any width can get.
"""

# %%
# One objective for both
# ----------------------
#
# The objective is half the sum of the squared residuals plus `alpha` / 2 times the
# sum of the squared weights; the biases are free.  This is what ``MLPRegressor``
# with ``solver='lbfgs'`` minimises for the same `alpha`, so its runs can be
# compared by the weights they end with.

import warnings
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import scale
from sklearn.utils import resample

from sklearn_convexnn import ConvexReLURegressor

X, y = load_diabetes(return_X_y=True)
X, y = resample(X, y, replace=False, n_samples=150, random_state=0)
X, y = scale(X), scale(y)
alpha = 3.0


def objective(mlp, X, y):
    """Half the squared error plus weight decay, both summed."""
    residuals = y - mlp.predict(X)
    weights = np.concatenate([coef.ravel() for coef in mlp.coefs_])
    return 0.5 * residuals @ residuals + 0.5 * alpha * weights @ weights


def train_mlps(X, y, n_runs):
    """Objectives of MLPs that differ in their random initialisation."""
    values = []
    for seed in range(n_runs):
        mlp = MLPRegressor(
            hidden_layer_sizes=50,
            alpha=alpha,
            solver="lbfgs",
            max_iter=5000,
            random_state=seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            values.append(objective(mlp.fit(X, y), X, y))
    return np.array(values)


start = perf_counter()
runs = train_mlps(X, y, 50)
print(f"50 runs of MLPRegressor  {perf_counter() - start:.1f} s")
print(f"best, worst objective    {runs.min():.3f}, {runs.max():.3f}")

# %%
# Now ours.  The estimator stops when `dual_gap_`, the difference of `objective_` and
# `dual_bound_`, is at most `tol` times the objective.  The default is 1e-2; here we
# ask for more digits.

start = perf_counter()
model = ConvexReLURegressor(alpha=alpha, tol=1e-4, random_state=0).fit(X, y)
print(f"ConvexReLURegressor      {perf_counter() - start:.1f} s")
print(f"objective                {model.objective_:.3f}")
print(f"dual bound               {model.dual_bound_:.3f}")
print(f"gap / objective          {model.dual_gap_ / model.objective_:.1e}")
print(f"neurons                  {model.n_neurons_}")
print(f"certificate              {model.certificate_}")
above = (runs - model.objective_) / model.objective_
print(f"the runs are {100 * above.min():.1f} to {100 * above.max():.1f} % above it")
print(f"runs below the bound: {np.sum(runs < model.dual_bound_)} of {len(runs)}")

# %%
# Without the bound, the left panel would only say that one method found a smaller
# value than the other.  With it, there is nothing left to find: a wider network, other
# seeds, or a longer training could gain no more than the gap, as far as the bound can
# be trusted.  The next section says how far.
#
# The right panel is the way there, from `history_`.  In each round the estimator
# solves a convex program on the neurons at hand and searches the neuron whose
# addition would lower the objective most.  The search gives the bound, and the
# neurons that it finds enter the next round.

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
left.hist(runs, bins=15, color="C1", label="MLPRegressor, 50 seeds")
left.axvline(model.objective_, color="C0", lw=3, label="ConvexReLURegressor")
left.axvline(model.dual_bound_, color="k", ls="--", label="its dual bound")
left.set(xlabel="objective", ylabel="runs", title="Where the trainings end")
left.margins(x=0.1, y=0.5)
left.ticklabel_format(useOffset=False)
left.legend()

history = model.history_
right.plot(history["time"], history["objective"], "o-", color="C0", label="objective")
right.plot(history["time"], history["dual_bound"], "k.--", label="dual bound")
right.set(xlabel="seconds", ylabel="objective", title="One round after the other")
right.ticklabel_format(useOffset=False)
right.legend()

# %%
# Estimated or global
# -------------------
#
# The bound of a round rests on the steepest neuron that is missing.  In ten
# dimensions there are too many activation patterns to look at all of them, so the
# steepest neuron is *searched*, from many starting points.  ``certificate_`` is then
# ``'estimated'``: it is not a proof, as the search can overlook a neuron.  Fits with
# other seeds check it, as a true bound is below the objective of every one of them:

fits = [model] + [
    ConvexReLURegressor(alpha=alpha, tol=1e-4, random_state=seed).fit(X, y)
    for seed in range(1, 5)
]
lowest = min(objective(fit, X, y) for fit in fits)
highest = max(fit.dual_bound_ for fit in fits)
print("objectives     ", *(f"{fit.objective_:.4f}" for fit in fits))
print("dual bounds    ", *(f"{fit.dual_bound_:.4f}" for fit in fits))
print(f"highest bound - lowest objective: {(highest - lowest) / lowest:+.1e} relative")

# %%
# A positive difference means that at least one estimated bound is too high, by at least
# this much, and then the gap of that fit is too small.  An error of this size does not
# touch the comparison with the MLPs, which are more than one per cent away.  But do not
# read an estimated gap as exact to all its digits.
#
# With few features or few samples the estimator goes on to *prove* that nothing is
# steeper, by branch and bound, and ``certificate_`` is ``'global'``.  Here with two of
# the features:

pair = X[:, [2, 8]]  # body mass index and a blood serum measurement
model = ConvexReLURegressor(alpha=alpha, tol=1e-4, random_state=0).fit(pair, y)
runs = train_mlps(pair, y, 10)
print(f"certificate          {model.certificate_}")
print(f"objective            {model.objective_:.4f}")
print(f"dual bound           {model.dual_bound_:.4f}")
print(f"10 MLPs, best        {runs.min():.4f}")

# %%
# A certificate is about the training objective only.  It separates two questions
# that are easily mixed up: whether the optimiser did its work, which the gap answers,
# and whether the model is right for the data, which cross-validation answers.

plt.show()
