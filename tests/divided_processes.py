"""What each of two processes does in test_divided.py: python divided_processes.py DATA OUT."""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from fastseg import train as module
from fastseg import validate
from fastseg.config import load_recipe
from fastseg.train import train

# noise, dropout and averaged weights; three samples of a step for two processes
TINY = ("data.patch=32,32", "data.samples_per_case=4", "data.batch_size=3", "data.micro_batch=1",
        "data.threads=1", "model.width=8", "model.multipliers=1,2", "model.attention_levels=1",
        "model.blocks=1", "model.timesteps=50", "model.dropout=0.2", "precision=fp32", "epochs=1",
        "ema=0.9", "optimizer=sgd", "lr=0.02", "grad_clip=0.3", "fractions=0.5,0.375,0.125",
        "val_every=0", "log_every=1", "save_every=1", "loader=torch")  # fmt: skip
STOP, KILL = 2, 4  # steps, both in the middle of the only epoch


def recipe(*more: str):
    return load_recipe("fgc2f_udiff", [*TINY, *more])


def undrawn() -> None:
    module.report.progress_png = validate._draw_synthesis = lambda *_, **__: None


def watched(made, data: Path, out: Path, sent: dict[int, int] | None = None) -> None:
    """Trains, and notes which samples are in this process's share of every step; `sent` are signals
    to itself by steps at whose beginning they come.
    """
    step = module._step

    def stepping(run, batch, lr):
        if run.at.step in (sent or {}):
            os.kill(os.getpid(), sent[run.at.step])
        seeds = [[int(number) for number in seed] for seed in batch["seed"]]
        with (out / f"seen-{run.fabric.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps([run.at.step, seeds]) + "\n")
        return step(run, batch, lr)

    module._step = stepping
    try:
        train(made, data, out)
    finally:
        module._step = step


def main(data: Path, out: Path) -> None:
    torch.set_num_threads(1)
    undrawn()
    for strategy in ("ddp", "fsdp"):
        watched(recipe(f"strategy={strategy}"), data, out / strategy)
    watched(recipe(), data, out / "moved", {KILL: signal.SIGKILL})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
