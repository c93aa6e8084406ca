"""A bench record as Markdown: times with targets beside them, all targets, and the crossover."""

from fastseg.bench import targets
from fastseg.bench.cases import PASSES

HEAD = (
    "case", "pass", "provider", "ms (quartiles)", "ours × faster (quartiles)", "roofline",
    "must", "stretch", "verdict", "error y, dx, dw", "saved / x", "default heap: ms", "× faster",
)  # fmt: skip


def markdown(record: dict) -> str:
    """The whole report."""
    parts = [_head(record), _times(record), _calls(record), _targets(record), _crossover(record)]
    parts += [f"FAILED {failure}" for failure in targets.failures(record)]
    return "\n\n".join(part for part in parts if part)


def _head(record: dict) -> str:
    found, options = record["machine"] or {}, record["options"]
    words = [
        found.get("gpu") or found.get("cpu"),
        f"{found.get('isa')} kernels",
        f"{found.get('threads')} of {found.get('cores')} cores",
        f"torch {found.get('torch')}",
        f"commit {found.get('commit')}",
        options["dtype"],
        record["date"],
    ]
    lines = ["## fastseg bench", ", ".join(map(str, words)) + "."]
    if options["quick"]:
        lines.append("QUICK: one image of at most two channels a case; no target applies.")
    seen = [result["ceilings"] for result in record["cases"] if "ceilings" in result]
    if seen:
        copy = max(c["copy_bytes_per_s"] for c in seen) / 1e9
        product = max(c["sgemm_flops_per_s"] for c in seen) / 1e9
        lines.append(
            f"Best ceilings: copy {copy:.1f} GB/s (both ways), sgemm {product:.0f} GFLOP/s."
        )
    return "\n\n".join(lines)


def _table(title: str, head, rows, *before: str) -> str:
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return "\n\n".join([f"### {title}", *before, table])


def _measured(record: dict, family: str) -> list[dict]:
    return [r for r in record["cases"] if r["family"] == family and "providers" in r]


def _times(record: dict) -> str:
    results: dict[str, dict] = {}
    for result in _measured(record, "spectral"):
        results.setdefault(result["id"], {})[result["heap"]] = result
    found = {(check["case"], check["what"]): check for check in record["checks"]}
    rows, legend = [], []
    for heaps in results.values():
        main = heaps.get("warm") or heaps["default"]
        other = heaps.get("default", {}) if "warm" in heaps else {}
        legend.append(f"{main['id']}: {_title(main)} ({main['source']}).")
        for which in PASSES:
            rows += [_time_row(main, other, which, name, found) for name in main["providers"]]
    return _table("Times", HEAD, rows, "  \n".join(legend))


def _title(result: dict) -> str:
    shape, modes = ("×".join(map(str, result[key])) for key in ("shape", "modes"))
    return f"{shape}, modes {modes}"


def _time_row(result: dict, other: dict, which: str, name: str, found: dict) -> list[str]:
    row, ours = result["providers"][name], name == "fastseg"
    what = f"{which}: roofline share" if ours else f"{which}: × {name}"
    check = found.get((result["id"], what), {})
    there = other.get("providers", {}).get(name, {}).get(which, {})
    saved = row.get("saved_bytes")
    return [
        result["id"],
        which,
        f"**fastseg** ({row['backend']})" if ours else name,
        _spread(row.get(which, {}).get("quartiles_s"), 1e3) or row["status"],
        _spread(row.get(which, {}).get("over_ours")),
        f"{row[which]['roofline_share']:.0%}" if which in row else "",
        _figure(check.get("must")),
        _figure(check.get("stretch")),
        check.get("verdict", ""),
        _errors(row),
        "" if saved is None else f"{saved / result['x_bytes']:.1%}",
        _spread(there.get("quartiles_s"), 1e3),
        _spread(there.get("over_ours")),
    ]


def _spread(quartiles: list | None, unit: float = 1.0) -> str:
    if not quartiles:
        return ""
    low, median, high = (_digits(value * unit) for value in quartiles)
    return f"{median} ({low}–{high})"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _errors(row: dict) -> str:
    found = row["error"]
    return ", ".join(f"{found[part]:.1e}" for part in ("y", "dx", "dw")) if found else ""


def _calls(record: dict) -> str:
    rows = [
        [name, _spread(row.get("call", {}).get("quartiles_s"), 1e6) or row["status"], _errors(row)]
        for result in _measured(record, "overhead")
        for name, row in result["providers"].items()
    ]
    head = ("provider", "µs (quartiles)", "error y, dx, dw")
    return _table("A call with a tiny tensor, no gradient", head, rows)


def _targets(record: dict) -> str:
    shown = record["checks"]
    rows = [
        [
            check["case"],
            check["what"],
            _digits(check["value"]),
            ("≤ " if check["at_most"] else "≥ ") + _figure(check["must"]),
            _figure(check["stretch"]),
            check["verdict"],
        ]
        for check in shown
    ]
    counts = [sum(check["verdict"] == v for check in shown) for v in ("stretch", "pass", "MISS")]
    summary = "{} reach the stretch, {} pass, {} miss.".format(*counts)
    head = ("case", "what", "value", "must", "stretch", "verdict")
    return _table("Targets", head, rows, summary)


def _crossover(record: dict) -> str:
    rows = [_crossover_row(result) for result in _measured(record, "crossover")]
    head = ("case", "shape", "forward: reference ÷ cpu", "forward+backward", "auto", "rightly")
    return _table("Matrices against the FFT", head, rows)


def _crossover_row(result: dict) -> list[str]:
    row = result["providers"]["cpu"]
    pairs = [row.get(which, {}).get("dispatch") for which in PASSES]
    if None in pairs:
        return [result["id"], _title(result), row["status"], "", result["auto"], ""]
    ratios = [pair["ratio"][1] for pair in pairs]
    # what the choice costs: time of the chosen one over time of the other
    cost = max(1 / r if result["auto"] == "cpu" else r for r in ratios)
    fine = cost <= 1 / targets.DISPATCH_RATIO[0]
    rightly = "yes" if fine else f"no: {cost:.2f}× the other's time"
    shown = [_spread(pair["ratio"]) for pair in pairs]
    return [result["id"], _title(result), *shown, result["auto"], rightly]
