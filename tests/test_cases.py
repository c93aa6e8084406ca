"""Discovery, label schemes, splits and the integrity check, on small files in every layout."""

import gzip
import itertools
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from fastseg.cli import main
from fastseg.data import cases, nifti, phantom
from fastseg.data.cases import notices
from fastseg.data.cases.labels import BRATS, BRATS_2023, BRATS_2024, LabelScheme, scheme_from_labels
from fastseg.errors import DataError, UsageError

nibabel = pytest.importorskip("nibabel")

SHAPE = (4, 5, 6)  # (z, y, x)
TUMOUR = (0, 1, 2, 4)


def volume(path: Path, array: np.ndarray | None = None, affine=None) -> Path:
    """Small int16 volume at `path`; without `array` a ramp."""
    array = np.arange(120, dtype=np.int16).reshape(SHAPE) if array is None else array
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(array.T, np.eye(4) if affine is None else affine).to_filename(path)
    return path


def label(path: Path, values=TUMOUR, dtype=np.uint8) -> Path:
    return volume(path, np.resize(np.array(values, dtype), SHAPE))


def brats_case(root: Path, name: str, *, values=TUMOUR, end=".nii.gz", kinds=None) -> Path:
    """One case folder of BraTS 2021, or of 2023 with `kinds` its names."""
    join = "-" if kinds else "_"
    for kind in kinds or ("t1", "t1ce", "t2", "flair"):
        volume(root / name / f"{name}{join}{kind}{end}")
    if values is not None:
        label(root / name / f"{name}{join}seg{end}", values)
    return root / name


LATE = ("t1n", "t1c", "t2w", "t2f")


def nnunet(root: Path, **description) -> Path:
    """nnU-Net data set of two training cases and a test case, channels FLAIR and T1Gd."""
    for folder, names in (("imagesTr", ("a_1", "b")), ("imagesTs", ("c",))):
        for name in names:
            for channel in (0, 1):
                volume(root / folder / f"{name}_{channel:04d}.nii.gz")
            if folder == "imagesTr":
                label(root / "labelsTr" / f"{name}.nii.gz", (0, 1, 2))
    write_json(root / "dataset.json", {
        "channel_names": {"0": "FLAIR", "1": "T1Gd"},
        "labels": {"background": 0, "oedema": 1, "core": 2},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    } | description)  # fmt: skip
    return root


def write_json(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def kinds(problems: list[cases.Problem]) -> list[tuple[str, str]]:
    return [(problem.path.name, problem.kind) for problem in problems]


# Discovery: BraTS


@pytest.mark.parametrize("end", [".nii", ".nii.gz"])
def test_brats_2021_folders(tmp_path, end):
    for index in (3, 1, 2):
        brats_case(tmp_path, f"BraTS2021_0000{index}", end=end)
    dataset = cases.discover(tmp_path)
    assert dataset.layout == "brats2021"
    assert dataset.modalities == ("t1", "t1ce", "t2", "flair")
    assert [case.id for case in dataset.cases] == [f"BraTS2021_0000{i}" for i in (1, 2, 3)]
    case = dataset.by_id("BraTS2021_00002")
    assert list(case.images) == list(dataset.modalities)
    assert case.images["t1ce"] == tmp_path / case.id / f"{case.id}_t1ce{end}"
    assert case.label == tmp_path / case.id / f"{case.id}_seg{end}"
    assert dataset.scheme == BRATS
    assert cases.summarise(dataset).startswith("3 cases of 3 patients, 3 labelled")


def test_brats_2023_folders_share_patients(tmp_path):
    for name in ("BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS-GLI-00007-000"):
        brats_case(tmp_path, name, kinds=LATE, values=(0, 1, 2, 3))
    dataset = cases.discover(tmp_path)
    assert dataset.layout == "brats2023"
    assert dataset.modalities == ("t1", "t1ce", "t2", "flair")
    assert dataset.cases[0].images["t1ce"].name == "BraTS-GLI-00001-000-t1c.nii.gz"
    assert [case.patient for case in dataset.cases] == [
        "BraTS-GLI-00001", "BraTS-GLI-00001", "BraTS-GLI-00007"]  # fmt: skip
    assert dataset.scheme == BRATS_2023


@pytest.mark.parametrize("where", ["one case folder", "flat folder", "nested", "linked"])
def test_brats_roots(tmp_path, where):
    folder = brats_case(tmp_path / "deep" / "er", "P1")
    if where == "flat folder":
        for name in ("P1", "P2"):
            for path in brats_case(tmp_path / "x", name).iterdir():
                (tmp_path / "flat").mkdir(exist_ok=True)
                path.rename(tmp_path / "flat" / path.name)
        folder = tmp_path / "flat"
    elif where == "linked":
        (tmp_path / "links").mkdir()
        (tmp_path / "links" / "P1").symlink_to(folder)
        (tmp_path / "links" / "loop").symlink_to(tmp_path / "links")
        folder = tmp_path / "links"
    elif where == "nested":
        folder = tmp_path
    dataset = cases.discover(folder)
    assert [case.id for case in dataset.cases] == (["P1", "P2"] if "flat" in where else ["P1"])
    assert all(path.exists() for path in dataset.cases[0].images.values())


def test_brats_names_in_any_case_and_foreign_files(tmp_path):
    folder = tmp_path / "P1"
    for kind in ("T1", "T1CE", "T2", "Flair"):
        volume(folder / f"P1_{kind}.nii.gz").rename(folder / f"P1_{kind}.NII.GZ")
    label(folder / "P1_SEG.nii.gz")
    volume(folder / "P1_t1_bias.nii.gz")
    label(tmp_path / "predictions" / "P1_pred.nii.gz")
    label(tmp_path / "predictions" / "P9_seg.nii.gz")
    (folder / "._P1_t1.nii.gz").write_bytes(b"macOS")
    (folder / "notes.json").write_text("not json")
    dataset = cases.discover(tmp_path)
    assert [case.id for case in dataset.cases] == ["P1"]
    assert dataset.cases[0].images["flair"].name == "P1_Flair.NII.GZ"
    assert dataset.cases[0].label.name == "P1_SEG.nii.gz"


def test_ixi_has_proton_density_and_names_what_is_not_taken(tmp_path, capsys, caplog):
    for number in range(1, 6):
        for kind in ("T1", "T2", "PD", "DTI-00", "DTI-01", "T1_bias"):
            volume(tmp_path / f"IXI{number:03d}-Guys-0828-{kind}.nii.gz")
    dataset = cases.discover(tmp_path)
    assert dataset.modalities == ("t1", "t2", "pd")
    assert dataset.cases[0].images["pd"].name == "IXI001-Guys-0828-PD.nii.gz"
    assert main(["check", str(tmp_path)]) == 0
    assert "5 cases of 5 patients, 0 labelled (brats2021; t1, t2, pd;" in capsys.readouterr().out
    assert (
        f"{tmp_path}: 10 NIfTI files are not taken (one of a series of volumes, or several"
        " in one): IXI001-Guys-0828-DTI-00.nii.gz, IXI001-Guys-0828-DTI-01.nii.gz, "
        "IXI002-Guys-0828-DTI-00.nii.gz and 7 more\n"
    ) in caplog.text
    assert "5 NIfTI files are not taken (no known modality at the end of the name)" in caplog.text


@pytest.mark.parametrize(
    ("names", "modalities", "unused"),
    [
        # the folders that BIDS has, with a series of functional and one of diffusion images
        (
            ["anat/s_T1w", "anat/s_FLAIR", "anat/s_T2starw", "dwi/s_dwi", "func/s_task-a_bold"],
            "t1 flair t2star dwi",
            ["func/s_task-a_bold"],
        ),
        (["anat/s_T1w", "dwi/s_dwi", "dwi/s_dwi.bval"], "t1", ["dwi/s_dwi"]),
        (["T1/s-T1", "PD/s-PDW", "MRA/s-MRA"], "t1 pd mra", []),
        (["s/s_T1c", "s/s_ADC", "s/s_DTI_eddy_FA", "s/s_brain_segmentation", "s/s_T2_FLAIR"],
         "t1ce flair adc", ["s/s_DTI_eddy_FA", "s/s_brain_segmentation"]),
        (["s/s_ct", "s/s_pet"], "ct pet", []),
    ],
    ids=["bids", "series", "folder-each", "maps", "no-mri"],
)  # fmt: skip
def test_other_folders(tmp_path, names, modalities, unused):
    for name in names:
        path = tmp_path / f"{name}.nii.gz"
        volume(path) if not name.endswith("bval") else (tmp_path / name).write_text("0 1000")
    dataset = cases.discover(tmp_path)
    assert [case.id for case in dataset.cases] == ["s"]
    assert dataset.modalities == tuple(modalities.split())
    assert all(path.exists() for path in dataset.cases[0].images.values())
    assert [path.relative_to(tmp_path).as_posix()[:-7] for path, _ in dataset.unused] == unused


@pytest.mark.parametrize("described", ["nnunet", "datalist"])
def test_files_that_a_description_leaves_out_are_named(tmp_path, described):
    stray = "imagesTr/b_T1.nii.gz"
    volume(tmp_path / stray)
    if described == "nnunet":
        nnunet(tmp_path)
    else:
        volume(tmp_path / "imagesTr/a.nii.gz")
        write_json(tmp_path / "folds.json", {"training": ["imagesTr/a.nii.gz"]})
    [line] = notices.unused(cases.discover(tmp_path))
    name = "dataset.json" if described == "nnunet" else "folds.json"
    assert line.endswith(f"1 NIfTI file is not taken ({name} does not lead to it): {stray}")


def test_patch_larger_than_volumes_names_the_sizes(tmp_path):
    for name, shape in (("P1", SHAPE), ("P2", (4, 9, 9)), ("P3", (9, 9, 9))):
        for kind in ("t1", "t2"):
            volume(tmp_path / name / f"{name}_{kind}.nii.gz", np.ones(shape, np.int16))
    dataset = cases.discover(tmp_path)
    ids = [case.id for case in dataset.cases]
    assert list(notices.too_small(dataset, ids, (5, 6))) == []
    [line] = notices.too_small(dataset, ids, (8, 8, 8))
    assert line.startswith("data.patch: 8x8x8 is larger than 2 of 3 training volumes (z, y, x: "
                           "4x5x6 the smallest)")  # fmt: skip
    assert list(notices.too_small(dataset, ["P3"], (8, 8, 8))) == []


def test_oddly_named_label_belongs_to_the_case_beside_it(tmp_path):
    folder = brats_case(tmp_path, "BraTS20_Training_355", values=None, end=".nii")
    label(folder / "W39_1998.09.19_Segm.nii")
    dataset = cases.discover(tmp_path, require_labels=True)
    assert dataset.cases[0].label.name == "W39_1998.09.19_Segm.nii"


def test_modalities_select_and_order_under_any_name(tmp_path):
    brats_case(tmp_path, "P1")
    dataset = cases.discover(tmp_path, modalities=("FLAIR", "T1Gd"))
    assert dataset.modalities == tuple(dataset.cases[0].images) == ("flair", "t1ce")
    with pytest.raises(DataError, match="no modality 'pet', it has t1, t1ce, t2, flair"):
        cases.discover(tmp_path, modalities=("t1", "pet"))
    for wrong in ((), ("t1", "t1n")):
        with pytest.raises(UsageError, match="different names"):
            cases.discover(tmp_path, modalities=wrong)


def test_missing_modality_keeps_its_place(tmp_path):
    brats_case(tmp_path, "P1")
    brats_case(tmp_path, "P2")
    (tmp_path / "P2" / "P2_t2.nii.gz").unlink()
    case = cases.discover(tmp_path).by_id("P2")
    assert list(case.images) == ["t1", "t1ce", "t2", "flair"]
    with pytest.raises(DataError, match=r"P2_t2\.nii\.gz: No such file"):
        nifti.read(case.images["t2"])


def test_modality_that_no_case_has_is_not_expected(tmp_path):
    brats_case(tmp_path, "P1")
    (tmp_path / "P1" / "P1_t1ce.nii.gz").unlink()
    assert cases.discover(tmp_path).modalities == ("t1", "t2", "flair")


def test_require_labels(tmp_path):
    brats_case(tmp_path, "P1")
    brats_case(tmp_path, "P2", values=None)
    assert len(cases.discover(tmp_path).cases) == 2
    dataset = cases.discover(tmp_path, require_labels=True)
    assert [case.id for case in dataset.cases] == ["P1"]
    [line] = notices.unused(dataset)
    assert "4 NIfTI files are not taken (its case has no label): P2/P2_flair.nii.gz" in line
    (tmp_path / "P1" / "P1_seg.nii.gz").unlink()
    with pytest.raises(DataError, match="none of its 2 cases has a label"):
        cases.discover(tmp_path, require_labels=True)


def test_equal_ids_and_twin_files_are_refused(tmp_path):
    brats_case(tmp_path / "a", "P1")
    brats_case(tmp_path / "b", "P1")
    with pytest.raises(DataError, match=r"2 cases have the id P1: .*a/P1/.*b/P1/"):
        cases.discover(tmp_path)
    volume(tmp_path / "a" / "P1" / "P1_t1.nii")
    with pytest.raises(DataError, match=r"P1_t1.nii.*a second t1 file beside"):
        cases.discover(tmp_path / "a")


def test_nothing_found_says_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        cases.discover(tmp_path / "absent")
    with pytest.raises(DataError, match=r"CASE_t1\.nii\.gz.*imagesTr.*datalist.*folder is empty"):
        cases.discover(tmp_path)
    (tmp_path / "readme.txt").write_text("x")
    with pytest.raises(DataError, match=r"folder holds readme\.txt"):
        cases.discover(tmp_path)
    with pytest.raises(DataError, match=r"wanted a folder or a \.json"):
        cases.discover(tmp_path / "readme.txt")


def test_unknown_id_suggests_a_near_one(tmp_path):
    brats_case(tmp_path, "BraTS2021_00001")
    with pytest.raises(DataError, match="did you mean BraTS2021_00001"):
        cases.discover(tmp_path).by_id("BraTS2021_0001")


# Discovery: nnU-Net and MONAI


def test_nnunet_data_set(tmp_path):
    dataset = cases.discover(nnunet(tmp_path))
    assert dataset.layout == "nnunet"
    assert dataset.modalities == ("flair", "t1ce")
    assert [case.id for case in dataset.cases] == ["a_1", "b", "c"]
    assert dataset.cases[0].images["t1ce"] == tmp_path / "imagesTr" / "a_1_0001.nii.gz"
    assert dataset.cases[0].label == tmp_path / "labelsTr" / "a_1.nii.gz"
    assert dataset.cases[2].label is None
    assert dataset.scheme.classes == ("background", "oedema", "core")
    assert dataset.scheme.regions == {}
    assert cases.check(dataset) == []
    assert cases.discover(tmp_path / "dataset.json") == cases.Dataset(
        tmp_path / "dataset.json", *list(vars(dataset).values())[1:]
    )


def test_nnunet_regions_become_classes(tmp_path):
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    scheme = cases.discover(nnunet(tmp_path, labels=labels, regions_class_order=[1, 2, 3])).scheme
    assert scheme.classes == ("background", "label_1", "label_2", "enhancing")
    assert scheme.regions == {
        "whole": ("label_1", "label_2", "enhancing"),
        "core": ("label_2", "enhancing"),
        "enhancing": ("enhancing",),
    }


def test_nnunet_reports_missing_files(tmp_path):
    nnunet(tmp_path)
    (tmp_path / "imagesTr" / "b_0001.nii.gz").unlink()
    (tmp_path / "labelsTr" / "a_1.nii.gz").unlink()
    problems = cases.check(cases.discover(tmp_path, require_labels=True))
    assert kinds(problems) == [
        ("a_1.nii.gz", "missing-label"), ("b_0001.nii.gz", "missing-modality")]  # fmt: skip


def test_nnunet_explicit_file_lists(tmp_path):
    nnunet(tmp_path)
    images = [f"imagesTr/b_000{channel}.nii.gz" for channel in (1, 0)]
    entry = {"images": images, "label": "labelsTr/b.nii.gz"}
    nnunet(tmp_path, dataset={"case_b": entry})
    dataset = cases.discover(tmp_path)
    assert [case.id for case in dataset.cases] == ["case_b"]
    assert dataset.cases[0].images["flair"].name == "b_0001.nii.gz"


@pytest.mark.parametrize(
    ("description", "reason"),
    [
        ({"labels": None}, 'no "labels"'),
        ({"labels": {"tumour": 1}}, "background the value 0"),
        ({"labels": {"background": 0, "ignore": 1}}, "ignore"),
        ({"labels": {"background": 0, "tumour": 300}}, "0 to 255"),
        ({"labels": {"background": 0, "tumour": "x"}}, "dataset.json"),
        ({"labels": [0, 1]}, "dataset.json"),
        ({"channel_names": {"0": "T1"}}, "case a_1 has channel 0001"),
        ({"channel_names": {"0": "T1", "1": "T1n"}}, "name a modality twice"),
        ({"channel_names": {"first": "T1", "second": "T2"}}, "numbered"),
        ({"dataset": {"x": {"images": ["imagesTr/b_0000.nii.gz"]}}}, "lists 1 images"),
        ({"dataset": {"x": {"images": ["../b.nii.gz", "c.nii.gz"]}}}, "leaves the folder"),
        ({"dataset": {"../x": {"images": ["b.nii.gz", "c.nii.gz"]}}}, "case id '../x'"),
        ({"dataset": {"x": ["b.nii.gz"]}}, "should name images and a label"),
    ],
)
def test_contradictory_nnunet_descriptions_are_refused(tmp_path, description, reason):
    with pytest.raises(DataError, match=reason):
        cases.discover(nnunet(tmp_path, **description))


@pytest.mark.parametrize("name", ["dataset.json", "folds.json"])
def test_monai_datalist_of_brats(tmp_path, name):
    for case in ("P1", "P2", "P3"):
        brats_case(tmp_path / "images", case)
    order = ("flair", "t1ce", "t1", "t2")
    entries = [
        {"fold": 0, "image": [f"images/{case}/{case}_{kind}.nii.gz" for kind in order]}
        for case in ("P1", "P2", "P3")
    ]
    entries[0]["label"] = "images/P1/P1_seg.nii.gz"
    entries[1]["label"] = [str(tmp_path / "images/P2/P2_seg.nii.gz")]
    write_json(tmp_path / name, {"training": entries[:1], "validation": entries[1:2],
                                 "test": entries[2:]})  # fmt: skip
    dataset = cases.discover(tmp_path)
    assert dataset.layout == "datalist"
    assert dataset.modalities == order
    assert [(case.id, case.label is not None) for case in dataset.cases] == [
        ("P1", True), ("P2", True), ("P3", False)]  # fmt: skip
    assert dataset.scheme == BRATS
    assert cases.discover(tmp_path, modalities=("t1", "flair")).modalities == ("t1", "flair")
    assert cases.check(dataset) == []


def test_decathlon_of_one_channel(tmp_path):
    for index in (2, 10):
        volume(tmp_path / "imagesTr" / f"spleen_{index}.nii.gz")
        label(tmp_path / "labelsTr" / f"spleen_{index}.nii.gz", (0, 1))
    volume(tmp_path / "imagesTs" / "spleen_1.nii.gz")
    entries = [
        {"image": f"./imagesTr/spleen_{i}.nii.gz", "label": f"./labelsTr/spleen_{i}.nii.gz"}
        for i in (2, 10)
    ]
    description = {
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "spleen"},
        "training": entries,
        "test": ["./imagesTs/spleen_1.nii.gz"],
    }
    write_json(tmp_path / "dataset.json", description)
    dataset = cases.discover(tmp_path)
    assert dataset.modalities == ("ct",)
    assert [case.id for case in dataset.cases] == ["spleen_1", "spleen_10", "spleen_2"]
    assert dataset.scheme.classes == ("background", "spleen")
    assert cases.check(dataset) == []
    description["modality"] = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}
    write_json(tmp_path / "dataset.json", description)
    with pytest.raises(DataError, match="a 4-D file has to be split into one per channel"):
        cases.discover(tmp_path)


def test_datalist_ids_from_folders_and_shared_names(tmp_path):
    entries = [{"image": [f"{case}/mri-a.nii", f"{case}/mri-b.nii"]} for case in ("p1", "p2")]
    write_json(tmp_path / "list.json", {"test": entries})
    dataset = cases.discover(tmp_path)
    assert [case.id for case in dataset.cases] == ["p1_mri", "p2_mri"]
    assert dataset.modalities == ("channel_0", "channel_1")
    entries = [{"image": [f"{case}/a.nii", f"{case}/b.nii"]} for case in ("p1", "p2")]
    write_json(tmp_path / "list.json", {"test": entries})
    assert [case.id for case in cases.discover(tmp_path).cases] == ["p1", "p2"]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"image": "../../etc/passwd"}, "leaves the folder"),
        ({"image": "/etc/passwd"}, "leaves the folder"),
        ({"image": "a/../../b.nii"}, "leaves the folder"),
        ({"image": "a\0.nii"}, "not a file name"),
        ({"image": ""}, "not a file name"),
        ({"image": [3]}, "should be file names"),
        ({"image": "a.nii", "label": "../b.nii"}, "leaves the folder"),
        ({"image": "a.nii", "label": ["b.nii", "c.nii"]}, "should be one label"),
        ({"image": "a.nii", "label": "b.nii"}, 'no "labels"'),
        ({"label": "b.nii"}, 'no "image"'),
        (7, "should name images and a label"),
        ({"image": "a\n.nii"}, "case id"),
        ({"image": ".nii"}, "case id"),
    ],
)
def test_hostile_datalists_are_refused(tmp_path, entry, reason):
    write_json(tmp_path / "data" / "list.json", {"training": [entry]})
    with pytest.raises(DataError, match=reason):
        cases.discover(tmp_path / "data")


@pytest.mark.parametrize("content", ["[", "[1]", '"x"', "[" * 100_000, "\xff"])
def test_unreadable_descriptions_are_refused(tmp_path, content):
    (tmp_path / "dataset.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=r"dataset\.json.*JSON"):
        cases.discover(tmp_path)
    write_json(tmp_path / "dataset.json", {"name": "x"})
    with pytest.raises(DataError, match=r"dataset\.json: no cases found"):
        cases.discover(tmp_path)


# Labels


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", ">i2", "i4", "i8", "u8", "f4", "f8"])
def test_to_classes_takes_every_dtype(dtype):
    values = np.resize(np.array([0, 1, 2, 4]), SHAPE).astype(dtype)
    classes = BRATS.to_classes(values)
    assert classes.dtype == np.uint8
    assert np.array_equal(classes, np.resize([0, 1, 2, 3], SHAPE))
    assert np.array_equal(BRATS.to_values(classes.astype(np.int64)), values)
    assert np.array_equal(BRATS.to_classes(values.T), classes.T)
    assert np.array_equal(BRATS.to_classes(values[0, 0]), classes[0, 0])


def test_enhancing_tumour_is_three_or_four_but_not_both():
    assert BRATS.to_classes(np.array([0, 3])).tolist() == [0, 3]
    assert BRATS.to_values(np.array([0, 3])).tolist() == [0, 4]
    assert BRATS.to_values(np.array([0, 3]), export=(0, 1, 2, 3)).tolist() == [0, 3]
    assert BRATS.exporting({0, 3}).to_values(np.array([3])).tolist() == [3]
    assert BRATS.exporting({0, 1}) == BRATS
    with pytest.raises(ValueError, match=r"\[4, 3\] occur together, both mean ET"):
        BRATS.to_classes(np.array([3, 4]))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([0, 5, 9, 5], r"\[5, 9\] are not among \[0, 1, 2, 3, 4\]"),
        ([-1, 0], r"\[-1\] not in 0 to 255"),
        ([0, 256], r"\[256\] not in 0 to 255"),
        ([0, 255], r"\[255\] are not among"),
        ([0.0, 0.5], r"\[0.5\] are not whole"),
        ([0.0, 1.002], "not whole"),
        ([0.0, np.nan], r"\[nan\] are not whole"),
        ([0.0, np.inf], r"\[inf\]"),
        ([1j], "complex128"),
    ],
)
def test_unknown_label_values_are_named(values, reason):
    with pytest.raises(ValueError, match=reason):
        BRATS.to_classes(np.array(values))


def test_nearly_whole_labels_are_rounded():
    nearly = np.array([0.9999, 2.0004, -0.0001, 3.9995], np.float32)
    assert BRATS.to_classes(nearly).tolist() == [1, 2, 0, 3]


def test_class_indices_out_of_range_are_refused():
    for wrong in ([4], [-1]):
        with pytest.raises(ValueError, match="0 to 3"):
            BRATS.to_values(np.array(wrong))
    with pytest.raises(ValueError, match="3 values for 4 classes"):
        BRATS.to_values(np.array([0]), export=(0, 1, 2))


@pytest.mark.parametrize("scheme", [BRATS, BRATS_2023, BRATS_2024])
def test_schemes_survive_json(scheme):
    assert LabelScheme.from_dict(json.loads(json.dumps(scheme.to_dict()))) == scheme


@pytest.mark.parametrize(
    "change",
    [
        {"values": [[0], [1], [2]]},
        {"values": [[0], [1], [2], []]},
        {"values": [[0], [1], [1], [2]]},
        {"values": [[0], [1], [2], [300]]},
        {"values": [[0], [1], [2], ["4"]]},
        {"values": None},
        {"classes": ["background", "NCR", "NCR", "ET"]},
        {"regions": {"WT": ["nothing"]}},
        {"regions": 3},
    ],
)
def test_broken_schemes_are_refused(change):
    with pytest.raises(ValueError, match=r"label scheme|region"):
        LabelScheme.from_dict(BRATS.to_dict() | change)
    with pytest.raises(ValueError, match="not a stored label scheme"):
        LabelScheme.from_dict({})


def test_decathlon_labels():
    scheme = scheme_from_labels("task", {"0": "background", "2": "b", "1": "a"})
    assert scheme.classes == ("background", "a", "b")


@pytest.mark.parametrize(
    ("names", "values", "classes", "written"),
    [
        (None, (0, 1, 2, 4), 4, 4),
        (None, (0, 1, 2, 3), 4, 3),
        (None, (0, 1, 2), 4, 4),
        (LATE, (0, 1, 2, 3), 4, 3),
        (LATE, (0, 1, 2), 4, 3),
        (LATE, (0, 1, 2, 3, 4), 5, 3),
        (LATE, (0, 2, 4), 5, 3),
    ],
)
def test_scheme_follows_the_data(tmp_path, names, values, classes, written):
    brats_case(tmp_path, "P1", kinds=names, values=(0, 1))
    brats_case(tmp_path, "P2", kinds=names, values=values)
    (tmp_path / "P1" / f"P1{'-' if names else '_'}seg.nii.gz").write_bytes(b"damaged")
    scheme = cases.discover(tmp_path).scheme
    assert len(scheme.classes) == classes
    assert scheme.to_values(np.array([3])).tolist() == [written]
    stored = nifti.read(next(tmp_path.glob("P2/*seg*"))).data
    assert set(np.unique(scheme.to_values(scheme.to_classes(stored)))) == set(values)


# Splits


def listing(count: int, visits: int = 1) -> cases.Dataset:
    """Data set of `count` patients without files."""
    names = [
        (f"BraTS-GLI-{p:05d}-{v:03d}", f"BraTS-GLI-{p:05d}")
        for p in range(count)
        for v in range(visits)
    ]
    listed = [cases.Case(case, {"t1": Path("x")}, Path("y"), patient) for case, patient in names]
    return cases.Dataset(Path("root"), "brats2023", ("t1",), BRATS, tuple(listed))


def test_split_of_brats_2021():
    dataset = listing(1251)
    split = cases.split_cases(dataset, seed=0)
    assert [len(split[part]) for part in ("train", "val", "test")] == [875, 250, 126]
    assert sorted(case for part in split.values() for case in part) == [
        case.id for case in dataset.cases
    ]
    assert split == cases.split_cases(dataset, seed=0)
    assert split != cases.split_cases(dataset, seed=1)


def test_split_keeps_patients_together():
    dataset = listing(50, visits=3)
    split = cases.split_cases(dataset, seed=4)
    patients = [{dataset.by_id(case).patient for case in part} for part in split.values()]
    assert [len(part) for part in patients] == [35, 10, 5]
    assert len(set.union(*patients)) == 50


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(1, [1, 0, 0]), (2, [1, 0, 1]), (3, [1, 1, 1]), (4, [2, 1, 1]), (10, [7, 2, 1])],
)
def test_split_of_few_cases(count, sizes):
    assert [len(part) for part in cases.split_cases(listing(count), 0).values()] == sizes


def test_split_takes_labelled_cases_only(tmp_path):
    brats_case(tmp_path, "P1")
    brats_case(tmp_path, "P2", values=None)
    assert cases.split_cases(cases.discover(tmp_path), 0)["train"] == ["P1"]


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.7, 0.2, 0.2), (1.2, -0.1, -0.1)])
def test_wrong_fractions_are_refused(fractions):
    with pytest.raises(UsageError, match="sum to 1"):
        cases.split_cases(listing(5), 0, fractions)
    assert cases.split_cases(listing(5), 0, (1, 0, 0))["test"] == []


def test_split_survives_saving(tmp_path):
    dataset = listing(20, visits=2)
    split = cases.split_cases(dataset, seed=1)
    cases.save_split(tmp_path / "split.json", split)
    assert cases.load_split(tmp_path / "split.json", dataset) == split
    split["labelled"] = split["train"][:3]
    cases.save_split(tmp_path / "split.json", split)
    assert cases.load_split(tmp_path / "split.json", dataset) == split
    assert [path.name for path in tmp_path.iterdir()] == ["split.json"]


@pytest.mark.parametrize(
    ("split", "reason"),
    [
        ({"train": ["A-0"], "val": ["A-0"], "test": []}, "patient A is in train and val"),
        ({"train": ["A-0"], "val": [], "test": ["A-1"]}, "patient A is in train and test"),
        ({"train": ["A-0", "A-0"], "val": [], "test": []}, "listed twice in train"),
        ({"train": ["B-0"], "val": [], "test": []}, "'B-0' in train is no case of root"),
        ({"train": [["A-0"]], "val": [], "test": []}, "lists of ids"),
        ({"train": "A-0", "val": [], "test": []}, "lists of ids"),
        ({"train": ["A-0"], "val": []}, "lists of ids"),
        ({"train": ["A-0"], "val": [], "test": [], "labelled": ["A-1"]}, "labelled lists cases"),
        ({"train": ["A-0"], "val": [], "test": [], "labelled": "A-0"}, "lists of ids"),
        ([], "lists of ids"),
    ],
)
def test_leaking_splits_are_refused(tmp_path, split, reason):
    listed = tuple(cases.Case(f"A-{i}", {}, None, "A") for i in (0, 1))
    dataset = cases.Dataset(Path("root"), "datalist", (), BRATS, listed)
    with pytest.raises(DataError, match=reason):
        cases.load_split(write_json(tmp_path / "split.json", split), dataset)


def test_unreadable_splits_are_refused(tmp_path):
    (tmp_path / "split.json").write_text("{")
    for name in ("split.json", "absent.json"):
        with pytest.raises(DataError, match="not a saved split"):
            cases.load_split(tmp_path / name, listing(1))


# Check


def damage(folder: Path, kind: str) -> tuple[str, str]:
    """Spoil one file of a case; the file's name and the kind of problem to be reported."""
    t2, seg = folder / "P2_t2.nii.gz", folder / "P2_seg.nii.gz"
    ramp = np.arange(120, dtype=np.float32).reshape(SHAPE)
    if kind == "truncated":
        t2.write_bytes(t2.read_bytes()[:-9])
        return t2.name, "unreadable"
    if kind == "flipped":
        content = bytearray(t2.read_bytes())
        content[len(content) // 2] ^= 1
        t2.write_bytes(content)
        return t2.name, "unreadable"
    if kind == "shape":
        volume(t2, ramp[:3])
    elif kind == "affine":
        # Same shape, mirrored axis: what a modality in another orientation looks like.
        volume(t2, ramp, np.diag([-1, 1, 1, 1]))
    elif kind == "non-finite":
        ramp[1, 2, 3] = np.nan
        volume(t2, ramp)
    elif kind == "empty":
        volume(t2, ramp * 0)
    elif kind == "constant":
        volume(t2, ramp * 0 + 7)
    elif kind == "missing-modality":
        t2.unlink()
    elif kind == "missing-label":
        seg.unlink()
        return folder.name, kind
    elif kind == "labels":
        label(seg, (0, 1, 9))
        return seg.name, kind
    return t2.name, kind


FAULTS = ["truncated", "flipped", "shape", "affine", "non-finite", "empty", "constant",
          "missing-modality", "missing-label", "labels"]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_check_names_file_and_fault(tmp_path, fault):
    for name in ("P1", "P2", "P3"):
        brats_case(tmp_path, name)
    assert cases.check(cases.discover(tmp_path)) == []
    wanted = damage(tmp_path / "P2", fault)
    calls = []
    problems = cases.check(cases.discover(tmp_path), progress=lambda *c: calls.append(c), threads=2)
    assert kinds(problems) == [wanted]
    assert problems[0].message
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_check_accepts_small_affine_noise_and_scaled_labels(tmp_path):
    folder = brats_case(tmp_path, "P1")
    volume(folder / "P1_t2.nii.gz", affine=np.eye(4) + 5e-4 * np.eye(4))
    image = nibabel.Nifti1Image(np.resize(np.uint8([0, 2, 4]), SHAPE).T, np.eye(4))
    image.header.set_slope_inter(0.5, 0)
    content = bytearray(image.to_bytes())
    content[112:120] = struct.pack("<2f", 0.5, 0)
    (folder / "P1_seg.nii.gz").write_bytes(gzip.compress(content))
    dataset = cases.discover(tmp_path)
    assert cases.check(dataset) == []
    assert nifti.read(dataset.cases[0].label).scaled().max() == 2


def test_check_warns_of_conflicting_forms(tmp_path, caplog):
    folder = brats_case(tmp_path, "P1")
    content = bytearray(gzip.decompress((folder / "P1_t1.nii.gz").read_bytes()))
    content[252:254] = struct.pack("<h", 1)
    content[268:272] = struct.pack("<f", 10)
    (folder / "P1_t1.nii.gz").write_bytes(gzip.compress(content))
    assert cases.check(cases.discover(tmp_path)) == []
    assert "P1_t1.nii.gz: qform and sform differ" in caplog.text


def test_labels_of_background_alone_are_one_fault(tmp_path):
    for name in ("A", "B", "C"):
        brats_case(tmp_path, name, values=(0,))
    [problem] = cases.check(cases.discover(tmp_path))
    assert (problem.path, problem.kind) == (tmp_path, "labels")
    assert problem.message.startswith("all 3 labels hold background alone")
    brats_case(tmp_path, "D")
    assert cases.check(cases.discover(tmp_path)) == []


def test_unlabelled_parts_are_no_fault(tmp_path):
    brats_case(tmp_path / "train", "P1")
    brats_case(tmp_path / "validation", "P2", values=None)
    assert cases.check(cases.discover(tmp_path)) == []


def test_real_cases_pass_the_check():
    root = os.environ.get("FASTSEG_REAL_DATA")
    if not root:
        pytest.skip("FASTSEG_REAL_DATA does not name a folder of real cases")
    dataset = cases.discover(root, require_labels=True)
    assert dataset.modalities == ("t1", "t1ce", "t2", "flair")
    assert dataset.scheme == BRATS
    assert cases.check(dataset) == []


def test_a_pipe_and_an_endless_device_are_no_descriptions(tmp_path):
    phantom.write(tmp_path, 2, size=(24, 24, 24))
    os.mkfifo(tmp_path / "a.json")
    (tmp_path / "b.json").symlink_to("/dev/zero")
    assert len(cases.discover(tmp_path).cases) == 2
    for name in ("a.json", "b.json"):
        with pytest.raises(DataError, match="no cases found"):
            cases.discover(tmp_path / name)


def test_links_out_of_the_folder_lead_to_data_alone(tmp_path, caplog):
    brats_case(tmp_path / "elsewhere", "P2")
    for name in ("dataset.json", "list.json"):
        write_json(tmp_path / "elsewhere" / name, {"training": ["P2/P2_t1.nii.gz"]})
    root = tmp_path / "data"
    brats_case(root, "P1")
    (root / "P2").symlink_to(tmp_path / "elsewhere" / "P2")
    for name in ("dataset.json", "list.json"):
        (root / name).symlink_to(tmp_path / "elsewhere" / name)
    dataset = cases.discover(root)
    assert [case.id for case in dataset.cases] == ["P1", "P2"]
    for name in ("dataset.json", "list.json"):
        assert f"{root / name}: is a link out of its folder" in caplog.text
    [line] = notices.unused(dataset)
    first = f"{root}/P2/P2_t1.nii.gz to {tmp_path}/elsewhere/P2/P2_t1.nii.gz"
    assert line == f"{root}: 5 data files are links out of it, {first} the first"
    # what somebody names is meant
    link = root / "list.json"
    assert cases.discover(link.resolve()).modalities == ("t1",)


def test_discovery_ends_in_time(tmp_path, monkeypatch):
    for number in range(40):
        (tmp_path / f"{number}").mkdir()
        write_json(tmp_path / f"{number}.json", [])
    brats_case(tmp_path, "P1")
    assert len(cases.discover(tmp_path).cases) == 1
    now = itertools.count()
    monkeypatch.setattr("time.monotonic", lambda: float(next(now)))
    monkeypatch.setattr("fastseg.data.cases.bounds.SEARCH_S", 45.0)
    with pytest.raises(DataError, match=f"{tmp_path}: looked for cases for 45 s, in 4. files"):
        cases.discover(tmp_path)
