"""Spectral layers and the FNO built from them."""

import warnings

import pytest
import torch
from operators import LIVE, device_of
from tolerances import BACKWARD, FORWARD, assert_near, wide
from torch.nn import functional as F

import fastseg
from fastseg import models, nn, ops, reference
from fastseg.errors import UsageError

pytestmark = pytest.mark.usefixtures("seeded", "poisoned_memory", "one_thread")

GRIDS = [((9,), (3,)), ((8, 11), (5, 4)), ((6, 7, 8), (4, 3, 4))]


def double_weight(layer):
    return torch.view_as_complex(layer.weight.detach().double())


@pytest.mark.parametrize(("sizes", "modes"), GRIDS, ids=str)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("two_sided", [True, False])
def test_spectral_conv_is_the_operator(sizes, modes, groups, two_sided):
    for norm, bias in (("ortho", True), ("backward", False), ("forward", True)):
        options = {"norm": norm, "groups": groups, "two_sided": two_sided}
        layer = nn.SpectralConv(4, 6, modes, bias=bias, **options)
        if bias:
            torch.nn.init.normal_(layer.bias)
        x = torch.randn(2, 4, *sizes)
        offset = layer.bias.detach().double() if bias else None
        exact = reference.spectral_conv(x.double(), double_weight(layer), offset, **options)
        assert_near(layer(x), exact, FORWARD, options)


def test_spectral_conv_defaults():
    layer = nn.SpectralConv(3, 5, (4, 3))
    assert (layer.norm, layer.groups, layer.two_sided) == ("ortho", 1, True)
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "weight": (3, 5, 4, 3, 2),
        "bias": (5,),
    }
    assert all(p.dtype == torch.float32 for p in layer.parameters())
    assert nn.SpectralConv(3, 5, 7).weight.shape == (3, 5, 7, 2)
    assert nn.SpectralConv(4, 6, (4, 3), groups=2, bias=False).weight.shape == (2, 6, 4, 3, 2)
    assert "modes=(4, 3)" in repr(layer)


def test_spectral_conv_changes_resolution():
    layer = nn.SpectralConv(2, 3, (4, 3), norm="forward")
    x = torch.randn(2, 2, 8, 9)
    exact = reference.spectral_conv(
        x.double(), double_weight(layer), layer.bias.detach().double(), (12, 5), norm="forward"
    )
    assert_near(layer(x, sizes=(12, 5)), exact, FORWARD, "resolution")


@pytest.mark.parametrize(("sizes", "modes"), GRIDS, ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_block_is_its_composition(sizes, modes, groups):
    block = nn.FNOBlock(4, 6, modes, groups=groups)
    x = torch.randn(2, 4, *sizes)
    parameters = dict(block.named_parameters())
    leaves = {name: p.detach().double().requires_grad_() for name, p in parameters.items()}
    weight = torch.view_as_complex(leaves["weight"])
    kernel = leaves["skip_weight"].view(6, 4 // groups, *[1] * len(sizes))
    convolution = (F.conv1d, F.conv2d, F.conv3d)[len(sizes) - 1]
    skip = convolution(x.double(), kernel, leaves["bias"], groups=groups)
    exact = F.gelu(reference.spectral_conv(x.double(), weight, norm="ortho", groups=groups) + skip)
    y, grad = block(x), torch.randn(exact.shape)
    assert_near(y, exact, FORWARD, "block")
    grads = torch.autograd.grad(y, list(parameters.values()), grad)
    exact_grads = torch.autograd.grad(exact, list(leaves.values()), grad.double())
    for name, actual, want in zip(parameters, grads, exact_grads, strict=True):
        assert_near(actual, want, BACKWARD, name)


@pytest.mark.parametrize("layer", [nn.SpectralConv, nn.FNOBlock])
def test_weights_start_with_zero_mean_and_the_documented_spread(layer):
    weight = layer(32, 32, (16, 9)).weight.detach()
    count = weight.numel() / 2
    variance = 2 / (32 + 32)
    assert torch.view_as_complex(weight).abs().square().mean() == pytest.approx(variance, rel=0.02)
    for part in weight.unbind(-1):
        assert abs(part.mean()) < 5 * (variance / 2 / count) ** 0.5


@pytest.mark.parametrize("layer", [nn.SpectralConv, nn.FNOBlock])
@pytest.mark.parametrize(
    ("modes", "sizes", "kept"),
    [
        ((8, 5), (6, 20), ([0, 1, 2, 5, 6, 7], range(5))),
        ((8, 5), (5, 20), ([0, 1, 2, 6, 7], range(5))),
        ((7, 5), (4, 20), ([0, 1, 5, 6], range(5))),
        ((8, 5), (8, 6), (range(8), range(4))),
        ((8, 5), (1, 1), ([0], [0])),
    ],
)
def test_modes_beyond_the_grid_are_clipped_with_one_warning(layer, modes, sizes, kept):
    layer = layer(2, 2, modes)
    x = torch.randn(1, 2, *sizes)
    rows, columns = map(list, kept)
    with pytest.warns(UserWarning, match="modes") as caught:
        y = layer(x)
    assert len(caught) == 1
    assert str(modes) in str(caught[0].message)
    assert str((len(rows), len(columns))) in str(caught[0].message)
    weight = torch.view_as_complex(layer.weight.detach())[:, :, rows][..., columns]
    if isinstance(layer, nn.FNOBlock):
        exact = ops.fno_block(x, weight, layer.skip_weight, layer.bias, norm="ortho")
    else:
        exact = ops.spectral_conv(x, weight, layer.bias, norm="ortho")
    assert torch.equal(y, exact)
    (grad,) = torch.autograd.grad(y.square().sum(), layer.weight)
    used = torch.zeros(modes, dtype=torch.bool)
    used[torch.tensor(rows)[:, None], torch.tensor(columns)] = True
    assert not grad[:, :, ~used].any()
    assert grad[:, :, used].any()


def test_clipping_one_sided_keeps_the_first_rows():
    layer = nn.SpectralConv(2, 2, (8, 5), two_sided=False, bias=False)
    x = torch.randn(1, 2, 6, 20)
    with pytest.warns(UserWarning, match="modes"):
        y = layer(x)
    weight = torch.view_as_complex(layer.weight.detach())[:, :, :6]
    assert torch.equal(y, ops.spectral_conv(x, weight, norm="ortho", two_sided=False))


def test_modes_that_fit_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nn.SpectralConv(2, 2, (8, 5))(torch.randn(1, 2, 8, 9))


def test_clipping_warns_once_in_training():
    layer = nn.SpectralConv(2, 2, (8, 5))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(5):
            layer(torch.randn(1, 2, 6, 6))
    assert len(caught) == 1


@pytest.mark.parametrize("make", [
    lambda: nn.SpectralConv(4, 4, (4, 3), groups=2),
    lambda: nn.FNOBlock(4, 4, (4, 3)),
    lambda: nn.NeuralopSpectralConv(4, 4, (4, 4)),
    lambda: models.build("fno", in_channels=4, classes=3, modes=(4, 3), width=4, blocks=1),
])  # fmt: skip
def test_state_round_trip(make, tmp_path):
    one, other = make(), make()
    x = torch.randn(2, 4, 8, 9)
    assert not torch.equal(one(x), other(x))
    torch.save(one.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(one(x), other(x))
    assert not any(p.is_complex() for p in one.parameters())


@pytest.mark.parametrize("layer", [nn.SpectralConv, nn.FNOBlock])
@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((4, 4, (1, 1, 1, 1)), {}, "modes: got"),
        ((4, 4, ()), {}, "modes: got"),
        ((4, 4, (4, 0)), {}, "modes: got"),
        ((4, 4, (4, 3)), {"groups": 3}, "groups: got 3"),
        ((4, 6, (4, 3)), {"groups": 4}, "groups: got 4"),
        ((4, 4, (4, 3)), {"groups": 0}, "groups: got 0"),
    ],
)
def test_wrong_constructor_arguments_are_named(layer, arguments, options, message):
    with pytest.raises(ValueError, match=message):
        layer(*arguments, **options)


@pytest.mark.parametrize("layer", [nn.SpectralConv, nn.FNOBlock])
def test_wrong_inputs_are_named(layer):
    layer = layer(4, 4, (4, 3))
    with pytest.raises(ValueError, match="x: got shape"):
        layer(torch.zeros(1, 4, 8))
    with pytest.raises(ValueError, match="got 4 input channels"):
        layer(torch.zeros(1, 3, 8, 9))
    with pytest.raises(TypeError, match="x: got dtype"):
        layer(torch.zeros(1, 4, 8, 9, dtype=torch.int16))


@pytest.mark.parametrize("backend", [*LIVE, "auto"])
@pytest.mark.parametrize("make", [nn.SpectralConv, nn.FNOBlock, nn.NeuralopSpectralConv])
def test_layers_compile_whole(make, backend):
    device = device_of(backend)
    layer, x = make(4, 4, (4, 4)).to(device), torch.randn(2, 4, 8, 9, device=device)
    x.requires_grad_()
    torch._dynamo.reset()
    with fastseg.use_backend(backend):
        traced = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
        grads = torch.autograd.grad(traced.square().sum(), [x, *layer.parameters()])
        eager = layer(x)
        exact = torch.autograd.grad(eager.square().sum(), [x, *layer.parameters()])
    assert_near(traced, eager, FORWARD, backend)
    for actual, want in zip(grads, exact, strict=True):
        assert_near(actual, want, {torch.float32: 2 * BACKWARD[torch.float32]}, backend)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_layers_under_autocast_keep_the_dtype(dtype):
    for layer in (nn.SpectralConv(4, 4, (4, 3)), nn.FNOBlock(4, 4, (4, 3))):
        for x in (torch.randn(2, 4, 8, 9), torch.randn(2, 4, 8, 9).to(dtype)):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y = layer(x)
            assert y.dtype == x.dtype
            y.sum().backward()
            assert all(p.grad.dtype == torch.float32 for p in layer.parameters())


# the model


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("in_channels", "options", "count"),
    [
        (1, {"modes": (10, 10), "two_sided": False}, 617_713),
        (4, {"modes": (10, 10), "two_sided": False}, 617_761),
        (4, {"modes": (20, 10)}, 1_232_161),
        (1, {"modes": (10, 10), "two_sided": False, "branches": "shared"}, 154_516),
    ],
)
def test_parameter_counts(in_channels, options, count):
    assert parameters(models.build("fno", in_channels=in_channels, classes=4, **options)) == count


def test_the_default_model_is_the_two_sided_one():
    model = models.build("fno", in_channels=4, classes=4)
    assert parameters(model) == 1_232_161
    assert all(block.two_sided for block in model.blocks)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("unet", {}, "system: is 'unet', wanted one of .*fno"),
        ("fno", {"depth": 3}, "depth"),
        ("fno", {"branches": "both"}, "model.branches: is 'both', wanted one of per_class, shared"),
        ("fno", {"modes": (2, 2, 2, 2)}, "modes"),
    ],
)
def test_build_names_what_it_does_not_know(name, options, message):
    kind = UsageError if name == "unet" or "depth" in options else ValueError
    with pytest.raises(kind, match=message):
        models.build(name, in_channels=4, classes=4, **options)


@pytest.mark.parametrize("branches", ["per_class", "shared"])
@pytest.mark.parametrize(
    ("modes", "grids"),
    [((6, 4), [(16, 16), (20, 33), (6, 6)]), ((4, 4, 3), [(8, 8, 8), (5, 9, 12), (4, 6, 5)])],
    ids=str,
)
def test_one_model_serves_every_size(branches, modes, grids):
    model = models.build("fno", in_channels=4, classes=3, modes=modes, width=4, branches=branches)
    for sizes in grids:
        image = torch.randn(2, 4, *sizes)
        assert model(image).shape == (2, 3, *sizes)
        probabilities = model.predict(image)
        assert_near(probabilities.sum(1), torch.ones(2, *sizes), FORWARD, sizes)
        label = torch.randint(3, (2, *sizes)).to(torch.uint8)
        loss, parts = model.training_loss({"image": image, "label": label}, torch.Generator())
        loss.backward()
        assert loss.dim() == 0
        assert set(parts) == {"dice", "ce"}
        assert all(p.grad.isfinite().all() for p in model.parameters())


def test_branches_do_not_mix():
    model = models.build("fno", in_channels=2, classes=3, modes=(4, 3), width=4, blocks=2)
    x = torch.randn(1, 2, 8, 9)
    before = model(x).detach()
    with torch.no_grad():
        for block in model.blocks:
            block.weight[:, 4:8] = 0
    changed = (model(x) != before).flatten(2).any(2)[0]
    assert changed.tolist() == [False, True, False]


@pytest.mark.parametrize("branches", ["per_class", "shared"])
def test_the_model_is_its_formula(branches):
    model = models.build("fno", in_channels=2, classes=3, modes=(4, 3), width=4, blocks=2,
                         branches=branches).double()  # fmt: skip
    x = torch.randn(2, 2, 8, 9, dtype=torch.float64)
    count = 3 if branches == "per_class" else 1
    logits = []
    for branch in range(count):
        own = slice(4 * branch, 4 * branch + 4)
        z = model.lift(x)
        for block in model.blocks:
            weight = torch.view_as_complex(block.weight.detach())[:, own]
            skip = torch.einsum("oi,bi...->bo...", block.skip_weight[own], z)
            skip = skip + block.bias[own].view(-1, 1, 1)
            z = F.gelu(reference.spectral_conv(z, weight, norm="ortho") + skip)
        logits.append(model.project(z))
    assert_near(model(x), wide(torch.cat(logits, 1)), FORWARD, branches)
