"""A folder of phantoms: who it belongs to, and NIfTI files that are a function of their content."""

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
    """Make `out` the folder of the set `identity`, or raise UsageError when it is another's."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file, want a folder")
    out.mkdir(parents=True, exist_ok=True)
    if not (out / MARKER).exists():
        if any(out.iterdir()):
            raise UsageError(f"{out}: holds other files, want an empty or a new folder")
        write_json(out / MARKER, identity)
    try:
        found = json.loads((out / MARKER).read_text())
    except ValueError:
        found = None
    if found != identity:
        raise UsageError(f"{out}: holds phantoms of another kind ({found}), want {identity}")
    for leftover in out.glob(".Phantom*.part"):
        shutil.rmtree(leftover)
    if len(existing := list(out.glob("Phantom*"))) > cases:
        raise UsageError(f"{out}: already holds {len(existing)} phantoms, more than {cases}")


def write_case(out: Path, name: str, images: dict[str, np.ndarray], labels: np.ndarray) -> None:
    part = out / f".{name}.part"
    part.mkdir()
    for suffix, array in {**images, "seg": labels}.items():
        (part / f"{name}_{suffix}.nii.gz").write_bytes(_nifti_gz(array))
    os.replace(part, out / name)


def write_volume(path: Path, array_zyx: np.ndarray) -> None:
    """One .nii.gz file, whole or not at all."""
    write_bytes(path, _nifti_gz(array_zyx))


def _nifti_gz(array_zyx: np.ndarray) -> bytes:
    """The bytes of a .nii.gz file with BraTS' axis directions (left, posterior, superior)."""
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
