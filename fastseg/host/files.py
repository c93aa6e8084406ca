"""Files that are written whole or not at all, and folders that one process holds."""

import csv
import io
import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fastseg.errors import DataError, UsageError

log = logging.getLogger("fastseg")


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold `out` for this process; the kernel lets go when the process ends, however it ends.

    UsageError when another run holds it.
    """
    import fcntl

    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"{out}: is a file, wanted a folder for the run") from None
    with (out / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip()
            raise UsageError(f"{out}: another run is writing there (process {owner})") from None
        # of a process that was killed: nobody else writes here now
        for leftover in (*out.glob(".*.tmp"), *out.glob("*/.*.tmp")):
            leftover.unlink(missing_ok=True)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Yield where to write: a file beside `path` that takes its place if the block ends well.

    So `path` holds the old or the new content, never half of it, whenever the process is killed.
    """
    path = Path(path)
    # processes and threads that write the same file must not share it
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        yield part
        os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink()


@contextmanager
def harmless(path: Path) -> Iterator[None]:
    """Warn and go on where a picture cannot be drawn, whatever the reason: it must end no run."""
    try:
        yield
    except Exception as error:  # whatever a name, a disk or a library may do
        log.warning("%s could not be drawn: %s", path, error or type(error).__name__)


def inside(folder: Path, *names: str) -> Path:
    """Join names that came from outside to a folder; empty ones are left out.

    Each is one component of a path: DataError for those that would lead elsewhere.

    >>> inside(Path("out"), "", "case_pred.nii.gz").name
    'case_pred.nii.gz'
    """
    for name in names:
        if name in (".", "..") or set("/\\\0") & set(name):
            raise DataError(f"{name!r}: is no name of a file in {folder}; nothing is written")
    return folder.joinpath(*filter(None, names))


def write_bytes(path: Path, content: bytes, sync: bool = False) -> None:
    """Write `content`, whole or not at all; with `sync` it survives the machine's end too."""
    with written_whole(path) as part, part.open("wb") as file:
        file.write(content)
        if sync:
            file.flush()
            os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows under the keys of the first one, whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    write_text(path, text.getvalue())


def _cell(value: Any) -> Any:
    """A spreadsheet takes texts that begin so for formulas; an apostrophe makes them texts."""
    return f"'{value}" if isinstance(value, str) and value[:1] in tuple("=+-@") else value


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Append one line to a metrics.jsonl, in a single write."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
