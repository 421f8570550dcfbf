r"""
Forecasting and generating a series: convex autoregressive models
=================================================================

A neural autoregressive model predicts each value of a series from the `h` values before
it, with one network for all times:

.. math::
    \hat x_t = f(x_{t-h}, \ldots, x_{t-1}), \qquad
    f(z) = \sum_j a_j\, (z^T w_j + b_j)_+ + b_0 .

The windows :math:`z_t = (x_{t-h}, \ldots, x_{t-1})` are the rows of a data matrix and
the values :math:`x_t` its targets.  Training is then the ordinary problem of a
two-layer network with as many samples as there are windows, whatever the loss, and has
the same convex program, over the activation patterns of the matrix of windows [1]_.  So
the estimators of this package need only the windows.  With the squared error the
network forecasts (first part); with the log loss of the bin that the next value falls
into, it generates (second part).

Without arguments the series is made from the equation of Mackey and Glass.  On the
command line ``--data FILE`` reads one, with a number on each line, and ``--lags`` and
``--bins`` change the models.

.. [1] Gupta, V., Bartan, B., Ergen, T. and Pilanci, M. (2021). "Convex Neural
   Autoregressive Models: Towards Tractable, Expressive, and Theoretically-Backed Models
   for Sequential Forecasting and Generation". ICASSP.
"""

import argparse
from pathlib import Path
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import PowerNorm
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import log_loss, root_mean_squared_error
from sklearn.model_selection import TimeSeriesSplit
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, StandardScaler
from sklearn.utils.validation import check_array, check_is_fitted, column_or_1d

from sklearn_convexnn import ConvexReLUClassifierCV, ConvexReLURegressorCV

parser = argparse.ArgumentParser()
parser.add_argument("--data", type=Path, help="file with a number on each line")
parser.add_argument("--lags", type=int, default=6, help="length of a window")
parser.add_argument("--bins", type=int, default=12)
# Not parse_args: documentation tools run this file with arguments of their own.
args, _ = parser.parse_known_args()

# %%
# A series
# --------
#
# The equation of Mackey and Glass is a model of the production of blood cells, which
# responds to their number some time ago.  With a delay of 17 its solutions are chaotic.
# Noise that is proportional to the state makes it a harder task, and gives the second
# part something to model: with it, no model can know the next value.


def mackey_glass(n_values, every=6.0, delay=17.0, noise=0.02, step=0.1, seed=0):
    """Values, `every` so many units of time, of the equation with noise."""
    rng = np.random.default_rng(seed)
    lag, stride, burn_in = round(delay / step), round(every / step), 500
    x = np.full(lag + (n_values + burn_in) * stride, 1.2)
    shocks = noise * np.sqrt(step) * rng.standard_normal(len(x))
    for t in range(lag, len(x) - 1):
        past = x[t - lag]
        drift = 0.2 * past / (1.0 + past**10) - 0.1 * x[t]
        x[t + 1] = x[t] + step * drift + shocks[t] * x[t]
    return x[lag + burn_in * stride :: stride]


series = mackey_glass(900) if args.data is None else np.loadtxt(args.data)
n_train = 2 * len(series) // 3
print(f"{len(series)} values, the first {n_train} of them for training")

# %%
# Windows
# -------
#
# A transformer makes the windows.  There is one for each value that has `n_lags` values
# before it, and a last one, for the value after the end of the series.  So window `i`
# starts at value `i`, and its target is value ``i + n_lags``.  The number of rows is
# not the length of the series, so the targets have to be aligned outside a pipeline.


class LagTransformer(TransformerMixin, BaseEstimator):
    """Windows of a series.

    Parameters
    ----------
    n_lags : int, default=1
        Length of a window.
    """

    def __init__(self, n_lags=1):
        self.n_lags = n_lags

    def fit(self, series, y=None):
        """Check the series; there is nothing to learn.

        Parameters
        ----------
        series : array-like of shape (n_values,) or (n_values, 1)
        y : None
            Ignored.

        Returns
        -------
        self : object
        """
        self._checked(series)
        self.n_features_in_ = 1
        return self

    def transform(self, series):
        """Make the windows.

        Parameters
        ----------
        series : array-like of shape (n_values,) or (n_values, 1)

        Returns
        -------
        windows : ndarray of shape (n_values - n_lags + 1, n_lags)
            Row `i` has the values `i` to ``i + n_lags - 1``, the oldest first.
        """
        check_is_fitted(self)
        series = self._checked(series)
        # The view is read-only, and its rows share their memory.
        return np.lib.stride_tricks.sliding_window_view(series, self.n_lags).copy()

    def _checked(self, series):
        return column_or_1d(check_array(series, ensure_2d=False, dtype=float))


# %%
# The weight decay depends on the scale of the windows, and that of the targets is the
# same here.  So the series is scaled before the windows are cut, with the mean and the
# standard deviation of the training part.  All errors below are in units of the latter.

column = series.reshape(-1, 1)
to_windows = make_pipeline(StandardScaler(), LagTransformer(args.lags))
to_windows.fit(column[:n_train])
values = to_windows[0].transform(column).ravel()

windows = to_windows.transform(column)
n_fit = n_train - args.lags  # windows whose target is in the training part
X, X_test = windows[:n_fit], windows[n_fit:-1]
y, y_test = values[args.lags : n_train], values[n_train:]
print(f"{len(X)} windows of {args.lags} values for training, {len(X_test)} for testing")

# %%
# Forecasting
# -----------
#
# The weight decay is chosen by a cross-validation that keeps the order of time: each
# fold is predicted by networks of the windows before it.  The losses are summed, so
# `alpha` weighs more in the early folds, which have fewer windows.  With so few values
# of `alpha` this matters little.

start = perf_counter()
net = ConvexReLURegressorCV(
    alphas=np.logspace(1.0, -0.5, 4), cv=TimeSeriesSplit(4), random_state=0
).fit(X, y)
print(f"{perf_counter() - start:.1f} s to choose alpha and to train")
for alpha, error in zip(net.alphas_, net.mse_path_.mean(axis=1)):
    print(f"alpha {alpha:5.2f}: mean squared error of the folds {error:.4f}")
print(
    f"chosen: {net.alpha_:.2f}; objective {net.objective_:.3f}, dual bound "
    f"{net.dual_bound_:.3f}, relative gap {net.dual_gap_ / net.objective_:.1e}, "
    f"{net.n_neurons_} neurons, certificate {net.certificate_!r}"
)

# %%
# A linear autoregressive model has the same windows.  The MLP has the same `alpha`, and
# with it the same objective.  It is trained from five random starts.

linear = RidgeCV(np.logspace(-4, 2, 7), cv=TimeSeriesSplit(4)).fit(X, y)
mlps = [
    MLPRegressor(
        hidden_layer_sizes=(100,),
        alpha=net.alpha_,
        solver="lbfgs",
        max_iter=10_000,
        max_fun=100_000,
        random_state=seed,
    ).fit(X, y)
    for seed in range(5)
]


def ranged(numbers, digits=3):
    low, high = np.min(numbers), np.max(numbers)
    return f"{low:.{digits}f} to {high:.{digits}f}"


errors = [root_mean_squared_error(y_test, mlp.predict(X_test)) for mlp in mlps]
objectives = [len(X) * mlp.loss_ for mlp in mlps]
print(f"{'one step ahead':16} {'test error':>15} {'objective':>18}")
error = root_mean_squared_error(y_test, net.predict(X_test))
print(f"{'convex ReLU':16} {error:15.3f} {net.objective_:18.3f}")
print(f"{'MLP, five starts':16} {ranged(errors):>15} {ranged(objectives):>18}")
error = root_mean_squared_error(y_test, linear.predict(X_test))
print(f"{'linear':16} {error:15.3f}")

# %%
# Several steps ahead each model is fed with its own predictions.  The errors are
# averaged over all times of the test part from which there are enough values to compare
# with.  An error of the mean of the series would be near 1: a model that is worse than
# that has lost the thread.


def forecast(model, windows, n_steps):
    """Predictions of shape (n_windows, n_steps), each fed to the next one."""
    windows, steps = windows.copy(), []
    for _ in range(n_steps):
        steps.append(model.predict(windows))
        windows = np.column_stack([windows[:, 1:], steps[-1]])
    return np.column_stack(steps)


n_steps = min(40, len(y_test) // 2)
futures = LagTransformer(n_steps).fit_transform(y_test)
origins = X_test[: len(futures)]
# Of the MLPs the one with the best objective, which can be told without the test part.
models = {"convex ReLU": net, "MLP": mlps[np.argmin(objectives)], "linear": linear}
forecasts = {name: forecast(model, origins, n_steps) for name, model in models.items()}
forecasts["mean"] = np.zeros(futures.shape)
by_horizon = {
    name: np.sqrt(np.mean((predicted - futures) ** 2, axis=0))
    for name, predicted in forecasts.items()
}

print(f"steps ahead {''.join(f'{name:>13}' for name in forecasts)}")
for horizon in (1, 2, 3, 5, 10, 20, 40):
    if horizon <= n_steps:
        row = (f"{rmse[horizon - 1]:13.3f}" for rmse in by_horizon.values())
        print(f"{horizon:11} {''.join(row)}")

# %%
# For the series above, one step ahead the network has less than half the error of the
# linear model.  The noise within one step would leave an error of about 0.16 to
# somebody who knows the equation and the past without gaps.  The MLPs are as accurate
# as the convex network, although their objectives are slightly larger: on such data
# descent does well.  What the convex program adds is the bound, which says how little
# is left to gain at this `alpha`.  It is about the training objective, and here it
# rests on a search, as the certificate says.
#
# The advantage over the linear model lasts for about twenty steps.  Later the phase is
# lost to the noise and the chaos.  The networks still oscillate with full amplitude,
# and have a larger error than the mean, to which the linear model decays.

colors = {"convex ReLU": "C3", "MLP": "C2", "linear": "C0", "mean": "0.6"}
figure, axes = plt.subplot_mosaic(
    [["forecast", "forecast"], ["scatter", "horizon"]],
    figsize=(8, 6),
    layout="constrained",
    width_ratios=[1, 1.5],
)
ax = axes["forecast"]
before = np.arange(-15, 1)
ax.plot(before, values[n_train + before - 1], "k.-", lw=1)
ax.plot(np.arange(1, n_steps + 1), futures[0], "k.-", lw=1, label="truth")
for name in ("convex ReLU", "linear"):
    ax.plot(
        np.arange(n_steps + 1),
        [values[n_train - 1], *forecasts[name][0]],
        color=colors[name],
        label=name,
    )
ax.axvline(0, color="0.8", lw=1, zorder=0)
ax.margins(x=0.02)
ax.set(xlabel="steps after the training part", ylabel="value")
ax.set_title("forecast from the end of the training part")
ax.legend(loc="lower center", ncols=3, bbox_to_anchor=(0.5, 1.12), frameon=False)

ax = axes["scatter"]
for name in ("linear", "convex ReLU"):
    predicted = models[name].predict(X_test)
    ax.plot(y_test, predicted, ".", ms=4, color=colors[name], label=name)
ax.axline((0, 0), slope=1, color="0.6", lw=1, zorder=0)
ax.set(xlabel="truth", ylabel="prediction", title="one step ahead")
ax.set_aspect("equal", adjustable="datalim")
ax.legend(loc="lower right", markerscale=2, handletextpad=0.1, borderpad=0.2)

ax = axes["horizon"]
for name, rmse in by_horizon.items():
    # Dashed, as it lies on the convex network's.
    style = "--" if name == "MLP" else "-"
    ax.plot(np.arange(1, n_steps + 1), rmse, style, color=colors[name], label=name)
ax.set(xlabel="steps ahead", ylabel="error (root mean square)", ylim=(0, None))
ax.set_title("error by horizon")
ax.legend()

# %%
# Generating
# ----------
#
# The forecast above is a single curve, and says nothing about its uncertainty.  With
# the values in bins, the next bin is a class, and the network with a softmax gives the
# probability of each.  The bins have equal numbers of training values, so all classes
# are learned from as many windows.  With many classes the program is larger, and `tol`
# is looser here.

binning = KBinsDiscretizer(
    args.bins,
    encode="ordinal",
    strategy="quantile",
    quantile_method="averaged_inverted_cdf",
).fit(y.reshape(-1, 1))
edges = binning.bin_edges_[0]
bins = binning.transform(y.reshape(-1, 1)).ravel().astype(int)
bins_test = binning.transform(y_test.reshape(-1, 1)).ravel().astype(int)

start = perf_counter()
generator = ConvexReLUClassifierCV(
    alphas=[6.0, 3.0, 1.5], cv=TimeSeriesSplit(3), tol=0.05, random_state=0
).fit(X, bins)
print(f"{perf_counter() - start:.1f} s to choose alpha and to train")
print(
    f"alpha {generator.alpha_:.1f}: objective {generator.objective_:.1f}, dual bound "
    f"{generator.dual_bound_:.1f}, relative gap "
    f"{generator.dual_gap_ / generator.objective_:.1e}, "
    f"{generator.n_neurons_} neurons, certificate {generator.certificate_!r}"
)

mlp = MLPClassifier(
    hidden_layer_sizes=(100,),
    alpha=generator.alpha_,
    solver="lbfgs",
    max_iter=10_000,
    max_fun=100_000,
    random_state=0,
).fit(X, bins)
softmax = LogisticRegression(C=10.0, max_iter=10_000).fit(X, bins)
labels = np.arange(len(edges) - 1)
print("log loss of the next bin, test part")
for name, model in {"convex ReLU": generator, "MLP": mlp, "linear": softmax}.items():
    loss = log_loss(bins_test, model.predict_proba(X_test), labels=labels)
    print(f"{name:12} {loss:.3f}")
print(f"{'guessing':12} {np.log(len(labels)):.3f}")

# %%
# The smallest `alpha` is chosen.  Smaller ones give larger networks that take longer,
# and hardly a better likelihood on the folds.  The network is far ahead of the linear
# model again, and close to the MLP.
#
# Paths are generated value by value: a bin is drawn, and one of the training values in
# it becomes the last one of the window.

members = y[np.argsort(bins, kind="stable")]
counts = np.bincount(bins, minlength=len(labels))
first = np.cumsum(counts) - counts  # of each bin among the members


def generate(model, windows, n_steps, n_paths, seed=0):
    """Random continuations of shape (n_windows, n_paths, n_steps)."""
    rng = np.random.default_rng(seed)
    shape = len(windows), n_paths, n_steps
    windows, steps = np.repeat(windows, n_paths, axis=0), []
    for _ in range(n_steps):
        cumulative = np.cumsum(model.predict_proba(windows), axis=1)
        # The last entry is 1 up to rounding, and must not be passed.
        passed = rng.random((len(windows), 1)) > cumulative[:, :-1]
        chosen = model.classes_[passed.sum(axis=1)]
        steps.append(members[first[chosen] + rng.integers(counts[chosen])])
        windows = np.column_stack([windows[:, 1:], steps[-1]])
    return np.column_stack(steps).reshape(shape)


some = slice(None, None, 3)
paths = generate(generator, origins[some], n_steps, n_paths=100)
low, high = np.quantile(paths, [0.1, 0.9], axis=1)
inside = (low <= futures[some]) & (futures[some] <= high)
print("steps ahead   inside the 80 % band   mean width of the band")
for horizon in (1, 2, 3, 5, 10, 20, 40):
    if horizon <= n_steps:
        share = inside[:, horizon - 1].mean()
        width = (high - low)[:, horizon - 1].mean()
        print(f"{horizon:11} {100 * share:20.0f} % {width:24.2f}")

# %%
# The band between the quantiles of 10 % and 90 % of the paths should contain 80 % of
# the values to come.  For most of the horizons here it contains more: the network does
# not know where in its bin a value is, and the outer bins are wide compared with the
# noise.  A smaller `alpha` makes the band narrower, but the log loss of the test part
# larger.  The origins overlap, so each share rests on far fewer independent cases than
# there are origins, and differences of a few per cent mean nothing.
#
# The figure shows the paths that start at the end of the training part (top), and a
# single long path below the true continuation.  The two are not meant to agree after
# the first steps.  The path should move like the series, and mostly does.  That it
# looks right is no proof of a right distribution; the shares above are a better test.

paths = generate(generator, X_test[:1], n_steps, n_paths=2000)[0]
n_long = len(y_test)
long_path = generate(generator, X_test[:1], n_long, n_paths=1, seed=1)[0, 0]

figure, axes = plt.subplots(3, 1, figsize=(8, 7), layout="constrained")
figure.get_layout_engine().set(hspace=0.06)
steps = np.arange(1, n_steps + 1)
density = np.array([np.histogram(step, edges, density=True)[0] for step in paths.T])
ax = axes[0]
# The density of the first steps is so much higher that the others would look empty.
norm = PowerNorm(0.5, vmin=0.0)
image = ax.pcolormesh(
    np.arange(n_steps + 1) + 0.5, edges, density.T, cmap="Blues", norm=norm
)
for level, label in ((0.1, "quantiles 10 % and 90 %"), (0.9, None)):
    ax.plot(steps, np.quantile(paths, level, axis=0), "C3--", lw=1.2, label=label)
ax.plot(steps, futures[0], "k.-", lw=1, label="truth")
figure.colorbar(image, ax=ax, label="density", pad=0.01)
ax.set(xlabel="steps after the training part", ylabel="value")
ax.set_title("2000 generated paths")
ax.legend(loc="lower center", ncols=2, bbox_to_anchor=(0.5, 1.12), frameon=False)
for ax, path, name in zip(
    axes[1:], (y_test, long_path), ("truth", "one generated path")
):
    ax.plot(np.arange(1, n_long + 1), path, color="k" if name == "truth" else "C3")
    ax.set(title=name, ylabel="value", ylim=(edges[0] - 0.2, edges[-1] + 0.2))
    ax.margins(x=0.01)
axes[2].set_xlabel("steps after the training part")
plt.show()
