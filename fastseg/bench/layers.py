"""The vocabulary of providers: inputs, layers, and families with our own op on every backend."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastseg import ops, reference
from fastseg.bench.cases import Case


class Unavailable(Exception):
    """A provider that this machine cannot run; the message says why."""


class Inputs(NamedTuple):
    """What every provider of a case is built from and called with."""

    x: tuple[Tensor, ...]  # in the case's dtype
    weights: tuple[Tensor, ...]  # of the op's signature, float32 (float64)
    dy: tuple[Tensor, ...]  # the gradient of every output
    constants: tuple[Tensor, ...] = ()  # what has no gradient: running statistics, a σ a sample

    def each(self, change: Callable[[Tensor], Tensor]) -> "Inputs":
        """Return the inputs with `change` applied to every tensor."""
        return Inputs(*(tuple(change(t) for t in group) for group in self))


class Layer(NamedTuple):
    """One provider of one case.

    `parameters` are leaves in the provider's own form; `weight_gradients` takes their gradients to
    the form of `Inputs.weights`. `evaluate` is what inference runs where that differs from
    `forward`, as with running statistics.
    """

    forward: Callable
    parameters: tuple[Tensor, ...] = ()
    weight_gradients: Callable[[Sequence[Tensor]], Sequence[Tensor]] = tuple
    backend: str = "torch"
    evaluate: Callable | None = None

    def passes(self, x: Sequence[Tensor], dy: Sequence[Tensor]) -> dict[str, Callable]:
        """Return what one call of either pass does, the release of its results included."""
        infer = self.evaluate or self.forward

        def inference() -> None:
            with torch.no_grad():
                infer(*x)

        def training() -> None:
            torch.autograd.grad(outputs(self.forward(*x)), (*x, *self.parameters), dy)

        return {"forward": inference, "forward+backward": training}


class Family(NamedTuple):
    """An operator with its rivals.

    operator(namespace, case, constants) → f(x, weights, training), where namespace is
    `fastseg.ops` or `fastseg.reference`; draw(case, dtype, generator) → Inputs;
    picks(setting, case, device type, dtype) → the op's backend, RuntimeError where a forced one
    cannot run; rivals(case) → {name: builder of
    (case, inputs) → Layer}; truth(case, inputs) where autograd over the reference will not do.
    """

    operator: Callable
    draw: Callable
    picks: Callable
    rivals: Callable[[Case], dict[str, Callable]]
    truth: Callable | None = None
    two_modes: bool = False  # inference computes something else than training
    # times those of `accuracy.TOLERANCES`; a pair for forward and backward
    tolerance: float | tuple[float, float] = 1.0


def outputs(result) -> tuple[Tensor, ...]:
    """Return a layer's result as a tuple."""
    return result if isinstance(result, tuple) else (result,)


def leaves(tensors) -> tuple[Tensor, ...]:
    """Return copies that are leaves with gradients."""
    return tuple(t.detach().clone().requires_grad_() for t in tensors)


def normal(shape, generator: torch.Generator, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    """Draw normal numbers in float32 (float64), then round them to `dtype`."""
    return (scale * torch.randn(shape, generator=generator, dtype=wide_of(dtype))).to(dtype)


def wide_of(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that weights have beside x of `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _layer(family: Family, namespace, case: Case, inputs: Inputs, backend: str) -> Layer:
    """The op of a namespace as a layer with parameters of its own."""
    parameters = leaves(inputs.weights)
    run = family.operator(namespace, case, inputs.constants)
    evaluate = None
    if family.two_modes:
        other = family.operator(namespace, case, inputs.constants)  # with buffers of its own

        def evaluate(*x):
            return other(x, parameters, False)

    return Layer(lambda *x: run(x, parameters, True), parameters, tuple, backend, evaluate)


def on_backend(family: Family, backend: str) -> Callable[[Case, Inputs], Layer]:
    """Make the builder of our own op's layer.

    Args:
        family: the operator.
        backend: "auto" for what `fastseg.ops` picks itself, or one to be forced.
    """

    def forced(function):
        def run(*x):
            with ops.use_backend(backend):
                return function(*x)

        return run

    def build(case: Case, inputs: Inputs) -> Layer:
        device, dtype = inputs.x[0].device.type, inputs.x[0].dtype
        try:
            name = family.picks(backend, case, device, dtype)
        except RuntimeError as error:
            raise Unavailable(str(error)) from error
        layer = _layer(family, ops, case, inputs, name)
        if backend == "auto":
            return layer
        evaluate = layer.evaluate and forced(layer.evaluate)
        return layer._replace(forward=forced(layer.forward), evaluate=evaluate)

    return build


def compiled(build: Callable[[Case, Inputs], Layer]) -> Callable[[Case, Inputs], Layer]:
    """Make the builder of a provider's layer under torch.compile."""

    def compile_(case: Case, inputs: Inputs) -> Layer:
        layer = build(case, inputs)
        evaluate = layer.evaluate and torch.compile(layer.evaluate)
        forward = torch.compile(layer.forward)
        return layer._replace(forward=forward, evaluate=evaluate, backend="torch.compile")

    return compile_


def plain_reference(family: Family) -> Callable[[Case, Inputs], Layer]:
    """Make the builder of `fastseg.reference` without our ops, for compilers to look into."""
    return lambda case, inputs: _layer(family, reference, case, inputs, "reference")
