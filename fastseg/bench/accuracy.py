"""The gate before the clock: relative L2 errors of output and gradients against float64."""

from typing import NamedTuple

import torch
from torch import Tensor

from fastseg import reference
from fastseg.bench.cases import Case
from fastseg.bench.providers import Layer

# forward, backward; inputs are rounded to the dtype before either side sees them
TOLERANCES = {
    "float32": (1e-6, 2e-6),
    "float64": (1e-13, 2e-13),
    "float16": (5e-4, 5e-4),
    "bfloat16": (2.5e-3, 2.5e-3),
}
# its inverse shifts odd axes by a row, so its error is a convention's, not the arithmetic's
NOT_HELD = ("neuraloperator",)
_IMAGE_ELEMENTS = (
    1 << 22
)  # images are taken together up to this many elements, to bound the memory of float64 spectra


class Inputs(NamedTuple):
    x: Tensor
    weight: Tensor  # complex, (Cin, Cout, *modes)
    dy: Tensor


class Truth(NamedTuple):
    y: Tensor
    dx: Tensor
    dw: Tensor


def draw(case: Case, dtype: torch.dtype, seed: int = 0) -> Inputs:
    """Normal x and dy in `dtype`; a weight that keeps the output's scale near one."""
    generator = torch.Generator().manual_seed(seed)
    x, dy = (torch.randn(case.shape, generator=generator).to(dtype) for _ in range(2))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    channels = case.shape[1]
    weight = (
        torch.randn(channels, channels, *case.modes, 2, generator=generator, dtype=wide)
        / channels**0.5
    )
    return Inputs(x, torch.view_as_complex(weight), dy)


def _by_images(transform, *tensors: Tensor) -> Tensor:
    """`transform` over (B, C, …) tensors, a few (1, n, …) images at a time."""
    flat = [t.flatten(0, 1).unsqueeze(0) for t in tensors]
    largest = max(t[0, 0].numel() for t in flat)
    count = max(1, _IMAGE_ELEMENTS // largest)
    parts = [transform(*some) for some in zip(*(t.split(count, dim=1) for t in flat), strict=True)]
    whole = torch.cat(parts, dim=1)
    return whole.view(*tensors[0].shape[:2], *whole.shape[2:])


def truth(case: Case, inputs: Inputs) -> Truth:
    """y, dx and dw in float64 by `fastseg.reference`, image by image, adjoints by autograd."""
    sizes, modes = case.sizes, case.modes

    def analysis(x: Tensor) -> Tensor:
        return reference.truncated_rfftn(x.double(), modes)

    def synthesis(spectrum: Tensor) -> Tensor:
        return reference.truncated_irfftn(spectrum, sizes)

    def analysis_adjoint(x: Tensor, gradient: Tensor) -> Tensor:
        x = x.double().requires_grad_()
        return torch.autograd.grad(analysis(x), x, gradient)[0]

    def synthesis_adjoint(spectrum: Tensor, gradient: Tensor) -> Tensor:
        spectrum = spectrum.detach().requires_grad_()
        return torch.autograd.grad(synthesis(spectrum), spectrum, gradient.double())[0]

    spectrum = _by_images(analysis, inputs.x).requires_grad_()
    weight = inputs.weight.to(torch.complex128).requires_grad_()
    mixed = torch.einsum("bi...,io...->bo...", spectrum, weight)
    y = _by_images(synthesis, mixed.detach())
    gradient = _by_images(synthesis_adjoint, mixed.detach(), inputs.dy)
    dspectrum, dw = torch.autograd.grad(mixed, (spectrum, weight), gradient)
    return Truth(y, _by_images(analysis_adjoint, inputs.x, dspectrum), dw)


def relative_l2(value: Tensor, wanted: Tensor) -> float:
    """‖value − wanted‖ / ‖wanted‖ in the precision of `wanted`; NaN where shapes differ."""
    if value.shape != wanted.shape:
        return float("nan")
    pairs = zip(value.detach().cpu(), wanted, strict=True)
    difference = sum((a.to(b.dtype) - b).abs().square().sum() for a, b in pairs)
    return float((difference / wanted.abs().square().sum()).sqrt())


def errors(layer: Layer, x: Tensor, dy: Tensor, wanted: Truth) -> dict[str, float]:
    """Errors of a layer: {"y", "dx", "dw"}. `x` must require a gradient."""
    y = layer.forward(x)
    dx, *dw = torch.autograd.grad(y, (x, *layer.parameters), dy)
    return {
        "y": relative_l2(y, wanted.y),
        "dx": relative_l2(dx, wanted.dx),
        "dw": relative_l2(layer.weight_gradient(dw), wanted.dw),
    }


def refusal(name: str, found: dict[str, float], dtype: str) -> str | None:
    """Why a provider's time may not be shown, or None."""
    forward, backward = TOLERANCES[dtype]
    if name in NOT_HELD:
        return None
    for part, bound in (("y", forward), ("dx", backward), ("dw", backward)):
        if not found[part] <= bound:
            return f"wrong: error of {part} {found[part]:.1e}, allowed {bound:.0e}"
    return None
