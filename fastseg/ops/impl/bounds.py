"""Up to how much work the kernels of a device beat torch.fft, and where torch.matmul beats both.

`TABLE` and `MATMUL` are data, each figure with its source: "measured" names a record or a command
that measures it again, "model" a prediction from the machine code, which is to give way to a record
(of `fastseg bench --gpu --only crossover`, say). `fastseg.ops.dispatch` asks them and has the
rules.
"""

import functools
from typing import NamedTuple

import torch

# the least capability of each class of CUDA devices, the newest first
CLASSES = {"sm_90": (9, 0), "sm_80": (8, 0), "sm_70": (0, 0)}


class Bound(NamedTuple):
    """The most work that kernels are taken for, of a grid of one, two or three axes: multiply-adds
    a sample, halved by folding, or, of a Gaussian, the sum of an image's radii.
    """

    most: tuple[float, float, float]
    source: str


class Range(NamedTuple):
    """The multiply-adds a sample between which torch.matmul beats the kernels."""

    above: float
    most: float
    source: str


def _flat(most: float, source: str) -> Bound:
    return Bound((most, most, most), source)


_CROSSOVER = "measured on AVX2: fastseg bench --only crossover; 2-D 2.5 at 385, 1.7 at 513"
_DENSE = "model: dense matrices for whole spectra, {} of torch.fft's speed at {}"
_FASTER = "model: of {}, matrices are about as fast as torch.fft there"
_CASTS = "model: float32's times 1.3, for the casts around torch.fft"
_WINDOW = "model: radii times the predicted speed-up, {} at 34 in 2-D and {} at 33 in 3-D"

# (device, family, dtype): "spectral" truncated transforms; "whole" those that keep half of all bins
# or more, and the spectral filter; "fourier_unit"; "gaussian" an exact one. "16-bit": where absent,
# float32's
TABLE = {
    ("cpu", "spectral", "float32"): Bound((256, 520, 256), _CROSSOVER),
    ("cpu", "whole", "float32"): Bound((256, 520, 256), _CROSSOVER),
    ("cpu", "fourier_unit", "float32"): Bound(
        (64, 96, 148), "measured on AVX2, evaluation: 64³ (98) 1.3, 96³ (146) 1.1, 128³ (195) 0.9; "
        "128² (129) 0.84, 192² (193) 0.78"),
    ("cpu", "gaussian", "float32"): _flat(160, "measured on AVX2: fastseg bench gaussian2d"),
    ("sm_70", "spectral", "float32"): Bound((165, 250, 250), _FASTER.format("V100")),
    ("sm_80", "spectral", "float32"): Bound((115, 210, 210), _FASTER.format("A100")),
    ("sm_90", "spectral", "float32"): Bound((85, 135, 135), _FASTER.format("H200")),
    ("sm_70", "spectral", "16-bit"): Bound((215, 325, 325), _CASTS),
    ("sm_80", "spectral", "16-bit"): Bound((150, 270, 270), _CASTS),
    ("sm_90", "spectral", "16-bit"): Bound((110, 175, 175), _CASTS),
    ("sm_70", "whole", "float32"): _flat(0, _DENSE.format("0.5 to 0.8", "filter-16, filter-32")),
    ("sm_80", "whole", "float32"): _flat(0, _DENSE.format("0.4 to 0.6", "filter-16, filter-32")),
    ("sm_90", "whole", "float32"): _flat(0, _DENSE.format("0.3 to 0.7", "filter-16, filter-32")),
    ("sm_70", "fourier_unit", "float32"): _flat(28, _DENSE.format(1.1, "fourier-unit-64x16 (26)")),
    ("sm_80", "fourier_unit", "float32"): _flat(0, _DENSE.format(0.9, "fourier-unit-64x16 (26)")),
    ("sm_90", "fourier_unit", "float32"): _flat(0, _DENSE.format(0.8, "fourier-unit-64x16 (26)")),
    ("sm_70", "gaussian", "float32"): Bound((132, 132, 66), _WINDOW.format(3.9, 2.0)),
    ("sm_80", "gaussian", "float32"): Bound((68, 68, 97), _WINDOW.format(2.0, 2.9)),
    ("sm_90", "gaussian", "float32"): Bound((34, 34, 26), _WINDOW.format(1.0, 0.8)),
}  # fmt: skip

# of float32 where TF32 is allowed
_EVEN = "model: about even at conv2d-256 (40); an estimate beyond it"
MATMUL = {"sm_80": Range(40, 210, _EVEN), "sm_90": Range(40, 135, _EVEN)}


def kind_of(device: torch.device | str) -> str:
    """Name the class of a device: "sm_70", "sm_80", "sm_90" and newer, or its type.

    >>> kind_of("cpu")
    'cpu'
    """
    device = torch.device(device)
    return _class_of(device) if device.type == "cuda" else device.type


@functools.lru_cache(maxsize=64)
def _class_of(device: torch.device) -> str:
    if not torch.cuda.is_available():  # nothing will run on it: as on the newest
        return next(iter(CLASSES))
    capability = torch.cuda.get_device_capability(device)
    return next(name for name, least in CLASSES.items() if capability >= least)


def most_work(family: str, device: torch.device | str, dtype: torch.dtype, axes: int) -> float:
    """Return the most work that kernels are taken for, as `Bound` counts it; the CPU's for devices
    without a row.
    """
    kind, row = kind_of(device), None
    if dtype in (torch.float16, torch.bfloat16):
        row = TABLE.get((kind, family, "16-bit"))
    row = row or TABLE.get((kind, family, "float32")) or TABLE["cpu", family, "float32"]
    return row.most[max(axes, 1) - 1]


def matmul_range(device: torch.device | str, dtype: torch.dtype, tf32: bool) -> Range | None:
    """Return where torch.matmul beats the kernels, None where it does not.

    tf32: whether it may round to TF32.
    """
    return MATMUL.get(kind_of(device)) if tf32 and dtype == torch.float32 else None


def tf32_allowed() -> bool:
    """Tell whether torch.matmul may round float32 to TF32."""
    matmul = torch.backends.cuda.matmul
    precision = getattr(matmul, "fp32_precision", None)
    if precision is None:  # torch before 2.9
        return matmul.allow_tf32
    return (torch.backends.fp32_precision if precision == "none" else precision) == "tf32"


# as torch.compiler.assume_constant_result marks them, which would load the compiler
kind_of._dynamo_marked_constant = True
tf32_allowed._dynamo_marked_constant = True
