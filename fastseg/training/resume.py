"""What is there of a run before it goes on, and whether a recipe goes on with it."""

import dataclasses
from pathlib import Path
from typing import Any

from fastseg import checkpoint, config
from fastseg.config import Recipe
from fastseg.errors import UsageError

Saved = tuple[Path, checkpoint.State, dict[str, checkpoint.Tensors]]
# keys that change how long or how a run computes, not what: a resumed run may differ in them
_FREE = {"epochs", "patience", "device", "devices", "strategy", "loader", "kernels"}
_FREE |= {"val_every", "val_cases", "save_every", "log_every", "max_skipped"}
_FREE |= {"data.threads", "data.cache", "data.cache_dir", "data.max_bad", "data.micro_batch"}


def as_begun(recipe: Recipe, out: Path) -> Recipe:
    """Replace precision auto of `recipe` by that which the run in `out` was given by name."""
    paths = checkpoint.generations(out / "checkpoints")
    if recipe.precision != "auto" or not paths:
        return recipe
    begun = checkpoint.load_run(paths, ())[1].recipe
    return dataclasses.replace(recipe, precision=begun.precision)


def find_saved(recipe: Recipe, out: Path, resume: bool, fabric: Any) -> Saved | None:
    """Load the newest sound checkpoint of a run. UsageError when it is of another recipe."""
    folder = out / "checkpoints"
    paths = checkpoint.generations(folder)
    if not paths:
        return None
    if not resume:
        raise UsageError(f"{out}: holds a run already; resume it or choose another folder")
    saved = checkpoint.load_run(paths)
    saved[1].check_goes_on(saved[0])
    fabric.barrier()
    if fabric.is_global_zero:
        checkpoint.tidy(folder, damaged=paths[: paths.index(saved[0])])
    _check_same(recipe, saved[1].recipe, out)
    return saved


def _check_same(recipe: Recipe, begun: Recipe, out: Path) -> None:
    # keys that came after the run began have their defaults
    before = config.to_dict(begun)
    if recipe.name in config.recipe_names():
        before["model"] = config.load_recipe(recipe.name).model | before["model"]
    old, new = config.flatten(before), config.flatten(config.to_dict(recipe))
    old, new = config.from_json(old), config.from_json(new)
    differing = [
        key for key in sorted(old | new) if old.get(key) != new.get(key) and key not in _FREE
    ]
    if not differing:
        return
    listed = ", ".join(f"{key} ({old.get(key)} → {new.get(key)})" for key in differing)
    way = "choose another folder"
    if old.keys() & config.option_types(recipe).keys() >= set(differing):
        given = " ".join(f"{key}={config.shown(old[key])}" for key in differing)
        way = f"{given} goes on with it, or {way}"
    raise UsageError(f"{out}: was trained with other settings: {listed}; {way}")
