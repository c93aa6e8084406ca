"""The Fourier unit: as published (Chi et al., 2020), in plain torch."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastseg import reference
from fastseg.bench.cases import Case
from fastseg.bench.layers import Family, Inputs, Layer, normal, wide_of
from fastseg.ops import dispatch

MOMENTUM, EPS = 0.1, 1e-5  # nn.BatchNorm's
_NEAR = 0.25  # a kink is moved by no more than this, in standard deviations of about one


class PlainFourierUnit(nn.Module):
    """rfftn, channels of real and imaginary parts, 1×1 convolution, batch norm, ReLU, irfftn."""

    def __init__(self, channels: int, axes: int):
        super().__init__()
        convolution = getattr(nn, f"Conv{axes}d")
        self.conv_layer = convolution(2 * channels, 2 * channels, 1, bias=False)
        self.bn = getattr(nn, f"BatchNorm{axes}d")(2 * channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the unit of x (B, C, *S), of the same shape."""
        axes = tuple(range(2, x.dim()))
        spectrum = torch.fft.rfftn(x, dim=axes, norm="ortho")
        parts = torch.stack((spectrum.real, spectrum.imag), dim=-1)
        parts = parts.permute(0, 1, -1, *axes).contiguous().flatten(1, 2)
        parts = self.relu(self.bn(self.conv_layer(parts)))
        parts = parts.unflatten(1, (-1, 2)).movedim(2, -1).contiguous()
        spectrum = torch.complex(parts[..., 0], parts[..., 1])
        return torch.fft.irfftn(spectrum, s=x.shape[2:], dim=axes, norm="ortho")


def away_from_zero(z: Tensor) -> Tensor:
    """Return a shift for each channel of z (B, C, …) that puts zero into the widest gap nearby.

    A ReLU's gradient is a matter of the sign, so one number that rounding carries across zero
    would count as an error of the whole.
    """
    shifts = []
    for channel in z.transpose(0, 1).flatten(1):
        near = channel[channel.abs() < _NEAR].sort().values
        gaps = near.diff()
        widest = int(gaps.argmax()) if gaps.numel() else None
        shifts.append(0.0 if widest is None else -float(near[widest] + near[widest + 1]) / 2)
    return z.new_tensor(shifts)


def _draw(case: Case, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    """Running statistics near the batch's own, a bias that keeps every ReLU off its kink."""
    wide, channels = wide_of(dtype), case.shape[1]
    x, dy = (normal(case.shape, generator, dtype) for _ in range(2))
    weight = normal((2 * channels, 2 * channels), generator, wide, channels**-0.5)
    norm_weight = 1 + normal((2 * channels,), generator, wide, 0.1)
    norm_bias = normal((2 * channels,), generator, wide, 0.1)
    z, *_ = reference.fu_mix(x.double(), weight.double())
    var, mean = torch.var_mean(z.transpose(0, 1).flatten(1), dim=1, correction=0)
    per_channel = (-1, *[1] * len(case.sizes))
    scale = norm_weight.double() * torch.rsqrt(var + EPS)
    shift = norm_bias.double() - mean * scale
    shift = away_from_zero(scale.view(per_channel) * z + shift.view(per_channel))
    weights = (weight, norm_weight, (norm_bias.double() + shift).to(wide))
    return Inputs((x,), weights, (dy,), ((mean + 0.01).to(wide), (1.1 * var).to(wide)))


def _unit(namespace, case: Case, constants):
    mean, var = (t.clone() for t in constants)
    return lambda x, weights, training: namespace.fourier_unit(
        x[0], *weights, mean, var, training, MOMENTUM, EPS
    )


def picks(setting: str, case: Case, device: str, dtype: torch.dtype) -> str:
    """Return the backend of a unit of the case's size."""
    return dispatch.select_fourier_unit(
        setting, device, dtype, case.sizes, math.prod(case.shape[:2])
    )


def _module(case: Case, inputs: Inputs, training: bool) -> PlainFourierUnit:
    module = PlainFourierUnit(case.shape[1], len(case.sizes)).to(inputs.weights[0])
    named = zip(("weight", "bias", "running_mean", "running_var"),
                (*inputs.weights[1:], *inputs.constants), strict=True)  # fmt: skip
    with torch.no_grad():
        module.conv_layer.weight.copy_(inputs.weights[0].view_as(module.conv_layer.weight))
        for name, value in named:
            getattr(module.bn, name).copy_(value)
    return module.train(training)


def classic(case: Case, inputs: Inputs) -> Layer:
    """Build the published module in training and, with the same weights, in evaluation."""
    module = _module(case, inputs, True)

    def weight_gradients(gradients: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return gradients[0].flatten(1), *gradients[1:]

    evaluate = _module(case, inputs, False)
    return Layer(module, tuple(module.parameters()), weight_gradients, "torch.fft", evaluate)


# the gradient of a weight before a batch norm is a difference of sums
FOURIER_UNIT = Family(
    _unit, _draw, picks, lambda case: {"classic": classic}, two_modes=True, tolerance=2.0
)
