"""Read NIfTI-1 and NIfTI-2 volumes within the bounds of their headers.

The header is read and checked first, so a file decides neither how much memory is taken nor how far
inflation goes. A volume's bytes are used as they lie: NIfTI stores x fastest, and that is a
C-contiguous (z, y, x) array.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastseg.data.nifti.header import LARGEST, Header, parse
from fastseg.data.nifti.inflate import (
    MAGIC,
    MAX_RATIO,
    Damaged,
    inflate_into,
    inflate_nowhere,
    inflate_prefix,
)
from fastseg.errors import NiftiError
from fastseg.host.memory import available_bytes

MAX_VOXELS = 2**29
# A gzip header may carry 64 KiB of extra fields before the first compressed byte.
_HEAD_BYTES = 1 << 17
# Writers may pad the voxels; more than this past the promised size is a lie or a bomb.
_SLACK = 1 << 20
_ALIGN = 64
# A file that promises more, of its own size too, is inflated once before memory is taken for it.
_LIE_BYTES, _LIE_RATIO = 18_000_000, 16  # int16 of BraTS is 17.9 MB
# copies follow, in float32 and of other modalities: a volume may take so much of what there is
_MEMORY_SHARE = 0.25
_LITTLE = 1 << 26  # bytes that are there as a rule


@dataclass(frozen=True, eq=False)
class Volume:
    """Hold a volume as it was stored.

    data: (D, H, W) in the stored dtype, a view on the buffer it was read into. header: what the
    file says of it.
    """

    data: np.ndarray
    header: Header

    def scaled(self, dtype=np.float32) -> np.ndarray:
        """Return data · slope + inter, a new (D, H, W) array, in the precision nibabel takes.

        Args:
            dtype: of the result, a float where the header has a scaling.
        """
        if not self.header.scaled:
            with np.errstate(over="ignore", invalid="ignore"):
                return self.data.astype(dtype)
        from nibabel.volumeutils import apply_read_scaling

        factors = [np.asanyarray(value) for value in (self.header.slope, self.header.inter)]
        factors = [f.astype(dtype) if np.can_cast(f, dtype) else f for f in factors]
        with np.errstate(over="ignore", invalid="ignore"):
            return apply_read_scaling(self.data, *factors).astype(dtype)


class Buffer:
    """Keep storage from file to file: a fresh allocation per volume costs its page faults.

    Take one for each thread and role: reading into it again overwrites the volume before.
    """

    def __init__(self):
        self._packed = self._plain = np.empty(0, np.uint8)

    def packed(self, size: int) -> np.ndarray:
        """Return `size` bytes, uint8 (size,), for a file as it lies on disk."""
        if self._packed.size < size:
            self._packed = np.empty(size, np.uint8)
        return self._packed[:size]

    def plain(self, size: int, lead: int) -> np.ndarray:
        """Return `size` bytes, uint8 (size,), for decoded data.

        The byte at index `lead` lies on a 64-byte boundary: numpy and DALI read aligned voxels
        faster, and a view of another dtype needs them aligned.
        """
        if self._plain.size < size + _ALIGN:
            self._plain = np.empty(size + _ALIGN, np.uint8)
        start = -(self._plain.ctypes.data + lead) % _ALIGN
        return self._plain[start : start + size]


def read_header(path: str | Path, *, max_voxels: int = MAX_VOXELS) -> Header:
    """Read and check the header of a NIfTI file; its voxels are neither read nor verified.

    Args:
        path: `.nii` or `.nii.gz`, NIfTI-1 or NIfTI-2.
        max_voxels: the largest volume that is accepted.

    Raises:
        NiftiError: as `read`.

    >>> from fastseg.data import phantom
    >>> folder = phantom.write("phantoms", cases=1, size=(24, 26, 28))
    >>> header = read_header(folder / "Phantom00000" / "Phantom00000_t1.nii.gz")
    >>> header.shape, header.spacing_mm
    ((28, 26, 24), (1.0, 1.0, 1.0))
    """
    with _opened(Path(path)) as (file, size):
        return _read_head(file, Path(path), size, max_voxels)[0]


def read(path: str | Path, *, buffer: Buffer | None = None, max_voxels: int = MAX_VOXELS) -> Volume:
    """Read a NIfTI-1 or NIfTI-2 file, compressed or not: its first bytes tell, not its name.

    Gzip data is verified by its CRC-32. Bytes after the gzip data, and up to 1 MiB of inflated
    bytes after the voxels, are ignored.

    Args:
        path: the file.
        buffer: storage to read into; by default the volume owns its storage.
        max_voxels: the largest volume that is accepted.

    Raises:
        NiftiError: naming the file, when it is missing, cut short, damaged, of an unsupported kind
            (header/image pair, 4-D, complex, RGB, float128), larger than `max_voxels` or than a
            quarter of the memory that is available.

    >>> from fastseg.data import phantom
    >>> folder = phantom.write("phantoms", cases=1, size=(24, 26, 28))
    >>> volume = read(folder / "Phantom00000" / "Phantom00000_t1.nii.gz")
    >>> volume.data.shape, volume.data.dtype.name, volume.scaled().dtype.name
    ((28, 26, 24), 'int16', 'float32')
    """
    path, buffer = Path(path), Buffer() if buffer is None else buffer
    with _opened(path) as (file, size):
        header, head = _read_head(file, path, size, max_voxels)
        _refuse_more_than_fits(header.data_bytes)
        if head[:2] == MAGIC:
            voxels = _inflate_voxels(file, head, size, header, buffer)
        else:
            voxels = buffer.plain(header.data_bytes, 0)
            file.seek(header.data_offset)
            _read_exactly(file, voxels)
    return Volume(voxels.view(header.dtype).reshape(header.shape), header)


@contextmanager
def _opened(path: Path) -> Iterator:
    """Open a file, with its size; what goes wrong inside becomes a NiftiError that names `path`."""
    try:
        if "\0" in str(path):
            raise Damaged("a file name cannot hold a NUL character")
        # A pipe or device would block or never end.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise Damaged("not a regular file")
        with open(path, "rb", buffering=0) as file:
            yield file, os.fstat(file.fileno()).st_size
    except Damaged as error:
        raise NiftiError(path, str(error)) from error
    except OSError as error:
        raise NiftiError(path, error.strerror or str(error)) from error
    except MemoryError as error:
        raise NiftiError(path, "not enough memory for its voxels") from error


def _read_head(file, path: Path, size: int, max_voxels: int) -> tuple[Header, bytes]:
    head = file.read(_HEAD_BYTES)
    if not head:
        raise Damaged("the file is empty")
    packed = head[:2] == MAGIC
    header = parse(inflate_prefix(head, LARGEST) if packed else head[:LARGEST], path, max_voxels)
    total, limit = header.data_offset + header.data_bytes, size * (MAX_RATIO if packed else 1)
    if total > limit:
        kind = "gzip file" if packed else "file"
        raise Damaged(f"cut short: its header promises {total} bytes, a {kind} of {size} bytes "
                      f"holds at most {limit}")  # fmt: skip
    return header, head


def _refuse_more_than_fits(size: int) -> None:
    """A few megabytes of gzip data may be gigabytes, in all honesty."""
    available = available_bytes() if size > _LITTLE else None
    if available is not None and size > _MEMORY_SHARE * available:
        raise Damaged(
            f"{size / 2**30:.2f} GiB of voxels; wanted at most {_MEMORY_SHARE:.0%} of the "
            f"{available / 2**30:.2f} GiB of memory that are available"
        )


def _inflate_voxels(file, head: bytes, size: int, header: Header, buffer: Buffer) -> np.ndarray:
    needed = header.data_offset + header.data_bytes
    # Valid gzip is hardly longer than its content; the rest of a longer file is never needed.
    raw = buffer.packed(min(size, needed + needed // 8 + _SLACK))
    head = head[: raw.size]
    raw[: len(head)] = np.frombuffer(head, np.uint8)
    _read_exactly(file, raw[len(head) :])
    if needed > max(_LIE_BYTES, _LIE_RATIO * size):
        inflate_nowhere(raw, needed + _SLACK, needed)
    out = buffer.plain(needed + _SLACK, header.data_offset)
    inflate_into(raw, out, needed)
    return out[header.data_offset : needed]


def _read_exactly(file, out: np.ndarray) -> None:
    view, done = memoryview(out), 0
    while done < len(view):
        count = file.readinto(view[done:])
        if not count:
            raise Damaged(f"cut short while reading: {len(view) - done} bytes are missing")
        done += count
