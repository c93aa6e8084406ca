"""Pictures of label maps over the images they are of."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fastseg.data.cases import Dataset
from fastseg.data.cases.labels import read_classes
from fastseg.data.cases.layouts import canonical
from fastseg.errors import DataError
from fastseg.pictures import drawing
from fastseg.tasks.base import Report
from fastseg.tasks.segmentation.files import find_prediction, labelled, noted_region

log = logging.getLogger(__name__)
SHOWN_PATIENTS = 4
CLASS_NAMES = ("background", "NCR", "ED", "ET")
MODALITIES = ("t1", "t1ce", "t2", "flair")


def draw_modalities(
    reports: Mapping[str, Report], folder: Path, data: Any, region: str | None, out: Path
) -> None:
    """Draw out/overlays.png: the first patients that all modalities were scored on, a row each.

    A patient whose images cannot be read, which scores do not need, is left out with a warning.
    """
    first = next(iter(reports))
    dataset = labelled(data, noted_region(folder / first, region))
    scored = [[row["case"] for row in report.rows] for report in reports.values()]
    shown = []
    for case_id in scored[0]:
        if len(shown) < SHOWN_PATIENTS and all(case_id in ids for ids in scored):
            try:
                shown.append({name: overlay(folder / name, dataset, case_id, name)
                              for name in reports})  # fmt: skip
            except DataError as error:
                log.warning("overlays.png leaves out %s", error)
    if not shown:
        (out / "overlays.png").unlink(missing_ok=True)
        return
    figure = drawing.new_figure(2.4 * len(reports), 2.5 * len(shown) + 0.4)
    rows = figure.subplots(len(shown), len(reports), squeeze=False)
    for axes, overlays in zip(rows, shown, strict=True):
        drawing.draw_each(axes, overlays, dataset.scheme.classes)
    drawing.draw_legend(figure, dataset.scheme.classes)
    drawing.save(figure, out / "overlays.png")


def overlay(folder: Path, dataset: Dataset, case_id: str, name: str) -> drawing.Overlay:
    """Read one modality of a patient and its prediction in `folder`, empty where there is none."""
    from fastseg.data.pipeline import load_case  # with torch, which a page does not need

    arrays = load_case(replace(dataset, modalities=(canonical(name),)), case_id)
    path = find_prediction(folder, case_id)
    found = np.zeros_like(arrays.label)
    if path is not None:
        found, _ = read_classes(path, dataset.scheme)
    return drawing.Overlay(case_id, arrays.image, arrays.label, found)


def overlay_png(
    image: np.ndarray,
    label: np.ndarray | None,
    prediction: np.ndarray | None,
    out: str | Path,
    *,
    title: str = "",
    modalities: Sequence[str] = MODALITIES,
    classes: Sequence[str] = CLASS_NAMES,
) -> Path:
    """Draw the most informative axial slice of one patient.

    Every modality with the outlines of truth (solid) and prediction (dashed), then both as filled
    maps.

    Args:
        image: float (C, D, H, W).
        label, prediction: class indices (D, H, W); one of them may be None.
        out: where the PNG goes.
        title: beside the slice's number.
        modalities: names of the channels.
        classes: names of the classes, background first.

    Returns:
        `out`, as a path.

    >>> label = np.zeros((3, 16, 16), int)
    >>> label[1, 4:8, 4:8] = 1
    >>> overlay_png(label[None].astype(float), label, None, "a.png", modalities=["t1"]).name
    'a.png'
    """
    overlay = drawing.Overlay(title, image, label, prediction)
    panels = len(image) + 2
    figure = drawing.new_figure(2.1 * panels, 2.75)
    drawing.draw_overlay(figure.subplots(1, panels), overlay, modalities, classes)
    drawing.draw_legend(figure, classes)
    return drawing.save(figure, out)
