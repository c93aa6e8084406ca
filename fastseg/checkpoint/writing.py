"""Files of a checkpoint, written as tensors lie in memory, and hashed meanwhile.

The safetensors package would copy all tensors twice first; whoever asks a run to end waits for it.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastseg.checkpoint.reading import FORMAT, MAX_ENTRIES, Tensors, canonical

GROUPS = ("model", "ema", "optimizer")
_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL", torch.complex64: "C64",
}  # fmt: skip
_PIECE = 1 << 24  # bytes; the disk and the hash work on different ones


def write_folder(folder: Path, groups: dict[str, Tensors], state: dict[str, Any]) -> None:
    """Write all files of a checkpoint, which are on the disk when this returns."""
    sums = {}
    for name, tensors in groups.items():
        if name not in GROUPS or len(tensors) > MAX_ENTRIES:
            raise ValueError(
                f"{name}: {len(tensors)} tensors; wanted one of {GROUPS}, ≤ {MAX_ENTRIES}"
            )
        file = f"{name}.safetensors"
        sums[file] = _write(folder / file, _pieces(tensors))
    state = {**state, "format": FORMAT, "sha256": sums}
    state["sha256"]["state.json"] = hashlib.sha256(canonical(state)).hexdigest()
    text = json.dumps(state, indent=1, sort_keys=True, allow_nan=False)
    _write(folder / "state.json", [text.encode()])
    sync(folder)


def sync(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _pieces(tensors: Tensors) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file (huggingface.co/docs/safetensors): header, then numbers."""
    # those of large numbers first, as its own writer has them: all are aligned then
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    head, end = {}, 0
    for name, t in ordered:
        begin, end = end, end + t.numel() * t.element_size()
        entry = {"dtype": _NAMES[t.dtype], "shape": list(t.shape), "data_offsets": [begin, end]}
        head[name] = entry
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, t in ordered:
        yield from _bytes_of(t)


def _bytes_of(t: Tensor) -> Iterator[memoryview]:
    plain = t.detach().cpu().contiguous().reshape(-1)
    numbers = memoryview(plain.view(torch.uint8).numpy())
    for start in range(0, len(numbers), _PIECE):
        yield numbers[start : start + _PIECE]


def _write(path: Path, pieces: Iterable[bytes | memoryview]) -> str:
    """Write a file, to the disk; returns its SHA-256."""
    digest = hashlib.sha256()
    with ThreadPoolExecutor(1) as other, path.open("wb") as file:
        for piece in pieces:
            other.submit(digest.update, piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()
