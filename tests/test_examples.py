"""What the documents show runs: the `>>>` examples of every module, the Python of every README."""

import doctest
import importlib
import re
import shlex
from pathlib import Path

import pytest

import fastseg
from fastseg.cli import main

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(fastseg.__file__).parent
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def with_examples() -> list[str]:
    """Name the modules whose text holds an example; none is imported."""
    paths = [path for path in sorted(PACKAGE.rglob("*.py")) if ">>>" in path.read_text()]
    parts = [path.relative_to(PACKAGE.parent).with_suffix("").parts for path in paths]
    return [".".join(p[:-1] if p[-1] == "__init__" else p) for p in parts]


@pytest.mark.parametrize("name", with_examples())
def test_examples_of_a_module(name, seeded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert not failed
    assert tried, f"{name}: its examples are in no docstring"


def blocks(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


FOLDERS = [ROOT / name for name in ("bench", "csrc", "fastseg", "kernels", "tests")]
READMES = [
    ROOT / "README.md",
    *(path for top in FOLDERS for path in sorted(top.rglob("README.md"))),
]


@pytest.mark.parametrize(
    "path",
    [path for path in READMES if path.is_file() and blocks(path)],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_python_of_a_readme(path, seeded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}  # the blocks of a file go on where the one before stopped
    for number, block in enumerate(blocks(path), start=1):
        exec(compile(block, f"{path.relative_to(ROOT)}, block {number}", "exec"), names)


def shell_blocks(path: Path) -> list[str]:
    """Commands that a README marks as ones to run as they stand."""
    return re.findall(r"^<!-- run -->\n```\n(.*?)^```$", path.read_text(), re.M | re.S)


@pytest.mark.parametrize(
    "path",
    [path for path in READMES if path.is_file() and shell_blocks(path)],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_commands_of_a_readme(path, one_thread, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for line in "".join(shell_blocks(path)).splitlines():
        command, *words = shlex.split(line, comments=True)
        assert command == "fastseg"
        assert main(words) == 0, line
