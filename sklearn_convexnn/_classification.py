"""What estimators for classification share: labels, fit and predict."""

from functools import update_wrapper
from types import MethodType
from typing import Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils import compute_class_weight
from sklearn.utils.extmath import softmax
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from sklearn_convexnn._base import checked_weights
from sklearn_convexnn._sklearn import expit_of, fit_context, get_namespace
from sklearn_convexnn._utils.devices import (
    float_dtypes,
    in_numpy,
    on_device,
    placed,
    selected,
    without_duplicates,
)
from sklearn_convexnn.losses import NEVER, Softmax, make_loss

# By how much the log loss has outputs of classes without weight below all others: there
# the softmax vanishes to rounding.
_BELOW = 40.0


class _NeedsLogLoss:
    """A method of classifiers with probabilities, whose absence gives the reason.

    ``available_if`` of scikit-learn hides it behind a message of its own.
    """

    def __init__(self, method):
        self.method = method
        update_wrapper(self, method)

    def __get__(self, estimator, owner=None):
        if estimator is None:
            return self.method
        # A change of parameters does not change a network.
        fitted = getattr(estimator, "out_activation_", None)
        if fitted == "identity" or (fitted is None and estimator.loss != "log_loss"):
            given = f"got loss={estimator.loss!r}"
            if fitted is not None:
                given = "and this one was fitted with another loss"
            raise AttributeError(
                f"This {owner.__name__!r} has no attribute {self.__name__!r}: "
                f"{self.__name__} needs loss='log_loss', {given}."
            )
        return MethodType(self.method, estimator)


class ClassificationMixin(ClassifierMixin):
    """Fitting and prediction of labels; left of the mixin of an architecture."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
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
        y : array-like of shape (n_samples,)
            Labels of any type, of two classes or more.
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
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=float_dtypes(X))
        check_classification_targets(y)
        return without_duplicates(X), in_numpy(y), checked_weights(sample_weight, X)

    def _encoded(self, X, y, sample_weight):
        X, y, sample_weight = self._validated(X, y, sample_weight)
        self.classes_, codes = np.unique(y, return_inverse=True)
        n_classes = len(self.classes_)
        if n_classes < 2:
            raise ValueError(
                "Classifier can't train when only one class is present: "
                f"{type(self).__name__} needs at least 2 classes in y, got {n_classes}."
            )
        used = sample_weight > 0
        X, y, codes, sample_weight = (
            selected(part, used) for part in (X, y, codes, sample_weight)
        )
        given = X, y, sample_weight
        seen = np.bincount(codes, minlength=n_classes) > 0
        factors = np.zeros(n_classes)
        factors[seen] = compute_class_weight(
            self.class_weight,
            classes=self.classes_[seen],
            y=y,
            sample_weight=sample_weight,
        )
        if not (np.all(factors >= 0) and np.any(factors > 0)):
            raise ValueError(
                "class_weight must be non-negative, and positive for at least one "
                f"class, got {dict(zip(self.classes_[seen], factors[seen]))}."
            )
        sample_weight = sample_weight * factors[codes]
        positive = np.arange(n_classes) if n_classes > 2 else np.array([1])
        Y = np.where(codes[:, None] == positive, 1.0, -1.0)
        loss, self.out_activation_ = make_loss(self.loss), "identity"
        if self.loss == "log_loss":
            self.out_activation_ = "logistic"
            if n_classes > 2:
                loss, self.out_activation_ = Softmax(), "softmax"
                Y = np.maximum(Y, 0.0)
        if on_device(X) and np.issubdtype(self.classes_.dtype, np.number):
            self.classes_ = placed(self.classes_, X)
        return X, Y, sample_weight, loss, given

    def _fit_network(self, X, Y, sample_weight, loss, given, *args, **options):
        """As of the base; classes without weight have outputs that are never largest.

        For the others the network is as if there were no more classes.
        """
        # Classes without weight have targets of one value for all that counts.
        counted = Y[sample_weight > 0]
        known = np.any(counted > 0, axis=0)
        constant = np.where(known, 0.0 if len(known) > 1 else -NEVER, NEVER)
        if Y.shape[1] == 1 and not (known[0] and np.any(counted <= 0)):
            return self._fit_constant(X, constant, given)
        if Y.shape[1] == 1 or known.all():
            return super()._fit_network(
                X, Y, sample_weight, loss, given, *args, **options
            )
        if np.sum(known) == 1:
            return self._fit_constant(X, constant, given)
        fitted = super()._fit_network(
            X, Y[:, known], sample_weight, loss, given, *args, **options
        )
        self._insert_outputs(known)
        return fitted

    def _insert_outputs(self, known):
        """Give classes without weight an output each, after training without them."""
        self.n_outputs_ = len(known)
        xp, _ = get_namespace(self.coefs_[-1])
        values = np.zeros((self.coefs_[-1].shape[0], len(known)))
        values[:, known] = in_numpy(self.coefs_[-1])
        offset = np.full(len(known), NEVER)
        offset[known] = in_numpy(self.intercepts_[-1])
        like = self.coefs_[-1], self.intercepts_[-1]
        self.coefs_[-1] = placed(values, like[0], like[0].dtype)
        self.intercepts_[-1] = placed(offset, like[1], like[1].dtype)

    def decision_function(self, X):
        """Outputs of the network.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        decision : ndarray of shape (n_samples,) or (n_samples, n_classes)
            For two classes, positive where the second is predicted.
        """
        return self._usable(self._decision(X, "decision_function"))

    def _usable(self, decision):
        """Outputs in which classes without weight are not far below the others.

        As numbers of that size spoil what is learnt from decisions.
        """
        never = np.abs(in_numpy(self.intercepts_[-1])) >= -NEVER
        if not never.any():
            return decision
        xp, _ = get_namespace(decision)
        below = 1.0 if self.out_activation_ == "identity" else _BELOW
        if decision.ndim == 1:
            return below * xp.sign(decision)
        others = placed(np.flatnonzero(~never), decision)
        lowest = xp.min(xp.take(decision, others, axis=1), axis=1, keepdims=True)
        return xp.where(placed(never[None], decision), lowest - below, decision)

    def _decision(self, X, method):
        raw = self._validated_raw_predict(X, method)
        return raw[:, 0] if self.n_outputs_ == 1 else raw

    def predict(self, X):
        """Predict labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,)
        """
        decision = self._decision(X, "predict")
        xp, _ = get_namespace(decision)
        if decision.ndim == 1:
            codes = xp.astype(decision > 0, xp.int64)
        else:
            codes = xp.argmax(decision, axis=1)
        if isinstance(self.classes_, np.ndarray):
            return self.classes_[in_numpy(codes)]
        return xp.take(self.classes_, codes, axis=0)

    @_NeedsLogLoss
    def predict_proba(self, X):
        """Probabilities of the classes; with ``loss='log_loss'`` only.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`.
        """
        decision = self._decision(X, "predict_proba")
        xp, _ = get_namespace(decision)
        if decision.ndim == 1:
            proba = expit_of(decision)
            return xp.stack([1.0 - proba, proba], axis=1)
        return softmax(decision)

    @_NeedsLogLoss
    def predict_log_proba(self, X):
        """Logarithms of the probabilities; with ``loss='log_loss'`` only.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        log_proba : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`.
        """
        decision = self._decision(X, "predict_log_proba")
        xp, _ = get_namespace(decision)
        if decision.ndim == 1:
            zero = xp.zeros_like(decision)
            pair = -xp.logaddexp(zero, decision), -xp.logaddexp(zero, -decision)
            return xp.stack(pair, axis=1)
        shifted = decision - xp.max(decision, axis=1, keepdims=True)
        return shifted - xp.log(xp.sum(xp.exp(shifted), axis=1, keepdims=True))
