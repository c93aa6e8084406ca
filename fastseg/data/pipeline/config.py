"""Describe, as data, what a batch holds and how it is made.

`python -m fastseg.data.pipeline.config` prints the table of all keys in fastseg/data/README.md.
"""

from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from fastseg.data.pipeline.intensity import PERCENTILES, Rule
from fastseg.errors import UsageError
from fastseg.fields import documented, help_of

CACHES = ("none", "ram", "disk")
DOMAINS = (0, 1, 2)  # of intensities, for `bezier_domains`


@dataclass(frozen=True)
class LoaderConfig:
    """Describe what a batch holds and how it is made; a field's metadata says what it means.

    With `micro_batch`, whatever is no mean over samples (batch norm, Dice or contrasts over a
    batch, averages that move with each pass) is that of a part, not of the whole batch. How the
    fields of intensities go together says `fastseg.data.pipeline.intensity.Rule`.

    Raises UsageError, naming the field, what it was and what was wanted.

    >>> LoaderConfig(patch=(96, 96), batch_size=4).at_once
    4
    >>> LoaderConfig(patch=(96, 96), cache="disc")
    Traceback (most recent call last):
    fastseg.errors.UsageError: cache is 'disc'; wanted one of none, ram, disk
    """

    patch: tuple[int, ...] = documented(
        "voxels of a sample: (H, W) of axial slices, (D, H, W) of volumes; where it is larger than "
        "a volume, background is added"
    )
    batch_size: int = documented(
        "samples of one optimiser step, of all processes together, each with an equal share", 8
    )
    samples_per_case: int = documented("samples cut from one decode of a case in an epoch", 8)
    foreground_fraction: float | None = documented(
        "share of samples centred on the label, 0 to 1, the others on brain outside it; null: on "
        "brain of either kind, and cases need no label",
        0.5,
    )
    flip: bool = documented("mirror H and W, each with probability 0.5", True)
    rotate90: bool = documented("turn by 0 to 3 quarter turns in the plane; wants H = W", False)
    rotate_degrees: float = documented("largest random angle in the plane, 0 to 180 degrees", 0.0)
    flip_depth: bool = documented("mirror D of volumes with probability 0.5", False)
    strong: bool = documented(
        "then up to three of six stronger changes of shape and intensity (pipeline/strong.py)",
        False,
    )
    bezier_domains: tuple[int, ...] | None = documented(
        "intensity domains, different ones of 0, 1, 2: samples follow random Bézier curves "
        "(pipeline/bezier.py); wants normalise=percentile and value_range=0,1; null: none",
        None,
    )
    bezier_apart: bool = documented(
        "each patient has one of bezier_domains; false: each sample draws one", True
    )
    legacy_bezier: bool = documented(
        "keep the mistake of the published curves, by which domain 2 is the same as 1", False
    )
    single_modality: bool = documented(
        "show one modality of each sample, drawn from its seed, in one channel", False
    )
    least_brain: float = documented(
        "share of a slice, 0 to 1, that brain fills at least, where no label chose the slice", 0.0
    )
    normalise: str = documented(
        "zscore: by mean and deviation of a volume's brain; slice_minmax: each axial slice to 0, "
        "1; percentile: from percentiles of the brain to value_range; window: from window to it",
        "zscore",
    )
    percentiles: tuple[float, ...] = documented(
        "two rising percentiles of the brain, 0 to 100, for normalise=percentile", PERCENTILES
    )
    window: tuple[float, ...] | None = documented(
        "two rising stored values, Hounsfield units in CT, for normalise=window; null with others",
        None,
    )
    value_range: tuple[float, ...] = documented(
        "lowest and highest value that normalise=percentile and window map to", (0.0, 1.0)
    )
    cache: str = documented(
        "where decoded cases stay: none; ram, until a tenth of the memory is free; disk, in "
        "cache_dir, where later runs find them",
        "none",
    )
    cache_dir: str | Path | None = documented("folder for cache=disk; null with others", None)
    threads: int = documented("threads of a process that decode cases, and DALI's on a CPU", 2)
    seed: int = documented(
        "seed of all random numbers, a whole number from 0; in a recipe it is the run's", 0
    )
    max_bad: float = documented(
        "share of cases, 0 to 1, that may be unreadable before the run ends; one always may", 0.02
    )
    micro_batch: int | None = documented(
        "samples that a process shows the network at a time, adding up gradients; null: its share",
        None,
    )

    def __post_init__(self):
        object.__setattr__(self, "patch", tuple(self.patch))
        if self.bezier_domains is not None:
            object.__setattr__(self, "bezier_domains", tuple(self.bezier_domains))
        _check_numbers(self)
        _check_turns(self)
        want(self.cache in CACHES, "cache", self.cache, f"one of {', '.join(CACHES)}")
        want(self.cache != "disk" or self.cache_dir, "cache_dir", self.cache_dir,
             "a folder, which cache=disk writes to")  # fmt: skip
        if self.bezier_domains is not None:
            _check_domains(self)

    @property
    def at_once(self) -> int:
        """Return how many samples a network is shown at a time when it is not trained."""
        return self.micro_batch or self.batch_size

    @property
    def rule(self) -> Rule:
        """Return how intensities are normalised."""
        return Rule(self.normalise, self.percentiles, self.window, self.value_range)


def want(good: bool, name: str, value: Any, wanted: str) -> None:
    """Raise UsageError unless `good`: what the argument `name` is, and what was wanted.

    >>> want(0 > 1, "threads", 0, "a whole number from 1")
    Traceback (most recent call last):
    fastseg.errors.UsageError: threads is 0; wanted a whole number from 1
    """
    if not good:
        raise UsageError(f"{name} is {value!r}; wanted {wanted}")


def is_whole_number(value: Any, least: int, most: int = 2**63 - 1) -> bool:
    """Tell whether `value` is a whole number, of Python or numpy, from `least` to `most`.

    >>> is_whole_number(3, 1), is_whole_number(True, 1), is_whole_number(2.0, 1)
    (True, False, False)
    """
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return whole and least <= value <= most


def _check_numbers(config: LoaderConfig) -> None:
    sizes = len(config.patch) in (2, 3) and all(is_whole_number(n, 1, 2**15) for n in config.patch)
    want(sizes, "patch", config.patch, "(H, W) or (D, H, W) in voxels")
    for name, most in (("batch_size", 2**20), ("samples_per_case", 2**20), ("threads", 2**10)):
        value = getattr(config, name)
        want(is_whole_number(value, 1, most), name, value, f"a whole number from 1 to {most}")
    want(config.micro_batch is None or is_whole_number(config.micro_batch, 1), "micro_batch",
         config.micro_batch, "a whole number from 1, or null for the whole share")  # fmt: skip
    want(is_whole_number(config.seed, 0), "seed", config.seed, "a whole number from 0")
    for name in ("foreground_fraction", "max_bad", "least_brain"):
        value = getattr(config, name)
        blind = name == "foreground_fraction" and value is None
        want(blind or 0 <= value <= 1, name, value, "a share between 0 and 1")


def _check_turns(config: LoaderConfig) -> None:
    degrees, (height, width) = config.rotate_degrees, config.patch[-2:]
    want(0 <= degrees <= 180, "rotate_degrees", degrees, "an angle from 0 to 180 degrees")
    ranged = config.rule.name in ("percentile", "window")
    for name in ("rotate_degrees", "strong"):
        value = getattr(config, name)
        want(not (value and ranged and config.value_range[0]), name, value,
             f"{type(value)(0)}, or a value_range from 0: what turns in from outside is 0, which "
             f"would not be background at {config.value_range[0]}")  # fmt: skip
    want(not config.rotate90 or height == width, "rotate90", config.rotate90,
         f"false, or a patch with H = W: it is {config.patch}")  # fmt: skip


def _check_domains(config: LoaderConfig) -> None:
    domains = config.bezier_domains
    want(domains and len(set(domains)) == len(domains) and set(domains) <= set(DOMAINS),
         "bezier_domains", domains, "different ones of 0, 1, 2, or null")  # fmt: skip
    want(config.normalise == "percentile", "normalise", config.normalise,
         "percentile, as bezier_domains change intensities from 0 to 1")  # fmt: skip
    want(tuple(config.value_range) == (0, 1), "value_range", config.value_range,
         "0, 1, as bezier_domains change intensities in that range")  # fmt: skip


def markdown() -> str:
    """Return the fields as a Markdown table: key, default as an override has it, meaning."""
    texts = help_of(LoaderConfig)
    rows = ["| key | default | meaning |", "| --- | --- | --- |"]
    rows += [
        f"| `{f.name}` | {_shown(f.default)} | {texts[f.name]} |" for f in fields(LoaderConfig)
    ]
    return "\n".join(rows)


def _shown(default: Any) -> str:
    if default is MISSING:
        return "to be given"
    if isinstance(default, tuple):
        return f"`{','.join(f'{value:g}' for value in default)}`"
    if default is None or isinstance(default, bool):
        return {None: "`null`", True: "`true`", False: "`false`"}[default]
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


if __name__ == "__main__":
    print(markdown())
