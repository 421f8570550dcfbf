"""What estimators for regression share: targets, fit and predict."""

from typing import Self

from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.utils import assert_all_finite, column_or_1d
from sklearn.utils.validation import validate_data

from sklearn_convexnn._base import checked_weights
from sklearn_convexnn._sklearn import fit_context, get_namespace
from sklearn_convexnn._utils.devices import float_dtypes, in_numpy, without_duplicates
from sklearn_convexnn.losses import make_loss


class RegressionMixin(MultiOutputMixin, RegressorMixin):
    """Fitting and prediction of targets; left of the mixin of an architecture."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        tags.target_tags.positive_only = self.loss == "poisson"
        return tags

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None) -> Self:
        """Train the network.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Sparse data are made dense, but for gated networks.  With scikit-learn's
            array API dispatch, an array of another library: gated networks are
            trained on its device, others on a copy in NumPy, of many samples with
            the largest products on the device.  The weights are put where `X` is.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative; a weight of two counts as the sample twice.

        Returns
        -------
        self : object
            If the fit fails or is interrupted, the estimator keeps the state
            that it had before.
        """
        return self._fit(X, y, sample_weight)

    def _validated(self, X, y, sample_weight):
        X = self._rows(X)
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse="csr",
            dtype=float_dtypes(X),
            multi_output=True,
            y_numeric=True,
        )
        y = in_numpy(y)
        # What is missing in objects is NaN only after the validation.
        assert_all_finite(y, input_name="y")
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return without_duplicates(X), y, checked_weights(sample_weight, X)

    def _encoded(self, X, y, sample_weight):
        X, y, sample_weight = self._validated(X, y, sample_weight)
        loss = make_loss(self.loss, self.epsilon, getattr(self, "quantile", 0.5))
        Y = y.reshape(len(y), -1)
        loss.check_targets(Y, sample_weight)
        self.out_activation_ = "exp" if self.loss == "poisson" else "identity"
        return X, Y, sample_weight, loss, (X, y, sample_weight)

    def predict(self, X):
        """Predict targets.

        With ``loss='poisson'`` this is the exponential of the network's output.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """
        raw = self._validated_raw_predict(X, "predict")
        if self.out_activation_ == "exp":
            xp, _ = get_namespace(raw)
            raw = xp.exp(raw)
        return raw[:, 0] if self.n_outputs_ == 1 else raw
