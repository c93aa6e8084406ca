"""Drawing on matplotlib axes: curves, outlines of segmentations, a table, a legend."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastseg.data.geometry import bounding_box
from fastseg.errors import UsageError
from fastseg.host.files import whole

# Okabe & Ito's colours, distinguishable in every form of colour blindness
CLASS_COLOURS = ("#0072B2", "#E69F00", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442")


class Overlay(NamedTuple):
    """One patient: image (C, D, H, W) float; label, prediction class indices (D, H, W) or None."""

    case: str
    image: np.ndarray
    label: np.ndarray | None
    prediction: np.ndarray | None


def best_slice(*class_maps: np.ndarray | None) -> int:
    """Index along D of the slice with most of every class: Σ √area; the middle without any."""
    maps = [m for m in class_maps if m is not None]
    if not maps:
        raise UsageError("best_slice: got neither label nor prediction")
    score = np.zeros(maps[0].shape[0])
    for m in maps:
        for index in range(1, int(m.max()) + 1):
            score += np.sqrt(np.count_nonzero(m == index, axis=(1, 2)))
    return int(score.argmax()) if score.any() else len(score) // 2


def new_figure(width_inches: float, height_inches: float):
    """A figure that no pyplot state knows of: nothing to close, safe in threads."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inches, height_inches), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure, out: str | Path) -> Path:
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole(out) as part:
        figure.savefig(part, format="png")
    return out


def draw_curves(left, right, rows: list[dict]) -> None:
    """Loss on the left axes and validation Dice on the right ones, from rows of metrics.jsonl."""
    losses = [(r["step"], r["loss"]) for r in rows if r.get("loss") is not None]
    if losses:
        steps, values = np.array(losses, float).T
        left.plot(steps, values, color="0.75", lw=0.8, label="as logged")
        left.plot(steps, _smooth(values), color=CLASS_COLOURS[0], label="smoothed")
        left.legend(frameon=False, fontsize=8)
    left.set(title="training loss", xlabel="step")
    psnr = any("val_psnr" in r for r in rows)
    key = "val_psnr" if psnr else "val_dice"
    scores = [(r["step"], r[key]) for r in rows if r.get(key) is not None]
    curves: dict[str, list] = {}
    for step, value in scores:
        title = "mean over masks" if psnr else "mean over regions"
        named = value if isinstance(value, Mapping) else {title: value}
        for name, figure in named.items():
            curves.setdefault(name, []).append((step, figure))
    for (name, points), colour in zip(curves.items(), CLASS_COLOURS, strict=False):
        right.plot(*np.array(points, float).T, marker="o", ms=3, color=colour, label=name)
    if curves:
        right.legend(frameon=False, fontsize=8, loc="lower right")
    right.set(title="validation PSNR, dB" if psnr else "validation Dice", xlabel="step")
    if not psnr:
        right.set(ylim=(0, 1))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)


def _smooth(values: np.ndarray, share: float = 0.05) -> np.ndarray:
    """Running mean over `share` of the points, the window cut at both ends."""
    half = max(1, int(len(values) * share / 2))
    total = np.concatenate([[0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def draw_overlay(axes, overlay: Overlay, modalities: Sequence[str], classes: Sequence[str]) -> None:
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
    """A slice in 0…1; the background, 0 or the lowest value, is black."""
    brain = channel != 0
    low, high = np.percentile(channel[brain], [0.5, 99.7]) if brain.any() else (0, 1)
    return np.clip((channel - low) / max(high - low, 1e-6), 0, 1) * brain


def _painted(channel: np.ndarray, class_map: np.ndarray | None) -> np.ndarray:
    """The classes in their colours over a faint grey image, RGB (H, W, 3)."""
    from matplotlib.colors import to_rgb

    picture = np.repeat(0.5 * _grey(channel)[..., None], 3, axis=-1)
    if class_map is not None:
        for index in range(1, int(class_map.max()) + 1):
            picture[class_map == index] = to_rgb(CLASS_COLOURS[(index - 1) % len(CLASS_COLOURS)])
    return picture


def draw_predictions(
    axes, overlay: Overlay, predictions: Mapping[str, np.ndarray], modalities: Sequence[str]
) -> None:
    """One patient's most informative slice: image, truth, then each of the named predictions."""
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
    """One patient, each of the named modalities alone: truth solid, prediction dashed."""
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
    """Rows and columns of volumes (D, H, W) with brain or a class in any of them."""
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
    """Validation score by epoch, a line a seed, on the left axes; on the right ones a dot for each
    test patient, its scores in the arms joined, and a bar for the mean.
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


def draw_table(axis, rows: Sequence[Mapping], regions: Sequence[str]) -> None:
    axis.axis("off")
    axis.set_title("Dice of held-out patients")
    cells = [[row["case"], *(f"{row[f'dice_{r}']:.3f}" for r in regions)] for row in rows]
    if cells:
        table = axis.table(
            cells, colLabels=["patient", *regions], loc="upper center", edges="horizontal"
        )
        table.auto_set_font_size(False)
        table.set_fontsize(9)
        table.scale(1, 1.35)
        table.auto_set_column_width(list(range(len(regions) + 1)))
