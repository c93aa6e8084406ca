"""Files of a checkpoint, bounded and compared with their checksums before they are parsed."""

import hashlib
import json
import stat
import struct
from pathlib import Path
from typing import Any

from torch import Tensor

from fastseg.errors import CheckpointError

FORMAT = 1
MAX_ENTRIES = 20_000  # a parser of a hostile header slows down long before its 100 MB limit
MAX_HEADER_BYTES = 4 * 2**20
MAX_STATE_BYTES = 16 * 2**20
_ITEMS_AN_ENTRY = 16  # of a header: names, numbers, brackets; each costs far more than its bytes
_MAX_STATE_ITEMS = 200_000
Tensors = dict[str, Tensor]


def canonical(state: dict[str, Any]) -> bytes:
    """Give the text that a state's own checksum is of."""
    return json.dumps(state, sort_keys=True, allow_nan=False).encode()


def _read(path: Path, limit: int | None = None) -> bytes:
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or (limit is not None and found.st_size > limit):
            most = "" if limit is None else f" of at most {limit} bytes"
            raise CheckpointError(
                f"{path}: is no regular file, or has {found.st_size} bytes; wanted a file{most}"
            )
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error


def _items(text: bytes, *where: int) -> int:
    """About how many values a JSON text has, at no more cost than its bytes."""
    return sum(text.count(mark, *where) for mark in (b",", b"[", b"{"))


def read_state(path: Path) -> dict[str, Any]:
    """Read a state.json. CheckpointError names it."""
    text = _read(path, MAX_STATE_BYTES)
    if (items := _items(text)) > _MAX_STATE_ITEMS:
        raise CheckpointError(f"{path}: has {items} items, wanted at most {_MAX_STATE_ITEMS}")
    try:
        state = json.loads(text)
        expected = state["sha256"].pop("state.json")
        actual = hashlib.sha256(canonical(state)).hexdigest()
        version = state["format"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not a checkpoint's state ({error!r})") from error
    if actual != expected:
        raise CheckpointError(f"{path}: SHA-256 differs from the one written")
    if version != FORMAT:
        raise CheckpointError(f"{path}: has format {version}, this version reads {FORMAT}")
    return state


def read_tensors(path: Path, state: dict[str, Any]) -> Tensors:
    """Read a safetensors file that `state` has the checksum of. CheckpointError names it."""
    from safetensors import SafetensorError
    from safetensors.torch import load as parse

    content = _read(path)
    if hashlib.sha256(content).hexdigest() != state["sha256"][path.name]:
        raise CheckpointError(f"{path}: SHA-256 differs from the one in state.json")
    # our own checksum says nothing about a file that somebody else prepared: bound the parser too
    length = struct.unpack("<Q", content[:8])[0] if len(content) >= 8 else 0
    if not 0 < length <= min(MAX_HEADER_BYTES, len(content) - 8):
        raise CheckpointError(
            f"{path}: header of {length} bytes, wanted at most {MAX_HEADER_BYTES}"
        )
    entries, items = content.count(b'"dtype"', 8, 8 + length), _items(content, 8, 8 + length)
    if entries > MAX_ENTRIES or items > _ITEMS_AN_ENTRY * (1 + entries):
        raise CheckpointError(
            f"{path}: header of {entries} tensors with {items} items; wanted at most {MAX_ENTRIES} "
            f"tensors, with {_ITEMS_AN_ENTRY} each"
        )
    try:
        return parse(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: is not a safetensors file ({error})") from error
