"""Scores and pictures of the validation patients while a network is trained."""

import logging

import numpy as np
import torch

from fastseg import metrics, report
from fastseg.data.cases import LabelScheme
from fastseg.data.pipeline import CaseArrays, load_case
from fastseg.errors import DataError
from fastseg.run import Run
from fastseg.sample import case_generator, predict_volume
from fastseg.stop import StopSignal

log = logging.getLogger("fastseg")
_OVERLAYS = 2  # patients drawn each time


def validate(run: Run, stop: StopSignal) -> float | None:
    """Mean over the validation patients of the mean region Dice; None when stopped before the end.

    With several processes each takes its share of the patients. Averaged weights are used when the
    recipe keeps them, and the same noise each time. A patient that cannot be read is left out with
    a warning.
    """
    total, count, data = 0.0, 0, run.recipe.data
    net = (run.ema or run.module).eval()
    mine = run.split["val"][: run.recipe.val_cases][run.fabric.global_rank :: run.fabric.world_size]
    for number, case_id in enumerate(mine):
        if stop.name:
            break
        try:
            case = load_case(run.dataset, run.dataset.by_id(case_id), data.rule)
        except DataError as error:
            log.warning("validation leaves out %s", error)
            continue
        image = torch.from_numpy(case.image).to(run.fabric.device)
        noise = case_generator(run.recipe.seed, case_id, image.device)
        with run.fabric.autocast():
            classes = predict_volume(net, image, data.patch, data.batch_size, noise)
        total, count = total + region_dice(run.dataset.scheme, classes, case.label), count + 1
        if number < _OVERLAYS and run.fabric.is_global_zero:
            _draw(run, case_id, case, classes)
    run.module.train()
    sums = torch.tensor([total, count, bool(stop.name)], device=run.fabric.device)
    total, count, stopped = run.fabric.all_reduce(sums, reduce_op="sum").tolist()
    return None if stopped or not count else total / count


def region_dice(scheme: LabelScheme, classes: np.ndarray, truth: np.ndarray) -> float:
    """Mean Dice over regions; over foreground classes where the scheme has no regions."""
    regions = scheme.regions or {name: (name,) for name in scheme.classes[1:]}
    found = metrics.region_masks(classes, scheme.classes, regions)
    wanted = metrics.region_masks(truth, scheme.classes, regions)
    return float(np.mean([metrics.dice(found[name], wanted[name]) for name in regions]))


def _draw(run: Run, case_id: str, case: CaseArrays, classes: np.ndarray) -> None:
    names = {"modalities": run.dataset.modalities, "classes": run.dataset.scheme.classes}
    path = run.out / "overlays" / f"epoch-{run.at.epoch:04d}-{case_id}.png"
    path.parent.mkdir(exist_ok=True)
    report.overlay_png(case.image, case.label, classes, path, title=case_id, **names)
