"""Hostile data folders: names that lead out, pipes, devices, links, loops, lists of anything."""

import json
import os
import shutil
import socket
from collections import Counter
from pathlib import Path

import numpy as np

from campaign.checkpoints import contents
from campaign.child import SMALL, command, small_run

CODES = {0, 1, 2, 3}
_NAMES = ["..", "../x", "/tmp/x", "a/../../x", "$\\frac$", "a\nb", "=1+1", "-rf", "~", "|",
          "<b>", "con", "é", "a" * 200, " ", ".hidden", "x;y", "%s", "{}", "\x1b[31m",
          "\u202e", "", "a\0b"]  # fmt: skip
_VALUES = [None, True, 0, -1, 1.5, "", "x", [], {}, [None], [[]], {"x": None}, 10**30,
           "../x", "/etc/passwd", "/dev/zero", "a\0b", ["../../x_t1.nii.gz"] * 4,
           {"0": "T1", "x": 1}]  # fmt: skip


class Part:
    """Two patients beside what a stranger may have put there; checked, predicted, trained on."""

    def __init__(self, scratch: Path):
        self.scratch = scratch
        self.data, self.run = small_run(scratch)

    def round(self, rng: np.random.Generator, folder: Path) -> Counter:
        data, out, did = folder / "data", folder / "out", Counter()
        shutil.copytree(self.data, data)
        planted = [ATTACKS[rng.integers(len(ATTACKS))] for _ in range(rng.integers(1, 4))]
        for plant in planted:
            plant(data, rng)
        what = ", ".join(plant.__name__.strip("_") for plant in planted)
        (folder / "attacks.txt").write_text(what)
        before = contents(self.scratch, {folder.name}), _names(data)
        verb = ("check", "sample", "train", "evaluate")[rng.integers(4)]
        arguments = {
            "check": [data],
            "sample": [self.run, "--data", data, "--out", out],
            "train": ["fno", "--data", data, "--out", out, *SMALL],
            "evaluate": [self.scratch / "predictions", "--data", data, "--out", out],
        }
        code = command([verb, *arguments[verb]], folder)
        assert code in CODES, (what, verb, code)
        assert (contents(self.scratch, {folder.name}), _names(data)) == before, (
            f"{what}: {verb} wrote outside of OUT"
        )
        return did + Counter(attacks=len(planted)) + Counter({f"{verb} {code}": 1})


def _names(folder: Path) -> list[bytes]:
    return sorted(os.path.join(root, name) for root, folders, files in os.walk(os.fsencode(folder))
                  for name in (*folders, *files))  # fmt: skip


def _case(data: Path, rng: np.random.Generator) -> Path:
    folders = sorted(path for path in data.iterdir() if path.name.startswith("Phantom"))
    return folders[rng.integers(len(folders))]


def _file(data: Path, rng: np.random.Generator) -> Path:
    files = sorted(path for path in data.glob("Phantom*/*") if not path.is_dir()) or [
        data / "x.nii"
    ]
    return files[rng.integers(len(files))]


def _special(path: Path, rng: np.random.Generator) -> None:
    """In the place of `path` something that is no file, or does not end."""
    path.unlink(missing_ok=True)
    kind = rng.integers(8)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        with socket.socket(socket.AF_UNIX) as server:
            here = os.getcwd()
            os.chdir(path.parent)  # such names are short
            server.bind(path.name[:90])
            os.chdir(here)
    elif kind == 2:
        path.mkdir()
    else:
        targets = ("/dev/zero", "/dev/full", "/dev/stdin", "/etc/passwd", path.name)
        path.symlink_to(targets[kind - 3])


def _pipe_for_an_image(data: Path, rng: np.random.Generator) -> None:
    _special(_file(data, rng), rng)


def _odd_description(data: Path, rng: np.random.Generator) -> None:
    _special(data / ("dataset.json", "a.json")[rng.integers(2)], rng)


def _loop(data: Path, rng: np.random.Generator) -> None:
    (data / f"loop{rng.integers(2**31)}").symlink_to((".", "..")[rng.integers(2)])


def _link_to_elsewhere(data: Path, rng: np.random.Generator) -> None:
    path = _file(data, rng)
    other = data.parent / f"elsewhere{rng.integers(1000)}"
    if path.exists() and path.is_file():
        shutil.move(path, other)
        path.symlink_to(other)


def _renamed(data: Path, rng: np.random.Generator) -> None:
    """A case with a hostile name, of its folder and its files."""
    name = os.fsencode(
        _NAMES[rng.integers(len(_NAMES))].replace("/", "_").replace("\0", "_") or "_"
    )
    if rng.random() < 0.3:
        name += b"\xff\xfe"
    case = _case(data, rng)
    for path in list(case.iterdir()):
        own = os.fsencode(path.name).replace(os.fsencode(case.name), name)
        os.rename(os.fsencode(path), os.path.join(os.fsencode(case), own))


def _deep(data: Path, rng: np.random.Generator) -> None:
    (data / "/".join("d" * 40)).mkdir(parents=True, exist_ok=True)


def _damaged(data: Path, rng: np.random.Generator) -> None:
    path = _file(data, rng)
    if path.is_file() and path.stat().st_size < 2**20:
        path.write_bytes(path.read_bytes()[: int(rng.integers(0, 400))])


def _list(data: Path, rng: np.random.Generator) -> None:
    """A description, most of whose values are something else."""

    def one(right):
        return _VALUES[rng.integers(len(_VALUES))] if rng.random() < 0.15 else right

    cases = [path.name for path in sorted(data.iterdir()) if path.name.startswith("Phantom")]
    images = [
        [one(f"{name}/{name}_{m}.nii.gz") for m in ("t1", "t1ce", "t2", "flair")] for name in cases
    ]
    entries = [
        one({"image": one(paths), "label": one(f"{name}/{name}_seg.nii.gz")})
        for name, paths in zip(cases, images, strict=True)
    ]
    labels = {"background": 0, _NAMES[rng.integers(len(_NAMES))]: 1, "b": 2, "c": one([4, 3])}
    found = {"training": one(entries), "labels": one(labels)}
    if rng.random() < 0.5:
        found["channel_names"] = one({"0": "T1", "1": one("T1ce"), "2": one("T2"), "3": "FLAIR"})
    if rng.random() < 0.3:
        hostile = (_NAMES[rng.integers(len(_NAMES))] for _ in cases)
        found["dataset"] = {n: one({"images": i, "label": None}) for n, i in zip(hostile, images)}  # noqa: B905
    text = json.dumps(found) if rng.random() < 0.9 else "[" * int(rng.integers(1, 100_000))
    path = data / "dataset.json"
    if not path.exists() and not path.is_symlink():
        path.write_text(text)


ATTACKS = (_pipe_for_an_image, _odd_description, _loop, _link_to_elsewhere, _renamed, _deep,
           _damaged, _list, _list, _renamed)  # fmt: skip
