"""A benchmark's record: JSON with every single figure, and the same as Markdown beside it."""

import datetime
import json
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fastseg.host.environment import of_bench

RESULTS = Path(__file__).resolve().parent / "results"


def stored() -> list[tuple[Path, dict]]:
    """Return every record of bench/results with its path below that folder, in order of paths."""
    paths = sorted(RESULTS.rglob("*.json"))
    return [(path.relative_to(RESULTS), json.loads(path.read_text("utf8"))) for path in paths]


def begin(options: dict, packages: Iterable[str] = ()) -> dict:
    """Make a record without figures: date, options, machine with the versions of `packages`."""
    machine = of_bench("cpu")
    machine["packages"] = {name: _version(name) for name in packages}
    date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return {"date": date, "options": options, "machine": machine}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def head(title: str, record: dict) -> str:
    """Write the title, and a line on what the figures were taken on."""
    found = record["machine"]
    words = [found["cpu"], f"{found['cores']} cores", f"torch {found['torch']}"]
    words += [f"{name} {number}" for name, number in found["packages"].items() if number]
    words += [f"commit {found['commit']}", record["date"]]
    if found["load_average"]:
        words.append(f"load {found['load_average'][0]:.1f} before")
    return f"## {title}\n\n{', '.join(map(str, words))}."


def table(columns: Sequence[str], rows: Iterable[Sequence]) -> str:
    """Write a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in lines)


def save(record: dict, markdown: str, out: str | Path | None) -> None:
    """Print the Markdown and write both to `out`, a .json file, and beside it, if asked."""
    print(markdown)
    if out:
        path = Path(out)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf8")
        path.with_suffix(".md").write_text(markdown + "\n", encoding="utf8")
