"""One batch, however many processes and passes it takes: the same samples, draws and weights."""

import json
import signal
import sys
from pathlib import Path

import divided_processes
import pytest
import torch
from launching import srun
from tolerances import FORWARD, assert_near, relative_error
from torch import distributed as dist

from fastseg import checkpoint
from fastseg.data import phantom
from fastseg.stop import Stopped

torch.set_num_threads(1)
pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="torch without gloo")
STEPS = 6  # four patients of four slices, three slices a step


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """`alone` in one process; `ddp` and `fsdp` in two; `moved` in one, then two, then one, stopped
    and killed in the middle of the epoch.
    """
    data = phantom.write(tmp_path_factory.mktemp("data"), 8, size=(36, 34, 24), seed=6)
    out = tmp_path_factory.mktemp("divided")
    divided_processes.undrawn()
    divided_processes.watched(divided_processes.recipe(), data, out / "alone")
    stop = {divided_processes.STOP - 1: signal.SIGTERM}
    with pytest.raises(Stopped):
        divided_processes.watched(divided_processes.recipe(), data, out / "moved", stop)
    with srun([sys.executable, divided_processes.__file__, str(data), str(out)]) as both:
        errors = [process.communicate(timeout=200)[1] for process in both]
        codes = [process.returncode for process in both]
    assert codes == [-signal.SIGKILL] * 2, errors
    assert "batch 3 = 2 processes x at most 1 samples x 2 accumulated, 6 steps" in errors[0]
    assert "training fgc2f_udiff" not in errors[1]
    divided_processes.watched(divided_processes.recipe(), data, out / "moved")
    return out


def seen(out: Path) -> list[tuple[int, list]]:
    """Steps as they came, each with the samples of all shares one after another."""
    shares = [path.read_text().splitlines() for path in sorted(out.glob("seen-*.jsonl"))]
    steps: list[tuple[int, list]] = []
    for rank, lines in enumerate(shares):
        for step, seeds in map(json.loads, lines):
            if rank == 0:
                steps.append((step, seeds))
            else:
                dict(steps)[step].extend(seeds)
    return steps


def losses(out: Path) -> list[float]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.parametrize("name", ["ddp", "fsdp", "moved"])
def test_the_samples_of_every_step_are_those_of_one_process(runs, name):
    alone = seen(runs / "alone")
    assert [step for step, _ in alone] == list(range(STEPS))
    assert all(len(seeds) == 3 for _, seeds in alone)
    assert seen(runs / name) == alone


@pytest.mark.parametrize("name", ["ddp", "fsdp", "moved"])
def test_losses_and_weights_are_those_of_one_process(runs, name):
    assert losses(runs / name) == pytest.approx(losses(runs / "alone"), rel=FORWARD[torch.float32])
    states = [checkpoint.load(checkpoint.generations(runs / run / "checkpoints")[0])
              for run in ("alone", name)]  # fmt: skip
    (state, expected), (other, found) = states
    assert state["position"]["step"] == other["position"]["step"] == STEPS
    for group in ("model", "ema"):
        for key, tensor in expected[group].items():
            assert_near(found[group][key], tensor, FORWARD, (group, key))
    means = expected["ema"].items()
    moved = [relative_error(mean, expected["model"][key]) for key, mean in means if mean.numel()]
    assert max(moved) > 1e-3
