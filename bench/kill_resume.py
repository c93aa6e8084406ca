"""Kill a training process again and again, and show that nothing of it is lost or changed.

    python bench/kill_resume.py --kills 20

One run is left alone. Another is killed (SIGKILL) at random moments, every second time while it is
writing a checkpoint, and started again each time with the same command. Both must end with bitwise
the same losses, validation scores and weights. Exit code 1 when they do not.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fastseg import checkpoint
from fastseg.data import phantom

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = ["data.patch=32,32", "data.samples_per_case=16", "data.batch_size=4", "data.threads=1",
            "model.width=4", "model.blocks=1", "model.modes=6,4", "log_every=1", "save_every=2",
            "lr=0.01", "ema=0.9", "val_every=5"]  # fmt: skip


def main() -> int:
    arguments = parse()
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(arguments.out or scratch)
        data = phantom.write(out / "data", 5, size=(40, 36, 24), seed=arguments.seed)
        command = [sys.executable, "-m", "fastseg", "train", "fno", "--data", str(data), *SETTINGS]
        command += [f"epochs={arguments.epochs}", f"seed={arguments.seed}", *arguments.settings]
        begun = time.monotonic()
        finish(command, out / "straight")
        kills = kill_often(command, out / "killed", arguments, line_count(out / "straight"))
        finish(command, out / "killed")
        summary = compare(out) | kills | {"seconds": round(time.monotonic() - begun, 1)}
        (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(json.dumps(summary, indent=1))
    return 0 if summary["losses_equal"] and summary["weights_equal"] else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="keep the runs and summary.json here")
    parser.add_argument("settings", nargs="*", help="further name=value of the recipe")
    return parser.parse_args()


def finish(command: list[str], out: Path) -> None:
    done = subprocess.run(
        [*command, "--out", str(out)], env=environment(), capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"training failed with {done.returncode}:\n{done.stderr}")


def environment() -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def kill_often(command: list[str], out: Path, arguments, lines: int) -> dict:
    """Each life gets an equal share of the run's `lines` of metrics and dies somewhere in it."""
    rng = random.Random(arguments.seed)
    kills = in_save = 0
    share = lines / (arguments.kills + 1)
    for life in range(arguments.kills):
        process = subprocess.Popen(
            [*command, "--out", str(out)], env=environment(), stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        wait_for_lines(process, out, int(share * (life + rng.random())) + 1)
        time.sleep(rng.uniform(0, 0.02))
        if life % 2:
            wait_for_save(process, out)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        in_save += any((out / "checkpoints").glob("tmp-*"))
        print(f"kill {kills} after {line_count(out)} lines", file=sys.stderr, flush=True)
    return {"kills": kills, "kills_while_saving": in_save}


def wait_for_lines(process: subprocess.Popen, out: Path, wanted: int) -> None:
    while process.poll() is None and line_count(out) < wanted:
        time.sleep(0.001)


def wait_for_save(process: subprocess.Popen, out: Path) -> None:
    while process.poll() is None and not any((out / "checkpoints").glob("tmp-*")):
        pass


def line_count(out: Path) -> int:
    path = out / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def compare(out: Path) -> dict:
    straight, killed = (curve(out / name) for name in ("straight", "killed"))
    ends = [checkpoint.generations(out / n / "checkpoints")[0] for n in ("straight", "killed")]
    sums = [checkpoint.load(path)[0]["sha256"] for path in ends]
    same = [sums[0][file] == sums[1][file] for file in sums[0] if file != "state.json"]
    return {"steps": len(straight), "losses_equal": straight == killed, "weights_equal": all(same)}


def curve(out: Path) -> list[tuple]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    return [(row["step"], row.get("loss"), row.get("val_dice")) for row in lines]


if __name__ == "__main__":
    sys.exit(main())
