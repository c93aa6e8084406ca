"""Scores of many files, by the threads of one or several processes."""

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from fastseg.errors import DataError
from fastseg.host.processes import Company
from fastseg.host.progress import progress

T = TypeVar("T")
_ROUND = 4  # items a thread before the processes hear of one another's errors


def score_all(
    work: Mapping[str, T],
    score: Callable[[T], dict],
    company: Company,
    threads: int | None = None,
    quiet: bool = False,
) -> list[dict]:
    """Score each item of `work`, by name, in one of the processes, and give all rows to every one.

    threads: of this process, by default at most 8 and its share of the machine's cores. DataError
    where the processes see different work; what `score` raises in any of them, in all.
    """
    rank, world = company.place.rank, company.place.world
    threads = threads or min(8, max(1, (os.cpu_count() or 1) // company.place.per_node))
    plans = company.agree(lambda: (list(work), threads))
    if any(names != list(work) for names, _ in plans):
        raise DataError("the processes see different files; start again when all are written")
    # machines may have other numbers of cores; a round is the same for all
    size = min(count for _, count in plans) * world * _ROUND if world > 1 else len(work)
    items, rows, workers = list(work.values()), [], ThreadPoolExecutor(threads)
    try:
        with progress(len(items), "evaluate", quiet=quiet or rank > 0) as advance:
            for start in range(0, len(items), size):
                part = items[start : start + size]
                mine = workers.map(score, part[rank::world])
                shares = company.agree(functools.partial(_told, mine, advance))
                rows += [shares[i % world][i // world] for i in range(len(part))]
                advance(len(part) - len(shares[rank]))
    finally:
        workers.shutdown(cancel_futures=True)
    return rows


def _told(rows: Iterable[dict], advance: Callable[..., None]) -> list[dict]:
    found = []
    for row in rows:
        found.append(row)
        advance()
    return found
