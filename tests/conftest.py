"""Fixtures shared by the tests of the operator layer."""

import gc
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import python_forks

if "PYTEST_XDIST_WORKER" in os.environ:
    # workers that each took all cores would wait for one another; before torch reads it
    _cores = len(os.sched_getaffinity(0)) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _cores)))

import torch

gc.disable()  # what is imported is no garbage: until the tests begin


def _take_module(path: str) -> None:
    """Puts a module built for tests in the place of fastseg._C, before fastseg is imported."""
    spec = importlib.util.spec_from_file_location("fastseg._C", path)
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


if "FASTSEG_TEST_MODULE" in os.environ:
    _take_module(os.environ["FASTSEG_TEST_MODULE"])


def _poisoned(allocate):
    def poisoning(*args, **kwargs):
        tensor = allocate(*args, **kwargs)
        caller = sys._getframe(1).f_globals.get("__name__", "")
        fills = type(tensor) is torch.Tensor and tensor.dtype.is_floating_point
        if fills and caller.partition(".")[0] == "fastseg" and tensor.device.type != "meta":
            with torch.no_grad():
                tensor.fill_(float("nan"))
        return tensor

    return poisoning


@pytest.fixture
def poisoned_memory(monkeypatch):
    """Memory that fastseg allocates without filling starts as NaN: what a kernel leaves unwritten
    then shows.
    """
    with torch.device("cpu"):  # what makes tensors is looked up once, when first asked for
        torch.empty(0)
    monkeypatch.setattr(torch, "empty", _poisoned(torch.empty))
    monkeypatch.setattr(torch.Tensor, "new_empty", _poisoned(torch.Tensor.new_empty))


@pytest.fixture(scope="module", autouse=True)
def few_objects_to_look_through():
    """Collections pass by what is imported, which would take them half a second each time."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def nothing_waits_for_the_disk():
    """Flushing takes a run of a few steps as long as they do, and only a lost power shows it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture
def seeded():
    """torch's own random numbers start from the same seed, and are as before afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Forks:
    """A process of `python_forks.py`, and what the forks of it wrote."""

    def __init__(self, folder: Path):
        self.folder = folder
        command = [sys.executable, python_forks.__file__]
        self.process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, code: str, timeout: float, **job: object) -> subprocess.CompletedProcess:
        out, err = self.folder / "out", self.folder / "err"
        job |= {"code": code, "timeout": timeout, "out": str(out), "err": str(err)}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        status = json.loads(self.process.stdout.readline())
        if status is None:
            raise subprocess.TimeoutExpired(code, timeout)
        return subprocess.CompletedProcess(code, status, out.read_text(), err.read_text())


@pytest.fixture(scope="session")
def forks(tmp_path_factory):
    """Interpreters that have imported torch already."""
    forks = Forks(tmp_path_factory.mktemp("forks"))
    yield forks
    forks.process.stdin.close()
    forks.process.wait()


@pytest.fixture
def run_python(tmp_path, forks):
    """Runs code in an interpreter that has imported torch at most, away from the source tree;
    returns what it wrote. fresh: one that has imported nothing.
    """

    def run(code, *, check=True, timeout=120.0, fresh=False, **environment: str):
        unset = {name: value for name, value in os.environ.items() if name not in _OURS}
        where = {"cwd": tmp_path, "env": unset | environment}
        if fresh:
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout,
                **where,
            )  # fmt: skip
        else:
            done = forks.run(code, timeout, folder=str(tmp_path), environment=where["env"])
        assert not check or done.returncode == 0, done.stderr
        return done

    return run


_OURS = ("FASTSEG_BACKEND", "FASTSEG_CPU_ISA")


@pytest.fixture
def threads():
    """Sets torch's thread count for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def one_thread(threads):
    """Thousands of small calls on busy cores: threads would wait far longer than they compute."""
    threads(1)


# files of many seconds, the longest first: none of them is left for the end, when a worker is idle
LONGEST = (
    "cuda_host", "train", "overfit", "operators", "triton", "spectral", "bench", "processes",
    "gpu_day", "medsegdiff", "sharded", "train_diffusion", "pipeline", "examples", "fno_unet",
    "campaign", "bench_families", "faults", "backends", "segresnet", "every_recipe", "scoring",
)  # fmt: skip


def _turn(item) -> int:
    name = item.path.stem.removeprefix("test_")
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


def pytest_configure(config):
    config.option.loadscopereorder = False  # files by their number of tests, the few long ones last


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what -m does not ask for
def pytest_collection_modifyitems(config, items):
    from fastseg.ops import impl

    items.sort(key=_turn)
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if impl.SERVES.get(parameters.get("backend")) == "cuda":
            item.add_marker("gpu")
        if item.get_closest_marker("large") and "large" not in config.getoption("markexpr"):
            item.add_marker(pytest.mark.skip(reason="16 GB of memory; run with -m large"))
