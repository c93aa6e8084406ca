"""Keep a folder of phantoms: whose it is, and NIfTI files that their content decides."""

import gzip
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np

from fastseg.errors import UsageError
from fastseg.host.files import write_bytes, write_json

MARKER = "phantom.json"


def claim(out: Path, cases: int, identity: dict) -> None:
    """Make `out` the folder of a set of phantoms; what a stopped call left half done is removed.

    Args:
        out: a new or empty folder, or one of the same set.
        cases: how many patients it is to hold.
        identity: what decides every patient, as JSON has it.

    Raises:
        UsageError: `out` is a file, holds something else or another set, or more patients.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file, wanted a folder")
    out.mkdir(parents=True, exist_ok=True)
    if not (out / MARKER).exists():
        if any(out.iterdir()):
            raise UsageError(f"{out}: holds other files, wanted an empty or a new folder")
        write_json(out / MARKER, identity)
    try:
        found = json.loads((out / MARKER).read_text())
    except ValueError:
        found = None
    if found != identity:
        raise UsageError(f"{out}: holds phantoms of another kind ({found}), wanted {identity}")
    for leftover in out.glob(".Phantom*.part"):
        shutil.rmtree(leftover)
    if len(existing := list(out.glob("Phantom*"))) > cases:
        raise UsageError(f"{out}: already holds {len(existing)} phantoms, more than {cases}")


def write_case(out: Path, name: str, images: dict[str, np.ndarray], labels: np.ndarray) -> None:
    """Write a patient's folder `out/name`, whole or not at all; arrays are (z, y, x)."""
    part = out / f".{name}.part"
    part.mkdir()
    for suffix, array in {**images, "seg": labels}.items():
        (part / f"{name}_{suffix}.nii.gz").write_bytes(_nifti_gz(array))
    os.replace(part, out / name)


def write_volume(path: Path, array_zyx: np.ndarray) -> None:
    """Write one .nii.gz file, whole or not at all, voxels of 1 mm.

    >>> from fastseg.data import nifti
    >>> write_volume(Path("a.nii.gz"), np.zeros((4, 5, 6), np.uint8))
    >>> nifti.read("a.nii.gz").data.shape
    (4, 5, 6)
    """
    write_bytes(path, _nifti_gz(array_zyx))


def _nifti_gz(array_zyx: np.ndarray) -> bytes:
    """Return the bytes of a .nii.gz file with BraTS' axes (left, posterior, superior)."""
    import nibabel as nib

    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[1, 3] = array_zyx.shape[1] - 1
    image = nib.Nifti1Image(array_zyx.T, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("mm", "sec")
    packed = io.BytesIO()
    # an empty name and a fixed time keep the file a function of its content
    with gzip.GzipFile("", "wb", compresslevel=4, fileobj=packed, mtime=0) as stream:
        stream.write(image.to_bytes())
    return packed.getvalue()
