"""Trained on one modality, shown the others: driver, predictions, scores and the study."""

import json
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

import fastseg.train as train_module
from fastseg import checkpoint, cli, config, study
from fastseg.config import load_recipe
from fastseg.data import nifti, phantom
from fastseg.data.cases import discover
from fastseg.data.pipeline import load_case
from fastseg.errors import DataError, UsageError
from fastseg.evaluate import evaluate
from fastseg.pictures import drawing
from fastseg.sample import sample
from fastseg.study import STUDIES
from fastseg.tasks.network import load_network
from fastseg.tasks.segmentation import label_maps, picture, validation
from fastseg.tasks.segmentation.predict import predict_volume
from fastseg.train import train
from fastseg.training import validate
from fastseg.training.stop import Stopped

nib = pytest.importorskip("nibabel")

torch.set_num_threads(1)
SHARED = ("data.patch=24,24,24", "data.threads=1", "data.cache=ram", "epochs=1", "log_every=1",
          "precision=fp32", "fractions=0.5,0.25,0.25", "val_every=1", "model.width=8",
          "data.batch_size=1")  # fmt: skip
SHALLOW = ("model.blocks_down=1,1", "model.blocks_up=1")
TINY = (*SHARED, *SHALLOW)
ALL = ("t1", "t1ce", "t2", "flair")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return phantom.write(tmp_path_factory.mktemp("data"), 8, size=(24, 24, 24), seed=6)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    monkeypatch.setattr(train_module.report, "progress_png", lambda *_: None)
    monkeypatch.setattr(validate, "OVERLAYS", 0)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    train(load_recipe("segresnet", [*TINY, "epochs=2"]), data, out)
    return out


def rows(out) -> list[dict]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    untimed = ("samples_per_s", "time_s")
    return [{key: row[key] for key in row if key not in untimed} for row in lines]


def test_full_system_logs_its_reversal_and_resumes_exactly(data, tmp_path, monkeypatch):
    small = ("model.vffc_blocks=1", "epochs=2", "val_every=0", "data.patch=16,16,16",
             "data.batch_size=2", "data.micro_batch=1", "data.samples_per_case=2")  # fmt: skip
    recipe = load_recipe("E-full", [*TINY, *small])
    train(recipe, data, tmp_path / "straight")
    steps = [row for row in rows(tmp_path / "straight") if "loss" in row]
    assert len(steps) == 8
    for key in ("lr", "domain_accuracy", "domain_gradient", "reversal", "domain_weight"):
        assert len({row[key] for row in steps}) > 1, key
    assert all(row["domain_gradient"] > 0 for row in steps[1:])
    original = train_module.take_step

    def stopping(run, batch, lr):
        if run.at.step in (1, 5):
            os.kill(os.getpid(), signal.SIGTERM)
        return original(run, batch, lr)

    monkeypatch.setattr(train_module, "take_step", stopping)
    for _ in range(2):
        with pytest.raises(Stopped):
            train(recipe, data, tmp_path / "broken")
    train(recipe, data, tmp_path / "broken")
    assert rows(tmp_path / "broken") == rows(tmp_path / "straight")
    straight, broken = (
        checkpoint.load(checkpoint.generations(tmp_path / name / "checkpoints")[0])[1]
        for name in ("straight", "broken")
    )
    for group, tensors in straight.items():
        assert all(torch.equal(tensor, broken[group][key]) for key, tensor in tensors.items())
    assert any("max_exp_avg_sq" in key for key in straight["optimizer"])


def test_each_modality_is_shown_and_recorded(run, data, tmp_path):
    written = sample(run, data, tmp_path, modalities=ALL, part="test")
    assert len(written) == 8
    [_, state, groups] = checkpoint.load_newest(checkpoint.find(run), ("model",))
    recipe = config.from_dict(state["recipe"])
    for name in ALL:
        dataset = discover(data, (name,))
        net = load_network(recipe, 1, dataset.scheme, groups)
        for case_id in state["split"]["test"]:
            image = torch.from_numpy(load_case(dataset, case_id, recipe.data.rule).image)
            exact = predict_volume(net, image, recipe.data.patch, 1)
            volume = nifti.read(tmp_path / name / f"{case_id}_pred.nii.gz")
            assert np.array_equal(dataset.scheme.to_classes(volume.data), exact)
        record = json.loads((tmp_path / name / "sample.json").read_text())
        assert record.get("modalities", ["t2"]) == [name]
    with pytest.raises(UsageError, match="other predictions"):
        sample(run, data, tmp_path / "t1", part="test")
    (tmp_path / "t2").rename(tmp_path / "kept")
    (tmp_path / "t1").rename(tmp_path / "t2")
    with pytest.raises(DataError, match="holds predictions from t1, wanted t2"):
        evaluate(tmp_path, data, modalities=("t2",))


def test_table_names_what_it_shows(run, data, tmp_path, capsys):
    words = ["--data", str(data), "--modalities", "t1,flair"]
    made = ["sample", str(run), "--out", str(tmp_path / "p"), "--part", "test", *words]
    assert cli.main([*made, "flips=true"]) == 0
    capsys.readouterr()
    scored = ["evaluate", str(tmp_path / "p"), "--out", str(tmp_path / "e"), *words]
    assert cli.main(scored) == 0
    assert (tmp_path / "e" / "overlays.png").read_bytes().startswith(b"\x89PNG")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["modality", "mean", "WT", "TC", "ET"]
    means = json.loads((tmp_path / "e" / "modalities.json").read_text())
    for line, name in zip(lines[1:], ("t1", "flair"), strict=True):
        own = json.loads((tmp_path / "e" / name / "evaluation.json").read_text())["mean"]
        assert own == means[name]
        keys = ("dice_regions", "dice_WT", "dice_TC", "dice_ET")
        assert line == [name, *(f"{own[key]:.3f}" for key in keys)]


@pytest.fixture
def scored(data, tmp_path):
    """Predictions of two patients from t1 and T1Gd: labels moved by voxels, stored scaled."""
    for name, shift in (("t1", 1), ("T1Gd", 2)):
        (tmp_path / "p" / name).mkdir(parents=True)
        for case in ("Phantom00000", "Phantom00001"):
            source = nib.load(data / case / f"{case}_seg.nii.gz")
            moved = np.roll(np.asarray(source.dataobj), shift, 0)
            image = nib.Nifti1Image(moved.astype(np.float32), source.affine)
            image.set_data_dtype(np.int16)
            nib.save(image, tmp_path / "p" / name / f"{case}.nii.gz")
    return tmp_path / "p"


def test_overlays_are_of_each_modality_and_what_it_was_taken_for(data, scored):
    dataset = discover(data)
    for name, own, shift in (("t1", "t1", 1), ("T1Gd", "t1ce", 2)):
        made = picture.overlay(scored / name, dataset, "Phantom00000", name)
        case = load_case(discover(data, (own,)), "Phantom00000")
        assert np.array_equal(made.image, case.image)
        assert np.array_equal(made.prediction, np.roll(case.label, shift, 2))
        merged = replace(dataset, scheme=dataset.scheme.alone("WT"))
        made = picture.overlay(scored / name, merged, "Phantom00000", name)
        assert np.array_equal(made.prediction, np.roll(case.label > 0, shift, 2))
    none = picture.overlay(scored / "t1", dataset, "Phantom00002", "t1")
    assert not none.prediction.any()


def test_patients_whose_images_cannot_be_read_are_scored_but_not_drawn(
    data, scored, tmp_path, monkeypatch, caplog
):
    shutil.copytree(data, tmp_path / "data")
    damaged = tmp_path / "data" / "Phantom00000" / "Phantom00000_t1ce.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:100])
    (scored / "T1Gd" / "Phantom00001.nii.gz").unlink()
    drawn = []
    monkeypatch.setattr(drawing, "draw_each", lambda axes, shown, classes: drawn.append(shown))
    found = evaluate(scored, data, tmp_path / "e", modalities=("t1", "T1Gd"), quiet=True)
    assert [row["modality"] for row in found.rows] == ["t1", "t1", "T1Gd"]
    assert [one["t1"].case for one in drawn] == ["Phantom00000"]
    assert (tmp_path / "e" / "overlays.png").exists()
    evaluate(scored, tmp_path / "data", tmp_path / "e", modalities=("t1", "T1Gd"), quiet=True)
    assert len(drawn) == 1
    assert str(damaged) in caplog.text
    assert not (tmp_path / "e" / "overlays.png").exists()


def test_each_modality_whose_predictions_are_all_empty_is_named(
    run, data, tmp_path, monkeypatch, caplog
):
    seen = []  # case by case, T2 before T1

    def empty_of_t1(net, image, *_, **__):
        seen.append(image)
        return np.full(image.shape[1:], len(seen) % 2, np.uint8)

    monkeypatch.setattr(label_maps, "predict_volume", empty_of_t1)
    sample(run, data, tmp_path, modalities=("t2", "t1"), part="test")
    told = [record.getMessage() for record in caplog.records if "are empty" in record.getMessage()]
    assert len(told) == 1
    assert told[0].startswith(f"{tmp_path / 't1'}: 2 of 2")


def test_modalities_that_do_not_fit_are_usage_errors(run, data, tmp_path):
    with pytest.raises(UsageError, match="wanted different names"):
        sample(run, data, tmp_path, modalities=("t1", "t1"))
    with pytest.raises(DataError, match="no modality 'pd'"):
        sample(run, data, tmp_path, modalities=("pd",))
    with pytest.raises(UsageError, match="wanted different names"):
        evaluate(tmp_path, data, modalities=("t1", "t1"))
    with pytest.raises(DataError, match="no such folder"):
        evaluate(tmp_path, data, modalities=("t1",))


def test_a_network_of_single_modalities_validates_on_each(data, tmp_path, monkeypatch):
    seen = []
    original = validation.predict_volume

    def predicting(net, image, *rest, **options):
        seen.append(image.shape[0])
        return original(net, image, *rest, **options)

    monkeypatch.setattr(validation, "predict_volume", predicting)
    several = ("modalities=t2,t1ce", "data.single_modality=true")
    train(load_recipe("segresnet_bezier", [*TINY, *several]), data, tmp_path / "run")
    assert seen == [1] * 4
    sample(tmp_path / "run", data, tmp_path / "pred", part="test")
    assert json.loads((tmp_path / "pred" / "sample.json").read_text())["modalities"] == ["t2"]


def test_study_has_a_table_across_modalities(data, tmp_path, monkeypatch):
    plan = STUDIES["domain-generalisation"]
    assert [arm.name for arm in plan.arms] == ["segresnet", "unet3d-stacked", "unet3d", "+bezier",
                                               "+vffc", "+grl", "full", "t1ce+t2"]  # fmt: skip
    arms = tuple(arm for arm in plan.arms if arm.name in ("unet3d-stacked", "full"))
    monkeypatch.setitem(STUDIES, "domain-generalisation", study.Study("?", arms, (), ALL))
    sizes = [*TINY, "model.levels=2", "model.vffc_blocks=1"]
    study.study("domain-generalisation", data, tmp_path, seeds=(0,), overrides=sizes)
    found = json.loads((tmp_path / "study.json").read_text())
    stacked, full = (run["across"] for run in found["runs"])
    assert list(stacked) == ["validation"]
    assert list(full) == [*ALL, "validation"]
    own = [row["dice_regions"] for row in found["runs"][1]["rows"]]
    assert full["t2"]["dice_regions"] == pytest.approx(np.mean(own))
    text = (tmp_path / "study.md").read_text()
    lines = text.split("## Across modalities: mean (WT, TC, ET)\n\n")[1].split("\n\n")[0]
    head, _, first, second = ([c.strip() for c in x.split("|")[1:-1]] for x in lines.splitlines())
    assert head == ["arm", *ALL, "validation"]
    assert first[1:5] == ["–"] * 4
    mean = full["t1ce"]
    figures = [f"{mean[key]:.3f}" for key in ("dice_regions", "dice_WT", "dice_TC", "dice_ET")]
    assert second[2] == f"{figures[0]} ({' '.join(figures[1:])})"
