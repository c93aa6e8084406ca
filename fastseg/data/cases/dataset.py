"""Hold the cases of a data set with its channel order and label scheme."""

import difflib
from dataclasses import dataclass
from pathlib import Path

from fastseg.data.cases.labels import LabelScheme
from fastseg.data.cases.layouts import Case
from fastseg.errors import DataError


@dataclass(frozen=True)
class Dataset:
    """Hold the cases of one data set, sorted by id.

    root: the folder or description it was found at. layout: "brats2021", "brats2023", "nnunet" or
    "datalist". modalities: names of the channels, in order. scheme: what label values mean. unused:
    the NIfTI files that belong to no case, with the reasons (`fastseg.data.cases.notices.unused`).
    """

    root: Path
    layout: str
    modalities: tuple[str, ...]
    scheme: LabelScheme
    cases: tuple[Case, ...]
    unused: tuple[tuple[Path, str], ...] = ()

    def by_id(self, case_id: str) -> Case:
        """Return the case of that id. Raises DataError, with a suggestion, when there is none."""
        for case in self.cases:
            if case.id == case_id:
                return case
        near = difflib.get_close_matches(case_id, [case.id for case in self.cases], 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise DataError(f"{self.root}: no case {case_id!r} among {len(self.cases)}{hint}")


def summarise(dataset: Dataset) -> str:
    """Describe a data set in one line: cases, patients, labels, layout, channels and classes.

    >>> from fastseg.data import phantom
    >>> from fastseg.data.cases import discover
    >>> summarise(discover(phantom.write("phantoms", cases=2, size=(24, 24, 24))))
    '2 cases of 2 patients, 2 labelled (brats2021; t1, t1ce, t2, flair; background, NCR, ED, ET)'
    """
    labelled = sum(case.label is not None for case in dataset.cases)
    patients = len({case.patient for case in dataset.cases})
    return (
        f"{len(dataset.cases)} cases of {patients} patients, {labelled} labelled "
        f"({dataset.layout}; {', '.join(dataset.modalities)}; {', '.join(dataset.scheme.classes)})"
    )
