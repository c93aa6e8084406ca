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
from typing import NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
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
POINTERS = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}


class Launch(NamedTuple):
    """A kernel and all that its compilation depends on."""

    kernel: JITFunction
    signature: dict
    constants: dict
    divisible: tuple  # positions of pointers and integers that are multiples of 16
    options: dict

    def compile(self, capability: int):
        attributes = {(i,): [["tt.divisibility", 16]] for i in self.divisible}
        source = ASTSource(self.kernel, self.signature, self.constants, attributes)
        target = GPUTarget("cuda", capability, 32)
        return triton.compile(source, target=target, options=self.options)


def recorded(kernel: JITFunction, *args, grid, warmup, **named) -> Launch:
    """Record what `kernel[grid](*args, **named)` would compile."""
    options = {key: named.pop(key) for key in ("num_warps", "num_stages") if key in named}
    values = dict(zip(kernel.arg_names, args, strict=False)) | named
    signature, constants, divisible = {}, {}, []
    for position, name in enumerate(kernel.arg_names):
        value = values[name]
        if isinstance(value, torch.Tensor):
            signature[name] = POINTERS[value.dtype]
            divisible.append(position)
        elif value is None or name.isupper() or value == 1:
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32" if value < 2**31 else "i64"
            divisible += [position] if value % 16 == 0 else []
    return Launch(kernel, signature, constants, tuple(divisible), options)


def launches(shape, modes, dtype: torch.dtype) -> list[Launch]:
    """Record the launches of a spectral convolution and of the second half of a Fourier block."""
    found = []
    run, JITFunction.run = JITFunction.run, lambda *a, **k: found.append(recorded(*a, **k))
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


def resources(compiled) -> str:
    """Read registers, stack (a thread's spills) and shared memory from the binary."""
    tool = next(Path(triton.__file__).parent.glob("backends/nvidia/bin/cuobjdump"))
    with tempfile.NamedTemporaryFile("wb", suffix=".cubin") as binary:
        binary.write(compiled.asm["cubin"])
        binary.flush()
        command = [tool, "--dump-resource-usage", binary.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = (re.search(rf"{name}:(\d+)", said)[1] for name in ("REG", "STACK"))
    shared = compiled.metadata.shared
    return f"{registers:>4} registers {stack:>5} B on the stack {shared:>7} B shared"


def main(targets: list[str]) -> None:
    for target in targets or ["sm_80", "sm_90"]:
        for dtype, (name, (shape, modes)) in itertools.product(POINTERS, SHAPES.items()):
            for launch in launches(shape, modes, dtype):
                took = resources(launch.compile(int(target.removeprefix("sm_"))))
                kind, warps = str(dtype).removeprefix("torch."), launch.options["num_warps"]
                print(
                    f"{target} {kind:8} {name:18} {launch.kernel.__name__:18} {warps} warps {took}"
                )


if __name__ == "__main__":
    main(sys.argv[1:])
