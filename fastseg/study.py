"""Controlled comparisons: the same patients and schedule for every arm, several seeds.

    fastseg study fusion --data DATA --out STUDY
    fastseg study tracks --data DATA --out STUDY --seeds 0,1,2 epochs=100 A:lr=1e-3
    fastseg study synthesis --data PHANTOMS --truth CLEAN --out STUDY

STUDY/ARM/seed-S holds a run, its predictions of the test patients and their scores. Stopped at any
moment, the same command goes on: what is finished is read, the rest is trained on.
"""

import dataclasses
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastseg import config, models
from fastseg.config import Recipe, load_recipe
from fastseg.data import cases
from fastseg.errors import UsageError
from fastseg.host import files
from fastseg.host.device import pick_device
from fastseg.host.processes import Place, launched
from fastseg.studies import checks, pictures, runs, tables
from fastseg.studies import data as study_data
from fastseg.studies.arms import STUDIES, Arm, Study


def study(
    name: str,
    data: str | Path,
    out: str | Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    overrides: Sequence[str] = (),
    truth: str | Path | None = None,
    arms: Sequence[str] | None = None,
) -> Path:
    """Run the study called `name` on the data set in `data`; returns the path of study.md.

    `out` receives split.json, study.json, study.md, study.html and a folder for each arm, written
    anew after each finished run. `overrides` are `name=value` settings, which each arm takes whose
    recipe has such a key, or `ARM:name=value` for one arm, or `segmenter:name=value` where there
    are checks. `truth` is a data set of the same patients whose images arms of synthesis are
    compared with, such as phantoms without noise. `arms` picks some by name, the others being
    tested against the first of them; default all.
    UsageError for an unknown study or arm, for a key that no arm has, for a truth that lacks a test
    patient, and when `out` holds something else; Stopped after a signal; what
    `fastseg.train.train` raises.
    """
    plan, out = _named(name), Path(out)
    chosen = _chosen(plan, arms)
    recipes = {(arm.name, seed): recipe_of(plan, arm, seed, overrides)
               for seed in _checked_seeds(seeds) for arm in chosen}  # fmt: skip
    if plan.checks:
        checks.segmenter(overrides)
    _refuse_several_processes(recipes.values())
    first = next(iter(recipes.values()))
    pick_device(first.device)  # before hours of other work
    with files.locked(out):
        dataset = study_data.find(first, data)
        study_data.check_arms(plan, recipes.values(), dataset)
        split = study_data.split(out, dataset, name, first)
        true = study_data.true_images(first, truth, split["test"])
        record = {"study": name, "question": plan.question, "data": str(dataset.root.resolve()),
                  "overrides": list(overrides), "seeds": list(seeds), "split": split,
                  "arms": [dataclasses.asdict(arm) for arm in chosen], "runs": [],
                  "chosen": None if arms is None else list(arms),
                  "task": models.task(first.system),
                  "truth": None if true is None else str(true.root.resolve())}  # fmt: skip
        _run(record, plan, recipes, dataset, out, true)
        if plan.checks:
            record["checks"] = checks.checks(record, dataset, out, overrides)
            tables.write_tables(record, out)
        return pictures.write_pictures(record, true or dataset, out)


def _run(
    record: dict[str, Any], plan: Study, recipes: dict[tuple[str, int], Recipe],
    dataset: cases.Dataset, out: Path, true: cases.Dataset | None,
) -> None:  # fmt: skip
    """All runs, each with its scores in the record and the tables when it ends."""
    for number, ((arm, seed), recipe) in enumerate(recipes.items(), 1):
        _say(f"study {record['study']}, run {number} of {len(recipes)}: {arm} with seed {seed}")
        place = out / _folder(arm) / f"seed-{seed}"
        result = runs.result(recipe, dataset, place, out / "split.json", plan, true)
        record["runs"].append({"arm": arm, "seed": seed, **result})
        if number == 1:
            record |= checks.baselines(record, dataset, out, plan.hide, true)
        tables.write_tables(record, out)


def _folder(arm: str) -> str:
    return arm.replace(" ", "-")


def _named(name: str) -> Study:
    if name not in STUDIES:
        near = difflib.get_close_matches(name, STUDIES, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"wanted one of {', '.join(STUDIES)}"
        raise UsageError(f"{name}: no such study; {hint}")
    return STUDIES[name]


def _chosen(plan: Study, names: Sequence[str] | None) -> Sequence[Arm]:
    if names is None:
        return plan.arms
    known = {arm.name: arm for arm in plan.arms}
    for name in names:
        if name not in known:
            near = config.did_you_mean(name, known)
            raise UsageError(f"arms: the study has no {name!r}{near}")
    if not names or len(set(names)) < len(names):
        raise UsageError(f"arms: is {', '.join(names)!r}, wanted different ones")
    return [known[name] for name in names]


def _checked_seeds(seeds: Sequence[int]) -> Sequence[int]:
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UsageError(f"seeds: is {list(seeds)}, wanted different whole numbers from 0")
    return seeds


def recipe_of(plan: Study, arm: Arm, seed: int, overrides: Sequence[str]) -> Recipe:
    """Make the recipe of one arm with one seed: of the overrides it takes those that it has.

    UsageError for a key that no arm has, and for one that makes the arms differ.
    """
    known = {other.name: _keys(other) for other in plan.arms}
    fixed = {setting.partition("=")[0] for setting in arm.settings}
    common, own = [], []
    for item, text in map(config.split_override, overrides):
        only, _, key = item.rpartition(":")
        if plan.checks and only == checks.SEGMENTER_ARM:
            continue
        if only and only not in known:
            raise UsageError(f"{item}: the study has no such arm{config.did_you_mean(only, known)}")
        keys = known[only] if only else set().union(*known.values())
        key = config.full_key(key, keys)
        if key not in keys:
            whose = f"arm {only} has no such" if only else "no arm of the study has such a"
            raise UsageError(f"{key}: {whose} key{config.did_you_mean(key, keys)}")
        if only not in ("", arm.name) or key not in known[arm.name]:
            continue
        if key in fixed:
            raise UsageError(f"{key}: is what makes the arms differ")
        (own if only else common).append(f"{key}={text}")
    return load_recipe(arm.recipe, [*plan.common, *arm.settings, *common, *own, f"seed={seed}"])


def _keys(arm: Arm) -> set[str]:
    return set(config.option_types(load_recipe(arm.recipe))) - {"seed"}


def _refuse_several_processes(recipes) -> None:
    if (launched() or Place()).world > 1 or any(recipe.devices > 1 for recipe in recipes):
        raise UsageError("study: runs in one process; give each GPU its own seeds and folder")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
