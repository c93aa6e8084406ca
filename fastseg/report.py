"""Pictures of a run: curves, overlays of truth and prediction, and a page with all of them.

fastseg report RUN
"""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fastseg.errors import DataError, UsageError
from fastseg.host.files import write_text
from fastseg.pictures import drawing

CLASS_NAMES = ("background", "NCR", "ED", "ET")
LAST_OVERLAYS = 6  # a long run draws hundreds
MODALITIES = ("t1", "t1ce", "t2", "flair")


def read_metrics(path: str | Path) -> list[dict]:
    """The rows of a metrics.jsonl; a last line that is still being written is left out."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise DataError(f"{path}: line {number} is not JSON") from None
    return rows


def progress_png(metrics_jsonl: str | Path, out: str | Path) -> Path:
    """Draw loss and validation Dice over the steps of a metrics.jsonl, and return `out`.

    Empty axes before the run has logged anything.
    """
    figure = drawing.new_figure(8, 3.2)
    left, right = figure.subplots(1, 2)
    rows = read_metrics(metrics_jsonl) if Path(metrics_jsonl).exists() else []
    drawing.draw_curves(left, right, rows)
    return drawing.save(figure, out)


def overlay_png(
    image: np.ndarray,
    label: np.ndarray | None,
    prediction: np.ndarray | None,
    out: str | Path,
    *,
    title: str = "",
    modalities: Sequence[str] = MODALITIES,
    classes: Sequence[str] = CLASS_NAMES,
) -> Path:
    """Draw the most informative axial slice: every modality with the outlines of truth (solid) and
    prediction (dashed), then both as filled maps. Returns `out`.

    image: (C, D, H, W) float; label, prediction: class indices (D, H, W), either may be None.
    """
    overlay = drawing.Overlay(title, image, label, prediction)
    panels = len(image) + 2
    figure = drawing.new_figure(2.1 * panels, 2.75)
    drawing.draw_overlay(figure.subplots(1, panels), overlay, modalities, classes)
    drawing.draw_legend(figure, classes)
    return drawing.save(figure, out)


def summary_png(
    out: str | Path,
    metrics_jsonl: str | Path,
    overlays: Sequence[drawing.Overlay],
    rows: Sequence[Mapping],
    *,
    regions: Sequence[str] = ("WT", "TC", "ET"),
    modalities: Sequence[str] = MODALITIES,
    classes: Sequence[str] = CLASS_NAMES,
) -> Path:
    """One picture of a whole run: curves, Dice of every evaluated patient, and some overlays.

    rows: as `fastseg.evaluate.Report.rows`, the mean appended as a row if it is to be shown.
    """
    panels = len(modalities) + 2
    figure = drawing.new_figure(2.1 * panels, 3.4 + 2.35 * len(overlays))
    top, *below = figure.subfigures(
        1 + len(overlays), 1, height_ratios=[3.2, *[2.3] * len(overlays)], squeeze=False
    ).ravel()
    left, right, corner = top.subplots(1, 3)
    drawing.draw_curves(left, right, read_metrics(metrics_jsonl))
    drawing.draw_table(corner, rows, regions)
    for part, overlay in zip(below, overlays, strict=True):
        drawing.draw_overlay(part.subplots(1, panels), overlay, modalities, classes)
    drawing.draw_legend(figure, classes)
    return drawing.save(figure, out)


def report(run_dir: str | Path) -> Path:
    """Write RUN/report.html, one self-contained page: curves, scores, overlays, settings.

    Raises UsageError when the folder is not that of a training run.
    """
    run = Path(run_dir)
    if not (run / "metrics.jsonl").is_file():
        raise UsageError(f"{run}: has no metrics.jsonl, want the folder of a training run")
    progress_png(run / "metrics.jsonl", run / "progress.png")
    pictures = [run / "progress.png", *sorted((run / "overlays").glob("*.png"))[-LAST_OVERLAYS:]]
    title = html.escape(run.resolve().name)
    parts = [f"<h1>{title}</h1>", _last_values(run / "metrics.jsonl")]
    parts += [_scores_html(path) for path in sorted(run.rglob("evaluation.json"))]
    parts += [picture_html(path) for path in pictures]
    parts += [_json_html(run / name) for name in ("config.json", "split.json", "env.json")]
    page = PAGE.format(title=title, body="\n".join(filter(None, parts)))
    write_text(run / "report.html", page)
    return run / "report.html"


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }}
img {{ max-width: 100% }} td, th {{ padding: .1rem .8rem; text-align: right }}
td:first-child, th:first-child {{ text-align: left }} pre {{ overflow-x: auto }}
</style></head><body>
{body}
</body></html>
"""


def _last_values(metrics_jsonl: Path) -> str:
    rows = read_metrics(metrics_jsonl)
    last = {key: value for row in rows for key, value in row.items()}
    skipped = sum("skipped" in row for row in rows)
    wanted = ("step", "epoch", "loss", "val_dice", "val_psnr", "lr", "samples_per_s", "time_s")
    shown = {key: last[key] for key in wanted if key in last} | {"skipped steps": skipped}
    cells = "".join(
        f"<tr><td>{k}</td><td>{html.escape(str(v))}</td></tr>" for k, v in shown.items()
    )
    return f"<table>{cells}</table>"


def _scores_html(path: Path) -> str:
    try:
        found = json.loads(path.read_text())
        if found.get("task") == "synthesis":
            return _synthesis_table(found)
        return _scores_table(found["regions"], [*found["cases"], {"case": "mean", **found["mean"]}])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is not a record of fastseg evaluate ({error!r})") from None


def _scores_table(regions: Sequence[str], rows: Sequence[Mapping]) -> str:
    keys = [f"dice_{r}" for r in regions] + ["dice_regions", "legacy_slice_dice"]
    keys += [f"hd95_mm_{r}" for r in regions]
    head = "".join(f"<th>{html.escape(key)}</th>" for key in ["case", *keys])
    lines = [
        f"<td>{html.escape(row['case'])}</td>" + "".join(f"<td>{row[k]:.3f}</td>" for k in keys)
        for row in rows
    ]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<h2>Scores</h2><table><tr>{head}</tr>{body}</table>"


def _synthesis_table(found: Mapping) -> str:
    named = [*found["by_given"].items(), *found["by_modality"].items(), ("mean", found["mean"])]
    keys = [key for key, value in found["mean"].items() if value is not None]
    head = "".join(f"<th>{html.escape(key)}</th>" for key in ["given, missing", *keys])
    shown = [[("–" if row[k] is None else f"{row[k]:.3f}") for k in keys] for _, row in named]
    lines = [f"<td>{html.escape(name)}</td>" + "".join(f"<td>{cell}</td>" for cell in cells)
             for (name, _), cells in zip(named, shown, strict=True)]  # fmt: skip
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<h2>Scores</h2><table><tr>{head}</tr>{body}</table>"


def picture_html(path: Path) -> str:
    """A PNG as a titled part of a page, its bytes inside."""
    data = base64.b64encode(path.read_bytes()).decode()
    name = html.escape(path.stem)
    return f'<h2>{name}</h2><img alt="{name}" src="data:image/png;base64,{data}">'


def _json_html(path: Path) -> str:
    if not path.is_file():
        return ""
    text = html.escape(path.read_text())
    return f"<details><summary>{path.name}</summary><pre>{text}</pre></details>"
