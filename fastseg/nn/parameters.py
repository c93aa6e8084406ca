"""What modules share: how their parameters are drawn anew, that no image format reorders those that
are no images, and that images come out in the format they came in.
"""

from functools import partial

import torch
from torch import Tensor, nn

from fastseg.ops.context import image_format


def reset_children(module: nn.Module) -> None:
    """Draw the parameters of all modules in `module` anew, in the order in which they were made.

    >>> layers = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    >>> before = layers[2].weight.clone()
    >>> reset_children(layers)
    >>> torch.equal(layers[2].weight, before)
    False
    """
    for child in module.children():
        getattr(child, "reset_parameters", partial(reset_children, child))()


def in_format_of(x: Tensor, y: Tensor) -> Tensor:
    """Return y in a channels-last format if x is."""
    memory_format = image_format(x)
    return y if memory_format is None else y.contiguous(memory_format=memory_format)


@torch.no_grad()
def draw_normal(parameter: Tensor, std: float) -> None:
    """Fill a parameter with normal numbers of mean zero."""
    parameter.normal_().mul_(std)


class SpectralModule(nn.Module):
    """Be a module whose own parameters are spectra: `to(memory_format=…)`, which takes all tensors
    of four or five axes for images, leaves the order of their axes.
    """

    def _apply(self, fn, recurse=True):
        return super()._apply(partial(_as_one_axis, fn), recurse)


def _as_one_axis(fn, tensor: Tensor) -> Tensor:
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.is_contiguous()
    if not plain or tensor.dim() not in (4, 5):
        return fn(tensor)
    return fn(tensor.view(-1)).view(tensor.shape)
