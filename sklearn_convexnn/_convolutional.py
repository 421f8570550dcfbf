"""What convolutional estimators share: the shape of inputs, training, prediction."""

from dataclasses import asdict
from functools import partial
from numbers import Integral

import numpy as np
from scipy.sparse import issparse
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from sklearn_convexnn._base import COMMON_CONSTRAINTS, ReLUNetworkMixin
from sklearn_convexnn._convolution_problem import (
    build_convolution,
    convolution_slope,
    squared_deviations_of_patches,
)
from sklearn_convexnn._fitting import fit_network
from sklearn_convexnn._layouts import layout_of, positions_of
from sklearn_convexnn._memory import check_filters, check_patterns
from sklearn_convexnn._network_input import check_batch_norm
from sklearn_convexnn._sklearn import Interval, StrOptions, check_same_namespace
from sklearn_convexnn._utils.devices import (
    float_dtypes,
    highest_precision,
    in_numpy,
    placed,
)
from sklearn_convexnn.families.convolution.layout import Layout
from sklearn_convexnn.families.convolution.pooling import Pooling
from sklearn_convexnn.losses import NEVER
from sklearn_convexnn.training.convolution_routes import train_convolution

_POSITIVE = Interval(Integral, 1, None, closed="left")
CONSTRAINTS = {
    **COMMON_CONSTRAINTS,
    "input_shape": [_POSITIVE, tuple, list, None],
    "kernel_size": [_POSITIVE, tuple, list],
    "strides": [_POSITIVE, tuple, list],
    "padding": [StrOptions({"valid", "same"})],
    "pooling": [StrOptions({"max", "average"}), None],
    "pool_size": [_POSITIVE, tuple, list, StrOptions({"global"})],
    "batch_norm": ["boolean"],
    "arrangements": [StrOptions({"adaptive", "exact", "sampled"})],
    "max_neurons": [_POSITIVE, None],
}
# Products of filters with patches that a prediction makes at once (32 MB).
_CHUNK = 4_000_000


class ConvolutionMixin(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, ReLUNetworkMixin
):
    """Training of convolutional networks, also from filters that are known."""

    _kind, _train = "convolutional", staticmethod(fit_network)

    # The shape of the inputs of the data at hand, if they tell it.
    _told = None

    def _rows(self, X, reset=True):
        ndim = getattr(X, "ndim", None)
        if issparse(X) or ndim is None or ndim == 2:
            if reset:
                self._told = None
            return X
        if ndim < 3:
            return X
        shape = tuple(map(int, X.shape[1:]))
        expected = self.input_shape if reset else self.input_shape_
        positions = positions_of(shape, expected)
        if reset:
            self._told = positions
        return X.reshape(X.shape[0], int(np.prod(shape)))

    def _layout(self, n_features):
        return layout_of(self, n_features, self._told)

    def _settings(self, loss, **others):
        check_batch_norm(self.batch_norm, self.fit_intercept)
        layout = self._layout(self.n_features_in_)
        how = {
            "build": partial(build_convolution, layout=layout),
            "method": train_convolution,
            **others,
        }
        return super()._settings(loss, **how)

    def _slope(self, X, Y, sample_weight, settings):
        layout = settings.build.keywords["layout"]
        return convolution_slope(X, Y, sample_weight, settings, layout=layout)

    def _check_supported(self, loss, n_outputs):
        # Of the network, whatever becomes of the parameters; callbacks may predict.
        self._layout_of_fit = asdict(self._layout(self.n_features_in_))

    def _check_memory(self, shape, n_outputs):
        layout = self._layout(shape[1])
        if self.arrangements == "sampled":
            patches = shape[0] * layout.n_patches, layout.patch_size
            check_patterns(patches, self.n_arrangements, self.fit_intercept)
            return
        check_filters(
            layout.patch_size + layout.n_windows * n_outputs, self.n_arrangements
        )

    def _warn_of_scales(self, X, sample_weight):
        # The columns of X are places of a filter in turn.
        return False

    def _decayed(self, X, sample_weight):
        if not self.batch_norm:
            return super()._decayed(X, sample_weight)
        hidden, output = (in_numpy(part).astype(np.float64) for part in self.coefs_)
        data, layout = self._data(X), self._layout(X.shape[1])
        squares = squared_deviations_of_patches(data, sample_weight, hidden, layout)
        return squares + float(np.sum(output**2))

    def _start(self, n_features, n_outputs, neighbours):
        """Weights of an earlier fit, if they are to be used."""
        if not self.warm_start or not hasattr(self, "coefs_"):
            return None
        layout = self._layout(n_features)
        hidden, output, biases, offset = (
            in_numpy(part).astype(np.float64)
            for part in (*self.coefs_, *self.intercepts_)
        )
        trained = offset > NEVER
        fits = len(hidden) == layout.patch_size and np.sum(trained) == n_outputs
        if not fits or len(output) != layout.n_windows * hidden.shape[1]:
            return None
        return [hidden, output[:, trained]], [biases, offset[trained]], ()

    def _store(self, X, fitted):
        layout = self._layout(X.shape[1])
        self.input_shape_, self._layout_of_fit = layout.shape, asdict(layout)
        super()._store(X, fitted)
        self.n_neurons_ = self.coefs_[0].shape[1]
        filters = in_numpy(self.coefs_[0]).T
        shape = len(filters), *layout.kernel, layout.channels
        self.filters_ = placed(filters.reshape(shape), X, X.dtype)
        self.map_shape_ = layout.windows

    def _unit_size(self, n_features):
        return self._layout(n_features).patch_size

    def _maps(self, X):
        """Pooled maps of all filters, in chunks of samples."""
        layout = Layout(**self._layout_of_fit)
        hidden = in_numpy(self.coefs_[0]).astype(np.float64)
        bias, pooling = in_numpy(self.intercepts_[0]), Pooling(layout.largest)
        width = layout.n_patches * max(layout.patch_size, hidden.shape[1])
        n, step = X.shape[0], max(1, _CHUNK // width)
        for i in range(0, n, step):
            rows = self._data(X[i : min(i + step, n), :]).astype(np.float64)
            z = layout.patches(rows) @ hidden
            z += bias
            Z = pooling.forward(z)[0].transpose(1, 0, 2)
            yield Z.reshape(len(rows), -1)

    def _raw_predict(self, X):
        output = in_numpy(self.coefs_[1]).astype(np.float64)
        offset = in_numpy(self.intercepts_[1])
        F = np.concatenate([Z @ output + offset for Z in self._maps(X)])
        return placed(F, self.coefs_[0], highest_precision(self.coefs_[0]))

    @property
    def _n_features_out(self):
        return self.coefs_[1].shape[0]

    def transform(self, X):
        """Pooled maps of the filters, as features.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or \
                (n_samples, ..., n_channels)

        Returns
        -------
        maps : ndarray of shape (n_samples, n_positions * n_neurons)
            Outputs of the filters at the positions of the pooled map, those of a
            position next to each other, as the rows of ``coefs_[1]``.
        """
        check_is_fitted(self)
        X = validate_data(
            self,
            self._rows(X, reset=False),
            accept_sparse="csr",
            dtype=float_dtypes(X),
            reset=False,
        )
        check_same_namespace(X, self, attribute="_weights", method="transform")
        maps = np.concatenate([*self._maps(X)])
        return placed(maps, self.coefs_[0], self.coefs_[0].dtype)
