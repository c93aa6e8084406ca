"""Cut the files of one case to the box around its brain, with statistics that normalise it."""

import threading
from dataclasses import dataclass

import numpy as np

from fastseg.data import nifti
from fastseg.data.geometry import Box, bounding_box, grid_difference
from fastseg.data.pipeline.intensity import Rule
from fastseg.data.pipeline.statistics import statistics
from fastseg.errors import DataError, NiftiError


@dataclass(frozen=True)
class RawCase:
    """Hold whole volumes of one case; arrays may be views on buffers that the next read overwrites.

    images: C arrays (D, H, W), all int16 or all float32. label: (D, H, W), values as stored in the
    file, or None. header: the first modality's.
    """

    images: list[np.ndarray]
    label: np.ndarray | None
    header: nifti.Header


@dataclass(frozen=True)
class Brain:
    """Hold a case cut to the box outside of which all is background and the label is 0.

    images: C arrays (d, h, w) of int16 or float32. label: class indices, uint8 (d, h, w). origin:
    the box's first voxel in the volume of shape (D, H, W). stats: float32 (4, C), rows low, high,
    mean, std (`statistics`).
    """

    images: np.ndarray | list[np.ndarray]
    label: np.ndarray
    origin: tuple[int, int, int]
    shape: tuple[int, int, int]
    stats: np.ndarray


class Buffers(threading.local):
    """Keep storage for decoded files, one `nifti.Buffer` for each thread and role."""

    def __init__(self):
        self._by_role = {}

    def __getitem__(self, role) -> nifti.Buffer:
        if role not in self._by_role:
            self._by_role[role] = nifti.Buffer()
        return self._by_role[role]


def read_case(case, modalities, buffers: Buffers | None = None) -> RawCase:
    """Read every modality of a case, and its label if it has one.

    Args:
        case: a `cases.Case`.
        modalities: which to read, in this order.
        buffers: storage to read into; by default the arrays are the caller's to keep.

    Raises:
        DataError: a missing modality; a NiftiError where one file is to blame: it is damaged, has
            voxels that are not finite, or does not share the others' grid.

    >>> from fastseg.data import phantom
    >>> from fastseg.data.cases import discover
    >>> dataset = discover(phantom.write("phantoms", cases=1, size=(24, 26, 28)))
    >>> raw = read_case(dataset.cases[0], ("t1", "flair"))
    >>> [image.shape for image in raw.images], raw.images[0].dtype.name
    ([(28, 26, 24), (28, 26, 24)], 'int16')
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
    """Find the smallest box that holds every voxel that is no background; None where there is none.

    Args:
        volumes: stored values (D, H, W) of each modality.
        rule: says what is background: 0, or what a window leaves out below.

    >>> volume = np.zeros((4, 5, 6), np.int16)
    >>> volume[1:3, 2:4, 5] = 7
    >>> brain_box([volume])
    (slice(1, 3, None), slice(2, 4, None), slice(5, 6, None))
    """
    return bounding_box(*(map(rule.filled, volumes) if rule.name == "window" else volumes))


@dataclass(frozen=True)
class Located:
    """Hold what `locate` found: the boxes around everything and around the label, statistics."""

    box: Box
    label_box: Box
    stats: np.ndarray


def locate(raw: RawCase, case, rule: Rule = Rule()) -> Located:  # noqa: B008
    """Find the boxes of a case and measure its modalities.

    Args:
        raw: what `read_case` read.
        case: its `cases.Case`, for messages.
        rule: says what is background, and the percentiles.

    Raises:
        DataError: every voxel is background.
    """
    box = brain_box(raw.images, rule)
    if box is None:
        at_most = f"at most {rule.floor:g}" if rule.floor else "0"
        raise DataError(f"case {case.id}: every modality is {at_most} everywhere")
    stats = np.stack([statistics(image[box], rule.percentiles) for image in raw.images], axis=1)
    marked = box
    if raw.label is not None and raw.label.any():
        marked = bounding_box(raw.label)
        # Labels may reach past the brain, into what skull stripping set to 0.
        box = tuple(
            slice(min(a.start, b.start), max(a.stop, b.stop))
            for a, b in zip(box, marked, strict=True)
        )
    return Located(box, marked, stats)


def label_classes(raw: RawCase, case, scheme, box=...) -> np.ndarray:
    """Return the label inside `box` as class indices, uint8.

    Raises:
        DataError: naming the file, and values that are of no class.
    """
    try:
        return scheme.to_classes(raw.label[box])
    except ValueError as error:
        raise DataError(f"{case.label}: {error}") from None


def crop_to_brain(raw: RawCase, case, scheme, located: Located) -> Brain:
    """Cut a case to the box that `locate` found.

    Args:
        raw: what `read_case` read; the images of the result are views of its.
        case: its `cases.Case`, for messages.
        scheme: the `cases.LabelScheme` of the label.
        located: what `locate` found.

    Returns:
        the `Brain`; its label is 0 everywhere for a case without one.

    Raises:
        DataError: naming the file, and values that are of no class.

    >>> from fastseg.data import phantom
    >>> from fastseg.data.cases import discover
    >>> dataset = discover(phantom.write("phantoms", cases=1, size=(24, 26, 28)))
    >>> case = dataset.cases[0]
    >>> raw = read_case(case, dataset.modalities)
    >>> brain = crop_to_brain(raw, case, dataset.scheme, locate(raw, case))
    >>> brain.shape, brain.label.shape == brain.images[0].shape, brain.stats.shape
    ((28, 26, 24), True, (4, 4))
    """
    box, marked = located.box, located.label_box
    pairs = zip(marked, box, strict=True)
    inner = tuple(slice(m.start - b.start, m.stop - b.start) for m, b in pairs)
    label = np.zeros(raw.images[0][box].shape, np.uint8)
    if raw.label is not None:
        # Only inside the label's own box, a few per cent of the volume: the rest is known to be 0.
        label[inner] = label_classes(raw, case, scheme, marked)
    return Brain(
        images=[image[box] for image in raw.images],
        label=label,
        origin=tuple(int(part.start) for part in box),
        shape=raw.images[0].shape,
        stats=located.stats,
    )
