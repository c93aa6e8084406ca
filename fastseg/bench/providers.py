"""The implementations of one spectral convolution, all built from the same complex weight."""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastseg import ops, plan
from fastseg.bench.cases import Case
from fastseg.ops import _backends


class Unavailable(Exception):
    """A provider that this machine cannot run; the message says why."""


class Layer(NamedTuple):
    """One provider of one case.

    `parameters` are leaves in the provider's own form; `weight_gradient` takes their gradients to
    the form of the weight all were built from, complex (Cin, Cout, *modes) in torch.fft order.
    """

    forward: Callable[[Tensor], Tensor]
    parameters: tuple[Tensor, ...]
    weight_gradient: Callable[[Sequence[Tensor]], Tensor]
    backend: str = "torch.fft"


def _corners(modes) -> list[tuple[tuple, tuple]]:
    """(weight index, spectrum index) of every corner: both ends of each axis but the last."""
    axes = []
    for kept in plan.kept_axes(modes, True)[:-1]:
        low, high = kept
        ends = [(slice(0, low), slice(0, low)), (slice(low, low + high), slice(-high, None))]
        axes.append(ends[: 1 + (high > 0)])
    last = [(slice(0, modes[-1]), slice(0, modes[-1]))]
    chosen = itertools.product(*axes, last)
    return [((..., *(w for w, _ in ends)), (..., *(s for _, s in ends))) for ends in chosen]


def classic(case: Case, weight: Tensor) -> Layer:
    """The layer as usually written (Li et al., 2021): FFT, zero-filled spectrum, inverse FFT."""
    axes = "xyz"[: len(case.modes)]
    product, dims = f"bi{axes},io{axes}->bo{axes}", tuple(range(2, 2 + len(axes)))
    corners = _corners(case.modes)
    parameters = tuple(weight[rows].clone().requires_grad_() for rows, _ in corners)

    def forward(x: Tensor) -> Tensor:
        spectrum = torch.fft.rfftn(x, dim=dims)
        full = spectrum.new_zeros(x.shape[0], weight.shape[1], *spectrum.shape[2:])
        for (_, rows), part in zip(corners, parameters, strict=True):
            full[rows] = torch.einsum(product, spectrum[rows], part)
        return torch.fft.irfftn(full, s=x.shape[2:], dim=dims)

    def weight_gradient(gradients: Sequence[Tensor]) -> Tensor:
        whole = torch.zeros_like(weight)
        for (rows, _), gradient in zip(corners, gradients, strict=True):
            whole[rows] = gradient
        return whole

    return Layer(forward, parameters, weight_gradient)


def compiled(case: Case, weight: Tensor) -> Layer:
    """`classic` under torch.compile."""
    layer = classic(case, weight)
    return layer._replace(forward=torch.compile(layer.forward), backend="torch.compile")


def neuraloperator(case: Case, weight: Tensor) -> Layer:
    """neuraloperator's SpectralConv as released.

    Its modes are totals centred on zero; of the last axis it stores n//2 + 1 columns.
    """
    try:
        from neuralop.layers.spectral_convolution import SpectralConv
    except ImportError as error:
        raise Unavailable(f"neuraloperator does not import ({error})") from error
    totals = (*case.modes[:-1], 2 * (case.modes[-1] - 1))
    module = SpectralConv(
        weight.shape[0], weight.shape[1], totals, bias=False, fft_norm="backward"
    ).to(weight.device)
    parameter = module.weight.tensor
    outer = tuple(range(2, weight.dim() - 1))
    with torch.no_grad():
        parameter.data = torch.fft.fftshift(weight, dim=outer) if outer else weight.clone()

    def weight_gradient(gradients: Sequence[Tensor]) -> Tensor:
        return torch.fft.ifftshift(gradients[0], dim=outer) if outer else gradients[0]

    return Layer(module, (parameter,), weight_gradient)


def on_backend(backend: str):
    """`fastseg.ops.spectral_conv`, on the backend it picks itself or on a forced one."""

    def build(case: Case, weight: Tensor) -> Layer:
        parameter = torch.view_as_real(weight).clone().requires_grad_()

        def forced(x: Tensor) -> Tensor:
            with ops.use_backend(backend):
                return ops.spectral_conv(x, parameter)

        def picked(x: Tensor) -> Tensor:
            return ops.spectral_conv(x, parameter)

        device, sizes = weight.device.type, case.sizes
        name = backend
        if backend == "auto":
            name = _backends.select_spectral(
                "auto", device, torch.float32, sizes, sizes, case.modes
            )
        reason = _backends.unable(name, device, torch.float32)
        if reason:
            raise Unavailable(reason)
        return Layer(
            picked if backend == "auto" else forced,
            (parameter,),
            lambda g: torch.view_as_complex(g[0]),
            name,
        )

    return build


PROVIDERS = {
    "classic": classic,
    "classic, compiled": compiled,
    "neuraloperator": neuraloperator,
    "matmul": on_backend("matmul"),
    "reference": on_backend("reference"),
    "cpu": on_backend("cpu"),
    "fastseg": on_backend("auto"),
}
BY_FAMILY = {
    "spectral": ("classic", "neuraloperator", "matmul", "reference", "fastseg"),
    "overhead": ("classic", "neuraloperator", "matmul", "reference", "fastseg"),
    "crossover": ("reference", "cpu"),
}
