"""Missing modalities of one case, slice by slice.

A synthesised image is 0 where every image given is. Slices are taken whole: windows of one would be
sampled apart and not meet.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastseg.data.geometry import bounding_box
from fastseg.tasks.modality_synthesis.case import Known


@torch.no_grad()
def synthesise_volume(
    net: nn.Module,
    known: Known,
    available: np.ndarray,
    patch: Sequence[int],
    batch_size: int,
    generator: torch.Generator,
    on_slices: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Synthesise the modalities of a case that are not in `available` (M,) bool.

    Gives known.image with them, float32 (M, D, H, W) in −1 … 1. `on_slices` is told before each
    batch how many slices of how many are done.
    """
    filled = known.image.copy()
    z, y, x = bounding_box(known.brain)
    slices = torch.from_numpy(known.image[:, z, y, x]).movedim(1, 0)
    mask, device = torch.from_numpy(available), next(net.parameters()).device
    for start in range(0, len(slices), batch_size):
        batch = slices[start : start + batch_size].to(device)
        if on_slices is not None:
            on_slices(start, len(slices))
        given = mask.to(device).expand(len(batch), -1)
        found = on_canvas(net, batch, given, patch, generator).cpu().movedim(0, 1).numpy()
        at = slice(z.start + start, z.start + start + len(batch))
        filled[~available, at, y, x] = found[~available]
    filled[:, ~known.brain] = -1
    return filled


def on_canvas(
    net: nn.Module, slices: Tensor, available: Tensor, patch: Sequence[int],
    generator: torch.Generator,
) -> Tensor:  # fmt: skip
    """Fill in slices (B, M, h, w) amid as much background as in training."""
    sizes = [-(-max(n, least) // net.multiple) * net.multiple
             for n, least in zip(slices.shape[2:], patch[-2:], strict=True)]  # fmt: skip
    before = [(want - n) // 2 for want, n in zip(sizes, slices.shape[2:], strict=True)]
    after = [w - n - b for w, n, b in zip(sizes, slices.shape[2:], before, strict=True)]
    canvas = F.pad(slices, (before[1], after[1], before[0], after[0]), value=-1.0)
    found = net.synthesise(canvas, available, generator)
    inside = [slice(b, b + n) for b, n in zip(before, slices.shape[2:], strict=True)]
    return found[(..., *inside)]
