"""What a batch holds and how it is made, as data."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastseg.data.pipeline.intensity import PERCENTILES, Rule
from fastseg.errors import UsageError

CACHES = ("none", "ram", "disk")
DOMAINS = (0, 1, 2)  # of intensities, for `bezier_domains`


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
        want(len(self.patch) in (2, 3) and all(whole(n, 1) for n in self.patch),
              "patch", self.patch, "(H, W) or (D, H, W) in voxels")  # fmt: skip
        for name in ("batch_size", "samples_per_case", "threads"):
            value = getattr(self, name)
            want(whole(value, 1), name, value, "a whole number from 1")
        want(self.micro_batch is None or whole(self.micro_batch, 1), "micro_batch",
              self.micro_batch, "a whole number from 1, or null")  # fmt: skip
        want(whole(self.seed, 0), "seed", self.seed, "a whole number from 0")
        for name in ("foreground_fraction", "max_bad", "least_brain"):
            value = getattr(self, name)
            blind = name == "foreground_fraction" and value is None
            want(blind or 0 <= value <= 1, name, value, "between 0 and 1")
        want(0 <= self.rotate_degrees <= 180, "rotate_degrees", self.rotate_degrees, "0 to 180")
        ranged = self.rule.name in ("percentile", "window")
        for name in ("rotate_degrees", "strong"):
            value = getattr(self, name)
            want(not (value and ranged and self.value_range[0]), name, value,
                  f"{type(value)(0)} where background is not 0: corners turn to 0")  # fmt: skip
        want(self.cache in CACHES, "cache", self.cache, ", ".join(CACHES))
        want(self.cache != "disk" or self.cache_dir, "cache_dir", None, "a folder for cache=disk")
        want(not self.rotate90 or self.patch[-1] == self.patch[-2],
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


def want(good: bool, name: str, value, wanted: str) -> None:
    if not good:
        raise UsageError(f"{name} is {value!r}; wanted {wanted}")


def _check_domains(config: LoaderConfig) -> None:
    domains = config.bezier_domains
    want(domains and len(set(domains)) == len(domains) and set(domains) <= set(DOMAINS),
          "bezier_domains", domains, "different ones of 0, 1, 2")  # fmt: skip
    want((config.normalise, tuple(config.value_range)) == ("percentile", (0, 1)), "normalise",
          config.normalise, "percentile to the range 0, 1 for bezier_domains")  # fmt: skip


def whole(value, least: int) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= least
