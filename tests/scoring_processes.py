"""What each of several processes does in test_scoring.py: python scoring_processes.py WORDS OUT.

WORDS is a JSON file with the words of commands, run one after another.
"""

import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch

from fastseg.cli import main
from fastseg.host.processes import launched

FOLDER = "{out}"


def run(words: list[str], out: Path) -> dict:
    """Exit code and output of a command; `FOLDER` in its words stands for `out`."""
    said, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(errors):
        code = main([word.replace(FOLDER, str(out)) for word in words])
    return {"code": code, "out": said.getvalue(), "errors": errors.getvalue()}


def forbidden(*_) -> None:
    raise AssertionError("this process is not to write")


if __name__ == "__main__":
    torch.set_num_threads(1)
    commands, out, rank = (
        json.loads(Path(sys.argv[1]).read_text()),
        Path(sys.argv[2]),
        launched()[0],
    )
    if rank:
        os.replace = forbidden
    found = [run(words, out / "several") for words in commands]
    (out / f"rank-{rank}.json").write_text(json.dumps(found))
