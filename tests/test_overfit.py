"""Segmentation systems learn four slices, or one volume, by heart."""

import math

import numpy as np
import pytest
import torch

from fastseg.config import load_recipe
from fastseg.data import phantom
from fastseg.data.cases.labels import BRATS
from fastseg.tasks.network import build_network
from fastseg.tasks.segmentation.score import region_dice
from fastseg.train import lr_at
from fastseg.training.engine import _optimizer

pytestmark = pytest.mark.usefixtures("one_thread")
BARS = {
    # recipe: steps, Dice, settings
    "fno": (60, 0.85, ("model.width=8", "model.modes=12,6", "lr=1e-2")),
    "diffusion_unet": (140, 0.95, ("model.width=8", "lr=3e-2")),
    "fno_diffusion": (120, 0.85, ("model.width=16", "model.modes=8", "lr=3e-2")),
    "fno_unet": (140, 0.95, ("model.width=8", "model.modes=8,6,4,2,1", "lr=3e-2")),
    "medsegdiff_v2_small": (
        100,
        0.9,
        (
            "model.width=16",
            "model.multipliers=1,1,2,2",
            "model.attention_levels=3",
            "model.condition_width=8",
            "model.ssformer_channels=32",
            "model.ssformer_blocks=1",
            "model.ssformer_heads=2",
            "model.sampling_steps=2",
            "model.ensemble=2",
            "lr=5e-3",
        ),
    ),
}
VOLUME = ("model.width=16", "model.dropout=0", "lr=1e-3", "amsgrad=false", "weight_decay=0",
          "precision=fp32")  # fmt: skip


@pytest.fixture(scope="module")
def four_slices() -> tuple[torch.Tensor, torch.Tensor]:
    """The slice of each of four patients that has most of the rarest class."""
    images, labels = [], []
    for index in range(4):
        volumes, values = phantom.patient((32, 32, 24), 0, index)
        classes = BRATS.to_classes(values)
        best = np.argmax([np.bincount(s.ravel(), minlength=4).min() for s in classes])
        image = np.stack([volumes[name][best] for name in phantom.MODALITIES]).astype(np.float32)
        brain = image[0] > 0
        inside = image[:, brain]
        image[:, brain] = (inside - inside.mean(1, keepdims=True)) / inside.std(1, keepdims=True)
        images.append(image)
        labels.append(classes[best])
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels))


@pytest.fixture(scope="module")
def volume() -> tuple[torch.Tensor, torch.Tensor]:
    """T2 around the tumour of a patient, and its mirror image."""
    volumes, values = phantom.patient((32, 32, 32), 0, 0)
    label = BRATS.to_classes(values)
    centre = np.argwhere(label > 0).mean(0).astype(int)
    box = tuple(slice(low, low + 16) for low in (centre - 8).clip(0, 16))
    brain = volumes["t2"][volumes["t2"] > 0]
    low, high = np.percentile(brain, (1, 99))
    image = ((volumes["t2"] - low) / (high - low)).clip(0, 1).astype(np.float32)[box]
    both = torch.from_numpy(image)[None, None], torch.from_numpy(label[box])[None]
    return tuple(torch.cat([x, x.flip(-1)]) for x in both)


@pytest.mark.parametrize("name", BARS)
def test_four_slices_are_learnt_by_heart(four_slices, name):
    steps, bar, settings = BARS[name]
    assert _learnt(name, settings, steps, *four_slices) >= bar


def test_a_volume_is_learnt_by_heart(volume):
    assert _learnt("segresnet_vffc", VOLUME, 250, *volume) >= 0.9


def _learnt(name: str, settings, steps: int, image: torch.Tensor, label: torch.Tensor) -> float:
    """Region Dice on what the recipe was trained on alone."""
    recipe = load_recipe(name, [*settings, f"epochs={steps}", "schedule=poly"])
    net = build_network(recipe, image.shape[1], BRATS)
    optimizer = _optimizer(recipe, net)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr_at(recipe, step, steps)
        batch = {"image": image, "label": label, "progress": step / steps}
        with torch.random.fork_rng():
            torch.manual_seed(step)
            loss, _ = net.training_loss(batch, torch.Generator().manual_seed(step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), recipe.grad_clip or math.inf)
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        p = net.eval().predict(image)
    found = net.decide(p) if hasattr(net, "decide") else p.argmax(1)
    if label.ndim == 4:  # volumes, one below the other
        found, label = found.flatten(0, 1), label.flatten(0, 1)
    return region_dice(BRATS, found.numpy(), label.numpy())
