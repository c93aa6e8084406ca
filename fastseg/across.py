"""One network, one modality after another: how far what it learnt on one carries to the others.

    fastseg sample RUN --data DATA --out PREDICTIONS --part test --modalities t1,t1ce,t2,flair
    fastseg evaluate PREDICTIONS --data DATA --modalities t1,t1ce,t2,flair

PREDICTIONS/MODALITY holds what the network made of that modality alone.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastseg.data.cases.layouts import canonical
from fastseg.errors import DataError, UsageError
from fastseg.evaluate import Report
from fastseg.evaluate import evaluate as evaluate_one
from fastseg.host.files import write_json
from fastseg.host.processes import company
from fastseg.sample import sample as sample_one
from fastseg.tasks.segmentation import picture
from fastseg.tasks.segmentation.predictions import RECORD


def sample(
    checkpoint_path: str | Path,
    data: str | Path,
    out: str | Path,
    modalities: Sequence[str],
    **options: Any,
) -> list[Path]:
    """`fastseg.sample.sample` of each modality in turn, to `out/MODALITY`; returns all paths.

    UsageError unless the network has one input channel; what `sample` raises.
    """
    _check(modalities)
    return [
        path
        for name in modalities
        for path in sample_one(
            checkpoint_path, data, Path(out) / name, modalities=(name,), **options
        )
    ]


def evaluate(
    predictions: str | Path,
    data: Any,
    modalities: Sequence[str],
    out: str | Path | None = None,
    *,
    quiet: bool = False,
    **options: Any,
) -> dict[str, Report]:
    """`fastseg.evaluate.evaluate` of `predictions/MODALITY` for each modality; prints the table.

    `out` receives a folder with all scores for each, modalities.json with the means, and
    overlays.png of a few patients. DataError where a folder is missing or holds the predictions of
    another modality.
    """
    _check(modalities)
    reports, folder = {}, Path(predictions)
    with company() as processes:
        for name in modalities:
            processes.each(functools.partial(_check_record, folder / name, name))
            own = None if out is None else Path(out) / name
            reports[name] = evaluate_one(folder / name, data, own, quiet=True, **options)
        processes.first(lambda: _publish(reports, out, quiet))
        if out is not None:
            region = options.get("region")
            processes.first(lambda: picture.draw(folder, data, reports, region, Path(out)))
    return reports


def _publish(reports: Mapping[str, Report], out: str | Path | None, quiet: bool) -> None:
    means = {name: report.mean for name, report in reports.items()}
    if out is not None:
        write_json(Path(out) / "modalities.json", means)
    if not quiet:
        print(table(means, next(iter(reports.values())).regions))


def table(means: Mapping[str, Mapping[str, float]], regions: Sequence[str]) -> str:
    """Plain text: for each modality the mean Dice over patients, of the regions and of each."""
    head = ["modality", "mean", *regions]
    rows = [
        [name, *(f"{mean[key]:.3f}" for key in ("dice_regions", *(f"dice_{r}" for r in regions)))]
        for name, mean in means.items()
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in (head, *rows)
    )


def _check(modalities: Sequence[str]) -> None:
    if not modalities or len(set(modalities)) < len(modalities):
        raise UsageError(f"modalities: is {', '.join(modalities)!r}, wanted different names")


def _check_record(folder: Path, name: str) -> None:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; `fastseg sample --modalities {name}` makes it")
    record = json.loads((folder / RECORD).read_text()) if (folder / RECORD).exists() else {}
    shown = record.get("modalities", [name])
    if [*map(canonical, shown)] != [canonical(name)]:
        raise DataError(f"{folder}: holds predictions from {', '.join(shown)}, wanted {name}")
