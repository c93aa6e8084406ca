"""The spectrum-space transformer of MedSegDiff-V2 (Wu et al., 2024): the deepest features of the
condition net and of the diffusion U-Net attend to each other, frequency by frequency.

Not specified by the source, so our choice: the number of blocks, heads, the place of the norms, and
that the filter acts on the spectrum that attention gives. Spectra are computed in float32.
"""

import math

import torch
from torch import Tensor, nn

from fastseg import ops
from fastseg.nn import NBPFilter


class SpectrumAttention(nn.Module):
    """What frequencies of x (B, channels, h, w) ask of those of `other`, of the same shape: queries
    from x, keys and values from other, all as spectra. The affinity of two frequencies is
    sin(ω·Re(q·k̄)/√d) in each head, ω learnt; `nbp` filters the spectrum of the answer by the step.

    temb: (B, time_channels) → the answer in space (B, channels, h, w).
    """

    def __init__(self, channels: int, heads: int, time_channels: int, nbp: bool):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Conv2d(channels, channels, 1) for _ in range(3))
        self.omega = nn.Parameter(torch.ones(heads, 1, 1))
        self.filter = NBPFilter(channels, time_channels=time_channels) if nbp else None
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, other: Tensor, temb: Tensor) -> Tensor:
        q, k, v = self.query(x), self.key(other), self.value(other)
        # 16 bits would round an affinity's sine away where mean values, the lowest bins, meet
        with torch.autocast(x.device.type, enabled=False):
            q, k, v = (self._tokens(part.float()) for part in (q, k, v))
            affinity = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1] // 2)
            found = torch.sin(self.omega * affinity) @ v / math.sqrt(v.shape[-2])
            y = self._space(found, x.shape, temb.float())
        return self.out(y.to(q.dtype))

    def _tokens(self, x: Tensor) -> Tensor:
        """Turn (B, C, h, w) into (B, heads, bins, 2·C/heads): real, then imaginary parts. The
        product of two is the real part of the complex one.
        """
        height, width = x.shape[2:]
        spectrum = ops.truncated_rfftn(x, (height, width // 2 + 1), norm="ortho")
        pairs = torch.view_as_real(spectrum).flatten(2, 3)  # (B, C, bins, 2)
        return pairs.unflatten(1, (self.heads, -1)).permute(0, 1, 3, 4, 2).flatten(3)

    def _space(self, tokens: Tensor, shape: torch.Size, temb: Tensor) -> Tensor:
        height, width = shape[2:]
        pairs = tokens.unflatten(3, (2, -1)).permute(0, 1, 4, 2, 3).flatten(1, 2)
        spectrum = torch.view_as_complex(pairs.contiguous())
        spectrum = spectrum.unflatten(2, (height, width // 2 + 1))
        if self.filter is not None:
            spectrum = spectrum * self.filter.gain((height, width), temb)
        return ops.truncated_irfftn(spectrum, (height, width), norm="ortho")


class Half(nn.Module):
    """x + attention(norm(x), norm(other)), then a two-layer perceptron, four times as wide."""

    def __init__(self, channels: int, heads: int, time_channels: int, nbp: bool):
        super().__init__()
        self.norm_x, self.norm_other, self.norm = (ChannelNorm(channels) for _ in range(3))
        self.attention = SpectrumAttention(channels, heads, time_channels, nbp)
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, 4 * channels, 1), nn.GELU(), nn.Conv2d(4 * channels, channels, 1)
        )

    def forward(self, x: Tensor, other: Tensor, temb: Tensor) -> Tensor:
        x = x + self.attention(self.norm_x(x), self.norm_other(other), temb)
        return x + self.mlp(self.norm(x))


class ChannelNorm(nn.Module):
    """Layer norm over the channels of (B, C, h, w), point by point."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class SSFormer(nn.Module):
    """noise (B, noise_channels, h, w), semantic (B, semantic_channels, h, w), temb (B, E) → noise's
    shape, and equal to noise at the start.

    Both become tokens of `channels` (a patch is one point). In each of `blocks` the semantic side
    first takes in the noise, then, in a mirrored half, the noise side takes in what came of it.
    Any h and w. kind: "nbp" or "nofilter". ValueError where the two differ in size.
    """

    def __init__(
        self, noise_channels: int, semantic_channels: int, *, time_channels: int, kind: str = "nbp",
        channels: int = 512, blocks: int = 4, heads: int = 8,
    ):  # fmt: skip
        super().__init__()
        options = (channels, heads, time_channels, kind == "nbp")
        self.noise_in = nn.Conv2d(noise_channels, channels, 1)
        self.semantic_in = nn.Conv2d(semantic_channels, channels, 1)
        self.into_semantic = nn.ModuleList(Half(*options) for _ in range(blocks))
        self.into_noise = nn.ModuleList(Half(*options) for _ in range(blocks))
        self.norm, self.out = ChannelNorm(channels), nn.Conv2d(channels, noise_channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, noise: Tensor, semantic: Tensor, temb: Tensor) -> Tensor:
        if noise.shape[2:] != semantic.shape[2:]:
            raise ValueError(
                f"semantic: got shape {tuple(semantic.shape)}, want the sizes of noise "
                f"{tuple(noise.shape)}"
            )
        d, c = self.noise_in(noise), self.semantic_in(semantic)
        for into_semantic, into_noise in zip(self.into_semantic, self.into_noise, strict=True):
            c = into_semantic(c, d, temb)
            d = into_noise(d, c, temb)
        return noise + self.out(self.norm(d))
