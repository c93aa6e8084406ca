"""How a batch is divided among processes and, in each, into parts that memory holds at a time."""

import math

from fastseg.errors import UsageError


def divide(batch_size: int, world: int = 1, micro_batch: int | None = None) -> list[list[int]]:
    """Sizes of the parts of each of `world` processes, as they lie in the batch one after another.

    Shares of processes differ by a sample at most, and so do the parts of a process, none of which
    is larger than `micro_batch`, null for no limit. UsageError for fewer samples than processes.
    """
    if world > batch_size:
        raise UsageError(
            f"data.batch_size is {batch_size}, for {world} processes together; wanted at least a "
            "sample for each"
        )
    return [_even(n, math.ceil(n / (micro_batch or n))) for n in _even(batch_size, world)]


def _even(samples: int, parts: int) -> list[int]:
    return [samples // parts + (index < samples % parts) for index in range(parts)]
