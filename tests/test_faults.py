"""What goes wrong around a run and must not change it: overflows, odd places to be started from."""

import asyncio
import errno
import json
import multiprocessing
import sys
import threading
import time

import pytest
import torch

from fastseg import checkpoint, models
from fastseg.config import load_recipe
from fastseg.data import phantom
from fastseg.data.pipeline import source, workers
from fastseg.errors import DataError, NiftiError, UsageError
from fastseg.train import train

pytest.importorskip("nibabel")
TINY = ["data.patch=16,16", "data.samples_per_case=8", "data.batch_size=4", "data.threads=1",
        "model.width=4", "model.blocks=1", "model.modes=4,3", "val_every=0", "log_every=1",
        "epochs=4"]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return phantom.write(tmp_path_factory.mktemp("data"), 4, size=(24, 24, 24))


@pytest.fixture(scope="module", autouse=True)
def undrawn():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastseg.train.report.progress_png", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("straight")
    train(load_recipe("fno", TINY), data, out)
    return losses(out)


def rows(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def losses(out):
    return [(row["step"], row["loss"]) for row in rows(out) if "loss" in row]


def state_of(out):
    return checkpoint.load(checkpoint.generations(out / "checkpoints")[0])


def test_a_cascade_of_overflows_under_fp16_shrinks_the_scale_and_ends(data, tmp_path, monkeypatch):
    system, calls = models._system("fno"), []
    honest = system.training_loss

    def spoiled(self, batch, generator):
        loss, parts = honest(self, batch, generator)
        calls.append(loss)
        # steps 3 to 7 overflow in the backward pass, which is in 16 bits; the loss itself is finite
        return (loss * 1e6 if 3 <= len(calls) <= 7 else loss), parts

    monkeypatch.setattr(system, "training_loss", spoiled)
    train(load_recipe("fno", [*TINY, "precision=fp16"]), data, tmp_path)
    skipped = [row["step"] for row in rows(tmp_path) if "skipped" in row]
    assert skipped == [3, 4, 5, 6, 7]
    state, groups = state_of(tmp_path)
    assert state["scaler"]["scale"] == 1024 / 2**5
    assert state["position"]["in_a_row"] == 0
    assert [step for step, _ in losses(tmp_path)] == [1, 2, *range(8, len(calls) + 1)]
    for tensors in groups.values():
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


@pytest.mark.parametrize("where", ["thread", "running loop"])
def test_a_notebook_trains_as_a_program_does(data, tmp_path, straight, where):
    """Its cells run in a thread beside a server, or inside a running event loop."""
    recipe = load_recipe("fno", TINY)

    async def cell():
        train(recipe, data, tmp_path)

    def work():
        asyncio.run(cell()) if where == "running loop" else train(recipe, data, tmp_path)

    if where == "thread":
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    else:
        work()
    assert losses(tmp_path) == straight


def test_a_notebook_is_told_that_it_has_one_process(data, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    with pytest.raises(UsageError, match="devices: is 2, wanted 1 in a notebook"):
        train(load_recipe("fno", [*TINY, "devices=2"]), data, tmp_path)


def test_a_spawned_process_trains_the_same(data, tmp_path, straight):
    process = multiprocessing.get_context("spawn").Process(
        target=train, args=(load_recipe("fno", TINY), data, tmp_path)
    )
    process.start()
    process.join(200)
    assert process.exitcode == 0
    assert losses(tmp_path) == straight


def test_a_disk_that_is_gone_costs_no_step(data, tmp_path, straight, monkeypatch, caplog):
    honest, reads = source.read_case, []

    def read_case(*given):
        reads.append(1)
        if len(reads) == 3:
            time.sleep(0.2)
        if len(reads) > 6:
            raise NiftiError("a.nii.gz", "no longer there") from OSError(errno.EIO, "gone")
        return honest(*given)

    with monkeypatch.context() as patch:
        patch.setattr(source, "read_case", read_case)
        patch.setattr(source, "RETRY_PAUSES_S", ())
        patch.setattr(workers, "WATCHDOG_S", 0.6)
        with pytest.raises(DataError, match="no longer there"):
            train(load_recipe("fno", TINY), data, tmp_path)
    assert "no answer for 0 s; is its disk slow?" in caplog.text
    assert 0 < state_of(tmp_path)[0]["position"]["step"] == len(losses(tmp_path)) < len(straight)
    train(load_recipe("fno", TINY), data, tmp_path)
    assert losses(tmp_path) == straight
