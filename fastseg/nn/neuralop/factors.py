"""Factorised weights of a spectral convolution: CP, Tucker, tensor train."""

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastseg.nn.neuralop.frequencies import take
from fastseg.nn.neuralop.weights import Dense, Weight, pairs


class Parts(NamedTuple):
    """A weight as projection · core · projection over modes.

    inputs: (Cin, p); core: (p, q, *modes), or (p, *modes) where it is diagonal (CP); outputs: (q,
    Cout), None where the core has the outputs already.
    """

    inputs: Tensor
    core: Tensor
    outputs: Tensor | None
    diagonal: bool = False


class Factorised(Weight):
    """A weight in factors, with the peer's names of parameters."""

    def __init__(self, name, shape, factors, separable: bool, centred: int):
        super().__init__(name, shape, separable, centred)
        named = {f"factor_{i}": pairs(factor) for i, factor in enumerate(factors)}
        self.factors = nn.ParameterDict(named)

    def _split(self, rows, axis: int) -> tuple[list[Tensor], list[Tensor]]:
        """The factors of channels and those of modes, only `rows` of these."""
        found = [torch.view_as_complex(factor) for factor in self.factors.values()]
        modes = zip(found[self.channels :], rows, strict=True)
        return found[: self.channels], [take(factor, axis, kept) for factor, kept in modes]

    def dense(self, rows) -> Tensor:
        parts = self.parts(rows)
        return parts.core.unsqueeze(0) if self.separable else rebuilt(parts)


class CP(Factorised):
    """Σ_r λ_r a_r ⊗ b_r ⊗ …: `weights` (r,), factors (size, r)."""

    def __init__(self, name, shape, weights: Tensor, factors, separable: bool, centred: int):
        super().__init__(name, shape, factors, separable, centred)
        self.weights = pairs(weights)

    def parts(self, rows) -> Parts:
        (inputs, *outputs), modes = self._split(rows, 0)
        core = torch.view_as_complex(self.weights)
        for factor in modes:
            core = core[..., None] * factor.T[(slice(None), *[None] * (core.dim() - 1))]
        if self.separable:
            core = torch.tensordot(inputs, core, 1)
        return Parts(inputs, core, None if self.separable else outputs[0].T, diagonal=True)


class Tucker(Factorised):
    """A small `core` (r₁, r₂, …) times a matrix (size, r) along every axis."""

    def __init__(self, name, shape, core: Tensor, factors, separable: bool, centred: int):
        super().__init__(name, shape, factors, separable, centred)
        self.core = pairs(core)

    def parts(self, rows) -> Parts:
        (inputs, *outputs), modes = self._split(rows, 0)
        core = torch.view_as_complex(self.core)
        for factor in modes:  # every product puts its axis last, and the next one first
            core = torch.tensordot(core, factor, ([self.channels], [1]))
        if self.separable:
            core = torch.tensordot(inputs, core, 1)
        return Parts(inputs, core, None if self.separable else outputs[0].T)


class TensorTrain(Factorised):
    """A chain of factors (r, size, r'), the first r and the last r' being 1."""

    def parts(self, rows) -> Parts:
        channels, modes = self._split(rows, 1)
        core = functools.reduce(lambda a, b: torch.tensordot(a, b, 1), [*channels[1:], *modes])
        core, inputs = core[..., 0], channels[0][0]
        if self.separable:
            core = torch.tensordot(inputs, core, 1)
        return Parts(inputs, core, None)


def rebuilt(parts: Parts) -> Tensor:
    """Return the dense weight (Cin, Cout, *modes) of factors."""
    inputs, core, outputs, diagonal = parts
    if diagonal:
        return torch.tensordot(inputs[:, None, :] * outputs.T[None], core, 1)
    dense = torch.tensordot(inputs, core, 1)
    if outputs is None:
        return dense
    return torch.tensordot(dense, outputs, ([1], [0])).movedim(-1, 1)


KINDS = ("dense", "cp", "tucker", "tt")


def kind_of(factorization: str | None) -> str:
    """Return the kind that a name of the peer stands for; raise ValueError for another name."""
    kind = (factorization or "dense").lower().removeprefix("complex")
    if kind not in KINDS:
        raise ValueError(f"factorization: got {factorization!r}, want None or one of {KINDS}")
    return kind


def adopted(tensor, separable: bool, centred: int, name: str = "Dense") -> Weight:
    """Return our weight with the numbers of a complex tensor, which is to be called `name`, or of
    the peer's FactorizedTensor.
    """
    if isinstance(tensor, Tensor):
        return Dense(name, tensor, separable, centred)
    kind, shape, options = kind_of(tensor.name), tuple(tensor.shape), (separable, centred)
    if kind == "dense":
        return Dense(tensor.name, tensor.to_tensor(), *options)
    factors = [tensor.factors[i] for i in range(len(tensor.factors))]
    if kind == "cp":
        return CP(tensor.name, shape, tensor.weights, factors, *options)
    if kind == "tucker":
        return Tucker(tensor.name, shape, tensor.core, factors, *options)
    return TensorTrain(tensor.name, shape, factors, *options)


def drawn(shape, std: float, factorization, rank, fixed_rank_modes, options, device):
    """Return a new weight's numbers, complex normal of spread `std`: a tensor, or the peer's
    factors, whose ranks are its own to choose.
    """
    if kind_of(factorization) == "dense":
        empty = torch.empty(shape, dtype=torch.complex64, device=device)
        return (empty.normal_(0, std) if math.prod(shape) else empty).requires_grad_()
    try:
        from tltorch import FactorizedTensor
    except ImportError as error:
        raise ImportError(
            f"factorization: got {factorization!r}, whose ranks tensorly-torch chooses, of "
            "neuraloperator; it is in the extra `bench`"
        ) from error
    if isinstance(fixed_rank_modes, bool):
        fixed_rank_modes = [0] if fixed_rank_modes else None
    return FactorizedTensor.new(
        shape, rank=rank, factorization=factorization, fixed_rank_modes=fixed_rank_modes,
        device=device, dtype=torch.complex64, **(options or {}),
    ).normal_(0, std)  # fmt: skip
