"""What the figures of a study come to: means over patients and seeds, and paired tests."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MEASURES = {"dice_regions": "patient region Dice", "legacy_slice_dice": "legacy slice Dice"}
SYNTHESIS = {"psnr": "PSNR, dB", "ssim": "SSIM", "psnr_tumour": "PSNR of the tumour's box, dB",
             "ssim_tumour": "SSIM of it"}  # fmt: skip


def summarise(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Sum up each arm that has run: "arm", "seeds", "parameters", and by measure "mean", "sd" (over
    seeds of the mean over patients; None for one seed) and "p" (None for the first arm). Then the
    baselines, without seeds and parameters.
    """
    runs, keys = by_arm(record), [*titles(record), *columns(record)]
    first = next(iter(runs.values()))
    rows = []
    for name, mine in runs.items():
        found = {key: _figures(first, mine, key) for key in keys}
        parameters = next(iter(mine.values()))["parameters"]
        row = {"arm": name, "seeds": sorted(mine), "measures": found, "parameters": parameters}
        rows.append(row)
    for base in record.get("baselines", ()):
        # the same whatever the seed, so that it pairs with all runs of the first arm
        mine = dict.fromkeys(first, base)
        found = {key: _figures(first, mine, key) | {"sd": None} for key in keys}
        rows.append({"arm": base["arm"], "seeds": [], "measures": found, "parameters": None})
    return rows


def _figures(first: Mapping, mine: Mapping, key: str) -> dict[str, float | None]:
    means = [np.mean([case[key] for case in run["rows"]]) for run in mine.values()]
    return {
        "mean": float(np.mean(means)),
        "sd": float(np.std(means, ddof=1)) if len(means) > 1 else None,
        "p": None if mine is first else _paired_p(first, mine, key),
    }


def paired_p(before: np.ndarray, after: np.ndarray) -> float:
    """Compute the two-sided p of Wilcoxon's signed-rank test on pairs; 1 where none differs."""
    from scipy.stats import wilcoxon

    return float(wilcoxon(after, before).pvalue) if np.any(before != after) else 1.0


def _paired_p(first: Mapping, mine: Mapping, key: str) -> float | None:
    seeds = sorted(set(first) & set(mine))
    if not seeds:
        return None
    return paired_p(*(seed_average([arm[s] for s in seeds], key) for arm in (first, mine)))


def seed_average(runs: Sequence[Mapping], key: str) -> np.ndarray:
    """Average one score a patient over seeds, in the patients' order."""
    by_case = [{row["case"]: row[key] for row in run["rows"]} for run in runs]
    return np.array([np.mean([scores[case] for scores in by_case]) for case in sorted(by_case[0])])


def by_arm(record: Mapping) -> dict[str, dict[int, Mapping]]:
    """Sort runs by arm and seed."""
    runs: dict[str, dict[int, Mapping]] = {}
    for run in record["runs"]:
        runs.setdefault(run["arm"], {})[run["seed"]] = run
    return runs


def synthesises(record: Mapping) -> bool:
    """Tell whether the arms are of synthesis."""
    return record.get("task") == "synthesis"


def titles(record: Mapping) -> dict[str, str]:
    """Give key and title of what is tested, which every patient has."""
    known = SYNTHESIS if synthesises(record) else MEASURES
    rows = [row for run in record["runs"] for row in run["rows"]]
    return {key: title for key, title in known.items() if all(key in row for row in rows)}


def columns(record: Mapping) -> list[str]:
    """List the keys of further columns."""
    kind = "psnr" if synthesises(record) else "dice"
    return [f"{kind}_{name}" for name in record["runs"][0]["regions"]]
