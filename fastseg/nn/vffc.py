"""Fast Fourier convolutions, layer to residual bottleneck, in 3-D (volumetric) and 2-D, with the
parameter names and shapes of the published VFFC (Quattrini et al., 2023), FFC (Chi et al., 2020)
and LaMa (Suvorov et al., 2022) code.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastseg.nn.fourier_unit import SpectralTransform, convolution, normalisation
from fastseg.nn.parameters import in_format_of, reset_children

Pair = tuple[Tensor | None, Tensor | None]


def _sum_of(*paths) -> Tensor | None:
    """Σ module(x) over the paths (module, x) that exist."""
    outputs = [module(x) for module, x in paths if module is not None]
    return sum(outputs[1:], outputs[0]) if outputs else None


def _split(x: Tensor | Pair, global_channels: int) -> Pair:
    """(local, global) parts: the last channels are the global ones; None where there are none."""
    if not isinstance(x, Tensor):
        return x
    x_l, x_g = x.tensor_split((x.shape[1] - global_channels,), dim=1)
    return (x_l if x_l.shape[1] else None), (x_g if x_g.shape[1] else None)


def _join(pair: Pair) -> Tensor:
    return torch.cat([part for part in pair if part is not None], dim=1)


class _Gated(NamedTuple):
    """A path whose output is scaled at every position."""

    path: nn.Module
    gate: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return self.path(x) * self.gate


class VFFC(nn.Module):
    """Apply a fast Fourier convolution (Chi et al., 2020): local and global channels with a path
    between each two of them, convolutions but for global → global, which is a `SpectralTransform`.

    x: (B, in_channels, *S) → (B, out_channels, *S), the last int(ratio·channels) channels being
    global; or a pair (local, global), and then a pair is returned, None standing for a part without
    channels. `dims` axes S of any size from 2 (the convolutions reflect at the borders).

    The published options: stride 1 or 2, `padding` (None: what keeps the size), dilation and groups
    of the convolutions (half of the groups in the global path); gated: local → global and global →
    local are each scaled by a sigmoid of a 1×1 convolution of all of x; fft_norm and use_se: those
    of `FourierUnit`.

    Parameters: convl2l.weight, convl2g.weight, convg2l.weight and those of convg2g; no biases;
    gate.weight and gate.bias if gated, where there are global inputs and local outputs. Raises
    ValueError for ratios outside 0 … 1, even kernel sizes and channels that do not divide.

    >>> VFFC(16, 32, dims=2)(torch.randn(1, 16, 10, 12)).shape
    torch.Size([1, 32, 10, 12])
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, dims: int = 3, kernel_size: int = 3,
        ratio_gin: float = 0.5, ratio_gout: float = 0.5, enable_lfu: bool = True,
        norm: str = "batch", padding_mode: str = "reflect", stride: int = 1,
        padding: int | None = None, dilation: int = 1, groups: int = 1, gated: bool = False,
        fft_norm: str = "ortho", use_se: bool = False,
    ):  # fmt: skip
        super().__init__()
        for name, ratio in (("ratio_gin", ratio_gin), ("ratio_gout", ratio_gout)):
            if not 0 <= ratio <= 1:
                raise ValueError(f"{name}: got {ratio}, want 0 to 1")
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: got {kernel_size}, want an odd one")
        self.in_global, self.out_global = (
            int(in_channels * ratio_gin),
            int(out_channels * ratio_gout),
        )
        in_local, out_local = in_channels - self.in_global, out_channels - self.out_global

        def path(inputs: int, outputs: int):
            if not (inputs and outputs):
                return None
            around = kernel_size // 2 * dilation if padding is None else padding
            return convolution(
                dims, inputs, outputs, kernel_size, bias=False, padding=around,
                padding_mode=padding_mode, stride=stride, dilation=dilation, groups=groups,
            )  # fmt: skip

        self.convl2l = path(in_local, out_local)
        self.convl2g = path(in_local, self.out_global)
        self.convg2l = path(self.in_global, out_local)
        self.convg2g = None
        if self.in_global and self.out_global:
            options = {"dims": dims, "enable_lfu": enable_lfu, "norm": norm, "stride": stride}
            options |= {"groups": max(groups // 2, 1), "fft_norm": fft_norm, "use_se": use_se}
            self.convg2g = SpectralTransform(self.in_global, self.out_global, **options)
        self.gate = None
        if gated and self.in_global and out_local:
            self.gate = convolution(dims, in_channels, 2, 1)

    reset_parameters = reset_children

    def forward(self, x: Tensor | Pair) -> Tensor | Pair:
        x_l, x_g = _split(x, self.in_global)
        to_global, to_local = self.convl2g, self.convg2l
        if self.gate is not None:
            whole = x if isinstance(x, Tensor) else _join((x_l, x_g))
            gates = torch.sigmoid(self.gate(whole))
            to_local, to_global = (
                None if path is None else _Gated(path, gates[:, i : i + 1])
                for i, path in enumerate((to_local, to_global))
            )
        pair = (
            _sum_of((self.convl2l, x_l), (to_local, x_g)),
            _sum_of((to_global, x_l), (self.convg2g, x_g)),
        )
        return in_format_of(x, _join(pair)) if isinstance(x, Tensor) else pair


class FFCSqueeze(nn.Module):
    """Scale local and global channels by what the means of all of them say: squeeze and excitation
    of a fast Fourier convolution (`FFCSE_block` of the published FFC code).

    x: (B, channels, *S) → the same shape, or a pair (local, global) → a pair. `dims` axes S; ratio:
    the share of global channels. Parameters: conv1 (channels → channels // 16), conv_a2l and
    conv_a2g, 1×1 convolutions with biases. Raises ValueError for fewer than 16 channels.

    >>> FFCSqueeze(32, dims=2)(torch.randn(1, 32, 6, 6)).shape
    torch.Size([1, 32, 6, 6])
    """

    def __init__(self, channels: int, *, dims: int = 3, ratio: float = 0.5):
        super().__init__()
        inner = channels // 16
        if inner < 1:
            raise ValueError(f"channels: got {channels}, want at least 16")
        self.in_global = int(channels * ratio)
        self.conv1 = convolution(dims, channels, inner, 1)
        parts = channels - self.in_global, self.in_global
        self.conv_a2l, self.conv_a2g = (
            convolution(dims, inner, part, 1) if part else None for part in parts
        )

    reset_parameters = reset_children

    def forward(self, x: Tensor | Pair) -> Tensor | Pair:
        parts = _split(x, self.in_global)
        whole = x if isinstance(x, Tensor) else _join(parts)
        inner = torch.relu(self.conv1(whole.mean(tuple(range(2, whole.dim())), keepdim=True)))
        paths = zip(parts, (self.conv_a2l, self.conv_a2g), strict=True)
        pair = tuple(None if conv is None else p * torch.sigmoid(conv(inner)) for p, conv in paths)
        return in_format_of(x, _join(pair)) if isinstance(x, Tensor) else pair


class VFFCLayer(nn.Module):
    """Apply `VFFC`, normalisation and ReLU on both parts; arguments and x as `VFFC`'s.

    Parameters: those of ffc, bn_l and bn_g.

    >>> VFFCLayer(16, 16, dims=2)(torch.randn(1, 16, 8, 8)).shape
    torch.Size([1, 16, 8, 8])
    """

    def __init__(self, in_channels: int, out_channels: int, *, dims: int = 3, norm: str = "batch",
                 **options):  # fmt: skip
        super().__init__()
        self.ffc = VFFC(in_channels, out_channels, dims=dims, norm=norm, **options)
        channels = out_channels - self.ffc.out_global, self.ffc.out_global
        self.bn_l, self.bn_g = (normalisation(norm, dims, c) if c else None for c in channels)

    reset_parameters = reset_children

    def forward(self, x: Tensor | Pair) -> Tensor | Pair:
        parts = zip((self.bn_l, self.bn_g), self.ffc(_split(x, self.ffc.in_global)), strict=True)
        pair = tuple(None if norm is None else torch.relu(norm(part)) for norm, part in parts)
        return in_format_of(x, _join(pair)) if isinstance(x, Tensor) else pair


class VFFCBlock(nn.Module):
    """Return x + two `VFFCLayer`s of equal width: (B, channels, *S) → the same shape.

    ratio: the share of global channels. Parameters: those of conv1 and conv2.

    >>> VFFCBlock(16, dims=2)(torch.randn(1, 16, 8, 8)).shape
    torch.Size([1, 16, 8, 8])
    """

    def __init__(self, channels: int, *, ratio: float = 0.5, **options):
        super().__init__()
        options = {"ratio_gin": ratio, "ratio_gout": ratio} | options
        self.conv1 = VFFCLayer(channels, channels, **options)
        self.conv2 = VFFCLayer(channels, channels, **options)

    reset_parameters = reset_children

    def forward(self, x: Tensor) -> Tensor:
        return x + _join(self.conv2(self.conv1(_split(x, self.conv1.ffc.in_global))))


class VFFCBottleneck(nn.Module):
    """Apply `blocks` residual `VFFCBlock`s in a row: (B, channels, *S) → the same shape.

    Parameters: those of resnet_layers.0, resnet_layers.1, …

    >>> VFFCBottleneck(16, blocks=2, dims=2)(torch.randn(1, 16, 8, 8)).shape
    torch.Size([1, 16, 8, 8])
    """

    def __init__(self, channels: int, blocks: int = 3, *, ratio: float = 0.5, **options):
        super().__init__()
        layers = (VFFCBlock(channels, ratio=ratio, **options) for _ in range(blocks))
        self.resnet_layers = nn.Sequential(*layers)

    reset_parameters = reset_children

    def forward(self, x: Tensor) -> Tensor:
        return self.resnet_layers(x)
