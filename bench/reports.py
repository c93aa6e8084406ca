"""Records as Markdown, each from its JSON: `fastseg bench`, studies, loader, penalty, scaling."""

import statistics
import tempfile
from pathlib import Path

import loader_steps
import records

KEPT = 0.9  # the share of linear scaling of the last column of scaling's estimate


def markdown(record: dict) -> str:
    """Return the report of any record, without a newline at its end."""
    if "study" in record:
        return study(record)
    if "throughput" in record:
        return loader(record)
    if "gradient_bytes" in record:
        return scaling(record)
    if "whole_volume" in record:
        return whole_volume(record)
    from fastseg.bench import table

    if "penalty" in record:
        return penalty(record)
    return table.markdown(record)


def study(record: dict) -> str:
    """Return the report of a study, with how its data were made and links to its pictures."""
    from fastseg.studies import tables

    with tempfile.TemporaryDirectory() as folder:
        tables.write_tables(record, Path(folder))
        text = (Path(folder) / "study.md").read_text(encoding="utf8").rstrip("\n")
    if record.get("made_by"):
        head, fence, rest = text.partition("\n\n```\n")
        text = f"{head}\n\nMade by {record['made_by']}.{fence}{rest}"
    return f"{text}\n\n![curves](curves.png)\n\n![overlays](overlays.png)"


def loader(record: dict) -> str:
    """Return the report of bench/loader.py."""
    options = record["options"]
    size = options["batch"].replace("x", "×")
    parts = [
        records.head("bench/loader.py", record),
        f"### Throughput: {options['cases']} cases a round, batches of {size}, "
        f"{options['threads']} threads",
        _throughput_table(record),
    ]
    if "steps" in record:
        parts.append(f"### What a step of {options['step_ms']:g} ms on one core waits")
        parts.append(_steps_table(record["steps"]))
    return "\n\n".join(parts)


def _throughput_table(record: dict) -> str:
    rows, batch = record["throughput"], int(record["options"]["batch"].split("x")[0])
    base = rows[0]["cases_per_s"]
    return records.table(
        ("", "cases/s", "× nibabel", "samples/s", "slowest ÷ fastest round"),
        [
            (
                row["name"],
                f"{row['cases_per_s']:.2f}",
                f"{row['cases_per_s'] / base:.2f}",
                "" if row["name"].endswith("cases") else f"{row['cases_per_s'] * batch:.1f}",
                f"{max(row['seconds']) / min(row['seconds']):.2f}",
            )
            for row in rows
        ],
    )


def _steps_table(rows: list[dict]) -> str:
    late = f"over {loader_steps.LATE_MS:g} ms"
    head = ("batch", "", "waits: median, ms", "95 %", "most", late, "first batch, ms", "step, ms")
    found = [(row, loader_steps.summary(row)) for row in rows]
    return records.table(
        head,
        [
            (
                row["batch"],
                row["name"],
                *(f"{of[key]:.1f}" for key in ("median_ms", "p95_ms", "max_ms")),
                f"{of['late']:.0%}",
                *(f"{of[key]:.0f}" for key in ("first_ms", "step_ms")),
            )
            for row, of in found
        ],
    )


def penalty(record: dict) -> str:
    """Return the report of bench/penalty.py."""
    columns = ("case", "provider", "ms", "ours × faster", "error", "kept / x", "peak, MB")
    rows = []
    for case in record["penalty"]:
        for name, row in case["providers"].items():
            low, middle, high = (1e3 * s for s in row["quartiles_s"])
            own = f"{name} ({row['backend']})"
            if not row["error"] <= row["allowed"]:
                own += ", wrong"
            peak = "–" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:.0f}"
            rows.append((f"`{case['case']}`: {case['title']}", own,
                         f"{middle:.2f} ({low:.2f}–{high:.2f})", f"{row['over_ours'][1]:.2f}",
                         f"{row['error']:.1e}", f"{row['kept_bytes'] / case['x_bytes']:.2f}",
                         peak))  # fmt: skip
    return records.head("Gradient penalty", record) + "\n\n" + records.table(columns, rows)


def scaling(record: dict) -> str:
    """Return the report of bench/scaling.py: what was measured, and the estimate from it."""
    options = record["options"]
    words = " ".join([options["recipe"], *options["settings"]])
    parts = [records.head("bench/scaling.py", record)]
    if record["measured"]:
        title = f"### Measured: {words}, patches of side {options['size']}, one thread a process"
        parts += [title, _measured_table(record["measured"])]
    title = f"### Estimate: steps of {record['step_ms']:.0f} ms, gradients of "
    title += f"{record['gradient_bytes'] / 1e6:.1f} MB, {options['gb_s']:g} GB/s"
    return "\n\n".join([*parts, title, _estimate_table(record["estimate"])])


def whole_volume(record: dict) -> str:
    """Return the report of bench/whole_volume.py: a row a way to segment one volume."""
    rows = record["whole_volume"]
    first, first_cpu = (statistics.median(rows[0][key]) for key in ("seconds", "cpu_seconds"))

    def cells(row: dict) -> tuple:
        seconds = statistics.median(row["seconds"])
        least, most = min(row["seconds"]), max(row["seconds"])
        cpu, peak = statistics.median(row["cpu_seconds"]), max(row["peak_bytes"]) / 2**30
        return (row["name"], f"{row['parameters']:,}", f"{seconds:.2f} ({least:.2f}–{most:.2f})",
                f"{seconds / first:.1f}", f"{cpu:.1f}", f"{cpu / first_cpu:.1f}",
                f"{peak:.2f}")  # fmt: skip

    size = record["options"]["size"].replace(",", "×")
    head = ("", "weights", "s (least–most)", "× HNOSeg", "CPU s", "× HNOSeg", "most memory, GiB")
    parts = [
        records.head("bench/whole_volume.py", record),
        f"One volume of four channels, {size}, in a process of its own; the memory is the whole "
        f"process's, interpreter and torch included.{_some_windows(record['options'])}",
        records.table(head, map(cells, rows)),
    ]
    return "\n\n".join(parts)


def _some_windows(options: dict) -> str:
    computed = options["windows"]
    return f" Of windows the first {computed} were computed and count for all." if computed else ""


def _measured_table(rows: list[dict]) -> str:
    one = statistics.median(rows[0]["samples_per_s"])

    def cells(row: dict) -> tuple:
        rate, count = statistics.median(row["samples_per_s"]), row["processes"]
        low, middle, high = statistics.quantiles(row["step_ms"], n=4)
        step = f"{middle:.0f} ({low:.0f}–{high:.0f})"
        return count, len(row["step_ms"]), f"{rate:.2f}", f"{rate / one / count:.2f}", step

    head = ("processes", "steps", "samples/s", "of linear", "step, ms (quartiles)")
    return records.table(head, map(cells, rows))


def _estimate_table(rows: list[dict]) -> str:
    keeps = f"alone keeps {KEPT:g} from a step of, ms"
    head = ("processes", "all-reduce, ms", "of linear, alone", "of linear, overlapped", keeps)
    return records.table(
        head,
        [
            (
                row["processes"],
                f"{row['all_reduce_ms']:.2f}",
                f"{row['alone']:.3f}",
                f"{row['overlapped']:.3f}",
                f"{row['shortest_step_ms']:.0f}",
            )
            for row in rows
        ],
    )
