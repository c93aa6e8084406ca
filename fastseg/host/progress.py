"""Progress on stderr: a bar with rate and remaining time on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LINE_EVERY_S = 10.0


@contextmanager
def progress(
    total: int, what: str, done: int = 0, quiet: bool = False
) -> Iterator[Callable[..., None]]:
    """Show the progress of `total` units; `done` of them are finished and not part of the rate.

    Yields `advance(n=1, text="", part=0.0)`: `n` more units are done, and `part` of the next one.
    Off a terminal a line is printed at most every ten seconds.
    """
    if quiet:
        yield lambda n=1, text="", part=0.0: None
    elif sys.stderr.isatty():
        yield from _bar(total, what, done)
    else:
        yield from _lines(total, what, done)


def _bar(total: int, what: str, done: int) -> Iterator[Callable[..., None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    ]
    text_column = TextColumn("{task.fields[text]}")
    with Progress(*columns, Remaining(), text_column, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, completed=done, text="")

        def advance(n: int = 1, text: str = "", part: float = 0.0) -> None:
            nonlocal done
            done += n
            bar.update(task, completed=done + part, **({"text": text} if text else {}))

        yield advance


def _lines(total: int, what: str, done: int) -> Iterator[Callable[..., None]]:
    begun = shown = time.monotonic()
    first, latest = done, ""

    def advance(n: int = 1, text: str = "", part: float = 0.0) -> None:
        nonlocal done, shown, latest
        done, latest, now = done + n, text or latest, time.monotonic()
        if now - shown >= _LINE_EVERY_S or (n and done == total):
            shown = now
            left = _left(now - begun, done + part - first, total - done - part)
            print(f"{what} {done}/{total}{left}  {latest}".rstrip(), file=sys.stderr, flush=True)

    yield advance


def _left(spent_s: float, done: float, rest: float) -> str:
    if not done:
        return ""
    left_s = round(rest * spent_s / done)
    return f", {left_s // 60} min {left_s % 60} s left"
