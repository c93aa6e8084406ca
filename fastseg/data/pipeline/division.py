"""Divide a batch among processes and, in each, into parts that memory holds at a time."""

import math

from fastseg.errors import UsageError


def divide(batch_size: int, world: int = 1, micro_batch: int | None = None) -> list[list[int]]:
    """Return the sizes of each process's parts, as they lie in the batch one after another.

    Shares of processes differ by a sample at most, and so do the parts of a process.

    Args:
        batch_size: samples of all processes together.
        world: how many processes there are.
        micro_batch: the largest part, None for no limit.

    Raises:
        UsageError: fewer samples than processes.

    >>> divide(5, world=2, micro_batch=2)
    [[2, 1], [2]]
    """
    if world > batch_size:
        raise UsageError(
            f"data.batch_size is {batch_size}, for {world} processes together; wanted at least a "
            "sample for each"
        )
    return [_even(n, math.ceil(n / (micro_batch or n))) for n in _even(batch_size, world)]


def _even(samples: int, parts: int) -> list[int]:
    return [samples // parts + (index < samples % parts) for index in range(parts)]
