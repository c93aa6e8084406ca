"""Memory of this process over many calls, reads and validations: what grows without an end."""

import ctypes
import gc
import os
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from campaign.child import small_run
from fastseg import ops, tasks
from fastseg.data import nifti
from fastseg.data.cases import check, discover
from fastseg.host.files import harmless
from fastseg.sample import sample
from fastseg.tasks.network import Trained

REPEATS = 20  # of each kind, in a round
MOST_GROWTH = 0.005  # of memory, in a round after the first ones
_WARM_UP = 2  # rounds


class Part:
    """The same work again and again, in one process."""

    def __init__(self, scratch: Path):
        self.data, self.run = small_run(scratch)
        self.dataset, self.rounds = discover(self.data), 0
        self.trained = Trained.load(self.run)
        self.net = self.trained.network()
        self.task = tasks.of(self.trained.recipe.system)

    def round(self, rng: np.random.Generator, folder: Path) -> Counter:
        work = (self._operators, self._read, self._check, self._validate, self._sample)
        grown = {}
        for run in work:
            before, files = memory(), _open_files()
            for _ in range(REPEATS):
                run(rng, folder)
            grown[run.__name__.strip("_")] = memory() - before
            assert _open_files() <= files, f"{run.__name__} leaves files open"
        self.rounds += 1
        total, now = sum(grown.values()), memory()
        (folder / "grown.txt").write_text(f"{grown}, bytes of {now}\n")
        if self.rounds > _WARM_UP:
            assert total <= MOST_GROWTH * now, f"grown by {grown} bytes of {now}"
        return Counter({"calls": REPEATS * len(work)})

    def _operators(self, rng: np.random.Generator, folder: Path) -> None:
        sizes = tuple(int(n) for n in rng.integers(8, 40, rng.integers(1, 4)))
        x = torch.randn(1, 3, *sizes, requires_grad=True)
        weight = torch.randn(3, 3, *[2] * len(sizes), dtype=torch.complex64, requires_grad=True)
        y = ops.spectral_conv(x, weight)
        y = y + ops.gaussian_filter(x, sigma=float(rng.uniform(0.5, 3)))
        y.square().sum().backward()

    def _read(self, rng: np.random.Generator, folder: Path) -> None:
        for path in self.data.glob("*/*.nii.gz"):
            nifti.read(path)

    def _check(self, rng: np.random.Generator, folder: Path) -> None:
        assert not check(discover(self.data), threads=1)

    def _validate(self, rng: np.random.Generator, folder: Path) -> None:
        recipe, case = self.trained.recipe, self.trained.split["val"][0]
        found = self.task.validate(self.net, recipe, self.dataset, case, 0, lambda *_: None)
        with harmless(folder / "overlay.png"):
            found.draw(folder / "overlay.png")

    def _sample(self, rng: np.random.Generator, folder: Path) -> None:
        sample(self.run, self.data, folder / str(rng.integers(2**62)), part="val")


def memory() -> int:
    """Resident bytes, without what could be given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))
