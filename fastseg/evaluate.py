"""Score a folder of predicted segmentations against a labelled data set, patient by patient.

fastseg evaluate PREDICTIONS --data DATA
torchrun --nproc-per-node 4 -m fastseg evaluate PREDICTIONS --data DATA --out SCORES
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastseg import metrics
from fastseg.data.cases.labels import read_classes
from fastseg.data.geometry import grid_difference
from fastseg.errors import DataError
from fastseg.host.files import write_csv, write_json
from fastseg.host.processes import company
from fastseg.host.shares import score_all
from fastseg.tasks.segmentation.predictions import ALL_EMPTY, plan

log = logging.getLogger("fastseg")
_EMPTY = "empty"  # of a row while it is one of several processes'
MANY_CLASSES = 5
MEASURES = {"dice": "Dice", "iou": "IoU", "hd95_mm": "HD95"}
CONVENTIONS = {
    "dice, iou": "whole volume; both empty 1, one empty 0",
    "hd95_mm": f"surface voxels, mm; both empty 0, one empty {metrics.HD95_PENALTY_MM}",
    "legacy_slice_dice": "mean over axial slices and foreground classes; absent from both 0.5",
}


@dataclass(frozen=True)
class Report:
    """Scores per patient and their means.

    rows: one dict a patient: "case", "dice_WT", "iou_WT", "hd95_mm_WT" (and so on for every
    region), "dice_class_NCR" … for every class, "dice_regions" (their mean; over classes where a
    scheme has no regions), "legacy_slice_dice". mean: the same keys, less "case", over the rows.
    missing: ids of the patients without a prediction.
    """

    rows: list[dict]
    mean: dict[str, float]
    missing: list[str]
    regions: tuple[str, ...]
    classes: tuple[str, ...]

    def to_dict(self) -> dict:
        """JSON-able form, with the conventions that the figures follow."""
        return {
            "conventions": CONVENTIONS,
            "regions": list(self.regions),
            "classes": list(self.classes),
            "mean": self.mean,
            "cases": self.rows,
            "missing": self.missing,
        }

    def table(self) -> str:
        """Two plain-text tables, regions and classes, one line a patient and one for the mean.

        Of many classes, such as the organs of an abdomen, the patients' Dice comes first, then one
        line a class with the means of all measures.
        """
        rows = [*self.rows, {"case": "mean", **self.mean}]
        if len(self.classes) > MANY_CLASSES:
            return f"{self._dice_table(rows)}\n\n{self._class_table()}"
        regions = [(f"{t} {n}", f"{m}_{n}") for m, t in MEASURES.items() for n in self.regions]
        classes = [
            (f"{t} {n}", f"{m}_class_{n}") for m, t in MEASURES.items() for n in self.classes
        ]
        blocks = [
            [("regions", "case"), *regions, ("Dice mean", "dice_regions")],
            [("classes", "case"), *classes, ("slice Dice", "legacy_slice_dice")],
        ]
        return "\n\n".join(_columns(rows, block) for block in blocks if len(block) > 2)

    def _dice_table(self, rows: list[dict]) -> str:
        dice = [(n, f"dice_{n}") for n in self.regions]
        dice = dice or [(n, f"dice_class_{n}") for n in self.classes]
        return _columns(rows, [("Dice", "case"), *dice, ("mean", "dice_regions")])

    def _class_table(self) -> str:
        rows = [
            {"case": n} | {f"{m}_class": self.mean[f"{m}_class_{n}"] for m in MEASURES}
            for n in self.classes
        ]
        means = {
            key: float(np.mean([row[key] for row in rows])) for key in rows[0] if key != "case"
        }
        columns = [(title, f"{measure}_class") for measure, title in MEASURES.items()]
        return _columns([*rows, {"case": "mean", **means}], [("classes", "case"), *columns])


def evaluate(
    predictions: str | Path,
    data,
    out: str | Path | None = None,
    *,
    cases: Sequence[str] | None = None,
    missing: str = "skip",
    region: str | None = None,
    threads: int | None = None,
    quiet: bool = False,
) -> Report:
    """Score the predictions of a data set and print the table.

    Started by torchrun or srun, each process scores its share of the cases; all must call this and
    return the same report, the first prints and writes it, and an error of one is raised in all.

    predictions: folder with CASE_pred.nii.gz, CASE_seg.nii.gz or CASE.nii.gz (or .nii) files.
    data: data set folder, or a fastseg.data.cases.Dataset; only its labelled cases count.
    out: folder for evaluation.csv and evaluation.json, or None.
    cases: ids to score, default all. missing: "skip" leaves patients without a prediction out of
    the means and lists them, "empty" scores them as an empty prediction, "error" refuses.
    region: score this one alone, its classes merged in predictions and truth; by default the one
    that `fastseg sample` noted beside the predictions, if any.
    quiet: print neither the table nor progress.
    Raises DataError, naming the file, for a prediction whose shape, affine or label values differ
    from the data set's, and when there is no prediction at all; UsageError for a bad argument.
    """
    with company() as processes:
        dataset, found, absent = processes.each(
            lambda: plan(Path(predictions), data, cases, missing, region)
        )

        def score(item: tuple[str, Path | None]) -> dict:
            case_id, path = item
            label = dataset.by_id(case_id).label
            return {"case": case_id, **_score_files(path, label, dataset.scheme)}

        work = {case_id: (case_id, path) for case_id, path in sorted(found.items())}
        rows = score_all(work, score, processes, threads, quiet)
        if all([row.pop(_EMPTY) for row in rows]) and processes.place.rank == 0:
            log.warning("%s: " + ALL_EMPTY, predictions, len(rows), len(rows))
        report = _summary(rows, absent, dataset.scheme)
        processes.first(lambda: _publish(report, missing, out, quiet))
    return report


def score_case(pred: np.ndarray, true: np.ndarray, scheme, spacing_mm: Sequence[float]) -> dict:
    """All scores of one patient from class indices (D, H, W); keys as in `Report.rows`."""
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


def _summary(rows: list[dict], absent: list[str], scheme) -> Report:
    keys = [key for key in rows[0] if key != "case"]
    mean = {key: float(np.mean([row[key] for row in rows])) for key in keys}
    return Report(rows, mean, absent, tuple(scheme.regions), tuple(scheme.classes[1:]))


def _publish(report: Report, missing: str, out: str | Path | None, quiet: bool) -> None:
    if not quiet:
        _print(report, missing)
    if out is not None:
        _save(report, Path(out))


def _print(report: Report, missing: str) -> None:
    print(report.table())
    if report.missing:
        rule = {"skip": "left out", "empty": "scored as empty"}[missing]
        names = ", ".join(report.missing[:5]) + (" …" if len(report.missing) > 5 else "")
        print(f"\nno prediction for {len(report.missing)} labelled cases ({rule}): {names}")


def _score_files(prediction: Path | None, label: Path, scheme) -> dict:
    true, header = read_classes(label, scheme)
    if prediction is None:
        pred = np.zeros_like(true)
        return score_case(pred, true, scheme, header.spacing_mm) | {_EMPTY: True}
    pred, pred_header = read_classes(prediction, scheme)
    if found := grid_difference(pred_header, header):
        raise DataError(f"{prediction}: {found[1]}")
    return score_case(pred, true, scheme, header.spacing_mm) | {_EMPTY: not pred.any()}


def _save(report: Report, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / "evaluation.csv", [*report.rows, {"case": "mean", **report.mean}])
    write_json(out / "evaluation.json", report.to_dict())


def _columns(rows: list[dict], columns: list[tuple[str, str]]) -> str:
    lines = [[title for title, _ in columns]]
    lines += [[_figure(row[key], key) for _, key in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    ]
    rule = "-" * len(texts[0])
    return "\n".join([texts[0], rule, *texts[1:-1], rule, texts[-1]])


def _figure(value: float | str, key: str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.1f}" if key.startswith("hd95") else f"{value:.3f}"
