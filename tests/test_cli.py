"""The command line: exit codes, one-line errors, quick help."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch

from fastseg import errors
from fastseg.cli import main
from fastseg.data import phantom

torch.set_num_threads(1)
VERBS = ("doctor", "check", "phantom", "train", "sample", "evaluate", "study", "report", "bench",
         "demo")  # fmt: skip
TINY = ["data.patch=32,32", "data.samples_per_case=4", "data.threads=1", "model.width=4",
        "model.blocks=1", "model.modes=6,4", "epochs=1", "val_every=0"]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(phantom.write(tmp_path_factory.mktemp("data"), 4, size=(40, 36, 24), seed=3))


def run(capsys, *words) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def test_help_lists_every_verb(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert all(f"\n    {verb} " in out for verb in VERBS)


def test_help_is_quick_and_loads_no_torch():
    command = [sys.executable, "-m", "fastseg", "--help"]
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - begun)
    assert min(times) < 0.5
    script = "import sys, fastseg.cli; fastseg.cli.main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "bench"])
def test_each_verb_has_help(capsys, verb):
    code, out, _ = run(capsys, verb, "--help")
    assert code == 0
    assert out.startswith("usage: fastseg")


def test_recipes_and_their_help(capsys):
    listed = run(capsys, "train", "--recipes")[1].split()
    assert {"fno", "fno3d", "diffusion_unet", "fno_diffusion", "fno_unet"} <= set(listed)
    code, out, _ = run(capsys, "train", "fno", "--help")
    assert code == 0
    assert "lr=0.0003" in out
    assert "model.blocks=3" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "VERB"),
        (["fly"], "invalid choice"),
        (["train"], "wants a recipe"),
        (["train", "fno"], "wants --data"),
        (["train", "fnoo", "--help"], "did you mean fno"),
        (["train", "fno", "--data", "D", "--out", "R", "learning_rate=1"], "no such key"),
        (["train", "fno", "--data", "D", "--out", "R", "lr=fast"], "wanted a number"),
        (["train", "fno", "--data", "D", "--out", "R", "fast"], "written name=value"),
        (["train", "fno", "--data", "D", "--out", "R", "--fast"], "--fast"),
        (["train", "fno", "--data", "D", "--out", "R", "--kernels", "fast"], "kernels"),
        (["sample", "R"], "--data"),
        (["sample", "R", "--data", "D", "--out", "P", "--lr"], "unrecognized arguments: --lr"),
        (["evaluate", "P", "--data", "D", "lr=1"], "unrecognized arguments: lr=1"),
        (["study", "fusion", "--data", "D"], "--out"),
        (["study", "fission", "--data", "D", "--out", "S"], "did you mean fusion"),
        (["study", "fusion", "--data", "D", "--out", "S", "--seeds", "a"], "wanted whole numbers"),
        (["phantom", "P", "--size", "96,96"], "three numbers"),
        (["phantom", "P", "--cases", "0"], "cases"),
        (["report", "nowhere"], "nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_exit_code_2(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *words)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["check", "nowhere"],
        ["train", "fno", "--data", "nowhere", "--out", "R"],
        ["sample", "nowhere", "--data", "D", "--out", "P"],
    ],
    ids=" ".join,
)
def test_bad_data_is_exit_code_3_and_one_line(capsys, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *words)
    assert code == 3
    assert "nowhere" in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "kind", [errors.FastsegError, errors.NonFiniteError], ids=lambda k: k.__name__
)
def test_other_errors_keep_their_code(capsys, monkeypatch, kind):
    import fastseg.data.cases

    def fail(*_, **__):
        raise kind("first\nsecond")

    monkeypatch.setattr(fastseg.data.cases, "discover", fail)
    code, _, err = run(capsys, "check", "D")
    assert (code, err) == (kind.exit_code, "fastseg: first second\n")


def test_the_whole_road(capsys, data, tmp_path):
    made = tmp_path / "made"
    assert run(capsys, "phantom", made, "--cases", 1, "--size", "24,24,24", "--seed", 5)[0] == 0
    assert len(list(made.rglob("*.nii.gz"))) == 5
    assert run(capsys, "check", data)[:2][0] == 0
    out, predictions = tmp_path / "run", tmp_path / "pred"
    code, text, _ = run(
        capsys, "train", "fno", "--data", data, "--out", out, "--kernels", "matmul", *TINY
    )
    assert code == 0
    assert text.strip().endswith("last-000001")
    assert json.loads((out / "config.json").read_text())["kernels"] == "matmul"
    assert (
        run(capsys, "sample", out, "--data", data, "--out", predictions, "--part", "test")[0] == 0
    )
    words = ["sample", out, "--data", data, "--out", tmp_path / "other", "width=2"]
    code, _, err = run(capsys, *words)
    assert code == 2
    assert "width: is no sampling option" in err
    scores = tmp_path / "scores"
    code, text, _ = run(capsys, "evaluate", predictions, "--data", data, "--out", scores)
    assert code == 0
    assert "mean" in text
    assert list(scores.glob("*.csv"))
    assert run(capsys, "report", out)[0] == 0


def test_check_of_a_damaged_file_is_exit_code_3(capsys, data, tmp_path):
    victim = tmp_path / "data"
    assert run(capsys, "phantom", victim, "--cases", 2, "--size", "24,24,24")[0] == 0
    path = next(victim.rglob("*_t2.nii.gz"))
    path.write_bytes(path.read_bytes()[:-100])
    code, out, _ = run(capsys, "check", victim)
    assert code == 3
    assert path.name in out


def test_folder_that_cannot_be_written_is_one_line(capsys, data, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = run(capsys, "sample", tmp_path, "--data", data, "--out", tmp_path / "file")
    assert code == 3
    assert len(err.strip().splitlines()) == 1


def test_module_and_function_are_the_same_command():
    done = subprocess.run(
        [sys.executable, "-m", "fastseg", "fly"], capture_output=True, env=os.environ
    )
    assert done.returncode == 2
