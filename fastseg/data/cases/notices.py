"""Tell a user what to know of a data set before training on it, in lines for the log."""

import logging
import math
import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fastseg.data.cases.bounds import linked
from fastseg.data.cases.dataset import Dataset
from fastseg.data.nifti import read_header
from fastseg.errors import NiftiError

NO_LABEL = "its case has no label"  # a reason not to take a file
_NAMED = 3  # files
log = logging.getLogger("fastseg")


def warn(dataset: Dataset, split: Mapping[str, Sequence[str]], patch: Sequence[int]) -> None:
    """Log what `unused`, `nobody` and `too_small` say of a split data set."""
    for line in (*unused(dataset), *nobody(split), *too_small(dataset, split["train"], patch)):
        log.warning(line)


def nobody(split: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Say which part of a split has no cases, and what will be missing for it.

    >>> list(nobody({"train": ["a"], "val": [], "test": ["b"]}))
    ['the split has no val patients: nothing is validated, and no checkpoint is the best']
    """
    missing = {"val": "nothing is validated, and no checkpoint is the best",
               "test": "`sample --part test` will find nobody"}  # fmt: skip
    for part, consequence in missing.items():
        if not split.get(part):
            yield f"the split has no {part} patients: {consequence}"


def unused(dataset: Dataset) -> Iterator[str]:
    """Say which NIfTI files of the folder are not taken: a line for each reason, with a few names;
    and that some which are taken lie elsewhere.

    >>> from fastseg.data import phantom
    >>> from fastseg.data.cases import discover
    >>> folder = phantom.write("phantoms", cases=1, size=(24, 24, 24))
    >>> _ = (folder / "Phantom00000" / "atlas.nii.gz").write_bytes(b"")
    >>> list(unused(discover(folder)))
    ['phantoms: 1 NIfTI file is not taken (no known modality ...): Phantom00000/atlas.nii.gz']
    """
    reasons: dict[str, list[Path]] = {}
    for path, reason in dataset.unused:
        reasons.setdefault(reason, []).append(path)
    for reason, paths in reasons.items():
        names = ", ".join(os.path.relpath(path, _folder(dataset)) for path in paths[:_NAMED])
        more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
        files = "1 NIfTI file is" if len(paths) == 1 else f"{len(paths)} NIfTI files are"
        yield f"{dataset.root}: {files} not taken ({reason}): {names}{more}"
    files = (path for case in dataset.cases for path in (*case.images.values(), case.label) if path)
    if line := linked(_folder(dataset), files):
        yield line


def too_small(dataset: Dataset, ids: Sequence[str], patch: Sequence[int]) -> Iterator[str]:
    """Say where a patch is larger than volumes of the cases `ids`; nothing where none is.

    Args:
        dataset: that the cases are of.
        ids: the training cases.
        patch: (H, W) or (D, H, W), in voxels.

    >>> from fastseg.data import phantom
    >>> from fastseg.data.cases import discover
    >>> dataset = discover(phantom.write("phantoms", cases=1, size=(24, 24, 24)))
    >>> list(too_small(dataset, ["Phantom00000"], (32, 32)))
    ['data.patch: 32x32 is larger than 1 of 1 training volumes (z, y, x: 24x24x24 the smallest); ...
    """
    shapes, wanted = [], set(ids)
    for case in dataset.cases:
        if case.id not in wanted:
            continue
        try:
            shapes.append(read_header(next(iter(case.images.values()))).shape)
        except NiftiError:
            continue  # the loader says what is wrong
    small = [s for s in shapes if any(map(operator.lt, s[-len(patch) :], patch))]
    if small:
        least = _sizes(min(small, key=math.prod))
        yield (
            f"data.patch: {_sizes(patch)} is larger than {len(small)} of {len(shapes)} training "
            f"volumes (z, y, x: {least} the smallest); they are padded with background"
        )


def _sizes(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _folder(dataset: Dataset) -> Path:
    return dataset.root if dataset.root.is_dir() else dataset.root.parent
