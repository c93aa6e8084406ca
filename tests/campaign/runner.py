"""Run the parts of the campaign: rounds until their time is over, progress, a table at the end."""

import importlib
import shutil
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

# by module of this package: what it does. A part is a class `Part(scratch)` with
# `round(rng, folder) -> Counter`: what it did, by name; AssertionError when something is wrong.
PARTS = {
    "nifti": "mutated files, read here and by nibabel",
    "operators": "views of odd layouts through every op, against float64",
    "arguments": "ops called with arguments of a wrong kind",
    "overrides": "recipe overrides from the command line",
    "checkpoints": "edited and signed again, then sampled and resumed",
    "layouts": "hostile names, pipes, devices and links in the data",
    "kills": "SIGKILL while training, then on to the end",
    "disks": "slow, stalled, failing and full disks, jumping clocks, while training",
    "leaks": "memory over calls, reads and validations",
    "sanitized": "the C++ kernels under ASan and UBSan; builds for minutes, so only when named",
}
MOST_FAILURES = 5  # of a part, then it ends


@dataclass
class Result:
    """What became of one part."""

    name: str
    seconds: float = 0.0
    rounds: int = 0
    did: Counter = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def run(
    names: Sequence[str], seconds: float, seed: int, keep: Path, first: int = 0,
    rounds: int | None = None,
) -> list[Result]:  # fmt: skip
    """Run parts one after another, each with an equal share of the time that is left."""
    results, end = [], time.monotonic() + seconds
    for index, name in enumerate(names):
        share = (end - time.monotonic()) / (len(names) - index)
        results.append(_run_part(name, share, seed, keep, first, rounds))
    print(table(results))
    return results


def _run_part(
    name: str, seconds: float, seed: int, keep: Path, first: int, most: int | None
) -> Result:
    result, begun, said = Result(name), time.monotonic(), 0.0
    with tempfile.TemporaryDirectory(prefix=f"campaign-{name}-") as scratch:
        part = importlib.import_module(f"campaign.{name}").Part(Path(scratch))
        while result.rounds != most and len(result.failures) < MOST_FAILURES:
            _run_round(part, result, seed, first + result.rounds, Path(scratch) / "round", keep)
            result.seconds = time.monotonic() - begun
            if result.seconds - said > 10:
                said = result.seconds
                _say(f"{name}: {said:.0f} of {seconds:.0f} s, {_figures(result)}")
            if result.seconds >= seconds:  # one round at least
                break
    return result


def _run_round(part, result: Result, seed: int, number: int, folder: Path, keep: Path) -> None:
    rng = np.random.default_rng((seed, zlib.crc32(result.name.encode()), number))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    result.rounds += 1
    try:
        result.did += part.round(rng, folder)
    except Exception as error:  # whatever it is, it is what the campaign looks for
        kept = keep / f"{result.name}-seed{seed}-round{number}"
        shutil.rmtree(kept, ignore_errors=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder, kept)
        (kept / "traceback.txt").write_text(traceback.format_exc(), errors="backslashreplace")
        again = f"--only {result.name} --seed {seed} --first {number} --rounds 1"
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        result.failures.append(f"{kept}: {reason:.300}; again: {again}")
        _say(f"FAILED {result.failures[-1]}")


def table(results: Sequence[Result]) -> str:
    """The figures of each part, and where the failures are."""
    rows = [("part", "rounds", "seconds", "failures", "figures")]
    rows += [
        (r.name, str(r.rounds), f"{r.seconds:.0f}", str(len(r.failures)), _figures(r))
        for r in results
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, *(failure for r in results for failure in r.failures)])


def _figures(result: Result) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(result.did.items()))


def _say(line: str) -> None:
    print(line.encode(errors="backslashreplace").decode(), file=sys.stderr, flush=True)
