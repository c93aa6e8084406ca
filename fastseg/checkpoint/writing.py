"""Files of a checkpoint, written as tensors lie in memory; processors and the disk all work at it,
for whoever asks a run to end waits for that. The safetensors package would copy all tensors twice.
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
_PIECE, _SYNCED = 1 << 24, 1 << 27  # bytes


def write_folder(folder: Path, groups: dict[str, Tensors], state: dict[str, Any]) -> None:
    """Write all files of a checkpoint, which are on the disk when this returns."""
    for name, tensors in groups.items():
        if name not in GROUPS or len(tensors) > MAX_ENTRIES:
            raise ValueError(
                f"{name}: {len(tensors)} tensors; wanted one of {GROUPS}, ≤ {MAX_ENTRIES}"
            )
    files = {f"{name}.safetensors": _pieces(tensors) for name, tensors in groups.items()}
    with ThreadPoolExecutor(len(GROUPS)) as pool:
        found = pool.map(_write, [folder / file for file in files], files.values())
        sums = dict(zip(files, found, strict=True))
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

    def follow(piece: bytes | memoryview, sync: bool) -> None:
        digest.update(piece)
        if sync:
            os.fdatasync(file.fileno())  # so that the disk works from the start

    with ThreadPoolExecutor(1) as behind, path.open("wb", buffering=0) as file:
        followed, since = [], 0
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                rest = rest[file.write(rest) :]
            since = since % _SYNCED + len(piece)
            followed.append(behind.submit(follow, piece, since >= _SYNCED))
        for one in followed:
            one.result()  # an error of the disk is told but once
        os.fsync(file.fileno())
    return digest.hexdigest()
