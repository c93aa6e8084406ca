"""Which of several processes still live: each counts in the store that they met at."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

BEAT_S = 1.0
_ANSWER_S = 5.0  # of the store, which is in process 0 or in torchrun


class Pulse:
    """A thread that counts in the store while this process is not stopped, killed or gone."""

    def __init__(self, rank: int, world: int):
        from torch import distributed as dist

        self.rank, self.world, self._ended = rank, world, threading.Event()
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # a connection of its own: torch's waits in it, and other calls wait for those
        self._store: Any = dist.TCPStore(
            *place, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=_ANSWER_S)
        )
        self._thread = threading.Thread(target=self._beat, daemon=True, name="fastseg-pulse")
        self._thread.start()

    def silent(self) -> list[int]:
        """List the processes that do not count; process 0 where the store does not answer."""
        try:
            before = self._counts()
            time.sleep(3 * BEAT_S)
            return [rank for rank, (a, b) in enumerate(zip(before, self._counts(), strict=True))
                    if a == b and rank != self.rank]  # fmt: skip
        except RuntimeError:
            return [0]

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join(BEAT_S)

    def _counts(self) -> list[int]:
        return [self._store.add(f"fastseg-pulse-{rank}", 0) for rank in range(self.world)]

    def _beat(self) -> None:
        with suppress(RuntimeError):  # the store is gone, and soon this process
            while not self._ended.wait(BEAT_S / 2):
                self._store.add(f"fastseg-pulse-{self.rank}", 1)


@contextmanager
def pulse(rank: int, world: int) -> Iterator[Pulse | None]:
    """Let the others see that this process lives while entered; None where it is alone."""
    if world == 1:
        yield None
        return
    mine = Pulse(rank, world)
    try:
        yield mine
    finally:
        mine.close()
