"""Scores and pictures of validation cases while a network is trained."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fastseg.data.cases import Dataset
from fastseg.data.geometry import bounding_box
from fastseg.data.pipeline.intensity import Rule
from fastseg.tasks.base import Validated, case_noise
from fastseg.tasks.modality_synthesis.case import Known, load_known, readable
from fastseg.tasks.modality_synthesis.picture import Shown, synthesis_png
from fastseg.tasks.modality_synthesis.predict import on_canvas

_SCALE_CASES = 32  # training volumes whose mean scale an absent modality gets


def learn_scales(net: nn.Module, dataset: Dataset, ids: Sequence[str], rule: Rule) -> None:
    """Set the network's `intensities`, the mean scale of each modality, from training cases.

    At most 32 of `ids` are read; those that cannot be are left out.
    """
    cases = [dataset.by_id(case_id) for case_id in ids[:: -(-len(ids) // _SCALE_CASES)]]
    found = [known.scales for known in readable(cases, dataset.modalities, rule)]
    if found:
        net.intensities.copy_(torch.from_numpy(np.mean(found, 0)))


def validate(
    net: nn.Module, recipe, dataset: Dataset, case_id: str, number: int, watch: Callable[..., None]
) -> Validated:
    """Score a case by `validation_score`, with a picture of a slice each of 1, 2, 3 missing."""
    watch()  # in between the steps of sampling do
    known = load_known(dataset.by_id(case_id), dataset.modalities, recipe.data.rule)
    noise = case_noise(recipe.seed, case_id, next(net.parameters()).device)
    data = recipe.data
    score, shown = validation_score(net, known, data.patch, data.at_once, noise, number)

    def draw(path: Path) -> Path:
        slices = {}
        for index, available, filled in shown:
            title, truth = f"{case_id}\nslice {index}", known.image[:, index]
            slices.setdefault(int(available.sum()), Shown(title, available, filled, truth))
        return synthesis_png(list(slices.values()), dataset.modalities, path)

    return Validated(score, draw)


def validation_score(
    net: nn.Module, known: Known, patch: Sequence[int], batch_size: int,
    generator: torch.Generator, turn: int,
) -> tuple[float, list[tuple[int, np.ndarray, np.ndarray]]]:  # fmt: skip
    """Average the PSNR in dB over the availability masks, each on a slice of its own.

    Slices are evenly spread; which mask is on which depends on `turn`. Next to the score: (slice,
    available, filled (M, H, W)) of each.
    """
    masks = net.masks().roll(turn, 0)
    z, y, x = bounding_box(known.brain)
    at = np.linspace(z.start, z.stop - 1, len(masks) + 2).round().astype(int)[1:-1]
    device, found = next(net.parameters()).device, []
    slices = torch.from_numpy(known.image[:, at, y, x]).movedim(1, 0)
    for batch, given in zip(slices.split(batch_size), masks.split(batch_size), strict=True):
        filled = on_canvas(net, batch.to(device), given.to(device), patch, generator)
        found.append(filled.cpu())
    missing = ~masks
    error = (torch.cat(found) - slices).double().square().mean((2, 3)).clamp(min=4e-10)
    decibel = 10 * (4 / error).log10()
    score = ((decibel * missing).sum(1) / missing.sum(1)).mean()
    shown = []
    for index, picture in enumerate(torch.cat(found).numpy()):
        whole = known.image[:, at[index]].copy()
        whole[:, y, x] = picture
        shown.append((int(at[index]), masks[index].numpy(), whole))
    return float(score), shown
