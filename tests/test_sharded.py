"""Weights in shares: the same run as with whole weights, half the memory, the same checkpoints."""

import json
import sys
from pathlib import Path

import pytest
import sharded_processes
import torch
from launching import srun
from torch import distributed as dist
from torch import nn

from fastseg import checkpoint
from fastseg.data import phantom
from fastseg.errors import UsageError
from fastseg.train import train
from fastseg.training import sharded

torch.set_num_threads(1)
pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="torch without gloo")
RELATIVE = 1e-6


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return phantom.write(tmp_path_factory.mktemp("data"), 8, size=(36, 34, 24), seed=6)


@pytest.fixture(scope="module")
def pair(data, tmp_path_factory):
    """What two processes made, started as srun does: some seconds sooner than by torchrun."""
    out = tmp_path_factory.mktemp("pair")
    with srun([sys.executable, sharded_processes.__file__, str(data), str(out)]) as both:
        for process in both:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
    return out


def newest(out: Path) -> tuple[dict, dict]:
    return checkpoint.load(checkpoint.generations(out / "checkpoints")[0])


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in rows(out) if "loss" in row]


def assert_same(out: Path, expected: Path) -> None:
    (state, groups), (wanted, whole) = newest(out), newest(expected)
    assert state["optimizer"] == wanted["optimizer"]
    assert state["position"]["step"] == wanted["position"]["step"]
    assert groups.keys() == whole.keys() == {"model", "ema", "optimizer"}
    for name, tensors in whole.items():
        assert groups[name].keys() == tensors.keys()
        for key, tensor in tensors.items():
            largest = tensor.abs().max().item() if tensor.numel() else 0
            torch.testing.assert_close(
                groups[name][key], tensor, rtol=0, atol=RELATIVE * largest, msg=f"{name}, {key}"
            )


@pytest.mark.parametrize("name", sharded_processes.OWN)
def test_shares_learn_what_whole_weights_learn(pair, name):
    """Both were stopped and went on in shares, one from a checkpoint of whole weights."""
    whole = pair / f"{name}-whole"
    assert_same(pair / name, whole)
    assert len(losses(whole)) == 4
    assert losses(pair / name) == pytest.approx(losses(whole), rel=RELATIVE)
    found, wanted = ([row["val_dice"] for row in rows(out) if "val_dice" in row]
                     for out in (pair / name, whole))  # fmt: skip
    assert len(found) == 1
    assert found == pytest.approx(wanted, rel=1e-4)
    first, last = (newest(out)[1]["model"] for out in (pair / f"{name}-whole-stopped", whole))
    assert any(not torch.equal(tensor, last[key]) for key, tensor in first.items())


@pytest.fixture(scope="module")
def alone(pair, data):
    """What one process makes of a batch that `pair` divided among two."""
    sharded_processes.watched(sharded_processes.divided(), data, pair / "divided")
    return pair / "divided"


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_batch_is_one_however_it_is_divided(pair, alone, strategy):
    """Shares of two and one sample, in one pass each: samples, draws, gradients and averages."""
    out = pair / f"divided-{strategy}"
    (seen,) = (json.loads(path.read_text()) for path in alone.glob("seen-*.json"))
    shares = [json.loads((out / f"seen-{rank}.json").read_text()) for rank in (0, 1)]
    assert [[len(seeds) for seeds in share] for share in shares] == [[2] * 6, [1] * 6]
    assert [first + second for first, second in zip(*shares, strict=True)] == seen
    assert losses(out) == pytest.approx(losses(alone), rel=RELATIVE)
    assert_same(out, alone)
    groups = newest(alone)[1]
    apart = [(mean - groups["model"][key]).abs().max() for key, mean in groups["ema"].items()]
    assert max(apart) > 1e-3


def test_each_process_holds_half(pair):
    held = [json.loads((pair / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    every, trained = held[0]["all"], held[0]["trained"]
    expected = {"parameters": every, "averages": every, "gradients": trained, "states": 3 * trained}
    for what, elements in expected.items():
        mine, other = (one[what] for one in held)
        assert mine == pytest.approx(other, rel=0.02), what
        # AMSGrad's three states, and everywhere a number of steps
        assert elements <= mine + other <= 1.01 * elements, what


def test_shares_of_odd_sizes_are_put_together(pair):
    found = [json.loads((pair / f"rank-{rank}.json").read_text())["uneven"] for rank in (0, 1)]
    assert found == [[True] * 5, [True] * 3]


def test_a_stopped_run_goes_on_in_one_process(pair, data, caplog, monkeypatch):
    sharded_processes.undrawn(monkeypatch.setattr)
    found = {}
    for name, strategy in {"fsdp": "fsdp", "fsdp-whole": "ddp"}.items():
        out = pair / f"{name}-stopped"
        assert len(losses(out)) == sharded_processes.STOP
        train(sharded_processes.recipe("fsdp", f"strategy={strategy}"), data, out)
        found[strategy] = losses(out)
    assert caplog.text.count("fsdp has nothing to share out in one process") == 1
    assert len(found["fsdp"]) > sharded_processes.STOP + 1
    assert found["fsdp"] == pytest.approx(found["ddp"], rel=RELATIVE)


@pytest.fixture
def group():
    """A group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_what_cannot_be_shared_out_is_said(group):
    net = nn.Module()
    net.scale = nn.Parameter(torch.ones(()))
    with pytest.raises(UsageError, match=r"strategy: fsdp cannot .* scalar"):
        sharded.shard(net, torch.device("cpu"))


def test_weights_are_whole_while_entered(group):
    net = nn.Linear(3, 2)
    wanted = net.weight.detach().clone()
    sharded.shard(net, torch.device("cpu"))
    found = sharded.gathered(net.state_dict(), True)
    assert torch.equal(found["weight"], wanted)
    assert type(found["weight"]) is torch.Tensor
    with sharded.whole(net):
        assert type(net.weight) is nn.Parameter
        assert torch.equal(net.weight, wanted)
    assert type(net.weight) is not nn.Parameter
    with sharded.whole(nn.Linear(1, 1)):
        pass
