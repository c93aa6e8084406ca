"""`fastseg doctor`: what was built, what is live on this machine and why the rest is not, and
combinations known to go wrong."""

import platform
import sys

import fastseg
import fastseg_mri
from fastseg.host import environment

_FEATURES = (
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512dq",
    "avx512vl",
    "avx512bw",
    "avx512_bf16",
    "amx_tile",
    "asimd",
    "sve",
)


def _cpu_features() -> str:
    features = environment.cpu_features()
    return " ".join(name for name in _FEATURES if name in features) or "none known"


def _extension() -> list[tuple[str, str]]:
    from fastseg.ops import impl

    if impl._C is None:
        return [("extension", impl._C_MISSING)]
    c = impl._C
    return [
        (
            "extension",
            f"fastseg._C, {c.compiler}, CUDA architectures: {c.cuda_architectures or 'none'}",
        ),
        (
            "CPU kernels",
            f"{c.cpu_isa()} chosen of {c.cpu_isas_built()} (FASTSEG_CPU_ISA forces one)",
        ),
        ("CPU features", _cpu_features()),
        ("loops run on", "torch's OpenMP threads" if impl.OPENMP else "a pool of their own"),
    ]


def _torch() -> list[tuple[str, str]]:
    import torch

    rows = [("torch", f"{torch.__version__}, {torch.get_num_threads()} threads")]
    if not torch.cuda.is_available():
        built = torch.version.cuda
        return [
            *rows,
            (
                "CUDA",
                f"no device (torch built for CUDA {built})"
                if built
                else "this torch is a CPU build",
            ),
        ]
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        name, served = torch.cuda.get_device_name(index), kernels_for((major, minor))
        rows.append((f"cuda:{index}", f"{name}, sm_{major}{minor}, CUDA {torch.version.cuda}"))
        rows.append(("  served by", served))
        rows.append(("  instead of an FFT", f"up to {bounds_for(index)}"))
    return rows


def kernels_for(capability: tuple[int, int]) -> str:
    """List what computes our operators on a device of this capability, the first choice first."""
    from fastseg.ops import impl
    from fastseg.ops.impl import architectures

    built = getattr(impl._C, "cuda_architectures", "")
    code = architectures.served_by(built, capability)
    cuda = f"CUDA kernels ({code})" if code else f"no CUDA kernels (built for {built or 'none'})"
    triton = "Triton kernels" if capability >= (8, 0) else "no Triton kernels (sm_80 and newer)"
    return f"{cuda}; {triton}; torch.matmul"


def bounds_for(index: int) -> str:
    """Say up to how much work "auto" takes kernels on a CUDA device, and how that is known."""
    from fastseg.ops.impl import bounds

    found = bounds.TABLE[bounds.kind_of(f"cuda:{index}"), "spectral", "float32"]
    return f"{found.most[1]:g} multiply-adds a sample of spectral convolutions ({found.source})"


def _dali() -> str:
    import torch

    for package in ("nvidia-dali-cuda130", "nvidia-dali-cuda120"):
        if version := environment.version(package):
            idle = "" if torch.cuda.is_available() else ", for GPUs; the torch loader serves here"
            return f"{package} {version}{idle}"
    return (
        "not installed, the torch loader serves (pip install 'fastseg-mri[dali]';"
        " 'fastseg-mri[dali-cuda12]' for CUDA 12 and V100)"
    )


def warnings_for(
    torch_version: str, cuda: str | None, capabilities: list[tuple[int, int]], dali: str
) -> list[str]:
    """List combinations known to fail or to be slow, each with what to do."""
    found = []
    if torch_version.startswith("2.9."):
        found.append(
            "torch 2.9 runs conv3d under AMP several times slower, with many times the memory "
            "(pytorch#166122): use 2.8 or 2.10 up"
        )
    if cuda and int(cuda.split(".")[0]) >= 13 and any(c < (7, 5) for c in capabilities):
        found.append(
            f"CUDA {cuda} cannot serve sm_70 (V100): install a CUDA 12.6 build of torch and "
            f"'fastseg-mri[dali-cuda12]'"
        )
    if dali.startswith("nvidia-dali-cuda130") and any(c < (7, 5) for c in capabilities):
        found.append("nvidia-dali-cuda130 needs sm_75 or newer: install 'fastseg-mri[dali-cuda12]'")
    if any(c < (8, 0) for c in capabilities):
        found.append("Triton needs sm_80 or newer: older devices run without Triton kernels")
    return found


def _rows() -> list[tuple[str, str]]:
    from fastseg.data.nifti import inflate_library

    rows = [
        (
            "fastseg",
            f"{fastseg.__version__}, Python {platform.python_version()}, {platform.platform()}",
        ),
        *_extension(),
        *_torch(),
    ]
    for name, status in fastseg.backends().items():
        rows.append((f"backend {name}", ("live: " if status else "off: ") + status.detail))
    rows += [("DALI", _dali()), ("inflate", inflate_library())]
    rows += [
        (package, environment.version(package) or "not installed")
        for package in ("monai", "lightning-fabric", "nibabel", "triton", "neuraloperator")
    ]
    return rows


def doctor() -> int:
    """Print the report and its warnings; always 0, since nothing it finds is the caller's
    mistake."""
    import torch

    if clash := fastseg_mri.conflict():
        print(f"warning: {clash}", file=sys.stderr)
    for name, value in _rows():
        print(f"{name:18}{value}")
    capabilities = (
        [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]
        if torch.cuda.is_available()
        else []
    )
    for warning in warnings_for(torch.__version__, torch.version.cuda, capabilities, _dali()):
        print(f"warning: {warning}", file=sys.stderr)
    return 0
