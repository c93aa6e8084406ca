"""Providers of a case: the rivals of its family, then our op on every backend."""

from collections.abc import Callable

import torch

from fastseg.bench import layers
from fastseg.bench.cases import Case
from fastseg.bench.layers import Family
from fastseg.bench.providers.factorised import FACTORISED
from fastseg.bench.providers.filters import FILTER, GATE
from fastseg.bench.providers.fourier_unit import FOURIER_UNIT
from fastseg.bench.providers.gaussian import GAUSSIAN
from fastseg.bench.providers.spectral import CROSSOVER, FNO_BLOCK, SPECTRAL
from fastseg.bench.providers.systems import SYSTEM
from fastseg.bench.providers.vffc import VFFC

FAMILIES: dict[str, Family] = {
    "spectral": SPECTRAL,
    "overhead": SPECTRAL,
    "crossover": CROSSOVER,
    "fno_block": FNO_BLOCK,
    "factorised": FACTORISED,
    "fourier_unit": FOURIER_UNIT,
    "vffc": VFFC,
    "gaussian": GAUSSIAN,
    "spectral_filter": FILTER,
    "gate": GATE,
    "system": SYSTEM,
}
_KERNELS = {"cpu": ("cpu",), "cuda": ("cuda", "triton")}


def picked(case: Case, device: str, dtype: torch.dtype) -> str:
    """Return the backend of "auto"."""
    return FAMILIES[case.family].picks("auto", case, device, dtype)


def of(case: Case, device: str, dtype: torch.dtype, compiled: bool = False) -> dict[str, Callable]:
    """Return the builders of a case's layers by name; "fastseg" is what a user gets.

    A kernel backend that "auto" picks has no row of its own beside it.

    Args:
        case: of `fastseg.bench.cases`.
        device: "cpu" or "cuda".
        dtype: of x.
        compiled: add torch.compile of the rivals and of the reference.
    """
    family = FAMILIES[case.family]
    own = ["matmul", "reference", *_KERNELS[device]]
    if case.family == "crossover":
        own = ["reference", *_KERNELS[device][:1]]
    elif case.family == "system":
        own = ["reference", "fastseg"]
    else:
        auto = picked(case, device, dtype)
        own = [name for name in own if name != auto or name in ("matmul", "reference")]
        own.append("fastseg")
    found = dict(family.rivals(case))
    if compiled:
        found |= {f"{name}, compiled": layers.compiled(found[name]) for name in list(found)}
        found["reference, compiled"] = layers.compiled(layers.plain_reference(family))
    for name in own:
        found[name] = layers.on_backend(family, "auto" if name == "fastseg" else name)
    return found
