"""
Choosing the weight decay: paths and cross-validation
======================================================

How much weight decay a network needs is the one question that training to the optimum
leaves open.  From :func:`~sklearn_convexnn.alpha_max` on, the best network has no
neurons at all; below, it grows as `alpha` falls.
:func:`~sklearn_convexnn.convex_relu_path` trains the networks for a whole sequence of
values at the cost of a few, and :class:`~sklearn_convexnn.ConvexReLURegressorCV`
chooses one by cross-validation.
"""

# %%
# The path
# --------
#
# The diabetes data have 442 patients and 10 features.  On these the largest useful
# `alpha` is found by a search, not proven; the second number is.

from importlib.util import find_spec
from time import perf_counter

import joblib
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import StandardScaler

from sklearn_convexnn import (
    ConvexReLURegressor,
    ConvexReLURegressorCV,
    alpha_max,
    convex_relu_path,
)

X, y = load_diabetes(return_X_y=True)
X, y = StandardScaler().fit_transform(X), (y - y.mean()) / y.std()

estimator = ConvexReLURegressor(random_state=0)
largest = alpha_max(estimator, X, y)
print(f"alpha_max: {largest.value:.1f}, at most {largest.upper:.1f} ({largest.kind})")

start = perf_counter()
alphas, models, gaps = convex_relu_path(estimator, X, y, alphas=50)
path_time = perf_counter() - start
start = perf_counter()
single = ConvexReLURegressor(alpha=alphas[-1], random_state=0).fit(X, y)
single_time = perf_counter() - start
print(f"50 networks: {path_time:.1f} s; the last one alone: {single_time:.1f} s")

# %%
# Every network is within `tol`, a hundredth of its objective, of the best one of any
# width, so the objectives (left) make one smooth curve, which no local training could
# promise.  The number of neurons (middle) is less determined, as networks of different
# size can be as good; `smallest_network` would look for the smallest.  The gaps (right)
# bound how far the objectives are from the best, by estimates here.

objectives = np.array([model.objective_ for model in models])
figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
axes[0].plot(alphas, objectives, ".-")
axes[0].plot(
    single.alpha, single.objective_, "o", mfc="none", color="C3", label="alone"
)
axes[0].set(title="objective", ylim=(0, None))
axes[0].legend()
axes[1].plot(alphas, [model.n_neurons_ for model in models], ".-")
axes[1].set(title="neurons")
axes[2].plot(alphas, np.maximum(gaps / objectives, 1e-6), ".-")
axes[2].axhline(estimator.tol, color="gray", ls="--")
axes[2].set(title="gap / objective", yscale="log")
for ax in axes:
    ax.set(xscale="log", xlabel="alpha")
    ax.invert_xaxis()

# %%
# Cross-validation
# ----------------
#
# One path for each of five folds, on the same values of `alpha`.  The network of the
# best value is then trained on all data.

start = perf_counter()
model = ConvexReLURegressorCV(alphas=50, cv=5, random_state=0).fit(X, y)
print(f"cross-validation: {perf_counter() - start:.1f} s")
print(
    f"alpha {model.alpha_:.1f}, mean squared error "
    f"{model.mse_path_.mean(axis=1).min():.3f}; {model.n_neurons_} neurons, gap "
    f"{model.dual_gap_ / model.objective_:.1e} ({model.certificate_})"
)

figure, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
ax.plot(model.alphas_, model.mse_path_, color="C0", alpha=0.3)
ax.plot(model.alphas_, model.mse_path_.mean(axis=1), color="C0", lw=2, label="mean")
ax.axvline(model.alpha_, color="C3", ls="--", label=f"chosen: {model.alpha_:.1f}")
ax.set(xscale="log", xlabel="alpha", ylabel="mean squared error of the folds")
ax.invert_xaxis()
ax.legend()

# %%
# On other workers
# ----------------
#
# The folds are independent jobs of joblib, and the estimator names no backend: where
# they run is chosen from outside.  With ``dask.distributed`` installed they go to the
# workers of a cluster, here two on this machine, and otherwise to threads.  The
# result is the same.

chosen = ConvexReLURegressorCV(alphas=15, eps=0.05, n_jobs=2, random_state=0)
here = ConvexReLURegressorCV(alphas=15, eps=0.05, random_state=0).fit(X, y)

if find_spec("distributed"):
    from distributed import Client

    cluster = {"n_workers": 2, "threads_per_worker": 1, "processes": False}
    with (
        Client(**cluster, dashboard_address=None),
        joblib.parallel_config("dask"),
    ):
        chosen.fit(X, y)
    where = "Dask"
else:
    with joblib.parallel_config("threading"):
        chosen.fit(X, y)
    where = "threads"
difference = np.abs(chosen.mse_path_ - here.mse_path_).max()
print(f"on {where}: alpha {chosen.alpha_:.1f}, as here: {here.alpha_:.1f}")
print(f"largest difference of the errors: {difference:.1e}")

# %%
# ``processes=False`` keeps this example in one process; a cluster of several machines
# is used in the same way, with its address in place of the options.
