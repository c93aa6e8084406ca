"""How long a training step waits for its batch, when each step works for a given time on one core.

The step is a fixed number of matrix products, so that it takes longer where the loader takes its
core away; its own length is in the record too.
"""

import statistics
import time
from collections.abc import Callable, Iterable

import numpy as np
import torch

LATE_MS = 5.0
_SIDE = 512


def working_step(milliseconds: float) -> Callable[[], None]:
    """Make a call that computes for `milliseconds` on one idle core."""
    torch.set_num_threads(1)
    a, out = torch.rand(_SIDE, _SIDE), torch.empty(_SIDE, _SIDE)

    def work(products: int) -> None:
        for _ in range(products):
            torch.mm(a, a, out=out)

    work(20)
    one_ms = min(_timed_ms(lambda: work(4)) for _ in range(25)) / 4
    count = max(1, round(milliseconds / one_ms))
    return lambda: work(count)


def _timed_ms(call: Callable) -> float:
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def waits(batches: Iterable, step: Callable[[], None]) -> dict:
    """Measure what each step of an epoch waited, and how long it took, in ms."""
    waited, worked, taken = [], [], iter(batches)
    start = time.perf_counter()
    for _ in taken:
        waited.append(1e3 * (time.perf_counter() - start))
        worked.append(_timed_ms(step))
        start = time.perf_counter()
    return {"waited_ms": waited, "worked_ms": worked}


def summary(found: dict) -> dict:
    """Return the figures of the table; the first batch of the epoch is apart from the others."""
    first, *later = found["waited_ms"]
    return {
        "median_ms": statistics.median(later),
        "p95_ms": float(np.percentile(later, 95)),
        "max_ms": max(later),
        "late": sum(wait > LATE_MS for wait in later) / len(later),
        "first_ms": first,
        "step_ms": statistics.median(found["worked_ms"]),
    }
