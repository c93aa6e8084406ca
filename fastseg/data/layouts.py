"""Cases, and how the folders of the BraTS challenges (www.synapse.org) hold them.

CASE/CASE_t1.nii.gz is the layout up to 2021, CASE/CASE-t1n.nii.gz the one from 2023 on.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fastseg.data.labels import LabelScheme
from fastseg.errors import DataError

BRATS_ORDER = ("t1", "t1ce", "t2", "flair")
_NAMES = {
    "t1": "t1", "t1w": "t1", "t1n": "t1", "t1ce": "t1ce", "t1c": "t1ce", "t1gd": "t1ce",
    "t2": "t2", "t2w": "t2", "flair": "flair", "t2f": "flair",
}  # fmt: skip
_NAMES_2023 = {"t1n", "t2f"}
_KIND = rf"{'|'.join(_NAMES)}|seg(?:m|mentation)?"
FILE = re.compile(
    rf"(?P<case>.+?)(?P<join>[-_])(?P<kind>{_KIND})(?P<end>\.nii(?:\.gz)?)", re.IGNORECASE
)
NIFTI_END = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_TIMEPOINT = re.compile(r"(BraTS-[A-Z]+-\d{5})-\d{3}", re.IGNORECASE)
_DEPTH = 4


@dataclass(frozen=True)
class Case:
    """Files of one examination. A file of `images` may be missing: reading it then says so.

    `images` maps modality to file in the data set's channel order. Cases of one `patient` stay in
    one part of a split.
    """

    id: str
    images: dict[str, Path]
    label: Path | None
    patient: str


@dataclass(frozen=True)
class Found:
    """What a layout yields: everything of a Dataset but the choice and order of modalities.

    `scheme` is None where the layout leaves it to the names of the modalities.
    """

    layout: str
    modalities: tuple[str, ...]
    cases: list[Case]
    scheme: LabelScheme | None = None


def canonical(modality: str) -> str:
    """Lower-case name, the BraTS 2021 one where the modality has several: T1Gd and t1c are t1ce."""
    return _NAMES.get(modality.strip().lower(), modality.strip().lower())


def brats(root: Path) -> Found:
    """Cases of BraTS folders at or below `root`; one case folder or a flat folder will do too."""
    groups: dict[tuple[Path, str], dict[str, re.Match]] = {}
    for path in _walk(root):
        if match := FILE.fullmatch(path.name):
            kind = match["kind"].lower()
            role = _NAMES.get(kind, "seg")
            files = groups.setdefault((path.parent, match["case"].lower()), {})
            if role in files:
                raise DataError(f"{path}: a second {role} file beside {files[role][0]}")
            files[role] = match
    _adopt_labels(groups)
    groups = {key: files for key, files in groups.items() if files.keys() - {"seg"}}
    kinds = Counter(m["kind"] for files in groups.values() for r, m in files.items() if r != "seg")
    spelling = {canonical(kind): kind for kind, _ in reversed(kinds.most_common())}
    modalities = tuple(name for name in BRATS_ORDER if name in spelling)
    cases = [
        _brats_case(folder, files, modalities, spelling) for (folder, _), files in groups.items()
    ]
    layout = "brats2023" if _NAMES_2023 & {kind.lower() for kind in kinds} else "brats2021"
    return Found(layout, modalities, cases)


def make_case(case_id: str, images: dict[str, Path], label: Path | None) -> Case:
    """Case with a checked id and the patient its name tells. Raises DataError."""
    if not isinstance(case_id, str) or not re.fullmatch(r"[^\x00-\x1f/\\]+", case_id):
        raise DataError(f"case id {case_id!r} cannot be part of a file name")
    if case_id.startswith("."):
        raise DataError(f"case id {case_id!r} should not start with a dot")
    timepoint = _TIMEPOINT.fullmatch(case_id)
    return Case(case_id, images, label, timepoint[1] if timepoint else case_id)


def _walk(root: Path) -> Iterator[Path]:
    pending, seen = [(root, 0)], set()
    while pending:
        folder, depth = pending.pop()
        # Links to folders are followed, as people link data; each real folder is visited once.
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        for entry in entries(folder):
            if NIFTI_END.search(entry.name):
                yield entry
            elif depth < _DEPTH and entry.is_dir():
                pending.append((entry, depth + 1))


def entries(folder: Path) -> list[Path]:
    """Sorted visible entries; archives made on macOS hold a hidden ._ twin of each file."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}") from error


def _adopt_labels(groups: dict[tuple[Path, str], dict[str, re.Match]]) -> None:
    """Give a label of another name to the one case beside it, as in BraTS20_Training_355."""
    by_folder: dict[Path, list[dict[str, re.Match]]] = {}
    for (folder, _), files in groups.items():
        by_folder.setdefault(folder, []).append(files)
    for pair in by_folder.values():
        pair.sort(key=lambda files: files.keys() == {"seg"})
        if len(pair) == 2 and "seg" not in pair[0] and pair[1].keys() == {"seg"}:
            pair[0]["seg"] = pair[1]["seg"]


def _brats_case(
    folder: Path, files: dict[str, re.Match], modalities: Iterable[str], spelling: dict[str, str]
) -> Case:
    known = next(match for role, match in files.items() if role != "seg")
    images = {
        name: folder / files[name][0]
        if name in files
        else folder / f"{known['case']}{known['join']}{spelling[name]}{known['end']}"
        for name in modalities
    }
    return make_case(known["case"], images, folder / files["seg"][0] if "seg" in files else None)
