"""Train one recipe. Killed at any moment, the same command goes on where the last checkpoint was.

    fastseg train fno --data DATA --out RUN
    fastseg train fno --data DATA --out RUN epochs=100 data.batch_size=16 kernels=reference
    torchrun --nproc-per-node 4 -m fastseg train fno --data DATA --out RUN    # processes.py

Every random draw comes from (seed, step) or (seed, epoch, sample): a position is all to resume.
"""

import gc
import logging
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from fastseg import report, tasks
from fastseg.config import Recipe
from fastseg.errors import DataError, FastsegError, NonFiniteError
from fastseg.host import files
from fastseg.host.device import kernels_on, use_kernels
from fastseg.host.processes import lost_another
from fastseg.host.progress import progress
from fastseg.host.pulse import Pulse, pulse
from fastseg.training.engine import launch, precision_of
from fastseg.training.resume import as_begun, find_saved
from fastseg.training.run import Run, prepare, save
from fastseg.training.step import take_step
from fastseg.training.stop import Interrupted, Stopped, StopSignal
from fastseg.training.validate import validate

log = logging.getLogger("fastseg")


def train(
    recipe: Recipe,
    data: str | Path,
    out: str | Path,
    *,
    split: str | Path | None = None,
    resume: bool = True,
) -> Path:
    """Train `recipe` on the data set in `data`; returns the last checkpoint's folder.

    `out` receives config.json, env.json, split.json, metrics.jsonl, progress.png, overlays/ and
    checkpoints/. A run found there goes on from its newest sound checkpoint, unless `resume` is
    False (then UsageError). `split` names a saved split to use instead of a new one.
    UsageError when the recipe differs from the run's or another process trains there; DataError;
    NonFiniteError after recipe.max_skipped bad steps in a row; Stopped after a signal;
    FastsegError when another process of the run has ended. A run goes on with whatever number of
    processes and `data.micro_batch`: its batches are the same.
    """
    out = Path(out)
    with ExitStack() as stack:
        stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        recipe = as_begun(recipe, out)
        fabric = launch(recipe)
        held = stack.enter_context(files.locked(out)) if fabric.is_global_zero else None
        stop = stack.enter_context(StopSignal())
        stack.enter_context(use_kernels(recipe.kernels))
        fabric.barrier()
        saved = find_saved(recipe, out, resume, fabric)
        if saved and (at := saved[1].position).finished(recipe):
            more = "epochs" if at.validated >= recipe.epochs else "patience"
            log.warning("%s is finished (%d epochs); a larger %s= goes on", out, at.validated, more)
            return saved[0]
        run = _prepared(stop, held, recipe, data, out, fabric, split, saved)
        stack.callback(run.feed.close)
        if fabric.is_global_zero:
            log.warning("%s", _plan(run))
        life = stack.enter_context(pulse(fabric.global_rank, fabric.world_size))
        try:
            return _loop(run, stop)
        except DataError:
            if run.fabric.world_size == 1:  # others would have to save with it
                save(run)
            raise
        except RuntimeError as error:
            if life is None or not lost_another(error):
                raise
            raise _alone(run, life, error) from error


def _alone(run: Run, life: Pulse, error: RuntimeError) -> FastsegError:
    ranks = ", ".join(f"process {rank}" for rank in life.silent()) or "the others"
    return FastsegError(
        f"process {life.rank} lost {ranks} after step {run.at.step}; start all again to go on "
        f"from the last checkpoint in {run.out} ({error})"
    )


def lr_at(recipe: Recipe, step: int, steps: int) -> float:
    """Give the learning rate of `step` (from 0) of `steps`; "poly" changes it once an epoch."""
    if recipe.schedule == "constant":
        return recipe.lr
    if recipe.schedule == "poly":
        return recipe.lr * (1 - step * recipe.epochs // steps / recipe.epochs) ** 0.9
    return recipe.lr_min + (recipe.lr - recipe.lr_min) * (1 + math.cos(math.pi * step / steps)) / 2


def _plan(run: Run) -> str:
    """What is to be done, in a line."""
    recipe, division, steps = run.recipe, run.feed.division, run.at.batches_per_epoch
    batch, world, accumulate = recipe.data.batch_size, len(division), max(map(len, division))
    divided, largest = "", max(map(max, division))
    if world > 1 or accumulate > 1:
        most = "" if batch == world * largest * accumulate else "at most "
        divided = f" = {world} process{'es' * (world > 1)} x {most}{largest} sample"
        divided += f"{'s' * (largest > 1)} x {accumulate} accumulated"
    return (
        f"training {recipe.name}: {len(run.split['train'])} cases, batch {batch}{divided}, "
        f"{steps} step{'s' * (steps > 1)} an epoch, {steps * recipe.epochs} in all, "
        f"{precision_of(run.fabric)}, {kernels_on(run.fabric.device.type, recipe.kernels)} kernels"
    )


def _loop(run: Run, stop: StopSignal) -> Path:
    recipe, at = run.recipe, run.at
    steps, start_s = recipe.epochs * at.batches_per_epoch, time.monotonic() - at.time_s
    with progress(steps, f"train {recipe.name}", at.step, not run.fabric.is_global_zero) as advance:
        while True:
            if at.batch == 0 and at.epoch > at.validated:
                last = _end_epoch(run, stop)
            if _stopping(run, stop):
                raise _left(run, stop)
            if at.finished(recipe):
                return last
            mark, seen = time.monotonic(), 0
            for batch in _batches(run):
                # not at.step: an epoch that began again with other batches has counted some twice
                done = at.epoch * at.batches_per_epoch + at.batch
                batch["progress"] = done / steps
                try:
                    row = take_step(run, batch, lr_at(recipe, done, steps))
                except Interrupted:
                    break  # it is done again after resuming
                at.time_s, seen = time.monotonic() - start_s, seen + recipe.data.batch_size
                advance(1)
                if row:
                    rate = seen / (time.monotonic() - mark)
                    row |= {"samples_per_s": round(rate, 2), "time_s": round(at.time_s, 3)}
                    _log(run, row)
                    advance(0, f"loss {row.get('loss', math.nan):.4f}  {rate:.1f} samples/s")
                    mark, seen = time.monotonic(), 0
                _give_up(run)
                if _stopping(run, stop):
                    break
                if at.step % recipe.save_every == 0 and at.batch:
                    save(run)


def _left(run: Run, stop: StopSignal) -> FastsegError:
    """What is said on the way out; the state is saved before."""
    after = f"after step {run.at.step}"
    if not run.failure:
        who = stop.name or "another process"
        return Stopped(f"stopped by {who} {after}; saved in {save(run)}")
    try:
        return FastsegError(f"stopped {after}: {run.failure}; saved in {save(run)}")
    except FastsegError as error:
        return FastsegError(f"stopped {after}: {run.failure}; {error}")


def _prepared(stop: StopSignal, held: files.Held | None, *given: Any) -> Run:
    """Nothing is to be saved yet, so a signal is obeyed wherever this is."""
    try:
        with stop.may_give_up():
            run = prepare(*given)
    except Interrupted:
        raise Stopped(f"stopped by {stop.name} before the first step") from None
    run.stop, run.held = stop, held
    return run


def _batches(run: Run) -> Iterator[dict[str, Any]]:
    """The rest of an epoch; its end too where a batch does not come though a signal has."""
    batches = run.feed.epoch(run.at.epoch, run.at.batch, run.at.step)
    while True:
        try:
            with run.may_give_up():
                batch = next(batches, None)
        except Interrupted:
            return
        if batch is None:
            return
        yield batch


def _give_up(run: Run) -> None:
    if run.at.in_a_row >= run.recipe.max_skipped:
        raise NonFiniteError(
            f"{run.at.in_a_row} non-finite steps in a row up to step {run.at.step}; the last good "
            f"weights are in {save(run)}, the samples in {run.metrics}"
        )


def _stopping(run: Run, stop: StopSignal) -> bool:
    asked = bool(stop.name or run.failure)
    if run.fabric.world_size == 1:
        return asked
    flag = torch.tensor(float(asked), device=run.fabric.device)
    return run.fabric.all_reduce(flag, reduce_op="sum").item() > 0


def _end_epoch(run: Run, stop: StopSignal) -> Path | None:
    """Validate when due, draw, save; an interrupted validation is done again after resuming."""
    recipe, at = run.recipe, run.at
    final = at.epoch >= recipe.epochs
    due = recipe.val_every and run.split["val"] and (final or at.epoch % recipe.val_every == 0)
    if due:
        save(run)  # validation may take longer than whoever stops it will wait
    score = validate(run, stop) if due else None
    if _stopping(run, stop):
        return None
    if score is not None:
        key = tasks.of(recipe.system).validation_key
        _log(run, {"step": at.step, "epoch": at.epoch, key: score})
    at.validated = at.epoch
    improved = score is not None and score > at.best
    if improved:
        at.best, at.best_epoch = score, at.epoch
    if run.fabric.is_global_zero and (due or final):
        with files.harmless(run.out / "progress.png"):
            report.progress_png(run.metrics, run.out / "progress.png")
        # figures hold themselves in circles; left to chance, some lie about and memory grows
        gc.collect()
    if improved:
        save(run, "best")
    return save(run)


def _log(run: Run, row: dict[str, Any]) -> None:
    """Append to the metrics; where they cannot be written the run is saved and left."""
    if run.fabric.is_global_zero:
        try:
            files.append_row(run.metrics, row)
        except OSError as error:
            run.failure = f"{run.metrics}: cannot be written ({error.strerror})"
        if "skipped" in row:
            log.warning("step %d skipped: %s; cases %s", row["step"], row["skipped"], row["cases"])
