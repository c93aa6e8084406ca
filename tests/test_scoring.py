"""Scores by several processes: those of one, to the byte, and an end for all where one fails."""

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import scoring_processes
from launching import srun, torchrun
from torch import distributed as dist

from fastseg.data import phantom
from fastseg.errors import DataError
from fastseg.host.processes import Company, Place
from fastseg.host.shares import score_all

nib = pytest.importorskip("nibabel")

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not dist.is_gloo_available(), reason="torch without gloo"),
]
NAMES = [f"Phantom0000{i}" for i in range(3)]
SHOWN = ("t1", "t2")
OUT = scoring_processes.FOLDER


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three patients, an odd number for two processes."""
    return phantom.write(tmp_path_factory.mktemp("data"), 3, size=(24, 24, 24), seed=6)


def moved(data: Path, name: str, kind: str, target: Path) -> None:
    """A file of a patient, moved by a voxel, as if it were predicted."""
    source = nib.load(data / name / f"{name}_{kind}.nii.gz")
    target.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.roll(source.dataobj, 1, 0), source.affine), target)


@pytest.fixture(scope="module")
def commands(data, tmp_path_factory) -> dict[str, list[str]]:
    """Words of `fastseg evaluate`, of whatever it can score; "damaged" fails."""
    root, record = tmp_path_factory.mktemp("predictions"), {}
    for number, name in enumerate(NAMES):
        for folder in ("plain", "damaged", *(f"across/{one}" for one in SHOWN)):
            moved(data, name, "seg", root / folder / f"{name}_pred.nii.gz")
        file = root / "synthesis" / f"{name}_t2_pred.nii.gz"
        moved(data, name, "t2", file)
        given = ["t1", "flair"] if number else ["t1"]
        record[file.name] = {"case": name, "modality": "t2", "given": given, "scale": [0, 900],
                             "own_scale": True}  # fmt: skip
    (root / "synthesis" / "A_synthesis.json").write_text(json.dumps(record))
    (root / "plain" / f"{NAMES[1]}_pred.nii.gz").unlink()
    spoilt = root / "damaged" / f"{NAMES[1]}_pred.nii.gz"
    spoilt.write_bytes(spoilt.read_bytes()[:200])
    options = {
        "plain": ["--missing", "empty"],
        "one": ["--cases", NAMES[0]],
        "across": ["--modalities", ",".join(SHOWN)],
        "synthesis": ["--task", "synthesis"],
        "damaged": [],
    }
    return {
        name: ["evaluate", str(root / name.replace("one", "plain")), "--data", str(data), "--out",
               f"{OUT}/{name}", *words]
        for name, words in options.items()
    }  # fmt: skip


@pytest.fixture(scope="module")
def pair(commands, tmp_path_factory):
    """What the commands wrote and said in two processes under torchrun, one after another."""
    out = tmp_path_factory.mktemp("pair")
    (out / "commands.json").write_text(json.dumps(list(commands.values())))
    script = Path(scoring_processes.__file__)
    done = torchrun(script, out / "commands.json", out, timeout=100)
    assert done.returncode == 0, done.stderr
    said = [json.loads((out / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    return out, [dict(zip(commands, found, strict=True)) for found in said]


@pytest.mark.parametrize("name", ["plain", "one", "across", "synthesis"])
def test_two_processes_report_what_one_does(pair, commands, tmp_path, name):
    single = scoring_processes.run(commands[name], tmp_path)
    out, (first, second) = pair
    assert single["code"] == first[name]["code"] == second[name]["code"] == 0, first[name]
    assert first[name]["out"] == single["out"] != ""
    assert second[name]["out"] == second[name]["errors"] == ""
    written = {path.relative_to(tmp_path): path.read_bytes()
               for path in tmp_path.rglob("*") if path.is_file()}  # fmt: skip
    shared = {path.relative_to(out / "several"): path.read_bytes()
              for path in (out / "several" / name).rglob("*") if path.is_file()}  # fmt: skip
    picture = {".png"} if name == "across" else set()
    assert {path.suffix for path in written} == {".csv", ".json"} | picture
    assert shared == written


def test_a_damaged_file_ends_both_with_its_name(pair):
    out, found = pair
    for one in found:
        assert one["damaged"]["code"] == 3
        assert f"damaged/{NAMES[1]}_pred.nii.gz" in one["damaged"]["errors"]
        assert "lost the others" not in one["damaged"]["errors"]
    assert not (out / "several" / "damaged").exists()


DYING = """
import os, sys
from fastseg.errors import FastsegError
from fastseg.host.processes import company
with company() as processes:
    print(processes.agree(lambda: processes.place.rank), flush=True)
    if processes.place.rank:
        os._exit(9)
    try:
        processes.first(lambda: None)
    except FastsegError as error:
        print(error)
"""


def test_a_process_that_dies_leaves_none_waiting():
    with srun([sys.executable, "-c", DYING]) as both:
        said, errors = both[0].communicate(timeout=60)
        assert both[1].wait(timeout=60) == 9
    assert both[0].returncode == 0, errors
    assert said.startswith("[0, 1]\nprocess 0 lost the others; start all again (")


@dataclass(frozen=True)
class InThread(Company):
    """One of several threads in the place of processes."""

    told: list
    barrier: threading.Barrier

    def agree(self, do):
        self.told[self.place.rank] = do()
        self.barrier.wait(10)
        found = list(self.told)
        self.barrier.wait(10)
        return found


def in_threads(world: int, do) -> list:
    told, barrier = [None] * world, threading.Barrier(world)
    with ThreadPoolExecutor(world) as pool:
        companies = [InThread(Place(rank, rank, world, world), told, barrier)
                     for rank in range(world)]  # fmt: skip
        return list(pool.map(do, companies))


@pytest.mark.parametrize("items", [1, 3, 31])  # fewer than processes, one round, three
def test_every_item_is_scored_once_and_in_order(items):
    work, scored = {f"case {n}": n for n in range(items)}, []

    def score(n: int) -> dict:
        scored.append(n)
        return {"case": n}

    def each(company: Company) -> list[dict]:
        return score_all(work, score, company, threads=company.place.rank + 1, quiet=True)

    found = in_threads(3, each)
    assert found == [[{"case": n} for n in range(items)]] * 3
    assert sorted(scored) == list(range(items))


def test_processes_that_see_other_files_refuse():
    def each(company: Company) -> str:
        with pytest.raises(DataError) as caught:
            score_all({f"case {company.place.rank // 2}": 0}, dict, company, quiet=True)
        return str(caught.value)

    assert in_threads(3, each) == ["the processes see different files; start again when all are "
                                   "written"] * 3  # fmt: skip
