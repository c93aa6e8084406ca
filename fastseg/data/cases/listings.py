"""Find the cases of data sets that a JSON file describes.

nnU-Net v2: documentation/dataset_format.md of MIC-DKFZ/nnUNet. MONAI datalist and Medical
Segmentation Decathlon: monai.data.load_decathlon_datalist.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from fastseg.data.cases.labels import LabelScheme
from fastseg.data.cases.layouts import FILE, NIFTI_END, Case, Found, canonical, entries, make_case
from fastseg.errors import DataError

_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})\.nii(?:\.gz)?", re.IGNORECASE)


def nnunet(root: Path, description: dict, scheme: LabelScheme) -> Found:
    """Find the cases of an nnU-Net raw data set: imagesTr with labelsTr, imagesTs without labels.

    Args:
        root: folder of the dataset.json; its "dataset" may list the files instead.
        description: what the dataset.json holds.
        scheme: of its labels.

    Raises:
        DataError: channels that the description does not name, or paths outside `root`.

    >>> from fastseg.data import phantom
    >>> from fastseg.data.cases import BRATS
    >>> root = phantom.write("organs", cases=1, size=(24, 24, 24), task="organs")
    >>> found = nnunet(root, {"channel_names": {"0": "CT"}}, BRATS)
    >>> found.modalities, [case.id for case in found.cases]
    (('ct',), ['Phantom00000'])
    """
    modalities = channel_names(description)
    explicit = description.get("dataset")
    if isinstance(explicit, dict):
        files, labels = _files(root, explicit.values(), "images")
        cases = _listed_cases(explicit, files, labels, modalities)
        return Found("nnunet", modalities, cases, scheme)
    cases = _channel_cases(root / "imagesTr", root / "labelsTr", modalities)
    cases += _channel_cases(root / "imagesTs", root / "labelsTs", modalities)
    return Found("nnunet", modalities, cases, scheme)


def datalist(root: Path, description: dict, scheme: LabelScheme | None) -> Found:
    """Find the cases of a MONAI datalist: its "training", "validation" and "test" lists.

    Args:
        root: folder that its paths start from.
        description: what the file holds.
        scheme: of its labels; None where the names of the modalities tell.

    Raises:
        DataError: entries that are not files below `root`, or differ in their number of images.

    >>> listed = {"training": [{"image": ["a_t1.nii.gz", "a_t2.nii.gz"], "label": "a_seg.nii.gz"}]}
    >>> found = datalist(Path("data"), listed, None)
    >>> found.modalities, found.cases[0].id
    (('t1', 't2'), 'a')
    """
    listed = [
        {"image": entry} if isinstance(entry, str) else entry
        for key in ("training", "validation", "testing", "test")
        for entry in description.get(key) or []
    ]
    files, labels = _files(root, listed, "image")
    modalities = _datalist_modalities(description, files)
    cases = _listed_cases(_listed_ids(files), files, labels, modalities)
    return Found("datalist", modalities, cases, scheme)


def is_nnunet(root: Path, description: dict) -> bool:
    """Tell whether a dataset.json describes one file per case and channel.

    >>> is_nnunet(Path("nowhere"), {"dataset": {"a": {"images": ["a_t1.nii.gz"]}}})
    True
    """
    if isinstance(description.get("dataset"), dict):
        return True
    images = entries(root / "imagesTr") + entries(root / "imagesTs")
    return any(_CHANNEL.fullmatch(path.name) for path in images)


def is_datalist(description: dict) -> bool:
    """Tell whether a JSON object lists cases as MONAI does.

    >>> is_datalist({"training": []}), is_datalist({"labels": {}})
    (True, False)
    """
    return any(isinstance(description.get(key), list) for key in ("training", "validation", "test"))


def channel_names(description: dict) -> tuple[str, ...]:
    """Return a description's modalities in channel order.

    Args:
        description: with "channel_names" (nnU-Net v2) or "modality" (Decathlon); () without either.

    Raises:
        DataError: numbers that are none, or a modality named twice.

    >>> channel_names({"channel_names": {"1": "T1Gd", "0": "FLAIR"}})
    ('flair', 't1ce')
    """
    names = description.get("channel_names") or description.get("modality") or {}
    if isinstance(names, dict):
        try:
            names = [names[key] for key in sorted(names, key=int)]
        except ValueError as error:
            raise DataError(f"channel_names {names} should be numbered 0, 1, …") from error
    names = tuple(canonical(str(name)) for name in names)
    if len(set(names)) < len(names):
        raise DataError(f"channel_names {names} name a modality twice")
    return names


def inside(root: Path, text: str) -> Path:
    """Return the absolute path that a list names, relative to `root`.

    Raises:
        DataError: it is no file name, or leaves that folder.

    >>> inside(Path("data"), "../labels/a.nii.gz")
    Traceback (most recent call last):
    fastseg.errors.DataError: '../labels/a.nii.gz' in the data set's list leaves the folder data
    """
    if not isinstance(text, str) or not text or "\0" in text:
        raise DataError(f"{text!r} in the data set's list is not a file name")
    base = os.path.abspath(root)
    path = Path(os.path.normpath(os.path.join(base, text)))
    if not path.is_relative_to(base):
        raise DataError(f"{text!r} in the data set's list leaves the folder {root}")
    return path


def _channel_cases(images: Path, labels: Path, modalities: tuple[str, ...]) -> list[Case]:
    groups: dict[str, dict[int, Path]] = {}
    for path in entries(images):
        if match := _CHANNEL.fullmatch(path.name):
            groups.setdefault(match["case"], {})[int(match["channel"])] = path
    found = {NIFTI_END.sub("", path.name): path for path in entries(labels)}
    cases = []
    for case_id, channels in groups.items():
        end = NIFTI_END.search(next(iter(channels.values())).name)[0]
        if extra := set(channels) - set(range(len(modalities))):
            raise DataError(f"{images}: case {case_id} has channel {min(extra):04d}, "
                            f"channel_names ends at {len(modalities) - 1:04d}")  # fmt: skip
        files = {
            name: channels.get(index, images / f"{case_id}_{index:04d}{end}")
            for index, name in enumerate(modalities)
        }
        # A training case without its label is a fault to report; test cases may have none.
        missing = labels / f"{case_id}{end}" if labels.name == "labelsTr" else None
        cases.append(make_case(case_id, files, found.get(case_id, missing)))
    return cases


def _files(
    root: Path, listed: Iterable[dict], key: str
) -> tuple[list[list[Path]], list[Path | None]]:
    """Return the images and the label of each entry of a list."""
    files, labels = [], []
    for entry in listed:
        if not isinstance(entry, dict):
            raise DataError(f"{entry!r} in the data set's list should name images and a label")
        files.append([inside(root, text) for text in _texts(entry.get(key))])
        label = _texts(entry.get("label"))
        if len(label) > 1:
            raise DataError(f"{label} in the data set's list should be one label file")
        labels.append(inside(root, label[0]) if label else None)
    return files, labels


def _listed_cases(
    ids: Iterable[str],
    files: list[list[Path]],
    labels: list[Path | None],
    modalities: tuple[str, ...],
) -> list[Case]:
    cases = []
    for case_id, images, label in zip(ids, files, labels, strict=True):
        if len(images) != len(modalities):
            hint = "; a 4-D file has to be split into one per channel" if len(images) == 1 else ""
            raise DataError(f"case {case_id} lists {len(images)} images for {modalities}{hint}")
        cases.append(make_case(case_id, dict(zip(modalities, images, strict=True)), label))
    return cases


def _datalist_modalities(description: dict, files: list[list[Path]]) -> tuple[str, ...]:
    if names := channel_names(description):
        return names
    first = files[0] if files else []
    matches = [FILE.fullmatch(path.name) for path in first]
    names = tuple(canonical(match["kind"]) for match in matches if match)
    if len(names) == len(set(names)) == len(first):
        return names
    return tuple(f"channel_{index}" for index in range(len(first)))


def _listed_ids(files: list[list[Path]]) -> list[str]:
    ids = [_listed_id(images) for images in files]
    if len(set(ids)) < len(ids):
        return [f"{images[0].parent.name}_{name}" for images, name in zip(files, ids, strict=True)]
    return ids


def _listed_id(images: list[Path]) -> str:
    if not images:
        raise DataError('an entry of the data set\'s list has no "image"')
    matches = [FILE.fullmatch(path.name) or _CHANNEL.fullmatch(path.name) for path in images]
    names = {match["case"] if match else None for match in matches}
    if len(names) == 1 and None not in names:
        return names.pop()
    stems = [NIFTI_END.sub("", path.name) for path in images]
    if len(stems) == 1:
        return stems[0]
    low, high = min(stems), max(stems)
    prefix = low[: next((i for i, c in enumerate(low) if high[i : i + 1] != c), len(low))]
    shared = re.match(r"(.+)[-_.]", prefix)
    return shared[1] if shared else images[0].parent.name


def _texts(value) -> list[str]:
    values = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in values):
        raise DataError(f"{value!r} in the data set's list should be file names")
    return values
