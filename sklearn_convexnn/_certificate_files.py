"""Files of certificates: JSON, or arrays of NumPy with the rest as JSON."""

import json
from numbers import Integral, Real
from pathlib import Path

import numpy as np

from sklearn_convexnn._sklearn import Interval, StrOptions, check_parameters
from sklearn_convexnn.losses import (
    CLASSIFICATION_LOSSES,
    LOSS_CONSTRAINTS,
    REGRESSION_LOSSES,
)

_FORMAT, _VERSION = "sklearn_convexnn.Certificate", 1
_ARRAYS = {"dual": float, "sample_weight": float, "classes": None}
_CONSTRAINTS = {
    "objective": [Real],
    "dual_bound": [Real],
    "dual_gap": [Real],
    "kind": [StrOptions({"global", "estimated", "restricted"})],
    "kappa": [Real],
    "n_patterns": [Interval(Integral, 0, None, closed="left")],
    "alpha": [Interval(Real, 0, None, closed="neither")],
    "loss": [StrOptions({*REGRESSION_LOSSES, *CLASSIFICATION_LOSSES})],
    **{name: [*allowed, None] for name, allowed in LOSS_CONSTRAINTS.items()},
    "fit_intercept": [bool],
    "negative_slope": [Interval(Real, -1, 1, closed="left")],
    "n_features": [Interval(Integral, 1, None, closed="left")],
    "one_vs_rest": [bool],
}


def write_fields(path, fields):
    """Write the attributes of a certificate; see `Certificate.save`.

    Parameters
    ----------
    path : str or path-like
    fields : dict
    """
    path, suffix = _checked(path)
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
        If it is not the file of a certificate.
    """
    path, suffix = _checked(path)
    try:
        fields = _read_json(path) if suffix == ".json" else _read_npz(path)
        if (fields.pop("format"), fields.pop("version")) != (_FORMAT, _VERSION):
            raise ValueError("it is of another format or version")
        told = {name: fields.pop(name) for name in _CONSTRAINTS}
        check_parameters(_CONSTRAINTS, told, "load")
        return {**told, **_as_arrays(told, fields)}
    except OSError:
        raise
    except Exception as error:
        # A damaged or foreign file can fail in any step, with an error of any kind.
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


def _read_json(path):
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _read_npz(path):
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return {**json.loads(str(arrays.pop("told"))), **arrays}


def _as_arrays(told, fields):
    """The arrays, with shapes that fit together."""
    arrays = dict.fromkeys(_ARRAYS)
    for name, dtype in _ARRAYS.items():
        if fields.get(name) is not None:
            arrays[name] = np.asarray(fields[name], dtype=dtype)
    dual, weight, classes = arrays.values()
    if dual is None or dual.ndim not in (1, 2) or not np.all(np.isfinite(dual)):
        raise ValueError("dual is not an array of numbers")
    if weight is not None and (
        weight.shape != dual.shape[:1] or not np.min(weight) >= 0 or not np.any(weight)
    ):
        raise ValueError("sample_weight does not fit dual")
    if (classes is None) != (told["loss"] in REGRESSION_LOSSES):
        raise ValueError("classes do not fit the loss")
    for name, loss in ("epsilon", "huber"), ("quantile", "quantile"):
        if (told[name] is None) == (told["loss"] == loss):
            raise ValueError(f"{name} does not fit the loss")
    return arrays
