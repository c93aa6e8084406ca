"""Controlled comparisons: the same patients and schedule for every arm, several seeds.

    fastseg study fusion --data DATA --out STUDY
    fastseg study tracks --data DATA --out STUDY --seeds 0,1,2 epochs=100 A:lr=1e-3
    fastseg study synthesis --data PHANTOMS --truth CLEAN --out STUDY

STUDY/ARM/seed-S holds a run, its predictions of the test patients and their scores. Stopped at any
moment, the same command goes on: what is finished is read, the rest is trained on.
"""

import dataclasses
import difflib
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastseg import across, checkpoint, config, models
from fastseg.config import Recipe, load_recipe
from fastseg.data import cases
from fastseg.errors import UsageError
from fastseg.evaluate import evaluate
from fastseg.host import files
from fastseg.host.processes import Place, launched
from fastseg.sample import sample
from fastseg.studies import checks, tables
from fastseg.studies.arms import STUDIES, Arm, Study
from fastseg.tasks.network import build_network, input_channels, pick_device
from fastseg.train import train


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
    recipes = {(arm.name, seed): _recipe(plan, arm, seed, overrides)
               for seed in _checked_seeds(seeds) for arm in chosen}  # fmt: skip
    if plan.checks:
        checks.segmenter(overrides)
    _refuse_several_processes(recipes.values())
    first = next(iter(recipes.values()))
    pick_device(first.device)  # before hours of other work
    with files.locked(out):
        dataset = _dataset(first, data)
        _check_arms(plan, recipes.values(), dataset)
        split = _split(out, dataset, name, first)
        true = _truth(first, truth, split["test"])
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
        return tables.write_pictures(record, true or dataset, out)


def _run(
    record: dict[str, Any], plan: Study, recipes: dict[tuple[str, int], Recipe],
    dataset: cases.Dataset, out: Path, true: cases.Dataset | None,
) -> None:  # fmt: skip
    """All runs, each with its scores in the record and the tables when it ends."""
    for number, ((arm, seed), recipe) in enumerate(recipes.items(), 1):
        _say(f"study {record['study']}, run {number} of {len(recipes)}: {arm} with seed {seed}")
        place = out / _folder(arm) / f"seed-{seed}"
        result = _result(recipe, dataset, place, out / "split.json", plan, true)
        record["runs"].append({"arm": arm, "seed": seed, **result})
        if number == 1 and record["task"] == "synthesis":
            record["baselines"] = checks.baselines(record, dataset, out, plan.hide, true)
        tables.write_tables(record, out)


def _dataset(recipe: Recipe, data: str | Path) -> cases.Dataset:
    segments = models.task(recipe.system) != "synthesis"
    # arms of segmentation may each see other modalities
    names = None if segments else recipe.modalities
    dataset = cases.discover(data, names, require_labels=segments, region=recipe.region)
    if segments:
        return dataset
    complete = tuple(c for c in dataset.cases if all(p.exists() for p in c.images.values()))
    return dataclasses.replace(dataset, cases=complete)


def _truth(recipe: Recipe, truth: str | Path | None, test: Sequence[str]) -> cases.Dataset | None:
    """UsageError now where a true image will be missing."""
    if truth is None:
        return None
    if models.task(recipe.system) != "synthesis":
        raise UsageError("truth: is of studies of synthesis; labels are the truth of the others")
    dataset = cases.discover(truth, recipe.modalities)
    there = {c.id for c in dataset.cases if all(path.exists() for path in c.images.values())}
    if absent := [case for case in test if case not in there]:
        raise UsageError(f"{dataset.root}: lacks images of {', '.join(absent[:5])}")
    return dataset


def _check_arms(plan: Study, recipes: Iterable[Recipe], dataset: cases.Dataset) -> None:
    """UsageError now for what would stop a later arm, hours from now."""
    for recipe in recipes:
        names = recipe.modalities or dataset.modalities
        if unknown := {*names, *plan.modalities} - set(dataset.modalities):
            raise UsageError(f"{dataset.root}: the study wants {', '.join(sorted(unknown))} too")
        with torch.device("meta"):
            build_network(recipe, input_channels(recipe, names), dataset.scheme, names)


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


def _recipe(plan: Study, arm: Arm, seed: int, overrides: Sequence[str]) -> Recipe:
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


def _split(out: Path, dataset: cases.Dataset, name: str, recipe: Recipe) -> dict[str, list[str]]:
    """The study's patients: drawn when it begins, the same for every arm, seed and later call."""
    path, record = out / "split.json", out / "study.json"
    known = _read(record)["study"] if record.exists() else name
    if known != name:
        raise UsageError(f"{out}: holds the study {known}; choose another folder")
    if path.exists():
        return cases.load_split(path, dataset)
    split = cases.split_cases(dataset, recipe.seed, recipe.fractions)
    if not all(split.values()):
        sizes = ", ".join(f"{len(ids)} {part}" for part, ids in split.items())
        raise UsageError(f"{dataset.root}: {sizes} patients; a study wants some of each")
    cases.save_split(path, split)
    return split


def _result(
    recipe: Recipe, dataset: cases.Dataset, folder: Path, split: Path, plan: Study,
    truth: cases.Dataset | None,
) -> dict[str, Any]:  # fmt: skip
    """Scores of one run, read where they are finished, else made by training and predicting.

    Each of its steps does only what is left to do, so being called again costs little.
    """
    path, test = folder / "result.json", _read(split)["test"]
    identity = {"recipe": config.to_dict(recipe), "test": test,
                "truth": None if truth is None else str(truth.root.resolve())}  # fmt: skip
    identity = config.from_json(identity)
    known = config.from_json(_read(path)) if path.exists() else {}
    if {key: known.get(key) for key in identity} != identity:
        train(recipe, dataset.root, folder / "run", split=split)
        scores = _scores(recipe, dataset, folder, test, plan.hide, truth)
        if plan.modalities:
            scores["across"] = _across(recipe, dataset, folder, plan.modalities, scores)
        files.write_json(path, identity | scores)
    return _read(path)


def _scores(
    recipe: Recipe, dataset: cases.Dataset, folder: Path, test: Sequence[str], hide: Sequence[str],
    truth: cases.Dataset | None,
) -> dict[str, Any]:  # fmt: skip
    best, chosen, _ = checkpoint.load_newest(checkpoint.find(folder / "run"), ("model",))
    last, _ = checkpoint.load(checkpoint.generations(folder / "run" / "checkpoints")[0], ())
    # by checkpoint: predictions of a run that went on do not mix with those from before
    predictions = folder / "predictions" / best.name
    if models.task(recipe.system) == "synthesis":
        rows, regions = checks.scores(
            best, dataset, predictions, folder, test, recipe.kernels, hide, truth
        )
    else:
        sample(best, dataset.root, predictions, part="test", kernels=recipe.kernels)
        report = evaluate(predictions, dataset, folder, cases=test, missing="error", quiet=True)
        rows, regions = report.rows, report.regions
    names = chosen["modalities"]
    net = build_network(recipe, input_channels(recipe, names), dataset.scheme, names)
    return {
        "rows": rows,
        "regions": regions,
        "predictions": str(predictions.relative_to(folder.parents[1])),
        "metrics": str((folder / "run" / "metrics.jsonl").relative_to(folder.parents[1])),
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "epochs": last["position"]["epoch"],
        "best_epoch": chosen["position"]["epoch"],
        "time_s": last["position"]["time_s"],
    }


def _across(
    recipe: Recipe,
    dataset: cases.Dataset,
    folder: Path,
    modalities: Sequence[str],
    scores: dict[str, Any],
) -> dict[str, dict[str, float]]:
    """Mean scores of the test patients by modality, and of the validation patients as trained: a
    mean over the modalities that a network of one channel saw one at a time.
    """
    best, name = checkpoint.find(folder / "run")[0], Path(scores["predictions"]).name
    trained = recipe.modalities or dataset.modalities
    if input_channels(recipe, trained) > 1:
        own = folder / "validation" / name
        sample(best, dataset.root, own, part="val", kernels=recipe.kernels)
        return {"validation": evaluate(own, dataset, quiet=True).mean}

    def shown(place: str, part: str, names: Sequence[str]) -> dict[str, dict[str, float]]:
        out = folder / place / name
        across.sample(best, dataset.root, out, names, part=part, kernels=recipe.kernels)
        reports = across.evaluate(out, dataset, names, quiet=True)
        return {key: report.mean for key, report in reports.items()}

    validation = list(shown("validation", "val", trained).values())
    mean = {key: float(np.mean([one[key] for one in validation])) for key in validation[0]}
    return shown("across", "test", modalities) | {"validation": mean}


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
