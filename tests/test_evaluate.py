import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

from fastseg import metrics
from fastseg.data import cases, phantom
from fastseg.errors import DataError, UsageError
from fastseg.evaluate import evaluate

nib = pytest.importorskip("nibabel")

NAMES = ("Phantom00000", "Phantom00001", "Phantom00002")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return phantom.write(tmp_path_factory.mktemp("evaluate") / "data", 3, (40, 44, 28), seed=5)


def label_file(data, name):
    return data / name / f"{name}_seg.nii.gz"


def predict(data, folder, name, change=lambda values: values, suffix="_pred.nii.gz", affine=None):
    """Write a changed copy of a patient's truth as its prediction; arrays are (x, y, z) here."""
    source = nib.load(label_file(data, name))
    values = change(np.asarray(source.dataobj).copy())
    folder.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(values, source.affine if affine is None else affine),
             folder / f"{name}{suffix}")  # fmt: skip


def test_perfect_predictions_under_every_name(data, tmp_path, capsys):
    for name, suffix in zip(NAMES, ("_pred.nii.gz", "_seg.nii.gz", ".nii"), strict=True):
        predict(data, tmp_path / "p", name, suffix=suffix)
    report = evaluate(tmp_path / "p", data)
    assert [row["case"] for row in report.rows] == list(NAMES)
    for key, value in report.mean.items():
        if key.startswith(("dice", "iou")):
            assert value == 1, key
        elif key.startswith("hd95_mm"):
            assert value == 0, key
    assert report.regions == ("WT", "TC", "ET")
    assert report.classes == ("NCR", "ED", "ET")
    assert report.missing == []
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*NAMES, "mean", "Dice WT", "HD95 TC", "Dice NCR"))


def test_scores_are_those_of_the_metrics(data, tmp_path):
    def shift(values):
        return np.roll(values, 2, axis=0)

    predict(data, tmp_path / "p", NAMES[1], shift)
    [row] = evaluate(tmp_path / "p", data, quiet=True).rows
    true = np.asarray(nib.load(label_file(data, NAMES[1])).dataobj).T
    pred = shift(true.T).T
    for region, values in {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)}.items():
        a, b = np.isin(pred, values), np.isin(true, values)
        assert row[f"dice_{region}"] == metrics.dice(a, b)
        assert row[f"iou_{region}"] == metrics.iou(a, b)
        assert row[f"hd95_mm_{region}"] == metrics.hd95_mm(a, b, (1, 1, 1))
    for name, value in {"NCR": 1, "ED": 2, "ET": 4}.items():
        assert row[f"dice_class_{name}"] == metrics.dice(pred == value, true == value)
    assert row["dice_regions"] == np.mean([row[f"dice_{r}"] for r in ("WT", "TC", "ET")])
    remap = np.array([0, 1, 2, 0, 3], np.uint8)
    assert row["legacy_slice_dice"] == metrics.legacy_slice_dice(remap[pred], remap[true])


def test_predictions_that_are_all_empty_are_one_warning(data, tmp_path, caplog):
    for name, sound in ((NAMES[0], False), (NAMES[1], False), (NAMES[2], True)):
        predict(data, tmp_path / "p", name, np.zeros_like if not sound else np.copy)
    rows = evaluate(tmp_path / "p", data, cases=NAMES, quiet=True).rows
    assert not caplog.records
    assert [row["dice_regions"] for row in rows] == [0, 0, 1]
    report = evaluate(tmp_path / "p", data, tmp_path / "out", cases=NAMES[:2], quiet=True)
    [record] = caplog.records
    assert record.getMessage() == (
        f"{tmp_path / 'p'}: 2 of 2 predictions are empty (nothing but background)"
    )
    assert "empty" not in report.mean


def test_labels_that_are_all_empty_are_one_warning(tmp_path, caplog, capsys):
    data = phantom.write(tmp_path / "data", 3, size=(24, 24, 24))
    for name in ("Phantom00000", "Phantom00001"):
        predict(data, tmp_path / "out", name)
        image = nib.load(label_file(data, name))
        nothing = np.zeros(image.shape, np.uint8)
        nib.save(nib.Nifti1Image(nothing, image.affine), label_file(data, name))
    label_file(data, "Phantom00002").unlink()
    evaluate(tmp_path / "out", data)
    [line] = caplog.messages
    assert line.startswith(f"{data}: all 2 labels are empty")
    assert "cases without a label, which are not scored: 1" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "[]"])
def test_an_emptied_record_is_named(data, tmp_path, caplog, content):
    predict(data, tmp_path / "t1", "Phantom00000")
    (tmp_path / "t1" / "sample.json").write_text(content)
    evaluate(tmp_path / "t1", data, quiet=True)
    [line] = caplog.messages
    assert line.startswith(f"{tmp_path / 't1' / 'sample.json'}: is empty or damaged")
    with pytest.raises(DataError, match=r"sample\.json: is empty or damaged"):
        evaluate(tmp_path, data, modalities=["t1"])


def test_label_value_3_is_enhancing_tumour_as_4_is(data, tmp_path):
    predict(data, tmp_path / "p", NAMES[1], lambda v: np.where(v == 4, 3, v).astype(np.uint8))
    assert evaluate(tmp_path / "p", data, quiet=True).mean["dice_class_ET"] == 1


def test_anisotropic_spacing_reaches_the_distance(tmp_path):
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    values = np.zeros((20, 20, 20), np.uint8)
    values[5:12, 5:12, 5:12] = 2
    case = tmp_path / "data" / "A"
    case.mkdir(parents=True)
    for modality in phantom.MODALITIES:
        nib.save(nib.Nifti1Image(values.astype(np.int16), affine), case / f"A_{modality}.nii.gz")
    nib.save(nib.Nifti1Image(values, affine), case / "A_seg.nii.gz")
    (tmp_path / "p").mkdir()
    moved = np.roll(values, 2, axis=2)
    nib.save(nib.Nifti1Image(moved, affine), tmp_path / "p" / "A_pred.nii.gz")
    report = evaluate(tmp_path / "p", tmp_path / "data", quiet=True)
    assert report.mean["hd95_mm_WT"] == 8


def test_missing_predictions(data, tmp_path, capsys):
    predict(data, tmp_path / "p", NAMES[0])
    report = evaluate(tmp_path / "p", data)
    assert report.missing == list(NAMES[1:])
    assert len(report.rows) == 1
    assert "no prediction for 2 labelled cases (left out): Phantom00001" in capsys.readouterr().out
    as_empty = evaluate(tmp_path / "p", data, missing="empty", quiet=True)
    assert as_empty.mean["dice_WT"] == pytest.approx(1 / 3)
    assert as_empty.rows[1]["hd95_mm_WT"] == metrics.HD95_PENALTY_MM
    assert as_empty.missing == list(NAMES[1:])
    with pytest.raises(DataError, match="Phantom00001, Phantom00002"):
        evaluate(tmp_path / "p", data, missing="error")
    assert evaluate(tmp_path / "p", data, cases=NAMES[:1], missing="error", quiet=True).rows


def test_csv_and_json_hold_the_same_figures(data, tmp_path):
    for name in NAMES:
        predict(data, tmp_path / "p", name, lambda v: np.roll(v, 1, axis=1))
    report = evaluate(tmp_path / "p", data, tmp_path / "scores", quiet=True)
    assert sorted(p.name for p in (tmp_path / "scores").iterdir()) == [
        "evaluation.csv", "evaluation.json",
    ]  # fmt: skip
    saved = json.loads((tmp_path / "scores" / "evaluation.json").read_text())
    assert saved["mean"] == report.mean
    assert saved["cases"] == report.rows
    assert "both empty 0" in saved["conventions"]["hd95_mm"]
    with (tmp_path / "scores" / "evaluation.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["case"] for line in lines] == [*NAMES, "mean"]
    for line, row in zip(lines, [*report.rows, report.mean], strict=True):
        assert {k: float(v) for k, v in line.items() if k != "case"} == {
            k: v for k, v in row.items() if k != "case"
        }


def bad_value(values):
    values[3, 3, 3] = 7
    return values


MOVED = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("change", "affine", "message"),
    [
        (lambda v: v[:-1], None, "shape"),
        (lambda v: v, MOVED, "affine"),
        (lambda v: v, np.diag([-1.1, -1.0, 1.0, 1.0]), "affine"),
        (bad_value, None, "7"),
    ],
    ids=["shape", "origin", "spacing", "value"],
)
def test_bad_predictions_are_named_and_nothing_is_written(data, tmp_path, change, affine, message):
    predict(data, tmp_path / "p", NAMES[0])
    predict(data, tmp_path / "p", NAMES[2], change, affine=affine)
    with pytest.raises(DataError, match=rf"Phantom00002_pred\.nii\.gz.*{message}"):
        evaluate(tmp_path / "p", data, tmp_path / "scores", quiet=True)
    assert not (tmp_path / "scores").exists()


def test_truncated_prediction_is_named(data, tmp_path):
    predict(data, tmp_path / "p", NAMES[0])
    path = tmp_path / "p" / f"{NAMES[0]}_pred.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"Phantom00000_pred\.nii\.gz"):
        evaluate(tmp_path / "p", data, quiet=True)


def test_usage_mistakes(data, tmp_path):
    with pytest.raises(UsageError, match="not a folder"):
        evaluate(tmp_path / "nowhere", data)
    with pytest.raises(UsageError, match="missing"):
        evaluate(tmp_path, data, missing="ignore")
    with pytest.raises(UsageError, match="Phantom00009"):
        evaluate(tmp_path, data, cases=["Phantom00009"])
    with pytest.raises(DataError, match=r"want files such as Phantom00000_pred\.nii\.gz"):
        evaluate(tmp_path, data)


def test_takes_a_dataset_and_any_label_scheme(data, tmp_path):
    dataset = cases.discover(data, require_labels=True)
    predict(data, tmp_path / "p", NAMES[0])
    one = evaluate(tmp_path / "p", dataset, threads=1, quiet=True)
    assert one == evaluate(tmp_path / "p", data, threads=3, quiet=True)


@pytest.mark.skipif(
    "FASTSEG_REAL_DATA" not in os.environ, reason="FASTSEG_REAL_DATA names no real cases"
)
def test_real_patients_with_and_without_enhancing_tumour(tmp_path):
    root = Path(os.environ["FASTSEG_REAL_DATA"])
    enhancing = {}
    for case in cases.discover(root, require_labels=True).cases:
        truth = nib.load(case.label)
        values = np.asarray(truth.dataobj)
        enhancing[case.id] = bool(np.isin(values, (3, 4)).any())
        (tmp_path / "p").mkdir(exist_ok=True)
        moved = nib.Nifti1Image(np.roll(values, 1, axis=2), truth.affine)
        nib.save(moved, tmp_path / "p" / f"{case.id}_pred.nii.gz")
    rows = evaluate(tmp_path / "p", root, quiet=True).rows
    assert {row["case"] for row in rows} == set(enhancing)
    for row in rows:
        assert 0.8 < row["dice_WT"] < 1
        assert row["hd95_mm_WT"] == 1
        if not enhancing[row["case"]]:
            assert (row["dice_ET"], row["iou_ET"], row["hd95_mm_ET"]) == (1, 1, 0)


def test_one_region_alone_is_asked_for_or_noted_beside_the_predictions(data, tmp_path):
    predict(data, tmp_path / "p", NAMES[0], lambda values: (values > 0).astype(np.uint8))
    dataset = cases.discover(data, require_labels=True)
    for asked in ("WT", None):
        for truth in (data, dataset):
            report = evaluate(tmp_path / "p", truth, region=asked, quiet=True)
            assert report.mean["dice_WT"] == 1
            assert report.regions == ("WT",)
        (tmp_path / "p" / "sample.json").write_text('{"region": "WT"}')
    (tmp_path / "p" / "sample.json").write_text("[]")  # another program's
    assert evaluate(tmp_path / "p", data, quiet=True).regions == ("WT", "TC", "ET")
    (tmp_path / "p" / "sample.json").write_text('{"region": "WT"}')
    with pytest.raises(UsageError, match=r"region: is ET, but .* holds predictions of WT"):
        evaluate(tmp_path / "p", data, region="ET")
