"""Cases to measure: shapes, modes and widths as data, one family an operator.

`fastseg.bench.names` says how cases are named. Modes count kept rows as `fastseg.ops` does: totals
of both signs on every axis but the last, non-negative columns on the last.
"""

from dataclasses import replace

from fastseg.bench import names
from fastseg.bench.case import (
    DEFINITIONS,
    Case,
    FactorisedCase,
    GateCase,
    GaussianCase,
    SystemCase,
    VFFCCase,
)

__all__ = ["CASES", "DEFINITIONS", "FAMILIES", "PASSES", "TIMED", "Case", "FactorisedCase",
           "GateCase", "GaussianCase", "SystemCase", "VFFCCase"]  # fmt: skip

PASSES = ("forward", "forward+backward")

_LI, _WONG = "Li et al., 2021", "HNOSeg, Wong et al., 2023"
SPECTRAL = (
    Case("conv2d-240", (8, 16, 240, 240), (20, 10), "FNO on native MRI slices"),
    Case("conv2d-192", (32, 32, 192, 192), (32, 16), "FNO inside a diffusion model"),
    Case("conv2d-64", (20, 32, 64, 64), (24, 12), f"Navier–Stokes, {_LI}"),
    Case("conv2d-85", (20, 32, 85, 85), (24, 12), f"Darcy flow, {_LI}"),
    Case("conv2d-421", (20, 32, 421, 421), (24, 12), f"Darcy flow, {_LI}; 421 is prime"),
    Case("conv2d-256", (8, 64, 256, 256), (64, 32), "a wide layer"),
    Case("conv3d-64", (10, 20, 64, 64, 40), (16, 16, 8), f"Navier–Stokes in space and time, {_LI}"),
    Case("conv3d-120", (1, 24, 78, 120, 120), (20, 28, 14), f"{_WONG}, half resolution"),
    Case("conv3d-240", (1, 24, 155, 240, 240), (20, 28, 14), "HNOSeg, full BraTS volume"),
    Case("conv3d-96", (2, 32, 96, 96, 96), (24, 24, 12), "training on patches"),
)
FNO_BLOCK = tuple(
    replace(case, id=case.id.replace("conv", "block"), family="fno_block")
    for case in SPECTRAL
    if case.id in ("conv2d-240", "conv2d-192", "conv3d-96")
)

FACTORISED = tuple(
    FactorisedCase(f"{kind.lower()}{len(shape) - 2}d-{shape[2]}", shape, modes,
                   "TFNO, Kossaifi et al., 2024", kind=kind)
    for kind in ("Tucker", "CP", "TT")
    for shape, modes in (((32, 32, 192, 192), (32, 16)), ((2, 32, 96, 96, 96), (24, 24, 12)))
)  # fmt: skip


def _fourier_unit(batch: int, channels: int, side: int, source: str) -> Case:
    name, shape = f"fourier-unit-{channels}x{side}", (batch, channels, side, side, side)
    return Case(name, shape, (), source, "fourier_unit")


FOURIER_UNIT = (
    _fourier_unit(2, 64, 16, "VFFC at the bottleneck of a SegResNet"),
    _fourier_unit(2, 128, 16, "the same, all channels global"),
    _fourier_unit(2, 48, 32, "one level up"),
    _fourier_unit(1, 32, 48, "two levels up, patches of 96"),
)
VFFC = tuple(
    VFFCCase(f"vffc-{ratio}{'-lfu' * local}", (2, 256, 16, 16, 16), (), "SegResNet with VFFC",
             ratio=ratio, local=local)
    for ratio in (0.5, 0.75) for local in (False, True)
)  # fmt: skip
_SLICES, _VOLUME = (16, 4, 240, 240), (1, 4, 128, 128, 128)
_GUIDANCE = "FgC2F-UDiff's guidance"
GAUSSIAN = (
    GaussianCase("gaussian2d-240", _SLICES, (), _GUIDANCE, sigma=3.0),
    GaussianCase("gaussian2d-240-sigmas", _SLICES, (), "a width for each sample",
                 sigma=(1.0, 8.0)),
    GaussianCase("gaussian2d-240-monai", _SLICES, (), _GUIDANCE, sigma=3.0, definition="MONAI's"),
    GaussianCase("gaussian2d-256-reflect", (64, 1, 256, 256), (), _GUIDANCE, sigma=3.5,
                 definition="reflect, 21 taps"),
    GaussianCase("gaussian3d-128", _VOLUME, (), "filters on patches", sigma=2.0),
    GaussianCase("gaussian3d-128-monai", _VOLUME, (), "filters on patches", sigma=2.0,
                 definition="MONAI's"),
    GaussianCase("gaussian3d-240", (1, 4, 155, 240, 240), (), "filters on a BraTS volume",
                 sigma=2.0),
)  # fmt: skip
FILTER = (
    Case("filter-32", (8, 128, 32, 32), (), "NBP filter", "spectral_filter"),
    Case("filter-16", (32, 512, 16, 16), (), "FF-Parser", "spectral_filter"),
)
GATE = (GateCase("gate-256", (2, 128, 256, 256), (), "anchored gate of a U-SA"),)


def _crossover(size: int, divisor: int) -> Case:
    kept = size // divisor
    name = f"crossover-{size}-n{divisor}"
    return Case(
        name, (4, 8, size, size), (kept, kept // 2 + 1), "matrices against FFT", "crossover"
    )


CROSSOVER = tuple(_crossover(n, d) for n in (128, 192, 240, 256, 384, 512) for d in (8, 4, 2, 1))
OVERHEAD = (Case("call", (1, 1, 8, 8), (4, 3), "cost of a call", "overhead"),)
_SAMPLED, _F_SMALL = (("decoder", "diffusion"),), (("ssformer_channels", 256), ("ensemble", 1))
SYSTEM = (
    *(
        SystemCase(f"system-{system}", (4, 4, 240, 240), (), source, system=system,
                   settings=_SAMPLED)
        for system, source in (
            ("diffusion-unet", "no operator of ours on this path"),
            ("fno-diffusion", "spectral convolutions at full resolution"),
            ("fno-unet", "spectral branches beside convolutions"),
        )
    ),
    SystemCase("system-fgc2f-udiff", (1, 4, 192, 192), (), "Gaussian guides", system="fgc2f-udiff",
               width=64, settings=(("parameterisation", "x0"),)),
    SystemCase("system-medsegdiff-v2", (1, 4, 256, 256), (), "anchor gate and spectral attention",
               system="medsegdiff-v2", width=64,
               settings=(*_F_SMALL, ("parameterisation", "x0"))),
    SystemCase("system-segresnet-vffc", (1, 1, 128, 128, 128), (),
               "Fourier units at the bottleneck", system="segresnet-vffc", steps=None,
               settings=(("head", "softmax"),)),
)  # fmt: skip

TIMED = (*SPECTRAL, *FNO_BLOCK, *FACTORISED, *FOURIER_UNIT, *VFFC, *GAUSSIAN, *FILTER, *GATE)
CASES = {case.id: case for case in (*TIMED, *OVERHEAD, *CROSSOVER, *SYSTEM)}
FAMILIES = tuple(dict.fromkeys(case.family for case in CASES.values()))


def is_timed(family: str) -> bool:
    """Tell whether a family's cases are rows of the table of times."""
    return family not in ("overhead", "crossover", "system")


def quick(case: Case) -> Case:
    """Return the case with one image of few channels, named as such and held to no target."""
    channels = {"vffc": 32, "gate": 4}.get(case.family, 2)
    small = replace(case, id=f"{case.id}-quick", shape=(1, channels, *case.sizes))
    if isinstance(case, SystemCase):
        return replace(small, width=8, steps=case.steps and 2)
    return replace(small, cond_channels=2) if isinstance(case, GateCase) else small


def chosen(words, family: str | None) -> list[Case]:
    """Choose cases, in the order of the words.

    Args:
        words: names, beginnings of names ("conv2d" for all of conv2d-…) or former ids; all cases
            where there are none.
        family: only this family's, if any.

    Raises ValueError for what stands for no case.
    """
    if family not in (None, *FAMILIES):
        raise ValueError(f"family: got {family!r}, want one of {', '.join(FAMILIES)}")
    pool = {name: case for name, case in CASES.items() if family in (None, case.family)}
    found = {} if words else pool
    for word in words:
        matching = names.matching(word, pool)
        if not matching:
            raise ValueError(f"case: got {word!r}, want some of {', '.join(pool)}")
        found |= {name: pool[name] for name in matching if name not in found}
    return list(found.values())
