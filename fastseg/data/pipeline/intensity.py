"""Turn stored intensities into a network's inputs: (clip(x, low, high) - mean) / std.

A rule takes low, high, mean and std from each volume, from each slice, or from itself.
"""

from dataclasses import dataclass

import numpy as np

from fastseg.errors import UsageError

NORMALISE = ("zscore", "slice_minmax", "percentile", "window")
PERCENTILES = (0.5, 99.5)
_FAR = 1e30  # float32 holds differences of such numbers
FLOOR = 2.0**-10  # the darkest brain, as a share of the range's end, where background is 0
CT_ADVICE = (
    "is CT, where air is at -1000 and 0 is water: data.normalise=window data.window=-160,240 "
    "(soft tissue of an abdomen) maps Hounsfield units to 0 … 1"
)


@dataclass(frozen=True)
class Rule:
    """Describe one way to normalise.

    "zscore" is per volume over the brain (x != 0) clipped to its 0.5 and 99.5 percentiles, and
    leaves background 0; "slice_minmax" maps each axial slice to [0, 1]; "percentile" maps each
    volume from `percentiles` of its brain to `value_range`; "window" maps stored values from
    `window` to it. Of the last two, background becomes the lowest value: what was 0, whatever the
    brain's sign, and of a window what lies below it. "percentile" to a range from 0 keeps all brain
    above 0, so that brain and background stay apart.

    Raises UsageError, naming the field.

    >>> Rule("window", window=(-160, 240)).floor
    -160
    >>> Rule("window")
    Traceback (most recent call last):
    fastseg.errors.UsageError: window is None; wanted two rising numbers
    """

    name: str = "zscore"
    percentiles: tuple[float, ...] = PERCENTILES
    window: tuple[float, ...] | None = None
    value_range: tuple[float, ...] = (0.0, 1.0)

    def __post_init__(self):
        self._want(self.name in NORMALISE, "normalise", self.name, f"one of {', '.join(NORMALISE)}")
        for key in ("percentiles", "value_range", "window"):
            pair = getattr(self, key)
            if pair is not None or (key, self.name) == ("window", "window"):
                rising = pair is not None and len(pair) == 2 and -_FAR <= pair[0] < pair[1] <= _FAR
                self._want(rising, key, pair, "two rising numbers")
        inside = self.percentiles[0] >= 0 and self.percentiles[1] <= 100
        self._want(inside, "percentiles", self.percentiles, "two rising numbers from 0 to 100")
        if self.name == "zscore":
            object.__setattr__(self, "percentiles", PERCENTILES)

    def _want(self, good: bool, key: str, value, wanted: str) -> None:
        if not good:
            raise UsageError(f"{key} is {value!r}; wanted {wanted}")

    @property
    def of_zero(self) -> float | None:
        """Return what voxels become that were 0, whatever the range; None: nothing is apart."""
        return {"zscore": 0.0, "percentile": float(self.value_range[0])}.get(self.name)

    @property
    def background(self) -> float:
        """Return what surrounds a normalised image."""
        return float(self.value_range[0]) if self.name in ("percentile", "window") else 0.0

    @property
    def _apart(self) -> bool:
        return self.name == "percentile" and self.value_range[0] == 0

    @property
    def floor(self) -> float:
        """Return the stored value that is background, as anything below it is.

        0, or where the window begins (CT has air at -1000 and water at 0). Outside of an image it
        goes on for ever.
        """
        return self.window[0] if self.name == "window" else 0.0

    def filled(self, x: np.ndarray) -> np.ndarray:
        """Tell where stored values are more than background: booleans of the shape of `x`."""
        return x > self.floor if self.name == "window" else x != 0

    @property
    def located_by(self) -> tuple:
        """Return all that box and statistics of a case depend on, besides its files."""
        floor = () if self.name != "window" else (self.floor,)
        return (*self.percentiles, *floor)

    @property
    def per_slice(self) -> bool:
        """Tell whether rows are those of each axial slice, not of the volume."""
        return self.name == "slice_minmax"

    def rows(self, stats: np.ndarray) -> np.ndarray:
        """Return the rows low, high, mean, std that normalise a volume.

        Args:
            stats: (4, C), of `decode.statistics`.

        Returns:
            float32 (4, C). A volume of one value, or none, becomes the lowest value.

        >>> stats = np.array([[100], [300], [200], [50]], np.float32)
        >>> Rule("percentile", value_range=(-1, 1)).rows(stats).T
        array([[100., 300., 200., 100.]], dtype=float32)
        """
        if self.name == "zscore":
            return stats
        low, high = stats[:2]
        if self.name == "window":
            low, high = (np.full_like(low, limit) for limit in self.window)
        first, last = self.value_range
        first = FLOOR * last if self._apart else first
        std = np.where(high > low, (high - low) / (last - first), 1)
        return np.stack([low, high, low - first * std, std]).astype(np.float32)


def as_rule(rule: "Rule | str") -> Rule:
    """Return a rule, given as one or by the name of one that has no numbers.

    Raises UsageError for another name.

    >>> as_rule("zscore").background
    0.0
    """
    if isinstance(rule, Rule):
        return rule
    if rule in NORMALISE[2:]:
        raise UsageError(f"normalise: {rule!r} has numbers; wanted a Rule, as LoaderConfig.rule")
    return Rule(rule)
