"""What a study found, in pictures, and a page with its tables."""

import html
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fastseg.data import nifti
from fastseg.data.cases import Dataset
from fastseg.data.pipeline import load_case
from fastseg.host.files import write_text
from fastseg.pictures import drawing
from fastseg.pictures.page import page, picture_html, read_metrics
from fastseg.studies.statistics import by_arm, seed_average, summarise, synthesises, titles
from fastseg.studies.tables import command, counts, notes, tables_of
from fastseg.tasks.modality_synthesis.case import read_record

SHOWN_PATIENTS = 3


def write_pictures(record: Mapping, dataset: Dataset, out: Path) -> Path:
    """Draw out/curves.png and out/overlays.png, write out/study.html; returns study.md's path."""
    curves = drawing.new_figure(9, 3.4)
    texts = ("PSNR, dB", "subsets") if synthesises(record) else ("Dice", "regions")
    drawing.draw_arms(*curves.subplots(1, 2), _curves(record, out), _patients(record), *texts)
    pictures = [drawing.save(curves, out / "curves.png")]
    draw = _draw_modality if synthesises(record) else _draw_overlays
    pictures.append(draw(record, dataset, out))
    title = f"Study {record['study']}"
    texts = [record["question"], counts(record)]
    parts = [f"<p>{html.escape(text)}</p>" for text in texts]
    parts += [f"<pre>{html.escape(command(record))}</pre>"]
    parts += [table.html() for table in tables_of(record, summarise(record))]
    parts += [f"<p>{html.escape(note)}</p>" for note in notes(record)]
    parts += [picture_html(path) for path in pictures]
    write_text(out / "study.html", page(title, parts))
    text = (out / "study.md").read_text()
    names = "\n\n".join(f"![{path.stem}]({path.name})" for path in pictures)
    write_text(out / "study.md", f"{text}\n{names}\n")
    return out / "study.md"


def _curves(record: Mapping, out: Path) -> dict[str, list[list[tuple[int, float]]]]:
    """For each arm, for each seed, the validation scores by epoch."""
    curves: dict[str, list] = {}
    for run in record["runs"]:
        rows = read_metrics(out / run["metrics"])
        key = "val_psnr" if synthesises(record) else "val_dice"
        points = [(row["epoch"], row[key]) for row in rows if key in row]
        curves.setdefault(run["arm"], []).append(points)
    return curves


def _patients(record: Mapping) -> dict[str, np.ndarray]:
    return {
        name: seed_average(list(runs.values()), next(iter(titles(record))))
        for name, runs in by_arm(record).items()
    }


def _draw_overlays(record: Mapping, dataset: Dataset, out: Path) -> Path:
    """The same patients for every arm, as the first seed's runs predicted them."""
    firsts = {name: next(iter(runs.values())) for name, runs in by_arm(record).items()}
    shown = record["split"]["test"][:SHOWN_PATIENTS]
    figure = drawing.new_figure(2.1 * (len(firsts) + 2), 2.3 * len(shown) + 0.4)
    for axes, case_id in zip(
        figure.subplots(len(shown), len(firsts) + 2, squeeze=False), shown, strict=True
    ):
        arrays = load_case(dataset, case_id)
        found = {}
        for name, run in firsts.items():
            volume = nifti.read(out / run["predictions"] / f"{case_id}_pred.nii.gz")
            found[name] = dataset.scheme.to_classes(volume.data)
        overlay = drawing.Overlay(case_id, arrays.image, arrays.label, None)
        drawing.draw_predictions(axes, overlay, found, dataset.modalities)
    drawing.draw_legend(figure, dataset.scheme.classes, outlines=False)
    return drawing.save(figure, out / "overlays.png")


def _draw_modality(record: Mapping, dataset: Dataset, out: Path) -> Path:
    """One missing modality of the same patients: truth, then each arm's, by its first run."""
    firsts = {run["arm"]: run for run in reversed(record["runs"])}
    firsts = {name: firsts[name] for name in dict.fromkeys(run["arm"] for run in record["runs"])}
    shown = record["split"]["test"][:SHOWN_PATIENTS]
    folder, name = _shown_subset(out / next(iter(firsts.values()))["predictions"], dataset)
    figure = drawing.new_figure(2.1 * (len(firsts) + 1), 2.3 * len(shown) + 0.2)
    grid = figure.subplots(len(shown), len(firsts) + 1, squeeze=False)
    for axes, case_id in zip(grid, shown, strict=True):
        true = nifti.read(dataset.by_id(case_id).images[name]).scaled(np.float32)
        index = int((true != 0).sum((1, 2)).argmax())
        limits = {"cmap": "gray", "vmin": 0, "vmax": np.percentile(true[true != 0], 99.5)}
        pictures = {f"{name}, truth": true}
        for arm, run in firsts.items():
            path = out / run["predictions"] / folder / f"{case_id}_{name}_pred.nii.gz"
            pictures[arm] = nifti.read(path).scaled(np.float32)
        for axis, (title, image) in zip(axes, pictures.items(), strict=True):
            axis.imshow(image[index], **limits)
            axis.set_title(title, fontsize=9)
            axis.set(xticks=[], yticks=[])
        axes[0].set_ylabel(f"{case_id}\nslice {index}", fontsize=9)
    return drawing.save(figure, out / "overlays.png")


def _shown_subset(predictions: Path, dataset: Dataset) -> tuple[str, str]:
    """The folder of predictions where about half is missing, and a modality that is."""
    places = [predictions, *sorted(path for path in predictions.iterdir() if path.is_dir())]
    records = [(path, read_record(path)) for path in places]
    records = [(path, next(iter(rows.values()))) for path, rows in records if rows]
    half = len(dataset.modalities) / 2
    path, row = min(records, key=lambda item: abs(len(item[1]["given"]) - half))
    return ("" if path == predictions else path.name), row["modality"]
