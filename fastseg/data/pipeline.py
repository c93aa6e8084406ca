"""Batches for training and whole volumes for sampling, from NIfTI cases.

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
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from fastseg.data import augment, bezier, dali, nifti, strong
from fastseg.data.crop import Sample, cut_samples, slice_range
from fastseg.data.decode import label_classes, locate, read_case
from fastseg.data.division import divide
from fastseg.data.intensity import CT_ADVICE, PERCENTILES, Rule, as_rule
from fastseg.data.source import CaseSource
from fastseg.data.workers import Workers
from fastseg.errors import UsageError

log = logging.getLogger(__name__)
CACHES = ("none", "ram", "disk")
BACKENDS = ("auto", "dali", "torch")
# Third words of seeds that are not sample numbers.
_CASE_ORDER, _SAMPLE_ORDER = 2**32 - 1, 2**32 - 2
_MODALITY = 2**32 - 6  # fourth word, apart from the sample's other draws


@dataclass(frozen=True)
class LoaderConfig:
    """What a batch holds and how it is made. Raises UsageError naming a wrong field.

    `patch` is (H, W) for axial slices or (D, H, W) for volumes, in voxels. `batch_size` samples, of
    all processes together, are one step of the optimiser. A process has an equal share of them and
    shows the network at most `micro_batch` of it at a time, null for all, adding up gradients;
    what is no mean over samples (batch norm, Dice or contrasts over a batch, averages that move
    with each pass) is then that of such a part. `samples_per_case` are cut from one decode;
    `foreground_fraction` of them are centred on tumour, null centres them on brain without a look
    at the label, which a case then need not have. `flip` mirrors H and W with probability 0.5 each,
    `flip_depth` D of volumes, `rotate90` turns by a random quarter turn, `rotate_degrees` is the
    largest random in-plane angle. `strong` then makes three more changes (data/strong.py).
    `bezier_domains`, some of 0, 1, 2, sends intensities along random curves (data/bezier.py): with
    `bezier_apart` each patient has one of these domains, else each sample draws one;
    `legacy_bezier` has the published mistake that makes 2 the same as 1. `single_modality` shows
    one modality of each sample, drawn from its seed, in one channel.
    `least_brain` is the share of a slice that brain should fill, for those not chosen by tumour.
    `normalise`, `percentiles`, `window` and `value_range` are those of `data.intensity.Rule`:
    "zscore" is per volume over the brain, "slice_minmax" maps each axial slice to [0, 1],
    "percentile" each volume from two percentiles of its brain to `value_range`, "window" stored
    values from `window` to it. `cache` keeps decoded cases in memory ("ram") or in `cache_dir`
    ("disk"); without, each process decodes in every epoch the cases that it has samples of.
    `max_bad` is the share of cases (at least one case) that may turn out bad.
    """

    patch: tuple[int, ...]
    batch_size: int = 8
    samples_per_case: int = 8
    foreground_fraction: float | None = 0.5
    flip: bool = True
    rotate90: bool = False
    rotate_degrees: float = 0.0
    flip_depth: bool = False
    strong: bool = False
    bezier_domains: tuple[int, ...] | None = None
    bezier_apart: bool = True
    legacy_bezier: bool = False
    single_modality: bool = False
    least_brain: float = 0.0
    normalise: str = "zscore"
    percentiles: tuple[float, ...] = PERCENTILES
    window: tuple[float, ...] | None = None
    value_range: tuple[float, ...] = (0.0, 1.0)
    cache: str = "none"
    cache_dir: str | Path | None = None
    threads: int = 2
    seed: int = 0
    max_bad: float = 0.02
    micro_batch: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "patch", tuple(self.patch))
        _want(len(self.patch) in (2, 3) and all(_whole(n, 1) for n in self.patch),
              "patch", self.patch, "(H, W) or (D, H, W) in voxels")  # fmt: skip
        for name in ("batch_size", "samples_per_case", "threads"):
            value = getattr(self, name)
            _want(_whole(value, 1), name, value, "a whole number from 1")
        _want(self.micro_batch is None or _whole(self.micro_batch, 1), "micro_batch",
              self.micro_batch, "a whole number from 1, or null")  # fmt: skip
        _want(_whole(self.seed, 0), "seed", self.seed, "a whole number from 0")
        for name in ("foreground_fraction", "max_bad", "least_brain"):
            value = getattr(self, name)
            blind = name == "foreground_fraction" and value is None
            _want(blind or 0 <= value <= 1, name, value, "between 0 and 1")
        _want(0 <= self.rotate_degrees <= 180, "rotate_degrees", self.rotate_degrees, "0 to 180")
        ranged = self.rule.name in ("percentile", "window")
        for name in ("rotate_degrees", "strong"):
            value = getattr(self, name)
            _want(not (value and ranged and self.value_range[0]), name, value,
                  f"{type(value)(0)} where background is not 0: corners turn to 0")  # fmt: skip
        _want(self.cache in CACHES, "cache", self.cache, ", ".join(CACHES))
        _want(self.cache != "disk" or self.cache_dir, "cache_dir", None, "a folder for cache=disk")
        _want(not self.rotate90 or self.patch[-1] == self.patch[-2],
              "rotate90", True, "a patch with H = W")  # fmt: skip
        if self.bezier_domains is not None:
            object.__setattr__(self, "bezier_domains", tuple(self.bezier_domains))
            _check_domains(self)

    @property
    def at_once(self) -> int:
        """Samples that a network is shown at a time when it is not trained."""
        return self.micro_batch or self.batch_size

    @property
    def rule(self) -> Rule:
        """How intensities are normalised."""
        return Rule(self.normalise, self.percentiles, self.window, self.value_range)


def _want(good: bool, name: str, value, wanted: str) -> None:
    if not good:
        raise UsageError(f"{name} is {value!r}; wanted {wanted}")


def _check_domains(config: LoaderConfig) -> None:
    domains = config.bezier_domains
    _want(domains and len(set(domains)) == len(domains) and set(domains) <= set(bezier.DOMAINS),
          "bezier_domains", domains, "different ones of 0, 1, 2")  # fmt: skip
    _want((config.normalise, tuple(config.value_range)) == ("percentile", (0, 1)), "normalise",
          config.normalise, "percentile to the range 0, 1 for bezier_domains")  # fmt: skip


def _whole(value, least: int) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= least


class Loader:
    """One rank's shares of the batches, a pure function of (seed, epoch, batch number).

    A batch is the same in whatever number of ranks it is divided, one share after another. A share
    is {"image": float32 (B, C, *patch), "label": uint8 class indices (B, *patch), "case": list of
    ids, "seed": list of (seed, epoch, sample)}, on `device`; with `bezier_domains` "domain" too,
    each sample's place in them, int64 (B,). Batches are always full: the last one draws further
    samples from the epoch's first cases.

    `dataset` is a `cases.Dataset`; `backend` "auto" is DALI on a GPU where it is installed, torch
    elsewhere: on a CPU that is faster on volumes. A case that cannot be used is listed in
    `quarantined` and replaced by the next good one in id order. Raises UsageError for wrong
    arguments, DataError for cases without label, and from `epoch` when too many cases are bad.
    """

    def __init__(self, dataset, case_ids, config: LoaderConfig, *, backend: str = "auto",
                 device: str | torch.device = "cpu", rank: int = 0, world: int = 1):  # fmt: skip
        _want(backend in BACKENDS, "backend", backend, ", ".join(BACKENDS))
        _want(_whole(world, 1) and 0 <= rank < world, "rank", (rank, world), "0 <= rank < world")
        self.config, division = config, divide(config.batch_size, world, config.micro_batch)
        shares = [sum(parts) for parts in division]
        self._share = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
        self._divided = sum(map(len, division)) > 1
        self.device = torch.device(device)
        self.backend = _resolve(backend, self.device)
        self.modalities = tuple(dataset.modalities)
        if "ct" in self.modalities and config.normalise != "window":
            log.warning("%s: channel ct %s", dataset.root, CT_ADVICE)
        self._source = CaseSource(dataset, case_ids, config)
        self._domains = bezier.Domains(config, self._source.cases)
        self._workers = Workers(config.threads)
        # On a GPU the device stage only queues work; here the step would wait for it.
        self._stage = Workers(1) if self.device.type == "cpu" else None
        self._end = weakref.finalize(self, _close, self._stage, self._workers)

    @property
    def quarantined(self) -> dict[str, str]:
        """Reason by id of every bad case met so far."""
        return self._source.quarantined

    @property
    def batches_per_epoch(self) -> int:
        """Batches in an epoch, the last one filled up."""
        samples = len(self._source.cases) * self.config.samples_per_case
        return math.ceil(samples / self.config.batch_size)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[dict]:
        """The batches of an epoch from `start_batch` on; earlier ones are not decoded."""
        _want(self._end.alive, "loader", "closed", "an open one")
        _want(_whole(epoch, 0), "epoch", epoch, "a whole number from 0")
        _want(_whole(start_batch, 0), "start_batch", start_batch, "a whole number from 0")
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
        """The samples of a batch by case, where it is divided: so few ranks decode each case."""
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
        """Sample numbers of all ranks, shuffled within windows of consecutive cases; sample n is
        cut from the case at place n // samples_per_case.
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
    """One channel (B, 1, *S) of each sample (B, C, *S)."""
    channels = image.shape[1]
    chosen = [np.random.default_rng((*seed, _MODALITY)).integers(channels) for seed in seeds]
    return torch.stack([x[c : c + 1] for x, c in zip(image, chosen, strict=True)])


def _resolve(backend: str, device: torch.device) -> str:
    if backend == "torch":
        return backend
    if backend == "dali":
        _want(device.type in ("cpu", "cuda"), "device", str(device),
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


@dataclass(frozen=True)
class CaseArrays:
    """One case: image float32 (C, D, H, W) normalised, label uint8 (D, H, W) or None, header."""

    image: np.ndarray
    label: np.ndarray | None
    header: nifti.Header


def load_case(dataset, case, rule: Rule | str = "zscore") -> CaseArrays:
    """Read a whole case (a `Case` or its id), normalised exactly as training batches are.

    rule: `LoaderConfig.rule`, or the name of one without numbers. Raises DataError naming the file
    when it cannot be used, UsageError for an unknown rule.
    """
    rule = as_rule(rule)
    case = dataset.by_id(case) if isinstance(case, str) else case
    raw = read_case(case, dataset.modalities)
    label = None if raw.label is None else label_classes(raw, case, dataset.scheme)
    if rule.per_slice:
        stats = slice_range(raw.images)
    else:
        stats = rule.rows(locate(raw, case, rule).stats)[:, :, None]
    image = np.empty((len(raw.images), *raw.images[0].shape), np.float32)
    for channel, volume in enumerate(raw.images):
        rows = stats[:, channel, :, None, None]
        augment.normalise(volume, rows, rule.of_zero, image[channel])
    return CaseArrays(image, label, raw.header)
