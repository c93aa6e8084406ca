"""Make a page about a run of its parts: logged figures, their curves, pictures, files."""

import base64
import html
import json
import logging
from collections.abc import Iterable
from pathlib import Path

from fastseg.errors import DataError
from fastseg.pictures import charts, drawing

log = logging.getLogger("fastseg")
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }}
img {{ max-width: 100% }} td, th {{ padding: .1rem .8rem; text-align: right }}
td:first-child, th:first-child {{ text-align: left }} pre {{ overflow-x: auto }}
</style></head><body>
{body}
</body></html>
"""


def page(title: str, parts: Iterable[str]) -> str:
    """Return an HTML page: `title` (plain text) as its heading, then `parts` (HTML), empty ones
    left out.

    >>> "<h1>a &lt; b</h1>" in page("a < b", ["<p>text</p>"])
    True
    """
    heading = html.escape(title)
    body = "\n".join(filter(None, [f"<h1>{heading}</h1>", *parts]))
    return PAGE.format(title=heading, body=body)


def picture_html(path: Path) -> str:
    """Return a PNG file as a titled part of a page, its bytes inside."""
    data = base64.b64encode(path.read_bytes()).decode()
    name = html.escape(path.stem)
    return f'<h2>{name}</h2><img alt="{name}" src="data:image/png;base64,{data}">'


def file_html(path: Path) -> str:
    """Return a text file as a part of a page that unfolds, "" where there is no such file.

    >>> _ = Path("a.json").write_text("{}")
    >>> file_html(Path("a.json")), file_html(Path("b.json"))
    ('<details><summary>a.json</summary><pre>{}</pre></details>', '')
    """
    if not path.is_file():
        return ""
    text = html.escape(path.read_text())
    return f"<details><summary>{html.escape(path.name)}</summary><pre>{text}</pre></details>"


def read_metrics(path: str | Path) -> list[dict]:
    """Read the rows of a metrics.jsonl; a last line that is still being written is left out.

    So is, with one warning, what a power cut left of others. Raises DataError, naming the file,
    where it cannot be read.

    >>> _ = Path("metrics.jsonl").write_text('{"step": 1}' + chr(10) + '{"step": 2, "lo')
    >>> read_metrics("metrics.jsonl")
    [{'step': 1}]
    """
    try:
        lines = Path(path).read_text("utf8", errors="replace").split("\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    rows = [_row(line) for line in lines]
    if bad := [number for number, row in enumerate(rows[:-1], 1) if row is None]:
        log.warning("%s: %d lines are damaged, line %d the first", path, len(bad), bad[0])
    return [row for row in rows if row is not None]


def _row(line: str) -> dict | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def progress_png(metrics_jsonl: str | Path, out: str | Path) -> Path:
    """Draw loss and validation score over the steps of a metrics.jsonl, and return `out`.

    The axes are empty before the run has logged anything. Raises as `read_metrics` does.

    >>> progress_png("run/metrics.jsonl", "run/progress.png").name
    'progress.png'
    """
    figure = drawing.new_figure(8, 3.2)
    left, right = figure.subplots(1, 2)
    rows = read_metrics(metrics_jsonl) if Path(metrics_jsonl).exists() else []
    charts.draw_curves(left, right, rows)
    return drawing.save(figure, out)
