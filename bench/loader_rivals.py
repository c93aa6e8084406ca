"""What the loader is measured against: nibabel and MONAI, on the same files.

MONAI's cached chain is the one its users have: deterministic transforms kept on disk by
`PersistentDataset`, then random crops and flips. Its loaders are `DataLoader` with worker
processes, the usual one, and `ThreadDataLoader` with as many threads, which spares the copies
between processes but has one interpreter.
"""

import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

KINDS = ("processes", "threads")


def in_threads(load: Callable, cases, threads: int) -> None:
    """Call `load(case)` of every case, in threads."""
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(load, cases):
            pass


def nibabel_load(case, modalities) -> None:
    """Load every image as float32, the label as stored."""
    import nibabel

    for name in modalities:
        nibabel.load(case.images[name]).get_fdata(dtype=np.float32)
    np.asarray(nibabel.load(case.label).dataobj)


def monai_load(dataset, patch) -> Callable:
    """Make a call of MONAI's deterministic transforms of one case, without a cache."""
    from monai.transforms import Compose

    chain = Compose(_deterministic(patch))
    return lambda case: chain(_item(case, dataset))


def _item(case, dataset) -> dict:
    files = [str(case.images[name]) for name in dataset.modalities]
    return {"image": files, "label": str(case.label)}


def _deterministic(patch) -> list:
    from monai import transforms as t

    keys = ("image", "label")
    return [
        t.LoadImaged(keys),
        t.EnsureChannelFirstd(keys),
        t.CropForegroundd(keys, source_key="image"),
        t.NormalizeIntensityd("image", nonzero=True, channel_wise=True),
        t.SpatialPadd(keys, _size(patch)),
    ]


def _size(patch) -> tuple[int, ...]:
    # MONAI's axes are x, y, z; a slice is one voxel of z
    return (*reversed(patch), 1) if len(patch) == 2 else tuple(reversed(patch))


def persistent(dataset, work, folder: str, kind: str):
    """A MONAI loader of batches like ours: `work` says patch, threads and samples of a case, which
    are a batch here. `kind` is one of KINDS.
    """
    from monai import transforms as t
    from monai.data import DataLoader, PersistentDataset, ThreadDataLoader

    keys = ("image", "label")
    chain = [
        *_deterministic(work.patch),
        t.RandSpatialCropSamplesd(keys, _size(work.patch), work.batch, random_size=False),
        *(t.RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in (0, 1)),
    ]
    items = [_item(case, dataset) for case in dataset.cases]
    cached = PersistentDataset(items, t.Compose(chain), cache_dir=folder)
    options = {"batch_size": 1, "shuffle": True, "num_workers": work.threads}
    if kind == "threads":
        return ThreadDataLoader(cached, use_thread_workers=True, **options)
    return DataLoader(cached, persistent_workers=True, **options)


def first_epoch(dataset, work, kind: str) -> None:
    """Run an epoch that fills the cache."""
    with tempfile.TemporaryDirectory() as folder:
        through(persistent(dataset, work, folder, kind))


def through(batches: Iterable) -> None:
    """Take every batch."""
    for _ in batches:
        pass
