"""A short piece of each part of the campaign that needs no long run, and its runner."""

import importlib
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from campaign import kills, runner

pytest.importorskip("nibabel")


def one_round(name, folder, seed=0):
    part = importlib.import_module(f"campaign.{name}").Part(folder)
    return part.round(np.random.default_rng(seed), folder)


@pytest.mark.parametrize("seed", range(3))
def test_mutated_files_are_refused_or_read_as_nibabel_reads_them(tmp_path, seed):
    did = one_round("nifti", tmp_path, seed)
    assert did["read"] + did["refused"] == did["files"] == 100
    assert min(did["read"], did["refused"]) > 10


@pytest.mark.parametrize("seed", range(3))
def test_ops_take_views_of_any_memory(tmp_path, seed, one_thread):
    assert one_round("operators", tmp_path, seed)["calls"] > 10


def test_killed_runs_go_on_bitwise_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(kills, "KILLS", 1)
    part = kills.Part(tmp_path, "epochs=6", "val_every=0")
    assert part.round(np.random.default_rng(0), tmp_path)["kills"] == 1


class Fails:
    """A part whose third round finds something."""

    def __init__(self, scratch):
        self.rounds = 0

    def round(self, rng, folder):
        (folder / "number").write_text(str(rng.integers(1000)))
        self.rounds += 1
        assert self.rounds != 3, "it is odd"
        return Counter(files=2)


def test_the_runner_keeps_what_failed_and_says_how_to_repeat_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "campaign.fails", SimpleNamespace(Part=Fails))
    [result] = runner.run(["fails"], 1000, 7, tmp_path, rounds=4)
    assert (result.rounds, result.did, len(result.failures)) == (4, Counter(files=6), 1)
    kept = tmp_path / "fails-seed7-round2"
    assert (kept / "number").exists()
    assert "it is odd" in (kept / "traceback.txt").read_text()
    out = capsys.readouterr().out
    assert "AssertionError: it is odd; again: --only fails --seed 7 --first 2 --rounds 1" in out
    runner.run(["fails"], 1000, 7, tmp_path / "again", first=2, rounds=3)
    same = (tmp_path / "again" / "fails-seed7-round4" / "number").read_text()
    assert same != (kept / "number").read_text()


def test_every_part_has_its_file():
    for name in runner.PARTS:
        assert hasattr(importlib.import_module(f"campaign.{name}"), "Part")
