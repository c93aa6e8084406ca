"""One row and two bars an operator against its best rival, from the stored records."""

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import records

from fastseg.bench import names
from fastseg.bench.accuracy import OURS
from fastseg.bench.cases import CASES, PASSES
from fastseg.bench.table import digits

# the case that stands for each operator, of shapes that occur with MRI; bench/results/README.md has
# all of them
OPERATORS = {
    "conv2d-240": "spectral convolution, 2-D",
    "conv3d-96": "spectral convolution, 3-D",
    "block2d-240": "FNO block, 2-D",
    "fourier-unit-64x16": "Fourier unit, 3-D",
    "vffc-0.5": "VFFC block, 3-D",
    "gaussian2d-240": "Gaussian low + high, 2-D",
    "gaussian3d-128": "Gaussian low + high, 3-D",
    "filter-32": "spectral filter, 2-D",
    "gate-256": "anchor gate, 2-D",
}
MACHINE = "AMD EPYC, AVX2, 2 threads"  # of the picture and of the README's table
SAME_RESULT = 1e-3  # a rival whose error is larger computes something else: no rival of that row
NOTE = (
    f"{MACHINE}: milliseconds of a call, medians, float32, memory kept between calls; × is the "
    "rival's time over ours within one round. Best rival: the fastest that computes the same. "
    "*classic*: the operator as usually written in plain torch; *FFT chain*: `rfftn`, gain, "
    "`irfftn`."
)
_PALETTE = 48
_COLOURS = {PASSES[0]: "#1f5a99", PASSES[1]: "#8fb8de"}


class Measured(NamedTuple):
    """A case's newest result and the file it is of."""

    path: str  # of the record's .md, from bench/results
    result: dict
    torch: str


def machine(record: dict) -> str:
    """Write what a record was taken on."""
    found = record["machine"]
    cpu = f"{found['cpu']}, {(found['isa'] or 'no kernels').upper()}, {found['threads']} threads"
    return found.get("gpu") or cpu


def newest(stored: Iterable[tuple[Path, dict]], where: str) -> dict[str, Measured]:
    """Return the newest result of every case, by its name: full cases, float32, warm heap.

    Args:
        stored: (path below bench/results, record), as `records.stored()` gives them.
        where: the machine, as `machine` writes it.
    """
    found: dict[str, Measured] = {}
    for path, record in sorted(stored, key=lambda pair: pair[1].get("date", "")):
        if "cases" not in record or machine(record) != where:
            continue
        record = names.renewed(record)
        options = record["options"]
        if options["quick"] or options["tf32"] or options["dtype"] != "float32":
            continue
        heap = "default" if options["gpu"] else "warm"
        for result in record["cases"]:
            if result.get("heap") == heap and "providers" in result:
                page = path.with_suffix(".md").as_posix()
                found[result["id"]] = Measured(page, result, record["machine"]["torch"])
    return {name: found[name] for name in CASES if name in found}


def best_rival(result: dict, which: str) -> str | None:
    """Return who is fastest of those that are not ours and compute the same; None without any."""
    seconds = {
        name: row[which]["quartiles_s"][1]
        for name, row in result["providers"].items()
        if name not in OURS and which in row and row["error"]["y"] < SAME_RESULT
    }
    return min(seconds, key=seconds.get, default=None)


def milliseconds(result: dict, name: str, which: str) -> str:
    """Write the median time of a provider."""
    times = result["providers"].get(name, {}).get(which)
    return digits(times["quartiles_s"][1] * 1e3) if times else ""


def ratio(result: dict, name: str, which: str) -> float:
    """Return how many times longer than ours a provider takes, the median over the rounds."""
    return result["providers"][name][which]["over_ours"][1]


def shown(found: dict[str, Measured]) -> dict[str, Measured]:
    """Return the rows of the operators' own cases that have been measured, in their order."""
    return {name: found[name] for name in OPERATORS if name in found}


def table(found: dict[str, Measured], folder: str) -> str:
    """Write the table, with links to the records.

    Args:
        found: of `newest`.
        folder: bench/results, from the file that holds the table ("" there).
    """
    head = ("operator", "case", "best rival", "forward: rival's, **fastseg**", "×",
            "forward and backward: rival's, **fastseg**", "×", "record")  # fmt: skip
    rows = [_row(name, one, folder) for name, one in shown(found).items()]
    return f"{records.table(head, rows)}\n\n{NOTE}"


def _row(name: str, one: Measured, folder: str) -> list[str]:
    rivals = [best_rival(one.result, which) for which in PASSES]
    cells = [OPERATORS[name], f"`{name}`: {one.result['title']}", "; ".join(dict.fromkeys(rivals))]
    for which, rival in zip(PASSES, rivals, strict=True):
        times = [milliseconds(one.result, who, which) for who in (rival, "fastseg")]
        cells += [f"{times[0]}, **{times[1]}**", f"{ratio(one.result, rival, which):.1f}"]
    return [*cells, f"[record]({folder}{one.path})"]


def bars(found: dict[str, Measured]) -> list[tuple[str, str, list[float]]]:
    """Return what the picture shows: operator, its case and rivals, the ratios of both passes."""
    rows = []
    for name, one in shown(found).items():
        rivals = [best_rival(one.result, which) for which in PASSES]
        shape = one.result["title"].partition(",")[0]
        words = f"{shape}, against {' and '.join(dict.fromkeys(_named(one, r) for r in rivals))}"
        ratios = [ratio(one.result, r, w) for r, w in zip(rivals, PASSES, strict=True)]
        rows.append((OPERATORS[name], words, ratios))
    return rows


def _named(one: Measured, rival: str) -> str:
    """Write a rival's name for who has not read what "classic" is."""
    backend = one.result["providers"][rival]["backend"]
    return f"plain {backend}" if rival in ("classic", "FFT chain") else rival


def digest(found: dict[str, Measured]) -> str:
    """Return a hash of what the picture shows, which the picture carries."""
    return hashlib.sha256(repr(bars(found)).encode()).hexdigest()


def draw(found: dict[str, Measured], path: Path) -> None:
    """Write the picture as a PNG of few colours, 1000 pixels wide."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = bars(found)
    figure = Figure(figsize=(10, 0.6 * len(rows) + 1.1), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place, (_, _, ratios) in enumerate(rows):
        for offset, which, value in zip((-0.19, 0.19), PASSES, ratios, strict=True):
            label = which.replace("+", " and ") if not place else None
            axes.barh(place + offset, value, 0.36, color=_COLOURS[which], label=label, zorder=2)
            axes.annotate(f"{value:.1f}×", (value, place + offset), (4, 0), va="center",
                          textcoords="offset points", fontsize=12)  # fmt: skip
    _labels(axes, rows)
    axes.legend(loc="lower right", fontsize=12, frameon=False)
    of = next(iter(found.values()))
    title = f"Times faster than the fastest rival; 1×: equal\n{MACHINE}, float32, torch {of.torch}"
    axes.set_title(title, fontsize=13, loc="left")
    _write(figure, path, digest(found))


def _write(figure, path: Path, description: str) -> None:
    from PIL import Image, PngImagePlugin

    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100)
    note = PngImagePlugin.PngInfo()
    note.add_text("Description", description)
    few = Image.open(drawn).convert("RGB").quantize(_PALETTE, dither=Image.Dither.NONE)
    few.save(path, optimize=True, pnginfo=note)


def _labels(axes, rows: list) -> None:
    """Operators in large letters, their cases below in small ones, and a line at equal times."""
    axes.set_yticks(range(len(rows)), [""] * len(rows))
    for place, (operator, words, _) in enumerate(rows):
        for text, size, colour, rise in ((operator, 13, "black", 8), (words, 10, "#555555", -8)):
            axes.annotate(text, (0, place), (-8, rise), xycoords=("axes fraction", "data"),
                          textcoords="offset points", ha="right", va="center", fontsize=size,
                          color=colour)  # fmt: skip
    axes.axvline(1, color="black", linewidth=1, zorder=3)
    axes.set_xlim(0, 1.1 * max(max(ratios) for *_, ratios in rows))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(left=False, labelsize=11)
    axes.xaxis.set_major_formatter("{x:g}×")
    axes.grid(axis="x", color="#dddddd", zorder=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
