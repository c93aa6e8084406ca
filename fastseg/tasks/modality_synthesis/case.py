"""What is there of one case, and the record of what was synthesised of it."""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fastseg.data import nifti
from fastseg.data.cases import Case, Dataset
from fastseg.data.cases.layouts import canonical
from fastseg.data.pipeline import augment
from fastseg.data.pipeline.decode import locate, read_case
from fastseg.data.pipeline.intensity import Rule
from fastseg.errors import DataError, UsageError

log = logging.getLogger("fastseg")
NOTES = "synthesis.json"  # CASE_ before it: processes that share the cases out share no file
EVERY = "every"


@dataclass(frozen=True)
class Known:
    """What is there of one case: image float32 (M, D, H, W) in −1 … 1, lowest where a modality is
    absent; available (M,) bool; brain (D, H, W) bool, where any image is not 0; scales (M, 2)
    stored intensities at −1 and 1, NaN for absent ones; the first file's header.
    """

    image: np.ndarray
    available: np.ndarray
    brain: np.ndarray
    scales: np.ndarray
    header: nifti.Header


def load_known(case: Case, modalities: Sequence[str], rule: Rule) -> Known:
    """Read the files that a case has, normalised as training batches are. DataError without any."""
    names = case.there(modalities)
    there = np.isin(modalities, names)
    if not names:
        raise DataError(f"case {case.id}: has none of {', '.join(modalities)}")
    case = replace(case, label=None)
    raw = read_case(case, names)
    rows = rule.rows(locate(raw, case, rule).stats)
    shape = len(modalities), *raw.images[0].shape
    image = np.full(shape, rule.value_range[0], np.float32)
    scales = np.full((len(modalities), 2), np.nan)
    for place, volume, row in zip(np.flatnonzero(there), raw.images, rows.T, strict=True):
        augment.normalise(volume, row[:, None, None, None], rule.of_zero, image[place])
        scales[place] = row[:2]
    brain = np.logical_or.reduce([volume != 0 for volume in raw.images])
    return Known(image, there, brain, scales, raw.header)


def trainable(dataset: Dataset, rule: Rule, with_labels: bool) -> Dataset:
    """Keep complete cases for training, without labels where none are wanted.

    UsageError for a rule that does not map to −1 … 1; DataError where no case is complete.
    """
    if rule.name not in ("percentile", "window") or tuple(rule.value_range) != (-1, 1):
        raise UsageError(
            f"data.normalise: is {rule.name} to {rule.value_range}; synthesis wants percentile or "
            "window with data.value_range=-1,1"
        )
    complete = [case for case in dataset.cases if case.complete]
    if not complete:
        raise DataError(f"{dataset.root}: no case has all of {', '.join(dataset.modalities)}")
    if left := len(dataset.cases) - len(complete):
        log.warning("%s: %d cases lack a modality and do not train", dataset.root, left)
    if not with_labels:
        complete = [replace(case, label=None) for case in complete]
    return replace(dataset, cases=tuple(complete))


def readable(cases: Iterable[Case], modalities: Sequence[str], rule: Rule) -> Iterator[Known]:
    """Load each case that has all modalities, with a warning for each other one."""
    for case in cases:
        try:
            known = load_known(case, modalities, rule)
        except DataError as error:
            log.warning("left out: %s", error)
            continue
        if known.available.all():
            yield known
        else:
            log.warning("left out: case %s lacks a modality", case.id)


def check_hidden(hide: Sequence[str], modalities: Sequence[str]) -> tuple[str, ...]:
    """Give the usual names of modalities to hide.

    UsageError for names that the network does not know, or all that it knows.
    """
    names = tuple(map(canonical, hide))
    if names != (EVERY,) and not set(names) < set(modalities):
        raise UsageError(
            f"hide: is {', '.join(hide)}; wanted {EVERY}, or some but not all of "
            f"{', '.join(modalities)}"
        )
    return names


def read_record(folder: Path, case_id: str = "*") -> dict[str, dict]:
    """Read what was noted of synthesised files in a folder, by file name: of one case or of all."""
    rows = {}
    for path in sorted(folder.glob(f"{case_id}_{NOTES}")):
        try:
            rows |= json.loads(path.read_text())
        except ValueError as error:
            raise DataError(f"{path}: is not JSON ({error})") from None
    return rows
