"""Split cases by patient: draw from a seed, save, and refuse what leaks."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastseg.errors import DataError, UsageError
from fastseg.host.files import write_json

PARTS = ("train", "val", "test")
LABELLED = "labelled"  # those of train whose labels are used, where not all are


def split_cases(
    dataset, seed: int, fractions: Sequence[float] = (0.7, 0.2, 0.1)
) -> dict[str, list[str]]:
    """Draw the case ids of "train", "val" and "test", by patient.

    Train and val get the whole part of their share, test the rest: 875, 250 and 126 of 1,251. A
    part that would stay empty takes a patient from one that has more than its share to spare.
    Only labelled cases take part unless none is labelled.

    Args:
        dataset: a `cases.Dataset`.
        seed: 0 or more; the same seed and patients give the same split.
        fractions: shares of the patients for train, val and test, with sum 1.

    Raises:
        UsageError: fractions that are not three shares with sum 1.

    >>> from fastseg.data import phantom
    >>> from fastseg.data.cases import discover
    >>> dataset = discover(phantom.write("phantoms", cases=4, size=(24, 24, 24)))
    >>> split = split_cases(dataset, seed=0, fractions=(0.5, 0.25, 0.25))
    >>> {name: len(ids) for name, ids in split.items()}
    {'train': 2, 'val': 1, 'test': 1}
    """
    fractions = tuple(fractions)
    if len(fractions) != 3 or min(fractions) < 0 or not math.isclose(sum(fractions), 1):
        raise UsageError(f"split fractions {fractions} should be three shares that sum to 1")
    labelled = [case for case in dataset.cases if case.label is not None]
    by_patient: dict[str, list[str]] = {}
    for case in labelled or dataset.cases:
        by_patient.setdefault(case.patient, []).append(case.id)
    patients = sorted(by_patient)
    order = np.random.default_rng((seed, len(PARTS))).permutation(len(patients))
    ends = np.cumsum(_counts(len(patients), fractions))
    parts = np.split(order, ends[:-1])
    return {
        name: sorted(case for i in part for case in by_patient[patients[i]])
        for name, part in zip(PARTS, parts, strict=True)
    }


def save_split(path: str | Path, split: dict[str, list[str]]) -> None:
    """Write a split as JSON, whole or not at all.

    >>> save_split("split.json", {"train": ["a"], "val": [], "test": ["b"]})
    """
    write_json(Path(path), split)


def load_split(path: str | Path, dataset) -> dict[str, list[str]]:
    """Read a saved split of `dataset`; "labelled", a part of train, may stand next to the parts.

    Raises:
        DataError: the file is no split, names unknown cases, or has a case or patient in more than
            one part: scores on such a split are worthless.

    >>> from fastseg.data import phantom
    >>> from fastseg.data.cases import discover
    >>> dataset = discover(phantom.write("phantoms", cases=4, size=(24, 24, 24)))
    >>> split = split_cases(dataset, seed=0)
    >>> save_split("split.json", split)
    >>> load_split("split.json", dataset) == split
    True
    """
    try:
        split = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a saved split ({error})") from error
    known = isinstance(split, dict) and set(split) - {LABELLED} == set(PARTS)
    lists = list(split.values()) if known else [None]
    if not all(isinstance(ids, list) and all(isinstance(i, str) for i in ids) for ids in lists):
        raise DataError(f"{path}: a split should hold the lists of ids {', '.join(PARTS)}")
    patients = {case.id: case.patient for case in dataset.cases}
    part_of: dict[str, str] = {}
    if not set(split.get(LABELLED, [])) <= set(split["train"]):
        raise DataError(f"{path}: {LABELLED} lists cases that are not in train")
    for part in PARTS:
        ids = split[part]
        for case_id in ids:
            if case_id not in patients:
                raise DataError(f"{path}: {case_id!r} in {part} is no case of {dataset.root}")
            if part_of.setdefault(patients[case_id], part) != part:
                other = part_of[patients[case_id]]
                raise DataError(f"{path}: patient {patients[case_id]} is in {other} and {part}")
        if len(set(ids)) < len(ids):
            raise DataError(f"{path}: a case is listed twice in {part}")
    return split


def _counts(patients: int, fractions: tuple[float, ...]) -> list[int]:
    # 0.7 · 10 must be 7 however the product rounds.
    counts = [math.floor(patients * share + 1e-9) for share in fractions[:2]]
    counts.append(patients - sum(counts))
    for part, share in enumerate(fractions):
        givers = [i for i, count in enumerate(counts) if count > 1 or (part == 0 and count)]
        if share > 0 and counts[part] == 0 and givers:
            giver = max(givers, key=lambda i: counts[i] - patients * fractions[i])
            counts[part], counts[giver] = 1, counts[giver] - 1
    return counts
