"""One run of a study: trained, sampled and scored, or read where that is done."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastseg import checkpoint, config, models
from fastseg.config import Recipe
from fastseg.data import cases
from fastseg.evaluate import evaluate
from fastseg.host import files
from fastseg.sample import sample
from fastseg.studies import checks
from fastseg.studies.arms import Study
from fastseg.tasks.network import build_network, input_channels
from fastseg.train import train


def result(
    recipe: Recipe, dataset: cases.Dataset, folder: Path, split: Path, plan: Study,
    truth: cases.Dataset | None,
) -> dict[str, Any]:  # fmt: skip
    """Read the scores of one run where they are finished, else make them by training and sampling.

    Each of its steps does only what is left to do, so being called again costs little.
    """
    path, test = folder / "result.json", _read(split)["test"]
    identity = {"recipe": config.to_dict(recipe), "test": test,
                "truth": None if truth is None else str(truth.root.resolve())}  # fmt: skip
    identity = config.from_json(identity)
    known = config.from_json(_read(path)) if path.exists() else {}
    if {key: known.get(key) for key in identity} != identity:
        train(recipe, dataset.root, folder / "run", split=split)
        found = _scores(recipe, dataset, folder, test, plan.hide, truth)
        if plan.modalities:
            found["across"] = _across(recipe, dataset, folder, plan.modalities, found)
        files.write_json(path, identity | found)
    return _read(path)


def _scores(
    recipe: Recipe, dataset: cases.Dataset, folder: Path, test: Sequence[str], hide: Sequence[str],
    truth: cases.Dataset | None,
) -> dict[str, Any]:  # fmt: skip
    best, chosen, _ = checkpoint.load_run(checkpoint.find(folder / "run"), ("model",))
    _, last, _ = checkpoint.load_run(checkpoint.generations(folder / "run" / "checkpoints"), ())
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
    names = chosen.modalities
    net = build_network(recipe, input_channels(recipe, names), dataset.scheme, names)
    return {
        "rows": rows,
        "regions": regions,
        "predictions": str(predictions.relative_to(folder.parents[1])),
        "metrics": str((folder / "run" / "metrics.jsonl").relative_to(folder.parents[1])),
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "epochs": last.position.epoch,
        "best_epoch": chosen.position.epoch,
        "time_s": last.position.time_s,
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
        sample(best, dataset.root, out, part=part, kernels=recipe.kernels, modalities=names)
        return evaluate(out, dataset, modalities=names, quiet=True).groups["modality"]

    validation = list(shown("validation", "val", trained).values())
    mean = {key: float(np.mean([one[key] for one in validation])) for key in validation[0]}
    return shown("across", "test", modalities) | {"validation": mean}


def _read(path: Path) -> Any:
    return json.loads(path.read_text())
