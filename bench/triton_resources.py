"""Compiles every Triton kernel that the benchmark's shapes launch, for each architecture without a
device, and prints registers, spilled bytes and shared memory.

    python bench/triton_resources.py [sm_80 sm_90 …]
"""

import itertools
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from fastseg import kernels
from fastseg.ops.impl import triton as adapters
from fastseg.ops.impl.contract import Epilogue, Geometry, Matrix

SHAPES = {  # name: (batch, channels, *sizes), modes
    "conv2d-240": ((8, 16, 240, 240), (20, 10)),
    "conv2d-192": ((32, 32, 192, 192), (32, 16)),
    "conv2d-421": ((20, 32, 421, 421), (24, 12)),
    "conv2d-256": ((8, 64, 256, 256), (64, 32)),
    "conv3d-120": ((1, 24, 78, 120, 120), (20, 28, 14)),
    "fourier-unit-48x32": ((2, 48, 32, 32, 32), (32, 32, 17)),
    "wide": ((1, 1, 1024, 1024), (256, 129)),
    "1-D": ((8, 64, 8192), (32,)),
}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Absent:
    """In the place of Triton's driver: a device of this capability that nothing is launched on."""

    def __init__(self, capability: int):
        self._capability = capability

    def get_current_target(self) -> GPUTarget:
        """Return what to compile for."""
        return GPUTarget("cuda", self._capability, 32)

    def get_current_device(self) -> int:
        """Return a number of its own for every capability: kernels are kept by it."""
        return self._capability

    def get_current_stream(self, device: int) -> int:
        """Return the default stream."""
        return 0


def compiled(shape, modes, dtype: torch.dtype, capability: int) -> list:
    """Compile what a spectral convolution and the second half of a Fourier block launch."""
    found = []
    run = JITFunction.run

    def compile_only(kernel, *args, warmup, **named):
        found.append(run(kernel, *args, warmup=True, **named))

    JITFunction.run = compile_only
    driver.set_active(Absent(capability))
    try:
        spectral, x = adapters.Spectral(kernels), torch.empty(shape, dtype=dtype)
        weight, bias = torch.empty(shape[1], shape[1], *modes, 2), torch.empty(shape[1])
        geometry = Geometry(shape[2:], modes, 1, (1.0, 1.0), True)
        _, kept = spectral.convolve(x, weight, bias, geometry)
        skip = Matrix(torch.empty(shape[1], shape[1]))
        spectral.synthesis_product(kept, bias, geometry, x, skip, Epilogue("gelu"))
    finally:
        JITFunction.run = run
    return found


def resources(kernel) -> str:
    """Read registers, stack (a thread's spills) and shared memory from the binary."""
    tool = next(Path(triton.__file__).parent.glob("backends/nvidia/bin/cuobjdump"))
    with tempfile.NamedTemporaryFile("wb", suffix=".cubin") as binary:
        binary.write(kernel.asm["cubin"])
        binary.flush()
        command = [tool, "--dump-resource-usage", binary.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = (re.search(rf"{name}:(\d+)", said)[1] for name in ("REG", "STACK"))
    shared = kernel.metadata.shared
    return f"{registers:>4} registers {stack:>5} B on the stack {shared:>7} B shared"


def main(targets: list[str]) -> None:
    for target in targets or ["sm_80", "sm_90"]:
        for dtype, (name, (shape, modes)) in itertools.product(DTYPES, SHAPES.items()):
            for kernel in compiled(shape, modes, dtype, int(target.removeprefix("sm_"))):
                kind, warps = str(dtype).removeprefix("torch."), kernel.metadata.num_warps
                print(f"{target} {kind:8} {name:18} {kernel.name:18} {warps} warps "
                      f"{resources(kernel)}")  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
