"""What a run trains with: Lightning Fabric's processes and precision, the optimiser, and how the
processes divide a network among them.
"""

import logging
import os
import sys
from datetime import timedelta
from typing import Any

import torch
from torch import nn

from fastseg.config import Recipe
from fastseg.errors import UsageError
from fastseg.host import processes
from fastseg.host.device import pick_device
from fastseg.host.processes import launched
from fastseg.training import sharded

log = logging.getLogger("fastseg")
_PRECISION = {"fp32": "32-true", "tf32": "32-true", "bf16": "bf16-mixed"}


def launch(recipe: Recipe) -> Any:
    """Launch Lightning Fabric: one process, `devices` of them, or what torchrun or srun has.

    UsageError where "auto" stands for one precision on one machine and for another on the next.
    """
    from lightning_fabric import Fabric

    processes.die_with_parent()
    place = launched()
    local = place.per_node if place else recipe.devices
    device = pick_device(recipe.device).type
    if place is None:
        _check_devices(local, device)
    precision = resolve_precision(recipe.precision, device, _least_capability(device, local))
    # "highest" forbids TF32 in matrix products, "high" allows it
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    nodes = place.world // local if place else 1
    fabric = Fabric(
        accelerator=device,
        devices=local,
        num_nodes=nodes,
        strategy=_strategy() if local * nodes > 1 else "auto",
        **_precision(precision, device),
    )
    fabric.launch()
    fp16 = torch.tensor(float(precision == "fp16"), device=fabric.device)
    if 0 < fabric.all_reduce(fp16, reduce_op="mean") < 1:
        raise UsageError("precision: auto is fp16 on some of these GPUs only; wanted one by name")
    return fabric


def _strategy() -> Any:
    """Fabric's usual one for several processes, with our patience."""
    from lightning_fabric.strategies import DDPStrategy

    return DDPStrategy(timeout=timedelta(seconds=processes.TIMEOUT_S))


def _check_devices(wanted: int, device: str) -> None:
    """No more processes than there is to compute on: they would only wait for one another."""
    if wanted > 1 and hasattr(sys, "ps1"):
        raise UsageError(f"devices: is {wanted}, wanted 1 in a notebook or an interactive Python; "
                         "the command `fastseg train` starts several processes")  # fmt: skip
    there = torch.cuda.device_count() if device == "cuda" else os.cpu_count() or 1
    if wanted > there:
        kind = "GPUs" if device == "cuda" else "processor cores"
        raise UsageError(f"devices: is {wanted}, wanted at most {there}, this machine's {kind}")


def resolve_precision(precision: str, device: str, capability: tuple[int, int]) -> str:
    """Resolve "auto" on a device type and, for cuda, a compute capability; other names stand for
    themselves. On a GPU bf16 from 8.0 on and fp16 below, which has no bf16; else fp32.
    """
    if precision != "auto":
        return precision
    if device != "cuda":
        return "fp32"
    return "bf16" if capability >= (8, 0) else "fp16"


def _least_capability(device: str, processes: int) -> tuple[int, int]:
    """Of the GPUs that this machine's processes have, for they have one precision."""
    count = min(torch.cuda.device_count(), processes) if device == "cuda" else 0
    return min((torch.cuda.get_device_capability(i) for i in range(count)), default=(0, 0))


def _precision(precision: str, device: str) -> dict[str, Any]:
    if precision != "fp16":
        return {"precision": _PRECISION[precision]}
    from lightning_fabric.plugins import MixedPrecision

    # torch's 65536 overflows in the sums over voxels of every first step, which then is skipped;
    # and asked for fp16 by name, Fabric would take bf16 on a CPU
    scaler = torch.amp.GradScaler(device, init_scale=1024.0)
    return {"plugins": MixedPrecision("16-mixed", device, scaler)}


def set_up(
    recipe: Recipe, fabric: Any, module: nn.Module, ema: nn.Module | None
) -> tuple[Any, nn.Module | None, Any]:
    """Bring `module`, its averaged weights and its optimiser to the device of this process.

    By the recipe's strategy they are in step or in shares with those of the other processes.
    """
    if recipe.strategy == "fsdp" and fabric.world_size > 1:
        net = sharded.shard(sharded.Sharded(module), fabric.device)
        ema = ema and sharded.shard(ema, fabric.device)
        return net, ema, fabric.setup_optimizers(_optimizer(recipe, module))
    if recipe.strategy == "fsdp":
        log.warning("strategy: fsdp has nothing to share out in one process")
    net, optimizer = fabric.setup(module, _optimizer(recipe, module))
    net.mark_forward_method("training_loss")
    return net, ema and ema.to(fabric.device), optimizer


def _optimizer(recipe: Recipe, module: nn.Module) -> torch.optim.Optimizer:
    common = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "sgd":
        momentum = {"momentum": recipe.betas[0], "nesterov": recipe.nesterov}
        return torch.optim.SGD(module.parameters(), **momentum, **common)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    common |= {"betas": recipe.betas, "amsgrad": recipe.amsgrad}
    return kind(module.parameters(), **common)


def precision_of(fabric: Any) -> str:
    """Name what it computes in, as `Recipe.precision` does."""
    mixed = {"bf16-mixed": "bf16", "16-mixed": "fp16"}.get(fabric.strategy.precision.precision)
    return mixed or ("tf32" if torch.get_float32_matmul_precision() == "high" else "fp32")


def scaler_of(fabric: Any) -> Any:
    """Find the loss scaler of sixteen bits; None where there is none."""
    return getattr(fabric.strategy.precision, "scaler", None)
