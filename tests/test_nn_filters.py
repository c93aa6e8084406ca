"""Learnt gains on the full spectrum: the neural band-pass filter and FF-Parser."""

import pytest
import torch
from tolerances import FORWARD, assert_near
from torch.nn import functional as F

from fastseg import nn, reference

pytestmark = pytest.mark.usefixtures("seeded", "poisoned_memory", "one_thread")


# neural band-pass filter


def nbp_gain(module, sizes, temb):
    """The definition, with convolutions over a map of positions."""
    axes = [2 * torch.fft.fftfreq(n).abs().double() for n in sizes[:-1]]
    axes.append(2 * torch.fft.rfftfreq(sizes[-1]).double())
    h = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
    point = (1,) * len(sizes)
    conv = (F.conv2d, F.conv3d)[len(sizes) - 2]
    for layer in module.layers:
        weight = layer["conv"].weight
        h = conv(h, weight.view(*weight.shape, *point), layer["conv"].bias)
        centred = h - h.mean(1, keepdim=True)
        h = centred / (h.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        affine = (p.view(1, -1, *point) for p in (layer["norm"].weight, layer["norm"].bias))
        h = h * next(affine) + next(affine)
        if temb is not None:
            scale, shift = layer["time"](temb).chunk(2, 1)
            h = h * (1 + scale.view(*scale.shape, *point)) + shift.view(*shift.shape, *point)
        h = h.relu()
    weight = module.head.weight
    return conv(h, weight.view(*weight.shape, *point), module.head.bias).sigmoid()


@pytest.mark.parametrize("sizes", [(8, 8), (5, 7), (1, 6), (3, 4, 5)], ids=str)
@pytest.mark.parametrize("timed", [True, False])
def test_band_pass_is_its_definition(sizes, timed):
    module = nn.NBPFilter(3, time_channels=6, dims=len(sizes), hidden=8).double()
    for layer in module.layers:
        torch.nn.init.normal_(layer["norm"].weight)
        torch.nn.init.normal_(layer["norm"].bias)
    x = torch.randn(2, 3, *sizes, dtype=torch.float64)
    temb = torch.randn(2, 6, dtype=torch.float64) if timed else None
    exact = nbp_gain(module, sizes, temb)
    gain = module.gain(sizes, temb)
    assert_near(gain, exact, {torch.float64: 1e-6}, "gain")  # positions are float32 numbers
    assert gain.shape == (2 if timed else 1, 3, *sizes[:-1], sizes[-1] // 2 + 1)
    assert 0 < gain.min() < gain.max() < 1
    dims = tuple(range(2, x.dim()))
    filtered = torch.fft.irfftn(torch.fft.rfftn(x, dim=dims) * gain, s=sizes, dim=dims)
    assert_near(module(x, temb), filtered, FORWARD, sizes)


def test_band_pass_learns_and_shifts_no_phase():
    module = nn.NBPFilter(4, time_channels=16)
    impulse = torch.zeros(2, 4, 8, 9)
    impulse[:, :, 0, 0] = 1
    response = module(impulse, torch.randn(2, 16))
    mirrored = response.flip((2, 3)).roll((1, 1), (2, 3))
    torch.testing.assert_close(response, mirrored, rtol=0, atol=1e-6)
    loss = module(torch.randn(2, 4, 8, 9), torch.randn(2, 16)).square().sum()
    for grad in torch.autograd.grad(loss, list(module.parameters())):
        assert grad.any()
    with pytest.raises(ValueError, match="x: got shape"):
        module(torch.zeros(2, 4, 8))


# FF-Parser


@pytest.mark.parametrize(
    ("channels", "size", "count"),
    [(32, 128, 532_480), (64, 64, 270_336), (128, 32, 139_264), (256, 16, 73_728)],
)
def test_ff_parser_counts(channels, size, count):
    module = nn.FFParser(channels, (size, size))
    assert [tuple(p.shape) for p in module.parameters()] == [(channels, size, size // 2 + 1, 2)]
    assert module.complex_weight.numel() == count
    assert module.complex_weight.detach().std() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("sizes", [(8, 8), (5, 6), (9,), (3, 4, 6)], ids=str)
def test_ff_parser_is_a_gain_between_transforms(sizes):
    module, x = nn.FFParser(3, sizes).double(), torch.randn(2, 3, *sizes, dtype=torch.float64)
    dims = tuple(range(2, x.dim()))
    spectrum = torch.fft.rfftn(x, dim=dims, norm="ortho")
    spectrum = spectrum * torch.view_as_complex(module.complex_weight)
    modes = spectrum.shape[2:]
    exact = reference.truncated_irfftn(spectrum, sizes, "ortho")
    assert modes == module.gain(sizes).shape[1:]
    assert_near(module(x), exact, FORWARD, sizes)
    (grad,) = torch.autograd.grad(module(x).square().sum(), module.complex_weight)
    assert grad.any()


@pytest.mark.parametrize("sizes", [(8, 8), (6, 10), (4, 6, 8)], ids=str)
def test_ff_parser_on_other_grids_keeps_the_gain_of_a_frequency(sizes):
    module = nn.FFParser(2, sizes).double()
    own = module.gain(sizes)
    double = module.gain([2 * n for n in sizes])
    assert_near(double[(..., *[slice(None, None, 2)] * len(sizes))], own, FORWARD, "twice the size")
    between = double[(0, *[0] * (len(sizes) - 1), 1)]
    first, second = own[(0, *[0] * (len(sizes) - 1))][:2]
    assert_near(between, (first + second) / 2, FORWARD, "linear between")
    half = module.gain([n // 2 for n in sizes])
    stored = own[(..., *[slice(None, None, 2)] * len(sizes))]
    if all(n % 4 == 0 for n in sizes):
        assert_near(half, stored, FORWARD, "half the size")
    odd = [n + 3 for n in sizes]
    y = module(torch.randn(1, 2, *odd, dtype=torch.float64))
    assert y.shape == (1, 2, *odd)


def test_ff_parser_interpolates_round_the_highest_frequency():
    module = nn.FFParser(1, (4, 2))
    with torch.no_grad():  # rows f = 0, 1/4, −1/2, −1/4; columns 0, 1/2
        module.complex_weight.copy_(torch.tensor([0.0, 1, 2, 3])[:, None, None].expand(4, 2, 2))
    rows = module.gain((5, 2))[0, :, 0].real  # f = 0, 0.2, 0.4, −0.4, −0.2
    torch.testing.assert_close(rows, torch.tensor([0.0, 0.8, 1.6, 2.4, 2.4]))
    module = nn.FFParser(1, (3,))
    with torch.no_grad():  # f = 0, 1/3: beyond it the last one stands
        module.complex_weight.copy_(torch.tensor([[0.0, 0], [3, 3]]))
    torch.testing.assert_close(module.gain((4,))[0].real, torch.tensor([0.0, 2.25, 3]))
    with pytest.raises(ValueError, match="x: got shape"):
        module(torch.zeros(1, 1, 4, 4))


# programs around the modules

CALLS = {
    "NBPFilter": (lambda: nn.NBPFilter(4, time_channels=2), lambda x: (x, x[:, :2, 0, 0])),
    "FFParser": (lambda: nn.FFParser(4, (8, 8)), lambda x: (x,)),
}


@pytest.mark.parametrize("name", CALLS)
def test_modules_compile_whole(name):
    make, arguments = CALLS[name]
    module, x = make(), torch.randn(2, 4, 8, 9, requires_grad=True)
    torch._dynamo.reset()
    traced = torch.compile(module, fullgraph=True, backend="aot_eager")(*arguments(x))
    eager = module(*arguments(x))
    leaves = [x, *module.parameters()]
    grads = [torch.autograd.grad(result.square().sum(), leaves) for result in (traced, eager)]
    assert_near(traced, eager.double(), FORWARD, name)
    for actual, want in zip(*grads, strict=True):
        assert_near(actual, want.double(), {torch.float32: 4e-6}, name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_modules_under_autocast_keep_the_dtype(name, dtype):
    make, arguments = CALLS[name]
    module = make()
    for x in (torch.randn(2, 4, 8, 9), torch.randn(2, 4, 8, 9).to(dtype)):
        with torch.autocast("cpu", dtype=dtype):
            y = module(*arguments(x.requires_grad_()))
        assert y.dtype == x.dtype
        assert y.isfinite().all()
        y.float().sum().backward()
        assert all(p.grad.dtype == torch.float32 for p in module.parameters())
        assert x.grad.dtype == x.dtype


# other layouts of the weight


def global_filter(weight, tokens, height, width):
    """GFNet's layer on tokens (B, height·width, C), its weight (height, width//2+1, C, 2)."""
    x = tokens.unflatten(1, (height, width))
    spectrum = torch.fft.rfft2(x, dim=(1, 2), norm="ortho") * torch.view_as_complex(weight)
    return torch.fft.irfft2(spectrum, s=(height, width), dim=(1, 2), norm="ortho").flatten(1, 2)


@pytest.mark.parametrize(("height", "width", "channels"), [(6, 8, 3), (7, 5, 4), (5, 8, 5)])
def test_ff_parser_loads_the_weights_of_gfnet(height, width, channels):
    weight = torch.randn(height, width // 2 + 1, channels, 2, dtype=torch.float64)
    module = torch.nn.Sequential(nn.FFParser(channels, (height, width))).double()
    module.load_state_dict({"0.complex_weight": weight})
    tokens = torch.randn(2, height * width, channels, dtype=torch.float64)
    x = tokens.transpose(1, 2).unflatten(2, (height, width))
    if height == channels == width // 2 + 1:  # nothing tells the layouts apart: it is our own
        assert torch.equal(module[0].complex_weight, weight)
    else:
        wanted = global_filter(weight, tokens, height, width).transpose(1, 2)
        assert_near(module(x).flatten(2), wanted, FORWARD, "tokens")
    again = nn.FFParser(channels, (height, width))
    again.load_state_dict(module[0].state_dict())
    assert torch.equal(again.complex_weight.double(), module[0].complex_weight.float().double())
    if channels != height:
        with pytest.raises(RuntimeError, match="size mismatch"):
            again.load_state_dict({"complex_weight": weight[..., :1, :]})
