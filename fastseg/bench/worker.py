"""Measures cases in a process: `python -m fastseg.bench.worker`, which reads jobs, a line each, as
`runner.job_of` makes them, and writes the record of each to the file that the job names.
"""

import gc
import json
import sys
import warnings
from pathlib import Path

import torch

from fastseg.bench import accuracy, cases, memory, providers, timing, work
from fastseg.bench.layers import Inputs, Layer, Unavailable
from fastseg.host import environment, files

CALLS = 200  # of a tiny tensor, timed together


def main(jobs=None) -> None:
    """Measure the cases of jobs, lines of JSON, standard input's by default."""
    warnings.filterwarnings("ignore")
    gc.freeze()  # what is imported is no garbage: collections between the providers are quick
    for line in jobs or sys.stdin:
        job = json.loads(line)
        torch.set_num_threads(job["threads"])
        torch.backends.cuda.matmul.allow_tf32 = job["tf32"]
        result = measure(_case(job), job) | {"machine": environment.of_bench(job["device"])}
        files.write_text(Path(job["out"]), json.dumps(result))
        gc.collect()
        if job["device"] == "cuda":
            torch.cuda.empty_cache()


def _case(job: dict) -> cases.Case:
    case = cases.CASES[job["case"]]
    return cases.quick(case) if job["quick"] and case.family != "overhead" else case


def measure(case: cases.Case, job: dict, builders: dict | None = None) -> dict:
    """Gate, then time every provider of a case; returns a JSON-able record.

    Args:
        case: of `fastseg.bench.cases`.
        job: as `runner.job_of` makes it.
        builders: of these layers by name, of all of the case by default.
    """
    device, dtype = torch.device(job["device"]), getattr(torch, job["dtype"])
    inputs = accuracy.draw(case, dtype).each(lambda t: t.to(device))
    if builders is None:
        found = providers.of(case, device.type, dtype, job["compile"])
        builders = {name: found[name] for name in found if name not in job["without"]}
    rows, layers = _gated(case, inputs, builders, "tf32" if job["tf32"] else job["dtype"])
    if case.family == "overhead":
        _time_calls(rows, layers, inputs, job["budget_s"])
    elif case.family == "system":
        # nothing is dispatched as a whole, and random numbers keep it out of a graph
        _time_passes(rows, layers, inputs, job | {"pairs": 0}, graphs=False)
    else:
        _time_passes(rows, layers, inputs, job)
    record = {
        "id": case.id,
        "family": case.family,
        "title": case.title,
        "shape": case.shape,
        "source": case.source,
        "auto": providers.picked(case, device.type, dtype),
        "dtype": job["dtype"],
        "heap": job["heap"],
        "device": job["device"],
        "x_bytes": sum(x.nbytes for x in inputs.x),
        "providers": rows,
    }
    if case.family in ("overhead", "system"):  # the work of neither has been counted
        return record
    return record | _floor(case, rows, inputs)


def _gated(case: cases.Case, inputs: Inputs, builders: dict, dtype: str):
    """A row for every provider, and the layers that passed. The inputs become leaves."""
    wanted = accuracy.truth(case, inputs)
    for x in inputs.x:
        x.requires_grad_()
    factor = providers.FAMILIES[case.family].tolerance
    rows, layers = {}, {}
    for name, build in builders.items():
        row = rows[name] = {"backend": None, "status": "ok", "error": None}
        try:
            layer = build(case, inputs)
            row["backend"] = layer.backend
            row["error"] = accuracy.errors(layer, inputs, wanted)
            row |= _memory(layer, inputs)
        except Unavailable as error:
            row["status"] = f"unavailable: {error}"
        except (
            Exception
        ) as error:  # a rival may refuse a dtype in any way it likes: that is its result
            row["status"] = f"raises: {' '.join(str(error).split())[:120]}"
        else:
            row["status"] = accuracy.refusal(name, row["error"], dtype, factor) or "ok"
        if row["status"] == "ok":
            layers[name] = layer
    return rows, layers


def _memory(layer: Layer, inputs: Inputs) -> dict:
    device = inputs.x[0].device
    gc.collect()  # what the provider before left in cycles must not go while this one is measured
    return {
        "saved_bytes": memory.saved_bytes(layer.forward, layer.parameters, *inputs.x),
        "peak_bytes": {
            which: memory.peak_bytes(run, device)
            for which, run in layer.passes(inputs.x, inputs.dy).items()
        },
    }


def _time_passes(
    rows: dict, layers: dict[str, Layer], inputs: Inputs, job: dict, graphs: bool = True
) -> None:
    on_gpu = inputs.x[0].device.type == "cuda"
    clock = timing.DeviceClock() if on_gpu else None
    for which in cases.PASSES:
        runs = {n: layer.passes(inputs.x, inputs.dy)[which] for n, layer in layers.items()}
        captured = _captured(runs) if on_gpu and graphs else {}
        runs |= {name: graph for name, graph in captured.items() if graph}
        if runs:
            _time_pass(which, rows, runs, job, clock)
        for name, graph in captured.items():
            rows[name][which]["graph"] = graph is not None


def _captured(runs: dict) -> dict:
    pool = torch.cuda.graph_pool_handle()
    return {name: timing.captured(run, pool) for name, run in runs.items()}


def _time_pass(which: str, rows: dict, runs: dict, job: dict, clock) -> None:
    seconds = timing.interleave(runs, job["budget_s"], job["rounds"], clock=clock)
    ours = next((name for name in ("fastseg", "cpu", "cuda") if name in runs), None)
    for name, values in seconds.items():
        rows[name][which] = _summary(values)
        if name != ours and ours:
            rows[name][which]["over_ours"] = timing.paired_ratio(values, seconds[ours])
    if job["pairs"] and ours and "reference" in runs:
        pair = {name: runs[name] for name in ("reference", ours)}
        least = max(job["pairs"] - len(seconds[ours]), 0)
        more = timing.interleave(pair, 0, least, clock=clock)
        reference, own = (seconds[name] + more[name] for name in pair)
        rows[ours][which]["dispatch"] = {
            "pairs": len(own),
            "ratio": timing.paired_ratio(reference, own),
        }


def _summary(values: list[float]) -> dict:
    return {"quartiles_s": timing.spread(values), "seconds": values}


def _time_calls(rows: dict, layers: dict[str, Layer], inputs: Inputs, budget_s: float) -> None:
    x = tuple(t.detach() for t in inputs.x)

    def repeat(forward):
        def run() -> None:
            with torch.no_grad():
                for _ in range(CALLS):
                    forward(*x)
            if x[0].is_cuda:
                torch.cuda.synchronize()

        return run

    runs = {name: repeat(layer.forward) for name, layer in layers.items()}
    for name, values in timing.interleave(runs, budget_s, 5).items():
        rows[name]["call"] = _summary([value / CALLS for value in values])


def _floor(case: cases.Case, rows: dict, inputs: Inputs) -> dict:
    """The least time of a pass on this machine, and every provider's share of it."""
    x = inputs.x[0]
    ceilings, floors = timing.ceilings(x.device), {}
    for which in cases.PASSES:
        moved = work.least_bytes(case, which, x.element_size())
        flops = work.flops(case, which)
        memory_s = moved / ceilings["copy_bytes_per_s"]
        arithmetic_s = flops / ceilings["sgemm_flops_per_s"]
        floors[which] = {
            "bytes": moved, "flops": flops, "memory_s": memory_s, "arithmetic_s": arithmetic_s
        }  # fmt: skip
        for row in rows.values():
            if which in row:
                median = row[which]["quartiles_s"][1]
                row[which]["bytes_per_s"] = moved / median
                row[which]["roofline_share"] = max(memory_s, arithmetic_s) / median
    return {"ceilings": ceilings, "floor": floors}


if __name__ == "__main__":
    main()
