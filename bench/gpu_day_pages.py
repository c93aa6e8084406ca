"""What a day with a GPU has found so far, as one page."""

import csv
from contextlib import suppress
from pathlib import Path

from records import table

from fastseg.bench import table as bench_table

_HEAD = ("stage", "how it ended", "seconds", "of", "last line")


def page(record: dict) -> str:
    """Write the page: how every stage ended, then what each has found."""
    where = f"commit {record['commit']}, {record['device']}, {record['date']}"
    stages = record["stages"]
    rows = [
        (name, s.get("status", ""), s.get("seconds", ""), s.get("limit_s", ""), _last(s))
        for name, s in stages.items()
    ]
    parts = [f"# A day with a GPU: {record['table']}", f"{where}; {record.get('seconds')} s.",
             table(_HEAD, rows)]  # fmt: skip
    for name, stage in stages.items():
        parts += [f"## {name}\n\n{_found(stage['facts'])}"] if "facts" in stage else []
        parts += [_kernels(stage["kernels"])] if stage.get("kernels") else []
    return "\n\n".join(parts)


def _last(stage: dict) -> str:
    lines = [line for line in stage.get("last", []) if line.strip()]
    return lines[-1].replace("|", "¦")[:160] if lines else ""


def _found(facts: dict) -> str:
    """A record of the bench as its own table, everything else as a list of names and values."""
    if "cases" in facts and "checks" in facts:
        with suppress(Exception):  # no page is worth the day
            return bench_table.markdown(facts).replace("## ", "### ")
    return table(("what", "found"), [(k, _short(v)) for k, v in facts.items()])


def _kernels(found: dict[str, dict[str, str]]) -> str:
    names = list(next(iter(found.values())))
    return table(("kernel", *names), [(k, *v.values()) for k, v in found.items()])


def _short(value) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "¦").replace("\n", " ")[:300]


def profiled(path: Path) -> dict[str, dict[str, str]]:
    """Read the kernels of a profiler's table: {"number name": {metric: value and unit}}.

    Args:
        path: of what `ncu --csv --page raw` wrote; lines before its head are skipped.
    """
    lines = path.read_text("utf8", errors="replace").splitlines()
    first = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if first is None:
        return {}
    units, *kernels = csv.DictReader(lines[first:])
    wanted = [n for n in units if n == "gpu__time_duration.sum" or any(w in n for w in _METRICS)]
    return {
        f"{kernel['ID']} {kernel['Kernel Name'][:80]}": {
            name: f"{kernel[name]} {units[name]}".strip() for name in wanted
        }
        for kernel in kernels
    }


_METRICS = (
    "issue_active.avg.pct", "t_sectors_per_request", "dram__throughput.avg.pct",
    "warps_active.avg.pct", "average_warps_issue_stalled", "registers_per_thread",
    "occupancy_limit",
)  # fmt: skip
