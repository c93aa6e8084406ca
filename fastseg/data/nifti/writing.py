"""Write NIfTI volumes through nibabel, on the grid of the file they came from."""

import gzip
from pathlib import Path

import numpy as np

from fastseg.data.nifti.header import Header, pixdim
from fastseg.data.nifti.reading import read_header
from fastseg.errors import NiftiError
from fastseg.host.files import write_bytes

_WRITABLE = ("uint8", "int8", "int16", "uint16", "int32", "uint32", "float32", "float64")


def write(path: str | Path, data_zyx: np.ndarray, like: Header | str | Path, *, dtype=None) -> None:
    """Write a volume on the grid of another file, whole or not at all.

    Affines, qform and sform codes and voxel sizes are the source's; scaling is the identity.

    Args:
        path: where to, a name that ends in `.nii` or `.nii.gz`.
        data_zyx: (D, H, W) integers, booleans or floats.
        like: the source of the grid, a file or its header.
        dtype: to be stored as; None: uint8 for integers and booleans, which must fit, and float32
            for floats. 64-bit integers are refused: common viewers cannot read them.

    Raises:
        ValueError: a wrong shape, dtype, value range or file name.
        NiftiError: `like` cannot be read or `path` cannot be written.

    >>> from fastseg.data import phantom
    >>> from fastseg.data.nifti import read
    >>> folder = phantom.write("phantoms", cases=1, size=(24, 26, 28)) / "Phantom00000"
    >>> label = read(folder / "Phantom00000_seg.nii.gz")
    >>> write("tumour.nii.gz", label.data > 0, like=label.header)
    >>> bool((read("tumour.nii.gz").header.affine == label.header.affine).all())
    True
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
