"""Draw a run: curves, overlays of truth and prediction, and a page with all of them.

fastseg report RUN
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from fastseg import tasks
from fastseg.errors import DataError, UsageError
from fastseg.host.files import write_text
from fastseg.pictures import charts, drawing
from fastseg.pictures.page import (
    file_html,
    page,
    picture_html,
    progress_png,
    read_metrics,
)
from fastseg.pictures.tables import Table
from fastseg.tasks.segmentation.picture import CLASS_NAMES, MODALITIES

LAST_OVERLAYS = 6  # a long run draws hundreds


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
    """Draw a whole run in one picture: curves, Dice of every evaluated patient, some overlays.

    Args:
        out: where the PNG goes.
        metrics_jsonl: the run's.
        overlays: the patients to show.
        rows: as `fastseg.evaluate.Report.rows`, the mean appended as a row if it is to be shown.
        regions: whose Dice the rows hold.
        modalities, classes: names of the channels and of the classes, background first.

    Returns:
        `out`, as a path.
    """
    panels = len(modalities) + 2
    figure = drawing.new_figure(2.1 * panels, 3.4 + 2.35 * len(overlays))
    top, *below = figure.subfigures(
        1 + len(overlays), 1, height_ratios=[3.2, *[2.3] * len(overlays)], squeeze=False
    ).ravel()
    left, right, corner = top.subplots(1, 3)
    charts.draw_curves(left, right, read_metrics(metrics_jsonl))
    charts.draw_table(corner, rows, regions)
    for part, overlay in zip(below, overlays, strict=True):
        drawing.draw_overlay(part.subplots(1, panels), overlay, modalities, classes)
    drawing.draw_legend(figure, classes)
    return drawing.save(figure, out)


def report(run_dir: str | Path) -> Path:
    """Write RUN/report.html, one self-contained page: curves, scores, overlays, settings.

    Raises:
        UsageError: the folder is not that of a training run.
        DataError: naming the file, where its metrics or a record of `fastseg evaluate` cannot be
            read.

    >>> Path("run").mkdir()
    >>> write_text(Path("run/metrics.jsonl"), '{"step": 1, "loss": 0.5}')
    >>> report("run").name
    'report.html'
    """
    run = Path(run_dir)
    if not (run / "metrics.jsonl").is_file():
        raise UsageError(f"{run}: has no metrics.jsonl, wanted the folder of a training run")
    progress_png(run / "metrics.jsonl", run / "progress.png")
    pictures = [run / "progress.png", *sorted((run / "overlays").glob("*.png"))[-LAST_OVERLAYS:]]
    parts = [_last_values(run / "metrics.jsonl")]
    parts += [_scores(path) for path in sorted(run.rglob("evaluation.json"))]
    parts += [picture_html(path) for path in pictures]
    parts += [file_html(run / name) for name in ("config.json", "split.json", "env.json")]
    write_text(run / "report.html", page(run.resolve().name, parts))
    return run / "report.html"


def _last_values(metrics_jsonl: Path) -> str:
    rows = read_metrics(metrics_jsonl)
    last = {key: value for row in rows for key, value in row.items()}
    skipped = sum("skipped" in row for row in rows)
    scores = [key for key in last if key.startswith("val_")]
    wanted = ("step", "epoch", "loss", *scores, "lr", "samples_per_s", "time_s")
    shown = {key: last[key] for key in wanted if key in last} | {"skipped steps": skipped}
    return Table("", [], [[key, str(value)] for key, value in shown.items()]).html()


def _scores(path: Path) -> str:
    try:
        found = json.loads(path.read_text())
        # scores of label maps do not say what they are of
        return tasks.named(found.get("task", "segmentation")).table(found).html()
    except (UsageError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is no record of fastseg evaluate ({error!r})") from None
