"""Studies: what they run, how they go on, and that their tables say what was measured."""

import dataclasses
import itertools
import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch

import fastseg.train as train_module
from fastseg import config, study
from fastseg.data import phantom
from fastseg.errors import UsageError
from fastseg.studies import runs, statistics
from fastseg.study import STUDIES, Arm, Study
from fastseg.training import validate
from fastseg.training.stop import Stopped

torch.set_num_threads(1)
TINY = ("data.patch=32,32", "data.samples_per_case=4", "data.threads=1", "model.width=2",
        "model.blocks=1", "model.modes=6,4", "epochs=1", "fractions=0.34,0.34,0.32")  # fmt: skip
PAIR = Study("Is two-sided better?", (Arm("two", "fno", ("model.two_sided=true",)),
                                      Arm("one", "fno", ("model.two_sided=false",))))  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return phantom.write(tmp_path_factory.mktemp("data"), 6, size=(40, 36, 24), seed=4)


@pytest.fixture(autouse=True)
def pair(monkeypatch):
    monkeypatch.setitem(STUDIES, "pair", PAIR)
    monkeypatch.setattr(train_module.report, "progress_png", lambda *_: None)
    monkeypatch.setattr(validate, "OVERLAYS", 0)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STUDIES, "pair", PAIR)
        study.study("pair", data, out, seeds=(0, 1), overrides=TINY)
    return out


def record(out) -> dict:
    return json.loads((out / "study.json").read_text())


def table(out, title: str) -> list[dict[str, str]]:
    """The rows of a Markdown table of study.md, by their column's title; p of n is the n-th."""
    lines = (out / "study.md").read_text().split(f"## {title}\n\n")[1].split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    count = itertools.count(1)
    head = [f"p{next(count)}" if name == "p" else name for name in cells[0]]
    return [dict(zip(head, row, strict=True)) for row in cells[2:]]


def test_every_run_has_the_same_patients_and_its_own_seed(finished, data):
    found = record(finished)
    runs = found["runs"]
    order = [("two", 0), ("one", 0), ("two", 1), ("one", 1)]
    assert [(run["arm"], run["seed"]) for run in runs] == order
    assert [len(found["split"][part]) for part in ("train", "val", "test")] == [2, 2, 2]
    for run in runs:
        own = finished / run["arm"] / f"seed-{run['seed']}"
        assert json.loads((own / "run" / "split.json").read_text()) == found["split"]
        assert [row["case"] for row in run["rows"]] == found["split"]["test"]
        assert run["recipe"]["seed"] == run["seed"]
        assert run["recipe"]["model"]["two_sided"] == (run["arm"] == "two")
        assert len(list((finished / run["predictions"]).glob("*_pred.nii.gz"))) == 2
    assert runs[0]["rows"] != runs[2]["rows"]


def test_table_shows_means_over_patients_then_seeds(finished):
    runs = record(finished)["runs"]
    for row in table(finished, "Scores"):
        mine = [run["rows"] for run in runs if run["arm"] == row["arm"]]
        columns = {"patient region Dice": "dice_regions", "legacy slice Dice": "legacy_slice_dice",
                   "WT": "dice_WT", "ET": "dice_ET"}  # fmt: skip
        for title, key in columns.items():
            a, b = (sum(case[key] for case in rows) / 2 for rows in mine)
            spread = abs(a - b) / 2**0.5
            assert row[title] == f"{(a + b) / 2:.3f} ± {spread:.3f}"
        assert row["seeds"] == "2"
    settings = table(finished, "Settings in which the arms differ")
    assert settings == [{"key": "model.two_sided", "two": "true", "one": "false"}]
    assert [row["epochs"] for row in table(finished, "Runs")] == ["1"] * 4


def test_pages_and_pictures(finished):
    page = (finished / "study.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    for row in table(finished, "Scores"):
        assert f"<td>{row['patient region Dice']}</td>" in page
    text = (finished / "study.md").read_text()
    assert "![curves](curves.png)" in text
    command = f"fastseg study pair --data DATA --out OUT --seeds 0,1 {' '.join(TINY)}"
    assert f"```\n{command}\n```" in text
    assert command in page
    for name in ("curves.png", "overlays.png"):
        assert (finished / name).stat().st_size > 5000


def test_some_arms_alone(finished, data, tmp_path):
    out = shutil.copytree(finished, tmp_path / "some")
    study.study("pair", data, out, seeds=(0, 1), overrides=TINY, arms=["one"])
    assert [run["arm"] for run in record(out)["runs"]] == ["one", "one"]
    assert [row["arm"] for row in table(out, "Scores")] == ["one"]
    assert "--arms one" in (out / "study.md").read_text()


def made_up(scores: dict[str, dict[int, list[float]]]) -> dict:
    runs = []
    for arm, seeds in scores.items():
        for seed, values in seeds.items():
            rows = [{"case": f"P{i}", "dice_regions": value, "legacy_slice_dice": value / 2}
                    for i, value in enumerate(values)]  # fmt: skip
            runs.append({"arm": arm, "seed": seed, "rows": rows, "regions": [], "parameters": 7})
    return {"runs": runs}


def test_summary_against_figures_by_hand_and_scipys_test():
    wilcoxon = pytest.importorskip("scipy.stats").wilcoxon
    rng = np.random.default_rng(0)
    a, b = ([list(rng.random(9)) for _ in range(3)] for _ in range(2))
    arms = {"a": dict(enumerate(a)), "b": {2: b[2][:], 0: b[0], 1: b[1]}, "c": {1: b[1]}}
    first, second, third = statistics.summarise(made_up(arms))
    means = [sum(values) / 9 for values in a]
    mean = sum(means) / 3
    sd = (sum((value - mean) ** 2 for value in means) / 2) ** 0.5
    assert first["measures"]["dice_regions"]["mean"] == pytest.approx(mean)
    assert first["measures"]["dice_regions"]["sd"] == pytest.approx(sd)
    assert first["measures"]["dice_regions"]["p"] is None
    assert first["measures"]["legacy_slice_dice"]["sd"] == pytest.approx(sd / 2)
    averaged = [[sum(column) / 3 for column in zip(*arm, strict=True)] for arm in (a, b)]
    expected = wilcoxon(*averaged).pvalue
    assert second["measures"]["dice_regions"]["p"] == pytest.approx(expected)
    # an arm with one seed is compared with the first arm's run of that seed
    assert third["measures"]["dice_regions"]["sd"] is None
    assert third["measures"]["dice_regions"]["p"] == pytest.approx(wilcoxon(a[1], b[1]).pvalue)


def test_wilcoxon_counts_signed_ranks():
    before = np.zeros(6)
    assert statistics.paired_p(before, before) == 1
    # all six of one sign: two of the 64 sign patterns are as extreme
    assert statistics.paired_p(before, np.arange(1, 7) / 10) == pytest.approx(2 / 64)


def test_stopped_study_goes_on(finished, data, tmp_path, monkeypatch):
    trained = []
    original, step = runs.train, train_module.take_step

    def train(recipe, *rest, **options):
        trained.append((recipe.model["two_sided"], recipe.seed))
        return original(recipe, *rest, **options)

    def stop(run, batch, lr):
        if (run.recipe.model["two_sided"], run.recipe.seed, run.at.step) == (False, 0, 0):
            os.kill(os.getpid(), signal.SIGTERM)
        return step(run, batch, lr)

    monkeypatch.setattr(runs, "train", train)
    overrides = [*TINY, "data.batch_size=4"]
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "take_step", stop)
        with pytest.raises(Stopped):
            study.study("pair", data, tmp_path, seeds=(0,), overrides=overrides)
    assert trained == [(True, 0), (False, 0)]
    assert [row["arm"] for row in table(tmp_path, "Scores")] == ["two"]
    study.study("pair", data, tmp_path, seeds=(0,), overrides=overrides)
    assert trained[2:] == [(False, 0)]
    assert [row["arm"] for row in table(tmp_path, "Scores")] == ["two", "one"]
    study.study("pair", data, tmp_path, seeds=(0, 2), overrides=overrides)
    assert trained[3:] == [(True, 2), (False, 2)]
    assert len(record(tmp_path)["runs"]) == 4
    # a changed length trains on and replaces the scores, other settings are refused
    study.study("pair", data, tmp_path, seeds=(0,), overrides=[*overrides, "epochs=2"])
    assert [run["epochs"] for run in record(tmp_path)["runs"]] == [2, 2]
    with pytest.raises(UsageError, match="other settings: lr"):
        study.study("pair", data, tmp_path, seeds=(0,), overrides=[*overrides, "lr=0.1"])
    monkeypatch.setitem(STUDIES, "other", PAIR)
    with pytest.raises(UsageError, match="holds the study pair"):
        study.study("other", data, tmp_path, seeds=(0,), overrides=overrides)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("par", {}, "par: no such study; did you mean pair"),
        ("pair", {"overrides": ["model.widht=1"]}, "no arm of the study has such a key; did you"),
        ("pair", {"overrides": ["seed=1"]}, "seed: no arm"),
        (
            "pair",
            {"overrides": ["tow:lr=1"]},
            "tow:lr: the study has no such arm; did",
        ),
        (
            "pair",
            {"overrides": ["one:widht=1"]},
            "arm one has no such key; did you mean",
        ),
        ("pair", {"overrides": ["one:seed=1"]}, "seed: arm one has no such key"),
        ("synthesis", {"overrides": ["segmenter:sede=1"]}, "sede: recipe diffusion_unet has no"),
        ("pair", {"overrides": ["model.two_sided=true"]}, "is what makes the arms differ"),
        ("pair", {"overrides": ["lr"]}, "written name=value"),
        ("pair", {"overrides": ["devices=2"]}, "runs in one process"),
        ("pair", {"seeds": ()}, "seeds"),
        ("pair", {"arms": ["one", "tow"]}, "arms: the study has no 'tow'; did you mean two"),
        ("pair", {"arms": ["one", "one"]}, "arms: is 'one, one', wanted different ones"),
        ("pair", {"seeds": (1, 1)}, "wanted different whole numbers"),
        ("pair", {"overrides": ["fractions=1,0,0"]}, "wants some of each"),
    ],
)
def test_wrong_calls_are_usage_errors(data, tmp_path, name, options, message):
    with pytest.raises(UsageError, match=message):
        study.study(name, data, tmp_path / "out", **options)
    assert not list(tmp_path.rglob("*.json"))


def test_key_of_one_arm_is_given_to_that_arm(monkeypatch):
    plan = Study("?", (Arm("a", "fno"), Arm("b", "fno3d")))
    types = config.option_types
    only_a = lambda recipe: {  # noqa: E731
        key: kind for key, kind in types(recipe).items()
        if key != "model.branches" or recipe.name == "fno"
    }  # fmt: skip
    monkeypatch.setattr(config, "option_types", only_a)
    overrides = ["model.branches=shared", "lr=0.5"]
    a, b = (study.recipe_of(plan, arm, 3, overrides) for arm in plan.arms)
    assert (a.model["branches"], b.model["branches"]) == ("shared", "per_class")
    assert (a.lr, b.lr, a.seed) == (0.5, 0.5, 3)


def test_setting_of_one_arm_wins_over_that_of_all():
    overrides = ["two:lr=0.25", "lr=0.5", "batch_size=3", "one:width=5"]
    one, two = (study.recipe_of(PAIR, arm, 0, overrides) for arm in reversed(PAIR.arms))
    assert (one.lr, two.lr) == (0.5, 0.25)
    assert (one.data.batch_size, two.data.batch_size) == (3, 3)
    assert one.model["width"] == 5 != two.model["width"]


def test_what_stops_a_later_arm_stops_the_study_before_it_begins(data, tmp_path, monkeypatch):
    bad = Study("?", (PAIR.arms[0], Arm("bad", "fno", ("model.branches=none",))))
    wanting = dataclasses.replace(PAIR, modalities=("t1", "pd"))
    for plan, message in ((bad, "model.branches: is 'none'"), (wanting, "the study wants pd too")):
        monkeypatch.setitem(STUDIES, "pair", plan)
        with pytest.raises(UsageError, match=message):
            study.study("pair", data, tmp_path / "out", seeds=(0,), overrides=TINY)
        assert not list(tmp_path.rglob("run"))
