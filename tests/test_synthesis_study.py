"""The study of synthesis: arms, its measures, and its checks."""

import json
import shutil

import numpy as np
import pytest
import torch

import fastseg.train as train_module
from fastseg import study
from fastseg.cli import main
from fastseg.config import load_recipe
from fastseg.data import phantom
from fastseg.data.cases import discover
from fastseg.data.pipeline.intensity import Rule
from fastseg.errors import UsageError
from fastseg.evaluate import evaluate
from fastseg.studies import checks, runs
from fastseg.study import STUDIES, Arm, Study
from fastseg.tasks.modality_synthesis import case as synthesis
from fastseg.tasks.modality_synthesis.score import score_volume

torch.set_num_threads(1)
RULE = Rule("percentile", (0.5, 99.5), None, (-1.0, 1.0))
TINY = ("precision=fp32", "data.patch=32,32", "data.samples_per_case=2", "data.batch_size=2",
        "data.threads=1", "model.width=4", "model.multipliers=1,2", "model.attention_levels=1",
        "model.blocks=1", "model.parameterisation=x0", "model.sampler=ddim",
        "model.sampling_steps=1", "epochs=1", "fractions=0.34,0.33,0.33")  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return phantom.write(tmp_path_factory.mktemp("data"), 3, size=(28, 30, 24), seed=4)


def scored(*arguments, **options):
    """`evaluate` of synthesised images."""
    return evaluate(*arguments, task="synthesis", **options)


ARMS = (Arm("both", "fgc2f_udiff"), Arm("no guide", "fgc2f_udiff", ("model.guide=none",)))


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STUDIES, "synthesis", Study("?", ARMS, hide=("t1ce", "t2"), checks=True))
        patch.setattr(train_module.report, "progress_png", lambda *_: None)
        patch.setattr("fastseg.tasks.modality_synthesis.images.synthesis_png", lambda *_: None)
        patch.setattr(checks, "LEVELS", (0.0, 0.2))
        patch.setattr(checks, "segmented", lambda *_: [
            {"modality": "t1", "images": "missing", "dice": 0.25}])  # fmt: skip
        study.study("synthesis", data, out, seeds=(0,), overrides=TINY)
    return out


def test_scores_are_means_over_modalities(finished):
    record = json.loads((finished / "study.json").read_text())
    assert record["task"] == "synthesis"
    for run in record["runs"]:
        folder = finished / run["arm"].replace(" ", "-") / "seed-0"
        rows = json.loads((folder / "evaluation.json").read_text())["rows"]
        (patient,) = run["rows"]
        assert {row["modality"] for row in rows} == {"t1ce", "t2"} == set(run["regions"])
        for key in ("psnr", "ssim", "psnr_tumour", "ssim_tumour"):
            assert patient[key] == pytest.approx(np.mean([row[key] for row in rows]))
        assert patient["psnr_t2"] == next(r["psnr"] for r in rows if r["modality"] == "t2")
    summary = record["summary"]
    names = ["both", "no guide", "mean of given", "linear regression"]
    assert [row["arm"] for row in summary] == names
    assert summary[1]["measures"]["psnr"]["p"] is not None


def test_baselines_are_scored_on_the_arms_patients_and_subsets(finished, data):
    record = json.loads((finished / "study.json").read_text())
    (case,) = record["split"]["test"]
    dataset = discover(data)
    known = synthesis.load_known(dataset.by_id(case), dataset.modalities, RULE)
    true = (known.image.clip(-1, 1) + 1) / 2
    wanted = score_volume(true[[0, 3]].mean(0), true[2], known.brain, None)
    mean, regression = record["baselines"]
    assert [row["case"] for row in mean["rows"]] == [case]
    assert mean["rows"][0]["psnr_t2"] == pytest.approx(wanted["psnr"], abs=1e-3)
    # of least squares, if on other patients; better than a mean of images unlike each other
    assert regression["rows"][0]["psnr"] > mean["rows"][0]["psnr"] + 1
    for base, row in zip(record["baselines"], record["summary"][2:], strict=True):
        assert row["measures"]["psnr"]["mean"] == pytest.approx(base["rows"][0]["psnr"])
        assert row["measures"]["psnr"]["sd"] is None
        assert row["measures"]["psnr"]["p"] is not None
    text = (finished / "study.md").read_text()
    assert f"| mean of given | – | – | {mean['rows'][0]['psnr']:.3f} |" in text


def test_another_truth_changes_scores_and_nothing_else(finished, data, tmp_path, monkeypatch):
    clean = phantom.write(tmp_path / "clean", 3, size=(28, 30, 24), seed=4, noise=False)
    shutil.copytree(finished, tmp_path / "study")
    monkeypatch.setitem(STUDIES, "synthesis", Study("?", ARMS, hide=("t1ce", "t2")))
    monkeypatch.setattr(
        "fastseg.tasks.modality_synthesis.images.synthesise_volume", None
    )  # nothing is sampled again
    words = ["study", "synthesis", "--data", str(data), "--out", str(tmp_path / "study"), "--seeds",
             "0", "--truth", str(clean), *TINY]  # fmt: skip
    assert main(words) == 0
    before, after = (json.loads((folder / "study.json").read_text())
                     for folder in (finished, tmp_path / "study"))  # fmt: skip
    for key in ("runs", "baselines"):
        for old, new in zip(before[key], after[key], strict=True):
            assert old["rows"] != new["rows"]
    for run in after["runs"]:
        found = scored(finished / run["predictions"], data, truth=clean, quiet=True)
        assert run["rows"][0]["psnr"] == pytest.approx(found.mean["psnr"])
    # the regression looks better where noise that it cannot know is no error
    assert after["baselines"][1]["rows"][0]["psnr"] > before["baselines"][1]["rows"][0]["psnr"]
    text = (tmp_path / "study" / "study.md").read_text()
    assert "--data DATA --truth TRUTH --out OUT" in text
    assert "are compared with the images of clean" in text


def test_short_names_of_settings_reach_the_segmenter():
    assert checks.segmenter(["batch_size=3"]).data.batch_size == 3


def test_a_truth_without_the_test_patients_stops_before_training(data, tmp_path, monkeypatch):
    phantom.write(tmp_path / "other", 1, size=(28, 30, 24), seed=4, noise=False)
    monkeypatch.setitem(STUDIES, "synthesis", Study("?", ARMS))
    monkeypatch.setattr(runs, "train", None)
    split = {"train": ["Phantom00000"], "val": ["Phantom00001"], "test": ["Phantom00002"]}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "split.json").write_text(json.dumps(split))
    options = {"seeds": (0,), "overrides": TINY, "truth": tmp_path / "other"}
    with pytest.raises(UsageError, match="other: lacks images of Phantom00002"):
        study.study("synthesis", data, tmp_path / "out", **options)
    with pytest.raises(UsageError, match="truth: is of studies of synthesis"):
        study.study("fusion", data, tmp_path / "fusion", seeds=(0,), truth=data,
                    overrides=["fractions=0.34,0.33,0.33"])  # fmt: skip


def test_tables_and_pictures(finished):
    text = (finished / "study.md").read_text()
    scores, runs, settings, worse, segmented = text.split("\n## ")[1:]
    assert "| arm | seeds | parameters | PSNR, dB | p | SSIM | p |" in scores
    assert "PSNR, dB" in runs
    assert "| model.guide | both | none |" in settings
    found = [row.split("|")[1].strip() for row in worse.splitlines()[4:8]]
    assert found == ["noise", "noise", "ghost", "ghost"]
    assert "| t1 | missing | 0.250 |" in segmented
    for name in ("curves.png", "overlays.png"):
        assert (finished / name).stat().st_size > 5000


def test_arms_are_those_of_the_sheet():
    arms = {arm.name: arm for arm in STUDIES["synthesis"].arms}
    assert len(arms) == 11
    for arm in (*arms.values(), *STUDIES["synthesis-task"].arms):
        load_recipe(arm.recipe, arm.settings)
    assert STUDIES["synthesis-task"].hide == ("t1ce",)


def test_images_are_made_worse_inside_the_brain():
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (2, 3, 8, 8)).astype(np.float32)
    brain = rng.random((3, 8, 8)) < 0.5
    for kind in ("noise", "ghost"):
        same = checks.degrade(image, brain, kind, 0.0, 1)
        np.testing.assert_allclose(same, image, atol=1e-6)
        worse = checks.degrade(image, brain, kind, 0.1, 1)
        assert np.array_equal(worse[:, ~brain], image[:, ~brain])
        assert not np.allclose(worse[:, brain], image[:, brain], atol=0.01)
    unit = (image + 1) / 2
    exact = 0.9 * unit + 0.1 * np.roll(unit, 4, 2)
    np.testing.assert_allclose((worse[:, brain] + 1) / 2, exact[:, brain], atol=1e-6)


def test_replaced_modalities_reach_the_segmenter(data, tmp_path, monkeypatch):
    dataset, seen = discover(data), []
    case = dataset.cases[0]
    (tmp_path / f"{case.id}_t2_pred.nii.gz").symlink_to(case.images["flair"])

    def predict(net, image, patch, batch_size, background):
        seen.append(image.numpy().copy())
        return np.zeros(image.shape[1:], np.uint8)

    monkeypatch.setattr(checks, "predict_volume", predict)
    net, recipe = torch.nn.Linear(1, 1), load_recipe("diffusion_unet")
    for replaced in ({}, {"t2": tmp_path}, {"t2": None}):
        assert checks._dice(net, recipe, dataset, [case.id], replaced) < 0.5
    real, made, missing = seen
    place = dataset.modalities.index("t2")
    assert np.array_equal(made[place], real[dataset.modalities.index("flair")])
    assert not missing[place].any()
    others = [i for i in range(4) if i != place]
    for images in (made, missing):
        assert np.array_equal(images[others], real[others])


@pytest.mark.parametrize("region", [None, "WT"])
def test_segmentation_of_what_was_synthesised(data, tmp_path, region):
    dataset = discover(data, ("t1", "t2"), region=region)
    ids = [case.id for case in dataset.cases]
    split = {"train": ids[:1], "val": ids[1:2], "test": ids[2:]}
    for given, name in (("t2", "t1"), ("t1", "t2")):
        (tmp_path / given).mkdir()
        made = tmp_path / given / f"{ids[2]}_{name}_pred.nii.gz"
        made.symlink_to(dataset.cases[2].images[name])
    overrides = ["data.patch=32,32", "data.samples_per_case=2", "data.batch_size=2", "epochs=1",
                 "data.threads=1", "modalities=t1,t2", "model.guide=none",
                 "segmenter:model.width=4",
                 *([f"region={region}"] if region else [])]  # fmt: skip
    (tmp_path / "checks").mkdir()
    rows = checks.segmented(dataset, split, tmp_path, tmp_path / "checks", overrides)
    by = {(row["modality"], row["images"]): row["dice"] for row in rows}
    assert set(by) == {("all", "real"), *((m, i) for m in ("t1", "t2")
                                          for i in ("synthesised", "missing"))}  # fmt: skip
    # what stands for synthesised images here is the real ones
    assert by["t1", "synthesised"] == by["t2", "synthesised"] == by["all", "real"]
