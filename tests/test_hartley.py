"""The Hartley spectrum, layers in it and HNOSeg-XS: against their definitions in plain torch."""

import math

import pytest
import torch
from tolerances import ADJOINT, BF16, F32, F64, FORWARD, assert_near
from torch.nn import functional as F

from fastseg import models, nn, ops, reference
from fastseg.errors import FastsegWarning
from fastseg.losses import pearson

pytestmark = pytest.mark.usefixtures("seeded", "poisoned_memory", "one_thread")
GRIDS = [((7,), (4,)), ((8,), (8,)), ((6, 5), (4, 3)), ((5, 6), (2, 6)), ((5, 4, 6), (4, 3, 2))]
EVERY_GRID = pytest.mark.parametrize(("sizes", "modes"), GRIDS)


def cas(modes, sizes):
    """cos θ + sin θ of every kept frequency and sample, (Π modes, Π sizes)."""
    rows = [reference.kept_rows(m, n, True) for m, n in zip(modes, sizes, strict=True)]
    k = torch.cartesian_prod(*(torch.tensor(r, dtype=F64) for r in rows)).view(-1, len(sizes))
    n = torch.cartesian_prod(*(torch.arange(s, dtype=F64) for s in sizes)).view(-1, len(sizes))
    turns = 2 * math.pi * (k / torch.tensor(sizes, dtype=F64)) @ n.T
    return turns.cos() + turns.sin()


@EVERY_GRID
def test_transforms_are_sums_of_cas(sizes, modes):
    matrix, x = cas(modes, sizes), torch.randn(2, 3, *sizes, dtype=F64)
    found = ops.truncated_dhtn(x, modes)
    assert_near(found.flatten(2), x.flatten(2) @ matrix.T, FORWARD, "transform")
    back = ops.truncated_idhtn(found, sizes)
    wanted = found.flatten(2) @ matrix / math.prod(sizes)
    assert_near(back.flatten(2), wanted, FORWARD, "inverse")


@EVERY_GRID
def test_each_is_the_others_adjoint(sizes, modes):
    x, h = torch.randn(2, 3, *sizes), torch.randn(2, 3, *modes)
    found, adjoint = ops.truncated_dhtn(x, modes), ops.truncated_idhtn(h, sizes, norm="forward")
    error = (found.double() * h).sum() - (x.double() * adjoint).sum()
    assert abs(error) <= ADJOINT[F32] * found.norm() * h.norm()
    leaf = x.requires_grad_()
    (grad,) = torch.autograd.grad(ops.truncated_dhtn(leaf, modes), leaf, h)
    assert_near(grad, adjoint, FORWARD, "gradient")


@pytest.mark.parametrize("shared", [True, False])
@EVERY_GRID
def test_a_layer_is_its_definition(sizes, modes, shared):
    layer = nn.HartleyConv(3, 2, modes, shared=shared, bias=True, activation="selu").double()
    x = torch.randn(2, 3, *sizes, dtype=F64, requires_grad=True)
    dims = tuple(range(2, x.dim()))
    h, weight = reference.truncated_dhtn(x, modes, "forward"), layer.weight
    if shared:
        mixed = torch.einsum("oi,bi...->bo...", weight, h)
    else:
        h_back, back = (t.flip(dims).roll([1] * len(dims), dims) for t in (h, weight))
        terms = (weight, h + h_back), (back, h - h_back)
        mixed = sum(torch.einsum("oi...,bi...->bo...", w, t) for w, t in terms) / 2
    wanted = reference.truncated_idhtn(F.selu(mixed), sizes, "forward")
    assert_near(layer(x), wanted, FORWARD, "layer")
    assert torch.autograd.gradcheck(layer, x, fast_mode=True)
    weights = tuple(layer.parameters())
    assert torch.autograd.gradcheck(lambda *_: layer(x.detach()), weights, fast_mode=True)


def test_weights_of_all_modes_are_a_circular_convolution():
    kernel, x = torch.randn(2, 3, 5, 7, dtype=F64), torch.randn(1, 3, 5, 7, dtype=F64)
    layer = nn.HartleyConv(3, 2, (5, 7), shared=False).double()
    with torch.no_grad():
        layer.weight.copy_(reference.truncated_dhtn(kernel, (5, 7)))
    spectra = torch.fft.rfftn(kernel, dim=(2, 3)), torch.fft.rfftn(x, dim=(2, 3))
    wanted = torch.fft.irfftn(torch.einsum("oihw,bihw->bohw", *spectra), s=(5, 7))
    assert_near(layer(x), wanted, FORWARD, "convolution")


@pytest.mark.parametrize("size", [5, 6, 9])
def test_modes_beyond_the_grid_are_left_out_as_published(size):
    """Modes k of each sign become size // 2 of each: the count stays even, or odd."""
    layer, x = nn.HartleyConv(3, 3, (8, 8)), torch.randn(1, 3, size, 9)
    with torch.no_grad():
        if size < 8:
            with pytest.warns(FastsegWarning, match="modes .* exceed the bins"):
                found = layer(x)
        else:
            found = layer(x)
    kept = min(8, size // 2 * 2)
    spectrum = layer.weight @ reference.truncated_dhtn(x, (kept, 8), "forward").flatten(2)
    wanted = reference.truncated_idhtn(spectrum.view(1, 3, kept, 8), x.shape[2:], "forward")
    assert_near(found, wanted.double(), FORWARD, "clipped")


def test_weights_by_mode_are_clipped_to_the_lowest():
    layer, x = nn.HartleyConv(2, 2, (7, 5), shared=False), torch.randn(1, 2, 5, 3)
    small = nn.HartleyConv(2, 2, (5, 3), shared=False)
    with torch.no_grad():
        small.weight.copy_(layer.weight[:, :, [0, 1, 2, 5, 6]][..., [0, 1, 4]])
        with pytest.warns(FastsegWarning, match="exceed"):
            assert torch.equal(layer(x), small(x))


def test_another_grid_keeps_amplitudes():
    layer, x = nn.HartleyConv(2, 2, (3, 3)), torch.randn(1, 2, 8, 8)
    fine = layer(x, sizes=(16, 24))
    torch.testing.assert_close(fine[..., ::2, ::3], layer(x))


def test_without_gradients_a_block_is_the_same(monkeypatch):
    monkeypatch.setattr("fastseg.nn.hartley._SLAB", 50)
    block, x = nn.HNOBlock(3, 4, (4, 4, 4)), torch.randn(2, 3, 6, 7, 8)
    with torch.no_grad():
        found = block(x)
    torch.testing.assert_close(found, block(x).detach())


@pytest.mark.parametrize(
    "make",
    [lambda: nn.HNOBlock(3, 4, (4, 4, 4)), lambda: nn.HartleyConv(3, 2, (4, 3, 6), shared=False)],
)
def test_layers_compile_whole(make):
    layer, x = make(), torch.randn(1, 3, 6, 7, 8, requires_grad=True)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    found, wanted = compiled(x), layer(x)
    torch.testing.assert_close(found, wanted)
    grads = (torch.autograd.grad(y.square().sum(), x)[0] for y in (found, wanted))
    torch.testing.assert_close(next(grads), next(grads))


def test_16_bits_are_computed_in_32():
    block, x = nn.HNOBlock(3, 4, (4, 4, 4)), torch.randn(1, 3, 6, 7, 8)
    found = block(x.to(BF16))
    assert found.dtype == BF16
    torch.testing.assert_close(found.float(), block(x.to(BF16).float()), rtol=0.05, atol=0.05)
    with torch.autocast("cpu", dtype=BF16):
        torch.testing.assert_close(block(x), block(x))
        assert block(x).dtype == F32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ops.truncated_dhtn(torch.zeros(1, 1, 4), (5,)),
            "modes: got 5 on axis 0, want 1 to",
        ),
        (lambda: ops.truncated_dhtn(torch.zeros(1, 4), (2,)), "x: got shape"),
        (lambda: ops.truncated_dhtn(torch.zeros(1, 1, 4), (2,), norm="no"), "norm: got 'no'"),
        (lambda: ops.truncated_idhtn(torch.zeros(1, 1, 4), (3,)), "modes: got 4 on axis 0"),
        (lambda: ops.truncated_idhtn(torch.zeros(1, 1, 4), (4, 4)), "sizes: got"),
        (lambda: nn.HartleyConv(1, 1, (2, 2, 2, 2)), "modes: got"),
        (lambda: nn.HartleyConv(1, 1, 2, activation="gelu"), "activation: got 'gelu'"),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# the published network, for 3-D


def published(state, x, modes, count):
    def conv(name, x, **how):
        return F.selu(F.conv3d(x, state[f"{name}.op.weight"], state[f"{name}.op.bias"], **how))

    def kept(x):
        for dim, m in zip((-3, -2, -1), modes, strict=True):
            x = torch.cat([x.narrow(dim, 0, m), x.narrow(dim, x.shape[dim] - m, m)], dim)
        return x

    def filled(x, sizes):
        for dim, (m, n) in enumerate(zip(modes, sizes, strict=True), start=-3):
            shape = list(x.shape)
            shape[dim] = n - 2 * m
            first, last = x.split(m, dim)
            x = torch.cat([first, x.new_zeros(shape), last], dim)
        return x

    def hartley(x, norm):
        spectrum = torch.fft.fftn(x, dim=(-3, -2, -1), norm=norm)
        return spectrum.real - spectrum.imag

    sizes, earlier = x.shape[2:], {}
    x = conv("conv1", conv("conv_in", x, stride=2, padding=1))
    for i in range(count):
        if i > count // 2:
            x = torch.cat([x, earlier[count - 1 - i]], 1)
        if f"layers.{i}.mapping_conv.op.weight" in state:
            x = conv(f"layers.{i}.mapping_conv", x)
        h = kept(hartley(x, "forward"))
        for j in range(2):
            weight = state[f"layers.{i}.conv_blocks.{j}.op.weight"]
            h = F.selu(torch.einsum("oi,bidhw->bodhw", weight, h) + h)
        y = F.selu(hartley(filled(h, x.shape[2:]), "backward"))
        x = earlier[i] = conv(f"layers.{i}.conv_concat", torch.cat([y, x], 1))
    x = F.interpolate(x, size=sizes, mode="trilinear")
    return F.conv3d(x, state["conv_out.weight"]).softmax(1)


@pytest.mark.parametrize("count", [4, 5])
def test_hnoseg_is_the_published_network(count):
    net = models.build(
        "hnoseg", in_channels=2, classes=3, modes=(4, 6, 4), width=5, blocks=count, mixes=2
    ).double()
    x = torch.randn(2, 2, 13, 14, 12, dtype=F64)
    wanted = published(net.state_dict(), x, (2, 3, 2), count)
    logits = net(x)
    assert_near(logits.softmax(1), wanted, FORWARD, "network")
    assert_near(net.float().predict(x.float()), wanted, {F32: 1e-5}, "network in float32")


def test_hnoseg_has_the_published_number_of_weights():
    with torch.device("meta"):
        net = models.build("hnoseg", in_channels=4, classes=4)
    assert sum(p.numel() for p in net.parameters()) == 28_248


def test_deep_supervision_reads_every_block():
    net = models.build("hnoseg", in_channels=1, classes=2, modes=(3, 3), width=4, blocks=3,
                       deep_supervision=True)  # fmt: skip
    label = torch.randint(2, (2, 9, 10))
    loss, parts = net.training_loss({"image": torch.randn(2, 1, 9, 10), "label": label}, None)
    loss.backward()
    assert net.conv_out.weight.grad.split(4, 1)[1].any()
    assert set(parts) == {"correlation"}


def test_pearson_is_the_correlation_of_numpy():
    logits, target = torch.randn(2, 3, 4, 5), torch.randint(3, (2, 4, 5))
    _, parts = pearson(logits, target)
    p, truth = logits.softmax(1), F.one_hot(target, 3).movedim(-1, 1).float()
    pairs = zip(p.flatten(2).flatten(0, 1), truth.flatten(2).flatten(0, 1), strict=True)
    wanted = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs]).mean()
    torch.testing.assert_close(parts["correlation"], wanted)
