"""Read whole volumes, as prediction and scores need them."""

from dataclasses import dataclass

import numpy as np

from fastseg.data import nifti
from fastseg.data.pipeline import augment
from fastseg.data.pipeline.crop import slice_range
from fastseg.data.pipeline.decode import label_classes, locate, read_case
from fastseg.data.pipeline.intensity import Rule, as_rule


@dataclass(frozen=True)
class CaseArrays:
    """Hold one whole case.

    image: float32 (C, D, H, W), normalised. label: class indices, uint8 (D, H, W), or None. header:
    of the first modality's file.
    """

    image: np.ndarray
    label: np.ndarray | None
    header: nifti.Header


def load_case(dataset, case, rule: Rule | str = "zscore") -> CaseArrays:
    """Read a whole case, normalised exactly as training batches are.

    Args:
        dataset: the `cases.Dataset` it is of.
        case: a `cases.Case` or its id.
        rule: `LoaderConfig.rule`, or the name of a rule without numbers.

    Raises:
        DataError: naming the file, when it cannot be used.
        UsageError: an unknown rule.

    >>> from fastseg.data import phantom
    >>> from fastseg.data.cases import discover
    >>> dataset = discover(phantom.write("phantoms", cases=1, size=(24, 26, 28)))
    >>> arrays = load_case(dataset, "Phantom00000")
    >>> arrays.image.shape, arrays.image.dtype.name, arrays.label.shape
    ((4, 28, 26, 24), 'float32', (28, 26, 24))
    """
    rule = as_rule(rule)
    case = dataset.by_id(case) if isinstance(case, str) else case
    raw = read_case(case, dataset.modalities)
    label = None if raw.label is None else label_classes(raw, case, dataset.scheme)
    if rule.per_slice:
        stats = slice_range(raw.images)
    else:
        stats = rule.rows(locate(raw, case, rule).stats)[:, :, None]
    image = np.empty((len(raw.images), *raw.images[0].shape), np.float32)
    for channel, volume in enumerate(raw.images):
        rows = stats[:, channel, :, None, None]
        augment.normalise(volume, rows, rule.of_zero, image[channel])
    return CaseArrays(image, label, raw.header)
