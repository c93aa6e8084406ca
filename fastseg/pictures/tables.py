"""Show one table as plain text, Markdown or HTML."""

import html
from collections.abc import Sequence
from typing import NamedTuple

ABSENT = "–"


class Table(NamedTuple):
    """Hold a titled table of texts, to be shown as text, Markdown or HTML.

    title: shown above the table, "" for none. head: names of the columns, empty for none. rows: a
    sequence of texts a row, all of one length; the first column is read as names, the others as
    numbers.

    >>> table = Table("Dice", ["case", "WT"], [["a", "0.9"], ["mean", "0.95"]])
    >>> print(table.text(totals=1))
    Dice
    case    WT
    ----------
    a      0.9
    ----------
    mean  0.95
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self, totals: int | None = None) -> str:
        """Return the table for a terminal: the first column left, the others right-aligned.

        totals: how many of the last rows are means or sums; a line is drawn beneath the head and
        above them. None draws no line.
        """
        lines = self._lines()
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        texts = [
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
            for line in lines
        ]
        if totals is not None and texts:
            rule = "-" * len(texts[0])
            if totals:
                texts.insert(len(texts) - totals, rule)
            if self.head:
                texts.insert(1, rule)
        return "\n".join([self.title, *texts] if self.title else texts)

    def markdown(self, *paragraphs: str, level: int = 2) -> str:
        """Return the title as a heading of `level`, `paragraphs`, then the table, blank lines
        between them.

        >>> print(Table("", ["case", "WT"], [["a|b", "0.9"]]).markdown())
        | case | WT |
        | --- | --- |
        | a\\|b | 0.9 |
        """
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        cells = [[cell.replace("|", "\\|").replace("<", "&lt;") for cell in line] for line in lines]
        table = "\n".join(f"| {' | '.join(line)} |" for line in cells)
        title = [f"{'#' * level} {self.title}"] if self.title else []
        return "\n\n".join([*title, *paragraphs, table])

    def html(self) -> str:
        """Return an HTML table, its title as <h2> before it, all texts escaped.

        >>> Table("A & B", [], [["x", "1"]]).html()
        '<h2>A &amp; B</h2><table><tr><td>x</td><td>1</td></tr></table>'
        """
        tags = ["th"] * bool(self.head) + ["td"] * len(self.rows)
        rows = "".join(
            f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in line)}</tr>"
            for tag, line in zip(tags, self._lines(), strict=True)
        )
        title = f"<h2>{html.escape(self.title)}</h2>" if self.title else ""
        return f"{title}<table>{rows}</table>"

    def _lines(self) -> list[Sequence[str]]:
        return [self.head, *self.rows] if self.head else [*self.rows]


def number(value: float | str | None, decimals: int = 3) -> str:
    """Return a table's cell for `value`: rounded, "–" for None, a text as it is.

    >>> [number(0.98765), number(31.25, 1), number(None), number("mean")]
    ['0.988', '31.2', '–', 'mean']
    """
    if value is None:
        return ABSENT
    return value if isinstance(value, str) else f"{value:.{decimals}f}"
