"""Pictures of synthesised slices: what was given and synthesised, the truth below, the error below
that, a column a modality.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastseg.pictures import drawing

_ERROR = 0.25  # the error, as a share of the range, that has the strongest colour


class Shown(NamedTuple):
    """One slice: filled, truth (M, H, W) in −1 … 1, truth NaN where unknown; available (M,)."""

    title: str
    available: np.ndarray
    filled: np.ndarray
    truth: np.ndarray


def synthesis_png(slices: Sequence[Shown], modalities: Sequence[str], out: str | Path) -> Path:
    """Draw slices one below the other; returns `out`."""
    tall = 3 * len(slices)
    figure = drawing.new_figure(2.0 * len(modalities) + 0.4, 2.05 * tall)
    axes = figure.subplots(tall, len(modalities), squeeze=False)
    for number, shown in enumerate(slices):
        lines = axes[3 * number : 3 * number + 3]
        lines[0][0].set_ylabel(shown.title, fontsize=8)
        for column, name in enumerate(modalities):
            _draw(lines[:, column], name, shown, column)
    for axis in axes.ravel():
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return drawing.save(figure, out)


def _draw(lines: Sequence, name: str, shown: Shown, column: int) -> None:
    grey = {"cmap": "gray", "vmin": -1, "vmax": 1}
    lines[0].imshow(shown.filled[column], **grey)
    truth = shown.truth[column]
    if shown.available[column]:
        lines[0].set_title(f"{name}, given", fontsize=9)
        return
    lines[0].set_title(f"{name}, synthesised", fontsize=9, color=drawing.CLASS_COLOURS[2])
    if np.isnan(truth).any():
        lines[1].set_title("truth unknown", fontsize=9)
        return
    lines[1].imshow(truth, **grey)
    lines[1].set_title("truth", fontsize=9)
    error = (shown.filled[column] - truth) / 2
    lines[2].imshow(error, cmap="RdBu_r", vmin=-_ERROR, vmax=_ERROR)
    lines[2].set_title(f"error, mean {np.abs(error).mean():.3f}", fontsize=9)
