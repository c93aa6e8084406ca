"""Fusing a global view of a feature map into a local one. All start as the local one itself.

>>> local, wide = torch.randn(1, 8, 6, 6), torch.zeros(1, 8, 6, 6)
>>> all(torch.equal(kind(2, 8)(local, wide), local) for kind in FUSIONS.values())
True
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastseg.models.parts.layers import pointwise, zeroed

HEADS = 4
TOKENS = {1: 576, 2: 24, 3: 8}  # most a side, so that about 576 in all are attended to


class GateFusion(nn.Module):
    """Return L + sigmoid(W[L, G] + b)⊙G, a gate at every point. L, G: (B, channels, *S)."""

    def __init__(self, axes: int, channels: int):
        super().__init__()
        self.gate = pointwise(axes, 2 * channels, channels)

    def forward(self, local: Tensor, wide: Tensor) -> Tensor:
        return local + torch.sigmoid(self.gate(torch.cat([local, wide], 1))) * wide


class ChannelGateFusion(nn.Module):
    """Return L + a⊙G, a = sigmoid(MLP(spatial means of [L, G])), a gate a channel (Hu et al.,
    2018).
    """

    def __init__(self, axes: int, channels: int):
        super().__init__()
        hidden = max(channels // 4, 1)
        self.squeeze = nn.Linear(2 * channels, hidden)
        self.excite = nn.Linear(hidden, channels)

    def forward(self, local: Tensor, wide: Tensor) -> Tensor:
        means = torch.cat([local.flatten(2).mean(2), wide.flatten(2).mean(2)], 1)
        gate = torch.sigmoid(self.excite(F.gelu(self.squeeze(means))))
        return local + gate.view(*gate.shape, *[1] * (wide.dim() - 2)) * wide


class MLPFusion(nn.Module):
    """Return L + MLP([L, G]), point by point; the second layer starts at 0."""

    def __init__(self, axes: int, channels: int):
        super().__init__()
        self.first = pointwise(axes, 2 * channels, channels)
        self.second = zeroed(pointwise(axes, channels, channels))

    def forward(self, local: Tensor, wide: Tensor) -> Tensor:
        return local + self.second(F.gelu(self.first(torch.cat([local, wide], 1))))


class AttentionFusion(nn.Module):
    """Return L + W·attention(queries from L; keys and values from G, pooled to 24 x 24 or 8 x 8 x 8
    tokens where it has more), 4 heads; W starts at 0. channels must be divisible by 4.
    """

    def __init__(self, axes: int, channels: int):
        super().__init__()
        if channels % HEADS:
            raise ValueError(f"channels: got {channels}, want a multiple of {HEADS}")
        self.tokens = TOKENS[axes]
        self.query = pointwise(axes, channels, channels)
        self.key_value = pointwise(axes, channels, 2 * channels)
        self.out = zeroed(pointwise(axes, channels, channels))

    def forward(self, local: Tensor, wide: Tensor) -> Tensor:
        pool = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)
        wide = pool[local.dim() - 3](wide, [min(n, self.tokens) for n in wide.shape[2:]])
        key, value = map(_heads, self.key_value(wide).chunk(2, 1))
        found = F.scaled_dot_product_attention(_heads(self.query(local)), key, value)
        return local + self.out(found.transpose(2, 3).reshape(local.shape))


def _heads(x: Tensor) -> Tensor:
    """(B, C, *S) → (B, heads, points, C/heads)."""
    return x.flatten(2).unflatten(1, (HEADS, -1)).transpose(2, 3)


class AddFusion(nn.Module):
    """Return L + G."""

    def __init__(self, axes: int, channels: int):
        super().__init__()

    def forward(self, local: Tensor, wide: Tensor) -> Tensor:
        return local + wide


class ConcatFusion(nn.Module):
    """Return W[L, G] + b; W starts as the identity of L."""

    def __init__(self, axes: int, channels: int):
        super().__init__()
        self.mix = zeroed(pointwise(axes, 2 * channels, channels))
        with torch.no_grad():
            self.mix.weight.flatten(1)[:, :channels] = torch.eye(channels)

    def forward(self, local: Tensor, wide: Tensor) -> Tensor:
        return self.mix(torch.cat([local, wide], 1))


FUSIONS = {
    "gate": GateFusion,
    "gate_channel": ChannelGateFusion,
    "mlp": MLPFusion,
    "attn": AttentionFusion,
    "add": AddFusion,
    "concat": ConcatFusion,
}
# those that are L only while G is 0; the others ignore G at first
NEEDS_ZERO = ("gate", "gate_channel", "add")
