"""Organ phantoms: CT in nnU-Net's layout, and what the data path makes of air, water and tables."""

import hashlib
import json

import numpy as np
import pytest
import torch

from fastseg import models
from fastseg.cli import main
from fastseg.data import phantom
from fastseg.data.cases import check, discover
from fastseg.data.phantom import organs
from fastseg.data.pipeline import Loader, LoaderConfig, load_case
from fastseg.data.pipeline.decode import brain_box
from fastseg.data.pipeline.intensity import Rule
from fastseg.errors import DataError, UsageError
from fastseg.evaluate import evaluate
from fastseg.tasks.segmentation.predict import predict_volume

nib = pytest.importorskip("nibabel")

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE, CASES = (40, 36, 28), 3
CT = {"normalise": "window", "window": (-160.0, 240.0)}
NAMES = [organ.name for organ in organs.ORGANS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return phantom.write(tmp_path_factory.mktemp("organs") / "set", CASES, SIZE, 3, task="organs")


def digests(root):
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(root.rglob("*")) if p.is_file()}  # fmt: skip


def test_they_are_a_data_set_of_nnunet(folder):
    dataset = discover(folder)
    assert (dataset.layout, dataset.modalities) == ("nnunet", ("ct",))
    assert dataset.scheme.classes == ("background", *NAMES)
    assert not dataset.scheme.regions
    assert [case.id for case in dataset.cases] == [f"Phantom{i:05d}" for i in range(CASES)]
    assert check(dataset) == []
    image = nib.load(dataset.cases[0].images["ct"])
    assert image.shape == SIZE
    assert image.get_data_dtype() == np.int16


def test_a_patient_is_a_function_of_seed_and_number(folder, tmp_path):
    again = phantom.write(tmp_path / "set", 1, SIZE, 3, task="organs")
    assert len(digests(again)) == 4
    phantom.write(again, CASES, SIZE, 3, task="organs")  # goes on
    assert digests(again) == digests(folder)
    assert json.loads((again / "dataset.json").read_text())["numTraining"] == CASES
    assert json.loads((again / "phantom.json").read_text())["task"] == "organs"
    for wrong in ({"seed": 4}, {"task": "nested"}, {"cases": 1}):
        with pytest.raises(UsageError, match="holds"):
            phantom.write(
                again, **{"cases": CASES, "size": SIZE, "seed": 3, "task": "organs"} | wrong
            )


def test_a_stopped_call_goes_on_with_the_case_it_was_at(folder, tmp_path):
    again = phantom.write(tmp_path / "set", 2, SIZE, 3, task="organs")
    (again / "labelsTr" / "Phantom00001.nii.gz").unlink()
    (again / "imagesTr" / "Phantom00001_0000.nii.gz").write_bytes(b"half")
    assert digests(phantom.write(again, CASES, SIZE, 3, task="organs")) == digests(folder)


def test_intensities_are_hounsfield_units_and_organs_are_where_they_belong():
    seen, places = [], []
    for index in range(6):
        images, label = phantom.patient((48, 48, 40), 0, index, "organs")
        hu = images["CT"]
        assert hu.min() >= -1024
        assert -1015 < np.median(hu[:, :3]) < -985  # air in front
        counts = np.bincount(label.ravel(), minlength=10)
        assert (counts[1:] > 20).all()
        seen.append([np.median(hu[label == k]) for k in range(1, 10)])
        places.append([np.argwhere(label == k).mean(0) for k in range(1, 10)])
    mean, place = np.mean(seen, 0), dict(zip(NAMES, np.mean(places, 0), strict=True))
    assert np.abs(mean - [organ.hu for organ in organs.ORGANS]).max() < 40
    assert place["liver"][2] < place["stomach"][2] < place["spleen"][2]  # x grows to the left
    assert place["right_kidney"][2] < place["vena_cava"][2] < place["left_kidney"][2]
    assert place["gallbladder"][1] < place["pancreas"][1] < place["aorta"][1]  # y to the back


def test_air_is_background_and_water_is_not(folder):
    case = load_case(discover(folder), "Phantom00000", Rule("window", window=(-160, 240)))
    raw = np.asarray(nib.load(folder / "imagesTr" / "Phantom00000_0000.nii.gz").dataobj).T
    np.testing.assert_allclose(case.image[0], (raw.clip(-160, 240) + 160) / 400, atol=1e-6)
    assert not case.image[0][raw <= -160].any()
    assert (raw[case.label > 0] > -160).mean() > 0.99


def test_the_box_is_the_body():
    volume = np.full((6, 8, 9), -1000, np.int16)
    volume[2:5, 1:7, 3:8] = 0
    rule = Rule("window", window=(-160, 240))
    assert brain_box([volume], rule) == (slice(2, 5), slice(1, 7), slice(3, 8))
    assert brain_box([np.full((2, 2, 2), -900, np.int16)], rule) is None


def test_nothing_but_air_is_named(folder, tmp_path):
    copy = phantom.write(tmp_path / "set", 1, SIZE, 3, task="organs")
    path = copy / "imagesTr" / "Phantom00000_0000.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.full(SIZE, -1000, np.int16), image.affine), path)
    with pytest.raises(DataError, match=r"Phantom00000.*at most -160 everywhere"):
        load_case(discover(copy), "Phantom00000", Rule("window", window=(-160, 240)))


@pytest.mark.parametrize("patch", [(48, 48), (16, 16), (12, 16, 16)])
def test_training_sees_what_sampling_sees(folder, patch, tmp_path):
    """Around a volume that is smaller than the patch there is air, not water."""
    dataset, found = discover(folder), {}
    for cache in ("none", "disk"):
        config = LoaderConfig(
            patch, 4, 8, flip=False, threads=1, cache=cache, cache_dir=tmp_path, **CT
        )
        for _ in range(2):
            with Loader(dataset, ["Phantom00000"], config, backend="torch") as loader:
                found[cache] = list(loader.epoch(0))
    for plain, cached in zip(*found.values(), strict=True):
        assert torch.equal(plain["image"], cached["image"])
    images = torch.cat([b["image"] for b in found["none"]])
    assert (images.min(), images.max()) == (0, 1)
    if patch == (48, 48):
        assert not images[..., :6, :].any()
        whole = torch.from_numpy(load_case(dataset, "Phantom00000", config.rule).image)
        inner = images[..., 6:42, 4:44]
        slices = whole.movedim(1, 0)
        for one in inner:
            assert min((one - other).abs().max() for other in slices) == 0
    labels = torch.cat([b["label"] for b in found["none"]])
    assert (labels.flatten(1) > 0).any(1).float().mean() >= 0.5


def test_boxes_of_two_windows_are_not_mixed_in_a_cache(folder, tmp_path):
    dataset = discover(folder)
    for window in ((-160, 240), (300, 500)):
        config = LoaderConfig(
            (16, 16), 4, 4, threads=1, cache="disk", cache_dir=tmp_path, normalise="window",
            window=window,
        )  # fmt: skip
        with Loader(dataset, ["Phantom00000"], config, backend="torch") as loader:
            list(loader.epoch(0))
    assert len(list(tmp_path.glob("*.json"))) == 2


class Brightest(models.System):
    """A network that finds organ 1 wherever there is anything."""

    def predict(self, windows, generator=None):
        found = (windows[:, :1] > 0.9).float()
        return torch.cat([1 - found, found], 1)


def test_a_volume_is_predicted_inside_the_body(folder):
    case = load_case(discover(folder), "Phantom00000", Rule("window", window=(-160, 240)))
    found = predict_volume(Brightest(models.Options()), torch.from_numpy(case.image), (32, 32), 8)
    assert np.array_equal(found, case.image[0] > 0.9)


def test_ct_without_a_window_is_warned_of(folder, caplog, capsys):
    for values, warned in (({}, True), (CT, False)):
        caplog.clear()
        config = LoaderConfig((16, 16), threads=1, **values)
        Loader(discover(folder), ["Phantom00000"], config, backend="torch").close()
        assert ("data.normalise=window" in caplog.text) is warned
    assert main(["check", str(folder)]) == 0
    assert "channel ct is CT" in capsys.readouterr().out


def test_scores_have_a_line_for_each_organ(folder, tmp_path, capsys):
    for name in ("Phantom00000", "Phantom00001"):
        label = nib.load(folder / "labelsTr" / f"{name}.nii.gz")
        data = np.asarray(label.dataobj).copy()
        data[data == 3] = 0
        nib.save(nib.Nifti1Image(data, label.affine), tmp_path / f"{name}_pred.nii.gz")
    report = evaluate(tmp_path, folder, tmp_path / "scores")
    table = capsys.readouterr().out
    lines = {line.split()[0]: line.split()[1:] for line in table.splitlines() if line}
    assert lines["spleen"] == ["0.000", "0.000", "373.1"]
    assert lines["liver"] == ["1.000", "1.000", "0.0"]
    assert float(lines["mean"][0]) == pytest.approx(8 / 9, abs=1e-3)
    assert max(map(len, table.splitlines())) < 140
    assert report.mean["dice_class_left_kidney"] == 1
    assert "dice_class_spleen" in (tmp_path / "scores" / "evaluation.csv").read_text()
