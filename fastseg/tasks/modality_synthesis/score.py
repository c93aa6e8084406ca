"""Score synthesised modalities against the true ones: PSNR and SSIM, by modality and by subset.

fastseg evaluate PREDICTIONS --data DATA --task synthesis
fastseg evaluate PREDICTIONS --data DATA --task synthesis --truth CLEAN    # DATA without noise
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fastseg.data import nifti
from fastseg.data.cases import Case, Dataset, discover
from fastseg.data.cases.labels import read_classes
from fastseg.data.geometry import Box, bounding_box, grid_difference
from fastseg.data.pipeline.decode import statistics
from fastseg.errors import DataError, UsageError, offered
from fastseg.host.files import write_csv, write_json
from fastseg.host.processes import company
from fastseg.host.shares import score_all
from fastseg.tasks.modality_synthesis.lpips import Lpips
from fastseg.tasks.modality_synthesis.predict import RECORD, read_record

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


@dataclass(frozen=True)
class Report:
    """Scores of every synthesised volume and their means.

    rows: one dict a volume: "given" ("t1+flair"), "case", "modality", and `MEASURES`, None where
    there is no label (or no LPIPS). by_given and by_modality: mean measures by name; mean: over
    subsets. missing: what of the record has no true image. truth: the data set of the true images,
    None where it is that of the given ones.
    """

    rows: list[dict]
    by_given: dict[str, dict]
    by_modality: dict[str, dict]
    mean: dict[str, float | None]
    missing: list[str]
    truth: str | None = None

    def to_dict(self) -> dict:
        """JSON-able form, with the conventions that the figures follow."""
        return {
            "task": "synthesis", "conventions": CONVENTIONS, "truth": self.truth,
            "mean": self.mean, "by_given": self.by_given, "by_modality": self.by_modality,
            "rows": self.rows, "missing": self.missing,
        }  # fmt: skip

    def table(self) -> str:
        """A plain-text table: a line for each subset, each modality, and the mean."""
        keys = [key for key in MEASURES if self.mean[key] is not None]
        lines = [["given", *(MEASURES[key] for key in keys)]]
        named = [*self.by_given.items(), *((f"→ {k}", v) for k, v in self.by_modality.items())]
        for name, row in [*named, ("mean", self.mean)]:
            lines.append([name, *(_shown(row[key], key) for key in keys)])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
            for line in lines
        )


def evaluate_synthesis(
    predictions: str | Path,
    data: str | Path | Dataset,
    out: str | Path | None = None,
    *,
    truth: str | Path | Dataset | None = None,
    cases: Sequence[str] | None = None,
    threads: int | None = None,
    quiet: bool = False,
) -> Report:
    """Score the folder that `fastseg sample` of a system of synthesis wrote and print the table.

    data: the data set that was sampled, which has labels, brain and scale of the images. truth:
    data set of the same cases with the images to compare with, in the same intensities, such as
    phantoms without noise; default `data`. out: folder for evaluation.csv and evaluation.json, or
    None. cases: ids to score, default all. LPIPS is there if its package and weights are; nothing
    is downloaded. Several processes share the files out, as `fastseg.evaluate.evaluate` has it.
    DataError, naming the file, where a prediction does not lie on the true image's grid, or nothing
    can be scored; UsageError for a folder of something else.
    """
    lpips = Lpips.at_hand()
    with company() as processes:
        dataset, true, work, missing = processes.each(
            lambda: _plan(Path(predictions), data, truth, cases)
        )

        def score(item: tuple[Path, dict, Case, Path]) -> dict:
            path, row, case, image = item
            names = {"given": "+".join(row["given"]), "case": case.id, "modality": row["modality"]}
            return names | _score_file(path, row, case, image, dataset.scheme, lpips)

        report = summarise(score_all(work, score, processes, threads, quiet), missing)
        if truth is not None:
            report = replace(report, truth=str(true.root))
        processes.first(lambda: _publish(report, out, quiet))
    return report


def score_volume(
    pred: np.ndarray, true: np.ndarray, brain: np.ndarray, label: np.ndarray | None, lpips=None
) -> dict:
    """All measures of one volume from images (D, H, W) in 0 … 1; brain, label > 0: where."""
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
    """The box around label > 0 (D, H, W), in the plane at least as wide as SSIM's window."""
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


def summarise(rows: list[dict], missing: Sequence[str] = ()) -> Report:
    """The means of rows."""

    def means(some: Sequence[dict]) -> dict[str, float | None]:
        columns = {key: [row[key] for row in some if row[key] is not None] for key in MEASURES}
        return {key: float(np.mean(column)) if column else None for key, column in columns.items()}

    def by(key: str) -> dict[str, dict]:
        names = dict.fromkeys(row[key] for row in rows)
        return {name: means([row for row in rows if row[key] == name]) for name in names}

    given = by("given")
    return Report(rows, given, by("modality"), means(list(given.values())), list(missing))


def _plan(
    folder: Path, data: str | Path | Dataset, truth: str | Path | Dataset | None,
    only: Sequence[str] | None,
):  # fmt: skip
    """The data set, that of the true images, what to score by file name, and files of which there
    is no true image.
    """
    dataset = data if isinstance(data, Dataset) else discover(data)
    true = dataset if truth is None else truth if isinstance(truth, Dataset) else discover(truth)
    cases = {case.id: case for case in dataset.cases}
    images = {case.id: case.images for case in true.cases}
    work, missing = {}, []
    for path, row in _predicted(folder, only):
        name, image = (
            str(path.relative_to(folder)),
            images.get(row["case"], {}).get(row["modality"]),
        )
        if row["case"] in cases and image is not None and image.exists():
            work[name] = path, row, cases[row["case"]], image
        else:
            missing.append(name)
    if not work:
        raise DataError(f"{true.root}: has no true image of {len(missing)} synthesised ones")
    return dataset, true, work, missing


def _predicted(folder: Path, cases: Sequence[str] | None) -> list[tuple[Path, dict]]:
    """Files and what was recorded of them, in the folder and those for subsets."""
    found = []
    for place in [folder, *sorted(path for path in folder.glob("*/") if path.is_dir())]:
        found += [(place / name, row) for name, row in sorted(read_record(place).items())]
    if not found:
        raise UsageError(f"{folder}: has no CASE_{RECORD}; wanted what fastseg sample writes")
    known = {row["case"] for _, row in found}
    if unknown := sorted(set(cases or ()) - known):
        there = offered(unknown[0], known)
        raise UsageError(f"{folder}: nothing of case {', '.join(unknown[:5])}{there}")
    found = [(path, row) for path, row in found if cases is None or row["case"] in cases]
    return sorted(found, key=lambda item: (-len(item[1]["given"]), item[0]))


def _publish(report: Report, out: str | Path | None, quiet: bool) -> None:
    if not quiet:
        print(report.table())
        if report.truth is not None:
            print(f"\nagainst the images of {report.truth}")
        if report.missing:
            print(f"\nno true image of {len(report.missing)}: {', '.join(report.missing[:5])}")
    if out is not None:
        _save(report, Path(out))


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


def _save(report: Report, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / "evaluation.csv", report.rows)
    write_json(out / "evaluation.json", report.to_dict())


def _shown(value: float | None, key: str) -> str:
    return "–" if value is None else f"{value:.2f}" if key.startswith("psnr") else f"{value:.3f}"
