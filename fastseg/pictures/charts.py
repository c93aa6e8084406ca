"""Draw the curves of a run and the scores of its patients on matplotlib axes."""

from collections.abc import Mapping, Sequence

import numpy as np

from fastseg.pictures.drawing import CLASS_COLOURS


def draw_curves(left, right, rows: list[dict]) -> None:
    """Draw loss on the left axes and validation scores on the right ones.

    Args:
        left, right: matplotlib axes.
        rows: of a metrics.jsonl.

    >>> from fastseg.pictures.drawing import new_figure
    >>> left, right = new_figure(4, 2).subplots(1, 2)
    >>> draw_curves(left, right, [{"step": 1, "loss": 0.5}, {"step": 2, "val_dice": 0.75}])
    >>> right.get_title()
    'validation Dice'
    """
    losses = [(r["step"], r["loss"]) for r in rows if r.get("loss") is not None]
    if losses:
        steps, values = np.array(losses, float).T
        left.plot(steps, values, color="0.75", lw=0.8, label="as logged")
        left.plot(steps, _smooth(values), color=CLASS_COLOURS[0], label="smoothed")
        left.legend(frameon=False, fontsize=8)
    left.set(title="training loss", xlabel="step")
    keys = [key for row in rows for key in row if key.startswith("val_")]
    key = keys[-1] if keys else "val_dice"
    psnr = key == "val_psnr"  # which has no end at 1
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
    """Return the running mean over `share` of the points, the window cut at both ends."""
    half = max(1, int(len(values) * share / 2))
    total = np.concatenate([[0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def draw_table(axis, rows: Sequence[Mapping], regions: Sequence[str]) -> None:
    """Draw the Dice of each region, a line a row of `fastseg.evaluate.Report.rows`."""
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
