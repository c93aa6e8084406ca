"""Run a worker process for every case and heap, print a table and, if asked, write a record with
its table and its picture.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fastseg.bench import options
from fastseg.bench.options import HEAPS
from fastseg.errors import FastsegError, UsageError
from fastseg.host.files import write_text

PAIRS = 15  # of ours and the reference, at least, for the dispatcher's check


def main(argv=None) -> int:
    """Measure what the command line asks for, show and write it; returns the exit code.

    Args:
        argv: the words behind `fastseg bench`, those of the process by default.
    """
    arguments = options.parse(argv)
    try:
        return _bench(arguments)
    except FastsegError as error:
        print(f"fastseg bench: {error}", file=sys.stderr)
        return error.exit_code


def _bench(arguments: argparse.Namespace) -> int:
    from fastseg.bench import cases, targets

    chosen = choose(arguments)
    if arguments.gpu:
        _require_gpu()
    begin, results = time.perf_counter(), []
    heaps = _heaps(arguments)
    for heap in heaps:
        first = heap == heaps[0]
        for case in chosen:
            if first or cases.is_timed(case.family):
                late = arguments.limit and time.perf_counter() - begin > 60 * arguments.limit
                measure = skip_case if late else measure_case
                results.append(measure(case, heap, PAIRS if first else 0, arguments))
    record = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - begin, 1),
        "options": {k: v for k, v in vars(arguments).items() if k != "out"},
        "machine": next((r.pop("machine") for r in results if "machine" in r), None),
        "cases": [{k: v for k, v in r.items() if k != "machine"} for r in results],
    }
    record["checks"] = targets.checks(record)
    _show(record, arguments.out)
    return 1 if targets.failures(record) else 0


def _heaps(arguments: argparse.Namespace) -> list[str]:
    if arguments.gpu:
        return ["default"]
    return ["warm", "default"] if arguments.heap == "both" else [arguments.heap]


def _show(record: dict, out: str | None) -> None:
    """Print the table; write record, table and picture as files of one stem."""
    from fastseg.bench import chart, table

    text = table.markdown(record)
    print(text)
    if out:
        path = Path(out)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(record, indent=1) + "\n")
            write_text(path.with_suffix(".md"), text + "\n")
            chart.draw(record, path.with_suffix(".png"))
        except OSError as error:
            raise UsageError(f"--out {path}: {error.strerror}") from error


def choose(arguments: argparse.Namespace) -> list:
    """Return the cases of a command line; UsageError for a name that stands for none."""
    from fastseg.bench import cases

    try:
        found = cases.chosen(arguments.cases, arguments.only)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if arguments.gpu and not arguments.cases and not arguments.only:
        # where the kernels' bounds were measured, not part of the ten minutes
        found = [case for case in found if case.family != "crossover"]
    if arguments.dtype == "float64":
        # networks have float32 weights, under autocast too
        found = [case for case in found if case.family != "system"]
    return found


def _require_gpu() -> None:
    from fastseg.host.device import why_no_gpu

    if reason := why_no_gpu():
        raise UsageError(f"--gpu: {reason}")


def job_of(case, heap: str, pairs: int, arguments: argparse.Namespace) -> dict:
    """Make what a worker is told; `out` is added by whoever starts it.

    Args:
        case: of `fastseg.bench.cases`.
        heap: the allocator's setting, one of `HEAPS`.
        pairs: runs of ours beside the reference, at least.
        arguments: the command line's, of `options.parse`.
    """
    from fastseg.bench.cases import is_timed

    return {
        "case": case.id,
        "heap": heap,
        "pairs": pairs,
        "quick": arguments.quick,
        "dtype": arguments.dtype,
        "threads": arguments.threads,
        "budget_s": min(arguments.budget, 1.0) if arguments.quick else arguments.budget,
        "rounds": arguments.rounds,
        "compile": arguments.compile and is_timed(case.family),
        "device": "cuda" if arguments.gpu else "cpu",
    }


def skip_case(case, heap: str, pairs: int, arguments: argparse.Namespace) -> dict:
    """Return the record of a case that the time did not suffice for; arguments as `job_of`'s."""
    cause = f"not begun: {arguments.limit:g} minutes were over"
    return {"id": case.id, "family": case.family, "heap": heap, "failed": cause}


def measure_case(case, heap: str, pairs: int, arguments: argparse.Namespace) -> dict:
    """Start a worker and return its record; arguments as `job_of`'s.

    A worker that dies leaves a record that says how, and the others go on.
    """
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        job = job_of(case, heap, pairs, arguments) | {"out": str(out)}
        command = [sys.executable, "-m", "fastseg.bench.worker", json.dumps(job)]
        done = subprocess.run(
            command,
            env=environment(heap),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode == 0:
            result = json.loads(out.read_text())
        else:
            result = {"id": case.id, "family": case.family, "heap": heap, "failed": cause_of(done)}
    took = time.perf_counter() - begin
    print(
        f"{case.id}, {heap} heap: {result.get('failed', 'measured')} ({took:.0f} s)",
        file=sys.stderr,
        flush=True,
    )
    return result


def environment(heap: str) -> dict[str, str]:
    """Return the variables of a worker's process with this `heap`."""
    # both would change what "auto" and the allocator do behind the record's back
    ours = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith("MALLOC_") and k != "FASTSEG_BACKEND"
    }
    source = str(Path(__file__).resolve().parents[2])
    paths = [source, *filter(None, [ours.get("PYTHONPATH")])]
    # a worker that crashes says where
    ours["PYTHONFAULTHANDLER"] = "1"
    return ours | HEAPS[heap] | {"PYTHONPATH": os.pathsep.join(paths)}


def cause_of(done: subprocess.CompletedProcess) -> str:
    """Say why a worker ended without a record."""
    if done.returncode == -9:
        return "killed by the system, most likely for memory"
    if done.returncode < 0:
        frames = [line.strip() for line in done.stderr.splitlines() if line.startswith("  File ")]
        return f"stopped by signal {-done.returncode}" + "".join(f": {f}" for f in frames[:1])
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
