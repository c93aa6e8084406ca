"""Choosing a backend: by hand, by environment, by shape; and what happens where one is missing."""

import inspect
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tolerances import BACKWARD, BF16, F16, F32, F64, FORWARD, assert_near, wide

import fastseg
from fastseg import ops, reference
from fastseg.ops import context, dispatch, gaussian, impl
from fastseg.ops.impl import architectures, bounds, contract, native_cuda

LIVE = [name for name, status in fastseg.backends().items() if status]
DEAD = [name for name, status in fastseg.backends().items() if not status]
CPU_ONLY = pytest.mark.skipif("cpu" not in LIVE, reason="fastseg._C is not built")


@pytest.fixture(autouse=True)
def setting():
    before = context.setting()
    yield context.setting
    fastseg.use_backend(before)


def arguments(dtype=F32):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 6, 9, generator=generator, dtype=F64).to(dtype)
    weight = torch.randn(3, 2, 4, 3, generator=generator, dtype=torch.complex128)
    return x, weight if dtype == F64 else weight.to(torch.complex64)


def test_context_manager_restores(setting):
    before = setting()
    with fastseg.use_backend("reference"):
        assert setting() == "reference"
        with fastseg.use_backend("matmul"):
            assert setting() == "matmul"
        assert setting() == "reference"
    assert setting() == before


def test_context_manager_restores_after_an_exception(setting):
    before = setting()
    with pytest.raises(KeyError), fastseg.use_backend("matmul"):
        raise KeyError
    assert setting() == before


def test_function_stays(setting):
    fastseg.use_backend("matmul")
    assert setting() == "matmul"
    fastseg.use_backend("reference")
    assert setting() == "reference"


def test_unknown_name_changes_nothing(setting):
    before = setting()
    with pytest.raises(ValueError, match="backend: got 'fftw', want one of auto, reference"):
        fastseg.use_backend("fftw")
    assert setting() == before


def test_backends_says_what_is_live_and_why_not():
    found = fastseg.backends()
    assert list(found) == [name for name in context.NAMES if name != "auto"]
    assert found["reference"]
    assert found["matmul"]
    for status in found.values():
        assert isinstance(status.live, bool)
        assert bool(status) == status.live
        assert len(status.detail) > 3


@pytest.mark.parametrize("name", DEAD)
@pytest.mark.parametrize("op", ["spectral_conv", "truncated_rfftn", "truncated_irfftn"])
def test_forcing_a_dead_backend_says_why(name, op):
    x, weight = arguments()
    call = {
        "spectral_conv": lambda: ops.spectral_conv(x, weight),
        "truncated_rfftn": lambda: ops.truncated_rfftn(x, (4, 3)),
        "truncated_irfftn": lambda: ops.truncated_irfftn(weight, (6, 9)),
    }[op]
    with fastseg.use_backend(name), pytest.raises(RuntimeError) as error:
        call()
    assert repr(name) in str(error.value)
    assert fastseg.backends()[name].detail in str(error.value)


@pytest.mark.parametrize("name", ["cuda", "triton"])
def test_forcing_a_gpu_backend_on_cpu_tensors_raises(name):
    with fastseg.use_backend(name), pytest.raises(RuntimeError, match=f"backend '{name}'"):
        ops.spectral_conv(*arguments())


@CPU_ONLY
def test_forcing_cpu_on_other_devices_says_where_x_is():
    x, weight = (tensor.to("meta") for tensor in arguments())
    with fastseg.use_backend("cpu"), pytest.raises(RuntimeError, match="x is on meta"):
        ops.spectral_conv(x, weight)


@pytest.mark.parametrize("family", contract.FAMILIES)
def test_every_backend_of_a_family_has_its_protocols_methods(family):
    methods = {n: f for n, f in vars(contract.FAMILIES[family]).items() if inspect.isfunction(f)}
    methods = {name: f for name, f in methods.items() if not name.startswith("_")}
    assert methods
    for backend, kernels in getattr(impl, family).items():
        kind = getattr(kernels, "kind", type(kernels))  # Triton's are made when first called
        for name, method in methods.items():
            own, what = getattr(kind, name), f"{family}, {backend}: {name}"
            assert own is not method, f"{what} is not there"
            assert inspect.signature(own) == inspect.signature(method), what


def test_selection_is_a_function_of_its_arguments():
    names = list(inspect.signature(dispatch.select_spectral).parameters)
    assert names == ["setting", "device", "dtype", "sizes", "out_sizes", "modes", "family"]
    row = ("cpu", F32, (64, 64), (64, 64), (24, 12))
    assert len({dispatch.select_spectral("auto", *row) for _ in range(3)}) == 1
    for forced in LIVE:
        device = "cuda" if forced in ("cuda", "triton") else "cpu"
        with fastseg.use_backend("reference"):
            assert dispatch.select_spectral(forced, device, *row[1:]) == forced


@CPU_ONLY
def test_selection_takes_the_kernels_for_few_modes_and_an_fft_for_many():
    short, long = (240, 240), (1024, 1024)
    assert dispatch.select_spectral("auto", "cpu", F32, short, short, (20, 10)) == "cpu"
    assert dispatch.select_spectral("auto", "cpu", F32, (40,), (40,), (21,)) == "cpu"
    assert dispatch.select_spectral("auto", "cpu", F32, long, long, (1024, 513)) == "reference"
    assert dispatch.select_spectral("auto", "cpu", F32, short, short, (240, 121)) == "cpu"
    assert dispatch.select_spectral("auto", "cpu", F32, (2048,), (2048,), (256,)) == "cpu"
    assert dispatch.select_spectral("auto", "cpu", F32, (2048,), (8192,), (256,)) == "reference"
    assert dispatch.select_spectral("auto", "meta", F32, short, short, (20, 10)) == "meta"


@pytest.mark.parametrize("dtype", [F32, F64, F16, BF16], ids=str)
def test_every_backend_gives_the_same_result(dtype):
    x, weight = arguments(dtype)
    exact = reference.spectral_conv(wide(x), wide(weight))
    for name in [*LIVE, "auto"]:
        if dtype == F64 and name in ("cuda", "triton"):
            continue
        with fastseg.use_backend(name):
            assert_near(ops.spectral_conv(x, weight), exact, FORWARD, name)


PRINT_SETTING = "from fastseg.ops import context; print(context.setting())"


def test_environment_sets_the_default(run_python):
    assert run_python(PRINT_SETTING).stdout.strip() == "auto"
    assert run_python(PRINT_SETTING, FASTSEG_BACKEND="matmul").stdout.strip() == "matmul"


def test_wrong_environment_is_an_error(run_python):
    done = run_python(PRINT_SETTING, check=False, FASTSEG_BACKEND="fftw")
    assert done.returncode != 0
    assert "got 'fftw', want one of auto, reference" in done.stderr


WITHOUT_KERNELS = """
import sys
sys.modules["fastseg._C"] = None
import torch, fastseg
from fastseg import ops, reference
x, weight = torch.ones(1, 2, 6, 9), torch.ones(2, 2, 4, 3, dtype=torch.complex64)
for _ in range(3):
    y = ops.spectral_conv(x, weight)
    ops.truncated_rfftn(x, (4, 3))
assert torch.allclose(y, reference.spectral_conv(x, weight), atol=1e-5)
status = fastseg.backends()["cpu"]
assert not status
print(status.detail)
with fastseg.use_backend("cpu"):
    try:
        ops.spectral_conv(x, weight)
    except RuntimeError as error:
        print(error)
"""


def test_missing_kernels_fall_back_with_one_log_line(run_python):
    done = run_python(WITHOUT_KERNELS)
    (line,) = done.stderr.strip().splitlines()
    assert "falling back to torch.matmul" in line
    assert "fastseg._C" in line
    detail, error = done.stdout.strip().splitlines()
    assert "fastseg._C" in detail
    assert "backend 'cpu' was asked for" in error
    assert detail in error


# the architectures of a default build, by the major version of CUDA
CUDA_12, CUDA_13 = "70-real 80-real 90", "75-real 80-real 90"


@pytest.mark.parametrize(
    ("capability", "cuda_12", "cuda_13"),
    [
        ((6, 1), None, None),
        ((7, 0), "machine code for sm_70", None),
        ((7, 5), "machine code for sm_70", "machine code for sm_75"),
        ((8, 0), "machine code for sm_80", "machine code for sm_80"),
        ((8, 6), "machine code for sm_80", "machine code for sm_80"),
        ((9, 0), "machine code for sm_90", "machine code for sm_90"),
        ((10, 0), "PTX for sm_90", "PTX for sm_90"),
        ((12, 0), "PTX for sm_90", "PTX for sm_90"),
    ],
)
def test_a_default_build_says_what_serves_a_device(capability, cuda_12, cuda_13):
    for built, wanted in ((CUDA_12, cuda_12), (CUDA_13, cuda_13)):
        found = architectures.served_by(built, capability)
        assert found is None if wanted is None else found.startswith(wanted)


@pytest.mark.parametrize(
    ("built", "capability", "served"),
    [
        ("70-real 75-real 80-real 86-real 89-real 90", (8, 9), "machine code for sm_89"),
        ("80-virtual", (8, 6), "PTX for sm_80"),
        ("80-virtual", (7, 5), None),
        ("86-real", (8, 0), None),
        ("90a-real", (9, 0), "machine code for sm_90"),
        ("90a", (10, 0), None),
        ("100f-real", (10, 3), "machine code for sm_100"),
        ("", (9, 0), None),
    ],
)
def test_other_builds_serve_what_their_code_runs_on(built, capability, served):
    found = architectures.served_by(built, capability)
    assert found is None if served is None else found.startswith(served)


@pytest.mark.parametrize(
    ("built", "capability", "has"),
    [
        ("75-real 80-real 90", (8, 6), True),
        ("75-real 80-real 90", (7, 5), False),
        ("90", (10, 0), True),
        ("75", (8, 0), False),  # PTX of before them
        ("", (8, 0), False),
    ],
)
def test_tensor_cores_want_a_device_and_code_of_sm_80(monkeypatch, built, capability, has):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(native_cuda, "TENSOR_CORES", True)
    library = SimpleNamespace(cuda_architectures=built, Axis=lambda **fields: None)
    spectral = native_cuda.CudaSpectral(library, None)
    assert spectral.tensor_cores(torch.device("cuda", 0)) is has
    monkeypatch.setattr(native_cuda, "TENSOR_CORES", False)
    assert not spectral.tensor_cores(torch.device("cuda", 0))


CLASSES = {"sm_70": [(7, 0), (7, 5)], "sm_80": [(8, 0), (8, 6), (8, 9)],
           "sm_90": [(9, 0), (10, 0), (12, 0)]}  # fmt: skip
EVERY_CAPABILITY = pytest.mark.parametrize(
    ("kind", "capability"), [(kind, found) for kind in CLASSES for found in CLASSES[kind]]
)


@pytest.fixture
def faked(monkeypatch):
    """A GPU whose kernels are there, as dispatch sees it; the function sets its capability."""

    def fake(capability):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(impl, "unable", lambda name, *_: None if name != "triton" else "off")
        table = dict.fromkeys(("cuda", "triton"))
        for family in ("SPECTRAL", "GAUSSIAN", "SPECTRAL_POINTWISE"):
            monkeypatch.setattr(impl, family, table)
        forget()

    def forget():
        bounds._class_of.cache_clear()
        dispatch._fastest_cached.cache_clear()

    yield fake
    forget()


def on_gpu(sizes, modes, dtype=F32):
    return dispatch.select_spectral("auto", "cuda", dtype, sizes, sizes, modes, impl.SPECTRAL)


@EVERY_CAPABILITY
def test_every_class_of_device_has_bounds_with_a_source(faked, kind, capability):
    faked(capability)
    assert bounds.kind_of("cuda:0") == kind
    for family in ("spectral", "whole", "fourier_unit", "gaussian"):
        row = bounds.TABLE[kind, family, "float32"]
        assert row.source.startswith(("model: ", "measured "))
        for dtype in (F32, F64, F16, BF16):
            assert bounds.most_work(family, "cuda:0", dtype, 2) >= row.most[1]


@EVERY_CAPABILITY
def test_selection_on_a_gpu_follows_the_bounds_of_its_class(faked, kind, capability):
    faked(capability)
    (_, most, _), _ = bounds.TABLE[kind, "spectral", "float32"]
    assert on_gpu((192, 192), (32, 16)) == "cuda"
    assert on_gpu((1024, 1024), (most, 10)) == "cuda"  # half as many multiply-adds a sample
    assert on_gpu((4096, 4096), (2 * int(most) + 8, 10)) == "reference"
    assert on_gpu((4096, 4096), (2 * int(most) + 8, 10), BF16) == "cuda"
    assert on_gpu((17, 17), (17, 9)) == "reference"  # whole spectra, by dense matrices
    unit = dispatch.select_fourier_unit("auto", "cuda", F32, (17, 17, 17), 128)
    assert unit == ("cuda" if kind == "sm_70" else "reference")


@EVERY_CAPABILITY
def test_matmul_is_taken_where_it_may_round_to_tf32_and_that_is_faster(
    faked, kind, capability, monkeypatch
):
    faked(capability)
    many = (512, 512), (128, 32)
    assert on_gpu(*many) == "cuda"
    monkeypatch.setattr(bounds, "tf32_allowed", lambda: True)
    assert on_gpu(*many) == ("cuda" if kind == "sm_70" else "matmul")
    assert on_gpu(*many, BF16) == "cuda"
    assert on_gpu((256, 256), (64, 32)) == "cuda"
    assert on_gpu((421, 421), (24, 12)) == "cuda"
    assert on_gpu((4096, 4096), (600, 10)) == "reference"


def test_tf32_is_allowed_where_torch_was_told_so():
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        for wanted in (True, False):
            torch.backends.cuda.matmul.allow_tf32 = wanted
            assert bounds.tf32_allowed() is wanted
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@EVERY_CAPABILITY
def test_an_exact_gaussian_of_a_gpu_is_held_to_its_own_bound(faked, kind, capability):
    faked(capability)
    at = gaussian.prepare("x", torch.empty(1, 1, 240, 240), 3.0, None)[2]  # radii 17 and 17
    assert gaussian.taps_win(at, "cuda", F32)
    wider = gaussian.prepare("x", torch.empty(1, 1, 240, 240), 5.0, None)[2]
    assert gaussian.taps_win(wider, "cuda", F32) == (kind != "sm_90")
    volume = gaussian.prepare("x", torch.empty(1, 1, 128, 128, 128), 2.0, None)[2]
    assert gaussian.taps_win(volume, "cuda", F32) == (kind != "sm_90")
    spatial = gaussian.Options("zeros", 4.0, None, "erf", None)
    far = gaussian.prepare("x", torch.empty(1, 1, 128, 128, 128), 9.0, None, spatial)[2]
    assert gaussian.taps_win(far, "cuda", F32)


# what torch would say on a machine with one GPU, before fastseg asks
FAKED = """
import torch
capability = CAPABILITY
torch.cuda.is_available, torch.cuda.device_count = (lambda: True), (lambda: 1)
torch.cuda.get_device_capability = lambda device=None: capability
import fastseg
from fastseg.ops import context, dispatch, impl
taken = [dispatch.select(impl.GATE, "auto", "cuda:0", torch.float32) for _ in range(3)]
print(taken[0], bool(fastseg.backends()["cuda"]), bool(fastseg.backends()["triton"]))
try:
    dispatch.select(impl.GATE, "cuda", "cuda:0", torch.float32)
except RuntimeError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(impl._C, "cuda"), reason="a build without CUDA kernels")
@pytest.mark.parametrize(
    "capability", [(6, 1), (7, 0), (7, 5), (8, 0), (8, 6), (9, 0), (10, 0), (12, 0)]
)
def test_a_device_that_the_build_does_not_serve_falls_back_with_one_line(capability, run_python):
    done = run_python(FAKED.replace("CAPABILITY", repr(capability)))
    lines, logged = done.stdout.strip().splitlines(), done.stderr.strip().splitlines()
    built = impl._C.cuda_architectures
    served = architectures.served_by(built, capability)
    assert lines[0].split()[:2] == (["cuda", "True"] if served else ["matmul", "False"])
    assert len(logged) == (0 if served else 1)
    for said in (*logged, *([] if served else lines[1:2])):
        assert f"built for {built}" in said
        assert "cuda:0 has compute capability {}.{}".format(*capability) in said
    assert all("falling back to torch.matmul on cuda:0" in line for line in logged)


def test_the_capability_of_a_device_does_not_break_a_compiled_graph(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    device = torch.device("cuda", 0)

    def scaled(x):
        return x if architectures.unfit("cuda", "80-real", device) else 2 * x

    compiled = torch.compile(scaled, fullgraph=True, backend="eager")
    assert torch.equal(compiled(torch.ones(3)), 2 * torch.ones(3))


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_bounds_of_a_device_do_not_break_a_compiled_graph(monkeypatch, dynamic):
    def asks_the_driver(device):
        torch._dynamo.graph_break()
        return "sm_80"

    monkeypatch.setattr(bounds, "_class_of", asks_the_driver)
    device = torch.device("cuda", 0)

    def chosen(x):
        sizes = tuple(x.shape)
        wins = dispatch.transforms_win(device, sizes, (24, 12), x.dtype)
        return (
            x + (2 if wins else 1) + dispatch.matmul_wins(device, sizes, (24, 12), x.dtype, False)
        )

    compiled = torch.compile(chosen, fullgraph=True, backend="eager", dynamic=dynamic)
    assert torch.equal(compiled(torch.zeros(240, 240)), torch.full((240, 240), 2.0))


CONVOLVE = """
import torch, fastseg
from fastseg import ops
given = torch.load("given.pt")
done = []
with fastseg.use_backend("cpu"):
    for *leaves, grad in given:
        y = ops.spectral_conv(*(t.requires_grad_() for t in leaves))
        done.append((y.detach(), *torch.autograd.grad(y, leaves, grad)))
torch.save(done, "done.pt")
print(fastseg.backends()["cpu"].detail)
"""


def built_instruction_sets():
    if impl._C is None:
        return []
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    needed = {"avx512": ("avx512f", "avx512dq", "avx512vl", "avx512bw"), "avx2": ("avx2", "fma")}
    names = impl._C.cpu_isas_built().split()
    return [name for name in names if all(flag in flags for flag in needed.get(name, ()))]


@CPU_ONLY
@pytest.mark.parametrize("isa", built_instruction_sets())
def test_every_instruction_set_gives_the_same_result(isa, run_python, tmp_path):
    generator, given = torch.Generator().manual_seed(1), []
    for sizes, modes in (((37,), (12,)), ((21, 34), (9, 7)), ((64, 48), (20, 11)),
                         ((9, 11, 13), (4, 5, 6)), ((1, 1), (1, 1))):  # fmt: skip
        x = torch.randn(3, 4, *sizes, generator=generator, dtype=F64)
        weight = torch.randn(4, 5, *modes, generator=generator, dtype=torch.complex128)
        bias = torch.randn(5, generator=generator, dtype=F64)
        grad = torch.randn(3, 5, *sizes, generator=generator, dtype=F64)
        single = (x.float(), weight.to(torch.complex64), bias.float(), grad.float())
        given += [(x, weight, bias, grad), single]
    torch.save(given, tmp_path / "given.pt")
    assert run_python(CONVOLVE, FASTSEG_CPU_ISA=isa).stdout.startswith(f"{isa} kernels")
    for (*leaves, grad), (y, *grads) in zip(given, torch.load(tmp_path / "done.pt"), strict=True):
        leaves = [wide(t).requires_grad_() for t in leaves]
        exact = reference.spectral_conv(*leaves)
        exact_grads = torch.autograd.grad(exact, leaves, wide(grad))
        assert_near(y, exact, FORWARD, isa)
        for actual, want in zip(grads, exact_grads, strict=True):
            assert_near(actual, want, BACKWARD, isa)


@CPU_ONLY
def test_unknown_instruction_set_is_an_error_that_lists_the_built_ones(run_python):
    code = "import fastseg; print(fastseg.backends())"
    done = run_python(code, check=False, FASTSEG_CPU_ISA="mmx")
    assert done.returncode != 0
    assert "FASTSEG_CPU_ISA=mmx" in done.stderr.splitlines()[-1]
    assert "baseline" in done.stderr.splitlines()[-1]
