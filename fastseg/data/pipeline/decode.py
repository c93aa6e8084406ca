"""From the files of one case to the box around its brain, with the statistics that normalise it."""

import threading
from dataclasses import dataclass

import numpy as np

from fastseg.data import nifti
from fastseg.data.geometry import Box, bounding_box, grid_difference
from fastseg.data.pipeline.intensity import PERCENTILES, Rule
from fastseg.errors import DataError, NiftiError


@dataclass(frozen=True)
class RawCase:
    """Whole volumes of one case. Arrays may be views on buffers that the next read overwrites.

    `images` are C arrays (D, H, W), all int16 or all float32; `label` is (D, H, W) class indices
    as stored in the file, or None; `header` is the first modality's.
    """

    images: list[np.ndarray]
    label: np.ndarray | None
    header: nifti.Header


@dataclass(frozen=True)
class Brain:
    """A case cut to the box outside of which every modality is background and the label is 0.

    `images` holds C arrays (d, h, w) of int16 or float32, `label` uint8 class indices (d, h, w),
    `origin` the box's first voxel in the volume of `shape` (D, H, W), `stats` the float32 rows
    low, high, mean, std, one column a modality (`statistics`).
    """

    images: np.ndarray | list[np.ndarray]
    label: np.ndarray
    origin: tuple[int, int, int]
    shape: tuple[int, int, int]
    stats: np.ndarray


class Buffers(threading.local):
    """Reusable storage for decoded files, one `nifti.Buffer` for each thread and role."""

    def __init__(self):
        self._by_role = {}

    def __getitem__(self, role) -> nifti.Buffer:
        if role not in self._by_role:
            self._by_role[role] = nifti.Buffer()
        return self._by_role[role]


def read_case(case, modalities, buffers: Buffers | None = None) -> RawCase:
    """Read every modality of `case`, in the order of `modalities`, and its label if it has one.

    Raises DataError (NiftiError where one file is to blame) for a missing modality, a damaged
    file, voxels that are not finite, and volumes that do not share one grid.
    """
    missing = [name for name in modalities if name not in case.images]
    if missing:
        raise DataError(f"case {case.id}: no file for modality {', '.join(missing)}")
    paths = [case.images[name] for name in modalities]
    volumes = [nifti.read(path, buffer=buffers and buffers[i]) for i, path in enumerate(paths)]
    label = None
    if case.label is not None:
        label = nifti.read(case.label, buffer=buffers and buffers["label"])
    _check_grid([*volumes, label] if label else volumes)
    images = [_stored(volume) for volume in volumes]
    if any(image.dtype != np.int16 for image in images):
        images = [image.astype(np.float32, copy=False) for image in images]
    return RawCase(images, label and _label_values(label), volumes[0].header)


def _stored(volume: nifti.Volume) -> np.ndarray:
    if not volume.header.scaled and np.can_cast(volume.data.dtype, np.int16):
        return volume.data.astype(np.int16, copy=False)
    data = volume.scaled(np.float32)
    if not np.isfinite(data).all():
        count = int(data.size - np.isfinite(data).sum())
        raise NiftiError(volume.header.path, f"{count} voxels are NaN or infinite in float32")
    return data


def _label_values(volume: nifti.Volume) -> np.ndarray:
    return volume.scaled(np.float32) if volume.header.scaled else volume.data


def _check_grid(volumes: list[nifti.Volume]) -> None:
    for volume in volumes[1:]:
        if found := grid_difference(volume.header, volumes[0].header):
            raise NiftiError(volume.header.path, found[1])


def brain_box(volumes: list[np.ndarray], rule: Rule = Rule()) -> Box | None:  # noqa: B008
    """Find the smallest box that holds every voxel of arrays (D, H, W) that is no background; None
    where there is none.
    """
    return bounding_box(*(map(rule.filled, volumes) if rule.name == "window" else volumes))


def statistics(image: np.ndarray, percentiles=PERCENTILES) -> np.ndarray:
    """Low, high, mean and std (float32) of one modality's brain voxels (x != 0).

    Low and high are the `percentiles` (linear interpolation, as numpy's default); mean
    and standard deviation are those of the brain clipped to them. A brain of one value, or
    none, has std = inf, so that it normalises to 0.
    """
    brain = image[image != 0]
    if not brain.size:
        return np.array([0, 0, 0, np.inf], np.float32)
    if brain.dtype == np.int16:
        values, counts = _histogram(brain)
        low, high = _percentiles(values, counts, percentiles)
    else:
        values, counts = brain.astype(np.float64), np.ones(1)
        low, high = np.percentile(values, percentiles)
    clipped = values.clip(low, high)
    mean = (clipped * counts).sum() / brain.size
    std = np.sqrt((np.square(clipped - mean) * counts).sum() / brain.size)
    return np.array([low, high, mean, std if std > 1e-6 * abs(mean) else np.inf], np.float32)


def _histogram(brain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # Counting the 16-bit patterns needs no sort and no search for the range; negative values are
    # the upper half of the patterns.
    counts = np.roll(np.bincount(brain.view(np.uint16), minlength=1 << 16), 1 << 15)
    present = np.flatnonzero(counts)
    return (present - (1 << 15)).astype(np.float64), counts[present]


def _percentiles(values: np.ndarray, counts: np.ndarray, percentiles) -> np.ndarray:
    ends = counts.cumsum()
    position = np.asarray(percentiles) / 100 * (ends[-1] - 1)
    below, above = (
        values[np.searchsorted(ends, rank, side="right")]
        for rank in (np.floor(position), np.ceil(position))
    )
    return below + (above - below) * (position % 1)


@dataclass(frozen=True)
class Located:
    """What `locate` found: the boxes around everything and around the label, the statistics."""

    box: Box
    label_box: Box
    stats: np.ndarray


def locate(raw: RawCase, case, rule: Rule = Rule()) -> Located:  # noqa: B008
    """Boxes and statistics, float32 (4, C), of a case. Raises DataError when it has no brain."""
    box = brain_box(raw.images, rule)
    if box is None:
        at_most = f"at most {rule.floor:g}" if rule.floor else "0"
        raise DataError(f"case {case.id}: every modality is {at_most} everywhere")
    stats = np.stack([statistics(image[box], rule.percentiles) for image in raw.images], axis=1)
    marked = box
    if raw.label is not None and raw.label.any():
        marked = bounding_box(raw.label)
        box = tuple(
            slice(min(a.start, b.start), max(a.stop, b.stop))
            for a, b in zip(box, marked, strict=True)
        )
    return Located(box, marked, stats)


def label_classes(raw: RawCase, case, scheme, box=...) -> np.ndarray:
    """The label inside `box` as uint8 class indices; DataError names file and unknown values."""
    try:
        return scheme.to_classes(raw.label[box])
    except ValueError as error:
        raise DataError(f"{case.label}: {error}") from None


def crop_to_brain(raw: RawCase, case, scheme, located: Located) -> Brain:
    """Views of `raw` inside the box that `locate` found, with the label as class indices; 0
    everywhere for a case without a label.
    """
    box, marked = located.box, located.label_box
    pairs = zip(marked, box, strict=True)
    inner = tuple(slice(m.start - b.start, m.stop - b.start) for m, b in pairs)
    label = np.zeros(raw.images[0][box].shape, np.uint8)
    if raw.label is not None:
        label[inner] = label_classes(raw, case, scheme, marked)
    return Brain(
        images=[image[box] for image in raw.images],
        label=label,
        origin=tuple(int(part.start) for part in box),
        shape=raw.images[0].shape,
        stats=located.stats,
    )
