import json

import pytest

from fastseg.demo import demo
from fastseg.errors import UsageError

# small enough for seconds; what the full demo reaches is its own printed figure
TINY = {
    "cases": 6,
    "epochs": 1,
    "size": (32, 32, 24),
    "overrides": ("data.patch=32,32", "model.modes=8,4", "model.width=4"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "out"
    return out, demo(out, **TINY)


def test_leaves_everything_in_its_place(finished):
    out, picture = finished
    assert picture == out / "summary.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    split = json.loads((out / "run" / "split.json").read_text())
    scores = json.loads((out / "run" / "evaluation.json").read_text())
    assert [row["case"] for row in scores["cases"]] == split["test"]
    assert not set(split["test"]) & {*split["train"], *split["val"]}
    [predictions] = (out / "predictions").iterdir()
    assert sorted(p.name for p in predictions.glob("*.nii.gz")) == [
        f"{case}_pred.nii.gz" for case in split["test"]
    ]


def test_repeating_it_redoes_nothing_but_the_scores(finished, capsys):
    out, _ = finished
    kept = [*out.glob("data/*/*"), *out.glob("predictions/*/*.nii.gz"), *out.glob("run/check*/*/*")]
    assert len(kept) > 30
    before = [path.stat().st_mtime_ns for path in kept]
    demo(out, **TINY)
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert "mean region Dice" in capsys.readouterr().out


def test_more_epochs_go_on_from_there(finished):
    out, _ = finished
    demo(out, **TINY | {"epochs": 2})
    assert len(list((out / "predictions").iterdir())) == 2
    rows = [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["epoch"] == 2


def test_bad_settings_leave_nothing(tmp_path):
    with pytest.raises(UsageError, match="learning_rate"):
        demo(tmp_path / "out", overrides=["learning_rate=1"])
    assert not (tmp_path / "out").exists()
