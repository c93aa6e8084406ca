"""The patients of a study: the same for every arm, seed and later call."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from fastseg import models
from fastseg.config import Recipe
from fastseg.data import cases
from fastseg.errors import UsageError
from fastseg.studies.arms import Study
from fastseg.tasks.network import build_network, input_channels


def find(recipe: Recipe, data: str | Path) -> cases.Dataset:
    """Find the cases that the arms of a study can train on and be tested on."""
    segments = models.task(recipe.system) != "synthesis"
    # arms of segmentation may each see other modalities
    names = None if segments else recipe.modalities
    dataset = cases.discover(data, names, require_labels=segments, region=recipe.region)
    if segments:
        return dataset
    complete = tuple(case for case in dataset.cases if case.complete)
    return dataclasses.replace(dataset, cases=complete)


def true_images(
    recipe: Recipe, truth: str | Path | None, test: Sequence[str]
) -> cases.Dataset | None:
    """Find the data set that synthesised images are compared with, where it is another one.

    UsageError now where a true image will be missing.
    """
    if truth is None:
        return None
    if models.task(recipe.system) != "synthesis":
        raise UsageError("truth: is of studies of synthesis; labels are the truth of the others")
    dataset = cases.discover(truth, recipe.modalities)
    there = {case.id for case in dataset.cases if case.complete}
    if absent := [case for case in test if case not in there]:
        raise UsageError(f"{dataset.root}: lacks images of {', '.join(absent[:5])}")
    return dataset


def check_arms(plan: Study, recipes: Iterable[Recipe], dataset: cases.Dataset) -> None:
    """Raise UsageError now for what would stop a later arm, hours from now."""
    for recipe in recipes:
        names = recipe.modalities or dataset.modalities
        if unknown := {*names, *plan.modalities} - set(dataset.modalities):
            raise UsageError(f"{dataset.root}: the study wants {', '.join(sorted(unknown))} too")
        with torch.device("meta"):
            build_network(recipe, input_channels(recipe, names), dataset.scheme, names)


def split(out: Path, dataset: cases.Dataset, name: str, recipe: Recipe) -> dict[str, list[str]]:
    """Draw the study's patients when it begins, and read them afterwards."""
    path, record = out / "split.json", out / "study.json"
    known = json.loads(record.read_text())["study"] if record.exists() else name
    if known != name:
        raise UsageError(f"{out}: holds the study {known}; choose another folder")
    if path.exists():
        return cases.load_split(path, dataset)
    parts = cases.split_cases(dataset, recipe.seed, recipe.fractions)
    if not all(parts.values()):
        sizes = ", ".join(f"{len(ids)} {part}" for part, ids in parts.items())
        raise UsageError(f"{dataset.root}: {sizes} patients; a study wants some of each")
    cases.save_split(path, parts)
    return parts
