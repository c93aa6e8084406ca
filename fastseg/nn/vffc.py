"""Volumetric fast Fourier convolutions, layer to residual bottleneck, in 3-D and 2-D, with the
parameter names and shapes of the published VFFC code (Quattrini et al., 2023).
"""

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


class VFFC(nn.Module):
    """Apply a fast Fourier convolution (Chi et al., 2020): local and global channels with a path
    between each two of them, convolutions but for global → global, which is a `SpectralTransform`.

    x: (B, in_channels, *S) → (B, out_channels, *S), the last int(ratio·channels) channels being
    global; or a pair (local, global), and then a pair is returned, None standing for a part without
    channels. `dims` axes S of any size from 2 (the convolutions reflect at the borders).

    Parameters: convl2l.weight, convl2g.weight, convg2l.weight and those of convg2g; no biases.
    Raises ValueError for ratios outside 0 … 1, even kernel sizes and channels that do not divide.

    >>> VFFC(16, 32, dims=2)(torch.randn(1, 16, 10, 12)).shape
    torch.Size([1, 32, 10, 12])
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, dims: int = 3, kernel_size: int = 3,
        ratio_gin: float = 0.5, ratio_gout: float = 0.5, enable_lfu: bool = True,
        norm: str = "batch", padding_mode: str = "reflect",
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
            padding = {"padding": kernel_size // 2, "padding_mode": padding_mode}
            return convolution(dims, inputs, outputs, kernel_size, bias=False, **padding)

        self.convl2l = path(in_local, out_local)
        self.convl2g = path(in_local, self.out_global)
        self.convg2l = path(self.in_global, out_local)
        self.convg2g = None
        if self.in_global and self.out_global:
            options = {"dims": dims, "enable_lfu": enable_lfu, "norm": norm}
            self.convg2g = SpectralTransform(self.in_global, self.out_global, **options)

    reset_parameters = reset_children

    def forward(self, x: Tensor | Pair) -> Tensor | Pair:
        x_l, x_g = _split(x, self.in_global)
        pair = (
            _sum_of((self.convl2l, x_l), (self.convg2l, x_g)),
            _sum_of((self.convl2g, x_l), (self.convg2g, x_g)),
        )
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
