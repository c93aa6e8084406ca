"""Count the wide accesses to device memory in the PTX of every CUDA kernel.

    python bench/accesses.py [--nvcc NVCC] [SOURCE ...]

A store that the compiler splits up moves a number at a time and touches every sector four times.
ptxas neither splits nor joins accesses, so PTX tells what the machine code does. Exit code: 0 fine,
1 when a kernel that must have wide stores has none, 2 when nothing can be compiled.
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from architectures import FLAGS, ROOT, Failed, output_of, readable

SOURCES = ROOT / "csrc" / "cuda"
# kernels that write rows in packs of four numbers: 16 bytes, 8 of a 16-bit type
STORES_WIDE = {
    "gate.cu": ("gate_points", "gate_points_backward"),
    "pointwise.cu": ("pointwise_tile", "affine_relu_rows"),
    "transform_synthesis.cu": ("synthesise_planes", "synthesise_columns"),
}
_ENTRY = re.compile(r"^(?:\.\w+ )*\.entry (\w+)\(|^\}", re.M)
_ACCESS = re.compile(r"\b(ld|st)\.global[\w.:]*?(?:\.v([24]))?\.[bfsu](8|16|32|64)\b")


class Accesses(NamedTuple):
    """Instructions that read or write device memory, by how many bytes each of them moves."""

    loads: dict[int, int]
    stores: dict[int, int]


def parsed(ptx: str) -> dict[str, Accesses]:
    """Count accesses by mangled kernel name."""
    found, name, begin = {}, None, 0
    for mark in _ENTRY.finditer(ptx):
        if name:
            found[name] = _counted(ptx[begin : mark.start()])
        name, begin = mark[1], mark.end()
    return found


def _counted(body: str) -> Accesses:
    counts = Accesses({}, {})
    for kind, pack, bits in _ACCESS.findall(body):
        by_bytes = counts.loads if kind == "ld" else counts.stores
        size = int(bits) // 8 * int(pack or 1)
        by_bytes[size] = by_bytes.get(size, 0) + 1
    return counts


def of_source(nvcc: str, source: Path, architecture: int = 80) -> dict[str, Accesses]:
    """Compile a source to PTX; accesses by the kernel's readable name."""
    with tempfile.TemporaryDirectory() as folder:
        ptx = Path(folder) / f"{source.stem}.ptx"
        target = ["--expt-relaxed-constexpr", f"-arch=compute_{architecture}", "-ptx"]
        output_of([nvcc, *FLAGS, *target, source, "-o", ptx])
        return readable(parsed(ptx.read_text()))


def split(source: str, found: dict[str, Accesses]) -> list[str]:
    """Return the kernels of a source that must store packs of four and do not."""
    wanted = STORES_WIDE.get(source, ())
    named = [k for k in found if k.partition("<")[0] in wanted and "<false" not in k]
    return [k for k in named if not any(size >= 8 for size in found[k].stores)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("sources", nargs="*", type=Path, default=sorted(SOURCES.rglob("*.cu")))
    parser.add_argument("--nvcc", default=os.environ.get("CUDACXX") or shutil.which("nvcc"))
    arguments = parser.parse_args()
    if not arguments.nvcc:
        print("accesses: no nvcc (--nvcc)", file=sys.stderr)
        return 2
    wrong = []
    for source in arguments.sources:
        try:
            found = of_source(arguments.nvcc, source)
        except Failed as error:
            print(f"accesses: {source.name} does not compile:\n{error}", file=sys.stderr)
            return 2
        for kernel, (loads, stores) in found.items():
            print(f"{source.name} {kernel}: loads {_by_bytes(loads)}; stores {_by_bytes(stores)}")
        wrong += [
            f"{source.name}: {kernel} has no wide store" for kernel in split(source.name, found)
        ]
    print(*wrong, sep="\n")
    return 1 if wrong else 0


def _by_bytes(counts: dict[int, int]) -> str:
    return ", ".join(f"{n} × {size} B" for size, n in sorted(counts.items())) or "none"


if __name__ == "__main__":
    raise SystemExit(main())
