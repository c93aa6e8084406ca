"""Score a folder of predictions against a data set, patient by patient.

fastseg evaluate PREDICTIONS --data DATA
fastseg evaluate PREDICTIONS --data DATA --modalities t1,t1ce,t2,flair    # one folder of each
fastseg evaluate PREDICTIONS --data DATA --task synthesis
fastseg evaluate PREDICTIONS --data DATA --task synthesis --truth CLEAN    # DATA without noise
torchrun --nproc-per-node 4 -m fastseg evaluate PREDICTIONS --data DATA --out SCORES
"""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fastseg import tasks
from fastseg.host.files import write_csv, write_json
from fastseg.host.processes import company
from fastseg.host.shares import score_all
from fastseg.tasks.base import Criteria, Report

log = logging.getLogger("fastseg")


def evaluate(
    predictions: str | Path,
    data,
    out: str | Path | None = None,
    *,
    task: str = "segmentation",
    modalities: Sequence[str] | None = None,
    cases: Sequence[str] | None = None,
    missing: str = "skip",
    region: str | None = None,
    truth=None,
    threads: int | None = None,
    quiet: bool = False,
) -> Report:
    """Score the predictions of a data set, print the table and return the report.

    Started by torchrun or srun, each process scores its share of the files; all must call this and
    return the same report, the first prints and writes it, and an error of one is raised in all.

    Args:
        predictions: folder with CASE_pred.nii.gz, CASE_seg.nii.gz or CASE.nii.gz (or .nii) files;
            what `fastseg sample` wrote, where the task is synthesis.
        data: data set folder, or a `fastseg.data.cases.Dataset`, with the true labels or images.
        out: folder for evaluation.csv and evaluation.json, or None.
        task: "segmentation", or "synthesis" of missing modalities.
        modalities: score the folder `predictions/MODALITY` of each; `out` then also receives
            modalities.json, and overlays.png of a few patients.
        cases: ids, None for all that are labelled.
        missing: "skip" leaves patients without a prediction out of the means and lists them,
            "empty" scores them as an empty prediction, "error" refuses.
        region: score this one alone, its classes merged in predictions and truth; by default the
            one that `fastseg sample` noted beside the predictions, if any.
        truth: of synthesis: data set of the same cases with the images to compare with, in the same
            intensities, such as phantoms without noise; brain and scale stay those of `data`.
        threads: of this process, by default at most 8.
        quiet: print neither the table nor progress.

    Raises:
        DataError: names a prediction whose shape, affine or label values differ from the data
            set's; where there is nothing to score.
        UsageError: for a bad argument, and a folder of something else.
    """
    does, folder = tasks.named(task), Path(predictions)
    criteria = Criteria(cases, missing, region, truth)
    several, reports = modalities is not None, {}
    with company() as processes:
        places = processes.each(partial(does.scored_folders, folder, modalities))
        for name in places:
            scoring = processes.each(partial(does.scoring, folder / name, data, criteria))
            rows = score_all(scoring.work, scoring.score, processes, threads, quiet)
            reports[name] = scoring.report(rows)
            own = None if out is None else Path(out) / name
            processes.first(partial(_publish, reports[name], own, quiet or several))
        if not several:
            return reports[places[0]]
        report = does.side_by_side(reports)
        processes.first(partial(_publish_several, report, out, quiet))
        if out is not None:
            draw = partial(does.draw_side_by_side, reports, folder, data, region, Path(out))
            processes.first(draw)
    return report


def _publish(report: Report, out: Path | None, quiet: bool) -> None:
    if report.warning:
        log.warning(report.warning)
    if not quiet:
        print("\n\n".join([report.table(), *report.notes]))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_csv(out / "evaluation.csv", report.lines)
        write_json(out / "evaluation.json", report.to_dict())


def _publish_several(report: Report, out: str | Path | None, quiet: bool) -> None:
    if out is not None:
        write_json(Path(out) / "modalities.json", report.to_dict())
    if not quiet:
        print(report.table())
