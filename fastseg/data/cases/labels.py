"""Say which file value means which class, and which classes make up a region."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fastseg.data import nifti
from fastseg.errors import DataError

# A label saved as float may come back as 0.9999; farther off it is a mix from interpolation.
ROUNDING = 1e-3
_UNKNOWN = 255


@dataclass(frozen=True)
class LabelScheme:
    """Hold the classes of a segmentation and the values that files have for them.

    classes: `classes[i]` names class index i; 0 is the background. values: `values[i]` are the file
    values accepted for it, 0 to 255; the first one is written. regions: a region's name to the
    classes it unites. merged: the values of one class are different things that it unites, not
    other spellings.

    Raises ValueError for classes without values and for what occurs twice.
    """

    name: str
    classes: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]
    regions: dict[str, tuple[str, ...]]
    merged: bool = False

    def __post_init__(self):
        every = [value for accepted in self.values for value in accepted]
        if not self.classes or len(self.classes) != len(self.values) or not all(self.values):
            raise ValueError(f"label scheme {self.name}: each of {self.classes} needs its values")
        if len(set(self.classes)) < len(self.classes) or len(set(every)) < len(every):
            raise ValueError(f"label scheme {self.name}: a class or value occurs twice")
        if not all(type(value) is int and 0 <= value <= 255 for value in every):
            raise ValueError(f"label scheme {self.name}: values {every} should be 0 to 255")
        for region, members in self.regions.items():
            if unknown := set(members) - set(self.classes):
                raise ValueError(f"region {region} of {self.name} has no class {sorted(unknown)}")

    def to_classes(self, array: np.ndarray) -> np.ndarray:
        """Return the class indices of file values, uint8 of the same shape.

        Floats within `ROUNDING` of a whole number count as that number.

        Raises:
            ValueError: naming values that belong to no class, or where two values of one class
                meet in one array: they then mean different things (BraTS 2024 has the resection
                cavity 4 beside ET 3).

        >>> BRATS.to_classes(np.array([0, 1, 2, 4]))
        array([0, 1, 2, 3], dtype=uint8)
        >>> BRATS.to_classes(np.array([0, 7]))
        Traceback (most recent call last):
        ValueError: label values [7] are not among [0, 1, 2, 3, 4]
        """
        stored = _to_uint8(np.asarray(array))
        table = np.full(256, _UNKNOWN, np.uint8)
        for index, accepted in enumerate(self.values):
            table[list(accepted)] = index
        classes = _look_up(table, stored)
        if classes.max(initial=0) == _UNKNOWN:
            raise self._unknown(np.unique(stored[classes == _UNKNOWN]))
        for name, accepted in zip(self.classes, self.values, strict=True):
            if self.merged:
                break
            present = [value for value in accepted if len(accepted) > 1 and (stored == value).any()]
            if len(present) > 1:
                raise ValueError(f"label values {present} occur together, both mean {name}")
        return classes

    def to_values(self, class_array: np.ndarray, export: Sequence[int] | None = None) -> np.ndarray:
        """Return the file values of class indices, uint8 of the same shape.

        Args:
            class_array: integers, 0 to the number of classes less one.
            export: a value per class other than the scheme's own, 0 to 255.

        Raises:
            ValueError: another number of values than classes, or an index of no class.

        >>> BRATS.to_values(np.array([0, 3])), BRATS.to_values(np.array([0, 3]), (0, 1, 2, 3))
        (array([0, 4], dtype=uint8), array([0, 3], dtype=uint8))
        """
        export = [accepted[0] for accepted in self.values] if export is None else list(export)
        classes = np.asarray(class_array)
        if len(export) != len(self.classes):
            raise ValueError(f"export has {len(export)} values for {len(self.classes)} classes")
        if classes.size and not 0 <= classes.min() <= classes.max() < len(export):
            raise ValueError(f"class indices should be 0 to {len(export) - 1}")
        return _look_up(np.array(export, np.uint8), classes.astype(np.uint8))

    def exporting(self, seen: Iterable[int]) -> "LabelScheme":
        """Return the same scheme, writing for each class the accepted value that the data has."""
        seen = set(seen)
        values = (tuple(sorted(v, key=lambda value: value not in seen)) for v in self.values)
        return replace(self, values=tuple(values))

    def alone(self, region: str) -> "LabelScheme":
        """Return a scheme of two classes, `region` and all else.

        Raises:
            ValueError: `region` is the name of no region or class.

        >>> BRATS.alone("TC").to_classes(np.array([0, 1, 2, 4]))
        array([0, 1, 0, 1], dtype=uint8)
        """
        known = {name: (name,) for name in self.classes[1:]} | self.regions
        if region not in known:
            raise ValueError(f"region {region!r} is not among {', '.join(known)}")
        inside, outside = [], []
        for name, accepted in zip(self.classes, self.values, strict=True):
            (inside if name in known[region] else outside).extend(accepted)
        return LabelScheme(f"{self.name}:{region}", (self.classes[0], region),
                           (tuple(outside), tuple(inside)), {region: (region,)}, True)  # fmt: skip

    def region_indices(self) -> tuple[tuple[int, ...], ...]:
        """Return the class indices of each region."""
        members = self.regions.values()
        return tuple(tuple(self.classes.index(name) for name in names) for names in members)

    def to_dict(self) -> dict:
        """Return a form that JSON can hold, which `from_dict` takes."""
        return {
            "name": self.name,
            "classes": list(self.classes),
            "values": [list(accepted) for accepted in self.values],
            "regions": {name: list(members) for name, members in self.regions.items()},
            **({"merged": True} if self.merged else {}),
        }

    @classmethod
    def from_dict(cls, stored: dict) -> "LabelScheme":
        """Make a scheme from `to_dict`'s form. Raises ValueError when something does not fit."""
        try:
            return cls(
                name=str(stored["name"]),
                classes=tuple(stored["classes"]),
                values=tuple(tuple(accepted) for accepted in stored["values"]),
                regions={name: tuple(members) for name, members in stored["regions"].items()},
                merged=bool(stored.get("merged", False)),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a stored label scheme: {error!r}") from error

    def _unknown(self, values: np.ndarray) -> ValueError:
        accepted = sorted(value for accepted in self.values for value in accepted)
        return ValueError(f"label values {values[:8].tolist()} are not among {accepted}")


_BRATS_CLASSES = ("background", "NCR", "ED", "ET")
_BRATS_REGIONS = {"WT": ("NCR", "ED", "ET"), "TC": ("NCR", "ET"), "ET": ("ET",)}
# BraTS up to 2021 writes 4 for enhancing tumour, later years and many converted copies 3.
BRATS = LabelScheme("brats", _BRATS_CLASSES, ((0,), (1,), (2,), (4, 3)), _BRATS_REGIONS)
BRATS_2023 = LabelScheme("brats2023", _BRATS_CLASSES, ((0,), (1,), (2,), (3,)), _BRATS_REGIONS)
# Post-treatment gliomas add the resection cavity, which belongs to no tumour region.
BRATS_2024 = LabelScheme(
    "brats2024", (*_BRATS_CLASSES, "RC"), ((0,), (1,), (2,), (3,), (4,)), _BRATS_REGIONS
)


def scheme_from_labels(name: str, labels: dict) -> LabelScheme:
    """Make the scheme of the "labels" in a data set's description.

    Args:
        name: of the scheme.
        labels: {"name": value} or {"name": [values]} as nnU-Net v2 has them, where lists are
            regions, or {"value": "name"} of the Medical Segmentation Decathlon.

    Raises:
        ValueError: another form, no background, or sparse annotation ("ignore").

    >>> scheme_from_labels("ct", {"background": 0, "liver": 1, "tumour": 2}).classes
    ('background', 'liver', 'tumour')
    """
    if not isinstance(labels, dict):
        raise ValueError(f'"labels" is {labels!r}, wanted {{"name": value}}')
    if all(isinstance(label, str) for label in labels.values()):
        labels = {label: int(value) for value, label in labels.items()}
    if "ignore" in labels:
        raise ValueError('the label "ignore" (sparse annotation) is not supported')
    groups = {key: (v,) if isinstance(v, int) else tuple(v) for key, v in labels.items()}
    values = sorted({value for group in groups.values() for value in group})
    if values[:1] != [0]:
        raise ValueError(f"labels {labels} should give the background the value 0")
    single = {group[0]: key for key, group in groups.items() if len(group) == 1}
    classes = {value: single.get(value, f"label_{value}") for value in values}
    overlapping = any(len(group) > 1 for group in groups.values())
    regions = {
        key: tuple(classes[value] for value in group)
        for key, group in groups.items()
        if overlapping and group != (0,)
    }
    return LabelScheme(name, tuple(classes.values()), tuple((v,) for v in values), regions)


def _to_uint8(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "f":
        nearest = np.rint(array)
        with np.errstate(invalid="ignore"):
            off = ~(np.abs(array - nearest) <= ROUNDING)
        if off.any():
            raise ValueError(f"label values {_some(array[off])} are not whole numbers")
        array = nearest
    elif array.dtype.kind not in "bui":
        raise ValueError(f"labels have dtype {array.dtype}, wanted integers")
    if array.size and not 0 <= array.min() <= array.max() <= 255:
        raise ValueError(
            f"label values {_some(array[(array < 0) | (array > 255)])} not in 0 to 255"
        )
    return array.astype(np.uint8, copy=False)


def _some(values: np.ndarray) -> list:
    return np.unique(values)[:8].tolist()


def _look_up(table: np.ndarray, indices: np.ndarray) -> np.ndarray:
    out = np.empty(indices.shape, np.uint8)
    # take widens its indices to 64 bits: by slices that stays in cache and halves the time.
    rows = zip(np.atleast_1d(indices), np.atleast_1d(out), strict=True)
    for source, target in rows if indices.ndim > 1 else [(indices, out)]:
        np.take(table, source, out=target, mode="clip")
    return out


def read_classes(path: Path, scheme) -> tuple[np.ndarray, nifti.Header]:
    """Read a label file: class indices, uint8 (D, H, W), and header.

    Raises:
        DataError: naming the file, when it cannot be read or holds values of no class.

    >>> from fastseg.data import phantom
    >>> folder = phantom.write("phantoms", cases=1, size=(24, 24, 24)) / "Phantom00000"
    >>> classes, header = read_classes(folder / "Phantom00000_seg.nii.gz", BRATS)
    >>> np.unique(classes), header.shape
    (array([0, 1, 2, 3], dtype=uint8), (24, 24, 24))
    """
    volume = nifti.read(path)
    values = volume.scaled() if volume.header.scaled else volume.data
    try:
        return scheme.to_classes(values), volume.header
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
