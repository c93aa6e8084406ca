"""The C++ kernels built with AddressSanitizer and UndefinedBehaviorSanitizer, under the tests."""

import os
import re
from collections import Counter
from pathlib import Path

import host_build
import numpy as np

FILES = ["test_operators.py", "test_backends.py", "test_spectral.py", "test_gaussian.py"]
BUILD = ["-DFASTSEG_CPU_ISAS=avx2", "-DCMAKE_BUILD_TYPE=None",
         "-DCMAKE_CXX_FLAGS=-g1 -fsanitize=address,undefined -fno-sanitize-recover=undefined",
         "-DCMAKE_MODULE_LINKER_FLAGS=-fsanitize=address,undefined"]  # fmt: skip
_OPTIONS = "print_stacktrace=1"


class Part:
    """A build in FASTSEG_SANITIZED_BUILD, if there is such a variable, which keeps it."""

    def __init__(self, scratch: Path):
        kept = os.environ.get("FASTSEG_SANITIZED_BUILD")
        folder = Path(kept).resolve() if kept else scratch / "build"
        why_not = host_build.why_not()
        assert not why_not, why_not
        self.module = host_build.HostBuild(folder, *BUILD).module

    def round(self, rng: np.random.Generator, folder: Path) -> Counter:
        file = FILES[rng.integers(len(FILES))]
        done = host_build.run_tests(
            self.module, "-s", f"tests/{file}", "-k", "not cuda",
            FASTSEG_TEST_FEW="1", UBSAN_OPTIONS=_OPTIONS,
        )  # fmt: skip
        (folder / "output.txt").write_text(done.stdout + done.stderr)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        passed = re.search(r"(\d+) passed", done.stdout)
        return Counter({"tests": int(passed[1])})
