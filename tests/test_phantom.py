import gzip
import hashlib
import json

import numpy as np
import pytest

from fastseg.data import phantom
from fastseg.errors import UsageError

nib = pytest.importorskip("nibabel")

SIZE = (40, 44, 28)
NESTED_SHA256 = "0a6eba747770e1d18b76e6221bf8ba0404f41fd53939bccfed850e779e4d7637"


def digests(root):
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*.nii.gz"))
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return phantom.write(tmp_path_factory.mktemp("phantoms") / "set", 3, SIZE, seed=5)


def test_the_nested_task_never_changes(folder):
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        # what zlib makes of the same bytes is its own affair
        found.update(gzip.decompress(content) if path.suffix == ".gz" else content)
    assert found.hexdigest() == NESTED_SHA256


def test_layout_and_headers(folder):
    assert sorted(p.name for p in folder.iterdir()) == [
        "Phantom00000", "Phantom00001", "Phantom00002", "phantom.json",
    ]  # fmt: skip
    for case in folder.glob("Phantom*"):
        for suffix in (*phantom.MODALITIES, "seg"):
            image = nib.load(case / f"{case.name}_{suffix}.nii.gz")
            assert image.shape == SIZE
            assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
            assert image.header.get_zooms() == (1, 1, 1)
            assert image.get_data_dtype() == (np.uint8 if suffix == "seg" else np.int16)
            assert (image.header["qform_code"], image.header["sform_code"]) == (1, 1)


def test_brain_on_exact_zero_background(folder):
    case = folder / "Phantom00001" / "Phantom00001"
    masks = [np.asarray(nib.load(f"{case}_{m}.nii.gz").dataobj) > 0 for m in phantom.MODALITIES]
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])
    assert 0.15 < masks[0].mean() < 0.5
    assert not masks[0][[0, -1]].any(), "the brain must not touch the sides"
    labels = np.asarray(nib.load(f"{case}_seg.nii.gz").dataobj)
    assert not (labels[~masks[0]]).any()


def test_same_bytes_whenever_and_in_whatever_order(folder, tmp_path):
    first = digests(phantom.write(tmp_path / "a", 1, SIZE, seed=5))
    again = digests(phantom.write(tmp_path / "a", 3, SIZE, seed=5))
    assert again == digests(folder)
    assert first.items() < again.items()
    assert digests(phantom.write(tmp_path / "b", 3, SIZE, seed=6)).items().isdisjoint(again.items())


def test_resumes_after_an_interruption(folder, tmp_path):
    out, calls = tmp_path / "set", []

    def stop_after_two(done, total):
        calls.append((done, total))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        phantom.write(out, 3, SIZE, seed=5, progress=stop_after_two)
    assert calls == [(1, 3), (2, 3)]
    (out / ".Phantom00002.part").mkdir()
    (out / ".Phantom00002.part" / "Phantom00002_t1.nii.gz").write_bytes(b"half")
    kept = (out / "Phantom00000" / "Phantom00000_t1.nii.gz").stat().st_mtime_ns
    phantom.write(out, 3, SIZE, seed=5)
    assert digests(out) == digests(folder)
    assert not list(out.glob(".*"))
    assert (out / "Phantom00000" / "Phantom00000_t1.nii.gz").stat().st_mtime_ns == kept


@pytest.fixture(scope="module")
def patients():
    return [phantom.patient((48, 48, 32), 0, i) for i in range(24)]


def test_tumours_are_nested_and_vary(patients):
    from scipy.ndimage import binary_dilation

    fractions, centres, without_et = [], [], 0
    for images, labels in patients:
        assert set(np.unique(labels)) <= {0, 1, 2, 4}
        necrosis, enhancing = labels == 1, labels == 4
        assert necrosis.any()
        assert (labels == 2).any()
        without_et += not enhancing.any()
        shell = binary_dilation(necrosis) & ~necrosis & (images["t1"] > 0)
        if enhancing.any():
            assert enhancing[shell].mean() > 0.8, "enhancement surrounds the necrosis"
        fractions.append((labels > 0).sum() / (images["t1"] > 0).sum())
        centres.append(np.argwhere(labels > 0).mean(0))
    assert 1 <= without_et <= 7
    assert 0.01 < min(fractions) < 0.5 * max(fractions) < 0.25
    assert np.ptp(centres, axis=0).min() > 6


def test_contrasts_have_the_known_order(patients):
    images, labels = next((i, s) for i, s in patients if (s == 4).any())
    brain = (images["t1"] > 0) & (labels == 0)
    median = {
        (m, v): np.median(image[labels == v if v else brain])
        for m, image in images.items()
        for v in (0, 1, 2, 4)
    }
    assert median["t1", 1] < median["t1", 2] < median["t1", 0]
    assert median["t2", 1] > median["t2", 2] > median["t2", 0], "T2 inverts T1"
    assert median["t1ce", 4] > 1.1 * median["t1ce", 0], "contrast agent"
    assert median["t1", 4] < median["t1", 0], "no contrast agent"
    assert median["flair", 2] > 1.3 * median["flair", 0]
    fluid = images["t2"] > np.percentile(images["t2"][brain], 97)
    assert np.median(images["flair"][fluid & brain]) < median["flair", 0], "FLAIR nulls CSF"


def test_noise_is_independent_between_contrasts(patients):
    images, labels = patients[0]
    core = (images["t1"] > 0) & (labels == 0)
    residues = []
    for image in images.values():
        relative = image / np.median(image[core])
        residues.append(
            (relative[:, :, 1:] - relative[:, :, :-1])[core[:, :, 1:] & core[:, :, :-1]]
        )
    quiet = np.all([np.abs(r) < 0.08 for r in residues], axis=0)
    correlation = np.corrcoef(np.array(residues)[:, quiet])
    assert np.std(residues[0][quiet]) > 0.02
    assert np.abs(correlation[np.triu_indices(4, 1)]).max() < 0.25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cases": 0}, "cases"),
        ({"cases": 1, "size": (8, 40, 40)}, "size"),
        ({"cases": 1, "size": (40, 40)}, "size"),
        ({"cases": 1, "seed": -1}, "seed"),
    ],
)
def test_bad_arguments_leave_nothing(tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message):
        phantom.write(tmp_path / "set", **arguments)
    assert not (tmp_path / "set").exists()


def test_refuses_foreign_folders(folder, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="other files"):
        phantom.write(tmp_path, 1, SIZE)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(UsageError, match="is a file"):
        phantom.write(tmp_path / "notes.txt", 1, SIZE)
    with pytest.raises(UsageError, match="another kind"):
        phantom.write(folder, 3, SIZE, seed=6)
    with pytest.raises(UsageError, match="already holds 3"):
        phantom.write(folder, 2, SIZE, seed=5)
    assert json.loads((folder / "phantom.json").read_text())["seed"] == 5
