"""Seconds and memory of one segmented volume: HNOSeg in one pass, on our kernels and on torch.fft,
and a SegResNet of MONAI in windows, which is how such networks are used.

    python bench/whole_volume.py --out FILE.json
    python bench/whole_volume.py --size 64,96,96 --window 32 --rounds 1

Every prediction runs in a process of its own, which measures one call after the imports and reports
the most memory that the system has seen it hold. Networks have random weights: time does not depend
on them. The processes of a round take turns. With `--windows N` a SegResNet computes its first N
windows and the others count as long as their mean. Where others use the machine too, compare the
seconds of the processors.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import records
import reports

CHANNELS, CLASSES = 4, 4
BACKENDS = {"HNOSeg": "auto", "HNOSeg on torch.fft": "reference"}
SYSTEM = "hnoseg"


def main() -> None:
    """Measure every round, print the table and write the record."""
    arguments = parse()
    if arguments.child:
        print(json.dumps(measured(arguments.child, arguments)))
        return
    options = {key: value for key, value in vars(arguments).items() if key not in ("out", "child")}
    record = records.begin(options, ("monai",))
    rows = [
        {"name": name, "seconds": [], "cpu_seconds": [], "peak_bytes": [], "before_bytes": []}
        for name in contenders(arguments)
    ]
    for number in range(arguments.rounds):
        turn = number % len(rows)
        for row in rows[turn:] + rows[:turn]:
            found = in_a_process(row["name"])
            row["parameters"] = found.pop("parameters")
            for key, value in found.items():
                row[key].append(value)
            print(f"{row['name']}: {row['seconds'][-1]:.2f} s", file=sys.stderr, flush=True)
    record["whole_volume"] = rows
    records.save(record, reports.whole_volume(record), arguments.out)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="155,240,240", help="of the volume, voxels")
    parser.add_argument("--window", type=int, default=128, help="side of SegResNet's windows (128)")
    parser.add_argument("--overlaps", default="0.25", help="of windows, a row each (0.25)")
    parser.add_argument("--windows", type=int, help="to compute, the others as long (all)")
    parser.add_argument("--rounds", type=int, default=3, help="predictions by each (3)")
    parser.add_argument("--out", help="write a record to this .json file, a table beside it")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def contenders(arguments: argparse.Namespace) -> list[str]:
    """Name the rows: HNOSeg on each backend, SegResNet with each overlap."""
    overlaps = filter(None, arguments.overlaps.split(","))
    windows = f"SegResNet, windows of {arguments.window}³, overlap"
    return [*BACKENDS, *(f"{windows} {overlap}" for overlap in overlaps)]


def in_a_process(name: str) -> dict:
    """Measure one prediction in a fresh interpreter, with the same arguments."""
    command = [sys.executable, str(Path(__file__)), *sys.argv[1:], "--child", name]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"whole_volume.py: {name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measured(name: str, arguments: argparse.Namespace) -> dict:
    """Predict once, in this process."""
    import torch

    torch.manual_seed(0)
    image = torch.randn(1, CHANNELS, *map(int, arguments.size.split(",")))
    one_pass = name in BACKENDS
    predict, parameters, left = hnoseg(BACKENDS[name]) if one_pass else segresnet(name, arguments)
    with torch.inference_mode():
        before = peak_bytes()
        seconds, cpu = timed(lambda: predict(image).argmax(1))
    for more, more_cpu in left:
        seconds, cpu = seconds + more, cpu + more_cpu
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_bytes": peak_bytes(),
            "before_bytes": before, "parameters": parameters}  # fmt: skip


def timed(run) -> tuple[float, float]:
    """Return the seconds of a call, on the clock and of all processors together."""
    begin = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - begin[0], time.process_time() - begin[1]


def hnoseg(backend: str):
    """Return what predicts a volume in one pass, the network's count of weights, and nothing."""
    import fastseg
    from fastseg import models

    fastseg.use_backend(backend)
    net = models.build(SYSTEM, in_channels=CHANNELS, classes=CLASSES).eval()
    return net.predict, sum(p.numel() for p in net.parameters()), []


def segresnet(name: str, arguments: argparse.Namespace):
    """Return what predicts a volume in overlapping windows, the network's count of weights, and a
    list that receives the mean times of a window for each that was not computed.
    """
    from monai.inferers import sliding_window_inference
    from monai.networks.nets import SegResNet

    net = SegResNet(spatial_dims=3, init_filters=32, in_channels=CHANNELS, out_channels=CLASSES,
                    dropout_prob=0.2).eval()  # fmt: skip
    overlap, window = float(name.rpartition(" ")[2]), (arguments.window,) * 3
    spent = []  # seconds of every window that was computed

    def one(x):
        if len(spent) == arguments.windows:
            left.append(tuple(map(statistics.mean, zip(*spent, strict=True))))
        else:
            spent.append(timed(lambda: last.update(logits=net(x))))
        return last["logits"]

    def predict(image):
        return sliding_window_inference(image, window, 1, one, overlap=overlap, mode="gaussian")

    last, left = {}, []
    return predict, sum(p.numel() for p in net.parameters()), left


def peak_bytes() -> int:
    """Return the most memory that this process has held so far."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
