"""The folder of predictions that `fastseg sample` or another program wrote: which file is of which
case, and what was noted beside them.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fastseg.data import cases
from fastseg.data.cases.layouts import canonical
from fastseg.errors import DataError, UsageError, offered
from fastseg.tasks.base import RECORD, Criteria

log = logging.getLogger("fastseg")
SUFFIXES = ("_pred.nii.gz", "_seg.nii.gz", "_pred.nii", "_seg.nii", ".nii.gz", ".nii")
MISSING_RULES = ("skip", "empty", "error")
ALL_EMPTY = "%d of %d predictions are empty (nothing but background)"


def to_score(folder: Path, data, criteria: Criteria):
    """Find the data set, the predictions to score by case id, None for empty ones, and absent ids.

    Errors are those of `fastseg.evaluate.evaluate`.
    """
    missing = criteria.missing
    if missing not in MISSING_RULES:
        raise UsageError(f"missing: got {missing!r}, want one of {', '.join(MISSING_RULES)}")
    dataset = labelled(data, noted_region(folder, criteria.region))
    found, absent = _match(folder, dataset, criteria.cases)
    if absent and missing == "error":
        raise DataError(f"{folder}: no prediction for {', '.join(absent)}")
    if missing == "empty":
        found.update(dict.fromkeys(absent))
    return dataset, found, absent


def check_different(modalities: Sequence[str]) -> None:
    """Raise UsageError unless there are some, all different."""
    if not modalities or len(set(modalities)) < len(modalities):
        raise UsageError(f"modalities: is {', '.join(modalities)!r}, wanted different names")


def check_shown(folder: Path, name: str) -> None:
    """Raise DataError unless a folder holds predictions from the modality `name` alone."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; `fastseg sample --modalities {name}` makes it")
    try:
        path = folder / RECORD
        shown = json.loads(path.read_text()).get("modalities", [name]) if path.exists() else [name]
    except (ValueError, AttributeError):
        raise DataError(
            f"{path}: is empty or damaged; wanted what `fastseg sample` wrote"
        ) from None
    if [*map(canonical, shown)] != [canonical(name)]:
        raise DataError(f"{folder}: holds predictions from {', '.join(shown)}, wanted {name}")


def labelled(data, region: str | None):
    """Find the data set to score against, its classes merged to `region` if there is one."""
    if not isinstance(data, cases.Dataset):
        return cases.discover(data, require_labels=True, region=region)
    if region is None or data.scheme.merged:
        return data
    return replace(data, scheme=data.scheme.alone(region))


def noted_region(folder: Path, region: str | None) -> str | None:
    """Tell which region predictions are of: what was asked for, or what was noted beside them."""
    path = folder / RECORD
    try:
        noted = json.loads(path.read_text()).get("region") if path.exists() else None
    except (ValueError, AttributeError):
        noted = None  # another program's file, or ours that was emptied
        log.warning("%s: is empty or damaged; its predictions are taken for those of all classes "
                    "(--region says otherwise)", path)  # fmt: skip
    if region and noted and region != noted:
        raise UsageError(f"region: is {region}, but {folder} holds predictions of {noted}")
    return region or noted


def find_prediction(folder: Path, case_id: str) -> Path | None:
    """Find the case's label map in a folder, under the first of `SUFFIXES` it has."""
    candidates = (folder / f"{case_id}{suffix}" for suffix in SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def _match(folder: Path, dataset, wanted) -> tuple[dict[str, Path | None], list[str]]:
    """Prediction file by case id, and the ids that have none."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: is not a folder of predictions")
    known = [case.id for case in dataset.cases if case.label is not None]
    if unknown := sorted(set(wanted or ()) - set(known)):
        there = offered(unknown[0], known)
        raise UsageError(f"{dataset.root}: no labelled case {', '.join(unknown[:5])}{there}")
    ids = known if wanted is None else list(wanted)
    found = {}
    for case_id in ids:
        if path := find_prediction(folder, case_id):
            found[case_id] = path
    if not found:
        raise DataError(
            f"{folder}: no prediction for any of {len(ids)} labelled cases in {dataset.root}; "
            f"want files such as {ids[0] if ids else 'CASE'}_pred.nii.gz"
        )
    return found, [case_id for case_id in ids if case_id not in found]
