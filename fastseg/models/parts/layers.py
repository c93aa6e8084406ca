"""Small layers that several parts have."""

from torch import nn


def pointwise(axes: int, inputs: int, outputs: int) -> nn.Module:
    """Make a 1×1 convolution over 1 to 3 axes.

    >>> pointwise(3, 4, 8).weight.shape
    torch.Size([8, 4, 1, 1, 1])
    """
    return (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1](inputs, outputs, 1)


def zeroed(layer: nn.Module) -> nn.Module:
    """Return the layer with weight and bias 0."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
