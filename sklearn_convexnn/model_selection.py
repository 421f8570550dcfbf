"""Estimators that choose the weight decay by cross-validation."""

import warnings
from collections import Counter
from dataclasses import dataclass
from numbers import Integral
from typing import Self

import numpy as np
from sklearn.exceptions import FitFailedWarning
from sklearn.metrics import (
    accuracy_score,
    check_scoring,
    get_scorer_names,
    log_loss,
    mean_squared_error,
)
from sklearn.model_selection import check_cv
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    process_routing,
)
from sklearn.utils.parallel import Parallel, delayed

from sklearn_convexnn._base import restored_on_failure
from sklearn_convexnn._sklearn import (
    StrOptions,
    fit_context,
    fit_task,
    raise_for_params,
    routing_enabled,
    safe_indexing,
)
from sklearn_convexnn.path import (
    EPS,
    GRID_CONSTRAINTS,
    Short,
    grid,
    joined,
    scoring_path,
    shortness,
)
from sklearn_convexnn.two_layer import ConvexReLUClassifier, ConvexReLURegressor

_OWN_CONSTRAINTS = {
    **GRID_CONSTRAINTS,
    "cv": ["cv_object"],
    "scoring": [StrOptions(set(get_scorer_names())), callable, None],
    "n_jobs": [Integral, None],
}


def _constraints(base):
    """Constraints of the parameters of a base estimator with cross-validation."""
    constraints = {**base._parameter_constraints, **_OWN_CONSTRAINTS}
    return {
        name: kinds
        for name, kinds in constraints.items()
        if name not in ("alpha", "warm_start")
    }


class _CrossValidatedMixin:
    """Fitting by cross-validation; left of the base estimator.

    Subclasses have the class of that as ``_base``, and the function
    ``_default_score``.
    """

    def _fit_and_choose(self, X, y, sample_weight, params):
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)
        weighted = sample_weight is not None
        X, y, weight = self._validated(X, y, sample_weight)
        self._warn_of_scales(X, weight)
        given, weight = (X, y, weight), weight if weighted else None
        splitting, scoring = self._routed(weight, params)
        model = self._unfitted()
        classification = self._base is ConvexReLUClassifier
        splitter = check_cv(self.cv, y, classifier=classification)
        folds = list(splitter.split(X, y, **splitting))
        if not folds:
            raise ValueError(f"cv has to give at least one fold, got cv={self.cv!r}.")
        whole = fit_task(self, given, len(folds) + 1, sequential=False).begin()
        self.alphas_ = grid(model, X, y, weight, self.alphas, self.eps)
        score = type(self)._default_score
        if self.scoring is not None:
            score = check_scoring(model, scoring=self.scoring)
        name = type(self).__name__
        results = Parallel(n_jobs=self.n_jobs)(
            delayed(_fold_scores)(
                model,
                *(X, y, weight, train, test, self.alphas_, score, scoring),
                f"{name}, fold {k + 1}/{len(folds)}",
                whole.subtask("fold", k, len(self.alphas_)),
            )
            for k, (train, test) in enumerate(folds)
        )
        self._report(results)
        self.scores_path_ = np.column_stack([fold.scores for fold in results])
        self.alpha_ = float(self.alphas_[self._best(results)])
        model.set_params(alpha=self.alpha_)
        with whole.within("refit", len(folds)):
            fitted = model._fit_between(
                X, y, weight, label=f"{name}, all data, alpha = {self.alpha_:.4g}"
            )
        for name, value in vars(model).items():
            if name.endswith("_"):
                setattr(self, name, value)
        whole.end({})
        short = joined([*(fold.short for fold in results), shortness(model, fitted)])
        short.warn(type(self).__name__, self.tol)

    def _unfitted(self):
        values = self.get_params(deep=False)
        return self._base(
            **{key: values[key] for key in values if key not in _OWN_CONSTRAINTS}
        )

    def _report(self, folds):
        """Warn of folds without a score, or raise an error if there are no others."""
        failed = [fold for fold in folds if np.all(np.isnan(fold.scores))]
        if len(failed) == len(folds):
            raise ValueError(
                f"cv={self.cv!r} or scoring={self.scoring!r} does not suit the data: "
                f"no fold has a score.{_reasons(failed)}"
            )
        if failed:
            warnings.warn(
                f"{len(failed)} of the {len(folds)} folds of {type(self).__name__} "
                "failed. Their scores are not a number, and the others choose "
                f"alpha.{_reasons(failed)}",
                FitFailedWarning,
            )

    def _best(self, folds):
        """Index of the largest mean over the folds of scores that are numbers."""
        scores = self.scores_path_
        n_known = np.sum(~np.isnan(scores), axis=1)
        # Means over other folds would be no fair comparison.
        known = np.flatnonzero(n_known == n_known.max())
        if len(known) < len(scores):
            partly = [fold for fold in folds if np.any(~np.isnan(fold.scores))]
            warnings.warn(
                f"The score is not a number for {len(scores) - len(known)} of the "
                f"{len(scores)} values of alpha in more folds than for the others; "
                f"these are not chosen from.{_reasons(partly)}"
            )
        # The first of equal ones has the smallest network.
        return known[np.argmax(np.nanmean(scores[known], axis=1))]

    def _routed(self, sample_weight, params):
        """What the splitter and the scorer get of the metadata."""
        weights = {} if sample_weight is None else {"sample_weight": sample_weight}
        if not routing_enabled():
            return {}, weights
        routed = process_routing(self, "fit", sample_weight=sample_weight, **params)
        if self.scoring is not None:
            weights = routed.scorer.score
        return routed.splitter.split, weights

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        # Folds and scores are computed in NumPy.
        tags.array_api_support = False
        return tags

    def get_metadata_routing(self):
        """Metadata routing of this object.

        Returns
        -------
        routing : MetadataRouter
        """
        router = MetadataRouter(owner=self).add_self_request(self)
        router.add(
            splitter=check_cv(self.cv),
            method_mapping=MethodMapping().add(caller="fit", callee="split"),
        )
        if self.scoring is not None:
            router.add(
                scorer=check_scoring(self, scoring=self.scoring),
                method_mapping=MethodMapping().add(caller="fit", callee="score"),
            )
        return router


@dataclass(frozen=True)
class _Fold:
    """Scores of a path on the samples that were left out.

    Attributes
    ----------
    scores : ndarray of shape (n_alphas,)
        Not a number where there is none.
    short : Short
    reason : str or None
        Why scores are not numbers, if some are not.
    """

    scores: np.ndarray
    short: Short
    reason: str | None = None


def _reasons(folds):
    """A line for each reason why folds lack scores."""
    counts = Counter(fold.reason for fold in folds if fold.reason is not None)
    return "".join(
        f"\nIn {count} folds {reason}." if count > 1 else f"\nIn a fold {reason}."
        for reason, count in counts.items()
    )


def _fold_scores(
    model, X, y, sample_weight, train, test, alphas, score, metadata, label, task
):
    """The `_Fold` of a path on the samples `train` and scores on those of `test`."""
    X_train, y_train = safe_indexing(X, train), safe_indexing(y, train)
    X_test, y_test = safe_indexing(X, test), safe_indexing(y, test)
    weight = None if sample_weight is None else safe_indexing(sample_weight, train)
    metadata = {key: safe_indexing(values, test) for key, values in metadata.items()}
    scores, reason = np.full(len(alphas), np.nan), None
    task.begin()
    try:
        models, short = scoring_path(
            model, X_train, y_train, weight, alphas, label, task
        )
    except Exception as error:
        # As in scikit-learn's searches, whatever it is, the other folds go on.
        return _Fold(scores, Short(), f"the fit failed with {_described(error)}")
    finally:
        task.end()
    if not np.any(metadata.get("sample_weight", 1.0)):
        return _Fold(scores, short, "the samples left out have no weight")
    for k, fitted in enumerate(models):
        try:
            scores[k] = score(fitted, X_test, y_test, **metadata)
        except Exception as error:
            # Scorers are the user's, and may raise anything.
            reason = f"scoring failed with {_described(error)}"
        else:
            if np.isnan(scores[k]) and reason is None:
                reason = "the scorer gave scores that are not numbers"
    return _Fold(scores, short, reason)


def _described(error):
    return f"{type(error).__name__}: {error}"


def _squared_error_score(model, X, y, sample_weight=None):
    return -mean_squared_error(y, model.predict(X), sample_weight=sample_weight)


def _likelihood_score(model, X, y, sample_weight=None):
    """Mean log-likelihood of the labels, or accuracy without probabilities."""
    if model.loss != "log_loss":
        return accuracy_score(y, model.predict(X), sample_weight=sample_weight)
    # Both sides of a fold may lack classes.
    labels = np.union1d(model.classes_, y)
    proba = np.zeros((len(y), len(labels)))
    proba[:, np.isin(labels, model.classes_)] = model.predict_proba(X)
    return -log_loss(y, proba, labels=labels, sample_weight=sample_weight)


class ConvexReLURegressorCV(_CrossValidatedMixin, ConvexReLURegressor):
    """Two-layer ReLU network for regression with the best weight decay of a path.

    A :class:`ConvexReLURegressor` whose `alpha` is chosen by cross-validation.

    Parameters
    ----------
    alphas : int or array-like of shape (n_alphas,), default=20
        Number of values between :func:`alpha_max` of all data and `eps` times
        that, evenly spaced on a logarithmic scale, or the values themselves,
        positive.
    eps : float, default=1e-2
        Smallest of these values in units of the largest.
    cv : int, cross-validation generator or iterable, default=None
        As elsewhere in scikit-learn: the number of folds, None for 5, a splitter,
        or pairs of arrays of indices.  The folds are
        not shuffled by default.
    scoring : str or callable, default=None
        A scorer of scikit-learn, or a function of estimator, data and targets.
        By default the mean squared error, whatever the `loss`.
    loss : str, default='squared_error'
        The loss of the training problem.
    epsilon : float, default=1.35
        Threshold of the Huber loss.
    quantile : float, default=0.5
        The quantile that ``loss='quantile'`` predicts.
    negative_slope : float, default=0.0
        Slope of the activation left of zero.
    batch_norm : bool, default=False
        Whether neurons have a batch normalisation, over the samples of the fit.
    arrangements : str, default='adaptive'
        Which activation patterns enter the program.
    n_arrangements : int, default=100
        Number of neurons to place, or of patterns to sample.
    fit_intercept : bool, default=True
        Whether to use free biases in both layers.
    solver : str, default='auto'
        One of 'auto', 'interior_point', 'direction_generation',
        'augmented_lagrangian', 'penalised' and 'cvxpy'.
        Solver of programs over given patterns.
    tol : float, default=1e-2
        Relative duality gap at which each fit stops.
    max_iter : int, default=200
        Limit of rounds or iterations of each fit, but for descent in folds.
    max_neurons : int, default=None
        Limit of the neurons of each network.
    max_time : float, default=None
        Limit of the time of each fit, in seconds.
    random_state : int, RandomState instance or None, default=None
        Seed of the searches, the same for all fits.
    n_jobs : int, default=None
        Number of jobs over the folds.  Backends are chosen from outside, with
        :func:`joblib.parallel_config`.
    verbose : int, default=0
        As of the base estimator, for each fit; of those in folds that are from
        descent, one line each.  The lines begin with fold and `alpha`.

    Attributes
    ----------
    alpha_ : float
        The weight decay chosen.
    alphas_ : ndarray of shape (n_alphas,)
        Those tried, decreasing.
    scores_path_ : ndarray of shape (n_alphas, n_folds)
        Scores on the left-out samples; greater is better.
    mse_path_ : ndarray of shape (n_alphas, n_folds)
        ``-scores_path_``, with the default `scoring` only.
    coefs_, intercepts_, objective_, dual_bound_, dual_gap_, certificate_
        And all other attributes of :class:`ConvexReLURegressor`, of the network
        trained on all data.

    See Also
    --------
    ConvexReLURegressor : With a given `alpha`, and more on the parameters.
    convex_relu_path : The networks for all values of `alpha`.
    sklearn.linear_model.LassoCV : The same conventions for linear models.

    Notes
    -----
    The folds are fixed once.  For each, networks are trained for all of `alphas_`,
    each started from its neighbours.  The scores are averaged over the folds, of
    equal averages the largest `alpha` is taken, and a network for it is trained on
    all data, independently of the paths.

    Scores need no bounds.  With the default `arrangements` and
    `max_neurons`, the networks of the folds are from descent, from
    `n_arrangements` random neurons for the smallest `alpha` on to the largest: their
    objectives are about those of single fits.  Otherwise, and for one feature, they
    are those of :func:`convex_relu_path`, without proofs.

    A fold without sample weight, or in which a fit fails, as for one class only, has
    scores that are not numbers: a `FitFailedWarning` says why, and the other folds
    choose `alpha`.  Values of `alpha` that lack scores in more folds than others are
    not chosen, with a warning.  If no fold has a score, that is an error.

    The losses are summed over the samples, not averaged, so of `k` folds the
    networks of the paths are trained with a weight decay that is larger by the
    factor ``k / (k - 1)``, compared with the losses, than the last one.
    If any fits with a bound stop short of `tol`, one `ConvergenceWarning` says how
    many.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn_convexnn import ConvexReLURegressorCV
    >>> X, y = load_diabetes(return_X_y=True)
    >>> X, y = X / X.std(axis=0), (y - y.mean()) / y.std()
    >>> model = ConvexReLURegressorCV(alphas=5, eps=0.05, cv=3, random_state=0)
    >>> model.fit(X, y).mse_path_.shape
    (5, 3)
    >>> bool(0.4 < model.mse_path_.mean(axis=1).min() < 0.6)
    True
    """

    _base = ConvexReLURegressor
    _default_score = staticmethod(_squared_error_score)
    _parameter_constraints = _constraints(ConvexReLURegressor)

    def __init__(
        self,
        *,
        alphas=20,
        eps=EPS,
        cv=None,
        scoring=None,
        loss="squared_error",
        epsilon=1.35,
        quantile=0.5,
        negative_slope=0.0,
        batch_norm=False,
        arrangements="adaptive",
        n_arrangements=100,
        fit_intercept=True,
        solver="auto",
        tol=1e-2,
        max_iter=200,
        max_neurons=None,
        max_time=None,
        random_state=None,
        n_jobs=None,
        verbose=0,
    ):
        self.alphas = alphas
        self.eps = eps
        self.cv = cv
        self.scoring = scoring
        self.loss = loss
        self.epsilon = epsilon
        self.quantile = quantile
        self.negative_slope = negative_slope
        self.batch_norm = batch_norm
        self.arrangements = arrangements
        self.n_arrangements = n_arrangements
        self.fit_intercept = fit_intercept
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.max_neurons = max_neurons
        self.max_time = max_time
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None, **params) -> Self:
        """Choose the weight decay, and train the network with it.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Sparse data are made dense.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative; for training and scoring.
        **params : dict
            For the splitter and the scorer, with metadata routing enabled: such
            as ``groups``.

        Returns
        -------
        self : object
            If the fit fails or is interrupted, the estimator keeps the state
            that it had before.
        """
        raise_for_params(params, self, "fit")
        with restored_on_failure(self):
            self._fit_and_choose(X, y, sample_weight, params)
            if self.scoring is None:
                self.mse_path_ = -self.scores_path_
        return self


class ConvexReLUClassifierCV(_CrossValidatedMixin, ConvexReLUClassifier):
    """Two-layer ReLU network for classification with the best weight decay of a path.

    A :class:`ConvexReLUClassifier` whose `alpha` is chosen by cross-validation.

    Parameters
    ----------
    alphas : int or array-like of shape (n_alphas,), default=20
        Number of values between :func:`alpha_max` of all data and `eps` times
        that, evenly spaced on a logarithmic scale, or the values themselves,
        positive.
    eps : float, default=1e-2
        Smallest of these values in units of the largest.
    cv : int, cross-validation generator or iterable, default=None
        As elsewhere in scikit-learn: the number of folds, None for 5, a splitter,
        or pairs of arrays of indices.  The folds are
        stratified, and not shuffled, by default.
    scoring : str or callable, default=None
        A scorer of scikit-learn, or a function of estimator, data and targets.
        By default the mean log-likelihood of the labels if `loss` is 'log_loss', and
        accuracy otherwise.
    loss : {'log_loss', 'squared_hinge', 'hinge'}, default='log_loss'
        The loss of the training problem.
    class_weight : dict, 'balanced' or None, default=None
        Weights of the classes in training, multiplied with those of the samples.
    negative_slope : float, default=0.0
        Slope of the activation left of zero.
    batch_norm : bool, default=False
        Whether neurons have a batch normalisation, over the samples of the fit.
    arrangements : str, default='adaptive'
        Which activation patterns enter the program.
    n_arrangements : int, default=100
        Number of neurons to place, or of patterns to sample.
    fit_intercept : bool, default=True
        Whether to use free biases in both layers.
    solver : str, default='auto'
        One of 'auto', 'interior_point', 'direction_generation',
        'augmented_lagrangian', 'penalised' and 'cvxpy'.
        Solver of programs over given patterns.
    tol : float, default=1e-2
        Relative duality gap at which each fit stops.
    max_iter : int, default=200
        Limit of rounds or iterations of each fit, but for descent in folds.
    max_neurons : int, default=None
        Limit of the neurons of each network.
    max_time : float, default=None
        Limit of the time of each fit, in seconds.
    random_state : int, RandomState instance or None, default=None
        Seed of the searches, the same for all fits.
    n_jobs : int, default=None
        Number of jobs over the folds.  Backends are chosen from outside, with
        :func:`joblib.parallel_config`.
    verbose : int, default=0
        As of the base estimator, for each fit; of those in folds that are from
        descent, one line each.  The lines begin with fold and `alpha`.

    Attributes
    ----------
    alpha_ : float
        The weight decay chosen.
    alphas_ : ndarray of shape (n_alphas,)
        Those tried, decreasing.
    scores_path_ : ndarray of shape (n_alphas, n_folds)
        Scores on the left-out samples; greater is better.
    coefs_, intercepts_, objective_, dual_bound_, dual_gap_, certificate_
        And all other attributes of :class:`ConvexReLUClassifier`, of the network
        trained on all data.

    See Also
    --------
    ConvexReLUClassifier : With a given `alpha`, and more on the parameters.
    convex_relu_path : The networks for all values of `alpha`.
    sklearn.linear_model.LogisticRegressionCV : The same for linear models.

    Notes
    -----
    The folds are fixed once.  For each, networks are trained for all of `alphas_`,
    each started from its neighbours.  The scores are averaged over the folds, of
    equal averages the largest `alpha` is taken, and a network for it is trained on
    all data, independently of the paths.

    Scores need no bounds.  With the default `arrangements` and
    `max_neurons`, the networks of the folds are from descent, from
    `n_arrangements` random neurons for the smallest `alpha` on to the largest: their
    objectives are about those of single fits.  Otherwise, and for one feature, they
    are those of :func:`convex_relu_path`, without proofs.

    A fold without sample weight, or in which a fit fails, as for one class only, has
    scores that are not numbers: a `FitFailedWarning` says why, and the other folds
    choose `alpha`.  Values of `alpha` that lack scores in more folds than others are
    not chosen, with a warning.  If no fold has a score, that is an error.

    The losses are summed over the samples, not averaged, so of `k` folds the
    networks of the paths are trained with a weight decay that is larger by the
    factor ``k / (k - 1)``, compared with the losses, than the last one.

    The log-likelihood tells networks apart that make the same mistakes, and its
    path is smoother than that of the accuracy.
    If any fits with a bound stop short of `tol`, one `ConvergenceWarning` says how
    many.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_convexnn import ConvexReLUClassifierCV
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> X = StandardScaler().fit_transform(X)
    >>> model = ConvexReLUClassifierCV(alphas=5, cv=3, random_state=0).fit(X, y)
    >>> bool(-0.1 < model.scores_path_.mean(axis=1).max() < 0)
    True
    """

    _base = ConvexReLUClassifier
    _default_score = staticmethod(_likelihood_score)
    _parameter_constraints = _constraints(ConvexReLUClassifier)

    def __init__(
        self,
        *,
        alphas=20,
        eps=EPS,
        cv=None,
        scoring=None,
        loss="log_loss",
        class_weight=None,
        negative_slope=0.0,
        batch_norm=False,
        arrangements="adaptive",
        n_arrangements=100,
        fit_intercept=True,
        solver="auto",
        tol=1e-2,
        max_iter=200,
        max_neurons=None,
        max_time=None,
        random_state=None,
        n_jobs=None,
        verbose=0,
    ):
        self.alphas = alphas
        self.eps = eps
        self.cv = cv
        self.scoring = scoring
        self.loss = loss
        self.class_weight = class_weight
        self.negative_slope = negative_slope
        self.batch_norm = batch_norm
        self.arrangements = arrangements
        self.n_arrangements = n_arrangements
        self.fit_intercept = fit_intercept
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.max_neurons = max_neurons
        self.max_time = max_time
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None, **params) -> Self:
        """Choose the weight decay, and train the network with it.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Sparse data are made dense.
        y : array-like of shape (n_samples,)
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative; for training and scoring.
        **params : dict
            For the splitter and the scorer, with metadata routing enabled: such
            as ``groups``.

        Returns
        -------
        self : object
            If the fit fails or is interrupted, the estimator keeps the state
            that it had before.
        """
        raise_for_params(params, self, "fit")
        with restored_on_failure(self):
            self._fit_and_choose(X, y, sample_weight, params)
        return self
