"""Bounded gzip inflation (RFC 1952) into storage the caller owns.

libdeflate does the work where the `deflate` wheel is installed. Its binding returns a new bytes
object per call, so the library inside the wheel is called through ctypes, which writes into a
reused buffer and releases the GIL. Without it the streaming decoder of `isal` or of the standard
library serves.
"""

import ctypes
import functools
import zlib
from collections.abc import Callable

import numpy as np

MAGIC = b"\x1f\x8b"
# DEFLATE's best case: one 258-byte match in two bits (RFC 1951).
MAX_RATIO = 1032
_PIECE = 1 << 16
_INSUFFICIENT_SPACE = 3

Member = Callable[[np.ndarray, np.ndarray], tuple[int, int]]


class Damaged(Exception):
    """Bytes that are not what they should be; the text is the reason, the caller adds the file."""


def inflate_prefix(raw: bytes, size: int) -> bytes:
    """First `size` bytes inside gzip data `raw`, fewer when it ends before. Raises Damaged."""
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
    """Inflate gzip members from `raw` into `out` (both 1-D uint8) until `needed` bytes are there.

    Every member used is inflated to its end, so its CRC-32 and length are always verified; what
    follows the last one used (padding, foreign bytes) is not looked at. `out` may be longer than
    `needed`; a member that does not fit it is an error. Raises Damaged.
    """
    member, read, written = _engine()[1], 0, 0
    # Tiny members would turn a small file into millions of calls; block gzip holds kilobytes.
    for _ in range(1024 + needed // 1024):
        if raw[read : read + 2].tobytes() != MAGIC:
            raise Damaged(f"the gzip data ends after {written} of {needed} bytes")
        used, made = member(raw[read:], out[written:])
        read, written = read + used, written + made
        if written >= needed:
            return
    raise Damaged(f"too many gzip members for {needed} bytes")


def inflate_library() -> str:
    """Name of the library that inflates: "libdeflate", "isal" or "zlib"."""
    return _engine()[0]


@functools.cache
def _engine() -> tuple[str, Member]:
    try:
        return "libdeflate", _libdeflate_member()
    except (ImportError, OSError, AttributeError):
        pass
    try:
        from isal import isal_zlib
    except ImportError:
        return "zlib", _stream_member(zlib)
    return "isal", _stream_member(isal_zlib)


def _libdeflate_member() -> Member:
    from deflate import _deflate

    library, size_t = ctypes.CDLL(_deflate.__file__), ctypes.c_size_t
    allocate, free = library.libdeflate_alloc_decompressor, library.libdeflate_free_decompressor
    decompress = library.libdeflate_gzip_decompress_ex
    allocate.argtypes, allocate.restype = [], ctypes.c_void_p
    free.argtypes, free.restype = [ctypes.c_void_p], None
    buffer, count = [ctypes.c_void_p, size_t], ctypes.POINTER(size_t)
    decompress.argtypes = [ctypes.c_void_p, *buffer, *buffer, count, count]
    decompress.restype = ctypes.c_int

    def member(raw: np.ndarray, out: np.ndarray) -> tuple[int, int]:
        used, made, state = size_t(), size_t(), allocate()
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
