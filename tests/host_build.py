"""The module whose CUDA kernels run on the CPU: builds it, and runs tests with it in place of the
installed `fastseg._C`.

By hand: `python tests/host_build.py DIR tests/test_operators.py -k cuda` keeps its build in DIR, so
that the next run compiles only what changed; FASTSEG_HOST_SEED=n draws another order of threads.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("CMakeLists.txt", "csrc")
MODULE = "FASTSEG_TEST_MODULE"  # read by conftest.py
FAULT = "FASTSEG_HOST_FAULT"  # read by a statement that can be left out


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
    """A build folder with a copy of the sources, in which faults may be planted."""

    def __init__(
        self, folder: Path, *options: str, faults: Mapping[str, tuple[str, str]] | None = None
    ):
        """options: of cmake, in place of those of the CUDA kernels on the CPU. faults: by name a
        file and a pattern of one of its statements, which a process with `FAULT` of that name
        leaves out; one build serves all.
        """
        self.folder, self.sources = folder, folder / "source"
        self.sources.mkdir(parents=True, exist_ok=True)
        given = {file: file.read_bytes() for name in SOURCES for file in _files(ROOT / name)}
        for name, (file, statement) in (faults or {}).items():
            given[ROOT / file] = _with_fault(given[ROOT / file], name, statement)
        for path, text in given.items():
            _write_if_changed(self.sources / path.relative_to(ROOT), text)
        import pybind11

        _check(
            ["cmake", "-S", self.sources, "-B", folder / "build", "-G", "Ninja",
             *(options or ["-DFASTSEG_CUDA_HOST=ON"]), f"-DCMAKE_CXX_COMPILER={compiler()}",
             f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
        )  # fmt: skip
        _check(["cmake", "--build", folder / "build"])
        (self.module,) = (folder / "build").glob("_C*.so")


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


def _with_fault(text: bytes, name: str, statement: str) -> bytes:
    asked = f'std::getenv("{FAULT}")'
    planted = f'{asked} && std::string({asked}) == "{name}"'
    found = re.search(statement, text.decode())
    assert found, f"the fault {name!r} finds no place"
    begin, end = found.span()
    left_out = f"if (static const bool fault = {planted}; !fault) {{ {found[0]} }}"
    return (text.decode()[:begin] + left_out + text.decode()[end:]).encode()


def _write_if_changed(path: Path, text: bytes) -> None:
    if path.exists() and path.read_bytes() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text)


def _check(command: list) -> None:
    # an option that asks for the CUDA kernels asks for them on the CPU
    environment = os.environ | {"PATH": PATH, "FASTSEG_NO_CUDA": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"


if __name__ == "__main__":
    done = run_tests(HostBuild(Path(sys.argv[1]).resolve()).module, *sys.argv[2:])
    print(done.stdout, done.stderr, sep="\n")
    sys.exit(done.returncode)
