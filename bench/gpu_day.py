"""A day with a GPU: every stage of a table, one after the other, each with its time.

    bench/gpu_day.sh                 # operators, under ten minutes
    bench/gpu_day_training.sh        # systems
    DEVICE=cpu bench/gpu_day.sh      # the same stages, made tiny, on the CPU

Variables: OUT, the folder of what is found (gpu-day); DEVICE (cuda); WHEELS, a folder of wheels to
install first; FASTSEG_COMMIT, what is measured, where there is no repository. A stage may fail or
run out of time, and what it has found by then is in OUT/day.json and OUT/day.md at once, both
written whole. The most valuable stages come first, so that a cut costs the least.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

import gpu_day_pages as pages
from gpu_day_stages import TABLES, Stage

from fastseg.host.environment import commit
from fastseg.host.files import write_json, write_text

ROOT = Path(__file__).resolve().parents[1]
TOTAL_S = {"operators": 590, "training": 1500}
_LOOK_S, _PATIENCE_S = 0.25, 5.0


class Day:
    """What has been found so far, on disk after every change."""

    def __init__(self, table: str, device: str, out: Path):
        self.out, self.device, self.begin = out, device, time.monotonic()
        self.total_s = TOTAL_S[table]
        self.files = out / "stages"  # of each stage: facts, log, pictures
        self.files.mkdir(parents=True, exist_ok=True)
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.record = {"table": table, "device": device, "date": now, "commit": commit(12),
                       "stages": {}}  # fmt: skip

    def elapsed(self) -> float:
        return time.monotonic() - self.begin

    def limit(self, stage: Stage, planned_end: float) -> float:
        """Seconds that a stage may take: its own, more where those before it left some."""
        own = max(stage.seconds + stage.grace, planned_end - self.elapsed())
        return min(own, self.total_s - self.elapsed())

    def note(self, name: str, **found) -> None:
        """Add to what is known of a stage, and write everything."""
        stage = self.record["stages"].setdefault(name, {})
        stage.update(found)
        facts = self.files / f"{name}.json"
        if facts.exists():
            with suppress(ValueError):  # it is being written
                stage["facts"] = json.loads(facts.read_text("utf8"))
        if (profile := self.files / f"{name}.csv").exists():
            with suppress(Exception):  # it may be half written, and no table is worth the day
                stage["kernels"] = pages.profiled(profile)
        self.record["seconds"] = round(self.elapsed(), 1)
        write_json(self.out / "day.json", self.record)
        with suppress(Exception):
            write_text(self.out / "day.md", pages.page(self.record) + "\n")


class Running:
    """A stage that has been started; what it writes is noted as it comes."""

    def __init__(self, stage: Stage, day: Day, limit_s: float):
        tool = stage.tool.split() if day.device == "cuda" else []
        words = [*tool, sys.executable, *stage.words]
        words = [w.replace("{out}", str(day.files)).replace("{root}", str(ROOT)) for w in words]
        self.stage, self._day, self._limit_s, self._seen = stage, day, limit_s, 0
        self._begin, self._facts = day.elapsed(), day.files / f"{stage.name}.json"
        for old in (self._facts, self._facts.with_suffix(".csv")):
            old.unlink(missing_ok=True)
        self._log = day.files / f"{stage.name}.log"
        day.note(stage.name, status="running", command=words, limit_s=round(limit_s))
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                words, cwd=day.files, env=_environment(stage), stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    def ended(self) -> bool:
        """Look at it; True where it is over, or cut because its time is."""
        if self._facts.exists() and self._facts.stat().st_mtime_ns != self._seen:
            self._seen = self._facts.stat().st_mtime_ns
            self._day.note(self.stage.name)
        if self._process.poll() is not None:
            code = self._process.returncode
            self._close("ok" if code == 0 else f"failed: exit code {code}")
        elif self._day.elapsed() - self._begin > self._limit_s:
            self.cut(f"cut after {self._limit_s:.0f} s")
        else:
            return False
        return True

    def cut(self, why: str) -> None:
        """End it, with all that it has started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                os.killpg(self._process.pid, number)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(_PATIENCE_S)
        self._close(why)

    def _close(self, status: str) -> None:
        took, lines = self._day.elapsed() - self._begin, self._log.read_text("utf8", "replace")
        self._day.note(self.stage.name, status=status, seconds=round(took, 1),
                       last=lines.splitlines()[-12:])  # fmt: skip
        print(f"{self._day.elapsed():5.0f} s  {self.stage.name}: {status}", flush=True)


def start(stage: Stage, day: Day, planned_end: float) -> list[Running]:
    """Start a stage, unless its tool or its time is missing."""
    tool, limit = stage.tool.partition(" ")[0], day.limit(stage, planned_end)
    if day.device == "cuda" and tool and not shutil.which(tool):
        day.note(stage.name, status=f"left out: {tool} is not on the path")
    elif limit < min(stage.seconds, _PATIENCE_S):
        day.note(stage.name, status="left out: the time was over")
    else:
        return [Running(stage, day, limit)]
    return []


def run(group: list[Stage], day: Day, planned_end: float) -> None:
    """Run stages beside one another, until the last one has ended."""
    running = []
    try:
        for stage in group:
            running += start(stage, day, planned_end)
        while running := [one for one in running if not one.ended()]:
            time.sleep(_LOOK_S)
    finally:
        for one in running:
            one.cut("cut from outside")


def _environment(stage: Stage) -> dict[str, str]:
    always = {"PYTHONUNBUFFERED": "1", "PIP_BREAK_SYSTEM_PACKAGES": "1"}
    return os.environ | always | stage.environment


def main() -> int:
    """Run the stages of a table; 0 where all of them went well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="these stages (all)")
    given = parser.parse_args()
    device, out = os.environ.get("DEVICE", "cuda"), Path(os.environ.get("OUT", "gpu-day"))
    wheels = os.environ.get("WHEELS", "") and str(Path(os.environ["WHEELS"]).resolve())
    # a cut from outside ends the stage that is running, too
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    day = Day(given.table, device, out.resolve())
    planned_end = 0
    for group in TABLES[given.table](device, wheels):
        chosen = [stage for stage in group if given.only is None or stage.name in given.only]
        planned_end += max(stage.seconds for stage in group)
        run(chosen, day, planned_end)
    print(f"{day.out / 'day.md'} has what was found")
    return 0 if all(s["status"] == "ok" for s in day.record["stages"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
