"""The Fourier unit and the spectral transform of fast Fourier convolutions (Chi et al., 2020), at
any size, with the parameter names and shapes of the published FFC and VFFC code.
"""

import math

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from fastseg import ops
from fastseg.nn.parameters import in_format_of, reset_children
from fastseg.nn.squeeze import SqueezeExcitation
from fastseg.ops.context import without_autocast

_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_BATCH_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_POOLS = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}


def convolution(dims: int, in_channels: int, out_channels: int, kernel_size: int, **options):
    """Return a convolution over `dims` axes, 1 to 3; ValueError for others."""
    if dims not in _CONVOLUTIONS:
        raise ValueError(f"dims: got {dims!r}, want 1, 2 or 3")
    return _CONVOLUTIONS[dims](in_channels, out_channels, kernel_size, **options)


def normalisation(kind: str, dims: int, channels: int) -> nn.Module:
    """Return a batch norm, or a group norm in 8 groups where they divide the channels."""
    if kind == "batch":
        return _BATCH_NORMS[dims](channels)
    if kind == "group":
        return nn.GroupNorm(math.gcd(channels, 8), channels)
    raise ValueError(f"norm: got {kind!r}, want 'batch' or 'group'")


def _world(norm: _BatchNorm) -> int:
    """How many processes share the statistics of this step."""
    if not (isinstance(norm, nn.SyncBatchNorm) and norm.training):
        return 1
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size(norm.process_group)


def _momentum(norm: _BatchNorm) -> float:
    """This step's weight of the batch in the running statistics, counting the step."""
    if not (norm.training and norm.track_running_stats):
        return 0.0
    norm.num_batches_tracked.add_(1)
    # like torch: momentum None asks for the plain average of all batches
    return 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, group) -> Tensor:
        ctx.group = group
        total = x.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return _SumOverProcesses.apply(grad.contiguous(), ctx.group), None


def _gains(norm: str, sizes) -> tuple[float, float]:
    """What the transform and the inverse of a norm of torch.fft are times those of "ortho"."""
    root = math.sqrt(math.prod(sizes))
    return {"ortho": (1.0, 1.0), "backward": (root, 1 / root), "forward": (1 / root, root)}[norm]


class FourierUnit(nn.Module):
    """Mix channels at every frequency: real FFT, a 1×1 convolution over real and imaginary parts,
    normalisation, ReLU, inverse FFT (Chi et al., 2020, fig. 2): `fastseg.ops.fourier_unit` with its
    parameters.

    x: (B, in_channels, *S) → (B, out_channels, *S) in x.dtype; S has `dims` axes of any size. norm:
    "batch" (statistics over the batch and all bins of the half spectrum; `nn.SyncBatchNorm.
    convert_sync_batchnorm` shares them between processes) or "group" (of each sample). groups: of
    the 1×1 convolution. fft_norm: that of `torch.fft.rfftn`. use_se: scale the spectrum's channels
    in front of it by `SqueezeExcitation`, in plain torch between the transforms.

    Parameters: conv_layer.weight (2·out_channels, 2·in_channels/groups, 1…), channels 2i and 2i+1
    being the real and the imaginary part of channel i; bn.weight and bn.bias (2·out_channels,);
    with use_se those of se. Raises ValueError for dims, norm or fft_norm unknown and groups that do
    not divide the channels.

    >>> FourierUnit(4, 6, dims=2)(torch.randn(2, 4, 9, 14)).shape
    torch.Size([2, 6, 9, 14])
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, dims: int = 3, norm: str = "batch",
        groups: int = 1, fft_norm: str = "ortho", use_se: bool = False,
    ):  # fmt: skip
        super().__init__()
        if fft_norm not in ("ortho", "backward", "forward"):
            raise ValueError(f"fft_norm: got {fft_norm!r}, want 'ortho', 'backward' or 'forward'")
        self.fft_norm = fft_norm
        self.conv_layer = convolution(
            dims, 2 * in_channels, 2 * out_channels, 1, groups=groups, bias=False
        )
        self.bn = normalisation(norm, dims, 2 * out_channels)
        self.se = SqueezeExcitation(2 * in_channels) if use_se else None

    reset_parameters = reset_children

    def forward(self, x: Tensor) -> Tensor:
        if self.se is not None:
            return self._squeezed(x)
        norm, weight = self.bn, self.conv_layer.weight.flatten(1)
        if self.conv_layer.groups > 1:
            weight = torch.block_diag(*weight.chunk(self.conv_layer.groups))
        # the mix is linear, and a ReLU keeps positive factors: they go into the parameters
        before, after = _gains(self.fft_norm, x.shape[2:])
        weight = weight if before == 1 else weight * before
        if not isinstance(norm, _BatchNorm):
            return self._normalised(x, weight, after)
        momentum = _momentum(norm)
        if _world(norm) > 1:
            return self._synchronised(x, weight, momentum, after)
        training = norm.training or norm.running_mean is None
        scale, shift = norm.weight, norm.bias
        if after != 1:
            scale, shift = scale * after, shift * after
        return ops.fourier_unit(
            x, weight, scale, shift, norm.running_mean, norm.running_var, training, momentum,
            norm.eps,
        )  # fmt: skip

    def _squeezed(self, x: Tensor) -> Tensor:
        """With channels of the spectrum that each sample scales by itself."""
        sizes = tuple(x.shape[2:])
        half = ops.truncated_rfftn(x, (*sizes[:-1], sizes[-1] // 2 + 1), self.fft_norm)
        pairs = torch.stack((half.real, half.imag), 2).flatten(1, 2)
        with without_autocast(x):
            z = torch.relu(self.bn(self.conv_layer(self.se(pairs))))
        half = torch.complex(z[:, 0::2], z[:, 1::2])
        return ops.truncated_irfftn(half, sizes, self.fft_norm, dtype=x.dtype)

    def _normalised(self, x: Tensor, weight: Tensor, after: float) -> Tensor:
        """With a normalisation whose statistics are not those of channels over the batch."""
        z, total, _ = ops.fu_mix(x, weight)
        scale, zero = torch.full_like(total, after), torch.zeros_like(total)
        return ops.fu_finish(self.bn(z), scale, zero, x.shape[2:]).to(x.dtype)

    def _synchronised(self, x: Tensor, weight: Tensor, momentum: float, after: float) -> Tensor:
        norm = self.bn
        z, total, squares = ops.fu_mix(x, weight)
        channels = z.shape[1]
        count = total.new_full((1,), z.numel() // channels)
        sums = _SumOverProcesses.apply(torch.cat([total, squares, count]), norm.process_group)
        total, squares, count = sums.split([channels, channels, 1])
        mean = total / count
        var = (squares / count - mean.square()).clamp(min=0)
        if norm.track_running_stats:
            with torch.no_grad():
                norm.running_mean.lerp_(mean.to(norm.running_mean), momentum)
                unbiased = var * (count / (count - 1))
                norm.running_var.lerp_(unbiased.to(norm.running_var), momentum)
        scale = after * norm.weight * torch.rsqrt(var + norm.eps)
        shift = after * norm.bias - mean * scale
        return ops.fu_finish(z, scale, shift, x.shape[2:]).to(x.dtype)


class LocalFourierUnit(FourierUnit):
    """Apply a Fourier unit to half-size patches: the first quarter of the channels is cut 2×2 along
    the last two axes, the four patches are stacked as channels, and the result is repeated 2×2.

    x: (B, channels, *S) → the same shape; 2-D or 3-D, a depth axis is not cut. Odd axes are padded
    with a zero at the end before and cropped after: on even, equal height and width this is the
    published layer, which takes no other sizes. Parameters: those of `FourierUnit(channels,
    channels)`, groups those of its convolution. Raises ValueError for channels not divisible by 4.

    >>> LocalFourierUnit(8, dims=2)(torch.randn(1, 8, 10, 10)).shape
    torch.Size([1, 8, 10, 10])
    """

    def __init__(self, channels: int, *, dims: int = 3, norm: str = "batch", groups: int = 1):
        if channels % 4:
            raise ValueError(f"channels: got {channels}, want a multiple of 4")
        if dims not in (2, 3):
            raise ValueError(f"dims: got {dims!r}, want 2 or 3")
        super().__init__(channels, channels, dims=dims, norm=norm, groups=groups)
        self.quarter = channels // 4

    def forward(self, x: Tensor) -> Tensor:
        image, (height, width) = x, x.shape[-2:]
        x = F.pad(x[:, : self.quarter], (0, width % 2, 0, height % 2))
        x = x.unflatten(-1, (2, -1)).unflatten(-3, (2, -1))  # (B, quarter, [D,] 2, h, 2, w)
        # patches ordered right half slowest, then lower half, then channel
        patches = x.movedim((-2, -4), (1, 2)).flatten(1, 3)
        y = super().forward(patches)
        return in_format_of(image, y.repeat(*[1] * (y.dim() - 2), 2, 2)[..., :height, :width])


class SpectralTransform(nn.Module):
    """Take the global path of a fast Fourier convolution: a 1×1 convolution to half the channels,
    z; z + its Fourier unit + its local Fourier unit; a 1×1 convolution (Chi et al., 2020, fig. 3).

    x: (B, in_channels, *S) → (B, out_channels, *S), 2-D or 3-D. With stride 2 means over 2 voxels
    an axis come first, → (B, out_channels, ⌈S/2⌉). groups: of every convolution; fft_norm and
    use_se: those of the Fourier unit, not of the local one. Parameters: conv1.0 (convolution),
    conv1.1 (norm), fu, lfu (unless enable_lfu is False), conv2. Raises ValueError for out_channels
    odd, or not divisible by 8 with a local unit, and strides other than 1 and 2.

    >>> SpectralTransform(8, 8, dims=2)(torch.randn(1, 8, 10, 12)).shape
    torch.Size([1, 8, 10, 12])
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, dims: int = 3, enable_lfu: bool = True,
        norm: str = "batch", stride: int = 1, groups: int = 1, fft_norm: str = "ortho",
        use_se: bool = False,
    ):  # fmt: skip
        super().__init__()
        if stride not in (1, 2):
            raise ValueError(f"stride: got {stride}, want 1 or 2")
        if out_channels % (8 if enable_lfu else 2):
            wanted = 8 if enable_lfu else 2
            raise ValueError(f"out_channels: got {out_channels}, want a multiple of {wanted}")
        hidden = out_channels // 2
        self.downsample = nn.Identity()
        if stride == 2:  # a last voxel by itself is its own mean
            self.downsample = _POOLS[dims](2, stride=2, ceil_mode=True)
        self.conv1 = nn.Sequential(
            convolution(dims, in_channels, hidden, 1, groups=groups, bias=False),
            normalisation(norm, dims, hidden),
            nn.ReLU(inplace=True),
        )
        unit = {"dims": dims, "norm": norm, "groups": groups}
        self.fu = FourierUnit(hidden, hidden, **unit, fft_norm=fft_norm, use_se=use_se)
        self.lfu = LocalFourierUnit(hidden, **unit) if enable_lfu else None
        self.conv2 = convolution(dims, hidden, out_channels, 1, groups=groups, bias=False)

    reset_parameters = reset_children

    def forward(self, x: Tensor) -> Tensor:
        z = self.conv1(self.downsample(x))
        y = z + self.fu(z)
        return in_format_of(x, self.conv2(y if self.lfu is None else y + self.lfu(z)))
