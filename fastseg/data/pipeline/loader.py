"""Make batches for training from NIfTI cases.

Threads decode each case once, cut all of its samples in the stored dtype and draw every random
number from (seed, epoch, sample). The device stage, DALI or torch, then casts, normalises, flips
and rotates with those numbers, so both give the same batches and every batch can be made again. On
the CPU it has a thread that makes the next batch while one is in use.
"""

import logging
import math
import weakref
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import chain

import numpy as np
import torch

from fastseg.data.pipeline import augment, bezier, dali, strong
from fastseg.data.pipeline.config import LoaderConfig, is_whole_number, want
from fastseg.data.pipeline.crop import Sample, cut_samples
from fastseg.data.pipeline.division import divide
from fastseg.data.pipeline.intensity import CT_ADVICE
from fastseg.data.pipeline.source import CaseSource
from fastseg.data.pipeline.workers import Workers

log = logging.getLogger(__name__)
BACKENDS = ("auto", "dali", "torch")
# Third words of seeds that are not sample numbers.
_CASE_ORDER, _SAMPLE_ORDER = 2**32 - 1, 2**32 - 2
_MODALITY = 2**32 - 6  # fourth word, apart from the sample's other draws


class Loader:
    """Make one rank's shares of the batches, a pure function of (seed, epoch, batch number).

    A batch is the same in whatever number of ranks it is divided, one share after another. A share
    is {"image": float32 (B, C, *patch), "label": uint8 class indices (B, *patch), "case": list of
    ids, "seed": list of (seed, epoch, sample)}, on `device`; with `bezier_domains` "domain" too,
    each sample's place in them, int64 (B,). Batches are always full: the last one draws further
    samples from the epoch's first cases.

    A case that cannot be used is listed in `quarantined` and replaced by the next good one in id
    order.

    Args:
        dataset: a `cases.Dataset`.
        case_ids: the cases of it to take samples of.
        config: what a batch holds and how it is made.
        backend: "dali", "torch" or "auto": DALI on a GPU where it is installed, torch elsewhere: on
            a CPU that is faster on volumes.
        device: where the batches are to be.
        rank, world: which of how many processes this is.

    Raises:
        UsageError: wrong arguments.
        DataError: cases without a label; from `epoch`, too many bad cases.

    >>> from fastseg.data import phantom
    >>> from fastseg.data.cases import discover
    >>> dataset = discover(phantom.write("phantoms", cases=2, size=(32, 32, 24)))
    >>> config = LoaderConfig(patch=(24, 24), batch_size=4, samples_per_case=4)
    >>> with Loader(dataset, ["Phantom00000", "Phantom00001"], config) as loader:
    ...     for batch in loader.epoch(0):
    ...         tuple(batch["image"].shape), tuple(batch["label"].shape)
    ((4, 4, 24, 24), (4, 24, 24))
    ((4, 4, 24, 24), (4, 24, 24))
    """

    def __init__(self, dataset, case_ids, config: LoaderConfig, *, backend: str = "auto",
                 device: str | torch.device = "cpu", rank: int = 0, world: int = 1):  # fmt: skip
        want(backend in BACKENDS, "backend", backend, ", ".join(BACKENDS))
        want(
            is_whole_number(world, 1) and 0 <= rank < world,
            "rank",
            (rank, world),
            "0 <= rank < world",
        )
        self.config, division = config, divide(config.batch_size, world, config.micro_batch)
        shares = [sum(parts) for parts in division]
        self._share = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
        self._divided = sum(map(len, division)) > 1
        self.device = torch.device(device)
        self.backend = pick_backend(backend, self.device)
        self.modalities = tuple(dataset.modalities)
        if "ct" in self.modalities and config.normalise != "window":
            log.warning("%s: channel ct %s", dataset.root, CT_ADVICE)
        self._source = CaseSource(dataset, case_ids, config)
        self._domains = bezier.Domains(config, self._source.cases)
        self._workers = Workers(config.threads)
        # On a GPU the device stage only queues work; on a CPU the step would wait for it.
        self._stage = Workers(1) if self.device.type == "cpu" else None
        # Runs once: by `close`, when the loader is collected, or at the interpreter's exit.
        self._end = weakref.finalize(self, _close, self._stage, self._workers)

    @property
    def quarantined(self) -> dict[str, str]:
        """Return the reason, by id, of every bad case met so far."""
        return self._source.quarantined

    @property
    def batches_per_epoch(self) -> int:
        """Return the number of batches in an epoch, the last one filled up."""
        samples = len(self._source.cases) * self.config.samples_per_case
        return math.ceil(samples / self.config.batch_size)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[dict]:
        """Yield the batches of an epoch from `start_batch` on; earlier ones are not decoded.

        Args:
            epoch: 0 or more.
            start_batch: number of the first batch, 0 or more.

        Raises:
            UsageError: a wrong number, or a loader that was closed.
            DataError: more than `max_bad` of the cases are bad.
        """
        want(self._end.alive, "loader", "closed", "an open one")
        want(is_whole_number(epoch, 0), "epoch", epoch, "a whole number from 0")
        want(is_whole_number(start_batch, 0), "start_batch", start_batch, "a whole number from 0")
        self._source.check_allowance()
        batches = self._batches(epoch, start_batch)
        return self._stage.one_ahead(batches) if self._stage else batches

    def close(self) -> None:
        """End the worker threads. The loader cannot be used afterwards."""
        self._end()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _batches(self, epoch: int, start_batch: int) -> Iterator[dict]:
        cut = self._cut_batches(epoch, start_batch)
        if self.backend == "dali":
            share = replace(self.config, batch_size=self._share.stop - self._share.start)
            ready = dali.run(cut, share, len(self.modalities), _device_id(self.device))
        else:
            ready = augment.run(cut, self.config, self.device)
        with closing(cut), closing(ready):
            for samples, image, label in ready:
                seeds = [sample.seed for sample in samples]
                if self.config.single_modality:
                    image = _one_modality(image, seeds)
                if self.config.strong:
                    image, label = strong.augment(image, label, seeds)
                batch = {"label": label, "case": [s.case for s in samples], "seed": seeds}
                if self.config.bezier_domains is not None:
                    image, batch["domain"] = self._domains.apply(image, batch["case"], seeds)
                yield {"image": image} | batch

    def _cut_batches(self, epoch: int, start_batch: int) -> Iterator[list[Sample]]:
        size, every = self.config.batch_size, self._sample_order(epoch)
        firsts = range(start_batch * size, len(every), size)
        wanted = [self._arranged(every[first : first + size])[self._share] for first in firsts]
        places: dict[int, list[int]] = {}
        for number in chain.from_iterable(wanted):
            places.setdefault(number // self.config.samples_per_case, []).append(number)
        order = self._case_order(epoch)
        index = {place: order[place % len(order)] for place in places}

        def cut(place: int) -> dict[int, Sample]:
            case_id, brain = self._source.get(index[place])
            seeds = [(self.config.seed, epoch, number) for number in places[place]]
            samples = cut_samples(brain, case_id, seeds, self.config)
            return dict(zip(places[place], samples, strict=True))

        names = {place: f"case {self._source.cases[index[place]].id}" for place in places}
        results = self._workers.ahead(cut, names, self._window() + self.config.threads)
        ready: dict[int, Sample] = {}
        for batch in wanted:
            while not all(number in ready for number in batch):
                ready.update(next(results))
            yield [ready.pop(number) for number in batch]

    def _arranged(self, batch: list[int]) -> list[int]:
        """Sort the samples of a batch by case where it is divided: so few ranks decode each."""
        per_case = self.config.samples_per_case
        return sorted(batch, key=lambda n: n // per_case) if self._divided else batch

    def _window(self) -> int:
        # Enough cases that a batch mixes several; more would only hold more crops in memory.
        per_case, batch = self.config.samples_per_case, self.config.batch_size
        return max(2, min(batch, math.ceil(4 * batch / per_case)))

    def _case_order(self, epoch: int) -> list[int]:
        rng = np.random.default_rng((self.config.seed, epoch, _CASE_ORDER))
        return rng.permutation(len(self._source.cases)).tolist()

    def _sample_order(self, epoch: int) -> list[int]:
        """Shuffle the sample numbers of all ranks within windows of consecutive cases.

        Sample n is cut from the case at place n // samples_per_case: all of them from one decode.
        Shuffled all over an epoch, crops of every case would be held until the last is used.
        """
        numbers = np.arange(self.batches_per_epoch * self.config.batch_size)
        step = self._window() * self.config.samples_per_case
        for window, first in enumerate(range(0, len(numbers), step)):
            seed = (self.config.seed, epoch, _SAMPLE_ORDER, window, 0)
            np.random.default_rng(seed).shuffle(numbers[first : first + step])
        return numbers.tolist()


def _close(*pools: Workers | None) -> None:
    for pool in filter(None, pools):
        pool.close()


def _one_modality(image: torch.Tensor, seeds: list) -> torch.Tensor:
    """Take one channel (B, 1, *S) of each sample (B, C, *S)."""
    channels = image.shape[1]
    chosen = [np.random.default_rng((*seed, _MODALITY)).integers(channels) for seed in seeds]
    return torch.stack([x[c : c + 1] for x, c in zip(image, chosen, strict=True)])


def pick_backend(backend: str, device: torch.device) -> str:
    """Return "dali" or "torch" for one of `BACKENDS`, and log why "auto" is not DALI on a GPU.

    Raises UsageError where DALI is asked for and cannot run on `device`, with what to install.

    >>> pick_backend("auto", torch.device("cpu"))
    'torch'
    """
    if backend == "torch":
        return backend
    if backend == "dali":
        want(device.type in ("cpu", "cuda"), "device", str(device),
              "cpu or cuda for backend 'dali'")  # fmt: skip
        dali.require(_device_id(device))
        return backend
    if device.type != "cuda":
        return "torch"
    reason = dali.unavailable(_device_id(device))
    if reason:
        log.info("loader: torch backend, since DALI cannot be used (%s)", reason)
    return "torch" if reason else "dali"


def _device_id(device: torch.device) -> int | None:
    if device.type == "cpu":
        return None
    return torch.cuda.current_device() if device.index is None else device.index
