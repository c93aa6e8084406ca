"""Operators and modules among what else torch has: tensors of shapes alone, deferred weights,
memory formats, dtypes, tensors of other classes, sizes of a compiled graph, the profiler, counts of
operations, devices that share.
"""

import shutil

import pytest
import shared_operators
import torch
from launching import torchrun
from modules import MODULES, drawn
from operators import FEW, LIVE, ROWS, outputs_of, run
from tolerances import BF16, F16, F32, F64, NEURALOP, relative_error
from torch.utils.flop_counter import FlopCounterMode

import fastseg
from fastseg import nn, ops
from fastseg.ops.interop import flops

OURS = [name for name in MODULES if name in nn.__all__]


# stand-ins for MONAI's: their numbers are read, or made float32 of whatever image
READ = ("MonaiGaussianFilter", "GaussianSmooth")
# what they take is no batch of images
OTHERS = ("HartleyMix", "GaussianSmooth")


def made(name, seed=0):
    """A module, and what it takes."""
    make, shapes = MODULES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(), drawn(name, shapes, torch.Generator().manual_seed(seed))


def place(values, device):
    return tuple(value.to(device) for value in values)


@pytest.mark.parametrize("name", [name for name in MODULES if name not in READ])
def test_a_module_on_meta_has_the_shapes_of_its_results(name):
    module, given = made(name)
    with torch.no_grad():
        wanted = outputs_of(module(*given))
    module.to("meta").requires_grad_(True)
    found = outputs_of(module(*place(given, "meta")))
    assert [(y.shape, y.dtype, y.device.type) for y in found] == [
        (y.shape, y.dtype, "meta") for y in wanted
    ]
    if any(y.requires_grad for y in found):
        sum(y.sum() for y in found).backward()


@pytest.mark.parametrize("op", ROWS)
def test_an_operator_on_meta_has_the_shapes_of_its_results(op):
    tensors, options = ROWS[op].draw(ROWS[op].few[-1], F32)
    wanted = run(getattr(ops, op), tensors, options, torch.ones_like)
    placed = [
        {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in part.items()}
        for part in (tensors, options)
    ]
    found = run(getattr(ops, op), *placed, torch.ones_like)
    for one, other in zip((*found[0], *found[1]), (*wanted[0], *wanted[1]), strict=True):
        assert (one.shape, one.dtype, one.device.type) == (other.shape, other.dtype, "meta")


def state(module):
    return dict(module.named_parameters()) | dict(module.named_buffers())


@pytest.mark.parametrize("name", OURS)
def test_deferred_weights_are_those_of_the_constructor(name):
    wanted, _ = made(name)
    with torch.device("meta"):
        module = MODULES[name][0]()
    assert all(tensor.is_meta for tensor in state(module).values())
    module.to_empty(device="cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module.reset_parameters()
    for key, tensor in state(wanted).items():
        assert torch.equal(state(module)[key], tensor), key
    for part in module.modules():  # as FSDP does, in whatever order
        getattr(part, "reset_parameters", lambda: None)()
    for key, tensor in state(wanted).items():
        assert state(module)[key].isfinite().all(), key
        assert tensor.any() or not state(module)[key].any(), f"{key}: starts at zero"


def test_weights_are_drawn_as_they_always_were():
    layer, _ = made("SpectralConv")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert torch.equal(layer.weight, torch.randn(4, 4, 6, 4, 2) * (0.5 / 2**0.5))


FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def channels_last(tensor):
    kind = FORMATS.get(tensor.dim())
    return tensor if kind is None else tensor.contiguous(memory_format=kind)


@pytest.mark.parametrize("name", [name for name in OURS if name not in OTHERS])
def test_channels_last_images_come_back_so(name):
    module, given = made(name)
    module.eval().requires_grad_(False)
    wanted = outputs_of(module(*given))
    found = outputs_of(module(*map(channels_last, given)))
    for one, other in zip(found, wanted, strict=True):
        assert relative_error(one, other) < NEURALOP
        assert one.dim() not in FORMATS or one.is_contiguous(memory_format=FORMATS[one.dim()])


@pytest.mark.parametrize("op", ROWS)
def test_operators_return_images_in_the_format_of_images(op):
    for sizes in ((5, 8), (4, 5, 6)):
        tensors, options = ROWS[op].draw(sizes, F32)
        first = next(iter(tensors))
        wanted = outputs_of(getattr(ops, op)(**tensors, **options))
        if tensors[first].shape[1] == 1:
            continue  # its one channel is last and first
        tensors[first] = channels_last(tensors[first])
        found = outputs_of(getattr(ops, op)(**tensors, **options))
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other)
            if one.dim() in FORMATS and not one.is_complex() and not tensors[first].is_complex():
                assert one.is_contiguous(memory_format=FORMATS[one.dim()]), op


def test_mapped_images_have_no_format(seeded):
    x, weight = torch.randn(2, 3, 4, 10, 12), torch.randn(4, 4, 4, 3, 2)
    mapped = torch.func.vmap(lambda image: ops.spectral_conv(image, weight), in_dims=1)(x)
    torch.testing.assert_close(mapped[1], ops.spectral_conv(x[:, 1], weight))


SPECTRA = {
    "1-D": (lambda: nn.SpectralConv(4, 4, (5,)), (2, 4, 20)),
    "2-D": (lambda: nn.SpectralConv(4, 4, (6, 4)), (2, 4, 16, 18)),
    "3-D": (lambda: nn.FNOBlock(4, 4, (4, 4, 3)), (1, 4, 8, 9, 10)),
    "neuralop": (lambda: nn.NeuralopSpectralConv(4, 4, (6, 6)), (2, 4, 16, 18)),
    "gains": (lambda: nn.FFParser(4, (16, 18)), (2, 4, 16, 18)),
    "gains 3-D": (lambda: nn.FFParser(4, (6, 8, 9)), (1, 4, 6, 8, 9)),
}


@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=str)
def test_no_memory_format_reorders_a_spectrum(kind, memory_format):
    make, shape = SPECTRA[kind]
    module, x = make(), torch.randn(shape, generator=torch.Generator().manual_seed(0))
    wanted = module(x)
    wanted.sum().backward()
    model = torch.nn.Sequential(module).to(memory_format=memory_format)
    assert all(p.is_contiguous() and p.grad.is_contiguous() for p in model.parameters())
    assert torch.equal(model(x), wanted)
    model.double()
    assert model(x.double()).dtype == F64


# of the largest value; chains of layers in 16 bits round at each of them
ROUNDED = {F64: 1e-6, F16: 1e-2, BF16: 6e-2}


@pytest.mark.parametrize("dtype", ROUNDED, ids=str)
@pytest.mark.parametrize("name", [name for name in MODULES if name != "GaussianSmooth"])
def test_a_module_in_another_dtype(name, dtype):
    module, given = made(name)
    module.eval().requires_grad_(False)
    wanted = outputs_of(module(*given))
    cast = tuple(t.to(dtype) if t.is_floating_point() else t for t in given)
    found = outputs_of(module.to(dtype)(*cast))
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == dtype
        assert (one.double() - other).abs().max() < ROUNDED[dtype] * other.abs().max()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64], ids=str)
def test_a_gaussian_takes_images_of_integers(dtype):
    x = torch.arange(120).view(1, 2, 6, 10).to(dtype)
    blur = nn.GaussianFilter(1.5, padding="zeros", truncate=4.0, taps="erf")
    assert torch.equal(blur(x), blur(x.float()))
    with pytest.raises(TypeError, match=r"x: got torch\.int64"):
        ops.gaussian_filter(x.long(), 1.0)


@pytest.mark.parametrize("op", ROWS)
def test_operators_keep_the_meta_data_of_a_monai_tensor(op):
    monai = pytest.importorskip("monai.data")
    tensors, options = ROWS[op].draw((5, 8), F32)
    first, affine = next(iter(tensors)), torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0]))
    wanted = run(getattr(ops, op), tensors, options, torch.ones_like)
    leaves = {name: t.clone().requires_grad_() for name, t in tensors.items()}
    given = leaves | {first: monai.MetaTensor(leaves[first], affine=affine.double())}
    found = outputs_of(getattr(ops, op)(**given, **options))
    for one, other in zip(found, wanted[0], strict=True):
        assert isinstance(one, monai.MetaTensor)
        assert torch.equal(one.as_tensor(), other)
        assert torch.equal(one.affine, affine.double())
    found = [y.as_tensor() for y in found]
    grads = torch.autograd.grad(found, list(leaves.values()), [torch.ones_like(y) for y in found])
    for one, other in zip(grads, wanted[1], strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("op", ROWS)
@pytest.mark.parametrize(
    "backend", [name for name in LIVE if name in ("cpu", "matmul", "reference")]
)
def test_the_profiler_shows_every_call(op, backend):
    tensors, options = ROWS[op].draw((5, 8), F32)
    profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
    with fastseg.use_backend(backend), profile:
        run(getattr(ops, op), tensors, options, torch.ones_like)
    names = {event.name for event in profile.events() if event.name.startswith("fastseg::")}
    assert any(("." in name) == (backend != "cpu") for name in names), names
    backwards = {name for name in names if name.endswith("_backward")}
    assert backend != "cpu" or backwards or op.startswith("truncated"), names


# and how many graphs sizes of every kind may need: the trained grid of a gain is one of its own
DYNAMIC = {
    "SpectralConv": 1, "FNOBlock": 1, "AnchorGate": 1, "NBPFilter": 1, "FFParser": 2,
    "GaussianFilter": 1,
}  # fmt: skip


@pytest.mark.skipif(FEW, reason="compiled graphs call the same kernels")
@pytest.mark.parametrize("name", DYNAMIC)
def test_a_compiled_module_takes_every_size(name):
    module, given = made(name)
    if name == "GaussianFilter":
        module = nn.GaussianFilter(2.0, padding="reflect", radius=4)
    module.requires_grad_(name in ("SpectralConv", "FNOBlock"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    kind = "aot_eager" if name in ("SpectralConv", "FNOBlock") else "eager"
    compiled = torch.compile(module, dynamic=True, fullgraph=True, backend=kind)
    for more in (0, 4, 9):
        grown = [t if t.dim() < 4 else grown_by(t, more) for t in given]
        torch.testing.assert_close(compiled(*grown), module(*grown), rtol=1e-4, atol=1e-5)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs <= DYNAMIC[name]


def grown_by(image, more: int):
    return torch.nn.functional.pad(image, (0, more, 0, more + 1))


def counted(op, backend, function) -> int:
    tensors, options = ROWS[op].draw((5, 8), F32)
    counter = FlopCounterMode(display=False)
    with fastseg.use_backend(backend), counter:
        function(getattr(ops, op), tensors, options)
    return counter.get_total_flops()


# the backward of these computes again what torch's own keeps
AGAIN = ("fno_block", "spectral_filter")


@pytest.mark.skipif("cpu" not in LIVE, reason="fastseg._C is not built")
@pytest.mark.parametrize("op", ROWS)
def test_kernels_count_as_many_operations_as_matrix_products(op):
    """But for Gaussians, whose matrices hold zeros that taps leave out."""
    forward = [counted(op, kind, lambda f, t, o: f(**t, **o)) for kind in ("cpu", "matmul")]
    both = [
        counted(op, kind, lambda *call: run(*call, torch.ones_like)) for kind in ("cpu", "matmul")
    ]
    assert 0 < forward[0] < both[0]
    if "GAUSSIAN" not in ROWS[op].tables:
        assert forward[0] == forward[1]
        assert both[0] > both[1] if op in AGAIN else both[0] == both[1]


def test_every_registered_operator_has_a_count():
    names = torch._C._dispatch_get_all_op_names()
    assert {n.split("::")[1] for n in names if n.startswith("fastseg::")} <= set(flops.FORMULAS)


@pytest.mark.skipif(FEW, reason="devices share what one of them computes")
def test_two_processes_share_an_operator():
    done = torchrun(shared_operators.__file__)
    assert done.returncode == 0, done.stderr[-4000:]


class Both(torch.nn.Module):
    """A layer by the kernels and by matrix products, so that there is one package for both."""

    def __init__(self):
        super().__init__()
        self.layer = nn.SpectralConv(2, 2, (4,)).requires_grad_(False)

    def forward(self, x):
        by_kernels = self.layer(x)
        with fastseg.use_backend("matmul"):
            return by_kernels, self.layer(x)


@pytest.mark.skipif(FEW or not shutil.which("g++"), reason="packages are compiled by g++")
def test_a_package_without_python_code_of_ours_is_the_module(seeded, tmp_path):
    module, x = Both(), torch.randn(2, 2, 12)
    program = torch.export.export(module, (x,))
    ours = {str(node.target) for node in program.graph.nodes if "fastseg" in str(node.target)}
    assert ours == {"fastseg.spectral_conv.default"}
    path = torch._inductor.aoti_compile_and_package(program, package_path=f"{tmp_path}/both.pt2")
    other = torch.randn(2, 2, 12)
    for one, wanted in zip(
        torch._inductor.aoti_load_package(path)(other), module(other), strict=True
    ):
        torch.testing.assert_close(one, wanted)
