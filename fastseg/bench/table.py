"""A bench record as Markdown: times with targets beside them, all targets, and the crossover."""

from fastseg.bench import names, targets
from fastseg.bench.cases import PASSES, is_timed

HEAD = (
    "case", "pass", "provider", "ms (quartiles)", "ours × faster (quartiles)", "GB/s", "roofline",
    "must", "stretch", "verdict", "error y, dx, dw", "saved / x", "peak, MB",
    "default heap: ms", "× faster",
)  # fmt: skip


def markdown(record: dict) -> str:
    """Write the whole report of a record."""
    record = names.renewed(record)
    sections = (_head, _times, _systems, _calls, _targets, _crossover)
    parts = [section(record) for section in sections]
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
        options["dtype"] + ", TF32 in torch.matmul" * options["tf32"],
        record["date"],
    ]
    lines = ["## fastseg bench", ", ".join(map(str, words)) + "."]
    if options["quick"]:
        lines.append("QUICK: one image of few channels a case; no target applies.")
    rivals = {k: v for k, v in (found.get("rivals") or {}).items() if v}
    if rivals:
        lines.append(", ".join(f"{name} {version}" for name, version in rivals.items()) + ".")
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


def _measured(record: dict, belongs) -> list[dict]:
    return [r for r in record["cases"] if belongs(r["family"]) and "providers" in r]


def by_heap(record: dict) -> list[dict[str, dict]]:
    """Return the timed cases in order, each as {heap: result}."""
    results: dict[str, dict] = {}
    for result in _measured(record, is_timed):
        results.setdefault(result["id"], {})[result["heap"]] = result
    return list(results.values())


def _times(record: dict) -> str:
    found = {(check["case"], check["what"]): check for check in record["checks"]}
    rows, legend = [], []
    for heaps in by_heap(record):
        main = heaps.get("warm") or heaps["default"]
        other = heaps.get("default", {}) if "warm" in heaps else {}
        legend.append(f"{main['id']}: {main['title']} ({main['source']}).")
        for which in PASSES:
            rows += [_time_row(main, other, which, name, found) for name in main["providers"]]
    return _table("Times", HEAD, rows, "  \n".join(legend))


def _time_row(result: dict, other: dict, which: str, name: str, found: dict) -> list[str]:
    row, ours = result["providers"][name], name == "fastseg"
    what = f"{which}: roofline share" if ours else f"{which}: × {name}"
    check = found.get((result["id"], what), {})
    there = other.get("providers", {}).get(name, {}).get(which, {})
    times = row.get(which, {})
    return [
        result["id"],
        which,
        f"**fastseg** ({row['backend']})" if ours else name,
        _time(times) or row["status"],
        spread(times.get("over_ours")),
        f"{times['bytes_per_s'] / 1e9:.1f}" if "bytes_per_s" in times else "",
        f"{times['roofline_share']:.0%}" if "roofline_share" in times else "",
        _figure(check.get("must")),
        _figure(check.get("stretch")),
        check.get("verdict", ""),
        _errors(row),
        *_memory(result, row, which),
        spread(there.get("quartiles_s"), 1e3),
        spread(there.get("over_ours")),
    ]


def _time(times: dict) -> str:
    shown = spread(times.get("quartiles_s"), 1e3)
    return shown + (", no graph" if times.get("graph") is False else "")


def _memory(result: dict, row: dict, which: str) -> tuple[str, str]:
    saved, peak = row.get("saved_bytes"), (row.get("peak_bytes") or {}).get(which)
    return (
        "" if saved is None else f"{saved / result['x_bytes']:.1%}",
        "" if peak is None else digits(peak / 1e6),
    )


def spread(quartiles: list | None, unit: float = 1.0) -> str:
    """Write "median (first quartile–third quartile)" of quartiles times `unit`, or nothing."""
    if not quartiles:
        return ""
    low, median, high = (digits(value * unit) for value in quartiles)
    return f"{median} ({low}–{high})"


def digits(value: float) -> str:
    """Write a number with three digits, or all of those before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _errors(row: dict) -> str:
    found = row["error"]
    return ", ".join(f"{error:.1e}" for error in found.values()) if found else ""


def _systems(record: dict) -> str:
    results = _measured(record, "system".__eq__)
    rows = [
        _system_row(result, name, row)
        for result in results
        for name, row in result["providers"].items()
    ]
    head = (
        "case", "kernels", "slices or volumes a second (quartiles)", "ours × faster", "peak, MB",
        "training steps a second (quartiles)", "ours × faster", "peak, MB", "error y, dx, dw",
    )  # fmt: skip
    legend = (f"{result['id']}: {result['title']} ({result['source']})." for result in results)
    return _table("Systems: sampling and training", head, rows, "  \n".join(legend))


def _system_row(result: dict, name: str, row: dict) -> list[str]:
    cells = [result["id"], f"**{name}**" if name == "fastseg" else name]
    for which, count in zip(PASSES, (result["shape"][0], 1), strict=True):
        times = row.get(which, {})
        rates = [count / seconds for seconds in reversed(times.get("quartiles_s", []))]
        cells += [spread(rates) or row["status"], spread(times.get("over_ours"))]
        cells.append(_memory(result, row, which)[1])
    return [*cells, _errors(row)]


def _calls(record: dict) -> str:
    rows = [
        [name, spread(row.get("call", {}).get("quartiles_s"), 1e6) or row["status"], _errors(row)]
        for result in _measured(record, "overhead".__eq__)
        for name, row in result["providers"].items()
    ]
    head = ("provider", "µs (quartiles)", "error y, dx, dw")
    return _table("A call with a tiny tensor, no gradient", head, rows)


def _targets(record: dict) -> str:
    judged = [check for check in record["checks"] if check["verdict"]]
    rows = [
        [
            check["case"],
            check["what"],
            digits(check["value"]),
            ("≤ " if check["at_most"] else "≥ ") + _figure(check["must"]),
            _figure(check["stretch"]),
            check["verdict"],
        ]
        for check in judged
    ]
    counts = [sum(check["verdict"] == v for check in judged) for v in ("stretch", "pass", "MISS")]
    summary = "{} reach the stretch, {} pass, {} miss.".format(*counts)
    head = ("case", "what", "value", "must", "stretch", "verdict")
    return _table("Targets", head, rows, summary)


def _crossover(record: dict) -> str:
    rows = [_crossover_row(result) for result in _measured(record, "crossover".__eq__)]
    head = ("case", "shape", "forward: reference ÷ kernels", "forward+backward", "auto", "rightly")
    return _table("Matrices against the FFT", head, rows)


def _crossover_row(result: dict) -> list[str]:
    (row,) = (row for name, row in result["providers"].items() if name != "reference")
    pairs = [row.get(which, {}).get("dispatch") for which in PASSES]
    if None in pairs:
        return [result["id"], result["title"], row["status"], "", result["auto"], ""]
    ratios = [pair["ratio"][1] for pair in pairs]
    # what the choice costs: time of the chosen one over time of the other
    cost = max(r if result["auto"] == "reference" else 1 / r for r in ratios)
    fine = cost <= 1 / targets.DISPATCH_RATIO[0]
    rightly = "yes" if fine else f"no: {cost:.2f}× the other's time"
    shown = [spread(pair["ratio"]) for pair in pairs]
    return [result["id"], result["title"], *shown, result["auto"], rightly]
