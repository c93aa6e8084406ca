"""Find where in a volume something lies, and whether two volumes lie on one grid."""

import numpy as np

AFFINE_TOLERANCE_MM = 1e-3
Box = tuple[slice, slice, slice]


def bounding_box(*volumes: np.ndarray) -> Box | None:
    """Find the smallest box that holds every voxel that is not 0 in one of the volumes.

    Args:
        volumes: (D, H, W) each, of one shape and any dtype.

    Returns:
        slices along D, H and W; None where every voxel is 0.

    >>> volume = np.zeros((4, 5, 6), bool)
    >>> volume[1:3, 2, 3:6] = True
    >>> bounding_box(volume)
    (slice(1, 3, None), slice(2, 3, None), slice(3, 6, None))
    """
    # planes first: most slices of a brain are then never looked at as a whole again
    plane = np.logical_or.reduce([volume.any(axis=0) for volume in volumes])
    rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    if not rows.size:
        return None
    depth = range(len(volumes[0]))
    first = next(z for z in depth if any(volume[z].any() for volume in volumes))
    last = next(z for z in reversed(depth) if any(volume[z].any() for volume in volumes))
    ends = (first, last), (rows[0], rows[-1]), (columns[0], columns[-1])
    return tuple(slice(int(start), int(stop) + 1) for start, stop in ends)


def grid_difference(header, like) -> tuple[str, str] | None:
    """Compare the grids of two NIfTI headers: shapes, and affines within 0.001 mm.

    Args:
        header, like: `nifti.Header`s.

    Returns:
        ("shape" or "affine", a sentence about `header`) where they differ, None where they do not.

    >>> from types import SimpleNamespace as Header
    >>> small = Header(path="a.nii", shape=(4, 5, 6), affine=np.eye(4))
    >>> large = Header(path="b.nii", shape=(4, 5, 7), affine=np.eye(4))
    >>> grid_difference(small, large)
    ('shape', 'shape (z, y, x) is (4, 5, 6), wanted (4, 5, 7) as in b.nii')
    """
    if header.shape != like.shape:
        return "shape", f"shape (z, y, x) is {header.shape}, wanted {like.shape} as in {like.path}"
    distance = np.abs(header.affine - like.affine).max()
    if distance <= AFFINE_TOLERANCE_MM:
        return None
    return "affine", (
        f"affine differs from that of {like.path} by up to {distance:.4g}, "
        f"wanted at most {AFFINE_TOLERANCE_MM} mm"
    )
