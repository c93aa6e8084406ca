"""Writes what follows from the JSON records of bench/results: each record's .md and .png beside it,
the page of all of them, the picture of speeds.

    python bench/summary.py [--check] [--readme]

`--check` writes nothing, names what is not as the records have it, and exits with 1 if anything is;
`--readme` also writes the table between `<!-- speed -->` and `<!-- /speed -->` of README.md.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pages
import records
import reports
import speed

README = records.RESULTS.parents[1] / "README.md"
BEGIN, END = "<!-- speed -->", "<!-- /speed -->"


def main(argv=None) -> int:
    """Write or check; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if anything is old")
    parser.add_argument("--readme", action="store_true", help="also the table of README.md")
    arguments = parser.parse_args(argv)
    stored = records.stored()
    try:
        wanted = texts(stored) | (readme(stored) if arguments.readme else {})
    except ValueError as error:
        print(f"summary.py: {error}", file=sys.stderr)
        return 2
    old = [path for path, text in wanted.items() if _content(path) != text]
    drawn = pictures(stored)
    undrawn = [path for path, (digest, _) in drawn.items() if _digest(path) != digest]
    for path in old + undrawn:
        print(os.path.relpath(path))
    if arguments.check:
        return 1 if old or undrawn else 0
    for path in old:
        path.write_text(wanted[path], encoding="utf8")
    for path in undrawn:
        drawn[path][1](path)
    return 0


def texts(stored: list) -> dict[Path, str]:
    """Return what every generated .md of bench/results has to hold, by its path.

    Args:
        stored: the records, of `records.stored()`.
    """
    found = {
        records.RESULTS / path.with_suffix(".md"): reports.markdown(record) + "\n"
        for path, record in stored
    }
    return found | {records.RESULTS / "README.md": pages.results(stored, marked(stored, ""))}


def marked(stored: list, folder: str) -> str:
    """Return the table of speeds between its markers.

    Args:
        stored: the records, of `records.stored()`.
        folder: bench/results as seen from the file that the table stands in, "" or ending in "/".
    """
    table = speed.table(speed.newest(stored, speed.MACHINE), folder)
    return f"{BEGIN}\n{table}\n{END}"


def readme(stored: list) -> dict[Path, str]:
    """Return README.md with today's table between its markers, by its path.

    Raises ValueError where it has no markers.
    """
    text = README.read_text(encoding="utf8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md has no lines {BEGIN} and {END}")
    return {README: before + marked(stored, "bench/results/") + after}


def pictures(stored: list) -> dict[Path, tuple[str, Callable[[Path], object]]]:
    """Return the digest that every picture has to carry and what draws it, by the path.

    They are that of speeds and those that records have: `fastseg bench --out` draws new ones.
    """
    from fastseg.bench import chart

    found = {}
    for path, record in stored:
        place = records.RESULTS / path.with_suffix(".png")
        if "cases" in record and place.exists():
            found[place] = chart.digest(record), lambda p, record=record: chart.draw(record, p)
    newest = speed.newest(stored, speed.MACHINE)
    found[records.RESULTS / "speed.png"] = speed.digest(newest), lambda p: speed.draw(newest, p)
    return found


def _content(path: Path) -> str | None:
    return path.read_text(encoding="utf8") if path.exists() else None


def _digest(path: Path) -> str | None:
    from PIL import Image

    if not path.exists():
        return None
    with Image.open(path) as image:
        return image.text.get("Description")


if __name__ == "__main__":
    raise SystemExit(main())
