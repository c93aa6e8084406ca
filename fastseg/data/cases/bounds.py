"""What discovery refuses to wait for or to follow: folders without end, links out of the data."""

import functools
import logging
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from fastseg.errors import DataError

SEARCH_S = 120.0  # a network disk lists some thousand folders in that
log = logging.getLogger("fastseg")


def in_time(found: Iterable[Path], root: Path) -> Iterator[Path]:
    """Yield paths while SEARCH_S are not over. DataError names `root` then.

    >>> list(in_time([Path("a"), Path("b")], Path("data")))
    [PosixPath('a'), PosixPath('b')]
    """
    end = time.monotonic() + SEARCH_S
    for count, path in enumerate(found):
        if time.monotonic() > end:
            raise DataError(
                f"{root}: looked for cases for {SEARCH_S:.0f} s, in {count} files and folders; "
                "wanted the folder of the data set alone, or a description of it"
            )
        yield path


def leads_out(path: Path, root: Path) -> bool:
    """Tell whether a file of the folder `root` lies elsewhere, behind links."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


@functools.cache
def warn_of_link(path: Path) -> None:
    """Say once that a description is not read."""
    log.warning("%s: is a link out of its folder; only data files are read there", path)


def linked(root: Path, files: Iterable[Path]) -> str | None:
    """Say how many data files lie outside `root`, and where the first one does; None for none.

    >>> linked(Path("data"), [Path("data/a.nii"), Path("data/b.nii")])
    """
    out = [path for path in files if leads_out(path, root)]
    if not out:
        return None
    first = os.path.realpath(out[0])
    return f"{root}: {len(out)} data files are links out of it, {out[0]} to {first} the first"
