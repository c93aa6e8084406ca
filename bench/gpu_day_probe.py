"""What a day with a GPU asks beside the bench: the machine, a first look at every op, single calls.

    python bench/gpu_day_probe.py machine|smoke|calls|kernels DEVICE FILE.json
    python bench/gpu_day_probe.py epoch DEVICE FILE.json RECIPE [name=value …]
    python bench/gpu_day_probe.py wheels FOLDER

What is found is written to FILE.json after every step. `kernels` is for a profiler, `calls` for a
memory checker: each runs a few calls, the first between the start and the stop of a profile.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"
_QUERY = ("name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu,"
          "ecc.mode.current")  # fmt: skip


def noted(path: str, found: dict) -> None:
    """Write what has been found so far."""
    from fastseg.host.files import write_json

    write_json(Path(path), found)


def said(*words: str) -> str | None:
    """Return what a program prints, None where it is not there."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def machine(device: str, path: str) -> None:
    """Find out what the machine is, and what rates plain torch reaches on it."""
    import torch

    found = {"torch": torch.__version__, "python": sys.version.split()[0]}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "smi": said("nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader"),
            "nvcc": (said("nvcc", "--version") or "").splitlines()[-1:],
            "multiprocessors": properties.multi_processor_count,
            "l2_bytes": getattr(properties, "L2_cache_size", None),
        }
    noted(path, found)
    for name, rate in rates(device).items():
        found[name] = rate()
        noted(path, found)
    if device == "cuda":  # after the work: what it has made of the clocks
        query = "clocks.sm,clocks.mem,power.draw,temperature.gpu,clocks_event_reasons.active"
        found["smi_after"] = said("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader")
        noted(path, found)


def rates(device: str) -> dict[str, Callable[[], float]]:
    """Return measurements by name: bytes read plus written, or operations, a second."""
    import torch

    from fastseg.bench import timing

    on_gpu = device == "cuda"
    clock, budget_s = (timing.DeviceClock(), 0.3) if on_gpu else (None, 0.0)
    n, large, small = (8192, 1 << 28, 1 << 22) if on_gpu else (64, 1 << 12, 1 << 10)

    def best(run: Callable, clock=clock) -> float:
        return min(timing.interleave({"run": run}, budget_s, 5, clock=clock)["run"])

    def copy(numbers: int, repeats: int = 1) -> float:
        source = torch.ones(numbers, device=device)
        target = torch.empty_like(source)
        run = lambda: [target.copy_(source) for _ in range(repeats)]  # noqa: E731
        return 2 * repeats * source.nbytes / best(run)

    def product(dtype: torch.dtype, tf32: bool = False) -> float:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = torch.randn(2, n, n, device=device).to(dtype)
        return 2 * n**3 / best(lambda: torch.mm(a, b))

    def launch() -> float:
        x = torch.ones(1, device=device)
        return best(lambda: [x.add_(1) for _ in range(1000)], None) / 1000

    return {
        "copy_bytes_per_s": lambda: copy(large),
        "copy_in_l2_bytes_per_s": lambda: copy(small, 20),
        "sgemm_flops_per_s": lambda: product(torch.float32),
        "tf32_flops_per_s": lambda: product(torch.float32, tf32=True),
        "bf16_flops_per_s": lambda: product(torch.bfloat16),
        "seconds_of_an_eager_call": launch,
    }


def registry():
    """Return the tests' registry of operators: rows that draw arguments, and their check."""
    sys.path.insert(0, str(TESTS))
    import operators

    return operators


def smoke(device: str, path: str) -> None:
    """Hold every op, forward and backward, to float64, then replay one CUDA graph."""
    import torch

    tests, found = registry(), {}
    for dtype in (torch.float32, torch.bfloat16):
        for name, row in tests.ROWS.items():
            if tests.serves(row, device, dtype):
                grids = [*{len(sizes): sizes for sizes in row.few}.values()]
                grids += [(64, 72)] * (device == "cuda")
                check = lambda: [tests.check(name, row, device, s, dtype) for s in grids]  # noqa: B023, E731
                found[f"{name}, {str(dtype).removeprefix('torch.')}"] = outcome(check)
                noted(path, found)
    if device == "cuda":
        found["a graph's replay"] = outcome(replay)
        noted(path, found)
    if not found or any(word != "ok" for word in found.values()):
        sys.exit(f"wrong: {found or 'no kernel of this device is live'}")


def outcome(check: Callable) -> str:
    """Return "ok", or the first line of what a check raises."""
    try:
        check()
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return "ok"


def replay() -> None:
    """Capture a spectral convolution, and hold its replay on another input to an eager call."""
    import torch

    from fastseg import ops

    x, weight = torch.randn(2, 4, 48, 64, device="cuda"), torch.randn(4, 4, 8, 5, 2, device="cuda")
    ops.spectral_conv(x, weight)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = ops.spectral_conv(x, weight)
    x.copy_(torch.randn_like(x))
    graph.replay()
    torch.testing.assert_close(y, ops.spectral_conv(x, weight))


def calls(device: str, path: str) -> None:
    """Run every op forward and backward once on a small grid, for a memory checker to watch."""
    import torch

    import fastseg
    from fastseg import ops

    tests, found = registry(), {}
    with fastseg.use_backend(device):
        for name, row in tests.ROWS.items():
            if not tests.serves(row, device, torch.float32):
                continue
            parts = [tests.place(part, device) for part in row.draw(row.few[-1], torch.float32)]
            found[name] = outcome(lambda: tests.run(getattr(ops, name), *parts, torch.ones_like))  # noqa: B023
            noted(path, found)
    if any(word != "ok" for word in found.values()):
        sys.exit(f"failed: {found}")


def kernels(device: str, path: str) -> None:
    """Call analysis, synthesis, filters and pointwise products once each, warm, in a profile."""
    import torch

    from fastseg import ops

    large = device == "cuda"
    x = torch.randn((32, 32, 192, 192) if large else (1, 2, 16, 16), device=device)
    volume = torch.randn((1, 4, 128, 128, 128) if large else (1, 1, 8, 8, 8), device=device)
    modes = (32, 16) if large else (4, 3)
    channels = x.shape[1]
    weight = torch.randn(channels, channels, *modes, 2, device=device)
    skip = torch.randn(channels, channels, device=device)
    kept = ops.truncated_rfftn(x, modes)
    runs = {
        "analyse": lambda: ops.truncated_rfftn(x, modes),
        "synthesise": lambda: ops.truncated_irfftn(kept, x.shape[2:]),
        "filter": lambda: ops.gaussian_filter(volume, 2.0, mode="both"),
        "pointwise": lambda: ops.fno_block(x, weight, skip),
    }
    with torch.no_grad():
        for run in runs.values():
            run()
        profile(device, runs)
    noted(path, {"calls": list(runs)})


def profile(device: str, runs: dict[str, Callable]) -> None:
    """Run calls between the start and the stop of a profile."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
    for run in runs.values():
        run()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()


def epoch(device: str, path: str, recipe: str, *settings: str) -> None:
    """Train an epoch of a recipe on the phantoms beside FILE.json; note what its log says."""
    from fastseg.cli import main as fastseg

    file, begin = Path(path), time.perf_counter()
    out = file.with_suffix("")
    code = fastseg(["train", recipe, "--data", str(file.parent / "data"), "--out", str(out),
                    f"device={device}", *settings])  # fmt: skip
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    noted(path, {"seconds": round(time.perf_counter() - begin, 1), "settings": settings,
                 "steps": lines[-5:]})  # fmt: skip
    sys.exit(code)


def wheels(folder: str) -> None:
    """Install the wheels of a folder, nothing else."""
    found = [str(path) for path in sorted(Path(folder).glob("*.whl"))]
    words = ["install", "--no-index", "--no-deps", "--disable-pip-version-check", *found]
    sys.exit(subprocess.call([sys.executable, "-m", "pip", *words]) if found else "no wheel there")


if __name__ == "__main__":
    {f.__name__: f for f in (machine, smoke, calls, kernels, epoch, wheels)}[sys.argv[1]](
        *sys.argv[2:]
    )
