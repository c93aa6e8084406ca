"""Training with more processes: samples a second measured here, and a paper estimate for more.

    python bench/scaling.py --recipe E-full --size 32 --processes 1,2 --out FILE.json
    python bench/scaling.py --recipe E-full --estimate --step-ms 400 --gb-s 25

Measures with torchrun on this machine, one thread a process, steps after the first two. The
estimate takes the step of one process, measured here unless given, and the bytes of the gradients
of the recipe's own network. bench/README.md has the arithmetic.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import records
import reports

from fastseg.config import Recipe, load_recipe
from fastseg.data import phantom
from fastseg.data.cases.labels import BRATS
from fastseg.errors import FastsegError
from fastseg.host.processes import launched
from fastseg.tasks.network import build_network, input_channels

BACKWARD_SHARE = 2 / 3  # of a step, where communication can hide
LATENCY_S = 20e-6  # of each of the 2·(N − 1) rounds
COUNTS = (1, 2, 4, 8, 16, 32, 64)
WARM_UP = 2  # steps that do not count
PATIENTS, TRAINING_PATIENTS = 5, 3
FIXED = ("epochs=1", "data.cache=ram", "data.threads=1", "log_every=1", "val_every=0",
         "precision=fp32", "fractions=0.6,0.2,0.2")  # fmt: skip


def main() -> None:
    """Measure, unless only an estimate is wanted, print the tables and write the record."""
    arguments = parse()
    if launched():
        raise SystemExit("scaling.py starts its own processes")
    options = {k: v for k, v in vars(arguments).items() if k != "out"}
    record = records.begin(options)
    try:
        recipe = load_recipe(arguments.recipe, arguments.settings)
        record["gradient_bytes"] = gradient_bytes(recipe)
    except FastsegError as error:
        raise SystemExit(f"scaling.py: {error}") from None
    record["measured"] = [] if arguments.estimate else measure(arguments, recipe)
    record["step_ms"] = arguments.step_ms or step_ms(record["measured"])
    bytes_per_s = arguments.gb_s * 1e9
    record["estimate"] = estimate(record["step_ms"] / 1e3, record["gradient_bytes"], bytes_per_s)
    records.save(record, reports.scaling(record), arguments.out)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="E-full")
    parser.add_argument("--size", type=int, default=32, help="of phantoms and patches, voxels (32)")
    parser.add_argument("--steps", type=int, default=12, help="of each run (12)")
    parser.add_argument("--processes", default="1,2", help="counts to measure, from 1 (1,2)")
    parser.add_argument("--estimate", action="store_true", help="measure nothing")
    parser.add_argument("--step-ms", type=float, help="one process's step, for the estimate")
    parser.add_argument("--gb-s", type=float, default=25.0, help="slowest link, bytes 1e9/s (25)")
    parser.add_argument("--out", help="write a record to this .json file, a table beside it")
    parser.add_argument("settings", nargs="*", help="further name=value of the recipe")
    arguments = parser.parse_args()
    counts = arguments.processes.split(",")
    if not all(count.isdecimal() and int(count) for count in counts) or counts[0] != "1":
        parser.error(f"--processes: is {arguments.processes}, wanted counts from 1, as 1,2")
    if arguments.estimate and not arguments.step_ms:
        parser.error("--estimate: wanted --step-ms too, since nothing is measured")
    if arguments.steps < WARM_UP + TRAINING_PATIENTS:
        parser.error(f"--steps: is {arguments.steps}, wanted {WARM_UP + TRAINING_PATIENTS} or more")
    return arguments


def gradient_bytes(recipe: Recipe) -> int:
    """Count the bytes that a process adds to the others' in a step: all weights' gradients."""
    names = recipe.modalities or phantom.MODALITIES
    net = build_network(recipe, input_channels(recipe, names), BRATS, names)
    return sum(w.numel() * w.element_size() for w in net.parameters() if w.requires_grad)


def measure(arguments: argparse.Namespace, recipe: Recipe) -> list[dict]:
    """Measure samples a second and ms of every step that counts, by number of processes."""
    size, batch, rows = arguments.size, recipe.data.at_once, []  # of each process
    patch = ",".join([str(size)] * len(recipe.data.patch))
    with tempfile.TemporaryDirectory() as folder:
        side = (max(size, phantom.SIZE_LIMITS_VOXELS[0]),) * 3
        data = phantom.write(Path(folder) / "data", PATIENTS, size=side)
        for count in map(int, arguments.processes.split(",")):
            per_case = math.ceil(arguments.steps * count * batch / TRAINING_PATIENTS)
            settings = [f"data.patch={patch}", f"data.samples_per_case={per_case}", *FIXED,
                        *arguments.settings, f"data.batch_size={count * batch}"]  # fmt: skip
            rates = run(arguments.recipe, settings, data, Path(folder) / str(count), count)
            steps = [1e3 * count * batch / rate for rate in rates]
            rows.append({"processes": count, "samples_per_s": rates, "step_ms": steps})
    return rows


def run(recipe: str, settings: list[str], data: Path, out: Path, count: int) -> list[float]:
    """Return the samples a second of each step of a run of `count` processes, all together."""
    starter = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    words = ["-m", "fastseg", "train", recipe, "--data", str(data), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *starter, *words, *settings], env=environment,
                          capture_output=True, text=True)  # fmt: skip
    if done.returncode:
        raise SystemExit(
            f"scaling.py: training in {count} processes failed:\n{done.stderr[-3000:]}"
        )
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["samples_per_s"] for row in rows if "loss" in row][WARM_UP:]


def step_ms(measured: list[dict]) -> float:
    """Return the median step of one process."""
    return statistics.median(measured[0]["step_ms"])


def estimate(step_s: float, gradient_bytes: float, bytes_per_s: float) -> list[dict]:
    """Estimate the share of linear scaling for up to 64 processes, each with the same step."""
    rows, kept = [], reports.KEPT
    for count in COUNTS:
        rounds = 2 * (count - 1)
        moved_s = rounds / count * gradient_bytes / bytes_per_s + rounds * LATENCY_S
        left_s = max(0.0, moved_s - BACKWARD_SHARE * step_s)
        rows.append({"processes": count, "all_reduce_ms": 1e3 * moved_s,
                     "alone": step_s / (step_s + moved_s),
                     "overlapped": step_s / (step_s + left_s),
                     "shortest_step_ms": 1e3 * moved_s * kept / (1 - kept)})  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
