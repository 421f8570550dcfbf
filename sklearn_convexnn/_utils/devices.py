"""Arrays of other libraries and on other devices than those of NumPy."""

import numpy as np
from scipy.sparse import issparse

from sklearn_convexnn._sklearn import (
    convert_to_numpy,
    device,
    get_namespace,
    max_precision_float_dtype,
)


def in_numpy(values):
    """The array as one of NumPy."""
    if type(values) is np.ndarray:
        # Small products come here often, and to look up the library takes time.
        return values
    return convert_to_numpy(values, get_namespace(values)[0])


def on_device(X):
    """Whether `X` belongs to another library than NumPy, or SciPy."""
    return not issparse(X) and not isinstance(X, np.ndarray)


def in_main_memory(X):
    """Whether `X` is where arrays of NumPy are, and caches are small."""
    # By DLPack, 1 is the memory of the CPU.
    return not on_device(X) or X.__dlpack_device__()[0] == 1


def product_on(X, size):
    """A function that multiplies matrices of so many rows where `X` is, and waits.

    None for arrays that are multiplied by the processor.
    """
    if X is None or in_main_memory(X):
        return None
    xp, _ = get_namespace(X)
    matrix = xp.ones((size, size), dtype=X.dtype, device=device(X))
    return lambda: in_numpy((matrix @ matrix)[:1, :1])


def has_double(X):
    """Whether the device of `X` has double precision."""
    return highest_precision(X) == get_namespace(X)[0].float64


def placed(values, X, dtype=None):
    """An array of NumPy in the namespace and on the device of `X`.

    Parameters
    ----------
    values : ndarray
    X : {array, sparse array}
    dtype : dtype or None
        Of the namespace of `X`; None for that of `values`.

    Returns
    -------
    values : array
    """
    if not on_device(X):
        return values if dtype is None else values.astype(dtype)
    xp, _ = get_namespace(X)
    return xp.asarray(values, dtype=dtype, device=device(X))


def in_precision(values, dtype):
    """An array of any library in single or double precision, a type of NumPy."""
    xp, _ = get_namespace(values)
    kind = xp.float32 if dtype == np.float32 else xp.float64
    return xp.astype(values, kind, copy=False)


def product_into(left, right, out):
    """Write the product of two matrices into a third one, of any library."""
    if isinstance(out, np.ndarray):
        np.matmul(left, right, out=out)
    else:
        out[...] = left @ right


def clipped(values, low, high, out=None):
    """The values between two limits, or one that is not None.

    Arrays of NumPy are written to `out`, if it is given.
    """
    if isinstance(values, np.ndarray):
        return np.clip(values, low, high, out=out)
    return get_namespace(values)[0].clip(values, min=low, max=high)


def selected(X, mask):
    """Rows of an array of any kind, by a mask of NumPy."""
    return X if np.all(mask) else X[placed(mask, X)]


def without_duplicates(X):
    """The data; of a sparse array with each entry stored once."""
    if issparse(X) and not X.has_canonical_format:
        X = X.copy()
        X.sum_duplicates()
    return X


def largest_size(values):
    """Largest absolute value of an array of any kind or a number, a float."""
    if on_device(values) and hasattr(values, "dtype"):
        xp, _ = get_namespace(values)
        return float(xp.max(xp.abs(values)))
    values = values.data if issparse(values) else values
    # Without a temporary array of the size of the data.
    return float(max(np.max(values, initial=0.0), -np.min(values, initial=0.0)))


def root_mean_square(values):
    """Root mean square of the entries of an array of any kind, a float."""
    largest = largest_size(values)
    if largest == 0.0:
        return 0.0
    entries = values.data if issparse(values) else values
    if not 1e-6 < largest < 1e6:
        # Squares are to be numbers in single precision too.
        entries = entries / largest
    else:
        largest = 1.0
    xp, _ = get_namespace(entries)
    total = float(xp.sum(entries * entries))
    return largest * float(np.sqrt(total / (values.shape[0] * values.shape[1])))


def highest_precision(X):
    """The most precise floating point type that the device of `X` has."""
    if not on_device(X):
        return np.float64
    xp, _ = get_namespace(X)
    return max_precision_float_dtype(xp, device(X))


def float_dtypes(X):
    """Double and single precision in the namespace of `X`."""
    xp, _ = get_namespace(X)
    return [xp.float64, xp.float32]
