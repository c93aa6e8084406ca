"""Make synthetic abdominal CT: Hounsfield units and nine organs, in nnU-Net's layout.

Organs are ellipsoids with rough surfaces about usual places in a body of fat, muscle, bone, bowel
and lung; places, sizes and enhancement vary from patient to patient. The two kidneys look alike, as
the vessels nearly do: side and neighbours tell them apart. Air is about -1000, water 0, so that
neither 0 nor the lowest value is missing data. Scores on phantoms say that a pipeline works; they
say nothing about patients.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastseg.data.phantom.files import claim, write_volume
from fastseg.data.phantom.tissue import open_grid, smooth_field
from fastseg.errors import UsageError
from fastseg.host.files import write_json


class Organ(NamedTuple):
    """Hold an organ's usual centre and half axes, 1 being the volume's border, and its HU."""

    name: str
    centre: tuple[float, float, float]  # up, back, left
    half: tuple[float, float, float]
    hu: float
    spread: float  # of its enhancement between patients, standard deviation in HU


# in the order they are drawn: later ones lie over earlier ones
ORGANS = (
    Organ("liver", (0.20, -0.05, -0.42), (0.52, 0.42, 0.38), 105, 9),
    Organ("stomach", (0.28, -0.20, 0.32), (0.36, 0.24, 0.27), 30, 8),
    Organ("spleen", (0.30, 0.26, 0.60), (0.34, 0.25, 0.16), 120, 9),
    Organ("right_kidney", (-0.28, 0.30, -0.40), (0.38, 0.17, 0.15), 170, 14),
    Organ("left_kidney", (-0.20, 0.30, 0.40), (0.38, 0.17, 0.15), 170, 14),
    Organ("pancreas", (-0.06, 0.06, 0.06), (0.15, 0.10, 0.32), 85, 8),
    Organ("gallbladder", (-0.16, -0.22, -0.34), (0.20, 0.12, 0.11), 10, 4),
    Organ("aorta", (0.0, 0.26, 0.09), (9.0, 0.085, 0.085), 180, 14),
    Organ("vena_cava", (0.0, 0.24, -0.12), (9.0, 0.085, 0.10), 140, 10),
)
CHANNEL = "CT"
AIR_HU, LUNG_HU, FAT_HU, MUSCLE_HU, BONE_HU, BOWEL_HU = -1000, -820, -95, 55, 420, 35
_LOWEST_HU, _HIGHEST_HU = -1024, 3071


def write(
    out: Path, cases: int, size: tuple[int, int, int], seed: int, identity: dict,
    progress: Callable[[int, int], None] | None = None,
) -> Path:  # fmt: skip
    """Write patients as nnU-Net has them: dataset.json, imagesTr/CASE_0000.nii.gz and
    labelsTr/CASE.nii.gz. Arguments, and how a stopped call goes on, as in `phantom.write`.
    """
    claim(out, cases, identity)
    images, labels = out / "imagesTr", out / "labelsTr"
    for folder in (images, labels):
        folder.mkdir(exist_ok=True)
    if (there := len(list(labels.glob("Phantom*.nii.gz")))) > cases:
        raise UsageError(f"{out}: already holds {there} phantoms, more than {cases}")
    for index in range(cases):
        name = f"Phantom{index:05d}"
        # the label comes last: a case that has one is complete
        if not (labels / f"{name}.nii.gz").exists():
            image, label = patient(size, seed, index)
            write_volume(images / f"{name}_0000.nii.gz", image)
            write_volume(labels / f"{name}.nii.gz", label)
        if progress is not None:
            progress(index + 1, cases)
    _describe(out, cases)
    return out


def patient(size: tuple[int, int, int], seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one patient, a function of (size, seed, index) alone.

    Args:
        size: voxels along (x, y, z).
        seed, index: of the set and of the patient in it, both 0 or more.

    Returns:
        Hounsfield units, int16 (z, y, x), and labels, uint8 (z, y, x): organ i of `ORGANS` is
        i + 1, what is none is 0.

    >>> image, labels = patient((24, 24, 24), seed=0, index=0)
    >>> image.dtype.name, int(labels.max()) <= len(ORGANS)
    ('int16', True)
    """
    from scipy.ndimage import gaussian_filter

    rng, shape = np.random.default_rng((seed, index)), size[::-1]
    hu, inside = _body(rng, shape)
    label = np.zeros(shape, np.uint8)
    shift = rng.normal(0, 0.03, 3)  # of all organs together: how the patient lies
    for number, organ in enumerate(ORGANS, 1):
        where = _shape(rng, shape, organ, shift) & inside
        label[where] = number
        texture = 6 * smooth_field(rng, shape, 24)[where]
        hu[where] = rng.normal(organ.hu, organ.spread) + texture
    blurred = gaussian_filter(hu, 0.6)
    noisy = blurred + rng.uniform(10, 18) * rng.standard_normal(shape)
    return np.clip(np.rint(noisy), _LOWEST_HU, _HIGHEST_HU).astype(np.int16), label


def _body(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Draw the HU of a body without organs, float64, and where organs may be."""
    w, v, u = open_grid(shape)
    stretch = rng.uniform(0.94, 1.03, 2)
    radius = np.hypot(u / (0.94 * stretch[0]), v / (0.70 * stretch[1]))
    depth = 1 - radius + 0.015 * smooth_field(rng, shape, 5)
    hu = np.full(shape, float(AIR_HU))
    hu[depth > 0] = FAT_HU
    wall = rng.uniform(0.05, 0.10)  # of fat beneath the skin
    hu[depth > wall] = MUSCLE_HU
    inside = depth > wall + 0.08
    hu[inside] = FAT_HU
    bowel = smooth_field(rng, shape, 9)
    hu[inside & (bowel > 0.7)] = BOWEL_HU
    hu[inside & (bowel > 2.1)] = AIR_HU
    lung = inside & (w > 0.72 - 0.5 * (np.abs(u) - 0.45) ** 2 + 0.05 * smooth_field(rng, shape, 4))
    hu[lung] = LUNG_HU
    spine = np.hypot(u / 0.17, (v - 0.48) / 0.14) + 0.06 * smooth_field(rng, shape, 14) < 1
    hu[spine] = BONE_HU
    return hu, inside & ~spine & ~lung


def _shape(
    rng: np.random.Generator, shape: tuple[int, ...], organ: Organ, shift: np.ndarray
) -> np.ndarray:
    centre = np.array(organ.centre) + shift + rng.normal(0, 0.02, 3)
    half = np.array(organ.half) * rng.uniform(0.88, 1.12, 3)
    parts = ((x - c) / h for x, c, h in zip(open_grid(shape), centre, half, strict=True))
    distance = np.sqrt(sum(part**2 for part in parts))
    return distance * (1 + 0.06 * smooth_field(rng, shape, 8)) < 1


def _describe(out: Path, cases: int) -> None:
    labels = {"background": 0} | {organ.name: i for i, organ in enumerate(ORGANS, 1)}
    description = {
        "name": "organs",
        "channel_names": {"0": CHANNEL},
        "labels": labels,
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    write_json(out / "dataset.json", description)
