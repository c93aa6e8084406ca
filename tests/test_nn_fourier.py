"""Fourier units and volumetric fast Fourier convolutions: against the published layers written in
plain torch, at the sizes those take, and against their definition at all others.
"""

import copy
import math

import pytest
import torch
from tolerances import BACKWARD, FORWARD, assert_near
from torch import nn as torch_nn
from torch.nn import functional as F

import fastseg
from fastseg import nn, reference

pytestmark = pytest.mark.usefixtures("seeded", "poisoned_memory", "one_thread")

CONVOLUTIONS = {2: torch_nn.Conv2d, 3: torch_nn.Conv3d}
NORMS = {2: torch_nn.BatchNorm2d, 3: torch_nn.BatchNorm3d}
SIZES = {2: [(4, 4), (5, 7), (1, 6), (6, 1)], 3: [(3, 4, 4), (4, 5, 7), (1, 6, 3), (5, 1, 2)]}
GRIDS = [(dims, sizes) for dims, all_sizes in SIZES.items() for sizes in all_sizes]
F64 = torch.float64


def shaken(module):
    """Parameters and statistics away from their defaults, so that each of them shows."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith(("bias", "running_mean")) or "bn_" in name:
                tensor.copy_(torch.randn(tensor.shape))
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape) + 0.5)
    return module


# the published layers, for even and equal height and width


class PublishedUnit(torch_nn.Module):
    def __init__(self, channels, dims):
        super().__init__()
        self.dims = tuple(range(-dims, 0))
        self.conv_layer = CONVOLUTIONS[dims](2 * channels, 2 * channels, 1, bias=False)
        self.bn = NORMS[dims](2 * channels)

    def forward(self, x):
        spectrum = torch.fft.rfftn(x, dim=self.dims, norm="ortho")
        stacked = torch.stack((spectrum.real, spectrum.imag), dim=2).flatten(1, 2)
        mixed = torch.relu(self.bn(self.conv_layer(stacked)))
        spectrum = torch.complex(mixed[:, 0::2], mixed[:, 1::2])
        return torch.fft.irfftn(spectrum, s=x.shape[2:], dim=self.dims, norm="ortho")


class PublishedTransform(torch_nn.Module):
    def __init__(self, inputs, outputs, dims, lfu):
        super().__init__()
        conv, hidden = CONVOLUTIONS[dims], outputs // 2
        first = conv(inputs, hidden, 1, bias=False)
        self.conv1 = torch_nn.Sequential(first, NORMS[dims](hidden), torch_nn.ReLU())
        self.fu = PublishedUnit(hidden, dims)
        if lfu:
            self.lfu = PublishedUnit(hidden, dims)
        self.conv2 = conv(hidden, outputs, 1, bias=False)

    def forward(self, x):
        x = self.conv1(x)
        total = x + self.fu(x)
        if hasattr(self, "lfu"):
            half = x.shape[-2] // 2
            patches = torch.cat(x[:, : x.shape[1] // 4].split(half, -2), 1)
            patches = torch.cat(patches.split(half, -1), 1)
            local = torch.cat([self.lfu(patches)] * 2, -2)
            total = total + torch.cat([local] * 2, -1)
        return self.conv2(total)


class PublishedFFC(torch_nn.Module):
    def __init__(self, inputs, outputs, dims, ratio, lfu):
        super().__init__()
        (in_g, out_g) = (int(inputs * ratio), int(outputs * ratio))
        in_l, out_l = inputs - in_g, outputs - out_g
        options = {"padding": 1, "padding_mode": "reflect", "bias": False}
        self.convl2l = CONVOLUTIONS[dims](in_l, out_l, 3, **options)
        self.convl2g = CONVOLUTIONS[dims](in_l, out_g, 3, **options)
        self.convg2l = CONVOLUTIONS[dims](in_g, out_l, 3, **options)
        self.convg2g = PublishedTransform(in_g, out_g, dims, lfu)

    def forward(self, x):
        x_l, x_g = x
        return self.convl2l(x_l) + self.convg2l(x_g), self.convl2g(x_l) + self.convg2g(x_g)


class PublishedLayer(torch_nn.Module):
    def __init__(self, channels, dims, ratio, lfu):
        super().__init__()
        self.ffc = PublishedFFC(channels, channels, dims, ratio, lfu)
        count = int(channels * ratio)
        self.bn_l, self.bn_g = NORMS[dims](channels - count), NORMS[dims](count)

    def forward(self, x):
        x_l, x_g = self.ffc(x)
        return torch.relu(self.bn_l(x_l)), torch.relu(self.bn_g(x_g))


class PublishedBlock(torch_nn.Module):
    def __init__(self, channels, dims, ratio, lfu):
        super().__init__()
        self.count = channels - int(channels * ratio)
        self.conv1 = PublishedLayer(channels, dims, ratio, lfu)
        self.conv2 = PublishedLayer(channels, dims, ratio, lfu)

    def forward(self, x):
        pair = self.conv2(self.conv1((x[:, : self.count], x[:, self.count :])))
        return x + torch.cat(pair, 1)


class PublishedBottleneck(torch_nn.Module):
    def __init__(self, channels, blocks, dims, ratio, lfu):
        super().__init__()
        layers = [PublishedBlock(channels, dims, ratio, lfu) for _ in range(blocks)]
        self.resnet_layers = torch_nn.Sequential(*layers)

    def forward(self, x):
        return self.resnet_layers(x)


def assert_same_layer(ours, theirs, x, tables=(FORWARD, BACKWARD)):
    """Output, gradients of input and parameters, and buffers, in training and in evaluation."""
    ours.load_state_dict(theirs.state_dict())
    for training in (True, False):
        leaves = [x.clone().requires_grad_() for _ in range(2)]
        results = [m.train(training)(leaf) for m, leaf in zip((ours, theirs), leaves, strict=True)]
        assert_near(results[0], results[1], tables[0], f"output, training {training}")
        grad = torch.randn_like(results[0])
        grads = [
            torch.autograd.grad(y, [leaf, *m.parameters()], grad)
            for y, leaf, m in zip(results, leaves, (ours, theirs), strict=True)
        ]
        names = ["x", *(name for name, _ in theirs.named_parameters())]
        assert [name for name, _ in ours.named_parameters()] == names[1:]
        for name, actual, want in zip(names, *grads, strict=True):
            assert_near(actual, want, tables[1], name)
    for (name, actual), want in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        assert_near(actual.double(), want.double(), FORWARD, name)


@pytest.mark.parametrize(("dims", "sizes"), GRIDS, ids=str)
def test_fourier_unit_is_the_published_one_at_any_size(dims, sizes):
    theirs = shaken(PublishedUnit(3, dims).double())
    ours = nn.FourierUnit(3, 3, dims=dims).double()
    # a mixed spectrum is not Hermitian: take its real inverse as the reference defines it
    theirs.forward = lambda x: definition(theirs, x)
    assert_same_layer(ours, theirs, torch.randn(3, 3, *sizes, dtype=F64))


def definition(unit, x):
    dims = tuple(range(2, x.dim()))
    spectrum = torch.view_as_real(torch.fft.rfftn(x, dim=dims, norm="ortho"))
    z = torch.relu(unit.bn(unit.conv_layer(spectrum.movedim(-1, 2).flatten(1, 2))))
    z = torch.view_as_complex(z.unflatten(1, (-1, 2)).movedim(2, -1).contiguous())
    return reference.truncated_irfftn(z, x.shape[2:], "ortho")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_fourier_unit_in_every_dtype(dtype):
    unit = shaken(nn.FourierUnit(4, 6, dims=3))
    exact = copy.deepcopy(unit).double()
    x = torch.randn(2, 4, 5, 6, 7).to(dtype)
    for training in (True, False):
        y = unit.train(training)(x)
        assert y.shape == (2, 6, 5, 6, 7)
        assert_near(y, exact.train(training)(x.double()), FORWARD, dtype)


@pytest.mark.parametrize("lfu", [True, False])
@pytest.mark.parametrize(("dims", "sizes"), [(2, (4, 4)), (2, (6, 6)), (3, (3, 4, 4))], ids=str)
def test_layers_are_the_published_ones(dims, sizes, lfu):
    theirs = shaken(PublishedTransform(8, 16, dims, lfu).double())
    ours = nn.SpectralTransform(8, 16, dims=dims, enable_lfu=lfu).double()
    assert_same_layer(ours, theirs, torch.randn(2, 8, *sizes, dtype=F64))


@pytest.mark.parametrize("ratio", [0.5, 0.75])
@pytest.mark.parametrize(("dims", "sizes"), [(2, (6, 6)), (3, (5, 4, 4))], ids=str)
def test_bottleneck_is_the_published_one(dims, sizes, ratio):
    theirs = shaken(PublishedBottleneck(32, 2, dims, ratio, True).double())
    ours = nn.VFFCBottleneck(32, 2, dims=dims, ratio=ratio).double()
    # gradients pass through eight normalisations in training: rounding grows on the way
    tables = ({F64: 1e-12}, {F64: 1e-10})
    assert_same_layer(ours, theirs, torch.randn(2, 32, *sizes, dtype=F64), tables)


# names and shapes as in the published code, for 256 channels, half of them global


def batch_norm(prefix, channels):
    vectors = {
        f"{prefix}.{n}": (channels,) for n in ("weight", "bias", "running_mean", "running_var")
    }
    return vectors | {f"{prefix}.num_batches_tracked": ()}


def published_layout(blocks, dims):
    point, cube = (1,) * dims, (3,) * dims
    layer = {f"ffc.{n}.weight": (128, 128, *cube) for n in ("convl2l", "convl2g", "convg2l")}
    transform = {"conv1.0.weight": (64, 128, *point), "conv2.weight": (128, 64, *point)}
    transform |= batch_norm("conv1.1", 64)
    for unit in ("fu", "lfu"):
        transform |= {f"{unit}.conv_layer.weight": (128, 128, *point)}
        transform |= batch_norm(f"{unit}.bn", 128)
    layer |= {f"ffc.convg2g.{name}": shape for name, shape in transform.items()}
    layer |= batch_norm("bn_l", 128) | batch_norm("bn_g", 128)
    return {
        f"resnet_layers.{block}.conv{i}.{name}": shape
        for block in range(blocks)
        for i in (1, 2)
        for name, shape in layer.items()
    }


@pytest.mark.parametrize("dims", [2, 3])
def test_state_dict_has_the_published_layout(dims):
    layout = published_layout(3, dims)
    bottleneck = nn.VFFCBottleneck(256, dims=dims)
    assert {name: tuple(t.shape) for name, t in bottleneck.state_dict().items()} == layout
    random = {name: torch.randn(shape) for name, shape in layout.items()}
    random = {n: torch.tensor(3) if n.endswith("tracked") else t for n, t in random.items()}
    bottleneck.load_state_dict(random)
    assert torch.equal(
        bottleneck.resnet_layers[2].conv2.ffc.convg2g.lfu.conv_layer.weight,
        random["resnet_layers.2.conv2.ffc.convg2g.lfu.conv_layer.weight"],
    )


def test_parameter_counts():
    bottleneck = nn.VFFCBottleneck(256)
    count = sum(p.numel() for p in bottleneck.parameters())
    assert count == 8_264_448
    assert sum(p.numel() for p in nn.VFFCLayer(256, 256).parameters()) == 1_377_408
    assert count / 6 == 1_377_408
    unit = sum(p.numel() for p in nn.FourierUnit(64, 64).parameters())
    assert unit == 128 * 128 + 2 * 128
    without = sum(p.numel() for p in nn.VFFCBottleneck(256, enable_lfu=False).parameters())
    assert count - without == 6 * unit


@pytest.mark.parametrize(("dims", "sizes"), GRIDS, ids=str)
def test_local_unit_cuts_pads_and_tiles(dims, sizes):
    unit = shaken(nn.LocalFourierUnit(8, dims=dims)).double()
    x = torch.randn(2, 8, *sizes, dtype=F64)
    height, width = (math.ceil(n / 2) for n in sizes[-2:])
    padded = torch.zeros(2, 2, *sizes[:-2], 2 * height, 2 * width, dtype=F64)
    padded[..., : sizes[-2], : sizes[-1]] = x[:, :2]
    rows, columns = (slice(0, height), slice(height, None)), (slice(0, width), slice(width, None))
    patches = torch.cat([padded[..., r, c] for c in columns for r in rows], 1)
    small = definition(copy.deepcopy(unit), patches)
    exact = torch.empty(2, 8, *sizes, dtype=F64)
    for i in range(sizes[-2]):
        for j in range(sizes[-1]):
            exact[..., i, j] = small[..., i % height, j % width]
    assert_near(unit(x), exact, FORWARD, sizes)


@pytest.mark.parametrize("sizes", [(3, 4, 5), (2, 2, 2), (4, 7, 3), (5, 6)], ids=str)
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("ratio", [0.5, 0.75])
def test_any_size_and_every_parameter_learns(sizes, norm, ratio):
    bottleneck = nn.VFFCBottleneck(32, 2, dims=len(sizes), ratio=ratio, norm=norm)
    x = torch.randn(2, 32, *sizes, requires_grad=True)
    y = bottleneck(x)
    assert y.shape == x.shape
    grads = torch.autograd.grad(y.square().sum(), [x, *bottleneck.parameters()])
    for (name, _), grad in zip([("x", x), *bottleneck.named_parameters()], grads, strict=True):
        assert grad.isfinite().all(), name
        assert grad.any(), name


def test_pairs_and_tensors_are_the_same_call():
    for layer in (nn.VFFC(16, 32, ratio_gin=0.25, ratio_gout=0.5), nn.VFFCLayer(16, 32)):
        x = torch.randn(2, 16, 3, 4, 5)
        count = 16 - (layer.ffc.in_global if isinstance(layer, nn.VFFCLayer) else 4)
        x_l, x_g = layer((x[:, :count], x[:, count:]))
        assert x_l.shape == x_g.shape == (2, 16, 3, 4, 5)
        assert torch.equal(layer(x), torch.cat([x_l, x_g], 1))


@pytest.mark.parametrize(("ratio_in", "ratio_out"), [(0, 0.5), (0.5, 0), (0, 0), (1, 1), (1, 0.5)])
def test_parts_without_channels(ratio_in, ratio_out):
    layer = nn.VFFCLayer(16, 16, dims=2, ratio_gin=ratio_in, ratio_gout=ratio_out)
    x = torch.randn(2, 16, 4, 5)
    x_l, x_g = layer((x if ratio_in == 0 else None, x) if ratio_in in (0, 1) else x.chunk(2, 1))
    assert (x_l is None, x_g is None) == (ratio_out == 1, ratio_out == 0)
    paths = {n for n in ("convl2l", "convl2g", "convg2l", "convg2g") if getattr(layer.ffc, n)}
    assert paths == {
        f"conv{a}2{b}"
        for a, there in (("l", ratio_in < 1), ("g", ratio_in > 0))
        for b, wanted in (("l", ratio_out < 1), ("g", ratio_out > 0))
        if there and wanted
    }
    assert layer(x).shape == x.shape


# normalisation


def statistics(unit, x):
    """Mean and biased variance of the mixed spectrum's channels."""
    z = unit.conv_layer(
        torch.view_as_real(torch.fft.rfftn(x, dim=(2, 3), norm="ortho"))
        .movedim(-1, 2)
        .flatten(1, 2)
    )
    return z.mean((0, 2, 3)), z.var((0, 2, 3), unbiased=False), z.numel() // z.shape[1]


def test_evaluation_is_training_with_those_statistics():
    unit, x = shaken(nn.FourierUnit(3, 4, dims=2)), torch.randn(3, 3, 5, 6)
    trained = unit(x)
    mean, var, _ = statistics(unit, x)
    unit.bn.running_mean.copy_(mean.detach())
    unit.bn.running_var.copy_(var.detach())
    assert_near(unit.eval()(x), trained.double(), {torch.float32: 2e-6}, "evaluation")


def test_running_statistics_and_their_momentum():
    x = torch.randn(3, 3, 5, 6)
    for momentum in (0.3, None):
        unit = nn.FourierUnit(3, 4, dims=2)
        unit.bn.momentum = momentum
        mean, var, count = (
            v.detach() if isinstance(v, torch.Tensor) else v for v in statistics(unit, x)
        )
        unit(x)
        unit(2 * x)
        assert unit.bn.num_batches_tracked == 2
        unbiased = var * count / (count - 1)
        if momentum is None:
            want = (1.5 * mean, 2.5 * unbiased)
        else:
            want = (0.21 * mean + 0.6 * mean, 0.49 + 0.21 * unbiased + 1.2 * unbiased)
        table = {torch.float32: 2e-6}
        assert_near(unit.bn.running_mean, want[0].double(), table, momentum)
        assert_near(unit.bn.running_var, want[1].double(), table, momentum)


def test_frozen_norm_keeps_its_statistics():
    unit, x = shaken(nn.FourierUnit(3, 4, dims=2)), torch.randn(3, 3, 5, 6)
    evaluated = unit.eval()(x)
    before = copy.deepcopy(unit.bn.state_dict())
    unit.train()
    unit.bn.eval()
    assert torch.equal(unit(x), evaluated)
    assert all(torch.equal(before[name], t) for name, t in unit.bn.state_dict().items())


def test_norm_without_running_statistics():
    unit, x = nn.FourierUnit(3, 4, dims=2), torch.randn(3, 3, 5, 6)
    trained = unit(x)
    unit.bn = torch_nn.BatchNorm2d(8, track_running_stats=False)
    assert torch.equal(unit(x), trained)
    assert torch.equal(unit.eval()(x), trained)


def test_group_norm_has_statistics_of_each_sample():
    unit, x = shaken(nn.FourierUnit(4, 8, dims=2, norm="group")), torch.randn(3, 4, 5, 6)
    assert isinstance(unit.bn, torch_nn.GroupNorm)
    assert unit.bn.num_groups == 8
    y = unit(x)
    exact = definition(copy.deepcopy(unit).double(), x.double())
    assert_near(y, exact, FORWARD, "group norm")
    assert_near(torch.cat([unit(x[i : i + 1]) for i in range(3)]), y.double(), FORWARD, "alone")


SYNCHRONISED = """
import copy, sys, tempfile, torch
from torch import distributed as dist, multiprocessing as mp
from fastseg import nn

def unit():
    torch.manual_seed(0)
    return nn.FourierUnit(3, 4, dims=2).double()

def results(unit, x, grad):
    x = x.clone().requires_grad_()
    y = unit(x)
    y.backward(grad)
    grads = [p.grad for p in unit.parameters()]
    return y.detach(), x.grad, grads, [b.double() for b in unit.buffers()]

def process(rank, file, x, grad):
    dist.init_process_group("gloo", init_method="file://" + file, rank=rank, world_size=2)
    shared = torch.nn.SyncBatchNorm.convert_sync_batchnorm(unit())
    part = slice(0, 3) if rank == 0 else slice(3, 4)
    y, dx, grads, buffers = results(shared, x[part], grad[part])
    for g in grads:
        dist.all_reduce(g)
    whole = results(unit(), x, grad)
    torch.testing.assert_close((y, dx), (whole[0][part], whole[1][part]))
    torch.testing.assert_close((grads, buffers), (whole[2], whole[3]))

torch.set_num_threads(1)
x, grad = torch.randn(4, 3, 5, 6).double(), torch.randn(4, 4, 5, 6).double()
with tempfile.NamedTemporaryFile() as file:
    mp.start_processes(process, (file.name, x, grad), 2, start_method="fork")
print("both are equal")
"""


def test_synchronised_statistics_are_those_of_the_whole_batch(run_python):
    assert run_python(SYNCHRONISED).stdout.strip() == "both are equal"


def test_converted_norm_alone_is_batch_norm():
    unit, x = nn.FourierUnit(3, 4, dims=2), torch.randn(3, 3, 5, 6)
    converted = torch_nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(unit))
    assert torch.equal(converted(x), unit(x))
    assert torch.equal(converted.bn.running_var, unit.bn.running_var)


# programs around the layers

MODULES = {
    "FourierUnit": lambda **o: nn.FourierUnit(16, 16, **o),
    "LocalFourierUnit": lambda **o: nn.LocalFourierUnit(16, **o),
    "SpectralTransform": lambda **o: nn.SpectralTransform(16, 16, **o),
    "VFFC": lambda **o: nn.VFFC(16, 16, **o),
    "VFFCBlock": lambda **o: nn.VFFCBlock(16, **o),
}


@pytest.mark.parametrize(  # the block traces all the others
    ("name", "norm"), [("FourierUnit", "batch"), ("FourierUnit", "group"), ("VFFCBlock", "batch")]
)
def test_layers_compile_whole(name, norm):
    layer, x = MODULES[name](dims=2, norm=norm), torch.randn(2, 16, 4, 5, requires_grad=True)
    eager = copy.deepcopy(layer)
    torch._dynamo.reset()
    traced = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for training in (True, False) if name == "FourierUnit" else (True,):
        y, exact = traced.train(training)(x), eager.train(training)(x)
        assert_near(y, exact.double(), FORWARD, name)
        grads = [
            torch.autograd.grad(result.square().sum(), [x, *module.parameters()])
            for result, module in ((y, layer), (exact, eager))
        ]
        for actual, want in zip(*grads, strict=True):
            assert_near(actual, want.double(), {torch.float32: 1e-5}, name)
    for actual, want in zip(layer.buffers(), eager.buffers(), strict=True):
        torch.testing.assert_close(actual, want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", MODULES)
def test_layers_under_autocast(name, dtype):
    layer = MODULES[name](dims=3)
    for x in (torch.randn(2, 16, 3, 4, 5), torch.randn(2, 16, 3, 4, 5).to(dtype)):
        with torch.autocast("cpu", dtype=dtype):
            y = layer(x)
        assert y.isfinite().all()
        if name in ("FourierUnit", "LocalFourierUnit"):
            assert y.dtype == x.dtype
        y.float().sum().backward()
        assert all(p.grad.dtype == torch.float32 for p in layer.parameters())


@pytest.mark.parametrize("backend", ["auto", "reference", "matmul"])
def test_backends_agree(backend):
    layer, x = nn.VFFCBlock(16), torch.randn(2, 16, 3, 4, 5)
    exact = copy.deepcopy(layer).double()(x.double())
    with fastseg.use_backend(backend):
        y = layer(x)
    assert_near(y, exact, {torch.float32: 5e-6}, backend)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="dims: got 4"):
        nn.FourierUnit(4, 4, dims=4)
    with pytest.raises(ValueError, match="norm: got 'layer'"):
        nn.FourierUnit(4, 4, norm="layer")
    with pytest.raises(ValueError, match="channels: got 6"):
        nn.LocalFourierUnit(6)
    with pytest.raises(ValueError, match="dims: got 1"):
        nn.LocalFourierUnit(4, dims=1)
    with pytest.raises(ValueError, match="out_channels: got 12"):
        nn.SpectralTransform(8, 12)
    with pytest.raises(ValueError, match="out_channels: got 7"):
        nn.SpectralTransform(8, 7, enable_lfu=False)
    with pytest.raises(ValueError, match=r"ratio_gin: got 1\.5"):
        nn.VFFC(16, 16, ratio_gin=1.5)
    with pytest.raises(ValueError, match="kernel_size: got 2"):
        nn.VFFC(16, 16, kernel_size=2)


def test_one_dimensional_unit():
    unit, x = nn.FourierUnit(2, 3, dims=1).eval(), torch.randn(2, 2, 9)
    z = F.conv1d(
        torch.view_as_real(torch.fft.rfft(x, norm="ortho")).movedim(-1, 2).flatten(1, 2),
        unit.conv_layer.weight,
    )
    z = torch.relu(z / math.sqrt(1 + unit.bn.eps))
    exact = torch.fft.irfft(torch.complex(z[:, 0::2], z[:, 1::2]), n=9, norm="ortho")
    assert_near(unit(x), exact.double(), {torch.float32: 2e-6}, "1-D")
