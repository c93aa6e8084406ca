"""The module whose CUDA kernels run on the CPU: builds it, and runs tests with it in place of the
installed `fastseg._C`.

By hand: `python tests/host_build.py DIR tests/test_operators.py -k cuda` keeps its build in DIR, so
that the next run compiles only what changed; FASTSEG_HOST_SEED=n draws another order of threads.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("CMakeLists.txt", "csrc")
MODULE = "FASTSEG_TEST_MODULE"  # read by conftest.py


# the tools installed beside this Python come first: a system's cmake may be too old
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "c++"))


def why_not() -> str | None:
    """Why the module cannot be built here; None where it can."""
    if not all((ROOT / name).exists() for name in SOURCES):
        return "no sources beside the tests"
    if sys.platform != "linux" or compiler() is None:
        return "no C++ compiler"
    missing = [tool for tool in ("cmake", "ninja") if shutil.which(tool, path=PATH) is None]
    return f"no {' and no '.join(missing)}" if missing else None


def sanitizer_environment() -> dict[str, str]:
    """What a program without AddressSanitizer needs to load a module that has it."""
    found = subprocess.run(
        [compiler(), "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    )
    # torch and Python leak by design, and torch's libraries repeat global names
    options = "detect_leaks=0:detect_odr_violation=0:handle_abort=0"
    return {"LD_PRELOAD": found.stdout.strip(), "ASAN_OPTIONS": options}


class HostBuild:
    """A build folder with a copy of the sources, so that tests may plant faults in it."""

    def __init__(self, folder: Path, *options: str):
        """options: of cmake, in place of those of the CUDA kernels on the CPU."""
        self.folder, self.sources = folder, folder / "source"
        self.sources.mkdir(parents=True, exist_ok=True)
        for path in (file for name in SOURCES for file in _files(ROOT / name)):
            _copy_if_changed(path, self.sources / path.relative_to(ROOT))
        import pybind11

        _check(
            ["cmake", "-S", self.sources, "-B", folder / "build", "-G", "Ninja",
             *(options or ["-DFASTSEG_CUDA_HOST=ON"]), f"-DCMAKE_CXX_COMPILER={compiler()}",
             f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
        )  # fmt: skip
        self.module = self._built("module")

    def with_fault(self, name: str, file: str, edit: Callable[[str], str]) -> Path:
        """The module built from sources in which `file` is edited."""
        path = self.sources / file
        right = path.read_text()
        wrong = edit(right)
        assert wrong != right, f"the fault {name!r} finds no place in {file}"
        path.write_text(wrong)
        try:
            return self._built(name)
        finally:
            path.write_text(right)

    def _built(self, name: str) -> Path:
        _check(["cmake", "--build", self.folder / "build"])
        (built,) = (self.folder / "build").glob("_C*.so")
        kept = self.folder / name / built.name
        kept.parent.mkdir(exist_ok=True)
        return Path(shutil.copy(built, kept))


def run_tests(module: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """pytest, in a process in which `fastseg._C` is `module`."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", *arguments],
        cwd=ROOT,
        env=os.environ | sanitizer_environment() | {MODULE: str(module)} | environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]


def _copy_if_changed(source: Path, target: Path) -> None:
    if target.exists() and target.read_bytes() == source.read_bytes():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def _check(command: list) -> None:
    # an option that asks for the CUDA kernels asks for them on the CPU
    environment = os.environ | {"PATH": PATH, "FASTSEG_NO_CUDA": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"


if __name__ == "__main__":
    done = run_tests(HostBuild(Path(sys.argv[1]).resolve()).module, *sys.argv[2:])
    print(done.stdout, done.stderr, sep="\n")
    sys.exit(done.returncode)
