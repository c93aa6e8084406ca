"""The 2-D U-Net of diffusion models, in the form of Dhariwal & Nichol ("guided diffusion", 2021):
residual blocks that know the time step, self-attention at chosen levels, skips concatenated.

Own code, because MONAI's has no place to reach into the first and the deepest feature.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastseg.fields import Checked, documented
from fastseg.models.parts.layers import zeroed
from fastseg.nn.time import TimeEmbedding, TimeFiLM, TimeShift

Hook = Callable[[Tensor, Tensor], Tensor]  # (features (B, C, h, w), temb (B, E)) → features


def group_norm(channels: int) -> nn.GroupNorm:
    """Make a norm of 32 groups where they have two channels or more each, else the most that do.

    >>> group_norm(64).num_groups, group_norm(8).num_groups
    (32, 4)
    """
    groups = math.gcd(32, channels)
    while groups > 1 and channels // groups < 2:
        groups //= 2
    return nn.GroupNorm(groups, channels)


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice, beside a skip; time enters at the second norm: as scale and
    shift of it (`film`), else as a shift before it. The last convolution starts at zero.

    x: (B, inputs, h, w), temb: (B, embedding) → (B, outputs, h, w).
    """

    def __init__(
        self, inputs: int, outputs: int, embedding: int, *, film: bool, dropout: float = 0.0
    ):
        super().__init__()
        self.norm_in, self.conv_in = group_norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm_out, self.dropout = group_norm(outputs), nn.Dropout(dropout)
        self.film, self.time = film, (TimeFiLM if film else TimeShift)(embedding, outputs)
        self.conv_out = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        h = self.conv_in(F.silu(self.norm_in(x)))
        h = self.time(self.norm_out(h), temb) if self.film else self.norm_out(self.time(h, temb))
        return self.skip(x) + self.conv_out(self.dropout(F.silu(h)))


class SelfAttention(nn.Module):
    """Attention of all points to all, in `heads`, added to x (B, channels, h, w)."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads, self.norm = heads, group_norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.project = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        tokens = self.qkv(self.norm(x).flatten(2))
        q, k, v = tokens.unflatten(1, (3, self.heads, -1)).transpose(-1, -2).unbind(1)
        found = F.scaled_dot_product_attention(q, k, v)
        return x + self.project(found.transpose(-1, -2).flatten(1, 2)).view_as(x)


@dataclass(frozen=True)
class UNetOptions(Checked):
    """The sizes of a U-Net."""

    width: int = documented("channels of the finest level", 64, least=4)
    multipliers: tuple[int, ...] = documented(
        "channels of each level over those of the finest, finest first", (1, 2, 3, 4)
    )
    blocks: int = documented("residual blocks of a level on the way down", 2, least=1)
    attention_levels: tuple[int, ...] = documented(
        "levels whose points attend to each other, finest 0; the middle always does", (2,)
    )
    heads: int = documented("heads of the attention", 1, least=1)

    def check(self) -> None:
        """Raise UsageError for sizes that do not go together."""
        super().check()
        self.want(self.width % 2 == 0, "width", "an even count from 4")
        self.want(min(self.multipliers, default=0) > 0, "multipliers", "whole numbers from 1")
        last = len(self.multipliers) - 1
        inside = all(0 <= level <= last for level in self.attention_levels)
        self.want(inside, "attention_levels", f"numbers from 0 to {last}")
        attending = {self.width * self.multipliers[level] for level in (*self.attention_levels, -1)}
        split = all(channels % self.heads == 0 for channels in attending)
        self.want(split, "heads", f"a divisor of {', '.join(map(str, sorted(attending)))} channels")


class UNet(nn.Module):
    """x (B, in_channels, H, W), t (B,) steps → (B, out_channels, H, W), zero at the start.

    Level i is 1/2^i of the size and has one more residual block on the way up than down. `film`:
    time as scale and shift of a norm, else added. time_channels: of the time embedding, 4·width
    unless given. H and W must be divisible by 2^(levels − 1), else ValueError.

    >>> sizes = UNetOptions(width=4, multipliers=(1, 2), blocks=1, attention_levels=())
    >>> UNet(3, 2, sizes)(torch.zeros(1, 3, 8, 8), torch.tensor([5])).shape
    torch.Size([1, 2, 8, 8])
    """

    def __init__(
        self, in_channels: int, out_channels: int, sizes: UNetOptions, *, film: bool = True,
        time_channels: int | None = None, dropout: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        self.embedding = time_channels or 4 * sizes.width
        self.widths = [sizes.width * multiplier for multiplier in sizes.multipliers]
        self.multiple = 2 ** (len(sizes.multipliers) - 1)
        self.attends, self.heads = frozenset(sizes.attention_levels), sizes.heads
        self.options = {"film": film, "dropout": dropout}
        self.time = TimeEmbedding(self.embedding, sizes.width)
        self.first = nn.Conv2d(in_channels, self.widths[0], 3, padding=1)
        self._build_encoder(sizes.blocks)
        deepest = self.widths[-1]
        around = [self._block(deepest, deepest) for _ in range(2)]
        self.middle = nn.ModuleList([around[0], SelfAttention(deepest, sizes.heads), around[1]])
        self._build_decoder(sizes.blocks)
        self.norm = group_norm(self.widths[0])
        self.last = zeroed(nn.Conv2d(self.widths[0], out_channels, 3, padding=1))

    def forward(
        self, x: Tensor, t: Tensor, embedding: Tensor | None = None,
        at_first: Hook | None = None, at_deepest: Hook | None = None,
    ) -> Tensor:  # fmt: skip
        """Return the output (B, out_channels, H, W).

        Args:
            x: (B, in_channels, H, W).
            t: (B,) steps.
            embedding: (B, time_channels), added to that of time.
            at_first: replaces the feature after the first convolution (B, widths[0], H, W).
            at_deepest: replaces the encoder's last one (B, widths[-1], H/multiple, W/multiple),
                which the middle then gets.
        """
        temb = self.time(t) if embedding is None else self.time(t) + embedding
        skips = self.encode(x, temb, at_first)
        h = skips[-1] if at_deepest is None else at_deepest(skips[-1], temb)
        return self.decode(h, skips, temb)

    def encode(self, x: Tensor, temb: Tensor, at_first: Hook | None = None) -> list[Tensor]:
        """Return all features of the encoder, the deepest last."""
        sizes = tuple(x.shape[2:])
        if len(sizes) != 2 or any(n % self.multiple or not n for n in sizes):
            raise ValueError(f"image: has sizes {sizes}, wanted two multiples of {self.multiple}")
        h = self.first(x)
        features = [h if at_first is None else at_first(h, temb)]
        for stage in self.encoder:
            features.append(_through(stage, features[-1], temb))
        return features

    def decode(self, h: Tensor, skips: Sequence[Tensor], temb: Tensor) -> Tensor:
        """Return the output from the deepest feature and all features of the encoder."""
        h = _through(self.middle, h, temb)
        for stage, skip in zip(self.decoder, reversed(skips), strict=True):
            h = _through(stage, torch.cat([h, skip], 1), temb)
        return self.last(F.silu(self.norm(h)))

    def _block(self, inputs: int, outputs: int) -> ResidualBlock:
        return ResidualBlock(inputs, outputs, self.embedding, **self.options)

    def _stage(self, level: int, inputs: int) -> nn.ModuleList:
        width = self.widths[level]
        attention = [SelfAttention(width, self.heads)] if level in self.attends else []
        return nn.ModuleList([self._block(inputs, width), *attention])

    def _build_encoder(self, blocks: int) -> None:
        self.encoder, self._skips, width = nn.ModuleList(), [self.widths[0]], self.widths[0]
        for level in range(len(self.widths)):
            if level:
                down = nn.Conv2d(width, width, 3, stride=2, padding=1)
                self.encoder.append(nn.ModuleList([down]))
                self._skips.append(width)
            for _ in range(blocks):
                self.encoder.append(self._stage(level, width))
                width = self.widths[level]
                self._skips.append(width)

    def _build_decoder(self, blocks: int) -> None:
        self.decoder, width = nn.ModuleList(), self.widths[-1]
        skips = list(self._skips)
        for level in reversed(range(len(self.widths))):
            for number in range(blocks + 1):
                stage = self._stage(level, width + skips.pop())
                width = self.widths[level]
                if level and number == blocks:
                    conv = nn.Conv2d(width, width, 3, padding=1)
                    stage.append(nn.Sequential(nn.Upsample(scale_factor=2.0), conv))
                self.decoder.append(stage)


def _through(stage: nn.ModuleList, x: Tensor, temb: Tensor) -> Tensor:
    for part in stage:
        x = part(x, temb) if isinstance(part, ResidualBlock) else part(x)
    return x
