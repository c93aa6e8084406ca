"""Synthetic BraTS-like patients: four contrasts and a nested tumour, for demos and tests.

The shapes are analytic (a folded ellipsoid with ventricles and deep nuclei) perturbed by smooth
random fields; the contrasts are tissue-dependent intensity maps with a bias field and Rician noise
(Gudbjartsson & Patz, Magn. Reson. Med. 34, 1995). File names, labels (1 NCR, 2 ED, 4 ET), axis
directions and data types follow BraTS 2021 (Baid et al., arXiv 2107.02314). Scores on phantoms say
that a pipeline works; they say nothing about patients.

Tasks: "nested" tumours, which local sight can segment; "global-cue", where a weak field over the
whole brain decides which of two labels the core has (`phantom_cue`); and "organs", abdominal CT in
nnU-Net's layout (`phantom_organs`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastseg.data.phantom import cue, files, organs
from fastseg.data.phantom.images import SIGNAL, acquire
from fastseg.data.phantom.tissue import anatomy, grow_tumour, smooth_field
from fastseg.errors import UsageError

MODALITIES = ("t1", "t1ce", "t2", "flair")
TASKS = ("nested", "global-cue", "organs")
SIZE_LIMITS_VOXELS = (24, 512)
LABEL_OF_TISSUE = np.array([0, 0, 0, 0, 0, 1, 2, 4], np.uint8)


class _Rules(NamedTuple):
    """What a task decides about a patient."""

    label_of_tissue: np.ndarray = LABEL_OF_TISSUE
    shading: np.ndarray | float = 1.0
    no_rim_probability: float = 1 / 8  # without enhancement, as part of the real patients


def write(
    out: str | Path,
    cases: int,
    size: tuple[int, int, int] = (96, 96, 64),
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    task: str = "nested",
    noise: bool = True,
) -> Path:
    """Write `cases` patients below `out` in the BraTS 2021 layout, those of task "organs" in
    nnU-Net's, and return `out`.

    size: voxels along (x, y, z), 1 mm each, 24 to 512.
    progress: called as progress(done, cases) after every patient.
    task: one of TASKS. noise: whether images have Rician noise; patients are the same without.
    Patient i is a function of (seed, size, i, task, noise) alone, to the byte. A second call with
    the same of these continues where the first one stopped; finished patients are left as they are.
    Raises UsageError for a bad argument, or when `out` holds anything but such an earlier set.
    """
    out, size = Path(out), tuple(int(n) for n in size)
    _check_arguments(cases, size, seed, task)
    identity = {"made_by": "fastseg phantom", "size": list(size), "seed": seed}
    # sets written before there were tasks are continued
    identity |= ({} if task == TASKS[0] else {"task": task}) | ({} if noise else {"noise": False})
    if task == "organs":
        if not noise:
            raise UsageError("noise: task organs has no images without noise")
        return organs.write(out, cases, size, seed, identity, progress)
    files.claim(out, cases, identity)
    for index in range(cases):
        name = f"Phantom{index:05d}"
        if not (out / name).is_dir():
            files.write_case(out, name, *patient(size, seed, index, task, noise))
        if progress is not None:
            progress(index + 1, cases)
    return out


def patient(
    size: tuple[int, int, int], seed: int, index: int, task: str = "nested", noise: bool = True
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """One synthetic patient: modality name → int16 (z, y, x), and labels uint8 (z, y, x).

    Background is exactly 0, brain is ≥ 1; label values are 0, 1 (NCR), 2 (ED) and 4 (ET). Those of
    task "organs" are `organs.patient`'s. Without `noise` it is the same patient but for the
    Rician noise of the images.
    """
    if task == "organs":
        image, labels = organs.patient(size, seed, index)
        return {organs.CHANNEL: image}, labels
    rng = np.random.default_rng((seed, index))
    shape = size[::-1]
    rules = _rules(task, shape, seed, index)
    healthy, depth = anatomy(rng, shape)
    tissue = grow_tumour(rng, healthy, depth, rules.no_rim_probability)
    brain = depth > 0
    # infiltration is patchy: some of the tissue that was there still shines through
    strength = np.clip(0.80 + 0.16 * smooth_field(rng, shape, 12), 0.4, 1.0).astype(np.float32)
    layers = (healthy, tissue, strength, brain)
    images = {name: acquire(rng, layers, SIGNAL[name], rules.shading, noise) for name in MODALITIES}
    return images, np.where(brain, rules.label_of_tissue[tissue], np.uint8(0))


def _rules(task: str, shape: tuple[int, int, int], seed: int, index: int) -> _Rules:
    if task == "nested":
        return _Rules()
    sign = cue.sign(seed, index)
    return _Rules(
        label_of_tissue=cue.label_of_tissue(LABEL_OF_TISSUE, sign),
        shading=cue.shading(shape, sign),
        no_rim_probability=0,  # without a rim there is nothing to swap
    )


def _check_arguments(cases: int, size: tuple[int, ...], seed: int, task: str) -> None:
    low, high = SIZE_LIMITS_VOXELS
    if cases < 1 or cases > 100_000:
        raise UsageError(f"cases: got {cases}, want 1 to 100000")
    if len(size) != 3 or not all(low <= n <= high for n in size):
        raise UsageError(f"size: got {size}, want three numbers x,y,z from {low} to {high}")
    if seed < 0:
        raise UsageError(f"seed: got {seed}, want 0 or more")
    if task not in TASKS:
        raise UsageError(f"task: got {task!r}, want {', '.join(TASKS)}")
