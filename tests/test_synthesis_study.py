"""The study of synthesis: arms, its measures, and its checks."""

import json

import numpy as np
import pytest
import torch

import fastseg.train as train_module
from fastseg import drawing, study, synthesis_study, validate
from fastseg.config import load_recipe
from fastseg.data import phantom
from fastseg.study import STUDIES, Arm, Study

torch.set_num_threads(1)
TINY = ("precision=fp32", "data.patch=32,32", "data.samples_per_case=2", "data.batch_size=2",
        "data.threads=1", "model.width=4", "model.multipliers=1,2", "model.attention_levels=1",
        "model.blocks=1", "model.parameterisation=x0", "model.sampler=ddim",
        "model.sampling_steps=1", "epochs=1", "fractions=0.34,0.33,0.33")  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return phantom.write(tmp_path_factory.mktemp("data"), 3, size=(28, 30, 24), seed=4)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    arms = (Arm("both", "fgc2f_udiff"), Arm("no guide", "fgc2f_udiff", ("model.guide=none",)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STUDIES, "synthesis", Study("?", arms, hide=("t1ce", "t2"), checks=True))
        patch.setattr(train_module.report, "progress_png", lambda *_: None)
        patch.setattr(validate, "_draw_synthesis", lambda *_: None)
        patch.setattr("fastseg.sample_synthesis.synthesis_png", lambda *_: None)
        patch.setattr(synthesis_study, "LEVELS", (0.0, 0.2))
        patch.setattr(synthesis_study, "segmented", lambda *_: [
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
    assert [row["arm"] for row in summary] == ["both", "no guide"]
    assert summary[1]["measures"]["psnr"]["p"] is not None


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
        same = synthesis_study.degrade(image, brain, kind, 0.0, 1)
        np.testing.assert_allclose(same, image, atol=1e-6)
        worse = synthesis_study.degrade(image, brain, kind, 0.1, 1)
        assert np.array_equal(worse[:, ~brain], image[:, ~brain])
        assert not np.allclose(worse[:, brain], image[:, brain], atol=0.01)
    unit = (image + 1) / 2
    exact = 0.9 * unit + 0.1 * np.roll(unit, 4, 2)
    np.testing.assert_allclose((worse[:, brain] + 1) / 2, exact[:, brain], atol=1e-6)


def test_replaced_modalities_reach_the_segmenter(data, tmp_path, monkeypatch):
    from fastseg.data.cases import discover

    dataset, seen = discover(data), {}
    made = tmp_path / "made"
    made.mkdir()
    case = dataset.cases[0]
    (made / f"{case.id}_t2_pred.nii.gz").symlink_to(case.images["flair"])

    def sample(run, folder, out, cases):
        from fastseg.data.pipeline import load_case

        seen[folder.name] = load_case(discover(folder), case.id)

    monkeypatch.setattr(synthesis_study.sample, "sample", sample)
    report = type("Report", (), {"mean": {"dice_regions": 0.5}})
    monkeypatch.setattr(synthesis_study, "evaluate", lambda *_, **__: report)
    for name, replaced in (("real", {}), ("made", {"t2": made}), ("missing", {"t2": None})):
        assert synthesis_study._dice(tmp_path, dataset, [case.id], name, replaced) == 0.5
    images = {name: found.image for name, found in seen.items()}
    place = dataset.modalities.index("t2")
    assert np.array_equal(images["made"][place], images["real"][dataset.modalities.index("flair")])
    assert not images["missing"][place].any()
    others = [i for i in range(4) if i != place]
    for name in ("made", "missing"):
        assert np.array_equal(images[name][others], images["real"][others])


def test_curves_show_decibels():
    figure = drawing.new_figure(4, 2)
    left, right = figure.subplots(1, 2)
    drawing.draw_curves(left, right, [{"step": 1, "val_psnr": 20.0}, {"step": 2, "val_psnr": 24.0}])
    assert right.get_title() == "validation PSNR, dB"
    assert right.get_ylim()[1] > 24
