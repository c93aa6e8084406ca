"""The scripts of a day with a GPU, tried on the CPU; and that packages that are not on every
machine with a GPU are not needed to collect the tests.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastseg
from fastseg.bench import cases, options

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / "bench"
CPU_ONLY = pytest.mark.skipif(not fastseg.backends()["cpu"], reason="fastseg._C is not built")
pytestmark = pytest.mark.skipif(not BENCH.is_dir(), reason="no sources beside the tests")

# in a folder of PYTHONPATH: every process then finds these packages missing
BLOCKED = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("nibabel", "monai", "kornia", "neuralop", "nvidia", "deflate",
                                      "isal", "jsonargparse", "lightning_fabric", "rich", "scipy",
                                      "onnx", "onnxscript", "onnxruntime", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
"""


def day(script: str, out: Path, *stages: str, packages: Path | None = None):
    """(record, page) of a day of these stages on the CPU."""
    paths = [str(packages)] if packages else []
    paths += [str(Path(fastseg.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {"OUT": str(out), "DEVICE": "cpu", "PYTHON": sys.executable, "OMP_NUM_THREADS": "1",
                 "PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": ""}  # fmt: skip
    done = subprocess.run(
        ["bash", str(BENCH / script), "--only", *stages], env=os.environ | variables,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    page = (out / "day.md").read_text()
    assert done.returncode == 0, done.stdout + done.stderr + page
    return json.loads((out / "day.json").read_text()), page


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import gpu_day
    import gpu_day_pages
    import gpu_day_stages

    return gpu_day, gpu_day_stages, gpu_day_pages


@CPU_ONLY
def test_a_day_of_operators_needs_few_packages(tmp_path):
    (tmp_path / "missing").mkdir()
    (tmp_path / "missing" / "sitecustomize.py").write_text(BLOCKED)
    names = "smoke", "float32", "tests"
    record, page = day("gpu_day.sh", tmp_path / "out", *names, packages=tmp_path / "missing")
    stages = record["stages"]
    assert list(stages) == list(names)
    assert all(stage["status"] == "ok" for stage in stages.values())
    assert stages["smoke"]["facts"]["spectral_conv, bfloat16"] == "ok"
    (result,) = stages["float32"]["facts"]["cases"]
    assert "forward" in result["providers"]["fastseg"]
    assert (tmp_path / "out" / "stages" / "float32.png").exists()
    assert "skipped" in stages["tests"]["last"][-1]
    assert "| filter-32-quick | forward | **fastseg** (cpu) |" in page


@CPU_ONLY
@pytest.mark.parametrize(
    ("probe", "fact"),
    [("machine", "sgemm_flops_per_s"), ("calls", "anchor_gate"), ("kernels", "calls")],
)
def test_probes_find_something(scripts, seeded, tmp_path, probe, fact):
    import gpu_day_probe

    getattr(gpu_day_probe, probe)("cpu", tmp_path / "found.json")
    assert json.loads((tmp_path / "found.json").read_text())[fact]


def test_a_day_of_training_trains(tmp_path):
    record, page = day("gpu_day_training.sh", tmp_path / "out", "phantoms", "fno")
    assert record["stages"]["fno"]["facts"]["steps"][-1]["loss"] > 0
    assert "| fno | ok |" in page


@pytest.mark.parametrize(("table", "most_s"), [("operators", 590), ("training", 1500)])
def test_the_stages_of_a_gpu_fit_into_their_time_and_ask_for_what_there_is(scripts, table, most_s):
    gpu_day, found, _ = scripts
    groups = found.TABLES[table]("cuda", "wheels")
    assert gpu_day.TOTAL_S[table] == most_s
    assert sum(max(stage.seconds for stage in group) for group in groups) <= most_s
    stages = [stage for group in groups for stage in group]
    assert len({stage.name for stage in stages}) == len(stages)
    for stage in stages:
        if stage.words[:3] == ["-m", "fastseg", "bench"]:
            asked = options.parse(stage.words[3:])
            assert asked.gpu
            assert cases.chosen(asked.cases, None)[0].id == asked.cases[0]


def test_a_stage_that_hangs_or_fails_leaves_what_it_found(scripts, tmp_path, capsys):
    gpu_day, found, _ = scripts
    hangs = "import time; open('{out}/hangs.json', 'w').write('{\"a\": 1}'); time.sleep(60)"
    group = [found.Stage("hangs", 2, ["-c", hangs]), found.Stage("fails", 2, ["-c", "1 / 0"])]
    day = gpu_day.Day("operators", "cpu", tmp_path)
    gpu_day.run(group, day, 0)
    day.total_s = 0
    gpu_day.run([found.Stage("late", 2, ["-c", "pass"])], day, 0)
    stages = json.loads((tmp_path / "day.json").read_text())["stages"]
    assert {name: stage["status"] for name, stage in stages.items()} == {
        "hangs": "cut after 2 s", "fails": "failed: exit code 1",
        "late": "left out: the time was over",
    }  # fmt: skip
    assert stages["hangs"]["facts"] == {"a": 1}
    assert stages["fails"]["last"][-1] == "ZeroDivisionError: division by zero"
    assert "| a | 1 |" in (tmp_path / "day.md").read_text()
    assert "fails: failed" in capsys.readouterr().out


def test_a_profile_is_read_kernel_by_kernel(scripts, tmp_path):
    _, _, pages = scripts
    path = tmp_path / "ncu.csv"
    path.write_text(
        '==PROF== Connected\n"ID","Kernel Name","gpu__time_duration.sum","sm__other"\n'
        '"","","us","%"\n"0","analyse_planes<float>(x)","12.5","3"\n'
    )
    assert pages.profiled(path) == {
        "0 analyse_planes<float>(x)": {"gpu__time_duration.sum": "12.5 us"}
    }
    path.write_text("==ERROR== no permission\n")
    assert pages.profiled(path) == {}
