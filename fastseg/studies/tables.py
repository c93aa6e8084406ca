"""What a study found, in tables: Markdown, and the same figures as JSON."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastseg import config
from fastseg.host import files
from fastseg.host.files import write_text
from fastseg.pictures.tables import Table
from fastseg.studies.statistics import (
    by_arm,
    columns,
    summarise,
    synthesises,
    titles,
)

NOTES = (
    "Scores of the test patients with each run's best checkpoint on the validation patients. Mean "
    "over patients, then mean ± sample standard deviation over seeds.",
    "Patient region Dice: of whole volumes, mean of {regions}; both empty 1, one empty 0. Legacy "
    "slice Dice: mean over axial slices and classes, a class absent from both 0.5; only for "
    "comparison with figures of its kind.",
    "p: two-sided Wilcoxon signed-rank test against {first} over {patients} patients, their scores "
    "averaged over the seeds both arms have; not corrected for the number of arms. No p below "
    "{least:.2g} can come of so many patients.",
)

SYNTHESIS_NOTES = (
    NOTES[0],
    "PSNR and SSIM: of whole axial slices with brain, both images mapped to 0 … 1 by the 0.5 "
    "and 99.5 percentiles of the data set's volume; mean over subsets of given modalities. Columns "
    "of modalities: PSNR where that one is missing.",
    "Mean of given and linear regression: what a network has to beat, voxel by voxel; the "
    "regression has the least squares on the training patients.",
    NOTES[2],
)
TRUTH_NOTE = (
    "Arms, mean of given and regression are compared with the images of {truth}, in the scale of "
    "the data set's own. Further checks are compared with the data set's."
)


def write_tables(record: dict[str, Any], out: Path) -> None:
    """Write out/study.json and out/study.md: `record` of `fastseg.study` and what follows from it.

    Arms and seeds that have not run yet are left out.
    """
    summary = summarise(record)
    files.write_json(out / "study.json", record | {"summary": summary})
    parts = [f"# Study {record['study']}", record["question"], counts(record)]
    parts += [f"```\n{command(record)}\n```"]
    parts += [table.markdown() for table in tables_of(record, summary)]
    parts += ["\n".join(f"- {note}" for note in notes(record))]
    write_text(out / "study.md", "\n\n".join(parts) + "\n")


def tables_of(record: Mapping, summary: Sequence[Mapping]) -> list[Table]:
    """Make the tables of a study: scores, runs, settings, and what else was checked."""
    measures = titles(record)
    head = ["arm", "seeds", "parameters"]
    head += [title for name in measures.values() for title in (name, "p")]
    head += list(record["runs"][0]["regions"])
    rows = []
    for row in summary:
        cells = [
            row["arm"],
            *(f"{n:,}" if n else "–" for n in (len(row["seeds"]), row["parameters"])),
        ]
        for key in measures:
            found = row["measures"][key]
            cells += [_spread(found), "–" if found["p"] is None else f"{found['p']:.3g}"]
        rows.append(cells + [_spread(row["measures"][key]) for key in columns(record)])
    runs = []
    for run in record["runs"]:
        score = np.mean([row[next(iter(measures))] for row in run["rows"]])
        counts = [str(run[key]) for key in ("seed", "epochs", "best_epoch")]
        runs.append([run["arm"], *counts, f"{score:.3f}", f"{run['time_s'] / 60:.1f}"])
    title = next(iter(measures.values()))
    run_head = ["arm", "seed", "epochs", "best epoch", title, "minutes of training"]
    tables = [Table("Scores", head, rows), Table("Runs", run_head, runs), _settings(record)]
    if "across" in record["runs"][0]:
        tables.append(_across(record))
    return tables + _checks(record.get("checks", {}))


def _checks(found: Mapping) -> list[Table]:
    """Tables of `fastseg.studies.checks.checks`."""
    tables = []
    if "degraded" in found:
        head = ["given images with", "strength", "PSNR, dB", "SSIM"]
        rows = [[row["kind"], f"{row['level']:g}", f"{row['psnr']:.2f}", f"{row['ssim']:.3f}"]
                for row in found["degraded"]]  # fmt: skip
        tables.append(Table("Single missing modalities from worse and worse images", head, rows))
    if "segmented" in found:
        rows = [[row["modality"], row["images"], f"{row['dice']:.3f}"]
                for row in found["segmented"]]  # fmt: skip
        title = "Segmentation by a network trained on real images"
        tables.append(Table(title, ["modality", "its images", "patient region Dice"], rows))
    return tables


def _across(record: Mapping) -> Table:
    """Dice of the test patients as each modality shows them, and of the validation patients."""
    names = list(dict.fromkeys(name for run in record["runs"] for name in run["across"]))
    names = [*(name for name in names if name != "validation"), "validation"]
    keys = ["dice_regions", *(f"dice_{region}" for region in record["runs"][0]["regions"])]
    rows = []
    for arm, runs in by_arm(record).items():
        cells = []
        for name in names:
            found = [run["across"][name] for run in runs.values() if name in run["across"]]
            figures = [f"{np.mean([scores[key] for scores in found]):.3f}" for key in keys if found]
            cells.append(f"{figures[0]} ({' '.join(figures[1:])})" if figures else "–")
        rows.append([arm, *cells])
    regions = ", ".join(record["runs"][0]["regions"])
    return Table(f"Across modalities: mean ({regions})", ["arm", *names], rows)


def _settings(record: Mapping) -> Table:
    """What the arms do not have in common."""
    flat = {}
    for name, runs in by_arm(record).items():
        recipe = config.flatten(next(iter(runs.values()))["recipe"])
        flat[name] = {
            key: value for key, value in recipe.items() if key not in ("name", "data.seed")
        }
    keys = sorted({key for recipe in flat.values() for key in recipe})
    texts = {key: [config.shown(r[key]) if key in r else "" for r in flat.values()] for key in keys}
    rows = [[key, *cells] for key, cells in texts.items() if len(set(cells)) > 1]
    return Table("Settings in which the arms differ", ["key", *flat], rows)


def counts(record: Mapping) -> str:
    """Say how many patients are in each part."""
    sizes = ", ".join(f"{len(record['split'][part])} {part}" for part in ("train", "val", "test"))
    return f"Data: {Path(record['data']).name}; patients: {sizes}."


def command(record: Mapping) -> str:
    """Write the command that makes the study again."""
    seeds = ",".join(map(str, record["seeds"]))
    truth = ["--truth TRUTH"] if record.get("truth") else []
    arms = [f"--arms {shlex.quote(','.join(record['chosen']))}"] if record.get("chosen") else []
    words = [record["study"], "--data DATA", *truth, "--out OUT --seeds", seeds, *arms]
    words += record["overrides"]
    return f"fastseg study {' '.join(words)}"


def notes(record: Mapping) -> list[str]:
    """List what a reader has to know of the figures."""
    patients = len(record["runs"][0]["rows"])
    values = {"regions": ", ".join(record["runs"][0]["regions"]) or "the classes",
              "first": record["runs"][0]["arm"], "patients": patients,
              "least": min(1.0, 2.0 ** (1 - patients))}  # fmt: skip
    texts = SYNTHESIS_NOTES if synthesises(record) else NOTES
    if record.get("truth"):
        values["truth"] = Path(record["truth"]).name
        texts = (*texts, TRUTH_NOTE)
    return [text.format(**values) for text in texts]


def _spread(found: Mapping) -> str:
    return f"{found['mean']:.3f}" + ("" if found["sd"] is None else f" ± {found['sd']:.3f}")
