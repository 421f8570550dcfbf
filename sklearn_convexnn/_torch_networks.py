"""Two-layer networks of torch, read without importing it."""

from dataclasses import dataclass

import numpy as np

from sklearn_convexnn.families.convolution.layout import Layout

_MODULE = "torch.nn.modules.module.Module"
_CONVOLUTIONS = {"Conv1d", "Conv2d", "Conv3d"}
_ADAPTIVE = ("AdaptiveAvgPool", "AdaptiveMaxPool")
# Layers that change nothing when a network predicts.
_IDLE = {"Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "Identity"}


def is_torch_module(network):
    """Whether a network is a module of torch.

    Parameters
    ----------
    network : object

    Returns
    -------
    is_module : bool
    """
    bases = type(network).__mro__
    return any(f"{b.__module__}.{b.__name__}" == _MODULE for b in bases)


@dataclass(frozen=True)
class ModuleLayout:
    """The layout of a module, but for the positions of its inputs.

    Attributes
    ----------
    channels : int
    kernel, strides : tuple of int
    before, after : tuple of int
        Positions of zeros that are added on either side.
    window : tuple of int or None
        None for all positions.
    largest : bool
    """

    channels: int
    kernel: tuple
    strides: tuple
    before: tuple
    after: tuple
    window: tuple | None
    largest: bool

    input_shape = None

    def layout(self, positions):
        """The `Layout` of inputs with so many positions along the axes.

        Parameters
        ----------
        positions : tuple of int

        Returns
        -------
        layout : Layout

        Raises
        ------
        ValueError
            If the inputs are too small, or have another number of axes.
        """
        if len(positions) != len(self.kernel):
            raise ValueError(
                f"X has {len(positions)} axes of positions, but the filters of the "
                f"module have {len(self.kernel)}."
            )
        none = (1,) * len(positions)
        parts = self.channels, self.kernel, self.strides, self.before, self.after
        layout = Layout(positions, *parts, none, False)
        window = layout.positions if self.window is None else self.window
        if min(layout.positions) < 1 or any(
            size > n for size, n in zip(window, layout.positions)
        ):
            raise ValueError(
                f"X has inputs of the shape {positions}, which are too small for "
                f"kernels of the size {self.kernel} and windows of the size {window}."
            )
        largest = self.largest and int(np.prod(window)) > 1
        return Layout(positions, *parts, window, largest)


def read_module(module):
    """Weights of a module in the order of scikit-learn, and its layout if it has one.

    Parameters
    ----------
    module : torch.nn.Sequential
        Linear, ReLU, Linear; or Conv, ReLU, perhaps a pooling, Flatten, Linear.

    Returns
    -------
    layers : tuple (coefs, intercepts)
    layout : ModuleLayout or None
        None without convolution.

    Raises
    ------
    ValueError
        If it is another network.
    """
    layers = [one for one in _layers(module) if _name(one) not in _IDLE]
    names = [_name(layer) for layer in layers]
    if names == ["Linear", "ReLU", "Linear"]:
        coefs = [_array(layer.weight).T for layer in (layers[0], layers[2])]
        return (coefs, [_bias(layers[0]), _bias(layers[2])]), None
    pooled = len(names) == 5
    ndim = names[0][-2:-1] if names and names[0] in _CONVOLUTIONS else ""
    poolings = {f"{kind}{ndim}d" for kind in ("MaxPool", "AvgPool", *_ADAPTIVE)}
    wanted = [{f"Conv{ndim}d"}, {"ReLU"}, *[poolings] * pooled, {"Flatten"}, {"Linear"}]
    if len(names) != len(wanted) or any(
        name not in some for name, some in zip(names, wanted)
    ):
        raise ValueError(
            "certify reads torch.nn.Sequential of Linear, ReLU, Linear, or of Conv, "
            f"ReLU, perhaps a pooling, Flatten, Linear; network has {names}. A batch "
            "normalisation is to be multiplied into the weights before it."
        )
    layout = _layout(layers[0], layers[2] if pooled else None)
    _check_flatten(layers[-2])
    filters, dense = _array(layers[0].weight), _array(layers[-1].weight)
    m = len(filters)
    if dense.shape[1] % m:
        raise ValueError(
            f"the linear layer of the module has {dense.shape[1]} inputs, which the "
            f"{m} filters do not divide."
        )
    # Torch has channels, and so the outputs of filters, before positions.
    hidden = np.moveaxis(filters, 1, -1).reshape(m, -1).T
    output = dense.reshape(len(dense), m, -1).transpose(2, 1, 0).reshape(-1, len(dense))
    return ([hidden, output], [_bias(layers[0]), _bias(layers[-1])]), layout


def _name(layer):
    return type(layer).__name__


def _layers(module):
    """The layers of a sequence, also of sequences within it."""
    if _name(module) != "Sequential":
        return [module]
    return [layer for child in module.children() for layer in _layers(child)]


def _array(weights):
    """Weights as an array of NumPy, which knows no gradients."""
    return np.asarray(weights.detach().cpu().double())


def _bias(layer):
    n_outputs = len(layer.weight)
    return np.zeros(n_outputs) if layer.bias is None else _array(layer.bias)


def _each(value, ndim):
    """A number for each axis."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * ndim


def _layout(conv, pool):
    """The layout of a convolution and a pooling."""
    ndim, largest, window = len(conv.kernel_size), False, (1,) * len(conv.kernel_size)
    none = (0,) * ndim
    _require(conv, "groups", 1)
    _require(conv, "padding_mode", "zeros")
    _require(conv, "dilation", (1,) * ndim)
    kernel, strides = tuple(conv.kernel_size), tuple(conv.stride)
    before = after = none
    if conv.padding == "same":
        missing = [size - 1 for size in kernel]
        before = tuple(n // 2 for n in missing)
        after = tuple(n - low for n, low in zip(missing, before))
    elif conv.padding != "valid":
        before = after = _each(conv.padding, ndim)
    if pool is not None:
        largest = "Max" in _name(pool)
        if _name(pool).startswith("Adaptive"):
            if set(_each(pool.output_size, ndim)) != {1}:
                raise ValueError(
                    f"{_name(pool)} of the module must have output_size=1, got "
                    f"{pool.output_size}."
                )
            window = None
        else:
            window = _each(pool.kernel_size, ndim)
            if _each(pool.stride, ndim) != window:
                raise ValueError(
                    f"{_name(pool)} of the module must have windows next to each "
                    f"other, got kernel_size={pool.kernel_size} and "
                    f"stride={pool.stride}."
                )
            _require(pool, "padding", 0, none)
            _require(pool, "dilation", 1, (1,) * ndim)
            _require(pool, "ceil_mode", False)
            _require(pool, "divisor_override", None)
    return ModuleLayout(
        conv.in_channels, kernel, strides, before, after, window, largest
    )


def _require(layer, name, *values):
    """Raise ValueError if an attribute that a layer has is none of some values."""
    found = getattr(layer, name, values[0])
    if found not in values:
        raise ValueError(
            f"{_name(layer)} of the module must have {name}={values[0]!r}, got "
            f"{found!r}."
        )


def _check_flatten(layer):
    if (layer.start_dim, layer.end_dim) != (1, -1):
        raise ValueError(
            "Flatten of the module must have start_dim=1 and end_dim=-1, got "
            f"{layer.start_dim} and {layer.end_dim}."
        )
