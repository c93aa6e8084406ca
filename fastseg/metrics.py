"""Score segmentations by the conventions of the BraTS challenges; empty masks are spelt out.

All functions take whole volumes as (D, H, W) arrays and return Python floats.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from fastseg.data.geometry import bounding_box

# the diagonal of a volume of 240 by 240 by 155 mm: BraTS' HD95 when one of the two masks is empty
HD95_PENALTY_MM = 373.12866


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Dice score 2|A and B| / (|A| + |B|). Both empty: 1; one empty: 0.

    Args:
        a, b: bool masks (D, H, W).

    Raises:
        TypeError: no bool masks.
        ValueError: different shapes.

    >>> a, b = np.zeros((2, 1, 2, 3), bool)
    >>> a[0, 0], b[0, 0, :2] = True, True
    >>> dice(a, b), round(iou(a, b), 3), round(hd95_mm(a, b, spacing_mm=(1, 1, 2)), 3)
    (0.8, 0.667, 1.8)
    """
    a, b = _masks(a, b)
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return float(2 * np.count_nonzero(a & b) / total) if total else 1.0


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Return the intersection over union |A and B| / |A or B|. Both empty: 1; one empty: 0.

    Args and errors as of `dice`.

    >>> iou(np.zeros((1, 2, 2), bool), np.ones((1, 2, 2), bool))
    0.0
    """
    a, b = _masks(a, b)
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0


def hd95_mm(a: np.ndarray, b: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """Return the 95th percentile of the symmetric surface distance in mm, as MONAI defines it.

    The larger of the two directed 95th percentiles of the distance from each surface voxel of one
    mask to the other's surface; a surface voxel has a face neighbour outside its mask. Both empty:
    0; one empty: 373.12866.

    Args:
        a, b: bool masks (D, H, W), as of `dice`.
        spacing_mm: voxel sizes along D, H and W.

    >>> a, b = np.zeros((2, 1, 1, 5), bool)
    >>> a[0, 0, 0], b[0, 0, 4] = True, True
    >>> hd95_mm(a, b, spacing_mm=(1, 1, 0.5))
    2.0
    """
    from scipy.spatial import cKDTree

    a, b = _masks(a, b)
    if not a.any() or not b.any():
        return HD95_PENALTY_MM if a.any() or b.any() else 0.0
    points_a, points_b = _surface_mm(a, spacing_mm), _surface_mm(b, spacing_mm)
    a_to_b = cKDTree(points_b).query(points_a)[0]
    b_to_a = cKDTree(points_a).query(points_b)[0]
    return float(max(np.percentile(a_to_b, 95), np.percentile(b_to_a, 95)))


def legacy_slice_dice(
    pred_classes: np.ndarray, true_classes: np.ndarray, classes: int = 4
) -> float:
    """Return the slice-wise Dice of earlier diffusion code, to compare with its figures alone.

    Mean over axial slices and foreground classes 1 … classes-1 of
    (2|A and B| + ε) / ((|A| + ε) + (|B| + ε)), ε = 1e-8: a class absent from both counts 0.5.

    Args:
        pred_classes, true_classes: integer class indices (D, H, W).
        classes: how many there are, background included.

    >>> empty = np.zeros((2, 4, 4), int)
    >>> legacy_slice_dice(empty, empty)
    0.5
    """
    pred_classes, true_classes = _same_shape(pred_classes, true_classes)
    epsilon, scores = 1e-8, []
    for index in range(1, classes):
        pred, true = pred_classes == index, true_classes == index
        overlap, sizes = (pred & true).sum((1, 2)), pred.sum((1, 2)) + true.sum((1, 2))
        scores.append((2 * overlap + epsilon) / (sizes + 2 * epsilon))
    return float(np.mean(scores))


def region_masks(
    classes: np.ndarray, class_names: Sequence[str], regions: Mapping[str, Sequence[str]]
) -> dict[str, np.ndarray]:
    """Return the bool mask of every region.

    Args:
        classes: integer class indices of any shape.
        class_names: of the indices, in order.
        regions: name of each region to the names of its classes.

    >>> masks = region_masks(np.array([0, 1, 2]), ["background", "ED", "ET"], {"WT": ["ED", "ET"]})
    >>> masks["WT"]
    array([False,  True,  True])
    """
    masks = {}
    for name, members in regions.items():
        inside = np.isin(np.arange(len(class_names)), [class_names.index(m) for m in members])
        masks[name] = inside[classes]
    return masks


def _masks(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = _same_shape(a, b)
    for name, mask in (("a", a), ("b", b)):
        if mask.dtype != bool:
            raise TypeError(f"{name}: is of dtype {mask.dtype}, wanted a bool mask")
    return a, b


def _same_shape(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.ndim != 3:
        raise ValueError(f"shapes are {a.shape} and {b.shape}, wanted one (D, H, W) for both")
    return a, b


def _surface_mm(mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return positions (N, 3) in mm of the voxels with a face neighbour outside the mask."""
    box = bounding_box(mask)
    padded = np.pad(mask[box], 1)
    inner = padded[1:-1, 1:-1, 1:-1]
    enclosed = inner.copy()
    for axis in range(3):
        for shift in (0, 2):
            window = [slice(1, -1)] * 3
            window[axis] = slice(shift, shift + inner.shape[axis])
            enclosed &= padded[tuple(window)]
    corner = [s.start for s in box]
    return (np.argwhere(inner & ~enclosed) + corner) * np.asarray(spacing_mm, float)
