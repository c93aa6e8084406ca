"""Checkpoints: exact, verified, and never half there."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from fastseg import checkpoint
from fastseg.checkpoint import CheckpointError, writing
from fastseg.errors import FastsegError

FILES = ("model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json")


def some_groups(seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, 3, generator=generator)
    return {
        "model": {
            "w": weight,
            "turned": weight.T,
            "scalar": torch.tensor(3),
            "half": weight.half(),
        },
        "ema": {"w": weight + 1, "bf16": weight.bfloat16()},
        "optimizer": {"0.exp_avg": weight * 2, "0.step": torch.tensor(7.0)},
    }


def save(folder, seed: int = 0, **options):
    return checkpoint.save(folder, some_groups(seed), {"step": seed, "lr": 0.1 + 0.2}, **options)


def test_what_is_loaded_is_what_was_saved(tmp_path):
    path = save(tmp_path, 3)
    state, groups = checkpoint.load(path)
    assert (state["step"], state["lr"]) == (3, 0.1 + 0.2)
    for name, tensors in some_groups(3).items():
        assert groups[name].keys() == tensors.keys()
        for key, tensor in tensors.items():
            assert groups[name][key].dtype == tensor.dtype
            assert torch.equal(groups[name][key], tensor)
    assert {file.name for file in path.iterdir()} == set(FILES)


def test_files_are_those_that_safetensors_writes(tmp_path):
    honest = pytest.importorskip("safetensors.torch")
    whole = {"α": torch.arange(7) % 2 == 0, "empty": torch.zeros(0, 3), **some_groups()["model"]}
    plain = {name: tensor.clone().contiguous() for name, tensor in whole.items()}
    path = checkpoint.save(tmp_path, {"model": whole}, {})
    assert (path / "model.safetensors").read_bytes() == honest.save(plain)


def test_only_the_wanted_groups_are_read(tmp_path):
    path = save(tmp_path)
    (path / "optimizer.safetensors").unlink()
    assert set(checkpoint.load(path, ("model", "ema"))[1]) == {"model", "ema"}


def test_two_generations_are_kept_of_each_kind(tmp_path):
    for seed in range(5):
        newest = save(tmp_path, seed)
    best = [save(tmp_path, seed, kind="best", keep=1) for seed in range(3)][-1]
    found = checkpoint.generations(tmp_path)
    assert [checkpoint.load(path)[0]["step"] for path in found] == [4, 3]
    assert found[0] == newest
    assert checkpoint.generations(tmp_path, ("best", "last")) == [best, *found]
    assert len(list(tmp_path.iterdir())) == 3


def test_an_old_one_that_is_being_removed_counts_no_more(tmp_path, monkeypatch):
    """Killed halfway through its files, it would be taken for a damaged checkpoint."""
    save(tmp_path, 1)
    newest = [save(tmp_path, seed) for seed in (2, 3)][-1]
    remove = shutil.rmtree

    def killed(path, **options):
        if any(path.glob("*.json")):
            (path / "state.json").unlink()
            raise KeyboardInterrupt
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 4)
    monkeypatch.undo()
    for path in checkpoint.generations(tmp_path):
        checkpoint.load(path)
    assert newest in checkpoint.generations(tmp_path)
    checkpoint.tidy(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone", "link", "grown"])
def test_damaged_newest_one_is_named_and_the_one_before_is_used(tmp_path, caplog, file, damage):
    older, newest = save(tmp_path, 1), save(tmp_path, 2)
    hurt(newest / file, damage)
    with pytest.raises(CheckpointError, match=file):
        checkpoint.load(newest)
    path, state, groups = checkpoint.load_newest(checkpoint.generations(tmp_path))
    assert (path, state["step"]) == (older, 1)
    assert torch.equal(groups["model"]["w"], some_groups(1)["model"]["w"])
    assert newest.name in caplog.text


def hurt(path, damage: str) -> None:
    content = bytearray(path.read_bytes())
    path.unlink()
    if damage == "flip":
        content[len(content) // 2] ^= 4
    elif damage == "link":
        path.with_name("elsewhere").write_bytes(content)
        path.symlink_to("elsewhere")
    if damage not in ("gone", "link"):
        cut = {"cut": content[:-5], "empty": b"", "grown": content + b"\0"}.get(damage, content)
        path.write_bytes(cut)


@pytest.mark.parametrize("file", ["model.safetensors", "state.json"])
def test_every_flipped_bit_is_noticed(tmp_path, file):
    path = save(tmp_path) / file
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for bit in rng.choice(8 * len(content), 300, replace=False):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError):
            checkpoint.load(path.parent)
    path.write_bytes(content)
    checkpoint.load(path.parent)


def test_no_sound_one_is_an_error_that_lists_them(tmp_path):
    paths = [save(tmp_path, 1), save(tmp_path, 2)]
    for path in paths:
        hurt(path / "model.safetensors", "flip")
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_newest(paths)
    assert all(path.name in str(caught.value) for path in paths)


def test_damaged_ones_set_aside_do_not_count_as_a_generation(tmp_path):
    older, newest = save(tmp_path, 1), save(tmp_path, 2)
    (tmp_path / "tmp-last-1").mkdir()
    checkpoint.tidy(tmp_path, [newest])
    assert checkpoint.generations(tmp_path) == [older]
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"damaged-{newest.name}", older.name]
    save(tmp_path, 3)
    assert older.exists()


def test_full_disk_leaves_the_previous_one_and_says_so(tmp_path):
    before = save(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(FastsegError, match=rf"could not be saved.*{before.name} is intact"):
            save(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(tmp_path.iterdir()) == [before]
    assert checkpoint.load(before)[0]["step"] == 1


KILLED = """
import os, random, signal, sys, time, torch
from fastseg import checkpoint
folder, rng = sys.argv[1], random.Random(0)
torch.set_num_threads(1)  # a forked child has none of the parent's OpenMP threads
begun = time.monotonic()
checkpoint.save(folder, {"model": {"w": torch.full((1000, 50), 0.0)}}, {"step": 0})
once = time.monotonic() - begun
for life in range(40):
    child = os.fork()
    if not child:
        step = checkpoint.load_newest(checkpoint.generations(folder))[1]["step"]
        while True:
            step += 1
            value = {"model": {"w": torch.full((1000, 50), float(step))}}
            checkpoint.save(folder, value, {"step": step})
    time.sleep(rng.uniform(0, 4 * once))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    path, state, groups = checkpoint.load_newest(checkpoint.generations(folder)[:1])
    assert (groups["model"]["w"] == state["step"]).all(), path
print("leftovers", sum(name.startswith("tmp-") for name in os.listdir(folder)))
"""


def test_newest_one_is_sound_after_each_of_forty_kills(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    # the kills are worth nothing unless some of them hit a save halfway
    assert int(done.stdout.split()[1]) > 5


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (2**40, "header"),
        (checkpoint.MAX_HEADER_BYTES + 1, "header"),
        (None, "tensors"),
    ],
)
def test_header_made_to_exhaust_the_reader_is_refused(tmp_path, header, message):
    path = save(tmp_path) / "model.safetensors"
    if header is None:
        entry = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
        text = json.dumps({f"t{i}": entry for i in range(checkpoint.MAX_ENTRIES + 1)}).encode()
        content = len(text).to_bytes(8, "little") + text
    else:
        content = header.to_bytes(8, "little") + path.read_bytes()[8:]
    with pytest.raises(CheckpointError, match=message):
        load_with_matching_sums(path, content)


def inflated(kind: str) -> bytes:
    """A header of four megabytes, nearly all of one kind of thing."""
    most = checkpoint.MAX_HEADER_BYTES - 200
    if kind == "metadata":
        entries = (f'"{i:06x}":""' for i in range(most // 12))
        text = '{"__metadata__":{' + ",".join(entries) + "}}"
    else:
        sizes = ",".join("0" for _ in range(most // 2))
        text = '{"w":{"dtype":"U8","shape":[' + sizes + '],"data_offsets":[0,0]}}'
    return len(text).to_bytes(8, "little") + text.encode()


@pytest.mark.parametrize("kind", ["metadata", "shape"])
def test_a_header_of_many_things_is_refused_before_it_is_parsed(tmp_path, kind):
    path = save(tmp_path) / "model.safetensors"
    with pytest.raises(CheckpointError, match="wanted at most 20000 tensors, with 16 each"):
        load_with_matching_sums(path, inflated(kind))


def test_a_state_of_many_things_is_refused_before_it_is_parsed(tmp_path):
    path = save(tmp_path) / "state.json"
    path.write_text('{"a":[' + "[]," * 200_000 + "1]}")
    with pytest.raises(CheckpointError, match=r"state\.json: has 400002 items"):
        checkpoint.load(path.parent)


def load_with_matching_sums(path, content: bytes) -> None:
    """As a malicious author would: the checksums fit, only the content is hostile."""
    import hashlib

    path.write_bytes(content)
    state = json.loads((path.parent / "state.json").read_text())
    state["sha256"].pop("state.json")
    state["sha256"][path.name] = hashlib.sha256(content).hexdigest()
    own = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
    state["sha256"]["state.json"] = own
    (path.parent / "state.json").write_text(json.dumps(state))
    checkpoint.load(path.parent)


def test_pickle_under_a_checkpoints_name_is_not_executed(tmp_path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    path = save(tmp_path) / "model.safetensors"
    with pytest.raises(CheckpointError):
        load_with_matching_sums(path, pickle.dumps(Bomb()))
    assert not (tmp_path / "executed").exists()


def test_other_format_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "FORMAT", 99)
    path = save(tmp_path)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format 99"):
        checkpoint.load(path)


def test_find_takes_a_run_its_folder_or_one_checkpoint(tmp_path):
    folder = tmp_path / "checkpoints"
    older, newest = save(folder, 1), save(folder, 2)
    assert checkpoint.find(tmp_path) == checkpoint.find(folder) == [newest, older]
    assert checkpoint.find(older) == [older]
    best = save(folder, 1, kind="best", keep=1)
    assert checkpoint.find(tmp_path) == [best, newest, older]
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        checkpoint.find(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.Adam(parameters, lr=0.1),
        lambda parameters: torch.optim.AdamW(parameters, lr=0.1, amsgrad=True),
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    ],
    ids=["adam", "adamw", "sgd"],
)
def test_optimiser_goes_on_bitwise_the_same(tmp_path, make):
    first = torch.nn.Parameter(torch.linspace(-1, 1, 7))
    optimizer = make([first])
    descend(first, optimizer, 3)
    tensors, rest = checkpoint.pack_optimizer(optimizer)
    path = checkpoint.save(tmp_path, {"optimizer": tensors}, {"rest": rest})
    state, groups = checkpoint.load(path)
    second = torch.nn.Parameter(first.detach().clone())
    resumed = make([second])
    checkpoint.unpack_optimizer(resumed, groups["optimizer"], state["rest"])
    descend(first, optimizer, 5)
    descend(second, resumed, 5)
    assert torch.equal(first, second)


def descend(parameter, optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        (parameter.sin() ** 2).sum().backward()
        optimizer.step()
