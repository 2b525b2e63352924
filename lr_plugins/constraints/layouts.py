"""In which order Keras counts the axes of a layer's weights."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

LAYOUTS = ("keras", "torch")

_UNITS_FIRST = nn.Linear, _ConvNd, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention
"""The layers whose weights torch keeps as (units, inputs, *kernel), and Keras as (*kernel, inputs, units)."""


def axes_in_order(layout: str, layer: nn.Module, weight: Tensor) -> tuple[int, ...] | None:
    """The axes of a weight in the order in which a layout counts them; None where that is the weight's own.

    Args:
        layout: `"keras"` or `"torch"`.
        layer: the module that has the weight.
        weight: the tensor, as torch has it.

    Example:
        >>> layer = nn.Conv2d(3, 8, kernel_size=5)
        >>> axes_in_order("keras", layer, layer.weight), axes_in_order("torch", layer, layer.weight)
        ((2, 3, 1, 0), None)
        >>> axes_in_order("keras", layer, layer.bias) is None
        True
    """
    if layout == "torch" or weight.dim() < 2 or not isinstance(layer, _UNITS_FIRST):
        return None
    return (*range(2, weight.dim()), 1, 0)
