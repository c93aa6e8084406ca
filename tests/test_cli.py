"""The command line: exit codes, one-line errors, quick help."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
import torch

import fastseg
from fastseg import checkpoint, cli, config, errors
from fastseg.cli import main
from fastseg.data import phantom
from fastseg.data.cases.labels import BRATS
from fastseg.host.device import machine_has_gpu
from fastseg.tasks.network import build_network

torch.set_num_threads(1)
NEAR = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # whatever folder it runs in
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


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_are_quick_and_load_no_torch(flag):
    command = [sys.executable, "-m", "fastseg", flag]
    times = []
    while not times or (min(times) >= 0.5 and len(times) < 8):  # other work may take the cores
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - begun)
    assert min(times) < 0.5
    script = (
        "import sys, fastseg.cli; fastseg.cli.main(sys.argv[1:]); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, flag], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert flag == "--help" or done.stdout.startswith(f"fastseg {fastseg.__version__}\n")


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
    code, out, _ = run(capsys, "train", "fno", "--deviations")
    assert (code, out.split()[:4]) == (0, ["key", "here", "source", "why"])
    assert ["grad_clip", "12.0", "null", "ours:"] in [line.split()[:4] for line in out.splitlines()]
    assert "differs nowhere" in run(capsys, "train", "fno3d", "--deviations")[1]


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
        (["train", "fno", "--data", "D", "--out", "R", "model.blocks=0"], "model.blocks: is 0"),
        (
            ["train", "B-ssl", "--data", "D", "--out", "R", "timesteps=5"],
            "model.sampling_steps: is 10, wanted at most timesteps, 5\n",
        ),
        (["train", "fno", "--data", "D", "--out", "R", "--fast"], "arguments: --fast\n"),
        (
            ["train", "fno", "lr=1", "--epochs", "3"],
            "arguments: --epochs 3; a setting is written epochs=3\n",
        ),
        (["train", "fno", "--lr=1e-3", "--batch-size", "4"], "written lr=1e-3 data.batch_size=4\n"),
        (["train", "A", "--model.width", "8", "--data.flip"], "model.width=8 data.flip=VALUE\n"),
        (["train", "nowhere", "--width", "8", "--lr", "1"], "arguments: --width 8 --lr 1\n"),
        (["study", "fusion", "--data", "D", "--out", "S", "--patch=1,2"], "data.patch=1,2\n"),
        (
            ["sample", "R", "--data", "D", "--out", "P", "--sampling-steps", "4"],
            "written sampling_steps=4\n",
        ),
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
def test_wrong_usage_is_exit_code_2(capsys, data, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *(data if word == "D" else word for word in words))
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["check", "nowhere"],
        ["train", "fno", "--data", "nowhere", "--out", "R"],
        ["train", "fno", "--data", ".", "--out", "R"],
        ["train", "fno", "--data", "D", "--out", "R", "--split", "nowhere"],
        ["sample", "nowhere", "--data", "D", "--out", "P"],
        ["sample", "D", "--data", "nowhere", "--out", "P"],
        ["evaluate", "nowhere", "--data", "D"],
        ["evaluate", "D", "--data", "nowhere"],
        ["evaluate", "D", "--data", "D", "--task", "synthesis", "--truth", "nowhere"],
        ["study", "fusion", "--data", "nowhere", "--out", "S"],
    ],
    ids=" ".join,
)
def test_bad_path_is_one_line_before_torch_is_imported(data, tmp_path, words):
    script = (
        "import sys; from fastseg.cli import main; code = main(sys.argv[1:]);"
        "sys.exit(99 if 'torch' in sys.modules else code)"
    )
    words = [data if word == "D" else word for word in words]
    command = [sys.executable, "-c", script, *words]
    done = subprocess.run(command, cwd=tmp_path, env=NEAR, capture_output=True, text=True)
    assert done.returncode == (2 if words[:2] == ["evaluate", "nowhere"] else 3), done.stderr
    assert ("no cases found" if "." in words else "nowhere") in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


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


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("X: can't allocate memory: 9 B"),
        ImportError("a.so: failed to map segment from shared object"),
    ],
)
def test_want_of_memory_is_one_line(capsys, monkeypatch, error):
    def fail(_):
        raise error

    monkeypatch.setitem(cli.VERBS, "doctor", fail)
    code, _, err = run(capsys, "doctor")
    assert code == 1
    assert err.startswith("fastseg: not enough memory")
    assert err.count("\n") == 1
    monkeypatch.setitem(cli.VERBS, "doctor", lambda _: (_ for _ in ()).throw(RuntimeError("else")))
    with pytest.raises(RuntimeError, match="else"):
        run(capsys, "doctor")


def test_names_that_are_not_utf8_are_one_line(capsys, data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    case = tmp_path / "data" / "Phantom00000"
    for path in list(case.iterdir()):
        path.rename(os.fsdecode(os.fsencode(path).replace(b"00000_", b"\xff\xfe_")))
    code, out, err = run(capsys, "check", tmp_path / "data")
    assert (code, out) == (3, "")
    assert "case id 'Phantom\\udcff\\udcfe' is not UTF-8" in err


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


WITHOUT_GPU = pytest.mark.skipif(
    torch.cuda.is_available(), reason="this machine has the GPU whose absence is tested"
)


@WITHOUT_GPU
@pytest.mark.parametrize("there", [False, True], ids=["no GPU", "torch without CUDA"])
def test_device_cuda_without_a_gpu_is_one_line(capsys, data, tmp_path, monkeypatch, there):
    if there and torch.backends.cuda.is_built():
        pytest.skip("wants a CPU build of torch")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path) if there else "")
    reason = "no NVIDIA GPU is found on this machine"
    if there or machine_has_gpu():
        reason = "is built without CUDA .* install a CUDA wheel of torch .cu130, or cu126 for V100"
    train = ["train", "fno", "--data", data, "--out", tmp_path / "run", *TINY]
    study = ["study", "tracks", "--data", data, "--out", tmp_path / "study"]
    for words in (train, study):
        code, _, err = run(capsys, *words, "device=cuda")
        assert code == 2
        assert re.fullmatch(f"fastseg: device: is cuda, wanted device=auto or .*{reason}.*\n", err)
    assert not (tmp_path / "study").exists()


@WITHOUT_GPU
def test_checkpoint_of_a_gpu_samples_on_a_cpu_when_told(capsys, data, tmp_path):
    out, predictions = tmp_path / "run", tmp_path / "pred"
    recipe = config.load_recipe("fno", TINY)
    net = build_network(recipe, 4, BRATS)
    state = {
        "recipe": config.to_dict(dataclasses.replace(recipe, device="cuda")),
        "modalities": ["t1", "t1ce", "t2", "flair"], "scheme": BRATS.to_dict(), "split": {},
    }  # fmt: skip
    checkpoint.save(out / "checkpoints", {"model": net.state_dict()}, state)
    words = ["sample", out, "--data", data, "--out", predictions, "--cases", "Phantom00000"]
    code, _, err = run(capsys, *words)
    assert code == 2
    assert err.startswith("fastseg: device: is cuda, wanted device=auto or device=cpu: ")
    assert not predictions.exists()
    assert run(capsys, *words, "device=cpu")[0] == 0
    assert len(list(predictions.glob("*_pred.nii.gz"))) == 1


def test_auto_says_once_that_a_gpu_is_idle(run_python, tmp_path):
    if torch.backends.cuda.is_built():
        pytest.skip("wants a CPU build of torch")
    code = "from fastseg.host.device import pick_device as p; print(p('auto'), p('auto'), p('cpu'))"
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    done = run_python(code, PATH=str(tmp_path), PYTHONPATH=NEAR["PYTHONPATH"])
    assert done.stdout == "cpu cpu cpu\n"
    assert len(done.stderr.splitlines()) == 1
    assert "the CPU computes: torch " in done.stderr


def test_clipped_modes_are_one_clean_line(capsys, caplog, data, tmp_path):
    more = ["model.modes=40,40", "model.blocks=2", "epochs=2"]
    words = ["train", "fno", "--data", data, "--out", tmp_path / "run", *TINY, *more]
    assert run(capsys, *words)[0] == 0
    told = [record for record in caplog.records if "modes" in record.getMessage()]
    assert [record.name for record in told] == ["fastseg"]
    assert [record.getMessage() for record in told] == [
        "modes (40, 40) exceed the bins of size (32, 32); using the lowest (32, 17)"
    ]


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
