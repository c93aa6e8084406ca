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

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastseg import ops
from fastseg.errors import FastsegWarning
from fastseg.models import diffusion_unet
from fastseg.models.diffusion_unet import CONVOLUTIONS, Block, convolution, level_widths
from fastseg.models.fno_diffusion import kept_modes
from fastseg.models.parts.generic_ssl import TIME, Joint, convolved
from fastseg.nn import FNOBlock, TimeFiLM
from fastseg.nn.fusion import FUSIONS, NEEDS_ZERO, zeroed

ATTENTION_FROM = 2  # the finest level whose maps are small enough to attend from every point
WORDS = {
    "arm": ("local", "local-wide", "spectral", "fused"),
    "weights": ("dense", "shared", "depthwise"),
    "fusion": tuple(FUSIONS),
    "placement": ("encoder", "bottleneck", "decoder"),
    "path": ("both", "denoiser", "supervised"),
}


@dataclass(frozen=True)
class Branches:
    """Where spectral branches are and what they are made of. ValueError for unknown words."""

    modes: Sequence[int] = (16, 12, 8, 6, 4)  # of each level, non-negative frequencies on each axis
    reduction: int = 4  # of the channels of a level, inside a branch
    weights: str = "dense"  # or "shared" by all modes, or "depthwise"
    fusion: str = "gate"  # "attn" is gate on the two finest levels
    placement: Sequence[str] = ("encoder", "bottleneck")
    path: str = "both"  # what uses them: "denoiser", "supervised" or both

    def __post_init__(self):
        for name in ("weights", "fusion", "path"):
            check_word(name, getattr(self, name))
        for place in self.placement:
            check_word("placement", place)
        if len(self.modes) != len(CONVOLUTIONS) or min(self.modes) < 1:
            raise ValueError(f"modes: got {self.modes}, want {len(CONVOLUTIONS)} positive counts")
        if self.reduction < 1:
            raise ValueError(f"reduction: got {self.reduction}, want at least 1")


def check_word(name: str, word: str) -> None:
    """ValueError for a word that the option does not know."""
    if word not in WORDS[name]:
        raise ValueError(f"{name}: got {word!r}, want one of {', '.join(WORDS[name])}")


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


def spectral_blocks(axes: int, branches: Branches) -> Block:
    """Branches of full width as the blocks of a U-shape."""

    def block(level: int, inputs: int, outputs: int, *, timed: bool) -> nn.Module:
        modes, weights = branches.modes[level], branches.weights
        return SpectralBranch(axes, inputs, outputs, outputs, modes, weights, timed)

    return block


def fuse(
    block: nn.Module, axes: int, level: int, inputs: int, outputs: int, timed: bool,
    branches: Branches,
) -> Fused:  # fmt: skip
    """`block` with a branch beside it; what the two give is what `block` gives, at first."""
    width, modes = max(outputs // branches.reduction, 1), branches.modes[level]
    branch = SpectralBranch(axes, inputs, outputs, width, modes, branches.weights, timed)
    coarse = level >= ATTENTION_FROM
    kind = branches.fusion if coarse or branches.fusion != "attn" else "gate"
    if kind in NEEDS_ZERO:
        zeroed(branch.expand)
    return Fused(block, branch, FUSIONS[kind](axes, outputs), branches.path)


def matching_width(want: int, width: float, count: Callable[[float], int]) -> float:
    """The width at which a network has `want` parameters: secants of √count, which is near linear
    in the width.
    """
    for _ in range(4):
        width *= math.sqrt(want / count(width))
    return width


class System(diffusion_unet.System):
    """The fused network, or another arm, with its losses and predictions.

    Options: arm, axes and width, those of `Branches` (arm "spectral": modes and weights only) and
    of `generic_ssl.Scheme`. Sizes must be divisible by 16; modes beyond a size's bins are clipped
    with one warning. ValueError for unknown words.
    """

    def __init__(
        self, in_channels: int, classes: int, *, arm: str = "fused", axes: int = 2,
        width: float = 32, **options,
    ):  # fmt: skip
        check_word("arm", arm)
        known = {field.name for field in dataclasses.fields(Branches)}
        branches = Branches(**{name: options.pop(name) for name in known & options.keys()})
        block = spectral_blocks(axes, branches) if arm == "spectral" else None
        if arm == "local-wide":
            head = {name: options[name] for name in ("head", "regions") if name in options}
            width = self._wide(in_channels, classes, axes, width, branches, head)
        super().__init__(in_channels, classes, axes=axes, width=width, block=block, **options)
        if arm == "fused":
            # after the U-shape, whose first weights so are those of arm "local"
            self._embeddings(axes, in_channels, width, branches)
            self._levels(axes, level_widths(width), branches)
            self.freeze()

    @classmethod
    def _wide(cls, in_channels, classes, axes, width, branches, head) -> float:
        def count(width: float, arm: str = "local", **options) -> int:
            options |= head
            with torch.device("meta"):
                net = cls(in_channels, classes, arm=arm, axes=axes, width=width, **options)
            return sum(p.numel() for p in net.parameters())

        return matching_width(count(width, "fused", **vars(branches)), width, count)

    def _embeddings(self, axes: int, in_channels: int, width: float, branches: Branches) -> None:
        if "encoder" not in branches.placement:
            return
        if branches.path != "supervised":
            joint, inputs = self.embed_joint, in_channels + self.head.outputs
            joint.block = fuse(joint.block, axes, 0, inputs, round(width), True, branches)
        if branches.path != "denoiser":
            image = self.embed_image
            image.block = fuse(image.block, axes, 0, in_channels, round(width), False, branches)

    def _levels(self, axes: int, widths: list[int], branches: Branches) -> None:
        def wrap(blocks: nn.ModuleList, index: int, level: int, timed: bool) -> None:
            channels = widths[level], widths[level]
            blocks[index] = fuse(blocks[index], axes, level, *channels, timed, branches)

        coarsest, denoiser = len(widths) - 1, branches.path != "supervised"
        for level in range(1, len(widths)):
            if ("bottleneck" if level == coarsest else "encoder") in branches.placement:
                wrap(self.encoder.blocks, level - 1, level, denoiser)
        if "decoder" in branches.placement:
            decoders = [(self.xi, True)] if denoiser else []
            if branches.path != "denoiser":
                decoders += [(self.psi, False), (self.theta, False)]
            for decoder, timed in decoders:
                for index in range(coarsest):
                    wrap(decoder.blocks, index, coarsest - 1 - index, timed)
