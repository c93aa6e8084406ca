"""Synthetic BraTS-like patients: four contrasts and a nested tumour, for demos and tests.

The shapes are analytic (a folded ellipsoid with ventricles and deep nuclei) perturbed by smooth
random fields; the contrasts are tissue-dependent intensity maps with a bias field and Rician noise
(Gudbjartsson & Patz, Magn. Reson. Med. 34, 1995). File names, labels (1 NCR, 2 ED, 4 ET), axis
directions and data types follow BraTS 2021 (Baid et al., arXiv 2107.02314). Scores on phantoms say
that a pipeline works; they say nothing about patients.
"""

import gzip
import io
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fastseg.errors import UsageError

MODALITIES = ("t1", "t1ce", "t2", "flair")
MARKER = "phantom.json"
NO_ET_PROBABILITY = 1 / 8  # tumours without enhancement, as in part of the real patients
SIZE_LIMITS_VOXELS = (24, 512)

# relative signal; oedema and necrosis are dark in T1 and bright in T2 as CSF is (the T1/T2
# inversion), FLAIR suppresses CSF, and contrast agent lights up ET (and veins) in t1ce
# gliosis is the harmless bright halo of old ventricles; it and veins keep intensity alone from
# being an answer, so a network has to look around
TISSUES = ("csf", "grey", "white", "vein", "gliosis", "NCR", "ED", "ET")
SIGNAL = {
    "t1": (0.30, 0.68, 1.00, 0.60, 0.80, 0.45, 0.74, 0.66),
    "t1ce": (0.30, 0.70, 0.98, 1.40, 0.80, 0.50, 0.76, 1.38),
    "t2": (1.60, 0.78, 0.55, 0.60, 0.95, 1.30, 1.05, 0.95),
    "flair": (0.18, 0.78, 0.62, 0.55, 1.12, 0.88, 1.20, 1.05),
}
CSF, GREY, WHITE, VEIN, GLIOSIS, NCR, ED, ET = range(len(TISSUES))
LABEL_OF_TISSUE = np.array([0, 0, 0, 0, 0, 1, 2, 4], np.uint8)


def write(
    out: str | Path,
    cases: int,
    size: tuple[int, int, int] = (96, 96, 64),
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write `cases` patients below `out` in the BraTS 2021 layout and return `out`.

    size: voxels along (x, y, z), 1 mm each, 24 to 512.
    progress: called as progress(done, cases) after every patient.
    Patient i is a function of (seed, size, i) alone, to the byte. A second call with the same
    seed and size continues where the first one stopped; finished patients are left as they are.
    Raises UsageError for a bad argument, or when `out` holds anything but such an earlier set.
    """
    out, size = Path(out), tuple(int(n) for n in size)
    _check_arguments(cases, size, seed)
    _claim_folder(out, cases, size, seed)
    for index in range(cases):
        name = f"Phantom{index:05d}"
        if not (out / name).is_dir():
            _write_case(out, name, *patient(size, seed, index))
        if progress is not None:
            progress(index + 1, cases)
    return out


def patient(
    size: tuple[int, int, int], seed: int, index: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """One synthetic patient: modality name → int16 (z, y, x), and labels uint8 (z, y, x).

    Background is exactly 0, brain is ≥ 1; label values are 0, 1 (NCR), 2 (ED) and 4 (ET).
    """
    rng = np.random.default_rng((seed, index))
    shape = size[::-1]
    healthy, depth = _anatomy(rng, shape)
    tissue = _grow_tumour(rng, healthy, depth)
    brain = depth > 0
    # infiltration is patchy: some of the tissue that was there still shines through
    strength = np.clip(0.80 + 0.16 * _smooth_field(rng, shape, 12), 0.4, 1.0).astype(np.float32)
    layers = (healthy, tissue, strength, brain)
    images = {name: _acquire(rng, layers, SIGNAL[name]) for name in MODALITIES}
    return images, np.where(brain, LABEL_OF_TISSUE[tissue], np.uint8(0))


def _smooth_field(rng: np.random.Generator, shape: tuple[int, ...], cells: float) -> np.ndarray:
    """A smooth random field of unit variance, with about `cells` bumps along the longest axis."""
    step = max(shape) / cells
    field = rng.standard_normal([math.ceil(n / step) + 4 for n in shape])
    for n in shape:
        # cubic B-spline weights of every voxel on the coarse grid; the moved axis cycles to the end
        position = (np.arange(n) / step)[:, None] + 1.5 - np.arange(field.shape[0])
        a = np.abs(position)
        weights = np.where(a < 1, 2 / 3 - a**2 + a**3 / 2, np.clip(2 - a, 0, None) ** 3 / 6)
        field = np.tensordot(field, weights, axes=(0, 1))
    return field / field.std()


def _grid(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Open grids (w, v, u): up, back and left, each -1…1 across the volume's half-size."""
    w, v, u = (2 * (np.arange(n) + 0.5) / n - 1 for n in shape)
    return w[:, None, None], v[None, :, None], u[None, None, :]


def _anatomy(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Tissue index (z, y, x), and depth below the brain's surface (0 at it, 1 at the centre)."""
    w, v, u = _grid(shape)
    half_axes = np.array([0.90, 0.93, 0.76]) * rng.uniform(0.94, 1.02, 3)
    tilt = rng.uniform(-0.05, 0.05)
    w, v, u = w / half_axes[0], v / half_axes[1], (u + tilt * v) / half_axes[2]
    # the frontal end is narrower, the base flatter, than an ellipsoid's
    radius = np.sqrt((u * (1 - 0.12 * v)) ** 2 + v**2 + (w * np.where(w < 0, 1.12, 1.0)) ** 2)
    depth = 1 - radius + 0.03 * _smooth_field(rng, shape, 5)
    tissue = np.full(shape, WHITE, np.int8)

    folds = np.abs(_smooth_field(rng, shape, 17))  # its zero set is a net of walls: the sulci
    midline = np.abs(u + 0.012 * _smooth_field(rng, shape, 4))
    fissure = (midline + 0.25 * np.clip(depth - 0.45, 0, None)) * 14
    wall = np.minimum(folds, fissure)
    tissue[(depth < 0.05) | (wall < 1.05 * (1 - depth / 0.42))] = GREY
    tissue[(depth < 0.012) | (wall < 0.22 * (1 - depth / 0.36))] = CSF

    side = np.abs(u)
    nuclei = ((side - 0.24) / 0.13) ** 2 + ((v - 0.02) / 0.26) ** 2 + ((w + 0.02) / 0.24) ** 2
    tissue[nuclei + 0.1 * _smooth_field(rng, shape, 9) < 1] = GREY
    width = rng.uniform(0.05, 0.085)
    horns = ((side - 0.075 - 0.55 * v**2) / width) ** 2 + (v / 0.46) ** 2 + ((w - 0.14) / 0.26) ** 2
    third = (u / 0.03) ** 2 + ((v - 0.05) / 0.16) ** 2 + ((w + 0.12) / 0.16) ** 2
    halo = rng.uniform(1.2, 2.6) + 0.5 * _smooth_field(rng, shape, 10)
    tissue[(horns < halo) & (tissue == WHITE)] = GLIOSIS
    tissue[np.minimum(horns, third) < 1] = CSF
    sinus = (u / 0.035) ** 2 + (np.clip(depth, 0, None) / 0.045) ** 2
    tissue[(sinus < 1) & ((w > 0.1) | (v > 0.55))] = VEIN
    # two thin nets cross in threads
    tissue[(wall < 0.22) & (np.abs(_smooth_field(rng, shape, 15)) < 0.10) & (depth < 0.4)] = VEIN
    return tissue, depth


def _grow_tumour(rng: np.random.Generator, tissue: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Put necrosis inside enhancing rim inside oedema, each a noise-perturbed level set."""
    shape = tissue.shape
    seeds = np.flatnonzero((tissue == WHITE) & (depth > 0.22) & (depth < 0.62))
    centre = np.unravel_index(rng.choice(seeds), shape)
    core_radius_voxels = rng.uniform(0.10, 0.17) * np.array(shape) * np.array([1.2, 1.0, 1.0])
    stretch, angle = rng.uniform(0.8, 1.25), rng.uniform(0, np.pi)
    w, v, u = (
        (np.arange(n) - c) / r for n, c, r in zip(shape, centre, core_radius_voxels, strict=True)
    )
    w, v, u = w[:, None, None], v[None, :, None], u[None, None, :]
    along, across = np.cos(angle) * v + np.sin(angle) * u, np.cos(angle) * u - np.sin(angle) * v
    distance = np.sqrt(w**2 + (along * stretch) ** 2 + (across / stretch) ** 2)

    rough, fingers = _smooth_field(rng, shape, 17), _smooth_field(rng, shape, 12)
    core = distance * (1 + 0.16 * rough)
    rim_share, spread = rng.uniform(0.52, 0.72), rng.uniform(1.45, 1.95)
    enhancing = rng.random() >= NO_ET_PROBABILITY
    host = (tissue != CSF) & (depth > 0.01)
    # oedema follows white matter and hardly enters the cortex
    reach = distance * (1 + 0.20 * fingers) + np.where(tissue == WHITE, 0, 0.22)
    grown = tissue.copy()
    grown[host & (tissue != VEIN) & (reach < spread)] = ED
    solid = (depth > 0.01) & (tissue != VEIN)
    if enhancing:
        grown[solid & (core < 1)] = ET
        grown[solid & (core + 0.10 * fingers < rim_share) & (core < 0.9)] = NCR
    else:
        grown[solid & (core < 0.85)] = NCR
    return grown


def _acquire(
    rng: np.random.Generator, layers: tuple[np.ndarray, ...], signal: tuple[float, ...]
) -> np.ndarray:
    """An int16 magnitude image: partial volume, texture, bias field, Rician noise.

    layers: tissue without and with the tumour, share of the tumour's own signal, brain mask.
    """
    from scipy.ndimage import gaussian_filter

    healthy, tissue, strength, brain = layers
    levels = (np.array(signal) * rng.uniform(0.92, 1.08, len(signal))).astype(np.float32)
    before = levels[healthy]
    clean = gaussian_filter(before + strength * (levels[tissue] - before), 0.55)
    texture = 1 + 0.045 * _smooth_field(rng, tissue.shape, 24)
    bias = np.exp(0.12 * _smooth_field(rng, tissue.shape, 2.5))
    signal_brain = (clean * texture * bias)[brain]
    noise = rng.uniform(0.035, 0.065) * rng.standard_normal((2, signal_brain.size))
    magnitude = np.hypot(signal_brain + noise[0], noise[1])
    image = np.zeros(tissue.shape, np.int16)
    # scanners scale freely: the same tissue differs by a factor of two between patients
    image[brain] = np.clip(np.rint(magnitude * rng.uniform(300, 650)), 1, 32767)
    return image


def _check_arguments(cases: int, size: tuple[int, ...], seed: int) -> None:
    low, high = SIZE_LIMITS_VOXELS
    if cases < 1 or cases > 100_000:
        raise UsageError(f"cases: got {cases}, want 1 to 100000")
    if len(size) != 3 or not all(low <= n <= high for n in size):
        raise UsageError(f"size: got {size}, want three numbers x,y,z from {low} to {high}")
    if seed < 0:
        raise UsageError(f"seed: got {seed}, want 0 or more")


def _claim_folder(out: Path, cases: int, size: tuple[int, ...], seed: int) -> None:
    """Make `out` a phantom folder, or raise UsageError when it belongs to something else."""
    identity = {"made_by": "fastseg phantom", "size": list(size), "seed": seed}
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file, want a folder")
    out.mkdir(parents=True, exist_ok=True)
    if not (out / MARKER).exists():
        if any(out.iterdir()):
            raise UsageError(f"{out}: holds other files, want an empty or a new folder")
        _write_atomic(out / MARKER, json.dumps(identity, indent=1).encode() + b"\n")
    try:
        found = json.loads((out / MARKER).read_text())
    except ValueError:
        found = None
    if found != identity:
        raise UsageError(f"{out}: holds phantoms of another kind ({found}), want {identity}")
    for leftover in out.glob(".Phantom*.part"):
        shutil.rmtree(leftover)
    if len(existing := list(out.glob("Phantom*"))) > cases:
        raise UsageError(f"{out}: already holds {len(existing)} phantoms, more than {cases}")


def _write_case(out: Path, name: str, images: dict[str, np.ndarray], labels: np.ndarray) -> None:
    part = out / f".{name}.part"
    part.mkdir()
    for suffix, array in {**images, "seg": labels}.items():
        (part / f"{name}_{suffix}.nii.gz").write_bytes(_nifti_gz(array))
    os.replace(part, out / name)


def _nifti_gz(array_zyx: np.ndarray) -> bytes:
    """The bytes of a .nii.gz file with BraTS' axis directions (left, posterior, superior)."""
    import nibabel as nib

    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[1, 3] = array_zyx.shape[1] - 1
    image = nib.Nifti1Image(array_zyx.T, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("mm", "sec")
    packed = io.BytesIO()
    # an empty name and a fixed time keep the file a function of its content
    with gzip.GzipFile("", "wb", compresslevel=4, fileobj=packed, mtime=0) as stream:
        stream.write(image.to_bytes())
    return packed.getvalue()


def _write_atomic(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    os.replace(part, path)
