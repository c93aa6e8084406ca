"""What `fastseg study` does with systems of synthesis: scores of a run, and the checks of its first
arm that its source leaves open: inputs that get worse, and what segmentation makes of its images.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fastseg import config, sample
from fastseg.config import Recipe
from fastseg.data.cases import Case, Dataset, save_split
from fastseg.data.pipeline import load_case
from fastseg.evaluate import evaluate
from fastseg.host.device import pick_device
from fastseg.host.files import write_json
from fastseg.tasks.base import case_noise
from fastseg.tasks.modality_synthesis.case import Known, load_known
from fastseg.tasks.modality_synthesis.predict import synthesise_volume
from fastseg.tasks.modality_synthesis.score import MEASURES, score_volume
from fastseg.tasks.network import Trained
from fastseg.tasks.segmentation.predict import predict_volume
from fastseg.tasks.segmentation.score import region_dice
from fastseg.train import train

LEVELS = (0.0, 0.05, 0.1, 0.2)  # of noise (its deviation) and ghosts, as shares of the range
CHECKED_CASES = 4
BASELINES = {"mean": "mean of given", "regression": "linear regression"}
SEGMENTER = "diffusion_unet"  # whose plain decoder predicts in one pass
SEGMENTER_ARM = "segmenter"  # as which overrides may name it


def scores(
    best: Path, dataset: Dataset, predictions: Path, folder: Path, test: Sequence[str],
    kernels: str, hide: Sequence[str], truth: Dataset | None = None, by: str | None = None,
) -> tuple[list[dict], list[str]]:  # fmt: skip
    """Score a checkpoint, or `by` a baseline in its place, against the images of `truth`.

    Gives a row a patient, means over its subsets: `MEASURES`, and "psnr_t1" … of each modality.
    """
    sample.sample(
        best, dataset.root, predictions, part="test", kernels=kernels, hide=list(hide), by=by
    )
    report = evaluate(
        predictions, dataset, folder, task="synthesis", truth=truth, cases=test, quiet=True
    )
    rows = []
    for case in test:
        mine = [row for row in report.rows if row["case"] == case]
        found = {key: _mean(mine, "given", key) for key in MEASURES}
        found |= {
            f"psnr_{name}": _mean([row for row in mine if row["modality"] == name], "given", "psnr")
            for name in report.groups["modality"]
        }
        rows.append({"case": case} | {key: x for key, x in found.items() if x is not None})
    return rows, list(report.groups["modality"])


def _mean(rows: Sequence[Mapping], group: str, key: str) -> float | None:
    groups: dict[str, list] = {}
    for row in rows:
        if row[key] is not None:
            groups.setdefault(row[group], []).append(row[key])
    return float(np.mean([np.mean(values) for values in groups.values()])) if groups else None


def baselines(
    record: Mapping[str, Any], dataset: Dataset, out: Path, hide: Sequence[str],
    truth: Dataset | None,
) -> dict[str, list[dict]]:  # fmt: skip
    """Score what the arms of synthesis have to beat, on the first run's subsets.

    Gives {"baselines": rows}, read where they are finished, out/baselines/NAME/result.json; nothing
    for studies of another task.
    """
    if record["task"] != "synthesis":
        return {}
    run, found = record["runs"][0], []
    identity = {"predictions": run["predictions"], "truth": record["truth"]}
    for by, arm in BASELINES.items():
        folder = out / "baselines" / by
        path = folder / "result.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        if {key: known.get(key) for key in identity} != identity:
            best = (out / run["metrics"]).parent / "checkpoints" / Path(run["predictions"]).name
            predictions = folder / "predictions" / best.name
            test = record["split"]["test"]
            rows, _ = scores(best, dataset, predictions, folder, test, "auto", hide, truth, by)
            write_json(path, known := identity | {"rows": rows})
        found.append({"arm": arm, "rows": known["rows"]})
    return {"baselines": found}


def checks(
    record: Mapping[str, Any], dataset: Dataset, out: Path, overrides: Sequence[str]
) -> dict[str, Any]:
    """Put the first run to the checks, or read them where they are done: out/checks/checks.json."""
    run = record["runs"][0]
    path, identity = out / "checks" / "checks.json", {"predictions": run["predictions"]}
    known = json.loads(path.read_text()) if path.exists() else {}
    if known.get("predictions") != identity["predictions"]:
        path.parent.mkdir(exist_ok=True)
        test = record["split"]["test"]
        found = {"degraded": degraded(out / run["metrics"], dataset, test[:CHECKED_CASES])}
        labels = [dataset.by_id(case).label for ids in record["split"].values() for case in ids]
        if all(label is not None and label.exists() for label in labels):
            found["segmented"] = segmented(
                dataset, record["split"], out / run["predictions"], out / "checks", overrides
            )
        write_json(path, identity | found)
    return json.loads(path.read_text())


def degraded(metrics: Path, dataset: Dataset, cases: Sequence[str]) -> list[dict]:
    """Score single missing modalities, with the given ones ever worse; the truth stays as it is.

    Gives rows of "kind", "level", and mean "psnr" and "ssim".
    """
    net, recipe = _network(metrics.parent)
    rows = []
    for kind in ("noise", "ghost"):
        for level in LEVELS:
            found = [
                score
                for case in cases
                for score in _degraded_case(net, recipe, dataset.by_id(case), kind, level)
            ]
            row = {key: float(np.mean([score[key] for score in found])) for key in ("psnr", "ssim")}
            rows.append({"kind": kind, "level": level, **row})
    return rows


def _network(run: Path) -> tuple[nn.Module, Recipe]:
    trained = Trained.load(run)
    return trained.network().to(pick_device(trained.recipe.device)), trained.recipe


def _degraded_case(
    net: nn.Module, recipe: Recipe, case: Case, kind: str, level: float
) -> list[dict]:
    known = load_known(case, net.modalities, recipe.data.rule)
    worse = Known(
        degrade(known.image, known.brain, kind, level, recipe.seed), known.available, known.brain,
        known.scales, known.header,
    )  # fmt: skip
    found, truth = [], (known.image.clip(-1, 1) + 1) / 2
    for mask in [mask for mask in net.masks().numpy() if mask.sum() == len(mask) - 1]:
        noise = case_noise(recipe.seed, case.id, torch.device("cpu"))
        options = recipe.data.patch, recipe.data.at_once, noise
        filled = synthesise_volume(net, worse, mask, *options)
        place = int(np.flatnonzero(~mask)[0])
        made = (filled[place].clip(-1, 1) + 1) / 2
        found.append(score_volume(made, truth[place], known.brain, None))
    return found


def degrade(image: np.ndarray, brain: np.ndarray, kind: str, level: float, seed: int) -> np.ndarray:
    """Make images (M, D, H, W) in −1 … 1 worse inside the brain (D, H, W): by Rician "noise" of
    deviation `level`, or a "ghost" of that strength, half the field of view away along H.
    """
    unit = (image + 1) / 2
    if kind == "noise":
        noise = level * np.random.default_rng(seed).standard_normal((2, *image.shape))
        worse = np.hypot(unit + noise[0], noise[1])
    else:
        worse = (1 - level) * unit + level * np.roll(unit, image.shape[2] // 2, 2)
    return np.where(brain, 2 * worse.clip(0, 1) - 1, image).astype(np.float32)


def segmenter(overrides: Sequence[str]) -> Recipe:
    """Make the recipe of the network that segments.

    It takes those overrides that it has too, but for the network's, and what is written
    segmenter:name=value. UsageError where that is wrong.
    """
    types = config.option_types(config.load_recipe(SEGMENTER))
    mine = [
        item
        for item in overrides
        if (key := config.full_key(item.partition("=")[0], types)) in types
        and not key.startswith("model.")
        and key not in ("precision", "lr", "data.normalise", "data.foreground_fraction")
    ]
    prefix = f"{SEGMENTER_ARM}:"
    own = [item.removeprefix(prefix) for item in overrides if item.startswith(prefix)]
    usual = ["schedule=cosine", "optimizer=adam", "lr=1e-3"]
    return config.load_recipe(SEGMENTER, [*mine, *usual, *own])


def segmented(
    dataset: Dataset, split: Mapping[str, Sequence[str]], predictions: Path, out: Path,
    overrides: Sequence[str],
) -> list[dict]:  # fmt: skip
    """Segment the test patients by a network trained on real images, with each modality in turn
    real, synthesised from the other three, or missing (0 everywhere).

    Gives rows of "modality", "images" and "dice".
    """
    recipe = segmenter(overrides)
    save_split(out / "split.json", dict(split))
    train(recipe, dataset.root, out / "segmenter", split=out / "split.json")
    net, recipe = _network(out / "segmenter")
    work = [("all", "real", {})]
    for name in dataset.modalities:
        given = "+".join(other for other in dataset.modalities if other != name)
        # an arm of one task has not made all
        if (predictions / given).is_dir():
            work.append((name, "synthesised", {name: predictions / given}))
        work.append((name, "missing", {name: None}))
    return [
        {"modality": name, "images": images,
         "dice": _dice(net, recipe, dataset, split["test"], replaced)}
        for name, images, replaced in work
    ]  # fmt: skip


@torch.no_grad()
def _dice(
    net: nn.Module, recipe: Recipe, dataset: Dataset, test: Sequence[str],
    replaced: Mapping[str, Path | None],
) -> float:  # fmt: skip
    """Mean region Dice with some modalities from a folder of predictions, or (None) as 0."""
    found, rule = [], recipe.data.rule
    for case in map(dataset.by_id, test):
        made = {name: place / f"{case.id}_{name}_pred.nii.gz"
                for name, place in replaced.items() if place is not None}  # fmt: skip
        arrays = load_case(dataset, replace(case, images=case.images | made), rule)
        for name in replaced.keys() - made.keys():
            arrays.image[dataset.modalities.index(name)] = rule.background
        image = torch.from_numpy(arrays.image).to(next(net.parameters()).device)
        options = recipe.data.patch, recipe.data.at_once
        classes = predict_volume(net, image, *options, background=rule.background)
        found.append(region_dice(dataset.scheme, classes, arrays.label))
    return float(np.mean(found))
