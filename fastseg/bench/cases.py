"""What is measured: shapes and modes as data, and the least work each of them needs.

Modes count kept rows as `fastseg.ops` does: totals of both signs on every axis but the last,
non-negative columns on the last.
"""

import math
from dataclasses import dataclass, replace

from fastseg import plan

PASSES = ("forward", "forward+backward")


@dataclass(frozen=True)
class Case:
    """One spectral convolution: x (B, C, *S) to as many output channels, `modes` kept."""

    id: str
    shape: tuple[int, ...]
    modes: tuple[int, ...]
    source: str
    family: str = "spectral"

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.shape[2:]


SPECTRAL = (
    Case("A1", (8, 16, 240, 240), (20, 10), "FNO on native MRI slices"),
    Case("A2", (32, 32, 192, 192), (32, 16), "FNO inside a diffusion model"),
    Case("A3-64", (20, 32, 64, 64), (24, 12), "Navier–Stokes, Li et al., 2021"),
    Case("A3-85", (20, 32, 85, 85), (24, 12), "Darcy flow, Li et al., 2021"),
    Case("A3-421", (20, 32, 421, 421), (24, 12), "Darcy flow, Li et al., 2021; 421 is prime"),
    Case("A4", (8, 64, 256, 256), (64, 32), "a wide layer"),
    Case(
        "B1", (10, 20, 64, 64, 40), (16, 16, 8), "Navier–Stokes in space and time, Li et al., 2021"
    ),
    Case("B2", (1, 24, 78, 120, 120), (20, 28, 14), "HNOSeg, Wong et al., 2023, half resolution"),
    Case("B3", (1, 24, 155, 240, 240), (20, 28, 14), "HNOSeg, full BraTS volume"),
    Case("B4", (2, 32, 96, 96, 96), (24, 24, 12), "training on patches"),
)


def _crossover(size: int, divisor: int) -> Case:
    kept = size // divisor
    name = f"X{size}-N" if divisor == 1 else f"X{size}-N/{divisor}"
    return Case(
        name, (4, 8, size, size), (kept, kept // 2 + 1), "matrices against FFT", "crossover"
    )


CROSSOVER = tuple(_crossover(n, d) for n in (128, 192, 240, 256, 384, 512) for d in (8, 4, 2, 1))
OVERHEAD = (Case("tiny", (1, 1, 8, 8), (4, 3), "cost of a call", "overhead"),)

CASES = {case.id: case for case in (*SPECTRAL, *OVERHEAD, *CROSSOVER)}
FAMILIES = ("spectral", "overhead", "crossover")


def quick(case: Case) -> Case:
    """The case with one image of at most two channels, named as such and held to no target."""
    shape = (1, min(case.shape[1], 2), *case.sizes)
    return replace(case, id=f"{case.id}-quick", shape=shape)


def chosen(names, family: str | None) -> list[Case]:
    """Cases by id or by group ("A3" for all of A3-…). Raises ValueError for an unknown name."""
    pool = [case for case in CASES.values() if family in (None, case.family)]
    if not names:
        return pool
    for name in names:
        if not any(_named(case, name) for case in pool):
            raise ValueError(
                f"case: got {name!r}, want some of {', '.join(case.id for case in pool)}"
            )
    return [case for case in pool if any(_named(case, name) for name in names)]


def _named(case: Case, name: str) -> bool:
    return case.id == name or case.id.startswith(f"{name}-")


def _folded(size: int, kept: plan.Kept) -> int:
    """Multiply-adds of an outer axis for one column: cosines meet evens, sines odds."""
    k = kept.distinct
    return (size // 2 + 1) * k + (size - 1) // 2 * (k - 1)


def _transform_flops(case: Case) -> int:
    """One truncated transform as csrc/cpu/transform.cpp does it: H, W, then D of what is kept."""
    *outer, width = case.sizes
    kept = plan.kept_axes(case.modes, True)
    per_row = (width // 2 + 1 + (width - 1) // 2) * case.modes[-1]
    images = case.shape[0] * case.shape[1]
    if not outer:
        return 2 * images * per_row
    plane = _folded(outer[-1], kept[-2]) * width + (2 * kept[-2].distinct - 1) * per_row
    total = images * math.prod(outer[:-1]) * plane
    if len(outer) == 2:
        total += images * _folded(outer[0], kept[0]) * 2 * case.modes[1] * case.modes[2]
    return 2 * total


def flops(case: Case, which: str) -> int:
    """Operations of a pass after folding, multiply-adds as two, the folding itself not counted."""
    batch, channels = case.shape[:2]
    mix = 8 * batch * channels * channels * math.prod(case.modes)
    transforms, mixes = {"forward": (2, 1), "forward+backward": (4, 3)}[which]
    return transforms * _transform_flops(case) + mixes * mix


def least_bytes(case: Case, which: str, itemsize: int) -> int:
    """Bytes a pass has to move: tensors and gradients once each, the weight once a use."""
    tensor = math.prod(case.shape) * itemsize
    weight = case.shape[1] ** 2 * math.prod(case.modes) * (16 if itemsize == 8 else 8)
    return {"forward": 2 * tensor + weight, "forward+backward": 4 * tensor + 3 * weight}[which]
