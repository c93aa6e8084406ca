"""Scores of label maps against the true ones: Dice, IoU and HD95 of regions and classes."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fastseg import metrics
from fastseg.data.cases.labels import read_classes
from fastseg.data.cases.notices import NO_LABEL
from fastseg.data.geometry import grid_difference
from fastseg.errors import DataError
from fastseg.pictures.tables import Table, number
from fastseg.tasks.base import Criteria, Report, Scoring
from fastseg.tasks.segmentation.files import ALL_EMPTY, to_score

_EMPTY, _BLANK = "empty", "blank"  # prediction, truth; of a row while it is one process's
MANY_CLASSES = 5
MEASURES = {"dice": "Dice", "iou": "IoU", "hd95_mm": "HD95"}
CONVENTIONS = {
    "dice, iou": "whole volume; both empty 1, one empty 0",
    "hd95_mm": f"surface voxels, mm; both empty 0, one empty {metrics.HD95_PENALTY_MM}",
    "legacy_slice_dice": "mean over axial slices and foreground classes; absent from both 0.5",
}


class LabelMapScoring(Scoring):
    """The predictions of a folder that are to be scored. DataError and UsageError as
    `fastseg.evaluate.evaluate` has them.
    """

    def __init__(self, folder: Path, data, criteria: Criteria):
        self.folder, self.criteria = folder, criteria
        self.dataset, found, self.absent = to_score(folder, data, criteria)
        self.work = {case_id: (case_id, path) for case_id, path in sorted(found.items())}

    def score(self, item: tuple[str, Path | None]) -> dict:
        """Measure one case; a prediction that is None is empty."""
        case_id, path = item
        label = self.dataset.by_id(case_id).label
        true, header = read_classes(label, self.dataset.scheme)
        pred = np.zeros_like(true)
        if path is not None:
            pred, own = read_classes(path, self.dataset.scheme)
            if found := grid_difference(own, header):
                raise DataError(f"{path}: {found[1]}")
        row = score_case(pred, true, self.dataset.scheme, header.spacing_mm)
        return {"case": case_id} | row | {_EMPTY: not pred.any(), _BLANK: not true.any()}

    def report(self, rows: list[dict]) -> Report:
        """Sum up; the means are over cases."""
        empty, blank = (all([row.pop(key) for row in rows]) for key in (_EMPTY, _BLANK))
        mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0] if key != "case"}
        scheme = self.dataset.scheme
        columns = {"regions": tuple(scheme.regions), "classes": tuple(scheme.classes[1:])}
        document = {"conventions": CONVENTIONS}
        document |= {name: list(found) for name, found in columns.items()}
        document |= {"mean": mean, "cases": rows, "missing": self.absent}
        lines = [*rows, {"case": "mean", **mean}]
        text = _text(lines, **columns)
        warning = f"{self.folder}: {ALL_EMPTY % (len(rows), len(rows))}" if empty else None
        if blank:
            warning = f"{self.dataset.root}: all {len(rows)} labels are empty (nothing but "
            warning += "background): an empty prediction scores 1, any other 0"
        return Report(rows, mean, self.absent, text, document, columns,
                      lines=lines, notes=self._notes(), warning=warning)  # fmt: skip

    def _notes(self) -> list[str]:
        files = sum(why == NO_LABEL for _, why in self.dataset.unused)
        bare = math.ceil(files / len(self.dataset.modalities))
        notes = [f"cases without a label, which are not scored: {bare}"] if bare else []
        if not self.absent:
            return notes
        rule = {"skip": "left out", "empty": "scored as empty"}[self.criteria.missing]
        names = ", ".join(self.absent[:5]) + (" …" if len(self.absent) > 5 else "")
        return [*notes, f"no prediction for {len(self.absent)} labelled cases ({rule}): {names}"]


def score_case(pred: np.ndarray, true: np.ndarray, scheme, spacing_mm: Sequence[float]) -> dict:
    """Measure one patient from class indices (D, H, W).

    Gives "dice_WT", "iou_WT", "hd95_mm_WT" and so on for every region, "dice_class_NCR" and so on
    for every class, "dice_regions" (the mean of regions, of classes where a scheme has no regions)
    and "legacy_slice_dice".
    """
    row = {}
    pred_regions = metrics.region_masks(pred, scheme.classes, scheme.regions)
    true_regions = metrics.region_masks(true, scheme.classes, scheme.regions)
    for name in scheme.regions:
        row.update(_scores(name, pred_regions[name], true_regions[name], spacing_mm))
    for index, name in enumerate(scheme.classes[1:], 1):
        row.update(_scores(f"class_{name}", pred == index, true == index, spacing_mm))
    names = [f"dice_{name}" for name in scheme.regions]
    names = names or [f"dice_class_{name}" for name in scheme.classes[1:]]
    row["dice_regions"] = float(np.mean([row[name] for name in names]))
    row["legacy_slice_dice"] = metrics.legacy_slice_dice(pred, true, len(scheme.classes))
    return row


def _scores(name: str, pred: np.ndarray, true: np.ndarray, spacing_mm: Sequence[float]) -> dict:
    return {
        f"dice_{name}": metrics.dice(pred, true),
        f"iou_{name}": metrics.iou(pred, true),
        f"hd95_mm_{name}": metrics.hd95_mm(pred, true, spacing_mm),
    }


def region_dice(scheme, classes: np.ndarray, truth: np.ndarray) -> float:
    """Average the Dice over regions; over foreground classes where the scheme has no regions."""
    regions = scheme.regions or {name: (name,) for name in scheme.classes[1:]}
    found = metrics.region_masks(classes, scheme.classes, regions)
    wanted = metrics.region_masks(truth, scheme.classes, regions)
    return float(np.mean([metrics.dice(found[name], wanted[name]) for name in regions]))


def by_modality(reports: Mapping[str, Report]) -> Report:
    """Sum up reports of single modalities: a line each, the mean Dice over patients, of the regions
    and of each.
    """
    regions = next(iter(reports.values())).regions
    means = {name: report.mean for name, report in reports.items()}
    keys = ["dice_regions", *(f"dice_{region}" for region in regions)]
    cells = [[name, *(number(mean[key]) for key in keys)] for name, mean in means.items()]
    text = Table("", ["modality", "mean", *regions], cells).text()
    rows = [row | {"modality": name} for name, report in reports.items() for row in report.rows]
    missing = [case for report in reports.values() for case in report.missing]
    mean = {key: float(np.mean([mean[key] for mean in means.values()])) for key in keys}
    columns = {"regions": regions}
    return Report(rows, mean, missing, text, means, columns, {"modality": means})


def _text(rows: list[dict], regions: Sequence[str], classes: Sequence[str]) -> str:
    """Two tables, regions and classes, a line a patient, the last one their mean.

    Of many classes, such as the organs of an abdomen, the patients' Dice comes first, then a line a
    class with the means of all measures.
    """
    if len(classes) <= MANY_CLASSES:
        by_region = {f"{t} {n}": f"{m}_{n}" for m, t in MEASURES.items() for n in regions}
        by_class = {f"{t} {n}": f"{m}_class_{n}" for m, t in MEASURES.items() for n in classes}
        tables = [
            _table("regions", rows, by_region | {"Dice mean": "dice_regions"}),
            _table("classes", rows, by_class | {"slice Dice": "legacy_slice_dice"}),
        ]
        shown = [bool(regions), bool(classes)]
        return "\n\n".join(t for t, some in zip(tables, shown, strict=True) if some)
    dice = {n: f"dice_{n}" for n in regions} or {n: f"dice_class_{n}" for n in classes}
    patients = _table("Dice", rows, dice | {"mean": "dice_regions"})
    return f"{patients}\n\n{_class_table(rows[-1], classes)}"


def _class_table(mean: dict, classes: Sequence[str]) -> str:
    rows = [{"case": n} | {m: mean[f"{m}_class_{n}"] for m in MEASURES} for n in classes]
    means = {m: float(np.mean([row[m] for row in rows])) for m in MEASURES}
    columns = {title: measure for measure, title in MEASURES.items()}
    return _table("classes", [*rows, {"case": "mean", **means}], columns)


def _table(name: str, rows: list[dict], columns: dict[str, str]) -> str:
    cells = [
        [row["case"], *(number(row[k], 1 if k.startswith("hd95") else 3) for k in columns.values())]
        for row in rows
    ]
    return Table("", [name, *columns], cells).text(totals=1)


def table_of(found: Mapping) -> Table:
    """Make a table, for a page, of what evaluation.json holds."""
    regions = found["regions"]
    keys = [f"dice_{r}" for r in regions] + ["dice_regions", "legacy_slice_dice"]
    keys += [f"hd95_mm_{r}" for r in regions]
    rows = [*found["cases"], {"case": "mean", **found["mean"]}]
    cells = [[row["case"], *(number(row[key]) for key in keys)] for row in rows]
    return Table("Scores", ["case", *keys], cells)
