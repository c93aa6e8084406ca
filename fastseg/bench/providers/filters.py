"""A learnt gain of the whole spectrum, and the anchored gate, in plain torch."""

import torch
from torch import Tensor
from torch.nn import functional as F

from fastseg import reference
from fastseg.bench.cases import Case, GateCase
from fastseg.bench.layers import Family, Inputs, Layer, leaves, normal, wide_of
from fastseg.ops import dispatch, impl, tables

MARGIN = 1e-3  # of the maximum's two arguments: far beyond what rounding moves
_SIGMA = 1.0


def _draw_filter(case: Case, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    x, dy = (normal(case.shape, generator, dtype) for _ in range(2))
    shape = (case.shape[1], *tables.half_spectrum(case.sizes), 2)
    gain = torch.view_as_complex(normal(shape, generator, wide_of(dtype)))
    return Inputs((x,), (gain,), (dy,))


def _filter(namespace, case: Case, constants):
    return lambda x, weights, training: namespace.spectral_filter(x[0], weights[0])


def _filter_picks(setting: str, case: Case, device: str, dtype: torch.dtype) -> str:
    bins = tables.half_spectrum(case.sizes)
    return dispatch.select_spectral(setting, device, dtype, case.sizes, case.sizes, bins)


def classic_filter(case: Case, inputs: Inputs) -> Layer:
    """Build a global filter layer (Rao et al., 2021): rfftn, a product, irfftn."""
    parameters, axes = leaves(inputs.weights), tuple(range(2, len(case.shape)))

    def forward(x: Tensor) -> Tensor:
        spectrum = torch.fft.rfftn(x, dim=axes) * parameters[0]
        return torch.fft.irfftn(spectrum, s=x.shape[2:], dim=axes)

    return Layer(forward, parameters, backend="torch.fft")


def _draw_gate(case: GateCase, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    wide, channels = wide_of(dtype), case.cond_channels
    cond = normal(case.cond_shape, generator, dtype)
    feat = normal(case.shape, generator, dtype)
    # akin to the features: the gradients of the gate's few weights would cancel out otherwise
    dy = feat + normal(case.shape, generator, dtype)
    sigma = _SIGMA + 0.3 * torch.rand(channels, generator=generator, dtype=wide)
    weight = normal((1, channels), generator, wide, channels**-0.5)
    bias = normal((1,), generator, wide)
    return Inputs((_apart(cond, sigma, case.radius), feat), (sigma, weight, bias), (dy,))


def _apart(cond: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """cond, moved where it is as large as its own Gaussian: there the maximum has no gradient, and
    rounding decides which argument gets it.
    """
    for _ in range(50):
        low = reference.gaussian_filter(
            cond.double(), sigma[:, None], padding="reflect", radius=radius
        )
        near = (low - cond).abs() < MARGIN
        if not near.any():
            break
        cond = torch.where(near, cond + 0.05, cond).to(cond.dtype)
    return cond


def _gate(namespace, case: GateCase, constants):
    def run(x, weights, training):
        sigma, conv_weight, conv_bias = weights
        return namespace.anchor_gate(*x, sigma, conv_weight, conv_bias, radius=case.radius)

    return run


def _gate_picks(setting: str, case: GateCase, device: str, dtype: torch.dtype) -> str:
    return dispatch.select(impl.GATE, setting, device, dtype)


def classic_gate(case: GateCase, inputs: Inputs) -> Layer:
    """Build a depthwise convolution with the taps' outer product, then one op after the other."""
    sigma, weight, bias = leaves(inputs.weights)
    weight = leaves([weight[..., None, None]])[0]
    radius, channels = case.radius, case.cond_channels
    squares = torch.arange(-radius, radius + 1, device=sigma.device).square()

    def forward(cond: Tensor, feat: Tensor) -> Tensor:
        taps = torch.exp(-squares / (2 * sigma.square()[:, None]))
        taps = taps / taps.sum(1, keepdim=True)
        kernel = (taps[:, :, None] * taps[:, None, :])[:, None]
        low = F.conv2d(F.pad(cond, [radius] * 4, mode="reflect"), kernel, groups=channels)
        gate = F.conv2d(torch.maximum(low, cond), weight, bias)
        return torch.sigmoid(gate) * feat + feat

    def weight_gradients(gradients):
        return gradients[0], gradients[1][..., 0, 0], gradients[2]

    return Layer(forward, (sigma, weight, bias), weight_gradients)


FILTER = Family(_filter, _draw_filter, _filter_picks, lambda case: {"classic": classic_filter})
GATE = Family(_gate, _draw_gate, _gate_picks, lambda case: {"classic": classic_gate})
