"""The loader: equal backends, pure order, caches, and bad cases that stay outside the batches."""

import errno
import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import fastseg
from fastseg.data.cases import discover
from fastseg.data.pipeline import (
    Loader,
    LoaderConfig,
    augment,
    cache,
    dali,
    decode,
    load_case,
    source,
    workers,
)
from fastseg.data.pipeline.augment import rotate, rotation_matrix
from fastseg.data.pipeline.config import markdown
from fastseg.data.pipeline.division import divide
from fastseg.data.pipeline.intensity import Rule
from fastseg.data.pipeline.loader import pick_backend
from fastseg.errors import DataError, FastsegError, NiftiError, UsageError
from fastseg.fields import help_of

nibabel = pytest.importorskip("nibabel")

SHAPE = (20, 44, 36)
MODALITIES = ("t1", "t1ce", "t2", "flair")
BACKENDS = ("dali", "torch")


def save(path, data_zyx, slope=None):
    image = nibabel.Nifti1Image(data_zyx.T, np.eye(4))
    if slope:
        image.header.set_slope_inter(slope, 0)
    image.to_filename(path)


def write_case(root, name, seed, shape=SHAPE, dtype=np.int16):
    rng = np.random.default_rng(seed)
    z, y, x = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    brain = (z / 0.7) ** 2 + (y / 0.8) ** 2 + ((x - 0.1) / 0.75) ** 2 < 1
    tumour = ((z - 0.1) ** 2 + (y - 0.2) ** 2 + (x - 0.2) ** 2 < 0.12) & brain
    folder = root / name
    folder.mkdir(parents=True)
    for modality in MODALITIES:
        values = rng.normal(400, 150, shape).round().astype(dtype)
        save(folder / f"{name}_{modality}.nii.gz", np.where(brain, values, 0).astype(dtype))
    label = np.where(tumour, rng.choice([1, 2, 4], shape), 0).astype(np.uint8)
    save(folder / f"{name}_seg.nii.gz", label)
    return folder


def write_cases(root, count, **options):
    for index in range(count):
        write_case(root, f"Case_{index:02}", index, **options)
    return root


def rewrite(root, name, change, modality="t1"):
    path = root / name / f"{name}_{modality}.nii.gz"
    data = np.asarray(nibabel.load(path).dataobj).T
    changed = change(data.copy())
    save(path, changed if changed.dtype.kind == "f" else changed.astype(data.dtype))
    return path


def ids(dataset):
    return [case.id for case in dataset.cases]


def open_loader(dataset, config, backend="torch", **options):
    if backend == "dali" and (reason := dali.unavailable(None)):
        pytest.skip(f"DALI cannot be used: {reason}")
    return Loader(dataset, ids(dataset), config, backend=backend, **options)


def batches(dataset, config, backend="torch", epochs=(0,), start=0, **options):
    with open_loader(dataset, config, backend, **options) as loader:
        return [batch for epoch in epochs for batch in loader.epoch(epoch, start)]


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a["case"] == b["case"]
        assert a["seed"] == b["seed"]
        assert a["image"].dtype == torch.float32
        assert a["label"].dtype == torch.uint8
        # As bits, so that -0 is not 0.
        assert torch.equal(a["image"].view(torch.int32), b["image"].view(torch.int32))
        assert torch.equal(a["label"], b["label"])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return discover(write_cases(tmp_path_factory.mktemp("cases"), 5))


@pytest.fixture
def bad_root(tmp_path):
    root = write_cases(tmp_path / "data", 6)
    path = root / "Case_02" / "Case_02_t2.nii.gz"
    path.write_bytes(path.read_bytes()[:-400])
    return root


@pytest.fixture
def decoded(monkeypatch):
    """Ids of the cases whose files are read, in order of reading."""
    seen, read = [], source.read_case
    monkeypatch.setattr(
        source, "read_case", lambda case, *rest: (seen.append(case.id), read(case, *rest))[1]
    )
    return seen


# Patches inside the volume, of its size, and larger than it.
PATCHES = [(24, 24), (44, 36), (64, 48), (8, 16, 16), (32, 48, 40)]


@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize("normalise", ["zscore", "slice_minmax"])
def test_backends_are_bitwise_equal(dataset, patch, normalise):
    config = LoaderConfig(patch, 3, 4, normalise=normalise, rotate90=patch[-1] == patch[-2], seed=5)
    ours, theirs = (batches(dataset, config, b, epochs=(0, 1, 2)) for b in BACKENDS)
    assert ours[0]["image"].shape == (3, 4, *patch)
    assert ours[0]["label"].shape == (3, *patch)
    assert_equal(ours, theirs)


@pytest.mark.parametrize("kept", ["ram", "disk"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("patch", [(24, 24), (8, 16, 16)])
def test_caches_change_nothing(dataset, tmp_path, decoded, kept, backend, patch):
    plain = batches(dataset, LoaderConfig(patch, 3, 4), "torch", epochs=(0, 1))
    decoded.clear()
    config = LoaderConfig(patch, 3, 4, cache=kept, cache_dir=tmp_path)
    assert_equal(batches(dataset, config, backend, epochs=(0, 1)), plain)
    assert sorted(decoded) == ids(dataset)


@pytest.mark.parametrize("patch", [(24, 32), (8, 24, 24)])
def test_interpolated_rotation_agrees(dataset, patch):
    config = LoaderConfig(patch, 3, 4, rotate_degrees=35.0)
    inside = (..., slice(2, -2), slice(2, -2))
    ours, theirs = (batches(dataset, config, b, epochs=(0, 1)) for b in BACKENDS)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a["label"], b["label"])
        assert (a["image"] - b["image"])[inside].abs().max() <= 1e-3
    still = batches(dataset, LoaderConfig(patch, 3, 4), epochs=(0, 1))
    assert not torch.equal(still[0]["image"], ours[0]["image"])


@pytest.mark.parametrize("degrees", [90.0, 180.0, -90.0])
@pytest.mark.parametrize("size", [7, 8])
def test_rotation_by_right_angles_is_a_permutation(degrees, size):
    # Fails if the centre or the half-voxel convention is off.
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.random((1, 2, 1, size, size), np.float32))
    label = torch.from_numpy(rng.integers(0, 4, (1, 1, size, size), np.uint8))
    matrix = torch.from_numpy(rotation_matrix(degrees, (size, size)))
    turned, turned_label = rotate(image, label, matrix[None])
    quarters = round(degrees / 90)
    assert torch.equal(turned_label, torch.rot90(label, quarters, (-2, -1)))
    torch.testing.assert_close(turned, torch.rot90(image, quarters, (-2, -1)), rtol=0, atol=1e-5)


def test_statistics_equal_numpy():
    rng = np.random.default_rng(3)
    for dtype in (np.int16, np.float32):
        image = (rng.normal(50, 4000, (9, 10, 11)) * rng.integers(0, 2, (9, 10, 11))).astype(dtype)
        brain = image[image != 0].astype(np.float64)
        low, high = np.percentile(brain, (0.5, 99.5))
        clipped = brain.clip(low, high)
        wanted = (low, high, clipped.mean(), clipped.std())
        np.testing.assert_allclose(decode.statistics(image), wanted, rtol=1e-6)


def test_zscore_of_a_volume(dataset):
    arrays = load_case(dataset, "Case_01")
    raw = np.asarray(nibabel.load(dataset.by_id("Case_01").images["t2"]).dataobj).T
    channel = dataset.modalities.index("t2")
    brain = arrays.image[channel][raw != 0]
    assert abs(brain.mean()) < 1e-4
    assert abs(brain.std() - 1) < 1e-4
    assert (arrays.image[channel][raw == 0] == 0).all()
    assert arrays.header.shape == arrays.label.shape == arrays.image.shape[1:] == SHAPE
    assert set(np.unique(arrays.label)) == {0, 1, 2, 3}
    legacy = load_case(dataset, "Case_01", "slice_minmax").image[channel]
    plane = raw[10].astype(np.float32)
    scaled = (plane - plane.min()) / (plane.max() - plane.min())
    np.testing.assert_allclose(legacy[10], scaled, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("normalise", ["zscore", "slice_minmax"])
@pytest.mark.parametrize("patch", [(44, 36), (24, 24), (3, 9, 8)])
def test_crops_are_parts_of_the_normalised_volume(dataset, patch, normalise):
    config = LoaderConfig(patch, 4, 4, flip=False, normalise=normalise)
    size = (1, *patch)[-3:]
    whole = {name: load_case(dataset, name, normalise) for name in ids(dataset)}
    for batch in batches(dataset, config, "dali"):
        for name, image, label in zip(batch["case"], batch["image"], batch["label"], strict=True):
            case, image = whole[name], image.reshape(4, *size).numpy()
            windows = np.lib.stride_tricks.sliding_window_view(case.image, size, (1, 2, 3))
            z, y, x = np.argwhere((windows == image[:, None, None, None]).all((0, 4, 5, 6)))[0]
            part = case.label[z : z + size[0], y : y + size[1], x : x + size[2]]
            assert np.array_equal(label.reshape(size), part)


def test_a_larger_patch_is_padded_with_background(dataset):
    config = LoaderConfig((30, 50, 36), 1, 1, flip=False)
    batch = batches(dataset, config, "dali")[0]
    case = load_case(dataset, batch["case"][0])
    inside = (slice(5, 25), slice(3, 47), slice(0, 36))
    assert np.array_equal(batch["image"][0][(slice(None), *inside)], case.image)
    assert np.array_equal(batch["label"][0][inside], case.label)
    assert batch["image"].count_nonzero() == np.count_nonzero(case.image)


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("patch", [(44, 36), (5, 9, 9)])
def test_foreground_fraction(dataset, fraction, patch):
    config = LoaderConfig(patch, 4, 8, foreground_fraction=fraction, flip=False)
    labels = torch.cat([batch["label"] for batch in batches(dataset, config)])
    on_tumour = labels.flatten(1).any(1) if len(patch) == 2 else labels[:, 2, 4, 4] > 0
    assert on_tumour.float().mean() == fraction


def test_batches_are_full_mixed_and_seeded(dataset):
    config = LoaderConfig((24, 24), 4, 6, seed=9)
    out = batches(dataset, config, epochs=(0, 1))
    seeds = [seed for batch in out for seed in batch["seed"]]
    assert all(len(batch["case"]) == 4 for batch in out)
    assert len(set(seeds)) == len(seeds) == 2 * 32
    assert {seed[:2] for seed in seeds} == {(9, 0), (9, 1)}
    assert {name for batch in out[:8] for name in batch["case"]} == set(ids(dataset))
    assert sum(len(set(batch["case"])) > 1 for batch in out) > len(out) // 2
    assert out[0]["case"] != out[8]["case"]
    other = batches(dataset, LoaderConfig((24, 24), 4, 6))
    assert not torch.equal(out[0]["image"], other[0]["image"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_start_batch_gives_the_tail_also_with_bad_cases(bad_root, decoded, backend):
    data = discover(bad_root)
    config = LoaderConfig((24, 24), 2, 2)
    whole = batches(data, config, backend, epochs=(3,))
    for start in (1, 3, 5):
        assert_equal(batches(data, config, backend, epochs=(3,), start=start), whole[start:])
    assert batches(data, config, backend, epochs=(3,), start=6) == []
    decoded.clear()
    last = batches(data, config, backend, epochs=(3,), start=5)
    assert len(decoded) <= 2 + (len(set(last[0]["case"])) > 1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("world", [2, 3, 5])
def test_ranks_share_each_batch(dataset, backend, world):
    """Also where they cannot have equally many of its samples, and from the middle of an epoch."""
    config = LoaderConfig((24, 24), 5, 4, micro_batch=1)
    alone = batches(dataset, config, epochs=(0, 1), start=1)
    shares = [
        batches(dataset, config, backend, epochs=(0, 1), start=1, rank=rank, world=world)
        for rank in range(world)
    ]
    assert {len(share) for share in shares} == {len(alone)} == {6}
    sizes = [{len(batch["case"]) for batch in share} for share in shares]
    assert sizes == [{5 // world + (rank < 5 % world)} for rank in range(world)]
    for whole, *parts in zip(alone, *shares, strict=True):
        assert whole["seed"] == [seed for part in parts for seed in part["seed"]]
        assert torch.equal(whole["image"], torch.cat([part["image"] for part in parts]))
        assert torch.equal(whole["label"], torch.cat([part["label"] for part in parts]))


def test_ranks_divide_the_work_of_decoding(tmp_path, decoded):
    data = discover(write_cases(tmp_path, 16, shape=(6, 12, 12)))
    config = LoaderConfig((8, 8), 16, 8, foreground_fraction=None)
    for rank in range(4):
        batches(data, config, rank=rank, world=4)
    # each rank would decode all of them, were samples of a case anywhere in a batch
    assert len(decoded) <= 2.2 * 16


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        ((8,), [[8]]),
        ((8, 1, 2), [[2, 2, 2, 2]]),
        ((8, 4, 2), [[2], [2], [2], [2]]),
        ((5, 2, 2), [[2, 1], [2]]),
        ((3, 2, 1), [[1, 1], [1]]),
        ((5, 1, 4), [[3, 2]]),
        ((2, 2, 9), [[1], [1]]),
    ],
    ids=str,
)
def test_a_batch_is_divided_evenly(given, sizes):
    assert divide(*given) == sizes


def test_fewer_samples_than_processes_are_refused():
    with pytest.raises(UsageError, match=r"data.batch_size is 2, for 3 processes together; wanted"):
        divide(2, 3)


def test_decoding_runs_a_bounded_distance_ahead(tmp_path, decoded):
    data = discover(write_cases(tmp_path, 24, shape=(6, 12, 12)))
    with open_loader(data, LoaderConfig((8, 8), 2, 2), "torch") as loader:
        next(loader.epoch(0))
        time.sleep(0.2)
        assert 2 <= len(decoded) <= 8


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_bad_case_is_named_and_replaced(bad_root, backend, caplog):
    data = discover(bad_root)
    config = LoaderConfig((24, 24), 4, 4)
    with open_loader(data, config, backend) as loader:
        out = [*loader.epoch(0), *loader.epoch(1)]
        assert list(loader.quarantined) == ["Case_02"]
        assert "Case_02_t2.nii.gz" in loader.quarantined["Case_02"]
    names = [name for batch in out[: len(out) // 2] for name in batch["case"]]
    assert names.count("Case_03") == 8
    assert "Case_02" not in names
    assert sum("Case_02" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("blank", [2, 3])
def test_labels_of_background_alone_are_one_warning(tmp_path, caplog, blank):
    data = discover(write_cases(tmp_path, 3))
    for index in range(blank):
        rewrite(tmp_path, f"Case_{index:02}", lambda label: label * 0, "seg")
    with open_loader(data, LoaderConfig((8, 8), 4, 4)) as loader:
        assert all([*loader.epoch(0), *loader.epoch(1)])
    said = [message for message in caplog.messages if "background alone" in message]
    assert len(said) == (blank == 3)
    with open_loader(data, LoaderConfig((8, 8), 4, 4, foreground_fraction=None)) as loader:
        assert list(loader.epoch(0))
    assert [message for message in caplog.messages if "background alone" in message] == said


@pytest.mark.parametrize("backend", BACKENDS)
def test_too_many_bad_cases_end_the_epoch(bad_root, backend):
    for name in ("Case_03", "Case_04"):
        (bad_root / name / f"{name}_flair.nii.gz").write_bytes(b"nothing")
    data = discover(bad_root)
    config = LoaderConfig((24, 24), 4, 4, max_bad=0.4)
    with open_loader(data, config, backend) as loader:
        with pytest.raises(DataError, match=r"(?s)3 bad.*2 allowed.*Case_02.*Case_03.*Case_04"):
            list(loader.epoch(0))
        with pytest.raises(DataError, match="Case_04"):
            loader.epoch(1)
    assert batches(data, LoaderConfig((24, 24), 4, 4, max_bad=0.5), backend)


def test_no_good_case_left(tmp_path):
    root = write_cases(tmp_path, 1)
    rewrite(root, "Case_00", lambda data: data[:-1])
    with pytest.raises(DataError, match="no usable case"):
        batches(discover(root), LoaderConfig((24, 24), 4, 4))


def _nan(data):
    data = data.astype(np.float32)
    data[9, 20, 20] = np.nan
    return data


FAULTS = [
    ("t1", _nan, "NaN"),
    ("t1", lambda data: data[:-1], "shape"),
    ("seg", lambda data: data + 5 * (data == 1), "6"),
]


@pytest.mark.parametrize(("modality", "change", "reason"), FAULTS)
def test_reasons_for_setting_a_case_aside(tmp_path, modality, change, reason):
    root = write_cases(tmp_path, 3)
    path = rewrite(root, "Case_01", change, modality)
    data = discover(root)
    with open_loader(data, LoaderConfig((24, 24), 4, 4), "dali") as loader:
        for batch in loader.epoch(0):
            assert batch["image"].isfinite().all()
            assert "Case_01" not in batch["case"]
        assert reason in loader.quarantined["Case_01"]
        assert path.name in loader.quarantined["Case_01"]


def test_an_empty_case_and_a_lost_file_are_set_aside(tmp_path):
    root = write_cases(tmp_path, 5)
    for modality in MODALITIES:
        rewrite(root, "Case_00", np.zeros_like, modality)
    data = discover(root)
    os.unlink(root / "Case_03" / "Case_03_t2.nii.gz")
    config = LoaderConfig((24, 24), 4, 4, max_bad=0.4, cache="disk", cache_dir=tmp_path / "kept")
    with open_loader(data, config) as loader:
        list(loader.epoch(0))
        assert "0 everywhere" in loader.quarantined["Case_00"]
        assert "Case_03_t2.nii.gz" in loader.quarantined["Case_03"]


@pytest.mark.parametrize("value", [0, 7])
def test_a_modality_of_one_value_normalises_to_zero(tmp_path, value):
    root = write_cases(tmp_path, 1)
    rewrite(root, "Case_00", lambda data: value * (data != 0).astype(np.int16))
    data = discover(root)
    assert not load_case(data, "Case_00").image[0].any()
    ours, theirs = (batches(data, LoaderConfig((24, 24), 4, 4), b) for b in BACKENDS)
    assert not ours[0]["image"][:, 0].any()
    assert_equal(ours, theirs)


RANGES = (
    {"normalise": "percentile", "percentiles": (1, 99), "value_range": (-1, 1)},
    {"normalise": "window", "window": (-160, 240), "value_range": (0, 1)},
)


@pytest.mark.parametrize("values", RANGES)
@pytest.mark.parametrize("patch", [(24, 24), (64, 48), (8, 16, 16)])
def test_volumes_are_mapped_to_a_range(dataset, patch, values, tmp_path):
    config = LoaderConfig(patch, 3, 4, flip=False, seed=5, **values)
    ours, theirs = (batches(dataset, config, b) for b in BACKENDS)
    assert_equal(ours, theirs)
    cached = LoaderConfig(patch, 3, 4, flip=False, seed=5, cache="disk",
                          cache_dir=tmp_path, **values)  # fmt: skip
    batches(dataset, LoaderConfig(patch, 3, 4, cache="disk", cache_dir=tmp_path))  # other entries
    for _ in range(2):
        assert_equal(ours, batches(dataset, cached))
    case = load_case(dataset, "Case_01", config.rule)
    raw = np.asarray(nibabel.load(dataset.by_id("Case_01").images["t2"]).dataobj).T.astype(float)
    low, high = values.get("window") or np.percentile(raw[raw != 0], values["percentiles"])
    first, last = values["value_range"]
    exact = first + (raw.clip(low, high) - low) / (high - low) * (last - first)
    channel = case.image[dataset.modalities.index("t2")]
    np.testing.assert_allclose(channel, exact, rtol=1e-5, atol=1e-5)
    assert ours[0]["image"].min() == pytest.approx(first, abs=1e-5)


def test_ranges_need_their_numbers_and_serve_volumes_of_one_value(tmp_path, dataset):
    with pytest.raises(UsageError, match="percentile"):
        load_case(dataset, "Case_01", "percentile")
    root = write_cases(tmp_path, 1)
    rewrite(root, "Case_00", lambda data: 7 * (data != 0).astype(np.int16))
    config = LoaderConfig((24, 24), normalise="percentile", value_range=(-1, 1))
    assert (load_case(discover(root), "Case_00", config.rule).image[0] == -1).all()


def test_without_a_look_at_labels_none_are_needed(tmp_path):
    root = write_cases(tmp_path, 2)
    for name in ("Case_00", "Case_01"):
        os.unlink(root / name / f"{name}_seg.nii.gz")
    config = LoaderConfig((24, 24), 4, 4, foreground_fraction=None)
    ours, theirs = (batches(discover(root), config, b) for b in BACKENDS)
    assert_equal(ours, theirs)
    assert not ours[0]["label"].any()


def test_slices_have_enough_brain(dataset):
    config = LoaderConfig((44, 36), 4, 32, foreground_fraction=None, flip=False)
    shares = {}
    for least in (0.0, 0.2, 0.9):
        found = batches(dataset, replace(config, least_brain=least))
        brain = torch.cat([batch["image"] for batch in found]).ne(0).any(1)
        shares[least] = brain.float().mean((1, 2)).min().item()
    assert shares[0.0] < 0.1 < 0.2 <= shares[0.2]
    assert shares[0.9] == shares[0.0]  # no slice has as much: any will do


def test_stored_types_mix(tmp_path):
    root = tmp_path / "data"
    for index, dtype in enumerate((np.int16, np.uint8, np.float32, ">i2", np.int32, np.float64)):
        write_case(root, f"Case_{index}", index, dtype=dtype)
    folder = write_case(root, "Case_scaled", 9)
    for path in folder.glob("*_t*.nii.gz"):
        save(path, np.asarray(nibabel.load(path).dataobj).T.astype(np.float32), slope=0.5)
    data = discover(root)
    config = LoaderConfig((44, 36), 4, 2, flip=False)
    ours, theirs = (batches(data, config, b, epochs=(0, 1)) for b in BACKENDS)
    assert_equal(ours, theirs)
    whole = {name: load_case(data, name).image for name in ids(data)}
    for batch in ours:
        for name, image in zip(batch["case"], batch["image"], strict=True):
            assert (whole[name] == image.numpy()[:, None]).all((0, 2, 3)).any()
    scaled = np.asarray(nibabel.load(folder / "Case_scaled_t1.nii.gz").dataobj).T
    assert decode.read_case(data.by_id("Case_scaled"), ("t1",)).images[0] == pytest.approx(scaled)


def test_a_passing_read_error_is_retried(dataset, monkeypatch):
    monkeypatch.setattr(source, "RETRY_PAUSES_S", (0.0, 0.0))
    read, failures = source.read_case, {"Case_01": 2, "Case_03": 3}

    def shaky(case, *rest):
        if failures.get(case.id, 0):
            failures[case.id] -= 1
            raise NiftiError(case.images["t1"], "i/o") from OSError(errno.EIO, "i/o")
        return read(case, *rest)

    monkeypatch.setattr(source, "read_case", shaky)
    config = LoaderConfig((24, 24), 4, 4, threads=1)
    with open_loader(dataset, config, "torch") as loader:
        list(loader.epoch(0))
        assert list(loader.quarantined) == ["Case_03"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_unforeseen_error_reaches_the_consumer_with_the_case(dataset, monkeypatch, backend):
    def broken(case, *_):
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(source, "read_case", broken)
    with pytest.raises(FastsegError, match=r"Case_0\d: ZeroDivisionError: odd"):
        batches(dataset, LoaderConfig((24, 24), 4, 4), backend)


def test_a_stuck_read_is_reported_and_does_not_block_closing(dataset, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(workers, "WATCHDOG_S", 0.3)
    monkeypatch.setattr(source, "read_case", lambda *_: release.wait(30))
    loader = open_loader(dataset, LoaderConfig((24, 24)), "torch")
    with pytest.raises(DataError, match=r"case Case_0\d: no answer"):
        next(loader.epoch(0))
    release.set()
    loader.close()
    with pytest.raises(UsageError, match="closed"):
        loader.epoch(0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_leaving_an_epoch_early_leaves_nothing_behind(dataset, backend):
    before = threading.active_count()
    config = LoaderConfig((24, 24), 4, 4)
    with open_loader(dataset, config, backend) as loader:
        for epoch in range(3):
            for batch in loader.epoch(epoch):
                first = batch
                break
        again = next(loader.epoch(2))
        assert torch.equal(first["image"], again["image"])
        copy = again["image"].clone()
        list(loader.epoch(0))
        assert torch.equal(again["image"], copy)
    assert threading.active_count() == before


def test_the_next_batch_is_made_while_one_is_in_use(dataset, monkeypatch):
    run, made = augment.run, threading.Semaphore(0)

    def counted(*arguments):
        for item in run(*arguments):
            made.release()
            yield item

    monkeypatch.setattr(augment, "run", counted)
    with open_loader(dataset, LoaderConfig((24, 24)), "torch") as loader:
        epoch = loader.epoch(0)
        next(epoch)
        assert all(made.acquire(timeout=20) for _ in range(2))


def test_an_abandoned_loader_ends_its_threads(dataset):
    before = threading.active_count()
    loader = open_loader(dataset, LoaderConfig((24, 24)), "torch")
    assert threading.active_count() == before + 3  # two that decode, one that makes batches
    del loader
    assert threading.active_count() == before


EXIT = """
import sys
from fastseg.data.pipeline import source, workers
from fastseg.data.cases import discover
from fastseg.data.pipeline import Loader, LoaderConfig
data = discover(ROOT)
loader = Loader(data, [case.id for case in data.cases], LoaderConfig((8, 8)), backend="torch")
if STATE == "stuck":
    source.read_case = lambda *_: __import__("threading").Event().wait()
    workers.WATCHDOG_S = 0.2
for batch in loader.epoch(0):
    sys.exit(7)
"""


@pytest.mark.parametrize(("state", "code"), [("running", 7), ("stuck", 1)])
def test_the_interpreter_can_exit_at_any_time(dataset, state, code, run_python):
    given = f"ROOT, STATE = {str(dataset.root)!r}, {state!r}"
    result = run_python(given + EXIT, check=False, timeout=60)
    assert result.returncode == code
    assert ("no answer" in result.stderr) == (state == "stuck")


def _damage(path: Path, how: str):
    data = bytearray(path.read_bytes())
    if how == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 4
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["cut", "bit"])
@pytest.mark.parametrize("part", ["image.npy", "label.npy", "json"])
def test_a_damaged_cache_entry_is_rebuilt(dataset, tmp_path, decoded, part, how, caplog):
    config = LoaderConfig((24, 24), 4, 4, cache="disk", cache_dir=tmp_path)
    plain = batches(dataset, config)
    decoded.clear()
    assert_equal(batches(dataset, config), plain)
    assert decoded == []
    _damage(sorted(tmp_path.glob(f"*.{part}"))[0], how)
    assert_equal(batches(dataset, config), plain)
    assert len(decoded) == 1
    assert "damaged" in caplog.text
    decoded.clear()
    assert_equal(batches(dataset, config), plain)
    assert decoded == []


def test_changed_files_are_decoded_anew(tmp_path, decoded):
    root = write_cases(tmp_path / "data", 2)
    config = LoaderConfig((44, 36), 4, 4, cache="disk", cache_dir=tmp_path / "kept")
    old = batches(discover(root), config)
    rewrite(root, "Case_01", lambda data: data % 97)
    decoded.clear()
    new = batches(discover(root), config)
    assert decoded == ["Case_01"]
    assert_equal(new, batches(discover(root), LoaderConfig((44, 36), 4, 4)))
    assert not all(torch.equal(a["image"], b["image"]) for a, b in zip(old, new, strict=True))


def test_a_full_disk_is_one_warning(dataset, tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    config = LoaderConfig((24, 24), 4, 4, cache="disk", cache_dir=tmp_path)
    monkeypatch.setattr(cache.os, "replace", full)
    out = batches(dataset, config, epochs=(0, 1))
    assert_equal(out, batches(dataset, LoaderConfig((24, 24), 4, 4), epochs=(0, 1)))
    assert sum("No space left" in record.message for record in caplog.records) == 1
    assert list(tmp_path.iterdir()) == []


def test_short_memory_stops_the_ram_cache(dataset, monkeypatch, decoded, caplog):
    answers = iter([False, False])
    monkeypatch.setattr(cache, "memory_is_short", lambda: next(answers, True))
    config = LoaderConfig((24, 24), 4, 4, cache="ram", threads=1)
    out = batches(dataset, config, epochs=(0, 1))
    assert_equal(out, batches(dataset, LoaderConfig((24, 24), 4, 4), epochs=(0, 1)))
    assert sum("memory is short" in record.message for record in caplog.records) == 1


WRONG = [
    ({"patch": (8,)}, "patch"),
    ({"patch": (8, 0)}, "patch"),
    ({"batch_size": 0}, "batch_size"),
    ({"micro_batch": 0}, "micro_batch"),
    ({"samples_per_case": 2.5}, "samples_per_case"),
    ({"threads": True}, "threads"),
    ({"seed": -1}, "seed"),
    ({"foreground_fraction": 1.5}, "foreground_fraction"),
    ({"max_bad": float("nan")}, "max_bad"),
    ({"least_brain": 2}, "least_brain"),
    ({"rotate_degrees": 270}, "rotate_degrees"),
    ({"normalise": "minmax"}, "normalise"),
    ({"normalise": "percentile", "percentiles": (99, 1)}, "percentiles"),
    ({"normalise": "percentile", "percentiles": (1, 101)}, "percentiles"),
    ({"percentiles": (99, 1)}, "percentiles"),
    ({"percentiles": (5,)}, "percentiles"),
    ({"normalise": "window"}, "window"),
    ({"normalise": "window", "window": (-1e300, 1e300)}, "window"),
    ({"value_range": (0, float("inf"))}, "value_range"),
    ({"threads": 2**31}, "threads"),
    ({"patch": (8, 2**40)}, "patch"),
    ({"normalise": "percentile", "value_range": (1, 1)}, "value_range"),
    (
        {"normalise": "window", "window": (0, 9), "value_range": (-1, 1), "rotate_degrees": 5},
        "rotate_degrees",
    ),
    ({"cache": "disc"}, "cache"),
    ({"cache": "disk"}, "cache_dir"),
    ({"patch": (8, 9), "rotate90": True}, "rotate90"),
]


def test_the_readme_has_the_table_of_all_keys():
    room = Path(fastseg.__file__).parent / "data" / "README.md"
    assert markdown() in room.read_text(), "python -m fastseg.data.pipeline.config prints it"
    texts = help_of(LoaderConfig)
    assert all(texts.values())
    assert all("\n" not in text and len(text) < 200 for text in texts.values())


@pytest.mark.parametrize(("values", "name"), WRONG)
def test_wrong_configurations_are_named(values, name):
    with pytest.raises(UsageError, match=f"^{name} is"):
        LoaderConfig(**{"patch": (8, 8), **values})


def test_wrong_loader_arguments(dataset, tmp_path):
    config = LoaderConfig((8, 8))
    for options in ({"backend": "dally"}, {"rank": 2, "world": 2}):
        with pytest.raises(UsageError):
            Loader(dataset, ids(dataset), config, **options)
    with pytest.raises(UsageError, match="Case_99"):
        Loader(dataset, ["Case_99"], config)
    with pytest.raises(UsageError, match="case_ids is empty"):
        Loader(dataset, [], config)
    root = write_cases(tmp_path, 2)
    os.unlink(root / "Case_01" / "Case_01_seg.nii.gz")
    with pytest.raises(DataError, match="Case_01"):
        Loader(discover(root), ["Case_00", "Case_01"], config)
    assert load_case(discover(root), "Case_01").label is None


def test_without_dali(dataset, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(UsageError, match=r"pip install 'fastseg-mri\[dali\]'.*\[dali-cuda12\]"):
        Loader(dataset, ids(dataset), LoaderConfig((8, 8)), backend="dali")
    with caplog.at_level("INFO"):
        assert pick_backend("auto", torch.device("cuda", 0)) == "torch"
    assert sum("torch backend" in record.message for record in caplog.records) == 1


def test_dali_is_the_default_on_gpus_alone(dataset, monkeypatch):
    asked = []
    monkeypatch.setattr(dali, "unavailable", asked.append)
    assert pick_backend("auto", torch.device("cuda", 1)) == "dali"
    assert asked == [1]
    with Loader(dataset, ids(dataset), LoaderConfig((8, 8))) as loader:
        assert loader.backend == "torch"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("patch", [(24, 24), (8, 24, 24)])
@pytest.mark.parametrize("degrees", [0.0, 20.0])
def test_the_gpu_gives_the_same_batches(dataset, patch, degrees):
    config = LoaderConfig(patch, 3, 4, rotate90=True, rotate_degrees=degrees)
    wanted = batches(dataset, config, "torch", epochs=(0, 1))
    inside = (..., slice(2, -2), slice(2, -2))
    for backend in BACKENDS:
        out = batches(dataset, config, backend, epochs=(0, 1), device="cuda")
        for a, b in zip(out, wanted, strict=True):
            assert a["image"].is_cuda
            assert torch.equal(a["label"].cpu(), b["label"])
            difference = (a["image"].cpu() - b["image"])[inside].abs().max()
            assert difference <= (1e-3 if degrees else 0)


@pytest.mark.skipif("FASTSEG_REAL_DATA" not in os.environ, reason="FASTSEG_REAL_DATA is not set")
@pytest.mark.parametrize("patch", [(192, 192), (64, 96, 96)])
def test_real_cases(patch):
    data = discover(os.environ["FASTSEG_REAL_DATA"])
    config = LoaderConfig(patch, 2, 2, rotate90=True)
    ours, theirs = (batches(data, config, b, epochs=(0,)) for b in BACKENDS)
    assert_equal(ours, theirs)
    assert_equal(batches(data, config, "dali", start=1), ours[1:])
    arrays = load_case(data, data.cases[0])
    volume = nibabel.load(data.cases[0].images[data.modalities[0]])
    raw = np.asarray(volume.dataobj).T
    assert np.array_equal(arrays.image[0] == 0, raw == 0) or (raw < 0).any()
    assert abs(arrays.image[0][raw != 0].mean()) < 1e-4


@pytest.mark.parametrize("limits", [(0.0, 1.0), (-1.0, 1.0), (0.5, 2.0)])
def test_background_is_the_lowest_value_of_a_range_whatever_the_brains_sign(limits):
    rule = Rule("percentile", (0, 100), None, limits)
    raw = torch.tensor([-2.0, 0.0, 3.0, 0.0, 0.5]).view(1, 1, 1, 5)
    stats = torch.from_numpy(rule.rows(np.array([[-2.0], [3.0], [0.0], [1.0]], np.float32)))
    found = augment.normalise(raw, stats.view(4, 1, 1, 1), rule.of_zero, torch.empty(1, 1, 1, 5))
    values = found.flatten().tolist()
    assert values[1] == values[3] == limits[0] == rule.background
    assert values[2] == pytest.approx(limits[1])
    assert values[0] < values[4] < values[2]
    assert values[0] >= limits[0] - 1e-6
