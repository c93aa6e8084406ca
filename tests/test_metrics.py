import itertools
import math

import numpy as np
import pytest

from fastseg import metrics

SHAPE = (9, 12, 10)
SPACING_MM = (2.5, 1.0, 0.7)
EMPTY = np.zeros(SHAPE, bool)


def blob(seed, shape=SHAPE):
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5)
    return field > field.std() * 0.8


def ball(radius, shape=(21, 21, 21), centre=(10, 10, 10)):
    return sum((g - c) ** 2 for g, c in zip(np.indices(shape), centre, strict=True)) <= radius**2


def brute_force_hd95_mm(a, b, spacing_mm):
    def surface(mask):
        points = []
        for p in np.argwhere(mask):
            for axis in range(3):
                for step in (-1, 1):
                    q = p.copy()
                    q[axis] += step
                    if not (0 <= q[axis] < mask.shape[axis]) or not mask[tuple(q)]:
                        points.append(tuple(p))
        return np.array(sorted(set(points))) * spacing_mm

    distances = np.linalg.norm(surface(a)[:, None] - surface(b)[None], axis=-1)
    return max(np.percentile(distances.min(1), 95), np.percentile(distances.min(0), 95))


def test_overlap_by_hand():
    a, b = EMPTY.copy(), EMPTY.copy()
    a[0, 0, :6] = True
    b[0, 0, 4:8] = True
    assert metrics.dice(a, b) == 2 * 2 / (6 + 4)
    assert metrics.iou(a, b) == 2 / 8
    assert metrics.dice(a, a) == metrics.iou(a, a) == 1


def test_empty_rules():
    a = blob(0)
    assert metrics.dice(EMPTY, EMPTY) == metrics.iou(EMPTY, EMPTY) == 1
    assert metrics.hd95_mm(EMPTY, EMPTY, SPACING_MM) == 0
    for pair in ((a, EMPTY), (EMPTY, a)):
        assert metrics.dice(*pair) == metrics.iou(*pair) == 0
        assert metrics.hd95_mm(*pair, SPACING_MM) == 373.12866
    assert math.isclose(math.hypot(240, 240, 155), metrics.HD95_PENALTY_MM, rel_tol=1e-7)


@pytest.mark.parametrize("spacing_mm", [(1, 1, 1), SPACING_MM], ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_hd95_equals_brute_force(seed, spacing_mm):
    a, b = blob(seed), blob(seed + 10)
    expected = brute_force_hd95_mm(a, b, spacing_mm)
    assert expected > 0
    assert metrics.hd95_mm(a, b, spacing_mm) == pytest.approx(expected, rel=1e-12)
    assert metrics.hd95_mm(b, a, spacing_mm) == pytest.approx(expected, rel=1e-12)


def degenerate(shape, rng):
    """Masks that leave little of a surface, or little room around it."""
    whole, point, border = np.ones(shape, bool), np.zeros(shape, bool), np.zeros(shape, bool)
    point[tuple(rng.integers(n) for n in shape)] = True
    border[0], border[..., -1] = True, True
    checks, plane = np.indices(shape).sum(0) % 2 == 0, np.zeros(shape, bool)
    plane[:, shape[1] // 2] = True
    return {"whole": whole, "point": point, "border": border, "checks": checks, "plane": plane}


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 6), (5, 1, 1), (4, 5, 6)], ids=str)
def test_hd95_of_degenerate_masks_equals_brute_force(shape):
    """Single voxels, whole volumes, thin ones, masks on the border: in all pairs."""
    masks = degenerate(shape, np.random.default_rng(sum(shape)))
    for (name, a), (other, b) in itertools.product(masks.items(), repeat=2):
        for spacing_mm in ((1, 1, 1), SPACING_MM, (1e-3, 1.0, 1e3)):
            found, wanted = metrics.hd95_mm(a, b, spacing_mm), brute_force_hd95_mm(a, b, spacing_mm)
            assert found == pytest.approx(wanted, rel=1e-12), (name, other, spacing_mm)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("seed", range(3))
def test_hd95_equals_monai(seed):
    import torch
    from monai.metrics import compute_hausdorff_distance

    a, b = blob(seed, (24, 30, 28)), blob(seed + 20, (24, 30, 28))
    theirs = compute_hausdorff_distance(
        torch.from_numpy(a)[None, None],
        torch.from_numpy(b)[None, None],
        include_background=True,
        percentile=95,
        spacing=SPACING_MM,
    )
    assert metrics.hd95_mm(a, b, SPACING_MM) == pytest.approx(float(theirs), rel=1e-5)


def test_hd95_of_concentric_balls_is_the_difference_of_radii():
    assert metrics.hd95_mm(ball(8), ball(5), (1, 1, 1)) == pytest.approx(3, abs=0.5)
    assert metrics.hd95_mm(ball(8), ball(5), (2, 2, 2)) == pytest.approx(6, abs=1.0)


def test_hd95_of_a_shift_uses_the_axis_spacing():
    a = EMPTY.copy()
    a[2:5, 3:6, 3:6] = True
    for axis, mm in enumerate(SPACING_MM):
        shifted = np.roll(a, 2, axis)
        assert metrics.hd95_mm(a, shifted, SPACING_MM) == pytest.approx(2 * mm)


def test_hd95_ignores_a_few_outliers():
    a = ball(8)
    b = a.copy()
    b[0, 0, 0] = True
    assert metrics.hd95_mm(a, b, (1, 1, 1)) == 0


def test_legacy_slice_dice_counts_an_absent_class_as_half():
    nothing = np.zeros((4, 8, 8), np.uint8)
    assert metrics.legacy_slice_dice(nothing, nothing) == 0.5
    true = nothing.copy()
    true[0, :2] = 1
    pred = nothing.copy()
    pred[0, :4] = 1
    # one of the 4 times 3 slices and classes scores 2·16/(32+16), the other eleven score 0.5
    assert metrics.legacy_slice_dice(pred, true) == pytest.approx((2 / 3 + 11 * 0.5) / 12)
    assert metrics.legacy_slice_dice(true, true) == pytest.approx((1 + 11 * 0.5) / 12)
    false_positive = nothing.copy()
    false_positive[1, 3, 3] = 3
    assert metrics.legacy_slice_dice(false_positive, nothing) == pytest.approx(11 * 0.5 / 12)


def test_region_masks_follow_the_class_names():
    classes = np.arange(4, dtype=np.uint8).reshape(1, 2, 2)
    regions = {"WT": ("NCR", "ED", "ET"), "TC": ("NCR", "ET"), "ET": ("ET",)}
    masks = metrics.region_masks(classes, ("background", "NCR", "ED", "ET"), regions)
    assert list(masks) == ["WT", "TC", "ET"]
    assert masks["WT"].ravel().tolist() == [False, True, True, True]
    assert masks["TC"].ravel().tolist() == [False, True, False, True]
    assert masks["ET"].ravel().tolist() == [False, False, False, True]


def test_wrong_arguments_are_named():
    with pytest.raises(TypeError, match="uint8"):
        metrics.dice(EMPTY, EMPTY.astype(np.uint8))
    with pytest.raises(ValueError, match=r"\(9, 12, 10\) and \(3, 12, 10\)"):
        metrics.iou(EMPTY, EMPTY[:3])
    with pytest.raises(ValueError, match="wanted one"):
        metrics.hd95_mm(EMPTY[0], EMPTY[0], SPACING_MM)
