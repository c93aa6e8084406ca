"""Conditioning on the step of a diffusion: its embedding, and modules that add it to feature maps
of any rank.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastseg.nn.parameters import reset_children


def sinusoid(t: Tensor, channels: int) -> Tensor:
    """Return sines, then cosines, of t at frequencies 1 … 1/10000 (Vaswani et al., 2017, in the
    order of Ho et al., 2020).

    t: (B,) of any dtype → (B, channels) float32; channels even, at least 4, else ValueError.

    >>> sinusoid(torch.tensor([0, 7]), channels=6).shape
    torch.Size([2, 6])
    """
    if channels < 4 or channels % 2:
        raise ValueError(f"channels: got {channels}, want an even count from 4 up")
    half = channels // 2
    index = torch.arange(half, dtype=torch.float32, device=t.device)
    angle = t.float()[:, None] * torch.exp(index * (-math.log(10000) / (half - 1)))
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class TimeEmbedding(nn.Module):
    """Embed the steps of a diffusion: sinusoid, linear layer, SiLU, linear layer (Ho et al., 2020).

    t: (B,) steps → (B, channels). Parameters: those of the linear layers expand and mix.

    >>> TimeEmbedding(16)(torch.tensor([3, 150])).shape
    torch.Size([2, 16])
    """

    def __init__(self, channels: int = 512, frequencies: int = 128):
        super().__init__()
        self.frequencies = frequencies
        self.expand = nn.Linear(frequencies, channels)
        self.mix = nn.Linear(channels, channels)

    reset_parameters = reset_children

    def forward(self, t: Tensor) -> Tensor:
        waves = sinusoid(t, self.frequencies).to(self.expand.weight.dtype)
        return self.mix(F.silu(self.expand(waves)))


class _ZeroLinear(nn.Linear):
    """A linear layer that starts at zero, wherever its parameters are reset from."""

    def reset_parameters(self) -> None:
        super().reset_parameters()  # what is drawn after it stays the same
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class _TimeConditioning(nn.Module):
    def __init__(self, embedding: int, channels: int, per_channel: int, linear=nn.Linear):
        super().__init__()
        self.channels = channels
        self.project = linear(embedding, per_channel * channels)

    reset_parameters = reset_children

    def _projected(self, x: Tensor, temb: Tensor) -> Tensor:
        """(B, per_channel·channels, 1, …, 1), of x's rank."""
        wanted = (x.shape[0], self.project.in_features)
        if x.dim() < 2 or x.shape[1] != self.channels or temb.shape != wanted:
            raise ValueError(
                f"time embedding: got {tuple(temb.shape)} for x {tuple(x.shape)}, want (B, "
                f"{self.project.in_features}) for x (B, {self.channels}, *S)"
            )
        values = self.project(F.silu(temb))
        return values.view(*values.shape, *[1] * (x.dim() - 2))


class TimeShift(_TimeConditioning):
    """Add Linear(SiLU(temb)) to x, the same at every point; return x itself where temb is None.

    x: (B, channels, *S), temb: (B, embedding); ValueError naming both shapes where they do not fit.
    Parameters: those of the linear layer project.

    >>> TimeShift(8, 4)(torch.randn(2, 4, 6, 6), torch.randn(2, 8)).shape
    torch.Size([2, 4, 6, 6])
    """

    def __init__(self, embedding: int, channels: int):
        super().__init__(embedding, channels, 1)

    def forward(self, x: Tensor, temb: Tensor | None) -> Tensor:
        return x if temb is None else x + self._projected(x, temb)


class TimeFiLM(_TimeConditioning):
    """Return x·(1 + γ) + β with (γ, β) = Linear(SiLU(temb)), zero at the start (Perez et al.,
    2018); x itself where temb is None.

    x: (B, channels, *S), temb: (B, embedding); ValueError naming both shapes where they do not fit.
    Parameters: those of the linear layer project.

    >>> x = torch.randn(2, 4, 6, 6)
    >>> torch.equal(TimeFiLM(8, 4)(x, torch.randn(2, 8)), x)
    True
    """

    def __init__(self, embedding: int, channels: int):
        super().__init__(embedding, channels, 2, _ZeroLinear)

    def forward(self, x: Tensor, temb: Tensor | None) -> Tensor:
        if temb is None:
            return x
        gamma, beta = self._projected(x, temb).chunk(2, dim=1)
        return x * (1 + gamma) + beta


def freeze_time(module: nn.Module) -> None:
    """Exclude all time conditioning in `module` from training: for a path that knows no step."""
    for part in module.modules():
        if isinstance(part, TimeEmbedding | _TimeConditioning):
            part.requires_grad_(False)
