"""What a network made of each modality alone, in one picture."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fastseg.data.cases import Dataset
from fastseg.data.cases.labels import read_classes
from fastseg.data.cases.layouts import canonical
from fastseg.data.pipeline import load_case
from fastseg.errors import DataError
from fastseg.evaluate import Report
from fastseg.pictures import drawing
from fastseg.tasks.segmentation.predictions import find_prediction, labelled, noted_region

log = logging.getLogger(__name__)
SHOWN_PATIENTS = 4


def draw(
    folder: Path, data: Any, reports: Mapping[str, Report], region: str | None, out: Path
) -> None:
    """out/overlays.png: the first patients that all modalities were scored on, a row each.

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
    """One modality of a patient and its prediction in `folder`, nothing where there is none."""
    arrays = load_case(replace(dataset, modalities=(canonical(name),)), case_id)
    path = find_prediction(folder, case_id)
    found = np.zeros_like(arrays.label)
    if path is not None:
        found, _ = read_classes(path, dataset.scheme)
    return drawing.Overlay(case_id, arrays.image, arrays.label, found)
