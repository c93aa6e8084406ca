"""Mutated NIfTI files, read by fastseg and by nibabel: typed errors, or the same volume."""

import gzip
import logging
import resource
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from test_nifti import assert_equals_nibabel, random_file

from fastseg.data import nifti
from fastseg.errors import NiftiError

FILES = 100  # of a round
_SECONDS = 5  # of processor time, for one file of at most a few kilobytes
# what numbers of headers are made to be, as they lie in the file
_WORDS = [b"\0" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\xff" * 7 + b"\x7f", b"\0" * 7 + b"\x80",
          np.float32(np.nan).tobytes() * 2, np.float32(-np.inf).tobytes() * 2, b"\1" + b"\0" * 7,
          np.float64(1e300).tobytes(), b"\x00\x02\x00\x04\x00\x08\x00\x01"]  # fmt: skip


class Part:
    """Valid files of every kind, with a few faults each."""

    def __init__(self, scratch: Path):
        self.buffer = nifti.Buffer()
        logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)

    def round(self, rng: np.random.Generator, folder: Path) -> Counter:
        did = Counter(files=FILES)
        for index in range(FILES):
            packed = rng.random() < 0.6
            path = random_file(folder / f"{index}.nii{'.gz' * packed}", rng)
            mutate(path, packed, rng)
            did["read" if self._read(path) else "refused"] += 1
            path.unlink()
        return did

    def _read(self, path: Path) -> bool:
        begun = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        try:
            volume = nifti.read(path, buffer=self.buffer)
        except NiftiError as error:
            assert str(path) in str(error)  # noqa: PT017
            return False
        finally:
            taken = resource.getrusage(resource.RUSAGE_SELF).ru_utime - begun
            assert taken < _SECONDS, f"{path}: {taken:.1f} s"
        # nibabel trusts names, refuses what follows gzip data, and reads extensions: we need none
        content = bytearray(_inflated(path.read_bytes()))
        head = volume.header.fields.dtype.itemsize
        content[head : head + 4] = bytes(4)
        plain = path.with_name("plain.nii")
        plain.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert_equals_nibabel(plain, volume)
        return True


def _inflated(content: bytes) -> bytes:
    """What the members of gzip data hold; other data as it is."""
    if content[:2] != b"\x1f\x8b":
        return content
    found = b""
    while content[:2] == b"\x1f\x8b":
        member = zlib.decompressobj(wbits=31)
        try:
            found += member.decompress(content)
        except zlib.error:  # no member, but something behind them
            break
        content = member.unused_data
    return found


def mutate(path: Path, packed: bool, rng: np.random.Generator) -> None:
    """Damage a file before it is packed, afterwards, or both."""
    content = path.read_bytes()
    inside = bytearray(gzip.decompress(content) if packed else content)
    if rng.random() < 0.8:
        for _ in range(rng.integers(1, 4)):
            _damage(inside, rng, 552)
    content = bytearray(_pack(bytes(inside), rng) if packed else inside)
    if packed and rng.random() < 0.4:
        _damage(content, rng, len(content))
    path.write_bytes(content)


def _pack(content: bytes, rng: np.random.Generator) -> bytes:
    """gzip, also of several members, and with something behind it."""
    cut = int(rng.integers(0, len(content) + 1)) if rng.random() < 0.3 else 0
    members = [content[:cut], content[cut:]] if cut else [content]
    packed = b"".join(gzip.compress(part, int(rng.integers(0, 10))) for part in members)
    return packed + (rng.bytes(int(rng.integers(1, 40))) if rng.random() < 0.2 else b"")


def _damage(content: bytearray, rng: np.random.Generator, end: int) -> None:
    """One fault in the first `end` bytes, or a change of length."""
    at = int(rng.integers(0, min(end, len(content)))) if content else 0
    kind = rng.integers(0, 7)
    if kind == 0 and content:
        content[at] ^= 1 << int(rng.integers(0, 8))
    elif kind == 1:
        content[at : at + 1] = rng.bytes(1)
    elif kind == 2:
        at -= at % 2
        word = _WORDS[rng.integers(len(_WORDS))][: int(rng.choice([2, 4, 8]))]
        content[at : at + len(word)] = word
    elif kind == 3:
        del content[int(rng.integers(0, len(content) + 1)) :]
    elif kind == 4:
        del content[at : at + int(rng.integers(1, 20))]
    elif kind == 5:
        content[at:at] = rng.bytes(int(rng.integers(1, 20)))
    else:
        content += rng.bytes(int(rng.integers(1, 2000)))
