"""The layout of a convolution that parameters say."""

from numbers import Integral

import numpy as np

from sklearn_convexnn._network_input import counted
from sklearn_convexnn.families.convolution.layout import Layout


def layout_of(params, n_features, shape=None):
    """The layout that the parameters of an estimator say.

    Parameters
    ----------
    params : estimator
        Or anything else with its parameters as attributes.
    n_features : int
    shape : tuple of int or None
        Of the positions of an input, if the data tell it.

    Returns
    -------
    layout : Layout

    Raises
    ------
    ValueError
        If parameters do not fit the data, or each other.
    """
    given = params.input_shape
    # The length of a series is not in the parameters, and may be small.
    clips = given is None and shape is None
    if given is not None:
        shape = _along_axes("input_shape", given, None)
    if shape is None:
        shape = (n_features,)
    size = int(np.prod(shape))
    if n_features % size:
        raise ValueError(
            f"input_shape={given!r} has {counted(size, 'position')}, which do not "
            f"divide the {counted(n_features, 'feature')} of X. Features are positions "
            "times channels, with the channels of a position next to each other."
        )
    ndim = len(shape)
    kernel = _along_axes("kernel_size", params.kernel_size, ndim)
    strides = _along_axes("strides", params.strides, ndim)
    if clips:
        kernel = tuple(map(min, kernel, shape))
    before, after = (0,) * ndim, (0,) * ndim
    if params.padding == "same":
        # As many positions as strides fit, zeros on both sides alike.
        wanted = [-(-n // stride) for n, stride in zip(shape, strides)]
        missing = [
            max((count - 1) * stride + k - n, 0)
            for count, stride, k, n in zip(wanted, strides, kernel, shape)
        ]
        before = tuple(n // 2 for n in missing)
        after = tuple(n - low for n, low in zip(missing, before))
    elif any(k > n for k, n in zip(kernel, shape)):
        raise ValueError(
            f"kernel_size={params.kernel_size!r} is larger than the input of shape "
            f"{shape}; use a smaller one, or padding='same'."
        )
    layout = Layout(
        shape,
        n_features // size,
        kernel,
        strides,
        before,
        after,
        (1,) * ndim,
        params.pooling == "max",
    )
    return _pooled(layout, params, clips)


def _pooled(layout, params, clips):
    """The layout with windows."""
    positions, ndim = layout.positions, len(layout.shape)
    window = (1,) * ndim
    if params.pooling is not None:
        window = positions
        if params.pool_size != "global":
            window = _along_axes("pool_size", params.pool_size, ndim)
            if clips:
                window = tuple(map(min, window, positions))
    if any(k > n for k, n in zip(window, positions)):
        raise ValueError(
            f"pool_size={params.pool_size!r} is larger than the map of shape "
            f"{positions} that is pooled; use a smaller one, or 'global'."
        )
    largest = layout.largest and int(np.prod(window)) > 1
    return Layout(**{**vars(layout), "window": window, "largest": largest})


def positions_of(shape, expected):
    """Positions of inputs of which each has an array of its own.

    Parameters
    ----------
    shape : tuple of int
        Of these arrays, with channels as the last axis, or without them.
    expected : int, tuple of int or None
        As `input_shape`.

    Returns
    -------
    positions : tuple of int

    Raises
    ------
    ValueError
        If they are not the expected ones.
    """
    if expected is None:
        return shape[:-1]
    expected = _along_axes("input_shape", expected, None)
    if expected not in (shape, shape[:-1]):
        raise ValueError(
            f"X has inputs of the shape {shape}, but input_shape is {expected}; "
            "they are to be of that shape, with channels as the last axis if there "
            "are several."
        )
    return expected


def _along_axes(name, value, ndim):
    """A number for each axis, of one for all or of a sequence."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if len(values) == 1 and ndim is not None:
        values = values * ndim
    whole = all(isinstance(n, Integral) and not isinstance(n, bool) for n in values)
    if not whole or not values or min(values) < 1:
        raise ValueError(f"{name} must be positive integers, got {value!r}.")
    if ndim is not None and len(values) != ndim:
        raise ValueError(
            f"{name}={value!r} has {counted(len(values), 'number')}, but the inputs "
            f"have {counted(ndim, 'axis')}."
        )
    return tuple(map(int, values))
