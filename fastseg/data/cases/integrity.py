"""Check the integrity of a data set: decode every file of every case and look at it."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastseg.data.cases.labels import LabelScheme
from fastseg.data.cases.layouts import Case
from fastseg.data.geometry import grid_difference
from fastseg.data.nifti import Buffer, Volume, read
from fastseg.errors import NiftiError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """Describe one fault of one file.

    kind: "missing-modality", "missing-label", "unreadable", "shape", "affine", "labels",
    "non-finite", "empty" or "constant". message: what it was and what was wanted.
    """

    path: Path
    kind: str
    message: str


def check(
    dataset, *, progress: Callable[[int, int], None] | None = None, threads: int | None = None
) -> list[Problem]:
    """List the faults of a data set, in the order of its cases; empty when all is well.

    Args:
        dataset: a `cases.Dataset`.
        progress: called as progress(cases done, cases in all) after each case.
        threads: that decode; default: one per core, at most 8.

    >>> from fastseg.data import phantom
    >>> from fastseg.data.cases import discover
    >>> dataset = discover(phantom.write("phantoms", cases=2, size=(24, 24, 24)))
    >>> check(dataset)
    []
    >>> dataset.cases[1].images["t2"].unlink()
    >>> [(problem.path.name, problem.kind) for problem in check(dataset)]
    [('Phantom00001_t2.nii.gz', 'missing-modality')]
    """
    local, total, problems, filled = threading.local(), len(dataset.cases), [], []
    # Descriptions list unlabelled cases on purpose, folders show them only by what is beside them.
    folders = dataset.layout.startswith("brats")
    labelled = {_group(case) for case in dataset.cases if case.label is not None and folders}

    def examine(case: Case) -> list[Problem]:
        # a buffer for each thread: reading into one again overwrites the volume before
        if not hasattr(local, "buffer"):
            local.buffer = Buffer()
        found = list(_case_problems(case, dataset.scheme, local.buffer, filled))
        if case.label is None and _group(case) in labelled:
            folder = next(iter(case.images.values())).parent
            found.append(Problem(folder, "missing-label", "no label, other cases here have one"))
        return found

    with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
        for done, found in enumerate(pool.map(examine, dataset.cases), 1):
            problems += found
            if progress:
                progress(done, total)
    if filled and not any(filled):
        text = f"{_all(len(filled), 'label')} background alone; wanted something to segment"
        problems.append(Problem(Path(dataset.root), "labels", text))
    return problems


def _all(count: int, thing: str) -> str:
    return f"the only {thing} holds" if count == 1 else f"all {count} {thing}s hold"


def _group(case: Case) -> Path:
    """Return the folder of the case folders, which tells a labelled from an unlabelled part."""
    return next(iter(case.images.values())).parent.parent


def _case_problems(
    case: Case, scheme: LabelScheme, buffer: Buffer, filled: list[bool]
) -> Iterator[Problem]:
    reference = None
    files = [*case.images.items(), *([("label", case.label)] if case.label else [])]
    for role, path in files:
        if not path.exists():
            kind = "missing-label" if role == "label" else "missing-modality"
            yield Problem(path, kind, f"case {case.id} has no {role}")
            continue
        try:
            volume = read(path, buffer=buffer)
        except NiftiError as error:
            yield Problem(path, "unreadable", error.reason)
            continue
        if not volume.header.forms_agree():
            log.warning("%s: qform and sform differ, the sform is used", path)
        reference = reference or volume.header
        if found := grid_difference(volume.header, reference):
            kind, text = found
            yield Problem(path, kind, text.removeprefix(f"{kind} "))
        if role == "label":
            yield from _label_problems(volume, scheme, filled)
        else:
            yield from _image_problems(volume)


def _image_problems(volume: Volume) -> Iterator[Problem]:
    path, data = volume.header.path, volume.data
    if data.dtype.kind == "f" or volume.header.scaled:
        data = volume.scaled(np.float32)
        if bad := data.size - np.count_nonzero(np.isfinite(data)):
            yield Problem(path, "non-finite", f"{bad} voxels are NaN or infinite")
            return
    low, high = data.min(), data.max()
    if low == high:
        kind = "constant" if low else "empty"
        yield Problem(path, kind, f"every voxel is {low}")


def _label_problems(volume: Volume, scheme: LabelScheme, filled: list[bool]) -> Iterator[Problem]:
    values = volume.scaled(np.float32) if volume.header.scaled else volume.data
    try:
        filled.append(bool(scheme.to_classes(values).any()))
    except ValueError as error:
        yield Problem(volume.header.path, "labels", str(error))
