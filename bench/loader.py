"""Cases and samples a second: this loader, nibabel, and MONAI's usual transform chain.

    python bench/loader.py DATA [--threads 2] [--cases 16] [--rounds 5] [--json FILE]

All take turns in every round on the same files (read before, so the page cache is warm) with the
same number of threads; the figure is the median round. nibabel and MONAI load whole cases and stop
there; the loader's rows go all the way to augmented batches, graph building included. Its device
stage runs beside the decoding threads, in one thread more (torch) or as many again (DALI).
"""

import argparse
import ctypes
import json
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch

from fastseg.data import dali
from fastseg.data.cases import discover
from fastseg.data.decode import Buffers, crop_to_brain, locate, read_case
from fastseg.data.pipeline import Loader, LoaderConfig


def main() -> None:
    """Run the rounds, print a table and write the record."""
    args = _arguments()
    if args.warm_heap:
        _keep_freed_memory()
    torch.set_num_threads(args.threads)
    dataset = _repeated(discover(args.data, require_labels=True), args.cases)
    contestants = _contestants(dataset, args)
    seconds = {name: [] for name in contestants}
    for turn in range(args.rounds + 1):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    rows = [_row(name, times, args) for name, times in seconds.items()]
    for row in rows:
        row["times_nibabel"] = row["cases_per_s"] / rows[0]["cases_per_s"]
    _show(rows)
    if args.json:
        record = {"machine": _machine(), "options": vars(args) | {"data": None}, "rows": rows}
        Path(args.json).write_text(json.dumps(record, indent=1, default=str) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a data set with labels")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cases", type=int, default=16, help="cases a round, repeated as needed")
    parser.add_argument("--rounds", type=int, default=5, help="after one that does not count")
    parser.add_argument("--patch", type=int, nargs="+", default=[240, 240], help="H W or D H W")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--samples-per-case", type=int, default=8)
    parser.add_argument("--warm-heap", action="store_true", help="glibc keeps freed memory")
    parser.add_argument("--json", help="write a record to this file")
    return parser.parse_args()


def _keep_freed_memory() -> None:
    libc, trim_threshold, mmap_threshold = ctypes.CDLL(None), -1, -3
    for option in (trim_threshold, mmap_threshold):
        libc.mallopt(option, 2**31 - 1 if option == trim_threshold else 2**25)
    libc.mallopt(-4, 0)  # M_MMAP_MAX: large blocks come from the heap too


def _repeated(dataset, count: int):
    cases = islice(cycle(dataset.cases), count)
    return replace(
        dataset, cases=tuple(replace(case, id=f"{case.id}-{i}") for i, case in enumerate(cases))
    )


def _contestants(dataset, args) -> dict[str, Callable[[], None]]:
    def each(load: Callable) -> Callable[[], None]:
        return lambda: _in_threads(load, dataset.cases, args.threads)

    buffers = Buffers()
    runs = {
        "nibabel get_fdata(float32)": each(lambda case: _nibabel(case, dataset)),
        "MONAI chain": each(_monai(dataset, args.patch)),
        "fastseg decode to brain box": each(lambda case: _decode(case, dataset, buffers)),
    }
    backends = ("torch",) if dali.unavailable(None) else ("torch", "dali")
    for backend in backends:
        runs[f"fastseg {backend}, first epoch"] = lambda b=backend: _fresh(dataset, args, b)
        for cache in ("none", "ram"):
            runs[f"fastseg {backend}, cache {cache}, later epoch"] = _later(
                dataset, args, backend, cache
            )
    return runs


def _in_threads(load: Callable, cases, threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(load, cases):
            pass


def _nibabel(case, dataset) -> None:
    import nibabel

    for name in dataset.modalities:
        nibabel.load(case.images[name]).get_fdata(dtype=np.float32)
    np.asarray(nibabel.load(case.label).dataobj)


def _monai(dataset, patch) -> Callable:
    from monai import transforms as t

    keys = ("image", "label")
    size = patch if len(patch) == 3 else [*patch, -1]
    chain = t.Compose(
        [
            t.LoadImaged(keys),
            t.EnsureChannelFirstd(keys),
            t.CropForegroundd(keys, source_key="image"),
            t.NormalizeIntensityd("image", nonzero=True, channel_wise=True),
            t.ResizeWithPadOrCropd(keys, size),
        ]
    )

    def load(case) -> None:
        files = [str(case.images[name]) for name in dataset.modalities]
        chain({"image": files, "label": str(case.label)})

    return load


def _decode(case, dataset, buffers: Buffers) -> None:
    raw = read_case(case, dataset.modalities, buffers)
    crop_to_brain(raw, case, dataset.scheme, locate(raw, case))


def _config(args, cache: str) -> LoaderConfig:
    return LoaderConfig(
        tuple(args.patch), args.batch_size, args.samples_per_case, cache=cache, threads=args.threads
    )


def _loader(dataset, args, backend: str, cache: str) -> Loader:
    ids = [case.id for case in dataset.cases]
    return Loader(dataset, ids, _config(args, cache), backend=backend)


def _fresh(dataset, args, backend: str) -> None:
    with _loader(dataset, args, backend, "none") as loader:
        for _ in loader.epoch(0):
            pass


def _later(dataset, args, backend: str, cache: str) -> Callable[[], None]:
    # The round that does not count is the first epoch, which fills the cache.
    loader, epochs = _loader(dataset, args, backend, cache), iter(range(10**6))

    def run() -> None:
        for _ in loader.epoch(next(epochs)):
            pass

    return run


def _row(name: str, times: list[float], args) -> dict:
    median = statistics.median(times)
    row = {"name": name, "cases_per_s": args.cases / median, "seconds": times}
    if "epoch" in name:
        row["samples_per_s"] = row["cases_per_s"] * args.samples_per_case
    return row


def _show(rows: list[dict]) -> None:
    print(f"{'':38}{'cases/s':>9}{'x nibabel':>11}{'samples/s':>11}{'spread':>9}")
    for row in rows:
        spread = max(row["seconds"]) / min(row["seconds"]) - 1
        samples = f"{row['samples_per_s']:.1f}" if "samples_per_s" in row else ""
        print(
            f"{row['name']:38}{row['cases_per_s']:9.2f}{row['times_nibabel']:11.2f}"
            f"{samples:>11}{spread:9.0%}"
        )


def _machine() -> dict:
    packages = {}
    for name in ("torch", "numpy", "nibabel", "monai", "nvidia-dali-cuda130", "deflate", "isal"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    return {"processor": _processor(), "python": platform.python_version(), "packages": packages}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


if __name__ == "__main__":
    main()
