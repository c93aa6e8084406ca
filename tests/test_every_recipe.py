"""Every recipe, made small, trains and samples; none can be forgotten."""

import numpy as np
import pytest
import torch

import fastseg.train as train_module
from fastseg import config, models
from fastseg.data import phantom
from fastseg.data.cases.labels import BRATS
from fastseg.sample import sample
from fastseg.tasks.network import build_network, input_channels
from fastseg.train import train

nib = pytest.importorskip("nibabel")

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:modes .* exceed the bins"),  # of maps made so small
]
RECIPES = config.recipe_names()
MODES = {
    "fno": "4,3",
    "fno3d": "4,4,3",
    "hnoseg3d": "4,4,4",
    "fno_unet": "4,4,3,2,1",
    "fno_unet3d": "4,4,3,2,1",
}
LESS = {
    "model.width": "8", "model.blocks": "1", "model.blocks_down": "1,1", "model.blocks_up": "1",
    "model.levels": "2", "model.multipliers": "1,2", "model.attention_levels": "1",
    "model.condition_width": "4", "model.anchor_levels": "1", "model.ssformer_channels": "8",
    "model.ssformer_blocks": "1", "model.ssformer_heads": "2", "model.vffc_blocks": "1",
    "model.sampling_steps": "2", "model.ensemble": "1", "data.batch_size": "2",
    "data.samples_per_case": "2", "data.threads": "1", "precision": "fp32", "epochs": "1",
    "fractions": "0.5,0.25,0.25", "val_every": "0",
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return phantom.write(tmp_path_factory.mktemp("data"), 4, size=(32, 32, 24), seed=3)


def small(name: str) -> config.Recipe:
    recipe = config.load_recipe(name)
    known = config.option_types(recipe)
    zero = {"model.vffc_blocks"} if not recipe.model.get("vffc_blocks") else set()
    settings = {key: value for key, value in LESS.items() if key in known and key not in zero}
    settings["data.patch"] = "32,32" if len(recipe.data.patch) == 2 else "16,32,32"
    if "modes" in recipe.model:
        settings["model.modes"] = MODES.get(name, "4")
    return config.load_recipe(name, [f"{key}={value}" for key, value in settings.items()])


@pytest.mark.parametrize("name", RECIPES)
def test_it_trains_and_samples(name, data, tmp_path, monkeypatch):
    monkeypatch.setattr(train_module.report, "progress_png", lambda *_: None)
    recipe = small(name)
    train(recipe, data, tmp_path / "run")
    hidden = {"hide": ("t1",)} if models.task(recipe.system) == "synthesis" else {}
    written = sample(tmp_path / "run", data, tmp_path / "predictions", part="test", **hidden)
    assert written
    for path in written:
        volume = nib.load(path)
        assert volume.shape == (32, 32, 24)
        assert np.isfinite(np.asarray(volume.dataobj)).all()


@pytest.mark.parametrize("name", RECIPES)
def test_its_weights_are_real(name):
    recipe = config.load_recipe(name)
    names = recipe.modalities or phantom.MODALITIES
    with torch.device("meta"):
        net = build_network(recipe, input_channels(recipe, names), BRATS, names)
    stored = [*net.parameters(), *net.buffers()]
    assert len(stored) > 10
    assert not any(tensor.is_complex() for tensor in stored)
