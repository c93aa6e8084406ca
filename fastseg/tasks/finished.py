"""Which predictions are there and whole: size and SHA-256 of each, noted in sample.json."""

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fastseg.data import nifti
from fastseg.errors import DataError, NiftiError
from fastseg.host.files import one_at_a_time, write_json
from fastseg.tasks.base import RECORD

FILES = "files"  # the record's key
log = logging.getLogger("fastseg")


class Finished:
    """The predictions in `out` and its folders that earlier calls finished."""

    def __init__(self, out: Path):
        self._out = out
        self._noted: dict[Path, dict[str, Any]] = {}

    def has_all(self, paths: Sequence[Path]) -> bool:
        """Tell whether the files are there as they were written, with a warning for one that is
        not. Of a file without a note, from before there were any, its own checksum tells.
        """
        found = [path for path in paths if path.exists()]
        damaged = [path for path in found if not self._whole(path)]
        for path in damaged:
            log.warning("%s is not as it was written: it is made again", path)
        return not damaged and len(found) == len(paths)

    def note(self, paths: Iterable[Path]) -> None:
        """Note files that have just been written. Other processes may note theirs meanwhile."""
        for path in paths:
            record, name = self._place(path)
            with one_at_a_time(record.parent):
                known = _read(record)
                notes = known.get(FILES, {}) | {name: _facts(path.read_bytes())}
                write_json(record, known | {FILES: notes})

    def _whole(self, path: Path) -> bool:
        record, name = self._place(path)
        if record not in self._noted:
            self._noted[record] = _read(record).get(FILES, {})
        noted = self._noted[record].get(name)
        try:
            if noted is not None:
                same = path.stat().st_size == noted.get("bytes")
                return same and _facts(path.read_bytes()) == noted
            nifti.read(path)
        except (NiftiError, AttributeError):
            return False
        return True

    def _place(self, path: Path) -> tuple[Path, str]:
        """The record that a file belongs to, and its name there."""
        own = path.with_name(RECORD)
        record = own if own.exists() else self._out / RECORD
        return record, path.relative_to(record.parent).as_posix()


def _facts(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _read(record: Path) -> dict[str, Any]:
    try:
        return json.loads(record.read_text()) if record.exists() else {}
    except ValueError as error:
        raise DataError(f"{record}: is not JSON ({error})") from None
