"""The gate before the clock: relative L2 errors of outputs and gradients against float64."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastseg import reference
from fastseg.bench import providers
from fastseg.bench.cases import Case
from fastseg.bench.layers import Inputs, Layer, leaves, outputs
from fastseg.bench.tolerances import TF32, TOLERANCES

# its inverse shifts odd axes by a row, so its error is a convention's, not the arithmetic's
NOT_HELD = ("neuraloperator",)
OURS = ("fastseg", "cpu", "cuda", "triton", "matmul", "reference")
# a rival has to compute the same; how exactly it does so is a result, shown beside its time
RIVAL_FACTOR = 10.0


class Truth(NamedTuple):
    """Hold outputs and gradients in float64."""

    y: Sequence[Tensor]
    dx: Sequence[Tensor]
    dw: Sequence[Tensor]
    inferred: Sequence[Tensor] = ()  # where inference gives something else than y


def draw(case: Case, dtype: torch.dtype, seed: int = 0) -> Inputs:
    """Draw a case's random numbers, on the CPU: the same on every device.

    Args:
        case: of `fastseg.bench.cases`.
        dtype: of x.
        seed: of the generator.
    """
    generator = torch.Generator().manual_seed(seed)
    return providers.FAMILIES[case.family].draw(case, dtype, generator)


def _double(t: Tensor) -> Tensor:
    return t.to(torch.complex128 if t.is_complex() else torch.float64)


def truth(case: Case, inputs: Inputs) -> Truth:
    """Return outputs and gradients in float64 by `fastseg.reference`, on the inputs' device.

    Args:
        case: of `fastseg.bench.cases`.
        inputs: what `draw` gave.
    """
    family = providers.FAMILIES[case.family]
    if family.truth:
        return Truth(*family.truth(case, inputs))
    wide = inputs.each(_double)
    x, weights = leaves(wide.x), leaves(wide.weights)
    inferred = ()
    if family.two_modes:
        with torch.no_grad():
            inferred = outputs(family.operator(reference, case, wide.constants)(x, weights, False))
    y = outputs(family.operator(reference, case, wide.constants)(x, weights, True))
    gradients = torch.autograd.grad(y, (*x, *weights), wide.dy)
    y = tuple(t.detach() for t in y)
    return Truth(y, gradients[: len(x)], gradients[len(x) :], inferred)


def relative_l2(values: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Return ‖values − wanted‖ / ‖wanted‖ over all of them together, NaN where shapes differ; in
    the precision of `wanted`.
    """
    if [v.shape for v in values] != [w.shape for w in wanted]:
        return float("nan")
    difference = norm = 0.0
    for value, want in zip(values, wanted, strict=True):
        # an image at a time: a whole copy in float64 may not fit
        for a, b in zip(value.detach(), want, strict=True):
            difference += float((a.to(b) - b).abs().square().sum())
            norm += float(b.abs().square().sum())
    return (difference / norm) ** 0.5 if norm else float("nan")


def errors(layer: Layer, inputs: Inputs, wanted: Truth) -> dict[str, float]:
    """Return the errors of a layer: {"y", "dx"} and, where it learns, "dw".

    Args:
        layer: to be judged.
        inputs: its inputs; x must be leaves.
        wanted: of `truth`.
    """
    y = outputs(layer.forward(*inputs.x))
    gradients = torch.autograd.grad(y, (*inputs.x, *layer.parameters), inputs.dy)
    count = len(inputs.x)
    found = {"y": relative_l2(y, wanted.y), "dx": relative_l2(gradients[:count], wanted.dx)}
    if wanted.dw:
        found["dw"] = relative_l2(layer.weight_gradients(gradients[count:]), wanted.dw)
    if wanted.inferred:
        with torch.no_grad():
            inferred = relative_l2(outputs(layer.evaluate(*inputs.x)), wanted.inferred)
        found["y"] = max(found["y"], inferred, key=lambda e: float("inf") if e != e else e)
    return found


def refusal(
    name: str, found: dict[str, float], dtype: str, factor: float | tuple[float, float] = 1.0
) -> str | None:
    """Say why a provider's time may not be shown, or return None.

    Args:
        name: of the provider.
        found: of `errors`.
        dtype: of the inputs, "float32"; "tf32" where products of float32 may be rounded so.
        factor: times `TOLERANCES`, a pair for forward and backward.
    """
    factors = factor if isinstance(factor, tuple) else (factor, factor)
    more = 1.0 if name.removesuffix(", compiled") in OURS else RIVAL_FACTOR
    bounds = TF32 if dtype == "tf32" else TOLERANCES[dtype]
    forward, backward = (more * f * bound for f, bound in zip(factors, bounds, strict=True))
    if name in NOT_HELD:
        return None
    for part, error in found.items():
        bound = forward if part == "y" else backward
        if not error <= bound:
            return f"wrong: error of {part} {error:.1e}, allowed {bound:.0e}"
    return None
