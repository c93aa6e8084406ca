"""Training: what a run leaves, how it stops, how it goes on, and what it refuses."""

import dataclasses
import fcntl
import gc
import importlib
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tolerances import BACKWARD, assert_near

import fastseg.train as module
from fastseg import checkpoint, config, models
from fastseg.config import load_recipe
from fastseg.data import phantom
from fastseg.data.cases import Case, Dataset, discover
from fastseg.data.cases.labels import BRATS
from fastseg.data.pipeline import Loader, LoaderConfig, dali
from fastseg.errors import DataError, FastsegError, NonFiniteError, UsageError
from fastseg.host import files
from fastseg.sample import sample
from fastseg.tasks.network import build_network
from fastseg.tasks.segmentation import Segmentation
from fastseg.train import lr_at, train
from fastseg.training import engine, validate
from fastseg.training.feed import Feed, choose_labelled
from fastseg.training.stop import Interrupted, Stopped, StopSignal, awake_in_backward

nibabel = pytest.importorskip("nibabel")

# two threads on busy cores wait for each other far longer than they compute
torch.set_num_threads(1)
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
TINY = (
    "data.patch=32,32",
    "data.samples_per_case=8",
    "data.batch_size=4",
    "data.threads=1",
    "model.width=4",
    "model.blocks=1",
    "model.modes=6,4",
    "epochs=2",
    "log_every=1",
    "lr=0.01",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return phantom.write(tmp_path_factory.mktemp("data"), 5, size=(40, 36, 24), seed=1)


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("run") / "straight"
    train(tiny(), data, out)
    return out


@pytest.fixture(autouse=True)
def undrawn(straight, monkeypatch):
    """Only the first run draws its pictures; they take longer than all its steps."""
    monkeypatch.setattr(module.report, "progress_png", lambda *_: None)
    monkeypatch.setattr(validate, "OVERLAYS", 0)


def tiny(*overrides: str, name: str = "fno"):
    return load_recipe(name, [*TINY, *overrides])


def rows(out: Path, key: str = "loss") -> list[dict]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row for row in lines if key in row]


def losses(out: Path) -> list[tuple]:
    return [(row["step"], row["epoch"], row["loss"], row["dice"], row["ce"]) for row in rows(out)]


def scores(out: Path) -> list[tuple]:
    return [(row["step"], row["val_dice"]) for row in rows(out, "val_dice")]


def weights(out: Path, group: str = "model") -> dict[str, torch.Tensor]:
    return checkpoint.load(checkpoint.generations(out / "checkpoints")[0])[1][group]


def assert_same_run(out: Path, straight: Path) -> None:
    assert losses(out) == losses(straight)
    assert scores(out) == scores(straight)
    expected = weights(straight)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(out).items())


@pytest.mark.skipif(dali.unavailable(None) is not None, reason="needs DALI")
def test_a_start_says_what_a_step_is(straight, data, tmp_path, caplog):
    small = ("epochs=1", "data.micro_batch=3", "val_every=0", "kernels=matmul")
    train(tiny(*small), data, tmp_path)
    assert caplog.messages[0] == (
        "training fno: 3 cases, batch 4 = 1 process x 2 samples x 2 accumulated, 6 steps an epoch, "
        "6 in all, fp32, matmul kernels"
    )


def test_a_batch_in_parts_has_the_gradients_of_the_whole(data, tmp_path):
    """Of 3, 3 and 2 samples, also where unlabelled ones come with them; the parts can change."""
    settings = ("data.batch_size=8", "optimizer=sgd", "val_every=0", "ema=0.5", "epochs=3")
    for number in (8, 3):
        train(tiny(*settings, f"data.micro_batch={number}"), data, tmp_path / str(number))
    train(tiny(*settings, "epochs=1"), data, tmp_path / "mixed")
    train(tiny(*settings, "data.micro_batch=1"), data, tmp_path / "mixed")
    for name in ("3", "mixed"):
        for row, whole in zip(rows(tmp_path / name), rows(tmp_path / "8"), strict=True):
            for key in ("loss", "dice", "ce"):
                assert row[key] == pytest.approx(whole[key], rel=BACKWARD[torch.float32])
        for group in ("model", "ema"):
            expected = weights(tmp_path / "8", group)
            for key, tensor in weights(tmp_path / name, group).items():
                assert_near(tensor, expected[key], BACKWARD, key)
    assert [row["step"] for row in rows(tmp_path / "3")] == list(range(1, 10))


def test_batches_of_dali_train_alike(data, straight, tmp_path, monkeypatch):
    run, used = dali.run, []
    monkeypatch.setattr(dali, "run", lambda *given: used.append(given) or run(*given))
    train(tiny("loader=dali"), data, tmp_path)
    assert used
    assert np.allclose(losses(tmp_path)[:4], losses(straight)[:4], rtol=1e-4, atol=1e-5)


def stop_at(monkeypatch, *steps: int) -> None:
    """Send this process a SIGTERM in the middle of those steps."""
    original = module.take_step

    def step(run, batch, lr):
        if run.at.step in steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(run, batch, lr)

    monkeypatch.setattr(module, "take_step", step)


def test_run_leaves_its_files(straight):
    names = {path.name for path in straight.iterdir()} - {".lock"}
    assert names == {"config.json", "env.json", "split.json", "metrics.jsonl", "progress.png",
                     "overlays", "checkpoints"}  # fmt: skip
    assert config.from_dict(json.loads((straight / "config.json").read_text())) == tiny()
    environment = json.loads((straight / "env.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__
    assert environment["backends"]["reference"]["live"]
    assert (straight / "progress.png").stat().st_size > 1000
    assert len(list((straight / "overlays").glob("epoch-000[12]-*.png"))) == 2
    split = json.loads((straight / "split.json").read_text())
    assert [len(split[part]) for part in ("train", "val", "test")] == [3, 1, 1]


def test_metrics_have_one_line_a_step_and_a_score_an_epoch(straight):
    steps = rows(straight)
    assert [row["step"] for row in steps] == list(range(1, 13))
    assert [row["epoch"] for row in steps] == [0] * 6 + [1] * 6
    for row in steps:
        assert row["loss"] == pytest.approx(row["dice"] + 0.5 * row["ce"])
        assert row["samples_per_s"] > 0
    assert [step for step, _ in scores(straight)] == [6, 12]
    assert steps[-1]["loss"] < steps[0]["loss"]


def test_checkpoint_holds_what_sampling_and_resuming_need(straight):
    state, groups = checkpoint.load(checkpoint.generations(straight / "checkpoints")[0])
    assert config.from_dict(state["recipe"]) == tiny()
    assert state["modalities"] == ["t1", "t1ce", "t2", "flair"]
    assert state["scheme"]["classes"][0] == "background"
    position = state["position"]
    assert (position["step"], position["epoch"], position["batch"]) == (12, 2, 0)
    assert state["rng"]["seed"] == 0
    assert set(groups) == {"model", "optimizer"}


def test_finished_run_says_so_and_stays_as_it_is(straight, data, caplog):
    before = (straight / "metrics.jsonl").read_bytes()
    last = train(tiny(), data, straight)
    assert "is finished (2 epochs)" in caplog.text
    assert last == checkpoint.generations(straight / "checkpoints")[0]
    assert (straight / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("steps", [(0,), (2, 4), (5, 6), (11,)], ids=str)
def test_stopped_and_resumed_run_is_bitwise_the_same(straight, data, tmp_path, monkeypatch, steps):
    stop_at(monkeypatch, *steps)
    for step in steps:
        with pytest.raises(Stopped, match=f"SIGTERM after step {step + 1}") as caught:
            train(tiny(), data, tmp_path)
        assert caught.value.exit_code == 143
        assert len(losses(tmp_path)) == step + 1
    train(tiny(), data, tmp_path)
    assert_same_run(tmp_path, straight)


def hang(*_):
    """What never ends by itself, in Python or in a call that a signal wakes."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)


@pytest.mark.parametrize("where", ["loader", "forward", "backward", "preparation"])
def test_what_takes_too_long_after_a_signal_is_given_up_and_done_again(
    straight, data, tmp_path, monkeypatch, where
):
    monkeypatch.setattr("fastseg.training.stop.GRACE_S", 0.05)
    cls = type(initial_network())
    honest, calls = cls.training_loss, []

    def training_loss(self, batch, generator):
        loss, parts = honest(self, batch, generator)
        calls.append(1)
        if len(calls) == 3:
            hang() if where == "forward" else loss.register_hook(hang)
        return loss, parts

    def epoch(self, *given):
        yield from itertools.islice(rest := batches(self, *given), 2)
        hang()
        yield from rest

    batches = Feed.epoch
    with monkeypatch.context() as patch:
        if where == "loader":
            patch.setattr(Feed, "epoch", epoch)
        elif where == "preparation":
            patch.setattr(module, "prepare", hang)
        else:
            patch.setattr(cls, "training_loss", training_loss)
        begun = time.monotonic()
        after = "before the first step" if where == "preparation" else "after step 2"
        with pytest.raises(Stopped, match=f"SIGTERM {after}"):
            train(tiny(), data, tmp_path)
        assert time.monotonic() - begun < 20
    train(tiny(), data, tmp_path)
    assert_same_run(tmp_path, straight)


def test_a_backward_pass_hears_signals_between_its_modules(monkeypatch):
    monkeypatch.setattr("fastseg.training.stop.GRACE_S", 1e-6)
    net = torch.nn.Sequential(*(torch.nn.Linear(512, 512) for _ in range(300)))
    soon = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGTERM))
    with awake_in_backward(ranked(0, 1)):
        loss = net(torch.ones(64, 512)).sum()
    loss.register_hook(lambda _: soon.start())
    with StopSignal() as stop, pytest.raises(Interrupted), stop.may_give_up():
        loss.backward()
    assert net[-1].bias.grad is not None
    assert net[0].bias.grad is None
    assert not torch.nn.modules.module._global_forward_hooks


def test_a_second_interrupt_ends_a_run_at_once_and_costs_it_nothing(
    straight, data, tmp_path, monkeypatch
):
    original = module.take_step

    def step(run, *given):
        if run.at.step == 7:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return original(run, *given)

    with monkeypatch.context() as patch:
        patch.setattr(module, "take_step", step)
        with pytest.raises(KeyboardInterrupt):
            train(tiny(), data, tmp_path)
    train(tiny(), data, tmp_path)
    assert_same_run(tmp_path, straight)


def test_stop_while_validating_validates_after_resuming(straight, data, tmp_path, monkeypatch):
    original = module.validate

    def interrupted(run, stop):
        if run.at.epoch == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
            monkeypatch.setattr(module, "validate", original)
        return original(run, stop)

    monkeypatch.setattr(module, "validate", interrupted)
    with pytest.raises(Stopped, match="SIGUSR1 after step 6"):
        train(tiny(), data, tmp_path)
    assert not scores(tmp_path)
    train(tiny(), data, tmp_path)
    assert_same_run(tmp_path, straight)


def test_damaged_newest_checkpoint_costs_only_the_steps_since_the_one_before(
    straight, data, tmp_path, monkeypatch, caplog
):
    stop_at(monkeypatch, 8)
    with pytest.raises(Stopped):
        train(tiny("save_every=3"), data, tmp_path)
    newest = checkpoint.generations(tmp_path / "checkpoints")[0]
    model = newest / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1])
    monkeypatch.undo()
    train(tiny("save_every=3"), data, tmp_path)
    assert f"checkpoint {newest.name} is damaged" in caplog.text
    assert (tmp_path / "checkpoints" / f"damaged-{newest.name}").is_dir()
    assert_same_run(tmp_path, straight)


def test_other_settings_are_refused_by_name_and_free_ones_are_not(straight, data):
    with pytest.raises(UsageError) as caught:
        train(tiny("lr=0.02", "model.width=8", "epochs=3"), data, straight)
    message = str(caught.value)
    assert "lr (0.01 → 0.02)" in message
    assert "model.width (4 → 8)" in message
    assert "lr=0.01 model.width=4 goes on with it" in message
    assert "epochs" not in message
    with pytest.raises(UsageError, match="holds a run already"):
        train(tiny(), data, straight, resume=False)


def test_more_epochs_go_on_where_the_run_ended(straight, data, tmp_path):
    train(tiny("epochs=1"), data, tmp_path)
    train(tiny("log_every=2"), data, tmp_path)
    assert losses(tmp_path) == losses(straight)[:6] + losses(straight)[7::2]
    assert scores(tmp_path) == scores(straight)


def test_second_run_in_the_same_folder_is_refused(data, tmp_path):
    with (tmp_path / ".lock").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another run is writing there"):
            train(tiny(), data, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_removed_lock_lets_nobody_in(data, tmp_path):
    with files.locked(tmp_path) as held:
        (tmp_path / ".lock").unlink()
        with pytest.raises(UsageError, match="another run is writing there"):
            train(tiny(), data, tmp_path)
        held.check()
    with files.locked(tmp_path):
        pass


@pytest.mark.parametrize("again", [False, True], ids=["removed", "replaced"])
def test_a_folder_removed_under_a_run_is_an_error(data, tmp_path, monkeypatch, again):
    out, original = tmp_path / "out", module.take_step

    def step(run, *given):
        if run.at.step == 5:  # the last of the epoch: what follows is a save
            shutil.rmtree(out)
            out.mkdir() if again else None
        return original(run, *given)

    monkeypatch.setattr(module, "take_step", step)
    with pytest.raises(FastsegError, match=f"{out}: was removed or replaced"):
        train(tiny("log_every=50"), data, out)
    assert out.exists() == again
    assert not again or not any(out.iterdir())


@contextmanager
def small_files(most: int):
    """No file of this process may grow past `most` bytes: a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_names_the_file_and_leaves_no_half_of_it(tmp_path):
    path, rows = tmp_path / "a.json", tmp_path / "metrics.jsonl"
    files.write_json(path, 1)
    files.append_row(rows, {"step": 1})
    with small_files(20):
        for write in (files.write_json, files.append_row):
            target = path if write is files.write_json else rows
            with pytest.raises(OSError, match=f"File too large: '{target}'"):
                write(target, {"step": "2" * 99})
    assert [file.read_text() for file in (path, rows)] == ["1\n", '{"step": 1}\n']
    assert len(list(tmp_path.iterdir())) == 2


def test_metrics_that_cannot_be_written_end_a_run_that_is_saved(
    straight, data, tmp_path, monkeypatch
):
    original, metrics = module.take_step, tmp_path / "metrics.jsonl"

    def step(run, *given):
        if run.at.step == 8:
            metrics.rename(tmp_path / "kept")
            metrics.symlink_to("/dev/full")
        return original(run, *given)

    with monkeypatch.context() as patch:
        patch.setattr(module, "take_step", step)
        message = f"after step 9: {metrics}: cannot be written .No space left.*saved in {tmp_path}"
        with pytest.raises(FastsegError, match=message):
            train(tiny(), data, tmp_path)
    (tmp_path / "kept").rename(metrics)
    train(tiny(), data, tmp_path)
    expected = weights(straight)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(tmp_path).items())


def test_a_picture_without_room_ends_no_run(data, tmp_path, monkeypatch, caplog):
    monkeypatch.undo()  # of what leaves pictures out
    monkeypatch.setattr(validate, "OVERLAYS", 0)
    draw, path = module.report.progress_png, tmp_path / "progress.png"

    def without_room(*given):
        with small_files(100):
            draw(*given)

    monkeypatch.setattr(module.report, "progress_png", without_room)
    train(tiny("epochs=1"), data, tmp_path)
    assert f"progress.png could not be drawn: [Errno 27] File too large: '{path}'" in caplog.text
    assert not path.exists()
    assert len(scores(tmp_path)) == 1
    assert not list(tmp_path.glob(".*.tmp"))


def test_wrong_option_of_the_model_is_a_usage_error(data, tmp_path):
    with pytest.raises(UsageError, match=r"^model\.branches: is 'many', wanted one of"):
        tiny("model.branches=many")
    wrong = dataclasses.replace(tiny(), model=tiny().model | {"branches": "many"})
    with pytest.raises(UsageError, match=r"^model\.branches: is 'many', wanted one of"):
        train(wrong, data, tmp_path)


def test_folder_that_is_a_file_is_a_usage_error(data, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        train(tiny(), data, tmp_path / "out")


def test_patient_of_the_run_that_is_gone_is_a_data_error(straight, tmp_path):
    other = phantom.write(tmp_path / "other", 2, size=(40, 36, 24))
    with pytest.raises(DataError, match="lacks 3 cases"):
        train(tiny("epochs=3"), other, straight)


def spoil(monkeypatch, steps, how) -> None:
    """Let the gradients of those steps go wrong; the loss too when `how` says so."""
    original = module.take_step
    cls = type(initial_network())
    honest = cls.training_loss
    now = []

    def step(run, batch, lr):
        now[:] = [run.at.step]
        return original(run, batch, lr)

    def training_loss(self, batch, generator):
        loss, parts = honest(self, batch, generator)
        return (how(loss), parts) if now[0] in steps else (loss, parts)

    monkeypatch.setattr(module, "take_step", step)
    monkeypatch.setattr(cls, "training_loss", training_loss)


def test_a_non_finite_part_skips_its_step(data, tmp_path, monkeypatch):
    parts = []

    def how(loss):
        parts.append(loss)
        return loss * float("nan") if len(parts) == 1 else loss

    spoil(monkeypatch, {2}, how)
    train(tiny("data.micro_batch=1", "epochs=1", "val_every=0"), data, tmp_path)
    assert len(parts) == 4
    [skipped] = rows(tmp_path, "skipped")
    assert (skipped["step"], len(skipped["cases"])) == (3, 4)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 4, 5, 6]
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path).values())


@pytest.mark.parametrize(
    "how", [lambda loss: loss * float("nan"), lambda loss: loss * 1e38 * 1e3], ids=["nan", "inf"]
)
def test_non_finite_steps_are_skipped_counted_and_named(data, tmp_path, monkeypatch, how):
    spoil(monkeypatch, {2, 3, 7}, how)
    train(tiny(), data, tmp_path)
    skipped = rows(tmp_path, "skipped")
    assert [row["step"] for row in skipped] == [3, 4, 8]
    assert all(len(row["cases"]) == len(row["samples"]) == 4 for row in skipped)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 5, 6, 7, 9, 10, 11, 12]
    state, groups = checkpoint.load(checkpoint.generations(tmp_path / "checkpoints")[0])
    assert (state["position"]["skipped"], state["position"]["in_a_row"]) == (3, 0)
    for tensors in groups.values():
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def test_too_many_in_a_row_end_the_run_with_the_last_good_weights(data, tmp_path, monkeypatch):
    spoil(monkeypatch, range(2, 99), lambda loss: loss * float("nan"))
    with pytest.raises(NonFiniteError, match="4 non-finite steps in a row") as caught:
        train(tiny("max_skipped=4"), data, tmp_path / "bad")
    assert caught.value.exit_code == 4
    monkeypatch.undo()
    stop_at(monkeypatch, 1)
    with pytest.raises(Stopped):
        train(tiny("max_skipped=4"), data, tmp_path / "good")
    good = weights(tmp_path / "good")
    assert all(torch.equal(t, good[name]) for name, t in weights(tmp_path / "bad").items())


def test_cosine_schedule_falls_from_lr_to_lr_min():
    recipe = tiny("schedule=cosine", "lr_min=1e-4")
    rates = [lr_at(recipe, step, 100) for step in range(101)]
    assert rates[0] == recipe.lr
    assert rates[100] == pytest.approx(1e-4)
    assert rates[50] == pytest.approx((recipe.lr + 1e-4) / 2)
    assert all(a > b for a, b in itertools.pairwise(rates))


def test_averaged_weights_follow_the_recursion_and_are_used(data, tmp_path, monkeypatch):
    steps = []
    original = module.take_step

    def step(run, batch, lr):
        row = original(run, batch, lr)
        steps.append([parameter.detach().clone() for parameter in run.module.parameters()])
        return row

    monkeypatch.setattr(module, "take_step", step)
    start = [p.detach().clone() for p in initial_network().parameters()]
    train(tiny("ema=0.5", "schedule=cosine"), data, tmp_path)
    mean = start
    for number, values in enumerate(steps):
        decay = min(0.5, (1 + number) / (10 + number))
        mean = [decay * m + (1 - decay) * v for m, v in zip(mean, values, strict=True)]
    names = [name for name, _ in initial_network().named_parameters()]
    saved = weights(tmp_path, "ema")
    for name, expected in zip(names, mean, strict=True):
        torch.testing.assert_close(saved[name], expected)
    assert rows(tmp_path)[-1]["lr"] < rows(tmp_path)[0]["lr"]


def initial_network():
    return build_network(tiny(), 4, BRATS)


def test_bf16_and_sgd_train_too(data, tmp_path):
    train(tiny("precision=bf16", "optimizer=sgd", "val_every=0", "epochs=1"), data, tmp_path)
    assert all(np.isfinite(row["loss"]) for row in rows(tmp_path))
    assert not scores(tmp_path)


def test_volume_recipe_trains_and_samples(data, tmp_path):
    small = ["data.patch=16,32,32", "data.samples_per_case=1", "data.batch_size=1", "epochs=1",
             "model.width=2", "model.blocks=1", "model.modes=4,4,3", "log_every=1"]  # fmt: skip
    last = train(load_recipe("fno3d", small), data, tmp_path / "run")
    assert checkpoint.load(last)[1].keys() == {"model", "ema", "optimizer"}
    [path] = sample(tmp_path / "run", data, tmp_path / "pred", part="test")
    assert nibabel.load(path).shape == (40, 36, 24)


def command(data: Path, out: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "fastseg", "train", "fno", "--data", str(data), "--out", str(out),
            *TINY, *overrides]  # fmt: skip


def wait_for_steps(out: Path, steps: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    path = out / "metrics.jsonl"
    while not path.exists() or path.read_bytes().count(b"\n") < steps:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_real_process_saves_and_exits_143_on_sigterm(data, tmp_path):
    run = subprocess.Popen(
        command(data, tmp_path, "epochs=500"), stderr=-1, text=True, env=ONE_THREAD
    )
    wait_for_steps(tmp_path, 3, run)
    run.send_signal(signal.SIGTERM)
    _, errors = run.communicate(timeout=30)
    assert run.returncode == 143
    assert "stopped by SIGTERM" in errors
    assert "Traceback" not in errors
    state, _ = checkpoint.load(checkpoint.generations(tmp_path / "checkpoints")[0])
    assert state["position"]["step"] == len(losses(tmp_path))


@pytest.fixture
def fake(monkeypatch):
    """The recipe of a system with noise, buffers, ramp, own average and unlabelled images."""
    monkeypatch.setitem(models.SYSTEMS, "fake", "fake_system")
    recipe = load_recipe("fno", [key for key in TINY if not key.startswith("model.")])
    seen = importlib.import_module("fake_system").System.seen
    seen.clear()
    options = {"width": 4, "steps": 2, "noise": 0.1, "sampler": "ddim"}
    changes = {"name": "fake", "system": "fake", "model": options, "optimizer": "sgd"}
    return lambda **more: dataclasses.replace(recipe, **changes | {"ema": 0.9} | more)


SEMI = {"labelled_fraction": 0.4, "nesterov": True, "schedule": "poly", "weight_decay": 3e-5}


@pytest.mark.parametrize("options", [{}, SEMI], ids=["supervised", "semi"])
def test_everything_of_a_diffusion_run_resumes_exactly(data, tmp_path, monkeypatch, fake, options):
    recipe = fake(**options)
    train(recipe, data, tmp_path / "straight")
    steps = len(rows(tmp_path / "straight"))
    stop_at(monkeypatch, 1, steps - 2)
    for _ in range(2):
        with pytest.raises(Stopped):
            train(recipe, data, tmp_path / "broken")
    train(recipe, data, tmp_path / "broken")
    drop = ("samples_per_s", "time_s")
    logged = [
        [{key: value for key, value in row.items() if key not in drop} for row in rows(out, "step")]
        for out in (tmp_path / "straight", tmp_path / "broken")
    ]
    assert logged[0] == logged[1]
    assert len(logged[0]) == steps + 2  # a line a step, and a score an epoch
    for group in ("model", "ema", "optimizer"):
        straight = weights(tmp_path / "straight", group)
        broken = weights(tmp_path / "broken", group)
        assert straight.keys() == broken.keys()
        assert all(torch.equal(tensor, broken[name]) for name, tensor in straight.items())
    assert not torch.equal(weights(tmp_path / "straight")["weights"], torch.ones(4))


def test_validation_repeats_and_leaves_training_as_it_is(data, tmp_path, monkeypatch, fake):
    pairs = []
    original = module.validate

    def twice(run, stop):
        pairs.append((original(run, stop), original(run, stop)))
        return pairs[-1][0]

    monkeypatch.setattr(module, "validate", twice)
    for every in (0, 1):
        train(fake(val_every=every, model={"noise": 3.0}), data, tmp_path / str(every))
    without, with_ = ([row["loss"] for row in rows(tmp_path / name)] for name in ("0", "1"))
    assert without == with_
    assert len(pairs) == 2
    assert all(first == second > 0 for first, second in pairs)


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.name
    finally:
        signal.signal(signal.SIGHUP, before)


def test_validation_gives_way_to_a_signal_and_is_done_again(data, tmp_path, monkeypatch, fake):
    original, predicted = Segmentation.validate, []

    def asked_to_stop(task, net, *rest):
        os.kill(os.getpid(), signal.SIGTERM)
        net.predict = lambda *_: predicted.append(1)
        return original(task, net, *rest)

    recipe = fake(val_every=1)
    train(recipe, data, tmp_path / "straight")
    with monkeypatch.context() as patch:
        patch.setattr(Segmentation, "validate", asked_to_stop)
        with pytest.raises(Stopped, match="SIGTERM"):
            train(recipe, data, tmp_path / "broken")
    assert not predicted
    train(recipe, data, tmp_path / "broken")
    for key in ("loss", "val_dice"):
        one, two = (
            [row[key] for row in rows(tmp_path / name, key)] for name in ("broken", "straight")
        )
        assert one == two


def test_a_position_that_says_nothing_is_refused(data, tmp_path):
    folder = train(tiny("epochs=1", "val_every=0"), data, tmp_path)
    state, groups = checkpoint.load(folder)
    for position in ([], {}, state["position"] | {"step": "7"}, state["position"] | {"far": 1}):
        plain = {key: v for key, v in state.items() if key not in ("sha256", "format")}
        checkpoint.save(tmp_path / "checkpoints", groups, plain | {"position": position})
        with pytest.raises(checkpoint.CheckpointError, match="position"):
            train(tiny("epochs=2", "val_every=0"), data, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state, groups: groups.pop("optimizer"), "holds no optimizer.safetensors"),
        (lambda state, groups: groups.pop("model"), "holds no model.safetensors"),
        (lambda state, groups: groups["model"].popitem(), "weights do not fit system fno"),
        (lambda state, groups: groups["optimizer"].pop("0.step"), "optimizer.0.step: is missing"),
        (lambda state, groups: groups["optimizer"].update({"99.step": torch.tensor(1.0)}),
         "optimizer.99.step: is of no parameter"),
        (lambda state, groups: groups["optimizer"].update({"0.exp_avg": torch.ones(3)}),
         r"optimizer.0.exp_avg is \(3,\), wanted a tensor of"),
        (lambda state, groups: state["optimizer"].update(values=[]), "optimizer.values is"),
        (lambda state, groups: state["optimizer"].update(values={"0.exp_avg": 1}), "exp_avg is 1"),
        (lambda state, groups: state.update(optimizer=3), "optimizer is 3, wanted a dict"),
        (lambda state, groups: state.pop("position"), "position is missing"),
        (lambda state, groups: state["split"].pop("val"), "split.val is missing"),
    ],
)  # fmt: skip
def test_a_run_goes_on_from_nothing_that_was_edited(straight, data, tmp_path, change, message):
    state, groups = checkpoint.load(checkpoint.generations(straight / "checkpoints")[0])
    change(state, groups)
    checkpoint.save(tmp_path / "checkpoints", groups, state)
    with pytest.raises(checkpoint.CheckpointError, match=message):
        train(tiny("epochs=3", "val_every=0"), data, tmp_path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [("devices=9999", "devices: is 9999, wanted at most"), (f"seed={2**63}", "seed: is")],
)
def test_what_cannot_be_is_refused_before_anything_starts(data, tmp_path, setting, message):
    with pytest.raises(UsageError, match=message):
        train(tiny(setting, "device=cpu"), data, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_no_picture_ends_a_run(data, tmp_path, caplog, monkeypatch):
    (tmp_path / "overlays").write_text("a file")
    (tmp_path / "progress.png").mkdir()
    monkeypatch.undo()  # of what leaves pictures out
    train(tiny("val_every=1"), data, tmp_path)
    assert "overlays" in caplog.text
    assert "progress.png could not be drawn" in caplog.text
    assert len(rows(tmp_path, "val_dice")) == 2


def test_pictures_leave_nothing_in_memory(data, tmp_path, monkeypatch):
    monkeypatch.undo()  # of what leaves pictures out
    monkeypatch.setattr(validate, "OVERLAYS", 1)
    gc.disable()
    try:
        train(tiny("epochs=1"), data, tmp_path)
        left = [thing for thing in gc.get_objects() if type(thing).__name__ == "Figure"]
    finally:
        gc.enable()
    assert not left
    assert len([*tmp_path.glob("*/*.png"), *tmp_path.glob("*.png")]) == 2


def test_validation_sees_the_validation_patients_alone(data, tmp_path, monkeypatch):
    seen, original = set(), Segmentation.validate

    def watched(task, net, recipe, dataset, case_id, *rest):
        seen.add(case_id)
        return original(task, net, recipe, dataset, case_id, *rest)

    monkeypatch.setattr(Segmentation, "validate", watched)
    train(tiny("val_every=1"), data, tmp_path)
    split = json.loads((tmp_path / "split.json").read_text())
    assert seen == set(split["val"])
    assert not seen & {*split["train"], *split["test"]}
    split["train"].append(split["val"][0])
    (tmp_path / "leaking.json").write_text(json.dumps(split))
    with pytest.raises(DataError, match=rf"leaking.json.*{split['val'][0]} is in train and val"):
        train(tiny(), data, tmp_path / "other", split=tmp_path / "leaking.json")


def test_progress_and_rate_follow_the_position(data, tmp_path, fake):
    recipe = fake(schedule="poly", epochs=3)
    train(recipe, data, tmp_path)
    seen = importlib.import_module("fake_system").System.seen
    assert [entry["progress"] for entry in seen] == [step / 18 for step in range(18)]
    rates = [row["lr"] for row in rows(tmp_path)]
    assert rates == [0.01 * (1 - epoch / 3) ** 0.9 for epoch in range(3) for _ in range(6)]


def ranked(rank: int, world: int) -> SimpleNamespace:
    """What a feed asks of Fabric."""
    return SimpleNamespace(device=torch.device("cpu"), global_rank=rank, world_size=world)


def feed_of(dataset, split, recipe, rank: int, world: int) -> list[dict]:
    with closing(Feed(dataset, split, recipe, ranked(rank, world))) as feed:
        return list(feed.epoch(1, 2, 6))


def as_bytes(tensor):
    return tensor.numpy().tobytes()


def test_unlabelled_images_come_from_the_other_patients(data, tmp_path, monkeypatch, fake):
    recipe = fake(labelled_fraction=0.4, val_every=0)
    train(recipe, data, tmp_path)
    seen = list(importlib.import_module("fake_system").System.seen)
    split = json.loads((tmp_path / "split.json").read_text())
    assert len(split["labelled"]) == 1
    assert set(split["labelled"]) < set(split["train"])
    # two patients of eight slices in batches of four an epoch; the labelled one has half of that
    assert len(seen) == 8
    epochs = [{seed[1] for seed in entry["seed"]} for entry in seen]
    assert epochs == [{0}, {0}, {1}, {1}, {2}, {2}, {3}, {3}]
    labelled_ids = {name for row in rows(tmp_path, "cases") for name in row["cases"]}
    assert not labelled_ids
    dataset = discover(data)
    again, *shares = (
        feed_of(dataset, split, recipe, rank, world)
        for rank, world in ((0, 1), (0, 3), (1, 3), (2, 3))
    )
    for batch, *parts in zip(again, *shares, strict=True):
        assert [len(part["unlabelled"]) for part in parts] == [2, 1, 1]
        for name in ("image", "unlabelled"):
            shared = (sample for part in parts for sample in part[name])
            assert sorted(map(as_bytes, batch[name])) == sorted(map(as_bytes, shared))
    feed = Feed(dataset, split, recipe, ranked(0, 1))
    with closing(feed):
        assert {name for batch in again for name in batch["case"]} == set(split["labelled"])
        ids = {name for batch in feed.unlabelled.epoch(0) for name in batch["case"]}
    assert ids == set(split["train"]) - set(split["labelled"])
    for batch, entry in zip(again, seen[6:], strict=True):
        assert torch.equal(batch["unlabelled"], entry["unlabelled"])
        assert batch["seed"] == entry["seed"]


def test_crops_without_labels_do_not_depend_on_them(data, tmp_path):
    dataset = discover(data)
    case_ids = [case.id for case in dataset.cases][:2]
    config_ = LoaderConfig((32, 32), 4, 8, foreground_fraction=None, threads=1)
    emptied = shutil.copytree(data, tmp_path / "data")
    for path in emptied.rglob("*_seg.nii.gz"):
        label = nibabel.load(path)
        blank = np.zeros(label.shape, np.uint8)
        blank[0, 0, 0] = 4
        nibabel.save(nibabel.Nifti1Image(blank, label.affine), path)
    images = []
    for source in (dataset, discover(emptied)):
        with Loader(source, case_ids, config_, backend="torch") as loader:
            images.append(torch.cat([batch["image"] for batch in loader.epoch(0)]))
    assert torch.equal(*images)


def test_choice_of_labelled_patients():
    cases = [Case(f"P{i}-{visit}", {}, Path(), f"P{i}") for i in range(10) for visit in (0, 1)]
    dataset = Dataset(Path("root"), "datalist", (), BRATS, tuple(cases))
    train_ids = [case.id for case in cases]
    chosen = choose_labelled(dataset, train_ids, 0.3, seed=0)
    assert len(chosen) == 6
    assert {case_id[:2] for case_id in chosen} == {case_id[:2] for case_id in chosen[::2]}
    assert chosen == choose_labelled(dataset, train_ids[::-1], 0.3, seed=0)
    assert len({tuple(choose_labelled(dataset, train_ids, 0.3, seed)) for seed in range(5)}) > 1
    assert len(choose_labelled(dataset, train_ids, 0.01, 0)) == 2
    assert len(choose_labelled(dataset, train_ids, 0.99, 0)) == 18
    with pytest.raises(UsageError, match="1 training patients"):
        choose_labelled(dataset, train_ids[:2], 0.5, 0)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_sixteen_bits_train_without_a_skipped_step(data, tmp_path, fake, precision):
    recipe = fake(precision=precision, labelled_fraction=0.4, val_every=0)
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, micro_batch=2))
    last = train(recipe, data, tmp_path)
    assert not rows(tmp_path, "skipped")
    assert all(np.isfinite(row["loss"]) for row in rows(tmp_path))
    seen = importlib.import_module("fake_system").System.seen
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert {entry["dtype"] for entry in seen} == {dtype}
    state, groups = checkpoint.load(last)
    assert (state["scaler"] is not None) == (precision == "fp16")
    assert all(t.dtype == torch.float32 for t in groups["model"].values() if t.is_floating_point())


@pytest.mark.parametrize(
    ("device", "capability", "expected"),
    [
        ("cpu", (0, 0), "fp32"),
        ("cuda", (6, 1), "fp16"),
        ("cuda", (7, 0), "fp16"),
        ("cuda", (7, 5), "fp16"),
        ("cuda", (8, 0), "bf16"),
        ("cuda", (8, 6), "bf16"),
        ("cuda", (9, 0), "bf16"),
        ("cuda", (10, 0), "bf16"),
        ("cuda", (12, 0), "bf16"),
    ],
    ids=str,
)
def test_precision_auto_is_what_a_device_has(device, capability, expected):
    assert engine.resolve_precision("auto", device, capability) == expected
    assert engine.resolve_precision("tf32", device, capability) == "tf32"


def test_precision_auto_is_kept_and_moves_between_devices(
    data, tmp_path, monkeypatch, fake, caplog
):
    """To a GPU without bf16, to one that has it, and back: with a loss scaler and without."""
    recipe = fake(precision="auto", val_every=0)
    for steps, precision in ((2, "fp16"), (5, "bf16"), (8, "fp16")):
        monkeypatch.setattr(engine, "resolve_precision", lambda *_, found=precision: found)
        stop_at(monkeypatch, steps)
        with pytest.raises(Stopped):
            train(recipe, data, tmp_path)
        monkeypatch.undo()
        monkeypatch.setitem(models.SYSTEMS, "fake", "fake_system")
        state, _ = checkpoint.load(checkpoint.generations(tmp_path / "checkpoints")[0])
        assert (state["precision"], state["recipe"]["precision"]) == (precision, "auto")
        assert (state["scaler"] is not None) == (precision == "fp16")
    train(recipe, data, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["precision"] == "auto"
    moves = [message for message in caplog.messages if message.startswith("goes on in")]
    assert moves == [f"goes on in {now}, it was in {then}" for now, then in
                     (("bf16", "fp16"), ("fp16", "bf16"), ("fp32", "fp16"))]  # fmt: skip
    assert not rows(tmp_path, "skipped")
    assert len(rows(tmp_path)) == 12


def test_a_run_of_a_named_precision_keeps_it_under_auto(data, tmp_path, caplog):
    train(tiny("precision=bf16", "epochs=1", "val_every=0"), data, tmp_path)
    train(tiny("precision=auto", "val_every=0"), data, tmp_path)
    assert "12 in all, bf16" in caplog.messages[-1]
    assert json.loads((tmp_path / "config.json").read_text())["precision"] == "bf16"


def test_runs_of_before_go_on(data, tmp_path, monkeypatch, caplog):
    """Of one process with the batches that they had; of several with a word about theirs."""
    stop_at(monkeypatch, 1)
    with pytest.raises(Stopped):
        train(tiny("val_every=0"), data, tmp_path)
    monkeypatch.undo()
    folder = tmp_path / "checkpoints"
    for steps, began in ((6, False), (3, True)):
        state, groups = checkpoint.load(checkpoint.generations(folder)[0])
        del state["recipe"]["data"]["micro_batch"], state["precision"]
        state["rng"]["rule"] = "SeedSequence((seed, step, rank))"
        state["position"] |= {
            "batches_per_epoch": steps,
            "step": 2,
            "epoch": 0,
            "batch": 2,
            "validated": 0,
        }
        checkpoint.save(folder, groups, state)
        caplog.clear()
        train(tiny("val_every=0", "epochs=1"), data, tmp_path)
        assert ("data.batch_size=4 was that of each" in caplog.text) == began
        assert ("the epoch begins again" in caplog.text) == began
    assert rows(tmp_path)[-1]["step"] == 8


def scripted_validation(monkeypatch, values):
    monkeypatch.setattr(module, "validate", lambda run, stop: values[run.at.epoch - 1])


def test_run_without_a_better_validation_ends_early(data, tmp_path, monkeypatch, caplog):
    short = ("data.samples_per_case=1", "epochs=9", "patience=2")
    scripted_validation(monkeypatch, [0.1, 0.3, 0.2, 0.3, 0.9, 0.8, 0.1, 0.0, 0.0])
    train(tiny(*short), data, tmp_path / "straight")
    assert [step for step, _ in scores(tmp_path / "straight")] == [1, 2, 3, 4]
    stop_at(monkeypatch, 2)
    with pytest.raises(Stopped):
        train(tiny(*short), data, tmp_path / "broken")
    train(tiny(*short), data, tmp_path / "broken")
    assert_same_run(tmp_path / "broken", tmp_path / "straight")
    train(tiny(*short), data, tmp_path / "broken")
    assert "is finished (4 epochs); a larger patience= goes on" in caplog.text
    train(tiny(*short, "patience=3"), data, tmp_path / "broken")
    assert len(scores(tmp_path / "broken")) == 8


def test_epochs_that_are_not_validated_end_nothing(data, tmp_path, monkeypatch):
    short = ("data.samples_per_case=1", "epochs=7", "patience=1", "val_every=3")
    scripted_validation(monkeypatch, [None, None, 0.5, None, None, 0.6, 0.4])
    train(tiny(*short), data, tmp_path)
    assert [step for step, _ in scores(tmp_path)] == [3, 6, 7]


def test_files_not_taken_and_patches_on_padding_are_said_once(data, tmp_path, caplog):
    shutil.copytree(data, tmp_path / "data")
    stray = next((tmp_path / "data").rglob("*_t1.nii.gz"))
    shutil.copy(stray, stray.with_name("bias.nii.gz"))
    train(tiny("data.patch=64,48"), tmp_path / "data", tmp_path / "run")
    told = [line for line in caplog.messages if "taken" in line or "padded" in line]
    assert told == [
        f"{tmp_path / 'data'}: 1 NIfTI file is not taken (no known modality at the end of the name)"
        f": {stray.parent.name}/bias.nii.gz",
        "data.patch: 64x48 is larger than 3 of 3 training volumes (z, y, x: 24x36x40 the smallest);"
        " they are padded with background",
    ]
