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

from fastseg.errors import DataError, FastsegError, UsageError

log = logging.getLogger("fastseg")


class Held:
    """A folder that this process holds: nobody else may, for as long as it is open."""

    def __init__(self, out: Path, folder: int):
        self._out, self._folder = out, folder

    def check(self) -> None:
        """Raise FastsegError where it has been removed, or is no longer what is at its path."""
        try:
            same = os.path.samestat(os.stat(self._out), os.fstat(self._folder))
        except OSError:
            same = False
        if not same:
            raise FastsegError(
                f"{self._out}: was removed or replaced while the run was writing there; what was "
                "not saved before is lost"
            )


@contextmanager
def locked(out: Path) -> Iterator[Held]:
    """Hold `out` for this process; the kernel lets go when the process ends, however it ends.

    UsageError when another run holds it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"{out}: is a file, wanted a folder for the run") from None
    # the folder, since a file in it can be removed; the file for network disks, where only files
    # can be locked, and to say who
    with _opened_folder(out) as folder, (out / ".lock").open("a+") as file:
        if not (_locks(folder) and _locks(file.fileno())):
            file.seek(0)
            owner = file.read().strip()
            raise UsageError(f"{out}: another run is writing there (process {owner})")
        # of a process that was killed: nobody else writes here now
        for leftover in (*out.glob(".*.tmp"), *out.glob("*/.*.tmp")):
            leftover.unlink(missing_ok=True)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield Held(out, folder)


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait until no other process is inside for this folder."""
    with _opened_folder(folder) as opened:
        _locks(opened, wait=True)
        yield


@contextmanager
def _opened_folder(path: Path) -> Iterator[int]:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield folder
    finally:
        os.close(folder)


def _locks(opened: int, wait: bool = False) -> bool:
    """Lock a file or a folder, or tell that another process has; True where locks are unknown."""
    import fcntl

    try:
        fcntl.flock(opened, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        log.debug("no lock: %s", error)
    return True


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Yield where to write: a file beside `path` that takes its place if the block ends well.

    So `path` holds the old or the new content, never half of it, whenever the process is killed.
    OSError names `path`, also that of a full disk, which as it comes names nothing.
    """
    path = Path(path)
    # processes and threads that write the same file must not share it
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        if error.filename in (None, part, str(part)):
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
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
    """Append one line to a metrics.jsonl: whole, or nothing of it, then OSError names the file."""
    line = (json.dumps(row) + "\n").encode()
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            while line:
                line = line[file.write(line) :]
        except OSError as error:
            with suppress(OSError):
                file.truncate(before)
            raise OSError(error.errno, error.strerror, str(path)) from error


def cut(path: Path, size: int) -> None:
    """Leave at most `size` bytes of a metrics.jsonl, which is made where it is not."""
    with path.open("ab") as file:
        try:
            file.truncate(min(size, path.stat().st_size))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
