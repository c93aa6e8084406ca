"""NIfTI-1 and NIfTI-2 volumes: bounded decoding into reused buffers, and writing through nibabel.

The header is read and checked first, so a file decides neither how much memory is taken nor how far
inflation goes. A volume's bytes are used as they lie: NIfTI stores x fastest, and that is a
C-contiguous (z, y, x) array.
"""

import gzip
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastseg.data.nifti.header import LARGEST, Header, parse, pixdim
from fastseg.data.nifti.inflate import (
    MAGIC,
    MAX_RATIO,
    Damaged,
    inflate_into,
    inflate_library,
    inflate_prefix,
)
from fastseg.errors import NiftiError
from fastseg.host.files import write_bytes

__all__ = ["Buffer", "Header", "Volume", "inflate_library", "read", "read_header", "write"]

MAX_VOXELS = 2**29
# A gzip header may carry 64 KiB of extra fields before the first compressed byte.
_HEAD_BYTES = 1 << 17
# Writers may pad the voxels; more than this past the promised size is a lie or a bomb.
_SLACK = 1 << 20
_ALIGN = 64
_WRITABLE = ("uint8", "int8", "int16", "uint16", "int32", "uint32", "float32", "float64")


@dataclass(frozen=True, eq=False)
class Volume:
    """Stored values (D, H, W) in their stored dtype, a view on the buffer they were read into."""

    data: np.ndarray
    header: Header

    def scaled(self, dtype=np.float32) -> np.ndarray:
        """New (D, H, W) array of `dtype`: data · slope + inter, in the precision nibabel takes."""
        if not self.header.scaled:
            with np.errstate(over="ignore", invalid="ignore"):
                return self.data.astype(dtype)
        from nibabel.volumeutils import apply_read_scaling

        factors = [np.asanyarray(value) for value in (self.header.slope, self.header.inter)]
        factors = [f.astype(dtype) if np.can_cast(f, dtype) else f for f in factors]
        with np.errstate(over="ignore", invalid="ignore"):
            return apply_read_scaling(self.data, *factors).astype(dtype)


class Buffer:
    """Storage reused from file to file: a fresh allocation per volume costs its page faults.

    One per thread and role: reading into a buffer again overwrites the volume read into it before.
    """

    def __init__(self):
        self._packed = self._plain = np.empty(0, np.uint8)

    def packed(self, size: int) -> np.ndarray:
        """`size` bytes for a file as it lies on disk."""
        if self._packed.size < size:
            self._packed = np.empty(size, np.uint8)
        return self._packed[:size]

    def plain(self, size: int, lead: int) -> np.ndarray:
        """`size` bytes for decoded data; the byte at index `lead` lies on a 64-byte boundary."""
        if self._plain.size < size + _ALIGN:
            self._plain = np.empty(size + _ALIGN, np.uint8)
        start = -(self._plain.ctypes.data + lead) % _ALIGN
        return self._plain[start : start + size]


def read_header(path: str | Path, *, max_voxels: int = MAX_VOXELS) -> Header:
    """Read and check the header of a NIfTI file; its voxels are neither read nor verified.

    Raises NiftiError as `read` does.
    """
    with _opened(Path(path)) as (file, size):
        return _read_head(file, Path(path), size, max_voxels)[0]


def read(path: str | Path, *, buffer: Buffer | None = None, max_voxels: int = MAX_VOXELS) -> Volume:
    """Decode a NIfTI-1 or NIfTI-2 file, compressed or not: its first bytes tell, not its name.

    Gzip data is verified by its CRC-32. Bytes after the gzip data, and up to 1 MiB of inflated
    bytes after the voxels, are ignored. Without `buffer` the volume owns its storage.

    Raises NiftiError, naming the file, when it is missing, cut short, damaged, of an unsupported
    kind (header/image pair, 4-D, complex, RGB, float128) or larger than `max_voxels`.
    """
    path, buffer = Path(path), Buffer() if buffer is None else buffer
    with _opened(path) as (file, size):
        header, head = _read_head(file, path, size, max_voxels)
        if head[:2] == MAGIC:
            voxels = _inflate_voxels(file, head, size, header, buffer)
        else:
            voxels = buffer.plain(header.data_bytes, 0)
            file.seek(header.data_offset)
            _read_exactly(file, voxels)
    return Volume(voxels.view(header.dtype).reshape(header.shape), header)


def write(path: str | Path, data_zyx: np.ndarray, like: Header | str | Path, *, dtype=None) -> None:
    """Write (D, H, W) `data_zyx` as `.nii` or `.nii.gz` on the grid of the file `like`.

    Affines, qform and sform codes and voxel sizes are the source's; scaling is the identity.
    `dtype` None means uint8 for integers and booleans, which must fit, and float32 for floats.
    64-bit integers are refused: common viewers cannot read them. The file appears complete or not
    at all.

    Raises ValueError for a wrong shape, dtype, value range or file name, NiftiError when `like`
    cannot be read or `path` cannot be written.
    """
    path, data = Path(path), np.asarray(data_zyx)
    like = like if isinstance(like, Header) else read_header(like)
    if data.shape != like.shape:
        raise ValueError(f"data_zyx has shape {data.shape}, its source {like.path} {like.shape}")
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise ValueError(f"{path}: the name should end with .nii or .nii.gz")
    payload = _encode(_cast(data, dtype), like)
    if path.name.lower().endswith(".gz"):
        payload = gzip.compress(payload, 6, mtime=0)
    _replace(path, payload)


@contextmanager
def _opened(path: Path) -> Iterator:
    """The file and its size; whatever goes wrong inside becomes a NiftiError that names `path`."""
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


def _inflate_voxels(file, head: bytes, size: int, header: Header, buffer: Buffer) -> np.ndarray:
    needed = header.data_offset + header.data_bytes
    # Valid gzip is hardly longer than its content; the rest of a longer file is never needed.
    raw = buffer.packed(min(size, needed + needed // 8 + _SLACK))
    head = head[: raw.size]
    raw[: len(head)] = np.frombuffer(head, np.uint8)
    _read_exactly(file, raw[len(head) :])
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


def _cast(data: np.ndarray, dtype) -> np.ndarray:
    if data.dtype.kind not in "buif":
        raise ValueError(f"data_zyx has dtype {data.dtype}, wanted integers, booleans or floats")
    if dtype is None:
        dtype = np.float32 if data.dtype.kind == "f" else np.uint8
    wanted = np.dtype(dtype)
    if wanted.name not in _WRITABLE:
        raise ValueError(f"dtype {wanted} should be one of {', '.join(_WRITABLE)}")
    if wanted.kind in "ui":
        info, low, high = np.iinfo(wanted), data.min(), data.max()
        whole = data.dtype.kind != "f" or (data == np.rint(data)).all()
        if not (info.min <= low and high <= info.max and whole):
            raise ValueError(f"values {low} to {high} ({data.dtype}) cannot be stored as {wanted}")
    return data.astype(wanted.newbyteorder("="), copy=False)


def _encode(data: np.ndarray, like: Header) -> bytes:
    import nibabel

    # The source's own version holds its geometry exactly: NIfTI-2 has it in double precision.
    second = like.fields["sizeof_hdr"] == 540
    image_class = nibabel.Nifti2Image if second else nibabel.Nifti1Image
    header = image_class.header_class()
    header.set_data_shape(data.shape[::-1])
    header.set_data_dtype(data.dtype)
    header["pixdim"][:4], header["xyzt_units"] = pixdim(like.fields), 2
    header["qform_code"], header["sform_code"] = like.qform_code, like.sform_code
    for prefix, names in (("quatern", "bcd"), ("qoffset", "xyz"), ("srow", "xyz")):
        for name, value in zip(names, like.fields[prefix], strict=True):
            header[f"{prefix}_{name}"] = value
    # Without an affine argument nibabel leaves the header's own fields untouched.
    return image_class(data.T, None, header).to_bytes()


def _replace(path: Path, payload: bytes) -> None:
    try:
        write_bytes(path, payload, sync=True)
    except OSError as error:
        raise NiftiError(path, f"cannot be written: {error.strerror or error}") from error
