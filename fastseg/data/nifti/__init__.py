"""Read and write NIfTI-1 and NIfTI-2 volumes, as (z, y, x) arrays."""

from fastseg.data.nifti.header import Header
from fastseg.data.nifti.inflate import inflate_library
from fastseg.data.nifti.reading import MAX_VOXELS, Buffer, Volume, read, read_header
from fastseg.data.nifti.writing import write

__all__ = [
    "MAX_VOXELS",
    "Buffer",
    "Header",
    "Volume",
    "inflate_library",
    "read",
    "read_header",
    "write",
]
