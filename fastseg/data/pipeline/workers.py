"""Run calls on daemon threads, a bounded distance ahead of their consumer."""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, wait
from itertools import islice

from fastseg.errors import DataError

log = logging.getLogger(__name__)
WATCHDOG_S = 120.0


class Workers:
    """Run calls that release the GIL on threads.

    They are daemons, unlike those of concurrent.futures: a read that never returns (a lost network
    file system) must not keep the interpreter from exiting.

    >>> pool = Workers(2)
    >>> pool.submit(pow, 2, 5).result()
    32
    >>> list(pool.ahead(str.upper, {"a": "case a", "b": "case b"}, distance=2))
    ['A', 'B']
    >>> pool.close()
    """

    def __init__(self, count: int):
        self._tasks: queue.SimpleQueue = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=_work, args=(self._tasks,), daemon=True, name="fastseg-data")
            for _ in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, call: Callable, *args) -> Future:
        """Queue `call(*args)` and return its future."""
        future: Future = Future()
        self._tasks.put((future, call, args))
        return future

    def ahead(self, call: Callable, names: Mapping, distance: int) -> Iterator:
        """Yield `call(key)` for each key of `names`, in order, at most `distance` results ahead.

        Calls not yet begun are dropped when the iterator is closed.

        Args:
            call: run by the threads; an error of it is raised where its result would have come.
            names: each key with what it is called in messages.
            distance: how many calls are queued, under way or done and not yet taken.

        Raises:
            DataError: naming the key, when a result is not there within `WATCHDOG_S`.
        """
        keys, under_way = iter(names), deque()
        try:
            while True:
                for key in islice(keys, distance - len(under_way)):
                    under_way.append((key, self.submit(call, key)))
                if not under_way:
                    return
                key, future = under_way.popleft()
                yield _result(future, names[key])
        finally:
            for _, future in under_way:
                future.cancel()

    def one_ahead(self, items: Generator) -> Iterator:
        """Yield the items of a generator, each made by a thread while the one before is in use.

        The threads must be one alone. It closes the generator too, after the item under way.
        """
        try:
            # `self` stands for the end: a generator can yield anything else, None too, and
            # StopIteration cannot pass through a future.
            future = self.submit(next, items, self)
            while (item := future.result()) is not self:
                future = self.submit(next, items, self)
                yield item
        finally:
            # On the thread, not here: a generator that runs there cannot be closed from elsewhere.
            future.cancel()
            self.submit(items.close)

    def close(self, timeout_s: float = 2.0) -> None:
        """Let the threads end after their present call and wait for them up to `timeout_s`."""
        for _ in self._threads:
            self._tasks.put(None)  # each thread takes one and ends
        end = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))


def _result(future: Future, name: str):
    patience_s = WATCHDOG_S / 6
    if not wait([future], patience_s).done:
        log.warning("%s: no answer for %.0f s; is its disk slow?", name, patience_s)
        wait([future], WATCHDOG_S - patience_s)
    if not future.done():
        raise DataError(f"{name}: no answer within {WATCHDOG_S:.0f} s; is its disk reachable?")
    return future.result()


def _work(tasks: queue.SimpleQueue) -> None:
    while (task := tasks.get()) is not None:
        future, call, args = task
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(call(*args))
        except BaseException as error:
            future.set_exception(error)
        # An idle thread would otherwise keep the last case's crops alive.
        del task, future, call, args
