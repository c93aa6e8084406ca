"""MedSegDiff from data to tables: a run, its predictions with their uncertainty, the study."""

import itertools

import numpy as np
import pytest

from fastseg import checkpoint, study
from fastseg.config import load_recipe
from fastseg.data import phantom
from fastseg.data.cases import discover
from fastseg.errors import UsageError
from fastseg.evaluate import evaluate
from fastseg.sample import sample
from fastseg.tasks.network import build_network
from fastseg.train import train
from fastseg.training import validate

nib = pytest.importorskip("nibabel")

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = ("data.patch=32,32", "data.samples_per_case=4", "data.batch_size=4", "data.threads=1",
        "fractions=0.5,0.25,0.25", "epochs=1", "model.width=4", "model.multipliers=1,2",
        "model.attention_levels=1", "model.blocks=1", "model.condition_width=4",
        "model.sampling_steps=2", "model.ensemble=2", "val_every=0")  # fmt: skip
OWN = {"medsegdiff_v1": ("model.size=32,32", "model.multipliers=1,1,2", "model.heads=2")}
FORMER = ("model.anchor_levels=1", "model.ssformer_channels=8", "model.ssformer_blocks=1")


def tiny(name: str, *more: str):
    return load_recipe(name, [*TINY, *OWN.get(name, FORMER), *more])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return phantom.write(tmp_path_factory.mktemp("data"), 4, size=(32, 32, 24), seed=6)


@pytest.fixture(scope="module")
def organs(tmp_path_factory):
    return phantom.write(tmp_path_factory.mktemp("organs"), 4, (32, 32, 24), 6, task="organs")


@pytest.fixture(scope="module", params=["F-v2", "F-v1"])
def run(request, data, tmp_path_factory):
    name = {"F-v2": "medsegdiff_v2", "F-v1": "medsegdiff_v1"}[request.param]
    out = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastseg.train.report.progress_png", lambda *_: None)
        patch.setattr(validate, "OVERLAYS", 0)
        train(tiny(name), data, out)
    return out


def test_uncertainty_lies_beside_the_mask(run, data, tmp_path):
    """The checkpoint knows the network, its learnt variance, the region and all the rest."""
    [path] = sample(run, data, tmp_path, part="test")
    case = path.name.removesuffix("_pred.nii.gz")
    mask, sure = nib.load(path), nib.load(tmp_path / f"{case}_uncertainty.nii.gz")
    assert sure.get_data_dtype() == np.float32
    assert np.array_equal(sure.affine, mask.affine)
    assert sure.shape == mask.shape
    variance = np.asarray(sure.dataobj)
    image = np.asarray(nib.load(data / case / f"{case}_t1.nii.gz").dataobj)
    assert 0 < variance.max() <= 0.25
    assert not variance[:, :, image.max((0, 1)) == 0].any()
    assert set(np.unique(mask.dataobj)) <= {0, 1}
    report = evaluate(tmp_path, data, region="WT", quiet=True)
    assert [row["case"] for row in report.rows] == [case]
    assert {"dice_WT", "iou_WT", "hd95_mm_WT"} <= report.mean.keys()


@pytest.mark.parametrize("run", ["F-v2"], indirect=True)
def test_sampling_options_are_the_only_ones_that_change(run, data, tmp_path):
    def variance(words: list[str], place: str) -> np.ndarray:
        path = sample(run, data, tmp_path / place, part="val", overrides=words)[0]
        return np.asarray(nib.load(str(path).replace("_pred", "_uncertainty")).dataobj)

    changes = ([], ["sampler=ddim", "eta=0.5"], ["sampler=ddpm"], ["sampling_steps=1"])
    found = [variance(words, f"{place}-") for place, words in enumerate(changes)]
    assert all(not np.array_equal(a, b) for a, b in itertools.combinations(found, 2))
    assert not variance(["ensemble=1"], "alone").any()
    variance(["fuse=staple", "dynamic_quantile=0.995"], "0")
    with pytest.raises(UsageError, match="fuse"):
        sample(run, data, tmp_path / "new", part="val", overrides=["fuse=vote"])
    with pytest.raises(UsageError, match="parameterisation: is no sampling option"):
        sample(run, data, tmp_path / "new", part="val", overrides=["parameterisation=v"])
    with pytest.raises(UsageError, match="holds other predictions"):
        sample(run, data, tmp_path / "0", part="val", overrides=["ensemble=4"])


def test_organs_of_a_data_set_of_nnunet_are_all_kept(organs, tmp_path, monkeypatch):
    """No class is merged on the way unless a region is asked for by name."""
    monkeypatch.setattr("fastseg.train.report.progress_png", lambda *_: None)
    recipe = tiny("medsegdiff_v2_small", "region=null", "data.normalise=window",
                  "data.window=-160,240", "model.sampling_steps=1", "model.ensemble=1")  # fmt: skip
    train(recipe, organs, tmp_path / "run")
    state, _ = checkpoint.load(checkpoint.generations(tmp_path / "run" / "checkpoints")[0], ())
    assert len(state["scheme"]["classes"]) == 10
    net = build_network(recipe, 1, discover(organs).scheme)
    assert net.head.outputs == 10
    sample(tmp_path / "run", organs, tmp_path / "out", part="test")
    report = evaluate(tmp_path / "out", organs, quiet=True)
    assert len(report.classes) == 9
    alone = build_network(recipe, 1, discover(organs, region="liver").scheme)
    assert alone.head.outputs == 1


def test_the_study_has_the_five_rows_of_the_source():
    arms = study.STUDIES["medsegdiff"].arms
    found = {}
    for arm in arms:
        assert arm.recipe == "medsegdiff_v2_small"
        net = build_network(tiny(arm.recipe, *arm.settings), 4, phantom_scheme())
        gate = type(net.gate).__name__ if net.gate else None
        former = net.ssformer and net.ssformer.into_noise[0].attention.filter is not None
        found[arm.name] = (gate, former)
    assert found == {
        "none": (None, None),
        "sa": ("PlainGate", None),
        "usa": ("AnchorGate", None),
        "usa-nofilter": ("AnchorGate", False),
        "all": ("AnchorGate", True),
    }


def phantom_scheme():
    from fastseg.data.cases.labels import BRATS

    return BRATS.alone("WT")
