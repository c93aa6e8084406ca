"""The gradients of one step: means over its whole batch, whatever part of that a process has, and
whatever part of this fits into its memory at a time.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastseg.training import sharded
from fastseg.training.run import Run

Parts = list[tuple[int, dict[str, Any]]]


def backward(run: Run, batch: dict[str, Any]) -> tuple[Tensor, Callable[[], dict[str, float]]]:
    """Leave in each process the gradients of the mean loss over the batch, of which `batch` is this
    process's share.

    Returns a number whose mean over the processes is that loss, float32, and a function for what
    else there is to log, means over the share.
    """
    fabric, sizes, division = run.fabric, run.feed.parts, run.feed.division
    number = sum(map(len, division[: fabric.global_rank]))  # of the part, among those of all
    samples = sum(map(sum, division))
    total, logged, first = torch.zeros((), device=fabric.device), [], 0
    for index, size in enumerate(sizes):
        with _in_step(run, index == 0, index == len(sizes) - 1):
            generator = _seeded(run.recipe.seed, run.at.step, number + index, fabric.device)
            # with one process Fabric calls a marked method as it is, in full precision
            with fabric.autocast():
                loss, parts = run.net.training_loss(_part(batch, first, size), generator)
            # gradients become their mean over the processes, whose shares may differ
            loss = loss * (size * fabric.world_size / samples)
            fabric.backward(loss)
        total, first = total + loss.detach().float(), first + size
        logged.append((size, {name: torch.as_tensor(p).detach() for name, p in parts.items()}))
    return total, lambda: _means(logged)


def _in_step(run: Run, first: bool, last: bool) -> AbstractContextManager:
    """For a forward and a backward pass: processes share buffers before the first one of a step and
    gradients in the last one.
    """
    if isinstance(run.net, sharded.Sharded):
        return run.net.in_step(first, last)
    return run.fabric.no_backward_sync(run.net, enabled=not last)


def _part(batch: dict[str, Any], first: int, size: int) -> dict[str, Any]:
    """Those samples of a batch; what is not by samples as it is."""
    return {
        name: value[first : first + size] if isinstance(value, (Tensor, list)) else value
        for name, value in batch.items()
    }


def _seeded(seed: int, step: int, part: int, device: torch.device) -> torch.Generator:
    """A part's generator; dropout draws from torch's own, which so follows step and part too."""
    key = np.random.SeedSequence((seed, step, part)).generate_state(1, np.uint64)[0]
    torch.manual_seed(int(key >> np.uint64(1)))
    return torch.Generator(device).manual_seed(int(key >> np.uint64(1)))


def _means(logged: Parts) -> dict[str, float]:
    sums: dict[str, tuple[float, int]] = {}
    for size, parts in logged:
        for name, value in parts.items():
            total, samples = sums.get(name, (0.0, 0))
            sums[name] = total + size * float(value), samples + size
    return {name: total / samples for name, (total, samples) in sums.items()}
