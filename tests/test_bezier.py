"""Intensity domains, and what else the loader does for networks trained on one modality."""

import numpy as np
import pytest
import torch

from fastseg.data import phantom
from fastseg.data.cases import Dataset, discover, split_cases
from fastseg.data.pipeline import Loader, LoaderConfig, bezier, load_case
from fastseg.errors import UsageError

nibabel = pytest.importorskip("nibabel")

torch.set_num_threads(1)
VS = (-1.0, -0.6, 0.0, 1 / 3, 0.7, 1.0)
UNIT = {"normalise": "percentile", "percentiles": (1, 99), "value_range": (0, 1)}
STILL = {"flip": False, "foreground_fraction": None, "threads": 1, "samples_per_case": 1}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = phantom.write(tmp_path_factory.mktemp("data"), 6, size=(28, 26, 24), seed=3)
    return discover(root)


def batches(dataset, backend="torch", epoch=0, start=0, world=(0, 1), batch=2, **values):
    config = LoaderConfig((16, 24, 24), batch, **STILL | UNIT | values)
    names = [case.id for case in dataset.cases]
    with Loader(dataset, names, config, backend=backend, rank=world[0], world=world[1]) as loader:
        return list(loader.epoch(epoch, start))


def by_seed(found) -> dict[tuple, tuple]:
    return {
        seed: (image, int(domain), case)
        for batch in found
        for seed, image, domain, case in zip(
            batch["seed"], batch["image"], batch["domain"], batch["case"], strict=True
        )
    }


# --- curves


def dense(domain: int, v: float) -> tuple[np.ndarray, np.ndarray]:
    """The curve at the source's 100,000 points."""
    points = {1: [(-1, -1), (-v, v), (v, -v), (1, 1)], 2: [(-1, 1), (-v, -v), (v, v), (1, -1)]}
    t = np.linspace(0, 1, 100_000)[:, None]
    powers = [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3]
    curve = sum(power * np.array(p) for power, p in zip(powers, points[domain], strict=True))
    return tuple(curve.T)


@pytest.mark.parametrize("v", VS)
@pytest.mark.parametrize("domain", [1, 2])
def test_curve_is_the_cubic_through_its_points(domain, v):
    image = torch.linspace(0, 1, 5001)
    found = bezier.change(image, domain, v)[1:].numpy()
    exact = (np.interp(2 * image[1:].double().numpy() - 1, *dense(domain, v)) + 1) / 2
    np.testing.assert_allclose(found, exact, atol=2e-3 if abs(v) == 1 else 2e-5)


@pytest.mark.parametrize("v", VS)
def test_second_domain_is_the_first_upside_down(v):
    image = torch.linspace(0.001, 1, 999)
    up, down = bezier.change(image, 1, v), bezier.change(image, 2, v)
    torch.testing.assert_close(down, 1 - up, atol=1e-6, rtol=0)
    assert (up.diff() >= 0).all()
    assert (down.diff() <= 0).all()
    assert (up - down).abs().max() > 0.9


def test_legacy_domains_are_the_same_curve():
    image = torch.rand(500)
    for v in (0.0, 0.4, 1.0):
        legacy = [bezier.change(image, domain, v, legacy=True) for domain in (1, 2)]
        assert torch.equal(*legacy)
        assert torch.equal(legacy[0], bezier.change(image, 1, v))
    seeds = [(0, 0, n) for n in range(200)]
    drawn, legacy = ([bezier.draw(seed, 3, old)[0] for seed in seeds] for old in (False, True))
    assert min(drawn) < -0.9
    assert max(drawn) > 0.9
    assert min(legacy) >= 0


@pytest.mark.parametrize("domain", [0, 1, 2])
def test_range_and_background_stay(domain):
    image = torch.rand(2, 8, 8, 8)
    image[:, :, :4] = 0
    found = bezier.change(image, domain, 0.8)
    assert torch.equal(found == 0, image == 0)
    assert 0 <= found.min() <= found.max() <= 1
    assert torch.equal(found, image) == (domain == 0)


# --- in the loader


def test_patients_of_the_domains_are_apart_and_follow_from_the_seed(dataset):
    names = [f"P{i}" for i in range(31)]
    given = bezier.assign(names, 3, seed=5)
    assert sorted(list(given.values()).count(d) for d in range(3)) == [10, 10, 11]
    assert given == bezier.assign(names[::-1] + names, 3, seed=5)
    assert given != bezier.assign(names, 3, seed=6)
    found = {}
    for epoch in (0, 1):
        for _, domain, case in by_seed(
            batches(dataset, epoch=epoch, bezier_domains=(1, 2))
        ).values():
            assert found.setdefault(case, domain) == domain
    assert sorted(found.values()) == [0, 0, 0, 1, 1, 1]


def test_split_does_not_follow_the_order_of_a_listing(dataset):
    turned = Dataset(dataset.root, dataset.layout, dataset.modalities, dataset.scheme,
                     dataset.cases[::-1])  # fmt: skip
    assert split_cases(turned, seed=1) == split_cases(dataset, seed=1)


def test_curves_are_those_of_the_seed_and_new_each_epoch(dataset):
    plain = {
        seed: image
        for epoch in (0, 1)
        for batch in batches(dataset, epoch=epoch)
        for seed, image in zip(batch["seed"], batch["image"], strict=True)
    }
    values = []
    for epoch in (0, 1):
        found = by_seed(batches(dataset, epoch=epoch, bezier_domains=(0, 1, 2)))
        assert {domain for _, domain, _ in found.values()} == {0, 1, 2}
        for seed, (image, domain, _) in found.items():
            v = bezier.draw(seed, 3)[0]
            assert torch.equal(image, bezier.change(plain[seed], domain, v))
            values.append(v)
    assert len(set(values)) == 12


def test_batches_are_the_same_from_the_middle_with_other_backends_and_ranks(dataset):
    every = {"bezier_domains": (0, 2), "flip_depth": True, "flip": True, "rotate90": True}
    whole = by_seed(batches(dataset, **every))
    for found in (
        by_seed(batches(dataset, "dali", **every)),
        by_seed(batches(dataset, **every)[:1] + batches(dataset, start=1, **every)),
        by_seed(batches(dataset, world=(0, 2), **every) + batches(dataset, world=(1, 2), **every)),
    ):
        assert found.keys() == whole.keys()
        for seed, (image, domain, case) in found.items():
            assert torch.equal(image, whole[seed][0])
            assert (domain, case) == whole[seed][1:]


def test_samples_may_draw_their_domains(dataset):
    options = {"bezier_domains": (0, 1, 2), "bezier_apart": False, "samples_per_case": 8}
    found = by_seed(batches(dataset, **options)).values()
    assert all(len({d for _, d, name in found if name == case.id}) > 1 for case in dataset.cases)


def test_whole_cases_are_as_they_are_and_in_the_same_range(dataset):
    """Validation and test images know no domains, and their range is that of training."""
    rule = LoaderConfig((8, 8, 8), **UNIT).rule
    case, again = (load_case(dataset, "Phantom00000", rule).image for _ in range(2))
    assert np.array_equal(case, again)
    assert (case.min(), case.max()) == (0, 1)
    for batch in batches(dataset, bezier_domains=(0, 1, 2)):
        assert (batch["image"].min(), batch["image"].max() <= 1) == (0, True)


def test_brain_is_what_is_not_zero_and_stays_apart_from_background(dataset, tmp_path):
    source = dataset.by_id("Phantom00001")
    root = tmp_path / "Phantom00001"
    root.mkdir()
    for path in [*source.images.values(), source.label]:
        volume = nibabel.load(path)
        data = np.asarray(volume.dataobj).astype(np.int16)
        if path != source.label:
            data = np.where(data != 0, data - 2 * int(np.median(data[data != 0])) - 1, 0)
            data[(data == 0) & (np.asarray(volume.dataobj) != 0)] = -1
        nibabel.save(nibabel.Nifti1Image(data, volume.affine), root / path.name)
    rule = LoaderConfig((8, 8, 8), **UNIT).rule
    image = load_case(discover(tmp_path), "Phantom00001", rule).image
    brain = np.asarray(nibabel.load(source.images["t2"]).dataobj).T != 0
    assert np.array_equal(image[2] > 0, brain)
    assert image[2].max() == pytest.approx(1, abs=1e-6)
    assert image[2][brain].min() == pytest.approx(2.0**-10, rel=1e-4)


def test_depth_is_mirrored_half_of_the_time(dataset):
    plain = batches(dataset, samples_per_case=4)
    for backend in ("torch", "dali"):
        turned = batches(dataset, backend, samples_per_case=4, flip_depth=True)
        count = 0
        for a, b in zip(plain, turned, strict=True):
            for before, after, label, new in zip(
                a["image"], b["image"], a["label"], b["label"], strict=True
            ):
                flipped = torch.equal(after, before.flip(1))
                assert flipped != torch.equal(after, before)
                assert torch.equal(new, label.flip(0) if flipped else label)
                count += flipped
        assert 6 <= count <= 18


def test_one_modality_of_each_sample_is_shown(dataset):
    plain = batches(dataset, samples_per_case=4)
    for backend in ("torch", "dali"):
        chosen = []
        for a, b in zip(
            plain, batches(dataset, backend, samples_per_case=4, single_modality=True), strict=True
        ):
            assert b["image"].shape == (2, 1, 16, 24, 24)
            for full, one in zip(a["image"], b["image"], strict=True):
                [index] = [i for i, channel in enumerate(full) if torch.equal(channel, one[0])]
                chosen.append(index)
        assert set(chosen) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bezier_domains": ()}, "bezier_domains"),
        ({"bezier_domains": (1, 1)}, "bezier_domains"),
        ({"bezier_domains": (3,)}, "different ones of 0, 1, 2"),
        ({"bezier_domains": (1, 2), "normalise": "zscore"}, "normalise is 'zscore'"),
        (
            {"bezier_domains": (1, 2), "value_range": (-1, 1)},
            r"value_range is \(-1, 1\); wanted 0, 1",
        ),
    ],
)
def test_wrong_settings_are_named(values, message):
    with pytest.raises(UsageError, match=message):
        LoaderConfig((8, 8, 8), **UNIT | values)
