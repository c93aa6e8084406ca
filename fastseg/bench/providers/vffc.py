"""A residual block of fast Fourier convolutions, its Fourier units as published."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fastseg import nn as modules
from fastseg import ops, reference
from fastseg.bench.cases import VFFCCase
from fastseg.bench.layers import Family, Inputs, Layer, normal, wide_of
from fastseg.bench.providers.fourier_unit import PlainFourierUnit, away_from_zero, picks


class PlainLocalFourierUnit(PlainFourierUnit):
    """The unit on four patches of a quarter of the channels, halves of height and width."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the unit of x (B, C, *S), of the same shape."""
        x = x[:, : x.shape[1] // 4]
        for axis in (-2, -1):
            x = torch.cat(x.split(x.shape[axis] // 2, dim=axis), dim=1)
        return super().forward(x).repeat(*[1] * (x.dim() - 2), 2, 2)


def _block(case: VFFCCase) -> nn.Module:
    return modules.VFFCBlock(case.shape[1], ratio=case.ratio, enable_lfu=case.local)


def _plain(case: VFFCCase) -> nn.Module:
    """Our block with plain Fourier units in it: everything else is the same torch anyway."""
    block = _block(case)
    for layer in (block.conv1, block.conv2):
        transform = layer.ffc.convg2g
        channels = transform.fu.bn.num_features // 2
        transform.fu = PlainFourierUnit(channels, 3)
        if transform.lfu is not None:
            transform.lfu = PlainLocalFourierUnit(channels, 3)
    return block


def _statistics(block: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((name, t) for name, t in block.named_buffers() if t.is_floating_point())


def _settle(module: nn.BatchNorm3d, _, output: Tensor) -> Tensor:
    """A forward hook: keep what the ReLU behind sees off its kink."""
    shift = away_from_zero(output)
    module.bias += shift
    return output + shift.view(-1, 1, 1, 1)


@torch.no_grad()
def _draw(case: VFFCCase, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    x, dy = (normal(case.shape, generator, dtype) for _ in range(2))
    block = _plain(case).double()
    for parameter in block.parameters():
        if parameter.dim() > 1:
            scale = parameter[0].numel() ** -0.5
            parameter.copy_(normal(parameter.shape, generator, torch.float64, scale))
    for module in block.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.momentum = 1.0  # the running statistics become this batch's
            module.register_forward_hook(_settle)
    block(x.double())
    own = (*block.parameters(),), tuple(t for _, t in _statistics(block))
    weights, constants = (tuple(t.detach().to(wide_of(dtype)) for t in ts) for ts in own)
    return Inputs((x,), weights, (dy,), constants)


def _operator(namespace, case: VFFCCase, constants):
    block = _block(case).to(constants[0])
    names = [name for name, _ in block.named_parameters()]
    buffers = {name: t.clone() for (name, _), t in zip(_statistics(block), constants, strict=True)}

    def run(x, weights, training):
        values = dict(zip(names, weights, strict=True)) | buffers
        return functional_call(block.train(training), values, x)

    def on_reference(x, weights, training):
        with ops.use_backend("reference"):
            return run(x, weights, training)

    return on_reference if namespace is reference else run


def classic(case: VFFCCase, inputs: Inputs) -> Layer:
    """Build the block in training and, with the same weights, in evaluation."""
    training, evaluation = (_filled(case, inputs).train(mode) for mode in (True, False))
    parameters = tuple(training.parameters())
    return Layer(training, parameters, backend="torch.fft", evaluate=evaluation)


@torch.no_grad()
def _filled(case: VFFCCase, inputs: Inputs) -> nn.Module:
    block = _plain(case).to(inputs.weights[0])
    own = (*block.parameters(), *(t for _, t in _statistics(block)))
    for t, value in zip(own, (*inputs.weights, *inputs.constants), strict=True):
        t.copy_(value)
    return block


# 3³ convolutions of torch, one after the other, are not as accurate as the transforms
VFFC = Family(
    _operator, _draw, picks, lambda case: {"classic": classic}, two_modes=True, tolerance=5.0
)
