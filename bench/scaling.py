"""Training with more processes: samples a second measured here, and a paper estimate for more.

    python bench/scaling.py --recipe E-full --size 32 --processes 1,2
    python bench/scaling.py --estimate --step-ms 400 --gradient-mb 108 --gb-s 25

Measures with torchrun on this machine, one thread a process, steps after the first two. The
estimate takes the step of one GPU and the bytes of its gradients: a ring all-reduce of N GPUs moves
2·(N − 1)/N of them over the slowest link. "alone": communication after the step; "overlapped": it
hides behind the backward pass, two thirds of the step, as far as it fits.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from fastseg.data import phantom
from fastseg.processes import launched

BACKWARD_SHARE = 2 / 3
LATENCY_S = 20e-6  # of each of the 2·(N − 1) rounds
COUNTS = (1, 2, 4, 8, 16, 32, 64)


def main() -> None:
    arguments = parse()
    if launched():
        raise SystemExit("scaling.py starts its own processes")
    if not arguments.estimate:
        with tempfile.TemporaryDirectory() as scratch:
            measure(arguments, Path(scratch))
    if arguments.step_ms:
        estimate(arguments.step_ms / 1e3, arguments.gradient_mb * 1e6, arguments.gb_s * 1e9)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="E-full")
    parser.add_argument("--size", type=int, default=32, help="of phantoms and patches, voxels (32)")
    parser.add_argument("--steps", type=int, default=12, help="of each run (12)")
    parser.add_argument("--processes", default="1,2", help="counts to measure (1,2)")
    parser.add_argument("--estimate", action="store_true", help="measure nothing")
    parser.add_argument("--step-ms", type=float, help="one GPU's step, for the estimate")
    parser.add_argument("--gradient-mb", type=float, default=108.3, help="fp32 (E-full: 108.3)")
    parser.add_argument("--gb-s", type=float, default=25.0, help="slowest link, bytes 1e9/s (25)")
    parser.add_argument("settings", nargs="*", help="further name=value of the recipe")
    return parser.parse_args()


def measure(arguments: argparse.Namespace, scratch: Path) -> None:
    """Prints samples a second for each number of processes."""
    side = (max(arguments.size, 24),) * 3
    data = phantom.write(scratch / "data", 5, size=side)
    print("processes  samples/s  of linear", flush=True)
    first = None
    for count in map(int, arguments.processes.split(",")):
        rate = run(arguments, data, scratch / str(count), count)
        first = first or rate / count
        print(f"{count:9}  {rate:9.2f}  {rate / first / count:9.2f}", flush=True)


def run(arguments: argparse.Namespace, data: Path, out: Path, count: int) -> float:
    """Samples a second of a run of `count` processes."""
    size = arguments.size
    # three training patients: each of `count` processes has as many of them, rounded up
    per_case = -(-arguments.steps // -(-3 // count))
    settings = [f"data.patch={size},{size},{size}", f"data.samples_per_case={per_case}", "epochs=1",
                "data.cache=ram", "data.threads=1", "log_every=1", "val_every=0", "precision=fp32",
                "fractions=0.6,0.2,0.2", *arguments.settings]  # fmt: skip
    starter = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    words = ["-m", "fastseg", "train", arguments.recipe, "--data", str(data), "--out", str(out)]
    subprocess.run([sys.executable, *starter, *words, *settings], check=True, capture_output=True,
                   env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return statistics.median(row["samples_per_s"] for row in rows[2:] if "loss" in row)


def estimate(step_s: float, gradient_bytes: float, bytes_per_s: float) -> None:
    """Prints the expected share of linear scaling for up to 64 GPUs."""
    print(f"estimate: step {step_s * 1e3:.0f} ms, gradients {gradient_bytes / 1e6:.0f} MB, "
          f"{bytes_per_s / 1e9:.0f} GB/s")  # fmt: skip
    print("GPUs  all-reduce ms  of linear, alone  overlapped")
    for count in COUNTS:
        rounds = 2 * (count - 1)
        moved_s = rounds / count * gradient_bytes / bytes_per_s + rounds * LATENCY_S
        left_s = max(0.0, moved_s - BACKWARD_SHARE * step_s)
        alone, hidden = step_s / (step_s + moved_s), step_s / (step_s + left_s)
        print(f"{count:4}  {moved_s * 1e3:13.1f}  {alone:16.3f}  {hidden:10.3f}")


if __name__ == "__main__":
    main()
