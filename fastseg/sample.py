"""Predict whole patients with a trained network; needs nothing but a checkpoint and the data.

fastseg sample RUN --data DATA --out PREDICTIONS
fastseg sample RUN --data DATA --out PREDICTIONS --part test
fastseg sample RUN --data DATA --out PREDICTIONS --modalities t1,t1ce,t2,flair    # across.py
fastseg sample RUN/checkpoints/last-000012 --data DATA --out PREDICTIONS --cases A,B --suffix seg
fastseg sample RUN --data DATA --out PREDICTIONS --labels ET=3    # not the data set's values
fastseg sample RUN --data DATA --out PREDICTIONS sampler=dpm++ sampling_steps=20 ensemble=5
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fastseg import checkpoint, config, models
from fastseg.data import nifti
from fastseg.data.cases import Case, Dataset, LabelScheme, discover
from fastseg.data.pipeline import load_case
from fastseg.errors import UsageError, offered
from fastseg.host.files import write_json
from fastseg.host.processes import Place, launched
from fastseg.host.progress import progress
from fastseg.tasks.base import case_generator
from fastseg.tasks.network import input_channels, load_network, own_device, use_kernels
from fastseg.tasks.segmentation.label_values import as_before, label_values
from fastseg.tasks.segmentation.predict import predict_volume
from fastseg.tasks.segmentation.predictions import ALL_EMPTY, RECORD

log = logging.getLogger("fastseg")


def sample(
    checkpoint_path: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    cases: Sequence[str] | None = None,
    part: str = "all",
    kernels: str = "auto",
    suffix: str = "pred",
    overrides: Sequence[str] = (),
    modalities: Sequence[str] | None = None,
    hide: Sequence[str] = (),
    by: str | None = None,
    labels: Mapping[str, int] | None = None,
) -> list[Path]:
    """Write `out/CASE_<suffix>.nii.gz` for each case of `data`; returns the paths. A system with an
    ensemble writes CASE_uncertainty.nii.gz beside it, the members' variance in float32.

    Started by torchrun or srun, each process predicts its share of the cases.

    Class indices become label values, noted in `out/sample.json`, in the geometry of the case's
    images: the data set's own (`label_values`), or those of `labels`.
    `cases` picks by id, `part` by the checkpoint's split ("train", "val", "test"). Averaged weights
    are used when there are any. `overrides` are `name=value` changes of the system's sampling
    options and of the device. `modalities` are shown in place of those trained on, as many.
    Finished cases are skipped when a stopped call is repeated; the noise of a case depends on the
    run's seed and its id alone. A system of synthesis writes missing modalities instead, can be
    made to `hide` some, and to let them be written `by` what it has to beat,
    "mean" or "regression". UsageError for unknown cases or options,
    or a folder that holds other predictions; DataError names a damaged file.
    """
    out = Path(out)
    places = checkpoint.find(checkpoint_path)
    found, state, groups = checkpoint.load_newest(places, ("model", "ema"))
    recipe = config.from_dict(state["recipe"])
    allowed = models.sampling_options(recipe.system)
    recipe = config.override_sampling(recipe, allowed, overrides)
    record = {"weights": state["sha256"], "data": str(Path(data).resolve())}
    if recipe.region:
        record["region"] = recipe.region
    if allowed:
        record["sampling"] = {key: recipe.model[key] for key in sorted(allowed & set(recipe.model))}
    common = {"cases": cases, "part": part, "kernels": kernels, "suffix": suffix}
    if models.task(recipe.system) == "synthesis":
        if modalities is not None:
            raise UsageError("modalities: a system of synthesis takes what a case has; see hide")
        if labels is not None:
            raise UsageError("labels: a system of synthesis writes images")
        options = [item for item in overrides if not item.startswith("device=")]
        if by is not None and options:
            raise UsageError(f"by: {by} has no options such as {options[0]}")
        from fastseg.tasks.modality_synthesis.sampling import sample_cases

        return sample_cases(recipe, state, groups, record, data, out, **common, hide=hide, by=by)
    if hide or by is not None:
        name = "hide" if hide else "by"
        raise UsageError(f"{name}: system {recipe.system} does not synthesise modalities")
    names = {"modalities": modalities, "labels": labels, "name": found.name}
    return _segment(recipe, state, groups, record, data, out, **common, **names)


def _segment(
    recipe: config.Recipe, state: dict[str, Any], groups: dict, record: dict[str, Any],
    data: str | Path, out: Path, *, cases: Sequence[str] | None, part: str, kernels: str,
    suffix: str, modalities: Sequence[str] | None, labels: Mapping[str, int] | None, name: str,
) -> list[Path]:  # fmt: skip
    """Label maps of the process's share of the cases; `name` is the checkpoint's."""
    shown = _shown(recipe, tuple(state["modalities"]), modalities)
    dataset = _discover(recipe, data, shown)
    if dataset.modalities != tuple(state["modalities"]):
        record["modalities"] = dataset.modalities
    place = launched() or Place()
    chosen = choose_cases(dataset, state["split"], cases, part)[place.rank :: place.world]
    scheme = LabelScheme.from_dict(state["scheme"])
    values = label_values(dataset, scheme, labels)
    former = record if as_before(dataset, scheme, values) else None
    device = own_device(recipe.device, place)
    claim(out, record | {"labels": values}, suffix, former)
    net = load_network(recipe, len(shown), scheme, groups).to(device)
    paths = [out / f"{case.id}_{suffix}.nii.gz" for case in chosen]
    left = [pair for pair in zip(chosen, paths, strict=True) if not pair[1].exists()]
    done, empty = len(paths) - len(left), []
    with use_kernels(kernels), progress(len(paths), f"sample {name}", done) as advance:
        for case, path in left:
            classes, variance, header = _predict_case(net, dataset, case, recipe, advance)
            if variance is not None:
                nifti.write(out / f"{case.id}_uncertainty.nii.gz", variance, header)
            empty.append(not classes.any())
            nifti.write(path, scheme.to_values(classes, list(values.values())), header)
            advance(text=case.id)
    if empty and all(empty):
        log.warning("%s: " + ALL_EMPTY, out, len(empty), len(empty))
    return paths


def _discover(recipe: config.Recipe, data: str | Path, shown: Sequence[str]) -> Dataset:
    """The data set, merged to the recipe's region where there are labels to say what that is."""
    dataset = discover(data, shown)
    if recipe.region is None or all(case.label is None for case in dataset.cases):
        return dataset
    return discover(data, shown, region=recipe.region)


def _predict_case(
    net: nn.Module, dataset: Dataset, case: Case, recipe: config.Recipe, advance: Callable
) -> tuple[np.ndarray, np.ndarray | None, nifti.Header]:
    arrays = load_case(dataset, case, recipe.data.rule)
    image = torch.from_numpy(arrays.image).to(next(net.parameters()).device)
    text, part = case.id, 0.0

    def on_windows(done: int, total: int) -> None:
        nonlocal text, part
        text, part = f"{case.id}, window {done}/{total}", done / total
        advance(0, text, part)

    def on_step(t: int, *_) -> None:
        advance(0, f"{text}, step {t}", part)

    net.on_step = on_step
    noise = case_generator(recipe.seed, case.id, image.device)
    patch, batch_size = recipe.data.patch, recipe.data.at_once
    variance = None
    if hasattr(net, "predict_with_variance"):
        variance = np.zeros(arrays.image.shape[1:], np.float32)
    classes = predict_volume(
        net, image, patch, batch_size, noise, on_windows, variance, recipe.data.rule.background
    )
    return classes, variance, arrays.header


def _shown(
    recipe: config.Recipe, trained: tuple[str, ...], wanted: Sequence[str] | None
) -> tuple[str, ...]:
    """What the channels of the network's input are; the first of those it saw one at a time."""
    channels = input_channels(recipe, trained)
    shown = trained[:channels] if wanted is None else tuple(wanted)
    if len(shown) != channels:
        raise UsageError(
            f"modalities: is {', '.join(shown)}, wanted {channels}, for the network was trained on "
            f"{', '.join(trained)}"
        )
    return shown


def choose_cases(
    dataset: Dataset, split: dict[str, list[str]], ids: Sequence[str] | None, part: str
) -> list[Case]:
    if part != "all" and part not in split:
        raise UsageError(f"part: is {part!r}, wanted all, {', '.join(split)}")
    known = {case.id: case for case in dataset.cases}
    wanted = list(ids) if ids is not None else list(known) if part == "all" else split[part]
    missing = [case_id for case_id in wanted if case_id not in known]
    if missing:
        there = offered(missing[0], known)
        raise UsageError(f"{dataset.root}: has no case {', '.join(missing[:5])}{there}")
    return [known[case_id] for case_id in wanted]


def claim(
    out: Path, record: dict[str, Any], suffix: str, former: dict[str, Any] | None = None
) -> None:
    """Predictions already there are skipped, so they must be this checkpoint's of this data set.
    `former`: a record of the same in other words.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / RECORD
    # before the record is read: another process may write it, and then predictions, now
    some = any(out.glob(f"*_{suffix}.nii.gz"))
    try:
        known = config.from_json(json.loads(path.read_text())) if path.exists() else None
    except ValueError:
        known = {}
    fits = known in (record, former) if known else known is None and not some
    if not fits:
        raise UsageError(f"{out}: holds other predictions; choose another folder")
    if known != record:
        write_json(path, record)
