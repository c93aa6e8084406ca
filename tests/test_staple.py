"""STAPLE against ITK's and against its formulas written out voxel by voxel."""

import math

import numpy as np
import pytest
import torch

from fastseg.models.parts.staple import staple

pytestmark = pytest.mark.usefixtures("one_thread")


def raters(seed: int, members: int = 5, size: int = 24) -> torch.Tensor:
    """A disc as members of differing quality draw it, (members, size, size) of 0 and 1."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - size / 2 + 0.5
    truth = np.hypot(x, y) < size / 4
    wrong = rng.random((members, size, size)) < rng.uniform(0.02, 0.3, (members, 1, 1))
    return torch.from_numpy(truth ^ wrong)


def by_formula(decisions: np.ndarray, tolerance: float = 1e-9) -> np.ndarray:
    """Warfield et al., eqs. 14, 15, 18 and 19, one number at a time."""
    members, voxels = decisions.shape
    prior = decisions.mean()
    p, q = [0.99999] * members, [0.99999] * members
    while True:
        w = []
        for i in range(voxels):
            a, b = prior, 1 - prior
            for j in range(members):
                a *= p[j] if decisions[j, i] else 1 - p[j]
                b *= 1 - q[j] if decisions[j, i] else q[j]
            w.append(a / (a + b))
        before = p + q
        p = [math.fsum(w[i] * decisions[j, i] for i in range(voxels)) / math.fsum(w)
             for j in range(members)]  # fmt: skip
        rest = [1 - value for value in w]
        q = [math.fsum(rest[i] * (1 - decisions[j, i]) for i in range(voxels)) / math.fsum(rest)
             for j in range(members)]  # fmt: skip
        if max(abs(a - b) for a, b in zip(before, p + q, strict=True)) < tolerance:
            return np.array(w)


def test_it_is_the_formulas_fixed_point():
    decisions = raters(0, size=12)
    exact = by_formula(decisions.flatten(1).numpy().astype(int)).reshape(12, 12)
    found = staple(decisions, tolerance=1e-9)
    np.testing.assert_allclose(found, exact, atol=1e-6)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_agrees_with_itk(seed):
    sitk = pytest.importorskip("SimpleITK")
    decisions = raters(seed)
    images = [sitk.GetImageFromArray(member.numpy().astype(np.uint8)) for member in decisions]
    theirs = sitk.GetArrayFromImage(sitk.STAPLE(images, 1.0))
    np.testing.assert_allclose(staple(decisions), theirs, atol=1e-4)


def test_good_members_outweigh_many_poor_ones():
    truth = raters(4, members=1)[0]
    generator = torch.Generator().manual_seed(0)
    poor = torch.rand(3, *truth.shape, generator=generator) < 0.5
    fused = staple(torch.stack([truth, truth, *poor])) > 0.5
    mean = torch.stack([truth, truth, *poor]).float().mean(0) > 0.5
    assert torch.equal(fused, truth)
    assert not torch.equal(mean, truth)


def test_a_batch_is_fused_image_by_image_and_channel_by_channel():
    many = torch.stack([raters(seed) for seed in range(4)], 1).unflatten(1, (2, 2))
    for i in range(2):
        for j in range(2):
            assert torch.equal(staple(many)[i, j], staple(many[:, i, j]))


@pytest.mark.parametrize("value", [0, 1])
def test_where_all_agree_everywhere_so_does_the_result(value):
    assert (staple(torch.full((5, 2, 8, 8), value)) == value).all()


def test_one_voxel_of_one_member_is_finite():
    lone = torch.zeros(3, 8, 8)
    lone[0, 2, 2] = 1
    found = staple(lone)
    assert found.isfinite().all()
    assert found[2, 2] > found[0, 0]


def test_once_over_the_members_is_the_square_of_their_mean():
    """What MedSegDiff's function of that name gives, and why nothing here does: at a threshold of
    one half it wants 71 % of the members where the mean wants half of them.
    """
    members = raters(5).float()
    mean = members.mean(0)
    once = (members * mean).mean(0)
    torch.testing.assert_close(once, mean**2)
    assert ((mean > 0.5) & (once < 0.5)).any()
    assert not torch.allclose(staple(members > 0.5), once, atol=0.1)
