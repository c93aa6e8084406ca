"""The diffusion systems in the driver: exact resume, sixteen bits, sampling, the same with other
kernels. Networks a few channels wide, patients a few slices high.
"""

import itertools
import json
import os
import signal

import numpy as np
import pytest
import torch

import fastseg.train as module
from fastseg import checkpoint, config, models
from fastseg.config import load_recipe
from fastseg.data import phantom
from fastseg.data.cases.labels import BRATS
from fastseg.tasks.network import build_network, load_network
from fastseg.train import train
from fastseg.training import validate
from fastseg.training.stop import Stopped

torch.set_num_threads(1)
TINY = ("data.patch=32,32", "data.samples_per_case=4", "data.batch_size=4", "data.threads=1",
        "model.width=4", "model.sampling_steps=3", "epochs=1", "log_every=1",
        "fractions=0.5,0.25,0.25")  # fmt: skip
OWN = {
    "diffusion_unet_ssl": ("labelled_fraction=0.5", "ema=0.9", "epochs=2"),
    "fno_diffusion": ("model.modes=4",),
    "fno_unet": ("model.modes=4,3,2,1,1", "model.decoder=diffusion"),
    "fgc2f_udiff": ("model.multipliers=1,2", "model.attention_levels=1", "model.blocks=1",
                    "model.sampler=ddim", "precision=fp32", "ema=0.9", "val_every=1"),
    "medsegdiff_v2": ("model.multipliers=1,2", "model.attention_levels=1", "model.blocks=1",
                      "model.condition_width=4", "model.anchor_levels=1", "model.anchor_every=1",
                      "model.ssformer_channels=8", "model.ssformer_blocks=1", "model.ensemble=1",
                      "val_every=1"),
}  # fmt: skip
UNTIMED = ("samples_per_s", "time_s")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return phantom.write(tmp_path_factory.mktemp("data"), 8, size=(36, 34, 24), seed=6)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    monkeypatch.setattr(module.report, "progress_png", lambda *_: None)
    monkeypatch.setattr(validate, "OVERLAYS", 0)


def tiny(name: str, *more: str):
    return load_recipe(name, [*TINY, *OWN[name], *more])


def rows(out) -> list[dict]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: row[key] for key in row if key not in UNTIMED} for row in lines]


def newest(out) -> tuple[dict, dict]:
    return checkpoint.load(checkpoint.generations(out / "checkpoints")[0])


def stop_after(monkeypatch, *steps: int) -> None:
    original = module.take_step

    def step(run, batch, lr):
        if run.at.step + 1 in steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(run, batch, lr)

    monkeypatch.setattr(module, "take_step", step)


@pytest.mark.parametrize("name", OWN)
def test_stopped_run_goes_on_bit_for_bit(data, tmp_path, monkeypatch, name):
    train(tiny(name), data, tmp_path / "straight")
    stop_after(monkeypatch, 1, 3)
    for _ in range(2):
        with pytest.raises(Stopped):
            train(tiny(name), data, tmp_path / "broken")
    train(tiny(name), data, tmp_path / "broken")
    assert rows(tmp_path / "broken") == rows(tmp_path / "straight")
    straight, broken = newest(tmp_path / "straight")[1], newest(tmp_path / "broken")[1]
    assert straight.keys() == broken.keys()
    for group, tensors in straight.items():
        assert tensors.keys() == broken[group].keys()
        assert all(torch.equal(tensor, broken[group][key]) for key, tensor in tensors.items())


def test_resumed_state_is_one_that_moves(data, tmp_path):
    """What the test above compares would be equal too if it never changed."""
    train(tiny("diffusion_unet_ssl"), data, tmp_path)
    steps = [row for row in rows(tmp_path) if "loss" in row]
    for key in ("mu", "unsup", "lr", *(f"weight_{index}" for index in range(4))):
        assert len({row[key] for row in steps}) > 1, key
    groups = newest(tmp_path)[1]
    theta = {key: t for key, t in groups["model"].items() if key.startswith("theta")}
    assert any(not torch.equal(t, groups["ema"][key]) for key, t in theta.items())


@pytest.mark.parametrize("name", OWN)
def test_sixteen_bits_skip_no_step(data, tmp_path, name):
    first, runs = set(), set()
    for precision in ("fp32", "bf16", "fp16"):
        out = tmp_path / precision
        train(tiny(name, f"precision={precision}", "epochs=1", "val_every=0"), data, out)
        found = rows(out)
        assert len(found) == newest(out)[0]["position"]["step"]
        assert all(np.isfinite(row["loss"]) for row in found)
        first.add(found[0]["loss"])
        runs.add(tuple(row["loss"] for row in found))
    assert len(runs) == 3  # the first loss of a network that starts at zero has no precision
    assert max(first) - min(first) < 0.05


def test_reference_kernels_give_the_same_losses(data, tmp_path):
    for kernels in ("reference", "cpu"):
        recipe = tiny("fno_diffusion", "epochs=4", "val_every=0", f"kernels={kernels}")
        train(recipe, data, tmp_path / kernels)
    reference, fast = ([row["loss"] for row in rows(tmp_path / k)] for k in ("reference", "cpu"))
    np.testing.assert_allclose(fast, reference, atol=1e-4)


def test_sampled_label_maps_follow_the_options():
    recipe = tiny("fno_unet")
    net = build_network(recipe, 4, BRATS)
    weights = {"model": net.state_dict()}
    image = torch.rand(1, 4, 32, 32)

    def predicted(*overrides: str, seed: int = 1) -> torch.Tensor:
        changed = config.override_sampling(
            recipe, models.sampling_options(recipe.system), overrides
        )
        noise = torch.Generator().manual_seed(seed)
        return load_network(changed, 4, BRATS, weights).predict(image, noise)

    changes = ("eta=0.5", "sampler=dpm++", "sampling_steps=5", "ensemble=2", "decoder=psi")
    found = [predicted(), predicted(seed=2), *map(predicted, changes)]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(found, 2))
    assert torch.equal(found[0], predicted())


@pytest.mark.parametrize(
    ("name", "settings"),
    [("diffusion_unet", ["model.width=4", "model.decoder=diffusion"]),
     ("medsegdiff_v2_small", ["model.width=8", "model.condition_width=4", "model.ssformer=off"]),
     ("fgc2f_udiff", ["model.width=8", "model.multipliers=1,2", "model.attention_levels=1",
                      "model.blocks=1", "model.sampler=ddim"])],
)  # fmt: skip
def test_every_step_of_sampling_is_told(name, settings):
    recipe = load_recipe(name, [*settings, "model.sampling_steps=3"])
    net = build_network(recipe, 2, BRATS, ("t1", "t2")).eval()
    told = []
    net.on_step = lambda t, x_t, x0: told.append((t, x_t.shape == x0.shape))
    image = torch.rand(1, 2, 32, 32)
    if name == "fgc2f_udiff":
        net.synthesise(image, torch.tensor([[True, False]]))
    else:
        net.predict(image)
    steps = [t for t, _ in told]
    assert len(steps) == 3
    assert steps == sorted(steps, reverse=True)
    assert steps[-1] == 0
    assert all(same for _, same in told)
