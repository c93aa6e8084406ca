"""Scores and pictures of the validation patients while a network is trained."""

import logging

import numpy as np
import torch
from torch import nn

from fastseg import metrics, models, report
from fastseg.data.cases import LabelScheme
from fastseg.data.pipeline import CaseArrays, load_case
from fastseg.errors import DataError
from fastseg.tasks.base import case_generator
from fastseg.tasks.modality_synthesis import predict
from fastseg.tasks.modality_synthesis.picture import Shown, synthesis_png
from fastseg.tasks.network import input_channels
from fastseg.tasks.segmentation.predict import predict_volume
from fastseg.training import sharded
from fastseg.training.run import Run
from fastseg.training.stop import StopSignal

log = logging.getLogger("fastseg")
_OVERLAYS = 2  # patients drawn each time


def validate(run: Run, stop: StopSignal) -> float | None:
    """Mean over the validation patients of the mean region Dice, or of a system of synthesis' PSNR
    in dB, mean over availability masks; None when stopped before the end.

    With several processes each takes its share of the patients. Averaged weights are used when the
    recipe keeps them, and the same noise each time. A patient that cannot be read is left out with
    a warning.
    """
    total, count = 0.0, 0
    score = _synthesise if models.task(run.recipe.system) == "synthesis" else _segment
    net = (run.ema or run.module).eval()
    every = list(enumerate(run.split["val"][: run.recipe.val_cases]))
    with sharded.whole(run.ema or run.net):
        for number, case_id in every[run.fabric.global_rank :: run.fabric.world_size]:
            if stop.name:
                break
            draw = number < _OVERLAYS and run.fabric.is_global_zero
            try:
                found = score(run, net, case_id, number, draw)
            except DataError as error:
                log.warning("validation leaves out %s", error)
                continue
            total, count = total + found, count + 1
    run.module.train()
    sums = torch.tensor([total, count, bool(stop.name)], device=run.fabric.device)
    total, count, stopped = run.fabric.all_reduce(sums, reduce_op="sum").tolist()
    return None if stopped or not count else total / count


def _segment(run: Run, net: nn.Module, case_id: str, number: int, draw: bool) -> float:
    data = run.recipe.data
    case = load_case(run.dataset, run.dataset.by_id(case_id), data.rule)
    image = torch.from_numpy(case.image).to(run.fabric.device)
    noise = case_generator(run.recipe.seed, case_id, image.device)
    found = []
    # a network of one channel sees one modality at a time; each counts alike
    for shown in image.split(input_channels(run.recipe, run.dataset.modalities)):
        with run.fabric.autocast():
            classes = predict_volume(
                net, shown, data.patch, data.at_once, noise, background=data.rule.background
            )
        found.append(region_dice(run.dataset.scheme, classes, case.label))
    if draw:
        _draw(run, case_id, case, classes)
    return float(np.mean(found))


def _synthesise(run: Run, net: nn.Module, case_id: str, number: int, draw: bool) -> float:
    data, modalities = run.recipe.data, run.dataset.modalities
    known = predict.load_known(run.dataset.by_id(case_id), modalities, data.rule)
    noise = case_generator(run.recipe.seed, case_id, run.fabric.device)
    with run.fabric.autocast():
        score, shown = predict.validation_score(net, known, data.patch, data.at_once, noise, number)
    if draw:
        _draw_synthesis(run, case_id, known, shown)
    return score


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


def _draw_synthesis(run: Run, case_id: str, known: predict.Known, shown: list) -> None:
    slices, counts = [], set()
    for index, available, filled in shown:
        if (count := int(available.sum())) not in counts:  # one each of 1, 2, 3 missing
            counts.add(count)
            title = f"{case_id}\nslice {index}"
            slices.append(Shown(title, available, filled, known.image[:, index]))
    path = run.out / "overlays" / f"epoch-{run.at.epoch:04d}-{case_id}.png"
    synthesis_png(slices, run.dataset.modalities, path)
