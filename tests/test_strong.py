"""Strong augmentation: what is drawn, what it does, and that loader and batch do not matter."""

import numpy as np
import pytest
import torch

from fastseg.data import phantom
from fastseg.data.cases import discover
from fastseg.data.pipeline import Loader, LoaderConfig, dali, strong
from fastseg.data.pipeline.strong import Change, augment, change_sample, draw

PATCHES = [(40, 40), (10, 20, 28)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return discover(phantom.write(tmp_path_factory.mktemp("strong") / "set", 2, (40, 36, 24)))


def batches(dataset, config, backend="torch", **options):
    names = [case.id for case in dataset.cases]
    with Loader(dataset, names, config, backend=backend, **options) as loader:
        return list(loader.epoch(1))


def bits(batch):
    # as bits, so that -0 is not 0
    return batch["image"].view(torch.int32), batch["label"]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a["seed"] == b["seed"]
        assert all(map(torch.equal, bits(a), bits(b)))


def ball(*size):
    """Two contrasts of a smooth ball off the centre, and its parts as labels."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij")
    distance = sum((a - 0.1 * i) ** 2 for i, a in enumerate(axes)) ** 0.5
    levels = np.stack([np.cos(2 * distance) + 1.5, np.sin(5 * distance + axes[-1]) - 2])
    image = torch.tensor(np.where(distance < 0.7, levels, 0), dtype=torch.float32)
    return image, torch.tensor(np.digitize(distance, [0.5, 0.3]) % 3 * (distance < 0.5)).byte()


@pytest.mark.parametrize("patch", PATCHES)
def test_loaders_are_bitwise_equal(dataset, patch):
    if reason := dali.unavailable(None):
        pytest.skip(f"DALI cannot be used: {reason}")
    config = LoaderConfig(patch, 3, 6, strong=True, seed=5)
    assert_same(*(batches(dataset, config, backend) for backend in ("dali", "torch")))


@pytest.mark.parametrize("patch", PATCHES)
def test_the_seed_decides_and_the_batch_does_not(dataset, patch):
    config = LoaderConfig(patch, 4, 6, strong=True, seed=5)
    out = batches(dataset, config)
    assert_same(out, batches(dataset, config))
    plain = batches(dataset, LoaderConfig(patch, 4, 6, seed=5))
    changed = 0
    for before, after in zip(plain, out, strict=True):
        assert before["seed"] == after["seed"]
        image, label = augment(before["image"], before["label"], before["seed"])
        assert_same([{**before, "image": image, "label": label}], [after])
        for i, seed in enumerate(after["seed"]):
            alone = augment(before["image"][i : i + 1], before["label"][i : i + 1], [seed])
            assert torch.equal(alone[0][0], after["image"][i])
            nothing = draw(seed, len(patch), 4) == Change()
            assert torch.equal(before["image"][i], after["image"][i]) == nothing
            changed += not nothing
    assert changed > 6


def test_off_means_nothing_is_called(dataset, monkeypatch):
    assert LoaderConfig((24, 24)).strong is False
    monkeypatch.setattr(strong, "augment", None)
    assert batches(dataset, LoaderConfig((24, 24), 4, 4))


@pytest.mark.parametrize("axes", [2, 3])
def test_what_is_drawn(axes):
    changes = [vars(draw((7, 0, n), axes, 3)) for n in range(3000)]
    drawn = {name: [c[name] for c in changes if c[name] is not None] for name in changes[0]}
    for values in drawn.values():
        # three of six, each with probability 0.7
        assert len(values) / 3000 == pytest.approx(0.35, abs=0.03)
    counts = np.bincount([sum(value is not None for value in c.values()) for c in changes])
    np.testing.assert_allclose(counts / 3000, [0.027, 0.189, 0.441, 0.343], atol=0.03)
    limits = {
        "degrees": (-15, 15), "sigma": (0.7, 1.3), "scale": strong.SCALE[axes],
        "brightness": strong.BRIGHTNESS[axes], "contrast": strong.CONTRAST[axes],
        "gamma": strong.GAMMA[axes],
    }  # fmt: skip
    for name, (low, high) in limits.items():
        values = np.array(drawn[name])
        assert values.ndim == (1 if name in ("degrees", "sigma", "scale") else 2)
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high
    assert (np.array(drawn["gamma"]) < 1).mean() == pytest.approx(0.5, abs=0.05)
    assert changes[0] == vars(draw((7, 0, 0), axes, 3)) != vars(draw((7, 1, 0), axes, 3))


@pytest.mark.parametrize("size", [(9, 9), (8, 8), (5, 8, 8)])
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_are_permutations(size, quarters):
    # fails if the centre or the half-voxel convention is off
    rng = torch.Generator().manual_seed(0)
    image = torch.rand(2, *size, generator=rng)
    label = torch.randint(0, 4, size, generator=rng, dtype=torch.uint8)
    turned, classes = change_sample(image, label, Change(degrees=90.0 * quarters))
    assert torch.equal(classes, torch.rot90(label, quarters, (-2, -1)))
    torch.testing.assert_close(turned, torch.rot90(image, quarters, (-2, -1)), rtol=0, atol=1e-5)


def test_turning_keeps_shapes_on_patches_that_are_not_square():
    image, label = ball(48, 80)
    turned, _ = change_sample(image, label, Change(degrees=15.0))
    back, _ = change_sample(turned, label, Change(degrees=-15.0))
    inside = label > 0
    assert (turned - image).abs()[:, inside].max() > 0.4
    assert (back - image).abs()[:, inside].max() < 0.06


@pytest.mark.parametrize("size", [(40, 56), (24, 32, 40)])
def test_half_the_extent_fills_the_patch(size):
    image, label = ball(*size)
    near, classes = change_sample(image, label, Change(scale=0.5))
    middle = tuple(slice(n // 4, n - n // 4) for n in size)
    wanted = label[middle]
    for axis in range(len(size)):
        wanted = wanted.repeat_interleave(2, axis)
    assert torch.equal(classes, wanted)
    mean = torch.nn.functional.avg_pool2d if len(size) == 2 else torch.nn.functional.avg_pool3d
    # linear samples on both sides of a voxel average nearly to it, away from the ball's edge
    difference = (mean(near[None], 2)[0] - image[(slice(None), *middle)]).abs()
    assert difference[:, label[middle] > 0].mean() < 0.015


@pytest.mark.parametrize("change", [Change(degrees=11.0), Change(scale=0.7, degrees=-9.0)])
@pytest.mark.parametrize("size", [(64, 48), (24, 48, 40)])
def test_labels_move_with_the_image(change, size):
    label = ball(*size)[1]
    parts = torch.stack([(label == k).float() for k in range(3)])
    moved, classes = change_sample(parts, label, change)
    # the nearest of the 2^n voxels that a linear sample mixes has the largest weight
    sure = moved.amax(0) > 1 - 0.5 ** len(size) + 1e-3
    assert sure.float().mean() > 0.5
    assert torch.equal(moved.argmax(0)[sure].byte(), classes[sure])
    assert len(classes.unique()) == 3


@pytest.mark.parametrize("size", [(40, 36), (16, 20, 24)])
def test_blur_is_a_gaussian_within_the_brain(size):
    from scipy.ndimage import gaussian_filter

    image, label = ball(*size)
    blurred, classes = change_sample(image, label, Change(sigma=1.1))
    exact = np.stack([gaussian_filter(x, 1.1, mode="constant") for x in image.double().numpy()])
    wanted = np.where(image == 0, 0, exact)
    np.testing.assert_allclose(blurred.numpy(), wanted, atol=2e-6)
    assert torch.equal(classes, label)


def test_intensities_of_each_channel():
    image, label = ball(32, 40)
    brain = image != 0

    def change(**values):
        out, classes = change_sample(image, label, Change(**values))
        assert torch.equal(classes, label)
        assert (out[~brain] == 0).all()
        return [(before[m], after[m]) for before, after, m in zip(image, out, brain, strict=True)]

    for factor, (before, after) in zip((0.5, 1.7), change(brightness=(0.5, 1.7)), strict=True):
        assert torch.equal(after, before * factor)
    for factor, (before, after) in zip((0.5, 1.5), change(contrast=(0.5, 1.5)), strict=True):
        mean, low, high = before.mean(), before.min(), before.max()
        wanted = ((before - mean) * factor + mean).clamp(low, high)
        torch.testing.assert_close(after, wanted)
    for power, (before, after) in zip((0.5, 2.0), change(gamma=(0.5, 2.0)), strict=True):
        torch.testing.assert_close(after.mean(), before.mean(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(after.std(), before.std(), rtol=1e-4, atol=1e-5)
        order = before.argsort()
        assert (after[order].diff() >= 0).all()
        middle = before.median() - before.min()
        share = (after.median() - after.min()) / (after.max() - after.min())
        exact = (middle / (before.max() - before.min())) ** power
        torch.testing.assert_close(share, exact, rtol=1e-3, atol=1e-4)


def test_background_and_flat_channels_stay_finite():
    image = torch.zeros(2, 16, 16)
    image[1, 4:9, 4:9] = 3.0
    everything = Change(10.0, 0.8, 1.0, (0.5, 2.0), (0.5, 1.5), (2.0, 0.5))
    out, _ = change_sample(image, torch.zeros(16, 16, dtype=torch.uint8), everything)
    assert out.isfinite().all()
    assert not out[0].any()
    flat, _ = change_sample(image, image[0].byte(), Change(contrast=(1.5, 1.5), gamma=(2.0, 2.0)))
    torch.testing.assert_close(flat, image)
