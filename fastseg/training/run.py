"""The state of a training run: built from a recipe, saved to a checkpoint, brought back from it."""

import copy
import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from fastseg import checkpoint, config, tasks
from fastseg.checkpoint import Position
from fastseg.config import Recipe
from fastseg.data import cases
from fastseg.data.cases import notices
from fastseg.errors import DataError, UsageError
from fastseg.host import environment, files
from fastseg.tasks.bounded import fill, group_of, no_larger_than
from fastseg.tasks.network import build_network, input_channels
from fastseg.training import sharded
from fastseg.training.engine import precision_of, scaler_of, set_up
from fastseg.training.feed import Feed, choose_labelled
from fastseg.training.resume import Saved
from fastseg.training.stop import StopSignal

log = logging.getLogger("fastseg")
RNG_RULE = "SeedSequence((seed, step, part))"  # part: a number among those of all processes


@dataclass
class Run:
    """What the training loop works on."""

    recipe: Recipe
    out: Path
    fabric: Any
    dataset: cases.Dataset
    split: dict[str, list[str]]
    feed: Feed
    net: Any  # Fabric's wrapper of module, or `sharded`'s
    module: nn.Module
    ema: nn.Module | None
    optimizer: Any
    at: Position
    stop: StopSignal = field(default_factory=StopSignal)
    held: files.Held | None = None  # of process 0
    failure: str = ""  # of this process's files: a reason to stop
    saved: tuple[Any, Path] | None = None  # what the last checkpoint is of, and its place

    @property
    def metrics(self) -> Path:
        return self.out / "metrics.jsonl"

    def may_give_up(self) -> AbstractContextManager:
        """As `StopSignal.may_give_up`; of several processes none leaves the others waiting."""
        return self.stop.may_give_up() if self.fabric.world_size == 1 else nullcontext()


def prepare(
    recipe: Recipe,
    data: str | Path,
    out: Path,
    fabric: Any,
    split: str | Path | None,
    saved: Saved | None,
) -> Run:
    """Make data, network and optimiser, fresh or as `saved` left them; write the small files."""
    tasks.of(recipe.system).check_recipe(recipe)
    dataset, parts = _data(recipe, data, split, saved)
    feed = Feed(dataset, parts, recipe, fabric)
    channels = input_channels(recipe, dataset.modalities)
    weights = None if saved is None else group_of(saved[2], "model")
    with nullcontext() if weights is None else no_larger_than(weights, recipe.system):
        module = build_network(recipe, channels, dataset.scheme, dataset.modalities)
    _check_fit(module, recipe)
    if fabric.is_global_zero:
        notices.warn(dataset, parts, recipe.data.patch)
    if not saved:
        tasks.of(recipe.system).begin(module, dataset, parts["train"], recipe.data.rule)
    ema = copy.deepcopy(module).requires_grad_(False) if recipe.ema is not None else None
    if saved:  # weights while they are whole
        fill(module, weights, recipe.system)
        if ema is not None:
            fill(ema, group_of(saved[2], "ema"), recipe.system)
    net, ema, optimizer = set_up(recipe, fabric, module, ema)
    at = Position(batches_per_epoch=feed.batches_per_epoch)
    run = Run(recipe, out, fabric, dataset, parts, feed, net, module, ema, optimizer, at)
    if saved:
        _restore(run, saved)
    if fabric.is_global_zero:
        _write_files(run)
    return run


def _check_fit(module: nn.Module, recipe: Recipe) -> None:
    """UsageError where the network cannot take what the recipe's loader gives."""
    patch, multiple = recipe.data.patch, module.multiple
    axes = module.axes or len(patch)
    if len(patch) != axes or any(n % multiple for n in patch):
        raise UsageError(f"data.patch: is {patch}, system {recipe.system} wants {axes} multiples "
                         f"of {multiple}")  # fmt: skip
    domains, classes = len(recipe.data.bezier_domains or ()), recipe.model.get("domains", 0)
    if classes and classes != domains:
        raise UsageError(f"model.domains: is {classes}, data.bezier_domains are {domains}")
    if recipe.labelled_fraction is not None and recipe.model.get("mode") != "ssl":
        log.warning("labelled_fraction: system %s learns nothing of the others", recipe.system)


def save(run: Run, kind: str = "last") -> Path:
    """Write a checkpoint, whole, in rank 0; the others wait. Returns its folder."""
    if run.held:
        run.held.check()
    path, first, here = run.out, run.fabric.is_global_zero, (kind, run.at.step, run.at.validated)
    if run.saved and run.saved[0] == here:
        return run.saved[1]  # whoever asks to stop would wait for the same again
    tensors, rest = checkpoint.pack_optimizer(run.optimizer.optimizer)
    groups = {"model": run.module.state_dict(), "optimizer": tensors}
    if run.ema is not None:
        groups["ema"] = run.ema.state_dict()
    groups = {name: sharded.gathered(tensors, first) for name, tensors in groups.items()}
    if first:
        run.at.metrics_bytes = run.metrics.stat().st_size if run.metrics.exists() else 0
        scaler = scaler_of(run.fabric)
        state = checkpoint.State(
            recipe=run.recipe,
            modalities=run.dataset.modalities,
            scheme=run.dataset.scheme,
            split=run.split,
            position=run.at,
            rng={"rule": RNG_RULE, "seed": run.recipe.seed, "step": run.at.step},
            optimizer=rest,
            scaler=scaler.state_dict() if scaler else None,
            precision=precision_of(run.fabric),
        ).to_dict()
        folder = run.out / "checkpoints"
        path = checkpoint.save(folder, groups, state, kind=kind, keep=2 if kind == "last" else 1)
    run.fabric.barrier()
    run.saved = here, path
    return path


def _data(
    recipe: Recipe, data: str | Path, split: str | Path | None, saved: Saved | None
) -> tuple[cases.Dataset, dict[str, list[str]]]:
    modalities = recipe.modalities
    if saved:
        modalities = saved[1].modalities
    dataset = tasks.of(recipe.system).training_data(recipe, data, modalities)
    if saved:
        if saved[1].scheme.classes != dataset.scheme.classes:
            raise UsageError(
                f"{data}: has other labels ({dataset.scheme.name}) than the run was trained on"
            )
        parts = saved[1].split
        known = {case.id for case in dataset.cases}
        gone = [case_id for ids in parts.values() for case_id in ids if case_id not in known]
        if gone:
            raise DataError(
                f"{data}: lacks {len(gone)} cases of the run's split, {gone[0]} the first"
            )
    elif split:
        parts = cases.load_split(split, dataset)
    else:
        parts = cases.split_cases(dataset, recipe.seed, recipe.fractions)
    if not parts["train"]:
        raise UsageError(f"{data}: {len(dataset.cases)} cases leave none to train on")
    if recipe.labelled_fraction is None:
        parts.pop("labelled", None)
    elif "labelled" not in parts:
        share = recipe.labelled_fraction
        parts["labelled"] = choose_labelled(dataset, parts["train"], share, recipe.seed)
    return dataset, parts


def _restore(run: Run, saved: Saved) -> None:
    path, state, groups = saved
    parameters = list(run.module.parameters())
    shares = {
        name: sharded.like(parameters[int(index)], value)
        if (index := name.partition(".")[0]).isdecimal() and int(index) < len(parameters)
        else value
        for name, value in group_of(groups, "optimizer").items()
    }
    checkpoint.unpack_optimizer(run.optimizer.optimizer, shares, state.optimizer)
    scaler = scaler_of(run.fabric)
    if scaler and state.scaler:
        checkpoint.load_scaler(scaler, state.scaler)
    now, run.at = run.at.batches_per_epoch, state.position
    before, begun = run.at.batches_per_epoch, state.precision
    if now != before:
        log.warning("%d batches an epoch, %d before: the epoch begins again", now, before)
        run.at.batch, run.at.batches_per_epoch = 0, now
    if now > before and state.rng.get("rule") != RNG_RULE:
        log.warning("data.batch_size=%d was that of each of several processes; now it is that of "
                    "all of them together", run.recipe.data.batch_size)  # fmt: skip
    if begun and begun != (precision := precision_of(run.fabric)):
        log.warning("goes on in %s, it was in %s", precision, begun)
    log.warning("resuming %s after step %d", path, run.at.step)


def _write_files(run: Run) -> None:
    (run.out / "checkpoints").mkdir(exist_ok=True)
    checkpoint.tidy(run.out / "checkpoints")
    files.write_json(run.out / "config.json", config.to_dict(run.recipe))
    files.write_json(run.out / "env.json", environment.of_run())
    cases.save_split(run.out / "split.json", run.split)
    files.cut(run.metrics, run.at.metrics_bytes)
