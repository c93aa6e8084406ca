"""The truncated transforms in plain torch.matmul: the honest baseline, and what exports to ONNX.
Autograd differentiates it.
"""

import torch
from torch import Tensor

from fastseg import plan


def _last(size, columns, scale, weighted, dtype, device):
    return plan.last_matrix(size, columns, scale, weighted, dtype, torch.device(device))


def _outer(size, positive, negative, dtype, device):
    return plan.outer_matrix(size, plan.Kept(positive, negative), dtype, torch.device(device))


# what torch.compiler.assume_constant_result does, without loading the compiler: tables become
# constants of a compiled graph
_last._dynamo_marked_constant = True
_outer._dynamo_marked_constant = True


def _rotate(z: Tensor, dim: int, matrix: Tensor, sign: int) -> Tensor:
    """Σ (cos ∓ i sin)·z along `dim` of z (B, C, …, 2m), whose last axis holds real parts, then
    imaginary ones; matrix is (2K, n).
    """
    half, columns = matrix.shape[0] // 2, z.shape[-1] // 2
    product = torch.matmul(matrix, z.movedim(dim, -2))
    cos, sin = product[..., :half, :], product[..., half:, :]
    real = cos[..., :columns] + sign * sin[..., columns:]
    imag = cos[..., columns:] - sign * sin[..., :columns]
    return torch.cat([real, imag], dim=-1).movedim(-2, dim)


def analysis(x: Tensor, modes, scale: float, weighted: bool, two_sided: bool) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        x = x if x.dtype == torch.float64 else x.float()
        z = torch.matmul(x, _last(x.shape[-1], modes[-1], scale, weighted, x.dtype, str(x.device)))
        axes = plan.kept_axes(modes, two_sided)
        for dim in range(x.dim() - 2, 1, -1):
            z = _rotate(z, dim, _outer(x.shape[dim], *axes[dim - 2], x.dtype, str(x.device)), 1)
        return torch.stack([z[..., : modes[-1]], z[..., modes[-1] :]], dim=-1)


def synthesis(
    spectrum: Tensor,
    sizes,
    scale: float,
    weighted: bool,
    two_sided: bool,
    dtype: torch.dtype,
    bias: Tensor | None,
) -> Tensor:
    with torch.autocast(spectrum.device.type, enabled=False):
        modes, wide, device = spectrum.shape[2:-1], spectrum.dtype, str(spectrum.device)
        z = torch.cat([spectrum[..., 0], spectrum[..., 1]], dim=-1)
        for dim, axis in enumerate(plan.kept_axes(modes, two_sided)[:-1], start=2):
            forward = _outer(sizes[dim - 2], *axis, wide, device)
            both = (
                forward.view(2, -1, sizes[dim - 2]).transpose(1, 2).reshape(2 * sizes[dim - 2], -1)
            )
            z = _rotate(z, dim, both, -1)
        y = torch.matmul(z, _last(sizes[-1], modes[-1], scale, weighted, wide, device).T)
        if bias is not None:
            y = y + bias.to(wide).view(-1, *[1] * len(sizes))
        return y.to(dtype)


def _mix(spectrum: Tensor, weight: Tensor, groups: int) -> Tensor:
    """One batched real product over modes: [re | im] of the inputs times 2x2 blocks of weights."""
    batch, _, *modes, _ = spectrum.shape
    inputs, outputs = weight.shape[:2]
    x = spectrum.reshape(batch, groups, inputs, -1, 2).permute(1, 3, 0, 4, 2)  # g m n 2 i
    w = weight.reshape(inputs, groups, outputs // groups, -1, 2).permute(1, 3, 0, 2, 4)  # g m i o 2
    real, imag = w[..., 0], w[..., 1]
    blocks = torch.cat([torch.cat([real, imag], -1), torch.cat([-imag, real], -1)], dim=-2)
    product = torch.matmul(x.reshape(groups, -1, batch, 2 * inputs), blocks)
    product = product.unflatten(-1, (2, -1)).permute(2, 0, 4, 1, 3)  # n g o m 2
    return product.reshape(batch, outputs, *modes, 2)


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, sizes, groups: int, analysis_scale: float,
    synthesis_scale: float, two_sided: bool,
) -> Tensor:  # fmt: skip
    spectrum = analysis(x, weight.shape[2:-1], analysis_scale, False, two_sided)
    with torch.autocast(x.device.type, enabled=False):
        mixed = _mix(spectrum, weight, groups)
    return synthesis(mixed, sizes, synthesis_scale, True, two_sided, x.dtype, bias)
