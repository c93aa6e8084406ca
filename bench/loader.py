"""The loader's throughput beside nibabel and MONAI, and whether a training step waits for it.

    python bench/loader.py DATA [--batch 2x128x128x128] [--step-ms 100] [--out FILE.json]

All take turns in every round on the same files (read before, so the page cache is warm) with the
same number of threads or processes; the figure is the median round. Cases are repeated under other
names, so that each has its own place in a cache. A batch has as many samples as are cut from a
case. bench/README.md says what the columns mean.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count, cycle, islice
from pathlib import Path

import loader_rivals as rivals
import loader_steps
import records
import reports
import torch

from fastseg.data.cases import discover
from fastseg.data.pipeline import Loader, LoaderConfig, dali
from fastseg.data.pipeline.config import CACHES
from fastseg.data.pipeline.decode import Buffers, crop_to_brain, locate, read_case
from fastseg.host.device import keep_freed_memory

PACKAGES = ("numpy", "nibabel", "monai", "nvidia-dali-cuda130", "deflate", "isal")
STEP_BATCHES = "2x128x128x128,8x64x64x64,16x240x240"


@dataclass(frozen=True)
class Work:
    """What every contestant makes: batches of `batch` samples of `patch` voxels from each case."""

    batch: int
    patch: tuple[int, ...]
    threads: int

    def __str__(self) -> str:
        return "×".join(map(str, (self.batch, *self.patch)))


def main() -> None:
    """Measure, print the tables and write the record."""
    args = _arguments()
    torch.set_num_threads(1)  # threads are those that load
    if args.warm_heap:
        keep_freed_memory()
    options = {k: v for k, v in vars(args).items() if k not in ("data", "out")}
    record = records.begin(options | {"data": Path(args.data).resolve().name}, PACKAGES)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        found = discover(args.data, require_labels=True)
        record["throughput"] = _throughput(_repeated(found, args.cases, scratch), args, scratch)
        if args.step_ms:
            many = _repeated(found, args.steps, scratch)
            record["steps"] = _steps(many, args, scratch)
    record["seconds"] = round(time.perf_counter() - start, 1)
    records.save(record, reports.loader(record), args.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a data set with labels")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cases", type=int, default=8, help="a round, repeated as needed (8)")
    parser.add_argument("--rounds", type=int, default=3, help="after one that does not count (3)")
    parser.add_argument("--batch", default="8x240x240", help="BxHxW or BxDxHxW (8x240x240)")
    parser.add_argument("--warm-heap", action="store_true", help="glibc keeps freed memory")
    parser.add_argument("--step-ms", type=float, help="also: does a step of so long wait?")
    parser.add_argument("--steps", type=int, default=24, help="of an epoch, one a case (24)")
    parser.add_argument("--step-batches", default=STEP_BATCHES, help=f"({STEP_BATCHES})")
    parser.add_argument("--out", help="write a record to this .json file, a table beside it")
    return parser.parse_args()


def _work(text: str, threads: int) -> Work:
    try:
        batch, *patch = map(int, text.split("x"))
    except ValueError:
        raise SystemExit(f"{text!r}: wanted BxHxW or BxDxHxW, as 2x128x128x128") from None
    return Work(batch, tuple(patch), threads)


def _repeated(dataset, number: int, scratch: Path):
    """So many cases: links to the data set's, which caches take for different files."""

    def link(path: Path, place: int) -> Path:
        folder = scratch / "cases" / str(place)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / path.name).exists():
            os.symlink(path.resolve(), folder / path.name)
        return folder / path.name

    def renamed(place: int, case):
        images = {name: link(path, place) for name, path in case.images.items()}
        return replace(case, id=f"{case.id}-{place}", images=images, label=link(case.label, place))

    cases = islice(cycle(dataset.cases), number)
    return replace(dataset, cases=tuple(renamed(place, case) for place, case in enumerate(cases)))


def _backends() -> tuple[str, ...]:
    return ("torch",) if dali.unavailable(None) else ("dali", "torch")


def _throughput(dataset, args, scratch: Path) -> list[dict]:
    contestants = _contestants(dataset, _work(args.batch, args.threads), scratch)
    seconds = {name: [] for name in contestants}
    for turn in range(args.rounds + 1):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    number = len(dataset.cases)
    return [
        {"name": name, "cases_per_s": number / statistics.median(times), "seconds": times}
        for name, times in seconds.items()
    ]


def _contestants(dataset, work: Work, scratch: Path) -> dict[str, Callable[[], None]]:
    def each(load: Callable) -> Callable[[], None]:
        return lambda: rivals.in_threads(load, dataset.cases, work.threads)

    buffers = Buffers()
    runs = {
        "nibabel, whole cases": each(lambda c: rivals.nibabel_load(c, dataset.modalities)),
        "MONAI, whole cases": each(rivals.monai_load(dataset, work.patch)),
    }
    usual = rivals.KINDS[0]
    runs["MONAI PersistentDataset, first epoch"] = lambda: rivals.first_epoch(dataset, work, usual)
    for kind in rivals.KINDS:
        batches = rivals.persistent(dataset, work, str(scratch / "monai"), kind)
        runs[f"MONAI PersistentDataset, {kind}"] = lambda b=batches: rivals.through(b)
    runs["fastseg, decoded cases"] = each(lambda c: _decode(c, dataset, buffers))
    for backend in _backends():
        for cache in ("none", "disk"):
            name = f"fastseg {backend}, cache {cache}, first epoch"
            runs[name] = lambda b=backend, c=cache: _first_epoch(dataset, work, b, c)
        for cache in CACHES:
            loader = _loader(dataset, work, backend, cache, scratch / "fastseg")
            runs[f"fastseg {backend}, cache {cache}"] = _later(loader)
    return runs


def _decode(case, dataset, buffers: Buffers) -> None:
    raw = read_case(case, dataset.modalities, buffers)
    crop_to_brain(raw, case, dataset.scheme, locate(raw, case))


def _loader(dataset, work: Work, backend: str, cache: str, folder) -> Loader:
    config = LoaderConfig(work.patch, work.batch, work.batch, cache=cache, cache_dir=folder,
                          threads=work.threads)  # fmt: skip
    return Loader(dataset, [case.id for case in dataset.cases], config, backend=backend)


def _first_epoch(dataset, work: Work, backend: str, cache: str) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        _loader(dataset, work, backend, cache, folder) as loader,
    ):
        rivals.through(loader.epoch(0))


def _later(loader: Loader) -> Callable[[], None]:
    # the round that does not count is the first epoch, which fills the cache
    epochs = count()
    return lambda: rivals.through(loader.epoch(next(epochs)))


def _steps(dataset, args, scratch: Path) -> list[dict]:
    step = loader_steps.working_step(args.step_ms)
    return [
        {"name": name, "batch": str(work), **loader_steps.waits(batches, step)}
        for work in (_work(text, args.threads) for text in args.step_batches.split(","))
        for name, batches in _warm(dataset, work, scratch)
    ]


def _warm(dataset, work: Work, scratch: Path) -> Iterator[tuple[str, Iterator]]:
    """Names and epochs of loaders whose caches are full."""
    for backend in _backends():
        for cache in ("ram", "disk"):
            with _loader(dataset, work, backend, cache, scratch / "fastseg") as loader:
                rivals.through(loader.epoch(0))
                yield f"fastseg {backend}, cache {cache}", loader.epoch(1)


if __name__ == "__main__":
    main()
