"""How far a network can be from the best one: dual bounds and gaps.

For a network with outputs ``f`` and objective ``F`` put ``nu = -grad L(f)``
and ``kappa(nu) = max ||nu^T act(X u)||`` over unit vectors ``u``.  Then
``G(t nu) <= F* <= F`` for the best objective ``F*`` of any width and every
``t`` in the domain with ``t kappa <= alpha``.  The same holds for every other
``nu`` in the domain, and the best one comes from training.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from os import PathLike
from time import perf_counter
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state

from sklearn_convexnn._certificate_files import (
    fitting_fields,
    read_fields,
    write_fields,
)
from sklearn_convexnn._convolution_problem import build_convolution
from sklearn_convexnn._convolutional_input import (
    layout_of_certificate,
    plain_layout,
    read_convolution,
)
from sklearn_convexnn._memory import check_patterns
from sklearn_convexnn._network_input import (
    class_weighted,
    counted,
    read_arrays,
    read_network,
    read_numbers,
    read_samples,
    read_targets,
    told_by,
)
from sklearn_convexnn._preparing import grouped, whitened
from sklearn_convexnn._sklearn import (
    Interval,
    StrOptions,
    check_feature_names,
    check_parameters,
)
from sklearn_convexnn._utils.threads import blas_threads_for
from sklearn_convexnn._utils.types import Data, Seed
from sklearn_convexnn._verification import Verification, verify
from sklearn_convexnn.families.two_layer.family import TwoLayer
from sklearn_convexnn.losses import (
    CLASSIFICATION_LOSSES,
    LOSS_CONSTRAINTS,
    LOSS_OF,
    NEVER,
    REGRESSION_LOSSES,
    Softmax,
)
from sklearn_convexnn.model.problem import Problem
from sklearn_convexnn.model.units import Units, units_of
from sklearn_convexnn.patterns.arrangements import without_rounding
from sklearn_convexnn.training.bounds import GivenNetwork, lower_bound

_CONSTRAINTS = {
    "alpha": [Interval(Real, 0, None, closed="neither")],
    "loss": [StrOptions({*REGRESSION_LOSSES, *CLASSIFICATION_LOSSES})],
    **LOSS_CONSTRAINTS,
    "fit_intercept": ["boolean"],
    "negative_slope": [Interval(Real, -1, 1, closed="left")],
    "batch_norm": ["boolean"],
    "convolution": [dict, None],
    "kind": [StrOptions({"auto", "global", "estimated", "restricted"})],
    "tol": [Interval(Real, 0, 1, closed="right")],
    "max_time": [Interval(Real, 0, None, closed="right"), None],
    "n_arrangements": [Interval(Integral, 1, None, closed="left")],
    "random_state": ["random_state"],
}
_VERIFY_CONSTRAINTS = {
    "n_starts": [Interval(Integral, 1, None, closed="left")],
    "random_state": ["random_state"],
}


@dataclass(frozen=True)
class Certificate:
    """Objective of a network with a lower bound of the best one.

    It has all that a check of the bound needs but the data.  The bound is the value of
    the dual function at `dual`, and no neuron has a slope above `alpha` there: two
    facts that :meth:`verify` looks at, and anyone can with a program of their own.

    Attributes
    ----------
    objective : float
        Objective of the network: sum of the weighted losses plus
        ``alpha / 2`` times the sum of the squared weights; with `batch_norm` those of
        the hidden layer are the variances of the pre-activations.
    dual_bound : float
        No network in the scope of `kind` has a smaller objective.
    dual_gap : float
        ``objective - dual_bound``, in the units of the objective.
    kind : {'global', 'estimated', 'restricted'}
        'global': the bound is proven for every network of every width.
        'estimated': it holds for every network of every width, if the search
        for the steepest neuron has not missed it.
        'restricted': it holds for the networks whose neurons have the sampled
        activation patterns or those of the network itself, and says nothing
        about the others.  With several outputs the steepest neuron of these
        patterns is searched for if no bound of its slope is close, and the
        bound then holds if the search has not missed it.
    kappa : float
        Largest slope that adding a neuron can have at the network, divided by
        ``alpha``: one at an optimum, more where a neuron is missing.  With
        several outputs the slope is the norm of those of the outputs.  A proven
        upper bound of it if `kind` is 'global'; what a search allows for, at least
        that of the steepest neuron found, if it is 'estimated'.  This is about the
        network; at `dual`, which is in general not the dual point of the network, no
        slope is above ``alpha``.
    n_patterns : int
        Number of activation patterns that were checked; 0 if the bound needs
        none.
    dual : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Dual point of the bound, with a row for each sample in the order of the given
        `X`, zero for those of weight zero, in the units of the given `y`.  It is in
        the domain of the dual function, whose value there is `dual_bound`, and with
        free biases its columns sum to zero.
    alpha : float
        Weight decay.
    loss : str
        As of `certify`.
    epsilon, quantile : float or None
        Parameter of the Huber and the pinball loss; None for the others.
    fit_intercept : bool
        Whether biases are free.
    negative_slope : float
        Of the activation.
    batch_norm : bool
        Whether the weight decay is that of the scales of a batch normalisation in
        place of the hidden weights.
    convolution : dict or None
        Of a network with filters the layout, in numbers and lists: ``input_shape`` and
        ``n_channels``, ``kernel_size``, ``strides``, the zeros before and after each
        axis as ``padding``, ``pooling`` and ``pool_size``, and ``channels_first`` if
        `X` has channels before positions.
    n_features : int
        Number of columns of `X`.
    one_vs_rest : bool
        Whether the loss of several classes is a sum over the classes; False for the
        softmax.
    sample_weight : ndarray of shape (n_samples,) or None
        Times the class weights of the network; None if all are one.
    classes : ndarray of shape (n_classes,) or None
        Labels in the order of the outputs; with one output the second is the positive
        one.  None for a regression loss.

    See Also
    --------
    certify : What makes a certificate.
    Verification : The outcome of `verify`.

    Notes
    -----
    Certificates are equal if all but their arrays are.
    """

    objective: float
    dual_bound: float
    dual_gap: float
    kind: str
    kappa: float
    n_patterns: int
    dual: np.ndarray = field(repr=False, compare=False)
    alpha: float
    loss: str
    epsilon: float | None
    quantile: float | None
    fit_intercept: bool
    negative_slope: float
    batch_norm: bool
    convolution: dict | None
    n_features: int
    one_vs_rest: bool
    sample_weight: np.ndarray | None = field(repr=False, compare=False)
    classes: np.ndarray | None = field(repr=False, compare=False)

    def verify(
        self,
        X: Data,
        y: ArrayLike,
        *,
        n_starts: int = 200,
        random_state: Seed = None,
    ) -> Verification:
        r"""Search for a neuron that contradicts the bound.

        The search is plain and slow, and shares no code with `certify`: from each of
        `n_starts` directions it goes uphill on the slope
        :math:`\|N^T \mathrm{act}(X u + b)\|` of neurons with :math:`\|u\| = 1` at the
        dual point `N`, with the best of all biases in every step.  Neurons that are
        linear on the data are looked at as well.  With `batch_norm` the data are
        whitened first; of filters the outputs are pooled.  The bound that follows from
        the steepest of them, and from the dual function, is compared with the claim.

        A claim that does not hold is refuted for good.  One that holds has not been
        contradicted: more starts and other seeds can still do so, unless it has been
        proven (`kind` is 'global').  The objective of the network is not looked at.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            As `certify` was given it, of filters also with an axis for each of the axes
            of the inputs, with the same order of the samples.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            As `certify` was given it.
        n_starts : int, default=200
            Number of directions to start from.
        random_state : int, RandomState instance or None, default=None
            For the directions.

        Returns
        -------
        verification : Verification

        Raises
        ------
        ValueError
            If the attributes do not fit together, if `X` or `y` do not fit the
            certificate, or if `kind` is 'restricted': other neurons than those of its
            patterns, which a search finds, are no contradiction to such a bound.

        Examples
        --------
        >>> from dataclasses import replace
        >>> from sklearn.datasets import make_regression
        >>> from sklearn_convexnn import ConvexReLURegressor, certify
        >>> X, y = make_regression(30, 2, noise=20, random_state=0)
        >>> net = ConvexReLURegressor(random_state=0).fit(X, y)
        >>> certificate = certify(net, X, y, alpha=net.alpha_, random_state=0)
        >>> certificate.dual.shape
        (30,)
        >>> verification = certificate.verify(X, y, n_starts=50, random_state=0)
        >>> verification.holds, verification.unit
        (True, None)
        >>> too_much = replace(certificate, dual_bound=1.01 * certificate.dual_bound)
        >>> too_much.verify(X, y, n_starts=50, random_state=0).holds
        False
        """
        params = {"n_starts": n_starts, "random_state": random_state}
        check_parameters(_VERIFY_CONSTRAINTS, params, "verify")
        fitting_fields(vars(self), of_file=False)
        if self.kind == "restricted":
            raise ValueError(
                "kind='restricted' is a bound for some activation patterns only, which "
                "a search over all neurons cannot check. Use certify with "
                "kind='estimated' or 'global'."
            )
        if self.convolution is not None:
            X = layout_of_certificate(self.convolution).read(X)[0]
        X, y = read_arrays(X, y)
        n_samples = len(self.dual)
        for name, count in ("X", len(X)), ("y", len(y)):
            if count != n_samples:
                raise ValueError(
                    f"{name} has {counted(count, 'sample')}, but the certificate is "
                    f"about {n_samples}. Give all that certify was given, also those "
                    "of weight zero, in the same order."
                )
        if X.shape[1] != self.n_features:
            raise ValueError(
                f"X has {counted(X.shape[1], 'feature')}, but the certificate is about "
                f"{self.n_features}. Give the X that certify was given."
            )
        if self.classes is None:
            # Without weight, a sample may have any target.
            used = slice(None) if self.sample_weight is None else self.sample_weight > 0
            read_numbers(y[used], self.loss)
        return verify(self, X, y, n_starts, random_state)

    def save(self, path: str | PathLike) -> None:
        """Write the certificate to a file that needs no pickle to be read.

        Parameters
        ----------
        path : str or path-like
            The suffix decides on the format: ``.json`` for text that anyone can read,
            or ``.npz`` for arrays of NumPy, which is smaller.  Both keep every digit.

        Raises
        ------
        ValueError
            If the suffix is another one, or the attributes do not fit together.

        See Also
        --------
        load : The way back.
        """
        write_fields(path, vars(self))

    @classmethod
    def load(cls, path: str | PathLike) -> "Certificate":
        """Read a certificate from a file.

        Parameters
        ----------
        path : str or path-like
            Of a file that :meth:`save` has written.

        Returns
        -------
        certificate : Certificate

        Raises
        ------
        ValueError
            If the suffix is neither ``.json`` nor ``.npz``, or the file is not that of
            a certificate, with attributes that fit together.

        Examples
        --------
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> from sklearn_convexnn import Certificate, certify
        >>> X, y = np.arange(8.0)[:, None], np.arange(8) % 3
        >>> network = [np.ones((1, 2)), np.ones((2, 1))], [np.zeros(2), np.zeros(1)]
        >>> certificate = certify(network, X, y, alpha=0.5)
        >>> with TemporaryDirectory() as folder:
        ...     certificate.save(Path(folder) / "certificate.json")
        ...     loaded = Certificate.load(Path(folder) / "certificate.json")
        >>> loaded == certificate, np.array_equal(loaded.dual, certificate.dual)
        (True, True)
        """
        return cls(**read_fields(path))


def certify(
    network: BaseEstimator | tuple[Sequence[ArrayLike], Sequence[ArrayLike]] | Any,
    X: Data,
    y: ArrayLike,
    *,
    alpha: float,
    loss: str | None = None,
    epsilon: float | None = None,
    quantile: float | None = None,
    sample_weight: ArrayLike | None = None,
    fit_intercept: bool | None = None,
    negative_slope: float | None = None,
    batch_norm: bool | None = None,
    convolution: dict | None = None,
    kind: Literal["auto", "global", "estimated", "restricted"] = "auto",
    tol: float = 1e-2,
    max_time: float | None = None,
    n_arrangements: int = 100,
    random_state: Seed = None,
) -> Certificate:
    r"""Bound how far any two-layer network is from the best one.

    The network may come from anywhere: an :class:`MLPRegressor
    <sklearn.neural_network.MLPRegressor>` or :class:`MLPClassifier
    <sklearn.neural_network.MLPClassifier>`, an estimator of this package, a
    ``torch.nn.Sequential``, or plain arrays.  It may be convolutional.  Its objective
    is

    .. math::
        \sum_i s_i\, \ell(f(x_i), y_i)
        + \tfrac{\alpha}{2} \sum (\text{all weights})^2,

    with free biases, or none.  This is what scikit-learn's MLP minimises with
    the same `alpha` and a full-batch solver; only with ``c`` outputs and squared
    error, which it averages over them, its `alpha` is ours divided by ``c``.

    `certify` trains for the optimum of this objective, to a relative gap of
    `tol`.  So it does not matter how good the network is: ``dual_gap`` is its
    distance from the best network of any width, and too large by at most `tol`
    times the optimum.  This holds for the kinds 'global' and 'estimated' of a
    certificate by default, and not for a proof that is insisted on where the
    data are too large for it.

    Parameters
    ----------
    network : estimator, torch.nn.Sequential or tuple (coefs, intercepts)
        Fitted estimator with ``coefs_`` and ``intercepts_``, or the two lists:
        ``coefs[0]`` of shape (n_features, n_neurons), ``coefs[1]`` of shape
        (n_neurons, n_outputs), ``intercepts[0]`` of shape (n_neurons,) and
        ``intercepts[1]`` of shape (n_outputs,).  With `convolution`, the filters
        ``coefs[0]`` are of shape (patch_size, n_neurons), or (n_neurons, ...,
        n_channels) with the axes of the kernel in the middle, and ``coefs[1]`` is of
        shape (n_positions * n_neurons, n_outputs), as of :class:`ConvexCNNRegressor`.
        A sequence of torch has the layers Linear, ReLU, Linear, or Conv, ReLU, perhaps
        a pooling, Flatten, Linear.
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
        Of a convolutional network it may have an axis for each of the axes of the
        inputs, and one for channels: the last one, and of a sequence of torch, whose
        `X` is always of the shape that it takes, the one behind the samples.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Targets; for classification losses labels, of two classes if there is
        one output, otherwise of as many classes as there are outputs.
    alpha : float
        Weight decay, positive.
    loss : str, default=None
        One of 'squared_error', 'huber', 'quantile', 'poisson', 'log_loss',
        'squared_hinge' and 'hinge'.  By default the loss of `network`, or
        'squared_error' for arrays.  With several outputs 'log_loss' is that of the
        softmax of the outputs, and 'squared_hinge' and 'hinge' are one-vs-rest,
        added up.
    epsilon : float, default=None
        Threshold of the Huber loss; by default that of `network` if this is its loss,
        else 1.35.
    quantile : float, default=None
        Quantile of the pinball loss; by default that of `network` if this is its
        loss, else 0.5.
    sample_weight : array-like of shape (n_samples,), default=None
        Multiplied with the class weights of `network`, if it has any.
    fit_intercept : bool, default=None
        Whether the networks compared with have free biases.  By default that
        of `network`, or True if it has no such parameter.
    negative_slope : float, default=None
        Slope of the activation left of zero; by default that of `network`, or
        0.0 (ReLU).
    batch_norm : bool, default=None
        Whether the objective is that of networks with a batch normalisation of each
        neuron, where the weight decay is that of its scale: the squared weights of a
        neuron are replaced by the variance of its pre-activation over `X`.  By default
        that of `network`, or False.  A network with such layers is given by the weights
        and biases that they amount to.
    convolution : dict, default=None
        Of a network with filters that is given by arrays: any of the parameters
        `input_shape`, `kernel_size`, `strides`, `padding`, `pooling` and `pool_size`
        of :class:`ConvexCNNRegressor`, with the same defaults; the size of the kernel
        is that of filters that have axes.  Estimators and sequences of torch say it
        themselves.  The bound is then over all numbers of filters, and of the kind
        'estimated'.
    kind : {'auto', 'global', 'estimated', 'restricted'}, default='auto'
        'global' asks for a proven bound over all networks.  It is within
        `tol` of the optimum for data of special structure (see Notes), of few
        activation patterns, or for which branch and bound closes, and may be
        far from it otherwise.
        'estimated' asks for a bound over all networks that rests on a search
        for the steepest neuron, without a proof.
        'restricted' bounds over the networks on sampled patterns and those of
        `network`; if these are all patterns, it is as 'global'.
        'auto' is 'global' if that can be within `tol`, otherwise 'estimated'.
    tol : float, default=1e-2
        Relative gap to which the optimum is known when training for it ends.
    max_time : float, default=None
        Seconds after which it ends, with the bound that it has; 60 % of them
        are for training for the optimum.  By default there is no limit.
    n_arrangements : int, default=100
        Number of patterns to sample for 'restricted'.
    random_state : int, RandomState instance or None, default=None
        For the search for neurons and the sampling of patterns.

    Returns
    -------
    certificate : Certificate

    Raises
    ------
    ValueError
        If `network` is not a two-layer network with a supported activation
        and loss, or does not fit the data.

    Warns
    -----
    ConvergenceWarning
        If training for the optimum stops short of `tol`.  The bound is valid
        nevertheless.

    Notes
    -----
    There are two dual points, that of the network itself and that of the
    optimum, and the better bound is kept.  The optimum comes from column
    generation that starts at the neurons of the network.  With one output it
    comes from the convex program over all patterns if there are at most 2000,
    and 200 000 patterns times samples, and from the structure of the data, for
    one feature or others of rank one, and for orthogonal samples; with several
    it comes from the structure for some orthogonal samples of one length.

    Branch and bound over the missing neuron is attempted, with one output, for
    at most 60 distinct samples or data of rank at most 5.  Where it does not
    close, all patterns are visited, if there are at most 20 000, and 10 million
    patterns times samples; beyond that, 'global' takes the best of some
    relaxations.

    With several outputs the competitors share a hidden layer under plain
    weight decay [3]_.  Branch and bound is then attempted for data of rank at
    most 5, or 4 with free biases.  Where it does not close, the slope is
    bounded pattern by pattern, and in the end by the root of the sum of
    squares of those of single outputs, which can be far above it.

    References
    ----------
    .. [1] Pilanci, M. and Ergen, T. (2020). "Neural Networks are Convex
       Regularizers". ICML. Section 3 and Appendix (dual program).
    .. [2] Ergen, T. and Pilanci, M. (2021). "Convex Geometry and Duality of
       Over-parameterized Neural Networks". JMLR 22. Section 6 (cutting planes).
    .. [3] Sahiner, A., Ergen, T., Pauly, J. and Pilanci, M. (2021).
       "Vector-output ReLU Neural Network Problems are Copositive Programs:
       Convex Analysis of Two Layer Networks and Polynomial-time Algorithms".
       ICLR. Theorem 1 (the dual of several outputs).

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> from sklearn.neural_network import MLPRegressor
    >>> from sklearn_convexnn import certify
    >>> X, y = make_regression(30, 2, noise=20, random_state=0)
    >>> y = y / y.std()
    >>> mlp = MLPRegressor(alpha=2.0, solver="lbfgs", random_state=0).fit(X, y)
    >>> certificate = certify(mlp, X, y, alpha=2.0)
    >>> certificate.kind
    'global'
    >>> bool(certificate.dual_bound <= certificate.objective)
    True
    """
    begin = perf_counter()
    told = {"loss": loss, "epsilon": epsilon, "quantile": quantile}
    told |= {"fit_intercept": fit_intercept, "negative_slope": negative_slope}
    told |= {"batch_norm": batch_norm}
    told = told_by(network, **told)
    others = {"alpha": alpha, "kind": kind, "tol": tol, "max_time": max_time}
    others |= {"n_arrangements": n_arrangements, "random_state": random_state}
    others |= {"convolution": convolution}
    check_parameters(_CONSTRAINTS, {**told, **others}, "certify")
    params = {name: told.pop(name) for name in ("epsilon", "quantile")}
    layers, inputs = read_convolution(network, convolution)
    if inputs is not None:
        X, told["layout"] = inputs.read(X)
        kind = _kind_of_filters(kind)
    plain = read_network(layers, **told)
    max_time = np.inf if max_time is None else max_time
    if hasattr(network, "n_features_in_"):
        check_feature_names(network, X, reset=False)
    case = _case(network, plain, (X, y, sample_weight), float(alpha), params)
    if inputs is not None:
        case.told["convolution"] = plain_layout(plain.layout, inputs.channels_first)
    X = case.given.problem.X
    if kind == "restricted":
        check_patterns(X.shape, n_arrangements, plain.fit_intercept)
    with blas_threads_for(len(X)):
        bound = lower_bound(
            case.given,
            kind,
            tol=tol,
            deadline=begin + max_time,
            n_arrangements=n_arrangements,
            rng=check_random_state(random_state),
        )
        return case.certificate(bound)


def _kind_of_filters(kind):
    """The kind of a bound for networks with filters."""
    if kind in ("global", "restricted"):
        raise ValueError(
            f"kind={kind!r} is for networks without convolution; bounds of filters "
            "rest on a search, kind='estimated'."
        )
    return "estimated"


@dataclass(frozen=True)
class _Case:
    """A network that is given, with its problem, and how that comes of the user's data.

    Attributes
    ----------
    given : GivenNetwork
    units : Units
        Of the problem.
    weight : ndarray of shape (n_samples,)
        Of the samples of the user.
    group : ndarray of int, shape (n_positive_weights,)
        Which sample of the problem each of those with a weight is.
    outputs : ndarray of bool, shape (n_outputs,)
        Which outputs of the network the problem has.
    told : dict
        Attributes of `Certificate` that say what the problem is.
    """

    given: GivenNetwork
    units: Units
    weight: np.ndarray
    group: np.ndarray
    outputs: np.ndarray
    told: dict

    def certificate(self, bound):
        """What is known, in the units of the user."""
        objective, value = self.given.objective(), self.units.value
        return Certificate(
            objective=float(value * objective),
            dual_bound=float(value * bound.value),
            dual_gap=float(value * (objective - bound.value)),
            kind=bound.kind,
            kappa=float(bound.kappa),
            n_patterns=bound.n_patterns,
            dual=self.dual(bound.dual),
            **self.told,
        )

    def dual(self, N):
        """Dual variables of the user's samples: of equal ones, by weight."""
        used = self.weight > 0
        weight = self.weight[used]
        share = weight / np.bincount(self.group, weights=weight)[self.group]
        dual = np.zeros((len(used), len(self.outputs)))
        rows = share[:, None] * (self.units.dual * N)[self.group]
        dual[np.ix_(used, self.outputs)] = rows
        return dual[:, 0] if len(self.outputs) == 1 else dual


def _case(network, plain, data, alpha, params):
    """The network with the problem of the data that it is judged by.

    `params` are those of the loss.
    """
    X, y, weight, used = read_samples(*data)
    n_features, n_outputs = plain.n_features, len(plain.intercepts[1])
    Y, loss, classes = read_targets(network, plain.loss, y, weight, n_outputs, **params)
    # All but classes of which an estimator has not seen any weight.
    seen = (plain.intercepts[1] > NEVER) | np.any(Y > 0, axis=0)
    if n_outputs == 1:
        seen[:] = True
    plain, Y = plain.select(seen), Y[:, seen]
    if X.shape[1] != n_features:
        raise ValueError(
            f"X has {counted(X.shape[1], 'feature')}, but the network has {n_features}."
        )
    weight = class_weighted(network, y, weight)
    everyone = np.zeros(len(used))
    everyone[used] = weight
    told = {
        "alpha": alpha,
        "loss": plain.loss,
        **{
            name: float(params[name]) if plain.loss == loss_of_it else None
            for name, loss_of_it in LOSS_OF.items()
        },
        "fit_intercept": plain.fit_intercept,
        "negative_slope": plain.negative_slope,
        "batch_norm": plain.batch_norm,
        "convolution": None,
        "n_features": n_features,
        "one_vs_rest": bool(
            classes is not None and n_outputs > 1 and not isinstance(loss, Softmax)
        ),
        "sample_weight": None if np.all(everyone == 1.0) else everyone,
        # Labels as a file gives them back.
        "classes": None if classes is None else np.array(classes.tolist()),
    }
    *distinct, group = grouped(X, Y, weight)
    given, units = _in_units(plain, *distinct, loss, alpha)
    return _Case(given, units, everyone, group, seen, told)


def _in_units(network, X, Y, sample_weight, loss, alpha):
    """The network with its problem in units of order one, and the units."""
    if network.layout is not None:
        return _filters_in_units(network, X, Y, sample_weight, loss, alpha)
    free_bias, whitening = network.fit_intercept, None
    if network.batch_norm:
        X, whitening = whitened(X, sample_weight)
    centre = np.zeros(X.shape[1])
    if free_bias:
        # Free biases absorb the shift; without it, less is lost to rounding.
        centre = X.mean(axis=0)
        X = X - centre
    units, Y, sample_weight, loss = units_of(
        X, Y, sample_weight, loss, free_bias, centre
    )
    X = without_rounding(X) / units.data
    family = TwoLayer(X, free_bias, network.negative_slope)
    problem = Problem(family, Y, sample_weight, loss, units.weight_decay(alpha))
    if whitening is not None:
        units = units.after(whitening)
    layers = units.layers(network.coefs, network.intercepts)
    return GivenNetwork(problem, *layers), units


def _filters_in_units(network, X, Y, sample_weight, loss, alpha):
    """As `_in_units`, of filters."""
    told = SimpleNamespace(
        loss=loss,
        alpha=alpha,
        fit_intercept=network.fit_intercept,
        batch_norm=network.batch_norm,
    )
    problem, units = build_convolution(X, Y, sample_weight, told, layout=network.layout)
    layers = units.layers(network.coefs, network.intercepts)
    return GivenNetwork(problem, *layers), units
