"""A record as a picture: how many times longer than ours every rival takes."""

import hashlib
from pathlib import Path

from fastseg.bench import names, table
from fastseg.bench.cases import PASSES

# one colour a provider, the same in every picture; more than these are drawn in grey
_COLOURS = {
    "classic": "#4477aa", "neuraloperator": "#66ccee", "FFT chain": "#4477aa", "MONAI": "#228833",
    "kornia": "#ccbb44", "torchvision": "#aa3377", "matmul": "#ee6677", "reference": "#999999",
    "cpu": "#332288", "cuda": "#332288", "triton": "#882255",
}  # fmt: skip
_BAR_INCHES, _GAP = 0.17, 0.9


def draw(record: dict, path: Path) -> bool:
    """Write a PNG that carries `digest(record)`; False where there is nothing to compare.

    Args:
        record: of a run of `fastseg bench`.
        path: of the picture.
    """
    record = names.renewed(record)
    groups = _groups(record)
    if not groups:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bars = sum(len(_rivals(result)) + _GAP for result in groups)
    figure = Figure(figsize=(12, 1.6 + _BAR_INCHES * bars), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, which in zip(panels, PASSES, strict=True):
        _panel(axes, groups, which)
    _ours(panels, groups)
    figure.legend(*_legend(groups), loc="outside lower center", ncols=8, frameon=False)
    figure.suptitle(_title(record), fontsize=10)
    figure.savefig(path, dpi=130, metadata={"Description": digest(record)})
    return True


def digest(record: dict) -> str | None:
    """Return a hash of what the picture of a record shows; None where there is none."""
    groups = _groups(names.renewed(record))
    shown = [(result["id"], _ratios(result, which)) for result in groups for which in PASSES]
    return hashlib.sha256(repr(shown).encode()).hexdigest() if shown else None


def _groups(record: dict) -> list[dict]:
    """The results with anything to compare, of the warm heap where there are two."""
    groups = [heaps.get("warm") or heaps["default"] for heaps in table.by_heap(record)]
    return [result for result in groups if _ratios(result, PASSES[0])]


def _ratios(result: dict, which: str) -> dict[str, float]:
    """Median of rival over ours, by rival."""
    rows = result["providers"].items()
    found = {name: row.get(which, {}).get("over_ours") for name, row in rows}
    return {name: ratio[1] for name, ratio in found.items() if ratio}


def _rivals(result: dict) -> list[str]:
    return list(_ratios(result, PASSES[0]))


def _colour(name: str) -> str:
    return _COLOURS.get(name, "#bbbbbb")


def positions(groups: list[dict]):
    """Yield (result, rival, height) of every bar, from the top down."""
    height = 0.0
    for result in groups:
        for name in _rivals(result):
            yield result, name, height
            height -= 1
        height -= _GAP


def _panel(axes, groups: list[dict], which: str) -> None:
    for result, name, height in positions(groups):
        ratio = _ratios(result, which).get(name)
        if ratio is None:
            continue
        # a bar from ours, 1×, to the rival's: to the left where the rival is faster
        axes.barh(height, ratio - 1, left=1, height=0.86, color=_colour(name))
        words = f"{ratio:.2g}×" if ratio < 10 else f"{ratio:.0f}×"
        end = (max(ratio, 1), height)
        axes.annotate(words, end, (3, 0), textcoords="offset points", va="center", fontsize=7)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.7), max(high * 1.3, 3))
    axes.set_xticks(
        ticks := [t for t in (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= t <= high]
    )
    axes.set_xticklabels([f"{t:g}×" for t in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    axes.set_title(f"{which}: time over fastseg's", fontsize=10)


def _ours(panels, groups: list[dict]) -> None:
    """Cases named beside their bars, with the time that all of them are divided by."""
    middles: dict[str, list[float]] = {}
    for result, _, height in positions(groups):
        middles.setdefault(result["id"], []).append(height)
    labels = []
    for result in groups:
        row = result["providers"].get("fastseg", {})
        times = [row[which]["quartiles_s"][1] * 1e3 for which in PASSES if which in row]
        ours = "; ".join(f"{time:.3g}" for time in times)
        labels.append(f"{result['id']}   {result['title']}\nfastseg {ours} ms")
    heights = [(rows[0] + rows[-1]) / 2 for rows in middles.values()]
    panels[0].set_yticks(heights, labels, fontsize=7)
    panels[0].set_ylim(min(min(rows) for rows in middles.values()) - 1, 1)


def _legend(groups: list[dict]):
    from matplotlib.patches import Patch

    names = list(dict.fromkeys(name for result in groups for name in _rivals(result)))
    return [Patch(color=_colour(name)) for name in names], names


def _title(record: dict) -> str:
    machine = record["machine"] or {}
    where = machine.get("gpu") or f"{machine.get('cpu')}, {machine.get('threads')} threads"
    words = f"{where}, torch {machine.get('torch')}, {record['options']['dtype']}"
    return f"{words}: bars right of 1× are slower than fastseg"
