"""Scores and pictures of the validation patients while a network is trained."""

import logging

import torch

from fastseg import tasks
from fastseg.errors import DataError
from fastseg.host.files import harmless
from fastseg.tasks.base import Validated
from fastseg.training import sharded
from fastseg.training.run import Run
from fastseg.training.stop import Interrupted, StopSignal

log = logging.getLogger("fastseg")
OVERLAYS = 2  # patients drawn each time


def validate(run: Run, stop: StopSignal) -> float | None:
    """Average the task's score over the validation patients: the mean region Dice of segmentation,
    the PSNR in dB of synthesis. None when stopped before the end.

    With several processes each takes its share of the patients. Averaged weights are used when the
    recipe keeps them, and the same noise each time. A patient that cannot be read is left out with
    a warning.
    """
    total, count, recipe = 0.0, 0, run.recipe
    task = tasks.of(recipe.system)
    net = (run.ema or run.module).eval()
    net.on_step = stop.check
    every = list(enumerate(run.split["val"][: recipe.val_cases]))
    with sharded.whole(run.ema or run.net):
        for number, case_id in every[run.fabric.global_rank :: run.fabric.world_size]:
            if stop.name:
                break
            try:
                with stop.may_give_up(), run.fabric.autocast():
                    found = task.validate(net, recipe, run.dataset, case_id, number, stop.check)
                if number < OVERLAYS and run.fabric.is_global_zero:
                    _draw(run, stop, found, f"epoch-{run.at.epoch:04d}-{case_id}.png")
            except Interrupted:
                break
            except DataError as error:
                log.warning("validation leaves out %s", error)
                continue
            total, count = total + found.score, count + 1
    run.module.train()
    net.on_step = None
    sums = torch.tensor([total, count, bool(stop.name)], device=run.fabric.device)
    total, count, stopped = run.fabric.all_reduce(sums, reduce_op="sum").tolist()
    return None if stopped or not count else total / count


def _draw(run: Run, stop: StopSignal, found: Validated, name: str) -> None:
    path = run.out / "overlays" / name
    with stop.may_give_up(), harmless(path):
        path.parent.mkdir(exist_ok=True)
        found.draw(path)
