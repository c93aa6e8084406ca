"""Make synthetic BraTS-like patients: four contrasts and a nested tumour, for demos and tests.

The shapes are analytic (a folded ellipsoid with ventricles and deep nuclei) perturbed by smooth
random fields; the contrasts are tissue-dependent intensity maps with a bias field and Rician noise
(Gudbjartsson & Patz, Magn. Reson. Med. 34, 1995). File names, labels (1 NCR, 2 ED, 4 ET), axis
directions and data types follow BraTS 2021 (Baid et al., arXiv 2107.02314). Scores on phantoms say
that a pipeline works; they say nothing about patients.

Tasks: "nested" tumours, which local sight can segment; "global-cue", where a weak field over the
whole brain decides which of two labels the core has (`cue`); and "organs", abdominal CT in
nnU-Net's layout (`organs`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastseg.data.phantom import cue, files, organs
from fastseg.data.phantom.tissue import SIGNAL, acquire, anatomy, grow_tumour, smooth_field
from fastseg.errors import UsageError

MODALITIES = ("t1", "t1ce", "t2", "flair")
TASKS = ("nested", "global-cue", "organs")
SIZE_LIMITS_VOXELS = (24, 512)
LABEL_OF_TISSUE = np.array([0, 0, 0, 0, 0, 1, 2, 4], np.uint8)


class _Rules(NamedTuple):
    """Hold what a task decides about a patient."""

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
    """Write patients in the BraTS 2021 layout, those of task "organs" in nnU-Net's.

    Patient i is a function of (seed, size, i, task, noise) alone, to the byte. A second call with
    the same of these continues where the first one stopped; finished patients are left as they are.

    Args:
        out: a new or empty folder, or one that holds such an earlier set.
        cases: how many patients it is to hold, 1 to 100000.
        size: voxels along (x, y, z), 1 mm each, 24 to 512.
        seed: 0 or more.
        progress: called as progress(done, cases) after every patient.
        task: one of `TASKS`.
        noise: whether images have Rician noise; patients are the same without.

    Returns:
        `out`, as a path.

    Raises:
        UsageError: a bad argument, or `out` holds something else.

    >>> folder = write("phantoms", cases=1, size=(24, 24, 24))
    >>> sorted(path.name for path in (folder / "Phantom00000").iterdir())[:2]
    ['Phantom00000_flair.nii.gz', 'Phantom00000_seg.nii.gz']
    """
    out, size = Path(out), tuple(int(n) for n in size)
    _check_arguments(cases, size, seed, task)
    identity = {"made_by": "fastseg phantom", "size": list(size), "seed": seed}
    # sets written before there were tasks are continued
    identity |= ({} if task == TASKS[0] else {"task": task}) | ({} if noise else {"noise": False})
    if task == "organs":
        if not noise:
            raise UsageError(
                "noise: is false, wanted true: task organs has no images without noise"
            )
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
    """Draw one synthetic patient.

    Args:
        size: voxels along (x, y, z).
        seed, index: of the set and of the patient in it, both 0 or more.
        task: one of `TASKS`.
        noise: whether images have Rician noise.

    Returns:
        modality name to image, int16 (z, y, x), background exactly 0 and brain at least 1; and
        labels, uint8 (z, y, x): 0, 1 (NCR), 2 (ED) and 4 (ET). Those of task "organs" are
        `organs.patient`'s.

    >>> images, labels = patient((24, 26, 28), seed=0, index=0)
    >>> sorted(images), labels.shape, np.unique(labels)
    (['flair', 't1', 't1ce', 't2'], (28, 26, 24), array([0, 1, 2, 4], dtype=uint8))
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
        raise UsageError(f"cases: is {cases}, wanted 1 to 100000")
    if len(size) != 3 or not all(low <= n <= high for n in size):
        raise UsageError(f"size: is {size}, wanted three numbers x,y,z from {low} to {high}")
    if seed < 0:
        raise UsageError(f"seed: is {seed}, wanted 0 or more")
    if task not in TASKS:
        raise UsageError(f"task: is {task!r}, wanted one of {', '.join(TASKS)}")
