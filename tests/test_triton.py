"""The Triton kernels without a GPU: computed by the interpreter, and compiled ahead of time."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)
TESTS = Path(__file__).parent
INTERPRETED = sorted(map(str, TESTS.glob("interpreted_*.py")))


def test_every_kernel_in_the_interpreter():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *INTERPRETED],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])
    assert passed > 100, done.stdout


COMPILE = """
import torch, triton_resources as script
for capability, dtype in ((80, torch.float32), (90, torch.bfloat16)):
    for kernel in script.compiled(*script.SHAPES["conv2d-192"], dtype, capability):
        print(kernel.name, script.resources(kernel))
"""


def test_kernels_compile_and_fit_without_a_gpu(tmp_path):
    bench = str(TESTS.parent / "bench")
    path = os.pathsep.join([bench, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", COMPILE],
        env=os.environ | {"PYTHONPATH": path, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = re.findall(r"(\w+) +\d+ registers +(\d+) B on the stack +(\d+) B shared", done.stdout)
    names = {name for name, *_ in found}
    assert names == {"_analyse_plane", "_mix", "_synthesise_plane", "_rotate", "_product"}
    for name, stack, shared in found:
        assert int(stack) == 0, f"{name} spills"
        assert int(shared) <= 99 << 10, name
