"""The stages of a day with a GPU, as data: what is run, in which order, for how long."""

import importlib.util
import os
import subprocess
from typing import NamedTuple


class Stage(NamedTuple):
    """A command of Python's and its share of the time.

    words: behind "python"; {out} is OUT/stages, {out}/<name>.json what the stage itself
    writes, {root} the sources. tool: a program to put in front on a GPU; without it the stage is
    left out. grace: seconds beyond its own that it may take where little is worth having without.
    """

    name: str
    seconds: int
    words: list[str]
    environment: dict = {}  # noqa: RUF012  never changed
    tool: str = ""
    grace: int = 0


PROBE = "{root}/bench/gpu_day_probe.py"
# the cases of `fastseg bench`, the most telling first
OPERATORS = (
    "conv2d-192 gaussian3d-128 conv3d-120 fourier-unit-64x16 filter-16 conv2d-256 conv2d-421 "
    "conv2d-240 block2d-192 vffc-0.5 gaussian2d-240 conv3d-96 gate-256 call conv2d-64 filter-32"
)
IN_HALF = "conv2d-192 conv2d-256 conv3d-120"
OF_TRITON = "conv2d-192 conv2d-256 conv3d-120 fourier-unit-48x32"
# 60, 81, 97 and 145 multiply-adds a sample: what the bounds of dispatch are about
CROSSOVER = "crossover-384-n4 crossover-512-n4 crossover-256-n2 crossover-384-n2"
RIVALS = "classic neuraloperator reference"
SYSTEMS = "system-fno-diffusion system-segresnet-vffc system-fno-unet system-diffusion-unet " \
          "system-medsegdiff-v2 system-fgc2f-udiff"  # fmt: skip
_SECTIONS = " ".join(f"--section {name}" for name in (
    "SpeedOfLight", "WarpStateStats", "SchedulerStats", "MemoryWorkloadAnalysis",
    "Occupancy", "LaunchStats",
))  # fmt: skip
NCU = (
    "ncu --clock-control none --profile-from-start off --target-processes application-only "
    f"--launch-count 60 {_SECTIONS} --metrics smsp__issue_active.avg.pct_of_peak_sustained_active,"
    "l1tex__average_t_sectors_per_request_pipe_lsu_mem_global_op_ld.ratio,"
    "l1tex__average_t_sectors_per_request_pipe_lsu_mem_global_op_st.ratio,"
    "gpu__time_duration.sum --csv --page raw --log-file {out}/ncu.csv"
)
SANITIZER = "compute-sanitizer --error-exitcode 9 --print-limit 20 --tool "
UNCACHED = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}


def bench(device: str, name: str, seconds: int, cases: str, options: str = "") -> Stage:
    """Make a stage of `fastseg bench`; on the CPU of a small case, or a system, made smaller."""
    if device == "cuda":
        how, chosen = f"--gpu --budget 0.2 --case-limit 30 --limit {seconds / 60:.2f}", cases
    else:
        chosen = "system-fno-diffusion" if cases == SYSTEMS else "filter-32"
        how = "--quick --heap default --threads 1 --budget 0 --rounds 1"
    words = f"-m fastseg bench {chosen} {how} --out {{out}}/{name}.json {options}".split()
    return Stage(name, seconds, words)


def probe(device: str, name: str, seconds: int, what: str, **options) -> Stage:
    """Make a stage of `gpu_day_probe.py`."""
    words = [PROBE, what, device, f"{{out}}/{name}.json"]
    return Stage(name, seconds, words, **options)


def tests(device: str, name: str, seconds: int, where: str, which: str) -> Stage:
    """Make a stage of the tests that need a GPU; without one they are collected and skipped."""
    parallel = "-n 12" if device == "cuda" else ""
    words = ["-m", "pytest", "-q", "-rfE", "--tb=line", *parallel.split(), "-m", "gpu",
             "-k", which, where]  # fmt: skip
    return Stage(name, seconds, words, {"FASTSEG_TEST_FEW": "1"})


def build(device: str, wheels: str) -> list[tuple[Stage, ...]]:
    """Make the stages in front: carried wheels, then the kernels, beside what the machine is."""
    pip = ["-m", "pip", "install", "--disable-pip-version-check", "--no-deps"]
    first = []
    if wheels:
        carried = [PROBE, "wheels", wheels]
        first.append((Stage("wheels", 20, carried),))
    machine = probe(device, "machine", 60, "machine")
    if device != "cuda" and importlib.util.find_spec("fastseg._C"):
        return [*first, (machine,)]  # built before, which takes minutes
    words = [*pip, "--no-build-isolation", "-Cbuild-dir={root}/build",
             "-Ccmake.define.FASTSEG_CPU_ISAS=avx2", "-e", "{root}"]  # fmt: skip
    require = {"FASTSEG_REQUIRE_CUDA": "1", "CUDAARCHS": architecture()} if device == "cuda" else {}
    return [*first, (Stage("build", 90, words, require, grace=150), machine)]


def architecture() -> str:
    """Name the one architecture to build for: that of the first GPU, unless CUDAARCHS says."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        first = subprocess.run(query, capture_output=True, text=True).stdout.split()[0]
    except (OSError, IndexError):
        first = "9.0"
    return os.environ.get("CUDAARCHS", f"{first.replace('.', '')}-real")


def operators(device: str, wheels: str) -> list[tuple[Stage, ...]]:
    """List the stages of operators; those of a tuple run beside one another."""
    kernels = probe(device, "ncu", 60, "kernels", tool=NCU)
    checks = [
        probe(device, tool, 25, "calls", tool=SANITIZER + tool, environment=UNCACHED)
        for tool in ("memcheck", "racecheck")
    ]
    singles = [
        probe(device, "smoke", 20, "smoke"),
        bench(device, "float32", 150, OPERATORS, "--without triton"),
        bench(device, "bfloat16", 25, IN_HALF, "--dtype bfloat16 --without triton"),
        bench(device, "triton", 60, OF_TRITON, f"--case-limit 45 --without {RIVALS}"),
        bench(device, "tf32", 20, "conv2d-421 conv2d-192", f"--tf32 --without triton {RIVALS}"),
        bench(device, "crossover", 15, CROSSOVER),
        tests(device, "tests", 50, "{root}/tests", "not compiles and not triton"),
        tests(device, "inductor", 25, "{root}/tests/test_gpu.py", "compiles and not triton"),
        kernels,
        *checks,
    ]
    return [*build(device, wheels), *((stage,) for stage in singles)]


def training(device: str, wheels: str) -> list[tuple[Stage, ...]]:
    """List the stages of systems."""
    small = device == "cpu"
    phantoms = ["-m", "fastseg", "phantom", "{out}/data", "--cases", "5",
                "--size", "32,32,24" if small else "160,160,128"]  # fmt: skip
    size = "2x8x8 --threads 1 --cases 2 --rounds 1" if small else (
        "2x128x128x128 --threads 8 --cases 5 --rounds 2"
    )  # fmt: skip
    load = f"{{root}}/bench/loader.py {{out}}/data --batch {size} --out {{out}}/loader.json"
    singles = [
        bench(device, "systems", 300, SYSTEMS),
        bench(device, "systems_bfloat16", 200, SYSTEMS, "--dtype bfloat16"),
        Stage("phantoms", 60, phantoms),
        epoch(device, "fno", "fno"),
        *(() if small else EPOCHS),
        Stage("loader", 120, load.split()),
    ]
    return [*build(device, wheels), *((stage,) for stage in singles)]


def epoch(device: str, name: str, recipe: str, *settings: str) -> Stage:
    """Make a stage that trains one epoch of a recipe on phantoms."""
    shared = ["epochs=1", "val_every=0", "log_every=1", "data.threads=8"]
    small = ["data.patch=16,16", "model.width=4", "data.samples_per_case=2", "data.batch_size=2"]
    words = [PROBE, "epoch", device, f"{{out}}/{name}.json", recipe,
             *shared, *settings, *(small if device == "cpu" else ())]  # fmt: skip
    return Stage(name, 80, words)


EPOCHS = (
    epoch("cuda", "fno_torch_loader", "fno", "loader=torch"),
    epoch("cuda", "segresnet_vffc", "segresnet_vffc"),
    epoch("cuda", "segresnet_vffc_fp32", "segresnet_vffc", "precision=fp32"),
    epoch("cuda", "fno_diffusion", "fno_diffusion"),
    epoch("cuda", "medsegdiff_v2", "medsegdiff_v2"),
)
TABLES = {"operators": operators, "training": training}
