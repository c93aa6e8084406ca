"""Have every case measured under every heap, print a table and, if asked, write a record with its
table and its picture, as far as it has come after every case.
"""

import argparse
import datetime
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from fastseg.bench import options
from fastseg.bench.workers import Workers
from fastseg.errors import FastsegError, UsageError
from fastseg.host.files import write_text

PICTURE_S = 30.0  # between pictures, each of which takes seconds
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
    from fastseg.bench import table, targets

    chosen = choose(arguments)
    if arguments.gpu:
        _require_gpu()
    out = arguments.out and Path(arguments.out)
    begin = drawn = time.perf_counter()
    results, record = [], record_of([], 0.0, arguments)
    for result in _measured(chosen, begin, arguments):
        results.append(result)
        now = time.perf_counter()
        record = record_of(results, now - begin, arguments)
        if out:  # after every case: what cuts the run short leaves the others' figures
            write(record, out)
            if now - drawn > PICTURE_S:
                drawn = now
                draw(record, out)
    if out:
        write(record, out)
        draw(record, out)
    print(table.markdown(record))
    return 1 if targets.failures(record) else 0


def _measured(chosen: list, begin: float, arguments: argparse.Namespace) -> Iterator[dict]:
    """The record of every case under every heap, one after the other."""
    from fastseg.bench.cases import is_timed

    heaps = _heaps(arguments)
    for heap in heaps:
        first = heap == heaps[0]
        with Workers(heap, lasting=arguments.gpu) as workers:
            for case in chosen:
                if first or is_timed(case.family):
                    late = arguments.limit and time.perf_counter() - begin > 60 * arguments.limit
                    job = job_of(case, heap, PAIRS if first else 0, arguments)
                    limit = f"not begun: {arguments.limit:g} minutes were over" if late else None
                    yield measure_case(case, job, workers, arguments.case_limit, limit)


def record_of(results: list[dict], seconds: float, arguments: argparse.Namespace) -> dict:
    """Return the record of a run, JSON-able.

    Args:
        results: what was measured so far.
        seconds: that it took.
        arguments: the command line's, of `options.parse`.
    """
    from fastseg.bench import targets

    record = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "options": {k: v for k, v in vars(arguments).items() if k != "out"},
        "machine": next((r["machine"] for r in results if "machine" in r), None),
        "cases": [{k: v for k, v in r.items() if k != "machine"} for r in results],
    }
    return record | {"checks": targets.checks(record)}


def _heaps(arguments: argparse.Namespace) -> list[str]:
    if arguments.gpu:
        return ["default"]
    return ["warm", "default"] if arguments.heap == "both" else [arguments.heap]


def write(record: dict, path: Path) -> None:
    """Write a record as JSON, with its table beside it."""
    from fastseg.bench import table

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(record, indent=1) + "\n")
        write_text(path.with_suffix(".md"), table.markdown(record) + "\n")
    except OSError as error:
        raise UsageError(f"--out {path}: {error.strerror}") from error


def draw(record: dict, path: Path) -> None:
    """Draw a record's picture beside it, where it can be drawn."""
    from fastseg.bench import chart

    try:
        chart.draw(record, path.with_suffix(".png"))
    except (
        ModuleNotFoundError,
        OSError,
    ) as error:  # no picture is worth a run
        print(f"fastseg bench: no picture: {error}", file=sys.stderr)


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
    """Make what a worker is told; `out` is added by `Workers`.

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
        "without": arguments.without,
        "tf32": arguments.tf32,
        "device": "cuda" if arguments.gpu else "cpu",
    }


def measure_case(
    case, job: dict, workers: Workers, limit_s: float | None, left_out: str | None = None
) -> dict:
    """Return the record of a case; a worker that dies leaves one that says how.

    Args:
        case: of `fastseg.bench.cases`.
        job: as `job_of` makes it.
        workers: the processes.
        limit_s: seconds after which the case is given up, if ever.
        left_out: why it is not to be begun at all.
    """
    begin = time.perf_counter()
    result = {"failed": left_out} if left_out else workers.measure(job, limit_s)
    result = {"id": case.id, "family": case.family, "heap": job["heap"]} | result
    took = time.perf_counter() - begin
    print(
        f"{case.id}, {job['heap']} heap: {result.get('failed', 'measured')} ({took:.0f} s)",
        file=sys.stderr,
        flush=True,
    )
    return result
