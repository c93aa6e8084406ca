"""Which value of a file stands for each class of a network in what `fastseg sample` writes."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from fastseg.data.cases import Dataset, LabelScheme
from fastseg.errors import UsageError
from fastseg.tasks.segmentation.files import RECORD

log = logging.getLogger("fastseg")
_DESCRIBED = ("nnunet", "datalist")


def label_values(
    dataset: Dataset, trained: LabelScheme, wanted: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Choose the value to write for each class of the `trained` scheme, in its order.

    They are those of the data set's labels; without labels, those that its layout fixes (enhancing
    tumour is 4 up to BraTS 2021, 3 from 2023 on, a description has its own); else those of the
    training data. `wanted` changes some, by class. UsageError where the labels have other classes,
    and for values that cannot be.
    """
    own = _scheme(dataset, trained)
    firsts = {name: accepted[0] for name, accepted in zip(own.classes, own.values, strict=True)}
    values = {name: firsts[name] for name in trained.classes}
    for name, value in (wanted or {}).items():
        if name not in values:
            raise UsageError(f"labels: no class {name!r}; it has {', '.join(values)}")
        if not 0 <= value <= 255:
            raise UsageError(f"labels: {name} is {value}, wanted 0 to 255")
        values[name] = value
    if len(set(values.values())) < len(values):
        raise UsageError(f"labels: {shown(values)}: two classes have one value")
    return values


def shown(values: Mapping[str, int]) -> str:
    """Write values as `--labels` takes them, without the background."""
    return ",".join(f"{name}={value}" for name, value in list(values.items())[1:])


def noted_values(written: Sequence[Path]) -> str:
    """Tell a person the values of label maps just `written`; nothing of images."""
    note = written[0].with_name(RECORD) if written else None
    values = json.loads(note.read_text()).get("labels") if note and note.exists() else None
    return f", values {shown(values)}" if values else ""


def as_before(dataset: Dataset, trained: LabelScheme, values: Mapping[str, int]) -> bool:
    """Tell whether predictions without a note of their values have these."""
    labelled = any(case.label is not None for case in dataset.cases)
    own = dataset.scheme if labelled else trained
    return [accepted[0] for accepted in own.values] == list(values.values())


def _scheme(dataset: Dataset, trained: LabelScheme) -> LabelScheme:
    own, labelled = dataset.scheme, any(case.label is not None for case in dataset.cases)
    if trained.merged and not own.merged and trained.classes[1] in (*own.classes, *own.regions):
        own = own.alone(trained.classes[1])
    if set(own.classes) != set(trained.classes):
        names = f"has classes {', '.join(own.classes)}, the network was trained on "
        names = f"{dataset.root}: {names}{', '.join(trained.classes)}"
        if labelled:
            raise UsageError(names)
        if dataset.layout in _DESCRIBED:
            log.warning("%s: the values of these are written (--labels gives others)", names)
        return trained
    # a layout that allows several values leaves the choice to the training data
    return own if labelled or _accepted(own) != _accepted(trained) else trained


def _accepted(scheme: LabelScheme) -> dict[str, frozenset[int]]:
    return dict(zip(scheme.classes, map(frozenset, scheme.values), strict=True))
