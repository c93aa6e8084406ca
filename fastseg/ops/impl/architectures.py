"""Which CUDA devices the kernels of a build serve."""

import re

import torch

Capability = tuple[int, int]


def served_by(built: str, capability: Capability) -> str | None:
    """Name the code that a device of `capability` runs, None where it runs none, of kernels that
    were built for `built`: architectures as CMake names them ("80-real 90").

    >>> served_by("80-real 90", (8, 6))
    'machine code for sm_80'
    """
    least, compiled = _code(built, capability)
    name = f"sm_{least[0]}{least[1]}"
    if not least[0]:
        return None
    return f"PTX for {name}, which its driver compiles" if compiled else f"machine code for {name}"


def code_for(built: str, capability: Capability) -> Capability:
    """Return the capability that the code of `served_by` was compiled for, (0, 0) for none.

    >>> code_for("75", (8, 0))
    (7, 5)
    """
    return _code(built, capability)[0]


def _code(built: str, capability: Capability) -> tuple[Capability, bool]:
    """What the code was compiled for, and whether it is PTX.

    Machine code serves the devices of its own major version from its minor version on; PTX, which
    "90" and "90-virtual" bring, serves every later device, whose driver compiles it.
    """
    found = [m.groups() for m in re.finditer(r"(\d+)([af]?)(-real|-virtual)?(?=[ ;]|$)", built)]
    codes = [(divmod(int(number), 10), kind, part) for number, kind, part in found]
    for least, kind, part in sorted(codes, reverse=True):
        fits = capability == least or (kind != "a" and _is_minor_of(capability, least))
        if part != "-virtual" and fits:
            return least, False
    for least, kind, part in sorted(codes, reverse=True):
        if part != "-real" and not kind and capability >= least:
            return least, True
    return (0, 0), False


def _is_minor_of(capability: Capability, least: Capability) -> bool:
    return capability[0] == least[0] and capability[1] >= least[1]


def unfit(backend: str, built: str, device: torch.device) -> str | None:
    """Say why a GPU backend's kernels cannot run on a CUDA device; None where they can."""
    capability = torch.cuda.get_device_capability(device)
    has = f"{device} has compute capability {capability[0]}.{capability[1]}"
    if backend == "triton":
        return None if capability >= (8, 0) else f"it needs compute capability 8.0, {has}"
    if served_by(built, capability):
        return None
    remedy = f"to build for it: CUDAARCHS={capability[0]}{capability[1]}-real"
    if capability < (7, 5):  # what CUDA 13 has dropped
        remedy = f"{remedy} with CUDA 12" if capability >= (7, 0) else "they need 7.0 or newer"
    return f"its kernels were built for {built or 'no architecture'}, {has} ({remedy})"


# as torch.compiler.assume_constant_result marks it, which would load the compiler
unfit._dynamo_marked_constant = True
