"""The folder of predictions that `fastseg sample` or another program wrote: which file is of which
case, and what was noted beside them.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fastseg.errors import DataError, UsageError, offered

SUFFIXES = ("_pred.nii.gz", "_seg.nii.gz", "_pred.nii", "_seg.nii", ".nii.gz", ".nii")
RECORD = "sample.json"  # of what `fastseg sample` predicted
MISSING_RULES = ("skip", "empty", "error")
ALL_EMPTY = "%d of %d predictions are empty (nothing but background)"


def plan(folder: Path, data, wanted: Sequence[str] | None, missing: str, region: str | None):
    """The data set, the predictions to score by case id, None for empty ones, and absent ids.

    Arguments and errors are those of `fastseg.evaluate.evaluate`.
    """
    if missing not in MISSING_RULES:
        raise UsageError(f"missing: got {missing!r}, want one of {', '.join(MISSING_RULES)}")
    dataset = labelled(data, noted_region(folder, region))
    found, absent = _match(folder, dataset, wanted)
    if absent and missing == "error":
        raise DataError(f"{folder}: no prediction for {', '.join(absent)}")
    if missing == "empty":
        found.update(dict.fromkeys(absent))
    return dataset, found, absent


def labelled(data, region: str | None):
    """The data set to score against, its classes merged to `region` if there is one."""
    from fastseg.data import cases

    if not isinstance(data, cases.Dataset):
        return cases.discover(data, require_labels=True, region=region)
    if region is None or data.scheme.merged:
        return data
    return replace(data, scheme=data.scheme.alone(region))


def noted_region(folder: Path, region: str | None) -> str | None:
    """The region that predictions are of: what was asked for, or what was noted beside them."""
    path = folder / RECORD
    try:
        noted = json.loads(path.read_text()).get("region") if path.exists() else None
    except (ValueError, AttributeError):
        noted = None  # another program's file
    if region and noted and region != noted:
        raise UsageError(f"region: is {region}, but {folder} holds predictions of {noted}")
    return region or noted


def find_prediction(folder: Path, case_id: str) -> Path | None:
    """The case's label map in a folder of predictions, under the first of `SUFFIXES` it has."""
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
