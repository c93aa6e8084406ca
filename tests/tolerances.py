"""The tolerances of the tests; those of operators are `fastseg.bench.tolerances`."""

import torch
from torch import Tensor

from fastseg.bench.tolerances import TOLERANCES

F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64

FORWARD = {getattr(torch, name): forward for name, (forward, _) in TOLERANCES.items()}
BACKWARD = {getattr(torch, name): backward for name, (_, backward) in TOLERANCES.items()}
SECOND_ORDER = {dtype: 2 * error for dtype, error in BACKWARD.items()}  # two backwards
ADJOINT = {F32: 2e-6, F64: 1e-13}  # |⟨Ax, y⟩ − ⟨x, Aᵀy⟩| ÷ ‖Ax‖‖y‖
NEURALOP = 1e-5  # two float32 layers against each other

REAL = {torch.complex64: F32, torch.complex128: F64}


def wide(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.complex128 if tensor.is_complex() else F64)


def relative_error(actual: Tensor, exact: Tensor) -> float:
    difference = (wide(actual) - wide(exact)).norm().item()
    norm = wide(exact).norm().item()
    return difference / norm if norm else difference


def assert_near(
    actual: Tensor, exact: Tensor, table: dict, what: object, norm: float | None = None
) -> None:
    """Holds `actual` to the table's row for its own dtype; the message says where it went wrong.

    norm: what errors are relative to instead of the exact result's own norm, where that may vanish.
    """
    assert actual.shape == exact.shape, f"{what}: shape {actual.shape}, want {exact.shape}"
    if not exact.numel():
        return
    error, tolerance = relative_error(actual, exact), table[REAL.get(actual.dtype, actual.dtype)]
    if norm:
        error *= wide(exact).norm().item() / norm
    # over a handful of numbers the exact result, rounded, can itself be further off than that
    if error <= max(tolerance, 1.001 * relative_error(exact.to(actual.dtype), exact)):
        return
    off = (wide(actual) - wide(exact)).abs().nan_to_num(nan=float("inf"))
    index = tuple(int(i) for i in torch.unravel_index(off.argmax(), off.shape))
    count = int((off > tolerance * wide(exact).abs().max()).sum())
    raise AssertionError(
        f"{what}: relative error {error:.3g} > {tolerance:.3g}; worst at {index}: "
        f"{actual[index].item()} for {exact[index].item()}; {count} of {off.numel()} off"
    )
