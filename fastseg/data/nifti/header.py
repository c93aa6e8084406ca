"""Read and check NIfTI-1 and NIfTI-2 headers, before anything else of a file is believed.

Field meanings follow nifti1.h and nifti2.h (nifti.nimh.nih.gov). Where those leave room (scaling,
precedence of the affines, repair of pixdim, unknown codes) the behaviour is nibabel's.
"""

import functools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fastseg.data.nifti.inflate import Damaged

LARGEST = 540
_MAX_OFFSET = 1 << 24

_NIFTI1 = {
    "sizeof_hdr": ("i4", 0), "dim": ("8i2", 40), "datatype": ("i2", 70), "pixdim": ("8f4", 76),
    "vox_offset": ("f4", 108), "scl_slope": ("f4", 112), "scl_inter": ("f4", 116),
    "qform_code": ("i2", 252), "sform_code": ("i2", 254), "quatern": ("3f4", 256),
    "qoffset": ("3f4", 268), "srow": ("(3,4)f4", 280), "magic": ("V4", 344),
}  # fmt: skip
_NIFTI2 = {
    "sizeof_hdr": ("i4", 0), "magic": ("V8", 4), "datatype": ("i2", 12), "dim": ("8i8", 16),
    "pixdim": ("8f8", 104), "vox_offset": ("i8", 168), "scl_slope": ("f8", 176),
    "scl_inter": ("f8", 184), "qform_code": ("i4", 344), "sform_code": ("i4", 348),
    "quatern": ("3f8", 352), "qoffset": ("3f8", 376), "srow": ("(3,4)f8", 400),
}  # fmt: skip
_TABLES = {348: _NIFTI1, 540: _NIFTI2}
_MAGICS = {348: (b"n+1\0",), 540: (b"n+2\0\r\n\x1a\n", b"n+2\0\0\0\0\0")}
_DATATYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8",
    1280: "u8",
}  # fmt: skip
_UNSUPPORTED = {
    1: "binary", 32: "complex64", 128: "RGB", 1536: "float128", 1792: "complex128",
    2048: "complex256", 2304: "RGBA",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Header:
    """Hold what a NIfTI header says, checked.

    path: the file. shape: (D, H, W) = (z, y, x), in voxels. dtype: of the stored values, byte order
    included. affine: (4, 4) float64, from (x, y, z) voxel indices to mm as nibabel has it: sform if
    its code is set, else qform, else pixdim about the centre. spacing_mm: (D, H, W). slope, inter:
    values are stored · slope + inter; 1 and 0 without scaling. data_offset, data_bytes: where the
    (decompressed) voxels lie. qform_code, sform_code: 0 to 5. fields: the record as stored.
    """

    path: Path
    shape: tuple[int, int, int]
    dtype: np.dtype
    affine: np.ndarray
    spacing_mm: tuple[float, float, float]
    slope: float
    inter: float
    data_offset: int
    data_bytes: int
    qform_code: int
    sform_code: int
    fields: np.void = field(repr=False)

    @property
    def scaled(self) -> bool:
        """Return whether values differ from stored ones."""
        return (self.slope, self.inter) != (1.0, 0.0)

    def forms_agree(self, tolerance: float = 1e-3) -> bool:
        """Return False where qform and sform are both there and differ by more than `tolerance`."""
        if not (self.qform_code and self.sform_code):
            return True
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                qform = _qform(self.fields, pixdim(self.fields))
                return bool(np.abs(qform - self.affine).max() <= tolerance)
        except Damaged:
            return False


def parse(head: bytes, path: Path, max_voxels: int) -> Header:
    """Read a header from the first bytes of a file.

    Args:
        head: the first `LARGEST` (decompressed) bytes, fewer of a shorter file.
        path: the file, for the header and for messages about it.
        max_voxels: the largest volume that is accepted.

    Raises:
        Damaged: the bytes are no header, or one that says what cannot be or is not supported.

    >>> import nibabel
    >>> image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4))
    >>> header = parse(image.to_bytes()[:LARGEST], Path("a.nii"), max_voxels=1000)
    >>> header.shape, header.dtype.name, header.data_bytes
    ((6, 5, 4), 'int16', 240)
    """
    fields = _record(head)
    ndim, shape = _shape(fields, max_voxels)
    dtype = _dtype(fields)
    slope, inter = _scaling(fields)
    sizes_mm = pixdim(fields)
    # Values that are not finite are found by their checks, numpy need not warn of them first.
    with np.errstate(over="ignore", invalid="ignore"):
        affine, qform_code, sform_code = _affine(fields, ndim, sizes_mm)
    return Header(
        path=path,
        shape=shape[::-1],
        dtype=dtype,
        affine=affine,
        spacing_mm=tuple(float(v) for v in sizes_mm[3:0:-1]),
        slope=slope,
        inter=inter,
        data_offset=_offset(fields),
        data_bytes=shape[0] * shape[1] * shape[2] * dtype.itemsize,
        qform_code=qform_code,
        sform_code=sform_code,
        fields=fields,
    )


@functools.cache
def _layout(size: int, order: str) -> np.dtype:
    formats, offsets = zip(*_TABLES[size].values(), strict=True)
    names = list(_TABLES[size])
    spec = {"names": names, "formats": formats, "offsets": offsets, "itemsize": size}
    return np.dtype(spec).newbyteorder(order)


def _record(head: bytes) -> np.void:
    if len(head) < 348:
        raise Damaged(f"not NIfTI, or cut short: {len(head)} header bytes, wanted 348 or 540")
    sizes = {order: int(np.frombuffer(head, order + "i4", 1)[0]) for order in "<>"}
    order = next((o for o, size in sizes.items() if size in _TABLES and size <= len(head)), None)
    if order is None:
        raise Damaged(f"not NIfTI: its data starts with {head[:4]!r}")
    size = sizes[order]
    fields = np.frombuffer(head, _layout(size, order), 1)[0]
    magic = fields["magic"].tobytes()
    if magic[:3] in (b"ni1", b"ni2"):
        raise Damaged("a header/image pair (.hdr/.img) is not supported; convert it to .nii.gz")
    if magic not in _MAGICS[size]:
        raise Damaged(f"not NIfTI: its magic is {magic!r}, wanted {_MAGICS[size][0]!r}")
    return fields


def _shape(fields: np.void, max_voxels: int) -> tuple[int, tuple[int, int, int]]:
    dim = [int(d) for d in fields["dim"]]
    if not 1 <= dim[0] <= 7:
        raise Damaged(f"dim[0] = {dim[0]}, the number of dimensions should be 1 to 7")
    sizes = dim[1 : dim[0] + 1]
    if min(sizes) < 1:
        raise Damaged(f"dimensions {sizes} should all be at least 1")
    if any(size != 1 for size in sizes[3:]):
        raise Damaged(f"{dim[0]}-D data {sizes}: only 3-D is supported, split it per channel")
    x, y, z = (*sizes, 1, 1)[:3]
    if x * y * z > max_voxels:
        raise Damaged(f"dimensions {sizes} are {x * y * z} voxels, the limit is {max_voxels}")
    return dim[0], (x, y, z)


def _dtype(fields: np.void) -> np.dtype:
    code = int(fields["datatype"])
    if code not in _DATATYPES:
        name = _UNSUPPORTED.get(code, "unknown")
        raise Damaged(f"datatype {code} ({name}) is not supported, only integers and float32/64")
    return np.dtype(_DATATYPES[code]).newbyteorder(fields.dtype["sizeof_hdr"].byteorder)


def _offset(fields: np.void) -> int:
    # Four bytes after the header flag extensions, so voxels cannot start before them.
    least, offset = int(fields["sizeof_hdr"]) + 4, float(fields["vox_offset"])
    if not least <= offset <= _MAX_OFFSET or offset != int(offset):
        raise Damaged(f"vox_offset {offset:g} should be a whole number, {least} to {_MAX_OFFSET}")
    return int(offset)


def _scaling(fields: np.void) -> tuple[float, float]:
    slope, inter = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0 or not np.isfinite(slope):
        return 1.0, 0.0
    if not np.isfinite(inter):
        raise Damaged(f"scl_inter {inter} with the valid scl_slope {slope:g}")
    return slope, inter


def pixdim(fields: np.void) -> np.ndarray:
    """Return (qfac, x, y, z): handedness 1 or -1 and voxel sizes in mm, repaired as nibabel does.

    Raises Damaged where a size is not finite.
    """
    values = fields["pixdim"][:4].copy()
    if not np.isfinite(values[1:]).all():
        raise Damaged(f"voxel sizes {values[1:].tolist()} should be finite")
    values[0] = -1 if values[0] == -1 else 1
    values[1:] = np.where(values[1:] == 0, 1, np.abs(values[1:]))
    return values


def _affine(fields: np.void, ndim: int, sizes_mm: np.ndarray) -> tuple[np.ndarray, int, int]:
    # Codes the standard does not know count as unset.
    codes = [int(fields[name]) for name in ("qform_code", "sform_code")]
    qform_code, sform_code = (code if 0 <= code <= 5 else 0 for code in codes)
    if sform_code:
        affine = np.eye(4)
        affine[:3] = fields["srow"]
    elif qform_code:
        affine = _qform(fields, sizes_mm)
    else:
        from nibabel.volumeutils import shape_zoom_affine

        end = min(ndim, 3) + 1
        affine = shape_zoom_affine(fields["dim"][1:end], sizes_mm[1:end], x_flip=True)
    if not np.isfinite(affine).all():
        raise Damaged(f"affine {affine.tolist()} should be finite")
    affine.setflags(write=False)
    return affine, qform_code, sform_code


def _qform(fields: np.void, sizes_mm: np.ndarray) -> np.ndarray:
    from nibabel.quaternions import fillpositive, quat2mat

    quatern = fields["quatern"]
    if not np.isfinite(quatern).all():
        raise Damaged(f"quaternion {quatern.tolist()} should be finite")
    try:
        rotation = quat2mat(fillpositive(quatern, 3 * np.finfo(quatern.dtype).eps))
    except ValueError as error:
        raise Damaged(f"quaternion {quatern.tolist()} is longer than 1") from error
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(sizes_mm[1:] * [1, 1, sizes_mm[0]])
    affine[:3, 3] = fields["qoffset"]
    return affine
