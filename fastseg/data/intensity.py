"""How stored intensities become a network's inputs: (clip(x, low, high) − mean) / std, with rows
low, high, mean and std that a rule takes from each volume, from each slice, or from itself.
"""

from dataclasses import dataclass

import numpy as np

from fastseg.errors import UsageError

NORMALISE = ("zscore", "slice_minmax", "percentile", "window")
PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True)
class Rule:
    """One way to normalise. Raises UsageError naming a wrong field.

    "zscore" is per volume over the brain (x != 0) clipped to its 0.5 and 99.5 percentiles, and
    leaves background 0; "slice_minmax" maps each axial slice to [0, 1]; "percentile" maps each
    volume from `percentiles` of its brain to `value_range`; "window" maps stored values from
    `window` to it. The last two clip, so that background becomes the lowest value.
    """

    name: str = "zscore"
    percentiles: tuple[float, ...] = PERCENTILES
    window: tuple[float, ...] | None = None
    value_range: tuple[float, ...] = (0.0, 1.0)

    def __post_init__(self):
        self._want(self.name in NORMALISE, "normalise", self.name, " or ".join(NORMALISE))
        if self.name == "zscore":
            object.__setattr__(self, "percentiles", PERCENTILES)
        for key in ("percentiles", "value_range", "window"):
            pair = getattr(self, key)
            if pair is not None or (key, self.name) == ("window", "window"):
                rising = pair is not None and len(pair) == 2 and pair[0] < pair[1]
                self._want(rising, key, pair, "two rising numbers")
        inside = self.percentiles[0] >= 0 and self.percentiles[1] <= 100
        self._want(inside, "percentiles", self.percentiles, "two rising numbers from 0 to 100")

    def _want(self, good: bool, key: str, value, wanted: str) -> None:
        if not good:
            raise UsageError(f"{key} is {value!r}; wanted {wanted}")

    @property
    def keeps_zero(self) -> bool:
        """Voxels that were 0 stay 0."""
        return self.name == "zscore"

    @property
    def per_slice(self) -> bool:
        """Rows are those of each axial slice, not of the volume."""
        return self.name == "slice_minmax"

    def rows(self, stats: np.ndarray) -> np.ndarray:
        """Rows low, high, mean, std (4, C) float32 from a volume's statistics (4, C), of
        `decode.statistics`. A volume of one value, or none, becomes the lowest value.
        """
        if self.name == "zscore":
            return stats
        low, high = stats[:2]
        if self.name == "window":
            low, high = (np.full_like(low, limit) for limit in self.window)
        first, last = self.value_range
        std = np.where(high > low, (high - low) / (last - first), 1)
        return np.stack([low, high, low - first * std, std]).astype(np.float32)


def as_rule(rule: "Rule | str") -> Rule:
    """A rule, or the name of one that has no numbers. UsageError for another name."""
    if isinstance(rule, Rule):
        return rule
    if rule in NORMALISE[2:]:
        raise UsageError(f"normalise: {rule!r} has numbers; wanted a Rule, as LoaderConfig.rule")
    return Rule(rule)
