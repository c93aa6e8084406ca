"""`fastseg sample` of a system of synthesis: the missing modalities of whole patients as NIfTI."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fastseg import sample
from fastseg.config import Recipe
from fastseg.data.cases import Case, LabelScheme, discover
from fastseg.errors import UsageError
from fastseg.host.processes import Place, launched
from fastseg.host.progress import progress
from fastseg.tasks import network
from fastseg.tasks.base import case_generator
from fastseg.tasks.modality_synthesis import predict
from fastseg.tasks.modality_synthesis.baselines import BASELINES, cases_to_fit
from fastseg.tasks.modality_synthesis.picture import Shown, synthesis_png

_PICTURED = 4  # cases; a picture takes longer than to synthesise on a GPU


def sample_cases(
    recipe: Recipe,
    state: dict[str, Any],
    groups: dict,
    record: dict[str, Any],
    data: str | Path,
    out: Path,
    *,
    cases: Sequence[str] | None,
    part: str,
    kernels: str,
    suffix: str,
    hide: Sequence[str],
    by: str | None,
) -> list[Path]:
    """What `fastseg.sample.sample` does for a system of synthesis, arguments as there.

    Writes CASE_MODALITY_<suffix>.nii.gz, with hide "every" in a folder for each subset of the
    modalities, such as t1+flair, and of the first cases a picture of one slice. UsageError where
    nothing is missing.
    """
    modalities = tuple(state["modalities"])
    hide = predict.check_hidden(hide, modalities) if hide else ()
    dataset = discover(data)
    place = launched() or Place()
    # each process takes its share of the cases
    everyone = sample.choose_cases(dataset, state["split"], cases, part)
    chosen = everyone[place.rank :: place.world]
    if not any(_missing(case, modalities, hide) for case in everyone):
        raise UsageError(
            f"{dataset.root}: no case lacks any of {', '.join(modalities)}; --hide takes some away"
        )
    record = record | {"hide": tuple(hide)}
    if by is not None:
        fit = cases_to_fit(by, dataset, state["split"]["train"])
        record["by"] = by
    device = network.own_device(recipe.device, place)
    sample.claim(out, record, suffix)
    scheme = LabelScheme.from_dict(state["scheme"])
    net = network.load_network(recipe, len(modalities), scheme, groups, modalities)
    if by is not None:
        net = BASELINES[by].fitted(modalities, fit, recipe.data.rule).like(net)
    net, written = net.to(device), []
    with network.use_kernels(kernels), progress(len(chosen), "synthesise") as advance:
        for number, case in enumerate(chosen):
            draw = number < _PICTURED
            written += _case(net, case, recipe, out, suffix, hide, advance, draw)
            advance(text=case.id)
    return written


def _missing(case: Case, modalities: Sequence[str], hide: Sequence[str]) -> bool:
    there = [name for name in modalities if name in case.images and case.images[name].exists()]
    return bool(hide) or 0 < len(there) < len(modalities)


def _case(
    net: nn.Module, case: Case, recipe: Recipe, out: Path, suffix: str, hide: Sequence[str],
    advance: Callable, draw: bool,
) -> list[Path]:  # fmt: skip
    known = predict.load_known(case, net.modalities, recipe.data.rule)
    plans = predict.plans(net, net.modalities, known.available, hide)
    written, text, part = [], case.id, 0.0

    def on_slices(done: int, total: int) -> None:
        nonlocal text, part
        text, part = f"{case.id}, slice {done}/{total}", (number + done / total) / len(plans)
        advance(0, text, part)

    def on_step(t: int, *_) -> None:
        advance(0, f"{text}, step {t}", part)

    net.on_step = on_step
    for number, (folder, available) in enumerate(plans):  # noqa: B007 - on_slices reads it
        paths = [out / folder / f"{case.id}_{name}_{suffix}.nii.gz"
                 for name, there in zip(net.modalities, available, strict=True)
                 if not there]  # fmt: skip
        noted = predict.read_record(out / folder, case.id)
        if not all(path.exists() and path.name in noted for path in paths):
            noise = case_generator(recipe.seed, f"{case.id} {folder}", torch.device("cpu"))
            filled = predict.synthesise_volume(
                net, known, available, recipe.data.patch, recipe.data.at_once, noise, on_slices
            )
            predict.write_missing(net, case, known, available, filled, out / folder, suffix)
            if draw:
                _draw(case, known, available, filled, net.modalities, out / folder)
        written += paths
    return written


def _draw(case: Case, known, available, filled, modalities: Sequence[str], out: Path) -> None:
    index = int(known.brain.sum((1, 2)).argmax())
    truth = np.where(known.available[:, None, None], known.image[:, index], np.nan)
    shown = Shown(f"{case.id}\nslice {index}", available, filled[:, index], truth)
    synthesis_png([shown], modalities, out / f"{case.id}_synthesis.png")
