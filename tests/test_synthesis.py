"""Synthesis in the driver: training without labels, absent and hidden modalities, scores."""

import json
import shutil
import sys
import types

import numpy as np
import pytest
import torch

import fastseg.train as train_module
from fastseg import checkpoint
from fastseg.cli import main
from fastseg.config import load_recipe
from fastseg.data import phantom
from fastseg.data.cases import discover
from fastseg.data.pipeline.intensity import Rule
from fastseg.errors import DataError, UsageError
from fastseg.evaluate import evaluate
from fastseg.host.processes import Place
from fastseg.report import report as report_page
from fastseg.sample import sample
from fastseg.tasks.modality_synthesis import case as synthesis
from fastseg.tasks.modality_synthesis.baselines import LinearRegression, MeanOfGiven
from fastseg.tasks.modality_synthesis.images import given, views_of
from fastseg.tasks.modality_synthesis.lpips import Lpips
from fastseg.tasks.modality_synthesis.predict import synthesise_volume
from fastseg.tasks.modality_synthesis.score import (
    score_volume,
    summarise,
    tumour_box,
)
from fastseg.train import train

nibabel = pytest.importorskip("nibabel")


def scored(*arguments, **options):
    """`evaluate` of synthesised images."""
    return evaluate(*arguments, task="synthesis", **options)


pytestmark = pytest.mark.usefixtures("one_thread")

RULE = Rule("percentile", (0.5, 99.5), None, (-1.0, 1.0))
TINY = ("precision=fp32", "data.patch=32,32", "data.samples_per_case=4", "data.batch_size=4",
        "data.threads=1", "model.width=4", "model.multipliers=1,2", "model.attention_levels=1",
        "model.blocks=1", "model.parameterisation=x0", "model.sampler=ddim", "ema=0.9",
        "model.sampling_steps=2", "epochs=1", "log_every=1", "val_every=1",
        "fractions=0.5,0.25,0.25")  # fmt: skip
NAMES = ("t1", "t1ce", "t2", "flair")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Phantoms without labels, one of which lacks a modality."""
    root = phantom.write(tmp_path_factory.mktemp("data"), 5, size=(28, 30, 24), seed=6)
    for path in root.glob("*/*_seg.nii.gz"):
        path.unlink()
    (root / "Phantom00004" / "Phantom00004_t1ce.nii.gz").unlink()
    return root


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module.report, "progress_png", lambda *_: None)
        train(load_recipe("fgc2f_udiff", TINY), data, out)
    return out


@pytest.fixture
def undrawn(monkeypatch):
    monkeypatch.setattr("fastseg.tasks.modality_synthesis.images.synthesis_png", lambda *_: None)


def stored(path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj).T.astype(float)


def test_complete_cases_train_without_labels(run, data):
    state, groups = checkpoint.load(checkpoint.generations(run / "checkpoints")[0])
    trained = [case for part in state["split"].values() for case in part]
    assert sorted(trained) == [f"Phantom0000{i}" for i in range(4)]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in rows if "loss" in row)
    assert 0 < rows[-1]["val_psnr"] < 40
    assert state["position"]["best"] == rows[-1]["val_psnr"]
    scales = [
        np.percentile(volume[volume != 0], (0.5, 99.5))
        for case in state["split"]["train"]
        for volume in [stored(data / case / f"{case}_t2.nii.gz")]
    ]
    kept = groups["ema"]["intensities"][state["modalities"].index("t2")]
    np.testing.assert_allclose(kept, np.mean(scales, 0), rtol=1e-5)


def test_an_absent_modality_is_synthesised(run, data, tmp_path, undrawn):
    written = sample(run, data, tmp_path)
    assert [path.name for path in written] == ["Phantom00004_t1ce_pred.nii.gz"]
    made, given = nibabel.load(written[0]), data / "Phantom00004" / "Phantom00004_t1.nii.gz"
    assert np.array_equal(made.affine, nibabel.load(given).affine)
    image, brain = stored(written[0]), stored(given) != 0
    assert not image[~brain].any()
    _, groups = checkpoint.load(checkpoint.generations(run / "checkpoints")[0])
    low, high = groups["ema"]["intensities"][1].tolist()
    assert low - 1e-3 <= image[brain].min() < image[brain].max() <= high + 1e-3
    row = synthesis.read_record(tmp_path)[written[0].name]
    assert row["given"] == ["t1", "t2", "flair"]
    assert row["scale"] == pytest.approx([low, high])
    assert not row["own_scale"]
    before = written[0].read_bytes()
    assert sample(run, data, tmp_path) == written  # finished: nothing is sampled
    written[0].unlink()
    sample(run, data, tmp_path)
    assert written[0].read_bytes() == before
    # killed between the images and what is noted of them
    next(tmp_path.glob(f"*_{synthesis.NOTES}")).unlink()
    sample(run, data, tmp_path)
    assert synthesis.read_record(tmp_path)[written[0].name] == row


def test_a_process_without_anything_to_do_leaves_the_others_alone(
    run, data, tmp_path, undrawn, monkeypatch
):
    found = []
    for rank in range(2):
        monkeypatch.setattr(
            "fastseg.sample.launched",
            lambda rank=rank: Place(rank, rank, 2, 2),
        )
        found.append(sample(run, data, tmp_path))
    assert [len(paths) for paths in found] == [1, 0]


def test_hidden_modalities_are_written_in_their_own_scale(run, data, tmp_path, undrawn):
    options = {"cases": ["Phantom00001"], "hide": ["T1Gd", "t2"]}
    written = sample(run, data, tmp_path, **options)
    assert [path.name.split("_")[1] for path in written] == ["t1ce", "t2"]
    for path, row in zip(written, synthesis.read_record(tmp_path).values(), strict=True):
        true = stored(data / "Phantom00001" / path.name.replace("_pred", ""))
        assert row["scale"] == pytest.approx(np.percentile(true[true != 0], (0.5, 99.5)))
        assert row["own_scale"]
        assert row["given"] == ["t1", "flair"]
    with pytest.raises(UsageError, match="holds other predictions"):
        sample(run, data, tmp_path, cases=["Phantom00001"], hide=["t2"])


def test_every_subset_of_what_is_there_has_a_folder_and_scores(
    run, data, tmp_path, undrawn, capsys
):
    arguments = ["sample", str(run), "--data", str(data), "--out", str(tmp_path / "p"), "--cases",
                 "Phantom00004", "--hide", "every"]  # fmt: skip
    assert main(arguments) == 0
    folders = {path.name for path in (tmp_path / "p").iterdir() if path.is_dir()}
    assert folders == {"t1+t2+flair", "t1+t2", "t1+flair", "t2+flair", "t1", "t2", "flair"}
    made = list((tmp_path / "p").glob("*/Phantom00004_*_pred.nii.gz"))
    assert len(made) == 1 + 3 * 2 + 3 * 3
    command = ["evaluate", str(tmp_path / "p"), "--data", str(data), "--task", "synthesis", "--out",
               str(tmp_path / "s")]  # fmt: skip
    assert main(command) == 0
    found = json.loads((tmp_path / "s" / "evaluation.json").read_text())
    assert set(found["by_given"]) == folders - {"t1+t2+flair"}
    assert set(found["by_modality"]) == {"t1", "t2", "flair"}
    assert len(found["missing"]) == len([path for path in made if "_t1ce_" in path.name]) == 7
    assert found["mean"]["psnr_tumour"] is None
    assert len((tmp_path / "s" / "evaluation.csv").read_text().splitlines()) == 1 + 3 * 1 + 3 * 2
    assert "t2+flair" in capsys.readouterr().out


def test_a_complete_case_has_fourteen_subsets():
    net = MeanOfGiven(NAMES)
    found = views_of(net, ("every",))
    assert len({view.folder for view in found}) == 14
    for view in found:
        mask = given(view, NAMES, NAMES)
        assert view.folder == "+".join(view.shown) == "+".join(np.array(NAMES)[mask])
    (view,) = views_of(net, ())
    assert given(view, NAMES, NAMES) is None
    (view,) = views_of(net, ("t1",))
    assert given(view, NAMES, ("t1",)) is None


def test_bad_requests_are_named(run, data, tmp_path):
    with pytest.raises(UsageError, match="modalities: a system of synthesis"):
        sample(run, data, tmp_path / "m", modalities=["t1"])
    for settings, message in (
        (["labelled_fraction=0.5"], "labelled_fraction: synthesis uses no labels"),
        (["data.patch=33,32"], r"data.patch: is \(33, 32\), .* wants 2 multiples of 2"),
        (["model.sampler=ddmp"], "sampler: is 'ddmp'"),
        (["model.sampler=ddpm", "model.eta=0.5"], "eta: is 0.5"),
        (["data.strong=true"], "strong is True; wanted False, or a value_range from 0"),
    ):
        with pytest.raises(UsageError, match=message):
            train(load_recipe("fgc2f_udiff", [*TINY, *settings]), data, tmp_path / "f")
    for hide, message in ((["pd"], "hide: is pd"), (list(NAMES), "some but not all")):
        with pytest.raises(UsageError, match=message):
            sample(run, data, tmp_path / "a", hide=hide)
    with pytest.raises(UsageError, match="no case lacks any"):
        sample(run, data, tmp_path / "b", cases=["Phantom00001"])
    with pytest.raises(UsageError, match="value_range=-1,1"):
        train(load_recipe("fgc2f_udiff", [*TINY, "data.normalise=zscore"]), data, tmp_path / "c")
    with pytest.raises(UsageError, match=synthesis.NOTES):
        scored(tmp_path, data)
    (tmp_path / "d" / "Case_1").mkdir(parents=True)
    shutil.copy(
        data / "Phantom00000" / "Phantom00000_t1.nii.gz", tmp_path / "d/Case_1/Case_1_t1.nii.gz"
    )
    with pytest.raises(DataError, match="has none of t2, flair"):
        synthesis.load_known(discover(tmp_path / "d").cases[0], ("t2", "flair"), RULE)


def gaussian_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Mean SSIM of two slices in 0 … 1, where the window of 11 fits (Wang et al., 2004)."""
    r = np.arange(-5, 6)
    window = np.exp(-(r[:, None] ** 2 + r**2) / (2 * 1.5**2))
    window /= window.sum()
    views = [np.lib.stride_tricks.sliding_window_view(x, (11, 11)) for x in (a, b)]
    mean_a, mean_b = ((view * window).sum((-1, -2)) for view in views)
    var_a, var_b = ((view**2 * window).sum((-1, -2)) - m**2
                    for view, m in zip(views, (mean_a, mean_b), strict=True))  # fmt: skip
    both = (views[0] * views[1] * window).sum((-1, -2)) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean_a * mean_b + c1) * (2 * both + c2)
    return float((top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean())


def test_scores_by_hand():
    rng = np.random.default_rng(0)
    true = rng.random((4, 20, 18))
    brain = np.zeros(true.shape, bool)
    brain[1:3, 4:15, 3:16] = True
    pred = (true + rng.normal(0, 0.1, true.shape)).clip(0, 1)
    label = np.zeros(true.shape, np.uint8)
    label[2, 6:9, 10:17] = 3
    row = score_volume(pred, true, brain, label)
    decibel = [-10 * np.log10(((pred[z] - true[z]) ** 2).mean()) for z in (1, 2)]
    assert row["psnr"] == pytest.approx(np.mean(decibel), rel=1e-6)
    assert row["ssim"] == pytest.approx(
        np.mean([gaussian_ssim(pred[z], true[z]) for z in (1, 2)]), abs=1e-4
    )
    whole = -10 * np.log10(((pred - true)[brain] ** 2).mean())
    assert row["psnr_brain"] == pytest.approx(whole, rel=1e-6)
    assert tumour_box(label) == (slice(2, 3), slice(2, 13), slice(7, 18))
    box = np.s_[2, 2:13, 7:18]
    assert row["psnr_tumour"] == pytest.approx(-10 * np.log10(((pred - true)[box] ** 2).mean()))
    assert row["ssim_tumour"] == pytest.approx(gaussian_ssim(pred[box], true[box]), abs=1e-4)
    assert score_volume(true, true, brain, None)["psnr"] == 100
    assert score_volume(true, true, brain, 0 * label)["psnr_tumour"] is None


def test_means_are_over_subsets():
    def row(given, modality, value):
        names = {"given": given, "case": "A", "modality": modality}
        return names | dict.fromkeys(("psnr", "ssim", "psnr_brain"), value) | {
            "psnr_tumour": None, "ssim_tumour": None, "lpips": None}  # fmt: skip

    found = summarise([row("t1", "t2", 10.0), row("t1", "t1ce", 20.0), row("t1+t2", "t1ce", 31.0)])
    assert found.groups["given"]["t1"]["psnr"] == 15
    assert found.groups["modality"]["t1ce"]["psnr"] == 25.5
    assert found.mean["psnr"] == (15 + 31) / 2
    assert "23.00" in found.table().splitlines()[-1]


def test_baselines_are_their_formulas(tmp_path):
    rng = np.random.default_rng(1)
    voxels = rng.normal(size=(4, 500))
    voxels[1] = 0.3 + 0.5 * voxels[0] - 0.2 * voxels[3]
    columns = np.concatenate([np.ones((1, 500)), voxels])
    gram = columns @ columns.T
    net = LinearRegression(NAMES, gram)
    available = np.array([True, False, True, True])
    weights = net.weights(available)
    np.testing.assert_allclose(weights[:, 1], [0.3, 0.5, 0, 0, -0.2], atol=1e-9)
    exact = np.linalg.lstsq(columns[[0, 1]].T, voxels[2], rcond=None)[0]
    np.testing.assert_allclose(net.weights(np.array([1, 0, 0, 0], bool))[[0, 1], 2], exact)
    x = torch.rand(1, 4, 3, 3) - 0.5
    mask = torch.from_numpy(available)[None]
    wanted = 0.3 + 0.5 * x[0, 0] - 0.2 * x[0, 3]
    torch.testing.assert_close(net.synthesise(x, mask)[0, 1], wanted)
    mean = MeanOfGiven(NAMES).synthesise(x, mask)
    torch.testing.assert_close(mean[0, 1], (x[0, 0] + x[0, 2] + x[0, 3]) / 3)
    assert torch.equal(mean[0, 0], x[0, 0])


def test_regression_is_fitted_to_brain_voxels(data):
    dataset = discover(data)
    lacking = dataset.by_id("Phantom00004")
    net = LinearRegression.fitted(NAMES, [dataset.by_id("Phantom00000"), lacking], RULE)
    known = synthesis.load_known(dataset.by_id("Phantom00000"), NAMES, RULE)
    voxels = known.image[:, known.brain].astype(float)
    columns = np.stack([np.ones(voxels.shape[1]), voxels[0]])
    exact = np.linalg.lstsq(columns.T, voxels[2], rcond=None)[0]
    found = net.weights(np.array([True, False, False, False]))[[0, 1], 2]
    np.testing.assert_allclose(found, exact, rtol=1e-6)
    with pytest.raises(DataError, match="no case of 1"):
        LinearRegression.fitted(NAMES, [lacking], RULE)


def test_noise_of_the_given_image_shrinks_the_regression():
    # t1 = signal + noise, t2 = the signal: the slope is s² / (s² + n²), and so is the share of n²
    # that the error against the clean t2 has; the mean of given keeps n² whole
    rng = np.random.default_rng(2)
    signal, noise = 0.06 * rng.standard_normal(40000), 0.04 * rng.standard_normal(40000)
    voxels = np.stack([signal + noise, signal])
    columns = np.concatenate([np.ones((1, 40000)), voxels])
    mask = torch.tensor([[True, False]])
    x = torch.from_numpy(voxels).view(1, 2, 200, 200)
    for net, share in (
        (LinearRegression(("t1", "t2"), columns @ columns.T), 0.06**2 / (0.06**2 + 0.04**2)),
        (MeanOfGiven(("t1", "t2")), 1.0),
    ):
        error = (net.synthesise(x, mask)[0, 1] - x[0, 1]).square().mean()
        assert float(error) == pytest.approx(share * 0.04**2, rel=0.03)


@pytest.mark.parametrize("by", ["mean", "regression"])
def test_a_baseline_stands_where_the_network_does(run, data, tmp_path, undrawn, by):
    words = ["sample", str(run), "--data", str(data), "--out", str(tmp_path), "--by", by]
    words.append("device=cpu")
    assert main([*words, "--cases", "Phantom00001", "--hide", "t1ce,t2"]) == 0
    dataset = discover(data)
    known = synthesis.load_known(dataset.by_id("Phantom00001"), NAMES, RULE)
    given = known.image[[0, 3]]
    wanted = {"t1ce": given.mean(0), "t2": given.mean(0)}
    if by == "regression":
        ids = json.loads((run / "split.json").read_text())["train"]
        voxels = [synthesis.load_known(dataset.by_id(i), NAMES, RULE) for i in ids]
        voxels = np.concatenate([one.image[:, one.brain] for one in voxels], 1).astype(float)
        columns = np.stack([np.ones(voxels.shape[1]), voxels[0], voxels[3]], 1)
        for place, name in ((1, "t1ce"), (2, "t2")):
            a, b, c = np.linalg.lstsq(columns, voxels[place], rcond=None)[0]
            wanted[name] = (a + b * given[0] + c * given[1]).clip(-1, 1)
    for name, image in wanted.items():
        row = synthesis.read_record(tmp_path)[f"Phantom00001_{name}_pred.nii.gz"]
        low, high = row["scale"]
        found = (stored(tmp_path / f"Phantom00001_{name}_pred.nii.gz") - low) / (high - low) * 2 - 1
        np.testing.assert_allclose(found[known.brain], image[known.brain], atol=1e-4)
    with pytest.raises(UsageError, match="holds other predictions"):
        sample(run, data, tmp_path, cases=["Phantom00001"], hide=["t1ce", "t2"])


def test_baselines_serve_the_networks_subsets_and_scales():
    net = torch.nn.Module()
    net.intensities, net.masks = torch.rand(4, 2), lambda: torch.tensor([[True, False, True, True]])
    mean = MeanOfGiven(NAMES).like(net)
    assert [view.folder for view in views_of(mean, ("every",))] == ["t1+t2+flair"]
    assert torch.equal(mean.intensities, net.intensities)


def test_slices_are_counted_while_a_case_is_synthesised(data):
    known = synthesis.load_known(discover(data).by_id("Phantom00001"), NAMES, RULE)
    available, told = np.array([True, False, True, True]), []
    noise = torch.Generator().manual_seed(0)
    synthesise_volume(
        MeanOfGiven(NAMES), known, available, (32, 32), 5, noise, lambda *a: told.append(a)
    )
    count = int(np.ptp(np.flatnonzero(known.brain.any((1, 2))))) + 1
    assert told == [(start, count) for start in range(0, count, 5)]


def test_a_case_without_an_image_is_left_out_and_named(run, data, tmp_path, undrawn, capsys):
    for name in ("Phantom00000", "Phantom00001"):
        shutil.copytree(data / name, tmp_path / "data" / name)
    for path in (tmp_path / "data" / "Phantom00000").glob("*_t[12c]*"):
        path.unlink()  # FLAIR is left
    words = ["sample", str(run), "--data", str(tmp_path / "data"), "--hide", "flair"]
    assert main([*words, "--out", str(tmp_path / "a"), "--cases", "Phantom00000"]) == 0
    assert not list((tmp_path / "a").glob("*.nii.gz"))
    path = tmp_path / "data" / "Phantom00000" / "Phantom00000_flair.nii.gz"
    path.rename(path.with_name("Phantom00000_pd.nii.gz"))
    capsys.readouterr()
    assert main([*words, "--out", str(tmp_path / "b"), "device=cpu"]) == 3
    assert "case Phantom00000: has none of t1, t1ce, t2, flair" in capsys.readouterr().err
    assert len(list((tmp_path / "b").glob("Phantom00001_*.nii.gz"))) == 1


def test_bad_requests_for_baselines_are_named(run, data, tmp_path, undrawn):
    with pytest.raises(UsageError, match="by: mean has no options such as ensemble=8"):
        sample(run, data, tmp_path / "a", hide=["t2"], by="mean", overrides=["ensemble=8"])
    with pytest.raises(UsageError, match="by: is 'median', wanted mean or regression"):
        sample(run, data, tmp_path / "a", hide=["t2"], by="median")
    ids = json.loads((run / "split.json").read_text())
    (other,) = ids["test"]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / other).symlink_to(data / other)
    with pytest.raises(UsageError, match=f"has no case {ids['train'][0]}.* training cases"):
        sample(run, tmp_path / "data", tmp_path / "a", hide=["t2"], by="regression")
    # nothing was claimed by what could not be
    assert len(sample(run, tmp_path / "data", tmp_path / "a", hide=["t2"], by="mean")) == 1


def test_phantoms_without_noise_are_the_same_patients():
    noisy, label = phantom.patient((28, 30, 24), 3, 1)
    clean, same = phantom.patient((28, 30, 24), 3, 1, noise=False)
    assert np.array_equal(label, same)
    for name, image in clean.items():
        brain = image != 0
        assert np.array_equal(brain, noisy[name] != 0)
        difference = (noisy[name].astype(float) - image)[brain]
        assert 0.01 < difference.std() / image[brain].mean() < 0.15


def test_the_record_is_read_back(tmp_path):
    assert synthesis.read_record(tmp_path) == {}
    (tmp_path / f"A_{synthesis.NOTES}").write_text("{")
    with pytest.raises(DataError, match=f"A_{synthesis.NOTES}"):
        synthesis.read_record(tmp_path)


def test_three_modalities_of_a_datalist(data, tmp_path, undrawn, monkeypatch):
    monkeypatch.setattr(train_module.report, "progress_png", lambda *_: None)
    entries = []
    for number in range(3):
        for source, name in (("t1", "T1"), ("t2", "T2"), ("flair", "PD")):
            (tmp_path / "ixi").mkdir(exist_ok=True)
            path = tmp_path / "ixi" / f"IXI{number:03d}-{name}.nii.gz"
            path.symlink_to(data / f"Phantom0000{number}" / f"Phantom0000{number}_{source}.nii.gz")
        names = [f"IXI{number:03d}-{name}.nii.gz" for name in ("T1", "T2", "PD")]
        entries.append({"image": names})
    listed = {"modality": {"0": "T1", "1": "T2", "2": "PD"}, "training": entries}
    (tmp_path / "ixi" / "list.json").write_text(json.dumps(listed))
    train(load_recipe("fgc2f_udiff", [*TINY, "val_every=0"]), tmp_path / "ixi", tmp_path / "run")
    written = sample(tmp_path / "run", tmp_path / "ixi", tmp_path / "out", hide=["PD"], part="test")
    assert [path.name for path in written] == [
        f"{path.name[:6]}_pd_pred.nii.gz" for path in written
    ]
    report = scored(tmp_path / "out", tmp_path / "ixi", quiet=True)
    assert list(report.groups["given"]) == ["t1+t2"]


def test_report_shows_the_scores_of_a_folder(run, tmp_path):
    found = summarise(
        [{"given": "t1", "case": "A", "modality": "t2", "psnr": 21.5, "ssim": 0.5,
          "psnr_brain": 18.0, "psnr_tumour": None, "ssim_tumour": None, "lpips": None}]
    )  # fmt: skip
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    (tmp_path / "run" / "evaluation.json").write_text(json.dumps(found.to_dict()))
    page = report_page(tmp_path / "run").read_text()
    assert "<td>t1</td><td>21.500</td><td>0.500</td><td>18.000</td>" in page


def test_lpips_is_used_where_it_is_at_hand_and_nothing_is_fetched(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setitem(sys.modules, "lpips", None)
    assert Lpips.at_hand() is None  # no package

    class Distance(torch.nn.Module):
        def __init__(self, net, verbose):
            super().__init__()

        def forward(self, a, b):
            assert a.shape[1] == 3
            assert (a.min(), a.max()) == (-1, 1)
            return (a - b).abs().mean((1, 2, 3), keepdim=True)

    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=Distance))
    assert Lpips.at_hand() is None  # no weights
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth").touch()
    image = np.array([[[0.0, 1.0]], [[0.0, 1.0]]])
    other = np.array([[[0.0, 1.0]], [[0.5, 1.0]]])
    assert Lpips.at_hand()(image, other) == pytest.approx(0.25)
