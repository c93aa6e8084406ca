"""Synthesised images against another truth than the images of the sampled data set."""

import json

import numpy as np
import pytest

from fastseg.cli import main
from fastseg.data import phantom
from fastseg.errors import DataError
from fastseg.evaluate import evaluate
from fastseg.tasks.modality_synthesis import case as synthesis

nibabel = pytest.importorskip("nibabel")


def scored(*arguments, **options):
    """`evaluate` of synthesised images."""
    return evaluate(*arguments, task="synthesis", **options)


pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = (28, 30, 24)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Phantoms with noise, the last of which lacks a modality."""
    root = phantom.write(tmp_path_factory.mktemp("data"), 2, size=SIZE, seed=6)
    (root / "Phantom00001" / "Phantom00001_t1ce.nii.gz").unlink()
    return root


def stored(path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj).T.astype(float)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """The patients of `data` without noise."""
    root = tmp_path_factory.mktemp("clean")
    return phantom.write(root, 2, size=SIZE, seed=6, noise=False)


def predicted(folder, source, case, name) -> None:
    """A true image as if it had been synthesised."""
    folder.mkdir(parents=True)
    path = folder / f"{case}_{name}_pred.nii.gz"
    path.symlink_to(source / case / f"{case}_{name}.nii.gz")
    row = {"case": case, "modality": name, "given": ["t1"], "scale": [0.0, 1.0], "own_scale": True}
    (folder / f"{case}_{synthesis.NOTES}").write_text(json.dumps({path.name: row}))


def test_another_truth_is_compared_with_in_the_scale_of_the_data(data, clean, tmp_path, capsys):
    case = "Phantom00000"
    for name, source in (("noisy", data), ("clean", clean)):
        predicted(tmp_path / name, source, case, "t2")
        assert main(["evaluate", str(tmp_path / name), "--data", str(data), "--truth", str(clean),
                     "--task", "synthesis", "--out", str(tmp_path / f"s-{name}")]) == 0  # fmt: skip
    found = [json.loads((tmp_path / f"s-{name}" / "evaluation.json").read_text())
             for name in ("noisy", "clean")]  # fmt: skip
    assert found[1]["mean"]["psnr"] == found[1]["mean"]["psnr_brain"] == 100
    assert found[1]["truth"] == str(clean)
    assert f"against the images of {clean}" in capsys.readouterr().out
    images = [stored(root / case / f"{case}_t2.nii.gz") for root in (data, clean)]
    brain = images[0] != 0
    low, high = np.percentile(images[0][brain], (0.5, 99.5))
    noisy, true = (((image - low) / (high - low)).clip(0, 1)[brain] for image in images)
    wanted = -10 * np.log10(np.square(noisy - true).mean())
    assert found[0]["mean"]["psnr_brain"] == pytest.approx(wanted, abs=1e-3)
    # against what was given the noise is no error; either way round it is the same one
    assert scored(tmp_path / "noisy", data, quiet=True).mean["psnr"] == 100
    other = scored(tmp_path / "clean", data, quiet=True)
    assert other.to_dict()["truth"] is None
    assert other.mean["psnr"] == pytest.approx(found[0]["mean"]["psnr"])


def test_a_truth_that_the_data_lacks_has_its_own_scale(data, clean, tmp_path):
    case = "Phantom00001"
    predicted(tmp_path / "p", clean, case, "t1ce")
    assert scored(tmp_path / "p", data, truth=clean, quiet=True).mean["psnr"] == 100
    with pytest.raises(DataError, match="no true image of 1"):
        scored(tmp_path / "p", data, quiet=True)


def test_a_wrong_truth_is_named(data, tmp_path):
    case = "Phantom00001"
    predicted(tmp_path / "p", data, case, "t2")
    small = phantom.write(tmp_path / "small", 2, size=(28, 30, 25), seed=6, noise=False)
    with pytest.raises(DataError, match=r"is \(24, 30, 28\), wanted \(25, 30, 28\) as in .*small"):
        scored(tmp_path / "p", data, truth=small, quiet=True)
    few = phantom.write(tmp_path / "few", 1, size=SIZE, seed=6, noise=False)
    with pytest.raises(DataError, match="few: has no true image of 1"):
        scored(tmp_path / "p", data, truth=few, quiet=True)
    with pytest.raises(DataError, match="nowhere"):
        scored(tmp_path / "p", data, truth=tmp_path / "nowhere", quiet=True)
