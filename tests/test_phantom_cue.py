"""The task "global-cue": labels that a whole slice decides and no window of it does."""

import json

import numpy as np
import pytest

from fastseg.data import phantom
from fastseg.data.phantom import cue
from fastseg.errors import UsageError

SIZE = (64, 64, 24)
PATIENTS, FOLDS = 18, 3
CORE_OR_RIM = (1, 4)


def patient_of_sign(index, sign):
    """z-scored contrasts (C, D, H, W) as networks see them, and labels; all but sign by index."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cue, "sign", lambda *_: sign)
        images, labels = phantom.patient(SIZE, 0, index, "global-cue")
    images = np.stack([images[name] for name in phantom.MODALITIES]).astype(np.float64)
    for image in images:
        brain = image > 0
        image[brain] = (image[brain] - image[brain].mean()) / image[brain].std()
    return images, labels


@pytest.fixture(scope="module")
def pairs():
    """Patients, each with either sign."""
    return [{sign: patient_of_sign(i, sign) for sign in (1, -1)} for i in range(PATIENTS)]


def accuracy(samples):
    """Share of the unseen patients' samples that a ridge classifier puts in the right class.

    samples: by patient, features (n, F) and classes ±1 (n,).
    """
    hits = []
    for fold in range(FOLDS):
        seen = [pair for i, pair in enumerate(samples) if i % FOLDS != fold]
        x, y = map(np.concatenate, zip(*seen, strict=True))
        unseen, truth = map(np.concatenate, zip(*samples[fold::FOLDS], strict=True))
        mean, std = x.mean(0), x.std(0)
        x, unseen = (np.column_stack([(a - mean) / std, np.ones(len(a))]) for a in (x, unseen))
        weights = np.linalg.solve(x.T @ x + 1e-3 * len(x) * np.eye(x.shape[1]), x.T @ y)
        hits.append(np.sign(unseen @ weights) == truth)
    return np.concatenate(hits).mean()


def by_sign(pairs, features):
    """The samples of both versions of every patient, their sign as their class."""
    for index, pair in enumerate(pairs):
        # the same windows for either sign
        found = {s: features(*pair[s], np.random.default_rng(index)) for s in pair}
        yield (
            np.concatenate([found[1], found[-1]]),
            np.repeat([1, -1], [len(found[1]), len(found[-1])]),
        )


def slice_features(images, labels, _):
    """Cosine coefficients of every slice with tumour, up to four cycles across it: (n, F)."""
    waves = [
        np.cos(2 * np.pi * np.arange(5)[:, None] * ((np.arange(n) + 0.5) / n - 0.5))
        for n in images.shape[2:]
    ]
    shown = images[:, (labels > 0).sum((1, 2)) > 60]
    sums = np.einsum("czyx,ay,bx->zcab", shown, *waves, optimize=True)
    return sums.reshape(shown.shape[1], -1) / (shown[0] != 0).sum((1, 2))[:, None]


def window_places(labels, rng, reach):
    """Random voxels (z, y, x) of core and rim, at least `reach` from the slice's sides."""
    inside = np.zeros_like(labels, bool)
    inside[:, reach:-reach, reach:-reach] = True
    return rng.permutation(np.argwhere(np.isin(labels, CORE_OR_RIM) & inside))[:150]


def window_features(images, labels, rng, size=9):
    """Quadratic fit and residue of windows about core and rim, per contrast, and products."""
    reach = size // 2
    windows = np.stack(
        [
            images[:, z, y - reach : y + reach + 1, x - reach : x + reach + 1]
            for z, y, x in window_places(labels, rng, reach)
        ]
    ).reshape(-1, len(images), size**2)
    v, u = (axis.ravel() / reach for axis in np.mgrid[-reach : reach + 1, -reach : reach + 1])
    basis = np.stack([np.ones_like(u), u, v, u * u, u * v, v * v])
    fit = windows @ np.linalg.pinv(basis)
    spread = (windows - fit @ basis).std(-1)
    found = np.concatenate([fit.reshape(len(windows), -1), spread], axis=1)
    first, second = np.triu_indices(found.shape[1])
    return np.concatenate([found, found[:, first] * found[:, second]], axis=1)


def test_a_whole_slice_shows_the_sign(pairs):
    assert accuracy(list(by_sign(pairs, slice_features))) >= 0.99


def test_no_window_shows_the_sign(pairs):
    assert abs(accuracy(list(by_sign(pairs, window_features))) - 0.5) < 0.04


def test_a_window_shows_the_tissue(pairs):
    samples = []
    for index, pair in enumerate(pairs):
        images, labels = pair[1]
        z, y, x = window_places(labels, np.random.default_rng(index), 4).T
        features = window_features(images, labels, np.random.default_rng(index))
        samples.append((features, np.where(labels[z, y, x] == 4, 1, -1)))
    assert accuracy(samples) > 0.8


def test_the_sign_swaps_rim_and_core_and_little_else(pairs):
    for pair in pairs:
        (image, labels), (other, swapped) = pair[1], pair[-1]
        np.testing.assert_array_equal(np.array([0, 4, 2, 0, 1])[labels], swapped)
        assert {1, 2, 4} <= set(np.unique(labels))
        brain = image != 0
        difference = (image - other)[brain]
        assert 0.02 < difference.std() < 0.5
        assert abs(difference.mean()) < 1e-9


@pytest.mark.parametrize("shape", [(24, 64, 64), (24, 48, 64)])
def test_the_field_outlives_flips_and_turns(shape):
    plane = cue.shading(shape, 1)[0] - 1
    assert plane.shape == shape[1:]
    for kept in (plane[::-1], plane[:, ::-1]):
        np.testing.assert_allclose(kept, plane, atol=1e-12)
    if shape[1] == shape[2]:
        np.testing.assert_allclose(np.rot90(plane), plane, atol=1e-12)
    np.testing.assert_allclose(cue.shading(shape, -1)[0] - 1, -plane)
    assert abs(plane.mean()) < 1e-12
    assert plane.std() == pytest.approx(cue.AMPLITUDE)


def test_signs_are_balanced_and_drawn():
    signs = np.array([cue.sign(3, index) for index in range(400)])
    assert (signs[::2] == -signs[1::2]).all()
    assert 70 < (signs[::2] > 0).sum() < 130
    assert not (signs == [cue.sign(4, index) for index in range(400)]).all()


def test_a_set_keeps_its_task(tmp_path):
    size, out = (24, 24, 24), tmp_path / "set"
    phantom.write(out, 1, size, task="global-cue")
    assert json.loads((out / "phantom.json").read_text())["task"] == "global-cue"
    kept = {path: path.read_bytes() for path in out.rglob("*.nii.gz")}
    phantom.write(out, 2, size, task="global-cue")
    assert all(path.read_bytes() == content for path, content in kept.items())
    with pytest.raises(UsageError, match="another kind"):
        phantom.write(out, 2, size)
    with pytest.raises(
        UsageError, match=r"task: is 'global', wanted one of nested, global-cue, organs"
    ):
        phantom.write(tmp_path / "new", 1, size, task="global")
    assert not (tmp_path / "new").exists()
