"""Scores of synthesised images against the true ones: PSNR and SSIM, by modality and by subset."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fastseg.data import nifti
from fastseg.data.cases import Case, Dataset, discover
from fastseg.data.cases.labels import read_classes
from fastseg.data.geometry import Box, bounding_box, grid_difference
from fastseg.data.pipeline.statistics import statistics
from fastseg.errors import DataError, UsageError, offered
from fastseg.pictures.tables import Table, number
from fastseg.tasks.base import Criteria, Report, Scoring
from fastseg.tasks.modality_synthesis.case import NOTES, read_record
from fastseg.tasks.modality_synthesis.lpips import Lpips

MEASURES = {
    "psnr": "PSNR", "ssim": "SSIM", "psnr_brain": "PSNR brain",
    "psnr_tumour": "PSNR tumour", "ssim_tumour": "SSIM tumour", "lpips": "LPIPS",
}  # fmt: skip
CONVENTIONS = {
    "range": "both images mapped to 0 … 1 by the 0.5 and 99.5 percentiles of the brain (not 0) of "
    "the volume in DATA, whatever the truth and the predictor, and clipped; where DATA lacks it, "
    "by those of the truth. What was predicted for a case that lacked it, by its recorded scale",
    "psnr": "dB, -10 log10 of the mean squared error of a whole axial slice, at most 100; mean "
    "over the slices that contain brain",
    "ssim": "Gaussian window of 11, sigma 1.5, K1 0.01, K2 0.03; mean over the same slices",
    "psnr_brain": "of all brain voxels of a volume at once",
    "tumour": "in the box around the label, at least 11 voxels wide in the plane; null without one",
    "mean": "over cases and modalities of a subset, then over subsets",
}
_WINDOW = 11
_LEAST_ERROR = 1e-10


class ImageScoring(Scoring):
    """The images of a folder that are to be scored. DataError where none has a true image,
    UsageError for a folder of something else.

    LPIPS is there if its package and weights are; nothing is downloaded.
    """

    def __init__(self, folder: Path, data, criteria: Criteria):
        self.folder, self.truth, self.lpips = folder, criteria.truth, Lpips.at_hand()
        self.dataset = _found(data)
        self.true = self.dataset if criteria.truth is None else _found(criteria.truth)
        self.work, self.missing = self._work(criteria.cases)

    def score(self, item: tuple[Path, dict, Case, Path]) -> dict:
        """Measure one image."""
        path, row, case, image = item
        names = {"given": "+".join(row["given"]), "case": case.id, "modality": row["modality"]}
        return names | _score_file(path, row, case, image, self.dataset.scheme, self.lpips)

    def report(self, rows: list[dict]) -> Report:
        """Sum up; the mean is over the means of subsets."""
        truth = None if self.truth is None else str(self.true.root)
        return summarise(rows, self.missing, truth)

    def _work(self, only: Sequence[str] | None) -> tuple[dict[str, tuple], list[str]]:
        """What to score by file name, and files of which there is no true image."""
        cases = {case.id: case for case in self.dataset.cases}
        images = {case.id: case.images for case in self.true.cases}
        work, missing = {}, []
        for path, row in _predicted(self.folder, only):
            name = str(path.relative_to(self.folder))
            image = images.get(row["case"], {}).get(row["modality"])
            if row["case"] in cases and image is not None and image.exists():
                work[name] = path, row, cases[row["case"]], image
            else:
                missing.append(name)
        if not work:
            raise DataError(
                f"{self.true.root}: has no true image of {len(missing)} synthesised ones"
            )
        return work, missing


def summarise(rows: list[dict], missing: Sequence[str] = (), truth: str | None = None) -> Report:
    """Average rows by subset and by modality; the mean is over the means of subsets.

    missing: images that have no true one. truth: where the true images are, if elsewhere.
    """
    groups = {name: _means_by(name, rows) for name in ("given", "modality")}
    mean = _means(list(groups["given"].values()))
    document = {"task": "synthesis", "conventions": CONVENTIONS, "truth": truth, "mean": mean}
    document |= {f"by_{name}": found for name, found in groups.items()}
    document |= {"rows": rows, "missing": list(missing)}
    notes = [] if truth is None else [f"against the images of {truth}"]
    if missing:
        notes.append(f"no true image of {len(missing)}: {', '.join(missing[:5])}")
    text = _text(groups["given"], groups["modality"], mean)
    return Report(rows, mean, list(missing), text, document, groups=groups, lines=rows, notes=notes)


def _found(data) -> Dataset:
    return data if isinstance(data, Dataset) else discover(data)


def _means(rows: Sequence[dict]) -> dict[str, float | None]:
    columns = {key: [row[key] for row in rows if row[key] is not None] for key in MEASURES}
    return {key: float(np.mean(column)) if column else None for key, column in columns.items()}


def _means_by(key: str, rows: Sequence[dict]) -> dict[str, dict]:
    names = dict.fromkeys(row[key] for row in rows)
    return {name: _means([row for row in rows if row[key] == name]) for name in names}


def _text(given: dict[str, dict], modality: dict[str, dict], mean: dict) -> str:
    """A line for each subset, each modality, and the mean."""
    keys = [key for key in MEASURES if mean[key] is not None]
    named = [*given.items(), *((f"→ {name}", row) for name, row in modality.items())]
    cells = [
        [name, *(number(row[key], 2 if key.startswith("psnr") else 3) for key in keys)]
        for name, row in [*named, ("mean", mean)]
    ]
    return Table("", ["given", *(MEASURES[key] for key in keys)], cells).text()


def score_volume(
    pred: np.ndarray, true: np.ndarray, brain: np.ndarray, label: np.ndarray | None, lpips=None
) -> dict:
    """Measure one volume from images (D, H, W) in 0 … 1; brain, label > 0: where."""
    slices = brain.any((1, 2))
    row = {"psnr": _psnr(pred[slices], true[slices]), "ssim": _ssim(pred[slices], true[slices])}
    error = np.square(pred[brain] - true[brain]).mean()
    row["psnr_brain"] = float(-10 * np.log10(max(error, _LEAST_ERROR)))
    row |= {"psnr_tumour": None, "ssim_tumour": None, "lpips": None}
    if label is not None and label.any():
        box = tumour_box(label)
        row["psnr_tumour"], row["ssim_tumour"] = (f(pred[box], true[box]) for f in (_psnr, _ssim))
    if lpips is not None:
        row["lpips"] = lpips(pred[slices], true[slices])
    return row


def tumour_box(label: np.ndarray) -> Box:
    """Find the box around label > 0 (D, H, W), in the plane at least as wide as SSIM's window."""
    box = []
    for least, tight, size in zip(
        (1, _WINDOW, _WINDOW), bounding_box(label), label.shape, strict=True
    ):
        width = max(tight.stop - tight.start, min(least, size))
        start = max(0, tight.start - (width - (tight.stop - tight.start)) // 2)
        start = min(start, size - width)
        box.append(slice(start, start + width))
    return tuple(box)


def _psnr(pred: np.ndarray, true: np.ndarray) -> float:
    error = np.square(pred.astype(np.float64) - true).mean((1, 2))
    return float((-10 * np.log10(error.clip(_LEAST_ERROR))).mean())


def _ssim(pred: np.ndarray, true: np.ndarray) -> float:
    import torch
    from monai.metrics import SSIMMetric

    pair = [torch.from_numpy(x.astype(np.float32))[:, None] for x in (pred, true)]
    window = min(_WINDOW, *pred.shape[1:])
    metric = SSIMMetric(2, data_range=1.0, win_size=window, kernel_sigma=1.5, k1=0.01, k2=0.03)
    return float(metric(*pair).mean())


def _predicted(folder: Path, cases: Sequence[str] | None) -> list[tuple[Path, dict]]:
    """Files and what was recorded of them, in the folder and those for subsets."""
    found = []
    for place in [folder, *sorted(path for path in folder.glob("*/") if path.is_dir())]:
        found += [(place / name, row) for name, row in sorted(read_record(place).items())]
    if not found:
        raise UsageError(f"{folder}: has no CASE_{NOTES}; wanted what fastseg sample writes")
    known = {row["case"] for _, row in found}
    if unknown := sorted(set(cases or ()) - known):
        there = offered(unknown[0], known)
        raise UsageError(f"{folder}: nothing of case {', '.join(unknown[:5])}{there}")
    found = [(path, row) for path, row in found if cases is None or row["case"] in cases]
    return sorted(found, key=lambda item: (-len(item[1]["given"]), item[0]))


def _score_file(path: Path, row: dict, case: Case, true_path: Path, scheme, lpips) -> dict:
    # every prediction of a volume is measured in the scale of what the networks saw of it
    seen_path = case.images.get(row["modality"], true_path)
    seen_path = seen_path if seen_path.exists() else true_path
    true, pred, seen = (nifti.read(p) for p in (true_path, path, seen_path))
    for volume in (pred, seen):
        if found := grid_difference(volume.header, true.header):
            raise DataError(f"{volume.header.path}: {found[1]}")
    image, label = seen.scaled(np.float32), None
    scale = tuple(statistics(image)[:2])
    own = scale if row["own_scale"] else row["scale"]
    if case.label is not None and case.label.exists():
        label, _ = read_classes(case.label, scheme)
    mapped = _unit(pred.scaled(np.float32), own), _unit(true.scaled(np.float32), scale)
    return score_volume(*mapped, image != 0, label, lpips)


def _unit(image: np.ndarray, scale: Sequence[float]) -> np.ndarray:
    low, high = scale
    return ((image - low) / max(high - low, 1e-6)).clip(0, 1)


def table_of(found: Mapping) -> Table:
    """Make a table, for a page, of what evaluation.json holds."""
    named = [*found["by_given"].items(), *found["by_modality"].items(), ("mean", found["mean"])]
    keys = [key for key, value in found["mean"].items() if value is not None]
    cells = [[name, *(number(row[key]) for key in keys)] for name, row in named]
    return Table("Scores", ["given, missing", *keys], cells)
