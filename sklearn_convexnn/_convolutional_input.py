"""Reading of convolutional networks that come from elsewhere, and of their inputs."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from sklearn_convexnn._layouts import layout_of, positions_of
from sklearn_convexnn._network_input import counted
from sklearn_convexnn._torch_networks import is_torch_module, read_module
from sklearn_convexnn._utils.devices import in_numpy
from sklearn_convexnn.families.convolution.layout import Layout

# Of the parameters that say a layout, as `ConvexCNNRegressor` has them.
_DEFAULTS = {
    "input_shape": None,
    "kernel_size": 3,
    "strides": 1,
    "padding": "valid",
    "pooling": "max",
    "pool_size": 2,
}


@dataclass(frozen=True)
class ConvolutionInputs:
    """How the inputs of a network lie in the arrays of the user.

    Attributes
    ----------
    params : object
        With the parameters that say the layout as attributes.
    channels_first : bool, default=False
        Whether channels come before the positions, as in torch, and inputs have an
        axis for each.
    """

    params: object
    channels_first: bool = False

    def read(self, X):
        """The inputs as rows, with channels last, and their layout.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features), or array of \
                shape (n_samples, ..., n_channels) or (n_samples, n_channels, ...)

        Returns
        -------
        X : {ndarray, sparse matrix} of shape (n_samples, n_features)
        layout : Layout

        Raises
        ------
        ValueError
            If they do not fit the network.
        """
        told = isinstance(self.params, Layout)
        expected = self.params.shape if told else self.params.input_shape
        X, positions = as_rows(X, expected, self.channels_first)
        if told:
            return X, self.params
        if self.channels_first:
            n_channels = X.shape[1] // int(np.prod(positions))
            if n_channels != self.params.channels:
                raise ValueError(
                    f"X has {counted(n_channels, 'channel')}, but the network has "
                    f"{self.params.channels}; its axes are those that the module takes."
                )
            return X, self.params.layout(positions)
        return X, layout_of(self.params, X.shape[1], positions)


def as_rows(X, expected, channels_first=False):
    """Inputs as rows, with channels last, and their positions if the array tells them.

    Parameters
    ----------
    X : {array-like, sparse matrix}
    expected : int, tuple of int or None
        Positions that are known.
    channels_first : bool, default=False

    Returns
    -------
    X : {ndarray, sparse matrix} of shape (n_samples, n_features)
    positions : tuple of int or None
    """
    if not hasattr(X, "ndim"):
        X = np.asarray(X)
    if channels_first:
        if X.ndim < 3:
            raise ValueError(
                "X must have the axes that the module takes, samples, channels and "
                f"positions, got {counted(X.ndim, 'axis')}."
            )
        X = np.moveaxis(in_numpy(X), 1, -1)
    if X.ndim < 3:
        return X, None
    X = in_numpy(X)
    positions = positions_of(X.shape[1:], expected)
    return X.reshape(len(X), -1), positions


def read_convolution(network, convolution):
    """What is convolutional in a network, if anything.

    Parameters
    ----------
    network : estimator, module of torch, or tuple (coefs, intercepts)
    convolution : dict or None
        As of `certify`.

    Returns
    -------
    network : estimator or tuple (coefs, intercepts)
        With filters as the columns of a matrix.
    convolution : ConvolutionInputs or None

    Raises
    ------
    ValueError
        If a module of torch is another network, or filters have no layout.
    """
    told = getattr(network, "_layout_of_fit", None)
    if convolution is not None and (told is not None or is_torch_module(network)):
        raise ValueError("convolution is for arrays; network says its layout itself.")
    if told is not None:
        return network, ConvolutionInputs(Layout(**told))
    if is_torch_module(network):
        layers, layout = read_module(network)
        return layers, None if layout is None else ConvolutionInputs(layout, True)
    if convolution is None:
        return network, None
    unknown = sorted({*convolution} - {*_DEFAULTS})
    if unknown:
        raise ValueError(
            f"convolution has unknown entries: {', '.join(map(repr, unknown))}. Those "
            f"that it may have are {', '.join(_DEFAULTS)}."
        )
    if not (isinstance(network, (tuple, list)) and len(network) == 2):
        raise ValueError(
            "convolution is for a network that is given by arrays, as a tuple "
            f"(coefs, intercepts), got {type(network).__name__}."
        )
    coefs, intercepts = network
    params = {**_DEFAULTS, **convolution}
    filters = in_numpy(coefs[0]) if len(coefs) else np.zeros((0, 0))
    if np.ndim(filters) > 2:
        # As `filters_` of an estimator has them.
        size = tuple(np.shape(filters)[1:-1])
        if "kernel_size" in convolution and _each(params["kernel_size"]) != size:
            raise ValueError(
                f"kernel_size={params['kernel_size']!r}, but the filters have the "
                f"shape {np.shape(filters)}."
            )
        params["kernel_size"] = size
        coefs = [np.reshape(filters, (len(filters), -1)).T, *coefs[1:]]
    return (coefs, intercepts), ConvolutionInputs(SimpleNamespace(**params))


def _each(value):
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def plain_layout(layout, channels_first):
    """A layout in numbers and lists, for a `Certificate`.

    Parameters
    ----------
    layout : Layout
    channels_first : bool

    Returns
    -------
    plain : dict
    """
    pooled = layout.window_size > 1
    return {
        "input_shape": [*layout.shape],
        "n_channels": layout.channels,
        "kernel_size": [*layout.kernel],
        "strides": [*layout.strides],
        "padding": [[*pair] for pair in zip(layout.before, layout.after)],
        "pooling": ("max" if layout.largest else "average") if pooled else None,
        "pool_size": [*layout.window],
        "channels_first": bool(channels_first),
    }


def layout_of_certificate(plain):
    """The inverse of `plain_layout`.

    Parameters
    ----------
    plain : dict

    Returns
    -------
    convolution : ConvolutionInputs
    """
    before, after = zip(*plain["padding"])
    layout = Layout(
        tuple(plain["input_shape"]),
        plain["n_channels"],
        tuple(plain["kernel_size"]),
        tuple(plain["strides"]),
        before,
        after,
        tuple(plain["pool_size"]),
        plain["pooling"] == "max",
    )
    return ConvolutionInputs(layout, plain["channels_first"])
