"""The diffusion U-shape with a global view: a spectral branch beside the convolutions of a level,
and a module that fuses the two. Both start so that the network is the U-shape itself, with the
weights that the same seed gives it.

Arms of the comparison: "local", the U-shape; "local-wide", the U-shape widened to as many
parameters as "fused" has; "spectral", branches in the place of all convolution blocks; "fused".
"""

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastseg import ops
from fastseg.errors import FastsegWarning
from fastseg.fields import documented
from fastseg.models import diffusion_unet
from fastseg.models.diffusion_unet import CONVOLUTIONS, Block, convolution, level_widths
from fastseg.models.fno_diffusion import kept_modes
from fastseg.models.parts.fusion import FUSIONS, NEEDS_ZERO
from fastseg.models.parts.generic_ssl import TIME
from fastseg.models.parts.joint import Joint, convolved
from fastseg.models.parts.layers import zeroed
from fastseg.models.system import Channels
from fastseg.nn import FNOBlock, TimeFiLM

ATTENTION_FROM = 2  # the finest level whose maps are small enough to attend from every point


@dataclass(frozen=True)
class Options(diffusion_unet.Options):
    """Options of the fused network and of the arms it is compared with. Arm "spectral" takes modes
    and weights of those of branches, "local" none.
    """

    arm: Literal["local", "local-wide", "spectral", "fused"] = documented(
        "the U-shape, as many parameters as fused has, spectral branches alone, or both", "fused"
    )
    modes: tuple[int, ...] = documented(
        "non-negative frequencies kept on each axis, of each level, finest first", (16, 12, 8, 6, 4)
    )
    reduction: int = documented("a level's channels over those of its branch", 4, least=1)
    weights: Literal["dense", "shared", "depthwise"] = documented(
        "a matrix for each frequency, one for all, or a factor a channel", "dense"
    )
    fusion: Literal[tuple(FUSIONS)] = documented(
        "how branch and convolutions become one; attn is gate on the two finest levels", "gate"
    )
    placement: tuple[Literal["encoder", "bottleneck", "decoder"], ...] = documented(
        "where branches are", ("encoder", "bottleneck")
    )
    path: Literal["both", "denoiser", "supervised"] = documented("what uses branches", "both")

    def check(self) -> None:
        """Raise UsageError for modes of other than all levels."""
        super().check()
        counts = len(self.modes) == len(CONVOLUTIONS) and min(self.modes) >= 1
        self.want(counts, "modes", f"{len(CONVOLUTIONS)} positive counts, one a level")


class SharedBlock(nn.Module):
    """gelu(spectral_conv(x) + W·x + b) with one complex matrix for all modes: (B, width, *S)."""

    def __init__(self, axes: int, width: int, modes: Sequence[int]):
        super().__init__()
        self.modes = tuple(modes)
        self.weight = nn.Parameter(torch.randn(width, width, *[1] * axes, 2) / math.sqrt(2 * width))
        self.skip = convolution(axes, width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        bins = *x.shape[2:-1], x.shape[-1] // 2 + 1
        modes = tuple(map(min, self.modes, bins))
        if modes != self.modes and not torch.compiler.is_compiling():
            text = f"modes {self.modes} exceed bins {bins}; using {modes}"
            warnings.warn(text, FastsegWarning, stacklevel=2)
        return F.gelu(ops.spectral_conv(x, self.weight, norm="ortho", modes=modes) + self.skip(x))


class SpectralBranch(nn.Module):
    """1x1 convolution to `width` channels, GroupNorm, FiLM by the time embedding where `timed`, an
    FNO block, 1x1 convolution: (B, inputs, *S) → (B, outputs, *S).
    """

    def __init__(
        self, axes: int, inputs: int, outputs: int, width: int, modes: int, weights: str,
        timed: bool,
    ):  # fmt: skip
        super().__init__()
        self.reduce = convolution(axes, inputs, width, 1)
        self.norm = nn.GroupNorm(math.gcd(8, width), width)
        self.film = TimeFiLM(TIME, width) if timed else None
        kept = kept_modes(axes, modes)
        if weights == "shared":
            self.block = SharedBlock(axes, width, kept)
        else:
            self.block = FNOBlock(width, width, kept, groups=width if weights != "dense" else 1)
        if weights == "depthwise":
            self.block.weight.data *= math.sqrt(width)  # one input a channel, not `width`
        self.expand = convolution(axes, width, outputs, 1)

    def forward(self, x: Tensor | Joint, temb: Tensor | None) -> Tensor:
        x = self.norm(convolved(self.reduce, x))
        return self.expand(self.block(x if self.film is None else self.film(x, temb)))


class Fused(nn.Module):
    """A block and a spectral branch of the same input, fused where the path has the branch."""

    def __init__(self, block: nn.Module, branch: nn.Module, fusion: nn.Module, path: str):
        super().__init__()
        self.block, self.branch, self.fusion, self.path = block, branch, fusion, path

    def forward(self, x: Tensor | Joint, temb: Tensor | None) -> Tensor:
        local = self.block(x, temb)
        if self.path == ("denoiser" if temb is None else "supervised"):
            return local
        return self.fusion(local, self.branch(x, temb))


def spectral_blocks(options: Options) -> Block:
    """Return what makes branches of full width as the blocks of a U-shape."""

    def block(level: int, inputs: int, outputs: int, *, timed: bool) -> nn.Module:
        modes, weights = options.modes[level], options.weights
        return SpectralBranch(options.axes, inputs, outputs, outputs, modes, weights, timed)

    return block


def fuse(
    block: nn.Module, level: int, inputs: int, outputs: int, timed: bool, options: Options
) -> Fused:
    """Put a branch beside a level's `block`; what the two give is what `block` gives, at first."""
    width, modes, axes = max(outputs // options.reduction, 1), options.modes[level], options.axes
    branch = SpectralBranch(axes, inputs, outputs, width, modes, options.weights, timed)
    coarse = level >= ATTENTION_FROM
    kind = options.fusion if coarse or options.fusion != "attn" else "gate"
    if kind in NEEDS_ZERO:
        zeroed(branch.expand)
    return Fused(block, branch, FUSIONS[kind](axes, outputs), options.path)


def matching_width(want: int, width: float, count: Callable[[float], int]) -> float:
    """Find the width at which a network has `want` parameters, `count(width)` being its number: by
    secants of √count, which is near linear in the width.

    >>> round(matching_width(6400, 32, lambda width: int(width**2)))
    80
    """
    for _ in range(4):
        width *= math.sqrt(want / count(width))
    return width


class System(diffusion_unet.System):
    """The fused network, or another arm, with its losses and predictions. Sizes must be divisible
    by 16; modes beyond a size's bins are clipped with one warning.
    """

    Options = Options

    def __init__(self, channels: Channels, options: Options):
        if options.arm == "local-wide":
            options = dataclasses.replace(options, width=self._wide(channels, options))
        block = spectral_blocks(options) if options.arm == "spectral" else None
        super().__init__(channels, options, block)
        if options.arm == "fused":
            # after the U-shape, whose first weights so are those of arm "local"
            self._embeddings(channels.images, options)
            self._levels(level_widths(options.width), options)
            self.freeze()

    @classmethod
    def _wide(cls, channels: Channels, options: Options) -> float:
        def count(width: float, arm: str = "local") -> int:
            with torch.device("meta"):
                net = cls(channels, dataclasses.replace(options, arm=arm, width=width))
            return sum(p.numel() for p in net.parameters())

        return matching_width(count(options.width, "fused"), options.width, count)

    def _embeddings(self, images: int, options: Options) -> None:
        if "encoder" not in options.placement:
            return
        width = round(options.width)
        if options.path != "supervised":
            joint, inputs = self.embed_joint, images + self.head.outputs
            joint.block = fuse(joint.block, 0, inputs, width, True, options)
        if options.path != "denoiser":
            image = self.embed_image
            image.block = fuse(image.block, 0, images, width, False, options)

    def _levels(self, widths: list[int], options: Options) -> None:
        def wrap(blocks: nn.ModuleList, index: int, level: int, timed: bool) -> None:
            width = widths[level]
            blocks[index] = fuse(blocks[index], level, width, width, timed, options)

        coarsest, denoiser = len(widths) - 1, options.path != "supervised"
        for level in range(1, len(widths)):
            if ("bottleneck" if level == coarsest else "encoder") in options.placement:
                wrap(self.encoder.blocks, level - 1, level, denoiser)
        if "decoder" in options.placement:
            decoders = [(self.xi, True)] if denoiser else []
            if options.path != "denoiser":
                decoders += [(self.psi, False), (self.theta, False)]
            for decoder, timed in decoders:
                for index in range(coarsest):
                    wrap(decoder.blocks, index, coarsest - 1 - index, timed)
