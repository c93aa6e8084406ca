"""Inflate gzip data (RFC 1952) into storage the caller owns, never past its end.

libdeflate does the work where the `deflate` wheel is installed. Its binding returns a new bytes
object per call, so the library inside the wheel is called through ctypes, which writes into a
reused buffer and releases the GIL. Without it the streaming decoder of `isal` or of the standard
library serves.
"""

import ctypes
import functools
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

LIBRARIES = ("libdeflate", "isal", "zlib")  # fastest first
MAGIC = b"\x1f\x8b"
# DEFLATE's best case: one 258-byte match in two bits (RFC 1951).
MAX_RATIO = 1032
_PIECE = 1 << 16
_INSUFFICIENT_SPACE = 3

Member = Callable[[np.ndarray, np.ndarray], tuple[int, int]]


class Damaged(Exception):
    """Say why bytes are not what they should be; whoever knows the file adds its name."""


def inflate_prefix(raw: bytes, size: int) -> bytes:
    """Inflate the first bytes of gzip data, such as a header.

    Args:
        raw: gzip data, which may be cut off anywhere.
        size: how many inflated bytes are wanted.

    Returns:
        `size` bytes, fewer where the data ends before.

    Raises:
        Damaged: not even the first bytes can be inflated.

    >>> import gzip
    >>> inflate_prefix(gzip.compress(b"a header and voxels"), 8)
    b'a header'
    """
    head = b""
    while len(head) < size and raw[:2] == MAGIC:
        decoder = zlib.decompressobj(wbits=31)
        try:
            head += decoder.decompress(raw, size - len(head))
        except zlib.error as error:
            if head:
                break
            raise Damaged(f"damaged gzip data ({error})") from error
        raw = decoder.unused_data
    return head


def inflate_into(raw: np.ndarray, out: np.ndarray, needed: int) -> None:
    """Inflate gzip members until `needed` bytes are there.

    Every member used is inflated to its end, so its CRC-32 and length are always verified; what
    follows the last one used (padding, foreign bytes) is not looked at.

    Args:
        raw: gzip data, uint8 (N,).
        out: where the bytes go, uint8 (M,), M at least `needed`.
        needed: how many inflated bytes are wanted.

    Raises:
        Damaged: the data is corrupt, ends early, or holds a member that does not fit `out`.

    >>> import gzip
    >>> raw = np.frombuffer(gzip.compress(bytes([7, 8, 9])), np.uint8)
    >>> out = np.zeros(4, np.uint8)
    >>> inflate_into(raw, out, needed=3)
    >>> out
    array([7, 8, 9, 0], dtype=uint8)
    """
    _inflate_members(_member(inflate_library()), raw, out, needed)


def inflate_nowhere(raw: np.ndarray, size: int, needed: int) -> None:
    """Inflate as `inflate_into` does into `size` bytes, but take no memory for them.

    Raises:
        Damaged: as `inflate_into`.

    >>> import gzip
    >>> raw = np.frombuffer(gzip.compress(bytes(100)), np.uint8)
    >>> inflate_nowhere(raw, size=200, needed=101)
    Traceback (most recent call last):
    fastseg.data.nifti.inflate.Damaged: the gzip data ends after 100 of 101 bytes
    """
    library = inflate_library()
    streaming = next(n for n in (library, *LIBRARIES[1:]) if n != LIBRARIES[0] and _is_there(n))
    one_byte = np.lib.stride_tricks.as_strided(np.empty(1, np.uint8), (size,), (0,))
    _inflate_members(_member(streaming), raw, one_byte, needed)


def _inflate_members(member: Member, raw: np.ndarray, out: np.ndarray, needed: int) -> None:
    read, written = 0, 0
    # Tiny members would turn a small file into millions of calls; block gzip holds kilobytes.
    for _ in range(1024 + needed // 1024):
        if raw[read : read + 2].tobytes() != MAGIC:
            raise Damaged(f"the gzip data ends after {written} of {needed} bytes")
        used, made = member(raw[read:], out[written:])
        read, written = read + used, written + made
        if written >= needed:
            return
    raise Damaged(f"too many gzip members for {needed} bytes")


_chosen: str | None = None  # by `inflate_with`


def inflate_library() -> str:
    """Name the library that inflates: the fastest of `LIBRARIES` that is installed.

    >>> inflate_library() in LIBRARIES
    True
    """
    return _chosen or _fastest()


@contextmanager
def inflate_with(library: str) -> Iterator[None]:
    """Inflate with one of `LIBRARIES` inside the block, in every thread.

    Raises:
        ImportError: it is not installed.

    >>> with inflate_with("zlib"):
    ...     inflate_library()
    'zlib'
    """
    global _chosen
    before = _chosen
    _member(library)
    _chosen = library
    try:
        yield
    finally:
        _chosen = before


@functools.cache
def _fastest() -> str:
    return next(filter(_is_there, LIBRARIES))


@functools.cache
def _is_there(library: str) -> bool:
    try:
        _member(library)
    except ImportError:
        return False
    return True


@functools.cache
def _member(library: str) -> Member:
    """Make the function that inflates one gzip member: (raw, out) to (bytes read, written)."""
    if library == "libdeflate":
        return _libdeflate_member()
    if library == "isal":
        from isal import isal_zlib

        return _stream_member(isal_zlib)
    return _stream_member(zlib)


def _libdeflate() -> tuple[Callable, Callable, Callable]:
    from deflate import _deflate

    try:
        library, size_t = ctypes.CDLL(_deflate.__file__), ctypes.c_size_t
        allocate, free = library.libdeflate_alloc_decompressor, library.libdeflate_free_decompressor
        decompress = library.libdeflate_gzip_decompress_ex
    except (OSError, AttributeError) as error:  # a wheel that hides or lacks the C functions
        raise ImportError(f"the deflate wheel cannot be used: {error}") from error
    allocate.argtypes, allocate.restype = [], ctypes.c_void_p
    free.argtypes, free.restype = [ctypes.c_void_p], None
    buffer, count = [ctypes.c_void_p, size_t], ctypes.POINTER(size_t)
    decompress.argtypes = [ctypes.c_void_p, *buffer, *buffer, count, count]
    decompress.restype = ctypes.c_int
    return allocate, free, decompress


def _libdeflate_member() -> Member:
    allocate, free, decompress = _libdeflate()

    def member(raw: np.ndarray, out: np.ndarray) -> tuple[int, int]:
        # A state of its own for every call: one cannot be shared by threads, and making it costs
        # microseconds beside the milliseconds of a volume.
        used, made, state = ctypes.c_size_t(), ctypes.c_size_t(), allocate()
        if not state:
            raise MemoryError("no memory for a decompressor")
        try:
            status = decompress(
                state, raw.ctypes.data, raw.size, out.ctypes.data, out.size, used, made
            )
        finally:
            free(state)
        if status == _INSUFFICIENT_SPACE:
            raise _too_long()
        if status:
            raise Damaged("damaged gzip data (cut short, or its checksum does not match)")
        return used.value, made.value

    return member


def _stream_member(library) -> Member:
    def member(raw: np.ndarray, out: np.ndarray) -> tuple[int, int]:
        # Both ends are bounded: pieces in, so that no copy of the rest is made after each call,
        # and `_PIECE` bytes out, so that a bomb cannot inflate past what `out` holds.
        decoder, made = library.decompressobj(wbits=31), 0
        for start in range(0, raw.size + _PIECE, _PIECE):
            piece = raw[start : start + _PIECE]
            while not decoder.eof:
                chunk = decoder.decompress(piece, _PIECE)
                if made + len(chunk) > out.size:
                    raise _too_long()
                out[made : made + len(chunk)] = np.frombuffer(chunk, np.uint8)
                made += len(chunk)
                piece = decoder.unconsumed_tail
                if not chunk and not piece:
                    break
            if decoder.eof:
                return min(start + _PIECE, raw.size) - len(decoder.unused_data), made
        raise Damaged("damaged gzip data (cut short)")

    def typed(raw: np.ndarray, out: np.ndarray) -> tuple[int, int]:
        try:
            return member(raw, out)
        except library.error as error:
            raise Damaged(f"damaged gzip data ({error})") from error

    return typed


def _too_long() -> Damaged:
    return Damaged("the gzip data goes on past the size its header promises")
