"""Make figures, and draw segmentations, arms of a study and a legend on matplotlib axes."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastseg.data.geometry import bounding_box
from fastseg.errors import UsageError
from fastseg.host.files import written_whole

# Okabe & Ito's colours, distinguishable in every form of colour blindness
CLASS_COLOURS = ("#0072B2", "#E69F00", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442")


class Overlay(NamedTuple):
    """Hold one patient: image float (C, D, H, W); label and prediction, class indices (D, H, W),
    or None.
    """

    case: str
    image: np.ndarray
    label: np.ndarray | None
    prediction: np.ndarray | None


def best_slice(*class_maps: np.ndarray | None) -> int:
    """Find the slice with most of every class, by Σ √area; the middle one where there is no class.

    Args:
        class_maps: class indices (D, H, W), or None.

    Returns:
        its index along D.

    Raises:
        UsageError: all are None.

    >>> label = np.zeros((5, 4, 4), int)
    >>> label[3, :2] = 1
    >>> best_slice(label, None)
    3
    """
    maps = [m for m in class_maps if m is not None]
    if not maps:
        raise UsageError("best_slice: got neither label nor prediction")
    score = np.zeros(maps[0].shape[0])
    for m in maps:
        for index in range(1, int(m.max()) + 1):
            score += np.sqrt(np.count_nonzero(m == index, axis=(1, 2)))
    return int(score.argmax()) if score.any() else len(score) // 2


def new_figure(width_inches: float, height_inches: float):
    """Make a figure that no pyplot state knows of: nothing to close, safe in threads."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inches, height_inches), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure, out: str | Path) -> Path:
    """Write a figure as PNG, whole or not at all, make its folder, and return the path.

    >>> save(new_figure(1, 1), "pictures/empty.png").name
    'empty.png'
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # names of classes and cases are no formulas
    with written_whole(out) as part:
        figure.savefig(part, format="png")
    return out


def draw_overlay(axes, overlay: Overlay, modalities: Sequence[str], classes: Sequence[str]) -> None:
    """Draw the most informative axial slice of one patient.

    Args:
        axes: one for each modality, which gets outlines of truth (solid) and prediction (dashed),
            then two for both as filled maps.
        overlay: the patient.
        modalities: names of the channels.
        classes: names of the classes, background first.
    """
    index = best_slice(overlay.label, overlay.prediction)
    label = None if overlay.label is None else overlay.label[index]
    prediction = None if overlay.prediction is None else overlay.prediction[index]
    for axis, channel, name in zip(axes, overlay.image[:, index], modalities, strict=False):
        axis.imshow(_grey(channel), cmap="gray", vmin=0, vmax=1)
        _outline(axis, label, "solid", classes)
        _outline(axis, prediction, "dashed", classes)
        axis.set_title(name, fontsize=9)
    for axis, filled, name in zip(
        axes[-2:], (label, prediction), ("truth", "prediction"), strict=True
    ):
        axis.imshow(_painted(overlay.image[0, index], filled))
        axis.set_title(name if filled is not None else f"no {name}", fontsize=9)
    axes[0].set_ylabel(f"{overlay.case}\nslice {index}", fontsize=9)
    for axis in axes:
        axis.set(xticks=[], yticks=[])


def _outline(axis, class_map: np.ndarray | None, style: str, classes: Sequence[str]) -> None:
    if class_map is None:
        return
    for index in range(1, len(classes)):
        mask = class_map == index
        if mask.any() and not mask.all():
            colour = CLASS_COLOURS[(index - 1) % len(CLASS_COLOURS)]
            axis.contour(mask, levels=[0.5], colors=colour, linewidths=0.9, linestyles=style)


def _grey(channel: np.ndarray) -> np.ndarray:
    """Map a slice to 0…1; the background, 0 or the lowest value, is black."""
    brain = channel != 0
    low, high = np.percentile(channel[brain], [0.5, 99.7]) if brain.any() else (0, 1)
    return np.clip((channel - low) / max(high - low, 1e-6), 0, 1) * brain


def _painted(channel: np.ndarray, class_map: np.ndarray | None) -> np.ndarray:
    """Paint the classes in their colours over a faint grey image: RGB (H, W, 3)."""
    from matplotlib.colors import to_rgb

    picture = np.repeat(0.5 * _grey(channel)[..., None], 3, axis=-1)
    if class_map is not None:
        for index in range(1, int(class_map.max()) + 1):
            picture[class_map == index] = to_rgb(CLASS_COLOURS[(index - 1) % len(CLASS_COLOURS)])
    return picture


def draw_predictions(
    axes, overlay: Overlay, predictions: Mapping[str, np.ndarray], modalities: Sequence[str]
) -> None:
    """Draw one patient's most informative slice: image, truth, then each named prediction.

    Args:
        axes: as many as that.
        overlay: the patient; its own prediction is not drawn.
        predictions: class indices (D, H, W) by name.
        modalities: names of the channels; the last one is shown.
    """
    index = best_slice(overlay.label)
    channel = overlay.image[-1, index]
    axes[0].imshow(_grey(channel), cmap="gray", vmin=0, vmax=1)
    axes[0].set_title(modalities[-1], fontsize=9)
    axes[0].set_ylabel(f"{overlay.case}\nslice {index}", fontsize=9)
    maps = {"truth": overlay.label, **predictions}
    for axis, (name, class_map) in zip(axes[1:], maps.items(), strict=True):
        axis.imshow(_painted(channel, class_map[index]))
        axis.set_title(name, fontsize=9)
    for axis in axes:
        axis.set(xticks=[], yticks=[])


def draw_each(axes, overlays: Mapping[str, Overlay], classes: Sequence[str]) -> None:
    """Draw one patient as each modality shows it: truth solid, prediction dashed.

    Args:
        axes: one for each of `overlays`.
        overlays: by modality, an image of one channel each.
        classes: names of the classes, background first.
    """
    first = next(iter(overlays.values()))
    index = best_slice(first.label)
    box = (index, *_extent(overlays.values()))
    for axis, (name, overlay) in zip(axes, overlays.items(), strict=True):
        axis.imshow(_grey(overlay.image[0][box]), cmap="gray", vmin=0, vmax=1)
        _outline(axis, overlay.label[box], "solid", classes)
        _outline(axis, overlay.prediction[box], "dashed", classes)
        axis.set_title(name, fontsize=9)
        axis.set(xticks=[], yticks=[])
    axes[0].set_ylabel(f"{first.case}\nslice {index}", fontsize=9)


def _extent(overlays: Iterable[Overlay], margin: int = 2) -> tuple[slice, slice]:
    """Find the rows and columns of volumes (D, H, W) with brain or a class in any of them."""
    inside = np.any([(o.image[0] != 0) | (o.label > 0) | (o.prediction > 0) for o in overlays], 0)
    box = bounding_box(inside)
    if box is None:
        return slice(None), slice(None)
    return tuple(slice(max(0, part.start - margin), part.stop + margin) for part in box[1:])


def draw_arms(
    left,
    right,
    curves: Mapping[str, Sequence[Sequence[tuple[int, float]]]],
    patients: Mapping[str, np.ndarray],
    measure: str = "Dice",
    over: str = "regions",
) -> None:
    """Draw what a study's arms reached.

    On the left axes the validation score by epoch, a line a seed; on the right ones a dot for each
    test patient, its scores in the arms joined, and a bar for the mean.

    Args:
        left, right: matplotlib axes.
        curves: of each arm, for each seed, (epoch, score).
        patients: of each arm, scores (patients,).
        measure, over: what the scores are, and what they are means over, for the titles.
    """
    colours = [CLASS_COLOURS[i % len(CLASS_COLOURS)] for i in range(len(curves))]
    for (name, seeds), colour in zip(curves.items(), colours, strict=True):
        for number, points in enumerate(filter(None, seeds)):
            label = name if number == 0 else None
            left.plot(*np.array(points, float).T, color=colour, lw=1, marker="o", ms=2, label=label)
    if left.lines:
        left.legend(frameon=False, fontsize=8, loc="lower right")
    left.set(title=f"validation {measure}", xlabel="epoch")
    values = np.array(list(patients.values()))
    right.plot(values, color="0.85", lw=0.6)
    for place, (scores, colour) in enumerate(zip(values, colours, strict=True)):
        right.plot(np.full(len(scores), place), scores, ".", color=colour)
        right.hlines(scores.mean(), place - 0.3, place + 0.3, color=colour, lw=2)
    right.set(title=f"{measure} of test patients, mean over {over} and seeds")
    if measure == "Dice":
        for axes in (left, right):
            axes.set(ylim=(0, 1))
    right.set_xticks(range(len(patients)), list(patients))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)


def draw_legend(figure, classes: Sequence[str], outlines: bool = True) -> None:
    """Draw the colours of `classes`, background first, below a figure; `outlines`: their styles."""
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color=c, lw=4) for c, _ in zip(CLASS_COLOURS, classes[1:], strict=False)
    ]
    names = list(classes[1 : len(CLASS_COLOURS) + 1])
    if outlines:
        lines += [Line2D([], [], color="0.3", ls=style) for style in ("solid", "dashed")]
        names += ["truth", "prediction"]
    figure.legend(
        lines, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=9
    )
