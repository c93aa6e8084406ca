"""The state of a training run: built from a recipe, saved to a checkpoint, brought back from it."""

import copy
import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fastseg import checkpoint, config, tasks
from fastseg.config import Recipe
from fastseg.data import cases
from fastseg.data.cases import notices
from fastseg.errors import DataError, UsageError
from fastseg.host import environment, files
from fastseg.tasks.network import build_network, input_channels
from fastseg.training import sharded
from fastseg.training.engine import precision_of, scaler_of, set_up
from fastseg.training.feed import Feed, choose_labelled
from fastseg.training.resume import Saved

log = logging.getLogger("fastseg")
RNG_RULE = "SeedSequence((seed, step, part))"  # part: a number among those of all processes


@dataclass
class Position:
    """Where a run is; state.json holds all of it. `step` counts batches, skipped ones included."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    batches_per_epoch: int = 0
    validated: int = 0  # epochs whose end was dealt with
    best: float = -1.0
    best_epoch: int = 0  # when that was
    skipped: int = 0
    in_a_row: int = 0
    time_s: float = 0.0
    metrics_bytes: int = 0  # length of metrics.jsonl: lines after it are of steps to be done again

    @classmethod
    def restored(cls, values: Any) -> "Position":
        """Make it of what state.json holds. CheckpointError for other keys, and for no numbers.

        Runs from before a key came have its default, but for those that say where they are.
        """
        if not isinstance(values, dict):
            raise checkpoint.CheckpointError(f"position is {values!r:.80}, wanted a dict")
        known = {field.name for field in dataclasses.fields(cls)}
        wrong = [*values.keys() - known, *{"step", "epoch", "batch"} - values.keys()]
        wrong += [key for key, value in values.items() if type(value) not in (int, float)]
        if wrong:
            raise checkpoint.CheckpointError(
                f"position.{wrong[0]}: is missing, unknown or no number"
            )
        return cls(**values)

    def advance(self, finite: bool) -> None:
        """Count one batch."""
        self.step, self.batch = self.step + 1, self.batch + 1
        if self.batch == self.batches_per_epoch:
            self.epoch, self.batch = self.epoch + 1, 0
        self.skipped += not finite
        self.in_a_row = 0 if finite else self.in_a_row + 1

    def finished(self, recipe: Recipe) -> bool:
        """Tell whether all epochs are done, or the last `recipe.patience` were no better."""
        if self.validated >= recipe.epochs or recipe.patience is None:
            return self.validated >= recipe.epochs
        # epochs whose end was not validated say nothing yet
        latest = recipe.val_every and self.validated // recipe.val_every * recipe.val_every
        return self.best >= 0 and latest - self.best_epoch >= recipe.patience


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

    @property
    def metrics(self) -> Path:
        return self.out / "metrics.jsonl"


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
    module = build_network(recipe, channels, dataset.scheme, dataset.modalities)
    _check_fit(module, recipe)
    if fabric.is_global_zero:
        notices.warn(dataset, parts, recipe.data.patch)
    if not saved:
        tasks.of(recipe.system).begin(module, dataset, parts["train"], recipe.data.rule)
    ema = copy.deepcopy(module).requires_grad_(False) if recipe.ema is not None else None
    if saved:  # weights while they are whole
        module.load_state_dict(saved[2]["model"])
        if ema is not None:
            ema.load_state_dict(saved[2]["ema"])
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
    path, first = run.out, run.fabric.is_global_zero
    tensors, rest = checkpoint.pack_optimizer(run.optimizer.optimizer)
    groups = {"model": run.module.state_dict(), "optimizer": tensors}
    if run.ema is not None:
        groups["ema"] = run.ema.state_dict()
    groups = {name: sharded.gathered(tensors, first) for name, tensors in groups.items()}
    if first:
        run.at.metrics_bytes = run.metrics.stat().st_size if run.metrics.exists() else 0
        scaler = scaler_of(run.fabric)
        state = {
            "recipe": config.to_dict(run.recipe),
            "modalities": list(run.dataset.modalities),
            "scheme": run.dataset.scheme.to_dict(),
            "split": run.split,
            "position": dataclasses.asdict(run.at),
            "rng": {
                "rule": RNG_RULE,
                "seed": run.recipe.seed,
                "step": run.at.step,
            },
            "optimizer": rest,
            "scaler": scaler.state_dict() if scaler else None,
            "precision": precision_of(run.fabric),
        }
        folder = run.out / "checkpoints"
        path = checkpoint.save(folder, groups, state, kind=kind, keep=2 if kind == "last" else 1)
    run.fabric.barrier()
    return path


def _data(
    recipe: Recipe, data: str | Path, split: str | Path | None, saved: Saved | None
) -> tuple[cases.Dataset, dict[str, list[str]]]:
    modalities = recipe.modalities
    if saved:
        modalities = tuple(saved[1]["modalities"])
    dataset = tasks.of(recipe.system).training_data(recipe, data, modalities)
    if saved:
        if tuple(saved[1]["scheme"]["classes"]) != dataset.scheme.classes:
            raise UsageError(
                f"{data}: has other labels ({dataset.scheme.name}) than the run was trained on"
            )
        parts = saved[1]["split"]
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
        name: sharded.like(parameters[int(name.partition(".")[0])], value)
        for name, value in groups["optimizer"].items()
    }
    checkpoint.unpack_optimizer(run.optimizer.optimizer, shares, state["optimizer"])
    scaler = scaler_of(run.fabric)
    if scaler and state["scaler"]:
        scaler.load_state_dict(state["scaler"])
    now, run.at = run.at.batches_per_epoch, Position.restored(state.get("position"))
    before, begun = run.at.batches_per_epoch, state.get("precision")
    if now != before:
        log.warning("%d batches an epoch, %d before: the epoch begins again", now, before)
        run.at.batch, run.at.batches_per_epoch = 0, now
    if now > before and state["rng"]["rule"] != RNG_RULE:
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
    with run.metrics.open("ab") as file:
        file.truncate(min(run.at.metrics_bytes, run.metrics.stat().st_size))
