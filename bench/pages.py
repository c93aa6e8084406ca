"""The page of bench/results: every row's newest figures, and every record, from the records."""

from collections.abc import Mapping
from pathlib import Path

import records
import speed

from fastseg.bench import names
from fastseg.bench.accuracy import OURS
from fastseg.bench.cases import CASES, PASSES
from fastseg.bench.table import digits

INTRODUCTION = """\
# Records

Written from the JSON records of this folder by `python bench/summary.py`, which a test repeats; not
to be edited. Each record keeps every single time, the machine, the versions and the commit; the
page beside it has its tables. [bench/README.md](../README.md) says how each is made and what its
columns mean. A row's figures are those of its newest record on the machine."""
PROSE = {
    "architectures.md": "registers, spills and shared memory of the CUDA kernels by architecture",
    "real-case.md": "a public case predicted by a network that saw another one, with its picture",
    "studies/synthesis-phantoms-3072-steps.md": "FgC2F-UDiff, a longer training",
}
MEASURES = {"dice_regions": "patient region Dice", "psnr": "PSNR, dB"}
Stored = list[tuple[Path, dict]]


def results(stored: Stored, table: str) -> str:
    """Return the whole page.

    Args:
        stored: the records, of `records.stored()`.
        table: operators against their best rivals.
    """
    machines = {speed.machine(record) for _, record in stored if "cases" in record}
    found = {where: speed.newest(stored, where) for where in sorted(machines)}
    parts = [INTRODUCTION, "## Operators", "![speed](speed.png)", table]
    parts.append(ROWS)
    parts += [part for where, rows in found.items() for part in (f"### {where}", _rows(rows))]
    parts += ["## A call with a tiny tensor", _calls(found), "## Systems", SYSTEMS, _systems(found)]
    parts += ["## Studies", STUDIES, _studies(stored), "## All records", _index(stored)]
    prose = [f"[{path}]({path}): {what}" for path, what in PROSE.items()]
    parts.append("Without a JSON record, by their own commands:\n\n- " + "\n- ".join(prose))
    return "\n\n".join(parts) + "\n"


ROWS = """\
## Every row

*rivals*: others' layers and what one would write in torch; *matmul*: our own algorithm in plain
`torch.matmul`; × by the medians within one round. neuraloperator's times on odd sizes stand for the
work it does: its result is one row off there, so it is not the best rival."""


def _rows(found: Mapping[str, speed.Measured]) -> str:
    """Every timed case and pass: rivals by name, then what ours is held against."""
    head = ("case", "pass", "rivals, ms", "matmul, ms", "**fastseg**, ms", "× best rival",
            "× matmul", "roofline", "saved / x", "record")  # fmt: skip
    timed = [(name, one) for name, one in found.items() if "forward" in _ours(one)]
    timed = [(name, one) for name, one in timed if one.result["family"] != "system"]
    return records.table(head, [_cells(*pair, which) for pair in timed for which in PASSES])


def _ours(one: speed.Measured) -> dict:
    return one.result["providers"].get("fastseg", {})


def _cells(name: str, one: speed.Measured, which: str) -> list[str]:
    result, ours = one.result, _ours(one)
    rivals = [who for who in result["providers"] if who not in OURS]
    times = [(who, speed.milliseconds(result, who, which)) for who in rivals]
    best, first = speed.best_rival(result, which), which == PASSES[0]
    saved = "" if first else f"{ours['saved_bytes'] / result['x_bytes']:.1%}"
    return [
        f"`{name}`: {result['title']}" if first else "",
        which,
        "; ".join(f"{who} {time}" for who, time in times if time),
        speed.milliseconds(result, "matmul", which),
        f"**{speed.milliseconds(result, 'fastseg', which)}**",
        _ratio(result, best, which),
        _ratio(result, "matmul", which),
        f"{ours[which]['roofline_share']:.0%}",
        saved,
        _link(one.path) if first else "",
    ]


def _ratio(result: dict, who: str | None, which: str) -> str:
    times = result["providers"].get(who, {}).get(which, {})
    return f"{times['over_ours'][1]:.1f}" if times else ""


def _link(path: str) -> str:
    return f"[{Path(path).parent.name}/{Path(path).stem}]({path})"


def _calls(found: Mapping[str, Mapping[str, speed.Measured]]) -> str:
    """Microseconds of a call by provider."""
    rows = [
        [where, name, digits(row["call"]["quartiles_s"][1] * 1e6), _link(one.path)]
        for where, measured in found.items()
        for one in measured.values()
        for name, row in one.result["providers"].items()
        if "call" in row
    ]
    return records.table(("machine", "provider", "µs", "record"), rows)


SYSTEMS = (
    "Slices or volumes predicted a second (diffusions: ten steps of DDIM) and training steps a "
    "second, with the reference's operators and with fastseg's."
)


def _systems(found: Mapping[str, Mapping[str, speed.Measured]]) -> str:
    head = ("case", "machine", "predicted: reference, **fastseg**", "×",
            "training steps: reference, **fastseg**", "×", "record")  # fmt: skip
    rows = []
    for where, measured in found.items():
        for name, one in measured.items():
            if one.result["family"] == "system" and "forward" in _ours(one):
                title = f"`{name}`: {one.result['title']}"
                rows.append([title, where, *_rates(one.result), _link(one.path)])
    return records.table(head, rows)


def _rates(result: dict) -> list[str]:
    cells = []
    for which, count in zip(PASSES, (result["shape"][0], 1), strict=True):
        rates = [
            digits(count / result["providers"][who][which]["quartiles_s"][1])
            for who in ("reference", "fastseg")
        ]
        ratio = speed.ratio(result, "reference", which)
        cells += [f"{rates[0]}, **{rates[1]}**", f"{ratio:.2f}"]
    return cells


STUDIES = "The first measure of each arm, mean and standard deviation over seeds; on phantoms."


def _studies(stored: Stored) -> str:
    rows = []
    for path, record in stored:
        if "study" in record:
            measure = next(iter(record["summary"][0]["measures"]))
            scores = [
                f"{row['arm']} {_score(row['measures'][measure])}" for row in record["summary"]
            ]
            page = path.with_suffix(".md").as_posix()
            rows.append([f"[{record['study']}]({page})", record["question"], MEASURES[measure],
                         "; ".join(scores)])  # fmt: skip
    return records.table(("study", "question", "measure", "arms"), rows)


def _score(found: Mapping) -> str:
    return f"{found['mean']:.3f}" + ("" if found["sd"] is None else f" ± {found['sd']:.3f}")


def _index(stored: Stored) -> str:
    """Every record: what it shows, on what, when, of which commit, by which command."""
    head = ("record", "what it shows", "machine", "date", "commit", "command")
    rows = []
    for path, record in stored:
        found = record.get("machine") or {}
        what, command = _described(record)
        cells = [speed.machine(record) if found else "", record.get("date", "")[:10]]
        page = _link(path.with_suffix(".md").as_posix())
        rows.append([page, what, *cells, found.get("commit") or "", command])
    return records.table(head, rows)


def _described(record: dict) -> tuple[str, str]:
    """What a record shows, and the command that made it."""
    if "study" in record:
        return f"study {record['study']}: scores, runs, settings", "on its page"
    options = dict(record["options"])
    if "throughput" in record:
        options.pop("data")
        return "the loader beside nibabel and MONAI; what a step waits", _command(
            "python bench/loader.py DATA", options
        )
    if "gradient_bytes" in record:
        what = "training in one and two processes; an estimate for more"
        return what, _command("python bench/scaling.py", options)
    if "whole_volume" in record:
        what = "a whole volume by HNOSeg, and by SegResNet in windows: seconds, memory"
        return what, _command("python bench/whole_volume.py", options)
    if "penalty" in record:
        what = "a gradient penalty beside torch.matmul and torch.fft, on a busy machine"
        return what, _command("python bench/penalty.py", options)
    shown = dict.fromkeys(names.current(result["id"]) for result in record["cases"])
    words = [name for word in options.pop("cases") for name in names.matching(word, CASES)]
    options.pop("pairs", None)  # of the script that the first volume was measured by
    return ", ".join(shown), _command(" ".join(["fastseg bench", *words]), options)


def _command(start: str, options: Mapping) -> str:
    """The command with its options, those that are off left out."""
    words = [start]
    for key, value in options.items():
        flag = f"--{key.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif value is not None and value is not False and value != []:
            words.append(f"{flag} {value}")
    return f"`{' '.join(words)}`"
