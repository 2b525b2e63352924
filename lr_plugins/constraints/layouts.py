"""The order in which Keras counts the axes of a layer's weights."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

Layout = Literal["keras", "torch"]

_UNITS_FIRST = nn.Linear, _ConvNd, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention
"""The layers whose weights are (units, inputs, *kernel) in torch and (*kernel, inputs, units) in Keras."""


def axes_in_order(layout: Layout, layer: nn.Module, weight: Tensor) -> tuple[int, ...] | None:
    """The axes of a weight in the order of a layout; None if that is torch's order.

    Args:
        layout: `"keras"` or `"torch"`.
        layer: the module that has the weight.
        weight: the tensor, in torch's layout.

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
