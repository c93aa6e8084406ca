"""Find cases in folders laid out as those of the BraTS challenges (www.synapse.org).

CASE/CASE_t1.nii.gz is the layout up to 2021, CASE/CASE-t1n.nii.gz the one from 2023 on. Other
folders whose files end in the name of a modality are read alike: IXI's, those of BIDS.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fastseg.data.cases.bounds import in_time
from fastseg.data.cases.labels import LabelScheme
from fastseg.errors import DataError

BRATS_ORDER = ("t1", "t1ce", "t2", "flair")
_SPELLINGS = {
    "t1": "t1 t1w t1n", "t1ce": "t1ce t1c t1gd t1post", "t2": "t2 t2w",
    "flair": "flair t2f t2flair t2_flair t2-flair", "pd": "pd pdw",
    "t2star": "t2star t2starw t2s t2*", "swi": "swi", "dwi": "dwi", "adc": "adc", "fa": "fa",
    "md": "md", "mra": "mra angio tof", "ct": "ct", "pet": "pet",
}  # fmt: skip
_NAMES = {word: name for name, words in _SPELLINGS.items() for word in words.split()}
# what makes a case: maps alone, under a longer name, are of the case beside them
_ANATOMY = {*BRATS_ORDER, "pd"}
_NAMES_2023 = {"t1n", "t2f"}
_KIND = rf"{'|'.join(map(re.escape, _NAMES))}|seg(?:m|mentation)?"
FILE = re.compile(
    rf"(?P<case>.+?)(?P<join>[-_])(?P<kind>{_KIND})(?P<end>\.nii(?:\.gz)?)", re.IGNORECASE
)
NIFTI_END = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_SERIES = re.compile(r".*[-_](dti|dwi|bold|asl)([-_]?\d+)?", re.IGNORECASE)
_TIMEPOINT = re.compile(r"(BraTS-[A-Z]+-\d{5})-\d{3}", re.IGNORECASE)
_DEPTH = 4


@dataclass(frozen=True)
class Case:
    """Hold the files of one examination.

    images: modality to file in the data set's channel order; a file may be missing: reading it then
    says so. label: the file, or None. patient: cases of one patient stay in one part of a split.
    """

    id: str
    images: dict[str, Path]
    label: Path | None
    patient: str

    def there(self, modalities: Iterable[str]) -> list[str]:
        """List those of `modalities` whose files exist."""
        return [name for name in modalities if name in self.images and self.images[name].exists()]

    @property
    def complete(self) -> bool:
        """Tell whether the files of all its modalities exist."""
        return len(self.there(self.images)) == len(self.images)


@dataclass(frozen=True)
class Found:
    """Hold what a layout yields: all of a Dataset but the choice and order of modalities.

    scheme: None where the layout leaves it to the names of the modalities. unused: the NIfTI files
    that belong to no case, each with the reason.
    """

    layout: str
    modalities: tuple[str, ...]
    cases: list[Case]
    scheme: LabelScheme | None = None
    unused: dict[Path, str] = field(default_factory=dict)


class _File(NamedTuple):
    path: Path
    name: re.Match  # of FILE


_Files = dict[str, _File]  # of one case by modality, and "seg"


def canonical(modality: str) -> str:
    """Return a modality's name in lower case, that of BraTS 2021 where it has several.

    >>> [canonical(name) for name in ("T1Gd", "t1c", "FLAIR", "T2w", "CT", "b0")]
    ['t1ce', 't1ce', 'flair', 't2', 'ct', 'b0']
    """
    return _NAMES.get(modality.strip().lower(), modality.strip().lower())


def brats(root: Path) -> Found:
    """Find the cases of BraTS folders at or below `root`, up to four folders deep.

    One case folder or a flat folder will do too. Modalities of one case may lie in several folders.

    Raises:
        DataError: two files of one modality of a case, or a folder that cannot be listed.

    >>> from fastseg.data import phantom
    >>> found = brats(phantom.write("phantoms", cases=1, size=(24, 24, 24)))
    >>> found.layout, found.modalities, len(found.cases)
    ('brats2021', ('t1', 't1ce', 't2', 'flair'), 1)
    """
    groups: dict[tuple[Path, str], _Files] = {}
    unused = {}
    for path in _walk(root):
        match = FILE.fullmatch(path.name)
        if reason := _refusal(path, match):
            unused[path] = reason
            continue
        role = _NAMES.get(match["kind"].lower(), "seg")
        files = groups.setdefault((path.parent, match["case"].lower()), {})
        if role in files:
            raise DataError(f"{path}: a second {role} file beside {files[role].path.name}")
        files[role] = _File(path, match)
    _adopt_labels(groups)
    chosen = _of_cases(groups, unused)
    kinds = Counter(
        f.name["kind"] for files in chosen for role, f in files.items() if role != "seg"
    )
    spelling = {canonical(kind): kind for kind, _ in reversed(kinds.most_common())}
    modalities = tuple(name for name in _SPELLINGS if name in spelling)
    cases = [_brats_case(files, modalities, spelling) for files in chosen]
    layout = "brats2023" if _NAMES_2023 & {kind.lower() for kind in kinds} else "brats2021"
    return Found(layout, modalities, cases, unused=unused)


def left_over(root: Path, cases: Iterable[Case], reason: str) -> dict[Path, str]:
    """List the NIfTI files at or below `root` that are not of `cases`, all with that reason.

    >>> Path("others").mkdir()
    >>> Path("others", "a.nii").touch()
    >>> left_over(Path("others"), [], "nobody wants it")
    {PosixPath('others/a.nii'): 'nobody wants it'}
    """
    files = (path for case in cases for path in (*case.images.values(), case.label) if path)
    taken = {os.path.abspath(path) for path in files}
    return {path: reason for path in _walk(root) if os.path.abspath(path) not in taken}


def make_case(case_id: str, images: dict[str, Path], label: Path | None) -> Case:
    """Make a case with a checked id and the patient its name tells.

    Raises:
        DataError: an id that could not be part of a file name.

    >>> make_case("BraTS-GLI-00042-001", {}, None).patient
    'BraTS-GLI-00042'
    """
    if not isinstance(case_id, str) or not re.fullmatch(r"[^\x00-\x1f/\\]+", case_id):
        raise DataError(f"case id {case_id!r} cannot be part of a file name")
    try:
        case_id.encode()
    except UnicodeEncodeError:
        raise DataError(f"case id {case_id!a} is not UTF-8; files are named after it") from None
    if case_id.startswith("."):
        raise DataError(f"case id {case_id!r} should not start with a dot")
    timepoint = _TIMEPOINT.fullmatch(case_id)
    return Case(case_id, images, label, timepoint[1] if timepoint else case_id)


def _walk(root: Path) -> Iterator[Path]:
    return (path for path in in_time(_everything(root), root) if NIFTI_END.search(path.name))


def _everything(root: Path) -> Iterator[Path]:
    pending, seen = [(root, 0)], set()
    while pending:
        folder, depth = pending.pop()
        # Links to folders are followed, as people link data; each real folder is visited once.
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        for entry in entries(folder):
            yield entry
            if depth < _DEPTH and not NIFTI_END.search(entry.name) and entry.is_dir():
                pending.append((entry, depth + 1))


def entries(folder: Path) -> list[Path]:
    """List the visible entries of a folder in order, none where there is no such folder.

    Archives made on macOS hold a hidden ._ twin of each file. Raises DataError where the folder
    cannot be listed.
    """
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}") from error


def _refusal(path: Path, match: re.Match | None) -> str | None:
    """Say why a file is of no case, as far as its name tells."""
    stem = NIFTI_END.sub("", path.name)
    # a map of diffusion is one volume; a series has the strengths of its gradients beside it
    if _SERIES.fullmatch(stem) and not (match and not path.with_name(f"{stem}.bval").exists()):
        return "one of a series of volumes, or several in one"
    return None if match else "no known modality at the end of the name"


def _of_cases(groups: dict[tuple[Path, str], _Files], unused: dict[Path, str]) -> list[_Files]:
    """Gather the files of each case; the others go to `unused`."""
    by_id: dict[str, list[_Files]] = {}
    for (_, case_id), files in groups.items():
        if files.keys() == {"seg"}:
            unused[files["seg"].path] = "a label without images of its name beside it"
            continue
        same = by_id.setdefault(case_id, [])
        other = next((other for other in same if other.keys().isdisjoint(files)), None)
        if other is None:
            same.append(files)
        else:
            other.update(files)
    found = [files for same in by_id.values() for files in same]
    anatomy = [files for files in found if files.keys() & _ANATOMY]
    for files in found if anatomy else ():
        if not files.keys() & _ANATOMY:
            unused |= {f.path: "no t1, t1ce, t2, flair or pd has its name" for f in files.values()}
    return anatomy or found


def _adopt_labels(groups: dict[tuple[Path, str], _Files]) -> None:
    """Give a label of another name to the one case beside it, as in BraTS20_Training_355."""
    by_folder: dict[Path, list[_Files]] = {}
    for (folder, _), files in groups.items():
        by_folder.setdefault(folder, []).append(files)
    for pair in by_folder.values():
        pair.sort(key=lambda files: files.keys() == {"seg"})
        if len(pair) == 2 and "seg" not in pair[0] and pair[1].keys() == {"seg"}:
            pair[0]["seg"] = pair[1]["seg"]


def _brats_case(files: _Files, modalities: Iterable[str], spelling: dict[str, str]) -> Case:
    path, match = next(file for role, file in files.items() if role != "seg")
    images = {
        name: files[name].path
        if name in files
        else path.with_name(f"{match['case']}{match['join']}{spelling[name]}{match['end']}")
        for name in modalities
    }
    return make_case(match["case"], images, files["seg"].path if "seg" in files else None)
