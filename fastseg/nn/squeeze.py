"""Squeeze and excitation."""

from torch import Tensor, nn

from fastseg.nn.parameters import reset_children


class SqueezeExcitation(nn.Module):
    """Scale channels by what their means over all positions say: x·sigmoid(W₂·relu(W₁·mean(x))) (Hu
    et al., 2018).

    x: (B, channels, *S) → the same shape. Parameters: fc.0.weight (channels // reduction, channels)
    and fc.2.weight, without biases. Raises ValueError for fewer channels than `reduction`.

    >>> import torch
    >>> SqueezeExcitation(32)(torch.randn(2, 32, 4, 4)).shape
    torch.Size([2, 32, 4, 4])
    """

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        inner = channels // reduction
        if inner < 1:
            raise ValueError(f"channels: got {channels}, want at least reduction, {reduction}")
        self.fc = nn.Sequential(
            nn.Linear(channels, inner, bias=False), nn.ReLU(inplace=True),
            nn.Linear(inner, channels, bias=False), nn.Sigmoid(),
        )  # fmt: skip

    reset_parameters = reset_children

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.flatten(2).mean(2)).view(*x.shape[:2], *[1] * (x.dim() - 2))
