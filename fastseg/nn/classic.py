"""Convert the spectral layers of fourier_1d.py, fourier_2d.py and fourier_3d.py, the original code
of the Fourier neural operator (Li et al., 2021).
"""

import torch
from torch import Tensor, nn

_CORNERS = {1: 1, 2: 2, 4: 3}  # axes by the count of weights: the last axis has one sign


def convert_classic(cls, module: nn.Module):
    """Return `cls` (nn.SpectralConv) with the weights weights1, … of a layer of the original code:
    the corner of the lowest frequencies, then those of the negative ones, the first axis's sign
    changing fastest. Raises ValueError for a module without them.
    """
    found = []
    while isinstance(weight := getattr(module, f"weights{len(found) + 1}", None), Tensor):
        found.append(weight.detach())
    if len(found) not in _CORNERS:
        raise ValueError(f"module: got {len(found)} weights1, …, want 1, 2 or 4, those of a corner")
    corners = [w if w.is_complex() else torch.view_as_complex(w.contiguous()) for w in found]
    axes, shape = _CORNERS[len(found)], tuple(corners[0].shape)
    if any(tuple(corner.shape) != shape for corner in corners) or len(shape) != axes + 2:
        raise ValueError(
            f"module: got weights of shapes {[tuple(c.shape) for c in corners]}, want equal ones, "
            f"of two channels and {axes} modes"
        )
    for axis in range(2, axes + 1):  # joins the signs of one axis after the other
        pairs = zip(corners[::2], corners[1::2], strict=True)
        corners = [torch.cat(pair, axis) for pair in pairs]
    (weight,) = corners
    layer = cls(*shape[:2], tuple(weight.shape[2:]), norm="backward", bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.view_as_real(weight))
    return layer.to(weight.device)
