"""Find the cases of a data set, whatever its layout."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fastseg.data import nifti
from fastseg.data.cases.bounds import in_time, leads_out, warn_of_link
from fastseg.data.cases.dataset import Dataset
from fastseg.data.cases.labels import BRATS, BRATS_2023, BRATS_2024, LabelScheme, scheme_from_labels
from fastseg.data.cases.layouts import BRATS_ORDER, Case, Found, brats, canonical, left_over
from fastseg.data.cases.listings import datalist, is_datalist, is_nnunet, nnunet
from fastseg.data.cases.notices import NO_LABEL
from fastseg.errors import DataError, NiftiError, UsageError

# Labels are small; this many show which values a data set uses without reading all of it.
_PROBED_LABELS = 16
_MOST_BYTES = 64 << 20  # of a description; a datalist of ten thousand cases has two


def discover(
    root: str | Path,
    modalities: Sequence[str] | None = None,
    require_labels: bool = False,
    region: str | None = None,
) -> Dataset:
    """Find the cases at `root`.

    A dataset.json (nnU-Net) or datalist (MONAI) in the folder decides; without one BraTS names are
    looked for, in either case, with `.nii` or `.nii.gz`. A file that a case should have but lacks
    keeps its place in `Case.images`: `check` reports it.

    Args:
        root: a folder, a single case's folder, or a description in JSON.
        modalities: channels, selected and ordered, under any of their usual names; by default they
            come as the description lists them, and as t1, t1ce, t2, flair, pd, … from folders.
        require_labels: leave out cases without a label.
        region: merge the classes of this region to one and all others to background.

    Raises:
        DataError: nothing is found (it says what was looked for), a wanted modality is not there,
            or a description is damaged or points outside its folder.
        UsageError: a region that the labels do not have, or modalities named twice.

    >>> from fastseg.data import phantom
    >>> dataset = discover(phantom.write("phantoms", cases=2, size=(24, 24, 24)))
    >>> dataset.layout, dataset.modalities, [case.id for case in dataset.cases]
    ('brats2021', ('t1', 't1ce', 't2', 'flair'), ['Phantom00000', 'Phantom00001'])
    >>> discover("phantoms", modalities=["FLAIR", "T1Gd"], region="WT").modalities
    ('flair', 't1ce')
    """
    root = Path(root)
    found = _found(root)
    cases = sorted(found.cases, key=lambda case: (case.id, *map(str, case.images.values())))
    if not cases:
        raise DataError(_nothing(root))
    _refuse_duplicates(root, cases)
    unused = dict(found.unused)
    if require_labels:
        cases, bare = _labelled(root, cases)
        unused |= bare
    chosen = _choose(root, found.modalities, modalities)
    cases = [replace(case, images={m: case.images[m] for m in chosen}) for case in cases]
    scheme = found.scheme or _scheme(root, found, cases)
    try:
        scheme = scheme if region is None else scheme.alone(region)
    except ValueError as error:
        raise UsageError(f"{root}: {error}") from None
    rest = tuple(sorted(unused.items()))
    return Dataset(root, found.layout, chosen, scheme, tuple(cases), rest)


def _found(root: Path) -> Found:
    if not root.exists():
        raise DataError(f"{root}: no such file or folder")
    source = _description(root)
    if not source:
        return brats(root)
    found = _described(source)
    rest = left_over(source.parent, found.cases, f"{source.name} does not lead to it")
    return replace(found, unused=rest)


def _labelled(root: Path, cases: list[Case]) -> tuple[list[Case], dict[Path, str]]:
    """Return the cases with a label, and the files of the others with the reason."""
    bare = (path for case in cases if case.label is None for path in case.images.values())
    unused = dict.fromkeys(filter(Path.exists, bare), NO_LABEL)
    kept = [case for case in cases if case.label is not None]
    if not kept:
        raise DataError(f"{root}: none of its {len(cases)} cases has a label")
    return kept, unused


def _description(root: Path) -> Path | None:
    """Find the JSON file that describes `root`, if there is one."""
    if root.is_file():
        return root
    if (root / "dataset.json").exists() and _is_own(root / "dataset.json"):
        return root / "dataset.json"
    for path in in_time(sorted(root.glob("*.json")), root):
        try:
            listed = is_datalist(_load(path))
        except DataError:
            # Other programs keep files of their own in data folders.
            continue
        if listed and _is_own(path):
            return path
    return None


def _is_own(description: Path) -> bool:
    if leads_out(description, description.parent):
        warn_of_link(description)
        return False
    return True


def _load(path: Path) -> dict:
    if path.suffix.lower() != ".json":
        raise DataError(f"{path}: wanted a folder or a .json description of the data set")
    # a pipe would keep us waiting, a device would never end
    if path.exists() and (not path.is_file() or path.stat().st_size > _MOST_BYTES):
        raise DataError(f"{path}: wanted a regular file of at most {_MOST_BYTES >> 20} MiB")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(description, dict):
        raise DataError(f"{path}: wanted a JSON object that describes a data set")
    return description


def _described(source: Path) -> Found:
    description, root = _load(source), source.parent
    try:
        labels = description.get("labels")
        scheme = None if labels is None else scheme_from_labels(source.stem, labels)
        if is_nnunet(root, description):
            if scheme is None:
                raise DataError('it has no "labels"')
            return nnunet(root, description, scheme)
        if is_datalist(description):
            return datalist(root, description, scheme)
    except (DataError, ValueError, TypeError) as error:
        raise DataError(f"{source}: {error}") from error
    raise DataError(_nothing(source))


def _scheme(root: Path, found: Found, cases: list[Case]) -> LabelScheme:
    """Tell the scheme from the modalities' names and a look at some labels.

    4 is enhancing tumour under the names up to BraTS 2021, which may also have 3 for it; under the
    later names 3 is, and 4 the resection cavity of post-treatment cases.
    """
    paths = [case.label for case in cases if case.label is not None]
    late = found.layout == "brats2023"
    if not paths:
        return BRATS_2023 if late else BRATS
    known = set(BRATS_ORDER) & set(found.modalities)
    if len(known) < (1 if found.layout.startswith("brats") else len(found.modalities)):
        raise DataError(
            f'{root}: has no "labels" in a description, such as {{"background": 0, "tumour": 1}}; '
            f"wanted one, as its modalities ({', '.join(found.modalities)}) are not those of BraTS"
        )
    seen, buffer = set(), nifti.Buffer()
    for path in paths[:: -(-len(paths) // _PROBED_LABELS)]:
        if seen and (not late or 4 in seen):
            break
        seen |= _present(path, (3, 4), buffer)
    if late:
        return BRATS_2024 if 4 in seen else BRATS_2023
    return BRATS.exporting(seen)


def _present(path: Path, values: Sequence[int], buffer: nifti.Buffer) -> set[int]:
    try:
        volume = nifti.read(path, buffer=buffer)
    except NiftiError:
        # A damaged label is for `check` or for the loader to report.
        return set()
    data = volume.scaled() if volume.header.scaled else volume.data
    return {value for value in values if (data == value).any()}


def _choose(
    root: Path, available: tuple[str, ...], wanted: Sequence[str] | None
) -> tuple[str, ...]:
    if wanted is None:
        return available
    chosen = tuple(canonical(name) for name in wanted)
    if not chosen or len(set(chosen)) < len(chosen):
        raise UsageError(f"modalities {tuple(wanted)} should be different names, at least one")
    for name in chosen:
        if name not in available:
            raise DataError(f"{root}: no modality {name!r}, it has {', '.join(available)}")
    return chosen


def _refuse_duplicates(root: Path, cases: list[Case]) -> None:
    case_id, count = Counter(case.id for case in cases).most_common(1)[0]
    if count > 1:
        twins = [next(iter(case.images.values())) for case in cases if case.id == case_id]
        raise DataError(f"{root}: {count} cases have the id {case_id}: {twins[0]}, {twins[1]}")


def _nothing(root: Path) -> str:
    folder = root if root.is_dir() else root.parent
    there = sorted(path.name for path in folder.iterdir())[:5]
    return (
        f"{root}: no cases found. Looked for BraTS folders (CASE/CASE_t1.nii.gz, "
        "CASE/CASE-t1n.nii.gz), an nnU-Net dataset.json with imagesTr/CASE_0000.nii.gz, and a "
        'MONAI datalist {"training": [{"image": …, "label": …}]}. '
        + (f"The folder holds {', '.join(there)}" if there else "The folder is empty")
    )
