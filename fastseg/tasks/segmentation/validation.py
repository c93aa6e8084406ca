"""Scores and pictures of validation cases while a network is trained."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fastseg.data.cases import Dataset
from fastseg.data.pipeline import load_case
from fastseg.tasks.base import Validated, case_noise
from fastseg.tasks.network import input_channels
from fastseg.tasks.segmentation.picture import overlay_png
from fastseg.tasks.segmentation.predict import predict_volume
from fastseg.tasks.segmentation.score import region_dice


def validate(
    net: nn.Module, recipe, dataset: Dataset, case_id: str, watch: Callable[..., None]
) -> Validated:
    """Segment a case as a whole; the score is the mean Dice of its regions."""
    data = recipe.data
    case = load_case(dataset, dataset.by_id(case_id), data.rule)
    image = torch.from_numpy(case.image).to(next(net.parameters()).device)
    noise, found = case_noise(recipe.seed, case_id, image.device), []
    # a network of one channel sees one modality at a time; each counts alike
    for shown in image.split(input_channels(recipe, dataset.modalities)):
        classes = predict_volume(
            net, shown, data.patch, data.at_once, noise, watch, background=data.rule.background
        )
        found.append(region_dice(dataset.scheme, classes, case.label))

    def draw(path: Path) -> Path:
        names = {"modalities": dataset.modalities, "classes": dataset.scheme.classes}
        return overlay_png(case.image, case.label, classes, path, title=case_id, **names)

    return Validated(float(np.mean(found)), draw)
