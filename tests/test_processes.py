"""Several processes: the same gradients, no case twice, and an end when one of them dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import two_processes
from launching import srun, torchrun
from tolerances import BACKWARD
from torch import distributed as dist

from fastseg import checkpoint
from fastseg import train as train_module
from fastseg.config import load_recipe
from fastseg.data import phantom
from fastseg.data.cases import discover
from fastseg.host.processes import Place, launched, lost_another
from fastseg.tasks.network import build_network
from fastseg.train import train
from fastseg.training import validate
from fastseg.training.stop import Stopped

torch.set_num_threads(1)
pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="torch without gloo")
STARTERS = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    "SLURM_STEP_ID",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Five patients, three of them to train on: an odd number for two processes."""
    return phantom.write(tmp_path_factory.mktemp("data"), 5, size=(24, 24, 24), seed=6)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    monkeypatch.setattr(train_module.report, "progress_png", lambda *_: None)
    monkeypatch.setattr(validate, "OVERLAYS", 0)


def metrics(out: Path) -> list[dict]:
    path = out / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="module")
def pair(data, tmp_path_factory):
    """What two processes under torchrun made."""
    out = tmp_path_factory.mktemp("pair")
    done = torchrun(Path(two_processes.__file__), data, out)
    assert done.returncode == 0, done.stderr
    return out, [json.loads((out / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


def test_gradients_are_those_of_one_process_with_both_batches(pair, data):
    module = build_network(two_processes.recipe(), 1, discover(data).scheme)
    backward = torch.Tensor.backward
    one = two_processes.gradients(module, module, two_processes.batch(), backward)
    for found in pair[1]:
        assert found["world"] == 2
        assert found["gradients"].keys() == one.keys()
        for name, expected in one.items():
            assert found["gradients"][name] == pytest.approx(expected, abs=1e-6)
    assert max(abs(value) for value in one["net.convInit.conv.weight"]) > 1e-4


def test_uneven_shards_end_and_every_case_is_predicted_once(pair):
    out, shares = pair
    steps = [row["step"] for row in metrics(out / "run") if "loss" in row]
    assert steps == [1, 2]
    names = [name for found in shares for name in found["paths"]]
    assert [len(found["paths"]) for found in shares] == [3, 2]
    assert sorted(names) == [f"Phantom0000{i}_pred.nii.gz" for i in range(5)]
    assert {path.name for path in (out / "pred").glob("*.nii.gz")} == set(names)


def test_a_run_goes_on_with_another_number_of_processes(pair, data, caplog):
    out = pair[0] / "run"
    before = checkpoint.load(checkpoint.generations(out / "checkpoints")[0])[0]["position"]
    train(two_processes.recipe("epochs=3"), data, out)
    after = checkpoint.load(checkpoint.generations(out / "checkpoints")[0])[0]["position"]
    assert "the epoch begins again" not in caplog.text
    assert (before["step"], after["step"], after["epoch"]) == (2, 6, 3)


def test_when_one_process_is_killed_the_other_says_so_and_the_run_goes_on(
    data, tmp_path, monkeypatch
):
    """Begun in one process, killed in two, ended in one, at five steps an epoch, with the losses of
    one alone. Started as srun does, so that nothing but the process itself can end it.
    """
    settings = ["data.patch=16,16", "data.batch_size=5", "data.threads=1", "model.width=4",
                "model.blocks=1", "model.modes=4,3", "fractions=0.6,0.2,0.2", "log_every=1",
                "save_every=1", "val_every=0", "loader=torch", "optimizer=sgd"]  # fmt: skip
    command = [sys.executable, "-m", "fastseg", "train", "fno", "--data", str(data), "--out",
               str(tmp_path), *settings, "epochs=999"]  # fmt: skip
    step = train_module.take_step

    def stopping(*given):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(*given)

    monkeypatch.setattr(train_module, "take_step", stopping)
    with pytest.raises(Stopped, match="after step 1"):
        train(load_recipe("fno", settings), data, tmp_path)
    monkeypatch.setattr(train_module, "take_step", step)
    with srun(command) as both:
        deadline = time.monotonic() + 120
        while len(metrics(tmp_path)) < 3:
            assert time.monotonic() < deadline
            assert [process.poll() for process in both] == [None, None]
            time.sleep(0.05)
        both[1].send_signal(signal.SIGKILL)
        _, errors = both[0].communicate(timeout=60)
    assert both[0].returncode == 1
    assert "process 0 lost process 1 after step" in errors
    assert "start all again" in errors
    assert "Traceback" not in errors
    saved = checkpoint.load_newest(checkpoint.generations(tmp_path / "checkpoints"))[1]
    assert saved["position"]["step"] >= 2
    more = load_recipe("fno", [*settings, f"epochs={saved['position']['epoch'] + 1}"])
    train(more, data, tmp_path)
    train(more, data, tmp_path / "alone")
    found, alone = ([row["loss"] for row in metrics(out)] for out in (tmp_path, tmp_path / "alone"))
    assert found == pytest.approx(alone, rel=BACKWARD[torch.float32])


STOPPED = """
import os, sys
from fastseg.host import processes, pulse
processes.TIMEOUT_S, pulse.BEAT_S = 2.0, 0.2
with processes.company() as both:
    with pulse.pulse(both.place.rank, both.place.world) as life:
        assert life.silent() == []
        print("ready", flush=True)
        try:
            while True:
                both.agree(int)
        except processes.FastsegError as error:
            print(life.silent(), error, flush=True)
"""


def test_a_stopped_process_is_named_by_the_others():
    with srun([sys.executable, "-c", STOPPED]) as both:
        assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
        both[1].send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        said, errors = both[0].communicate(timeout=60)
        assert time.monotonic() - begun < 30
    assert said.startswith("[1] process 0 lost the others; start all again ("), errors
    assert "Timed out" in said


PARENT = """
import os, subprocess, sys, time
from fastseg.host.processes import die_with_parent
die_with_parent()
child = "from fastseg.host.processes import die_with_parent as d; d(); print('up', flush=True); "
subprocess.Popen([sys.executable, "-c", child + "import time; time.sleep(100)"],
                 env=os.environ | {"LOCAL_RANK": "1"}, stdout=sys.stdout)
time.sleep(100)
"""


def test_processes_of_a_run_end_with_the_one_that_started_them():
    process = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    process.kill()
    begun = time.monotonic()
    assert process.stdout.read() == ""  # until nobody has the other end
    assert time.monotonic() - begun < 20
    orphan = subprocess.run(
        [sys.executable, "-c", "import fastseg.host.processes as p; p.die_with_parent()"],
        env=os.environ | {"LOCAL_RANK": "1", "FASTSEG_PARENT": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert "process 1, which started this one, has ended" in orphan.stderr


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({}, None),
        ({"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"},
         Place(5, 1, 8, 4)),
        ({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "8", "SLURM_PROCID": "6", "SLURM_LOCALID": "2",
          "SLURM_NNODES": "2"},
         Place(6, 2, 8, 4)),
        ({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "8", "SLURM_PROCID": "0",
          "SLURM_JOB_NAME": "bash"}, None),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, None),  # the script of sbatch itself
    ],
)  # fmt: skip
def test_place_is_what_the_starter_says(monkeypatch, variables, place):
    for name in (*STARTERS, "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launched() == place


def test_errors_of_our_own_are_not_taken_for_a_lost_process():
    assert lost_another(dist.DistBackendError("timed out"))
    assert lost_another(RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer"))
    assert not lost_another(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
