"""Diffusion systems whose label maps are nested regions."""

import dataclasses

import pytest
import torch

from fastseg import losses, models
from fastseg.data.cases.labels import BRATS

pytestmark = pytest.mark.usefixtures("seeded", "one_thread")
REGIONS = BRATS.region_indices()
OPTIONS = {
    "diffusion-unet": {"width": 4},
    "fno-diffusion": {"width": 4, "modes": 3},
    "fno-unet": {"width": 4, "modes": (3, 2, 1, 1, 1)},
}


def build(name, **options):
    return models.build(
        name, in_channels=2, classes=4, head="regions", regions=REGIONS, sampling_steps=2,
        **OPTIONS[name], **options,
    )  # fmt: skip


def batch(axes=2):
    shape = (2, *[16] * axes)
    return {
        "image": torch.randn(2, 2, *shape[1:]),
        "label": torch.randint(4, shape),
        "unlabelled": torch.randn(2, 2, *shape[1:]),
        "progress": 0.5,
    }


@pytest.mark.parametrize("mode", ["supervised", "ssl"])
@pytest.mark.parametrize("name", OPTIONS)
def test_trains_and_predicts_three_regions(name, mode):
    net, given = build(name, mode=mode), batch()
    assert net.segment(given["image"]).shape == (2, 3, 16, 16)
    loss, parts = net.training_loss(given, torch.Generator().manual_seed(0))
    loss.backward()
    assert loss.isfinite()
    assert {"weight_0", "weight_1", "weight_2"} <= parts.keys()
    assert "weight_3" not in parts
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)
    net.eval()
    for decoder in ("psi", "diffusion"):
        net.options = dataclasses.replace(net.options, decoder=decoder)
        p = net.predict(given["image"], torch.Generator().manual_seed(1))
        torch.testing.assert_close(p.sum(1), torch.ones(2, 16, 16))
        assert net.decide(p).shape == (2, 16, 16)


def test_volumes():
    net, given = build("fno-unet", axes=3), batch(3)
    loss, _ = net.training_loss(given, torch.Generator().manual_seed(0))
    assert loss.isfinite()
    assert net.eval().predict(given["image"]).shape == (2, 4, 16, 16, 16)


def test_the_wide_arm_is_as_large_as_the_fused_one():
    sizes = [sum(p.numel() for p in build("fno-unet", arm=arm).parameters())
             for arm in ("fused", "local-wide")]  # fmt: skip
    assert sizes[1] == pytest.approx(sizes[0], rel=0.02)


def test_loss_of_masks_is_its_formula():
    logits, target = torch.randn(2, 3, 5, 4), torch.randint(2, (2, 3, 5, 4)).float()
    weights = torch.tensor([0.5, 1.0, 3.0])
    p = logits.sigmoid()
    bce = -(target * p.log() + (1 - target) * (1 - p).log()).mean((0, 2, 3))
    dice = (2 * (p * target).sum((0, 2, 3)) + 1) / ((p + target).sum((0, 2, 3)) + 1 + 1e-8)
    plain, parts = losses.batch_dice_bce(logits, target)
    torch.testing.assert_close(plain, bce.mean() - dice.mean())
    torch.testing.assert_close(parts["bce"] - parts["dice"], plain)
    weighted, _ = losses.batch_dice_bce(logits, target, weights)
    torch.testing.assert_close(
        weighted, (weights * bce).sum() / weights.sum() - (weights * dice).mean()
    )


def test_hard_dice_of_masks():
    logits = torch.tensor([[1.0, 1, -1, -1], [1, -1, -1, -1], [-1, -1, -1, -1]]).view(1, 3, 4)
    target = torch.tensor([[1.0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]).view(1, 3, 4)
    found = losses.hard_region_dice(logits, target)
    assert found.tolist() == pytest.approx([0.8, 0, 0.5], abs=1e-6)


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"target: is \(1, 2, 4\), wanted that of logits"):
        losses.batch_dice_bce(torch.zeros(1, 3, 4), torch.zeros(1, 2, 4))
    with pytest.raises(ValueError, match="weights"):
        losses.batch_dice_bce(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4), torch.ones(2))
