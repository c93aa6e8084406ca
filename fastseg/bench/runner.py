"""The command: one worker process a case and heap, a table on stdout and, if asked, a record with
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

from fastseg.errors import FastsegError, UsageError

# glibc returns large blocks to the system and pays page faults for them at every call, unless told
# to keep them
HEAPS = {
    "warm": {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184"},
    "default": {},
}
DTYPES = ("float32", "float64", "bfloat16", "float16")
PAIRS = 15  # of ours and the reference, at least, for the dispatcher's check


def main(argv=None) -> int:
    arguments = _arguments(argv)
    try:
        return _bench(arguments)
    except FastsegError as error:
        print(f"fastseg bench: {error}", file=sys.stderr)
        return error.exit_code


def _bench(arguments: argparse.Namespace) -> int:
    from fastseg.bench import cases, targets

    chosen = _cases(arguments)
    if arguments.gpu:
        _require_gpu()
    begin, results = time.perf_counter(), []
    heaps = _heaps(arguments)
    for heap in heaps:
        first = heap == heaps[0]
        for case in chosen:
            if first or cases.is_timed(case.family):
                late = arguments.limit and time.perf_counter() - begin > 60 * arguments.limit
                measured = _skipped if late else _measured
                results.append(measured(case, heap, PAIRS if first else 0, arguments))
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
    """The table on stdout; record, table and picture as files of one stem."""
    from fastseg.bench import chart, table

    text = table.markdown(record)
    print(text)
    if out:
        path = Path(out)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, json.dumps(record, indent=1) + "\n")
            _write(path.with_suffix(".md"), text + "\n")
            chart.draw(record, path.with_suffix(".png"))
        except OSError as error:
            raise UsageError(f"--out {path}: {error.strerror}") from error


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf8")
    os.replace(temporary, path)


def _arguments(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="fastseg bench",
        description="Time the kernels beside their rivals, after checking every result.",
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="conv2d-240, gaussian3d, … (all)")
    parser.add_argument("--case", nargs="+", default=[], metavar="CASE", help="the same")
    parser.add_argument("--only", metavar="FAMILY", help="the cases of one operator")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one image, few channels, few rounds: to try it, not to quote",
    )
    parser.add_argument(
        "--out", metavar="FILE", help="write a JSON record, and a .md and a .png beside it"
    )
    parser.add_argument(
        "--threads", type=_positive, default=_cores(), help="(%(default)s, every core)"
    )
    parser.add_argument(
        "--heap",
        choices=(*HEAPS, "both"),
        default="both",
        help="the allocator's setting (%(default)s)",
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="(%(default)s)")
    parser.add_argument(
        "--budget",
        type=float,
        metavar="SECONDS",
        help="for every pass of a case (10; 0.5 with --gpu)",
    )
    parser.add_argument(
        "--limit",
        type=float,
        metavar="MINUTES",
        help="no new case is begun after it (none; 8 with --gpu)",
    )
    parser.add_argument(
        "--rounds", type=_positive, default=5, help="of every pass, at least (%(default)s)"
    )
    parser.add_argument(
        "--compile", action="store_true", help="add torch.compile of the rivals and the reference"
    )
    parser.add_argument("--gpu", action="store_true", help="on the CUDA device")
    arguments = parser.parse_args(argv)
    arguments.cases += vars(arguments).pop("case")
    if arguments.budget is None:
        arguments.budget = 0.5 if arguments.gpu else 10.0
    if arguments.limit is None and arguments.gpu:
        arguments.limit = 8.0
    return arguments


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}, wanted a positive number")
    return int(text)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cases(arguments: argparse.Namespace) -> list:
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
    from fastseg.device import why_no_gpu

    if reason := why_no_gpu():
        raise UsageError(f"--gpu: {reason}")


def job_of(case, heap: str, pairs: int, arguments: argparse.Namespace) -> dict:
    """What a worker is told; `out` is added by whoever starts it."""
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


def _skipped(case, heap: str, pairs: int, arguments: argparse.Namespace) -> dict:
    cause = f"not begun: {arguments.limit:g} minutes were over"
    return {"id": case.id, "family": case.family, "heap": heap, "failed": cause}


def _measured(case, heap: str, pairs: int, arguments: argparse.Namespace) -> dict:
    """A worker's record; one that dies leaves a record that says how, and the others go on."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        job = job_of(case, heap, pairs, arguments) | {"out": str(out)}
        command = [sys.executable, "-m", "fastseg.bench.worker", json.dumps(job)]
        done = subprocess.run(
            command,
            env=_environment(heap),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode == 0:
            result = json.loads(out.read_text())
        else:
            result = {"id": case.id, "family": case.family, "heap": heap, "failed": _cause(done)}
    took = time.perf_counter() - begin
    print(
        f"{case.id}, {heap} heap: {result.get('failed', 'measured')} ({took:.0f} s)",
        file=sys.stderr,
        flush=True,
    )
    return result


def _environment(heap: str) -> dict[str, str]:
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


def _cause(done: subprocess.CompletedProcess) -> str:
    if done.returncode == -9:
        return "killed by the system, most likely for memory"
    if done.returncode < 0:
        frames = [line.strip() for line in done.stderr.splitlines() if line.startswith("  File ")]
        return f"stopped by signal {-done.returncode}" + "".join(f": {f}" for f in frames[:1])
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
