"""A convolution by a factorised weight, contracted with the kept spectrum instead of rebuilt."""

import math

import torch
from torch import Tensor

from fastseg import ops
from fastseg.nn.neuralop.factors import Parts


def in_modes(parts: Parts, batch: int) -> bool:
    """Tell whether contracting `batch` spectra with the factors takes fewer multiply-adds a mode
    than rebuilding the dense weight and mixing with that; the core is built for both.
    """
    inputs, rank = parts.inputs.shape
    core = rank if parts.diagonal else rank * parts.core.shape[1]
    outputs = parts.core.shape[1] if parts.outputs is None else parts.outputs.shape[1]
    last = 0 if parts.outputs is None else parts.outputs.shape[0] * outputs
    if parts.diagonal:
        rebuilding = rank * inputs * outputs
    else:
        rebuilding = inputs * core + (inputs * last if last else 0)
    return batch * (inputs * rank + core + last) < rebuilding + batch * inputs * outputs


def mixed(spectrum: Tensor, parts: Parts) -> Tensor:
    """Return a spectrum (B, Cin, *modes) times the factors, one product after the other."""
    inputs, core, outputs, diagonal = (
        part.to(spectrum.dtype) if isinstance(part, Tensor) else part for part in parts
    )
    modes = spectrum.shape[2:]
    z = torch.matmul(inputs.T, spectrum.flatten(2))  # (B, p, modes)
    if diagonal:
        z = z * core.flatten(1)
    else:
        z = torch.matmul(z.permute(2, 0, 1), core.flatten(2).permute(2, 0, 1)).permute(1, 2, 0)
    z = z if outputs is None else torch.matmul(outputs.T, z)
    return z.unflatten(2, modes)


def convolve(x: Tensor, parts: Parts, bias: Tensor | None, sizes, norm: str) -> Tensor:
    """Return the convolution of real x (B, Cin, *S) → (B, Cout, *sizes), 1- to 3-D."""
    spectrum = ops.truncated_rfftn(x, parts.core.shape[1 + (not parts.diagonal) :], norm)
    z = mixed(spectrum, parts)
    if bias is not None:  # a constant is a zero frequency
        power = {"backward": 1.0, "ortho": 0.5, "forward": 0.0}[norm]
        zero = bias.to(z.dtype) * math.prod(sizes) ** power
        z = torch.cat([(z.flatten(2)[..., :1] + zero[:, None]), z.flatten(2)[..., 1:]], 2)
        z = z.unflatten(2, spectrum.shape[2:])
    return ops.truncated_irfftn(z, sizes, norm, dtype=x.dtype)
