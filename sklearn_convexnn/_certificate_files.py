"""Files of certificates: JSON, or arrays of NumPy with the rest as JSON."""

import json
from io import BytesIO
from numbers import Integral, Real
from pathlib import Path

import numpy as np

from sklearn_convexnn._sklearn import Interval, StrOptions, check_parameters
from sklearn_convexnn.losses import (
    CLASSIFICATION_LOSSES,
    LOSS_CONSTRAINTS,
    LOSS_OF,
    REGRESSION_LOSSES,
)

_FORMAT, _VERSION = "sklearn_convexnn.Certificate", 1
# Kinds of the types of NumPy: of numbers, and of labels.
_ARRAYS = {"dual": "iuf", "sample_weight": "iuf", "classes": "biufSU"}
# Integers of a file may be beyond all floating-point numbers.
_LARGEST = int(np.finfo(float).max)
_FINITE = Interval(Real, None, None, closed="neither")
_CONSTRAINTS = {
    "objective": [_FINITE],
    "dual_bound": [_FINITE],
    "dual_gap": [_FINITE],
    "kind": [StrOptions({"global", "estimated", "restricted"})],
    "kappa": [Interval(Real, 0, None, closed="left")],
    "n_patterns": [Interval(Integral, 0, None, closed="left")],
    "alpha": [Interval(Real, 0, None, closed="neither")],
    "loss": [StrOptions({*REGRESSION_LOSSES, *CLASSIFICATION_LOSSES})],
    **{name: [*allowed, None] for name, allowed in LOSS_CONSTRAINTS.items()},
    "fit_intercept": [bool],
    "negative_slope": [Interval(Real, -1, 1, closed="left")],
    "batch_norm": [bool],
    "convolution": [dict, None],
    "n_features": [Interval(Integral, 1, None, closed="left")],
    "one_vs_rest": [bool],
}


def write_fields(path, fields):
    """Write the attributes of a certificate; see `Certificate.save`.

    Parameters
    ----------
    path : str or path-like
    fields : dict

    Raises
    ------
    ValueError
        If the fields do not fit together.
    """
    path, suffix = _checked(path)
    fields = fitting_fields(fields)
    told = {"format": _FORMAT, "version": _VERSION}
    told |= {name: fields[name] for name in _CONSTRAINTS}
    arrays = {name: fields[name] for name in _ARRAYS}
    if suffix == ".json":
        lists = {
            name: None if array is None else array.tolist()
            for name, array in arrays.items()
        }
        path.write_text(json.dumps({**told, **lists}, indent=1), encoding="utf-8")
        return
    arrays = {name: array for name, array in arrays.items() if array is not None}
    with path.open("wb") as file:
        np.savez_compressed(file, told=np.array(json.dumps(told)), **arrays)


def read_fields(path):
    """Read what `write_fields` has written.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    fields : dict

    Raises
    ------
    ValueError
        If it is not the file of a certificate, with fields that fit together.
    """
    path, suffix = _checked(path)
    content = path.read_bytes()
    try:
        fields = _parsed(content, suffix)
        told = fields.pop("format", None), fields.pop("version", None)
        if told != (_FORMAT, _VERSION):
            raise ValueError(
                f"format and version must be {_FORMAT!r} and {_VERSION}, got {told}."
            )
        return fitting_fields(fields)
    except Exception as error:
        # Foreign fields can fail in any step, with an error of any kind.
        raise ValueError(
            f"{path} is not a certificate that Certificate.save has written: {error}"
        ) from error


def _checked(path):
    """The path and its suffix, if there is a format for it."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".json", ".npz"):
        raise ValueError(
            f"path must end in '.json' or '.npz', which is the format, got {path}."
        )
    return path, suffix


def _parsed(content, suffix):
    """The fields in the bytes of a file."""
    try:
        return {**json.loads(content)} if suffix == ".json" else _read_npz(content)
    except Exception:
        # A damaged file can fail in any way, and NumPy would advise to use pickle.
        raise ValueError(f"it is damaged, or no {suffix} file.") from None


def _read_npz(content):
    with np.load(BytesIO(content), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    told = json.loads(str(arrays.pop("told")))
    return {**dict.fromkeys(_ARRAYS), **told, **arrays}


def fitting_fields(fields, of_file=True):
    """The fields of a certificate, if all are there and fit together.

    Parameters
    ----------
    fields : dict
    of_file : bool, default=True
        Whether the gap has to be that of the objective and the bound, also where a
        claim has been changed.

    Returns
    -------
    fields : dict

    Raises
    ------
    ValueError
    """
    known = {*_CONSTRAINTS, *_ARRAYS}
    if missing := sorted(known - {*fields}):
        raise ValueError(f"fields are missing: {', '.join(missing)}.")
    if unknown := sorted({*fields} - known):
        raise ValueError(f"fields are unknown: {', '.join(unknown)}.")
    told = {name: fields[name] for name in _CONSTRAINTS}
    for name, value in told.items():
        # To Python, truth values are numbers.
        if isinstance(value, bool) and bool not in _CONSTRAINTS[name]:
            raise ValueError(f"{name} must be a number, got {value}.")
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise ValueError(f"{name} is an integer beyond all floating-point numbers.")
    check_parameters(_CONSTRAINTS, told, "Certificate")
    arrays = {name: _as_array(name, fields[name]) for name in _ARRAYS}
    _check_arrays(told["loss"], **arrays)
    _check_told(told, arrays["dual"])
    if of_file:
        _check_gap(told)
    return {**told, **arrays}


def _as_array(name, values):
    """An array of finite numbers, or of labels; None if there is none."""
    if values is None:
        return None
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} must be an array: {error}") from error
    kind = array.dtype.kind
    if kind not in _ARRAYS[name] or (kind == "f" and not np.all(np.isfinite(array))):
        raise ValueError(f"{name} must be an array of labels or of finite numbers.")
    return array if name == "classes" else array.astype(float)


def _check_arrays(loss, dual, sample_weight, classes):
    """Raise ValueError for arrays that do not fit together, or the loss."""
    if dual is None or dual.ndim not in (1, 2) or dual.size == 0:
        raise ValueError("dual must have a row for each sample, and outputs.")
    if sample_weight is not None and (
        sample_weight.shape != dual.shape[:1]
        or np.min(sample_weight) < 0
        or not np.any(sample_weight)
    ):
        raise ValueError(
            "sample_weight must have a non-negative number for each row of dual, not "
            "all of them zero."
        )
    if loss in REGRESSION_LOSSES:
        if classes is not None:
            raise ValueError(f"classes must be None with loss={loss!r}.")
        return
    n_classes = max(2, _n_outputs(dual))
    if (
        classes is None
        or classes.shape != (n_classes,)
        or len(np.unique(classes)) < n_classes
    ):
        raise ValueError(
            f"classes must be {n_classes} distinct labels: loss={loss!r}, and dual has "
            f"the shape {dual.shape}."
        )


def _check_told(told, dual):
    """Raise ValueError for fields without arrays that do not fit together."""
    loss = told["loss"]
    for name, its_loss in LOSS_OF.items():
        if (told[name] is None) == (loss == its_loss):
            needed = "a number" if loss == its_loss else "None"
            raise ValueError(f"{name} must be {needed} with loss={loss!r}.")
    if told["convolution"] is not None:
        _check_convolution(told["convolution"], told["n_features"])
        if told["negative_slope"] != 0:
            raise ValueError("negative_slope must be 0 where filters are convolved.")
    if told["batch_norm"] and not told["fit_intercept"]:
        raise ValueError("batch_norm=True needs fit_intercept=True.")
    several = loss in CLASSIFICATION_LOSSES and _n_outputs(dual) > 1
    # The log loss can be that of the softmax.
    if told["one_vs_rest"] != several and not (several and loss == "log_loss"):
        raise ValueError(
            f"one_vs_rest must be {several} with loss={loss!r} and a dual of the shape "
            f"{dual.shape}."
        )


def _check_convolution(told, n_features):
    """Raise ValueError for a layout of filters that is none, or of other data."""
    lists = "input_shape", "kernel_size", "strides", "pool_size"
    wanted = {*lists, "n_channels", "padding", "pooling", "channels_first"}
    if {*told} != wanted:
        raise ValueError(f"convolution must have the entries {sorted(wanted)}.")

    def whole(value, least):
        return type(value) is int and value >= least

    ndim = len(told["input_shape"]) if isinstance(told["input_shape"], list) else 0
    parts = [told[name] for name in lists]
    pairs = told["padding"]
    fits = (
        ndim > 0
        and whole(told["n_channels"], 1)
        and told["pooling"] in ("max", "average", None)
        and isinstance(told["channels_first"], bool)
        and all(isinstance(part, list) and len(part) == ndim for part in parts)
        and all(whole(number, 1) for part in parts for number in part)
        and isinstance(pairs, list)
        and len(pairs) == ndim
        and all(isinstance(pair, list) and len(pair) == 2 for pair in pairs)
        and all(whole(number, 0) for pair in pairs for number in pair)
    )
    if not fits:
        raise ValueError(
            f"convolution must be the layout of filters, with a number for each axis, "
            f"got {told}."
        )
    size = told["n_channels"]
    for length, kernel, stride, window, margins in zip(*parts, pairs):
        size *= length
        if (length + sum(margins) - kernel) // stride + 1 < window:
            raise ValueError(
                "kernel_size or pool_size of convolution is larger than what it is for."
            )
    if size != n_features:
        raise ValueError(
            f"convolution is of inputs with {size} features, but n_features is "
            f"{n_features}."
        )


def _check_gap(told):
    """Raise ValueError for a gap that is not that of the objective and the bound."""
    objective, bound, gap = (
        told[name] for name in ("objective", "dual_bound", "dual_gap")
    )
    rounding = 1e-12 * max(abs(objective), abs(bound))
    if abs(gap - (objective - bound)) > rounding:
        raise ValueError(
            f"dual_gap must be objective - dual_bound = {objective - bound}, got {gap}."
        )


def _n_outputs(dual):
    return 1 if dual.ndim == 1 else dual.shape[1]
