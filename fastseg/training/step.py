"""One step of training: gradients of a batch, a check that they are finite, an update."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from fastseg.training import sharded
from fastseg.training.accumulate import backward
from fastseg.training.engine import scaler_of
from fastseg.training.run import Run
from fastseg.training.stop import Interrupted, awake_in_backward


def take_step(run: Run, batch: dict[str, Any], lr: float) -> dict[str, Any] | None:
    """Train on one batch and advance the position; returns a row when there is something to log.

    Raises Interrupted, with everything as it was before, where a signal cannot wait for its end.
    """
    recipe, at, optimizer = run.recipe, run.at, run.optimizer
    for group in optimizer.param_groups:
        group["lr"] = lr
    buffers = [(b, b.clone()) for b in run.module.buffers() if b.is_floating_point()]
    try:
        with run.may_give_up(), awake_in_backward(run.fabric):
            loss, parts = backward(run, batch)
    except Interrupted:
        _undo(run, buffers)
        raise
    limit = math.inf if recipe.grad_clip is None else recipe.grad_clip
    norm = run.fabric.clip_gradients(run.net, optimizer, max_norm=limit, error_if_nonfinite=False)
    # the mean over processes is non-finite for all when it is for one: they skip together
    loss = run.fabric.all_reduce(loss, reduce_op="mean")
    value, length = torch.stack([loss, sharded.full(norm.detach()).float()]).tolist()
    finite = math.isfinite(value) and math.isfinite(length)
    if not finite:
        _undo(run, buffers)
    if finite or scaler_of(run.fabric):  # the loss scaler must see overflows to shrink
        optimizer.step()
    optimizer.zero_grad()
    if finite:
        run.module.after_step()
    if finite and run.ema is not None:
        _average(run.ema, run.module, recipe.ema, at.step)
    row = {"step": at.step + 1, "epoch": at.epoch}
    at.advance(finite)
    if not finite:
        samples = [[int(number) for number in seed] for seed in batch["seed"]]
        reason = f"loss {value}, gradient norm {length}"
        return row | {"skipped": reason, "cases": list(batch["case"]), "samples": samples}
    if at.step % recipe.log_every:
        return None
    return row | {"loss": value, **parts(), "lr": lr}


def _undo(run: Run, buffers: list[tuple[Tensor, Tensor]]) -> None:
    run.optimizer.zero_grad()
    for buffer, before in buffers:
        buffer.copy_(before)


@torch.no_grad()
def _average(ema: nn.Module, module: nn.Module, decay: float, step: int) -> None:
    # a fixed decay would keep the random initial weights for some 1 / (1 - decay) steps
    decay = min(decay, (1 + step) / (10 + step))
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(decay)
    average(list(ema.parameters()), list(module.parameters()), None)
    for mean, now in zip(ema.buffers(), module.buffers(), strict=True):
        mean.copy_(now)
