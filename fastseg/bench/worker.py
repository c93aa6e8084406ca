"""One case in one process: `python -m fastseg.bench.worker JOB`, JOB as `runner.job_of` makes it.

The allocator reads its settings when a process starts, and a case that runs out of memory must not
take the others with it.
"""

import json
import os
import platform
import subprocess
import sys
import warnings
from pathlib import Path

import torch

from fastseg.bench import accuracy, cases, timing
from fastseg.bench.providers import BY_FAMILY, PROVIDERS, Unavailable
from fastseg.ops import _backends

CALLS = 200  # of a tiny tensor, timed together


def main(argv=None) -> None:
    job = json.loads((argv or sys.argv[1:])[0])
    warnings.filterwarnings("ignore")
    torch.set_num_threads(job["threads"])
    result = measure(_case(job), job) | {"machine": machine(job["device"])}
    temporary = Path(job["out"]).with_suffix(".tmp")
    temporary.write_text(json.dumps(result))
    os.replace(temporary, job["out"])


def _case(job: dict) -> cases.Case:
    case = cases.CASES[job["case"]]
    return cases.quick(case) if job["quick"] and case.family != "overhead" else case


def measure(case: cases.Case, job: dict, providers: dict | None = None) -> dict:
    """Gate, then time every provider of the case, or the given ones; a JSON-able record."""
    if providers is None:
        names = BY_FAMILY[case.family] + (("classic, compiled",) if job["compile"] else ())
        providers = {name: PROVIDERS[name] for name in names}
    device = torch.device(job["device"])
    inputs = accuracy.draw(case, getattr(torch, job["dtype"]))
    rows, layers, x, dy = _gated(case, inputs, providers, job["dtype"], device)
    if case.family == "overhead":
        _time_calls(rows, layers, x, job["budget_s"])
    else:
        for which in cases.PASSES:
            _time_pass(which, rows, layers, (x, dy), job)
    record = {
        "id": case.id,
        "family": case.family,
        "shape": case.shape,
        "modes": case.modes,
        "source": case.source,
    }
    record["auto"] = _backends.select_spectral(
        "auto", device.type, torch.float32, case.sizes, case.sizes, case.modes
    )
    record |= {
        "dtype": job["dtype"],
        "heap": job["heap"],
        "device": job["device"],
        "providers": rows,
    }
    return record | _floor(case, rows, x, device)


def _gated(case, inputs, providers, dtype: str, device):
    """A row for every provider, the layers that passed, and x and dy on the device."""
    wanted = accuracy.truth(case, inputs)
    x, dy = inputs.x.to(device).requires_grad_(), inputs.dy.to(device)
    rows, layers = {}, {}
    for name, build in providers.items():
        row = rows[name] = {"backend": None, "status": "ok", "error": None}
        try:
            layer = build(case, inputs.weight.to(device))
            row["backend"] = layer.backend
            row["error"] = accuracy.errors(layer, x, dy, wanted)
            row["saved_bytes"] = timing.saved_bytes(layer.forward, layer.parameters, x)
        except Unavailable as error:
            row["status"] = f"unavailable: {error}"
        except (
            Exception
        ) as error:  # a rival may refuse a dtype in any way it likes: that is its result
            row["status"] = f"raises: {' '.join(str(error).split())[:120]}"
        else:
            row["status"] = accuracy.refusal(name, row["error"], dtype) or "ok"
        if row["status"] == "ok":
            layers[name] = layer
    return rows, layers, x, dy


def _time_pass(which: str, rows: dict, layers: dict, tensors: tuple, job: dict) -> None:
    runs = {
        name: timing.passes(layer.forward, layer.parameters, *tensors)[which]
        for name, layer in layers.items()
    }
    if not runs:
        return
    seconds = timing.interleave(runs, job["budget_s"], job["rounds"])
    ours = "fastseg" if "fastseg" in runs else "cpu"
    for name, values in seconds.items():
        rows[name][which] = _summary(values)
        if name != ours and ours in seconds:
            rows[name][which]["over_ours"] = timing.paired_ratio(values, seconds[ours])
    if job["pairs"] and ours in runs and "reference" in runs:
        more = timing.interleave(
            {name: runs[name] for name in ("reference", ours)},
            0,
            max(job["pairs"] - len(seconds[ours]), 0),
        )
        pairs = [seconds[name] + more[name] for name in ("reference", ours)]
        rows[ours][which]["dispatch"] = {
            "pairs": len(pairs[0]),
            "ratio": timing.paired_ratio(*pairs),
        }


def _summary(values: list[float]) -> dict:
    return {"quartiles_s": timing.spread(values), "seconds": values}


def _time_calls(rows: dict, layers: dict, x: torch.Tensor, budget_s: float) -> None:
    x = x.detach()

    def repeat(forward):
        def run() -> None:
            with torch.no_grad():
                for _ in range(CALLS):
                    forward(x)

        return run

    seconds = timing.interleave(
        {name: repeat(layer.forward) for name, layer in layers.items()}, budget_s, 5
    )
    for name, values in seconds.items():
        rows[name]["call"] = _summary([value / CALLS for value in values])


def _floor(case, rows: dict, x, device) -> dict:
    """The least time of a pass on this machine, and every provider's share of it."""
    if case.family == "overhead":
        return {"x_bytes": x.nbytes}
    ceilings, floors = timing.ceilings(device), {}
    for which in cases.PASSES:
        work = {
            "bytes": cases.least_bytes(case, which, x.element_size()),
            "flops": cases.flops(case, which),
        }
        times = (
            work["bytes"] / ceilings["copy_bytes_per_s"],
            work["flops"] / ceilings["sgemm_flops_per_s"],
        )
        floors[which] = work | {"memory_s": times[0], "arithmetic_s": times[1]}
        for row in rows.values():
            if which in row:
                row[which]["roofline_share"] = max(times) / row[which]["quartiles_s"][1]
    return {"x_bytes": x.nbytes, "ceilings": ceilings, "floor": floors}


def machine(device: str) -> dict:
    """What the figures were taken on."""
    import fastseg

    native = _backends._C
    found = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "isa": native.cpu_isa() if native else None,
        "compiler": native.compiler if native else None,
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "fastseg": fastseg.__version__,
        "commit": _commit(),
    }
    if device != "cpu":
        found |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return found


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str | None:
    """The commit of the source tree, "-dirty" where files differ; None if installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


if __name__ == "__main__":
    main()
