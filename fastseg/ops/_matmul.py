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


def mix(a: Tensor, b: Tensor, subscripts: str) -> Tensor:
    """The forward product of `_backends.MIXES` on real tensors, one batched product over modes."""
    batch, groups, _, modes, _ = a.shape
    outputs = b.shape[2]
    rows = a.permute(1, 3, 0, 2, 4)  # g m n i 2
    real, imag = rows[..., 0], rows[..., 1]
    w = b.permute(1, 3, 0, 2, 4)  # g m i o 2
    with torch.autocast(a.device.type, enabled=False):
        left = torch.cat([real, imag], dim=-1)
        right = torch.cat(
            [torch.cat([w[..., 0], w[..., 1]], -1), torch.cat([-w[..., 1], w[..., 0]], -1)], dim=-2
        )
        product = torch.matmul(left, right)  # g m n (o re | o im)
    product = product.view(groups, modes, batch, 2, outputs)
    return product.permute(2, 0, 4, 1, 3)
