"""Compile every CUDA source for every architecture; registers, spills and shared memory by kernel.

    python bench/architectures.py [--cuda12 DIR] [--out bench/results/architectures.md]

nvcc serves sm_75 up. For sm_70, which CUDA 13 no longer knows, clang makes PTX with the headers of
CUDA 12 and that toolkit's ptxas assembles it; bench/README.md says how to install both. No GPU is
needed. Exit code: 0 fine, 1 when a kernel spills or a source does not compile, 2 when nothing can
be compiled.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
BY_CLANG, BY_NVCC = (70,), (75, 80, 86, 89, 90)
# as CMakeLists.txt and its release build have them
FLAGS = ["-std=c++17", "-O3", "-DNDEBUG", "-DFASTSEG_CUDA"]
_ENTRY = re.compile(r"Compiling entry function '(\w+)' for '\w+'")
_SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


class Usage(NamedTuple):
    """What ptxas says of a kernel; bytes a thread for spills, bytes a block for shared memory."""

    registers: int = 0
    spill_stores: int = 0
    spill_loads: int = 0
    shared: int = 0

    @property
    def spills(self) -> bool:
        return bool(self.spill_stores or self.spill_loads)


class Failed(Exception):
    """A tool that stopped; the message is what it said."""


def parsed(text: str) -> dict[str, Usage]:
    """Read usage by mangled kernel name from the output of `ptxas -v`."""
    found: dict[str, Usage] = {}
    name = None
    for line in text.splitlines():
        if entry := _ENTRY.search(line):
            name = entry[1]
            found[name] = Usage()
        elif name and (spills := _SPILLS.search(line)):
            stores, loads = map(int, spills.groups())
            found[name] = found[name]._replace(spill_stores=stores, spill_loads=loads)
        elif name and (registers := _REGISTERS.search(line)):
            shared = _SHARED.search(line)
            found[name] = found[name]._replace(
                registers=int(registers[1]), shared=int(shared[1]) if shared else 0
            )
            name = None  # functions that are not inlined follow, with lines of their own
    return found


def _run(command: list) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise Failed((done.stderr or done.stdout).strip())
    return done.stdout + done.stderr


class Nvcc:
    def __init__(self, nvcc: str):
        self.nvcc = nvcc
        self.version = _run([nvcc, "--version"]).strip().splitlines()[-1]

    def usage(self, source: Path, architecture: int, folder: Path) -> dict[str, Usage]:
        out = folder / f"{source.stem}.{architecture}.cubin"
        command = [self.nvcc, *FLAGS, "--expt-relaxed-constexpr", f"-arch=sm_{architecture}"]
        return parsed(_run([*command, "-Xptxas", "-v", "-cubin", source, "-o", out]))


class Clang:
    """clang to PTX, then ptxas.

    `toolkit` holds CUDA 12 as one folder or as the parts of the package index, nvidia/<part>/{bin,
    include,nvvm}; clang wants one folder, so links are laid in `folder`.
    """

    def __init__(self, clang: str, toolkit: Path, folder: Path):
        self.clang, self.toolkit = clang, folder / "cuda"
        parts = sorted(path.parent for path in toolkit.rglob("include") if path.is_dir())
        for part in [p for p in parts if "include" not in p.parts]:
            self._link(part, self.toolkit)
        self.ptxas = self.toolkit / "bin" / "ptxas"
        if not (self.ptxas.exists() and (self.toolkit / "include" / "cuda.h").exists()):
            raise Failed(f"{toolkit}: holds no bin/ptxas and include/cuda.h of CUDA 12")
        versions = (_run([clang, "--version"]), _run([self.ptxas, "--version"]))
        first, last = versions[0].splitlines()[0], versions[1].strip().splitlines()[-1]
        self.version = f"{first}; ptxas {last}"

    @staticmethod
    def _link(part: Path, into: Path) -> None:
        for kind in ("bin", "include", "nvvm"):
            for path in (part / kind).glob("*"):
                target = into / kind / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                if not target.exists():
                    target.symlink_to(path.resolve())

    def usage(self, source: Path, architecture: int, folder: Path) -> dict[str, Usage]:
        ptx = folder / f"{source.stem}.{architecture}.ptx"
        target = [f"--cuda-gpu-arch=sm_{architecture}", f"--cuda-path={self.toolkit}"]
        quiet = ["-x", "cuda", "--cuda-device-only", "-S", "-Wno-unknown-cuda-version"]
        _run([self.clang, *FLAGS, *target, *quiet, source, "-o", ptx])
        out = ptx.with_suffix(".cubin")
        return parsed(_run([self.ptxas, f"-arch=sm_{architecture}", "-v", ptx, "-o", out]))


def readable(usages: dict[str, Usage]) -> dict[str, Usage]:
    """Demangle names without namespaces and arguments: mangled ones differ between compilers."""
    if not usages or not shutil.which("c++filt"):
        return usages
    lines = _run(["c++filt", *usages]).splitlines()
    return {short(line): usage for line, usage in zip(lines, usages.values(), strict=True)}


def short(name: str) -> str:
    name = re.sub(r"\(((?!anonymous)[\w:]+)\)(\d)", r"\2", name)  # (int)4 → 4
    for words in ("void ", "(anonymous namespace)::", "fastseg::", "cuda::"):
        name = name.replace(words, "")
    depth = 0
    for i, letter in enumerate(name):  # up to the arguments, which follow the template's
        depth += {"<": 1, ">": -1}.get(letter, 0)
        if letter == "(" and depth == 0:
            return name[:i]
    return name


def table(found: dict[int, dict[str, dict[str, Usage]]]) -> str:
    """Markdown: a row a kernel, a column an architecture; `found` is architecture → source → …"""
    architectures = sorted(found)
    rows = dict.fromkeys((s, k) for a in architectures for s, ks in found[a].items() for k in ks)
    head = ["source", "kernel", *(f"sm_{a}" for a in architectures), "static shared, B"]
    lines = [head, ["---"] * len(head)]
    for source, kernel in rows:
        usages = [found[a].get(source, {}).get(kernel) for a in architectures]
        shared = max(u.shared for u in usages if u)
        lines.append([source, f"`{kernel}`", *map(_cell, usages), str(shared)])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _cell(usage: Usage | None) -> str:
    if usage is None:
        return "–"
    if usage.spills:
        return f"{usage.registers}, **spills** {usage.spill_stores} + {usage.spill_loads} B"
    return str(usage.registers)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cuda-sources", type=Path, default=ROOT / "csrc" / "cuda", metavar="DIR")
    parser.add_argument("--architectures", type=int, nargs="+", metavar="SM",
                        default=[*BY_CLANG, *BY_NVCC], help="(%(default)s)")  # fmt: skip
    parser.add_argument("--nvcc", default=os.environ.get("CUDACXX") or shutil.which("nvcc"))
    found = shutil.which("clang++-19") or shutil.which("clang++")
    parser.add_argument("--clang", default=os.environ.get("CLANG") or found)
    parser.add_argument("--cuda12", type=Path, default=os.environ.get("FASTSEG_CUDA12"),
                        metavar="DIR", help="CUDA 12: headers, libdevice and ptxas")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=2, help="compilations at once (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table here too")
    return parser.parse_args()


def compilers(arguments: argparse.Namespace, folder: Path) -> tuple[dict, list[str]]:
    """The compiler of every architecture that has one, and what is left out and why."""
    chosen: dict[int, Nvcc | Clang] = {}
    old = [a for a in arguments.architectures if a < BY_NVCC[0]]
    new = [a for a in arguments.architectures if a not in old]
    if new and arguments.nvcc:
        chosen |= dict.fromkeys(new, Nvcc(arguments.nvcc))
    if old and arguments.clang and arguments.cuda12:
        chosen |= dict.fromkeys(old, Clang(arguments.clang, arguments.cuda12, folder))
    missing = [f"sm_{a}: no nvcc (--nvcc)" for a in new if a not in chosen]
    missing += [f"sm_{a}: needs --clang and --cuda12" for a in old if a not in chosen]
    return chosen, missing


def main() -> int:
    arguments = _arguments()
    sources = sorted(arguments.cuda_sources.rglob("*.cu"))
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(arguments.jobs) as pool:
        folder = Path(name)
        try:
            chosen, missing = compilers(arguments, folder)
        except (Failed, OSError) as error:
            print(f"architectures: {error}", file=sys.stderr)
            return 2
        if not chosen or not sources:
            print(f"architectures: nothing to compile: {len(sources)} sources, "
                  + "; ".join(missing), file=sys.stderr)  # fmt: skip
            return 2
        jobs = {(a, s): pool.submit(chosen[a].usage, s, a, folder) for s in sources for a in chosen}
        found, wrong = {a: {} for a in chosen}, []
        for (architecture, source), job in jobs.items():
            try:
                found[architecture][source.name] = readable(job.result())
            except Failed as error:
                wrong.append(f"{source.name} for sm_{architecture} does not compile:\n{error}")
    wrong += [f"{source}: `{kernel}` spills on sm_{a}" for a, source, kernel in spilling(found)]
    text = _report(chosen, missing, found)
    print("\n\n".join([text, *wrong]))
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf8")
    return 1 if wrong else 0


def spilling(found: dict) -> list[tuple[int, str, str]]:
    """Return architecture, source and name of every kernel that spills."""
    kernels = ((a, s, k) for a in found for s, ks in found[a].items() for k in ks)
    return [(a, s, k) for a, s, k in kernels if found[a][s][k].spills]


def _report(chosen: dict, missing: list[str], found: dict) -> str:
    tools = dict.fromkeys(compiler.version for compiler in chosen.values())
    counts = [sum(len(ks) for ks in by_source.values()) for by_source in found.values()]
    said = (
        f"{max(counts)} kernels for {len(chosen)} architectures; a cell holds registers a thread. "
        "Dynamic shared memory is set at launch and is not in the table."
    )
    return "\n\n".join(["## Kernels by architecture", *tools, *missing, said, table(found)])


if __name__ == "__main__":
    raise SystemExit(main())
