"""Time to decode a case of four modalities: `nibabel.load().get_fdata(float32)` against fastseg.

    python bench/decode.py DATA [--repeats 9] [--threads 1 2] [--json FILE]

Both decode the same files in turn, in one process, from a warm page cache; figures are medians and
the speed-up is the median of the paired ratios. Each thread count is taken with the default heap
and with a warm one, which keeps freed memory and so spares nibabel its page faults. Without DATA a
synthetic patient of BraTS size is written first.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

WARM_HEAP = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="?", help="folder of cases (default: one synthetic patient)")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", type=Path, help="also write the record to this file")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.data, arguments.threads, arguments.repeats)))
        return
    with tempfile.TemporaryDirectory() as folder:
        record = compare(arguments.data or synthetic(folder), arguments)
    report(record)
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


def synthetic(folder: str) -> str:
    from fastseg.data import phantom

    phantom.write(folder, 1, size=(240, 240, 155), seed=0)
    return folder


def compare(data: str, arguments: argparse.Namespace) -> dict:
    """Run `measure` in a process of its own for either heap, as malloc reads its settings once."""
    command = [sys.executable, __file__, data, "--measure", "--repeats", str(arguments.repeats)]
    command += ["--threads", *map(str, arguments.threads)]
    rows = []
    for heap, settings in (("default", {}), ("warm", WARM_HEAP)):
        output = subprocess.run(
            command, env=os.environ | settings, stdout=subprocess.PIPE, text=True, check=True
        ).stdout
        rows += [{"heap": heap, **row} for row in json.loads(output)]
    from fastseg.data import nifti

    return {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "inflate_library": nifti.inflate_library(),
        "data": Path(data).name if arguments.data else "synthetic",
        "rows": rows,
    }


def measure(data: str, thread_counts: list[int], repeats: int) -> list[dict]:
    from fastseg.data import cases

    found = cases.discover(data).cases
    paths = [path for case in found for path in case.images.values()]
    decoders = {"nibabel": by_nibabel, "fastseg": by_fastseg()}
    rows = []
    for threads in thread_counts:
        times = {name: [] for name in decoders}
        with ThreadPoolExecutor(threads) as pool:
            for repeat in range(repeats + 1):
                for name, decode in decoders.items():
                    seconds = timed(pool, decode, paths)
                    # The first round fills page cache and buffers.
                    if repeat:
                        times[name].append(1e3 * seconds / len(found))
        ratios = [a / b for a, b in zip(times["nibabel"], times["fastseg"], strict=True)]
        rows.append({
            "threads": threads,
            "nibabel_ms": statistics.median(times["nibabel"]),
            "fastseg_ms": statistics.median(times["fastseg"]),
            "speedup": statistics.median(ratios),
            "speedup_range": [min(ratios), max(ratios)],
        })  # fmt: skip
    return rows


def timed(pool: ThreadPoolExecutor, decode: Callable, paths: list[Path]) -> float:
    started = time.perf_counter()
    for _ in pool.map(decode, paths):
        pass
    return time.perf_counter() - started


def by_nibabel(path: Path) -> None:
    import nibabel
    import numpy as np

    nibabel.load(path).get_fdata(dtype=np.float32)


def by_fastseg() -> Callable[[Path], None]:
    from fastseg.data import nifti

    local = threading.local()

    def decode(path: Path) -> None:
        if not hasattr(local, "buffer"):
            local.buffer = nifti.Buffer()
        nifti.read(path, buffer=local.buffer)

    return decode


def report(record: dict) -> None:
    print(f"{record['machine']}, {record['cores']} cores, load {record['load_average']:.1f}, "
          f"{record['inflate_library']}, {record['data']}; ms per case")  # fmt: skip
    for row in record["rows"]:
        low, high = row["speedup_range"]
        print(f"{row['heap']:8} heap, {row['threads']} threads: nibabel {row['nibabel_ms']:6.1f}, "
              f"fastseg {row['fastseg_ms']:5.1f}, {row['speedup']:.1f}x "
              f"({low:.1f}-{high:.1f})")  # fmt: skip


if __name__ == "__main__":
    main()
