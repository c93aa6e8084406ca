"""What each of two processes does in test_sharded.py: python sharded_processes.py DATA OUT."""

import json
import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path

import torch
from torch import distributed as dist
from torch import nn

from fastseg import train as module
from fastseg.config import load_recipe
from fastseg.train import train
from fastseg.training import sharded, validate
from fastseg.training.stop import Stopped

# labels follow buffers, theta moves after the step; three validation patients
TINY = ("data.patch=32,32", "data.samples_per_case=4", "data.batch_size=4", "data.threads=1",
        "model.width=4", "model.modes=4", "model.sampling_steps=2", "model.mode=ssl",
        "labelled_fraction=0.5", "ema=0.9", "precision=fp32", "log_every=1",
        "fractions=0.5,0.375,0.125", "epochs=2", "val_every=2", "loader=torch")  # fmt: skip
# Adam makes as much of gradients that are nothing but rounding, and the norm of shares rounds
# otherwise: it is not clipped
OWN = {
    "fsdp": ("grad_clip=0.5",),
    "mixed": ("grad_clip=null", "optimizer=adam", "nesterov=false", "amsgrad=true"),
}
STOP = 1
# noise, dropout and averaged weights; three samples of a step do not fall into two equal shares
DIVIDED = ("data.patch=32,32", "data.samples_per_case=4", "data.batch_size=3", "data.micro_batch=1",
           "data.threads=1", "model.width=8", "model.multipliers=1,2", "model.attention_levels=1",
           "model.blocks=1", "model.timesteps=50", "model.dropout=0.2", "precision=fp32",
           "epochs=1", "ema=0.9", "optimizer=sgd", "lr=0.02", "grad_clip=0.3", "log_every=1",
           "fractions=0.5,0.375,0.125", "val_every=0", "loader=torch")  # fmt: skip


def recipe(name: str, *more: str):
    return load_recipe("fno_diffusion", [*TINY, *OWN[name], *more])


def divided(*more: str):
    return load_recipe("fgc2f_udiff", [*DIVIDED, *more])


def watched(made, data: Path, out: Path) -> None:
    """Trains, and notes the samples in this process's share of every step."""
    step, seen = module.take_step, []

    def stepping(run, batch, lr):
        seen.append([[int(number) for number in seed] for seed in batch["seed"]])
        rank = run.fabric.global_rank
        (out / f"seen-{rank}.json").write_text(json.dumps(seen))
        return step(run, batch, lr)

    module.take_step = stepping
    train(made, data, out)
    module.take_step = step


def undrawn(change=setattr) -> None:
    change(validate, "OVERLAYS", 0)
    change(module.report, "progress_png", lambda *_, **__: None)


def mine(tensors) -> int:
    """Elements that this process holds of tensors that may be in shares."""
    return sum((t.to_local() if hasattr(t, "to_local") else t).numel() for t in tensors)


def count(run, found: dict) -> None:
    """Notes how much of everything this process holds when the optimiser steps."""
    optimizer = run.optimizer.optimizer

    def note(*_) -> None:
        parameters = list(run.module.parameters())
        found["parameters"] = mine(parameters)
        found["averages"] = mine(run.ema.parameters())
        found["gradients"] = mine(p.grad for p in parameters if p.grad is not None)
        found["states"] = mine(t for s in optimizer.state.values() for t in s.values())
        found["all"] = sum(p.numel() for p in parameters)
        found["trained"] = sum(p.numel() for p in parameters if p.requires_grad)

    optimizer.register_step_pre_hook(note)


def train_stopped(made, data: Path, out: Path) -> None:
    """Trains to a signal, leaves a copy of that, and goes on."""
    step = module.take_step

    def stepping(run, batch, lr):
        if run.at.step + 1 == STOP and run.fabric.is_global_zero:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(run, batch, lr)

    module.take_step = stepping
    with suppress(Stopped):
        train(made, data, out)
    module.take_step = step
    copy(out, out.with_name(f"{out.name}-stopped"))
    train(made, data, out)


def copy(source: Path, target: Path) -> None:
    if dist.get_rank() == 0:
        shutil.copytree(source, target)
    dist.barrier()


def uneven() -> list[bool]:
    """Whether shares of odd sizes are put together again, and made alike."""
    generator = torch.Generator().manual_seed(0)
    whole = {"a": torch.rand(5, 3, generator=generator), "b": torch.rand(1, generator=generator)}
    net = nn.ParameterDict({name: tensor.clone() for name, tensor in whole.items()})
    sharded.shard(net, torch.device("cpu"))
    same = [torch.equal(sharded.like(p, whole[name]).to_local(), p.to_local())
            for name, p in net.items()]  # fmt: skip
    found = sharded.gathered(net.state_dict(), dist.get_rank() == 0)
    wanted = whole if dist.get_rank() == 0 else {}
    return [*same, found.keys() == wanted.keys(), *(torch.equal(found[n], whole[n]) for n in found)]


def main(data: Path, out: Path) -> None:
    torch.set_num_threads(1)
    undrawn()
    for name in OWN:
        train_stopped(recipe(name), data, out / f"{name}-whole")
    train_stopped(recipe("fsdp", "strategy=fsdp"), data, out / "fsdp")
    for strategy in ("ddp", "fsdp"):
        watched(divided(f"strategy={strategy}"), data, out / f"divided-{strategy}")
    held: dict = {}
    prepare = module.prepare

    def counting(*arguments):
        run = prepare(*arguments)
        count(run, held)
        return run

    module.prepare = counting
    held["uneven"] = uneven()
    copy(out / "mixed-whole-stopped", out / "mixed")
    train(recipe("mixed", "strategy=fsdp"), data, out / "mixed")
    (out / f"rank-{dist.get_rank()}.json").write_text(json.dumps(held))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
