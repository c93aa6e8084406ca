"""Targets of full cases in float32, as (must, stretch): on a CPU with the warm heap. On a GPU they
are shown beside the figures and judge nothing.
"""

from fastseg.bench import names
from fastseg.bench.cases import PASSES

ROOFLINE_SHARE = (0.45, 0.65)
DISPATCH_RATIO = (0.95, None)
CALL_US = (15.0, 8.0)
SAVED_SHARE = {"conv2d-240": (0.02, None)}
# case → rival → (forward, forward+backward): how many times faster than the rival
SPEED_UPS = {
    "conv2d-240": {"classic": ((5, 7), (5, 8)), "matmul": ((2, 3), (2, None))},
    "conv2d-192": {"classic": ((3, 4.5), (6, 10)), "matmul": ((2, None), (2, None))},
    "conv2d-64": {"classic": ((3.5, 5), (4, 7))},
    "conv2d-421": {"classic": ((18, 28), (20, 32)), "matmul": ((2, None), (2, None))},
    "conv2d-256": {"classic": ((2.3, 3.2), (2.5, 4)), "matmul": ((2, None), (2, None))},
    "fourier-unit-64x16": {"classic": ((1.5, 2.2), (1.8, 2.5))},
    "fourier-unit-48x32": {"classic": ((1.2, 1.5), (1.3, 1.6))},
    "fourier-unit-32x48": {"classic": ((1.3, 1.8), (1.5, 2))},
    "gaussian2d-240": {"FFT chain": ((3.5, 5), None)},
    "gaussian2d-240-monai": {"MONAI": ((9, None), None)},
    "gaussian3d-128": {"FFT chain": ((3, 5), None)},
    "gaussian3d-128-monai": {"MONAI": ((8, None), None)},
}
# the same on a GPU, by family and number of axes
GPU_SPEED_UPS = {
    ("spectral", 2): {
        "classic": ((3, 4.5), (4, 6)),
        "neuraloperator": ((4, 6), (5, 8)),
        "matmul": ((1.3, 1.8), (1.3, 1.8)),
    },
    ("spectral", 3): {"classic": ((3.5, 5), (5, 8))},
    ("fourier_unit", 3): {"classic": ((2.5, 3.5), (1.8, 2.5))},
    ("gaussian", 3): {"FFT chain": ((6, 12), None), "MONAI": ((2, 4), None)},
}
GPU_LARGE = 50e6  # bytes of x from which on the share of the memory roofline has a target
GPU_PEAK = (0.5, 0.35)  # of classic's, forward and backward of a spectral convolution


def checks(record: dict) -> list[dict]:
    """Return every target that applies: {"case", "what", "value", "must", "stretch", "verdict"}."""
    record = names.renewed(record)
    options = record["options"]
    if options["quick"] or options["tf32"] or options["dtype"] != "float32":
        return []
    found = []
    for result in record["cases"]:
        if "providers" not in result or result["family"] == "system":
            continue
        if options["gpu"]:
            found += [check | {"verdict": ""} for check in _of_gpu(result)]
        elif result["heap"] == "warm":
            found += _of_cpu(result)
    return found


def _of_cpu(result: dict):
    ours = result["providers"].get("fastseg", {})
    yield from _speed_ups(result, SPEED_UPS.get(result["id"], {}))
    yield from _passes(result, ours)
    yield from _call_and_memory(result, ours)


def _of_gpu(result: dict):
    rows = result["providers"]
    axes = len(result["shape"]) - 2
    yield from _speed_ups(result, GPU_SPEED_UPS.get((result["family"], axes), {}))
    ours = rows.get("fastseg", {})
    if "forward" in ours and result["x_bytes"] >= GPU_LARGE:
        share = ours["forward"]["roofline_share"]
        yield _check(result, "forward: roofline share", share, ROOFLINE_SHARE)
    peaks = [rows.get(name, {}).get("peak_bytes") for name in ("fastseg", "classic")]
    if result["family"] == "spectral" and all(peaks):
        share = peaks[0][PASSES[1]] / max(peaks[1][PASSES[1]], 1)
        yield _check(result, "peak memory / classic's", share, GPU_PEAK, at_most=True)


def _check(result: dict, what: str, value: float, target: tuple, at_most: bool = False) -> dict:
    must, stretch = target
    return {
        "case": result["id"],
        "what": what,
        "value": value,
        "must": must,
        "stretch": stretch,
        "at_most": at_most,
        "verdict": verdict(value, must, stretch, at_most),
    }


def verdict(value: float, must: float, stretch: float | None, at_most: bool = False) -> str:
    """Judge a value: "stretch", "pass" or "MISS".

    Args:
        value: the figure.
        must: what it is held to.
        stretch: what would be better still, None for nothing.
        at_most: the smaller, the better.
    """
    sign = -1 if at_most else 1
    if stretch is not None and sign * value >= sign * stretch:
        return "stretch"
    return "pass" if sign * value >= sign * must else "MISS"


def _speed_ups(result: dict, wanted: dict):
    for rival, pair in wanted.items():
        for which, target in zip(PASSES, pair, strict=True):
            times = result["providers"].get(rival, {}).get(which, {})
            if target and "over_ours" in times:
                yield _check(result, f"{which}: × {rival}", times["over_ours"][1], target)


def _passes(result: dict, ours: dict):
    for which in PASSES:
        if which in ours:
            share = ours[which]["roofline_share"]
            yield _check(result, f"{which}: roofline share", share, ROOFLINE_SHARE)
            if "dispatch" in ours[which]:
                ratio = ours[which]["dispatch"]["ratio"][1]
                yield _check(result, f"{which}: × reference", ratio, DISPATCH_RATIO)


def _call_and_memory(result: dict, ours: dict):
    if "call" in ours:
        median = ours["call"]["quartiles_s"][1] * 1e6
        yield _check(result, "call, µs", median, CALL_US, at_most=True)
    if result["id"] in SAVED_SHARE and ours.get("saved_bytes") is not None:
        share = ours["saved_bytes"] / result["x_bytes"]
        target = SAVED_SHARE[result["id"]]
        yield _check(result, "saved for backward / x", share, target, at_most=True)


def failures(record: dict) -> list[str]:
    """Name cases without a result and our own wrong results; a missed target is no failed run."""
    found = []
    for result in record["cases"]:
        if "failed" in result:
            found.append(f"{result['id']}: {result['failed']}")
        for name in ("fastseg", "cpu", "cuda", "triton", "matmul"):
            status = result.get("providers", {}).get(name, {}).get("status", "")
            if status.startswith(("wrong", "raises")):
                found.append(f"{result['id']}, {name}: {status}")
    return found
